"""Where the model is unsure, as a layer over the scan: measured for the slice in view."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, QRectF, Signal
from qtpy.QtGui import QPainter

from napari_grata.widgets import jobs
from napari_grata.widgets.compare.scale import SHOWN_TO, draw_scale, scale_colours
from napari_grata.widgets.layers import KEY, alive, free_name, placement
from napari_grata.widgets.worker import Job, Outcome

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

KINDS = {
    "disagreement": (
        "Disagreement of the six views",
        "Standard deviation of the probability over six flips and rotations of the slice.",
        "0 the six views agree, 0.5 half stands against half",
    ),
    "margin": (
        "Close decisions",
        "How near the probability is to 0.5, or the two highest ones to each other.",
        "0 the decision is sure, 1 it could as well be otherwise",
    ),
}
NOTE = "A model can be sure and wrong."
OPACITY = 0.9


class Uncertainty(QObject):
    """One layer of one kind of uncertainty at a time, for the chosen scan and model.

    Parameters
    ----------
    dock : GrataDock

    Signals
    -------
    changed()
        Another kind is shown, or none.
    drawn()
        The scale on the canvas has to be drawn anew.
    """

    changed = Signal()
    drawn = Signal()

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.kind: str | None = None
        self.layer: Image | None = None
        self.job = Job(self)
        self._session: Session | None = None
        self._model: Any = None
        self._kept: dict[Any, tuple[np.ndarray, set[int]]] = {}
        self._holder: dict[Any, Any] = {}
        self._asked_for_all = False
        self._removing = False
        self.job.batch.connect(self._on_batch)
        self.job.ended.connect(self._on_ended)
        desk = dock.desk
        desk.changed.connect(self.refresh)
        desk.session_changed.connect(self.refresh)
        desk.runner.changed.connect(self.refresh)
        dock.ties.listen(dock.viewer.dims.events.current_step, self.look_again)
        dock.ties.listen(dock.viewer.layers.events.removed, self._layer_removed)
        dock.ties.at_end(self.job.token.end)
        dock.ties.at_end(partial(_close, weakref.ref(self)))

    # --- what the person wants -----------------------------------------------------------------

    def reason(self) -> str:
        """Return why there is nothing to measure, ``""`` where there is."""
        session = self._dock.desk.session
        if session is None or not (session.segmented or session.adapted):
            return "First there must be a mask."
        if self._dock.desk.runner.kind is not None:
            return "Wait until the work in progress has ended."
        return ""

    def cycle(self) -> None:
        """Show the next kind, after the last one none."""
        kinds = [None, *KINDS]
        self.choose(kinds[(kinds.index(self.kind) + 1) % len(kinds)])

    def choose(self, kind: str | None) -> None:
        """Show one kind of uncertainty, or none."""
        if kind is not None and self.reason():
            self._dock.review.shown.say(self.reason())
            return
        self._asked_for_all = False
        self.job.cancel()
        self._take_away()
        self.drawn.emit()
        self.kind = kind
        if kind is None:
            self._session = None
            self._dock.review.shown.say("")
        else:
            self._show()
        self.changed.emit()

    def measure_all(self) -> None:
        """Measure every slice that has a mask."""
        if self.kind is None:
            self.choose("disagreement")
        if self.kind is not None:
            self._asked_for_all = True
            self._ask()

    # --- the layer -----------------------------------------------------------------------------

    def refresh(self) -> None:
        """Follow to another scan, model or state of the model, and measure anew."""
        if self.kind is None:
            return
        session = self._dock.desk.session
        if self._dock.desk.runner.kind is not None:
            self.job.cancel()
            return
        if session is None or not (session.segmented or session.adapted):
            self.choose(None)
        elif self._state(session) != self._model or session is not self._session:
            self.job.cancel()
            self._take_away()
            self._show()
        elif self._wanted() and not self.job.running:
            self._ask()

    def look_again(self, event: Any = None) -> None:
        """Measure the slice that has come into view."""
        if self.kind is not None and self.layer is not None and self.layer.visible:
            self._ask()

    def draw(self, painter: QPainter, box: QRectF) -> None:
        """Draw the scale of what is shown into a corner of the canvas."""
        if self.kind is not None and self.layer is not None and self.layer.visible:
            draw_scale(painter, box, self.kind, KINDS[self.kind][0])

    @staticmethod
    def _state(session: Session) -> Any:
        """Return what tells one state of the model from another."""
        if session.adapted and session.run is not None:
            return (id(session.run), session.run.position, session.run.taken)
        return "source"

    def _show(self) -> None:
        session: Session = self._dock.desk.session
        assert self.kind is not None
        if session is not self._session:
            self._kept.clear()
            self._holder.clear()
        self._session, self._model = session, self._state(session)
        key = (self.kind, self._model)
        self._kept = {k: v for k, v in self._kept.items() if k[1] == self._model}
        self._holder = {k: v for k, v in self._holder.items() if k == self._model}
        if key not in self._kept:
            # Zeros take memory only where something is written.
            self._kept[key] = (np.zeros(session.scan.mask_shape, np.float32), set())
        self._make_layer(session, self._kept[key][0])
        self._ask()

    def _make_layer(self, session: Session, data: np.ndarray) -> None:
        viewer, scan = self._dock.viewer, session.scan
        scan_layer = session.scan_layer()
        arguments = placement(scan, scan_layer)
        metadata = dict(arguments.pop("metadata", {}))
        metadata[KEY] = {**metadata.get(KEY, {}), "scan": scan, "role": "uncertainty"}
        assert self.kind is not None
        layer = Image(
            data,
            name=free_name(viewer, f"{scan.name} uncertainty"),
            colormap=scale_colours(),
            contrast_limits=(0, SHOWN_TO[self.kind]),
            blending="translucent_no_depth",
            opacity=OPACITY,
            metadata=metadata,
            **arguments,
        )
        active = viewer.layers.selection.active
        viewer.add_layer(layer)
        if alive(viewer, scan_layer):
            # Masks stay above.
            viewer.layers.move(len(viewer.layers) - 1, viewer.layers.index(scan_layer) + 1)
        if active is not None:
            viewer.layers.selection.active = active
        self.layer = layer
        layer.events.visible.connect(self._on_visible)
        self.drawn.emit()

    def _take_away(self) -> None:
        layer, self.layer = self.layer, None
        if layer is not None:
            layer.events.visible.disconnect(self._on_visible)
            if alive(self._dock.viewer, layer):
                self._removing = True
                self._dock.viewer.layers.remove(layer)
                self._removing = False

    def _on_visible(self, event: Any = None) -> None:
        self.look_again()
        self.drawn.emit()

    def _layer_removed(self, event: Any) -> None:
        if event.value is self.layer and not self._removing:
            self.choose(None)

    # --- measuring -----------------------------------------------------------------------------

    def _wanted(self) -> list[int]:
        """Return the slices that are wanted and not measured yet, that in view first."""
        session = self._session
        assert session is not None
        _, done = self._kept[(self.kind, self._model)]
        wanted = [self._dock.desk.in_view()]
        if self._asked_for_all:
            wanted += sorted((session.adapted or session.segmented) - {wanted[0]})
        return [index for index in wanted if index not in done]

    def _ask(self) -> None:
        """Start to measure what is wanted; a job under way is asked to make room first."""
        session = self._session
        if session is None or self._dock.desk.session is not session or self.reason():
            return
        wanted = self._wanted()
        if not wanted:
            self._say()
        elif self.job.running:
            self.job.cancel()
        else:
            entry = self._dock.desk.entry
            model = session.run if self._model != "source" else None
            make = partial(
                _make_doubts,
                self._dock.desk.runner.engine,
                entry.folder if entry is not None else session.card.name,
                self._dock.model.device_key(),
                session,
                model,
            )
            self._dock.review.shown.say("Measuring where the model is unsure …")
            key = (self.kind, self._model)
            self.job.start(partial(_measure, self._holder, key, make, wanted))

    def _on_batch(self, items: list[Any]) -> None:
        if self._session is None:
            return
        for key, index, found in items:
            if key in self._kept:
                data, done = self._kept[key]
                self._session.scan.put_mask(data, index, found)
                done.add(index)
        if self.layer is not None:
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)
        self._say()

    def _on_ended(self, outcome: Outcome) -> None:
        if outcome.kind == "failed":
            self.choose(None)
            self._dock.desk.fail(outcome.message, outcome.details)
        elif outcome.kind != "quit" and self.kind is not None:
            # The person may have gone on to another slice meanwhile.
            self._ask()

    def _say(self) -> None:
        if self.kind is None or self._session is None:
            return
        words = "model as adapted" if self._model != "source" else "model before"
        _, done = self._kept[(self.kind, self._model)]
        left = len(self._wanted()) if self._asked_for_all else 0
        progress = f" {len(done)} measured, {left} to go." if left else ""
        self._dock.review.shown.say(f"{KINDS[self.kind][2]}; {words}. {NOTE}{progress}")

    def close(self) -> None:
        """Take the layer away; the dock goes."""
        self.kind = None
        self._take_away()


def _make_doubts(
    engine: jobs.Engine, folder: str | Path, device: str, session: Session, run: Any
) -> Any:
    """Load what measures; runs in the worker's thread."""
    from napari_grata.adaptation.uncertainty import Uncertainty

    segmenter = run.segmenter if run is not None else engine.get(folder, device)
    return Uncertainty(segmenter, session.scan, run=run, region=session.region)


def _measure(
    holder: dict[Any, Any], key: Any, make: Callable[[], Any], slices: Sequence[int]
) -> Iterator[tuple[Any, int, np.ndarray]]:
    """Measure slices, one item a slice."""
    kind, model = key
    with jobs.leave_room_for_the_interface():
        doubts = holder.get(model)
        if doubts is None:
            doubts = holder[model] = make()
        for index in slices:
            yield key, index, doubts.measure(index, kind)


def _close(uncertainty: weakref.ref[Uncertainty]) -> None:
    found = uncertainty()
    if found is not None:
        found.close()
