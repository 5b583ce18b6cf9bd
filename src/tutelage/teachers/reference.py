"""Data whose labels are the teacher's outputs."""

from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tutelage.data.sources import Samples, Source
from tutelage.inputs import InputKind
from tutelage.tasks import Task
from tutelage.teachers.module import ModuleTeacher
from tutelage.types import Batch


class ReferenceSource(Source):
    """Samples labelled by a teacher's outputs, each computed once.

    Args:
        source: The samples.
        model: The teacher's network, as it is.
        task: How it is called.
        chunk: Rows of each of its forwards.
    """

    def __init__(self, source: Source, model: nn.Module, task: Task, chunk: int = 64) -> None:
        """Start without labels."""
        self.source = source
        self.teacher = ModuleTeacher(model, task, chunk=chunk, inputs=source.input_kind)
        self.in_memory = source.in_memory
        self.lengths = source.lengths
        self.fingerprint = f"{source.fingerprint} by {self.teacher.fingerprint}"
        self._known: dict[int, Tensor] = {}

    @cached_property
    def input_kind(self) -> InputKind:
        """As of the samples themselves."""
        return self.source.input_kind

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.source)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Inputs, with the teacher's vectors as labels."""
        inputs, _ = self.source.fetch(ids)
        numbers = ids.tolist()
        if any(number not in self._known for number in numbers):
            said = self.teacher(
                Batch(inputs, None, ids, torch.zeros_like(ids)).to(self.teacher.device)
            )
            self._known |= dict(zip(numbers, said.embeddings.cpu(), strict=True))
        return inputs, torch.stack([self._known[number] for number in numbers])
