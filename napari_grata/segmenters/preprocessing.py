"""From a slice of a scan to what a network reads, and from its output back to the slice.

Both ways go through the same `Frame`: a crop, one scale per axis and a padding. Pixel centres
lie at half-integers (``align_corners=False``), so that there and back stays aligned exactly at
any size. The work is done on the CPU, whatever the network runs on: the same scan gives the
same numbers on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from napari_grata.scans.scan import without_number

from .card import Card

if TYPE_CHECKING:
    from napari_grata.scans import Scan


Region = tuple[int, int, int, int]

#: Networks halve the image five times, ...
STRIDE = 32
#: ... and statistics of a single value mean nothing: the smallest map is to be 2 × 2.
SMALLEST = 64
#: A slice larger than this after resampling, or enlarged more, has a wrong pixel size.
LARGEST = 8192
MOST_ENLARGED = 8.0


class PredictionError(ValueError):
    """A slice that cannot be brought to the model's grid or predicted; the message says why."""


@dataclass(frozen=True)
class Turn:
    """How the network's rows and columns lie on those of the slice as it is shown.

    Attributes
    ----------
    swap : bool
        Whether rows become columns.
    flip_rows, flip_columns : bool
        Whether they then run the other way.
    """

    swap: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    @property
    def _steps(self) -> tuple[slice, slice]:
        rows, columns = (-1 if flip else None for flip in (self.flip_rows, self.flip_columns))
        return slice(None, None, rows), slice(None, None, columns)

    def there(self, array: np.ndarray) -> np.ndarray:
        """Turn an array (…, H, W) of the slice as the network sees it (a view)."""
        turned = array.swapaxes(-1, -2) if self.swap else array
        return turned[(..., *self._steps)]

    def back(self, array: np.ndarray) -> np.ndarray:
        """Undo `there` (a view)."""
        turned = array[(..., *self._steps)]
        return turned.swapaxes(-1, -2) if self.swap else turned


