"""Read photographs: PNG, JPEG, TIFF, BMP; grey or colour, 8 or 16 bits, turned as EXIF says."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from napari_grata.scans.geometry import Geometry
from napari_grata.scans.scan import (
    Pixels,
    Scan,
    ScanError,
    check_content,
    check_dtype,
    check_size,
)

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES)
_ORIENTATION = 274
_AGAIN = "The file is damaged or not complete: copy or export it again."
#: Photographs of a list are all decoded once when opened, up to this many pixels together; of
#: what lies beyond only the headers and the end of the files are checked.
_DECODE_BUDGET = 50_000_000
#: Decoded photographs kept at hand, so that the viewer and the segmenter do not decode twice.
_KEPT = 4


@dataclass(frozen=True)
class PhotographInfo:
    """What a photograph's header says: stored size, colour, type, orientation."""

    path: Path
    geometry: Geometry
    rgb: bool
    dtype: np.dtype
    pages: int = 1


def is_photograph(path: Path) -> bool:
    """Whether a file's name says photograph."""
    return path.suffix.lower() in SUFFIXES


def open_photograph(path: Path) -> Scan:
    """Open one photograph, or a TIFF of several pages as a stack of slices."""
    info = inspect(path)
    if info.pages > 1:
        return _open_pages(path)
    picture = decode(info)
    check_content(lambda _: picture, 1, path)
    pixels = PhotographPixels(
        [path],
        [info.geometry],
        lambda _: picture,
        rgb=info.rgb,
        dtype=picture.dtype,
        stacked=False,
    )
    return Scan(
        name=path.stem,
        kind="photograph",
        pixels=pixels,
        geometry=info.geometry,
        rgb=info.rgb,
        path=path,
    )


def open_photographs(paths: Sequence[Path], name: str, folder: Path | None = None) -> Scan:
    """Open a list of photographs of any sizes as one stack, one case each.

    Grey photographs among colour ones are shown in colour; 8-bit ones among 16-bit ones are
    brought to the 16-bit range, so that one network input range fits all.
    """
    infos = [inspect(path) for path in paths]
    for info in infos:
        if info.pages > 1:
            raise ScanError(
                f"it has {info.pages} pages and cannot be one of a list of photographs",
                info.path,
                "Open it on its own.",
            )
    rgb = any(info.rgb for info in infos)
    dtype = max((info.dtype for info in infos), key=lambda d: (d.kind == "f", d.itemsize))

    def load(i: int) -> np.ndarray:
        picture = decode(infos[i])
        if rgb and picture.ndim == 2:
            picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
        if picture.dtype == np.uint8 and dtype == np.uint16:
            return picture.astype(np.uint16) * np.uint16(257)
        return picture.astype(dtype, copy=False)

    budget = _DECODE_BUDGET
    for i, info in enumerate(infos):
        budget -= int(np.prod(info.geometry.source_shape))
        if budget >= 0:
            check_content(lambda _, i=i: load(i), 1, info.path)  # type: ignore[misc]
        else:
            _check_end(info.path)
    geometries = [info.geometry for info in infos]
    pixels = PhotographPixels(paths, geometries, load, rgb=rgb, dtype=dtype, stacked=True)
    shape = (len(paths), *np.max([g.displayed_shape for g in geometries], axis=0))
    return Scan(
        name=name,
        kind="photographs",
        pixels=pixels,
        geometry=Geometry.plain(shape, axis_labels=("photograph", "row", "column")),
        rgb=rgb,
        path=folder,
    )


def inspect(path: Path) -> PhotographInfo:
    """Read a photograph's header."""
    if path.stat().st_size == 0:
        raise ScanError("the file is empty (0 bytes)", path, _AGAIN)
    if path.suffix.lower() in TIFF_SUFFIXES:
        return _inspect_tiff(path)
    try:
        with _open_image(path) as image:
            width, height = image.size
            orientation = int(image.getexif().get(_ORIENTATION, 1))
            rgb, dtype = _mode(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError("it cannot be read as a photograph", path, _AGAIN) from error
    check_size((height, width, 3 if rgb else 1), dtype.itemsize, path)
    return PhotographInfo(path, Geometry.exif((height, width), orientation), rgb, dtype)


def _inspect_tiff(path: Path) -> PhotographInfo:
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            page = file.pages.first
            tag = page.tags.get(_ORIENTATION)
            orientation = int(tag.value) if tag is not None else 1
            shape, axes, dtype = series.shape, series.axes, np.dtype(series.dtype)
            palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError) as error:
        raise ScanError("it cannot be read as TIFF", path, _AGAIN) from error
    check_dtype(dtype, path)
    check_size(tuple(shape), dtype.itemsize, path)
    size = dict(zip(axes, shape, strict=True))
    if "Y" not in size or "X" not in size:
        raise ScanError(f"its axes {axes} are not those of a picture", path, "Export it as RGB.")
    samples = size.get("S", 1)
    pages = int(np.prod([n for axis, n in size.items() if axis not in "YXS"], dtype=int))
    rgb = samples >= 3 or palette
    geometry = Geometry.exif((size["Y"], size["X"]), orientation)
    return PhotographInfo(path, geometry, rgb, np.dtype(np.uint8) if palette else dtype, pages)


