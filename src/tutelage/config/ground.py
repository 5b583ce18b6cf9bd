"""Task-specific data, tokenizers and export of a job."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tutelage.data.sources import Splits
from tutelage.engine.writing import WritingSettings
from tutelage.tasks import Task


@dataclass(frozen=True, slots=True)
class Ground:
    """Task-specific parts of a job.

    Attributes:
        splits: The data.
        make_task: Makes the task, whatever the number of classes.
        save_student: Writes the student as a folder that its own library loads; None where its
            weights are enough.
        make_teacher_task: Makes the teacher's, where its tokenizer is another; else None.
        tokenizer: Of transformers; it reads for the student, where that writes.
        text_targets: What the student is written as beside its folder.
        writing: Text that is written while the student learns.
        facts: What networks may want to know of it.
        notes: What a reader must know.
    """

    splits: Splits
    make_task: Callable[[int], Task]
    save_student: Callable[[nn.Module, Path], None] | None
    make_teacher_task: Callable[[], Task] | None = None
    tokenizer: Any = None
    text_targets: tuple[str, ...] = ()
    writing: WritingSettings | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
