"""The colours of the uncertainty layer, and their scale in the canvas."""

from __future__ import annotations

import numpy as np
from napari.utils.colormaps import Colormap, ensure_colormap
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QLinearGradient, QPainter, QPen

# Where the colours end. Views hardly ever differ by more than this; the most there is is 0.5.
SHOWN_TO = {"disagreement": 0.3, "margin": 1.0}
_STOPS = 64
_WIDTH, _HEIGHT = 14, 110


def scale_colours() -> Colormap:
    """Return viridis, even to the eye also of colour-blind people, clear at its low end."""
    ramp = np.linspace(0, 1, _STOPS)
    colours = np.asarray(ensure_colormap("viridis").map(ramp), dtype=np.float32).copy()
    colours[:, 3] = np.clip(ramp / 0.4, 0, 1)
    return Colormap(colours, name="uncertainty", controls=ramp)


def draw_scale(painter: QPainter, box: QRectF, kind: str, title: str) -> None:
    """Draw the scale with its title and ends into the upper right corner of a box."""
    font = QFont(painter.font())
    font.setPointSizeF(9)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    wide = max(metrics.horizontalAdvance(title), 60) + 16
    line = metrics.height()
    ground = QRectF(box.right() - wide - 8, box.top() + 8, wide, _HEIGHT + line + 18)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(0, 0, 0, 170))
    painter.drawRoundedRect(ground, 4, 4)
    painter.setPen(QColor(255, 255, 255))
    head = QRectF(ground.left(), ground.top() + 4, wide, line)
    painter.drawText(head, int(Qt.AlignmentFlag.AlignCenter), title)
    bar = QRectF(ground.left() + 8, head.bottom() + 5, _WIDTH, _HEIGHT)
    gradient = QLinearGradient(QPointF(0, bar.bottom()), QPointF(0, bar.top()))
    for place, colour in zip(np.linspace(0, 1, _STOPS), scale_colours().colors, strict=True):
        gradient.setColorAt(float(place), QColor.fromRgbF(*(float(part) for part in colour)))
    painter.setBrush(gradient)
    painter.setPen(QPen(QColor(200, 200, 200), 0.8))
    painter.drawRect(bar)
    painter.setPen(QColor(255, 255, 255))
    words = {"disagreement": ("differ", "agree"), "margin": ("close", "sure")}[kind]
    top = {"disagreement": "≥ 0.3", "margin": "1"}[kind]
    for y, value, word in ((bar.top(), top, words[0]), (bar.bottom(), "0", words[1])):
        place = QRectF(bar.right() + 7, y - line / 2, wide - _WIDTH - 16, line)
        place.moveTop(min(max(place.top(), bar.top()), bar.bottom() - line))
        painter.drawText(place, int(Qt.AlignmentFlag.AlignVCenter), f"{value}  {word}")
