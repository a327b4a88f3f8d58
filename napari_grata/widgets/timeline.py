"""The dock below the canvas: how masks are shown, a strip over all slices, curves and tables."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPolygonF
from qtpy.QtWidgets import (
    QDockWidget,
    QLabel,
    QMainWindow,
    QSizePolicy,
    QStackedWidget,
    QTabBar,
    QToolTip,
    QWidget,
)

from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import column_in, later, line_in
from napari_grata.widgets.theme import STRUCTURE_COLOURS, ThemeColours, blend

NAME = "Timeline"
HEIGHT, _LEAST_HEIGHT = 220, 140
_NAME_WIDTH = 130
_DECIDED = {"✓": "#009E73", "↩": "#56B4E9", "✎": "#F0E442", "✕": "#D55E00", "2": "#CC79A7"}


class SliceStrip(QWidget):
    """One thin row over all slices of a scan: one look tells where to look; a click goes there.

    The height of a bar is how much the slice's masks differ, its colour whether the slice is
    flagged. Above it a triangle for a flag, below it the colour of what was decided, on it a dot
    where the user has corrected.

    Signals
    -------
    slice_requested(int)
        The user clicked a slice, or walked to it with the arrow keys.
    """

    slice_requested = Signal(int)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._shares: np.ndarray | None = None
        self.setFixedHeight(26)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Slices of the scan")
        self.setAccessibleDescription(
            "Bars: how much the mask changed. Triangles: look at this slice. Colours below: what "
            "was decided. Click a slice, or use the arrow keys, to go there."
        )

    def look_again(self, *_: object) -> None:
        """Other figures, flags or decisions are there."""
        self._shares = None
        self.update()

    def shares(self) -> np.ndarray:
        """Return how much of each slice changed, 0 … 1, NaN where there is no adapted mask."""
        if self._shares is None:
            self._shares = np.full(self._count(), np.nan)
            for index, row in self._context.figures.rows.items():
                pixels = sum(row.before.values()) + sum(row.after.values())
                share = sum(row.differing().values()) / pixels if pixels else 0.0
                self._shares[index : index + 1] = share
        return self._shares

    def words(self, index: int) -> str:
        """Return what is known of a slice, in a line."""
        context, session = self._context, self._context.session
        if context.scan is None:
            return ""
        parts = [f"{context.scan.slice_name(index)} ({index + 1} of {context.scan.n_slices})"]
        share = self.shares()[index]
        if np.isfinite(share):
            parts.append(f"{100 * share:.1f}\u00a0% changed" if share else "unchanged")
        if session is not None:
            parts += [flag.text.rstrip(".") for flag in session.flags.get(index, ())]
            parts += ["corrected by you"] if index in session.drawn_slices else []
        mark = context.decision_marks.get(index, "")
        return " · ".join([*parts, *([f"decided: {mark}"] if mark else [])])

    def _count(self) -> int:
        return self._context.scan.n_slices if self._context.scan is not None else 1

    def _place(self, index: float) -> float:
        return self.width() * index / self._count()

    def slice_at(self, x: float) -> int:
        """Return the slice at a pixel."""
        count = self._count()
        return int(min(max(x * count / max(self.width(), 1), 0), count - 1))

    # --- drawing -----------------------------------------------------------------------------

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the slice in view, bars, flags, decisions and corrections."""
        context, colours, session = self._context, self._context.theme, self._context.session
        flagged = session.flagged() if session is not None else []
        low, high = 7.0, self.height() - 6.0  # between triangles and decisions
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(blend(colours.background, colours.foreground, 0.4)))
        first, last = (self._place(context.in_view() + more) for more in (0, 1))
        wide = max(last - first, 3.0)
        here = QRectF((first + last - wide) / 2, 0, wide, self.height())
        painter.fillRect(here, QColor(blend(colours.background, colours.accent, 0.75)))
        self._paint_bars(painter, colours, set(flagged), low, high)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.attention))
        for index in flagged:
            x = self._place(index + 0.5)
            corners = [QPointF(x - 4, 0.5), QPointF(x + 4, 0.5), QPointF(x, 6.5)]
            painter.drawPolygon(QPolygonF(corners))
        for index, mark in context.decision_marks.items():
            first, last = self._place(index), self._place(index + 1)
            painter.setBrush(QColor(_DECIDED.get(mark[:1], colours.muted)))
            # Half as tall where the mask has changed since.
            tall = 2.0 if mark.endswith("!") else 4.0
            painter.drawRect(QRectF(first, self.height() - tall, max(last - first - 1, 2.0), tall))
        painter.setBrush(QColor(STRUCTURE_COLOURS[0 if colours.dark else 5]))
        for index in session.drawn_slices if session is not None else ():
            painter.drawEllipse(QPointF(self._place(index + 0.5), high - 2.5), 2.5, 2.5)
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QColor(colours.accent))
            painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _paint_bars(
        self, painter: QPainter, colours: ThemeColours, flagged: set[int], low: float, high: float
    ) -> None:
        """Draw a bar a slice; where slices are narrower than a pixel, the tallest shows."""
        shares = self.shares()
        painter.fillRect(QRectF(0, high, self.width(), 1), QColor(colours.grid))
        if not np.isfinite(shares).any():
            return
        # The square root lets small changes be seen beside large ones.
        tall = np.sqrt(shares / max(float(np.nanmax(shares)), 0.05)) * (high - low)
        usual, attention = QColor(blend(colours.background, colours.text, 0.6)), colours.attention
        count = len(shares)
        step = max(1, count // max(self.width(), 1))
        for index in range(0, count, step):
            part = tall[index : index + step]
            if np.isfinite(part).any():
                first, last = self._place(index), self._place(min(index + step, count))
                wide = max(last - first - (1.0 if last - first > 3 else 0.0), 1.0)
                up = max(float(np.nanmax(part)), 1.0)
                marked = not flagged.isdisjoint(range(index, index + step))
                colour = QColor(attention) if marked else usual
                painter.fillRect(QRectF(first, high - up, wide, up), colour)

    # --- mouse and keys ----------------------------------------------------------------------

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go to the slice under the mouse."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.slice_requested.emit(self.slice_at(event.pos().x()))

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Follow the mouse that is held down; say what lies under it."""
        index = self.slice_at(event.pos().x())
        if event.buttons() & Qt.MouseButton.LeftButton:
            self.slice_requested.emit(index)
        QToolTip.showText(self.mapToGlobal(event.pos()), self.words(index), self)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Walk from slice to slice."""
        last, here = self._count() - 1, self._context.in_view()
        to = {
            Qt.Key.Key_Left: max(here - 1, 0),
            Qt.Key.Key_Right: min(here + 1, last),
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }.get(Qt.Key(event.key()))
        if to is None or event.modifiers() & Qt.KeyboardModifier.ShiftModifier:
            super().keyPressEvent(event)
        else:
            self.slice_requested.emit(to)


class Timeline(QWidget):
    """What lies below the canvas; the dock puts controls and pages in.

    Signals
    -------
    docked()
        It has taken room from the canvas.
    """

    docked = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._only_stacks: set[QWidget] = set()
        self._running = False
        self._dock: QDockWidget | None = None
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setAccessibleName("What the timeline shows")
        self.stack = QStackedWidget()
        self.strip = SliceStrip(context)
        self.slice_name = QLabel()
        self.slice_name.setObjectName("grata_small")
        layout = column_in(self, spacing=3)
        layout.setContentsMargins(6, 2, 6, 4)
        self._header = line_in(layout, spacing=8)
        self._header.addStretch(1)
        line = line_in(layout, self.tabs, (self.strip, 1), self.slice_name, spacing=6)
        line.addStretch()
        layout.addWidget(self.stack, 1)
        self.setMinimumHeight(_LEAST_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._keep_soon = later(self, 500, self._keep_height)
        self._wire()

    def _wire(self) -> None:
        context = self._context
        self.tabs.currentChanged.connect(self.stack.setCurrentIndex)
        self.strip.slice_requested.connect(context.go_to)
        context.slice_changed.connect(self._show_slice)
        context.scan_changed.connect(self.refresh)
        context.session_changed.connect(self.strip.look_again)
        context.figures.changed.connect(self.strip.look_again)
        context.decisions_changed.connect(self.strip.look_again)
        context.changed.connect(self.strip.update)
        context.runner.changed.connect(self._on_run)
        self.refresh()

    # --- what the dock puts in ---------------------------------------------------------------

    def add_to_header(self, widget: QWidget) -> None:
        """Put a control into the top row, such as how masks are shown."""
        self._header.insertWidget(self._header.count() - 1, widget)

    def add_tab(self, name: str, widget: QWidget, *, only_stacks: bool = False) -> None:
        """Add a page.

        Parameters
        ----------
        only_stacks : bool
            Leave it out for a scan of one slice, of which a table would have one row.
        """
        if only_stacks:
            self._only_stacks.add(widget)
        self.stack.addWidget(widget)
        self.tabs.addTab(name)
        self.refresh()

    def show_tab(self, name: str) -> None:
        """Bring a page to the front."""
        names = [self.tabs.tabText(number) for number in range(self.tabs.count())]
        self.tabs.setCurrentIndex(names.index(name))

    # --- what is shown -----------------------------------------------------------------------

    def refresh(self) -> None:
        """A photograph has neither a strip nor a table of its one row."""
        scan = self._context.scan
        several = scan is not None and scan.n_slices > 1
        self.strip.setVisible(several)
        self.slice_name.setVisible(several)
        self.slice_name.setMinimumWidth(0)
        for number in range(self.tabs.count()):
            if self.stack.widget(number) in self._only_stacks:
                self.tabs.setTabVisible(number, several)
        self.tabs.updateGeometry()  # else it keeps the room of a tab that went
        self.strip.look_again()
        self._show_slice()

    def _show_slice(self, _index: int = 0) -> None:
        """Say which slice is in view, as the scan counts it."""
        scan = self._context.scan
        if scan is not None and scan.n_slices > 1:
            index = self._context.in_view()
            name, metrics = scan.slice_name(index), self.slice_name.fontMetrics()
            shown = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, _NAME_WIDTH)
            self.slice_name.setText(shown)
            self.slice_name.setToolTip(f"{name}: {index + 1} of {scan.n_slices}")
            # It only grows, so that the strip does not jump with each name.
            wide = metrics.horizontalAdvance(shown) + 4
            self.slice_name.setMinimumWidth(max(self.slice_name.minimumWidth(), wide))
        self.strip.update()

    # --- its place in the window -------------------------------------------------------------

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the height that the user left it at."""
        return QSize(super().sizeHint().width(), self._wanted_height())

    def _wanted_height(self) -> int:
        return max(_LEAST_HEIGHT, int(self._context.store.get("timeline_height", HEIGHT)))

    def open_below(self) -> None:
        """Dock it below the canvas, or show it again, at the height that it had."""
        viewer = self._context.viewer
        if self._dock is None:
            self._dock = viewer.window.add_dock_widget(self, name=NAME, area="bottom")
            # Taken off the window by its cross, it comes back with the next run.
            self._dock.destroyed.connect(self._on_closed)
            take_away = partial(_take_away, weakref.ref(viewer), weakref.ref(self._dock))
            self._context.connections.at_end(take_away)
            self.docked.emit()
        window = self.window()
        if isinstance(window, QMainWindow):
            # As wide as the canvas: layer list and dock keep the full height. Before it is shown,
            # or the window grows for a moment's sum of both heights, and stays beyond the screen.
            for corner, area in (
                (Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea),
                (Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea),
            ):
                window.setCorner(corner, area)
        self._dock.show()
        if isinstance(window, QMainWindow):
            window.resizeDocks([self._dock], [self._wanted_height()], Qt.Orientation.Vertical)

    def _on_closed(self) -> None:
        self._dock = None

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Remember the height, once the user has let go."""
        super().resizeEvent(event)
        self._keep_soon.start()

    def _keep_height(self) -> None:
        if self.isVisible() and self._dock is not None and not self._dock.isFloating():
            self._context.store.set("timeline_height", self.height())

    def _on_run(self) -> None:
        """Open by itself when a run begins."""
        running = self._context.runner.kind == "adapt"
        if running and not self._running:
            self.open_below()
        self._running = running


def _take_away(viewer: weakref.ref[Any], dock: weakref.ref[Any]) -> None:
    """With the plugin's dock its timeline goes."""
    found, there = viewer(), dock()
    if found is not None and there is not None:
        # It, or the whole window, may have gone before.
        with suppress(AttributeError, LookupError, RuntimeError):
            found.window.remove_dock_widget(there)
