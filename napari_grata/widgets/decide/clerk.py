"""Fetches the docket of the scan in view, in a worker, and puts the last one away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, Signal

from napari_grata.widgets.decide.docket import Docket, find
from napari_grata.widgets.worker import Job, Outcome

Wanted = tuple[Any, Any, "str | None"]


class Clerk(QObject):
    """Knows where decisions on the scan in view go.

    Parameters
    ----------
    dock : GrataDock
    before_leaving : callable
        Called before the docket of another scan is taken, such as to write what was drawn.

    Signals
    -------
    arrived()
        There is another docket, or none.
    """

    arrived = Signal()

    def __init__(self, dock: Any, before_leaving: Callable[[], object]) -> None:
        super().__init__(dock)
        self._dock = dock
        self._before_leaving = before_leaving
        self.docket: Docket | None = None
        self._waiting: list[Docket] = []
        self.problem = ""
        self._asked: Wanted = (None, None, None)
        self._again = False
        self.job = Job(self)
        self.job.batch.connect(self._found)
        self.job.ended.connect(self._ended)
        dock.ties.at_end(self.job.token.end)

    def look(self) -> None:
        """Fetch the docket of the scan in view, if it is not the one that is here."""
        wanted = self._wanted()
        if _same(wanted, self._asked) and not self._again:
            return
        self._put_away()
        if self.job.running:
            self._again = True
            return
        self._asked, self._again = wanted, False
        kept = next((known for known in self._waiting if known.scan is wanted[0]), None)
        if kept is not None:
            self._waiting.remove(kept)
            self._found([kept])
        elif wanted[0] is not None:
            self.job.start(partial(find, *wanted))

    def start_anew(self) -> None:
        """Forget what was found, and look again."""
        self._put_away()
        self._asked = (None, None, None)
        self.look()

    @property
    def unsaved(self) -> int:
        """How many decisions are not on the disk yet, those on scans left since included."""
        return sum(len(docket.log.unsaved) for docket in self._all())

    def retry(self) -> None:
        """Write what could not be written before.

        Raises
        ------
        DecisionError
            If it still cannot be; it is kept.
        """
        for docket in self._all():
            if docket.log.unsaved:
                docket.log.retry()
        self._waiting = [docket for docket in self._waiting if docket.log.unsaved]

    def _all(self) -> list[Docket]:
        return [*self._waiting, *([self.docket] if self.docket is not None else [])]

    def cases(self) -> Any:
        """Return the dock's case list where the scan in view belongs to it, else None."""
        if self.docket is None or self.docket.alone:
            return None
        return getattr(self._dock, "cases", None)

    def _wanted(self) -> Wanted:
        """Return scan, list and code of the case that are in view."""
        scan = self._dock.desk.scan
        caselist = getattr(getattr(self._dock, "cases", None), "list", None)
        if scan is None or caselist is None:
            return scan, None, None
        if _same((scan, caselist), self._asked[:2]):
            return self._asked
        paths = {scan.path, scan.slice_path(0)}
        for case in caselist.cases:
            if paths & set(case.sources):
                return scan, caselist, case.key
        return scan, None, None

    def _put_away(self) -> None:
        if self.docket is not None:
            self._before_leaving()
            if self.docket.log.unsaved:
                self._waiting.append(self.docket)
            else:
                self.docket.close()
            self.docket, self.problem = None, ""
            self.arrived.emit()

    def _found(self, items: list[Docket]) -> None:
        for docket in items:
            if docket.scan is not self._asked[0]:
                docket.close()
                continue
            self.docket, self.problem = docket, docket.problem
            for notice in (*docket.notices, docket.problem):
                if notice:
                    show_warning(notice)
            self.arrived.emit()

    def _ended(self, outcome: Outcome) -> None:
        if outcome.kind == "failed":
            self.problem = outcome.message
            show_error(outcome.message)
        if self._again:
            self.look()


def _same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return all(
        a is b or (isinstance(a, str) and a == b) for a, b in zip(first, second, strict=True)
    )
