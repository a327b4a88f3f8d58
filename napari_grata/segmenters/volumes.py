"""Models that read volumes, or slices of them, on a grid of their own, as a plan in a card says.

The axes are turned as the plan says, what its kind of model reads is brought to the plan's grid,
predicted in windows, and brought back. A 2-D model whose slices are those of the scan reads slice
by slice, so that it adapts like any other; all others predict whole volumes, and those that read
volumes adapt to patches of them (`patches`).
"""

from __future__ import annotations

import math
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from .devices import free_bytes, size_words
from .nnunet import KeptPlan
from .preprocessing import (
    LARGEST,
    MOST_ENLARGED,
    Frame,
    PredictionError,
    Prepared,
    Region,
    Turn,
    clip_region,
    placed,
    with_channels,
)
from .segmenter import Prediction, Segmenter, memory_in_words

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .sliding_window import SlidingWindow

#: Of larger answers to a volume, in bytes as float32, half precision is kept, as by nnU-Net.
HALF_BEYOND = 2**30
#: Of so many windows' depth there is room for answers in float32 while they are stitched.
STITCHING = 3
#: Probabilities are brought back as logits; beyond this they are as good as certain.
_CERTAIN = 1e-12
_LARGEST_HALF = 6e4


Place = tuple[slice, slice, slice]
"""A part of a volume, along its three axes."""
Over = tuple[Place, torch.Tensor]
"""Where on a volume's grid logits (S, a, b, c) lie over others, and they themselves."""


@dataclass(frozen=True)
class Case:
    """What has to be known of a whole volume (picture) before any slice of it is read.

    Attributes
    ----------
    box : tuple of slice
        Planes, rows and columns, as displayed, that are read.
    """

    box: Place


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as the network reads it, and what the source model says of it; both on the CPU.

    Attributes
    ----------
    image : Tensor, shape (C, a, b, c)
        On the plan's grid, with its axes.
    logits : Tensor, shape (S, a, b, c)
        In half precision where they are many, see `HALF_BEYOND`.
    """

    image: torch.Tensor
    logits: torch.Tensor


class Lie(NamedTuple):
    """How a slice lies on a grid of its volume, with the plan's axes.

    Attributes
    ----------
    frame : Frame
        In its plane.
    sides : tuple of int
        Of the grid.
    across : int
        The axis of the grid that runs through the slices.
    plane : int or None
        Where on it this slice lies; None where it is outside what is not 0.
    """

    frame: Frame
    sides: tuple[int, ...]
    across: int
    plane: int | None


@dataclass(frozen=True)
class PlacedFrame(Frame):
    """A frame that knows where on the input the part's rows and columns lie."""

    ways: tuple[torch.Tensor, ...] = field(default=(), compare=False)


