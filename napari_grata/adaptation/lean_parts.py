"""The parts of a ResUNet, each with its own forward and backward pass and nothing kept in vain.

Convolution weights are frozen, so a convolution keeps nothing for its backward pass. A
normalisation keeps its input; what a ReLU let through is worked out again from that, but for the
outputs of residual blocks. All tensors are channels-last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from .lean_norm import Norm

Gradients = dict[int, Tensor]
"""Gradients by ``id`` of the parameter."""
Weights = Callable[[nn.Module], tuple[Tensor, Tensor | None]]
"""Weight and bias of a layer, in the type that is computed in."""


def relu_(x: Tensor) -> Tensor:
    """Set what is below zero to zero, in place.

    In bfloat16 by way of integers, whose sign lies where that of the number does: twenty times
    faster. A NaN with a sign becomes zero then, which `Health` watches for.
    """
    if x.dtype is torch.bfloat16:
        x.view(torch.int16).clamp_(min=0)
        return x
    return x.relu_()


def stop_where_zero(gradient: Tensor, output: Tensor) -> Tensor:
    """Set ``gradient`` to zero where a ReLU let nothing through, in place; uses up ``output``."""
    if gradient.dtype is torch.bfloat16 and gradient.stride() == output.stride():
        # 0 stays 0; what is above becomes negative, and its sign, drawn out, a mask of ones.
        mask = output.view(torch.int16).neg_().bitwise_right_shift_(15)
        gradient.view(torch.int16).bitwise_and_(mask)
        return gradient
    torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)
    return gradient


class Health:
    """Collects sums that tell whether all numbers of a forward pass were finite."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def watch(self, x: Tensor | None) -> None:
        """Take a tensor's sum."""
        if x is not None:
            self.sums.append(x.sum(dtype=torch.float32))

    def is_lost(self) -> bool:
        """Whether something was infinite or no number; starts anew."""
        sums, self.sums = self.sums, []
        return bool(sums) and not bool(torch.isfinite(torch.stack(sums)).all())


class Unit:
    """relu(norm(conv(x)) + shortcut), with or without shortcut and ReLU."""

    def __init__(
        self, conv: nn.Conv2d, norm: Any, weights: Weights, health: Health, relu: bool = True
    ) -> None:
        self.health = health
        self.conv = conv
        self.layer = norm
        self.norm = Norm(norm)
        self.weights = weights
        self.relu = relu

    def forward(self, x: Tensor, tape: list | None, add: Tensor | None = None) -> Tensor:
        conv = self.conv
        weight, bias = self.weights(conv)
        y = fn.conv2d(x, weight, bias, conv.stride, conv.padding)
        moments = self.norm.moments(y)
        if y.dtype is torch.bfloat16:
            self.health.watch(moments.mean_now)
        z = self.norm.apply(y, moments, in_place=tape is None)
        if add is not None:
            z.add_(add)
        if self.relu:
            relu_(z)
        if tape is not None:
            output = z if self.relu and add is not None else None
            tape.append((y, moments, output, x.shape))
        return z

    def backward(
        self, gradient: Tensor, tape: list, found: Gradients, for_input: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """Return the gradients of the input, and of what was added (also written to)."""
        y, moments, output, shape = tape.pop()
        if self.relu:
            if output is None:
                output = relu_(self.norm.apply(y, moments, in_place=False))
            stop_where_zero(gradient, output)
        grad_y, *own = self.norm.backward(gradient, y, moments)
        found[id(self.layer.weight)], found[id(self.layer.bias)] = own
        if not for_input:
            return None, gradient
        conv = self.conv
        weight, _ = self.weights(conv)
        # The kernel looks at the shape of the input alone.
        like = weight.new_empty(1).expand(shape)
        grad_x = torch.ops.aten.convolution_backward(
            grad_y,
            like,
            weight,
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [True, False, False],
        )[0]
        return grad_x, gradient


class Block:
    """A residual block: units one after the other beside a shortcut."""

    def __init__(self, block: Any, weights: Weights, health: Health) -> None:
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        if hasattr(block, "conv3"):
            pairs.append((block.conv3, block.bn3))
        self.units = [Unit(conv, norm, weights, health) for conv, norm in pairs]
        self.shortcut: Unit | None = None
        if block.downsample is not None:
            conv, norm = block.downsample
            self.shortcut = Unit(conv, norm, weights, health, relu=False)

    def forward(self, x: Tensor, tape: list | None) -> Tensor:
        add = x if self.shortcut is None else self.shortcut.forward(x, tape)
        y = x
        for unit in self.units[:-1]:
            y = unit.forward(y, tape)
        return self.units[-1].forward(y, tape, add)

    def backward(self, gradient: Tensor, tape: list, found: Gradients) -> Tensor:
        inner, beside = self.units[-1].backward(gradient, tape, found)
        assert inner is not None
        for unit in reversed(self.units[:-1]):
            inner = unit.backward(inner, tape, found)[0]
            assert inner is not None
        if self.shortcut is not None:
            around = self.shortcut.backward(beside, tape, found)[0]
            assert around is not None
            beside = around
        return inner.add_(beside)


class Joint:
    """norm(relu([transposed convolution of the deep map, 1×1 convolution of the skip]))."""

    def __init__(self, block: Any, weights: Weights) -> None:
        self.block = block
        self.norm = Norm(block.bn)
        self.weights = weights

    def halves(self, deep: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps before they are joined."""
        weight, bias = self.weights(self.block.tr_conv)
        up = fn.conv_transpose2d(deep, weight, bias, 2)
        weight, bias = self.weights(self.block.x_conv)
        return up, fn.conv2d(skip, weight, bias)

    def back_from_halves(self, up: Tensor, beside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of deep map and skip."""
        weight, _ = self.weights(self.block.tr_conv)
        deep = fn.conv2d(up, weight, None, 2)
        weight, _ = self.weights(self.block.x_conv)
        return deep, fn.conv2d(beside, weight.transpose(0, 1))

    def forward(self, deep: Tensor, skip: Tensor, tape: list | None) -> Tensor:
        both = relu_(torch.cat(self.halves(deep, skip), dim=1))
        moments = self.norm.moments(both)
        if tape is not None:
            tape.append((both, moments))
        return self.norm.apply(both, moments, in_place=tape is None)

    def backward(self, gradient: Tensor, tape: list, found: Gradients) -> tuple[Tensor, Tensor]:
        both, moments = tape.pop()
        grad, *own = self.norm.backward(gradient, both, moments)
        found[id(self.block.bn.weight)], found[id(self.block.bn.bias)] = own
        assert grad is not None
        up, beside = stop_where_zero(grad, both).chunk(2, dim=1)
        layout = torch.channels_last
        return self.back_from_halves(
            up.contiguous(memory_format=layout), beside.contiguous(memory_format=layout)
        )
