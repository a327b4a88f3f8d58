"""Runs on the case in view: where they are kept, and the one read back made live again."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer

from napari_grata.review.cases import ListError
from napari_grata.widgets.cases.errands import Errands, Found
from napari_grata.widgets.cases.loading import SharedEngine, revive

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.widgets.cases.feature import Cases
    from napari_grata.widgets.session import Session
    from napari_grata.widgets.worker import Outcome

_REVIVE_MS = 500


class CaseRuns(QObject):
    """Keeps what the person's own runs bring, and revives the run of the case in view.

    Parameters
    ----------
    cases : Cases
    dock : GrataDock
    engine : SharedEngine
    """

    def __init__(self, cases: Cases, dock: Any, engine: SharedEngine) -> None:
        super().__init__(cases)
        self._cases, self._dock, self._engine = cases, dock, engine
        self.errands = Errands("runs", self)
        self.errands.found.connect(self._on_found)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_REVIVE_MS)
        self._soon.timeout.connect(self._revive)
        dock.desk.runner.ended.connect(self._on_ended)
        dock.desk.place = partial(_place, weakref.ref(self))
        dock.ties.at_end(self.errands.end())

    # --- making live ---------------------------------------------------------------------------

    def revive_soon(self) -> None:
        """Make the run in view live, once the person stays with its case."""
        self._soon.start()

    def _revive(self) -> None:
        shelf = self._cases.shelf
        session, folder, scan = shelf.session(), shelf.run_folder, shelf.scan
        if session is None or folder is None or scan is None or session.run is not None:
            return
        if session.busy or self._dock.desk.runner.kind is not None:
            self._soon.start()
            return
        device = self._dock.model.device_key()
        self.errands.keep_only(())
        do = partial(revive, folder, session.card.name, scan, self._engine, device)
        self.errands.ask((shelf.key, folder), do)

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            return  # `missing` of the run has said why; it can be looked at all the same
        shelf = self._cases.shelf
        session = shelf.session()
        here = (shelf.key, shelf.run_folder)
        if session is None or found.key != here or session.run is not None or session.busy:
            found.result.close()
            return
        session.run = found.result
        self._dock.steps.offer()
        self._dock.desk.changed.emit()

    # --- keeping -------------------------------------------------------------------------------

    def place(self, session: Session) -> Path | None:
        """Return the folder for a run on the case in view; None if it is no case of the list."""
        cases, shelf = self._cases.list, self._cases.shelf
        if cases is None or shelf.key is None or session.scan is not shelf.scan:
            return None
        self._cases.ahead.leave(shelf.key)
        try:
            return cases.work(shelf.key).new_run_folder()
        except ListError as error:
            show_error(f"This run is not kept with its case. {error}")
            return None

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        """Keep what came of a run on the case in view."""
        session = self._dock.desk.runner.session
        if kind in ("adapt", "again") and outcome.kind == "done" and session is not None:
            self.keep(session)

    def keep(self, session: Session) -> None:
        """Keep a session's run as it is now with the case in view, if it is that case's."""
        cases, shelf = self._cases.list, self._cases.shelf
        if cases is None or session.run is None or shelf.key is None:
            return
        run = session.run
        if session.scan is not shelf.scan or run.folder is None:
            return
        if Path(run.folder).parent != cases.work(shelf.key).folder:
            return
        shelf.run_folder, session.saved = Path(run.folder), True
        do = partial(_keep, cases, cases.case(shelf.key), run)
        self._cases.errands.ask(("keep", shelf.key), do)


def _keep(cases: CaseList, case: Case, run: Any) -> None:
    from napari_grata.review.adapt_list import keep_run

    keep_run(cases, case, run)


def _place(runs: weakref.ref[CaseRuns], session: Session) -> Path | None:
    found = runs()
    return None if found is None else found.place(session)
