"""DICOM headers: what one file says of its images and of where they lie.

Of a header only `TAGS` are read: nothing that names a patient.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans import checks
from napari_grata.scans.checks import AGAIN
from napari_grata.scans.scan import ScanError

SUFFIXES: tuple[str, ...] = (".dcm", ".dicom", ".ima")
_MAGIC = b"DICM"
_DEFLATED = "1.2.840.10008.1.2.1.99"
#: Objects with rows and columns that are no scans.
NO_SCANS = {"SEG": "a mask", "RTDOSE": "a dose", "PR": "a presentation", "KO": "a selection"}
#: … and objects without.
_NO_IMAGES = (
    *("SR", "DOC", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "FID", "RWV", "ECG", "HD", "AU"),
    *("PLAN", "ASMT", "TEXTUREMAP", "SMR", "STAIN"),
)
#: What may tell images apart that lie at the same place, with its words.
APART = {
    "StackID": "stack {}",
    "TemporalPositionIdentifier": "time point {}",
    "EchoTime": "echo time {} ms",
    "InversionTime": "inversion time {} ms",
    "FlipAngle": "flip angle {}°",
    "DiffusionBValue": "b-value {}",
    "ImageType": "{}",
    "AcquisitionNumber": "acquisition {}",
    "TriggerTime": "trigger time {} ms",
}
#: The same facts under the names that enhanced objects have for them.
_ENHANCED = {"EffectiveEchoTime": "EchoTime", "TemporalPositionIndex": "TemporalPositionIdentifier"}
TAGS = (
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality"),
    *("SeriesDescription", "SeriesNumber", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PlanarConfiguration"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "Laterality"),
    *("ModalityLUTSequence", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "ImageLaterality"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *APART),
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a DICOM file.

    Attributes
    ----------
    path : Path
    index : int
        Its number in the file, from 0.
    instance : str
        The file's SOP Instance UID.
    position : ndarray, shape (3,), or None
        Centre of the first pixel in mm, towards the patient's left, back and head.
    orientation : ndarray, shape (2, 3), or None
        Directions in which the columns' index and the rows' index grow, of length 1.
    pixel : (float, float) or None
        Distance in mm between rows and between columns.
    thickness : float or None
        Distance to the next slice as the header names it, in mm.
    rescale : (float, float)
        Slope and intercept.
    apart : dict
        Values of `APART`.
    """

    path: Path
    index: int
    instance: str
    position: np.ndarray | None
    orientation: np.ndarray | None
    pixel: tuple[float, float] | None
    thickness: float | None
    rescale: tuple[float, float]
    apart: dict[str, Any]


def library(path: Path) -> Any:
    """Return pydicom, or say how to get it."""
    return checks.library("pydicom", "dicom", "DICOM cannot be read", path)


def is_dicom(path: Path) -> bool:
    """Whether a file's name says DICOM, or, under any other name, its beginning does."""
    return path.name.lower().endswith(SUFFIXES) or _has_mark(path)


def _has_mark(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == _MAGIC
    except OSError:
        return False


@contextlib.contextmanager
def guard(what: str, path: Path, hint: str = AGAIN) -> Iterator[None]:
    """Turn whatever a damaged file makes pydicom raise into a sentence, and keep it quiet.

    What it warns about, logs and raises may quote the header, and so the patient.
    """
    config = library(path).config
    mode = config.settings.reading_validation_mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config.settings.reading_validation_mode = config.IGNORE
        try:
            with checks.guard(what, path, hint):
                yield
        except ScanError as error:
            raise error from None
        finally:
            config.settings.reading_validation_mode = mode


def read_header(path: Path, tags: Sequence[str] | None = TAGS, *, pixels: bool = False) -> Any:
    """Read a file's header, of it only some tags, and with its pixels where asked for.

    Raises
    ------
    ScanError
        It is no DICOM file, or a damaged one.
    """
    pydicom = library(path)
    checks.size_of(path)
    if not _has_mark(path):
        raise ScanError(
            "it cannot be read as DICOM: the mark at its beginning is missing",
            path,
            "Export it again as a DICOM file (Part 10).",
        )
    with guard("it cannot be read as DICOM", path):
        meta = pydicom.filereader.read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) == _DEFLATED:
            raise ScanError(
                "it is packed as a whole (deflated), which is not read",
                path,
                "Export it uncompressed (Explicit VR Little Endian).",
            )
        wanted = None if tags is None else [*tags, *(("PixelData",) if pixels else ())]
        return pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=wanted)


