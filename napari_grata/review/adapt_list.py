"""Adapt the cases of a list, one after another, ahead of the user or without a screen.

torch is imported inside the functions alone.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.records import Flag, Record, RunInfo
from napari_grata.adaptation.run_files import fingerprint
from napari_grata.adaptation.run_store import (
    RunFolderError,
    RunStore,
    is_run_folder,
    read_info,
)
from napari_grata.adaptation.settings import Settings, preset
from napari_grata.scans.files import OLD_SECONDS, clear_leftovers, nameless, read_json, write_json

from .carried import CarriedChoice, carried_by, mark_of, may_be_changed, put_over
from .case_list import CaseList
from .case_work import CaseWork, is_finished
from .cases import Case, CaseSummary, CountedFlag, ListError
from .compare import change_and_picture, flags_of_run

if TYPE_CHECKING:
    from napari_grata.adaptation.methods.base import Snapshot
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.adaptation.shift import Shift
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

ORIGIN_FILE = "origin.json"
"""In a run folder: which case of the list it continued from. Only runs of this module have one."""
_FULL = (errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))
_log = logging.getLogger(__name__)


Origin = dict[str, Any]
"""Case, run and step of the adapted model that a run began with; case "" of one from elsewhere."""
Item = str | Record | CaseSummary
"""Of work on a case: a sentence about what takes time now, a step, or what it came to."""


def work_on_case(
    caselist: CaseList,
    case: Case,
    segmenter: Segmenter,
    settings: Settings | None = None,
    *,
    start: Snapshot | None = None,
    again: bool = False,
) -> Iterator[Item]:
    """Segment and adapt one case into a run folder of its own; last comes its summary.

    Closing the iterator at any point leaves what is finished, and the next call goes on from
    there. A case that cannot be done gets a summary that says why, in place of an error.

    Parameters
    ----------
    settings : Settings, optional
        By default the list's, or else "Careful".
    start : Snapshot, optional
        Adapted model to begin with. By default, where the list carries the model on, the one that
        the nearest case before this one ended with; else the source model.
    again : bool
        Also where the file has another date than when the case was adapted, but the same values.

    Raises
    ------
    ListError
        If the list's folder cannot be written: no other case could be kept either.
    """
    if not caselist.writable:
        raise ListError(str(caselist.read_only))
    chosen = settings or caselist.settings or preset("careful").settings
    with caselist.busy(case.key):
        try:
            yield from _work(caselist, case, segmenter, chosen, start, again)
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
            made_with = CaseSummary(model=card.name, weights_sha256=card.weights_sha256 or "")
            yield keep_failure(caselist, case, in_words(error, case), made_with)


def work_on_list(
    caselist: CaseList, segmenter: Segmenter, *, again: bool = False
) -> Iterator[tuple[Case, Item]]:
    """Work on the cases that are not done, in the list's order and with its settings.

    With ``again`` also on those that are; older run folders stay. Yields each case with what
    `work_on_case` yields, and raises as that does.
    """
    for case in caselist.cases:
        if again or needs_work(caselist, case, segmenter):
            for item in work_on_case(caselist, case, segmenter, again=again):
                yield case, item


def needs_work(caselist: CaseList, case: Case, segmenter: Segmenter | None = None) -> bool:
    """Whether a case is still to be adapted; opens no file.

    One that was decided on is left alone, and so is one that was adapted, in whatever way, unless
    the list carries a choice over that it has not been given, or no longer does, and the user has
    not drawn on it. One that failed is tried again when its file or the model has changed since.
    """
    if caselist.decisions(case) or caselist.missing(case):
        return False
    summary = caselist.summary(case)
    if summary is None or summary.stale:
        return True
    if summary.segmented:
        return summary.choice != mark_of(caselist) and not caselist.work(case).touched
    if summary.error is None:
        return True
    card = None if segmenter is None else segmenter.card
    return card is not None and (card.weights_sha256 or "") != summary.weights_sha256


def in_words(error: Exception, case: Case) -> str:
    """Return a sentence about an error that names no file: it goes into the case's summary."""
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
    return nameless(text, case.sources, case.key)


