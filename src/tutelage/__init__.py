"""Tutelage: a large network teaches a small one.

The public names load on first use, so that `import tutelage` costs nothing.
"""

import importlib
import os
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
        CRD,
        CTKD,
        CWD,
        DIST,
        DKD,
        ERKD,
        FSP,
        KD,
        MLKD,
        NKD,
        NST,
        OFA,
        PKT,
        SRD,
        TTM,
        VID,
        WSLD,
        WTTM,
        ActivationBoundaries,
        AttentionTransfer,
        AuxiliaryHeads,
        CorrelationCongruence,
        CRDMemory,
        CrossEntropy,
        FactorTransfer,
        FitNets,
        LabelSmoothing,
        LogitMSE,
        LogitStandardisation,
        MutualLearning,
        OFALogit,
        PastSelf,
        ReviewKD,
        RKDAngle,
        RKDDistance,
        SimilarityPreserving,
        SimKD,
        TeacherFree,
        VkD,
    )
    from tutelage.objective import Loss, LossReport, Objective, Ramp
    from tutelage.pipeline import Distilled, distill
    from tutelage.tasks import Classification
    from tutelage.teachers import CachedTeacher, ModuleTeacher
    from tutelage.types import Batch, Outputs, Signal

__version__ = "0.1.0"

# MKL reads this at its first product: a row of a matrix product then has the same bits wherever in
# the batch it stands, which is what makes a teacher cache exact (docs/decisions, 6).
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

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
        "AttentionTransfer",
        "CWD",
        "FSP",
        "NST",
        "CRD",
        "CRDMemory",
        "FactorTransfer",
        "VID",
        "ActivationBoundaries",
        "FitNets",
        "SRD",
        "VkD",
        "PKT",
        "CorrelationCongruence",
        "RKDAngle",
        "RKDDistance",
        "SimilarityPreserving",
        "SimKD",
        "ReviewKD",
        "OFA",
        "AuxiliaryHeads",
    ),
    "tutelage.objective": ("Loss", "LossReport", "Objective", "Ramp"),
    "tutelage.pipeline": ("Distilled", "distill"),
    "tutelage.tasks": ("Classification",),
    "tutelage.teachers": ("CachedTeacher", "ModuleTeacher"),
    "tutelage.types": ("Batch", "Outputs", "Signal"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CRD",
    "CTKD",
    "CWD",
    "DIST",
    "DKD",
    "ERKD",
    "FSP",
    "KD",
    "MLKD",
    "NKD",
    "NST",
    "OFA",
    "PKT",
    "SRD",
    "TTM",
    "VID",
    "WSLD",
    "WTTM",
    "ActivationBoundaries",
    "AttentionTransfer",
    "AuxiliaryHeads",
    "Batch",
    "CRDMemory",
    "CachedTeacher",
    "Classification",
    "CorrelationCongruence",
    "CropFlip",
    "CrossEntropy",
    "Distilled",
    "Distiller",
    "FactorTransfer",
    "FitNets",
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
    "RKDAngle",
    "RKDDistance",
    "Ramp",
    "ReviewKD",
    "ScheduleSettings",
    "SeededViews",
    "Shift",
    "Signal",
    "SimKD",
    "SimilarityPreserving",
    "TeacherFree",
    "TrainSettings",
    "Trainee",
    "VkD",
    "distill",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tutelage' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
