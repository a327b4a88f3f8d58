"""Read NIfTI scans: any orientation, 2-D to 4-D, scaled or not, lazily where the file allows."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from napari_grata.scans.geometry import Geometry
from napari_grata.scans.scan import (
    DEFLATE_LIMIT,
    Kind,
    Pixels,
    Scan,
    ScanError,
    check_content,
    check_dtype,
    check_size,
)

SUFFIXES = (".nii", ".nii.gz")
_TO_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_TIME = {"sec": "second", "msec": "millisecond", "usec": "microsecond", "hz": "hertz"}
_AGAIN = "The file is damaged or not complete: copy or export it again."
_BLOCK = 1 << 24
_BROKEN = (
    ImageFileError,
    HeaderDataError,
    EOFError,
    OSError,
    zlib.error,
    gzip.BadGzipFile,
    ValueError,
    OverflowError,
)


def is_nifti(path: Path) -> bool:
    """Whether a file's name says NIfTI."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    name = path.name
    for suffix in (".gz", ".nii"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def open_nifti(path: Path) -> Scan:
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
    pixels = Pixels(shown)
    check_content(pixels.read, pixels.count, path)
    return Scan(
        name=stem(path),
        kind=kind,
        pixels=pixels,
        geometry=geometry,
        path=path,
        notices=notices,
    )


def load_nifti(path: Path) -> Any:
    """Load a NIfTI header and check it; no voxel is read yet."""
    if path.stat().st_size == 0:
        raise ScanError("the file is empty (0 bytes)", path, _AGAIN)
    try:
        image: Any = nib.load(path, mmap="c")
        shape = tuple(int(n) for n in image.shape)
        dtype = image.get_data_dtype()
    except _BROKEN as error:
        raise ScanError("it cannot be read as NIfTI", path, _AGAIN) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise ScanError("it is not a NIfTI file", path, "Convert it to .nii or .nii.gz first.")
    check_dtype(dtype, path)
    check_size(shape, dtype.itemsize, path)
    long_axes = [n for n in shape[3:] if n > 1]
    if len(long_axes) > 1 or sum(n > 1 for n in shape[:3]) < 2:
        raise ScanError(
            f"its shape {' × '.join(map(str, shape))} is neither a picture, a volume nor a "
            "series of volumes",
            path,
            "Split it into volumes of three axes first.",
        )
    _check_file_holds(path, shape, dtype, image)
    return image


def _check_file_holds(path: Path, shape: tuple[int, ...], dtype: np.dtype, image: Any) -> None:
    """Refuse files too short for what their header promises."""
    needed = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    size = path.stat().st_size
    packed = path.name.lower().endswith(".gz")
    short = needed > size * DEFLATE_LIMIT if packed else needed + image.dataobj.offset > size
    if short:
        raise ScanError(
            f"it is cut short: the header promises {needed:,} bytes of voxels and the file "
            f"{'can hold at most' if packed else 'has'} "
            f"{size * DEFLATE_LIMIT if packed else max(size - image.dataobj.offset, 0):,}",
            path,
            _AGAIN,
        )


def nifti_geometry(image: Any, path: Path) -> tuple[Geometry, tuple[str, ...]]:
    """Geometry of a NIfTI image, and what was peculiar about its header."""
    header = image.header
    notices: list[str] = []
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        space, time = "unknown", "unknown"
    affine = image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        affine = header.get_base_affine()
        notices.append(
            "The header's orientation is not usable; left and right may be swapped on the screen. "
            "Masks still fit the file."
        )
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            affine = np.eye(4)
    elif int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        notices.append("The file does not say how the patient lies; the usual order is assumed.")
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
    return geometry, tuple(notices)


def read_values(image: Any, path: Path) -> Any:
    """Return the true values on the source grid: mapped where the file allows it, read-only."""
    try:
        if path.name.lower().endswith(".gz"):
            raw = _unpack(image, path)
        else:
            raw = np.asanyarray(image.dataobj.get_unscaled())
    except MemoryError as error:
        raise ScanError(
            "this machine has too little free memory for it",
            path,
            "Close other programs, or crop or downsample the scan first.",
        ) from error
    except _BROKEN as error:
        raise ScanError("its voxels cannot be read", path, _AGAIN) from error
    raw.flags.writeable = False
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)
    if (slope, inter) == (1.0, 0.0):
        return raw
    # float32 holds what scanners write; values beyond its range need float64.
    dtype = np.float64 if raw.dtype in (np.float64, np.int64, np.uint64) else np.float32
    return _scale(raw, slope, inter, dtype)


def _unpack(image: Any, path: Path) -> np.ndarray:
    """Read the stored voxels of a compressed file, through to its checksum.

    nibabel stops at the last voxel and never reaches the checksum, so that damage in the middle
    would pass unseen as noise.
    """
    dtype, shape, offset = image.dataobj.dtype, image.shape, int(image.dataobj.offset)
    buffer = np.empty(offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, np.uint8)
    view, filled = memoryview(buffer.data), 0
    with gzip.open(path, "rb") as file:
        while filled < len(view):
            count = file.readinto(view[filled : filled + _BLOCK])
            if not count:
                raise EOFError
            filled += count
        # The checksum is compared on reading past the end; whatever else follows is not ours.
        file.read(_BLOCK)
    return buffer[offset:].view(dtype).reshape(shape, order="F")


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
    lazy = da.from_array(raw, chunks=chunks, name=False, asarray=False)
    return lazy.map_blocks(
        lambda block: block.astype(dtype) * dtype(slope) + dtype(inter), dtype=dtype
    )
