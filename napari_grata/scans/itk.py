"""The reader of NRRD and MetaImage files, through SimpleITK; 3D Slicer's segmentations too."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.checks import check_content, check_size, guard, library, size_of
from napari_grata.scans.files import stem, write_bytes
from napari_grata.scans.geometry import UNSAID, UNUSABLE, Geometry, is_usable
from napari_grata.scans.photographs import DEFAULT_COLOURS
from napari_grata.scans.scan import Label, Scan, ScanError

SUFFIXES: tuple[str, ...] = (".nrrd", ".mha", ".mhd")
WORDS = "NRRD and MetaImage files (.nrrd, .mha, .mhd)"
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEGMENTS = ".seg.nrrd"
_MOST_HEADER = 1 << 20


def _library(path: Path) -> Any:
    """Return SimpleITK, or say how to get it."""
    what = "NRRD and MetaImage files cannot be read or written"
    return library("SimpleITK", "itk", what, path)


@contextlib.contextmanager
def _quietly(what: str, path: Path) -> Iterator[None]:
    """Turn ITK's pages of words into a sentence, and keep it from printing them."""
    itk = _library(path)
    loud = itk.ProcessObject.GetGlobalWarningDisplay()
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with guard(what, path):
            yield
    finally:
        itk.ProcessObject.SetGlobalWarningDisplay(loud)


def find(files: Sequence[Path]) -> list[Path]:
    """The NRRD and MetaImage scans among the files of one folder."""
    return [
        path
        for path in files
        if path.name.lower().endswith(SUFFIXES) and not path.name.lower().endswith(_SEGMENTS)
    ]


def read(path: Path) -> Scan:
    """Open a scan of two or three axes.

    Raises
    ------
    ScanError
        Damaged files, colours and vectors, more axes, too large for this machine.
    """
    values, affine, notices = _load(path)
    geometry = Geometry.anatomical(values.shape, affine)
    kind: Any = "image" if len(geometry.axes) == 2 else "volume"
    shown = geometry.to_display(values)
    scan = Scan(name=stem(path), kind=kind, data=shown, geometry=geometry, path=path)
    scan.notices = notices + check_content(scan.peek, scan.n_slices, path)
    return scan


def shape_of(path: Path) -> tuple[int, ...]:
    """Size along each axis, by the header alone."""
    return tuple(int(n) for n in _open(path).GetSize())


def _open(path: Path) -> Any:
    """SimpleITK's reader of a file, its header read."""
    itk = _library(path)
    size_of(path)
    _check_parts(path)
    with _quietly("it cannot be read", path):
        reader = itk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.SetImageIO("NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO")
        reader.ReadImageInformation()
        return reader


