"""Methods side by side: run several on the scan in view, see what each makes of it, take one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtGui import QPainter, QPixmap
from qtpy.QtWidgets import QFileDialog, QLineEdit, QMenu, QSplitter, QWidget

from napari_grata.adaptation import RunFolderError
from napari_grata.adaptation.settings import PRESETS
from napari_grata.review.candidates import SOURCE, CandidateRuns
from napari_grata.review.compare import (
    DIFFERENCE_COLOURS,
    MethodResult,
    dice_to,
    difference_map,
    flags_of_run,
    latest_flags,
    share_changed,
)
from napari_grata.scans.files import safe_name, write_csv
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Found, Outcome, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.current_case import load_run
from napari_grata.widgets.mask_layer import add_quietly, contour_width, labels_over
from napari_grata.widgets.methods_table import (
    LAYERS,
    MethodsTable,
    Overlay,
    figures_of,
    steps_of,
)
from napari_grata.widgets.qt_parts import (
    Sentence,
    ask_folder,
    button,
    choice,
    column_in,
    line_in,
    menu_entry,
    notify,
    offer,
)
from napari_grata.widgets.scan_layer import alive, camera_of, free_name, remove_layers
from napari_grata.widgets.session import Session
from napari_grata.widgets.theme import tip
from napari_grata.widgets.undo import MaskSnapshot, Undoable, close_unless_used

if TYPE_CHECKING:
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.compare import Truth
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card
    from napari_grata.widgets.measure_section import MeasureSection

_SHARP = 3  # pixels of an exported picture to one of the screen
_CURVES = {
    "cosine": "Cosine",
    "learning_rate": "Learning rate",
    "pseudo_loss": "Pseudo loss",
    "auxiliary_loss": "Auxiliary loss",
    LAYERS: "Cosine by layer",
}
_ABOUT = "Tick methods and run them. Each starts from the model as it was trained."


@dataclass
class _Taking:
    """A method whose masks take the place of the session's, and what Undo goes back to."""

    result: MethodResult
    settings: tuple[str, Settings]
    before: MaskSnapshot = field(init=False)
    right: dict[int, Any] = field(init=False)


