"""Room beside the viewer's canvas, in the middle of its window."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QBoxLayout, QWidget

from napari_grata.widgets.compare.errors import CompareError
from napari_grata.widgets.compare.overlay import main_window
from napari_grata.widgets.viewer_parts import camera_of

_MARGIN = 0.97


class Room:
    """Lets one widget at a time stand beside the canvas, and takes it out again.

    Parameters
    ----------
    viewer : Viewer
    canvas : QWidget
        The viewer's canvas.
    widget : QWidget
        Any widget of the viewer's window.
    """

    def __init__(self, viewer: Any, canvas: QWidget, widget: QWidget) -> None:
        self._viewer = viewer
        self._canvas = canvas
        self._zoomed = 1.0
        self._wide: float | None = None
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
        wide = self._width_in_view()
        self._layout.insertWidget(0 if left else self._layout.count(), guest, 1)
        for place in range(self._layout.count()):
            self._layout.setStretch(place, 1)
        self._wide = wide
        # The canvas has its new width only after the events that are under way.
        QTimer.singleShot(0, self._fit)

    def _fit(self) -> None:
        """Zoom out until what was in view before is in view again."""
        wide, self._wide = self._wide, None
        with suppress(RuntimeError):
            if wide:
                fits = _MARGIN * self._canvas.width() / (wide * camera_of(self._viewer).zoom)
                self._zoomed = min(1.0, fits)
                camera_of(self._viewer).zoom *= self._zoomed

    def _width_in_view(self) -> float:
        """Return how wide a part of the layers is in view, in the world."""
        camera = camera_of(self._viewer)
        half = self._canvas.width() / (2 * camera.zoom)
        across = self._viewer.dims.displayed[-1]
        low, high = np.asarray(self._viewer.layers.extent.world)[:, across]
        centre = camera.center[-1]
        return max(0.0, min(float(high), centre + half) - max(float(low), centre - half))

    def leave(self, guest: QWidget) -> None:
        """Give the room back to the canvas."""
        # The window may have gone before, with all that stood in it.
        with suppress(RuntimeError):
            guest.hide()
            if self._layout is not None:
                self._layout.removeWidget(guest)
                for place in range(self._layout.count()):
                    self._layout.setStretch(place, 0)
                camera_of(self._viewer).zoom /= self._zoomed
                self._zoomed, self._wide = 1.0, None
            guest.setParent(None)
            QTimer.singleShot(0, guest.deleteLater)
