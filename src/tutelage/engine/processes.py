"""Training of one student by several processes: what each sees and how they synchronise."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from tutelage import distributed
from tutelage.data.loading import BatchBuilder, in_order, iterate
from tutelage.data.views import mix
from tutelage.objective import LossInputs, Objective
from tutelage.tasks import Task
from tutelage.tasks.base import Predictions
from tutelage.tasks.predicting import in_data_order, predict_data
from tutelage.types import Batch, Outputs

PACE_S = 0.5
MOST_STEPS = 1000


@contextmanager
def gather_loss_inputs(
    own: LossInputs, objective: Objective
) -> Iterator[tuple[LossInputs | None, float]]:
    """Gather what an objective needs when several processes share a batch.

    While it is open, all processes draw the same random numbers, so that a loss of the whole
    batch is the same in each.

    Args:
        own: This process's rows.
        objective: Its losses say which of them relate the rows of a batch.

    Yields:
        All rows (None where no loss needs them), and this process's share of those that count.
    """
    mask, items = own.batch.mask, len(own.batch.sample_ids)
    counted = items if mask is None else int(mask.sum())
    rows, counts = distributed.all_gather_sizes(items, counted)
    share = counted * len(counts) / max(1, sum(counts))
    relating = [term.loss for term in objective.active_terms if term.loss.whole_batch]
    if not relating:
        yield None, share
        return
    layers = dict.fromkeys(layer for loss in relating for layer in loss.student_layers)
    teacher_layers = dict.fromkeys(layer for loss in relating for layer in loss.teacher_layers)
    samples = (
        rows if items == len(own.batch) else distributed.all_gather_sizes(len(own.batch), 0)[0]
    )
    student = _all_outputs(own.student, list(layers), rows, samples)
    theirs = own.teacher
    whole = LossInputs(
        student,
        None if theirs is None else _all_outputs(theirs, list(teacher_layers), rows, samples),
        _whole_batch(own.batch, rows, all_count=rows == counts),
    )
    with torch.random.fork_rng(_devices(own.student.logits)):
        ids = whole.batch.sample_ids
        torch.manual_seed(int(mix(ids, torch.arange(len(ids))).sum()))
        yield whole, share


def _all_outputs(
    own: Outputs, layers: Sequence[str], rows: Sequence[int], samples: Sequence[int]
) -> Outputs:
    """Logits with one row per item, features with one row per sample."""
    features = {layer: distributed.gather(own.features[layer], samples) for layer in layers}
    return Outputs(distributed.gather(own.logits, rows), features)


def _whole_batch(own: Batch, rows: Sequence[int], *, all_count: bool) -> Batch:
    """Labels, numbers and mask of all rows; the inputs are not gathered."""
    device = own.device
    mask = own.mask
    if mask is None:
        mask = torch.ones(len(own.sample_ids), dtype=torch.bool, device=device)
    return Batch(
        inputs=torch.empty(sum(rows), 0, device=device),
        labels=None if own.labels is None else distributed.gather(own.labels, rows),
        sample_ids=distributed.gather(own.sample_ids.to(device), rows).cpu(),
        view_ids=distributed.gather(own.view_ids.to(device), rows).cpu(),
        mask=None if all_count else distributed.gather(mask, rows),
    )


def _devices(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.device.type == "cuda" else []


def make_accelerator(accumulate: int) -> Accelerator:
    """The accelerator of a training.

    Every step looks for parameters without a gradient, for a few percent of its time: a block left
    out at random, an expert that no row of this process goes to, or rows that do not count leave
    some idle, and no trial shows whether one ever will be. Without the look the training aborts.

    Args:
        accumulate: Micro-steps an update.
    """
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
    )
    return Accelerator(
        gradient_accumulation_steps=accumulate, mixed_precision="no", kwargs_handlers=[ddp]
    )


def predict_together(
    task: Task,
    model: nn.Module,
    reader: BatchBuilder,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
) -> Predictions:
    """Predictions for a whole data set in every process; each process computes some batches."""
    here = distributed.world()
    if not here.is_distributed or len(reader) <= batch_size * (here.count - 1):
        return predict_data(
            task, model, reader, batch_size=batch_size, device=device, workers=workers
        )
    requests = in_order(len(reader), batch_size=batch_size, lengths=reader.lengths)
    own = itertools.islice(requests, here.number, None, here.count)
    said = task.predict(model, iterate(reader, own, workers), device)
    rows, _ = distributed.all_gather_sizes(len(said.sample_ids), 0)
    return in_data_order(said, lambda tensor: distributed.gather(tensor.to(device), rows).cpu())


class StopSync:
    """Points at which processes agree on stopping and saving.

    They meet about twice a second, after a number of updates that the first process sets.
    """

    def __init__(self) -> None:
        """Synchronise after the first update."""
        self._steps_left = 1
        self._steps = 1
        self._begun = time.monotonic()

    def agree(self, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, agreed among all processes.

        Args:
            stop: This process was asked to stop.
            save: It is time to save; the first process's word counts.
        """
        here = distributed.world()
        if not here.is_distributed:
            return stop, save
        self._steps_left -= 1
        if self._steps_left > 0:
            return False, False
        seconds = max(time.monotonic() - self._begun, 1e-6)
        pace = min(MOST_STEPS, max(1, int(self._steps * PACE_S / seconds)))
        said = (stop, save and here.is_main, pace if here.is_main else 0)
        any_stop, any_save, steps = distributed.all_reduce_max([float(word) for word in said])
        self._steps = self._steps_left = int(steps)
        self._begun = time.monotonic()
        return bool(any_stop), bool(any_save)
