"""The surface that the curves share, and its axes (pyqtgraph)."""

from __future__ import annotations

import os
from typing import Any

import qtpy
from qtpy.QtCore import QRectF, Qt, QTimer, Signal
from qtpy.QtGui import QPainter, QPixmap

# pyqtgraph chooses a binding of its own unless told; two bindings in one process crash.
os.environ["PYQTGRAPH_QT_LIB"] = qtpy.API_NAME
import pyqtgraph as pg

_TURN_MS = 2


class CurveCanvas(pg.GraphicsLayoutWidget):
    """The surface of the plots: leaves the wheel to the scroll area unless Ctrl is held.

    Qt puts the whole window together anew after each drawing, beside a viewer that draws with
    OpenGL. What `hold` announces is drawn into a picture in one turn of the event loop and put into
    the window in another, so that neither keeps a person waiting for long.
    """

    hovered = Signal(object)
    clicked = Signal(object)
    left = Signal()
    reset = Signal()
    drawn = Signal()

    def __init__(self) -> None:
        super().__init__()
        # pyqtgraph lets the axis name hang 5 pixels out of its axis.
        self.ci.layout.setContentsMargins(0, 0, 4, 5)
        self.ci.layout.setSpacing(0)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(1, 1)
        self.scene().sigMouseClicked.connect(self._on_click)
        self._picture: QPixmap | None = None
        self._ready = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_TURN_MS)
        self._soon.timeout.connect(self._go_on)

    # --- drawing ahead -----------------------------------------------------------------------

    def hold(self) -> None:
        """Draw what changes from here on in a moment, not at once."""
        self._ready, self._picture = False, None
        self.setViewportUpdateMode(self.ViewportUpdateMode.NoViewportUpdate)
        self._soon.start()

    def forget_picture(self) -> None:
        """Let go of what was drawn ahead: something has changed since."""
        self._picture = None

    def _go_on(self) -> None:
        # What is scrolled out of view is drawn when it comes into view.
        seen = not self.viewport().visibleRegion().isEmpty()
        if seen and not self._ready:
            self._picture = self._draw_picture()
            self._ready = True
            self._soon.start()
            return
        self._ready = False
        self.setViewportUpdateMode(self.ViewportUpdateMode.MinimalViewportUpdate)
        if seen:
            self.viewport().update()
        else:
            self._picture = None
        self.drawn.emit()

    def _draw_picture(self) -> QPixmap:
        area = self.viewport().rect()
        ratio = self.viewport().devicePixelRatioF()
        picture = QPixmap(area.size() * ratio)
        picture.setDevicePixelRatio(ratio)
        picture.fill(self.backgroundBrush().color())
        painter = QPainter(picture)
        painter.setRenderHints(self.renderHints())
        self.render(painter, QRectF(area), area)
        painter.end()
        return picture

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show what was drawn ahead, once, or draw."""
        picture, self._picture = self._picture, None
        if picture is None or picture.size() != self.viewport().size() * picture.devicePixelRatio():
            super().paintEvent(event)
            return
        painter = QPainter(self.viewport())
        painter.drawPixmap(0, 0, picture)
        painter.end()

    def _on_click(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        if event.double():
            self.reset.emit()
        else:
            point = event.scenePos()
            self.clicked.emit((point.x(), point.y()))

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        self.forget_picture()
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            super().wheelEvent(event)
        else:
            event.ignore()

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        # Not by the scene's signal: that one drops moves in quick succession, the last included.
        self.forget_picture()
        super().mouseMoveEvent(event)
        point = self.mapToScene(event.pos())
        self.hovered.emit((point.x(), point.y()))

    def leaveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        super().leaveEvent(event)
        self.left.emit()


class StepAxis(pg.AxisItem):
    """Ticks at whole steps only."""

    def tickSpacing(self, minVal: float, maxVal: float, size: float) -> Any:  # noqa: N802
        levels = super().tickSpacing(minVal, maxVal, size)
        whole = [level for level in levels if level[0] >= 1 and level[0] == int(level[0])]
        return whole or [(1, 0)]


class ValueAxis(pg.AxisItem):
    """Ticks with a true minus sign, as in the rest of the interface."""

    def tickStrings(self, values: Any, scale: float, spacing: float) -> list[str]:  # noqa: N802
        return [text.replace("-", "−") for text in super().tickStrings(values, scale, spacing)]
