"""Before adapting: how far is this scan from the source centre?

At each layer that kept statistics from training, the mean of what comes in now is compared with
the mean of what came in then, in standard deviations of then, averaged over the channels:

    d_l = mean_c |μ_now − μ_source| / sqrt(σ²_source + ε)

and a scan's distance is the mean of d_l over the layers. For a volume μ_now is taken over evenly
spaced slices together: single slices differ from one another far more than centres do, and as much
air is put around a head as the source centre's scans have. The card
says how large this distance is for scans of the source centre itself
(`napari_grata.segmenters.shift_reference`), which gives the number a meaning. No labels are
used, and the model is not changed. A scan that lies far is not wrong, and a near one is not
right: see docs/results.md for what the distance does and does not tell.

This module loads torch only when something is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .shift_words import (
    LayerShift,
    Shift,
    ShiftError,
    distance,
    far_words,
    judge,
    of_several,
    why_not,
)

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .choices import Region
    from .layer_statistics import LayerStatistics

__all__ = [
    "LayerShift",
    "Shift",
    "ShiftError",
    "case_layers",
    "distance",
    "far_words",
    "judge",
    "measure_case",
    "shift",
    "shifts",
    "slice_distance",
    "slices_to_look_at",
    "why_not",
]

SLICES = 12
"""Slices of a volume that are looked at; with 8 to 24 it differs by 8 % at most (IBSR A, B)."""
MANY_CASES = 40
"""Of longer lists of photographs so many, evenly spaced, stand for all."""


def shift(
    segmenter: Segmenter,
    scan: Scan,
    slices: Sequence[int] | None = None,
    region: Region | None = None,
) -> Shift:
    """Measure how far a scan is from the source centre: one forward pass a slice, no labels.

    Parameters
    ----------
    segmenter : Segmenter
        Its card has a ``shift`` block.
    scan : Scan
    slices : sequence of int, optional
        Only the photographs or volumes that these slices belong to. A volume is always measured
        over its whole extent: a few slices alone look peculiar in any volume.
    region : (row0, col0, row1, col1), optional
        What the model is shown of each slice.

    Returns
    -------
    Shift
        With several photographs or volumes: of the middle one by distance.

    Raises
    ------
    ShiftError
        The model has no reference or does not read the scan, or the scan shows nothing.
    """
    cases = sorted({scan.case_of(i) for i in (range(scan.n_slices) if slices is None else slices)})
    if len(cases) > MANY_CASES:
        cases = [cases[i] for i in _evenly(len(cases), MANY_CASES)]
    found = sorted(
        (one for _, one in shifts(segmenter, scan, cases, region)), key=lambda one: one.distance
    )
    if not found:
        raise ShiftError("The scan shows one single value throughout; there is nothing to measure.")
    middle = found[(len(found) - 1) // 2]
    return middle if len(found) == 1 else of_several(middle, found, scan)


def shifts(
    segmenter: Segmenter,
    scan: Scan,
    cases: Iterable[int] | None = None,
    region: Region | None = None,
) -> Iterator[tuple[int, Shift]]:
    """Measure each photograph or volume by itself: (case, Shift); blank ones are passed over.

    Raises
    ------
    ShiftError
        As `shift`.
    """
    card = segmenter.card
    problem = why_not(card) or card.fits(scan)
    if problem is not None:
        raise ShiftError(problem)
    for case in range(scan.n_cases) if cases is None else cases:
        found = measure_case(segmenter, scan, case, region)
        if found is not None:
            yield case, found


def measure_case(
    segmenter: Segmenter,
    scan: Scan,
    case: int,
    region: Region | None = None,
    *,
    between: Callable[[], None] | None = None,
) -> Shift | None:
    """Measure one photograph or volume; None if it shows nothing.

    Parameters
    ----------
    between : callable, optional
        Called before each slice; what it raises ends the measurement.

    Raises
    ------
    ShiftError
        As `shift`.
    """
    reference = segmenter.card.shift
    if reference is None:
        raise ShiftError(why_not(segmenter.card))
    layers = case_layers(
        segmenter,
        scan,
        case,
        region,
        count=reference.slices,
        frame=reference.frame,
        between=between,
    )
    return judge(layers, reference) if layers else None


def case_layers(
    segmenter: Segmenter,
    scan: Scan,
    case: int,
    region: Region | None = None,
    *,
    count: int = SLICES,
    frame: tuple[int, int] | None = None,
    between: Callable[[], None] | None = None,
) -> tuple[LayerShift, ...]:
    """Return each layer's distance for a photograph or volume; empty if it shows nothing.

    Parameters
    ----------
    count : int
        Slices that stand for a volume.
    frame : (int, int), optional
        As the card's reference says.
    between : callable, optional
        Called before each slice.
    """
    from .layer_statistics import slice_statistics

    found = []
    for index in slices_to_look_at(scan, case, count):
        if between is not None:
            between()
        found += [stats for _, stats in slice_statistics(segmenter, scan, [index], region, frame)]
    return _layers(segmenter, found) if found else ()


def slice_distance(
    segmenter: Segmenter,
    scan: Scan,
    index: int,
    region: Region | None = None,
    *,
    frame: tuple[int, int] | None = None,
) -> float | None:
    """Return the distance of one slice by itself; None if it shows nothing."""
    from .layer_statistics import slice_statistics

    found = [stats for _, stats in slice_statistics(segmenter, scan, [index], region, frame)]
    return distance(_layers(segmenter, found)) if found else None


def slices_to_look_at(scan: Scan, case: int, count: int = SLICES) -> list[int]:
    """Return evenly spaced slices of a case that show something, away from both ends."""
    slices = [i for i in range(scan.n_slices) if scan.case_of(i) == case]
    if len(slices) > 1:
        slices = [i for i in slices if np.ptp(scan.read_slice(i)) > 0]
    return [slices[i] for i in _evenly(len(slices), count)]


def _layers(
    segmenter: Segmenter, found: Sequence[Mapping[str, LayerStatistics]]
) -> tuple[LayerShift, ...]:
    """Statistics of slices together, beside the source's."""
    from .layer_statistics import source_statistics

    layers = []
    for name, source in source_statistics(segmenter.network).items():
        passes = [stats[name] for stats in found if name in stats]
        if not passes:
            continue
        means = np.stack([one.mean for one in passes])
        mean = means.mean(axis=0)
        # Variance within the slices and between them.
        variance = np.stack([one.variance for one in passes]).mean(axis=0) + means.var(axis=0)
        ratio = np.log(np.maximum(variance, 1e-12) / source.variance).mean()
        layers.append(
            LayerShift(
                name,
                float((np.abs(mean - source.mean) / np.sqrt(source.variance)).mean()),
                float(np.exp(ratio)),
            )
        )
    if not layers:
        raise ShiftError(
            "This network keeps no statistics of its training (no batch normalisation), so there "
            "is nothing to compare a scan with."
        )
    if not all(np.isfinite(layer.mean) for layer in layers):
        raise ShiftError("The model answers this scan with values that are not numbers.")
    return tuple(layers)


def _evenly(total: int, count: int) -> list[int]:
    """Return `count` of `total` places, evenly spaced, half a step away from both ends."""
    if total <= count:
        return list(range(total))
    return [int((k + 0.5) * total / count) for k in range(count)]
