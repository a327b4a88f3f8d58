"""Many layers come and go as one change: napari then tidies up once, and quickly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMainWindow


@contextmanager
def as_one_change(viewer: Any) -> Iterator[None]:
    """Have the canvas follow layers that are added and removed once, at the end.

    After each layer that is removed, napari looks through all objects of the program for what it
    may still hold on the graphics card, half a second here.
    """
    events = viewer.layers.events
    begin, end = getattr(events, "begin_batch", None), getattr(events, "end_batch", None)
    if begin is None or end is None:  # in earlier versions of napari
        yield
        return
    begin()
    try:
        yield
    finally:
        end()


class OldObjects(QObject):
    """Keeps Python from looking for garbage among what was there before a case was opened.

    torch, napari and their like are half a million objects that stay until the end. Looking
    through all of them at each case takes longer than showing it. What belongs to cases comes
    later and is looked through as usual; once the list or the window is closed, everything is.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._window: QMainWindow | None = None

    def set_aside(self, window: QMainWindow | None) -> None:
        """Leave out all objects that there are now, until the list or the window is closed."""
        if window is not None and self._window is None:
            self._window = window
            window.installEventFilter(self)
            gc.freeze()

    def take_back(self) -> None:
        """Look through all objects again."""
        window, self._window = self._window, None
        if window is not None:
            window.removeEventFilter(self)
            gc.unfreeze()

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Notice that the window is about to be closed."""
        if event.type() == QEvent.Type.Close:
            self.take_back()
        return False