def _work(
    caselist: CaseList,
    case: Case,
    segmenter: Segmenter,
    settings: Settings,
    start: Snapshot | None,
    again: bool,
) -> Iterator[Item]:
    from napari_grata.adaptation.plan import RunError
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.scans import open_scan

    problem = caselist.missing(case)
    if problem is not None:
        raise RunError(problem)
    if not case.sources:
        raise RunError("This scan came from no file; adapt it where it is open.")
    yield f"Opening case {case.number} …"
    scan = open_scan(case.sources[0] if len(case.sources) == 1 else list(case.sources))
    misfit = segmenter.fits(scan)
    if misfit is not None:
        raise RunError(misfit)
    known, work, carried = caselist.summary(case), caselist.work(case), carried_by(caselist)
    if known is not None and known.segmented and start is None and not again:
        # A file that was only copied or touched: what was made of it holds, and may hold a user's
        # corrections.
        holds = bool(known.stale) and caselist.confirm(case, scan)
        if (holds or not known.stale) and needs_work(caselist, case, segmenter):
            try:
                yield from _see_to_choice(caselist, case, segmenter, scan, carried)
            except RunFolderError as error:  # of this case alone
                raise RunError(str(error)) from error
            return
        if holds:
            yield caselist.summary(case) or CaseSummary()
            return
    origin = None if start is None else {"case": "", "run": "", "step": int(start.steps)}
    if start is None and caselist.carry:
        start, origin = _previous_end(caselist, case, segmenter, settings)
    shift = None
    if segmenter.card.shift is not None:
        yield f"Looking how far case {case.number} is from the source centre …"
        shift = _shift(segmenter, scan)
    yield f"Adapting to case {case.number} …"
    run = _resumed(work, segmenter, scan, settings, origin)
    if run is None:
        folder = work.new_run_folder()
        run = AdaptationRun(segmenter, scan, settings, folder=folder, start=start)
        write_json(folder / ORIGIN_FILE, {"from": origin})
    records: Any = run.records()
    with contextlib.closing(run), contextlib.closing(records):
        yield from records
        records.close()
        if carried is not None and may_be_changed(run, segmenter):
            masks = yield from carried.lay_over(run, segmenter, scan)
            put_over(run, carried, masks)
        mark = "" if carried is None else carried.mark
        summary = keep_run(caselist, case, run, shift=shift, choice=mark)
    _clear_unfinished(work)
    yield summary


def _see_to_choice(
    caselist: CaseList,
    case: Case,
    segmenter: Segmenter,
    scan: Scan,
    carried: CarriedChoice | None,
) -> Iterator[Item]:
    """Use the choice that the list carries over on a case that is adapted, or no longer."""
    from napari_grata.adaptation.reopening import reopen

    work = caselist.work(case)
    folder, masks, mark = work.run_folder, {}, "" if carried is None else carried.mark
    if folder is None:
        raise RunFolderError("Its run is not there any more. Adapt the case again, in the dock.")
    # Open for writing at the very end alone, when nobody has touched the case in the meantime.
    with contextlib.closing(reopen(folder, scan)) as found:
        able = found.scan is not None and may_be_changed(found, segmenter)
        if able and carried is not None:
            yield f"Using the choice made on {carried.told['case']} for case {case.number} …"
            masks = yield from carried.lay_over(found, segmenter, scan)
        yield f"Keeping what was chosen for case {case.number} …"
        if able and needs_work(caselist, case, segmenter):
            with contextlib.closing(found.run(segmenter, scan)) as run:
                put_over(run, carried, masks)
                yield keep_run(caselist, case, run, choice=mark)
            return
    summary = work.summary or CaseSummary()
    if not caselist.decisions(case):
        summary = summary.but(choice=mark)
        work.write_summary(summary)
    yield summary


def _shift(segmenter: Segmenter, scan: Scan) -> Shift | None:
    from napari_grata.adaptation.shift import shift

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
    try:
        with tempfile.TemporaryFile(dir=caselist.folder) as probe:
            probe.write(b"0" * 4096)
    except OSError:
        return False
    return True


# -- what a run came to ------------------------------------------------------------------------


