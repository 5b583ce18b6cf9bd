"""Series from arrays, NumPy files and .ts files, filled up to the longest of each batch."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.cells import Cells
from tutelage.data.labels import CLASS_LABELS, LabelKind, check_count
from tutelage.data.sources import Samples, Source, Splits, split_off
from tutelage.errors import DataError
from tutelage.files import read_text
from tutelage.inputs.series import MASK, SERIES, SeriesInputs
from tutelage.paths import resolve_path
from tutelage.types import tensor_bytes

INPUTS, LABELS = "inputs", "labels.npy"
UNKNOWN = ("?", "NaN", "nan")


class SeriesSource(Source):
    """Series in memory.

    Args:
        series: An array (channels, steps) of numbers for each sample, or (steps,) of one channel;
            all have the same channels. Values are taken as they are, whatever their type.
        labels: One a series, as `kind` reads them, or None.
        kind: What labels are; class numbers if not given.
        origin: Where they come from, for messages.

    Raises:
        DataError: There is no series, one is empty or has other channels than the first, or a
            label cannot be used.
    """

    in_memory = True

    def __init__(
        self,
        series: Sequence[Any],
        labels: Any = None,
        kind: LabelKind = CLASS_LABELS,
        *,
        origin: str = "series",
    ) -> None:
        """Lay all series end to end, and fingerprint them."""
        rows = [_checked(one, f"{origin}, series {n}") for n, one in enumerate(series)]
        self.labels = None if labels is None else kind.column(labels, origin)
        check_count(len(rows), len(rows) if self.labels is None else len(self.labels), origin)
        channels = [len(row) for row in rows]
        odd = next((n for n, count in enumerate(channels) if count != channels[0]), None)
        if odd is not None:
            raise DataError(
                f"{origin}, series {odd}: {channels[odd]} channels, but the first has "
                f"{channels[0]}. Give all the same, channels first: (channels, steps)."
            )
        self.all_lengths = torch.tensor([row.shape[1] for row in rows])
        self.ends = self.all_lengths.cumsum(dim=0)
        self.values = torch.cat(rows, dim=1)
        self.is_ragged = bool((self.all_lengths != self.all_lengths[0]).any())
        self.lengths = self.all_lengths if self.is_ragged else None
        self.input_kind = SeriesInputs()
        digest = hashlib.sha256(repr(tuple(self.values.shape)).encode())
        for part in (self.values, self.all_lengths, self.labels):
            if part is not None:
                digest.update(tensor_bytes(part))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Number of series."""
        return len(self.ends)

    def fetch(self, ids: Int[Tensor, " batch"]) -> Samples:
        """Series with these numbers; with a mask where not all of the data are of one length."""
        labels = None if self.labels is None else self.labels[ids]
        lengths = self.all_lengths[ids]
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        where = ((self.ends[ids] - lengths)[:, None] + steps).where(mask, 0)
        series = self.values[:, where].transpose(0, 1).contiguous()
        if not self.is_ragged:
            return series, labels
        return {SERIES: series * mask[:, None], MASK: mask}, labels


def load_series(
    path: str | Path,
    *,
    valid_fraction: float = 0.1,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    seed: int = 0,
    kind: LabelKind = CLASS_LABELS,
) -> Splits:
    """Series of a folder.

    Args:
        path: A folder with NAME_TRAIN.ts and NAME_TEST.ts; or with `train`, `test` and perhaps
            `valid` inside, each with `labels.npy` and `inputs.npy` or `inputs.npz`. Found as given,
            in TUTELAGE_DATA or among what scripts/get-data brought.
        valid_fraction: Share of the training series set aside for model selection, where there is
            no valid part; 0 for none.
        mean: Mean per channel; that of the training series if not given.
        std: As mean.
        seed: Seed of the part held out.
        kind: What labels are.

    Raises:
        DataError: A file is missing or damaged, or parts do not fit one another.
    """
    place = resolve_path(path)
    if place is None:
        raise DataError(
            f"data.path: {path}: no such folder. Give a path; scripts/get-data {Path(path).name} "
            "may bring it."
        )
    files = {
        part: sorted(place.glob(f"*_{part.upper()}.ts")) for part in ("train", "valid", "test")
    }
    names, parts = _of_ts(files, kind) if files["train"] else _of_arrays(place, kind)
    train: Source = parts["train"]
    for name, part in parts.items():
        if len(part.values) != len(parts["train"].values):
            raise DataError(
                f"{place}: the series of {name} have {len(part.values)} channels, those of train "
                f"{len(parts['train'].values)}. All parts need the same."
            )
    if any(part.is_ragged for part in parts.values()):
        for part in parts.values():
            part.is_ragged, part.lengths = True, part.all_lengths
    if mean is None and std is None:
        mean, std = _norm(parts["train"].values)
    valid: Source | None = parts.get("valid")
    if valid is None and valid_fraction > 0:
        labels = parts["train"].labels
        by_class = None if labels is None or labels.is_floating_point() else labels.tolist()
        train, valid = split_off(train, valid_fraction, seed, by_class)
    return Splits(train, valid, parts["test"], names, SeriesInputs(mean, std))


