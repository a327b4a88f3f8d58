"""Masks beside one another: before and after, and beside a truth that somebody has drawn.

A truth comes in whatever values its maker chose, and is read as a card's structures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.adaptation.flags import FAR_CODE, FRAME_CODE, Slice, flag_slice
from napari_grata.adaptation.records import StructureChange
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.files import name_of_case, short_path
from napari_grata.scans.photographs import is_photograph
from napari_grata.scans.scan import times
from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.adaptation import AdaptationRun, Flag, Record, ReopenedRun
    from napari_grata.adaptation.plan import Region
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
MOST_SHOWN = 7
"""Of so many structures pictures have a panel each, and words name no more; tables have all."""
DIFFERENCE_NAMES = {ADDED: "added", REMOVED: "removed", RELABELLED: "other structure"}


def difference_map(
    source: np.ndarray, adapted: np.ndarray, card: Card, structure: str | None = None
) -> np.ndarray:
    """Show where two label maps differ.

    Parameters
    ----------
    source, adapted : ndarray of int, same shape, any number of axes
        Label maps before and after.
    card : Card
        Knows which structure lies inside which.
    structure : str, optional
        Look at this structure alone (with those that it contains); else at all of them: a step
        inwards, such as disc to cup, counts as added, and a step outwards as removed.

    Returns
    -------
    ndarray of uint8, same shape
        0 no difference, ``ADDED``, ``REMOVED``; ``RELABELLED`` only where all structures are
        looked at and one gave way to another that is not nested with it.
    """
    result = np.zeros(source.shape, dtype=np.uint8)
    if structure is None:
        # How deeply nested each label value is: background 0, disc 1, cup 2.
        depth = np.zeros(65536, dtype=np.uint8)
        for one in card.structures:
            depth[list(card.values_within(one))] += 1
        depth[1:] = depth[1:].clip(1)
        before, after = depth[source], depth[adapted]
        result[source != adapted] = RELABELLED
    else:
        before, after = (structure_mask(card, mask, structure) for mask in (source, adapted))
    result[after > before] = ADDED
    result[after < before] = REMOVED
    return result


@dataclass(frozen=True)
class SliceSummary:
    """A row of the table: one slice before and after.

    Attributes
    ----------
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

    def least_alike(self) -> tuple[list[StructureChange], int]:
        """Return totals of at most `MOST_SHOWN` structures, and how many others there are.

        Of more those that agree least, in the card's order; what neither mask shows is left out.
        """
        there = [one for one in self.total if one.source_pixels + one.adapted_pixels]
        few = sorted(there, key=lambda one: one.agreement)[:MOST_SHOWN]
        return [one for one in there if one in few], len(there) - len(few)

    def telling(self, count: int = 1, apart: int = 0) -> list[int]:
        """Return at most so many slices, those with most changed pixels first.

        Those that lie within `apart` of a chosen one are passed over. Without change the fullest
        one; none without masks.
        """
        chosen: list[int] = []
        for row in sorted(self.rows, key=lambda row: -row.changed_pixels):
            if len(chosen) == count or not row.changed_pixels:
                break
            if all(abs(row.slice_index - other) > apart for other in chosen):
                chosen.append(row.slice_index)
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


