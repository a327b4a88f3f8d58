"""Which slices of a run look unlike those of the source centre, each measured once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .shift import ShiftError, far_words, slice_distance

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .choices import Region

_log = logging.getLogger(__name__)


class FarSlices:
    """Says of a slice whether the source model finds it far from its own centre.

    Single slices are compared with single slices of the source centre, since those at the ends
    of any volume lie farther than those in its middle. Costs one forward pass a slice, and
    nothing with models whose card has no ``shift`` block.

    Parameters
    ----------
    scan : Scan
    region : (row0, col0, row1, col1) or None
    """

    def __init__(self, scan: Scan, region: Region | None) -> None:
        self._scan = scan
        self._region = region
        self._words: dict[int, str | None] = {}
        self._broken = False

    def words(self, segmenter: Segmenter, slice_index: int) -> str | None:
        """Return what to say of a slice, None where it is not far or cannot be measured."""
        reference = segmenter.card.shift
        if reference is None or self._broken:
            return None
        if slice_index not in self._words:
            try:
                found = slice_distance(
                    segmenter, self._scan, slice_index, self._region, frame=reference.frame
                )
            except (ShiftError, RuntimeError, MemoryError) as error:
                # A hint must not end a run; what really is wrong will show in the run itself.
                _log.warning("The shift of slices cannot be measured: %s", error)
                self._broken = True
                return None
            self._words[slice_index] = far_words(reference, found)
        return self._words[slice_index]