def decode(info: PhotographInfo) -> np.ndarray:
    """Read a photograph in its displayed orientation, (H, W) or (H, W, 3); alpha is dropped."""
    path = info.path
    try:
        stored = _decode_tiff(info) if path.suffix.lower() in TIFF_SUFFIXES else _decode_pil(path)
    except (OSError, SyntaxError, ValueError, EOFError, tifffile.TiffFileError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError("it breaks off or is damaged inside", path, _AGAIN) from error
    return np.ascontiguousarray(info.geometry.to_display(stored))


def _decode_pil(path: Path) -> np.ndarray:
    with _open_image(path) as image:
        rgb, dtype = _mode(image)
        if rgb:
            return np.array(image.convert("RGB"))
        if image.mode in ("1", "LA", "La"):
            return np.array(image.convert("L"))
        return np.array(image).astype(dtype, copy=False)


def _decode_tiff(info: PhotographInfo) -> np.ndarray:
    try:
        with tifffile.TiffFile(info.path) as file:
            series = file.series[0]
            if file.pages.first.photometric == tifffile.PHOTOMETRIC.PALETTE:
                return _decode_pil(info.path)
            array = series.asarray()
            axes = series.axes
    except (ValueError, ImportError, NotImplementedError):
        # Compressions that tifffile needs a further package for; Pillow knows the common ones.
        return _decode_pil(info.path)
    keep = [axis for axis, n in zip(axes, array.shape, strict=True) if axis in "YXS" or n > 1]
    array = array.reshape([array.shape[axes.index(axis)] for axis in keep])
    order = [keep.index(axis) for axis in "YXS" if axis in keep]
    array = array.transpose(order)
    if array.ndim == 3:
        array = array[..., :3] if info.rgb else array[..., 0]
    return array


def _open_pages(path: Path) -> Scan:
    """Open a TIFF of several pages as a volume of unknown spacing."""
    try:
        array = tifffile.imread(path)
    except (OSError, ValueError, EOFError, ImportError, tifffile.TiffFileError) as error:
        raise ScanError("its pages cannot be read", path, _AGAIN) from error
    array = np.squeeze(array)
    if array.ndim != 3:
        raise ScanError(
            f"its shape {' × '.join(map(str, array.shape))} is not a plain stack of grey pages",
            path,
            "Export it as one stack of grey pages, or as separate photographs.",
        )
    pixels = Pixels(array)
    check_content(pixels.read, pixels.count, path)
    return Scan(
        name=path.stem,
        kind="volume",
        pixels=pixels,
        geometry=Geometry.plain(array.shape),
        path=path,
    )


def _open_image(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(path)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ScanError(
                "it is too large: more than 89 million pixels",
                path,
                "If that size is right, crop or downsample it first; if not, it is damaged.",
            ) from error


def _mode(image: Image.Image) -> tuple[bool, np.dtype]:
    """Whether a Pillow image is in colour, and the type of its values."""
    mode = image.mode
    if mode in ("1", "L", "LA", "La"):
        return False, np.dtype(np.uint8)
    if mode.startswith("I"):
        # 16-bit PNG files are "I" in older versions of Pillow.
        return False, np.dtype(np.uint16)
    if mode == "F":
        return False, np.dtype(np.float32)
    return True, np.dtype(np.uint8)


def _check_end(path: Path) -> None:
    """Refuse PNG and JPEG files whose end is missing, without decoding them."""
    ends = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
    end = ends.get(path.suffix.lower())
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        if end is not None and end not in file.read():
            raise ScanError("it breaks off before its end", path, _AGAIN)


class PhotographPixels(Pixels):
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
