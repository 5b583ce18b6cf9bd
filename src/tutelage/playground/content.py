"""Content of the page, read from a run's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.deploy import open_session, run_session
from tutelage.errors import ConfigError, RunFolderError
from tutelage.playground.image_samples import Pictures
from tutelage.playground.kinds import Kind
from tutelage.playground.text_samples import Texts
from tutelage.records import RunRecord, load_record
from tutelage.stage_files import check_left

EXPORTS = {
    "teacher": "teacher.onnx",
    "distilled": "student.onnx",
    "distilled int8": "student.int8.onnx",
}
TITLES = {"teacher": "Teacher", "distilled": "Student", "distilled int8": "Student, int8"}
COLUMNS = TITLES | {"distilled int8": "int8"}


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the page.

    Attributes:
        name: Name in the run's record.
        title: Name on the page.
        column: The same, short.
        source: Its file in the run.
        file: Its file in the playground.
        size_bytes: Size in bytes of the file.
    """

    name: str
    title: str
    column: str
    source: Path
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A test sample offered on the page.

    Attributes:
        sample_id: Its number in the test data.
        label: Its class.
        image_png: Base64, of an image.
        text: The text, if the sample is one.
        logits: Network name to what ONNX Runtime gives here, for the page to compare with.
    """

    sample_id: int
    label: int
    image_png: str | None
    text: str | None
    logits: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Content:
    """Content of the page.

    Attributes:
        name: Name of the run.
        version: Version of Tutelage that ran it.
        class_names: One a class.
        temperature: Where the slider starts.
        inputs: What the networks take.
        networks: The teacher, then the student's files.
        samples: Samples of the test data.
    """

    name: str
    version: str
    class_names: Sequence[str]
    temperature: float
    inputs: Kind
    networks: Sequence[Network]
    samples: Sequence[Sample]


def read_run(run: Path, runtime: Path | None = None) -> Content:
    """Read a finished run, and run its networks once on its test samples.

    Args:
        run: Its folder.
        runtime: See `find_runtime`.

    Raises:
        RunFolderError: Results or exported networks are missing.
        ConfigError: The networks take neither images nor texts, or label every token of a text.
        MissingExtraError: What a run of texts needs in a browser cannot be brought.
    """
    record = load_record(run / "results.json", RunRecord)
    shown = [s for s in record.samples if s.image_png or s.text]
    if record.samples and not shown:
        raise ConfigError(
            f"{run}: its test samples are neither images nor texts with a class. The playground "
            "shows those; of other inputs the report shows soft targets."
        )
    networks = _networks(run)
    check_left(run, record, [network.source for network in networks])
    sessions = {n.name: open_session(n.source, threads=1) for n in networks}
    if len(sessions["teacher"].get_outputs()[0].shape) > 2:
        raise ConfigError(
            f"{run}: its networks label every token. The playground shows one class a text; "
            f"{run / 'export/student/example.py'} runs the student on test texts."
        )
    inputs = _kind(run, record, networks[0].source, sessions["teacher"], runtime)
    samples = []
    for s in shown:
        arrays = inputs.arrays(s)
        logits = {name: run_session(one, arrays)[0].tolist() for name, one in sessions.items()}
        samples.append(Sample(s.sample_id, s.label, s.image_png, s.text, logits))
    return Content(
        name=record.name,
        version=record.version,
        class_names=record.class_names,
        temperature=record.temperature,
        inputs=inputs,
        networks=networks,
        samples=samples,
    )


def _kind(run: Path, record: RunRecord, source: Path, teacher: Any, runtime: Path | None) -> Kind:
    if any(sample.text for sample in record.samples):
        return Texts.of(run, runtime)
    images = [s.image_png for s in record.samples if s.image_png]
    return Pictures.of(source, teacher.get_inputs()[0].shape, images)


def _networks(run: Path) -> list[Network]:
    """Teacher and student, and the student's int8 file if there is one."""
    found = []
    for name, file in EXPORTS.items():
        source = run / "export" / file
        if source.is_file():
            size = source.stat().st_size
            found.append(Network(name, TITLES[name], COLUMNS[name], source, f"models/{file}", size))
        elif name in ("teacher", "distilled"):
            raise RunFolderError(
                f"{source}: no such file. The playground runs exported networks: finish the run "
                "(the same command resumes there), with measure other than null."
            )
    return found
