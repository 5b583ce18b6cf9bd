"""Results of a search, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tutelage.records import ACCURACY, Metric
from tutelage.tune.space import Choice


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One setting that was tried.

    Attributes:
        number: In order, from 0; 0 is the recipe as it stands.
        state: "complete", "pruned" or "failed".
        settings: Dotted key to value.
        score: The task's metric on the validation data, at the best epoch; None before the first.
        epochs: That were trained.
        latency_ms: Latency of its student, where students were searched.
    """

    number: int
    state: str
    settings: Mapping[str, Choice]
    score: float | None
    epochs: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A setting trained again under other seeds, still on validation data.

    Attributes:
        number: Number of the trial.
        scores: One a further seed; where none was asked for, that of the search alone. The
            search's own seed is not among them: it chose the setting, and so flatters it.
    """

    number: int
    scores: list[float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.scores) / len(self.scores)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a search.

    Attributes:
        name: Name of the run.
        space: Dotted key to what was searched, in words.
        trials: In order.
        importance: Dotted key to its share of the variance of the score, largest first.
        confirmed: The best few and the recipe as it stands; empty where latency was searched too.
        best: Number of the trial whose recipe is written out.
        front: Numbers of the trials that no other beats in both score and latency.
        seconds: Training time.
        metric: What scores are of.
    """

    name: str
    space: Mapping[str, str]
    trials: list[TrialRow]
    importance: Mapping[str, float]
    confirmed: list[Confirmed]
    best: int
    front: list[int]
    seconds: float
    metric: Metric = ACCURACY

    def trial(self, number: int) -> TrialRow:
        """The trial with this number."""
        return next(row for row in self.trials if row.number == number)

    def rank(self, row: TrialRow) -> float:
        """A trial's score, negated where less is better."""
        return -math.inf if row.score is None else self.metric.rank(row.score)

    def text(self, score: float | None) -> str:
        """A score as text."""
        return "–" if score is None else self.metric.text(score)
