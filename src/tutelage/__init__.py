"""Tutelage: a large network teaches a small one.

The public names load on first use, so that `import tutelage` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tutelage.data.views import CropFlip, Identity, SeededViews, Shift
    from tutelage.engine import (
        Distiller,
        OptimizerSettings,
        ScheduleSettings,
        Trainee,
        TrainSettings,
    )
    from tutelage.losses import KD, CrossEntropy, LogitMSE, MutualLearning, PastSelf
    from tutelage.objective import Loss, LossReport, Objective
    from tutelage.pipeline import Distilled, distill
    from tutelage.tasks import Classification
    from tutelage.teachers import CachedTeacher, ModuleTeacher
    from tutelage.types import Batch, Outputs, Signal

__version__ = "0.1.0"

_HOMES = {
    "tutelage.data.views": ("CropFlip", "Identity", "SeededViews", "Shift"),
    "tutelage.engine": (
        "Distiller",
        "OptimizerSettings",
        "ScheduleSettings",
        "TrainSettings",
        "Trainee",
    ),
    "tutelage.losses": ("KD", "CrossEntropy", "LogitMSE", "MutualLearning", "PastSelf"),
    "tutelage.objective": ("Loss", "LossReport", "Objective"),
    "tutelage.pipeline": ("Distilled", "distill"),
    "tutelage.tasks": ("Classification",),
    "tutelage.teachers": ("CachedTeacher", "ModuleTeacher"),
    "tutelage.types": ("Batch", "Outputs", "Signal"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "KD",
    "Batch",
    "CachedTeacher",
    "Classification",
    "CropFlip",
    "CrossEntropy",
    "Distilled",
    "Distiller",
    "Identity",
    "LogitMSE",
    "Loss",
    "LossReport",
    "ModuleTeacher",
    "MutualLearning",
    "Objective",
    "OptimizerSettings",
    "Outputs",
    "PastSelf",
    "ScheduleSettings",
    "SeededViews",
    "Shift",
    "Signal",
    "TrainSettings",
    "Trainee",
    "distill",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
