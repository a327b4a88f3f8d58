"""A run that is ended early: every slice gets a mask with what was learnt so far."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from napari_grata.adaptation import AdaptationRun, Settings, reopen, taught_state
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter, load_segmenter
from tools.generators.models import DISC_AND_CUP, write_tiny

LEARN = Settings(learning_rate=0.02)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = write_tiny(tmp_path_factory.mktemp("models") / "tiny", structures=DISC_AND_CUP[:1])
    return load_segmenter(folder, device="cpu")


@pytest.fixture
def scan() -> Scan:
    rng = np.random.default_rng(0)
    data = rng.random((5, 60, 62)).astype(np.float32)
    data[:, 20:40, 15:40] += 1
    return scan_from_array(data, name="volume", spacing=(2.0, 1.0, 1.0))


def _cancelled(segmenter: Segmenter, scan: Scan, settings: Settings, after: int, **more):
    run = AdaptationRun(segmenter, scan, settings, **more)
    stream = run.records()
    list(islice(stream, after))
    stream.close()
    return run


def test_slices_without_a_result_are_predicted_with_the_mean_of_what_was_learnt(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = _cancelled(segmenter, scan, LEARN.but(predict="average"), 3)
    records = list(run.finish())
    assert [record.phase for record in records] == ["predict"] * 5
    assert [record.slice_index for record in records] == [0, 1, 2, 3, 4]
    assert all(record.final and record.step == 3 for record in records)
    assert sorted(run.adapted_masks) == [0, 1, 2, 3, 4]
    mean = run.past.mean_theta([1, 2, 3])
    expected = run._adapter.predict(4, mean).label_map
    np.testing.assert_array_equal(run.adapted_masks[4], expected)
    assert run.position == run.total == 8
    assert list(run.resume()) == []


def test_masks_that_the_stream_gave_stay_as_they_are(segmenter: Segmenter, scan: Scan) -> None:
    run = _cancelled(segmenter, scan, LEARN, 2)
    kept = {index: mask.copy() for index, mask in run.adapted_masks.items()}
    records = list(run.finish())
    assert [record.slice_index for record in records] == [2, 3, 4]
    for index, mask in kept.items():
        np.testing.assert_array_equal(run.adapted_masks[index], mask)
    np.testing.assert_array_equal(run.adapted_masks[3], run.predict(3, 2).label_map)


def test_a_run_that_was_rolled_back_finishes_from_there(segmenter: Segmenter, scan: Scan) -> None:
    run = AdaptationRun(segmenter, scan, LEARN.but(predict="final"))
    list(run.records())
    run.rollback(2)
    assert all(record.step == 2 for record in run.finish())
    assert run.last_step == 2
    np.testing.assert_array_equal(run.adapted_masks[0], run.predict(0, 2).label_map)


def test_where_nothing_was_learnt_finishing_is_going_on(segmenter: Segmenter, scan: Scan) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    assert len(list(run.finish())) == 5
    assert run.cut is None
    still = _cancelled(segmenter, scan, Settings(method="batch-norm"), 2)
    assert len(list(still.finish())) == 3


def test_a_finished_run_folder_comes_back_whole(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = _cancelled(segmenter, scan, LEARN.but(predict="average"), 2, folder=tmp_path / "run")
    list(run.finish())
    masks = {index: mask.copy() for index, mask in run.adapted_masks.items()}
    run.close()
    back = reopen(tmp_path / "run", scan)
    assert back.state == "finished"
    assert len(back.records) == 7
    again = back.run(segmenter)
    assert again.position == again.total == 7
    assert again.cut == 2
    for index, mask in masks.items():
        np.testing.assert_array_equal(again.adapted_masks[index], mask)
    again.rollback(1)
    assert [record.phase for record in again.resume()] == ["adapt"] + ["predict"] * 5
    for index, mask in masks.items():
        np.testing.assert_array_equal(again.adapted_masks[index], mask)
    again.close()


def test_a_state_that_was_taken_comes_back_from_the_folder(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    list(run.records())
    result = {index: mask.copy() for index, mask in run.adapted_masks.items()}
    run.rollback(2)
    masks = {index: run.predict(index, 2).label_map for index in range(5)}
    run.take(2, masks)
    run.close()
    back = reopen(tmp_path / "run", scan)
    assert back.taken == 2
    assert len(back.records) == 5
    for index, mask in masks.items():
        np.testing.assert_array_equal(back.adapted_masks[index], mask)
    live = back.run(segmenter)
    assert live.step == 2
    live.rollback(5)
    for index, mask in result.items():
        np.testing.assert_array_equal(live.adapted_masks[index], mask)
    live.close()
    again = reopen(tmp_path / "run", scan)
    assert again.taken is None
    np.testing.assert_array_equal(again.adapted_masks[4], result[4])
    again.close()


def test_masks_of_a_taken_state_that_are_lost_are_told(
    segmenter: Segmenter, scan: Scan, tmp_path: Path, damage: Callable[..., None]
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    list(run.records())
    run.rollback(1)
    run.take(1, {index: run.predict(index, 1).label_map for index in range(5)})
    run.close()
    damage(tmp_path / "run", "masks", "mask", "kind = 'taken' AND slice = 3")
    back = reopen(tmp_path / "run", scan)
    assert back.taken is None
    assert sorted(back.adapted_masks) == [0, 1, 2, 3, 4]
    assert any("earlier state" in sentence for sentence in back.missing)
    back.close()


def test_where_a_state_was_taken_it_is_what_the_run_predicts_and_teaches_with(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN.but(predict="average"), folder=tmp_path / "run")
    list(run.records())
    run.rollback(3)
    drew = run.past.theta(3)
    assert not np.array_equal(run.theta_of(0), drew)  # the mean of three steps
    run.take(3, {index: run.predict(index, 3).label_map for index in range(5)})
    np.testing.assert_array_equal(run.theta_of(0), drew)
    np.testing.assert_array_equal(taught_state(run).theta.numpy(), drew)
    run.close()
    live = reopen(tmp_path / "run", scan).run(segmenter)
    assert live.taken == 3
    assert sorted(live.adapted_masks) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(live.theta_of(4), drew)
    live.close()


def test_a_run_that_goes_on_forgets_the_masks_of_a_taken_state(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    list(run.records())
    result = {index: mask.copy() for index, mask in run.adapted_masks.items()}
    run.rollback(2)
    run.take(2, {index: np.full_like(mask, 7) for index, mask in result.items()})
    list(run.resume())
    assert run.taken is None
    for index, mask in result.items():
        np.testing.assert_array_equal(run.adapted_masks[index], mask)
