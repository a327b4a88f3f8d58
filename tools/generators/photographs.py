"""Photographs: mode × compression × orientation × bit depth, and damaged ones.

Oracle: the very pixels that were stored, brought to RGB by Pillow and turned by numpy; for damaged
files what Pillow (or, where Pillow cannot, tifffile) makes of them.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

from napari_grata.scans import open_scan

from . import damaged, expect, must_be_taken

ORIENTATION = 274
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
#: Compressions of TIFF that Pillow writes, and the modes that each can hold.
COMPRESSIONS = {
    "raw": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I", "F"),
    "tiff_lzw": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
    "tiff_adobe_deflate": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"),
    "packbits": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "jpeg": ("L", "RGB", "YCbCr"),
    "group4": ("1",),
    "tiff_lzma": ("L", "RGB", "I;16"),
}
LOSSY = ("jpeg",)


@dataclass(frozen=True)
class File:
    """A photograph.

    Attributes
    ----------
    path : Path
    expected : ndarray or None
        What has to be shown; None where only an oracle can tell.
    good : bool
        Whether it has to be taken.
    what : str
        For messages.
    """

    path: Path
    expected: np.ndarray | None
    good: bool
    what: str


def make(random: Random, folder: Path, *, damage: float = 0.35) -> File:
    """Make one file; with the chance `damage`, a damaged one."""
    rng = np.random.default_rng(random.randrange(2**32))
    made = random.choice((by_pillow, by_pillow, by_tifffile, plain_formats))(random, rng, folder)
    if random.random() < damage:
        made.path.write_bytes(damaged(random, made.path.read_bytes()))
        return File(made.path, None, False, f"damaged {made.what}")
    return made


def picture(
    rng: np.random.Generator, mode: str, size: tuple[int, int] | None = None
) -> Image.Image:
    """A picture of noise in a mode of Pillow's."""
    height, width = size or tuple(rng.integers(2, 40, 2))
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, (height, width), dtype=np.uint8) * 255).convert(
            "1"
        )
    if mode == "P":
        image = Image.fromarray(rng.integers(0, 200, (height, width), dtype=np.uint8)).convert("P")
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tolist())
        return image
    if mode.startswith("I;16"):
        values = rng.integers(0, 65536, (height, width), dtype=np.uint16)
        return Image.frombytes(
            mode, (width, height), values.astype(">u2" if "B" in mode else "<u2").tobytes()
        )
    if mode == "I":
        return Image.fromarray(rng.integers(-(2**30), 2**30, (height, width), dtype=np.int32))
    if mode == "F":
        return Image.fromarray(rng.normal(size=(height, width)).astype(np.float32))
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "LAB": 3}[mode]
    values = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.frombytes(mode, (int(width), int(height)), values.tobytes())


def shown(image: Image.Image) -> np.ndarray:
    """The values of a picture in memory, as a scan shows them."""
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    if image.mode in ("L", "I", "F") or image.mode.startswith("I;16"):
        values = np.array(image)
        return values.astype(values.dtype.newbyteorder("="))
    return np.array(image.convert("RGB"))


def by_pillow(random: Random, rng: np.random.Generator, folder: Path) -> File:
    """A TIFF file by Pillow."""
    compression = random.choice(tuple(COMPRESSIONS))
    mode = random.choice(COMPRESSIONS[compression])
    orientation = random.choice((1, 1, *range(2, 9)))
    return save_tiff(picture(rng, mode), folder, compression, orientation)


def save_tiff(image: Image.Image, folder: Path, compression: str, orientation: int) -> File:
    """Write a picture of any mode as TIFF with Pillow."""
    path = folder / "eye.tif"
    options: dict[str, Any] = {} if compression == "raw" else {"compression": compression}
    image.save(path, tiffinfo={ORIENTATION: orientation}, **options)
    what = f"{image.mode} {compression} orientation {orientation}"
    expected = None if compression in LOSSY else TURNS[orientation](shown(image))
    return File(path, expected, True, what)


def by_tifffile(random: Random, rng: np.random.Generator, folder: Path) -> File:
    """A TIFF file by tifffile: wide types, planes, tiles, either byte order, several pages."""
    dtype = random.choice(("u1", "i1", "u2", "u4", "i2", "i4", "f2", "f4", "f8"))
    samples = random.choice((1, 1, 3, 4))
    orientation = random.choice((1, 1, *range(2, 9)))
    white_is_zero = samples == 1 and random.random() < 0.3
    options: dict[str, Any] = {
        "compression": random.choice((None, None, "zlib")),
        "byteorder": random.choice("<>"),
    }
    if samples > 1:
        options["planarconfig"] = random.choice(("contig", "separate"))
    if random.random() < 0.3:
        options["tile"] = (16, 32)
    if options["compression"] and dtype[0] in "ui" and random.random() < 0.5:
        options["predictor"] = True
    pages = random.choice((2, 3)) if samples == 1 and random.random() < 0.2 else 1
    return save_wide(rng, folder, dtype, samples, orientation, white_is_zero, pages, **options)


