"""A network of others, written anew from its state dict: the W-Net of lwnet (MIT).

A worked example of bring-your-own-model.md: a function that a card names as ``wnet:wnet``. The
names of the modules are those of the state dict, so that the published weights fit. Two U-Nets in
a row; the second sees the picture and what the first made of it (Galdran et al., Scientific
Reports 2022, "State-of-the-art retinal vessel segmentation with minimalistic models").
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(outputs)]


class ConvBlock(nn.Module):
    """Two convolutions and a shortcut around them, on half the size where ``pool``."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.block = nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs))
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, outputs, h, w), of half the sides after pooling."""
        x = self.pool(x)
        out: Tensor = self.block(x) + self.shortcut(x)
        return out


class _Bridge(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*_convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class _Up(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 2, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class UpBlock(nn.Module):
    """Twice the size, beside what the way down had there."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up_layer = _Up(inputs, outputs)
        self.conv_layer = ConvBlock(2 * outputs, outputs, pool=False)
        self.conv_bridge_layer = _Bridge(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return maps (B, outputs, 2h, 2w)."""
        out: Tensor = self.conv_layer(
            torch.cat([self.up_layer(x), self.conv_bridge_layer(skip)], 1)
        )
        return out


class UNet(nn.Module):
    """A small U-Net, one block a level."""

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.first = ConvBlock(channels, widths[0], pool=False)
        pairs = list(pairwise(widths))
        self.down_path = nn.ModuleList(ConvBlock(a, b, pool=True) for a, b in pairs)
        self.up_path = nn.ModuleList(UpBlock(b, a) for a, b in reversed(pairs))
        self.final = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, outputs, h, w)."""
        maps = [self.first(x)]
        for block in self.down_path:
            maps.append(block(maps[-1]))
        x = maps.pop()
        for block in self.up_path:
            x = block(x, maps.pop())
        out: Tensor = self.final(x)
        return out


class WNet(nn.Module):
    """Two U-Nets in a row; a probability above ``threshold`` is to be a vessel."""

    def __init__(
        self, channels: int, outputs: int, widths: tuple[int, ...], threshold: float
    ) -> None:
        super().__init__()
        self.unet1 = UNet(channels, outputs, widths)
        self.unet2 = UNet(channels + outputs, outputs, widths)
        # napari-grata draws what is above 0.5; the logits move by as much as that needs.
        self.shift = -math.log(threshold / (1 - threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, outputs, h, w) of pictures (B, channels, h, w) in [0, 1]."""
        out: Tensor = self.unet2(torch.cat([x, self.unet1(x)], 1)) + self.shift
        return out


def wnet(
    outputs: int, channels: int, widths: tuple[int, ...] = (8, 16, 32), threshold: float = 0.5
) -> nn.Module:
    """Build the network that a card describes.

    Parameters
    ----------
    outputs, channels : int
        Given by napari-grata, from the card's structures and channels.
    widths, threshold
        From the card's ``arguments``.
    """
    return WNet(channels, outputs, tuple(widths), threshold)
