"""Usual extent, place and shape of structures, and whether those in a mask are like them.

A model answers every picture, also one that it was not made for: on a whole fundus photograph the
retina becomes the optic disc. The training masks tell how large a structure is, where it lies and
whether it is in one piece; a card keeps these figures, and what lies outside them is said before
anybody looks at how sure the model is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from .card_fields import Count, NotNegative, Text, Words, card_part

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .card import Card

Masks = np.ndarray | Mapping[int, np.ndarray]
LEVELS = (0.01, 0.5, 0.99)
"""Quantiles of the training cases that a card keeps."""
FEW_CASES = 20
"""Of fewer cases the ends of a range are hardly known, and it is taken more widely."""
# How far beyond the range of the training a figure may lie: a factor, or (places and shares) a
# part of the whole; for many cases and for few. With these, photographs of three centres with the
# right field of view and volumes of three groups are plausible, whole photographs and a head with
# its skull are not (docs/models.md).
_FACTORS = {"side": (1.05, 1.25), "volume_ml": (1.3, 2.0), "length_mm": (1.1, 1.26)}
_PARTS = (0.1, 0.2)
_SENTENCES = {
    "side": "The {name} fills {now} % of the {what}; in training it filled {low} to {high} %.",
    "row": "The centre of the {name} lies {now} % down the {what}; in training {low} to {high} %.",
    "column": "The centre of the {name} lies {now} % across the {what}; in training {low} to "
    "{high} %.",
    "largest": "The {name} is in pieces, the largest of which holds {now} % of it; in training "
    "usually {usual} %.",
    "volume_ml": "The {name} measures {now} ml; in training it measured {low} to {high} ml.",
    "length_mm": "The {name} is {now} mm long; in training it was {low} to {high} mm.",
}


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(values):
        raise ValueError("extents: low, median and high should not fall.")
    return values


Range = Annotated[tuple[NotNegative, NotNegative, NotNegative], AfterValidator(_rising)]


@card_part(at="extents")
class Extent:
    """What one structure was like in the training masks.

    Ranges are (low, median, high): 1, 50 and 99 % of the cases that show the structure, contained
    structures included.

    Attributes
    ----------
    structure : str
    cases : int
        Pictures or volumes that were measured.
    present : float
        Share of them that show the structure.
    side : (float, float, float), optional
        Pictures: square root of the share of the picture that it fills.
    row, column : (float, float, float), optional
        Pictures: place of its centre, from 0 (top, left) to 1 (bottom, right).
    largest : (float, float, float), optional
        Pictures: share of it that its largest piece holds.
    volume_ml : (float, float, float), optional
        Volumes: in millilitres.
    length_mm : (float, float, float), optional
        Volumes: the longest of its three lengths along the axes, from 1 to 99 % of its voxels.
    steadiness : float, optional
        Pictures: how well it stays where it is when the frame moves (`framing`), as 19 of 20 of
        the model's own pictures reach it. A model that was trained with little variety knows its
        own frame alone.
    hint : str
        What to do where it is otherwise, a sentence for the user.
    """

    structure: Words
    cases: Annotated[Count, Field(ge=1)]
    present: Annotated[NotNegative, Field(le=1)] = 1.0
    side: Range | None = None
    row: Range | None = None
    column: Range | None = None
    largest: Range | None = None
    volume_ml: Range | None = None
    length_mm: Range | None = None
    steadiness: Annotated[NotNegative, Field(le=1)] | None = None
    hint: Text = ""

    def limits(self, figure: str) -> tuple[float, float]:
        """Return the lowest and the highest plausible value of a figure, such as ``"side"``."""
        low, _, high = getattr(self, figure)
        few = self.cases < FEW_CASES
        if figure in _FACTORS:
            factor = _FACTORS[figure][few]
            return low / factor, high * factor
        return low - _PARTS[few], high + _PARTS[few]


def measure_extents(
    card: Card, cases: Iterable[tuple[Scan, np.ndarray]], hint: str = ""
) -> tuple[Extent, ...]:
    """Measure the structures of a card in masks of its training.

    Parameters
    ----------
    card : Card
    cases : iterable of (Scan, ndarray of int)
        Scans with their label stacks, of `Scan.mask_shape`. Every photograph and every volume of
        them counts as one case.
    hint : str
        What a user is to do where a structure is otherwise.

    Returns
    -------
    tuple of Extent
        One per structure that any case shows.
    """
    found: dict[str, list[dict[str, float]]] = {s.name: [] for s in card.structures}
    count = 0
    for scan, masks in cases:
        for case in range(scan.n_cases):
            count += 1
            for name, figures in found.items():
                values, picture = card.values_within(name), card.dimensions == 2
                figures.append(_figures(values, masks, scan, case, picture=picture) or {})
    return tuple(
        _extent(name, [each for each in figures if each], count, hint)
        for name, figures in found.items()
        if any(figures)
    )


def _extent(name: str, shown: list[dict[str, float]], count: int, hint: str) -> Extent:
    ranges = {
        key: tuple(
            float(f"{value:.4g}") for value in np.quantile([each[key] for each in shown], LEVELS)
        )
        for key in shown[0]
    }
    share = float(f"{len(shown) / count:.4g}")
    return Extent(structure=name, cases=count, present=share, hint=hint, **ranges)  # type: ignore[arg-type]


def implausible(
    card: Card,
    masks: Masks,
    scan: Scan,
    *,
    case: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    slices: Iterable[int] | None = None,
) -> tuple[tuple[str, str], ...]:
    """Say which structures in the masks of a scan are unlike those of the model's training.

    Parameters
    ----------
    card : Card
    masks : ndarray of int, shape `Scan.mask_shape`, or mapping of int to ndarray, shape (H, W)
        Of the source model or an adapted one; all of them, or by slice.
    scan : Scan
    case : int, optional
        One photograph or volume of the scan; by default all of them.
    region : (row0, column0, row1, column1), optional
        The part of the slices that the model read.
    slices : iterable of int, optional
        Flat numbers of the slices that were segmented; by default all. Of a volume that was
        segmented in part nothing can be too small.

    Returns
    -------
    tuple of (structure, sentence)
        In the order of the card, one sentence a structure and case; empty where all are usual, and
        where the card has no extents.
    """
    segmented = set(range(scan.n_slices) if slices is None else slices)
    found = []
    for one in range(scan.n_cases) if case is None else (case,):
        own = segmented.intersection(scan.case_slices(one))
        if not own:
            continue
        whole = len(own) == len(scan.case_slices(one))
        of_several = scan.n_cases > 1 and case is None
        prefix = f"{'Photograph' if card.dimensions == 2 else 'Volume'} {one + 1}: " * of_several
        for extent in card.extents:
            values, picture = card.values_within(extent.structure), extent.side is not None
            figures = _figures(values, masks, scan, one, picture=picture, region=region)
            what = "volume" if not picture else "picture" if region is None else "region"
            said = None if figures is None else _unlike(extent, figures, what, whole)
            if said:
                found.append((extent.structure, f"{prefix}{said} {extent.hint}".rstrip()))
    return tuple(found)


def anchor(card: Card) -> Extent | None:
    """Return the extent by which a card's model can be framed, that of the narrowest range.

    None where there is none: without a usual side and place of a structure that every picture
    shows, or where the model's input has no fixed size, so that no frame changes what it sees.
    """
    if card.dimensions != 2 or card.size is None:
        return None
    known = [
        one
        for one in card.extents
        if one.side and one.row and one.column and one.side[0] > 0 and one.present > 0.99
    ]
    return min(known, key=lambda one: one.side[2] / one.side[0] if one.side else 0, default=None)


def _unlike(extent: Extent, figures: dict[str, float], what: str, whole: bool) -> str:
    """Say what is most unusual about a structure, if anything is."""
    name = extent.structure
    if not figures and whole and extent.present > 1 - LEVELS[0]:
        return f"No {name} was found; in training every {what} showed it."
    for key, value in figures.items():
        usual = getattr(extent, key)
        if usual is None:
            continue
        lowest, highest = extent.limits(key)
        if value > highest or (value < lowest and whole):
            now, low, middle, high = (_words(key, number) for number in (value, *usual))
            return _SENTENCES[key].format(
                name=name, what=what, now=now, low=low, usual=middle, high=high
            )
    return ""


def _words(key: str, value: float) -> str:
    if key in ("volume_ml", "length_mm"):
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{100 * (value**2 if key == 'side' else value):.0f}"


def _figures(
    values: tuple[int, ...],
    masks: Masks,
    scan: Scan,
    case: int,
    *,
    picture: bool,
    region: tuple[int, int, int, int] | None = None,
) -> dict[str, float] | None:
    """Measure one structure in one case; empty where it is not shown, None where it cannot be."""
    slices = scan.case_slices(case)
    if picture:
        mask = np.isin(_mask(masks, scan, slices[0]), values)
        if region is not None:
            mask = mask[max(0, region[0]) : region[2], max(0, region[1]) : region[3]]
        return _of_picture(mask)
    if scan.slice_spacing is None or scan.slice_thickness is None:
        return None
    return _of_volume(
        (np.isin(_mask(masks, scan, i), values) for i in slices),
        (scan.slice_thickness, *scan.slice_spacing),
    )


def _mask(masks: Masks, scan: Scan, index: int) -> np.ndarray:
    if not isinstance(masks, Mapping):
        return scan.get_mask(masks, index)
    return masks[index] if index in masks else np.zeros(scan.slice_shape(index), np.uint8)


def _of_picture(mask: np.ndarray) -> dict[str, float]:
    from scipy import ndimage

    area = int(np.count_nonzero(mask))
    if not area:
        return {}
    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    row, column = (
        float(np.average(np.arange(len(profile)) + 0.5, weights=profile) / len(profile))
        for profile in (mask.sum(1), mask.sum(0))
    )
    return {
        "side": math.sqrt(area / mask.size),
        "row": row,
        "column": column,
        "largest": float(np.bincount(pieces.ravel())[1:].max() / area),
    }


def _of_volume(masks: Iterable[np.ndarray], voxel: tuple[float, float, float]) -> dict[str, float]:
    by_slice: list[int] = []
    by_row: np.ndarray | int = 0
    by_column: np.ndarray | int = 0
    for mask in masks:
        by_slice.append(int(np.count_nonzero(mask)))
        by_row, by_column = by_row + mask.sum(1), by_column + mask.sum(0)
    if not any(by_slice):
        return {}
    lengths = [
        (np.ptp(np.searchsorted(np.cumsum(profile) / sum(by_slice), (0.01, 0.99))) + 1) * size
        for profile, size in zip((by_slice, by_row, by_column), voxel, strict=True)
    ]
    return {
        "volume_ml": sum(by_slice) * math.prod(voxel) / 1000,
        "length_mm": float(max(lengths)),
    }
