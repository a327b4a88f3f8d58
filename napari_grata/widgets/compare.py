"""How masks are shown: one control by the canvas, its keys, and what is drawn for it."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_grata.widgets import keys
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import contour_width
from napari_grata.widgets.overlays import WAYS, Curtain, Way
from napari_grata.widgets.qt_parts import Segmented
from napari_grata.widgets.scan_layer import camera_of
from napari_grata.widgets.session import CONTOUR_PIXELS, Session
from napari_grata.widgets.uncertainty import UncertaintyLayer

_ZOOM_MS = 120
_STEP = 0.02
# Name of the mode, text, action.
_MODES = (
    ("source", "before", "toggle_masks"),
    ("adapted", "after", "toggle_masks"),
    ("difference", "difference", "difference"),
    ("contours", "contours", "contours"),
    ("curtain", "curtain", "curtain"),
    ("side_by_side", "side by side", "side_by_side"),
    ("planes", "planes", "planes"),
)


class ViewControl(QWidget):
    """One row of buttons: before, after, difference, contours, curtain, side by side, planes.

    Beside it two switches: where the model is unsure, and filled areas instead of contours.
    """

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._way: Way | None = None
        self._way_mode = ""
        self.uncertainty = UncertaintyLayer(context)
        self.modes = Segmented([(name, text, keys.tip(act)) for name, text, act in _MODES])
        self.switches = Segmented(
            [
                ("uncertainty", "unsure", keys.tip("uncertainty")),
                ("fill", "filled", keys.tip("fill")),
            ]
        )
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(8)
        layout.addWidget(self.modes)
        layout.addWidget(self.switches)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.timeout.connect(self._show)
        self._zoom_soon = QTimer(self)
        self._zoom_soon.setSingleShot(True)
        self._zoom_soon.setInterval(_ZOOM_MS)
        self._zoom_soon.timeout.connect(self._zoomed)
        self._wire()
        self.refresh()

    def _wire(self) -> None:
        context = self._context
        self.modes.chosen.connect(self._choose)
        self.switches.chosen.connect(context.actions.perform)
        actions = context.actions
        actions.provide("toggle_masks", self._toggle, self._why_not)
        actions.provide("difference", self._next_difference, self._why_not)
        actions.provide("fill", self._toggle_fill)
        for name in WAYS:
            actions.provide(name, partial(self._toggle_way, name), partial(self._why_not, name))
        actions.provide("curtain_left", partial(self._move_curtain, -_STEP))
        actions.provide("curtain_right", partial(self._move_curtain, _STEP))
        actions.provide("uncertainty", self.uncertainty.cycle, self.uncertainty.why_not)
        for signal in (
            context.mode_changed,
            context.session_changed,
            context.slice_changed,
            context.masks_changed,
            context.step_changed,
            context.painting_changed,
            context.drawn,
        ):
            signal.connect(self._look_again)
        context.changed.connect(self.refresh)
        context.leaving.connect(self.leave)
        context.connections.listen(camera_of(context.viewer).events.zoom, self._on_zoom)

    # --- what the user does ------------------------------------------------------------------

    def _why_not(self, name: str = "") -> str:
        session = self._context.session
        if session is None or not session.can_compare:
            return "Adapt first: then there are two masks to compare."
        return WAYS[name].why_not(session) if name else ""

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
        if context.mode != "difference" or session.difference_of is None:
            context.show_mode("difference")
            session.show_difference(names[0])
        else:
            at = names.index(session.difference_of) + 1
            if at == len(names):
                context.show_mode("adapted")
                context.say("Difference off.")
                return
            session.show_difference(names[at])
        what = session.difference_of or "all"
        context.say(f"Difference, {what}: blue added, red removed, pink became another.")

    def _toggle_way(self, name: str) -> None:
        """Show the masks in a way; the same key again ends it."""
        self._context.show_mode("adapted" if self._context.mode == name else name)

    def _move_curtain(self, by: float) -> None:
        if isinstance(self._way, Curtain):
            self._way.move(by)

    def _toggle_fill(self) -> None:
        """Switch between contours and filled areas, for all masks."""
        context, session = self._context, self._context.session
        filled = not (session.filled if session is not None else bool(context.store.get("filled")))
        context.store.set("filled", filled)
        for each in context.sessions.all():
            each.set_filled(filled, contour_width(each.scan, self._zoom()))
        self._look_again()
        self.refresh()

    # --- what is drawn -----------------------------------------------------------------------

    def _look_again(self, *_: object) -> None:
        self._soon.start()

    def _show(self) -> None:
        """Bring what is drawn in line with mode, slice and masks."""
        context, session = self._context, self._context.session
        if context.closing.closing or not len(context.viewer.layers):
            self._way = None  # its layers have gone with all others
            return
        mode = context.mode if session is not None and session.can_compare else ""
        looked_back = context.step is not None
        if self._way is not None and (
            mode != self._way_mode or self._way.session is not session or looked_back
        ):
            self.leave()
            if session is not None and not looked_back:
                context.apply_plain_mode(session)
        wanted = mode in WAYS and not looked_back and not context.painting
        busy = session is not None and session.busy
        if session is not None and wanted and not busy and not WAYS[mode].why_not(session):
            if self._way is None:
                self._way, self._way_mode = WAYS[mode](context, session), mode
            self._way.show()
        self._show_painting(session)
        self.refresh()

    def _show_painting(self, session: Session | None) -> None:
        """While the user paints, the adapted mask is in view, and filled."""
        if session is None:
            return
        painting = self._context.painting
        if painting:
            if self._way is not None:
                self.leave()
            session.show_masks(source=False, adapted=True)
        thin = 0 if session.filled else contour_width(session.scan, self._zoom())
        session.source.set_contour(thin)
        session.adapted.set_contour(0 if painting else 2 * thin)
        dim = self._context.mode == "difference" and not painting
        strength = 0.45 if session.filled or painting else 0.9
        session.adapted.set_opacity(0.5 * strength if dim else strength)

    def leave(self) -> None:
        """Take away what is drawn for a way of comparing; the mode stays."""
        way, self._way, self._way_mode = self._way, None, ""
        if way is not None:
            way.end()

    def _zoom(self) -> float:
        return float(camera_of(self._context.viewer).zoom)

    def _on_zoom(self, event: Any = None) -> None:
        self._zoom_soon.start()

    def _zoomed(self) -> None:
        """Keep lines as wide on the screen as they were."""
        if self._way is not None:
            self._way.zoomed()
        session = self._context.session
        if session is not None and not session.filled and not self._context.painting:
            session.set_filled(False, contour_width(session.scan, self._zoom()))

    def refresh(self) -> None:
        """Show which mode is chosen, and which make sense."""
        context, session = self._context, self._context.session
        there = session is not None and bool(session.segmented_slices or session.adapted_slices)
        self.setVisible(there)
        self.modes.choose(context.mode)
        for name, _, _ in _MODES:
            why = "" if name == "source" else self._why_not(name if name in WAYS else "")
            self.modes.offer(name, why)
        stack = session is not None and session.scan.is_stack
        self.modes.offer("planes", self._why_not("planes"), shown=stack)
        self.switches.choose_all(
            {
                "uncertainty": self.uncertainty.kind is not None,
                "fill": session is not None and session.filled,
            }
        )
        self.switches.offer("uncertainty", self.uncertainty.why_not())
        large = session is not None and _area(session) > CONTOUR_PIXELS
        self.switches.offer("fill", "", shown=not large)


def _area(session: Session) -> int:
    rows, columns = session.scan.mask_shape[-2:]
    return rows * columns
