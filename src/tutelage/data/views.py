"""Views: numbered, replayable versions of a sample, so that teachers can be cached."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from tutelage.data.randomness import random_state_kept, seed_random
from tutelage.errors import ConfigError, ShapeError
from tutelage.files import fingerprint

_MIX_STEP = -0x61C8864680B583EB
_MIX_FIRST = -0x40A7B892E31B1A47
_MIX_SECOND = -0x6B2FB644ECCEEE15
_NODES = 6  # along each axis of the grid that bends; between them the bending is smooth


def mix(*numbers: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """Hash whole numbers to uniform 63-bit ones, the same on every machine.

    Source:
        Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
    """
    state = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        state = state + _MIX_STEP + number
        state = (state ^ (state >> 30 & (1 << 34) - 1)) * _MIX_FIRST
        state = (state ^ (state >> 27 & (1 << 37) - 1)) * _MIX_SECOND
        state = state ^ (state >> 31 & (1 << 33) - 1)
    return state & (1 << 63) - 1


class ViewPolicy(ABC):
    """A finite set of views of every sample, each a pure function of sample and view number.

    Attributes:
        num_views: How many views each sample has.
        fingerprint: Changes when any view would change.
    """

    num_views: int
    fingerprint: str

    @abstractmethod
    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """The given view of each sample."""

    def choose(
        self, sample_ids: Int[Tensor, " batch"], epoch: int, seed: int
    ) -> Int[Tensor, " batch"]:
        """The view of each sample in an epoch: uniform, and independent of the order."""
        return mix(sample_ids, epoch, seed) % self.num_views


def check_policy(policy: ViewPolicy, what: str = "views") -> None:
    """Refuse a policy that does not say how many views there are, or what they are.

    Args:
        policy: Somebody's own.
        what: The key or argument that gives it, for messages.

    Raises:
        ConfigError: `num_views` or `fingerprint` is missing, or no such value.
    """
    count, text = getattr(policy, "num_views", None), getattr(policy, "fingerprint", None)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(
            f"{what}: num_views of {type(policy).__name__} is {count!r}. Set it to the number of "
            "views of every sample, 1 or more."
        )
    if not isinstance(text, str) or not text:
        raise ConfigError(
            f"{what}: fingerprint of {type(policy).__name__} is {text!r}. Set it to a text that "
            "names the views and all their settings: a cache of other views is known by it."
        )


@final
class Identity(ViewPolicy):
    """A single view: the sample unchanged."""

    num_views = 1
    fingerprint = "identity"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """The inputs themselves."""
        return inputs


@final
class Shift(ViewPolicy):
    """Images moved by up to a few pixels each way, edges filled with black.

    Args:
        pixels: Largest move along each axis; 2 gives 25 views.
    """

    def __init__(self, pixels: int = 2) -> None:
        """Count the views."""
        self.pixels = _at_least_one("pixels", pixels)
        self.num_views = (2 * pixels + 1) ** 2
        self.fingerprint = f"shift({pixels})"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """Images moved down by p - view // (2p+1) and right by p - view % (2p+1) pixels."""
        return _window(inputs, self.pixels, view_ids)


