"""The frame of a photograph: the part of it that a model should read.

A model that was trained on pictures of one field of view expects its structures to have their
usual size and place (the card's ``extents``). *Reframing* cuts a photograph so that they have: it
predicts, takes the box of the structure that is best known, cuts the frame round it, and predicts
again until the frame stands still.

A model answers every frame, also one that shows nothing: it then draws what it is used to, where
it is used to, and this follows the frame wherever it goes. What is really there stays where it is
when the frame moves. *Steadiness* measures that, without labels: the mean Dice of what is found in
a frame and in others that are moved and scaled against it. A frame is used only where it is
settled, what it shows has the usual extent, and is steady; otherwise the whole picture is read,
and it is said why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .card import structure_mask
from .extent import anchor
from .preprocessing import Region, prepare_array, resample, with_channels

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .extent import Extent
    from .segmenter import Segmenter

STEADY = 0.75
"""Least steadiness of a frame, and of a whole picture, that is believed. Of what the first look at
the whole picture leads to less is enough where the model, says its card, reaches less on its own
pictures; what was only found by a search has to be surer than that."""
TRIES = 4
"""How often a frame is moved before it must stand still."""
STILL = 0.05
"""It stands still if it moves and grows by less than this share of itself."""
Move = tuple[float, float, float]
MOVES: tuple[Move, ...] = (
    *((-0.2, 0.0, 1.0), (0.2, 0.0, 1.0), (0.0, -0.2, 1.0), (0.0, 0.2, 1.0)),
    *((0.0, 0.0, 0.8), (0.0, 0.0, 1.35), (0.0, 0.0, 1.8)),
)
"""Frames to compare with: down, right (in frames) and times as large."""
ASIDE: Move = (0.15, 0.15, 1.5)
"""The one frame of these by which a search sorts what it has seen."""
SCALES = (0.67, 0.45, 0.3, 0.2)
STEP = 0.65
"""A search looks at frames of these shares of the picture's shorter side, so far apart."""
LARGEST_FRAME, SMALLEST_FRAME = 0.85, 0.1
"""Shares of the shorter side that a frame found by a search has."""
EMPTY = 0.1
"""Of a picture more of which is empty, what fits is looked for in parts of it too: the field of
view of a camera is round as well, and stays where it is."""
CANDIDATES, FINALISTS = 10, 3
SURER = 0.8
"""Least steadiness of a frame beyond the first candidates: of many that show nothing, one is steady
by chance."""
SHARPNESS = 0.75
"""Steadiness and search show the model so much fewer pixels than it is used to: what is there is
found all the same, and what is only expected hardly. It also takes half the time."""


@dataclass(frozen=True)
class Framing:
    """Which part of a photograph the model should read.

    Attributes
    ----------
    region : (int, int, int, int) or None
        (row0, column0, row1, column1) in pixels of the slice, half-open; None: all of it.
    settled : bool
        Whether this is sure: the frame stood still, or the whole picture fits.
    words : str
        One sentence for the user; empty where there was nothing to find.
    """

    region: Region | None
    settled: bool = True
    words: str = ""


def find_frame(segmenter: Segmenter, scan: Scan, case: int = 0) -> Framing:
    """Find the part of a photograph that a model should read.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    case : int
        Which photograph of a list.

    Returns
    -------
    Framing
        Of a volume, and with a model whose card knows no extent: the whole picture.

    Raises
    ------
    PredictionError
        The model does not fit the scan, or gives values that are no numbers.
    """
    extent = anchor(segmenter.card)
    if extent is None or not scan.is_photographic:
        return Framing(None)
    return _Finder(segmenter, scan, scan.case_slices(case)[0], extent).find()


def home_steadiness(segmenter: Segmenter, scans: Iterable[Scan]) -> float | None:
    """Return the steadiness that 19 of 20 pictures of a model's own centre reach.

    Of the pictures on which it finds the structure that it is framed by; None where there is none.
    """
    extent = anchor(segmenter.card)
    if extent is None:
        return None
    each = (_Finder(segmenter, scan, 0, extent).steadiness_of_whole() for scan in scans)
    found = [one for one in each if one is not None]
    return float(np.quantile(found, 0.05)) if found else None