def flags_of_run(run: ReopenedRun | AdaptationRun) -> dict[int, tuple[Flag, ...]]:
    """Flags of the masks of a run as they are in use, those that were chosen included."""
    records = run.past.without_masks()
    if run.taken is None:
        records = records[: run.past.info["position"]]
    found = latest_flags(records)
    frames = {record.slice_index: record.frame for record in records}
    for index in (index for one in run.chosen for index in one["used_on"]):
        found[index] = flag_again(
            run.card,
            (run.source_masks[index], run.adapted_masks[index]),
            found[index],
            frames[index],
            run.region,
            photograph=run.photographic,
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


class Overlaps:
    """Dice of label maps by structure, and how much of the whole a slice stands for.

    Parameters
    ----------
    sets : sequence of mappings of int to ndarray of uint8, shape (H, W)
        The source masks first.
    stack : bool
        Whether a slice counts by what it shows of a structure, in parts of what the source mask
        shows in the mean; where that is hardly anything, of half of what another set shows.
    """

    def __init__(
        self, card: Card, sets: Sequence[Mapping[int, np.ndarray]], *, stack: bool
    ) -> None:
        self._values: np.ndarray = np.zeros((len(card.structures), 256))
        for row, one in zip(self._values, card.structures, strict=True):
            row[list(card.values_within(one))] = 1
        self._usual: np.ndarray | None = None
        if stack:
            counts = [
                np.mean([np.bincount(mask.ravel(), minlength=256) for mask in own.values()], axis=0)
                for own in sets
            ]
            each = np.array(counts) @ self._values.T
            self._usual = np.maximum(each[0], each.max(0) / 2).clip(1)

    def of(self, mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each structure's Dice, NaN where neither mask shows it, and its weight."""
        pairs = np.bincount(256 * mask.ravel().astype(int) + other.ravel(), minlength=256**2)
        pairs = pairs.reshape(256, 256)
        both = ((self._values @ pairs) * self._values).sum(1)
        total = self._values @ (pairs.sum(1) + pairs.sum(0))
        weights = np.ones_like(total) if self._usual is None else total / (2 * self._usual)
        return np.where(total > 0, 2 * both / np.maximum(total, 1), math.nan), weights

    def apart(self, source: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return 1 − Dice by structure, weighted; 0 where neither mask shows it."""
        dice, weights = self.of(source, mask)
        return np.asarray(weights * (1 - np.nan_to_num(dice, nan=1.0)))


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
    for masks, pattern in ((source_masks, dots), (adapted_masks, True)):
        if index not in masks:
            continue
        small = np.asarray(masks[index])[np.ix_(rows, columns)]
        for structure in card.structures:
            shown = structure_mask(card, small, structure)
            edge = shown & ~ndimage.binary_erosion(shown)
            picture[edge & pattern] = tuple(bytes.fromhex(structure.colour[1:]))
    return np.ascontiguousarray(picture)


def _grid(scan: Scan, index: int) -> list[np.ndarray]:
    """Rows and columns of the slice that the picture shows."""
    shape, spacing = scan.slice_shape(index), scan.slice_spacing or (1.0, 1.0)
    # Never enlarged along the axis of the smaller pixels.
    unit = max(np.multiply(shape, spacing).max() / LONGEST_SIDE, min(spacing))
    found = []
    for count, mm in zip(shape, spacing, strict=True):
        wanted = min(LONGEST_SIDE, max(1, round(count * mm / unit)))
        found.append(((np.arange(wanted) + 0.5) * count / wanted).astype(int))
    return found


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


# -- a truth that somebody has drawn -------------------------------------------------------


class TruthError(ValueError):
    """A mask that cannot serve as a truth here; the message says why and what to do."""


@dataclass(frozen=True)
class Truth:
    """A mask over a scan that somebody has drawn, in whatever values, as a card's structures.

    Attributes
    ----------
    stack : ndarray of uint8, shape ``scan.mask_shape``
        In the card's values.
    structures : frozenset of str
        The structures that it shows; the others were not drawn, or are not there.
    note : str
        How its values were read, where that had to be guessed.
    """

    stack: np.ndarray
    scan: Scan
    structures: frozenset[str]
    note: str = ""


def as_truth(stack: np.ndarray, scan: Scan, card: Card) -> Truth:
    """Read a label stack as a truth.

    Values that are the card's are taken as they are. Others are read by where they lie: the value
    at the pictures' edge is the background, and of nested structures the one with the larger
    frame is the outer one (a fundus truth in 255, 128 and 0, say).

    Raises
    ------
    TruthError
        If the shape is another one, or the values cannot be told apart.
    """
    stack = np.asarray(stack)
    if stack.shape != scan.mask_shape:
        raise TruthError(
            f"The truth is {times(stack.shape)}, the scan {times(scan.mask_shape)}: choose the "
            "truth of this scan."
        )
    values = [int(value) for value in np.unique(stack)]
    note = ""
    if not set(values) <= {0, *card.colours}:
        order = _read_values(stack, values, scan, card)
        told = " and ".join(f"{value} as {name}" for value, name in order.items() if name)
        background = next(value for value, name in order.items() if not name)
        note = f"In the truth, {told} and {background} as background were read."
        result = np.zeros(stack.shape, dtype=np.uint8)
        for value, name in order.items():
            if name:
                result[stack == value] = card.structure(name).value
        stack = result
    stack = stack.astype(np.uint8)
    held = set(np.unique(stack).tolist())
    shown = frozenset(s.name for s in card.structures if held & set(card.values_within(s)))
    missing = [s.name for s in card.structures if s.name not in shown]
    if missing:
        note = f"{note} The truth shows no {' and no '.join(missing)}.".strip()
    return Truth(stack, scan, shown, note)


def reviewed_masks(
    path: Path, scan: Scan, card: Card, slices: Sequence[int] | None = None
) -> tuple[dict[int, np.ndarray], tuple[str, ...]]:
    """Read the masks that a reviewer made of some slices.

    Parameters
    ----------
    path : path
        A mask of the whole stack, or for a list of photographs a folder with masks of some of
        them, called as the photographs are or as `write_mask` calls them.
    slices : sequence of int, optional
        Which slices were reviewed. Of a list, by default those with a file; of a stack they have
        to be named, for a mask does not tell what a person has looked at.

    Returns
    -------
    dict of int to ndarray of uint8, shape (H, W)
        In the card's values.
    tuple of str
        How values were read, where that had to be guessed.

    Raises
    ------
    TruthError, ScanError
    """
    if not scan.is_list:
        if slices is None and scan.n_slices > 1:
            raise TruthError(
                "Which slices of this mask were reviewed, it does not tell; name them, such as "
                "10,25,40."
            )
        truth = as_truth(read_mask(path, scan), scan, card)
        wanted = range(scan.n_slices) if slices is None else slices
        masks = {index: scan.get_mask(truth.stack, index) for index in wanted}
        return masks, tuple(filter(None, [truth.note]))
    if not path.is_dir():
        raise TruthError(f"{short_path(path)} is no folder; give the folder of the masks.")
    there = {file.stem: file for file in sorted(path.iterdir()) if is_photograph(file)}
    found: dict[int, np.ndarray] = {}
    notes: tuple[str, ...] = ()
    for index in range(scan.n_slices) if slices is None else slices:
        names = scan.slice_name(index), name_of_case(index + 1)
        files = [there[name] for name in dict.fromkeys(names) if name in there]
        if len(files) > 1:
            raise TruthError(
                f"Photograph {index + 1} has two masks there, {files[0].name} and "
                f"{files[1].name}; keep one."
            )
        if not files and slices is not None:
            raise TruthError(f"There is no mask of photograph {index + 1} in that folder.")
        for file in files:
            # A list always comes from files.
            one = open_scan(scan.slice_path(index) or file)
            truth = as_truth(read_mask(file, one), one, card)
            found[index] = one.get_mask(truth.stack, 0)
            notes += (truth.note,)
    if not found:
        raise TruthError(
            f"{short_path(path)} holds no mask of these photographs; masks are called as they are."
        )
    return found, tuple(dict.fromkeys(filter(None, notes)))


def _read_values(stack: np.ndarray, values: list[int], scan: Scan, card: Card) -> dict[int, str]:
    """Return the structure that each value stands for, "" for the background."""
    background = _background(stack, scan)
    drawn = [value for value in values if value != background]
    names = _nested_order(card)
    if names is None:
        names = [s.name for s in sorted(card.structures, key=lambda s: s.value)]
        fits = len(drawn) == len(names)
    else:
        drawn.sort(key=lambda value: -_frame_area(stack == value))
        fits = 0 < len(drawn) <= len(names)
    if not fits:
        known = ", ".join(f"{s.name} = {s.value}" for s in card.structures)
        raise TruthError(
            f"The truth holds the values {', '.join(map(str, values[:8]))}; this model's are "
            f"{known}. Save the truth in these values."
        )
    return {**dict(zip(drawn, names, strict=False)), background: ""}


def _nested_order(card: Card) -> list[str] | None:
    """Return the structures from the outermost inwards, None if they are not one chain."""
    inner = {s.inside: s.name for s in card.structures}
    chain: list[str] = []
    while (name := inner.get(chain[-1] if chain else None)) is not None:
        chain.append(name)
    return chain if len(chain) == len(card.structures) else None


def _background(stack: np.ndarray, scan: Scan) -> int:
    """Return the value that is most common along the edges of the slices."""
    seen: Counter[int] = Counter()
    for index in range(scan.n_slices):
        plane = scan.get_mask(stack, index)
        seen.update(np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]]).tolist())
    return int(seen.most_common(1)[0][0])


def _frame_area(mask: np.ndarray) -> int:
    """Return the area of the frame round a mask, over its last two axes."""
    rows, columns = np.nonzero(mask.reshape(-1, *mask.shape[-2:]).any(axis=0))
    return int((np.ptp(rows) + 1) * (np.ptp(columns) + 1))
