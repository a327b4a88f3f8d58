"""The reader of DICOM: a series as one volume, a single picture as it is; see `dicom_series`.

Masks over a series are NIfTI files by default, which say nothing of the patient; as a DICOM
segmentation they belong to the patient's study, see `dicom_seg`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans import dicom_headers
from napari_grata.scans.checks import AGAIN, LARGEST, check_content, check_size
from napari_grata.scans.dicom_headers import Frame, guard, is_dicom, library, read_header
from napari_grata.scans.dicom_seg import check_mask as check_mask
from napari_grata.scans.dicom_seg import read_mask as read_mask
from napari_grata.scans.dicom_seg import write_mask as write_mask
from napari_grata.scans.dicom_series import (
    Series,
    grid_of,
    series_among,
    series_at,
)
from napari_grata.scans.geometry import Geometry
from napari_grata.scans.scan import Kind, Scan, ScanError, times

SUFFIXES: tuple[str, ...] = dicom_headers.SUFFIXES
WORDS = "DICOM series (a folder, or one of its files)"
_PIXEL_TAGS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("RescaleType", "ModalityLUTSequence", "Modality", "ExtendedOffsetTable"),
    "ExtendedOffsetTableLengths",
)
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
#: What these measure means the same however it is to be shown.
_QUANTITIES = ("CT", "PT", "NM")


def find(files: Sequence[Path]) -> list[Path]:
    """The scans among the files of one folder: of each series the file that it opens by.

    Where none of the DICOM files can be read, the first stands for them: opening it says why.
    """
    mine = [path for path in files if is_dicom(path)]
    try:
        return [series.path for series in series_among(mine)]
    except ScanError:
        library(mine[0])
        return mine[:1]


def read(path: Path) -> Scan:
    """Open the series that a file belongs to, or that a name such as ``FOLDER#2`` chooses."""
    return read_series(series_at(path))


def read_together(paths: Sequence[Path]) -> Scan:
    """Open the one series that all of the files belong to."""
    series = series_at(paths[0])
    names = {path.absolute() for path in series.files}
    other = [path for path in paths if path.absolute() not in names]
    if other:
        raise ScanError(
            "these files are not of one series", other[0], "Open one series, or its folder."
        )
    return read_series(series)


def shape_of(path: Path) -> tuple[int, ...]:
    """Size along each axis of the series that a name opens, by the headers alone."""
    series = series_at(path)
    count = len(series.frames)
    return (*series.shape, count) if count > 1 else series.shape


def read_series(series: Series) -> Scan:
    """Read all images of a series.

    Raises
    ------
    ScanError
        Missing, doubled or uneven slices; images cut short or stored in a way that is not read;
        too large for this machine.
    """
    grid = grid_of(series)
    values, notices = _pixels(series)
    geometry = _geometry(series, grid)
    if grid is not None:
        notices = (*grid.notices, *notices)
        # (slice, row, column) in memory; the source grid counts columns first.
        shown = geometry.to_display(values.transpose(2, 1, 0))
    else:
        shown = values[0]
        if not series.photographic:
            notices = (
                "The image does not say how the patient lies; it is shown as stored.",
                *notices,
            )
    kind: Kind = "volume" if len(geometry.axes) == 3 else "image"
    scan = Scan(
        name=series.name,
        kind="photograph" if series.photographic else kind,
        data=shown,
        geometry=geometry,
        rgb=series.rgb,
        path=series.path,
    )
    told = check_content(scan.peek, scan.n_slices, series.path, lazy=True)
    scan.notices = (*series.notices, *notices, *told)
    return scan


def _geometry(series: Series, grid: Any) -> Geometry:
    rows, columns = series.shape
    if grid is None:
        pixel = None if series.photographic else series.frames[0].pixel
        units = None if pixel is None else ("mm", "mm")
        return Geometry.plain((rows, columns), spacing=pixel, units=units)
    geometry = Geometry.anatomical((columns, rows, len(series.frames)), grid.affine)
    # Where the stack is sheared, slices are as far apart as their planes are, not their corners.
    spacing = tuple(
        grid.distance if axis == 2 else size
        for axis, size in zip(geometry.axes, geometry.spacing or (), strict=True)
    )
    return replace(geometry, spacing=spacing)


