"""What the network is shown in training: cases, views, appearances, targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from napari_grata.scans import open_scan
from napari_grata.segmenters.preprocessing import prepare
from tools.train import appearance as photometry
from tools.train.appearance import (
    brain_appearance,
    fundus_appearance,
    move_tissues,
    paint_tissues,
)
from tools.train.data import (
    PhotographSource,
    TrainingError,
    VolumeSource,
    find_cases,
    split_cases,
)
from tools.train.recipes import BRAIN, FUNDUS
from tools.train.views import GeometryRange

CPU = torch.device("cpu")
EYE = replace(FUNDUS.card, size=(64, 64))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_eyes(root: Path, count: int, shape: tuple[int, int] = (90, 90)) -> Path:
    """Photographs with a bright disc and a brighter cup in it, encoded 255 / 128 / 0."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for k in range(count):
        centre = np.array(shape) / 2 + rng.uniform(-4, 4, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1]) / min(shape)
        mask = np.select([distance < 0.15, distance < 0.33], [0, 128], 255).astype(np.uint8)
        level = np.select([mask == 0, mask == 128], [220, 160], 70)
        picture = level[..., None] * [1.0, 0.7, 0.4] + rng.normal(0, 3, (*shape, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"images/e{k:02d}.png")
        Image.fromarray(mask).save(root / f"masks/e{k:02d}.png")
    return root


def write_brains(root: Path, count: int) -> Path:
    """Nested ellipsoids, stored as (left, front, up) with unequal voxels."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    x, y, z = np.mgrid[:40, :28, :30]
    affine = np.diag([-2.0, 3.0, 2.5, 1.0])
    rng = np.random.default_rng(0)
    for k in range(count):
        radius = np.sqrt(((x - 20) / 16) ** 2 + ((y - 13) / 11) ** 2 + ((z - 15) / 12) ** 2)
        mask = np.select([radius < 0.25, radius < 0.7, radius < 1], [1, 3, 2], 0)
        # A bright spot in front shows which way round the slice is.
        image = np.choose(mask, [0, 30, 70, 100]) + (mask > 0) * rng.normal(0, 2, mask.shape)
        image[(mask == 2) & (y > 19)] += 25
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), root / f"images/b{k}.nii.gz")
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), root / f"masks/b{k}.nii.gz")
    return root


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("data") / "c", 3)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brains(tmp_path_factory.mktemp("data") / "c", 1)


def photographs(eyes: Path) -> PhotographSource:
    cases = find_cases(eyes, "c")
    return PhotographSource(cases, EYE, (64, 64), FUNDUS.values, FUNDUS.labels, CPU)


def volumes(brains: Path) -> VolumeSource:
    cases = find_cases(brains, "c")
    return VolumeSource(cases, BRAIN.card, (96, 96), BRAIN.values, BRAIN.labels, CPU)


def test_cases_are_found_from_any_level_of_the_data(tmp_path: Path) -> None:
    centre = write_eyes(tmp_path / "set" / "centre", 2)
    names = [
        [c.name for c in find_cases(r, "set/centre")] for r in (tmp_path, centre.parent, centre)
    ]
    assert names == [["e00", "e01"]] * 3


def test_missing_data_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="set/centre"):
        find_cases(tmp_path, "set/centre")


def test_another_centre_is_not_taken_for_the_one_asked_for(tmp_path: Path) -> None:
    centre = write_eyes(tmp_path / "set" / "other", 2)
    for root in (tmp_path, centre.parent, centre):
        with pytest.raises(TrainingError, match="set/centre"):
            find_cases(root, "set/centre")


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    centre = write_eyes(tmp_path / "c", 2)
    (centre / "masks" / "e01.png").unlink()
    with pytest.raises(TrainingError, match="e01"):
        find_cases(centre, "c")


def test_a_split_is_seeded_and_holds_out_runs_of_neighbours(tmp_path: Path) -> None:
    cases = find_cases(write_eyes(tmp_path / "c", 23, (8, 8)), "c")
    training, held_out = split_cases(cases, 0.2, block=4, seed=3)
    assert sorted([*training, *held_out], key=lambda c: c.name) == cases
    places = [cases.index(c) for c in held_out]
    assert places == list(range(places[0], places[0] + len(places)))
    assert places[0] % 4 == 0
    assert split_cases(cases, 0.2, block=4, seed=3) == (training, held_out)
    others = {tuple(split_cases(cases, 0.2, block=4, seed=s)[1]) for s in range(8)}
    assert len(others) > 1


def test_two_blocks_are_the_least_that_can_be_split(tmp_path: Path) -> None:
    cases = find_cases(write_eyes(tmp_path / "c", 2, (8, 8)), "c")
    assert [len(part) for part in split_cases(cases, 0.9)] == [1, 1]
    with pytest.raises(TrainingError, match="too few"):
        split_cases(cases, 0.5, block=5)


def test_an_unchanged_view_is_what_the_segmenter_prepares(eyes: Path) -> None:
    batch = photographs(eyes).batch([1], None, seeded())
    prepared = prepare(EYE, open_scan(eyes / "images" / "e01.png"), 0)
    assert torch.allclose(batch.images, prepared.image, atol=1 / 255)


def test_targets_of_photographs_are_disc_with_cup_and_cup(eyes: Path) -> None:
    batch = photographs(eyes).batch([0, 1, 2], None, seeded())
    disc, cup = batch.targets.mean((0, 2, 3)).tolist()
    assert disc == pytest.approx(np.pi * 0.33**2, rel=0.03)
    assert cup == pytest.approx(np.pi * 0.15**2, rel=0.03)
    assert bool((batch.targets[:, 0] >= batch.targets[:, 1]).all())


def test_a_smaller_view_shows_one_disc_and_no_mirror_image_of_it(eyes: Path) -> None:
    half = GeometryRange(scale=(0.55, 0.55))
    batch = photographs(eyes).batch([0, 1, 2], half, seeded())
    assert batch.targets[:, 0].mean() == pytest.approx(np.pi * (0.55 * 0.33) ** 2, rel=0.05)
    bright = (batch.images.mean(1) > 0.32).float()
    assert bright.mean() == pytest.approx(float(batch.targets[:, 0].mean()), rel=0.1)


def test_image_and_target_go_through_the_same_view(eyes: Path) -> None:
    wild = replace(FUNDUS.views, shift=0.2, elastic=0.03)
    batch = photographs(eyes).batch([0, 1, 2] * 4, wild, seeded(4))
    bright = (batch.images.mean(1) > 0.32).float()
    disc = (batch.targets[:, 0] > 0.5).float()
    overlap = 2 * (bright * disc).sum((1, 2)) / (bright.sum((1, 2)) + disc.sum((1, 2)))
    assert overlap.min() > 0.9


def test_oblong_photographs_are_letterboxed(tmp_path: Path) -> None:
    eyes = write_eyes(tmp_path / "c", 1, (60, 90))
    batch = photographs(eyes).batch([0], None, seeded())
    prepared = prepare(EYE, open_scan(eyes / "images" / "e00.png"), 0)
    assert torch.allclose(batch.images, prepared.image, atol=1 / 255)


def test_calm_views_go_half_as_far(eyes: Path) -> None:
    calm = FUNDUS.views.halved()
    low, high = (np.log(calm.scale) / np.log(FUNDUS.views.scale)).tolist()
    assert (low, high) == (pytest.approx(0.5), pytest.approx(0.5))
    source = photographs(eyes)
    home = source.batch([0, 1, 2] * 10, None, seeded()).targets[:, 0].mean((1, 2))
    spread = [
        (source.batch([0, 1, 2] * 10, v, seeded(1)).targets[:, 0].mean((1, 2)) / home).std()
        for v in (FUNDUS.views, calm)
    ]
    assert spread[1] < 0.75 * spread[0]


def test_an_unknown_mask_value_is_an_error_not_background(tmp_path: Path) -> None:
    eyes = write_eyes(tmp_path / "c", 1)
    Image.fromarray(np.full((90, 90), 77, np.uint8)).save(eyes / "masks" / "e00.png")
    with pytest.raises(ValueError, match="77"):
        photographs(eyes)


def test_planes_through_a_volume_lie_as_the_segmenter_shows_them(brains: Path) -> None:
    source = volumes(brains)
    scan = open_scan(brains / "images" / "b0.nii.gz")
    middle = scan.n_slices // 2
    prepared = prepare(BRAIN.card, scan, middle).image[0, 0]
    shown = prepared[prepared.sum(1) > 0][:, prepared.sum(0) > 0]
    best = 1.0
    for index in range(len(source)):
        plane = source.batch([index], None, seeded()).images[0, 0]
        plane = plane[plane.sum(1) > 0][:, plane.sum(0) > 0]
        rows, columns = min(len(plane), len(shown)), min(plane.shape[1], shown.shape[1])
        best = min(best, float((plane[:rows, :columns] - shown[:rows, :columns]).abs().mean()))
    flipped = float((shown - shown.flip(0)).abs().mean())
    assert best < 0.05 < flipped


def test_targets_of_volumes_are_shares_that_sum_to_one(brains: Path) -> None:
    batch = volumes(brains).batch([3, 5, 6], BRAIN.views, seeded())
    assert torch.allclose(batch.targets.sum(1), torch.ones(3, 96, 96), atol=1e-5)
    assert (batch.targets[:, 1:].amax((0, 2, 3)) > 0.9).all()


@pytest.mark.parametrize("kind", ["photograph", "volume"])
def test_one_seed_gives_the_same_training_images(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "photograph":
        source = photographs(request.getfixturevalue("eyes"))
        views, appearance = FUNDUS.views, fundus_appearance
    else:
        source = volumes(request.getfixturevalue("brains"))
        views, appearance = BRAIN.views, brain_appearance

    def images(seed: int) -> torch.Tensor:
        generator = seeded(seed)
        batch = source.batch([0, 1, 2, 1], views, generator)
        return appearance(batch.images, batch.targets, generator)

    first = images(5)
    assert torch.equal(first, images(5))
    assert not torch.equal(first, images(6))
    assert first.min() >= 0
    assert first.max() <= 1


CHANGES = {
    "gain": photometry.channel_gain(0.4, 0.1),
    "contrast": photometry.contrast(0.5, 1.6),
    "gamma": photometry.gamma(0.5, 2.0),
    "curve": photometry.curve(),
    "mix": photometry.colour_mix(0.1),
    "saturation": photometry.saturation(0.0, 0.5),
    "light": photometry.illumination(0.7),
    "haze": photometry.haze(0.5),
    "blur": photometry.blur(0.5, 2.0),
    "blur one way": photometry.blur(0.5, 2.0, axes="one"),
    "resolution": photometry.coarse_resolution(1.5, 3.0),
    "noise": photometry.noise(0.05),
    "compression": photometry.block_compression(0.1, 0.4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_appearance_changes_a_copy(name: str) -> None:
    images = torch.rand(3, 3, 32, 48, generator=seeded(1))
    before = images.clone()
    after = CHANGES[name](images, seeded(2))
    assert torch.equal(images, before)
    assert after.shape == images.shape
    assert torch.isfinite(after).all()
    assert (after - images).abs().mean() > 1e-3


@pytest.mark.parametrize("name", ["blur", "blur one way", "resolution", "compression"])
def test_a_flat_image_stays_flat(name: str) -> None:
    images = torch.full((2, 3, 32, 32), 0.5)
    after = CHANGES[name](images, seeded(3))
    assert float((after - after.mean((2, 3), keepdim=True)).abs().max()) < 1e-4


def test_a_curve_keeps_the_order_of_intensities() -> None:
    ramp = torch.linspace(0, 1, 64).reshape(1, 1, 1, 64).expand(2, 3, 8, 64)
    after = photometry.curve()(ramp, seeded(4))
    assert (after.diff(dim=-1) > 0).all()
    assert after[..., 0].abs().max() < 1e-6
    assert (after[..., -1] - 1).abs().max() < 1e-5


def test_maybe_leaves_the_other_images_as_they_are() -> None:
    images = torch.rand(40, 1, 8, 8, generator=seeded(1))
    after = photometry.maybe(0.3, photometry.contrast(0.5, 0.6))(images, seeded(2))
    same = (after == images).flatten(1).all(1)
    assert 15 < int(same.sum()) < 39


@pytest.mark.parametrize("change", [move_tissues, paint_tissues])
def test_new_contrasts_keep_outline_and_order_of_the_tissues(change, brains: Path) -> None:
    batch = volumes(brains).batch([6] * 8, None, seeded())
    after = change(batch.images, batch.targets, seeded(7))
    assert torch.equal(after == 0, batch.images == 0)
    pure = (batch.targets[:, 1:] > 0.99).float()
    means = (pure * after).sum((2, 3)) / pure.sum((2, 3))
    assert (means[:, 0] < means[:, 1]).all()
    assert (means[:, 1] < means[:, 2]).all()
    assert means.std(0).min() > 0.02
