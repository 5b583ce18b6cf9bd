"""A trained tiny language model, text, and recipes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_language import WORDS, make_model, make_tokenizer, save, sentences


@pytest.fixture(scope="session")
def corpus_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(sentences(300, seed=0)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def teacher_path(tmp_path_factory, corpus_path) -> Path:
    """A model that has learned the text, with a vocabulary filled up to 24."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = make_tokenizer(WORDS)
    model = make_model(24)
    documents = sentences(200, seed=1)
    stream = [t for d in documents for t in [*tokenizer(d)["input_ids"], 0]]
    blocks = torch.tensor(stream[: len(stream) // 32 * 32]).view(-1, 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        rows = blocks[
            torch.randperm(len(blocks), generator=torch.Generator().manual_seed(step))[:16]
        ]
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return save(folder, model.eval(), tokenizer)


@pytest.fixture
def write_recipe(tmp_path, corpus_path, teacher_path) -> Callable[..., Path]:
    """Writes a small recipe with any part replaced."""
    import yaml

    def write(**changes: object) -> Path:
        recipe = {
            "task": "language_modeling",
            "data": {
                "kind": "corpus",
                "path": str(corpus_path),
                "block": 16,
                "train_tokens": 1600,
                "valid_tokens": 320,
                "test_tokens": 640,
            },
            "teacher": {"model": f"causal:{teacher_path}"},
            "student": {"model": f"causal:{teacher_path}", "settings": {"keep_layers": [0, 3]}},
            "objective": {
                "task_weight": 0.5,
                "terms": [{"loss": "kd", "weight": 0.5, "temperature": 1}],
            },
            "cache": {"codec": "topk:4"},
            "train": {"epochs": 1, "batch_size": 10},
            "seeds": [0],
            "measure": None,
            "output": str(tmp_path / "run"),
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe | changes))
        return path

    return write
