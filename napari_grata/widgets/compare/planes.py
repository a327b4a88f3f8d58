"""The plane of a layer that is in view: which pixels, and where they lie in the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QSize
from qtpy.QtGui import QTransform

from napari_grata.widgets.viewer_parts import camera_of


@dataclass(frozen=True)
class Plane:
    """A plane through a layer's data.

    Attributes
    ----------
    axes : (int, int)
        The layer's axes that run down and across.
    index : tuple of int
        Place on each axis of the layer; without meaning on the two axes of the plane.
    matrix : ndarray, shape (3, 3)
        From (row, column, 1) in the layer's pixels to (down, across, 1) in the world.
    """

    axes: tuple[int, int]
    index: tuple[int, ...]
    matrix: np.ndarray

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells this plane's pixels from those of other planes of the same layer."""
        rest = tuple(i for axis, i in enumerate(self.index) if axis not in self.axes)
        return (self.axes, rest)

    def cut(self, data: Any) -> np.ndarray:
        """Return the pixels of the plane, shape (rows, columns) and colours if there are any."""
        where = tuple(slice(None) if axis in self.axes else i for axis, i in enumerate(self.index))
        found = np.asarray(data[where])
        return found if self.axes[0] < self.axes[1] else np.swapaxes(found, 0, 1)

    def transform(self, world_to_screen: QTransform) -> QTransform:
        """Return the way from (column, row) in pixels to the screen."""
        m = self.matrix
        to_world = QTransform(
            float(m[1, 1]),
            float(m[0, 1]),
            float(m[1, 0]),
            float(m[0, 0]),
            float(m[1, 2]),
            float(m[0, 2]),
        )
        return to_world * world_to_screen


def plane_along(layer: Any, point: np.ndarray, world_axes: tuple[int, int]) -> Plane | None:
    """Return the plane through a point of the world, along two axes of the world.

    Parameters
    ----------
    layer : Layer
    point : ndarray, shape (layer.ndim,)
        In the world, of the layer's own axes (the last ones of the viewer).
    world_axes : (int, int)
        Which of these run down and across.

    Returns
    -------
    Plane or None
        None where the point lies outside the layer.
    """
    row, column = world_axes
    base = np.asarray(layer.world_to_data(point), dtype=float)
    index = np.rint(base).astype(int)
    shape = layer.data.shape[: layer.ndim]
    for axis in range(layer.ndim):
        if axis not in world_axes and not 0 <= index[axis] < shape[axis]:
            return None
    base[[row, column]] = 0
    origin = np.asarray(layer.data_to_world(base), dtype=float)
    matrix = np.eye(3)
    for place, axis in enumerate(world_axes):
        step = base.copy()
        step[axis] = 1
        matrix[:2, place] = (np.asarray(layer.data_to_world(step)) - origin)[[row, column]]
    matrix[:2, 2] = origin[[row, column]]
    return Plane((row, column), tuple(int(i) for i in index), matrix)


def plane_in_view(viewer: Any, layer: Any) -> Plane | None:
    """Return the plane of a layer that the viewer shows, None where it shows none of it."""
    displayed = tuple(viewer.dims.displayed)
    first = viewer.dims.ndim - layer.ndim
    if len(displayed) != 2 or min(displayed) < first:
        return None
    point = np.asarray(viewer.dims.point, dtype=float)[first:]
    return plane_along(layer, point, (displayed[0] - first, displayed[1] - first))


def world_to_screen(viewer: Any, size: QSize) -> QTransform:
    """Return the way from (across, down) in the world to a flat canvas of this size."""
    camera = camera_of(viewer)
    down, across = camera.center[-2:]
    zoom = float(camera.zoom)
    turned = getattr(camera, "orientation2d", ("down", "right"))
    vertical = zoom if turned[0] == "down" else -zoom
    horizontal = zoom if turned[1] == "right" else -zoom
    return QTransform(
        horizontal,
        0.0,
        0.0,
        vertical,
        size.width() / 2 - horizontal * float(across),
        size.height() / 2 - vertical * float(down),
    )
