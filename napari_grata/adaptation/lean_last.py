"""The last stage of a ResUNet, where most of its memory lies, without joining its halves.

A transposed convolution of 2×2 with stride 2 is one matrix product a pixel: four output pixels
side by side in a row of 4·C numbers. What follows it (normalisation, ReLU, the 1×1 head) looks at
pixels one by one, so that only the logits are put into the order of the image. The
normalisation in front of it is folded into the matrix, and each half of its input is multiplied
with its own part of the matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .lean_norm import Norm
from .lean_parts import Gradients, Joint, Weights, relu_, stop_where_zero


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

    def forward(self, deep: Tensor, skip: Tensor, tape: list | None) -> Tensor:
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

    def backward(self, gradient: Tensor, tape: list, found: Gradients) -> tuple[Tensor, Tensor]:
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
