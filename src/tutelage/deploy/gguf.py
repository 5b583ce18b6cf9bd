"""A causal language model with its tokenizer as one GGUF file, for llama.cpp."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tutelage.errors import ExportError, find, require
from tutelage.files import write_whole
from tutelage.models.causal import merged

PURPOSE = "Writing GGUF"
OTHERWISE = (
    "llama.cpp's own converter takes the student's folder; leave gguf out of export.targets."
)
# Model types of transformers whose weights llama.cpp knows under a name of its own; True where it
# wants the rows of queries and keys in another order (its rotary positions turn neighbours).
ARCHITECTURES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
}
FILE_TYPES = {"float16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}
QWEN3_HEAD = 128
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA = _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def _split_by(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**split, "invert": False}, {**_BYTES, "use_regex": False}]


# How text is parted before pairs of bytes are joined, and what llama.cpp calls it.
PARTINGS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [_DIGITS, _BYTES],
    "qwen2": _split_by(_QWEN),
    "llama-bpe": _split_by(_LLAMA),
}


@dataclass(frozen=True, slots=True)
class _Words:
    """A tokenizer as GGUF stores it."""

    parting: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]


def check_gguf(model: Any, tokenizer: Any) -> None:
    """Refuse a model or tokenizer that cannot be written, before anything is trained.

    Args:
        model: A Hugging Face causal language model, with or without adapters.
        tokenizer: A tokenizer of `transformers`.

    Raises:
        ExportError: There is no such architecture here, or the tokenizer is of another kind.
        MissingExtraError: The package gguf is not installed.
    """
    require("gguf", "text", PURPOSE)
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in ARCHITECTURES:
        raise ExportError(
            f"GGUF: models of type {kind!r} are not written here. Known: "
            f"{', '.join(ARCHITECTURES)}. {OTHERWISE}"
        )
    _check_positions(config)
    _check_shape(config)
    width = _head_width(config)
    if kind == "qwen3" and width != QWEN3_HEAD:
        raise ExportError(
            f"GGUF: transformers reads Qwen3's heads back as {QWEN3_HEAD} wide, these are {width}, "
            f"so that the file could not be checked. Set head_dim: {QWEN3_HEAD}. {OTHERWISE}"
        )
    _parting(_tokenizer_facts(tokenizer))


def write_gguf(model: nn.Module, tokenizer: Any, path: Path, weights: str) -> None:
    """Write a model and its tokenizer as one file.

    Args:
        model: A Hugging Face causal language model; adapters are folded into its weights.
        tokenizer: A tokenizer of `transformers`; a vocabulary filled up to a round number is
            written as it is.
        path: Where the file shall lie; written whole or not at all.
        weights: "float16", or "q8_0" (int8, a scale for each 32 numbers). Vectors, and
            matrices whose rows are no multiple of 32, stay wider.

    Raises:
        ExportError: The model or the tokenizer cannot be expressed.
        UnknownNameError: There are no such weights.
    """
    find("weights", weights, FILE_TYPES)
    plain: Any = merged(model).cpu().float().eval()
    check_gguf(plain, tokenizer)
    words = _words(tokenizer, plain.get_input_embeddings().num_embeddings)
    tensors = list(_tensors(plain))
    write_whole(path, lambda place: _write(place, plain.config, tokenizer, words, tensors, weights))


def _head_width(config: Any) -> int:
    own: int | None = getattr(config, "head_dim", None)
    return own or int(config.hidden_size // config.num_attention_heads)


def _check_shape(config: Any) -> None:
    """Check what llama.cpp assumes of these architectures."""
    rotary = getattr(config, "rope_parameters", None) or {}
    window = getattr(config, "sliding_window", None)
    others = {
        "hidden_act": config.hidden_act != "silu",
        "sliding_window": window is not None and window < config.max_position_embeddings,
        "partial_rotary_factor": rotary.get("partial_rotary_factor", 1.0) != 1.0,
    }
    wrong = [name for name, is_other in others.items() if is_other]
    if wrong:
        raise ExportError(
            f"GGUF: llama.cpp would run the model otherwise than it was trained ({wrong[0]} of its "
            f"configuration is nothing that the file can say). {OTHERWISE}"
        )


def _check_positions(config: Any) -> None:
    positions = getattr(config, "rope_parameters", None) or {}
    kind = positions.get("rope_type", "default")
    if kind != "default":
        raise ExportError(
            f"GGUF: positions of the kind {kind!r} are not written here, only 'default'. "
            f"{OTHERWISE}"
        )


def _write(
    place: Path,
    config: Any,
    tokenizer: Any,
    words: _Words,
    tensors: list[tuple[str, NDArray[np.float32]]],
    weights: str,
) -> None:
    gguf = require("gguf", "text", PURPOSE)
    writer = gguf.GGUFWriter(place, ARCHITECTURES[config.model_type][0])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[weights]])
    _add_shape(writer, config)
    _add_words(writer, tokenizer, words)
    for name, values in tensors:
        numbers = _numbers(gguf, values, weights)
        writer.add_tensor(name, gguf.quantize(values, numbers), raw_dtype=numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _numbers(gguf: Any, values: NDArray[np.float32], weights: str) -> Any:
    """Data type in which a tensor is stored."""
    kinds = gguf.GGMLQuantizationType
    if values.ndim == 1:
        return kinds.F32
    return kinds.Q8_0 if weights == "q8_0" and values.shape[1] % 32 == 0 else kinds.F16


def _add_shape(writer: Any, config: Any) -> None:
    width = _head_width(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_words(writer: Any, tokenizer: Any, words: _Words) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.parting)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    begin, end, fill = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    for add, number in (
        (writer.add_bos_token_id, begin),
        (writer.add_eos_token_id, end),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, fill),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(begin is not None and tokenizer("a")["input_ids"][0] == begin)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tensors(model: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Weights under llama.cpp's names, each once."""
    gguf = require("gguf", "text", PURPOSE)
    config = model.config
    name, turns = ARCHITECTURES[config.model_type]
    (arch,) = (key for key, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for own, parameter in model.named_parameters():  # tied weights come once
        known = names.get_name(own, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ExportError(f"GGUF: llama.cpp has no name for the weight {own!r} of {name}.")
        values = parameter.detach().numpy()
        if turns and ("q_proj" in own or "k_proj" in own):
            heads = config.num_attention_heads if "q_proj" in own else config.num_key_value_heads
            values = _turned(values, heads)
        yield known, np.ascontiguousarray(values)


def _turned(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head reordered for llama.cpp's rotary embedding."""
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    turned: NDArray[np.float32] = halves.swapaxes(1, 2).reshape(values.shape)
    return turned


def _tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    facts: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    is_plain = facts.get("normalizer") in (None, {"type": "NFC"})  # llama.cpp takes text as it is
    if facts.get("model", {}).get("type") != "BPE" or not is_plain:
        raise ExportError(
            "GGUF: only tokenizers that join pairs of bytes (BPE, as of GPT-2, SmolLM, Qwen and "
            f"Llama 3) are written here. {OTHERWISE}"
        )
    return facts


def _parting(facts: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer.

    Raises:
        ExportError: It is another way: llama.cpp would read text as other tokens.
    """
    found = facts["pre_tokenizer"] or {}
    parts = found.get("pretokenizers", [found])
    plain = [{k: v for k, v in part.items() if k != "trim_offsets"} for part in parts]
    for name, known in PARTINGS.items():
        if plain == known:
            return name
    raise ExportError(
        f"GGUF: the tokenizer parts text in a way that is not known here ({json.dumps(plain)[:200]}"
        f"). Known: {', '.join(PARTINGS)}. {OTHERWISE}"
    )


def _words(tokenizer: Any, width: int) -> _Words:
    facts = _tokenizer_facts(tokenizer)
    kinds = require("gguf", "text", PURPOSE).TokenType
    tokens = [f"[PAD{number}]" for number in range(width)]
    roles = [int(kinds.UNUSED)] * width
    for text, number in facts["model"]["vocab"].items():
        tokens[number], roles[number] = text, int(kinds.NORMAL)
    for added in facts["added_tokens"]:
        place = added["id"]
        role = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        tokens[place], roles[place] = added["content"], int(role)
    merges = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in facts["model"]["merges"]
    ]
    return _Words(_parting(facts), tokens, roles, merges)
