"""Causal language models of Hugging Face, and students made from them."""

import copy
import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError, require
from tutelage.models.readout import looks_ahead
from tutelage.models.shrink import keep_some_layers, layers_of, narrow_mlps
from tutelage.paths import NO_CODE, path_or_hub_name

PREFIX = "causal:"


def filled_cache(model: Any, past: Sequence[Tensor]) -> dict[str, Any]:
    """The argument that holds keys and values of the previous tokens.

    Args:
        model: A language model or its body.
        past: Keys and values of each layer, in turn; none at a text's beginning.
    """
    transformers = require("transformers", "text", "Writing text")
    cache = transformers.DynamicCache()
    for layer, (keys, values) in enumerate(zip(past[::2], past[1::2], strict=True)):
        cache.update(keys, values, layer)
    names = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def make_causal(
    path: str,
    *,
    keep_layers: Sequence[int] | None = None,
    mlp_width: int | None = None,
    lora_rank: int | None = None,
    is_fresh: bool = False,
    changes: dict[str, Any] | None = None,
) -> nn.Module:
    """Load a causal language model from a Hugging Face folder or hub name.

    Args:
        path: The folder or name.
        keep_layers: Numbers of the layers that are kept, from 0, in order; all if not given.
        mlp_width: Units kept in each MLP, those whose weights are largest; all if not given.
        lora_rank: Train adapters of this rank alone (LoRA); none if not given.
        is_fresh: Draw new weights for the same configuration, with `changes`.
        changes: Changes of the configuration, for a fresh model: {hidden_size: 256}.

    Raises:
        ModelError: There is no such model, or it cannot be loaded.
        ConfigError: A setting does not fit it.
    """
    if changes and not is_fresh:
        raise ConfigError(
            f"model {path!r}: changes ({', '.join(changes)}) need is_fresh: true. To make a "
            "trained model smaller use keep_layers or mlp_width."
        )
    model = _fresh(path, changes or {}) if is_fresh else _load(path)
    _check_causal(model, path)
    if keep_layers is not None:
        cut_layers(model, keep_layers)
    if mlp_width is not None:
        narrow_mlps(model, mlp_width)
    return model if lora_rank is None else _with_lora(model, lora_rank)


def load_gguf(path: Path) -> nn.Module:
    """Load a causal language model from a GGUF file, with float32 weights.

    Raises:
        ModelError: It cannot be read.
    """
    transformers = require("transformers", "text", "Reading GGUF")
    transformers.logging.disable_progress_bar()
    try:
        model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, **NO_CODE
        )
    except Exception as error:  # of a file, anything
        raise ModelError(_not_loaded(str(path), error)) from error
    return model.eval()


def _load(path: str) -> nn.Module:
    transformers = require("transformers", "text", f"Model '{PREFIX}{path}'")
    transformers.logging.disable_progress_bar()
    config = _config(path)
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, **NO_CODE
        )
    except Exception as error:  # what lies in the folder is the user's own
        raise ModelError(_not_loaded(path, error)) from error
    drawn = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if drawn:
        raise ModelError(
            f"model {PREFIX}{path}: {len(drawn)} weights of a causal language model are not in it "
            f"({', '.join(drawn[:3])}{', ...' if len(drawn) > 3 else ''}), so they would be drawn "
            "at random: it is another kind of network, or a part of one. Give a folder that holds "
            "a whole language model."
        )
    made: nn.Module = model
    return made


def _config(path: str) -> Any:
    """The configuration of a model, refused if it has an encoder."""
    transformers = require("transformers", "text", f"Model '{PREFIX}{path}'")
    try:
        config = transformers.AutoConfig.from_pretrained(path, **NO_CODE)
    except Exception as error:  # as above
        raise ModelError(_not_loaded(path, error)) from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model {PREFIX}{path}: {config.model_type} is an encoder with a decoder; its decoder "
            "says nothing without what the encoder reads. Give a model that has a decoder alone."
        )
    return config


def num_positions(path: str) -> int | None:
    """Longest text in tokens that a model supports; None if its architecture has no limit.

    Raises:
        ModelError: There is no such model.
    """
    config = _config(path_or_hub_name(path))
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found


def _check_causal(model: nn.Module, path: str) -> None:
    try:
        is_encoder = looks_ahead(model)
    except Exception:  # told where it is called on the data
        return
    if is_encoder:
        raise ModelError(
            f"model {PREFIX}{path}: {type(model).__name__} sees the tokens after the one that it "
            "predicts, as encoders do, so it is no causal language model. Give one that is (BERT "
            "and its kin: is_decoder in their configuration)."
        )


def _fresh(path: str, changes: dict[str, Any]) -> nn.Module:
    transformers = require("transformers", "text", f"Model '{PREFIX}{path}'")
    config = _config(path)
    for name, value in changes.items():
        if not hasattr(config, name) or name in NO_CODE:
            known = ", ".join(sorted(k for k, v in config.to_dict().items() if isinstance(v, int)))
            raise ConfigError(
                f"model {path!r}: changes: its configuration has no {name!r}. Known: {known}."
            )
        setattr(config, name, value)
    _trim_layer_types(config)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, **NO_CODE
    )
    return model


def _not_loaded(path: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"model {PREFIX}{path}: cannot be loaded as a causal language model ({reason}). Give a "
        "folder that transformers' save_pretrained wrote, or a name on the hub."
    )


def cut_layers(model: nn.Module, keep: Sequence[int]) -> None:
    """Keep only these layers of a model, in place.

    Raises:
        ConfigError: The numbers are not increasing, or there are no such layers.
    """
    count = len(layers_of(model)[1])
    numbers = list(keep)
    increase = bool(numbers) and numbers == sorted(set(numbers))
    if not increase or not 0 <= numbers[0] <= numbers[-1] < count:
        raise ConfigError(
            f"keep_layers must be increasing numbers from 0 to {count - 1}, got {numbers}."
        )
    keep_some_layers(model, numbers)


def _trim_layer_types(config: Any) -> None:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        config.layer_types = list(kinds)[: config.num_hidden_layers]


def _with_lora(model: nn.Module, rank: int) -> nn.Module:
    peft = require("peft", "text", "lora_rank")
    if rank < 1:
        raise ConfigError(f"lora_rank must be 1 or more, got {rank}.")
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():  # peft asks transformers by an old name
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = peft.get_peft_model(model, config)
    return adapted


def merged(model: nn.Module) -> nn.Module:
    """A copy of the model with its adapters, if any, merged into its weights."""
    twin = copy.deepcopy(model)
    fold: Any = getattr(twin, "merge_and_unload", None)
    if fold is None:
        return twin
    plain: nn.Module = fold()
    return plain


def save_causal(model: nn.Module, folder: Path, tokenizer: Any | None) -> None:
    """Save a model as a Hugging Face folder that `from_pretrained` loads.

    Args:
        model: With or without adapters.
        folder: Where it goes.
        tokenizer: Written beside it.
    """
    plain: Any = merged(model).cpu().eval()
    folder.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
