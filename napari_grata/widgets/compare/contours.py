"""Outlines of both masks at once, over the canvas: before thin and dashed, after thick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRectF
from qtpy.QtGui import QPainter

from napari_grata.widgets.compare.atlas import Atlas
from napari_grata.widgets.compare.drawing import AFTER, BEFORE, draw_caption
from napari_grata.widgets.compare.planes import plane_in_view, world_to_screen

if TYPE_CHECKING:
    from napari_grata.widgets.compare.overlay import Overlay
    from napari_grata.widgets.session import Session


class Contours:
    """Draws both outlines; the masks' own layers are out of sight meanwhile."""

    title = "Contours of both: before thin and dashed, after thick."
    shows = (False, False)

    def __init__(self, viewer: Any, overlay: Overlay) -> None:
        self._viewer = viewer
        self._overlay = overlay
        self._atlas: Atlas | None = None

    def begin(self, session: Session) -> None:
        """Draw the masks of a session."""
        self._atlas = Atlas(session)
        self._overlay.add(self.draw)

    def end(self) -> None:
        """Draw nothing any more."""
        self._atlas = None
        self._overlay.remove(self.draw)

    def masks_changed(self) -> None:
        """Trace the masks anew."""
        if self._atlas is not None:
            self._atlas.forget()
        self.view_changed()

    def view_changed(self) -> None:
        """Draw for another slice, zoom or place."""
        self._overlay.update()

    def draw(self, painter: QPainter) -> None:
        """Draw the outlines of the slice in view."""
        if self._atlas is None:
            return
        screen = world_to_screen(self._viewer, self._overlay.size())
        for which in (AFTER, BEFORE):
            layer = getattr(self._atlas.session, which).layer
            plane = plane_in_view(self._viewer, layer) if layer is not None else None
            if plane is not None:
                self._atlas.draw_outlines(painter, which, plane, screen)
        words = "thin, dashed: mask before     thick: mask after"
        draw_caption(painter, words, QRectF(self._overlay.rect()))
