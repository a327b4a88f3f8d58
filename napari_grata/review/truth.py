"""A truth that somebody has drawn, in whatever values they chose, read as a card's structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.files import name_of_case, short_path
from napari_grata.scans.photographs import is_photograph
from napari_grata.scans.scan import times

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card


class TruthError(ValueError):
    """A mask that cannot serve as a truth here; the message says why and what to do."""


@dataclass(frozen=True)
class Truth:
    """A mask over a scan that somebody has drawn, in whatever values, as a card's structures.

    Attributes
    ----------
    stack : ndarray of uint8, shape ``scan.mask_shape``
        In the card's values.
    scan : Scan
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
        notes = (truth.note,) if truth.note else ()
        return {index: scan.get_mask(truth.stack, index) for index in wanted}, notes
    if not path.is_dir():
        raise TruthError(f"{short_path(path)} is no folder; give the folder of the masks.")
    there = {file.stem: file for file in sorted(path.iterdir()) if is_photograph(file)}
    found: dict[int, np.ndarray] = {}
    notes_found: dict[str, None] = {}
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
        own = scan.slice_path(index)
        for file in files:
            # A list always comes from files.
            one = open_scan(own or file)
            truth = as_truth(read_mask(file, one), one, card)
            found[index] = one.get_mask(truth.stack, 0)
            if truth.note:
                notes_found[truth.note] = None
    if not found:
        raise TruthError(
            f"{short_path(path)} holds no mask of these photographs; masks are called as they are."
        )
    return found, tuple(notes_found)


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
