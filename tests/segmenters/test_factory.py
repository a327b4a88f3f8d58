"""Networks that are not ours: functions and packages that a card names, with a state dict."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import adapt
from napari_grata.scans import open_scan, scan_from_array
from napari_grata.segmenters import factory
from napari_grata.segmenters.card import CardError, load_card, write_card
from napari_grata.segmenters.factory import build_network, check_answer
from napari_grata.segmenters.loaders import WeightsError
from napari_grata.segmenters.registry import add_model, list_models
from napari_grata.segmenters.segmenter import load_segmenter
from tools.generators.models import tiny_card

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
MODULE = """
from torch import nn

def small(classes, in_channels, width=4):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, classes, 1),
    )

def halved(outputs, channels):
    return nn.Conv2d(channels, outputs, 2, stride=2)

def paths(outputs, channels):
    return {"no": "network"}
"""
CARD = tiny_card(
    architecture="my_nets:small", arguments={"classes": 2, "in_channels": 1}, name="mine"
)


@pytest.fixture
def my_nets(tmp_path, monkeypatch):
    """A module of the user's own that may be called."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv("NAPARI_GRATA_NETWORKS", "others, my_nets")
    yield tmp_path
    sys.modules.pop("my_nets", None)


@pytest.fixture
def folder(my_nets) -> Path:
    """A folder as a user makes it: a card and what `torch.save` wrote."""
    torch.manual_seed(0)
    folder = my_nets / "mine"
    folder.mkdir()
    write_card(folder, CARD)
    torch.save({"epoch": 3, "model": build_network(CARD).state_dict()}, folder / "best.pth")
    return folder


@pytest.fixture
def volume():
    data = np.random.default_rng(1).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    return scan_from_array(data, name="v")


@pytest.mark.parametrize("given", ["folder", "card", "weights"])
def test_a_function_and_a_state_dict_beside_a_card_are_a_model(folder, volume, given):
    path = {"folder": folder, "card": folder / "card.yaml", "weights": folder / "best.pth"}[given]
    segmenter = load_segmenter(path, "cpu")
    state = torch.load(folder / "best.pth", weights_only=True)["model"]
    assert torch.equal(segmenter.network[0].weight, state["0.weight"])
    records = list(adapt(segmenter, volume, method="grata"))
    assert len(records) == 3


def test_an_added_state_dict_is_written_as_safetensors_and_predicts_alike(folder, volume):
    before = [one.probabilities for one in load_segmenter(folder, "cpu").predict(volume)]
    entry = add_model(folder)
    assert sorted(f.name for f in entry.folder.iterdir()) == ["card.yaml", "weights.safetensors"]
    assert entry.name in [one.name for one in list_models() if one.card is not None]
    after = [one.probabilities for one in load_segmenter("mine", "cpu").predict(volume)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_weights_that_are_not_those_of_the_card_are_refused(folder):
    write_card(folder, replace(CARD, weights_sha256="0" * 64))
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        add_model(folder)


def test_a_function_is_called_only_where_its_module_is_allowed(folder, monkeypatch):
    sys.modules.pop("my_nets", None)
    monkeypatch.delenv("NAPARI_GRATA_NETWORKS")
    with pytest.raises(CardError, match="set NAPARI_GRATA_NETWORKS=my_nets and try again"):
        load_segmenter(folder, "cpu")
    assert "my_nets" not in sys.modules


@pytest.mark.parametrize("name", ["torch.hub:load", "builtins:exec", "os:system"])
def test_a_card_of_a_stranger_cannot_call_what_is_installed(my_nets, name):
    with pytest.raises(CardError, match="only where you allow it"):
        build_network(replace(CARD, architecture=name, arguments={}))


def test_a_package_offers_networks_by_an_entry_point(monkeypatch, my_nets):
    import importlib.metadata

    point = importlib.metadata.EntryPoint("theirs", "my_nets:small", factory.ENTRY_POINTS)
    monkeypatch.delenv("NAPARI_GRATA_NETWORKS")
    monkeypatch.setattr(
        importlib.metadata,
        "entry_points",
        lambda group: [point] if group == factory.ENTRY_POINTS else [],
    )
    network = build_network(replace(CARD, architecture="theirs"))
    assert isinstance(network[1], nn.BatchNorm2d)
    with pytest.raises(CardError, match=r"this version knows .*theirs"):
        build_network(replace(CARD, architecture="other"))


@pytest.mark.parametrize(
    ("architecture", "arguments", "said"),
    [
        ("my_nets:large", {}, "cannot be imported: AttributeError"),
        ("others:large", {}, "cannot be imported: ModuleNotFoundError"),
        ("my_nets:small", {"classes": 2}, "arguments that it does not take: .*in_channels"),
        ("my_nets:paths", {}, "gives a dict; it should return the network"),
    ],
)
def test_what_is_wrong_with_a_function_is_said(my_nets, architecture, arguments, said):
    with pytest.raises(CardError, match=said):
        build_network(replace(CARD, architecture=architecture, arguments=arguments))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": {"classes": 3, "in_channels": 1}}, "with 1×3×64×64; it should be .*1×2×64"),
        ({"arguments": {"classes": 2, "in_channels": 3}}, "does not take a picture of 1 × 64"),
        ({"architecture": "my_nets:halved", "arguments": {}}, "with 1×2×32×32"),
    ],
)
def test_a_network_that_does_not_fit_its_card_is_told_before_use(my_nets, changes, said):
    card = replace(CARD, **changes)
    with pytest.raises(CardError, match=said):
        check_answer(card, build_network(card))


