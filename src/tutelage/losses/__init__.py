"""Distances between a student and what it learns from: pure functions and thin classes."""

from collections.abc import Mapping

from tutelage.losses.correlation import DIST, MLKD
from tutelage.losses.decoupled import DKD, NKD, OFALogit
from tutelage.losses.labels import LabelSmoothing, TeacherFree
from tutelage.losses.logit import KD, CrossEntropy, LogitMSE
from tutelage.losses.reweighted import ERKD, WSLD
from tutelage.losses.transformed import CTKD, TTM, WTTM, LogitStandardisation
from tutelage.losses.unaided import MutualLearning, PastSelf
from tutelage.objective import Loss

LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "kd": KD,
    "logit_mse": LogitMSE,
    "ctkd": CTKD,
    "dist": DIST,
    "dkd": DKD,
    "er_kd": ERKD,
    "label_smoothing": LabelSmoothing,
    "logit_standardisation": LogitStandardisation,
    "mlkd": MLKD,
    "nkd": NKD,
    "ofa_logit": OFALogit,
    "teacher_free": TeacherFree,
    "ttm": TTM,
    "wsld": WSLD,
    "wttm": WTTM,
    "mutual_learning": MutualLearning,
    "past_self": PastSelf,
}

__all__ = [
    "CTKD",
    "DIST",
    "DKD",
    "ERKD",
    "KD",
    "LOSSES",
    "MLKD",
    "NKD",
    "TTM",
    "WSLD",
    "WTTM",
    "CrossEntropy",
    "LabelSmoothing",
    "LogitMSE",
    "LogitStandardisation",
    "MutualLearning",
    "OFALogit",
    "PastSelf",
    "TeacherFree",
]
