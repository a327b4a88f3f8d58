"""DICOM series: classic and enhanced, of any direction, and ones with holes, doubles and damage.

Oracles: the volume and the affine that a series is made of, and pydicom's own decoding of each
file. The tests write their series with `classic`, `enhanced` and `photograph` too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

from napari_grata.scans import Scan, open_scan

from . import damaged, expect, must_be_taken

PLANTED = "DOE^JOHN"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT, OPHTHALMIC = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.77.1.5.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROOT = "1.2.826.0.1.3680043.8.498."
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def uid(*parts: object) -> UID:
    """The same identifier for the same words."""
    number = int.from_bytes(repr(parts).encode(), "big") % 10**30
    return UID(f"{ROOT}{number}")


def affine_of(
    directions: Any, pixel: Sequence[float], step: Any, origin: Sequence[float]
) -> np.ndarray:
    """From (column, row, slice) to (right, anterior, superior)."""
    x, y = np.asarray(directions, float)
    found = np.eye(4)
    found[:3, :3] = np.column_stack([x * pixel[1], y * pixel[0], step])
    found[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ found


def classic(
    volume: np.ndarray,
    folder: Path,
    *,
    directions: Any = AXIAL,
    pixel: Sequence[float] = (0.8, 0.7),
    step: Any = (0.0, 0.0, 2.5),
    origin: Sequence[float] = (-30.0, -40.0, 12.5),
    modality: str = "CT",
    series: int = 3,
    description: str = "Thorax 2.5 mm",
    suffix: str = ".dcm",
    names: Sequence[str] | None = None,
    **changes: Any,
) -> list[Path]:
    """Write one file a slice; `volume` is (slice, row, column).

    Further keywords change or (None) remove elements of all of them.
    """
    folder.mkdir(exist_ok=True, parents=True)
    paths = []
    for k, picture in enumerate(volume):
        dataset = _head(modality, series, description)
        dataset.SOPInstanceUID = uid("image", modality, series, description, k)
        dataset.InstanceNumber = str(k + 1)
        x, y = np.asarray(directions, float)
        dataset.ImageOrientationPatient = [_ds(v) for v in (*x, *y)]
        dataset.ImagePositionPatient = [_ds(v) for v in np.add(origin, k * np.asarray(step))]
        dataset.PixelSpacing = [_ds(v) for v in pixel]
        dataset.SliceThickness = _ds(abs(np.dot(np.cross(x, y), step)))
        dataset.RescaleIntercept, dataset.RescaleSlope = "0", "1"
        if modality == "CT":
            dataset.RescaleType = "HU"
        _pixels(dataset, picture)
        path = folder / (names[k] if names else f"IM{k + 1:04d}{suffix}")
        _save(dataset, path, changes)
        paths.append(path)
    return paths


def enhanced(
    volume: np.ndarray,
    path: Path,
    *,
    directions: Any = AXIAL,
    pixel: Sequence[float] = (0.8, 0.7),
    step: Any = (0.0, 0.0, 2.5),
    origin: Sequence[float] = (-30.0, -40.0, 12.5),
    order: Sequence[int] | None = None,
    intercept: float = -1024.0,
    **changes: Any,
) -> Path:
    """Write an enhanced CT of one file; its frames lie in `order`."""
    order = list(order or range(len(volume)))
    dataset = _head("CT", 7, "Enhanced")
    dataset.SOPClassUID = ENHANCED_CT
    dataset.SOPInstanceUID = uid("enhanced", path.name)
    dataset.InstanceNumber = "1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.ContentDate, dataset.ContentTime = "20200102", "120000"
    dataset.NumberOfFrames = len(order)
    x, y = np.asarray(directions, float)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[_ds(v) for v in (*x, *y)])]
    shared.PixelMeasuresSequence = [
        _item(
            PixelSpacing=[_ds(v) for v in pixel],
            SliceThickness=_ds(abs(np.dot(np.cross(x, y), step))),
        )
    ]
    shared.PixelValueTransformationSequence = [
        _item(RescaleIntercept=_ds(intercept), RescaleSlope="1", RescaleType="HU")
    ]
    dataset.SharedFunctionalGroupsSequence = [shared]
    each = []
    for k in order:
        frame = Dataset()
        place = np.add(origin, k * np.asarray(step))
        frame.PlanePositionSequence = [_item(ImagePositionPatient=[_ds(v) for v in place])]
        frame.FrameContentSequence = [_item(DimensionIndexValues=[k + 1], StackID="1")]
        each.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = each
    _pixels(dataset, volume[order])
    _save(dataset, path, changes)
    return path


def photograph(
    picture: np.ndarray, path: Path, *, modality: str = "OP", series: int = 1, **changes: Any
) -> Path:
    """Write one colour (H, W, 3) or grey (H, W) photograph."""
    dataset = _head(modality, series, "Fundus")
    dataset.SOPClassUID = OPHTHALMIC if modality == "OP" else CAPTURE
    dataset.SOPInstanceUID = uid("photograph", path.name, series)
    dataset.InstanceNumber = "1"
    dataset.ImageLaterality = "L"
    if modality == "OP":
        dataset.NumberOfFrames = 1
    del dataset.FrameOfReferenceUID
    _pixels(dataset, picture)
    _save(dataset, path, changes)
    return path


def _head(modality: str, series: int, description: str) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = MR if modality == "MR" else CT
    dataset.PatientName, dataset.PatientID = PLANTED, "DOE-4711"
    dataset.PatientBirthDate, dataset.PatientSex = "19500102", "M"
    dataset.StudyInstanceUID = uid("study")
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200102", "111111", "S1"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "A1", "DOE^PHYSICIAN"
    dataset.SeriesInstanceUID = uid("series", modality, series, description)
    dataset.SeriesNumber, dataset.SeriesDescription = str(series), description
    dataset.Modality = modality
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid("frame"), ""
    dataset.Manufacturer = "made up"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientPosition = "HFS"
    dataset.AcquisitionNumber = "1"
    dataset.KVP = "120"
    return dataset


def _pixels(dataset: Dataset, picture: np.ndarray) -> None:
    rgb = picture.ndim == 3 and picture.shape[-1] == 3 and "NumberOfFrames" not in dataset
    rgb |= dataset.SOPClassUID == OPHTHALMIC and picture.ndim == 3
    dataset.Rows, dataset.Columns = picture.shape[-3:-1] if rgb else picture.shape[-2:]
    dataset.SamplesPerPixel = 3 if rgb else 1
    dataset.PhotometricInterpretation = "RGB" if rgb else "MONOCHROME2"
    if rgb:
        dataset.PlanarConfiguration = 0
    bits = picture.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(picture.dtype.kind == "i")
    data = np.ascontiguousarray(picture.astype(picture.dtype.newbyteorder("<"))).tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)


def _save(dataset: Dataset, path: Path, changes: dict[str, Any]) -> None:
    syntax = changes.get("syntax")
    for name, value in changes.items():
        if name == "syntax":
            continue
        if value is None:
            dataset.pop(name, None)
        else:
            setattr(dataset, name, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", uid("none"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=bytes(128))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax == RLELossless:
            file.compress(RLELossless, generate_instance_uid=False)
        elif syntax is not None:
            file.file_meta.TransferSyntaxUID = UID(syntax)
        if syntax in (None, RLELossless, ExplicitVRLittleEndian):
            file.save_as(path, enforce_file_format=True)
        else:
            # A name for a way of storing that the pixels are not in.
            file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            file.save_as(path, enforce_file_format=True)
            old, new = str(ExplicitVRLittleEndian).encode(), str(syntax).encode()
            _rename_syntax(path, old, new)


def _rename_syntax(path: Path, old: bytes, new: bytes) -> None:
    """Put another transfer syntax into a file's header, and its lengths right."""
    data = bytearray(path.read_bytes())
    new += b"\0" * (len(new) % 2)
    at = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    data[at + 8 : at + 8 + length] = new
    data[at + 6 : at + 8] = len(new).to_bytes(2, "little")
    group = int.from_bytes(data[140:144], "little") + len(new) - length
    data[140:144] = group.to_bytes(4, "little")
    path.write_bytes(bytes(data))


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def _ds(value: float) -> str:
    """A number of at most 16 letters, as DICOM writes them."""
    return f"{float(value):.10g}"[:16]


