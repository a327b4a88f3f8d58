"""Keeps the fold "Measurements" in line with what is in view; measures in a worker."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QFileDialog

from napari_grata.review import measurement_table as tables
from napari_grata.review.measurements import NO_SPACING, Measurement
from napari_grata.review.truth import Truth, TruthError, as_truth
from napari_grata.widgets import measure_jobs
from napari_grata.widgets.fold import Fold
from napari_grata.widgets.layers import KEY
from napari_grata.widgets.measure_panel import CASE, MeasurePanel
from napari_grata.widgets.worker import Job, Outcome

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

_SETTLE_MS = 120
_FILTER = "Masks (*.nii *.nii.gz *.png *.tif *.tiff *.bmp *.jpg);;All files (*)"
_NOTHING = "There is nothing to measure yet: segment the scan first."
_WAIT = "Measured when the work in progress has ended."


class Measure(QObject):
    """Measures the slice in view, or its case, whenever either changes and the fold is open.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self.panel = MeasurePanel()
        self.fold = Fold(
            "Measurements",
            self.panel,
            key="measurements",
            tooltip="Areas, volumes, diameters, ratios; before against after, or against a truth.",
        )
        dock.slots.measure.add(self.fold)
        self.job, self.file_job = Job(self), Job(self)
        self._truths: weakref.WeakKeyDictionary[Session, Truth] = weakref.WeakKeyDictionary()
        self._drawn_on: weakref.WeakSet[Any] = weakref.WeakSet()
        self._asked: tuple[Any, ...] | None = None
        self._shown: tuple[Any, ...] | None = None
        self._version = 0
        self._stood_at = -1
        self._found: list[Measurement] = []
        self._again = False
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SETTLE_MS)
        desk, panel = dock.desk, self.panel
        wires: Any = (
            (self._soon.timeout, self._measure),
            (self.job.batch, self._on_batch),
            (self.job.ended, self._on_ended),
            (self.file_job.batch, self._on_file),
            (self.file_job.ended, self._on_file_ended),
            (self.fold.toggled, self.refresh),
            (panel.scope_changed, self.refresh),
            (panel.save_wanted, self.ask_save),
            (panel.truth_file_wanted, self.ask_truth),
            (panel.truth_layer_wanted, self.take_layer),
            (panel.truth_dropped, self.drop_truth),
            (desk.session_changed, self._masks_changed),
            (desk.changed, self.refresh),
            (desk.runner.ended, self._masks_changed),
        )
        for signal, slot in wires:
            signal.connect(slot)
        dock.ties.listen(dock.viewer.dims.events.current_step, self.refresh)
        dock.ties.listen(dock.viewer.events.theme, self._theme_changed)
        dock.ties.listen(dock.viewer.layers.events.inserted, self.refresh)
        dock.ties.at_end(self.job.token.end)
        dock.ties.at_end(self.file_job.token.end)
        self._theme_changed()

    # --- measuring ---------------------------------------------------------------------------

    def refresh(self, *_: Any) -> None:
        """Measure soon, if anybody looks."""
        self._soon.start()

    def _measure(self) -> None:
        session: Session | None = self._dock.desk.session
        self._listen_to_drawing(session)
        if not self.fold.expanded:
            return
        self.panel.truths = self._possible_truths(session)
        if session is None or not session.segmented | session.adapted:
            self._say(_NOTHING)
            return
        self.panel.has_truth = session in self._truths
        noun = "photograph" if session.scan.kind.startswith("photograph") else "slice"
        self.panel.set_scopes(session.scan.n_slices > session.scan.n_cases, noun)
        self.panel.save_button.setEnabled(self._dock.desk.runner.kind is None)
        if self._dock.desk.runner.kind is not None:
            self._say(_WAIT)
            return
        scan, index = session.scan, self._dock.desk.in_view()
        whole = self.panel.chosen_scope() == CASE
        name = scan.case_name(scan.case_of(index)) if whole else scan.slice_name(index)
        if not whole and index not in session.segmented | session.adapted:
            self._say(f"{name}: there is no mask of this slice yet.")
            return
        places = (None, scan.case_of(index)) if whole else (index, None)
        wanted = (session, name, places, self._version)
        if wanted == (self._asked or self._shown):
            return
        if self.job.running:
            self._again = True
            self.job.cancel()
            return
        self._asked, self._shown, self._found = wanted, None, []
        if whole:
            self._show([], None, f"Measuring {name} …")
        self.job.start(
            partial(measure_jobs.measured, scan, session.card, self._stacks(session), *places)
        )

    def _stacks(self, session: Session) -> dict[str, Any]:
        """Return the stacks as they are; the worker copies a slice at a time."""
        layer = session.after.layer
        drawn = None
        if (
            layer is not None
            and session.after.shown
            and layer.data.shape == session.scan.mask_shape
        ):
            drawn = layer.data
        return {
            "before": (session.before.stack, sorted(session.segmented)),
            "after": (session.after.stack, sorted(session.adapted)),
            "drawn": drawn,
            "truth": self._truths.get(session),
        }

    def _on_batch(self, items: list[Any]) -> None:
        for item in items:
            self._found += item
        if self._asked is not None and self._asked[2][0] is None and not self._again:
            # A case takes seconds; what is known of it is shown as it comes.
            session, name = self._asked[:2]
            self._show(tables.rows(self._found), session, f"Measuring {name} …")

    def _on_ended(self, outcome: Outcome) -> None:
        asked, self._asked = self._asked, None
        if self._again:
            self._again = False
            self.refresh()
            return
        if outcome.kind == "failed":
            self._say(f"It could not be measured. {outcome.message}")
        elif outcome.kind == "done" and asked is not None:
            self._shown = asked
            session, name = asked[:2]
            self._show(tables.rows(self._found), session, f"{name}. {self._notes(session)}")

    def _notes(self, session: Session) -> str:
        notes = list(dict.fromkeys(item.note for item in self._found if item.note))
        # Of what is said about single figures, what holds for the whole table is said under it.
        said = [note for note in notes if note.startswith("Over ") or NO_SPACING in note]
        truth = self._truths.get(session)
        if truth is not None:
            said.append(truth.note or "Compared with the truth.")
        return " ".join(said)

    def _say(self, why: str) -> None:
        """Show no figures, and why."""
        if self.job.running:
            self._again = True
            self.job.cancel()
        self._shown = None
        self._show([], None, why)

    def _show(self, rows: list[tables.Row], session: Session | None, note: str) -> None:
        colours = {} if session is None else {s.name: s.colour for s in session.card.structures}
        self.panel.show_rows(rows, colours, note)

    # --- truths ----------------------------------------------------------------------------

    def _possible_truths(self, session: Session | None) -> list[object]:
        """Return the Labels layers that are not ours and fit the scan, the uppermost first."""
        if session is None:
            return []
        return [
            layer
            for layer in reversed(self._dock.viewer.layers)
            if isinstance(layer, Labels)
            and not (layer.metadata.get(KEY) or {}).get("role")
            and tuple(layer.data.shape) == session.scan.mask_shape
        ]

    def take_layer(self, layer: Any) -> None:
        """Compare with a Labels layer, as it is now."""
        session = self._dock.desk.session
        if session is None:
            return
        try:
            truth = as_truth(np.array(layer.data), session.scan, session.card)
        except TruthError as error:
            show_error(str(error))
            return
        self._take(session, truth)

    def ask_truth(self) -> None:
        """Ask for a file (for a list of photographs: a folder) and compare with it."""
        session, store = self._dock.desk.session, self._dock.desk.store
        if session is None:
            return
        start = store.get("truth_folder", "")
        if session.scan.kind == "photographs":
            name = str(QFileDialog.getExistingDirectory(self._dock, "Folder of truths", start))
        else:
            name = QFileDialog.getOpenFileName(self._dock, "Open a truth", start, _FILTER)[0]
        if name:
            store.set("truth_folder", str(Path(name).parent))
            self.take_file(Path(name))

    def take_file(self, path: Path) -> None:
        """Read a truth in the worker and compare with it."""
        session = self._dock.desk.session
        if session is not None and not self.file_job.running:
            self.file_job.start(
                partial(measure_jobs.read_truth, path, session, session.scan, session.card)
            )

    def drop_truth(self) -> None:
        """Compare before and after with each other alone."""
        session = self._dock.desk.session
        if session is not None:
            self._truths.pop(session, None)
            self._masks_changed()

    def _take(self, session: Session, truth: Truth) -> None:
        self._truths[session] = truth
        if truth.note:
            show_info(truth.note)
        self._masks_changed()

    # --- files -------------------------------------------------------------------------------

    def ask_save(self) -> None:
        """Ask for a file and write everything that can be measured into it."""
        store = self._dock.desk.store
        start = str(Path(store.get("save_folder", "")) / "measurements.csv")
        name, _ = QFileDialog.getSaveFileName(
            self._dock, "Save the measurements", start, "CSV (*.csv)"
        )
        if name:
            self.save(Path(name))

    def save(self, path: Path) -> None:
        """Write every slice and case, measured in the worker."""
        session = self._dock.desk.session
        if session is None or self.file_job.running:
            return
        self.panel.save_button.setEnabled(False)
        self.panel.save_button.setText("Measuring …")
        self.file_job.start(
            partial(measure_jobs.saved, session.scan, session.card, self._stacks(session), path)
        )

    def _on_file(self, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, Path):
                show_info(f"The measurements are in {item.name}.")
            elif item is not None:
                self._take(*item)

    def _on_file_ended(self, outcome: Outcome) -> None:
        self.panel.save_button.setText("Save CSV …")
        self.panel.save_button.setEnabled(True)
        if outcome.kind == "failed":
            show_error(f"{outcome.message} Nothing was changed.")

    # --- what the viewer says ----------------------------------------------------------------

    def _listen_to_drawing(self, session: Session | None) -> None:
        """Measure again when the person has drawn on the mask after."""
        layer = session.after.layer if session is not None else None
        if layer is not None and layer not in self._drawn_on:
            self._drawn_on.add(layer)
            for emitter in (layer.events.paint, layer.events.labels_update, layer.events.data):
                self._dock.ties.listen(emitter, self._masks_changed)
            self._dock.ties.listen(layer.events.set_data, self._refreshed)

    def _masks_changed(self, *_: Any) -> None:
        self._version += 1
        self.refresh()

    def _refreshed(self, event: Any = None) -> None:
        """Undo says no more than a slice that comes into view; but then the slice is another."""
        here = self._dock.desk.in_view()
        if here == self._stood_at:
            self._version += 1
        self._stood_at = here
        self.refresh()

    def _theme_changed(self, event: Any = None) -> None:
        self.panel.set_theme(self._dock.viewer.theme)
