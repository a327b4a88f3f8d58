"""Models that read whole volumes adapt: patches teach, and masks come from stitched windows."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_grata.adaptation import AdaptationRun, Settings, adapt, reopen
from napari_grata.adaptation.augmentation import _blur, strong_view, unview, view
from napari_grata.adaptation.corrections import Corrections
from napari_grata.adaptation.plan import RunError, make_plan
from napari_grata.adaptation.uncertainty import Uncertainty
from napari_grata.cli import main
from napari_grata.scans import Scan, open_scan
from napari_grata.segmenters.card import THROUGH, CardError
from napari_grata.segmenters.patches import cut_patch, learning_bytes, smaller, with_patch
from napari_grata.segmenters.segmenter import OutOfMemoryError, PredictionError, load_segmenter

pytest.importorskip(
    "dynamic_network_architectures", reason="the networks of nnU-Net are not installed"
)

from tests.segmenters.test_nnunet import SAGITTAL, STORED, write_scan
from tools.generators.nnunet import plans_3d, write_trained

LEARN = Settings(learning_rate=5e-2, learning_rate_rule="fixed", pass_slices=4)
PLANS = {"plain": plans_3d(), "resampled": plans_3d(spacing=[4.0, 1.0, 1.2])}
BATCH = "torch.nn.modules.batchnorm.BatchNorm3d"


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return open_scan(write_scan(tmp_path / "s.nii.gz", SAGITTAL))


@pytest.fixture
def segmenter(tmp_path: Path):
    return load_segmenter(write_trained(tmp_path / "m", PLANS["plain"], mirror=(0, 1, 2)), "cpu")


def batch_normalised(folder: Path):
    plans = copy.deepcopy(PLANS["plain"])
    made = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    made["norm_op"] = BATCH
    return load_segmenter(write_trained(folder, plans, mirror=(0,)), "cpu")


@pytest.mark.parametrize("stored", [STORED["LPS"], STORED["ARS"], SAGITTAL, STORED["thick"]])
@pytest.mark.parametrize("plans", PLANS)
def test_a_patch_lies_where_its_slice_does(tmp_path, stored, plans):
    model = load_segmenter(write_trained(tmp_path / "m", PLANS[plans]), "cpu")
    scan = open_scan(write_scan(tmp_path / "s.nii.gz", stored))
    volume = model.volume(scan, 0)
    shown = [i for i in range(scan.n_slices) if model.lie(scan, i).plane is not None]
    assert len(shown) < scan.n_slices
    for i in shown[:: len(shown) // 3]:
        patch = cut_patch(model, scan, i, None, model.card.patch, np.random.default_rng(i))
        assert patch.image.shape[2:] == tuple(np.minimum(model.card.patch, volume.image.shape[1:]))
        same = torch.equal(patch.image[0], volume.image[(slice(None), *patch.place)])
        assert same
        assert patch.lie is not None
        assert patch.lie.plane is not None
        # What the source model says of the patch leaves the slice as it is, ...
        own = model.probabilities(volume.logits[None])[0][(slice(None), *patch.place)]
        before = model.slice_of(volume.logits, scan, i)
        after = with_patch(model, own, patch, scan, None)
        assert np.allclose(after, before, atol=1e-5)
        # ... and other words on its plane show there, and on no slice far away.
        plane = patch.lie.plane - patch.place[patch.lie.across].start
        own.select(patch.lie.across + 1, plane).copy_(
            own.flip(0).select(patch.lie.across + 1, plane)
        )
        assert np.abs(with_patch(model, own, patch, scan, None) - before).max() > 0.05
    outside = min(set(range(scan.n_slices)) - set(shown))
    air = cut_patch(model, scan, outside, None, model.card.patch, np.random.default_rng(0))
    assert air.lie is None
    assert air.image.amax() == air.image.amin()


def test_a_run_learns_from_patches_and_predicts_the_whole_volume(segmenter, scan):
    run = AdaptationRun(segmenter, scan, LEARN)
    records = list(run.records())
    steps = [one for one in records if one.phase == "adapt"]
    assert len(steps) == LEARN.pass_slices < scan.n_slices
    assert not any(one.final for one in steps)
    # On one of them there is nothing but air.
    assert sum(one.cosine is not None and -1 <= one.cosine <= 1 for one in steps) >= 3
    assert {one.slice_index for one in records if one.final} == set(range(scan.n_slices))
    assert not np.array_equal(run.past.theta(0), run.past.theta(4))
    # θ as it began: the mean over the mirrored images, as the model itself takes it.
    image = segmenter.volume(scan, 5).image[None]
    ways = itertools.product(*((axis, None) for axis in (2, 3, 4)))
    flips = [[axis for axis in way if axis is not None] for way in ways]
    with torch.inference_mode():
        seen = [segmenter.network(image.flip(f)).softmax(1).flip(f)[0] for f in flips]
    expected = segmenter.slice_of(segmenter.as_logits(sum(seen) / len(seen)), scan, 5)
    assert "takes the mean over mirrored images" in " ".join(run.notices)
    assert np.allclose(run.predict(5, 0).probabilities, expected, atol=1e-5)
    assert not np.allclose(run.predict(5).probabilities, expected, atol=1e-3)
    assert np.array_equal(run.predict(5).label_map, run.adapted_masks[5])
    assert "once it has learnt" in " ".join(run.notices)


@pytest.mark.parametrize("parameters", ["norms", "low-rank"])
def test_a_run_is_rolled_back_reopened_and_done_again_with_the_same_numbers(
    segmenter, scan, tmp_path, parameters
):
    settings = LEARN.but(predict="average", parameters=parameters)
    run = AdaptationRun(segmenter, scan, settings, folder=tmp_path / "run")
    straight = list(run.records())
    run.rollback(2)
    again = list(run.resume())
    for one, other in zip(straight[2:], again, strict=True):
        assert one.pseudo_loss == other.pseudo_loss
        assert np.array_equal(one.adapted_mask, other.adapted_mask)
    run.close()
    saved = reopen(tmp_path / "run")
    live = saved.run(segmenter, scan)
    assert np.array_equal(live.predict(4).label_map, straight[-(scan.n_slices - 4)].adapted_mask)
    live.rollback(2)
    for one, other in zip(straight[2:], live.resume(), strict=True):
        assert np.array_equal(one.adapted_mask, other.adapted_mask)
    live.close()
    stream = adapt(segmenter, scan, settings=settings)
    assert all(a.pseudo_loss == b.pseudo_loss for a, b in zip(straight, stream, strict=True))


@pytest.mark.parametrize("method", ["consistency", "tent", "mean-teacher", "batch-norm", "source"])
def test_methods_work_on_volumes(segmenter, scan, method):
    settings = Settings(method=method, six_views=True, batch=2, pass_slices=4)
    records = list(adapt(segmenter, scan, settings=settings))
    assert len({one.slice_index for one in records if one.final}) == scan.n_slices
    learnt = [one for one in records if one.learning_rate is not None]
    assert bool(learnt) == settings.learns


def test_what_adapts_is_a_choice(segmenter, scan):
    settings = LEARN.but(parameters="named", names="*seg_layers*, *.stages.0.*norm*")
    run = AdaptationRun(segmenter, scan, settings)
    list(run.records())
    names = run._adapter._method.theta_names
    assert any("seg_layers" in name for name in names)
    assert all("seg_layers" in name or ".norm." in name for name in names)
    number, total = run.adapted
    assert number == len(run.past.theta(0)) < total
    assert f"{number} of the {total:,} parameters" in " ".join(run.notices)
    assert not np.array_equal(run.past.theta(0), run.past.theta(run.last_step))
    counts = [
        AdaptationRun(segmenter, scan, LEARN.but(parameters=name)).adapted[0]
        for name in ("norms", "biases", "last-block", "all", "low-rank")
    ]
    # Five layers with scale and shift; biases of them and of all convolutions; all.
    assert counts[0] == 2 * (4 + 8 + 8 + 8 + 4)
    assert counts[3] == total
    assert all(count < total for count in counts[:3])
    kinds = torch.nn.Conv3d, torch.nn.ConvTranspose3d
    layers = [one for one in segmenter.network.modules() if isinstance(one, kinds)]
    shapes = [one.weight.flatten(1).shape for one in layers]
    assert counts[4] == sum(min(4, *shape) * sum(shape) for shape in shapes)
    last = AdaptationRun(segmenter, scan, LEARN.but(parameters="last-block"))._adapter._method
    assert all(".decoder." in name for name in last.theta_names)
    with pytest.raises(ValueError, match=r"No parameter of this network is called 'prompt\*'"):
        AdaptationRun(segmenter, scan, LEARN.but(parameters="named", names="prompt*"))


@pytest.mark.parametrize(
    "method", ["batch-norm", "centre-statistics", "grata", "intent", "mgg", "osuda"]
)
def test_batch_normalisation_of_volumes_adapts_its_statistics(tmp_path, scan, method):
    model = batch_normalised(tmp_path / "bn")
    run = AdaptationRun(model, scan, LEARN.but(method=method))
    list(run.records())
    before, after = run.predict(5, 0).probabilities, run.predict(5).probabilities
    assert np.allclose(before, after) == (not run.settings.learns)
    assert not np.allclose(model.slice_of(model.volume(scan, 5).logits, scan, 5), after, atol=1e-3)


def test_a_large_answer_is_kept_in_half_precision_and_masks_stay(segmenter, scan, monkeypatch):
    settings = LEARN.but(six_views=True, predict="average")
    masks = {one.slice_index: one.label_map for one in segmenter.predict(scan)}
    run = AdaptationRun(segmenter, scan, settings)
    list(run.records())
    monkeypatch.setattr("napari_grata.segmenters.volumes.HALF_BEYOND", 0)
    again = AdaptationRun(segmenter, open_scan(scan.path), settings)
    list(again.records())
    assert segmenter.volume(again.scan, 0).logits.dtype is torch.float16
    for found, wanted in ((again.source_masks, masks), (again.adapted_masks, run.adapted_masks)):
        same = [(found[index] == wanted[index]).mean() for index in wanted]
        assert np.mean(same) > 0.995
    assert again._adapter._kept is None is not run._adapter._kept  # of large answers none stays
    # What the mean of the views is, in one piece.
    output = run._adapter._viewer.predict(segmenter.volume(scan, 5).image[None])
    for one, tolerance in ((run, 1e-5), (again, 5e-3)):
        maps = one._adapter._whole(5, one.theta_of(5)).float().softmax(0)
        assert torch.allclose(maps, output.probabilities[0], atol=tolerance)


def test_a_prompt_is_of_a_slice_and_not_of_a_volume(segmenter, scan):
    with pytest.raises(RunError, match="a prompt for each slice, and this model reads whole"):
        AdaptationRun(segmenter, scan, Settings(method="vptta"))


def test_corrections_of_a_slice_teach_the_volume(segmenter, scan):
    source = {one.slice_index: one.label_map for one in segmenter.predict(scan)}
    wanted = np.full(scan.slice_shape(5), -1, np.int16)
    wanted[8:16, 3:7] = 1
    settings = LEARN.but(
        method="consistency", scribble="pseudo", predict="final", hold=0.2, learning_rate=5e-2
    )
    run = AdaptationRun(
        segmenter, scan, settings, source_masks=source, corrections=Corrections({5: wanted})
    )
    records = list(run.records())
    steps = [one for one in records if one.phase == "adapt"]
    assert {one.slice_index for one in steps} == {5}
    losses = [one.pseudo_loss for one in steps]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert (run.adapted_masks[5][wanted == 1] == 1).all()


def test_a_patch_that_does_not_fit_is_made_smaller_and_what_cannot_be_said_so(
    segmenter, scan, monkeypatch
):
    assert smaller(segmenter.card, (8, 16, 16)) == (8, 8, 16)
    assert smaller(segmenter.card, (4, 8, 8)) is None
    needed = [learning_bytes(segmenter, sides) for sides in ((8, 16, 16), (8, 8, 16), (4, 8, 8))]
    assert needed[0] == 2 * needed[1] == 8 * needed[2]
    module = "napari_grata.adaptation.volume_stepper.free_bytes"
    monkeypatch.setattr(module, lambda device: needed[1])
    run = AdaptationRun(segmenter, scan, LEARN)
    assert run._adapter._prepare(8).image.shape[2:] == (8, 8, 16)
    next(stream := run.records())
    stream.close()
    assert "patches of 8 × 8 × 16 voxels" in " ".join(run.notices)
    monkeypatch.setattr(module, lambda device: needed[2] - 1)
    with pytest.raises(OutOfMemoryError, match="4 × 8 × 8 voxels needs"):
        AdaptationRun(segmenter, scan, LEARN)


def test_a_prompt_for_each_slice_is_refused_before_anything_runs(segmenter, scan):
    with pytest.raises(RunError, match="learns a prompt for each slice"):
        AdaptationRun(segmenter, scan, Settings(method="vptta"))


def test_the_plan_of_a_volume_spreads_its_steps_and_predicts_afterwards():
    plan = make_plan(Settings(pass_slices=3, passes=2), range(9), lambda _: 0, volumes=True)
    steps = [event.slice_index for event in plan if event.phase == "adapt"]
    assert steps == [1, 4, 7] * 2
    assert [event.slice_index for event in plan if event.final] == list(range(9))
    still = make_plan(Settings(method="source", pass_slices=3), range(9), lambda _: 0, volumes=True)
    assert [event.phase for event in still] == ["adapt"] * 9


def test_views_go_through_the_planes_and_back(segmenter):
    assert segmenter.card.views == (
        *("identity", "up-down", "left-right", "rotation-180", "through"),
        *("through-up-down", "through-left-right", "through-rotation-180"),
    )
    x = torch.rand(1, 2, 3, 4, 5)
    for name in THROUGH:
        assert torch.equal(unview(view(x, name), name), x)
        assert not torch.equal(view(x, name), x)
    with pytest.raises(CardError, match="networks that read volumes"):
        type(segmenter.card)(
            name="flat",
            title="Flat",
            structures=segmenter.card.structures,
            views=("identity", "through"),
        )


def test_the_strong_view_of_a_volume_blurs_along_all_three_axes():
    x = torch.zeros(1, 1, 15, 15, 15)
    x[..., 7, 7, 7] = 1
    y = _blur(x, torch.ones(1, 1))[0, 0]
    assert y.sum() == pytest.approx(1, abs=1e-4)
    near = [float(y[8, 7, 7]), float(y[7, 8, 7]), float(y[7, 7, 8])]
    assert near == pytest.approx([near[0]] * 3)
    assert near[0] > 0.01
    strong = strong_view(torch.rand(2, 1, 5, 6, 7), torch.Generator().manual_seed(0))
    assert strong.shape == (2, 1, 5, 6, 7)
    assert (float(strong.amin()), float(strong.amax())) == (0, 1)


def test_how_sure_a_model_of_volumes_is(segmenter, scan):
    found = Uncertainty(segmenter, scan).measure(5, "margin")
    assert found.shape == scan.slice_shape(5)
    assert 0 < found.max() <= 1
    with pytest.raises(PredictionError, match="slice by slice"):
        Uncertainty(segmenter, scan).measure(5, "disagreement")


def test_what_a_method_lacks_in_a_network_is_said_in_words(segmenter, scan):
    for method in ("centre-statistics", "intent", "osuda"):
        with pytest.raises(RunError, match=rf"The method {method} .* this network has none"):
            AdaptationRun(segmenter, scan, Settings(method=method))


def test_the_command_line_adapts_a_model_of_volumes(tmp_path, scan, capsys):
    model = write_trained(tmp_path / "m", PLANS["plain"], mirror=(0, 2))
    write_scan(tmp_path / "v.nii.gz")
    given = ("adapt", tmp_path / "v.nii.gz", "--model", model, "--out", tmp_path / "out", "--json")
    assert main([*map(str, given), "--set", "pass_slices=2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["steps"], told["slices"]) == (2, 11)
