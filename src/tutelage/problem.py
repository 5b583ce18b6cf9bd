"""What is to be learned: data of some kind of input, with some kind of label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.data.sources import Splits
from tutelage.engine.generation import WritingSettings
from tutelage.tasks import Classification, Task


@dataclass(frozen=True, slots=True)
class Problem:
    """Data, task, and what the task brings with it.

    Attributes:
        splits: The data, which know their kind of input.
        task: The kind of label.
        teacher_task: The task as the teacher does it, where its tokenizer is another; else None.
        tokenizer: The tokenizer of a language model's student; None for others.
        save_student: Writes the student as a folder that its own library loads; None where its
            weights are enough.
        text_targets: Names of `tutelage.deploy.text_targets.TEXT_TARGETS`: files that a language
            model is written as beside its folder.
        writing: Settings of text that is generated while the student learns; None reads all of it.
        facts: Facts that networks may ask for, beside those of the data.
        notes: Notes for the reader of the results.
    """

    splits: Splits
    task: Task
    teacher_task: Task | None = None
    tokenizer: Any = None
    save_student: Callable[[nn.Module, Path], None] | None = None
    text_targets: tuple[str, ...] = ()
    writing: WritingSettings | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of_classes(cls, splits: Splits) -> "Problem":
        """Classification of the data's classes."""
        return cls(splits, Classification(len(splits.class_names)))

    def on(self, splits: Splits) -> "Problem":
        """The same with other data."""
        return replace(self, splits=splits)
