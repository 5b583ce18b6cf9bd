"""What is compared where: data, teacher, student, and how long each training lasts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from tutelage.data.builtin import load_fashion_mnist
from tutelage.data.sources import Splits
from tutelage.data.views import Identity, Shift, ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.models.nets import cnn, mlp, resnet, vit

Loader = Callable[[Path | None], Splits]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """Where the two networks are looked at.

    Attributes:
        student: The student's layers, from the first to the last; losses on one layer take the
            middle one or the last.
        teacher: The teacher's at the same depths.
        student_vector: The student's last features, one vector a sample.
        teacher_vector: The teacher's.
        have_maps: Whether all layers but the vectors give maps of the same height and width.
        have_equal_widths: Whether these maps have as many channels in both networks.
    """

    student: Names
    teacher: Names
    student_vector: str
    teacher_vector: str
    have_maps: bool
    have_equal_widths: bool = False


@dataclass(frozen=True, slots=True)
class Length:
    """How much every student gets.

    Attributes:
        epochs: Passes over its training samples.
        samples: Of the training data, drawn at random; None takes all.
        views: What it sees of them.
    """

    epochs: int
    samples: int | None
    views: ViewPolicy


@dataclass(frozen=True, slots=True)
class Suite:
    """One comparison of all methods.

    Attributes:
        title: Of its page.
        load: Reads the data, from a path if one is given.
        teacher_name: Names the teacher's folder; suites with the same teacher share it.
        teacher: Makes the teacher.
        teacher_settings: How it is trained, on all training data.
        teacher_views: What it sees.
        student: Makes a student.
        settings: How students are trained, but for the number of epochs.
        layers: Where both are looked at.
        lengths: By name: `short` for two cores, `full` for a GPU.
    """

    title: str
    load: Loader
    teacher_name: str
    teacher: Callable[[], nn.Module]
    teacher_settings: TrainSettings
    teacher_views: ViewPolicy
    student: Callable[[], nn.Module]
    settings: TrainSettings
    layers: Layers
    lengths: Mapping[str, Length]


def _fashion_mnist(path: Path | None) -> Splits:
    return load_fashion_mnist(path)


def _adamw(rate: float, decay: float, warmup: int, *, batch: int) -> TrainSettings:
    return TrainSettings(
        batch_size=batch,
        optimizer=OptimizerSettings(kind="adamw", lr=rate, weight_decay=decay),
        schedule=ScheduleSettings(kind="cosine", warmup_steps=warmup),
    )


STAGES = ("stage1", "stage2", "stage3")
FASHION_MNIST = Suite(
    title="Fashion-MNIST, a small ResNet teaches one of a tenth of its size",
    load=_fashion_mnist,
    teacher_name="fashion_mnist-resnet-16",
    teacher=partial(resnet, 10, width=16),
    teacher_settings=replace(_adamw(3e-3, 1e-2, 200, batch=128), epochs=8),
    teacher_views=Shift(1),
    student=partial(resnet, 10, width=5),
    settings=_adamw(1e-2, 1e-2, 50, batch=64),
    layers=Layers(STAGES, STAGES, "pool", "pool", have_maps=True),
    lengths={
        "short": Length(epochs=4, samples=8000, views=Identity()),
        "full": Length(epochs=30, samples=None, views=Shift(1)),
    },
)
CNN_TO_MLP = replace(
    FASHION_MNIST,
    title="Fashion-MNIST, a small ResNet teaches an MLP",
    student=partial(mlp, 10, hidden=(64, 64)),
    settings=_adamw(3e-3, 1e-2, 50, batch=64),
    layers=Layers(("hidden1", "hidden2"), ("stage2", "pool"), "hidden2", "pool", have_maps=False),
    lengths={
        "short": Length(epochs=10, samples=8000, views=Identity()),
        "full": Length(epochs=60, samples=None, views=Shift(1)),
    },
)
VIT_TO_CNN = replace(
    FASHION_MNIST,
    title="Fashion-MNIST, a vision transformer teaches a CNN",
    teacher_name="fashion_mnist-vit-64",
    teacher=partial(vit, 10),
    teacher_settings=replace(_adamw(1e-3, 5e-2, 400, batch=128), epochs=20),
    student=partial(cnn, 10, width=8, stages=3),
    layers=Layers(("stage2", "stage3"), ("block2", "block4"), "pool", "pool", have_maps=False),
    lengths={
        "short": Length(epochs=4, samples=8000, views=Identity()),
        "full": Length(epochs=30, samples=None, views=Shift(1)),
    },
)
SUITES: Mapping[str, Suite] = {
    "fashion_mnist": FASHION_MNIST,
    "cnn_to_mlp": CNN_TO_MLP,
    "vit_to_cnn": VIT_TO_CNN,
}
