"""The stream of a run: order, modes, seeds, rollback, resume, masks."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_grata.adaptation import (
    AdaptationRun,
    Record,
    Settings,
    SettingsError,
    SlicesError,
    adapt,
)
from napari_grata.adaptation.plan import RunError
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter
from napari_grata.segmenters.extent import Extent
from tools.generators.models import Small, small_card

LEARN = Settings(learning_rate=0.02, six_views=False)


class Fragile(Small):
    """Runs out of memory when told to; a bright corner makes its output not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.poison: float | None = None
        self.fails_at: int | None = None
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.fails_at is not None and self.calls >= self.fails_at:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        z = super().forward(x)
        if self.poison is not None and float(x.mean()) > self.poison:
            z = z * float("nan")
        return z


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(small_card(), Fragile(), "cpu")


def volume(slices: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:72, :66]
    return np.stack(
        [
            (
                0.5 * np.exp(-((rows - 36) ** 2 + (columns - 30 - n) ** 2) / (90 + 20 * n))
                + 0.3 * rng.random((72, 66))
            )
            for n in range(slices)
        ]
    ).astype(np.float32)


@pytest.fixture
def scan() -> Scan:
    return scan_from_array(volume(), name="volume", spacing=(2.0, 1.0, 1.0))


@pytest.fixture
def series() -> Scan:
    data = np.stack([volume(3, seed) for seed in range(3)])
    return scan_from_array(data, name="series", spacing=(1.0, 2.0, 1.0, 1.0))


def figures(records: list[Record]) -> list[tuple]:
    return [
        (r.phase, r.step, r.slice_index, r.cosine, r.learning_rate, r.pseudo_loss, r.agreement)
        for r in records
    ]


def same(first: list[Record], second: list[Record]) -> bool:
    return figures(first) == figures(second) and all(
        np.array_equal(a.adapted_mask, b.adapted_mask)
        and np.array_equal(a.source_mask, b.source_mask)
        for a, b in zip(first, second, strict=True)
    )


def test_slices_come_in_the_order_asked_for_and_the_total_is_known_from_the_start(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, slices=[4, 1, 2])
    assert run.total == 3
    records = list(run.records())
    assert [record.slice_index for record in records] == [4, 1, 2]
    assert [(record.done, record.total) for record in records] == [(1, 3), (2, 3), (3, 3)]
    assert [record.step for record in records] == [1, 2, 3]
    assert all(-1 <= record.cosine <= 1 for record in records)
    assert set(run.adapted_masks) == {1, 2, 4}
    assert records[0].adapted_mask.shape == (72, 66)


def test_adapt_takes_a_preset_by_name_and_slices_as_a_person_writes_them(
    segmenter: Segmenter, scan: Scan
) -> None:
    records = list(adapt(segmenter, scan, "grata", slices="2-3", seed=5))
    assert [record.slice_index for record in records] == [1, 2]
    with pytest.raises(SettingsError, match="careful"):
        adapt(segmenter, scan, "no such method")


def test_one_seed_gives_the_same_numbers_and_another_seed_others(
    segmenter: Segmenter, scan: Scan
) -> None:
    first, second, other = (
        list(adapt(segmenter, scan, settings=LEARN, seed=seed)) for seed in (1, 1, 2)
    )
    assert same(first, second)
    assert [r.pseudo_loss for r in first] != [r.pseudo_loss for r in other]


def test_the_source_model_stays_as_it_was(segmenter: Segmenter, scan: Scan) -> None:
    before = {key: value.clone() for key, value in segmenter.network.state_dict().items()}
    run = AdaptationRun(segmenter, scan, LEARN.but(predict="average"))
    list(run.records())
    assert not np.array_equal(run.past.theta(0), run.past.theta(5))
    after = segmenter.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not segmenter.network.training


