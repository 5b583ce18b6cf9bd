"""Data on disk, 10^4 to 10^7 samples: cost a sample and memory of build, verify and training."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from cache import MemoryWatch
from timing import machine
from torch import nn

from tutelage.data.arrays import ArraySource
from tutelage.data.loading import BatchBuilder
from tutelage.engine import Arm, OptimizerSettings, TrainSettings, fit
from tutelage.losses import KD, CrossEntropy
from tutelage.tasks import Classification
from tutelage.teachers import CachedTeacher, ModuleTeacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.store import load_manifest, verify

WIDTH, CLASSES, BATCH, BLOCK = 16, 10, 1024, 2**18
STAGES = ("build", "verify", "train")
TASK, CODEC = Classification(num_classes=CLASSES), make_codec("float16")


def write_data(folder: Path, count: int) -> None:
    """Random vectors of 64 bytes, whose class is the largest of ten sums of theirs."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    mix = generator.standard_normal((WIDTH, CLASSES), dtype=np.float32)
    shape = (count, WIDTH)
    inputs = np.lib.format.open_memmap(folder / "inputs.npy", "w+", np.float32, shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.uint8, (count,))
    for start in range(0, count, BLOCK):
        rows = generator.standard_normal((min(BLOCK, count - start), WIDTH), dtype=np.float32)
        inputs[start : start + len(rows)] = rows
        labels[start : start + len(rows)] = (rows @ mix).argmax(axis=1)


def network(hidden: int) -> nn.Module:
    """A small MLP."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def run_stage(stage: str, folder: Path) -> float:
    """One stage; its seconds."""
    reader = BatchBuilder(ArraySource(folder / "train"), num_classes=CLASSES)
    live = ModuleTeacher(network(64), TASK, chunk=BATCH)
    cache = folder / "cache"
    begun = time.perf_counter()
    if stage == "build":
        build_cache(cache, live, reader, CODEC, device=torch.device("cpu"))
    if stage == "verify":
        verify(cache, load_manifest(cache))
    if stage == "train":
        teacher = CachedTeacher(cache, cache_key(live, reader, CODEC))
        begun = time.perf_counter()  # opening verifies, which is measured by itself
        train(reader, teacher, folder / "arm")
    return time.perf_counter() - begun


def train(reader: BatchBuilder, teacher: CachedTeacher, folder: Path) -> None:
    """One epoch."""
    arm = Arm(
        name="distilled",
        seed=0,
        objective=0.1 * CrossEntropy() + 0.9 * KD(4.0),
        task=TASK,
        settings=TrainSettings(
            epochs=1, batch_size=BATCH, checkpoint_s=1e9, optimizer=OptimizerSettings(lr=1e-3)
        ),
        train=reader,
        valid=None,
        teacher=teacher,
        folder=folder,
        key="scale",
    )
    fit(network(16), arm)


def report(stage: str, folder: Path) -> None:
    """In a process of its own: run a stage and print seconds and peaks in kB as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first:  # so that whatever is loaded once is loaded
        write_data(Path(first, "train"), 5_000)
        for name in STAGES:
            run_stage(name, Path(first))
    watch = MemoryWatch()
    seconds = run_stage(stage, folder)
    print(json.dumps({"seconds": seconds, "start": watch.start, "peak": watch.peak}))


def measure(count: int, folder: Path) -> list[dict[str, float]]:
    """All stages of one size, each in a fresh process."""
    if not (folder / "train" / "labels.npy").is_file():
        write_data(folder / "train", count)
    rows = []
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, str(folder)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        grown = {
            name: max(0, peak - found["start"][name]) / 1024 for name, peak in found["peak"].items()
        }
        cost = 1e6 * found["seconds"] / count
        rows.append({"count": count, "stage": stage, "us": cost, "MB": grown["RssAnon"]})
        print(
            f"  {count:>10,}  {stage:<7}{found['seconds']:>9.2f}{cost:>11.3f}"
            f"{grown['RssAnon']:>9.1f}{grown['RssFile']:>9.1f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure sizes one after another and compare the cost of a sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--folder", type=Path, help="keeps the data; a temporary one if not given")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        report(options.stage[0], Path(options.stage[1]))
        return
    print(machine(1))
    print(f"Samples of {WIDTH} float32, float16 cache, batch {BATCH}; MB grown above the start")
    print(f"  {'samples':>10}  {'stage':<7}{'s':>9}{'us/sample':>11}{'own':>9}{'mapped':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.counts:
            rows += measure(count, (options.folder or Path(temporary)) / str(count))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
