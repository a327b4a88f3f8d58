"""Before and after, side by side: the difference, and a table of it in pixels, mm² and mL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.adaptation.flags import FAR_CODE, FRAME_CODE, flag_slice
from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.adaptation import AdaptationRun, Flag, Record, ReopenedRun
    from napari_grata.adaptation.plan import Region
    from napari_grata.review.truth import Truth
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

ADDED = 1
"""Adaptation put the structure here."""
REMOVED = 2
"""Adaptation took the structure away from here."""
RELABELLED = 3
"""One structure before, another one beside it after (grey to white matter, say)."""
DIFFERENCE_COLOURS = {ADDED: "#0072B2", REMOVED: "#D55E00", RELABELLED: "#CC79A7"}
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
class StructureChange:
    """One structure before and after, on a slice, in a case or in all.

    Attributes
    ----------
    source_pixels, adapted_pixels : int
    source_mm2, adapted_mm2 : float or None
        Area; None where the file does not tell the pixels' size, and for whole stacks.
    source_ml, adapted_ml : float or None
        Volume, for whole stacks of known thickness.
    agreement : float
        Dice coefficient between before and after, 0 … 1; 1 where both are empty.
    """

    name: str
    source_pixels: int
    adapted_pixels: int
    agreement: float
    source_mm2: float | None = None
    adapted_mm2: float | None = None
    source_ml: float | None = None
    adapted_ml: float | None = None

    @property
    def change(self) -> float | None:
        """Relative change of area or volume, 0.1 for a tenth more; None from nothing."""
        if self.source_pixels == 0:
            return None
        return self.adapted_pixels / self.source_pixels - 1


@dataclass(frozen=True)
class SliceSummary:
    """A row of the table: one slice before and after.

    Attributes
    ----------
    slice_index : int
    slice_name : str
        For the screen; a photograph's file name may name a patient.
    case : int
    structures : tuple of StructureChange
    changed_pixels : int
        Pixels whose label changed.
    flags : tuple of Flag
    """

    slice_index: int
    slice_name: str
    case: int
    structures: tuple[StructureChange, ...]
    changed_pixels: int
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Summary:
    """The whole table.

    Attributes
    ----------
    rows : tuple of SliceSummary
        In the order of the slices.
    total : tuple of StructureChange
        Sums of everything, with volumes where the scan tells the slices' distance.
    flagged : tuple of int
        Slices that the user should look at, in order: the one count of flags, for every place
        that tells one.
    """

    rows: tuple[SliceSummary, ...]
    total: tuple[StructureChange, ...]
    flagged: tuple[int, ...] = ()

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


def summarise(
    scan: Scan,
    card: Card,
    source_masks: Mapping[int, np.ndarray],
    adapted_masks: Mapping[int, np.ndarray],
    flags: Mapping[int, Sequence[Flag]] | None = None,
) -> Summary:
    """Tabulate all slices that have both masks.

    Parameters
    ----------
    source_masks, adapted_masks : mapping of int to ndarray, shape (H, W)
        Label maps by flat slice number.
    flags : mapping of int to sequence of Flag, optional
        As from `latest_flags`.
    """
    flags = flags or {}
    rows: list[SliceSummary] = []
    names = [structure.name for structure in card.structures]
    sums = {name: np.zeros(3, dtype=np.int64) for name in names}
    area = None if scan.slice_spacing is None else math.prod(scan.slice_spacing)
    for index in sorted(source_masks.keys() & adapted_masks.keys()):
        source, adapted = np.asarray(source_masks[index]), np.asarray(adapted_masks[index])
        changes = []
        for name in names:
            before = structure_mask(card, source, name)
            after = structure_mask(card, adapted, name)
            counts = np.array([before.sum(), after.sum(), (before & after).sum()], dtype=np.int64)
            changes.append(_change(name, counts, area=area))
            sums[name] += counts
        changed = int((source != adapted).sum())
        found = tuple(flags.get(index, ()))
        name = scan.slice_name(index)
        rows.append(SliceSummary(index, name, scan.case_of(index), tuple(changes), changed, found))
    thickness = scan.slice_thickness
    voxel = None if area is None or thickness is None else area * thickness / 1000
    total = tuple(_change(name, counts, voxel=voxel) for name, counts in sums.items())
    return Summary(tuple(rows), total, flagged_slices(flags))


def _change(
    name: str, counts: np.ndarray, *, area: float | None = None, voxel: float | None = None
) -> StructureChange:
    """Return a change from pixels before, after and in both; a pixel in mm², a voxel in mL."""
    before, after, both = (int(count) for count in counts)
    return StructureChange(
        name,
        before,
        after,
        2 * both / (before + after) if before + after else 1.0,
        None if area is None else before * area,
        None if area is None else after * area,
        None if voxel is None else before * voxel,
        None if voxel is None else after * voxel,
    )


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
        card,
        *masks,
        region=frame or region,
        expected=photograph,
        far=texts.get(FAR_CODE),
        framed=frame is not None,
        unsure=texts.get(FRAME_CODE, ""),
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
    pixels = [one.source_pixels + one.adapted_pixels for one in total]
    both = sum(one.agreement * count for one, count in zip(total, pixels, strict=True))
    return 1 - both / sum(pixels) if sum(pixels) else 0.0


def dice_to(truth: Truth, card: Card, masks: Mapping[int, np.ndarray]) -> dict[str, float]:
    """Return Dice to a truth over all slices together, of each structure that the truth shows."""
    found = {}
    for name in (s.name for s in card.structures if s.name in truth.structures):
        both = of_mask = of_truth = 0
        for index, mask in masks.items():
            drawn = structure_mask(card, truth.scan.get_mask(truth.stack, index), name)
            made = structure_mask(card, mask, name)
            both += int((drawn & made).sum())
            of_mask, of_truth = of_mask + int(made.sum()), of_truth + int(drawn.sum())
        found[name] = 2 * both / (of_mask + of_truth) if of_mask + of_truth else 1.0
    return found