class MethodsPage(QWidget):
    """A list of methods to tick that becomes a table of results, with their curves beside it."""

    def __init__(self, context: Context, truths: MeasureSection) -> None:
        super().__init__()
        self._context, self._truths = context, truths
        self._results: weakref.WeakKeyDictionary[Session, dict[str, MethodResult]] = (
            weakref.WeakKeyDictionary()
        )
        self._shown: Session | None = None
        self._difference: Any = None
        self._in_front = False
        self._build()
        self._wire()
        self.refresh()

    def _build(self) -> None:
        self.search = QLineEdit()
        self.search.setPlaceholderText("Search …")
        self.search.setClearButtonEnabled(True)
        self.search.setAccessibleName("Search methods")
        self.run_button = button("Run", clicked=self.run)
        words = "Lay a run that was kept in a folder beside these."
        self.saved_button = button("Saved run …", words, small=True, clicked=self.ask_saved)
        self.use_button = button("Use", small=True, clicked=self.use)
        words = "What is drawn over the steps, in the table's colours."
        entries = [(title, name) for name, title in _CURVES.items()]
        self.curve = choice(words, "Which curves are shown", entries)
        self.export_button = button("Export", "Write what is seen to a file.", small=True)
        menu = QMenu(self.export_button)
        menu_entry(menu, "Figure …", self.ask_figure)
        menu_entry(menu, "Table as CSV …", partial(self.ask_csv, "methods.csv"))
        menu_entry(menu, "Curves as CSV …", partial(self.ask_csv, "curves.csv"))
        self.export_button.setMenu(menu)
        self.table = MethodsTable()
        self.overlay = Overlay(self._context.theme)
        self.words = Sentence(1, "grata_small")
        layout = column_in(self, spacing=3)
        left = (self.search, 2), self.run_button, self.use_button, self.saved_button
        line_in(layout, *left, (self.curve, 2), self.export_button)
        self.seen = QSplitter()
        self.seen.addWidget(self.table)
        self.seen.addWidget(self.overlay)
        self.seen.setStretchFactor(1, 1)
        self.seen.setSizes([390, 260])
        layout.addWidget(self.seen, 1)
        layout.addWidget(self.words)

    def _wire(self) -> None:
        context = self._context
        self.search.textChanged.connect(self.table.search)
        self.table.itemSelectionChanged.connect(self._look)
        self.table.itemChanged.connect(self.refresh)
        self.curve.currentIndexChanged.connect(self._draw)
        context.changed.connect(self.refresh)
        context.session_changed.connect(self._on_session)
        context.leaving.connect(self.clear)
        context.theme_changed.connect(self.overlay.set_colours)
        context.runner.progressed.connect(self._on_progress)
        self._truths.truth_changed.connect(self._ask_dice)

    # --- what the user does ------------------------------------------------------------------

    def run(self) -> None:
        """Run what is ticked, one after another, in the background."""
        context, begun, names = self._context, self._context.runner.begin(), self.table.ticked()
        if begun is None:
            return
        session, entry, slices = begun
        folder = None
        if context.run_parent and context.case is None:
            stamp = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
            name = f"{safe_name(session.scan.name)} methods {stamp}"
            folder = Path(context.run_parent) / name
        make = partial(
            run_methods,
            context.runner.engine,
            entry.folder,
            context.device,
            session.card,
            names,
            scan=session.scan,
            slices=slices,
            region=context.region,
            source_masks=session.source_masks(slices, context.region),
            seed=context.settings.seed,
            folder=folder,
        )
        results = self._results.setdefault(session, {})
        for name in PRESETS:
            results.pop(name, None)
        then = partial(self._compared, session)
        context.runner.start("compare", session, make, "Comparing methods", then)
        context.take_results()
        self._on_session()

    def _why_no_use(self) -> str:
        session, chosen = self._context.session, self.table.chosen()
        busy = self._context.runner.why_busy()
        if busy:
            return busy
        if session is None or len(chosen) != 1:
            return "Choose one method that has run."
        result = chosen[0].result
        if result.name == SOURCE:
            return "The mask before is there already (Keep before)."
        if result.run is None:
            if result.name in PRESETS:
                return "It is in use, or was: run it again to take it again."
            return "A saved run is opened by Open > Saved run."
        if result.run.region != session.region and session.segmented_slices:
            return "It was run on another part of the picture; run it again."
        return ""

    def use(self) -> None:
        """Make the masks of the method that is chosen the result, as if it alone had run."""
        context, session, chosen = self._context, self._context.session, self.table.chosen()
        if session is None or self._why_no_use():
            return
        result = chosen[0].result
        taking = _Taking(result, (context.preset, context.settings))
        self._use(session, taking, partial(self._used, session, taking))

    def _use(self, session: Session, taking: _Taking, done: Callable[[], None]) -> None:
        """Keep the run of a method, for it to take the place of the session's."""
        context, run = self._context, taking.result.run
        assert run is not None
        if not context.drawings_are_safe():
            return
        context.look_back(None)
        taking.before, folder = MaskSnapshot(session), None
        taking.right = context.reviewed.of(session)
        if run.folder is None or context.case is not None:
            folder = context.runner.folder_of(session)
        make, then = partial(keep_result, run, folder), partial(self._kept, session, done)
        context.runner.start("masks", session, make, f"Using {taking.result.title}", then)

    def _kept(self, session: Session, done: Callable[[], None], outcome: Outcome) -> None:
        if outcome.kind == "done":
            done()
        if session is self._context.session:
            self._context.apply_plain_mode(session)

    def _put_in_use(self, session: Session, result: MethodResult) -> None:
        run, result.run = result.run, None
        assert run is not None
        session.run = run
        session.put_result(run, latest_flags(run.past))
        context = self._context
        if session is context.session:
            context.choose_settings(result.name, run.settings)
            context.show_mode("adapted")
        context.runner.tell_result(session)
        context.take_results()

    def _used(self, session: Session, taking: _Taking) -> None:
        self._put_in_use(session, taking.result)
        self._context.undo.push(
            Undoable(
                f"using {taking.result.title}",
                partial(self._undo, session, taking),
                partial(self._redo, session, taking),
                owner=session,
                drop=partial(close_unless_used, taking.before.run, weakref.ref(session)),
                why_not=self._context.runner.why_busy,
            )
        )

    def _redo(self, session: Session, taking: _Taking) -> None:
        if taking.result.run is not None:
            self._use(session, taking, partial(self._put_in_use, session, taking.result))

    def _undo(self, session: Session, taking: _Taking) -> None:
        run, context, result = session.run, self._context, taking.result
        session.clear_adapted()
        taking.before.put_back(session)
        context.reviewed.replace(session, taking.right)
        if session is context.session:
            context.choose_settings(*taking.settings)
        if run is not taking.before.run:  # as it is where doing it again was cancelled
            folder, flow, result.run = run.folder, context.flow, run
            if flow is not None and context.case is not None and folder is not None:
                try:
                    run.keep(None)
                except RunFolderError as error:
                    run.close()
                    result.run = None
                    notify(f"{result.title} cannot be taken again. {error}")
                flow.take_back(session, folder)
        self._context.take_results()
        if session is self._context.session:
            self._context.show_mode("adapted" if session.adapted_slices else "source")
        self._context.say("The masks after are as they were.")

    def ask_saved(self) -> None:
        """Ask for the folder of a saved run and lay it beside the others."""
        folder = ask_folder(self, self._context.run_parent, "Folder of a saved run")
        if folder:
            self.add_saved(Path(folder))

    def add_saved(self, folder: Path) -> None:
        """Lay a saved run of this scan beside the others."""
        begun = self._context.runner.begin()
        if begun is not None:
            session = begun[0]
            self._context.take_results()
            ask = partial(saved_result, folder, session.scan, session.card)
            self._context.queue.ask(("methods", "saved", id(session)), ask, self._on_saved)

    # --- results arrive ----------------------------------------------------------------------

    def _on_progress(self, *_: object) -> None:
        runner = self._context.runner
        if runner.kind == "compare" and runner.session is not None:
            self._take(runner.session)

    def _take(self, session: Session) -> None:
        """Take what the job has finished so far."""
        known = self._results.setdefault(session, {})
        fresh = [one for one in self._context.runner.results if known.get(one.name) is not one]
        for result in fresh:
            known[result.name] = result
            if session is self._context.session and not self._context.closing.closing:
                self._put(result)
        if fresh:
            self._ask_dice()
            self._draw()
            self.refresh()

    def _compared(self, session: Session, _outcome: Outcome) -> None:
        self._take(session)
        context = self._context
        context.runner.tell_result(session)  # nothing is said of it since the job began
        if session is not context.session:
            return
        if not self.table.chosen():
            rows = self.table.with_results()
            first = next((row for row in rows if row.item.text(1) != "0 %"), None)
            if first is not None:
                first.item.setSelected(True)
                seen = sorted(first.result.masks)
                if seen and context.in_view() not in seen:
                    context.go_to(seen[len(seen) // 2])
        context.apply_plain_mode(session)

    def _on_saved(self, found: Found) -> None:
        session = self._context.session
        if found.error is not None:
            notify(describe(found.error))
        elif session is not None and found.key == ("methods", "saved", id(session)):
            self._results.setdefault(session, {})[found.result.name] = found.result
            self._put(found.result)
            self._ask_dice()
            self._draw()

    def _on_dice(self, found: Found) -> None:
        session = self._context.session
        if found.error is not None:
            notify(describe(found.error))
        elif session is not None and found.key == ("methods", "dice", id(session)):
            for row in self.table.with_results():
                row.result.dice = found.result.get(row.result.name, row.result.dice)
                self.table.write(row)

    def _ask_dice(self) -> None:
        """Compare all masks with the truth, if one is open, in the background."""
        session = self._context.session
        if session is None:
            return
        truth, card = self._truths.truth(session), session.card
        names = [s.name for s in card.structures if truth and s.name in truth.structures]
        self.table.name_structures(names)
        masks = {result.name: result.masks for result in self.table.results()}
        for row in self.table.with_results():
            row.result.dice = {}
            self.table.write(row)
        if truth is not None and masks:
            do = partial(dice_of_all, truth, card, masks)
            self._context.queue.ask(("methods", "dice", id(session)), do, self._on_dice)

    # --- what is shown -----------------------------------------------------------------------

    def _on_session(self) -> None:
        """Another session is in view: its results are shown, the layers of the other's go."""
        session = self._context.session
        results = {} if session is None else self._results.get(session, {})
        now = {result.name: result for result in self.table.results()}
        if session is self._shown and now == results:
            return
        self.clear()
        self._shown = session
        for result in results.values():
            self._put(result)
        self._ask_dice()
        self._draw()
        self.refresh()

    def clear(self) -> None:
        """Take away the layers; results stay with their session."""
        self._shown = None
        layers = [row.layer for row in self.table.with_results()]
        remove_layers(self._context.viewer, [*layers, self._difference])
        self.table.clear_results()

    def _put(self, result: MethodResult) -> None:
        """Give a result its line and its layer, which is hidden until it is chosen."""
        session = self._context.session
        if session is None:
            return
        row = self.table.put(result)
        remove_layers(self._context.viewer, [row.layer])
        values = dict.fromkeys(session.card.colours, row.colour)
        stack = session.scan.mask_stack(result.masks.items())
        row.layer = self._layer(session, stack, result.title, values)
        row.layer.contour = 0 if session.large else self._width(session)

    def _width(self, session: Session) -> int:
        return contour_width(session.scan, float(camera_of(self._context.viewer).zoom), 2)

    def _layer(self, session: Session, stack: np.ndarray, title: str, colours: Any) -> Any:
        viewer = self._context.viewer
        layer = labels_over(
            session.scan,
            session.scan_layer(),
            stack,
            name=free_name(viewer, f"{session.scan.name} {title}"),
            colours=colours,
            role="compared",
            visible=False,
        )
        add_quietly(viewer, layer)
        layer.editable = False
        return layer

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Show what is chosen again."""
        super().showEvent(event)
        self._come(True)

    def hideEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take what is chosen off the canvas: no words are there that it is not decided on."""
        super().hideEvent(event)
        if not event.spontaneous():
            self._come(False)

    def _come(self, in_front: bool) -> None:
        if in_front != self._in_front and not self._context.closing.closing:
            self._in_front = in_front
            self._look()

    def _look(self) -> None:
        """Show the mask of the method that is chosen, or the difference of two."""
        session, chosen = self._context.session, self.table.chosen()
        remove_layers(self._context.viewer, [self._difference])
        self._difference = None
        for row in self.table.with_results():
            if alive(self._context.viewer, row.layer):
                row.layer.visible = self._in_front and len(chosen) == 1 and row is chosen[0]
                if row.layer.visible and session is not None and not session.large:
                    row.layer.contour = self._width(session)
        if len(chosen) == 2 and session is not None and self._in_front:
            first, second = (row.result for row in chosen)
            masks = (
                (index, difference_map(mask, second.masks[index], session.card))
                for index, mask in first.masks.items()
                if index in second.masks
            )
            stack = session.scan.mask_stack(masks)
            title = f"{first.title} to {second.title}"
            self._difference = self._layer(session, stack, title, DIFFERENCE_COLOURS)
            self._difference.opacity, self._difference.visible = 0.8, True
        self._draw()
        self.refresh()

    def _draw(self, *_: object) -> None:
        """Draw the curves; by layer, those of the method that is chosen."""
        name = str(self.curve.currentData())
        rows = self.table.with_results()
        if name == LAYERS:
            rows = [row for row in (*self.table.chosen(), *rows) if _has_layers(row.result)][:1]
        self.overlay.show_runs(name, [(row.colour, row.result.records) for row in rows])

    def refresh(self, *_: object) -> None:
        """Bring buttons and words in line."""
        names, context = self.table.ticked(), self._context
        why = context.runner.why_busy() or ("" if names else "Tick at least one method.")
        why = why or ("" if context.scan is not None else "Open a scan first.")
        self.run_button.setText(f"Run {len(names)} method{'s' if len(names) != 1 else ''}")
        words = "Run what is ticked, one after another. Nothing of yours is changed."
        offer(self.run_button, tip(why), tip(words))
        words = "Make this method's masks the mask after, as if it alone had run. Undo goes back."
        offer(self.use_button, tip(self._why_no_use()), tip(words))
        there = bool(self.table.with_results())
        self.overlay.setVisible(there)
        self.curve.setEnabled(there)
        self.export_button.setEnabled(there)
        self.saved_button.setEnabled(context.scan is not None and not context.runner.busy)
        chosen = [row.result.title for row in self.table.chosen()]
        said = _ABOUT
        if there:
            said = "Click a method to see its mask; two (Ctrl) for their difference."
        if len(chosen) == 1:
            said = f"{chosen[0]}: outlines in its colour. A decision is about the mask after."
        elif len(chosen) == 2:
            said = f"From {chosen[0]} to {chosen[1]}: blue added, red removed, pink another."
        self.words.say(said)

    # --- files -------------------------------------------------------------------------------

    def ask_figure(self) -> None:
        """Ask for a file and draw what is seen into it."""
        kinds = "Picture (*.png);;Vector graphics (*.svg)"
        path, kind = QFileDialog.getSaveFileName(self, "Export the figure", "methods.png", kinds)
        if path:
            self.save_figure(Path(path if Path(path).suffix else f"{path}.{kind[-4:-1]}"))

    def save_figure(self, path: Path) -> None:
        """Draw table and curves as they are seen into a PNG or SVG file."""
        if path.suffix.lower() == ".svg":
            from qtpy.QtSvg import QSvgGenerator

            made = QSvgGenerator()
            made.setFileName(str(path))
            made.setSize(self.seen.size())
            made.setViewBox(self.seen.rect())
            painter = QPainter()
            done = painter.begin(made)
            if done:
                self.seen.render(painter)
                painter.end()
        else:
            picture = QPixmap(self.seen.size() * _SHARP)
            picture.setDevicePixelRatio(_SHARP)
            self.seen.render(picture)
            done = picture.save(str(path))
        if not done:
            notify(f"The figure could not be written to {path.name}; choose another place.")

    def ask_csv(self, usual: str) -> None:
        """Ask for a file and write the table, or the curves, to it."""
        path, _ = QFileDialog.getSaveFileName(self, "Export as CSV", usual, "CSV (*.csv)")
        if path:
            try:
                self.save_csv(Path(path), steps=usual == "curves.csv")
            except OSError as error:
                notify(f"The table: {error}")

    def save_csv(self, path: Path, *, steps: bool) -> None:
        """Write the table, or each step of each method with its figures, by layer too."""
        rows = steps_of(self.table.results()) if steps else figures_of(self.table.results())
        heads = list(dict.fromkeys(name for row in rows for name in row))
        write_csv(path, heads, [[row.get(name) for name in heads] for row in rows])


def _has_layers(result: MethodResult) -> bool:
    return any(record.layer_cosines for record in result.records)


# --- in the background -------------------------------------------------------------------------


def run_methods(
    engine: tasks.Engine, model: Path, device: str, card: Card, names: Sequence[str], **how: Any
) -> Iterator[Any]:
    """Run presets one after another, and yield a `MethodResult` for each that is finished."""
    with tasks.leave_room_for_the_interface():
        segmenter = yield from engine.load(model, device)
        runs = CandidateRuns(segmenter, presets=names, go_on=True, **how)
        scan: Scan = how["scan"]
        records: Any = runs.records()
        told = 0
        try:
            for done, _ in enumerate(records, 1):
                yield from _finished(runs, scan, card, told)
                told = len(runs.candidates)
                yield tasks.Progress(runs.now, done, runs.total)
            yield from _finished(runs, scan, card, told)
        finally:
            records.close()
        for name, why in runs.failed.items():
            yield tasks.Notice(f"{PRESETS[name].title} is left out. {why}")


def _finished(runs: CandidateRuns, scan: Scan, card: Card, told: int) -> Iterator[MethodResult]:
    for one in runs.candidates[told:]:
        run = runs.runs[one.name]
        records = run.past.without_masks()
        changed = share_changed(scan, card, run.source_masks, one.masks)
        flags = latest_flags(records)
        yield MethodResult(one.name, one.title, one.masks, records, flags, changed, run)


def saved_result(folder: Path, scan: Scan, card: Card) -> MethodResult:
    """Read a saved run, to be laid beside the others."""
    run = load_run(folder, scan)
    if run.card.colours.keys() != card.colours.keys():
        raise ValueError("That run is of a model with other structures; choose one of this model.")
    changed = share_changed(scan, card, run.source_masks, run.adapted_masks)
    title = f"Saved: {run.settings.method}, {folder.name}"
    records, flags = run.records.without_masks(), flags_of_run(run)
    return MethodResult(f"saved {folder}", title, run.adapted_masks, records, flags, changed)


def keep_result(run: AdaptationRun, folder: Path | None) -> Iterator[Any]:
    """Keep a run that becomes the result, where runs are kept."""
    yield tasks.Stage("Taking the masks over …")
    if folder is not None:
        run.keep(folder)
    yield True


def dice_of_all(truth: Truth, card: Card, masks: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return Dice to a truth by method and structure."""
    return {name: dice_to(truth, card, of_method) for name, of_method in masks.items()}
