"""What a network says of a whole data set."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.data.loading import Reader, in_order, iterate
from tutelage.errors import DataError, ModelError
from tutelage.models.modes import left_as_it_was
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Batch, HiddenStates, Outputs, Signal

SUMS_TO_1 = 0.01  # as exactly as bfloat16 adds up
IMPOSSIBLE = -1e4  # a logit; exp of it is 0 at every temperature in use
_SHARES = {"Sigmoid": "a sigmoid", "Hardsigmoid": "a sigmoid", "Softmax": "a softmax"}
_MOVES = re.compile(  # steps that hand numbers on as they are
    "Alias|Clone|Copy|Expand|Flip|Index|IndexSelect|Permute|(Unsafe)?Reshape(Alias)?|Select|Slice|"
    "(Uns|S)queeze|T|ToCopy|Transpose|(Unsafe)?View"
)


def predict_data(
    task: Task,
    model: nn.Module,
    reader: Reader,
    *,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
) -> Predictions:
    """What a network says of a whole data set, on the CPU, in the order of the data.

    Texts of like length are asked about together, so that little is filled up.
    """
    requests = in_order(len(reader), batch_size=batch_size, lengths=reader.lengths)
    said = task.predict(model, iterate(reader, requests, workers), device)
    return said if reader.lengths is None else in_data_order(said)


def in_data_order(
    said: Predictions, gather: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Predictions:
    """The same sample by sample in the order of the data, items as they stand in their sample.

    Args:
        said: In any order.
        gather: Done to each tensor first, such as taking those of other processes in.
    """
    ids = gather(said.sample_ids)
    place = ids.argsort(stable=True)

    def sort(tensor: Tensor) -> Tensor:
        return gather(tensor)[place]

    return Predictions(_by_item(said.outputs, sort), sort(said.labels), ids[place])


def _by_item(outputs: Outputs, change: Callable[[Tensor], Tensor]) -> Outputs:
    """Outputs with something done to each of their tensors that have a row an item."""
    features = {name: change(feature) for name, feature in outputs.features.items()}
    scores = outputs.scores
    if isinstance(scores, HiddenStates):
        return Outputs(replace(scores, values=change(scores.values)), features)
    return Outputs(change(outputs.logits), features)


@torch.inference_mode()
def predict_items(
    task: Task, model: nn.Module, batches: Iterable[Batch], device: torch.device
) -> Predictions:
    """Logits and labels of all items, on the CPU; the network in eval mode meanwhile.

    Raises:
        DataError: There are no samples, or no labels.
        ModelError: A logit is not a number; the message names the sample.
    """
    rows, labels, ids = [], [], []
    with left_as_it_was(model):
        model.eval()
        for batch in batches:
            items = task.items(batch)
            if items.labels is None:
                raise DataError(
                    "Evaluation needs labels, but the validation or test data has none."
                )
            logits = task.run(model, batch.to(device)).logits.float().cpu()
            may_be_impossible = task.gives is Signal.LOGITS  # of an embedding no part may be -inf
            checked = logits if may_be_impossible else logits.abs()
            check_numbers(model, checked, items.sample_ids)
            rows.append(held_impossible(logits))
            labels.append(items.labels)
            ids.append(items.sample_ids)
    if not rows:
        raise DataError("Evaluation needs samples, but the data set is empty.")
    return Predictions(Outputs(torch.cat(rows)), torch.cat(labels), torch.cat(ids))


def check_numbers(
    model: object, logits: Tensor, sample_ids: Tensor, what: str = "validation or test data"
) -> None:
    """Refuse logits of which no probabilities can be made.

    Args:
        model: The network or teacher that gave them.
        logits: One row an item; `-inf` is allowed where a row has other logits.
        sample_ids: The sample of each item.
        what: The data that the samples belong to.

    Raises:
        ModelError: A logit is not a number, or infinite; the message names the sample.
    """
    highest = logits.amax(dim=-1)  # of a row with NaN it is NaN
    wrong = (~highest.isfinite()).nonzero().squeeze(1)
    if len(wrong):
        found = "NaN" if highest[wrong[0]].isnan() else f"{float(highest[wrong[0]])} at best"
        raise ModelError(
            f"{type(model).__name__} gives {found} for sample {int(sample_ids[wrong[0]])} of the "
            f"{what}. Look for NaN in that sample, and in the network's weights."
        )


def check_logits(task: Task, model: nn.Module, outputs: Outputs) -> None:
    """Refuse probabilities where logits are expected: their softmax would be nearly even.

    Args:
        task: Whose networks give logits, or are not looked at.
        model: The network.
        outputs: What it gives for some items. With a graph, its last step is looked at too: a
            sigmoid is not seen in its numbers, which may be any logits.

    Raises:
        ModelError: All rows are probabilities, or the network ends in a sigmoid or softmax.
    """
    logits = outputs.scores
    if task.gives is not Signal.LOGITS or not isinstance(logits, Tensor):
        return
    sums = logits.float().sum(dim=-1)
    if logits.shape[-1] > 1 and bool((logits >= 0).all() and ((sums - 1).abs() < SUMS_TO_1).all()):
        raise ModelError(
            f"{type(model).__name__} gives probabilities (each row is above 0 and sums to 1), but "
            "losses expect logits. Let its forward end before the softmax, or give their logarithm."
        )
    last = _SHARES.get(_last_step(logits))
    if last is not None:
        raise ModelError(
            f"{type(model).__name__} ends in {last}, but losses expect logits. Let its forward end "
            "before it."
        )


def are_shares(outputs: Outputs) -> bool:
    """Whether all scores lie between 0 and 1, and are not simply small or all alike.

    So they do after a sigmoid that `check_logits` cannot see, being written in steps of its own.
    """
    scores = outputs.scores
    if not isinstance(scores, Tensor):
        return False
    return bool((scores >= 0).all() and (scores <= 1).all() and scores.std() > 0.05)


def _last_step(scores: Tensor) -> str:
    """PyTorch's name of the step that made these numbers; empty where it left no graph."""
    step = scores.grad_fn
    while step is not None:
        name = step.name().partition("Backward")[0]
        if not _MOVES.fullmatch(name):
            return name
        step = step.next_functions[0][0]
    return ""


def held_impossible(logits: Tensor) -> Tensor:
    """Logits with a finite number for `-inf`, so low that its probability is 0 all the same.

    What is made of them (likelihoods of samples whose class a network holds impossible, soft
    targets in a report) can then be written down.
    """
    return logits.masked_fill(logits.isneginf(), IMPOSSIBLE)
