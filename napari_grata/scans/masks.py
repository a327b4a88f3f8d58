"""Masks: label stacks written onto the grid of their scan, and read from it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image

from napari_grata.scans.geometry import Geometry
from napari_grata.scans.nifti import is_nifti, load_nifti, nifti_geometry, read_values
from napari_grata.scans.photographs import TIFF_SUFFIXES, decode, inspect, is_photograph
from napari_grata.scans.scan import Scan, ScanError

#: Okabe and Ito's colours, for structures without one of their own.
DEFAULT_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
_ORIENTATION = 274


def write_mask(
    stack: np.ndarray,
    scan: Scan,
    path: str | os.PathLike[str],
    *,
    colours: dict[int, str] | None = None,
    overwrite: bool = False,
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
        photographs: one ``<stem>.png`` each, at true size. ``.tif`` for stacks without affine.
    colours : dict of int to "#RRGGBB", optional
        Palette of PNG masks.
    overwrite : bool
        Whether an existing mask may be replaced. The scan's own file never is.

    Returns
    -------
    list of Path
        The files written. Each appears whole or not at all.
    """
    path = Path(path).expanduser()
    labels = _checked_labels(stack, scan)
    if scan.kind == "photographs":
        return _write_photographs(labels, scan, path, colours, overwrite)
    _refuse_target(path, scan.path, overwrite)
    if is_nifti(path) and scan.kind != "photograph":
        _replace(path, lambda temporary: _save_nifti(labels, scan, temporary))
    elif path.suffix.lower() in TIFF_SUFFIXES and scan.geometry.header is None:
        pages = np.ascontiguousarray(labels)
        _replace(path, lambda p: tifffile.imwrite(p, pages, photometric="minisblack"))
    elif path.suffix.lower() == ".png" and labels.ndim == 2 and scan.geometry.header is None:
        _replace(path, lambda p: _save_png(labels, p, colours, scan.slice_geometry(0)))
    else:
        wanted = ".png" if scan.kind == "photograph" else ".nii.gz"
        raise ScanError(
            "the mask cannot be kept on the scan's grid in this type of file",
            path,
            f"Choose a name that ends in {wanted}.",
        )
    return [path]


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