# -- the worked example of docs/bring-your-own-model.md ---------------------------------------


@pytest.fixture
def wnet(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("NAPARI_GRATA_NETWORKS", "wnet")
    yield load_card(EXAMPLES / "wnet_card.yaml")
    sys.modules.pop("wnet", None)


def test_the_example_network_answers_and_its_threshold_is_the_half(wnet):
    torch.manual_seed(0)
    network = build_network(wnet).eval()
    check_answer(wnet, network)
    plain = build_network(replace(wnet, arguments={})).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        moved, p = network(images).sigmoid(), plain(images).sigmoid()
    assert torch.equal(moved > 0.5, p > 0.42)


def fundus(data_root: Path, centre: str) -> list[tuple[Path, Path]]:
    """Photographs and masks of a centre; of the large ones of HRF a patient's three."""
    found = sorted(data_root.glob(f"*_fundus_vessels/{centre}/images/*"))
    masks = {m.stem: m for m in found[0].parents[1].glob("masks/*")}
    found = [image for image in found if centre != "HRF" or image.stem.startswith("02_")]
    return [(image, masks[image.stem]) for image in found]


# HRF: all twelve photographs gave 0.689. At which size and from which region masks are compared
# moves CHASE_DB1 by 0.02 (0.757 at 512 × 512, 0.784 at full size, of the first six).
@pytest.mark.parametrize(
    ("centre", "dice"), [("STARE", 0.761), ("CHASE_DB1", 0.749), ("HRF", 0.695)]
)
def test_the_example_gives_its_known_figures(wnet, tmp_path, data_root, centre, dice):
    from skimage.io import imread

    weights = data_root / "weights" / "lwnet_wnet_drive" / "state_dict.pt"
    (tmp_path / "m").mkdir()
    write_card(tmp_path / "m", wnet)
    (tmp_path / "m" / "state_dict.pt").write_bytes(weights.read_bytes())
    segmenter = load_segmenter(tmp_path / "m", "cpu")
    found = []
    for image, mask in fundus(data_root, centre):
        scan = open_scan(image)
        seen = scan.read_slice(0).max(axis=-1) > 30
        rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        region = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
        (prediction,) = segmenter.predict(scan, region=region)
        truth = imread(mask)
        truth = truth > (127 if truth.dtype == np.uint8 and truth.max() > 1 else 0)
        ours = prediction.label_map == 1
        found.append(2 * (ours & truth).sum() / (ours.sum() + truth.sum()))
    assert np.mean(found) == pytest.approx(dice, abs=0.025)


# -- the worked example that reads volumes -----------------------------------------------------


@pytest.fixture
def meshnet(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("NAPARI_GRATA_NETWORKS", "meshnet")
    yield load_card(EXAMPLES / "meshnet_card.yaml")
    sys.modules.pop("meshnet", None)


def with_plan(card, **changes):
    plan = {**card.arguments["plan"], **changes}
    return replace(card, arguments={**card.arguments, "plan": plan})


def test_the_example_of_volumes_reads_them_as_its_plan_says(meshnet, tmp_path):
    card = with_plan(meshnet, patch=[20, 12, 16], steps=[{"kind": "min-max"}])
    torch.manual_seed(0)
    network = build_network(card).folds[0].eval()
    with torch.no_grad():  # so that no class is the largest everywhere
        network.model[-1].weight *= 100
        network.model[-1].bias -= network(torch.rand(1, 1, 20, 12, 16)).mean((0, 2, 3, 4))
    (tmp_path / "m").mkdir()
    write_card(tmp_path / "m", card)
    torch.save(network.state_dict(), tmp_path / "m" / "model.pth")
    entry = add_model(tmp_path / "m")
    values = np.random.default_rng(0).random((20, 16, 12)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    scan = open_scan(tmp_path / "scan.nii.gz")
    found = [p.label_map for p in load_segmenter(entry.name, "cpu").predict(scan)]
    turned = values[::-1, :, ::-1].transpose(0, 2, 1)  # to the left, down, forward
    turned = (turned - turned.min()) / np.ptp(turned)
    with torch.inference_mode():
        expected = network(torch.from_numpy(turned.copy())[None, None]).argmax(1)[0].numpy()
    expected = scan.geometry.to_display(expected.transpose(0, 2, 1)[::-1, :, ::-1])
    assert len(np.unique(expected)) > 1
    assert (np.stack(found) != expected).mean() < 1e-3


# White and grey matter of centre B are known to be 0.894 and 0.693, as a mean of three volumes;
# this one gave 0.911 and 0.680, IBSR_08 0.875 and 0.634.
@pytest.mark.skipif(not os.environ.get("NAPARI_GRATA_DATA"), reason="takes minutes")
def test_the_example_of_volumes_gives_its_known_figures(meshnet, tmp_path, data_root):
    path = data_root / "local_brain_T1_IBSR18" / "B_1.0mm" / "images" / "IBSR_07.nii.gz"
    image, truth = (nibabel.load(str(path).replace("images", n)) for n in ("images", "masks"))
    whole, truth = (np.squeeze(np.asarray(one.dataobj)) for one in (image, truth))
    size = np.array(image.header.get_zooms()[:3])
    # The brain and 16 mm about it; what is bright is known of 256 mm each way.
    box = []
    for axis, length in enumerate(size):
        there = np.flatnonzero(whole.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(0, there[0] - int(16 / length)), there[-1] + int(16 / length)))
    bright = np.quantile(whole, 1 - 0.01 * 256**3 / (whole.size * size.prod()))
    part, truth = whole[tuple(box)], truth[tuple(box)]
    nibabel.save(nibabel.Nifti1Image(part, image.affine), tmp_path / "scan.nii.gz")
    sides = [int(n) + 1 for n in part.shape * size]
    card = with_plan(
        meshnet,
        patch=[sides[0], sides[2], sides[1]],
        steps=[{"kind": "range", "of": [0, float(bright)]}],
    )
    (tmp_path / "m").mkdir()
    write_card(tmp_path / "m", card)
    weights = data_root / "weights" / "brainchop_meshnet_gwm" / "model.pth"
    (tmp_path / "m" / "model.pth").write_bytes(weights.read_bytes())
    scan = open_scan(tmp_path / "scan.nii.gz")
    found = load_segmenter(tmp_path / "m", "cpu").predict(scan)
    found = scan.mask_stack((p.slice_index, p.label_map) for p in found)
    truth = scan.geometry.to_display(truth.reshape(scan.geometry.source_shape))
    pairs = ((found == 1, truth == 3), (found == 2, truth == 2))
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs]
    assert dice == pytest.approx([0.894, 0.693], abs=0.03)
