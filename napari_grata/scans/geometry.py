"""How the displayed array lies on the grid of the file it came from, and in the patient.

A :class:`Geometry` says which source axis each displayed axis shows and whether it is reversed;
nothing is ever resampled, so a mask drawn on the displayed array goes back voxel for voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

#: World axes (0 = left to right, 1 = posterior to anterior, 2 = inferior to superior, as in
#: NIfTI) in the order they are shown in, whether the index runs towards the world axis, and names.
_VOLUME_ORDER = ((2, 1), (1, -1), (0, -1))
_PLANE_ORDER = {0: ((2, -1), (1, -1)), 1: ((2, -1), (0, -1)), 2: ((1, -1), (0, -1))}
_TOWARDS = {
    (0, 1): "right",
    (0, -1): "left",
    (1, 1): "anterior",
    (1, -1): "posterior",
    (2, 1): "superior",
    (2, -1): "inferior",
}
PLANES = {0: "sagittal", 1: "coronal", 2: "axial"}
UNUSABLE = (
    "The header's orientation is not usable; left and right may be swapped on the screen. "
    "Masks still fit the file."
)
UNSAID = "The file does not say how the patient lies; the usual order is assumed."
#: Voxel axes that span less than this share of their box lie in one plane, as good as.
_FLAT = 1e-3


def is_usable(affine: np.ndarray) -> bool:
    """Whether an affine says where voxels lie: finite, and with three axes of their own."""
    matrix = np.asarray(affine, dtype=np.float64)[:3, :3]
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(matrix, axis=0)
        if not (np.isfinite(affine).all() and np.isfinite(sizes).all() and sizes.all()):
            return False
        return bool(abs(np.linalg.det(matrix / sizes)) > _FLAT)


def same_grid(first: np.ndarray | None, second: np.ndarray | None, shape: Sequence[int]) -> bool:
    """Whether two affines agree to a quarter of a voxel at the corners of a grid."""
    if first is None or second is None:
        return False
    last = np.array([*shape[:3], 1, 1][:3]) - 1
    corners = np.array(np.meshgrid(*[[0, n] for n in last])).reshape(3, -1)
    apart = (first[:3, :3] - second[:3, :3]) @ corners + (first - second)[:3, 3:]
    size = np.linalg.norm(second[:3, :3], axis=0).min()
    return bool(np.linalg.norm(apart, axis=0).max() <= size / 4)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Place of a displayed array on its source grid and in the world.

    Attributes
    ----------
    source_shape : tuple of int
        Shape of the array in the file, unit axes included, colour axis not.
    axes : tuple of int
        For each displayed axis the source axis it shows. Source axes not named here have length 1.
    flips : tuple of bool
        For each displayed axis whether it runs against the source axis.
    spacing : tuple of float or None
        Distance between neighbours on each displayed axis, in `units`; None where unknown.
    units : tuple of str
        Unit of each displayed axis, e.g. ``("mm", "mm", "mm")``.
    axis_labels : tuple of str
        Name of each displayed axis: the direction in which its index grows.
    affine : ndarray or None
        The file's own affine, shape (4, 4), from source voxel indices to world coordinates
        (right, anterior, superior), in the file's spatial unit. None where there is none.
    header : object or None
        The file's own header (a nibabel header); a copy of it goes into masks.
    plane : str or None
        "axial", "coronal" or "sagittal": the plane of one displayed slice.
    orientation : int
        EXIF orientation that the photograph's file names, 1 where it names none.
    """

    source_shape: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    spacing: tuple[float, ...] | None
    units: tuple[str, ...]
    axis_labels: tuple[str, ...]
    affine: np.ndarray | None = None
    header: Any = None
    plane: str | None = None
    orientation: int = 1

    @property
    def displayed_shape(self) -> tuple[int, ...]:
        """Shape of the displayed array, without a colour axis."""
        return tuple(self.source_shape[axis] for axis in self.axes)

    def to_display(self, array: Any) -> Any:
        """Turn an array on the source grid into the displayed order (a view, no copy).

        Parameters
        ----------
        array : array
            Shape `source_shape`, or `source_shape` followed by a colour axis.
        """
        extra = tuple(range(len(self.source_shape), array.ndim))
        rest = self._unit_axes
        turned = array.transpose(self.axes + extra + rest)
        turned = turned[(...,) + (0,) * len(rest)]
        return turned[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]

    def to_source(self, array: Any) -> Any:
        """Turn an array of the displayed shape back onto the source grid (a view, no copy).

        Parameters
        ----------
        array : array
            Shape `displayed_shape`, or that followed by a colour axis.
        """
        ndim = len(self.axes)
        if array.shape[:ndim] != self.displayed_shape or array.ndim > ndim + 1:
            raise ValueError(
                f"Expected an array of the displayed shape {self.displayed_shape}, "
                f"got {array.shape}."
            )
        turned = array[tuple(slice(None, None, -1 if flip else None) for flip in self.flips)]
        rest = self._unit_axes
        turned = turned[(slice(None),) * ndim + (np.newaxis,) * len(rest)]
        colour = tuple(range(len(self.source_shape), turned.ndim))
        return turned.transpose((*(int(k) for k in np.argsort(self.axes + rest)), *colour))

    def source_index(self, index: Sequence[int]) -> tuple[int, ...]:
        """Index in the file of the voxel displayed at `index`."""
        found = [0] * len(self.source_shape)
        for position, axis, flip in zip(index, self.axes, self.flips, strict=True):
            found[axis] = self.source_shape[axis] - 1 - position if flip else position
        return tuple(found)

    @property
    def in_space(self) -> list[tuple[int, bool]]:
        """Source axis and flip of (slice, row, column), the one that is not shown first."""
        each = zip(self.axes, self.flips, strict=True)
        shown = [(axis, flip) for axis, flip in each if axis < 3]
        return [(axis, False) for axis in range(3) if axis not in dict(shown)] + shown

    @property
    def display_affine(self) -> np.ndarray | None:
        """Affine from displayed voxel indices (slice, row, column) to world coordinates.

        For planes of one slice the first column stands for the axis not shown.
        """
        if self.affine is None:
            return None
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for column, (axis, flip) in enumerate(self.in_space):
            turn[axis, column] = -1 if flip else 1
            turn[axis, 3] = self.source_shape[axis] - 1 if flip else 0
        return self.affine @ turn

    def lies_on(self, other: Geometry) -> bool:
        """Whether two displayed arrays lie at one place, voxel for voxel; False without a place."""
        shape = self.displayed_shape
        sides = (*(1,) * (3 - len(shape)), *shape)[-3:]
        mine, theirs = self.display_affine, other.display_affine
        return shape == other.displayed_shape and same_grid(mine, theirs, sides)

    @property
    def _unit_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.source_shape)) if axis not in self.axes)

    @classmethod
    def plain(
        cls,
        shape: Sequence[int],
        *,
        spacing: Sequence[float] | None = None,
        units: Sequence[str] | None = None,
        axis_labels: Sequence[str] | None = None,
        affine: np.ndarray | None = None,
    ) -> Geometry:
        """Geometry of an array that is shown as it lies in memory.

        A series (time first) has its time axis last on the source grid, as NIfTI wants it.
        """
        shape = tuple(int(n) for n in shape)
        ndim = len(shape)
        labels = ("time", "slice", "row", "column")[4 - ndim :]
        return cls(
            source_shape=shape if ndim < 4 else shape[1:] + shape[:1],
            axes=tuple(range(ndim)) if ndim < 4 else (3, 0, 1, 2),
            flips=(False,) * ndim,
            spacing=None if spacing is None else tuple(float(s) for s in spacing),
            units=tuple(units) if units is not None else ("pixel",) * ndim,
            axis_labels=tuple(axis_labels) if axis_labels is not None else labels,
            affine=affine,
        )

    @classmethod
    def exif(cls, shape: Sequence[int], orientation: int) -> Geometry:
        """Geometry of a photograph, or a stack of pages, with an EXIF orientation.

        Parameters
        ----------
        shape : (int, int) or (int, int, int)
            (Pages,) rows and columns as stored.
        orientation : int
            EXIF tag 274, 1 (as stored) to 8; other values count as 1.
        """
        orientation = orientation if 1 <= orientation <= 8 else 1
        pages = len(shape) - 2
        turned = orientation in (5, 6, 7, 8)
        up_down = orientation in (3, 4, 7, 8)
        left_right = orientation in (2, 3, 6, 7)
        return cls(
            source_shape=tuple(int(n) for n in shape),
            axes=(*range(pages), *((pages + 1, pages) if turned else (pages, pages + 1))),
            flips=(*(False,) * pages, up_down, left_right),
            spacing=None,
            units=("pixel",) * len(shape),
            axis_labels=("slice", "row", "column")[1 - pages :],
            orientation=orientation,
        )

    @classmethod
    def anatomical(
        cls,
        shape: Sequence[int],
        affine: np.ndarray,
        *,
        header: Any = None,
        to_mm: float = 1.0,
        time_step: float = 1.0,
        time_unit: str = "second",
    ) -> Geometry:
        """Geometry that shows a voxel grid as radiologists do, whatever way it was stored.

        Volumes are shown as (slice, row, column) = (towards superior, towards posterior, towards
        left): axial slices from bottom to top, anterior up, the patient's right on the left of
        the screen. A volume of one slice is shown as that slice, in its own plane.

        Parameters
        ----------
        shape : tuple of int
            Shape in the file; axes 0-2 are spatial, one of the others may be longer than 1.
        affine : ndarray, shape (4, 4)
            From voxel indices to (right, anterior, superior). May be oblique or sheared.
        to_mm : float
            Millimetres in one spatial unit of the affine.
        time_step, time_unit
            Spacing along the fourth axis.
        """
        # Not with the module: nibabel takes a quarter of a second, for it imports pydicom.
        from nibabel.affines import voxel_sizes
        from nibabel.orientations import io_orientation

        shape = tuple(int(n) for n in shape)
        spatial = tuple(shape[:3]) + (1,) * (3 - len(shape[:3]))
        later = [axis for axis in range(3, len(shape)) if shape[axis] > 1]
        if len(later) > 1:
            raise ValueError(f"At most one axis beyond the third may be longer than 1: {shape}.")
        # Source axis and direction for each world axis; the nearest ones where oblique.
        ornt = io_orientation(affine)
        source = {int(world): (axis, int(sign)) for axis, (world, sign) in enumerate(ornt)}
        sizes = voxel_sizes(affine) * to_mm
        thin = [world for world in range(3) if spatial[source[world][0]] == 1]
        if len(thin) == 1:
            hidden = thin[0]
            order: tuple[tuple[int, int], ...] = _PLANE_ORDER[hidden]
        else:
            hidden, order = 2, _VOLUME_ORDER
        axes, flips, spacing, labels = [], [], [], []
        for world, direction in order:
            axis, sign = source[world]
            axes.append(axis)
            flips.append(sign != direction)
            spacing.append(float(sizes[axis]))
            labels.append(_TOWARDS[world, direction])
        units = ["mm"] * len(axes)
        if later:
            axes.insert(0, later[0])
            flips.insert(0, False)
            spacing.insert(0, float(time_step))
            labels.insert(0, "time")
            units.insert(0, time_unit)
        return cls(
            source_shape=shape,
            axes=tuple(axes),
            flips=tuple(flips),
            spacing=tuple(spacing),
            units=tuple(units),
            axis_labels=tuple(labels),
            affine=np.array(affine, dtype=np.float64),
            header=header,
            plane=PLANES[hidden],
        )
