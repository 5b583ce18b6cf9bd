"""Results of a run on disk, as plain data, for the report and later tools."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from tutelage.checksums import read_json_with_checksum, write_json_with_checksum
from tutelage.errors import RunFolderError
from tutelage.records.costs import (
    FileName,
    LatencyRow,
    Machine,
    MeasuredFile,
    MeasuredRow,
    Measurement,
    ParityRow,
    QuantisedRow,
    RefusedFile,
    SizeRow,
    formerly,
)
from tutelage.wording import plain_number

__all__ = [
    "ACCURACY",
    "LEADING",
    "MEASURED",
    "METHOD",
    "CacheRow",
    "CalibrationBin",
    "Confusion",
    "Evaluation",
    "GenerationSample",
    "LatencyRow",
    "Machine",
    "MeasuredFile",
    "MeasuredRow",
    "Measurement",
    "Metric",
    "MetricPoint",
    "ParityRow",
    "QuantisedRow",
    "RefusedFile",
    "RunRecord",
    "ShownSample",
    "SizeRow",
    "SoftTargetSample",
    "Summary",
    "TextFileRow",
    "TrainingRecord",
    "Verdict",
    "load_record",
    "save_record",
]

Record = TypeVar("Record")


def save_record(path: Path, record: Any) -> None:
    """Write a record as JSON with its own checksum, atomically."""
    write_json_with_checksum(path, asdict(record))


def load_record(path: Path, kind: type[Record]) -> Record:
    """Read a record, verify its checksum and validate every field.

    Raises:
        RunFolderError: The file is missing, damaged, or does not hold such a record.
    """
    found = read_json_with_checksum(path)
    if found and next(iter(found)) not in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        raise RunFolderError(f"{path}: damaged: it begins with {next(iter(found))[:40]!r}.")
    try:
        return TypeAdapter(kind).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunFolderError(
            f"{path}: {place}: {first['msg']}. The file was damaged or written by another "
            "version; remove it and run the same command again."
        ) from error


@dataclass(frozen=True, slots=True)
class Metric:
    """The metric by which a task's networks are compared.

    Attributes:
        name: Name of its value in an `Evaluation` and in a `Summary`.
        title: In sentences and above tables.
        is_share: Whether it runs from 0 to 1 and is printed in percent.
        is_higher_better: Whether more of it is better.
        unit: Unit of a difference of two arms' scores, as "points of accuracy"; such a difference
            is multiplied by 100 where the metric is a share. Empty where the difference is one of
            the metric itself, which is then said to be higher or lower.
        meaning: What it is, in one sentence for the report.
        task_loss: What the task loss on validation data is, for the report.
        reach: Largest difference that two networks' scores can have: 1 for shares of samples, 2
            for correlations; None where there is no largest.
    """

    name: str
    title: str
    is_share: bool
    is_higher_better: bool
    unit: str
    meaning: str
    task_loss: str = "Cross-entropy with the labels at temperature 1, in nats"
    reach: float | None = None

    def rank(self, value: float) -> float:
        """The value, negated where less is better: the highest rank is the best."""
        return value if self.is_higher_better else -value

    def text(self, value: float) -> str:
        """The value as text."""
        return f"{value:.2%}" if self.is_share else plain_number(value)

    def difference(self, value: float) -> str:
        """A difference of scores, higher being better, as text with its sign or direction."""
        if self.unit:
            return f"{100 * value:+.2f}" if self.is_share else f"{value:+.4f}"
        word = "higher" if (value > 0) == self.is_higher_better else "lower"
        return f"{plain_number(abs(value))} {word}"

    def over_baseline(self, value: float) -> str:
        """A difference of two arms' scores as text."""
        if self.unit:
            return f"{self.difference(value)} {self.unit} over the baseline"
        return f"{self.title} {self.difference(value)} than the baseline's"


ACCURACY = Metric(
    name="accuracy",
    title="accuracy",
    is_share=True,
    is_higher_better=True,
    unit="points of accuracy",
    meaning="Share of samples whose label is picked.",
    reach=1.0,
)


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One epoch of a training.

    Attributes:
        epoch: Counted from 1.
        step: Optimizer updates done so far.
        train_loss: Mean of the objective over the epoch's samples.
        train_parts: Mean of each term, unweighted.
        valid_metric: The task's metric on the validation data (`RunRecord.metric`).
        valid_loss: The task loss on the validation data, as `Metric.task_loss` says.
        learning_rate: At the epoch's last step.
        seconds: Time of the epoch, validation included.
    """

    epoch: int
    step: int
    train_loss: float
    train_parts: Mapping[str, float]
    valid_metric: float | None
    valid_loss: float | None
    learning_rate: float
    seconds: float


Share = Annotated[float, Field(ge=-0.01, le=1.01)]  # rounding may lead out of 0 to 1


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin of a reliability diagram: samples whose confidence lies in it."""

    confidence: Share
    accuracy: Share
    count: int


METHOD = 2
LEADING = "selected"
"""The choice whose verdict leads: the networks that would be delivered.

Without validation data nothing is selected and the selected network is the last one.
"""

