"""Calling a network, with any inputs and outputs."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tutelage.errors import ModelError, ShapeError, one_line
from tutelage.types import Inputs, describe_inputs, map_tensors

Given = TypeVar("Given", bound=Inputs)


def own_copies(inputs: Given) -> Given:
    """Inputs that a network may write into.

    Every network of a run is given a copy: teacher, student and losses see the same batch one after
    another, and one that normalises in place, even behind the back of autograd, would change what
    the next one learns from. It takes microseconds.
    """
    copies: Any = map_tensors(inputs, Tensor.clone)
    return copies  # type: ignore[no-any-return]


def called(model: nn.Module, inputs: Inputs, **settings: object) -> object:
    """Raw output of a network for a tensor, or for named tensors as arguments."""
    return model(inputs, **settings) if isinstance(inputs, Tensor) else model(**inputs, **settings)


def call(model: nn.Module, inputs: Inputs, **settings: object) -> Tensor:
    """The logits of a network, without a check of their shape.

    Args:
        model: Takes a tensor, or named tensors as arguments; gives a tensor, or an object or dict
            with `logits` as those of `transformers`.
        inputs: What it is called with.
        **settings: Further arguments of its forward.

    Raises:
        ShapeError: It gives neither.
    """
    given = called(model, inputs, **settings)
    logits = getattr(given, "logits", given)
    if isinstance(logits, Mapping):
        logits = logits.get("logits", given)
    if not isinstance(logits, Tensor):
        raise ShapeError(
            f"{type(model).__name__} returned a {type(given).__name__}, not a tensor of "
            "logits. Wrap it in a module that picks the logits out."
        )
    return logits


def call_checked(model: nn.Module, inputs: Inputs, **settings: object) -> Tensor:
    """Like `call`, but with a copy of the inputs and a one-line error for any failure inside.

    Raises:
        ModelError: Its forward failed.
        ShapeError: It gives no logits.
    """
    try:
        return call(model, own_copies(inputs), **settings)
    except (torch.cuda.OutOfMemoryError, MemoryError, ShapeError):
        raise
    except Exception as error:  # the network is the user's own: anything can happen
        raise ModelError(
            f"{type(model).__name__} failed on inputs of {describe_inputs(inputs)}: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error
