"""Where a run is worth a look: the largest change, the lowest similarity, the first flag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from napari_grata.adaptation.records import Flag, Record
from napari_grata.widgets.slice_rows import AreaUnit, SliceRow

RESULT = -1


@dataclass(frozen=True)
class Landmark:
    """A place in a run.

    Attributes
    ----------
    slice_index : int or None
        None where there is no such place.
    step : int
        After which step; −1: in the result itself.
    sentence : str
        Where that is and why it was chosen.
    """

    slice_index: int | None
    step: int
    sentence: str


def differing(
    before: Mapping[str, int], after: Mapping[str, int], dice: Mapping[str, float]
) -> dict[str, float]:
    """Return in how many pixels two masks differ, per structure.

    From areas and Dice D alone: |A Δ B| = (|A| + |B|)·(1 − D).
    """
    found = {}
    for name, agreement in dice.items():
        if name in before and name in after and not math.isnan(agreement):
            found[name] = (before[name] + after[name]) * (1.0 - agreement)
    return found


def largest_change(
    rows: Iterable[SliceRow],
    records: Iterable[Record],
    slice_name: Callable[[int], str],
) -> Landmark:
    """Find where the adapted mask differs most from the source mask, in area.

    Parameters
    ----------
    rows : iterable of SliceRow
        The masks in use now, a row a slice.
    records : iterable of Record
        Events whose masks count as well, each at its own step; none where another state of the
        run is in use.
    """
    rows = list(rows)
    best, place = 0.0, None
    for record in records:
        if record.phase == "adapt":
            parts = differing(record.source_area, record.adapted_area, record.agreement)
            pixels = sum(parts.values())
            if pixels > best:
                best, place = pixels, (record.slice_index, record.step, parts)
    for row in rows:
        parts = differing(row.before, row.after, row.dice)
        pixels = sum(parts.values())
        # As the stream goes by a step's mask is the result: the step says more.
        if pixels > best * (1 + 1e-9):
            best, place = pixels, (row.slice_index, RESULT, parts)
    if place is None:
        return Landmark(None, RESULT, "No slice was changed: the masks are the same everywhere.")
    index, step, parts = place
    name = max(parts, key=lambda part: parts[part])
    unit = AreaUnit.of(rows, name)
    amount = unit.write(parts[name])
    return Landmark(
        index,
        step,
        f"Largest change: {slice_name(index)}{_at(step)}. {amount} {unit.name} of {name} differ "
        "from the mask before.",
    )


def lowest_similarity(records: Iterable[Record], slice_name: Callable[[int], str]) -> Landmark:
    """Find the step at which the two signals agreed least."""
    known = [
        record
        for record in records
        if record.phase == "adapt"
        and not record.undone
        and record.cosine is not None
        and math.isfinite(record.cosine)
    ]
    if not known:
        return Landmark(None, RESULT, "This run has no similarity: its method aligns nothing.")
    lowest = min(known, key=lambda record: record.cosine or 0.0)
    cosine = f"{lowest.cosine:.2f}".replace("-", "−")
    return Landmark(
        lowest.slice_index,
        lowest.step,
        f"Lowest similarity: {cosine} at step {lowest.step}, {slice_name(lowest.slice_index)}. "
        "The two signals agreed least there.",
    )


def first_flag(
    flags: Mapping[int, tuple[Flag, ...]],
    records: Iterable[Record],
    slice_name: Callable[[int], str],
) -> Landmark:
    """Find the first slice, in the order of the run, that needs a look.

    Parameters
    ----------
    flags : mapping of int to tuple of Flag
        Of the masks in use now, by slice.
    """
    order: dict[int, int] = {}
    step_of: dict[int, int] = {}
    for record in records:
        order.setdefault(record.slice_index, len(order))
        if record.phase == "adapt" and record.flags:
            step_of.setdefault(record.slice_index, record.step)
    flagged = [index for index, found in flags.items() if found]
    if not flagged:
        return Landmark(None, RESULT, "No slice is flagged.")
    index = min(flagged, key=lambda one: (order.get(one, len(order)), one))
    step = step_of.get(index, 0) or RESULT
    text = flags[index][0].text.rstrip(".")
    return Landmark(
        index, step, f"First flag: {slice_name(index)}{_at(step)}. {text[:1].upper()}{text[1:]}."
    )


def _at(step: int) -> str:
    return f", step {step}" if step >= 0 else ", in the result"
