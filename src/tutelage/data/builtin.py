"""Data sets that Tutelage knows by name: digits, MNIST, Fashion-MNIST, CIFAR-100."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tutelage.data.cifar import load_cifar100
from tutelage.data.idx import read_idx
from tutelage.data.sources import Source, Splits, TensorSource, split_off
from tutelage.errors import DataError
from tutelage.inputs.image import ImageInputs
from tutelage.paths import cache_dir, socket_timeout

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DIGIT_NAMES = tuple("0123456789")
SYSTEM_DIRS: Mapping[str, list[Path]] = MappingProxyType(
    {"fashion_mnist": [Path("/usr/share/datasets/fashion-mnist")]}
)
DIGITS_MEAN, DIGITS_STD = 0.3053, 0.3759  # of all 1,797 images, scaled to 0..1


@dataclass(frozen=True, slots=True)
class _Kind:
    """Differences between data sets of four IDX files.

    Attributes:
        name: Name as in a recipe, and the folder's name in the user's cache.
        folders: Names that its folder goes by inside a folder of data sets.
        system_package: Name of the Debian package, for the message; empty if there is none.
        torchvision_class: The class that downloads it.
        class_names: In the order of the labels.
        mean: Mean of the training images, scaled to 0..1.
        std: Standard deviations, in the form of `mean`.
        train_labels_sha256: Of the official training labels, to tell the data sets apart.
    """

    name: str
    folders: tuple[str, ...]
    system_package: str
    torchvision_class: str
    class_names: tuple[str, ...]
    mean: float
    std: float
    train_labels_sha256: str


_MNIST = _Kind(
    name="mnist",
    folders=("mnist", "MNIST/raw"),
    system_package="",
    torchvision_class="MNIST",
    class_names=DIGIT_NAMES,
    mean=0.1307,
    std=0.3081,
    train_labels_sha256="1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
)
_FASHION_MNIST = _Kind(
    name="fashion_mnist",
    folders=("fashion_mnist", "FashionMNIST/raw", "fashion-mnist"),
    system_package="dataset-fashion-mnist",
    torchvision_class="FashionMNIST",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=0.2860,
    std=0.3530,
    train_labels_sha256="657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
)
_KIND_OF_LABELS = MappingProxyType(
    {kind.train_labels_sha256: kind.name for kind in (_MNIST, _FASHION_MNIST)}
)


def load_digits(valid_fraction: float = 0.1, test_fraction: float = 1 / 3, seed: int = 0) -> Splits:
    """1,797 real handwritten digits of 8 by 8 pixels, which ship inside scikit-learn.

    The writers are not told apart, so that one writer's digits stand in all parts: accuracy on
    them says less about new writers than MNIST does.

    Args:
        valid_fraction: Share of the training part set aside for model selection; 0 for none.
        test_fraction: Share of all images.
        seed: The same seed gives the same split.

    Returns:
        Stratified parts of uint8 images of shape (1, 8, 8).

    Raises:
        DataError: A share leaves a part without samples.

    Source:
        Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.
    """
    from sklearn.datasets import load_digits as load_bunch

    bunch = load_bunch()
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    rest, test = split_off(TensorSource(images, labels), test_fraction, seed, labels.tolist())
    rest_labels = rest.fetch(torch.arange(len(rest)))[1]
    assert rest_labels is not None
    train, valid = _split_off_valid(rest, rest_labels, valid_fraction, seed)
    return Splits(train, valid, test, DIGIT_NAMES, ImageInputs((DIGITS_MEAN,), (DIGITS_STD,)))


def load_mnist(
    path: Path | str | None = None,
    valid_fraction: float = 1 / 12,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """70,000 handwritten digits of 28 by 28 pixels; the last 10,000 are the official test set.

    Looked for in `path` and nowhere else if it is given; otherwise in the folders of
    `$TUTELAGE_DATA`, in the user's cache, and at last downloaded into that cache.

    Args:
        path: Folder with the four IDX files (plain or .gz), or with a subfolder `mnist` or
            `MNIST/raw` that has them.
        valid_fraction: Share of the 60,000 set aside for model selection; 0 for none.
        seed: The same seed gives the same split.
        download: False never touches the network.

    Returns:
        Parts of uint8 images of shape (1, 28, 28); training and validation are stratified.

    Raises:
        DataError: It is nowhere (the message lists where and what to do), or a file is damaged.

    Source:
        LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
        recognition".
    """
    return _load(_MNIST, path, valid_fraction, seed=seed, download=download)


def load_fashion_mnist(
    path: Path | str | None = None,
    valid_fraction: float = 1 / 12,
    seed: int = 0,
    download: bool = True,
) -> Splits:
    """70,000 images of clothes, 28 by 28 pixels; the last 10,000 are the official test set.

    Looked for in `path` and nowhere else if it is given; otherwise in the folders of
    `$TUTELAGE_DATA`, where Debian's dataset-fashion-mnist lies, in the user's cache, and at last
    downloaded into that cache.

    Args:
        path: Folder with the four IDX files (plain or .gz), or with a subfolder `fashion_mnist`
            or `FashionMNIST/raw` that has them.
        valid_fraction: Share of the 60,000 set aside for model selection; 0 for none.
        seed: The same seed gives the same split.
        download: False never touches the network.

    Returns:
        Parts of uint8 images of shape (1, 28, 28); training and validation are stratified.

    Raises:
        DataError: It is nowhere (the message lists where and what to do), or a file is damaged.

    Source:
        Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
        Machine Learning Algorithms", arXiv:1708.07747.
    """
    return _load(_FASHION_MNIST, path, valid_fraction, seed=seed, download=download)


BUILTIN: Mapping[str, Callable[..., Splits]] = MappingProxyType(
    {
        "digits": load_digits,
        "mnist": load_mnist,
        "fashion_mnist": load_fashion_mnist,
        "cifar100": load_cifar100,
    }
)


def _load(
    kind: _Kind, path: Path | str | None, valid_fraction: float, *, seed: int, download: bool
) -> Splits:
    folder = _find_folder(kind, download) if path is None else _given_folder(kind, path)
    train_images, train_labels = _read_part(kind, folder, FILES[0], FILES[1])
    _check_kind(kind, folder, train_labels)
    test_images, test_labels = _read_part(kind, folder, FILES[2], FILES[3])
    train, valid = _split_off_valid(
        TensorSource(train_images, train_labels), train_labels, valid_fraction, seed
    )
    return Splits(
        train=train,
        valid=valid,
        test=TensorSource(test_images, test_labels),
        class_names=kind.class_names,
        inputs=ImageInputs((kind.mean,), (kind.std,)),
    )


def _split_off_valid(
    source: Source, labels: Int[Tensor, " n"], fraction: float, seed: int
) -> tuple[Source, Source | None]:
    if fraction == 0:
        return source, None
    return split_off(source, fraction, seed, labels.tolist())


def _read_part(
    kind: _Kind, folder: Path, images_name: str, labels_name: str
) -> tuple[UInt8[Tensor, "n 1 28 28"], Int[Tensor, " n"]]:
    """Read images and labels of one official part, and check them against each other."""
    labels_path = _present(folder, labels_name)
    images_path = _present(folder, images_name)
    assert labels_path is not None
    assert images_path is not None
    labels = read_idx(labels_path)
    images = read_idx(images_path, (28, 28))
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels. "
            "They belong to different data sets: bring both again with scripts/get-data."
        )
    if (largest := int(labels.max())) >= len(kind.class_names):
        raise DataError(
            f"{labels_path}: sample {int(labels.argmax())} has the label {largest}; allowed are 0 "
            f"to {len(kind.class_names) - 1}. Bring the file again with scripts/get-data."
        )
    return images.unsqueeze(1), labels.long()


def _check_kind(kind: _Kind, folder: Path, train_labels: Int[Tensor, " n"]) -> None:
    """Refuse MNIST where Fashion-MNIST is expected, and vice versa."""
    digest = hashlib.sha256(train_labels.to(torch.uint8).numpy().tobytes()).hexdigest()
    found = _KIND_OF_LABELS.get(digest, kind.name)
    if found != kind.name:
        raise DataError(
            f"{folder} holds {found}, not {kind.name}. Name the folder of {kind.name}, or ask for "
            f"{found}."
        )


def _present(folder: Path, name: str) -> Path | None:
    """The file, plain or compressed, if it is there."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((file for file in candidates if os.path.isfile(file)), None)


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if _present(folder, name) is None]


