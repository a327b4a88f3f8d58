"""Where the samples of a training image lie: random views of photographs and of volumes.

Parameters are drawn in one function (on the CPU, from one generator, so that every device gives
the same views) and applied in another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as fn


@dataclass(frozen=True)
class GeometryRange:
    """How far a random view may go.

    Parameters
    ----------
    scale : (float, float)
        Magnification, drawn log-uniformly; below 1 the structure gets smaller.
    stretch : float
        Further log-ratio between height and width.
    rotation : float
        In-plane rotation in degrees, either way.
    tilt : float
        Out-of-plane rotation in degrees, either way (volumes only).
    shift : float
        Translation as a part of the frame's side, either way.
    elastic : float
        Standard deviation of the elastic displacement as a part of the frame's side.
    flip_rows, flip_columns : bool
        Whether mirror images occur.
    share : float
        Part of the images that is moved at all, the mirror images aside.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    stretch: float = 0.0
    rotation: float = 0.0
    tilt: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    flip_rows: bool = False
    flip_columns: bool = False
    share: float = 1.0

    def halved(self) -> GeometryRange:
        """Half as far in everything but the mirror images."""
        low, high = self.scale
        return replace(
            self,
            scale=(math.sqrt(low), math.sqrt(high)),
            stretch=self.stretch / 2,
            rotation=self.rotation / 2,
            tilt=self.tilt / 2,
            shift=self.shift / 2,
            elastic=self.elastic / 2,
        )


@dataclass(frozen=True)
class Views:
    """Drawn parameters of B views: ``linear`` (B, 3, 3) maps frame axes (depth, row, column) to
    source axes, ``shift`` (B, 2) in parts of the frame, ``elastic`` (B, 2, h, w) likewise."""

    linear: Tensor
    shift: Tensor
    elastic: Tensor


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in [low, high) from a CPU generator."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def draw_views(count: int, limits: GeometryRange, generator: Generator) -> Views:
    """Draw the parameters of ``count`` views."""
    moved = torch.ones(count)
    if limits.share < 1:
        moved = (torch.rand(count, generator=generator) < limits.share).float()
    low, high = (math.log(s) for s in limits.scale)
    size = torch.exp(-uniform(generator, low, high, count) * moved)
    ratio = torch.exp(uniform(generator, -limits.stretch, limits.stretch, count) * moved / 2)
    turns = [
        torch.deg2rad(uniform(generator, -a, a, count)) * moved
        for a in (limits.rotation, limits.tilt, limits.tilt / 2)
    ]
    linear = _rotations(*turns)
    flips = torch.where(torch.rand(count, 2, generator=generator) < 0.5, -1.0, 1.0)
    if not limits.flip_rows:
        flips[:, 0] = 1
    if not limits.flip_columns:
        flips[:, 1] = 1
    scale = torch.stack([size, size * ratio * flips[:, 0], size / ratio * flips[:, 1]], 1)
    cells = int(torch.randint(3, 7, (), generator=generator))
    coarse = torch.randn(count, 2, cells, cells, generator=generator) * limits.elastic
    return Views(
        linear=linear * scale[:, None, :],
        shift=uniform(generator, -limits.shift, limits.shift, count, 2) * moved[:, None],
        elastic=coarse * moved[:, None, None, None],
    )


def identity_views(count: int) -> Views:
    """Views that change nothing."""
    return Views(
        torch.eye(3).repeat(count, 1, 1), torch.zeros(count, 2), torch.zeros(count, 2, 3, 3)
    )


def _rotations(in_plane: Tensor, about_columns: Tensor, about_rows: Tensor) -> Tensor:
    """Product of the rotations of the plane (row, column), (depth, row) and (depth, column)."""
    product = torch.eye(3).repeat(len(in_plane), 1, 1)
    for (a, b), angle in zip(
        ((1, 2), (0, 1), (0, 2)), (in_plane, about_columns, about_rows), strict=True
    ):
        turn = torch.eye(3).repeat(len(angle), 1, 1)
        turn[:, a, a] = turn[:, b, b] = torch.cos(angle)
        turn[:, a, b], turn[:, b, a] = -torch.sin(angle), torch.sin(angle)
        product = product @ turn
    return product


def frame_points(views: Views, size: tuple[int, int]) -> Tensor:
    """Where the frame's pixels lie in the source, in pixels of the frame, from its centre.

    Returns
    -------
    tensor of shape (B, H, W, 3)
        (depth, row, column); depth is 0 unless the view is tilted.
    """
    rows = torch.arange(size[0]) - (size[0] - 1) / 2
    columns = torch.arange(size[1]) - (size[1] - 1) / 2
    plane = torch.stack(torch.meshgrid(torch.zeros(1), rows, columns, indexing="ij"), -1)[0]
    side = float(max(size))
    moved = fn.interpolate(views.elastic, size=size, mode="bicubic", align_corners=True)
    moved = (moved + views.shift[:, :, None, None]).permute(0, 2, 3, 1) * side
    points = plane[None].repeat(len(moved), 1, 1, 1)
    points[..., 1:] += moved
    return torch.einsum("bij,bhwj->bhwi", views.linear, points)
