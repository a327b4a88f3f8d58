"""Draws a plane of a scan with a mask upon it: what the second canvas and the planes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtGui import QPainter, QTransform

from napari_grata.widgets.compare.drawing import Mask, draw_mask, drawing_order, trace
from napari_grata.widgets.compare.picture import Picture, fill_of, picture_of
from napari_grata.widgets.compare.planes import Plane

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

_KEPT = 24
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
        self._outlines: dict[Any, Mask] = {}
        self._fills: dict[Any, Picture] = {}

    def forget(self) -> None:
        """Make everything anew: the masks have changed."""
        self._outlines.clear()
        self._fills.clear()

    def draw_scan(self, painter: QPainter, layer: Any, plane: Plane, screen: QTransform) -> None:
        """Draw a plane of an image layer in its own colours."""
        look = (tuple(layer.contrast_limits), float(layer.gamma), layer.colormap.name)
        key = (id(layer.data), plane.key, look)
        picture = _kept(self._pictures, key, lambda: picture_of(layer, plane.cut(layer.data)))
        picture.draw(painter, plane.transform(screen))

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
            key = (which, plane.key)
            mask = _kept(
                self._outlines,
                key,
                lambda: trace(self.session.card, plane.cut(labels), self._order),
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
        fill = _kept(
            self._fills, (which, plane.key), lambda: fill_of(plane.cut(labels), colours, _FILL)
        )
        fill.draw(painter, plane.transform(screen))

    def _labels(self, which: str) -> np.ndarray | None:
        layer = getattr(self.session, which).layer
        return None if layer is None else layer.data


def _kept(found: dict[Any, Any], key: Any, make: Any) -> Any:
    if key not in found:
        if len(found) >= _KEPT:
            del found[next(iter(found))]
        found[key] = make()
    return found[key]
