"""A list of cases to get through: kept on the disk, goes on exactly where it was.

``CaseList.make`` makes one from folders or files, ``CaseList.load`` opens one from its own folder,
`case_of_scan` gives the list of one case that a scan opened by itself is. In a list's folder lie
``list.sqlite`` and ``decisions.csv`` (see `case_store`) and a folder a case, ``cases/case-0001``,
with its runs and its small picture; `CaseWork` is what one does in there.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.run_files import fingerprint
from napari_grata.adaptation.run_store import RunFolderError, read_info
from napari_grata.adaptation.settings import Settings, SettingsError
from napari_grata.scans.files import stem
from napari_grata.scans.photographs import is_photograph

from .case_finding import identity_of, numbered, sources_of
from .case_store import CaseStore
from .case_work import CaseWork
from .cases import (
    STATE_OF_VERDICT,
    Case,
    CaseState,
    CaseSummary,
    DecidedMask,
    ListError,
    Progress,
    RecentList,
    digest,
)
from .final_masks import CaseMasks, Standing, final_masks
from .list_file import STORE_FILE, BeyondReadingError, read_identity
from .proposing import FEWEST

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

_CHANGED = (
    "The file has changed since this case was adapted. What is shown may not fit it; adapt the "
    "case again."
)
_MISSING = (
    "The file of this case is not where it was. Connect its drive, put it back, or say where the "
    "scans lie now (Lists, The scans have moved); what was done on the case is kept."
)
_open: weakref.WeakValueDictionary[str, CaseList] = weakref.WeakValueDictionary()
_opening = threading.RLock()


def lists_dir() -> Path:
    """Folder of the user's lists (not made here)."""
    from napari_grata.segmenters.registry import user_models_dir

    return user_models_dir().parent / "lists"


