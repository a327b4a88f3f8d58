"""What one model made of one scan: source and adapted masks, records, and the layers of both."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.review.compare import DIFFERENCE_COLOURS, difference_map, flag_again
from napari_grata.scans import ScanError
from napari_grata.segmenters.card import Card
from napari_grata.widgets.mask_layer import MaskLayer
from napari_grata.widgets.qt_parts import notify
from napari_grata.widgets.scan_layer import ScanOfLayer, alive
from napari_grata.widgets.state import chosen_words

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.adaptation import AdaptationRun, Flag, Record, ReopenedRun
    from napari_grata.adaptation.settings import Settings
    from napari_grata.scans import Scan
    from napari_grata.segmenters import ModelEntry
    from napari_grata.widgets.tasks import Region

_NO_MASK = np.zeros((0, 0), dtype=np.uint8)
# napari draws contours anew at each redraw, and the time grows with area and width: on 12 million
# pixels 2.4 s for a width of 7. Larger pictures are filled; contours of both are drawn as lines.
CONTOUR_PIXELS = 2_500_000


class Session(QObject):
    """Results of one model on one scan; everything is captured when it is made.

    Parameters
    ----------
    viewer : Viewer
    scan : Scan
    scan_layer : Layer or None
        Held weakly: it may be deleted at any time.
    card : Card
        Of the model.
    filled : bool or None
        Whether masks are shown as filled areas instead of contours; large pictures always are.

    Attributes
    ----------
    large : bool
        Whether contours of its masks would take too long to draw: they are filled.
    source, adapted : MaskLayer
        ``adapted`` carries what the user draws.
    hidden : set of int
        Label values that are not shown.
    segmented_slices, adapted_slices : set of int
        Slices that have a source mask, an adapted mask.
    flags : dict of int to tuple of Flag
    records : list of Record
        Of the stream, without their masks.
    run : AdaptationRun or None
    settings : Settings or None
    region : (row0, col0, row1, col1) or None
    taken_step : int or None
        The step whose masks are in use; None: the run's result.
    chosen : str
        How the masks in use were chosen, where a few reviewed slices decided.
    drawn_slices : set of int
        Where the user has painted since the masks were made.
    busy : bool
        Whether a job is working on it.
    note, note_tone : str
        One sentence about the last result, and how to say it.
    saved : {"", "kept", "taken out"}
        Whether the masks as they are lie in the run's own folder, or were written to files.
    reopened : str or None
        Date and settings of the saved run that is shown, if one is.

    Signals
    -------
    masks_changed(object)
        Set of slices whose masks or flags are others now; None: all.
    drawn(int)
        The user painted on the adapted mask of this slice.
    """

    masks_changed = Signal(object)
    drawn = Signal(int)

    def __init__(
        self,
        viewer: Viewer,
        scan: Scan,
        scan_layer: Layer | None,
        card: Card,
        *,
        filled: bool | None,
    ) -> None:
        super().__init__()
        self.scan = scan
        self.card = card
        self.viewer = viewer
        self.scan_layer: Callable[[], Layer | None] = (
            weakref.ref(scan_layer) if scan_layer is not None else lambda: None
        )
        self.colours = {s.value: s.colour for s in card.structures}
        self.large = int(np.prod(scan.mask_shape[-2:])) > CONTOUR_PIXELS
        self.filled = self.large or bool(filled)
        self.source = self._mask("source", width=1)
        self.adapted = self._mask("adapted", width=2)
        self._difference = MaskLayer(
            viewer,
            scan,
            f"{scan.name} difference",
            DIFFERENCE_COLOURS,
            scan_layer,
            opacity=0.8,
            role="difference",
        )
        self.difference_of: str | None = None
        self.hidden: set[int] = set()
        self.segmented_slices: set[int] = set()
        self.adapted_slices: set[int] = set()
        self.region: Region | None = None
        self.flags: dict[int, tuple[Flag, ...]] = {}
        self.records: list[Record] = []
        self.run: Any = None
        self.settings: Settings | None = None
        self.taken_step: int | None = None
        self.chosen = ""
        self.drawn_slices: set[int] = set()
        self.expected_steps: int | None = None
        self.busy = False
        self.note, self.note_tone = "", ""
        # Words on what a run came to, which go on to tell how many slices are flagged.
        self.result_note = ""
        self.saved = ""
        self.reopened: str | None = None

    def _mask(self, role: str, width: int) -> MaskLayer:
        return MaskLayer(
            self.viewer,
            self.scan,
            f"{self.scan.name} {role}",
            self.colours,
            self.scan_layer(),
            contour=0 if self.filled else width,
            opacity=self.opacity,
            role=role,
            drawn=self._on_drawn if role == "adapted" else None,
        )

    def _on_drawn(self, index: int) -> None:
        before, everywhere = set(self.drawn_slices), self.adapted.paints_across
        for each in range(self.scan.n_slices) if everywhere else (index,):
            self.drawn_slices.discard(each)
            if self.adapted.drawn_on(each):
                self.drawn_slices.add(each)
        self.saved = ""
        self.drawn.emit(index)
        others = (before | self.drawn_slices) - {index} if everywhere else ()
        if others:
            self.adapted.tell_later(others)
            for each in others:
                self.draw_difference(each)
            self.masks_changed.emit(others)

    def look_for_drawings(self) -> None:
        """Look on which slices the user has drawn, after a drawing was brought back."""
        drawn = {i for i in range(self.scan.n_slices) if self.adapted.drawn_on(i)}
        changed, self.drawn_slices = drawn | self.drawn_slices, drawn
        for index in changed:
            self.draw_difference(index)
        self.masks_changed.emit(changed)

    # --- results arrive --------------------------------------------------------------------

    def begin_segmenting(self, region: Region | None) -> None:
        """Start anew with the source masks; adapted masks of an earlier run stay until Adapt."""
        self.source.restart()
        self.segmented_slices.clear()
        self.region = region
        self.source.visible = True
        self.source.ensure()

    def begin_adapting(self, region: Region | None) -> None:
        """Start a new adaptation; the source masks stay as they are."""
        self.clear_adapted()
        self.flags.clear()
        self.records.clear()
        self.taken_step, self.chosen, self.reopened = None, "", None
        self.close_run()
        if region != self.region:
            # Source masks of another part of the picture cannot be compared with what comes now.
            self.source.restart()
            self.segmented_slices.clear()
            self.region = region
        self.adapted.visible = True
        self.source.ensure()
        self.adapted.ensure()

    def clear_adapted(self) -> None:
        """Begin new adapted masks; what was drawn on those before stays in its layer."""
        kept = self.adapted.restart()
        if kept:
            notify(f"What you drew is kept as it is, hidden, in “{kept}”.", "info")
        self.adapted_slices.clear()
        self.drawn_slices.clear()
        self.hide_difference()

    def put_source(self, index: int, label_map: np.ndarray) -> None:
        """Store the source mask of one slice, shape (H, W)."""
        self.source.put(index, label_map)
        self.segmented_slices.add(index)

    def put_adapted(self, index: int, label_map: np.ndarray) -> None:
        """Store the adapted mask of one slice, shape (H, W)."""
        self.adapted.put(index, label_map)
        self.adapted_slices.add(index)

    def put_result(
        self, run: AdaptationRun | ReopenedRun, flags: dict[int, tuple[Flag, ...]]
    ) -> None:
        """Make the masks of a run and its records the results, and show them.

        Source masks that are there stay.
        """
        self.clear_adapted()
        self.settings, self.region = run.settings, run.region
        self.records, self.flags = run.past.without_masks(), flags
        self.taken_step, self.chosen = run.taken, chosen_words(run.chosen, self.scan.noun)
        self.saved, self.reopened = "kept" if run.folder is not None else "", None
        for index in run.source_masks.keys() - self.segmented_slices:
            self.put_source(index, run.source_masks[index])
        for index, label_map in run.adapted_masks.items():
            self.put_adapted(index, label_map)
        self.settle()

    def put_record(self, record: Record) -> None:
        """Store what one event of the stream brought."""
        index = record.slice_index
        if index not in self.segmented_slices:
            self.put_source(index, record.source_mask)
        self.put_adapted(index, record.adapted_mask)
        self.saved = ""
        if self.difference_of is not None:
            self._put_difference(index)
        # The masks are in the stacks now; kept with every record they would fill the memory.
        light = replace(record, source_mask=_NO_MASK, adapted_mask=_NO_MASK)
        self.records.append(light)
        self.flags[index] = record.flags

    def source_masks(self, slices: Sequence[int], region: Region | None) -> dict[int, np.ndarray]:
        """Return the model's own masks of these slices, if they were made for this region."""
        if region != self.region:
            return {}
        stack = self.source.stack
        return {i: self.scan.get_mask(stack, i) for i in slices if i in self.segmented_slices}

    def redraw(self) -> None:
        """Draw what has changed in view."""
        for mask in (self.source, self.adapted, self._difference):
            mask.flush()

    def settle(self) -> list[str]:
        """Bring layers up to date after a run; returns sentences about what was put aside."""
        said = []
        for what, mask in self.masks().items():
            drawn_on = mask.edited()
            if mask.settle() and drawn_on:
                said.append(
                    f"You drew on the {what} mask: it was left as it is, hidden, and the result is "
                    f"in “{mask.name}”."
                )
        return said

    def close_run(self) -> None:
        """Close the files of the last run; its masks stay."""
        run, self.run = self.run, None
        if run is not None:
            run.close()

    # --- looking ---------------------------------------------------------------------------

    def masks(self) -> dict[str, MaskLayer]:
        """Return the masks that there are, "source" and "adapted"."""
        there = {"source": self.segmented_slices, "adapted": self.adapted_slices}
        return {role: getattr(self, role) for role, slices in there.items() if slices}

    @property
    def has_masks(self) -> bool:
        """Whether there are masks of either kind."""
        return bool(self.segmented_slices or self.adapted_slices)

    @property
    def can_compare(self) -> bool:
        """Whether there are masks of both kinds."""
        return bool(self.adapted_slices and self.segmented_slices)

    def bring_back(self) -> bool:
        """Put masks back that were deleted alone, not with their scan; returns whether any was."""
        gone = [mask for mask in self.masks().values() if not mask.shown]
        there = alive(self.viewer, self.scan_layer())
        for mask in gone if there and not self.busy else ():
            mask.ensure()
        return bool(gone) and there

    def show_masks(self, *, source: bool, adapted: bool) -> None:
        """Switch the two mask layers on or off."""
        self.source.visible = source
        self.adapted.visible = adapted

    @property
    def opacity(self) -> float:
        """How opaque masks are: the scan has to shine through areas."""
        return 0.45 if self.filled else 0.9

    @property
    def shown_colours(self) -> dict[int, str]:
        """Colours of the label values; ``"transparent"`` for those that are hidden."""
        return {v: "transparent" if v in self.hidden else c for v, c in self.colours.items()}

    def set_filled(self, filled: bool) -> None:
        """Show filled areas, as large pictures always do, or contours."""
        self.filled = filled = self.large or filled
        for mask, width in ((self.source, 1), (self.adapted, 2)):
            mask.set_contour(0 if filled else width)
            mask.set_opacity(self.opacity)

    def set_hidden(self, values: set[int]) -> None:
        """Show all structures but those of these label values."""
        self.hidden = set(values)
        for mask in (self.source, self.adapted):
            mask.set_colours(self.shown_colours)

    def difference_names(self) -> list[str]:
        """Return what a difference can be shown of: "" is all structures together."""
        names = [s.name for s in self.card.structures]
        return ["", *names] if len(names) > 1 else [""]

    def show_difference(self, structure: str = "") -> None:
        """Show what was added and removed, of one structure or (``""``) of all."""
        self.difference_of = structure
        self._difference.restart()
        for index in sorted(self.adapted_slices):
            self._put_difference(index)
        self._difference.visible = True
        self._difference.settle()

    def draw_difference(self, index: int) -> None:
        """Draw the difference of one slice anew, such as after painting there."""
        if self.difference_of is not None:
            self._put_difference(index)
            self._difference.flush()

    def draw_difference_anew(self) -> None:
        """Draw the difference that is shown anew: masks of before are back."""
        if self.difference_of is not None:
            shown = self._difference.visible
            self.show_difference(self.difference_of)
            self._difference.visible = shown

    def show_difference_layer(self, shown: bool) -> None:
        """Switch the layer of a difference that is shown off for a while, and on again."""
        if self.difference_of is not None:
            self._difference.visible = shown

    def hide_difference(self) -> None:
        """Switch the difference off."""
        self.difference_of = None
        self._difference.visible = False

    def _put_difference(self, index: int) -> None:
        source, adapted = (
            self.scan.get_mask(mask.in_use(), index) for mask in (self.source, self.adapted)
        )
        changes = difference_map(source, adapted, self.card, self.difference_of or None)
        self._difference.put(index, changes)

    def layers(self) -> list[Layer]:
        """Return all layers of this session that are in the viewer."""
        layers = (mask.layer for mask in (self.source, self.adapted, self._difference))
        return [layer for layer in layers if layer is not None]

    # --- words and results -----------------------------------------------------------------

    def flagged(self) -> list[int]:
        """Return the slices that the user should look at, in order."""
        return sorted(index for index, flags in self.flags.items() if flags)

    def most_changed(self) -> int:
        """Return the flagged slice that changed most; of all slices where none is flagged."""
        change: dict[int, float] = {}
        for record in self.records:
            shares = list(record.agreement.values())
            change[record.slice_index] = 1 - sum(shares) / len(shares) if shares else 0.0
        flagged = [index for index in self.flagged() if index in change]
        return max(flagged or change, key=lambda index: change[index], default=0)

    def flag(self, index: int, source: np.ndarray, adapted: np.ndarray) -> tuple[Flag, ...]:
        """Return what is to be looked at on a slice with these masks, each of shape (H, W)."""
        return flag_again(
            self.card,
            (source, adapted),
            self.flags.get(index, ()),
            self.frame_of(index),
            self.region,
            photograph=self.scan.noun == "photograph",
        )

    def frame_of(self, index: int) -> Region | None:
        """Return the frame in which a slice was adapted, where one was found."""
        latest = (one for one in reversed(self.records) if one.slice_index == index)
        return next((one.frame for one in latest), None)


