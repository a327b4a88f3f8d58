"""The picture of a weighing: a row a candidate, a dot a reviewed slice, per structure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFont, QFontMetricsF, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from napari_grata.review.candidates import SOURCE
from napari_grata.review.choice_record import excerpt
from napari_grata.widgets.context import Context
from napari_grata.widgets.theme import tip

if TYPE_CHECKING:
    from napari_grata.review.choosing import Choice, Row, Weighing
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

NOTHING_YET = (
    "What your reviewed slices say of each mask is drawn here: propose slices in step Correct and "
    "choose, say what is right there, and weigh."
)
_ROW, _LEAST_ROW, _HEAD, _FOOT, _GAP = 20.0, 12.0, 16.0, 14.0, 12.0
_FONT_SIZE = 8
_UNIT = "gain, points of Dice"
# In a stack the Dice of the whole counts: a slice weighs as much as it shows of the structure.
_UNIT_OF_STACK = "gain × size, points of Dice"
_DOT = 3.0
# Of many structures as many are drawn as have so much room each.
_NARROWEST = 90.0
# Harm that is so many times the largest gain is cut off, or it would hide the gains.
_CUT, _LEAST_REACH = 2.0, 2.0


def points(share: float) -> str:
    """Return a share of Dice as signed points: "+1.4"."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


@dataclass(frozen=True)
class PictureRow:
    """One line of the picture: a candidate as it is, or with fitted thresholds.

    Attributes
    ----------
    candidate, title : str
    cells : dict of str to Row
        By structure.
    """

    candidate: str
    title: str
    cells: dict[str, Row] = field(default_factory=dict)


def picture_rows(weighing: Weighing) -> list[PictureRow]:
    """Return the lines of a weighing, each candidate's fitted thresholds below it."""
    lines: dict[tuple[str, bool], PictureRow] = {}
    for row in weighing.rows:
        fitted = bool(row.shift)
        title = "    + threshold" if fitted else row.title
        line = lines.setdefault((row.candidate, fitted), PictureRow(row.candidate, title))
        line.cells[row.structure] = row
    order = list(dict.fromkeys(candidate for candidate, _ in lines))
    return [lines[key] for key in sorted(lines, key=lambda key: (order.index(key[0]), key[1]))]


