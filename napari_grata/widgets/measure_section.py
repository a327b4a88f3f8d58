"""What the masks measure: areas, volumes, diameters, ratios; against each other or a truth."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import pandas as pd
from napari.layers import Labels
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QWidget

from napari_grata.review.compare import Truth, as_truth
from napari_grata.review.measurements import (
    SHOWN,
    MaskSets,
    StackMasks,
    as_text,
    compared,
    measure_case,
    measure_slice,
    measurements,
    notes,
    save_csv,
)
from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.frame_table import Column, FrameTable
from napari_grata.widgets.qt_parts import (
    Sentence,
    ask_folder,
    button,
    choice,
    column_in,
    later,
    line_in,
    menu_entry,
    notify,
)
from napari_grata.widgets.scan_layer import our_entry
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Structure

SLICE, CASE = "slice", "case"
_SETTLE_MS = 120
_FILTER = "Masks (*.nii *.nii.gz *.png *.tif *.tiff *.bmp *.jpg);;All files (*)"
_NOTHING = "There is nothing to measure yet: segment the scan first."
_WAIT = "Measured when the work in progress has ended."
_HEADS = {
    "source": ("before", "The mask before, as the model was trained."),
    "adapted": ("after", "The mask after, as the adapted model drew it."),
    "edited": ("edited", "The mask after with what you have drawn on it."),
    "truth": ("truth", "The truth that was opened for comparison."),
    "change": (
        "change",
        "After (as edited, where it is) minus before; or what lies between the two.",
    ),
}


def _tip(cells: dict[str, Any]) -> str:
    return str(cells["about"])


_COLUMNS = (
    Column(
        "structure",
        "structure",
        "Click to bring the structures together again.",
        form=lambda value: str(value[1]),
        numeric=False,
        key=lambda value: value[0],
        swatch=lambda value: str(value[2]),
        cell_tip=_tip,
    ),
    Column(
        "quantity", "quantity", "What was measured, and its unit.", numeric=False, cell_tip=_tip
    ),
    *(
        # A figure as it is ordered and as it is written.
        Column(
            name,
            *_HEADS[name],
            form=lambda figure: "" if figure is None else str(figure[1]),
            key=lambda figure: figure[0],
            descending=True,
            colour=lambda figure, c: c.muted if figure and figure[1] == "–" else None,
            cell_tip=_tip,
        )
        for name in SHOWN
    ),
    Column("about", "what it means", numeric=False),
    Column(
        "remark",
        "",
        "Relative change, and what to know about a figure.",
        numeric=False,
        cell_tip=_tip,
    ),
)


# --- in the background -------------------------------------------------------------------------


def _sets(scan: Scan, stacks: dict[str, Any]) -> MaskSets:
    """Return the masks to be measured; where the user drew, "edited" among them."""
    source, adapted = (StackMasks(scan, *stacks[which]) for which in ("source", "adapted"))
    shown = StackMasks(scan, stacks["drawn"], adapted)
    drawn = any(not np.array_equal(shown[i], adapted[i]) for i in adapted)
    return MaskSets(source, adapted, edited=shown if drawn else None, truth=stacks["truth"])


def _measured(
    scan: Scan, card: Card, stacks: dict[str, Any], place: int, structure: Structure | None
) -> pd.DataFrame:
    """Measure one slice, or one structure of a case."""
    if structure is not None:
        return measure_case(scan, card, _sets(scan, stacks), place, structure)
    one = dict(stacks)
    for which in ("source", "adapted"):
        stack, slices = stacks[which]
        one[which] = (stack, [place] if place in slices else [])
    return measure_slice(scan, card, _sets(scan, one), place)


def _saved(
    scan: Scan, card: Card, stacks: dict[str, Any], path: Path, gone: threading.Event
) -> Path | None:
    """Measure every slice and case and write them; None if the window has gone meanwhile."""
    found = []
    for part in measurements(scan, card, _sets(scan, stacks)):
        found.append(part)
        if gone.is_set():
            return None
    return save_csv(pd.concat(found), path)


def _read_truth(
    source: Any, scan: Scan, card: Card, session: weakref.ref[Session]
) -> tuple[weakref.ref[Session], Truth]:
    """Read a file or a layer's data as a truth, for the session that it was opened for."""
    from napari_grata.scans import read_mask

    stack = read_mask(source, scan) if isinstance(source, Path) else np.array(source)
    return session, as_truth(stack, scan, card)


