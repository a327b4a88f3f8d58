"""Normalisation as plain arithmetic: statistics, the affine map in place, and its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .normalisation import BlendedNorm, batch_statistics, laid_out_as

_WHOLE = slice(None)


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