def directions(rng: np.random.Generator, how: str) -> np.ndarray:
    """Directions of rows and columns: along the axes, in any order and sign, or oblique."""
    if how == "oblique":
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        return turn[:2]
    return (np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)[:, None])[:2]


def trial(random: Random, folder: Path) -> None:
    """Make a series or a photograph, mostly with something the matter, and open it."""
    rng = np.random.default_rng(random.randrange(2**32))
    inside = folder / "series"
    if random.random() < 0.15:
        _try_photograph(random, rng, folder)
        return
    how = random.choice(("axes", "oblique"))
    way = directions(rng, how)
    normal = np.cross(*way)
    dtype = random.choice((np.int16, np.uint16, np.uint8))
    n = random.choice((2, 3, 5, 8))
    volume = rng.integers(0, 200, (n, 5, 7)).astype(dtype)
    gap = float(rng.uniform(0.5, 6))
    tilt = way[1] * (rng.uniform(-0.5, 0.5) * gap if random.random() < 0.2 else 0)
    step = normal * gap + tilt
    pixel, origin = rng.uniform(0.3, 3, 2), rng.normal(size=3) * 100
    geometry: dict[str, Any] = {"directions": way, "pixel": pixel, "step": step, "origin": origin}
    shift = random.choice((0, 0, -1024))
    if random.random() < 0.3:
        path = enhanced(
            volume,
            folder / "one.dcm",
            order=rng.permutation(n).tolist(),
            intercept=shift,
            **geometry,
        )
        paths, source = [path], path
    else:
        more: dict[str, Any] = {"RescaleIntercept": str(shift)}
        if random.random() < 0.2:
            more["syntax"] = RLELossless
        names = [f"{name}" for name in rng.permutation(10_000)[:n]]
        paths = classic(volume, inside, names=names, **geometry, **more)
        source = random.choice((inside, paths[0]))
    what = random.choice(("nothing", "nothing", "missing", "doubled", "mixed", "damage", "damage"))
    if what == "missing" and len(paths) > 3:
        paths.pop(random.randrange(1, len(paths) - 1)).unlink()
        source = inside
    elif what == "doubled" and len(paths) > 1:
        dataset = pydicom.dcmread(random.choice(paths))
        dataset.SOPInstanceUID = uid("again")
        dataset.save_as(inside / "again")
        source = inside
    elif what == "mixed":
        classic(volume[:, :4], inside, series=9, names=[f"x{k}" for k in range(n)])
        source = folder
    elif what == "damage":
        path = random.choice(paths)
        path.write_bytes(damaged(random, path.read_bytes()))
        source = inside if path.parent == inside else path
    else:
        what = "nothing"
    with must_be_taken(what == "nothing"):
        scan = open_scan(source)
    expect(what in ("nothing", "damage"), f"{what} slices, and it was opened")
    if what == "damage":
        _compare_with_files(scan, inside if inside.is_dir() else paths[0])
        return
    ours = np.asarray(scan.geometry.to_source(np.asarray(scan.data)))
    theirs = volume.astype(np.int64).transpose(2, 1, 0) + shift
    expect(np.array_equal(ours.reshape(theirs.shape), theirs), "other values")
    affine = affine_of(way, pixel, step, origin)
    expect(np.allclose(scan.geometry.affine, affine, atol=1e-3), "another place")
    expect("DOE" not in f"{scan.name} {scan.notices}", "a name is told")


