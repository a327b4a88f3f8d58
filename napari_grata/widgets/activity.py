"""A run in napari's activity dock: how far it is, and Cancel."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from napari.utils.progress import cancelable_progress
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QLabel, QMainWindow

# Each change makes napari draw the whole window, within the turn of the event loop that made it.
_INTERVAL = 2.0
_TURN_MS = 100


class _Nowhere:
    """Takes what would be printed: scan names do not belong in a terminal's log."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class _Bar(cancelable_progress):
    """A bar whose Cancel button acts at once."""

    def cancel(self) -> None:
        super().cancel()
        if self.cancel_callback is not None:
            self.cancel_callback()


class Activity:
    """At most one line in the activity dock.

    Parameters
    ----------
    cancel : callable
        A bound method, called when the person presses Cancel there; held weakly, since napari
        keeps every line until it is closed.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = weakref.WeakMethod(cancel)
        self._bar: _Bar | None = None
        self._last = 0.0

    def open(self, title: str) -> None:
        """Begin a line."""
        self.close()
        with _painted_once():
            self._bar = _Bar(
                total=0, desc=title, cancel_callback=partial(_call, self._cancel), file=_Nowhere()
            )

    def show(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` events are over."""
        bar = self._bar
        if bar is None or time.monotonic() - self._last < _INTERVAL:
            return
        self._last = time.monotonic()
        # In a turn of its own: what goes before has drawn much already.
        QTimer.singleShot(_TURN_MS, partial(self._show, bar, done, total))

    def _show(self, bar: _Bar, done: int, total: int) -> None:
        if bar is not self._bar:
            return  # closed meanwhile
        if bar.total != total:
            bar.total = total
        if done > bar.n:
            bar.update(done - bar.n)

    def close(self) -> None:
        """Take the line away."""
        bar, self._bar = self._bar, None
        if bar is not None:
            # In a window that is gone there is no activity dock to take it from.
            with suppress(RuntimeError):
                bar.close()


@contextmanager
def _painted_once() -> Iterator[None]:
    """Let napari process events as it makes a line, without a redraw each time."""
    windows = [
        window
        for window in QApplication.topLevelWidgets()
        if isinstance(window, QMainWindow) and window.isVisible()
    ]
    for window in windows:
        window.setUpdatesEnabled(False)
    try:
        yield
    finally:
        for window in windows:
            window.setUpdatesEnabled(True)
            for label in window.findChildren(QLabel):
                movie = label.movie()
                if movie is not None:
                    # The wheel beside it turns at 33 frames a second, each of them a redraw of
                    # the whole window; it can be seen standing as well.
                    movie.setPaused(True)


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    found = method()
    if found is not None:
        found()
