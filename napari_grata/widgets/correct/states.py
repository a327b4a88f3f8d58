"""The session as it was before corrections taught the model: the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.widgets.taken import Taken, TakenStates

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

_NAMES = (
    "settings",
    "note",
    "note_tone",
    "resets",
    "taken_step",
    "taken",
    "reopened",
    "expected_steps",
    "stream",
)


@dataclass
class Before:
    """A session's run and masks, the painted ones included, before a run that learnt from them.

    Attributes
    ----------
    run : AdaptationRun
        The earlier run; open, so that it can be gone back to.
    right : frozenset of int
        Slices that had been called right.
    later : AdaptationRun or None
        The run that learnt, once it has begun.
    """

    run: Any
    right: frozenset[int]
    _painted: dict[int, tuple[np.ndarray, np.ndarray]]  # as adapted, as painted
    _values: dict[str, Any]
    _flags: dict[int, Any]
    later: Any = None
    _masks: Taken = field(default_factory=lambda: Taken(None))

    @classmethod
    def of(cls, session: Session, right: set[int], corrected: Sequence[int]) -> Before:
        """Keep a session as it is now; its masks are packed by `fill`."""
        scan, shown = session.scan, session.after.as_shown()
        painted = {
            index: (
                np.array(scan.get_mask(session.after.stack, index)),
                np.array(scan.get_mask(shown, index)),
            )
            for index in corrected
        }
        values = {name: getattr(session, name) for name in _NAMES}
        return cls(session.run, frozenset(right), painted, values, dict(session.flags))

    def begin(self, session: Session) -> None:
        """Make room for the run that learns; what was painted becomes part of the mask."""
        for index, (_, shown) in self._painted.items():
            session.scan.put_mask(session.after.stack, index, shown)
        session.taken, session.taken_step = TakenStates(), None
        session.stream = []
        session.resets = ()
        session.reopened = None
        session.hide_difference()

    def fill(self, session: Session) -> None:
        """Pack the masks that are about to change; in the worker, before the first record."""
        self._masks.fill(session.scan, session.after.stack, sorted(session.adapted))

    def put_back(self, session: Session) -> None:
        """Bring the session back; the run that learnt is closed, its folder stays."""
        if session.run is not None and session.run is not self.run:
            session.run.close()
        session.run = self.run
        for name, value in self._values.items():
            setattr(session, name, value)
        session.flags = self._flags
        session.hide_difference()
        scan, after = session.scan, session.after
        layer = after.ensure()
        fits = layer.data.shape == after.stack.shape
        for index, mask in self._masks.masks():
            scan.put_mask(after.stack, index, mask)
            if fits:
                scan.put_mask(layer.data, index, mask)
        for index, (adapted, shown) in self._painted.items():
            scan.put_mask(after.stack, index, adapted)
            if fits:
                scan.put_mask(layer.data, index, shown)
        layer.refresh(extent=False)
