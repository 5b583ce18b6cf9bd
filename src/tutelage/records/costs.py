"""Results about exported files: sizes, times, agreement, measurements."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, ConfigDict, Field

Line = Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
FileName = Annotated[  # of a file in one folder of the run, never of one elsewhere
    str, Field(max_length=200, pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$")
]
Measured = Annotated[float, Field(gt=0, lt=1e15, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=1, le=10**12)]


def formerly(name: str, older: str) -> Any:
    """A field that older records have under another name."""
    return Field(validation_alias=AliasChoices(name, older))


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Size of a network. MACs are for one sample; size_bytes is the exported file's."""

    name: str
    parameters: int
    macs: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Latency of one call in milliseconds, measured in alternation with the other networks."""

    name: str
    runtime: str
    batch_size: int
    threads: int
    p50_ms: float
    p95_ms: float
    throughput_per_s: float
    calls: int


@dataclass(frozen=True, slots=True)
class ParityRow:
    """An exported file in its own runtime against the PyTorch network, on real samples.

    Attributes:
        name: Name of the network.
        file: Its name.
        max_abs_difference: Largest absolute difference of two logits.
        agreement: Share of samples on which both agree: of classes that both put into one.
        count: Samples compared.
        target: What kind of file it is.
        runtime: What ran it, with its version.
        metric: The leading metric of the file on these samples (`RunRecord.metric`); None without
            labels.
        network_metric: The same of the PyTorch network.
        test_metric: The metric of the file on all test samples; None of the teacher's.
        test_count: How many these are.
    """

    name: str
    file: FileName
    max_abs_difference: float
    agreement: float
    count: int
    target: str = "onnx"
    runtime: str = ""
    metric: Annotated[float | None, formerly("metric", "accuracy")] = None
    network_metric: Annotated[float | None, formerly("network_metric", "expected_accuracy")] = None
    test_metric: Annotated[float | None, formerly("test_metric", "test_accuracy")] = None
    test_count: int = 0

    @property
    def on_test(self) -> tuple[float | None, int]:
        """The file's metric on the whole test data, and the number of samples."""
        return self.test_metric, self.test_count


@dataclass(frozen=True, slots=True)
class QuantisedRow:
    """An int8 file against its float file, on the test data.

    Attributes:
        name: In the run's tables.
        file: Its name.
        scheme: How its activations are scaled.
        calibration: Training samples that they were scaled on.
        metric: The leading metric on the test data (`RunRecord.metric`).
        float_metric: The float file's.
        low, high: 95% interval of the difference, over other test samples.
        agreement: Share of samples that both put into the same class.
        max_abs_difference: Largest absolute difference of two logits.
        count: Test samples.
        target: What kind of file it is.
        over_plain: For a fine-tuned file: its metric minus that of the int8 file made from the
            student before; None of others.
        over_plain_low, over_plain_high: 95% interval of that difference.
        gain: The metric less the float file's, higher being better; None where it is plainly that.
    """

    name: str
    file: FileName
    scheme: Annotated[str, formerly("scheme", "way")]
    calibration: int
    metric: Annotated[float, formerly("metric", "accuracy")]
    float_metric: Annotated[float, formerly("float_metric", "float_accuracy")]
    low: float
    high: float
    agreement: float
    max_abs_difference: float
    count: int
    target: str = "onnx"
    over_plain: float | None = None
    over_plain_low: float | None = None
    over_plain_high: float | None = None
    gain: float | None = None

    @property
    def difference(self) -> float:
        """The file's metric minus the float file's, higher being better."""
        return self.metric - self.float_metric if self.gain is None else self.gain

    @property
    def on_test(self) -> tuple[float | None, int]:
        """The file's metric on the whole test data, and the number of samples."""
        return self.metric, self.count


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A requested file that is not delivered; the rest of the run is.

    Attributes:
        file: Its name.
        reason: Why not, with what to do.
    """

    file: str
    reason: str

    @property
    def sentence(self) -> str:
        """The reason, with the file's name."""
        said = self.reason if self.file in self.reason else f"{self.file}: {self.reason}"
        return f"Not delivered: {said}"


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a measurement."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name
    processor: Line
    cores: Number
    system: Line
    python: Line


@dataclass(frozen=True, slots=True)
class MeasuredFile:
    """One exported file on one machine.

    Attributes:
        name: Name of the network.
        file: Its name.
        sha256: Of its content; empty where it was not there.
        size_bytes: Size in bytes of the file.
        memory_bytes: Peak resident set of a process that runs it, over the empty runtime; None
            where the machine does not tell.
        problem: Why it could not be run there; None if it could.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name
    file: Name
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    size_bytes: Annotated[int, Field(ge=0, le=10**15)]
    memory_bytes: Annotated[int, Field(ge=0, le=10**15)] | None
    problem: Line | None


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One network at one batch size and thread count, measured in alternation with the others.

    Attributes:
        name: Name of the network.
        runtime: With its version.
        batch_size: Samples in one call.
        threads: Number of threads of the runtime.
        p50_ms, p95_ms: Half of the calls, and 95 % of them, took at most this long.
        throughput_per_s: Samples a second.
        calls: That were timed.
        energy_mj: Energy of the whole processor package, millijoules per sample; None if unknown.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Name
    runtime: Line
    batch_size: Number
    threads: Number
    p50_ms: Measured
    p95_ms: Measured
    throughput_per_s: Measured
    calls: Number
    energy_mj: Measured | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """All exported files on one machine, as the script measure.py prints it.

    Attributes:
        format: Format of this record; 1.
        machine: What was measured on.
        when: UTC, as in 2026-01-31T12:00:00Z.
        files: Size and memory of each.
        rows: Latency, throughput and energy.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Annotated[int, Field(ge=1, le=1)]
    machine: Machine
    when: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    files: Annotated[list[MeasuredFile], Field(max_length=200)]
    rows: Annotated[list[MeasuredRow], Field(max_length=5000)]
