"""The search: Optuna proposes settings, a student is trained, its score is reported."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tutelage.config.build import build_job
from tutelage.config.schema import Recipe
from tutelage.doctor import preflight
from tutelage.engine.events import (
    Advanced,
    EpochDone,
    Event,
    Listener,
    StageDone,
    StageStarted,
    ignore,
)
from tutelage.errors import ConfigError, RunFolderError, TrainingError, require
from tutelage.files import fingerprint, write_text
from tutelage.locks import locked
from tutelage.pipeline.run import prepare_teacher
from tutelage.pipeline.training import TrainedModel, arm_stage
from tutelage.records import Metric, save_record
from tutelage.teachers import Teacher
from tutelage.tune.records import Confirmed, TrialRow, Tuned
from tutelage.tune.space import Choice, Setting, applied, search_space
from tutelage.tune.students import OWN, Students

TUNING_SEED = 1000
STARTUP_TRIALS = 6
JOURNAL, RESULT, BEST = "journal.log", "tune.json", "best.yaml"
NAME = "tune"


@dataclass(frozen=True, slots=True)
class Search:
    """Settings of a search.

    Attributes:
        recipe: To start from; its own values are the first trial.
        folder: The recipe's folder, for files that it names.
        trials: How many, those of an earlier call included.
        groups: Groups of settings, from `GROUPS`; empty takes all.
        students: To choose from; with any, accuracy and latency are searched together.
        confirm: Trainings of the best few under further seeds, which alone decide; with none the
            search's own seed decides, which favours whatever it was kind to.
        top: How many are confirmed beside the recipe as it stands.
        seed: Random seed of the search.
    """

    recipe: Recipe
    trials: int
    folder: Path = Path()
    groups: Sequence[str] = ()
    students: Students | None = None
    confirm: int = 2
    top: int = 3
    seed: int = 0

    @property
    def out(self) -> Path:
        """Folder of the search's own files, in the run folder."""
        return self.recipe.output / "tune"

    @property
    def space(self) -> list[Setting]:
        """The search space."""
        space = search_space(self.recipe, self.groups)
        if self.students is None:
            return space
        values: dict[Choice, Mapping[str, Any]] = {
            name: {"student": part} for name, part in self.students.parts.items()
        }
        return [*space, Setting("student", OWN, choices=tuple(values), values=values)]


def tune(search: Search, listener: Listener = ignore) -> Tuned:
    """Search, resume a stopped search, and write the best recipe.

    Only training and validation data are looked at. Poor trials are given up after some epochs.

    Args:
        search: What to search.
        listener: Told of every stage and step.

    Returns:
        The trials, what mattered, and which was best.

    Raises:
        ConfigError: No validation data, nothing to search, or the folder holds another search.
        MissingExtraError: Optuna is not installed.
    """
    require("optuna", "tune", "Tuning")
    if search.trials < 1:
        raise ConfigError(f"trials must be 1 or more, got {search.trials}.")
    return _Study(search, listener).run()


class _Pruned(Exception):
    """This trial is pruned."""


