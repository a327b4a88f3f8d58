"""The list of cases as rows: figures and words of each, filter, order, and Qt's model of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractListModel, QModelIndex, Qt

from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import CaseState, CaseSummary
from napari_grata.widgets.theme import tip

if TYPE_CHECKING:
    from napari_grata.review.cases import Case, Progress

_RECENT = 12
ROW_ROLE = int(Qt.ItemDataRole.UserRole) + 1
# Told apart by their shape; colours of Okabe and Ito (2008).
STATE_SIGNS = {
    CaseState.NEW: ("○", "#888888"),
    CaseState.SEGMENTED: ("◐", "#888888"),
    CaseState.ADAPTED: ("●", "#56B4E9"),
    CaseState.FLAGGED: ("▲", "#E69F00"),
    CaseState.ACCEPTED: ("✓", "#009E73"),
    CaseState.KEPT_SOURCE: ("↩", "#009E73"),
    CaseState.EDITED: ("✎", "#CC79A7"),
    CaseState.REJECTED: ("✕", "#D55E00"),
    CaseState.SECOND_READER: ("2", "#0072B2"),
    CaseState.FAILED: ("!", "#D55E00"),
}
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
        parts = [f"{self.number}. {self.title}: {self.work or self.state.value}."]
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
    summary = cases.summary(case) or CaseSummary()
    return CaseRow(
        case.key,
        case.number,
        case.title,
        cases.state(case),
        change=summary.change if summary.adapted else None,
        flags=max(summary.flagged_slices, len(summary.flags)),
        flag_words=tuple(
            f"{flag.text} (on {flag.count} slices)" if flag.count > 1 else flag.text
            for flag in summary.flags
        ),
        shift=summary.shift,
        shift_words=summary.shift_words,
        problem=cases.problem(case) or summary.stale,
        work=work,
        share=share,
    )


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


def when(time: str) -> str:
    """Return a time of a list in the user's own: "14:02", "20 Nov 14:02"; "" for none."""
    try:
        there = datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone()
    except ValueError:
        return ""
    now = datetime.now().astimezone()
    if there.date() == now.date():
        return f"{there:%H:%M}"
    return f"{there.day} {there:%b %H:%M}" if there.year == now.year else f"{there:%Y-%m-%d}"


def recent_lists() -> list[tuple[str, str]]:
    """Return folder and words of the lists that were open of late; opens their files."""
    # A scan that was opened by itself is a list of one, which nobody has made.
    lists = [entry for entry in CaseList.recent() if entry.cases > 1 or entry.problem][:_RECENT]
    return [
        (
            str(e.folder),
            e.problem or f"{e.title}: {e.decided} of {e.cases} decided, {when(e.when)}",
        )
        for e in lists
    ]


def progress_words(progress: Progress) -> str:
    """Return how far the list is, such as ``"7 of 40 decided, 12 adapted"``."""
    text = f"{progress.decided} of {progress.total} decided, {progress.prepared} adapted"
    return f"{text}, {progress.failed} failed" if progress.failed else text


