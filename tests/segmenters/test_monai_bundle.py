"""MONAI bundles read here as MONAI reads them, and none of their programs run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from napari_grata.adaptation import adapt
from napari_grata.scans import open_scan
from napari_grata.segmenters import ModelError, add_model, load_segmenter

monai = pytest.importorskip("monai", reason="MONAI is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own, of other libraries' futures

UNET = {
    "_target_": "monai.networks.nets.unet.UNet",
    "spatial_dims": "@dims",
    "in_channels": 1,
    "out_channels": "$@classes",
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": ["INSTANCE", {"affine": True}],
}
CT = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "LPS"},
    {"_target_": "Spacingd", "keys": "@key", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -0.8, "a_max": 1.2, "b_min": 0.0}
    | {"b_max": 1.0, "clip": True},
]
MR = [
    {"_target_": "Spacingd", "keys": ["image"], "pixdim": [2.0, 0.0, 1.3]},
    {"_target_": "ScaleIntensityRangePercentilesd", "keys": ["image"], "lower": 2, "upper": 98}
    | {"b_min": -1, "b_max": 1},
    {"_target_": "NormalizeIntensityd", "keys": ["image"], "nonzero": True, "channel_wise": True},
]
WINDOWS = {"_target_": "SlidingWindowInferer", "roi_size": [24, 16, 16], "overlap": 0.5}
BACK = {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"}


def bundle(folder: Path, steps: list, inferer: dict, back: list, dims: int = 3, **more) -> Path:
    """Write a bundle with a network that has learnt nothing, but answers in many pieces."""
    before = [{"_target_": name, "keys": "image"} for name in ("LoadImaged", "EnsureChannelFirstd")]
    config = {
        "imports": ["$import os"],
        "output_dir": "$os.path.join(@root, 'eval')",
        "key": "image",
        "dims": dims,
        "classes": 3,
        "network_def": UNET,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before + steps},
        "inferer": {"sw_batch_size": 2, **inferer} if "roi_size" in inferer else inferer,
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                *back,
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
            ],
        },
        **more,
    }
    metadata = {
        "name": "Two organs",
        "version": "0.5.3",
        "data_source": "Task09 from medicaldecathlon.com",
        "network_data_format": {
            "inputs": {
                "image": {"modality": "CT", "num_channels": 1, "spatial_shape": [16] * dims}
            },
            "outputs": {
                "pred": {
                    "num_channels": 3,
                    "channel_def": {"0": "background", "1": "liver", "2": "spleen"},
                }
            },
        },
    }
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(3)
    network = theirs(folder).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def theirs(folder: Path):
    """Let MONAI itself read the configuration, without what needs its other parts."""
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["postprocessing"]["transforms"].pop()
    for name in ("imports", "output_dir", "network"):
        del config[name]
    return monai.bundle.ConfigParser(config)


def predict_there(folder: Path, path: Path) -> np.ndarray:
    """Predict a scan with MONAI: transforms, inferer and the way back of the bundle."""
    parser = theirs(folder)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("preprocessing")({"image": str(path)})
    with torch.inference_mode():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    return parser.get_parsed_content("postprocessing")(data)["pred"][0].numpy()


def volume(tmp_path: Path) -> Path:
    """Write an oblique volume whose axes are turned, with blobs and an empty border."""
    rng = np.random.default_rng(5)
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(rng.normal(size=(26, 37, 19)), 1.2) * 4
    values[:3], values[:, :, -2:] = 0, 0
    turn = np.array([[0.05, 0.995, 0.0], [-0.995, 0.05, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.1, 1.3, 2.4])
    affine[:3, 3] = (12, -40, 7)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), path)
    return path


def dice(one: np.ndarray, other: np.ndarray) -> float:
    pairs = [(one == value, other == value) for value in np.unique(one)]
    return min(2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs)


@pytest.mark.parametrize(
    ("steps", "inferer", "back"),
    [
        pytest.param(CT, WINDOWS, [{**BACK, "nearest_interp": False}], id="linear"),
        pytest.param(MR, {**WINDOWS, "mode": "gaussian"}, [BACK], id="nearest, gaussian"),
    ],
)
def test_a_volume_is_read_as_monai_reads_it(tmp_path, steps, inferer, back):
    path = volume(tmp_path)
    folder = bundle(tmp_path / "bundle", steps, inferer, back)
    segmenter = load_segmenter(folder, "cpu")
    scan = open_scan(path)
    ours = scan.mask_stack((p.slice_index, p.label_map) for p in segmenter.predict(scan))
    expected = scan.geometry.to_display(predict_there(folder, path).astype(np.uint8))
    assert set(np.unique(expected)) == {0, 1, 2}
    assert dice(expected, ours) >= 0.999


def picture_bundle(folder: Path) -> Path:
    """Write a bundle that reads pictures, stretched to one size."""
    steps = [
        {"_target_": "Resized", "keys": "image", "spatial_size": [64, 48], "mode": "bilinear"},
        {"_target_": "ScaleIntensityd", "keys": "image"},
    ]
    back = [{**BACK, "nearest_interp": False}]
    bundle(folder, steps, {"_target_": "SimpleInferer"}, back, dims=2)
    change(folder, "metadata.json", '"CT"', '"endoscopy"')
    return folder


def change(folder: Path, name: str, old: str, new: str) -> None:
    file = folder / "configs" / name
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def picture(tmp_path: Path) -> Path:
    from skimage.io import imsave

    path = tmp_path / "photo.png"
    values = np.random.default_rng(1).integers(0, 255, (50, 70), dtype=np.uint8)
    imsave(path, values, check_contrast=False)
    return path


def test_a_picture_is_read_as_monai_reads_it_and_adapts(tmp_path):
    path, folder = picture(tmp_path), picture_bundle(tmp_path / "bundle")
    segmenter, scan = load_segmenter(folder, "cpu"), open_scan(path)
    (found,) = segmenter.predict(scan)
    assert dice(predict_there(folder, path).T, found.label_map) >= 0.999
    records = list(adapt(segmenter, scan, method="as-published"))
    assert [(one.step, one.undone) for one in records][-1] == (1, False)
    assert np.isfinite(records[-1].gradient_norms).all()


def test_an_added_bundle_is_a_model_of_ours_and_its_card_says_what_the_bundle_says(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    folder = bundle(tmp_path / "bundle", CT, WINDOWS, [BACK])
    entry = add_model(folder / "configs" / "metadata.json")
    card = entry.card
    assert [(one.name, one.value) for one in card.structures] == [("liver", 1), ("spleen", 2)]
    assert card.training_data[0]["name"] == "Task09 from medicaldecathlon.com"
    assert (card.version, card.modality, card.dimensions) == ("0.5.3", "CT", 3)
    scan = open_scan(volume(tmp_path))
    ours, theirs = load_segmenter(entry.name, "cpu"), load_segmenter(folder, "cpu")
    for one, other in zip(ours.predict(scan, [4, 9]), theirs.predict(scan, [4, 9]), strict=True):
        assert np.array_equal(one.label_map, other.label_map)
    records = list(adapt(ours, scan, method="as-published"))
    assert max(one.step for one in records) > 1
    assert not any(one.undone for one in records)


def test_a_bundle_with_a_program_alone_needs_no_monai(tmp_path, monkeypatch):
    folder = bundle(tmp_path / "bundle", CT, WINDOWS, [BACK])
    scan = open_scan(volume(tmp_path))
    (before,) = load_segmenter(folder, "cpu").predict(scan, [8])
    network = load_segmenter(folder, "cpu").network.folds[0]
    torch.jit.script(network).save(folder / "models" / "model.ts")
    (folder / "models" / "model.pt").unlink()
    change(folder, "inference.json", "monai.networks.nets.unet.UNet", "scripts.ours.Net")
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    entry = add_model(folder)
    (after,) = load_segmenter(entry.name, "cpu").predict(scan, [8])
    assert np.array_equal(before.label_map, after.label_map)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("monai.networks.nets.unet.UNet", "subprocess.Popen", "subprocess.Popen"),
        ("monai.networks.nets.unet.UNet", "monai.networks.nets.HoVerNet", "HoVerNet"),
        ('"$@classes"', "\"$__import__('os').getpid()\"", "is computed"),
        ('"@dims"', '"@nothing#here"', "which is not there"),
        ('"key": "image"', '"key": "@key"', "is computed|refers to itself"),
        ("Orientationd", "RandRotated", "asks for RandRotate"),
        ('"axcodes": "LPS"', '"axcodes": "LPX"', "orientation names three axes"),
        ('"mode": "bilinear"', '"mode": "nearest"', "Spacing with mode nearest"),
        ('"mode": "bilinear"', '"scale_extent": true', "scale_extent: True is not done"),
        ("SlidingWindowInferer", "SliceInferer", "SliceInferer is not known"),
        ("AsDiscreted", "VoteEnsembled", "VoteEnsemble"),
        ('"argmax": true', '"threshold": 0.3', "it says softmax, threshold 0.3"),
    ],
)
def test_what_a_bundle_asks_for_and_is_not_done_is_named(tmp_path, old, new, words):
    folder = bundle(tmp_path / "bundle", CT, WINDOWS, [BACK])
    change(folder, "inference.json", old, new)
    with pytest.raises(ModelError, match=words):
        load_segmenter(folder, "cpu")
