"""Boil a run on a case down to what its list shows: the summary and the small picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.records import Record
from napari_grata.adaptation.run_files import fingerprint

from .cases import Case, CaseSummary, CountedFlag, file_marks
from .compare import Summary, latest_flags, summarise
from .decisions import digest
from .thumbnails import telling_slice, thumbnail

if TYPE_CHECKING:
    from napari_grata.adaptation.run import AdaptationRun

    from .caselist import CaseList


def counted_flags(flags: dict[int, tuple]) -> tuple[CountedFlag, ...]:
    """Return each kind of flag once, with its number of slices, the most frequent first."""
    found: dict[str, CountedFlag] = {}
    for index in sorted(flags):
        for flag in flags[index]:
            known = found.get(flag.code)
            found[flag.code] = (
                CountedFlag(flag.code, flag.text, 1, index)
                if known is None
                else CountedFlag(flag.code, known.text, known.count + 1, known.first_slice)
            )
    return tuple(sorted(found.values(), key=lambda flag: -flag.count))


def mean_change(summary: Summary) -> float:
    """Return 1 − mean Dice between before and after over the structures, 0 … 1."""
    agreement = [part.agreement for part in summary.total]
    return 1 - sum(agreement) / len(agreement) if agreement else 0.0


def keep_run(
    caselist: CaseList,
    case: Case,
    run: AdaptationRun,
    *,
    shift: Any = None,
    seconds: float | None = None,
    continued_from: str = "",
) -> CaseSummary:
    """Write a case's summary and picture from a run on it, as the run stands now.

    For the run ahead of the reader, and for one that the reader watched, rolled back or resumed.

    Parameters
    ----------
    run : AdaptationRun
        Its folder lies in the case's.
    shift : Shift, optional
        How far the scan lies from the source centre; kept from the last time if not given.
    seconds : float, optional
        Time it took; by default that of the steps.
    continued_from : str
        Key of the case whose adapted model the run began with.

    Raises
    ------
    ListError
        If it cannot be written.
    """
    work, card, scan = caselist.work(case), run.segmenter.card, run.scan
    records: Iterable[Record] = run.past.without_masks()[: run.position]
    adapted_masks = run.adapted_masks
    flags = latest_flags(records)
    table = summarise(scan, card, run.source_masks, adapted_masks, flags)
    before = work.summary
    score = None if before is None else before.shift
    words = "" if before is None else before.shift_words
    if shift is not None:
        score, words = float(shift.score), str(shift.words)
    learnt = run.settings.method != "source"
    summary = CaseSummary(
        segmented=True,
        adapted=learnt and bool(adapted_masks),
        flags=counted_flags(flags),
        flagged_slices=sum(bool(found) for found in flags.values()),
        change=mean_change(table),
        shift=score,
        shift_words=words,
        seconds=sum(record.seconds for record in records) if seconds is None else seconds,
        edited=bool(work.edit_version),
        slices=len(run.slices),
        model=card.name,
        weights_sha256=card.weights_sha256 or "",
        settings=digest(run.settings.to_dict()),
        run=run.folder.name if run.folder is not None else "",
        step=run.step,
        scan_sha256=fingerprint(scan),
        files=file_marks(case.sources),
        continued_from=continued_from,
        notices=tuple(run.notices),
    )
    index = telling_slice(table, scan.n_slices)
    work.write_thumbnail(thumbnail(scan, index, card, run.source_masks, adapted_masks))
    # Last: a case with a summary is done, and all the rest is there.
    work.write_summary(summary)
    return summary


def keep_failure(
    caselist: CaseList, case: Case, error: str, *, model: str = "", weights: str = "", seconds=0.0
) -> CaseSummary:
    """Note in a case's summary why it could not be done; what was known of it stays.

    Raises
    ------
    ListError
        If it cannot be written.
    """
    work = caselist.work(case)
    known = work.summary or CaseSummary(model=model, weights_sha256=weights)
    summary = known.but(error=error, seconds=seconds, files=file_marks(case.sources))
    work.write_summary(summary)
    return summary
