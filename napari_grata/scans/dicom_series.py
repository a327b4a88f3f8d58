"""DICOM series: which images belong together, in which order, and where they lie in the patient."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.checks import AGAIN
from napari_grata.scans.dicom_headers import (
    APART,
    NO_SCANS,
    Frame,
    frames_of,
    guard,
    is_dicom,
    library,
    read_header,
    text_of,
)
from napari_grata.scans.scan import ScanError, counted, times

MOST_FILES = 20_000
"""More files than this are no folder of one patient's series."""
_LISTED = 15
_CHOSEN = re.compile(r"(?P<path>.*[^/\\])#(?P<number>[1-9]\d{0,4})")
_DIRECTORY = "1.2.840.10008.1.3.10"
#: Pictures of a whole subject rather than slices of a body.
_PHOTOGRAPHIC = ("OP", "XC", "ES", "GM", "SM", "DMS")
#: A single image of these says nothing without its neighbours.
_SLICED = ("CT", "MR", "PT")
#: Images whose places differ by less than this, in mm, lie at the same place.
_SAME_PLACE = 0.01
#: Deviations from an even stack, as a share of the slice distance: told from here on …
_TOLD = 0.01
#: … and refused from here on; across the slices the measure is the pixel instead.
_REFUSED = 0.1


@dataclass(frozen=True, eq=False)
class Series:
    """Images that are one scan.

    Attributes
    ----------
    path : Path
        Under this name it opens again: its first file by name, with ``#2`` where that file holds
        several scans.
    number : int
        Its place among the series of its folder, from 1.
    modality, description : str
        "CT", "Thorax 5 mm": never anything of the patient.
    series_number : int or None
        The scanner's number.
    frames : tuple of Frame
        Along the normal of the slices; where they do not say where they lie, one alone.
    shape : (int, int)
        Rows and columns.
    rgb : bool
    photographic : bool
        Whether it is a picture of a whole subject.
    notices : tuple of str
    """

    path: Path
    number: int
    modality: str
    description: str
    series_number: int | None
    frames: tuple[Frame, ...]
    shape: tuple[int, int]
    rgb: bool
    photographic: bool
    notices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """Modality, description and number of images, for a list to choose from."""
        images = counted(len(self.frames), "image")
        named = [self.modality, self.description, f"{images} of {times(self.shape)}"]
        return ", ".join(word for word in named if word)

    @property
    def name(self) -> str:
        """A name that says nothing of the patient: ``"CT series 3"``."""
        number = "" if self.series_number is None else f" {self.series_number}"
        return f"{self.modality} series{number}"

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, in the order of their images."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))


# -- which images belong together ------------------------------------------------------------


def find_series(folder: Path) -> tuple[Series, ...]:
    """The series in a folder and in the folders in it, numbered from 1.

    Only images count: segmentations, doses and reports are left out.

    Raises
    ------
    ScanError
        pydicom is missing, there are far too many files, or DICOM files of which none can be read.
    """
    found: list[Series] = []
    count = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        count += len(names)
        if count > MOST_FILES:
            raise ScanError(
                f"there are more than {MOST_FILES:,} files in it",
                folder,
                "Choose a folder further down.",
            )
        found += series_among(Path(where, name) for name in sorted(names))
    return tuple(replace(one, number=k) for k, one in enumerate(found, 1))


