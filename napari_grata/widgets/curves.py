"""Live curves of an adaptation over its steps: two plots, one step axis."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np
import qtpy
from qtpy.QtCore import QPointF, QRectF, Qt, QTimer, Signal
from qtpy.QtGui import QFont, QTextOption
from qtpy.QtWidgets import QGraphicsTextItem, QLabel, QStackedLayout, QWidget

from napari_grata.adaptation.records import Record
from napari_grata.widgets.context import Context
from napari_grata.widgets.theme import ThemeColours, blend, tip

# pyqtgraph chooses a binding of its own unless told; two bindings in one process crash.
os.environ["PYQTGRAPH_QT_LIB"] = qtpy.API_NAME
import pyqtgraph as pg

QUANTITIES = (
    "cosine",
    "learning_rate",
    "auxiliary_loss",
    "pseudo_loss",
    "auxiliary_norm",
    "pseudo_norm",
)
# What is shown together: above and below.
PAIRS = (
    ("Similarity and rate", "cosine", "learning_rate"),
    ("Losses", "auxiliary_loss", "pseudo_loss"),
    ("Gradients", "auxiliary_norm", "pseudo_norm"),
)
TITLES = {
    "cosine": "similarity\n(cosine)",
    "learning_rate": "learning\nrate",
    "auxiliary_loss": "auxiliary\nloss",
    "pseudo_loss": "pseudo\nloss",
    "auxiliary_norm": "auxiliary\ngradient",
    "pseudo_norm": "pseudo\ngradient",
}
SHORT = {
    "cosine": "similarity",
    "learning_rate": "rate",
    "auxiliary_loss": "auxiliary",
    "pseudo_loss": "pseudo",
    "auxiliary_norm": "auxiliary",
    "pseudo_norm": "pseudo",
}
MISSING = {
    "cosine": "This method follows one signal only, so there is no similarity to show.",
    "learning_rate": "This method has no learning rate.",
    "auxiliary_loss": "This method has no auxiliary loss.",
    "pseudo_loss": "This method has no pseudo loss.",
    "auxiliary_norm": "This method has no auxiliary gradient.",
    "pseudo_norm": "This method has no pseudo gradient.",
}
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
REDRAW_MS = 200  # at most so often; long curves less often
_FEW = 60  # up to so many steps each is drawn as a dot as well
_CROWDED = 400  # from so many steps on, a moving mean leads the eye through the noise
_MANY_RESETS = 25
_TITLE_WIDTH, _AXIS_WIDTH = 62, 34
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


class CurveData:
    """The figures of a run, a row per step and slice, in the order of the stream.

    A record that goes back in steps (a run rolled back and resumed) drops the rows it replaces,
    so that steps never decrease. Records of the phase ``predict`` add no row.

    Attributes
    ----------
    steps, slices : list of int
    undone : list of bool
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.slices: list[int] = []
        self.undone: list[bool] = []
        self._done: list[int] = []
        self._values: dict[str, list[float]] = {name: [] for name in QUANTITIES}
        self._seen: set[str] = set()
        self._last_row: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def values(self, quantity: str) -> np.ndarray:
        """Return one of ``QUANTITIES``, float64, shape (n,), NaN where there is no figure."""
        return np.asarray(self._values[quantity], dtype=float)

    def has(self, quantity: str) -> bool:
        """Whether the method gives this figure at all (NaN from an undone step counts)."""
        return quantity in self._seen

    def extend(self, records: Iterable[Record]) -> None:
        """Append records, dropping what a rollback made void."""
        for record in records:
            if record.phase == "adapt":
                self._append(record)

    def _append(self, record: Record) -> None:
        self._drop_replaced(record)
        self._last_row[record.slice_index] = len(self.steps)
        self.steps.append(record.step)
        self.slices.append(record.slice_index)
        self.undone.append(record.undone)
        self._done.append(record.done)
        figures = (
            record.cosine,
            record.learning_rate,
            record.auxiliary_loss,
            record.pseudo_loss,
            *record.gradient_norms,
        )
        for name, found in zip(QUANTITIES, figures, strict=True):
            value = np.nan if found is None else float(found)
            # An infinite loss has no place on an axis; it is a gap like NaN.
            self._values[name].append(value if np.isfinite(value) else np.nan)
            if found is not None:
                self._seen.add(name)

    def _drop_replaced(self, record: Record) -> None:
        if not self.steps or record.step > self.steps[-1]:
            return
        if record.step == self.steps[-1]:
            # Another slice of the same batch, unless the step is taken anew.
            if record.done > self._done[-1] or record.slice_index != self.slices[-1]:
                return
        keep = bisect_left(self.steps, record.step)
        for column in (self.steps, self.slices, self.undone, self._done, *self._values.values()):
            del column[keep:]
        self._last_row = {index: row for row, index in enumerate(self.slices)}

    def row_of_step(self, step: float) -> int | None:
        """Return the row nearest to a step (the first of a batch), None without rows."""
        if not self.steps:
            return None
        right = min(bisect_left(self.steps, step), len(self.steps) - 1)
        before, after = self.steps[max(right - 1, 0)], self.steps[right]
        return bisect_left(self.steps, before if step - before <= after - step else after)

    def rows_of_same_step(self, row: int) -> range:
        """Return all rows that share a row's step (the slices of one batch)."""
        step = self.steps[row]
        return range(bisect_left(self.steps, step), bisect_right(self.steps, step))

    def last_row(self, slice_index: int) -> int | None:
        """Return the last row of a slice, None if no step was on it."""
        return self._last_row.get(slice_index)


