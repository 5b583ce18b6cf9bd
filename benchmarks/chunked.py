"""A language model's loss: its time and peak memory, on hidden states in chunks and on the logits.

Each case runs in processes of its own. Hidden states of student and teacher (width 576) with their
heads are made, memory is read, and forward and backward are done. "Extra" memory is the peak of the
first step above what lay there before. Time is that of the processor on one thread, which sharing a
machine changes little; the sides take turns on some tokens, of which the dense losses do as many
at once as fit into memory, and each turn gives a ratio. With `--keep FILE` what was measured is
kept there, so that the command goes on where it stopped.

    python benchmarks/chunked.py
    python benchmarks/chunked.py --dense-tokens 512 --turns 3 --keep chunked.json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from timing import machine
from torch import Tensor

from tutelage.losses import KD, CrossEntropy, JensenShannon
from tutelage.objective import Objective
from tutelage.types import Batch, HiddenStates, Outputs

WIDTH = 576
VOCABULARIES = (49_152, 151_936)
OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "0.5 CE + 0.5 KL": lambda: 0.5 * CrossEntropy() + 0.5 * KD(temperature=1),
    "JS 0.5": lambda: 1 * JensenShannon(0.5),
}
# TRL's Jensen-Shannon divergence is a quarter of ours at 0.5 (docs/conversions.md).
IN_TRL = {"0.5 CE + 0.5 KL": 1, "JS 0.5": 4}
SIDES = ("chunked", "dense", *(["trl"] if find_spec("trl") else []))  # the extra "peers"


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


class Case:
    """Hidden states and heads of one case.

    Args:
        words: Of the vocabulary.
        tokens: Of the batch.
        name: Of the objective.
    """

    def __init__(self, words: int, tokens: int, name: str) -> None:
        """Make them, and gradients to add to."""
        torch.manual_seed(0)
        self.name = name
        self.objective = OBJECTIVES[name]()
        self.values = torch.randn(tokens, WIDTH).requires_grad_()
        self.weight = (0.05 * torch.randn(words, WIDTH)).requires_grad_()
        self.teacher = HiddenStates(torch.randn(tokens, WIDTH), 0.05 * torch.randn(words, WIDTH))
        self.labels = torch.randint(0, words, (tokens,))
        self.values.grad = torch.zeros_like(self.values)
        self.weight.grad = torch.zeros_like(self.weight)

    def step(self, side: str, part: int) -> float:
        """Forward and backward of all tokens, so many at once; the mean of the loss."""
        count = len(self.labels)
        total = 0.0
        for start in range(0, count, part):
            rows = slice(start, start + part)
            loss = self.loss(side, rows) * (part / count)
            loss.backward()
            total += float(loss.detach())
        return total

    def loss(self, side: str, rows: slice) -> Tensor:
        """The loss of some tokens."""
        hidden, teacher = HiddenStates(self.values[rows], self.weight), self.teacher.pick(rows)
        labels = self.labels[rows]
        if side == "trl":
            return trl_loss(hidden.dense(), teacher.dense(), labels, self.name)
        ids = torch.arange(len(labels))
        batch = Batch(torch.zeros(len(labels), 1), labels, ids, ids)
        if side == "dense":
            return self.objective(Outputs(hidden.dense()), Outputs(teacher.dense()), batch).total
        return self.objective(Outputs(hidden), Outputs(teacher), batch).total


def memory(side: str, words: int, tokens: int, name: str, part: int) -> dict[str, float]:
    """Peak memory of a side's first step, its value, and its gradient in two numbers."""
    case = Case(words, tokens, name)
    before = resident_mb()
    value = case.step(side, part)
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    gradient = case.values.grad
    assert gradient is not None
    probe = torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(1))
    return {
        "extra_mb": extra,
        "value": value,
        "gradient_norm": float(gradient.norm()),
        "gradient_probe": float((gradient * probe).sum()),
    }


