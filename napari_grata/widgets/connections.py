"""Connections to a viewer that outlives our docks, cut when either goes away."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QMainWindow, QWidget


class EventConnections:
    """Connections to napari's events that end with a widget.

    napari keeps the methods of listeners weakly, but Qt may destroy a widget whose Python object
    still lives; an event that came then would meet a dead widget.

    Parameters
    ----------
    widget : QWidget
        With whose end the connections are cut.
    """

    def __init__(self, widget: QWidget) -> None:
        self._ends: list[Callable[[], None]] = []
        # A method, which Qt's bindings hold weakly: where Python finds a whole window to be
        # garbage it empties what belongs to it, and to call an emptied partial ends the program.
        widget.destroyed.connect(self.cut)

    def listen(self, emitter: Any, method: Callable[..., Any]) -> None:
        """Connect a bound method to a napari event emitter."""
        emitter.connect(method)
        weak = weakref.WeakMethod(method)

        def end() -> None:
            found = weak()
            if found is not None:
                emitter.disconnect(found)

        self._ends.append(end)

    def at_end(self, action: Callable[[], None]) -> None:
        """Do something when the connections are cut; it must not hold the widget."""
        self._ends.append(action)

    def cut(self, *_: Any) -> None:
        """Cut all connections; more than once does no harm."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()


class ClosingWatch(QObject):
    """Knows whether the window around a widget is being closed.

    Between the wish to close a window and its end, results may still arrive from a job. They must
    not make new layers then.

    Attributes
    ----------
    guards : list of callable
        Asked, in order, before the window closes; one that returns False keeps it open.
    """

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._widget = widget
        # Weakly: PySide6 keeps this object after the window, which would keep the window.
        self._window: weakref.ref[QMainWindow] | None = None
        self.closing = False
        self.guards: list[Callable[[], bool]] = []

    @property
    def window(self) -> QMainWindow | None:
        """The window that is watched."""
        return None if self._window is None else self._window()

    def find_window(self) -> QMainWindow | None:
        """Start to watch, once the widget has found its place in a window, and return that."""
        parent = self._widget.parentWidget()
        while self.window is None and parent is not None:
            if isinstance(parent, QMainWindow):
                self._window = weakref.ref(parent)
                parent.installEventFilter(self)
            parent = parent.parentWidget()
        return self.window

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Notice the wish to close, and whether the user took it back."""
        if event.type() == QEvent.Type.Close and watched is self.window:
            if not all(guard() for guard in self.guards):
                event.ignore()
                return True
            self.closing = True
            QTimer.singleShot(0, self._look_again)
        return bool(super().eventFilter(watched, event))

    def _look_again(self) -> None:
        if self.window is not None and self.window.isVisible():
            self.closing = False
