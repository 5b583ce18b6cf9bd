"""Events of a training, and listeners that write them down."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tutelage.errors import require
from tutelage.records import MetricPoint


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage of a run begins; `total` counts its units (samples), None where unknown."""

    name: str
    total: int | None


@dataclass(frozen=True, slots=True)
class Advanced:
    """Part of the current stage is done."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class StageDone:
    """A stage of a run ends; `was_there` if a finished result was loaded."""

    name: str
    was_there: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch of a training ends, with its validation score."""

    point: MetricPoint


Event = StageStarted | Advanced | EpochDone | StageDone
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does nothing."""


class TensorBoardLog:
    """Writes curves in TensorBoard's format.

    Args:
        folder: Where the event files go.
        first_step: Entries from this step on are hidden, for a training that goes on.
        metric: Name of what networks are compared by.
    """

    def __init__(self, folder: Path, first_step: int, metric: str = "accuracy") -> None:
        """Open the log."""
        self.metric = metric
        tensorboard: Any = require(
            "torch.utils.tensorboard", "tensorboard", "Writing TensorBoard logs"
        )
        self._writer = tensorboard.SummaryWriter(
            str(folder), purge_step=first_step if first_step else None
        )

    def __enter__(self) -> "TensorBoardLog":
        """The log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Flush and close."""
        self._writer.close()

    def add(self, point: MetricPoint) -> None:
        """One epoch."""
        values = {"train/loss": point.train_loss, "train/learning_rate": point.learning_rate}
        values |= {f"train/{name}": value for name, value in point.train_parts.items()}
        if point.valid_metric is not None and point.valid_loss is not None:
            values |= {f"valid/{self.metric}": point.valid_metric, "valid/loss": point.valid_loss}
        for name, value in values.items():
            self._writer.add_scalar(name, value, point.step)
