"""Frames of photographs: where the structures have their usual side and place, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.scans import open_scan, scan_from_array
from napari_grata.segmenters import Segmenter, Structure, framing, load_segmenter
from napari_grata.segmenters.extent import Extent, anchor, implausible
from napari_grata.segmenters.framing import find_frame, home_steadiness
from tools.generators.discs import EYE, USUAL, Bright, photograph

ROOT = Path(__file__).resolve().parents[2]


class Expecting(nn.Module):
    """Draws what it is used to, whatever it is shown."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        disc = (rows**2 + columns**2 < 0.6**2 * 4 / np.pi).float()
        return (40 * (disc - 0.5)).expand(len(images), 1, height, width)


def eye(network: nn.Module | None = None, **changes: object) -> Segmenter:
    return Segmenter(replace(EYE, **changes), network or Bright(), "cpu")


@pytest.mark.parametrize(
    ("shape", "centre", "side"),
    [((200, 200), (100, 100), 50), ((200, 200), (80, 120), 70), ((500, 700), (150, 600), 66)],
    ids=["wide", "beside", "whole"],
)
def test_the_frame_gives_the_structure_its_usual_side_and_place(
    shape: tuple[int, int], centre: tuple[float, float], side: float
) -> None:
    found = find_frame(eye(), photograph(shape, centre, side))
    assert found.settled
    assert found.region is not None
    row, column, end_row, end_column = found.region
    assert end_row - row == pytest.approx(side / 0.6, rel=0.06)
    assert end_column - column == pytest.approx(side / 0.6, rel=0.06)
    assert (row + end_row) / 2 == pytest.approx(centre[0], abs=0.05 * side / 0.6)
    assert (column + end_column) / 2 == pytest.approx(centre[1], abs=0.05 * side / 0.6)
    assert f"rows {row + 1} to {end_row}" in found.words


def test_a_picture_that_fits_is_read_whole() -> None:
    found = find_frame(eye(), photograph((100, 100), (52, 49), 62))
    assert (found.region, found.settled, found.words) == (None, True, "")


def test_at_the_edge_the_frame_stays_in_the_picture() -> None:
    found = find_frame(eye(), photograph((300, 300), (45, 150), 80))
    assert found.settled
    assert found.region is not None
    assert found.region[0] == 0
    assert found.region[2] - found.region[0] == pytest.approx(80 / 0.6, rel=0.06)


def test_what_follows_the_frame_is_not_believed() -> None:
    found = find_frame(eye(Expecting()), photograph((300, 300), (100, 100), 50))
    assert (found.region, found.settled) == (None, False)
    assert "follows the frame" in found.words
    assert found.words.endswith("Draw a region.")


def test_a_model_that_knows_its_own_frame_alone_is_held_to_what_its_card_says() -> None:
    """Of the first look alone: what only a search finds has to be surer."""
    extent, wide = EYE.extents[0], photograph((200, 200), (100, 100), 50)
    habit = eye(Expecting())
    steady = home_steadiness(habit, [photograph((100, 100), (50, 50), 60)])
    assert steady is not None
    assert 0.4 < steady < 0.75
    home = replace(extent, steadiness=steady)
    fits = find_frame(eye(Expecting(), extents=(home,)), wide)
    assert (fits.region, fits.settled) == (None, True)
    # As steady as any model is: what is believed of others is enough of it too.
    sure = find_frame(eye(extents=(replace(extent, steadiness=0.99),)), wide)
    assert sure.settled
    assert sure.region is not None


def test_where_nothing_is_found_the_whole_picture_is_read_and_it_is_said() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[100, 100] = 255
    found = find_frame(eye(), scan_from_array(picture, name="p", rgb=True))
    assert (found.region, found.settled) == (None, False)
    assert found.words.startswith("No part of the picture was found that shows the disc")


def test_an_input_that_is_not_square_gives_frames_of_its_shape() -> None:
    found = find_frame(eye(size=(64, 96)), photograph((300, 300), (150, 150), 70))
    assert found.region is not None
    row, column, end_row, end_column = found.region
    assert (end_column - column) / (end_row - row) == pytest.approx(1.5, rel=0.03)
    assert (end_column - column) * (end_row - row) == pytest.approx((70 / 0.6) ** 2, rel=0.12)


def test_every_photograph_of_a_list_has_its_own_frame() -> None:
    pictures = [
        photograph((200, 200), centre, 50).read_slice(0) for centre in ((60, 60), (140, 130))
    ]
    scan = scan_from_array(np.stack(pictures), name="p", rgb=True)
    first, second = (find_frame(eye(), scan, case).region for case in (0, 1))
    assert first is not None
    assert second is not None
    assert first[0] < 50 < second[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"extents": ()},
        {"size": None},
        {"extents": (Extent("disc", 50, present=0.5, side=USUAL, row=USUAL, column=USUAL),)},
    ],
    ids=["no extents", "any size", "not in every picture"],
)
def test_without_a_usual_extent_there_is_nothing_to_find(changes: dict[str, object]) -> None:
    segmenter = eye(**changes)
    assert anchor(segmenter.card) is None
    found = find_frame(segmenter, photograph((200, 200), (100, 100), 50))
    assert (found.region, found.settled, found.words) == (None, True, "")


def test_of_several_structures_the_one_of_the_narrowest_range_is_framed() -> None:
    disc = EYE.extents[0]
    cup = Extent("cup", 50, side=(0.1, 0.3, 0.5), row=USUAL, column=USUAL)
    structures = (*EYE.structures, Structure("cup", "#E69F00", 2, "disc"))
    assert anchor(replace(EYE, structures=structures, extents=(cup, disc))) == disc


def test_the_disc_of_a_whole_photograph_is_found_with_the_bundled_model() -> None:
    fundus = load_segmenter(ROOT / "models" / "fundus-disc-cup", "cpu")
    scan = open_scan(ROOT / "sample_data" / "fundus_left_eye.jpg")
    found = find_frame(fundus, scan)
    assert found.settled
    assert found.region is not None
    mask = next(iter(fundus.predict(scan, region=found.region))).label_map
    assert not implausible(fundus.card, {0: mask}, scan, region=found.region)


def test_what_one_other_frame_did_not_show_is_looked_at_too_and_has_to_be_surer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fundus = load_segmenter(ROOT / "models" / "fundus-disc-cup", "cpu")
    scan = open_scan(ROOT / "sample_data" / "fundus_left_eye.jpg")
    usual = find_frame(fundus, scan).region
    monkeypatch.setattr(framing, "CANDIDATES", 0)
    assert find_frame(fundus, scan).region == usual
    monkeypatch.setattr(framing, "SURER", 1.1)
    assert not find_frame(fundus, scan).settled


def test_the_disc_is_found_among_exudates(data_root: Path) -> None:
    path = data_root / "open_fundus_disc" / "IDRiD" / "images" / "IDRiD_01.jpg"
    found = find_frame(load_segmenter(ROOT / "models" / "fundus-disc-cup", "cpu"), open_scan(path))
    assert found.region is not None
    row, column, end_row, end_column = found.region
    # Its disc, of some 500 pixels.
    assert row < 1130 < 1650 < end_row < row + 800
    assert column < 2990 < 3500 < end_column < column + 800
