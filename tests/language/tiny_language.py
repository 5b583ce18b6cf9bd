"""A tiny language model with its own tokenizer, and text for it."""

import random
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

GRAMMAR = "the a small large red blue cat dog bird sees likes finds fish tree house and then ."
WORDS = GRAMMAR.split()


def sentences(count: int, seed: int) -> list[str]:
    """Documents of a few sentences with a simple grammar."""
    draw = random.Random(seed)
    documents = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(2, 4)):
            noun = draw.choice(["cat", "dog", "bird"])
            verb = {"cat": "sees", "dog": "likes", "bird": "finds"}[noun]
            thing = draw.choice(["fish", "tree", "house"])
            parts.append(f"the {draw.choice(['small', 'large'])} {noun} {verb} a red {thing} .")
        documents.append(" and then ".join(parts))
    return documents


def make_tokenizer(
    words: list[str], *, pad: str | None = None
) -> "transformers.PreTrainedTokenizerFast":
    names = ["<end>", "<unknown>", *([pad] if pad else []), *words]
    vocabulary = {word: number for number, word in enumerate(names)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>")
    plain = tokenizers.Tokenizer(model)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, eos_token="<end>", unk_token="<unknown>", pad_token=pad
    )


def make_model(
    num_words: int, *, layers: int = 4, width: int = 32, tied: bool = True, seed: int = 0
):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=num_words,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
