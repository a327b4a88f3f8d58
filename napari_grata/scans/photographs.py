"""The reader of photographs: PNG, JPEG, TIFF, BMP; any colour space, 1 to 64 bits, any EXIF turn.

Pillow decodes whatever it keeps whole. TIFF files of more than eight bits a sample go to tifffile
where they are stored in a way that it knows by itself, since Pillow would narrow or refuse them.
What neither gets right is refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from napari_grata.scans.checks import (
    AGAIN,
    check_content,
    check_dtype,
    check_size,
    guard,
    size_of,
)
from napari_grata.scans.files import stem, write_bytes
from napari_grata.scans.geometry import Geometry
from napari_grata.scans.scan import Label, Scan, ScanError, times

TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES)
WORDS = "photographs (.png, .jpg, .tif)"
#: More pixels than any camera of the eye takes; from here on Pillow warns, too.
MOST_PIXELS = 89_478_485
#: Okabe and Ito's colours, for structures without one of their own.
DEFAULT_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
_ORIENTATION = 274
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
#: Modes of Pillow that are turned into RGB.
_IN_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
#: Photometric interpretations of TIFF.
_COLOUR_SPACES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr"}
#: TIFF's levels of black and white that leave YCbCr as JPEG has it.
_FULL_RANGE = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)
_DEFLATE = (8, 32946)
#: Compressions of TIFF that tifffile unpacks by itself, and may be asked to.
_PLAIN = (1, 32773, *_DEFLATE)
#: Bytes of a picture that one byte of a file can hold at most, by the usual compressions …
_MOST_PACKED = 2500
#: … and those without such a bound: CCITT, LZMA, Zstandard, WebP, JPEG 2000.
_UNBOUNDED = (2, 3, 4, 34712, 34925, 50000, 50001)
_AS_RGB = "Export it as plain 8-bit RGB or grey."
_NARROWED = "Of its 16 bits a colour, the upper 8 are read."
#: Photographs of a list are all decoded once when opened, up to this many pixels together; of
#: what lies beyond only the headers and the end of the files are checked.
_DECODE_BUDGET = 50_000_000
#: Decoded photographs kept at hand, so that the viewer and the segmenter do not decode twice.
_KEPT = 4


@dataclass(frozen=True)
class PhotographInfo:
    """What a photograph's header says.

    Attributes
    ----------
    path : Path
    geometry : Geometry
        Stored size and orientation; of a file of several pages, with those as first axis.
    rgb : bool
    dtype : numpy dtype
        Of the decoded values.
    bits : int
        Bits a sample as stored.
    white_is_zero : bool
        Whether 0 is stored for white.
    by_tifffile : bool
        Which library decodes it.
    notices : tuple of str
    """

    path: Path
    geometry: Geometry
    rgb: bool
    dtype: np.dtype[Any]
    bits: int = 8
    white_is_zero: bool = False
    by_tifffile: bool = False
    notices: tuple[str, ...] = ()

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.geometry.source_shape[0] if len(self.geometry.source_shape) > 2 else 1


def is_photograph(path: Path) -> bool:
    """Whether a file's name says photograph."""
    return path.suffix.lower() in SUFFIXES


def find(files: Sequence[Path]) -> list[Path]:
    """The photographs among the files of one folder."""
    return [path for path in files if is_photograph(path)]


def read(path: Path) -> Scan:
    """Open one photograph, or a TIFF of several pages as a stack of slices."""
    info = inspect(path)
    picture = decode(info)
    picture.flags.writeable = False
    scan = Scan(
        name=stem(path),
        kind="volume" if info.pages > 1 else "photograph",
        data=picture,
        geometry=info.geometry,
        rgb=info.rgb,
        path=path,
    )
    scan.notices = info.notices + check_content(scan.peek, scan.n_slices, path)
    return scan


def shape_of(path: Path) -> tuple[int, ...]:
    """Size along each axis as shown, by the header alone."""
    return inspect(path).geometry.displayed_shape


def read_list(paths: Sequence[Path], name: str, folder: Path | None = None) -> Scan:
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
    return PhotographList(infos, name, folder)