def times(words: int, tokens: int, name: str, part: int, turns: int) -> dict[str, list[float]]:
    """Milliseconds of the processor a token of each side, by turns."""
    for side in SIDES:  # imports, and whatever else only the first call pays for
        Case(64, 8, name).step(side, 8)
    case = Case(words, tokens, name)
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(turns):
        for side in SIDES[turn % len(SIDES) :] + SIDES[: turn % len(SIDES)]:
            begun = time.process_time()
            case.step(side, tokens if side == "chunked" else part)
            found[side].append(1000 * (time.process_time() - begun) / tokens)
    return found


def apart(keep: Path, *arguments: object) -> Any:
    """What a process of its own finds, or what was kept of it."""
    kept = json.loads(keep.read_text()) if keep.is_file() else {}
    key = " / ".join(map(str, arguments))
    if key not in kept:
        command = [sys.executable, __file__, "--one", *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        kept[key] = json.loads(done.stdout.splitlines()[-1])
        keep.write_text(json.dumps(kept, indent=1))
    return kept[key]


def check_equal(found: dict[str, dict[str, float]], name: str) -> float:
    """All sides must compute the same thing; the largest relative gap."""
    gaps = [
        abs((IN_TRL[name] if side == "trl" else 1) * found[side][key] / found["dense"][key] - 1)
        for side in SIDES
        for key in ("value", "gradient_norm", "gradient_probe")
    ]
    assert max(gaps) < 1e-3, (name, gaps)
    return max(gaps)


def table(chosen: argparse.Namespace) -> None:
    """Every case: dense sides at so many tokens, ours at many too."""
    part, many, keep = chosen.dense_tokens, chosen.tokens, chosen.keep
    print(machine(torch.get_num_threads()))
    print("\n| vocabulary | objective | side | tokens | extra MB | of dense | time of dense |")
    print("|---|---|---|---|---|---|---|")
    for name in chosen.objectives:
        for words in chosen.vocabularies:
            found = {s: apart(keep, "memory", s, words, part, name, part) for s in SIDES}
            found["all"] = apart(keep, "memory", "chunked", words, many, name, many)
            speed = apart(keep, "times", words, chosen.timed_tokens, name, part, chosen.turns)
            gap = check_equal(found, name)
            for side, row in found.items():
                tokens = many if side == "all" else part
                share = row["extra_mb"] / (found["dense"]["extra_mb"] * tokens / part)
                ratios = [a / b for a, b in zip(speed[_own(side)], speed["dense"], strict=True)]
                ratio = f"{statistics.median(ratios):.2f}" if side != "chunked" else ""
                cells = (words, name, _own(side), tokens, f"{row['extra_mb']:.0f}", f"{share:.3f}")
                print(f"| {' | '.join(map(str, (*cells, ratio)))} |", flush=True)
            dense = statistics.median(speed["dense"])
            print(f"largest relative gap {gap:.1e}; dense takes {dense:.2f} ms a token")
    print(f"\nOf dense: memory at {many} tokens is that of {part} times {many // part}.")


def _own(side: str) -> str:
    return "chunked" if side == "all" else side


def one(kind: str, *rest: str) -> Any:
    """What a process of its own was asked for."""
    if kind == "memory":
        side, words, tokens, name, part = rest
        return memory(side, int(words), int(tokens), name, int(part))
    words, tokens, name, part, turns = rest
    return times(int(words), int(tokens), name, int(part), int(turns))


def main() -> None:
    """Measure, or do the one thing that a process of its own was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dense-tokens", type=int, default=512)
    parser.add_argument("--timed-tokens", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=8192, help="of the chunked loss's last row")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--objectives", nargs="+", choices=list(OBJECTIVES), default=OBJECTIVES)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a file to go on from")
    parser.add_argument("--one", nargs="+")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one(*chosen.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        chosen.keep = chosen.keep or Path(folder) / "kept.json"
        table(chosen)


if __name__ == "__main__":
    main()
