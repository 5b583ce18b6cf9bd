"""Vectors at unit length: directions that stay finite where a vector has none."""

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.losses.divergences import not_below_zero

# A vector that is shorter than this share of the others' length is a direction and noise.
SHORT = 1e-3
# As `torch.nn.functional.normalize` and `cosine_similarity`.
LEAST_LENGTH = 1e-12
LEAST_FOR_COSINES = 1e-8


def unit(
    vectors: Float[Tensor, "*batch"],
    dim: int = -1,
    *,
    least: float = LEAST_LENGTH,
    floor: float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Vectors divided by their lengths, with a bounded slope.

    The slope of a direction is the inverse of the vector's length, without bound for a vector that
    is nearly 0. Here a vector that is shorter than a thousandth of the typical length (the root of
    the mean square of those that are not 0) is divided by that thousandth; one that is 0 stays 0
    and has the slope of a vector of typical length.

    Args:
        vectors: Finite, of whatever scale.
        dim: Along which a vector lies.
        least: Length by which shorter vectors are divided, however short all of them are.
        floor: Added to every length.
    """
    scale = shrinking_scale(vectors)
    scaled = vectors * scale
    lengths = scaled.norm(dim=dim, keepdim=True)
    held = lengths.detach()
    is_there = held > 0
    typical = (held.square().sum() / is_there.sum().clamp(min=1)).sqrt()
    shortest = torch.maximum(SHORT * typical, least * scale)
    of_none = torch.where(typical > 0, typical, 1.0)
    divisors = torch.where(is_there, torch.maximum(lengths, shortest), of_none)
    return scaled / (divisors + floor * scale if floor else divisors)


def shrinking_scale(values: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """A power of two, a constant, by which no magnitude is left above 1; 1 where none is.

    A product with it rounds nothing, so what does not look at scale is the same to the last bit,
    and neither squares nor products overflow afterwards. 1 also where a value is not finite.
    """
    held = values.detach()
    largest = torch.linalg.vector_norm(held, ord=torch.inf) if held.numel() else held.sum()
    exponent = torch.frexp(largest).exponent.clamp(min=0)
    scale = torch.ldexp(torch.ones_like(largest), -exponent)
    return torch.where(largest.isfinite(), scale, 1.0)


def cosine_gaps(
    one: Float[Tensor, "*batch width"], other: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch"]:
    """One minus the cosine of the angle between two vectors, 0 to 2; 1 where one is 0."""
    ours, theirs = (unit(each, least=LEAST_FOR_COSINES) for each in (one, other))
    return not_below_zero(1 - (ours * theirs).sum(dim=-1))
