"""A clear sheet over the viewer's canvas, on which outlines and captions are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, Qt
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import QMainWindow, QWidget

Draw = Callable[[QPainter], None]


def main_window(widget: QWidget) -> QMainWindow | None:
    """Return the main window that a widget belongs to, also from a dock that floats."""
    parent: QWidget | None = widget
    while parent is not None and not (
        isinstance(parent, QMainWindow) and parent.centralWidget() is not None
    ):
        parent = parent.parentWidget()
    return parent


def find_canvas(widget: QWidget) -> QWidget | None:
    """Return the canvas in the middle of a widget's main window, None where there is none.

    Found by its class among Qt's children, for napari's own way to it is private.
    """
    window = main_window(widget)
    centre = window.centralWidget() if window is not None else None
    if centre is None:
        return None
    found = (
        w for w in centre.findChildren(QWidget) if type(w).__name__.startswith("CanvasBackend")
    )
    return next(found, None)


class Overlay(QWidget):
    """Draws over a canvas and lets all mouse events through.

    Parameters
    ----------
    canvas : QWidget
        Its parent; the overlay always covers all of it.
    """

    def __init__(self, canvas: QWidget) -> None:
        super().__init__(canvas)
        self.setObjectName("grata_overlay")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setAttribute(Qt.WidgetAttribute.WA_NoSystemBackground)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        # napari's style sheet gives every QWidget a background.
        self.setStyleSheet("background: transparent;")
        self._draws: list[Draw] = []
        self.setGeometry(canvas.rect())
        canvas.installEventFilter(self)
        self.hide()

    def add(self, draw: Draw) -> None:
        """Draw this from now on, over what is drawn already."""
        self._draws.append(draw)
        self.show()
        self.raise_()
        self.update()

    def remove(self, draw: Draw) -> None:
        """Draw this no longer; no harm if it never was."""
        self._draws = [other for other in self._draws if other != draw]
        self.setVisible(bool(self._draws))
        self.update()

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Keep the size of the canvas."""
        if event.type() == QEvent.Type.Resize:
            self.setGeometry(0, 0, event.size().width(), event.size().height())
        return False

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Let everyone draw."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        for draw in self._draws:
            painter.save()
            draw(painter)
            painter.restore()
        painter.end()
