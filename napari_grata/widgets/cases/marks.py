"""A mark for each state of a case: another colour and another shape, both told apart by all."""

from __future__ import annotations

from qtpy.QtCore import QPointF, QRect, QRectF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF

from napari_grata.review.cases import CaseState
from napari_grata.widgets.theme import ThemeColours

# Okabe and Ito (2008).
STATE_COLOURS = {
    CaseState.NEW: "#888888",
    CaseState.SEGMENTED: "#888888",
    CaseState.ADAPTED: "#56B4E9",
    CaseState.FLAGGED: "#E69F00",
    CaseState.ACCEPTED: "#009E73",
    CaseState.KEPT_SOURCE: "#009E73",
    CaseState.EDITED: "#CC79A7",
    CaseState.REJECTED: "#D55E00",
    CaseState.SECOND_READER: "#0072B2",
    CaseState.FAILED: "#D55E00",
}


def draw_mark(painter: QPainter, state: CaseState, place: QRect, colours: ThemeColours) -> None:
    """Draw a state's mark into a square."""
    box = QRectF(place).adjusted(0.5, 0.5, -0.5, -0.5)
    colour = QColor(STATE_COLOURS[state])
    if state is CaseState.SECOND_READER and colours.dark:
        colour = colour.lighter(150)
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    pen = QPen(colour, 1.6)
    pen.setCapStyle(Qt.PenCapStyle.RoundCap)
    painter.setPen(pen)
    if state is CaseState.NEW:
        painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.drawEllipse(box)
    elif state is CaseState.SEGMENTED:
        painter.drawEllipse(box)
        painter.setBrush(colour)
        painter.drawPie(box, 90 * 16, 180 * 16)
    elif state is CaseState.ADAPTED:
        painter.setBrush(colour)
        painter.drawEllipse(box)
    elif state is CaseState.FLAGGED:
        painter.setBrush(colour)
        painter.drawPolygon(
            QPolygonF([QPointF(box.center().x(), box.top()), box.bottomRight(), box.bottomLeft()])
        )
    elif state in (CaseState.REJECTED, CaseState.FAILED):
        painter.setPen(QPen(colour, 2.2))
        if state is CaseState.REJECTED:
            painter.drawLine(box.topLeft(), box.bottomRight())
            painter.drawLine(box.topRight(), box.bottomLeft())
        else:
            _write(painter, box, "!", colour)
    elif state is CaseState.SECOND_READER:
        painter.setBrush(colour)
        painter.drawRoundedRect(box, 2, 2)
        _write(painter, box, "2", QColor("#ffffff"))
    elif state is CaseState.EDITED:
        painter.setPen(QPen(colour, 3))
        painter.drawLine(box.bottomLeft() + QPointF(1, -1), box.topRight() + QPointF(-1, 1))
    else:
        painter.setPen(QPen(colour, 2.2))
        middle = QPointF(box.left() + box.width() * 0.38, box.bottom() - 1)
        painter.drawLine(QPointF(box.left(), box.center().y() + 1), middle)
        painter.drawLine(middle, QPointF(box.right(), box.top() + 1))
        if state is CaseState.KEPT_SOURCE:
            painter.setPen(QPen(colour, 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(box)
    painter.restore()


def _write(painter: QPainter, box: QRectF, text: str, ink: QColor) -> None:
    font = painter.font()
    font.setPixelSize(round(box.height()))
    font.setBold(True)
    painter.setFont(font)
    painter.setPen(ink)
    painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
