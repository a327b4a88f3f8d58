"""What one model made of one scan: masks before and after, records, and the layers of both."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.flags import FAR_CODE, flag_slice
from napari_grata.review.compare import DIFFERENCE_COLOURS, Summary, difference_map, summarise
from napari_grata.segmenters.card import Card
from napari_grata.widgets.layers import MaskLayer
from napari_grata.widgets.taken import TakenStates

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.adaptation.records import Flag, Record
    from napari_grata.adaptation.settings import Settings
    from napari_grata.scans import Scan

_NO_MASK = np.zeros((0, 0), dtype=np.uint8)
# Pictures up to this many pixels a side get a contour one pixel wide; larger ones a wider one,
# so that it can be seen when the whole picture is in view.
THIN_CONTOUR_SIDE = 600
# napari draws contours anew at each redraw, and the time grows with area and width: on 1 million
# pixels 0.1 s for a width of 4, on 12 million 2.4 s for 7. Larger pictures are filled instead.
WIDE_CONTOUR_PIXELS = 1_000_000
CONTOUR_PIXELS = 2_500_000


def contour_width(scan: Scan) -> int:
    """Return the width in pixels of a thin contour that can be seen, and drawn in time."""
    height, width = scan.mask_shape[-2:]
    if height * width > WIDE_CONTOUR_PIXELS:
        return 1
    return max(1, round(max(height, width) / THIN_CONTOUR_SIDE))


class Session:
    """Results of one model on one scan; everything is captured when it is made.

    Parameters
    ----------
    viewer : Viewer
    scan : Scan
    scan_layer : Layer
        Held weakly: it may be deleted at any time.
    card : Card
        Of the model.
    filled : bool or None
        Whether masks are shown as filled areas instead of contours; None: as suits the size.
    """

    def __init__(
        self,
        viewer: Viewer,
        scan: Scan,
        scan_layer: Layer | None,
        card: Card,
        *,
        filled: bool | None,
    ) -> None:
        self.scan = scan
        self.card = card
        self.viewer = viewer
        self.scan_layer = weakref.ref(scan_layer) if scan_layer is not None else lambda: None
        self.colours = {s.value: s.colour for s in card.structures}
        if filled is None:
            filled = int(np.prod(scan.mask_shape[-2:])) > CONTOUR_PIXELS
        self.filled = filled
        self.before = self._mask("source", "source")
        self.after = self._mask("grata", "grata")
        self._difference: MaskLayer | None = None
        self.difference_of: str | None = None
        self.segmented: set[int] = set()
        self.adapted: set[int] = set()
        self.region: Any = None
        self.flags: dict[int, tuple[Flag, ...]] = {}
        self.taken_step: int | None = None
        self.taken = TakenStates()
        self.stream: list[Record] = []
        self.run: Any = None
        self.settings: Settings | None = None
        self.busy = False
        self.expected_steps: int | None = None
        self.resets: tuple[int, ...] = ()
        self.note, self.note_tone = "", "good"
        self.saved = False
        self.reopened: str | None = None

    def _mask(self, suffix: str, role: str) -> MaskLayer:
        thin = contour_width(self.scan)
        width = thin if role == "source" else 2 * thin
        return MaskLayer(
            self.viewer,
            self.scan,
            f"{self.scan.name} {suffix}",
            self.colours,
            self.scan_layer(),
            contour=0 if self.filled else width,
            opacity=0.45 if self.filled else 0.9,
            role=role,
        )

    # --- masks before ----------------------------------------------------------------------

    def begin_segmenting(self, region: Any) -> None:
        """Start anew with the masks before; masks after of an earlier run stay until Adapt."""
        self.before.restart()
        self.segmented.clear()
        self.region = region
        self.before.visible = True
        self.before.ensure()

    def put_before(self, index: int, label_map: np.ndarray) -> None:
        """Store the mask before of one slice."""
        self.before.put(index, label_map)
        self.segmented.add(index)

    def source_masks(self, slices: Sequence[int], region: Any) -> dict[int, np.ndarray]:
        """Return the model's own masks of these slices, if they were made for this region."""
        if region != self.region:
            return {}
        stack = self.before.stack
        return {i: self.scan.get_mask(stack, i) for i in slices if i in self.segmented}

    # --- masks after -----------------------------------------------------------------------

    def begin_adapting(self, region: Any) -> None:
        """Start a new adaptation; the masks before stay as they are."""
        self.after.restart()
        self.adapted.clear()
        self.flags.clear()
        self.taken_step = None
        self.taken.clear()
        self.stream.clear()
        self.close_run()
        self.reopened = None
        self.hide_difference()
        if region != self.region:
            # Masks before of another part of the picture cannot be compared with what comes now.
            self.before.restart()
            self.segmented.clear()
            self.region = region
        self.after.visible = True
        self.before.ensure()
        self.after.ensure()

    def put_record(self, record: Record) -> None:
        """Store what one event of the stream brought."""
        index = record.slice_index
        if index not in self.segmented:
            self.put_before(index, record.source_mask)
        self.put_after(index, record.adapted_mask)
        self.saved = False
        if self._difference is not None and self.difference_of is not None:
            self._difference.put(index, self._changes(record.source_mask, record.adapted_mask))
        # The masks are in the stacks now; kept with every record they would fill the memory.
        light = replace(record, source_mask=_NO_MASK, adapted_mask=_NO_MASK)
        self.stream.append(light)
        self.flags[index] = record.flags

    def put_after(self, index: int, label_map: np.ndarray) -> None:
        """Store the mask after of one slice."""
        self.after.put(index, label_map)
        self.adapted.add(index)

    def redraw(self) -> None:
        """Draw what has changed in view."""
        for mask in (self.before, self.after, self._difference):
            if mask is not None:
                mask.flush()

    def settle(self) -> list[str]:
        """Bring layers up to date after a run; returns sentences about what was put aside."""
        said = []
        for mask, what, there in (
            (self.before, "before", self.segmented),
            (self.after, "after", self.adapted),
        ):
            if not there:
                continue
            drawn_on = mask.edited()
            if mask.settle() and drawn_on:
                said.append(
                    f"You drew on the mask {what}: it was left as it is, and the result is in "
                    f"“{mask.name}”."
                )
        return said

    def close_run(self) -> None:
        """Close the files of the last run; its masks stay."""
        run, self.run = self.run, None
        if run is not None:
            run.close()

    # --- looking ---------------------------------------------------------------------------

    def toggle(self) -> str | None:
        """Show the mask after instead of the mask before, or the other way round."""
        if not self.adapted or not self.segmented:
            return None
        after = not (self.after.visible and not self.before.visible)
        self.show_after(after)
        return "after" if after else "before"

    def show_after(self, after: bool) -> None:
        """Show one of the two masks."""
        self.before.visible = not after
        self.after.visible = after

    def set_filled(self, filled: bool) -> None:
        """Show filled areas or contours."""
        self.filled = filled
        thin = contour_width(self.scan)
        for mask, width in ((self.before, thin), (self.after, 2 * thin)):
            mask.set_contour(0 if filled else width)
            mask.set_opacity(0.45 if filled else 0.9)

    def cycle_difference(self) -> str | None:
        """Show the next difference: of all structures, of each, none. Returns what is shown."""
        if not self.adapted:
            return None
        names = ["", *(s.name for s in self.card.structures)]
        if len(names) == 2:
            names = [""]
        at = -1 if self.difference_of is None else names.index(self.difference_of)
        if at + 1 == len(names):
            self.hide_difference()
        else:
            self.show_difference(names[at + 1])
        return self.difference_of

    def show_difference(self, structure: str) -> None:
        """Show what was added and removed, of one structure or (``""``) of all."""
        self.difference_of = structure
        if self._difference is None:
            self._difference = MaskLayer(
                self.viewer,
                self.scan,
                f"{self.scan.name} difference",
                DIFFERENCE_COLOURS,
                self.scan_layer(),
                opacity=0.8,
                role="difference",
            )
        self._difference.restart()
        for index in sorted(self.adapted):
            self._difference.put(
                index,
                self._changes(
                    self.scan.get_mask(self.before.stack, index),
                    self.scan.get_mask(self.after.stack, index),
                ),
            )
        self._difference.visible = True
        self._difference.settle()

    def hide_difference(self) -> None:
        """Switch the difference off."""
        self.difference_of = None
        if self._difference is not None:
            self._difference.visible = False

    def _changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return what was added and removed on one slice, shape (H, W)."""
        return difference_map(before, after, self.card, self.difference_of or None)

    # --- words and results -----------------------------------------------------------------

    def count(self, number: int) -> str:
        """Return a number of slices, or of photographs, in words."""
        noun = "photograph" if self.scan.kind in ("photograph", "photographs") else "slice"
        return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

    def flagged(self) -> list[int]:
        """Return the slices that a person should look at, in order."""
        return sorted(index for index, flags in self.flags.items() if flags)

    def measure(self) -> Summary:
        """Compare the masks as they are now, and flag anew what to look at."""
        before, after = (
            {i: self.scan.get_mask(mask.stack, i) for i in sorted(self.adapted)}
            for mask in (self.before, self.after)
        )
        self.flags = {
            i: flag_slice(
                self.card, before[i], after[i], region=self.region, far=self._far_words(i)
            )
            for i in after
        }
        return summarise(self.scan, self.card, before, after, self.flags)

    def _far_words(self, index: int) -> str | None:
        """What was said of the scan, not of the masks, still holds."""
        flags = self.flags.get(index, ())
        return next((flag.text for flag in flags if flag.code == FAR_CODE), None)

    def stacks_to_save(self) -> dict[str, np.ndarray]:
        """Return the masks as the person has them now, drawn changes included, by file name."""
        stacks = {}
        for mask, there in ((self.before, self.segmented), (self.after, self.adapted)):
            if there:
                stacks[mask.name] = mask.as_shown()
        return stacks
