"""DICOM segmentations: written by highdicom into the patient's study, read with pydicom alone.

A segmentation belongs to the study of the images it was drawn on, and the standard asks it to
repeat the patient's and the study's data. So it names the patient; NIfTI masks do not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.checks import AGAIN, check_size, library
from napari_grata.scans.dicom_headers import guard, in_groups, is_dicom, read_header
from napari_grata.scans.dicom_series import Series, is_choice, series_at
from napari_grata.scans.files import write_bytes
from napari_grata.scans.scan import Label, Scan, ScanError, other_grid, times

_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_HINT = "Write the mask as .nii.gz (of a photograph: .png) instead."
#: DICOM's names for what cards call otherwise; others are looked up as they are.
_KNOWN_AS = {
    "csf": "CerebrospinalFluid",
    "opticdisc": "OpticNerveHead",
    "opticdisk": "OpticNerveHead",
    "vessel": "BloodVessel",
    "vessels": "BloodVessel",
    "retinalvessels": "BloodVessel",
    "tumour": "Neoplasm",
    "tumor": "Neoplasm",
}
_VALUE = re.compile(r"Label value (\d{1,5})")


# -- out -------------------------------------------------------------------------------------


def check_mask(scan: Scan, path: Path) -> None:
    """Refuse what can be no DICOM segmentation: scans that are no series, a missing library.

    Raises
    ------
    ScanError
    """
    if not _is_dicom(scan):
        raise ScanError(
            "a DICOM segmentation refers to a DICOM series, and the scan is none", path, _HINT
        )
    library("highdicom", "dicom", "DICOM segmentations cannot be written", path)


def _is_dicom(scan: Scan) -> bool:
    source = scan.path
    return source is not None and (is_choice(source) or (source.is_file() and is_dicom(source)))


def _instances(scan: Scan) -> set[str]:
    """Identifiers of a scan's files."""
    assert scan.path is not None
    return {frame.instance for frame in series_at(scan.path).frames}


def write_mask(
    labels: np.ndarray, scan: Scan, path: Path, legend: Mapping[int, Label]
) -> list[Path]:
    """Write one binary segment a structure, on the very images of the series.

    Pixels of a contained structure belong to the containing one as well (`Label.parts`), unlike
    in a label map: a segment is the whole structure.

    Raises
    ------
    ScanError
        The series is gone, or lacks what the standard asks for.
    FileError
    """
    check_mask(scan, path)
    assert scan.path is not None
    series = series_at(scan.path)
    stack = _on_images(labels, scan, series)
    values = sorted({int(value) for value in np.unique(stack) if value} | legend.keys())
    if not values:
        raise ScanError("the mask is empty and its structures have no names", path, _HINT)
    with guard("no DICOM segmentation can be made of this series", series.path, _HINT):
        sources = [read_header(file, None) for file in series.files]
        if len(series.files) > 1 and len(series.files) != len(series.frames):
            raise ScanError("its images lie in several multi-frame files", series.path, _HINT)
        if scan.geometry.affine is None:
            _as_picture(sources[0])
        _check_sources(sources, scan, series.path)
        if len(sources) == 1 and int(sources[0].get("NumberOfFrames") or 1) > 1:
            whole = np.zeros((int(sources[0].NumberOfFrames), *series.shape), stack.dtype)
            whole[[frame.index for frame in series.frames]] = stack
            stack = whole
        data = _bytes_of(stack, values, sources, legend, scan)
    write_bytes(path, data)
    return [path]


def _on_images(labels: np.ndarray, scan: Scan, series: Series) -> np.ndarray:
    """Labels as the series' images hold them: (image, row, column)."""
    source = np.asarray(scan.geometry.to_source(labels))
    stack = source.transpose(2, 1, 0) if source.ndim == 3 else source[np.newaxis]
    if stack.shape != (len(series.frames), *series.shape):
        raise ScanError(
            f"the series is {len(series.frames)} × {times(series.shape)} now, the mask "
            f"{times(stack.shape)}",
            series.path,
            "The files have changed since the scan was opened: open it again.",
        )
    return np.ascontiguousarray(stack)


def _as_picture(source: Any) -> None:
    """Make a header that does not say where it lies one that highdicom takes.

    It asks classes that may have several frames, as photographs of the eye have, for the size of
    a pixel, which `_bytes_of` takes out again: there is none without a thickness.
    """
    from pydicom.dataset import Dataset

    source.pop("FrameOfReferenceUID", None)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    source.SharedFunctionalGroupsSequence = [shared]


def _check_sources(sources: Sequence[Any], scan: Scan, path: Path) -> None:
    """Name what highdicom would miss, and fill in what may be empty but not missing."""
    needed = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality"]
    if scan.geometry.affine is not None:
        needed.append("FrameOfReferenceUID")
    missing = [name for name in needed if not sources[0].get(name)]
    if missing:
        raise ScanError(f"its header lacks {' and '.join(missing)}", path, _HINT)
    for source in sources:
        if scan.geometry.affine is not None and source.get("SliceThickness") is None:
            source.SliceThickness = scan.slice_thickness or 1.0
        # Type 2 of the standard: they may be empty, but have to be there.
        for name in (
            *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID"),
            *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
        ):
            if name not in source:
                setattr(source, name, None)


