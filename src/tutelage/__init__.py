"""Tutelage: a large network teaches a small one.

The public names load on first use, so that `import tutelage` costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.data.series import SeriesSource as SeriesSource
    from tutelage.data.sources import Source as Source
    from tutelage.data.sources import Splits as Splits
    from tutelage.data.views import CropFlip as CropFlip
    from tutelage.data.views import Elastic as Elastic
    from tutelage.data.views import Identity as Identity
    from tutelage.data.views import SeededViews as SeededViews
    from tutelage.data.views import Shift as Shift
    from tutelage.data.views import ViewPolicy as ViewPolicy
    from tutelage.engine import Distiller as Distiller
    from tutelage.engine import OptimizerSettings as OptimizerSettings
    from tutelage.engine import ScheduleSettings as ScheduleSettings
    from tutelage.engine import TrainingModule as TrainingModule
    from tutelage.engine import TrainSettings as TrainSettings
    from tutelage.errors import TutelageError as TutelageError
    from tutelage.inputs import InputKind as InputKind
    from tutelage.losses import *  # noqa: F403 - its table of losses is the list
    from tutelage.measures import CountMeasure as CountMeasure
    from tutelage.measures import MeanMeasure as MeanMeasure
    from tutelage.measures import WholeMeasure as WholeMeasure
    from tutelage.objective import Loss as Loss
    from tutelage.objective import LossReport as LossReport
    from tutelage.objective import Objective as Objective
    from tutelage.objective import Ramp as Ramp
    from tutelage.pipeline import Distilled as Distilled
    from tutelage.pipeline import distill as distill
    from tutelage.records import Evaluation as Evaluation
    from tutelage.records import Metric as Metric
    from tutelage.tasks import Classification as Classification
    from tutelage.tasks import Embedding as Embedding
    from tutelage.tasks import GaussianRegression as GaussianRegression
    from tutelage.tasks import MultiLabel as MultiLabel
    from tutelage.tasks import Regression as Regression
    from tutelage.tasks import Task as Task
    from tutelage.tasks import TokenClassification as TokenClassification
    from tutelage.tasks.base import Predictions as Predictions
    from tutelage.teachers import CachedTeacher as CachedTeacher
    from tutelage.teachers import ModuleTeacher as ModuleTeacher
    from tutelage.types import Batch as Batch
    from tutelage.types import Outputs as Outputs
    from tutelage.types import Signal as Signal

__version__ = "0.1.0"

# MKL reads this at its first product: a row of a matrix product then has the same bits wherever in
# the batch it stands, which is what makes a teacher cache exact (docs/decisions, 6).
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

_HOMES = {
    "tutelage.data.views": (
        "CropFlip",
        "Elastic",
        "Identity",
        "SeededViews",
        "Shift",
        "ViewPolicy",
    ),
    "tutelage.engine": (
        "Distiller",
        "OptimizerSettings",
        "ScheduleSettings",
        "TrainSettings",
        "TrainingModule",
    ),
    "tutelage.errors": ("TutelageError",),
    "tutelage.objective": ("Loss", "LossReport", "Objective", "Ramp"),
    "tutelage.pipeline": ("Distilled", "distill"),
    "tutelage.tasks": (
        "Classification",
        "Embedding",
        "GaussianRegression",
        "MultiLabel",
        "Regression",
        "Task",
        "TokenClassification",
    ),
    "tutelage.tasks.base": ("Predictions",),
    "tutelage.measures": ("CountMeasure", "MeanMeasure", "WholeMeasure"),
    "tutelage.records": ("Evaluation", "Metric"),
    "tutelage.data.series": ("SeriesSource",),
    "tutelage.data.sources": ("Source", "Splits"),
    "tutelage.inputs": ("InputKind",),
    "tutelage.teachers": ("CachedTeacher", "ModuleTeacher"),
    "tutelage.types": ("Batch", "Outputs", "Signal"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_LOSSES = "tutelage.losses"  # holds all other public names


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name == "__all__":
        return _public_names()
    may_be_loss = name[0].isupper()  # to look imports torch, which a submodule need not wait for
    if name not in _HOME_OF and not (may_be_loss and name in _loss_names()):
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF.get(name, _LOSSES)), name)


def __dir__() -> list[str]:
    """The public names, for completion and `dir(tutelage)`."""
    return [*_public_names(), "__version__"]


def _public_names() -> list[str]:
    return sorted({*_HOME_OF, *_loss_names()})


def _loss_names() -> list[str]:
    table = importlib.import_module(_LOSSES).LOSSES
    return [loss.__name__ for loss in table.values()]
