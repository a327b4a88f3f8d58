"""VPTTA: the model is frozen, and each scan's low frequencies are brought to what it knows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as fn

from napari_grata.adaptation.gradients import FlatAdam

from .base import Learner, Output, Snapshot
from .register import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common

PIXELS_A_PLACE = 100
"""A prompt has one place for so many pixels of a side, ..."""
MOST = 8
"""... and at most so many to a side."""
KEPT, NEIGHBOURS = 40, 16
TEMPERATURE = 0.2
WARM = 5


@register(
    name="vptta",
    title="A prompt for each slice (VPTTA)",
    summary="The model stays as it is: the coarse brightness of each slice is changed until it "
    "looks to the model like its own centre's.",
    learns="prompt",
    settings_used=("learning_rate",),
    defaults={"learning_rate": 0.05},
)
class VPTTA(Learner):
    """Visual prompts for test-time adaptation (Chen et al., CVPR 2024, arXiv 2311.18363).

    The network sees x̃ = Re F⁻¹(F(x)·P): the prompt P multiplies the lowest frequencies of each
    channel, one for every hundred pixels of a side, at least one; the others stay. P starts at
    one, from the 17th image on as the mean over the 16 remembered images whose low-frequency
    amplitudes are nearest, weighted by softmax(cos/0.2); the latest 40 are remembered with the P
    they ended at. Layers normalise with μ' = m·μ_now + (1 − m)·μ_source and σ²' alike, where
    m = 1/(√t/5 + 1) at image t. One Adam step (betas 0.9, 0.99, moments live on) lowers the mean
    over the layers of |μ' − μ_now| + |σ' − σ_now|, and x̃ is predicted with the new P.

    Where the text is open: μ' and σ' carry no gradient; deviations are √(σ² + ε), so that a
    channel without spread has a slope; P reaches from −⌊b/2⌋ of the b frequencies on, has b
    of each side by itself, and never more than eight; images of one batch share P. θ is P,
    centred in the largest there can be, and m. Parameters are those of `Learner`; no blend.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float = 0.05, **common: Unpack[Common]
    ) -> None:
        common["blend"] = 0.0
        super().__init__(network, learning_rate, **common)
        self._layers = self._norms()
        self._size = self._prompt.numel()
        self._adam = FlatAdam(self._flat.values[: self._size])
        self._adam.betas = 0.9, 0.99
        self._memory = self._forgotten()

    def _adapted(self) -> Sequence[tuple[str, Tensor]]:
        # What the first convolution takes: channels, and two or three axes.
        first = next((one for one in self.network.parameters() if one.ndim > 2), None)
        if first is None:
            raise ValueError("VPTTA needs a network that begins with a convolution.")
        self._prompt = first.new_ones(first.shape[1], *[MOST] * (first.ndim - 2))
        return [("prompt", self._prompt.requires_grad_()), ("m", first.new_ones(1))]

    def _forgotten(self) -> Tensor:
        return self._flat.values.new_zeros(0, 2 * self._size)

    # State ------------------------------------------------------------------------------------

    def _state(self, device: torch.device) -> Snapshot:
        memory = self._memory.flatten().to(device, copy=True)
        return replace(super()._state(device), student=memory)

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        memory = snapshot.student.to(self._memory, copy=True)
        self._memory = memory.reshape(-1, self._memory.shape[1])

    def reset(self) -> None:
        super().reset()
        self._memory = self._forgotten()

    # Work -------------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(self, images: Tensor) -> Output:
        shown = self._shown(self._images(images))
        try:
            for layer in self._layers:
                layer.blend = float(self._flat.values[self._size])
            return super().predict(shown)
        finally:
            for layer in self._layers:
                layer.blend = 0.0

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        key = self._amplitudes(images)
        prompt = self._flat.values[: self._size].fill_(1.0)
        if len(self._memory) >= NEIGHBOURS:
            keys, prompts = self._memory.chunk(2, 1)
            likeness, which = fn.cosine_similarity(key, keys).topk(NEIGHBOURS)
            prompt.copy_(torch.softmax(likeness / TEMPERATURE, 0) @ prompts[which])
        images_seen = self._adam.count - self._adam.since + 1
        self._flat.values[self._size] = 1 / (math.sqrt(images_seen) / WARM + 1)
        loss = self._distance(self._shown(images))
        (gradient,) = torch.autograd.grad(loss, self._prompt)
        rate = torch.full_like(loss.detach(), self.learning_rate)
        self._adam.step(prompt, gradient.flatten(), rate)
        entry = torch.cat([key, prompt[None]], 1)
        self._memory = torch.cat([self._memory, entry])[-KEPT:]
        return {
            "learning_rate": rate,
            "pseudo_loss": loss.detach(),
            "pseudo_norm": torch.linalg.vector_norm(gradient),
        }

    def _distance(self, shown: Tensor) -> Tensor:
        """Return how far the statistics of images are from the mixture that layers work with."""
        source: dict[Any, Any] = {
            layer: (layer.running_mean, layer.running_var) for layer in self._layers
        }
        share = float(self._flat.values[self._size])
        found: list[Tensor] = []

        def see(layer: Any, x: Tensor) -> None:
            if x.numel() == x.shape[1]:
                return  # one value a channel: the source statistics serve
            axes = [0, *range(2, x.ndim)]
            now = torch.var_mean(x.to(self.dtype), axes, correction=0)[::-1]
            mean, var = (
                torch.lerp(old, new.detach(), share)
                for old, new in zip(source[layer], now, strict=True)
            )
            layer.running_mean, layer.running_var = mean, var
            spread = (var + layer.eps).sqrt() - (now[1] + layer.eps).sqrt()
            found.append((mean - now[0]).abs().mean() + spread.abs().mean())

        try:
            self._watched(self._layers, shown, see)
        finally:
            for layer, (mean, var) in source.items():
                layer.running_mean, layer.running_var = mean, var
        return torch.stack(found).mean()

    def _shown(self, images: Tensor) -> Tensor:
        """Return x̃, shape of the images."""
        axes = tuple(range(2, images.ndim))
        there, here = self._places(images)
        spectrum = images.new_ones(images.shape[1:])
        spectrum[there] = self._prompt[here]
        spectrum = torch.fft.ifftshift(spectrum, tuple(range(1, spectrum.ndim)))
        shown = torch.fft.ifftn(torch.fft.fftn(images, dim=axes) * spectrum, dim=axes).real
        return shown.contiguous(memory_format=self._layout)

    def _amplitudes(self, images: Tensor) -> Tensor:
        """Return |F(x)| where P lies, the mean over images, zero beyond; shape (1, numel of P)."""
        there, here = self._places(images)
        amplitudes = torch.fft.fftn(images, dim=tuple(range(2, images.ndim))).abs().mean(0)
        key = torch.zeros_like(self._prompt, requires_grad=False)
        key[here] = torch.fft.fftshift(amplitudes, tuple(range(1, amplitudes.ndim)))[there]
        return key.reshape(1, -1)

    def _places(self, images: Tensor) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return where P lies in a spectrum with its lowest frequency in the middle, and in θ."""
        sides = [min(MOST, max(1, length // PIXELS_A_PLACE)) for length in images.shape[2:]]
        there, here = (
            tuple(
                slice(length // 2 - side // 2, length // 2 - side // 2 + side)
                for side, length in zip(sides, lengths, strict=True)
            )
            for lengths in (images.shape[2:], self._prompt.shape[1:])
        )
        return (slice(None), *there), (slice(None), *here)
