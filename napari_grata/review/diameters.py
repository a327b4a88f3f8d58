"""How wide a structure is in a plane: its largest and smallest diameter, height and width.

The outline is the one of `skimage.measure.find_contours` at 0.5: half a pixel beyond the centres
of the outermost pixels, so that a row of ten pixels is ten pixels wide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Diameters:
    """Of one structure in one slice, in the unit of the spacing.

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
