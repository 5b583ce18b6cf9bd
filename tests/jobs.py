"""A whole run in miniature, for the tests of runs and of the doctor."""

from pathlib import Path

import torch

from tutelage.data.sources import Source, Splits, TensorSource
from tutelage.data.views import Shift
from tutelage.engine import OptimizerSettings, TrainSettings
from tutelage.inputs import ImageInputs
from tutelage.job import Job, TeacherPlan
from tutelage.losses import KD, CrossEntropy
from tutelage.models.nets import mlp
from tutelage.problem import Problem


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bright third: left, middle or right is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 160, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    for number, label in enumerate(labels.tolist()):
        images[number, :, :, 2 * label : 2 * label + 2] += 60
    return images, labels


def source(count: int, seed: int) -> Source:
    return TensorSource(*pictures(count, seed))


def settings(**changes: object) -> TrainSettings:
    chosen = {"epochs": 2, "batch_size": 16, "optimizer": OptimizerSettings(lr=0.01)}
    return TrainSettings(**(chosen | changes))


def make(out: Path, **changes: object) -> Job:
    """A job of a trained teacher, a cache and two seeds, with any part replaced."""
    parts = {
        "name": "tiny",
        "out": out,
        "splits": Splits(
            train=source(60, 0),
            valid=source(30, 1),
            test=source(45, 2),
            class_names=("left", "middle", "right"),
            inputs=ImageInputs((0.4,), (0.3,)),
        ),
        "teacher": TeacherPlan(
            make=lambda: mlp(3, image_size=6, hidden=(24,), dropout=0.2), train=settings()
        ),
        "make_student": lambda: mlp(3, image_size=6, hidden=(4,)),
        "objective": 0.1 * CrossEntropy() + 0.9 * KD(temperature=4),
        "settings": settings(),
        "views": Shift(1),
        "seeds": (0, 1),
        "measure": None,
        "has_report": False,
    }
    given = parts | changes
    splits = given.pop("splits")
    problem = given.pop("problem", None) or Problem.of_classes(splits)
    return Job(problem=problem, **given)
