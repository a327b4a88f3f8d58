"""One plane of a volume, whichever way it is cut, with its masks and a cross."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QTransform
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_grata.widgets.compare.atlas import Atlas
from napari_grata.widgets.compare.drawing import AFTER, draw_caption, draw_letter, draw_line
from napari_grata.widgets.compare.planes import plane_along

_NOTCH = 1.23
_MARGIN = 0.92
_CROSS = QColor("#F0E442")
_NAMES = {
    frozenset({"superior", "inferior"}): "axial",
    frozenset({"anterior", "posterior"}): "coronal",
    frozenset({"left", "right"}): "sagittal",
}
_OPPOSITE = {a: b for pair in _NAMES for a in pair for b in pair if a != b}
# At the top of a picture as people know it; rows that run towards one of these are turned over.
_UPWARDS = ("superior", "anterior")


def plane_name(labels: tuple[str, ...], across: int) -> str:
    """Return what a plane is called that lies across an axis; labels as in `Geometry`."""
    label = labels[across]
    return next((name for pair, name in _NAMES.items() if label in pair), f"across “{label}”")


class Pane(QWidget):
    """One plane of a volume, with masks and a cross at the place in view.

    Parameters
    ----------
    across : int
        The axis of the volume, among its last three, that this plane lies across.
    """

    def __init__(self, viewer: Any, across: int) -> None:
        super().__init__()
        self._viewer = viewer
        self.across = across
        self.atlas: Atlas | None = None
        self.shown: tuple[str, ...] = (AFTER,)
        self.zoom = 1.0
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setCursor(Qt.CursorShape.CrossCursor)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.setMinimumSize(80, 80)
        self.setToolTip("Click to go there. Wheel: slices; Ctrl and wheel: zoom.")

    def axes(self, ndim: int) -> tuple[int, int]:
        """Return the axes that run down and across in this plane, of a layer of so many axes."""
        down, across = (axis for axis in range(3) if axis != self.across)
        return ndim - 3 + down, ndim - 3 + across

    def _labels(self) -> tuple[str, ...]:
        assert self.atlas is not None
        return tuple(self.atlas.session.scan.geometry.axis_labels[-3:])

    def screen(self) -> QTransform:
        """Return the way from (across, down) in the world to this widget."""
        session = self.atlas.session if self.atlas is not None else None
        layer = session.before.layer if session is not None else None
        if layer is None:
            return QTransform()
        down, across = self.axes(layer.ndim)
        low, high = np.asarray(layer.extent.world)[:, [down, across]]
        span = np.maximum(high - low, 1e-6)
        fit = _MARGIN * min(self.height() / span[0], self.width() / span[1])
        scale = fit * self.zoom
        centre = (low + high) / 2
        if self.zoom > 1:
            # Zoomed in, the cross is what matters.
            first = self._viewer.dims.ndim - layer.ndim
            point = np.asarray(self._viewer.dims.point)[[first + down, first + across]]
            centre = centre + (point - centre) * (1 - 1 / self.zoom)
        up = -scale if self._labels()[down - layer.ndim + 3] in _UPWARDS else scale
        return QTransform(
            scale,
            0.0,
            0.0,
            up,
            self.width() / 2 - scale * float(centre[1]),
            self.height() / 2 - up * float(centre[0]),
        )

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw scan, masks, cross, letters and caption."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), QColor(0, 0, 0))
        if self.atlas is not None:
            self._draw(painter, self.atlas)
        painter.end()

    def _draw(self, painter: QPainter, atlas: Atlas) -> None:
        screen = self.screen()
        session = atlas.session
        scan = session.scan_layer()
        layers = [scan, *(getattr(session, which).layer for which in self.shown)]
        for which, layer in zip((None, *self.shown), layers, strict=True):
            if layer is None:
                continue
            point = np.asarray(self._viewer.dims.point)[-layer.ndim :]
            plane = plane_along(layer, point, self.axes(layer.ndim))
            if plane is None:
                continue
            if which is None:
                atlas.draw_scan(painter, layer, plane, screen)
            elif len(self.shown) == 2:
                atlas.draw_outlines(painter, which, plane, screen)
            else:
                atlas.draw_as_chosen(painter, which, plane, screen)
        box = QRectF(self.rect())
        draw_cross(painter, screen.map(self._place()), box)
        labels = self._labels()
        rows, columns = (axis for axis in range(3) if axis != self.across)
        down, right = labels[rows], labels[columns]
        if down in _UPWARDS:
            down = _OPPOSITE[down]
        for label, edge in (
            (_OPPOSITE.get(down), "top"),
            (down, "bottom"),
            (_OPPOSITE.get(right), "left"),
            (right, "right"),
        ):
            if label in _OPPOSITE:
                draw_letter(painter, label[0].upper(), box, edge)
        masks = "both" if len(self.shown) == 2 else "".join(self.shown)
        words = plane_name(labels, self.across)
        draw_caption(painter, f"{words}, {masks}" if masks else words, box)

    def _place(self) -> QPointF:
        point = np.asarray(self._viewer.dims.point)[-3:]
        down, across = (axis for axis in range(3) if axis != self.across)
        return QPointF(float(point[across]), float(point[down]))

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go where the person points."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._point(event)

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go along where the person drags."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._point(event)

    def _point(self, event: Any) -> None:
        inverse, possible = self.screen().inverted()
        if possible:
            place = inverse.map(QPointF(event.pos()))
            dims = self._viewer.dims
            dims.set_point(self.axes(dims.ndim), (place.y(), place.x()))

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go through the slices, or zoom."""
        notches = event.angleDelta().y() / 120
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoom = min(20.0, max(1.0, self.zoom * _NOTCH**notches))
            self.update()
        elif notches:
            dims = self._viewer.dims
            axis = dims.ndim - 3 + self.across
            dims.set_current_step(axis, dims.current_step[axis] + (1 if notches > 0 else -1))
        event.accept()


def draw_cross(painter: QPainter, place: QPointF, box: QRectF) -> None:
    """Draw a thin cross with a hole in its middle, so that what it points at is seen."""
    x, y, hole = place.x(), place.y(), 9
    for begin, end in (
        (QPointF(box.left(), y), QPointF(x - hole, y)),
        (QPointF(x + hole, y), QPointF(box.right(), y)),
        (QPointF(x, box.top()), QPointF(x, y - hole)),
        (QPointF(x, y + hole), QPointF(x, box.bottom())),
    ):
        draw_line(painter, begin, end, _CROSS, 1)
