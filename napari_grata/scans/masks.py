"""Masks: label stacks written onto the grid of their scan, and read from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from napari_grata.scans.checks import access
from napari_grata.scans.files import make_folder, name_of_case, write_bytes
from napari_grata.scans.photographs import is_photograph, png
from napari_grata.scans.readers import Reader, reader_of
from napari_grata.scans.scan import FORMATS, Label, Scan, ScanError


def write_mask(
    stack: np.ndarray,
    scan: Scan,
    path: str | os.PathLike[str],
    *,
    colours: Mapping[int, str] | None = None,
    legend: Mapping[int, Label] | None = None,
    overwrite: bool = False,
    scan_names: bool = False,
) -> list[Path]:
    """Write a label stack on the source grid of its scan.

    Parameters
    ----------
    stack : ndarray of int
        Label values, shape ``scan.mask_shape``.
    scan : Scan
        The scan the labels were drawn on.
    path : path
        ``.nii.gz`` or ``.nii`` for volumes: shape, affine, codes, zooms and units are the
        source's own. ``.png`` for a photograph: a palette picture whose indices are the label
        values, in the orientation in which the photograph is stored. A folder for a list of
        photographs: one ``.png`` each, at true size. ``.tif`` for stacks without affine. ``.dcm``
        for a DICOM segmentation of a DICOM series: it names the patient, as the standard asks it
        to. ``.nrrd``, ``.seg.nrrd`` (3D Slicer's segmentation), ``.mha`` and ``.mhd``.
    colours : mapping of int to "#RRGGBB", optional
        Palette of PNG masks, colours of segments.
    legend : mapping of int to Label, optional
        Names of the structures too, for ``.dcm`` and ``.seg.nrrd``.
    overwrite : bool
        Whether an existing mask may be replaced. The scan's own file never is.
    scan_names : bool
        Whether masks of a list are named after their photographs, which may name patients,
        instead of ``case-0001.png`` ….

    Returns
    -------
    list of Path
        The files written. Each appears whole or not at all.

    Raises
    ------
    ScanError
        The stack does not fit the scan, or the file cannot keep it.
    FileError
        The file cannot be written.
    """
    path = Path(path).expanduser()
    labels = _checked_labels(stack, scan)
    known = {value: Label(colour=colour) for value, colour in (colours or {}).items()}
    known |= legend or {}
    if scan.is_list:
        named = {value: label.colour for value, label in known.items() if label.colour}
        return _write_list(labels, scan, path, named, overwrite, scan_names)
    _refuse_target(path, scan.path, overwrite)
    return _writer(scan, path).write_mask(labels, scan, path, known)


def mask_target(scan: Scan, folder: Path, name: str, kind: str = "") -> Path:
    """Where a mask goes, in one of the `FORMATS`; "" for the scan's usual one.

    Raises
    ------
    ScanError
        The format cannot keep this scan's masks, or what writes it is not installed: nothing has
        to be computed to know.
    """
    if not kind:
        return scan.mask_path(folder, name)
    if kind not in FORMATS:
        raise ScanError(f"masks are not written as {kind}", hint=f"Known are {', '.join(FORMATS)}.")
    path = folder / f"{name}{FORMATS[kind]}"
    if scan.is_list:
        raise scan.wrong_mask_type(path)
    _writer(scan, path)
    return path


def formats_for(scan: Scan) -> list[str]:
    """Return the `FORMATS` in which this scan's masks can be written here."""
    found = []
    for kind in FORMATS:
        with suppress(ScanError):
            mask_target(scan, Path(), "mask", kind)
            found.append(kind)
    return found


def _writer(scan: Scan, path: Path) -> Reader:
    """The format that keeps a scan's mask under this name."""
    reader = reader_of(path)
    if reader is None:
        raise scan.wrong_mask_type(path)
    reader.check_mask(scan, path)
    return reader


def _checked_labels(stack: np.ndarray, scan: Scan) -> np.ndarray:
    stack = np.asarray(stack)
    if stack.shape != scan.mask_shape:
        raise ScanError(
            f"the mask's shape {stack.shape} is not the scan's {scan.mask_shape}", scan.name
        )
    if stack.dtype.kind not in "bui":
        raise ScanError(f"a mask holds whole numbers, not {stack.dtype}", scan.name)
    low, high = int(stack.min()), int(stack.max())
    if low < 0 or high > 65535:
        raise ScanError(f"label values run from {low} to {high}; 0 to 65535 can be kept", scan.name)
    return stack.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def _refuse_target(path: Path, source: Path | None, overwrite: bool) -> None:
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise ScanError("this is the scan itself", path, "Choose another name for the mask.")
    if path.exists() and not overwrite:
        raise ScanError("there is such a file already", path, "Choose another name or remove it.")


def _write_list(
    labels: np.ndarray,
    scan: Scan,
    folder: Path,
    colours: Mapping[int, str],
    overwrite: bool,
    scan_names: bool,
) -> list[Path]:
    if reader_of(folder) is not None or folder.suffix.lower() == ".gz" or folder.is_file():
        raise ScanError(
            "masks of a list of photographs go into a folder", folder, "Give a folder's name."
        )
    sources = {path.resolve().parent for i in range(scan.n_slices) if (path := scan.slice_path(i))}
    if folder.resolve() in sources:
        raise ScanError(
            "this is the folder of the photographs themselves", folder, "Choose one for the masks."
        )
    written: dict[Path, bytes] = {}
    for i, name in enumerate(_names(scan, scan_names)):
        target = folder / f"{name}.png"
        if target in written:
            raise ScanError(f"two photographs are called {name}", scan.name, "Rename one of them.")
        _refuse_target(target, scan.slice_path(i), overwrite)
        written[target] = png(scan.get_mask(labels, i), scan.slice_geometry(i), colours, target)
    make_folder(folder)
    for target, data in written.items():
        write_bytes(target, data)
    return list(written)


def _names(scan: Scan, scan_names: bool) -> list[str]:
    """What the masks of a list are called."""
    return [
        name_of_case(i + 1, scan.slice_name(i), scan_names=scan_names) for i in range(scan.n_slices)
    ]


def read_mask(
    path: str | os.PathLike[str], scan: Scan, *, labels: Mapping[int, int] | None = None
) -> np.ndarray:
    """Read a mask onto the displayed grid of a scan.

    Parameters
    ----------
    path : path
        A mask file, or for a list of photographs a folder with a mask for each: all of the
        photographs' own names, or all of the names that `write_mask` gives.
    labels : mapping of int to int, optional
        Label value for each value in the file; every value in the file has to be named.

    Returns
    -------
    ndarray of uint8, shape ``scan.mask_shape``

    Raises
    ------
    ScanError
        The mask is missing, on another grid, in colours, or holds unknown values.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ScanError("there is no such mask", path, "Check its name.")
    stack = scan.empty_mask()
    if scan.is_list:
        for i, found in enumerate(_masks_of_list(path, scan)):
            scan.put_mask(stack, i, _labels(found, scan, i, labels))
    else:
        stack[...] = _labels(path, scan, None, labels)
    return stack


def _masks_of_list(folder: Path, scan: Scan) -> list[Path]:
    """The mask of each photograph of a list."""
    if not folder.is_dir():
        raise ScanError("it is not a folder of masks", folder, "Choose the folder of its masks.")
    there = {p.stem: p for p in sorted(folder.iterdir()) if is_photograph(p)}
    own = [scan.slice_name(i) for i in range(scan.n_slices)]
    given = _names(scan, False)
    if own != given and there.keys() >= set(own) | set(given):
        raise ScanError(
            "it holds masks by the photographs' names and by numbers", folder, "Remove one set."
        )
    chosen = given if there.keys() >= set(given) else own
    missing = [name for name in chosen if name not in there]
    if missing:
        raise ScanError(f"there is no mask for {missing[0]}", folder, "Add it or leave it out.")
    return [there[name] for name in chosen]


def _labels(path: Path, scan: Scan, i: int | None, labels: Mapping[int, int] | None) -> np.ndarray:
    reader = reader_of(path)
    if reader is None:
        raise ScanError("this type of file holds no mask", path, "Choose the scan's own mask.")
    with access(path):
        values = np.asarray(reader.read_mask(path, scan, i))
    if not np.isfinite(values).all():
        raise ScanError("the mask holds values that are no numbers", path, "Export it again.")
    whole = np.rint(values).astype(np.int64) if values.dtype.kind == "f" else values
    if values.dtype.kind == "f" and not np.allclose(values, whole, rtol=0, atol=1e-3):
        raise ScanError("the mask holds fractions, not labels", path, "Threshold it first.")
    found = [int(value) for value in np.unique(whole)]
    if labels is None:
        if found[0] < 0 or found[-1] > 255:
            raise ScanError(
                f"its values run from {found[0]} to {found[-1]}", path, "Say what they mean."
            )
        return whole.astype(np.uint8)
    unknown = [value for value in found if value not in labels]
    if unknown:
        raise ScanError(
            f"the mask holds values without a meaning: {unknown[:8]}",
            path,
            f"Say which structure they are; known are {sorted(labels)}.",
        )
    result = np.zeros(whole.shape, dtype=np.uint8)
    for value in found:
        result[whole == value] = labels[value]
    return result
