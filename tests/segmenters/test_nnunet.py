"""Folders that nnU-Net trained: read without nnU-Net, and answered as it would."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import binary_fill_holes, map_coordinates
from skimage.transform import resize

from napari_grata.adaptation import adapt, reopen
from napari_grata.adaptation.corrections import lesson
from napari_grata.adaptation.methods import make_method
from napari_grata.adaptation.settings import Settings
from napari_grata.cli import main
from napari_grata.scans import open_scan, scan_from_array
from napari_grata.segmenters.card import CardError, ModelError
from napari_grata.segmenters.preprocessing import Turn
from napari_grata.segmenters.registry import add_model, list_models
from napari_grata.segmenters.segmenter import PredictionError, load_segmenter

pytest.importorskip(
    "dynamic_network_architectures", reason="the networks of nnU-Net are not installed"
)

from tools.generators.nnunet import CONFIGURATION, DATASET, PLANS, plans_3d, write_trained

REGIONS = {
    **DATASET,
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
}
#: Directions in which a file may run: (right, anterior, superior) of its three axes.
STORED = {
    "RAS": np.diag([1.2, 1.1, 1.5, 1]),
    "LPS": np.diag([-1.2, -1.1, 1.5, 1]),
    "ARS": np.array([[0, 1.1, 0, 0], [1.2, 0, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1.0]]),
    "thick": np.diag([0.8, 1.1, 5.0, 1]),
}
SAGITTAL = np.array([[0, 0, 1.5, 0], [1.2, 0, 0, 0], [0, 1.1, 0, 0], [0, 0, 0, 1.0]])


def write_scan(path: Path, affine: np.ndarray = STORED["RAS"], seed: int = 0) -> Path:
    """A volume of smooth noise with air around it."""
    rng = np.random.default_rng(seed)
    data = resize(rng.random((6, 7, 5)), (24, 30, 11), order=3) * 200
    data[:3] = data[:, -4:] = data[..., :2] = 0
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), affine), path)
    return path


# -- nnU-Net's way, written down once more, plainly, on the array of the file -------------------


def _resampled(data, shape, current, target, order):
    thick = None
    for spacing in (current, target):
        if max(spacing) / min(spacing) > 3:
            thick = int(np.argmax(spacing)) if sorted(spacing)[-1] > sorted(spacing)[-2] else None
            break
    out = np.empty((len(data), *shape))
    for n, channel in enumerate(data.astype(float)):
        options = {"order": order, "mode": "edge", "anti_aliasing": False}
        if thick is None:
            out[n] = resize(channel, shape, **options)
            continue
        assert thick == 0
        planes = np.stack([resize(plane, shape[1:], **options) for plane in channel])
        places = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(float)
        places[0] = (places[0] + 0.5) * len(planes) / shape[0] - 0.5
        out[n] = map_coordinates(planes, places, order=0, mode="nearest")
    return out


def reference(folder: Path, scan: Path) -> np.ndarray:
    """Mask on the grid of the file."""
    plans = json.loads((folder / "plans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    ((_, made),) = plans["configurations"].items()
    image = nibabel.load(scan)
    turn = plans["transpose_forward"]
    data = np.asarray(image.dataobj, np.float32).T.transpose(turn)[None]
    spacing = np.array(image.header.get_zooms()[::-1], float)[turn]
    nonzero = binary_fill_holes(data[0] != 0)
    box = tuple(slice(w.min(), w.max() + 1) for w in np.nonzero(nonzero))
    cropped, inside = data[(slice(None), *box)], nonzero[box]
    if made["normalization_schemes"] == ["CTNormalization"]:
        found = plans["foreground_intensity_properties_per_channel"]["0"]
        cropped = np.clip(cropped, found["percentile_00_5"], found["percentile_99_5"])
        cropped = (cropped - found["mean"]) / found["std"]
    elif made["use_mask_for_norm"] == [True]:
        values = cropped[0][inside]
        cropped[0][inside] = (values - values.mean()) / values.std()
    else:
        cropped = (cropped - cropped.mean()) / cropped.std()
    target = np.array(made["spacing"])
    target = target if len(target) == 3 else np.array([spacing[0], *target])
    shape = [round(s / t * n) for s, t, n in zip(spacing, target, cropped.shape[1:], strict=True)]
    grid = torch.from_numpy(_resampled(cropped, shape, spacing, target, 3)).float()
    segmenter = load_segmenter(folder, "cpu")
    # Windows, mirroring and folds have tests of their own; the network takes images about [0, 1].
    window = segmenter.network
    low, span = (one.view(-1, 1, 1, 1) for one in (window.offset, window.scale))
    grid, mirror = (grid - low) / span, segmenter.card.arguments["plan"]["mirror"]
    with torch.inference_mode():
        if len(made["patch_size"]) == 3:
            logits = segmenter.network(grid[None], mirror)[0].numpy()
        else:
            logits = segmenter.network(grid.transpose(0, 1), mirror).transpose(0, 1).numpy()
    logits = _resampled(logits, cropped.shape[1:], target, spacing, 1)
    if "regions_class_order" in dataset:
        found = np.zeros(logits.shape[1:], np.uint8)
        for number, value in enumerate(dataset["regions_class_order"]):
            found[logits[number] > 0] = value
    else:
        found = logits.argmax(0).astype(np.uint8)
    mask = np.zeros(data.shape[1:], np.uint8)
    mask[box] = found
    return mask.transpose(np.argsort(turn)).T


def predicted(folder: Path, path: Path, **options) -> np.ndarray:
    scan = open_scan(path)
    found = load_segmenter(folder, "cpu").predict(scan, **options)
    stack = scan.mask_stack((one.slice_index, one.label_map) for one in found)
    return np.asarray(scan.geometry.to_source(stack))


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    assert len(np.unique(second)) > 1, "a mask of background compares nothing"
    return float((first == second).mean())


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spacing": [0.9, 1.0], "patch_size": [16, 16]},
        {"normalization_schemes": ["CTNormalization"]},
        {"use_mask_for_norm": [True]},
    ],
    ids=["plain", "windows", "ct", "masked"],
)
def test_a_model_of_slices_answers_as_nnu_net_whatever_way_the_file_lies(tmp_path, stored, changes):
    scan = write_scan(tmp_path / "s.nii.gz", STORED[stored])
    folder = write_trained(tmp_path / "m", **changes)
    # A pixel on the edge between two answers may fall to either.
    assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.999


def test_the_orientation_of_the_file_matters_where_the_network_was_not_mirrored(tmp_path):
    folder = write_trained(tmp_path / "m", mirror=None)
    for stored in ("RAS", "LPS"):
        scan = write_scan(tmp_path / f"{stored}.nii.gz", STORED[stored])
        assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.999


@pytest.mark.parametrize("turned", [[1, 0, 2], [2, 0, 1]])
def test_slices_in_another_direction_predict_and_say_that_they_cannot_adapt(tmp_path, turned):
    plans = {**PLANS, "transpose_forward": turned}
    folder, scan = write_trained(tmp_path / "m", plans), write_scan(tmp_path / "s.nii.gz")
    assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.999
    with pytest.raises(PredictionError, match="slices in another direction"):
        load_segmenter(folder, "cpu").prepare(open_scan(scan), 5)


@pytest.mark.parametrize("stored", [STORED["LPS"], SAGITTAL], ids=["LPS", "sagittal"])
@pytest.mark.parametrize("spacing", [[1.0, 1.0, 1.0], [4.0, 1.0, 1.2]])
def test_a_model_of_volumes_answers_as_nnu_net(tmp_path, stored, spacing):
    scan = write_scan(tmp_path / "s.nii.gz", stored)
    folder = write_trained(tmp_path / "m", plans_3d(spacing=spacing), mirror=(0, 1, 2))
    assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.998


def test_a_model_of_volumes_says_that_it_does_not_adapt_by_slices(tmp_path):
    folder, scan = write_trained(tmp_path / "m", plans_3d()), write_scan(tmp_path / "s.nii.gz")
    with pytest.raises(PredictionError, match=r"reads whole volumes \(3d_fullres\)"):
        load_segmenter(folder, "cpu").prepare(open_scan(scan), 3)


def test_regions_are_drawn_in_their_order_and_nested(tmp_path):
    folder, scan = write_trained(tmp_path / "m", dataset=REGIONS), write_scan(tmp_path / "s.nii.gz")
    assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.999
    card = load_segmenter(folder, "cpu").card
    assert card.activation == "sigmoid"
    assert [(s.name, s.value, s.inside) for s in card.structures] == [
        ("whole", 1, None),
        ("core", 2, "whole"),
    ]


def test_slices_out_of_order_and_a_region_are_those_of_the_whole(tmp_path):
    folder, path = write_trained(tmp_path / "m"), write_scan(tmp_path / "s.nii.gz")
    scan, segmenter = open_scan(path), load_segmenter(folder, "cpu")
    whole = {one.slice_index: one.label_map for one in segmenter.predict(scan)}
    for one in segmenter.predict(scan, [7, 0, 4], batch_size=2):
        assert np.array_equal(one.label_map, whole[one.slice_index])
    assert not whole[0].any()  # nothing but air
    (part,) = segmenter.predict(scan, [7], region=(5, 6, 25, 20))
    assert not part.label_map[:5].any()
    assert not part.label_map[:, 20:].any()
    assert part.label_map.any()


def test_several_folds_are_one_model_and_a_missing_one_is_told(tmp_path):
    folder = write_trained(tmp_path / "m", folds=("0", "1", "3"))
    (folder / "fold_3" / "checkpoint_final.pth").unlink()
    segmenter = load_segmenter(folder, "cpu")
    assert len(segmenter.network.folds) == 2
    list(segmenter.predict(open_scan(write_scan(tmp_path / "s.nii.gz")), [3]))
    assert any("fold_3 holds no checkpoint_final.pth" in one for one in segmenter.notices)


def test_residual_encoders_and_plans_of_old_versions_are_built(tmp_path):
    residual = copy.deepcopy(CONFIGURATION["architecture"])
    residual["network_class_name"] = "dynamic_network_architectures.architectures.unet." + (
        "ResidualEncoderUNet"
    )
    residual["arch_kwargs"]["n_blocks_per_stage"] = residual["arch_kwargs"].pop("n_conv_per_stage")
    scan = write_scan(tmp_path / "s.nii.gz")
    folder = write_trained(tmp_path / "residual", architecture=residual)
    assert agreement(predicted(folder, scan), reference(folder, scan)) > 0.999

    folder = write_trained(tmp_path / "old")
    before = predicted(folder, scan)
    plans = json.loads((folder / "plans.json").read_text())
    made = plans["configurations"]["2d"]
    found = made.pop("architecture")["arch_kwargs"]
    made.update(
        UNet_class_name="PlainConvUNet",
        UNet_base_num_features=4,
        unet_max_num_features=8,
        n_conv_per_stage_encoder=found["n_conv_per_stage"],
        n_conv_per_stage_decoder=found["n_conv_per_stage_decoder"],
        conv_kernel_sizes=found["kernel_sizes"],
        pool_op_kernel_sizes=found["strides"],
    )
    (folder / "plans.json").write_text(json.dumps(plans))
    assert np.array_equal(predicted(folder, scan), before)


def test_an_added_folder_is_a_card_and_safetensors_and_predicts_alike(tmp_path, capsys):
    folder = write_trained(tmp_path / "nnUNetTrainer__nnUNetPlans__2d", folds=("0", "1"))
    scan = write_scan(tmp_path / "s.nii.gz")
    before = predicted(folder, scan)
    assert main(["models", "--add", str(folder / "plans.json")]) == 0
    (entry,) = [one for one in list_models() if one.origin == "user"]
    assert entry.error is None
    assert entry.name in capsys.readouterr().out
    assert sorted(f.name for f in entry.folder.iterdir()) == ["card.yaml", "weights.safetensors"]
    assert [s.name for s in entry.card.structures] == ["anterior", "posterior"]
    assert entry.card.title == "Hippocampus (nnU-Net 2d)"
    assert entry.card.views == ("identity", "up-down", "left-right", "rotation-180")
    assert np.array_equal(predicted(entry.folder, scan), before)
    # Of a decoder that holds its encoder, and containers that hold their layers, nothing twice.
    numbers = sum(p.numel() for p in load_segmenter(entry.folder, "cpu").network.parameters())
    assert os.path.getsize(entry.folder / "weights.safetensors") < 4 * numbers + 20_000


# -- adaptation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grata", "consistency"])
def test_scale_and_shift_of_instance_normalisation_adapt_slice_by_slice(tmp_path, method):
    scan = open_scan(write_scan(tmp_path / "s.nii.gz"))
    segmenter = load_segmenter(write_trained(tmp_path / "m", folds=("0", "1")), "cpu")
    made = make_method(Settings(method=method), segmenter.network, "softmax", segmenter.card.views)
    assert len(made.theta_names) == 2 * 2 * 5  # folds, scale and shift, layers
    image = segmenter.prepare(scan, 5).image
    before = made.theta()
    record = made.step(image)
    assert not record.undone
    assert not torch.equal(made.theta(), before)

    records = list(adapt(segmenter, scan, method=method))
    assert len(records) == scan.n_slices
    probabilities = segmenter.restore(record.probabilities[0], segmenter.prepare(scan, 5))
    assert np.isfinite(probabilities).all()
    assert probabilities.shape == (3, *scan.slice_shape(5))


def test_the_unchanged_model_under_adaptation_says_what_nnu_net_does(tmp_path):
    path = write_scan(tmp_path / "s.nii.gz", STORED["LPS"])
    folder = write_trained(tmp_path / "m", mirror=None, spacing=[0.9, 1.0])
    scan, segmenter = open_scan(path), load_segmenter(folder, "cpu")
    source = make_method(Settings(method="source"), segmenter.network, "softmax", ("identity",))
    for one in segmenter.predict(scan, range(3, 9)):
        prepared = segmenter.prepare(scan, one.slice_index)
        restored = segmenter.restore(source.predict(prepared.image).probabilities[0], prepared)
        assert np.allclose(restored, one.probabilities, atol=1e-4)


def test_corrections_teach_where_they_were_drawn_whatever_way_the_file_lies(tmp_path):
    folder = write_trained(tmp_path / "m", mirror=None, spacing=[1.1, 1.2])
    card = load_segmenter(folder, "cpu").card
    for stored in ("RAS", "ARS"):
        path = write_scan(tmp_path / f"{stored}.nii.gz", STORED[stored])
        scan, segmenter = open_scan(path), load_segmenter(folder, "cpu")
        prepared = segmenter.prepare(scan, 5)
        row0, column0, *_ = prepared.frame.region
        drawn = np.full(scan.slice_shape(5), -1)
        drawn[row0 + 2 : row0 + 5, column0 + 3 : column0 + 9] = 2
        targets, _ = lesson(drawn, card, prepared.frame)
        back = segmenter.restore(targets, prepared)
        assert np.array_equal(back[2] > 0.5, drawn == 2)
        assert prepared.frame.turn != Turn()


# -- what is wrong is said in words -------------------------------------------------------------


def edited(folder: Path, name: str, change) -> Path:
    found = json.loads((folder / name).read_text())
    change(found)
    (folder / name).write_text(json.dumps(found))
    return folder


def in_configuration(**changes):
    def change(plans):
        plans["configurations"]["2d"].update(changes)

    return change


def two_channels(dataset):
    dataset["channel_names"] = {"0": "T1", "1": "T2"}


def without(*keys):
    def change(found):
        for key in keys:
            del found[key]

    return change


def renamed(plans):
    plans["configurations"] = {"3d_fullres": plans["configurations"]["2d"]}


def labels(**given):
    def change(dataset):
        dataset["labels"] = {"background": 0, **given}

    return change


ARCHITECTURE = {**CONFIGURATION["architecture"], "network_class_name": "their.package.Transformer"}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("dataset.json", two_channels, r"names 2 channels \(T1, T2\), but plans.json normalises 1"),
        ("dataset.json", without("labels"), "is not as nnU-Net v2 writes it: KeyError 'labels'"),
        ("dataset.json", labels(), "names no structure in 'labels'"),
        ("dataset.json", labels(a=1, b=3), "count from 1 without a gap; they are 1, 3"),
        ("dataset.json", labels(a=[1, 2], b=2), "has 2 regions, but 'regions_class_order' is None"),
        ("dataset.json", labels(a=1), "seg_layers.*not those of the network in plans.json"),
        ("plans.json", without("transpose_forward"), "is not as nnU-Net v2 writes it"),
        ("plans.json", renamed, "has no configuration '2d'.*it has 3d_fullres"),
        ("plans.json", in_configuration(previous_stage="3d_lowres"), "second stage of a cascade"),
        ("plans.json", in_configuration(inherits_from="gone"), "inherits from 'gone'"),
        ("plans.json", in_configuration(patch_size=[8, 8, 8]), "do not go together"),
        ("plans.json", in_configuration(patch_size=["wide", 8]), "is not as nnU-Net v2 writes it"),
        ("plans.json", in_configuration(spacing=[1e999, "?"]), "is not as nnU-Net v2 writes it"),
        (
            "plans.json",
            in_configuration(normalization_schemes=["TheirNormalization"]),
            "asks for the normalisation: 'TheirNormalization'; this version has ZScore",
        ),
        (
            "plans.json",
            in_configuration(normalization_schemes=["ZScoreNormalization"] * 2),
            "names 1 channels .* normalises 2",
        ),
        (
            "plans.json",
            in_configuration(resampling_fn_data="resample_torch_fornnunet"),
            "asks for the resampling of data: 'resample_torch_fornnunet'",
        ),
        (
            "plans.json",
            in_configuration(architecture=ARCHITECTURE),
            "asks for the network: 'Transformer'; this version has PlainConvUNet",
        ),
    ],
)
def test_a_folder_that_does_not_hold_together_is_refused_in_words(tmp_path, name, change, said):
    folder = edited(write_trained(tmp_path / "m"), name, change)
    with pytest.raises(ModelError, match=said):
        add_model(folder)
    assert not [one for one in list_models() if one.origin == "user"]


def remove(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink()
    return folder


def test_missing_files_are_named(tmp_path):
    checkpoint = "fold_0/checkpoint_final.pth"
    for number, (gone, said) in enumerate(
        {
            checkpoint: r"holds no fold_\*/checkpoint_final.pth \(fold_0\)",
            "dataset.json": "but dataset.json is missing",
            "plans.json": "but plans.json is missing",
        }.items()
    ):
        with pytest.raises(ModelError, match=said):
            add_model(remove(write_trained(tmp_path / f"m{number}"), gone))


def test_a_folder_of_several_trainings_asks_which(tmp_path, capsys):
    write_trained(tmp_path / "Dataset" / "nnUNetTrainer__nnUNetPlans__2d")
    write_trained(tmp_path / "Dataset" / "nnUNetTrainer__nnUNetPlans__3d_fullres", plans_3d())
    assert main(["models", "--add", str(tmp_path / "Dataset")]) == 2
    said = capsys.readouterr().err
    assert "choose one of: nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d" in said


class Program:
    """Makes a folder when it is unpickled freely."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


