"""The one table: a DataFrame in a view that sorts, marks a row, copies and exports.

A column is one entry (`Column`): name, words, value, format, colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from qtpy.QtCore import (
    QAbstractTableModel,
    QItemSelection,
    QItemSelectionModel,
    QModelIndex,
    Qt,
    Signal,
)
from qtpy.QtGui import QColor, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHeaderView,
    QMenu,
    QStyledItemDelegate,
    QTableView,
)

from napari_grata.scans.files import write_csv
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import copy_text, notify
from napari_grata.widgets.theme import ThemeColours, blend, swatch, tip

_MARKED = Qt.ItemDataRole.UserRole + 1
_MEASURED_ROWS = 400  # texts of so many rows decide how wide a column is


def words(value: Any) -> str:
    """Return a cell's text: "" for what is not known."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        Of the DataFrame's column.
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
        Returns the tooltip of a cell from its row, a dict by column name; its text by default.
    swatch : callable, optional
        Returns the colour of a small square before a value's text.
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
    swatch: Callable[[Any], str] | None = None


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

    Attributes
    ----------
    columns : list of Column
    frame : DataFrame
    order : list of int
        Row of the frame by place on the screen.
    """

    def __init__(self, columns: Sequence[Column], context: Context, parent: Any) -> None:
        super().__init__(parent)
        self.context = context
        self.columns = list(columns)
        self.frame = pd.DataFrame()
        self.order: list[int] = []
        self.marked: Hashable = None
        self._sorted_by, self._descending = 0, False
        self._cells: list[list[Any]] = [[] for _ in columns]
        self._place: dict[Hashable, int] = {}

    def set_frame(self, frame: pd.DataFrame, columns: Sequence[Column] | None = None) -> None:
        """Show other values, perhaps written another way."""
        self.beginResetModel()
        self.columns = self.columns if columns is None else list(columns)
        self.frame = frame
        nothing = [None] * len(frame)
        self._cells = [frame[c.name].tolist() if c.name in frame else nothing for c in self.columns]
        self._arrange()
        self.endResetModel()

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column; rows without a value come last either way."""
        if 0 <= column < len(self.columns):
            self.beginResetModel()
            self._sorted_by, self._descending = column, order == Qt.SortOrder.DescendingOrder
            self._arrange()
            self.endResetModel()

    def _arrange(self) -> None:
        entry = self.columns[self._sorted_by]
        series = pd.Series(self._cells[self._sorted_by], dtype=object)
        if entry.key is not None:
            series = series.map(entry.key, na_action="ignore")
        if entry.numeric:
            series = pd.to_numeric(series, errors="coerce")
        up = not self._descending
        ranked = series.sort_values(ascending=up, na_position="last", kind="stable")
        self.order = [int(row) for row in ranked.index]
        self._place = {self.frame.index[row]: place for place, row in enumerate(self.order)}

    def mark(self, key: Hashable) -> None:
        """Mark one row, such as the slice in view; None: none."""
        places = [self._place.get(self.marked), self._place.get(key)]
        self.marked = key
        for place in places:
            if place is not None:
                self.dataChanged.emit(
                    self.index(place, 0), self.index(place, len(self.columns) - 1)
                )

    def key_at(self, place: int) -> Hashable:
        """Return the key of the row at a place on the screen."""
        found: Hashable = self.frame.index[self.order[place]]
        return found

    def place_of(self, key: Hashable) -> int | None:
        """Return where a row stands on the screen, None if there is none."""
        return self._place.get(key)

    def text(self, place: int, column: int) -> str:
        """Return what a cell shows."""
        return self.columns[column].form(self._cells[column][self.order[place]])

    def widest(self, column: int) -> set[str]:
        """Return texts of which one is the widest of its column."""
        cells, entry = self._cells[column], self.columns[column]
        sample = cells[:_MEASURED_ROWS]
        if entry.numeric and len(cells) > len(sample):
            known = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").dropna()
            sample = [*sample, *([known.min(), known.max()] if len(known) else [])]
        return {entry.form(value) for value in sample}

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of rows."""
        return 0 if parent is not None and parent.isValid() else len(self.order)

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
            arrow = ("▾" if self._descending else "▴") if section == self._sorted_by else ""
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
        if not index.isValid() or index.row() >= len(self.order):
            return None
        row, entry = self.order[index.row()], self.columns[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self.text(index.row(), index.column())
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _alignment(entry)
        if role == Qt.ItemDataRole.DecorationRole and entry.swatch is not None:
            return swatch(entry.swatch(self._cells[index.column()][row]))
        if role == Qt.ItemDataRole.ForegroundRole and entry.colour is not None:
            colour = entry.colour(self._cells[index.column()][row], self.context.theme)
            return None if colour is None else QColor(colour)
        if role == Qt.ItemDataRole.ToolTipRole:
            if entry.cell_tip is None:
                return tip(self.text(index.row(), index.column()))
            found = zip(self.columns, self._cells, strict=True)
            return tip(entry.cell_tip({c.name: cells[row] for c, cells in found}))
        if role == _MARKED:
            return self.marked is not None and self._place.get(self.marked) == index.row()
        return None


class _RowDelegate(QStyledItemDelegate):
    """Tints the marked row and draws a bar at its left; shortens words in their middle."""

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        if index.data(_MARKED):
            colours = index.model().context.theme
            painter.fillRect(option.rect, QColor(blend(colours.background, colours.accent, 0.28)))
            if index.column() == 0:
                bar = option.rect.adjusted(0, 0, 3 - option.rect.width(), 0)
                painter.fillRect(bar, QColor(colours.accent))
        super().paint(painter, option, index)

    def initStyleOption(self, option: Any, index: Any) -> None:  # noqa: N802 - Qt's name
        super().initStyleOption(option, index)
        # Names of files differ at their end more often than not.
        option.textElideMode = Qt.TextElideMode.ElideMiddle


class FrameTable(QTableView):
    """A view of a DataFrame.

    Parameters
    ----------
    columns : sequence of Column
        The last one takes the room that is left.
    name : str
        Under which hidden columns are remembered; also the usual name of an exported file.
    context : Context

    Signals
    -------
    row_chosen(object)
        The key of a row that was clicked, or on which Enter was pressed.
    """

    row_chosen = Signal(object)

    def __init__(self, columns: Sequence[Column], name: str, context: Context) -> None:
        super().__init__()
        self._name, self._context = name, context
        self._hidden = set(map(str, context.store.get(f"hidden_columns/{name}", [])))
        self._unused: set[str] = set()
        self._held: tuple[list[Hashable], Hashable] = ([], None)
        self.frame_model = FrameModel(columns, context, self)
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
        head = QHeaderView(Qt.Orientation.Horizontal, self)
        self.setHorizontalHeader(head)
        head.setSectionsClickable(True)
        head.setHighlightSections(False)
        head.setStretchLastSection(True)
        head.setMinimumSectionSize(28)
        head.setSortIndicator(0, Qt.SortOrder.AscendingOrder)
        self.setSortingEnabled(True)
        self.frame_model.modelAboutToBeReset.connect(self._hold)
        self.frame_model.modelReset.connect(self._put_back)
        self.clicked.connect(self._on_clicked)
        context.theme_changed.connect(self._show_theme)
        self._show_columns()
        self._show_theme(context.theme)

    # --- what is shown -----------------------------------------------------------------------

    def set_frame(self, frame: pd.DataFrame, columns: Sequence[Column] | None = None) -> None:
        """Show other values, perhaps written another way; rows that stay stay selected."""
        self.frame_model.set_frame(frame, columns)
        self.fit_columns()

    def _hold(self) -> None:
        model, current = self.frame_model, self.currentIndex()
        at = model.key_at(current.row()) if current.isValid() else None
        self._held = [model.key_at(row) for row in self.selected_rows()], at

    def _put_back(self) -> None:
        """Select again what was selected, wherever it stands now."""
        model, selection = self.frame_model, self.selectionModel()
        chosen, last = QItemSelection(), len(model.columns) - 1
        for place in (model.place_of(key) for key in self._held[0]):
            if place is not None:
                chosen.select(model.index(place, 0), model.index(place, last))
        at = model.place_of(self._held[1])
        if selection is not None:
            selection.select(chosen, QItemSelectionModel.SelectionFlag.ClearAndSelect)
            if at is not None:
                only = QItemSelectionModel.SelectionFlag.NoUpdate
                selection.setCurrentIndex(model.index(at, 0), only)

    def set_used(self, name: str, used: bool) -> None:
        """Take a column out while it has nothing to say."""
        (self._unused.discard if used else self._unused.add)(name)
        self._show_columns()

    def mark_row(self, key: Hashable) -> None:
        """Mark a row and bring it into view; what is selected stays as it is."""
        self.frame_model.mark(key)
        place = self.frame_model.place_of(key)
        if place is not None:
            self.scrollTo(self.frame_model.index(place, 0))

    def _show_theme(self, colours: ThemeColours) -> None:
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
        for column, entry in enumerate(model.columns):
            texts = [f"{entry.title} ▾", *model.widest(column)]
            wide = max(metrics.horizontalAdvance(text) for text in texts) + (
                32 if entry.swatch else 14
            )
            self.setColumnWidth(column, wide if entry.numeric else min(wide, 220))

    def _show_columns(self) -> None:
        for number, entry in enumerate(self.frame_model.columns):
            self.setColumnHidden(number, entry.name in self._hidden | self._unused)

    def fill_menu(self, menu: QMenu) -> None:
        """Fill a menu with the columns that can be shown or hidden."""
        menu.clear()
        for entry in self.frame_model.columns[1:]:
            action = menu.addAction(entry.title) if entry.name not in self._unused else None
            if action is not None:
                action.setCheckable(True)
                action.setChecked(entry.name not in self._hidden)
                action.toggled.connect(partial(self._show_column, entry.name))

    def _show_column(self, name: str, shown: bool) -> None:
        (self._hidden.discard if shown else self._hidden.add)(name)
        self._context.store.set(f"hidden_columns/{self._name}", sorted(self._hidden))
        self._show_columns()

    # --- copy and export ---------------------------------------------------------------------

    def selected_rows(self) -> list[int]:
        """Return where the selected rows stand on the screen."""
        selection = self.selectionModel()
        return sorted(i.row() for i in selection.selectedRows()) if selection is not None else []

    def as_text(self) -> str:
        """Return the selected rows (all, if fewer than two are) as tab-separated text."""
        model, chosen = self.frame_model, self.selected_rows()
        shown = [c for c in range(len(model.columns)) if not self.isColumnHidden(c)]
        lines = [[model.columns[c].title for c in shown]]
        for row in chosen if len(chosen) > 1 else range(model.rowCount()):
            lines.append([self._plain(row, c) for c in shown])
        return "".join("\t".join(line) + "\n" for line in lines)

    def _plain(self, row: int, column: int) -> str:
        text = self.frame_model.text(row, column)
        if self.frame_model.columns[column].numeric:
            # Spreadsheets read neither thin spaces nor the true minus sign as numbers.
            return text.replace("\u202f", "").replace("−", "-")
        return " ".join(text.split())

    def copy(self) -> None:
        """Put `as_text` on the clipboard."""
        copy_text(self.as_text())

    def export(self, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Ask for a file and write these rows to it as CSV."""
        usual = f"{self._name}.csv"
        path, _ = QFileDialog.getSaveFileName(self, "Export the table", usual, "CSV (*.csv)")
        if path:
            try:
                write_csv(path, heads, rows)
            except OSError as error:
                notify(f"The table: {error}")

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
