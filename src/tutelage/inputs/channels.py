"""Normalisation of inputs that have channels."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ConfigError, DataError
from tutelage.inputs.base import Norm


class Normalisation:
    """Brings each channel to mean 0 and standard deviation 1, and back.

    Bytes are scaled to 0..1 first, whether or not there is a mean.

    Args:
        mean: Per channel, of inputs scaled to 0..1; None normalises nothing.
        std: Standard deviations, in the form of `mean`.

    Raises:
        ConfigError: One of the two is given without the other.
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        """Hold both as tensors."""
        if (mean is None) != (std is None):
            raise ConfigError("mean and std belong together; give both or neither.")
        self.norm: Norm | None = None if mean is None or std is None else (tuple(mean), tuple(std))
        self.mean = None if mean is None else torch.tensor(mean)
        self.std = None if std is None else torch.tensor(std)

    @property
    def fingerprint(self) -> str:
        """Both as they are computed with."""
        mean = None if self.mean is None else self.mean.tolist()
        std = None if self.std is None else self.std.tolist()
        return f"mean={mean} std={std}"

    def describe(self, raw: Tensor) -> dict[str, Any]:
        """For config.json: the range of what files take, and what they do to it inside."""
        mean, std = self.norm or (None, None)
        return {
            "range": [0, 1] if raw.dtype == torch.uint8 else None,
            "normalisation": {"in_the_files": True, "mean": mean, "std": std},
        }

    def apply(self, inputs: Tensor) -> Tensor:
        """Raw inputs normalised."""
        is_bytes = inputs.dtype == torch.uint8
        if self.mean is None or self.std is None:
            return inputs.float().div_(255) if is_bytes else inputs
        mean, std = of_channels(self.mean, inputs), of_channels(self.std, inputs)
        if is_bytes:  # one multiplication and one subtraction, both in place
            return inputs.float().mul_(1 / (255 * std)).sub_(mean / std)
        return (inputs - mean).div_(std)

    def undo(self, inputs: Tensor) -> Tensor:
        """Normalised inputs as they were before, bytes as 0..1."""
        if self.mean is None or self.std is None:
            return inputs
        return inputs * of_channels(self.std, inputs) + of_channels(self.mean, inputs)


def of_channels(values: Float[Tensor, " channels"], inputs: Tensor) -> Tensor:
    """Values of the channels, shaped so that they fit inputs of any number of further axes.

    Raises:
        DataError: There are not as many as the inputs have channels.
    """
    if inputs.ndim < 2 or inputs.shape[1] != len(values):
        raise DataError(
            f"mean and std have {len(values)} values, one a channel, but the inputs have the shape "
            f"{tuple(inputs.shape)} (samples, channels, ...). Give one for each channel."
        )
    return values.view(-1, *(1,) * (inputs.ndim - 2))
