"""The napari dock around the list: made when a list opens, closed and reopened at will."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

NAME = "Cases"


class CaseWindow:
    """Shows a panel in a dock of napari's window, left, as a tab beside the layer list.

    napari destroys a dock that is closed; the panel inside outlives that.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
    panel : QWidget
    """

    def __init__(self, viewer: Any, panel: QWidget) -> None:
        self._viewer = weakref.ref(viewer)
        self._panel = panel

    @property
    def dock(self) -> QDockWidget | None:
        """The dock around the panel, None while there is none."""
        parent = self._panel.parent()
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parent()
        return parent

    @property
    def main(self) -> QMainWindow | None:
        """The window around the dock."""
        dock = self.dock
        parent = None if dock is None else dock.parent()
        return parent if isinstance(parent, QMainWindow) else None

    @property
    def shown(self) -> bool:
        """Whether there is a dock, on top of its tabs or not."""
        dock = self.dock
        return dock is not None and not dock.isHidden()

    def show(self) -> None:
        """Show the panel on top of its tabs."""
        viewer = self._viewer()
        if viewer is None:
            return
        dock = self.dock
        if dock is None:
            dock = viewer.window.add_dock_widget(
                self._panel, name=NAME, area="left", tabify=True, add_vertical_stretch=False
            )
        self._panel.show()
        dock.show()
        dock.raise_()

    def hide(self) -> None:
        """Take the dock away."""
        _remove(self._viewer, self._panel)

    @property
    def end(self) -> Callable[[], None]:
        """What takes the panel away for good when the plugin's dock goes."""
        return partial(_end, self._viewer, self._panel)


class ClosingNotice(QObject):
    """Says when the window around the list is about to be closed.

    The dock's widgets may be destroyed a good while later, or not at all before the program ends,
    and the program would wait for a thread that nobody has told to end.

    Signals
    -------
    closing()
        The person may still think better of it.
    """

    closing = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._window: QMainWindow | None = None

    def watch(self, window: QMainWindow | None) -> None:
        """Watch a window from now on."""
        if window is not None and self._window is None:
            self._window = window
            window.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Notice the wish to close."""
        if event.type() == QEvent.Type.Close:
            self.closing.emit()
        return False


def _remove(viewer: weakref.ref[Any], panel: QWidget) -> None:
    found = viewer()
    # The window, or the panel with it, may be gone before the plugin's dock is.
    with suppress(LookupError, RuntimeError, AttributeError):
        if found is not None and panel.parent() is not None:
            found.window.remove_dock_widget(panel)


def _end(viewer: weakref.ref[Any], panel: QWidget) -> None:
    _remove(viewer, panel)
    with suppress(RuntimeError):
        panel.hide()
        panel.deleteLater()
