"""Where a scan's values come from: an array in memory (or mapped), or a list of photographs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.geometry import Geometry

#: Decoded photographs kept at hand, so that the viewer and the segmenter do not decode twice.
_KEPT = 4


class ArrayPixels:
    """Slices of one array that is already in displayed order.

    Parameters
    ----------
    array : array
        (…, H, W) or (…, H, W, 3); numpy, memory map, dask, or anything that slices like them.
    rgb : bool
        Whether the last axis is colour.
    """

    def __init__(self, array: Any, rgb: bool = False):
        self.array = array
        shape = tuple(int(n) for n in array.shape)
        self._spatial = shape[:-1] if rgb else shape
        self.count = int(np.prod(self._spatial[:-2], dtype=int))

    def read(self, i: int) -> np.ndarray:
        leading = self._spatial[:-2]
        position = tuple(int(p) for p in np.unravel_index(i, leading)) if leading else ()
        return np.asarray(self.array[position])

    def shape(self, i: int) -> tuple[int, int]:
        return self._spatial[-2], self._spatial[-1]

    def geometry(self, i: int) -> Geometry | None:
        return None

    def name(self, i: int) -> str | None:
        return None

    def path(self, i: int) -> Path | None:
        return None


class PhotographPixels:
    """Photographs read from their files when asked for; smaller ones are padded with zeros.

    Parameters
    ----------
    paths : sequence of Path
        One file per photograph.
    geometries : sequence of Geometry
        Stored size and orientation of each.
    load : callable
        ``load(i)`` decodes photograph `i` as displayed, (H, W) or (H, W, 3).
    rgb : bool
        Whether the stack is shown in colour.
    dtype : numpy dtype
        Type of the stack.
    stacked : bool
        Whether there is a slider (a list), even of one photograph.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        geometries: Sequence[Geometry],
        load: Callable[[int], np.ndarray],
        *,
        rgb: bool,
        dtype: np.dtype,
        stacked: bool,
    ):
        self.count = len(paths)
        self._paths = tuple(paths)
        self._geometries = tuple(geometries)
        self._load = load
        self._rgb = rgb
        self._dtype = dtype
        self._stacked = stacked
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def array(self) -> Any:
        if not self._stacked:
            picture = self.read(0)
            picture.flags.writeable = False
            return picture
        height = max(self.shape(i)[0] for i in range(self.count))
        width = max(self.shape(i)[1] for i in range(self.count))
        shape = (height, width, 3) if self._rgb else (height, width)

        def padded(i: int) -> np.ndarray:
            picture = self.read(i)
            frame = np.zeros(shape, dtype=self._dtype)
            frame[: picture.shape[0], : picture.shape[1]] = picture
            return frame

        # Only here: its import takes a second, and the dock opens before there is a scan.
        import dask
        import dask.array as da

        delayed = dask.delayed(padded, pure=False)
        return da.stack(
            [da.from_delayed(delayed(i), shape, dtype=self._dtype) for i in range(self.count)]
        )

    def read(self, i: int) -> np.ndarray:
        with self._lock:
            if i in self._kept:
                self._kept.move_to_end(i)
                return self._kept[i]
        picture = self._load(i)
        with self._lock:
            self._kept[i] = picture
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return picture

    def shape(self, i: int) -> tuple[int, int]:
        height, width = self._geometries[i].displayed_shape
        return height, width

    def geometry(self, i: int) -> Geometry | None:
        return self._geometries[i]

    def name(self, i: int) -> str | None:
        return self._paths[i].stem

    def path(self, i: int) -> Path | None:
        return self._paths[i]