def frames_of(header: Any, path: Path) -> tuple[list[Frame], tuple[Any, ...]]:
    """The images of a file, and what files of one series have in common; none if it is no image."""
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    modality = text_of(header.get("Modality"))
    uid = str(header.get("SeriesInstanceUID") or path)
    samples = int(header.get("SamplesPerPixel") or 1)
    key = (uid, str(header.get("SOPClassUID", "")), rows, columns, samples)
    if modality in NO_SCANS or modality in _NO_IMAGES:
        return [], key
    if rows < 1 or columns < 1:
        raise ScanError("it holds no image: its header ends before", path, AGAIN)
    count = int(header.get("NumberOfFrames") or 1)
    if not 1 <= count <= 1_000_000:
        raise ScanError(f"its header promises {count:,} images", path, AGAIN)
    shared = _only(header.get("SharedFunctionalGroupsSequence"))
    each = header.get("PerFrameFunctionalGroupsSequence") or []
    if each and len(each) != count:
        raise ScanError(f"it promises {count} images and describes {len(each)}", path, AGAIN)
    general = [] if shared is None else [shared]
    frames = [
        _frame(header, [each[k], *general] if each else general, path, k, samples)
        for k in range(count)
    ]
    return frames, key


def _frame(header: Any, groups: list[Any], path: Path, index: int, samples: int) -> Frame:
    def get(name: str, sequence: str = "") -> Any:
        """A value from the image's own functional groups, the shared ones, or the header."""
        found = in_groups(groups, sequence, name) if sequence else None
        return header.get(name) if found is None else found

    position = _numbers(get("ImagePositionPatient", "PlanePositionSequence"), 3)
    orientation = _numbers(get("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
    pixel = _numbers(get("PixelSpacing", "PixelMeasuresSequence"), 2)
    if pixel is None and position is None:
        pixel = _numbers(header.get("ImagerPixelSpacing"), 2)
    thickness = None
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        found = _numbers(get(name, "PixelMeasuresSequence"), 1)
        if thickness is None and found is not None and found[0] > 0:
            thickness = float(found[0])
    if position is not None and orientation is not None:
        directions = orientation.reshape(2, 3)
        lengths = np.linalg.norm(directions, axis=1)
        if np.abs(lengths - 1).max() > 0.01 or abs(directions[0] @ directions[1]) > 0.01:
            raise ScanError(
                "its orientation is none: its axes are not at right angles", path, AGAIN
            )
        directions = directions / lengths[:, np.newaxis]
    else:
        position = directions = None
    if pixel is not None and not (min(pixel) > 1e-6 and max(pixel) < 1e4):
        raise ScanError(f"its pixels would measure {pixel[0]:g} × {pixel[1]:g} mm", path, AGAIN)
    # Without a place, or in colour, each image stands for itself.
    if samples > 1 or pixel is None:
        position = directions = None
    apart = {name: header.get(name) for name in APART}
    apart["ImageType"] = "/".join(map(str, header.get("ImageType") or ())) or None
    for sequence, names in (
        ("FrameContentSequence", ("StackID", "TemporalPositionIndex")),
        ("MREchoSequence", ("EffectiveEchoTime",)),
        ("MRDiffusionSequence", ("DiffusionBValue",)),
    ):
        for name in names:
            value = get(name, sequence)
            if value is not None:
                apart[_ENHANCED.get(name, name)] = value
    value = "PixelValueTransformationSequence"
    slope = _numbers(get("RescaleSlope", value), 1)
    intercept = _numbers(get("RescaleIntercept", value), 1)
    return Frame(
        path=path,
        index=index,
        instance=str(header.get("SOPInstanceUID", path)),
        position=position,
        orientation=directions,
        pixel=None if pixel is None else (float(pixel[0]), float(pixel[1])),
        thickness=thickness,
        rescale=(
            1.0 if slope is None else float(slope[0]),
            0.0 if intercept is None else float(intercept[0]),
        ),
        apart={name: str(found) for name, found in apart.items() if found not in (None, "")},
    )


def in_groups(groups: Sequence[Any], sequence: str, name: str) -> Any:
    """A value from the first of some functional groups that has it; None without any."""
    for group in groups:
        item = _only(group.get(sequence))
        if item is not None and item.get(name) is not None:
            return item.get(name)
    return None


def _only(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _numbers(value: Any, count: int) -> np.ndarray | None:
    """So many finite numbers, or None where there are none."""
    if value is None or value == "":
        return None
    found = np.atleast_1d(np.array(value, dtype=np.float64))
    return found if found.shape == (count,) and np.isfinite(found).all() else None


def text_of(value: Any, longest: int = 64) -> str:
    """Text of a header on one line, printable, not long."""
    text = " ".join(str(value or "").split())
    return "".join(c for c in text if c.isprintable())[:longest]
