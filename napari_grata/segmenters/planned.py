"""Scans read as a plan in a model's card says: for MONAI bundles and for networks of one's own.

The plan says how the axes are turned, which intensities the network reads, to which grid a scan is
resampled and in which windows it is predicted, each in the way of MONAI's transforms and inferers,
so that a bundle is read here as it is there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from pydantic.dataclasses import dataclass as checked
from torch import Tensor, nn

from .nnunet import STRICT, KeptPlan
from .sliding_window import Z_SCORES, SlidingWindow
from .volumes import Case, Place, VolumeSegmenter, sampled

if TYPE_CHECKING:
    from napari_grata.scans import Scan

#: Spacings that differ by less are the same, as in MONAI.
SAME_SPACING = 1e-3


@checked(frozen=True, config=STRICT)
class Intensities:
    """One change of intensities.

    Attributes
    ----------
    kind : {"min-max", "range", "percentiles", "z-score"}
        What becomes 0 and 1 (of a z-score: mean, and one deviation more).
    of : (float, float)
        The two intensities of a range, the two percentiles (0 to 100), or a known mean and
        deviation instead of the scan's own.
    to : (float, float)
        What 0 and 1 become then.
    clip : bool
        Whether what lies beyond ``to`` is cut off.
    channel_wise, nonzero : bool
        Whether each channel is measured by itself; whether voxels of 0 stay and do not count.
    """

    kind: Literal["min-max", "range", "percentiles", "z-score"]
    of: tuple[float, float] | None = None
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = False
    channel_wise: bool = False
    nonzero: bool = False

    def __post_init__(self) -> None:
        if self.of is None and self.kind in ("range", "percentiles"):
            raise ValueError(f"{self.kind} needs 'of', two numbers")

    def measured(self, image: Tensor) -> Tensor:
        """Return shift and span of each group of channels, shape (groups, 2)."""
        groups = image.flatten(1) if self.channel_wise else image.reshape(1, -1)
        return torch.tensor([self._ends(values) for values in groups], dtype=torch.float32)

    def _ends(self, values: Tensor) -> tuple[float, float]:
        if self.nonzero and bool(values.any()):
            values = values[values != 0]
        if self.kind == "z-score":
            mean, deviation = self.of or (float(values.mean()), float(values.std(correction=0)))
            return mean, deviation or 1.0
        low, high = self.of or (float(values.min()), float(values.max()))
        if self.kind == "percentiles":
            low, high = np.percentile(values.numpy(), (low, high))
        return float(low), float(high - low) or 1.0

    def applied(self, image: Tensor, measured: Tensor) -> Tensor:
        """Return an image (C, …) with these intensities."""
        shift, span = (one.view(-1, *(1,) * (image.ndim - 1)) for one in measured.unbind(1))
        low, high = self.to
        found = (image - shift) / span * (high - low) + low
        if self.clip:
            found = found.clamp(low, high)
        return torch.where(image == 0, image, found) if self.nonzero else found


@checked(frozen=True, config=STRICT)
class ReadingPlan(KeptPlan):
    """How a scan is read; axes are those of the network's input.

    Attributes
    ----------
    patch : tuple of int
        Sides of the window, two or three; ``(0, 0)``: a picture is read as a whole.
    orientation : str
        Where the axes run to, ``"RAS"``; "": as they lie in the file.
    before, steps : tuple of Intensities
        In turn, before the resampling and after it.
    spacing : tuple of float
        In mm; 0 keeps an axis as it is. The first voxels stay in place.
    size : tuple of int
        Sides to which a picture is stretched, in place of ``spacing``.
    nearest : bool
        Whether the answer comes back to the scan's grid without interpolation.
    overlap : float
        Of neighbouring windows, as a part of their size.
    gaussian : bool
        Whether voxels in the middle of a window count for more.
    """

    patch: tuple[int, ...]
    orientation: str = ""
    before: tuple[Intensities, ...] = ()
    steps: tuple[Intensities, ...] = ()
    spacing: tuple[float, ...] = ()
    size: tuple[int, ...] = ()
    nearest: bool = False
    overlap: float = 0.25
    gaussian: bool = False

    def __post_init__(self) -> None:
        sides = len(self.patch)
        if sides not in (2, 3) or min(self.patch) < (sides == 3) or not 0 <= self.overlap < 1:
            raise ValueError("patch has two or three sides, and overlap lies between 0 and 1")
        if {len(self.spacing), len(self.size)} - {0, sides}:
            raise ValueError("spacing and size have as many numbers as patch")
        axes = sorted("RASRAS"["RASLPI".index(a)] for a in self.orientation if a in "RASLPI")
        if self.orientation and (axes != ["A", "R", "S"] or sides == 2):
            raise ValueError("orientation names three axes, such as RAS")
        if not self.spacing:
            object.__setattr__(self, "spacing", (0.0,) * sides)

    # What `VolumeSegmenter` asks of a plan.
    configuration = "3d"
    mirror = ()

    @property
    def reader(self) -> str:
        """How the axes of a file lie before `transpose`."""
        return "NibabelIOWithReorient" if self.orientation else "NibabelIO"

    @property
    def transpose(self) -> tuple[int, ...]:
        """Axis, slowest first, that each of the plan's is; MONAI has the fastest first."""
        if self.orientation:
            return tuple(2 - "RASLPI".index(axis) % 3 for axis in self.orientation)
        return (0, 2, 1) if self.is_2d else (2, 1, 0)

    @property
    def ends(self) -> tuple[float, float]:
        """Which intensities, of all channels, become 0 and 1 before they are handed about."""
        last = (*self.before, *self.steps)[-1:]
        if last and last[0].kind == "z-score":
            return Z_SCORES
        low, high = last[0].to if last else (0.0, 1.0)
        return (low, high) if high > low else (low, low + 1.0)


