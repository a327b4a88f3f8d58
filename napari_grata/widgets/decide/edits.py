"""What the reviewer draws on the mask after: kept without being asked, and brought back."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.review.cases import ListError
from napari_grata.review.final_masks import mask_digest
from napari_grata.widgets.decide.docket import Docket
from napari_grata.widgets.decide.drawings import Copy, Drawing, Drawings
from napari_grata.widgets.layers import MaskLayer, alive
from napari_grata.widgets.session import Session, contour_width
from napari_grata.widgets.theme import STRUCTURE_COLOURS
from napari_grata.widgets.worker import Job, Outcome

SETTLE_MS = 2000


def _written(drawings: Drawings, fresh: list[Copy]) -> Iterator[Copy]:
    for copy in fresh:
        drawings.keep(copy)
        yield copy


class Edits(QObject):
    """Saves drawings some time after the last stroke, and brings the latest one back.

    Parameters
    ----------
    dock : GrataDock

    Signals
    -------
    drawn(bool)
        A stroke, an undo or a redo on the mask after; True if not only on the slice in view.
    saved()
        What was drawn is on the disk.
    failed(str)
        It is not, and why.
    """

    drawn = Signal(bool)
    saved = Signal()
    failed = Signal(str)

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self.problem = ""
        self.drawings = Drawings()
        self.job = Job(self)
        self.docket: Docket | None = None
        self._own: MaskLayer | None = None
        self._own_of: Docket | None = None
        self._brought: weakref.WeakKeyDictionary[Session, int] = weakref.WeakKeyDictionary()
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SETTLE_MS)
        self._soon.timeout.connect(self._save_soon)
        self.job.batch.connect(self._on_batch)
        self.job.ended.connect(self._on_ended)
        dock.desk.runner.ended.connect(self._on_run_ended)
        dock.ties.at_end(self.job.token.end)
        dock.ties.at_end(self.drawings.write_or_leave)

    # --- saving --------------------------------------------------------------------------------

    @property
    def unsaved(self) -> bool:
        """Whether something drawn is not on the disk yet."""
        return bool(self.drawings.waiting) and bool(self.drawings.fresh())

    def save(self) -> bool:
        """Write what was drawn, at once; returns whether all of it is safe."""
        self._soon.stop()
        try:
            self.drawings.write()
        except (ListError, OSError) as error:
            self._fail(str(error))
            return False
        self.problem = ""
        self.saved.emit()
        return True

    def watch(self, session: Session | None) -> None:
        """Notice from now on what is drawn on a session's mask after."""
        layer = session.after.layer if session is not None else None
        for each in (layer, self._own.layer if self._own is not None else None):
            if each is not None and each not in self._watched:
                self._watched.add(each)
                events = each.events
                for emitter in (events.paint, events.labels_update, events.data):
                    self._dock.ties.listen(emitter, self._on_drawn)
                self._dock.ties.listen(events.set_data, self._on_refreshed)

    def _on_refreshed(self, event: Any = None) -> None:
        """Undo and redo say no more than that; so does every other slice that comes into view."""
        layer = getattr(event, "source", None)
        if layer is not None and self.drawings.knows(layer):
            self._on_drawn(event, everywhere=True)

    def _on_drawn(self, event: Any = None, *, everywhere: bool = False) -> None:
        session, docket = self._dock.desk.session, self.docket
        layer: Any = getattr(event, "source", None)
        if docket is None or layer is None:
            return
        if session is not None and layer is session.after.layer:
            if session.busy or session.scan is not docket.scan:
                return
            self.drawings.add(Drawing(layer, docket, session.after.stack))
        elif self._own is not None and layer is self._own.layer and self._own_of is docket:
            self.drawings.add(Drawing(layer, docket, docket.edit_base))
        else:
            return
        self.drawn.emit(everywhere or layer.n_edit_dimensions > 2)
        self._soon.start()

    def _save_soon(self) -> None:
        if self.job.running:
            self._soon.start()
            return
        fresh = self.drawings.fresh()
        if fresh:
            self.job.start(partial(_written, self.drawings, fresh))

    def _on_batch(self, items: list[Any]) -> None:
        for copy in items:
            self.drawings.settle(copy)

    def _on_ended(self, outcome: Outcome) -> None:
        if outcome.kind == "failed":
            self._fail(outcome.message)
        elif outcome.kind == "done":
            self.problem = ""
            self.saved.emit()

    def _fail(self, why: str) -> None:
        self.problem = f"What you drew is not on the disk yet: {why}"
        self.failed.emit(self.problem)

    def _on_run_ended(self, kind: str, outcome: Any) -> None:
        """A layer that holds a new result, and no drawing, begins anew."""
        session = self._dock.desk.runner.session
        if session is not None and session.after.layer is not None and not session.after.edited():
            self.drawings.saved.pop(session.after.layer, None)
        if session is not None and kind == "adapt":
            # An earlier drawing was made over another mask; it does not belong onto this one.
            self._brought[session] = 0

    # --- bringing back -------------------------------------------------------------------------

    def bring_back(self, session: Session | None) -> str | None:
        """Show the latest drawing of the scan in view, once; returns what to say about it.

        None: nothing was shown.
        """
        docket = self.docket
        if docket is None or docket.edit is None or docket.scan is not self._dock.desk.scan:
            return None
        if session is not None and session.adapted:
            if session.busy or session in self._brought or session.scan is not docket.scan:
                return None
            self._brought[session] = docket.edit_version
            if mask_digest(session.after.stack) == docket.edit_base:
                self._into(session, docket.edit)
                return ""
        elif not docket.alone or self._own_of is docket:
            return None
        if self._own_of is docket:
            return None
        self._beside(docket, session)
        return "What you drew earlier was drawn over another mask; it is in a layer of its own."

    def _into(self, session: Session, edit: np.ndarray) -> None:
        if session.after.edited():
            return
        layer = session.after.ensure()
        self.drawings.saved[layer] = mask_digest(edit)
        layer.data[...] = edit
        layer.refresh(extent=False)
        own, self._own, self._own_of = self._own, None, None
        if own is not None and own.layer is not None and own.shown and not own.edited():
            self._dock.viewer.layers.remove(own.layer)
        self.watch(session)

    def _beside(self, docket: Docket, session: Session | None) -> None:
        scan, desk = docket.scan, self._dock.desk
        entry = desk.entry
        card = session.card if session is not None else entry.card if entry is not None else None
        colours = (
            dict(card.colours) if card is not None else dict(enumerate(STRUCTURE_COLOURS, start=1))
        )
        width = 0 if desk.filled else 2 * contour_width(scan)
        own = MaskLayer(
            self._dock.viewer,
            scan,
            f"{scan.name} edited",
            colours,
            desk.layer,
            contour=width,
            role="edited",
        )
        assert docket.edit is not None
        own.stack[...] = docket.edit
        layer = own.ensure()
        self.drawings.saved[layer] = mask_digest(docket.edit)
        self._own, self._own_of = own, docket
        self.watch(session)

    # --- drawing -------------------------------------------------------------------------------

    def begin(self, session: Session, value: int) -> bool:
        """Make the mask after the active layer, with the brush on a structure."""
        layer = session.after.ensure()
        if not alive(self._dock.viewer, layer):
            return False
        session.show_after(True)
        self.watch(session)
        self._dock.viewer.layers.selection.active = layer
        layer.selected_label = value
        layer.mode = "paint"
        return True
