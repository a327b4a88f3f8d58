"""Where the model is unsure, as a layer over the scan: measured for the slice in view."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import Colormap, ensure_colormap
from qtpy.QtCore import QObject, Signal

from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import add_quietly, on_slice
from napari_grata.widgets.scan_layer import KEY, alive, free_name, remove_layers
from napari_grata.widgets.session import Session
from napari_grata.widgets.tasks import Engine, leave_room_for_the_interface

# Kind, its words, what its numbers mean, where the colours end: views hardly ever differ by more.
KINDS = {
    "disagreement": (
        "how far the views disagree",
        "0: they agree, 0.5: half stands against half",
        0.3,
    ),
    "margin": (
        "how close the decision is",
        "0: it is sure, 1: it could as well be otherwise",
        1.0,
    ),
}
NOTE = "A model can be sure and wrong."
_KEPT = 30
_State = tuple[Any, ...]


def colours() -> Colormap:
    """Return viridis, even to the eye also of colour-blind people, clear at its low end."""
    ramp = np.linspace(0, 1, 64)
    found = np.asarray(ensure_colormap("viridis").map(ramp), dtype=np.float32).copy()
    found[:, 3] = np.clip(ramp / 0.4, 0, 1)
    return Colormap(found, name="uncertainty", controls=ramp)


class UncertaintyLayer(QObject):
    """One layer of one kind of uncertainty at a time, for the session in view.

    Attributes
    ----------
    kind : str or None
        One of `KINDS`; None while nothing is shown.
    words : str
        What is shown and what its colours mean; "" for nothing.

    Signals
    -------
    changed()
        Another kind is shown, or measured.
    """

    changed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self.kind: str | None = None
        self.words = ""
        self._layer: Image | None = None
        self._shown: _State | None = None
        self._measured: dict[_State, np.ndarray] = {}
        self._holder: dict[_State, Any] = {}
        self._queue = Queue("uncertainty", self, context.connections)
        self._queue.found.connect(self._on_found)
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
        if session is None or not session.has_masks:
            return "First there must be a mask."
        if self._context.runner.kind is not None:
            return "Wait until the work in progress has ended."
        return ""

    def cycle(self) -> None:
        """Show the next kind, after the last one none."""
        kinds = [None, *KINDS]
        self.choose(kinds[(kinds.index(self.kind) + 1) % len(kinds)])

    def choose(self, kind: str | None) -> None:
        """Show one kind of uncertainty, or none."""
        self._take_away()
        self.kind = kind
        if kind is None:
            self._context.say("Uncertainty off.")
        self.refresh()
        self.changed.emit()

    def refresh(self, *_: object) -> None:
        """Measure what is in view, and show it once it is known."""
        context, session = self._context, self._context.session
        if self.kind is None or session is None or self.why_not():
            self._take_away()
            self._queue.keep_only(())
            return
        index = context.in_view()
        state = self._state(session, index)
        if state == self._shown and alive(context.viewer, self._layer):
            return
        found = self._measured.get(state)
        if found is not None:
            self._show(session, index, found, state)
            return
        if self._layer is not None:
            self._layer.visible = False
        self._say("measuring where the model is unsure …")
        run = session.run if "source" not in state else None
        entry = context.entry
        folder = entry.folder if entry is not None else session.card.name
        measure = partial(
            _measure,
            self._holder,
            state[:-2],
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
            self.choose(None)
            context.fail(describe(found.error), found.details)
            return
        state, values = found.result
        kept = {k: v for k, v in self._measured.items() if k[:-2] == state[:-2]}
        self._measured = dict([*kept.items(), (state, values)][-_KEPT:])
        index = context.in_view()
        if session is not None and self.kind and state == self._state(session, index):
            self._show(session, index, values, state)

    def _show(self, session: Session, index: int, values: np.ndarray, state: _State) -> None:
        """Show the measured values, shape (H, W), on their slice."""
        context, scan, scan_layer = self._context, session.scan, session.scan_layer()
        viewer = context.viewer
        # A stack of the scan would cost a copy of it.
        data, arguments = on_slice(scan, scan_layer, index, values)
        arguments["metadata"] = {KEY: {"role": "uncertainty"}}
        words, numbers, strongest = KINDS[str(self.kind)]
        if self._layer is None or not alive(viewer, self._layer):
            self._layer = Image(
                data,
                name=free_name(viewer, f"{scan.name} uncertainty"),
                colormap=colours(),
                contrast_limits=(0, strongest),
                blending="translucent_no_depth",
                opacity=0.9,
                **arguments,
            )
            add_quietly(viewer, self._layer)
            if hasattr(self._layer, "colorbar"):  # since napari 0.7
                self._layer.colorbar.visible = True
            if scan_layer is not None and alive(viewer, scan_layer):
                # Masks stay above.
                viewer.layers.move(len(viewer.layers) - 1, viewer.layers.index(scan_layer) + 1)
        else:
            self._layer.data = data
            self._layer.translate = arguments["translate"]
            self._layer.visible = True
        self._shown = state
        model = "model before" if "source" in state else "model as adapted"
        self._say(f"{model}: {words}")
        context.say(f"{words[:1].upper()}{words[1:]}, {model}. {numbers}. {NOTE}")

    def _say(self, words: str) -> None:
        self.words = words
        self.changed.emit()

    def _take_away(self) -> None:
        layer, self._layer, self._shown = self._layer, None, None
        if layer is not None:
            remove_layers(self._context.viewer, [layer])
        if self.words:
            self._say("")

    def _layer_removed(self, event: Any) -> None:
        """The user has taken the layer away: nothing is shown any more."""
        if event.value is self._layer and self._layer is not None:
            self._layer = None
            self.choose(None)


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
