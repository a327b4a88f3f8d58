"""Tent: entropy alone (Wang et al., ICLR 2021, arXiv 2006.10726)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_grata.adaptation.objectives import entropy_loss

from .base import Learner
from .register import register

if TYPE_CHECKING:
    from torch import Tensor


@register(
    name="tent",
    title="Entropy only (Tent)",
    summary="Learns to be sure of its answers, with intensity statistics from the new scan.",
    learns="theta",
    settings_used=("learning_rate", "blend", "stag", "parameters", "names"),
)
class Tent(Learner):
    """One Adam step at a fixed rate on the entropy H of the prediction at θ.

    H = −Σ_c p_c·log p_c of exclusive classes; of independent structures the sum of their
    −p·log p − (1 − p)·log(1 − p); the mean over images and pixels. Parameters are those of
    `Learner`.
    """

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.objectives.logits(images)
        entropy = entropy_loss(logits, self.activation, symmetric=True)
        return self._descend(entropy + self.objectives.disagreement(logits).mean())
