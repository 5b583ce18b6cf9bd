"""What a network says of a whole data set."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tutelage.errors import DataError, ModelError
from tutelage.models.modes import left_as_it_was
from tutelage.tasks.base import Predictions, Task
from tutelage.types import Batch, Outputs


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
