"""Entropy of the pixels near the boundary alone, as an example of a method of one's own."""

from __future__ import annotations

from torch import Tensor

from napari_grata.adaptation.methods import Learner, register
from napari_grata.adaptation.objectives import pixel_entropy


@register(
    name="margin",
    title="Entropy at the margin",
    summary="Learns to be sure where it is not; what it is sure of stays as it is.",
    learns="theta",
    settings_used=("learning_rate", "blend"),
)
class Margin(Learner):
    """One Adam step at a fixed rate on the mean entropy of the pixels above half of the largest."""

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        probabilities = self.objectives.probabilities(self.objectives.logits(images))
        entropy = pixel_entropy(probabilities, self.activation)
        near = entropy.detach() > 0.5
        return self._descend((entropy * near).sum() / near.sum().clamp_min(1))
