"""Tasks with tokens as items: valid tokens, and items of samples."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from tutelage.errors import DataError
from tutelage.tasks.base import Predictions
from tutelage.types import VALID_MASK, Batch, by_name


def valid_tokens(batch: Batch) -> Bool[Tensor, "samples length"]:
    """Mask of the tokens that are items.

    It stands among the inputs under `COUNTED`, so that it is cut and moved with them, and a network
    never sees it.

    Raises:
        DataError: The inputs do not say.
    """
    counted = by_name(batch.inputs).get(VALID_MASK)
    if counted is None:
        raise DataError(
            f"A task of tokens needs the input {VALID_MASK!r}, which says what tokens count. Use a "
            "data kind that gives it, or add it in your source's fetch."
        )
    return counted.bool()


def tokens_a_sample(batch: Batch) -> float:
    """Mean number of tokens per sample: valid ones, or all but padding; 0 without tokens."""
    named = by_name(batch.inputs)
    mask = named.get(VALID_MASK, named.get("attention_mask"))
    return 0.0 if mask is None else float(mask.sum()) / len(batch)


def network_inputs(batch: Batch) -> Mapping[str, Tensor]:
    """Inputs for the network."""
    return {name: value for name, value in by_name(batch.inputs).items() if name != VALID_MASK}


def token_items(batch: Batch) -> Batch:
    """The batch with one row per valid token, sample by sample."""
    counted = valid_tokens(batch)
    lengths = counted.sum(dim=1)
    return Batch(
        inputs=batch.inputs,
        labels=None if batch.labels is None else batch.labels[counted],
        sample_ids=batch.sample_ids.repeat_interleave(lengths.cpu()),
        view_ids=batch.view_ids.repeat_interleave(lengths.cpu()),
        mask=None if batch.mask is None else batch.mask.repeat_interleave(lengths),
    )


def score_by_sample(
    said: Predictions, scores: Shaped[Tensor, " items"]
) -> Float[Tensor, " samples"]:
    """Scores per sample from scores of items, since tokens of one text are not independent.

    A sample weighs by its items, so that the mean over samples is the mean over items.
    """
    samples, places = said.sample_ids.unique(return_inverse=True)
    sums = torch.zeros(len(samples), dtype=torch.float64)
    return sums.index_add(0, places, scores.double()) * (len(samples) / len(scores))
