"""Programs beside a card predict as the network does, and adapt by their parameters' names."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import adapt
from napari_grata.adaptation.methods import make_method
from napari_grata.adaptation.settings import Settings
from napari_grata.scans import scan_from_array
from napari_grata.segmenters.card import CardError, write_card
from napari_grata.segmenters.loaders import WeightsError
from napari_grata.segmenters.registry import add_model
from napari_grata.segmenters.segmenter import load_segmenter
from tools.generators.models import tiny_card

CARD = tiny_card(name="program", architecture="torchscript", arguments={})
# PyTorch announces the end of TorchScript; the files are there.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
KINDS = ["script", "trace", "export", "export-one"]


class Net(nn.Module):
    """Every kind of normalisation, one of them deeper within."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True))
        self.group = nn.GroupNorm(2, 4)
        self.last = nn.Conv2d(4, 2, 1)
        self.norm.running_mean.uniform_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of the size of the images."""
        return self.last(self.group(torch.relu(self.inner(torch.relu(self.norm(self.first(x)))))))


def write(folder: Path, kind: str, net: nn.Module, card=CARD) -> Path:
    folder.mkdir()
    write_card(folder, card)
    example, file = torch.rand(1, 1, 64, 64), folder / "net.pt"
    if kind == "script":
        torch.jit.script(net.eval()).save(file)
    elif kind == "trace":
        torch.jit.trace(net.eval(), example).save(file)
    else:
        dynamic = torch.export.Dim.DYNAMIC
        free = {"export": ({0: dynamic, 2: dynamic, 3: dynamic},), "export-one": None}[kind]
        given = example if free is None else torch.rand(2, 1, 64, 64)
        exported = torch.export.export(net.eval(), (given,), dynamic_shapes=free)
        torch.export.save(exported, folder / "net.pt2")
    return folder


@pytest.fixture(params=KINDS)
def folder(request, tmp_path) -> Path:
    return write(tmp_path / "program", request.param, Net())


@pytest.fixture
def volume():
    data = np.random.default_rng(1).integers(0, 255, (6, 64, 64), dtype=np.uint8)
    return scan_from_array(data, name="v")


def test_a_program_predicts_what_its_network_does(folder, volume):
    segmenter = load_segmenter(folder, "cpu")
    net = Net().eval()
    for found in segmenter.predict(volume):
        with torch.inference_mode():
            wanted = net(segmenter.prepare(volume, found.slice_index).image).sigmoid()[0]
        assert np.allclose(found.probabilities, wanted, atol=1e-5)


def test_an_added_program_is_copied_whole_and_told_by_its_digest(folder, volume):
    entry = add_model(folder)
    program = next(f for f in entry.folder.iterdir() if f.name != "card.yaml")
    assert program.read_bytes() == next(folder.glob("net.*")).read_bytes()
    assert len(list(load_segmenter("program", "cpu").predict(volume, [0]))) == 1
    program.write_bytes(program.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        load_segmenter("program", "cpu")


def test_scale_and_shift_adapt_by_their_names_as_in_the_network_itself(folder, volume):
    segmenter = load_segmenter(folder, "cpu")
    settings = Settings(method="grata", blend=0.0, learning_rate=1e-2)
    image = segmenter.prepare(volume, 0).image
    ours = make_method(settings, segmenter.network)
    theirs = make_method(settings, Net().eval())
    assert sorted(ours.theta_names) == sorted(theirs.theta_names)
    assert "inner.1.weight" in ours.theta_names
    before = ours.theta()
    records = ours.step(image), theirs.step(image)
    assert not torch.equal(ours.theta(), before)
    assert records[0].cosine == pytest.approx(records[1].cosine, abs=1e-3)
    assert torch.allclose(records[0].probabilities, records[1].probabilities, atol=1e-4)
    # The source stays as it was, and a second method starts from it.
    assert torch.equal(make_method(settings, segmenter.network).theta(), before)
    with pytest.raises(ValueError, match="a TorchScript or exported one hides them"):
        make_method(settings.but(parameters="low-rank"), segmenter.network)


def test_a_run_goes_through_and_says_that_statistics_stay(folder, volume):
    segmenter = load_segmenter(folder, "cpu")
    records = list(adapt(segmenter, volume, method="consistency"))
    assert len(records) == 6
    assert any("Its statistics cannot" in notice for notice in segmenter.notices)


def test_a_frozen_program_predicts_and_says_that_it_cannot_adapt(tmp_path, volume):
    folder = write(tmp_path / "m", "script", Net())
    torch.jit.freeze(torch.jit.load(folder / "net.pt").eval()).save(folder / "net.pt")
    segmenter = load_segmenter(folder, "cpu")
    assert len(list(segmenter.predict(volume, [0]))) == 1
    assert "cannot adapt" in segmenter.notices[0]
    with pytest.raises(ValueError, match=r"has none\. Choose another model"):
        make_method(Settings(method="tent"), segmenter.network)


class Writes(nn.Module):
    """A program that would make a file when it is asked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the picture twice."""
        return torch.cat([x, x + torch.from_file("/tmp/never", True, 4).sum()], 1)


def test_a_script_that_touches_files_is_not_opened(tmp_path):
    with pytest.raises(WeightsError, match=r"from_file.*no computation of a network"):
        load_segmenter(write(tmp_path / "m", "script", Writes()), "cpu")


def rewritten(file: Path, change) -> None:
    """Write an archive again, each entry as `change(name, content)` gives it."""
    out = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    file.write_bytes(out.getvalue())


def test_an_export_that_would_unpickle_objects_is_not_opened(tmp_path):
    class Program:
        def __reduce__(self):
            return (Path.mkdir, (tmp_path / "ran",))

    bad = io.BytesIO()
    torch.save(Program(), bad)

    def in_samples(name, content):
        return bad.getvalue() if "sample_inputs" in name else content

    def in_weights(name, content):
        if not name.endswith("model_weights_config.json"):
            return content
        found = json.loads(content)
        next(iter(found["config"].values()))["use_pickle"] = True
        return json.dumps(found).encode()

    for number, change in enumerate((in_samples, in_weights)):
        folder = write(tmp_path / f"m{number}", "export", Net())
        rewritten(folder / "net.pt2", change)
        with pytest.raises(WeightsError, match="holds objects that are no tensors"):
            load_segmenter(folder, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_program_of_one_size_asks_for_that_size(tmp_path):
    folder = write(tmp_path / "m", "export-one", Net(), replace(CARD, size=(96, 96)))
    with pytest.raises(
        CardError, match=r"pictures of 64 × 64 pixels alone. Say 'size: \[64, 64\]'"
    ):
        load_segmenter(folder, "cpu")


@pytest.mark.parametrize("kind", ["script", "export"])
def test_a_program_that_is_cut_short_or_no_number_is_refused(tmp_path, kind):
    net = Net()
    net.norm.weight.data[0] = float("nan")
    folder = write(tmp_path / "nan", kind, net)
    with pytest.raises(WeightsError, match="not finite numbers"):
        load_segmenter(folder, "cpu")
    folder = write(tmp_path / "wrong", kind, Net(), replace(CARD, channels=3))
    with pytest.raises(CardError, match="does not take a picture of 3"):
        load_segmenter(folder, "cpu")


def test_a_program_without_a_card_is_told_what_is_missing(tmp_path):
    folder = write(tmp_path / "m", "trace", Net())
    (folder / "card.yaml").unlink()
    with pytest.raises(WeightsError, match=r"is a program \(torchscript\).*Put a card.yaml beside"):
        add_model(folder / "net.pt")
