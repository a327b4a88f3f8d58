"""Ways to compare the masks before and after, one at a time, and their clean ends."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, QRectF
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import QWidget

from napari_grata.widgets.compare.bar import CompareBar
from napari_grata.widgets.compare.contours import Contours
from napari_grata.widgets.compare.crossing import Crossing
from napari_grata.widgets.compare.curtain import LARGE_STEP, Curtain
from napari_grata.widgets.compare.drawing import AFTER, BEFORE
from napari_grata.widgets.compare.errors import CompareError
from napari_grata.widgets.compare.links import Links, follow
from napari_grata.widgets.compare.overlay import Overlay, find_canvas
from napari_grata.widgets.compare.reasons import why_not
from napari_grata.widgets.compare.room import Room
from napari_grata.widgets.compare.side import Side
from napari_grata.widgets.compare.unsure import Uncertainty
from napari_grata.widgets.layers import alive
from napari_grata.widgets.session import Session
from napari_grata.widgets.viewer_parts import camera_of, grid_of

NO_CANVAS = "The canvas of this viewer was not found, so that nothing can be drawn over it."


class Compare(QObject):
    """The buttons, the way that is on, and what the person's layers looked like before.

    Parameters
    ----------
    dock : GrataDock

    Attributes
    ----------
    way : str or None
        ``"contours"``, ``"curtain"`` … while one is on.
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.bar = CompareBar()
        self.way: str | None = None
        self._mode: Any = None
        self._session: Session | None = None
        self._layers: tuple[Any, Any] = (None, None)
        self._shown: tuple[bool, bool] = (False, False)
        self._ours = False
        self._links = Links()
        self._overlay: Overlay | None = None
        self._closed = False
        self._modes: dict[str, Any] = {}
        dock.slots.compare.add(self.bar)
        self.unsure = Uncertainty(dock)
        self.bar.wanted.connect(self.toggle)
        self.bar.unsure_wanted.connect(self._choose_unsure)
        self.bar.all_wanted.connect(self.unsure.measure_all)
        self.unsure.changed.connect(self.refresh)
        self.unsure.drawn.connect(self._draw_scale)
        for name in self.bar.buttons:
            dock.verbs[name] = partial(_toggle, weakref.ref(self), name)
        dock.verbs["uncertainty"] = partial(_cycle, weakref.ref(self.unsure))
        dock.verbs["curtain_left"] = partial(_shift, weakref.ref(self), -LARGE_STEP / 2)
        dock.verbs["curtain_right"] = partial(_shift, weakref.ref(self), LARGE_STEP / 2)
        desk = dock.desk
        desk.changed.connect(self.refresh)
        desk.session_changed.connect(self.refresh)
        desk.runner.records.connect(self._records_came)
        viewer = dock.viewer
        camera = camera_of(viewer)
        for emitter in (camera.events.center, camera.events.zoom):
            dock.ties.listen(emitter, self._view_changed)
        for emitter in (viewer.dims.events.current_step, viewer.dims.events.order):
            dock.ties.listen(emitter, self._view_changed)
        dock.ties.listen(viewer.dims.events.ndisplay, self._display_changed)
        dock.ties.listen(grid_of(viewer).events.enabled, self._display_changed)
        dock.ties.listen(viewer.layers.events.removed, self._layer_removed)
        dock.ties.at_end(partial(_end, weakref.ref(self)))
        self.refresh()

    # --- what can be done --------------------------------------------------------------------

    def reasons(self) -> dict[str, str]:
        """Return why ways do not apply now, by name; those that do are left out."""
        desk = self._dock.desk
        return why_not(self._dock.viewer, desk.scan, desk.session, self.bar.buttons)

    def toggle(self, name: str) -> None:
        """Begin a way to compare, or end it if it is on."""
        if name not in self.reasons():
            if name == "planes":
                self.end_planes() if self._in_planes else self.begin_planes()
            elif self.way == name:
                self.end()
            else:
                self.begin(name)
        self.refresh()

    def begin(self, name: str) -> None:
        """Compare the masks of the chosen scan and model in this way."""
        session = self._dock.desk.session
        self.end()
        if session is None or not self._make_modes():
            return
        if name == "side_by_side":
            self.end_planes()
        # Whatever else the canvas shows, such as an earlier step, gives way first.
        mode = self._modes[name]
        self._dock.desk.shown.emit(mode.title)
        self._layers = (session.before.ensure(), session.after.ensure())
        self._shown = (session.before.visible, session.after.visible)
        self._set_visible(mode.shows)
        try:
            mode.begin(session)
        except CompareError as error:
            self._set_visible(self._shown)
            self._layers = (None, None)
            self._dock.review.shown.say(str(error))
            return
        self.way, self._mode, self._session = name, mode, session
        follow(self._links, session, self._masks_changed, self._view_changed)
        for layer in self._layers:
            self._links.listen(layer.events.visible, self._visibility_changed)
        self._view_changed()

    def end(self, restore: bool = True) -> None:
        """Show the layers as they were before; ``restore`` false: as they are."""
        if self._mode is None:
            return
        mode, session = self._mode, self._session
        self.way = self._mode = self._session = None
        self._links.cut()
        mode.end()
        if restore and session is not None:
            self._set_visible(self._shown)
        self._layers = (None, None)
        if not self._closed:
            self._dock.review.shown.say("")
            self._view_changed()

    def begin_planes(self) -> None:
        """Open the planes through the place in view."""
        session = self._dock.desk.session
        if session is None or not self._make_modes():
            return
        if self.way == "side_by_side":
            self.end()
        session.before.ensure()
        try:
            self._modes["planes"].begin(session)
        except CompareError as error:
            self._dock.review.shown.say(str(error))
            return

    def end_planes(self) -> None:
        """Close the planes."""
        if self._modes:
            self._modes["planes"].end()

    @property
    def _in_planes(self) -> Session | None:
        """The session whose scan is shown in three planes, if any."""
        return self._modes["planes"].session if self._modes else None

    def masks_in_view(self) -> tuple[str, ...]:
        """Return which masks the canvas shows: none, one, or both as outlines."""
        session = self._in_planes or self._dock.desk.session
        if session is None:
            return ()
        if self.way == "contours":
            return (AFTER, BEFORE)
        if self.way is not None or session.after.visible:
            return (AFTER,) if session.adapted else (BEFORE,)
        return (BEFORE,) if session.before.visible else ()

    # --- what happens meanwhile ----------------------------------------------------------------

    def refresh(self) -> None:
        """Follow the situation: another scan, new masks, a layer that was made anew."""
        session, reasons = self._dock.desk.session, self.reasons()
        if self.way is not None:
            name = self.way
            gone = session is not self._session
            if session is not None and not gone:
                gone = self._layers != (session.before.layer, session.after.layer)
            if gone or name in reasons:
                self.end()
                if name not in reasons:
                    self.begin(name)
        planes = self._in_planes
        if planes is not None and (session is not planes or "planes" in reasons):
            self.end_planes()
            if "planes" not in reasons:
                self.begin_planes()
        pressed = {self.way} if self.way else set()
        if self._in_planes is not None:
            pressed.add("planes")
        self.bar.set_reasons(reasons)
        self.bar.set_pressed(pressed)
        self.bar.set_unsure(self.unsure.kind, self.unsure.reason())

    def shift_curtain(self, step: float) -> None:
        """Move the curtain by a share of the canvas's width."""
        if isinstance(self._mode, Curtain):
            self._mode.shift(step)

    def _choose_unsure(self, kind: str) -> None:
        self.unsure.choose(kind or None)

    def _draw_scale(self) -> None:
        """Draw the scale of the uncertainty, or no longer."""
        if self._closed or not self._make_modes() or self._overlay is None:
            return
        self._overlay.remove(self._scale)
        if self.unsure.layer is not None and self.unsure.layer.visible:
            self._overlay.add(self._scale)

    def _scale(self, painter: QPainter) -> None:
        if self._overlay is not None:
            self.unsure.draw(painter, QRectF(self._overlay.rect()))

    def _make_modes(self) -> bool:
        canvas = find_canvas(self._dock)
        if canvas is None:
            self._dock.review.shown.say(NO_CANVAS)
            return False
        if self._overlay is None:
            viewer, overlay = self._dock.viewer, Overlay(canvas)
            room = Room(viewer, canvas, self._dock)
            self._overlay = overlay
            self._modes = {
                "contours": Contours(viewer, overlay),
                "curtain": Curtain(viewer, overlay, canvas),
                "side_by_side": Side(viewer, overlay, canvas, room),
                "planes": Crossing(viewer, overlay, room, self.masks_in_view),
            }
        return True

    def _set_visible(self, shows: tuple[bool, bool]) -> None:
        self._ours = True
        for layer, on in zip(self._layers, shows, strict=True):
            if alive(self._dock.viewer, layer):
                layer.visible = on
        self._ours = False

    def _visibility_changed(self, event: Any = None) -> None:
        """Make way where the masks are switched on or off in another manner."""
        if not self._ours:
            self.end(restore=False)
            self.refresh()

    def _layer_removed(self, event: Any = None) -> None:
        gone = event.value
        session = self._in_planes
        if session is not None and gone in (session.before.layer, session.scan_layer()):
            self.end_planes()
        if any(layer is gone for layer in self._layers):
            self.end()
        self.refresh()

    def _display_changed(self, event: Any = None) -> None:
        self.refresh()

    def _masks_changed(self, event: Any = None) -> None:
        if self._mode is not None:
            self._mode.masks_changed()

    def _records_came(self, records: Any = None) -> None:
        self._masks_changed()
        if self._in_planes is not None:
            self._modes["planes"].masks_changed()

    def _view_changed(self, event: Any = None) -> None:
        if self._mode is not None:
            self._mode.view_changed()
        if self._in_planes is not None:
            self._modes["planes"].view_changed()

    def close(self) -> None:
        """Leave the viewer as it was; the dock goes."""
        self._closed = True
        self.end()
        self.end_planes()
        parts: list[QWidget | None] = [self._overlay]
        curtain = self._modes.get("curtain")
        parts.append(curtain.handle if curtain is not None else None)
        self._overlay, self._modes = None, {}
        for part in parts:
            # The canvas, and all that lies on it, may have gone before the dock.
            if part is not None:
                with suppress(RuntimeError):
                    part.deleteLater()


def _toggle(compare: weakref.ref[Compare], name: str) -> None:
    found = compare()
    if found is not None:
        found.toggle(name)


def _cycle(unsure: weakref.ref[Uncertainty]) -> None:
    found = unsure()
    if found is not None:
        found.cycle()


def _shift(compare: weakref.ref[Compare], step: float) -> None:
    found = compare()
    if found is not None:
        found.shift_curtain(step)


def _end(compare: weakref.ref[Compare]) -> None:
    found = compare()
    if found is not None:
        found.close()
