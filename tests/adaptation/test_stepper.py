"""A method on a scan's slices: what teaches nothing, what is no mask, and memory that runs out."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import METHODS, AdaptationRun, Settings, make_method
from napari_grata.adaptation.methods.base import Learner, Method, Snapshot
from napari_grata.adaptation.stepper import Stepper
from napari_grata.adaptation.uncertainty import Uncertainty
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Card, ResUNet, Segmenter, Structure
from napari_grata.segmenters.preprocessing import PredictionError
from napari_grata.widgets.tasks import Notice, records_of
from tools.generators.memory import RunsOut
from tools.generators.models import Small

RATE = 1e-2


class Tiny(Small):
    """Small enough for a step at each of whose operations memory runs out once."""

    def __init__(self) -> None:
        super().__init__(outputs=1, width=4)
        self.gain = 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.gain


def segmenter(network: nn.Module | None = None, **changes) -> Segmenter:
    card = Card(
        name="small",
        title="Small",
        structures=(Structure("tissue", "#56B4E9", 1),),
        arguments={"encoder": "compact"},
        channels=1,
        spacing=(1.0, 1.0),
        normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
        modality="T1",
        dimensions=3,
        **changes,
    )
    return Segmenter(card, Tiny() if network is None else network, "cpu")


@pytest.fixture
def scan() -> Scan:
    volume = np.zeros((4, 64, 64), np.float32)
    volume[[1, 3], 10:50, 12:40] = np.random.default_rng(0).random((2, 40, 28)) + 1
    return scan_from_array(volume, name="volume", spacing=(1.0, 1.0, 1.0))


def stepper(model: Segmenter, scan: Scan, settings: Settings) -> Stepper:
    return Stepper(model, scan, settings, None, [])


def equal(one: Snapshot, other: Snapshot) -> bool:
    tensors = ("theta", "first_moment", "second_moment", "generator")
    same = all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
    return same and one.steps == other.steps


# --- nothing to learn ----------------------------------------------------------------------------


def test_a_blank_slice_keeps_its_source_mask_and_teaches_nothing(scan):
    torch.manual_seed(0)
    model = segmenter(ResUNet("compact", outputs=1, channels=1))
    run = AdaptationRun(model, scan, Settings(method="grata", learning_rate=RATE))
    records = list(run.records())
    assert [record.cosine is None for record in records] == [True, False, True, False]
    theta = [run.past.theta(step) for step in range(5)]
    assert np.array_equal(theta[0], theta[1])
    assert not np.array_equal(theta[1], theta[2])
    assert np.array_equal(theta[2], theta[3])
    assert not np.array_equal(theta[3], theta[4])
    assert not any(record.undone for record in records)
    assert sorted(run.adapted_masks) == [0, 1, 2, 3]
    # Statistics of a single value are none: whatever the method, the source model answers.
    for index in (0, 2):
        assert np.array_equal(run.adapted_masks[index], run.source_masks[index])
        looked_back = run.predict(index, step=2).label_map
        assert np.array_equal(looked_back, run.source_masks[index])
    run.close()


# --- no numbers, no mask -------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_number_makes_no_mask(scan, method, gain):
    model = segmenter()
    settings = Settings(method=method, learning_rate=RATE, six_views=True)
    at_work = stepper(model, scan, settings)
    before = at_work.snapshot()
    for worker in (at_work._method, at_work._viewer):
        worker.network.gain = gain
    record, prediction = at_work.step(1)
    assert prediction is None
    assert record.undone
    assert at_work.predict(1, before.theta.numpy()) is None
    assert equal(at_work.snapshot(), before)


@pytest.mark.parametrize("predict", ["stream", "average"])
def test_a_run_keeps_the_source_mask_where_no_numbers_come_out(scan, predict):
    settings = Settings(learning_rate=RATE, predict=predict)
    run = AdaptationRun(segmenter(), scan, settings)
    stream = run.records()
    next(stream), next(stream)
    run._adapter._viewer.network.gain = float("nan")
    run._adapter._method.network.gain = float("nan")
    last = {record.slice_index: record for record in stream}
    for index in (1, 3) if predict == "average" else (3,):
        assert last[index].undone
        assert last[index].flags[0].code == "non-finite"
        assert np.array_equal(last[index].adapted_mask, last[index].source_mask)
        with pytest.raises(PredictionError, match="no numbers, so there is no mask"):
            run.predict(index)
    run.close()


@pytest.mark.parametrize("kind", ["disagreement", "margin"])
def test_nothing_is_said_of_how_sure_a_model_is_that_gives_no_numbers(scan, kind):
    unsure = Uncertainty(segmenter(), scan)
    assert unsure.measure(1, kind).any()
    unsure._method.network.gain = float("nan")
    with pytest.raises(PredictionError, match="no numbers"):
        unsure.measure(1, kind)


# --- memory runs out -----------------------------------------------------------------------------


LEARNERS = [name for name, info in METHODS.items() if issubclass(info.load(), Learner)]


def step(method: Method) -> dict[str, float]:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    record = method.step(image)
    assert not record.undone
    return {"learning_rate": record.learning_rate, "pseudo_loss": record.pseudo_loss}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_is_whole_or_has_not_been_wherever_memory_runs_out(name, error):
    settings = Settings(method=name, learning_rate=RATE)
    method = make_method(settings, Tiny())
    step(method)  # so that Adam's moments are there to be lost
    before = method.snapshot()
    figures = step(method)
    after = method.snapshot()
    for at in itertools.count(1):
        method.restore(before)
        try:
            with RunsOut(at, error):
                found = step(method)
        except error:
            assert equal(method.snapshot(), before), at
            continue
        assert at > 50
        break
    assert found == figures
    assert equal(method.snapshot(), after)


def test_the_pass_arranged_by_hand_starts_anew_after_memory_ran_out():
    torch.manual_seed(0)
    network = ResUNet("compact", outputs=1, channels=1)
    method = make_method(Settings(learning_rate=RATE), network)
    assert method.network.runner is not None
    step(method)
    before = method.snapshot()
    figures = step(method)
    method.restore(before)
    with RunsOut(0) as count:
        step(method)
    for at in range(7, count.calls, count.calls // 20):
        method.restore(before)
        with pytest.raises(torch.OutOfMemoryError), RunsOut(at):
            step(method)
        assert equal(method.snapshot(), before), at
        assert not any(norm.groups > 1 for norm in method.network.runner.norms)
    assert step(method) == figures


def test_a_stack_is_told_of_in_words_and_goes_on_when_memory_is_there_again(scan):
    settings = Settings(learning_rate=RATE)
    calm, pressed = (stepper(segmenter(), scan, settings) for _ in range(2))
    expected = calm.step(1)[1]
    before = pressed.snapshot()
    for at in (40, 90, 140):
        with pytest.raises(MemoryError, match="draw a region"), RunsOut(at):
            pressed.step(1)
        assert equal(pressed.snapshot(), before)
    found = pressed.step(1)[1]
    assert np.array_equal(found.probabilities, expected.probabilities)
    assert equal(pressed.snapshot(), calm.snapshot())


class OneSided(Tiny):
    """Sees a structure in the left half of an image alone, as if the light came from there."""

    def __init__(self, unseen: float) -> None:
        super().__init__()
        self.unseen = unseen

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dimmed = torch.arange(x.shape[-1]) >= x.shape[-1] // 2
        return 6 * (x - 0.3) - self.unseen * dimmed + 0 * super().forward(x)


@pytest.mark.parametrize("unseen", [0.0, 20.0])
def test_views_that_lose_a_structure_do_not_draw_a_volume(unseen):
    volume = np.random.default_rng(0).random((5, 40, 64), np.float32) / 5
    volume[1:4, 8:30, 4:24] += 1
    scan = scan_from_array(volume, name="volume", spacing=(1.0, 1.0, 1.0))
    model = segmenter(OneSided(unseen), views=("identity", "left-right"))
    run = AdaptationRun(model, scan, Settings(method="source", six_views=True))
    list(run.records())
    assert bool([words for words in run.notices if "less of tissue" in words]) == bool(unseen)
    for index in (1, 3):
        assert run.adapted_masks[index].any()  # the mean of both sides shows nothing
        found = run.predict(index)
        np.testing.assert_array_equal(found.label_map, run.adapted_masks[index])
        np.testing.assert_array_equal(model.label_map(found.probabilities), found.label_map)
        seen = run._adapter._look(lambda viewer: viewer.predict(model.prepare(scan, 1).image), None)
        assert bool((seen.probabilities > 0.5).any()) != bool(unseen)
    stack = Settings(method="mean-teacher", six_views=True, passes=1)
    taught = AdaptationRun(model, scan, stack)
    items = list(records_of(taught, taught.records(), threading.Event()))
    said = [item.text for item in items if isinstance(item, Notice)]
    assert any("less of tissue" in text for text in said) == bool(unseen)
    assert len(taught._adapter._method.objectives.views) == (1 if unseen else 2)
