"""The one table: a DataFrame in a view that sorts, marks a row, copies and exports.

A column is one entry (`Column`): name, words, value, format, colour.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from napari.utils.notifications import show_error
from qtpy.QtCore import QAbstractTableModel, QEvent, QModelIndex, QPoint, Qt, Signal
from qtpy.QtGui import QColor, QGuiApplication, QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QMenu,
    QStyledItemDelegate,
    QTableView,
    QWidget,
)

from napari_grata.scans.safefiles import write_bytes
from napari_grata.widgets.store import SettingsStore
from napari_grata.widgets.theme import ThemeColours, blend, theme_colours, tip

_MARKED = Qt.ItemDataRole.UserRole + 1
_MEASURED_ROWS = 400  # texts of so many rows decide how wide a column of words is


def words(value: Any) -> str:
    """Return a cell's text: "" for what is not known."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        Of the DataFrame's column, and of the head of what is copied.
    title : str
        On the head.
    tip : str
        What it means, for the head's tooltip.
    value : callable, optional
        Makes the cell's value from an item; see `frame_of`.
    form : callable
        Writes a value for the screen.
    numeric : bool
        Numbers stand to the right and are copied as a spreadsheet reads them.
    key : callable, optional
        What of a value decides the order, such as its size without the sign.
    descending : bool
        Whether the first click on the head shows the largest first.
    colour : callable, optional
        Returns the colour of a value's text in a theme, or None.
    cell_tip : callable, optional
        Returns the tooltip of a cell from its row, a dict by column name; text by default.
    """

    name: str
    title: str
    tip: str = ""
    value: Callable[[Any], Any] | None = None
    form: Callable[[Any], str] = words
    numeric: bool = True
    key: Callable[[Any], Any] | None = None
    descending: bool = False
    colour: Callable[[Any, ThemeColours], str | None] | None = None
    cell_tip: Callable[[dict[str, Any]], str] | None = None


def write_csv(path: str | Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table that appears complete or not at all."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(heads)
    writer.writerows(rows)
    write_bytes(Path(path), stream.getvalue().encode("utf-8-sig"))


def frame_of(
    items: Iterable[Any], columns: Sequence[Column], keys: Iterable[Hashable]
) -> pd.DataFrame:
    """Return the table of items, a row each; ``keys`` tells the rows apart."""
    listed = list(items)
    cells = {c.name: [c.value(item) for item in listed] for c in columns if c.value is not None}
    return pd.DataFrame(cells, index=pd.Index(list(keys), dtype=object))


class FrameModel(QAbstractTableModel):
    """Rows of a DataFrame in an order of its own, by plain keys.

    A proxy model would call back into Python for every comparison; ten thousand rows sort here in
    some milliseconds.
    """

    def __init__(self, columns: Sequence[Column], parent: Any = None) -> None:
        super().__init__(parent)
        self.columns = list(columns)
        self.colours = theme_colours("dark")
        self.frame = pd.DataFrame()
        self.marked: Hashable = None
        self.sorted_by, self.descending = 0, False
        self._cells: list[list[Any]] = [[] for _ in columns]
        self._order: list[int] = []  # place on the screen → row of the frame
        self._place: dict[Hashable, int] = {}  # key → place on the screen

    # --- what the table calls ----------------------------------------------------------------

    def set_frame(self, frame: pd.DataFrame) -> None:
        """Show other values; rows that stay keep their selection."""
        same = len(self.frame) and len(frame) >= len(self.frame)
        same = same and list(frame.index[: len(self.frame)]) == list(self.frame.index)
        if not same:
            self.beginResetModel()
            self._take(frame)
            self.endResetModel()
            return
        before, more = len(self.frame), len(frame) - len(self.frame)
        if more:
            self.beginInsertRows(QModelIndex(), before, before + more - 1)
            self._order += range(before, before + more)
            self._place.update((key, before + i) for i, key in enumerate(frame.index[before:]))
        self._set_cells(frame)
        if more:
            self.endInsertRows()
        self._resort()
        self._redraw()

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Write the same columns another way, such as in another unit."""
        self.columns = list(columns)
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.columns) - 1)
        self._redraw()

    def set_marked(self, key: Hashable) -> None:
        """Mark one row, such as the slice in view; None: none."""
        rows = [self._place.get(k) for k in (self.marked, key) if k is not None]
        self.marked = key
        for row in rows:
            if row is not None:
                self.dataChanged.emit(self.index(row, 0), self.index(row, len(self.columns) - 1))

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self.colours = colours
        self._redraw()

    def key_at(self, row: int) -> Hashable:
        """Return the key of the row at a place on the screen."""
        found: Hashable = self.frame.index[self._order[row]]
        return found

    def row_of(self, key: Hashable) -> int | None:
        """Return where a row stands on the screen, None if there is none."""
        return self._place.get(key)

    def keys(self) -> list[Hashable]:
        """Return the rows' keys in the order shown."""
        return [self.frame.index[i] for i in self._order]

    def text(self, row: int, column: int) -> str:
        """Return what a cell shows."""
        return self.columns[column].form(self._cells[column][self._order[row]])

    def width_texts(self, column: int) -> list[str]:
        """Return the texts of which one is the widest of its column."""
        entry, cells = self.columns[column], self._cells[column]
        if not entry.numeric:
            return [entry.form(value) for value in cells[:_MEASURED_ROWS]]
        known = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").dropna()
        # The widest number is the largest, or the one furthest below zero, or has all its digits.
        sample = [known.min(), known.max(), *known[:_MEASURED_ROWS]] if len(known) else []
        return [entry.form(value) for value in sample]

    # --- order -------------------------------------------------------------------------------

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; rows without a value come last either way."""
        if 0 <= column < len(self.columns):
            self.sorted_by, self.descending = column, order == Qt.SortOrder.DescendingOrder
            self._resort()
            self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.columns) - 1)

    def _take(self, frame: pd.DataFrame) -> None:
        self._set_cells(frame)
        self._order = self._wanted_order()
        self._place = {key: place for place, key in enumerate(self.keys())}

    def _set_cells(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._cells = [
            frame[c.name].tolist() if c.name in frame else [None] * len(frame) for c in self.columns
        ]

    def _wanted_order(self) -> list[int]:
        entry = self.columns[self.sorted_by]
        series = pd.Series(self._cells[self.sorted_by], dtype=object)
        if entry.key is not None:
            series = series.map(entry.key, na_action="ignore")
        if entry.numeric:
            series = pd.to_numeric(series, errors="coerce")
        ranked = series.sort_values(
            ascending=not self.descending, na_position="last", kind="stable"
        )
        return [int(place) for place in ranked.index]

    def _resort(self) -> None:
        order = self._wanted_order() if len(self.frame) else []
        if order == self._order:
            return
        self.layoutAboutToBeChanged.emit()
        held = self.persistentIndexList()
        rows = [self._order[index.row()] for index in held]
        self._order = order
        self._place = {key: place for place, key in enumerate(self.keys())}
        place_of = {row: place for place, row in enumerate(order)}
        moved = [
            self.index(place_of[row], index.column()) for row, index in zip(rows, held, strict=True)
        ]
        self.changePersistentIndexList(held, moved)
        self.layoutChanged.emit()

    def _redraw(self) -> None:
        if self._order:
            last = self.index(len(self._order) - 1, len(self.columns) - 1)
            self.dataChanged.emit(self.index(0, 0), last)

    # --- Qt's side ---------------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of rows."""
        return 0 if parent is not None and parent.isValid() else len(self._order)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(self.columns)

    def headerData(  # noqa: N802 - Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return a column's title with the arrow of the order, and what it means."""
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(self.columns):
            return None
        entry = self.columns[section]
        if role == Qt.ItemDataRole.DisplayRole:
            arrow = ("▾" if self.descending else "▴") if section == self.sorted_by else ""
            return f"{entry.title} {arrow}".strip()
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(entry.tip)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(entry)
        if role == Qt.ItemDataRole.InitialSortOrderRole:
            down = entry.descending
            return _number(Qt.SortOrder.DescendingOrder if down else Qt.SortOrder.AscendingOrder)
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows."""
        if not index.isValid() or index.row() >= len(self._order):
            return None
        row, entry = index.row(), self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self.text(row, index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(entry)
        if role == Qt.ItemDataRole.ForegroundRole and entry.colour is not None:
            colour = entry.colour(self._cells[index.column()][self._order[row]], self.colours)
            return None if colour is None else QColor(colour)
        if role == Qt.ItemDataRole.ToolTipRole:
            make = entry.cell_tip
            values = {
                c.name: cells[self._order[row]]
                for c, cells in zip(self.columns, self._cells, strict=True)
            }
            return tip(self.text(row, index.column()) if make is None else make(values))
        if role == _MARKED:
            return self.marked is not None and self._place.get(self.marked) == row
        return None


class _RowDelegate(QStyledItemDelegate):
    """Tints the marked row and draws a bar at its left; shortens words in their middle."""

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        """Draw a cell."""
        if painter is not None and index.data(_MARKED):
            colours = index.model().colours
            painter.fillRect(option.rect, QColor(blend(colours.background, colours.accent, 0.28)))
            header = self.parent().horizontalHeader()
            if header.visualIndex(index.column()) == 0:
                bar = option.rect.adjusted(0, 0, 3 - option.rect.width(), 0)
                painter.fillRect(bar, QColor(colours.accent))
        super().paint(painter, option, index)

    def initStyleOption(self, option: Any, index: Any) -> None:  # noqa: N802 - Qt's name
        """Names of files differ at their end more often than not."""
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideMiddle


class FrameTable(QTableView):
    """A view of a DataFrame.

    Parameters
    ----------
    columns : sequence of Column
        The last one takes the room that is left.
    name : str
        Under which hidden columns are remembered; also the usual name of an exported file.
    store : SettingsStore, optional

    Signals
    -------
    row_chosen(object)
        The key of a row that was clicked, or on which Enter was pressed.
    """

    row_chosen = Signal(object)

    def __init__(
        self,
        columns: Sequence[Column],
        name: str,
        store: SettingsStore | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._name, self._store = name, store
        self._unused: set[str] = set()
        self.frame_model = FrameModel(columns, self)
        self.setModel(self.frame_model)
        self.setItemDelegate(_RowDelegate(self))
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)  # Tab goes on to the next control
        self.setShowGrid(False)
        self._side = QHeaderView(Qt.Orientation.Vertical, self)
        self.setVerticalHeader(self._side)
        self._side.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self._side.hide()
        self._head = QHeaderView(Qt.Orientation.Horizontal, self)
        self.setHorizontalHeader(self._head)
        self._head.setSectionsClickable(True)
        self._head.setHighlightSections(False)
        self._head.setStretchLastSection(True)
        self._head.setMinimumSectionSize(28)
        self._head.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        self._head.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self._head.customContextMenuRequested.connect(self._show_menu)
        self.setSortingEnabled(True)
        self.clicked.connect(self._on_clicked)
        hidden = store.get(f"hidden_columns/{name}", []) if store is not None else []
        self._hidden = {entry for entry in hidden if isinstance(entry, str)}
        self._show_columns()

    # --- what is shown -----------------------------------------------------------------------

    def set_frame(self, frame: pd.DataFrame, columns: Sequence[Column] | None = None) -> None:
        """Show other values, and the columns another way."""
        if columns is not None:
            self.frame_model.set_columns(columns)
        self.frame_model.set_frame(frame)
        self.fit_columns()

    def set_used(self, name: str, used: bool) -> None:
        """Take a column out while it has nothing to say."""
        (self._unused.discard if used else self._unused.add)(name)
        self._show_columns()

    def mark_row(self, key: Hashable) -> None:
        """Mark a row and bring it into view; what is selected stays as it is."""
        self.frame_model.set_marked(key)
        row = self.frame_model.row_of(key)
        if row is not None:
            self.scrollTo(self.frame_model.index(row, self._head.logicalIndex(0)))

    def set_theme(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self.frame_model.set_colours(colours)
        chosen = blend(colours.background, colours.text, 0.22)
        self.setStyleSheet(
            f"QTableView {{font-size: 8pt; border: 1px solid {colours.grid};"
            f" background: {colours.background}; color: {colours.text};}}"
            "QTableView::item {background: transparent; padding: 0px 3px;}"
            f"QTableView::item:selected {{background: {chosen}; color: {colours.text};}}"
            f"QHeaderView {{background: {colours.foreground};}}"
            f"QHeaderView::section {{background: {colours.foreground}; color: {colours.muted};"
            " border: none; padding: 1px 4px; font-size: 8pt;}"
            # The style's arrow would lie on the words; the title has one.
            "QHeaderView::up-arrow, QHeaderView::down-arrow {image: none; width: 0; height: 0;}"
        )
        self.fit_columns()

    def fit_columns(self) -> None:
        """Give each column the width of what it has to hold; the last one takes the rest."""
        self.ensurePolished()
        metrics, model = self.fontMetrics(), self.frame_model
        self._side.setDefaultSectionSize(metrics.height() + 4)
        most = max(120, self.viewport().width() // 3)
        for column, entry in enumerate(model.columns):
            texts = model.width_texts(column)
            widest = max((metrics.horizontalAdvance(t) for t in set(texts)), default=0)
            title = metrics.horizontalAdvance(f"{entry.title} ▾")
            wide = max(widest + 14, title + 12)
            self.setColumnWidth(column, wide if entry.numeric else min(wide, most))

    def _show_columns(self) -> None:
        for number, entry in enumerate(self.frame_model.columns):
            self.setColumnHidden(number, entry.name in self._hidden | self._unused)

    def column_menu(self, menu: QMenu) -> None:
        """Fill a menu with the columns that can be shown or hidden."""
        menu.clear()
        for number, entry in enumerate(self.frame_model.columns):
            if number and entry.name not in self._unused:
                action = menu.addAction(entry.title or entry.name)
                action.setCheckable(True)
                action.setChecked(entry.name not in self._hidden)
                action.toggled.connect(partial(self._show_column, entry.name))

    def _show_menu(self, where: QPoint) -> None:
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.column_menu(menu)
        menu.popup(self._head.mapToGlobal(where))

    def _show_column(self, name: str, shown: bool) -> None:
        (self._hidden.discard if shown else self._hidden.add)(name)
        if self._store is not None:
            self._store.set(f"hidden_columns/{self._name}", sorted(self._hidden))
        self._show_columns()

    # --- copy and export ---------------------------------------------------------------------

    def selected_rows(self) -> list[int]:
        """Return where the selected rows stand on the screen."""
        selection = self.selectionModel()
        return sorted(i.row() for i in selection.selectedRows()) if selection is not None else []

    def as_text(self) -> str:
        """Return the selected rows (all, if fewer than two are) as tab-separated text."""
        model, chosen = self.frame_model, self.selected_rows()
        rows = chosen if len(chosen) > 1 else range(model.rowCount())
        shown = [c for c in range(len(model.columns)) if not self.isColumnHidden(c)]
        lines = ["\t".join(model.columns[c].title or model.columns[c].name for c in shown)]
        lines += ["\t".join(self._plain(row, c) for c in shown) for row in rows]
        return "\n".join(lines) + "\n"

    def _plain(self, row: int, column: int) -> str:
        text = self.frame_model.text(row, column)
        if self.frame_model.columns[column].numeric:
            # Spreadsheets read neither thin spaces nor the true minus sign as numbers.
            return text.replace("\u202f", "").replace("−", "-")
        return " ".join(text.split())

    def copy(self) -> None:
        """Put `as_text` on the clipboard."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.as_text())

    def ask_export(
        self, table: Callable[[], tuple[Sequence[str], Iterable[Sequence[Any]]]]
    ) -> None:
        """Ask for a file and write a table to it as CSV; ``table`` gives heads and rows."""
        path, _ = QFileDialog.getSaveFileName(
            self, "Export the table", f"{self._name}.csv", "CSV (*.csv)"
        )
        if not path:
            return
        try:
            write_csv(path, *table())
        except OSError as error:
            show_error(
                f"The table could not be written ({error.strerror or error}). "
                "Choose a folder that you may write to."
            )

    # --- mouse and keys ----------------------------------------------------------------------

    def _on_clicked(self, index: QModelIndex) -> None:
        self.row_chosen.emit(self.frame_model.key_at(index.row()))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Enter goes to the row, Ctrl+C copies."""
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self._on_clicked(self.currentIndex())
        else:
            super().keyPressEvent(event)


def _alignment(entry: Column) -> int:
    side = Qt.AlignmentFlag.AlignRight if entry.numeric else Qt.AlignmentFlag.AlignLeft
    # A plain number, since PyQt5 takes no combined flag from a model.
    return _number(side) | _number(Qt.AlignmentFlag.AlignVCenter)


def _number(flag: Any) -> int:
    return int(getattr(flag, "value", flag))
