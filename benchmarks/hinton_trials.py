"""Trials that explain rows of the reproduction of Hinton et al. 2015: one change at a time.

Each trial is a training like a row's, with one thing changed, in bfloat16 (a third of the time
where the processor has it). What was trained is kept; interrupted, the same command resumes there.
Figures stand in docs/hinton-mnist.md.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.bench.hinton import BATCH, JITTER, PLAIN, _Study
from tutelage.bench.lab import ExperimentRunner, FixedView, count_errors
from tutelage.bench.records import Measured
from tutelage.data.builtin import load_mnist
from tutelage.data.sources import Splits
from tutelage.data.views import ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.losses import DIST, KD, CrossEntropy
from tutelage.models.nets import mlp
from tutelage.objective import Objective
from tutelage.pipeline.training import TrainedModel
from tutelage.teachers import ModuleTeacher, Teacher
from tutelage.teachers.ensemble import Ensemble
from tutelage.types import Batch, Outputs

SETTINGS = TrainSettings(
    epochs=30,
    batch_size=BATCH,
    precision="bf16",
    optimizer=OptimizerSettings(kind="adam", lr=1e-3),
    schedule=ScheduleSettings(kind="cosine", warmup_steps=200),
)
LONG = replace(SETTINGS, epochs=300)
SGD = OptimizerSettings(kind="sgd", lr=0.1, momentum=0.9)
Word = Literal["as it is", "mean of its views", "with dropout"]


def mixed(temperature: float, task_weight: float = 0.1, square: float = 1.0) -> Objective:
    """The table's objective: the soft term has what the labels leave."""
    soft = (1 - task_weight) * square
    return task_weight * CrossEntropy() + soft * KD(temperature=temperature)


@dataclass(frozen=True)
class Trial:
    """A student, or a teacher.

    Attributes:
        objective: What it minimises.
        settings: How it is trained.
        teacher: One of the teachers; of no account to a teacher.
        views: What it sees.
        hidden: Its layers.
        start: Times the usual weights at the start.
        dropout: Share of the hidden units that is dropped, 0.4 times as much of the input.
        spread: Times as far as the teacher puts an image from the mean of its digit it is put.
        word: What it hears of its teacher.
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
    dropout: float = 0.0
    spread: float = 1.0
    word: Word = "as it is"
    has_raw_pixels: bool = False
    is_chosen: bool = False
    without: int | None = None


def of_labels(settings: TrainSettings = SETTINGS, epochs: int = 80, *, raw: bool = False) -> Trial:
    """A teacher, as the table's."""
    settings = replace(settings, epochs=epochs, max_norm=15**0.5)
    return Trial(
        1.0 * CrossEntropy(),
        settings,
        views=JITTER,
        hidden=(1200, 1200),
        dropout=0.5,
        has_raw_pixels=raw,
    )


TEACHERS = {
    "adam": of_labels(),
    "sgd": of_labels(replace(SETTINGS, optimizer=SGD)),
    "adam, 300 epochs": of_labels(epochs=300),
    "adam, raw pixels": of_labels(raw=True),
}


def longest(settings: TrainSettings = SETTINGS, **changes: Any) -> Trial:
    """A student of the teacher of 300 epochs at T=20."""
    return Trial(mixed(20), settings, "adam, 300 epochs", **changes)


def without_3(
    temperature: float = 20, teacher: str = "adam, 300 epochs", epochs: int = 15, **changes: Any
) -> Trial:
    """A student that is shown no 3, as in the table."""
    settings = replace(SETTINGS, epochs=epochs)
    return Trial(mixed(temperature, 0.0), settings, teacher, without=3, **changes)


