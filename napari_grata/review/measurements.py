"""What masks measure: areas, volumes, diameters, cup-to-disc ratios, and how far masks differ.

Distances and overlap follow the conventions of `napari_grata.evaluation.metrics`. A truth that is
given here is compared with and nothing else: it is never kept, and no model sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.evaluation.metrics import dice, surface_distances
from napari_grata.review.diameters import Diameters, diameters
from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Structure

Masks = Mapping[int, np.ndarray]

AREA = "Area"
VOLUME = "Volume"
LARGEST = "Largest diameter"
SMALLEST = "Smallest diameter"
VERTICAL = "Vertical diameter"
HORIZONTAL = "Horizontal diameter"
DICE = "Dice"
HAUSDORFF = "Hausdorff distance"
HAUSDORFF95 = "Hausdorff distance, 95 %"
TRUTH = " to the truth"

EMPTY = "The mask is empty: there is nothing to measure."
ONE_EMPTY = "One of the two masks is empty: there is no distance."
NO_SPACING = "The file does not tell the size of a pixel."
BETWEEN = "between"


class StackMasks(Mapping[int, np.ndarray]):
    """Slices of a label stack as a mapping that copies one only when it is asked for.

    Parameters
    ----------
    scan : Scan
    stack : ndarray of int, shape ``scan.mask_shape``
    slices : iterable of int
        Flat numbers of the slices that count.
    """

    def __init__(self, scan: Scan, stack: np.ndarray, slices: Iterable[int]) -> None:
        self._scan, self._stack = scan, stack
        self._slices = dict.fromkeys(sorted(slices))

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self._slices:
            raise KeyError(index)
        return self._scan.get_mask(self._stack, index)

    def __iter__(self) -> Iterator[int]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


@dataclass(frozen=True)
class Measurement:
    """One figure.

    Attributes
    ----------
    structure : str
        Name of the structure.
    slice_index : int or None
        Flat number of the slice; None for a whole case.
    name : str
        The quantity, one of this module's words; with `TRUTH` behind it, the mask against the
        truth.
    value : float or None
        None where it cannot be measured; `note` says why.
    unit : str
        "mm²", "mL", "mm", "px", "voxels" or "" for ratios.
    which : {"before", "after", "edited", "truth", "between"}
        The mask that was measured; "between": before against after (as edited, where it is).
    case : int
        Of the scan: 0, or the number of the photograph or time point.
    note : str
        What to know about this figure.
    """

    structure: str
    slice_index: int | None
    name: str
    value: float | None
    unit: str
    which: str
    case: int = 0
    note: str = ""


def measurements(
    scan: Scan,
    card: Card,
    before: Masks,
    after: Masks,
    truth: Masks | None = None,
    *,
    edited: Masks | None = None,
) -> list[Measurement]:
    """Measure every slice that has a mask, and every case.

    Parameters
    ----------
    before, after, truth, edited : mapping of int to ndarray of int, shape (H, W)
        Label maps by flat slice number, in the card's values. ``edited``: the mask after as a
        person has changed it.

    Returns
    -------
    list of Measurement
        Slices in order, then cases; see `measure_slice` and `measure_case`.
    """
    sets = mask_sets(before, after, truth, edited)
    found: list[Measurement] = []
    for index in measured_slices(sets):
        found += measure_slice(scan, card, sets, index)
    for case in measured_cases(scan, sets):
        found += measure_case(scan, card, sets, case)
    return found


def mask_sets(
    before: Masks, after: Masks, truth: Masks | None = None, edited: Masks | None = None
) -> dict[str, Masks]:
    """Return the masks by what they are, those that are not there left out."""
    given = {"before": before, "after": after, "edited": edited, "truth": truth}
    return {which: masks for which, masks in given.items() if masks}


def measured_slices(sets: Mapping[str, Masks]) -> list[int]:
    """Return the slices with a mask other than the truth's alone, in order."""
    return sorted({i for which, masks in sets.items() if which != "truth" for i in masks})


def measured_cases(scan: Scan, sets: Mapping[str, Masks]) -> list[int]:
    """Return the cases that have more than one slice; a photograph's slice says it all."""
    if scan.n_slices == scan.n_cases:
        return []
    return sorted({scan.case_of(i) for i in measured_slices(sets)})


def measure_slice(
    scan: Scan, card: Card, sets: Mapping[str, Masks], index: int
) -> list[Measurement]:
    """Measure one slice: areas, diameters, ratios, overlap and distances.

    Parameters
    ----------
    sets : mapping of str to masks
        As from `mask_sets`.
    index : int
        Flat slice number.
    """
    spacing = scan.slice_spacing
    step = (1.0, 1.0) if spacing is None else spacing
    unit = "px" if spacing is None else "mm"
    note = NO_SPACING if spacing is None else ""
    case = scan.case_of(index)
    found: list[Measurement] = []
    labels = {which: np.asarray(masks[index]) for which, masks in sets.items() if index in masks}
    for structure in card.structures:
        masks = {which: structure_mask(card, label, structure) for which, label in labels.items()}
        wide = {which: diameters(mask, step) for which, mask in masks.items()}
        for which, mask in masks.items():
            area = float(mask.sum()) * step[0] * step[1]
            area_unit = "px" if spacing is None else "mm²"
            found.append(
                Measurement(structure.name, index, AREA, area, area_unit, which, case, note)
            )
            for name, value in _widths(wide[which], pictures=card.dimensions == 2):
                why = note if value is not None else EMPTY
                found.append(
                    Measurement(structure.name, index, name, value, unit, which, case, why)
                )
        found += _ratios(card, structure, labels, wide, step, index, case)
        found += _pairs(structure.name, masks, step, unit, note, index, case)
    return found


