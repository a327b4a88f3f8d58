"""A mean teacher over the whole stack: all weights learn, towards the mean over the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from napari_grata.adaptation.augmentation import view
from napari_grata.adaptation.gradients import aligned_rate, alignment, layer_cosines
from napari_grata.adaptation.normalisation import grouped
from napari_grata.adaptation.objectives import (
    SCRIBBLE,
    Supervision,
    consistency_loss,
    scribble_loss,
)
from napari_grata.adaptation.settings import checked

from .base import LAYERS, Learner, Snapshot
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Unpack

    from .base import Common


@register(
    name="mean-teacher",
    title="Mean teacher",
    summary="All weights learn from many slices at once to answer a disturbed slice as the model "
    "answers all its views, and the model follows slowly.",
    learns="weights",
    settings_used=(
        "learning_rate",
        "learning_rate_rule",
        "blend",
        "decay",
        "certain",
        "scribble",
        "parameters",
        "names",
    ),
)
class MeanTeacher(Learner):
    """A student learns from a batch of slices what its own running mean, the teacher, says.

    One step: the target is what the mean of the teacher's probabilities over the views of each
    image decides for; the student, every weight of it, makes one Adam step down the cross-entropy
    between its answer to a strong view of the image and that target; the teacher moves towards
    the student, θ_t ← d·θ_t + (1 − d)·θ_s (Tarvainen and Valpola, 2017; the views of Chen et al.,
    AAAI 2025). Masks are the teacher's: it is the θ of the records and of the store.

    The gradient is that of two halves of the batch, g₁ and g₂, and their cosine similarity says
    whether different slices ask for the same change. With another rule than ``fixed`` it sets the
    rate of the step, as GraTa's does. A batch of one image has two strong views for halves.

    Where a reviewer corrected the first slice of a batch, that slice is the first half and teaches
    what was corrected; the others are the second, held to what the model said of them before it
    was taught. Each half is seen in a random one of the views, every second time as a strong view:
    without the views three slices cost cups of a centre whose errors go both ways over a point,
    with them less than half of one. A corrected slice that is alone is its own second half.

    Parameters
    ----------
    network : nn.Module
        The source model; never changed.
    learning_rate : float
        β of Adam on the student.
    learning_rate_rule : {"fixed", "quadratic", "linear", "softplus"}
        See `aligned_rate`.
    decay : float
        d in [0, 1).
    certain : bool
        Whether the target is the teacher's mask, each pixel certain, and not its probabilities.
        With these a model of exclusive classes grows less sure from pass to pass, and loses
        (measured at 5e-4: nine points of white matter, and three with certain targets).
    scribble : {"none", "both"}
        Whether corrected pixels teach, in steps that are given some.
    **common
        See `Method`. The published step takes the statistics of each image; this one works best
        with those of the source (``blend=0``).
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 5e-4,
        learning_rate_rule: str = "fixed",
        *,
        decay: float = 0.98,
        certain: bool = True,
        scribble: str = "none",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(network, learning_rate, **common)
        self.learning_rate_rule: str = checked("learning_rate_rule", learning_rate_rule)
        self.decay = float(checked("decay", decay))
        self.certain: bool = checked("certain", certain)
        self.scribble: str = checked("scribble", scribble)
        self._student = self._flat.values.clone()

    def load_theta(self, theta: Tensor) -> None:
        super().load_theta(theta)
        self._student.copy_(self._flat.values)

    def _state(self, device: torch.device) -> Snapshot:
        one = super()._state(device)
        student = self._student.to(device, copy=True)
        return Snapshot(
            one.theta, one.first_moment, one.second_moment, one.steps, one.generator, student
        )

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        # A state of what a run began with may have no student yet.
        self._student.copy_(snapshot.student if len(snapshot.student) else snapshot.theta)

    def reset(self) -> None:
        super().reset()
        self._student.copy_(self._flat.values)

    def _learn(self, images: Tensor) -> dict[str, Tensor]:
        theta = self._flat.values
        teacher = theta.clone()
        supervision = self.objectives.supervision if self.scribble != "none" else None
        beside = supervision is not None and len(images) > 1
        targets = images if beside else self._targets(images)
        try:
            theta.copy_(self._student)
            if supervision is not None and beside:
                parts = (slice(1), slice(1, None))
                lessons = [self._lesson(images, supervision, part) for part in parts]
            elif supervision is not None:
                loss = self.objectives.loss(SCRIBBLE, images)
                lessons = [(loss.detach(), self._flat.gradient(loss)[0])]
                lessons.append(self._gradient(images, targets))
            elif len(images) == 1:
                lessons = [self._gradient(images, targets) for _ in range(2)]
            else:
                halves = zip(images.chunk(2), targets.chunk(2), strict=True)
                lessons = [self._gradient(*half) for half in halves]
            (first_loss, first), (second_loss, second) = lessons
            cosine, first_norm, second_norm = alignment(first, second, None)
            rate = aligned_rate(cosine, self.learning_rate, self.learning_rate_rule)
            self._adam.step(self._student, (first + second) / 2, rate)
        finally:
            theta.copy_(teacher)
        self._follow()
        return {
            "cosine": cosine,
            LAYERS: layer_cosines(first, second, self._flat.layers),
            "learning_rate": rate,
            "auxiliary_loss": first_loss,
            "pseudo_loss": second_loss,
            "auxiliary_norm": first_norm,
            "pseudo_norm": second_norm,
        }

    def _lesson(
        self, images: Tensor, supervision: Supervision, part: slice
    ) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of the student on what some images should be."""

        def chance(count: int) -> int:
            return int(torch.randint(count, (), generator=self.generator))

        name = self.objectives.views[chance(len(self.objectives.views))]
        seen = view(images[part], name)
        if chance(2):
            seen = self.objectives.strong(seen)
        with grouped(self.network, len(seen)):
            logits = self.objectives.logits(seen)
        loss = scribble_loss(logits, supervision.seen(part, name), self.activation)
        return loss.detach(), self._flat.gradient(loss)[0]

    def _targets(self, images: Tensor) -> Tensor:
        """Return what the teacher says of images, in the mean over their views."""
        views = [self.objectives.mean_of_views(part)[1] for part in self._parts(images)]
        targets = torch.cat(views)
        return self._as_mask(targets) if self.certain else targets

    def _follow(self) -> None:
        """Move the teacher towards the student."""
        self._flat.values.lerp_(self._student, 1 - self.decay)

    def _as_mask(self, probabilities: Tensor) -> Tensor:
        """Return 0 and 1 for the structures, or the class, that probabilities decide for."""
        if self.activation == "sigmoid":
            return (probabilities >= 0.5).to(probabilities.dtype)
        chosen = probabilities.argmax(1, keepdim=True)
        return torch.zeros_like(probabilities).scatter_(1, chosen, 1.0)

    def _gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and gradient of the student on strong views of some images."""
        strong = self.objectives.strong(images)
        total_loss = strong.new_zeros(())
        total = torch.zeros_like(self._student)
        for part, target in zip(self._parts(strong), self._parts(targets), strict=True):
            with grouped(self.network, len(part)):
                logits = self.objectives.logits(part)
            loss = consistency_loss(logits, target, self.activation) * (len(part) / len(images))
            total += self._flat.gradient(loss)[0]
            total_loss = total_loss + loss.detach()
        return total_loss, total

    def _parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images that run at once: all on a graphics card; one by one they keep to the cache."""
        return images.split(len(images) if self.objectives.batch_views else 1)
