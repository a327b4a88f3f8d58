"""How a scan is read by a model that nnU-Net trained, and its answer brought back.

As nnU-Net does it: turn the axes as the plans say, crop to what is not 0, normalise, resample to
the plan's grid, predict in windows, resample the logits back. A 2-D model whose slices are those of
the scan reads slice by slice, so that it adapts like any other; all others predict whole volumes,
and those that read volumes adapt to patches of them.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch

from .devices import free_bytes, size_words
from .nnunet import Plan
from .preprocessing import (
    LARGEST,
    MOST_ENLARGED,
    STRIDE,
    Frame,
    PredictionError,
    Prepared,
    Region,
    Turn,
    clip_region,
    placed,
    with_channels,
)
from .segmenter import Prediction, Segmenter, _copy_on, memory_in_words

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .sliding_window import SlidingWindow

#: Where one axis is this many times as thick as another, it is resampled by itself.
ANISOTROPY = 3.0
#: So often a patch lies about a structure, if one is near; nnU-Net trains with a third.
EXPECTED = 2 / 3
#: Of larger answers to a volume, in bytes as float32, half precision is kept, as by nnU-Net.
HALF_BEYOND = 2**30
#: Of so many windows' depth there is room for answers in float32 while they are stitched.
STITCHING = 3
#: Halves of what the maps of a pass take that a step of learning takes.
LEARNING = 3
_TINY = 1e-8
#: Probabilities are brought back as logits; beyond this they are as good as certain.
_CERTAIN = 1e-12
_LARGEST_HALF = 6e4


Over = tuple[tuple[slice, slice, slice], torch.Tensor]
"""Where on a volume's grid logits (S, a, b, c) lie over others, and they themselves."""


@dataclass(frozen=True)
class Case:
    """What has to be known of a whole volume (picture) before any slice of it is read.

    Attributes
    ----------
    box : tuple of slice
        Planes, rows and columns, as displayed, that are not all 0.
    inside : ndarray of bool or None
        Of the box: voxels that are not 0, holes filled; None where no channel asks for it.
    mean, deviation : ndarray, shape (C,)
        Of the intensities that count.
    low, high : ndarray, shape (C,)
        Range of the box's intensities.
    """

    box: tuple[slice, slice, slice]
    inside: np.ndarray | None
    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray


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

    place: tuple[slice, slice, slice] = (slice(0), slice(0), slice(0))
    lie: Lie | None = None


