"""A run from start to end: data, teacher, cache, arms, evaluation, export, report."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from torch.nn.modules.batchnorm import _BatchNorm

from tutelage import __version__
from tutelage.data.overlap import judged_on, overlap_note
from tutelage.data.scan import check_files, parts_of, scan, sources_of_files
from tutelage.deploy import TARGETS
from tutelage.deploy.simulate import simulate_int8
from tutelage.distributed import init_process_group, on_main_process, world
from tutelage.doctor import preflight
from tutelage.engine.events import Listener, StageDone, StageStarted, ignore
from tutelage.engine.memory import in_parts_note
from tutelage.errors import ConfigError, require
from tutelage.files import fingerprint, write_json, write_text
from tutelage.job import Job
from tutelage.locks import locked
from tutelage.pipeline.delivery import (
    Costs,
    delivery_stage,
    pick_student,
    wrap_for_export,
)
from tutelage.pipeline.environment import environment, say_machine
from tutelage.pipeline.evaluation import EvaluationResult, evaluate_stage
from tutelage.pipeline.exporting import cost_notes
from tutelage.pipeline.finetuning import check_can_go_on, finetune_stage
from tutelage.pipeline.generation_samples import write_texts
from tutelage.pipeline.lm_export import TextFiles, student_stage
from tutelage.pipeline.measuring import load_measurements
from tutelage.pipeline.package import export_package
from tutelage.pipeline.proposals import check_budget
from tutelage.pipeline.reporting import report_notes, save_report
from tutelage.pipeline.stages import Clock, Stage
from tutelage.pipeline.training import (
    TrainedModel,
    arm_stage,
    assistant_stage,
    cache_place,
    cache_progress,
    cache_stage,
    discard_cache,
    teacher_stage,
)
from tutelage.pipeline.transfer import transfer_stage
from tutelage.records import (
    CacheRow,
    GenerationSample,
    RunRecord,
    load_record,
    save_record,
)
from tutelage.stage_files import left_files
from tutelage.teachers import CachedTeacher, ModuleTeacher, Teacher
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.module import TEXT_CHUNK, goes_by_length
from tutelage.teachers.parts import Part
from tutelage.teachers.store import Manifest

OWN_CODE = "code"  # for whoever reads the run; nothing runs from there


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a finished run."""

    record: RunRecord
    teacher: TrainedModel
    arms: list[TrainedModel]
    student: TrainedModel


def run_job(job: Job, listener: Listener = ignore) -> RunResult:
    """Run every stage; finished stages are skipped.

    Args:
        job: What to do.
        listener: Told of every stage and step.

    Returns:
        The record that lies in results.json, and the trained networks.

    Raises:
        LockedError: Another process writes into the run folder.
    """
    with _at_work(job, "run"):
        return _run(job, listener)


def rebuild_cache(job: Job, listener: Listener = ignore) -> None:
    """Train or load the teacher and rebuild its cache, reusing its valid shards.

    Raises:
        LockedError: Another process writes into the run folder.
    """
    with _at_work(job, "cache build"):
        on_main_process(lambda: discard_cache(job))
        prepare_teacher(job, listener)


@contextmanager
def _at_work(job: Job, what: str) -> Iterator[None]:
    """Validate the job and lock its run folder."""
    init_process_group()
    on_main_process(lambda: preflight(job))
    check_extras(job)
    if job.budget is not None:
        check_budget(job, wrap_for_export(job, job.new_student(0)))
    if not world().is_main:
        yield
        return
    with locked(job.out, what):
        yield