class StepTicks(pg.AxisItem):
    """Ticks at whole steps only."""

    def tickSpacing(self, minVal: float, maxVal: float, size: float) -> Any:  # noqa: N802
        """Return spacings and offsets of the ticks."""
        levels = super().tickSpacing(minVal, maxVal, size)
        whole = [level for level in levels if level[0] >= 1 and level[0] == int(level[0])]
        return whole or [(1, 0)]


class CurveCanvas(pg.GraphicsLayoutWidget):
    """The surface of both plots; tells what mouse and keys do, and moves nothing by itself."""

    hovered = Signal(object)  # (x, y) of the scene; None: outside
    clicked = Signal(object)
    reset = Signal()
    wheeled = Signal(object, int, bool)  # (x, y), notches × 120, whether Ctrl is held
    walked = Signal(object)  # the arrow key, Home or End
    resized = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.ci.layout.setContentsMargins(0, 0, 4, 0)
        self.ci.layout.setSpacing(0)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(160, 40)
        self.scene().sigMouseClicked.connect(self._on_click)

    def _on_click(self, event: Any) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            point = event.scenePos()
            self.reset.emit() if event.double() else self.clicked.emit((point.x(), point.y()))

    def wheelEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Zoom and pan are the same for both plots."""
        point = self.mapToScene(event.position().toPoint())
        control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        turn = event.angleDelta()
        self.wheeled.emit((point.x(), point.y()), turn.y() or turn.x(), control)
        event.accept()

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Not by the scene's signal: that one drops moves in quick succession."""
        super().mouseMoveEvent(event)
        point = self.mapToScene(event.pos())
        self.hovered.emit((point.x(), point.y()))

    def leaveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Nothing is hovered any more."""
        super().leaveEvent(event)
        self.hovered.emit(None)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Walk from step to step."""
        keys = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Home, Qt.Key.Key_End)
        if event.key() in keys and not event.modifiers():
            self.walked.emit(Qt.Key(event.key()))
        else:
            event.ignore()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The plots have other places now."""
        super().resizeEvent(event)
        self.resized.emit()


class _Plot:
    """One curve over steps with its title, marks and note."""

    def __init__(self, canvas: CurveCanvas, row: int, *, steps_below: bool) -> None:
        self._fixed = self._dimmed = False
        self._title, self._exponent = "", 0
        self._steps_below = steps_below
        axes = {"bottom": StepTicks("bottom")}
        self._plot = canvas.addPlot(row=row, col=0, axisItems=axes)
        self.box = self._plot.getViewBox()
        self.box.setMouseEnabled(x=False, y=False)
        self.box.setDefaultPadding(0)
        self.box.disableAutoRange()
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.layout.setContentsMargins(0, 2, 0, 0)
        font = QFont(canvas.font())
        font.setPointSizeF(7.5)
        left, bottom = self._plot.getAxis("left"), self._plot.getAxis("bottom")
        for axis in (left, bottom):
            axis.setStyle(tickFont=font, tickLength=-3, autoExpandTextSpace=False, maxTickLevel=0)
            axis.enableAutoSIPrefix(False)
        left.setWidth(_TITLE_WIDTH + _AXIS_WIDTH)
        bottom.setStyle(showValues=steps_below)
        bottom.setHeight(15 if steps_below else 3)
        self._zero = pg.InfiniteLine(0, angle=0)
        self._at = pg.InfiniteLine(0, angle=90)
        self._resets = pg.PlotCurveItem(connect="pairs")
        self._curve = pg.PlotDataItem(connect="finite", antialias=True)
        self._trend = pg.PlotDataItem(connect="finite", antialias=True)
        self._dots = pg.ScatterPlotItem(size=4, pen=None)
        self._flags = pg.ScatterPlotItem(size=9, symbol="t1")
        self._undone = pg.ScatterPlotItem(size=8, symbol="x")
        self._hover = pg.ScatterPlotItem(size=8, symbol="o")
        items = (self._zero, self._resets, self._curve, self._trend, self._at, self._dots)
        for z, item in enumerate((*items, self._flags, self._undone, self._hover)):
            item.setZValue(z)
            self._plot.addItem(item, ignoreBounds=True)
        # Only now: adding an item to a plot overwrites how it is reduced for the screen.
        for item, method in ((self._curve, "peak"), (self._trend, "mean")):
            item.setDownsampling(auto=True, method=method)
            item.setClipToView(True)
        self._name = QGraphicsTextItem(left)
        self._steps_word = QGraphicsTextItem(bottom)
        self._note = QGraphicsTextItem(self.box)
        for text in (self._name, self._steps_word, self._note):
            text.setFont(font)
            text.document().setDocumentMargin(1)
        self._steps_word.setPlainText("step" if steps_below else "")
        self._note.document().setDefaultTextOption(QTextOption(Qt.AlignmentFlag.AlignCenter))
        self.box.sigResized.connect(self._place_texts)
        self._zero.hide()
        self._at.hide()

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        for name in ("left", "bottom"):
            axis = self._plot.getAxis(name)
            axis.setPen(pg.mkPen(colours.grid))
            axis.setTextPen(pg.mkPen(colours.muted))
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
        for text in (self._name, self._steps_word, self._note):
            text.setDefaultTextColor(pg.mkColor(colours.muted))

    def set_quantity(self, name: str, *, there: bool) -> None:
        """Say what is drawn; ``there``: whether the method has such figures."""
        self._fixed = name == "cosine"
        self._title = TITLES[name]
        words = "" if there else MISSING[name]
        if words != self._note.toPlainText():
            self._note.setPlainText(words)
        self._note.setVisible(not there)
        self._undone.setVisible(there)
        self._zero.setVisible(self._fixed and there)
        self._plot.getAxis("left").setStyle(showValues=there)
        self._place_texts()

    def _place_texts(self) -> None:
        unit = f"\n×10{_raised(self._exponent)}" if self._exponent else ""
        if self._name.toPlainText() != self._title + unit:
            self._name.setPlainText(self._title + unit)
        self._name.setPos(0, 0)
        axis = self._plot.getAxis("bottom").boundingRect()
        self._steps_word.setPos(-_TITLE_WIDTH - _AXIS_WIDTH, max(0.0, axis.height() - 14))
        box = self.box.boundingRect()
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
            Rows with a mark.
        undone : ndarray of bool, shape (n,)
        """
        finite = np.isfinite(values)
        low, high = (-1.0, 1.0) if self._fixed else _limits(values[finite])
        self._scale_axis(max(abs(low), abs(high)))
        pad = 0.1 * (high - low)
        self.box.setYRange(low - pad, high + pad, padding=0)
        # The middle and both ends, whatever fits: pyqtgraph's own choice leaves one tick in a
        # low plot.
        exponent = 10.0**-self._exponent
        ticks = [(value, figure(value * exponent)) for value in _ticks(low, high)]
        self._plot.getAxis("left").setTicks([ticks])
        crowded = len(steps) > _CROWDED
        # Smooth edges of a line that goes up and down at every pixel cost most and show least.
        self._curve.setData(steps, values, antialias=not crowded)
        self._trend.setData(steps if crowded else [], moving_mean(values) if crowded else [])
        if crowded != self._dimmed:
            self._dim_curve(crowded)
        # A finite value between two gaps has no line; a dot keeps it from getting lost.
        alone = finite.copy()
        if len(finite) > _FEW:
            alone[1:] &= ~finite[:-1]
            alone[:-1] &= ~finite[1:]
        self._dots.setData(steps[alone], values[alone])
        marked = flagged[finite[flagged]] if len(flagged) else flagged
        self._flags.setData(steps[marked], values[marked])
        self._undone.setData(steps[undone], np.full(int(undone.sum()), low + 0.5 * pad))

    def draw_resets(self, steps: list[int]) -> None:
        """Mark where the model went back to the source model: between two steps."""
        low, high = self.box.viewRange()[1]
        if len(steps) > _MANY_RESETS:
            high = low + 0.1 * (high - low)  # ticks: lines would hide the curve
        x = np.repeat(np.asarray(steps, dtype=float) - 0.5, 2)
        self._resets.setData(x, np.tile([low, high], len(steps)))

    def _dim_curve(self, dimmed: bool) -> None:
        """Let the curve step back behind its moving mean."""
        self._dimmed = dimmed
        colours = self._colours
        pale = blend(colours.background, colours.text, 0.35)
        self._curve.setPen(pg.mkPen(pale, width=1) if dimmed else pg.mkPen(colours.text, width=1.5))

    def _scale_axis(self, largest: float) -> None:
        exponent = 0
        if largest > 0 and not 0.1 <= largest < 1000:
            exponent = int(np.floor(np.log10(largest)))
        if exponent != self._exponent:
            self._exponent = exponent
            self._place_texts()

    def set_marker(self, step: int | None) -> None:
        """Mark the step in view."""
        self._at.setVisible(step is not None)
        if step is not None:
            self._at.setValue(step)

    def set_hover(self, step: float, value: float) -> None:
        """Put a dot under the cursor's step; NaN: none."""
        there = np.isfinite(value)
        self._hover.setData([step] if there else [], [value] if there else [])

    def step_at(self, x: float, y: float) -> float | None:
        """Return the step under a point of the scene, None outside the plot."""
        point = QPointF(x, y)
        if not self.box.sceneBoundingRect().contains(point):
            return None
        return float(self.box.mapSceneToView(point).x())

    def area(self) -> QRectF:
        """Return where the curve is drawn, in pixels of the canvas."""
        return self.box.sceneBoundingRect()


