"""Tasks: one for each kind of label."""

from collections.abc import Callable, Mapping

from tutelage.tasks.base import Predictions, Task
from tutelage.tasks.classification import Classification
from tutelage.tasks.embedding import Embedding
from tutelage.tasks.language_modeling import LanguageModeling
from tutelage.tasks.token_classification import TokenClassification

TASKS: Mapping[str, Callable[[int], Task]] = {
    "classification": Classification,
    "token_classification": TokenClassification,
    "embedding": Embedding,
    "language_modeling": LanguageModeling,
}

__all__ = [
    "TASKS",
    "Classification",
    "Embedding",
    "LanguageModeling",
    "Predictions",
    "Task",
    "TokenClassification",
]
