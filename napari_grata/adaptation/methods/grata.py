"""GraTa: gradient-aligned test-time adaptation (Chen et al., AAAI 2025, arXiv 2408.07343)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from napari_grata.adaptation.gradients import aligned_rate, alignment
from napari_grata.adaptation.scribble import SCRIBBLE
from napari_grata.adaptation.settings import LEARNING_RATE_RULES, SCRIBBLE_ROLES

from .base import Learner

_TINY = 1e-12
_TAUGHT = {
    "auxiliary": (SCRIBBLE, "consistency"),
    "pseudo": ("consistency", SCRIBBLE),
    "both": (SCRIBBLE, f"{SCRIBBLE}+consistency"),
}
"""(auxiliary, pseudo) objective by the role of the corrections."""


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
    strong_view : callable, optional
        Images to images; None for the seeded augmentation.
    seed : int
        Seed of every random draw; one seed gives the same numbers on the CPU.
    activation : {"sigmoid", "softmax"}
    blend : float
        α in [0, 1]: statistics are α·current + (1 − α)·source. 1 is published.
    symmetric_entropy : bool
        Bernoulli entropy in place of the published one-sided form (sigmoid only).
    perturbation : float, optional
        Length ρ of the auxiliary move, θ' = θ − ρ·g_a/‖g_a‖. None is the published raw gradient.
    six_views : bool
        Predict the mean probability over six flips and rotations.
    batch_views : bool, optional
        Run views of equal shape as one batch; by default on a GPU only.
    scribble : {"none", "auxiliary", "pseudo", "both"}
        Role of corrected pixels in steps that are given some; see `Settings`.
    precision : {"float32", "bfloat16"}
        What the network computes in; see `Method`.

    Raises
    ------
    ValueError
        If a setting is out of range, the network lacks a head that an objective needs, or has no
        normalisation layer with scale and shift.
    """

    name = "grata"

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-4,
        auxiliary: str = "entropy",
        pseudo: str = "consistency",
        learning_rate_rule: str = "quadratic",
        strong_view: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
        activation: str = "sigmoid",
        blend: float = 1.0,
        symmetric_entropy: bool = False,
        perturbation: float | None = None,
        six_views: bool = False,
        batch_views: bool | None = None,
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
        if perturbation is not None and not perturbation > 0:
            raise ValueError(f"perturbation is {perturbation}; it is above 0, or None.")
        if learning_rate_rule not in LEARNING_RATE_RULES:
            raise ValueError(
                f"learning_rate_rule is {learning_rate_rule!r}; choose one of "
                f"{', '.join(LEARNING_RATE_RULES)}."
            )
        if scribble not in SCRIBBLE_ROLES:
            raise ValueError(
                f"scribble is {scribble!r}; choose one of {', '.join(SCRIBBLE_ROLES)}."
            )
        self.objectives.check(auxiliary)
        self.objectives.check(pseudo)
        self.learning_rate = float(learning_rate)
        self.learning_rate_rule = learning_rate_rule
        self.auxiliary = auxiliary
        self.pseudo = pseudo
        self.perturbation = perturbation
        self.scribble = scribble

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
            "learning_rate": rate,
            "auxiliary_loss": auxiliary_loss.detach(),
            "pseudo_loss": pseudo_loss.detach(),
            "auxiliary_norm": auxiliary_norm,
            "pseudo_norm": pseudo_norm,
        }
