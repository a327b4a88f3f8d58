"""Three planes of a volume through one place: one in the canvas, the other two beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from napari_grata.widgets.compare.atlas import Atlas
from napari_grata.widgets.compare.links import Links, follow
from napari_grata.widgets.compare.pane import Pane, draw_cross
from napari_grata.widgets.compare.planes import world_to_screen

if TYPE_CHECKING:
    from napari_grata.widgets.compare.overlay import Overlay
    from napari_grata.widgets.compare.room import Room
    from napari_grata.widgets.session import Session

_STILL = 3


class Crossing:
    """The two other planes beside the canvas, and a cross in all three.

    Parameters
    ----------
    shown : callable
        Returns which masks are in view: ``()``, one of them or both.
    """

    def __init__(
        self, viewer: Any, overlay: Overlay, room: Room, shown: Callable[[], tuple[str, ...]]
    ) -> None:
        self._viewer = viewer
        self._overlay = overlay
        self._room = room
        self._shown = shown
        self._atlas: Atlas | None = None
        self._links = Links()
        self.session: Session | None = None
        self.column: QWidget | None = None
        self.panes: list[Pane] = []

    def begin(self, session: Session) -> None:
        """Open the planes of a session's scan.

        Raises
        ------
        CompareError
            If there is no room for them.
        """
        column = QWidget()
        column.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        column.setMinimumWidth(80)
        self._room.take(column, left=False)
        self.column = column
        self._atlas = Atlas(session)
        layout = QVBoxLayout(column)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self.panes = [Pane(self._viewer, across) for across in range(3)]
        for pane in self.panes:
            pane.atlas = self._atlas
            layout.addWidget(pane, 1)
        self._overlay.add(self.draw)
        self._viewer.mouse_drag_callbacks.append(self._on_press)
        self.session = session
        follow(self._links, session, self.masks_changed, self.view_changed)
        for mask in (session.before, session.after):
            if mask.layer is not None:
                self._links.listen(mask.layer.events.visible, self.view_changed)
        self.view_changed()

    def end(self) -> None:
        """Close the planes."""
        column, self.column, self._atlas, self.panes = self.column, None, None, []
        if column is None:
            return
        self.session = None
        self._links.cut()
        self._viewer.mouse_drag_callbacks.remove(self._on_press)
        self._overlay.remove(self.draw)
        self._room.leave(column)

    def masks_changed(self, event: Any = None) -> None:
        """Draw the masks anew."""
        if self._atlas is not None:
            self._atlas.forget()
        self.view_changed()

    def view_changed(self, event: Any = None) -> None:
        """Draw for another place; the plane that is in the canvas need not be shown twice."""
        displayed = {axis - self._viewer.dims.ndim + 3 for axis in self._viewer.dims.displayed}
        for pane in self.panes:
            pane.shown = self._shown()
            pane.setVisible({0, 1, 2} - {pane.across} != displayed)
            pane.update()
        self._overlay.update()

    def _on_press(self, viewer: Any, event: Any) -> Any:
        """Go where the person clicks in the canvas; a drag moves the picture as ever."""
        active = viewer.layers.selection.active
        if event.button != 1 or str(getattr(active, "mode", "pan_zoom")) != "pan_zoom":
            return
        begin, moved = np.array(event.pos), False
        yield
        while event.type == "mouse_move":
            moved = moved or np.abs(np.array(event.pos) - begin).max() > _STILL
            yield
        if not moved:
            axes = tuple(viewer.dims.displayed)
            viewer.dims.set_point(axes, tuple(event.position[axis] for axis in axes))

    def draw(self, painter: QPainter) -> None:
        """Draw the cross in the canvas."""
        if self._atlas is None:
            return
        box = QRectF(self._overlay.rect())
        dims = self._viewer.dims
        down, across = dims.displayed
        screen = world_to_screen(self._viewer, self._overlay.size())
        place = screen.map(QPointF(float(dims.point[across]), float(dims.point[down])))
        draw_cross(painter, place, box)