class PlannedWindow(SlidingWindow):
    """A network with the windows of a plan, as MONAI lays and weighs them."""

    def __init__(self, network: nn.Module, plan: ReadingPlan) -> None:
        super().__init__([network], [max(1, n) for n in plan.patch], [plan.ends])
        self._whole, self._overlap = not all(plan.patch), plan.overlap
        lines = [torch.ones(side) for side in self.window]
        if plan.gaussian:
            places = [torch.arange(side) - (side - 1) / 2 for side in self.window]
            lines = [torch.exp(-0.5 * (x / (0.125 * len(x))) ** 2) for x in places]
        weights = functools.reduce(lambda one, other: one[..., None] * other, lines)
        self.weights = weights.clamp(min=max(float(weights.min()), 1e-3))

    def starts(self, size: int, window: int) -> list[int]:
        """Return where the windows of one axis start: the last one ends with the image."""
        step = window if size == window else max(1, int(window * (1 - self._overlap)))
        count = math.ceil((size - window) / step) + 1
        return [min(n * step, size - window) for n in range(count)]

    def forward(self, images: Tensor, mirror: Sequence[int] = ()) -> Tensor:
        """Return logits (B, S, …) of images (B, C, …)."""
        if self._whole:
            return self._mirrored(images * self.scale + self.offset, mirror)
        return super().forward(images, mirror)


class _Line(NamedTuple):
    """How the voxels of a grid lie on `sides` of the scan, along one axis."""

    sides: int
    grid: int
    step: float
    shift: float
    back: float

    def there(self) -> Tensor:
        """Return where on the scan the grid's voxels lie."""
        return (torch.arange(self.grid, dtype=torch.float64) + self.shift) * self.step - self.back

    def here(self) -> Tensor:
        """Return where on the grid the scan's voxels lie."""
        return (torch.arange(self.sides, dtype=torch.float64) + self.back) / self.step - self.shift


@dataclass(frozen=True)
class PlannedCase(Case):
    """What is known of a volume.

    Attributes
    ----------
    middle : bool
        Whether the middle stays in place when it is resampled, and not the first voxel.
    measured : tuple of Tensor or None
        What each change of its intensities measured, if that is asked.
    """

    middle: bool = False
    measured: tuple[Tensor, ...] | None = None


