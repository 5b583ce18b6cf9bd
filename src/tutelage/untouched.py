"""Detection of losses that write into a batch."""

from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.types import Batch, Outputs


class Untouched:
    """Tensors of one batch that all terms read and none may change."""

    def __init__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Record the version counter of each tensor."""
        said = [student] if teacher is None else [student, teacher]
        tensors = [
            tensor for outputs in said for tensor in (outputs.scores, *outputs.features.values())
        ]
        told = [*tensors, batch.labels, batch.mask]
        self.tensors = [tensor for tensor in told if isinstance(tensor, Tensor)]
        self.versions = self._now()

    def _now(self) -> list[int]:
        return [0 if tensor.is_inference() else tensor._version for tensor in self.tensors]

    def check(self, name: str) -> None:
        """Refuse a loss that wrote into any of them, because other terms would read the change.

        Args:
            name: Name of the loss's term, for the message.

        Raises:
            ConfigError: It did.
        """
        if self._now() != self.versions:
            raise ConfigError(
                f"Loss {name!r} writes in place into logits, features, labels or a mask, "
                "which other losses read too. Let it work on a copy (x = x.clone())."
            )
