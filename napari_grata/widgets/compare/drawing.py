"""How masks, captions and lines are drawn over a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from qtpy.QtCore import QLineF, QPointF, QRectF, Qt
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen, QTransform

from napari_grata.review.outlines import Outline, dashes, outline, segments
from napari_grata.segmenters.card import Card, structure_mask

try:
    # Thousands of lines in one piece of memory; made one by one they would take 0.1 s.
    from pyqtgraph.Qt.internals import PrimitiveArray
except ImportError:
    PrimitiveArray = None

BEFORE, AFTER = "before", "after"
_AFTER_WIDTH, _BEFORE_WIDTH, _RIM = 4.0, 1.5, 1.4
_ALONE_WIDTH = {BEFORE: 2.0, AFTER: 3.2}
_PERIOD, _DASH = 8.0, 0.55


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


class Strokes:
    """The outline of one structure, ready to be drawn at any zoom.

    Straight pieces with cosmetic pens: Qt draws them ten times faster than paths.
    """

    def __init__(self, found: Outline) -> None:
        self._found = found
        self.solid = _lines(segments(found))
        self._period = 0.0
        self._dashes: tuple[Any, ...] = ()

    def dashes(self, period: float) -> tuple[Any, ...]:
        """Return dashes; ``period`` is the length of a dash and its gap in the layer's pixels."""
        # In rough steps, so that not every move of the mouse wheel makes new dashes.
        period = 2.0 ** (round(2 * math.log2(max(period, 1e-6))) / 2)
        if period != self._period:
            self._period = period
            self._dashes = _lines(dashes(self._found, _DASH * period, (1 - _DASH) * period))
        return self._dashes


Mask = dict[str, Strokes]


def _lines(pieces: np.ndarray) -> tuple[Any, ...]:
    """Return (row, column, row, column) pieces as what `QPainter.drawLines` takes, () for none."""
    if not len(pieces):
        return ()
    pieces = pieces[:, [1, 0, 3, 2]]
    if PrimitiveArray is None:
        return ([QLineF(*piece) for piece in pieces.tolist()],)
    lines = PrimitiveArray(QLineF, 4)
    lines.resize(len(pieces))
    lines.ndarray()[:] = pieces
    # The array owns the memory that its arguments point to.
    return _Kept(lines.drawargs(), lines)


class _Kept(tuple[Any, ...]):
    """Arguments, and what must live as long as they do."""

    owner: Any

    def __new__(cls, arguments: tuple[Any, ...], owner: Any) -> _Kept:
        made = super().__new__(cls, arguments)
        made.owner = owner
        return made


def trace(card: Card, label_map: np.ndarray, order: list[str]) -> Mask:
    """Return the outlines of the structures of a label map (H, W), in an order."""
    rows, columns = (np.flatnonzero(label_map.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return {}
    # A disc takes a hundredth of a photograph; the rest need not be gone through again and again.
    corner = np.array((rows[0], columns[0]), np.float32)
    label_map = label_map[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    lines = {name: outline(structure_mask(card, label_map, name)) for name in order}
    return {
        name: Strokes(replace(line, points=line.points + corner))
        for name, line in lines.items()
        if len(line)
    }


def draw_mask(
    painter: QPainter,
    mask: Mask,
    colours: Mapping[str, str],
    where: QTransform,
    which: str,
    *,
    alone: bool = False,
) -> None:
    """Draw outlines: before thin and dashed, after thick and solid.

    Told apart by width and dashes, not by colour alone; a line before that lies upon one after
    is seen as dashes within it.

    Parameters
    ----------
    where : QTransform
        From (column, row) in the mask's pixels to the screen.
    which : {BEFORE, AFTER}
    alone : bool
        The other mask is not in the same picture: no dashes, but still thinner before than after.
    """
    painter.save()
    painter.setTransform(where, True)
    scale = math.sqrt(abs(where.determinant()))
    for name, strokes in mask.items():
        colour = QColor(colours[name])
        if which == AFTER or alone:
            width = _AFTER_WIDTH if not alone else _ALONE_WIDTH[which]
            _stroke(painter, strokes.solid, QColor(20, 20, 20), width + _RIM)
            _stroke(painter, strokes.solid, colour, width)
        else:
            _stroke(painter, strokes.solid, QColor(0, 0, 0), _BEFORE_WIDTH)
            dashed = strokes.dashes(_PERIOD / scale) if scale else ()
            _stroke(painter, dashed, _pale(colour), _BEFORE_WIDTH)
    painter.restore()


def _stroke(painter: QPainter, lines: tuple[Any, ...], colour: QColor, width: float) -> None:
    if lines:
        pen = QPen(colour, width)
        pen.setCosmetic(True)
        pen.setCapStyle(Qt.PenCapStyle.SquareCap if width > 2 else Qt.PenCapStyle.FlatCap)
        painter.setPen(pen)
        painter.drawLines(*lines)


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


def draw_letter(painter: QPainter, letter: str, box: QRectF, edge: str) -> None:
    """Write a letter, such as L for the patient's left, at the middle of an edge of a box."""
    font = QFont(painter.font())
    font.setPointSizeF(9.5)
    font.setBold(True)
    painter.setFont(font)
    flags = {
        "top": Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignHCenter,
        "bottom": Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignHCenter,
        "left": Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
        "right": Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
    }[edge]
    inner = box.adjusted(6, 4, -6, -4)
    for shift, ink in ((1, QColor(0, 0, 0)), (0, QColor(255, 255, 255))):
        painter.setPen(ink)
        painter.drawText(inner.translated(shift, shift), int(flags), letter)
