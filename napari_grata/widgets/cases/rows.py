"""What the list says about one case: figures, words, order and filter, without Qt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_grata.review.cases import CaseState

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case, Progress

_WAITING = (CaseState.NEW, CaseState.SEGMENTED)
_TO_REVIEW = (CaseState.ADAPTED, CaseState.FLAGGED)


@dataclass(frozen=True)
class CaseRow:
    """One line of the list.

    Attributes
    ----------
    key : str
        The case's code.
    number : int
        From 1, in the order of the list.
    title : str
        For the screen alone.
    state : CaseState
    change : float or None
        Share that changed between before and after, 0 … 1; None where it is not adapted.
    flags : int
        Slices that a person should look at, or kinds of flags where that is more.
    flag_words : tuple of str
        What was seen, a sentence each.
    shift : float or None
        How far it lies from the source centre.
    shift_words : str
    problem : str
        Why it could not be done or opened; "" if all is well.
    work : str
        What the worker does with it now; "" for nothing.
    share : float
        How much of that is done, 0 … 1.
    """

    key: str
    number: int
    title: str
    state: CaseState = CaseState.NEW
    change: float | None = None
    flags: int = 0
    flag_words: tuple[str, ...] = ()
    shift: float | None = None
    shift_words: str = ""
    problem: str = ""
    work: str = ""
    share: float = 0.0

    @property
    def change_words(self) -> str:
        """How much changed, as short as can be; "" where nothing is known."""
        if self.change is None:
            return ""
        percent = 100 * self.change
        return f"{percent:.1f} %" if 0.05 <= percent < 9.95 else f"{percent:.0f} %"

    @property
    def sentence(self) -> str:
        """All of the line as a sentence, for tooltips and screen readers."""
        parts = [f"{self.number}. {self.title}: {self.work or self.state.title}."]
        if self.change is not None:
            parts.append(f"{self.change_words} changed between before and after.")
        parts += self.flag_words
        if self.shift_words:
            parts.append(self.shift_words)
        if self.problem:
            parts.append(self.problem)
        return "\n".join(parts)


def row_of(cases: CaseList, case: Case, work: str = "", share: float = 0.0) -> CaseRow:
    """Return the line of a case; opens no file."""
    summary, problem = cases.summary(case), cases.problem(case) or ""
    row = CaseRow(
        case.key,
        case.number,
        case.title,
        cases.state(case),
        problem=problem,
        work=work,
        share=share,
    )
    if summary is None:
        return row
    return replace(
        row,
        change=summary.change if summary.adapted else None,
        flags=max(summary.flagged_slices, len(summary.flags)),
        flag_words=tuple(_flag_words(flag) for flag in summary.flags),
        shift=summary.shift,
        shift_words=summary.shift_words,
        problem=problem or summary.stale,
    )


def _flag_words(flag: object) -> str:
    count, text = getattr(flag, "count", 1), str(getattr(flag, "text", ""))
    return f"{text} (on {count} slices)" if count > 1 else text


FILTERS: dict[str, tuple[str, Callable[[CaseRow], bool]]] = {
    "all": ("All cases", lambda row: True),
    "open": ("Not decided", lambda row: not row.state.decided),
    "review": ("To review", lambda row: row.state in _TO_REVIEW),
    "flagged": ("Look closely", lambda row: row.flags > 0 and not row.state.decided),
    "new": ("New", lambda row: row.state in _WAITING),
    "accepted": ("Accepted", lambda row: row.state is CaseState.ACCEPTED),
    "kept": ("Mask before kept", lambda row: row.state is CaseState.KEPT_SOURCE),
    "edited": ("Being edited", lambda row: row.state is CaseState.EDITED),
    "rejected": ("Rejected", lambda row: row.state is CaseState.REJECTED),
    "second": ("Second reader", lambda row: row.state is CaseState.SECOND_READER),
    "failed": ("Could not be done", lambda row: row.state is CaseState.FAILED or bool(row.problem)),
}
_STATES = list(CaseState)
ORDERS: dict[str, tuple[str, Callable[[CaseRow], float | None]]] = {
    "list": ("In order", lambda row: row.number),
    "change": ("Change", lambda row: None if row.change is None else -row.change),
    "flags": ("Flags", lambda row: -row.flags if row.flags else None),
    "shift": ("Distance", lambda row: None if row.shift is None else -row.shift),
    "state": ("State", lambda row: _STATES.index(row.state)),
}


def arrange(rows: list[CaseRow], filtered: str, text: str, order: str) -> list[CaseRow]:
    """Return the lines that pass the filter and hold the text, in order.

    Cases without the figure that decides come last; equal ones stay in the order of the list.
    """
    passes = FILTERS.get(filtered, FILTERS["all"])[1]
    place = ORDERS.get(order, ORDERS["list"])[1]
    words = text.casefold().split()
    found = [
        row
        for row in rows
        if passes(row) and all(word in f"{row.number} {row.title}".casefold() for word in words)
    ]

    def key(row: CaseRow) -> tuple[bool, float, int]:
        value = place(row)
        return value is None, 0.0 if value is None else value, row.number

    return sorted(found, key=key)


def progress_words(progress: Progress) -> str:
    """Return how far the list is, such as ``"7 of 40 decided, 12 adapted"``."""
    text = f"{progress.decided} of {progress.total} decided, {progress.prepared} adapted"
    return f"{text}, {progress.failed} failed" if progress.failed else text
