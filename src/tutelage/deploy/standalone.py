#!/usr/bin/env python3
"""Measures exported networks on this machine: size, memory, latency, throughput, energy.

Needs Python 3.8 or newer, numpy, and the runtime of each file; nothing else, no network. Put this
file beside the exported files and their measure.json, and run:

    python measure.py > rows.json
    python measure.py --batch-sizes 1,8 --threads 1,4 --seconds 60 --name "the camera" > rows.json

The networks take turns in an order drawn anew for each round, each runtime in a process of its
own, so that what else the machine does falls on all alike and none is timed by its neighbour.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # what lies beside it is data: no numpy.py there is imported
    _BESIDE = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [place for place in sys.path if place and os.path.realpath(place) != _BESIDE]

import argparse
import base64
import contextlib
import hashlib
import importlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

FORMAT = 1
MANIFEST = "measure.json"
POWERCAP = Path("/sys/class/powercap")
MIN_CALLS, MAX_CALLS, MEMORY_CALLS = 5, 100_000, 3
WARM_UP_CALLS, WARM_UP_SHARE = 10, 0.2
LEAST_ENERGY_S = 0.5
RELU_OF_ONE_NUMBER = (
    "CAg6MwoMCgFhEgFiIgRSZWx1EgFnWg8KAWESCgoICAESBAoCCAFiDwoBYhIKCggIARIECgIIAUIECgAQDQ=="
)

if TYPE_CHECKING:  # Python 3.8 could not evaluate it
    Call = Callable[[Any], Any]


# Runtimes: each opens a file and gives a function from inputs to logits.


def open_onnx(path: Path, threads: int) -> Call:
    """ONNX Runtime on the CPU."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A pool that spins on after its call would slow the next network's call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(inputs: Any) -> Any:
        return session.run(None, inputs if isinstance(inputs, dict) else {name: inputs})[0]

    return call


def open_openvino(path: Path, threads: int) -> Call:
    """OpenVINO on the CPU, in float32."""
    openvino = importlib.import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda inputs: request.infer([inputs])[compiled.output(0)]


def open_executorch(path: Path, threads: int) -> Call:
    """ExecuTorch."""
    torch = importlib.import_module("torch")
    runtime = importlib.import_module("executorch.runtime")
    library = importlib.import_module("executorch.extension.pybindings.portable_lib")
    library._unsafe_reset_threadpool(threads)
    program = runtime.Runtime.get().load_program(str(path))
    method = program.load_method("forward")
    return lambda inputs: method.execute([torch.from_numpy(inputs)])[0].numpy()


