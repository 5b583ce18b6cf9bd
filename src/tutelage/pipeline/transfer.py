"""The stage that draws images from the teacher, for students that see no data."""

from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.distributed import on_main_process
from tutelage.engine.events import Advanced, Listener
from tutelage.engine.inversion import invert
from tutelage.files import fingerprint, write_whole
from tutelage.forwards import check_pictured
from tutelage.job import Job
from tutelage.pipeline.stages import Stage
from tutelage.pipeline.training import TrainedModel
from tutelage.teachers.module import state_fingerprint
from tutelage.types import one_tensor
from tutelage.wording import quantity

PICTURES = "pictures.safetensors"


def transfer_stage(job: Job, teacher: TrainedModel, listener: Listener) -> Job:
    """The job with drawn images in place of its training data.

    They are made once and kept in the run folder. A job without a transfer plan stays as it is.

    Raises:
        ConfigError: The data are no images.
        ModelError: The teacher has no batch norm with running statistics.
    """
    plan = job.transfer
    if plan is None:
        return job
    shape = check_pictured(job)
    path = job.out / "transfer" / PICTURES

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
        _keep(path, job.train_reader, made)

    def do() -> list[Path]:
        on_main_process(draw)
        return [path]

    stage = Stage(
        name="transfer images",
        folder=path.parent,
        key=fingerprint([state_fingerprint(teacher.selected), asdict(plan), list(shape)]),
        do=do,
        load=lambda: load_file(path),
        total=plan.num_images,
        note=lambda _: quantity(plan.num_images, "image"),
    )
    kept = stage.run(listener)
    note = (
        "The students saw no training data: they learned from "
        f"{quantity(plan.num_images, 'image')} drawn from the teacher, and the baseline from the "
        "classes requested for these."
    )
    splits = replace(job.splits, train=TensorSource(kept["pictures"], kept["labels"]))
    return replace(job.on(splits), notes=(*job.notes, note))


def _keep(path: Path, reader: BatchBuilder, made: TensorSource) -> None:
    """Write the images, scaled as inputs are before normalisation."""
    pictures, labels = made.fetch(torch.arange(len(made)))
    assert labels is not None
    pixels = one_tensor(reader.inputs.export_inputs(pictures))
    content = {"pictures": pixels.contiguous(), "labels": labels}
    write_whole(path, lambda temporary: save_file(content, temporary))
