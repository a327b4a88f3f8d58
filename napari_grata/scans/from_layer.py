"""Scans from arrays: layers that napari or another plugin opened.

Other readers turn, mirror and name axes each in their own way, and change with their versions
(napari-nifti has handed over SimpleITK's order, its mirror image, and one turned towards RAS). So
nothing is assumed: an array lies on its file's grid in the arrangement under which the file's
voxels are the array's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans.checks import check_content, check_dtype
from napari_grata.scans.geometry import PLANES, Geometry, is_usable
from napari_grata.scans.photographs import is_photograph
from napari_grata.scans.readers import open_scan
from napari_grata.scans.scan import Kind, Scan, ScanError, times

_PROBES = 4096


def scan_from_array(
    data: Any,
    *,
    name: str,
    rgb: bool = False,
    spacing: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
    units: Sequence[str] | None = None,
    axis_labels: Sequence[str] | None = None,
    like: Scan | None = None,
) -> Scan:
    """Make a scan of an array that is shown as it lies, such as a layer of another plugin.

    Where `path` is the NIfTI file or photograph that the array was read from, the arrangement in
    which it lies on the file's grid is found by comparing voxels, and masks are written onto that
    grid; else masks lie on the array's own.

    Parameters
    ----------
    data : array
        (H, W), (Z, Y, X) or (T, Z, Y, X), with a last axis of 3 or 4 where `rgb`; numpy, dask or
        anything that slices like them. It is not copied.
    spacing : sequence of float, optional
        Distance between neighbours on each axis, in `units` (mm where there are none). May be
        negative, as a layer's scale may: masks' layers get it as it is.
    affine : ndarray, shape (4, 4), optional
        From the array's last three indices to world coordinates (right, anterior, superior);
        not needed where `path` is the file. Left aside where it has no three axes.
    like : Scan, optional
        The scan that the array was computed from, voxel by voxel (a filtered copy of its layer):
        masks are written onto that scan's grid. Left aside where the shapes differ.
    metadata : dict, optional
        Copied into the metadata of the scan's and its masks' layers.

    Raises
    ------
    ScanError
        Too many or too few axes, no plain numbers, constant or all-NaN data.
    """
    shape = tuple(int(n) for n in data.shape)
    if rgb and (not shape or shape[-1] not in (3, 4)):
        raise ScanError(f"a colour image needs a last axis of 3, not the shape {shape}", name)
    if rgb and shape[-1] == 4:
        data = data[..., :3]
    spatial = shape[:-1] if rgb else shape
    if not 2 <= len(spatial) <= 4 or min(spatial) < 1:
        raise ScanError(
            f"its shape {times(shape)} is neither a picture, a volume nor a series of volumes",
            name,
            "Split or crop it first.",
        )
    check_dtype(np.dtype(data.dtype), name)
    where = None if path is None else Path(path)
    kind: Kind
    if len(spatial) == 2:
        kind = "photograph" if rgb or (where is not None and is_photograph(where)) else "image"
    elif len(spatial) == 3:
        kind = "photographs" if rgb else "volume"
    else:
        kind = "series"
    if units is None and spacing is not None:
        units = ("second", "mm", "mm", "mm")[4 - len(spatial) :]
    if affine is not None and not is_usable(affine):
        affine = None
    # The layer's own scale stays on the masks' layers, whatever the file says of its voxels.
    placement: dict[str, Any] = {"scale": tuple(spacing) if spacing else (1.0,) * len(spatial)}
    if spacing is not None:
        spacing = [abs(float(s)) if np.isfinite(s) and s else 1.0 for s in spacing]
    plain = Geometry.plain(
        spatial, spacing=spacing, units=units, axis_labels=axis_labels, affine=affine
    )
    placement |= {"units": plain.units, "axis_labels": plain.axis_labels}
    if like is not None and like.mask_shape == spatial and not like.is_list:
        geometry: Geometry | None = like.geometry
        kind, where = like.kind, like.path
    else:
        geometry = place_on_file(data, rgb, where)
        if geometry is not None and kind == "image" and geometry.header is None:
            kind = "photograph"
    scan = Scan(
        name=name,
        kind=kind,
        data=data,
        geometry=plain if geometry is None else geometry,
        rgb=rgb,
        path=where,
        metadata=metadata,
        placement=placement,
    )
    scan.notices = check_content(
        scan.peek, scan.n_slices, name, lazy=not isinstance(data, np.ndarray)
    ) + (_notices(geometry, like) if len(spatial) > 2 else ())
    return scan


def _notices(geometry: Geometry | None, like: Scan | None) -> tuple[str, ...]:
    """Say so where a layer's slices are not what models are trained on."""
    if geometry is None or geometry.affine is None or like is not None:
        return ()
    advice = "Open the file with napari-grata to see it as models expect it."
    if geometry.plane != "axial":
        return (
            f"This layer shows {geometry.plane or 'other'} slices, models expect axial. {advice}",
        )
    usual = Geometry.anatomical(geometry.source_shape, geometry.affine)
    if (usual.axes[-2:], usual.flips[-2:]) != (geometry.axes[-2:], geometry.flips[-2:]):
        return (f"This layer's slices are turned or mirrored inside. {advice}",)
    return ()


