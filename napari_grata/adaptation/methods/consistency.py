"""Consistency alone: GraTa's pseudo objective with a fixed learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_grata.adaptation.objectives import SCRIBBLE
from napari_grata.adaptation.settings import checked

from .base import Learner
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common


@register(
    name="consistency",
    title="Consistency only",
    summary="Learns to give the same answer for flipped, rotated and disturbed copies of a slice.",
    learns="theta",
    settings_used=("learning_rate", "blend", "scribble", "parameters", "names"),
)
class Consistency(Learner):
    """One Adam step at a fixed rate on the consistency loss at θ; no auxiliary gradient.

    Parameters are those of `Learner`, and ``scribble``: ``"pseudo"`` puts the corrected pixels in
    the place of consistency where there are some, which is plain fine-tuning of θ; ``"both"``
    adds them to consistency.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-4,
        *,
        scribble: str = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self.scribble: str = checked("scribble", scribble)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        objective = "consistency"
        if self.objectives.supervision is not None and self.scribble != "none":
            objective = SCRIBBLE if self.scribble == "pseudo" else f"{SCRIBBLE}+consistency"
        return self._descend(self.objectives.loss(objective, images))
