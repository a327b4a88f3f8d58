"""Day and night: prompts for each slice by day; by night the model learns from the day's slices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from napari_grata.adaptation.normalisation import all_parameters

from .base import Snapshot, StepRecord
from .mean_teacher import MeanTeacher
from .register import register
from .vptta import VPTTA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from typing_extensions import Unpack

    from napari_grata.adaptation.objectives import Supervision

    from .base import Common

NIGHT_RATE = 1e-4
TEACHER, GLOBAL = 0.98, 0.9


class _Night(MeanTeacher):
    """A mean teacher that follows a global student, which follows the student."""

    def __init__(self, network: nn.Module, **common: Unpack[Common]) -> None:
        super().__init__(network, NIGHT_RATE, decay=TEACHER, **common)
        self.shared = self._student.clone()

    def _follow(self) -> None:
        self.shared.lerp_(self._student, 1 - GLOBAL)
        self._flat.values.lerp_(self.shared, 1 - self.decay)

    def _state(self, device: torch.device) -> Snapshot:
        one = super()._state(device)
        return replace(one, student=torch.cat([one.student, self.shared.to(device)]))

    def restore(self, snapshot: Snapshot) -> None:
        student, shared = snapshot.student.chunk(2)
        super().restore(replace(snapshot, student=student))
        self.shared.copy_(shared)

    def reset(self) -> None:
        super().reset()
        self.shared.copy_(self._student)


@register(
    name="dyna",
    title="Day and night (DyNA)",
    summary="By day each slice gets a prompt of its own; by night all weights learn from the "
    "slices of the day. Masks are those of the last day.",
    learns="days",
    settings_used=("learning_rate",),
    defaults={"learning_rate": 0.05, "passes": 2},
)
class DyNA(VPTTA):
    """Day-night adaptation (Chen et al., 2024, arXiv 2410.13472), the night as we read it.

    A day is a pass over the slices with a prompt for each, as of `VPTTA`; the weights are frozen.
    By night they learn from the slices of the day, ten rounds of batches: a student, by Adam at
    1e-4, to answer strong views as the teacher's views of each image decide (`MeanTeacher`); a
    global student follows the student, G ← 0.9·G + 0.1·S; the teacher follows the global student,
    T ← 0.98·T + 0.02·G, and goes into the next day. By night layers use the source's statistics.

    Only the abstract is public: it names prompts, memory and warm-up by day, and by night a global
    student that bridges teacher and student. All numbers of the night, what is learnt and who
    follows whom are our reading. The scans of a day are those of the open stack; with a list of
    cases that is carried on, what the nights taught goes on from case to case.

    θ is that of `VPTTA` and the teacher's weights. Parameters are those of `VPTTA`.
    """

    def __init__(
        self, network: nn.Module, learning_rate: float = 0.05, **common: Unpack[Common]
    ) -> None:
        common["blend"] = 0.0
        super().__init__(network, learning_rate, **common)
        if hasattr(self.network, "runner"):
            # Arranged by hand, a network may keep its weights as they were.
            setattr(self.network, "runner", None)  # noqa: B010 (a module's own, no tensor)
            self.objectives.autocast = self.precision == "bfloat16"
        common["six_views"] = False
        self._night = _Night(network, **common)
        self.generator = self._night.generator

    def _adapted(self) -> Sequence[tuple[str, Tensor]]:
        return [*super()._adapted(), *all_parameters(self.network)]

    def load_theta(self, theta: Any) -> None:
        super().load_theta(theta)
        self._night.load_theta(self._weights)

    @property
    def _weights(self) -> Tensor:
        return self._flat.values[self._size + 1 :]

    def _state(self, device: torch.device) -> Snapshot:
        day, night = super()._state(device), self._night._state(device)
        counts = day.student.new_tensor([night.steps, self._adam.since])
        moments = night.first_moment, night.second_moment
        return replace(day, student=torch.cat([counts, night.student, *moments, day.student]))

    def restore(self, snapshot: Snapshot) -> None:
        size, rest = self._weights.numel(), snapshot.student
        counts, both, first, second, memory = rest.split(
            [2, 2 * size, size, size, len(rest) - 4 * size - 2]
        )
        super().restore(replace(snapshot, student=memory))
        steps, self._adam.since = (int(one) for one in counts.tolist())
        self._night.restore(Snapshot(self._weights, first, second, steps, snapshot.generator, both))

    def reset(self) -> None:
        super().reset()
        self._night.reset()

    def step_on_batch(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        record = self._night.step_on_batch(images)
        if not record.undone:
            self._weights.copy_(self._night._flat.values)
            self._adam.count += 1
            self._adam.since += 1  # no step of a prompt
        return record
