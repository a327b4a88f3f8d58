"""What a run will do: slices as they are typed, and every event in order."""

from __future__ import annotations

import numpy as np
import pytest

from napari_grata.adaptation import Settings, SlicesError, parse_slices
from napari_grata.adaptation.plan import cut_short, describe_slices, episodes, make_plan
from napari_grata.scans import Scan, scan_from_array


def scan_of(*leading: int) -> Scan:
    data = np.random.default_rng(0).random((*leading, 8, 8), dtype=np.float32)
    return scan_from_array(data, name="scan", spacing=(1.0,) * data.ndim)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", list(range(30))),
        ("10-12, 25", [9, 10, 11, 24]),
        (" 3 ", [2]),
        ("12-10", [11, 10, 9]),
        ("5..6;2", [4, 5, 1]),
        ("5–6", [4, 5]),
        ("1-3, 2-4", [0, 1, 2, 3]),
        ("current", [7]),
        ("Current, 1", [7, 0]),
    ],
)
def test_numbers_are_those_on_the_screen(text: str, expected: list[int]) -> None:
    assert parse_slices(text, scan_of(30), current=7) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No slices are named"),
        ("0", "slices 1 to 30"),
        ("29-31", "no slice 31"),
        ("ten", "no slice or range"),
        ("1-2-3", "no slice or range"),
        ("2:5", "no time series"),
        ("current", "needs a slice in view"),
    ],
)
def test_what_cannot_be_read_is_explained(text: str, message: str) -> None:
    with pytest.raises(SlicesError, match=message):
        parse_slices(text, scan_of(30))


def test_in_a_series_plain_numbers_mean_every_time_point() -> None:
    series = scan_of(3, 10)
    assert parse_slices("2-3", series) == [1, 2, 11, 12, 21, 22]
    assert parse_slices("2:2-3", series) == [11, 12]
    assert parse_slices("3:all", series) == list(range(20, 30))
    assert parse_slices("all", series) == list(range(30))
    with pytest.raises(SlicesError, match="no time point 4"):
        parse_slices("4:1", series)


def test_a_single_picture_has_one_slice() -> None:
    assert parse_slices("all", scan_of()) == [0]
    assert parse_slices("1", scan_of()) == [0]
    with pytest.raises(SlicesError, match="only slice 1"):
        parse_slices("2", scan_of())


@pytest.mark.parametrize(
    "slices", [[9, 10, 11, 24], [3], list(range(30)), [11, 10, 9], [4, 6, 5], [29, 0]]
)
def test_what_is_described_is_read_back_the_same(slices: list[int]) -> None:
    scan = scan_of(30)
    assert parse_slices(describe_slices(slices, scan), scan) == slices


def test_descriptions_are_short() -> None:
    assert describe_slices([9, 10, 11, 24], scan_of(30)) == "10-12, 25"
    assert describe_slices(range(30), scan_of(30)) == "all"
    series = scan_of(3, 10)
    assert describe_slices([11, 12], series) == "2:2-3"
    assert parse_slices("2:2-3", series) == [11, 12]


TWO_A_CASE = {"case_of": lambda index: index // 2}


def test_passes_go_over_all_slices_and_only_the_last_mask_is_final() -> None:
    plan = make_plan(Settings(passes=2, steps_per_slice=2), [3, 5], lambda index: 0)
    assert [event.slice_index for event in plan] == [3, 3, 5, 5, 3, 3, 5, 5]
    assert [event.step for event in plan] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [event.pass_index for event in plan] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [number for number, event in enumerate(plan) if event.final] == [5, 7]


def test_masks_predicted_afterwards_follow_the_adaptation_and_are_the_final_ones() -> None:
    plan = make_plan(Settings(predict="average"), [0, 1], lambda index: 0)
    assert [event.phase for event in plan] == ["adapt", "adapt", "predict", "predict"]
    assert [event.final for event in plan] == [False, False, True, True]
    assert {event.step for event in plan if event.phase == "predict"} == {2}


def test_in_episodic_mode_a_case_is_finished_before_the_next_begins() -> None:
    settings = Settings(mode="episodic", predict="final", passes=2)
    plan = make_plan(settings, [0, 2, 1, 3], **TWO_A_CASE)
    assert [event.slice_index for event in plan] == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    assert [event.phase[0] for event in plan] == list("aaaappaaaapp")
    assert [number for number, event in enumerate(plan) if event.resets] == [6]
    assert [event.first_step for event in plan] == [1] * 6 + [5] * 6


def test_every_n_slices_a_new_stretch_begins() -> None:
    settings = Settings(mode="every-n", reset_every=3)
    assert episodes(settings, list(range(7)), lambda index: 0) == [[0, 1, 2], [3, 4, 5], [6]]
    plan = make_plan(settings, list(range(7)), lambda index: 0)
    assert [event.slice_index for event in plan if event.resets] == [3, 6]


def test_the_first_stretch_needs_no_reset_so_that_a_run_can_go_on_from_another() -> None:
    assert not make_plan(Settings(mode="episodic"), [0, 1], **TWO_A_CASE)[0].resets


def test_in_episodic_mode_only_the_case_in_progress_is_finished() -> None:
    settings = Settings(mode="episodic", predict="average")
    plan = make_plan(settings, [0, 1, 2, 3, 4, 5], lambda index: index // 2)
    events = cut_short(plan, 5, settings)
    assert events[:5] == plan[:5]
    assert [event.slice_index for event in events[5:]] == [2, 3]
    assert {(event.first_step, event.step) for event in events[5:]} == {(3, 3)}


def test_stretches_of_one_volume_share_what_the_last_one_learnt() -> None:
    settings = Settings(mode="every-n", reset_every=2)
    plan = make_plan(settings, [0, 1, 2, 3, 4, 5], lambda index: 0)
    events = cut_short(plan, 3, settings)
    assert [event.slice_index for event in events[3:]] == [3, 4, 5]
    assert {(event.episode, event.step) for event in events[3:]} == {(1, 3)}
