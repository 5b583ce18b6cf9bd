"""Training: one step (distiller.py), the loop around it (fit.py), and its results."""

from tutelage.engine.distiller import Distiller
from tutelage.engine.fit import Arm, FitResult, fit
from tutelage.engine.settings import OptimizerSettings, ScheduleSettings, TrainSettings
from tutelage.engine.training_module import TrainingModule

__all__ = [
    "Arm",
    "Distiller",
    "FitResult",
    "OptimizerSettings",
    "ScheduleSettings",
    "TrainSettings",
    "TrainingModule",
    "fit",
]
