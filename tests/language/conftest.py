"""A trained tiny language model, text, and recipes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny_language import WORDS, learn, make_model, make_tokenizer, save, sentences

from tutelage.config import build_job, read_recipe
from tutelage.pipeline import run_job
from tutelage.records import RunRecord


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
    learn(model, tokenizer, sentences(200, seed=1), steps=60)
    return save(folder, model, tokenizer)


class Shipped(NamedTuple):
    """A run of the shipped recipe on the tiny model."""

    out: Path
    record: RunRecord
    student: torch.nn.Module


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, corpus_path, teacher_path) -> Shipped:
    short = [
        f"data.path={corpus_path}",
        "data.block_size=40",
        "data.train_tokens=1600",
        "data.valid_tokens=320",
        "data.test_tokens=640",
        f"teacher.model=causal:{teacher_path}",
        f"student.model=causal:{teacher_path}",
        "student.settings.keep_layers=[0, 3]",
        "train.epochs=1",
        "train.batch_size=10",
        "seeds=[0, 1]",
        "export.targets=[onnx]",  # its tokenizer has no GGUF
        f"output={tmp_path_factory.mktemp('shipped')}/run",
    ]
    job = build_job(read_recipe("smollm2", short))
    done = run_job(job)
    return Shipped(job.out, done.record, done.student.selected)


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
                "block_size": 16,
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
