"""Images in folders, one folder per class, decoded on demand and never kept."""

import hashlib
import os
import stat
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from tutelage.data.decoding import decode, describe_images, parse_colour
from tutelage.data.labels import check_missing, some_names, sort_names
from tutelage.data.sources import Source, Splits, SubsetSource, split_off
from tutelage.errors import ConfigError, DataError
from tutelage.inputs.image import MODES, WHITE, ImageInputs
from tutelage.wording import quantity

DEFAULT_MEAN: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {1: (0.5,), 3: (0.485, 0.456, 0.406)}
)
DEFAULT_STD: Mapping[int, tuple[float, ...]] = MappingProxyType(
    {1: (0.5,), 3: (0.229, 0.224, 0.225)}
)
PART_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "valid": "valid",
        "val": "valid",
        "validation": "valid",
        "dev": "valid",
        "test": "test",
        "testing": "test",
    }
)

_CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"})


class ImageFolder(Source):
    """Images in one folder with a subfolder per class.

    Every file counts as an image, in subfolders of a class too, except hidden ones and what
    systems strew about (Thumbs.db). An image is turned upright by its EXIF orientation, laid on
    the background where it is transparent, brought to grey or RGB (16 bits are scaled to 8), and
    its largest centred square is resized. That is the usual resize of the short side and centre
    crop in one, without a huge image in between.

    The fingerprint covers the relative path and the size of every file and the settings, not the
    pixels.

    Args:
        path: The folder.
        image_size: Width and height of the images that come out, in pixels.
        channels: 3 for RGB, 1 for grey.
        background: Colour behind transparent pixels: a name or #rrggbb.

    Attributes:
        class_names: Names of the subfolders, numbers by size and then others by letters; their
            places are the labels.
        labels: One an image.
    """

    in_memory = False
    has_files = True

    def __init__(
        self, path: Path, image_size: int, channels: int = 3, background: str = WHITE
    ) -> None:
        """List the files; no image is opened."""
        _check_settings(image_size, channels)
        self.path = path
        self.image_size = image_size
        self.channels = channels
        self.background = background
        folders = _folders_of_classes(path)
        self.class_names = tuple(sort_names(folders))
        _check_classes(path, self.class_names)
        self._list_files([folders[name] for name in self.class_names])

    def _list_files(self, folders: Sequence[str]) -> None:
        """Store the paths in one block of bytes, cheap to keep and to share with workers."""
        paths, ends, labels = bytearray(), array("q"), array("q")
        digest = hashlib.sha256(repr(self._facts).encode())
        for label, name in enumerate(folders):
            before = len(ends)
            for relative, size in _files(self.path, name):
                paths += os.fsencode(relative)
                ends.append(len(paths))
                labels.append(label)
                digest.update(os.fsencode(relative) + b"\0%d\0" % size)
            if len(ends) == before:
                raise DataError(
                    f"{self.path / name}: the class has no images. Add some, or remove it."
                )
        self._paths = bytes(paths)
        self._ends = torch.frombuffer(ends, dtype=torch.long)
        self.labels = torch.frombuffer(labels, dtype=torch.long)
        self.fingerprint = digest.hexdigest()[:16]

    @property
    def _facts(self) -> tuple[object, ...]:
        return (self.image_size, self.channels, parse_colour(self.background))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def fetch(
        self, ids: Int[Tensor, " batch"]
    ) -> tuple[UInt8[Tensor, "batch channels height width"], Int[Tensor, " batch"]]:
        """Images with these numbers, decoded now, and their labels.

        Raises:
            DataError: A file is damaged, no image, too large or gone; the message names it.
        """
        size = self.image_size
        pictures = torch.empty((len(ids), self.channels, size, size), dtype=torch.uint8)
        for place, number in enumerate(ids.tolist()):
            pictures[place] = self._decode(self.file(number))
        return pictures, self.labels[ids]

    def file(self, number: int) -> Path:
        """The file of a sample.

        Args:
            number: Number of the sample, from 0.
        """
        start = int(self._ends[number - 1]) if number else 0
        return self.path / os.fsdecode(self._paths[start : int(self._ends[number])])

    def check_all(self) -> list[str]:
        """Decode every image once, and report each damaged one.

        Returns:
            One message for each file that training would stumble over; it names the file.
        """
        return [problem for i in range(len(self)) if (problem := self._problem(self.file(i)))]

    def describe(self) -> list[str]:
        """Describe, with counts, what reading changes or drops."""
        files = (self.file(number) for number in range(len(self)))
        return describe_images(files, self.image_size, self.channels)

    def _problem(self, file: Path) -> str:
        try:
            self._decode(file)
        except DataError as error:
            return str(error)
        return ""

    def _decode(self, file: Path) -> UInt8[Tensor, "channels height width"]:
        try:
            return decode(file, self.image_size, self.channels, self.background)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DataError(
                f"{file}: the image is too large to decode safely ({error}). Make it smaller, "
                "remove it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it."
            ) from error
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise DataError(
                f"{file}: cannot be read as an image ({type(error).__name__}: {error}). Mend or "
                "remove it."
            ) from error