class CaseModel(QAbstractListModel):
    """Cases as they pass the filter, sorted by the model itself with plain keys.

    The case in view is always listed, and where it stood when it came into view: otherwise it
    would vanish from under the reader's hands, or take "next" along to the end of the list, as
    soon as it is decided on.

    Attributes
    ----------
    current : str or None
        Code of the case in view.
    """

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._all: dict[str, CaseRow] = {}
        self._rows: list[CaseRow] = []
        self._place: dict[str, int] = {}
        self._filter, self._text, self._order = "all", "", "list"
        self.current: str | None = None
        self._anchor: CaseRow | None = None

    # --- what the panel calls ----------------------------------------------------------------

    @property
    def rows(self) -> Sequence[CaseRow]:
        """The rows in the order shown."""
        return self._rows

    @property
    def total(self) -> int:
        """Number of cases, shown or not."""
        return len(self._all)

    def row(self, key: str) -> CaseRow | None:
        """Return the line of a case, shown or not."""
        return self._all.get(key)

    def place_of(self, key: str | None) -> int | None:
        """Return where a case stands, None if it is not shown."""
        return None if key is None else self._place.get(key)

    def set_rows(self, rows: Iterable[CaseRow]) -> None:
        """Replace all rows."""
        self._all = {row.key: row for row in rows}
        self._anchor = self._all.get(self.current or "")
        self._reset()

    def set_current(self, key: str | None) -> None:
        """Mark the case in view."""
        before, self.current = self.current, key
        self._anchor = self._all.get(key or "")
        self._rearrange()
        for case in (before, key):
            self.redraw(case)

    def choose(self, filtered: str, text: str, order: str) -> None:
        """Filter by state and text, and sort."""
        if (filtered, text, order) != (self._filter, self._text, self._order):
            self._filter, self._text, self._order = filtered, text, order
            self._anchor = self._all.get(self.current or "")
            self._reset()

    def update_rows(self, rows: Iterable[CaseRow]) -> None:
        """Take new lines of some cases, all at once."""
        changed = [row for row in rows if self._all.get(row.key) != row]
        if not changed:
            return
        self._all.update((row.key, row) for row in changed)
        for row in changed:
            place = self._place.get(row.key)
            if place is not None:
                self._rows[place] = row
        self._rearrange()
        for row in changed:
            self.redraw(row.key)

    def redraw(self, key: str | None) -> None:
        """Draw the line of a case anew, such as with another picture."""
        place = self.place_of(key)
        if place is not None:
            index = self.index(place, 0)
            self.dataChanged.emit(index, index)

    def step(self, key: str | None, by: int) -> str | None:
        """Return the case after (1) or before (−1) one in the order shown; None at the end."""
        place = self.place_of(key)
        if place is None:
            place = -1 if by > 0 else len(self._rows)
        there = place + by
        return self._rows[there].key if 0 <= there < len(self._rows) else None

    # --- inside ------------------------------------------------------------------------------

    def _wanted(self) -> list[CaseRow]:
        everything = dict(self._all)
        if self._anchor is not None:
            everything[self._anchor.key] = self._anchor
        rows = arrange(list(everything.values()), self._filter, self._text, self._order)
        if self._anchor is not None and self._anchor not in rows:
            keys = {row.key for row in rows} | {self._anchor.key}
            rows = arrange([everything[key] for key in keys], "all", "", self._order)
        return [self._all[row.key] for row in rows]

    def _take(self, rows: list[CaseRow]) -> None:
        self._rows = rows
        self._place = {row.key: place for place, row in enumerate(rows)}

    def _reset(self) -> None:
        self.beginResetModel()
        self._take(self._wanted())
        self.endResetModel()

    def _rearrange(self) -> None:
        """Put rows in order again where that changes anything; the view keeps its selection."""
        wanted = self._wanted()
        if [row.key for row in wanted] == [row.key for row in self._rows]:
            self._rows = wanted
            return
        if len(wanted) != len(self._rows):
            self._reset()
            return
        self.layoutAboutToBeChanged.emit()
        held = self.persistentIndexList()
        keys = [self._rows[index.row()].key for index in held]
        self._take(wanted)
        moved = [
            self.index(self._place[key], 0) if key in self._place else QModelIndex() for key in keys
        ]
        self.changePersistentIndexList(held, moved)
        self.layoutChanged.emit()

    # --- Qt's side -----------------------------------------------------------------------------

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of cases shown."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a line shows."""
        if not index.isValid() or index.row() >= len(self._rows):
            return None
        row = self._rows[index.row()]
        if role == ROW_ROLE:
            return row
        if role == Qt.ItemDataRole.DisplayRole:
            return row.title
        if role == Qt.ItemDataRole.ToolTipRole:
            return tip(row.sentence)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return row.sentence.replace("\n", " ")
        return None