MEASURED = ("accuracy", "nll", "ece", "agreement", "kl_to_teacher")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of one network on the test data. Shares are 0 to 1, losses in nats.

    What means nothing for a task is None or empty.

    Attributes:
        accuracy: Share of items whose label is picked.
        nll: Mean negative log-likelihood of the label.
        ece: Expected calibration error over the bins.
        agreement: Share of samples where teacher and student pick the same class; None for the
            teacher itself and where there is no teacher.
        kl_to_teacher: Mean KL(teacher || student) at temperature 1; None as above.
        per_class_accuracy: One value a class; None for a class without test samples.
        calibration: Reliability bins, lowest confidence first; empty bins left out.
        count: Items: test samples, or tokens where the task counts tokens.
        others: What else the task measures, by name.
    """

    accuracy: float | None
    nll: float | None
    ece: float | None
    agreement: float | None
    kl_to_teacher: float | None
    per_class_accuracy: list[float | None]
    calibration: list[CalibrationBin]
    count: int
    others: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, count: int, others: Mapping[str, float]) -> "Evaluation":
        """An evaluation without classes: metrics by name, over a number of items."""
        return cls(None, None, None, None, None, [], [], count, others)

    @property
    def values(self) -> dict[str, float]:
        """All values by name, without those that do not apply."""
        named = {name: getattr(self, name) for name in MEASURED}
        known = {name: value for name, value in named.items() if value is not None}
        return {**known, **self.others}


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """One training: its curve, and its last and selected networks.

    Attributes:
        arm: "teacher", "baseline" or "distilled".
        seed: Seed of initial weights and order of data.
        curve: One point an epoch; empty for a network that was only loaded.
        last: The network after the last epoch.
        selected: The network of the epoch that was best on the validation data.
        selected_epoch: That epoch, from 1; None without validation data.
        steps: Optimizer updates in all.
        seconds: Training time in all.
    """

    arm: str
    seed: int
    curve: list[MetricPoint]
    last: Evaluation
    selected: Evaluation
    selected_epoch: int | None
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Effect of distillation: distilled minus baseline, paired over seeds and test samples.

    Attributes:
        word: "helped", "no evidence" or "hurt".
        difference: Mean difference of the task's score, higher being better: of accuracy a share
            (0.012 is 1.2 points).
        low: Lower end of the interval.
        high: Upper end of the interval.
        level: Confidence level of the interval, 0.95 as a rule.
        num_seeds: Pairs of trainings.
        num_samples: Test samples.
        sentence: The verdict in one sentence, made from the numbers.
        method: How the interval was computed (`METHOD` of new ones); records that do not say are
            of the first method, whose intervals are too narrow where seeds vary.
    """

    word: str
    difference: float
    low: float
    high: float
    level: float
    num_seeds: int
    num_samples: int
    sentence: str
    method: int = 1

    @property
    def caveat(self) -> str:
        """Warning about an interval of an older method; empty for new ones."""
        if self.method == METHOD:
            return ""
        return "Its interval is of an older method, too narrow where seeds vary; run it again."


@dataclass(frozen=True, slots=True)
class Summary:
    """One arm over its seeds, on the test data (one network: spread None).

    Attributes:
        arm: "teacher", "baseline" or "distilled".
        choice: "last" (last epoch) or "selected" (best on validation data).
        mean: Metric name to mean over seeds: accuracy, nll, ece, agreement, kl_to_teacher, and
            what else the task measures.
        spread: Metric name to standard deviation over seeds.
        retention: The metric as a share of the teacher's; the teacher's as a share of it where
            less is better. None where the two are of other items and cannot be compared, as
            perplexities of two tokenizers.
        gap_closed: (student - baseline) / (teacher - baseline); None where it means nothing.
        per_class_retention: Class accuracy as a share of the teacher's; None where undefined.
    """

    arm: str
    choice: str
    mean: Mapping[str, float]
    spread: Mapping[str, float | None]
    retention: float | None
    gap_closed: float | None
    per_class_retention: list[float | None]


