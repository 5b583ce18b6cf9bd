"""Texts that the networks of a run generate from the same beginnings, side by side."""

from collections.abc import Mapping

import torch
from torch import nn

from tutelage.engine.generation import generate, greedy
from tutelage.files import write_text
from tutelage.job import Job
from tutelage.models.readout import is_language_model
from tutelage.records import GenerationSample
from tutelage.types import by_name

NUM_TEXTS, READ, WRITTEN = 4, 32, 32


def write_texts(job: Job, networks: Mapping[str, nn.Module]) -> list[GenerationSample]:
    """Let each network continue truncated test texts greedily, and write `texts.md`.

    Args:
        job: The run.
        networks: By name, in the order of the table.

    Returns:
        The texts; none where the job is not about text in blocks, or blocks are too short.
    """
    block = job.task.items_per_sample
    if job.problem.tokenizer is None or block is None or block <= READ:
        return []
    reader = job.test_reader
    ids = torch.linspace(0, len(reader) - 1, min(NUM_TEXTS, len(reader))).long().unique()
    tokens = by_name(reader[ids, torch.zeros_like(ids)].inputs)["input_ids"]
    schemes = {"the text itself": tokens[:, : READ + WRITTEN]} | {
        name: generate(network, tokens[:, :READ], WRITTEN, greedy)
        for name, network in networks.items()
        if is_language_model(network)
    }
    texts = [
        GenerationSample(
            _said(job, whole[:READ]),
            {name: _said(job, scheme[row, READ:]) for name, scheme in schemes.items()},
        )
        for row, whole in enumerate(tokens)
    ]
    write_text(job.out / "texts.md", "\n".join([f"# {job.name}: how they go on", *map(_md, texts)]))
    return texts


def _said(job: Job, tokens: torch.Tensor) -> str:
    return " ".join(job.problem.tokenizer.decode(tokens).split())


def _md(text: GenerationSample) -> str:
    rows = [f"| {name} | {_cell(end)} |" for name, end in text.endings.items()]
    head = ["", f"> {_cell(text.beginning)}", "", "| goes on | text |", "|---|---|"]
    return "\n".join([*head, *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