STUDENTS = {
    "T=20": Trial(mixed(20)),
    "T=20, from the sgd teacher": Trial(mixed(20), teacher="sgd"),
    "T=20, from both teachers": Trial(mixed(20), teacher="both"),
    "T=20, from the adam teacher of 300 epochs": longest(),
    "T=20, all 25 views, from the adam teacher of 300 epochs": longest(views=JITTER),
    "T=20, the epoch that is best on the test data": longest(is_chosen=True),
    "T=20, from the CNN": Trial(mixed(20), teacher="cnn"),
    "T=20, a tenth of the weights": longest(start=0.1),
    "T=20, raw pixels": longest(has_raw_pixels=True),
    "T=20, raw pixels, SGD": longest(replace(SETTINGS, optimizer=SGD), has_raw_pixels=True),
    "T=20, from the teacher of raw pixels": Trial(mixed(20), teacher="adam, raw pixels"),
    "T=20, dropout 0.5": longest(dropout=0.5),
    "T=20, dropout 0.25": longest(dropout=0.25),
    "T=20, ten times the rate": longest(
        replace(SETTINGS, optimizer=replace(SETTINGS.optimizer, lr=1e-2))
    ),
    "T=20, the teacher's mean over its views": longest(word="mean of its views"),
    "T=20, the teacher's dropout left on": longest(word="with dropout"),
    "T=20, 300 epochs": longest(LONG),
    "T=20, all 25 views, 300 epochs": longest(LONG, views=JITTER),
    "T=20, soft targets alone": Trial(mixed(20, 0.0)),
    "T=20, task weight 0.5": Trial(mixed(20, 0.5)),
    "T=20, without T squared": Trial(mixed(20, square=1 / 400)),
    "T=20, SGD": Trial(mixed(20), replace(SETTINGS, optimizer=SGD)),
    "T=20, batches of 64": Trial(mixed(20), replace(SETTINGS, batch_size=64)),
    "T=4": Trial(mixed(4)),
    "T=2": Trial(mixed(2)),
    "DIST": Trial(0.1 * CrossEntropy() + 2 * DIST(temperature=4)),
    "T=20, all 25 views": Trial(mixed(20), views=JITTER),
    "no 3": without_3(teacher="adam"),
    "no 3, T=8, from the adam teacher of 300 epochs": without_3(8),
    "no 3, T=60, from the adam teacher of 300 epochs": without_3(60),
    "no 3, from the adam teacher of 300 epochs": without_3(),
    "no 3, from the adam teacher of 300 epochs, spread 1.5": without_3(spread=1.5),
    "no 3, from the adam teacher of 300 epochs, spread 0.7": without_3(spread=0.7),
    "no 3, from the adam teacher of 300 epochs, spread 0.5": without_3(spread=0.5),
    "no 3, the dropout of the adam teacher of 300 epochs left on": without_3(word="with dropout"),
    "no 3, the mean over its views of the adam teacher of 300 epochs": without_3(
        word="mean of its views"
    ),
    "no 3, the mean over its views of the adam teacher of 80 epochs": without_3(
        teacher="adam", word="mean of its views"
    ),
    "no 3, from the teacher of raw pixels": without_3(teacher="adam, raw pixels"),
    "no 3, all 25 views": without_3(teacher="adam", views=JITTER),
    "no 3, all 25 views, 100 epochs": without_3(teacher="adam", views=JITTER, epochs=100),
    "T=4, all 25 views, both teachers, 100 epochs": Trial(
        mixed(4), replace(SETTINGS, epochs=100), teacher="both", views=JITTER
    ),
}


def teacher(lab: ExperimentRunner, name: str, seed: int = 0) -> TrainedModel:
    """One of the teachers."""
    if name == "cnn":
        return _Study(lab, (seed,), 1.0, "bf16").cnn
    trial = TEACHERS[name]
    make = partial(network, lab, trial)
    return lab.train(
        f"teacher-{name}", seed, make, trial.objective, trial.settings, views=trial.views
    )


def network(lab: ExperimentRunner, trial: Trial) -> nn.Module:
    """What is trained, with its weights at the start."""
    made = mlp(10, hidden=trial.hidden, dropout=trial.dropout, input_dropout=0.4 * trial.dropout)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(trial.start)
    return nn.Sequential(Raw(lab.splits), made) if trial.has_raw_pixels else made


class Raw(nn.Module):
    """Pixels of 0 to 1 again, out of normalised ones.

    Args:
        splits: What they were normalised for.
    """

    def __init__(self, splits: Splits) -> None:
        """Keep mean and standard deviation."""
        super().__init__()
        assert splits.mean is not None
        assert splits.std is not None
        (self.mean,), (self.std,) = splits.mean, splits.std

    def forward(self, images: Tensor) -> Tensor:
        """Undo the normalisation."""
        return images * self.std + self.mean


class Spread:
    """A teacher whose logits lie nearer to the mean of their digit, or further from it.

    Args:
        teacher: The teacher.
        lab: Has the training images.
        factor: Times the distance.
    """

    def __init__(self, teacher: Teacher, lab: ExperimentRunner, factor: float) -> None:
        """Ask for the means."""
        self.teacher, self.factor = teacher, factor
        self.gives, self.device = teacher.gives, teacher.device
        self.fingerprint = f"{teacher.fingerprint}, spread {factor}"
        self.means = means(logits_of(teacher, lab), lab.train_labels)

    def __call__(self, batch: Batch) -> Outputs:
        """The logits of these images."""
        assert batch.labels is not None
        mean = self.means[batch.labels]
        return Outputs(mean + self.factor * (self.teacher(batch).logits - mean))


