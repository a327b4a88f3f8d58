"""What a person is asked to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from napari_grata.adaptation import flags
from napari_grata.adaptation.flags import Slice, flag_slice, mean_entropy
from napari_grata.segmenters import Card, Structure


@pytest.fixture
def card() -> Card:
    return Card(
        name="eye",
        title="Eye",
        structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
        channels=3,
    )


def disc(radius: float, cup: float = 0, centre: tuple[int, int] = (50, 50)) -> np.ndarray:
    rows, columns = np.mgrid[:100, :100]
    distance = np.hypot(rows - centre[0], columns - centre[1])
    mask = np.zeros((100, 100), np.uint8)
    mask[distance < radius] = 1
    mask[distance < cup] = 2
    return mask


def codes(card: Card, before: np.ndarray, after: np.ndarray, **more) -> set[str]:
    return {flag.code for flag in flag_slice(Slice(card, before, after, **more))}


def test_a_mask_that_hardly_changed_is_not_flagged(card: Card) -> None:
    assert codes(card, disc(30, 15), disc(29, 16), expected=True) == set()
    empty = np.zeros((100, 100), np.uint8)
    assert codes(card, empty, empty) == set()


def test_a_structure_that_shrank_or_grew_beyond_a_factor_of_two_is_flagged(card: Card) -> None:
    assert codes(card, disc(30, 15), disc(30, 9)) == {"cup-lost"}
    assert codes(card, disc(15), disc(30)) == {"disc-doubled"}
    assert codes(card, disc(0), disc(30)) == {"disc-doubled"}
    (flag,) = flag_slice(Slice(card, disc(30, 15), disc(30, 9)))
    assert "cup" in flag.text
    assert "%" in flag.text


def test_a_cup_that_grew_does_not_make_the_disc_look_smaller(card: Card) -> None:
    assert codes(card, disc(30, 20), disc(30, 27)) == set()


def test_an_empty_mask_is_flagged_where_there_was_one_or_should_be_one(card: Card) -> None:
    empty = np.zeros((100, 100), np.uint8)
    assert codes(card, disc(30, 15), empty) == {"disc-empty", "cup-empty"}
    assert codes(card, empty, empty, expected=True) == {"disc-empty", "cup-empty"}


def test_broken_containment_shows_in_the_probabilities_that_the_mask_hides(card: Card) -> None:
    inside = np.stack([disc(30) > 0, disc(15) > 0]).astype(np.float32)
    beside = np.stack([disc(30) > 0, disc(15, centre=(50, 75)) > 0]).astype(np.float32)
    mask = disc(30, 15)
    assert codes(card, mask, mask, probabilities=inside) == set()
    assert codes(card, mask, mask, probabilities=beside) == {"cup-outside-disc"}


def test_a_mask_that_fell_into_pieces_is_flagged(card: Card) -> None:
    pieces = disc(30)
    pieces[::6] = 0
    assert codes(card, disc(30), pieces) == {"disc-fragments"}


def test_a_mask_at_the_edge_of_the_image_or_of_the_region_is_flagged(card: Card) -> None:
    at_edge = disc(30, centre=(80, 50))
    assert codes(card, at_edge, at_edge) == {"disc-at-border"}
    (flag,) = flag_slice(Slice(card, disc(30), disc(30), region=(20, 25, 90, 90)))
    assert flag.code == "disc-at-border"
    assert "rectangle" in flag.text


def test_a_model_that_is_suddenly_sure_of_everything_is_flagged(card: Card) -> None:
    mask = disc(30, 15)
    before = mean_entropy(np.full((2, 100, 100), 0.3, np.float32), "sigmoid")
    after = mean_entropy(np.full((2, 100, 100), 1e-6, np.float32), "sigmoid")
    assert codes(card, mask, mask, entropy=after, source_entropy=before) == {"entropy-collapse"}
    assert codes(card, mask, mask, entropy=before, source_entropy=before) == set()
    assert codes(card, mask, mask, entropy=after, source_entropy=after) == set()


def test_what_is_unlike_the_training_is_flagged_by_the_structures_name(card: Card) -> None:
    words = (("disc", "The disc fills 90 % of the picture."),)
    (flag,) = flag_slice(Slice(card, disc(30), disc(30), unusual=words))
    assert (flag.code, flag.text) == ("disc-unusual", "The disc fills 90 % of the picture.")


def test_a_new_flag_is_one_entry(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "RULES", list(flags.RULES))

    @flags.rule("{name}-tiny", "The {name} has {pixels} pixels.")
    def _tiny(seen: flags.Slice) -> Iterator[flags.Values]:
        for one in seen.structures:
            if 0 < one.area_after < 9:
                yield {"name": one.name, "pixels": one.area_after}

    assert "disc-tiny" in codes(card, disc(1), disc(1))
    assert codes(card, disc(30), disc(30)) == set()


def test_an_undone_step_is_flagged(card: Card) -> None:
    assert codes(card, disc(30), disc(30), undone=True) == {"non-finite"}


def test_entropy_is_that_of_the_textbook() -> None:
    half = np.full((2, 40, 40), 0.5)
    assert mean_entropy(half, "sigmoid") == pytest.approx(np.log(2))
    third = np.full((3, 400, 500), 1 / 3)
    assert mean_entropy(third, "softmax") == pytest.approx(np.log(3))
