"""Consistency alone: GraTa's pseudo objective with a fixed learning rate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from napari_grata.adaptation.scribble import SCRIBBLE

from .base import Learner


class Consistency(Learner):
    """One Adam step at a fixed rate on the consistency loss at θ; no auxiliary gradient.

    Parameters are those of `GraTa`. ``objective`` may name any other of the six objectives; with
    ``"entropy"`` the step is that of Tent (Wang et al., 2021). ``scribble`` ``"pseudo"`` puts the
    corrected pixels in its place where there are some: plain fine-tuning of θ; ``"both"`` adds
    them to consistency.
    """

    name = "consistency"

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-4,
        strong_view: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        activation: str = "sigmoid",
        blend: float = 1.0,
        six_views: bool = False,
        batch_views: bool | None = None,
        objective: str = "consistency",
        symmetric_entropy: bool = False,
        scribble: str = "none",
        precision: str = "float32",
    ) -> None:
        super().__init__(
            network,
            seed=seed,
            activation=activation,
            blend=blend,
            six_views=six_views,
            batch_views=batch_views,
            symmetric_entropy=symmetric_entropy,
            strong_view=strong_view,
            precision=precision,
        )
        if not learning_rate > 0:
            raise ValueError(f"learning_rate is {learning_rate}; it is above 0.")
        self.objectives.check(objective)
        self.learning_rate = float(learning_rate)
        self.objective = objective
        self.scribble = scribble

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        objective = self.objective
        if self.objectives.supervision is not None and self.scribble != "none":
            objective = SCRIBBLE if self.scribble == "pseudo" else f"{SCRIBBLE}+consistency"
        loss = self.objectives.loss(objective, images)
        gradient, _ = self._flat.gradient(loss)
        rate = torch.full_like(loss.detach(), self.learning_rate)
        self._adam.step(self._flat.values, gradient, rate)
        return {
            "learning_rate": rate,
            "pseudo_loss": loss.detach(),
            "pseudo_norm": torch.linalg.vector_norm(gradient),
        }