def _run(job: Job, listener: Listener) -> RunResult:
    clock = Clock()
    listener = listener if init_process_group().is_main else ignore
    job, teacher, source = prepare_teacher(job, listener, clock)
    with clock.time("arms"):
        arms, notes = _arms(job, source, teacher, listener)
    in_parts = [note for trained in (teacher, *arms) for note in _memory_note(job, trained)]
    notes = [*teacher.notes, *notes, *in_parts, *cost_notes(job), *_report_notes(job)]
    student = pick_student(arms, job.task.metric)

    with clock.time("fine-tuning"):
        finetuned = finetune_stage(job, student, source, listener)

    def conclude() -> None:
        with clock.time("student folder"):
            files = student_stage(job, student, listener)
            beside = {one.arm: one.selected for one in arms if one.seed == student.seed}
            written = write_texts(job, {"teacher": teacher.selected, **beside})
        listener(StageStarted("evaluation", None))
        with clock.time("evaluation"):
            judged = evaluate_stage(job, teacher, arms, Accelerator().device, student.seed)
        listener(StageDone("evaluation", was_there=False))
        found = (judged, _cache_row(source), notes, clock.seconds, files, written)
        # What was found out stays, even if a converter takes the whole process with it.
        save_record(job.out / "results.json", _record(job, Costs(), *found))
        with clock.time("export and measure"):
            costs = delivery_stage(job, teacher, student, listener, finetuned)
        record = replace(_record(job, costs, *found), files=left_files(job.out))
        save_record(job.out / "results.json", record)
        export_package(job, record, student)
        if job.has_report:
            save_report(record, job.out)

    on_main_process(conclude)
    record = load_record(job.out / "results.json", RunRecord)
    return RunResult(record, teacher, arms, student)


def prepare_teacher(
    job: Job, listener: Listener, clock: Clock | None = None
) -> tuple[Job, TrainedModel, Teacher | None]:
    """The first stages: train or load the teacher, make transfer images, build the cache.

    Returns:
        The job with the data that students see, the teacher's training, and what the students
        learn from (None if nothing needs it).
    """
    clock = clock or Clock()
    listener = listener if init_process_group().is_main else ignore
    on_main_process(lambda: _open(job, listener))
    with clock.time("teacher"):
        teacher = teacher_stage(job, listener)
    with clock.time("transfer"):
        job = transfer_stage(job, teacher, listener)
    if not job.objective.needs_teacher:
        return job, teacher, None
    with clock.time("cache"):
        source = _source(job, teacher, "cache", listener)
    with clock.time("assistants"):
        for number in range(len(job.assistants)):
            assistant = assistant_stage(job, number, source, listener)
            source = _source(job, assistant, f"assistants/{number + 1}/cache", listener)
    return job, teacher, source


def only_teacher(job: Job, listener: Listener) -> tuple[Job, TrainedModel]:
    """Train or load the teacher and draw transfer images: everything that a cache needs."""
    listener = listener if init_process_group().is_main else ignore
    teacher = teacher_stage(job, listener)
    return transfer_stage(job, teacher, listener), teacher


def build_part(job: Job, part: Part, listener: Listener) -> Manifest | None:
    """Build some shards of a run's teacher cache; other jobs build the others.

    Args:
        job: Its teacher must be there: loaded, or trained by an earlier command.
        part: Which shards.
        listener: Told of how far it is.

    Returns:
        The manifest, if this part was the last; else None.

    Raises:
        ConfigError: The teacher is yet to be trained, or there is no cache to build.
    """
    listener = listener if init_process_group().is_main else ignore
    stamps = [job.out / name / "stamp.json" for name in ("teacher", "teacher-2")]
    trained = zip(job.teachers, stamps, strict=False)
    if job.codec is None:
        raise ConfigError("cache: null teaches live, so there is no cache to build. Give a codec.")
    if any(plan.train is not None and not stamp.is_file() for plan, stamp in trained):
        raise ConfigError(
            f"{job.out}/teacher: the teacher is not trained yet, and every part would train its "
            "own. First run: tutelage cache build RECIPE --only-teacher."
        )
    codec = make_codec(job.codec)
    job, teacher = only_teacher(job, listener)
    listener(StageStarted(f"cache, part {part.number} of {part.count}", None))
    manifest = build_cache(
        cache_place(job),
        live_teacher(job, teacher),
        job.train_reader,
        codec,
        device=Accelerator().device,
        workers=job.settings.workers,
        progress=cache_progress(listener, job.teacher_task.items_per_sample),
        part=part,
    )
    state = "others are missing" if manifest is None else "the cache is complete"
    listener(StageDone(f"cache, part {part.number} of {part.count}", was_there=False, note=state))
    return manifest