def _bytes_of(
    stack: np.ndarray,
    values: Sequence[int],
    sources: Sequence[Any],
    legend: Mapping[int, Label],
    scan: Scan,
) -> bytes:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    from napari_grata import __version__

    algorithm = hd.AlgorithmIdentificationSequence(
        name="napari-grata", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    segments = []
    for number, value in enumerate(values, 1):
        label = legend.get(value, Label())
        category, kind = _codes(label.name)
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label.name[:64] or f"structure {value}",
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
            display_color=hd.color.CIELabColor.from_string(label.colour) if label.colour else None,
        )
        # By this a mask gets its values back that is read again.
        description.SegmentDescription = f"Label value {value}"
        segments.append(description)
    if any(legend[value].parts for value in values if value in legend):
        parts = [(value, *legend.get(value, Label()).parts) for value in values]
        pixels = np.stack([np.isin(stack, one) for one in parts], axis=-1)
    else:
        table = np.zeros(max(values) + 1, np.uint16)
        table[list(values)] = range(1, len(values) + 1)
        pixels = table[stack]
    series = getattr(sources[0], "SeriesNumber", None)
    made = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=int(series or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="napari-grata",
        manufacturer_model_name="napari-grata",
        software_versions=__version__,
        device_serial_number="0",
        content_label="SEGMENTATION",
        content_description="Segmentation; research, not for diagnosis",
        series_description="Segmentation by napari-grata (research)",
    )
    if scan.geometry.affine is None:
        made.PatientOrientation = sources[0].get("PatientOrientation")
        made.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()


def _codes(name: str) -> tuple[Any, Any]:
    """Category and type of a structure: DICOM's own term of that name, or just a tissue."""
    from pydicom.sr.codedict import codes

    wanted = re.sub(r"[\W_]+", "", name).casefold().replace("grey", "gray")
    wanted = _KNOWN_AS.get(wanted, wanted).casefold()
    terms = codes.cid7151
    found = next((term for term in terms.dir() if term.casefold() == wanted), None)
    if wanted == "opticnervehead":
        return codes.SCT.AnatomicalStructure, codes.SCT.OpticNerveHead
    if found is None:
        return codes.SCT.Tissue, codes.SCT.Tissue
    abnormal = found in ("Neoplasm", "Lesion", "Edema", "Cyst", "Hemorrhage")
    category = "MorphologicallyAbnormalStructure" if abnormal else "AnatomicalStructure"
    return getattr(codes.SCT, category), getattr(terms, found)


# -- in --------------------------------------------------------------------------------------


def read_mask(path: Path, scan: Scan, i: int | None) -> np.ndarray:
    """Read a segmentation onto the displayed grid of its scan: 0 where there is no segment.

    A frame belongs to the slice at whose place it lies, whatever its order; a photograph's to the
    photograph. Values are segment numbers, or those that `write_mask` kept.

    Raises
    ------
    ScanError
        It is no segmentation, a fractional one, lies on another grid, or its segments overlap
        without lying one inside the other.
    """
    header = read_header(path, None, pixels=True)
    with guard("it cannot be read as a DICOM segmentation", path):
        if str(header.get("SOPClassUID")) not in _CLASSES:
            raise ScanError("it is no segmentation", path, "Choose the scan's own mask.")
        kind = str(header.get("SegmentationType", ""))
        if kind not in ("BINARY", "LABELMAP"):
            raise ScanError(
                f"its segments are {kind.lower() or 'of no known kind'}, not binary",
                path,
                "Export it as a binary segmentation.",
            )
        frames = _frames(header, path)
        check_size((len(frames), int(header.Rows), int(header.Columns)), 1, path)
        stored = _stored(header, path)
        values = _values(header)
        shape, places = _places(scan, header, path)
        if kind == "LABELMAP":
            return _label_map(frames, stored, values, shape, places, scan, path)
        return _merged(frames, stored, values, shape, places, scan, path)


