"""The table of methods: which are ticked to be run, and what each has made of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QSize, Qt
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
    """A line of the table: a preset or saved run, and its result and layer once there are."""

    item: QTreeWidgetItem
    colour: str = ""
    result: MethodResult | None = None
    layer: Any = None


class MethodsTable(QTreeWidget):
    """Presets to tick; those that have run stand on top, in the order in which they did.

    Attributes
    ----------
    rows : dict of str to MethodRow
        By name of the preset, or of a saved run.
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
        self.rows: dict[str, MethodRow] = {}
        for name, preset in PRESETS.items():
            on = Qt.CheckState.Checked if name in USUAL else Qt.CheckState.Unchecked
            self._add(name, preset.title, preset.summary).item.setCheckState(0, on)

    def _add(self, name: str, title: str, words: str) -> MethodRow:
        item = QTreeWidgetItem(self, [title])
        item.setToolTip(0, tip(f"{title}\n{words}"))
        for column in range(1, 12):
            item.setTextAlignment(column, Qt.AlignmentFlag.AlignRight)
        row = self.rows[name] = MethodRow(item)
        return row

    def ticked(self) -> list[str]:
        """Return the presets to run."""
        on = Qt.CheckState.Checked
        return [name for name, row in self.rows.items() if row.item.checkState(0) == on]

    def with_results(self) -> list[MethodRow]:
        """Return the lines with a result, from above to below."""
        found = [row for row in self.rows.values() if row.result is not None]
        return sorted(found, key=lambda row: self.indexOfTopLevelItem(row.item))

    def results(self) -> list[MethodResult]:
        """Return the results, from above to below."""
        return [row.result for row in self.with_results() if row.result is not None]

    def chosen(self) -> list[MethodRow]:
        """Return the lines with a result that are selected."""
        return [row for row in self.with_results() if row.item.isSelected()]

    def search(self, text: str) -> None:
        """Show the lines alone whose name or title holds a text."""
        for name, row in self.rows.items():
            row.item.setHidden(text.lower() not in f"{name} {row.item.text(0)}".lower())

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
        row = self.rows.get(result.name) or self._add(result.name, result.title, "")
        if row.result is None:
            used = [other.colour for other in self.with_results()]
            row.colour = min(_COLOURS, key=used.count)
        row.result = result
        self.write(row)
        selected = row.item.isSelected()
        self.takeTopLevelItem(self.indexOfTopLevelItem(row.item))
        self.insertTopLevelItem(len(self.with_results()) - 1, row.item)
        row.item.setSelected(selected)
        return row

    def clear_results(self) -> None:
        """Forget all results; saved runs leave the table."""
        for name, row in list(self.rows.items()):
            row.layer = row.result = None
            self.write(row)
            if name not in PRESETS:
                self.takeTopLevelItem(self.indexOfTopLevelItem(row.item))
                del self.rows[name]

    def write(self, row: MethodRow) -> None:
        """Write a line anew."""
        result, texts = row.result, [""] * 3
        if result is not None:
            flagged = len(flagged_slices(result.flags))
            texts = [f"{100 * result.change:.3g} %", str(flagged), duration(result.seconds)]
            texts += [f"{value:.3f}" for value in result.dice.values()]
        self.blockSignals(True)
        for column in range(1, max(self.columnCount(), 4)):
            row.item.setText(column, texts[column - 1] if column <= len(texts) else "")
        row.item.setIcon(0, QIcon() if result is None else swatch(row.colour))
        self.blockSignals(False)
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
