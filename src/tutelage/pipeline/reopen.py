"""Loading of a finished run: its networks from files, without training."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from tutelage.config import build_job, read_recipe
from tutelage.engine.checkpoint import Progress
from tutelage.engine.prepare import prepare_from
from tutelage.errors import RunFolderError
from tutelage.job import Job
from tutelage.models.copies import copied
from tutelage.models.load import load_weights
from tutelage.pipeline.delivery import pick_student
from tutelage.pipeline.training import LAST, PROGRESS, SELECTED, TrainedModel
from tutelage.records import RunRecord, load_record
from tutelage.stage_files import CompletionMarker, check_left
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.module import state_fingerprint


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A loaded run.

    Attributes:
        job: The job of its recipe, with the current run folder.
        record: Its results.
        teacher: The teacher, loaded.
        student: The student that is delivered, loaded.
    """

    job: Job
    record: RunRecord
    teacher: TrainedModel
    student: TrainedModel


def reopen(folder: Path) -> LoadedRun:
    """Load a finished run's networks.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: It is no finished run of a recipe, or a file of it is missing or changed.
        TutelageError: Its data or networks cannot be made any more.
    """
    record = load_record(folder / "results.json", RunRecord)
    if not record.recipe:
        raise RunFolderError(
            f"{folder}: was made by a Python call, whose networks and data are not written down. "
            "Use what the call returned, or run a recipe."
        )
    recipe = read_recipe(folder / "recipe.yaml").model_copy(update={"output": folder})
    job = replace(
        build_job(recipe, folder=folder, command=record.command),
        name=record.name,
        recipe=record.recipe,
    )
    teacher = _teacher(job, record)
    source = _last_teacher(job, record, teacher)
    arms = [
        _loaded(
            job,
            record,
            "distilled",
            seed,
            _wrapped(job, job.new_student(seed), source.selected),
            job.out / "arms" / "distilled" / f"seed-{seed}",
        )
        for seed in job.seeds
    ]
    return LoadedRun(job, record, teacher, pick_student(arms, job.task.metric))


def _teacher(job: Job, record: RunRecord) -> TrainedModel:
    members = []
    for number, plan in enumerate(job.teachers):
        model = job.new_member(plan)
        place = job.out / ("teacher" if number == 0 else f"teacher-{number + 1}")
        if plan.train is None:
            key = state_fingerprint(model.eval())
            members.append(TrainedModel("teacher", plan.seed, model, model, Progress(), key))
        else:
            members.append(_loaded(job, record, "teacher", plan.seed, model, place))
    if len(members) == 1:
        return members[0]
    whole = job.together([member.selected for member in members]).eval()
    return TrainedModel("teacher", 0, whole, whole, Progress(), state_fingerprint(whole))


def _last_teacher(job: Job, record: RunRecord, teacher: TrainedModel) -> TrainedModel:
    """The network that taught the students: the last assistant, or the teacher."""
    for number, make in enumerate(job.assistants, start=1):
        network = _wrapped(job, make(), teacher.selected)
        place = job.out / "assistants" / str(number)
        teacher = _loaded(job, record, f"assistant {number}", 0, network, place)
    return teacher


def _wrapped(job: Job, student: nn.Module, teacher: nn.Module) -> nn.Module:
    """The trained network, with the parts that some losses add to the student."""
    live = None
    if job.objective.needs_teacher:
        live = ModuleTeacher(
            teacher,
            job.task,
            chunk=job.most_rows,
            device=torch.device("cpu"),
            layers=job.objective.teacher_layers,
            inputs=job.splits.inputs,
        )
    return prepare_from(
        student,
        copy.deepcopy(job.objective),
        job.task,
        job.train_reader,
        batch_size=job.settings.batch_size,
        teacher=live,
    )


def _loaded(
    job: Job, record: RunRecord, arm: str, seed: int, model: nn.Module, place: Path
) -> TrainedModel:
    if not (place / "stamp.json").exists():
        raise RunFolderError(
            f"{place}: holds no finished training. Finish the run first: tutelage run "
            f"{job.out / 'recipe.yaml'}."
        )
    check_left(job.out, record, [place / name for name in (LAST, SELECTED, PROGRESS)])
    key = load_record(place / "stamp.json", CompletionMarker).key
    last, selected = model, copied(model)
    load_weights(last, place / LAST)
    load_weights(selected, place / SELECTED)
    progress = load_record(place / PROGRESS, Progress)
    return TrainedModel(arm, seed, last.eval(), selected.eval(), progress, key)
