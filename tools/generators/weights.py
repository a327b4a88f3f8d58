"""Weights: right ones come back as they were, damaged and hostile ones are refused or finite."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import resource
import struct
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from napari_grata.scans import scan_from_array
from napari_grata.segmenters import Card, ResUNet, Structure, load_segmenter, register_network
from napari_grata.segmenters.card import CARD_FILE, WEIGHTS_FILE, write_card
from napari_grata.segmenters.loaders import loader_for

from . import damaged, expect, must_be_taken

MOST_BYTES = 1.5e9


def _network(outputs: int, channels: int) -> nn.Module:
    layers = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*layers, nn.Conv2d(4, outputs, 1))


register_network("fuzz", _network)
CARD = Card(
    name="made-up",
    title="Made up",
    structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
    architecture="fuzz",
    size=(64, 64),
)
_PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)


def trial(random: Random, folder: Path) -> None:
    """Write one model, right or wrong, load it and predict a picture with it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good, path, state = (
        _checkpoint(random, folder) if random.random() < 0.3 else _folder(random, folder)
    )
    try:
        with must_be_taken(good):
            segmenter = load_segmenter(path, "cpu")
        loaded = segmenter.network.state_dict()
        expect(all(bool(t.isfinite().all()) for t in loaded.values()), "weights are not finite")
        if good:
            for key, tensor in state.items():
                expect(torch.equal(loaded[key].float(), tensor.float()), f"{key} is another")
        (found,) = segmenter.predict(scan_from_array(_PICTURE, name="p", rgb=True))
        expect(np.isfinite(found.probabilities).all(), "probabilities are not finite")
        expect(set(np.unique(found.label_map)) <= {0, 1, 2}, "labels that no structure has")
    finally:
        taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        expect(taken < MOST_BYTES, f"took {taken / 1e9:.1f} GB")
        expect(not (folder / "executed").exists(), "a program ran")


# -- folders ---------------------------------------------------------------------------------


def _folder(random: Random, folder: Path) -> tuple[bool, Path, dict[str, torch.Tensor]]:
    torch.manual_seed(random.getrandbits(32))
    state = dict(_network(2, 3).state_dict())
    how = random.choice(("good", "good", "value", "value", "tensors", "bytes", "bytes", "header"))
    floats = [key for key, tensor in state.items() if tensor.is_floating_point()]
    if how == "good":
        kind = random.choice((torch.float16, torch.bfloat16, torch.float32, torch.float64))
        state.update({key: state[key].to(kind) for key in floats})
    elif how == "value":
        key = random.choice(floats)
        value = random.choice((float("nan"), float("inf"), -float("inf"), 3e38, -1e30, 1e-45))
        state[key] = state[key].clone()
        state[key].view(-1)[random.randrange(state[key].numel())] = value
    elif how == "tensors":
        state = _other_tensors(random, state)
    content = save({key: tensor.contiguous() for key, tensor in state.items()})
    if how == "bytes":
        content = damaged(random, content)
    elif how == "header":
        content = _header(random)
    (folder / WEIGHTS_FILE).write_bytes(content)
    # Most of the time with the digest that is right: as any program would write it.
    mended = how not in ("bytes", "header") or random.random() < 0.8
    digest = hashlib.sha256(content if mended else b"").hexdigest()
    write_card(folder, replace(CARD, weights_sha256=digest))
    return how == "good", random.choice((folder, folder / CARD_FILE, folder / WEIGHTS_FILE)), state


def _other_tensors(random: Random, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    key = random.choice(list(state))
    changed = dict(state)
    tensor = changed.pop(key)
    odd = random.choice(
        (
            None,
            torch.zeros(0),
            torch.zeros((1, *tensor.shape)),
            tensor.to(torch.int8),
            tensor.to(torch.bool),
            torch.zeros(7, 7),
        )
    )
    if odd is not None:
        changed[random.choice((key, key, "another"))] = odd
    return changed


def _header(random: Random) -> bytes:
    """A safetensors file whose header claims what is not there."""
    entry = {
        "dtype": random.choice(("F32", "F16", "I64", "F8_E4M3", "XX", 3)),
        "shape": random.choice(([2**40], [0], [2**31, 2**31], [-1], [4], [[1]], "x", [])),
        "data_offsets": random.choice(([0, 16], [0, 2**62], [16, 0], [0], [-4, 4], "x")),
    }
    text = json.dumps({random.choice(("0.weight", "x" * 10_000, "__metadata__")): entry}).encode()
    length = random.choice((len(text), len(text), 2**63, 0, 7, 10**8))
    return struct.pack("<Q", length) + text + bytes(random.choice((0, 16, 999)))


# -- published checkpoints -------------------------------------------------------------------


@functools.cache
def _published() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(ResUNet("resnet18", 2).state_dict())


class _Program:
    def __init__(self, function: Any, argument: Any) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


def _checkpoint(random: Random, folder: Path) -> tuple[bool, Path, dict[str, torch.Tensor]]:
    path = folder / random.choice(("last-Res_Unet.pth", "a.pt", "checkpoint", "ä ö.pth"))
    # A whole network has 60 MB: few trials write one.
    whole = random.random() < 0.04
    state: dict[str, Any] = dict(_published()) if whole else dict(list(_published().items())[:3])
    key = random.choice(list(state))
    how = random.choice(("good", "value", "expand", "odd", "bytes", "pickle", "nest"))
    good = how == "good" and whole
    if how == "value":
        state[key] = state[key].clone().float()
        state[key].view(-1)[0] = random.choice((float("nan"), float("inf"), 3e38))
    elif how == "expand":
        shape = random.choice(((10**9,), (10**6, 10**6), (2**62,), (1,) * 60))
        state[random.choice((key, "extra"))] = torch.zeros(1).expand(shape)
    elif how == "odd":
        state[key] = random.choice(
            (
                torch.zeros(3, device="meta"),
                torch.zeros(3, dtype=torch.complex64),
                torch.zeros(3).to_sparse(),
                torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
                np.zeros(3),
                "text",
                None,
                3,
            )
        )
    elif how == "pickle":
        calls = ((os.mkdir, str(folder / "executed")), (torch.zeros, 10**10), (bytearray, 10**10))
        state[key] = _Program(*random.choice(calls))
    elif how == "nest":
        nested: Any = state
        for level in range(random.choice((1, 5, 50))):
            nested = {str(level): nested, "again": nested}
        state = {"model": nested}
    zipped = random.random() < 0.7
    if random.random() < 0.1:
        path.write_bytes(pickle.dumps(state))
        good = False
    else:
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
    if how == "bytes":
        path.write_bytes(damaged(random, path.read_bytes()))
    expect(loader_for(path).kind == "published checkpoint", "a file that no loader takes")
    return good, path, state
