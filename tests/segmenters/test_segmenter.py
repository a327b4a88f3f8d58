"""Prediction over a scan: order, batches, memory, labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from napari_grata.scans import open_scan, scan_from_array
from napari_grata.segmenters.card import Card, Structure
from napari_grata.segmenters.loaders import build_network
from napari_grata.segmenters.preprocessing import PredictionError
from napari_grata.segmenters.segmenter import Segmenter, _copy_on

BRAIN = Card(
    name="brain",
    title="Brain",
    structures=tuple(
        Structure(name, "#009E73", value) for value, name in ((1, "csf"), (3, "grey"), (2, "white"))
    ),
    activation="softmax",
    arguments={"encoder": "compact"},
    channels=1,
    spacing=(1.0, 1.0),
    normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
    modality="T1",
    dimensions=3,
)
FUNDUS = Card(
    name="fundus",
    title="Fundus",
    structures=(Structure("cup", "#E69F00", 2, "disc"), Structure("disc", "#56B4E9", 1)),
    arguments={"encoder": "compact"},
    size=(64, 64),
)


class Bright(nn.Module):
    """Calls bright what is brighter than one half: a network whose answer is known."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs
        self.gain = nn.Parameter(torch.tensor(20.0))

    def forward(self, x):
        logit = self.gain * (x.mean(1, keepdim=True) - 0.5)
        return logit.repeat(1, self.outputs, 1, 1)


class Hungry(Bright):
    """Runs out of memory when more than `most` images come at once."""

    def __init__(self, outputs: int, most: int):
        super().__init__(outputs)
        self.most = most
        self.tried: list[int] = []

    def forward(self, x):
        self.tried.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(x)


@pytest.fixture
def volume():
    values = np.random.default_rng(0).random((7, 50, 71)).astype(np.float32) + 0.1
    return scan_from_array(values, name="v", spacing=(3, 1.2, 0.8))


@pytest.fixture
def photographs(tmp_path):
    from skimage.io import imsave

    random = np.random.default_rng(0)
    for number, shape in enumerate([(70, 80), (70, 80), (120, 60), (64, 64)]):
        values = random.integers(0, 255, (*shape, 3), dtype=np.uint8)
        imsave(tmp_path / f"{number}.png", values, check_contrast=False)
    return open_scan(tmp_path)


@pytest.fixture
def brain():
    torch.manual_seed(0)
    return Segmenter(BRAIN, build_network(BRAIN), "cpu")


def test_every_slice_comes_once_in_order_on_its_own_grid(brain, volume):
    predictions = list(brain.predict(volume, batch_size=3))
    assert [p.slice_index for p in predictions] == list(range(7))
    for p in predictions:
        assert p.label_map.shape == (50, 71)
        assert p.label_map.dtype == np.uint8
        assert p.probabilities.shape == (4, 50, 71)
        assert p.probabilities.dtype == np.float32
        assert np.allclose(p.probabilities.sum(0), 1, atol=1e-5)


def test_chosen_slices_come_in_the_order_given(brain, volume):
    assert [p.slice_index for p in brain.predict(volume, slices=[5, 0, 3])] == [5, 0, 3]


def test_the_result_does_not_depend_on_the_batch_size(brain, volume):
    runs = [list(brain.predict(volume, batch_size=n)) for n in (1, 4, 7)]
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert np.abs(one.probabilities - two.probabilities).max() < 1e-5


def test_photographs_of_different_sizes_are_predicted_at_their_own_size(photographs):
    segmenter = Segmenter(replace(FUNDUS, size=None), Bright(2), "cpu")
    found = list(segmenter.predict(photographs, batch_size=4))
    assert [p.label_map.shape for p in found] == [(70, 80), (70, 80), (120, 60), (64, 64)]
    assert [p.slice_index for p in found] == [0, 1, 2, 3]


def test_a_bright_disc_is_found_where_it_is():
    rows, columns = np.mgrid[:301, :223]
    disc = (rows - 120) ** 2 + (columns - 130) ** 2 < 60**2
    scan = scan_from_array(np.repeat(disc[..., None], 3, 2) * np.uint8(200), name="p", rgb=True)
    segmenter = Segmenter(replace(FUNDUS, size=(256, 256)), Bright(2), "cpu")
    (found,) = segmenter.predict(scan)
    overlap = (
        2 * np.sum((found.label_map == 2) & disc) / (np.sum(found.label_map == 2) + disc.sum())
    )
    assert overlap > 0.98


def test_a_region_is_predicted_alone_and_the_rest_is_background(brain, volume):
    (found,) = brain.predict(volume, slices=[2], region=(10, 20, 42, 60))
    outside = np.ones((50, 71), bool)
    outside[10:42, 20:60] = False
    assert not found.label_map[outside].any()
    assert np.all(found.probabilities[0][outside] == 1)
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)


