"""What a scan looks like from inside the source model: statistics in front of each layer.

Batch normalisation keeps mean and variance of what came in while the model was trained. One pass
of a slice through the unchanged source model shows what comes in now.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .normalisation import batch_statistics, is_blank

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .plan import Region


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and variance per channel in front of one layer.

    Attributes
    ----------
    mean, variance : ndarray of float64, shape (C,)
        Source: as trained, with ε in the variance. Now: over one slice's pixels.
    """

    mean: np.ndarray
    variance: np.ndarray


def source_statistics(network: nn.Module) -> dict[str, LayerStatistics]:
    """Return the statistics that a network's layers kept from training, by layer name, in order.

    Layers that kept none are left out; the variance has the layer's ε added.
    """
    return {
        name: LayerStatistics(
            _numbers(module.running_mean),
            _numbers(module.running_var) + module.eps,
        )
        for name, module in _layers(network).items()
        if module.running_mean is not None and module.running_var is not None
    }


def slice_statistics(
    segmenter: Segmenter,
    scan: Scan,
    index: int,
    region: Region | None = None,
    frame: tuple[int, int] | None = None,
) -> dict[str, LayerStatistics] | None:
    """Pass a slice through the source model and return what stood in front of each layer.

    One forward pass without gradients; the model is not changed, and its hooks hear the calling
    thread only.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    index : int
        Flat slice index.
    region : (row0, col0, row1, col1), optional
    frame : (int, int), optional
        Put the slice on a black ground into a frame of this size, see `framed`; not with a region.

    Returns
    -------
    dict of str to LayerStatistics, or None
        By layer name; None for a slice of one single value. A map of a single pixel has no
        spread; its layer is left out.
    """
    image = segmenter.prepare(scan, index, region).image
    if is_blank(image):
        return None
    return _pass(segmenter, image if frame is None or region is not None else framed(image, frame))


def framed(image: torch.Tensor, frame: tuple[int, int]) -> torch.Tensor:
    """Give an image on a black ground as much of it as the source centre's have.

    How much air there is around a head decides the mean of every layer, and is no property of
    scanner or patient. An image whose border is not mostly black is returned as it is.

    Parameters
    ----------
    image : Tensor, shape (1, C, h, w)
    frame : (int, int)
        Rows and columns, multiples of 32; larger where what is shown needs more.
    """
    shown = image[0].amax(0) > 0
    border = torch.cat([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
    if border.float().mean() > 0.5:
        return image
    rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
    if not len(rows):
        return image
    part = image[..., rows[0, 0] : rows[-1, 0] + 1, columns[0, 0] : columns[-1, 0] + 1]
    height, width = part.shape[2:]
    out = image.new_zeros(
        *image.shape[:2],
        *(max(f, -(-n // 32) * 32) for f, n in zip(frame, (height, width), strict=True)),
    )
    top, left = (out.shape[2] - height) // 2, (out.shape[3] - width) // 2
    out[..., top : top + height, left : left + width] = part
    return out


def _pass(segmenter: Segmenter, image: torch.Tensor) -> dict[str, LayerStatistics]:
    from napari_grata.segmenters.devices import is_out_of_memory

    try:
        with torch.inference_mode(), _listening(segmenter.network) as heard:
            segmenter.network(image)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or segmenter.device.type == "cpu":
            raise
        # Rare and short: the segmenter itself stays on its device for the work that follows.
        return _pass(segmenter.to("cpu"), image.cpu())
    found = {}
    for name, passes in heard.items():
        means = np.mean([_numbers(mean) for mean, _ in passes], axis=0)
        variances = np.mean([_numbers(var) for _, var in passes], axis=0)
        found[name] = LayerStatistics(means, variances)
    return found


def _numbers(values: torch.Tensor) -> np.ndarray:
    """Return numbers as float64, which Apple's graphics processors do not know."""
    return values.detach().float().cpu().numpy().astype(np.float64)


@contextmanager
def _listening(network: nn.Module) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Within, note mean and variance of what goes into each layer with source statistics."""
    heard: dict[str, list[tuple[Any, Any]]] = {}
    here = threading.get_ident()

    def hear(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        # Another thread may be predicting with the same network.
        if threading.get_ident() == here and x.numel() > x.shape[1]:
            heard.setdefault(name, []).append(batch_statistics(x))

    hooks = [
        module.register_forward_pre_hook(partial(hear, name))
        for name, module in _layers(network).items()
        if module.running_mean is not None
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _layers(network: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)
    }
