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
from torch import nn

from tutelage.bench.hinton import BATCH, JITTER, PLAIN
from tutelage.bench.lab import Lab, count_errors
from tutelage.bench.records import Measured
from tutelage.data.builtin import load_mnist
from tutelage.data.views import ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.losses import DIST, KD, CrossEntropy
from tutelage.models.nets import mlp
from tutelage.objective import Objective
from tutelage.pipeline.training import Trained

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
    """

    objective: Objective
    settings: TrainSettings = SETTINGS
    teacher: str = "adam"
    views: ViewPolicy = PLAIN
    hidden: tuple[int, ...] = (800, 800)


STUDENTS = {
    "T=20": Trial(mixed(20)),
    "T=20, from the sgd teacher": Trial(mixed(20), teacher="sgd"),
    "T=20, soft targets alone": Trial(mixed(20, 0.0)),
    "T=20, task weight 0.5": Trial(mixed(20, 0.5)),
    "T=20, without T squared": Trial(mixed(20, square=1 / 400)),
    "T=20, SGD": Trial(mixed(20), replace(SETTINGS, optimizer=SGD)),
    "T=20, batches of 64": Trial(mixed(20), replace(SETTINGS, batch_size=64)),
    "T=4": Trial(mixed(4)),
    "T=2": Trial(mixed(2)),
    "DIST": Trial(0.1 * CrossEntropy() + 2 * DIST(temperature=4)),
    "T=20, all 25 views": Trial(mixed(20), views=JITTER),
}


def teacher(lab: Lab, name: str, seed: int = 0) -> Trained:
    """One of the teachers."""
    make = partial(mlp, 10, hidden=(1200, 1200), dropout=0.5, input_dropout=0.2)
    return lab.train(
        f"teacher-{name}", seed, make, 1.0 * CrossEntropy(), TEACHERS[name], views=JITTER
    )


def student(lab: Lab, name: str, seed: int) -> Trained:
    """One of the students."""
    trial = STUDENTS[name]
    cached = replace(lab, out=lab.out / f"teacher-{trial.teacher}").cached(
        teacher(lab, trial.teacher), JITTER, "float16", chunk=BATCH
    )
    make: Callable[[], nn.Module] = partial(mlp, 10, hidden=trial.hidden)
    return lab.train(
        name, seed, make, trial.objective, trial.settings, views=trial.views, teacher=cached
    )


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
        errors = [float(count_errors(lab.test_logits(t.last), lab.test_labels)) for t in trained]
        minutes = sum(t.progress.seconds for t in trained) / 60
        print(f"{name}: {Measured(errors)} test errors {errors}, {minutes:.1f} min", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
