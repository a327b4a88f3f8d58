"""Slices reach the network's grid and come back to exactly where they were."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_grata.scans import scan_from_array
from napari_grata.segmenters.card import Card, Structure
from napari_grata.segmenters.preprocessing import (
    PredictionError,
    frame_for,
    prepare,
    prepare_array,
    restore,
)

PHOTO = Card(
    name="photo",
    title="Photo",
    structures=(Structure("disc", "#56B4E9", 1),),
    size=(256, 256),
)
SLICES = Card(
    name="slices",
    title="Slices",
    structures=(Structure("tissue", "#56B4E9", 1),),
    channels=1,
    spacing=(1.0, 1.0),
    normalisation={"kind": "quantile", "low": 0.0, "high": 1.0},
    modality="T1",
    dimensions=3,
)


def ellipse(shape, centre=(0.5, 0.5), radii=(0.3, 0.2)) -> np.ndarray:
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    inside = ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1
    return inside.astype(np.float32)


def dice(a, b) -> float:
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def centre_of_mass(weights) -> np.ndarray:
    grid = np.indices(weights.shape)
    return np.array([(axis * weights).sum() / weights.sum() for axis in grid])


CASES = [
    # card, shape, spacing, region
    (PHOTO, (300, 300), None, None),
    (PHOTO, (531, 347), None, None),
    (PHOTO, (97, 413), None, None),
    (PHOTO, (200, 160), None, (31, 17, 180, 150)),
    (SLICES, (217, 181), (1.0, 1.0), None),
    (SLICES, (256, 128), (0.9375, 1.5), None),
    (SLICES, (91, 203), (2.1, 0.7), None),
    (SLICES, (333, 250), (0.43, 0.77), (40, 21, 301, 240)),
    (SLICES, (64, 65), None, None),
]


@pytest.mark.parametrize(("card", "shape", "spacing", "region"), CASES)
def test_a_mask_there_and_back_lies_where_it_was(card, shape, spacing, region):
    mask = ellipse(shape, centre=(0.48, 0.55))
    prepared = prepare_array(card, mask, spacing=spacing, intensities=(0, 1), region=region)
    assert all(n % 32 == 0 for n in prepared.image.shape[2:])
    back = restore(prepared.image[0, :1], prepared)[0]
    assert back.shape == shape
    row0, column0, row1, column1 = region or (0, 0, *shape)
    inside = (slice(row0, row1), slice(column0, column1))
    assert dice(back[inside] >= 0.5, mask[inside] > 0.5) > 0.98
    # Dice forgives half a pixel; the centre of mass does not.
    shift = centre_of_mass(back[inside]) - centre_of_mass(mask[inside])
    assert np.abs(shift).max() < 0.05
    outside = np.ones(shape, bool)
    outside[inside] = False
    assert not back[outside].any()


def test_a_photograph_keeps_its_aspect_ratio():
    frame = frame_for(PHOTO, (300, 600))
    assert frame.inner == (128, 256)
    assert frame.padding == (64, 0)
    assert frame.scale[0] == pytest.approx(frame.scale[1])


def test_a_square_photograph_fills_the_input():
    frame = frame_for(PHOTO, (800, 800))
    assert (frame.inner, frame.padding) == ((256, 256), (0, 0))


def test_a_slice_is_brought_to_the_spacing_of_the_card():
    frame = frame_for(SLICES, (256, 128), spacing=(0.9375, 1.5))
    assert frame.inner == (240, 192)
    assert frame.outer == (256, 192)


def test_all_slices_of_a_volume_have_one_shape():
    scan = scan_from_array(
        np.random.default_rng(0).random((5, 70, 90)), name="v", spacing=(3, 1.3, 0.9)
    )
    shapes = {tuple(prepare(SLICES, scan, i).image.shape) for i in range(scan.n_slices)}
    assert shapes == {(1, 1, 96, 96)}


def test_padding_repeats_the_border_so_that_statistics_stay():
    prepared = prepare_array(PHOTO, np.pad(np.ones((50, 98, 3)), ((0, 0), (1, 1), (0, 0))))
    top = prepared.image[0, 0, 0]
    assert torch.equal(top, prepared.image[0, 0, 128])


def test_tiny_regions_are_padded_so_that_the_smallest_map_has_more_than_one_value():
    frame = frame_for(SLICES, (256, 256), spacing=(1, 1), region=(10, 10, 14, 15))
    assert frame.outer == (64, 64)


def test_a_region_reads_the_same_pixels_as_the_cropped_slice():
    values = np.random.default_rng(0).random((120, 90)).astype(np.float32)
    whole = prepare_array(SLICES, values, spacing=(1, 1), intensities=(0, 1), region=(7, 9, 71, 73))
    crop = prepare_array(SLICES, values[7:71, 9:73], spacing=(1, 1), intensities=(0, 1))
    assert torch.equal(whole.image, crop.image)


def test_a_region_over_the_edge_is_cut_and_one_beside_the_slice_is_refused():
    assert frame_for(PHOTO, (50, 60), region=(-5, 40, 20, 90)).region == (0, 40, 20, 60)
    with pytest.raises(PredictionError, match="holds no pixel"):
        frame_for(PHOTO, (50, 60), region=(50, 0, 80, 20))


def test_an_absurd_pixel_size_is_told_instead_of_filling_the_memory():
    with pytest.raises(PredictionError, match="pixel size"):
        frame_for(SLICES, (512, 512), spacing=(1000.0, 1000.0))


def test_min_max_is_taken_per_picture_over_all_channels():
    values = np.zeros((256, 256, 3), np.uint8)
    values[..., 0] = np.linspace(50, 100, 256)
    values[..., 1] = 75
    values[..., 2] = 50
    image = prepare_array(PHOTO, values).image
    assert image.min() == 0
    assert image.max() == 1
    assert image[0, 1].mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0), (bool, True)]
)
def test_unit_maps_the_range_of_the_data_type_to_0_and_1(dtype, top):
    values = np.zeros((256, 256), dtype)
    values[:, 128:] = top
    card = replace(PHOTO, normalisation={"kind": "unit"})
    image = prepare_array(card, values).image
    assert (image[..., 0].max(), image[..., -1].min()) == (0, 1)
    if dtype is np.uint8:
        assert prepare_array(card, values // 2).image.max().item() == pytest.approx(127 / 255)


def test_quantiles_are_those_of_the_whole_case_not_of_the_slice():
    volume = np.zeros((3, 64, 64), np.int16)
    volume[0], volume[1], volume[2] = 100, 200, 400
    volume[0, 0, 0] = 300
    scan = scan_from_array(volume, name="v", spacing=(1, 1, 1))
    means = [prepare(SLICES, scan, i).image.mean().item() for i in range(3)]
    assert means[0] == pytest.approx(0, abs=1e-3)
    assert means[1:] == pytest.approx([1 / 3, 1])


def test_values_beyond_the_quantiles_are_clipped():
    values = np.array([[-10.0, 0.0, 5.0, 10.0, 90.0]] * 5)
    card = replace(SLICES, spacing=None)
    frame = prepare_array(card, values, intensities=(0, 10))
    top, left = frame.frame.padding
    assert frame.image[0, 0, top, left : left + 5].tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("kind", ["min-max", "unit", "quantile"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_never_reach_the_network(kind, dtype):
    values = np.random.default_rng(0).random((64, 64)).astype(dtype)
    values[3, 4], values[5, 6], values[7, 8] = np.nan, np.inf, -np.inf
    card = replace(SLICES, normalisation={"kind": kind, "low": 0.0, "high": 1.0})
    image = prepare_array(card, values).image
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.1


@pytest.mark.parametrize("value", [0, 7, np.nan])
@pytest.mark.parametrize("kind", ["min-max", "unit", "quantile"])
def test_a_constant_slice_becomes_a_finite_constant_image(kind, value):
    values = np.full((64, 64), value, np.float32)
    card = replace(SLICES, normalisation={"kind": kind, "low": 0.0, "high": 1.0})
    image = prepare_array(card, values).image
    assert image.isfinite().all()
    assert image.min() == image.max()


def test_wide_integers_and_huge_floats_keep_their_contrast():
    steps = np.arange(64)[None].repeat(64, 0)
    for values in (2**40 + steps, 1e300 * (1 + steps)):
        image = prepare_array(replace(SLICES, normalisation={"kind": "min-max"}), values).image
        assert image[0, 0, 0].tolist() == pytest.approx((np.arange(64) / 63).tolist(), abs=1e-6)


def test_grey_is_repeated_for_a_colour_model_and_colour_becomes_luminance_for_a_grey_one():
    grey = np.random.default_rng(0).integers(0, 255, (256, 256), dtype=np.uint8)
    image = prepare_array(PHOTO, grey).image
    assert image.shape[1] == 3
    assert torch.equal(image[:, 0], image[:, 2])
    card = replace(PHOTO, channels=1, normalisation={"kind": "unit"})
    colour = np.zeros((256, 256, 3), np.uint8)
    colour[..., 1] = 255
    assert prepare_array(card, colour).image.mean().item() == pytest.approx(0.7152, abs=1e-4)


def test_making_smaller_averages_instead_of_picking():
    stripes = np.zeros((1024, 1024), np.float32)
    stripes[:, ::2] = 1
    image = prepare_array(replace(PHOTO, normalisation={"kind": "unit"}), stripes).image
    assert image[..., 8:-8].std() < 0.02
    assert image.mean().item() == pytest.approx(0.5, abs=0.01)


def test_the_scan_is_not_changed_by_reading_it():
    values = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    kept = values.copy()
    prepared = prepare_array(SLICES, values, intensities=(0, 1))
    prepared.image.zero_()
    assert np.array_equal(values, kept)


def test_probabilities_of_another_size_are_refused():
    prepared = prepare_array(PHOTO, np.zeros((300, 300), np.uint8))
    with pytest.raises(ValueError, match=r"\(S, 256, 256\)"):
        restore(torch.zeros(1, 128, 128), prepared)
