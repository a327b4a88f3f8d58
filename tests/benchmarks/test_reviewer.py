"""The simulated reviewer: strokes on errors, and nothing that the truth does not say."""

from __future__ import annotations

import numpy as np

from benchmarks.reviewer import paint_strokes


def case() -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((100, 120), np.uint8)
    truth[20:80, 20:90] = 1
    truth[40:60, 40:70] = 2
    shown = np.zeros_like(truth)
    shown[35:80, 20:90] = 1
    shown[40:60, 40:50] = 2
    shown[90:92, 100:102] = 1
    return shown, truth


def test_strokes_only_put_pixels_right_and_leave_most_as_they_are():
    shown, truth = case()
    before = shown.copy()
    painted = paint_strokes(shown, truth, 4)
    changed = painted != shown
    assert (shown == before).all()
    assert changed.any()
    assert (painted[changed] == truth[changed]).all()
    assert changed.sum() < 0.7 * (shown != truth).sum()


def test_the_largest_error_is_painted_first():
    shown, truth = case()
    painted = paint_strokes(shown, truth, 1)
    rows = np.nonzero(painted != shown)[0]
    assert rows.max() < 35
    assert set(np.unique(painted[painted != shown])) == {1}


def test_the_same_seed_paints_the_same_and_another_one_does_not():
    shown, truth = case()
    first = paint_strokes(shown, truth, 3, seed=5)
    assert (first == paint_strokes(shown, truth, 3, seed=5)).all()
    assert (first != paint_strokes(shown, truth, 3, seed=6)).any()


def test_a_right_mask_and_specks_are_left_alone():
    _, truth = case()
    assert (paint_strokes(truth, truth) == truth).all()
    speck = truth.copy()
    speck[0, :3] = 2
    assert (paint_strokes(speck, truth) == speck).all()
