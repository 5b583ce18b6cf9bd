"""How logits are written in a cache: what is kept, in how many bytes, and how it is read back."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import CacheError, ConfigError
from tutelage.types import Outputs, SparseLogits

Arrays = dict[str, Tensor]
HALF_MAX = 65504.0


@runtime_checkable
class Codec(Protocol):
    """Logits to arrays and back.

    Attributes:
        name: As recipes and manifests have it, settings included.
    """

    name: str

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """Arrays with one row an item."""
        ...

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Outputs from rows of those arrays, in float32."""
        ...


@final
class Float32:
    """Every logit as it is: training from the cache equals training with the live teacher."""

    name = "float32"

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """The logits themselves."""
        return {"logits": logits.float()}

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """The logits themselves."""
        return Outputs(torch.from_numpy(arrays["logits"]))


@final
class Float16:
    """Every logit in half the bytes; the relative error is below 0.0005."""

    name = "float16"

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """Logits in float16.

        Raises:
            CacheError: A logit does not fit.
        """
        return {"logits": _half(logits)}

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Logits in float32."""
        return Outputs(torch.from_numpy(arrays["logits"]).float())


@final
class TopK:
    """The k best logits and the mass of all others, which is spread evenly over them.

    Args:
        k: Logits kept for each item, at least 1 and below the number of classes.
    """

    def __init__(self, k: int) -> None:
        """Hold k."""
        if k < 1:
            raise ConfigError(f"cache.codec: topk needs k of 1 or more, got {k}.")
        self.k = k
        self.name = f"topk:{k}"

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """Values, classes and the filler logit.

        Raises:
            ConfigError: There are not more than k classes.
        """
        num_classes = logits.shape[-1]
        if self.k >= num_classes:
            raise ConfigError(
                f"cache.codec: topk:{self.k} keeps all {num_classes} classes. Use float16, or a "
                f"k below {num_classes}."
            )
        values, indices = logits.float().topk(self.k, dim=-1)
        rest = logits.float().scatter(dim=-1, index=indices, value=-torch.inf)
        filler = rest.logsumexp(dim=-1) - math.log(num_classes - self.k)
        width = torch.uint8 if num_classes <= 256 else torch.int32
        return {"values": _half(values), "indices": indices.to(width), "filler": _half(filler)}

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Sparse logits, made dense when a loss asks for them."""
        return Outputs(
            SparseLogits(
                values=torch.from_numpy(arrays["values"]).float(),
                indices=torch.from_numpy(arrays["indices"]).long(),
                filler=torch.from_numpy(arrays["filler"]).float(),
                num_classes=num_classes,
            )
        )


CODECS: Mapping[str, Callable[[], Codec]] = {"float32": Float32, "float16": Float16}


def make_codec(name: str) -> Codec:
    """A codec by name: `float32`, `float16` or `topk:K`.

    Raises:
        ConfigError: The name is unknown or K is no number.
    """
    kind, _, setting = name.partition(":")
    if kind == "topk" and setting.isdecimal():
        return TopK(int(setting))
    if name in CODECS:
        return CODECS[name]()
    raise ConfigError(f"cache.codec: unknown codec {name!r}. Known: float32, float16, topk:K.")


def _half(values: Tensor) -> Tensor:
    finite = values[values.isfinite()]
    if finite.numel() and float(finite.abs().max()) > HALF_MAX:
        raise CacheError(
            f"cache.codec: a logit of {float(finite.abs().max()):.0f} does not fit float16 "
            f"(largest {HALF_MAX:.0f}). Use codec: float32."
        )
    return values.half()
