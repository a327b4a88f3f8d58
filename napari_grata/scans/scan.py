"""A scan: what is shown, slice by slice, and where it lies on the grid of its file."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_grata.scans.files import short_path
from napari_grata.scans.geometry import Geometry, same_grid

Kind = Literal["photograph", "photographs", "image", "volume", "series"]
PHOTOGRAPHIC = ("photograph", "photographs")
"""Kinds of scans that are photographs or lists of them."""

#: Beyond this many values, quantiles are taken from an evenly spaced subset.
_QUANTILE_VALUES = 8_000_000
#: A value that fills this share of the slices' borders is background, not tissue.
_BACKGROUND_SHARE = 0.25
FORMATS = {
    "nifti": ".nii.gz",
    "dicom-seg": ".dcm",
    "nrrd": ".nrrd",
    "seg-nrrd": ".seg.nrrd",
    "mha": ".mha",
    "png": ".png",
}
"""Formats of masks that may be asked for, and the ending of each."""


class ScanError(ValueError):
    """A scan or mask cannot be read, written or used.

    The message is written for the user; napari shows it as a notification.

    Parameters
    ----------
    what : str
        What is wrong, a phrase without a full stop.
    where : str or path, optional
        The file, layer or slice concerned. Of a path only the last two parts are told, since
        folders higher up often name people.
    hint : str, optional
        What to do next, a whole sentence.
    """

    def __init__(self, what: str, where: str | os.PathLike[str] | None = None, hint: str = ""):
        self.what = what
        self.where = "" if where is None else short_path(where)
        self.hint = hint
        head = f"{self.where}: {what}" if self.where else what
        super().__init__(f"{head}. {hint}".strip() if hint else f"{head}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.where or None, self.hint)


@dataclass(frozen=True)
class Label:
    """What one value of a mask stands for, for files that can say so.

    Attributes
    ----------
    name : str
        Of the structure; "" where it is not known.
    colour : str
        ``"#RRGGBB"``, or "".
    parts : tuple of int
        Values of the structures that lie inside this one and belong to it.
    """

    name: str = ""
    colour: str = ""
    parts: tuple[int, ...] = ()


def times(shape: tuple[int, ...]) -> str:
    """Return a shape for people: ``"512 × 512"``."""
    return " × ".join(str(int(n)) for n in shape) or "nothing"


def counted(number: int, noun: str) -> str:
    """Return a number of things for people: ``"1 case"``, ``"3 cases"``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def without_number(values: np.ndarray) -> np.ndarray | None:
    """Return where a slice (H, W) or (H, W, C) is NaN or infinite; None where it nowhere is."""
    if values.dtype.kind != "f":
        return None
    finite = np.isfinite(values)
    finite = finite if values.ndim == 2 else finite.all(axis=-1)
    return None if finite.all() else ~finite


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without trailing axes of one voxel."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(n) for n in shape)


def other_grid(mask: Path) -> ScanError:
    """The error for a mask that lies on another grid than its scan."""
    return ScanError(
        "the mask lies on another grid than the scan",
        mask,
        "Resample it onto the scan, or choose the scan's own mask.",
    )