def _replace(path: Path, save: Callable[[Path], object]) -> None:
    """Write beside the target and rename, so that no half-written mask is ever found."""
    suffix = ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        save(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_nifti(labels: np.ndarray, scan: Scan, path: Path) -> None:
    geometry = scan.geometry
    source = geometry.to_source(labels)
    if isinstance(geometry.header, nib.Nifti1Header):
        header = geometry.header.copy()
        # What belongs to the scan's intensities, or may name the patient, is not the mask's.
        header.extensions.clear()
        for key in ("scl_slope", "scl_inter"):
            header[key] = np.nan
        for key in ("cal_min", "cal_max"):
            header[key] = 0
        header.set_data_dtype(labels.dtype)
        cls = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        # No affine is given: the header's own sform and qform stay as they are, bit for bit.
        image = cls(source, None, header)
    else:
        image = nib.Nifti1Image(source, geometry.affine)
        if geometry.affine is None and geometry.spacing is not None:
            # The voxel size is known, how the patient lies is not: neither qform nor sform.
            zooms = dict(zip(geometry.axes, geometry.spacing, strict=True))
            image.header.set_zooms([zooms[axis] for axis in range(source.ndim)])
        image.header.set_xyzt_units("mm" if geometry.units[-1] == "mm" else "unknown")
    nib.save(image, path)


def _write_photographs(
    labels: np.ndarray,
    scan: Scan,
    folder: Path,
    colours: dict[int, str] | None,
    overwrite: bool,
) -> list[Path]:
    if folder.suffix.lower() in (".png", ".gz", ".nii", *TIFF_SUFFIXES) or folder.is_file():
        raise ScanError(
            "masks of a list of photographs go into a folder", folder, "Give a folder's name."
        )
    targets = [folder / f"{scan.slice_name(i)}.png" for i in range(scan.n_slices)]
    for i, target in enumerate(targets):
        if target in targets[:i]:
            raise ScanError(
                f"two photographs are called {target.stem}", scan.name, "Rename one of them."
            )
        _refuse_target(target, scan.slice_path(i), overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    for i, target in enumerate(targets):
        save = partial(_save_png, scan.get_mask(labels, i), colours=colours)
        _replace(target, partial(save, geometry=scan.slice_geometry(i)))
    return targets


def _save_png(
    labels: np.ndarray, path: Path, colours: dict[int, str] | None, geometry: Geometry
) -> None:
    source = geometry.to_source(labels)
    if source.dtype != np.uint8:
        raise ScanError("a PNG mask holds label values up to 255", path, "Use fewer labels.")
    image = Image.fromarray(np.ascontiguousarray(source)).convert("P")
    image.putpalette(_palette(colours))
    # The same tag as the photograph's: programs that turn the one turn the other.
    exif = Image.Exif()
    if geometry.orientation != 1:
        exif[_ORIENTATION] = geometry.orientation
    image.save(path, exif=exif)


def _palette(colours: dict[int, str] | None) -> list[int]:
    table = np.zeros((256, 3), dtype=np.uint8)
    for value in range(1, 256):
        code = (colours or {}).get(value, DEFAULT_COLOURS[(value - 1) % len(DEFAULT_COLOURS)])
        table[value] = [int(code[k : k + 2], 16) for k in (1, 3, 5)]
    return table.ravel().tolist()


def read_mask(
    path: str | os.PathLike[str], scan: Scan, *, labels: dict[int, int] | None = None
) -> np.ndarray:
    """Read a mask onto the displayed grid of a scan.

    Parameters
    ----------
    path : path
        A mask file, or for a list of photographs a folder with a mask of the same stem for each.
    labels : dict of int to int, optional
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
    if scan.kind == "photographs":
        if not path.is_dir():
            raise ScanError("it is not a folder of masks", path, "Choose the folder of its masks.")
        by_stem = {p.stem: p for p in sorted(path.iterdir()) if is_photograph(p)}
        for i in range(scan.n_slices):
            name = scan.slice_name(i)
            if name not in by_stem:
                raise ScanError(f"there is no mask for {name}", path, "Add it or leave it out.")
            scan.put_mask(stack, i, _translate(_read_picture(by_stem[name], scan, i), path, labels))
        return stack
    if is_nifti(path):
        stack[...] = _translate(_read_nifti(path, scan), path, labels)
    elif len(stack.shape) == 2:
        stack[...] = _translate(_read_picture(path, scan, 0), path, labels)
    else:
        found = tifffile.imread(path) if path.suffix.lower() in TIFF_SUFFIXES else None
        if found is None or found.shape != stack.shape:
            raise ScanError("the mask does not have the scan's shape", path, "Choose its mask.")
        stack[...] = _translate(found, path, labels)
    return stack


def _read_nifti(path: Path, scan: Scan) -> np.ndarray:
    image = load_nifti(path)
    values = np.asarray(read_values(image, path))
    theirs, _ = nifti_geometry(image, path)
    mine = scan.geometry
    silent = int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0
    if _long(values.shape) == _long(mine.source_shape) and (
        silent or mine.affine is None or _same_grid(theirs.affine, mine.affine, mine.source_shape)
    ):
        return mine.to_display(values.reshape(mine.source_shape))
    # Another tool may have turned the axes; the voxels are the same if they lie in one place.
    if theirs.displayed_shape == scan.mask_shape and _same_grid(
        theirs.display_affine,
        mine.display_affine,
        (*(1,) * (3 - len(scan.mask_shape)), *scan.mask_shape)[-3:],
    ):
        return theirs.to_display(values)
    raise ScanError(
        "the mask lies on another grid than the scan",
        path,
        "Resample it onto the scan, or choose the scan's own mask.",
    )


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without trailing axes of one voxel."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(n) for n in shape)


def _same_grid(first: np.ndarray | None, second: np.ndarray | None, shape: tuple[int, ...]) -> bool:
    """Whether two affines agree to a quarter of a voxel at the corners of a grid."""
    if first is None or second is None:
        return False
    last = np.array([*shape[:3], 1, 1][:3]) - 1
    corners = np.array(np.meshgrid(*[[0, n] for n in last])).reshape(3, -1)
    apart = (first[:3, :3] - second[:3, :3]) @ corners + (first - second)[:3, 3:]
    size = np.linalg.norm(second[:3, :3], axis=0).min()
    return bool(np.linalg.norm(apart, axis=0).max() <= size / 4)


def _read_picture(path: Path, scan: Scan, i: int) -> np.ndarray:
    info = inspect(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        values = decode(info)
    else:
        # Not decoded as a photograph: of a palette picture the indices are the labels.
        try:
            with Image.open(path) as image:
                values = info.geometry.to_display(np.array(image))
        except (OSError, SyntaxError, ValueError) as error:
            raise ScanError("the mask is damaged", path, "Copy or export it again.") from error
    if values.ndim == 3:
        if not (values[..., :1] == values[..., :3]).all():
            raise ScanError(
                "the mask is a colour picture",
                path,
                "Convert it to one grey value for each structure.",
            )
        values = values[..., 0]
    if values.shape != scan.slice_shape(i):
        raise ScanError(
            f"the mask is {values.shape[0]} × {values.shape[1]}, the photograph "
            f"{' × '.join(map(str, scan.slice_shape(i)))}",
            path,
            "Choose the photograph's own mask.",
        )
    return values


def _translate(values: np.ndarray, path: Path, labels: dict[int, int] | None) -> np.ndarray:
    values = np.asarray(values)
    whole = np.rint(values).astype(np.int64)
    if values.dtype.kind == "f" and not np.allclose(values, whole, atol=1e-3):
        raise ScanError("the mask holds fractions, not labels", path, "Threshold it first.")
    found = np.unique(whole)
    if labels is None:
        if found[0] < 0 or found[-1] > 255:
            raise ScanError(
                f"its values run from {found[0]} to {found[-1]}", path, "Say what they mean."
            )
        return whole.astype(np.uint8)
    unknown = [int(value) for value in found if int(value) not in labels]
    if unknown:
        raise ScanError(
            f"the mask holds values without a meaning: {unknown[:8]}",
            path,
            f"Say which structure they are; known are {sorted(labels)}.",
        )
    result = np.zeros(whole.shape, dtype=np.uint8)
    for value, label in labels.items():
        result[whole == value] = label
    return result
