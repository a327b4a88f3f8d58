"""What methods have made of the scan: the table in which they are ticked, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSignalBlocker, QSize, Qt
from qtpy.QtGui import QFont, QIcon
from qtpy.QtWidgets import QAbstractItemView, QTreeWidget, QTreeWidgetItem

from napari_grata.adaptation.records import Record
from napari_grata.adaptation.settings import PRESETS
from napari_grata.review.candidates import USUAL
from napari_grata.review.compare import MethodResult, flagged_slices
from napari_grata.widgets.curves import (
    CROWDED,
    QUANTITIES,
    StepRows,
    WholeSteps,
    moving_mean,
    pg,
)
from napari_grata.widgets.runner import duration
from napari_grata.widgets.theme import STRUCTURE_COLOURS, ThemeColours, swatch, tip

LAYERS = "layer_cosines"
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


class Overlay(pg.GraphicsLayoutWidget):
    """One quantity of several runs over their steps, or the cosine of each layer of one run.

    There is no legend: the table beside it has the colours.
    """

    def __init__(self, colours: ThemeColours) -> None:
        super().__init__()
        self.plot = self.addPlot(axisItems={"bottom": WholeSteps("bottom")})
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        font = QFont(self.font())
        font.setPointSizeF(7.5)
        for side, words in (("left", ""), ("bottom", "step")):
            axis = self.plot.getAxis(side)
            axis.setStyle(tickFont=font)
            axis.setLabel(words, **{"font-size": "7.5pt"})
            axis.enableAutoSIPrefix(False)
        self.plot.getAxis("bottom").setHeight(28)
        self.map = pg.ImageItem()
        self.plot.addItem(self.map)
        scale = pg.ColorMap([0, 0.5, 1], ["#D55E00", "#FFFFFF", "#0072B2"])
        self.bar = pg.ColorBarItem((-1, 1), width=8, colorMap=scale, interactive=False)
        self.bar.setImageItem(self.map)
        self.addItem(self.bar)
        self._layers: dict[str, None] = {}
        self._lines: list[Any] = []
        self.setAccessibleName("Curves of the methods")
        self.set_colours(colours)
        self.scene().sigMouseMoved.connect(self._point)

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self.setBackground(colours.background)
        for axis in (*(self.plot.getAxis(side) for side in ("left", "bottom")), self.bar.axis):
            axis.setPen(pg.mkPen(colours.grid))
            axis.setTextPen(pg.mkPen(colours.muted))

    def show_runs(self, name: str, runs: Sequence[tuple[str, Sequence[Record]]]) -> None:
        """Draw one of ``QUANTITIES`` of runs (colour, records); of `LAYERS`, the first."""
        for line in self._lines:
            self.plot.removeItem(line)
        self._lines, self._layers = [], {}
        for colour, records in runs[:1] if name == LAYERS else runs:
            rows = StepRows(records)
            if name == LAYERS:
                self._show_layers(rows)
            elif rows.has(name):
                values, pen = rows.values(name), pg.mkPen(colour, width=2)
                values = moving_mean(values) if len(values) > CROWDED else values
                self._lines.append(self.plot.plot(rows.steps, values, pen=pen, connect="finite"))
        seen = bool(self._layers)
        for item in (self.map, self.bar):
            item.setVisible(seen)
        self.bar.setFixedWidth(40 if seen else 0)
        axis, said = self.plot.getAxis("left"), QUANTITIES.get(name, ("layers ↓", ""))
        axis.setLabel(said[0].replace("\n", " "))
        axis.setStyle(showValues=not seen)
        self.plot.invertY(seen)
        self.plot.enableAutoRange()
        if name == "cosine":
            self.plot.setYRange(-1, 1)

    def _show_layers(self, rows: StepRows) -> None:
        self._layers = dict.fromkeys(key for record in rows.rows for key in record.layer_cosines)
        if self._layers:
            values = [[r.layer_cosines.get(key, np.nan) for key in self._layers] for r in rows.rows]
            self.map.setImage(np.array(values), levels=(-1, 1), autoLevels=False)
            first, last = rows.steps[0], rows.steps[-1]
            self.map.setRect(QRectF(first - 0.5, 0, last - first + 1, len(self._layers)))

    def _point(self, place: QPointF) -> None:
        """Tell of the layer under the cursor."""
        words = ""
        if self._layers and self.plot.sceneBoundingRect().contains(place):
            row = int(np.floor(self.plot.getViewBox().mapSceneToView(place).y()))
            words = list(self._layers)[row] if 0 <= row < len(self._layers) else ""
        self.setToolTip(words)


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
