"""Decoding of images: depth, transparency, frames and orientation of a file."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageColor, ImageOps
from torch import Tensor

from tutelage.errors import ConfigError
from tutelage.inputs.image import MODES, WHITE

_DEEP_GREYS = 65535
_TWELVE_BITS = 4095
_OPAQUE = 255
_WHITE_IS_KNOWN = frozenset({"PNG", "PPM"})  # PIL brings their greys to 16 bits
_FEW_BITS = MappingProxyType({"L;2": 85, "L;4": 17})
_PROGRAMS = frozenset({"EPS", "WMF"})  # PIL hands them to Ghostscript, or to the system
_LOST_AT = 2  # times as long as wide: half of the image is outside of the centred square

TRAITS: Mapping[str, str] = MappingProxyType(
    {
        "transparent": "with transparent pixels, which show the background (data.background)",
        "deep": "with 16 bits per channel, read as 8",
        "dark": "with 16 bits per channel that use at most 12 of them and are nearly black as they "
        "are read (scale them to their full range)",
        "frames": "with several frames or pages, of which the first is read",
        "turned": "rotated upright by their EXIF orientation",
        "cmyk": "in CMYK, read without their colour profile",
        "profile": "with a colour profile other than sRGB, which is not applied",
        "colour": "in colour, read as grey (data.channels: 1)",
        "small": "smaller than data.image_size, which are enlarged",
        "narrow": "more than twice as long as wide, whose centred square shows less than half",
    }
)


def decode(
    file: Path, image_size: int, channels: int, background: str = WHITE
) -> UInt8[Tensor, "channels height width"]:
    """Read one image as a tensor.

    Of several frames the first is read. It is turned upright by its EXIF orientation, laid on the
    background where it is transparent, and scaled to 8 bits where it has 16.

    Args:
        file: The image.
        image_size: Width and height of what comes out, in pixels.
        channels: 3 for RGB, 1 for grey.
        background: Colour behind transparent pixels: a name or #rrggbb.

    Raises:
        Exception: Whatever the decoder says of a damaged file; an image of a suspicious size is
            refused before it is decoded.
    """
    if not file.is_file():
        raise FileNotFoundError("no such file")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as opened:
            if opened.format in _PROGRAMS:
                raise ValueError(f"a file of {opened.format} is a program, which is not run")
            opened.draft(None, (2 * image_size, 2 * image_size))  # a large JPEG decodes smaller
            upright = ImageOps.exif_transpose(_as_stored(opened))
            square = _resize(_convert(upright, MODES[channels], background), image_size)
    pixels = np.array(square, dtype=np.uint8).reshape(image_size, image_size, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def as_bytes(image: Image.Image) -> UInt8[np.ndarray, "channels height width"]:
    """A PIL image at its own size on a background: one channel if it is grey, else three."""
    image = _as_stored(image)
    is_grey = image.mode in ("1", "L", "LA", "La") or _is_deep(image)
    pixels = np.array(_convert(image, MODES[1 if is_grey else 3], WHITE), dtype=np.uint8)
    planes = pixels.reshape(*pixels.shape[:2], -1)
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def parse_colour(background: str) -> tuple[int, ...]:
    """Red, green and blue of a colour.

    Args:
        background: A name, as of CSS, or #rrggbb.

    Raises:
        ConfigError: It is no colour.
    """
    try:
        return ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise ConfigError(
            f"data.background: {background!r} is no colour. Give a name such as white or black, or "
            "#rrggbb."
        ) from error


def _as_stored(image: Image.Image) -> Image.Image:
    """An image with the white point and the transparent colour that only its file knows.

    Raises:
        ValueError: Whole numbers of 32 bits may be values of 8 bits as well as of 16.
    """
    clear = _clear_colour(image)  # first of all: once pixels are read, PIL forgets how they lay
    if image.mode == "I" and image.format not in _WHITE_IS_KNOWN:
        highest = int(np.asarray(image).max())
        if 0 < highest <= _OPAQUE:
            raise ValueError(
                f"pixels of mode I are at most {highest}, and nothing says whether white is 255 or "
                "65535: save them with 8 bits, or with 16"
            )
    if clear != image.info.get("transparency"):
        image.load()
        image.info["transparency"] = clear  # in place: the same image may be asked for again
    return image


def _clear_colour(image: Image.Image) -> object:
    """The transparent colour of a file, on the 8-bit scale of PIL's pixels.

    PIL scales greys of 2 and 4 bits, and keeps the upper half of 16-bit colours, but leaves this
    one as it is stored.
    """
    clear = image.info.get("transparency")
    tiles = getattr(image, "tile", ())
    stored = str(tiles[0][3]) if tiles else ""
    if isinstance(clear, int):
        return clear * _FEW_BITS.get(stored, 1)
    if isinstance(clear, tuple) and (stored == "RGB;16B" or max(clear) > _OPAQUE):
        return tuple(part >> 8 for part in clear)
    return clear


def _convert(image: Image.Image, mode: str, background: str) -> Image.Image:
    if _is_deep(image):
        image = _from_deep_greys(image)
    if image.has_transparency_data:
        image = _on_background(image, background)
    return image.convert(mode)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _on_background(image: Image.Image, background: str) -> Image.Image:
    """Composite an image with transparent pixels on a colour."""
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == _OPAQUE:
        return image
    ground = Image.new("RGBA", image.size, (*parse_colour(background), _OPAQUE))
    ground.alpha_composite(image)
    return ground


def _from_deep_greys(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys to 8 bits; PIL alone would clip them to white."""
    greys = np.asarray(image)
    if greys.dtype.kind == "f" or greys.min() < 0 or greys.max() > _DEEP_GREYS:
        raise ValueError(f"pixels of mode {image.mode} are not 8-bit or 16-bit values")
    scaled = np.rint(greys / (_DEEP_GREYS / 255)).astype(np.uint8)
    clear = image.info.get("transparency")
    if clear is None:
        return Image.fromarray(scaled)
    alpha = np.where(greys == clear, 0, _OPAQUE).astype(np.uint8)
    return Image.merge("LA", [Image.fromarray(scaled), Image.fromarray(alpha)])