class _Box(NamedTuple):
    """A structure: its centre, and the root of its area, in pixels of the slice."""

    row: float
    column: float
    side: float
    whole: float = 1.0  # share of it that the largest piece holds


class _Window(NamedTuple):
    """A frame: its upper left corner and size in pixels of the slice; may reach beyond it."""

    row: float
    column: float
    rows: float
    columns: float

    def moved(self, down: float, right: float, times: float) -> _Window:
        """Return it moved by shares of itself and scaled about its centre."""
        rows, columns = self.rows * times, self.columns * times
        row = self.row + (0.5 + down) * self.rows - rows / 2
        column = self.column + (0.5 + right) * self.columns - columns / 2
        return _Window(row, column, rows, columns)

    @property
    def region(self) -> Region:
        """In whole pixels."""
        row, column = round(self.row), round(self.column)
        return row, column, row + max(1, round(self.rows)), column + max(1, round(self.columns))


class _Finder:
    """Finds the frame of one picture."""

    def __init__(self, segmenter: Segmenter, scan: Scan, index: int, extent: Extent) -> None:
        card = segmenter.card
        assert card.size is not None
        assert extent.side is not None
        assert extent.row is not None
        assert extent.column is not None
        self._segmenter, self._card, self._size, self._extent = segmenter, card, card.size, extent
        self._values = scan.read_slice(index)
        self._shape: tuple[int, int] = self._values.shape[0], self._values.shape[1]
        self._intensities = None
        if card.normalisation["kind"] == "quantile":
            ends = card.normalisation["low"], card.normalisation["high"]
            self._intensities = scan.intensity_range(scan.case_of(index), *ends)
        self._steady = STEADY if extent.steadiness is None else min(STEADY, extent.steadiness)
        self._median = extent.side[1]
        self._place = extent.row[1], extent.column[1]

    # -- the way to a frame ----------------------------------------------------------------

    def find(self) -> Framing:
        whole: Region = (0, 0, *self._shape)
        first = self._look_at_all()
        fits = first is not None and self._usual(first, whole)
        found: list[_Settled] = []
        if fits and first is not None:
            found.append(_Settled(whole, self._steadiness(first)))
        elif first is not None:
            found += self._settle(first)
        found = [one for one in found if one.steadiness >= self._steady]
        if not found or self._empty.mean() > EMPTY:
            for boxes, least in self._search():
                searched = [one for box in boxes for one in self._settle(box)]
                found += [one for one in searched if one.steadiness >= least]
                if found:
                    break
        best = max(found, key=lambda one: one.steadiness, default=None)
        name, hint = self._extent.structure, self._extent.hint
        if best is None:
            if fits:
                words = f"What the model takes for the {name} follows the frame that it is shown"
            else:
                words = f"No part of the picture was found that shows the {name} as in training"
            words = f"{words}; the whole picture is read. {hint}".strip()
            return Framing(None, False, words)
        if best.region == whole:
            return Framing(None)
        rows, columns = (
            f"{low + 1:,} to {high:,}"
            for low, high in zip(best.region[:2], best.region[2:], strict=True)
        )
        words = f"The model reads the part round the {name}: rows {rows}, columns {columns}."
        return Framing(best.region, True, words)

    def steadiness_of_whole(self) -> float | None:
        """Return the steadiness of what the whole picture shows; None where that is nothing."""
        first = self._look_at_all()
        return None if first is None else self._steadiness(first)

    def _settle(self, box: _Box) -> list[_Settled]:
        """Frame a structure until the frame stands still; empty where it does not."""
        region = self._around(box)
        for _ in range(TRIES):
            seen = self._look(region)
            if seen is None:
                return []
            following = self._around(seen)
            if _still(region, following):
                break
            region = following
        else:
            return []
        if not self._usual(seen, region):
            return []
        return [_Settled(region, self._steadiness(seen))]

    def _around(self, box: _Box) -> Region:
        """Return the frame in which a structure has its usual side and place, as far as it can."""
        start, lengths = [], []
        sides = self._window(box)[2:]
        for centre, place, length, whole in zip(
            box[:2], self._place, sides, self._shape, strict=True
        ):
            length = min(whole, max(8, round(length)))
            start.append(min(max(0, round(centre - place * length)), whole - length))
            lengths.append(length)
        return start[0], start[1], start[0] + lengths[0], start[1] + lengths[1]

    def _usual(self, box: _Box, region: Region) -> bool:
        """Whether a structure has its usual extent in a frame, as far as that was to be had."""
        row, column, end_row, end_column = region
        size = end_row - row, end_column - column
        low, high = self._extent.limits("side")
        if not low <= box.side / math.sqrt(size[0] * size[1]) <= high:
            return False
        if self._extent.largest and box.whole < self._extent.limits("largest")[0]:
            return False
        for name, centre, start, length, whole in zip(
            ("row", "column"), box[:2], region[:2], size, self._shape, strict=True
        ):
            low, high = self._extent.limits(name)
            place = (centre - start) / length
            # At the edge of the picture a frame cannot go farther.
            if place < low and (start > 0 or length == whole):
                return False
            if place > high and (start + length < whole or length == whole):
                return False
        return True

    # -- looking ---------------------------------------------------------------------------

    def _look_at_all(self) -> _Box | None:
        """Predict the whole picture, in its smaller copy: where it is large, that takes long."""
        values, factor = self._reduced
        box = self._look((0, 0, *values.shape[:2]), values)
        return box and _Box(box.row * factor, box.column * factor, box.side * factor, box.whole)

    def _look(self, region: Region, values: np.ndarray | None = None) -> _Box | None:
        """Predict a frame as it will be predicted, and return what the model finds there."""
        values = self._values if values is None else values
        prepared = prepare_array(self._card, values, region=region, intensities=self._intensities)
        frame = prepared.frame
        (top, left), (rows, columns) = frame.padding, frame.inner
        mask = self._masks(prepared.image)[0][top : top + rows, left : left + columns]
        return _box(mask, *region[:2], 1 / frame.scale[0])

    def _masks(self, images: torch.Tensor) -> np.ndarray:
        """Return where the structure is: bool, shape (B, h, w)."""
        network = self._segmenter.network
        with torch.inference_mode():
            logits = network(images.to(self._segmenter.device))
            probabilities = self._segmenter.probabilities(logits).float().cpu().numpy()
        found = [
            structure_mask(self._card, self._segmenter.label_map(one), self._extent.structure)
            for one in probabilities
        ]
        return np.stack(found)

    @cached_property
    def _reduced(self) -> tuple[np.ndarray, int]:
        """A copy of the picture, large enough for the smallest frames, and by how much smaller."""
        smallest = SCALES[-1] * min(self._shape)
        factor = max(1, int(smallest / (SHARPNESS * min(self._size))))
        if factor == 1:
            return self._values, 1
        rows, columns = (length // factor for length in self._shape)
        total = np.zeros((rows, columns, *self._values.shape[2:]), np.float32)
        for row in range(factor):
            for column in range(factor):
                total += self._values[row::factor, column::factor][:rows, :columns]
        return (total / factor**2).astype(self._values.dtype), factor

    @cached_property
    def _coarse(self) -> tuple[torch.Tensor, int]:
        """The same for frames that reach beyond the picture, float32, shape (1, C, h, w)."""
        values, factor = self._reduced
        image = torch.from_numpy(np.nan_to_num(values.astype(np.float32)))
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
        return with_channels(image[None], self._card.channels).contiguous(), factor

    @cached_property
    def _empty(self) -> np.ndarray:
        """Where the coarse picture shows nothing, as round the retina: bool, shape (h, w)."""
        grey = self._coarse[0][0].amax(0).numpy()
        return np.asarray(grey <= grey.min() + 0.05 * np.ptp(grey))

    @cached_property
    def _unsharp(self) -> tuple[int, int]:
        """Rows and columns of an input of fewer pixels, where the network takes that."""
        rows, columns = (max(64, round(SHARPNESS * side / 32) * 32) for side in self._size)
        images = torch.zeros(1, self._card.channels, rows, columns, device=self._segmenter.device)
        try:
            with torch.inference_mode():
                self._segmenter.network(images)
        except RuntimeError:
            return self._size
        return rows, columns

    def _glance(self, windows: Sequence[_Window]) -> Iterator[np.ndarray]:
        """Predict frames that may reach beyond the picture, roughly: a mask of each.

        Each channel is stretched by itself: colours, which differ most between cameras, have less
        of a say in where to look than in what to draw.
        """
        picture, factor = self._coarse
        for start in range(0, len(windows), 8):
            images = []
            for window in windows[start : start + 8]:
                row, column, end_row, end_column = _Window(*(v / factor for v in window)).region
                rows = torch.arange(row, end_row).clamp(0, picture.shape[2] - 1)
                columns = torch.arange(column, end_column).clamp(0, picture.shape[3] - 1)
                cut = picture.index_select(2, rows).index_select(3, columns)
                images.append(_stretched(resample(cut, self._unsharp)))
            yield from self._masks(torch.cat(images))

    def _boxes(self, windows: Sequence[_Window]) -> list[_Box | None]:
        """Glance at frames and return what is found in each."""
        return [
            _box(mask, window.row, window.column, window.rows / len(mask))
            for window, mask in zip(windows, self._glance(windows), strict=True)
        ]

    def _steadiness(self, box: _Box, moves: Sequence[Move] = MOVES) -> float:
        """Return how well a structure stays where it is when its frame moves, 0 … 1."""
        window = self._window(box)
        windows = [window, *(window.moved(*move) for move in moves)]
        rows, columns = (
            start + (np.arange(64) + 0.5) / 64 * length
            for start, length in zip(window[:2], window[2:], strict=True)
        )
        seen = [
            _at(mask, one, rows, columns)
            for mask, one in zip(self._glance(windows), windows, strict=True)
        ]
        here, shown = seen[0]
        dice = []
        for there, also in seen[1:]:
            both = shown & also
            total = int((here & both).sum() + (there & both).sum())
            dice.append(2 * int((here & there & both).sum()) / total if total else 0.0)
        return float(np.mean(dice))

    # -- the search ------------------------------------------------------------------------

    def _search(self) -> Iterator[tuple[list[_Box], float]]:
        """Look all over the picture: yield what may be the structure, and how steady it has to be.

        First the best of those that one other frame shows at the same place, then of the others.
        """
        short = min(self._shape)
        windows = [one for scale in SCALES for one in self._grid(scale * short)]
        first = [box for box in self._boxes(windows) if box is not None and self._may_be(box)]
        second = self._boxes([self._window(box) for box in first])
        boxes = [box for box in second if box is not None and self._may_be(box)]
        if not boxes:
            return
        # What stays where it is when its frame moves comes first.
        third = self._boxes([self._window(box).moved(*ASIDE) for box in boxes])
        dice = _dice(boxes, [*boxes, *(box or _Box(0, 0, 1e-6) for box in third)])
        stays = dice[np.arange(len(boxes)), len(boxes) + np.arange(len(boxes))]
        chosen: list[int] = []
        for number in np.argsort(-stays, kind="stable"):
            if all(dice[number, other] < 0.6 for other in chosen):
                chosen.append(int(number))
        for some, least in ((chosen[:CANDIDATES], STEADY), (chosen[CANDIDATES:], SURER)):
            # All of them roughly, the best in full.
            steady = {one: self._steadiness(boxes[one], MOVES[::3]) for one in some}
            best = sorted(steady, key=lambda one: -steady[one])[:FINALISTS]
            yield [boxes[one] for one in best], least

    def _may_be(self, box: _Box) -> bool:
        share = box.side / self._median / min(self._shape)
        return SMALLEST_FRAME <= share <= LARGEST_FRAME

    def _window(self, box: _Box) -> _Window:
        """Return the frame of a structure, which may reach beyond the picture."""
        aspect = self._size[1] / self._size[0]
        rows = box.side / self._median / math.sqrt(aspect)
        columns = rows * aspect
        row, column = box.row - self._place[0] * rows, box.column - self._place[1] * columns
        return _Window(row, column, rows, columns)

    def _grid(self, length: float) -> Iterator[_Window]:
        """Frames of one size all over the picture, without those that show little but its edge."""
        aspect = self._size[1] / self._size[0]
        rows, columns = min(length, length / aspect), min(length, length * aspect)
        empty, factor = self._empty, self._coarse[1]
        for row in _steps(self._shape[0], rows):
            for column in _steps(self._shape[1], columns):
                window = _Window(row, column, rows, columns)
                top, left, bottom, right = _Window(*(v / factor for v in window)).region
                if empty[top:bottom:4, left:right:4].mean() < 0.5:
                    yield window


class _Settled(NamedTuple):
    region: Region
    steadiness: float


def _steps(whole: int, length: float) -> np.ndarray:
    """Return evenly spaced starts of stretches that cover a whole."""
    count = max(1, math.ceil((whole - length) / (STEP * length) - 1e-6) + 1)
    return np.linspace(0, whole - length, count) if count > 1 else np.array([(whole - length) / 2])


def _still(one: Region, other: Region) -> bool:
    length = one[2] - one[0]
    grown = abs(math.log((other[2] - other[0]) / length))
    moved = max(abs(sum(one[axis::2]) - sum(other[axis::2])) / 2 for axis in (0, 1))
    return grown < STILL and moved < STILL * length


def _stretched(image: torch.Tensor) -> torch.Tensor:
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return (image - low) / (high - low).clamp(min=1e-6)


def _box(mask: np.ndarray, row: float, column: float, pixel: float) -> _Box | None:
    """Return the largest piece of a mask with this corner and size of a pixel, if there is any."""
    from scipy import ndimage

    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return None
    areas = np.bincount(pieces.ravel())[1:]
    piece = pieces == int(areas.argmax()) + 1
    down, right = (
        float(np.average(np.arange(len(profile)) + 0.5, weights=profile))
        for profile in (piece.sum(1), piece.sum(0))
    )
    side = math.sqrt(float(areas.max())) * pixel
    return _Box(row + down * pixel, column + right * pixel, side, float(areas.max() / areas.sum()))


def _at(
    mask: np.ndarray, window: _Window, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame's mask at points of the picture, and which of them it shows."""
    row = np.floor((rows - window.row) / window.rows * mask.shape[0]).astype(int)
    column = np.floor((columns - window.column) / window.columns * mask.shape[1]).astype(int)
    inside = ((row >= 0) & (row < mask.shape[0]))[:, None] & (
        (column >= 0) & (column < mask.shape[1])
    )
    found = mask[row.clip(0, mask.shape[0] - 1)[:, None], column.clip(0, mask.shape[1] - 1)]
    return found & inside, inside


def _dice(boxes: Sequence[_Box], others: Sequence[_Box]) -> np.ndarray:
    """Dice of squares in place of structures, shape (boxes, others)."""
    one, two = (np.array([box[:3] for box in each]).T[:, :, None] for each in (boxes, others))
    two = two.transpose(0, 2, 1)
    overlap = np.ones((one.shape[1], two.shape[2]))
    for axis in (0, 1):
        high = np.minimum(one[axis] + one[2] / 2, two[axis] + two[2] / 2)
        low = np.maximum(one[axis] - one[2] / 2, two[axis] - two[2] / 2)
        overlap *= (high - low).clip(0)
    return 2 * overlap / (one[2] ** 2 + two[2] ** 2)
