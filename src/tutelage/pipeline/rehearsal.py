"""Trial exports of untrained networks, so that refusals show before training."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import nn

from tutelage.deploy import TARGETS, export_checked
from tutelage.deploy.runtime import as_arrays
from tutelage.doctor import OK, PROBLEM, WARNING, CheckResult
from tutelage.errors import TutelageError
from tutelage.job import Job
from tutelage.models.causal import merged
from tutelage.models.estimators import holds_estimator
from tutelage.pipeline.delivery import wrap_for_export
from tutelage.pipeline.exporting import calibration, example_input
from tutelage.pipeline.lm_export import export_one, test_sample
from tutelage.pipeline.reporting import report_notes
from tutelage.pipeline.run import check_extras
from tutelage.types import Inputs, rows_of

ABOUT = "export"
NUM_SAMPLES = 8


def rehearse_exports(job: Job) -> list[CheckResult]:
    """Write every file that the run will write, from untrained networks, and run it once.

    Int8 of an untrained network may fail where a trained one's do not, so they are warned
    of; the agreement with the float file says nothing yet and is not looked at.
    """
    found: list[CheckResult] = []
    with tempfile.TemporaryDirectory() as name:
        trial = replace(job, out=Path(name))
        for findings in (_extras(trial), _files(trial), _text_files(trial)):
            try:
                found += list(findings)
            except TutelageError as error:
                found.append(CheckResult(PROBLEM, ABOUT, str(error)))
    return found


def _extras(job: Job) -> Iterator[CheckResult]:
    """Check what a run needs at its start: extras, and requirements of fine-tuning."""
    check_extras(job)
    yield from (CheckResult(WARNING, ABOUT, note) for note in report_notes(job.out))


def _files(job: Job) -> Iterator[CheckResult]:
    if job.measure is None:
        return
    inputs = example_input(job)
    teacher = job.new_teacher().eval()
    if not holds_estimator(teacher):
        yield _float(job, wrap_for_export(job, teacher), "teacher", "onnx", inputs)
    student = wrap_for_export(job, job.new_student(0).eval())
    for target in job.export.all_targets:
        finding = _float(job, student, "student", target, inputs)
        yield finding
        for scheme in job.int8 if finding.level == OK else ():
            if scheme in TARGETS[target].schemes:
                yield _int8(job, student, target, scheme)


def _float(job: Job, network: nn.Module, name: str, target: str, inputs: Inputs) -> CheckResult:
    path = _path(job, name, target)
    try:
        row = export_checked(
            network, [inputs], path, name=name, target=target, inputs=job.splits.inputs
        )
    except TutelageError as error:
        return CheckResult(PROBLEM, ABOUT, f"{path.name}: {error}")
    text = f"{path.name} runs in {row.runtime} and computes what PyTorch does (untrained)."
    return CheckResult(OK, ABOUT, text)


def _int8(job: Job, network: nn.Module, target: str, scheme: str) -> CheckResult:
    kind, source = TARGETS[target], _path(job, "student", target)
    path = source.with_name(f"student.{scheme}.int8{source.suffix}")
    samples = calibration(job)[0]
    few = rows_of(samples, slice(NUM_SAMPLES))
    try:
        kind.quantise(network, source, [few], path, scheme)
        kind.open(path)(as_arrays(few))
    except TutelageError as error:
        return CheckResult(WARNING, ABOUT, f"{path.name}, of the untrained student: {error}")
    return CheckResult(OK, ABOUT, f"{path.name} can be made and run.")


def _text_files(job: Job) -> Iterator[CheckResult]:
    if not job.problem.text_targets:
        return
    model, sample = merged(job.new_student(0)).cpu().float().eval(), test_sample(job)
    for name in job.problem.text_targets:
        try:
            row = export_one(job, model, name, sample)
        except TutelageError as error:
            yield CheckResult(PROBLEM, ABOUT, f"{name}: {error}")
        else:
            yield CheckResult(OK, ABOUT, f"{row.file}: {row.runtime} says what PyTorch says.")


def _path(job: Job, name: str, target: str) -> Path:
    return job.out / f"{name}{TARGETS[target].suffix}"
