"""Series: channels that change with time, all of one length or each of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tutelage.inputs.base import BATCH, LENGTH, Axes, InputKind, Norm, not_exported
from tutelage.inputs.channels import Normalisation
from tutelage.inputs.wrapping import with_norm
from tutelage.models.calling import call
from tutelage.types import Inputs, by_name

SERIES, MASK = "inputs", "mask"
NO_NORM: Norm = ((0.0,), (1.0,))


@final
class SeriesInputs(InputKind):
    """Series as one tensor (samples, channels, steps) where they are all of one length.

    Where they differ, they are filled up with 0 to the longest of the batch and come by name:
    `inputs`, and `mask`, which is True where a step belongs to its series. A network takes both.

    Args:
        mean: Per channel; None takes values as they are.
        std: As mean.
    """

    name = "series"

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        """Hold the normalisation."""
        self.normalisation = Normalisation(mean, std)
        self.norm = self.normalisation.norm

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:
        """Series by name with their mask; one tensor alone is taken for an array."""
        return isinstance(inputs, Mapping) and {*inputs} == {SERIES, MASK}

    @property
    def fingerprint(self) -> str:
        """The normalisation."""
        return self.normalisation.fingerprint

    def facts(self, inputs: Inputs) -> dict[str, Any]:
        """Channels alone: a network takes series of any length."""
        return {"in_channels": self.num_channels(inputs)}

    def num_channels(self, inputs: Inputs) -> int:
        """Size of the second axis."""
        return by_name(inputs)[SERIES].shape[1]

    def length(self, inputs: Inputs) -> int:
        """Steps of the longest series."""
        return by_name(inputs)[SERIES].shape[2]

    def lengths(self, inputs: Inputs) -> Int[Tensor, " batch"] | None:
        """Steps of each series; None where all are of one length."""
        mask = by_name(inputs).get(MASK)
        return None if mask is None else mask.sum(dim=1)

    def cut(self, inputs: Inputs, rows: Int[Tensor, " rows"], length: int) -> Inputs:
        """Some series, filled up at their end."""
        series, mask = by_name(inputs)[SERIES][rows], by_name(inputs)[MASK][rows]
        missing = length - mask.shape[1]
        if missing <= 0:
            return {SERIES: series[:, :, :length], MASK: mask[:, :length]}
        pad = nn.functional.pad
        return {SERIES: pad(series, (0, missing)), MASK: pad(mask, (0, missing))}

    def as_rows(self, inputs: Inputs) -> Tensor | None:
        """All numbers of each series, where all are of one length."""
        return inputs.flatten(start_dim=1) if isinstance(inputs, Tensor) else None

    def normalise(self, inputs: Inputs) -> Inputs:
        """Each channel with mean 0 and standard deviation 1, and 0 where a series is filled up."""
        return _masked(inputs, self.normalisation.apply)

    def export_inputs(self, inputs: Inputs) -> Inputs:
        """Values as they came: the normalisation is inside of the files."""
        return _masked(inputs, self.normalisation.undo)

    def wrap_for_export(self, model: nn.Module, inputs: Inputs) -> nn.Module:
        """The network with its normalisation inside."""
        if isinstance(inputs, Tensor):
            return with_norm(model, self.norm, inputs)
        return SeriesNetwork(model, self.norm or NO_NORM)

    def check_export(self, who: str, inputs: Inputs) -> None:
        """Refuse other tensors than series and their mask."""
        if not isinstance(inputs, Tensor) and not self.fits(inputs):
            raise not_exported(who, inputs)

    def axes(self, inputs: Inputs) -> Axes:
        """Any number of series, of any length."""
        steps = {SERIES: {0: BATCH, 2: LENGTH}, MASK: {0: BATCH, 1: LENGTH}}
        return {name: steps[name] for name in by_name(inputs)}

    def describe_export(self, inputs: Inputs, raw: Inputs) -> Any:
        """Each input, and the normalisation that is inside of the files."""
        first, *others = super().describe_export(inputs, raw)
        first |= self.normalisation.describe(by_name(raw)[SERIES])
        return [first, *others] if others else first

    def cost_note(self, inputs: Inputs, data: str) -> str:
        """How long the series is."""
        return (
            f"MACs and latencies are of series of {self.length(inputs)} steps, the median of the "
            f"{data} series."
        )


class SeriesNetwork(nn.Module):
    """A network of series of several lengths with its normalisation.

    Args:
        model: Takes series and their mask.
        norm: Mean and standard deviation of each channel.
    """

    def __init__(self, model: nn.Module, norm: Norm) -> None:
        """Hold the network, and the normalisation as buffers."""
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.model = model
        self.register_buffer("mean", torch.tensor(norm[0])[:, None])
        self.register_buffer("std", torch.tensor(norm[1])[:, None])

    def forward(
        self, inputs: Float[Tensor, "batch channels steps"], mask: Bool[Tensor, "batch steps"]
    ) -> Tensor:
        """Logits."""
        normed = (inputs - self.mean) / self.std * mask[:, None]
        return call(self.model, {SERIES: normed, MASK: mask})


def _masked(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Series changed, with 0 where they are filled up."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {SERIES: change(inputs[SERIES]) * inputs[MASK][:, None], MASK: inputs[MASK]}