# -- pixels ----------------------------------------------------------------------------------


def _pixels(series: Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """True values, shape (images, rows, columns) or with a last axis of 3, read-only."""
    first = series.frames[0]
    header = read_header(first.path, _PIXEL_TAGS)
    with guard("its header is damaged", first.path):
        dtype = _true_type(series, header)
    shape = (len(series.frames), *series.shape, *((3,) if series.rgb else ()))
    check_size(shape, dtype.itemsize, series.path)
    with guard("it cannot be read as DICOM", series.path):
        values = np.empty(shape, dtype)
    inverted = False
    by_file: dict[Path, list[tuple[int, Frame]]] = {}
    for place, frame in enumerate(series.frames):
        by_file.setdefault(frame.path, []).append((place, frame))
    for path, wanted in by_file.items():
        dataset = read_header(path, _PIXEL_TAGS, pixels=True)
        with guard("its pixels cannot be read", path):
            _check_pixels(dataset, series, path)
            failure = _failure(dataset)
        with guard(failure[0], path, failure[1]):
            turn = _is_inverted(dataset)
            inverted |= turn
            # Handed over in the order in which they lie in the file.
            wanted.sort(key=lambda one: one[1].index)
            decoded = _decoded(dataset, [frame.index for _, frame in wanted])
            for (place, frame), stored in zip(wanted, decoded, strict=True):
                if stored.shape != shape[1:]:
                    raise ScanError(
                        f"its pixels are {times(stored.shape)}, its header says {times(shape[1:])}",
                        path,
                        AGAIN,
                    )
                values[place] = _true(stored, dataset, frame, turn, dtype)
    if dtype == np.int32 and values.min() >= -(2**15) and values.max() < 2**15:
        # The header leaves room for more; Hounsfield units need no more.
        values = values.astype(np.int16)
    values.flags.writeable = False
    words = "Its greys are stored inverted (MONOCHROME1) and were turned."
    return values, (words,) * inverted


def _true_type(series: Series, header: Any) -> np.dtype[Any]:
    """The type that holds a series' true values: whole numbers where they stay whole."""
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 0)
    signed = int(header.get("PixelRepresentation") or 0)
    if series.rgb:
        return np.dtype(np.uint8 if bits <= 8 else np.uint16)
    slopes, shifts = zip(*(frame.rescale for frame in series.frames), strict=True)
    for slope, shift in {(slope, shift) for slope, shift in zip(slopes, shifts, strict=True)}:
        reach = abs(slope) * 2.0**bits + abs(shift)
        if not (reach <= LARGEST and abs(slope) >= 1 / LARGEST):
            raise ScanError(
                f"its values are scaled by {slope:g} and shifted by {shift:g}, beyond what a "
                "picture can show",
                series.path,
                AGAIN,
            )
    if "ModalityLUTSequence" in header:
        return np.dtype(np.float32)
    if set(slopes) == {1.0} and all(shift == int(shift) for shift in shifts):
        low = min(shifts) - (2 ** (bits - 1) if signed else 0)
        high = max(shifts) + 2 ** (bits - 1 if signed else bits) - 1
        for dtype in (np.uint8, np.int16, np.uint16, np.int32):
            limits = np.iinfo(dtype)
            if limits.min <= low and high <= limits.max:
                return np.dtype(dtype)
    return np.dtype(np.float32 if bits <= 16 else np.float64)


