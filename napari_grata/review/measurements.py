"""What masks measure: areas, volumes, diameters, cup-to-disc ratios, and how far masks differ.

A quantity is one entry of `QUANTITIES`; what was measured is a table (pandas) with a row a figure.
Overlap and distances follow the conventions of `napari_grata.evaluation.metrics`. A truth that is
given here is compared with and nothing else: it is never kept, and no model sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_grata.evaluation.metrics import dice, percentile_distance, surface_distances
from napari_grata.scans.files import write_csv
from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.review.compare import Truth
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Structure

Masks = Mapping[int, np.ndarray]

EMPTY = "The mask is empty: there is nothing to measure."
ONE_EMPTY = "One of the two masks is empty: there is no distance."
BOTH_EMPTY = "Both masks are empty."
_UNKNOWN_SIZES = {
    "px": "The file does not tell the size of a pixel.",
    "voxels": "The file does not tell the size of a voxel.",
}
TO_TRUTH = " to the truth"
BETWEEN = "between"
COLUMNS = ("case", "slice", "structure", "quantity", "mask", "value", "unit", "note")
"""Of a table of measurements. ``mask``: source, adapted, edited, truth, or "between" for source
against adapted (as edited, where it is); ``slice`` is missing for a whole case."""


# -- masks ---------------------------------------------------------------------------------


class StackMasks(Mapping[int, np.ndarray]):
    """Slices of a label stack as a mapping that copies one only when it is asked for.

    Parameters
    ----------
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


class MaskSets:
    """The masks over a scan that are measured and compared.

    Parameters
    ----------
    source, adapted, edited : mapping of int to ndarray of int, shape (H, W)
        Label maps by flat slice number, in the card's values. ``edited``: the adapted mask as
        the user has changed it.
    """

    def __init__(
        self,
        source: Masks,
        adapted: Masks,
        *,
        edited: Masks | None = None,
        truth: Truth | None = None,
    ) -> None:
        self._truth = truth
        real = truth and StackMasks(truth.scan, truth.stack, range(truth.scan.n_slices))
        given = {"source": source, "adapted": adapted, "edited": edited, "truth": real}
        self._sets = {which: masks for which, masks in given.items() if masks}

    def of(self, structure: Structure) -> dict[str, Masks]:
        """Return those that can tell of a structure: a truth may not show it."""
        blind = self._truth is not None and structure.name not in self._truth.structures
        return {which: m for which, m in self._sets.items() if not (blind and which == "truth")}

    @property
    def slices(self) -> list[int]:
        """Slices with a mask other than the truth's alone, in order."""
        return sorted({i for which, masks in self._sets.items() if which != "truth" for i in masks})

    def cases(self, scan: Scan) -> list[int]:
        """Return the cases of more than one slice; a photograph's slice says it all."""
        if scan.n_slices == scan.n_cases:
            return []
        return sorted({scan.case_of(i) for i in self.slices})


# -- diameters -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Diameters:
    """How wide one structure is in one slice, in the unit of the spacing.

    Attributes
    ----------
    largest, smallest : float
        Feret (calliper) diameters: the largest distance of two points of the outline, and the
        smallest distance of two parallel lines that hold the structure between them.
    height, width : float
        Extent along the rows' and the columns' direction: vertical and horizontal diameter.
    """

    largest: float
    smallest: float
    height: float
    width: float