def _norm(values: Shaped[Tensor, "channels steps"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; 1 where it never changes."""
    std = values.double().std(dim=1, correction=0)
    return tuple(values.double().mean(dim=1).tolist()), tuple(std.where(std > 0, 1.0).tolist())


Parts = dict[str, SeriesSource]


def _of_arrays(path: Path, kind: LabelKind) -> tuple[tuple[str, ...], Parts]:
    found = {n: path / n for n in ("train", "valid", "test") if (path / n).is_dir()}
    if not {"train", "test"} <= {*found}:
        raise DataError(
            f"data.path: {path} has neither NAME_TRAIN.ts and NAME_TEST.ts nor train/ and test/ in "
            f"it. Give {INPUTS}.npy or {INPUTS}.npz and {LABELS} in each."
        )
    parts = {
        name: SeriesSource(_arrays(folder), _loaded(folder / LABELS), kind, origin=str(folder))
        for name, folder in found.items()
    }
    labels = parts["train"].labels
    assert labels is not None
    count = kind.count(labels) or 1 + int(labels.max())
    if count < 2 and kind is CLASS_LABELS:
        raise DataError(
            f"{found['train'] / LABELS}: every label is 0. Classification needs at least two "
            "classes, numbered from 0."
        )
    return tuple(map(str, range(count))), parts


def _arrays(folder: Path) -> Sequence[NDArray[Any]]:
    """The series of a part, in order."""
    if (folder / f"{INPUTS}.npy").is_file():
        return list(_loaded(folder / f"{INPUTS}.npy"))
    found = _loaded(folder / f"{INPUTS}.npz")
    names = sorted(found, key=lambda name: (len(name), name))  # arr_0, arr_1, ..., arr_10
    return [found[name] for name in names]


def _loaded(file: Path) -> Any:
    try:
        found = np.load(file, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found)
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file. Write it with numpy.save or savez.") from error
    except Exception as error:  # a damaged archive raises nearly anything
        raise DataError(f"{file}: cannot be read ({error}). Write it with numpy.savez.") from error


def _of_ts(files: dict[str, list[Path]], kind: LabelKind) -> tuple[tuple[str, ...], Parts]:
    """Series of .ts files, one of each part."""
    for part, found in files.items():
        if len(found) > 1 or (part == "test" and not found):
            raise DataError(
                f"{files['train'][0].parent}: {len(found)} files *_{part.upper()}.ts, one is "
                "needed. Leave one data set in the folder."
            )
    rows = {part: list(_read_ts(found[0])) for part, found in files.items() if found}
    cells = {
        part: Cells(
            {"label": [label for _, label in some]},
            lambda row, file=files[part][0]: f"{file}, series {row}",  # type: ignore[misc]
            "data.path",
        )
        for part, some in rows.items()
    }
    names, labels = kind.read(cells)
    return names, {
        part: SeriesSource([s for s, _ in some], labels[part], kind, origin=str(files[part][0]))
        for part, some in rows.items()
    }


def _read_ts(file: Path) -> Iterator[tuple[NDArray[Any], str]]:
    """Each series of a .ts file, and its label.

    Raises:
        DataError: The file has time stamps or missing values, or a line is damaged.
    """
    lines = [line.strip() for line in read_text(file).splitlines()]
    begin = next((n for n, line in enumerate(lines) if line.lower() == "@data"), None)
    if begin is None:
        raise DataError(f"{file}: no line @data. A .ts file of aeon has one before its series.")
    head = [line.lower().split() for line in lines[:begin]]
    if ["@timestamps", "true"] in head:
        raise DataError(f"{file}: it has time stamps. Bring the series to even steps without any.")
    for number, line in enumerate(lines[begin + 1 :], start=begin + 2):
        if line:
            *channels, label = line.split(":")
            yield _numbers(channels, f"{file}, line {number}"), label


def _numbers(channels: Sequence[str], place: str) -> NDArray[Any]:
    rows = [channel.split(",") for channel in channels]
    if any(value in UNKNOWN for row in rows for value in row):
        raise DataError(f"{place}: a value is missing. Fill it in, or remove the series.")
    try:
        return np.array(rows, dtype=np.float32)
    except ValueError as error:
        raise DataError(
            f"{place}: its channels are no rows of numbers of one length ({error})."
        ) from error


def _checked(one: Any, place: str) -> Shaped[Tensor, "channels steps"]:
    try:
        array = np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one)
        row = torch.from_numpy(np.array(array, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: it is no array of numbers ({error}).") from error
    row = row[None] if row.ndim == 1 else row
    if row.ndim != 2 or 0 in row.shape:
        raise DataError(
            f"{place}: it has the shape {tuple(row.shape)}. Give (channels, steps), at least one "
            "of each."
        )
    return row
