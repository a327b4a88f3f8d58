"""What the reviewer corrected on a session's mask after; knows no widget."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.corrections import Corrections

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session


class Drawn:
    """Corrected pixels by slice, counted as they are painted, and the slices called right.

    Counted anew are the slice in view and those that had corrected pixels: a stroke, an undo or
    an erased stroke changes no other one, unless somebody paints through several slices; all are
    compared once before they teach.
    """

    def __init__(self) -> None:
        self._counts: weakref.WeakKeyDictionary[Session, dict[int, int]] = (
            weakref.WeakKeyDictionary()
        )
        self._right: weakref.WeakKeyDictionary[Session, set[int]] = weakref.WeakKeyDictionary()

    def look(self, session: Session, slices: Iterable[int]) -> None:
        """Count the corrected pixels of these slices, and of those that had some."""
        counts = self._counts.setdefault(session, {})
        shown = _shown(session)
        for index in {*slices, *counts}:
            found = 0
            if shown is not None and index in session.adapted:
                mine, adapted = _masks(session, shown, index)
                found = int(np.count_nonzero(mine != adapted))
            if found:
                counts[index] = found
            else:
                counts.pop(index, None)

    def count(self, session: Session) -> tuple[int, int]:
        """Return corrected pixels, and slices with any or called right."""
        counts = self._counts.get(session, {})
        return sum(counts.values()), len({*counts, *self.right(session)})

    def right(self, session: Session) -> set[int]:
        """Return the slices that the reviewer calls right as they are shown."""
        return self._right.setdefault(session, set())

    def set_right(self, session: Session, index: int, on: bool) -> None:
        """Take note of what the reviewer says of a slice."""
        right = self.right(session)
        right.add(index) if on else right.discard(index)

    def forget(self, session: Session) -> None:
        """What was corrected has been taken over."""
        self._counts.pop(session, None)
        self._right.pop(session, None)

    def corrections(self, session: Session) -> Corrections:
        """Return all corrections of the masks as they are shown now."""
        found = Corrections.none()
        shown = _shown(session)
        right = self.right(session)
        for index in sorted(session.adapted):
            if shown is None:
                mine = adapted = session.scan.get_mask(session.after.stack, index)
            else:
                mine, adapted = _masks(session, shown, index)
            if index in right or not np.array_equal(mine, adapted):
                found = found.with_(
                    Corrections.of_slice(index, mine, adapted, whole=index in right)
                )
        return found


def _shown(session: Session) -> Any:
    """Return the data of the layer that the reviewer sees, None without one."""
    layer = session.after.layer
    if layer is None or not session.after.shown or layer.data.shape != session.after.stack.shape:
        return None
    return layer.data


def _masks(session: Session, shown: Any, index: int) -> tuple[np.ndarray, np.ndarray]:
    scan = session.scan
    return np.asarray(scan.get_mask(shown, index)), scan.get_mask(session.after.stack, index)
