"""Vectors at unit length, with a bounded gradient even for zero vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.losses.divergences import not_below_zero

# A vector that is shorter than this share of the others' length is a direction and noise.
SHORT = 1e-3
# As `torch.nn.functional.normalize` and `cosine_similarity`.
LEAST_LENGTH = 1e-12
LEAST_FOR_COSINES = 1e-8
# Powers of two above which magnitudes are brought down.
LARGE = 16


def unit(
    vectors: Float[Tensor, "*batch"],
    dim: int = -1,
    *,
    least: float = LEAST_LENGTH,
    floor: float = 0.0,
) -> Float[Tensor, "*batch"]:
    """Vectors divided by their norms, with a bounded gradient.

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
    scaled, scale = shrunk(vectors)
    lengths = scaled.norm(dim=dim, keepdim=True)
    held = lengths.detach()
    is_there = held > 0
    typical = (held.square().sum() / is_there.sum().clamp(min=1)).sqrt()
    shortest = torch.maximum(SHORT * typical, least * scale)
    of_none = torch.where(typical > 0, typical, 1.0)
    divisors = torch.where(is_there, torch.maximum(lengths, shortest), of_none)
    return scaled / (divisors + floor * scale if floor else divisors)


def shrunk(
    values: Float[Tensor, "*batch"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, ""]]:
    """Values scaled by a power of two to avoid overflow, and that constant power.

    The product rounds nothing, so what does not look at scale is the same to the last bit, and
    neither squares nor products overflow afterwards. The power is 1 where no magnitude is above
    65,536, or one is not finite; on a CPU, which needs not be waited for, values then stay as
    they are.
    """
    held = values.detach()
    ends = held.aminmax() if held.numel() else (held.sum(), held.sum())
    largest = torch.maximum(-ends[0], ends[1])
    exponent = torch.frexp(largest).exponent
    is_large = (exponent > LARGE) & largest.isfinite()
    scale = torch.where(is_large, torch.ldexp(torch.ones_like(largest), -exponent), 1.0)
    if held.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(is_large):
        return values, scale
    return values * scale, scale


def cosine_gaps(
    one: Float[Tensor, "*batch width"], other: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch"]:
    """One minus the cosine of the angle between two vectors, 0 to 2; 1 where one is 0."""
    ours, theirs = (unit(each, least=LEAST_FOR_COSINES) for each in (one, other))
    return not_below_zero(1 - (ours * theirs).sum(dim=-1))