def _first_whole(folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if not _missing(folder)), None)


def _inside(kind: _Kind, folder: Path) -> list[Path]:
    """Possible locations of the data set in a user's folder, the most specific name first."""
    return [*(folder / name for name in kind.folders), folder]


def _given_folder(kind: _Kind, path: Path | str) -> Path:
    given = Path(os.path.expanduser(path))
    if not os.path.isdir(given):
        raise DataError(
            f"path {given}: no such folder. {kind.name} is read from a folder with "
            f"{', '.join(FILES)} (plain or .gz). Leave path out to search the usual places."
        )
    if found := _first_whole(_inside(kind, given)):
        return found
    raise DataError(
        f"path {given}: neither it nor {' nor '.join(kind.folders)} in it holds {kind.name} whole; "
        f"it lacks {', '.join(_missing(given))} (plain or .gz). Leave path out to search the "
        "usual places."
    )


def _find_folder(kind: _Kind, download: bool) -> Path:
    """Search the usual folders, then download; otherwise raise one error that lists them all."""
    variable = os.environ.get("TUTELAGE_DATA", "")
    places = {
        "TUTELAGE_DATA": _inside(kind, Path(os.path.expanduser(variable))) if variable else [],
        "system": SYSTEM_DIRS.get(kind.name, []),
        "cache": [cache_dir(kind.name)],
    }
    for folders in places.values():
        if found := _first_whole(folders):
            return found
    looked = [_describe(place, folders) for place, folders in places.items()]
    if not download:
        raise _not_found(kind, [*looked, "download (not allowed)"])
    try:
        return _download(kind)
    except Exception as error:  # whatever torchvision and the network raise
        reason = " ".join(str(error).split())
        raise _not_found(kind, [*looked, f"download ({type(error).__name__}: {reason})"]) from error


