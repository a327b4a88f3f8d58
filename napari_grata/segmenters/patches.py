"""Patches of volumes that a model learns from: how large, cut where, and put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from .preprocessing import STRIDE, Prepared, Region
from .segmenter import _copy_on
from .volumes import Lie, Place, VolumeSegmenter

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .card import Card
    from .sliding_window import SlidingWindow

#: So often a patch lies about a structure, if one is near; nnU-Net trains with a third.
EXPECTED = 2 / 3
#: Halves of what the maps of a pass take that a step of learning takes.
LEARNING = 3


@dataclass(frozen=True)
class Patch(Prepared):
    """A part of a volume that holds a piece of a slice; `image` is (1, C, a, b, c).

    Attributes
    ----------
    place : tuple of slice
        What the patch takes of each axis of the plan's grid.
    lie : Lie or None
        How the slice lies there; None where it shows nothing.
    """

    place: Place = (slice(0), slice(0), slice(0))
    lie: Lie | None = None


def learning_bytes(segmenter: VolumeSegmenter, sides: Sequence[int]) -> int:
    """Memory that a step of learning on a patch of so many voxels takes.

    Half as much again as all maps of a pass, which are kept until the gradient is there.
    """
    folds = cast("SlidingWindow", segmenter.network).folds
    network, voxels = _copy_on(folds[0], torch.device("meta")), 0

    def note(_module: object, _given: object, output: object) -> None:
        nonlocal voxels
        voxels += output.numel() if isinstance(output, torch.Tensor) else 0

    for layer in network.modules():
        if any(True for _ in layer.parameters(recurse=False)):
            layer.register_forward_hook(note)
    network(torch.empty(1, segmenter.card.channels, *sides, device="meta"))
    return LEARNING * 4 * voxels * len(folds) // 2


def smaller(card: Card, sides: Sequence[int]) -> tuple[int, ...] | None:
    """Return a patch whose longest side is half as long; None where it would be too small."""
    planned = card.architecture == "nnunet"
    stages = card.arguments["network"]["strides"] if planned else [STRIDE]
    strides = np.prod([np.broadcast_to(stage, 3) for stage in stages], axis=0)
    halves = [side // 2 // least * least for side, least in zip(sides, strides, strict=True)]
    able = [n for n in range(3) if halves[n] >= 2 * strides[n]]
    if not able:
        return None
    longest = max(able, key=lambda axis: sides[axis])
    return tuple(int(halves[n]) if n == longest else int(sides[n]) for n in range(3))


def cut_patch(
    segmenter: VolumeSegmenter,
    scan: Scan,
    i: int,
    region: Region | None,
    sides: Sequence[int],
    chance: np.random.Generator,
    about: np.ndarray | None = None,
) -> Patch:
    """Cut a patch of a volume that holds a piece of slice `i`.

    Parameters
    ----------
    sides : sequence of int
        Along the plan's axes; less where the volume is smaller.
    chance : Generator
        Draws the place: `EXPECTED` of all patches lie about a structure that the source
        model sees, if one is near, the others anywhere.
    about : ndarray of int, shape (n, 3), optional
        Voxels of the plan's grid, on the slice, one of which it is to lie about.

    Returns
    -------
    Patch
        Of a slice outside what is not 0: one that shows nothing.
    """
    volume, lie = segmenter.volume(scan, i, region), segmenter.lie(scan, i, region)
    if lie.plane is None:
        return Patch(torch.zeros(1, len(volume.image), 1, 1, 1), lie.frame, i)
    grid = np.array(volume.image.shape[1:])
    size = np.minimum(sides, grid)
    low, high = np.zeros_like(grid), grid - size
    low[lie.across] = max(0, lie.plane - size[lie.across] + 1)
    high[lie.across] = min(high[lie.across], lie.plane)
    if about is None and chance.random() < EXPECTED:
        near: Any = [slice(None)] * 4
        near[lie.across + 1] = slice(low[lie.across], high[lie.across] + size[lie.across])
        logits, exclusive = volume.logits[tuple(near)], segmenter.card.activation == "softmax"
        about = (logits.argmax(0) > 0 if exclusive else logits.amax(0) >= 0).nonzero().numpy()
        about[:, lie.across] += low[lie.across]
    if about is not None and len(about):
        start = np.clip(about[chance.integers(len(about))] - size // 2, low, high)
    else:
        start = chance.integers(low, high, endpoint=True)
    place: Any = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
    image = volume.image[(slice(None), *place)][None].contiguous()
    return Patch(image, lie.frame, i, None, place, lie)


def with_patch(
    segmenter: VolumeSegmenter,
    probabilities: torch.Tensor,
    patch: Patch,
    scan: Scan,
    region: Region | None,
) -> np.ndarray:
    """Return a slice as a patch (S, a, b, c) says, and beyond it the source model."""
    logits = segmenter.volume(scan, patch.slice_index, region).logits
    over = patch.place, segmenter.as_logits(probabilities.detach().float().cpu())
    return segmenter.slice_of(logits, scan, patch.slice_index, region, over)
