"""The training stages: teacher, cache, and arms."""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from tutelage.checksums import write_tensors
from tutelage.data.loading import BatchBuilder
from tutelage.distributed import on_main_process, world
from tutelage.engine import Arm, FitResult, TrainSettings, fit
from tutelage.engine.checkpoint import Progress
from tutelage.engine.events import Advanced, Listener, StageDone, StageStarted
from tutelage.engine.fit import CHECKPOINT
from tutelage.engine.memory import oom_context
from tutelage.engine.prepare import prepare_from
from tutelage.errors import RunFolderError
from tutelage.files import fingerprint
from tutelage.job import Job
from tutelage.locks import locked
from tutelage.models.copies import copied, state_of
from tutelage.models.load import load_weights, read_state
from tutelage.models.own import portable_name
from tutelage.objective import Objective
from tutelage.pipeline.answers import check_answers
from tutelage.pipeline.quality import measure_quality
from tutelage.pipeline.stages import Stage
from tutelage.records import Metric, load_record, save_record
from tutelage.teachers import CachedTeacher, ModuleTeacher, Teacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.module import new_head, state_fingerprint
from tutelage.teachers.parts import copy_here, reopen
from tutelage.teachers.storage import LocalStorage, RemoteStorage, open_storage
from tutelage.teachers.store import MANIFEST, discard

LAST, SELECTED, PROGRESS = "last.safetensors", "selected.safetensors", "training.json"
ADAPTERS = "adapters.safetensors"
NOT_IN_FINGERPRINT = ("workers", "checkpoint_s", "tensorboard", "shard")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A network with its training, new or loaded."""

    arm: str
    seed: int
    last: nn.Module
    selected: nn.Module
    progress: Progress
    key: str
    notes: tuple[str, ...] = ()


def teacher_stage(job: Job, listener: Listener) -> TrainedModel:
    """Train the teachers on the labels, or take pretrained ones; several become one."""
    members = [_teacher(job, number, listener) for number in range(len(job.teachers))]
    if len(members) == 1:
        return members[0]
    last = job.together([member.last for member in members]).eval()
    selected = job.together([member.selected for member in members]).eval()
    together = TrainedModel("teacher", 0, last, selected, Progress(), state_fingerprint(selected))
    notes = tuple(note for member in members for note in member.notes)
    return _measured(job, replace(together, notes=notes), "teachers together", listener)


def _teacher(job: Job, number: int, listener: Listener) -> TrainedModel:
    plan = job.teachers[number]
    model = job.new_member(plan)
    name = "teacher" if number == 0 else f"teacher {number + 1}"
    if plan.train is None:
        key = state_fingerprint(model.eval())
        place = job.out / name.replace(" ", "-")
        on_main_process(
            lambda: check_answers(name, place, key, model, job.teacher_task, job.train_reader)
        )
        given = TrainedModel("teacher", plan.seed, model, model, Progress(), key)
        measured = _measured(job, given, name, listener)
        if measured.progress.best_metric is not None and not measured.notes:
            metric = job.teacher_task.metric
            found = f"validation {metric.title} {metric.text(measured.progress.best_metric)}"
            listener(StageDone(f"{name} check", was_there=False, note=found))
        return replace(measured, notes=(*job.order_notes(plan, model), *measured.notes))
    arm = Arm(
        name=name,
        seed=plan.seed,
        objective=job.baseline_objective,
        task=job.task,
        settings=plan.train,
        train=job.reader(job.splits.labelled or job.splits.train, plan.views),
        valid=job.valid_reader,
        teacher=None,
        folder=job.out / ("teacher" if number == 0 else f"teacher-{number + 1}"),
        key="",
    )
    if plan.head_epochs:
        model = _head_first(arm, model, plan.head_epochs, listener)
    return _measured(job, train_arm(arm, model, listener), name, listener)


def _head_first(arm: Arm, model: nn.Module, epochs: int, listener: Listener) -> nn.Module:
    """Train a new head on a frozen body, whose weights its first steps would damage.

    Raises:
        ConfigError: No part of the network is newly drawn.
    """
    head = new_head(model)
    needed = {name: weight.requires_grad for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in head)
    settings = replace(arm.settings, epochs=epochs)
    part = replace(arm, name=f"{arm.name} head", settings=settings, folder=arm.folder / "head")
    trained = train_arm(part, model, listener).last.train()
    for name, weight in trained.named_parameters():
        weight.requires_grad_(needed[name])
    return trained


def _measured(job: Job, teacher: TrainedModel, name: str, listener: Listener) -> TrainedModel:
    """The same with its score on the validation data, and the notes that follow from it."""
    quality = measure_quality(job, teacher.selected, name)
    if quality is None:
        return teacher
    notes = tuple(quality.notes(name, job.teacher_task.metric))
    for note in notes:
        listener(StageDone(f"{name} check", was_there=False, note=note))
    progress = teacher.progress
    if progress.best_metric is None:
        progress = replace(progress, best_metric=quality.value)
    return replace(teacher, progress=progress, notes=(*teacher.notes, *notes))


def assistant_stage(job: Job, number: int, teacher: Teacher, listener: Listener) -> TrainedModel:
    """Train an assistant with its predecessor in the chain as teacher."""
    name = f"assistant {number + 1}"
    folder = job.out / "assistants" / str(number + 1)
    network = job.new_assistant(number)
    return _taught(job, name, 0, network, job.objective, teacher, folder, listener)


def cache_stage(
    job: Job, teacher: ModuleTeacher, listener: Listener, folder: str = "cache"
) -> Teacher:
    """Build the teacher cache, or open the existing one; without a codec teach live."""
    if job.codec is None:
        shared = teacher.shared_among(world().count)
        if job.shards_teacher and world().is_distributed:
            return shared.in_pieces(Accelerator().device)
        return shared
    local = job.out / folder
    place = cache_place(job) if folder == "cache" else LocalStorage(local)
    if isinstance(place, LocalStorage):
        local = place.path
    return open_or_build(
        local,
        teacher,
        job.train_reader,
        job.codec,
        listener,
        workers=job.settings.workers,
        place=place,
    )


def cache_place(job: Job) -> LocalStorage | RemoteStorage:
    """Where the teacher cache of a run lies."""
    return open_storage(job.cache_path or job.out / "cache")


def discard_cache(job: Job) -> None:
    """Discard the cache's manifest; the next build reuses its valid shards."""
    place = cache_place(job)
    discard(place.path if isinstance(place, LocalStorage) else job.out / "cache")
    if isinstance(place, RemoteStorage):
        reopen(place)