def _load(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Values of (x, y, z), their affine to (right, anterior, superior), and what was peculiar."""
    itk = _library(path)
    reader = _open(path)
    with _quietly("it cannot be read", path):
        shape = tuple(int(n) for n in reader.GetSize())
        parts, pixel = reader.GetNumberOfComponents(), reader.GetPixelID()
        kinds = {
            getattr(itk, f"sitk{name}"): np.dtype(kind)
            for name, kind in (
                *(("UInt8", "u1"), ("Int8", "i1"), ("UInt16", "u2"), ("Int16", "i2")),
                *(("UInt32", "u4"), ("Int32", "i4"), ("UInt64", "u8"), ("Int64", "i8")),
                *(("Float32", "f4"), ("Float64", "f8")),
            )
        }
        dtype = kinds.get(pixel)
        known = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
        spacing, origin = reader.GetSpacing(), reader.GetOrigin()
        direction = reader.GetDirection()
    if parts != 1 or dtype is None:
        raise ScanError(
            f"each of its voxels holds {parts} values, not one intensity",
            path,
            "Export one grey channel (of overlapping segments: a label map) by itself.",
        )
    if len(shape) not in (2, 3):
        raise ScanError(
            f"it has {len(shape)} axes, not two or three", path, "Split it into volumes first."
        )
    check_size(shape, dtype.itemsize, path)
    with _quietly("its voxels cannot be read", path):
        image = reader.Execute()
        values = itk.GetArrayFromImage(image).T
    values.flags.writeable = False
    affine, notices = _affine(spacing, origin, direction)
    if path.suffix.lower() == ".nrrd" and "NRRD_space" not in known:
        notices = (UNSAID,)
    return values.reshape(*shape, *(1,) * (3 - len(shape))), affine, notices


def _affine(
    spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> tuple[np.ndarray, tuple[str, ...]]:
    ndim = len(spacing)
    affine = np.eye(4)
    affine[:ndim, :ndim] = np.reshape(direction, (ndim, ndim)) * spacing
    affine[:ndim, 3] = origin
    affine = _RAS @ affine
    if is_usable(affine):
        return affine, ()
    return _RAS, (UNUSABLE,)


def _check_parts(path: Path) -> None:
    """Refuse headers whose voxels lie in a file elsewhere: only one beside them is theirs."""
    with path.open("rb") as file:
        head = file.read(_MOST_HEADER)
    if path.suffix.lower() == ".nrrd":
        match = re.search(rb"(?im)^data ?file *: *(.*)$", head.partition(b"\n\n")[0])
    else:
        match = re.search(rb"^ElementDataFile *= *(.*)$", head, re.MULTILINE)
    named = b"LOCAL" if match is None else match[1].strip()
    if named.upper() == b"LOCAL":
        return
    name = named.decode("utf-8", "replace")
    if not name.isprintable() or not re.fullmatch(r"(?i)(?!LIST|\.)[^/\\%]+", name):
        raise ScanError(
            "its voxels lie in several files, or in another folder",
            path,
            "Save it as one file (.nrrd or .mha).",
        )
    if not (path.parent / name).is_file():
        raise ScanError(
            f"its voxels are missing: {name} is not beside it", path, "Copy both files."
        )


# -- masks -----------------------------------------------------------------------------------


def check_mask(scan: Scan, path: Path) -> None:
    """Refuse photographs and series over time, and say what is missing."""
    if scan.is_photographic or len(scan.geometry.source_shape) > 3:
        raise scan.wrong_mask_type(path)
    _library(path)


def write_mask(
    labels: np.ndarray, scan: Scan, path: Path, legend: Mapping[int, Label]
) -> list[Path]:
    """Write a label stack on the scan's grid; ``.seg.nrrd`` with names and colours of segments."""
    itk = _library(path)
    geometry = scan.geometry
    source = np.asarray(geometry.to_source(labels))
    if geometry.affine is None:
        # Shown as it lies in memory: (slice,) row, column. ITK counts columns first.
        source = source.T
        sizes = geometry.spacing or (1.0,) * source.ndim
        matrix = np.eye(4)
        matrix[range(source.ndim), range(source.ndim)] = [abs(size) for size in sizes[::-1]]
    else:
        matrix = _RAS @ geometry.affine
    source = source.reshape(*source.shape, *(1,) * (3 - source.ndim))
    with _quietly("the mask cannot be written", path), tempfile.TemporaryDirectory() as folder:
        image = itk.GetImageFromArray(np.ascontiguousarray(source.T))
        spacing = np.linalg.norm(matrix[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(matrix[:3, 3].tolist())
        image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
        if path.name.lower().endswith(_SEGMENTS):
            for key, text in _segments(source, legend).items():
                image.SetMetaData(key, text)
        # ITK writes to a name only, and in pieces.
        itk.WriteImage(image, str(Path(folder, path.name)), useCompression=True)
        # The header last: until it is there, there is no mask.
        made = sorted(Path(folder).iterdir(), key=lambda part: part.name == path.name)
        for part in made:
            write_bytes(path.with_name(part.name), part.read_bytes())
    return [path, *(path.with_name(part.name) for part in made[:-1])]


def _segments(source: np.ndarray, legend: Mapping[int, Label]) -> dict[str, str]:
    """What 3D Slicer reads of the segments of a label map."""
    values = sorted({int(value) for value in np.unique(source) if value} | legend.keys())
    extent = " ".join(f"0 {n - 1}" for n in source.shape)
    found = {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for k, value in enumerate(values):
        label = legend.get(value, Label())
        colour = label.colour or DEFAULT_COLOURS[(value - 1) % len(DEFAULT_COLOURS)]
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        found |= {
            f"Segment{k}_ID": f"Segment_{value}",
            f"Segment{k}_Name": " ".join(label.name.split()) or f"structure {value}",
            f"Segment{k}_Color": " ".join(f"{part:.6g}" for part in parts),
            f"Segment{k}_ColorAutoGenerated": "0",
            f"Segment{k}_NameAutoGenerated": "0",
            f"Segment{k}_LabelValue": str(value),
            f"Segment{k}_Layer": "0",
            f"Segment{k}_Extent": extent,
            f"Segment{k}_Tags": "|",
        }
    return found


def read_mask(path: Path, scan: Scan, i: int | None) -> np.ndarray:
    """Read a mask's values onto the displayed grid of its scan."""
    values, affine, notices = _load(path)
    theirs = Geometry.anatomical(values.shape, affine)
    if scan.geometry.affine is None:
        # As `write_mask` laid it.
        values = np.squeeze(values, axis=tuple(range(len(scan.geometry.source_shape), 3))).T
    return scan.place_mask(values, theirs, path, silent=bool(notices))