def _frames(header: Any, path: Path) -> list[tuple[int, np.ndarray | None]]:
    """Segment and place of each frame."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    count = int(header.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise ScanError(f"it promises {count} frames and describes {len(groups)}", path, AGAIN)
    # What all frames have in common, such as the only segment, stands with the shared groups.
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])
    found = []
    for group in groups:
        both = [group, *shared]
        number = in_groups(both, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        place = in_groups(both, "PlanePositionSequence", "ImagePositionPatient")
        found.append((int(number or 0), None if place is None else np.array(place, float)))
    return found


def _stored(header: Any, path: Path) -> np.ndarray:
    """Frames as stored, shape (frames, rows, columns)."""
    rows, columns = int(header.Rows), int(header.Columns)
    count = int(header.get("NumberOfFrames") or 1)
    if not header.file_meta.TransferSyntaxUID.is_compressed:
        needed = rows * columns * count * int(header.BitsAllocated) / 8
        if len(header.PixelData) < needed:
            raise ScanError("it is cut short: pixels are missing", path, AGAIN)
    return np.asarray(header.pixel_array).reshape(count, rows, columns)


def _values(header: Any) -> dict[int, int]:
    """Label value of each segment number: the value it was written with, or the number itself."""
    segments = list(header.get("SegmentSequence") or [])
    numbers = [int(segment.SegmentNumber) for segment in segments]
    kept = [_VALUE.fullmatch(str(segment.get("SegmentDescription", ""))) for segment in segments]
    values = [int(match[1]) for match in kept if match]
    if len(values) == len(numbers) == len(set(values)) and all(values):
        return dict(zip(numbers, values, strict=True))
    return {number: number for number in numbers}


def _places(scan: Scan, header: Any, path: Path) -> tuple[tuple[int, int, int], Any]:
    """Shape (slices, rows, columns) of the scan's images, and a function from place to slice."""
    affine = scan.geometry.affine
    source = scan.geometry.source_shape
    # The source grid counts columns first, a photograph's rows.
    shape = (1, *source) if affine is None else (*(source[2:3] or (1,)), source[1], source[0])
    if len(shape) != 3 or shape[1:] != (int(header.Rows), int(header.Columns)):
        raise other_grid(path)
    if affine is None:
        drawn_on = {e.value for e in header.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
        if drawn_on and _is_dicom(scan) and not drawn_on & _instances(scan):
            raise ScanError("the mask was drawn on another image", path, "Choose its own mask.")
        return shape, lambda place: 0
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    shared = header.get("SharedFunctionalGroupsSequence")
    groups = [*(shared or []), *header.PerFrameFunctionalGroupsSequence[:1]]
    orientation = in_groups(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    pixel = in_groups(groups, "PixelMeasuresSequence", "PixelSpacing")
    if orientation is None or pixel is None:
        raise ScanError("it does not say where it lies", path, "Export it again.")
    directions = np.array(orientation, float).reshape(2, 3) * np.array(pixel, float)[::-1, None]
    size = float(np.linalg.norm(matrix[:3, :3], axis=0).min())
    reach = np.abs(directions.T - matrix[:3, :2]).max(axis=0) * (shape[2], shape[1])
    if reach.max() > size / 4:
        raise other_grid(path)
    corners = matrix[:3, 3] + np.outer(np.arange(shape[0]), matrix[:3, 2])

    def slice_at(place: np.ndarray | None) -> int:
        if place is None:
            raise ScanError("a frame does not say where it lies", path, "Export it again.")
        off = np.linalg.norm(corners - place, axis=1)
        # Uneven stacks lie up to a tenth of a slice beside their grid.
        distance = float(np.linalg.norm(matrix[:3, 2]))
        k = int(off.argmin())
        if off[k] > max(size / 4, 0.12 * distance):
            raise other_grid(path)
        return k

    return shape, slice_at


def _label_map(
    frames: Any, stored: np.ndarray, values: Any, shape: Any, places: Any, scan: Scan, path: Path
) -> np.ndarray:
    result = np.zeros(shape, np.uint16)
    table = np.zeros(int(stored.max(initial=0)) + 1, np.uint16)
    for number, value in values.items():
        if number < len(table):
            table[number] = value
    for (_, place), frame in zip(frames, stored, strict=True):
        result[places(place)] = table[frame]
    return _shown(result, scan)


def _merged(
    frames: Any, stored: np.ndarray, values: Any, shape: Any, places: Any, scan: Scan, path: Path
) -> np.ndarray:
    """One label map of binary segments: where one lies inside another, the inner one."""
    by_segment: dict[int, list[tuple[int, np.ndarray]]] = {}
    for (number, place), frame in zip(frames, stored, strict=True):
        if number not in values:
            raise ScanError(f"it has no segment {number}", path, AGAIN)
        by_segment.setdefault(number, []).append((places(place), frame != 0))
    sizes = {n: sum(int(mask.sum()) for _, mask in parts) for n, parts in by_segment.items()}
    result = np.zeros(shape, np.uint16)
    for number in sorted(by_segment, key=lambda number: -sizes[number]):
        parts = by_segment[number]
        under = {int(value) for k, mask in parts for value in np.unique(result[k][mask])}
        if len(under) > 1:
            raise ScanError(
                f"its segments overlap: segment {number} lies partly in another one",
                path,
                "Export the structures one by one, or without overlap.",
            )
        for k, mask in parts:
            result[k][mask] = values[number]
    return _shown(result, scan)


def _shown(stack: np.ndarray, scan: Scan) -> np.ndarray:
    """Labels of (slice, row, column) on the displayed grid."""
    geometry = scan.geometry
    if geometry.affine is None:
        found: np.ndarray = geometry.to_display(stack[0])
    else:
        found = geometry.to_display(stack.transpose(2, 1, 0).reshape(geometry.source_shape))
    return found
