"""Outlines of both masks at once, over the canvas: before thin and dashed, after thick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF
from qtpy.QtGui import QPainter

from napari_grata.widgets.compare.drawing import (
    AFTER,
    BEFORE,
    Mask,
    draw_caption,
    draw_mask,
    drawing_order,
    trace,
)
from napari_grata.widgets.compare.planes import Plane, plane_in_view, world_to_screen

if TYPE_CHECKING:
    from napari_grata.widgets.compare.overlay import Overlay
    from napari_grata.widgets.session import Session

_KEPT = 24


class OutlineCache:
    """Outlines of a session's masks by plane, traced once and thrown away when masks change."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._found: dict[tuple[Any, ...], Mask] = {}
        # For good: colours at shared borders must not change from slice to slice.
        self._order = drawing_order(session.card, session.after.stack)

    def forget(self, _event: Any = None) -> None:
        """Trace anew: the masks have changed."""
        self._found.clear()

    def of_plane(self, which: str, plane: Plane) -> Mask:
        """Return the outlines of the mask ``"before"`` or ``"after"`` on a plane of its layer."""
        key = (which, plane.key)
        if key not in self._found:
            mask = getattr(self.session, which)
            if mask.layer is None:
                return {}
            if len(self._found) >= _KEPT:
                del self._found[next(iter(self._found))]
            self._found[key] = trace(self.session.card, plane.cut(mask.layer.data), self._order)
        return self._found[key]


class Contours:
    """Draws both outlines; the masks' own layers are out of sight meanwhile."""

    title = "Contours of both: before thin and dashed, after thick."
    shows = (False, False)

    def __init__(self, viewer: Any, overlay: Overlay) -> None:
        self._viewer = viewer
        self._overlay = overlay
        self._cache: OutlineCache | None = None

    def begin(self, session: Session) -> None:
        """Draw the masks of a session."""
        self._cache = OutlineCache(session)
        self._overlay.add(self.draw)

    def end(self) -> None:
        """Draw nothing any more."""
        self._cache = None
        self._overlay.remove(self.draw)

    def masks_changed(self) -> None:
        """Trace the masks anew."""
        if self._cache is not None:
            self._cache.forget()
        self.view_changed()

    def view_changed(self) -> None:
        """Draw for another slice, zoom or place."""
        self._overlay.update()

    def draw(self, painter: QPainter) -> None:
        """Draw the outlines of the slice in view."""
        if self._cache is None:
            return
        session = self._cache.session
        colours = {s.name: s.colour for s in session.card.structures}
        to_screen = world_to_screen(self._viewer, self._overlay.size())
        for which in (AFTER, BEFORE):
            layer = getattr(session, which).layer
            plane = plane_in_view(self._viewer, layer) if layer is not None else None
            if plane is not None:
                mask = self._cache.of_plane(which, plane)
                draw_mask(painter, mask, colours, plane.transform(to_screen), which)
        box = QRectF(self._overlay.rect())
        draw_caption(painter, "thin, dashed: mask before     thick: mask after", box)