def open_or_build(
    folder: Path,
    teacher: ModuleTeacher,
    reader: BatchBuilder,
    codec_name: str,
    listener: Listener,
    *,
    workers: int = 0,
    place: LocalStorage | RemoteStorage | None = None,
) -> CachedTeacher:
    """Open a teacher's cache for these data and views, after building it if it is missing.

    Args:
        folder: Where it lies, or where it is copied to.
        teacher: The live teacher.
        reader: The data, with the view policy.
        codec_name: How logits are written.
        listener: Told of the build.
        workers: Processes that read data.
        place: Where it lies, if not in the folder.
    """
    codec = make_codec(codec_name)
    place = place or LocalStorage(folder)
    wanted = cache_key(teacher, reader, codec)
    was_there = on_main_process(lambda: place.size(MANIFEST) is not None)
    listener(StageStarted("teacher cache", wanted.num_samples * wanted.num_views))
    if not was_there:
        with _alone(place), oom_context("teacher cache"):
            build_cache(
                place,
                teacher,
                reader,
                codec,
                device=teacher.device,
                workers=workers,
                progress=cache_progress(listener, teacher.task.items_per_sample),
            )
    if isinstance(place, RemoteStorage):
        on_main_process(lambda: copy_here(place, folder, wanted))
    cached = CachedTeacher(folder, wanted, teacher.task.gives)
    listener(StageDone("teacher cache", was_there, f"{cached.manifest.size_bytes / 1e6:.1f} MB"))
    return cached


def cache_progress(listener: Listener, items: int | None) -> Callable[[int, int], None]:
    """Progress of a cache, in tokens per second if a sample is many tokens.

    Args:
        listener: Told of it.
        items: Items of a sample.

    Returns:
        Called with what is done and all; shards of an earlier build may be among the first.
    """
    begun: tuple[float, int] | None = None

    def tell(done: int, total: int) -> None:
        nonlocal begun
        now, rate = time.perf_counter(), ""
        if begun is None:
            begun = now, done
        elif items is not None and items > 1:
            rate = f"{(done - begun[1]) * items / (now - begun[0]):,.0f} tokens/s"
        listener(Advanced(done, total, rate))

    return tell


def _alone(place: LocalStorage | RemoteStorage) -> AbstractContextManager[None]:
    """Lock a folder during a cache build; an address cannot be locked."""
    return locked(place.path, "cache build") if isinstance(place, LocalStorage) else nullcontext()


def arm_stage(
    job: Job, name: str, seed: int, objective: Objective, teacher: Teacher | None, tell: Listener
) -> TrainedModel:
    """Train one student, or load it if its training is finished."""
    folder = job.out / "arms" / name / f"seed-{seed}"
    return _taught(job, name, seed, job.new_student(seed), objective, teacher, folder, tell)


