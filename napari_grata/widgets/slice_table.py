"""The table of slices: areas before and after, agreement, what to look at; a click goes there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QModelIndex, Qt, QTimer, Signal
from qtpy.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSizePolicy,
    QStyledItemDelegate,
    QTableView,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_grata.adaptation.records import Record
from napari_grata.widgets.slice_model import (
    AFTER,
    BEFORE,
    CHANGE,
    DICE,
    FLAGS,
    MARK,
    SLICE,
    SliceModel,
)
from napari_grata.widgets.slice_rows import SliceName, SliceRow, totals, write_csv
from napari_grata.widgets.theme import STRUCTURE_COLOURS, swatch, theme_colours, tip

if TYPE_CHECKING:
    from napari_grata.review.compare import SliceSummary

_REFRESH_MS = 400  # order, unit and totals follow live updates a few times a second


def _as_row(row: SliceRow | SliceSummary) -> SliceRow:
    return row if isinstance(row, SliceRow) else SliceRow.from_summary(row)


class _NameDelegate(QStyledItemDelegate):
    """Shortens names in the middle: case names differ at their end more often than not."""

    def initStyleOption(self, option: Any, index: Any) -> None:  # noqa: N802 - Qt's name
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideMiddle


class SliceTable(QWidget):
    """What adaptation changed, slice by slice.

    Parameters
    ----------
    parent : QWidget, optional
    theme : str
        A napari theme; `set_theme` changes it.

    Signals
    -------
    slice_clicked(int slice_index)
        A row was clicked, or Enter pressed on it.
    """

    slice_clicked = Signal(int)

    def __init__(self, parent: QWidget | None = None, *, theme: str = "dark") -> None:
        super().__init__(parent)
        self._slice_name: SliceName | None = None
        self._pixel_area: float | None = None
        self._thickness: float | None = None
        self._volume = False
        self._noun = "slice"

        self._chooser = QComboBox()
        self._chooser.setAccessibleName("Structure of the table")
        self._chooser.setToolTip("The structure whose areas and agreement are listed.")
        self._chooser.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._chooser.currentIndexChanged.connect(self._on_structure)
        self._copy = QToolButton()
        self._copy.setText("Copy")
        self._copy.setToolTip("Copy the selected rows, or all, for a spreadsheet (Ctrl+C).")
        self._copy.clicked.connect(self._on_copy)
        self._export = QToolButton()
        self._export.setText("Export…")
        self._export.setToolTip("Write all slices and structures to a CSV file.")
        self._export.clicked.connect(self._on_export)

        self._waiting: dict[int, SliceRow] = {}
        self._model = SliceModel(self)
        self._view = QTableView()
        self._view.setModel(self._model)
        self._set_up_view()
        self._totals = QLabel()
        self._totals.setWordWrap(False)
        self._totals.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(4)
        head.addWidget(self._chooser, 1)
        head.addWidget(self._copy)
        head.addWidget(self._export)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addLayout(head)
        layout.addWidget(self._view, 1)
        layout.addWidget(self._totals)

        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.timeout.connect(self._look)
        self.set_structures({})
        self.set_theme(theme)
        self._say_totals()

    def _set_up_view(self) -> None:
        view = self._view
        view.setAccessibleName("Slices before and after adaptation")
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        view.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        view.setWordWrap(False)
        view.setTabKeyNavigation(False)  # Tab goes on to the next control
        view.setShowGrid(False)
        view.setMinimumHeight(130)
        side = self._side = QHeaderView(Qt.Orientation.Vertical, view)
        view.setVerticalHeader(side)
        side.hide()
        side.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head = self._head = QHeaderView(Qt.Orientation.Horizontal, view)
        view.setHorizontalHeader(head)
        head.setSectionsClickable(True)
        head.setHighlightSections(False)
        head.setMinimumSectionSize(24)
        head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        head.setSectionResizeMode(FLAGS, QHeaderView.ResizeMode.Stretch)
        head.setSortIndicator(SLICE, Qt.SortOrder.AscendingOrder)
        view.setSortingEnabled(True)
        view.setItemDelegateForColumn(SLICE, _NameDelegate(view))
        # Decisions stand beside the slice's name, and take room only where there are any.
        head.moveSection(head.visualIndex(MARK), 1)
        view.setColumnHidden(MARK, True)
        view.clicked.connect(self._on_clicked)
        view.installEventFilter(self)

    # --- what the dock calls ---------------------------------------------------------------

    @property
    def model(self) -> SliceModel:
        """The rows in the order shown."""
        self._take_waiting()
        return self._model

    @property
    def view(self) -> QTableView:
        """Qt's view of them."""
        return self._view

    def set_structures(self, structures: dict[str, str]) -> None:
        """Offer structures to choose from.

        Parameters
        ----------
        structures : dict of str to str
            Colour ``"#RRGGBB"`` by name, in the card's order.
        """
        kept = self._chooser.currentText()
        self._chooser.blockSignals(True)
        self._chooser.clear()
        for name, colour in structures.items():
            self._chooser.addItem(swatch(colour), name)
        self._chooser.setCurrentIndex(max(0, self._chooser.findText(kept)) if structures else -1)
        self._chooser.setEnabled(bool(structures))
        self._chooser.blockSignals(False)
        self._on_structure()

    def set_card(self, card: Any) -> None:
        """Take names and colours of the structures from a model card."""
        self.set_structures({item.name: item.colour for item in card.structures})

    def set_scan(self, scan: Any) -> None:
        """Take slice names, spacing and slice distance from a `Scan`."""
        spacing = scan.slice_spacing
        self.set_measures(
            slice_name=scan.slice_name,
            pixel_area=None if spacing is None else float(spacing[0]) * float(spacing[1]),
            thickness=scan.slice_thickness,
            volume=scan.kind == "volume",
            noun="photograph" if scan.kind in ("photograph", "photographs") else "slice",
        )

    def set_measures(
        self,
        *,
        slice_name: SliceName | None = None,
        pixel_area: float | None = None,
        thickness: float | None = None,
        volume: bool = False,
        noun: str = "slice",
    ) -> None:
        """Set how slices are called and measured (mm², mm); ``volume``: areas may be added up."""
        self._noun = noun
        self._slice_name = slice_name
        self._pixel_area, self._thickness, self._volume = pixel_area, thickness, volume
        self._say_totals()

    def set_rows(self, rows: Iterable[SliceRow | SliceSummary]) -> None:
        """Replace all rows, as in ``review.compare.summarise(…).rows``."""
        self._timer.stop()
        self._waiting.clear()
        self._model.set_rows(_as_row(row) for row in rows)
        self._offer_structures()
        self._fit_columns()
        self._say_totals()

    def set_records(self, records: Iterable[Record]) -> None:
        """Replace all rows by the last record of each slice."""
        self.set_rows([self._row(record) for record in records])

    def update_row(self, row: SliceRow | SliceSummary) -> None:
        """Replace or append the row of one slice while a run goes on; it is drawn in a moment."""
        fresh = _as_row(row)
        self._waiting[fresh.slice_index] = fresh
        if not self.isVisible():
            self._take_waiting()
        if not self._timer.isActive():
            # Order and totals cost a little per row; ten thousand rows need them less often.
            self._timer.start(_REFRESH_MS + len(self._model.rows) // 25)

    def refresh(self) -> None:
        """Put the rows in order and add them up now, instead of in a moment."""
        self._timer.stop()
        self._refresh()

    def add_record(self, record: Record) -> None:
        """Take one event of the stream."""
        self.update_row(self._row(record))

    def set_marks(self, marks: dict[int, tuple[str, str]]) -> None:
        """Mark slices that were decided on: a sign and its words by slice."""
        self._model.set_marks(marks)
        if marks and self._view.isColumnHidden(MARK):
            self._view.setColumnHidden(MARK, False)

    def clear(self) -> None:
        """Forget all rows."""
        self.set_rows(())

    def select_slice(self, slice_index: int) -> None:
        """Highlight the row of the slice in view, without a signal; unknown slices clear it."""
        row = self.model.row_of(slice_index)
        if row is None:
            self._view.clearSelection()
        elif self._view.currentIndex().row() != row or len(self._selected()) != 1:
            self._view.selectRow(row)
            self._view.scrollTo(self._model.index(row, SLICE))

    def flagged(self) -> list[int]:
        """Return the slices with flags, in the order of the scan."""
        return sorted(row.slice_index for row in self.model.rows if row.flags)

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme (``viewer.theme``)."""
        colours = theme_colours(name)
        self._model.set_colours(colours)
        self._totals.setStyleSheet(f"color: {colours.muted}; font-size: 8pt;")
        self._view.setStyleSheet(
            f"QTableView {{font-size: 8pt; border: 1px solid {colours.grid};"
            f" background: {colours.background}; color: {colours.text};"
            f" selection-background-color: {colours.primary}; selection-color: {colours.text};}}"
            f"QTableView::item:selected {{background: {colours.primary};}}"
            f"QHeaderView {{background: {colours.foreground};}}"
            f"QHeaderView::section {{background: {colours.foreground}; color: {colours.muted};"
            " border: none; padding: 1px 3px; font-size: 8pt;}"
            # The style's arrow would lie on the words; the head's second line has one.
            "QHeaderView::up-arrow, QHeaderView::down-arrow {image: none; width: 0; height: 0;}"
        )
        self._fit_columns()

    # --- copy and export ---------------------------------------------------------------------

    def as_text(self) -> str:
        """Return the selected rows (all, if fewer than two are) as tab-separated text."""
        self._take_waiting()
        chosen = self._selected()
        rows = [self._model.rows[i] for i in chosen] if len(chosen) > 1 else self._model.rows
        heads = [
            str(self._model.headerData(column, Qt.Orientation.Horizontal))
            for column in range(FLAGS + 1)
        ]
        lines = ["\t".join([*(" ".join(head.split()) for head in heads), "structure"])]
        for row in rows:
            cells = [self._model.words(row, column) for column in range(FLAGS + 1)]
            # Spreadsheets read neither thin spaces nor the true minus sign as numbers.
            cells[1:FLAGS] = [c.replace("\u202f", "").replace("−", "-") for c in cells[1:FLAGS]]
            lines.append("\t".join([*cells, self._model.structure]))
        return "\n".join(lines) + "\n"

    def copy(self) -> None:
        """Put `as_text` on the clipboard."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.as_text())

    def export_csv(self, path: str | Path) -> Path:
        """Write all slices and structures; see `slice_rows.write_csv`."""
        names = [self._chooser.itemText(i) for i in range(self._chooser.count())]
        return write_csv(self.model.rows, names, path)

    def _on_copy(self) -> None:
        self.copy()

    def _on_export(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Export the table", "slices.csv", "CSV (*.csv)")
        if not name:
            return
        try:
            self.export_csv(name)
        except OSError as error:
            from napari.utils.notifications import show_error

            show_error(
                f"The table could not be written to {name}: {error.strerror or error}. "
                "Choose a folder that you may write to."
            )

    # --- inside --------------------------------------------------------------------------------

    def _row(self, record: Record) -> SliceRow:
        name = self._slice_name(record.slice_index) if self._slice_name else None
        return SliceRow.from_record(record, slice_name=name, pixel_area=self._pixel_area)

    def _selected(self) -> list[int]:
        selection = self._view.selectionModel()
        return sorted(index.row() for index in selection.selectedRows()) if selection else []

    def _offer_structures(self) -> None:
        """Without a card, offer what the rows name."""
        if self._chooser.count() or not self._model.rows:
            return
        names: Sequence[str] = list(self._model.rows[0].after)
        if names:
            colours = (STRUCTURE_COLOURS * (len(names) // len(STRUCTURE_COLOURS) + 1))[: len(names)]
            self.set_structures(dict(zip(names, colours, strict=True)))

    def _on_structure(self, _index: int = 0) -> None:
        self._model.set_structure(self._chooser.currentText())
        self._say_totals()

    def _look(self) -> None:
        # Qt puts the whole window together anew even for a table that is scrolled out of view.
        if self.isVisible() and self.visibleRegion().isEmpty():
            self._timer.start(_REFRESH_MS)
        else:
            self._refresh()

    def _take_waiting(self) -> None:
        rows, self._waiting = self._waiting, {}
        for row in rows.values():
            self._model.update_row(row)

    def _refresh(self) -> None:
        self._take_waiting()
        self._offer_structures()
        self._model.refresh()
        self._say_totals()

    def _say_totals(self) -> None:
        words = totals(
            self._model.rows,
            self._model.structure,
            thickness=self._thickness,
            volume=self._volume,
            noun=self._noun,
        )
        self._totals.setText(words)
        self._totals.setToolTip(tip(words))

    def _fit_columns(self) -> None:
        """Give each column the width of what it has to hold; flags take the rest."""
        self._view.ensurePolished()
        metrics = self._view.fontMetrics()
        self._side.setDefaultSectionSize(metrics.height() + 6)
        names = [row.slice_name for row in self._model.rows[:200]]
        longest = max((metrics.horizontalAdvance(name) for name in names), default=0)
        smallest = metrics.horizontalAdvance("slice 10")
        self._view.setColumnWidth(SLICE, min(max(longest, smallest) + 10, 82))
        for column, widest in ((BEFORE, "before"), (AFTER, "10³ px"), (CHANGE, "change")):
            wide = max(metrics.horizontalAdvance(text) for text in (widest, "+00.0"))
            self._view.setColumnWidth(column, wide + 6)
        self._view.setColumnWidth(MARK, metrics.horizontalAdvance("✓!") + 8)
        self._view.setColumnWidth(DICE, metrics.horizontalAdvance("agree") + 8)

    def _on_clicked(self, index: QModelIndex) -> None:
        self.slice_clicked.emit(self._model.rows[index.row()].slice_index)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Enter goes to the slice, Ctrl+C copies."""
        if (
            watched is self._view
            and event.type() == QEvent.Type.KeyPress
            and isinstance(event, QKeyEvent)
        ):
            if event.matches(QKeySequence.StandardKey.Copy):
                self.copy()
                return True
            current = self._view.currentIndex()
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and current.isValid():
                self._on_clicked(current)
                return True
        return super().eventFilter(watched, event)
