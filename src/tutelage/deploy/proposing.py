"""Students that fit a budget: predicted from a few measurements, then measured."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from tutelage.deploy.budgets import Budget, Needs
from tutelage.deploy.export import export_onnx
from tutelage.deploy.measuring import KitNetwork, measure_folder, write_kit
from tutelage.errors import ConfigError, ExportError
from tutelage.models.propose import Candidate, Facts, Original, describe, find_candidates

SLACK = 1.3
REFERENCE_S, MEASURE_S = 2.0, 0.4


@dataclass(frozen=True, slots=True)
class Proposal:
    """A student with what it needs.

    Attributes:
        candidate: The network.
        predicted: From its counts and the measured references.
        measured: Its file in its runtime, with untrained weights; None if not measured.
        excess: How many times the tightest limit of the budget is needed; 1 and less fits.
    """

    candidate: Candidate
    predicted: Needs
    measured: Needs | None
    excess: float

    @property
    def fits(self) -> bool:
        """Whether it lies within the budget, as far as is known."""
        return self.excess <= 1


@dataclass(frozen=True, slots=True)
class Predictor:
    """What a network needs, by two measured ones: the teacher and the smallest candidate.

    Attributes:
        bytes_a_layer: Of a file, beyond its weights.
        ms_a_layer: Time of a layer without MACs.
        ms_a_mac: Time of one MAC.
        runtime_bytes: Memory beyond weights and live tensors.
    """

    bytes_a_layer: float
    ms_a_layer: float
    ms_a_mac: float
    runtime_bytes: float | None

    @classmethod
    def fit(cls, large: Candidate, small: Candidate, needs: Mapping[str, Needs]) -> "Predictor":
        """Lay a plane through what the two need, without negative costs."""
        pairs = [(candidate, needs[candidate.name]) for candidate in (large, small)]
        spare = [(n.size_bytes - c.weight_bytes) / num_layers(c) for c, n in pairs]
        counts = np.array([[num_layers(c), c.macs] for c, _ in pairs], dtype=float)
        scale = counts.max(axis=0).clip(min=1)
        costs, _ = nnls(counts / scale, np.array([n.latency_ms or 0.0 for _, n in pairs]))
        above = [n.memory_bytes - c.memory_bytes for c, n in pairs if n.memory_bytes is not None]
        return cls(
            bytes_a_layer=max(0.0, sum(spare) / len(spare)),
            ms_a_layer=float(costs[0] / scale[0]),
            ms_a_mac=float(costs[1] / scale[1]),
            runtime_bytes=max(0.0, sum(above) / len(above)) if above else None,
        )

    def predict(self, candidate: Candidate) -> Needs:
        """What a network will need."""
        above = self.runtime_bytes
        return Needs(
            size_bytes=candidate.weight_bytes + self.bytes_a_layer * num_layers(candidate),
            latency_ms=self.ms_a_layer * num_layers(candidate) + self.ms_a_mac * candidate.macs,
            memory_bytes=None if above is None else candidate.memory_bytes + above,
        )


def num_layers(candidate: Candidate) -> int:
    """Modules without modules inside."""
    return sum(not any(module.children()) for module in candidate.network.modules())


def propose(original: Original, facts: Facts, budget: Budget, *, count: int = 5) -> list[Proposal]:
    """Students within a budget, the largest first; if none fits, those that come nearest.

    A larger student has more MACs, and learns more as a rule; what each will reach only training
    tells. Two networks are measured, the needs of all are predicted from them, and those that
    might fit are measured in turns.

    Args:
        original: The teacher.
        facts: Of the data.
        budget: What the device allows.
        count: How many to give.

    Raises:
        ConfigError: There is no smaller network to propose.
        ExportError: None could be exported.
    """
    candidates = find_candidates(original, facts)
    if not candidates:
        raise ConfigError(
            f"model {original.model!r}: it cannot be sliced, and no known network is smaller. "
            "Name a larger teacher."
        )
    teacher, smallest = describe(original, facts), candidates[-1]
    references = measure_needs([teacher, smallest], facts, seconds=REFERENCE_S)
    predictor = Predictor.fit(teacher, smallest, references)
    proposals = [_predicted(candidate, predictor, budget) for candidate in candidates]
    maybe = [p for p in proposals if p.excess <= SLACK]
    nearest = sorted(proposals, key=lambda p: p.excess)
    chosen = _evenly(maybe, count + 2) if maybe else nearest[:count]
    measured = measure_needs([p.candidate for p in chosen], facts, seconds=MEASURE_S * len(chosen))
    found = [_measured(p, measured[p.candidate.name], budget) for p in chosen]
    fitting = [proposal for proposal in found if proposal.fits]
    return fitting[:count] or sorted(found, key=lambda p: p.excess)[:count]


def _evenly(proposals: list[Proposal], count: int) -> list[Proposal]:
    """The largest few; further down, where many would fit, one origin does not crowd out others."""
    slices = [p for p in proposals if p.candidate.model == "slice"]
    others = [p for p in proposals if p.candidate.model != "slice"]
    half = max(count // 2, count - len(others))
    picked = [*slices[:half], *others[: count - min(half, len(slices))]]
    return [p for p in proposals if p in picked]


def _predicted(candidate: Candidate, predictor: Predictor, budget: Budget) -> Proposal:
    needs = predictor.predict(candidate)
    return Proposal(candidate, needs, None, budget.excess(needs))


def _measured(proposal: Proposal, needs: Needs, budget: Budget) -> Proposal:
    return replace(proposal, measured=needs, excess=budget.excess(needs))


def measure_needs(
    candidates: Sequence[Candidate], facts: Facts, *, seconds: float
) -> dict[str, Needs]:
    """Export networks and measure their files by turns, at batch 1 on one thread.

    Raises:
        ExportError: A network cannot be exported or run.
    """
    example = facts.example()
    shape = tuple(example.shape[1:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        networks = []
        for candidate in candidates:
            export_onnx(candidate.network, example, folder / f"{candidate.name}.onnx")
            networks.append(KitNetwork(candidate.name, f"{candidate.name}.onnx", "onnx", shape))
        write_kit(folder, networks)
        found = measure_folder(folder, batch_sizes=(1,), threads=(1,), seconds=seconds)
    problem = next((f"{f.name}: {f.problem}" for f in found.files if f.problem), None)
    if problem:
        raise ExportError(f"A proposed student cannot be measured: {problem}")
    times = {row.name: row.p50_ms for row in found.rows}
    return {
        file.name: Needs(
            size_bytes=float(file.size_bytes),
            latency_ms=times[file.name],
            memory_bytes=None if file.memory_bytes is None else float(file.memory_bytes),
        )
        for file in found.files
    }
