"""The comparisons: data, teacher, student, and how long each training lasts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from tutelage.data.builtin import load_fashion_mnist
from tutelage.data.cifar import load_cifar100
from tutelage.data.sources import Splits
from tutelage.data.views import CropFlip, Identity, Shift, ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.models.cifar_nets import vgg, wide_resnet
from tutelage.models.nets import cnn, mlp, resnet, vit

Loader = Callable[[Path | None], Splits]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers at which both networks are compared.

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
    """Training length of every student.

    Attributes:
        epochs: Passes over its training samples.
        samples: Number of training samples, drawn at random; None takes all.
        views: What it sees of them.
    """

    epochs: int
    samples: int | None
    views: ViewPolicy


@dataclass(frozen=True, slots=True)
class Suite:
    """One comparison of all methods.

    Attributes:
        title: Title of its page.
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


def _cifar100(path: Path | None) -> Splits:
    return load_cifar100(path)


PUBLISHED = TrainSettings(
    epochs=240,
    batch_size=64,
    optimizer=OptimizerSettings(kind="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleSettings(kind="step", milestones=(0.625, 0.75, 0.875), gamma=0.1),
)
CIFAR_NETS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet20": partial(resnet, 100, 3, blocks=3),
    "resnet32": partial(resnet, 100, 3, blocks=5),
    "resnet56": partial(resnet, 100, 3, blocks=9),
    "resnet110": partial(resnet, 100, 3, blocks=18),
    "resnet8x4": partial(resnet, 100, 3, width=64, blocks=1, stem=32),
    "resnet32x4": partial(resnet, 100, 3, width=64, blocks=5, stem=32),
    "wrn16x2": partial(wide_resnet, 100, depth=16, widen=2),
    "wrn40x1": partial(wide_resnet, 100, depth=40, widen=1),
    "wrn40x2": partial(wide_resnet, 100, depth=40, widen=2),
    "vgg8": partial(vgg, 100, depth=8),
    "vgg13": partial(vgg, 100, depth=13),
}
CIFAR_PAIRS = (
    ("wrn40x2", "wrn16x2"),
    ("wrn40x2", "wrn40x1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
)


def _published_pair(teacher: str, student: str) -> Suite:
    """A pair of the published tables under their protocol.

    Every tenth training image is held out, to choose settings and epochs on; the published
    trainings have it, and choose on the test data.
    """
    stages = tuple(f"stage{number}" for number in range(1, 6 if teacher.startswith("vgg") else 4))
    return Suite(
        title=f"CIFAR-100, {teacher} teaches {student}",
        load=_cifar100,
        teacher_name=f"cifar100-{teacher}",
        teacher=CIFAR_NETS[teacher],
        teacher_settings=PUBLISHED,
        teacher_views=CropFlip(4),
        student=CIFAR_NETS[student],
        settings=PUBLISHED,
        layers=Layers(
            stages,
            stages,
            "pool",
            "pool",
            have_maps=True,
            have_equal_widths=student != "wrn40x1",
        ),
        lengths={
            "short": Length(epochs=4, samples=8000, views=Identity()),
            "full": Length(epochs=240, samples=None, views=CropFlip(4)),
        },
    )


SUITES: Mapping[str, Suite] = {
    "fashion_mnist": FASHION_MNIST,
    "cnn_to_mlp": CNN_TO_MLP,
    "vit_to_cnn": VIT_TO_CNN,
    **{f"cifar100-{pair[0]}-{pair[1]}": _published_pair(*pair) for pair in CIFAR_PAIRS},
}
