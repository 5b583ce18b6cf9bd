"""Every exception that Tutelage raises on purpose, and the one look-up of names."""

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import ParamSpec, TypeVar

Entry = TypeVar("Entry")
Given = ParamSpec("Given")
Result = TypeVar("Result")

MOST_NAMES = 80  # of a longer table, such as a transformer's layers, a message gives some
SOME_NAMES = 10
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class TutelageError(Exception):
    """What a person can mend: the message says where, what, what is allowed, what to do."""


class ConfigError(TutelageError, ValueError):
    """A setting, a recipe or an argument is wrong."""


class UnknownNameError(ConfigError):
    """A name stands in no table."""


class SignalError(TutelageError, ValueError):
    """A loss needs something that the teacher, the student or the data does not give."""


class ShapeError(TutelageError, ValueError):
    """Tensors of two networks, or of a network and its labels, do not fit together."""


class DataError(TutelageError, ValueError):
    """A sample, a label or a data set cannot be used."""


class ModelError(TutelageError, ValueError):
    """A network cannot be made, loaded or run."""


class CacheError(TutelageError):
    """A teacher cache is missing, damaged, or was written for something else."""


class TrainingError(TutelageError):
    """Training went wrong and was stopped; what was good is on disk."""


class GradientError(TrainingError):
    """Gradients are not finite, explode, or have all been 0 for long."""


class OutOfMemoryError(TrainingError):
    """Memory ran out, and smaller parts did not help or were not possible."""


class TeacherChangedError(TrainingError):
    """A teacher's outputs changed while it taught; what was learned from it was thrown away."""


class ExportError(TutelageError):
    """An exported file could not be written, or does not compute what the student computes."""


class RunFolderError(TutelageError):
    """A run folder cannot be written, or what lies in it cannot be used."""


class WriteError(RunFolderError):
    """A file cannot be written: the disk is full, or the place is closed to us."""


class UnreadableError(TutelageError, OSError):
    """A path is no regular file, or a file is larger than anything that belongs there.

    It is an OSError too, so that a reader's own error, which knows what was being read, may wrap
    it as it wraps those of the system.
    """

    def __init__(self, path: object, problem: str) -> None:
        """Keep the path, and what is wrong with it without the path."""
        super().__init__(f"{path}: {problem}")
        self.strerror = problem.rstrip(".")


class LockedError(RunFolderError):
    """Another process writes into the folder."""


class MissingExtraError(TutelageError, ImportError):
    """An optional package is not installed."""


@contextmanager
def of_role(role: str) -> Iterator[None]:
    """Name whose network it is in messages from within: "teacher", "student"."""
    try:
        yield
    except TutelageError as error:
        if str(error).startswith((f"{role}:", f"{role}.")):
            raise
        raise type(error)(f"{role}: {error}") from error


def one_line(error: BaseException | str, *, limit: int = 300) -> str:
    """The first line of an error's text that says something, without a terminal's colours.

    Args:
        error: Of another library, or its text.
        limit: Most characters.
    """
    plain = _COLOURS.sub("", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def find(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Look a name up in a family's table.

    Args:
        kind: What the table holds, for the message ("loss", "data kind").
        name: The name asked for.
        table: Known names and what they stand for.

    Raises:
        UnknownNameError: The name is not in the table; the message gives the nearest one, and all
            names or, of a long table, those that resemble it most.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, list(table), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known, names = "Known", sorted(table)
    if len(names) > MOST_NAMES:
        known = f"The nearest of {len(names)}"
        names = difflib.get_close_matches(name, names, n=SOME_NAMES, cutoff=0)
    raise UnknownNameError(f"Unknown {kind} {name!r}.{hint} {known}: {', '.join(names)}.")


def with_known_names(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Tell a mistyped argument of a public function with the nearest that it has.

    The function raises `UnknownNameError` for an argument that it does not have.
    """
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Given.args, **named: Given.kwargs) -> Result:
        for name in named:
            find(f"argument of {function.__name__}", name, parameters)
        return function(*args, **named)

    return checked


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say in one line which extra brings it.

    Args:
        module: Dotted module name to import.
        extra: The extra of Tutelage that installs it.
        purpose: What is being tried, as the subject of the sentence ("Exporting to ONNX").

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtraError(
            f"{purpose} needs the {extra!r} extra: pip install 'tutelage[{extra}]'."
        ) from error
