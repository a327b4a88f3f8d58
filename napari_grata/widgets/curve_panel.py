"""One small plot over steps: curve, trend, marks and note."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt
from qtpy.QtGui import QFont, QTextOption
from qtpy.QtWidgets import QGraphicsTextItem

from napari_grata.widgets.curve_canvas import CurveCanvas, StepAxis, ValueAxis, pg
from napari_grata.widgets.theme import ThemeColours, blend

_FEW = 60  # up to so many steps each is drawn as a dot as well
_MANY_RESETS = 25
_CROWDED = 400  # from so many steps on, a moving mean leads the eye through the noise


def moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the centred moving mean over about a hundredth of the curve, taken twice.

    Parameters
    ----------
    values : ndarray of float, shape (n,)
        NaN values are left out of the means and stay NaN.

    Returns
    -------
    ndarray of float, shape (n,)
    """
    half = max(4, len(values) // 150)
    finite = np.isfinite(values)
    rows = np.arange(len(values))
    low, high = np.maximum(rows - half, 0), np.minimum(rows + half + 1, len(values))
    counts = np.concatenate([[0], np.cumsum(finite)])
    count = np.maximum(counts[high] - counts[low], 1)
    mean = np.where(finite, values, 0.0)
    for _ in range(2):  # a second time, since one box lets ripples through
        sums = np.concatenate([[0.0], np.cumsum(mean)])
        mean = np.where(finite, (sums[high] - sums[low]) / count, 0.0)
    return np.where(finite, mean, np.nan)


class CurvePanel:
    """One curve over steps with its title, marks and note.

    Parameters
    ----------
    canvas : CurveCanvas
    row : int
        Row in the canvas.
    steps_below : bool
        Whether the step axis is labelled under this plot.
    """

    def __init__(self, canvas: CurveCanvas, row: int, steps_below: bool) -> None:
        self._canvas = canvas
        self._fixed: tuple[float, float] | None = None
        self._title = ""
        self._exponent = 0
        self._dimmed = False
        axes = {"bottom": StepAxis("bottom"), "left": ValueAxis("left")}
        self._plot = canvas.addPlot(row=row, col=0, axisItems=axes)
        self._box = self._plot.getViewBox()
        self._box.setMouseEnabled(x=True, y=False)
        self._box.setDefaultPadding(0)
        self._box.disableAutoRange()
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.layout.setContentsMargins(0, 0, 0, 0)
        self._plot.layout.setVerticalSpacing(0)
        self._plot.titleLabel.setAttr("justify", "left")
        self._steps_below = steps_below
        font = QFont(canvas.font())
        font.setPointSizeF(7.5)
        left, bottom = self._plot.getAxis("left"), self._plot.getAxis("bottom")
        for axis in (left, bottom):
            axis.setStyle(tickFont=font, tickLength=-3, autoExpandTextSpace=False)
            axis.enableAutoSIPrefix(False)
        left.setWidth(30)
        left.setStyle(maxTickLevel=0)
        bottom.setStyle(maxTickLevel=0, showValues=steps_below)
        bottom.setHeight(28 if steps_below else 4)
        self._zero = pg.InfiniteLine(0, angle=0)
        self._at = pg.InfiniteLine(0, angle=90)
        self._resets = pg.PlotCurveItem(connect="pairs")
        self._curve = pg.PlotDataItem(connect="finite", antialias=True)
        self._trend = pg.PlotDataItem(connect="finite", antialias=True)
        self._dots = pg.ScatterPlotItem(size=4, pen=None)
        self._flags = pg.ScatterPlotItem(size=9, symbol="t1")
        self._undone = pg.ScatterPlotItem(size=8, symbol="x")
        self._hover = pg.ScatterPlotItem(size=8, symbol="o")
        for z, item in enumerate(
            (
                self._zero,
                self._resets,
                self._curve,
                self._trend,
                self._at,
                self._dots,
                self._flags,
                self._undone,
                self._hover,
            )
        ):
            item.setZValue(z)
            self._plot.addItem(item, ignoreBounds=True)
        # Only now: adding an item to a plot overwrites how it is reduced for the screen.
        for item, method in ((self._curve, "peak"), (self._trend, "mean")):
            item.setDownsampling(auto=True, method=method)
            item.setClipToView(True)
        self._note = QGraphicsTextItem(self._box)
        self._note.setFont(font)
        option = QTextOption(Qt.AlignmentFlag.AlignCenter)
        document = self._note.document()
        if document is not None:
            document.setDefaultTextOption(option)
        self._box.sigResized.connect(self._place_note)
        self._zero.hide()
        self._at.hide()
        self._zoomed = False
        self._bounds = (0.5, 5.5)
        self._box.sigRangeChangedManually.connect(self._on_zoom)
        self._leader: CurvePanel | None = None

    def follow(self, other: CurvePanel) -> None:
        """Share the step axis with another panel."""
        self._plot.setXLink(other._plot)
        self._leader = other
        self._box.sigRangeChangedManually.connect(other._on_zoom)

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        for name in ("left", "bottom"):
            axis = self._plot.getAxis(name)
            axis.setPen(pg.mkPen(colours.grid))
            axis.setTextPen(pg.mkPen(colours.muted))
        if self._steps_below:
            self._plot.getAxis("bottom").setLabel(
                "step", color=colours.muted, **{"font-size": "8pt"}
            )
        self._zero.setPen(pg.mkPen(colours.grid, width=1))
        self._resets.setPen(pg.mkPen(colours.muted, width=1, style=Qt.PenStyle.DotLine))
        self._at.setPen(pg.mkPen(colours.accent, width=2))
        self._trend.setPen(pg.mkPen(colours.text, width=1.5))
        self._dim_curve(self._dimmed)
        self._dots.setBrush(pg.mkBrush(colours.text))
        self._flags.setBrush(pg.mkBrush(colours.attention))
        self._flags.setPen(pg.mkPen(colours.background, width=1))
        self._undone.setBrush(pg.mkBrush(colours.wrong))
        self._undone.setPen(pg.mkPen(colours.wrong, width=1))
        self._hover.setBrush(pg.mkBrush(colours.accent))
        self._hover.setPen(pg.mkPen(colours.background, width=1))
        self._note.setDefaultTextColor(pg.mkColor(colours.muted))
        self._write_title()

    def set_title(self, title: str) -> None:
        """Name the curve, above it."""
        if title != self._title:
            self._title = title
            self._write_title()

    def _write_title(self) -> None:
        raised = str(self._exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        unit = f" (×10{raised})" if self._exponent else ""
        self._plot.setTitle(self._title + unit, color=self._colours.muted, size="8pt")
        # pyqtgraph keeps 30 pixels for a title; in a panel of 80 they are wanted for the curve.
        self._plot.titleLabel.setMaximumHeight(17)
        self._plot.layout.setRowFixedHeight(0, 17)

    def set_fixed_range(self, limits: tuple[float, float] | None) -> None:
        """Fix the value axis (with a line at 0), or let it fit the curve."""
        self._fixed = limits
        self._zero.setVisible(limits is not None)

    def set_note(self, words: str) -> None:
        """Show a sentence in place of the curve."""
        if words != self._note.toPlainText():
            self._note.setPlainText(words)
        self._note.setVisible(bool(words))
        self._undone.setVisible(not words)
        self._plot.getAxis("left").setStyle(showValues=not words)
        self._zero.setVisible(self._fixed is not None and not words)
        self._place_note()

    def _place_note(self) -> None:
        box = self._box.boundingRect()
        self._note.setTextWidth(box.width())
        self._note.setPos(0, max(0.0, (box.height() - self._note.boundingRect().height()) / 2))

    def draw(
        self, steps: np.ndarray, values: np.ndarray, flagged: np.ndarray, undone: np.ndarray
    ) -> None:
        """Draw the curve and its marks.

        Parameters
        ----------
        steps, values : ndarray, shape (n,)
            NaN values are gaps.
        flagged : ndarray of int
            Rows with flags.
        undone : ndarray of bool, shape (n,)
        """
        finite = np.isfinite(values)
        low, high = self._limits(values[finite])
        self._scale_axis(max(abs(low), abs(high)))
        pad = 0.08 * (high - low)
        self._box.setYRange(low - pad, high + pad, padding=0)
        x = steps.astype(float)
        crowded = len(x) > _CROWDED
        # Smooth edges of a line that goes up and down at every pixel cost most and show least.
        self._curve.setData(x, values, antialias=not crowded)
        self._trend.setData(x if crowded else [], moving_mean(values) if crowded else [])
        if crowded != self._dimmed:
            self._dim_curve(crowded)
        # A finite value between two gaps has no line; a dot keeps it from getting lost.
        alone = finite.copy()
        if len(finite) > _FEW:
            alone[1:] &= ~finite[:-1]
            alone[:-1] &= ~finite[1:]
        self._dots.setData(x[alone], values[alone])
        marked = flagged[finite[flagged]] if len(flagged) else flagged
        self._flags.setData(x[marked], values[marked])
        self._undone.setData(x[undone], np.full(int(undone.sum()), low + 0.5 * pad))

    def draw_resets(self, steps: list[int]) -> None:
        """Mark where the model went back to the source model: between two steps."""
        low, high = self._box.viewRange()[1]
        if len(steps) > _MANY_RESETS:
            high = low + 0.1 * (high - low)  # ticks: lines would hide the curve
        x = np.repeat(np.asarray(steps, dtype=float) - 0.5, 2)
        self._resets.setData(x, np.tile([low, high], len(steps)))

    def _dim_curve(self, dimmed: bool) -> None:
        """Let the curve step back behind its moving mean."""
        self._dimmed = dimmed
        colours = self._colours
        self._curve.setPen(
            pg.mkPen(blend(colours.background, colours.text, 0.35), width=1)
            if dimmed
            else pg.mkPen(colours.text, width=1.5)
        )

    def _limits(self, values: np.ndarray) -> tuple[float, float]:
        if self._fixed is not None:
            return self._fixed
        if not values.size:
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        # From 0 unless that would flatten the curve.
        if 0 <= low <= 0.7 * high or low == high:
            low = min(low, 0.0)
        if low == high:
            high = low + 1.0
        return low, high

    def _scale_axis(self, largest: float) -> None:
        exponent = 0
        if largest > 0 and not 0.1 <= largest < 1000:
            exponent = int(np.floor(np.log10(largest)))
        if exponent != self._exponent:
            self._exponent = exponent
            self._plot.getAxis("left").setScale(10.0**-exponent)
            self._write_title()

    def set_marker(self, step: int | None) -> None:
        """Mark the step in view."""
        self._at.setVisible(step is not None)
        if step is not None:
            self._at.setValue(step)

    def set_hover(self, point: tuple[float, float] | None) -> None:
        """Put a dot under the cursor's step."""
        if point is None or not np.isfinite(point[1]):
            self._hover.setData([], [])
        else:
            self._hover.setData([point[0]], [point[1]])

    def set_steps(self, first: float, last: float) -> None:
        """Set the extent of the step axis; a view that a person zoomed stays."""
        self._bounds = (first, last)
        self._box.setLimits(xMin=first, xMax=last, minXRange=2)
        if self._leader is None and not self._zoomed:
            self._box.setXRange(first, last, padding=0)

    def show_all_steps(self) -> None:
        """Leave the zoom."""
        self._zoomed = False
        self._box.setXRange(*self._bounds, padding=0)

    def _on_zoom(self, *_: Any) -> None:
        self._zoomed = True

    def step_at(self, x: float, y: float) -> float | None:
        """Return the step under a point of the scene, None outside the plot."""
        point = QPointF(x, y)
        if not self._box.sceneBoundingRect().contains(point):
            return None
        return float(self._box.mapSceneToView(point).x())

    def area(self) -> QRectF:
        """Return where the curve is drawn, in pixels of the canvas."""
        return self._box.sceneBoundingRect()
