"""Overlap and surface distances between a predicted mask and the truth, on 2-D or 3-D grids.

Conventions, stated because they change tables:

- *Surface*: the mask's elements with a face neighbour outside the mask; an element at the edge
  of the grid belongs to the surface.
- *HD95*: the larger of the two directed 95th percentiles of the surface distances (Maier-Hein
  et al., Metrics Reloaded, 2024), not the percentile of the pooled distances.
- *ASSD*: the mean over the surface elements of both masks, pooled (Heimann et al., IEEE TMI 2009).
- *ECE*: see `calibration_error`.
- Both masks empty: Dice 1, distances 0. One of them empty: Dice 0, distances NaN; such cases
  are left out of distance means and must be counted beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Overlap:
    """How well one predicted mask agrees with the truth.

    Attributes
    ----------
    dice : float
        0 … 1.
    hd95, assd : float
        In the unit of the spacing given (pixels where none was); NaN if one mask is empty.
    area, true_area : int
        Elements (pixels or voxels) of the prediction and of the truth.
    """

    dice: float
    hd95: float
    assd: float
    area: int
    true_area: int


def measure(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> Overlap:
    """Compare two masks of one structure.

    Parameters
    ----------
    predicted, truth : ndarray of bool, same shape, 2-D or 3-D
    spacing : sequence of float, optional
        Element size along each axis in mm; without it distances are in elements.

    Raises
    ------
    ValueError
        If the shapes differ, or the spacing does not fit them.
    """
    a, b, step = _checked(predicted, truth, spacing)
    area, true_area = int(a.sum()), int(b.sum())
    from_a, from_b = surface_distances(a, b, step)
    return Overlap(
        dice=dice(a, b),
        hd95=percentile_distance(from_a, from_b, 95),
        assd=_mean(from_a, from_b),
        area=area,
        true_area=true_area,
    )


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return 2·|A ∩ B| / (|A| + |B|), 0 … 1; two empty masks agree fully (1)."""
    a, b, _ = _checked(predicted, truth, None)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of a structure's probability, 0 … 1.

    All elements of a case, background included, are sorted by probability into 15 bins of equal
    width: ECE = Σ_b n_b/N · |mean probability in b − share of the structure in b| (Naeini et al.,
    AAAI 2015, for the probability of the foreground rather than of the likelier class). Much
    background that is surely none makes it small: compare it within a data set only.

    Parameters
    ----------
    probabilities : ndarray of float, 0 … 1
    truth : ndarray of bool, same shape
    """
    likely, true = np.ravel(probabilities), np.ravel(truth)
    place = np.minimum((likely * BINS).astype(int), BINS - 1)
    said = np.bincount(place, likely, BINS)
    return float(np.abs(said - np.bincount(place, true, BINS)).sum() / max(1, likely.size))


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the elements of a mask that have a face neighbour outside it."""
    mask = np.asarray(mask, dtype=bool)
    # Only here, for its import takes long and the dock opens before anything is measured.
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def surface_distances(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Return each surface element's distance to the nearest one of the other surface.

    Returns
    -------
    (ndarray, ndarray)
        From the prediction's surface to the truth's, and back. Two empty arrays if both masks
        are empty, ``(None, None)`` if exactly one is.
    """
    a, b, step = _checked(predicted, truth, spacing)
    if not a.any() and not b.any():
        return np.zeros(0), np.zeros(0)
    if not a.any() or not b.any():
        return None, None
    from scipy import ndimage

    # Both surfaces lie inside the box round the union, so distances within it are exact.
    (box,) = ndimage.find_objects((a | b).astype(np.uint8))
    edge_a, edge_b = surface(a[box]), surface(b[box])
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=step)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=step)
    return to_b[edge_a], to_a[edge_b]


def percentile_distance(
    from_a: np.ndarray | None, from_b: np.ndarray | None, percentile: float
) -> float:
    """Return the larger of two directed percentiles of `surface_distances`; NaN for None.

    The 100th is the classical Hausdorff distance.
    """
    if from_a is None or from_b is None:
        return float("nan")
    if not from_a.size:
        return 0.0
    return float(max(np.percentile(from_a, percentile), np.percentile(from_b, percentile)))


def _mean(from_a: np.ndarray | None, from_b: np.ndarray | None) -> float:
    if from_a is None or from_b is None:
        return float("nan")
    if not from_a.size:
        return 0.0
    return float((from_a.sum() + from_b.sum()) / (from_a.size + from_b.size))


def _checked(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...] | None]:
    a, b = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(
            f"The masks have different grids, {a.shape} and {b.shape}: "
            "bring the prediction onto the grid of the truth first."
        )
    if a.ndim not in (2, 3):
        raise ValueError(f"The masks have {a.ndim} dimensions; 2-D and 3-D can be measured.")
    if spacing is None:
        return a, b, None
    step = tuple(float(s) for s in spacing)
    if len(step) != a.ndim or not all(np.isfinite(s) and s > 0 for s in step):
        raise ValueError(
            f"The spacing {step} does not fit masks with {a.ndim} axes: "
            "give one finite size above 0 for each axis."
        )
    return a, b, step