def series_among(files: Iterable[Path]) -> list[Series]:
    """The series among the files of one folder; see `find_series`."""
    groups: dict[tuple[Any, ...], list[list[Frame]]] = {}
    heads: dict[Path, Any] = {}
    broken: list[ScanError] = []
    others: list[str] = []
    endings: set[str] = set()
    for path in files:
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
            continue
        if not is_dicom(path):
            others.append(_ending(path))
            continue
        try:
            header = read_header(path)
            with guard("its header is damaged", path):
                frames, key = frames_of(header, path)
        except ScanError as error:
            library(path)
            broken.append(error)
            continue
        heads[path] = header
        endings.add(_ending(path))
        stacks = groups.setdefault(key, [])
        for frame in frames:
            _put(frame, stacks, header.get("Modality") in _SLICED)
    if broken and not groups:
        raise broken[0]
    # Named as the others are, but without the mark of DICOM: perhaps damaged.
    lost = len(broken) + sum(ending in endings for ending in others)
    told = (f"{counted(lost, 'file')} of its folder cannot be read as DICOM.",) * (lost > 0)
    found: list[Series] = []
    for stacks in groups.values():
        parts = [part for stack in stacks for part in _told_apart(stack)]
        total = sum(len(frames) for frames, _, _ in parts)
        for frames, words, notices in parts:
            more = (
                f"Of the {total} images of this series, {len(frames)} are this scan; the others "
                "lie in another direction, or at the same places.",
            ) * (len(frames) < total and frames[0].position is not None)
            with guard("its header is damaged", frames[0].path):
                found.append(
                    _series(heads[frames[0].path], frames, words, (*notices, *more, *told))
                )
    return _named(found)


def _ending(path: Path) -> str:
    """A file's ending where it is one; scanners write numbers there."""
    return path.suffix.lower() if path.suffix[1:].isalpha() else ""


def _put(frame: Frame, stacks: list[list[Frame]], sliced: bool) -> None:
    """Lay an image to those that lie in the same direction.

    Without a place it stays alone, unless it can be no scan by itself: `grid_of` refuses those.
    """
    for stack in stacks:
        first = stack[0]
        if frame.orientation is None or first.orientation is None:
            both = frame.orientation is None and first.orientation is None
            together = both and (frame.path == first.path or sliced)
        else:
            together = bool(
                np.abs(frame.orientation - first.orientation).max() < 2e-3
                and np.allclose(frame.pixel or 0, first.pixel or 0, rtol=1e-3)
            )
        if together:
            stack.append(frame)
            return
    stacks.append([frame])


def _told_apart(stack: list[Frame]) -> Iterator[tuple[list[Frame], str, tuple[str, ...]]]:
    """Split images of which several lie at one place, by the first fact that tells them apart."""
    once = {(frame.instance, frame.index): frame for frame in reversed(stack)}
    frames = _sorted(list(once.values()))
    notices: tuple[str, ...] = ()
    if len(frames) < len(stack):
        twice = counted(len(stack) - len(frames), "image")
        notices = (f"{twice} of the series are there twice, as copies, and were read once.",)
    if not _doubled(frames):
        yield frames, "", notices
        return
    varying = [name for name in APART if len({f.apart.get(name) for f in frames}) > 1]
    for names in (*([name] for name in varying), varying):
        parts: dict[tuple[Any, ...], list[Frame]] = {}
        for frame in frames:
            parts.setdefault(tuple(frame.apart.get(name) for name in names), []).append(frame)
        if len(parts) > 1 and not any(_doubled(part) for part in parts.values()):
            for values, part in parts.items():
                told = zip(names, values, strict=True)
                words = [APART[name].format(value) for name, value in told if value is not None]
                yield part, ", ".join(words), notices
            return
    yield frames, "", notices


def _sorted(frames: list[Frame]) -> list[Frame]:
    """Images along the normal of their slices."""
    if frames[0].orientation is None:
        return frames
    normal = np.cross(*frames[0].orientation)
    return sorted(frames, key=lambda frame: (float(frame.position @ normal), frame.index))


def _doubled(frames: list[Frame]) -> int:
    """How many images lie at the place of their neighbour before them."""
    if frames[0].orientation is None:
        return 0
    places = np.array([frame.position for frame in frames])
    return int((np.linalg.norm(np.diff(places, axis=0), axis=1) < _SAME_PLACE).sum())


def _series(header: Any, frames: list[Frame], words: str, notices: tuple[str, ...]) -> Series:
    modality = text_of(header.get("Modality"), 16) or "DICOM"
    side = text_of(header.get("ImageLaterality") or header.get("Laterality"), 1)
    described = [
        text_of(header.get("SeriesDescription"), 64),
        words,
        {"L": "left", "R": "right"}.get(side, ""),
    ]
    number = str(header.get("SeriesNumber") or "")
    rgb = int(header.get("SamplesPerPixel") or 1) > 1
    return Series(
        path=min(frame.path for frame in frames),
        number=1,
        modality=modality,
        description=", ".join(word for word in described if word),
        series_number=int(number) if number.isdecimal() and len(number) < 10 else None,
        frames=tuple(frames),
        shape=(int(header.Rows), int(header.Columns)),
        rgb=rgb,
        photographic=rgb or (frames[0].position is None and modality in _PHOTOGRAPHIC),
        notices=notices,
    )


