"""Outlines of masks as closed lines, to be drawn at any zoom; without loops over pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Directions along which the rim of a pixel runs, clockwise, with the mask on the right.
_RIGHT, _DOWN, _LEFT, _UP = range(4)
_STEP = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], dtype=np.int64)


@dataclass(frozen=True)
class Outline:
    """Closed lines around the regions of a mask.

    Attributes
    ----------
    points : ndarray of float32, shape (N, 2)
        Row and column in pixels; a pixel's centre is at whole numbers. Each line ends where it
        began: its first point is repeated.
    joined : ndarray of bool, shape (N,)
        Whether a point is joined to the next one; false at the end of each line.
    """

    points: np.ndarray
    joined: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def lines(self) -> int:
        """Number of closed lines."""
        return int(np.count_nonzero(~self.joined))


def outline(mask: np.ndarray) -> Outline:
    """Trace the rim of a mask.

    The line runs through the middles of the sides that pixels turn to the background, which cuts
    corners by half a pixel at most. Pixels that touch at a corner only are traced apart.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)

    Returns
    -------
    Outline
        With the mask on the right of each line: regions are run around clockwise, as rows grow
        downwards, and holes anticlockwise.
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"An outline is of a mask (H, W), not of shape {mask.shape}.")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Outline(np.zeros((0, 2), np.float32), np.zeros(0, bool))
    row0, column0 = int(rows[0]), int(columns[0])
    inner = np.pad(mask[row0 : rows[-1] + 1, column0 : columns[-1] + 1], 1)
    start, direction = _sides(inner)
    following = _follow(start, direction, inner.shape[1] + 1)
    order, last = _walk(following)
    start, direction = start[order], direction[order]
    points = (start + _STEP[direction] / 2).astype(np.float32)
    # A corner lies at half a pixel before the pixel, which the padding moved by one.
    points += np.array((row0 - 1.5, column0 - 1.5), np.float32)
    return _closed(points, direction, last)


def _sides(inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return start corner (M, 2) and direction (M,) of each side between mask and background."""
    starts, directions = [], []
    # Steps from one pixel to the next, across a row and down a column: few, and found at once.
    upright = _steps(inner[:, 1:], inner[:, :-1])
    level = _steps(inner[1:], inner[:-1])
    for direction, (row, column), inside in (
        (_RIGHT, (1, 0), inner[level[:, 0] + 1, level[:, 1]]),
        (_DOWN, (0, 1), inner[upright[:, 0], upright[:, 1]]),
        (_LEFT, (1, 1), inner[level[:, 0], level[:, 1]]),
        (_UP, (1, 1), inner[upright[:, 0], upright[:, 1] + 1]),
    ):
        # The mask lies below an edge that runs to the right, left of one that runs down, ...
        found = (level if direction in (_RIGHT, _LEFT) else upright)[inside]
        starts.append(found + np.array((row, column)))
        directions.append(np.full(len(found), direction))
    return np.concatenate(starts), np.concatenate(directions)


def _steps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (row, column) of each place at which two arrays of bool differ, shape (K, 2)."""
    return np.stack(np.divmod(np.flatnonzero(one != other), one.shape[1]), axis=1)


def _follow(start: np.ndarray, direction: np.ndarray, width: int) -> np.ndarray:
    """Return for each side the one that follows it, shape (M,)."""
    keys = (start[:, 0] * width + start[:, 1]) * 4 + direction
    ranked = np.argsort(keys)
    ordered = keys[ranked]
    end = start + _STEP[direction]
    corner = (end[:, 0] * width + end[:, 1]) * 4
    following = np.full(len(start), -1)
    # A turn to the right stays with the same pixel where two touch at a corner.
    for turn in (1, 0, -1):
        wanted = corner + (direction + turn) % 4
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        hit = (ordered[place] == wanted) & (following < 0)
        following[hit] = ranked[place[hit]]
    return following


def _walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order sides along their lines; also whether each is its line's last, both shape (M,).

    Every side first learns the smallest number on its line, and then how far that one lies
    ahead; each round doubles the distance looked over.
    """
    count = len(following)
    rounds = max(1, int(np.ceil(np.log2(count))))
    first, ahead = np.arange(count), following
    for _ in range(rounds):
        first = np.minimum(first, first[ahead])
        ahead = ahead[ahead]
    is_first = first == np.arange(count)
    distance, ahead = np.where(is_first, 0, 1), np.where(is_first, np.arange(count), following)
    for _ in range(rounds):
        distance = distance + distance[ahead]
        ahead = ahead[ahead]
    order = np.lexsort((-distance, first))
    lines = first[order]
    return order, np.append(lines[1:] != lines[:-1], True)


def _closed(points: np.ndarray, direction: np.ndarray, last: np.ndarray) -> Outline:
    """Leave out points along straight runs, and repeat the first point of each line at its end."""
    begins = np.flatnonzero(np.append(True, last[:-1]))
    ends = np.flatnonzero(last)
    before, after = np.roll(direction, 1), np.roll(direction, -1)
    before[begins], after[ends] = direction[ends], direction[begins]
    kept = (before != direction) | (after != direction)
    kept[begins] = True
    number = np.cumsum(kept) - 1
    points = points[kept]
    begins, ends = number[begins], number[ends]
    points = np.insert(points, ends + 1, points[begins], axis=0)
    joined = np.ones(len(points), bool)
    joined[ends + 1 + np.arange(len(ends))] = False
    return Outline(points, joined)


def segments(found: Outline) -> np.ndarray:
    """Return the straight pieces of an outline as (row, column, row, column), shape (K, 4)."""
    begins = np.flatnonzero(found.joined)
    return np.concatenate([found.points[begins], found.points[begins + 1]], axis=1)


def dashes(found: Outline, dash: float, gap: float) -> np.ndarray:
    """Cut an outline into dashes that run on around its corners.

    Parameters
    ----------
    found : Outline
    dash, gap : float
        Lengths in pixels.

    Returns
    -------
    ndarray of float64, shape (K, 4)
        Straight pieces as (row, column, row, column).
    """
    if not (dash > 0 and gap > 0):
        raise ValueError(f"Dashes and gaps have a length above 0, not {dash} and {gap}.")
    pieces = segments(found).astype(float)
    if not len(pieces):
        return pieces
    length = np.hypot(*(pieces[:, 2:] - pieces[:, :2]).T)
    end = np.cumsum(length)
    begin = end - length
    period = dash + gap
    first = np.floor(begin / period).astype(int)
    count = np.floor(end / period).astype(int) - first + 1
    # Each piece meets `count` dashes; where it meets only a gap, nothing is left of it.
    owner = np.repeat(np.arange(len(pieces)), count)
    number = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    low = np.maximum(begin[owner], number * period)
    high = np.minimum(end[owner], number * period + dash)
    kept = high - low > 1e-6 * dash
    owner, low, high = owner[kept], low[kept], high[kept]
    start, along = pieces[owner, :2], pieces[owner, 2:] - pieces[owner, :2]
    share = (np.stack([low, high]) - begin[owner]) / length[owner]
    return np.concatenate([start + along * share[0, :, None], start + along * share[1, :, None]], 1)
