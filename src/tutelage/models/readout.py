"""How a causal language model computes logits from hidden states, found by measurement."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage.models.modes import preserve_mode
from tutelage.types import HiddenStates

PROBE_TOKENS = 5
# Far beyond the logits of a fresh model, so that a cap that it does not reach yet is seen.
PROBE_LOGIT = 64.0
# Names under which models hand back what they keep of the tokens so far, and take it again.
STATES = ("cache", "past_key_values", "cache_params", "state")


@dataclass(frozen=True, slots=True)
class Parts:
    """A language model split at its output head.

    Attributes:
        body: Gives hidden states.
        head: Its linear output layer.
        scale: The logits are the product of hidden states and head, times this number.
        cap: Bound of the logits (see `HiddenStates`); None where there is none.
    """

    body: nn.Module
    head: nn.Linear
    scale: float = 1.0
    cap: float | None = None

    def scores(self, hidden: Float[Tensor, "rows width"], num_classes: int) -> HiddenStates:
        """Hidden states with the head's rows for the tokenizer's vocabulary."""
        head, device = self.head, hidden.device.type
        dtype = head.weight.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        scaled = hidden if self.scale == 1 else self.scale * hidden
        weight = head.weight[:num_classes].to(dtype)
        bias = None if head.bias is None else head.bias[:num_classes].to(dtype)
        return HiddenStates(scaled.to(dtype), weight, bias, self.cap)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Measured facts of a model, independent of its weights and device."""

    scale: float
    cap: float | None


_FOUND: WeakKeyDictionary[nn.Module, _Measured | None] = WeakKeyDictionary()
_CACHES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def parts_of(model: Any) -> Parts | None:
    """Body and head of a Hugging Face model, or None if its logits are no product of both.

    What the model does before and after its head is measured once: its head is given numbers to
    say, and what the model makes of them is compared with a scale and with a cap. A model that
    does anything else gives its logits by itself.
    """
    found = _taken_apart(model)
    if found is None:
        return None
    if model not in _FOUND:
        _FOUND[model] = _measured(found)
    measured = _FOUND[model]
    if measured is None:
        return None
    _, body, head = found
    return Parts(body, head, measured.scale, measured.cap)


def without_cache(model: Any) -> dict[str, bool]:
    """The argument that disables the cache in a forward pass."""
    names = inspect.signature(plain_model(model).forward).parameters
    return {"use_cache": False} if "use_cache" in names else {}


def continues_with_cache(model: Any) -> bool:
    """Whether a model gives the same logits token by token as for the whole text.

    It does not where it keeps no state, or another one than its own last output hands back.
    """
    if model not in _CACHES:
        _CACHES[model] = _continues(model)
    return _CACHES[model]


def next_logits(
    model: Any, tokens: Int[Tensor, "texts fresh"], kept: Mapping[str, Any]
) -> tuple[Float[Tensor, "texts told words"], dict[str, Any]]:
    """Logits after new tokens, and the arguments that hold the previous tokens.

    Args:
        model: A Hugging Face model.
        tokens: What comes next.
        kept: The second result of the call before; empty at a text's beginning.
    """
    given = model(input_ids=tokens, use_cache=True, **kept)
    names = inspect.signature(plain_model(model).forward).parameters
    state = {name: given[name] for name in STATES if name in names and given.get(name) is not None}
    return given.logits, {**kept, **state}