def diameters(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> Diameters | None:
    """Measure how wide a mask is; several pieces are measured as one, from end to end.

    The outline is the one of `skimage.measure.find_contours` at 0.5: half a pixel beyond the
    centres of the outermost pixels, so that a row of ten pixels is ten pixels wide.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    spacing : (float, float)
        Distance of rows and of columns, in mm or whatever the result should be in.

    Returns
    -------
    Diameters or None
        None for an empty mask.
    """
    mask = np.asarray(mask, dtype=bool)
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    held = mask[rows]
    # Of each row only the first and the last pixel can touch the hull.
    first = held.argmax(axis=1)
    last = mask.shape[1] - 1 - held[:, ::-1].argmax(axis=1)
    points = np.concatenate(
        [
            np.column_stack([rows + up, columns + aside])
            for columns, aside in ((first, -0.5), (last, 0.5))
            for up, aside in ((0.0, aside), (-0.5, 0.0), (0.5, 0.0))
        ]
    ) * np.asarray(spacing, dtype=float)
    # Only here, for its import takes long and the dock opens before anything is measured.
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    corners = points[ConvexHull(points).vertices]
    edges = np.roll(corners, -1, axis=0) - corners
    lengths = np.hypot(edges[:, 0], edges[:, 1])
    edges = edges[lengths > 0] / lengths[lengths > 0, None]
    # The narrowest strip that holds a convex polygon rests on one of its edges.
    across = np.column_stack([-edges[:, 1], edges[:, 0]]) @ corners.T
    return Diameters(
        largest=float(pdist(corners).max()),
        smallest=float((across.max(axis=1) - across.min(axis=1)).min()),
        height=float((rows[-1] - rows[0] + 1) * spacing[0]),
        width=float((last.max() - first.min() + 1) * spacing[1]),
    )


# -- quantities ----------------------------------------------------------------------------


class Region:
    """One structure in one mask: in a slice, or in a case of several slices.

    Attributes
    ----------
    name : str
        Of the structure.
    mask : ndarray of bool, shape (H, W) or, of a case as a ``whole``, (Z, H, W)
    picture : bool
        Whether its height and width mean something: those in a photograph do.
    outer : Region or None
        The structure that contains it, where that is looked at too.
    part : str
        How much of the case it covers, as a sentence; empty where it is all.
    step : tuple of float or None
        Size of an element along each axis in mm; None where the file does not tell.
    size : float
        In mm² or mm³, or a number of pixels or voxels.
    """

    def __init__(
        self, name: str, mask: np.ndarray, scan: Scan, *, picture: bool = False, part: str = ""
    ) -> None:
        self.name, self.mask, self.picture, self.part = name, mask, picture, part
        self.whole = mask.ndim == 3
        self.outer: Region | None = None
        self.plane, thickness = scan.slice_spacing, scan.slice_thickness
        self.step: tuple[float, ...] | None = self.plane
        if self.whole and self.plane is not None:
            self.step = None if thickness is None else (thickness, *self.plane)
        self.size = int(mask.sum()) * math.prod(self.step or (1.0,))

    @cached_property
    def wide(self) -> Diameters | None:
        """How wide it is; of a case, in the slice where it is widest."""
        planes = self.mask if self.whole else [self.mask]
        found = [wide for plane in planes if (wide := diameters(plane, self.plane or (1.0, 1.0)))]
        return max(found, key=lambda wide: wide.largest, default=None)

    @cached_property
    def apart(self) -> Callable[[Region], tuple[Any, Any]]:
        """Distances between its surface and another region's, measured once for each."""
        return cache(lambda other: surface_distances(self.mask, other.mask, self.step))


Figure = tuple[float | None, str, str]
"""A value (None where there is none), its unit, and what to know about it."""


@dataclass(frozen=True)
class Quantity:
    """Something that can be measured.

    Attributes
    ----------
    name, short : str
        In full, and for a narrow column; ``{inner}`` and ``{outer}`` stand for structures.
    meaning : str
        A sentence.
    of : callable, optional
        Measures a region; None where that would mean nothing.
    between : callable, optional
        Compares two regions instead.
    """

    name: str
    short: str
    meaning: str
    of: Callable[[Region], Figure | None] | None = None
    between: Callable[[Region, Region], Figure] | None = None


def _area(region: Region) -> Figure | None:
    return None if region.whole else (region.size, "px" if region.step is None else "mm²", "")


def _volume(region: Region) -> Figure | None:
    if not region.whole:
        return None
    return (region.size, "voxels", "") if region.step is None else (region.size / 1000, "mL", "")


def _diameter(
    at: str, when: Callable[[Region], bool] = lambda region: not region.whole
) -> Callable[[Region], Figure | None]:
    def measure(region: Region) -> Figure | None:
        if not when(region):
            return None
        unit = "px" if region.plane is None else "mm"
        if region.wide is None:
            return None, unit, EMPTY
        note = f"In one slice. {region.part}".strip() if region.whole else ""
        return getattr(region.wide, at), unit, note

    return measure


def _ratio(at: str) -> Callable[[Region], Figure | None]:
    def measure(region: Region) -> Figure | None:
        if region.outer is None or not region.picture:
            return None
        if region.outer.wide is None:
            return None, "", f"The {region.outer.name} is empty: there is no ratio."
        if region.wide is None:
            # Without a cup the ratio is 0, as a reader of the nerve head would say.
            return 0.0, "", f"There is no {region.name} in this mask."
        return getattr(region.wide, at) / getattr(region.outer.wide, at), "", ""

    return measure


def _overlap(one: Region, other: Region) -> Figure:
    return dice(one.mask, other.mask), "", "" if one.size or other.size else BOTH_EMPTY


def _distance(percentile: float) -> Callable[[Region, Region], Figure]:
    def measure(one: Region, other: Region) -> Figure:
        unit = "mm" if one.step is not None else "voxels" if one.whole else "px"
        if not one.size and not other.size:
            return 0.0, unit, BOTH_EMPTY
        value = percentile_distance(*one.apart(other), percentile)
        return (None, unit, ONE_EMPTY) if math.isnan(value) else (value, unit, "")

    return measure


AREA, VOLUME = "Area", "Volume"
QUANTITIES = (
    Quantity(
        AREA, "area", "Area of the structure in this slice, with whatever lies inside it.", _area
    ),
    Quantity(VOLUME, "volume", "Volume over the slices.", _volume),
    Quantity(
        "Largest diameter",
        "largest ⌀",
        "Largest distance between two points of the outline (Feret diameter).",
        _diameter("largest", lambda region: True),
    ),
    Quantity(
        "Smallest diameter",
        "smallest ⌀",
        "Smallest distance between two parallel lines that hold the structure.",
        _diameter("smallest"),
    ),
    Quantity(
        "Vertical diameter",
        "vertical ⌀",
        "Extent from top to bottom.",
        _diameter("height", attrgetter("picture")),
    ),
    Quantity(
        "Horizontal diameter",
        "horizontal ⌀",
        "Extent from left to right.",
        _diameter("width", attrgetter("picture")),
    ),
    Quantity(
        "Vertical {inner}-to-{outer} ratio",
        "vertical {inner}/{outer}",
        "Height of the one over height of the other that contains it.",
        _ratio("height"),
    ),
    Quantity(
        "Horizontal {inner}-to-{outer} ratio",
        "horizontal {inner}/{outer}",
        "Width of the one over width of the other that contains it.",
        _ratio("width"),
    ),
    Quantity(
        "Dice",
        "Dice",
        "Dice coefficient: 1 is the same, 0 has nothing in common.",
        between=_overlap,
    ),
    Quantity(
        "Hausdorff distance",
        "Hausd.",
        "Hausdorff distance: how far apart the outlines are where they differ most.",
        between=_distance(100),
    ),
    Quantity(
        "Hausdorff distance, 95 %",
        "Hausd. 95",
        "The distance that 95 % of the outlines' points keep: a stray pixel counts less.",
        between=_distance(95),
    ),
)
"""In the order in which tables show them."""


# -- measuring -----------------------------------------------------------------------------


def measure_slice(scan: Scan, card: Card, sets: MaskSets, index: int) -> pd.DataFrame:
    """Measure one slice, given by its flat number.

    Returns
    -------
    DataFrame
        With `COLUMNS`, ``short`` and ``meaning`` of each quantity, and whether the note is
        ``general``: holds for the whole table.
    """
    found: list[dict[str, Any]] = []
    for structure in card.structures:
        regions = {
            which: _region(scan, card, structure, masks[index])
            for which, masks in sets.of(structure).items()
            if index in masks
        }
        found += _figures(regions, case=scan.case_of(index) + 1, slice=index + 1)
    return _frame(found)


def measure_case(
    scan: Scan, card: Card, sets: MaskSets, case: int, structure: Structure
) -> pd.DataFrame:
    """Measure a structure in a case of several slices, over the slices that all masks have.

    A volume in mL needs the distance of the slices; without it voxels are counted. Returns a
    table as `measure_slice` does.
    """
    own, masks = scan.case_slices(case), sets.of(structure)
    shared = sorted(set(own).intersection(*masks.values()))
    part = "" if len(shared) == len(own) else f"Over {len(shared)} of {len(own)} slices."
    regions = {}
    for which, by_slice in masks.items() if shared else ():
        shape = (shared[-1] - shared[0] + 1, *scan.slice_shape(shared[0]))
        solid = np.zeros(shape, dtype=bool)
        for index in shared:
            solid[index - shared[0]] = structure_mask(card, by_slice[index], structure)
        regions[which] = Region(structure.name, solid, scan, part=part)
    return _frame(_figures(regions, case=case + 1, slice=None))


def measurements(scan: Scan, card: Card, sets: MaskSets) -> Iterator[pd.DataFrame]:
    """Measure every slice that has a mask, then each structure of every case; yields tables."""
    for index in sets.slices:
        yield measure_slice(scan, card, sets, index)
    for case in sets.cases(scan):
        for structure in card.structures:
            yield measure_case(scan, card, sets, case, structure)


def _region(scan: Scan, card: Card, structure: Structure, labels: np.ndarray) -> Region:
    def region(name: str) -> Region:
        mask = structure_mask(card, labels, name)
        return Region(name, mask, scan, picture=card.dimensions == 2)

    own = region(structure.name)
    own.outer = None if structure.inside is None else region(structure.inside)
    return own


def _figures(regions: Mapping[str, Region], **place: int | None) -> Iterator[dict[str, Any]]:
    """Measure a structure in all masks, then compare masks: with each other, and with the truth."""
    for quantity in QUANTITIES:
        for which, region in regions.items():
            figure = None if quantity.of is None else quantity.of(region)
            if figure is not None:
                yield {**place, **_row(quantity, region, which, figure)}
    shown = "edited" if "edited" in regions else "adapted"
    pairs = [("source", shown, BETWEEN, "")]
    pairs += [(which, "truth", which, TO_TRUTH) for which in ("source", "adapted", "edited")]
    for one, other, which, suffix in pairs:
        if one in regions and other in regions:
            for quantity in QUANTITIES:
                if quantity.between is not None:
                    figure = quantity.between(regions[one], regions[other])
                    yield {**place, **_row(quantity, regions[one], which, figure, suffix)}


def _row(
    quantity: Quantity, region: Region, which: str, figure: Figure, suffix: str = ""
) -> dict[str, Any]:
    value, unit, note = figure
    names = {"inner": region.name, "outer": "" if region.outer is None else region.outer.name}
    general = not note and unit != ""
    if general:
        note = f"{region.part} {_UNKNOWN_SIZES.get(unit, '')}".strip()
    return {
        "structure": region.name,
        "quantity": quantity.name.format(**names) + suffix,
        "mask": which,
        "value": value,
        "unit": unit,
        "note": note,
        "short": quantity.short.format(**names) + (" ↔ truth" if suffix else ""),
        "meaning": quantity.meaning,
        "general": general,
    }


def _frame(found: Iterable[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(found), columns=[*COLUMNS, "short", "meaning", "general"])
    return frame.astype({"case": int, "slice": "Int64", "value": float, "general": bool})


# -- for people and for spreadsheets -------------------------------------------------------

SHOWN = ("source", "adapted", "edited", "truth", "change")
"""Columns of a comparison; those that have nothing in them are left out."""


def compared(found: pd.DataFrame, *, words: bool = False) -> pd.DataFrame:
    """Lay the masks of one slice or case side by side, a row a quantity of a structure.

    Parameters
    ----------
    found : DataFrame
        As from `measure_slice`.
    words : bool
        Figures as text with sensible digits ("–" where there is none). ``remark``: the relative
        change, and what to know about a figure; ``about``: all that is known of it.

    Returns
    -------
    DataFrame
        ``structure``, ``quantity``, ``unit`` and `SHOWN`; ``change`` is adapted (as edited, where
        it is) minus source, or what lies between the two.
    """
    rows = []
    for _, group in found.groupby(["structure", "quantity"], sort=False):
        first, values = group.iloc[0], dict(zip(group["mask"], group["value"], strict=True))
        row: dict[str, Any] = {name: first[name] for name in ("structure", "quantity", "unit")}
        cells = {name: values[name] for name in SHOWN if name in values}
        shown = values.get("edited", values.get("adapted"))
        if BETWEEN in values:
            cells["change"] = values[BETWEEN]
        elif shown is not None and "source" in values:
            cells["change"] = shown - values["source"]
        row |= _in_words(group, cells) if words else cells
        rows.append(row)
    used = [name for name in (*SHOWN, "remark", "about") if any(name in row for row in rows)]
    table = pd.DataFrame(rows, columns=["structure", "quantity", "unit", *used])
    return table.fillna("") if words else table


def _in_words(group: pd.DataFrame, cells: Mapping[str, float]) -> dict[str, str]:
    """Return a row of `compared` as text."""
    first, between = group.iloc[0], (group["mask"] == BETWEEN).any()
    unit, change = first["unit"], cells.get("change", math.nan)
    words = {name: write(value, unit) for name, value in cells.items()}
    if "change" in cells and not between:
        words["change"] = write(change, unit, signed=True, like=group["value"].abs().max())
    about = [f"{first['structure']}: {first['quantity']}" + (f", {unit}" if unit else "")]
    about.append(first["meaning"])
    remarks = []
    if first["quantity"] in (AREA, VOLUME) and cells.get("source") and not math.isnan(change):
        remarks.append(f"{100 * change / cells['source']:+.1f} %".replace("-", "−"))
        about.append(f"Change: {remarks[0]}")
    if "truth" in cells:
        about.append(f"The truth: {words['truth']} {unit}".strip())
    if between:
        about.append(
            "Between the mask before and the mask after (as edited, where it is); not a measure "
            "of truth."
        )
    about += [note for note in dict.fromkeys(group["note"]) if note]
    remarks += [note for note in dict.fromkeys(group["note"][~group["general"]]) if note]
    return {
        "quantity": f"{first['short']}  {unit}".strip(),
        **words,
        "remark": " ".join(remarks),
        "about": "\n".join(about),
    }


def notes(found: pd.DataFrame) -> str:
    """Return what holds for the whole table, said once."""
    return " ".join(note for note in dict.fromkeys(found["note"][found["general"]]) if note)


def write(value: float, unit: str, *, signed: bool = False, like: float | None = None) -> str:
    """Return a figure with as many digits as it can carry: ``"12.1"``, ``"+0.40"``, ``"0.943"``.

    ``like``: with the digits that this figure would have, such as for a change of it.
    """
    if math.isnan(value):
        return "–"
    size = abs(value if like is None else like)
    if unit in ("px", "voxels"):
        digits = 0 if (value == round(value) and not like) or size >= 100 else 1
    elif unit:
        digits = 0 if size >= 1000 else 1 if size >= 10 else 2
    else:
        digits = 3
    # What rounds to nothing carries no sign.
    value = round(value, digits) or 0.0
    text = f"{value:{'+' if signed and value else ''},.{digits}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def as_text(table: pd.DataFrame) -> str:
    """Return a table as tab-separated text with plain numbers, for a spreadsheet."""
    return str(table.to_csv(sep="\t", index=False, float_format="%.6g", lineterminator="\n"))


def save_csv(found: pd.DataFrame, path: str | Path) -> Path:
    """Write a line a figure; cases and slices count from 1, and nothing names a file.

    Raises
    ------
    FileError
        The folder cannot be written to, or the disk is full.
    """
    plain = found[list(COLUMNS)].assign(value=found["value"].map("{:.6g}".format))
    plain = plain.astype(object).mask(found[list(COLUMNS)].isna(), None)
    return write_csv(path, COLUMNS, plain.itertuples(index=False))
