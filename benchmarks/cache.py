"""The teacher cache: what reading it adds to an epoch, rates, memory by number of samples, texts.

Texts are those of `scripts/get-data movie_snippets all-minilm-l6-v2`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from end_to_end import TASK, make_data, our_loop, trained_teacher
from timing import Seconds, alternate, machine, ratio, take_turns

import tutelage
from tutelage.config import build_job, read_recipe
from tutelage.data.loading import BatchBuilder, in_order, iterate
from tutelage.data.sources import DatasetSource
from tutelage.files import file_sha256
from tutelage.models.nets import mlp
from tutelage.teachers import ModuleTeacher
from tutelage.teachers.build import build_cache, cache_key
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.module import TEXT_CHUNK
from tutelage.teachers.store import load_manifest, shard_path, verify
from tutelage.types import Outputs

CPU = torch.device("cpu")
CODEC = make_codec("float32")
BATCH = 256


class TimedTeacher:
    """A cached teacher that notes how long each look-up takes."""

    def __init__(self, teacher: tutelage.CachedTeacher) -> None:
        """Wrap it."""
        self.teacher = teacher
        self.gives, self.fingerprint = teacher.gives, teacher.fingerprint
        self.layers: tuple[str, ...] = ()
        self.device = CPU
        self.spent: list[Seconds] = []

    def __call__(self, batch: tutelage.Batch) -> Outputs:
        """What the cache says."""
        begun = Seconds.now()
        outputs = self.teacher(batch)
        self.spent.append(Seconds.now() - begun)
        return outputs


def measure_reading(samples: int) -> None:
    """One epoch from the cache: the share of it that goes into look-ups."""
    splits, reader = make_data("mnist", samples)
    live = ModuleTeacher(trained_teacher(splits, 28), TASK, chunk=BATCH)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        manifest = build_cache(out / "cache", live, reader, CODEC, device=CPU)
        cached = tutelage.CachedTeacher(out / "cache", cache_key(live, reader, CODEC))
        timed = TimedTeacher(cached)
        loop = our_loop(reader, timed, out / "arm", epochs=1, batch_size=BATCH)
        steps = take_turns({"cached": loop}, steps=1, threads=1)["cached"][: len(timed.spent)]
    rest = [whole - part for whole, part in zip(steps, timed.spent, strict=True)]
    print(f"\nReading, MNIST, {samples} samples, MLP 2x800, batch {BATCH}, warm page cache")
    print(f"  {len(manifest.shards)} shards, {manifest.size_bytes / 1e6:.0f} MB")
    print(f"  look-up / rest of the step  {ratio(timed.spent, rest).against(0.03)}")
    total = sum(timed.spent, Seconds(0, 0)).cpu / sum(rest, Seconds(0, 0)).cpu
    print(f"  over the whole epoch        cpu {total:.4f}")


def measure_rates(samples: int) -> None:
    """How fast a cache is built and verified, beside the bare work that is in it."""
    splits, reader = make_data("mnist", samples)
    model = trained_teacher(splits, 28)
    live = ModuleTeacher(model, TASK, chunk=BATCH)
    items = samples * reader.views.num_views
    inputs = next(iterate(reader, in_order(len(reader), batch_size=BATCH))).inputs
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        forward, build = 0.0, 0.0
        for turn in range(3):
            begun = time.process_time()
            for _ in range(items // BATCH):
                model(inputs)
            forward += time.process_time() - begun
            folder = Path(temporary) / str(turn)
            begun = time.process_time()
            manifest = build_cache(folder, live, reader, CODEC, device=CPU)
            build += time.process_time() - begun
        checking, hashing = [], []
        for _ in range(10):
            begun = time.process_time()
            verify(folder, manifest)
            middle = time.process_time()
            for number in range(len(manifest.shards)):
                file_sha256(shard_path(folder, number))
            checking.append(middle - begun)
            hashing.append(time.process_time() - middle)
    print(f"\nRates, teacher MLP 2x1200, {items} items of {manifest.bytes_per_item:.0f} bytes")
    print(f"  build   {3 * items / build:10.0f} items/s of processor time")
    print(f"  build / the teacher's forward alone {build / forward:.3f}")
    print(f"  verify  {len(checking) * manifest.size_bytes / sum(checking) / 1e6:10.0f} MB/s")
    print(f"  verify / SHA-256 of the files alone {sum(checking) / sum(hashing):.3f}")


def measure_texts(count: int) -> None:
    """A teacher of texts, asked about a batch at a time and as a build asks it."""
    job = build_job(read_recipe("movie_snippets"))
    teacher = ModuleTeacher(
        job.teachers[0].make(), job.teacher_task, chunk=TEXT_CHUNK, precision="bf16"
    )
    (first,) = in_order(1, batch_size=1)
    many = teacher.best_size(job.train_reader[first])

    def ask(size: int) -> None:
        for request in in_order(count, batch_size=size):
            teacher(job.train_reader[request])

    sides = {"32": lambda: ask(32), f"{many}": lambda: ask(many)}
    turns = alternate(sides, turns=5, calls=1)
    print(f"\nTexts, MiniLM of 6 layers, bfloat16, {count} film reviews")
    for name in sides:
        rate = count / statistics.median(span.cpu for span in turns[name])
        print(f"  {name} at once {rate:8.0f} texts/s of processor time")
    print(f"  {many} at once / 32 at once {ratio(turns[str(many)], turns['32'])}")


class Generated:
    """A map-style data set that makes each image when it is asked for, and keeps none."""

    def __init__(self, count: int) -> None:
        """Hold the count and an image to derive others from."""
        self.count = count
        self.base = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        """An image and its label."""
        return self.base + number % 191, number % 10


def build_or_train(count: int, folder: Path) -> None:
    """One epoch from the cache on generated images, or the cache if it is not there."""
    reader = BatchBuilder(DatasetSource(Generated(count)), num_classes=10)
    torch.manual_seed(0)
    live = ModuleTeacher(mlp(10, image_size=8, hidden=(32,)), TASK, chunk=BATCH)
    if not (folder / "cache" / "manifest.json").is_file():
        build_cache(folder / "cache", live, reader, CODEC, device=CPU)
        return
    cached = tutelage.CachedTeacher(folder / "cache", cache_key(live, reader, CODEC))
    loop = our_loop(reader, cached, folder / "arm", epochs=1, batch_size=BATCH)
    loop(lambda: None)


class MemoryWatch:
    """Highest anonymous and file-backed memory of this process, looked at every few ms."""

    def __init__(self) -> None:
        """Start to watch."""
        self.peak = {"RssAnon": 0, "RssFile": 0}
        self.start = self._read()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            for name, value in self._read().items():
                self.peak[name] = max(self.peak[name], value)
            time.sleep(0.002)

    def _read(self) -> dict[str, int]:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {name: int(fields[name].split()[0]) for name in ("RssAnon", "RssFile")}


def report_memory(count: int, folder: Path) -> None:
    """In a process of its own: build or train, and print the peaks in kB as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first:  # so that whatever is loaded once is loaded
        for _ in ("build", "training"):
            build_or_train(1_000, Path(first))
    watch = MemoryWatch()
    build_or_train(count, folder)
    print(json.dumps({"start": watch.start, "peak": watch.peak}))


