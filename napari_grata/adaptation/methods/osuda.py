"""OSUDA: statistics move to the new centre step by step; scale and shift stay near the source's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from napari_grata.adaptation.normalisation import batch_statistics
from napari_grata.adaptation.objectives import entropy_loss

from .base import Learner, Output
from .register import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common

IMAGES = 32.0
"""After so many images the source's share in the statistics is 1/e."""
PENALTY = 1.0


@register(
    name="osuda",
    title="Slow statistics, held scales (OSUDA)",
    summary="Intensity statistics go over to the new scans slice by slice, and the model learns "
    "to be sure while its scales are held to what they were.",
    learns="theta",
    settings_used=("learning_rate", "blend", "stag", "parameters", "names"),
)
class OSUDA(Learner):
    """Off-the-shelf source segmenter adaptation (Liu et al., MICCAI 2021, arXiv 2106.12497).

    At image k the layers normalise with (1 − η)·now + η·source, η = exp(−k/32). One Adam step at a
    fixed rate then lowers the entropy of the prediction (as `Tent`) plus the mean over all channels
    of w·(|γ − γ_source| + |β − β_source|): scale γ and shift β are held to the source's, with
    w = 1 + a, where a is (1 + d)⁻¹ over its mean in the layer and
    d = |μ_now/σ_now − μ_source/σ_source|. Channels whose statistics transfer are held the more.

    The paper trains over batches of a whole set. Ours is the count of images for its iterations,
    32 of them for its decay, and the weight 1 of the penalty; η stays above 1 − α where ``blend``
    is α < 1. θ is γ and β of every normalisation layer (those that ``parameters`` names; others,
    such as weights of convolutions, are not held), and 1 − η. Parameters are those of `Learner`.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float = 1e-4, **common: Unpack[Common]
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self._layers = self._norms()
        self._held = {
            layer: [one.detach().clone() for one in (layer.weight, layer.bias) if one is not None]
            for layer in self._layers
        }

    def _adapted(self) -> Sequence[tuple[str, Tensor]]:
        found = list(super()._adapted())
        if found:
            found.append(("statistics", found[0][1].new_zeros(1).requires_grad_()))
        return found

    @torch.no_grad()
    def predict(self, images: Tensor) -> Output:
        for layer in self._layers:
            layer.blend = float(self._flat.values[-1])
        return super().predict(images)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        values = self._flat.values
        values[-1] = min(self.blend, 1 - math.exp(-(self.steps + 1) / IMAGES))
        penalties: list[Tensor] = []

        def see(layer: Any, x: Tensor) -> None:
            layer.blend = float(values[-1])
            mean, var = (one.to(self.dtype) for one in batch_statistics(x.detach()))
            source = layer.running_mean / (layer.running_var + layer.eps).sqrt()
            transfer = 1 / (1 + (mean / (var + layer.eps).sqrt() - source).abs())
            weight = 1 + transfer / transfer.mean()
            own = [one for one in (layer.weight, layer.bias) if one is not None]
            pairs = zip(own, self._held[layer], strict=True)
            penalties.append(weight * sum(((one - held).abs() for one, held in pairs), 0 * weight))

        logits = self._watched(self._layers, images, see)
        entropy = entropy_loss(logits, self.activation, symmetric=True)
        entropy = entropy + self.objectives.disagreement(logits).mean()
        return self._descend(entropy + PENALTY * torch.cat(penalties).mean())
