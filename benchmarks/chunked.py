"""A language model's loss: its time and peak memory, on hidden states in chunks and on the logits.

Each case runs in a process of its own: hidden states of student and teacher (width 576) with their
heads are made, memory is read, and forward and backward are done. "Extra" memory is the peak of the
first step above what lay there before. Time is that of the processor on one thread, which sharing a
machine changes little. What was measured is kept in a file, so that the command goes on where it
stopped.

    python benchmarks/chunked.py
    python benchmarks/chunked.py --dense-tokens 1024 --turns 5 --keep /tmp/chunked.json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import machine
from torch import Tensor

from tutelage.losses import KD, CrossEntropy, JensenShannon
from tutelage.objective import Objective
from tutelage.types import Batch, HiddenStates, Outputs

WIDTH, MANY = 576, 8192
VOCABULARIES = (49_152, 151_936)
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "0.5 CE + 0.5 KL": lambda: 0.5 * CrossEntropy() + 0.5 * KD(temperature=1),
    "JS 0.5": lambda: 1 * JensenShannon(0.5),
}
# TRL's Jensen-Shannon divergence is a quarter of ours at 0.5 (docs/conversions.md).
IN_TRL = {"0.5 CE + 0.5 KL": 1, "JS 0.5": 4}
SIDES = ("chunked", "dense", "trl")


def resident_mb() -> float:
    """Resident memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def trl_loss(student: Tensor, teacher: Tensor, labels: Tensor, name: str) -> Tensor:
    """The same objective with TRL's divergence and torch's cross-entropy."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    beta = 0.5 if name == "JS 0.5" else 0
    divergence = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, reduction="sum"
    )
    mean = divergence / len(labels)
    if name == "JS 0.5":
        return mean
    return 0.5 * torch.nn.functional.cross_entropy(student, labels) + 0.5 * mean


def one(side: str, words: int, tokens: int, name: str, turns: int) -> dict[str, float]:
    """Time and memory of one side of one case, its value, and its gradient in two numbers."""
    torch.manual_seed(0)
    values = torch.randn(tokens, WIDTH).requires_grad_()
    weight = (0.05 * torch.randn(words, WIDTH)).requires_grad_()
    teacher = HiddenStates(torch.randn(tokens, WIDTH), 0.05 * torch.randn(words, WIDTH))
    labels = torch.randint(0, words, (tokens,))
    ids = torch.arange(tokens)
    batch = Batch(torch.zeros(tokens, 1), labels, ids, ids)
    objective = OBJECTIVES[name]()
    values.grad, weight.grad = torch.zeros_like(values), torch.zeros_like(weight)

    def step() -> float:
        hidden = HiddenStates(values, weight)
        if side == "trl":
            total = trl_loss(hidden.dense(), teacher.dense(), labels, name)
        elif side == "dense":
            total = objective(Outputs(hidden.dense()), Outputs(teacher.dense()), batch).total
        else:
            total = objective(Outputs(hidden), Outputs(teacher), batch).total
        total.backward()
        return float(total.detach())

    before = resident_mb()
    begun = time.process_time()
    value = step()
    seconds = [time.process_time() - begun]
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    gradient = values.grad.clone()
    for _ in range(turns):
        begun = time.process_time()
        step()
        seconds.append(time.process_time() - begun)
    probe = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    return {
        "extra_mb": extra,
        "ms_a_token": 1000 * statistics.median(seconds[1:] or seconds) / tokens,
        "value": value,
        "gradient_norm": float(gradient.norm()),
        "gradient_probe": float((gradient * probe).sum()),
    }


def apart(keep: Path, *arguments: object) -> dict[str, float]:
    """One case in a process of its own, or what was kept of it."""
    kept = json.loads(keep.read_text()) if keep.is_file() else {}
    key = " / ".join(map(str, arguments))
    if key not in kept:
        command = [sys.executable, __file__, "--one", *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        kept[key] = json.loads(done.stdout.splitlines()[-1])
        keep.write_text(json.dumps(kept, indent=1))
    return kept[key]


def check_equal(found: dict[str, dict[str, float]], name: str) -> None:
    """All sides must compute the same thing."""
    for side in ("chunked", "trl"):
        scale = IN_TRL[name] if side == "trl" else 1
        for key in ("value", "gradient_norm", "gradient_probe"):
            gap = abs(scale * found[side][key] / found["dense"][key] - 1)
            assert gap < 1e-3, (name, side, key, gap)


def table(dense_tokens: int, turns: int, keep: Path) -> None:
    """Every case: all sides at `dense_tokens`, ours at 8,192 tokens too."""
    print(machine(torch.get_num_threads()))
    print(
        "\n| vocabulary | objective | side | tokens | extra MB | of dense | ms a token | of dense |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for words in VOCABULARIES:
        for name in OBJECTIVES:
            found = {s: apart(keep, s, words, dense_tokens, name, turns) for s in SIDES}
            check_equal(found, name)
            found["chunked, all"] = apart(keep, "chunked", words, MANY, name, 0)
            dense = found["dense"]
            for side, row in found.items():
                tokens = MANY if side == "chunked, all" else dense_tokens
                memory = row["extra_mb"] / (dense["extra_mb"] * tokens / dense_tokens)
                ratio = row["ms_a_token"] / dense["ms_a_token"]
                cells = (words, name, side.split(",")[0], tokens, f"{row['extra_mb']:.0f}")
                numbers = (f"{memory:.3f}", f"{row['ms_a_token']:.2f}", f"{ratio:.2f}")
                print(f"| {' | '.join(map(str, (*cells, *numbers)))} |", flush=True)
    print(f"\nAt {MANY} tokens the dense loss's memory is {dense_tokens} tokens' times", end=" ")
    print(f"{MANY // dense_tokens}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense-tokens", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path("/tmp/tutelage-chunked.json"))
    parser.add_argument("--one", nargs=5, metavar=("SIDE", "WORDS", "TOKENS", "NAME", "TURNS"))
    chosen = parser.parse_args()
    if chosen.one:
        side, words, tokens, name, turns = chosen.one
        print(json.dumps(one(side, int(words), int(tokens), name, int(turns))))
    else:
        table(chosen.dense_tokens, chosen.turns, chosen.keep)
