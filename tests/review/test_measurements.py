"""What masks measure, against figures that can be worked out by hand."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from skimage.draw import disk, ellipse
from skimage.measure import find_contours, regionprops

from napari_grata.review.compare import TruthError, as_truth
from napari_grata.review.measurements import (
    BOTH_EMPTY,
    COLUMNS,
    EMPTY,
    ONE_EMPTY,
    QUANTITIES,
    MaskSets,
    StackMasks,
    as_text,
    compared,
    diameters,
    measure_slice,
    measurements,
    save_csv,
    write,
)
from napari_grata.scans import FileError, Scan, scan_from_array
from napari_grata.segmenters import Card

AREA, VOLUME, DICE = "Area", "Volume", "Dice"
LARGEST, SMALLEST, VERTICAL = "Largest diameter", "Smallest diameter", "Vertical diameter"
HAUSDORFF, HAUSDORFF95 = "Hausdorff distance", "Hausdorff distance, 95 %"
TO_TRUTH = " to the truth"
RATIO = "Vertical cup-to-disc ratio"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


@pytest.fixture
def volume() -> Scan:
    return scan_from_array(noise(4, 20, 30), name="scan", spacing=(3.0, 0.5, 2.0))


@pytest.fixture
def photograph() -> Scan:
    return scan_from_array(noise(60, 80, 3), name="photo", rgb=True)


def box(scan: Scan, *placed: tuple[int, int, int, int, int]) -> np.ndarray:
    mask = np.zeros(scan.slice_shape(0), dtype=np.uint8)
    for value, top, left, height, width in placed:
        mask[top : top + height, left : left + width] = value
    return mask


def everything(scan: Scan, card: Card, source, adapted, **more) -> pd.DataFrame:
    return pd.concat(measurements(scan, card, MaskSets(source, adapted, **more)))


def only(
    found: pd.DataFrame, structure: str, name: str, mask: str, index: int | None = 0
) -> pd.Series:
    place = found["slice"].isna() if index is None else found["slice"] == index + 1
    chosen = found[
        (found["structure"] == structure)
        & (found["quantity"] == name)
        & (found["mask"] == mask)
        & place.fillna(False)
    ]
    assert len(chosen) == 1
    return chosen.iloc[0]


def missing(value: float) -> bool:
    return math.isnan(value)


def stack_of(scan: Scan, masks: dict[int, np.ndarray]) -> np.ndarray:
    stack = scan.empty_mask()
    for index, mask in masks.items():
        scan.put_mask(stack, index, mask)
    return stack


# --- diameters ---------------------------------------------------------------------------------


def test_a_box_is_as_wide_as_its_pixels() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:10, 5:17] = True
    found = diameters(mask, (0.5, 2.0))
    assert found is not None
    assert (found.height, found.width) == (3.0, 24.0)
    assert found.smallest == pytest.approx(3.0)


def test_one_pixel_is_one_pixel_wide() -> None:
    mask = np.zeros((5, 5), dtype=bool)
    mask[2, 2] = True
    found = diameters(mask)
    assert found is not None
    assert (found.largest, found.height, found.width) == (1.0, 1.0, 1.0)


def test_an_empty_mask_has_no_diameter() -> None:
    assert diameters(np.zeros((5, 5), dtype=bool)) is None


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (1.3, 0.7)])
def test_the_largest_diameter_is_the_one_of_the_outline(spacing: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        mask = np.zeros((80, 90), dtype=np.uint8)
        for _ in range(3):
            centre, radii = rng.integers(20, 60, 2), rng.integers(4, 18, 2)
            mask[ellipse(*centre, *radii, rotation=rng.uniform(0, 3))] = 1
        outline = np.concatenate(find_contours(mask, 0.5)) * spacing
        found = diameters(mask > 0, spacing)
        assert found is not None
        assert found.largest == pytest.approx(pdist(outline).max(), abs=1e-6)
        # regionprops measures the hull after drawing it in pixels, which makes it a little larger.
        (theirs,) = regionprops(mask, spacing=spacing)
        assert 0 <= theirs.feret_diameter_max - found.largest <= max(spacing)


def test_the_smallest_diameter_is_the_narrowest_of_all_directions() -> None:
    mask = np.zeros((90, 90), dtype=bool)
    mask[ellipse(45, 45, 12, 34, rotation=0.6)] = True
    found = diameters(mask)
    assert found is not None
    corners = np.argwhere(mask)
    turned = min(
        np.ptp(corners @ np.array([np.cos(a), np.sin(a)])) for a in np.linspace(0, np.pi, 721)
    )
    assert turned <= found.smallest <= turned + 1.5
    assert found.smallest == pytest.approx(24, abs=1.2)
    assert found.largest == pytest.approx(68, abs=1.2)


# --- slices ------------------------------------------------------------------------------------


def test_areas_are_in_square_millimetres_and_the_disc_includes_the_cup(
    eye: Card, volume: Scan
) -> None:
    before = {0: box(volume, (1, 2, 4, 10, 12), (2, 4, 8, 6, 4))}
    after = {0: box(volume, (1, 2, 4, 10, 12), (2, 4, 8, 3, 4))}
    found = everything(volume, eye, before, after)
    area = only(found, "disc", AREA, "source")
    assert (area.value, area.unit) == (120.0, "mm²")
    assert only(found, "cup", AREA, "adapted").value == 12.0
    assert only(found, "disc", DICE, "between").value == 1.0
    assert only(found, "cup", DICE, "between").value == pytest.approx(2 * 12 / 36)


def test_the_ratio_is_the_height_of_the_cup_over_the_height_of_the_disc(
    eye: Card, photograph: Scan
) -> None:
    before = {0: box(photograph, (1, 10, 10, 40, 50), (2, 20, 20, 10, 25))}
    found = everything(photograph, eye, before, {})
    assert only(found, "cup", RATIO, "source").value == pytest.approx(0.25)
    horizontal = only(found, "cup", "Horizontal cup-to-disc ratio", "source")
    assert horizontal.value == pytest.approx(0.5)
    assert horizontal.unit == ""
    assert only(found, "disc", VERTICAL, "source").value == 40


def test_without_spacing_figures_are_in_pixels_and_say_so(eye: Card, photograph: Scan) -> None:
    found = everything(photograph, eye, {0: box(photograph, (1, 5, 5, 10, 10))}, {})
    area = only(found, "disc", AREA, "source")
    assert (area.value, area.unit) == (100.0, "px")
    assert "size of a pixel" in area.note
    assert only(found, "disc", SMALLEST, "source").unit == "px"


def test_what_is_not_there_is_not_measured_and_says_why(eye: Card, photograph: Scan) -> None:
    before = {0: box(photograph, (1, 5, 5, 10, 10))}
    found = everything(photograph, eye, before, {0: box(photograph)})
    assert only(found, "disc", AREA, "adapted").value == 0
    gone = only(found, "disc", LARGEST, "adapted")
    assert missing(gone.value)
    assert gone.note == EMPTY
    apart = only(found, "disc", HAUSDORFF, "between")
    assert missing(apart.value)
    assert apart.note == ONE_EMPTY
    assert only(found, "disc", DICE, "between").value == 0.0
    assert only(found, "cup", RATIO, "source").value == 0.0
    no_disc = only(found, "cup", RATIO, "adapted")
    assert missing(no_disc.value)
    assert "disc is empty" in no_disc.note
    neither = only(found, "cup", HAUSDORFF, "between")
    assert (neither.value, neither.note) == (0.0, BOTH_EMPTY)


def test_hausdorff_counts_millimetres_and_a_stray_pixel_moves_only_the_maximum(
    brain: Card, volume: Scan
) -> None:
    before = {0: box(volume, (1, 2, 2, 14, 12))}
    after = {0: box(volume, (1, 2, 2, 14, 12), (1, 8, 25, 1, 1))}
    found = everything(volume, brain, before, after)
    far = only(found, "grey", HAUSDORFF, "between")
    assert (far.value, far.unit) == (24.0, "mm")
    near = only(found, "grey", HAUSDORFF95, "between")
    assert near.value == 0.0


def test_before_after_and_edited_are_each_compared_with_the_truth(
    brain: Card, volume: Scan
) -> None:
    truth = {0: box(volume, (1, 2, 2, 10, 10))}
    before = {0: box(volume, (1, 2, 2, 10, 5))}
    after = {0: box(volume, (1, 2, 2, 10, 8))}
    drawn = as_truth(stack_of(volume, truth), volume, brain)
    found = everything(volume, brain, before, after, truth=drawn, edited=truth)
    masks = ("source", "adapted", "edited")
    scores = [only(found, "grey", DICE + TO_TRUTH, mask).value for mask in masks]
    assert scores == [pytest.approx(2 / 3), pytest.approx(160 / 180), 1.0]
    assert only(found, "grey", AREA, "truth").value == 100.0


def test_a_structure_that_a_truth_does_not_show_is_not_held_against_it(
    eye: Card, photograph: Scan
) -> None:
    disc = box(photograph, (1, 10, 10, 20, 20))
    truth = as_truth(disc, photograph, eye)
    masks = {0: box(photograph, (1, 10, 10, 20, 20), (2, 15, 15, 5, 5))}
    found = everything(photograph, eye, masks, masks, truth=truth)
    told = found[(found["mask"] == "truth") | found["quantity"].str.endswith(TO_TRUTH)]
    assert set(told["structure"]) == {"disc"}
    assert only(found, "cup", AREA, "adapted").value == 25


def test_slices_of_a_stack_are_read_one_by_one(volume: Scan) -> None:
    stack = volume.empty_mask()
    masks = StackMasks(volume, stack, [2, 1])
    stack[2, 3, 3] = 1
    assert list(masks) == [1, 2]
    assert masks[2].sum() == 1
    with pytest.raises(KeyError):
        masks[0]


# --- cases -------------------------------------------------------------------------------------


def test_a_case_is_measured_in_millilitres_over_all_its_slices(brain: Card, volume: Scan) -> None:
    before = {i: box(volume, (1, 2, 2, 10, 10)) for i in range(4)}
    after = {i: box(volume, (1, 2, 2, 10, 20)) for i in range(4)}
    found = everything(volume, brain, before, after)
    size = only(found, "grey", VOLUME, "source", None)
    assert size.unit == "mL"
    assert size.value == pytest.approx(400 * 3 * 0.5 * 2 / 1000)
    assert size.note == ""
    assert only(found, "grey", HAUSDORFF, "between", None).value == pytest.approx(20.0)


def test_a_case_is_measured_where_both_masks_are_and_says_where(brain: Card, volume: Scan) -> None:
    before = {i: box(volume, (1, 2, 2, 10, 10)) for i in range(4)}
    after = {i: before[i] for i in (1, 2)}
    found = everything(volume, brain, before, after)
    size = only(found, "grey", VOLUME, "source", None)
    assert size.value == pytest.approx(200 * 3 / 1000)
    assert "2 of 4 slices" in size.note


def test_the_distance_of_a_case_sees_across_slices(brain: Card, volume: Scan) -> None:
    # The same box, one slice further up: in the slices themselves nothing can be compared.
    before = {i: box(volume, (1, 2, 2, 10, 10) if i == 1 else (1, 0, 0, 0, 0)) for i in range(4)}
    after = {i: before[1] if i == 2 else before[0] for i in range(4)}
    found = everything(volume, brain, before, after)
    assert only(found, "grey", HAUSDORFF, "between", None).value == pytest.approx(3.0)


def test_each_photograph_of_a_list_is_measured_as_a_slice(eye: Card) -> None:
    scan = scan_from_array(noise(3, 20, 20, 3), name="many", rgb=True)
    masks = {i: box(scan, (1, 2, 2, 5 + i, 5)) for i in range(3)}
    found = everything(scan, eye, masks, masks)
    areas = found[(found["quantity"] == AREA) & (found["structure"] == "disc")]
    assert list(areas["value"]) == [25, 25, 30, 30, 35, 35]


# --- truths ------------------------------------------------------------------------------------


def test_a_truth_in_the_cards_own_values_is_taken_as_it_is(eye: Card, photograph: Scan) -> None:
    drawn = box(photograph, (1, 10, 10, 20, 20), (2, 15, 15, 5, 5))
    truth = as_truth(drawn, photograph, eye)
    np.testing.assert_array_equal(truth.stack, drawn)
    assert truth.structures == {"disc", "cup"}
    assert truth.note == ""


def test_an_inverted_truth_is_read_by_what_lies_inside_what(eye: Card, photograph: Scan) -> None:
    drawn = np.full((60, 80), 255, dtype=np.uint8)
    drawn[disk((30, 40), 20)] = 128
    drawn[disk((30, 40), 8)] = 0
    truth = as_truth(drawn, photograph, eye)
    assert truth.stack[0, 0] == 0
    assert truth.stack[30, 40] == 2
    assert truth.stack[30, 55] == 1
    assert "128 as disc and 0 as cup" in truth.note


def test_a_truth_of_the_disc_alone_says_that_there_is_no_cup(eye: Card, photograph: Scan) -> None:
    truth = as_truth(box(photograph, (255, 10, 10, 20, 20)), photograph, eye)
    assert truth.structures == {"disc"}
    assert "no cup" in truth.note


def test_a_truth_that_cannot_be_read_says_what_it_holds(brain: Card, volume: Scan) -> None:
    drawn = volume.empty_mask()
    drawn[:, 5:10, 5:10], drawn[:, 7, 7], drawn[:, 9, 9] = 7, 8, 9
    with pytest.raises(TruthError, match=r"7, 8, 9.*grey = 1, white = 2"):
        as_truth(drawn, volume, brain)
    with pytest.raises(TruthError, match="20 × 30"):
        as_truth(drawn[0], volume, brain)


# --- words and files ---------------------------------------------------------------------------


def test_the_masks_of_a_slice_stand_side_by_side_with_their_change(eye: Card, volume: Scan) -> None:
    before = {0: box(volume, (1, 2, 4, 10, 12))}
    after = {0: box(volume, (1, 2, 4, 10, 13))}
    found = measure_slice(volume, eye, MaskSets(before, after), 0)
    numbers, words = compared(found), compared(found, words=True)
    assert list(numbers.columns) == [
        "structure", "quantity", "unit", "source", "adapted", "change"
    ]  # fmt: skip
    assert list(numbers.iloc[0, 3:]) == [120, 130, 10]
    area = words.iloc[0]
    assert list(area[["source", "adapted", "change"]]) == ["120.0", "130.0", "+10.0"]
    assert area["quantity"] == "area  mm²"
    assert "+8.3 %" in area["about"]
    assert list(dict.fromkeys(words["structure"])) == ["disc", "cup"]
    # What lies between two masks belongs to neither; what there is none of is a dash.
    dice = words[words["quantity"] == "Dice"].iloc[0]
    assert (dice["source"], dice["change"]) == ("", "0.960")
    empty = words[(words["structure"] == "cup") & words["quantity"].str.startswith("largest")]
    assert empty.iloc[0]["source"] == "–"
    assert as_text(numbers).splitlines()[:2] == [
        "structure\tquantity\tunit\tsource\tadapted\tchange",
        "disc\tArea\tmm²\t120\t130\t10",
    ]


def test_the_change_is_that_of_the_edited_mask_where_there_is_one(
    brain: Card, volume: Scan
) -> None:
    source, adapted = {0: box(volume, (1, 2, 4, 10, 12))}, {0: box(volume, (1, 2, 4, 10, 13))}
    edited = {0: box(volume, (1, 2, 4, 10, 14))}
    sets = MaskSets(source, adapted, edited=edited)
    table = compared(measure_slice(volume, brain, sets, 0))
    assert list(table.iloc[0][["source", "adapted", "edited", "change"]]) == [120, 130, 140, 20]


def test_every_quantity_says_what_it_means() -> None:
    assert len({quantity.name for quantity in QUANTITIES}) == len(QUANTITIES)
    for quantity in QUANTITIES:
        assert quantity.meaning.endswith(".")
        assert (quantity.of is None) != (quantity.between is None)


@pytest.mark.parametrize(
    ("value", "unit", "signed", "words"),
    [
        (1234.4, "mm²", False, "1\u202f234"),
        (12.345, "mm", False, "12.3"),
        (-0.4, "mm", True, "−0.40"),
        (-0.0001, "mm", True, "0.00"),
        (57.0, "px", False, "57"),
        (3.5, "px", True, "+3.5"),
        (0.98765, "", False, "0.988"),
        (math.nan, "mm", False, "–"),
    ],
)
def test_figures_carry_sensible_digits(value: float, unit: str, signed: bool, words: str) -> None:
    assert write(value, unit, signed=signed) == words


def test_the_file_has_a_line_for_each_figure_and_no_names(
    brain: Card, volume: Scan, tmp_path: Path
) -> None:
    masks = {i: box(volume, (1, 2, 2, 10, 10)) for i in range(4)}
    found = everything(volume, brain, masks, masks)
    path = save_csv(found, tmp_path / "m.csv")
    lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    assert len(lines) == len(found)
    assert {line["slice"] for line in lines} == {"1", "2", "3", "4", ""}
    assert lines[0]["value"] == "100"
    assert "scan" not in path.read_text(encoding="utf-8-sig")
    assert [p.name for p in tmp_path.iterdir()] == ["m.csv"]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    nothing = pd.DataFrame(columns=list(COLUMNS))
    with pytest.raises(FileError, match="cannot be written"):
        save_csv(nothing, tmp_path / "file" / "m.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
