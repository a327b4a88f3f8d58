"""Source masks, a few slices ahead of the stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .flags import SUSPICIOUS_ENTROPY, mean_entropy
from .journal import Journal
from .plan import RunError
from .slice_adapter import SliceAdapter

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Prediction

AHEAD = 4
"""So many slices at a time are predicted with the source model, ahead of the stream."""


class SourceMasks:
    """Takes source masks that are there already, and predicts the others when they are needed.

    Parameters
    ----------
    scan : Scan
    adapter : SliceAdapter
        Predicts with the source model.
    journal : Journal
        Where masks are kept.
    given : mapping of int to ndarray, optional
        Source label maps that are there already, by slice.
    """

    def __init__(
        self,
        scan: Scan,
        adapter: SliceAdapter,
        journal: Journal,
        given: Mapping[int, np.ndarray] | None,
    ) -> None:
        self._scan = scan
        self._adapter = adapter
        self._journal = journal
        self._given = dict(given or {})
        self._entropy: dict[int, float] = {}

    def entropy(self, slice_index: int, adapted: float) -> float | None:
        """Return the mean entropy of the source model on a slice.

        Where the mask was given, the source model is asked only if the ``adapted`` entropy is
        low enough to be suspicious; else the answer is None.
        """
        if slice_index not in self._entropy and adapted < SUSPICIOUS_ENTROPY:
            for prediction in self._adapter.source([slice_index]):
                self._remember(prediction)
        return self._entropy.get(slice_index)

    def _remember(self, prediction: Prediction) -> None:
        self._entropy[prediction.slice_index] = mean_entropy(
            prediction.probabilities, self._adapter.segmenter.card.activation
        )

    def get(self, slice_index: int, coming: Iterable[int]) -> np.ndarray:
        """Return a slice's source mask; ``coming`` are the slices of the stream from here on."""
        known = self._journal.source_masks
        if slice_index in known:
            return known[slice_index]
        if slice_index in self._given:
            self._journal.keep_source(slice_index, self._checked(slice_index))
            return known[slice_index]
        ahead: dict[int, None] = {slice_index: None}
        for index in coming:
            if len(ahead) == AHEAD:
                break
            if index not in known and index not in self._given:
                ahead[index] = None
        for prediction in self._adapter.source(list(ahead)):
            self._journal.keep_source(prediction.slice_index, prediction.label_map)
            self._remember(prediction)
        return known[slice_index]

    def _checked(self, slice_index: int) -> np.ndarray:
        mask = np.asarray(self._given[slice_index])
        shape = tuple(self._scan.slice_shape(slice_index))
        if mask.shape != shape:
            raise RunError(
                f"The source mask of slice {slice_index + 1} is {mask.shape}, the slice {shape}. "
                "Segment the scan again."
            )
        return mask
