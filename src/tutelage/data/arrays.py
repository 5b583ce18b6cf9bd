"""Samples in memory-mapped NumPy files: data of any size in constant memory."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.labels import CLASS_LABELS, LabelKind, check_count
from tutelage.data.sources import Samples, Source, Splits
from tutelage.errors import ConfigError, DataError
from tutelage.inputs import ArrayInputs, ImageInputs
from tutelage.wording import quantity

INPUTS, LABELS = "inputs.npy", "labels.npy"
LOOKED_AT = 4096
LABELS_AT_ONCE = 2**20
_KINDS = ("float32", "float16", "float64", "uint8")


class ArraySource(Source):
    """Samples in `inputs.npy` and labels in `labels.npy`, one row per sample.

    Rows are read when they are asked for; the operating system keeps in memory what there is room
    for. The fingerprint covers shapes, kinds, and 4096 rows spread evenly, labels included.

    Args:
        folder: Where the two files lie.
        kind: What labels are.

    Raises:
        DataError: A file is missing, is no plain array, or the two do not fit.
    """

    in_memory = False

    def __init__(self, folder: Path, kind: LabelKind = CLASS_LABELS) -> None:
        """Map the files."""
        self.folder, self.kind = folder, kind
        self.inputs, self.labels = _mapped(folder / INPUTS), _mapped(folder / LABELS)
        if str(self.inputs.dtype) not in _KINDS or self.inputs.ndim < 2:
            raise DataError(
                f"{folder / INPUTS}: holds {self.inputs.dtype} of shape {self.inputs.shape}; one "
                f"row a sample of {', '.join(_KINDS)} is needed. Write it with numpy.save."
            )
        if self.labels.ndim == 2 and self.labels.shape[1] == 1:
            self.labels = self.labels[:, 0]
        self.num_outputs = self._check_labels()
        check_count(len(self.inputs), len(self.labels), str(folder))
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        arrays = (self.inputs, self.labels)
        digest = hashlib.sha256(repr([(str(a.dtype), a.shape) for a in arrays]).encode())
        rows = np.unique(np.linspace(0, len(self) - 1, LOOKED_AT).astype(np.int64))
        for array in arrays:
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Rows with these numbers."""
        rows = ids.numpy()
        inputs = torch.from_numpy(np.asarray(self.inputs[rows]))
        if inputs.is_floating_point():
            inputs = inputs.float()
        return inputs, self.kind.column(np.asarray(self.labels[rows]), str(self.folder / LABELS))

    def _check_labels(self) -> int:
        """How many outputs labels are of: one more than the highest class, or as many as values.

        All labels are looked at, some at a time.
        """
        parts = [
            self.kind.column(
                np.asarray(self.labels[start : start + LABELS_AT_ONCE]),
                f"{self.folder / LABELS}, from row {start}",
            )
            for start in range(0, max(1, len(self.labels)), LABELS_AT_ONCE)
        ]
        told = self.kind.count(parts[0])
        self.tells_outputs = told is not None
        if told is not None:
            return told
        return 1 + max((int(part.max()) for part in parts if len(part)), default=-1)


def load_arrays(
    path: Path,
    *,
    num_classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    kind: LabelKind = CLASS_LABELS,
) -> Splits:
    """A data set of NumPy files.

    Args:
        path: A folder with `train`, `test` and, for model selection, `valid` inside, each with
            `inputs.npy` and `labels.npy`.
        num_classes: One more than the highest label of the training data if not given; labels that
            are values or flags tell it themselves.
        mean: Per channel, of inputs scaled to 0..1; None leaves inputs as they come.
        std: Standard deviations, in the form of `mean`.
        kind: What labels are.

    Raises:
        DataError: A folder or a file is missing or does not fit.
    """
    if path.is_file():
        raise DataError(
            f"data.path: {path} is a file. Give a folder with train/ and test/ in it, each with "
            f"{INPUTS} and {LABELS}, written with numpy.save."
        )
    train, test = ArraySource(path / "train", kind), ArraySource(path / "test", kind)
    valid = ArraySource(path / "valid", kind) if (path / "valid").is_dir() else None
    for name, part in (("test", test), ("valid", valid)):
        if part is not None and part.inputs.shape[1:] != train.inputs.shape[1:]:
            raise DataError(
                f"{path / name / INPUTS}: rows of shape {part.inputs.shape[1:]}, but those of "
                f"train have {train.inputs.shape[1:]}. All parts need one shape."
            )
    _check_normalisation(train, mean, std)
    parts = [train, test] if valid is None else [train, test, valid]
    names = tuple(str(number) for number in range(_num_outputs(parts, num_classes)))
    row, _ = train.fetch(torch.zeros(1, dtype=torch.long))
    made = ImageInputs if ImageInputs.fits(row) else ArrayInputs
    return Splits(train, valid, test, names, made(mean, std))


def _num_outputs(parts: Sequence[ArraySource], given: int | None) -> int:
    """How many outputs the labels of all parts are of.

    Raises:
        DataError: There is one class alone, or parts differ.
    """
    train = parts[0]
    if not train.tells_outputs:
        count = given or train.num_outputs
        if count < 2:
            raise DataError(
                f"{train.folder / LABELS}: every label is 0. Classification needs at least two "
                "classes, numbered from 0."
            )
        return count
    for part in parts:
        if part.num_outputs != train.num_outputs:
            raise DataError(
                f"{part.folder / LABELS}: {part.num_outputs} labels a sample, but those of train "
                f"have {train.num_outputs}. All parts need as many."
            )
    if given not in (None, train.num_outputs):
        raise ConfigError(
            f"data.num_classes: {given}, but {train.folder / LABELS} holds {train.num_outputs} "
            "labels a sample. Leave num_classes out."
        )
    return train.num_outputs


def _check_normalisation(
    train: ArraySource, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    if (mean is None) != (std is None):
        raise ConfigError("data: mean and std belong together; give both or neither.")
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != train.inputs.shape[1]:
            raise ConfigError(
                f"data.{name}: {quantity(len(values), 'value')}, but the inputs have "
                f"{quantity(train.inputs.shape[1], 'channel')} (shape {train.inputs.shape}). Give "
                "one for each channel."
            )


def _mapped(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Write it with numpy.save.")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, TypeError, SyntaxError, MemoryError) as error:
        raise DataError(f"{path}: not a NumPy file that can be mapped ({error}).") from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: holds several arrays; one plain .npy file is needed.")
    return found