class Sessions:
    """All sessions of a viewer, by scan layer and model; they go with their layer."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._scan_of = ScanOfLayer()
        self._sessions: weakref.WeakKeyDictionary[Layer, dict[tuple[int, str], Session]] = (
            weakref.WeakKeyDictionary()
        )

    def scan(self, layer: Layer | None) -> tuple[Scan | None, str]:
        """Return the scan of a layer, or the reason why it is none."""
        if layer is None:
            return None, ""
        try:
            return self._scan_of(layer), ""
        except ScanError as error:
            return None, str(error)

    def find(
        self, layer: Layer | None, scan: Scan | None, entry: ModelEntry | None
    ) -> Session | None:
        """Return what this model made of this scan so far."""
        if layer is None or scan is None or entry is None:
            return None
        session = self._sessions.get(layer, {}).get((id(scan), entry.name))
        return session if session is not None and session.scan is scan else None

    def get(self, layer: Layer, scan: Scan, entry: ModelEntry, *, filled: bool | None) -> Session:
        """Return the session of this model and scan, a new one where there is none."""
        session = self.find(layer, scan, entry)
        if session is None:
            assert entry.card is not None
            session = self.renew(layer, scan, entry.card, filled)
        return session

    def renew(self, layer: Layer, scan: Scan, card: Card, filled: bool | None) -> Session:
        """Return a fresh session in place of the one of this model and scan, if there is one."""
        session = Session(self._viewer, scan, layer, card, filled=filled)
        sessions = self._sessions.setdefault(layer, {})
        old = sessions.pop((id(scan), card.name), None)
        if old is not None:
            old.close_run()
        sessions[id(scan), card.name] = session
        return session

    def of(self, layer: Layer | None) -> list[Session]:
        """Return what all models made of a scan so far."""
        return [] if layer is None else list(self._sessions.get(layer, {}).values())

    def all(self) -> list[Session]:
        """Return every session of layers that still live."""
        return [s for sessions in self._sessions.values() for s in sessions.values()]

    def close_runs(self) -> None:
        """Close the files of all runs but one that is going on, which closes its own."""
        for session in self.all():
            if not session.busy:
                session.close_run()
