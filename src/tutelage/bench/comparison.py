"""All methods under one protocol: same teacher, initial weights, data order and budget."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn

from tutelage import __version__
from tutelage.bench.candidates import GRID_SIZE, Grid, candidates
from tutelage.bench.cost import Cost, costs_against
from tutelage.bench.lab import ExperimentRunner
from tutelage.bench.leaderboard import BASELINE, KD, Leaderboard, Score, Standing, Trial, as_page
from tutelage.bench.suites import SUITES, Length, Suite
from tutelage.checksums import read_metadata, write_tensors
from tutelage.data.sources import Source, SubsetSource
from tutelage.data.views import Identity
from tutelage.engine import TrainSettings
from tutelage.engine.checkpoint import Progress
from tutelage.engine.events import Listener, ignore
from tutelage.errors import ConfigError, RunFolderError, TrainingError, find
from tutelage.files import write_text
from tutelage.locks import locked
from tutelage.losses import CrossEntropy
from tutelage.metrics import evaluate_classes
from tutelage.objective import Objective
from tutelage.pipeline.environment import environment
from tutelage.pipeline.training import PROGRESS, TrainedModel
from tutelage.records import load_record, save_record
from tutelage.significance import correct, paired_interval
from tutelage.teachers import PrecomputedTeacher, Teacher
from tutelage.teachers.precomputed import precompute
from tutelage.types import Signal

TUNING_SEED = 1000
TEST_LOGITS = "test.safetensors"


def compare(
    name: str,
    out: Path,
    *,
    length: str = "short",
    num_seeds: int = 3,
    methods: Sequence[str] = (),
    data: Path | None = None,
    listener: Listener = ignore,
) -> Iterator[Leaderboard]:
    """Tune and train every method; finished trainings are not repeated.

    Args:
        name: Name of the suite.
        out: The folder of all suites; this one's trainings lie below `NAME/LENGTH`.
        length: `short` or `full`.
        num_seeds: Number of seeds of the trainings that are reported.
        methods: Which to compare; the baseline and plain KD are always there. Empty: all.
        data: Where the data lie; None searches the usual places.
        listener: Told of every stage and step.

    Yields:
        The leaderboard so far, after each method.

    Raises:
        UnknownNameError: There is no such suite, length or method.
        ConfigError: There is no validation data to tune on.
    """
    suite = find("suite", name, SUITES)
    budget = find(f"length of {name}", length, suite.lengths)
    grids = candidates(suite.layers)
    for method in methods:
        find(f"method in {name}", method, grids)
    chosen = {m: g for m, g in grids.items() if not methods or m in {*methods, BASELINE, KD}}
    study = _Study(name, suite, budget, out, length, tuple(range(num_seeds)), data, listener)
    with locked(study.folder, "bench"):
        yield from _boards(study, chosen)


def _boards(study: "_Study", chosen: Mapping[str, Grid]) -> Iterator[Leaderboard]:
    board = study.empty_board()
    for method, grid in _first(chosen, BASELINE, KD):
        board = replace(board, standings=[*board.standings, study.standing(method, grid)])
        study.write(board)
        yield board
    picked = {method: grid[study.found[method].number] for method, grid in chosen.items()}
    board = replace(board, costs=study.costs(picked))
    study.write(board)
    yield board


def _first(grids: Mapping[str, Grid], *names: str) -> list[tuple[str, Grid]]:
    return sorted(grids.items(), key=lambda item: item[0] not in names)


class _Found(NamedTuple):
    """What others ask of a method: its best setting, and whether each seed's student is right."""

    number: int
    right: Tensor