def _describe(place: str, folders: list[Path]) -> str:
    if not folders:
        return f"{place} ({'not set' if place == 'TUTELAGE_DATA' else 'no package known'})"
    states = [
        f"{folder}: {f'lacks {_missing(folder)}' if os.path.isdir(folder) else 'no such folder'}"
        for folder in folders
    ]
    return f"{place} ({', '.join(states)})"


def _not_found(kind: _Kind, looked: list[str]) -> DataError:
    package = f" · install the Debian package {kind.system_package}" if kind.system_package else ""
    return DataError(
        f"{kind.name} was not found. Looked in: {'; '.join(looked)}. Any of these helps: "
        f"run scripts/get-data {kind.name}{package} · give path, a folder with the four IDX files "
        f"· set TUTELAGE_DATA to a folder that has {kind.folders[0]}/ in it · be online, so that "
        "torchvision can download it."
    )


def _download(kind: _Kind) -> Path:
    """Download into a temporary folder of the cache, and move only complete files.

    Each file is renamed into place, so that the cache never holds half a file, and what another
    process brought meanwhile does no harm.
    """
    target = cache_dir(kind.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as temporary:
        raw = _download_with_torchvision(kind.torchvision_class, Path(temporary))
        target.mkdir(exist_ok=True)
        for name in FILES:
            (raw / name).replace(target / name)
    return target


def _download_with_torchvision(class_name: str, root: Path) -> Path:
    """Download and verify with torchvision; returns the folder of the unpacked files."""
    import torchvision.datasets

    with socket_timeout():
        dataset = getattr(torchvision.datasets, class_name)(root, train=False, download=True)
    return Path(dataset.raw_folder)
