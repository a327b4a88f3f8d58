"""Before and after, side by side: the difference, a table of it, and a case's small picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.adaptation.flags import FAR_CODE, FRAME_CODE, Slice, flag_slice
from napari_grata.adaptation.records import StructureChange
from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.adaptation import AdaptationRun, Flag, Record, ReopenedRun
    from napari_grata.adaptation.plan import Region
    from napari_grata.review.truth import Truth
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

    from .final_masks import CaseMasks

ADDED = 1
"""Adaptation put the structure here."""
REMOVED = 2
"""Adaptation took the structure away from here."""
RELABELLED = 3
"""One structure before, another one beside it after (grey to white matter, say)."""
DIFFERENCE_COLOURS = {ADDED: "#0072B2", REMOVED: "#D55E00", RELABELLED: "#CC79A7"}
LONGEST_SIDE = 128
"""Of a case's small picture, in pixels."""
DIFFERENCE_NAMES = {ADDED: "added", REMOVED: "removed", RELABELLED: "other structure"}


def difference_map(
    source: np.ndarray,
    adapted: np.ndarray,
    card: Card | None = None,
    structure: str | None = None,
) -> np.ndarray:
    """Show where two label maps differ.

    Parameters
    ----------
    source, adapted : ndarray of int, same shape, any number of axes
        Label maps before and after.
    card : Card, optional
        Knows which structure lies inside which. Without it every label is just foreground.
    structure : str, optional
        Look at this structure alone (with those that it contains); else at all of them: a step
        inwards, such as disc to cup, counts as added, and a step outwards as removed.

    Returns
    -------
    ndarray of uint8, same shape
        0 no difference, ``ADDED``, ``REMOVED``; ``RELABELLED`` only where all structures are
        looked at and one gave way to another that is not nested with it.
    """
    source, adapted = np.asarray(source), np.asarray(adapted)
    if source.shape != adapted.shape:
        raise ValueError(f"The masks differ in shape: {source.shape} and {adapted.shape}.")
    result = np.zeros(source.shape, dtype=np.uint8)
    if structure is not None:
        if card is None:
            raise ValueError("A structure can only be looked at with the model's card.")
        before = structure_mask(card, source, structure)
        after = structure_mask(card, adapted, structure)
        result[after & ~before] = ADDED
        result[before & ~after] = REMOVED
        return result
    depth = _depths(card)
    before, after = depth[source], depth[adapted]
    result[source != adapted] = RELABELLED
    result[after > before] = ADDED
    result[after < before] = REMOVED
    return result


def _depths(card: Card | None) -> np.ndarray:
    """How deeply nested each label value is: background 0, disc 1, cup 2."""
    depth = np.ones(65536, dtype=np.uint8)
    depth[0] = 0
    if card is not None:
        inside = {structure.name: structure.inside for structure in card.structures}
        for structure in card.structures:
            level, name = 1, structure.inside
            while name is not None:
                level, name = level + 1, inside[name]
            depth[structure.value] = level
    return depth


@dataclass(frozen=True)
class SliceSummary:
    """A row of the table: one slice before and after.

    Attributes
    ----------
    slice_index : int
    structures : tuple of StructureChange
    changed_pixels : int
        Pixels whose label changed.
    """

    slice_index: int
    structures: tuple[StructureChange, ...]
    changed_pixels: int


@dataclass(frozen=True)
class Summary:
    """The whole table.

    Attributes
    ----------
    rows : tuple of SliceSummary
        In the order of the slices.
    total : tuple of StructureChange
        Sums of everything.
    pixel, voxel : float or None
        Size of a pixel in mm² and of a voxel in mL, where the scan tells.
    """

    rows: tuple[SliceSummary, ...]
    total: tuple[StructureChange, ...]
    pixel: float | None = None
    voxel: float | None = None

    def most_changed(self, count: int, apart: int = 0) -> tuple[SliceSummary, ...]:
        """Up to `count` rows with the most changed pixels, most first; none without change.

        Rows whose slice lies within `apart` of a chosen one are passed over.
        """
        chosen: list[SliceSummary] = []
        for row in sorted(self.rows, key=lambda row: -row.changed_pixels):
            if len(chosen) == count or not row.changed_pixels:
                break
            if all(abs(row.slice_index - other.slice_index) > apart for other in chosen):
                chosen.append(row)
        return tuple(chosen)

    def telling(self, count: int = 1, apart: int = 0) -> list[int]:
        """Return the slices that changed most; without change the fullest; none without masks."""
        chosen = [row.slice_index for row in self.most_changed(count, apart)]
        if chosen or not self.rows:
            return chosen
        fullest = max(self.rows, key=lambda row: sum(c.source_pixels for c in row.structures))
        return [fullest.slice_index]