def open_litert(path: Path, threads: int) -> Call:
    """LiteRT."""
    litert = importlib.import_module("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    scale, zero = taken["quantization"]

    def call(inputs: Any) -> Any:
        scaled = np.clip(np.round(inputs / scale) + zero, -128, 127) if scale else inputs
        interpreter.set_tensor(taken["index"], scaled.astype(taken["dtype"], copy=False))
        interpreter.invoke()
        return interpreter.get_tensor(given["index"])

    return call


def open_torch_export(path: Path, threads: int) -> Call:
    """An exported PyTorch program."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    module = torch.export.load(str(path)).module()

    def call(inputs: Any) -> Any:
        with torch.no_grad():
            return module(torch.from_numpy(inputs)).numpy()

    return call


RUNTIMES: Mapping[str, tuple[str, tuple[str, ...], Callable[[Path, int], Call]]] = {
    "onnx": ("ONNX Runtime", ("onnxruntime",), open_onnx),
    "openvino": ("OpenVINO", ("openvino",), open_openvino),
    "executorch": ("ExecuTorch", ("executorch.runtime", "torch"), open_executorch),
    "litert": ("LiteRT", ("ai_edge_litert.interpreter",), open_litert),
    "torch_export": ("PyTorch", ("torch",), open_torch_export),
}


def runtime_label(runtime: str) -> str:
    """The runtime's name with its version."""
    from importlib.metadata import PackageNotFoundError, version

    title, modules, _ = RUNTIMES[runtime]
    package = modules[0].split(".")[0].replace("_", "-")
    try:
        return f"{title} {version(package)}, CPU"
    except PackageNotFoundError:
        return f"{title}, CPU"


# Latency


def take_turns(calls: Sequence[Callable[[], Any]], rounds: int, seconds: float) -> Any:
    """Seconds of each call after warm-up: one row per round, one column per network.

    No network's time depends on which other goes before it: each is called twice and the first
    call, which finds the other's data in the caches, is not counted; and the order of a round is
    drawn anew each time.

    Args:
        calls: What to time.
        rounds: At most so many.
        seconds: Stop after so long, but not before a few rounds.
    """
    return run_rounds([_timed(call) for call in calls], rounds, seconds)


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    def turn() -> float:
        call()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return turn


def run_rounds(turns: Sequence[Callable[[], float]], rounds: int, seconds: float) -> Any:
    """Time all networks in rounds, each round in a new random order."""
    start, draw = time.perf_counter(), np.random.RandomState(0)
    for _ in range(WARM_UP_CALLS):
        _round(turns, draw)
        if time.perf_counter() - start > WARM_UP_SHARE * seconds:
            break
    times: list[list[float]] = []
    while len(times) < rounds:
        if len(times) >= MIN_CALLS and time.perf_counter() - start > seconds:
            break
        times.append(_round(turns, draw))
    return np.array(times)


def _round(turns: Sequence[Callable[[], float]], draw: Any) -> list[float]:
    times = [0.0] * len(turns)
    for place in draw.permutation(len(turns)):
        times[place] = turns[place]()
    return times


def latency(times: Any, batch_size: int) -> dict[str, Any]:
    """Percentiles of latency, and throughput, of one network's calls."""
    p50, p95 = np.percentile(times, [50, 95])
    return {
        "p50_ms": float(p50) * 1e3,
        "p95_ms": float(p95) * 1e3,
        "throughput_per_s": batch_size * len(times) / float(times.sum()),
        "calls": len(times),
    }


# Energy


def read_energy(folder: Path = POWERCAP) -> float | None:
    """Joules used by the processor packages so far, from RAPL; None if unavailable."""
    total = 0.0
    try:
        zones = [zone for zone in sorted(folder.glob("*:*")) if zone.name.count(":") == 1]
        for zone in zones:
            total += int((zone / "energy_uj").read_text()) / 1e6
    except (OSError, ValueError):
        return None
    return total if zones else None


def energy_mj(call: Callable[[], Any], samples: int, seconds: float, folder: Path) -> float | None:
    """Millijoules per sample of the whole package over one block of calls; None if unavailable."""
    before = read_energy(folder)
    if before is None:
        return None
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    after = read_energy(folder)
    if after is None or after <= before:  # the counter ran over
        return None
    return (after - before) * 1e3 / (calls * samples)


# Memory


def peak_memory(network: Mapping[str, Any], folder: Path) -> int | None:
    """Peak bytes of a process that runs one network, above those of the empty runtime."""
    command = [sys.executable, os.path.abspath(__file__), "--memory-of", json.dumps(dict(network))]
    command += ["--folder", os.path.abspath(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None


def print_memory(network: Mapping[str, Any], folder: Path) -> None:
    """In a child process: open the network, run it, and print its peak memory."""
    for module in RUNTIMES[network["runtime"]][1]:
        importlib.import_module(module)
    inputs = make_inputs(network, network.get("batch") or 1, folder)
    if network["runtime"] == "onnx":  # what it sets up once, for its first network
        _run_smallest_onnx()
    before = _memory("VmRSS")
    _forget_peak()
    call = RUNTIMES[network["runtime"]][2](folder / network["file"], 1)
    for _ in range(MEMORY_CALLS):
        call(inputs)
    after = _memory("VmHWM")
    if before is not None and after is not None:
        sys.stdout.write(f"{max(0, after - before)}\n")


def _run_smallest_onnx() -> None:
    runtime = importlib.import_module("onnxruntime")
    content = base64.b64decode(RELU_OF_ONE_NUMBER)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    session.run(None, {"a": np.zeros(1, dtype="float32")})


def _memory(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.startswith(field + ":")]
    return int(found[0]) * 1024 if found else None


def _forget_peak() -> None:
    """Reset the peak resident set size, because imports may have needed more."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# The whole


def make_inputs(network: Mapping[str, Any], batch_size: int, folder: Path) -> Any:
    """Reproducible inputs: the network's sample repeated, or random numbers of its shape."""
    if network.get("sample"):
        with np.load(folder / network["sample"], allow_pickle=False) as sample:
            return {name: np.repeat(sample[name], batch_size, axis=0) for name in sample.files}
    draw = np.random.RandomState(0)
    shape = (batch_size, *network["shape"])
    if network["dtype"].startswith("float"):
        return draw.uniform(0, 1, shape).astype(network["dtype"])
    return draw.randint(0, network.get("high", 2), shape).astype(network["dtype"])


def measure(
    folder: Path,
    networks: Sequence[Mapping[str, Any]],
    *,
    batch_sizes: Sequence[int],
    threads: Sequence[int],
    seconds: float,
    name: str = "",
    powercap: Path = POWERCAP,
) -> dict[str, Any]:
    """All rows, as plain data.

    Args:
        folder: Where the files lie.
        networks: Networks as in measure.json.
        batch_sizes: Samples in one call.
        threads: Threads of the runtime.
        seconds: For all latencies together; as long again for energy where it is told.
        name: Name of this machine.
        powercap: Where the kernel tells the energy.
    """
    there, files = [], []
    for network in networks:
        problem = _try(folder, network)
        files.append(_file(folder, network, problem))
        if problem is None:
            there.append(network)
    pairs = [(batch, count) for count in threads for batch in batch_sizes]
    rows = []
    for batch, count in pairs:
        fitting = [n for n in there if n.get("batch") in (None, batch)]
        if fitting:
            share = seconds / len(pairs)
            rows += _rows(folder, fitting, batch, count, share, powercap)
    return {
        "format": FORMAT,
        "machine": machine(name),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": files,
        "rows": rows,
    }


def _rows(
    folder: Path,
    networks: Sequence[Mapping[str, Any]],
    batch: int,
    threads: int,
    seconds: float,
    powercap: Path,
) -> list[dict[str, Any]]:
    """Rows of all networks, timed in alternation, with one process per runtime."""
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(folder, batch, threads, powercap))
            for name in dict.fromkeys(network["runtime"] for network in networks)
        }
        owners = [workers[network["runtime"]] for network in networks]
        places = [owner.take(network) for owner, network in zip(owners, networks)]
        turns = [owner.turn(place) for owner, place in zip(owners, places)]
        times = run_rounds(turns, MAX_CALLS, seconds)
        block = max(LEAST_ENERGY_S, seconds / len(networks))
        energies = [owner.energy(place, block) for owner, place in zip(owners, places)]
    return [
        {
            "name": network["name"],
            "runtime": runtime_label(network["runtime"]),
            "batch_size": batch,
            "threads": threads,
            **latency(times[:, column], batch),
            "energy_mj": energies[column],
        }
        for column, network in enumerate(networks)
    ]


class Worker:
    """A process that opens the files of one runtime and times calls on request."""

    def __init__(self, folder: Path, batch: int, threads: int, powercap: Path) -> None:
        """Start the process."""
        work = {"batch": batch, "threads": threads, "powercap": os.path.abspath(powercap)}
        command = [sys.executable, os.path.abspath(__file__), "--work", json.dumps(work)]
        command += ["--folder", os.path.abspath(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.count = 0

    def __enter__(self) -> Worker:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, which stops at the end of its input."""
        self.process.communicate()

    def take(self, network: Mapping[str, Any]) -> int:
        """Open a file and return its number."""
        self._ask({"open": dict(network)})
        self.count += 1
        return self.count - 1

    def turn(self, place: int) -> Callable[[], float]:
        """A function that times a call of one of its files, in seconds."""
        return lambda: self._ask({"time": place})

    def energy(self, place: int, seconds: float) -> float | None:
        """See `energy_mj`."""
        told: float | None = self._ask({"energy": place, "seconds": seconds})
        return told

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a runtime ended its process while it was measured")
        return json.loads(line)


def work(folder: Path, batch: int, threads: int, powercap: str) -> None:
    """In a child process: open files and time calls as requested on stdin."""
    answers = os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a runtime prints is no answer
    calls: list[Callable[[], Any]] = []
    for line in sys.stdin.buffer:
        asked, said = json.loads(line), None
        if "open" in asked:
            network = asked["open"]
            run = RUNTIMES[network["runtime"]][2](folder / network["file"], threads)
            calls.append(_bound(run, make_inputs(network, batch, folder)))
        elif "time" in asked:
            said = _timed(calls[asked["time"]])()
        else:
            said = energy_mj(calls[asked["energy"]], batch, asked["seconds"], Path(powercap))
        answers.write(json.dumps(said).encode() + b"\n")


def _bound(run: Call, inputs: Any) -> Callable[[], Any]:
    return lambda: run(inputs)


def _try(folder: Path, network: Mapping[str, Any]) -> str | None:
    """Why a network cannot run here; None if it can."""
    if network["runtime"] not in RUNTIMES:
        return f"this script does not know the runtime {network['runtime']!r}"
    try:
        inputs = make_inputs(network, network.get("batch") or 1, folder)
        RUNTIMES[network["runtime"]][2](folder / network["file"], 1)(inputs)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:200]}"
    return None


def _file(folder: Path, network: Mapping[str, Any], problem: str | None) -> dict[str, Any]:
    path = folder / network["file"]
    there = path.is_file()
    parts = [folder / name for name in network.get("parts", [])]
    size = sum(part.stat().st_size for part in [path, *parts] if part.is_file())
    return {
        "name": network["name"],
        "file": network["file"],
        "sha256": sha256(path) if there else "",
        "size_bytes": size,
        "memory_bytes": peak_memory(network, folder) if problem is None else None,
        "problem": problem,
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def machine(name: str) -> dict[str, Any]:
    """Description of this machine."""
    processor = _processor()
    return {
        "name": name or f"{processor}, {os.cpu_count()} cores",
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()[:80] or platform.machine()
    return platform.processor() or platform.machine() or "processor"


def numbers(text: str) -> list[int]:
    """Parse positive whole numbers separated by commas."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: write whole numbers above 0, as in 1,32")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    folder = Path(os.path.abspath(__file__)).parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-sizes", type=numbers, default=[1, 32], help="as in 1,32")
    parser.add_argument("--threads", type=numbers, default=[1], help="of the runtime, as in 1,2")
    parser.add_argument("--seconds", type=float, default=20.0, help="for all latencies together")
    parser.add_argument("--name", default="", help="of this machine, for the tables")
    parser.add_argument("--folder", type=Path, default=folder, help="where the files lie")
    parser.add_argument("--powercap", type=Path, default=POWERCAP, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.work is not None:
        work(chosen.folder, **chosen.work)
        return 0
    if chosen.memory_of is not None:
        print_memory(chosen.memory_of, chosen.folder)
        return 0
    if not chosen.seconds > 0:
        parser.error("--seconds must be above 0")
    try:
        manifest = json.loads((chosen.folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{chosen.folder / MANIFEST} cannot be read: {error}")
    found = measure(
        chosen.folder,
        manifest["networks"],
        batch_sizes=chosen.batch_sizes,
        threads=chosen.threads,
        seconds=chosen.seconds,
        name=chosen.name,
        powercap=chosen.powercap,
    )
    sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
