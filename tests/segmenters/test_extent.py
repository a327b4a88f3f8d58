"""Extent, place and shape of structures: measured in training masks, held against new ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_grata.scans import Scan, open_scan, read_mask, scan_from_array
from napari_grata.segmenters import Segmenter, load_segmenter
from napari_grata.segmenters.card import Card, CardError, Structure, card_to_yaml, load_card
from napari_grata.segmenters.extent import Extent, implausible, measure_extents

ROOT = Path(__file__).resolve().parents[2]
EYE = Card(
    name="eye",
    title="Eye",
    structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
    size=(64, 64),
)
BRAIN = Card(
    name="brain",
    title="Brain",
    structures=(Structure("grey matter", "#009E73", 1),),
    activation="softmax",
    channels=1,
    spacing=(1.0, 1.0),
    modality="T1",
    dimensions=3,
)


def photograph(mask: np.ndarray) -> Scan:
    picture = np.zeros((*mask.shape, 3), np.uint8)
    picture[0, 0] = 255
    return scan_from_array(picture, name="p", rgb=True)


def eye(disc: float, centre: tuple[float, float] = (0.5, 0.5), cup: float = 0.5) -> np.ndarray:
    """A square disc with a square cup; sides as parts of the frame and of the disc."""
    mask = np.zeros((200, 200), np.uint8)
    for value, side in ((1, disc), (2, disc * cup)):
        (top, left), half = (round(200 * place) for place in centre), round(100 * side)
        mask[max(0, top - half) : top + half, max(0, left - half) : left + half] = value
    return mask


def volume(length: int, spacing: tuple[float, float, float] = (2, 1, 1)) -> Scan:
    values = np.random.default_rng(0).random((40, 60, 80)).astype(np.float32)
    return scan_from_array(values, name="v", spacing=spacing)


@pytest.fixture(scope="module")
def card() -> Card:
    masks = [eye(side) for side in np.linspace(0.5, 0.6, 30)]
    extents = measure_extents(EYE, ((photograph(m), m) for m in masks), "Draw a region.")
    return replace(EYE, extents=extents)


def said(card: Card, mask: np.ndarray, **options) -> dict[str, str]:
    return dict(implausible(card, mask, photograph(mask), **options))


def test_what_is_measured_in_pictures_is_side_place_and_largest_piece(card: Card) -> None:
    disc, cup = card.extents
    assert (disc.structure, disc.cases, disc.present) == ("disc", 30, 1.0)
    assert disc.side == pytest.approx((0.5, 0.55, 0.6), abs=0.01)
    assert cup.side == pytest.approx((0.25, 0.275, 0.3), abs=0.01)
    assert disc.row == pytest.approx((0.5, 0.5, 0.5), abs=0.01)
    assert disc.largest == (1, 1, 1)
    assert disc.volume_ml is None


def test_what_is_like_the_training_is_plausible(card: Card) -> None:
    for mask in (eye(0.5), eye(0.6), eye(0.55, (0.45, 0.57)), eye(0.55, cup=0.48)):
        assert said(card, mask) == {}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (eye(0.95), "The disc fills 90 % of the picture; in training it filled 25 to 36 %."),
        (eye(0.2), "The disc fills 4 % of the picture; in training it filled 25 to 36 %."),
        (eye(0.55, (0.5, 0.3)), "The centre of the disc lies 30 % across the picture; in training"),
        (eye(0.55, (0.7, 0.5)), "The centre of the disc lies 70 % down the picture; in training"),
        (np.zeros((200, 200), np.uint8), "No disc was found; in training every picture showed it."),
    ],
    ids=["large", "small", "beside", "below", "absent"],
)
def test_what_is_unlike_the_training_is_said_with_both_figures_and_advice(
    card: Card, mask: np.ndarray, words: str
) -> None:
    sentence = said(card, mask)["disc"]
    assert sentence.startswith(words)
    assert sentence.endswith(" Draw a region.")


def test_a_structure_in_pieces_is_said(card: Card) -> None:
    mask = eye(0.55)
    mask[:, 90:110] = 0
    assert "in pieces, the largest of which holds 50 % of it" in said(card, mask)["disc"]


def test_with_a_region_the_region_is_the_frame(card: Card) -> None:
    small = np.pad(eye(0.55), 300)
    assert "disc" in said(card, small)
    region = (300, 300, 500, 500)
    assert said(card, small, region=region) == {}
    assert "of the region" in said(card, small, region=(0, 0, 800, 800))["disc"]


def test_every_photograph_of_a_list_is_looked_at_and_named_by_its_number(card: Card) -> None:
    masks = np.stack([eye(0.55), eye(0.95)])
    pictures = np.random.default_rng(0).integers(0, 255, (*masks.shape, 3), dtype=np.uint8)
    scan = scan_from_array(pictures, name="DOE JOHN", rgb=True)
    found = implausible(card, masks, scan)
    assert [name for name, _ in found] == ["disc", "cup"]
    assert all(sentence.startswith("Photograph 2: ") for _, sentence in found)
    assert implausible(card, masks, scan, case=0) == ()
    assert implausible(card, masks, scan, slices=[0]) == ()
    assert "DOE" not in str(found)


def test_a_card_without_extents_says_nothing() -> None:
    assert said(EYE, eye(0.95)) == {}


def block(side: int) -> np.ndarray:
    mask = np.zeros((40, 60, 80), np.uint8)
    mask[5 : 5 + side // 2, 5 : 5 + side, 5 : 5 + side] = 1
    return mask


@pytest.fixture(scope="module")
def brain() -> Card:
    cases = [(volume(40), block(side)) for side in range(28, 33)]
    return replace(BRAIN, extents=measure_extents(BRAIN, cases, "Is the skull still on?"))


def test_volumes_are_measured_in_millilitres_and_millimetres(brain: Card) -> None:
    (grey,) = brain.extents
    assert grey.cases == 5
    assert grey.volume_ml[1] == pytest.approx(30**3 / 1000, rel=0.01)
    assert grey.length_mm[1] == pytest.approx(30)
    assert grey.side is None


def test_a_volume_that_is_far_too_large_is_said_and_few_cases_bind_less(brain: Card) -> None:
    assert implausible(brain, block(36), volume(40)) == ()
    ((name, sentence),) = implausible(brain, block(50), volume(40))
    assert name == "grey matter"
    assert "measures 125 ml; in training it measured 22 to 33 ml. Is the skull" in sentence
    many = replace(brain, extents=(replace(brain.extents[0], cases=40),))
    assert len(implausible(many, block(36), volume(40))) == 1


def test_a_wrong_voxel_size_is_said(brain: Card) -> None:
    ((_, sentence),) = implausible(brain, block(30), volume(40, (6, 3, 3)))
    assert "ml" in sentence


def test_of_a_volume_segmented_in_part_nothing_is_too_small(brain: Card) -> None:
    mask = block(30)
    mask[8:] = 0
    assert len(implausible(brain, mask, volume(40))) == 1
    assert implausible(brain, mask, volume(40), slices=range(8)) == ()
    assert implausible(brain, np.zeros_like(mask), volume(40), slices=range(3)) == ()


def test_without_voxel_sizes_nothing_is_said_about_a_volume(brain: Card) -> None:
    values = np.random.default_rng(0).random((40, 60, 80)).astype(np.float32)
    assert implausible(brain, block(50), scan_from_array(values, name="v")) == ()


def test_a_card_keeps_its_extents(card: Card, tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(card_to_yaml(card), encoding="utf-8")
    assert load_card(tmp_path) == card
    assert "side: [0.5" in card_to_yaml(card)
    assert "volume_ml" not in card_to_yaml(card)
    assert "extents" not in card_to_yaml(EYE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"structure": "macula"}, "each should be a structure of"),
        ({"side": [0.6, 0.5, 0.7]}, "should not fall"),
        ({"cases": 0}, "cases is 0"),
        ({"sides": [0.1, 0.2, 0.3]}, "Did you mean 'side'"),
    ],
)
def test_a_wrong_extent_is_refused_in_words(changes: dict[str, object], words: str) -> None:
    block = {"structure": "disc", "cases": 3, "side": [0.5, 0.6, 0.7], **changes}
    with pytest.raises(CardError, match=words):
        replace(EYE, extents=[block])  # type: ignore[arg-type]


def test_two_extents_of_one_structure_are_refused() -> None:
    with pytest.raises(CardError, match="once"):
        replace(EYE, extents=(Extent("disc", 1), Extent("disc", 2)))


# -- the bundled models -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fundus() -> Segmenter:
    return load_segmenter(ROOT / "models" / "fundus-disc-cup", "cpu")


def plausible(segmenter: Segmenter, scan: Scan) -> bool:
    masks = scan.empty_mask()
    for prediction in segmenter.predict(scan):
        scan.put_mask(masks, prediction.slice_index, prediction.label_map)
    return not implausible(segmenter.card, masks, scan)


def test_a_whole_fundus_photograph_is_implausible_and_its_disc_region_is_not(
    fundus: Segmenter,
) -> None:
    samples = ROOT / "sample_data"
    assert not plausible(fundus, open_scan(samples / "fundus_left_eye.jpg"))
    assert plausible(fundus, open_scan(samples / "fundus_disc.png"))
    assert plausible(fundus, open_scan(samples / "fundus_disc_simulated_camera.jpg"))


@pytest.mark.parametrize("centre", ["RIM-ONE_r2", "RIM-ONE_r3", "Drishti-GS_tight"])
def test_disc_regions_of_any_centre_are_plausible(
    centre: str, fundus: Segmenter, data_root: Path
) -> None:
    folder = data_root / "local_disc_cup" / centre / "images"
    found = [plausible(fundus, open_scan(path)) for path in sorted(folder.iterdir())[::4]]
    assert np.mean(found) >= 0.95


def test_wide_photographs_of_the_disc_are_implausible(fundus: Segmenter, data_root: Path) -> None:
    folder = data_root / "local_disc_cup" / "Drishti-GS" / "images"
    found = [plausible(fundus, open_scan(path)) for path in sorted(folder.iterdir())[::4]]
    assert np.mean(found) <= 0.05


@pytest.mark.parametrize("group", ["A_0.9375mm", "B_1.0mm", "C_0.8371mm"])
def test_reference_brains_of_any_group_are_plausible(group: str, data_root: Path) -> None:
    card = load_card(ROOT / "models" / "brain-tissue-t1")
    folder = data_root / "local_brain_T1_IBSR18" / group
    for image in sorted((folder / "images").iterdir()):
        scan = open_scan(image)
        assert implausible(card, read_mask(folder / "masks" / image.name, scan), scan) == ()
