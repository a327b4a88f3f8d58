"""CoTTA: a slow teacher over all views, and weights that keep returning to the source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_grata.adaptation.objectives import consistency_loss

from .mean_teacher import MeanTeacher
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common

RESTORED = 0.01


@register(
    name="cotta",
    title="Teacher that remembers (CoTTA)",
    summary="All weights follow a slow teacher that answers for all views, and one in a hundred "
    "returns to the source at each step.",
    learns="weights",
    settings_used=("learning_rate", "blend", "decay", "parameters", "names"),
)
class CoTTA(MeanTeacher):
    """Continual test-time adaptation (Wang et al., CVPR 2022, arXiv 2203.13591).

    One step: the target is the mean of the teacher's probabilities over the views; the student,
    every weight of it, makes one Adam step down the cross-entropy between its answer to the image
    itself and that target; the teacher moves towards the student, θ_t ← d·θ_t + (1 − d)·θ_s; each
    weight of the student returns to the source with probability 0.01. Masks are the teacher's.

    Where the published method takes the teacher's plain answer as long as the source is sure of
    an image, this takes the views always: the published limits of sureness are of whole images
    of particular data. d is 0.98 as of `MeanTeacher`, for a stack has few batches; published is
    0.999. Steps are on batches of the stack; other parameters are those of `MeanTeacher`.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-4,
        *,
        decay: float = 0.98,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(network, learning_rate, decay=decay, certain=False, **common)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        theta = self._flat.values
        teacher = theta.clone()
        targets = [self.objectives.mean_of_views(part)[1] for part in self._parts(images)]
        total_loss, total = theta.new_zeros(()), torch.zeros_like(theta)
        try:
            theta.copy_(self._student)
            for part, target in zip(self._parts(images), targets, strict=True):
                logits = self.objectives.logits(part)
                loss = consistency_loss(logits, target, self.activation)
                loss = loss * (len(part) / len(images))
                total += self._flat.gradient(loss)[0]
                total_loss = total_loss + loss.detach()
            rate = torch.full_like(total_loss, self.learning_rate)
            self._adam.step(self._student, total, rate)
        finally:
            theta.copy_(teacher)
        theta.lerp_(self._student, 1 - self.decay)
        draws = torch.rand(len(theta), generator=self.generator).to(theta.device)
        self._student.copy_(torch.where(draws < RESTORED, self._source, self._student))
        return {
            "learning_rate": rate,
            "pseudo_loss": total_loss,
            "pseudo_norm": torch.linalg.vector_norm(total),
        }