def _open(job: Job, listener: Listener) -> None:
    _data_stage(job, listener)
    _open_folder(job)


def _source(job: Job, trained: TrainedModel, folder: str, listener: Listener) -> Teacher:
    """A trained network as a teacher, live or cached."""
    return cache_stage(job, live_teacher(job, trained), listener, folder)


def live_teacher(job: Job, trained: TrainedModel) -> ModuleTeacher:
    """A trained network as a live teacher; one that will be sharded stays on its device."""
    is_cut = job.shards_teacher and world().is_distributed
    device = None if is_cut else Accelerator().device
    chunk = job.most_rows
    row = torch.zeros(1, dtype=torch.int64)
    layers = job.objective.teacher_layers
    if not is_cut and goes_by_length(
        job.train_reader[row, row], job.teacher_task, layers, job.splits.inputs
    ):
        chunk = TEXT_CHUNK  # one cache for all batch sizes
    return ModuleTeacher(
        trained.selected,
        job.teacher_task,
        chunk=chunk,
        device=device,
        precision=job.teacher.precision,
        layers=layers,
        inputs=job.splits.inputs,
    )


def _data_stage(job: Job, listener: Listener) -> None:
    """Inspect every sample once, and again only if the files change."""
    files = sources_of_files(job.splits)
    if files:
        names = [source.fingerprint for source in files]
        _look_once(job, "pictures", names, lambda: check_files(files), listener)
        return
    parts = parts_of(job.splits)

    def look() -> None:
        for name, source in parts.items():
            scan(source, name, job.task.width, workers=job.settings.workers)

    if all(source.in_memory for source in parts.values()):
        look()
    else:
        _look_once(job, "data", [s.fingerprint for s in parts.values()], look, listener)


def _look_once(
    job: Job, name: str, fingerprints: Sequence[str], look: Callable[[], None], listener: Listener
) -> None:
    """Look at data that take time to read, unless that was done and they are the same."""

    def do() -> list[Path]:
        look()
        return []

    Stage(name, job.out / "data", fingerprint(fingerprints), do, lambda: None).run(listener)


def _arms(
    job: Job, source: Teacher | None, teacher: TrainedModel, listener: Listener
) -> tuple[list[TrainedModel], list[str]]:
    """Train the baselines, note what they mean for the teacher, then train the distilled arms."""
    arms = []
    if job.has_baseline:
        for seed in job.seeds:
            arms.append(  # noqa: PERF401
                arm_stage(job, "baseline", seed, job.baseline_objective, None, listener)
            )
    notes = [*_processes_note(job), *_capacity_note(job, teacher, arms, listener)]
    for seed in job.seeds:
        arms.append(  # noqa: PERF401
            arm_stage(job, "distilled", seed, job.objective, source, listener)
        )
    return arms, notes


def _report_notes(job: Job) -> list[str]:
    return report_notes(job.out) if job.has_report else []


def _memory_note(job: Job, trained: TrainedModel) -> Iterator[str]:
    """Note on batches that were split to fit into memory."""
    if trained.progress.parts > 1:
        plan = job.teacher.train if trained.arm == "teacher" else None
        size = (plan or job.settings).most_rows(len(job.splits.train))
        label = f"{trained.arm}, seed {trained.seed}"
        yield in_parts_note(label, size, trained.progress.parts, trained.last)


def _processes_note(job: Job) -> list[str]:
    """Note on batch norm, the only difference between several processes and one."""
    count = world().count
    if count == 1:
        return []
    networks = (job.make_student(), *[p.make() for p in job.teachers if p.train is not None])
    kinds = (module for network in networks for module in network.modules())
    if not any(isinstance(kind, _BatchNorm) for kind in kinds):
        return []
    return [
        f"{count} processes shared each batch, and batch norm normalised each process's "
        f"{-(-job.settings.batch_size // count)} of {job.settings.batch_size} samples by "
        "themselves. One process would give a slightly different student."
    ]