def measure_case(
    scan: Scan,
    card: Card,
    sets: Mapping[str, Masks],
    case: int,
    structures: Iterable[Structure] | None = None,
) -> list[Measurement]:
    """Measure a case of several slices as a whole, over the slices that all masks have.

    A volume in mL needs the distance of the slices; without it voxels are counted.
    ``structures``: measure these alone.
    """
    own = scan.case_slices(case)
    shared = sorted(set.intersection(*(set(masks) for masks in sets.values())) & set(own))
    if not shared:
        return []
    spacing, thickness = scan.slice_spacing, scan.slice_thickness
    known = spacing is not None and thickness is not None
    grid = (thickness, *spacing) if spacing is not None and thickness is not None else (1.0,) * 3
    millilitres = grid[0] * grid[1] * grid[2] / 1000 if known else 1.0
    plane = spacing or (1.0, 1.0)
    note = "" if known else "The file does not tell the size of a voxel."
    part = "" if len(shared) == len(own) else f"Over {len(shared)} of {len(own)} slices."
    note = " ".join(text for text in (part, note) if text)
    first, last = shared[0], shared[-1]
    height, width = scan.slice_shape(first)
    found: list[Measurement] = []
    for structure in card.structures if structures is None else structures:
        solids, widest = {}, {}
        for which, masks in sets.items():
            solid = np.zeros((last - first + 1, height, width), dtype=bool)
            for index in shared:
                solid[index - first] = structure_mask(card, np.asarray(masks[index]), structure)
            solids[which] = solid
            wide = [diameters(plane_mask, plane) for plane_mask in solid]
            widest[which] = max((w.largest for w in wide if w is not None), default=None)
        for which, solid in solids.items():
            size = float(solid.sum()) * millilitres
            unit = "mL" if known else "voxels"
            found.append(Measurement(structure.name, None, VOLUME, size, unit, which, case, note))
            across, unit = widest[which], "px" if spacing is None else "mm"
            why = EMPTY if across is None else " ".join(("In one slice.", part)).strip()
            found.append(Measurement(structure.name, None, LARGEST, across, unit, which, case, why))
        unit = "mm" if known else "voxels"
        found += _pairs(structure.name, solids, grid, unit, note, None, case)
    return found


def _widths(found: Diameters | None, *, pictures: bool) -> list[tuple[str, float | None]]:
    """Return the diameters that are of use: height and width are those of pictures alone."""
    names = {LARGEST: "largest", SMALLEST: "smallest"}
    if pictures:
        names |= {VERTICAL: "height", HORIZONTAL: "width"}
    return [(name, None if found is None else getattr(found, at)) for name, at in names.items()]


def _ratios(
    card: Card,
    structure: Structure,
    labels: Mapping[str, np.ndarray],
    own: Mapping[str, Diameters | None],
    step: tuple[float, float],
    index: int,
    case: int,
) -> list[Measurement]:
    """Return height and width of a structure over those of the one that contains it."""
    if structure.inside is None or card.dimensions != 2:
        return []
    names = {
        "height": _ratio_name("Vertical", structure.name, structure.inside),
        "width": _ratio_name("Horizontal", structure.name, structure.inside),
    }
    found = []
    for which, label in labels.items():
        outer = diameters(structure_mask(card, label, structure.inside), step)
        inner = own[which]
        for at, name in names.items():
            value, note = None, f"The {structure.inside} is empty: there is no ratio."
            if outer is not None:
                # Without a cup the ratio is 0, as a reader of the nerve head would say.
                value = 0.0 if inner is None else getattr(inner, at) / getattr(outer, at)
                note = f"There is no {structure.name} in this mask." if inner is None else ""
            found.append(Measurement(structure.name, index, name, value, "", which, case, note))
    return found


def _ratio_name(direction: str, inner: str, outer: str) -> str:
    return f"{direction} {inner}-to-{outer} ratio"


def _pairs(
    structure: str,
    masks: Mapping[str, np.ndarray],
    step: tuple[float, ...],
    unit: str,
    note: str,
    index: int | None,
    case: int,
) -> Iterator[Measurement]:
    """Yield overlap and distances: before against after, and each against the truth."""
    pairs = [("before", "edited" if "edited" in masks else "after", BETWEEN, "")]
    pairs += [(which, "truth", which, TRUTH) for which in ("before", "after", "edited")]
    for one, other, which, suffix in pairs:
        if one not in masks or other not in masks:
            continue
        a, b = masks[one], masks[other]
        both_empty = not a.any() and not b.any()
        overlap = "Both masks are empty." if both_empty else ""
        yield Measurement(structure, index, DICE + suffix, dice(a, b), "", which, case, overlap)
        there, back = surface_distances(a, b, step)
        for name, percentile in ((HAUSDORFF, 100), (HAUSDORFF95, 95)):
            value, why = None, ONE_EMPTY
            if both_empty:
                value, why = 0.0, overlap
            elif there is not None and back is not None:
                # The larger of the two directed percentiles, as in evaluation.metrics.
                value = float(
                    max(np.percentile(there, percentile), np.percentile(back, percentile))
                )
                why = note
            yield Measurement(structure, index, name + suffix, value, unit, which, case, why)
