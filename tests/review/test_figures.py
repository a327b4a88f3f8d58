"""Pictures of a run: drawn without a screen, and showing what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from napari_grata.adaptation import Flag, Record
from napari_grata.review import before_after, curves
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Card

ADDED, REMOVED = (0, 114, 178), (213, 94, 0)
COSINE, RATE = (0, 114, 178), (230, 159, 0)


def disc(radius: int, cup: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:90, :110]
    distance = np.hypot(rows - 45, columns - 50)
    mask = np.zeros((90, 110), np.uint8)
    mask[distance < radius] = 1
    mask[distance < cup] = 2
    return mask


def volume(slices: int = 3, spacing: tuple[float, ...] = (2.0, 1.0, 1.0)) -> Scan:
    data = np.random.default_rng(0).random((slices, 90, 110), dtype=np.float32)
    return scan_from_array(data, name="Miller^Anna", spacing=spacing)


def steps(count: int, **more) -> list[Record]:
    empty = np.zeros((4, 4), np.uint8)
    return [
        Record(
            "adapt",
            n,
            n,
            count,
            0,
            0,
            0,
            empty,
            empty,
            **{
                "cosine": np.sin(n / 3),
                "learning_rate": 1e-4 * (1 + np.sin(n / 3)) ** 2 / 4,
                "auxiliary_loss": 0.6 - 0.01 * n,
                "pseudo_loss": 0.4,
                **more,
            },
        )
        for n in range(1, count + 1)
    ]


def near(path: Path, colour: tuple[int, int, int], within: int = 40) -> int:
    """How many pixels of a picture have about this colour."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=-1) < within).sum())


def test_curves_show_cosine_and_learning_rate(tmp_path: Path) -> None:
    path = curves(steps(20), tmp_path / "curves.png")
    assert near(path, COSINE) > 300
    assert near(path, RATE) > 300


def test_a_method_without_cosine_still_shows_its_rate_and_loss(tmp_path: Path) -> None:
    records = steps(20, cosine=None, auxiliary_loss=None)
    path = curves(records, tmp_path / "curves.png")
    assert near(path, RATE) > 300
    assert near(path, COSINE) < 50


def test_flagged_and_undone_steps_are_marked(tmp_path: Path) -> None:
    plain = curves(steps(20), tmp_path / "plain.png")
    flagged = curves(
        steps(20, flags=(Flag("disc-lost", "The disc shrank."),)), tmp_path / "flagged.png"
    )
    assert near(plain, REMOVED) < 200
    assert near(flagged, REMOVED) > 500
    nan = float("nan")
    undone = steps(3, undone=True, cosine=nan, learning_rate=nan, auxiliary_loss=nan)
    assert curves(undone, tmp_path / "undone.png").stat().st_size > 1000


def test_a_run_without_steps_says_so_instead_of_drawing_empty_axes(tmp_path: Path) -> None:
    path = curves(steps(3, cosine=None, learning_rate=None), tmp_path / "none.png")
    assert near(path, RATE) == 0


def test_before_and_after_shows_what_was_added_and_what_was_removed(
    tmp_path: Path, eye: Card
) -> None:
    small, large = disc(20), disc(35)
    grown = before_after(volume(), ({0: small}, {0: large}), eye, tmp_path / "grown.png")
    shrunk = before_after(volume(), ({0: large}, {0: small}), eye, tmp_path / "shrunk.png")
    assert near(grown, ADDED) > 5000 > near(grown, REMOVED)
    assert near(shrunk, REMOVED) > 5000 > near(shrunk, ADDED)
    assert near(grown, (86, 180, 233)) > 300


def test_the_changed_slices_are_drawn_and_no_others(tmp_path: Path, eye: Card) -> None:
    before = {index: disc(20, 10) for index in range(3)}
    after = {0: disc(20, 10), 1: disc(30, 12), 2: disc(22, 10)}
    alone = before_after(volume(), (before, {**before, 1: after[1]}), eye, tmp_path / "1.png")
    two = before_after(volume(), (before, after), eye, tmp_path / "2.png")
    with Image.open(alone) as first, Image.open(two) as second:
        assert first.width == second.width
        assert 1.4 * first.height < second.height < 2.2 * first.height


def test_without_any_change_a_slice_is_shown_all_the_same(tmp_path: Path, eye: Card) -> None:
    same = {0: np.zeros((90, 110), np.uint8), 1: disc(30, 10)}
    path = before_after(volume(), (same, same), eye, tmp_path / "same.png")
    assert near(path, (86, 180, 233)) > 200
    assert before_after(volume(), ({}, {}), eye, tmp_path / "none.png").is_file()


def test_colour_photographs_and_constant_slices_are_drawn(tmp_path: Path, eye: Card) -> None:
    rng = np.random.default_rng(0)
    photograph = scan_from_array(rng.integers(0, 255, (90, 110, 3), np.uint8), name="e", rgb=True)
    path = before_after(photograph, ({0: disc(20)}, {0: disc(35)}), eye, tmp_path / "p.png")
    assert near(path, ADDED) > 3000
    data = np.zeros((2, 90, 110), np.float32)
    data[1] = rng.random((90, 110))
    data[1, :5] = np.nan
    scan = scan_from_array(data, name="x", spacing=(1.0, 0.5, 2.0))
    both = ({0: disc(20), 1: disc(20)}, {0: disc(35), 1: disc(35)})
    assert near(before_after(scan, both, eye, tmp_path / "c.png"), ADDED) > 3000
