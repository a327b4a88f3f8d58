"""Before and after, side by side."""

from __future__ import annotations

import numpy as np
import pytest

from napari_grata.adaptation import Flag, Record
from napari_grata.review.compare import (
    ADDED,
    RELABELLED,
    REMOVED,
    difference_map,
    flagged_slices,
    latest_flags,
    summarise,
)
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Card


@pytest.fixture
def scan() -> Scan:
    data = np.random.default_rng(0).random((4, 20, 30), dtype=np.float32)
    return scan_from_array(data, name="scan", spacing=(3.0, 0.5, 2.0))


def mask(*rows: str) -> np.ndarray:
    return np.array([[int(value) for value in row] for row in rows], dtype=np.uint8)


def test_nested_structures_are_added_inwards_and_removed_outwards(eye: Card) -> None:
    found = difference_map(mask("0011", "2210"), mask("0120", "1220"), eye)
    assert np.array_equal(found, [[0, ADDED, ADDED, REMOVED], [REMOVED, 0, ADDED, 0]])


def test_one_structure_is_compared_with_those_inside_it(eye: Card) -> None:
    before, after = mask("0011", "2210"), mask("0120", "1220")
    disc = difference_map(before, after, eye, "disc")
    assert np.array_equal(disc, [[0, ADDED, 0, REMOVED], [0, 0, 0, 0]])
    cup = difference_map(before, after, eye, "cup")
    assert np.array_equal(cup, [[0, 0, ADDED, 0], [REMOVED, 0, ADDED, 0]])


def test_a_structure_that_gave_way_to_its_neighbour_is_relabelled(brain: Card) -> None:
    before, after = mask("0112"), mask("1210")
    assert np.array_equal(difference_map(before, after, brain), [[ADDED, RELABELLED, 0, REMOVED]])
    assert np.array_equal(difference_map(before, after, brain, "grey"), [[ADDED, REMOVED, 0, 0]])


def test_areas_and_volumes_are_in_mm_and_ml(scan: Scan, eye: Card) -> None:
    before, after = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    before[:10, :10] = 1
    after[:10, :20] = 1
    after[:5, :5] = 2
    found = summarise(scan, eye, {0: before, 3: before}, {0: after, 3: before})
    assert [row.slice_index for row in found.rows] == [0, 3]
    disc, cup = found.rows[0].structures
    assert (disc.source_pixels, disc.adapted_pixels) == (100, 200)
    assert found.pixel == 1.0
    assert disc.agreement == pytest.approx(2 * 100 / 300)
    assert disc.change == 1.0
    assert (cup.source_pixels, cup.adapted_pixels, cup.agreement) == (0, 25, 0.0)
    assert cup.change is None
    total = found.total[0]
    assert (total.source_pixels, total.adapted_pixels) == (200, 300)
    assert found.voxel == pytest.approx(1.0 * 3.0 / 1000)
    assert found.telling(5) == [0]


def test_without_a_pixel_size_there_are_pixels_only(eye: Card) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    photograph = scan_from_array(picture, name="eye", rgb=True)
    one = {0: np.ones((20, 30), np.uint8)}
    found = summarise(photograph, eye, one, one)
    (row,) = found.rows
    assert (row.structures[0].source_pixels, found.pixel, found.voxel) == (600, None, None)
    assert row.structures[1].agreement == 1.0


def test_the_most_changed_slices_can_be_taken_apart_from_each_other(eye: Card) -> None:
    data = np.random.default_rng(0).random((9, 20, 30), dtype=np.float32)
    scan = scan_from_array(data, name="scan", spacing=(1.0, 1.0, 1.0))
    empty = np.zeros((20, 30), np.uint8)
    after = {}
    for index, rows in enumerate([0, 1, 5, 9, 8, 7, 0, 2, 3]):
        after[index] = empty.copy()
        after[index][:rows] = 1
    found = summarise(scan, eye, dict.fromkeys(range(9), empty), after)
    assert found.telling(3) == [3, 4, 5]
    assert found.telling(3, apart=1) == [3, 5, 8]
    assert len(found.telling(99)) == 7


def record(index: int, **more) -> Record:
    empty = np.zeros((20, 30), np.uint8)
    values = {"source_mask": empty, "adapted_mask": empty, **more}
    return Record("adapt", 1, 1, 1, index, 0, 0, **values)


def test_flags_are_those_of_the_last_look_but_an_undone_step_is_not_forgotten() -> None:
    undone, border = Flag("non-finite", "Undone."), Flag("disc-at-border", "Cut off.")
    found = latest_flags(
        [
            record(0, flags=(border,)),
            record(1, flags=(undone,), undone=True),
            record(0),
            record(1, flags=(border,)),
        ]
    )
    assert found == {0: (), 1: (undone, border)}


def test_there_is_one_count_of_flagged_slices() -> None:
    # An undone step and a slice without a flag; and one whose mask is not there any more.
    flags = latest_flags(
        [record(3, flags=(Flag("non-finite", "Undone."),), undone=True), record(3), record(0)]
    )
    flags[1] = (Flag("disc-lost", "The disc shrank."),)
    assert flagged_slices(flags) == (1, 3)
