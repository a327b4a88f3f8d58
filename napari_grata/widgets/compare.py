"""How masks are shown: one control by the canvas, its keys, and what is drawn for it."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_grata.widgets import keys
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import contour_width
from napari_grata.widgets.overlays import WAYS, Caption, Curtain, SideBySide, Way
from napari_grata.widgets.qt_parts import Segmented, column_in, later, line_in
from napari_grata.widgets.scan_layer import camera_of, grid_of
from napari_grata.widgets.session import Session
from napari_grata.widgets.uncertainty import UncertaintyLayer

_ZOOM_MS = 120
_CURTAIN_STEP = 40  # pixels of the screen
# Name of the mode, text, action, tooltip where the action's own words are of more than the mode.
_MODES = (
    ("source", "before", "toggle_masks", "Show the mask before adapting."),
    ("adapted", "after", "toggle_masks", "Show the mask after adapting."),
    ("difference", "difference", "difference", ""),
    ("contours", "contours", "contours", ""),
    ("curtain", "curtain", "curtain", ""),
    ("side_by_side", "side by side", "side_by_side", ""),
    ("planes", "planes", "planes", ""),
)
_DIFFERENCE = "blue added, red removed, pink became another"
_NOT_YET = "Adapt first: then there are two masks to compare."
_NOT_IN_3D = "Only for slices, not for the view in three dimensions."
_NOT_TURNED = "Only in the scan's own slices: put the axes back into their order first."
_NOT_IN_GRID = "Not in the grid of layers; switch the grid off first."
_TOO_LARGE = "Masks of so large a picture are always filled; both outlines are in “contours” (Q)."


class ViewControl(QWidget):
    """One row of buttons: before, after, difference, contours, curtain, side by side, planes.

    Beside it two switches: where the model is unsure, and filled areas instead of contours.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._way: Way | None = None
        self._broken: Way | None = None  # a layer of it was deleted
        self._at: tuple[Any, ...] = ()
        self._look: tuple[Any, ...] = ()
        self._drawn: set[int] = set()
        self._caption = Caption(context.viewer)
        self.uncertainty = UncertaintyLayer(context)
        self.modes = Segmented([(n, text, keys.tip(act, words)) for n, text, act, words in _MODES])
        self.switches = Segmented(
            [
                (n, text, keys.tip(n))
                for n, text in (("uncertainty", "uncertainty"), ("fill", "filled"))
            ]
        )
        line_in(column_in(self), self.modes, self.switches, spacing=8)
        self._soon = later(self, 0, self._show)
        self._moved_soon = later(self, 0, self._moved)
        self._zoom_soon = later(self, _ZOOM_MS, self._zoomed)
        self._wire()
        self.refresh()

    def _wire(self) -> None:
        context, viewer = self._context, self._context.viewer
        self.modes.chosen.connect(self._choose)
        self.switches.chosen.connect(context.actions.perform)
        provide = context.actions.provide
        provide("toggle_masks", self._toggle, self.why_not)
        provide("difference", self._next_difference, self.why_not)
        provide("fill", self._toggle_fill, self._why_not_fill)
        for name in WAYS:
            provide(name, partial(self._toggle_way, name), partial(self.why_not, name))
        for name, by in (("curtain_left", -_CURTAIN_STEP), ("curtain_right", _CURTAIN_STEP)):
            provide(name, partial(self._move_curtain, by), self._why_no_curtain)
        provide("uncertainty", self.uncertainty.cycle, self.uncertainty.why_not)
        for signal in (
            context.mode_changed,
            context.session_changed,
            context.slice_changed,
            context.masks_changed,
            context.step_changed,
            context.painting_changed,
        ):
            signal.connect(self._look_again)
        context.drawn.connect(self._on_drawn)
        context.changed.connect(self.refresh)
        context.leaving.connect(self.leave)
        self.uncertainty.changed.connect(self.refresh)
        camera, dims = camera_of(viewer), viewer.dims
        listen = context.connections.listen
        listen(camera.events.zoom, self._on_zoom)
        listen(camera.events.center, self._on_moved)
        for emitter in (dims.events.ndisplay, dims.events.order, grid_of(viewer).events.enabled):
            listen(emitter, self._look_again)
        listen(viewer.layers.events.removed, self._layer_removed)
        context.connections.at_end(partial(_leave, weakref.ref(self)))

    # --- what the user does ------------------------------------------------------------------

    def why_not(self, mode: str = "") -> str:
        """Return why masks cannot be compared (in a mode) now, "" if they can."""
        session, viewer = self._context.session, self._context.viewer
        if session is None or not session.can_compare:
            return _NOT_YET
        if mode not in WAYS:
            return ""
        if viewer.dims.ndisplay != 2:
            return _NOT_IN_3D
        if list(viewer.dims.order) != sorted(viewer.dims.order):
            return _NOT_TURNED
        if grid_of(viewer).enabled and not isinstance(self._way, SideBySide):
            return _NOT_IN_GRID
        return WAYS[mode].why_not(session)

    def _choose(self, mode: str) -> None:
        if mode == "difference" and self._context.mode == "difference":
            self._next_difference()
        else:
            self._context.show_mode(mode)

    def _toggle(self) -> None:
        source = self._context.mode == "source"
        self._context.show_mode("adapted" if source else "source")
        self._context.say("You see the mask after." if source else "You see the mask before.")

    def _next_difference(self) -> None:
        """Show the difference of all structures, then of each, then none."""
        context, session = self._context, self._context.session
        if session is None:
            return
        names = session.difference_names()
        looks_back = context.step is not None
        if looks_back or context.mode != "difference" or session.difference_of is None:
            context.show_mode("difference")
            session.show_difference(names[0])
        else:
            at = names.index(session.difference_of) + 1
            if at == len(names):
                context.show_mode("adapted")
                context.say("Difference off.")
                return
            session.show_difference(names[at])
        session.show_difference_layer(not context.painting)
        context.say(f"Difference, {session.difference_of or 'all structures'}.")
        self.refresh()

    def _toggle_way(self, name: str) -> None:
        """Show the masks in a way; the same key again ends it."""
        self._context.show_mode("adapted" if self._context.mode == name else name)

    def _why_no_curtain(self) -> str:
        return "" if isinstance(self._way, Curtain) else "Draw the curtain first (W)."

    def _move_curtain(self, by: float) -> None:
        if isinstance(self._way, Curtain):
            self._way.move(by)

    def _why_not_fill(self) -> str:
        session = self._context.session
        return _TOO_LARGE if session is not None and session.large else ""

    def _toggle_fill(self) -> None:
        """Switch between contours and filled areas, for all masks."""
        context, session = self._context, self._context.session
        filled = not (session.filled if session is not None else bool(context.store.get("filled")))
        context.store.set("filled", filled)
        for each in context.sessions.all():
            each.set_filled(filled)
        self.leave()
        self._show()

    # --- what is drawn -----------------------------------------------------------------------

    def _look_again(self, *_: object) -> None:
        self._soon.start()

    def _on_drawn(self, index: int) -> None:
        self._drawn.add(index)
        self._look_again()

    def _show(self) -> None:
        """Bring what is drawn in line with mode, slice and masks."""
        context, session = self._context, self._context.session
        if context.closing.closing:
            return
        mode = context.mode if session is not None and session.can_compare else ""
        if session is not None and session.bring_back():
            context.say("A mask that is decided on stays; its eye hides it.")
        if isinstance(self._way, SideBySide) and not grid_of(context.viewer).enabled:
            self.leave()  # the user has switched the grid off
            context.show_mode("adapted")
            return
        possible = mode in WAYS and context.step is None and not context.painting
        possible = possible and not self.why_not(mode)
        at = (session, mode, possible, context.painting)
        if at != self._at or (self._way and session and self._way.hidden != session.hidden):
            self.leave()
            self._at = at
            if session is not None and session.can_compare and context.step is None:
                context.apply_plain_mode(session)
                if context.painting or (mode in WAYS and not possible):
                    session.show_masks(source=False, adapted=True)
        if session is not None:
            if possible:
                if self._way is None:
                    self._way = WAYS[mode](context, session)
                self._way.show()
            for index in self._drawn:
                session.draw_difference(index)
            self._style(session)
        self._drawn.clear()
        self.refresh()

    def _style(self, session: Session) -> None:
        """Draw contours as wide on the screen as they should be; what is painted on filled.

        Under a difference contours are dimmed. What the user has set by hand stays until then.
        """
        painting = self._context.painting
        dim = self._context.mode == "difference" and not painting
        look = session, session.filled, painting, dim
        zoom = float(camera_of(self._context.viewer).zoom)
        for mask, width in ((session.source, 1.5), (session.adapted, 3.0)):
            filled = session.filled or (painting and mask is session.adapted)
            mask.set_contour(0 if filled else contour_width(session.scan, zoom, width))
            if look != self._look:
                mask.set_opacity((0.45 if filled else 0.9) * (0.5 if dim else 1))
        self._look = look

    def leave(self) -> None:
        """Take away what is drawn for a way of comparing; the mode stays."""
        ways, self._way, self._broken, self._at = (self._way, self._broken), None, None, ()
        for way in ways:
            if way is not None:
                way.end()

    def take_away(self) -> None:
        """Leave the viewer as it was: the dock goes."""
        self.uncertainty.choose(None)
        self._caption.say("")
        self.leave()

    def _layer_removed(self, event: Any) -> None:
        """The user has deleted what is drawn for a way: that ends it."""
        if self._way is not None and any(event.value is one for one in self._way.layers):
            # Ended once napari is through: till then it must not draw itself anew.
            self._broken, self._way, self._at = self._way, None, ()
            self._context.show_mode("adapted")
        self._look_again()

    def _on_zoom(self, event: Any = None) -> None:
        self._zoom_soon.start()

    def _on_moved(self, event: Any = None) -> None:
        if self._way is not None:
            self._moved_soon.start()

    def _moved(self) -> None:
        if self._way is not None and self._way.session is self._context.session:
            self._way.moved()

    def _zoomed(self) -> None:
        """Keep lines as wide on the screen as they were."""
        session = self._context.session
        if session is not None:
            self._style(session)
        if self._way is not None and self._way.session is session:  # else it ends in a moment
            self._way.zoomed()

    def refresh(self) -> None:
        """Show which mode is chosen, and which make sense; what they show, on the canvas."""
        context, session = self._context, self._context.session
        there = session is not None and bool(session.segmented_slices or session.adapted_slices)
        self.setVisible(there)
        mode = context.mode
        if self.why_not(mode):
            mode = "adapted" if session is not None and session.adapted_slices else "source"
        self.modes.choose(mode)
        for name, *_ in _MODES:
            self.modes.offer(name, "" if name == "source" else self.why_not(name))
        filled = session is not None and session.filled
        unsure = self.uncertainty.kind is not None
        self.switches.choose_all({"uncertainty": unsure, "fill": filled})
        self.switches.offer("uncertainty", "" if unsure else self.uncertainty.why_not())
        self.switches.offer("fill", self._why_not_fill())
        words = [self._way.words if self._way is not None else ""]
        if mode == "difference" and session is not None and context.step is None:
            words.append(f"{session.difference_of or 'all structures'}: {_DIFFERENCE}")
        self._caption.say("\n".join(filter(None, [*words, self.uncertainty.words])))
        if self._way is not None and session is not None and self._way.hidden != session.hidden:
            self._look_again()


def _leave(control: weakref.ref[ViewControl]) -> None:
    found = control()
    if found is not None:
        found.take_away()
