"""Valid labels: the one rule for tensors, data sets, arrays and tables."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tutelage.data.cells import Cells
from tutelage.errors import ConfigError, DataError
from tutelage.types import UNLABELLED
from tutelage.wording import quantity

MISSING = (-1, UNLABELLED)  # what data sets write where a sample has no label
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_WHOLE = re.compile(r"([-+]?\d+)(\.0*)?")
_NUMBERS_OR_QUOTED = r"""\s*(['"].*['"]|[-+\d.,\s]+|)\s*"""
_SAVED_LIST = re.compile(
    rf"\[({_NUMBERS_OR_QUOTED}|[^\[\]]*,[^\[\]]*)\]|[({{]{_NUMBERS_OR_QUOTED}[)}}]"
)
_MANY = 20
MOST_NAMED = 8


@runtime_checkable
class LabelKind(Protocol):
    """How labels of a kind are read, whatever container holds them."""

    def column(self, labels: Any, origin: str) -> Shaped[Tensor, "n ..."]:
        """The labels of all samples, checked.

        Args:
            labels: A tensor, an array or a list, one entry or row a sample.
            origin: Where they come from, for messages.

        Raises:
            DataError: One cannot be a label; the message names it.
        """
        ...

    def one(self, label: Any, place: str) -> Any:
        """The label of one sample, in the form that `stack` takes.

        Args:
            label: Label as the data set returns it.
            place: Where it stands, for messages.

        Raises:
            DataError: It cannot be a label.
        """
        ...

    def stack(self, labels: list[Any]) -> Shaped[Tensor, "batch ..."]:
        """Stack the results of `one` for several samples."""
        ...

    def count(self, labels: Shaped[Tensor, "batch ..."]) -> int | None:
        """Number of outputs that such labels imply; None for classes, which do not imply it."""
        ...

    def read(self, parts: Mapping[str, Cells]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Labels that stand in columns of tables.

        Args:
            parts: The cells of each part of the data, "train" among them.

        Returns:
            The names of the outputs, as the training part has them, and the labels of each part.

        Raises:
            DataError: A cell cannot be a label; the message says where it stands.
        """
        ...


class ClassLabels:
    """How class numbers are read: one whole number per sample."""

    def column(self, labels: Any, origin: str) -> Int[Tensor, " n"]:
        """The class numbers of all samples."""
        return class_numbers(labels, origin)

    def one(self, label: Any, place: str) -> int:
        """The class number of one sample."""
        return class_number(label, place)

    def stack(self, labels: list[Any]) -> Int[Tensor, " batch"]:
        """Class numbers of several samples, as a batch."""
        return torch.tensor(labels, dtype=torch.long)

    def count(self, labels: Shaped[Tensor, "batch ..."]) -> None:
        """None, because a batch may not contain every class."""

    def read(self, parts: Mapping[str, Cells]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Names of the classes in the training part, and the class numbers of each part.

        Raises:
            DataError: There are several columns, one class alone, or a class that training lacks.
        """
        train = parts["train"]
        if len(train.columns) > 1:
            raise ConfigError(
                f"{train.setting}: {len(train.columns)} columns ({some_names([*train.columns])}), "
                "but a class needs only one. Name one, or learn several yes-or-no labels with "
                "task: multi_label, several numbers with task: regression."
            )
        given = {part: _class_names_of(cells) for part, cells in parts.items()}
        names = class_names(given["train"], train.setting)
        numbers = {name: number for number, name in enumerate(names)}
        return tuple(names), {
            part: torch.tensor(_numbered(cells, given[part], numbers), dtype=torch.long)
            for part, cells in parts.items()
        }


def _class_names_of(cells: Cells) -> list[str]:
    labels = next(iter(cells.columns.values()))
    return [class_name(label, cells.place(row)) for row, label in enumerate(labels)]


def _numbered(cells: Cells, names: Sequence[str], numbers: Mapping[str, int]) -> list[int]:
    for row, name in enumerate(names):
        if name not in numbers:
            raise DataError(
                f"{cells.place(row)}: the label {name!r} does not occur in the training data. "
                f"Known: {some_names(list(numbers))}."
            )
    return [numbers[name] for name in names]


def need_classes(kind: LabelKind, what: str) -> None:
    """Refuse data that can have no other labels than classes.

    Args:
        kind: What the task learns from.
        what: The data, for the message.

    Raises:
        ConfigError: Its labels are no classes.
    """
    if not isinstance(kind, ClassLabels):
        raise ConfigError(
            f"{what}: its labels are classes, which the task does not learn from. Choose task: "
            "classification, or data of kind text, arrays or table, whose labels stand in columns."
        )


CLASS_LABELS = ClassLabels()


def class_numbers(labels: Any, origin: str) -> Int[Tensor, " n"]:
    """Read one class number per sample from any container.

    Whole numbers of every type are taken, 2.0 and booleans among them, and a column of shape
    (n, 1).

    Args:
        labels: A tensor, an array or a list.
        origin: Where they come from, for messages.

    Raises:
        DataError: They are no class numbers; the message names the first that is none.
    """
    found = _numeric(labels, origin)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise DataError(f"{origin}: {_of_several(found)}")
    whole = found.nan_to_num(-0.5).long()
    wrong = (whole < 0) | (whole != found)
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        class_number(found[place], f"{origin}: sample {place}")
    return whole


def _numeric(labels: Any, origin: str) -> Tensor:
    """Labels as a tensor of real numbers."""
    check_no_gaps(labels, origin)
    if not isinstance(labels, Tensor):
        try:
            array = np.asarray(labels)
        except ValueError as error:
            raise DataError(
                f"{origin}: the labels are lists of different lengths. {_ONE}"
            ) from error
        if array.dtype.kind not in "biuf":
            flat = array.reshape(-1).tolist()
            for place, label in enumerate(flat):
                class_number(label, f"{origin}: sample {place}")
            array = np.asarray(flat, dtype=np.int64).reshape(array.shape)
        labels = torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    found: Tensor = labels.detach()
    return found.double() if found.is_floating_point() else found.long()


_ONE = (
    "Give one whole number a sample, from 0. Real values are task: regression, several yes-or-no "
    "labels task: multi_label."
)
ONE_OUTPUT = " One output that answers yes or no is task: multi_label, a real value regression."


def check_no_gaps(value: Any, place: str) -> None:
    """Refuse masked arrays, whose hidden values would be read as labels.

    Raises:
        DataError: A value is masked.
    """
    if np.ma.is_masked(value):
        raise DataError(
            f"{place}: {quantity(int(np.ma.getmaskarray(value).sum()), 'masked value')} in the "
            "array. Fill in every masked value, or leave such samples out."
        )


def _of_several(labels: Tensor) -> str:
    """Error message for several labels per sample."""
    shape = tuple(labels.shape)
    if labels.ndim == 0:
        return f"the labels are the single number {labels.item()}. {_ONE}"
    rows = labels.reshape(len(labels), -1)
    is_one_hot = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(dim=1) == 1).all())
    if len(rows) and is_one_hot:
        return (
            f"the labels are one-hot, of shape {shape}. Pass their class numbers: labels.argmax(1)."
        )
    return (
        f"the labels have the shape {shape}: several numbers a sample, as of multi-label data or "
        f"of probabilities. {_ONE}"
    )


def class_number(label: Any, place: str) -> int:
    """The class number of one sample.

    Args:
        label: A whole number of any type, or a tensor or an array of one number.
        place: Where it stands, for messages.

    Raises:
        DataError: It is no class number.
    """
    value = label
    if isinstance(label, Tensor | np.ndarray | np.generic):
        if math.prod(label.shape) != 1:
            raise DataError(f"{place}: {_of_one(tuple(label.shape))}")
        value = label.item()
    if isinstance(value, bool | int | float) and value >= 0 and value == _truncated(value):
        return int(value)
    raise DataError(f"{place}: {_why_no_number(value)}")


def _of_one(shape: tuple[int, ...]) -> str:
    return f"the label has the shape {shape}, as one-hot or multi-label data have. {_ONE}"


def _truncated(value: float | int) -> float | int:
    return math.trunc(value) if math.isfinite(value) else math.nan


def _why_no_number(value: Any) -> str:
    is_number = isinstance(value, int | float)
    if is_number and value in MISSING:
        return (
            f"the label is {value:g}, which means 'no label' in many data sets. Leave such "
            "samples out, or number the classes from 0."
        )
    if is_number and value < 0:
        return f"the label is {value}. Number the classes from 0."
    if isinstance(value, list | tuple | dict | set):
        return f"the label is a {type(value).__name__} ({value!r:.80}). {_ONE}"
    return f"the label is {value!r:.80}, not a whole number. {_ONE}"


def check_range(
    labels: Tensor, sample_ids: Int[Tensor, " batch"], num_classes: int, *, may_lack: bool
) -> None:
    """Check that each label is a valid class.

    Args:
        labels: Class numbers, of samples or of their tokens; embeddings pass.
        sample_ids: Numbers of the samples.
        num_classes: Labels are 0 to one less.
        may_lack: Whether a sample may have no label (`UNLABELLED`), as tokens may.

    Raises:
        DataError: The first label that is none.
    """
    if labels.is_floating_point():
        return
    outside = (labels < 0) | (labels >= num_classes)
    if may_lack or labels.ndim > 1:
        outside &= labels != UNLABELLED
    wrong = outside.nonzero()
    if len(wrong) == 0:
        return
    place = tuple(wrong[0].tolist())
    raise DataError(
        f"Sample {int(sample_ids[place[0]])} has label {int(labels[place])}; allowed are 0 to "
        f"{num_classes - 1}, one a class. Renumber the labels or correct num_classes."
        + (ONE_OUTPUT if num_classes == 1 else "")
    )


def check_count(num_inputs: int, num_labels: int, origin: str) -> None:
    """Check that there is one label per input, and at least one.

    Raises:
        DataError: There is not.
    """
    if num_inputs != num_labels:
        raise DataError(
            f"{origin}: {quantity(num_inputs, 'input')} and {quantity(num_labels, 'label')}. "
            "Each sample needs one of both."
        )
    if num_inputs == 0:
        raise DataError(f"{origin}: it is empty. Training needs samples.")


def class_name(label: Any, place: str) -> str:
    """Class name of a table's cell.

    One class has one name however it was written: spaces around it go, a letter with its accent
    is one character (NFC), and 1.0 is 1.

    Args:
        label: A cell of a table.
        place: Where it stands, for messages.

    Raises:
        DataError: It is empty, not a number (NaN), or a list.
    """
    if isinstance(label, np.generic):
        label = label.item()
    if label is None or (isinstance(label, float) and math.isnan(label)):
        label = ""
    if not isinstance(label, str | bool | int | float):
        raise DataError(
            f"{place}: the label is a {type(label).__name__} ({label!r:.80}): several labels a "
            "sample cannot be learned. Give each row one class."
        )
    name = unicodedata.normalize("NFC", str(label)).strip()
    if name == "" or name.lower() == "nan":
        raise DataError(
            f"{place}: the label is empty. Give one, or leave the row out (texts without labels "
            "belong in data.transfer)."
        )
    if is_saved_list(name):
        raise DataError(
            f"{place}: the label {name!r:.80} is a list that was written as text: several labels a "
            "sample cannot be learned. Give each row one class."
        )
    whole = _WHOLE.fullmatch(name)
    return whole.group(1) if whole else name


def is_saved_list(text: str) -> bool:
    """Whether a text is a list that pandas or others saved in a table, such as "[0, 1]"."""
    return _SAVED_LIST.fullmatch(text.strip()) is not None


def class_names(labels: Iterable[str], origin: str) -> list[str]:
    """All classes in order of class number: numbers by value, then other names alphabetically.

    Args:
        labels: Names, as `class_name` gives them.
        origin: Where they come from, for messages.

    Raises:
        DataError: There is only one, they are no classes, or one stands for "no label".
    """
    all_labels = list(labels)
    found = sort_names(set(all_labels))
    check_missing(found, origin)
    if len(found) < 2:
        raise DataError(
            f"{origin}: all training samples have the label {found[0]!r}. Classification needs at "
            "least two classes; is it the right column?"
            if found
            else f"{origin}: there is no label."
        )
    has_fractions = any(_NUMBER.fullmatch(name) and not _WHOLE.fullmatch(name) for name in found)
    if has_fractions and len(found) > max(_MANY, len(all_labels) // 2):
        raise DataError(
            f"{origin}: {len(found)} different numbers in {len(all_labels)} rows, such as "
            f"{found[0]} and {found[1]}, are values and no classes. Name a column of classes."
        )
    return found


def some_names(names: Sequence[str]) -> str:
    """The first few class names, for messages."""
    more = ", ..." if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort numbers by value (0.0 like 0), then other names alphabetically."""
    return sorted(names, key=_by_size)


def _by_size(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if _NUMBER.fullmatch(name) else (1, 0.0, name)


def check_missing(names: Sequence[str], origin: str) -> None:
    """Check that no usual marker of a missing label is among the class names.

    That is -100, and -1 unless the classes are -1 and 1 or there is a lower one.

    Raises:
        DataError: It does.
    """
    numbers = {float(name): name for name in names if _NUMBER.fullmatch(name)}
    lower = [number for number in numbers if number < 0 and number not in MISSING]
    is_missing = {-1: not lower and set(numbers) != {-1.0, 1.0}, UNLABELLED: True}
    for number in MISSING:
        if number in numbers and is_missing[number]:
            raise DataError(
                f"{origin}: {numbers[number]} means 'no label' in many data sets. Leave such "
                "samples out, or, if it is a class, give it another name."
            )