def load_image_folder(  # noqa: PLR0913 - the keys of data in a recipe
    path: Path | str,
    image_size: int,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    channels: int = 3,
    background: str = WHITE,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """Load a folder of images, split by its subfolders or at random.

    Either the folder has `train/`, and perhaps `valid/` (or `val/`) and `test/`, each with one
    subfolder a class; or it has the class folders themselves. (`Training/`, `validation/` and the
    like are understood.) A part that is not there is taken
    from the training part at random, every class by its share.

    Args:
        path: The folder.
        image_size: Width and height of the images that come out, in pixels.
        valid_fraction: Share of the training part set aside for model selection, where there is
            no `valid/`; 0 for none.
        test_fraction: Share of all images set aside for testing, where there is no `test/`.
        seed: The same seed gives the same split.
        channels: 3 for RGB, 1 for grey.
        background: Colour behind transparent pixels: a name or #rrggbb.
        mean: Per channel, of values scaled to 0..1; ImageNet's if left out, 0.5 for grey.
        std: Standard deviations, in the form of `mean`.

    Returns:
        Parts that decode images when asked, and never keep them.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The folders do not hold at least two classes with images each, the same in
            all parts, or a share leaves a part or a class without samples.
    """
    _check_settings(image_size, channels)
    mean, std = _normalisation(channels, mean, std)
    root = Path(os.path.expanduser(path))
    folders = _part_folders(root)
    given = {
        name: ImageFolder(folder, image_size, channels, background)
        for name, folder in folders.items()
    }
    train = given["train"]
    for folder in given.values():
        _check_same_classes(train, folder)
    rest, test = _take(train, given.get("test"), test_fraction, seed)
    rest, valid = _take(rest, given.get("valid"), valid_fraction, seed, optional=True)
    assert test is not None
    for source, part in ((rest, "training"), (test, "test")):
        _check_every_class(train, source, part)
    notes = tuple(_left_out(root, folders))
    inputs = ImageInputs(mean, std, background)
    return Splits(rest, valid, test, train.class_names, inputs, notes=notes)


def _left_out(root: Path, parts: Mapping[str, Path]) -> Iterator[str]:
    """Names beside the folders that are read that look like data."""
    folders = [] if root in parts.values() else _class_folders(root)
    others = [name for name in folders if root / name not in parts.values()]
    if others:
        yield f"{root}: {some_names(others)} beside {parts['train'].name}/ is not read."
    for folder in dict.fromkeys((root, *parts.values())):
        with os.scandir(folder) as entries:
            names = (entry.name for entry in entries if entry.is_file())
            count = sum(os.path.splitext(name)[1].lower() in _SUFFIXES for name in names)
        if count:
            yield f"{folder}: image files beside the class folders that are not read: {count}."


def _check_settings(image_size: int, channels: int) -> None:
    if image_size < 1:
        raise ConfigError(f"image_size must be at least 1, got {image_size}. Usual: 32 to 224.")
    if channels not in MODES:
        raise ConfigError(f"channels must be 1 (grey) or 3 (RGB), got {channels}.")


def _normalisation(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The given values, checked, or the usual ones."""
    mean = DEFAULT_MEAN[channels] if mean is None else tuple(mean)
    std = DEFAULT_STD[channels] if std is None else tuple(std)
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ConfigError(
                f"{name} has {quantity(len(values), 'value')}, but channels is {channels}."
            )
    if not all(value > 0 for value in std):
        raise ConfigError(f"std must be above 0 in every channel, got {std}.")
    return mean, std


def _class_folders(path: Path) -> list[str]:
    """Names of the subfolders, sorted, without hidden ones and clutter."""
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if _counts(entry.name) and entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{path}: {(error.strerror or str(error)).lower()}. An image folder has one subfolder "
            "a class, or train/ and test/ with one each."
        ) from error


def _folders_of_classes(path: Path) -> dict[str, str]:
    """Subfolders by class name; Unicode forms of the same name are merged."""
    found: dict[str, str] = {}
    for folder in _class_folders(path):
        name = unicodedata.normalize("NFC", folder)
        if name in found:
            raise DataError(
                f"{path}: two folders are called {name!r}, their letters written in two ways "
                "(composed and decomposed Unicode). Put their images into one."
            )
        found[name] = folder
    return found


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in _CLUTTER


def _files(root: Path, class_name: str) -> Iterator[tuple[str, int]]:
    """Relative path and size of every file of a class, sorted; -1 for irregular files.

    Links to folders are followed, as those to files are.
    """
    top, seen = root / class_name, set[str]()
    for folder, subfolders, names in os.walk(top, onerror=_refuse_folder, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            raise DataError(
                f"{folder}: a link to a folder that is read already. Its images would count "
                "twice; remove it."
            )
        seen.add(real)
        subfolders[:] = sorted(filter(_counts, subfolders))
        relative = Path(folder).relative_to(root)
        for name in sorted(filter(_counts, names)):
            yield (relative / name).as_posix(), _size(os.path.join(folder, name))


def _size(file: str) -> int:
    try:
        found = os.stat(file)
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}).") from error


def _check_classes(path: Path, class_names: Sequence[str]) -> None:
    if len(class_names) < 2:
        found = f"only one class folder, {class_names[0]!r}" if class_names else "no class folders"
        raise DataError(
            f"{path}: {found}. Classification needs at least two, each a subfolder with its "
            "pictures."
        )
    for name in class_names:
        if not name.isprintable():  # undecodable bytes would break every report
            raise DataError(f"{path}: the class folder {name!a} has no printable name. Rename it.")
    check_missing(class_names, str(path))


def _part_folders(root: Path) -> dict[str, Path]:
    """Folders of the parts; the root itself is the training part without a `train/`.

    A `train/` without subfolders is no part but a class of that name.
    """
    parts: dict[str, Path] = {}
    for name in _class_folders(root):
        part = PART_NAMES.get(name.lower())
        if part is None or not _class_folders(root / name):
            continue
        if part in parts:
            raise DataError(f"{root} has both {parts[part].name}/ and {name}/. Keep one of them.")
        parts[part] = root / name
    if parts and "train" not in parts:
        found = "/ and ".join(path.name for path in parts.values())
        raise DataError(
            f"{root} has {found}/ with class folders, but no train/. Add it, or put the class "
            "folders of all parts directly into the folder, to be split at random."
        )
    return parts or {"train": root}


def _check_same_classes(train: ImageFolder, part: ImageFolder) -> None:
    if part.class_names == train.class_names:
        return
    missing = sorted(set(train.class_names) - set(part.class_names))
    extra = sorted(set(part.class_names) - set(train.class_names))
    raise DataError(
        f"{part.path} has other classes than {train.path}: it lacks {missing or 'none'} and adds "
        f"{extra or 'none'}. All parts need the same class folders."
    )


def _take(
    source: Source, given: Source | None, fraction: float, seed: int, *, optional: bool = False
) -> tuple[Source, Source | None]:
    """A part's own folder, or a split of the training part."""
    if given is not None or (optional and fraction == 0):
        return source, given
    return split_off(source, fraction, seed, _labels(source).tolist())


def _labels(source: Source) -> Int[Tensor, " n"]:
    """Labels, without decoding an image."""
    if isinstance(source, SubsetSource):
        return _labels(source.source)[source.ids]
    assert isinstance(source, ImageFolder)
    return source.labels


def _check_every_class(folder: ImageFolder, source: Source, part: str) -> None:
    """Check that a random split leaves no class out of a reported part."""
    counts = torch.bincount(_labels(source), minlength=len(folder.class_names))
    if counts.min() > 0:
        return
    label = int(counts.argmin())
    count = int((folder.labels == label).sum())
    raise DataError(
        f"{folder.path}: class {folder.class_names[label]!r}: "
        f"{quantity(count, 'image')}, too few to split: the {part} part has none. "
        "Add images, remove the class, change the fractions, or give parts of your own "
        "(train/, valid/, test/)."
    )