@dataclass(frozen=True)
class _Study:
    """The trainings of one suite, and their evaluation."""

    name: str
    suite: Suite
    budget: Length
    out: Path
    length: str
    seeds: tuple[int, ...]
    data: Path | None
    listener: Listener
    found: dict[str, _Found] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.out / self.name / self.length

    @cached_property
    def device(self) -> torch.device:
        device: torch.device = Accelerator().device
        return device

    @cached_property
    def of_teacher(self) -> ExperimentRunner:
        """Lab with all training data, in which the teacher is trained."""
        splits = self.suite.load(self.data)
        if splits.valid is None:
            raise ConfigError(f"suite {self.name}: its data has no validation part to tune on.")
        return ExperimentRunner(self.out, splits, self.listener, self.device)

    @cached_property
    def lab(self) -> ExperimentRunner:
        """Lab in which the students are trained."""
        splits = self.of_teacher.splits
        train: Source = splits.train
        if self.budget.samples is not None and self.budget.samples < len(train):
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(len(train), generator=generator)
            train = SubsetSource(train, order[: self.budget.samples].sort().values)
        return ExperimentRunner(
            self.folder, replace(splits, train=train), self.listener, self.device
        )

    @cached_property
    def teacher(self) -> TrainedModel:
        return self.of_teacher.train(
            f"teacher-{self.suite.teacher_name}",
            0,
            self.suite.teacher,
            1.0 * CrossEntropy(),
            self.suite.teacher_settings,
            views=self.suite.teacher_views,
        )

    @cached_property
    def remembered(self) -> PrecomputedTeacher:
        """The teacher with every feature that a method needs, for one view per sample."""
        grids = candidates(self.suite.layers).values()
        layers = dict.fromkeys(layer for grid in grids for layer in grid[0].teacher_layers)
        live = self.of_teacher.live(self.teacher, chunk=self.settings.batch_size, layers=[*layers])
        return precompute(live, self.lab.reader(self.lab.splits.train))

    @property
    def settings(self) -> TrainSettings:
        return replace(self.suite.settings, epochs=self.budget.epochs)

    @property
    def labels(self) -> Tensor:
        return self.lab.test_labels

    def teacher_for(self, objective: Objective) -> Teacher | None:
        """Teacher of a method: none, precomputed for one view, cached for many views, or live."""
        if not objective.needs_teacher:
            return None
        layers = objective.teacher_layers
        if isinstance(self.budget.views, Identity):
            return self.remembered.only(layers)
        chunk = self.settings.batch_size
        if Signal.FEATURES in objective.needs:
            return self.of_teacher.live(self.teacher, chunk=chunk, layers=layers)
        return self.lab.cached(self.teacher, self.budget.views, "float16", chunk=chunk)

    def train(self, method: str, number: int, grid: Grid, seed: int) -> TrainedModel:
        return self.lab.train(
            f"{method}/{number + 1}",
            seed,
            self.suite.student,
            grid[number],
            self.settings,
            views=self.budget.views,
            teacher=self.teacher_for(grid[number]),
        )

    def pick(self, method: str, grid: Grid) -> tuple[int, list[Trial]]:
        """The settings with the best validation accuracy after the last epoch of one seed."""
        if len(grid) == 1:
            return 0, []
        trials = [
            Trial(grid[number].describe(), self.tried(method, number, grid))
            for number in range(len(grid))
        ]
        reached = [-1.0 if trial.accuracy is None else trial.accuracy for trial in trials]
        return reached.index(max(reached)), trials

    def tried(self, method: str, number: int, grid: Grid) -> float | None:
        """Validation accuracy of one setting; None if its training diverged."""
        try:
            trained = self.train(method, number, grid, TUNING_SEED)
        except TrainingError:
            return None
        return trained.progress.curve[-1].valid_metric

    def standing(self, method: str, grid: Grid) -> Standing:
        """Results of a method over all seeds."""
        number, trials = self.pick(method, grid)
        students = [self.train(method, number, grid, seed) for seed in self.seeds]
        logits = [self.test_logits(method, number, student) for student in students]
        right = torch.stack([correct(last, self.labels) for last, _ in logits])
        self.found[method] = _Found(number, right)
        return Standing(
            method=method,
            objective=grid[number].describe(),
            trials=trials,
            last=[self.score(last) for last, _ in logits],
            selected=[self.score(selected) for _, selected in logits],
            over_baseline=None if method == BASELINE else self.over(right, BASELINE),
            over_kd=None if method in (BASELINE, KD) else self.over(right, KD),
            seconds=round(self.seconds(method, number, grid), 1),
            parameters=_count(students[0].last),
        )

    def seconds(self, method: str, number: int, grid: Grid) -> float:
        """Training time of the settings that were tried and of the seeds that are reported."""
        tried = range(len(grid)) if len(grid) > 1 else ()
        wanted = [*((n, TUNING_SEED) for n in tried), *((number, seed) for seed in self.seeds)]
        paths = [self.folder / method / str(n + 1) / f"seed-{s}" / PROGRESS for n, s in wanted]
        return sum(load_record(path, Progress).seconds for path in paths if path.is_file())

    def over(self, right: Tensor, other: str) -> tuple[float, float, float]:
        """Difference of accuracy to another method, with its interval."""
        found = paired_interval(right, self.found[other].right)
        return found.mean, found.low, found.high

    def score(self, logits: Tensor) -> Score:
        found = evaluate_classes(logits, self.labels, self.teacher_logits)
        values = found.values
        return Score(values["accuracy"], values["agreement"], values["ece"], values["nll"])

    @cached_property
    def teacher_logits(self) -> Tensor:
        return self.of_teacher.test_logits(self.teacher.selected)

    def test_logits(self, method: str, number: int, trained: TrainedModel) -> tuple[Tensor, Tensor]:
        """Test logits of the last epoch's student and of the one with the best validation score."""
        path = self.folder / method / str(number + 1) / f"seed-{trained.seed}" / TEST_LOGITS
        known = _read(path, trained.key)
        if known is None:
            last = self.lab.test_logits(trained.last)
            known = {"last": last, "selected": self.lab.test_logits(trained.selected)}
            write_tensors(path, known, {"key": trained.key})
        return known["last"], known["selected"]

    def costs(self, objectives: Mapping[str, Objective]) -> Mapping[str, Cost]:
        """Cost of a step of each method, relative to one of plain KD."""
        train = self.lab.splits.train
        rows = torch.arange(self.settings.batch_size)
        batch = self.lab.reader(train)[rows, torch.zeros_like(rows)]
        layers = dict.fromkeys(layer for o in objectives.values() for layer in o.teacher_layers)
        live = self.of_teacher.live(self.teacher, chunk=len(rows), layers=[*layers])
        return costs_against(
            KD, objectives, self.suite.student, self.lab.task, live, batch, len(train)
        )

    def empty_board(self) -> Leaderboard:
        """A leaderboard with the facts that are the same for all methods."""
        settings = self.settings
        return Leaderboard(
            suite=self.name,
            title=self.suite.title,
            length=self.length,
            command=f"tutelage bench {self.name} --length {self.length} --seeds {len(self.seeds)}",
            version=__version__,
            environment=environment(),
            date=time.strftime("%Y-%m-%d"),
            num_seeds=len(self.seeds),
            num_train=len(self.lab.splits.train),
            num_valid=0 if self.lab.splits.valid is None else len(self.lab.splits.valid),
            num_test=len(self.labels),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            optimizer=f"{settings.optimizer.kind}, lr {settings.optimizer.lr:g}, weight decay "
            f"{settings.optimizer.weight_decay:g}, {settings.schedule.kind} schedule",
            views=self.budget.views.fingerprint,
            grid_size=GRID_SIZE,
            teacher_parameters=_count(self.teacher.selected),
            student_parameters=_count(self.suite.student()),
            teacher=self.score(self.teacher_logits),
        )

    def write(self, board: Leaderboard) -> None:
        save_record(self.folder / "results.json", board)
        write_text(self.folder / "leaderboard.md", as_page(board))


def _count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """Read the logits that this very training wrote; None if there are none, or not all."""
    try:
        if read_metadata(path).get("key") != key:
            return None
    except RunFolderError:
        return None
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in ("last", "selected")}
