"""Students that fit a budget: predicted from a few measurements, then measured."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from tutelage.deploy.budgets import Budget, Needs
from tutelage.deploy.measuring import KitNetwork, measure_folder, write_kit
from tutelage.deploy.targets import TARGETS, Target
from tutelage.errors import ConfigError, ExportError, find
from tutelage.models.cost import frozen_copy
from tutelage.models.propose import Candidate, Facts, Original, describe, find_candidates

SLACK = 1.3
REFERENCE_S, MEASURE_S = 2.0, 0.4
NUM_CALIBRATION = 8
OnSkip = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Form:
    """Format in which a student is delivered and held against a budget.

    Attributes:
        target: A name of `TARGETS`.
        scheme: Int8 scheme of the target; None is the float file.
    """

    target: str = "onnx"
    scheme: str | None = None

    def check(self) -> Target:
        """The target, with every package that it needs installed.

        Raises:
            UnknownNameError: There is no such target, or it has no such way.
            ExportError: The target has no int8 files.
            MissingExtraError: The target's extra is not installed.
        """
        target = find("target", self.target, TARGETS)
        if self.scheme is not None:
            target.check_scheme(self.scheme)
        target.check()
        return target

    def __str__(self) -> str:
        """In words, for tables."""
        bits = "float" if self.scheme is None else f"int8 ({self.scheme})"
        return f"{bits} in {TARGETS[self.target].title}"


FLOAT_ONNX = Form()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A student with what it needs.

    Attributes:
        candidate: The network.
        predicted: From its counts and the measured references.
        measured: Its file in the target's runtime, untrained; None if not measured.
        excess: How many times the tightest limit of the budget is needed; 1 and less fits.
    """

    candidate: Candidate
    predicted: Needs
    measured: Needs | None
    excess: float

    @property
    def fits(self) -> bool:
        """Whether it fits the budget, as far as is known."""
        return self.excess <= 1


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts needs of a network from two measured ones: the teacher and the smallest candidate.

    Attributes:
        bytes_a_weight: Bytes of a file, for each byte of its float weights: near 1, or near 1/4.
        bytes_a_layer: Bytes of a file, beyond its weights.
        ms_a_layer: Time of a layer without MACs.
        ms_a_mac: Time of one MAC.
        runtime_bytes: Memory beyond weights and live tensors of the float network.
    """

    bytes_a_weight: float
    bytes_a_layer: float
    ms_a_layer: float
    ms_a_mac: float
    runtime_bytes: float | None

    @classmethod
    def fit(cls, large: Candidate, small: Candidate, needs: Mapping[str, Needs]) -> "Predictor":
        """Fit planes through two networks' needs, without negative costs."""
        pairs = [(candidate, needs[candidate.name]) for candidate in (large, small)]
        layers = [float(num_layers(c)) for c, _ in pairs]
        sizes = _costs(
            [float(c.weight_bytes) for c, _ in pairs], layers, [n.size_bytes for _, n in pairs]
        )
        times = _costs(
            [float(c.macs) for c, _ in pairs], layers, [n.latency_ms or 0.0 for _, n in pairs]
        )
        above = [n.memory_bytes - c.memory_bytes for c, n in pairs if n.memory_bytes is not None]
        return cls(
            bytes_a_weight=sizes[0],
            bytes_a_layer=sizes[1],
            ms_a_layer=times[1],
            ms_a_mac=times[0],
            runtime_bytes=max(0.0, sum(above) / len(above)) if above else None,
        )

    def predict(self, candidate: Candidate) -> Needs:
        """Predict the needs of a network."""
        above, layers = self.runtime_bytes, num_layers(candidate)
        return Needs(
            size_bytes=self.bytes_a_weight * candidate.weight_bytes + self.bytes_a_layer * layers,
            latency_ms=self.ms_a_layer * layers + self.ms_a_mac * candidate.macs,
            memory_bytes=None if above is None else candidate.memory_bytes + above,
        )


def _costs(counts: Sequence[float], layers: Sequence[float], needs: Sequence[float]) -> list[float]:
    """Cost per unit of each kind, such that the two measured networks come out right."""
    table = np.array([counts, layers]).T
    scale = table.max(axis=0).clip(min=1)
    costs, _ = nnls(table / scale, np.array(needs))
    return [float(cost) for cost in costs / scale]


def num_layers(candidate: Candidate) -> int:
    """Number of modules without submodules."""
    return sum(not any(module.children()) for module in candidate.network.modules())


def propose(
    original: Original,
    facts: Facts,
    budget: Budget,
    *,
    count: int = 5,
    form: Form = FLOAT_ONNX,
    on_skip: OnSkip = lambda name, reason: None,  # noqa: ARG005
) -> list[Proposal]:
    """Students within a budget, the largest first; if none fits, the closest ones.

    A larger student has more MACs, and learns more as a rule; what each will reach only training
    tells. Two networks are measured, the needs of all are predicted from them, and those that
    might fit are measured in turns.

    Args:
        original: The teacher.
        facts: Facts of the data.
        budget: What the device allows.
        count: How many to give.
        form: Format in which they are delivered, predicted and measured.
        on_skip: Told of each candidate that cannot be delivered like that, by name and reason; the
            others are proposed without it.

    Raises:
        ConfigError: There is no smaller network to propose.
        ExportError: The teacher cannot be delivered like that, or no candidate can.
    """
    form.check()
    candidates = find_candidates(original, facts)
    if not candidates:
        raise ConfigError(
            f"model {original.model!r}: it cannot be sliced, and no known network is smaller. "
            "Name a larger teacher."
        )
    measure = partial(_measure, facts=facts, budget=budget, form=form, on_skip=on_skip)
    predictor, candidates = _reference(original, candidates, facts, form, on_skip)
    proposals = [_predicted(candidate, predictor, budget) for candidate in candidates]
    maybe = [p for p in proposals if p.excess <= SLACK]
    nearest = sorted(proposals, key=lambda p: p.excess)
    chosen = _evenly(maybe, count + 2) if maybe else nearest[:count]
    found = measure(chosen)
    missing = count - sum(proposal.fits for proposal in found)
    rest = [p for p in maybe if p.fits and p not in chosen]
    if missing > 0 and rest:  # of those that only might have fitted, too few did
        found += measure(_evenly(rest, missing))
    if not found:
        raise ExportError("No proposed student can be measured; the reasons are printed above.")
    fitting = [proposal for proposal in found if proposal.fits]
    return fitting[:count] or sorted(found, key=lambda p: p.excess)[:count]


