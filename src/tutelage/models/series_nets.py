"""Networks of series: channels that change with time, of any length."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.models.sizes import check_sizes


class _Stage(nn.Module):
    """A convolution over time that keeps the length, batch norm and ReLU."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.around = ((kernel - 1) // 2, kernel // 2)
        self.conv = nn.Conv1d(before, after, kernel, bias=False)
        self.norm = nn.BatchNorm1d(after)

    def forward(
        self, series: Float[Tensor, "batch before steps"], mask: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch after steps"]:
        convolved = self.conv(F.pad(series, self.around))
        if mask is None:
            return F.relu(self.norm(convolved))
        return F.relu(self._masked_norm(convolved, mask)) * mask[:, None]

    def _masked_norm(self, series: Tensor, mask: Tensor) -> Tensor:
        """Batch norm whose statistics leave out what only fills a series up."""
        if not self.training:
            normed: Tensor = self.norm(series)
            return normed
        steps = series.transpose(1, 2)
        normed = steps.masked_scatter(mask[:, :, None], self.norm(steps[mask]))
        return normed.transpose(1, 2)


class CNN1d(nn.Module):
    """A fully convolutional network (FCN) of series: stages, the mean over time, a linear layer.

    What it says of a series does not depend on the others of its batch, once it is trained: steps
    that only fill a series up are 0 before each convolution and left out of means and of batch
    norm's statistics.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of a series.
        channels: Channels of each stage.
        kernels: Time steps that each stage's convolution sees.

    Raises:
        ConfigError: A stage without channels, or not one kernel for each.

    Source:
        Wang, Yan & Oates 2016, "Time Series Classification from Scratch with Deep Neural Networks:
        A Strong Baseline", arXiv:1611.06455, section II.B.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        channels: Sequence[int] = (128, 256, 128),
        kernels: Sequence[int] = (8, 5, 3),
    ) -> None:
        """Make the layers."""
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels}
        check_sizes("cnn1d", **sizes, channels=channels, kernels=kernels)
        if len(channels) != len(kernels):
            raise ConfigError(
                f"cnn1d: {len(channels)} channels, but {len(kernels)} kernels. Give one of each "
                "for every stage."
            )
        widths = (in_channels, *channels)
        self.stages = nn.ModuleList(
            _Stage(before, after, kernel)
            for before, after, kernel in zip(widths, channels, kernels, strict=False)
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(
        self,
        inputs: Float[Tensor, "batch channels steps"],
        mask: Bool[Tensor, "batch steps"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Logits.

        Args:
            inputs: Series, filled up to a common length.
            mask: True where a step belongs to its series; None counts all.
        """
        found = inputs if mask is None else inputs * mask[:, None]
        for stage in self.stages:
            found = stage(found, mask)
        means = found.mean(dim=2) if mask is None else found.sum(dim=2) / mask.sum(1, keepdim=True)
        logits: Tensor = self.head(means)
        return logits
