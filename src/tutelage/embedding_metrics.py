"""Agreement of two sets of embeddings on which samples are similar."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MOST_OTHERS = 2048  # every sample is compared with so many others: time and memory stay linear
ROWS_AT_ONCE = 256


def rank_correlations(
    vectors: Float[Tensor, "n width"], wanted: Float[Tensor, "n width2"]
) -> Float[Tensor, " n"]:
    """Spearman's correlation of each sample's cosines to all others, between two sets.

    Args:
        vectors: At least three rows.
        wanted: Vectors of the same samples; the width may differ.

    Returns:
        One number a sample, -1 to 1. Of more than 2,049 samples the first 2,048 are the others.
    """
    found = [
        _correlation(_ranks(ours), _ranks(theirs)) for ours, theirs, _ in _cosines(vectors, wanted)
    ]
    return torch.cat(found)


def jackknife_values(
    vectors: Float[Tensor, "n width"], wanted: Float[Tensor, "n width2"]
) -> Float[Tensor, " n"]:
    """Contribution of each sample to the mean rank correlation, as itself and as a neighbour.

    Every sample's correlation is taken over all others, so the correlations are not independent
    and their variance says too little. These values can be treated as if they were: n times the
    mean less n - 1 times the mean without the sample (Tukey's pseudo-values), to first order.

    Args:
        vectors: At least four rows.
        wanted: Vectors of the same samples; the width may differ.

    Returns:
        One number a sample; their mean is that of `rank_correlations`.

    Source:
        Tukey 1958, "Bias and confidence in not quite large samples"; the influence of a sample on
        Spearman's correlation: Croux & Dehon 2010, "Influence functions of the Spearman and
        Kendall correlation measures".
    """
    own, as_other = [], torch.zeros(len(vectors), dtype=torch.float64)
    for ours, theirs, keep in _cosines(vectors, wanted):
        ranks = _ranks(ours), _ranks(theirs)
        found = _correlation(*ranks)
        own.append(found)
        influence = torch.zeros(keep.shape, dtype=torch.float64)
        influence[keep] = _influence(*ranks, found).flatten()
        as_other[: keep.shape[1]] += influence.sum(dim=0) / (ours.shape[1] - 1)
    return torch.cat(own) + as_other


def _influence(ours: Tensor, theirs: Tensor, found: Tensor) -> Tensor:
    """Influence of each entry of a row on its rank correlation; 0 on average over a row."""
    size = ours.shape[1]
    first, second = ((side + 0.5) / size - 0.5 for side in (ours, theirs))
    shifts = _mean_above(first, second) + _mean_above(second, first)
    pulls = 12 * (first * second + shifts) - 3 * found[:, None]
    return pulls - pulls.mean(dim=1, keepdim=True)


def _mean_above(places: Tensor, values: Tensor) -> Tensor:
    """For each entry of a row, the sum of the values of all larger entries over the row's size.

    Removing an entry moves the rank of all above it by one; half of its own value counts.
    """
    order = places.argsort(dim=1, stable=True)
    ordered = values.gather(1, order)
    above = ordered.flip(dims=(1,)).cumsum(dim=1).flip(dims=(1,)) - ordered / 2
    return torch.empty_like(above).scatter(1, order, above) / places.shape[1]


def pair_correlation(vectors: Float[Tensor, "n width"], wanted: Float[Tensor, "n width2"]) -> float:
    """Spearman's correlation of the cosines of all pairs, -1 to 1."""
    both = [
        torch.cat([part[side].flatten() for part in _cosines(vectors, wanted)]) for side in (0, 1)
    ]
    return float(_correlation(*(_ranks(side[None]) for side in both)))


def shared_neighbours(
    vectors: Float[Tensor, "n width"], wanted: Float[Tensor, "n width2"], count: int = 10
) -> float:
    """Share of each sample's nearest neighbours in one set that are so in the other, 0 to 1."""
    shares = []
    for ours, theirs, _ in _cosines(vectors, wanted):
        near = [side.topk(min(count, side.shape[1]), dim=1).indices for side in (ours, theirs)]
        same = (near[0][:, :, None] == near[1][:, None, :]).any(dim=2)
        shares.append(same.double().mean(dim=1))
    return float(torch.cat(shares).mean())


def _cosines(vectors: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Cosines to all other samples, a few rows at a time.

    With them: which of the others each row is compared with.
    """
    sides = [F.normalize(side.double(), dim=1) for side in (vectors, wanted)]
    others = [side[: MOST_OTHERS + 1] for side in sides]
    for rows in torch.arange(len(vectors)).split(ROWS_AT_ONCE):
        # A sample beyond the others leaves out the last of them: all rows are of one width.
        own = rows.clamp(max=len(others[0]) - 1)
        keep = torch.ones(len(rows), len(others[0]), dtype=torch.bool)
        keep[torch.arange(len(rows)), own] = False
        ours, theirs = (
            (side[rows] @ other.T)[keep].view(len(rows), -1)
            for side, other in zip(sides, others, strict=True)
        )
        yield ours, theirs, keep


def _ranks(values: Tensor) -> Tensor:
    """Ranks along the last axis; equal values share their mean rank."""
    order = values.argsort(dim=1)
    ordered = values.gather(1, order)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    groups = is_new.long().cumsum(dim=1) - 1
    places = torch.arange(values.shape[1], dtype=torch.float64).expand_as(values)
    sums = torch.zeros_like(values, dtype=torch.float64).scatter_add(1, groups, places)
    sizes = torch.zeros_like(sums).scatter_add(1, groups, torch.ones_like(sums))
    means = (sums / sizes.clamp(min=1)).gather(1, groups)
    return torch.empty_like(means).scatter(1, order, means)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of rows; 0 for a constant row."""
    centred = [side - side.mean(dim=1, keepdim=True) for side in (first, second)]
    return F.cosine_similarity(centred[0], centred[1], dim=1)
