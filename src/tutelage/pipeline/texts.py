"""What the networks of a run write after the same beginnings, side by side."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tutelage.engine.writing import continued, likeliest
from tutelage.files import write_text
from tutelage.job import Job
from tutelage.models.causal import parts_of

NUM_TEXTS, READ, WRITTEN = 4, 32, 32


def write_texts(job: Job, networks: Mapping[str, nn.Module]) -> Path | None:
    """Let each network go on, greedily, where some test texts break off; into `texts.md`.

    Args:
        job: The run.
        networks: By name, in the order of the table.

    Returns:
        The file; None where the job is not about text in blocks, or blocks are too short.
    """
    block = job.task.items_per_sample
    if job.decode is None or block is None or block <= READ:
        return None
    reader = job.test_reader
    ids = torch.linspace(0, len(reader) - 1, min(NUM_TEXTS, len(reader))).long().unique()
    inputs = reader[ids, torch.zeros_like(ids)].inputs
    assert not isinstance(inputs, torch.Tensor)
    tokens = inputs["input_ids"]
    written = {
        name: continued(network, tokens[:, :READ], WRITTEN, likeliest)
        for name, network in networks.items()
        if parts_of(network) is not None
    }
    parts = []
    for row, whole in enumerate(tokens):
        texts = {"the text itself": whole[READ : READ + WRITTEN]}
        texts |= {name: given[row, READ:] for name, given in written.items()}
        lines = [f"| {name} | {_cell(job.decode(text))} |" for name, text in texts.items()]
        beginning = _cell(job.decode(whole[:READ]))
        parts.append("\n".join([f"> {beginning}", "", "| goes on | text |", "|---|---|", *lines]))
    path = job.out / "texts.md"
    write_text(path, f"# {job.name}: how they go on\n\n" + "\n\n".join(parts) + "\n")
    return path


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
