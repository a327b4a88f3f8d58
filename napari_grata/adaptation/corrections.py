"""What a reviewer corrected: label maps of single slices, on the slices' own grid.

A corrected pixel is one that the reviewer drew: its label is kept in the result as it was drawn,
and it may teach the model (``scribble`` in `Settings`). Everything else stays unknown; that a
reviewer left a pixel alone says nothing, unless the whole slice was called right.

Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters.card import Card
    from napari_grata.segmenters.preprocessing import Frame

    from .records import CorrectionsInfo

NOT_CORRECTED = -1
"""Value of a pixel that the reviewer did not touch."""
REACH = 3.0
"""Soft labels end at this many τ: there they weigh 5 % of a painted pixel."""


class CorrectionsError(ValueError):
    """Corrections that cannot be used or read; the message says which, where and what to do."""


@dataclass(frozen=True, eq=False)
class Corrections:
    """Corrected pixels by slice; immutable.

    Parameters
    ----------
    labels : mapping of int to ndarray of int, shape (H, W)
        Flat slice number → −1 where nothing was corrected, else the structure's value, 0 for
        background. Slices without a corrected pixel are left out.

    Raises
    ------
    CorrectionsError
        If a map is not two-dimensional or holds values outside −1 … 255.
    """

    labels: Mapping[int, np.ndarray]

    def __post_init__(self) -> None:
        kept: dict[int, np.ndarray] = {}
        for index in sorted(self.labels):
            given = np.asarray(self.labels[index])
            if given.ndim != 2 or given.dtype.kind not in "iub":
                raise CorrectionsError(
                    f"The corrections of slice {int(index) + 1} have shape {given.shape} and type "
                    f"{given.dtype}; they are whole numbers on the slice's rows and columns."
                )
            if given.size and (given.min() < NOT_CORRECTED or given.max() > 255):
                raise CorrectionsError(
                    f"The corrections of slice {int(index) + 1} hold values outside −1 to 255."
                )
            if not (given != NOT_CORRECTED).any():
                continue
            own = np.array(given, dtype=np.int16, order="C")
            own.flags.writeable = False
            kept[int(index)] = own
        object.__setattr__(self, "labels", MappingProxyType(kept))

    # -- making ------------------------------------------------------------------------------

    @classmethod
    def of_slice(
        cls,
        slice_index: int,
        shown: np.ndarray,
        adapted: np.ndarray,
        *,
        whole: bool = False,
    ) -> Corrections:
        """Find what a reviewer corrected on one slice.

        Parameters
        ----------
        slice_index : int
        shown : ndarray of int, shape (H, W)
            The mask as it is on the screen now.
        adapted : ndarray of int, shape (H, W)
            The mask as the model drew it. Corrected is where the two differ.
        whole : bool
            The reviewer calls the whole slice right: every pixel of it counts.
        """
        shown, adapted = np.asarray(shown), np.asarray(adapted)
        if shown.shape != adapted.shape:
            raise CorrectionsError(
                f"The masks of slice {slice_index + 1} have different sizes ({shown.shape} and "
                f"{adapted.shape}); both must lie on the slice's own grid."
            )
        where = np.ones(shown.shape, bool) if whole else shown != adapted
        # Signed before −1 comes in: bytes would turn it into 255.
        labels = np.where(where, shown.astype(np.int16), np.int16(NOT_CORRECTED))
        return cls({slice_index: labels})

    @classmethod
    def none(cls) -> Corrections:
        """Return no corrections."""
        return cls({})

    def with_(self, other: Corrections) -> Corrections:
        """Return both; where both corrected a pixel, ``other`` is the later word.

        Raises
        ------
        CorrectionsError
            If a slice has another size in the two.
        """
        merged = dict(self.labels)
        for index, later in other.labels.items():
            earlier = merged.get(index)
            if earlier is None:
                merged[index] = later
                continue
            if earlier.shape != later.shape:
                raise CorrectionsError(f"Slice {index + 1} has two sizes in these corrections.")
            merged[index] = np.where(later != NOT_CORRECTED, later, earlier)
        return Corrections(merged)

    # -- asking ------------------------------------------------------------------------------

    @property
    def slices(self) -> tuple[int, ...]:
        """Corrected slices, in order."""
        return tuple(self.labels)

    @property
    def pixels(self) -> int:
        """Corrected pixels in all."""
        return sum(int((one != NOT_CORRECTED).sum()) for one in self.labels.values())

    def __bool__(self) -> bool:
        return bool(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corrections) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def sha256(self) -> str:
        """Fingerprint of slices and labels, the same on every machine."""
        digest = hashlib.sha256()
        for index, one in self.labels.items():
            digest.update(repr((index, one.shape)).encode())
            digest.update(one.astype("<i2").tobytes())
        return digest.hexdigest()

    @property
    def info(self) -> CorrectionsInfo | None:
        """What a run tells of them; None if there are none."""
        if not self:
            return None
        return {"slices": list(self.slices), "pixels": self.pixels, "sha256": self.sha256}

    def put_into(self, slice_index: int, mask: np.ndarray) -> np.ndarray:
        """Return a slice's mask with the corrected pixels as the reviewer drew them.

        Parameters
        ----------
        mask : ndarray of uint8, shape (H, W)
            Never written to; it is returned itself where nothing was corrected.
        """
        own = self.labels.get(slice_index)
        if own is None:
            return mask
        self._check(slice_index, mask.shape)
        return np.where(own != NOT_CORRECTED, own, mask).astype(mask.dtype)

    def check(self, card: Card, scan: Scan) -> None:
        """See that these corrections fit a scan and a model.

        Raises
        ------
        CorrectionsError
        """
        known = {0, *(structure.value for structure in card.structures)}
        for index, own in self.labels.items():
            if not 0 <= index < scan.n_slices:
                raise CorrectionsError(
                    f"Slice {index + 1} was corrected, but the scan has {scan.n_slices} slices. "
                    "The corrections belong to another scan."
                )
            self._check(index, tuple(scan.slice_shape(index)))
            strange = sorted(set(np.unique(own).tolist()) - known - {NOT_CORRECTED})
            if strange:
                raise CorrectionsError(
                    f"On slice {index + 1} the label {strange[0]} was painted, which this model "
                    "does not know. Paint with one of "
                    f"{', '.join(f'{s.value} ({s.name})' for s in card.structures)}, 0 to erase."
                )

    def _check(self, slice_index: int, shape: tuple[int, ...]) -> None:
        own = self.labels[slice_index]
        if own.shape != tuple(shape):
            raise CorrectionsError(
                f"The corrections of slice {slice_index + 1} are {own.shape}, the slice "
                f"{tuple(shape)}. They belong to another scan."
            )


def lesson(
    labels: np.ndarray, card: Card, frame: Frame, soft_labels: float = 0.0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bring one slice's corrections to the grid that the model reads.

    Each model pixel takes the corrected pixel nearest to its centre; where that is none, but
    corrected pixels fall into it (a thin stroke on a large photograph), the commonest of them.

    Parameters
    ----------
    labels : ndarray of int, shape (H, W)
        −1 where not corrected.
    card : Card
    frame : Frame
        Of the prepared slice.
    soft_labels : float
        τ in pixels of the slice: around corrected pixels their label counts with the weight
        exp(−distance/τ), after MaCo (arXiv 2408.12814). 0: the corrected pixels alone.

    Returns
    -------
    targets : ndarray of float32, shape (S, h, w)
        Sigmoid: one map per structure, contained structures counted in those that contain them.
        Softmax: one map per class, background first.
    weights : ndarray of float32, shape (h, w)
        1 on corrected pixels, falling off around them with soft labels, 0 elsewhere.

    None if no corrected pixel lies in what the model sees.
    """
    labels = np.asarray(labels)
    weights = (labels != NOT_CORRECTED).astype(np.float32)
    if not weights.any():
        return None
    if soft_labels > 0:
        from scipy import ndimage  # loading it costs the dock 0.13 s at its start

        distance, nearest = ndimage.distance_transform_edt(weights == 0, return_indices=True)
        weights = np.exp(-distance / soft_labels).astype(np.float32)
        weights[distance > REACH * soft_labels] = 0
        labels = np.where(weights > 0, labels[tuple(nearest)], NOT_CORRECTED)
    row0, column0, row1, column1 = frame.region
    part = np.s_[row0:row1, column0:column1]
    labels, weights = _to_grid(
        frame.turn.there(labels[part]), frame.turn.there(weights[part]), frame.inner
    )
    if not weights.any():
        return None
    if card.activation == "softmax":
        values = [0, *(structure.value for structure in card.structures)]
        inner = np.stack([labels == value for value in values])
    else:
        inner = np.stack([np.isin(labels, card.values_within(s)) for s in card.structures])
    top, left = frame.padding
    place = np.s_[..., top : top + frame.inner[0], left : left + frame.inner[1]]
    targets = np.zeros((len(inner), *frame.outer), np.float32)
    targets[place] = inner
    padded = np.zeros(frame.outer, np.float32)
    padded[place] = weights
    return targets, padded


