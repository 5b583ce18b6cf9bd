"""Trials that explain rows of the reproduction of Hinton et al. 2015: one change at a time.

Each trial is a training like a row's, with one thing changed, in bfloat16 (a third of the time
where the processor has it). What was trained is kept; interrupted, the same command goes on there.
Figures stand in docs/hinton-mnist.md.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tutelage.bench.hinton import BATCH, JITTER, PLAIN, _Study
from tutelage.bench.lab import Lab, count_errors
from tutelage.bench.records import Measured
from tutelage.data.builtin import load_mnist
from tutelage.data.sources import Splits
from tutelage.data.views import ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.losses import DIST, KD, CrossEntropy
from tutelage.models.nets import mlp
from tutelage.objective import Objective
from tutelage.pipeline.training import Trained
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.teachers.ensemble import Ensemble

SETTINGS = TrainSettings(
    epochs=30,
    batch_size=BATCH,
    precision="bf16",
    optimizer=OptimizerSettings(kind="adam", lr=1e-3),
    schedule=ScheduleSettings(kind="cosine", warmup_steps=200),
)
SGD = OptimizerSettings(kind="sgd", lr=0.1, momentum=0.9)
TEACHER = replace(SETTINGS, epochs=80, max_norm=15**0.5)
TEACHERS: dict[str, TrainSettings] = {
    "adam": TEACHER,
    "sgd": replace(TEACHER, optimizer=SGD),
    "adam, 300 epochs": replace(TEACHER, epochs=300),
    "adam, raw pixels": TEACHER,
    "adam, limit of 2": replace(TEACHER, max_norm=2.0),
}


def mixed(temperature: float, task_weight: float = 0.1, square: float = 1.0) -> Objective:
    """The table's objective: the soft term has what the labels leave."""
    soft = (1 - task_weight) * square
    return task_weight * CrossEntropy() + soft * KD(temperature=temperature)


@dataclass(frozen=True)
class Trial:
    """A student.

    Attributes:
        objective: What it minimises.
        settings: How it is trained.
        teacher: One of the teachers.
        views: What it sees.
        hidden: Its layers.
        start: Times the usual weights at the start.
        has_raw_pixels: Whether pixels are of 0 to 1, not of mean 0 and standard deviation 1.
        is_chosen: Whether the epoch with the fewest test errors is taken, not the last.
        without: A digit that it is not shown; its bias is then moved as in the table's rows.
    """

    objective: Objective
    settings: TrainSettings = SETTINGS
    teacher: str = "adam"
    views: ViewPolicy = PLAIN
    hidden: tuple[int, ...] = (800, 800)
    start: float = 1.0
    has_raw_pixels: bool = False
    is_chosen: bool = False
    without: int | None = None


def longest(settings: TrainSettings = SETTINGS, **changes: object) -> Trial:
    """A student of the teacher of 300 epochs at T=20."""
    return Trial(mixed(20), settings, "adam, 300 epochs", **changes)


STUDENTS = {
    "T=20": Trial(mixed(20)),
    "T=20, from the sgd teacher": Trial(mixed(20), teacher="sgd"),
    "T=20, from both teachers": Trial(mixed(20), teacher="both"),
    "T=20, from the adam teacher of 300 epochs": Trial(mixed(20), teacher="adam, 300 epochs"),
    "T=20, all 25 views, from the adam teacher of 300 epochs": longest(views=JITTER),
    "T=20, all 25 views, from the adam teacher of 300 epochs, 100 epochs": longest(
        replace(SETTINGS, epochs=100), views=JITTER
    ),
    "T=20, the epoch that is best on the test data": longest(is_chosen=True),
    "T=20, from the CNN": Trial(mixed(20), teacher="cnn"),
    "T=20, a tenth of the weights": longest(start=0.1),
    "T=20, raw pixels": longest(has_raw_pixels=True),
    "T=20, raw pixels, SGD": longest(replace(SETTINGS, optimizer=SGD), has_raw_pixels=True),
    "T=20, from the teacher of raw pixels": Trial(mixed(20), teacher="adam, raw pixels"),
    "T=20, from the teacher whose limit is 2": Trial(mixed(20), teacher="adam, limit of 2"),
    "T=20, ten times the rate": longest(
        replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-2))
    ),
    "T=20, ten times the rate, 100 epochs": longest(
        replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-2), epochs=100)
    ),
    "T=20, soft targets alone": Trial(mixed(20, 0.0)),
    "T=20, task weight 0.5": Trial(mixed(20, 0.5)),
    "T=20, without T squared": Trial(mixed(20, square=1 / 400)),
    "T=20, SGD": Trial(mixed(20), replace(SETTINGS, optimizer=SGD)),
    "T=20, batches of 64": Trial(mixed(20), replace(SETTINGS, batch_size=64)),
    "T=4": Trial(mixed(4)),
    "T=2": Trial(mixed(2)),
    "DIST": Trial(0.1 * CrossEntropy() + 2 * DIST(temperature=4)),
    "T=20, all 25 views": Trial(mixed(20), views=JITTER),
    "no 3": Trial(mixed(20, 0.0), replace(SETTINGS, epochs=15), without=3),
    "no 3, T=8, from the adam teacher of 300 epochs": Trial(
        mixed(8, 0.0), replace(SETTINGS, epochs=15), "adam, 300 epochs", without=3
    ),
    "no 3, T=60, from the adam teacher of 300 epochs": Trial(
        mixed(60, 0.0), replace(SETTINGS, epochs=15), "adam, 300 epochs", without=3
    ),
    "no 3, from the teacher of raw pixels": Trial(
        mixed(20, 0.0), replace(SETTINGS, epochs=15), "adam, raw pixels", without=3
    ),
    "no 3, from the teacher whose limit is 2": Trial(
        mixed(20, 0.0), replace(SETTINGS, epochs=15), "adam, limit of 2", without=3
    ),
    "no 3, all 25 views": Trial(
        mixed(20, 0.0), replace(SETTINGS, epochs=15), views=JITTER, without=3
    ),
    "T=4, all 25 views, both teachers, 100 epochs": Trial(
        mixed(4), replace(SETTINGS, epochs=100), teacher="both", views=JITTER
    ),
}


