"""NIfTI files of every type, orientation and scaling, and damaged ones. Oracle: nibabel."""

from __future__ import annotations

import contextlib
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np

from napari_grata.scans import Scan, open_scan

from . import damaged, expect, must_be_taken

TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
PLANTED = b"DOE^JOHN"
SANE = ((1.0, 0.0), (1.0, 0.0), (0.5, 0.0), (-2.0, 7.5), (0.5, -1024.0), (0.0, 0.0))
SCALES = (1.0, 0.5, -2.0, 1e-6, 1e6, 1e-38, 1e-45, 3e38, 0.0, float("nan"), float("inf"))
SHIFTS = (0.0, -1024.0, 7.5, 1e9, 1e38, float("nan"))


@dataclass(frozen=True)
class File:
    """A NIfTI file.

    Attributes
    ----------
    path : Path
    good : bool
        Whether nothing is wrong with it, so that it has to be taken.
    """

    path: Path
    good: bool


def make(random: Random, folder: Path, *, damage: float = 0.4) -> File:
    """Make one file; with the chance `damage`, a damaged one."""
    rng = np.random.default_rng(random.randrange(2**32))
    shape = _shape(random)
    dtype = np.dtype(random.choice("<>") + random.choice(TYPES))
    values, plain = _values(random, rng, shape, dtype)
    affine, usable = _affine(random, rng)
    second = random.random() < 0.2
    cls: Any = nib.Nifti2Image if second else nib.Nifti1Image
    header_cls: Any = nib.Nifti2Header if second else nib.Nifti1Header
    header = header_cls(endianness=dtype.byteorder if dtype.byteorder in "<>" else "<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    _place(random, header, affine)
    for key in ("descrip", "db_name", "intent_name", "aux_file"):
        with contextlib.suppress(KeyError, ValueError):
            header[key] = PLANTED
    if random.random() < 0.5:
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", PLANTED))
    sane = random.random() < 0.75
    slope, inter = random.choice(SANE) if sane else (random.choice(SCALES), random.choice(SHIFTS))
    buffer = io.BytesIO()
    image = cls(values, None, header)
    image.header.set_data_dtype(dtype)
    image.to_stream(buffer)
    data = bytearray(buffer.getvalue())
    if second:
        data[176:192] = np.array([slope, inter], header.endianness + "f8").tobytes()
    else:
        with np.errstate(all="ignore"):
            data[112:120] = np.array([slope, inter], header.endianness + "f4").tobytes()
    content, suffix = bytes(data), random.choice((".nii", ".nii.gz"))
    harm = random.random() < damage
    if harm and (suffix == ".nii" or random.random() < 0.5):
        content = damaged(random, content)
        harm = False
        plain = False
    if suffix == ".nii.gz":
        content = gzip.compress(content, 1)
        if harm:
            content, plain = damaged(random, content), False
    path = folder / f"scan{suffix}"
    path.write_bytes(content)
    return File(path, good=plain and usable and sane)


def _shape(random: Random) -> tuple[int, ...]:
    ndim = random.choice((2, 3, 3, 3, 3, 4, 5))
    return tuple(random.choice((1, 2, 3, 5, 7)) for _ in range(ndim))


def _values(
    random: Random, rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[np.ndarray, bool]:
    """Voxels, and whether they are a scan's: of two axes, with contrast, not beyond all bounds."""
    long_axes = sum(n > 1 for n in shape[:3]) >= 2 and sum(n > 1 for n in shape[3:]) <= 1
    if dtype.kind == "f":
        size = 10.0 ** random.choice((0, 3, -3, 25, -25, 36))
        values = (rng.normal(size=shape) * size).astype(dtype)
        holes = random.random()
        if holes < 0.3:
            values[rng.random(shape) < random.choice((0.1, 0.9, 1.0))] = random.choice(
                (np.nan, np.inf, -np.inf)
            )
        finite = values[np.isfinite(values)]
        good = size <= 1e3 and finite.size > 1 and finite.min() < finite.max()
        return values, long_axes and size >= 1e-3 and bool(good)
    limits = np.iinfo(dtype)
    top = min(limits.max, 10 ** random.choice((1, 3, 12, 18)))
    values = rng.integers(max(limits.min, -top), top, shape, dtype=dtype.newbyteorder("="))
    return values.astype(dtype), long_axes and bool(values.min() < values.max()) and top <= 10**3


def _affine(random: Random, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    affine = np.eye(4)
    sizes = rng.uniform(0.3, 6, 3)
    how = random.choice(("flips", "flips", "oblique", "oblique", "sheared", "flat", "flat", "far"))
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    if how in ("oblique", "sheared", "far"):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    if how == "sheared":
        turn = turn @ np.array([[1, *rng.uniform(-0.4, 0.4, 2)], [0, 1, 0.2], [0, 0, 1]])
    if how == "far":
        sizes = 10.0 ** rng.uniform(-20, 20, 3)
    if how == "flat":
        turn[:, 0] = turn[:, 1] + rng.normal(size=3) * random.choice((0.0, 1e-30, 1e-9, 1e-5))
    affine[:3, :3] = turn * sizes
    affine[:3, 3] = rng.normal(size=3) * 100
    return affine, how not in ("far", "flat")


def _place(random: Random, header: Any, affine: np.ndarray) -> None:
    with contextlib.suppress(Exception):
        header.set_xyzt_units(random.choice(("mm", "mm", "unknown", "micron", "meter")), "sec")
    if random.random() < 0.8:
        header.set_sform(affine, random.choice((1, 2, 4)))
    if random.random() < 0.5:
        with contextlib.suppress(Exception):
            header.set_qform(affine, random.choice((1, 2)), strip_shears=True)


def trial(random: Random, folder: Path) -> None:
    """Open one file and compare values and places with nibabel's."""
    made = make(random, folder)
    with must_be_taken(made.good):
        scan = open_scan(made.path)
    compare(scan, made.path)


def compare(scan: Scan, path: Path) -> None:
    """Raise `WrongError` unless a scan is what nibabel reads from its file."""
    image: Any = nib.load(path)
    with np.errstate(all="ignore"):
        theirs = np.asanyarray(image.dataobj, dtype=np.float64)
        ours = np.asarray(scan.geometry.to_source(np.asarray(scan.data)), dtype=np.float64)
        expect(ours.shape == theirs.shape, f"shape {ours.shape}, not {theirs.shape}")
        size = np.nanmax(np.abs(theirs[np.isfinite(theirs)]), initial=0)
        expect(
            np.allclose(ours, theirs, rtol=1e-5, atol=1e-6 * size, equal_nan=True),
            f"values differ by up to {np.nanmax(np.abs(ours - theirs))} of {size}",
        )
        # Steps between values stay, also where they are small beside the values.
        spread = np.ptp(theirs[np.isfinite(theirs)])
        expect(
            np.nanmax(np.abs(ours - theirs), initial=0) <= 2e-3 * spread,
            f"contrast is lost: {spread} in all",
        )
    finite = np.isfinite(theirs)
    told = any("no numbers" in notice for notice in scan.notices)
    expect(told == (not finite.all()), "values that are no numbers are not told")
    for i in range(scan.n_slices):
        invalid = scan.invalid(i)
        values = scan.read_slice(i)
        found = np.zeros(values.shape, bool) if invalid is None else invalid
        expect(np.array_equal(found, ~np.isfinite(values)), "not the invalid pixels")
    if any("not usable" in notice for notice in scan.notices):
        return
    affine = np.asarray(image.affine)
    expect(np.array_equal(scan.geometry.affine, affine), "not the file's affine")
    shown = scan.geometry.display_affine
    index = tuple(n - 1 for n in scan.mask_shape)
    source = scan.geometry.source_index(index)
    spatial = np.array([*source[:3], 0][:3], float)
    if len(source) < 3:
        spatial[2] = 0
    place = affine[:3, :3] @ spatial + affine[:3, 3]
    ours_at = np.zeros(3)
    inner = [k for k, axis in enumerate(scan.geometry.axes) if axis < 3]
    ours_at[3 - len(inner) :] = [index[k] for k in inner]
    found_place = shown[:3, :3] @ ours_at + shown[:3, 3]
    extent = np.abs(affine).max() * max(image.shape)
    expect(np.allclose(found_place, place, atol=1e-6 * extent), "a voxel is shown elsewhere")
