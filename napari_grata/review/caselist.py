"""A list of cases to get through: kept on the disk, goes on exactly where it was."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_grata.adaptation.run_files import fingerprint

from .casefinding import ListError
from .cases import (
    Case,
    CaseState,
    CaseSummary,
)
from .decisions import DecisionLog
from .knowledge import KnownCases
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

if TYPE_CHECKING:
    from napari_grata.scans import Scan

__all__ = ["Case", "CaseList", "CaseState", "CaseSummary", "ListError", "RecentList"]

_open: weakref.WeakValueDictionary[str, CaseList] = weakref.WeakValueDictionary()
_opening = threading.RLock()


class CaseList(KnownCases):
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
        values = read_list(Path(folder))
        self._roots = [Path(root) for root in values["roots"]]
        self._identity = str(values["identity"])
        super().__init__(
            Path(folder),
            [read_case(entry) for entry in values["cases"]],
            DecisionLog(Path(folder) / DECISIONS_FILE, take_over=take_over),
        )

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
        identity = identity_of(roots)
        place = lists_dir() / identity[:16] if folder is None else Path(folder).expanduser()
        place = Path(os.path.abspath(place))
        if (place / LIST_FILE).exists():
            known = cls.load(place)
            if known._identity != identity:
                raise ListError(
                    f"The folder {place.name} holds the list of other scans. Choose another one."
                )
            try:
                known._add(list(all_sources(roots)))
            except ListError as error:
                # Scans that are out of reach are no reason to lose sight of what was decided.
                known.notices += [str(error)] * (str(error) not in known.notices)
            return known
        found = [(path,) for path in all_sources(roots)]
        return cls._create(place, identity, roots, found)

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
    def title(self) -> str:
        """Name of what the list was made of; for the screen alone."""
        return title_of(self._roots, self.cases)

    # -- growing ---------------------------------------------------------------------------

    def _look_for_new(self) -> None:
        folders = [root for root in self._roots if root.is_dir()]
        if folders and self.writable:
            with contextlib.suppress(ListError):
                self._add(list(all_sources(folders)))

    def _add(self, found: Sequence[Path]) -> None:
        """Put files that are not in the list yet at its end."""
        with self._mutex:
            # The same folder may be reached by another name: a link, a drive's letter.
            known = {os.path.realpath(path) for case in self.cases for path in case.sources}
            fresh = [(path,) for path in found if os.path.realpath(path) not in known]
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
            self._know(cases)
            count = f"{len(fresh)} new scan{'s were' if len(fresh) > 1 else ' was'}"
            self.notices.append(f"{count} added at the end of the list.")

    def _move(self, sources: tuple[Path, ...]) -> None:
        """Note that the one case's file, known by its fingerprint, lies elsewhere now."""
        cases = tuple(numbered([sources], 1, self._roots))
        try:
            write_list(self.folder, self._identity, self._roots, cases)
        except OSError:
            return  # It is in view all the same; next time its fingerprint will find it again.
        self._know(cases)
        self.refresh()


def case_of_scan(scan: Scan) -> CaseList:
    """Return the list of one case that a scan opened by itself is; the same scan, the same list.

    Raises
    ------
    ListError
        If the list cannot be kept.
    """
    identity = f"scan-{fingerprint(scan)}"
    place = Path(os.path.realpath(lists_dir() / identity[:21]))
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    sources = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in paths if path))
    if (place / LIST_FILE).exists():
        known = CaseList.load(place)
        if known.cases[0].sources != sources and known.writable:
            known._move(sources)
        return known
    return CaseList._create(place, identity, [], [sources])