class PlannedSegmenter(VolumeSegmenter):
    """A model whose card says how scans are read, ready to predict; see `Segmenter`."""

    plan_class = ReadingPlan

    # -- how the scan lies on the plan's axes ------------------------------------------------

    def _axes(self, scan: Scan) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        if self.card.dimensions == 2:
            return (0, 2, 1), (False, False, False)  # of pictures too the columns come first
        order, flips = super()._axes(scan)
        against = [axis in "LPI" for axis in self.plan.orientation] or [False] * 3
        return order, tuple(one != other for one, other in zip(flips, against, strict=True))

    def _grids(self, scan: Scan) -> tuple[tuple[float, ...], tuple[float, ...]]:
        current, target = super()._grids(scan)
        each = zip(current, target, strict=True)
        return current, tuple(a if b <= 0 or abs(a - b) <= SAME_SPACING else b for a, b in each)

    def _new_shape(self, scan: Scan, shape: Sequence[int]) -> tuple[int, ...]:
        if self.plan.size:
            return (*shape[: 3 - len(self.plan.size)], *self.plan.size)
        each = zip(shape, *self._grids(scan), strict=True)
        return tuple(
            n if have == want else round((n - 1) * have / want) + 1 for n, have, want in each
        )

    def _lines(
        self, scan: Scan, sides: Sequence[int], grid: Sequence[int], middle: bool
    ) -> list[_Line]:
        """Return how the voxels of the plan's grid lie on the scan's, along each axis."""
        if self.plan.size:
            return [_Line(n, g, n / g, 0.5, 0.5) for n, g in zip(sides, grid, strict=True)]
        return [
            _Line(n, g, 1.0 if a == b else b / a, -g / 2 * middle, -n / 2 * middle)
            for n, g, a, b in zip(sides, grid, *self._grids(scan), strict=True)
        ]

    # -- what the network reads --------------------------------------------------------------

    def _look(self, scan: Scan, number: int) -> PlannedCase:
        slices = scan.case_slices(number)
        rows, columns = scan.slice_shape(slices[0])
        measured, middle, affine = None, False, scan.geometry.display_affine
        order, flips = self._axes(scan)
        if affine is not None and not self.plan.is_2d:
            # MONAI keeps the first voxel in place, if rounding leaves it the corner of an oblique
            # volume, else the middle.
            turned = affine[:3, order] * np.where(flips, -1, 1)
            shear = np.triu(np.linalg.cholesky(turned.T @ turned).T, 1)
            sides = np.array([len(slices), rows, columns])[list(order)]
            reach = np.minimum(shear, 0) @ (sides - 1)
            middle = not np.allclose(reach / self._grids(scan)[1], 0)
        steps = (*self.plan.before, *self.plan.steps)
        if not self.plan.is_2d and any(
            one.of is None or one.kind == "percentiles" for one in steps
        ):
            values = np.stack([self._plane(scan, i) for i in slices], axis=1)
            values = self._turned(scan, values)
            grid = self._new_shape(scan, values.shape[1:])
            lines = self._lines(scan, values.shape[1:], grid, middle)
            measured = self._changed(values, lines, None)[1]
        box = slice(0, len(slices)), slice(0, rows), slice(0, columns)
        return PlannedCase(box, middle, measured)

    def _read(
        self, scan: Scan, case: PlannedCase, where: Place, values: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        lines = self._lines(scan, values.shape[1:], shape, case.middle)
        return self._changed(values, lines, case.measured)[0].numpy()

    def _changed(
        self, values: np.ndarray, lines: Sequence[_Line], measured: Sequence[Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return what the network reads of (C, a, b, c), and what was measured on the way.

        A part of a volume is read with what was measured on the whole, a slice as a picture of
        its own.
        """
        image = torch.from_numpy(np.ascontiguousarray(values, np.float32))
        known = itertools.repeat(None) if measured is None else iter(measured)
        found: list[Tensor] = []
        for number, steps in enumerate((self.plan.before, self.plan.steps)):
            for axis, line in enumerate(lines if number else (), start=1):
                image = sampled(image, axis, line.there())
            for one in steps:
                ends = next(known)
                found.append(one.measured(image) if ends is None else ends)
                image = one.applied(image, found[-1])
        return image, tuple(found)

    # -- and back ----------------------------------------------------------------------------

    def _ways(self, scan: Scan, i: int, sides: Sequence[int], grid: Sequence[int]) -> list[Tensor]:
        lines = self._lines(scan, sides, grid, self._case(scan, i).middle)
        return [line.here() for line in lines]

    def _back(self, maps: Tensor, ways: Sequence[Tensor], *, logits: bool = False) -> Tensor:
        maps = self._activated(maps) if logits else maps
        for axis, way in enumerate(ways, start=1):
            maps = sampled(maps, axis, way, self.plan.nearest)
        return maps
