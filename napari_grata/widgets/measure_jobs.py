"""What the worker does for "Measurements": generators that measure, save and read a truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.review import measurement_table as tables
from napari_grata.review.measurements import (
    TRUTH,
    Masks,
    Measurement,
    StackMasks,
    mask_sets,
    measure_case,
    measure_slice,
    measured_cases,
    measured_slices,
)
from napari_grata.review.truth import Truth, as_truth
from napari_grata.scans import read_mask

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card
    from napari_grata.widgets.session import Session


def _sets(scan: Scan, stacks: dict[str, Any]) -> tuple[dict[str, Masks], Truth | None]:
    """Return the masks to be measured; where somebody drew, "edited" among them."""
    before, after = (StackMasks(scan, *stacks[which]) for which in ("before", "after"))
    drawn, truth = stacks["drawn"], stacks["truth"]
    edited = None
    if drawn is not None:
        shown = StackMasks(scan, drawn, after)
        if any(not np.array_equal(shown[i], after[i]) for i in after):
            edited = shown
    real = None if truth is None else StackMasks(scan, truth.stack, range(scan.n_slices))
    return mask_sets(before, after, real, edited), truth


def measured(
    scan: Scan, card: Card, stacks: dict[str, Any], index: int | None, case: int | None
) -> Iterator[list[Measurement]]:
    """Measure one slice, or one case."""
    if index is not None:
        one = {
            which: (stack, [index] if index in slices else [])
            for which, (stack, slices) in ((w, stacks[w]) for w in ("before", "after"))
        }
        sets, truth = _sets(scan, {**stacks, **one})
        yield _told(measure_slice(scan, card, sets, index), truth)
    elif case is not None:
        sets, truth = _sets(scan, stacks)
        for structure in card.structures:
            yield _told(measure_case(scan, card, sets, case, [structure]), truth)


def _told(found: list[Measurement], truth: Truth | None) -> list[Measurement]:
    """Leave out what a truth cannot tell: structures that it does not show."""
    return [
        item
        for item in found
        if truth is None
        or item.structure in truth.structures
        or not (item.which == "truth" or item.name.endswith(TRUTH))
    ]


def saved(scan: Scan, card: Card, stacks: dict[str, Any], path: Path) -> Iterator[Path | None]:
    """Measure everything and write it; None after each slice, so that closing need not wait."""
    sets, truth = _sets(scan, stacks)
    found: list[Measurement] = []
    for index in measured_slices(sets):
        found += _told(measure_slice(scan, card, sets, index), truth)
        yield None
    for case in measured_cases(scan, sets):
        found += _told(measure_case(scan, card, sets, case), truth)
    yield tables.save_csv(found, path)


def read_truth(path: Path, session: Session, scan: Scan, card: Card) -> Iterator[Any]:
    """Read a truth for a session."""
    yield session, as_truth(read_mask(path, scan), scan, card)
