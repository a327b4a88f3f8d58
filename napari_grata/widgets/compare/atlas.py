"""Draws a plane of a scan with a mask upon it: what the second canvas and the planes share."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtGui import QPainter, QTransform

from napari_grata.widgets.compare.drawing import draw_mask, drawing_order, trace
from napari_grata.widgets.compare.picture import Picture, fill_of, picture_of
from napari_grata.widgets.compare.planes import Plane

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

_KEPT, _KEPT_BYTES = 24, 100_000_000
_FILL = 0.45


class Atlas:
    """Pictures, outlines and areas of a session's planes, made once until something changes.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._colours = {s.name: s.colour for s in session.card.structures}
        # For good: colours at shared borders must not change from slice to slice.
        stack = session.after.stack if session.adapted else session.before.stack
        self._order = drawing_order(session.card, stack)
        self._pictures: dict[Any, Picture] = {}
        self._outlines: dict[Any, _Entry] = {}
        self._fills: dict[Any, _Entry] = {}
        self._age = 0

    def forget(self) -> None:
        """Look at the masks again: they may have changed.

        napari says so at every move to another slice too, so what is traced anew is only what
        really is another mask.
        """
        self._age += 1

    def draw_scan(self, painter: QPainter, layer: Any, plane: Plane, screen: QTransform) -> None:
        """Draw a plane of an image layer in its own colours."""
        look = (tuple(layer.contrast_limits), float(layer.gamma), layer.colormap.name)
        key = (id(layer.data), plane.key, look)
        if key not in self._pictures:
            data = layer.data[0] if layer.multiscale else layer.data
            self._pictures[key] = picture = picture_of(layer, plane.cut(data))
            _thin_out(self._pictures, picture.nbytes)
        self._pictures[key].draw(painter, plane.transform(screen))

    def draw_outlines(
        self,
        painter: QPainter,
        which: str,
        plane: Plane,
        screen: QTransform,
        *,
        alone: bool = False,
    ) -> None:
        """Draw the outlines of the mask ``"before"`` or ``"after"``."""
        labels = self._labels(which)
        if labels is not None:
            card, order = self.session.card, self._order
            mask = self._current(
                self._outlines,
                (which, plane.key),
                plane.cut(labels),
                lambda cut: trace(card, cut, order),
            )
            draw_mask(painter, mask, self._colours, plane.transform(screen), which, alone=alone)

    def draw_as_chosen(
        self, painter: QPainter, which: str, plane: Plane, screen: QTransform
    ) -> None:
        """Draw a mask by itself, as outlines or as areas, whichever the person likes."""
        labels = self._labels(which)
        if labels is None:
            return
        if not self.session.filled:
            self.draw_outlines(painter, which, plane, screen, alone=True)
            return
        colours = self.session.colours
        fill = self._current(
            self._fills,
            (which, plane.key),
            plane.cut(labels),
            lambda cut: fill_of(cut, colours, _FILL),
        )
        fill.draw(painter, plane.transform(screen))

    def _labels(self, which: str) -> np.ndarray | None:
        layer = getattr(self.session, which).layer
        return None if layer is None else layer.data

    def _current(
        self, found: dict[Any, _Entry], key: Any, cut: np.ndarray, make: Callable[[np.ndarray], Any]
    ) -> Any:
        """Return what was made of a plane's labels, made anew if they are others by now."""
        entry = found.get(key)
        if entry is None or entry.age != self._age:
            check = zlib.crc32(np.ascontiguousarray(cut).data)
            if entry is None or entry.check != check:
                entry = _Entry(self._age, check, make(cut))
            found[key] = replace(entry, age=self._age)
            _thin_out(found, getattr(entry.made, "nbytes", 0))
        return found[key].made


@dataclass(frozen=True)
class _Entry:
    """What was made of a plane, when, and the checksum of what it was made of."""

    age: int
    check: int
    made: Any


def _thin_out(found: dict[Any, Any], nbytes: int) -> None:
    """Let go of the oldest; of large photographs only a few are kept."""
    kept = min(_KEPT, max(2, _KEPT_BYTES // max(1, nbytes)))
    while len(found) > kept:
        del found[next(iter(found))]
