"""Small trainings that one process and several do alike."""

import contextlib
import functools
import os
import signal
from pathlib import Path

import torch
from torch import nn

from tutelage import distributed
from tutelage.data.loading import BatchBuilder
from tutelage.data.sources import TensorSource
from tutelage.data.views import Shift
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit, processes
from tutelage.engine.events import Advanced, ignore
from tutelage.engine.interrupt import Interrupted
from tutelage.engine.prepare import prepare
from tutelage.engine.settings import OPTIMIZERS
from tutelage.inputs import ImageInputs
from tutelage.losses import (
    CRD,
    DIST,
    KD,
    PKT,
    SRD,
    CRDMemory,
    CrossEntropy,
    FitNets,
    LogitStandardisation,
    PastSelf,
    RKDAngle,
    RKDDistance,
)
from tutelage.models.nets import mlp
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers.build import cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.types import UNLABELLED

TASK = Classification(num_classes=4)
ROWS = 49  # batches of 16: the last one has a single row


class WithIdlePart(nn.Module):
    """A network of which a part takes no part in its logits."""

    def __init__(self):
        super().__init__()
        self.network = mlp(4, image_size=8, hidden=(16,))
        self.idle = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.network(inputs)


class LeavesOut(nn.Module):
    """A network whose middle block is left out now and then, the same for any number of rows."""

    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.head = nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 4)
        self.block = nn.Linear(16, 16)
        self.calls = 0

    def forward(self, inputs):
        units = self.first(self.flatten(inputs)).relu()
        self.calls += self.training
        if not self.training or self.calls % 3 == 1:
            units = units + self.block(units).relu()
        return self.head(units)


class Experts(nn.Module):
    """A network that sends each row to one of its experts; some get no row."""

    def __init__(self, count=6):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(64, 4) for _ in range(count))

    def forward(self, inputs):
        rows = inputs.flatten(1)
        chosen = (rows[:, 0].abs() * 100).long() % len(self.experts)
        logits = rows.new_zeros(len(rows), 4)
        for number, expert in enumerate(self.experts):
            if bool((own := chosen == number).any()):
                logits[own] = expert(rows[own])
        return logits


def objectives():
    layer, task = "hidden1", 0.1 * CrossEntropy()
    return {
        "kd": task + 0.9 * KD(4.0),
        "labels": 0.7 * CrossEntropy() + 0.3 * KD(4.0),
        "dist": task + 1.0 * DIST() + 0.5 * LogitStandardisation(DIST()),
        "fitnets": task + 1.0 * FitNets(layer),
        "relational": task + 25 * RKDDistance(layer) + 50 * RKDAngle(layer) + 100 * PKT(layer),
        "contrastive": task + 0.8 * CRD(layer, width=8),
        "srd": task + 0.5 * SRD(layer),
        "past_self": 1.0 * PastSelf(),
        "memory": task + 0.5 * CRDMemory(layer, width=8, negatives=20),
    }


def reader(views=True):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (ROWS, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(ROWS) % 4
    policy = Shift(1) if views else None
    return BatchBuilder(
        TensorSource(images, labels), policy, inputs=ImageInputs([0.5], [0.3]), num_classes=4
    )


def with_gaps():
    """The same, of which only a few samples have a label."""
    data = reader()
    unknown = torch.arange(ROWS) % 5 > 1
    data.source.labels = data.source.labels.masked_fill(unknown, UNLABELLED)
    data.source.labelled_share = float((~unknown).double().mean())
    return data


def live_teacher(objective):
    torch.manual_seed(7)
    network = mlp(4, image_size=8, hidden=(24,))
    live = ModuleTeacher(network, TASK, chunk=16, layers=objective.teacher_layers)
    return live.shared_among(distributed.world().count)


def student(kind):
    torch.manual_seed(1)
    own = {"idle": WithIdlePart, "leaves_out": LeavesOut, "experts": Experts}
    if kind in own:
        return own[kind]()
    return mlp(4, image_size=8, hidden=(16,), dropout=0.3 if kind == "dropout" else 0.0)


def arm_of(folder, name, kind="plain", cache=None, **changes):
    """An arm and the network to train."""
    torch.manual_seed(5)
    objective, data = objectives()[name], with_gaps() if kind == "gaps" else reader()
    teacher = live_teacher(objective)
    if cache is not None:
        codec = make_codec("float32")
        wanted = cache_key(teacher, data, codec)
        teacher = CachedTeacher(Path(cache), wanted)
    network = student(kind)
    rows = torch.arange(16)
    network = prepare(
        network,
        objective,
        TASK,
        data[rows, torch.zeros_like(rows)],
        teacher=teacher,
        num_samples=ROWS,
    )
    optimizer = changes.pop("optimizer", OptimizerSettings("sgd", lr=0.02))
    chosen = {"epochs": 2, "batch_size": 16, "optimizer": optimizer} | changes
    arm = Arm(
        name="distilled",
        seed=3,
        objective=objective,
        task=TASK,
        settings=TrainSettings(**chosen),
        train=data,
        valid=reader(views=False),
        teacher=teacher,
        folder=Path(folder),
        key="k",
    )
    return network, arm


def summary(fitted):
    """Weights and curve as plain arrays, which processes can hand over."""
    weights = {key: value.numpy().copy() for key, value in fitted.last.state_dict().items()}
    points = [(p.train_loss, p.valid_loss, p.valid_metric) for p in fitted.progress.curve]
    return weights, points, fitted.progress.step


@contextlib.contextmanager
def steady_adam():
    """AdamW that divides by 0.001 at least.

    It moves a weight by lr · g / (|g| + eps). Where the true gradient is 0, g is what float32
    leaves of it, about 1e-7 and another one on each processor: with an eps of 1e-8 that is a step
    of nearly lr. With 1e-3 it is lr · 1e-4, below what the comparisons allow.
    """
    plain = OPTIMIZERS["adamw"]
    OPTIMIZERS["adamw"] = functools.partial(plain, eps=1e-3)
    try:
        yield
    finally:
        OPTIMIZERS["adamw"] = plain


def train(folder, name, **changes):
    network, arm = arm_of(folder, name, **changes)
    with steady_adam():
        return summary(fit(network, arm))


def train_all(folder, cases):
    """Several trainings in one start of the processes."""
    return [
        train(f"{folder}/{number}", name, **changes) for number, (name, changes) in enumerate(cases)
    ]


def train_until(folder, name, stop_at, changes):
    """A training that is asked to stop in the middle; by the last process alone."""
    processes.PACE_S = 0.0  # meet at every update
    here = distributed.world()

    def stop(event):
        if isinstance(event, Advanced) and event.done == stop_at and here.number == here.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    network, arm = arm_of(folder, name, **changes)
    try:
        with steady_adam():
            fit(network, arm, stop if stop_at else ignore)
    except Interrupted as error:
        return str(error)
    return "ran to the end"
