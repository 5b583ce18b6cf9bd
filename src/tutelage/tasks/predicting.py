"""What a network says of a whole data set."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.data.loading import Reader, in_order, iterate
from tutelage.errors import DataError, ModelError
from tutelage.models.modes import left_as_it_was
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Batch, HiddenStates, Outputs


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
            rows.append(task.run(model, batch.to(device)).logits.float().cpu())
            _check_numbers(model, rows[-1], items.sample_ids)
            labels.append(items.labels)
            ids.append(items.sample_ids)
    if not rows:
        raise DataError("Evaluation needs samples, but the data set is empty.")
    return Predictions(Outputs(torch.cat(rows)), torch.cat(labels), torch.cat(ids))


def _check_numbers(model: nn.Module, logits: Tensor, sample_ids: Tensor) -> None:
    wrong = logits.isnan().any(dim=-1).nonzero().squeeze(1)
    if len(wrong):
        raise ModelError(
            f"{type(model).__name__} gives NaN for sample {int(sample_ids[wrong[0]])} of the "
            "validation or test data. Look for NaN in that sample, and in the network's weights."
        )