class Scan:
    """A scan as napari shows it, read lazily and never changed.

    Made by :func:`open_scan` and :func:`scan_from_array`, not by hand.

    Attributes
    ----------
    name : str
        Name of the layer: the file's name without its ending.
    path : Path or None
        The file or folder it came from.
    kind : str
        "photograph", "photographs" (a list, sizes may differ), "image" (2-D), "volume" (3-D) or
        "series" (3-D over time).
    rgb : bool
        Whether slices are (H, W, 3) instead of (H, W).
    geometry : Geometry
        Place of the displayed array on the source grid, spacing, units, affine.
    notices : tuple of str
        What was peculiar about the file, one sentence each, for the user to know; set by what
        opened it.
    channels : tuple of Scan
        Further images of the same body on the same grid, read together with this; see `together`.
    mask_suffix : str
        Ending of its masks: ``".nii.gz"``, ``".png"``, or "" where they go into a folder.
    """

    def __init__(
        self,
        *,
        name: str,
        kind: Kind,
        data: Any,
        geometry: Geometry,
        rgb: bool = False,
        path: Path | None = None,
        metadata: dict[str, Any] | None = None,
        placement: dict[str, Any] | None = None,
    ):
        self.name, self.kind, self.rgb, self.path = name, kind, rgb, path
        self.geometry = geometry
        self.notices: tuple[str, ...] = ()
        self.channels: tuple[Scan, ...] = ()
        self.mask_suffix = {"photograph": ".png", "photographs": ""}.get(kind, ".nii.gz")
        self._data = data
        self._metadata = dict(metadata or {})
        self._placement = dict(placement or {})
        self._ranges: dict[tuple[int, float, float], tuple[float, float]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        size = "×".join(str(n) for n in self.mask_shape)
        return f"<Scan {self.name!r}: {self.kind}, {size}{', colour' if self.rgb else ''}>"

    # A scan is immutable; napari copies layer metadata deeply when a layer is duplicated, and
    # a second copy of the voxels would serve nobody.
    def __copy__(self) -> Scan:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Scan:
        return self

    def together(self, others: Iterable[Scan]) -> Scan:
        """Return this scan with further images that are read together with it, such as T2 with T1.

        Masks, slices and the place in the body are those of this scan.

        Raises
        ------
        ScanError
            One of them is a photograph, or lies on another grid.
        """
        shape, others = self.mask_shape, tuple(others)
        for other in (self, *others):
            placed = self.geometry.affine is not None or other.geometry.affine is not None
            alike = other.geometry.lies_on(self.geometry) if placed else other.mask_shape == shape
            if other.rgb or other.is_photographic or not alike:
                raise ScanError(
                    f"it cannot be read together with the first image: it has "
                    f"{times(other.mask_shape)} voxels and that one {times(shape)}, or it lies "
                    "elsewhere or is no volume of grey slices",
                    other.path or other.name,
                    "Images that are read together lie on one grid: resample them onto it.",
                )
        whole: Scan = object.__new__(type(self))
        whole.__dict__.update(self.__dict__, channels=others)
        return whole

    # -- what it is, so that nobody has to ask for its kind ----------------------------------

    @property
    def is_photographic(self) -> bool:
        """Whether it is a photograph or a list of them, each a whole picture of its subject."""
        return self.kind in PHOTOGRAPHIC

    @property
    def is_list(self) -> bool:
        """Whether it is a list of photographs, which may differ in size."""
        return self.kind == "photographs"

    @property
    def is_stack(self) -> bool:
        """Whether neighbouring slices are neighbours in the body."""
        return self.kind in ("volume", "series")

    @property
    def noun(self) -> str:
        """What one of its slices is called: "photograph" or "slice"."""
        return "photograph" if self.is_photographic else "slice"

    @property
    def case_noun(self) -> str:
        """What one of its cases is called: "photograph", "volume" or "image"."""
        return self.noun if self.is_photographic else "volume" if self.is_stack else "image"

    @property
    def words(self) -> str:
        """What it is, for a sentence: ``"a volume of grey slices"``."""
        colour = "colour" if self.rgb else "grey"
        return {
            "photograph": f"a {colour} photograph",
            "photographs": f"a list of {colour} photographs",
            "image": f"a single {colour} {'picture' if self.rgb else 'slice'}",
            "volume": f"a volume of {colour} slices",
            "series": f"a series of volumes of {colour} slices",
        }[self.kind]

    def counts(self, n: int) -> str:
        """Say how many: ``"1 slice"``, ``"3 photographs"``."""
        return counted(n, self.noun)

    # -- shape and slices ------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The array as napari shows it.

        (H, W), (N, Hmax, Wmax), (Z, Y, X) or (T, Z, Y, X), with a last axis of 3 where `rgb`.
        A memory map, dask array or read-only view: copy before writing.
        """
        return self._data

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of a label stack over this scan: the data's, without the colour axis."""
        return self.geometry.displayed_shape

    @property
    def leading_shape(self) -> tuple[int, ...]:
        """Lengths of the slider axes: () | (N,) | (Z,) | (T, Z)."""
        return self.mask_shape[:-2]

    @property
    def n_slices(self) -> int:
        """Number of slices (photographs): the product of the slider axes, 1 without any."""
        return math.prod(self.leading_shape)

    def slice_index(self, indices: tuple[int, ...]) -> int:
        """Flat number of the slice at these slider positions."""
        if not self.leading_shape:
            return 0
        return int(np.ravel_multi_index(tuple(indices), self.leading_shape))

    def slice_position(self, i: int) -> tuple[int, ...]:
        """Slider positions of slice `i`; () for a single picture."""
        self._check_index(i)
        if not self.leading_shape:
            return ()
        return tuple(int(p) for p in np.unravel_index(i, self.leading_shape))

    def slice_shape(self, i: int) -> tuple[int, int]:
        """True (H, W) of slice `i`; photographs in a list may differ."""
        self._check_index(i)
        height, width = self.slice_geometry(i).displayed_shape[-2:]
        return height, width

    def slice_geometry(self, i: int) -> Geometry:
        """Geometry of one photograph of a list; of any other scan, the scan's."""
        return Geometry.plain(self.mask_shape[-2:]) if self.is_list else self.geometry

    def slice_path(self, i: int) -> Path | None:
        """File of slice `i`: its own in a list of photographs, the scan's otherwise."""
        return self.path

    def peek(self, i: int) -> np.ndarray:
        """Slice `i` as displayed, of its true size: maybe a view, not to be written to."""
        return np.asarray(self.data[self.slice_position(i)])

    def read_slice(self, i: int) -> np.ndarray:
        """Read slice `i` as displayed.

        Returns
        -------
        ndarray, shape (H, W) or (H, W, 3)
            A fresh, writable, C-contiguous array of the slice's true size with the file's true
            values (slope and intercept applied). NaN stays NaN.
        """
        return np.array(self.peek(i), order="C", copy=True)

    def invalid(self, i: int) -> np.ndarray | None:
        """Pixels of slice `i` that hold no number, of which nothing can be said.

        Returns
        -------
        ndarray of bool, shape (H, W), or None
            True where a value is NaN or infinite; None where all are finite.
        """
        return without_number(self.peek(i))

    def holds(self, data: Any) -> bool:
        """Whether an array is this scan's data, as far as a quick look tells.

        A layer carries its scan in its metadata, and so do copies of the layer that somebody has
        filtered since. Looks at some thousand voxels in at most three slices.
        """
        mine = self.data
        if data is mine:
            return True
        if tuple(np.shape(data)) != tuple(mine.shape):
            return False
        rng = np.random.default_rng(0)
        for i in {0, self.n_slices // 2, self.n_slices - 1}:
            position = self.slice_position(i)
            first, second = np.asarray(mine[position]).ravel(), np.asarray(data[position]).ravel()
            places = rng.integers(0, first.size, 4096)
            if not np.array_equal(first[places], second[places], equal_nan=first.dtype.kind == "f"):
                return False
        return True

    def slice_name(self, i: int) -> str:
        """Name of slice `i` for people: a photograph's file stem, or e.g. "axial 34"."""
        position = self.slice_position(i)
        if not position:
            return self.name
        plane = f"{self.geometry.plane or 'slice'} {position[-1] + 1}"
        labels = self.geometry.axis_labels[: len(position)]
        if len(position) == 1:
            return f"time {position[0] + 1}" if labels == ("time",) else plane
        return f"{labels[0]} {position[0] + 1}, {plane}"

    def place_name(self, i: int) -> str:
        """Name of slice `i` that names nobody: ``"photograph 3"``, ``"axial 34"``, ``"image"``."""
        if self.is_photographic:
            return f"photograph {i + 1}"
        return self.slice_name(i) if self.leading_shape else "image"

    @property
    def slice_spacing(self) -> tuple[float, float] | None:
        """(row, column) distance in mm, or None where the file does not tell."""
        spacing = self.geometry.spacing
        if spacing is None or self.geometry.units[-1] == "pixel":
            return None
        return spacing[-2], spacing[-1]

    @property
    def slice_thickness(self) -> float | None:
        """Distance between slices in mm; None for pictures and where the file does not tell."""
        geometry = self.geometry
        if geometry.spacing is None or len(geometry.spacing) < 3 or geometry.units[-3] != "mm":
            return None
        return geometry.spacing[-3]

    def _check_index(self, i: int) -> None:
        if not 0 <= i < self.n_slices:
            raise IndexError(f"{self.name} has slices 0 to {self.n_slices - 1}, not {i}.")

    # -- cases -----------------------------------------------------------------------------

    @property
    def n_cases(self) -> int:
        """Number of patients' images: each photograph, each time point; a volume is one."""
        return self.leading_shape[0] if self._cases_along_first_axis else 1

    def case_of(self, i: int) -> int:
        """Case that slice `i` belongs to."""
        position = self.slice_position(i)
        return position[0] if self._cases_along_first_axis else 0

    def case_name(self, case: int) -> str:
        """The case's own name, which may name a patient; see `files.name_of_case`."""
        if self.is_list:
            return self.slice_name(case)
        return f"{self.name} time {case + 1}" if self._cases_along_first_axis else self.name

    def case_slices(self, case: int) -> range:
        """Flat numbers of the slices of a case."""
        per_case = self.n_slices // self.n_cases
        return range(case * per_case, (case + 1) * per_case)

    @property
    def _cases_along_first_axis(self) -> bool:
        return self.kind in ("photographs", "series")

    def intensity_range(self, case: int, low: float, high: float) -> tuple[float, float]:
        """Quantiles of a case's foreground: its finite values other than the background's.

        Background is the one value that fills a quarter or more of the slices' borders, such as
        the 0 around a stripped brain or the −1000 around a patient; often there is none.

        Parameters
        ----------
        case : int
            See `case_of`.
        low, high : float
            Fractions, 0 ≤ low < high ≤ 1.

        Returns
        -------
        (float, float)
            Intensities at the two quantiles, the second always larger. Cached.
        """
        if not 0 <= low < high <= 1:
            raise ValueError(f"Quantiles are fractions with 0 ≤ low < high ≤ 1: {low}, {high}.")
        key = (case, float(low), float(high))
        with self._lock:
            if key not in self._ranges:
                self._ranges[key] = self._quantiles(case, low, high)
            return self._ranges[key]

    def _quantiles(self, case: int, low: float, high: float) -> tuple[float, float]:
        slices = self.case_slices(case)
        total = sum(math.prod(self.slice_shape(i)) for i in slices) * (3 if self.rgb else 1)
        step = -(-total // _QUANTILE_VALUES)
        parts, borders = [], []
        for i in slices:
            values = self.peek(i)
            borders += [values[0], values[-1], values[:, 0], values[:, -1]]
            parts.append(values.ravel()[::step])
        values = np.concatenate(parts)
        border = np.concatenate(borders).ravel()
        foreground = np.isfinite(values)
        found, counts = np.unique(border[np.isfinite(border)], return_counts=True)
        if counts.size and counts.max() >= _BACKGROUND_SHARE * border.size:
            foreground &= values != found[counts.argmax()]
        values = values[foreground]
        if not values.size:
            return 0.0, 1.0
        bottom, top = (float(q) for q in np.quantile(values, [low, high]))
        return (bottom, top) if bottom < top else (bottom, bottom + 1.0)

    # -- masks over this scan --------------------------------------------------------------

    def empty_mask(self) -> np.ndarray:
        """Label stack of zeros, uint8, shape `mask_shape`."""
        return np.zeros(self.mask_shape, dtype=np.uint8)

    def mask_stack(self, label_maps: Iterable[tuple[int, np.ndarray]]) -> np.ndarray:
        """Label stack, uint8, of slices' numbers and (H, W) label maps; 0 on all others."""
        stack = self.empty_mask()
        for i, label_map in label_maps:
            self.put_mask(stack, i, label_map)
        return stack

    def mask_path(self, folder: Path, name: str) -> Path:
        """Where a mask goes by default: a file, or a folder for a list of photographs."""
        return folder / f"{name}{self.mask_suffix}"

    def wrong_mask_type(self, path: Path) -> ScanError:
        """The error for a mask's name whose type cannot keep the scan's grid."""
        named = f"that ends in {self.mask_suffix}" if self.mask_suffix else "of a folder"
        return ScanError(
            "the mask cannot be kept on the scan's grid in this type of file",
            path,
            f"Choose a name {named}.",
        )

    def put_mask(self, stack: np.ndarray, i: int, label_map: np.ndarray) -> None:
        """Write the (H, W) label map of slice `i` into a stack of shape `mask_shape`."""
        height, width = self.slice_shape(i)
        if label_map.shape != (height, width):
            raise ValueError(
                f"Slice {i} of {self.name} is {height} × {width}; "
                f"the label map is {' × '.join(map(str, label_map.shape))}."
            )
        stack[self.slice_position(i)][:height, :width] = label_map

    def get_mask(self, stack: np.ndarray, i: int) -> np.ndarray:
        """Copy of the (H, W) label map of slice `i` out of a stack of shape `mask_shape`."""
        height, width = self.slice_shape(i)
        return np.array(stack[self.slice_position(i)][:height, :width])

    def place_mask(
        self, values: np.ndarray, theirs: Geometry, where: Path, *, silent: bool = False
    ) -> np.ndarray:
        """Lay a mask's values onto the displayed grid of this scan.

        Parameters
        ----------
        values : ndarray
            On the mask's own source grid.
        theirs : Geometry
            Of the mask.
        silent : bool
            Whether the mask's file does not say where it lies; then its shape has to do.

        Raises
        ------
        ScanError
            It lies on another grid.
        """
        mine = self.geometry
        found: np.ndarray
        if _long(values.shape) == _long(mine.source_shape) and (
            silent
            or mine.affine is None
            or same_grid(theirs.affine, mine.affine, mine.source_shape)
        ):
            found = mine.to_display(values.reshape(mine.source_shape))
            return found
        # Another tool may have turned the axes; the voxels are the same if they lie in one place.
        if theirs.lies_on(mine):
            found = theirs.to_display(values)
            return found
        raise other_grid(where)

    # -- napari ----------------------------------------------------------------------------

    def layer_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for ``viewer.add_image(scan.data, **scan.layer_kwargs())``."""
        return {"name": self.name, "rgb": self.rgb, **self.mask_layer_kwargs()}

    def mask_layer_kwargs(self) -> dict[str, Any]:
        """Keyword arguments that lay a labels layer exactly over this scan.

        The metadata hold this scan (so that the layer can be written back onto its grid), the
        file's true affine and a copy of its header.
        """
        geometry = self.geometry
        metadata = {**self._metadata, "napari_grata": {"scan": self}}
        if geometry.affine is not None:
            metadata["affine"] = geometry.affine.copy()
        if geometry.header is not None and hasattr(geometry.header, "copy"):
            metadata["header"] = geometry.header.copy()
        return {
            "scale": geometry.spacing or (1.0,) * len(self.mask_shape),
            "units": geometry.units,
            "axis_labels": geometry.axis_labels,
            "metadata": metadata,
            **self._placement,
        }
