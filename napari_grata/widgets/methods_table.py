"""The table of methods: which are ticked to be run, and what each has made of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QAbstractItemView, QTreeWidget, QTreeWidgetItem

from napari_grata.adaptation.settings import PRESETS
from napari_grata.review.candidates import USUAL
from napari_grata.review.compare import MethodResult, flagged_slices
from napari_grata.widgets.curves import QUANTITIES
from napari_grata.widgets.runner import duration
from napari_grata.widgets.theme import STRUCTURE_COLOURS, swatch, tip

_COLOURS = (*STRUCTURE_COLOURS, "#D55E00", "#999999", "#AA4499", "#44AA99")
_HEADS = ("method", "change", "flags", "time")
_TIPS = (
    "Tick the methods to run. Click one to see its mask over the scan; two to see their "
    "difference.",
    "How much of the structures is not the same as in the mask before (1 − Dice).",
    "Slices to look at.",
    "What its steps and predictions took.",
    "Dice to the truth that is open, over all slices together. No method saw it.",
)


@dataclass
class MethodRow:
    """A line with a result: of a preset or saved run, and the layer of its mask."""

    item: QTreeWidgetItem
    colour: str
    result: MethodResult
    layer: Any = None


class MethodsTable(QTreeWidget):
    """Presets to tick; those that have run stand on top, in the order in which they did.

    Attributes
    ----------
    items : dict of str to QTreeWidgetItem
        All lines, by name of the preset, or of a saved run.
    rows : dict of str to MethodRow
        Those with a result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setRootIsDecorated(False)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setIconSize(QSize(10, 10))
        self.setAccessibleName("Methods and what they made")
        head = self.header()
        if head is not None:
            head.setStretchLastSection(False)
            head.setMinimumSectionSize(20)
        self.name_structures(())
        self.items: dict[str, QTreeWidgetItem] = {}
        self.rows: dict[str, MethodRow] = {}
        for name, preset in PRESETS.items():
            on = Qt.CheckState.Checked if name in USUAL else Qt.CheckState.Unchecked
            self._add(name, preset.title, preset.summary).setCheckState(0, on)

    def _add(self, name: str, title: str, words: str) -> QTreeWidgetItem:
        item = self.items[name] = QTreeWidgetItem(self, [title])
        item.setToolTip(0, tip(f"{title}\n{words}"))
        for column in range(1, 12):
            item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight)
        return item

    def ticked(self) -> list[str]:
        """Return the presets to run."""
        on = Qt.CheckState.Checked
        return [name for name, item in self.items.items() if item.checkState(0) == on]

    def with_results(self) -> list[MethodRow]:
        """Return the lines with a result, from above to below."""
        return sorted(self.rows.values(), key=lambda row: self.indexOfTopLevelItem(row.item))

    def results(self) -> list[MethodResult]:
        """Return the results, from above to below."""
        return [row.result for row in self.with_results()]

    def chosen(self) -> list[MethodRow]:
        """Return the lines with a result that are selected."""
        return [row for row in self.with_results() if row.item.isSelected()]

    def search(self, text: str) -> None:
        """Show the lines alone whose name or title holds a text."""
        for name, item in self.items.items():
            item.setHidden(text.lower() not in f"{name} {item.text(0)}".lower())

    def name_structures(self, names: Sequence[str]) -> None:
        """Have a column of Dice for each of these."""
        self.setColumnCount(len(_HEADS) + len(names))
        self.setHeaderLabels([*_HEADS, *(f"Dice {name}" for name in names)])
        head = self.headerItem()
        for column in range(self.columnCount()):
            if head is not None:
                head.setToolTip(column, tip(_TIPS[min(column, len(_HEADS))]))

    def put(self, result: MethodResult) -> MethodRow:
        """Give a result its line, and the line a colour."""
        name = result.name
        item = self.items.get(name) or self._add(name, result.title, "")
        used = [other.colour for other in self.rows.values()]
        row = self.rows.setdefault(name, MethodRow(item, min(_COLOURS, key=used.count), result))
        row.result = result
        self.write(row)
        selected = item.isSelected()
        self.takeTopLevelItem(self.indexOfTopLevelItem(item))
        self.insertTopLevelItem(len(self.rows) - 1, item)
        item.setSelected(selected)
        return row

    def clear_results(self) -> None:
        """Forget all results; saved runs leave the table."""
        for name, row in self.rows.items():
            self._write(row.item, [], QIcon())
            if name not in PRESETS:
                self.takeTopLevelItem(self.indexOfTopLevelItem(row.item))
                del self.items[name]
        self.rows.clear()
        self._fit_columns()

    def write(self, row: MethodRow) -> None:
        """Write a line anew."""
        result = row.result
        flagged = len(flagged_slices(result.flags))
        texts = [f"{100 * result.change:.3g} %", str(flagged), duration(result.seconds)]
        texts += [f"{value:.3f}" for value in result.dice.values()]
        self._write(row.item, texts, swatch(row.colour))
        self._fit_columns()

    def _write(self, item: QTreeWidgetItem, texts: list[str], icon: QIcon) -> None:
        with QSignalBlocker(self):
            for column in range(1, self.columnCount()):
                item.setText(column, texts[column - 1] if column <= len(texts) else "")
            item.setIcon(0, icon)

    def _fit_columns(self) -> None:
        for column in range(self.columnCount()):
            self.resizeColumnToContents(column)
        self.setColumnWidth(0, min(self.columnWidth(0), 180))


def figures_of(results: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """Return a line of the table for each method, by heading."""
    return [
        {
            "method": one.title,
            "change": one.change,
            "flagged slices": len(flagged_slices(one.flags)),
            "seconds": one.seconds,
            **{f"Dice {name}": value for name, value in one.dice.items()},
        }
        for one in results
    ]


def steps_of(results: Sequence[MethodResult]) -> list[dict[str, Any]]:
    """Return a line for each step of each method, by heading; the cosine by layer too."""
    return [
        {
            "method": one.title,
            "step": record.step,
            "slice": record.slice_index + 1,
            **{name: getattr(record, name) for name in QUANTITIES},
            **{f"cosine:{key}": value for key, value in record.layer_cosines.items()},
        }
        for one in results
        for record in one.records
        if record.phase == "adapt"
    ]