@dataclass(frozen=True)
class Frame:
    """How a slice lies in the network's input.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the slice.
    region : (int, int, int, int)
        Part of the slice that is read: (row0, column0, row1, column1), half-open.
    inner : (int, int)
        Size of that part after resampling.
    padding : (int, int)
        Rows above and columns to the left of it.
    outer : (int, int)
        Size of the input, multiples of 32.
    turn : Turn
        How the part lies before it is resampled; `inner`, `padding` and `outer` are turned.
    """

    shape: tuple[int, int]
    region: Region
    inner: tuple[int, int]
    padding: tuple[int, int]
    outer: tuple[int, int]
    turn: Turn = Turn()

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per slice pixel, (rows, columns)."""
        row0, column0, row1, column1 = self.region
        rows, columns = self.inner[::-1] if self.turn.swap else self.inner
        return rows / (row1 - row0), columns / (column1 - column0)


def frame_for(
    card: Card,
    shape: tuple[int, int],
    *,
    spacing: tuple[float, float] | None = None,
    region: Region | None = None,
) -> Frame:
    """Return how a slice of this shape lies in the input of a card's model."""
    height, width = int(shape[0]), int(shape[1])
    row0, column0, row1, column1 = clip_region(region, height, width)
    rows, columns = row1 - row0, column1 - column0
    if card.size is not None:
        outer = card.size
        scale = min(outer[0] / rows, outer[1] / columns)
        inner = min(outer[0], _length(rows * scale)), min(outer[1], _length(columns * scale))
    else:
        if card.spacing is not None and spacing is not None:
            inner = (
                _length(rows * spacing[0] / card.spacing[0]),
                _length(columns * spacing[1] / card.spacing[1]),
            )
        else:
            inner = rows, columns
        outer = _padded(inner[0]), _padded(inner[1])
    enlarged = card.size is None and max(inner[0] / rows, inner[1] / columns) > MOST_ENLARGED
    if max(inner) > LARGEST or enlarged:
        at = "" if spacing is None else f" at {spacing[0]:g} × {spacing[1]:g} mm a pixel"
        raise PredictionError(
            f"A slice of {rows} × {columns} pixels{at} would become {inner[0]} × {inner[1]} for "
            "this model. Check the pixel size of the scan, or choose a region."
        )
    padding = (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
    return Frame((height, width), (row0, column0, row1, column1), inner, padding, outer)


def clip_region(region: Region | None, height: int, width: int) -> Region:
    """Return the part of a region that lies on a slice; all of the slice by default."""
    if region is None:
        return 0, 0, height, width
    row0, column0, row1, column1 = (int(v) for v in region)
    clipped = max(0, row0), max(0, column0), min(height, row1), min(width, column1)
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise PredictionError(
            f"The region of rows {row0} to {row1} and columns {column0} to {column1} holds no "
            f"pixel of this slice of {height} × {width}. Draw it over the scan."
        )
    return clipped


def _length(length: float) -> int:
    return max(1, math.floor(length + 0.5))


def _padded(length: int) -> int:
    return max(SMALLEST, -(-length // STRIDE) * STRIDE)


@dataclass(frozen=True)
class Prepared:
    """A slice as the network reads it.

    Attributes
    ----------
    image : Tensor, float32, shape (1, C, h, w)
        In [0, 1]; h and w are multiples of 32.
    frame : Frame
        What `restore` needs.
    slice_index : int
    invalid : ndarray of bool, shape (H, W), or None
        Pixels of the slice that hold no number: nothing is found there. None where all do.
    """

    image: torch.Tensor
    frame: Frame
    slice_index: int = 0
    invalid: np.ndarray | None = None

    def to(self, device: torch.device | str) -> Prepared:
        """Return the same with its image on `device`."""
        return replace(self, image=self.image.to(device))


def prepare(card: Card, scan: Scan, i: int, region: Region | None = None) -> Prepared:
    """Read slice `i` of a scan and bring it to the form that a card's model reads.

    Parameters
    ----------
    card : Card
    scan : Scan
    i : int
        Flat slice index.
    region : (row0, column0, row1, column1), optional
        Half-open, in pixels of the slice; parts outside the slice are cut off.

    Returns
    -------
    Prepared
        On the CPU.

    Raises
    ------
    PredictionError
        The region lies outside the slice, or the pixel size is absurd.
    """
    intensities = None
    if card.normalisation["kind"] == "quantile":
        intensities = scan.intensity_range(
            scan.case_of(i), card.normalisation["low"], card.normalisation["high"]
        )
    return prepare_array(
        card,
        scan.read_slice(i),
        spacing=scan.slice_spacing,
        intensities=intensities,
        region=region,
        slice_index=i,
    )


def prepare_array(
    card: Card,
    values: np.ndarray,
    *,
    spacing: tuple[float, float] | None = None,
    intensities: tuple[float, float] | None = None,
    region: Region | None = None,
    slice_index: int = 0,
) -> Prepared:
    """Do what `prepare` does, for one slice in memory.

    Parameters
    ----------
    values : ndarray, shape (H, W) or (H, W, C)
    spacing : (float, float), optional
        (row, column) in mm; taken to be the card's where it is not known.
    intensities : (float, float), optional
        What becomes 0 and 1 with quantile normalisation; by default the slice's own quantiles.
    """
    frame = frame_for(card, values.shape[:2], spacing=spacing, region=region)
    row0, column0, row1, column1 = frame.region
    image = _scaled(card, values[row0:row1, column0:column1], intensities)
    image = resample(with_channels(image, card.channels), frame.inner)
    if card.normalisation["kind"] == "min-max":
        low, high = image.min(), image.max()
        image = (image - low) / (high - low) if high > low else torch.zeros_like(image)
    image = _pad(image.clamp_(0, 1), frame)
    return Prepared(image.contiguous(), frame, slice_index, without_number(values))


def restore(
    probabilities: torch.Tensor | np.ndarray,
    prepared: Prepared,
    *,
    outside: np.ndarray | None = None,
) -> np.ndarray:
    """Bring probabilities from the network's grid back to the slice's, linearly.

    Parameters
    ----------
    probabilities : Tensor or ndarray, shape (S, h, w) or (1, S, h, w)
    prepared : Prepared
    outside : ndarray, shape (S,), optional
        Probabilities outside the region, and of pixels that hold no number; 0 by default.

    Returns
    -------
    ndarray of float32, shape (S, H, W)
    """
    frame, invalid = prepared.frame, prepared.invalid
    maps = torch.as_tensor(probabilities).detach().to("cpu", torch.float32)
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or maps.shape[0] != 1 or tuple(maps.shape[2:]) != frame.outer:
        raise ValueError(
            f"Expected probabilities of shape (S, {frame.outer[0]}, {frame.outer[1]}), got "
            f"{tuple(maps.shape)}."
        )
    top, left = frame.padding
    maps = maps[..., top : top + frame.inner[0], left : left + frame.inner[1]]
    row0, column0, row1, column1 = frame.region
    maps = resample(maps, (row1 - row0, column1 - column0))[0]
    if (row0, column0, row1, column1) == (0, 0, *frame.shape) and invalid is None:
        return np.asarray(maps.contiguous().numpy())
    background = np.zeros(len(maps), np.float32) if outside is None else np.asarray(outside)
    return placed(maps.numpy(), frame, invalid, background)


def placed(
    maps: np.ndarray, frame: Frame, invalid: np.ndarray | None, outside: np.ndarray
) -> np.ndarray:
    """Lay maps (S, rows, columns) of the part that was read onto their slice, float32 (S, H, W).

    `outside`, shape (S,), is what lies beyond it and where a pixel holds no number.
    """
    row0, column0, row1, column1 = frame.region
    whole = np.tile(outside[:, None, None], (1, *frame.shape))
    whole[:, row0:row1, column0:column1] = maps
    if invalid is not None:
        whole[:, invalid] = outside[:, None]
    return whole


def _scaled(
    card: Card, values: np.ndarray, intensities: tuple[float, float] | None
) -> torch.Tensor:
    """Bring values to about [0, 1] as float32, shape (1, C, rows, columns).

    Without clipping for min-max, which is defined on the resampled picture, as published.
    """
    kind = card.normalisation["kind"]
    if kind == "planned":
        raise PredictionError(
            f"The card of {card.name!r} has the intensities of nnU-Net's plans, which its network "
            f"{card.architecture!r} does not know. Choose min-max, unit or quantile."
        )
    dtype = values.dtype
    if kind == "unit":
        limits = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else None
        low, high = (0.0, 1.0) if limits is None else (float(limits.min), float(limits.max))
    elif kind == "quantile" and intensities is not None:
        low, high = intensities
    else:
        finite = values if dtype.kind in "uib" else values[np.isfinite(values)]
        if finite.size == 0:
            low, high = 0.0, 1.0
        elif kind == "quantile":
            ends = card.normalisation["low"], card.normalisation["high"]
            low, high = (float(q) for q in np.quantile(finite, ends))
        else:
            low, high = float(finite.min()), float(finite.max())
    # A constant picture has no contrast to bring out: it becomes 0 everywhere.
    span = high - low if high > low else 1.0
    # Bytes and float32 fit float32; wider types are brought to [0, 1] first.
    narrow = dtype in (np.uint8, np.uint16, np.float32) and span < 1e30
    exact = np.float32 if narrow else np.float64
    scaled: Any = values.astype(exact)
    scaled -= exact(low)
    scaled /= exact(span)
    if dtype.kind == "f":
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    if kind != "min-max":
        np.clip(scaled, 0, 1, out=scaled)
    tensor = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
    tensor = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    return tensor[None].contiguous()


def with_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """Return a picture (1, C, h, w) with as many channels as a model reads."""
    given = image.shape[1]
    if given in (2, 4):  # the last one is opacity
        image, given = image[:, : given - 1], given - 1
    if given == channels:
        return image
    if given == 1:
        return image.expand(-1, channels, -1, -1)
    if channels == 1:
        # Luminance of ITU-R BT.709.
        weights = image.new_tensor([0.2126, 0.7152, 0.0722]).view(1, 3, 1, 1)
        return (image * weights).sum(1, keepdim=True)
    raise PredictionError(f"A picture with {given} channels cannot be read as {channels}.")


def resample(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Linear interpolation; where it makes the picture smaller, averaging (no aliasing)."""
    if tuple(image.shape[2:]) == tuple(size):
        return image.clone()
    return functional.interpolate(
        image, size=size, mode="bilinear", align_corners=False, antialias=True
    )


def _pad(image: torch.Tensor, frame: Frame) -> torch.Tensor:
    """Repeat the border: a dark frame would shift the statistics that adaptation looks at."""
    top, left = frame.padding
    bottom = frame.outer[0] - frame.inner[0] - top
    right = frame.outer[1] - frame.inner[1] - left
    return functional.pad(image, (left, right, top, bottom), mode="replicate")