@dataclass(frozen=True, slots=True)
class SoftTargetSample:
    """One test sample with every network's logits, for the report's temperature slider.

    Attributes:
        sample_id: Position in the test data.
        label: Its class.
        image_png: The image as a base64 PNG, or None for inputs that are no images.
        logits: Network name ("teacher", "baseline", "distilled") to logits; of the arms the seed
            that is delivered.
        text: The text, or None for inputs that are none.
    """

    sample_id: int
    label: int
    image_png: Annotated[str | None, formerly("image_png", "picture_png")]
    logits: Mapping[str, Annotated[list[float], Field(min_length=1)]]
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ShownSample:
    """One test sample with every network's output in words, for tasks without soft targets.

    Attributes:
        sample_id: Position in the test data.
        label: The label in words.
        outputs: Network name ("teacher", "baseline", "distilled") to its output in words.
        is_worst: Whether it was chosen for the student's error.
        image_png: The image as a base64 PNG, or None for other inputs.
        text: The text, or None for other inputs.
    """

    sample_id: int
    label: str
    outputs: Mapping[str, str]
    is_worst: bool
    image_png: Annotated[str | None, formerly("image_png", "picture_png")] = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class TextFileRow:
    """A language model's student as one file, against PyTorch on the same test text.

    Attributes:
        file: Its name, in the folder `student`.
        target: "onnx", "gguf" (float16) or "gguf_q8_0".
        runtime: What read it, with its version.
        size_bytes: Size in bytes of the file.
        count: Tokens compared.
        max_abs_difference: Largest absolute difference of two logits.
        agreement: Share of tokens after which both pick the same next one.
        kl: Mean KL(PyTorch || file) of the next token, in nats.
        perplexity: Perplexity of the file.
        expected_perplexity: Perplexity of PyTorch, on the same tokens.
        written: Tokens that the file wrote greedily with its key-value cache; 0 where it was not
            asked to.
        shortfall: Largest gap between the logit of a generated token and the best one, as PyTorch
            and the file have it that read the whole text at once; 0 where all write alike.
        tokens_per_s: Written for one text, on one thread; None where it was not timed.
        expected_tokens_per_s: The same in PyTorch, by turns with it.
    """

    file: FileName
    target: str
    runtime: str
    size_bytes: int
    count: int
    max_abs_difference: float
    agreement: float
    kl: float
    perplexity: float
    expected_perplexity: float
    written: int = 0
    shortfall: float = 0.0
    tokens_per_s: float | None = None
    expected_tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class GenerationSample:
    """The beginning of a test text, and its continuations.

    Attributes:
        beginning: What all networks read.
        endings: How the text itself and each network go on, by name.
    """

    beginning: str
    endings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Confusions between classes of the delivered student.

    Attributes:
        seed: Seed of the student.
        cells: Class, picked class and how many items; pairs that do not occur are left out.
    """

    seed: int
    cells: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class CacheRow:
    """The teacher cache of the run."""

    codec: str
    num_samples: int
    num_views: int
    size_bytes: int
    bytes_per_item: float
    kl_to_live: float
    build_seconds: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All results of a run: the content of results.json.

    Attributes:
        name: The run's name.
        version: Version of Tutelage.
        command: The command line or call that repeats the run.
        recipe: The resolved recipe, or the call's settings.
        class_names: One a class.
        splits: Number of samples in train, valid and test.
        temperature: Temperature of the first term that has one; the report's slider starts there.
        teacher: The teacher's training (or only its evaluation).
        arms: Baseline and distilled trainings, paired by seed.
        summaries: Per arm and choice.
        verdicts: Choice ("selected", "last") to verdict, of which `verdict` leads; empty without
            a baseline.
        sizes, latencies, parity: Costs and checks of the exported files.
        quantised: Int8 files against the float ones.
        refused: Files that were asked for and are not delivered, with the reason.
        measurements: The exported files on this machine and on others.
        samples: Test samples for the image of soft targets.
        cache: The teacher cache, None for a live teacher.
        text_files: A language model's student as ONNX and GGUF.
        written: What language models write after the same beginnings.
        notes: Sentences that a reader must know (a teacher no better than the baseline, ...).
        seconds: Stage name to seconds.
        metric: What the networks are compared by.
        finished: The day, as in 2026-01-31, in UTC; empty of old runs.
        machine: Where the run was finished: PyTorch's version, threads and cores, or the GPU.
        files: What the stages left: path below the run folder to SHA-256.
        confusion: Confusions of the delivered student; None without classes, and in old runs.
        judged_on: "test", or "validation" where the test data are the validation data.
    """

    name: str
    version: str
    command: str
    recipe: Mapping[str, Any]
    class_names: list[str]
    splits: Mapping[str, int]
    temperature: float
    teacher: TrainingRecord
    arms: list[TrainingRecord]
    summaries: list[Summary]
    verdicts: Mapping[str, Verdict]
    sizes: list[SizeRow] = field(default_factory=list)
    latencies: list[LatencyRow] = field(default_factory=list)
    parity: list[ParityRow] = field(default_factory=list)
    quantised: list[QuantisedRow] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    samples: list[SoftTargetSample] = field(default_factory=list)
    cache: CacheRow | None = None
    notes: list[str] = field(default_factory=list)
    seconds: Mapping[str, float] = field(default_factory=dict)
    metric: Metric = ACCURACY
    metrics: list[Metric] = field(default_factory=list)
    shown: list[ShownSample] = field(default_factory=list)
    text_files: list[TextFileRow] = field(default_factory=list)
    written: list[GenerationSample] = field(default_factory=list)
    machine: str = ""
    refused: list[RefusedFile] = field(default_factory=list)
    finished: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    judged_on: str = "test"
    confusion: Confusion | None = None

    @property
    def verdict(self) -> Verdict | None:
        """The leading verdict, of the selected networks; None without a baseline."""
        return self.verdicts.get(LEADING)

    def summary(self, arm: str, choice: str) -> Summary | None:
        """The summary of one arm, or None if it was not trained."""
        return next((s for s in self.summaries if (s.arm, s.choice) == (arm, choice)), None)
