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
    from tutelage.losses import (
        CTKD,
        DIST,
        DKD,
        ERKD,
        KD,
        MLKD,
        NKD,
        TTM,
        WSLD,
        WTTM,
        CrossEntropy,
        LabelSmoothing,
        LogitMSE,
        LogitStandardisation,
        MutualLearning,
        OFALogit,
        PastSelf,
        TeacherFree,
    )
    from tutelage.objective import Loss, LossReport, Objective, Ramp
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
    "tutelage.losses": (
        "DKD",
        "NKD",
        "OFALogit",
        "DIST",
        "MLKD",
        "ERKD",
        "WSLD",
        "LabelSmoothing",
        "TeacherFree",
        "CTKD",
        "TTM",
        "WTTM",
        "LogitStandardisation",
        "KD",
        "CrossEntropy",
        "LogitMSE",
        "MutualLearning",
        "PastSelf",
    ),
    "tutelage.objective": ("Loss", "LossReport", "Objective", "Ramp"),
    "tutelage.pipeline": ("Distilled", "distill"),
    "tutelage.tasks": ("Classification",),
    "tutelage.teachers": ("CachedTeacher", "ModuleTeacher"),
    "tutelage.types": ("Batch", "Outputs", "Signal"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CTKD",
    "DIST",
    "DKD",
    "ERKD",
    "KD",
    "MLKD",
    "NKD",
    "TTM",
    "WSLD",
    "WTTM",
    "Batch",
    "CachedTeacher",
    "Classification",
    "CropFlip",
    "CrossEntropy",
    "Distilled",
    "Distiller",
    "Identity",
    "LabelSmoothing",
    "LogitMSE",
    "LogitStandardisation",
    "Loss",
    "LossReport",
    "ModuleTeacher",
    "MutualLearning",
    "OFALogit",
    "Objective",
    "OptimizerSettings",
    "Outputs",
    "PastSelf",
    "Ramp",
    "ScheduleSettings",
    "SeededViews",
    "Shift",
    "Signal",
    "TeacherFree",
    "TrainSettings",
    "Trainee",
    "distill",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
