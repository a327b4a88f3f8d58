"""What the masks measure: areas, volumes, diameters, ratios; against each other or a truth."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QVBoxLayout, QWidget

from napari_grata.review import measurement_table as tables
from napari_grata.review.measurements import (
    NO_SPACING,
    TRUTH,
    Masks,
    Measurement,
    StackMasks,
    mask_sets,
    measure_case,
    measure_slice,
    measured_cases,
    measured_slices,
)
from napari_grata.review.truth import Truth, TruthError, as_truth
from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.frame_table import Column, FrameTable, frame_of
from napari_grata.widgets.qt_parts import Sentence, ask_folder, button, choice
from napari_grata.widgets.scan_layer import KEY
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

SLICE, CASE = "slice", "case"
_SETTLE_MS = 120
_FILTER = "Masks (*.nii *.nii.gz *.png *.tif *.tiff *.bmp *.jpg);;All files (*)"
_TITLES = {
    "before": "The mask before, as the model was trained.",
    "after": "The mask after, as the adapted model drew it.",
    "edited": "The mask after with what you have drawn on it.",
    "truth": "The truth that was opened for comparison.",
    "change": "After (as edited, where it is) minus before; or what lies between the two.",
}
_COLUMNS = (
    Column("structure", "structure", "", lambda row: row.structure, numeric=False),
    Column(
        "quantity",
        "quantity",
        "",
        lambda row: row.short,
        numeric=False,
        cell_tip=lambda row: str(row["about"]),
    ),
    *(
        Column(name, name, words, partial(tables.Row.cell, column=name), form=str)
        for name, words in _TITLES.items()
    ),
    Column("about", "what it means", "", tables.Row.explanation, numeric=False),
)


def _sets(scan: Scan, stacks: dict[str, Any]) -> dict[str, Masks]:
    """Return the masks to be measured; where the user drew, "edited" among them."""
    source, adapted = (StackMasks(scan, *stacks[which]) for which in ("source", "adapted"))
    edited = None
    if stacks["drawn"] is not None:
        shown = StackMasks(scan, stacks["drawn"], adapted)
        if any(not np.array_equal(shown[i], adapted[i]) for i in adapted):
            edited = shown
    truth: Truth | None = stacks["truth"]
    real = None if truth is None else StackMasks(scan, truth.stack, range(scan.n_slices))
    return mask_sets(source, adapted, real, edited)


def _told(found: list[Measurement], truth: Truth | None) -> list[Measurement]:
    """Leave out what a truth cannot tell: structures that it does not show."""
    return [
        item
        for item in found
        if truth is None
        or item.structure in truth.structures
        or not (item.which == "truth" or item.name.endswith(TRUTH))
    ]


def _measured(
    scan: Scan, card: Card, stacks: dict[str, Any], index: int | None, case: int
) -> list[Measurement]:
    """Measure one slice, or (None) one case."""
    if index is None:
        return _told(measure_case(scan, card, _sets(scan, stacks), case), stacks["truth"])
    one = {
        which: (stack, [index] if index in slices else [])
        for which, (stack, slices) in ((w, stacks[w]) for w in ("source", "adapted"))
    }
    sets = _sets(scan, {**stacks, **one})
    return _told(measure_slice(scan, card, sets, index), stacks["truth"])


def _saved(scan: Scan, card: Card, stacks: dict[str, Any], path: Path) -> Path:
    """Measure every slice and case and write them."""
    sets, found = _sets(scan, stacks), list[Measurement]()
    for index in measured_slices(sets):
        found += _told(measure_slice(scan, card, sets, index), stacks["truth"])
    for case in measured_cases(scan, sets):
        found += _told(measure_case(scan, card, sets, case), stacks["truth"])
    return tables.save_csv(found, path)


def _read_truth(path: Path, scan: Scan, card: Card) -> Truth:
    from napari_grata.scans import read_mask

    return as_truth(read_mask(path, scan), scan, card)


class MeasureSection(QWidget):
    """Measures the slice in view, or its case, whenever either changes and the table is in view."""

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._truths: weakref.WeakKeyDictionary[Session, Truth] = weakref.WeakKeyDictionary()
        self._version = 0
        self._rows: list[tables.Row] = []
        self._shown: tuple[Any, ...] | None = None
        self._build()
        self._queue = Queue("measures", self)
        self._queue.found.connect(self._on_found)
        context.connections.at_end(self._queue.ender(finish=True))
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SETTLE_MS)
        self._soon.timeout.connect(self.measure)
        for signal in (context.masks_changed, context.session_changed, context.drawn):
            signal.connect(self._masks_changed)
        for signal in (context.slice_changed, context.runner.changed):
            signal.connect(self._look_again)
        context.theme_changed.connect(self.table.set_theme)
        self.table.set_theme(context.theme)

    def _build(self) -> None:
        self.scope = choice("Measure the slice in view, or all of its case.", "What is measured")
        self.scope.addItem("Slice", SLICE)
        self.scope.addItem("Whole case", CASE)
        self.scope.activated.connect(self._look_again)
        self.truth_button = button(
            "Compare with a truth",
            "Choose a mask that somebody drew as the truth: a layer, or a file. It is compared "
            "with and nothing else; the model never sees it.",
        )
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self._offer_truths)
        self.truth_button.setMenu(self.menu)
        self.copy_button = button(
            "Copy", "Copy the table for a spreadsheet. Key: Ctrl+C", clicked=self.copy
        )
        self.save_button = button(
            "Save CSV …",
            "Write every slice, case and structure to a file for spreadsheets.",
            clicked=self.ask_save,
        )
        self.table = FrameTable(_COLUMNS, "measures", self._context.store)
        self.note = Sentence(1)
        self.note.setObjectName("grata_small")
        line = QHBoxLayout()
        line.setSpacing(4)
        line.addWidget(self.scope)
        line.addWidget(self.truth_button)
        line.addWidget(self.copy_button)
        line.addWidget(self.save_button)
        line.addWidget(self.note, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(line)
        layout.addWidget(self.table, 1)

    # --- measuring ---------------------------------------------------------------------------

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Measure what was not while nobody looked."""
        super().showEvent(event)
        self._look_again()

    def _masks_changed(self, *_: object) -> None:
        self._version += 1
        self._look_again()

    def _look_again(self, *_: object) -> None:
        self._soon.start()

    def measure(self) -> None:
        """Measure what is in view, if anybody looks and it is not measured yet."""
        context, session = self._context, self._context.session
        if not self.isVisible():
            return
        there = set() if session is None else session.segmented_slices | session.adapted_slices
        if session is None or not there:
            self._show([], "There is nothing to measure yet.")
            return
        scan, index = session.scan, context.in_view()
        several = scan.n_slices > scan.n_cases
        self.scope.setVisible(several)
        self.scope.setItemText(0, scan.noun.capitalize())
        self.save_button.setEnabled(context.runner.kind is None)
        if context.runner.kind is not None:
            self._show([], "Measured when the work in progress has ended.")
            return
        whole = several and self.scope.currentData() == CASE
        name = scan.case_name(scan.case_of(index)) if whole else scan.slice_name(index)
        if not whole and index not in there:
            self._show([], f"{name}: there is no mask here yet.")
            return
        wanted = (id(session), name, None if whole else index, self._version)
        if wanted == self._shown or self._queue.wanted(wanted):
            return
        self.note.say(f"Measuring {name} …")
        self._queue.keep_only([key for key in ("save", "truth") if self._queue.wanted(key)])
        do = partial(
            _measured, scan, session.card, self._stacks(session), wanted[2], scan.case_of(index)
        )
        self._queue.ask(wanted, do, first=True)

    def _stacks(self, session: Session) -> dict[str, Any]:
        """Return the stacks as they are; a slice at a time is copied where it is measured."""
        layer, shape = session.adapted.layer, session.scan.mask_shape
        drawn = None
        if layer is not None and session.adapted.shown and layer.data.shape == shape:
            drawn = layer.data
        return {
            "source": (session.source.stack, sorted(session.segmented_slices)),
            "adapted": (session.adapted.stack, sorted(session.adapted_slices)),
            "drawn": drawn,
            "truth": self._truths.get(session),
        }

    def _on_found(self, found: Found) -> None:
        session = self._context.session
        if found.key == "save":
            self.save_button.setEnabled(True)
            if found.error is None:
                show_info(f"The measurements are in {found.result.name}.")
            else:
                show_error(f"{describe(found.error)} Nothing was changed.")
        elif found.key == "truth":
            if found.error is not None:
                show_error(describe(found.error))
            elif session is not None:
                self._take(session, found.result)
        elif found.error is not None:
            self._show([], f"It could not be measured. {describe(found.error)}")
        elif session is not None and isinstance(found.key, tuple) and found.key[0] == id(session):
            self._show(found.result, f"{found.key[1]}. {self._notes(session, found.result)}")
            self._shown = found.key
            self._look_again()

    def _notes(self, session: Session, found: list[Measurement]) -> str:
        notes = dict.fromkeys(item.note for item in found if item.note)
        # Of what is said about single figures, what holds for the whole table is said beside it.
        said = [note for note in notes if note.startswith("Over ") or NO_SPACING in note]
        truth = self._truths.get(session)
        if truth is not None:
            said.append(truth.note or "Compared with the truth.")
        return " ".join(said)

    def _show(self, found: list[Measurement], note: str) -> None:
        self._shown = None
        made = tables.rows(found)
        used = tables.columns(made) or ["before", "after", "change"]
        for name in _TITLES:
            self.table.set_used(name, name in used)
        keys = [(row.structure, row.name) for row in made]
        self.table.set_frame(frame_of(made, _COLUMNS, keys))
        self.copy_button.setEnabled(bool(made))
        self.note.say(note)
        self._rows = made

    def copy(self) -> None:
        """Put the table on the clipboard, tab separated, with plain numbers."""
        from qtpy.QtGui import QGuiApplication

        clipboard = QGuiApplication.clipboard()
        if clipboard is not None and self._rows:
            clipboard.setText(tables.as_text(self._rows))

    # --- truths ------------------------------------------------------------------------------

    def _offer_truths(self) -> None:
        """Offer the Labels layers that are not ours and fit the scan, and a file."""
        self.menu.clear()
        session = self._context.session
        if session is None:
            return
        for layer in reversed(self._context.viewer.layers):
            ours = (layer.metadata.get(KEY) or {}).get("role")
            if not isinstance(layer, Labels) or ours:
                continue
            if tuple(layer.data.shape) == session.scan.mask_shape:
                self._offer(f"Layer “{layer.name}”", partial(self.take_layer, layer))
        self._offer("A file …", self.ask_truth)
        if session in self._truths:
            self._offer("No truth", self.drop_truth)

    def _offer(self, words: str, do: Any) -> None:
        action = self.menu.addAction(words)
        assert action is not None
        action.triggered.connect(lambda _checked=False: do())

    def take_layer(self, layer: Labels) -> None:
        """Compare with a Labels layer, as it is now."""
        session = self._context.session
        if session is None:
            return
        try:
            self._take(session, as_truth(np.array(layer.data), session.scan, session.card))
        except TruthError as error:
            show_error(str(error))

    def ask_truth(self) -> None:
        """Ask for a file (for a list of photographs: a folder) and compare with it."""
        session, store = self._context.session, self._context.store
        if session is None:
            return
        start = store.get("truth_folder", "")
        if session.scan.is_list:
            name = ask_folder(self, start, "Folder of truths")
        else:
            name = QFileDialog.getOpenFileName(self, "Open a truth", start, _FILTER)[0]
        if name:
            store.set("truth_folder", str(Path(name).parent))
            self.take_file(Path(name))

    def take_file(self, path: Path) -> None:
        """Read a truth in the background and compare with it."""
        session = self._context.session
        if session is not None:
            self._queue.ask("truth", partial(_read_truth, path, session.scan, session.card))

    def drop_truth(self) -> None:
        """Compare before and after with each other alone."""
        session = self._context.session
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
        store = self._context.store
        start = str(Path(store.get("save_folder", "")) / "measurements.csv")
        name, _ = QFileDialog.getSaveFileName(self, "Save the measurements", start, "CSV (*.csv)")
        if name:
            self.save(Path(name))

    def save(self, path: Path) -> None:
        """Write every slice and case, measured in the background."""
        session = self._context.session
        if session is not None:
            self.save_button.setEnabled(False)
            stacks = self._stacks(session)
            self._queue.ask("save", partial(_saved, session.scan, session.card, stacks, path))
