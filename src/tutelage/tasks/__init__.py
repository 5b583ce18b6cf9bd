"""Tasks: one for each kind of label."""

from tutelage.tasks.classification import Classification

__all__ = ["Classification"]