class PhotographList(Scan):
    """Photographs read from their files when asked for; smaller ones are padded with zeros.

    All are decoded once when the list is opened, up to `_DECODE_BUDGET` pixels together.
    """

    def __init__(self, infos: Sequence[PhotographInfo], name: str, folder: Path | None):
        self._infos = tuple(infos)
        dtypes = [info.dtype for info in infos]
        self._dtype = max(dtypes, key=lambda dtype: (dtype.kind == "f", dtype.itemsize))
        self._decoded = lru_cache(_KEPT)(self._load)
        shape = (len(infos), *np.max([i.geometry.displayed_shape for i in infos], axis=0))
        super().__init__(
            name=name,
            kind="photographs",
            data=None,
            geometry=Geometry.plain(shape, axis_labels=("photograph", "row", "column")),
            rgb=any(info.rgb for info in infos),
            path=folder,
        )
        notices = {notice: None for info in infos for notice in info.notices}
        budget = _DECODE_BUDGET
        for i, info in enumerate(infos):
            budget -= math.prod(info.geometry.source_shape)
            if budget >= 0:
                told = check_content(lambda _, i=i: self._load(i), 1, info.path)  # type: ignore[misc]
                notices |= {f"Photograph {i + 1}: {notice}": None for notice in told}
            else:
                _check_end(info.path)
        self.notices = tuple(notices)

    @cached_property
    def data(self) -> Any:
        shape = self.mask_shape[1:] + ((3,) if self.rgb else ())

        def padded(i: int) -> np.ndarray:
            picture = self.peek(i)
            frame = np.zeros(shape, dtype=self._dtype)
            frame[: picture.shape[0], : picture.shape[1]] = picture
            return frame

        # Only here: its import takes a second, and the dock opens before there is a scan.
        import dask.array as da
        from dask.delayed import delayed as make_delayed

        delayed = make_delayed(padded, pure=False)
        return da.stack(
            [da.from_delayed(delayed(i), shape, dtype=self._dtype) for i in range(self.n_slices)]
        )

    def _load(self, i: int) -> np.ndarray:
        picture = decode(self._info(i))
        if self.rgb and picture.ndim == 2:
            picture = np.repeat(picture[..., np.newaxis], 3, axis=2)
        if picture.dtype == np.uint8 and self._dtype == np.uint16:
            return picture.astype(np.uint16) * np.uint16(257)
        return picture.astype(self._dtype, copy=False)

    def _info(self, i: int) -> PhotographInfo:
        self._check_index(i)
        return self._infos[i]

    def peek(self, i: int) -> np.ndarray:
        return self._decoded(i)

    def slice_geometry(self, i: int) -> Geometry:
        return self._info(i).geometry

    def slice_name(self, i: int) -> str:
        return stem(self._info(i).path)

    def slice_path(self, i: int) -> Path | None:
        return self._info(i).path


# -- headers -------------------------------------------------------------------------------


def inspect(path: Path) -> PhotographInfo:
    """Read a photograph's header, and refuse what would not be decoded rightly.

    Raises
    ------
    ScanError
        Damaged files, more pixels than `MOST_PIXELS` or than the file can hold, colour spaces
        and types of values that neither library keeps whole.
    """
    size = size_of(path)
    with path.open("rb") as file:
        head = file.read(26)
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _inspect_tiff(path, size)
    with guard("it cannot be read as a photograph", path), _open(path) as image:
        width, height = image.size
        # Bytes 24 and 25 of a PNG file: bits a sample, and its type of colour. Of masks it is 1.
        bits = head[24] if image.format == "PNG" and 0 < head[24] < 8 else 8
        pixel_bytes = len(image.getbands()) * bits / 8
        _check_pixels(height, width, pixel_bytes, size, _MOST_PACKED, path)
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise ScanError("it holds several pictures, one after another", path, _AS_RGB)
        orientation = _orientation(image)
        mode, png = image.mode, image.format == "PNG"
    grey = mode in ("1", "L", "LA", "La", "I") or mode.startswith("I;16")
    if not (grey or mode in _IN_COLOUR):
        raise ScanError(f"its colours are of a kind that is not read ({mode})", path, _AS_RGB)
    # 16-bit grey PNG files are "I" in older versions of Pillow.
    wide = mode.startswith("I")
    narrowed = png and head[24] == 16 and not wide
    return PhotographInfo(
        path,
        Geometry.exif((height, width), orientation),
        rgb=not grey,
        dtype=np.dtype(np.uint16 if wide else np.uint8),
        notices=(_NARROWED,) if narrowed else (),
    )


