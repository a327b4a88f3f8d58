"""Weights that must be those of their card; published checkpoints, recognised by their tensors."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_grata.scans import scan_from_array
from napari_grata.segmenters import loaders
from napari_grata.segmenters.card import CardError, load_card, write_card
from napari_grata.segmenters.loaders import (
    LoadedModel,
    Loader,
    WeightsError,
    build_network,
    fill_network,
    loader_for,
    register_loader,
    register_network,
    write_model,
)
from napari_grata.segmenters.registry import add_model, user_models_dir
from napari_grata.segmenters.resunet import ResUNet
from napari_grata.segmenters.segmenter import load_segmenter
from tools.generators.models import tiny_card

CARD = tiny_card(channels=3, dimensions=2, modality="fundus")


PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def load(path: Path) -> LoadedModel:
    return loader_for(path).load(path)


@pytest.fixture
def compact():
    torch.manual_seed(0)
    return build_network(CARD)


@pytest.fixture
def folder(tmp_path, compact) -> Path:
    write_model(tmp_path / "from" / "anywhere", CARD, compact)
    return tmp_path / "from" / "anywhere"


def test_written_weights_come_back_with_little_loss_from_half_precision(tmp_path, compact):
    bn = next(m for m in compact.modules() if isinstance(m, torch.nn.BatchNorm2d))
    bn.running_var.fill_(1e6)  # beyond float16
    card = write_model(tmp_path / "m", CARD, compact)
    assert load_card(tmp_path / "m") == card
    loaded = load(tmp_path / "m").network
    for (key, was), now in zip(
        compact.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert now.dtype == was.dtype, key
        assert torch.allclose(now.double(), was.double(), rtol=1e-3, atol=1e-6), key
        if was.ndim < 2:
            assert torch.equal(now, was), key


def test_half_precision_halves_the_file_and_full_precision_loses_nothing(tmp_path, compact):
    write_model(tmp_path / "half", CARD, compact)
    write_model(tmp_path / "full", CARD, compact, half=False)
    sizes = [(tmp_path / n / "weights.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    state = load(tmp_path / "full").network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in compact.state_dict().items())


def test_writing_a_model_leaves_two_files_and_nothing_else(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["card.yaml", "weights.safetensors"]


def test_exchanged_weights_are_refused(folder):
    file = folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="not the file that its card describes"):
        load_segmenter(folder, "cpu")


def test_a_card_without_a_hash_is_told_which_line_to_add(folder, compact):
    text = (folder / "card.yaml").read_text()
    digest = load_card(folder).weights_sha256
    (folder / "card.yaml").write_text(text.replace(digest, "null"))
    with pytest.raises(WeightsError, match=f"weights_sha256: {digest}"):
        load_segmenter(folder, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["res.conv1.weight", "res.bn1.running_var", "seg_head.bias"])
def test_weights_that_are_not_finite_are_refused_whatever_their_hash(folder, compact, key, value):
    # Written as any program would: with a digest that is right.
    state = {name: tensor.clone() for name, tensor in compact.state_dict().items()}
    state[key].view(-1)[0] = value
    write_model(folder, CARD, state)
    with pytest.raises(WeightsError, match=re.escape(key)):
        load_segmenter(folder, "cpu")


def test_a_file_that_is_no_safetensors_is_refused_though_its_hash_is_right(folder):
    for content in (b"", b"not weights", (2**60).to_bytes(8, "little") + b"{}"):
        (folder / "weights.safetensors").write_bytes(content)
        card = replace(load_card(folder), weights_sha256=hashlib.sha256(content).hexdigest())
        write_card(folder, card)
        with pytest.raises(WeightsError, match="not a safetensors file"):
            load_segmenter(folder, "cpu")


def test_a_new_kind_of_model_is_one_class_in_the_register(tmp_path, monkeypatch):
    monkeypatch.setattr(loaders, "LOADERS", dict(loaders.LOADERS))

    @register_loader
    class OneLayer(Loader):
        kind = "one layer"

        def takes(self, path):
            return path.suffix == ".layer"

        def load(self, path):
            return LoadedModel(CARD, torch.nn.Conv2d(3, 2, 1))

        def install(self, path, folder):
            return write_model(folder, CARD, self.load(path).network)

    loaders.LOADERS = {"one layer": loaders.LOADERS.pop("one layer"), **loaders.LOADERS}
    (tmp_path / "m.layer").write_text("")
    segmenter = load_segmenter(tmp_path / "m.layer", "cpu")
    assert len(list(segmenter.predict(scan_from_array(PICTURE, name="p", rgb=True)))) == 1
    with pytest.raises(ValueError, match="already"):
        register_loader(OneLayer)


def test_weights_of_another_network_are_refused_by_name(compact):
    state = dict(compact.state_dict())
    state["seg_head.weight"] = state["seg_head.weight"][:1]
    del state["up1.bn.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        fill_network(compact, state, origin="this file")
    for part in ("up1.bn.weight", "extra.weight", "seg_head.weight is 1×", "this file"):
        assert part in str(caught.value)


def test_an_unknown_architecture_or_argument_is_a_card_error():
    with pytest.raises(CardError, match=r"'transformer'; this version knows .*resunet"):
        build_network(replace(CARD, architecture="transformer"))
    with pytest.raises(CardError, match="does not take"):
        build_network(replace(CARD, arguments={"depth": 7}))


def test_a_registered_network_is_built_from_the_card():
    def factory(outputs, channels, width):
        return torch.nn.Conv2d(channels, outputs, width, padding="same")

    register_network("one-layer", factory)
    built = build_network(replace(CARD, architecture="one-layer", arguments={"width": 3}))
    assert tuple(built.weight.shape) == (2, 3, 3, 3)
    with pytest.raises(ValueError, match="already"):
        register_network("one-layer", lambda: None)


# -- published checkpoints ------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ResUNet(encoder="resnet18", outputs=2).eval()


@pytest.fixture
def checkpoint(tmp_path, network):
    path = tmp_path / "last-Res_Unet.pth"
    torch.save(network.state_dict(), path)
    return path


def saved(tmp_path, content):
    path = tmp_path / "model.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50"])
def test_the_encoder_is_recognised_from_the_shapes(encoder, tmp_path):
    state = ResUNet(encoder=encoder, outputs=2).state_dict()
    read = load(saved(tmp_path, state))
    assert read.card.arguments["encoder"] == encoder
    assert set(read.network.state_dict()) == set(state)


def test_a_published_state_dict_with_all_heads_is_taken_whole(tmp_path, data_root):
    table = data_root.parent / "reference" / "resunet34_state_dict.tsv"
    if not table.is_file():
        pytest.skip(f"{table} is not on this machine")
    with table.open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    state = {
        row["key"]: torch.full([int(n) for n in row["shape"].split("x") if n], 0.5) for row in rows
    }
    read = load(saved(tmp_path, state))
    assert read.card.arguments == {
        "encoder": "resnet34",
        "heads": ["reconstruction", "super-resolution", "denoising", "rotation"],
    }
    assert len(read.network.state_dict()) == len(rows)


def test_disc_and_cup_of_512_pixels_by_min_and_max_are_what_the_card_says(checkpoint):
    card = load(checkpoint).card
    assert [(s.name, s.value, s.inside) for s in card.structures] == [
        ("disc", 1, None),
        ("cup", 2, "disc"),
    ]
    assert card.size == (512, 512)
    assert card.normalisation == {"kind": "min-max"}
    assert card.activation == "sigmoid"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"module." + key: value for key, value in state.items()},
        lambda state: {"epoch": 3, "model_state_dict": state, "optimizer": {"lr": torch.ones(1)}},
        lambda state: {"a": {"b": {"module." + key: value for key, value in state.items()}}},
        lambda state: {k: v for k, v in state.items() if not k.startswith("res.fc.")},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    ],
    ids=["parallel", "nested", "nested-parallel", "no-classifier", "no-counters", "half"],
)
def test_the_usual_ways_to_save_a_model_are_all_read(wrap, tmp_path, network):
    path = saved(tmp_path, wrap(network.state_dict()))
    read = load_segmenter(path, "cpu").network
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(read(x), network(x), atol=0.02)
    assert read.seg_head.weight.dtype == torch.float32


def test_a_converted_checkpoint_predicts_as_the_original_does(checkpoint, network):
    entry = add_model(checkpoint)
    assert entry.folder.parent == user_models_dir()
    assert load_card(entry.folder) == entry.card
    segmenter = load_segmenter(entry.name, "cpu")
    values = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    (found,) = segmenter.predict(scan_from_array(values, name="p", rgb=True))
    x = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
    x = (x - x.min()) / (x.max() - x.min())
    with torch.no_grad():
        expected = network(x).sigmoid()[0].numpy()
    assert np.abs(found.probabilities - expected).max() < 1e-5


def test_adding_the_same_checkpoint_twice_is_no_error(checkpoint):
    assert add_model(checkpoint).folder == add_model(checkpoint).folder


def test_missing_unexpected_and_reshaped_tensors_are_named(tmp_path, network):
    state = dict(network.state_dict())
    del state["up2.bn.weight"]
    state["up9.weight"] = torch.zeros(2)
    state["bnout.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError) as caught:
        load(saved(tmp_path, state))
    for part in ("missing: up2.bn.weight", "unexpected: up9.weight", "bnout.bias is 7"):
        assert part in str(caught.value)


def test_another_network_is_refused_and_told_apart(tmp_path):
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).state_dict()
    with pytest.raises(WeightsError, match=r"first is 0\.weight.*seg_head\.weight"):
        load(saved(tmp_path, state))


def test_an_unknown_depth_is_refused_with_the_known_ones(tmp_path, network):
    state = {k: v for k, v in network.state_dict().items() if "layer2.1." not in k}
    with pytest.raises(WeightsError, match=r"2\+1\+2\+2 blocks; expected.*resnet34"):
        load(saved(tmp_path, state))


def test_weights_that_are_no_numbers_are_refused(tmp_path, network):
    state = {key: value.clone() for key, value in network.state_dict().items()}
    state["seg_head.bias"][0] = float("nan")
    with pytest.raises(WeightsError, match=r"seg_head\.bias"):
        load(saved(tmp_path, state))


def test_a_tensor_that_only_claims_to_be_large_takes_no_memory(tmp_path, network):
    state = {**network.state_dict(), "up1.bn.weight": torch.zeros(1).expand(10**12)}
    with pytest.raises(WeightsError, match=r"up1\.bn\.weight is 1000000000000"):
        load(saved(tmp_path, state))


def test_tensors_of_odd_kinds_are_refused(tmp_path, network):
    for odd in (
        torch.zeros(256, device="meta"),
        torch.zeros(256, dtype=torch.complex64),
        torch.zeros(256, dtype=torch.int64),
        torch.zeros(256).to_sparse(),
    ):
        with pytest.raises(WeightsError, match=r"up1\.bn\.weight"):
            load(saved(tmp_path, {**network.state_dict(), "up1.bn.weight": odd}))


class _Program:
    """Makes a folder when it is unpickled freely."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return (os.mkdir, (self.folder,))


