"""Curves of several methods over their steps, and the cosine by layer of one as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF
from qtpy.QtGui import QFont

from napari_grata.adaptation.records import Record
from napari_grata.widgets.curves import (
    CROWDED,
    QUANTITIES,
    StepRows,
    WholeSteps,
    moving_mean,
    pg,
)
from napari_grata.widgets.theme import ThemeColours

LAYERS = "layer_cosines"


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