class VolumeSegmenter(Segmenter, ABC):
    """A model with a plan, ready to predict; see `Segmenter`.

    Kinds of models differ in what they read of a volume, and how their answer is brought back.
    """

    plan_class: type[KeptPlan]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plan: Any = self.plan_class.from_arguments(self.card.arguments["plan"])
        # One volume of a scan at a time: the next few slices are of the same.
        self._cases: weakref.WeakKeyDictionary[Scan, tuple[int, Any]]
        self._cases = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        # For as long as someone holds it.
        self._volumes: weakref.WeakValueDictionary[tuple[Any, ...], Volume]
        self._volumes = weakref.WeakValueDictionary()
        self._reading = threading.Lock()

    # -- what kinds of models differ in ------------------------------------------------------

    @abstractmethod
    def _look(self, scan: Scan, number: int) -> Case:
        """Return what has to be known of a whole case."""

    @abstractmethod
    def _new_shape(self, scan: Scan, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the sides of the plan's grid over a volume of this shape, turned already."""

    @abstractmethod
    def _read(
        self, scan: Scan, case: Any, where: Place, values: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        """Return what the network reads of (C, a, b, c), turned already, on a grid of this shape.

        ``where`` says which part of the case that is, as displayed.
        """

    @abstractmethod
    def _ways(
        self, scan: Scan, i: int, sides: Sequence[int], grid: Sequence[int]
    ) -> list[torch.Tensor]:
        """Return for each axis where on the grid the voxels of slice `i`'s volume lie."""

    @abstractmethod
    def _back(
        self, maps: torch.Tensor, ways: Sequence[torch.Tensor], *, logits: bool = False
    ) -> torch.Tensor:
        """Bring probabilities (S, …), or logits, to these places along each axis: probabilities."""

    # -- how the scan lies on the plan's axes ------------------------------------------------

    def _axes(self, scan: Scan) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return for each axis of the plan the displayed one (0 planes, 1 rows, 2 columns).

        And whether the plan's runs against it. nnU-Net takes the array of a file as its reader
        gives it: the last axis of a NIfTI file first.
        """
        geometry = scan.geometry
        if self.card.dimensions == 2:
            return (0, 1, 2), (False, False, False)
        if geometry.affine is None:
            # An array without a place in the world lies as it does in memory.
            return self.plan.transpose, (False, False, False)
        place = {axis: (n, flip) for n, (axis, flip) in enumerate(geometry.in_space)}
        stored: list[tuple[int, bool]] = [(axis, False) for axis in (2, 1, 0)]
        if self.plan.reader == "NibabelIOWithReorient":
            from nibabel.orientations import io_orientation

            found = {
                int(w): (a, sign < 0) for a, (w, sign) in enumerate(io_orientation(geometry.affine))
            }
            stored = [found[world] for world in (2, 1, 0)]
        turned = [stored[axis] for axis in self.plan.transpose]
        order = tuple(place[axis][0] for axis, _ in turned)
        flips = tuple(place[axis][1] != against for axis, against in turned)
        return order, flips

    def _by_slices(self, scan: Scan) -> bool:
        """Whether the model's slices are those that the scan shows."""
        return self.plan.is_2d and self._axes(scan)[0][0] == 0

    def _lie(self, scan: Scan, i: int, region: Region | None) -> Lie:
        """Say how slice `i` lies in the part of its volume that is read, not yet resampled."""
        box = self._case(scan, i).box
        row0, column0, row1, column1 = clip_region(region, *scan.slice_shape(i))
        rows = max(row0, box[1].start), min(row1, box[1].stop)
        columns = max(column0, box[2].start), min(column1, box[2].stop)
        plane = i - scan.case_slices(scan.case_of(i)).start - box[0].start
        planes = box[0].stop - box[0].start
        outside = not 0 <= plane < planes
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            rows, columns, outside = (row0, row1), (column0, column1), True
        order, flips = self._axes(scan)
        across = order.index(0)
        first, second = (axis for axis in range(3) if axis != across)
        shown = planes, rows[1] - rows[0], columns[1] - columns[0]
        frame = Frame(
            scan.slice_shape(i),
            (rows[0], columns[0], rows[1], columns[1]),
            (shown[order[first]], shown[order[second]]),
            (0, 0),
            (shown[order[first]], shown[order[second]]),
            Turn(order[first] == 2, flips[first], flips[second]),
        )
        plane = planes - 1 - plane if flips[across] else plane
        sides = tuple(shown[axis] for axis in order)
        return Lie(frame, sides, across, None if outside else plane)

    def lie(self, scan: Scan, i: int, region: Region | None = None) -> Lie:
        """Say how slice `i` lies on the grid of its volume."""
        own, grid = self._lie(scan, i, region), self.volume(scan, i, region).image.shape[1:]
        first, second = (grid[axis] for axis in range(3) if axis != own.across)
        plane = own.plane
        if plane is not None:
            plane = int((plane + 0.5) * grid[own.across] / own.sides[own.across])
        frame = replace(own.frame, inner=(first, second), outer=(first, second))
        return Lie(frame, grid, own.across, plane)

    def _turned(self, scan: Scan, values: np.ndarray) -> np.ndarray:
        """Turn (C, planes, rows, columns) as displayed to the plan's axes."""
        order, flips = self._axes(scan)
        values = values.transpose(0, *(axis + 1 for axis in order))
        return values[(slice(None), *(slice(None, None, -1 if flip else None) for flip in flips))]

    def _grids(self, scan: Scan) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Spacing along the plan's axes in mm: of the scan, and of what the network reads."""
        planned = self.plan.spacing
        if self.card.dimensions == 2:
            # nnU-Net reads pictures as planes far apart, of pixels of 1.
            current: tuple[float, ...] = (999.0, 1.0, 1.0)
        elif scan.slice_spacing is None:
            self._notice(
                "This scan states no pixel size; it is read as the model expects it. If that is "
                "wrong, so is the result."
            )
            current = (*(1.0,) * (3 - len(planned)), *planned)
        else:
            thickness = scan.slice_thickness
            shown = (999.0 if thickness is None else thickness), *scan.slice_spacing
            current = tuple(shown[axis] for axis in self._axes(scan)[0])
        return current, (current[0], *planned) if self.plan.is_2d else planned

    # -- what is read of it ------------------------------------------------------------------

    def _case(self, scan: Scan, i: int) -> Any:
        number = scan.case_of(i)
        with self._lock:
            if scan not in self._cases or self._cases[scan][0] != number:
                self._cases[scan] = number, self._look(scan, number)
            return self._cases[scan][1]

    def _plane(self, scan: Scan, i: int) -> np.ndarray:
        """Read a slice as float32 (C, H, W); what is no number is 0."""
        each = [np.asarray(one.peek(i), np.float32) for one in (scan, *scan.channels)]
        values = np.nan_to_num(np.stack(each), nan=0.0, posinf=0.0, neginf=0.0)
        if scan.channels:
            return values
        image = torch.from_numpy(values)
        image = image[None] if image.ndim == 3 else image.permute(0, 3, 1, 2)
        return np.ascontiguousarray(with_channels(image, self.card.channels)[0].numpy())

    def _on_grid(self, scan: Scan, i: int, planes: range, region: Region) -> torch.Tensor:
        """Read planes of slice `i`'s volume as the network does: (C, a, b, c), on its grid."""
        case, first = self._case(scan, i), scan.case_slices(scan.case_of(i)).start
        rows, columns = slice(region[0], region[2]), slice(region[1], region[3])
        values = np.stack([self._plane(scan, k)[:, rows, columns] for k in planes], axis=1)
        where = slice(planes.start - first, planes.stop - first), rows, columns
        values = np.ascontiguousarray(self._turned(scan, values))
        shape = self._new_shape(scan, values.shape[1:])
        flat = int(self._by_slices(scan))
        _check_shape(values.shape[1 + flat :], shape[flat:])
        if not flat:
            self.check_memory(shape)
        grid = self._read(scan, case, where, values, shape)
        network = cast("SlidingWindow", self.network)
        offset, scale = (
            one.cpu().numpy().reshape(-1, 1, 1, 1) for one in (network.offset, network.scale)
        )
        return torch.from_numpy(np.ascontiguousarray((grid - offset) / scale, np.float32))

    # -- slice by slice ----------------------------------------------------------------------

    def _prepare(self, scan: Scan, i: int, region: Region | None) -> Prepared:
        if not self.plan.is_2d:
            raise PredictionError(
                f"This model reads whole volumes ({self.plan.configuration}): of a single slice it "
                "says nothing."
            )
        if not self._by_slices(scan):
            raise PredictionError(
                "This model reads slices in another direction than the scan is shown in, as its "
                "plans turn the axes: it predicts, but adapting goes along the slices that are "
                "shown."
            )
        lie = self._lie(scan, i, region)
        image = self._on_grid(scan, i, range(i, i + 1), lie.frame.region)[:, 0]
        height, width = image.shape[1:]
        ways = self._ways(scan, i, (1, *lie.frame.inner), (1, height, width))
        shape, turn = lie.frame.shape, lie.frame.turn
        frame = PlacedFrame(
            shape, lie.frame.region, (height, width), (0, 0), (height, width), turn, tuple(ways[1:])
        )
        invalid = np.ones(shape, bool) if lie.plane is None else scan.invalid(i)
        return Prepared(image[None], frame, i, invalid)

    def restore(self, probabilities: torch.Tensor | np.ndarray, prepared: Prepared) -> np.ndarray:
        """Bring probabilities (S, h, w) back to the slice's grid."""
        maps = torch.as_tensor(probabilities).detach().to("cpu", torch.float32)
        frame = prepared.frame
        assert isinstance(frame, PlacedFrame)
        maps = self._back(maps if maps.ndim == 3 else maps[0], frame.ways)
        return placed(frame.turn.back(maps.numpy()), frame, prepared.invalid, self.outside)

    def as_logits(self, maps: torch.Tensor) -> torch.Tensor:
        """Take back the activation: up to a constant a pixel, which softmax does not see."""
        maps = maps.clamp(_CERTAIN, 1 - 1e-7 if self.card.activation == "sigmoid" else 1)
        return maps.log() if self.card.activation == "softmax" else torch.logit(maps)

    def _activated(self, logits: torch.Tensor) -> torch.Tensor:
        return self.probabilities(logits[None].float())[0]

    def _network_logits(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(images, mirror=self.plan.mirror)
        return found

    # -- whole volumes -----------------------------------------------------------------------

    def _predicted(
        self, scan: Scan, slices: Iterable[int], region: Region | None, batch_size: int | None
    ) -> Iterator[Prediction]:
        if self._by_slices(scan):
            yield from super()._predicted(scan, slices, region, batch_size)
            return
        for i in slices:
            with memory_in_words("for this volume"):
                volume = self.volume(scan, i, region)
                maps = self.slice_of(volume.logits, scan, i, region)
                labels = self.label_map(maps)
            yield Prediction(i, labels, maps)

    def volume(self, scan: Scan, i: int, region: Region | None = None) -> Volume:
        """Read and predict the volume that slice `i` belongs to.

        It is done once for as long as the answer is held.

        Raises
        ------
        PredictionError
            It does not fit into memory, or what comes out of the network are no numbers.
        """
        key = scan, scan.case_of(i), region and tuple(region)
        with self._reading:
            volume = self._volumes.get(key)
            if volume is None:
                self._volumes[key] = volume = self._volume(scan, i, region)
            return volume

    def _volume(self, scan: Scan, i: int, region: Region | None) -> Volume:
        first, box = scan.case_slices(scan.case_of(i)).start, self._case(scan, i).box
        planes = range(first + box[0].start, first + box[0].stop)
        image = self._on_grid(scan, i, planes, self._lie(scan, i, region).frame.region)
        found = self.room_for(image.shape[1:])
        with torch.inference_mode():
            for part, logits in self._slabs(image[None]):
                self._check_finite(logits)
                if found.dtype is torch.float16:
                    logits = logits.clamp(-_LARGEST_HALF, _LARGEST_HALF)
                found[:, part] = logits[0].cpu()
        return Volume(image, found)

    def _slabs(self, image: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield planes of a volume (1, C, a, b, c) and their logits."""
        if not self.plan.is_2d:
            network = cast("SlidingWindow", self.network)
            yield from network.slabs(image.to(self.device), self.plan.mirror)
            return
        for n in range(image.shape[2]):
            found = self._network_logits(image[:, :, n].to(self.device))
            yield slice(n, n + 1), found[:, :, None]

    def room_for(self, shape: Sequence[int]) -> torch.Tensor:
        """Return zeros (S, a, b, c) on the CPU for what is said of a volume; see `HALF_BEYOND`."""
        large = 4 * self.card.outputs * math.prod(shape) > HALF_BEYOND
        return torch.zeros(self.card.outputs, *shape, dtype=torch.float16 if large else None)

    def as_logits_(self, maps: torch.Tensor) -> None:
        """Take back the activation of a volume (S, a, b, c) in place, see `as_logits`."""
        for plane in maps.unbind(1):
            plane.copy_(self.as_logits(plane.float()))

    def check_memory(self, shape: Sequence[int], answers: int = 0) -> None:
        """Refuse a volume of so many voxels for whose answer there is no room.

        Parameters
        ----------
        shape : sequence of int
        answers : int
            How many others, in float32, have to be kept at the same time.
        """
        outputs, voxels = self.card.outputs, math.prod(shape)
        kept = (2 if 4 * outputs * voxels > HALF_BEYOND else 4) * outputs * voxels
        depth = 1 if self.plan.is_2d else min(shape[0], self.plan.patch[0])
        stitching = STITCHING * 4 * outputs * voxels * depth // shape[0]
        needed = kept + stitching + 4 * voxels * (answers * outputs + 4 * self.card.channels)
        free = free_bytes(torch.device("cpu"))
        if free is not None and needed > free:
            raise PredictionError(
                f"The volume would become {' × '.join(map(str, shape))} voxels for this model and "
                f"need about {size_words(needed)}, but {size_words(free)} are free. Draw a region, "
                "or close other programs."
            )

    def slice_of(
        self,
        logits: torch.Tensor,
        scan: Scan,
        i: int,
        region: Region | None = None,
        over: Over | None = None,
    ) -> np.ndarray:
        """Bring one displayed slice out of a volume's logits; probabilities (S, H, W).

        Parameters
        ----------
        over : (tuple of slice, Tensor), optional
            Logits that lie over the others, and where.
        """
        lie = self._lie(scan, i, region)
        if lie.plane is None:
            return np.tile(self.outside[:, None, None], (1, *scan.slice_shape(i)))
        across, depth = lie.across, logits.shape[lie.across + 1]
        ways = self._ways(scan, i, lie.sides, logits.shape[1:])
        place = ways[across][lie.plane : lie.plane + 1].clamp(0, depth - 1)
        ways[across] = place - place.floor()
        near = planes_of(logits, across, int(place), min(2, depth - int(place)), over)
        maps = self._back(near, ways, logits=True).select(across + 1, 0)
        return placed(lie.frame.turn.back(maps.numpy()), lie.frame, scan.invalid(i), self.outside)


def _check_shape(before: Sequence[int], after: Sequence[int]) -> None:
    factor = max(a / b for a, b in zip(after, before, strict=True))
    if max(after) > LARGEST or factor > MOST_ENLARGED:
        raise PredictionError(
            f"{' × '.join(map(str, before))} pixels would become {' × '.join(map(str, after))} for "
            "this model. Check the pixel size of the scan, or choose a region."
        )


def sampled(
    image: torch.Tensor, axis: int, places: torch.Tensor, nearest: bool = False
) -> torch.Tensor:
    """Interpolate an image linearly along one axis; beyond its ends it goes on as they are."""
    size = image.shape[axis]
    places = places.clamp(0, size - 1)
    if nearest:
        places = places.round()
    if len(places) == size and bool((places == torch.arange(size)).all()):
        return image
    low = places.floor().long()
    high = (low + 1).clamp_max(size - 1)
    weight = (places - low).to(image.dtype).view(-1, *(1,) * (image.ndim - 1 - axis))
    return torch.lerp(image.index_select(axis, low), image.index_select(axis, high), weight)


def planes_of(
    logits: torch.Tensor, axis: int, first: int, count: int, over: Over | None = None
) -> torch.Tensor:
    """Return some planes of a volume (S, a, b, c) as float32, with what lies over them."""
    found = logits.narrow(axis + 1, first, count).float()
    if over is None:
        return found
    place, maps = over
    low, high = max(first, place[axis].start), min(first + count, place[axis].stop)
    if low < high:
        found = found.clone()
        inside: Any = [slice(None), *place]
        inside[axis + 1] = slice(low - first, high - first)
        found[tuple(inside)] = maps.narrow(axis + 1, low - place[axis].start, high - low)
    return found