def _reference(
    original: Original,
    candidates: list[Candidate],
    facts: Facts,
    form: Form,
    on_skip: OnSkip,
) -> tuple[Predictor, list[Candidate]]:
    """The predictor, from the teacher and the smallest candidate that can be measured.

    Returns:
        It, and the candidates without those that cannot be measured.
    """
    teacher = describe(original, facts)
    while candidates:
        pair = [teacher, candidates[-1]]
        needs, problems = try_needs(pair, facts, seconds=REFERENCE_S, form=form)
        if teacher.name in problems:
            raise ExportError(f"The teacher cannot be measured: {problems[teacher.name]}")
        if not problems:
            return Predictor.fit(teacher, candidates[-1], needs), candidates
        on_skip(candidates[-1].name, problems[candidates[-1].name])
        candidates = candidates[:-1]
    raise ExportError("No proposed student can be measured; the reasons are printed above.")


def _evenly(proposals: list[Proposal], count: int) -> list[Proposal]:
    """The largest few; below them, no single origin crowds out the others."""
    slices = [p for p in proposals if p.candidate.model == "slice"]
    others = [p for p in proposals if p.candidate.model != "slice"]
    half = max(count // 2, count - len(others))
    picked = [*slices[:half], *others[: count - min(half, len(slices))]]
    return [p for p in proposals if p in picked]


def _predicted(candidate: Candidate, predictor: Predictor, budget: Budget) -> Proposal:
    needs = predictor.predict(candidate)
    return Proposal(candidate, needs, None, budget.excess(needs))


def _measure(
    proposals: Sequence[Proposal], *, facts: Facts, budget: Budget, form: Form, on_skip: OnSkip
) -> list[Proposal]:
    candidates = [proposal.candidate for proposal in proposals]
    seconds = MEASURE_S * len(candidates)
    measured, problems = try_needs(candidates, facts, seconds=seconds, form=form)
    for name, problem in problems.items():
        on_skip(name, problem)
    there = [(p, measured[p.candidate.name]) for p in proposals if p.candidate.name in measured]
    return [replace(p, measured=needs, excess=budget.excess(needs)) for p, needs in there]


def measure_needs(
    candidates: Sequence[Candidate], facts: Facts, *, seconds: float, form: Form = FLOAT_ONNX
) -> dict[str, Needs]:
    """Export networks and measure their files in alternation, at batch 1 on one thread.

    Int8 are scaled on noise: sizes and times do not depend on the values.

    Raises:
        ExportError: A network cannot be exported or run.
    """
    needs, problems = try_needs(candidates, facts, seconds=seconds, form=form)
    for name, problem in problems.items():
        raise ExportError(f"{name} cannot be measured: {problem}")
    return needs


def try_needs(
    candidates: Sequence[Candidate], facts: Facts, *, seconds: float, form: Form
) -> tuple[dict[str, Needs], dict[str, str]]:
    """Needs of each network, and the reason for those that cannot be exported or run."""
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, kit = Path(name), []
        for candidate in candidates:
            try:
                kit.append(_write(candidate, facts, form, folder))
            except ExportError as error:
                problems[candidate.name] = str(error)
        if not kit:
            return {}, problems
        write_kit(folder, kit)
        found = measure_folder(folder, batch_sizes=(1,), threads=(1,), seconds=seconds)
    problems |= {file.name: file.problem for file in found.files if file.problem}
    times = {row.name: row.p50_ms for row in found.rows}
    needs = {
        file.name: Needs(
            size_bytes=float(file.size_bytes),
            latency_ms=times[file.name],
            memory_bytes=None if file.memory_bytes is None else float(file.memory_bytes),
        )
        for file in found.files
        if file.name in times
    }
    return needs, problems


def _write(candidate: Candidate, facts: Facts, form: Form, folder: Path) -> KitNetwork:
    """Write a candidate's file, ready to be measured."""
    target, example = TARGETS[form.target], facts.example(NUM_CALIBRATION)
    network, path = _as_if_trained(candidate.network), folder / f"{candidate.name}{target.suffix}"
    target.write(network, example[:2], path)
    if form.scheme is not None:
        source, path = path, path.with_name(f"{candidate.name}.int8{target.suffix}")
        target.quantise(network, source, [example], path, form.scheme)
    return KitNetwork(
        candidate.name,
        path.name,
        form.target,
        tuple(example.shape[1:]),
        batch=target.batch_size,
        parts=tuple(file.name for file in target.files(path) if file != path),
    )


def _as_if_trained(network: nn.Module) -> nn.Module:
    """A copy without equal tensors, which exporters store only once."""
    copied = frozen_copy(network)
    generator = torch.Generator().manual_seed(0)
    for tensor in (*copied.parameters(), *copied.buffers()):
        if tensor.is_floating_point():
            tensor += 1e-3 * torch.rand(tensor.shape, generator=generator)
    return copied