def save_wide(
    rng: np.random.Generator,
    folder: Path,
    dtype: str,
    samples: int = 1,
    orientation: int = 1,
    white_is_zero: bool = False,
    pages: int = 1,
    **options: Any,
) -> File:
    """Write noise of any type as TIFF with tifffile."""
    size = tuple(int(n) for n in rng.integers(2, 40, 2))
    shape = ((pages,) if pages > 1 else ()) + size + ((samples,) if samples > 1 else ())
    kind = np.dtype(dtype)
    if kind.kind == "f":
        values = rng.normal(size=shape).astype(kind)
    else:
        limits = np.iinfo(kind)
        values = rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    stored = values
    if samples > 1 and options.get("planarconfig") == "separate":
        stored = np.moveaxis(values, -1, 0)
    path = folder / "eye.tif"
    photometric = "rgb" if samples > 1 else "miniswhite" if white_is_zero else "minisblack"
    extras = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    tag = [(ORIENTATION, 3, 1, orientation, True)]
    tifffile.imwrite(
        path, stored, photometric=photometric, extratags=tag, metadata=None, **extras, **options
    )
    expected = values[..., :3] if samples > 1 else values
    if white_is_zero and kind.kind == "u":
        expected = np.iinfo(kind).max - expected
    if dtype == "f2":
        expected = expected.astype(np.float32)
    turn = TURNS[orientation]
    expected = np.stack([turn(page) for page in expected]) if pages > 1 else turn(expected)
    what = f"{dtype} × {samples} orientation {orientation} pages {pages} {photometric} {options}"
    return File(path, expected, not (white_is_zero and kind.kind != "u"), what)


def plain_formats(random: Random, rng: np.random.Generator, folder: Path) -> File:
    """A PNG, JPEG or BMP file."""
    suffix = random.choice((".png", ".png", ".jpg", ".bmp"))
    modes = {
        ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        ".jpg": ("L", "RGB", "CMYK", "YCbCr"),
        ".bmp": ("1", "L", "P", "RGB"),
    }
    image = picture(rng, random.choice(modes[suffix]))
    orientation = random.choice((1, 1, *range(2, 9))) if suffix != ".bmp" else 1
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = folder / f"eye{suffix}"
    image.save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    expected = None if suffix == ".jpg" else TURNS[orientation](shown(image))
    return File(path, expected, True, f"{image.mode} {suffix} orientation {orientation}")


def trial(random: Random, folder: Path) -> None:
    """Open one photograph and compare it with what was stored, or with the oracle."""
    made = make(random, folder)
    flat = made.expected is not None and (made.expected == made.expected.flat[0]).all()
    with must_be_taken(made.good and not flat):
        scan = open_scan(made.path)
    found = np.asarray(scan.data)
    compare(found, made.path, made.expected, made.what)


def compare(found: np.ndarray, path: Path, expected: np.ndarray | None, what: str) -> None:
    """Raise `WrongError` unless a photograph is shown as it has to be.

    Of a damaged file, as one of two other readers shows it: Pillow passes over tags behind a
    damaged one, tifffile does not.
    """
    theirs = [oracle(path), second_oracle(path)] if expected is None else [expected]
    theirs = [one for one in theirs if one is not None]
    expect(theirs, f"no library reads it: {what}")
    shapes = [one.shape for one in theirs]
    expect(
        any(_same(found, one, what) for one in theirs),
        f"other pixels, {found.shape} {found.dtype} and {shapes}: {what}",
    )


def _same(found: np.ndarray, expected: np.ndarray, what: str) -> bool:
    if found.shape != expected.shape and found.ndim == 3 and expected.ndim == 2:
        expected = np.repeat(expected[..., np.newaxis], 3, axis=2)
    if found.shape != expected.shape:
        return False
    if found.dtype == np.uint16 and expected.dtype == np.uint8:
        found = found >> 8  # what Pillow keeps of sixteen bits
    if what.startswith("YCbCr"):  # libtiff rounds in its own way
        return bool(np.abs(found.astype(int) - expected).max() <= 2)
    return np.array_equal(found, expected, equal_nan=found.dtype.kind == "f")


def oracle(path: Path) -> np.ndarray | None:
    """What Pillow makes of a file; None where it cannot read it."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            tags = getattr(image, "tag_v2", {})
            dark = tags.get(262) == 0 and image.mode.startswith("I;16")
            swapped = image.mode in "IF" and getattr(tags, "prefix", b"")[:1] == b"M"
            signs = tags.get(339, (1,))
            signs_lost = tags and (image.mode, signs) in {("I", (1,)), ("L", (2,))}
            planes = tags and tags.get(284) == 2 and max(tags.get(258, (1,))) > 8
            if tags and (swapped or signs_lost or planes or getattr(image, "n_frames", 1) > 1):
                return None  # what Pillow reads otherwise than it is stored, or not all of
            image.load()
            values = shown(ImageOps.exif_transpose(image))
            return 65535 - values if dark else values
    return None


def second_oracle(path: Path) -> np.ndarray | None:
    """What tifffile makes of a file that holds grey or RGB as they are."""
    with contextlib.suppress(Exception), tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        if int(page.photometric) not in (0, 1, 2):
            return None
        values, axes = file.series[0].asarray(), file.series[0].axes
        if "S" in axes:
            values = np.moveaxis(values, axes.index("S"), -1)[..., :3]
        half = values.dtype == np.float16
        values = values.astype(np.float32 if half else values.dtype.newbyteorder("="))
        if int(page.photometric) == 0:
            values = np.iinfo(values.dtype).max - values
        turn = TURNS.get(page.tags.valueof(ORIENTATION, 1), TURNS[1])
        stacked = values.ndim == 3 and "S" not in axes
        return np.stack([turn(v) for v in values]) if stacked else turn(values)
    return None
