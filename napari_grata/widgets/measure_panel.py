"""The fold "Measurements": a table of what the masks measure, to copy and to save."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QGuiApplication, QKeySequence
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QShortcut,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_grata.review.measurement_table import Row, as_text, columns
from napari_grata.widgets.parts import Sentence, button, choice
from napari_grata.widgets.theme import swatch, theme_colours, tip

SLICE, CASE = "slice", "case"
_TITLES = {
    "before": "The mask before, as the model was trained.",
    "after": "The mask after, as the adapted model drew it.",
    "edited": "The mask after with what you have drawn on it.",
    "truth": "The truth that was opened for comparison.",
    "change": "After (as edited, where it is) minus before; or what lies between the two.",
}
_SHOWN_ROWS = 9
_MOST_COLUMNS = 4


class MeasurePanel(QWidget):
    """Structure by structure: quantity, before, after, change.

    Signals
    -------
    scope_changed()
        The person wants the slice in view, or the whole case.
    save_wanted(), truth_file_wanted(), truth_dropped()
    truth_layer_wanted(object)
        The person chose this Labels layer as the truth.
    """

    scope_changed = Signal()
    save_wanted = Signal()
    truth_file_wanted = Signal()
    truth_layer_wanted = Signal(object)
    truth_dropped = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[Row] = []
        self.truths: list[object] = []
        self.has_truth = False
        self._colours: dict[str, str] = {}
        self._theme = theme_colours("dark")
        self.scope = choice("Measure the slice in view, or all of its case.", "What is measured")
        self.scope.setMinimumContentsLength(5)
        self.scope.addItem("Slice", SLICE)
        self.scope.addItem("Whole case", CASE)
        self.scope.currentIndexChanged.connect(self._on_scope)
        self.truth_button = button(
            "Compare with a truth …",
            "Choose a mask that somebody drew as the truth: a layer, or a file. It is compared "
            "with and nothing else; the model never sees it.",
        )
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self._offer_truths)
        self.truth_button.setMenu(self.menu)
        self.copy_button = button("Copy", "Copy the table for a spreadsheet. Key: Ctrl+C")
        self.save_button = button(
            "Save CSV …", "Write every slice, case and structure to a file for spreadsheets."
        )
        self.copy_button.clicked.connect(self._on_copy)
        self.save_button.clicked.connect(self._on_save)
        self.table = QTableWidget(0, 4)
        self._set_up_table()
        self.note = Sentence(2)
        self.note.setObjectName("grata_small")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(_line((self.scope, 2), (self.truth_button, 3)))
        layout.addWidget(self.table)
        layout.addWidget(self.note)
        layout.addWidget(_line((self.copy_button, 1), (self.save_button, 1)))
        self.show_rows([], {}, "")

    def _set_up_table(self) -> None:
        table = self.table
        table.setAccessibleName("Measurements")
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setTabKeyNavigation(False)  # Tab goes on to the next control
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        side, head = table.verticalHeader(), table.horizontalHeader()
        if side is not None and head is not None:
            side.hide()
            side.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
            head.setHighlightSections(False)
            head.setMinimumSectionSize(24)
            head.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        shortcut = QShortcut(QKeySequence(QKeySequence.StandardKey.Copy), table)
        shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shortcut.activated.connect(self.copy)

    # --- what the feature calls ------------------------------------------------------------

    def chosen_scope(self) -> str:
        """Return "slice" or "case"."""
        return str(self.scope.currentData())

    def set_scopes(self, several: bool, noun: str) -> None:
        """Offer the whole case only where a case has several slices."""
        self.scope.setItemText(0, noun.capitalize())
        self.scope.setEnabled(several)
        if not several:
            self.scope.setCurrentIndex(0)

    def show_rows(self, rows: Sequence[Row], colours: dict[str, str], note: str) -> None:
        """Show rows under a heading for each structure.

        Parameters
        ----------
        rows : sequence of Row
        colours : dict of str to str
            ``"#RRGGBB"`` by structure.
        note : str
            A sentence under the table.
        """
        self.rows, self._colours = list(rows), dict(colours)
        self.note.say(note)
        self.copy_button.setEnabled(bool(rows))
        self._fill()

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme (``viewer.theme``)."""
        colours = self._theme = theme_colours(name)
        self.table.setStyleSheet(
            f"QTableWidget {{font-size: 8pt; border: 1px solid {colours.grid};"
            f" background: {colours.background}; color: {colours.text};"
            f" selection-background-color: {colours.primary}; selection-color: {colours.text};}}"
            f"QHeaderView {{background: {colours.foreground};}}"
            f"QHeaderView::section {{background: {colours.foreground}; color: {colours.muted};"
            " border: none; padding: 1px 3px; font-size: 8pt;}"
        )
        self._fill()

    def copy(self) -> None:
        """Put the table on the clipboard, tab separated, with plain numbers."""
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None and self.rows:
            clipboard.setText(as_text(self.rows))

    # --- inside --------------------------------------------------------------------------------

    def _fill(self) -> None:
        table = self.table
        shown = columns(self.rows) or ["before", "after", "change"]
        if len(shown) > _MOST_COLUMNS:
            # Too narrow for all of them; the truth's own size is in the tooltip then.
            shown.remove("truth")
        bar = table.verticalScrollBar()
        place = bar.value() if bar is not None else 0
        table.setUpdatesEnabled(False)
        table.clear()
        table.clearSpans()
        table.setColumnCount(1 + len(shown))
        for column, name in enumerate(["", *shown]):
            head = QTableWidgetItem(name)
            head.setToolTip(tip(_TITLES.get(name, "")))
            table.setHorizontalHeaderItem(column, head)
        structures = list(dict.fromkeys(row.structure for row in self.rows))
        table.setRowCount(len(self.rows) + len(structures))
        place_of = 0
        for structure in structures:
            self._put_heading(place_of, structure, len(shown))
            place_of += 1
            for row in (row for row in self.rows if row.structure == structure):
                self._put_row(place_of, row, shown)
                place_of += 1
        self._fit(len(shown))
        table.setUpdatesEnabled(True)
        if bar is not None:
            bar.setValue(place)

    def _put_heading(self, at: int, structure: str, width: int) -> None:
        item = QTableWidgetItem(swatch(self._colours.get(structure, "#808080")), structure)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setFlags(Qt.ItemFlag.ItemIsEnabled)
        self.table.setItem(at, 0, item)
        self.table.setSpan(at, 0, 1, 1 + width)

    def _put_row(self, at: int, row: Row, shown: Sequence[str]) -> None:
        words = tip(row.explanation())
        for column, name in enumerate(["", *shown]):
            item = QTableWidgetItem(row.cell(name) if name else row.short)
            item.setToolTip(words)
            if name:
                right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                item.setTextAlignment(right)
            if name and row.cell(name) == "–":
                item.setForeground(QColor(self._theme.muted))
            self.table.setItem(at, column, item)

    def _fit(self, figures: int) -> None:
        """Give figures what they need and the names the rest; keep the height."""
        table = self.table
        table.ensurePolished()
        metrics = table.fontMetrics()
        side, head = table.verticalHeader(), table.horizontalHeader()
        if side is None or head is None:
            return
        height = metrics.height() + 5
        side.setDefaultSectionSize(height)
        table.setFixedHeight(head.sizeHint().height() + _SHOWN_ROWS * height + 4)
        head.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in range(1, figures + 1):
            head.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            wide = metrics.horizontalAdvance("+000.0" if figures < _MOST_COLUMNS else "0.000")
            texts = [self.table.item(r, column) for r in range(table.rowCount())]
            widest = max((metrics.horizontalAdvance(i.text()) for i in texts if i), default=0)
            table.setColumnWidth(
                column, max(wide, widest, metrics.horizontalAdvance("edited")) + 10
            )

    def _offer_truths(self) -> None:
        self.menu.clear()
        for layer in self.truths:
            action = self.menu.addAction(f"Layer “{getattr(layer, 'name', '')}”")
            if action is not None:
                action.triggered.connect(lambda _=False, it=layer: self.truth_layer_wanted.emit(it))
        entries = [("A file …", self.truth_file_wanted)]
        if self.has_truth:
            entries.append(("No truth", self.truth_dropped))
        for words, signal in entries:
            action = self.menu.addAction(words)
            if action is not None:
                action.triggered.connect(lambda _=False, it=signal: it.emit())

    def _on_scope(self, _index: int) -> None:
        self.scope_changed.emit()

    def _on_copy(self) -> None:
        self.copy()

    def _on_save(self) -> None:
        self.save_wanted.emit()


def _line(*parts: tuple[QWidget, int]) -> QWidget:
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for widget, stretch in parts:
        layout.addWidget(widget, stretch)
    return line
