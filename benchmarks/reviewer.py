"""A reviewer who is not there: brush strokes on a mask's errors, drawn from the truth.

For measuring what corrections are worth; never used where a person is.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BRUSH = 0.02
"""Radius of the brush, as a share of the slice's shorter side …"""
SMALLEST_BRUSH = 1.0
"""… but at least this many pixels."""
STROKE = 0.15
"""Longest stroke, as a share of the slice's shorter side."""
WORTH_A_STROKE = 6
"""Errors of fewer pixels are overlooked."""


def paint_strokes(
    shown: np.ndarray, truth: np.ndarray, strokes: int = 4, *, seed: int = 0
) -> np.ndarray:
    """Return a mask after a few brush strokes in its largest errors.

    Each stroke takes the connected error (pixels that should all be one label) with the most
    pixels left, starts near its middle and goes in a straight line to one of its far pixels. The
    brush is round and never leaves what truly has the label.

    Parameters
    ----------
    shown, truth : ndarray of int, shape (H, W)
        Label maps on the slice's own grid.
    strokes : int
        At most so many.
    seed : int
        Seed of where strokes start and end.

    Returns
    -------
    ndarray, shape (H, W)
        `shown` with some pixels as in `truth`, of `shown`'s type.
    """
    rng = np.random.default_rng(seed)
    painted = np.array(shown)
    side = min(painted.shape)
    radius = max(SMALLEST_BRUSH, BRUSH * side)
    rows, columns = np.ogrid[: painted.shape[0], : painted.shape[1]]
    for _ in range(strokes):
        found = _largest_error(painted, truth)
        if found is None:
            break
        error, label = found
        depth = ndimage.distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1]
        middle = np.argwhere(depth >= 0.7 * depth.max())
        start = middle[rng.integers(len(middle))]
        inside = np.argwhere(error)
        away = np.hypot(*(inside - start).T)
        reach = min(STROKE * side, away.max())
        ends = inside[(away >= 0.6 * reach) & (away <= reach)]
        end = ends[rng.integers(len(ends))] if len(ends) else start
        count = max(2, int(np.ceil(2 * np.hypot(*(end - start)) / radius)))
        stroke = np.zeros(painted.shape, bool)
        for row, column in np.linspace(start, end, count):
            stroke |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        painted[stroke & (truth == label)] = label
    return painted


def _largest_error(shown: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int] | None:
    best: tuple[np.ndarray, int] | None = None
    most = WORTH_A_STROKE - 1
    for label in np.unique(truth[shown != truth]):
        pieces, count = ndimage.label((shown != truth) & (truth == label))
        if not count:
            continue
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() > most:
            most = int(sizes.max())
            best = pieces == int(sizes.argmax()) + 1, int(label)
    return best
