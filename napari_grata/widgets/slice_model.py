"""The slice table's model: rows, order and words, without a view."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor

from napari_grata.widgets.slice_rows import AreaUnit, SliceRow, flag_words, percent
from napari_grata.widgets.theme import ThemeColours, theme_colours, tip

SLICE, BEFORE, AFTER, CHANGE, DICE, FLAGS, MARK = range(7)
_HEADS = ("slice", "before", "after", "change", "agree", "look at", "")
_HEAD_TIPS = (
    "The slice, as the viewer counts it. Click a row, or press Enter on it, to go there.",
    "Area in the mask before: the source model's.",
    "Area in the mask after adaptation.",
    "After minus before. Sorts by size, whichever the sign.",
    "How well the two masks agree on this slice: 1 is the same, 0 has nothing in common.\n"
    "Dice coefficient between the mask before and the mask after; not a measure of truth.",
    "What a person should look at. It points, it does not judge.",
    "What was decided: ✓ accepted, ↩ mask before kept, ✎ being edited, ✕ rejected, "
    "2 for a second reader; ! the mask has changed since.",
)
ROW_ROLE = Qt.ItemDataRole.UserRole + 1


class SliceModel(QAbstractTableModel):
    """One row a slice, for one structure at a time, sorted by the model itself.

    Sorting here, by plain keys, takes a few milliseconds for ten thousand rows; a proxy model
    would call back into Python for every comparison.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._rows: list[SliceRow] = []
        self._place: dict[int, int] = {}  # slice index → position in _rows
        self._structure = ""
        self._unit = AreaUnit("px", 1.0, 0)
        self._column, self._descending = SLICE, False
        self._colours: ThemeColours = theme_colours("dark")
        self._marks: dict[int, tuple[str, str]] = {}

    # --- what the table calls --------------------------------------------------------------

    @property
    def rows(self) -> Sequence[SliceRow]:
        """The rows in the order shown."""
        return self._rows

    @property
    def structure(self) -> str:
        """The structure whose figures are shown."""
        return self._structure

    @property
    def unit(self) -> AreaUnit:
        """The unit of the areas shown."""
        return self._unit

    @property
    def sorted_by(self) -> tuple[int, bool]:
        """Column that decides the order, and whether it descends."""
        return self._column, self._descending

    def set_rows(self, rows: Iterable[SliceRow]) -> None:
        """Replace all rows."""
        self.beginResetModel()
        self._rows = list({row.slice_index: row for row in rows}.values())
        self._choose_unit()
        self._arrange()
        self.endResetModel()

    def set_structure(self, structure: str) -> None:
        """Show another structure's figures."""
        self._structure = structure
        self._choose_unit()
        self.resort()
        self._changed_all()

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        self._changed_all()

    def set_marks(self, marks: dict[int, tuple[str, str]]) -> None:
        """Show what was decided: a sign and its words for each slice that has any."""
        if marks != self._marks:
            self._marks = dict(marks)
            if self._column == MARK:
                self.resort()
            self._changed_all()

    def update_row(self, row: SliceRow) -> None:
        """Replace the row of a slice where it stands, or append it; `resort` puts it in order."""
        place = self._place.get(row.slice_index)
        if place is None:
            place = len(self._rows)
            self.beginInsertRows(QModelIndex(), place, place)
            self._rows.append(row)
            self._place[row.slice_index] = place
            self.endInsertRows()
        else:
            self._rows[place] = row
            self.dataChanged.emit(self.index(place, 0), self.index(place, MARK))

    def refresh(self) -> None:
        """After a burst of `update_row`: choose the unit anew and put the rows in order."""
        before = self._unit
        self._choose_unit()
        self.resort()
        if self._unit != before:
            self._changed_all()

    def row_of(self, slice_index: int) -> int | None:
        """Return where a slice stands, None if it has no row."""
        return self._place.get(slice_index)

    # --- order -------------------------------------------------------------------------------

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; rows without a figure come last either way."""
        self._column = column
        self._descending = order == Qt.SortOrder.DescendingOrder
        self.resort()
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, SLICE, MARK)

    def resort(self) -> None:
        """Put rows in order again, keeping what the view has selected."""
        if not self._out_of_order():
            return
        self.layoutAboutToBeChanged.emit()
        held = self.persistentIndexList()
        slices = [self._rows[index.row()].slice_index for index in held]
        self._arrange()
        moved = [
            self.index(self._place[slice_index], index.column())
            for slice_index, index in zip(slices, held, strict=True)
        ]
        self.changePersistentIndexList(held, moved)
        self.layoutChanged.emit()

    def _out_of_order(self) -> bool:
        """Whether sorting would move anything; a redraw of all rows is saved if not."""
        if self._column == SLICE and not self._descending:
            indices = [row.slice_index for row in self._rows]
            return any(one > other for one, other in pairwise(indices))
        return True

    def _arrange(self) -> None:
        self._rows.sort(key=lambda row: row.slice_index)
        if self._column != SLICE or self._descending:
            known = [(key, row) for row in self._rows if (key := self._key(row)) is not None]
            rest = [row for row in self._rows if self._key(row) is None]
            known.sort(key=lambda pair: pair[0], reverse=self._descending)
            self._rows = [row for _, row in known] + rest
        self._place = {row.slice_index: place for place, row in enumerate(self._rows)}

    def _key(self, row: SliceRow) -> float | None:
        value: float | None
        if self._column == SLICE:
            value = row.slice_index
        elif self._column == BEFORE:
            value = row.before.get(self._structure)
        elif self._column == AFTER:
            value = row.after.get(self._structure)
        elif self._column == CHANGE:
            change = row.change(self._structure)
            value = None if change is None else abs(change)
        elif self._column == DICE:
            value = row.dice.get(self._structure)
        elif self._column == MARK:
            # What is not decided yet comes first; that is what a reader looks for.
            sign = self._marks.get(row.slice_index, ("", ""))[0]
            value = ord(sign[0]) if sign else 0
        else:
            value = len(row.flags)
        return None if value is None or math.isnan(value) else value

    def _choose_unit(self) -> None:
        unit = AreaUnit.of(self._rows, self._structure)
        if unit != self._unit:
            self._unit = unit
            self.headerDataChanged.emit(Qt.Orientation.Horizontal, BEFORE, CHANGE)

    def _changed_all(self) -> None:
        if self._rows:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._rows) - 1, MARK))

    # --- Qt's side -----------------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of slices."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_HEADS)

    def headerData(  # noqa: N802 - Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return a column's name with its unit, and what it means."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            unit = self._unit.name if section in (BEFORE, AFTER, CHANGE) else ""
            arrow = ("▾" if self._descending else "▴") if section == self._column else ""
            return f"{_HEADS[section]}\n{unit} {arrow}".rstrip(" ")
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(section)
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(_HEAD_TIPS[section])
        if role == Qt.ItemDataRole.InitialSortOrderRole:
            # The first click shows what matters: the largest change, the least agreement.
            rising = section in (SLICE, DICE, MARK)
            order = Qt.SortOrder.AscendingOrder if rising else Qt.SortOrder.DescendingOrder
            return _number(order)
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        row, column = self._rows[index.row()], index.column()
        if role == Qt.ItemDataRole.DisplayRole:
            return self.words(row, column)
        if role == Qt.ItemDataRole.ToolTipRole:
            return self._tip(row, column)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(column)
        if role == Qt.ItemDataRole.ForegroundRole and column == FLAGS and row.flags:
            return QColor(self._colours.attention)
        if role == ROW_ROLE:
            return row
        return None

    def words(self, row: SliceRow, column: int) -> str:
        """Return the text of one cell."""
        structure = self._structure
        if column == SLICE:
            return row.slice_name
        if column == BEFORE:
            return self._unit.write(row.before.get(structure))
        if column == AFTER:
            return self._unit.write(row.after.get(structure))
        if column == CHANGE:
            return self._unit.write(row.change(structure), signed=True)
        if column == DICE:
            dice = row.dice.get(structure)
            return "" if dice is None or math.isnan(dice) else f"{dice:.2f}"
        if column == MARK:
            return self._marks.get(row.slice_index, ("", ""))[0]
        return ", ".join(flag_words(flag) for flag in row.flags)

    def _tip(self, row: SliceRow, column: int) -> str:
        if column == MARK:
            return tip(self._marks.get(row.slice_index, ("", "Not decided yet."))[1])
        if column == FLAGS or (column == SLICE and row.flags):
            return tip("\n".join([row.slice_name, *(flag.text for flag in row.flags)]))
        if column == CHANGE:
            before = row.before.get(self._structure, 0)
            relative = percent(before, row.after.get(self._structure, 0))
            return tip(f"{self.words(row, CHANGE)} {self._unit.name}, {relative}")
        return row.slice_name


def _alignment(column: int) -> int:
    words = column in (SLICE, FLAGS, MARK)
    side = Qt.AlignmentFlag.AlignLeft if words else Qt.AlignmentFlag.AlignRight
    # A plain number, since PyQt5 takes no combined flag from a model.
    return _number(side) | _number(Qt.AlignmentFlag.AlignVCenter)


def _number(flag: Any) -> int:
    return int(getattr(flag, "value", flag))
