"""Built-in networks: an MLP, a small CNN, ResNet and vision transformer, sized by their arguments.

Their layers have names: hidden1, hidden2, ... of an MLP, block1, block2, ... of a transformer,
stage1, stage2, ... of the others, then pool (one vector a sample; an MLP has none) and head (the
classifier).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.errors import ConfigError
from tutelage.models.sizes import check_shares, check_sizes


def mlp(
    num_classes: int,
    image_size: int = 28,
    in_channels: int = 1,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> nn.Module:
    """A fully connected ReLU network on flattened images.

    Args:
        num_classes: Width of the output.
        image_size: Height and width of the images.
        in_channels: Channels of the images.
        hidden: Width of each hidden layer; Hinton's MNIST nets are (1200, 1200) and (800, 800).
        dropout: Share of hidden units dropped while training.
        input_dropout: Share of pixels dropped while training.

    Raises:
        ConfigError: A layer without units, or a share that leaves nothing.
    """
    facts = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    check_sizes("mlp", **facts, hidden=hidden or None)
    check_shares("mlp", dropout=dropout, input_dropout=input_dropout)
    layers: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    if input_dropout:
        layers["input_dropout"] = nn.Dropout(input_dropout)
    width = in_channels * image_size**2
    for number, units in enumerate(hidden, start=1):
        layers[f"hidden{number}"] = nn.Sequential(nn.Linear(width, units), nn.ReLU())
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = units
    layers["head"] = nn.Linear(width, num_classes)
    return nn.Sequential(OrderedDict(layers))


def cnn(
    num_classes: int,
    in_channels: int = 1,
    width: int = 16,
    stages: int = 2,
    dropout: float = 0.0,
    channels: Sequence[int] | None = None,
) -> nn.Module:
    """A plain CNN: stages of convolution, batch norm, ReLU and pooling, then a linear layer.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the images.
        width: Channels of the first stage; each later stage has twice as many.
        stages: Each halves height and width.
        dropout: Share of pooled features dropped while training.
        channels: Channels of each stage, instead of `width` and `stages`.

    Raises:
        ConfigError: There is no stage, or one without channels.
    """
    facts = {"num_classes": num_classes, "in_channels": in_channels}
    check_sizes("cnn", **facts, width=width, stages=stages, channels=channels)
    check_shares("cnn", dropout=dropout)
    layers: dict[str, nn.Module] = {}
    before = in_channels
    for stage, after in enumerate(channels or [width * 2**stage for stage in range(stages)]):
        layers[f"stage{stage + 1}"] = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        before = after
    layers |= _pool_and_head(before, num_classes, dropout)
    return nn.Sequential(OrderedDict(layers))


def _pool_and_head(channels: int, num_classes: int, dropout: float) -> dict[str, nn.Module]:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    dropped = {"dropout": nn.Dropout(dropout)} if dropout else {}
    return {"pool": pool, **dropped, "head": nn.Linear(channels, num_classes)}


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels2 height2 width2"]:
        hidden = F.relu(self.bn1(self.conv1(images)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(images))


def resnet(
    num_classes: int,
    in_channels: int = 1,
    width: int = 16,
    blocks: int = 1,
    stem: int | None = None,
) -> nn.Module:
    """A small ResNet for small images, in the CIFAR layout: three stages, global pooling.

    Args:
        num_classes: Width of the output.
        in_channels: Channels of the images.
        width: Channels of the first stage; the later ones have 2 and 4 times as many.
        blocks: Blocks a stage; depth is 6 blocks + 2.
        stem: Channels before the first stage; None takes `width`.

    Raises:
        ConfigError: A stage without blocks or channels.

    Source:
        He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385,
        section 4.2, with projection shortcuts.
    """
    facts = {"num_classes": num_classes, "in_channels": in_channels}
    check_sizes("resnet", **facts, width=width, blocks=blocks, stem=stem)
    channels = stem or width
    layers: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
    }
    for stage in range(3):
        row = []
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            row.append(_Block(channels, width * 2**stage, stride))
            channels = width * 2**stage
        layers[f"stage{stage + 1}"] = nn.Sequential(*row)
    layers |= _pool_and_head(channels, num_classes, dropout=0.0)
    return nn.Sequential(OrderedDict(layers))


class _Patches(nn.Module):
    """One token per patch, with its position."""

    def __init__(self, in_channels: int, width: int, patch: int, count: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, width, kernel_size=patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, count, width))

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        tokens: Tensor = self.embed(images).flatten(2).transpose(1, 2)
        return tokens + self.places


class _MeanOfTokens(nn.Module):
    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch dim"]:
        return tokens.mean(dim=1)


def vit(
    num_classes: int,
    image_size: int = 28,
    in_channels: int = 1,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    patch: int | None = None,
) -> nn.Module:
    """A small vision transformer: patches, blocks of attention, mean over tokens, linear layer.

    Args:
        num_classes: Width of the output.
        image_size: Height and width of the images, a multiple of `patch`.
        in_channels: Channels of the images.
        width: Width of each token; the blocks' inner width is twice as much.
        depth: Number of blocks.
        heads: Number of heads of attention; they share the width evenly.
        patch: Height and width of a patch; None takes a quarter of the image's.

    Raises:
        ConfigError: A size below 1; the patches do not cover the image, or the heads do not share
            the width.

    Source:
        Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929, with the mean
        of the tokens in place of a class token.
    """
    facts = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
    check_sizes("vit", **facts, width=width, depth=depth, heads=heads, patch=patch)
    patch = patch or max(1, image_size // 4)
    for name, whole, part in (("patch", image_size, patch), ("heads", width, heads)):
        if whole % part:
            raise ConfigError(f"vit: {name} must divide {whole}, got {part}.")
    layers: dict[str, nn.Module] = {
        "patches": _Patches(in_channels, width, patch, (image_size // patch) ** 2)
    }
    for number in range(1, depth + 1):
        layers[f"block{number}"] = nn.TransformerEncoderLayer(
            width,
            heads,
            2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
    layers["norm"] = nn.LayerNorm(width)
    layers["pool"] = _MeanOfTokens()
    layers["head"] = nn.Linear(width, num_classes)
    return nn.Sequential(OrderedDict(layers))