def test_a_checkpoint_runs_nothing_and_a_damaged_one_is_told(tmp_path):
    folder = write_trained(tmp_path / "m")
    file = folder / "fold_0" / "checkpoint_final.pth"
    good = file.read_bytes()
    found = torch.load(file, weights_only=False)
    torch.save({**found, "more": Program(str(tmp_path / "ran"))}, file)
    with pytest.raises(ModelError, match="holds more than tensors"):
        load_segmenter(folder, "cpu")
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": found["network_weights"]}, file)
    with pytest.raises(ModelError, match="not one of nnU-Net v2"):
        load_segmenter(folder, "cpu")
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(ModelError, match="damaged or cut short"):
        load_segmenter(folder, "cpu")
    (folder / "plans.json").write_text("{")
    file.write_bytes(good)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_segmenter(folder, "cpu")


def test_a_card_that_names_another_layer_cannot_call_it(tmp_path):
    from dataclasses import replace

    from napari_grata.segmenters.factory import build_network

    card = load_segmenter(write_trained(tmp_path / "m"), "cpu").card
    for wrong in ({"nonlin": "Module.__init__"}, {"conv_op": "functional"}, {"class": "print"}):
        network = {**card.arguments["network"], **wrong}
        with pytest.raises(CardError, match="does not take"):
            build_network(replace(card, arguments={**card.arguments, "network": network}))