def _named(found: list[Series]) -> list[Series]:
    """Series of one folder by name, each under a path of its own."""
    found.sort(key=lambda one: (one.path, one.frames[0].index))
    counts: dict[Path, int] = {}
    result: list[Series] = []
    for one in found:
        k = counts[one.path] = counts.get(one.path, 0) + 1
        several = sum(other.path == one.path for other in found) > 1
        path = one.path.with_name(f"{one.path.name}#{k}") if several else one.path
        result.append(replace(one, path=path, number=len(result) + 1))
    return result


# -- one of them, by its name ----------------------------------------------------------------


def is_choice(path: Path) -> bool:
    """Whether a name such as ``FOLDER#2`` chooses one of the series of something that exists."""
    match = _CHOSEN.fullmatch(str(path))
    return match is not None and not path.exists() and Path(match["path"]).exists()


def series_at(path: Path) -> Series:
    """The one series that a folder holds, a file belongs to, or a name with ``#2`` chooses.

    Raises
    ------
    ScanError
        There are none, or several and none is chosen: they are listed.
    """
    number = 0
    if is_choice(path):
        match = _CHOSEN.fullmatch(str(path))
        assert match is not None
        path, number = Path(match["path"]), int(match["number"])
    if path.is_dir():
        found = list(find_series(path))
    else:
        _refuse_others(path)
        near = series_among(sorted(p for p in path.parent.iterdir() if p.is_file()))
        # A number counts the scans that a file begins, a plain name finds the one it is part of.
        mine = [one for one in near if path.name in {file.name for file in one.files}]
        found = [one for one in mine if not number or min(one.files).name == path.name]
    if not found:
        raise ScanError("it holds no DICOM images", path, "Choose the folder of a series.")
    if number > len(found):
        raise ScanError(
            f"it holds {counted(len(found), 'scan')}, not {number}", path, _offer(found)
        )
    if len(found) > 1 and not number:
        raise ScanError(
            f"it holds {len(found)} scans", path, f"{_offer(found)} Choose one: {path.name}#1."
        )
    return found[max(number - 1, 0)]


def _offer(found: Sequence[Series]) -> str:
    shown = [f"#{k}: {one.words}" for k, one in enumerate(found[:_LISTED], 1)]
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return f"{'; '.join(shown)}{more}."


def _refuse_others(path: Path) -> None:
    """Refuse a DICOM file that holds no image of a scan."""
    header = read_header(path)
    with guard("its header is damaged", path):
        modality = text_of(header.get("Modality"))
        sop_class = str(
            header.get("SOPClassUID", "") or header.file_meta.get("MediaStorageSOPClassUID", "")
        )
        if sop_class == _DIRECTORY or path.name.upper() == "DICOMDIR":
            raise ScanError(
                "it is the list of a disc (DICOMDIR), not a scan",
                path,
                "Open the folder that it lies in.",
            )
        frames, _ = frames_of(header, path)
    if not frames:
        what = f"it holds {NO_SCANS.get(modality, 'no image')} ({modality or 'no modality'})"
        raise ScanError(f"{what}, not a scan", path, "Choose a file of the series itself.")


# -- where they lie --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Grid:
    """Place of a series' voxels: (column, row, slice) to (right, anterior, superior) in mm."""

    affine: np.ndarray
    distance: float
    """Between slices, along their normal, in mm."""
    notices: tuple[str, ...]