def summarise(
    scan: Scan,
    card: Card,
    source_masks: Mapping[int, np.ndarray],
    adapted_masks: Mapping[int, np.ndarray],
) -> Summary:
    """Tabulate all slices that have both masks.

    Parameters
    ----------
    source_masks, adapted_masks : mapping of int to ndarray, shape (H, W)
        Label maps by flat slice number.
    """
    rows: list[SliceSummary] = []
    total = [StructureChange(structure.name, 0, 0, 0) for structure in card.structures]
    for index in sorted(source_masks.keys() & adapted_masks.keys()):
        source, adapted = np.asarray(source_masks[index]), np.asarray(adapted_masks[index])
        changes = StructureChange.of(card, source, adapted)
        total = [so_far + one for so_far, one in zip(total, changes, strict=True)]
        rows.append(SliceSummary(index, tuple(changes), int((source != adapted).sum())))
    pixel, thickness = scan.slice_spacing and math.prod(scan.slice_spacing), scan.slice_thickness
    voxel = None if pixel is None or thickness is None else pixel * thickness / 1000
    return Summary(tuple(rows), tuple(total), pixel, voxel)


def flagged_slices(flags: Mapping[int, Sequence[Flag]]) -> tuple[int, ...]:
    """Return the slices that carry a flag, in order."""
    return tuple(sorted(index for index, found in flags.items() if found))


def without_masks(records: Iterable[Record]) -> list[Record]:
    """Return records for their figures; those of a saved run without unpacking its masks."""
    light = getattr(records, "without_masks", None)
    return list(records if light is None else light())


def latest_flags(records: Iterable[Record]) -> dict[int, tuple[Flag, ...]]:
    """Flags of each slice's latest record, and of any step on it that was undone."""
    found: dict[int, tuple[Flag, ...]] = {}
    undone: dict[int, Flag] = {}
    for record in without_masks(records):
        found[record.slice_index] = record.flags
        if record.undone:
            undone[record.slice_index] = record.flags[0]
    for index, flag in undone.items():
        if flag not in found[index]:
            found[index] = (flag, *found[index])
    return found


def flags_of_run(run: ReopenedRun) -> dict[int, tuple[Flag, ...]]:
    """Flags of the masks of a run as they are in use, those that were chosen included."""
    records = run.records.without_masks()
    found = latest_flags(records)
    frames = {record.slice_index: record.frame for record in records}
    for index in (index for one in run.chosen for index in one["used_on"]):
        found[index] = flag_again(
            run.card,
            (run.source_masks[index], run.adapted_masks[index]),
            found[index],
            frames[index],
            run.region,
            photograph="photograph" in run.info["scan"]["kind"],
        )
    return found


def flag_again(
    card: Card,
    masks: tuple[np.ndarray, np.ndarray],
    told: Iterable[Flag],
    frame: Region | None,
    region: Region | None,
    *,
    photograph: bool,
) -> tuple[Flag, ...]:
    """Flag another mask after, (source, adapted); what was ``told`` of the scan still holds."""
    texts = {flag.code: flag.text for flag in told}
    return flag_slice(
        Slice(
            card,
            *masks,
            region=frame or region,
            expected=photograph,
            far=texts.get(FAR_CODE),
            framed=frame is not None,
            unsure=texts.get(FRAME_CODE, ""),
        )
    )


