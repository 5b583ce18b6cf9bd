"""Students that see no data: images drawn out of the teacher, in a run."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from tutelage.config import build_job, read_recipe
from tutelage.data.sources import TensorSource
from tutelage.data.views import Identity
from tutelage.engine.checkpoint import Progress
from tutelage.engine.events import StageDone
from tutelage.engine.inversion import InversionSettings
from tutelage.errors import ConfigError, RunFolderError
from tutelage.job import TransferPlan
from tutelage.models.nets import cnn
from tutelage.pipeline import run_job
from tutelage.pipeline.training import TrainedModel
from tutelage.pipeline.transfer import transfer_stage

FEW = TransferPlan(24, InversionSettings("generator", steps=2, batch_size=12), seed=3)


@pytest.fixture
def job(make_job, tmp_path):
    made = make_job(tmp_path)
    classes = len(made.splits.class_names)
    network = partial(cnn, classes, width=4)
    return replace(
        made,
        teacher=replace(made.teacher, make=network),
        make_student=network,
        transfer=FEW,
        seeds=(0,),
    )


def test_students_learn_from_pictures_that_are_made_once(job, tmp_path):
    events = []
    record = run_job(job, events.append).record
    assert record.splits["train"] == 24
    assert record.cache is None or record.cache.num_samples == 24
    assert any("saw no training data: they learned from 24 images" in n for n in record.notes)
    kept = load_file(tmp_path / "transfer/pictures.safetensors")
    assert kept["pictures"].shape == (24, *_shape(job))
    events.clear()
    assert run_job(job, events.append).record.verdicts == record.verdicts
    assert all(event.was_there for event in events if _trains(event))


def _shape(job):
    first = torch.tensor([0])
    return job.train_reader[first, first].inputs.shape[1:]


def _trains(event):
    return isinstance(event, StageDone) and event.name not in ("evaluation", "measure", "export")


def test_networks_see_the_pictures_as_they_were_made(job):
    finished = run_job(replace(job, has_baseline=False))
    seen = transfer_stage(job, finished.teacher, lambda event: None).train_reader
    rows = torch.arange(24)
    batch = seen[rows, torch.full_like(rows, 4)]  # of 3 x 3 shifts the one that moves nothing
    kept = load_file(job.out / "transfer/pictures.safetensors")["pictures"]
    torch.testing.assert_close(seen.inputs.export_inputs(batch.inputs), kept, atol=1e-5, rtol=1e-5)
    # made by a batch norm, in two batches: mean 0 and spread 1, as normalised data
    assert abs(float(batch.inputs.mean())) < 0.3
    assert 0.5 < float(batch.inputs.std()) < 1.5


def test_pictures_that_were_changed_are_refused(job):
    finished = run_job(job)
    path = job.out / "transfer/pictures.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunFolderError, match=r"pictures.safetensors: was changed"):
        transfer_stage(job, finished.teacher, lambda event: None)


def test_a_recipe_says_how_they_are_made(tmp_path):
    recipe = read_recipe(
        "digits", [f"output={tmp_path}/run", "transfer={kind: pixels, num_images: 50, lr: 0.2}"]
    )
    plan = build_job(recipe).transfer
    assert plan == TransferPlan(50, InversionSettings("pixels", steps=200, lr=0.2))


def test_data_that_are_no_pictures_are_refused(job):
    numbers = TensorSource(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long))
    flat = job.on(replace(job.splits, train=numbers, inputs=numbers.input_kind))
    network = torch.nn.Linear(5, 3)
    teacher = TrainedModel("teacher", 0, network, network, Progress(), "")
    with pytest.raises(ConfigError, match="transfer: it generates images"):
        transfer_stage(replace(flat, views=Identity()), teacher, lambda event: None)
