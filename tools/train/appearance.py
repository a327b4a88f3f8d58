"""How the same tissue could look elsewhere: random changes of the intensities.

Every change is drawn per image, keeps the shape (B, C, H, W) and works on values in [0, 1].
Random numbers come from a CPU generator, the arithmetic runs where the images are.

Brains of other contrasts are made from the label maps of a few real ones in two ways, after the
idea of SynthSeg (Billot et al., 2023): tissues painted with random intensities, blurred at their
borders; or the real intensities kept as deviations from the mean of their tissue, and the means
moved. The order cerebrospinal fluid < grey < white of a T1 image is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as fn

from .views import uniform

Change = Callable[[Tensor, Generator], Tensor]


def maybe(probability: float, change: Change) -> Change:
    """``change`` for each image with a probability, the image itself otherwise."""

    def applied(images: Tensor, generator: Generator) -> Tensor:
        chosen = torch.rand(len(images), generator=generator) < probability
        if not chosen.any():
            return images
        images = images.clone()
        where = chosen.to(images.device)
        images[where] = change(images[where], generator)
        return images

    return applied


def chain(changes: Sequence[Change]) -> Change:
    """One change after the other."""

    def applied(images: Tensor, generator: Generator) -> Tensor:
        for change in changes:
            images = change(images, generator)
        return images

    return applied


def _like(values: Tensor, images: Tensor) -> Tensor:
    """Parameters of shape (B, c) as (B, c, 1, 1) on the images' device."""
    return values[:, :, None, None].to(images)


def min_max(images: Tensor) -> Tensor:
    """Each image to [0, 1] over all its channels; a constant image becomes 0."""
    low = images.amin((1, 2, 3), keepdim=True)
    high = images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-6)


def channel_gain(strength: float, offset: float) -> Change:
    """Gain exp(±strength) and offset per channel, half of it common to all channels."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c = images.shape[:2]
        own = uniform(generator, -1, 1, b, c) + uniform(generator, -1, 1, b, 1)
        shift = uniform(generator, -offset, offset, b, c)
        return (images * torch.exp(_like(own * strength / 2, images))) + _like(shift, images)

    return change


def contrast(low: float, high: float) -> Change:
    """Contrast about the mean of each channel."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        factor = uniform(generator, math.log(low), math.log(high), len(images), images.shape[1])
        common = uniform(generator, math.log(low), math.log(high), len(images), 1)
        mean = images.mean((2, 3), keepdim=True)
        return mean + (images - mean) * torch.exp(_like((factor + common) / 2, images))

    return change


def gamma(low: float, high: float) -> Change:
    """Gamma per channel about a common one; half of the images inverted for it."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c = images.shape[:2]
        a, z = math.log(low), math.log(high)
        exponent = 0.7 * uniform(generator, a, z, b, 1) + 0.3 * uniform(generator, a, z, b, c)
        inverted = _like((torch.rand(b, 1, generator=generator) < 0.5).float(), images)
        values = images.clamp(0, 1)
        values = inverted + values - 2 * inverted * values
        values = values.clamp_min(1e-6) ** torch.exp(_like(exponent, images))
        return inverted + values - 2 * inverted * values

    return change


def curve(knots: int = 6) -> Change:
    """A random increasing curve per channel through (0, 0) and (1, 1), piecewise linear."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = images.shape
        steps = 0.25 + torch.rand(b, c, knots, generator=generator)
        heights = fn.pad(steps.cumsum(-1) / steps.sum(-1, keepdim=True), (1, 0)).to(images)
        place = images.clamp(0, 1).reshape(b, c, -1) * knots
        index = place.long().clamp_max(knots - 1)
        below, above = heights.gather(2, index), heights.gather(2, index + 1)
        return (below + (above - below) * (place - index)).reshape(b, c, h, w)

    return change