def test_an_array_without_a_pixel_size_is_read_with_a_notice(tmp_path):
    data = np.random.default_rng(0).integers(0, 200, (4, 40, 36), dtype=np.uint8)
    segmenter = load_segmenter(write_trained(tmp_path / "m", spacing=[0.7, 0.7]), "cpu")
    found = list(segmenter.predict(scan_from_array(data, name="v")))
    assert [one.label_map.shape for one in found] == [(40, 36)] * 4
    assert any("states no pixel size" in notice for notice in segmenter.notices)


# -- several images together -------------------------------------------------------------------


def two_images(tmp_path):
    """A model that reads T1 and T2, and two images of 32 × 32 × 3 on one grid."""
    two = {**DATASET, "channel_names": {"0": "T1", "1": "T2"}}
    kinds = {"normalization_schemes": ["ZScoreNormalization"] * 2}
    folder = write_trained(
        tmp_path / "two", dataset=two, mirror=None, use_mask_for_norm=[False] * 2, **kinds
    )
    files = [tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"]
    for seed, file in enumerate(files):
        values = np.random.default_rng(seed).normal(9, 1, (32, 32, 3)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)
    return folder, files


def test_images_are_read_together_in_the_order_given(tmp_path, capsys):
    folder, (first, second) = two_images(tmp_path)
    words = ["segment", str(first), "--model", str(folder), "--device", "cpu", "--quiet"]
    assert main([*words, "--channel", str(second), "--out", str(tmp_path / "out")]) == 0
    (mask,) = (tmp_path / "out").glob("*.nii.gz")
    network = load_segmenter(folder, "cpu").network.folds[0]
    values = np.stack([np.asarray(nibabel.load(f).dataobj) for f in (first, second)])
    values = values.transpose(3, 0, 2, 1)  # slices, images, rows, columns
    mean, deviation = (f((0, 2, 3), keepdims=True) for f in (values.mean, values.std))
    with torch.inference_mode():
        expected = network(torch.from_numpy((values - mean) / deviation)).argmax(1).numpy()
    found = np.asarray(nibabel.load(mask).dataobj).transpose(2, 1, 0)
    assert len(np.unique(expected)) > 1
    assert (found != expected).mean() < 1e-3


def test_a_run_on_images_read_together_comes_back_with_all_of_them(tmp_path, capsys):
    folder, (first, second) = two_images(tmp_path)
    there = tmp_path / "there"
    words = ["adapt", str(first), "--channel", str(second), "--model", str(folder)]
    assert main([*words, "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]) == 0
    run = tmp_path / "out" / "run"
    capsys.readouterr()
    assert main(["again", str(run), "--out", str(tmp_path / "twice"), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"]
    # What moved together is found together.
    there.mkdir()
    moved = [file.rename(there / file.name) for file in (first, second)]
    found = reopen(run, open_scan(moved[0]))
    assert not found.missing
    assert len(found.scan.channels) == 1
    live = found.run()
    assert live.predict(1).label_map.tolist() == found.adapted_masks[1].tolist()
    live.close()
    # What was torn apart is named.
    apart = moved[1].rename(tmp_path / "elsewhere.nii.gz")
    words = ["again", str(run), "--quiet", "--out", str(tmp_path / "thrice")]
    assert main([*words, "--channel", str(apart)]) == 2
    assert "name the first one with --scan" in capsys.readouterr().err
    words += ["--scan", str(moved[0])]
    assert main([*words, "--channel", str(moved[0])]) == 2
    assert "Image 2 (T2) of this run is not the one" in capsys.readouterr().err
    assert main([*words, "--channel", str(apart), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"]
    where = ["--scan", str(moved[0]), "--channel", str(apart)]
    assert main(["reopen", str(run), *where, "--out", str(tmp_path / "shown"), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["missing"]
    apart.rename(moved[1])
    # Without one of them, or with another one in its place, it is said which.
    nibabel.save(nibabel.Nifti1Image(np.eye(32)[..., None] * [1, 2, 3], np.eye(4)), moved[1])
    other = reopen(run, open_scan(moved[0]))
    moved[1].unlink()
    lost = reopen(run, open_scan(moved[0]))
    other.close()
    lost.close()
    assert other.scan is lost.scan is None
    assert "Image 2 (T2) of this run is not the one" in other.missing[0]
    assert "Image 2 (T2) of this run was not found" in lost.missing[0]
    assert "t2.nii" not in " ".join(other.missing + lost.missing)


def test_images_that_are_missing_or_lie_elsewhere_are_told(tmp_path, capsys):
    folder, (first, second) = two_images(tmp_path)
    image = nibabel.load(second)
    nibabel.save(nibabel.Nifti1Image(image.get_fdata()[:, :, :2], image.affine), second)
    words = ["segment", str(first), "--model", str(folder), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "reads 2 images together (T1, T2): this is 1." in capsys.readouterr().err
    assert main([*words, "--channel", str(second)]) == 2
    assert "2 × 32 × 32 voxels and that one 3 × 32 × 32" in capsys.readouterr().err
