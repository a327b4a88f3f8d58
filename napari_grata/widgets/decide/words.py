"""What the dock says about decisions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from napari_grata.review.cases import STATE_OF_VERDICT

if TYPE_CHECKING:
    from napari_grata.review.cases import Decision

# As the case list calls a case that was decided on in this way.
VERDICT_WORDS = {verdict: state.title for verdict, state in STATE_OF_VERDICT.items()}
# Told apart by their shape alone.
MARKS = {"accept": "✓", "keep-source": "↩", "edit": "✎", "reject": "✕", "second-reader": "2"}
STALE = "The mask has changed since: look again."


def when(time: str, now: datetime | None = None) -> str:
    """Return a UTC time of the log in the person's own: "14:02", "20 Nov 14:02"."""
    try:
        there = datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone()
    except ValueError:
        return ""
    now = (now or datetime.now()).astimezone()
    if there.date() == now.date():
        return f"{there:%H:%M}"
    return f"{there.day} {there:%b %H:%M}" if there.year == now.year else f"{there:%Y-%m-%d}"


def decided(decision: Decision) -> str:
    """Return a decision in words: "accepted by AB, 14:02"."""
    by = f" by {decision.reviewer}" if decision.reviewer else ""
    time = when(decision.time)
    return f"{VERDICT_WORDS[decision.verdict]}{by}" + (f", {time}" if time else "")


def place(slice_index: int | None, name: str, kind: str = "volume") -> str:
    """Return what a decision is about: a slice's name, or what a whole scan of a kind is."""
    if slice_index is not None:
        return name[:1].upper() + name[1:]
    wholes = {"photograph": "Photograph", "image": "Image", "photographs": "All photographs"}
    return wholes.get(kind, "Whole case")


def sentence(
    where: str,
    own: Decision | None,
    of_case: Decision | None,
    *,
    stale: bool,
    undo_key: str,
    whole: str = "Whole case",
) -> str:
    """Return the present decision as a sentence.

    Parameters
    ----------
    where : str
        As from `place`.
    own, of_case : Decision or None
        On this place; on the whole case, where the place is a slice.
    stale : bool
        Whether the mask has changed since.
    whole : str
        What the whole case is called.
    """
    if own is not None:
        tail = f" {STALE}" if stale else f" Undo: {undo_key}"
        return f"{where}: {decided(own)}.{tail}"
    if of_case is not None:
        return f"{where}: not decided by itself. {whole}: {decided(of_case)}."
    return f"{where}: not decided yet."


def progress(current: Mapping[int | None, Decision], slices: int, noun: str) -> str:
    """Return how many slices are decided on."""
    done = sum(index is not None for index in current)
    return f"{done} of {slices} {noun}{'s' if slices != 1 else ''} decided"


def line(decision: Decision, where: str, *, stale: bool) -> str:
    """Return a decision as a line of the list."""
    parts = [f"{where}: {decided(decision)}"]
    if decision.difficulty:
        parts.append(decision.difficulty)
    if decision.comment:
        parts.append(f"“{decision.comment}”")
    if stale:
        parts.append("mask changed since")
    return " · ".join(parts)
