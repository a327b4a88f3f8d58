"""Paints the lines of the list: picture, name, state as mark and word, change, flags, shift."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPoint, QRect, QSize, Qt
from qtpy.QtGui import QColor, QFont, QFontMetrics, QPainter
from qtpy.QtWidgets import QStyle, QStyledItemDelegate

from napari_grata.widgets.cases.marks import STATE_COLOURS, draw_mark
from napari_grata.widgets.cases.model import ROW_ROLE
from napari_grata.widgets.cases.pictures import SIDE, Pictures
from napari_grata.widgets.cases.rows import CaseRow
from napari_grata.widgets.theme import ThemeColours, blend, theme_colours

_PAD = 3
_MARK = 11


class CaseDelegate(QStyledItemDelegate):
    """Draws two lines of text beside a small picture; all rows are of one height.

    Parameters
    ----------
    pictures : Pictures
    parent : QWidget
    """

    def __init__(self, pictures: Pictures, parent: Any = None) -> None:
        super().__init__(parent)
        self._pictures = pictures
        self._current: str | None = None
        self.set_colours(theme_colours("dark"))

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        self._text, self._muted = QColor(colours.text), QColor(colours.muted)
        self._attention, self._wrong = QColor(colours.attention), QColor(colours.wrong)
        self._accent, self._line = QColor(colours.accent), QColor(colours.grid)
        self._chosen = QColor(blend(colours.background, colours.accent, 0.28))
        self._focused = QColor(blend(colours.background, colours.text, 0.12))
        self._empty = QColor(colours.foreground)

    def set_current(self, key: str | None) -> None:
        """Mark the case in view."""
        self._current = key

    def sizeHint(self, option: Any, index: Any) -> QSize:  # noqa: N802 - Qt's name
        """Return the one size of all rows."""
        text = 2 * QFontMetrics(option.font).height() + 8
        return QSize(120, max(SIDE + 2 * _PAD, text))

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        """Draw one line."""
        row: CaseRow | None = index.data(ROW_ROLE)
        if row is None:
            return
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        box: QRect = option.rect
        current = row.key == self._current
        if current:
            painter.fillRect(box, self._chosen)
            painter.fillRect(QRect(box.left(), box.top(), 3, box.height()), self._accent)
        elif option.state & (QStyle.StateFlag.State_Selected | QStyle.StateFlag.State_MouseOver):
            painter.fillRect(box, self._focused)
        if option.state & QStyle.StateFlag.State_HasFocus:
            painter.setPen(self._accent)
            painter.drawRect(box.adjusted(0, 0, -1, -1))
        place = QRect(box.left() + 7, box.center().y() - SIDE // 2 + 1, SIDE, SIDE)
        self._draw_picture(painter, row, place)
        text = box.adjusted(place.right() - box.left() + 8, _PAD, -6, -_PAD)
        self._draw_words(painter, option.font, row, text, current)
        if row.work:
            self._draw_progress(painter, row, box)
        painter.restore()

    def _draw_picture(self, painter: QPainter, row: CaseRow, place: QRect) -> None:
        picture = self._pictures.get(row.key)
        if picture is None:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(self._empty)
            painter.drawRoundedRect(place, 3, 3)
            painter.setPen(self._muted)
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, str(row.number))
            return
        size = picture.size() / picture.devicePixelRatio()
        corner = place.center() - QPoint(size.width() // 2, size.height() // 2)
        painter.drawPixmap(corner, picture)

    def _draw_words(
        self, painter: QPainter, font: QFont, row: CaseRow, box: QRect, current: bool
    ) -> None:
        height = box.height() // 2
        first = QRect(box.left(), box.top(), box.width(), height)
        second = QRect(box.left(), box.top() + height, box.width(), height)
        bold = QFont(font)
        bold.setBold(current)
        flags = f"⚑ {row.flags}" if row.flags else ""
        used = self._right(painter, font, first, flags, self._attention)
        self._left(painter, bold, first, used, row.title, self._text, middle=True)
        figures = row.change_words
        used = self._right(painter, font, second, figures, self._muted)
        if row.shift_words:
            used += self._right(
                painter, font, second.adjusted(0, 0, -used, 0), shift_word(row), self._muted
            )
        mark = QRect(second.left(), second.center().y() - _MARK // 2 + 1, _MARK, _MARK)
        draw_mark(painter, row.state, mark, self._colours)
        words = row.work or row.state.title
        ink = self._accent if row.work else self._wrong if row.problem else self._muted
        painter.setPen(ink)
        self._left(
            painter, font, second.adjusted(_MARK + 5, 0, 0, 0), used, words, ink, middle=False
        )

    @staticmethod
    def _right(painter: QPainter, font: QFont, box: QRect, words: str, ink: QColor) -> int:
        """Write at the right end and return how much room that took."""
        if not words:
            return 0
        painter.setFont(font)
        painter.setPen(ink)
        painter.drawText(box, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, words)
        return int(QFontMetrics(font).horizontalAdvance(words)) + 8

    @staticmethod
    def _left(
        painter: QPainter,
        font: QFont,
        box: QRect,
        used: int,
        words: str,
        ink: QColor,
        *,
        middle: bool,
    ) -> None:
        # Names of cases differ at their end more often than not.
        elide = Qt.TextElideMode.ElideMiddle if middle else Qt.TextElideMode.ElideRight
        room = box.adjusted(0, 0, -used, 0)
        painter.setFont(font)
        painter.setPen(ink)
        text = QFontMetrics(font).elidedText(words, elide, max(0, room.width()))
        painter.drawText(room, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)

    def _draw_progress(self, painter: QPainter, row: CaseRow, box: QRect) -> None:
        line = QRect(box.left() + 7, box.bottom() - 2, box.width() - 13, 2)
        painter.fillRect(line, self._line)
        line.setWidth(round(line.width() * min(1.0, max(0.0, row.share))))
        painter.fillRect(line, self._accent)


def shift_word(row: CaseRow) -> str:
    """Return how far a case is from the source centre, in a word."""
    first = row.shift_words.split(" ", 1)[0].lower()
    return {"close": "near", "farther": "farther", "far": "far", "all": "near"}.get(first, "")


__all__ = ["STATE_COLOURS", "CaseDelegate", "shift_word"]
