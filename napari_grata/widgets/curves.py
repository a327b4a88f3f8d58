"""Live curves of an adaptation over its steps: two plots, one step axis."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import qtpy
from qtpy.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QFont
from qtpy.QtWidgets import QGraphicsTextItem, QLabel, QStackedLayout, QWidget

from napari_grata.adaptation.records import Record
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import later
from napari_grata.widgets.theme import ThemeColours, blend, tip

# pyqtgraph chooses a binding of its own unless told; two bindings in one process crash.
os.environ["PYQTGRAPH_QT_LIB"] = qtpy.API_NAME
import pyqtgraph as pg

# What a step has figures of: title beside the plot, word in a readout.
QUANTITIES = {
    "cosine": ("similarity\n(cosine)", "similarity"),
    "learning_rate": ("learning rate", "rate"),
    "auxiliary_loss": ("auxiliary loss", "auxiliary"),
    "pseudo_loss": ("pseudo loss", "pseudo"),
}
# What is shown together, above and below.
PAIRS = {
    "Similarity and rate": ("cosine", "learning_rate"),
    "Losses": ("auxiliary_loss", "pseudo_loss"),
}
NO_COSINE = "This method follows one signal only, so there is no similarity to show."
NOTHING_YET = "The curves draw themselves here while the model adapts."
NO_LEARNING = (
    "This method does not learn step by step, so there are no curves. "
    "The masks and the table show what it changed."
)
ABOUT = (
    "How well the two signals that guide the adaptation agree, step by step: near 1 they pull "
    "the same way, below 0 against each other. The learning rate follows that similarity "
    "(cosine between auxiliary and pseudo gradient).\n"
    "Click a step to see its slice. Ctrl+wheel zooms, double-click shows all steps.\n"
    "▲ a slice to look at · ✕ the step met numbers that are not finite and was taken back · "
    "┆ the model went back to the source model before this step"
)
_REDRAW_MS = 200  # at most so often; long curves less often
_FEW = 60  # up to so many steps each is drawn as a dot as well
CROWDED = 400  # from so many steps on, a moving mean leads the eye through the noise
_MANY_RESETS = 25
_TITLE_WIDTH, _AXIS_WIDTH = 76, 30
_MARGIN = 0.025  # room beside the first and the last step, as a share of the axis


def figure(value: float) -> str:
    """Return a number with sensible digits, as people write it."""
    if not np.isfinite(value):
        return "none"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}".replace("-", "−")
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}×10{_raised(int(exponent))}".replace("-", "−")


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the centred moving mean over about a hundredth of the curve; NaN values stay NaN."""
    window = 2 * max(4, len(values) // 150) + 1
    mean = pd.Series(values).rolling(window, center=True, min_periods=1).mean()
    return np.where(np.isfinite(values), mean, np.nan)


class StepRows:
    """The steps of a run, a row each (one a slice where a batch has several), as they came.

    Attributes
    ----------
    rows : list of Record
        Those that adapted; predictions at the end of a run take no step.
    steps : list of int
        Never decreasing.
    last : dict of int to int
        The last row of each slice.
    """

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.rows = [record for record in records if record.phase == "adapt"]
        self.steps = [record.step for record in self.rows]
        self.last = {record.slice_index: row for row, record in enumerate(self.rows)}

    def values(self, name: str) -> np.ndarray:
        """Return one of ``QUANTITIES``, float64, shape (n,), NaN where there is no figure."""
        found = np.array([getattr(record, name) for record in self.rows], dtype=float)
        # An infinite loss has no place on an axis; it is a gap like NaN.
        return np.where(np.isfinite(found), found, np.nan)

    def has(self, name: str) -> bool:
        """Whether the method gives this figure at all (NaN from an undone step counts)."""
        return any(getattr(record, name) is not None for record in self.rows)

    def at(self, step: float) -> int | None:
        """Return the row nearest to a step (the first of a batch), None without rows."""
        if not self.steps:
            return None
        right = min(bisect_left(self.steps, step), len(self.steps) - 1)
        before, after = self.steps[max(right - 1, 0)], self.steps[right]
        return bisect_left(self.steps, before if step - before <= after - step else after)

    def batch(self, row: int) -> range:
        """Return all rows that share a row's step."""
        step = self.steps[row]
        return range(bisect_left(self.steps, step), bisect_right(self.steps, step))


class WholeSteps(pg.AxisItem):
    """Ticks at whole steps only."""

    def tickSpacing(self, minVal: float, maxVal: float, size: float) -> Any:  # noqa: N802
        levels = super().tickSpacing(minVal, maxVal, size)
        whole = [level for level in levels if level[0] >= 1 and level[0] == int(level[0])]
        return whole or [(1, 0)]


class _Plot:
    """One curve over steps with its title, marks and note."""

    def __init__(self, canvas: pg.GraphicsLayoutWidget, row: int, *, steps_below: bool) -> None:
        self._canvas = canvas
        self._dimmed = False
        self._plot = canvas.addPlot(row=row, col=0, axisItems={"bottom": WholeSteps("bottom")})
        self.box = self._plot.getViewBox()
        self.box.setMouseEnabled(x=False, y=False)
        self.box.setDefaultPadding(0)
        self.box.disableAutoRange()
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.layout.setContentsMargins(0, 3, 0, 0)
        font = QFont(canvas.font())
        font.setPointSizeF(7.5)
        self._left, self._bottom = self._plot.getAxis("left"), self._plot.getAxis("bottom")
        for axis in (self._left, self._bottom):
            axis.setStyle(tickFont=font, tickLength=-3, autoExpandTextSpace=False, maxTickLevel=0)
            axis.enableAutoSIPrefix(False)
        self._left.setStyle(hideOverlappingLabels=False)
        self._left.setWidth(_TITLE_WIDTH + _AXIS_WIDTH)
        self._bottom.setStyle(showValues=steps_below)
        self._bottom.setHeight(16 if steps_below else 3)
        self._zero = pg.InfiniteLine(0, angle=0)
        self.marker = pg.InfiniteLine(0, angle=90)
        self._resets = pg.PlotCurveItem(connect="pairs")
        self.curve = pg.PlotDataItem(connect="finite", antialias=True)
        self._trend = pg.PlotDataItem(connect="finite", antialias=True)
        self.dots = pg.ScatterPlotItem(size=4, pen=None)
        self.flags = pg.ScatterPlotItem(size=9, symbol="t1")
        self.undone = pg.ScatterPlotItem(size=8, symbol="x")
        self._hover = pg.ScatterPlotItem(size=8, symbol="o")
        lines = (self._zero, self._resets, self.curve, self._trend, self.marker, self.dots)
        for item in (*lines, self.flags, self.undone, self._hover):
            self._plot.addItem(item, ignoreBounds=True)
        # Only now: adding an item to a plot overwrites how it is reduced for the screen.
        for item, method in ((self.curve, "peak"), (self._trend, "mean")):
            item.setDownsampling(auto=True, method=method)
            item.setClipToView(True)
        self.title, self.note = QGraphicsTextItem(self._left), QGraphicsTextItem(self.box)
        self._step_word = QGraphicsTextItem("step" if steps_below else "", self._bottom)
        self._texts = (self.title, self.note, self._step_word)
        for text in self._texts:
            text.setFont(font)
        self._step_word.setPos(-_TITLE_WIDTH - _AXIS_WIDTH - 3, -5)
        self.title.setPos(-3, -4)
        self.set_marker(None)

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        for axis in (self._left, self._bottom):
            axis.setPen(pg.mkPen(colours.grid))
            axis.setTextPen(pg.mkPen(colours.muted))
        self._zero.setPen(pg.mkPen(colours.grid, width=1))
        self._resets.setPen(pg.mkPen(colours.muted, width=1, style=Qt.PenStyle.DotLine))
        self.marker.setPen(pg.mkPen(colours.accent, width=2))
        self._trend.setPen(pg.mkPen(colours.text, width=1.5))
        self._dim_curve(self._dimmed)
        rim = pg.mkPen(colours.background, width=1)
        for item, fill, pen in (
            (self.dots, colours.text, None),
            (self.flags, colours.attention, rim),
            (self.undone, colours.wrong, pg.mkPen(colours.wrong)),
            (self._hover, colours.accent, rim),
        ):
            item.setBrush(pg.mkBrush(fill))
            item.setPen(pen)
        for text in self._texts:
            text.setDefaultTextColor(pg.mkColor(colours.muted))

    def draw(
        self,
        name: str,
        steps: np.ndarray,
        values: np.ndarray,
        flagged: np.ndarray,
        undone: np.ndarray,
        resets: np.ndarray,
        note: str,
    ) -> None:
        """Draw a curve and its marks.

        Parameters
        ----------
        name : str
            One of ``QUANTITIES``.
        steps, values : ndarray, shape (n,)
            NaN values are gaps.
        flagged : ndarray of int
            Rows with a mark.
        undone : ndarray of bool, shape (n,)
        resets : ndarray of float
            Where the model went back to the source model.
        note : str
            What to say in place of a curve.
        """
        finite = np.isfinite(values)
        low, high = (-1.0, 1.0) if name == "cosine" else _limits(values[finite])
        pad = 0.12 * (high - low)
        self.box.setYRange(low - pad, high + pad, padding=0)
        largest = max(abs(low), abs(high))
        exponent = 0 if 0.1 <= largest < 1000 or not largest else int(np.floor(np.log10(largest)))
        # Both ends and the middle: pyqtgraph's own choice leaves one tick in a low plot.
        ticks = [low, 0.0, high] if name == "cosine" else [low, high]
        self._left.setTicks([[(v, figure(v * 10.0**-exponent)) for v in ticks]])
        self._left.setStyle(showValues=not note)
        unit = f"\n×10{_raised(exponent)}" if exponent else ""
        self.title.setPlainText(QUANTITIES[name][0] + unit)
        self.note.setPlainText(note)
        self.note.setTextWidth(self.box.boundingRect().width())
        self._zero.setVisible(name == "cosine" and not note)
        crowded = len(steps) > CROWDED
        # Smooth edges of a line that goes up and down at every pixel cost most and show least.
        self.curve.setData(steps, values, antialias=not crowded)
        self._trend.setData(steps if crowded else [], moving_mean(values) if crowded else [])
        if crowded != self._dimmed:
            self._dim_curve(crowded)
        # A finite value between two gaps has no line; a dot keeps it from getting lost.
        alone = finite.copy()
        if len(finite) > _FEW:
            alone[1:] &= ~finite[:-1]
            alone[:-1] &= ~finite[1:]
        self.dots.setData(steps[alone], values[alone])
        marked = flagged[finite[flagged]]
        self.flags.setData(steps[marked], values[marked])
        undone = undone & (not note)
        self.undone.setData(steps[undone], np.full(int(undone.sum()), low + 0.5 * pad))
        # Few are lines from bottom to top; many are ticks, since lines would hide the curve.
        top = low + 0.1 * (high - low) if len(resets) > _MANY_RESETS else high + pad
        self._resets.setData(np.repeat(resets - 0.5, 2), np.tile([low - pad, top], len(resets)))

    def _dim_curve(self, dimmed: bool) -> None:
        """Let the curve step back behind its moving mean."""
        self._dimmed = dimmed
        colour, width = self._colours.text, 1.5
        if dimmed:
            colour, width = blend(self._colours.background, colour, 0.35), 1.0
        self.curve.setPen(pg.mkPen(colour, width=width))

    def set_marker(self, step: int | None) -> None:
        """Mark the step in view."""
        self.marker.setVisible(step is not None)
        if step is not None:
            self.marker.setValue(step)

    def set_hover(self, step: float, value: float) -> None:
        """Put a dot under the cursor's step; NaN: none."""
        there = np.isfinite(value)
        self._hover.setData([step] if there else [], [value] if there else [])

    def step_at(self, point: QPointF) -> float | None:
        """Return the step under a point of the canvas, None outside the plot."""
        scene = self._canvas.mapToScene(point.toPoint())
        if not self.area().contains(scene):
            return None
        return float(self.box.mapSceneToView(scene).x())

    def area(self) -> QRectF:
        """Return where the curve is drawn, in pixels of the canvas."""
        return QRectF(self.box.sceneBoundingRect())


def _limits(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    # From 0 unless that would flatten the curve.
    if 0 <= low <= 0.7 * high or low == high:
        low = min(low, 0.0)
    return low, low + 1.0 if low == high else high


class Curves(QWidget):
    """Two curves over the steps of the run in view, drawn as records come in.

    Both plots and whatever lies below share one range of steps, which is held here and nowhere
    else.

    Signals
    -------
    step_chosen(int slice_index, int step)
        A step was clicked, or reached with the arrow keys.
    axis_changed()
        `axis` gives other places now.
    hovered()
        Another row lies under the cursor: ``hovered_row``.
    """

    step_chosen = Signal(int, int)
    axis_changed = Signal()
    hovered = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.data = StepRows()
        self.hovered_row: int | None = None
        self._pair = next(iter(PAIRS))
        self._range = self._bounds = (0.0, 10.0)
        self.canvas = pg.GraphicsLayoutWidget()
        self.canvas.ci.layout.setContentsMargins(0, 0, 4, 0)
        self.canvas.ci.layout.setSpacing(0)
        self.canvas.setMinimumSize(200, 40)
        self.canvas.setMouseTracking(True)
        self.canvas.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.canvas.setAccessibleName("Curves of the adaptation")
        self.canvas.setAccessibleDescription(ABOUT)
        self.plots = tuple(_Plot(self.canvas, row, steps_below=row == 1) for row in (0, 1))
        self.sentence = QLabel(NOTHING_YET)
        self.sentence.setObjectName("grata_muted")
        self.sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.sentence.setWordWrap(True)
        self._stack = QStackedLayout(self)
        self._stack.addWidget(self.sentence)
        self._stack.addWidget(self.canvas)
        self._timer = later(self, _REDRAW_MS, self.draw)
        self.canvas.installEventFilter(self)
        self.canvas.viewport().installEventFilter(self)
        self.plots[1].box.sigResized.connect(self.axis_changed)
        context.session_changed.connect(self._on_session)
        context.runner.records.connect(self._draw_soon)
        context.runner.ended.connect(self._draw_soon)
        context.figures.changed.connect(self._draw_soon)
        context.step_changed.connect(self._on_step)
        context.theme_changed.connect(self._show_theme)
        self._show_theme(context.theme)
        self._on_session()

    # --- what is drawn -----------------------------------------------------------------------

    def show_pair(self, name: str) -> None:
        """Show another of ``PAIRS``."""
        self._pair = name
        self.draw()

    def _on_session(self) -> None:
        """Another run is in view, or this one began: all its steps are shown."""
        self.data = StepRows()
        self.hovered_row = None
        self._range = self._bounds
        self._draw_soon()

    def _draw_soon(self, *_: object) -> None:
        if not self._timer.isActive():
            # Painting costs more with each point: long curves are drawn less often.
            self._timer.start(_REDRAW_MS + min(800, len(self.data.rows) // 10))

    def draw(self) -> None:
        """Draw all of it now; what is not seen is drawn when it comes into view."""
        self._timer.stop()
        session = self._context.session
        records = session.records if session is not None else []
        data = self.data = StepRows(records)
        if not self.isVisible():
            return
        drawable = any(data.has(name) for name in QUANTITIES)
        self.sentence.setText(NO_LEARNING if records else NOTHING_YET)
        self._stack.setCurrentIndex(1 if drawable else 0)
        if drawable:
            self._set_bounds()
            steps, resets = np.array(data.steps, dtype=float), np.array(self.resets(), dtype=float)
            rows = (data.last.get(index) for index in (session.flagged() if session else ()))
            flagged = np.array([row for row in rows if row is not None], dtype=np.int64)
            undone = np.array([record.undone for record in data.rows])
            for plot, name in zip(self.plots, PAIRS[self._pair], strict=True):
                missing = NO_COSINE if name == "cosine" else "This method has no such figure."
                note = "" if data.has(name) else missing
                plot.draw(name, steps, data.values(name), flagged, undone, resets, note)
                plot.set_marker(self._context.step)
        self._show_hover()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw what nobody saw."""
        super().showEvent(event)
        self._timer.start(0)

    def resets(self) -> list[int]:
        """Return the steps before which the model went back to the source model."""
        session = self._context.session
        if session is None or session.run is None or not self.data.steps:
            return []
        last = self.data.steps[-1]
        plan = (event for event in session.run.plan if event.resets and event.phase == "adapt")
        return [event.step for event in plan if 1 < event.step <= last]

    def _show_theme(self, colours: ThemeColours) -> None:
        self.canvas.setBackground(colours.background)
        for plot in self.plots:
            plot.set_colours(colours)

    # --- the one axis ------------------------------------------------------------------------

    def axis(self) -> tuple[float, float, float, float]:
        """Return where the step axis lies: left and right pixel, and the steps there."""
        area = self.plots[1].area()
        return area.left(), area.right(), *self._range

    def _set_bounds(self) -> None:
        whole, session = self._range == self._bounds, self._context.session
        # While a run goes on, the axis is as long as it will be.
        expected = session.expected_steps if session is not None and session.busy else 0
        last = max(self.data.steps[-1], expected or 0, 2)
        # To the right of the last step there is room for the slider's end, the result.
        self._bounds = (-_MARGIN * last, (1 + 2 * _MARGIN) * last)
        self._set_range(*(self._bounds if whole else self._range))

    def _set_range(self, low: float, high: float) -> None:
        first, last = self._bounds
        span = min(max(high - low, 4.0), last - first)
        low = min(max(low, first), last - span)
        self._range = (low, low + span) if span < last - first else self._bounds
        for plot in self.plots:
            plot.box.setXRange(*self._range, padding=0)
        self.axis_changed.emit()

    # --- mouse and keys ----------------------------------------------------------------------

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Point, click, zoom and walk, the same for both plots."""
        kind = event.type()
        if kind == QEvent.Type.MouseMove:
            self._hover(self._row_at(QPointF(event.pos())))
        elif kind == QEvent.Type.Leave:
            self._hover(None)
        elif kind == QEvent.Type.MouseButtonDblClick:
            self._set_range(*self._bounds)
        elif kind == QEvent.Type.MouseButtonPress and event.button() == Qt.MouseButton.LeftButton:
            row = self._row_at(QPointF(event.pos()))
            if row is not None:
                self._choose(row)
        elif kind == QEvent.Type.Wheel:
            self._zoom(event)
            return True
        elif kind == QEvent.Type.KeyPress and watched is self.canvas and self.data.rows:
            return self._walk(event)
        return bool(super().eventFilter(watched, event))

    def _step_at(self, point: QPointF) -> float | None:
        """Return the step under a point of the canvas, None beside the plots."""
        found = (plot.step_at(point) for plot in self.plots)
        return next((step for step in found if step is not None), None)

    def _row_at(self, point: QPointF) -> int | None:
        step = self._step_at(point)
        return None if step is None else self.data.at(step)

    def _zoom(self, event: Any) -> None:
        """Zoom about the cursor with Ctrl, else move along the axis."""
        step, turn = self._step_at(event.position()), event.angleDelta()
        notches, (low, high) = (turn.y() or turn.x()) / 120, self._range
        if step is None:
            return
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            factor = 0.8**notches
            self._set_range(step - (step - low) * factor, step + (high - step) * factor)
        else:
            shift = -0.1 * notches * (high - low)
            self._set_range(low + shift, high + shift)

    def _walk(self, event: Any) -> bool:
        """Go from step to step with the arrow keys, Home and End."""
        last, step = len(self.data.rows) - 1, self._context.step
        at = last if step is None else self.data.at(step) or 0
        row = {
            Qt.Key.Key_Left: max(0, at - 1),
            Qt.Key.Key_Right: min(last, self.data.batch(at)[-1] + 1),
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }.get(Qt.Key(event.key()))
        if row is None or event.modifiers():
            return False
        self._choose(row)
        return True

    def _choose(self, row: int) -> None:
        self.step_chosen.emit(self.data.rows[row].slice_index, self.data.steps[row])

    def _on_step(self, step: int | None) -> None:
        """Move the mark at once and alone: it follows a slider, and the curves stay as they are."""
        for plot in self.plots:
            plot.set_marker(step)

    def _hover(self, row: int | None) -> None:
        if row != self.hovered_row:
            self.hovered_row = row
            self._show_hover()

    def _show_hover(self) -> None:
        record = self.data.rows[self.hovered_row] if self.hovered_row is not None else None
        for plot, name in zip(self.plots, PAIRS[self._pair], strict=True):
            value = getattr(record, name) if record is not None else None
            plot.set_hover(record.step if record else 0, np.nan if value is None else value)
        row = self.hovered_row
        self.canvas.setToolTip("" if row is None else tip(self.describe(row)))
        self.hovered.emit()

    # --- words -------------------------------------------------------------------------------

    def describe(self, row: int) -> str:
        """Return the readout of one row: step, slice, the two figures, flags."""
        data, session, scan = self.data, self._context.session, self._context.scan
        record, batch = data.rows[row], data.batch(row)
        slices = [data.rows[i].slice_index for i in batch[:3]]
        named = ", ".join(scan.slice_name(i) if scan is not None else "" for i in slices)
        words = [f"step {record.step}", named + (" …" if len(batch) > 3 else "")]
        if record.undone:
            words.append("undone: not a finite number")
        for name in PAIRS[self._pair] if not record.undone else ():
            value = getattr(record, name)
            if value is not None:
                text = f"{value:.2f}".replace("-", "−") if name == "cosine" else figure(value)
                words.append(f"{QUANTITIES[name][1]} {text}")
        if session is not None and data.last[record.slice_index] == row:
            words += [flag.text for flag in session.flags.get(record.slice_index, ())]
        return " · ".join(words)

    def marks(self) -> str:
        """Return how many resets and undone steps there are, in words."""
        resets, undone = len(self.resets()), sum(record.undone for record in self.data.rows)
        words = [f"┆ {resets} reset{'s' if resets != 1 else ''}"] if resets else []
        return " · ".join([*words, *([f"✕ {undone} undone"] if undone else [])])
