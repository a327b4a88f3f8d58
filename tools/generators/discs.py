"""Photographs of a bright disc, and a model that finds it if it has its usual side and place."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Card, Structure
from napari_grata.segmenters.extent import Extent

USUAL = (0.46, 0.5, 0.54)
EYE = Card(
    name="eye",
    title="Eye",
    structures=(Structure("disc", "#56B4E9", 1),),
    size=(64, 64),
    extents=(
        Extent("disc", 50, side=(0.5, 0.6, 0.7), row=USUAL, column=USUAL, hint="Draw a region."),
    ),
)


class Bright(nn.Module):
    """Finds what is brighter than the middle of its input; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        nn.init.constant_(self.norm.running_mean, 0.5)
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 40 * self.norm(images.mean(1, keepdim=True))


def photograph(
    shape: tuple[int, int], centre: tuple[float, float], side: float, seed: int = 0
) -> Scan:
    """A bright disc of a side (root of its area) on a darker, uneven ground."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    picture = np.random.default_rng(seed).integers(30, 60, (*shape, 3))
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < side**2 / np.pi
    picture[inside] += 180
    return scan_from_array(picture.astype(np.uint8), name="p", rgb=True)
