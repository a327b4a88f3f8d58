"""Uncertainty is zero where a model is sure, and largest where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from napari_grata.adaptation.augmentation import unview, view
from napari_grata.adaptation.run import AdaptationRun
from napari_grata.adaptation.settings import Settings
from napari_grata.adaptation.shift import slice_statistics, source_statistics
from napari_grata.adaptation.uncertainty import Uncertainty, disagreement, margin
from napari_grata.scans import scan_from_array
from napari_grata.segmenters import Card, Segmenter, Structure
from napari_grata.segmenters.card import VIEWS


def network(outputs: int) -> torch.nn.Module:
    torch.manual_seed(2)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, outputs, 3, padding=1),
    )


def segmenter(activation: str = "sigmoid") -> Segmenter:
    card = Card(
        name="unsure",
        title="Unsure",
        structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2)),
        architecture="test-unsure",
        channels=1,
        dimensions=3,
        size=(32, 64),
        activation=activation,
        modality="T1",
        weights_sha256="0" * 64,
    )
    return Segmenter(card, network(card.outputs), "cpu")


@pytest.fixture
def scan():
    data = np.random.default_rng(3).normal(100, 30, (4, 30, 40)).astype(np.float32)
    data[3] = 0
    return scan_from_array(data, name="noise", spacing=(2.0, 1.0, 1.0))


def test_views_that_agree_leave_no_doubt():
    images = torch.rand(2, 1, 12, 16)
    found = disagreement(lambda x: torch.sigmoid(3 * x), images)
    assert found.shape == (2, 12, 16)
    assert found.abs().max() < 1e-6


def test_half_of_the_views_against_the_other_half_is_the_most_that_there_is():
    calls = []

    def predict(x):
        calls.append(x.shape)
        return torch.full_like(x, float(len(calls) % 2))

    found = disagreement(predict, torch.rand(1, 1, 8, 10))
    torch.testing.assert_close(found, torch.full((1, 8, 10), 0.5))
    # Turned views are turned for the model too.
    assert (1, 1, 10, 8) in calls


def test_disagreement_is_the_standard_deviation_of_the_views_where_it_is_largest():
    net = network(2).eval()
    images = torch.rand(1, 1, 16, 20)

    @torch.no_grad()
    def predict(x):
        return net(x).sigmoid()

    views = torch.stack([unview(predict(view(images, name)), name) for name in VIEWS])
    wanted = views.std(0, correction=0).amax(1)
    torch.testing.assert_close(disagreement(predict, images), wanted, atol=1e-5, rtol=1e-4)
    assert wanted.max() > 0.001


def test_margin_is_one_at_the_threshold_and_zero_where_sure():
    p = torch.tensor([0.0, 0.5, 0.75, 1.0]).view(1, 1, 1, 4)
    torch.testing.assert_close(margin(p)[0, 0], torch.tensor([0.0, 1.0, 0.5, 0.0]))


def test_margin_takes_the_structure_that_is_least_sure():
    p = torch.tensor([[0.99], [0.4]]).view(1, 2, 1, 1)
    assert margin(p).item() == pytest.approx(0.8)


def test_margin_of_classes_is_between_the_two_most_probable():
    p = torch.tensor([0.5, 0.4, 0.1]).view(1, 3, 1, 1)
    assert margin(p, "softmax").item() == pytest.approx(0.9)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("kind", ["disagreement", "margin"])
def test_a_slice_is_measured_on_its_own_grid(scan, activation, kind):
    doubts = Uncertainty(segmenter(activation), scan)
    found = doubts.measure(1, kind)
    assert found.shape == (30, 40)
    assert found.dtype == np.float32
    assert 0 <= found.min() < found.max() <= 1
    assert not doubts.measure(3, kind).any(), "a blank slice shows nothing to be unsure about"


def test_outside_the_region_there_is_no_doubt(scan):
    found = Uncertainty(segmenter(), scan, region=(4, 6, 20, 30)).measure(0, "margin")
    assert found[4:20, 6:30].any()
    found[4:20, 6:30] = 0
    assert not found.any()


def test_an_adapted_model_has_doubts_of_its_own_and_the_run_goes_on_undisturbed(scan):
    run = AdaptationRun(segmenter(), scan, Settings(method="grata", learning_rate=0.05))
    for _ in run.records():
        pass
    before = run.predict(1).probabilities
    adapted = Uncertainty(run.segmenter, scan, run=run)
    found = adapted.measure(1, "margin")
    np.testing.assert_allclose(found, (1 - 2 * abs(before - 0.5)).max(0), atol=1e-4)
    source = Uncertainty(run.segmenter, scan).measure(1, "margin")
    assert abs(found - source).max() > 1e-3
    np.testing.assert_array_equal(run.predict(1).probabilities, before)
    run.close()


def test_another_kind_is_refused(scan):
    with pytest.raises(ValueError, match="disagreement"):
        Uncertainty(segmenter(), scan).measure(0, "entropy")


class NoDoubles(TorchDispatchMode):
    """As on a device that does not know float64, such as Apple's."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        assert getattr(found, "dtype", None) is not torch.float64, func
        return found


def test_devices_without_float64_can_measure_it(scan):
    doubts = Uncertainty(segmenter(), scan)
    with NoDoubles():
        assert doubts.measure(0, "disagreement").any()
        assert doubts.measure(0, "margin").any()


def test_devices_without_float64_can_measure_the_shift(scan):
    model = segmenter()
    with NoDoubles():
        source = source_statistics(model.network)
        now = slice_statistics(model, scan, 0)
    assert source.keys() == now.keys()
    assert now["1"].mean.dtype == np.float64
