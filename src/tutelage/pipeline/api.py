"""The Python call: any teacher teaches any student on any map-style data set."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data.forms import as_source, loader_note
from tutelage.data.given import RANDOM_NOTE, judged_on
from tutelage.data.labels import LabelKind
from tutelage.data.sources import Source, Splits, split_off
from tutelage.data.views import Identity, ViewPolicy, check_policy
from tutelage.deploy import export_checked
from tutelage.engine import OptimizerSettings, TrainSettings
from tutelage.engine.events import Listener, ignore
from tutelage.errors import of_role, with_known_names
from tutelage.inputs import InputKind
from tutelage.job import Job
from tutelage.models.copies import copied
from tutelage.models.modes import preserve_mode
from tutelage.objective import Loss, Objective, objective_of
from tutelage.pipeline.classes import classes_of
from tutelage.pipeline.delivery import wrap_for_export
from tutelage.pipeline.exporting import export_inputs
from tutelage.pipeline.networks import as_network, as_teacher, check_names, named, plan_of
from tutelage.pipeline.run import run_job
from tutelage.problem import Problem
from tutelage.records import ParityRow, RunRecord, Summary, Verdict
from tutelage.report import short_html, short_text, write_report
from tutelage.tasks import TASKS, Task
from tutelage.tasks.making import plan_task


@dataclass(frozen=True, slots=True)
class Distilled:
    """Result of a distillation.

    Attributes:
        student: The trained student, on the CPU in eval mode.
        record: Everything that was found out, as in results.json.
        out: The run folder.
    """

    student: nn.Module
    record: RunRecord
    out: Path
    _job: Job

    def __repr__(self) -> str:
        """One line: the metric of every network, the verdict, and the run folder."""
        return f"Distilled({short_text(self.record)}; {self.out})"

    def _repr_html_(self) -> str:
        """A table for notebooks, with the verdict's sentence."""
        return short_html(self.record)

    @property
    def metrics(self) -> dict[str, float]:
        """Means over seeds on the test data: accuracy, agreement, KL to the teacher, ..."""
        found = self._summary
        kept = {} if found.retention is None else {"retention": found.retention}
        return {**found.mean, **kept}

    @property
    def verdict(self) -> Verdict | None:
        """Whether distillation helped; None if no baseline was trained."""
        return self.record.verdict

    @property
    def _summary(self) -> Summary:
        found = self.record.summary("distilled", "selected")
        assert found is not None
        return found

    def export(self, path: str | Path) -> ParityRow:
        """Write the student as ONNX, checked against PyTorch on test samples.

        Returns:
            The largest difference and the share of equal predictions.
        """
        reader = self._job.test_reader
        ids = torch.arange(min(256, len(reader)))
        inputs = [
            export_inputs(reader, reader[part, torch.zeros_like(part)]) for part in ids.split(64)
        ]
        return export_checked(
            wrap_for_export(self._job, self.student),
            inputs,
            Path(path),
            name="student",
            inputs=self._job.splits.inputs,
        )

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file."""
        write_report(self.record, Path(path))
        return Path(path)


@with_known_names
def distill(  # noqa: PLR0913 - one call that needs no other object
    teacher: Any,
    student: nn.Module,
    train_data: Any,
    *,
    valid_data: Any = None,
    test_data: Any = None,
    temperature: float | int = 4.0,
    weight: float | int = 0.9,
    task_weight: float | int = 0.1,
    objective: Objective | Loss | None = None,
    views: ViewPolicy | None = None,
    settings: TrainSettings | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 1e-3,
    seeds: Sequence[int] = (0,),
    baseline: bool = False,
    codec: str | None = None,
    task: str | type[Task] | Task = "classification",
    metric: str | None = None,
    inputs: InputKind | None = None,
    class_names: Sequence[str] | None = None,
    teacher_class_names: Sequence[str] | None = None,
    out: str | Path | None = None,
    listener: Listener = ignore,
) -> Distilled:
    """Distil a teacher into a student.

    Neither network given is changed: the student is copied first of all, the teacher is put back
    into its mode afterwards. So a network may teach itself, and may share parts with its student.

    Args:
        teacher: A trained network that gives logits; or several, the mean of whose probabilities
            teaches.
        student: A network that gives as many logits, untrained or half trained.
        train_data: A map-style data set of (input, label) pairs or {"image": ..., "label": ...}
            mappings; a tuple (inputs, labels) of tensors, arrays or lists; or a DataLoader, whose
            data set is taken. Random augmentation belongs in `views`; in the data set it rules
            out a codec.
        valid_data: For model selection; a tenth of the training data if not given.
        test_data: For the numbers reported; the validation data if not given, and verdict, notes
            and report then say so.
        temperature: Temperature of the distillation loss, above 0.
        weight: Weight of the distillation loss.
        task_weight: Weight of the task loss on the labels.
        objective: Another objective, or one loss; replaces temperature, weight and task_weight.
        views: Augmentation that teacher and student share.
        settings: All about training; replaces epochs, batch_size and lr.
        epochs: Passes over the training data.
        batch_size: Samples a step.
        lr: Peak learning rate of AdamW with a cosine schedule.
        seeds: One training each; they differ in order of data, views and dropout.
        baseline: Whether to train the same student on labels alone too, for a verdict.
        codec: Codec of the teacher cache ("float32", "float16", "topk:K"); None teaches live.
        task: What kind of label is learned: a name of `tutelage.tasks.TASKS`, such as
            "regression" or "multi_label"; "module:Class"; or a `tutelage.Task` of one's own.
        metric: What networks are compared by, of those that the task has; its first if not given.
        inputs: What kind of input samples are, such as one of `tutelage.inputs` with its
            normalisation; decided from the data if not given.
        class_names: One a class; those that the data set names (`classes`), or numbers, if not
            given.
        teacher_class_names: The teacher's classes in the order of its logits, to be matched to
            `class_names`; those of its own `config` if not given, or the same order.
        out: The run folder; a temporary one if not given. The same call goes on there.
        listener: Told of every stage and step.

    Returns:
        The student, what it is worth, and ways to export and report it.

    Raises:
        TutelageError: Data, networks or settings do not fit; the message says where.
    """
    notes: list[str] = []
    check_names("class_names", class_names)
    check_names("teacher_class_names", teacher_class_names)
    planned = plan_task(task, TASKS, metric)
    splits = _splits(train_data, valid_data, test_data, notes, planned.label_kind)
    splits = replace(splits, inputs=inputs or splits.inputs)
    gives = planned.kind.gives
    teachers = [as_teacher(one, name, notes, gives) for name, one in named(teacher)]
    with of_role("student"):  # before the teacher is frozen, whose parts it may share
        kept = copied(as_network(student, "student", notes))
    with contextlib.ExitStack() as stack:  # share, is frozen
        for one in teachers:
            stack.enter_context(preserve_mode(one))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        names = classes_of(
            class_names, train_data, splits.train, teachers[0], kept, planned.label_kind
        )
        made = planned.make(names, splits.train)
        first, *others = [plan_of(one, teacher_class_names) for one in teachers]
        job = Job(
            name="distill",
            out=Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="tutelage-")),
            problem=Problem(replace(splits, class_names=names), made),
            teacher=first,
            co_teachers=tuple(others),
            make_student=lambda: copied(kept),
            objective=task_weight * made.task_loss() + weight * made.distillation_loss(temperature)
            if objective is None
            else objective_of(objective),
            settings=settings
            or TrainSettings(
                epochs=epochs, batch_size=batch_size, optimizer=OptimizerSettings(lr=lr)
            ),
            views=_checked(views),
            seeds=tuple(seeds),
            has_baseline=baseline,
            codec=codec,
            measure=None,
            has_report=False,
            command="tutelage.distill(teacher, student, train_data, ...)",
            notes=tuple(notes),
        )
        finished = run_job(job, listener)
    return Distilled(finished.student.selected.cpu(), finished.record, job.out, job)


def _checked(views: ViewPolicy | None) -> ViewPolicy:
    if views is None:
        return Identity()
    check_policy(views)
    return views


def _splits(train: Any, valid: Any, test: Any, notes: list[str], kind: LabelKind) -> Splits:
    train_source = as_source(train, "train_data", kind)
    valid_source: Source
    if valid is None:
        train_source, valid_source = split_off(train_source, 0.1, seed=0)
        notes.append("No validation data was given: a tenth of the training data was held out.")
    else:
        valid_source = as_source(valid, "valid_data", kind)
    test_source = valid_source if test is None else as_source(test, "test_data", kind)
    for name, data in (("train_data", train), ("valid_data", valid), ("test_data", test)):
        notes += loader_note(data, name)
    if train_source.is_random:
        notes.append(RANDOM_NOTE)
    valid_name = "train_data" if valid is None else "valid_data"
    valid_source = judged_on(valid_source, valid_name, notes)
    if test is None:
        return Splits(train_source, valid_source, valid_source, class_names=())
    return Splits(
        train_source, valid_source, judged_on(test_source, "test_data", notes), class_names=()
    )
