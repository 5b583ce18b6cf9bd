"""What the page shows, read from a run's folder."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.images import MODES
from tutelage.deploy import open_session, run_session
from tutelage.errors import ConfigError, RunFolderError
from tutelage.records import RunRecord, load_record

EXPORTS = {
    "teacher": "teacher.onnx",
    "distilled": "student.onnx",
    "distilled int8": "student.int8.onnx",
}
TITLES = {"teacher": "Teacher", "distilled": "Student", "distilled int8": "Student, int8"}
COLUMNS = TITLES | {"distilled int8": "int8"}
INK = 64
STROKE_LENGTH = 2.2


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the page.

    Attributes:
        name: As in the run's record.
        title: As the page calls it.
        column: The same, short.
        source: Its file in the run.
        file: Its file in the playground.
        size_bytes: Of the file.
    """

    name: str
    title: str
    column: str
    source: Path
    file: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A test picture to start from.

    Attributes:
        sample_id: Its number in the test data.
        label: Its class.
        picture_png: Base64.
        logits: Network name to what ONNX Runtime gives here, for the page to compare with.
    """

    sample_id: int
    label: int
    picture_png: str
    logits: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Hand:
    """How a drawing is made like the run's pictures; shares of the picture's side.

    Attributes:
        background: 0 for dark pictures with light strokes, 255 for light ones.
        extent: The longer side of what is drawn.
        pen: Width of the strokes.
    """

    background: int
    extent: float
    pen: float


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that the page shows.

    Attributes:
        name: Of the run.
        version: Of Tutelage, when it ran.
        class_names: One a class.
        temperature: Where the slider starts.
        shape: Channels, height and width of what the networks take.
        networks: The teacher, then the student's files.
        samples: Test pictures.
        hand: For drawings; None for colour pictures, which are taken as they are drawn.
    """

    name: str
    version: str
    class_names: Sequence[str]
    temperature: float
    shape: tuple[int, int, int]
    networks: Sequence[Network]
    samples: Sequence[Sample]
    hand: Hand | None


def read_run(run: Path) -> Content:
    """Read a finished run, and run its networks on its test pictures once.

    Raises:
        RunFolderError: Results or exported networks are missing.
        ConfigError: The networks do not take pictures.
    """
    record = load_record(run / "results.json", RunRecord)
    _check_pictures(run, record)
    networks = _networks(run)
    sessions = {n.name: open_session(n.source, threads=1) for n in networks}
    shape = _shape(networks[0].source, sessions["teacher"].get_inputs()[0].shape)
    pictures = {s.sample_id: _pixels(s.picture_png, shape) for s in record.samples if s.picture_png}
    samples = [
        Sample(
            sample_id=s.sample_id,
            label=s.label,
            picture_png=s.picture_png,
            logits={
                name: _logits(session, pictures[s.sample_id]) for name, session in sessions.items()
            },
        )
        for s in record.samples
        if s.picture_png
    ]
    return Content(
        name=record.name,
        version=record.version,
        class_names=record.class_names,
        temperature=record.temperature,
        shape=shape,
        networks=networks,
        samples=samples,
        hand=measure_hand(list(pictures.values())) if shape[0] == 1 else None,
    )


def _check_pictures(run: Path, record: RunRecord) -> None:
    if record.samples and not any(sample.picture_png for sample in record.samples):
        raise ConfigError(
            f"{run}: its test samples are no pictures. The playground shows runs of pictures; of "
            "texts and other inputs the report shows soft targets."
        )


def _networks(run: Path) -> list[Network]:
    """Teacher and student, and the student's eight-bit file where there is one."""
    found = []
    for name, file in EXPORTS.items():
        source = run / "export" / file
        if source.is_file():
            size = source.stat().st_size
            found.append(Network(name, TITLES[name], COLUMNS[name], source, f"models/{file}", size))
        elif name in ("teacher", "distilled"):
            raise RunFolderError(
                f"{source}: no such file. The playground runs exported networks: finish the run "
                "(the same command goes on there), with measure other than null."
            )
    return found


def _shape(source: Path, taken: Sequence[int | str]) -> tuple[int, int, int]:
    match taken:
        case [_, (1 | 3) as channels, int(height), int(width)] if height == width:
            return int(channels), height, width
    raise ConfigError(
        f"{source}: takes inputs of shape {tuple(taken)}. The playground shows square pictures: "
        "(batch, 1 or 3 channels, height, width). Text and other inputs have none."
    )


def _pixels(picture_png: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture as the networks' input, still in bytes."""
    with Image.open(io.BytesIO(base64.b64decode(picture_png))) as opened:
        image = np.array(opened.convert(MODES[shape[0]]), dtype=np.uint8)
    if image.shape[:2] != shape[1:]:
        raise RunFolderError(
            f"results.json: a sample is {image.shape[1]}×{image.shape[0]} pixels, the networks "
            f"take {shape[2]}×{shape[1]}. Run the recipe again."
        )
    return image.reshape(*shape[1:], shape[0]).transpose(2, 0, 1)


def _logits(session: object, pixels: NDArray[np.uint8]) -> list[float]:
    inputs = pixels[None].astype(np.float32) / np.float32(255)
    logits: list[float] = run_session(session, inputs)[0].tolist()
    return logits


def measure_hand(pictures: Sequence[NDArray[np.uint8]]) -> Hand:
    """How light, large and thick the strokes of grey pictures are.

    The pen is such that a figure of usual stroke length covers as much as the pictures' ink does.

    Args:
        pictures: Of shape (1, height, width).
    """
    if not pictures:
        return Hand(background=0, extent=0.7, pen=0.09)
    stack = np.stack([picture[0] for picture in pictures]).astype(np.int64)
    edge = np.concatenate([stack[:, 0], stack[:, -1], stack[:, :, 0], stack[:, :, -1]], axis=1)
    background = 255 if np.median(edge) > 127 else 0
    ink = np.abs(stack - background)
    extents = [_extent(one > INK) for one in ink]
    extent = float(np.median(extents)) or 0.7
    pen = float(ink.mean()) / 255 / (STROKE_LENGTH * extent)
    return Hand(background, round(extent, 3), round(min(max(pen, 0.04), 0.2), 3))


def _extent(is_ink: NDArray[np.bool_]) -> float:
    """The longer side of the ink's box, as a share of the picture's."""
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    if not len(rows):
        return 0.0
    longer = int(max(np.ptp(rows), np.ptp(columns))) + 1
    return longer / len(is_ink)