def colour_mix(strength: float) -> Change:
    """Channels mixed by a random matrix near the identity: other filters, other sensors."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c = images.shape[:2]
        matrix = torch.eye(c) + strength * torch.randn(b, c, c, generator=generator)
        matrix = matrix / matrix.sum(2, keepdim=True).clamp_min(0.3)
        return torch.einsum("bij,bjhw->bihw", matrix.to(images), images)

    return change


def saturation(low: float, high: float) -> Change:
    """Distance of the channels from their mean; 0 is grey."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        factor = _like(uniform(generator, low, high, len(images), 1), images)
        grey = images.mean(1, keepdim=True)
        return grey + (images - grey) * factor

    return change


def smooth_field(count: int, size: tuple[int, int], cells: int, generator: Generator) -> Tensor:
    """A smooth random field of shape (B, 1, H, W) with values in [−1, 1]."""
    coarse = uniform(generator, -1, 1, count, 1, cells, cells)
    return fn.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(-1, 1)


def illumination(strength: float, *, keep_zero: bool = False) -> Change:
    """Smooth multiplicative light, exp(±strength): uneven illumination, coil bias, vignettes."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        cells = int(torch.randint(2, 5, (), generator=generator))
        size = (images.shape[2], images.shape[3])
        field = smooth_field(len(images), size, cells, generator)
        amount = uniform(generator, 0, strength, len(images), 1)
        lit = images * torch.exp(field.to(images) * _like(amount, images))
        return torch.where(images == 0, images, lit) if keep_zero else lit

    return change


def haze(strength: float) -> Change:
    """A veil of one colour, smooth over the image, as from a cloudy lens."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = images.shape
        field = (smooth_field(b, (h, w), 3, generator) + 1).to(images) / 2
        veil = _like(uniform(generator, 0, 1, b, c), images)
        amount = field * _like(uniform(generator, 0, strength, b, 1), images)
        return images * (1 - amount) + veil * amount

    return change


def blur(low: float, high: float, *, axes: str = "both") -> Change:
    """Gaussian blur, σ in pixels per image; ``axes="one"`` blurs rows or columns alone."""
    reach = max(2, math.ceil(2.5 * high))

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = images.shape
        sigma = uniform(generator, low, high, b, 2)
        if axes == "both":
            sigma = sigma[:, :1].repeat(1, 2)
        else:
            still = torch.randint(0, 2, (b,), generator=generator)
            sigma[torch.arange(b), still] = 1e-3
        offsets = torch.arange(-reach, reach + 1).float()
        kernels = torch.exp(-0.5 * (offsets / sigma[:, :, None]) ** 2)
        kernels = (kernels / kernels.sum(-1, keepdim=True)).to(images)
        stack = fn.pad(images.reshape(1, b * c, h, w), (reach,) * 4, mode="replicate")
        rows = kernels[:, 0].repeat_interleave(c, 0)[:, None, :, None]
        columns = kernels[:, 1].repeat_interleave(c, 0)[:, None, None, :]
        stack = fn.conv2d(fn.conv2d(stack, rows, groups=b * c), columns, groups=b * c)
        return stack.reshape(b, c, h, w)

    return change


