"""Corrections: what counts as corrected, how it is kept, how it comes to the model's grid."""

from __future__ import annotations

import numpy as np
import pytest

from napari_grata.adaptation import Corrections, CorrectionsError
from napari_grata.adaptation.corrections import lesson
from napari_grata.scans import scan_from_array
from napari_grata.segmenters.card import Card, Structure
from napari_grata.segmenters.preprocessing import frame_for

STRUCTURES = (
    Structure("disc", "#56B4E9", 1),
    Structure("cup", "#E69F00", 2, inside="disc"),
)


def card(**changes) -> Card:
    values = {"name": "small", "title": "Small", "structures": STRUCTURES, **changes}
    return Card(**values)


def masks() -> tuple[np.ndarray, np.ndarray]:
    adapted = np.zeros((20, 24), np.uint8)
    adapted[4:12, 4:12] = 1
    shown = adapted.copy()
    shown[4:6, 4:8] = 2
    shown[10:12, 10:12] = 0
    return shown, adapted


def test_corrected_is_where_the_reviewer_changed_the_mask_and_nothing_else():
    shown, adapted = masks()
    labels = Corrections.of_slice(3, shown, adapted).labels[3]
    assert labels.dtype == np.int16
    assert set(np.unique(labels)) == {-1, 0, 2}
    assert (labels == 2).sum() == 8
    assert (labels == 0).sum() == 4
    assert ((labels != -1) == (shown != adapted)).all()


def test_a_whole_slice_that_is_called_right_counts():
    shown, adapted = masks()
    whole = Corrections.of_slice(0, shown, adapted, whole=True)
    assert whole.pixels == shown.size
    assert (whole.labels[0] == shown).all()


def test_an_untouched_slice_is_left_out():
    _, adapted = masks()
    assert not Corrections.of_slice(0, adapted, adapted)
    assert Corrections.none().pixels == 0


def test_corrections_cannot_be_changed_from_outside():
    given = {1: np.zeros((4, 4), np.int16)}
    corrections = Corrections(given)
    given[1][:] = 2
    assert (corrections.labels[1] == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        corrections.labels[1][0, 0] = 1
    with pytest.raises(TypeError):
        corrections.labels[2] = given[1]  # type: ignore[index]


@pytest.mark.parametrize(
    "labels",
    [np.zeros((3, 3, 3), int), np.full((3, 3), -2), np.full((3, 3), 300), np.zeros((3, 3))],
)
def test_labels_that_make_no_sense_are_refused(labels):
    with pytest.raises(CorrectionsError, match="slice 8"):
        Corrections({7: labels})


def test_the_later_word_counts_where_a_pixel_was_corrected_twice():
    first = Corrections({0: np.array([[1, 1, -1]])})
    later = Corrections({0: np.array([[-1, 2, -1]]), 4: np.array([[0]])})
    both = first.with_(later)
    assert both.labels[0].tolist() == [[1, 2, -1]]
    assert both.slices == (0, 4)
    with pytest.raises(CorrectionsError, match="two sizes"):
        first.with_(Corrections({0: np.array([[1]])}))


def test_corrected_pixels_stay_in_a_mask_as_they_were_drawn():
    corrections = Corrections({2: np.array([[-1, 0], [2, -1]])})
    mask = np.array([[1, 1], [1, 1]], np.uint8)
    assert corrections.put_into(2, mask).tolist() == [[1, 0], [2, 1]]
    assert (mask == 1).all()
    assert corrections.put_into(0, mask) is mask
    with pytest.raises(CorrectionsError, match="another scan"):
        corrections.put_into(2, np.zeros((3, 3), np.uint8))


def test_corrections_of_another_scan_or_model_are_refused():
    data = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32)
    scan = scan_from_array(data, name="volume")
    good = Corrections({1: np.ones((8, 9), int)})
    good.check(card(), scan)
    for labels, words in (
        ({5: np.ones((8, 9), int)}, "has 3 slices"),
        ({1: np.ones((4, 4), int)}, "another scan"),
        ({1: np.full((8, 9), 7)}, r"label 7 .* 1 \(disc\), 2 \(cup\)"),
    ):
        with pytest.raises(CorrectionsError, match=words):
            Corrections(labels).check(card(), scan)


def test_a_cup_counts_as_disc_where_structures_contain_each_other():
    labels = np.full((64, 64), -1)
    labels[:8], labels[8:16], labels[16:24] = 0, 1, 2
    model = card(size=(64, 64))
    (disc, cup), weights = lesson(labels, model, frame_for(model, (64, 64)))
    assert not disc[:8].any()
    assert disc[8:24].all()
    assert not cup[:16].any()
    assert cup[16:24].all()
    assert weights[:24].all()
    assert not weights[24:].any()


def test_exclusive_classes_have_their_background_first():
    brain = card(
        structures=(Structure("csf", "#56B4E9", 1), Structure("grey", "#E69F00", 5)),
        activation="softmax",
        size=(64, 64),
    )
    labels = np.full((64, 64), -1)
    labels[0], labels[1], labels[2] = 0, 5, 1
    targets, _ = lesson(labels, brain, frame_for(brain, (64, 64)))
    assert targets.shape == (3, 64, 64)
    assert targets[:, 0, 0].tolist() == [1, 0, 0]
    assert targets[:, 1, 0].tolist() == [0, 0, 1]
    assert targets[:, 2, 0].tolist() == [0, 1, 0]
    assert (targets.sum(0)[:3] == 1).all()


def test_corrections_follow_the_crop_scale_and_padding_of_the_slice():
    model = card(size=(64, 64))
    labels = np.full((200, 100), -1)
    labels[100:150, 50:75] = 1
    frame = frame_for(model, labels.shape, region=(100, 0, 200, 100))
    _, weights = lesson(labels, model, frame)
    assert weights[:32, 32:48].all()
    assert weights.sum() == 32 * 16
    assert lesson(labels, model, frame_for(model, labels.shape, region=(0, 0, 90, 90))) is None


def test_strokes_thinner_than_a_model_pixel_are_not_lost():
    model = card(size=(64, 64))
    labels = np.full((1024, 1024), -1)
    labels[500:502, 100:900] = 2
    targets, weights = lesson(labels, model, frame_for(model, labels.shape))
    row = weights[500 * 64 // 1024]
    assert row[100 // 16 + 1 : 900 // 16].all()
    assert targets[1][weights > 0].all()


def test_soft_labels_fall_off_around_strokes_and_end():
    model = card(size=(64, 64))
    labels = np.full((64, 64), -1)
    labels[32, 32] = 2
    targets, weights = lesson(labels, model, frame_for(model, labels.shape), soft_labels=4.0)
    along = weights[32, 32:]
    assert along[0] == 1
    assert along[4] == pytest.approx(np.exp(-1), rel=1e-5)
    assert (np.diff(along[:13]) < 0).all()
    assert not along[13:].any()
    assert (targets[1] == (weights > 0)).all()