def measure_memory(counts: list[int]) -> None:
    """Peak memory of a build and of a training, each in a fresh process."""
    print("\nMemory above the start of the stage, MB (a fresh process each; generated images)")
    print(f"  {'samples':>9}{'cache':>8}  {'stage':<9}{'own':>8}{'mapped file':>13}")
    for count in counts:
        with tempfile.TemporaryDirectory() as temporary:
            for stage in ("build", "training"):
                found = _child(count, temporary)
                grown = {key: found["peak"][key] - found["start"][key] for key in found["peak"]}
                size = load_manifest(Path(temporary) / "cache").size_bytes / 1e6
                own, mapped = (1.024e-3 * grown[key] for key in ("RssAnon", "RssFile"))
                print(f"  {count:>9}{size:>8.1f}  {stage:<9}{own:>8.1f}{mapped:>13.1f}")


def _child(count: int, folder: str) -> dict[str, dict[str, int]]:
    command = [sys.executable, __file__, "--child", str(count), folder]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, dict[str, int]] = json.loads(output.splitlines()[-1])
    return found


def main() -> None:
    """Measure all of them, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="of MNIST, for reading")
    parser.add_argument("--only", choices=("reading", "rates", "memory", "texts"))
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[10_000, 100_000, 400_000, 1_000_000]
    )
    parser.add_argument("--texts", type=int, default=2048, help="that the teacher is asked about")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        report_memory(int(options.child[0]), Path(options.child[1]))
        return
    torch.set_num_threads(1)
    print(machine(1))
    if options.only in (None, "reading"):
        measure_reading(options.samples)
    if options.only in (None, "rates"):
        measure_rates(min(2_000, options.samples))
    if options.only in (None, "memory"):
        measure_memory(options.counts)
    if options.only in (None, "texts"):
        measure_texts(options.texts)


if __name__ == "__main__":
    main()
