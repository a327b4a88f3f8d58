"""Step *Take out*: masks, the report, the decided masks of a list, and the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QCheckBox, QFileDialog, QMessageBox, QWidget

from napari_grata.review.final_masks import legend_of
from napari_grata.review.reproduce import ReproduceError, adapt_command, again_command
from napari_grata.scans.masks import formats_for, mask_target
from napari_grata.scans.scan import counted
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Outcome
from napari_grata.widgets.context import Context
from napari_grata.widgets.current_case import show_saved_run
from napari_grata.widgets.qt_parts import (
    Sentence,
    ask_folder,
    button,
    choice,
    column_in,
    copy_text,
    line_in,
    row,
)
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.report import ReportCase
    from napari_grata.scans import Scan
    from napari_grata.scans.scan import Label

REPORT_ENDINGS = (".html", ".htm")
_FORMATS = {
    "nifti": "NIfTI (.nii.gz)",
    "dicom-seg": "DICOM segmentation (.dcm)",
    "nrrd": "NRRD (.nrrd)",
    "seg-nrrd": "3D Slicer (.seg.nrrd)",
    "mha": "MetaImage (.mha)",
    "png": "PNG (.png)",
}


def save_masks(
    stacks: Mapping[Path, np.ndarray], scan: Scan, legend: Mapping[int, Label], overwrite: bool
) -> Iterator[Path]:
    """Write each stack to its path, on the scan's own grid."""
    from napari_grata.scans import write_mask

    for path, stack in stacks.items():
        yield from write_mask(stack, scan, path, legend=legend, overwrite=overwrite)


def write_report_of(what: CaseList | ReportCase, path: Path, overwrite: bool) -> Iterator[Any]:
    """Write the report of a whole list or of one case; yields its path."""
    from napari_grata.review.report import ReportCase, report_cases, write_report

    if isinstance(what, ReportCase):
        yield tasks.Stage("Writing the report …")
        yield write_report(path, [what], overwrite=overwrite)
    else:
        yield tasks.Stage(f"Writing the report of {counted(len(what), 'case')} …")
        yield write_report(path, report_cases(what), overwrite=overwrite)


def write_decided_masks(folder: Path, caselist: CaseList, names: bool, kind: str) -> Iterator[Any]:
    """Write the decided masks of a list; yields one result a case."""
    from napari_grata.review.final_masks import export_masks

    for found in export_masks(caselist, folder, scan_names=names, mask_format=kind):
        yield tasks.Stage(f"Writing the decided masks: {found.key} …")
        yield found