@final
class CropFlip(ViewPolicy):
    """Random crop with black padding, and horizontal flip: CIFAR's standard augmentation.

    Args:
        padding: Pixels added on each side before the crop; 4 gives 162 views.
    """

    def __init__(self, padding: int = 4) -> None:
        """Count the views."""
        self.padding = _at_least_one("padding", padding)
        self.num_views = 2 * (2 * padding + 1) ** 2
        self.fingerprint = f"crop_flip({padding})"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """Crop by view // 2, flipped where the view is odd."""
        cropped = _window(inputs, self.padding, view_ids // 2)
        flipped = (view_ids % 2 == 1).view(-1, 1, 1, 1)
        return torch.where(flipped, cropped.flip(dims=(-1,)), cropped)


@final
class Elastic(ViewPolicy):
    """Images slightly rotated, scaled, moved and deformed: for handwriting and drawings.

    What comes in from outside repeats the edge. All views of a batch are made at once, so that they
    cost little beside a training.

    Args:
        num_views: Draws per sample.
        degrees: Furthest turn.
        stretch: Largest share by which an axis grows or shrinks, 0 to below 1.
        pixels: Furthest move along each axis.
        bend: Furthest that a place is moved for itself, in pixels; neighbouring places go together.
        seed: Random seed of the views.

    Source:
        Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks applied
        to visual document analysis".
    """

    def __init__(
        self,
        num_views: int,
        degrees: float = 10.0,
        stretch: float = 0.1,
        pixels: float = 2.0,
        bend: float = 1.5,
        seed: int = 0,
    ) -> None:
        """Store the limits."""
        self.num_views = _at_least_one("num_views", num_views)
        limits = {"degrees": degrees, "stretch": stretch, "pixels": pixels, "bend": bend}
        for name, value in limits.items():
            if not 0 <= value < (1 if name == "stretch" else math.inf):
                end = " and below 1" if name == "stretch" else ""
                raise ConfigError(f"views: {name} must be 0 or more{end}, got {value!r}.")
        self.limits = torch.tensor([math.radians(degrees), stretch, stretch, pixels, pixels])
        self.bend = bend
        self.seed = seed
        told = ",".join(str(float(value)) for value in limits.values())
        self.fingerprint = f"elastic({num_views},{told},{seed})"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """Images resampled at deformed positions, bilinearly; whole numbers stay whole."""
        _check_images(inputs, "elastic views need")
        count, _, height, width = inputs.shape
        number = torch.arange(len(self.limits) + 2 * _NODES**2)
        named = torch.broadcast_tensors(sample_ids[:, None], view_ids[:, None], number)
        drawn = mix(*named, self.seed)
        even = (drawn / 2.0**62 - 1).float()  # from -1 to 1
        shape, nodes = even.tensor_split([len(self.limits)], dim=1)
        turn, wide, high, right, down = (self.limits * shape).T[..., None, None]
        coarse = self.bend * nodes.view(count, 2, _NODES, _NODES)
        bent = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
        bent = bent.clamp(-self.bend, self.bend)  # the curves overshoot their nodes
        y = (torch.arange(height) - (height - 1) / 2)[None, :, None]
        x = (torch.arange(width) - (width - 1) / 2)[None, None, :]
        across = (1 + wide) * (turn.cos() * x - turn.sin() * y) + right + bent[:, 0]
        along = (1 + high) * (turn.sin() * x + turn.cos() * y) + down + bent[:, 1]
        places = torch.stack([2 * across / width, 2 * along / height], dim=-1).to(inputs.device)
        moved = F.grid_sample(inputs.float(), places, padding_mode="border", align_corners=False)
        return (moved if inputs.is_floating_point() else moved.round()).to(inputs.dtype)


@final
class SeededViews(ViewPolicy):
    """A fixed number of draws from any random pipeline, each with its own seed.

    Args:
        transform: Any torchvision v2 pipeline, or another callable on one sample that draws from
            the random numbers of torch, NumPy or Python.
        num_views: Draws per sample.
        seed: Another seed gives other draws.
        version: What the fingerprint says of the transform; its `repr` if not given.
    """

    def __init__(
        self,
        transform: Callable[[Tensor], Tensor],
        num_views: int,
        seed: int = 0,
        version: str | None = None,
    ) -> None:
        """Hold the pipeline."""
        self.transform = transform
        self.num_views = _at_least_one("num_views", num_views)
        self.seed = seed
        text = version or repr(transform)
        if " at 0x" in text:
            raise ConfigError(
                f"views: {text} cannot be told from another transform by its repr. Pass version=, "
                "a text that changes when the transform does, or use a torchvision v2 pipeline."
            )
        self.fingerprint = f"seeded({fingerprint([text, seed])},{num_views})"

    def apply(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        sample_ids: Int[Tensor, " batch"],
        view_ids: Int[Tensor, " batch"],
    ) -> Shaped[Tensor, "batch ..."]:
        """Each sample transformed with the seed of its view."""
        seeds = mix(sample_ids, view_ids, self.seed).tolist()
        with random_state_kept():
            views = [self._draw(sample, seed) for sample, seed in zip(inputs, seeds, strict=True)]
        if len({view.shape for view in views}) > 1:
            raise ShapeError(
                f"views: {self.transform} gives views of different shapes "
                f"({sorted({tuple(view.shape) for view in views})}). End it with a resize or crop."
            )
        return torch.stack(views)

    def _draw(self, sample: Tensor, seed: int) -> Tensor:
        seed_random(seed)
        return self.transform(sample)


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"views: {name} must be 1 or more, got {value!r}. Write a whole number.")
    return value


def _window(inputs: Tensor, pixels: int, offsets: Tensor) -> Tensor:
    """Windows of padded images; offsets are numbered row by row."""
    _check_images(inputs, "shifting needs")
    count, channels, height, width = inputs.shape
    padded = F.pad(inputs, (pixels, pixels, pixels, pixels)).contiguous()
    of_image, of_channel, of_row, _ = padded.stride()
    size, side = (channels, height, width), 2 * pixels + 1
    starts = torch.arange(count) * of_image + offsets // side * of_row + offsets % side
    last = padded.numel() - (channels - 1) * of_channel - (height - 1) * of_row - width
    windows = padded.as_strided((last + 1, *size), (1, of_channel, of_row, 1))  # at every element
    return windows.index_select(dim=0, index=starts.to(inputs.device))


def _check_images(inputs: Tensor, what: str) -> None:
    if inputs.ndim != 4:
        raise ShapeError(
            f"views: {what} images (batch, channels, height, width), got inputs of shape "
            f"{tuple(inputs.shape)}. Use identity views for data that is no image."
        )


def standard_pipeline(
    image_size: int, num_views: int, *, min_scale: float = 0.6, seed: int = 0
) -> SeededViews:
    """Random resized crop, flip and mild colour changes: a usual choice for photographs.

    Args:
        image_size: Height and width of the views.
        num_views: Draws per sample.
        min_scale: Smallest share of the area that a crop keeps, above 0 to 1.
        seed: Random seed of the views.
    """
    from torchvision.transforms import v2

    pipeline = v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(min_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )
    return SeededViews(pipeline, num_views=num_views, seed=seed)


VIEWS: Mapping[str, Callable[..., Any]] = {
    "identity": Identity,
    "shift": Shift,
    "crop_flip": CropFlip,
    "elastic": Elastic,
    "standard": standard_pipeline,
}