def test_softmax_labels_are_the_values_of_the_card(brain):
    probabilities = np.eye(4, dtype=np.float32)[:, None, :]
    assert brain.label_map(probabilities).tolist() == [[0, 1, 3, 2]]


def test_sigmoid_paints_contained_structures_last_whatever_their_order():
    segmenter = Segmenter(FUNDUS, Bright(2), "cpu")
    cup = [0.0, 0.0, 0.5, 0.9]
    disc = [0.49, 0.5, 0.9, 0.1]
    probabilities = np.array([[cup], [disc]], np.float32)
    # A cup outside the disc is still a cup, and counts as disc through containment.
    assert segmenter.label_map(probabilities).tolist() == [[0, 1, 2, 2]]
    assert segmenter.label_map(torch.from_numpy(probabilities)).tolist() == [[0, 1, 2, 2]]


def test_a_scan_that_does_not_fit_is_refused_with_the_reason(brain, photographs):
    with pytest.raises(ValueError, match="reads T1-weighted MR volumes"):
        next(brain.predict(photographs))


def test_when_memory_runs_out_batches_get_smaller_and_nothing_is_lost(volume):
    network = Hungry(4, most=2)
    segmenter = Segmenter(BRAIN, network, "cpu")
    found = list(segmenter.predict(volume, batch_size=7))
    assert [p.slice_index for p in found] == list(range(7))
    assert network.tried[:3] == [7, 3, 1]
    assert sum(network.tried[2:]) == 7
    assert segmenter.notices == []


def test_when_not_one_slice_fits_into_memory_the_advice_is_given(volume):
    segmenter = Segmenter(BRAIN, Hungry(4, most=0), "cpu")
    with pytest.raises(MemoryError, match="draw a region"):
        list(segmenter.predict(volume))


def test_when_the_graphics_card_is_full_the_cpu_goes_on_with_a_notice_that_stays(volume):
    class FullCard(Bright):
        def forward(self, x):
            if x.device.type != "cpu":
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().forward(x)

    segmenter = Segmenter(BRAIN, FullCard(4), "cpu")
    # A device that every machine has and that is not the CPU.
    segmenter.device = torch.device("meta")
    found = list(segmenter.predict(volume, batch_size=4))
    assert [p.slice_index for p in found] == list(range(7))
    assert segmenter.device.type == "cpu"
    (notice,) = segmenter.notices
    assert "the CPU goes on" in notice


def test_outputs_that_are_no_numbers_are_an_error_and_never_an_empty_mask(volume):
    class Lost(Bright):
        def forward(self, x):
            return super().forward(x) * float("nan")

    for card in (BRAIN, replace(FUNDUS, dimensions=3, channels=1, size=None, spacing=(1.0, 1.0))):
        segmenter = Segmenter(card, Lost(card.outputs), "cpu")
        with pytest.raises(PredictionError, match="no numbers"):
            list(segmenter.predict(volume))


def test_a_slice_that_does_not_fit_into_memory_is_refused_before_memory_is_taken():
    segmenter = Segmenter(replace(BRAIN, spacing=(0.001, 0.001)), Hungry(4, most=0), "cpu")
    scan = scan_from_array(
        np.random.default_rng(0).random((2, 153, 189)), name="v", spacing=(30, 30, 30)
    )
    with pytest.raises(PredictionError, match="Check the pixel size"):
        list(segmenter.predict(scan))
    assert segmenter.network.tried == []


def test_how_much_memory_a_slice_needs_is_estimated_from_the_network():
    class Claims(nn.Module):
        """A map of a billion channels, none of which is there."""

        def forward(self, x):
            return x[:, :1, :1, :1].expand(1, 10**9, 64, 64)

    class Wide(Hungry):
        def __init__(self):
            super().__init__(4, most=9)
            self.claims = Claims()

        def forward(self, x):
            self.claims(x)
            return super().forward(x)

    segmenter = Segmenter(replace(BRAIN, spacing=None), Wide(), "cpu")
    large = scan_from_array(np.random.default_rng(0).random((1, 2100, 2100)), name="v")
    with pytest.raises(PredictionError, match=r"need about \d+\.\d GB, but .* GB are free"):
        list(segmenter.predict(large))
    small = scan_from_array(np.random.default_rng(0).random((1, 64, 64)), name="v")
    assert len(list(segmenter.predict(small))) == 1


def test_thirty_millimetre_voxels_are_told_and_thick_ones_are_not():
    values = np.random.default_rng(0).random((2, 153, 189))
    segmenter = Segmenter(BRAIN, Bright(4), "cpu")
    with pytest.raises(PredictionError, match="30 × 30 mm"):
        list(segmenter.predict(scan_from_array(values, name="v", spacing=(30, 30, 30))))
    thick = scan_from_array(values[:, :40, :50], name="v", spacing=(30, 4, 4))
    assert len(list(segmenter.predict(thick))) == 2


