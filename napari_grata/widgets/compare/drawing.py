"""How masks, captions and lines are drawn over a picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pyqtgraph.functions import arrayToQPath
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPainterPath, QPen, QTransform

from napari_grata.review.outlines import outline
from napari_grata.segmenters.card import Card, structure_mask

BEFORE, AFTER = "before", "after"
_AFTER_WIDTH, _BEFORE_WIDTH, _RIM = 4.0, 1.5, 1.4
_DASHES = (4.0, 3.5)


def drawing_order(card: Card, stack: np.ndarray) -> list[str]:
    """Return the structures' names, those that fill more of a stack of masks first.

    Where two share a border the smaller one's colour is seen, such as that of a ventricle.
    """
    counts = np.bincount(np.asarray(stack, dtype=np.uint8).ravel(), minlength=256)
    inside = {s.value: counts[s.value] for s in card.structures}
    for structure in card.structures:
        name = structure.inside
        while name is not None:
            outer = next(s for s in card.structures if s.name == name)
            inside[outer.value] += counts[structure.value]
            name = outer.inside
    return [s.name for s in sorted(card.structures, key=lambda s: -int(inside[s.value]))]


def mask_paths(card: Card, label_map: np.ndarray, order: list[str]) -> dict[str, QPainterPath]:
    """Return the outline of each structure in pixels, as (column, row), in an order."""
    found = {}
    for name in order:
        line = outline(structure_mask(card, label_map, name))
        if len(line):
            points = np.asarray(line.points, dtype=float)
            joined = line.joined.astype(np.int32)
            found[name] = arrayToQPath(points[:, 1].copy(), points[:, 0].copy(), connect=joined)
    return found


def draw_mask(
    painter: QPainter,
    paths: Mapping[str, QPainterPath],
    colours: Mapping[str, str],
    where: QTransform,
    which: str,
) -> None:
    """Draw outlines: before thin and dashed, after thick and solid.

    Told apart by width and dashes, not by colour alone; a line before that lies upon one after
    is seen as dashes within it.
    """
    painter.setBrush(Qt.BrushStyle.NoBrush)
    for name, path in paths.items():
        line = where.map(path)
        colour = QColor(colours[name])
        if which == AFTER:
            _stroke(painter, line, QColor(0, 0, 0, 140), _AFTER_WIDTH + _RIM)
            _stroke(painter, line, colour, _AFTER_WIDTH)
        else:
            _stroke(painter, line, QColor(0, 0, 0), _BEFORE_WIDTH)
            _stroke(painter, line, _pale(colour), _BEFORE_WIDTH, _DASHES)


def _stroke(
    painter: QPainter,
    path: QPainterPath,
    colour: QColor,
    width: float,
    dashes: tuple[float, ...] = (),
) -> None:
    pen = QPen(colour, width)
    pen.setJoinStyle(Qt.PenJoinStyle.BevelJoin)
    pen.setCapStyle(Qt.PenCapStyle.FlatCap)
    if dashes:
        pen.setDashPattern(list(dashes))
    painter.setPen(pen)
    painter.drawPath(path)


def _pale(colour: QColor) -> QColor:
    share = 0.5
    parts = (round(c + (255 - c) * share) for c in (colour.red(), colour.green(), colour.blue()))
    return QColor(*parts)


def draw_caption(painter: QPainter, text: str, box: QRectF, side: str = "left") -> None:
    """Write words on a dark ground at the foot of a box, at its left, right or middle."""
    font = QFont(painter.font())
    font.setPointSizeF(9.5)
    painter.setFont(font)
    metrics = QFontMetricsF(font)
    width, height = metrics.horizontalAdvance(text) + 14, metrics.height() + 6
    if width > box.width() - 8:
        text = metrics.elidedText(text, Qt.TextElideMode.ElideRight, max(0.0, box.width() - 22))
        width = metrics.horizontalAdvance(text) + 14
    if len(text) < 2:
        return
    left = {
        "left": box.left() + 8,
        "right": box.right() - 8 - width,
        "middle": box.center().x() - width / 2,
    }[side]
    ground = QRectF(left, box.bottom() - 8 - height, width, height)
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(QColor(0, 0, 0, 170))
    painter.drawRoundedRect(ground, 4, 4)
    painter.setPen(QColor(255, 255, 255))
    painter.drawText(ground, int(Qt.AlignmentFlag.AlignCenter), text)


def draw_line(
    painter: QPainter, begin: QPointF, end: QPointF, colour: QColor, width: float
) -> None:
    """Draw a line with a dark rim, to be seen on any ground."""
    painter.setPen(QPen(QColor(0, 0, 0, 150), width + 2))
    painter.drawLine(begin, end)
    painter.setPen(QPen(colour, width))
    painter.drawLine(begin, end)
