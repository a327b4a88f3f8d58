"""GraTa: gradient-aligned test-time adaptation (Chen et al., AAAI 2025, arXiv 2408.07343)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_grata.adaptation.gradients import aligned_rate, alignment, layer_cosines
from napari_grata.adaptation.objectives import SCRIBBLE
from napari_grata.adaptation.settings import checked

from .base import LAYERS, Learner
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common

_TINY = 1e-12
_TAUGHT = {
    "auxiliary": (SCRIBBLE, "consistency"),
    "pseudo": ("consistency", SCRIBBLE),
    "both": (SCRIBBLE, f"{SCRIBBLE}+consistency"),
}
"""(auxiliary, pseudo) objective by the role of the corrections."""


@register(
    name="grata",
    title="GraTa: gradient alignment",
    summary="Learns from one signal as far as another agrees with it.",
    learns="theta",
    settings_used=(
        "learning_rate",
        "auxiliary",
        "pseudo",
        "learning_rate_rule",
        "blend",
        "symmetric_entropy",
        "stag",
        "perturbation",
        "scribble",
        "parameters",
        "names",
    ),
)
class GraTa(Learner):
    """Learn from the pseudo gradient, as far as the auxiliary gradient agrees with it.

    One step: g_a is the gradient of the auxiliary loss at θ; g_p that of the pseudo loss at
    θ' = θ − g_a; cos is their cosine similarity; θ makes one Adam step along g_p with the rate
    η = β·(cos + 1)²/4; the images are predicted with the new θ. Adam's moments live on from
    step to step. The defaults are the published step.

    Parameters
    ----------
    network : nn.Module
        The source model; never changed.
    learning_rate : float
        β.
    auxiliary, pseudo : str
        Objectives, one of ``settings.OBJECTIVES``.
    learning_rate_rule : {"quadratic", "linear", "softplus", "fixed"}
        See `aligned_rate`.
    perturbation : float, optional
        Length ρ of the auxiliary move, θ' = θ − ρ·g_a/‖g_a‖. None is the published raw gradient.
    scribble : {"none", "auxiliary", "pseudo", "both"}
        Role of corrected pixels in steps that are given some; see `Settings`.
    **common
        See `Method`.

    Raises
    ------
    ValueError
        If a setting is out of range, the network lacks a head that an objective needs, or has no
        normalisation layer with scale and shift.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-4,
        auxiliary: str = "entropy",
        pseudo: str = "consistency",
        learning_rate_rule: str = "quadratic",
        *,
        perturbation: float | None = None,
        scribble: str = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self.learning_rate_rule: str = checked("learning_rate_rule", learning_rate_rule)
        self.perturbation: float | None = checked("perturbation", perturbation)
        self.scribble: str = checked("scribble", scribble)
        self.auxiliary, self.pseudo = auxiliary, pseudo
        self.objectives.check(auxiliary)
        self.objectives.check(pseudo)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        theta = self._flat.values
        start = theta.clone()
        objectives = self.auxiliary, self.pseudo
        if self.objectives.supervision is not None:
            objectives = _TAUGHT.get(self.scribble, objectives)

        auxiliary_loss = self.objectives.loss(objectives[0], images)
        auxiliary, _ = self._flat.gradient(auxiliary_loss)
        if self.perturbation is None:
            theta.sub_(auxiliary)
        else:
            length = torch.linalg.vector_norm(auxiliary) + _TINY
            theta.sub_(auxiliary * (self.perturbation / length))

        try:
            pseudo_loss = self.objectives.loss(objectives[1], images)
            pseudo, has_pseudo = self._flat.gradient(pseudo_loss)
        finally:
            theta.copy_(start)

        cosine, auxiliary_norm, pseudo_norm = alignment(auxiliary, pseudo, has_pseudo)
        rate = aligned_rate(cosine, self.learning_rate, self.learning_rate_rule)
        self._adam.step(theta, pseudo, rate)
        return {
            "cosine": cosine,
            LAYERS: layer_cosines(auxiliary, pseudo, self._flat.layers),
            "learning_rate": rate,
            "auxiliary_loss": auxiliary_loss.detach(),
            "pseudo_loss": pseudo_loss.detach(),
            "auxiliary_norm": auxiliary_norm,
            "pseudo_norm": pseudo_norm,
        }
