"""Jumps to what is worth a look in a run: slice and slider move, and a sentence says why."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject

from napari_grata.widgets import landmarks
from napari_grata.widgets.landmarks import Landmark
from napari_grata.widgets.session import Session


class Jumps(QObject):
    """Takes the person to the largest change, the lowest similarity or the first flag.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self._bar = dock.adapt.jumps
        self._bar.wanted.connect(self.jump)
        dock.verbs["jump_to_largest_change"] = self.largest_change
        dock.verbs["jump_to_lowest_similarity"] = self.lowest_similarity
        dock.verbs["jump_to_first_flag"] = self.first_flag
        dock.desk.changed.connect(self.offer)
        dock.desk.session_changed.connect(self.offer)
        self.offer()

    def offer(self) -> None:
        """Let the person jump once there are masks after."""
        session = self._dock.desk.session
        there = session is not None and bool(session.adapted) and not session.busy
        self._bar.setEnabled(there)

    def jump(self, name: str) -> None:
        """Go to a landmark by its name."""
        {
            "largest_change": self.largest_change,
            "lowest_similarity": self.lowest_similarity,
            "first_flag": self.first_flag,
        }[name]()

    def largest_change(self) -> None:
        """Go to where the adapted mask differs most from the mask before."""
        session = self._session()
        if session is not None:
            rows = self._dock.review.table.model.rows
            steps = session.stream if session.taken_step is None else ()
            self._go(landmarks.largest_change(rows, steps, session.scan.slice_name))

    def lowest_similarity(self) -> None:
        """Go to the step at which the two signals agreed least."""
        session = self._session()
        if session is not None:
            self._go(landmarks.lowest_similarity(session.stream, session.scan.slice_name))

    def first_flag(self) -> None:
        """Go to the first slice that needs a look."""
        session = self._session()
        if session is not None:
            steps = session.stream if session.taken_step is None else ()
            self._go(landmarks.first_flag(session.flags, steps, session.scan.slice_name))

    def _session(self) -> Session | None:
        session: Session | None = self._dock.desk.session
        return session if session is not None and session.adapted and not session.busy else None

    def _go(self, place: Landmark) -> None:
        steps, bar = self._dock.steps, self._dock.adapt.steps
        if place.slice_index is not None:
            self._dock.desk.go_to(place.slice_index)
            steps.show_step(place.step if place.step <= bar.last() else landmarks.RESULT)
        # Last: a slider that moves says where it stands.
        bar.say(place.sentence)
        self._dock.review.shown.say(place.sentence)
