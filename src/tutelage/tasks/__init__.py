"""Tasks, one per kind of label."""

from collections.abc import Mapping

from tutelage.tasks.base import Predictions, Task
from tutelage.tasks.classification import Classification
from tutelage.tasks.embedding import Embedding
from tutelage.tasks.language_modeling import LanguageModeling
from tutelage.tasks.multi_label import MultiLabel
from tutelage.tasks.regression import GaussianRegression, Regression
from tutelage.tasks.token_classification import TokenClassification

TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "multi_label": MultiLabel,
    "regression": Regression,
    "gaussian_regression": GaussianRegression,
    "embedding": Embedding,
    "language_modeling": LanguageModeling,
}

__all__ = [
    "TASKS",
    "Classification",
    "Embedding",
    "GaussianRegression",
    "LanguageModeling",
    "MultiLabel",
    "Predictions",
    "Regression",
    "Task",
    "TokenClassification",
]