def _check_pixels(dataset: Any, series: Series, path: Path) -> None:
    """Refuse what would not be decoded rightly, before anything is."""
    if "PixelData" not in dataset:
        raise ScanError("it holds no pixels", path, AGAIN)
    colours = str(dataset.get("PhotometricInterpretation", ""))
    bits, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored", dataset.BitsAllocated))
    high = int(dataset.get("HighBit", stored - 1))
    samples = int(dataset.get("SamplesPerPixel", 1))
    known = colours in _COLOURS and samples == 3 if series.rgb else colours in _GREYS
    if not known or bits not in (8, 16, 32) or not 1 <= stored <= bits or high != stored - 1:
        raise ScanError(
            f"its pixels are stored in a way that is not read ({colours or 'no colour space'}, "
            f"{samples} × {bits} bits, of which {stored})",
            path,
            "Export it as plain grey or RGB.",
        )
    if series.rgb and stored not in (8, 16):
        raise ScanError(f"its colours have {stored} bits", path, "Export it as 8-bit RGB.")
    if (int(dataset.Rows), int(dataset.Columns)) != series.shape:
        raise ScanError("its size is another one than at first", path, AGAIN)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise ScanError("it does not say how its pixels are stored", path, AGAIN)
    if not syntax.is_compressed if not syntax.is_private else False:
        count = int(dataset.get("NumberOfFrames") or 1)
        # 4:2:2 keeps two thirds of a pixel's colours.
        pixel = 2 if colours == "YBR_FULL_422" else samples
        needed = int(dataset.Rows) * int(dataset.Columns) * count * pixel * bits // 8
        if len(dataset.PixelData) < needed:
            raise ScanError(
                f"it is cut short: {needed:,} bytes of pixels are promised, "
                f"{len(dataset.PixelData):,} are there",
                path,
                AGAIN,
            )
        return
    _check_plugin(syntax, path)


def _check_plugin(syntax: Any, path: Path) -> None:
    """Say which program unpacks compressed pixels, where it is missing."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        what = "in a private way" if syntax.is_private else "in a way that is not read"
        raise ScanError(
            f"its pixels are stored {what} (transfer syntax {syntax})",
            path,
            "Export it uncompressed (Explicit VR Little Endian).",
        ) from None
    if not decoder.is_available:
        # "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1"
        needs = [one for one in decoder.missing_dependencies if one.startswith("pylibjpeg")]
        parts = (needs or ["pylibjpeg"])[0].rpartition("requires ")[2].split(" and ")
        names = " ".join(part.partition(">")[0] for part in parts)
        raise ScanError(
            f"its pixels are compressed ({decoder.UID.name}), and what unpacks them is not "
            "installed",
            path,
            f"Install it: pip install {names}. Or export the series uncompressed.",
        )


def _failure(dataset: Any) -> tuple[str, str]:
    """What to say and to advise where the pixels cannot be decoded."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return "its pixels cannot be read", AGAIN
    return (
        f"its compressed pixels cannot be unpacked ({syntax.name})",
        "The file is damaged, or needs another decoder: pip install pylibjpeg pylibjpeg-libjpeg "
        "pylibjpeg-openjpeg. Or export the series uncompressed.",
    )


def _decoded(dataset: Any, indices: list[int]) -> Any:
    from pydicom.pixels import iter_pixels, pixel_array

    if int(dataset.get("NumberOfFrames") or 1) == 1:
        return [pixel_array(dataset)]
    return iter_pixels(dataset, indices=indices)


def _is_inverted(dataset: Any) -> bool:
    quantity = dataset.get("RescaleType") == "HU" or dataset.get("Modality") in _QUANTITIES
    return dataset.get("PhotometricInterpretation") == "MONOCHROME1" and not quantity


def _true(
    stored: np.ndarray, dataset: Any, frame: Frame, turn: bool, dtype: np.dtype[Any]
) -> np.ndarray:
    if stored.ndim == 3:
        return stored
    bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
    spare = stored.dtype.itemsize * 8 - bits
    if spare:
        # Overlays may lie in the bits above; a sign belongs there.
        stored = (stored << spare) >> spare
    if turn:
        top = -1 if stored.dtype.kind == "i" else 2**bits - 1
        stored = np.array(top, stored.dtype) - stored
    if "ModalityLUTSequence" in dataset:
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(stored, dataset))
    slope, shift = frame.rescale
    if dtype.kind != "f":
        return stored.astype(dtype) + np.array(shift, dtype) if shift else stored
    return stored.astype(dtype) * dtype.type(slope) + dtype.type(shift)
