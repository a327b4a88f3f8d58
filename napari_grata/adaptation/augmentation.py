"""Views of an image: flips and rotations with their exact inverses, and the strong view.

The strong view is a random change of intensities that a segmentation should survive. Its random
parameters are drawn by `draw_strong_view`, always on the CPU, so that one seed
gives the same view on every device; `apply_strong_view` is a pure function of image and
parameters. Order and ranges follow the published GraTa step (Chen et al., AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as fn

_FLIPS = {
    "left-right": (-1,),
    "up-down": (-2,),
    "through": (-3,),
    "through-left-right": (-3, -1),
    "through-up-down": (-3, -2),
    "through-rotation-180": (-3, -2, -1),
}
_TURNS = {"identity": 0, "rotation-90": 1, "rotation-180": 2, "rotation-270": 3}
_BLUR_RADIUS = 6  # four deviations of the widest kernel
_TINY = 1e-7


def view(x: Tensor, name: str) -> Tensor:
    """Return a view (see `card.VIEWS`, `card.THROUGH`) of ``x``, shape (…, H, W), (…, D, H, W).

    Rotations are anticlockwise; by 90° and 270° they swap height and width.
    """
    if name in _FLIPS:
        return torch.flip(x, _FLIPS[name])
    return torch.rot90(x, _TURNS[name], (-2, -1)) if _TURNS[name] else x


def unview(x: Tensor, name: str) -> Tensor:
    """Map a prediction on a view back onto the image; the exact inverse of `view`."""
    if name in _FLIPS:
        return torch.flip(x, _FLIPS[name])
    return torch.rot90(x, -_TURNS[name], (-2, -1)) if _TURNS[name] else x


@dataclass(frozen=True)
class StrongView:
    """Parameters of one strong view of a batch; all on the CPU, float32.

    Attributes
    ----------
    brightness, contrast, gamma : Tensor, shape (B, C)
        Factors and exponent per channel; 1 leaves the channel as it is.
    noise_deviation : Tensor, shape (B, C)
        Standard deviation of the additive noise; 0 adds none.
    noise : Tensor, shape (B, C, …)
        Standard normal numbers, of the images' shape.
    blur : Tensor, shape (B, C)
        Standard deviation of the Gaussian blur in pixels; 0 leaves the channel sharp.
    """

    brightness: Tensor
    contrast: Tensor
    gamma: Tensor
    noise_deviation: Tensor
    noise: Tensor
    blur: Tensor


def draw_strong_view(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> StrongView:
    """Draw the parameters of a strong view of images of ``shape`` (B, C, …).

    Every number is drawn whether it is used or not, so that the generator moves on by the same
    amount at each step.
    """
    batch, channels = shape[:2]

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, channels, generator=generator) * (high - low) + low

    def chance(probability: float, width: int = 1) -> Tensor:
        return torch.rand(batch, width, generator=generator) < probability

    one, zero = torch.ones(()), torch.zeros(())
    brightness = torch.where(chance(0.75), uniform(0.5, 1.5), one)
    lower = chance(0.5, channels)
    contrast = torch.where(lower, uniform(0.5, 1.0), uniform(1.0, 1.5))
    contrast = torch.where(chance(0.75), contrast, one)
    gamma = torch.where(chance(0.75), uniform(0.5, 2.0), one)
    deviation = torch.where(chance(0.5), uniform(0.0, 0.05), zero)
    noise = torch.randn(tuple(shape), generator=generator)
    blur = torch.where(chance(0.5) & chance(0.5, channels), uniform(0.5, 1.5), zero)
    return StrongView(brightness, contrast, gamma, deviation, noise, blur)


def apply_strong_view(images: Tensor, view: StrongView) -> Tensor:
    """Return the strong view of ``images``; they are not written to.

    Brightness, contrast about the channel's mean (clipped to the range it had), gamma on the
    inverted image, noise, blur; then each image is stretched to [0, 1]. An image left constant
    becomes zero.

    Parameters
    ----------
    images : Tensor, shape (B, C, H, W) or (B, C, D, H, W)
    view : StrongView
        Drawn for the same shape.

    Returns
    -------
    Tensor, of the images' shape
        On the images' device and of their type, in [0, 1].
    """

    inner = tuple(range(2, images.ndim))

    def spread(values: Tensor) -> Tensor:
        return values.to(images).reshape(*values.shape, *(1 for _ in inner))

    x = images
    if (view.brightness != 1).any():
        x = x * spread(view.brightness)
    if (view.contrast != 1).any():
        low, high = x.amin(inner, keepdim=True), x.amax(inner, keepdim=True)
        mean = x.mean(inner, keepdim=True)
        x = torch.lerp(mean.expand_as(x), x, spread(view.contrast)).clamp(low, high)
    if (view.gamma != 1).any():
        low, high = x.amin(inner, keepdim=True), x.amax(inner, keepdim=True)
        span = high - low
        inverted = (high - x) / span.clamp_min(_TINY)
        x = high - span * inverted.pow(spread(view.gamma))
    if (view.noise_deviation != 0).any():
        x = x + view.noise.to(images) * spread(view.noise_deviation)
    if (view.blur != 0).any():
        x = _blur(x, view.blur)
    low, high = x.amin((1, *inner), keepdim=True), x.amax((1, *inner), keepdim=True)
    return (x - low) / (high - low).clamp_min(_TINY)


def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw and apply a strong view of ``images``, shape (B, C, …)."""
    return apply_strong_view(images, draw_strong_view(images.shape, generator))


def _blur(x: Tensor, deviation: Tensor) -> Tensor:
    """Blur the channels whose ``deviation`` (B, C) is above 0; borders repeat their last pixel."""
    sides = x.shape[2:]
    chosen = (deviation.flatten() > 0).nonzero().squeeze(1)
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=torch.float32)
    kernels = torch.exp(-0.5 * (offsets / deviation.flatten()[chosen, None]) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(x)
    chosen = chosen.to(x.device)
    each = x.reshape(1, -1, *sides)
    some = fn.pad(each[:, chosen], (_BLUR_RADIUS,) * 2 * len(sides), mode="replicate")
    convolve = fn.conv3d if len(sides) == 3 else fn.conv2d
    for axis in range(len(sides)):
        along = [-1 if other == axis else 1 for other in range(len(sides))]
        some = convolve(some, kernels.reshape(len(kernels), 1, *along), groups=len(kernels))
    each = each.clone()
    each[:, chosen] = some
    return each.reshape(x.shape)
