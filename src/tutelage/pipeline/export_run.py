"""More exports of a finished run, without training."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from tutelage.deploy import TARGETS
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.engine.events import ignore
from tutelage.errors import ConfigError, find
from tutelage.files import fingerprint
from tutelage.locks import locked
from tutelage.models.strangers import without_own_code
from tutelage.pipeline.delivery import COSTS, WEIGHTS, export_all, save_costs, wrap_for_export
from tutelage.pipeline.exporting import Costs, raise_refused
from tutelage.pipeline.lm_export import student_stage
from tutelage.pipeline.package import export_package
from tutelage.pipeline.reopen import LoadedRun, reopen
from tutelage.pipeline.reporting import save_report
from tutelage.pipeline.stages import MARKER, mark_complete
from tutelage.pipeline.training import save_weights
from tutelage.records import RunRecord, load_record, save_record
from tutelage.stage_files import CompletionMarker, check_left, left_files


def export_run(
    folder: Path, *, target: str | None = None, scheme: str | None = None, allow_code: bool = False
) -> RunRecord:
    """Export the student of a finished run again, and add it to results and report.

    Args:
        folder: The run folder.
        target: A name of `TARGETS`, for language models of `TEXT_TARGETS`; None takes those of the
            recipe.
        scheme: To int8, beside the float file; None makes none. Where no target is named, those
            that have no such way get their float file alone.
        allow_code: Import the modules and files that the run's recipe names.

    Returns:
        The results with the new files' rows.

    Raises:
        UnknownNameError: There is no such target, or it has no such way.
        MissingExtraError: What makes or runs such files is not installed.
        ExportError: A file fails parity; it is not left, and the others are.
        RunFolderError: It is no finished run, or a file of it was changed.
        ConfigError: Its recipe names code of its own, and that is not allowed.
    """
    if target is not None:
        find("target", target, {**TEXT_TARGETS, **TARGETS})
    guard = nullcontext() if allow_code else without_own_code(folder / "recipe.yaml")
    with locked(folder, "tutelage export"), guard:
        run = reopen(folder)
        if run.job.problem.tokenizer is not None:
            return _export_texts(run, target, scheme)
        if target is not None:
            find("target", target, TARGETS).check()
            if scheme is not None:
                TARGETS[target].check_scheme(scheme)
        return _export(run, target, scheme)


def _export_texts(run: LoadedRun, target: str | None, scheme: str | None) -> RunRecord:
    """A language model's files: those of the recipe and of earlier calls, and one more."""
    job, before = run.job, [row.target for row in run.record.text_files]
    if scheme is not None:
        raise ConfigError(
            f"int8: {scheme} is for networks of another kind; a language model's int8 is the "
            "target gguf_q8_0."
        )
    asked = [target] if target else []
    names = tuple(dict.fromkeys((*job.problem.text_targets, *before, *asked)))
    if not names:
        raise ConfigError(f"target: the recipe names none. Give one of {', '.join(TEXT_TARGETS)}.")
    for name in names:
        find("target", name, TEXT_TARGETS).check(run.student.selected, job.problem.tokenizer)
    with_files = replace(job, problem=replace(job.problem, text_targets=names))
    files = student_stage(with_files, run.student, ignore)
    record = replace(
        run.record, text_files=files.rows, refused=files.refused, files=left_files(job.out)
    )
    save_record(job.out / "results.json", record)
    save_report(record, job.out)
    raise_refused(files.refused, job.out)
    return record


def _export(run: LoadedRun, target: str | None, scheme: str | None) -> RunRecord:
    folder = run.job.out / "export"
    costs, key = _so_far(run)
    save_weights(run.student.selected, folder / WEIGHTS)
    network, before = wrap_for_export(run.job, run.student.selected), costs.refused
    targets = (target,) if target else run.job.export.all_targets
    if "distilled" not in {row.name for row in costs.parity}:
        targets = tuple(dict.fromkeys(("onnx", *targets)))
    for name in targets:
        TARGETS[name].check()
        costs = export_all(run.job, network, name, [scheme] if scheme else [], costs)
    # A file that was there stays where its new one is refused, and one that is there now is not.
    failed = [entry for entry in costs.refused if not any(entry is old for old in before)]
    still = {entry.file for entry in costs.refused}
    kept = [entry for entry in before if entry.file in still]
    record = _leave(run, replace(costs, refused=kept), key)
    raise_refused(failed, run.job.out)
    return record


def _so_far(run: LoadedRun) -> tuple[Costs, str]:
    """Existing exports, and the key under which they were made.

    Raises:
        RunFolderError: A file of it was changed since.
    """
    folder = run.job.out / "export"
    if not (folder / COSTS).exists():
        return Costs(), fingerprint(["tutelage export", run.student.key])
    marker = load_record(folder / MARKER, CompletionMarker)
    check_left(run.job.out, run.record, [folder / Path(name).name for name in marker.files])
    return load_record(folder / COSTS, Costs), marker.key


def _leave(run: LoadedRun, costs: Costs, key: str) -> RunRecord:
    folder = run.job.out / "export"
    mark_complete(folder, key, save_costs(folder, costs))
    record = replace(
        run.record,
        sizes=costs.sizes,
        parity=costs.parity,
        quantised=costs.quantised,
        refused=costs.refused,
        files=left_files(run.job.out),
    )
    save_record(run.job.out / "results.json", record)
    export_package(run.job, record, run.student)
    save_report(record, run.job.out)
    return record
