"""Validation of scores: no NaN, and nothing that cannot be stored."""

from torch import Tensor

from tutelage.errors import ModelError

IMPOSSIBLE = -1e4  # a logit; exp of it is 0 at every temperature in use


def check_numbers(
    model: object, logits: Tensor, sample_ids: Tensor, what: str = "validation or test data"
) -> None:
    """Refuse logits that have no softmax.

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


def held_impossible(logits: Tensor) -> Tensor:
    """Logits with a finite number for `-inf`, low enough for probability 0.

    What is made of them (likelihoods of samples whose class a network holds impossible, soft
    targets in a report) can then be written down.
    """
    return logits.masked_fill(logits.isneginf(), IMPOSSIBLE)
