"""Images: channels, height and width."""

import base64
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.inputs.base import InputKind, Views
from tutelage.inputs.channels import Normalisation
from tutelage.inputs.wrapping import with_norm
from tutelage.types import Inputs, one_tensor

IMAGE_AXES = 4
WHITE = "white"
MODES: Mapping[int, str] = MappingProxyType({1: "L", 3: "RGB"})
"""Pillow's modes of images by their channels."""


@final
class ImageInputs(InputKind):
    """Images as one tensor (samples, channels, height, width), bytes or numbers.

    Args:
        mean: Per channel, of pixels scaled to 0..1; None leaves them at 0..1.
        std: Standard deviations, in the form of `mean`.
        background: Colour that transparent pixels were laid on, as Pillow names it.
    """

    name = "image"
    is_padded = False

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        background: str = WHITE,
    ) -> None:
        """Hold the normalisation."""
        self.normalisation = Normalisation(mean, std)
        self.norm = self.normalisation.norm
        self.background = background

    @classmethod
    def fits(cls, inputs: Inputs) -> bool:
        """One tensor of four axes."""
        return isinstance(inputs, Tensor) and inputs.ndim == IMAGE_AXES

    def normalised_by(
        self, mean: Sequence[float] | None, std: Sequence[float] | None
    ) -> "ImageInputs":
        """The same with this normalisation."""
        return ImageInputs(mean, std, self.background)

    @property
    def fingerprint(self) -> str:
        """The normalisation."""
        return self.normalisation.fingerprint

    def num_channels(self, inputs: Inputs) -> int | None:
        """Size of the second axis."""
        return one_tensor(inputs).shape[1]

    def image_shape(self, inputs: Inputs) -> tuple[int, int, int] | None:
        """Sizes of all axes but the first."""
        match tuple(one_tensor(inputs).shape):
            case (_, channels, height, width):
                return channels, height, width
        return None

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
        """The given view of each image."""
        return views.apply(one_tensor(inputs), sample_ids, view_ids)

    def normalise(self, inputs: Inputs) -> Inputs:
        """Each channel with mean 0 and standard deviation 1."""
        return self.normalisation.apply(one_tensor(inputs))

    def export_inputs(self, inputs: Inputs) -> Inputs:
        """Pixels of 0..1: the normalisation is inside of the files."""
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

    def preprocessing(self, raw: Inputs) -> dict[str, Any]:
        """How an image becomes pixels; of images that came as numbers nobody knows."""
        pixels = one_tensor(raw)
        channels, height, width = pixels.shape[1:]
        if pixels.dtype != torch.uint8 or channels not in MODES:
            return {"kind": "array"}
        return {
            "kind": "picture",
            "mode": MODES[channels],
            "height": height,
            "width": width,
            "background": self.background,
            "steps": [
                "turn it upright by its EXIF orientation",
                f"lay what is transparent on {self.background}",
                f"bring it to {MODES[channels]}, 16-bit greys divided by 257",
                f"cut out the largest centred part of {width}:{height}",
                f"resize to {width} x {height}, bilinear as Pillow does it",
                "channels first, divided by 255; mean and std are inside the files",
            ],
        }

    def image_png(self, inputs: Inputs) -> str | None:
        """The image, where it is grey or RGB and no mere line."""
        return png(one_tensor(inputs)[0])


def png(pixels: Float[Tensor, "channels height width"]) -> str | None:
    """An image as PNG in base64; None where it is neither grey nor RGB, or a mere line."""
    if pixels.shape[0] not in MODES or min(pixels.shape[1:]) < 2:
        return None
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(pixels.clamp(0, 1).mul(255).round().byte()).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
