"""Which θ a slice is predicted with: the latest, the final or the averaged one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .history import History
from .journal import Journal
from .plan import Event
from .settings import Settings


class ThetaChoice:
    """Finds θ in the history of a run, as its settings ask for.

    Means are taken from the history when they are needed, so that they are right after any
    rollback, and the latest is kept, for slices ask in turn.
    """

    def __init__(self, settings: Settings, history: History, past: Journal) -> None:
        self._settings = settings
        self._history = history
        self._past = past
        self._kept: tuple[tuple[int, int], np.ndarray] | None = None

    def forget(self) -> None:
        """The history changed behind a mean that was kept."""
        self._kept = None

    def of_event(self, event: Event) -> np.ndarray:
        """Return the final or averaged θ of the episode up to an event."""
        if self._settings.predict != "average":
            return self._history.theta(event.step)
        span = (event.first_step, event.step)
        kept = self._kept
        if kept is None or kept[0] != span:
            # Blank slices and undone steps taught nothing, so that they have no say either.
            learnt = [
                record.step
                for record in self._past.without_masks()
                if record.phase == "adapt"
                and span[0] <= record.step <= span[1]
                and record.learning_rate is not None
                and not record.undone
            ]
            self._kept = kept = (span, self._history.mean_theta(learnt or [event.step]))
        return kept[1]

    def of_slice(self, slice_index: int, done: Sequence[Event]) -> np.ndarray:
        """Return θ that a slice would be predicted with after these events.

        It is that of the slice's own episode, if that has begun; in continual mode of the one
        there is; else the source model's.
        """
        own = [event for event in done if event.slice_index == slice_index]
        if not done or (not own and self._settings.mode != "continual"):
            return self._history.theta(0)
        if not own:
            return self.of_event(done[-1])
        if self._settings.predict == "stream":
            return self._history.theta(own[-1].step)
        return self.of_event([event for event in done if event.episode == own[-1].episode][-1])
