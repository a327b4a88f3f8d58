"""A truth that somebody has drawn, in whatever values they chose, read as a card's structures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card


class TruthError(ValueError):
    """A mask that cannot serve as a truth here; the message says why and what to do."""


@dataclass(frozen=True)
class Truth:
    """A truth over a scan.

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
            f"The truth is {_size(stack.shape)}, the scan {_size(scan.mask_shape)}: choose the "
            "truth of this scan."
        )
    values = [int(value) for value in np.unique(stack)]
    if set(values) <= {0, *card.colours}:
        return _made(stack.astype(np.uint8), card, "")
    background = _background(stack, scan)
    drawn = [value for value in values if value != background]
    nested = _nested_order(card)
    if nested is None:
        order, names = drawn, [s.name for s in sorted(card.structures, key=lambda s: s.value)]
    else:
        frames = {value: _frame(stack == value) for value in drawn}
        order, names = sorted(drawn, key=lambda value: -frames[value]), nested
    if not drawn or len(drawn) > len(names) or (nested is None and len(drawn) != len(names)):
        known = ", ".join(f"{s.name} = {s.value}" for s in card.structures)
        raise TruthError(
            f"The truth holds the values {', '.join(map(str, values[:8]))}; this model's are "
            f"{known}. Save the truth in these values."
        )
    result = np.zeros(stack.shape, dtype=np.uint8)
    for value, name in zip(order, names, strict=False):
        result[stack == value] = card.structure(name).value
    told = " and ".join(f"{value} as {name}" for value, name in zip(order, names, strict=False))
    return _made(result, card, f"In the truth, {told} and {background} as background were read.")


def _made(stack: np.ndarray, card: Card, note: str) -> Truth:
    held = set(np.unique(stack).tolist())
    shown = frozenset(s.name for s in card.structures if held & set(card.values_within(s)))
    missing = [s.name for s in card.structures if s.name not in shown]
    if missing:
        note = f"{note} The truth shows no {' and no '.join(missing)}.".strip()
    return Truth(stack, shown, note)


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
        edge = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
        values, counts = np.unique(edge, return_counts=True)
        seen.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return int(seen.most_common(1)[0][0])


def _frame(mask: np.ndarray) -> int:
    """Return the area of the frame round a mask, over its last two axes."""
    sides = []
    for axis in (mask.ndim - 2, mask.ndim - 1):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        hit = np.flatnonzero(mask.any(axis=others))
        sides.append(int(hit[-1] - hit[0]) + 1)
    return sides[0] * sides[1]


def _size(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape)