def reach(rows: Iterable[Row]) -> tuple[float, float]:
    """Return the ends of an axis, in points of Dice: all gains, and harm up to a limit.

    An interval that reaches on says that nothing is known, which its cut ends say as well.
    """
    values = [
        100 * value
        for row in rows
        for value in (*row.gains.values(), *([row.estimate.high] if row.consistent else []))
    ]
    high = max([_LEAST_REACH, *values])
    low = max(min([-_LEAST_REACH, *values]), -_CUT * high)
    room = 0.05 * (high - low)
    return low - room, high + room


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round values within an axis, 0 among them, at most so many."""
    for power in range(-2, 4):
        for unit in (1, 2, 5):
            step = unit * 10.0**power
            first, last = math.ceil(low / step), math.floor(high / step)
            if last - first < max(most, 1):
                return [step * number for number in range(first, last + 1)]
    return [0.0]


class WeighPicture(QWidget):
    """Gains over the mask before on the reviewed slices, and what they let expect elsewhere.

    Attributes
    ----------
    spots : list of (QRectF, int or None, str)
        Places with a slice (None: a whole row) and words, dots before rows.

    Signals
    -------
    slice_requested(int)
        The user clicked the dot of a slice.
    """

    slice_requested = Signal(int)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.weighing: Weighing | None = None
        self._shown: Weighing | None = None
        self.rows: list[PictureRow] = []
        # Structure, candidate and whether with a threshold, of what is recommended.
        self._picked: set[tuple[str, str, bool]] = set()
        self._scan: Scan | None = None
        self._card: Card | None = None
        self.spots: list[tuple[QRectF, int | None, str]] = []
        self.setAccessibleName("Gain of each candidate over the mask before")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)

    def show_weighing(
        self,
        weighing: Weighing | None = None,
        choice: Choice | None = None,
        card: Card | None = None,
        scan: Scan | None = None,
    ) -> None:
        """Draw a weighing with what is recommended; without one, nothing."""
        self.weighing, self._card, self._scan = weighing, card, scan
        picks = choice.picks if choice is not None else ()
        self._picked = {(pick.structure, pick.candidate, bool(pick.shift)) for pick in picks}
        self._shown = excerpt(weighing) if weighing is not None else None
        self.rows = picture_rows(self._shown) if self._shown is not None else []
        self.setMinimumHeight(self._height(_LEAST_ROW) if self.rows else 0)
        self.setAccessibleDescription(choice.words if choice is not None else "")
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the size at which nothing is crowded."""
        return QSize(420, self._height(_ROW))

    def _unit(self) -> str:
        return _UNIT_OF_STACK if self._scan is not None and self._scan.is_stack else _UNIT

    def _height(self, row: float) -> int:
        return int(_HEAD + _FOOT + row * len(self.rows)) + 1

    # --- drawing ---------------------------------------------------------------------------------

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw titles, and a panel for each structure."""
        self.spots = []
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        font = painter.font()
        font.setPointSize(_FONT_SIZE)
        painter.setFont(font)
        if self._shown is not None and self._card is not None and self.rows:
            self._paint(painter, self._shown)
        else:
            painter.setPen(QColor(self._context.theme.muted))
            flags = int(Qt.AlignmentFlag.AlignCenter) | int(Qt.TextFlag.TextWordWrap)
            painter.drawText(QRectF(self.rect()).adjusted(20, 0, -20, 0), flags, NOTHING_YET)
        painter.end()

    def _paint(self, painter: QPainter, weighing: Weighing) -> None:
        row = min(max((self.height() - _HEAD - _FOOT) / len(self.rows), _LEAST_ROW), 1.4 * _ROW)
        strong = QFont(painter.font())
        strong.setBold(True)  # as the titles of what is recommended
        metrics = QFontMetricsF(strong)
        titles = [*(line.title for line in self.rows), self._unit()]
        left = min(max(map(metrics.horizontalAdvance, titles)) + 12, 0.35 * self.width())
        assert self.weighing is not None
        structures, total = weighing.structures, len(self.weighing.structures)
        if weighing is not self.weighing:
            room = max(1, int((self.width() - left) / _NARROWEST) - 1)
            structures = (*structures[:-1][:room], structures[-1])
        wide = (self.width() - left) / len(structures) - _GAP
        self._paint_titles(painter, left, row)
        for place, structure in enumerate(structures):
            area = QRectF(
                left + place * (wide + _GAP) + _GAP / 2, _HEAD, wide, row * len(self.rows)
            )
            self._paint_panel(painter, structure, area, row)
        if weighing is not self.weighing:
            place, count = QRectF(4, 0, left - 8, _HEAD), len(structures) - 1
            painter.setPen(QColor(self._context.theme.muted))
            painter.drawText(place, int(Qt.AlignmentFlag.AlignVCenter), f"{count} of {total}")
            words = (
                f"{count} of {total} structures are drawn, those that candidates change most, and "
                "the mean of all. The figures of all are in the record of the choice."
            )
            self.spots.append((place, None, words))
        # A dot lies within its row, so the narrower place is asked first.
        self.spots.sort(key=lambda spot: spot[1] is None)

    def _is_picked(self, cell: Row) -> bool:
        return (cell.structure, cell.candidate, bool(cell.shift)) in self._picked

    def _paint_titles(self, painter: QPainter, left: float, row: float) -> None:
        plain = painter.font()
        strong = QFont(plain)
        strong.setBold(True)
        for number, line in enumerate(self.rows):
            better = line.candidate != SOURCE or any(cell.shift for cell in line.cells.values())
            chosen = better and any(map(self._is_picked, line.cells.values()))
            painter.setFont(strong if chosen else plain)
            painter.setPen(QColor(self._context.theme.text))
            place = QRectF(4, _HEAD + number * row, left - 8, row)
            text = painter.fontMetrics().elidedText(
                line.title, Qt.TextElideMode.ElideRight, int(place.width())
            )
            painter.drawText(place, int(Qt.AlignmentFlag.AlignVCenter), text)
            if text != line.title:
                self.spots.append((place, None, line.title))
        painter.setFont(plain)
        painter.setPen(QColor(self._context.theme.muted))
        place = QRectF(4, _HEAD + len(self.rows) * row + 1, left - 8, _FOOT)
        painter.drawText(place, int(Qt.AlignmentFlag.AlignTop), self._unit())

    def _paint_panel(self, painter: QPainter, structure: str, area: QRectF, row: float) -> None:
        # An axis each: what is much for one structure is little for another.
        axis = reach(line.cells[structure] for line in self.rows if structure in line.cells)
        colours, (low, high) = self._context.theme, axis

        def x(value: float) -> float:
            return area.left() + (value - low) / (high - low) * area.width()

        self._paint_head(painter, structure, area)
        middle = int(Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop)
        room = painter.fontMetrics().horizontalAdvance("−00.0") + 8
        for value in ticks(low, high, int(area.width() // room)):
            zero = value == 0
            ink = QColor(colours.muted if zero else colours.grid)
            painter.setPen(QPen(ink, 1.5 if zero else 1))
            painter.drawLine(QPointF(x(value), area.top()), QPointF(x(value), area.bottom()))
            painter.setPen(QColor(colours.muted))
            text = f"{value:+g}".replace("-", "−") if value else "0"
            place = QRectF(x(value) - room / 2, area.bottom() + 1, room, _FOOT)
            painter.drawText(place, middle, text)
        for number, line in enumerate(self.rows):
            cell = line.cells.get(structure)
            if cell is None:
                continue
            band = QRectF(area.left(), area.top() + number * row, area.width(), row)
            strong = self._is_picked(cell)
            if strong:
                stays = line.candidate == SOURCE and not cell.shift
                tint = QColor(colours.muted if stays else colours.accent)
                tint.setAlpha(40 if stays else 70)
                painter.fillRect(band.adjusted(0, 1, 0, -1), tint)
            self._paint_cell(painter, cell, band, axis, strong=strong)

    def _paint_head(self, painter: QPainter, structure: str, area: QRectF) -> None:
        assert self._card is not None
        for colour in (one.colour for one in self._card.structures if one.name == structure):
            painter.setPen(QPen(QColor(128, 128, 128, 180), 1))
            painter.setBrush(QColor(colour))
            painter.drawRoundedRect(QRectF(area.left(), 4, 9, 9), 2, 2)
        painter.setPen(QColor(self._context.theme.text))
        place = QRectF(area.left() + 14, 0, area.width() - 14, _HEAD)
        text = painter.fontMetrics().elidedText(
            structure, Qt.TextElideMode.ElideMiddle, int(place.width())
        )
        painter.drawText(place, int(Qt.AlignmentFlag.AlignVCenter), text)

    def _paint_cell(
        self, painter: QPainter, cell: Row, band: QRectF, axis: tuple[float, float], *, strong: bool
    ) -> None:
        colours, (low, high), found = self._context.theme, axis, cell.estimate
        middle = band.center().y()

        def x(share: float) -> float:
            value = min(max(100 * share, low), high)
            return band.left() + (value - low) / (high - low) * band.width()

        self.spots.append((band, None, self._row_words(cell)))
        if cell.candidate != SOURCE or cell.shift:
            better = cell.consistent and cell.telling
            pen = QPen(QColor(colours.accent if better else colours.muted))
            pen.setWidthF(3.0 if strong else 2.0)
            painter.setPen(pen)
            if not math.isnan(found.low):
                painter.drawLine(QPointF(x(found.low), middle), QPointF(x(found.high), middle))
            for share, half in ((found.low, 2.5), (found.high, 2.5), (found.mean, 5.0)):
                if low <= 100 * share <= high:
                    place = x(share)
                    painter.drawLine(QPointF(place, middle - half), QPointF(place, middle + half))
        assert self.weighing is not None
        count = len(self.weighing.slices)
        spread = min(2.0, (band.height() - 2 * _DOT - 1) / max(count - 1, 1))
        ink = QColor(colours.text)
        ink.setAlpha(210)
        painter.setPen(QPen(QColor(colours.background), 1))
        painter.setBrush(ink)
        for number, index in enumerate(self.weighing.slices):
            gain = cell.gains.get(index)
            if gain is None:
                continue
            at = QPointF(x(gain), middle + (number - (count - 1) / 2) * spread)
            cut = not low <= 100 * gain <= high
            if cut:
                # Beyond the axis: an arrow at its end.
                side = -1 if 100 * gain < low else 1
                tip_at = QPointF(at.x() + side, at.y())
                back = at.x() - side * 2 * _DOT
                corners = (QPointF(back, at.y() - _DOT), QPointF(back, at.y() + _DOT))
                painter.drawPolygon(QPolygonF([tip_at, *corners]))
            else:
                painter.drawEllipse(at, _DOT, _DOT)
            around = QRectF(at.x() - 2 * _DOT, at.y() - _DOT - 1, 4 * _DOT, 2 * _DOT + 2)
            self.spots.append((around, index, self._dot_words(cell, index)))

    # --- words -----------------------------------------------------------------------------------

    def _dot_words(self, cell: Row, index: int) -> str:
        name = self._scan.slice_name(index) if self._scan is not None else str(index + 1)
        dice = cell.dice.get(index)
        there = "" if dice is None else f"Dice {100 * dice:.1f} with your mask, "
        return (
            f"{name}, {cell.structure}, {_named(cell)}: {there}{points(cell.gains[index])} points "
            "over the mask before. A click goes there."
        )

    @staticmethod
    def _row_words(cell: Row) -> str:
        if cell.candidate == SOURCE and not cell.shift:
            return f"{cell.structure}: the mask before, with which all others are compared."
        found = cell.estimate
        if math.isnan(found.low):
            return (
                f"{cell.structure}, {_named(cell)}: {points(found.mean)} points of Dice expected."
            )
        verdict = "consistent" if cell.telling else "it hardly differs on the reviewed slices"
        if not cell.consistent:
            verdict = "not consistent, so not recommended"
        return (
            f"{cell.structure}, {_named(cell)}: {points(found.mean)} points of Dice expected on "
            f"the other slices ({points(found.low)} to {points(found.high)}); {verdict}."
        )

    # --- mouse -----------------------------------------------------------------------------------

    def _spot(self, place: QPointF) -> tuple[QRectF, int | None, str] | None:
        return next((spot for spot in self.spots if spot[0].contains(place)), None)

    def event(self, event: Any) -> bool:
        """Say what lies under the mouse."""
        if event.type() == QEvent.Type.ToolTip:
            spot = self._spot(QPointF(event.pos()))
            if spot is None:
                QToolTip.hideText()
            else:
                QToolTip.showText(event.globalPos(), tip(spot[2]), self)
            return True
        return bool(super().event(event))

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go to the slice of a dot."""
        spot = self._spot(QPointF(event.pos()))
        if event.button() == Qt.MouseButton.LeftButton and spot is not None and spot[1] is not None:
            self.slice_requested.emit(spot[1])


def _named(cell: Row) -> str:
    moved = f", threshold moved by {cell.shift:+g}".replace("-", "−") if cell.shift else ""
    return f"{cell.title}{moved}"
