"""Hinton, Vinyals & Dean 2015, section 3, on the real MNIST: every row of its numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage import __version__
from tutelage.bench.lab import CachedViews, ExperimentRunner, FixedView, count_errors, seconds_of
from tutelage.bench.records import Measured, Reproduction, Row, as_markdown
from tutelage.data.builtin import load_mnist
from tutelage.data.views import Elastic, Shift, ViewPolicy
from tutelage.engine import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.engine.events import Listener, ignore
from tutelage.errors import find
from tutelage.files import write_text
from tutelage.losses import KD, CrossEntropy
from tutelage.losses.divergences import soften
from tutelage.models.nets import cnn, mlp
from tutelage.objective import Objective
from tutelage.pipeline.environment import environment
from tutelage.pipeline.training import TrainedModel
from tutelage.records import save_record
from tutelage.teachers import Teacher

BATCH = 256
JITTER = Shift(2)
ELASTIC = Elastic(32)
PLAIN = FixedView(JITTER, view_id=12)
TEACHER_EPOCHS, STUDENT_EPOCHS, CURVE_EPOCHS = 300, 30, 15
CNN_EPOCHS, PATIENT_EPOCHS = 12, 100
CNN_OPTIMIZER = OptimizerSettings(kind="adamw", lr=3e-3, weight_decay=2e-2)
WIDE_TEMPERATURES = (1.0, 3.0, 8.0, 20.0, 40.0)
NARROW_TEMPERATURES = (1.0, 2.0, 3.0, 4.0, 8.0, 20.0)
SMALL_WIDTHS = (16, 24, 32, 48, 64, 80, 96, 128)
THREE, SEVEN, EIGHT = 3, 7, 8
KEPT = 0.99
CHOSEN = "chosen by test errors"  # said in each row of which something was


def reproduce_hinton_mnist(
    out: Path,
    *,
    num_seeds: int = 5,
    effort: float = 1.0,
    precision: str = "float32",
    teacher_epochs: int | None = None,
    only: Sequence[str] = (),
    listener: Listener = ignore,
) -> Iterator[Reproduction]:
    """Measure the rows one after another; finished rows are not measured again.

    Args:
        out: The folder of all trainings; results.json and table.md lie in it.
        num_seeds: Number of seeds of every student row.
        effort: Multiplies every number of epochs; below 1 for a trial.
        precision: Precision of all trainings: "float32", or "bf16" where the processor is faster
            with it.
        teacher_epochs: Number of epochs of the section's teacher, 300 if not given; fewer have it
            tell more.
        only: Parts of the table; all if empty.
        listener: Told of every stage and step.

    Yields:
        The table so far, after each part.

    Raises:
        DataError: MNIST is not there; the message lists the ways to get it.
        UnknownNameError: There is no such part.
    """
    lab = ExperimentRunner(out, load_mnist(valid_fraction=0.0), listener)
    teacher_epochs = teacher_epochs or TEACHER_EPOCHS
    study = _Study(lab, tuple(range(num_seeds)), effort, precision, teacher_epochs)
    parts = {name: find("part of the table", name, study.parts) for name in only} or study.parts
    found = Reproduction(
        title="Hinton, Vinyals & Dean 2015, section 3, on MNIST",
        source='"Distilling the Knowledge in a Neural Network", arXiv:1503.02531.',
        command=f"tutelage reproduce hinton-mnist --seeds {num_seeds}"
        + ("" if effort == 1 else f" --effort {effort:g}")
        + ("" if precision == "float32" else f" --precision {precision}")
        + ("" if teacher_epochs == TEACHER_EPOCHS else f" --teacher-epochs {teacher_epochs}")
        + (f" --only '{','.join(only)}'" if only else ""),
        version=__version__,
        environment=environment(),
    )
    for name, part in parts.items():
        rows, trainings = part()
        found = replace(
            found,
            rows=[*found.rows, *rows],
            seconds={**found.seconds, name: round(seconds_of(trainings), 1)},
        )
        save_record(out / "results.json", found)
        write_text(out / "table.md", as_markdown(found))
        yield found


Part = tuple[list[Row], list[TrainedModel]]


@dataclass(frozen=True)
class _Study:
    """The trainings of the section, and the evaluation of its rows."""

    lab: ExperimentRunner
    seeds: tuple[int, ...]
    effort: float
    precision: str = "float32"
    teacher_epochs: int = TEACHER_EPOCHS

    @property
    def parts(self) -> dict[str, Callable[[], Part]]:
        """The parts to measure, the cheap and certain ones first."""
        return {
            "teacher": self.teacher_row,
            "labels only": self.labels_only,
            "soft targets": self.soft_targets,
            "narrow temperatures": partial(self.temperatures, 30, NARROW_TEMPERATURES),
            "only 7s and 8s": self.only_two_classes,
            "3 % of the data": self.little_data,
            "no 3": self.without_threes,
            "wide temperatures": partial(self.temperatures, 300, WIDE_TEMPERATURES),
            "smallest student": self.smallest,
            "best student": self.best,
        }

    def settings(self, epochs: int, *, max_norm: float | None = None) -> TrainSettings:
        return TrainSettings(
            epochs=max(1, round(epochs * self.effort)),
            batch_size=BATCH,
            max_norm=max_norm,
            precision=self.precision,
            optimizer=OptimizerSettings(kind="adam", lr=1e-3),
            schedule=ScheduleSettings(kind="cosine", warmup_steps=200),
        )

    @cached_property
    def teacher(self) -> TrainedModel:
        return self.lab.train(
            "teacher",
            0,
            partial(mlp, 10, hidden=(1200, 1200), dropout=0.5, input_dropout=0.2),
            1.0 * CrossEntropy(),
            self.settings(self.teacher_epochs, max_norm=15**0.5),
            views=JITTER,
        )

    @cached_property
    def cache(self) -> Teacher:
        return self.lab.cached(self.teacher, JITTER, "float16", chunk=BATCH)

    @cached_property
    def teacher_errors(self) -> int:
        return self.errors(self.teacher)

    @cached_property
    def elastic(self) -> ViewPolicy:
        return CachedViews(ELASTIC, len(self.lab.train_labels))

    @cached_property
    def cnn(self) -> TrainedModel:
        settings = replace(self.settings(CNN_EPOCHS), optimizer=CNN_OPTIMIZER)
        return self.lab.train("cnn", 0, _cnn, _labels(), settings, views=self.elastic)

    @cached_property
    def labels(self) -> Int[Tensor, " n"]:
        return self.lab.test_labels

    def errors(self, trained: TrainedModel) -> int:
        return count_errors(self.lab.test_logits(trained.last), self.labels)

    def students(
        self,
        name: str,
        objective: Callable[[], Objective],
        *,
        hidden: Sequence[int] = (800, 800),
        epochs: int = STUDENT_EPOCHS,
        views: ViewPolicy = PLAIN,
        part: Int[Tensor, " n"] | None = None,
        teacher: Teacher | None = None,
    ) -> list[TrainedModel]:
        """One student per seed, of the section's teacher unless another is given."""
        return [
            self.lab.train(
                name,
                seed,
                partial(mlp, 10, hidden=tuple(hidden)),
                objective(),
                self.settings(epochs),
                views=views,
                teacher=(teacher or self.cache) if objective().needs_teacher else None,
                part=part,
            )
            for seed in self.seeds
        ]

    def row(self, name: str, paper: str, trainings: Sequence[TrainedModel], note: str = "") -> Row:
        """A row that counts test errors."""
        values = [float(self.errors(trained)) for trained in trainings]
        return Row(name, "test errors", paper, Measured(values), note)

    def teacher_row(self) -> Part:
        note = "one network; Adam instead of SGD, limit of incoming weights' norm √15"
        row = self.row("teacher 2×1200, dropout, max-norm, ±2 px jitter", "67", [self.teacher])
        note = f"{note}, {self.teacher.progress.epoch} epochs ({CHOSEN})"
        return [replace(row, note=note)], [self.teacher]

    def labels_only(self) -> Part:
        trained = self.students("labels-only", _labels)
        return [self.row("student 2×800, labels only", "146", trained)], trained

    def soft_targets(self) -> Part:
        trained = self.students("soft-targets", partial(_both, 20.0))
        return [self.row("student 2×800, soft targets at T=20, no jitter", "74", trained)], trained

    def temperatures(self, width: int, temperatures: Sequence[float]) -> Part:
        rows, trainings = [], []
        paper = {300: "all T above 8 alike", 30: "T 2.5 to 4 best"}[width]
        for temperature in temperatures:
            trained = self.students(
                f"width-{width}-T{temperature:g}",
                partial(_both, temperature),
                hidden=(width, width),
                epochs=CURVE_EPOCHS,
            )
            rows.append(self.row(f"student 2×{width}, T={temperature:g}", paper, trained))
            trainings += trained
        return rows, trainings

    def without_threes(self) -> Part:
        part = (self.lab.train_labels != THREE).nonzero().squeeze(1)
        trained = self.students("no-3", partial(_soft, 20.0), epochs=CURVE_EPOCHS, part=part)
        logits = [self.lab.test_logits(student.last) for student in trained]
        rows = [
            *self.threes("no 3 in the transfer set", "206, of which 133 on threes", logits),
            *self.threes(
                "the same, bias of 3 raised, best on the test labels",
                "109, of which 14 on threes",
                [self.oracle(rows, [THREE]) for rows in logits],
                "chosen on the test set, as in the paper",
            ),
            *self.threes(
                "the same, bias of 3 raised without test labels",
                "",
                [self.matched(rows, [THREE]) for rows in logits],
                "mean p(3) on the test images made equal to its share of the training labels",
            ),
        ]
        return rows, trained

    def threes(self, name: str, paper: str, logits: Sequence[Tensor], note: str = "") -> list[Row]:
        """All errors, and the errors on threes."""
        is_three = self.labels == THREE
        everything, threes = paper.partition(", of which ")[::2]
        counts = [float(count_errors(rows, self.labels)) for rows in logits]
        of_threes = [float(count_errors(rows[is_three], self.labels[is_three])) for rows in logits]
        return [
            Row(name, "test errors", everything, Measured(counts), note),
            Row(f"{name}: of which on the 1010 threes", "test errors", threes, Measured(of_threes)),
        ]

    def only_two_classes(self) -> Part:
        labels = self.lab.train_labels
        part = ((labels == SEVEN) | (labels == EIGHT)).nonzero().squeeze(1)
        trained = self.students("only-7-8", partial(_soft, 20.0), part=part)
        logits = [self.lab.test_logits(student.last) for student in trained]
        both = [SEVEN, EIGHT]
        return [
            self.percent("only 7s and 8s in the transfer set", "47.3", logits),
            self.percent(
                "the same, biases of 7 and 8 lowered, best on the test labels",
                "13.2",
                [self.oracle(rows, both) for rows in logits],
                "chosen on the test set, as in the paper",
            ),
            self.percent(
                "the same, biases lowered without test labels",
                "",
                [self.matched(rows, both) for rows in logits],
                "mean p(7) + p(8) on the test images made equal to that of the training labels",
            ),
        ], trained

    def percent(self, name: str, paper: str, logits: Sequence[Tensor], note: str = "") -> Row:
        shares = [100 * count_errors(rows, self.labels) / len(self.labels) for rows in logits]
        return Row(name, "% test error", paper, Measured(shares), note)

    def oracle(self, logits: Float[Tensor, "n classes"], classes: Sequence[int]) -> Tensor:
        """Logits with these classes' biases moved to where the test errors are fewest."""
        offsets = torch.arange(-200, 201) / 10
        counts = [
            count_errors(moved(logits, classes, float(offset)), self.labels) for offset in offsets
        ]
        return moved(logits, classes, float(offsets[counts.index(min(counts))]))

    def matched(self, logits: Float[Tensor, "n classes"], classes: Sequence[int]) -> Tensor:
        """Logits with these classes' biases moved until they are as frequent as in training."""
        share = float(torch.isin(self.lab.train_labels, torch.tensor(classes)).double().mean())
        low, high = -30.0, 30.0
        for _ in range(60):
            middle = (low + high) / 2
            found = float(soften(moved(logits, classes, middle))[:, list(classes)].sum(1).mean())
            low, high = (middle, high) if found < share else (low, middle)
        return moved(logits, classes, low)

    def little_data(self) -> Part:
        generator = torch.Generator().manual_seed(0)
        part = torch.randperm(len(self.lab.train_labels), generator=generator)[:1800].sort().values
        rows, trainings = [], []
        for name, objective, paper in (
            ("labels", _labels, "44.5 % frames right (58.9 % with all data)"),
            ("soft targets", partial(_both, 20.0), "57.0 % frames right"),
        ):
            trained = self.students(
                f"little-{name.split()[0]}", objective, part=part, epochs=10 * STUDENT_EPOCHS
            )
            note = "the paper's numbers are of its speech table: the shape is what is compared"
            rows.append(self.row(f"student 2×800, 3 % of the data, {name}", paper, trained, note))
            trainings += trained
        return rows, trainings

    def best(self) -> Part:
        """Beyond the paper: a CNN teacher, trained longer and on deformed images."""
        cached = self.lab.cached(self.cnn, self.elastic, "float16", chunk=BATCH, folder="cnn-cache")
        trained = self.students(
            "best", partial(_both, 4.0), views=self.elastic, epochs=PATIENT_EPOCHS, teacher=cached
        )
        note = f"beyond the paper: {ELASTIC.num_views} bent, turned and moved views of each image"
        note = f"{note}; recipe {CHOSEN}"
        name = f"student 2×800, soft targets of the CNN at T=4, {PATIENT_EPOCHS} epochs"
        rows = [
            self.row(f"CNN of four stages, {CNN_EPOCHS} epochs", "", [self.cnn], note),
            self.row(name, "", trained, note),
        ]
        return rows, [self.cnn, *trained]

    def smallest(self) -> Part:
        """The smallest student whose whole interval lies above 99 % of the teacher's accuracy."""
        rows, trainings = [], []
        for width in SMALL_WIDTHS:
            trained = self.students(
                f"small-{width}",
                partial(_both, 4.0),
                hidden=(width, width),
                views=JITTER,
                epochs=STUDENT_EPOCHS,
            )
            row = self.row(f"student 2×{width}, T=4, all 25 views", "", trained)
            kept = self.kept(row.ours.mean)
            least = self.kept(row.ours.mean + (row.ours.reach or 0.0))
            parameters = sum(p.numel() for p in trained[0].last.parameters())
            note = f"{parameters:,} parameters, keeps {kept:.2%} of the teacher's accuracy"
            note = f"{note}, at least {least:.2%}"
            rows.append(replace(row, note=f"{note}; width {CHOSEN}" if least >= KEPT else note))
            trainings += trained
            if least >= KEPT:
                break
        return rows, trainings

    def kept(self, errors: float) -> float:
        """Share of the teacher's accuracy that a student with this many errors keeps."""
        total = len(self.labels)
        return (total - errors) / (total - self.teacher_errors)


def moved(
    logits: Float[Tensor, "n classes"], classes: Sequence[int], offset: float
) -> Float[Tensor, "n classes"]:
    """Logits with an offset added to the biases of some classes."""
    shift = torch.zeros(logits.shape[1])
    shift[list(classes)] = offset
    return logits + shift


def _cnn() -> nn.Module:
    return cnn(10, width=32, stages=4, dropout=0.3).to(memory_format=torch.channels_last)


def _labels() -> Objective:
    return 1.0 * CrossEntropy()


def _both(temperature: float) -> Objective:
    return 0.1 * CrossEntropy() + 0.9 * KD(temperature=temperature)


def _soft(temperature: float) -> Objective:
    return 1.0 * KD(temperature=temperature)
