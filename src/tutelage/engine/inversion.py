"""Transfer data drawn from a teacher alone, when its training data are gone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tutelage.data.sources import TensorSource
from tutelage.errors import ConfigError, ModelError, find
from tutelage.losses.divergences import cross_entropy
from tutelage.models.modes import frozen, preserve_mode

CODE = 64


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """How images are drawn from a teacher.

    Attributes:
        kind: What is moved: "pixels", each of every image; or "generator", a small network that
            makes images of random codes, and the codes. What a generator has learned for one
            batch serves the next, and its images have a common style.
        steps: Optimizer updates of each batch of images.
        lr: Learning rate of Adam; None takes 0.1 for pixels and 0.003 for a generator.
        batch_size: Images that are made together; their statistics are what is matched, so at
            least a few a class.
        statistics_weight: Weight of the distance to the batch norms' running statistics.
        variation_weight: Weight of the total variation, which keeps images smooth.
        size_weight: Weight of the mean squared pixel.
    """

    kind: str = "pixels"
    steps: int = 500
    lr: float | None = None
    batch_size: int = 250
    statistics_weight: float = 1.0
    variation_weight: float = 1e-3
    size_weight: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        find("kind of inversion", self.kind, RATES)
        if self.steps < 1 or self.batch_size < 2 or not self.rate > 0:
            raise ConfigError(
                f"inversion: steps must be 1 or more, batch_size 2 or more and lr above 0, got "
                f"{self.steps}, {self.batch_size} and {self.lr}."
            )

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES[self.kind] if self.lr is None else self.lr


RATES: Mapping[str, float] = {"pixels": 0.1, "generator": 3e-3}


class Generator(nn.Module):
    """Generates images from codes: a linear layer, then two upsampling convolutions.

    Args:
        shape: Channels, height and width of the images.
        width: Channels inside.

    Source:
        The layout of Chen et al. 2019, "Data-Free Learning of Student Networks",
        arXiv:1904.01186.
    """

    def __init__(self, shape: Sequence[int], width: int = 64) -> None:
        """Build the layers."""
        super().__init__()
        channels, self.height, self.width = shape
        self.first = (width, max(1, -(-self.height // 4)), max(1, -(-self.width // 4)))
        self.linear = nn.Linear(CODE, width * self.first[1] * self.first[2])
        self.norm = nn.BatchNorm2d(width)
        self.layers = nn.Sequential(
            _grown(width, width),
            _grown(width, width // 2),
            nn.Conv2d(width // 2, channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, codes: Float[Tensor, "batch code"]) -> Float[Tensor, "batch c h w"]:
        """Images of mean 0 and spread 1 over the batch, as normalised data are."""
        hidden = self.norm(self.linear(codes).view(-1, *self.first))
        images: Tensor = self.layers(hidden)
        return images[..., : self.height, : self.width]


def _grown(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.2),
    )


def invert(
    teacher: nn.Module,
    num_images: int,
    shape: Sequence[int],
    num_classes: int,
    settings: InversionSettings | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> TensorSource:
    """Generate images that the teacher assigns to its classes and that fit its batch norms.

    Each batch starts as noise and is moved until the teacher sees in it the classes asked for,
    with the means and variances that its batch norms saw in training. Teach with the teacher's
    soft targets on them; the labels are only what was asked for. A recipe's `transfer` does this.

    Args:
        teacher: A network with batch norms; it is left as it was.
        num_images: How many.
        shape: Channels, height and width.
        num_classes: Classes are asked for in turn.
        settings: How they are made.
        seed: Seed of the noise, and of a generator's weights.
        progress: Told after each batch how many images of how many are made.

    Returns:
        The images as the teacher takes them (normalised), with the classes asked for.

    Raises:
        ModelError: The teacher has no batch norm with running statistics.

    Source:
        Yin et al. 2020, "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion",
        arXiv:1912.08795, equations 2 to 4. With a generator: Fang et al. 2021, "Contrastive Model
        Inversion for Data-Free Knowledge Distillation", arXiv:2105.08584, section 3.2.

    Differs from the paper:
        Squared distances of means and variances, each divided by the number of channels; no
        competition with a student; no jitter of the images between updates. The generator has
        no contrast between batches: new codes and the classes asked for keep them apart.
    """
    chosen = settings or InversionSettings()
    labels = torch.arange(num_images) % num_classes
    device = next(teacher.parameters()).device
    with torch.random.fork_rng(), _ready(teacher):
        torch.manual_seed(seed)
        network = Generator(shape).to(device) if chosen.kind == "generator" else None
        made: list[Tensor] = []
        for part in _parts(labels, chosen.batch_size):
            made.append(_invert_batch(teacher, part.to(device), shape, chosen, network))
            if progress is not None:
                progress(sum(map(len, made)), num_images)
    return TensorSource(torch.cat(made), labels)


def _parts(labels: Tensor, size: int) -> Sequence[Tensor]:
    """Batches of nearly equal size, because batch norm needs at least two images."""
    return labels.tensor_split(-(-len(labels) // size))


def _invert_batch(
    teacher: nn.Module,
    labels: Int[Tensor, " batch"],
    shape: Sequence[int],
    settings: InversionSettings,
    network: Generator | None,
) -> Float[Tensor, "batch channels height width"]:
    draw, moved = _drawn(len(labels), shape, network, labels.device)
    optimizer = torch.optim.Adam(moved, lr=settings.rate)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        images = draw()
        with _statistics(teacher) as distances:
            loss = cross_entropy(teacher(images), labels)
        loss = loss + settings.statistics_weight * torch.stack(distances).sum()
        loss = loss + settings.variation_weight * _variation(images)
        loss = loss + settings.size_weight * images.square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return draw().detach().cpu()


def _drawn(
    count: int, shape: Sequence[int], network: Generator | None, device: torch.device
) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """The function that generates images, and all tensors to optimise."""
    if network is None:
        images = torch.randn(count, *shape).to(device).requires_grad_()
        return lambda: images, [images]
    codes = torch.randn(count, CODE).to(device).requires_grad_()
    return lambda: network(codes), [codes, *network.parameters()]


def _variation(images: Tensor) -> Float[Tensor, ""]:
    """Mean squared difference of adjacent pixels."""
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    across = (images[..., 1:] - images[..., :-1]).square().mean()
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


def check_invertible(teacher: nn.Module) -> None:
    """Refuse a teacher that images cannot be drawn from.

    Raises:
        ModelError: It has no batch norm with running statistics.
    """
    if not _norms(teacher):
        raise ModelError(
            f"{type(teacher).__name__} has no batch norm with running statistics, so nothing in "
            "it tells what its data were like. Give some unlabelled data instead."
        )


@contextmanager
def _ready(teacher: nn.Module) -> Iterator[None]:
    """The teacher in eval mode and frozen, restored afterwards."""
    check_invertible(teacher)
    with preserve_mode(teacher):
        frozen(teacher.eval())
        yield
