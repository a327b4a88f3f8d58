"""The NIfTI reader: any orientation, 2-D to 4-D, scaled or not, lazily where the file allows."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.checks import (
    AGAIN,
    DEFLATE_LIMIT,
    LARGEST,
    check_content,
    check_dtype,
    check_size,
    guard,
    size_of,
)
from napari_grata.scans.files import stem, write_bytes
from napari_grata.scans.geometry import UNSAID, UNUSABLE, Geometry, is_usable
from napari_grata.scans.scan import Kind, Label, Scan, ScanError, times

SUFFIXES: tuple[str, ...] = (".nii", ".nii.gz")
WORDS = "NIfTI files (.nii, .nii.gz)"
_TO_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_TIME = {"sec": "second", "msec": "millisecond", "usec": "microsecond", "hz": "hertz"}
_BLOCK = 1 << 24
#: Voxels thinner or thicker than this, in mm, are none: the header is damaged.
_VOXEL_SIZES = (1e-6, 1e4)
#: What a mask's header takes from the scan's: its place, and nothing that can hold a name.
_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def find(files: Sequence[Path]) -> list[Path]:
    """The NIfTI scans among the files of one folder."""
    return [path for path in files if path.name.lower().endswith(SUFFIXES)]


def read(path: Path) -> Scan:
    """Open a NIfTI scan.

    Uncompressed files are mapped, not read; compressed ones have to be read whole.

    Raises
    ------
    ScanError
        Damaged, truncated, empty, constant or too large files, and ones that are not images.
    """
    image = load_nifti(path)
    geometry, notices = nifti_geometry(image, path)
    shown = geometry.to_display(read_values(image, path))
    ndim = len(geometry.axes)
    kind: Kind = "series" if "time" in geometry.axis_labels else "image" if ndim == 2 else "volume"
    scan = Scan(name=stem(path), kind=kind, data=shown, geometry=geometry, path=path)
    whole = image.get_data_dtype().kind != "f"  # scaled or not, they are numbers
    scan.notices = notices + check_content(scan.peek, scan.n_slices, path, lazy=whole)
    return scan


def shape_of(path: Path) -> tuple[int, ...]:
    """Size along each axis, by the header alone."""
    return tuple(int(n) for n in load_nifti(path).shape)


def load_nifti(path: Path) -> Any:
    """Load a NIfTI header and check it; no voxel is read yet."""
    import nibabel as nib

    size = size_of(path)
    with guard("it cannot be read as NIfTI", path):
        image: Any = nib.load(path, mmap="c")
        if not isinstance(image, nib.Nifti1Pair):
            raise ScanError("it is not a NIfTI file", path, "Convert it to .nii or .nii.gz first.")
        shape = tuple(int(n) for n in image.shape)
        dtype = image.get_data_dtype()
        offset = int(image.dataobj.offset)  # type: ignore[attr-defined]
    check_dtype(dtype, path)
    check_size(shape, dtype.itemsize, path)
    long_axes = [n for n in shape[3:] if n > 1]
    if len(long_axes) > 1 or sum(n > 1 for n in shape[:3]) < 2:
        raise ScanError(
            f"its shape {times(shape)} is neither a picture, a volume nor a series of volumes",
            path,
            "Split it into volumes of three axes first.",
        )
    needed = math.prod(shape) * dtype.itemsize
    packed = path.name.lower().endswith(".gz")
    there = size * DEFLATE_LIMIT if packed else size
    if needed + offset > there:
        raise ScanError(
            f"it is cut short: the header promises {needed:,} bytes of voxels and the file "
            f"{'can hold at most' if packed else 'has'} {max(there - offset, 0):,}",
            path,
            AGAIN,
        )
    return image


def nifti_geometry(image: Any, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Geometry of a NIfTI image, and what was peculiar about its header."""
    header = image.header
    notices: list[str] = []
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        space, time = "unknown", "unknown"
    affine, sized = image.affine, True
    if not is_usable(affine):
        affine = header.get_base_affine()
        notices.append(UNUSABLE)
        sized = is_usable(affine)
        affine = affine if sized else np.eye(4)
    elif int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        notices.append(UNSAID)
    zooms = header.get_zooms()
    time_step = float(zooms[3]) if len(zooms) > 3 else 1.0
    geometry = Geometry.anatomical(
        image.shape,
        affine,
        header=header.copy(),
        to_mm=_TO_MM.get(space, 1.0),
        time_step=time_step if np.isfinite(time_step) and time_step > 0 else 1.0,
        time_unit=_TIME.get(time, "second"),
    )
    sizes = [
        s for s, unit in zip(geometry.spacing or (), geometry.units, strict=True) if unit == "mm"
    ]
    least, most = _VOXEL_SIZES
    if sized and not (least <= min(sizes) and max(sizes) <= most):
        raise ScanError(
            f"its voxels would measure {' × '.join(f'{s:.3g}' for s in sizes)} mm",
            path,
            "The header is damaged, or its unit is wrong: export the scan again.",
        )
    return geometry, tuple(notices)


def read_values(image: Any, path: Path) -> Any:
    """Return the true values on the source grid: mapped where the file allows it, read-only."""
    with guard("its voxels cannot be read", path):
        if path.name.lower().endswith(".gz"):
            raw = _unpack(image, path)
        else:
            raw = np.asanyarray(image.dataobj.get_unscaled())
    raw.flags.writeable = False
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    if (slope, inter) == (1.0, 0.0):
        return raw
    return _scale(raw, slope, inter, _scaled_dtype(raw.dtype, slope, inter, path))