def _capacity_note(
    job: Job, teacher: TrainedModel, baselines: list[TrainedModel], listener: Listener
) -> list[str]:
    """Warning about a teacher that is no better than the baseline, before it teaches."""
    scores = [b.progress.best_metric for b in baselines if b.progress.best_metric is not None]
    best, metric = teacher.progress.best_metric, job.task.metric
    if best is None or not scores or job.problem.teacher_task is not None:  # counts other tokens
        return []
    baseline = sum(scores) / len(scores)
    if metric.rank(best) > metric.rank(baseline):
        return []
    note = (
        "The teacher is no better than the baseline on the validation data "
        f"({metric.text(best)} against {metric.text(baseline)}): there is little to learn from it. "
        "Train it longer, make it larger, or load a better one."
    )
    listener(StageDone("teacher check", was_there=False, note=note))
    return [note]


def _record(
    job: Job,
    costs: Costs,
    judged: EvaluationResult,
    cache: CacheRow | None,
    notes: list[str],
    seconds: dict[str, float],
    files: TextFiles,
    written: list[GenerationSample],
) -> RunRecord:
    splits = job.splits
    return RunRecord(
        name=job.name,
        version=__version__,
        command=job.command,
        recipe=job.recipe,
        class_names=list(splits.class_names),
        splits={
            "train": len(splits.train),
            "valid": 0 if splits.valid is None else len(splits.valid),
            "test": len(splits.test),
        },
        temperature=job.objective.temperature,
        teacher=judged.teacher,
        arms=judged.arms,
        summaries=judged.summaries,
        verdicts=judged.verdicts,
        sizes=costs.sizes,
        latencies=costs.latencies,
        parity=costs.parity,
        quantised=costs.quantised,
        measurements=load_measurements(job.out),
        samples=judged.samples,
        shown=judged.shown,
        cache=cache,
        notes=[*job.notes, *overlap_note(splits), *notes],
        seconds=seconds,
        metric=job.task.metric,
        metrics=job.task.metrics,
        machine=say_machine(environment()),
        text_files=files.rows,
        refused=[*files.refused, *costs.refused],
        written=written,
        finished=datetime.now(UTC).date().isoformat(),
        judged_on=judged_on(splits),
        confusion=judged.confusion,
    )


def _cache_row(source: Teacher | None) -> CacheRow | None:
    if not isinstance(source, CachedTeacher):
        return None
    manifest = source.manifest
    return CacheRow(
        codec=manifest.key.codec,
        num_samples=manifest.key.num_samples,
        num_views=manifest.key.num_views,
        size_bytes=manifest.size_bytes,
        bytes_per_item=manifest.bytes_per_item,
        kl_to_live=manifest.kl_to_live,
        build_seconds=manifest.build_seconds,
    )


def check_extras(job: Job) -> None:
    """Check for missing extras before the first step."""
    if job.measure is not None:
        require("onnxruntime", "onnx", "Exporting and measuring (measure: null leaves it out)")
        for target in job.export.all_targets:
            TARGETS[target].check()
    if job.export.finetune is not None:
        check_can_go_on(job.objective)
        simulate_int8(job.new_student(0), job.int8[0])
    if job.settings.tensorboard:
        require("tensorboard", "tensorboard", "Writing TensorBoard logs")


def _open_folder(job: Job) -> None:
    """Write what is known at the start; an unwritable folder fails here."""
    write_text(job.out / "recipe.yaml", yaml.safe_dump(dict(job.recipe), sort_keys=False))
    for number, file in enumerate(job.own_files):
        is_first = file.name not in {other.name for other in job.own_files[:number]}
        name = file.name if is_first else f"{number}-{file.name}"
        write_text(job.out / OWN_CODE / name, file.read_text(encoding="utf-8"))
    seeds = {"teachers": [plan.seed for plan in job.teachers], "students": list(job.seeds)}
    write_json(job.out / "environment.json", {**environment(), "seeds": seeds})
