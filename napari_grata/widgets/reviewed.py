"""The masks that the user calls right: held against changes, kept on the disk, brought back."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.review.cases import ListError
from napari_grata.widgets.qt_parts import later

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session

Masks = dict[int, np.ndarray]


class ReviewedMasks(QObject):
    """Knows which slices are called right, with their masks, in every session.

    They lie with the decisions on the scan, by model, and are there before they show.

    Signals
    -------
    changed()
        Another slice is called right, or one no longer.
    """

    changed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self._masks: weakref.WeakKeyDictionary[Session, Masks] = weakref.WeakKeyDictionary()
        self._brought: weakref.WeakSet[Session] = weakref.WeakSet()
        self._unkept: weakref.WeakSet[Session] = weakref.WeakSet()
        self._soon = later(self, 100, self.look)
        for signal in (context.drawn, context.masks_changed, context.session_changed):
            signal.connect(self.look)
        context.decisions_changed.connect(self.bring_back)

    def of(self, session: Session) -> Masks:
        """Return the masks called right, (H, W) label maps by slice; those of the run's slices."""
        known = self._masks.get(session, {})
        return {i: mask for i, mask in known.items() if i in session.adapted_slices}

    def call_right(self, session: Session, index: int, on: bool) -> None:
        """Call the mask of a slice right as it is shown now, or no longer."""
        self.bring_back()
        known = self._masks.setdefault(session, {})
        known.pop(index, None)
        if on:
            known[index] = np.array(session.scan.get_mask(session.adapted.in_use(), index))
        self._tell(session)

    def replace(self, session: Session, masks: Mapping[int, np.ndarray]) -> None:
        """Call these right, and no others."""
        self._masks[session] = dict(masks)
        self._tell(session)

    def look(self, changed: Any = None) -> None:
        """A mask that has changed since it was called right is so no longer."""
        session = self._context.session
        if session is None or session.busy:
            return
        if session is self._context.runner.session:
            # A job is about to end; who began it may put masks back first.
            self._soon.start()
            return
        reviewed, now = self.of(session), session.adapted.in_use()
        wanted = {changed} if isinstance(changed, int) else reviewed if changed is None else changed
        gone = [
            index
            for index in sorted(reviewed.keys() & set(wanted))
            if not np.array_equal(session.scan.get_mask(now, index), reviewed[index])
        ]
        for index in gone:
            del self._masks[session][index]
        if gone:
            names = ", ".join(session.scan.slice_name(index) for index in gone)
            self._context.say(f"Changed, so no longer called right: {names}.")
            self._tell(session)

    # --- the disk ----------------------------------------------------------------------------

    def _tell(self, session: Session) -> None:
        self._unkept.add(session)
        try:
            self.keep()
        except ListError:
            self._context.save_drawings()  # tries once more, and says why that fails
        self.changed.emit()

    def keep(self) -> None:
        """Write those of the session in view, where they are not on the disk; may be a ListError.

        Those of the disk come first: they are not to be written over unseen.
        """
        session, place = self._context.session, self._context.decision_list
        if session is None or place is None or session not in self._brought:
            return
        if session in self._unkept:
            work = place[0].work(place[1])
            work.keep_reviewed(session.card.name, self._masks.get(session, {}))
            self._unkept.discard(session)

    def bring_back(self) -> None:
        """Call right what was so when the scan in view was left, once there are masks again.

        What was drawn has to be back before.
        """
        context, session, place = self._context, self._context.session, self._context.decision_list
        if session is None or session.busy or not session.adapted_slices or place is None:
            return
        if session not in self._brought:
            self._brought.add(session)
            work = place[0].work(place[1])
            told = len(work.notices)
            kept = work.reviewed(session.card.name, session.scan)
            context.say(" ".join(work.notices[told:]))
            if kept:
                self._masks[session] = {**kept, **self._masks.get(session, {})}
                self.put_back(session)
        if session in self._unkept and not context.closing.closing:
            self._tell(session)

    def put_back(self, session: Session) -> None:
        """Show the masks called right over those of another run."""
        if session is self._context.session:
            self.bring_back()
        stack, scan = session.adapted.as_shown(), session.scan
        covered = [
            index
            for index, mask in self.of(session).items()
            if not np.array_equal(scan.get_mask(stack, index), mask)
        ]
        for index in covered:
            scan.put_mask(stack, index, self._masks[session][index])
        if covered and not self._context.closing.closing:
            session.adapted.put_drawing(stack)
            session.look_for_drawings()
            session.drawn.emit(min(covered))  # so that they are saved
        self.changed.emit()
