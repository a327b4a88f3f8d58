"""What is known of the cases of a list without opening a file, kept up to date."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_grata.adaptation.run_files import fingerprint
from napari_grata.scans.files import clear_leftovers

from .casefinding import ListError
from .cases import STATE_OF_VERDICT, Case, CaseState, CaseSummary, Progress, file_marks
from .casework import CaseWork
from .decisions import DecisionLog, Fact
from .listchoices import ListChoices

if TYPE_CHECKING:
    from napari_grata.scans import Scan

_CHANGED = (
    "The file has changed since this case was adapted. What is shown may not fit it; adapt the "
    "case again."
)
_MISSING = (
    "The file of this case is not where it was. Connect its drive or put it back; what was done "
    "on the case is kept."
)


class KnownCases(ListChoices):
    """The cases of a list: their states, summaries and folders.

    Parameters
    ----------
    folder : Path
        The list's.
    cases : sequence of Case
    decisions : DecisionLog

    Attributes
    ----------
    cases : tuple of Case
        In order.
    decisions : DecisionLog
    """

    def __init__(self, folder: Path, cases: Sequence[Case], decisions: DecisionLog) -> None:
        super().__init__(folder)
        self.decisions = decisions
        self.notices += decisions.notices
        self._summaries: dict[str, CaseSummary | None] = {}
        self._works: dict[str, CaseWork] = {}
        self._problems: dict[str, str] = {}
        self._busy: set[str] = set()
        self._know(cases)
        if self.writable:
            clear_leftovers([self.folder])
        self.refresh()

    def _know(self, cases: Sequence[Case]) -> None:
        self.cases: tuple[Case, ...] = tuple(cases)
        self._by_key = {case.key: case for case in self.cases}
        for case in self.cases:
            self._summaries.setdefault(case.key, None)

    @property
    def writable(self) -> bool:
        """Whether this program may write to the list."""
        return self.decisions.read_only is None

    def __len__(self) -> int:
        return len(self.cases)

    def case(self, key: str) -> Case:
        """Return the case with this code.

        Raises
        ------
        KeyError
        """
        return self._by_key[key]

    def state(self, case: Case | str) -> CaseState:
        """Return where a case stands; opens no file."""
        key = _key(case)
        decision = self.decisions.current(key).get(None)
        if decision is not None:
            return STATE_OF_VERDICT[decision.verdict]
        summary = self._summaries.get(key)
        if key in self._problems or (summary is not None and summary.error):
            return CaseState.FAILED
        if summary is None:
            return CaseState.NEW
        if summary.adapted:
            return CaseState.FLAGGED if summary.flags else CaseState.ADAPTED
        return CaseState.SEGMENTED if summary.segmented else CaseState.NEW

    def summary(self, case: Case | str) -> CaseSummary | None:
        """Return what is known of a case; opens no file."""
        return self._summaries.get(_key(case))

    def problem(self, case: Case | str) -> str | None:
        """Return why a case cannot be opened or could not be done, None if all is well."""
        key = _key(case)
        summary = self._summaries.get(key)
        return self._problems.get(key) or (summary.error if summary is not None else None)

    def missing(self, case: Case | str) -> str | None:
        """Return a sentence where the case's file was not found at the last `refresh`."""
        return self._problems.get(_key(case))

    @contextlib.contextmanager
    def busy(self, key: str) -> Iterator[None]:
        """Mark a case as being adapted, so that no one else of this program does it too.

        Raises
        ------
        ListError
            If it is.
        """
        with self._mutex:
            if key in self._busy:
                raise ListError(f"Case {self._by_key[key].number} is being adapted already.")
            self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    def work(self, case: Case | str) -> CaseWork:
        """Return the folder of a case."""
        key = _key(case)
        with self._mutex:
            if key not in self._works:
                if key not in self._by_key:
                    raise KeyError(key)

                def changed(summary: CaseSummary | None) -> None:
                    self._summaries[key] = self._checked(self._by_key[key], summary)

                self._works[key] = CaseWork(self.folder / "cases" / key, changed)
            return self._works[key]

    def progress(self) -> Progress:
        """Count the cases by state; opens no file."""
        states = [self.state(case) for case in self.cases]
        counts = Counter(states)
        summaries = [self._summaries.get(case.key) for case in self.cases]
        return Progress(
            total=len(states),
            decided=sum(state.decided for state in states),
            prepared=sum(summary is not None and summary.adapted for summary in summaries),
            flagged=counts[CaseState.FLAGGED],
            failed=counts[CaseState.FAILED],
            counts=dict(counts),
        )

    def facts(self, case: Case | str) -> dict[str, Fact]:
        """Return what a decision on a case rests on, for `DecisionLog.decide`."""
        return self.work(case).facts()

    # -- the disk --------------------------------------------------------------------------

    def refresh(self, case: Case | str | None = None) -> None:
        """Read summaries again, and look which files are there and unchanged."""
        cases = self.cases if case is None else (self._by_key[_key(case)],)
        there = set()
        with contextlib.suppress(OSError):
            there = {entry.name for entry in os.scandir(self.folder / "cases")}
        for entry in cases:
            if entry.sources and not all(path.is_file() for path in entry.sources):
                self._problems[entry.key] = _MISSING
            else:
                self._problems.pop(entry.key, None)
            if entry.key in there:
                work = self.work(entry)
                if self.writable:
                    clear_leftovers([work.folder])
                self._summaries[entry.key] = self._checked(entry, work.summary)
                self.notices += [text for text in work.notices if text not in self.notices]
            else:
                self._summaries[entry.key] = None

    def confirm(self, case: Case | str, scan: Scan) -> bool:
        """Compare an opened scan with what the case's summary was made from.

        A file that was only copied or touched counts as unchanged from then on.

        Returns
        -------
        bool
            Whether the summary holds for this scan.
        """
        key = _key(case)
        summary = self._summaries.get(key)
        if summary is None or not summary.scan_sha256:
            return False
        if fingerprint(scan) != summary.scan_sha256:
            self._summaries[key] = summary.but(stale=_CHANGED)
            return False
        if summary.stale and self.writable:
            with contextlib.suppress(ListError):
                self.work(key).write_summary(
                    summary.but(files=file_marks(self._by_key[key].sources))
                )
        return True

    def _checked(self, case: Case, summary: CaseSummary | None) -> CaseSummary | None:
        """Say so in a summary if its file has another size or date than then."""
        if summary is None or not summary.files:
            return summary
        marks = file_marks(case.sources)
        return summary if not marks or marks == summary.files else summary.but(stale=_CHANGED)


def _key(case: Case | str) -> str:
    return case if isinstance(case, str) else case.key
