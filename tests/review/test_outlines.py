"""Outlines run around every region once, and say what lies inside."""

from __future__ import annotations

import numpy as np
import pytest

from napari_grata.review.outlines import dashes, outline, segments


def lines_of(mask):
    found = outline(mask)
    ends = np.flatnonzero(~found.joined)
    begins = np.append(0, ends[:-1] + 1)
    return [found.points[a : b + 1] for a, b in zip(begins, ends, strict=True)]


def area(line):
    row, column = line[:, 0].astype(float), line[:, 1].astype(float)
    return 0.5 * np.sum(column[:-1] * row[1:] - column[1:] * row[:-1])


def test_a_single_pixel_gives_a_diamond_around_its_centre():
    mask = np.zeros((5, 7), bool)
    mask[2, 3] = True
    (line,) = lines_of(mask)
    assert len(line) == 5
    np.testing.assert_allclose(line[:-1].mean(axis=0), (2, 3))
    assert np.abs(line - (2, 3)).max() == 0.5


def test_a_box_at_the_border_has_one_line_that_cuts_corners_only():
    mask = np.zeros((6, 8), bool)
    mask[:4, 3:] = True
    (line,) = lines_of(mask)
    np.testing.assert_array_equal(line[0], line[-1])
    assert line.min(axis=0).tolist() == [-0.5, 2.5]
    assert line.max(axis=0).tolist() == [3.5, 7.5]
    # Each of the four corners loses a triangle of an eighth of a pixel.
    assert area(line) == pytest.approx(20 - 4 / 8)


def test_holes_run_the_other_way_round():
    mask = np.ones((9, 9), bool)
    mask[3:6, 3:6] = False
    areas = sorted(area(line) for line in lines_of(mask))
    assert len(areas) == 2
    assert areas[0] < 0 < areas[1]


def test_pixels_that_touch_at_a_corner_are_traced_apart():
    assert len(lines_of(np.eye(4, dtype=bool))) == 4


def test_an_empty_mask_has_no_line():
    found = outline(np.zeros((4, 4), bool))
    assert len(found) == 0
    assert found.lines == 0


def test_a_stack_is_refused():
    with pytest.raises(ValueError, match="H, W"):
        outline(np.zeros((2, 3, 4), bool))


def test_the_areas_within_the_lines_add_up_to_a_ragged_mask():
    rng = np.random.default_rng(4)
    mask = rng.random((60, 80)) > 0.45
    found = lines_of(mask)
    for line in found:
        np.testing.assert_array_equal(line[0], line[-1])
    # Every corner that is cut takes or gives an eighth of a pixel, so the sum is near.
    sides = sum(len(line) for line in found)
    assert abs(sum(area(line) for line in found) - mask.sum()) <= sides / 8


def test_lines_pass_between_mask_and_background_everywhere():
    rng = np.random.default_rng(1)
    mask = rng.random((30, 30)) > 0.3
    inside = np.pad(mask, 1)
    for line in lines_of(mask):
        for row, column in line:
            whole = [(int(np.floor(row)), int(np.floor(column)))]
            whole.append((int(np.ceil(row)), int(np.ceil(column))))
            values = {bool(inside[r + 1, c + 1]) for r, c in whole}
            assert values == {True, False}


def test_dashes_cover_their_share_of_the_line_and_lie_on_it():
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35] = True
    found = outline(mask)
    whole = segments(found)
    length = np.hypot(*(whole[:, 2:] - whole[:, :2]).T).sum()
    pieces = dashes(found, 3.0, 1.0)
    drawn = np.hypot(*(pieces[:, 2:] - pieces[:, :2]).T)
    assert drawn.max() <= 3.0 + 1e-6
    assert drawn.sum() == pytest.approx(0.75 * length, rel=0.03)
    assert pieces.min() >= 4.5 - 1e-6
    assert pieces.max() <= 34.5 + 1e-6


def test_dashes_of_nothing_are_none():
    assert dashes(outline(np.zeros((3, 3), bool)), 2, 1).shape == (0, 4)
    with pytest.raises(ValueError, match="length"):
        dashes(outline(np.ones((3, 3), bool)), 0, 1)
