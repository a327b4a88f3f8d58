"""Adapt the cases of a list, one after another, ahead of the reader or without a screen.

torch is imported inside the functions alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.run_store import RunFolderError
from napari_grata.adaptation.settings import Settings, preset
from napari_grata.scans.files import write_json

from .casefinding import ListError, bare_name
from .cases import Case, CaseSummary
from .continuing import ORIGIN_FILE, Start, clear_unfinished, origin, previous_end, resumed
from .keeping import keep_failure, keep_run

if TYPE_CHECKING:
    from napari_grata.adaptation import Record
    from napari_grata.adaptation.methods.base import Snapshot
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .caselist import CaseList

_FULL = (errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A sentence about what takes time now."""

    text: str


def work_on_case(
    caselist: CaseList,
    case: Case,
    segmenter: Segmenter,
    settings: Settings | None = None,
    *,
    start: Snapshot | Start | None = None,
    again: bool = False,
) -> Iterator[Stage | Record | CaseSummary]:
    """Segment and adapt one case into a run folder of its own; last comes its summary.

    Closing the iterator at any point leaves what is finished, and the next call goes on from
    there. A case that cannot be done gets a summary that says why, in place of an error.

    Parameters
    ----------
    settings : Settings, optional
        By default the list's, or else "Careful".
    start : Snapshot or Start, optional
        Adapted model to begin with; a `Start` also tells, for the record, whose it was. By
        default, where the list carries the model on, the one that the nearest case before this
        one ended with; else the source model.
    again : bool
        Also where the file has another date than when the case was adapted, but the same values.

    Raises
    ------
    ListError
        If the list's folder cannot be written: no other case could be kept either.
    """
    if not caselist.writable:
        raise ListError(str(caselist.decisions.read_only))
    chosen = settings or caselist.settings or preset("careful").settings
    with caselist.busy(case.key):
        begin = time.perf_counter()
        try:
            yield from _work(caselist, case, segmenter, chosen, start, begin, again)
        except (ListError, RunFolderError) as error:
            raise ListError(str(error)) from error
        except Exception as error:
            if isinstance(error, OSError) and not _can_write(caselist, error):
                raise ListError(
                    "The list's folder cannot be written any more "
                    f"({error.strerror or type(error).__name__}). Make room or bring the drive "
                    "back, then go on; what is finished is kept."
                ) from error
            _log.warning("%s could not be done: %s", case.key, type(error).__name__)
            card = segmenter.card
            yield keep_failure(
                caselist,
                case,
                in_words(error, case),
                model=card.name,
                weights=card.weights_sha256 or "",
                seconds=time.perf_counter() - begin,
            )


def work_on_list(
    caselist: CaseList,
    segmenter: Segmenter,
    keys: Iterable[str] | None = None,
    settings: Settings | None = None,
    *,
    again: bool = False,
) -> Iterator[tuple[Case, Stage | Record | CaseSummary]]:
    """Work on the cases that are not done, in the order of the list or of ``keys``.

    Parameters
    ----------
    again : bool
        Also do what is done already; older run folders stay.

    Yields
    ------
    (Case, what `work_on_case` yields)

    Raises
    ------
    ListError
        If the list's folder cannot be written.
    """
    cases = caselist.cases if keys is None else tuple(caselist.case(key) for key in keys)
    for case in cases:
        if again or needs_work(caselist, case, segmenter):
            for item in work_on_case(caselist, case, segmenter, settings, again=again):
                yield case, item


def needs_work(caselist: CaseList, case: Case, segmenter: Segmenter | None = None) -> bool:
    """Whether a case is still to be adapted; opens no file.

    One that was decided on is left alone, and so is one that was adapted, in whatever way. One
    that failed is tried again when its file or the model has changed since.
    """
    if caselist.state(case).decided:
        return False
    summary = caselist.summary(case)
    if summary is None or not summary.segmented or summary.stale:
        if summary is None or summary.error is None or summary.stale:
            return not caselist.missing(case)
        card = None if segmenter is None else segmenter.card
        return card is not None and (card.weights_sha256 or "") != summary.weights_sha256
    return False


