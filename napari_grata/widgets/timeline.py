"""The dock below the canvas: how masks are shown, a strip over all slices, curves and tables."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, QTimer, Signal
from qtpy.QtGui import QColor, QPainter, QPolygonF
from qtpy.QtWidgets import (
    QDockWidget,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QSizePolicy,
    QStackedWidget,
    QTabBar,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_grata.widgets.context import Context
from napari_grata.widgets.theme import ADDED, ThemeColours, blend

if TYPE_CHECKING:
    from napari_grata.adaptation.records import Flag

NAME = "Timeline"
HEIGHT = 190
_LEAST_HEIGHT = 120
_NAME_WIDTH = 130
_DECIDED = {"✓": "#009E73", "↩": "#0072B2", "✎": "#F0E442", "✕": "#D55E00", "2": "#CC79A7"}


class SliceStrip(QWidget):
    """One thin row over all slices of a scan: one look tells where to look; a click goes there.

    The height of a bar is the share of the structures' pixels that changed, its colour whether
    the slice is flagged; above it a triangle for a flag, below it what was decided, and a dot
    where the user has corrected.

    Signals
    -------
    slice_requested(int)
        The user clicked a slice, or walked to it with the arrow keys.
    """

    slice_requested = Signal(int)

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._pressed = False
        self._shares: np.ndarray | None = None
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Slices of the scan")
        self.setAccessibleDescription(
            "Bars: how much the mask changed. Triangles: look at this slice. Signs below: what "
            "was decided. Click a slice, or use the arrow keys, to go there."
        )

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a line's height."""
        return QSize(200, 26)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the least that can be read."""
        return QSize(60, 26)

    # --- what is shown -----------------------------------------------------------------------

    def look_again(self) -> None:
        """Other figures, flags or decisions are there."""
        self._shares = None
        self.update()

    def shares(self) -> np.ndarray:
        """Return how much of each slice changed, 0 … 1, NaN where there is no adapted mask."""
        if self._shares is None:
            scan, figures = self._context.scan, self._context.figures
            self._shares = np.full(scan.n_slices if scan is not None else 0, np.nan)
            for index, row in figures.rows.items():
                if index < len(self._shares):
                    pixels = sum(row.before.values()) + sum(row.after.values())
                    differ = sum(row.differing().values())
                    self._shares[index] = differ / pixels if pixels else 0.0
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
            flags: tuple[Flag, ...] = session.flags.get(index, ())
            parts += [flag.text.rstrip(".") for flag in flags]
            if index in session.drawn_slices:
                parts.append("corrected by you")
        mark = context.decision_marks.get(index, "")
        if mark:
            parts.append(f"decided: {mark}")
        return " · ".join(parts)

    def _place(self, index: float) -> float:
        n = self._context.scan.n_slices if self._context.scan is not None else 1
        return self.width() * index / max(n, 1)

    def slice_at(self, x: float) -> int:
        """Return the slice at a pixel."""
        n = self._context.scan.n_slices if self._context.scan is not None else 1
        return int(min(max(x * n / max(self.width(), 1), 0), n - 1))

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw a bar a slice; where slices are narrower than a pixel, the largest shows."""
        context, colours = self._context, self._context.theme
        if context.scan is None:
            return
        painter = QPainter(self)
        low, high = 7.0, self.height() - 6.0  # between triangles and signs
        painter.fillRect(self.rect(), QColor(blend(colours.background, colours.foreground, 0.4)))
        self._paint_in_view(painter, colours)
        self._paint_bars(painter, colours, low, high)
        session = context.session
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(colours.attention))
        for index in session.flagged() if session is not None else ():
            x = self._place(index + 0.5)
            triangle = [QPointF(x - 4, 0.5), QPointF(x + 4, 0.5), QPointF(x, 6.5)]
            painter.drawPolygon(QPolygonF(triangle))
        for index, mark in context.decision_marks.items():
            first, last = self._place(index), self._place(index + 1)
            painter.setBrush(QColor(_DECIDED.get(mark[:1], colours.muted)))
            wide = max(last - first - 1, 2.0)
            # A decision on a mask that has changed since is half as tall.
            tall = 2.0 if mark.endswith("!") else 4.0
            painter.drawRect(QRectF(first, self.height() - tall, wide, tall))
        painter.setBrush(QColor(ADDED if not colours.dark else "#56B4E9"))
        for index in session.drawn_slices if session is not None else ():
            painter.drawEllipse(QPointF(self._place(index + 0.5), high - 2.5), 2.5, 2.5)
        if self.hasFocus():
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(QColor(colours.accent))
            painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))
        painter.end()

    def _paint_in_view(self, painter: QPainter, colours: ThemeColours) -> None:
        first, last = (self._place(self._context.in_view() + more) for more in (0, 1))
        wide = max(last - first, 3.0)
        middle = QRectF((first + last - wide) / 2, 0, wide, self.height())
        painter.fillRect(middle, QColor(blend(colours.background, colours.accent, 0.75)))

    def _paint_bars(
        self, painter: QPainter, colours: ThemeColours, low: float, high: float
    ) -> None:
        shares, session = self.shares(), self._context.session
        if not len(shares) or not np.isfinite(shares).any():
            painter.fillRect(QRectF(0, high - 1, self.width(), 1), QColor(colours.grid))
            return
        flagged = set(session.flagged()) if session is not None else set()
        # The square root lets small changes be seen beside large ones.
        tall = np.sqrt(shares / max(float(np.nanmax(shares)), 0.05)) * (high - low)
        usual, marked = QColor(blend(colours.background, colours.text, 0.6)), colours.attention
        width, n = self.width(), len(shares)
        step = max(1, n // max(width, 1))
        for index in range(0, n, step):
            part = tall[index : index + step]
            if not np.isfinite(part).any():
                continue
            first, last = self._place(index), self._place(min(index + step, n))
            up = max(float(np.nanmax(part)), 1.0)
            gap = 1.0 if last - first > 3 else 0.0
            looked_at = any(i in flagged for i in range(index, min(index + step, n)))
            painter.fillRect(
                QRectF(first, high - up, max(last - first - gap, 1.0), up),
                QColor(marked) if looked_at else usual,
            )

    # --- mouse and keys ----------------------------------------------------------------------

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go to the slice under the mouse."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._pressed = True
            self.slice_requested.emit(self.slice_at(event.pos().x()))

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Follow the mouse that is held down; say what lies under it."""
        index = self.slice_at(event.pos().x())
        if self._pressed and event.buttons() & Qt.MouseButton.LeftButton:
            self.slice_requested.emit(index)
        QToolTip.showText(self.mapToGlobal(event.pos()), self.words(index), self)

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Let go."""
        self._pressed = False

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Walk from slice to slice."""
        scan = self._context.scan
        last, here = scan.n_slices - 1 if scan is not None else 0, self._context.in_view()
        ways = {
            Qt.Key.Key_Left: here - 1,
            Qt.Key.Key_Right: here + 1,
            Qt.Key.Key_Home: 0,
            Qt.Key.Key_End: last,
        }
        to = ways.get(Qt.Key(event.key())) if not event.modifiers() else None
        if to is None:
            super().keyPressEvent(event)
        else:
            self.slice_requested.emit(min(max(to, 0), last))


class Timeline(QWidget):
    """What lies below the canvas.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._only_stacks: dict[str, QWidget] = {}
        self._pages: dict[str, QWidget] = {}
        self._running = False
        self._dock: QDockWidget | None = None
        self.tabs = QTabBar()
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setUsesScrollButtons(False)
        self.tabs.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.tabs.setAccessibleName("What the timeline shows")
        self.stack = QStackedWidget()
        self.strip = SliceStrip(context)
        self.slice_name = QLabel()
        self.slice_name.setObjectName("grata_small")
        self._header = QHBoxLayout()
        self._header.setContentsMargins(0, 0, 0, 0)
        self._header.setSpacing(8)
        self._header.addStretch(1)
        self._header.addWidget(self.tabs)
        self.slices = QWidget()
        line = QHBoxLayout(self.slices)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(6)
        line.addWidget(self.strip, 1)
        line.addWidget(self.slice_name)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 4)
        layout.setSpacing(3)
        layout.addLayout(self._header)
        layout.addWidget(self.slices)
        layout.addWidget(self.stack, 1)
        self.setMinimumHeight(_LEAST_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._keep_soon = QTimer(self)
        self._keep_soon.setSingleShot(True)
        self._keep_soon.setInterval(500)
        self._keep_soon.timeout.connect(self._keep_height)
        self._wire()
        self.refresh()

    def _wire(self) -> None:
        context = self._context
        self.tabs.currentChanged.connect(self._on_tab)
        self.strip.slice_requested.connect(context.go_to)
        context.slice_changed.connect(self._show_slice)
        context.scan_changed.connect(self.refresh)
        context.session_changed.connect(self.refresh)
        context.figures.changed.connect(self._redraw)
        context.decisions_changed.connect(self._redraw)
        context.changed.connect(self._redraw)
        context.theme_changed.connect(self._redraw)
        context.runner.changed.connect(self._on_run)

    # --- what the dock puts in ---------------------------------------------------------------

    def add_to_header(self, widget: QWidget) -> None:
        """Put a control on the left of the top row, such as how masks are shown."""
        self._header.insertWidget(self._header.count() - 2, widget)

    def add_tab(self, name: str, widget: QWidget, *, only_stacks: bool = False) -> None:
        """Add a page.

        Parameters
        ----------
        only_stacks : bool
            Leave it out for a scan of one slice, of which a table would have one row.
        """
        self._pages[name] = widget
        if only_stacks:
            self._only_stacks[name] = widget
        self.stack.addWidget(widget)
        self.tabs.addTab(name)
        self.refresh()

    def show_tab(self, name: str) -> None:
        """Bring a page to the front."""
        for number in range(self.tabs.count()):
            if self.tabs.tabText(number) == name:
                self.tabs.setCurrentIndex(number)

    def _on_tab(self, number: int) -> None:
        page = self._pages.get(self.tabs.tabText(number))
        if page is not None:
            self.stack.setCurrentWidget(page)

    # --- what is shown -----------------------------------------------------------------------

    def refresh(self) -> None:
        """A photograph has neither a strip nor a table of its one row."""
        scan = self._context.scan
        several = scan is not None and scan.n_slices > 1
        self.slices.setVisible(several)
        self.slice_name.setMinimumWidth(0)
        self.strip.look_again()
        for number in range(self.tabs.count()):
            if self.tabs.tabText(number) in self._only_stacks:
                self.tabs.setTabVisible(number, several)
        self._show_slice()

    def _show_slice(self, _index: int = 0) -> None:
        scan = self._context.scan
        if scan is not None and scan.n_slices > 1:
            index = self._context.in_view()
            name = scan.slice_name(index)
            metrics = self.slice_name.fontMetrics()
            shown = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, _NAME_WIDTH)
            self.slice_name.setText(shown)
            self.slice_name.setToolTip(f"{name}: {index + 1} of {scan.n_slices}")
            # It only grows, so that the strip does not jump with each name.
            wide = metrics.horizontalAdvance(shown) + 4
            self.slice_name.setMinimumWidth(max(self.slice_name.minimumWidth(), wide))
        self.strip.update()

    def _redraw(self, *_: object) -> None:
        self.strip.look_again()

    # --- its place in the window -------------------------------------------------------------

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the height that the user left it at."""
        return QSize(super().sizeHint().width(), self._wanted_height())

    def _wanted_height(self) -> int:
        return max(_LEAST_HEIGHT, self._context.store.get("timeline_height", HEIGHT))

    def open_below(self) -> None:
        """Dock it below the canvas, or show it again, at the height that it had."""
        viewer, dock = self._context.viewer, self._dock
        if dock is None:
            dock = self._dock = viewer.window.add_dock_widget(self, name=NAME, area="bottom")
            # Taken off the window by its cross, it comes back with the next run.
            dock.destroyed.connect(self._on_closed)
            self._context.connections.at_end(
                partial(_take_away, weakref.ref(viewer), weakref.ref(dock))
            )
        dock.show()
        window = self.window()
        if isinstance(window, QMainWindow):
            window.resizeDocks([dock], [self._wanted_height()], Qt.Orientation.Vertical)

    def _on_closed(self) -> None:
        self._dock = None

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Remember the height, once the user has let go."""
        super().resizeEvent(event)
        if self.isVisible():
            self._keep_soon.start()

    def _keep_height(self) -> None:
        if self.isVisible():
            self._context.store.set("timeline_height", self.height())

    def _on_run(self) -> None:
        """Open by itself when a run begins."""
        running = self._context.runner.kind in ("adapt",)
        if running and not self._running:
            self.open_below()
        self._running = running


def _take_away(viewer: weakref.ref[Any], dock: weakref.ref[Any]) -> None:
    """With the plugin's dock its timeline goes."""
    found, there = viewer(), dock()
    if found is not None and there is not None:
        with suppress(LookupError, RuntimeError):  # it, or the whole window, has gone before
            found.window.remove_dock_widget(there)
