"""Saving masks and bringing saved runs back: questions here, the work in the worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_grata.adaptation.plan import make_plan
from napari_grata.adaptation.records import Record
from napari_grata.widgets import jobs, opening
from napari_grata.widgets.session import Session
from napari_grata.widgets.words import reset_steps

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.widgets.desk import Desk
    from napari_grata.widgets.worker import Outcome


class Saving(QObject):
    """Writes masks and opens run folders.

    Parameters
    ----------
    desk : Desk
    widget : QWidget
        Over which questions are asked.

    Signals
    -------
    said(str)
        What was written.
    reopened(ReopenedRun, list)
        A run folder has been read; the list holds its records and, where it can go on, the run.
    """

    said = Signal(str)
    reopened = Signal(object, list)

    def __init__(self, desk: Desk, widget: QWidget) -> None:
        super().__init__(widget)
        self._desk = desk
        self._widget = widget
        self._session: Session | None = None
        self._started = False
        desk.runner.ended.connect(self._on_ended)

    def save(self) -> None:
        """Ask for a folder and write the masks before and after into it."""
        session = self._desk.session
        if session is None:
            return
        store = self._desk.store
        name = opening.ask_folder(
            self._widget, store.get("save_folder", ""), "Save the masks in this folder"
        )
        if name:
            store.set("save_folder", name)
            self.save_to(Path(name))

    def save_to(self, folder: Path) -> None:
        """Write the masks of the chosen scan into a folder."""
        session = self._desk.session
        if session is None or self._desk.runner.kind is not None:
            return
        stacks = session.stacks_to_save()
        there = [
            path
            for path in (jobs.mask_path(session.scan, folder, name) for name in stacks)
            if path.exists()
        ]
        if there and not self._may_replace(there):
            return
        self._desk.problem = None
        make = partial(jobs.save_masks, stacks, session.scan, folder, session.colours, bool(there))
        self._session, self._started = session, True
        self._desk.runner.task(make, "Saving masks")

    def _may_replace(self, paths: list[Path]) -> bool:
        names = ", ".join(path.name for path in paths)
        answer = QMessageBox.question(
            self._widget, "Replace masks?", f"{names} is there already. Replace it?"
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def reopen(self) -> None:
        """Ask for a run folder and bring it back."""
        store = self._desk.store
        name = opening.ask_folder(self._widget, store.get("run_folder", ""), "Open a saved run")
        if name:
            store.set("run_folder", str(Path(name).parent))
            self.reopen_from(Path(name))

    def reopen_from(self, folder: Path) -> None:
        """Bring a saved run back."""
        if self._desk.runner.kind is None:
            self._desk.problem = None
            engine = self._desk.runner.engine
            make = partial(_read_run, folder, self._desk.scan, engine)
            self._started = True
            self._desk.runner.task(make, "Opening the saved run")

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        # Other parts of the dock have tasks of their own.
        ours, self._started = self._started, False
        if kind != "task" or not ours or outcome.kind != "done":
            return
        results = self._desk.runner.results
        if results and isinstance(results[0], Path):
            if self._session is not None:
                self._session.saved = True
            files = ", ".join(path.name for path in results[:2])
            more = f" and {len(results) - 2} more" if len(results) > 2 else ""
            self.said.emit(f"Saved {files}{more} in {results[0].parent.name}.")
        elif results:
            self.reopened.emit(results[0], list(results[1:]))


def _read_run(folder: Path, scan: Scan | None, engine: jobs.Engine) -> Iterator[Any]:
    """Yield the run as its folder tells it, its records, and the live run where it can go on."""
    from napari_grata.adaptation.reopening import reopen

    run = reopen(folder)
    if run.scan is None and scan is not None:
        run.close()
        run = reopen(folder, scan)
    yield run
    yield from run.records
    if run.scan is not None and not run.missing:
        yield jobs.Stage("Loading the model …")
        # Without its model or its scan a run can still be looked at; `missing` has said so.
        with suppress(ValueError, OSError):
            yield jobs.Started(run.run(engine.get(run.card.name, "auto")))
            return
    run.close()


def fill(session: Session, run: Any, events: list[Any]) -> None:
    """Show a saved run in a session."""
    records = [event for event in events if isinstance(event, Record)]
    session.begin_segmenting(run.region)
    session.begin_adapting(run.region)
    for index, mask in run.source_masks.items():
        session.put_before(index, mask)
    for record in records:
        session.put_record(record)
    for index, mask in run.adapted_masks.items():
        session.put_after(index, mask)
    started = str(run.info.get("started", ""))[:16].replace("T", " ")
    session.reopened = f"{started}, {run.state}"
    session.settings = run.settings
    session.taken_step = run.taken
    session.run = next((e.run for e in events if isinstance(e, jobs.Started)), None)
    plan = make_plan(run.settings, run.slices, session.scan.case_of)
    session.resets = reset_steps(plan if session.run is None else session.run.plan)
    session.settle()
    session.show_after(True)
