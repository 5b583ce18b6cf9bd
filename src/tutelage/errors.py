"""All exceptions that Tutelage raises on purpose, and the lookup of names."""

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
    """An error that the user can correct: where, which value, what is allowed, what to do."""


class ConfigError(TutelageError, ValueError):
    """A setting, a recipe or an argument is wrong."""


class UnknownNameError(ConfigError):
    """A name is not in the table that it belongs to."""


class SignalError(TutelageError, ValueError):
    """A loss needs something that the teacher, the student or the data do not provide."""


class ShapeError(TutelageError, ValueError):
    """Tensors of two networks, or of a network and its labels, do not match in shape."""


class DataError(TutelageError, ValueError):
    """A sample, a label or a data set cannot be used."""


class ModelError(TutelageError, ValueError):
    """A network cannot be built, loaded or run."""


class CacheError(TutelageError):
    """A teacher cache is missing, damaged, or made from something else."""


class TrainingError(TutelageError):
    """Training failed and was stopped; the last good state is on disk."""


class GradientError(TrainingError):
    """Gradients are not finite, explode, or have been 0 for long."""


class OutOfMemoryError(TrainingError):
    """Memory ran out, and smaller batches did not help or were not possible."""


class TeacherChangedError(TrainingError):
    """A teacher's outputs changed during training; what was learned from it was discarded."""


class ExportError(TutelageError):
    """An exported file could not be written, or does not compute what the student computes."""


class RunFolderError(TutelageError):
    """A run folder cannot be written, or its contents cannot be used."""


class WriteError(RunFolderError):
    """A file cannot be written: the disk is full, or permission is missing."""


class UnreadableError(TutelageError, OSError):
    """A path is no regular file, or the file is larger than any valid one.

    It is an OSError too, so that a reader's own error, which knows what was being read, may wrap
    it as it wraps those of the system.
    """

    def __init__(self, path: object, problem: str) -> None:
        """Store the path, and the problem without the path."""
        super().__init__(f"{path}: {problem}")
        self.strerror = problem.rstrip(".")


class LockedError(RunFolderError):
    """Another process writes into the folder."""


class MissingExtraError(TutelageError, ImportError):
    """An optional package is not installed."""


@contextmanager
def of_role(role: str) -> Iterator[None]:
    """Name the network in messages from within: "teacher", "student"."""
    try:
        yield
    except TutelageError as error:
        if str(error).startswith((f"{role}:", f"{role}.")):
            raise
        raise type(error)(f"{role}: {error}") from error


def one_line(error: BaseException | str, *, limit: int = 300) -> str:
    """First meaningful line of an error's text, without terminal colours.

    Args:
        error: Error of another library, or its text.
        limit: Most characters.
    """
    plain = _COLOURS.sub("", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def find(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Look up a name in a table, or raise with the nearest one.

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
    """Report a mistyped argument of a public function with the nearest valid one.

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
    """Import an optional package, or name the extra that installs it.

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
