"""One step: what a cached and a live teacher add to it, for an MLP and for a small ResNet."""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import alternate, machine, median_ms, pooled, ratio
from torch import nn

import tutelage
from tutelage.data.loading import BatchBuilder, training_requests
from tutelage.data.sources import TensorSource
from tutelage.inputs import ImageInputs
from tutelage.models.nets import mlp, resnet
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec

CLASSES = 10
TASK = tutelage.Classification(num_classes=CLASSES)
LR = 1e-4


@dataclass(frozen=True, slots=True)
class Case:
    """A teacher, a student and their batches."""

    name: str
    teacher: Callable[[], nn.Module]
    student: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    views: tutelage.Shift | tutelage.CropFlip
    batch_size: int
    has_goal: bool = True


CASES = (
    Case(
        "MLP 2x1200 -> 2x800, 28x28, batch 256",
        teacher=lambda: mlp(CLASSES, hidden=(1200, 1200)),
        student=lambda: mlp(CLASSES, hidden=(800, 800)),
        shape=(1, 28, 28),
        views=tutelage.Shift(2),
        batch_size=256,
    ),
    Case(
        "MLP 2x8 -> 2x8, 28x28, batch 32: what a step costs however small the networks",
        teacher=lambda: mlp(CLASSES, hidden=(8, 8)),
        student=lambda: mlp(CLASSES, hidden=(8, 8)),
        shape=(1, 28, 28),
        views=tutelage.Shift(2),
        batch_size=32,
        has_goal=False,
    ),
    Case(
        "ResNet-14 (width 16) -> ResNet-8 (width 8), 3x32x32, batch 64",
        teacher=lambda: resnet(CLASSES, in_channels=3, width=16, blocks=2),
        student=lambda: resnet(CLASSES, in_channels=3, width=8, blocks=1),
        shape=(3, 32, 32),
        views=tutelage.CropFlip(4),
        batch_size=64,
    ),
)


def make_sides(case: Case, folder: Path) -> Mapping[str, Callable[[], object]]:
    """What is timed: every side trains a student of its own on the same batches."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8 * case.batch_size, *case.shape), dtype=torch.uint8)
    source = TensorSource(images, torch.randint(0, CLASSES, (len(images),)))
    channels = case.shape[0]
    reader = BatchBuilder(
        source,
        case.views,
        inputs=ImageInputs([0.5] * channels, [0.25] * channels),
        num_classes=CLASSES,
    )
    requests = training_requests(
        len(source), case.views, batch_size=case.batch_size, seed=0, epoch=0
    )
    batches = [reader[request] for request in requests]
    model = case.teacher()
    live = tutelage.ModuleTeacher(model, TASK, chunk=case.batch_size)
    build_cache(folder, live, reader, make_codec("float32"), device=torch.device("cpu"))
    kd = 0.1 * tutelage.CrossEntropy() + 0.9 * tutelage.KD(temperature=4)
    plain = 1.0 * tutelage.CrossEntropy()
    return {
        "bare": bare_step(case, batches),
        "plain": our_step(case, batches, plain, None),
        "cached": our_step(case, batches, kd, tutelage.CachedTeacher(folder)),
        "live": our_step(case, batches, kd, live),
        "teacher": teacher_forward(model, batches),
    }


def bare_step(case: Case, batches: list[tutelage.Batch]) -> Callable[[], object]:
    """Cross-entropy in bare PyTorch."""
    student = new_student(case)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, fused=True)
    turn = itertools.cycle(batches)

    def step() -> None:
        batch = next(turn)
        optimizer.zero_grad()
        F.cross_entropy(student(batch.inputs), batch.labels).backward()
        optimizer.step()

    return step


def our_step(
    case: Case,
    batches: list[tutelage.Batch],
    objective: tutelage.Objective,
    teacher: tutelage.ModuleTeacher | tutelage.CachedTeacher | None,
) -> Callable[[], object]:
    """The Distiller's step."""
    trainee = tutelage.TrainingModule(new_student(case), objective, TASK)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=LR, fused=True)
    distiller = tutelage.Distiller(trainee, teacher, optimizer)
    turn = itertools.cycle(batches)
    return lambda: distiller.step(next(turn))


def teacher_forward(model: nn.Module, batches: list[tutelage.Batch]) -> Callable[[], object]:
    """The teacher's network alone, on whole batches."""
    turn = itertools.cycle(batches)

    def forward() -> None:
        with torch.no_grad():
            model(next(turn).inputs)

    return forward


def new_student(case: Case) -> nn.Module:
    """The same initial weights for every side."""
    torch.manual_seed(1)
    return case.student().train()


def measure(case: Case, repeats: int, turns: int, calls: int) -> None:
    """Time one case and print its ratios."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = pooled(
            alternate(make_sides(case, Path(folder)), turns=turns, calls=calls)
            for _ in range(repeats)
        )
    both = [a + b for a, b in zip(seconds["teacher"], seconds["plain"], strict=True)]
    print(f"\n{case.name}")
    for name, values in seconds.items():
        print(f"  {name:<24}{median_ms(values)}")
    if not case.has_goal:
        return
    print(f"  plain / bare PyTorch     {ratio(seconds['plain'], seconds['bare'])}")
    print(f"  cached / plain           {ratio(seconds['cached'], seconds['plain']).against(1.05)}")
    print(f"  live / (teacher + plain) {ratio(seconds['live'], both).against(1.05)}")


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="times with new networks")
    parser.add_argument("--turns", type=int, default=8, help="turns of each side in a repeat")
    parser.add_argument("--calls", type=int, default=3, help="steps in one turn")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    parser.add_argument("--batch-size", type=int, help="of every case, in the place of its own")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    print(f"{options.repeats} repeats of {options.turns} turns of {options.calls} steps")
    print("ratio: median (quartiles)")
    for case in CASES:
        sized = replace(case, batch_size=options.batch_size or case.batch_size)
        measure(sized, options.repeats, options.turns, options.calls)


if __name__ == "__main__":
    main()
