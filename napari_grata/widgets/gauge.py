"""A calm horizontal gauge: where something lies between "at home" and "far away"."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_grata.widgets.theme import ThemeColours, theme_colours

_HEIGHT = 20
_MARGIN = 9.0
_EDGE_AT, _FAR_AT = 0.4, 0.68


class Gauge(QWidget):
    """A line from home (a ring at the left) to far away, with a cross where something lies.

    The two thresholds are small ticks. The level shows in the cross's colour and in its size, so
    that it can be told without colours.

    Parameters
    ----------
    name : str
        What the gauge shows, for screen readers.
    """

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._colours: ThemeColours = theme_colours()
        self._place: float | None = None
        self._level = ""
        self.setAccessibleName(name)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a line's height."""
        return QSize(160, _HEIGHT)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return what the marks need at least."""
        return QSize(80, _HEIGHT)

    @property
    def place(self) -> float | None:
        """Where the cross is, 0 … 1 from the left; None without one."""
        return self._place

    def show_score(self, score: float, near: float, far: float, level: str) -> None:
        """Put the cross at a score; up to ``near`` is home, from ``far`` on far away."""
        self._place, self._level = place_of(score, near, far), level
        self.update()

    def clear(self) -> None:
        """Show the empty line."""
        self._place, self._level = None, ""
        self.update()

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme."""
        self._colours = theme_colours(name)
        self.update()

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show the tooltip on Space and Return, for those who use no mouse."""
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            QToolTip.showText(self.mapToGlobal(self.rect().bottomLeft()), self.toolTip(), self)
            return
        super().keyPressEvent(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw line, ring, ticks and cross."""
        colours, painter = self._colours, QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle, width = self.height() / 2, self.width() - 2 * _MARGIN
        live = self._place is not None
        ink = QColor(colours.muted if live else colours.grid)

        def at(place: float) -> float:
            return _MARGIN + place * width

        painter.setPen(QPen(ink, 1.2))
        painter.drawLine(QPointF(at(0) + 4, middle), QPointF(at(1), middle))
        painter.drawEllipse(QPointF(at(0), middle), 4.0, 4.0)
        for place in (_EDGE_AT, _FAR_AT):
            painter.drawLine(QPointF(at(place), middle - 4), QPointF(at(place), middle + 4))
        if self._place is not None:
            half = {"near": 4.0, "moderate": 5.0, "far": 6.0}.get(self._level, 4.0)
            x = at(self._place)
            painter.setPen(QPen(QColor(self._cross_colour()), 2.4 if self._level == "near" else 3))
            painter.drawLine(QPointF(x - half, middle - half), QPointF(x + half, middle + half))
            painter.drawLine(QPointF(x - half, middle + half), QPointF(x + half, middle - half))
        if self.hasFocus():
            painter.setPen(QPen(QColor(colours.accent), 1))
            painter.drawRoundedRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5), 3, 3)
        painter.end()

    def _cross_colour(self) -> str:
        colours = self._colours
        return {"moderate": colours.attention, "far": colours.wrong}.get(self._level, colours.text)


def place_of(score: float, near: float, far: float) -> float:
    """Return where a score stands on the line, 0 … 1.

    Home takes the first two fifths; beyond ``far`` the line grows ever slower towards its end.
    """
    score = max(0.0, score)
    if score <= near:
        return _EDGE_AT * score / near
    if score <= far:
        return _EDGE_AT + (_FAR_AT - _EDGE_AT) * (score - near) / max(far - near, 1e-9)
    beyond = (score - far) / far
    return _FAR_AT + (1 - _FAR_AT) * beyond / (1 + beyond)
