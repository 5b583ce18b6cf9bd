"""Samples to explain, typed in or taken from a finished run."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import ConfigError, RunFolderError, find
from tutelage.losses import divergences
from tutelage.records import RunRecord, SoftTargetSample, load_record

SUM_TOLERANCE = 0.01
"""How far given probabilities may be from a sum of 1: room for rounded values, not for mistakes."""

LARGEST_LOGIT = 1e6
"""No network's logits are larger; far above, floating point ends."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sample as the student, and perhaps a teacher, predicts it.

    Attributes:
        classes: Class names, all different.
        student_logits: One a class.
        label: The class that is right; None leaves the task loss out.
        teacher_logits: One a class; None where there is no teacher or its probabilities are given.
        teacher_probabilities: The teacher's softened distribution at `temperature`, in place of
            its logits. Used as given: rounded values are not mended.
        temperature: Temperature of the distillation loss.
        source: Where the numbers come from, for a person to read.
        image_png: The sample's image as a base64 PNG.
        weights: Weights of task loss and distillation loss; None where the sample's origin has
            none.
    """

    classes: tuple[str, ...]
    student_logits: tuple[float, ...]
    label: str | None = None
    teacher_logits: tuple[float, ...] | None = None
    teacher_probabilities: tuple[float, ...] | None = None
    temperature: float = 3.0
    source: str = "given logits"
    image_png: str | None = None
    weights: tuple[float, float] | None = None


ANIMALS = Example(
    classes=("cat", "dog", "donkey", "horse"),
    student_logits=(-5.0, 2.0, 7.0, 9.0),
    label="horse",
    teacher_logits=(-8.0, 2.0, 5.0, 14.0),
    temperature=3.0,
    source="an example of four animals",
)

TEXTBOOK = Example(
    classes=("cat", "dog", "donkey", "horse"),
    student_logits=(-5.0, 2.0, 7.0, 9.0),
    label="horse",
    teacher_probabilities=(0.0006, 0.0171, 0.0466, 0.9375),
    temperature=3.0,
    source="the textbook example",
)
"""The same with the teacher's probabilities as a textbook rounds them: they sum to 1.0018."""

EXAMPLES = {"animals": ANIMALS, "textbook": TEXTBOOK}


def from_run(run_dir: Path, sample: int = 0, arm: str = "distilled") -> Example:
    """A real test sample of a finished run, with its label and the teacher's logits.

    Args:
        run_dir: The run's folder.
        sample: Which of the samples that the run kept, from 0.
        arm: Whose logits stand as the student's: "distilled" or "baseline".

    Raises:
        RunFolderError: The folder holds no results, or they hold no such sample.
        UnknownNameError: The run has no such arm.
    """
    path = run_dir / "results.json"
    if not path.is_file():
        raise RunFolderError(
            f"{path}: no such file. --run takes the folder of a finished run, "
            "as `tutelage run` and `tutelage demo` leave it."
        )
    record = load_record(path, RunRecord)
    chosen = _pick_sample(path, record, sample)
    teacher = chosen.logits.get("teacher")
    return Example(
        classes=tuple(record.class_names),
        student_logits=tuple(find("network", arm, chosen.logits)),
        label=record.class_names[chosen.label],
        teacher_logits=None if teacher is None else tuple(teacher),
        temperature=record.temperature,
        source=f"{record.name}, test sample {chosen.sample_id}, {arm} student",
        image_png=chosen.image_png,
        weights=_weights_of(record.recipe),
    )


def _weights_of(recipe: Mapping[str, Any]) -> tuple[float, float] | None:
    """Weights of task loss and KD in a run's objective; None if it has others or they change."""
    match recipe.get("objective"):
        case {
            "task_weight": float() | int() as task_weight,
            "terms": [{"loss": "kd", "weight": float() | int() as weight}],
        }:
            return float(task_weight), float(weight)
    return None


def _pick_sample(path: Path, record: RunRecord, sample: int) -> SoftTargetSample:
    if not 0 <= sample < len(record.samples):
        kept = f"0 to {len(record.samples) - 1}" if record.samples else "none"
        raise RunFolderError(f"{path}: no sample {sample}. Samples kept by this run: {kept}.")
    chosen = record.samples[sample]
    if not 0 <= chosen.label < len(record.class_names):
        raise RunFolderError(
            f"{path}: samples.{sample}.label is {chosen.label}, but there are "
            f"{len(record.class_names)} class names. Run the run again."
        )
    return chosen


def check_example(example: Example) -> None:
    """Refuse an example with inconsistent numbers or names.

    Raises:
        ConfigError: The message names the place, the value and what is allowed.
    """
    repeated = [name for name, count in Counter(example.classes).items() if count > 1]
    if repeated:
        raise ConfigError(f"classes must all differ, got {repeated[0]!r} more than once.")
    if len(example.student_logits) < 2:
        raise ConfigError(
            f"student logits must hold at least 2 values, got {len(example.student_logits)}."
        )
    if example.teacher_logits is not None and example.teacher_probabilities is not None:
        raise ConfigError("Give teacher logits or teacher probabilities, not both.")
    _check_values("student logits", example.student_logits, example.classes)
    if example.teacher_logits is not None:
        _check_values("teacher logits", example.teacher_logits, example.classes)
    if example.teacher_probabilities is not None:
        divergences.check_temperature(example.temperature)
        _check_probabilities(example.teacher_probabilities, example.classes)
    if example.label is not None:
        find("label", example.label, dict.fromkeys(example.classes))


def _check_values(place: str, values: Sequence[float], classes: Sequence[str]) -> None:
    if len(values) != len(classes):
        raise ConfigError(
            f"{place} must hold one value a class: got {len(values)} for {len(classes)} classes "
            f"({_shortened(', '.join(classes))})."
        )
    wrong = next((value for value in values if not abs(value) <= LARGEST_LOGIT), None)
    if wrong is not None:
        raise ConfigError(
            f"{place} must be finite numbers, at most {LARGEST_LOGIT:g} in size, got {wrong}."
        )


def _check_probabilities(values: Sequence[float], classes: Sequence[str]) -> None:
    _check_values("teacher probabilities", values, classes)
    wrong = next((value for value in values if not 0 <= value <= 1), None)
    if wrong is not None:
        raise ConfigError(
            f"teacher probabilities must be from 0 to 1, got {wrong}. "
            "For scores before softening give teacher logits."
        )
    total = math.fsum(values)
    if abs(total - 1) > SUM_TOLERANCE:
        raise ConfigError(
            f"teacher probabilities must sum to 1 (within {SUM_TOLERANCE}), got a sum of "
            f"{total:g}. For scores before softening give teacher logits."
        )


def _shortened(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