class NNUNetSegmenter(Segmenter):
    """A model that nnU-Net trained, ready to predict; see `Segmenter`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plan = self._read_plan()
        self._cases: weakref.WeakKeyDictionary[Scan, dict[int, Case]]
        self._cases = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        # For as long as someone holds it: the next few slices are of the same volume.
        self._volumes: weakref.WeakKeyDictionary[Scan, tuple[Any, weakref.ref[Volume]]]
        self._volumes = weakref.WeakKeyDictionary()
        self._reading = threading.Lock()

    def _read_plan(self) -> Plan:
        return Plan.from_arguments(self.card.arguments["plan"])

    # -- how the scan lies on the plan's axes ------------------------------------------------

    def _axes(self, scan: Scan) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
        """Return for each axis of the plan the displayed one (0 planes, 1 rows, 2 columns).

        And whether the plan's runs against it. nnU-Net takes the array of a file as its reader
        gives it: the last axis of a NIfTI file first.
        """
        geometry = scan.geometry
        if self.card.dimensions == 2:
            return (0, 1, 2), (False, False, False)
        if geometry.affine is None:
            # An array without a place in the world lies as it does in memory.
            return self.plan.transpose, (False, False, False)  # type: ignore[return-value]
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
        return order, flips  # type: ignore[return-value]

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

    def _new_shape(self, scan: Scan, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            max(1, round(have / want * size))
            for size, have, want in zip(shape, *self._grids(scan), strict=True)
        )

    # -- a case ------------------------------------------------------------------------------

    def _case(self, scan: Scan, i: int) -> Case:
        number = scan.case_of(i)
        with self._lock:
            kept = self._cases.setdefault(scan, {})
            if number not in kept:
                kept.clear()  # one volume at a time
                kept[number] = self._look(scan, number)
            return kept[number]

    def _look(self, scan: Scan, number: int) -> Case:
        from scipy.ndimage import binary_fill_holes

        volume = np.stack([self._plane(scan, i) for i in scan.case_slices(number)], axis=1)
        nonzero: np.ndarray = binary_fill_holes((volume != 0).any(axis=0))
        box = tuple(
            slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, size)
            for axis, size in enumerate(nonzero.shape)
            for found in [np.flatnonzero(nonzero.any(axis=tuple({0, 1, 2} - {axis})))]
        )
        inside = nonzero[box]
        figures = []
        for channel, masked in zip(volume[(slice(None), *box)], self.plan.masked, strict=True):
            counted = channel[inside] if masked and inside.any() else channel
            figures.append((counted.mean(), counted.std(), channel.min(), channel.max()))
        return Case(
            box,  # type: ignore[arg-type]
            inside if any(self.plan.masked) else None,
            *(np.array(one, np.float32) for one in zip(*figures, strict=True)),
        )

    def _plane(self, scan: Scan, i: int) -> np.ndarray:
        """Read a slice as float32 (C, H, W); what is no number is 0."""
        values = np.asarray(scan.peek(i), dtype=np.float32)
        if scan.channels:
            each = [values, *(np.asarray(one.peek(i), np.float32) for one in scan.channels)]
            return np.nan_to_num(np.stack(each), nan=0.0, posinf=0.0, neginf=0.0)
        if not np.isfinite(values).all():
            values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        image = torch.from_numpy(np.array(values))
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
        return np.ascontiguousarray(with_channels(image[None], self.card.channels)[0].numpy())

    def _normalised(self, case: Case, values: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
        """Bring intensities (C, …) of the box to those that the network was trained on."""
        out = values.copy()
        for n, (scheme, channel) in enumerate(zip(self.plan.schemes, out, strict=True)):
            found = self.plan.intensities[n]
            if scheme == "ZScoreNormalization":
                scaled = (channel - case.mean[n]) / max(case.deviation[n], _TINY)
                if self.plan.masked[n] and inside is not None:
                    scaled = np.where(inside, scaled, channel)
                channel[...] = scaled
            elif scheme == "CTNormalization" and found is not None:
                np.clip(channel, found["low"], found["high"], out=channel)
                channel -= np.float32(found["mean"])
                channel /= np.float32(max(found["std"], _TINY))
            elif scheme == "RescaleTo01Normalization":
                channel -= case.low[n]
                channel /= max(case.high[n] - case.low[n], _TINY)
            elif scheme == "RGBTo01Normalization":
                channel /= 255
        return out

    def _limits(self, case: Case) -> np.ndarray:
        """Normalised intensities of the whole box, (C, 2): resampling goes no further."""
        ends = np.stack([case.low, case.high], axis=1)
        found = self._normalised(case, ends, np.ones((2,), bool))
        if case.inside is not None and not case.inside.all():
            # Outside the mask is 0, as it is.
            found = np.stack([np.minimum(found[:, 0], 0), np.maximum(found[:, 1], 0)], axis=1)
        return found

    def _on_grid(self, scan: Scan, i: int, planes: range, region: Region) -> torch.Tensor:
        """Read planes of slice `i`'s volume as the network does: (C, a, b, c), on its grid."""
        case, first = self._case(scan, i), scan.case_slices(scan.case_of(i)).start
        rows, columns = slice(region[0], region[2]), slice(region[1], region[3])
        values = np.stack([self._plane(scan, k)[:, rows, columns] for k in planes], axis=1)
        where = slice(planes.start - first, planes.stop - first), rows, columns
        each = list(zip(where, case.box, strict=True))
        inside = None
        if case.inside is not None and all(
            a.start >= b.start and a.stop <= b.stop for a, b in each
        ):
            inside = case.inside[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in each)]
            inside = self._turned(scan, inside[None])[0]
        values = np.ascontiguousarray(self._turned(scan, values))
        shape = self._new_shape(scan, values.shape[1:])
        flat = int(self._by_slices(scan))
        _check_shape(values.shape[1 + flat :], shape[flat:])
        if not flat:
            self.check_memory(shape)
        grid = self._read(scan, case, values, inside, shape)
        network = cast("SlidingWindow", self.network)
        offset, scale = (
            one.cpu().numpy().reshape(-1, 1, 1, 1) for one in (network.offset, network.scale)
        )
        return torch.from_numpy(np.ascontiguousarray((grid - offset) / scale, np.float32))

    def _ways(
        self, scan: Scan, i: int, sides: Sequence[int], grid: Sequence[int]
    ) -> list[torch.Tensor]:
        """Return for each axis where on the grid the voxels of slice `i`'s volume lie."""
        current, target = self._grids(scan)
        apart = None if self._by_slices(scan) else _separate_axis(target, current, None)
        each = enumerate(zip(sides, grid, strict=True))
        return [_places(side, length, axis == apart) for axis, (side, length) in each]

    # -- slice by slice ----------------------------------------------------------------------

    def _prepare(self, scan: Scan, i: int, region: Region | None) -> Prepared:
        for notice in self.standing:
            self._notice(notice)
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

    def _read(
        self,
        scan: Scan,
        case: Case,
        values: np.ndarray,
        inside: np.ndarray | None,
        shape: Sequence[int],
    ) -> np.ndarray:
        """Return what the network reads of (C, a, b, c), with splines on the plan's grid."""
        from scipy.ndimage import map_coordinates
        from skimage.transform import resize

        values, limits = self._normalised(case, values, inside), self._limits(case)
        if tuple(values.shape[1:]) == tuple(shape):
            return values
        apart = _separate_axis(*self._grids(scan), self.plan.separate)
        out = np.empty((len(values), *shape), np.float32)
        spline = {"order": self.plan.data_order, "mode": "edge", "anti_aliasing": False}
        for n, channel in enumerate(values.astype(np.float64)):
            if apart is None:
                found = resize(channel, shape, clip=False, **spline)
                out[n] = np.clip(found, limits[n, 0], limits[n, 1])
                continue
            planes = np.moveaxis(channel, apart, 0)
            inner = [size for axis, size in enumerate(shape) if axis != apart]
            planes = np.stack([resize(plane, inner, **spline) for plane in planes])
            if len(planes) != shape[apart]:
                places = (np.arange(shape[apart]) + 0.5) * len(planes) / shape[apart] - 0.5
                grid = np.meshgrid(places, *map(np.arange, inner), indexing="ij")
                planes = map_coordinates(planes, grid, order=self.plan.data_order_z, mode="nearest")
            out[n] = np.moveaxis(planes, 0, apart)
        return out

    def restore(self, probabilities: torch.Tensor | np.ndarray, prepared: Prepared) -> np.ndarray:
        """Bring probabilities (S, h, w) back to the slice's grid, as nnU-Net does its logits."""
        maps = torch.as_tensor(probabilities).detach().to("cpu", torch.float32)
        frame = prepared.frame
        assert isinstance(frame, PlacedFrame)
        maps = self._back(maps if maps.ndim == 3 else maps[0], frame.ways)
        return placed(frame.turn.back(maps.numpy()), frame, prepared.invalid, self.outside)

    def _back(self, maps: torch.Tensor, ways: Sequence[torch.Tensor]) -> torch.Tensor:
        """Resample probabilities (S, …) to these places along each axis."""
        if all(len(way) == side for way, side in zip(ways, maps.shape[1:], strict=True)):
            return maps
        return self._logits_back(self.as_logits(maps), ways)

    def _logits_back(self, logits: torch.Tensor, ways: Sequence[torch.Tensor]) -> torch.Tensor:
        """Resample logits (S, …) to these places along each axis, to probabilities."""
        for axis, way in enumerate(ways, start=1):
            logits = sampled(logits, axis, way)
        return self._activated(logits)

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

    def predict(
        self,
        scan: Scan,
        slices: Iterable[int] | None = None,
        region: Region | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        misfit = self.fits(scan)
        if misfit is not None:
            raise PredictionError(misfit)
        if self._by_slices(scan):
            yield from super().predict(scan, slices, region, batch_size)
            return
        for notice in self.standing:
            self._notice(notice)
        for i in range(scan.n_slices) if slices is None else slices:
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
        wanted = scan.case_of(i), region
        with self._reading:
            known = self._volumes.get(scan)
            volume = known[1]() if known is not None and known[0] == wanted else None
            if volume is None:
                volume = self._volume(scan, i, region)
                self._volumes[scan] = wanted, weakref.ref(volume)
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
        maps = self._logits_back(near, ways).select(across + 1, 0)
        return placed(lie.frame.turn.back(maps.numpy()), lie.frame, scan.invalid(i), self.outside)

    def learning_bytes(self, sides: Sequence[int]) -> int:
        """Memory that a step of learning on a patch of so many voxels takes.

        Half as much again as all maps of a pass, which are kept until the gradient is there.
        """
        folds = cast("SlidingWindow", self.network).folds
        network, voxels = _copy_on(folds[0], torch.device("meta")), 0

        def note(_module: object, _given: object, output: object) -> None:
            nonlocal voxels
            voxels += output.numel() if isinstance(output, torch.Tensor) else 0

        for layer in network.modules():
            if any(True for _ in layer.parameters(recurse=False)):
                layer.register_forward_hook(note)
        network(torch.empty(1, self.card.channels, *sides, device="meta"))
        return LEARNING * 4 * voxels * len(folds) // 2

    def smaller(self, sides: Sequence[int]) -> tuple[int, ...] | None:
        """Return a patch whose longest side is half as long; None where it would be too small."""
        planned = self.card.architecture == "nnunet"
        stages = self.card.arguments["network"]["strides"] if planned else [STRIDE]
        strides = np.prod([np.broadcast_to(stage, 3) for stage in stages], axis=0)
        halves = [side // 2 // least * least for side, least in zip(sides, strides, strict=True)]
        able = [n for n in range(3) if halves[n] >= 2 * strides[n]]
        if not able:
            return None
        longest = max(able, key=lambda axis: sides[axis])
        return tuple(int(halves[n]) if n == longest else int(sides[n]) for n in range(3))

    def lie(self, scan: Scan, i: int, region: Region | None = None) -> Lie:
        """Say how slice `i` lies on the grid of its volume."""
        own, grid = self._lie(scan, i, region), self.volume(scan, i, region).image.shape[1:]
        first, second = (grid[axis] for axis in range(3) if axis != own.across)
        plane = own.plane
        if plane is not None:
            plane = int((plane + 0.5) * grid[own.across] / own.sides[own.across])
        frame = replace(own.frame, inner=(first, second), outer=(first, second))
        return Lie(frame, grid, own.across, plane)

    def patch(
        self,
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
        volume, lie = self.volume(scan, i, region), self.lie(scan, i, region)
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
            about = self._foreground(volume.logits[tuple(near)]).nonzero().numpy()
            about[:, lie.across] += low[lie.across]
        if about is not None and len(about):
            start = np.clip(about[chance.integers(len(about))] - size // 2, low, high)
        else:
            start = chance.integers(low, high, endpoint=True)
        place: Any = tuple(slice(int(s), int(s + n)) for s, n in zip(start, size, strict=True))
        image = volume.image[(slice(None), *place)][None].contiguous()
        return Patch(image, lie.frame, i, None, place, lie)

    def _foreground(self, logits: torch.Tensor) -> torch.Tensor:
        """Voxels (a, b, c) in which the source model sees some structure."""
        return logits.argmax(0) > 0 if self.card.activation == "softmax" else logits.amax(0) >= 0

    def with_patch(
        self, probabilities: torch.Tensor, patch: Patch, scan: Scan, region: Region | None
    ) -> np.ndarray:
        """Return a slice as a patch (S, a, b, c) says, and beyond it the source model."""
        logits = self.volume(scan, patch.slice_index, region).logits
        over = patch.place, self.as_logits(probabilities.detach().float().cpu())
        return self.slice_of(logits, scan, patch.slice_index, region, over)


def _check_shape(before: Sequence[int], after: Sequence[int]) -> None:
    factor = max(a / b for a, b in zip(after, before, strict=True))
    if max(after) > LARGEST or factor > MOST_ENLARGED:
        raise PredictionError(
            f"{' × '.join(map(str, before))} pixels would become {' × '.join(map(str, after))} for "
            "this model. Check the pixel size of the scan, or choose a region."
        )


def _separate_axis(
    current: Sequence[float], target: Sequence[float], forced: bool | None
) -> int | None:
    """Return the axis to be resampled by itself, None where there is none or more than one."""
    if forced is False:
        return None
    for spacing in (current, target):
        if forced or max(spacing) / min(spacing) > ANISOTROPY:
            thick = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return thick[0] if len(thick) == 1 else None
    return None


def _places(size: int, length: int, nearest: bool) -> torch.Tensor:
    """Return where on `length` pixels each of `size` lies that cover the same."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (length / size) - 0.5
    places = places.clamp(0, length - 1)
    return (places + 0.5).floor().clamp(0, length - 1) if nearest else places


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
