"""What of a run is in use: its masks, and the θ that draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from napari_grata.scans.scan import PHOTOGRAPHIC

from .plan import Event
from .records import ChosenInfo
from .run_store import RunStore
from .settings import Settings


class RunResult:
    """The masks of a run that are in use.

    Those of its own steps are, up to where it stands; over them may lie those of an earlier state
    that were taken for the whole stack, and over both some that others made.

    Parameters
    ----------
    past : RunStore
        All records so far, masks on demand, and θ and optimiser state after each step.
    settings : Settings
    length : int
        Of the past, in events, up to where the run stands.

    Attributes
    ----------
    source_masks, adapted_masks : dict of int to ndarray of uint8, shape (H, W)
        Label maps by slice: source, and as adapted so far.
    taken : int or None
        The step whose masks, of the whole stack, were made the result.
    chosen : tuple of ChosenInfo
        How masks were chosen that lie over the run's own.
    beneath : dict of int to ndarray of uint8, shape (H, W)
        The run's own masks of those slices.
    lost : list of str
        What was in use and cannot be read, a sentence each.
    """

    taken: int | None
    chosen: tuple[ChosenInfo, ...]
    beneath: dict[int, np.ndarray]

    def __init__(self, past: RunStore, settings: Settings, length: int) -> None:
        self.past, self.settings = past, settings
        self.source_masks = past.source_masks
        self.lost: list[str] = []
        self._use_own(length)
        if past.begun:
            self._read_back()

    @property
    def photographic(self) -> bool:
        """Whether the scan of a run with a folder is a photograph or a list of them."""
        return self.past.info["scan"]["kind"] in PHOTOGRAPHIC

    def _read_back(self) -> None:
        info = self.past.info
        taken, chosen = info["taken"], info.get("chosen", [])
        masks = {} if taken is None else self.past.masks("taken")
        if taken is not None and len(masks) == info["taken_slices"]:
            self.taken = taken
            self.adapted_masks.update(masks)
        elif taken is not None:
            self.lost.append(
                "The masks of the earlier state that was in use cannot be read; those of the run "
                "are shown."
            )
        wanted = {index for one in chosen for index in one["used_on"]}
        masks = self.past.masks("chosen") if wanted else {}
        if masks.keys() == wanted:
            self._lay_over(masks, chosen)
        else:
            words = "The masks that were chosen cannot be read; those of the run are shown."
            self.lost.append(words)

    def _use_own(self, length: int) -> None:
        """Make the masks of the run's own steps the result, as of so many events."""
        self.adapted_masks = self.past.latest_masks(length)
        self.taken, self.chosen, self.beneath = None, (), {}

    def _lay_over(self, masks: Mapping[int, np.ndarray], chosen: Sequence[ChosenInfo]) -> None:
        self.adapted_masks.update(self.beneath)
        self.beneath = {i: mask for i, mask in self.adapted_masks.items() if i in masks}
        self.adapted_masks.update(masks)
        self.chosen = tuple(chosen) if masks else ()


class OngoingResult(RunResult):
    """Where a run stands in its plan, and what of it is in use.

    Attributes
    ----------
    plan : tuple of Event
        Everything that will happen, in order.
    position : int
        Events done, as rolled back to.
    """

    _mean: tuple[tuple[int, int], np.ndarray] | None

    def __init__(
        self, past: RunStore, settings: Settings, plan: tuple[Event, ...], afterwards: bool
    ) -> None:
        self.plan, self._mean = plan, None
        self._afterwards = afterwards  # whether slices are predicted once the model has learnt
        self.position = past.info["position"] if past.begun else 0
        super().__init__(past, settings, self.position)

    def _stand_at(self, position: int) -> None:
        """Go to where so many events are done."""
        self.position, self._mean = position, None
        self._use_own(position)

    @property
    def total(self) -> int:
        """Events in all."""
        return len(self.plan)

    @property
    def step(self) -> int:
        """Optimiser steps taken, as rolled back to."""
        return self.plan[self.position - 1].step if self.position else 0

    @property
    def last_step(self) -> int:
        """The latest step that the run can go back to."""
        return self.past.last_step

    def theta_of(self, slice_index: int) -> np.ndarray:
        """Return the θ with which a slice is predicted now, shape (n,).

        It is that of the state that was taken as the result; else that of the slice's own
        episode, if that has begun; in continual mode of the one there is; else the source model's.
        """
        if not self.settings.learns:
            return self.past.theta(0)
        if self.taken is not None:
            return self.past.theta(self.taken)
        done = self.plan[: self.position]
        own = [event for event in done if event.slice_index == slice_index]
        if own and not self._afterwards:
            return self.past.theta(own[-1].step)
        if not own and self.settings.mode != "continual":
            return self.past.theta(0)
        episode = own[-1].episode if own else 0  # in continual mode the only one
        reached = [event for event in done if event.episode == episode]
        return self._theta_at(reached[-1]) if reached else self.past.theta(0)

    def _theta_at(self, event: Event) -> np.ndarray:
        """Return the final or averaged θ of the episode up to an event.

        Means are taken when they are needed, so that they are right after any rollback, and the
        latest is kept, for slices ask in turn.
        """
        if self.settings.predict != "average" or not self.settings.uses("predict"):
            return self.past.theta(event.step)
        span = (event.first_step, event.step)
        if self._mean is None or self._mean[0] != span:
            kept = set(self.past.steps)
            # Blank slices and undone steps taught nothing, so that they have no say either.
            learnt = [
                record.step
                for record in self.past.without_masks()
                if record.phase == "adapt"
                and span[0] <= record.step <= span[1]
                and record.learning_rate is not None
                and not record.undone
                and record.step in kept
            ]
            self._mean = (span, self.past.mean_theta(learnt or [event.step]))
        return self._mean[1]
