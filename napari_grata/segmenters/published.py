"""The published checkpoints of GraTa and VPTTA, recognised by their tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from napari_grata.scans.files import sha256_of

from .card import CARD_FILE, COLOURS, WEIGHTS_FILE, Card, Structure
from .checkpoint import WeightsError, read_checkpoint, state_dict
from .factory import build_network
from .loaders import LoadedModel, Loader, fill_network, register_loader

if TYPE_CHECKING:
    import torch

# Blocks of the four stages, and whether a block has a third convolution.
_ENCODERS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
}
_HEADS = {
    "reconstruction": ("recon",),
    "super-resolution": ("supres",),
    "denoising": ("denoise",),
    "rotation": ("rotate_head",),
}
# ImageNet's classifier comes along in the file; the segmenter never calls it.
_CLASSIFIER = ("res.fc.weight", "res.fc.bias")


@register_loader
class PublishedCheckpoint(Loader):
    """A ``.pth`` file of GraTa or VPTTA, recognised by its tensors, never executed.

    These files are state dicts of a ResUNet (Chen et al., AAAI 2025 and CVPR 2024) that finds
    optic disc and cup in fundus photographs of 512 × 512 pixels, each brought to [0, 1] by its
    minimum and maximum; perhaps nested (``{"model_state_dict": …}``), with or without the
    ``module.`` that parallel training puts in front of the names. A file says nothing of this
    itself: encoder, heads and outputs are read from the shapes, the rest is what the
    publications say.
    """

    kind = "published checkpoint"

    def takes(self, path: Path) -> bool:
        return os.path.isfile(path)

    def load(self, path: Path) -> LoadedModel:
        state = state_dict(read_checkpoint(path), path)
        card = _describe(state, path)
        network = build_network(card)
        for key in _CLASSIFIER:
            if key not in state and key in network.state_dict():
                state[key] = network.state_dict()[key].clone().zero_()
        try:
            fill_network(network, state, origin=str(path))
        except WeightsError as error:
            raise WeightsError(
                f"{error} It looks like a ResUNet of GraTa or VPTTA, but not quite: was it saved "
                "by another version of that code?"
            ) from None
        return LoadedModel(card, network)


def _describe(state: Mapping[str, torch.Tensor], path: Path) -> Card:
    needed = ["res.conv1.weight", "up1.bn.weight", "up5.weight", "seg_head.weight"]
    missing = [key for key in needed if key not in state]
    if missing:
        raise WeightsError(
            f"{path} is not a ResUNet of GraTa or VPTTA: it has {len(state)} tensors (the first "
            f"is {next(iter(state))[:200]}), but not {', '.join(missing)}. Other networks can be "
            f"added as a folder with {CARD_FILE} and {WEIGHTS_FILE}."
        )
    encoder = _encoder(state, path)
    first, last = state["res.conv1.weight"].shape, state["seg_head.weight"].shape
    outputs, channels = (last[0], first[1]) if len(first) == len(last) == 4 else (0, 0)
    if not 1 <= outputs <= len(COLOURS) or channels not in (1, 3):
        raise WeightsError(
            f"{path} has {channels} input channels and {outputs} outputs; expected 1 or 3, and 1 "
            f"to {len(COLOURS)}."
        )
    heads = [
        name for name, prefixes in _HEADS.items() if any(key.startswith(prefixes) for key in state)
    ]
    disc_and_cup = outputs == 2
    # Files are called last-Res_Unet.pth in every centre's folder, so the content names it too.
    digest = sha256_of(path)
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "checkpoint"
    return Card(
        name=f"{stem[:50].strip('-')}-{digest[:6]}",
        title=f"Fundus: disc and cup ({path.stem})" if disc_and_cup else path.stem,
        task="optic disc and cup in fundus photographs" if disc_and_cup else "",
        structures=_structures(outputs),
        activation="sigmoid",
        architecture="resunet",
        arguments={"encoder": encoder, **({"heads": heads} if heads else {})},
        channels=3 if channels == 3 else 1,
        size=(512, 512),
        normalisation={"kind": "min-max"},
        modality="fundus",
        dimensions=2,
        source_centre="not stated in the file",
        training_data=({"name": "not stated in the file", "terms": "not stated in the file"},),
        weights_sha256=digest,
        intended_use=(
            "Converted from a published checkpoint of GraTa or VPTTA. Research and education only, "
            "unless its authors say otherwise."
        ),
        limits=(
            "Trained on crops around the optic disc of 512 × 512 pixels. What the outputs mean is "
            "taken from the publication, not from the file: check it on a scan you know."
        ),
        licence="not stated in the file; see where it was published",
    )


def _encoder(state: Mapping[str, torch.Tensor], path: Path) -> str:
    blocks: list[int] = []
    for stage in range(1, 5):
        pattern = re.compile(rf"res\.layer{stage}\.(\d+)\.")
        numbers = {match[1] for match in map(pattern.match, state) if match}
        blocks.append(len(numbers))
    bottleneck = "res.layer1.0.conv3.weight" in state
    encoder = _ENCODERS.get((tuple(blocks), bottleneck))
    if encoder is None:
        raise WeightsError(
            f"{path} has an encoder of {'+'.join(map(str, blocks))} blocks; expected that of "
            f"{', '.join(_ENCODERS.values())}."
        )
    return encoder


def _structures(outputs: int) -> tuple[Structure, ...]:
    if outputs == 2:
        return (Structure("disc", COLOURS[0], 1), Structure("cup", COLOURS[1], 2, "disc"))
    return tuple(Structure(f"structure {n + 1}", COLOURS[n], n + 1) for n in range(outputs))