def grid_of(series: Series) -> Grid | None:
    """Where the images of a series lie; None for a picture that does not say.

    A tilted gantry shifts the slices against each other: the affine is sheared as they are.

    Raises
    ------
    ScanError
        Images are missing, doubled, or too uneven for a grid: no stack is ever closed up.
    """
    frames, path = series.frames, series.path
    first = frames[0]
    if first.position is None or first.orientation is None or first.pixel is None:
        if len(frames) > 1:
            raise ScanError(
                f"its {len(frames)} images do not say where they lie (position, orientation, pixel "
                "spacing)",
                path,
                "Export the original series; films and screenshots are no stacks of slices.",
            )
        return None
    normal = np.cross(*first.orientation)
    notices: list[str] = []
    if len(frames) == 1:
        step = normal * (first.thickness or 1.0)
        if first.thickness is None:
            notices.append("The image does not say how thick it is; 1 mm is assumed.")
    else:
        step = _step(series, normal, notices)
        if first.thickness is not None and float(step @ normal) > 1.5 * first.thickness:
            notices.append(
                f"Its slices lie {float(step @ normal):.4g} mm apart and are {first.thickness:.4g} "
                "mm thick: there are gaps between them, or every other slice is missing."
            )
    matrix = np.column_stack(
        [first.orientation[0] * first.pixel[1], first.orientation[1] * first.pixel[0], step]
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, first.position
    # DICOM counts towards the patient's left and back, NIfTI towards the right and the front.
    affine[:2] *= -1
    distance = float(step @ normal)
    if not (np.isfinite(affine).all() and 1e-6 < distance < 1e4):
        raise ScanError(f"its slices would be {distance:g} mm apart", path, AGAIN)
    return Grid(affine, distance, tuple(notices))


def _step(series: Series, normal: np.ndarray, notices: list[str]) -> np.ndarray:
    """The way from one slice to the next, where it is the same for all of them."""
    frames = series.frames
    places = np.array([frame.position for frame in frames])
    along = places @ normal
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    close = int((gaps < max(_SAME_PLACE, 0.02 * usual)).sum())
    if close:
        raise ScanError(
            f"{counted(close, 'image')} of {len(frames)} lie at the place of another",
            series.path,
            "They are several scans in one; export them one by one.",
        )
    missing = [(k, round(gap / usual) - 1) for k, gap in enumerate(gaps) if gap > 1.5 * usual]
    if missing:
        total = sum(count for _, count in missing)
        k = missing[0][0]
        raise ScanError(
            f"{counted(total, 'slice')} {'is' if total == 1 else 'are'} missing: slices {k + 1} "
            f"and {k + 2} lie {gaps[k]:.4g} mm apart, others {usual:.4g} mm",
            series.path,
            "Fetch the whole series again; a stack with a hole is not closed up.",
        )
    step: np.ndarray = (places[-1] - places[0]) / (len(places) - 1)
    off = places - places[0] - np.arange(len(places))[:, np.newaxis] * step
    distance = float(step @ normal)
    uneven = float(np.abs(off @ normal).max())
    across = off - np.outer(off @ normal, normal)
    shifted = float(np.linalg.norm(across, axis=1).max())
    pixel = min(frames[0].pixel or (1.0,))
    spread = float(gaps.max() - gaps.min())
    if spread > 2 * _REFUSED * distance or uneven > distance or shifted > pixel:
        what = (
            f"its slices are unevenly spaced: {gaps.min():.4g} to {gaps.max():.4g} mm apart"
            if shifted <= pixel
            else f"its slices are shifted against each other by up to {shifted:.3g} mm"
        )
        raise ScanError(what, series.path, "Resample it onto an even grid first.")
    if spread > 2 * _TOLD * distance or uneven > max(_TOLD * distance, _SAME_PLACE):
        notices.append(
            f"Its slices are unevenly spaced, {gaps.min():.4g} to {gaps.max():.4g} mm apart; "
            f"{distance:.4g} mm is taken, and places are up to {uneven:.2g} mm off."
        )
    if shifted > 0.1 * pixel:
        notices.append(f"Its slices are shifted against each other by up to {shifted:.2g} mm.")
    sideways = float(np.linalg.norm(step - distance * normal))
    if sideways * (len(places) - 1) > 0.1 * pixel:
        angle = math.degrees(math.atan2(sideways, distance))
        notices.append(
            f"The slices are tilted against their stack by {angle:.1f}° (gantry tilt). They are "
            "shown one above the other as they were taken; masks lie where the slices lie."
        )
    return step