# --- in view -----------------------------------------------------------------------------------


class MeasureTable(FrameTable):
    """Structure by structure: quantity, before, after, change.

    Attributes
    ----------
    figures : DataFrame
        What is shown, as plain numbers.
    """

    figures = pd.DataFrame()

    def show_figures(self, found: list[pd.DataFrame], card: Card | None) -> None:
        """Show what was measured, in the order of the card's structures."""
        structures = [] if card is None else [(s.name, s.colour) for s in card.structures]
        places = {name: (place, colour) for place, (name, colour) in enumerate(structures)}
        self.figures, frame = pd.DataFrame(), pd.DataFrame()
        if found:
            numbers, frame = (compared(pd.concat(found), words=words) for words in (False, True))
            self.figures = numbers
            frame.index = pd.Index(
                list(zip(numbers["structure"], numbers["quantity"], strict=True)),
                dtype=object,
                tupleize_cols=False,
            )
            frame["structure"] = [
                (places[name][0], name, places[name][1]) for name in numbers["structure"]
            ]
            for name in numbers.columns.intersection(SHOWN):
                frame[name] = list(zip(numbers[name], frame[name], strict=True))
        used = set(frame.columns) & set(SHOWN) or {"source", "adapted", "change"}
        for name in SHOWN:
            self.set_used(name, name in used)
        self.set_used("about", False)
        # Where the user has scrolled to, it stays when the next slice comes.
        bar = self.verticalScrollBar()
        place = bar.value() if bar is not None else 0
        self.set_frame(frame)
        if bar is not None:
            self.doItemsLayout()
            bar.setValue(place)

    def fit_columns(self) -> None:
        """Give figures what they need; remarks get what is left, and never more."""
        super().fit_columns()
        self.setColumnWidth(len(self.frame_model.columns) - 1, 40)

    def as_text(self) -> str:
        """Return the selected rows (all, if fewer than two are) with plain numbers and units."""
        model, chosen = self.frame_model, self.selected_rows()
        places = chosen if len(chosen) > 1 else range(model.rowCount())
        return as_text(self.figures.iloc[[model.order[place] for place in places]])


