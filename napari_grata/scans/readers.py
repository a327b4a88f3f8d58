"""Open a scan, whatever it is: the one door into this room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from napari_grata.scans.nifti import is_nifti, open_nifti
from napari_grata.scans.photographs import is_photograph, open_photograph, open_photographs
from napari_grata.scans.scan import Scan, ScanError

_KNOWN = "Scans are NIfTI files (.nii, .nii.gz) or photographs (.png, .jpg, .tif)."
_HINTS = {
    ".dcm": "Convert DICOM to NIfTI first, for example with dcm2niix.",
    ".mha": "Convert it to .nii.gz first.",
    ".mhd": "Convert it to .nii.gz first.",
    ".nrrd": "Convert it to .nii.gz first.",
    ".mgz": "Convert it to .nii.gz first, for example with mri_convert.",
    ".hdr": "Convert the .hdr/.img pair to .nii.gz first.",
    ".img": "Convert the .hdr/.img pair to .nii.gz first.",
}


def open_scan(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Scan:
    """Open a file, a folder of photographs, or a list of photographs.

    Parameters
    ----------
    source : path or sequence of paths
        ``.nii``/``.nii.gz`` (2-D to 4-D), a ``.png``/``.jpg``/``.tif`` photograph, a folder of
        photographs (taken in the order of their names), or a list of photographs (in its order).

    Returns
    -------
    Scan

    Raises
    ------
    ScanError
        Whatever is wrong: what, where, and what to do. Nothing is left open.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not path.exists():
            raise ScanError("there is no such file or folder", path, "Check its name.")
        try:
            return _open_folder(path) if path.is_dir() else _open_file(path)
        except PermissionError as error:
            raise ScanError("it may not be read", path, "Ask for access to it.") from error
    paths = [Path(item).expanduser() for item in source]
    if not paths:
        raise ScanError("no file was given", None, _KNOWN)
    if len(paths) == 1:
        return open_scan(paths[0])
    for path in paths:
        if not path.is_file():
            raise ScanError("there is no such file", path, "Check its name.")
        if not is_photograph(path):
            raise ScanError(
                "only photographs can be opened as one list", path, "Open other scans one by one."
            )
    return open_photographs(paths, f"{paths[0].stem} and {len(paths) - 1} more")


def _open_file(path: Path) -> Scan:
    if is_nifti(path):
        return open_nifti(path)
    if is_photograph(path):
        return open_photograph(path)
    raise ScanError("this type of file is not known", path, _HINTS.get(path.suffix.lower(), _KNOWN))


def _open_folder(folder: Path) -> Scan:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    photographs = [p for p in files if is_photograph(p)]
    if photographs:
        # Centres side by side would otherwise all be called "images".
        name = folder.name
        if name.lower() in ("images", "image"):
            name = f"{folder.absolute().parent.name} {name}"
        return open_photographs(photographs, name, folder)
    if any(is_nifti(p) for p in files):
        hint = "Open its NIfTI files one by one."
    elif any(p.suffix.lower() == ".dcm" for p in files):
        hint = _HINTS[".dcm"]
    else:
        hint = _KNOWN
    raise ScanError("there are no photographs in this folder", folder, hint)
