"""What a loss costs: time and memory of a step beside one with another loss."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tutelage.engine import OptimizerSettings
from tutelage.engine.distiller import Distiller
from tutelage.engine.prepare import prepare
from tutelage.engine.training_module import TrainingModule
from tutelage.objective import Objective
from tutelage.tasks import Task
from tutelage.teachers import ModuleTeacher
from tutelage.types import Batch, Outputs, Signal

TURNS, STEPS = 7, 3


@dataclass(frozen=True, slots=True)
class Cost:
    """A step's cost: student, loss, backward and update, without the teacher's forward.

    Attributes:
        milliseconds: Median time of a step.
        ratio: Median of its time over that of the other loss's step, taken by turns.
        megabytes: Most that a step holds at once beyond what lies there before it.
    """

    milliseconds: float
    ratio: float
    megabytes: float


def costs_against(
    other: str,
    objectives: Mapping[str, Objective],
    make_student: Callable[[], nn.Module],
    task: Task,
    teacher: ModuleTeacher,
    batch: Batch,
    num_samples: int,
) -> dict[str, Cost]:
    """Time per step of each objective, measured in alternation with a reference.

    Args:
        other: Name of the objective that is the measure.
        objectives: By name.
        make_student: Makes the network that is trained.
        task: How it is called.
        teacher: With all layers that any of the objectives looks at; it is asked once.
        batch: The samples of every step.
        num_samples: Number of training samples.
    """

    def stepper(name: str) -> Callable[[], object]:
        torch.manual_seed(0)
        objective, student = objectives[name], make_student()
        student = prepare(student, objective, task, batch, teacher=teacher, num_samples=num_samples)
        trainee = TrainingModule(student, objective, task)
        optimizer = OptimizerSettings(kind="adamw", lr=1e-4).build(trainee.parameters())
        distiller = Distiller(trainee, _Told(teacher, batch), optimizer)
        return lambda: distiller.step(batch)

    measure = stepper(other)
    costs = {}
    for name in objectives:
        step = stepper(name)
        times, ratios = _by_turns(step, measure)
        costs[name] = Cost(
            round(1e3 * times, 3), round(ratios, 4), round(_peak_bytes(step) / 1e6, 3)
        )
    return costs


class _Told:
    """A teacher with precomputed outputs, so that only the loss is measured."""

    def __init__(self, teacher: ModuleTeacher, batch: Batch) -> None:
        self.said = teacher(batch.to(teacher.device))
        self.device = teacher.device
        self.fingerprint = teacher.fingerprint
        self.gives: frozenset[Signal] = teacher.gives

    def __call__(self, batch: Batch) -> Outputs:  # noqa: ARG002
        return self.said


def _by_turns(step: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a step, and the median ratio to the reference's step of the same round."""
    seconds, ratios = [], []
    for function in (step, other):
        function()
    for turn in range(TURNS):
        pair = {}
        for function in (step, other) if turn % 2 else (other, step):
            begun = _now()
            for _ in range(STEPS):
                function()
            pair[function] = (_now() - begun) / STEPS
        seconds.append(pair[step])
        ratios.append(pair[step] / pair[other])
    return statistics.median(seconds), statistics.median(ratios)


def _now() -> float:
    """Processor time, which other programs hardly disturb; on a GPU wall time after a sync."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _peak_bytes(step: Callable[[], object]) -> int:
    """Peak bytes that one call allocates beyond those held before it."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[Any] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if _is_memory(event)]
    held = peak = 0
    for _, change in sorted(changes, key=lambda change: float(change[0])):
        held += change
        peak = max(peak, held)
    return peak


def _is_memory(event: Mapping[str, Any]) -> bool:
    return event.get("name") == "[memory]" and "Bytes" in event.get("args", {})