def _limits(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    # From 0 unless that would flatten the curve.
    if 0 <= low <= 0.7 * high or low == high:
        low = min(low, 0.0)
    return low, low + 1.0 if low == high else high


def _ticks(low: float, high: float) -> list[float]:
    return [-1.0, 0.0, 1.0] if (low, high) == (-1.0, 1.0) else [low, high]


class Curves(QWidget):
    """Two curves over the steps of the run in view, drawn as records come in.

    Both plots and whatever lies below share one range of steps, which is held here and nowhere
    else.

    Parameters
    ----------
    context : Context

    Signals
    -------
    step_chosen(int slice_index, int step)
        A step was clicked, or reached with the arrow keys.
    axis_changed()
        `axis` gives other places now.
    hovered()
        Another step lies under the cursor; `hovered_row`.
    """

    step_chosen = Signal(int, int)
    axis_changed = Signal()
    hovered = Signal()

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self.data = CurveData()
        self.hovered_row: int | None = None
        self._pair = 0
        self._range = self._bounds = (0.0, 10.0)
        self.canvas = CurveCanvas()
        self.canvas.setAccessibleName("Curves of the adaptation")
        self.canvas.setAccessibleDescription(ABOUT)
        self.above = _Plot(self.canvas, row=0, steps_below=False)
        self.below = _Plot(self.canvas, row=1, steps_below=True)
        # The lower one has the step axis below it; the curves are as tall as each other.
        for row in (0, 1):
            self.canvas.ci.layout.setRowStretchFactor(row, 1)
        self.sentence = QLabel(NOTHING_YET)
        self.sentence.setObjectName("grata_muted")
        self.sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.sentence.setWordWrap(True)
        self._stack = QStackedLayout(self)
        self._stack.addWidget(self.sentence)
        self._stack.addWidget(self.canvas)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.draw)
        self.canvas.hovered.connect(self._on_hover)
        self.canvas.clicked.connect(self._on_click)
        self.canvas.walked.connect(self._on_walk)
        self.canvas.wheeled.connect(self._on_wheel)
        self.canvas.reset.connect(self.show_all_steps)
        self.canvas.resized.connect(self.axis_changed)
        context.session_changed.connect(self._on_session)
        context.runner.records.connect(self._on_records)
        context.runner.ended.connect(self._draw_soon)
        context.figures.changed.connect(self._draw_soon)
        context.step_changed.connect(self._on_step)
        context.theme_changed.connect(self._show_theme)
        self._show_theme(context.theme)
        self._on_session()

    # --- what is drawn -----------------------------------------------------------------------

    def show_pair(self, number: int) -> None:
        """Show another of ``PAIRS``."""
        self._pair = number
        self.draw()

    def _on_session(self) -> None:
        """Draw the run of the session in view, from its first step."""
        session = self._context.session
        self.data = CurveData()
        self.data.extend(session.records if session is not None else ())
        self.hovered_row = None
        self._range = self._bounds
        self._draw_soon()

    def _on_records(self, records: list[Record]) -> None:
        runner = self._context.runner
        if runner.session is not None and runner.session is self._context.session:
            self.data.extend(records)
            self._draw_soon()

    def _draw_soon(self, *_: object) -> None:
        if not self._timer.isActive():
            # Painting costs more with each point: long curves are drawn less often.
            self._timer.start(REDRAW_MS + min(800, len(self.data) // 10))

    def draw(self) -> None:
        """Draw all of it now, if it is seen."""
        self._timer.stop()
        if not self.isVisible():
            return  # `showEvent` draws
        data = self.data
        drawable = any(data.has(name) for name in QUANTITIES)
        self.sentence.setText(NO_LEARNING if self._learned_nothing() else NOTHING_YET)
        self._stack.setCurrentIndex(1 if drawable else 0)
        if drawable:
            self._set_bounds()
            steps = np.asarray(data.steps, dtype=float)
            flagged = np.asarray(self._flagged_rows(), dtype=np.int64)
            undone = np.asarray(data.undone, dtype=bool)
            resets = self.resets()
            for plot, name in zip((self.above, self.below), self._names(), strict=True):
                plot.set_quantity(name, there=data.has(name))
                plot.draw(steps, data.values(name), flagged, undone)
                plot.set_marker(self._context.step)
                plot.draw_resets(resets)
        self._show_hover()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw what nobody saw."""
        super().showEvent(event)
        self._timer.start(0)

    def _names(self) -> tuple[str, str]:
        return PAIRS[self._pair][1:]

    def _learned_nothing(self) -> bool:
        session = self._context.session
        return session is not None and bool(session.records)

    def _flagged_rows(self) -> list[int]:
        """Return a row for each flagged slice: that of the last step on it."""
        session = self._context.session
        rows = (self.data.last_row(index) for index in (session.flagged() if session else ()))
        return [row for row in rows if row is not None]

    def resets(self) -> list[int]:
        """Return the steps before which the model went back to the source model."""
        session = self._context.session
        if session is None or session.run is None or not self.data.steps:
            return []
        return [
            event.step
            for event in session.run.plan
            if event.resets and event.phase == "adapt" and 1 < event.step <= self.data.steps[-1]
        ]

    def _show_theme(self, colours: ThemeColours) -> None:
        self.canvas.setBackground(colours.background)
        for plot in (self.above, self.below):
            plot.set_colours(colours)

    # --- the one axis ------------------------------------------------------------------------

    def last_step(self) -> int:
        """Return the last step that the axis reaches to."""
        last = self.data.steps[-1] if self.data.steps else 0
        session = self._context.session
        expected = session.expected_steps if session is not None and session.busy else 0
        return max(last, expected or 0, 2)

    def _set_bounds(self) -> None:
        whole = self._range == self._bounds
        last = self.last_step()
        # To the right of the last step there is room for the slider's end, the result.
        self._bounds = (-_MARGIN * last, (1 + 2 * _MARGIN) * last)
        low, high = self._bounds if whole else self._range
        self._set_range(low, high)

    def _set_range(self, low: float, high: float) -> None:
        first, last = self._bounds
        span = min(max(high - low, 4.0), last - first)
        low = min(max(low, first), last - span)
        self._range = (low, low + span) if span < last - first else self._bounds
        for plot in (self.above, self.below):
            plot.box.setXRange(*self._range, padding=0)
        self.axis_changed.emit()

    def show_all_steps(self) -> None:
        """Leave the zoom."""
        self._set_range(*self._bounds)

    def axis(self) -> tuple[float, float, float, float]:
        """Return where the step axis lies: left and right pixel, and the steps there."""
        area = self.below.area()
        return area.left(), area.right(), *self._range

    def _on_wheel(self, point: tuple[float, float], turn: int, zoom: bool) -> None:
        step = self._step_at(point)
        if step is None:
            return
        low, high = self._range
        if zoom:
            factor = 0.8 ** (turn / 120)
            self._set_range(step - (step - low) * factor, step + (high - step) * factor)
        else:
            shift = -turn / 120 * 0.1 * (high - low)
            self._set_range(low + shift, high + shift)

    # --- mouse and keys ----------------------------------------------------------------------

    def _step_at(self, point: tuple[float, float]) -> float | None:
        """Return the step under a point of the scene, None beside the plots."""
        found = (plot.step_at(*point) for plot in (self.above, self.below))
        return next((step for step in found if step is not None), None)

    def _row_at(self, point: tuple[float, float]) -> int | None:
        step = self._step_at(point)
        return None if step is None else self.data.row_of_step(step)

    def _on_hover(self, point: tuple[float, float] | None) -> None:
        row = None if point is None else self._row_at(point)
        if row != self.hovered_row:
            self.hovered_row = row
            self._show_hover()

    def _show_hover(self) -> None:
        row = self.hovered_row
        if row is not None and row >= len(self.data):
            row = self.hovered_row = None
        for plot, name in zip((self.above, self.below), self._names(), strict=True):
            value = self.data.values(name)[row] if row is not None else np.nan
            plot.set_hover(float(self.data.steps[row]) if row is not None else 0.0, float(value))
        self.canvas.setToolTip("" if row is None else tip(self.describe(row)))
        self.hovered.emit()

    def _on_click(self, point: tuple[float, float]) -> None:
        row = self._row_at(point)
        if row is not None:
            self._choose(row)

    def _on_walk(self, key: Qt.Key) -> None:
        if not len(self.data):
            return
        last, step = len(self.data) - 1, self._context.step
        at = last if step is None else self.data.row_of_step(step) or 0
        ways = {
            Qt.Key.Key_Left: max(0, at - 1),
            Qt.Key.Key_Right: min(last, self.data.rows_of_same_step(at)[-1] + 1),
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }
        self._choose(ways[key])

    def _choose(self, row: int) -> None:
        self.step_chosen.emit(self.data.slices[row], self.data.steps[row])

    def _on_step(self, step: int | None) -> None:
        """Move the mark at once and alone: it follows a slider, and the curves stay as they are."""
        for plot in (self.above, self.below):
            plot.set_marker(step)

    # --- words -------------------------------------------------------------------------------

    def describe(self, row: int) -> str:
        """Return the readout of one row: step, slice, the two figures, flags."""
        data, session = self.data, self._context.session
        slices = [data.slices[i] for i in data.rows_of_same_step(row)]
        named = ", ".join(self._name(index) for index in slices[:3])
        words = [f"step {data.steps[row]}", named + (" …" if len(slices) > 3 else "")]
        if data.undone[row]:
            words.append("undone: not a finite number")
        else:
            for name in self._names():
                if data.has(name):
                    value = float(data.values(name)[row])
                    text = f"{value:.2f}".replace("-", "−") if name == "cosine" else figure(value)
                    words.append(f"{SHORT[name]} {text}")
        if session is not None and data.last_row(data.slices[row]) == row:
            words += [flag.text for flag in session.flags.get(data.slices[row], ())]
        return " · ".join(words)

    def _name(self, slice_index: int) -> str:
        scan = self._context.scan
        return scan.slice_name(slice_index) if scan is not None else f"slice {slice_index + 1}"

    def marks(self) -> str:
        """Return what the marks count: resets and undone steps."""
        resets, undone = len(self.resets()), sum(self.data.undone)
        words = []
        if resets:
            words.append(f"┆ {resets} reset{'s' if resets != 1 else ''}")
        if undone:
            words.append(f"✕ {undone} undone")
        return " · ".join(words)
