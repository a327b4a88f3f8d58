"""Live curves of an adaptation: similarity of the two signals, learning rate, losses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QRectF, Qt, QTimer, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QStackedLayout,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from napari_grata.adaptation.records import Record
from napari_grata.widgets.curve_canvas import CurveCanvas
from napari_grata.widgets.curve_data import CurveData
from napari_grata.widgets.curve_panel import CurvePanel
from napari_grata.widgets.curve_words import (
    MISSING,
    NO_LEARNING,
    NOTHING_YET,
    SHORT,
    TABS,
    TITLES,
    TOOLTIP,
    ElidedLine,
    figure,
)
from napari_grata.widgets.theme import theme_colours, tip

_REST_S, _POINTS_PER_S = 1.0, 4000
REDRAW_INTERVAL_MS = 34  # at most about 30 redraws a second


class CurvesPlot(QWidget):
    """Curves over the steps of a run, drawn as records come in.

    Parameters
    ----------
    parent : QWidget, optional
    theme : str
        A napari theme; `set_theme` changes it.
    slice_name : callable of int to str, optional
        Names a slice for the readout (``scan.slice_name``); ``"slice 34"`` without one.
    gradients : bool
        Whether a third tab shows the gradient norms.

    Signals
    -------
    step_clicked(int slice_index, int step)
        A step was clicked, or chosen with the arrow keys.
    drawn()
        New curves are about to come into view; what else changes now is drawn along with them.
    """

    step_clicked = Signal(int, int)
    drawn = Signal()

    def __init__(
        self,
        parent: QWidget | None = None,
        *,
        theme: str = "dark",
        slice_name: Callable[[int], str] | None = None,
        gradients: bool = False,
    ) -> None:
        super().__init__(parent)
        self._data = CurveData()
        self._slice_name = slice_name
        self._marker: int | None = None
        self._hovered: int | None = None
        self._expected: int | None = None
        self._resets: tuple[int, ...] = ()
        self._next = 0.0
        self.redraws = 0

        self._tabs = QTabBar()
        self._tabs.setObjectName("grata_curve_tabs")
        self._tabs.setDrawBase(False)
        self._tabs.setExpanding(False)
        self._tabs.setUsesScrollButtons(False)
        for title, *_ in TABS if gradients else TABS[:2]:
            self._tabs.addTab(title)
        self._tabs.currentChanged.connect(self._on_tab)

        self._canvas = CurveCanvas()
        self._canvas.setToolTip("")
        self._canvas.setAccessibleName("Curves of the adaptation")
        self._canvas.setAccessibleDescription(TOOLTIP)
        self._tabs.setToolTip(tip(TOOLTIP))
        self._upper = CurvePanel(self._canvas, row=0, steps_below=False)
        self._lower = CurvePanel(self._canvas, row=1, steps_below=True)
        self._lower.follow(self._upper)
        self._canvas.hovered.connect(self._on_hover)
        self._canvas.left.connect(lambda: self._on_hover(None))
        self._canvas.clicked.connect(self._on_click)
        self._canvas.reset.connect(self._show_all_steps)
        self._canvas.drawn.connect(self.drawn)
        self._canvas.installEventFilter(self)

        self._sentence = QLabel(NOTHING_YET)
        self._sentence.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._sentence.setWordWrap(True)
        self._sentence.setMargin(16)
        self._readout = ElidedLine()
        self._marks = QLabel()
        self._marks.setToolTip(
            tip(
                "▲ something a person should look at\n"
                "✕ the step met numbers that are not finite and was taken back\n"
                "┆ the model went back to the source model before this step"
            )
        )

        stage = QWidget()
        self._stack = QStackedLayout(stage)
        self._stack.addWidget(self._sentence)
        self._stack.addWidget(self._canvas)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        head = QHBoxLayout()
        head.addWidget(self._tabs)
        head.addStretch(1)
        head.addWidget(self._marks)
        layout.addLayout(head)
        layout.addWidget(stage, 1)
        layout.addWidget(self._readout)
        self.setMinimumSize(240, 210)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)

        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(REDRAW_INTERVAL_MS)
        self._timer.timeout.connect(self._redraw)
        self.set_theme(theme)
        self._redraw()

    def sizeHint(self) -> Any:  # noqa: N802 - Qt's name
        """Return about 340 × 260 pixels."""
        hint = super().sizeHint()
        hint.setWidth(340)
        hint.setHeight(260)
        return hint

    # --- what the dock calls -------------------------------------------------------------

    @property
    def data(self) -> CurveData:
        """The figures drawn so far."""
        return self._data

    def add_record(self, record: Record) -> None:
        """Take one event of the stream; it is drawn within 34 ms, together with others."""
        self._data.append(record)
        self._schedule()

    def add_records(self, records: Iterable[Record]) -> None:
        """Take events of the stream and draw them now, in one redraw with what else has changed."""
        self._data.extend(records)
        wait = self._next - time.monotonic()
        if self.isVisible() and wait <= 0:
            self._timer.stop()
            self._redraw()
        elif not self._timer.isActive():
            self._timer.start(max(REDRAW_INTERVAL_MS, round(1000 * wait)))

    def set_records(self, records: Iterable[Record]) -> None:
        """Replace everything, as when a run is reopened or rolled back."""
        self._data.clear()
        self._data.extend(records)
        self._hovered = None
        self._show_all_steps()
        self._schedule()

    def clear(self) -> None:
        """Forget the run."""
        self._marker = None
        self._resets = ()
        self._expected = None
        self.set_records(())

    def set_marker(self, step: int | None) -> None:
        """Mark the step in view (None takes the mark away)."""
        if step != self._marker:
            self._marker = step
            # At once and alone: it follows a slider, and the curves stay as they are.
            for panel in (self._upper, self._lower):
                panel.set_marker(step)
            self._show_readout()

    def marked_step(self) -> int | None:
        """Return the step that is marked."""
        return self._marker

    def set_expected_steps(self, steps: int | None) -> None:
        """Fix the width of the step axis, so that it does not grow during a run."""
        self._expected = steps
        self._schedule()

    def set_resets(self, steps: tuple[int, ...]) -> None:
        """Mark the steps before which the model went back to the source model."""
        if steps != self._resets:
            self._resets = steps
            self._schedule()

    def set_slice_names(self, slice_name: Callable[[int], str] | None) -> None:
        """Set what names a slice in the readout."""
        self._slice_name = slice_name
        self._schedule()

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme (``viewer.theme``)."""
        self._colours = theme_colours(name)
        self._canvas.forget_picture()
        self._canvas.setBackground(self._colours.background)
        for panel in (self._upper, self._lower):
            panel.set_colours(self._colours)
        for label in (self._marks, self._readout):
            label.setStyleSheet(f"color: {self._colours.muted}; font-size: 8pt;")
        self._sentence.setStyleSheet(f"color: {self._colours.muted};")
        self._tabs.setStyleSheet(
            "QTabBar, QTabBar::tab {border: none; background: transparent; padding: 2px 6px;}"
            f"QTabBar::tab {{color: {self._colours.muted};}}"
            f"QTabBar::tab:selected {{color: {self._colours.text}; background: transparent;"
            f" border-bottom: 2px solid {self._colours.accent};}}"
        )

        self._explain_marks()

    # --- drawing ---------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _quantities(self) -> tuple[str, str]:
        _, upper, lower = TABS[self._tabs.currentIndex()]
        return upper, lower

    def _redraw(self) -> None:
        self.redraws += 1
        self._timer.setInterval(REDRAW_INTERVAL_MS)
        # Painting follows the drawing and costs more with each point: long curves are drawn less
        # often, so that most of the time is left for everything else.
        self._next = time.monotonic() + min(_REST_S, len(self._data) / _POINTS_PER_S)
        data = self._data
        drawable = any(data.has(name) for _, *pair in TABS for name in pair)
        self._sentence.setText(NO_LEARNING if len(data) and not drawable else NOTHING_YET)
        self._stack.setCurrentIndex(1 if drawable else 0)
        if drawable:
            self._canvas.hold()
            first = int(data.step[0])
            last = max(int(data.step[-1]), self._expected or 0, first + 5)
            flagged = np.fromiter(data.flags, dtype=np.int64, count=len(data.flags))
            for panel, name in zip((self._upper, self._lower), self._quantities(), strict=True):
                panel.set_title(TITLES[name])
                panel.set_fixed_range((-1.0, 1.0) if name == "cosine" else None)
                panel.set_note("" if data.has(name) else MISSING[name])
                panel.draw(data.step, data.values(name), flagged, data.undone)
                panel.set_marker(self._marker)
                panel.draw_resets(self._resets_until(int(data.step[-1])))
                panel.set_steps(first - 0.5, last + 0.5)
        self._explain_marks()
        self._show_readout()

    def _resets_until(self, last: int) -> list[int]:
        return [step for step in self._resets if step <= last]

    def _explain_marks(self) -> None:
        words = []
        resets = self._resets_until(int(self._data.step[-1])) if len(self._data) else []
        for sign, colour, count, word in (
            ("┆", self._colours.muted, len(resets), "reset" if len(resets) == 1 else "resets"),
            ("▲", self._colours.attention, len(self._data.flags), "flagged"),
            ("✕", self._colours.wrong, int(self._data.undone.sum()), "undone"),
        ):
            if count:
                word = "" if self._tabs.count() > 2 else f" {word}"
                words.append(f"<span style='color: {colour}'>{sign}</span> {count}{word}")
        self._marks.setText(" &nbsp;".join(words))

    def _on_tab(self) -> None:
        self._redraw()

    def _show_all_steps(self) -> None:
        self._upper.show_all_steps()

    def _show_readout(self) -> None:
        data = self._data
        self._canvas.forget_picture()
        row = self._hovered
        if row is not None and row >= len(data):
            row = self._hovered = None
        names = self._quantities()
        for panel, name in zip((self._upper, self._lower), names, strict=True):
            value = data.values(name)[row] if row is not None else np.nan
            panel.set_hover(None if row is None else (float(data.step[row]), float(value)))
        if row is None and self._marker is not None:
            row = data.row_of_step(self._marker)
        self._readout.say("" if row is None else self.describe(row))
        # Flags may be longer than the line: the cursor's own tooltip has them in full.
        flags = "" if self._hovered is None else data.flags.get(self._hovered, "")
        self._canvas.setToolTip(tip(flags))

    def describe(self, row: int) -> str:
        """Return the readout of one row: step, slice, the two figures, flags."""
        data = self._data
        slices = [self._name(int(data.slice_index[i])) for i in data.rows_of_same_step(row)]
        named = ", ".join(slices[:3]) + (" …" if len(slices) > 3 else "")
        words = [f"step {data.step[row]}", named]
        if data.undone[row]:
            words.append("undone: not a finite number")
        else:
            for name in self._quantities():
                if data.has(name):
                    value = float(data.values(name)[row])
                    text = f"{value:.2f}".replace("-", "−") if name == "cosine" else figure(value)
                    words.append(f"{SHORT[name]} {text}")
        if row in data.flags:
            words.append(data.flags[row])
        return " · ".join(words)

    def _name(self, slice_index: int) -> str:
        return self._slice_name(slice_index) if self._slice_name else f"slice {slice_index + 1}"

    # --- mouse and keys ----------------------------------------------------------------------

    def _row_at(self, x: float, y: float) -> int | None:
        """Return the row under a point of the scene, None beside the plots."""
        for panel in (self._upper, self._lower):
            step = panel.step_at(x, y)
            if step is not None:
                return self._data.row_of_step(step)
        return None

    def _on_hover(self, point: Any) -> None:
        row = None if point is None else self._row_at(*point)
        if row != self._hovered:
            self._hovered = row
            self._show_readout()

    def _on_click(self, point: Any) -> None:
        row = self._row_at(*point)
        if row is not None:
            self._choose(row)

    def _choose(self, row: int) -> None:
        self.set_marker(int(self._data.step[row]))
        self.step_clicked.emit(int(self._data.slice_index[row]), int(self._data.step[row]))

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Walk from step to step with the arrow keys, Home and End."""
        if (
            watched is self._canvas
            and event.type() == QEvent.Type.KeyPress
            and isinstance(event, QKeyEvent)
            and len(self._data)
        ):
            last = len(self._data) - 1
            at = last if self._marker is None else self._data.row_of_step(self._marker) or 0
            row = {
                Qt.Key.Key_Left: max(0, at - 1),
                Qt.Key.Key_Right: min(last, self._data.rows_of_same_step(at)[-1] + 1),
                Qt.Key.Key_Home: 0,
                Qt.Key.Key_End: last,
            }.get(Qt.Key(event.key()))
            if row is not None:
                self._choose(row)
                return True
        return super().eventFilter(watched, event)

    def plot_area(self, lower: bool = False) -> QRectF:
        """Return where the upper (or lower) curve is drawn, in pixels of the canvas."""
        panel = self._lower if lower else self._upper
        return panel.area()