def _inspect_tiff(path: Path, size: int) -> PhotographInfo:
    with guard("it cannot be read as TIFF", path), tifffile.TiffFile(path) as file:
        series: Any = file.series[0]
        page: Any = file.pages.first
        sides = dict(zip(series.axes, (int(n) for n in series.shape), strict=True))
        more = len(file.series) - 1
        photometric, compression = page.tags.valueof(262), int(page.compression)
        bits, samples = int(page.bitspersample), int(page.samplesperpixel)
        extras = tuple(int(n) for n in page.extrasamples)
        dtype = None if page.dtype is None else np.dtype(page.dtype)
        little = file.byteorder == "<"
        orientation = _whole(page.tags.valueof(_ORIENTATION, 1))
        subsampled = page.tags.valueof(530, (2, 2)) != (1, 1)
        levels = page.tags.valueof(532, _FULL_RANGE)
        planes = page.planarconfig or 1
        parts = _parts(page)
    space = _COLOUR_SPACES.get(photometric)
    if "Y" not in sides or "X" not in sides:
        raise ScanError("its axes are not those of a picture", path, _AS_RGB)
    if dtype is not None:
        check_dtype(dtype, path)
    height, width = sides["Y"], sides["X"]
    pages = math.prod(n for axis, n in sides.items() if axis not in "YXS")
    stretch = math.inf if compression in _UNBOUNDED else 1 if compression == 1 else _MOST_PACKED
    _check_pixels(height, width, pages * samples * bits / 8, size, stretch, path)
    _check_parts(parts, size, path)
    check_size((pages, height, width, samples), max(bits // 8, 1), path)
    if pages > 1 and (space != "grey" or samples > 1):
        raise ScanError(
            f"it is not a plain stack of grey pages ({pages} of {samples} samples each)",
            path,
            "Export it as one stack of grey pages, or as separate photographs.",
        )
    mode, frames = _pillow_mode(path)
    main = 3 if space == "RGB" else 1
    by_tifffile = (
        space in ("grey", "RGB")
        and compression in _PLAIN
        and dtype is not None
        and bits in (8, 16, 32, 64)
        and (bits > 8 or mode is None or dtype.kind == "i")
        and samples in (main + len(extras), 4 if space == "RGB" else 1)
        and 1 not in extras  # colours that are multiplied by an opacity
    )
    by_pillow = (
        mode is not None
        and (pages == 1 or frames == pages)
        and (space != "YCbCr" or compression != 1 or not (subsampled or levels != _FULL_RANGE))
        and (bits <= 8 or int(planes) == 1)
        and _pillow_keeps(mode, bits, dtype, little)
    )
    white_is_zero = photometric == 0
    known = space is not None and (by_tifffile or by_pillow)
    if not known or (white_is_zero and bits >= 8 and (dtype is None or dtype.kind != "u")):
        raise ScanError(
            f"its colours are stored in a way that is not read ({space or photometric}, {bits} "
            f"bits, compression {compression})",
            path,
            _AS_RGB,
        )
    narrowed = not by_tifffile and bits == 16 and mode in _IN_COLOUR
    return PhotographInfo(
        path,
        Geometry.exif((pages, height, width) if pages > 1 else (height, width), orientation),
        rgb=space != "grey",
        dtype=_decoded_type(dtype, bits, narrowed),
        bits=bits,
        white_is_zero=white_is_zero,
        by_tifffile=by_tifffile,
        notices=(_NARROWED,) * narrowed
        + (f"Only the first of its {more + 1} pictures is read.",) * (more > 0),
    )


def _pillow_mode(path: Path) -> tuple[str | None, int]:
    """Mode and number of frames of a file that Pillow knows."""
    try:
        with _open(path) as image:
            return image.mode, int(getattr(image, "n_frames", 1))
    except (ScanError, MemoryError):
        raise
    except Exception:
        # Whatever a damaged header makes Pillow raise: tifffile may still know better.
        return None, 0


def _pillow_keeps(mode: str, bits: int, dtype: np.dtype[Any] | None, little: bool) -> bool:
    """Whether Pillow's mode holds all that is stored, or colours of which it drops low bits."""
    if mode in ("LAB", "HSV") or dtype == np.int8:
        return False
    if bits <= 8 or mode in _IN_COLOUR:
        return bits <= 16
    if mode.startswith("I;16"):
        return bits == 12 or dtype == np.uint16
    # Compressed ones of the other byte order come out with their bytes swapped.
    return little and dtype in {"I": (np.int16, np.int32), "F": (np.float32,)}.get(mode, ())


def _decoded_type(dtype: np.dtype[Any] | None, bits: int, narrowed: bool) -> np.dtype[Any]:
    if bits == 12:
        return np.dtype(np.uint16)
    if bits < 8 or narrowed or dtype is None:
        return np.dtype(np.uint8)
    # Half precision is for storing: neither napari nor torch calculate with it everywhere.
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _too_large(size: str, path: Path) -> ScanError:
    return ScanError(
        f"it is too large: {size}more than 89 million pixels",
        path,
        "If that size is right, crop or downsample it first; if not, it is damaged.",
    )


def _check_pixels(
    height: int, width: int, pixel_bytes: float, size: int, stretch: float, path: Path
) -> None:
    """Refuse sizes that no photograph has, or that the file cannot hold; nothing is decoded yet."""
    check_size((height, width), 1, path)
    if height * width > MOST_PIXELS:
        raise _too_large(f"{height} × {width}, ", path)
    if height * width * pixel_bytes > size * stretch:
        raise ScanError(
            f"it is cut short: a file of {size:,} bytes cannot hold {height} × {width} pixels",
            path,
            AGAIN,
        )


def _parts(page: Any) -> list[tuple[int, int]]:
    """Place and length of each strip or tile of a TIFF page, (0, 0) where some are not there."""
    if page is None:  # stored in one piece with the first page
        return []
    parts = [(int(o), int(n)) for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    return parts if len(parts) >= math.prod(page.chunked) else [*parts, (0, 0)]


def _check_parts(parts: Sequence[tuple[int, int]], size: int, path: Path) -> None:
    """Refuse TIFF files in which parts of a picture are missing: they would be black."""
    if any(count < 1 or offset < 8 or offset + count > size for offset, count in parts):
        raise ScanError("it breaks off: parts of the picture are missing", path, AGAIN)


# -- pixels --------------------------------------------------------------------------------


def decode(info: PhotographInfo, *, as_labels: bool = False) -> np.ndarray:
    """Read a photograph in its displayed orientation.

    Parameters
    ----------
    info : PhotographInfo
    as_labels : bool
        Whether it is a mask: of a palette picture the indices are read.

    Returns
    -------
    ndarray, shape (H, W), (H, W, 3) or (pages, H, W)
        Alpha is dropped; values of fewer bits are brought to the range of 8 or 16.
    """
    if as_labels and info.white_is_zero:
        raise ScanError("0 is stored for white in it", info.path, "Export it with 0 for black.")
    with guard("it breaks off or is damaged inside", info.path):
        shown = _by_tifffile(info) if info.by_tifffile else _by_pillow(info, as_labels)
        if shown.shape[: len(info.geometry.axes)] != info.geometry.displayed_shape:
            raise ScanError("its size is not the one in its header", info.path, AGAIN)
    if as_labels:
        return shown
    if info.bits == 12:
        shown = (shown << 4) | (shown >> 8)
    # Pillow shows 8-bit samples of 0 for white rightly, and leaves wider ones as they are.
    if info.white_is_zero and (info.by_tifffile or info.bits > 8):
        shown = np.iinfo(shown.dtype).max - shown
    return np.ascontiguousarray(shown.astype(info.dtype, copy=False))


def _by_tifffile(info: PhotographInfo) -> np.ndarray:
    size = info.path.stat().st_size
    with tifffile.TiffFile(info.path) as file:
        series: Any = file.series[0]
        for page in series.pages:
            _check_parts(_parts(page), size, info.path)
        if int(file.pages.first.compression) in _DEFLATE:
            _check_inflated(file, series, info.path)
        array, axes = series.asarray(), series.axes
    order = sorted(range(len(axes)), key=lambda k: "YXS".find(axes[k]))
    array = array.transpose(order).reshape(*info.geometry.source_shape, -1)
    array = array[..., :3] if info.rgb else array[..., 0]
    return info.geometry.to_display(array)


def _check_inflated(file: Any, series: Any, path: Path) -> None:
    """Refuse parts that unpack to more than their share of the picture."""
    for page in series.pages:
        whole = math.prod(file.pages.first.chunks) * file.pages.first.dtype.itemsize
        for offset, count in _parts(page):
            file.filehandle.seek(offset)
            unpacked = zlib.decompressobj().decompress(file.filehandle.read(count), whole + 1)
            if len(unpacked) > whole:
                raise ScanError("parts of it unpack to more than the picture", path, AGAIN)


def _by_pillow(info: PhotographInfo, as_labels: bool) -> np.ndarray:
    found = []
    with _open(info.path) as image:
        for k in range(info.pages):
            image.seek(k)
            before, stored = _orientation(image), info.geometry.source_shape[-2:]
            image.load()
            values = _values(image, as_labels)
            # Some versions turn some files while loading, and then forget the tag.
            if before != 1 and _orientation(image) == 1:
                values = Geometry.exif(stored, before).to_source(values)
            found.append(Geometry.exif(stored, info.geometry.orientation).to_display(values))
    return np.stack(found) if info.pages > 1 else found[0]


def _values(image: Image.Image, as_labels: bool) -> np.ndarray:
    mode = image.mode
    if mode in ("L", "I", "F") or mode.startswith("I;16"):
        return np.array(image)
    if as_labels and mode in ("1", "P", "PA"):
        values = np.array(image)
        return (values[..., 0] if values.ndim > 2 else values).astype(np.uint8)
    if mode in ("La", "RGBa"):  # colours that are multiplied by an opacity
        image = image.convert("LA" if mode == "La" else "RGBA")
    return np.array(image.convert("L" if mode in ("1", "LA", "La") else "RGB"))


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    # By its name Pillow would map some files, and mix up rows and columns of those that are turned.
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large("", path) from error


def _orientation(image: Image.Image) -> int:
    return _whole(image.getexif().get(_ORIENTATION, 1))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_end(path: Path) -> None:
    """Refuse PNG and JPEG files whose end is missing, without decoding them."""
    ends = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 4096, 0))
        if ends.get(path.suffix.lower(), b"") not in file.read():
            raise ScanError("it breaks off before its end", path, AGAIN)


# -- masks ---------------------------------------------------------------------------------


def check_mask(scan: Scan, path: Path) -> None:
    """Refuse scans that lie in a body, and pictures that lose values or pages."""
    flat = path.suffix.lower() == ".png" and len(scan.mask_shape) == 2
    in_body = scan.geometry.header is not None or scan.geometry.affine is not None
    if in_body or not (flat or path.suffix.lower() in TIFF_SUFFIXES):
        raise scan.wrong_mask_type(path)


def write_mask(
    labels: np.ndarray, scan: Scan, path: Path, legend: Mapping[int, Label]
) -> list[Path]:
    """Write a mask as stored: a palette PNG, or a TIFF of grey pages."""
    if path.suffix.lower() in TIFF_SUFFIXES:
        data = _tiff(labels, scan.geometry)
    else:
        colours = {value: label.colour for value, label in legend.items() if label.colour}
        data = png(labels, scan.geometry, colours, path)
    write_bytes(path, data)
    return [path]


def png(labels: np.ndarray, geometry: Geometry, colours: Mapping[int, str], path: Path) -> bytes:
    """A palette picture whose indices are the label values, on the photograph's stored grid."""
    if labels.max(initial=0) > 255:
        raise ScanError("a PNG mask holds label values up to 255", path, "Use fewer labels.")
    source = np.ascontiguousarray(geometry.to_source(labels.astype(np.uint8, copy=False)))
    image = Image.fromarray(source).convert("P")
    table = [0, 0, 0]
    for value in range(1, 256):
        code = colours.get(value, DEFAULT_COLOURS[(value - 1) % len(DEFAULT_COLOURS)])
        table += [int(code[k : k + 2], 16) for k in (1, 3, 5)]
    image.putpalette(table)
    # The same tag as the photograph's: programs that turn the one turn the other.
    exif = Image.Exif()
    if geometry.orientation != 1:
        exif[_ORIENTATION] = geometry.orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def _tiff(labels: np.ndarray, geometry: Geometry) -> bytes:
    buffer = io.BytesIO()
    tag = [(_ORIENTATION, 3, 1, geometry.orientation, True)] if geometry.orientation != 1 else []
    pages = np.ascontiguousarray(geometry.to_source(labels))
    tifffile.imwrite(
        buffer, pages, photometric="minisblack", extratags=tag, metadata=None, software=False
    )
    return buffer.getvalue()


def read_mask(path: Path, scan: Scan, i: int | None) -> np.ndarray:
    """Read a picture, or a stack of pages, that is the mask of a scan, or of its slice `i`."""
    info = inspect(path)
    values = decode(info, as_labels=True)
    if info.rgb and values.ndim == 3:
        if not (values[..., :1] == values).all():
            raise ScanError(
                "the mask is a colour picture",
                path,
                "Convert it to one grey value for each structure.",
            )
        values = values[..., 0]
    wanted = scan.mask_shape if i is None else scan.slice_shape(i)
    if values.shape != wanted:
        raise ScanError(
            f"the mask is {times(values.shape)}, the {scan.noun if len(wanted) == 2 else 'scan'} "
            f"{times(wanted)}",
            path,
            "Choose the mask that belongs to it.",
        )
    return values
