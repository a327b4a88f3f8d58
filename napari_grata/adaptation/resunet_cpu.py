"""A ResUNet on the CPU with less memory touched: the same arithmetic, arranged by hand.

Touching fresh memory costs a CPU about as much as the convolutions themselves. Without gradient
everything after a convolution happens in place; with gradient only what the backward pass of scale
and shift needs is kept, and gradients are changed in place. Convolution weights are frozen, so a
convolution keeps nothing; a normalisation keeps its input, and what a ReLU let through is worked
out again from that, but for the outputs of residual blocks. The results equal those of the network
as written, within rounding; a whole published step takes 0.57 of its time (docs/performance.md).

All tensors are channels-last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from napari_grata.segmenters.resunet import ResUNet

from .normalisation import BlendedNorm, batch_statistics, laid_out_as

Gradients = dict[int, Tensor]
"""Gradients by ``id`` of the parameter."""
Weights = Callable[[nn.Module], tuple[Tensor, Tensor | None]]
"""Weight and bias of a layer, in the type that is computed in."""
Tape = list[Any]
"""What a forward pass leaves for the backward pass, taken from its end."""
_WHOLE = slice(None)


class CpuPass:
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
            logits: Tensor = _Pass.apply(self, x, *self.parameters)
            return logits
        return self.forward(x, None)

    def forward(self, x: Tensor, tape: Tape | None) -> Tensor:
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

    def backward(self, gradient: Tensor, tape: Tape) -> Gradients:
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
    def forward(ctx: Any, by_hand: CpuPass, x: Tensor, *parameters: Tensor) -> Tensor:
        tape: Tape = []
        logits = by_hand.forward(x, tape)
        ctx.by_hand, ctx.tape = by_hand, tape
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if not ctx.tape:
            raise RuntimeError("The gradient of this prediction was taken already.")
        found = ctx.by_hand.backward(gradients[0], ctx.tape)
        return (None, None, *(found[id(one)] for one in ctx.by_hand.parameters))


def use_cpu_pass(network: nn.Module, dtype: torch.dtype | None = None) -> CpuPass | None:
    """Let ``network`` run arranged by hand where it can; return what runs it, or None.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it; a ResUNet on the CPU is changed to run so, anything else stays
        as it is.
    dtype : torch.dtype, optional
        See `CpuPass`.
    """
    if not isinstance(network, ResUNet) or type(network).forward is not ResUNet.forward:
        return None
    tensors = [*network.parameters()]
    norms = [layer for layer in network.modules() if isinstance(layer, BlendedNorm)]
    plain = len(norms) > 0 and all(norm.weight is not None for norm in norms)
    if not plain or any(one.device.type != "cpu" for one in tensors):
        return None
    network.runner = by_hand = CpuPass(network, dtype)
    return by_hand


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

    def forward(self, x: Tensor, tape: Tape | None, add: Tensor | None = None) -> Tensor:
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
        self, gradient: Tensor, tape: Tape, found: Gradients, for_input: bool = True
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

    def forward(self, x: Tensor, tape: Tape | None) -> Tensor:
        add = x if self.shortcut is None else self.shortcut.forward(x, tape)
        y = x
        for unit in self.units[:-1]:
            y = unit.forward(y, tape)
        return self.units[-1].forward(y, tape, add)

    def backward(self, gradient: Tensor, tape: Tape, found: Gradients) -> Tensor:
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

    def forward(self, deep: Tensor, skip: Tensor, tape: Tape | None) -> Tensor:
        both = relu_(torch.cat(self.halves(deep, skip), dim=1))
        moments = self.norm.moments(both)
        if tape is not None:
            tape.append((both, moments))
        return self.norm.apply(both, moments, in_place=tape is None)

    def backward(self, gradient: Tensor, tape: Tape, found: Gradients) -> tuple[Tensor, Tensor]:
        both, moments = tape.pop()
        grad, *own = self.norm.backward(gradient, both, moments)
        found[id(self.block.bn.weight)], found[id(self.block.bn.bias)] = own
        assert grad is not None
        up, beside = stop_where_zero(grad, both).chunk(2, dim=1)
        layout = torch.channels_last
        return self.back_from_halves(
            up.contiguous(memory_format=layout), beside.contiguous(memory_format=layout)
        )


class Moments(NamedTuple):
    """What a tensor is normalised with.

    Attributes
    ----------
    mean, var : Tensor, shape (C,)
        Of the source, of the tensor, or between the two.
    mean_now : Tensor, shape (C,), or None
        The tensor's own mean; None where only the source counts.
    blend : float
        α: how much of the tensor's own statistics is in them.
    """

    mean: Tensor
    var: Tensor
    mean_now: Tensor | None
    blend: float


class Norm:
    """A `BlendedNorm`, or some of its channels, without autograd.

    Parameters
    ----------
    layer : BlendedNorm
        With scale and shift; read at each call, so that θ may move.
    part : slice, optional
        Of the channels; all by default.
    """

    def __init__(self, layer: BlendedNorm, part: slice = _WHOLE) -> None:
        self.layer = layer
        self.part = part

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the layer's own scale and shift, without autograd."""
        weight, bias = self.layer.weight, self.layer.bias
        assert weight is not None
        assert bias is not None
        return weight.detach()[self.part], bias.detach()[self.part]

    def moments(self, x: Tensor) -> Moments:
        """Return what `BlendedNorm` would normalise ``x``, shape (B, C, H, W), with."""
        layer = self.layer
        blend = 1.0 if layer.running_mean is None else layer.blend
        if x.numel() // x.shape[1] <= 1:
            blend = 0.0
        scale = self.scale_and_shift()[0]
        if blend == 0.0:
            if layer.running_mean is None or layer.running_var is None:
                return Moments(torch.zeros_like(scale), torch.ones_like(scale), None, 0.0)
            return Moments(layer.running_mean[self.part], layer.running_var[self.part], None, 0.0)
        mean_now, var = batch_statistics(x)
        mean_now, var = mean_now.to(scale.dtype), var.to(scale.dtype)
        if blend == 1.0:
            return Moments(mean_now, var, mean_now, 1.0)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean = torch.lerp(layer.running_mean[self.part], mean_now, blend)
        var = torch.lerp(layer.running_var[self.part], var, blend)
        return Moments(mean, var, mean_now, blend)

    def apply(self, x: Tensor, moments: Moments, *, in_place: bool) -> Tensor:
        """Normalise ``x``; in place spares the memory that a new tensor would touch."""
        weight, bias = self.scale_and_shift()
        out = x if in_place else torch.empty_like(x)
        nothing = weight.new_empty(0)
        torch.ops.aten.native_batch_norm.out(
            x,
            weight,
            bias,
            moments.mean,
            moments.var,
            False,
            0.0,
            self.layer.eps,
            out=out,
            save_mean=nothing,
            save_invstd=nothing,
        )
        return out

    def affine(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Return scale and shift of the whole map, y = scale·x + shift."""
        weight, bias = self.scale_and_shift()
        scale = weight * torch.rsqrt(moments.var + self.layer.eps)
        return scale, bias - moments.mean * scale

    def backward(
        self, gradient: Tensor, x: Tensor, moments: Moments, *, for_input: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of input, scale and shift; formulas as in `BlendedNorm`.

        Parameters
        ----------
        gradient, x : Tensor, shape (B, C, H, W)
        for_input : bool
            Whether the gradient of the input is wanted.
        """
        gradient = laid_out_as(gradient, x.shape, x.stride())
        weight = self.scale_and_shift()[0]
        eps, blend = self.layer.eps, moments.blend
        mean, var = moments.mean, moments.var
        whole = blend == 1.0
        kept = (mean, torch.rsqrt(var + eps)) if whole else (None, None)
        found = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, *kept, whole, eps, [for_input, True, True]
        )
        grad_x, grad_weight, grad_bias = found
        if for_input and 0.0 < blend < 1.0:
            assert moments.mean_now is not None
            scale = torch.rsqrt(var + eps)
            share = blend / (x.numel() // x.shape[1])
            slope = weight * scale.square() * grad_weight * share
            constant = weight * scale * grad_bias * share - slope * moments.mean_now
            wide = (1, -1, 1, 1)
            grad_x.addcmul_(x, slope.to(x.dtype).view(wide), value=-1.0)
            grad_x.sub_(constant.to(x.dtype).view(wide))
        return (grad_x if for_input else None), grad_weight, grad_bias


class Last:
    """up4, up5, bnout and the segmentation head."""

    def __init__(self, network: Any, weights: Weights) -> None:
        self.network = network
        self.joint = Joint(network.up4, weights)
        self.half = network.up4.x_conv.out_channels
        first, second = slice(None, self.half), slice(self.half, None)
        self.norms = Norm(network.up4.bn, first), Norm(network.up4.bn, second)
        self.norm = Norm(network.bnout)
        self.weights = weights

    def forward(self, deep: Tensor, skip: Tensor, tape: Tape | None) -> Tensor:
        halves = [relu_(half) for half in self.joint.halves(deep, skip)]
        before = [norm.moments(x) for norm, x in zip(self.norms, halves, strict=True)]
        rows = self._product(halves, before)
        batch, _, height, width = halves[0].shape
        y = self._image(rows, batch, height, width)
        moments = self.norm.moments(y)
        if tape is not None:
            tape.append((halves, before, y, moments))
        z = relu_(self.norm.apply(y, moments, in_place=tape is None))
        weight, bias = self.weights(self.network.seg_head)
        values = self._rows(z) @ weight.flatten(1).t()
        if bias is not None:
            values += bias
        values = values.view(batch, height, width, 2, 2, -1)
        return values.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, 2 * height, 2 * width)

    def backward(self, gradient: Tensor, tape: Tape, found: Gradients) -> tuple[Tensor, Tensor]:
        """Return the gradients of deep map and skip."""
        halves, before, y, moments = tape.pop()
        batch, _, height, width = halves[0].shape
        weight, _ = self.weights(self.network.seg_head)
        values = gradient.reshape(batch, -1, height, 2, width, 2).permute(0, 2, 4, 3, 5, 1)
        grad = values.reshape(-1, weight.shape[0]) @ weight.flatten(1)
        grad = self._image(grad, batch, height, width)
        stop_where_zero(grad, relu_(self.norm.apply(y, moments, in_place=False)))
        grad_y, *own = self.norm.backward(grad, y, moments)
        bnout, bn = self.network.bnout, self.network.up4.bn
        found[id(bnout.weight)], found[id(bnout.bias)] = own
        assert grad_y is not None
        del grad, y
        weight, _ = self.weights(self.network.up5)
        matrix = _matrix(weight)
        rows = self._rows(grad_y).view(-1, matrix.shape[1])
        back, scales, shifts = [], [], []
        for norm, x, m in zip(self.norms, halves, before, strict=True):
            grad = (rows @ matrix[norm.part].t()).view(batch, height, width, -1)
            grad_x, scale, shift = norm.backward(grad.permute(0, 3, 1, 2), x, m)
            assert grad_x is not None
            back.append(stop_where_zero(grad_x, x))
            scales.append(scale)
            shifts.append(shift)
        found[id(bn.weight)], found[id(bn.bias)] = torch.cat(scales), torch.cat(shifts)
        return self.joint.back_from_halves(*back)

    def _product(self, halves: list[Tensor], before: list[Any]) -> Tensor:
        """Return up5(norm([halves])) as rows of four pixels."""
        weight, bias = self.weights(self.network.up5)
        matrix = _matrix(weight).to(self.norms[0].scale_and_shift()[0].dtype)
        constant = matrix.new_zeros(matrix.shape[1]) if bias is None else bias.repeat(4)
        constant = constant.to(matrix.dtype)
        parts = []
        for norm, moments in zip(self.norms, before, strict=True):
            scale, shift = norm.affine(moments)
            part = matrix[norm.part]
            constant = constant + shift @ part
            parts.append((scale[:, None] * part).to(weight.dtype))
        first, second = (self._rows(half) for half in halves)
        rows = torch.addmm(constant.to(weight.dtype), first, parts[0])
        return rows.addmm_(second, parts[1])

    @staticmethod
    def _rows(x: Tensor) -> Tensor:
        """(B, C, H, W), channels-last, as (B·H·W, C), nothing moved."""
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])

    @staticmethod
    def _image(rows: Tensor, batch: int, height: int, width: int) -> Tensor:
        """Rows as an image of 4·width columns, channels-last, nothing moved."""
        return rows.view(batch, height, 4 * width, -1).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """(Cin, Cout, 2, 2) as (Cin, 2·2·Cout)."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