class _Study:
    """State of a running search."""

    def __init__(self, search: Search, listener: Listener) -> None:
        self.search = search
        self.listener = listener
        self.space = search.space
        self.job = build_job(search.recipe, folder=search.folder)
        if self.job.valid_reader is None:
            raise ConfigError(
                "data: tuning needs validation data, so that the test data stay unseen. Set "
                "data.valid_fraction above 0."
            )
        self.study = self._open()
        self.teacher: Teacher | None = None

    def run(self) -> Tuned:
        preflight(self.job)
        with locked(self.job.out, "tune"):
            return self._run()

    def _run(self) -> Tuned:
        self.job, _, self.teacher = prepare_teacher(self.job, self.listener)
        begun = time.perf_counter()
        while len(self._finished()) < self.search.trials:
            self._try_next()
        if not any(row.state == "complete" for row in self._rows()):
            raise TrainingError(
                "tune: no trial was finished, for no loss was finite. Look at the recipe with "
                "`tutelage check`, and try a smaller optimizer.lr."
            )
        confirmed = [] if self.search.students else self._confirm()
        tuned = self._result(confirmed, time.perf_counter() - begun)
        save_record(self.search.out / RESULT, tuned)
        self._write_recipes(tuned)
        return tuned

    def _open(self) -> Any:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search.out.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(self.search.out / JOURNAL)))
        directions = ["maximize", "minimize"] if self.search.students else ["maximize"]
        with _suppress_logs():
            study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                directions=directions,
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=STARTUP_TRIALS,
                    n_warmup_steps=self.search.recipe.train.epochs // 4,
                ),
            )
        self._check_same(study)
        for trial in study.get_trials(deepcopy=False):
            if trial.state == optuna.trial.TrialState.RUNNING:  # an earlier call was stopped in it
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        return study

    def _check_same(self, study: Any) -> None:
        """Refuse to resume a journal with other settings."""
        recipe = self.search.recipe.model_dump(mode="json", exclude={"output", "seeds", "measure"})
        key = fingerprint([recipe, [s.key for s in self.space], self.search.seed])
        known = study.user_attrs.get("key")
        if known is None:
            study.set_user_attr("key", key)
        elif known != key:
            raise RunFolderError(
                f"{self.search.out / JOURNAL}: belongs to a search with another recipe, groups or "
                "seed. Go on with those, name another output, or remove the folder."
            )

    def _finished(self) -> list[Any]:
        from optuna.trial import TrialState

        return list(self.study.get_trials(False, (TrialState.COMPLETE, TrialState.PRUNED)))

    def _try_next(self) -> None:
        """Run one trial; its settings depend on finished trials alone, even after a stop."""
        import optuna

        count = len(self._finished())
        self.study.sampler = optuna.samplers.TPESampler(
            seed=self.search.seed + count, n_startup_trials=STARTUP_TRIALS
        )
        if count == 0:
            self.study.enqueue_trial({s.key: s.default for s in self.space})
        trial = self.study.ask()
        chosen = {setting.key: _suggest(trial, setting) for setting in self.space}
        label = f"trial {count + 1} of {self.search.trials}"
        self.listener(StageStarted(label, None))
        try:
            trained = self._train(chosen, TUNING_SEED, trial)
        except (_Pruned, TrainingError) as reason:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            self.listener(StageDone(label, was_there=False, note=_why(reason)))
            return
        score = self._score(trained)
        trial.set_user_attr("epochs", len(trained.progress.curve))
        latency = self._latency(chosen)
        rank = self.metric.rank(score)
        self.study.tell(trial, rank if latency is None else (rank, latency))
        self.listener(StageDone(label, was_there=False, note=self._note(score)))

    def _train(self, chosen: Mapping[str, Choice], seed: int, trial: Any = None) -> TrainedModel:
        """A distilled student with these settings, stored so that repeats cost nothing."""
        recipe = applied(self.search.recipe, self.space, chosen)
        job = build_job(recipe, folder=self.search.folder, splits=self.job.splits)
        job = replace(job, out=self.search.out / "trials" / fingerprint(dict(chosen)))
        report = _Report(self.listener, None if self.search.students else trial, self.metric)
        return arm_stage(job, "distilled", seed, job.objective, self.teacher, report)

    @property
    def metric(self) -> Metric:
        """The metric of all scores."""
        return self.job.task.metric

    def _score(self, trained: TrainedModel) -> float:
        best = trained.progress.best_metric
        assert best is not None  # there is validation data
        return best

    def _note(self, score: float) -> str:
        return f"validation {self.metric.title} {self.metric.text(score)}"

    def _latency(self, chosen: Mapping[str, Choice]) -> float | None:
        students = self.search.students
        return None if students is None else students.latencies_ms[str(chosen["student"])]

    def _confirm(self) -> list[Confirmed]:
        """Retrain the best few, and the unchanged recipe, under seeds that selected none."""
        complete = [row for row in self._rows() if row.state == "complete"]
        ranked = sorted(complete, key=lambda row: -self.metric.rank(_known(row)))[: self.search.top]
        own = [row for row in complete if row.number == 0]
        chosen = {row.number: row for row in (*own, *ranked)}
        confirmed = []
        for number, row in chosen.items():
            scores = []
            for seed in range(TUNING_SEED + 1, TUNING_SEED + 1 + self.search.confirm):
                label = f"confirm {number + 1}"
                self.listener(StageStarted(label, None))
                trained = self._train(row.settings, seed)
                scores.append(self._score(trained))
                note = self._note(scores[-1])
                self.listener(StageDone(label, was_there=False, note=note))
            confirmed.append(Confirmed(number, scores or [_known(row)]))
        return confirmed

    def _rows(self) -> list[TrialRow]:
        rows = []
        for number, trial in enumerate(self._finished()):
            is_complete = trial.state.name == "COMPLETE"
            seen = list(trial.intermediate_values.values())
            rank = trial.values[0] if is_complete else max(seen, default=None)
            score = None if rank is None else self.metric.rank(rank)
            students, chosen = self.search.students, trial.params.get("student")
            latency = students.latencies_ms.get(chosen) if students else None
            epochs = trial.user_attrs.get("epochs", len(seen))
            state = trial.state.name.lower()
            rows.append(TrialRow(number, state, dict(trial.params), score, epochs, latency))
        return rows

    def _result(self, confirmed: list[Confirmed], seconds: float) -> Tuned:
        rows = self._rows()
        if confirmed:  # of equals the first: the recipe as it stands
            best = max(confirmed, key=lambda c: self.metric.rank(c.mean)).number
        else:
            complete = [row for row in rows if row.state == "complete"]
            best = max(complete, key=lambda row: self.metric.rank(_known(row))).number
        return Tuned(
            name=self.job.name,
            space={setting.key: _in_words(setting) for setting in self.space},
            trials=rows,
            importance=self._importance(rows),
            confirmed=confirmed,
            best=best,
            front=_front(rows, self.metric),
            seconds=round(seconds, 3),
            metric=self.metric,
        )

    def _importance(self, rows: Sequence[TrialRow]) -> dict[str, float]:
        """Share of the score's variance that each setting explains; empty without variance."""
        import optuna

        scores = {row.score for row in rows if row.state == "complete"}
        if len(scores) < 2:
            return {}
        with _suppress_logs():
            found = optuna.importance.get_param_importances(
                self.study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial: trial.values[0],
            )
        return {key: float(value) for key, value in found.items()}

    def _write_recipes(self, tuned: Tuned) -> None:
        numbers = {BEST: tuned.best}
        if self.search.students:
            numbers |= {f"front-{place}.yaml": n for place, n in enumerate(tuned.front, start=1)}
        for name, number in numbers.items():
            row = tuned.trial(number)
            recipe = applied(self.search.recipe, self.space, row.settings)
            content = recipe.model_dump(mode="json", exclude_defaults=True)
            out = self.search.recipe.output
            content["output"] = str(out.with_name(f"{out.name}-{Path(name).stem}"))
            head = f"# Trial {number + 1} of {len(tuned.trials)}: {self._note(_known(row))}.\n"
            write_text(self.search.out / name, head + yaml.safe_dump(content, sort_keys=False))


