"""SAR: entropy of reliable pixels alone, and a step that looks for flat places."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from napari_grata.adaptation.objectives import pixel_entropy

from .base import Learner, Snapshot
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common

NAN = math.nan
RELIABLE = 0.4
"""A pixel counts while its entropy is below this share of the largest."""
RADIUS = 0.05
KEPT = 0.9
COLLAPSE = 0.2 / (0.4 * 6.907755)
"""The published 0.2 as a share of the published limit, 0.4·ln 1000."""


@register(
    name="sar",
    title="Reliable entropy (SAR)",
    summary="Learns to be sure where it is fairly sure already, looks for flat places, and starts "
    "over where it grows too sure.",
    learns="theta",
    settings_used=("learning_rate", "blend", "stag", "parameters", "names"),
)
class SAR(Learner):
    """Sharpness-aware and reliable entropy minimisation (Niu et al., ICLR 2023, 2302.12400).

    L(θ) is the mean entropy over the reliable pixels, those whose entropy is below 0.4 of the
    largest. With g = ∇L(θ) the gradient is taken at θ + 0.05·g/‖g‖, over pixels that are reliable
    there too. Where the moving mean of the second loss (0.9 of it is kept) falls below a limit,
    θ and its moments start over from the source.

    The paper is about the classes of whole images; ours is this: entropies are of pixels and
    shares of the largest there can be (ln C of exclusive classes, S·ln 2 of independent
    structures); the limit of a collapse is that share of the first step's loss which the
    published one is of the published limit of reliability, 7 %, for most pixels of a slice are
    sure from the start; the optimiser is Adam as in the other methods, not SGD. Where no pixel is
    reliable, here or uphill, θ and its moments stay. Parameters are those of `Learner`.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float = 1e-4, **common: Unpack[Common]
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self._set_course()

    def _state(self, device: torch.device) -> Snapshot:
        one = super()._state(device)
        return Snapshot(
            one.theta, one.first_moment, one.second_moment, one.steps, one.generator, self._course
        )

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        self._set_course(*snapshot.student.tolist())

    def reset(self) -> None:
        super().reset()
        self._set_course()

    def _set_course(self, first: float = NAN, mean: float = NAN, since: float = 0) -> None:
        """Note first loss and moving mean since θ began, and the count of steps at that time."""
        # A new tensor each time, for snapshots hold on to the old one.
        self._course = torch.tensor([first, mean, since], dtype=torch.float64)
        self._adam.since = int(since)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        theta, adam = self._flat.values, self._adam
        here, reliable = self._loss(images, None)
        rate = torch.full_like(here.detach(), self.learning_rate)
        figures = {"learning_rate": rate, "pseudo_loss": here.detach(), "pseudo_norm": 0 * rate}
        first, mean, since = self._course.tolist()
        there, still = here, reliable
        if reliable.any():
            gradient, _ = self._flat.gradient(here)
            norm = torch.linalg.vector_norm(gradient)
            before = theta.clone()
            try:
                theta.add_(gradient, alpha=RADIUS / max(float(norm), 1e-12))
                there, still = self._loss(images, reliable)
                if still.any():
                    gradient, _ = self._flat.gradient(there)
            finally:
                theta.copy_(before)
        if not still.any():
            # A step that is counted and not taken.
            adam.count += 1
            self._set_course(first, mean, since + 1)
            return figures
        adam.step(theta, gradient, rate)
        figures["pseudo_norm"] = torch.linalg.vector_norm(gradient)
        loss = float(there.detach())
        first = loss if math.isnan(first) else first
        mean = loss if math.isnan(mean) else KEPT * mean + (1 - KEPT) * loss
        if mean < COLLAPSE * first:
            theta.copy_(self._source)
            adam.first.zero_()
            adam.second.zero_()
            first, mean, since = NAN, NAN, adam.count
        self._set_course(first, mean, since)
        return figures

    def _loss(self, images: Tensor, among: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean entropy over reliable pixels, and which those are, (B, H, W)."""
        logits = self.objectives.logits(images)
        share = pixel_entropy(self.objectives.probabilities(logits), self.activation)
        reliable = share.detach() < RELIABLE
        if among is not None:
            reliable &= among
        loss = share + self.objectives.disagreement(logits)
        return (loss * reliable).sum() / reliable.sum().clamp_min(1), reliable