def _resize(image: Image.Image, size: int) -> Image.Image:
    """Crop the largest centred square and resize it."""
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def describe_images(files: Iterable[Path], image_size: int, channels: int) -> list[str]:
    """Describe, with counts, what reading changes or drops.

    Args:
        files: Images that can be decoded.
        image_size: Width and height at which they are read, in pixels.
        channels: 3 for RGB, 1 for grey.

    Returns:
        A line for each trait that at least one image has.
    """
    counts: Counter[str] = Counter()
    total = 0
    for file in files:
        total += 1
        with Image.open(file) as image:
            counts.update(_traits(image, image_size, channels))
    return [
        f"Images {text}: {counts[name]:,} of {total:,}."
        for name, text in TRAITS.items()
        if counts[name]
    ]


def _traits(image: Image.Image, image_size: int, channels: int) -> Iterator[str]:
    short, long = sorted(image.size)
    is_deep = _is_deep(image) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    stored = _as_stored(image)
    has = {
        "frames": getattr(image, "is_animated", False),
        "turned": image.getexif().get(ExifTags.Base.Orientation, 1) != 1,
        "cmyk": image.mode == "CMYK",
        "profile": b"sRGB" not in image.info.get("icc_profile", b"sRGB"),
        "colour": channels == 1
        and not _is_deep(image)
        and image.mode not in ("1", "L", "LA", "La"),
        "small": short < image_size,
        "narrow": long > _LOST_AT * short,
        "deep": is_deep,
    }
    yield from (name for name, value in has.items() if value)
    if _is_deep(image) and np.asarray(image).max() <= _TWELVE_BITS:
        yield "dark"
    if stored.has_transparency_data and not _is_opaque(stored):
        yield "transparent"


def _is_opaque(image: Image.Image) -> bool:
    if _is_deep(image):
        image = _from_deep_greys(image)
    if image.mode == "La":
        image = image.convert("LA")
    return bool(image.convert("RGBA").getchannel("A").getextrema()[0] == _OPAQUE)
