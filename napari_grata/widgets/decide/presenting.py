"""What bar, section and table show of a docket: plain values, no widgets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_grata.widgets.decide import words
from napari_grata.widgets.decide.bar import BUTTONS
from napari_grata.widgets.keys import key_of

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.widgets.decide.docket import Docket
    from napari_grata.widgets.decide.standing import Standing
    from napari_grata.widgets.session import Session

Place = tuple[str, "int | None"]
NO_MASK = "There is no mask to decide on yet."


@dataclass(frozen=True)
class Account:
    """All decisions on a case.

    Attributes
    ----------
    lines : list of (int or None, str)
        Slice and words of each, the latest first.
    marks : dict of int to (str, str)
        Sign and words by slice, for the table.
    progress : str
        How many slices are decided on; "" for a single picture.
    """

    lines: list[tuple[int | None, str]] = field(default_factory=list)
    marks: dict[int, tuple[str, str]] = field(default_factory=dict)
    progress: str = ""


def noun_of(scan: Scan | None) -> str:
    """Return what a person calls one picture of a scan."""
    return "photograph" if scan is not None and scan.kind.startswith("photo") else "slice"


def reasons(session: Session | None, place: Place | None, docket: Docket | None) -> dict[str, str]:
    """Return why a verdict cannot be given now, by verdict; those that can are left out."""
    common = ""
    if session is None or not (session.segmented or session.adapted):
        common = NO_MASK
    elif session.busy:
        common = "Wait until the run has ended."
    elif place is None or docket is None:
        common = "The decisions so far are being read."
    elif docket.log.read_only:
        common = docket.log.read_only
    if common or session is None or place is None:
        return {verdict: common or NO_MASK for verdict, *_ in BUTTONS}
    found = {}
    index = place[1]
    after = bool(session.adapted) if index is None else index in session.adapted
    before = bool(session.segmented) if index is None else index in session.segmented
    if not after:
        found = dict.fromkeys(("accept", "edit"), "There is no mask after here yet.")
    if not before:
        found["keep-source"] = "There is no mask before here."
    if not before and not after:
        found |= dict.fromkeys(("reject", "second-reader"), "There is no mask here yet.")
    return found


def sentence(
    place: Place,
    docket: Docket,
    scan: Scan,
    session: Session | None,
    standing: Standing,
) -> tuple[str | None, str, str]:
    """Return the verdict in force on a place, the sentence about it, and its tone."""
    current = docket.current()
    own = current.get(place[1])
    if own is None and docket.log.read_only:
        return None, docket.log.read_only, "warning"
    if own is None and (session is None or not (session.segmented or session.adapted)):
        return None, NO_MASK, "plain"
    there = session.segmented | session.adapted if session is not None else set()
    if own is None and place[1] is not None and place[1] not in there:
        where = words.place(place[1], scan.slice_name(place[1]))
        return None, f"{where}: there is no mask of it.", "plain"
    stale = own is not None and standing.stale(session, own)
    text = words.sentence(
        words.place(place[1], "" if place[1] is None else scan.slice_name(place[1]), scan.kind),
        own,
        current.get(None) if place[1] is not None else None,
        stale=stale,
        undo_key=key_of("undo_decision"),
        whole=words.place(None, "", scan.kind),
    )
    return own.verdict if own is not None else None, text, "warning" if stale else "plain"


def account(
    docket: Docket | None, scan: Scan | None, session: Session | None, standing: Standing
) -> Account:
    """Return all decisions on the case in view, in words."""
    if docket is None or scan is None:
        return Account()
    current = docket.current()
    lines: list[tuple[int | None, str]] = []
    marks: dict[int, tuple[str, str]] = {}
    for decision in sorted(current.values(), key=lambda found: -found.number):
        index = decision.slice_index
        if index is not None and index >= scan.n_slices:
            continue
        stale = standing.stale(session, decision)
        where = words.place(index, "" if index is None else scan.slice_name(index), scan.kind)
        text = words.line(decision, where, stale=stale)
        sign = words.MARKS[decision.verdict]
        lines.append((index, f"{sign}  {text}"))
        if index is not None:
            marks[index] = (f"{sign}!" if stale else sign, text)
    there = (session.adapted or session.segmented) if session is not None else set()
    counted = len(there | marks.keys()) or scan.n_slices
    done = words.progress(current, counted, noun_of(scan)) if scan.n_slices > 1 else ""
    return Account(lines, marks, done)