def test_large_slices_are_predicted_one_by_one():
    network = Hungry(4, most=9)
    values = np.random.default_rng(0).random((3, 1500, 1500)).astype(np.float32)
    scan = scan_from_array(values, name="v", spacing=(1, 1, 1))
    list(Segmenter(BRAIN, network, "cpu").predict(scan, batch_size=3))
    assert network.tried == [1, 1, 1]


@pytest.mark.parametrize("card", [BRAIN, replace(BRAIN, activation="sigmoid")])
def test_pixels_that_hold_no_number_never_become_structure(card, volume):
    values = np.array(volume.data)
    values[:, 10:14] = np.nan
    values[3, 20, 20] = np.inf
    scan = scan_from_array(values, name="v", spacing=(3, 1.2, 0.8))

    class Everything(Bright):
        def forward(self, x):
            logits = torch.full((len(x), self.outputs, *x.shape[2:]), 5.0)
            logits[:, 0] = -5
            return logits

    segmenter = Segmenter(card, Everything(card.outputs), "cpu")
    for found in segmenter.predict(scan):
        lost = ~np.isfinite(values[found.slice_index])
        assert not found.label_map[lost].any()
        assert found.label_map[~lost].all()
        assert np.isfinite(found.probabilities).all()
        if card.activation == "softmax":
            assert np.allclose(found.probabilities.sum(0), 1)
    assert len([notice for notice in segmenter.notices if "no number" in notice]) == 1


def test_a_scan_less_a_thousand_gives_the_same_masks():
    segmenter = Segmenter(replace(BRAIN, activation="sigmoid"), Bright(3), "cpu")
    rows, columns = np.mgrid[:64, :64]
    inside = (rows - 30) ** 2 + (columns - 33) ** 2 < 25**2
    values = np.random.default_rng(0).integers(200, 900, (4, 64, 64)) * inside
    masks = []
    for shift in (0, -1000, 3000):
        scan = scan_from_array((values + shift).astype(np.int16), name="v", spacing=(3, 1, 1))
        masks.append(np.stack([p.label_map for p in segmenter.predict(scan)]))
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])
    assert len(np.unique(masks[0])) > 1


def test_other_errors_are_not_mistaken_for_a_lack_of_memory(volume):
    class Broken(Bright):
        def forward(self, x):
            raise RuntimeError("Sizes do not match")

    with pytest.raises(RuntimeError, match="Sizes do not match"):
        list(Segmenter(BRAIN, Broken(4), "cpu").predict(volume))


def test_a_scan_without_pixel_size_is_read_at_the_models_with_a_notice(brain):
    scan = scan_from_array(np.random.default_rng(0).random((3, 64, 64)), name="v")
    list(brain.predict(scan))
    assert len(brain.notices) == 1
    assert "1 × 1 mm" in brain.notices[0]


def test_prediction_changes_nothing_in_the_network(brain, volume):
    before = {key: value.clone() for key, value in brain.network.state_dict().items()}
    list(brain.predict(volume))
    assert not brain.network.training
    assert all(torch.equal(value, before[key]) for key, value in brain.network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in brain.network.parameters())


def test_a_segmenter_stays_where_it_is_when_asked_for_its_own_device(brain):
    assert brain.to("cpu") is brain


class NothingNewOn(TorchDispatchMode):
    """Refuses tensors in new memory of a device, as one that is full."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        is_view = func is torch.ops.aten.detach.default
        assert is_view or not isinstance(found, torch.Tensor) or found.device.type != self.device
        return found


def test_moving_away_takes_no_memory_where_it_was(brain, monkeypatch):
    monkeypatch.setattr("napari_grata.segmenters.segmenter.resolve_device", torch.device)
    with NothingNewOn("cpu"):
        moved = brain.to("meta")
    assert {one.device.type for one in moved.network.state_dict().values()} == {"meta"}
    assert {one.device.type for one in brain.network.state_dict().values()} == {"cpu"}


def test_a_copy_elsewhere_has_the_same_numbers_and_its_own_memory(brain):
    twin = _copy_on(brain.network, torch.device("cpu"))
    pairs = zip(twin.state_dict().items(), brain.network.state_dict().items(), strict=True)
    for (name, mine), (other, theirs) in pairs:
        assert name == other
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
    assert not any(one.requires_grad for one in twin.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_the_graphics_card_predicts_what_the_cpu_predicts(brain, volume):
    on_card = brain.to("cuda:0")
    assert brain.device.type == "cpu"
    for one, two in zip(brain.predict(volume), on_card.predict(volume), strict=True):
        assert np.abs(one.probabilities - two.probabilities).max() < 5e-3
