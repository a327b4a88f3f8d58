"""Lines over a scan, as wide on the screen at any zoom: outlines of masks, dashes, crosses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Vectors
from skimage.measure import find_contours

from napari_grata.segmenters.card import structure_mask
from napari_grata.widgets.scan_layer import KEY

if TYPE_CHECKING:
    from napari_grata.segmenters import Card
    from napari_grata.widgets.overlays import Way

# Of the screen's pixels: how long dashes and gaps are.
_DASH = 5.0
DARK = "#101010"

Line = tuple[np.ndarray, str]


def outlines(card: Card, mask: np.ndarray, hidden: set[int]) -> list[Line]:
    """Return the outlines of a label map (H, W): points (N, 2) and colour, smaller ones last.

    Where two structures share a border the smaller one's colour is seen, such as that of a
    ventricle.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    # A disc takes a hundredth of a photograph; the rest need not be gone through.
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corner = (rows[0] - 1, columns[0] - 1)
    inside = [
        (np.pad(structure_mask(card, part, structure), 1), structure.colour)
        for structure in card.structures
        if structure.value not in hidden
    ]
    inside.sort(key=lambda found: -int(found[0].sum()))
    return [
        (points + corner, colour)
        for area, colour in inside
        for points in find_contours(area.astype(np.uint8), 0.5)
    ]


def dashed(points: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut a line (N, 2) into dashes: points (M, 2), and which of the M - 1 pieces are gaps."""
    along = np.append(0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    at = np.union1d(along, np.arange(0, along[-1], length))
    cut = np.column_stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)])
    return cut, ((at[:-1] + at[1:]) // (2 * length)).astype(int) % 2 == 1


def _ink(colour: str) -> np.ndarray:
    """Return ``"#RRGGBB"`` as red, green, blue and opacity, each 0 … 1."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)] + [255]) / 255


class LineLayer:
    """Lines of one width on the screen: napari's vectors, which draw fast and have no handles.

    Parameters
    ----------
    way : Way
        To which the layer belongs.
    name : str
    width : float
        In pixels of the screen.
    dashes : bool
        With dark gaps, to be seen on any ground and on other lines.
    flat : bool
        Points are (y, x) of the world; else they are (row, column) of the scan's slice in view.
    """

    def __init__(
        self, way: Way, name: str, width: float, *, dashes: bool = False, flat: bool = False
    ) -> None:
        self._way, self._width, self._dashes, self._flat = way, width, dashes, flat
        self._lines: list[Line] = []
        # On the scan's own grid: the viewer's sliders count in the steps of the finest layer.
        arguments = {} if flat else way.placement()
        ndim = 2 if flat else len(way.scan.mask_shape)
        if flat:
            arguments["units"] = way.scan_layer.units[-2:]
        self.layer = Vectors(
            np.zeros((0, 2, ndim)),
            ndim=ndim,
            name=way.name(name),
            vector_style="line",
            opacity=1,
            metadata={KEY: {"role": "view"}},
            **arguments,
        )
        way.keep(self.layer)

    def draw(self, lines: list[Line]) -> None:
        """Draw these lines instead of those that are there."""
        self._lines = lines
        pixel = self._way.world_pixel if self._flat else self._way.pixel
        starts: list[np.ndarray] = []
        steps: list[np.ndarray] = []
        colours: list[np.ndarray] = []
        for points, colour in lines:
            gaps = np.zeros(len(points) - 1, dtype=bool)
            if self._dashes:
                points, gaps = dashed(points, max(_DASH * pixel, 0.5))
            starts.append(points[:-1])
            steps.append(np.diff(points, axis=0))
            colours.append(np.where(gaps[:, None], _ink(DARK), _ink(colour)))
        data = np.zeros((sum(map(len, starts)), 2, self.layer.ndim))
        if len(data):
            data[:, 0, -2:], data[:, 1, -2:] = np.concatenate(starts), np.concatenate(steps)
            if not self._flat:
                data[:, 0, :-2] = self._way.scan.slice_position(self._way.index)
        self._put(data, np.concatenate(colours) if colours else data)
        if self.layer.edge_width != self._width * pixel:
            self.layer.edge_width = self._width * pixel

    def _put(self, data: np.ndarray, colours: np.ndarray) -> None:
        """Give the layer its vectors: in place, or napari would work out a thumbnail each time.

        What is left over of the place repeats the last one.
        """
        count, place = len(data), self.layer.data
        size = len(place) if 0 < count <= len(place) else count + count // 2
        which = np.minimum(np.arange(size), count - 1)
        if count and size == len(place):
            place[...] = data[which]
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)
        else:
            self.layer.data = data[which]
        if count:
            self.layer.edge_color = colours[which]

    def zoomed(self) -> None:
        """Draw the same lines as wide on the screen as they were."""
        self.draw(self._lines)
