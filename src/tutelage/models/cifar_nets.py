"""Networks of the published comparisons on CIFAR-100: wide residual networks and VGG.

Their layers are named like those of the other convolutional networks: stage1, stage2, ..., pool,
head.
"""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.models.sizes import check_sizes

VGG_CONVOLUTIONS = {8: 1, 13: 2}
VGG_WIDTHS = (64, 128, 256, 512, 512)


class _WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels2 height2 width2"]:
        active = F.relu(self.bn1(images))
        kept = images if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return changed + kept


def wide_resnet(
    num_classes: int, in_channels: int = 3, depth: int = 16, widen: int = 2
) -> nn.Module:
    """A wide residual network for small images: WRN-40-2 is depth 40, widen 2.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the images.
        depth: 6 blocks + 4: 10, 16, 22, 28, 40.
        widen: Channels of the three stages are 16, 32 and 64 times it.

    Raises:
        ConfigError: The depth is none of these, or a size below 1.

    Source:
        Zagoruyko & Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146, table 1.
    """
    check_sizes("wide_resnet", num_classes=num_classes, in_channels=in_channels, widen=widen)
    if depth < 10 or (depth - 4) % 6:
        raise ConfigError(f"wide_resnet: depth must be 6 times the blocks, plus 4, got {depth}.")
    layers: dict[str, nn.Module] = {"stem": nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)}
    channels = 16
    for stage in range(3):
        row = []
        for block in range((depth - 4) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            row.append(_WideBlock(channels, 16 * widen * 2**stage, stride))
            channels = 16 * widen * 2**stage
        layers[f"stage{stage + 1}"] = nn.Sequential(*row)
    layers["last"] = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["head"] = nn.Linear(channels, num_classes)
    return nn.Sequential(OrderedDict(layers))


def vgg(num_classes: int, in_channels: int = 3, depth: int = 8) -> nn.Module:
    """A VGG network with batch norm for small images: five stages, one linear layer.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the images.
        depth: 8 or 13: one or two convolutions a stage, as the comparisons count.

    Raises:
        ConfigError: The depth is neither.

    Source:
        Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", arXiv:1409.1556, as used by Tian, Krishnan & Isola 2019, "Contrastive
        Representation Distillation", arXiv:1910.10699: pooled after the first three stages.
    """
    check_sizes("vgg", num_classes=num_classes, in_channels=in_channels)
    if depth not in VGG_CONVOLUTIONS:
        raise ConfigError(f"vgg: depth must be one of {list(VGG_CONVOLUTIONS)}, got {depth}.")
    layers: dict[str, nn.Module] = {}
    channels = in_channels
    for stage, width in enumerate(VGG_WIDTHS, start=1):
        row: list[nn.Module] = [nn.MaxPool2d(2)] if 2 <= stage <= 4 else []
        for _ in range(VGG_CONVOLUTIONS[depth]):
            row += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers[f"stage{stage}"] = nn.Sequential(*row)
    layers["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers["head"] = nn.Linear(channels, num_classes)
    return nn.Sequential(OrderedDict(layers))
