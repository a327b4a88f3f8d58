"""ResUNet: a U-Net with a ResNet encoder, key for key the network of the published checkpoints.

The published GraTa and VPTTA weights (Chen et al., AAAI 2025 and CVPR 2024) were trained on
this topology: a ResNet whose five feature maps feed four decoder blocks made of a transposed
convolution, a 1×1 convolution on the skip and one normalisation. State-dict keys and shapes are
those of the checkpoints, so that these load without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

HEADS = ("reconstruction", "denoising", "rotation", "super-resolution")
_PREFIX = {"reconstruction": "recon", "denoising": "denoise", "super-resolution": "supres"}
_N_ROTATIONS = 6
_STRIDE = 32


@dataclass(frozen=True)
class _Plan:
    """Widths and depths of one encoder and of the decoder that goes with it."""

    stem: int
    planes: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    bottleneck: bool
    decoder: int
    last: int
    classifier: bool = True


_PLANS = {
    "resnet18": _Plan(64, (64, 128, 256, 512), (2, 2, 2, 2), False, 256, 32),
    "resnet34": _Plan(64, (64, 128, 256, 512), (3, 4, 6, 3), False, 256, 32),
    "resnet50": _Plan(64, (64, 128, 256, 512), (3, 4, 6, 3), True, 256, 32),
    "compact": _Plan(16, (24, 48, 96, 160), (2, 2, 2, 2), False, 64, 16, classifier=False),
}
ENCODERS = tuple(_PLANS)


class _BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, n_in: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = fn.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y = y + (x if self.downsample is None else self.downsample(x))
        return fn.relu(y, inplace=True)


class _Bottleneck(nn.Module):
    """1×1, 3×3 (which carries the stride) and 1×1 convolutions beside a shortcut."""

    def __init__(self, n_in: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = fn.relu(self.bn1(self.conv1(x)), inplace=True)
        y = fn.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y = y + (x if self.downsample is None else self.downsample(x))
        return fn.relu(y, inplace=True)


class _Encoder(nn.Module):
    """ResNet down to stride 32; hands back the feature maps at strides 2, 4, 8, 16 and 32."""

    def __init__(self, plan: _Plan, channels: int) -> None:
        super().__init__()
        expansion = 4 if plan.bottleneck else 1
        self.conv1 = nn.Conv2d(channels, plan.stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.widths = (plan.stem, *(expansion * planes for planes in plan.planes))
        n_in = plan.stem
        layers: list[nn.Sequential] = []
        for index, (planes, depth) in enumerate(zip(plan.planes, plan.blocks, strict=True)):
            n_out = expansion * planes
            stages: list[nn.Module] = []
            for place in range(depth):
                stride = 2 if index > 0 and place == 0 else 1
                shortcut = None
                if stride != 1 or n_in != n_out:
                    shortcut = nn.Sequential(
                        nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
                    )
                block = _Bottleneck if plan.bottleneck else _BasicBlock
                stages.append(block(n_in, planes, stride, shortcut))
                n_in = n_out
            layers.append(nn.Sequential(*stages))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        if plan.classifier:
            # Never called: the checkpoints carry ImageNet's classifier, and loading is strict.
            self.fc = nn.Linear(n_in, 1000)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [fn.relu(self.bn1(self.conv1(x)), inplace=True)]
        y = fn.max_pool2d(features[0], 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            y = layer(y)
            features.append(y)
        return features


class _DecoderBlock(nn.Module):
    """bn(relu([transposed convolution of the deep map, 1×1 convolution of the skip]))."""

    def __init__(self, deep: int, skip: int, n_out: int) -> None:
        super().__init__()
        self.x_conv = nn.Conv2d(skip, n_out // 2, 1)
        self.tr_conv = nn.ConvTranspose2d(deep, n_out // 2, 2, 2)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        both = torch.cat([self.tr_conv(deep), self.x_conv(skip)], dim=1)
        y: Tensor = self.bn(fn.relu(both, inplace=True))
        return y


class _HeadBlock(nn.Module):
    """bn(relu(conv 1×1)) of the map at twice its size (bilinear, corners aligned)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 1)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        # A 1×1 convolution commutes with interpolation; before it, it costs a quarter.
        y: Tensor = self.bn(fn.relu(_twice(self.conv(x)), inplace=True))
        return y