def _to_grid(
    labels: np.ndarray, weights: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest neighbour, and the commonest corrected label where strokes are thinner than that."""
    rows, columns = labels.shape
    near_rows = _centres(rows, size[0])[:, None]
    near_columns = _centres(columns, size[1])[None, :]
    near, weight = labels[near_rows, near_columns], weights[near_rows, near_columns]
    if rows <= size[0] and columns <= size[1]:
        return near, weight
    row, column = np.nonzero(labels != NOT_CORRECTED)
    cell = (row * size[0] // rows) * size[1] + column * size[1] // columns
    heaviest = np.zeros(size[0] * size[1], np.float32)
    np.maximum.at(heaviest, cell, weights[row, column])
    commonest = np.full(size[0] * size[1], NOT_CORRECTED, labels.dtype)
    most = np.zeros(size[0] * size[1], np.int64)
    for value in np.unique(labels[row, column]):
        count = np.bincount(cell[labels[row, column] == value], minlength=size[0] * size[1])
        commonest[count > most] = value
        most = np.maximum(most, count)
    missed = near == NOT_CORRECTED
    near = np.where(missed, commonest.reshape(size), near)
    return near, np.where(missed, heaviest.reshape(size), weight)


def _centres(length: int, target: int) -> np.ndarray:
    """Source pixel under the centre of each target pixel."""
    centres: np.ndarray = ((np.arange(target) + 0.5) * length / target).astype(int)
    return centres.clip(max=length - 1)
