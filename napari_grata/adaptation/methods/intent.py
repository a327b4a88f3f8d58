"""InTEnt: predictions under several mixtures of statistics, weighted by how sure they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_grata.adaptation.objectives import pixel_entropy

from .base import Method, Output
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn

BLENDS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@register(
    name="intent",
    title="Mixtures of statistics (InTEnt)",
    summary="Averages masks made with the source's and the scan's intensity statistics in six "
    "mixtures, the sure ones more; learns nothing.",
    learns="nothing",
)
class InTEnt(Method):
    """The weighted mean of predictions with α = 0, 0.2, …, 1; nothing is learned.

    A prediction of an image weighs in proportion to exp(−H), H its balanced entropy: the mean
    over the pixels that it calls structure and the mean over those it calls background count
    alike, each pixel's entropy as a share of the largest there can be. After Dong et al. (CVPR
    workshops 2024), who weigh by entropy so that neither of the two prevails; the form of the
    weight is our reading. Parameters as of `Method`, no blend.
    """

    def __init__(self, network: nn.Module, **common: Any) -> None:
        super().__init__(network, **{**common, "blend": 0.0})
        self._layers = self._norms()

    @torch.no_grad()
    def predict(self, images: Tensor) -> Output:
        images = self._images(images)
        total, weights = torch.zeros(()), torch.zeros(())
        try:
            for blend in BLENDS:
                for layer in self._layers:
                    layer.blend = blend
                found = super().predict(images)
                if not found.is_finite:
                    return found  # a probability of 1 would hide it
                weight = torch.exp(-self._balanced_entropy(found.probabilities))
                weight = weight.reshape(-1, *(1 for _ in found.probabilities.shape[1:]))
                total, weights = total + weight * found.probabilities, weights + weight
        finally:
            for layer in self._layers:
                layer.blend = self.blend
        mean = total / weights
        if self.activation == "softmax":
            return Output(mean.clamp_min(1e-12).log(), mean)
        return Output(torch.logit(mean.clamp(1e-7, 1 - 1e-7)), mean)

    def _balanced_entropy(self, probabilities: Tensor) -> Tensor:
        """Return H of each image, shape (B,), in [0, 1]."""
        share = pixel_entropy(probabilities, self.activation).flatten(1)
        if self.activation == "softmax":
            structure = probabilities.argmax(1) > 0
        else:
            structure = (probabilities >= 0.5).any(1)
        structure = structure.flatten(1)
        parts = [
            torch.where(where, share, 0).sum(1) / where.sum(1).clamp_min(1)
            for where in (structure, ~structure)
        ]
        there = torch.stack([structure.any(1), (~structure).any(1)])
        return torch.stack(parts).sum(0) / there.sum(0)
