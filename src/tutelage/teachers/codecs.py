"""Storage of logits in a cache: what is kept, in how many bytes, and how it is read."""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import CacheError, ConfigError, one_line
from tutelage.losses.divergences import log_soften, soften
from tutelage.types import SCORES, Outputs, Signal, SparseLogits, tensor_bytes

Arrays = dict[str, Tensor]
HALF_MAX = 65504.0
# With more classes than this the rest is kept as one class, not spread evenly.
EVEN = 1024
OF_CLASSES = frozenset({Signal.LOGITS})


@runtime_checkable
class Codec(Protocol):
    """Logits to arrays and back.

    Attributes:
        name: Name as in recipes and manifests, settings included.
        takes: Kinds of scores that it keeps.
    """

    name: str
    takes: frozenset[Signal]

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """Arrays with one row an item."""
        ...

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Outputs from rows of those arrays, in float32."""
        ...


@final
class Float32:
    """All logits unchanged: training from the cache equals training with the live teacher."""

    name = "float32"
    takes = SCORES

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """The logits themselves."""
        return {"logits": logits.float()}

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """The logits themselves."""
        return Outputs(torch.from_numpy(arrays["logits"]))


@final
class Float16:
    """All logits in half the bytes; the relative error is below 0.0005."""

    name = "float16"
    takes = SCORES

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
    """The k largest logits and the mass of all others.

    With up to 1,024 classes the rest is spread evenly over the others. With more, as in
    vocabularies, an even spread is far from what any network says, so the rest is kept as one
    class of its mass (`SparseLogits.is_pooled`), and log-probabilities rather than logits are
    written, which float16 holds more finely.

    Args:
        k: Logits kept for each item, at least 1 and below the number of classes.
    """

    takes = OF_CLASSES

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
        precise = log_soften(logits) if num_classes > EVEN else logits.float()
        values, indices = precise.topk(self.k, dim=-1)
        rest = precise.scatter(dim=-1, index=indices, value=-torch.inf)
        filler = rest.logsumexp(dim=-1) - math.log(num_classes - self.k)
        return {
            "values": _half(values),
            "filler": _half(filler),
            **_packed(indices, num_classes),
        }

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Sparse logits, made dense when a loss asks for them."""
        return Outputs(
            SparseLogits(
                values=torch.from_numpy(arrays["values"]).float(),
                indices=_unpacked(arrays),
                filler=torch.from_numpy(arrays["filler"]).float(),
                num_classes=num_classes,
                is_pooled=num_classes > EVEN,
            )
        )