def in_words(error: Exception, case: Case) -> str:
    """Return a sentence about an error that names no file: it goes into the case's folder."""
    if isinstance(error, MemoryError):
        return str(error) or "There is not enough memory for this case. Close other programs."
    what, hint = getattr(error, "what", None), getattr(error, "hint", "")
    if isinstance(what, str):
        text = f"{what[:1].upper()}{what[1:]}. {hint}".strip()
    elif isinstance(error, OSError):
        text = f"The file cannot be read ({error.strerror or type(error).__name__})."
    elif type(error).__module__.startswith("napari_grata") or isinstance(error, ValueError):
        text = str(error)
    else:
        text = f"It failed in an unforeseen way ({type(error).__name__}: {error})."
    for path in sorted(case.sources, key=lambda path: -len(str(path))):
        for name in (str(path), f"{path.parent.name}/{path.name}", path.name, bare_name(path)):
            # A file called 1.png names nobody, and every sentence with a 1 in it would suffer.
            if len(name) > 3 or not name.isdecimal():
                text = text.replace(name, case.key)
    return text


def _work(
    caselist: CaseList,
    case: Case,
    segmenter: Segmenter,
    settings: Settings,
    start: Snapshot | Start | None,
    begin: float,
    again: bool,
) -> Iterator[Stage | Record | CaseSummary]:
    from napari_grata.adaptation.plan import RunError
    from napari_grata.scans import open_scan

    problem = caselist.missing(case)
    if problem is not None:
        raise RunError(problem)
    if not case.sources:
        raise RunError("This scan came from no file; adapt it where it is open.")
    yield Stage(f"Opening case {case.number} …")
    scan = open_scan(case.sources[0] if len(case.sources) == 1 else list(case.sources))
    misfit = segmenter.fits(scan)
    if misfit is not None:
        raise RunError(misfit)
    summary = caselist.summary(case)
    stale = summary is not None and summary.stale and summary.segmented
    if stale and start is None and not again and caselist.confirm(case, scan):
        # A file that was only copied or touched: what was made of it holds, and may hold a
        # reviewer's corrections.
        yield caselist.summary(case) or CaseSummary()
        return
    work = caselist.work(case)
    before: Start | None
    if isinstance(start, Start):
        before = start
    elif start is not None:
        before = Start(start, "", "", int(start.steps))
    else:
        before = previous_end(caselist, case, segmenter, settings) if caselist.carry else None
    shift = None
    if getattr(segmenter.card, "shift", None) is not None:
        yield Stage(f"Looking how far case {case.number} is from the source centre …")
        shift = _shift(segmenter, scan)
    yield Stage(f"Adapting to case {case.number} …")
    run = resumed(work, segmenter, scan, settings, before)
    if run is None:
        from napari_grata.adaptation.run import AdaptationRun

        folder = work.new_run_folder()
        snapshot = None if before is None else before.snapshot
        run = AdaptationRun(segmenter, scan, settings, folder=folder, start=snapshot)
        write_json(folder / ORIGIN_FILE, origin(before))
    records: Any = run.records()
    try:
        yield from records
        records.close()
        summary = keep_run(
            caselist,
            case,
            run,
            shift=shift,
            seconds=time.perf_counter() - begin,
            continued_from=before.case if before is not None else "",
        )
    finally:
        records.close()
        run.close()
    clear_unfinished(work)
    yield summary


def _shift(segmenter: Segmenter, scan: Scan) -> Any:
    try:
        from napari_grata.adaptation.shift import shift
    except ImportError:
        return None
    try:
        return shift(segmenter, scan)
    except (ValueError, RuntimeError, MemoryError) as error:
        # A gauge that fails is no reason to leave the case undone.
        _log.warning("The distance from the source centre is unknown: %s", type(error).__name__)
        return None


def _can_write(caselist: CaseList, error: OSError) -> bool:
    """Whether an error came from the scan's side, the list's folder being well."""
    if error.errno in _FULL:
        return False
    probe = Path(caselist.folder) / f".partial-probe-{os.getpid()}"
    try:
        probe.write_bytes(b"0" * 4096)
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return True