class CaseList(CaseStore):
    """Cases in a fixed order, each with its own folder; what was decided; how to adapt them.

    Made with `make`, `load` or `case_of_scan`. While one is open in this program, opening the
    same again gives the same object.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._works: dict[str, CaseWork] = {}
        self._missing: set[str] = set()
        self._stale: set[str] = set()
        self._busy: set[str] = set()
        self.drawn_over: tuple[Any, CaseMasks, Card] | None = None  # the case drawn on last

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
        place = list_folder(given) if folder is None else Path(folder).expanduser()
        with _opening:
            known, beyond = cls._known(place)
            if known is None:
                found = [(path,) for path in sources_of(roots)]
                return cls._made(place, identity, roots, found, anew=beyond)
            known._go_on(identity, roots)
            return known

    @classmethod
    def _known(cls, place: Path) -> tuple[CaseList | None, bool]:
        """Return the list that lies in a place, or whether there is one beyond reading."""
        if os.path.realpath(place) not in _open and not (place / STORE_FILE).exists():
            return None, False
        try:
            return cls.load(place), False
        except BeyondReadingError:
            return None, True

    def _go_on(self, identity: str, roots: Sequence[Path]) -> None:
        if self.identity not in (identity, ""):
            raise ListError(
                f"The folder {self.folder.name} holds the list of other scans. Choose another one."
            )
        try:
            if not self.identity:  # it was lost to damage
                self._add_cases([], roots=roots, identity=identity)
            self._grow([(path,) for path in sources_of(roots)])
        except ListError as error:
            # Scans that are out of reach are no reason to lose sight of what was decided.
            self.notices += [str(error)] * (str(error) not in self.notices)

    @classmethod
    def _made(
        cls,
        place: Path,
        identity: str,
        roots: Sequence[Path],
        sources: Sequence[tuple[Path, ...]],
        *,
        anew: bool = False,
        wait: bool = False,
    ) -> CaseList:
        """Make a list; with ``wait`` a place that cannot be had now is tried for again later."""
        key = os.path.realpath(place)
        made = cls(Path(key))
        if anew:
            made._file.begin_anew()
        made._create(identity, roots, numbered(sources, 1, roots))
        try:
            made.retry()
        except ListError as error:
            if not wait:
                raise ListError(
                    f"The list cannot be kept in {place.name}. {error} Or choose another folder."
                ) from error
            made._problems["place"] = str(error)
        _open[key] = made
        made.refresh()
        return made

    @classmethod
    def load(cls, folder: str | Path) -> CaseList:
        """Open a list from its folder.

        Where another program has it open, it can be read but not decided on: `read_only` says so.

        Raises
        ------
        ListError
            If the folder holds no list that can be read.
        """
        place = os.path.realpath(Path(folder).expanduser())
        with _opening:
            found = _open.get(place)
            if found is None:
                found = cls(Path(place))
                found._open()
                found._check_choices()
                _open[place] = found
                found.refresh()
                folders = [root for root in found.roots if os.path.isdir(root)]
                if folders and found.writable:
                    with contextlib.suppress(ListError):
                        found._grow([(path,) for path in sources_of(folders)])
            return found

    @staticmethod
    def recent() -> list[RecentList]:
        """Return the lists in the user's own data, the latest first.

        One that cannot be opened says so in ``problem``.
        """
        return sorted(map(_recent, _lists()), key=lambda entry: entry.when, reverse=True)

    def close(self) -> None:
        """Let another program write to the list."""
        with _opening:
            super().close()
            for place in [place for place, found in _open.items() if found is self]:
                del _open[place]

    # -- the cases ---------------------------------------------------------------------------

    @property
    def cases(self) -> tuple[Case, ...]:
        """In order; a case never changes its number."""
        return tuple(self._cases.values())

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def title(self) -> str:
        """Name of what the list was made of; for the screen alone."""
        if len(self.roots) == 1:
            return stem(self.roots[0])
        more = f" and {len(self) - 1} more" if len(self) > 1 else ""
        return self.cases[0].title + more if self._cases else self.folder.name

    def case(self, key: str) -> Case:
        """Return the case with this code; a KeyError where there is none."""
        return self._cases[key]

    def photographs(self) -> list[Path]:
        """Return the photographs of a list whose cases are one each: as a stack they go together.

        Empty where they are too few for that, and for lists of anything else.
        """
        paths = [path for case in self.cases for path in case.sources]
        alike = len(paths) == len(self.cases) and all(map(is_photograph, paths))
        return paths if alike and len(paths) >= FEWEST else []

    def of_scan(self, scan: Scan) -> Case | None:
        """Return the case that a scan was opened from; None of some of its files, or of more."""
        files = {scan.slice_path(index) for index in range(scan.n_slices)}
        for case in self.cases:
            if {scan.path, *files} & {*case.sources} and len(files) == len(case.sources):
                return case
        return None

    def _grow(self, sources: Sequence[tuple[Path, ...]]) -> None:
        """Put files that are not in the list yet at its end."""
        # The same folder may be reached by another name: a link, a drive's letter.
        known = {os.path.realpath(path) for case in self.cases for path in case.sources}
        fresh = [paths for paths in sources if os.path.realpath(paths[0]) not in known]
        if not fresh or not self.writable:
            return
        # The number of a case that was lost to damage is not given again.
        gone = sum(values[0] is None for values in self._file.rows["cases"].values())
        first = 1 + gone + max((case.number for case in self.cases), default=0)
        try:
            self._add_cases(numbered(fresh, first, self.roots))
        except ListError as error:
            self.notices.append(f"New scans in the folder could not be added. {error}")
            return
        count = f"{len(fresh)} new scan{'s were' if len(fresh) > 1 else ' was'}"
        self.notices.append(f"{count} added at the end of the list.")

    def relocate(self, folder: str | Path) -> None:
        """Note that all scans lie below another folder now, under the same names within it.

        A ListError says that not all of them do, or cannot be noted; nothing has changed then.
        """
        there = Path(os.path.abspath(Path(folder).expanduser()))
        sources = {path for case in self.cases for path in case.sources}
        tops = [root.parent if root in sources else root for root in self.roots]
        try:
            top = os.path.commonpath(tops)
            moved = [
                replace(case, sources=tuple(there / path.relative_to(top) for path in case.sources))
                for case in self.cases
            ]
        except ValueError as error:
            raise ListError("The scans of this list lie in no folder that could move.") from error
        lacking = sum(not os.path.isfile(path) for case in moved for path in case.sources)
        if lacking:
            raise ListError(
                f"{lacking} of {len(sources)} scans are not below {there.name} under the names "
                "that they had. Choose the folder that holds them as the old one did."
            )
        roots = [there / root.relative_to(top) for root in self.roots]
        self._add_cases(moved, roots=roots, identity=identity_of(roots))
        self.refresh()

    @contextlib.contextmanager
    def busy(self, key: str) -> Iterator[None]:
        """Mark a case as being adapted by this program; a ListError where it is already."""
        with self._mutex:
            if key in self._busy:
                raise ListError(f"Case {self._cases[key].number} is being adapted already.")
            self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    def work(self, case: Case | str) -> CaseWork:
        """Return what one does on a case; a ListError where its folder leads out of the list's."""
        key = _key(case)
        with self._mutex:
            if key not in self._works:
                self._works[key] = CaseWork(self, self._cases[key].key)
            return self._works[key]

    # -- where they stand --------------------------------------------------------------------

    def state(self, case: Case | str) -> CaseState:
        """Return where a case stands; opens no file.

        A decision on a slice comes before one on the whole case. Decisions on slices alone count
        once every slice has one.
        """
        key = _key(case)
        current, summary = self.decisions(key), self._summaries.get(key)
        verdicts = {one.verdict for index, one in current.items() if index is not None}
        everywhere = summary is not None and 0 < summary.slices <= len(current.keys() - {None})
        whole = current.get(None)
        if not everywhere:
            verdicts = verdicts | {whole.verdict} if whole is not None else set()
        for verdict, state in STATE_OF_VERDICT.items():
            if verdict in verdicts:
                return state
        if key in self._missing or (summary is not None and summary.error):
            return CaseState.FAILED
        if summary is None:
            return CaseState.NEW
        if summary.adapted:
            return CaseState.FLAGGED if summary.flags else CaseState.ADAPTED
        return CaseState.SEGMENTED if summary.segmented else CaseState.NEW

    def summary(self, case: Case | str) -> CaseSummary | None:
        """Return what is known of a case; opens no file."""
        key = _key(case)
        found = self._summaries.get(key)
        return found.but(stale=_CHANGED) if found is not None and key in self._stale else found

    def problem(self, case: Case | str) -> str | None:
        """Return why a case cannot be opened or could not be done, None if all is well."""
        summary = self._summaries.get(_key(case))
        return self.missing(case) or (summary.error if summary is not None else None)

    def missing(self, case: Case | str) -> str | None:
        """Return a sentence where the case's file was not found at the last `refresh`."""
        return _MISSING if _key(case) in self._missing else None

    def progress(self) -> Progress:
        """Count the cases by state; opens no file."""
        states = [self.state(case) for case in self.cases]
        return Progress(
            total=len(states),
            decided=sum(state.decided for state in states),
            prepared=sum(summary.adapted for summary in list(self._summaries.values())),
            flagged=states.count(CaseState.FLAGGED),
            failed=states.count(CaseState.FAILED),
        )

    def mask_now(self, case: Case | str) -> DecidedMask:
        """Return what a decision made now would be about, as the list's folder has it."""
        work = self.work(case)
        found, folder, summary = DecidedMask(), work.run_folder, self.summary(case)
        if folder is not None:
            with contextlib.suppress(RunFolderError):
                info = read_info(folder)
                found = DecidedMask(
                    kind="adapted",
                    run=folder.name,
                    step=info["step"] if info["taken"] is None else info["taken"],
                    model=info["model"]["name"],
                    weights_sha256=info["model"]["weights_sha256"] or "",
                    settings=digest(info["settings"]),
                    scan_sha256=info["scan"]["sha256"],
                )
        if summary is not None and summary.edited:
            found = found.but(kind="edited", edit=work.edit_version)
        return found

    def standing(self, case: Case | str, scan: Scan) -> Standing:
        """Return what a case came to; a RunFolderError where its run cannot be read."""
        from napari_grata.adaptation import reopen

        work = self.work(case)
        folder = work.run_folder
        if folder is None:
            return Standing(None, self.problem(case) or "It has not been adapted yet.")
        with contextlib.closing(reopen(folder, scan)) as run:
            if run.scan is None:
                return Standing(None, " ".join(run.missing))
            masks = work.masks(run.scan, run.source_masks, run.adapted_masks)
        return final_masks(masks, self.decisions(case), self.mask_now(case))

    def refresh(self) -> None:
        """Look what another program has written, and which files are there and unchanged."""
        with contextlib.suppress(ListError):
            self._file.look()
        for entry in self.cases:
            lacks = bool(entry.sources) and not all(map(os.path.isfile, entry.sources))
            (self._missing.add if lacks else self._missing.discard)(entry.key)
            self.look_at(entry)

    def look_at(self, case: Case) -> None:
        """Find out whether a case's file has another size or date than its summary says."""
        summary = self._summaries.get(case.key)
        marks = case.marks if summary is not None and summary.files else ()
        changed = summary is not None and bool(marks) and marks != summary.files
        (self._stale.add if changed else self._stale.discard)(case.key)

    def confirm(self, case: Case | str, scan: Scan) -> bool:
        """Return whether a case's summary was made from a scan that is open.

        A file that was only copied or touched counts as unchanged from then on.
        """
        key = _key(case)
        summary = self._summaries.get(key)
        if summary is None or not summary.scan_sha256:
            return False
        if fingerprint(scan) != summary.scan_sha256:
            self._stale.add(key)
            return False
        if key in self._stale and self.writable:
            with contextlib.suppress(ListError):
                self.work(key).write_summary(summary.but(files=self._cases[key].marks))
        return True

    # -- what is chosen for the list -----------------------------------------------------------

    def option(self, name: str, default: Any = None) -> Any:
        """Return a choice that was kept with `choose`, such as the list's filter."""
        value = self._file.choices.get(name, default)
        return value if default is None or isinstance(value, type(default)) else default

    def choose(self, **choices: Any) -> None:
        """Set some of model, settings, carry, position and others (plain values), and save them.

        A disk that does not take them is no reason to stop: see `save_problem`.
        """
        with self._file.writer:
            known = self._file.choices
            if all(name in known and known[name] == value for name, value in choices.items()):
                return
            known.update(choices)
            if not self.writable:
                return
            try:
                self._file.write(choices=choices)
                self._problems.pop("choices", None)
            except ListError as error:
                self._problems["choices"] = (
                    f"Your place in the list could not be saved. {error} Decisions are kept on "
                    "their own and say so themselves if they cannot be."
                )

    @property
    def model(self) -> str | None:
        """Name (or folder) of the model for this list."""
        return self.option("model", "") or None

    @property
    def settings(self) -> Settings | None:
        """How the cases are adapted; None where nothing was chosen yet."""
        values = self._file.choices.get("settings")
        return None if values is None else Settings.from_dict(values)

    @property
    def carry(self) -> bool:
        """Whether the adapted model lives on from case to case; else each begins anew."""
        return bool(self.option("carry", False))

    @property
    def position(self) -> str | None:
        """Key of the case in view."""
        key = self.option("position", "")
        return key if key in self._cases else None

    def _check_choices(self) -> None:
        try:
            self.settings  # noqa: B018
        except (SettingsError, TypeError, AttributeError):
            self._file.choices["settings"] = None
            self.notices.append("This list's method is not known here; choose it again.")


