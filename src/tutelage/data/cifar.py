"""CIFAR-100 from its binary files, which hold nothing but numbers."""

import contextlib
import os
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tutelage.data.sources import Source, Splits, TensorSource, split_off
from tutelage.errors import DataError
from tutelage.files import write_whole
from tutelage.inputs.image import ImageInputs
from tutelage.paths import cache_dir, socket_timeout

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
TRAIN, TEST, NAMES = "train.bin", "test.bin", "fine_label_names.txt"
INSIDE = "cifar-100-binary"
NUM_CLASSES = 100
_PIXELS = 3 * 32 * 32
_RECORD = 2 + _PIXELS  # superclass, class, then red, green and blue, row by row
_LARGEST = 64_000 * _RECORD
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def load_cifar100(
    path: Path | str | None = None,
    valid_fraction: float = 0.1,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """60,000 colour images of 32 by 32 pixels in 100 classes; 10,000 are the official test set.

    Looked for in `path` and nowhere else if it is given; otherwise in the folder of
    `$TUTELAGE_DATA`, in the user's cache, and at last downloaded into that cache. It is the
    binary version that is read: the Python version holds pickles, which could run code.

    Args:
        path: Folder with train.bin and test.bin, or with a subfolder `cifar-100-binary` or
            `cifar100` that has them.
        valid_fraction: Share of the 50,000 set aside for model selection; 0 for none.
        seed: The same seed gives the same split.
        download: False never touches the network.

    Returns:
        Parts of uint8 images of shape (3, 32, 32); training and validation are stratified.

    Raises:
        DataError: It is nowhere (the message lists where and what to do), or a file is damaged.

    Source:
        Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; mean and
        standard deviation as the published comparisons have them.
    """
    folder = _find(None if path is None else Path(os.path.expanduser(path)), download)
    images, labels = read_records(folder / TRAIN)
    train: Source = TensorSource(images, labels)
    valid: Source | None = None
    if valid_fraction > 0:
        train, valid = split_off(train, valid_fraction, seed, labels.tolist())
    test = TensorSource(*read_records(folder / TEST))
    return Splits(train, valid, test, _class_names(folder), ImageInputs(MEAN, STD))


def read_records(path: Path) -> tuple[UInt8[Tensor, "n 3 32 32"], Int[Tensor, " n"]]:
    """Images and classes of one binary file.

    Raises:
        DataError: It cannot be read, is not made of whole records, or has an unknown class.
    """
    try:
        size = path.stat().st_size
        if size == 0 or size % _RECORD or size > _LARGEST:
            _refuse(path, f"has {size} bytes, which is not a number of records of {_RECORD}")
        records = np.fromfile(path, dtype=np.uint8).reshape(-1, _RECORD)
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror or error})")
    labels = torch.from_numpy(records[:, 1].astype(np.int64))
    if int(labels.max()) >= NUM_CLASSES:
        number = int(labels.argmax())
        _refuse(path, f"picture {number} has the class {int(labels[number])}, of 0 to 99")
    pixels = np.ascontiguousarray(records[:, 2:])
    return torch.from_numpy(pixels).view(-1, 3, 32, 32), labels


def _refuse(path: Path, what: str) -> NoReturn:
    raise DataError(f"{path}: {what}. Bring the binary version of CIFAR-100 again: {URL}")


def _class_names(folder: Path) -> tuple[str, ...]:
    """Class names from the file beside the images, or numbers."""
    file = folder / NAMES
    if file.is_file() and file.stat().st_size < 10_000:
        names = tuple(file.read_text(encoding="utf-8", errors="replace").split())
        if len(set(names)) == NUM_CLASSES:
            return names
    return tuple(str(number) for number in range(NUM_CLASSES))


def _inside(folder: Path) -> list[Path]:
    return [folder / INSIDE, folder / "cifar100", folder / "cifar100" / INSIDE, folder]


def _find(given: Path | None, download: bool) -> Path:
    variable = os.environ.get("TUTELAGE_DATA", "")
    roots = [Path(os.path.expanduser(variable))] if variable else []
    roots = [given] if given is not None else [*roots, cache_dir("cifar100")]
    places = [folder for root in roots for folder in _inside(root)]
    for folder in places:
        if (folder / TRAIN).is_file() and (folder / TEST).is_file():
            return folder
    looked = ", ".join(str(root) for root in roots)
    reason = ""
    if given is None and download:
        try:
            return _download(cache_dir("cifar100"))
        except Exception as error:  # whatever torchvision and the network raise
            reason = f" The download failed ({' '.join(str(error).split())})."
    raise DataError(
        f"cifar100 was not found in {looked}: {TRAIN} and {TEST} are needed, there or in "
        f"{INSIDE}/.{reason} Unpack the binary version ({URL}) and give its folder as path, or set "
        "TUTELAGE_DATA to the folder above it. The Python version is not read: it holds pickles."
    )


def _download(target: Path) -> Path:
    """Download and verify the archive, and extract the three files that are read."""
    from torchvision.datasets.utils import download_url

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as temporary:
        with socket_timeout():
            download_url(URL, temporary, md5=MD5)
        unpack(Path(temporary) / URL.rpartition("/")[2], target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Write the files that are read, and no other member of the archive, into a folder."""
    with tarfile.open(archive) as packed:
        for name in (NAMES, TEST, TRAIN):
            member = None
            with contextlib.suppress(KeyError):
                member = packed.extractfile(f"{INSIDE}/{name}")
            if member is None:
                raise DataError(f"{archive}: {INSIDE}/{name} is no file in it. Download it again.")
            write_whole(target / name, partial(_write, content=member.read(_LARGEST + 1)))


def _write(place: Path, content: bytes) -> None:
    place.write_bytes(content)