def keep_run(
    caselist: CaseList,
    case: Case,
    run: AdaptationRun,
    *,
    shift: Shift | None = None,
    choice: str | None = None,
) -> CaseSummary:
    """Write a case's summary and picture from a run on it, as the run stands now.

    Parameters
    ----------
    run : AdaptationRun
        Its folder lies in the case's.
    shift : Shift, optional
        Kept from the last time if not given.
    choice : str, optional
        Mark of the carried choice that has been seen to; by default the list's, as a run that the
        user has made stays as it is.

    Raises
    ------
    ListError
        If it cannot be written.
    """
    work, card, scan = caselist.work(case), run.segmenter.card, run.scan
    flags = flags_of_run(run)
    masks = work.masks(scan, run.source_masks, run.adapted_masks)
    change, picture = change_and_picture(masks, card)
    known = work.summary or CaseSummary()
    if shift is not None:
        known = known.but(shift=float(shift.score), shift_words=str(shift.words))
    summary = CaseSummary(
        segmented=True,
        adapted=run.settings.method != "source" and bool(run.adapted_masks),
        flags=_counted(flags),
        flagged_slices=sum(bool(found) for found in flags.values()),
        change=change,
        shift=known.shift,
        shift_words=known.shift_words,
        edited=masks.edited is not None,
        slices=len(masks.slices),
        model=card.name,
        weights_sha256=card.weights_sha256 or "",
        run=run.folder.name if run.folder is not None else "",
        scan_sha256=fingerprint(scan),
        files=case.marks,
        choice=mark_of(caselist) if choice is None else choice,
    )
    work.write_thumbnail(picture)
    # Last: a case with a summary is done, and all the rest is there.
    work.write_summary(summary)
    return summary


def keep_failure(
    caselist: CaseList, case: Case, error: str, made_with: CaseSummary | None = None
) -> CaseSummary:
    """Note why a case could not be done, or raise ListError; what was known of it stays."""
    work = caselist.work(case)
    known = work.summary or made_with or CaseSummary()
    summary = known.but(error=error, files=case.marks, stale="")
    work.write_summary(summary)
    return summary


def _counted(flags: dict[int, tuple[Flag, ...]]) -> tuple[CountedFlag, ...]:
    """Return each kind of flag once, with its number of slices, the most frequent first."""
    every = [flag for _, found in sorted(flags.items()) for flag in found]
    texts = {flag.code: flag.text for flag in reversed(every)}
    counts = Counter(flag.code for flag in every)
    return tuple(CountedFlag(code, texts[code], count) for code, count in counts.most_common())


# -- where a run begins: a broken-off run, the case before, or the source model -----------------


def _previous_end(
    caselist: CaseList, case: Case, segmenter: Segmenter, settings: Settings
) -> tuple[Snapshot | None, Origin | None]:
    """Return the model of the nearest case before that was adapted in the same way, or None."""
    if not settings.learns or settings.mode != "continual":
        return None, None
    for earlier in reversed([other for other in caselist.cases if other.number < case.number]):
        folder = caselist.work(earlier).run_folder
        if folder is None:
            continue
        with contextlib.suppress(RunFolderError):
            info = read_info(folder)
            if _same_recipe(info, segmenter, settings):
                with contextlib.closing(RunStore(folder)) as store:
                    state = store.state(info["step"])
                return state, {"case": earlier.key, "run": folder.name, "step": info["step"]}
    return None, None


def _resumed(
    work: CaseWork, segmenter: Segmenter, scan: Scan, settings: Settings, origin: Origin | None
) -> AdaptationRun | None:
    """Open the latest run again if it was broken off, or never summed up, and is the one wanted."""
    from napari_grata.adaptation.reopening import reopen

    folder = next(reversed(work.run_folders()), None)
    summary = work.summary
    if folder is None or (origin is not None and not origin["case"]):
        return None
    if is_finished(folder) and summary is not None and summary.run == folder.name:
        return None
    try:
        info = read_info(folder)
        if read_json(folder / ORIGIN_FILE) != {"from": origin}:
            return None
        if info["position"] != info["count"] or not _same_recipe(info, segmenter, settings):
            return None
        clear_leftovers([folder], older_than=0)
        with contextlib.closing(reopen(folder, scan)) as found:
            if found.slices != list(range(scan.n_slices)) or found.region is not None:
                return None
            return found.run(segmenter, scan)
    except (RunFolderError, OSError, ValueError):
        return None


def _same_recipe(info: RunInfo, segmenter: Segmenter, settings: Settings) -> bool:
    """Whether a run was made with this model and these settings."""
    weights = info["model"]["weights_sha256"]
    return weights == segmenter.card.weights_sha256 and info["settings"] == settings.to_dict()


def _clear_unfinished(work: CaseWork) -> None:
    """Remove runs of this module that were broken off and could not go on: nobody saw them."""
    for folder in work.run_folders():
        if is_finished(folder):
            continue
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > OLD_SECONDS
            if (folder / ORIGIN_FILE).exists() or (old and not is_run_folder(folder)):
                shutil.rmtree(folder, ignore_errors=True)