def case_of_scan(scan: Scan) -> CaseList:
    """Return the list of one case that a scan opened by itself is; the same scan, the same list.

    Where its folder cannot be made, decisions wait in memory: ``save_problem`` says why, and
    ``retry`` tries again.

    Raises
    ------
    ListError
        If there is a list that cannot be read, for other reasons than damage.
    """
    identity = f"scan-{fingerprint(scan)}"
    place = lists_dir() / identity[:21]
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    sources = tuple(dict.fromkeys(Path(os.path.abspath(path)) for path in paths if path))
    with _opening:
        known, beyond = CaseList._known(place)
        if known is None:
            return CaseList._made(place, identity, [], [sources], anew=beyond, wait=True)
        if known.cases[0].sources != sources and known.writable:
            with contextlib.suppress(ListError):
                known._add_cases(numbered([sources], 1, []))
            known.refresh()
        return known


def list_folder(sources: Sequence[str | Path]) -> Path:
    """Return the folder of the list that was, or would be, made of these sources."""
    roots = [Path(os.path.abspath(Path(source).expanduser())) for source in sources]
    identity = identity_of(roots)
    place = lists_dir() / identity[:16]
    for folder in [place, *_lists()]:
        # One that cannot be read is the one that would be made here.
        wanted = (identity, None) if folder == place else (identity,)
        if (folder / STORE_FILE).exists() and read_identity(folder) in wanted:
            return folder
    while (place / STORE_FILE).exists():  # a list whose scans have moved on
        place = place.with_name(f"{place.name}-2")
    return place


def _lists() -> list[Path]:
    try:
        return sorted(path for path in lists_dir().iterdir() if (path / STORE_FILE).exists())
    except OSError:
        return []


def _recent(folder: Path) -> RecentList:
    try:
        latest = max(path.stat().st_mtime for path in (folder / STORE_FILE, folder))
        when = datetime.fromtimestamp(latest, timezone.utc).isoformat(timespec="seconds")
    except OSError:
        when = ""
    found = _open.get(os.path.realpath(folder)) or CaseList(folder)
    try:
        if not found.cases:
            found._file.open(lock=False)
        progress = found.progress()
    except ListError as error:
        return RecentList(folder, folder.name, when, problem=str(error))
    return RecentList(folder, found.title, when, progress.total, progress.decided)


def _key(case: Case | str) -> str:
    return case if isinstance(case, str) else case.key
