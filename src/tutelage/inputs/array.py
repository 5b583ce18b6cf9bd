"""Arrays of numbers, all of one shape: vectors, signals, anything that one tensor holds."""

from collections.abc import Sequence
from typing import Any, final

from jaxtyping import Int
from torch import Tensor, nn

from tutelage.inputs.base import InputKind, Views
from tutelage.inputs.channels import Normalisation
from tutelage.inputs.wrapping import with_norm
from tutelage.types import Inputs, one_tensor


@final
class ArrayInputs(InputKind):
    """One tensor of samples of one shape: (samples, channels, ...).

    Args:
        mean: Per channel, of inputs scaled to 0..1; None takes them as they are, bytes as 0..1.
        std: Standard deviations, in the form of `mean`.
    """

    name = "array"
    is_padded = False

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        """Hold the normalisation."""
        self.normalisation = Normalisation(mean, std)
        self.norm = self.normalisation.norm

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:
        """Any one tensor."""
        return isinstance(inputs, Tensor)

    def normalised_by(
        self, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> "ArrayInputs":
        """The same with this normalisation."""
        return ArrayInputs(mean, std)

    @property
    def fingerprint(self) -> str:
        """The normalisation."""
        return self.normalisation.fingerprint

    def num_channels(self, inputs: Inputs) -> int | None:
        """Size of the second axis, where there is one."""
        shape = one_tensor(inputs).shape
        return shape[1] if len(shape) > 1 else None

    def as_rows(self, inputs: Inputs) -> Tensor:
        """All numbers of each sample."""
        return one_tensor(inputs).flatten(start_dim=1)

    def facts(self, inputs: Inputs) -> dict[str, Any]:
        """Channels, and the size of the last axis; a vector is an image of one pixel."""
        shape = one_tensor(inputs).shape
        return {"in_channels": shape[1], "image_size": shape[-1] if len(shape) > 2 else 1}

    def view(
        self,
        inputs: Inputs,
        views: Views,
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Inputs:
        """The given view of each sample."""
        return views.apply(one_tensor(inputs), sample_ids, view_ids)

    def normalise(self, inputs: Inputs) -> Inputs:
        """Each channel with mean 0 and standard deviation 1."""
        return self.normalisation.apply(one_tensor(inputs))

    def export_inputs(self, inputs: Inputs) -> Inputs:
        """Values as they came, bytes as 0..1: the normalisation is inside of the files."""
        return self.normalisation.undo(one_tensor(inputs))

    def wrap_for_export(self, model: nn.Module, inputs: Inputs) -> nn.Module:
        """The network with its normalisation inside."""
        return with_norm(model, self.norm, one_tensor(inputs))

    def check_export(self, who: str, inputs: Inputs) -> None:
        """One tensor is taken by every kind of file."""

    def describe_export(self, inputs: Inputs, raw: Inputs) -> Any:
        """One input, its range and the normalisation that is inside of the files."""
        (only,) = super().describe_export(inputs, raw)
        return only | self.normalisation.describe(one_tensor(raw))
