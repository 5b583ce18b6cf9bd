"""Distances between a student and what it learns from: pure functions and thin classes."""

from collections.abc import Mapping

from tutelage.losses.logit import KD, CrossEntropy, LogitMSE
from tutelage.losses.unaided import MutualLearning, PastSelf
from tutelage.objective import Loss

LOSSES: Mapping[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "kd": KD,
    "logit_mse": LogitMSE,
    "mutual_learning": MutualLearning,
    "past_self": PastSelf,
}

__all__ = ["KD", "LOSSES", "CrossEntropy", "LogitMSE", "MutualLearning", "PastSelf"]
