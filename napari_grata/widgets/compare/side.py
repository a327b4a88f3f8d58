"""A second canvas to the left of the viewer's own: there the mask before, here the one after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_grata.widgets.compare.atlas import Atlas
from napari_grata.widgets.compare.drawing import AFTER, BEFORE, draw_caption
from napari_grata.widgets.compare.planes import plane_in_view, world_to_screen
from napari_grata.widgets.viewer_parts import camera_of

if TYPE_CHECKING:
    from napari_grata.widgets.compare.overlay import Overlay
    from napari_grata.widgets.compare.room import Room
    from napari_grata.widgets.session import Session

_NOTCH = 1.23


class Twin(QWidget):
    """Shows what the viewer's camera sees, with the mask before; it moves the same camera.

    Parameters
    ----------
    viewer : Viewer
    canvas : QWidget
        The viewer's own canvas, whose height it keeps.
    """

    def __init__(self, viewer: Any, canvas: QWidget) -> None:
        super().__init__()
        self._viewer = viewer
        self._canvas = canvas
        self.atlas: Atlas | None = None
        self._grip: QPointF | None = None
        self.setObjectName("grata_twin")
        self.setAccessibleName("Second canvas: mask before")
        # Keys stay with the viewer.
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.setMinimumWidth(80)
        canvas.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Follow the first canvas's height."""
        if event.type() in (QEvent.Type.Resize, QEvent.Type.Move):
            self.update()
        return False

    def _box(self) -> QRectF:
        """Return the part of this widget that lies level with the canvas."""
        top = self.mapFromGlobal(self._canvas.mapToGlobal(self._canvas.rect().topLeft())).y()
        top = min(max(0, top), self.height())
        return QRectF(0, top, self.width(), min(self._canvas.height(), self.height() - top))

    def _world(self, place: QPointF) -> np.ndarray:
        """Return the point (down, across) of the world at a place of this widget."""
        box = self._box()
        screen = world_to_screen(self._viewer, box.size().toSize())
        point = screen.inverted()[0].map(place - box.topLeft())
        return np.array((point.y(), point.x()))

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw scan, mask and caption."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box = self._box()
        painter.setClipRect(box)
        painter.fillRect(box, _ground(self._viewer))
        painter.translate(box.topLeft())
        here = QRectF(0, 0, box.width(), box.height())
        screen = world_to_screen(self._viewer, box.size().toSize())
        atlas = self.atlas
        if atlas is not None:
            scan = atlas.session.scan_layer()
            plane = plane_in_view(self._viewer, scan) if scan is not None else None
            if scan is not None and plane is not None:
                atlas.draw_scan(painter, scan, plane, screen)
            layer = atlas.session.before.layer
            plane = plane_in_view(self._viewer, layer) if layer is not None else None
            if plane is not None:
                atlas.draw_as_chosen(painter, BEFORE, plane, screen)
            draw_caption(painter, "mask before", here)
        painter.end()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take hold of the picture."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._grip = QPointF(event.pos())
            self.setCursor(Qt.CursorShape.ClosedHandCursor)

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Let go of the picture."""
        self._grip = None
        self.unsetCursor()

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Pull both pictures along."""
        if self._grip is not None:
            place = QPointF(event.pos())
            step = self._world(self._grip) - self._world(place)
            self._grip = place
            self._centre(np.asarray(camera_of(self._viewer).center[-2:]) + step)

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Zoom both pictures around the mouse; with Ctrl go through the slices."""
        notches = event.angleDelta().y() / 120
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            dims = self._viewer.dims
            if dims.not_displayed:
                axis = dims.last_used if dims.last_used in dims.not_displayed else None
                axis = dims.not_displayed[-1] if axis is None else axis
                step = 1 if notches > 0 else -1
                dims.set_current_step(axis, dims.current_step[axis] + step)
        elif notches:
            place = event.position() if hasattr(event, "position") else QPointF(event.pos())
            at = self._world(place)
            factor = _NOTCH**notches
            centre = np.asarray(camera_of(self._viewer).center[-2:])
            camera_of(self._viewer).zoom *= factor
            self._centre(at + (centre - at) / factor)
        event.accept()

    def _centre(self, place: np.ndarray) -> None:
        first = tuple(camera_of(self._viewer).center[:-2])
        camera_of(self._viewer).center = (*first, *(float(value) for value in place))


def _ground(viewer: Any) -> QColor:
    """Return the colour around the pictures in napari's own canvas."""
    from napari.utils.theme import get_theme

    return QColor(get_theme(viewer.theme).canvas.as_hex())


class Side:
    """The viewer's canvas shows the mask after, a second one on its left the mask before."""

    title = "Side by side: left the mask before, right the mask after; they move together."
    shows = (False, False)

    def __init__(self, viewer: Any, overlay: Overlay, canvas: QWidget, room: Room) -> None:
        self._viewer = viewer
        self._overlay = overlay
        self._room = room
        self._canvas = canvas
        self._atlas: Atlas | None = None
        self.twin: Twin | None = None

    def begin(self, session: Session) -> None:
        """Open the second canvas."""
        self._atlas = Atlas(session)
        self.twin = Twin(self._viewer, self._canvas)
        self.twin.atlas = self._atlas
        self._room.take(self.twin, left=True)
        self._overlay.add(self.draw)

    def end(self) -> None:
        """Close the second canvas."""
        self._overlay.remove(self.draw)
        twin, self.twin, self._atlas = self.twin, None, None
        if twin is not None:
            self._room.leave(twin)

    def masks_changed(self) -> None:
        """Draw the masks anew."""
        if self._atlas is not None:
            self._atlas.forget()
        self.view_changed()

    def view_changed(self) -> None:
        """Draw for another slice, zoom or place."""
        self._overlay.update()
        if self.twin is not None:
            self.twin.update()

    def draw(self, painter: QPainter) -> None:
        """Draw the mask after in the first canvas."""
        if self._atlas is None:
            return
        layer = self._atlas.session.after.layer
        plane = plane_in_view(self._viewer, layer) if layer is not None else None
        if plane is not None:
            screen = world_to_screen(self._viewer, self._overlay.size())
            self._atlas.draw_as_chosen(painter, AFTER, plane, screen)
        draw_caption(painter, "mask after", QRectF(self._overlay.rect()))