def place_on_file(data: Any, rgb: bool, path: Path | None) -> Geometry | None:
    """Return the geometry that lays an array on the grid of the file it came from.

    Parameters
    ----------
    data : array
        As some layer shows it.
    rgb : bool
        Whether the last axis is colour.
    path : Path or None
        The file the layer says it came from.

    Returns
    -------
    Geometry or None
        None where there is no such file, or the array is not its content only turned.
    """
    if path is None or not path.is_file():
        return None
    try:
        scan = open_scan(path)
        shown = scan.geometry
        wanted = tuple(int(n) for n in data.shape)[: -1 if rgb else None]
        sizes = sorted(n for n in wanted if n > 1)
        if rgb != scan.rgb or sizes != sorted(n for n in shown.source_shape if n > 1):
            return None
        values = np.asanyarray(shown.to_source(scan.data))
        for axes, flips in _arrangements(shown, wanted):
            found = _arranged(shown, axes, flips)
            if _same(found.to_display(values), data):
                return found
    except (ScanError, OSError):
        # The layer is open and fine; only its file is not there to be written back to.
        return None
    return None


def _arranged(shown: Geometry, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Geometry:
    if (axes, flips) == (shown.axes, shown.flips):
        return shown
    sizes = dict(zip(shown.axes, shown.spacing or (), strict=False))
    units = dict(zip(shown.axes, shown.units, strict=True))
    labels = {axis: "time" if axis > 2 else f"axis {axis}" for axis in axes}
    if shown.affine is None:
        labels = dict(zip(shown.axes, shown.axis_labels, strict=True))
    return replace(
        shown,
        axes=axes,
        flips=flips,
        spacing=None if shown.spacing is None else tuple(sizes.get(a, 1.0) for a in axes),
        units=tuple(units.get(axis, "mm" if axis < 3 else "second") for axis in axes),
        axis_labels=tuple(labels[axis] for axis in axes),
        plane=_plane(shown, axes),
    )


def _arrangements(
    shown: Geometry, wanted: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[bool, ...]]]:
    """Yield every way (axes, flips) to turn the file's grid into the wanted shape.

    The likely ones come first, for contents so symmetrical that several would do.
    """
    ndim = len(shown.source_shape)
    seen = set()
    likely = [(shown.axes, shown.flips)]
    for order in (tuple(range(ndim))[::-1], tuple(range(ndim))):
        kept = tuple(axis for axis in order if shown.source_shape[axis] > 1)
        likely += [(kept, (False,) * len(kept)), (order, (False,) * ndim)]
    every = (
        (axes, flips)
        for axes in permutations(range(ndim), len(wanted))
        for flips in product((False, True), repeat=len(wanted))
    )
    for axes, flips in (*likely, *every):
        left_out = set(range(ndim)) - set(axes)
        if (axes, flips) in seen or any(shown.source_shape[axis] > 1 for axis in left_out):
            continue
        # Time never runs backwards, and mirroring an axis of one voxel changes nothing.
        if any(
            f and (a > 2 or shown.source_shape[a] == 1) for a, f in zip(axes, flips, strict=True)
        ):
            continue
        if tuple(shown.source_shape[axis] for axis in axes) == wanted:
            seen.add((axes, flips))
            yield axes, flips


def _same(first: np.ndarray, second: Any) -> bool:
    """Whether two arrays hold the same values: a quick look first, then all of them."""
    rng = np.random.default_rng(0)
    places = tuple(rng.integers(0, n, _PROBES) for n in first.shape)
    if isinstance(second, np.ndarray) and not _close(first[places], second[places]):
        return False
    if first.ndim < 3:
        return _close(first, np.asarray(second))
    return all(_close(first[i], np.asarray(second[i])) for i in range(first.shape[0]))


def _close(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = first.astype(np.float64), second.astype(np.float64)
    size = max(float(np.nanmax(np.abs(first), initial=0)), 1e-30)
    return bool(np.allclose(first, second, rtol=1e-5, atol=1e-6 * size, equal_nan=True))


def _plane(shown: Geometry, axes: tuple[int, ...]) -> str | None:
    """Plane of the last two axes, by what the anatomical display calls them."""
    towards = dict(zip(shown.axes, shown.axis_labels, strict=True))
    world = {"superior": 2, "inferior": 2, "anterior": 1, "posterior": 1, "left": 0, "right": 0}
    in_plane = {world.get(towards.get(axis, "")) for axis in axes[-2:]}
    hidden = {0, 1, 2} - in_plane
    return PLANES[hidden.pop()] if len(hidden) == 1 else None
