"""Interface of a target: write a float file or an int8 file, and run either."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.deploy.logs import suppress_logs
from tutelage.deploy.runtime import Arrays, describe_arrays
from tutelage.deploy.simulate import WEIGHT_STEPS
from tutelage.errors import ExportError, MissingExtraError, TutelageError, find, one_line, require
from tutelage.inputs import InputKind, kind_of
from tutelage.models.cost import frozen_copy
from tutelage.types import Inputs, on_cpu

Batches = Sequence[Shaped[Tensor, "_ ..."]]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output, as stored in the file.

    Attributes:
        name: By which the runtime knows it; None where it goes by place.
        shape: "batch" or "length" where any number is taken.
        dtype: Data type of its numbers, as numpy names it.
        scale: Scale of quantised numbers: value = scale * (number - zero_point).
        zero_point: The number that stands for 0.
    """

    name: str | None
    shape: Sequence[int | str]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """All inputs and outputs of a file."""

    inputs: list[Port]
    outputs: list[Port]


def sizes(given: Sequence[Any]) -> list[int | str]:
    """A shape as stored in a file: the first free size is the batch, others are lengths."""
    names = ("batch", *["length"] * len(given))
    fixed = [size if isinstance(size, int) and size >= 0 else None for size in given]
    return [names[place] if size is None else size for place, size in enumerate(fixed)]


class Runner:
    """An opened file: called with a batch as the network takes it, it returns logits.

    Args:
        runtime: What runs the file, with its version, for tables.
        run: Logits of one batch.
        batch_size: Rows the file takes at once; None takes any number.
    """

    def __init__(
        self,
        runtime: str,
        run: Callable[[Any], NDArray[Any]],
        batch_size: int | None = None,
    ) -> None:
        """Store the function."""
        self.runtime = runtime
        self.run = run
        self.batch_size = batch_size

    def __call__(self, inputs: Arrays) -> NDArray[np.float32]:
        """Logits of a batch of any size, split if the file takes fewer rows at once.

        Raises:
            ExportError: The file does not take such samples.
        """
        try:
            parts = [self.run(part) for part in self._parts(inputs)]
        except Exception as error:
            raise ExportError(
                f"The exported file fails on {describe_arrays(inputs)} in {self.runtime} "
                f"({one_line(error)})."
            ) from error
        return np.concatenate(parts).astype(np.float32, copy=False)

    def _parts(self, inputs: Arrays) -> Iterator[Arrays]:
        if not isinstance(inputs, np.ndarray):
            yield inputs
            return
        size = self.batch_size or max(1, len(inputs))
        for start in range(0, len(inputs), size):
            yield np.ascontiguousarray(inputs[start : start + size])


