"""Outputs of a network for a whole data set."""

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.data.loading import BatchBuilder, in_order, iterate
from tutelage.errors import ModelError
from tutelage.tasks.base import Predictions, Task
from tutelage.types import HiddenStates, Outputs, Signal

OF_PROBABILITIES = frozenset({Signal.LOGITS, Signal.BINARY_LOGITS})
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
    reader: BatchBuilder,
    *,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
) -> Predictions:
    """Outputs of a network for a whole data set, on the CPU, in the data's order.

    Texts of like length are asked about together, so that little is filled up.
    """
    requests = in_order(len(reader), batch_size=batch_size, lengths=reader.lengths)
    said = task.predict(model, iterate(reader, requests, workers), device)
    return said if reader.lengths is None else in_data_order(said)


def in_data_order(
    said: Predictions, gather: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Predictions:
    """The same in the data's order of samples; items keep their order within a sample.

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
    """Outputs with a function applied to each tensor that has a row per item."""
    features = {name: change(feature) for name, feature in outputs.features.items()}
    scores = outputs.scores
    if isinstance(scores, HiddenStates):
        return Outputs(replace(scores, values=change(scores.values)), features)
    return Outputs(change(outputs.logits), features)


def check_logits(task: Task, model: nn.Module, outputs: Outputs) -> None:
    """Refuse probabilities in place of logits: their softmax would be nearly uniform.

    Args:
        task: Whose networks give logits, or are not looked at.
        model: The network.
        outputs: What it gives for some items. With a graph, its last step is looked at too: a
            sigmoid is not seen in its numbers, which may be any logits.

    Raises:
        ModelError: All rows are probabilities, or the network ends in a sigmoid or softmax.
    """
    logits = outputs.scores
    if task.gives not in OF_PROBABILITIES or not isinstance(logits, Tensor):
        return
    sums = logits.float().sum(dim=-1)
    is_of_classes = task.gives is Signal.LOGITS and logits.shape[-1] > 1
    if is_of_classes and bool((logits >= 0).all() and ((sums - 1).abs() < SUMS_TO_1).all()):
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
    """Whether all scores lie between 0 and 1, and are neither tiny nor all equal.

    So they do after a sigmoid that `check_logits` cannot see, being written in steps of its own.
    """
    scores = outputs.scores
    if not isinstance(scores, Tensor):
        return False
    return bool((scores >= 0).all() and (scores <= 1).all() and scores.std() > 0.05)


def _last_step(scores: Tensor) -> str:
    """PyTorch's name of the last autograd step; empty without a graph."""
    step = scores.grad_fn
    while step is not None:
        name = step.name().partition("Backward")[0]
        if not _MOVES.fullmatch(name):
            return name
        step = step.next_functions[0][0]
    return ""
