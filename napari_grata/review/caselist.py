"""A list of cases to get through: kept on the disk, goes on exactly where it was."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_grata.adaptation.runfolder import fingerprint

from .casefinding import ListError
from .cases import (
    STATE_OF_VERDICT,
    Case,
    CaseState,
    CaseSummary,
    Progress,
    file_marks,
)
from .casework import CaseWork
from .decisions import DecisionLog, Fact
from .listchoices import ListChoices
from .listfile import (
    DECISIONS_FILE,
    LIST_FILE,
    RecentList,
    all_sources,
    identity_of,
    lists_dir,
    numbered,
    read_case,
    read_list,
    recent_list,
    title_of,
    write_list,
)
from .safefiles import clear_leftovers

if TYPE_CHECKING:
    from napari_grata.scans import Scan

__all__ = ["Case", "CaseList", "CaseState", "CaseSummary", "ListError", "RecentList"]

_open: weakref.WeakValueDictionary[str, CaseList] = weakref.WeakValueDictionary()
_opening = threading.RLock()


class CaseList(ListChoices):
    """Cases in a fixed order, each with its own folder; what was decided; how to adapt them.

    Made with `make`, `load` or `case_of_scan`. While one is open in this program, opening the
    same again gives the same object.

    Attributes
    ----------
    folder : Path
        ``list.json`` in it holds the cases' files and may identify patients; nothing else does.
    cases : tuple of Case
        In order; a case never changes its number.
    decisions : DecisionLog
    model, settings, carry, position, save_problem
        See `ListChoices`.
    notices : list of str
        What the person should know, a sentence each.
    """

    def __init__(self, folder: Path, *, take_over: bool = False) -> None:
        # Called by `load` alone.
        super().__init__(Path(folder))
        values = read_list(self.folder)
        self._roots = [Path(root) for root in values["roots"]]
        self._identity = str(values["identity"])
        self.cases = tuple(read_case(entry) for entry in values["cases"])
        self._by_key = {case.key: case for case in self.cases}
        self.decisions = DecisionLog(self.folder / DECISIONS_FILE, take_over=take_over)
        self.notices += self.decisions.notices
        self._summaries: dict[str, CaseSummary | None] = {}
        self._works: dict[str, CaseWork] = {}
        self._problems: dict[str, str] = {}
        self._busy: set[str] = set()
        if self.writable:
            clear_leftovers([self.folder])
        self.refresh()

    # -- opening ---------------------------------------------------------------------------

    @classmethod
    def make(
        cls, sources: str | Path | Sequence[str | Path], folder: str | Path | None = None
    ) -> CaseList:
        """Make a list of cases, or go on with the one that was made of these sources before.

        Parameters
        ----------
        sources : path or sequence of paths
            A folder (scans in its sub-folders too), a file, or several of either; each file is a
            case. Scans that are new in a folder come at the end, with new numbers.
        folder : path, optional
            Where the list is kept; by default among the user's own data.

        Raises
        ------
        ListError
            If there are no scans, or the list's folder cannot be written.
        """
        given = [sources] if isinstance(sources, str | Path) else list(sources)
        roots = [Path(os.path.abspath(Path(source).expanduser())) for source in given]
        found = list(all_sources(roots))
        identity = identity_of(roots)
        place = lists_dir() / identity[:16] if folder is None else Path(folder).expanduser()
        place = Path(os.path.abspath(place))
        if (place / LIST_FILE).exists():
            known = cls.load(place)
            if known._identity != identity:
                raise ListError(
                    f"The folder {place.name} holds the list of other scans. Choose another one."
                )
            known._add(found)
            return known
        return cls._create(place, identity, roots, [(path,) for path in found])

    @classmethod
    def _create(
        cls, place: Path, identity: str, roots: Sequence[Path], sources: Sequence[tuple[Path, ...]]
    ) -> CaseList:
        cases = numbered(sources, 1, roots)
        try:
            (place / "cases").mkdir(parents=True, exist_ok=True)
            write_list(place, identity, roots, cases)
        except OSError as error:
            raise ListError(
                f"The list cannot be kept in {place.name} ({error.strerror}). Choose another "
                "folder for it, or make room."
            ) from error
        return cls.load(place)

    @classmethod
    def load(cls, folder: str | Path, *, take_over: bool = False) -> CaseList:
        """Open a list from its folder.

        Where another program has it open, it can be read but not decided on:
        ``decisions.read_only`` says so.

        Parameters
        ----------
        take_over : bool
            Write even where another computer seems to have it open.

        Raises
        ------
        ListError
            If the folder holds no list that can be read.
        """
        place = os.path.realpath(Path(folder).expanduser())
        with _opening:
            found = _open.get(place)
            if found is None:
                found = cls(Path(place), take_over=take_over)
                _open[place] = found
                found._look_for_new()
            return found

    @staticmethod
    def recent() -> list[RecentList]:
        """Return the lists in the user's own data, the latest first."""
        found = []
        with contextlib.suppress(OSError):
            for path in lists_dir().iterdir():
                with contextlib.suppress(ListError, OSError):
                    found.append(recent_list(path))
        return sorted(found, key=lambda entry: entry.when, reverse=True)

    def close(self) -> None:
        """Let another program write to the list."""
        with _opening:
            self.decisions.close()
            for place in [place for place, found in _open.items() if found is self]:
                del _open[place]

    @property
    def writable(self) -> bool:
        """Whether this program may write to the list."""
        return self.decisions.read_only is None

    @property
    def title(self) -> str:
        """Name of what the list was made of; for the screen alone."""
        return title_of(self._roots, self.cases)

    # -- cases -----------------------------------------------------------------------------

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
                self._problems[entry.key] = (
                    "The file of this case is not where it was. Connect its drive or put it back; "
                    "what was done on the case is kept."
                )
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
        if fingerprint(scan)["sha256"] != summary.scan_sha256:
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

    def _look_for_new(self) -> None:
        folders = [root for root in self._roots if root.is_dir()]
        if folders and self.writable:
            with contextlib.suppress(ListError):
                self._add(list(all_sources(folders)))

    def _add(self, found: Sequence[Path]) -> None:
        """Put files that are not in the list yet at its end."""
        with self._mutex:
            known = {path for case in self.cases for path in case.sources}
            fresh = [(path,) for path in found if path not in known]
            if not fresh or not self.writable:
                return
            first = 1 + max((case.number for case in self.cases), default=0)
            cases = (*self.cases, *numbered(fresh, first, self._roots))
            try:
                write_list(self.folder, self._identity, self._roots, cases)
            except OSError as error:
                self.notices.append(
                    f"New scans in the folder could not be added ({error.strerror})."
                )
                return
            self.cases = cases
            self._by_key = {case.key: case for case in cases}
            for case in cases:
                self._summaries.setdefault(case.key, None)
            count = f"{len(fresh)} new scan{'s were' if len(fresh) > 1 else ' was'}"
            self.notices.append(f"{count} added at the end of the list.")

    def _move(self, sources: tuple[Path, ...]) -> None:
        """Note that the one case's file, known by its fingerprint, lies elsewhere now."""
        cases = tuple(numbered([sources], 1, self._roots))
        try:
            write_list(self.folder, self._identity, self._roots, cases)
        except OSError:
            return  # It is in view all the same; next time its fingerprint will find it again.
        self.cases = cases
        self._by_key = {case.key: case for case in cases}
        self.refresh()


_CHANGED = (
    "The file has changed since this case was adapted. What is shown may not fit it; adapt the "
    "case again."
)


def case_of_scan(scan: Scan) -> CaseList:
    """Return the list of one case that a scan opened by itself is; the same scan, the same list.

    Raises
    ------
    ListError
        If the list cannot be kept.
    """
    identity = f"scan-{fingerprint(scan)['sha256']}"
    place = Path(os.path.realpath(lists_dir() / identity[:21]))
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    sources = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in paths if path))
    if (place / LIST_FILE).exists():
        known = CaseList.load(place)
        if known.cases[0].sources != sources and known.writable:
            known._move(sources)
        return known
    return CaseList._create(place, identity, [], [sources])


def _key(case: Case | str) -> str:
    return case if isinstance(case, str) else case.key