@pytest.mark.parametrize("predict", ["stream", "average", "final"])
def test_after_a_rollback_the_run_goes_on_with_the_same_numbers(
    segmenter: Segmenter, scan: Scan, predict: str
) -> None:
    settings = LEARN.but(predict=predict, steps_per_slice=2)
    run = AdaptationRun(segmenter, scan, settings)
    straight = list(run.records())
    run.rollback(3)
    assert run.step == 3
    assert set(run.adapted_masks) == {0, 1}
    again = list(run.resume())
    assert again[0].step == 4
    assert same(straight[3:], again)
    assert same(straight, list(run.past))


def test_a_rollback_can_be_taken_back_until_the_run_goes_on(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    straight = list(run.records())
    run.rollback(0)
    assert (run.step, run.position, run.adapted_masks) == (0, 0, {})
    run.rollback(5)
    assert np.array_equal(run.adapted_masks[4], straight[4].adapted_mask)
    run.rollback(2)
    next(stream := run.resume())
    stream.close()
    with pytest.raises(RunError, match="holds 0 to 3"):
        run.rollback(5)


def test_a_rollback_between_two_steps_of_a_running_stream_takes_effect_at_the_next(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    stream = run.records()
    first = [next(stream) for _ in range(4)]
    run.rollback(1)
    again = list(stream)
    assert [record.step for record in again] == [2, 3, 4, 5]
    assert same(first[1:], again[:3])


def test_cancelling_keeps_what_was_finished_and_resuming_completes_it(
    segmenter: Segmenter, scan: Scan
) -> None:
    straight = list(AdaptationRun(segmenter, scan, LEARN).records())
    run = AdaptationRun(segmenter, scan, LEARN)
    stream = run.records()
    first = [next(stream), next(stream)]
    stream.close()
    assert set(run.adapted_masks) == {0, 1}
    assert same(straight, first + list(run.resume()))
    assert list(run.records()) == []


def test_a_run_cannot_go_on_twice_at_once(segmenter: Segmenter, scan: Scan) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    stream = run.records()
    next(stream)
    with pytest.raises(RunError, match="going on already"):
        next(run.records())
    stream.close()


@pytest.mark.parametrize("predict", ["stream", "average"])
def test_episodic_cases_do_not_know_of_each_other(
    segmenter: Segmenter, series: Scan, predict: str
) -> None:
    settings = LEARN.but(mode="episodic", predict=predict, passes=2)
    together = list(AdaptationRun(segmenter, series, settings).records())
    for case in range(3):
        slices = list(series.case_slices(case))
        alone = list(AdaptationRun(segmenter, series, settings, slices=slices).records())
        own = [record for record in together if record.case == case]
        assert [r.cosine for r in alone] == [r.cosine for r in own]
        for a, b in zip(alone, own, strict=True):
            assert np.array_equal(a.adapted_mask, b.adapted_mask)


def test_in_continual_mode_a_case_does_know_of_the_one_before(
    segmenter: Segmenter, series: Scan
) -> None:
    together = list(AdaptationRun(segmenter, series, LEARN).records())
    alone = list(AdaptationRun(segmenter, series, LEARN, slices=[3, 4, 5]).records())
    assert [r.cosine for r in together[3:6]] != [r.cosine for r in alone]


def test_every_n_slices_the_model_is_the_source_again(segmenter: Segmenter, scan: Scan) -> None:
    run = AdaptationRun(segmenter, scan, LEARN.but(mode="every-n", reset_every=2))
    records = list(run.records())
    alone = list(AdaptationRun(segmenter, scan, LEARN, slices=[2, 3]).records())
    assert [r.pseudo_loss for r in records[2:4]] == [r.pseudo_loss for r in alone]
    assert [r.step for r in records] == [1, 2, 3, 4, 5]


def test_the_averaged_mask_is_that_of_the_mean_of_theta(segmenter: Segmenter, scan: Scan) -> None:
    run = AdaptationRun(segmenter, scan, LEARN.but(predict="average"))
    stream = run.records()
    for _ in range(3):
        next(stream)
    stream.close()
    run.rollback(1)
    records = [r for r in run.resume() if r.phase == "predict"]
    mean = np.mean([run.past.theta(step).astype(np.float64) for step in range(1, 6)], axis=0)
    adapter = run._adapter
    for record in records:
        expected = adapter.predict(record.slice_index, mean.astype(np.float32)).label_map
        assert np.array_equal(record.adapted_mask, expected)
        assert record.final
    assert [record.slice_index for record in records] == [0, 1, 2, 3, 4]


def test_blank_slices_and_undone_steps_have_no_say_in_the_average(segmenter: Segmenter) -> None:
    data = volume()
    data[[0, 1]] = 0
    data[3] = np.clip(data[3] + 0.5, 0, 1)
    scan = scan_from_array(data, name="x", spacing=(2.0, 1.0, 1.0))
    assert isinstance(segmenter.network, Fragile)
    segmenter.network.poison = 0.6
    run = AdaptationRun(segmenter, scan, LEARN.but(predict="average"))
    records = list(run.records())
    assert [r.cosine is None for r in records[:5]] == [True, True, False, False, False]
    assert [r.undone for r in records[:5]] == [False, False, False, True, False]
    mean = run.past.mean_theta([3, 5])
    expected = run._adapter.predict(2, mean).label_map
    assert np.array_equal(records[7].adapted_mask, expected)
    source = run._adapter.predict(2, run.past.theta(0)).label_map
    assert not np.array_equal(expected, source)


def test_any_step_can_be_looked_at_and_looking_disturbs_nothing(
    segmenter: Segmenter, scan: Scan
) -> None:
    straight = list(AdaptationRun(segmenter, scan, LEARN).records())
    run = AdaptationRun(segmenter, scan, LEARN)
    looked = []
    for record in run.records():
        looked.append(record)
        run.predict(0, step=0)
        run.predict(3)
    assert same(straight, looked)
    for record in straight:
        seen = run.predict(record.slice_index, step=record.step)
        assert np.array_equal(seen.label_map, record.adapted_mask)
        assert np.array_equal(run.predict(record.slice_index).label_map, record.adapted_mask)


def test_another_thread_may_look_while_the_run_goes_on(segmenter: Segmenter, scan: Scan) -> None:
    settings = LEARN.but(predict="average", passes=3)
    straight = list(AdaptationRun(segmenter, scan, settings).records())
    run = AdaptationRun(segmenter, scan, settings)
    seen: dict[tuple[int, int], np.ndarray] = {}
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            step = run.last_step
            seen[step % 5, step] = run.predict(step % 5, step=step).label_map
            run.predict(0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        looked_at = list(run.records())
    finally:
        over.set()
        thread.join()
    assert same(straight, looked_at)
    assert len(seen) > 1
    for (index, step), mask in seen.items():
        assert np.array_equal(run.predict(index, step=step).label_map, mask)


def test_outside_the_region_the_source_mask_stays(segmenter: Segmenter, scan: Scan) -> None:
    given = {0: np.full((72, 66), 1, np.uint8)}
    region = (10, 12, 50, 60)
    run = AdaptationRun(segmenter, scan, LEARN, slices=[0], region=region, source_masks=given)
    (record,) = run.records()
    outside = np.ones((72, 66), bool)
    outside[10:50, 12:60] = False
    assert (record.adapted_mask[outside] == 1).all()
    assert (record.adapted_mask[~outside] != 1).any()
    assert np.array_equal(run.predict(0).label_map, record.adapted_mask)


def test_source_masks_that_are_given_are_used_and_the_others_predicted(
    segmenter: Segmenter, scan: Scan
) -> None:
    given = {1: np.zeros((72, 66), np.uint8)}
    given[1][3, 4] = 2
    run = AdaptationRun(segmenter, scan, LEARN, source_masks=given)
    list(run.records())
    assert np.array_equal(run.source_masks[1], given[1])
    for found in segmenter.predict(scan, [0, 2, 3, 4]):
        # Other slices share its batch, which may move a pixel on the very edge.
        different = run.source_masks[found.slice_index] != found.label_map
        assert np.count_nonzero(different) < 5
        assert found.label_map.any()
    wrong = AdaptationRun(segmenter, scan, LEARN, source_masks={0: np.zeros((3, 3), np.uint8)})
    with pytest.raises(RunError, match="Segment the scan again"):
        next(wrong.records())


@pytest.mark.parametrize("given", [False, True])
def test_a_collapse_is_flagged_whether_or_not_the_source_masks_were_there(
    segmenter: Segmenter, scan: Scan, given: bool
) -> None:
    masks = {p.slice_index: p.label_map for p in segmenter.predict(scan)} if given else None
    run = AdaptationRun(segmenter, scan, LEARN.but(method="batch-norm"), source_masks=masks)
    stream = run.records()
    assert "entropy-collapse" not in {flag.code for flag in next(stream).flags}
    with torch.no_grad():
        run._adapter._method.network.norm.weight.mul_(1e5)
    rest = [{flag.code for flag in record.flags} for record in stream]
    assert all("entropy-collapse" in codes for codes in rest)


def test_source_masks_come_in_small_batches_ahead_of_the_stream(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    stream = run.records()
    next(stream)
    assert set(run.source_masks) == {0, 1, 2, 3}
    stream.close()


def test_a_step_that_is_not_finite_is_undone_and_says_so(segmenter: Segmenter, scan: Scan) -> None:
    data = volume()
    data[2] = np.clip(data[2] + 0.5, 0, 1)
    assert isinstance(segmenter.network, Fragile)
    segmenter.network.poison = 0.6
    # The strong view may be brighter than the image: only the fixed ones are poisoned for sure.
    run = AdaptationRun(segmenter, scan_from_array(data, name="x", spacing=(2.0, 1.0, 1.0)), LEARN)
    records = list(run.records())
    assert records[2].undone
    assert np.isnan(records[2].cosine)
    assert records[2].flags[0].code == "non-finite"
    assert "undone" in records[2].flags[0].text
    assert np.array_equal(run.past.theta(2), run.past.theta(3))
    assert np.array_equal(records[2].adapted_mask, records[2].source_mask)
    assert np.isfinite(run.past.theta(5)).all()


def test_running_out_of_memory_loses_no_finished_step(segmenter: Segmenter, scan: Scan) -> None:
    straight = list(AdaptationRun(segmenter, scan, LEARN).records())
    assert isinstance(segmenter.network, Fragile)
    run = AdaptationRun(segmenter, scan, LEARN)
    stream = run.records()
    first = [next(stream), next(stream)]
    network = run._adapter._method.network
    assert isinstance(network, Fragile)
    network.fails_at = network.calls + 4
    with pytest.raises(MemoryError, match="draw a region"):
        next(stream)
    network.fails_at = None
    assert same(straight, first + list(run.resume()))


def test_looking_back_gives_up_where_the_cpu_has_no_memory_either(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN)
    list(run.records())
    # As on a graphics card, while the model that looks back had to go to the CPU already.
    run._adapter._method.device = torch.device("cuda")
    network = run._adapter._viewer.network
    assert isinstance(network, Fragile)
    network.fails_at = 0

    def move() -> None:
        raise AssertionError("moved to where it is")

    run._adapter._move_viewer = move  # type: ignore[method-assign]
    with pytest.raises(MemoryError, match="Close other programs"):
        run.predict(0)


def test_methods_that_learn_nothing_see_each_slice_once(segmenter: Segmenter, scan: Scan) -> None:
    for method in ("source", "batch-norm"):
        settings = Settings(method=method, passes=3, steps_per_slice=2, predict="average")
        records = list(AdaptationRun(segmenter, scan, settings).records())
        assert len(records) == scan.n_slices
        assert all(r.step == 0 and r.final and r.cosine is None for r in records)
    source = list(adapt(segmenter, scan, "source"))
    assert all(np.array_equal(r.adapted_mask, r.source_mask) for r in source)


def test_a_run_can_start_where_an_earlier_one_stood(segmenter: Segmenter, scan: Scan) -> None:
    straight = list(AdaptationRun(segmenter, scan, LEARN).records())
    first = AdaptationRun(segmenter, scan, LEARN, slices=[0, 1])
    list(first.records())
    second = AdaptationRun(segmenter, scan, LEARN, slices=[2, 3, 4], start=first.state)
    cosines = [record.cosine for record in second.records()]
    assert cosines == [record.cosine for record in straight[2:]]


@pytest.mark.parametrize("mode", ["episodic", "every-n"])
def test_every_case_begins_with_the_state_that_the_run_was_given(
    segmenter: Segmenter, series: Scan, mode: str
) -> None:
    earlier = AdaptationRun(segmenter, series, LEARN.but(learning_rate=0.05))
    list(earlier.records())
    state = earlier.state
    still = LEARN.but(learning_rate=1e-9, mode=mode, reset_every=2)
    run = AdaptationRun(segmenter, series, still, start=state)
    list(run.records())
    for step in range(1, run.last_step + 1):
        np.testing.assert_allclose(run.past.theta(step), state.theta.numpy(), atol=1e-6)


def test_records_and_their_masks_cannot_be_written_to(segmenter: Segmenter, scan: Scan) -> None:
    record = next(adapt(segmenter, scan, settings=LEARN))
    with pytest.raises(ValueError, match="read-only"):
        record.adapted_mask[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        record.source_mask[0, 0] = 1


def test_what_is_unlike_the_training_is_flagged_on_photographs_and_told_of_volumes(
    segmenter: Segmenter, scan: Scan
) -> None:
    never = Extent(structure="disc", cases=100, side=(0.01, 0.01, 0.01), hint="Draw a region.")
    card = replace(segmenter.card, dimensions=2, modality="fundus", extents=(never,))
    picture = scan_from_array(volume(1)[0], name="eye")
    settings = LEARN.but(method="source")
    (record,) = adapt(Segmenter(card, segmenter.network, "cpu"), picture, settings=settings)
    (flag,) = [flag for flag in record.flags if flag.code == "disc-unusual"]
    assert flag.text.endswith("Draw a region.")
    large = Extent(structure="disc", cases=100, volume_ml=(9.0, 10.0, 11.0))
    card = replace(segmenter.card, extents=(large,))
    run = AdaptationRun(Segmenter(card, segmenter.network, "cpu"), scan, settings)
    list(run.records())
    assert any("The disc measures" in notice for notice in run.notices)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"slices": [0, 9]}, "no slice 9"),
        ({"slices": []}, "at least one"),
        ({"region": (80, 0, 90, 20)}, "holds no pixel"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    segmenter: Segmenter, scan: Scan, choice: dict, message: str, tmp_path
) -> None:
    with pytest.raises(RunError, match=message):
        AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run", **choice)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_read_the_scan_is_refused(segmenter: Segmenter) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(RunError):
        AdaptationRun(segmenter, scan_from_array(picture, name="eye", rgb=True), LEARN)


def test_a_slice_that_is_not_there_is_named_as_displayed(segmenter: Segmenter, scan: Scan) -> None:
    with pytest.raises(SlicesError, match="slices 1 to 5"):
        adapt(segmenter, scan, slices="4-6")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a graphics card")
def test_a_full_graphics_card_hands_over_to_the_cpu_with_a_notice(scan: Scan) -> None:
    run = AdaptationRun(Segmenter(small_card(), Fragile(), "cuda"), scan, LEARN)
    stream = run.records()
    first = next(stream)
    run._adapter._method.network.fails_at = 0
    rest = list(stream)
    assert str(run.segmenter.device) == "cpu"
    assert any("ran out of memory" in notice for notice in run.notices)
    assert [r.step for r in [first, *rest]] == [1, 2, 3, 4, 5]
