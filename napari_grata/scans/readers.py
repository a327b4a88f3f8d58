"""The formats of scans, in one register, and the one door into this room."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from napari_grata.scans import dicom, itk, nifti, photographs
from napari_grata.scans.checks import access
from napari_grata.scans.dicom_headers import is_dicom
from napari_grata.scans.dicom_series import find_series, is_choice
from napari_grata.scans.scan import Label, Scan, ScanError


class Reader(Protocol):
    """A format of scans: what a module has to hold to stand in `READERS`.

    Attributes
    ----------
    SUFFIXES : tuple of str
        Endings of its files, in small letters.
    WORDS : str
        Its name for the user, with the endings.
    """

    SUFFIXES: tuple[str, ...]
    WORDS: str

    def find(self, files: Sequence[Path]) -> list[Path]:
        """The scans among the files of one folder."""

    def read(self, path: Path) -> Scan:
        """Open a scan. Raises ScanError, whatever is wrong with it."""

    def shape_of(self, path: Path) -> tuple[int, ...]:
        """Size along each axis, by the header alone. Raises ScanError."""

    def check_mask(self, scan: Scan, path: Path) -> None:
        """Refuse a mask's name whose type cannot keep the masks of a scan."""

    def write_mask(
        self, labels: np.ndarray, scan: Scan, path: Path, legend: Mapping[int, Label]
    ) -> list[Path]:
        """Write a label stack of the scan's displayed shape onto the scan's own grid.

        What is written begins blank and takes the place of the voxels from the scan's geometry,
        field by field: no text of the scan's file goes into its mask, but for a DICOM
        segmentation, which has to repeat the patient's data.
        """

    def read_mask(self, path: Path, scan: Scan, i: int | None) -> np.ndarray:
        """Read a mask's values onto the displayed grid of a scan, or of its slice `i`."""


READERS: tuple[Reader, ...] = (nifti, photographs, dicom, itk)
KINDS = f"{', '.join(reader.WORDS for reader in READERS[:-1])} or {READERS[-1].WORDS}"
"""What can be opened, for a sentence."""
_HINTS = {
    ".mgz": "Convert it to .nii.gz first, for example with mri_convert.",
    ".hdr": "Convert the .hdr/.img pair to .nii.gz first.",
    ".img": "Convert the .hdr/.img pair to .nii.gz first.",
}


def reader_of(path: Path) -> Reader | None:
    """The reader of a file by its name, or, of an unknown name, by the mark that DICOM begins with.

    None for other types of file.
    """
    name = path.name.lower()
    found = next((reader for reader in READERS if name.endswith(reader.SUFFIXES)), None)
    if found is None and (is_choice(path) or (path.is_file() and is_dicom(path))):
        return dicom
    return found


def shape_of(path: Path) -> tuple[int, ...]:
    """Size of a scan or mask along each axis, by the headers alone, without a last axis of 1.

    Raises
    ------
    ScanError
    """
    reader = dicom if path.is_dir() else reader_of(path)
    if reader is None:
        raise ScanError("this type of file is not known", path, _hint([path]))
    with access(path):
        shape = reader.shape_of(path)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def is_scan_file(path: Path) -> bool:
    """Whether a file's name (of DICOM: its beginning) says that it is a scan."""
    return not path.name.startswith(".") and reader_of(path) is not None


def find_scans(files: Sequence[Path]) -> list[Path]:
    """The scans among the files of one folder: of a DICOM series the file that it opens by.

    Raises
    ------
    ScanError
        There are DICOM files, and pydicom is not installed.
    """
    mine: dict[int, list[Path]] = {}
    for path in files:
        reader = None if path.name.startswith(".") else reader_of(path)
        if reader is not None:
            mine.setdefault(READERS.index(reader), []).append(path)
    return [scan for k, paths in mine.items() for scan in READERS[k].find(paths)]


def scans_in(folder: Path) -> list[Path]:
    """The scans of a folder, by name: its files, and the folders in it that hold a DICOM series.

    Raises
    ------
    ScanError
        As `find_scans` does.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = find_scans(sorted(path for path in inside if path.is_file()))
    found += [path for path in inside if path.is_dir() and find_series(path)]
    return sorted(found, key=lambda path: path.name)


def open_scan(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Scan:
    """Open a file, a folder of photographs or of a DICOM series, or a list of photographs.

    Parameters
    ----------
    source : path or sequence of paths
        ``.nii``/``.nii.gz`` (2-D to 4-D), a ``.png``/``.jpg``/``.tif`` photograph, a folder of
        photographs (taken in the order of their names), or a list of photographs (in its order).
        A folder of one DICOM series, or one or all of its files; ``FOLDER#2`` is the second of
        several series. ``.nrrd``, ``.mha``, ``.mhd``.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        Whatever is wrong: what, where, and what to do. Nothing is left open.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_list([Path(item).expanduser() for item in source])
    path = Path(source).expanduser()
    with access(path):
        if path.is_dir():
            return _open_folder(path)
        if is_choice(path):
            return dicom.read(path)
        if not path.exists():
            raise ScanError("there is no such file or folder", path, "Check its name.")
        reader = reader_of(path)
        if reader is not None:
            return reader.read(path)
    raise ScanError("this type of file is not known", path, _hint([path]))


def _open_list(paths: Sequence[Path]) -> Scan:
    if not paths:
        raise ScanError("no file was given", None, _hint([]))
    if len(paths) == 1:
        return open_scan(paths[0])
    for path in paths:
        if not path.is_file():
            raise ScanError("there is no such file", path, "Check its name.")
    if all(reader_of(path) is dicom for path in paths):
        return dicom.read_together(paths)
    for path in paths:
        if not photographs.is_photograph(path):
            raise ScanError(
                "only photographs can be opened as one list", path, "Open other scans one by one."
            )
    return photographs.read_list(paths, f"{paths[0].stem} and {len(paths) - 1} more")


def _open_folder(folder: Path) -> Scan:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    found = photographs.find(files)
    series = any(reader_of(path) is dicom for path in files)
    if found and series:
        raise ScanError(
            "it holds both photographs and DICOM files", folder, "Open one of its files instead."
        )
    if not found and (series or find_series(folder)):
        return dicom.read(folder)
    if found:
        # Centres side by side would otherwise all be called "images".
        name = folder.name
        if name.lower() in ("images", "image"):
            name = f"{folder.absolute().parent.name} {name}"
        return photographs.read_list(found, name, folder)
    raise ScanError("there are no photographs or DICOM series in it", folder, _hint(files))


def _hint(files: Sequence[Path]) -> str:
    """What to do with files that cannot be opened as they are."""
    if any(is_scan_file(path) for path in files):
        return "Open its scans one by one."
    for path in files:
        if path.suffix.lower() in _HINTS:
            return _HINTS[path.suffix.lower()]
    return f"Scans are {KINDS}."
