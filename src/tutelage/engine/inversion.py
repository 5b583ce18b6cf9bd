"""Transfer data out of a teacher alone, for when its training data is gone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tutelage.data.sources import TensorSource
from tutelage.errors import ConfigError, ModelError
from tutelage.losses.divergences import cross_entropy
from tutelage.models.modes import left_as_it_was


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """How pictures are drawn out of a teacher.

    Attributes:
        steps: Optimizer updates of each batch of pictures.
        lr: Of Adam, on the pixels.
        batch_size: Pictures that are made together; their statistics are what is matched, so at
            least a few a class.
        statistics_weight: Of the distance to the batch norms' running statistics.
        variation_weight: Of the total variation, which keeps pictures smooth.
        size_weight: Of the mean squared pixel.
    """

    steps: int = 500
    lr: float = 0.1
    batch_size: int = 250
    statistics_weight: float = 1.0
    variation_weight: float = 1e-3
    size_weight: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.steps < 1 or self.batch_size < 2 or self.lr <= 0:
            raise ConfigError(
                f"inversion: steps must be 1 or more, batch_size 2 or more and lr above 0, got "
                f"{self.steps}, {self.batch_size} and {self.lr}."
            )


def invert(
    teacher: nn.Module,
    num_images: int,
    shape: Sequence[int],
    num_classes: int,
    settings: InversionSettings | None = None,
    *,
    seed: int = 0,
) -> TensorSource:
    """Make pictures that the teacher takes for its classes and that fit its batch norms.

    Each batch starts as noise and is moved until the teacher sees in it the classes asked for,
    with the means and variances that its batch norms saw in training. Teach with the teacher's
    soft targets on them; the labels are only what was asked for.

    Args:
        teacher: A network with batch norms; it is left as it was.
        num_images: How many.
        shape: Channels, height and width.
        num_classes: Classes are asked for in turn.
        settings: How they are made.
        seed: Of the noise.

    Returns:
        The pictures as the teacher takes them (normalised), with the classes asked for.

    Raises:
        ModelError: The teacher has no batch norm with running statistics.

    Source:
        Yin et al. 2020, "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion",
        arXiv:1912.08795, equations 2 to 4.

    Differs from the paper:
        Squared distances of means and variances, each divided by the number of channels; no
        competition with a student; no jitter of the pictures between updates.
    """
    chosen = settings or InversionSettings()
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % num_classes
    with _ready(teacher):
        made = [
            _invert_batch(teacher, part, shape, chosen, generator)
            for part in labels.split(chosen.batch_size)
        ]
    return TensorSource(torch.cat(made), labels)


def _invert_batch(
    teacher: nn.Module,
    labels: Int[Tensor, " batch"],
    shape: Sequence[int],
    settings: InversionSettings,
    generator: torch.Generator,
) -> Float[Tensor, "batch channels height width"]:
    noise = torch.randn(len(labels), *shape, generator=generator)
    pictures = noise.requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=settings.lr)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        with _statistics(teacher) as distances:
            loss = cross_entropy(teacher(pictures), labels)
        loss = loss + settings.statistics_weight * torch.stack(distances).sum()
        loss = loss + settings.variation_weight * _variation(pictures)
        loss = loss + settings.size_weight * pictures.square().mean()
        loss.backward()
        optimizer.step()
    return pictures.detach()


def _variation(pictures: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference of neighbouring pixels."""
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).square().mean()
    across = (pictures[..., 1:] - pictures[..., :-1]).square().mean()
    return down + across


@contextmanager
def _statistics(teacher: nn.Module) -> Iterator[list[Tensor]]:
    """Distance of each batch norm's input from its running statistics, during a forward."""
    distances: list[Tensor] = []
    handles: list[RemovableHandle] = []

    def measure(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert module.running_mean is not None
        assert module.running_var is not None
        inputs = args[0].transpose(0, 1).flatten(start_dim=1)
        mean = (inputs.mean(dim=1) - module.running_mean).square().mean()
        variance = (inputs.var(dim=1) - module.running_var).square().mean()
        distances.append(mean + variance)

    try:
        handles += [norm.register_forward_pre_hook(measure) for norm in _norms(teacher)]
        yield distances
    finally:
        for handle in handles:
            handle.remove()


def _norms(teacher: nn.Module) -> list[nn.Module]:
    return [
        module
        for module in teacher.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]


@contextmanager
def _ready(teacher: nn.Module) -> Iterator[None]:
    """The teacher in eval mode and frozen, and afterwards as it was."""
    if not _norms(teacher):
        raise ModelError(
            f"{type(teacher).__name__} has no batch norm with running statistics, so nothing in "
            "it tells what its data were like. Give some unlabelled data instead."
        )
    with left_as_it_was(teacher):
        teacher.eval().requires_grad_(requires_grad=False)
        yield
