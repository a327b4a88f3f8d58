"""A ResUNet on the CPU with less memory touched: the same arithmetic, arranged by hand.

Touching fresh memory costs a CPU about as much as the convolutions themselves. Without gradient
everything after a convolution happens in place; with gradient only what the backward pass of scale
and shift needs is kept, and gradients are changed in place. The results equal those of the
network as written, within rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from napari_grata.segmenters.resunet import ResUNet

from .lean_last import Last
from .lean_parts import Block, Gradients, Health, Joint, Unit
from .normalisation import BlendedNorm


class Lean:
    """Runs a ResUNet that `adaptable_copy` made.

    Parameters
    ----------
    network : ResUNet
        On the CPU; its normalisation layers are `BlendedNorm` with scale and shift.
    dtype : torch.dtype, optional
        Type of weights and activations, such as ``torch.bfloat16``; by default the network's own.
        Scale, shift, statistics and their gradients stay in the network's type, as do the logits.
    """

    def __init__(self, network: ResUNet, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self.result = next(network.parameters()).dtype
        self._cast: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}
        res: Any = network.res
        self._health = Health()
        self.stem = Unit(res.conv1, res.bn1, self._weights, self._health)
        self.stages = [
            [Block(block, self._weights, self._health) for block in layer]
            for layer in (res.layer1, res.layer2, res.layer3, res.layer4)
        ]
        self.joints = [Joint(block, self._weights) for block in (network.up1, network.up2)]
        self.joints.append(Joint(network.up3, self._weights))
        self.last = Last(network, self._weights)
        own = (res, network.up1, network.up2, network.up3, network.up4, network.bnout)
        self.norms = [
            layer for part in own for layer in part.modules() if isinstance(layer, BlendedNorm)
        ]
        self.parameters = [p for norm in self.norms for p in (norm.weight, norm.bias)]

    def takes(self, x: Tensor) -> bool:
        """Whether this way suits: one group to normalise, no gradient for the images."""
        return not x.requires_grad and all(norm.groups == 1 for norm in self.norms)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of images (B, C, H, W)."""
        if torch.is_grad_enabled():
            return _Pass.apply(self, x, *self.parameters)
        return self.forward(x, None)

    def forward(self, x: Tensor, tape: list | None) -> Tensor:
        """Return the logits; what the backward pass needs is put onto ``tape``."""
        self._health.sums.clear()  # of a pass that ran out of memory halfway
        if self.dtype is torch.bfloat16:
            self._health.watch(x)
        x = x.to(self.dtype or x.dtype).contiguous(memory_format=torch.channels_last)
        skips = [self.stem.forward(x, tape)]
        if tape is None:
            y = fn.max_pool2d(skips[0], 3, 2, 1)
        else:
            y, where = fn.max_pool2d(skips[0], 3, 2, 1, return_indices=True)
            tape.append((skips[0], where))
        for stage in self.stages:
            for block in stage:
                y = block.forward(y, tape)
            skips.append(y)
            if y.dtype is torch.bfloat16:
                self._health.watch(y)
        skips.pop()
        for joint in self.joints:
            y = joint.forward(y, skips.pop(), tape)
        logits = self.last.forward(y, skips.pop(), tape).to(self.result)
        return logits.fill_(torch.nan) if self._health.is_lost() else logits

    def backward(self, gradient: Tensor, tape: list) -> Gradients:
        """Return the gradients of scales and shifts; the tape is used up."""
        found: Gradients = {}
        gradient = gradient.to(self.dtype or gradient.dtype)
        skips: list[Tensor] = []
        y, skip = self.last.backward(gradient, tape, found)
        skips.append(skip)
        for joint in reversed(self.joints):
            y, skip = joint.backward(y, tape, found)
            skips.append(skip)
        for stage in reversed(self.stages):
            for block in reversed(stage):
                y = block.backward(y, tape, found)
            y = y.add_(skips.pop()) if stage is not self.stages[0] else y
        pooled, where = tape.pop()
        y = torch.ops.aten.max_pool2d_with_indices_backward(
            y, pooled, [3, 3], [2, 2], [1, 1], [1, 1], False, where
        )
        self.stem.backward(y.add_(skips.pop()), tape, found, for_input=False)
        return found

    def _weights(self, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a convolution; they never change, so they are converted once."""
        found = self._cast.get(layer)
        if found is None:
            one: Any = layer
            weight, bias = one.weight.detach(), one.bias
            bias = None if bias is None else bias.detach()
            if self.dtype is not None:
                weight = weight.to(self.dtype)
                bias = None if bias is None else bias.to(self.dtype)
            found = self._cast[layer] = (weight, bias)
        return found


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lean: Lean, x: Tensor, *parameters: Tensor) -> Tensor:
        tape: list[Any] = []
        logits = lean.forward(x, tape)
        ctx.lean, ctx.tape = lean, tape
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if not ctx.tape:
            raise RuntimeError("The gradient of this prediction was taken already.")
        found = ctx.lean.backward(gradients[0], ctx.tape)
        return (None, None, *(found[id(one)] for one in ctx.lean.parameters))


def make_lean(network: nn.Module, dtype: torch.dtype | None = None) -> Lean | None:
    """Let ``network`` predict the lean way where it can; return what runs it, or None.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it; a ResUNet on the CPU is changed to run the lean way, anything
        else is left as it is.
    dtype : torch.dtype, optional
        See `Lean`.
    """
    if not isinstance(network, ResUNet) or type(network).forward is not ResUNet.forward:
        return None
    tensors = [*network.parameters()]
    norms = [layer for layer in network.modules() if isinstance(layer, BlendedNorm)]
    plain = len(norms) > 0 and all(norm.weight is not None for norm in norms)
    if not plain or any(one.device.type != "cpu" for one in tensors):
        return None
    lean = Lean(network, dtype)
    network.runner = lean
    return lean
