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


def make_bpe(documents: list[str]) -> "transformers.PreTrainedTokenizerFast":
    """A tokenizer that joins pairs of bytes, as GPT-2's, of 300 words at most."""
    plain = tokenizers.Tokenizer(tokenizers.models.BPE())
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<end>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    plain.train_from_iterator(documents, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>")


def make_model(
    vocab_size: int, *, layers: int = 4, width: int = 32, tied: bool = True, seed: int = 0
):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
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


def learn(model, tokenizer, documents: list[str], *, steps: int) -> None:
    """Train a model a little on documents."""
    stream = [t for d in documents for t in [*tokenizer(d)["input_ids"], 0]]
    blocks = torch.tensor(stream[: len(stream) // 32 * 32]).view(-1, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        rows = blocks[torch.randperm(len(blocks), generator=generator)[:16]]
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
