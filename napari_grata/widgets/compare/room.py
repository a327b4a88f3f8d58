"""Room beside the viewer's canvas, in the middle of its window."""

from __future__ import annotations

from contextlib import suppress

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QBoxLayout, QWidget

from napari_grata.widgets.compare.errors import CompareError
from napari_grata.widgets.compare.overlay import main_window


class Room:
    """Lets one widget at a time stand beside the canvas, and takes it out again.

    Parameters
    ----------
    widget : QWidget
        Any widget of the viewer's window.
    """

    def __init__(self, widget: QWidget) -> None:
        window = main_window(widget)
        centre = window.centralWidget() if window is not None else None
        layout = centre.layout() if centre is not None else None
        self._layout = layout if isinstance(layout, QBoxLayout) else None

    def take(self, guest: QWidget, *, left: bool) -> None:
        """Put a widget to the left or right of the canvas, each with half of the width.

        Raises
        ------
        CompareError
            If the window is laid out in a way that is not known here.
        """
        if self._layout is None or not self._layout.count():
            raise CompareError("This version of napari leaves no room beside its canvas.")
        self._layout.insertWidget(0 if left else self._layout.count(), guest, 1)
        for place in range(self._layout.count()):
            self._layout.setStretch(place, 1)

    def leave(self, guest: QWidget) -> None:
        """Give the room back to the canvas."""
        # The window may have gone before, with all that stood in it.
        with suppress(RuntimeError):
            guest.hide()
            if self._layout is not None:
                self._layout.removeWidget(guest)
                for place in range(self._layout.count()):
                    self._layout.setStretch(place, 0)
            guest.setParent(None)
            QTimer.singleShot(0, guest.deleteLater)
