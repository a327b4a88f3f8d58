"""Ways to compare the masks before and after, one at a time, and their clean ends."""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from napari_grata.widgets.compare.bar import CompareBar
from napari_grata.widgets.compare.contours import Contours
from napari_grata.widgets.compare.curtain import LARGE_STEP, Curtain
from napari_grata.widgets.compare.half import HalfError
from napari_grata.widgets.compare.links import DATA_EVENTS, LOOK_EVENTS, Links
from napari_grata.widgets.compare.overlay import Overlay, find_canvas
from napari_grata.widgets.layers import alive
from napari_grata.widgets.session import Session

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
        self._modes: dict[str, Any] = {}
        dock.slots.compare.add(self.bar)
        self.bar.wanted.connect(self.toggle)
        for name in self.bar.buttons:
            dock.verbs[name] = partial(_toggle, weakref.ref(self), name)
        dock.verbs["curtain_left"] = partial(_shift, weakref.ref(self), -LARGE_STEP / 2)
        dock.verbs["curtain_right"] = partial(_shift, weakref.ref(self), LARGE_STEP / 2)
        desk = dock.desk
        desk.changed.connect(self.refresh)
        desk.session_changed.connect(self.refresh)
        desk.runner.records.connect(self._masks_changed)
        viewer = dock.viewer
        for emitter in (viewer.camera.events.center, viewer.camera.events.zoom):
            dock.ties.listen(emitter, self._view_changed)
        for emitter in (viewer.dims.events.current_step, viewer.dims.events.order):
            dock.ties.listen(emitter, self._view_changed)
        dock.ties.listen(viewer.dims.events.ndisplay, self._display_changed)
        dock.ties.listen(viewer.grid.events.enabled, self._display_changed)
        dock.ties.listen(viewer.layers.events.removed, self._layer_removed)
        dock.ties.at_end(partial(_end, weakref.ref(self)))
        self.refresh()

    # --- what can be done --------------------------------------------------------------------

    def reasons(self) -> dict[str, str]:
        """Return why ways do not apply now, by name; those that do are left out."""
        session = self._dock.desk.session
        common = ""
        if session is None or not session.segmented or not session.adapted:
            common = "First there must be a mask before and a mask after."
        elif self._dock.viewer.dims.ndisplay != 2:
            common = "Only for slices, not for the view in three dimensions."
        elif self._dock.viewer.grid.enabled:
            common = "Not in the grid of layers; switch the grid off first."
        return dict.fromkeys(self.bar.buttons, common) if common else {}

    def toggle(self, name: str) -> None:
        """Begin a way to compare, or end it if it is on."""
        if self.way == name:
            self.end()
        elif not self.reasons().get(name):
            self.begin(name)
        self.refresh()

    def begin(self, name: str) -> None:
        """Compare the masks of the chosen scan and model in this way."""
        session = self._dock.desk.session
        self.end()
        if session is None or not self._make_modes():
            return
        # Whatever else the canvas shows, such as an earlier step, gives way first.
        mode = self._modes[name]
        self._dock.desk.shown.emit(mode.title)
        self._layers = (session.before.ensure(), session.after.ensure())
        self._shown = (session.before.visible, session.after.visible)
        self._set_visible(mode.shows)
        try:
            mode.begin(session)
        except HalfError as error:
            self._set_visible(self._shown)
            self._layers = (None, None)
            self._dock.review.shown.say(str(error))
            return
        self.way, self._mode, self._session = name, mode, session
        for layer in self._layers:
            self._links.listen_to(layer, DATA_EVENTS, self._masks_changed)
            self._links.listen_to(layer, LOOK_EVENTS, self._view_changed)
            self._links.listen(layer.events.visible, self._visibility_changed)

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
        self._dock.review.shown.say("")

    # --- what happens meanwhile ----------------------------------------------------------------

    def refresh(self) -> None:
        """Follow the situation: another scan, new masks, a layer that was made anew."""
        if self.way is not None:
            name, session = self.way, self._dock.desk.session
            gone = session is not self._session
            if session is not None and not gone:
                gone = self._layers != (session.before.layer, session.after.layer)
            if gone or name in self.reasons():
                self.end()
                if name not in self.reasons():
                    self.begin(name)
        self.bar.set_reasons(self.reasons())
        self.bar.set_pressed({self.way} if self.way else set())

    def shift_curtain(self, step: float) -> None:
        """Move the curtain by a share of the canvas's width."""
        if isinstance(self._mode, Curtain):
            self._mode.shift(step)

    def _make_modes(self) -> bool:
        canvas = find_canvas(self._dock)
        if canvas is None:
            self._dock.review.shown.say(NO_CANVAS)
            return False
        if self._overlay is None:
            viewer, overlay = self._dock.viewer, Overlay(canvas)
            self._overlay = overlay
            self._modes = {
                "contours": Contours(viewer, overlay),
                "curtain": Curtain(viewer, overlay, canvas),
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
        if any(layer is event.value for layer in self._layers):
            self.end()
            self.refresh()

    def _display_changed(self, event: Any = None) -> None:
        self.refresh()

    def _masks_changed(self, event: Any = None) -> None:
        if self._mode is not None:
            self._mode.masks_changed()

    def _view_changed(self, event: Any = None) -> None:
        if self._mode is not None:
            self._mode.view_changed()

    def close(self) -> None:
        """Leave the viewer as it was; the dock goes."""
        self.end()
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


def _shift(compare: weakref.ref[Compare], step: float) -> None:
    found = compare()
    if found is not None:
        found.shift_curtain(step)


def _end(compare: weakref.ref[Compare]) -> None:
    found = compare()
    if found is not None:
        found.close()