class MeasureSection(QWidget):
    """Measures the slice in view, or its case, whenever either changes and the table is in view.

    Attributes
    ----------
    table : MeasureTable
    note : Sentence
        What was measured, and what to know about it; why nothing was.

    Signals
    -------
    truth_changed()
        Another truth is open, or none any more.
    """

    truth_changed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._truths: weakref.WeakKeyDictionary[Session, Truth] = weakref.WeakKeyDictionary()
        self._version = 0
        self._drawings: dict[int, int] = {}
        self._n_drawn = 0
        self._found: list[pd.DataFrame] = []
        self._asked: tuple[Any, ...] | None = None
        self._shown: tuple[Any, ...] | None = None
        self._build()
        self._queue = Queue("measures", self, context.connections)
        self._files = Queue("measures-files", self, context.connections)
        self._queue.found.connect(self._on_found)
        self._files.found.connect(self._on_file)
        self._gone = threading.Event()
        context.connections.at_end(self._gone.set)
        self._soon = later(self, _SETTLE_MS, self.measure)
        for signal in (context.masks_changed, context.session_changed):
            signal.connect(self._masks_changed)
        for signal in (context.slice_changed, context.scan_changed, context.runner.changed):
            signal.connect(self._look_again)
        context.drawn.connect(self._on_drawn)
        self._say("")

    def _build(self) -> None:
        words = "Measure the slice in view, or all of its case."
        entries = (("Slice", SLICE), ("Whole case", CASE))
        self.scope = choice(words, "What is measured", entries, small=True)
        self.scope.setVisible(False)
        self.scope.currentIndexChanged.connect(self._look_again)
        self.truth_button = button(
            "Compare with a truth …",
            "Choose a mask that somebody drew as the truth: a layer, or a file. It is compared "
            "with and nothing else; the model never sees it.",
            small=True,
        )
        self.menu = QMenu(self)
        self.menu.aboutToShow.connect(self._offer_truths)
        self.truth_button.setMenu(self.menu)
        self.table = MeasureTable(_COLUMNS, "measures", self._context)
        self.table.setAccessibleName("Measurements")
        words = "Copy the selected rows, or all, for a spreadsheet (Ctrl+C)."
        self.copy_button = button("Copy", words, small=True, clicked=self.table.copy)
        words = "Write every slice, case and structure to a file for spreadsheets."
        self.save_button = button("Save CSV …", words, small=True, clicked=self.ask_save)
        self.note = Sentence(1, "grata_small")
        layout = column_in(self, spacing=3)
        line = line_in(layout, self.scope, self.truth_button)
        line.addStretch(1)
        line.addWidget(self.copy_button)
        line.addWidget(self.save_button)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.note)

    # --- measuring ---------------------------------------------------------------------------

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Measure what was not while nobody looked."""
        super().showEvent(event)
        self._look_again()

    def _masks_changed(self, *_: object) -> None:
        self._version += 1
        session = self._context.session
        self._drawings.clear()
        self._n_drawn = len(session.drawn_slices) if session is not None else 0
        self._look_again()

    def _on_drawn(self, index: int) -> None:
        """Measure again after a stroke or its undo, but not for a slice that comes into view.

        napari says the same of all three: what the slice holds then tells them apart.
        """
        session = self._context.session
        if session is None:
            return
        drawn, layer, held = session.drawn_slices, session.adapted.layer, 0
        if index in drawn and layer is not None:
            held = crc32(session.scan.get_mask(layer.data, index).tobytes())
        seen, now = (self._drawings.get(index, 0), self._n_drawn), (held, len(drawn))
        self._drawings[index], self._n_drawn = now
        if seen != now:
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
        self._offer_controls(session)
        if session is None or not there:
            self._say(_NOTHING)
            return
        if context.runner.kind is not None:
            self._say(_WAIT)
            return
        scan, index = session.scan, context.in_view()
        case = scan.case_of(index)
        whole = not self.scope.isHidden() and self.scope.currentData() == CASE
        name = scan.case_name(case) if whole else scan.slice_name(index)
        if not whole and index not in there:
            self._say(f"{name}: there is no mask of this {scan.noun} yet.")
            return
        wanted = (id(session), name, CASE if whole else index, self._version)
        if wanted == (self._asked or self._shown):
            return
        self._asked, self._shown, self._found = wanted, None, []
        self._queue.keep_only(())
        do = partial(_measured, scan, session.card, self._stacks(session))
        if not whole:
            self._queue.ask((wanted, True), partial(do, index, None))
            return
        # A case takes seconds: a structure at a time, shown as it comes, dropped when unwanted.
        self._show([], session, f"Measuring {name} …")
        *others, last = session.card.structures
        for structure in others:
            self._queue.ask((wanted, structure.name), partial(do, case, structure))
        self._queue.ask((wanted, True), partial(do, case, last))

    def _offer_controls(self, session: Session | None) -> None:
        """A choice between slice and case only where a case has several slices."""
        scan, idle = self._context.scan, self._context.runner.kind is None
        several = scan is not None and scan.n_slices > scan.n_cases
        self.scope.setVisible(several)
        self.truth_button.setEnabled(session is not None)
        saving = self._files.wanted("save")
        there = session is not None and session.has_masks
        self.save_button.setText("Measuring …" if saving else "Save CSV …")
        self.save_button.setEnabled(there and idle and not saving)

    def _stacks(self, session: Session) -> dict[str, Any]:
        """Return the stacks as they are; a slice at a time is copied where it is measured."""
        return {
            "source": (session.source.stack, sorted(session.segmented_slices)),
            "adapted": (session.adapted.stack, sorted(session.adapted_slices)),
            "drawn": session.adapted.in_use(),
            "truth": self._truths.get(session),
        }

    def _on_found(self, found: Found) -> None:
        session, key = self._context.session, found.key
        assert isinstance(key, tuple)
        wanted, part = key
        if session is None or wanted != self._asked:
            return
        if found.error is not None:
            self._say(f"It could not be measured. {describe(found.error)}")
            self._shown = wanted  # not again and again
            return
        name = wanted[1]
        self._found = [*self._found, found.result]
        if part is True:
            self._asked, self._shown = None, wanted
            self._show(self._found, session, f"{name}. {self._notes(session)}")
        else:
            self._show(self._found, session, f"Measuring {name} …")

    def _notes(self, session: Session) -> str:
        truth = self._truths.get(session)
        said = "" if truth is None else truth.note or "Compared with the truth."
        return f"{notes(pd.concat(self._found))} {said}".strip()

    def _say(self, why: str) -> None:
        """Show no figures, and why."""
        self._queue.keep_only(())
        self._asked = self._shown = None
        self._show([], None, why)

    def _show(self, found: list[pd.DataFrame], session: Session | None, note: str) -> None:
        self.table.show_figures(found, session.card if session is not None else None)
        self.copy_button.setEnabled(bool(found))
        self.note.say(note)

    # --- truths ------------------------------------------------------------------------------

    def _offer_truths(self) -> None:
        """Offer the Labels layers that are not ours and fit the scan, the uppermost first."""
        session = self._context.session
        self.menu.clear()
        if session is None:
            return
        for layer in reversed(self._context.viewer.layers):
            if "role" in our_entry(layer) or not isinstance(layer, Labels):
                continue
            if tuple(layer.data.shape) == session.scan.mask_shape:
                take = partial(self._take_shown, weakref.ref(layer))
                menu_entry(self.menu, f"Layer “{layer.name}”", take)
        words = "A file …" if not session.scan.is_list else "A folder …"
        menu_entry(self.menu, words, self.ask_truth)
        if session in self._truths:
            menu_entry(self.menu, "No truth", self.drop_truth)

    def _take_shown(self, held: weakref.ref[Labels]) -> None:
        layer = held()
        if layer is not None:
            self.take(layer.data)

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
            self.take(Path(name))

    def take(self, source: Any) -> None:
        """Compare with a label stack as it is now, a file's mask, or those of a folder."""
        session = self._context.session
        if session is not None:
            weak = weakref.ref(session)
            self._files.ask("truth", partial(_read_truth, source, session.scan, session.card, weak))

    def truth(self, session: Session) -> Truth | None:
        """Return the truth that is open for a session."""
        return self._truths.get(session)

    def drop_truth(self) -> None:
        """Compare before and after with each other alone."""
        session = self._context.session
        if session is not None:
            self._truths.pop(session, None)
            self.truth_changed.emit()
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
        if session is not None and not self._files.wanted("save"):
            stacks = self._stacks(session)
            do = partial(_saved, session.scan, session.card, stacks, path, self._gone)
            self._files.ask("save", do)
            self._offer_controls(session)

    def _on_file(self, found: Found) -> None:
        if found.error is not None:
            notify(f"{describe(found.error)} Nothing was changed.")
        elif found.key == "save" and found.result is not None:
            notify(f"The measurements are in {found.result.name}.", "info")
        elif found.key == "truth":
            weak, truth = found.result
            session = weak()
            if session is not None:
                self._truths[session] = truth
                self.truth_changed.emit()
                if truth.note:
                    notify(truth.note, "info")
                self._masks_changed()
        self._look_again()
