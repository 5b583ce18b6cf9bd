"""Proof that an exported file computes what the network computes."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tutelage.deploy.export import checked_logits
from tutelage.deploy.runtime import as_arrays
from tutelage.deploy.targets import TARGETS, Runner, target_of
from tutelage.errors import ExportError, find
from tutelage.files import staged
from tutelage.inputs import InputKind
from tutelage.models.cost import frozen_copy
from tutelage.records import ParityRow
from tutelage.tasks import Classification, Predictions, Task
from tutelage.types import Inputs, Outputs, first_tensor, on_cpu
from tutelage.wording import quantity

ANY_CLASSES = Classification(0)  # whose picks are compared, however many there are


def export_checked(  # noqa: PLR0913 - independent of one another
    model: nn.Module,
    batches: Iterable[Inputs],
    path: Path,
    *,
    name: str,
    target: str = "onnx",
    labels: Shaped[Tensor, "n ..."] | None = None,
    task: Task = ANY_CLASSES,
    tolerance: float = 1e-3,
    inputs: InputKind | None = None,
) -> ParityRow:
    """Export a network and compare it with PyTorch; the file appears only when both agree.

    Args:
        model: A network that takes one tensor, or named ones, and gives logits.
        batches: Real samples, as the network takes them; read once.
        path: Where the file shall lie.
        name: The network's name in the run's records.
        target: What kind of file: a name of `TARGETS`.
        labels: Labels of the samples, for the metric of both; None leaves it out.
        task: What the scores are, which says whether two of them agree.
        tolerance: See `check_parity`.
        inputs: Kind of the samples; decided from the first ones if not given.

    Raises:
        UnknownNameError: There is no such target.
        MissingExtraError: What makes or runs such files is not installed.
        ExportError: The export failed, or the result computes something else; no file is left.
        RunFolderError: The place cannot be written.
    """
    kind = find("target", target, TARGETS)
    rest = (batch for batch in batches if len(first_tensor(batch)))
    first = next(rest, None)
    if first is None:
        raise _no_samples(name)
    network = frozen_copy(model)
    with staged(path, kind.files) as staging:
        kind.write(network, first, staging, inputs)
        samples = itertools.chain([first], rest)
        judged = _Judge(task, labels, tolerance)
        return _compare(network, staging, samples, name, judged)


def check_parity(
    model: nn.Module,
    path: Path,
    batches: Iterable[Inputs],
    *,
    name: str,
    labels: Shaped[Tensor, "n ..."] | None = None,
    task: Task = ANY_CLASSES,
    tolerance: float = 1e-3,
) -> ParityRow:
    """Run an exported file in its own runtime and the network in PyTorch on the same samples.

    Args:
        model: The network that was exported.
        path: The file; its suffix says of which target it is.
        batches: Real samples, as the network takes them.
        name: The network's name in the run's records.
        labels: Labels of the samples, for the metric of both; None leaves it out.
        task: What the scores are, which says whether two of them agree.
        tolerance: Largest difference of two logits, relative to 1 + the largest logit.

    Returns:
        The largest absolute difference of logits and the share of equal predictions.

    Raises:
        ExportError: The two differ by more than the tolerance, or some logit is not finite.
    """
    judged = _Judge(task, labels, tolerance)
    return _compare(frozen_copy(model), path, batches, name, judged)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Logits of one batch from both sides, one row per sample or per labelled token."""

    expected: Tensor
    given: Tensor
    count: int


@dataclass(frozen=True, slots=True)
class _Judge:
    """Tolerances and metric of a comparison."""

    task: Task
    labels: Tensor | None
    tolerance: float

    def metric(self, scores: Tensor) -> float | None:
        """The task's metric of scores on the samples; None without labels."""
        if self.labels is None:
            return None
        ids = torch.arange(len(self.labels))
        return self.task.validate(Predictions(Outputs(scores), self.labels, ids))[0]


def _compare(
    network: nn.Module,
    path: Path,
    batches: Iterable[Inputs],
    name: str,
    judged: _Judge,
) -> ParityRow:
    target = target_of(path)
    run = target.open(path, threads=torch.get_num_threads())
    pairs = [
        _both(network, run, inputs, path.name) for inputs in batches if len(first_tensor(inputs))
    ]
    if not pairs:
        raise _no_samples(name)
    expected = torch.cat([pair.expected for pair in pairs])
    given = torch.cat([pair.given for pair in pairs])
    row = ParityRow(
        name=name,
        file=path.name,
        max_abs_difference=float((given - expected).abs().max()),
        agreement=judged.task.agreement(expected, given),
        count=sum(pair.count for pair in pairs),
        target=target.name,
        runtime=run.runtime,
        metric=judged.metric(given),
        network_metric=judged.metric(expected),
    )
    _gate(row, judged.tolerance * (1 + float(expected.abs().max())))
    return row


def _gate(row: ParityRow, allowed: float) -> None:
    if row.max_abs_difference > allowed:
        raise ExportError(
            f"{row.file}: the exported network differs from PyTorch by "
            f"{row.max_abs_difference:.3g} over {quantity(row.count, 'sample')}, {allowed:.3g} is "
            f"allowed; {row.agreement:.1%} of the predictions are equal. Random or data-dependent "
            "steps in forward are the usual reason."
        )


def _both(network: nn.Module, run: Runner, inputs: Inputs, file: str) -> _Pair:
    expected = checked_logits(network, on_cpu(inputs)).float()
    given = torch.from_numpy(run(as_arrays(inputs))).float()
    if given.shape != expected.shape:
        raise ExportError(
            f"{file}: gives logits of shape {tuple(given.shape)}, PyTorch of "
            f"{tuple(expected.shape)}. It was exported from another network."
        )
    for origin, logits in (("PyTorch", expected), (file, given)):
        if not torch.isfinite(logits).all():
            raise ExportError(f"{file}: some logits of {origin} are not finite on real samples.")
    return _Pair(expected.flatten(0, -2), given.flatten(0, -2), len(expected))


def _no_samples(name: str) -> ExportError:
    return ExportError(
        f"{name}: no samples to compare the exported file with. Give at least one batch."
    )
