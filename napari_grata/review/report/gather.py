"""From a list of cases to what a report tells of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from napari_grata.review.final_masks import VERDICT_WORDS, CaseMasks, is_stale
from napari_grata.review.report.case import ReportCase, ReportDecision, case_of_run

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.scans import Scan


def report_cases(cases: CaseList, keys: Iterable[str] | None = None) -> Iterator[ReportCase]:
    """Yield the cases of a list for a report, one at a time; each is read when its turn comes.

    Parameters
    ----------
    cases : CaseList
    keys : iterable of str, optional
        Only these cases, in the list's order; all by default.
    """
    wanted = None if keys is None else set(keys)
    for case in cases.cases:
        if wanted is None or case.key in wanted:
            yield _report_case(cases, case.key)


def _report_case(cases: CaseList, key: str) -> ReportCase:
    from napari_grata.adaptation import RunFolderError

    work, summary = cases.work(key), cases.summary(key)
    problem = cases.problem(key) or (summary.stale if summary is not None else "")
    more: dict[str, Any] = {
        "state": cases.state(key).title,
        "shift": summary.shift_words if summary is not None else "",
    }
    folder = work.run_folder
    if folder is None:
        return ReportCase(key, decisions=decisions_of(cases, key, None), problem=problem, **more)
    try:
        found = case_of_run(folder, key, work=work, **more)
    except (RunFolderError, OSError) as error:
        # Not the message as it is: it may hold a path, and that may name a patient.
        why = f"Its run {folder.name} cannot be read ({type(error).__name__})."
        return ReportCase(key, decisions=decisions_of(cases, key, None), problem=why, **more)
    decisions = decisions_of(cases, key, found.scan, found.masks)
    said = " ".join(dict.fromkeys(part for part in (problem, found.problem) if part))
    return found.but(decisions=decisions, problem=said)


def decisions_of(
    cases: CaseList, key: str, scan: Scan | None, masks: CaseMasks | None = None
) -> tuple[ReportDecision, ...]:
    """Return the decisions in force on a case, the whole case first, for a report."""
    now = cases.mask_now(key)
    current = cases.decisions(key)
    order = sorted(current, key=lambda index: -1 if index is None else index)
    return tuple(
        ReportDecision(
            where=_where(index, scan),
            verdict=VERDICT_WORDS[current[index].verdict],
            time=current[index].time,
            reviewer=current[index].reviewer,
            difficulty=current[index].difficulty,
            comment=current[index].comment,
            stale=is_stale(current[index], masks, now),
        )
        for index in order
    )


def _where(index: int | None, scan: Scan | None) -> str:
    if index is None:
        return "whole case"
    if scan is None or scan.kind in ("photograph", "photographs"):
        return f"{'slice' if scan is None else 'photograph'} {index + 1}"
    return scan.slice_name(index)