@dataclass(eq=False)
class MethodResult:
    """What one method made of a scan, to be laid beside that of others.

    Attributes
    ----------
    name, title : str
        Of its own among those compared, and for people.
    masks : mapping of int to ndarray of uint8, shape (H, W)
    records : list of Record
        Of its stream, without their masks.
    flags : mapping of int to tuple of Flag
    change : float
        Share of the structures' pixels that the source mask does not share with it, 0 … 1.
    run : AdaptationRun or None
        Still open; None of a saved run.
    dice : dict of str to float
        To a truth that is open, by structure; see `dice_to`.
    """

    name: str
    title: str
    masks: Mapping[int, np.ndarray]
    records: list[Record]
    flags: Mapping[int, Sequence[Flag]]
    change: float
    run: AdaptationRun | None = None
    dice: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time that its steps and predictions took."""
        return sum(record.seconds for record in self.records)


def share_changed(
    scan: Scan, card: Card, source: Mapping[int, np.ndarray], adapted: Mapping[int, np.ndarray]
) -> float:
    """Return 1 − Dice between two sets of masks, all structures and slices together."""
    total = summarise(scan, card, source, adapted).total
    return 1 - sum(total[1:], total[0]).agreement


def dice_to(truth: Truth, card: Card, masks: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Return Dice to a truth over all slices together, of each structure that the truth shows."""
    drawn = {index: truth.scan.get_mask(truth.stack, index) for index in masks}
    total = summarise(truth.scan, card, drawn, masks).total
    return {one.name: one.agreement for one in total if one.name in truth.structures}


# -- the small picture of a case -----------------------------------------------------------


def change_and_picture(masks: CaseMasks, card: Card) -> tuple[float, np.ndarray]:
    """Return 1 − mean Dice between source and shown masks over the structures, and a picture.

    The picture is of the slice that tells most.
    """
    shown = masks.shown()
    table = summarise(masks.scan, card, masks.source, shown)
    agreement = [part.agreement for part in table.total]
    change = 1 - sum(agreement) / len(agreement) if agreement else 0.0
    filled = any(one.source_pixels + one.adapted_pixels for one in table.total)
    index = table.telling()[0] if filled else masks.scan.n_slices // 2
    return change, thumbnail(masks.scan, index, card, masks.source, shown)


def thumbnail(
    scan: Scan,
    index: int,
    card: Card,
    source_masks: Mapping[int, np.ndarray],
    adapted_masks: Mapping[int, np.ndarray],
) -> np.ndarray:
    """Draw a slice, its outline before dotted and after solid, in the structures' colours.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        Pixels are square in millimetres; the longer side has ``LONGEST_SIDE`` pixels at most.
    """
    # Only here, for its import takes long and the dock opens before anything is drawn.
    from scipy import ndimage

    rows, columns = _grid(scan, index)
    picture = grey_levels(scan.read_slice(index), scan.rgb)[np.ix_(rows, columns)]
    if picture.ndim == 2:
        picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
    dots = np.add.outer(np.arange(len(rows)), np.arange(len(columns))) % 3 == 0
    for masks, pattern in ((source_masks, dots), (adapted_masks, None)):
        if index not in masks:
            continue
        small = np.asarray(masks[index])[np.ix_(rows, columns)]
        for structure in card.structures:
            shown = structure_mask(card, small, structure)
            edge = shown & ~ndimage.binary_erosion(shown)
            colour = tuple(bytes.fromhex(structure.colour[1:]))
            picture[edge if pattern is None else edge & pattern] = colour
    return np.ascontiguousarray(picture)


def _grid(scan: Scan, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the slice that the picture shows."""
    height, width = scan.slice_shape(index)
    row_mm, column_mm = scan.slice_spacing or (1.0, 1.0)
    # Never enlarged along the axis of the smaller pixels.
    unit = max(height * row_mm, width * column_mm) / LONGEST_SIDE
    unit = max(unit, min(row_mm, column_mm))
    size = [
        min(LONGEST_SIDE, max(1, round(count * mm / unit)))
        for count, mm in ((height, row_mm), (width, column_mm))
    ]
    return tuple(  # type: ignore[return-value]
        ((np.arange(wanted) + 0.5) * count / wanted).astype(int)
        for wanted, count in zip(size, (height, width), strict=True)
    )


def grey_levels(image: np.ndarray, rgb: bool) -> np.ndarray:
    """Return a slice as uint8 for the eye: half a per cent of the values cut off at either end."""
    if rgb and image.dtype == np.uint8:
        return image
    values = image.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    low, high = (0.0, float(finite.max())) if rgb else np.percentile(finite, [0.5, 99.5])
    scaled = (values - low) / (high - low if high > low else 1.0)
    return (255 * np.nan_to_num(np.clip(scaled, 0, 1))).astype(np.uint8)