def _try_photograph(random: Random, rng: np.random.Generator, folder: Path) -> None:
    picture = rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)
    path = photograph(picture, folder / "photograph.dcm")
    broken = random.random() < 0.5
    if broken:
        path.write_bytes(damaged(random, path.read_bytes()))
    with must_be_taken(not broken):
        scan = open_scan(path)
    stored = pydicom.dcmread(path).pixel_array
    expect(np.array_equal(np.asarray(scan.data), stored), "other colours")


def _compare_with_files(scan: Scan, source: Path) -> None:
    """A damaged series that was opened is still what its files say, file by file."""
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    stored = []
    for path in files:
        try:
            dataset = pydicom.dcmread(path)
            values = dataset.pixel_array.astype(np.float64)
            groups = dataset.get("SharedFunctionalGroupsSequence")
            where = groups[0].PixelValueTransformationSequence[0] if groups else dataset
            slope, shift = where.get("RescaleSlope", 1), where.get("RescaleIntercept", 0)
            values = values * float(slope or 1) + float(shift or 0)
        except Exception:  # left out, and said so
            expect(any("cannot be read" in one for one in scan.notices), "a file is left out")
            continue
        stored += list(values.reshape(-1, *values.shape[-2:]))
    if scan.rgb or scan.geometry.affine is None:
        return
    shown = np.asarray(scan.geometry.to_source(np.asarray(scan.data)))
    slices = shown.reshape(*scan.geometry.source_shape[:2], -1).transpose(2, 1, 0)
    for one in slices:
        expect(
            any(other.shape == one.shape and np.allclose(other, one) for other in stored),
            "a slice is in none of the files",
        )
    left = len(stored) - len(slices)
    told = any("images" in one or "image" in one or "cannot be read" in one for one in scan.notices)
    expect(left <= 0 or told, f"{left} images are left out and it is not told")