class MeanOfViews:
    """A teacher that says of an image, whatever view is shown, the mean of what it says of all.

    Args:
        teacher: The teacher.
        lab: Has the training images.
    """

    def __init__(self, teacher: Teacher, lab: ExperimentRunner) -> None:
        """Ask for all views."""
        self.gives, self.device = teacher.gives, teacher.device
        self.fingerprint = f"{teacher.fingerprint}, mean of views"
        each = [logits_of(teacher, lab, FixedView(JITTER, n)) for n in range(JITTER.num_views)]
        self.said = torch.stack(each).mean(dim=0)

    def __call__(self, batch: Batch) -> Outputs:
        """The mean logits of these images."""
        return Outputs(self.said[batch.sample_ids])


def with_dropout(live: ModuleTeacher) -> ModuleTeacher:
    """A teacher whose dropout is left on while it teaches."""
    live.model.train()
    live.fingerprint += ", with dropout"
    return live


def logits_of(
    teacher: Teacher, lab: ExperimentRunner, view: FixedView = PLAIN
) -> Float[Tensor, "n classes"]:
    """What a teacher says of the training images, less the mean over the classes."""
    reader = lab.reader(lab.splits.train, view)
    rows = torch.arange(len(reader)).split(BATCH)
    said = torch.cat([teacher(reader[ids, view.choose(ids, 0, 0)]).logits for ids in rows])
    return said - said.mean(dim=1, keepdim=True)


def means(
    logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> Float[Tensor, "digits classes"]:
    """Of each digit the mean."""
    return torch.stack([logits[labels == digit].mean(dim=0) for digit in range(10)])


def told(lab: ExperimentRunner, name: str) -> str:
    """How far logits of a teacher lie from the mean of their digit, beside how far means differ."""
    logits = logits_of(source(lab, Trial(mixed(20), teacher=name)), lab)
    labels, digits = lab.train_labels, torch.arange(10)
    others = digits != labels[:, None]
    of_digit = means(logits, labels)
    within = (logits - of_digit[labels])[others].square().mean().sqrt()
    between = (of_digit[labels] - of_digit.mean(dim=0))[others].square().mean().sqrt()
    return f"other digits' logits within {within:.2f}, between {between:.2f}"


def source(lab: ExperimentRunner, trial: Trial) -> Teacher:
    """What a student learns from: one teacher's cache, or both teachers together, live."""
    if trial.teacher != "both":
        trained, folder = teacher(lab, trial.teacher), f"teacher-{trial.teacher}/cache"
        if trial.word == "with dropout":
            return with_dropout(lab.live(trained, chunk=BATCH))
        cached = lab.cached(trained, JITTER, "float16", chunk=BATCH, folder=folder)
        if trial.word == "mean of its views":
            return MeanOfViews(cached, lab)
        return cached if trial.spread == 1 else Spread(cached, lab, trial.spread)
    together = Ensemble([teacher(lab, name).last for name in ("adam", "sgd")])
    return ModuleTeacher(together, lab.task, chunk=BATCH)


def student(lab: ExperimentRunner, name: str, seed: int) -> TrainedModel:
    """One of the students."""
    trial = STUDENTS[name]
    taught_by = source(lab, trial)
    if trial.is_chosen:
        lab = replace(lab, splits=replace(lab.splits, valid=lab.splits.test))
    make = partial(network, lab, trial)
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


def count(lab: ExperimentRunner, name: str, trained: TrainedModel) -> float:
    """Test errors; of a student that has not seen a digit, with the bias that has the fewest."""
    trial = STUDENTS.get(name)
    is_chosen = trial is not None and trial.is_chosen
    logits = lab.test_logits(trained.selected if is_chosen else trained.last)
    if trial is not None and trial.without is not None:
        logits = _Study(lab, (0,), 1.0).oracle(logits, [trial.without])
    return float(count_errors(logits, lab.test_labels))


def shorten(epochs: int) -> None:
    """Give all trials this length."""
    for trials in (TEACHERS, STUDENTS):
        for name, trial in trials.items():
            trials[name] = replace(trial, settings=replace(trial.settings, epochs=epochs))


def main() -> None:
    """Train what is asked for and print its test errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[*TEACHERS, *STUDENTS])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="of every training, in the place of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/hinton-trials"))
    chosen = parser.parse_args()
    if chosen.epochs:
        shorten(chosen.epochs)
    lab = ExperimentRunner(chosen.out, load_mnist(valid_fraction=0.0))
    for name in chosen.names:
        is_teacher = name in TEACHERS
        seeds = [0] if is_teacher else range(chosen.seeds)
        trained = [(teacher if is_teacher else student)(lab, name, seed) for seed in seeds]
        errors = [count(lab, name, each) for each in trained]
        minutes = sum(t.progress.seconds for t in trained) / 60
        note = f", {told(lab, name)}" if is_teacher else ""
        print(
            f"{name}: {Measured(errors)} test errors {errors}, {minutes:.1f} min{note}", flush=True
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