class ExportSection(QWidget):
    """Everything that leaves the program, and only when the user asks."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._written: Path | None = None
        self._offered: Scan | None = None
        self._build()
        context.changed.connect(self.refresh)
        context.list_changed.connect(self.refresh)
        context.save_requested.connect(self.ask_save)
        context.open_requested.connect(self._on_open)
        self.refresh()

    def _build(self) -> None:
        self.save_button = button(
            "Save masks …",
            "Write the masks before and after, with what you drew, on the scan's own grid. "
            "Nothing that exists is replaced unless you say so.",
            clicked=self.ask_save,
        )
        self.report_button = button(
            "Report …",
            "One file with pictures before and after, curves, decisions, settings and versions. "
            "It opens in any browser, without a network, and prints well. Cases carry codes, no "
            "names.",
            clicked=self.ask_report,
        )
        self.masks_button = button(
            "Decided masks …",
            "Of all cases of the list: the masks that were accepted, kept or drawn, each on its "
            "scan's own grid, and a table of all cases.",
            clicked=self.ask_decided_masks,
        )
        self.command_button = button(
            "Copy command",
            "Copy the command line that makes the same masks again. It holds the scan's path.",
            clicked=self.copy_command,
        )
        self.names = QCheckBox("Name after scans")
        self.names.setToolTip(
            "Name masks after their scans, which may name patients; otherwise they are named "
            "case-0001 …"
        )
        self.format = choice(name="Format", entries=[("As the scan", "")])
        self.said = Sentence(2, "grata_small")
        self.show_button = button("Show", "Open what was written.", small=True, clicked=self._show)
        self.show_button.hide()
        layout = column_in(self, row("Format", self.format, tip="What masks are written as."))
        line_in(layout, (self.save_button, 1), (self.report_button, 1))
        line_in(layout, (self.masks_button, 1), (self.command_button, 1))
        line_in(layout, (self.names, 1))
        line_in(layout, (self.said, 1), self.show_button)

    def refresh(self) -> None:
        """Switch buttons on where there is something to take out."""
        context, session = self._context, self._context.session
        self._offer_formats(session.scan if session is not None else None)
        at_rest, listed = not context.runner.busy, context.caselist is not None
        there = session is not None and session.has_masks
        adapted = session is not None and bool(session.adapted_slices)
        self.save_button.setEnabled(at_rest and there)
        self.report_button.setEnabled(at_rest and (adapted or listed))
        self.masks_button.setVisible(listed)
        self.masks_button.setEnabled(at_rest)
        self.command_button.setEnabled(adapted)

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Only now look which formats there are: asking for them loads what writes them."""
        super().showEvent(event)
        self.refresh()

    def _offer_formats(self, scan: Scan | None) -> None:
        """Offer what can keep the masks of the scan in view."""
        if scan is self._offered or (scan is not None and not self.isVisible()):
            return
        self._offered = scan
        while self.format.count() > 1:
            self.format.removeItem(1)
        for kind in formats_for(scan) if scan is not None else ():
            self.format.addItem(_FORMATS[kind], kind)

    def say(self, text: str, written: Path | None = None) -> None:
        """Say what became of it."""
        self._written = written
        self.said.say(text)
        self.show_button.setVisible(written is not None)

    # --- masks -------------------------------------------------------------------------------

    def ask_save(self) -> None:
        """Ask for a folder and write source and adapted masks into it."""
        folder = self._ask_folder("save_folder", "Save the masks in this folder")
        if folder is not None:
            self.save_to(folder)

    def _ask_folder(self, key: str, title: str) -> Path | None:
        """Ask for a folder, beginning where the user was the last time."""
        store = self._context.store
        name = ask_folder(self, store.get(key, ""), title)
        if name:
            store.set(key, name)
        return Path(name) if name else None

    def save_to(self, folder: Path) -> None:
        """Write the masks of the scan in view into a folder."""
        context, session = self._context, self._context.session
        if session is None or context.runner.busy:
            return
        scan = session.scan
        case = context.case
        stem = scan.name if self.names.isChecked() else case.key if case else "case-0001"
        kind = str(self.format.currentData())
        stacks = {
            mask_target(scan, folder, f"{stem} {role}", kind): mask.as_shown()
            for role, mask in session.masks().items()
        }
        there = [path for path in stacks if path.exists()]
        if there and not self._may_replace(there):
            return
        make = partial(save_masks, stacks, scan, legend_of(session.card), bool(there))
        self._start(make, "Saving masks", partial(self._say_saved, session))

    def _may_replace(self, paths: list[Path]) -> bool:
        names = ", ".join(path.name for path in paths)
        answer = QMessageBox.question(
            self, "Replace masks?", f"{names} is there already. Replace it?"
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def ask_decided_masks(self) -> None:
        """Ask for a folder that holds none yet, and write the decided masks of the list into it."""
        folder = self._ask_folder("masks_folder", "An empty folder for the decided masks")
        caselist = self._context.caselist
        if folder is not None and caselist is not None and self._context.drawings_are_safe():
            kind = str(self.format.currentData())
            make = partial(write_decided_masks, folder, caselist, self.names.isChecked(), kind)
            self._start(make, "Writing the decided masks", self._say_decided)

    # --- the report --------------------------------------------------------------------------

    def ask_report(self) -> None:
        """Ask where to, and which cases, and write the report."""
        store = self._context.store
        start = Path(store.get("report_folder", "")) / "report.html"
        name, _ = QFileDialog.getSaveFileName(
            self, "Write the report", str(start), "Report (*.html)"
        )
        if not name:
            return
        store.set("report_folder", str(Path(name).parent))
        whole = self._ask_whole_list()
        if whole is not None:
            # The dialog has asked about the very file that was named, not about another ending.
            asked = Path(name).suffix.lower() in REPORT_ENDINGS
            self.write_report_to(Path(name), whole_list=whole, overwrite=asked)

    def _ask_whole_list(self) -> bool | None:
        """Return whether the report is of the whole list; None: of nothing, the user says."""
        context, session = self._context, self._context.session
        if context.caselist is None:
            return False
        if session is None or not session.adapted_slices:
            return True
        box = QMessageBox(self)
        box.setWindowTitle("Report")
        box.setText("Which cases should the report hold?")
        everything = box.addButton("The whole list", QMessageBox.ButtonRole.AcceptRole)
        one = box.addButton("This case", QMessageBox.ButtonRole.AcceptRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        return {id(everything): True, id(one): False}.get(id(box.clickedButton()))

    def write_report_to(
        self, path: Path, *, whole_list: bool = False, overwrite: bool = False
    ) -> None:
        """Write the report of the case in view, or of the whole list."""
        context = self._context
        if context.runner.busy or not context.drawings_are_safe():
            return
        what: CaseList | ReportCase | None = context.caselist if whole_list else None
        if what is None and context.session is not None:
            what = self._report_case(context.session)
        if what is not None:
            make = partial(write_report_of, what, path, overwrite)
            self._start(make, "Writing the report", self._say_report)

    def _report_case(self, session: Session) -> ReportCase:
        """Return what is shown now as a case of a report; copies what may still change."""
        from napari_grata.adaptation.run_files import versions
        from napari_grata.adaptation.run_store import RunFolderError, read_info
        from napari_grata.review.final_masks import CaseMasks
        from napari_grata.review.report import ReportCase, decisions_of

        scan, card = session.scan, session.card
        adapted = _masks_in(scan, session.adapted.stack, session.adapted_slices)
        source = _masks_in(scan, session.source.stack, session.segmented_slices)
        masks = CaseMasks(scan, source, adapted, edited=session.adapted.as_shown())
        key, state, shift = "case-0001", "", ""
        found = self._context.decision_list
        if found is not None:
            caselist, key = found
            state = caselist.state(key).value
            summary = caselist.summary(key)
            shift = summary.shift_words if summary is not None else ""
        info: dict[str, Any] = {}
        if session.run is not None and session.run.folder is not None:
            with suppress(RunFolderError):
                info = dict(read_info(session.run.folder))
        if not info and session.settings is not None:
            info = {
                "settings": session.settings.to_dict(),
                "versions": versions(session.settings.method),
                "model": {
                    "name": card.name,
                    "version": card.version,
                    "weights_sha256": card.weights_sha256,
                },
            }
        told = ReportCase(
            code=key,
            state=state,
            card=card,
            masks=masks,
            records=list(session.records),
            flags=dict(session.flags),
            info=info,
            shift=shift,
        )
        return told if found is None else replace(told, decisions=decisions_of(found[0], told))

    # --- the command -------------------------------------------------------------------------

    def copy_command(self) -> None:
        """Copy the command line that makes these masks again."""
        session = self._context.session
        if session is None or not session.adapted_slices:
            return
        try:
            line = self._command(session)
        except ReproduceError as error:
            self.say(str(error))
            return
        copy_text(line)
        self.say("The command line is in the clipboard. It holds the path of the scan.")

    def _command(self, session: Session) -> str:
        run, settings = session.run, session.settings
        folder = run.folder if run is not None else None
        # What one command line can say: a run from the source model to its end.
        alone = run is None or not (
            run.continued
            or run.corrections.slices
            or run.cut
            or run.chosen
            or run.taken is not None
        )
        if settings is None or not alone:
            if folder is None:
                raise ReproduceError(
                    "This run went on from another one and has no folder of its own. Keep runs "
                    "(step Adapt) or work in a case list, then copy the command."
                )
            return again_command(folder)
        entry = self._context.entry
        model = entry.name if entry is not None else session.card.name
        if entry is not None and entry.origin not in ("bundled", "user"):
            model = str(entry.folder)
        slices = list(run.slices) if run is not None else sorted(session.adapted_slices)
        return adapt_command(session.scan, model, settings, slices=slices, region=session.region)

    # --- saved runs --------------------------------------------------------------------------

    def _on_open(self, what: str) -> None:
        if what != "run":
            return
        context = self._context
        name = ask_folder(self, context.store.get("run_folder", ""), "Open a saved run")
        if name:
            context.store.set("run_folder", str(Path(name).parent))
            self.open_run(Path(name))

    def open_run(self, folder: Path) -> None:
        """Bring a saved run back into the viewer."""
        try:
            show_saved_run(self._context, folder)
        except (ValueError, OSError) as error:
            self._context.fail(str(error))

    # --- inside ------------------------------------------------------------------------------

    def _start(self, make: Any, title: str, tell: Callable[[list[Any]], None]) -> None:
        self.say("")
        self._context.runner.start("task", None, make, title, partial(self._on_ended, tell))

    def _on_ended(self, tell: Callable[[list[Any]], None], outcome: Outcome) -> None:
        results = self._context.runner.results
        if outcome.kind == "done" and results:
            tell(results)

    def _say_decided(self, results: list[Any]) -> None:
        written = [one for one in results if one.path is not None]
        left = [one for one in results if one.path is None]
        said = f"Wrote {len(written)} of {len(results)} masks, and cases.csv."
        if left:
            said += f" Not {left[0].key}: {left[0].reason}"
        self.say(said, written[0].path.parent if written else None)

    def _say_report(self, results: list[Path]) -> None:
        self.say(f"Wrote {results[-1].name}.", results[-1])

    def _say_saved(self, session: Session, results: list[Path]) -> None:
        session.saved = "taken out"
        files = ", ".join(path.name for path in results[:2])
        more = f" and {len(results) - 2} more" if len(results) > 2 else ""
        self.say(f"Saved {files}{more} in {results[0].parent.name}.", results[0].parent)

    def _show(self) -> None:
        if self._written is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._written)))


def _masks_in(scan: Scan, stack: np.ndarray, slices: Iterable[int]) -> dict[int, np.ndarray]:
    """Return copies of some slices' label maps."""
    return {index: scan.get_mask(stack, index).copy() for index in sorted(slices)}