def _twice(x: Tensor) -> Tensor:
    return fn.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ResUNet(nn.Module):
    """U-Net with a ResNet encoder; logits at the size of the image.

    Parameters
    ----------
    encoder : {"resnet18", "resnet34", "resnet50", "compact"}
        ``compact`` has the same topology with narrow layers (about 1.3 million parameters), for
        pleasant use on a CPU.
    outputs : int
        Number of logit channels: structures (sigmoid) or structures and background (softmax).
    channels : int
        Channels of the image: 3 for photographs, 1 for MRI.
    heads : sequence of {"reconstruction", "super-resolution", "denoising", "rotation"}
        Auxiliary heads on the deepest map, which some objectives need. None by default.

    Raises
    ------
    ValueError
        If the encoder or a head is unknown, or a number is below 1.
    """

    runner: Any = None
    """Another way to compute the same logits (``takes(x)`` says when), set by whom it suits."""

    def __init__(
        self,
        encoder: str = "resnet34",
        outputs: int = 2,
        channels: int = 3,
        heads: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if encoder not in _PLANS:
            raise ValueError(
                f"ResUNet: no encoder called {encoder!r}; use one of {', '.join(_PLANS)}."
            )
        unknown = sorted(set(heads) - set(HEADS))
        if isinstance(heads, str) or unknown:
            raise ValueError(f"ResUNet: heads={heads!r}; give a tuple out of {', '.join(HEADS)}.")
        if outputs < 1 or channels < 1:
            raise ValueError(
                f"ResUNet: outputs={outputs}, channels={channels}; both are at least 1."
            )
        plan = _PLANS[encoder]
        self.encoder = encoder
        self.outputs = outputs
        self.channels = channels
        self.heads = tuple(head for head in HEADS if head in heads)

        self.res = _Encoder(plan, channels)
        widths, width = self.res.widths, plan.decoder
        self.up1 = _DecoderBlock(widths[4], widths[3], width)
        self.up2 = _DecoderBlock(width, widths[2], width)
        self.up3 = _DecoderBlock(width, widths[1], width)
        self.up4 = _DecoderBlock(width, widths[0], width)
        self.up5 = nn.ConvTranspose2d(width, plan.last, 2, 2)
        self.bnout = nn.BatchNorm2d(plan.last)
        self.seg_head = nn.Conv2d(plan.last, outputs, 1)
        for head in self.heads:
            self._add_head(head, widths[4], width)
        self._draw_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Parameters
        ----------
        x : Tensor, shape (B, channels, H, W)
            Images in [0, 1]; H and W are multiples of 32.

        Returns
        -------
        Tensor, shape (B, outputs, H, W)

        Raises
        ------
        ValueError
            If the shape does not fit the network.
        """
        self._check(x)
        y: Tensor
        if self.runner is not None and self.runner.takes(x):
            y = self.runner(x)
            return y
        stem, first, second, third, deep = self.res(x)
        y = self.up1(deep, third)
        y = self.up2(y, second)
        y = self.up3(y, first)
        y = self.up4(y, stem)
        y = self.seg_head(fn.relu(self.bnout(self.up5(y)), inplace=True))
        return y

    def forward_head(self, x: Tensor, head: str) -> Tensor:
        """Return the output of one auxiliary head.

        Parameters
        ----------
        x : Tensor, shape (B, channels, H, W)
            As in `forward`.
        head : {"reconstruction", "super-resolution", "denoising", "rotation"}

        Returns
        -------
        Tensor
            (B, channels, H, W) for reconstruction and denoising, (B, channels, 2H, 2W) for
            super-resolution, (B, 6) for rotation.

        Raises
        ------
        ValueError
            If the network has no such head, or the shape does not fit.
        """
        if head not in self.heads:
            there = ", ".join(self.heads) or "none"
            raise ValueError(
                f"This network has no {head!r} head (heads: {there}). Choose another objective, "
                f"or a model trained with ResUNet(heads=({head!r},))."
            )
        self._check(x)
        y: Tensor = self.res(x)[4]
        if head == "rotation":
            y = self.rotate_head(y.mean(dim=(2, 3)))
            return y
        prefix = _PREFIX[head]
        for index in range(1, 5):
            y = getattr(self, f"{prefix}{index}")(y)
        y = getattr(self, f"{prefix}_head")(_twice(y))
        return y

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"ResUNet takes images of shape (B, {self.channels}, H, W), got {tuple(x.shape)}."
            )
        height, width = x.shape[2:]
        if height % _STRIDE or width % _STRIDE or not height or not width:
            raise ValueError(
                f"ResUNet takes images whose height and width are multiples of {_STRIDE}, got "
                f"{height}×{width}. Pad or resize the image first (Segmenter.prepare does)."
            )

    def _add_head(self, head: str, deep: int, width: int) -> None:
        if head == "rotation":
            self.rotate_head = nn.Sequential(
                nn.Linear(deep, width),
                nn.LeakyReLU(0.2),
                nn.Linear(width, width // 4),
                nn.LeakyReLU(0.2),
                nn.Linear(width // 4, _N_ROTATIONS),
            )
            return
        prefix = _PREFIX[head]
        widths = (deep, width, width // 2, width // 4, width // 8)
        for index in range(1, 5):
            self.add_module(f"{prefix}{index}", _HeadBlock(widths[index - 1], widths[index]))
        last = widths[4]
        if head == "super-resolution":
            self.supres_head = nn.Sequential(
                nn.Conv2d(last, last, 5, 1, 2),
                nn.Tanh(),
                nn.Conv2d(last, last, 3, 1, 1),
                nn.Tanh(),
                nn.Conv2d(last, 4 * self.channels, 3, 1, 1),
                nn.PixelShuffle(2),
            )
        else:
            self.add_module(f"{prefix}_head", nn.Conv2d(last, self.channels, 1))

    def _draw_weights(self) -> None:
        for module in self.res.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
