"""Jumping to what is worth a look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_grata.adaptation.records import Flag, Record
from napari_grata.widgets import landmarks
from napari_grata.widgets.slice_rows import SliceRow

_MASK = np.zeros((0, 0), dtype=np.uint8)


def _record(step: int, index: int, **changes: Any) -> Record:
    return Record(
        phase=changes.pop("phase", "adapt"),
        step=step,
        done=step,
        total=9,
        slice_index=index,
        case=0,
        pass_index=0,
        source_mask=_MASK,
        adapted_mask=_MASK,
        **changes,
    )


def _name(index: int) -> str:
    return f"axial {index + 1}"


def test_pixels_that_differ_follow_from_areas_and_dice() -> None:
    first, second = np.zeros((2, 20, 20), dtype=bool)
    first[2:12, 3:13] = True
    second[5:15, 3:14] = True
    dice = 2 * (first & second).sum() / (first.sum() + second.sum())
    found = landmarks.differing(
        {"disc": int(first.sum())}, {"disc": int(second.sum())}, {"disc": float(dice)}
    )
    assert found["disc"] == pytest.approx((first ^ second).sum())


def test_the_largest_change_is_one_of_area_and_not_of_a_speck() -> None:
    rows = [
        SliceRow(0, "axial 1", {"disc": 0}, {"disc": 3}, None, {"disc": 0.0}),
        SliceRow(1, "axial 2", {"disc": 900}, {"disc": 700}, None, {"disc": 0.8}),
    ]
    place = landmarks.largest_change(rows, (), _name)
    assert (place.slice_index, place.step) == (1, landmarks.RESULT)
    assert "axial 2" in place.sentence
    assert "320 px of disc" in place.sentence


def test_a_step_that_gave_the_result_is_where_the_largest_change_is_shown() -> None:
    areas = {"source_area": {"disc": 900}, "adapted_area": {"disc": 700}}
    row = SliceRow(4, "axial 5", {"disc": 900}, {"disc": 700}, None, {"disc": 0.8})
    place = landmarks.largest_change(
        [row], [_record(7, 4, **areas, agreement={"disc": 0.8})], _name
    )
    assert (place.slice_index, place.step) == (4, 7)


def test_the_lowest_similarity_leaves_out_undone_steps() -> None:
    records = [
        _record(1, 0, cosine=0.4),
        _record(2, 1, cosine=float("nan"), undone=True),
        _record(3, 2, cosine=-0.25),
        _record(4, 3, cosine=None),
    ]
    place = landmarks.lowest_similarity(records, _name)
    assert (place.slice_index, place.step) == (2, 3)
    assert "−0.25 at step 3, axial 3" in place.sentence
    assert landmarks.lowest_similarity(records[3:], _name).slice_index is None


def test_the_first_flag_goes_by_the_order_of_the_run() -> None:
    flag = (Flag("empty", "the disc is gone."),)
    records = [_record(1, 5), _record(2, 3, flags=flag), _record(3, 1)]
    place = landmarks.first_flag({1: flag, 3: flag, 5: ()}, records, _name)
    assert (place.slice_index, place.step) == (3, 2)
    assert place.sentence == "First flag: axial 4, step 2. The disc is gone."
    assert landmarks.first_flag({}, records, _name).slice_index is None


def test_a_jump_moves_slice_and_slider_and_says_why(make_dock: Any, finished: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    assert not dock.adapt.jumps.isEnabled()
    dock.adapt.adapt_button.click()
    finished(dock)
    records = dock.desk.session.stream
    lowest = min(records, key=lambda record: record.cosine)
    dock.adapt.jumps.buttons["lowest_similarity"].click()
    assert dock.desk.in_view() == lowest.slice_index
    assert dock.adapt.steps.step() == lowest.step
    assert dock.adapt.plot.marked_step() == lowest.step
    assert f"at step {lowest.step}" in dock.adapt.steps.label.said()


def test_jumps_work_by_key_and_for_a_run_that_was_reopened(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.set_run_parent(str(tmp_path / "runs"))
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.verbs["jump_to_largest_change"]()
    expected = dock.desk.in_view(), dock.adapt.steps.step(), dock.adapt.steps.label.said()
    assert expected[2].startswith("Largest change: ")
    dock.desk.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    again = make_dock(scan=None)
    again.saving.reopen_from(folder)
    finished(again)
    again.verbs["jump_to_largest_change"]()
    assert (
        again.desk.in_view(),
        again.adapt.steps.step(),
        again.adapt.steps.label.said(),
    ) == expected


def test_a_method_that_learns_nothing_can_be_searched_as_well(
    make_dock: Any, finished: Any
) -> None:
    dock = make_dock(method="batch-norm")
    dock.adapt.adapt_button.click()
    finished(dock)
    assert not dock.adapt.steps.isEnabled()
    assert dock.adapt.jumps.isEnabled()
    dock.verbs["jump_to_lowest_similarity"]()
    assert "no similarity" in dock.adapt.steps.label.said()
    dock.verbs["jump_to_largest_change"]()
    assert "Largest change" in dock.adapt.steps.label.said()