def _taught(
    job: Job,
    name: str,
    seed: int,
    network: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    folder: Path,
    tell: Listener,
) -> TrainedModel:
    objective = copy.deepcopy(objective)
    student = prepare_from(
        network,
        objective,
        job.task,
        job.train_reader,
        batch_size=job.settings.batch_size,
        teacher=teacher,
    )
    arm = Arm(
        name=name,
        seed=seed,
        objective=objective,
        task=job.task,
        settings=job.settings if teacher is not None else job.baseline_settings,
        train=job.train_reader if teacher is not None else job.labelled_reader,
        valid=job.valid_reader,
        teacher=teacher,
        folder=folder,
        key="",
        writing=None if teacher is None else job.problem.writing,
    )
    return train_arm(arm, student, tell)


def train_arm(arm: Arm, model: nn.Module, listener: Listener) -> TrainedModel:
    """Train a network and save its weights, or load those of an earlier run.

    The arm's key is filled in here, of what it is given and all else that the training depends on.
    """
    arm = replace(arm, key=_key(arm, model))
    label = arm.name if arm.name.startswith("teacher") else f"{arm.name}, seed {arm.seed}"
    on_main_process(lambda: check_answers(label, arm.folder, arm.key, model, arm.task, arm.train))
    stage = Stage(
        name=label,
        folder=arm.folder,
        key=arm.key,
        do=lambda: _fit_and_save(arm, model, listener),
        load=lambda: _load(arm, model),
        total=arm.settings.epochs * arm.micro_steps,
        note=lambda trained: _note(trained.progress, arm.task.metric),
    )
    trained = stage.run(listener)
    on_main_process(lambda: (arm.folder / CHECKPOINT).unlink(missing_ok=True))
    return trained


def _fit_and_save(arm: Arm, model: nn.Module, listener: Listener) -> list[Path]:
    fitted = fit(copied(model), arm, listener)
    on_main_process(lambda: _save(arm, fitted))
    names = [LAST, SELECTED, PROGRESS, *([ADAPTERS] if fitted.adapters else [])]
    return [arm.folder / name for name in names]


def _save(arm: Arm, fitted: FitResult) -> None:
    save_weights(fitted.last, arm.folder / LAST)
    save_weights(fitted.selected, arm.folder / SELECTED)
    save_record(arm.folder / PROGRESS, fitted.progress)
    if fitted.adapters:
        write_tensors(arm.folder / ADAPTERS, fitted.adapters, {})


def _load(arm: Arm, model: nn.Module) -> TrainedModel:
    last, selected = model, copied(model)
    load_weights(last, arm.folder / LAST)
    load_weights(selected, arm.folder / SELECTED)
    progress = load_record(arm.folder / PROGRESS, Progress)
    return TrainedModel(arm.name, arm.seed, last.eval(), selected.eval(), progress, arm.key)


def load_adapters(objective: Objective, folder: Path) -> None:
    """Load an objective's adapters that belong to a finished training's selected network.

    Args:
        objective: Prepared as for that training.
        folder: Folder of the training.

    Raises:
        RunFolderError: They are not there.
    """
    if not objective.state_dict():
        return
    path = folder / ADAPTERS
    if not path.is_file():
        raise RunFolderError(
            f"{path}: no such file; the student was trained before its losses' adapters were kept. "
            f"Remove {folder / 'stamp.json'} to train it again."
        )
    objective.load_state_dict(read_state(path))


def _note(progress: Progress, metric: Metric) -> str:
    if not progress.curve or progress.curve[-1].valid_metric is None:
        return ""
    return f"validation {metric.title} {metric.text(progress.curve[-1].valid_metric)}"


def save_weights(model: nn.Module, path: Path) -> None:
    """Save a network's weights and buffers as safetensors with a checksum."""
    state = {name: value.detach().contiguous().clone() for name, value in state_of(model).items()}
    write_tensors(path, state, {})


def _key(arm: Arm, model: nn.Module) -> str:
    """Fingerprint of everything that determines a training's result."""
    writing = [] if arm.writing is None else [asdict(arm.writing)]
    return fingerprint(
        [
            *([arm.key] if arm.key else []),
            *writing,
            arm.name.startswith("teacher"),
            state_fingerprint(model),
            arm.objective.describe(),
            _fingerprinted_settings(arm.settings),
            _data(arm.train),
            None if arm.valid is None else _data(arm.valid),
            None if arm.teacher is None else arm.teacher.fingerprint,
            arm.seed,
        ]
    )


def _fingerprinted_settings(settings: TrainSettings) -> dict[str, object]:
    found = {k: v for k, v in asdict(settings).items() if k not in NOT_IN_FINGERPRINT}
    for name in ("optimizer", "schedule"):
        part = {k: v for k, v in found[name].items() if k != "options" or v}
        found[name] = {**part, "kind": portable_name(part["kind"])}
    return found


def _data(reader: BatchBuilder) -> list[str]:
    return [reader.fingerprint, reader.views.fingerprint]