def _scaled_dtype(raw: np.dtype[Any], slope: float, inter: float, path: Path) -> Any:
    """The type that keeps scaled values apart: float32 for what scanners write."""
    reach = 1.0
    if raw.kind != "f":
        limits = np.iinfo(raw)
        reach = float(max(limits.max, -limits.min))
    largest, step = abs(slope) * reach + abs(inter), abs(slope)
    if not (largest <= LARGEST and step >= 1 / LARGEST):
        raise ScanError(
            f"its values are scaled by {slope:g} and shifted by {inter:g}, beyond what a picture "
            "can show",
            path,
            "The header is damaged (scl_slope, scl_inter): export the scan again.",
        )
    return np.float32 if raw.kind != "f" and largest < step * 2**20 else np.float64


def _unpack(image: Any, path: Path) -> np.ndarray:
    """Read the stored voxels of a compressed file, through to its checksum.

    nibabel stops at the last voxel and never reaches the checksum, so that damage in the middle
    would pass unseen as noise.
    """
    dtype, shape, offset = image.dataobj.dtype, image.shape, int(image.dataobj.offset)
    buffer = np.empty(offset + math.prod(shape) * dtype.itemsize, np.uint8)
    view, filled = memoryview(buffer.data), 0
    with gzip.open(path, "rb") as file:
        while filled < len(view):
            count = file.readinto(view[filled : filled + _BLOCK])
            if not count:
                raise EOFError
            filled += count
        # The checksum is compared on reading past the end; whatever else follows is not ours.
        file.read(_BLOCK)
    values: np.ndarray = buffer[offset:].view(dtype).reshape(shape, order="F")
    return values


def _scale(raw: np.ndarray, slope: float, inter: float, dtype: Any) -> Any:
    if not isinstance(raw, np.memmap):
        scaled = raw.astype(dtype)
        scaled *= dtype(slope)
        scaled += dtype(inter)
        scaled.flags.writeable = False
        return scaled
    # Only here: its import takes a second, and most files have nothing to scale.
    import dask.array as da

    # One block per index of the slowest axis: what lies together in the file.
    chunks = (*raw.shape[:-1], 1) if raw.ndim > 2 else raw.shape
    lazy: Any = da.from_array(raw, chunks=chunks, name=False, asarray=False)
    return lazy.map_blocks(
        lambda block: block.astype(dtype) * dtype(slope) + dtype(inter), dtype=dtype
    )


# -- masks ---------------------------------------------------------------------------------


def check_mask(scan: Scan, path: Path) -> None:
    """Refuse photographs: they have no place in a body."""
    if scan.is_photographic:
        raise scan.wrong_mask_type(path)


def write_mask(
    labels: np.ndarray, scan: Scan, path: Path, legend: Mapping[int, Label]
) -> list[Path]:
    """Write a label stack on the grid of its scan, under a header that says where it lies.

    The header is a new one: of the scan's own it takes what names its place, bit for bit, and
    neither texts nor extensions, for those may name the patient.
    """
    import nibabel as nib

    geometry = scan.geometry
    own = geometry.header if isinstance(geometry.header, nib.Nifti1Header) else None
    # NIfTI-1 counts to 32,767 on each axis.
    second = isinstance(own, nib.Nifti2Header) or (own is None and max(labels.shape) > 32767)
    cls: Any = nib.Nifti2Image if second else nib.Nifti1Image
    image = cls(geometry.to_source(labels), geometry.affine if own is None else None)
    if own is not None:
        for key in _PLACE:
            image.header[key] = own[key]
        if int(own["xyzt_units"]) > 63:
            image.header["xyzt_units"] = 0
    else:
        if geometry.affine is None and geometry.spacing is not None:
            # The voxel size is known, how the patient lies is not: neither qform nor sform.
            zooms = dict(zip(geometry.axes, geometry.spacing, strict=True))
            image.header.set_zooms([abs(zooms[axis]) for axis in range(labels.ndim)])
        image.header.set_xyzt_units("mm" if geometry.units[-1] == "mm" else "unknown")
    data = _bytes_of(image)
    if path.name.lower().endswith(".gz"):
        # Neither a name nor a time in it: the same mask is the same file.
        data = gzip.compress(data, compresslevel=4, mtime=0)
    write_bytes(path, data)
    return [path]


def _bytes_of(image: Any) -> bytes:
    """A NIfTI file in memory, its header as it is.

    nibabel's own writer would work out sform and qform anew from the affine.
    """
    header = image.header
    second = int(header["sizeof_hdr"]) == 540
    header.set_data_offset(544 if second else 352)
    header["magic"] = b"n+2" if second else b"n+1"
    values = np.asanyarray(image.dataobj).astype(header.get_data_dtype(), copy=False)
    return bytes(header.binaryblock + b"\0\0\0\0" + values.tobytes(order="F"))


def read_mask(path: Path, scan: Scan, i: int | None) -> np.ndarray:
    """Read a mask's values onto the displayed grid of its scan."""
    image = load_nifti(path)
    values = np.asarray(read_values(image, path))
    theirs, _ = nifti_geometry(image, path)
    silent = int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0
    return scan.place_mask(values, theirs, path, silent=silent)
