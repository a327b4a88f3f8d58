"""Writes reports and masks in the worker, and fills the clipboard."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QUrl
from qtpy.QtGui import QDesktopServices, QGuiApplication
from qtpy.QtWidgets import QFileDialog, QMessageBox

from napari_grata.review.report.words import REPORT_ENDINGS
from napari_grata.review.reproduce import ReproduceError, adapt_command, again_command
from napari_grata.widgets import opening
from napari_grata.widgets.take_out.section import TakeOutSection
from napari_grata.widgets.take_out.tasks import (
    case_of_session,
    masks_of_list,
    report_of_case,
    report_of_list,
)

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.widgets.worker import Outcome


class TakeOut(QObject):
    """Writes reports and masks in the worker, and fills the clipboard.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self.section = TakeOutSection()
        dock.slots.take_out.add(self.section)
        self._waiting = ""
        self._written: Path | None = None
        self.section.report_wanted.connect(self.ask_report)
        self.section.masks_wanted.connect(self.ask_masks)
        self.section.command_wanted.connect(self.copy_command)
        self.section.show_wanted.connect(self._show)
        dock.desk.changed.connect(self.refresh)
        dock.desk.runner.ended.connect(self._on_ended)
        self.refresh()

    # --- what can be done -------------------------------------------------------------------

    @property
    def caselist(self) -> CaseList | None:
        """The list that is open, if one is."""
        found: CaseList | None = self._dock.cases.list
        return found

    def refresh(self) -> None:
        """Switch buttons on where there is something to take out."""
        session, at_rest = self._dock.desk.session, self._dock.desk.runner.kind is None
        listed = self.caselist is not None
        adapted = session is not None and bool(session.adapted)
        self.section.report_button.setEnabled(at_rest and (adapted or listed))
        self.section.masks_button.setEnabled(at_rest and listed)
        self.section.names.setEnabled(listed)
        self.section.command_button.setEnabled(adapted)

    def say(self, text: str, written: Path | None = None) -> None:
        """Say what became of it."""
        self._written = written
        self.section.said.say(text)
        self.section.show_button.setEnabled(written is not None)

    # --- the report -------------------------------------------------------------------------

    def ask_report(self) -> None:
        """Ask where to, and which cases, and write the report."""
        store = self._dock.desk.store
        start = Path(store.get("report_folder", "")) / "report.html"
        name, _ = QFileDialog.getSaveFileName(
            self._dock, "Write the report", str(start), "Report (*.html)"
        )
        if not name:
            return
        store.set("report_folder", str(Path(name).parent))
        whole = self.caselist is not None and self._whole_list()
        # The dialog has asked about the very file that was named, not about one with an ending.
        asked = Path(name).suffix.lower() in REPORT_ENDINGS
        self.write_report_to(Path(name), whole_list=whole, overwrite=asked)

    def _whole_list(self) -> bool:
        assert self.caselist is not None
        if self._dock.desk.session is None or not self._dock.desk.session.adapted:
            return True
        box = QMessageBox(self._dock)
        box.setWindowTitle("Report")
        box.setText("Which cases should the report hold?")
        everything = box.addButton("The whole list", QMessageBox.ButtonRole.AcceptRole)
        box.addButton("This case", QMessageBox.ButtonRole.RejectRole)
        box.exec()
        return bool(box.clickedButton() is everything)

    def write_report_to(
        self, path: Path, *, whole_list: bool = False, overwrite: bool = False
    ) -> None:
        """Write the report of the case in view, or of the whole list."""
        dock = self._dock
        if dock.desk.runner.kind is not None:
            return
        self._save_drawing()
        if whole_list and self.caselist is not None:
            make = partial(report_of_list, path, self.caselist, overwrite)
        elif dock.desk.session is not None:
            case = case_of_session(dock)
            make = partial(report_of_case, path, case, overwrite)
        else:
            return
        self._start(make, "Writing the report", "report")

    # --- masks -------------------------------------------------------------------------------

    def ask_masks(self) -> None:
        """Ask for a folder and write the decided masks of the list into it."""
        store = self._dock.desk.store
        name = opening.ask_folder(
            self._dock, store.get("masks_folder", ""), "An empty folder for the decided masks"
        )
        if name:
            store.set("masks_folder", name)
            self.write_masks_to(Path(name))

    def write_masks_to(self, folder: Path) -> None:
        """Write the decided masks of the list into a folder that holds none yet."""
        caselist = self.caselist
        if caselist is None or self._dock.desk.runner.kind is not None:
            return
        self._save_drawing()
        names = self.section.names.isChecked()
        make = partial(masks_of_list, folder, caselist, names)
        self._start(make, "Writing the decided masks", "masks")

    # --- the command -------------------------------------------------------------------------

    def copy_command(self) -> None:
        """Copy the command line that makes these masks again."""
        session = self._dock.desk.session
        if session is None or not session.adapted:
            return
        try:
            line = self._command(session)
        except ReproduceError as error:
            self.say(str(error))
            return
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(line)
        self.say("The command line is in the clipboard. It holds the path of the scan.")

    def _command(self, session: Any) -> str:
        run, settings = session.run, session.settings
        folder = getattr(run, "folder", None)
        # What one command line can say: a run from the source model to its end.
        alone = run is None or not (
            run.continued or run.corrections.slices or run.cut or run.taken is not None
        )
        if settings is None or not alone:
            if folder is None:
                raise ReproduceError(
                    "This run went on from another one and has no folder of its own. Keep the "
                    "run (Advanced) or work in a case list, then copy the command."
                )
            return again_command(folder)
        entry = self._dock.desk.entry
        model = entry.name if entry is not None else session.card.name
        if entry is not None and entry.origin not in ("bundled", "user"):
            model = str(entry.folder)
        slices = list(run.slices) if run is not None else sorted(session.adapted)
        return adapt_command(session.scan, model, settings, slices=slices, region=session.region)

    # --- inside -------------------------------------------------------------------------------

    def _save_drawing(self) -> None:
        self._dock.decide.save_edits()

    def _start(self, make: Any, title: str, what: str) -> None:
        self._dock.desk.problem = None
        self._waiting = what
        self.say("")
        self._dock.desk.runner.task(make, title)

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        what, self._waiting = self._waiting, ""
        if kind != "task" or not what or outcome.kind != "done":
            return
        results = self._dock.desk.runner.results
        if what == "report" and results:
            self.say(f"Wrote {results[-1].path.name}.", results[-1].path)
        elif what == "masks":
            written = [one for one in results if one.path is not None]
            left = [one for one in results if one.path is None]
            said = f"Wrote {len(written)} of {len(results)} masks, and cases.csv."
            if left:
                said += f" Not {left[0].key}: {left[0].reason}"
            self.say(said, written[0].path.parent if written else None)

    def _show(self) -> None:
        if self._written is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._written)))
