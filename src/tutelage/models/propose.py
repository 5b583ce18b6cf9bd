"""Candidate students: slices of the teacher, and small networks of known families."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tutelage.errors import TutelageError
from tutelage.models.cost import count_macs, count_parameters
from tutelage.models.load import make_model
from tutelage.models.memory import count_memory_bytes, count_weight_bytes
from tutelage.models.slices import slice_network

WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06, 0.04)
DEPTHS = (1.0, 0.5)
SMALL_PICTURES = 64
OF_TIMM = (
    "mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100", "lcnet_035",
    "lcnet_050", "lcnet_075", "lcnet_100", "tinynet_e", "tinynet_d", "tinynet_c", "ghostnet_050",
    "mobilenetv2_035", "mobilenetv2_050", "mnasnet_small", "semnasnet_050", "resnet10t",
    "resnet14t", "mobileone_s0", "edgenext_xx_small", "mobilevitv2_050", "efficientnet_lite0",
    "deit_tiny_patch16_224", "repghostnet_050",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about the data's images."""

    num_classes: int
    in_channels: int
    image_size: int

    def example(self, count: int = 2) -> Shaped[Tensor, "batch ..."]:
        """Noise inputs of the right shape, always the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.in_channels, self.image_size, self.image_size)
        return torch.rand(shape, generator=generator)

    def as_arguments(self) -> dict[str, Any]:
        """Arguments of networks' constructors."""
        return {
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "image_size": self.image_size,
        }


@dataclass(frozen=True, slots=True)
class Original:
    """The teacher for which students are proposed.

    Attributes:
        model: Its name as in a recipe.
        settings: Settings of its constructor.
        network: With its weights, in eval mode.
        is_trained: Whether these weights are worth keeping.
    """

    model: str
    settings: Mapping[str, Any]
    network: nn.Module
    is_trained: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate student.

    Attributes:
        name: In tables and file names.
        model: Name of the model as in a recipe.
        settings: Settings as in a recipe.
        network: With the teacher's weights where it is a slice of a trained one.
        from_teacher: Whether it starts from them.
        parameters: Number of weights.
        macs: Multiply-accumulates of one sample.
        weight_bytes: Size in bytes of parameters and buffers, in float32.
        memory_bytes: Bytes of weights and of the tensors that live at once.
    """

    name: str
    model: str
    settings: Mapping[str, Any]
    network: nn.Module = field(repr=False)
    from_teacher: bool
    parameters: int
    macs: int
    weight_bytes: int
    memory_bytes: int


def find_candidates(original: Original, facts: Facts) -> list[Candidate]:
    """All students with fewer MACs and weights than the teacher, the largest first.

    Networks that cannot be made for such images are left out, and of equals all but the first.
    """
    whole = _candidate("teacher", original.model, original.settings, original.network, facts)
    found: dict[tuple[int, int], Candidate] = {}
    for candidate in (*_slices(original, facts), *_families(original, facts)):
        if candidate.macs < whole.macs and candidate.parameters < whole.parameters:
            found.setdefault((candidate.macs, candidate.parameters), candidate)
    return sorted(found.values(), key=lambda c: (-c.macs, -c.parameters))


def describe(original: Original, facts: Facts, *, name: str = "teacher") -> Candidate:
    """The teacher, counted like a candidate."""
    return _candidate(name, original.model, original.settings, original.network, facts)


def _candidate(
    name: str,
    model: str,
    settings: Mapping[str, Any],
    network: nn.Module,
    facts: Facts,
    *,
    from_teacher: bool = False,
) -> Candidate:
    example = facts.example()
    return Candidate(
        name=name,
        model=model,
        settings=settings,
        network=network,
        from_teacher=from_teacher,
        parameters=count_parameters(network),
        macs=count_macs(network, example),
        weight_bytes=count_weight_bytes(network),
        memory_bytes=count_memory_bytes(network, example),
    )


def _slices(original: Original, facts: Facts) -> Iterator[Candidate]:
    for depth, width in product(DEPTHS, WIDTHS):
        if depth == width == 1:
            continue
        try:
            network = slice_network(original.network, facts.example(), width=width, depth=depth)
        except TutelageError:  # this teacher cannot be sliced in this direction
            continue
        settings: dict[str, Any] = {"of": original.model}
        if original.settings:
            settings["settings"] = dict(original.settings)
        settings |= {"width": width} if width < 1 else {}
        settings |= {"depth": depth} if depth < 1 else {}
        name = f"slice-w{round(100 * width)}-d{round(100 * depth)}"
        yield _candidate(name, "slice", settings, network, facts, from_teacher=original.is_trained)


def _families(original: Original, facts: Facts) -> Iterator[Candidate]:
    for name, model, settings in _known(original, facts):
        try:
            with torch.random.fork_rng(devices=[]):
                network = make_model(model, settings, **facts.as_arguments()).eval()
            yield _candidate(name, model, settings, network, facts)
        except TutelageError:  # not for images of this size
            continue


def _known(original: Original, facts: Facts) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, model and settings of small networks that fit such images."""
    if facts.image_size <= SMALL_PICTURES:
        yield from _for_small_pictures()
    if original.model == "vit":
        yield from _smaller_vits()
    if original.model == "mlp":
        yield from ((f"mlp-{w}", "mlp", {"hidden": [w, w]}) for w in (8, 16, 30, 50, 100, 200, 400))
    is_large = facts.image_size > SMALL_PICTURES or ":" in original.model
    if is_large and find_spec("timm") is not None:
        for name in OF_TIMM:
            yield f"timm-{name}", f"timm:{name}", {}


def _for_small_pictures() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for stages, width in product((2, 3), (2, 3, 4, 6, 8, 12, 16, 24, 32)):
        yield f"cnn-{width}x{stages}", "cnn", {"width": width, "stages": stages}
    for width in (3, 4, 6, 8, 12, 16):
        yield f"resnet-{width}", "resnet", {"width": width, "blocks": 1}


def _smaller_vits() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for depth, width in product((1, 2, 3), (16, 24, 32, 48)):
        yield f"vit-{width}x{depth}", "vit", {"width": width, "depth": depth}