class _Report:
    """Reports every epoch to Optuna and every step to the progress bar, and prunes poor trials.

    Args:
        listener: Listener of the whole search.
        trial: To judge; None judges none.
        metric: It is judged by.
    """

    def __init__(self, listener: Listener, trial: Any, metric: Metric) -> None:
        self.metric = metric
        self.listener = listener
        self.trial = trial

    def __call__(self, event: Event) -> None:
        match event:
            case Advanced():
                self.listener(event)
            case EpochDone(point=point) if (
                self.trial is not None and point.valid_metric is not None
            ):
                self.trial.report(self.metric.rank(point.valid_metric), point.epoch)
                if self.trial.should_prune():
                    raise _Pruned(f"given up after epoch {point.epoch}")


def _suggest(trial: Any, setting: Setting) -> Choice:
    if setting.choices:
        found: Choice = trial.suggest_categorical(setting.key, list(setting.choices))
    else:
        found = trial.suggest_float(setting.key, setting.low, setting.high, log=True)
    return found


def _in_words(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(map(str, setting.choices))
    return f"{setting.low:g} to {setting.high:g}"


def _why(reason: BaseException) -> str:
    return str(reason) if isinstance(reason, _Pruned) else "its loss was not finite"


def _front(rows: Sequence[TrialRow], metric: Metric) -> list[int]:
    """Trials that no other beats in both; empty if latency was not searched."""
    done = [row for row in rows if row.state == "complete" and row.latency_ms]
    timed = [(row.latency_ms, -metric.rank(_known(row)), row) for row in done]
    timed.sort(key=lambda entry: entry[:2])
    front: list[int] = []
    lowest = math.inf
    for _, loss, row in timed:
        if loss < lowest:
            lowest = loss
            front.append(row.number)
    return front


def _known(row: TrialRow) -> float:
    """The score of a finished trial."""
    assert row.score is not None
    return row.score


@contextmanager
def _suppress_logs() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental features."""
    with warnings.catch_warnings(action="ignore"):
        yield
