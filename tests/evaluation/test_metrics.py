"""Overlap and surface distances against sums done by hand, and against another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import hausdorff_distance

from napari_grata.evaluation.metrics import (
    calibration_error,
    dice,
    measure,
    percentile_distance,
    surface,
    surface_distances,
)


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    mask = np.zeros(shape, bool)
    for _ in range(4):
        centre = [rng.uniform(0.2 * n, 0.8 * n) for n in shape]
        radius = rng.uniform(2, min(shape) / 4)
        squares = [(g - c) ** 2 for g, c in zip(grids, centre, strict=True)]
        mask |= np.sum(squares, axis=0) < radius**2
    return mask


def largest(a: np.ndarray, b: np.ndarray) -> float:
    """The classical Hausdorff distance."""
    return percentile_distance(*surface_distances(a, b), 100)


def test_a_shifted_square_has_the_dice_and_distances_worked_out_by_hand():
    a, b = box((10, 10), (2, 6), (2, 6)), box((10, 10), (2, 6), (3, 7))
    # 16 + 16 pixels, 12 shared. Of 12 edge pixels on each side the outer column of 4 is one
    # pixel off, and so are the 2 inner ones of the opposite column; the rest coincide.
    assert dice(a, b) == pytest.approx(24 / 32)
    assert largest(a, b) == 1
    assert measure(a, b).assd == pytest.approx(12 / 24)


def test_distances_are_in_millimetres_along_the_axis_that_is_off():
    a, b = box((12, 12), (5, 6), (5, 6)), box((12, 12), (8, 9), (5, 6))
    assert measure(a, b, (2.0, 0.5)).hd95 == pytest.approx(6.0)
    assert measure(a, b, (2.0, 0.5)).assd == pytest.approx(6.0)
    assert measure(a.T, b.T, (2.0, 0.5)).hd95 == pytest.approx(1.5)
    assert measure(a, b).hd95 == pytest.approx(3.0)


def test_the_95th_percentile_forgives_one_stray_pixel_that_the_maximum_does_not():
    a = box((64, 64), (10, 40), (10, 40))
    b = a.copy()
    b[60, 60] = True
    assert largest(a, b) == pytest.approx(math.hypot(21, 21))
    assert measure(a, b).hd95 == 0
    # A stray object outweighs the larger directed percentile only once it is 5 % of one surface.
    b[50:60, 50:60] = True
    assert measure(a, b).hd95 > 10


def test_a_mask_at_the_edge_of_the_grid_has_its_surface_there():
    full = np.ones((4, 5), bool)
    assert surface(full).sum() == 14
    assert largest(full, full) == 0


@pytest.mark.parametrize("shape", [(48, 40), (24, 28, 20)])
@pytest.mark.parametrize("seed", range(4))
def test_the_classical_hausdorff_distance_agrees_with_scikit_image(shape, seed):
    a, b = blob(seed, shape), blob(seed + 100, shape)
    expected = hausdorff_distance(surface(a), surface(b))
    assert largest(a, b) == pytest.approx(expected)


def test_distances_agree_with_brute_force_on_an_anisotropic_volume():
    spacing = np.array([3.0, 0.7, 1.1])
    a, b = blob(1, (12, 20, 16)), blob(2, (12, 20, 16))
    points_a, points_b = np.argwhere(surface(a)) * spacing, np.argwhere(surface(b)) * spacing
    between = np.linalg.norm(points_a[:, None] - points_b[None], axis=-1)
    from_a, from_b = between.min(axis=1), between.min(axis=0)
    found = measure(a, b, spacing)
    assert found.assd == pytest.approx(np.concatenate([from_a, from_b]).mean())
    assert found.hd95 == pytest.approx(max(np.percentile(from_a, 95), np.percentile(from_b, 95)))


def test_two_empty_masks_agree_fully():
    nothing = np.zeros((5, 5), bool)
    found = measure(nothing, nothing)
    assert (found.dice, found.hd95, found.assd, found.area) == (1.0, 0.0, 0.0, 0)


@pytest.mark.parametrize("swapped", [False, True])
def test_one_empty_mask_has_no_distance_and_says_so(swapped):
    pair = [box((5, 5), (1, 3), (1, 3)), np.zeros((5, 5), bool)]
    found = measure(*(pair[::-1] if swapped else pair))
    assert found.dice == 0
    assert math.isnan(found.hd95)
    assert math.isnan(found.assd)


def test_masks_on_different_grids_are_refused_in_words():
    with pytest.raises(ValueError, match="different grids"):
        measure(np.zeros((4, 4)), np.zeros((4, 5)))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, float("nan"))])
def test_a_spacing_that_cannot_be_is_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        measure(np.ones((4, 4)), np.ones((4, 4)), spacing)


def test_masks_are_not_changed_by_measuring():
    a, b = blob(3, (20, 20)), blob(4, (20, 20))
    before = a.copy(), b.copy()
    measure(a, b, (1.0, 2.0))
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])


def test_the_calibration_error_is_how_far_probabilities_are_from_shares():
    truth = np.array([True, False, True, True, False, False, False, False])
    said = np.array([0.5, 0.5, 0.9, 0.9, 0.02, 0.02, 0.02, 0.02])
    # Bins of one fifteenth: {0.5}, {0.9}, {0.02}, each mean against its share, by their size.
    expected = (2 * abs(0.5 - 0.5) + 2 * abs(0.9 - 1) + 4 * 0.02) / 8
    assert calibration_error(said, truth) == pytest.approx(expected)
    assert calibration_error(truth.astype(float), truth) == 0
