"""Pages of image networks: pixels as the networks take them, and drawing like the data."""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.deploy.runtime import Arrays
from tutelage.errors import ConfigError, RunFolderError
from tutelage.inputs.image import MODES
from tutelage.playground.kinds import Kind
from tutelage.records import SoftTargetSample

INK = 64
STROKE_LENGTH = 2.2


@dataclass(frozen=True, slots=True)
class Hand:
    """How a drawing resembles the run's images, in shares of the image's side.

    Attributes:
        background: 0 for dark images with light strokes, 255 for light ones.
        extent: The longer side of what is drawn.
        pen: Width of the strokes.
    """

    background: int
    extent: float
    pen: float


@final
@dataclass(frozen=True, slots=True)
class Pictures(Kind):
    """The page of a run on images.

    Attributes:
        shape: Channels, height and width of what the networks take.
        hand: For drawings; None for colour images, which are taken as they are drawn.
    """

    shape: tuple[int, int, int]
    hand: Hand | None

    one: ClassVar[str] = "image"
    template: ClassVar[str] = "images.html.j2"
    scripts: ClassVar[tuple[str, ...]] = ("pixels.js", "paper.js", "images.js")

    @classmethod
    def of(cls, source: Path, taken: Sequence[int | str], shown: Sequence[str]) -> "Pictures":
        """Create from a run.

        Args:
            source: A network's file, for messages.
            taken: The shape that it takes.
            shown: The test images, PNG in base64.
        """
        shape = _shape_of(source, taken)
        images = [_pixels(image, shape) for image in shown]
        return cls(shape, measure_hand(images) if shape[0] == 1 else None)

    def arrays(self, sample: SoftTargetSample) -> Arrays:
        """A test image as the networks take it."""
        assert sample.image_png is not None
        return _pixels(sample.image_png, self.shape)[None].astype(np.float32) / np.float32(255)

    def script_data(self) -> dict[str, Any]:
        """Data for the scripts."""
        hand = None if self.hand is None else asdict(self.hand)
        return {"channels": self.shape[0], "size": self.shape[1], "hand": hand}


def _shape_of(source: Path, taken: Sequence[int | str]) -> tuple[int, int, int]:
    match taken:
        case [_, (1 | 3) as channels, int(height), int(width)] if height == width:
            return int(channels), height, width
    raise ConfigError(
        f"{source}: takes inputs of shape {tuple(taken)}. The playground shows square images: "
        "(batch, 1 or 3 channels, height, width), and texts."
    )


def _pixels(image_png: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An image as the networks' input, in bytes."""
    with Image.open(io.BytesIO(base64.b64decode(image_png))) as opened:
        image = np.array(opened.convert(MODES[shape[0]]), dtype=np.uint8)
    if image.shape[:2] != shape[1:]:
        raise RunFolderError(
            f"results.json: a sample is {image.shape[1]}×{image.shape[0]} pixels, the networks "
            f"take {shape[2]}×{shape[1]}. Run the recipe again."
        )
    return image.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)


def measure_hand(images: Sequence[NDArray[np.uint8]]) -> Hand:
    """Brightness, size and thickness of strokes in grey images.

    The pen is such that a figure of usual stroke length covers as much as the images' ink does.

    Args:
        images: Images of shape (1, height, width).
    """
    if not images:
        return Hand(background=0, extent=0.7, pen=0.09)
    stack = np.stack([image[0] for image in images]).astype(np.int64)
    edge = np.concatenate([stack[:, 0], stack[:, -1], stack[:, :, 0], stack[:, :, -1]], axis=1)
    background = 255 if np.median(edge) > 127 else 0
    ink = np.abs(stack - background)
    extents = [_extent(one > INK) for one in ink]
    extent = float(np.median(extents)) or 0.7
    pen = float(ink.mean()) / 255 / (STROKE_LENGTH * extent)
    return Hand(background, round(extent, 3), round(min(max(pen, 0.04), 0.2), 3))


def _extent(is_ink: NDArray[np.bool_]) -> float:
    """Longer side of the ink's bounding box, as a share of the image's."""
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    if not len(rows):
        return 0.0
    longer = int(max(np.ptp(rows), np.ptp(columns))) + 1
    return longer / len(is_ink)