def coarse_resolution(low: float, high: float) -> Change:
    """Sampled more coarsely by a factor and brought back, one factor for the whole batch."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        size = images.shape[2:]
        factor = float(uniform(generator, low, high, 1))
        small = [max(8, round(s / factor)) for s in size]
        images = fn.interpolate(images, size=small, mode="bilinear", antialias=True)
        return fn.interpolate(images, size=tuple(size), mode="bilinear")

    return change


def noise(high: float, *, keep_zero: bool = False) -> Change:
    """Gaussian noise, standard deviation U(0, high), partly common to the channels; for half of
    the images it is smooth over about two pixels, as after demosaicing or interpolation."""

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = images.shape
        grain = torch.randn(b, c, h, w, generator=generator)
        grain = 0.7 * grain + 0.7 * torch.randn(b, 1, h, w, generator=generator)
        soft = fn.avg_pool2d(grain, 3, 1, 1) * 3
        which = (torch.rand(b, 1, 1, 1, generator=generator) < 0.5).float()
        grain = which * soft + (1 - which) * grain
        amount = uniform(generator, 0, high, b, 1)
        noisy = images + grain.to(images) * _like(amount, images)
        return torch.where(images == 0, images, noisy) if keep_zero else noisy

    return change


def amplitude_mix(reach: float) -> Change:
    """Low frequencies of the amplitude spectrum drawn towards those of another image of the batch
    (after Yang and Soatto, CVPR 2020); ``reach`` is the part of each axis that counts as low.

    What was 0 stays 0.
    """

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = images.shape
        spectrum = torch.fft.fft2(images)
        amplitude, phase = spectrum.abs(), spectrum.angle()
        partner = amplitude[torch.randperm(b, generator=generator).to(images.device)]
        low = torch.fft.fftfreq(h).abs()[:, None] < reach / 2
        low = low & (torch.fft.fftfreq(w).abs()[None] < reach / 2)
        share = _like(uniform(generator, 0, 1, b, 1), images) * low.to(images)
        mixed = torch.polar(amplitude + share * (partner - amplitude), phase)
        return torch.where(images == 0, images, torch.fft.ifft2(mixed).real)

    return change


def block_compression(low: float, high: float) -> Change:
    """Blocks of 8 × 8 in the cosine domain, rounded to steps that grow with the frequency.

    Not JPEG itself, but its visible traces: blocks and ringing. ``low`` and ``high`` bound the
    step of the constant part; sizes must be multiples of 8.
    """
    k = torch.arange(8).float()
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2
    basis[0] /= math.sqrt(2)
    steps = 1 + 0.7 * (k[:, None] + k[None])

    def change(images: Tensor, generator: Generator) -> Tensor:
        b, c, h, w = images.shape
        transform = basis.to(images)
        size = uniform(generator, math.log(low), math.log(high), b).exp().to(images)
        step = size[:, None, None, None, None, None] * steps.to(images)
        blocks = images.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
        spectrum = transform @ blocks @ transform.T
        spectrum = torch.round(spectrum / step) * step
        return (transform.T @ spectrum @ transform).transpose(3, 4).reshape(b, c, h, w)

    return change


def draw_means(count: int, generator: Generator) -> Tensor:
    """Random tissue means (B, 3): fluid, grey, white."""
    fluid = uniform(generator, 0.02, 0.35, count)
    grey = fluid + uniform(generator, 0.12, 0.5, count)
    white = grey + uniform(generator, 0.12, 0.45, count)
    return torch.stack([fluid, grey, white], 1).clamp(0, 1)


def move_tissues(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    """Move the mean of each tissue; what deviates from it is kept, stretched or shrunk.

    Parameters
    ----------
    images : tensor of shape (B, 1, H, W)
    targets : tensor of shape (B, 4, H, W)
        Background, fluid, grey, white; soft at the borders, so that the borders stay soft.
    generator : torch.Generator

    Returns
    -------
    tensor of shape (B, 1, H, W)
        In [0, 1]; what was 0 stays 0.
    """
    count = len(images)
    tissue = targets[:, 1:]
    area = tissue.sum((2, 3)).clamp_min(1)
    old = (tissue * images).sum((2, 3)) / area
    # Tissue that the plane does not hold has no mean; its place on the scale is the usual one.
    usual = torch.tensor([0.25, 0.55, 0.85]).to(images)
    old = torch.where(area > 20, old, usual)
    new = draw_means(count, generator).to(images)
    stretch = uniform(generator, 0.6, 1.4, count, 3).to(images)
    # Voxels without a label (meninges, skull remnants) follow the grey matter next to them.
    weights = tissue + 1e-3 * torch.tensor([0.0, 1.0, 0.0]).to(images)[None, :, None, None]
    weights = weights / weights.sum(1, keepdim=True)

    def spread(values: Tensor) -> Tensor:
        return (weights * values[:, :, None, None]).sum(1, keepdim=True)

    moved = spread(new) + (images - spread(old)) * spread(stretch)
    return torch.where(images > 0, moved.clamp(1e-3, 1), images)


def paint_tissues(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    """Paint each tissue with a random mean and texture, blur the borders (partial volume).

    Parameters and result as in `move_tissues`; of the real image only its outline is used, and
    where it is dark inside grey matter (fluid in the sulci, which these labels call grey) the
    paint is darkened likewise.
    """
    b, _, h, w = images.shape
    means = draw_means(b, generator).to(images)
    texture = torch.randn(b, 3, h, w, generator=generator)
    texture = texture + 2 * fn.avg_pool2d(torch.randn(b, 3, h, w, generator=generator), 5, 1, 2)
    texture = texture.to(images) * uniform(generator, 0.0, 0.06, b, 3, 1, 1).to(images)
    tissue = targets[:, 1:]
    outside = (images > 0) * targets[:, :1]
    painted = (tissue * (means[:, :, None, None] + texture)).sum(1, keepdim=True)
    painted = painted + outside * means[:, :1, None, None]
    grey = (tissue[:, 1:2] * images).sum((2, 3), keepdim=True)
    grey = grey / tissue[:, 1:2].sum((2, 3), keepdim=True).clamp_min(1)
    depth = ((0.75 * grey - images) / grey.clamp_min(1e-3)).clamp(0, 1) * tissue[:, 1:2]
    fluid = means[:, :1, None, None]
    painted = painted * (1 - depth) + fluid * depth
    soft = fn.avg_pool2d(fn.pad(painted, (1, 1, 1, 1), mode="replicate"), 3, 1)
    share = uniform(generator, 0, 1, b, 1, 1, 1).to(images)
    painted = share * soft + (1 - share) * painted
    return torch.where(images > 0, painted.clamp(1e-3, 1), images)


def vary_tissues(
    images: Tensor, targets: Tensor, generator: Generator, *, move: float, paint: float
) -> Tensor:
    """Each image moved, painted or left alone, with the given probabilities."""
    lot = torch.rand(len(images), generator=generator).to(images.device)
    images = images.clone()
    for chosen, change in (
        (lot < paint, paint_tissues),
        ((lot >= paint) & (lot < paint + move), move_tissues),
    ):
        if chosen.any():
            images[chosen] = change(images[chosen], targets[chosen], generator)
    return images


_FUNDUS = chain(
    [
        maybe(0.3, colour_mix(0.12)),
        maybe(0.3, saturation(0.0, 1.6)),
        maybe(0.4, illumination(0.7)),
        maybe(0.6, channel_gain(0.4, 0.1)),
        maybe(0.5, contrast(0.5, 1.6)),
        maybe(0.6, gamma(0.45, 2.2)),
        maybe(0.3, curve()),
        maybe(0.15, haze(0.5)),
        maybe(0.35, blur(0.4, 2.5)),
        maybe(0.15, coarse_resolution(1.2, 3.0)),
        maybe(0.35, noise(0.05)),
        maybe(0.25, block_compression(0.05, 0.4)),
    ]
)

# As segmenters are commonly trained, and that of the published step too: little, and seldom.
_PLAIN = chain([maybe(0.15, channel_gain(0.1, 0.05)), maybe(0.1, noise(0.05))])

_BRAIN = chain(
    [
        maybe(0.3, amplitude_mix(0.04)),
        maybe(0.5, illumination(0.7, keep_zero=True)),
        maybe(0.5, gamma(0.5, 2.0)),
        maybe(0.4, channel_gain(0.3, 0.0)),
        maybe(0.25, coarse_resolution(1.2, 3.0)),
        maybe(0.3, blur(0.4, 1.2, axes="one")),
        maybe(0.2, blur(0.3, 1.0)),
        maybe(0.5, noise(0.06, keep_zero=True)),
    ]
)


def fundus_appearance(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    """Colour photographs (B, 3, H, W) as another camera might have taken them, min-max'd."""
    return min_max(_FUNDUS(images, generator).clamp(0, 1))


def plain_appearance(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    """Images (B, C, H, W) of the same camera, min-max'd: seldom a little brighter, or noisy."""
    return min_max(_PLAIN(images, generator).clamp(0, 1))


def brain_appearance(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    """Skull-stripped T1 planes (B, 1, H, W) of another scanner and contrast, in [0, 1]."""
    images = vary_tissues(images, targets, generator, move=0.35, paint=0.15)
    return _BRAIN(images, generator).clamp(0, 1)
