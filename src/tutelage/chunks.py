"""Losses without the full logits: forward and backward in chunks of rows, from hidden states."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.types import HiddenStates

# Logits that are there at one time, in numbers: 32 MB of float32, and a few times that for what
# the losses make of them. But adding a chunk's share to the head's gradient costs as much for few
# rows as for many, so there are never fewer than this many rows.
CHUNK_NUMBERS = 2**23
LEAST_ROWS = 512

Values = tuple[Float[Tensor, ""], Float[Tensor, " parts"]]
ValueOf = Callable[[Float[Tensor, "rows classes"], int, int], Values]


def rows_at_once(num_classes: int) -> int:
    """Rows per chunk."""
    return max(LEAST_ROWS, CHUNK_NUMBERS // num_classes)


def sum_of_chunks(hidden: HiddenStates, value_of: ValueOf) -> Values:
    """Sum of the chunks' contributions, with gradients for hidden states and head.

    The gradients are made in the forward pass, chunk by chunk, so that no logits outlive their
    chunk: the memory does not grow with rows times classes. A second backward pass is refused.

    Args:
        hidden: The rows.
        value_of: Called with a chunk's logits and the numbers of its first row and of the row
            after its last; gives its share of the total, and of numbers that are only told.

    Returns:
        The total, with gradient, and the numbers.
    """
    total, told = _Chunked.apply(hidden.values, hidden.weight, hidden.bias, hidden.cap, value_of)
    return total, told


class _Chunked(torch.autograd.Function):
    """The sum as one node of the autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cap: float | None,
        value_of: ValueOf,
    ) -> Values:
        hidden = HiddenStates(values, weight, bias, cap)
        wanted = ctx.needs_input_grad[:3]
        gradients = [
            torch.zeros_like(tensor) if is_wanted and tensor is not None else None
            for tensor, is_wanted in zip((values, weight, bias), wanted, strict=True)
        ]
        sums: Values | None = None
        step = rows_at_once(hidden.num_classes)
        for start in range(0, max(1, len(hidden)), step):
            stop = min(start + step, len(hidden))
            product = hidden.pick(slice(start, stop)).product()
            with torch.enable_grad():
                logits = hidden.capped(product.requires_grad_(any(wanted)))
                given = value_of(logits, start, stop)
            if any(wanted):
                _add_gradients(gradients, hidden, start, stop, _slope(given[0], product))
            now = (given[0].detach(), given[1].detach())
            sums = now if sums is None else (sums[0] + now[0], sums[1] + now[1])
        assert sums is not None
        ctx.gradients = gradients
        ctx.mark_non_differentiable(sums[1])
        return sums

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("A loss in chunks can be followed backward once.")
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if g is None else g.mul_(slope.to(g.dtype)) for g in gradients), None, None)


def _slope(total: Tensor, product: Tensor) -> Tensor:
    if not total.requires_grad:
        return torch.zeros_like(product)
    return torch.autograd.grad(total, product)[0]


def _add_gradients(
    gradients: list[Tensor | None], hidden: HiddenStates, start: int, stop: int, slope: Tensor
) -> None:
    """Add the gradients of a matrix product, given those of its result."""
    of_values, of_weight, of_bias = gradients
    if of_values is not None:
        torch.mm(slope, hidden.weight, out=of_values[start:stop])
    if of_weight is not None:
        of_weight.addmm_(slope.T, hidden.values[start:stop])
    if of_bias is not None:
        of_bias.add_(slope.sum(dim=0))