class Target(ABC):
    """A file format with its runtime.

    Attributes:
        name: In recipes and on the command line.
        title: What runs it, in words.
        places: Where it is meant to run.
        suffix: Suffix of the file.
        extra: Extra of Tutelage that installs what is needed.
        modules: What is imported from that extra.
        beside_others: Where the extra does not go into every environment: what to do.
        batch_size: Samples that a file takes at once; None takes any number.
        takes_named: Whether it can be made of networks with named inputs, of texts.
        schemes: How it makes int8 of a network, name to explanation; empty if it does not.
        why_no_int8: Where `schemes` is empty: the reason.
        opening: How a file FILE is run in Python, for the model card: from `samples` to `logits`.
        runs_with: Settings of the runtime with which a file computes what was compared.
        weight_steps: From 0 to the largest weight of a channel, in int8 files.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    places: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    beside_others: ClassVar[str] = ""
    batch_size: ClassVar[int | None] = None
    takes_named: ClassVar[bool] = False
    schemes: ClassVar[Mapping[str, str]] = {}
    why_no_int8: ClassVar[str] = ""
    opening: ClassVar[str]
    runs_with: ClassVar[Mapping[str, str]] = {}
    weight_steps: ClassVar[int] = WEIGHT_STEPS

    def check(self) -> None:
        """Fail now, not after a training, if a package is missing.

        Raises:
            MissingExtraError: The extra is not installed.
            ExportError: What is installed does not work together.
        """
        try:
            with suppress_logs():
                for module in self.modules:
                    require(module, self.extra, f"The target {self.name!r}")
        except MissingExtraError as error:
            raise MissingExtraError(f"{error} {self.beside_others}".strip()) from error

    def check_scheme(self, scheme: str) -> None:
        """Refuse an int8 scheme that this target does not have.

        Raises:
            ExportError: It has none at all.
            UnknownNameError: It has others.
        """
        if not self.schemes:
            raise ExportError(f"{self.name} has no int8 files: {self.why_no_int8}")
        find(f"int8 scheme of {self.name}", scheme, self.schemes)

    def check_inputs(self, inputs: Inputs, kind: InputKind | None = None) -> None:
        """Refuse named inputs where files take a single tensor, and named inputs other than texts.

        Raises:
            ExportError: They are others.
        """
        if not (self.takes_named or isinstance(inputs, Tensor)):
            raise ExportError(
                f"{self.name}: networks that take one tensor can be exported, these take "
                f"{', '.join(inputs)}. Leave it out of export.targets; onnx takes them."
            )
        (kind or kind_of(inputs)).check_export(self.name, inputs)

    def files(self, path: Path) -> list[Path]:
        """All files of an export, the named one last."""
        return [path]

    def size_bytes(self, path: Path) -> int:
        """Total size in bytes of all files."""
        return sum(file.stat().st_size for file in self.files(path))

    def write(
        self, network: nn.Module, example: Inputs, path: Path, kind: InputKind | None = None
    ) -> None:
        """Write a network as a file of this kind.

        Args:
            network: Takes one tensor, or named ones, and gives logits; it is left as it is.
            example: A batch as the network takes it.
            path: Where the file shall lie. Nobody has compared it with the network yet:
                `export_checked` writes it, compares, and only then puts it in its place.
            kind: What samples are; what `example` looks like if not given.

        Raises:
            ExportError: The network cannot be expressed there.
            MissingExtraError: The extra is not installed.
        """
        self.check()
        kind = kind or kind_of(example)
        self.check_inputs(example, kind)
        with self._wrapped(type(network).__name__, "be exported to"):
            self._write(frozen_copy(network), on_cpu(example), path, kind)

    def quantise(
        self,
        network: nn.Module,
        source: Path,
        calibration: Sequence[Inputs],
        path: Path,
        scheme: str,
    ) -> None:
        """Write the int8 file of a network.

        Args:
            network: See `write`.
            source: Its float file of this kind.
            calibration: Real samples, as the network takes them, to scale activations by.
            path: Where the file shall lie.
            scheme: One of `schemes`.

        Raises:
            UnknownNameError: There is no such way.
            ExportError: The target has no int8, or its quantiser failed.
            MissingExtraError: The extra is not installed.
        """
        self.check_scheme(scheme)
        self.check()
        with self._wrapped(type(network).__name__, f"be quantised ({scheme}) for"):
            batches = [on_cpu(batch) for batch in calibration]
            self._quantise(frozen_copy(network), source, batches, path, scheme)

    def check_origin(self, path: Path) -> None:  # noqa: B027 - most runtimes run no code of a file
        """Refuse a file that would run code or read other files when it is opened.

        Raises:
            ExportError: It came from elsewhere, or names files outside of itself.
        """

    def open(self, path: Path, *, threads: int = 1) -> Runner:
        """Open a file in its runtime.

        Args:
            path: The file.
            threads: Number of threads of the runtime, inside one operator.

        Raises:
            ExportError: The runtime cannot load it, or opening it would run code.
            MissingExtraError: The extra is not installed.
        """
        self.check()
        if not path.is_file():
            raise ExportError(f"{path}: {self.title} cannot load it: no such file.")
        self.check_origin(path)
        with self._wrapped(str(path), "be loaded by"):
            return self._open(path, threads)

    def describe(self, path: Path) -> Ports:
        """Inputs and outputs, read from the file itself.

        Raises:
            ExportError: The runtime cannot load it, or opening it would run code.
            MissingExtraError: The extra is not installed.
        """
        self.check()
        self.check_origin(path)
        with self._wrapped(str(path), "be described by"):
            return self._describe(path)

    @abstractmethod
    def _describe(self, path: Path) -> Ports: ...

    @abstractmethod
    def _write(self, network: nn.Module, example: Any, path: Path, kind: InputKind) -> None: ...

    @abstractmethod
    def _open(self, path: Path, threads: int) -> Runner: ...

    def _quantise(
        self, network: nn.Module, source: Path, calibration: Any, path: Path, scheme: str
    ) -> None:
        raise AssertionError(f"{self.name} has no {scheme}")  # check_scheme came first

    def _wrapped(self, what: str, doing: str) -> "_Wrapped":
        return _Wrapped(f"{what}: cannot {doing} {self.title}")


class _Wrapped:
    """Suppress a library's output, and turn its errors into one clear one."""

    def __init__(self, failure: str) -> None:
        self.failure = failure
        self.quiet = suppress_logs()

    def __enter__(self) -> None:
        self.quiet.__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.quiet.__exit__(kind, error, trace)
        if error is None or isinstance(error, TutelageError) or not isinstance(error, Exception):
            return
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ExportError(f"{self.failure} ({type(root).__name__}: {one_line(root)}).") from error


def traced(network: nn.Module, example: Tensor, *, any_batch: bool) -> Any:
    """A network traced by torch.export, for one sample at a time or any number.

    Stack traces, which name files of this machine, are taken out.
    """
    # One sample alone would be taken for a fixed batch size: torch.export specialises on 1.
    rows = 2 if any_batch else 1
    inputs = example[:1].expand(rows, *example.shape[1:]).contiguous()
    shapes = ({0: torch.export.Dim("batch")},) if any_batch else None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        program = torch.export.export(network, (inputs,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def label(title: str, package: str) -> str:
    """A runtime's name with its version, for tables."""
    return f"{title} {version(package)}, CPU"
