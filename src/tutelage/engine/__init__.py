"""Training: one step (distiller.py), the loop around it (fit.py), and its results."""

from tutelage.engine.distiller import Distiller
from tutelage.engine.fit import Arm, Fitted, fit
from tutelage.engine.settings import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.engine.trainee import Trainee

__all__ = [
    "Arm",
    "Distiller",
    "Fitted",
    "OptimizerSettings",
    "ScheduleSettings",
    "TrainSettings",
    "Trainee",
    "fit",
]
