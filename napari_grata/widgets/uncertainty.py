"""Where the model is unsure, as a layer over the scan: measured for the slice in view."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject

from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import add_quietly, placement
from napari_grata.widgets.scan_layer import KEY, alive, free_name
from napari_grata.widgets.session import Session
from napari_grata.widgets.tasks import Engine, leave_room_for_the_interface

# Kind, name, what its numbers mean, number shown as the strongest colour.
KINDS = {
    "disagreement": (
        "Disagreement of views",
        "dark: the views of the slice agree; bright: half stands against half",
        0.5,
    ),
    "margin": (
        "Close decisions",
        "dark: the decision is sure; bright: it could as well be otherwise",
        1.0,
    ),
}
NOTE = "A model can be sure and wrong."
_State = tuple[Any, ...]


class UncertaintyLayer(QObject):
    """One layer of one kind of uncertainty at a time, for the session in view.

    Attributes
    ----------
    kind : str or None
        One of `KINDS`; None while nothing is shown.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self.kind: str | None = None
        self._layer: Image | None = None
        self._shown: _State | None = None
        self._measured: dict[_State, np.ndarray] = {}
        self._holder: dict[_State, Any] = {}
        self._queue = Queue("uncertainty", self)
        self._queue.found.connect(self._on_found)
        context.connections.at_end(self._queue.ender())
        for signal in (
            context.slice_changed,
            context.session_changed,
            context.runner.changed,
            context.masks_changed,
        ):
            signal.connect(self.refresh)
        context.leaving.connect(self._take_away)
        context.connections.listen(context.viewer.layers.events.removed, self._layer_removed)

    def why_not(self) -> str:
        """Return why there is nothing to measure, "" where there is."""
        session = self._context.session
        if session is None or not (session.segmented_slices or session.adapted_slices):
            return "First there must be a mask."
        if self._context.runner.kind is not None:
            return "Wait until the work in progress has ended."
        return ""

    def cycle(self) -> None:
        """Show the next kind, after the last one none."""
        kinds = [None, *KINDS]
        self.kind = kinds[(kinds.index(self.kind) + 1) % len(kinds)]
        self._take_away()
        if self.kind is None:
            self._context.say("Uncertainty off.")
        self.refresh()
        self._context.touch()

    def refresh(self, *_: object) -> None:
        """Measure what is in view, and show it once it is known."""
        if self.kind is None:
            return
        if self.why_not():
            self._take_away()
            self._queue.keep_only(())
            return
        context, session = self._context, self._context.session
        assert session is not None
        index = context.in_view()
        state = self._state(session, index)
        if state == self._shown and alive(context.viewer, self._layer):
            return
        found = self._measured.get(state)
        if found is not None:
            self._show(session, index, found, state)
            return
        self._take_away()
        model = state[:-2]
        run = session.run if model[-1] != "source" else None
        entry = context.entry
        folder = entry.folder if entry is not None else session.card.name
        context.say("Measuring where the model is unsure …")
        measure = partial(
            _measure,
            self._holder,
            model,
            context.runner.engine,
            folder,
            context.device,
            session,
            run,
            index,
            self.kind,
        )
        self._queue.ask("measure", lambda: (state, measure()))

    def _state(self, session: Session, index: int) -> _State:
        """Return what tells one measurement from another."""
        run = session.run
        adapted = session.adapted_slices and run is not None
        model = (id(run), run.position, run.taken) if adapted else ("source",)
        return (id(session), *model, self.kind, index)

    def _on_found(self, found: Found) -> None:
        context, session = self._context, self._context.session
        if found.error is not None:
            self.kind = None
            context.fail(describe(found.error), found.details)
            return
        state, values = found.result
        self._measured = {k: v for k, v in self._measured.items() if k[:-2] == state[:-2]}
        self._measured[state] = values
        index = context.in_view()
        if session is not None and self.kind and state == self._state(session, index):
            self._show(session, index, values, state)

    def _show(self, session: Session, index: int, values: np.ndarray, state: _State) -> None:
        self._take_away()
        viewer, scan = self._context.viewer, session.scan
        scan_layer = session.scan_layer()
        arguments = placement(scan, scan_layer)
        arguments.pop("metadata", None)
        name, words, strongest = KINDS[str(self.kind)]
        # One slice thick, at its place: a stack of the scan would cost a copy of it.
        position = scan.slice_position(index)
        data = values.reshape(*(1 for _ in position), *values.shape)
        from napari_grata.widgets.mask_layer import to_world_map

        corner = np.array([*position, 0, 0], dtype=float)
        arguments["translate"] = to_world_map(arguments, len(corner))(corner)
        layer = Image(
            data,
            name=free_name(viewer, f"{scan.name} uncertainty"),
            colormap="inferno",
            contrast_limits=(0, strongest),
            blending="additive",
            opacity=0.8,
            metadata={KEY: {"role": "uncertainty"}},
            **arguments,
        )
        add_quietly(viewer, layer)
        self._layer, self._shown = layer, state
        model = "model before" if "source" in state else "model as adapted"
        self._context.say(f"{name}, {model}; {words}. {NOTE}")

    def _take_away(self) -> None:
        layer, self._layer, self._shown = self._layer, None, None
        if layer is not None and alive(self._context.viewer, layer):
            self._context.viewer.layers.remove(layer)

    def _layer_removed(self, event: Any) -> None:
        """The user has taken the layer away: nothing is shown any more."""
        if event.value is self._layer and self._layer is not None:
            self._layer, self._shown, self.kind = None, None, None
            self._context.touch()


def _measure(
    holder: dict[_State, Any],
    key: _State,
    engine: Engine,
    folder: Any,
    device: str,
    session: Session,
    run: Any,
    index: int,
    kind: str,
) -> np.ndarray:
    """Measure one slice, shape (H, W); what measures is kept for the model in view."""
    from napari_grata.adaptation.uncertainty import Uncertainty

    with leave_room_for_the_interface():
        if key not in holder:
            holder.clear()
            segmenter = run.segmenter if run is not None else engine.get(folder, device)
            holder[key] = Uncertainty(segmenter, session.scan, run=run, region=session.region)
        values: np.ndarray = holder[key].measure(index, kind)
        return values
