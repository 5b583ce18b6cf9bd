"""The stage that draws pictures out of the teacher, for students that shall see no data."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tutelage.data.loading import Reader
from tutelage.data.sources import TensorSource
from tutelage.engine.events import Advanced, Listener, StageDone, StageStarted
from tutelage.engine.inversion import invert
from tutelage.files import fingerprint, write_whole
from tutelage.forwards import check_pictured
from tutelage.job import Job
from tutelage.pipeline.stamps import is_done, stamp
from tutelage.pipeline.training import Trained
from tutelage.ranks import first
from tutelage.teachers.module import state_fingerprint

PICTURES = "pictures.safetensors"


def transfer_stage(job: Job, teacher: Trained, listener: Listener) -> Job:
    """The job with pictures drawn out of the teacher in the place of its training data.

    They are made once and kept in the run folder. A job without a transfer plan stays as it is.

    Raises:
        ConfigError: The data are no pictures.
        ModelError: The teacher has no batch norm with running statistics.
    """
    plan = job.transfer
    if plan is None:
        return job
    first_id = torch.tensor([0])
    shape = check_pictured(job.train_reader[first_id, first_id])
    listener(StageStarted("transfer pictures", plan.num_images))
    folder = job.out / "transfer"
    key = fingerprint([state_fingerprint(teacher.selected), asdict(plan), list(shape)])
    was_there = first(lambda: is_done(folder, key))

    def draw() -> None:
        made = invert(
            teacher.selected,
            plan.num_images,
            shape,
            len(job.splits.class_names),
            plan.settings,
            seed=plan.seed,
            progress=lambda done, total: listener(Advanced(done, total)),
        )
        _keep(folder, key, job.train_reader, made)

    if not was_there:
        first(draw)
    kept = load_file(folder / PICTURES)
    listener(StageDone("transfer pictures", was_there, f"{plan.num_images:,} pictures"))
    note = (
        f"The students saw no training data: they learned from {plan.num_images:,} pictures that "
        "were drawn out of the teacher, and the baseline from the classes that were asked for."
    )
    splits = replace(job.splits, train=TensorSource(kept["pictures"], kept["labels"]))
    return replace(job, splits=splits, notes=(*job.notes, note))


def _keep(folder: Path, key: str, reader: Reader, made: TensorSource) -> None:
    """Write the pictures, scaled as inputs are before they are normalised."""
    pictures, labels = made.fetch(torch.arange(len(made)))
    assert isinstance(pictures, Tensor)
    assert labels is not None
    pixels = reader.pixels(pictures)
    assert isinstance(pixels, Tensor)
    content = {"pictures": pixels.contiguous(), "labels": labels}
    write_whole(folder / PICTURES, lambda temporary: save_file(content, temporary))
    stamp(folder, key, [folder / PICTURES])