def teacher(lab: Lab, name: str, seed: int = 0) -> Trained:
    """One of the teachers."""
    if name == "cnn":
        return _Study(lab, (seed,), 1.0, "bf16").cnn
    make = partial(mlp, 10, hidden=(1200, 1200), dropout=0.5, input_dropout=0.2)
    if name.endswith("raw pixels"):
        make = partial(after, Raw(lab.splits), make)
    return lab.train(
        f"teacher-{name}", seed, make, 1.0 * CrossEntropy(), TEACHERS[name], views=JITTER
    )


def scaled(factor: float, make: Callable[[], nn.Module]) -> nn.Module:
    """A network whose weights are this many times those that it was made with."""
    network = make()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= factor
    return network


class Raw(nn.Module):
    """Pixels of 0 to 1 again, out of normalised ones.

    Args:
        splits: What they were normalised for.
    """

    def __init__(self, splits: Splits) -> None:
        """Keep mean and standard deviation."""
        super().__init__()
        (self.mean,), (self.std,) = splits.mean, splits.std

    def forward(self, images: Tensor) -> Tensor:
        """Undo the normalisation."""
        return images * self.std + self.mean


def after(first: nn.Module, make: Callable[[], nn.Module]) -> nn.Module:
    """A network behind another module."""
    return nn.Sequential(first, make())


def source(lab: Lab, trial: Trial) -> Teacher:
    """What a student learns from: one teacher's cache, or both teachers together, live."""
    if trial.teacher != "both":
        trained, folder = teacher(lab, trial.teacher), f"teacher-{trial.teacher}/cache"
        return lab.cached(trained, JITTER, "float16", chunk=BATCH, folder=folder)
    together = Ensemble([teacher(lab, name).last for name in ("adam", "sgd")])
    return ModuleTeacher(together, lab.task, chunk=BATCH)


def student(lab: Lab, name: str, seed: int) -> Trained:
    """One of the students."""
    trial = STUDENTS[name]
    taught_by = source(lab, trial)
    if trial.is_chosen:
        lab = replace(lab, splits=replace(lab.splits, valid=lab.splits.test))
    make = partial(scaled, trial.start, partial(mlp, 10, hidden=trial.hidden))
    if trial.has_raw_pixels:
        make = partial(after, Raw(lab.splits), make)
    seen = lab.train_labels != trial.without if trial.without is not None else None
    return lab.train(
        name,
        seed,
        make,
        trial.objective,
        trial.settings,
        views=trial.views,
        teacher=taught_by,
        part=None if seen is None else seen.nonzero().squeeze(1),
    )


def count(lab: Lab, name: str, trained: Trained) -> float:
    """Test errors; of a student that has not seen a digit, with the bias that has the fewest."""
    trial = STUDENTS.get(name)
    is_chosen = trial is not None and trial.is_chosen
    logits = lab.test_logits(trained.selected if is_chosen else trained.last)
    if trial is not None and trial.without is not None:
        logits = _Study(lab, (0,), 1.0).oracle(logits, [trial.without])
    return float(count_errors(logits, lab.test_labels))


def main() -> None:
    """Train what is asked for and print its test errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*TEACHERS, *STUDENTS])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/hinton-trials"))
    chosen = parser.parse_args()
    lab = Lab(chosen.out, load_mnist(valid_fraction=0.0))
    for name in chosen.names:
        is_teacher = name in TEACHERS
        seeds = [0] if is_teacher else range(chosen.seeds)
        trained = [(teacher if is_teacher else student)(lab, name, seed) for seed in seeds]
        errors = [count(lab, name, each) for each in trained]
        minutes = sum(t.progress.seconds for t in trained) / 60
        print(f"{name}: {Measured(errors)} test errors {errors}, {minutes:.1f} min", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