@final
class Sampled:
    """Classes drawn from the teacher's distribution, with an unbiased gradient under KL.

    The best k leave a bias, since the student never learns how the rest is spread. Draws are right
    on average, for forward KL at temperature 1 (`kd`), whatever their number; more draws have less
    noise. They are systematic: one random number places all of them evenly along the cumulated
    probabilities, so that a class of probability p is drawn p times the number, to within one.

    Args:
        num_draws: For each item, 2 or more; 16 take 32 bytes.

    Source:
        Anshumann, Zaidi, Kedia, Ahn, Kwon, Lee, Lee & Lee 2025, "Sparse Logit Sampling:
        Accelerating Knowledge Distillation in LLMs", arXiv:2503.16870 (independent draws there).
    """

    takes = OF_CLASSES

    def __init__(self, num_draws: int) -> None:
        """Store the number."""
        if num_draws < 2:
            raise ConfigError(f"cache.codec: sampled needs 2 draws or more, got {num_draws}.")
        self.num_draws = num_draws
        self.name = f"sampled:{num_draws}"

    def encode(self, logits: Float[Tensor, "items classes"]) -> Arrays:
        """The drawn classes; the random seed depends on the logits, so that draws are reproducible.

        Raises:
            ConfigError: There are not more classes than draws.
        """
        if self.num_draws >= logits.shape[-1]:
            raise ConfigError(
                f"cache.codec: sampled:{self.num_draws} draws as often as there are classes "
                f"({logits.shape[-1]}) or more. Use float16, or fewer draws than classes."
            )
        seed = int.from_bytes(hashlib.sha256(tensor_bytes(logits)).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        offsets = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64)
        places = (offsets + torch.arange(self.num_draws)) / self.num_draws
        cumulated = soften(logits).double().cumsum(dim=-1)
        cumulated = cumulated / cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, places.contiguous(), right=True)
        num_classes = logits.shape[-1]
        return _packed(drawn.clamp(max=num_classes - 1), num_classes)

    def decode(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Outputs:
        """Each drawn class with its share of the draws; nothing for all others."""
        drawn = _unpacked(arrays)
        same = drawn.unsqueeze(dim=2) == drawn.unsqueeze(dim=1)
        shares = same.sum(dim=2) / self.num_draws
        is_first = same.int().argmax(dim=2) == torch.arange(self.num_draws)
        values = torch.where(is_first, shares.log(), -torch.inf)
        filler = torch.full((len(drawn),), -torch.inf)
        return Outputs(SparseLogits(values, drawn, filler, num_classes, is_pooled=True))


def _packed(classes: Tensor, num_classes: int) -> Arrays:
    """Class numbers in one, two or three bytes each."""
    if num_classes <= 2**8:
        return {"indices": classes.to(torch.uint8)}
    if num_classes <= 2**16:
        return {"indices": classes.to(torch.uint16)}
    low, high = classes % 2**16, classes // 2**16
    return {"indices": low.to(torch.uint16), "indices_high": high.to(torch.uint8)}


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Tensor:
    classes = torch.from_numpy(arrays["indices"].astype(np.int64))
    if "indices_high" in arrays:
        classes += torch.from_numpy(arrays["indices_high"].astype(np.int64)) * 2**16
    return classes


CODECS: Mapping[str, Callable[[], Codec]] = {"float32": Float32, "float16": Float16}
_OWN: dict[str, Codec] = {}


def register_codec(codec: object, what: str = "codec") -> str:
    """Make a codec of one's own known by its name, which manifests have.

    A cache never imports the code that wrote it: whoever reads it registers the codec first.

    Args:
        codec: With `name`, `takes`, `encode` and `decode`, as `Codec` has them.
        what: The key or argument that gives it, for messages.

    Returns:
        Its name.

    Raises:
        ConfigError: It is no codec, or has the name of another.
    """
    if not isinstance(codec, Codec):
        lacking = [n for n in ("name", "takes", "encode", "decode") if not hasattr(codec, n)]
        raise ConfigError(
            f"{what}: {type(codec).__name__} is no codec, for it has no {', '.join(lacking)}. See "
            "tutelage.teachers.codecs.Codec."
        )
    kind = codec.name.partition(":")[0]
    if not codec.name or kind in (*CODECS, "topk", "sampled"):
        raise ConfigError(f"{what}: its name is {codec.name!r}. Give it one of its own.")
    _OWN[codec.name] = codec
    return codec.name


def try_codec(codec: Codec, num_classes: int) -> None:
    """Encode and decode some scores with a codec, before anything is trained.

    Raises:
        ConfigError: What it gives cannot be kept, or is not what is needed.
    """
    logits = torch.randn(3, num_classes, generator=torch.Generator().manual_seed(0))
    what = f"cache.codec: {codec.name}"
    try:
        arrays = codec.encode(logits.clone())
        are_rows = isinstance(arrays, dict) and all(
            isinstance(value, Tensor) and len(value) == len(logits) for value in arrays.values()
        )
        if not (are_rows and arrays):
            raise ConfigError(f"{what}: encode must give tensors by name, each with a row an item.")
        found = codec.decode({name: value.numpy() for name, value in arrays.items()}, num_classes)
    except (ConfigError, CacheError):
        raise
    except Exception as error:
        raise ConfigError(
            f"{what}: it fails on logits of shape {tuple(logits.shape)}: {type(error).__name__}: "
            f"{one_line(error)}."
        ) from error
    scores = found.scores if isinstance(found, Outputs) else None
    rows = scores.values if isinstance(scores, SparseLogits) else scores
    if not isinstance(rows, Tensor) or len(rows) != len(logits):
        raise ConfigError(f"{what}: decode must give tutelage.Outputs with a row an item.")


def make_codec(name: str) -> Codec:
    """A codec by name: `float32`, `float16`, `topk:K` or `sampled:N`.

    Raises:
        ConfigError: The name is unknown or K or N is no number.
    """
    kind, _, setting = name.partition(":")
    if kind == "topk" and setting.isdecimal():
        return TopK(int(setting))
    if kind == "sampled" and setting.isdecimal():
        return Sampled(int(setting))
    if name in CODECS:
        return CODECS[name]()
    if name in _OWN:
        return _OWN[name]
    raise ConfigError(
        f"cache.codec: unknown codec {name!r}. Known: float32, float16, topk:K, sampled:N."
    )


def _half(values: Tensor) -> Tensor:
    finite = values[values.isfinite()]
    if finite.numel() and float(finite.abs().max()) > HALF_MAX:
        raise CacheError(
            f"cache.codec: a logit of {float(finite.abs().max()):.0f} does not fit float16 "
            f"(largest {HALF_MAX:.0f}). Use codec: float32."
        )
    return values.half()


def check_scores(codec: Codec, gives: Signal) -> None:
    """Refuse a codec that would lose scores of this kind.

    Raises:
        ConfigError: It keeps others alone.
    """
    if gives not in codec.takes:
        whole = ", ".join(kind.name for kind in (Float32(), Float16()) if gives in kind.takes)
        raise ConfigError(
            f"cache.codec: {codec.name} keeps some classes of many, and {gives.value} have none. "
            f"Allowed: {whole}."
        )