class _Memory(_Program):
    """Takes ten gigabytes when it is unpickled, which ``weights_only`` allows."""

    def __reduce__(self):
        return (bytearray, (10**10,))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_file_that_would_fill_the_memory_is_not_opened(tmp_path, network, zipped):
    path = tmp_path / "m.pth"
    state = {"state": network.state_dict(), "more": _Memory("")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="fill the memory"):
        load(path)


def test_a_checkpoint_of_an_old_pytorch_is_read(tmp_path, network):
    path = tmp_path / "m.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    read = load(path).network.state_dict()
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


def test_a_compressed_archive_is_not_unpacked(tmp_path, network):
    path = saved(tmp_path, {**network.state_dict(), "more": torch.zeros(10**7)})
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in archive.namelist():
            out.writestr(name, archive.read(name))
    with pytest.raises(WeightsError, match="would unpack to"):
        load(packed)


def test_a_file_that_could_run_a_program_is_not_opened(tmp_path):
    path = saved(tmp_path, {"state": _Program(str(tmp_path / "executed"))})
    with pytest.raises(WeightsError, match="holds more than tensors"):
        load(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a model", b"PK\x03\x04 half a zip"])
def test_a_damaged_file_is_refused_and_leaves_nothing_behind(content, tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a PyTorch checkpoint"):
        add_model(path)
    assert list(user_models_dir().iterdir()) == []


def test_a_truncated_checkpoint_is_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="damaged or cut short"):
        load(checkpoint)


def test_a_file_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no weights"):
        load(saved(tmp_path, {"epoch": 3}))


def test_conversion_keeps_full_precision(checkpoint, network):
    state = load(add_model(checkpoint).folder).network.state_dict()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
