"""What the masks of each slice measure, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.records import Flag, Record, measure
from napari_grata.widgets.background import Found, describe
from napari_grata.widgets.qt_parts import later

if TYPE_CHECKING:
    import numpy as np

    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session

_SETTLE_MS = 300  # after the last stroke of the brush
_MM2_IN_CM2 = 100.0


@dataclass(frozen=True)
class SliceRow:
    """What the two masks of one slice measure.

    Attributes
    ----------
    index : int
    before, after : dict of str to int
        Pixels per structure in the source mask and in the adapted mask as it is now.
    agreement : dict of str to float
        Dice coefficient between the two per structure, 0 … 1.
    """

    index: int
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record) -> SliceRow:
        """Return the row of a record of the stream."""
        return cls(record.slice_index, record.source_area, record.adapted_area, record.agreement)

    def change(self, structure: str) -> int | None:
        """Return pixels after minus pixels before; None where either is missing."""
        if structure not in self.before or structure not in self.after:
            return None
        return self.after[structure] - self.before[structure]

    def differing(self) -> dict[str, float]:
        """Return in how many pixels the masks differ, per structure.

        From areas and Dice D alone: |A Δ B| = (|A| + |B|)·(1 − D).
        """
        return {
            name: (self.before[name] + self.after[name]) * (1.0 - dice)
            for name, dice in self.agreement.items()
            if name in self.before and name in self.after and not math.isnan(dice)
        }


@dataclass(frozen=True)
class AreaUnit:
    """How areas are written: pixels (or thousands), mm² or cm², with digits that fit their size."""

    name: str
    per_pixel: float
    digits: int

    @classmethod
    def of(cls, rows: Iterable[SliceRow], structure: str, pixel_area: float | None) -> AreaUnit:
        """Choose the unit in which a structure's areas are easy to read.

        Parameters
        ----------
        pixel_area : float or None
            Area of a pixel in mm²; None where the scan does not tell.
        """
        largest = max(
            (max(r.before.get(structure, 0), r.after.get(structure, 0)) for r in rows), default=0
        )
        if pixel_area is None:
            return cls("10³ px", 1e-3, 1) if largest >= 10_000 else cls("px", 1.0, 0)
        if largest * pixel_area >= 10 * _MM2_IN_CM2:
            return cls("cm²", pixel_area / _MM2_IN_CM2, 1)
        return cls("mm²", pixel_area, 1 if largest * pixel_area < _MM2_IN_CM2 else 0)

    def write(self, pixels: float | None, *, signed: bool = False) -> str:
        """Return an area without its unit: ``"12.1"``, ``"+0.4"``, ``"1 210"``."""
        if pixels is None or math.isnan(pixels):
            return ""
        value = pixels * self.per_pixel
        # A change that rounds to nothing carries no sign.
        signed = signed and round(value, self.digits) != 0
        text = f"{value:{'+' if signed else ''},.{self.digits}f}"
        if not signed:
            text = text.lstrip("-")
        return text.replace(",", "\u202f").replace("-", "−")  # thin space between thousands


def percent(before: float, after: float) -> str:
    """Return the relative change as ``"+2.3 %"``; empty where there was nothing before."""
    if not before or math.isnan(before) or math.isnan(after):
        return ""
    return f"{100 * (after - before) / before:+.1f}\u00a0%".replace("-", "−")


def pixel_area(scan: Any) -> float | None:
    """Return the area of a pixel of a scan in mm², None where its file does not tell."""
    spacing = scan.slice_spacing
    return None if spacing is None else float(spacing[0]) * float(spacing[1])


class SliceFigures(QObject):
    """Keeps the rows of the session in view as they are now: what was drawn counts.

    A slice whose mask came out of the stream as it is has its figures in the record. Others, drawn
    on or taken from an earlier step, are measured and flagged anew in the background.

    Attributes
    ----------
    rows : dict of int to SliceRow
        By slice; those with an adapted mask.

    Signals
    -------
    changed(object)
        Set of slices whose figures or flags are others now; None: all.
    """

    changed = Signal(object)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self.rows: dict[int, SliceRow] = {}
        self._records: dict[int, Record] = {}
        self._flagged_anew: set[int] = set()
        self._due: dict[int, int] = {}  # slice that is to be measured → turn
        self._turn = 0
        self._soon = later(self, _SETTLE_MS, self._measure)
        context.session_changed.connect(self._start)
        context.masks_changed.connect(self._look)
        context.drawn.connect(self._on_drawn)
        context.runner.records.connect(self._on_records)

    def most_changed(self) -> SliceRow | None:
        """Return the row whose masks differ in the most pixels; None where none differs."""
        found = max(self.rows.values(), key=lambda r: sum(r.differing().values()), default=None)
        return found if found is not None and sum(found.differing().values()) > 0 else None

    # --- what changes ------------------------------------------------------------------------

    def _start(self) -> None:
        """Another session is in view, or this one holds wholly new results."""
        session = self._context.session
        self._due.clear()
        self._flagged_anew.clear()
        records = session.records if session is not None else []
        self._records = {record.slice_index: record for record in records}
        self.rows = {}
        self._look(None)

    def _on_records(self, records: list[Record]) -> None:
        session = self._context.runner.session
        if session is not None and session is self._context.session:
            self._records.update((record.slice_index, record) for record in records)
            self._look({record.slice_index for record in records})

    def _on_drawn(self, index: int) -> None:
        self._look({index}, wait=True)

    def _look(self, slices: set[int] | None, *, wait: bool = False) -> None:
        """Take the figures from the records where they hold, and have the others measured."""
        session = self._context.session
        there = session.adapted_slices if session is not None else set()
        self.rows = {index: row for index, row in self.rows.items() if index in there}
        for index in there if slices is None else slices & there:
            assert session is not None
            record = None if _changed(session, index) else self._records.get(index)
            if record is not None:
                self._due.pop(index, None)
                self.rows[index] = SliceRow.of(record)
                if index in self._flagged_anew:
                    # A stroke was taken back: what the run said of the slice holds again.
                    self._flagged_anew.discard(index)
                    session.flags[index] = record.flags
            elif not session.busy:  # else its record, or the job's end, comes in a moment
                self._turn += 1
                self._due[index] = self._turn
        if self._due:
            self._soon.start() if wait else self._measure()
        self.changed.emit(slices)

    # --- measuring ---------------------------------------------------------------------------

    def _measure(self) -> None:
        session = self._context.session
        if session is None or not self._due:
            return
        # Not copied: they are read at once, in the background.
        stacks = session.source.in_use(), session.adapted.in_use()
        measure = partial(_measured, session, *stacks, dict(self._due))
        self._context.queue.ask("slice figures", measure, self._on_found)

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            self._context.fail(describe(found.error), found.details)
            return
        figures: Sequence[tuple[int, int, SliceRow, tuple[Flag, ...]]]
        session, figures = self._context.session, found.result[1]
        if session is None or session is not found.result[0]:
            return
        changed = set()
        for index, turn, row, flags in figures:
            if self._due.get(index) == turn:
                del self._due[index]
                changed.add(index)
                self.rows[index] = row
                # Flags of a saved run know more than its masks tell.
                if _changed(session, index):
                    self._flagged_anew.add(index)
                    session.flags[index] = flags
        if changed:
            self.changed.emit(changed)
            self._context.touch()


def _changed(session: Session, index: int) -> bool:
    """Whether a slice's mask is not what came out of the stream."""
    return session.taken_step is not None or index in session.drawn_slices


def _measured(
    session: Session, source: np.ndarray, adapted: np.ndarray, due: dict[int, int]
) -> tuple[Session, Sequence[tuple[int, int, SliceRow, tuple[Flag, ...]]]]:
    """Measure and flag slices anew; runs in the background."""
    found = []
    for index, turn in due.items():
        before, after = (session.scan.get_mask(stack, index) for stack in (source, adapted))
        areas = measure(session.card, before, after)
        row = SliceRow(index, areas["source_area"], areas["adapted_area"], areas["agreement"])
        found.append((index, turn, row, session.flag(index, before, after)))
    return session, found