def last_logits_only(model: Any) -> dict[str, Any]:
    """The argument that limits logits to the last token."""
    names = inspect.signature(plain_model(model).forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in names else {}


def is_language_model(model: Any) -> bool:
    """Whether it is a Hugging Face model with an output head."""
    return hasattr(plain_model(model), "get_output_embeddings")


def looks_ahead(model: Any) -> bool:
    """Whether a later token changes earlier logits, as in an encoder."""
    ids = _probe(plain_model(model)).repeat(2, 1)
    ids[1, -1] = (ids[0, -1] + 1) % len(plain_model(model).get_input_embeddings().weight)
    with _quietly(model):
        logits = model(input_ids=ids, **without_cache(model)).logits.float()
    changes = (logits[0] - logits[1]).abs().amax(dim=-1)
    return bool(changes[:-1].max() > 1e-3 * changes[-1])


def plain_model(model: Any) -> Any:
    """The model without peft's adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _taken_apart(model: Any) -> tuple[Any, nn.Module, nn.Linear] | None:
    inner = plain_model(model)
    find_head = getattr(inner, "get_output_embeddings", None)
    if getattr(inner, "config", None) is None or find_head is None:
        return None
    head, body = find_head(), getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    if type(head) is not nn.Linear or not isinstance(body, nn.Module):
        return None
    return inner, body, head


def _measured(found: tuple[Any, nn.Module, nn.Linear]) -> _Measured | None:
    inner, body, head = found
    try:
        with _quietly(inner):
            return _compare(inner, body, head)
    except Exception:  # a model that cannot be looked into gives its logits by itself
        return None


def _compare(inner: Any, body: nn.Module, head: nn.Linear) -> _Measured | None:
    ids = _probe(inner)
    words = len(head.weight)
    told = torch.linspace(-PROBE_LOGIT, PROBE_LOGIT, ids.shape[1] * words, device=ids.device)
    told = told.to(head.weight.dtype).view(1, ids.shape[1], words)
    seen: list[Tensor] = []

    def speak(_: nn.Module, given: tuple[Tensor, ...], product: Tensor) -> Tensor:
        seen.append(given[0])
        return told.view_as(product)

    hook = head.register_forward_hook(speak)
    try:
        with torch.enable_grad():  # what follows the head must not learn: its scale would go stale
            made = inner(input_ids=ids, **without_cache(inner)).logits
    finally:
        hook.remove()
    own = body(input_ids=ids, use_cache=False)[0]
    if len(seen) != 1 or made.requires_grad or not _is_close(seen[0].detach(), own):
        return None
    return _after_head(inner.config, made.view_as(told), told, has_bias=head.bias is not None)


def _after_head(config: Any, made: Tensor, told: Tensor, *, has_bias: bool) -> _Measured | None:
    """Scale or cap between the head's product and the model's logits."""
    made, told = made.float(), told.float()
    scale = float((made * told).sum() / (told * told).sum())
    if _is_close(made, told):
        return _Measured(1.0, None)
    if not has_bias and _is_close(made, scale * told):
        return _Measured(scale, None)
    cap = getattr(config.get_text_config(), "final_logit_softcapping", None)
    if cap and _is_close(made, cap * torch.tanh(told / cap)):
        return _Measured(1.0, float(cap))
    return None


def _is_close(one: Tensor, other: Tensor) -> bool:
    room = 16 * max(torch.finfo(t.dtype).eps for t in (one, other))
    gap = (one.float() - other.float()).abs().max()
    return bool(gap <= max(1e-5, room) * other.float().abs().max())


def _continues(model: Any) -> bool:
    ids = _probe(plain_model(model)).repeat(2, 1)
    ids[1] = ids[1].flip(dims=(0,))
    try:
        with _quietly(model):
            whole = model(input_ids=ids, **without_cache(model)).logits
            kept: dict[str, Any] = {}
            steps = []
            for fresh in ids.split([PROBE_TOKENS - 3, 1, 1, 1], dim=1):
                logits, kept = next_logits(model, fresh, kept)
                steps.append(logits)
    except Exception:  # it takes no tokens one by one
        return False
    one_by_one = torch.cat(steps, dim=1)
    if not kept or one_by_one.shape != whole.shape:
        return False
    room = 1e-3 if whole.dtype == torch.float32 else 0.05
    return bool((one_by_one - whole).abs().max() <= room * whole.abs().max())


def _probe(inner: Any) -> Int[Tensor, "1 tokens"]:
    weight = inner.get_input_embeddings().weight
    numbers = torch.arange(1, PROBE_TOKENS + 1, device=weight.device)
    return (7 * numbers % len(weight))[None]


@contextlib.contextmanager
def _quietly(model: nn.Module) -> Iterator[None]:
    """In eval mode and full precision, without gradients or side effects."""
    weight = next(model.parameters())
    device = weight.device
    devices = [device] if device.type == "cuda" else []
    with (
        preserve_mode(model),
        torch.inference_mode(mode=weight.is_inference()),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices),
    ):
        model.eval()
        yield
