"""Detection of changed network code when a run resumes in its folder."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tutelage.checksums import read_metadata, write_tensors
from tutelage.data.loading import BatchBuilder
from tutelage.engine.trial import said_in_eval
from tutelage.errors import RunFolderError
from tutelage.files import fingerprint
from tutelage.models.modes import preserve_mode
from tutelage.tasks import Task
from tutelage.types import tensor_bytes, tensors_of

ANSWERS = "answers.safetensors"
FEW = 2  # samples
MOST = 16  # items of them
TOLERANCE = 1e-2  # of the largest answer: more than machines and threads differ by


def check_answers(
    name: str, folder: Path, key: str, network: nn.Module, task: Task, reader: BatchBuilder
) -> None:
    """Compare a network's outputs on a few samples with those of the first run in this folder.

    Fingerprints cover weights and settings; that a forward was rewritten shows here alone.

    Args:
        name: Name of the network, for the message.
        folder: Where its results lie.
        key: Key of the stored outputs; with another key they are ignored.
        network: Before any training here.
        task: How it is called.
        reader: The training data.

    Raises:
        RunFolderError: It says something else.
    """
    ids = torch.arange(min(FEW, len(reader)))
    batch = reader[ids, torch.zeros_like(ids)]
    digest = hashlib.sha256(b"".join(map(tensor_bytes, tensors_of(batch.inputs)))).hexdigest()
    key = fingerprint([key, digest])
    with preserve_mode(network):
        said = said_in_eval(network, task, batch)[:MOST].float().cpu()
    path = folder / ANSWERS
    before = _earlier(path, key)
    if before is None:
        write_tensors(path, {"answers": said}, {"key": key})
    elif not _is_near(said, before):
        raise RunFolderError(
            f"{name}: its weights are those of an earlier run in {folder}, but its outputs on "
            "the same samples differ: its code has changed since. Use another output folder, or "
            f"remove {folder} to start again."
        )


def _earlier(path: Path, key: str) -> Tensor | None:
    """The earlier outputs; None if there are none for this key, or if they are damaged."""
    try:
        is_there = path.is_file() and read_metadata(path).get("key") == key
    except RunFolderError:
        return None
    return load_file(path).get("answers") if is_there else None


def _is_near(one: Tensor, other: Tensor) -> bool:
    size = float(other.nan_to_num(0, 0, 0).abs().max())
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=0, atol=TOLERANCE * size, equal_nan=True
    )
