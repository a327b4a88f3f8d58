"""Rows of the slice table: what each slice's masks measure, before and after."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.records import Flag, Record
from napari_grata.scans.files import write_bytes

if TYPE_CHECKING:
    from napari_grata.review.compare import SliceSummary

MM2_IN_CM2 = 100.0
SliceName = Callable[[int], str]


@dataclass(frozen=True)
class SliceRow:
    """One slice as the table shows it.

    Attributes
    ----------
    slice_index : int
    slice_name : str
    before, after : dict of str to int
        Pixels per structure in the mask before and the mask after adaptation.
    pixel_area : float or None
        Area of one pixel in mm²; None where the scan has no spacing.
    dice : dict of str to float
        Agreement of the two masks per structure, 0 … 1.
    flags : tuple of Flag
    """

    slice_index: int
    slice_name: str
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    pixel_area: float | None = None
    dice: dict[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()

    @classmethod
    def from_record(
        cls, record: Record, *, slice_name: str | None = None, pixel_area: float | None = None
    ) -> SliceRow:
        """Make the row of a slice from an event of the stream."""
        return cls(
            slice_index=record.slice_index,
            slice_name=slice_name or f"slice {record.slice_index + 1}",
            before=dict(record.source_area),
            after=dict(record.adapted_area),
            pixel_area=pixel_area,
            dice=dict(record.agreement),
            flags=record.flags,
        )

    @classmethod
    def from_summary(cls, summary: SliceSummary) -> SliceRow:
        """Make the row of a slice from `review.compare.SliceSummary`."""
        area = next(
            (
                item.adapted_mm2 / item.adapted_pixels
                for item in summary.structures
                if item.adapted_mm2 and item.adapted_pixels
            ),
            None,
        ) or next(
            (
                item.source_mm2 / item.source_pixels
                for item in summary.structures
                if item.source_mm2 and item.source_pixels
            ),
            None,
        )
        return cls(
            slice_index=summary.slice_index,
            slice_name=summary.slice_name,
            before={item.name: item.source_pixels for item in summary.structures},
            after={item.name: item.adapted_pixels for item in summary.structures},
            pixel_area=area,
            dice={item.name: item.agreement for item in summary.structures},
            flags=tuple(summary.flags),
        )

    def change(self, structure: str) -> float | None:
        """Return pixels after minus pixels before; None where either is missing."""
        if structure not in self.before or structure not in self.after:
            return None
        return self.after[structure] - self.before[structure]


@dataclass(frozen=True)
class AreaUnit:
    """How areas are written: pixels (or thousands), mm² or cm², with digits that fit their size."""

    name: str
    per_pixel: float
    digits: int

    @classmethod
    def of(cls, rows: Iterable[SliceRow], structure: str) -> AreaUnit:
        """Choose the unit in which a structure's areas are easy to read."""
        largest, pixel_area = 0, None
        for row in rows:
            largest = max(largest, row.before.get(structure, 0), row.after.get(structure, 0))
            pixel_area = pixel_area or row.pixel_area
        if pixel_area is None:
            return cls("10³ px", 1e-3, 1) if largest >= 10_000 else cls("px", 1.0, 0)
        if largest * pixel_area >= 10 * MM2_IN_CM2:
            return cls("cm²", pixel_area / MM2_IN_CM2, 1)
        return cls("mm²", pixel_area, 1 if largest * pixel_area < MM2_IN_CM2 else 0)

    def write(self, pixels: float | None, *, signed: bool = False) -> str:
        """Return an area without its unit: ``"12.1"``, ``"+0.4"``, ``"1 210"``."""
        if pixels is None:
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
    if not before:
        return ""
    return f"{100 * (after - before) / before:+.1f}\u00a0%".replace("-", "−")


def flag_words(flag: Flag) -> str:
    """Return a flag in a few words, for a narrow column."""
    return flag.code.replace("-", " ") if flag.code else flag.text


def totals(
    rows: Sequence[SliceRow],
    structure: str,
    *,
    thickness: float | None,
    volume: bool,
    noun: str = "slice",
) -> str:
    """Return one line over all rows: how many, how many flagged, the volume in mL.

    Parameters
    ----------
    rows : sequence of SliceRow
    structure : str
    thickness : float or None
        Distance of slices in mm.
    volume : bool
        Whether the slices make up one volume, so that areas may be added up.
    noun : str
        What one row is: a slice or a photograph.
    """
    if not rows:
        return f"no {noun}s yet"
    flagged = sum(bool(row.flags) for row in rows)
    parts = [f"{len(rows)} {noun}{'s' if len(rows) != 1 else ''}"]
    parts.append(f"{flagged} flagged" if flagged else "none flagged")
    # An empty slice may not know it.
    pixel_area = next((row.pixel_area for row in rows if row.pixel_area), None)
    measured = [row for row in rows if row.change(structure) is not None]
    if volume and thickness and pixel_area and measured:
        millilitres = pixel_area * thickness / 1000
        before = sum(row.before[structure] for row in measured)
        after = sum(row.after[structure] for row in measured)
        low, high = before * millilitres, after * millilitres
        digits = 0 if max(low, high) >= 100 else 1 if max(low, high) >= 10 else 2
        relative = percent(before, after)
        parts.append(
            f"{low:.{digits}f} → {high:.{digits}f} mL" + (f" ({relative})" if relative else "")
        )
    return " · ".join(parts)


CSV_COLUMNS = (
    "slice",
    "name",
    "structure",
    "area_before_px",
    "area_after_px",
    "area_before_mm2",
    "area_after_mm2",
    "change_px",
    "change_mm2",
    "dice_before_after",
    "flags",
)


def write_csv(rows: Iterable[SliceRow], structures: Sequence[str], path: str | Path) -> Path:
    """Write one line per slice and structure; slices count from 1, as displayed.

    The file appears complete or not at all.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    path = Path(path)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(CSV_COLUMNS)
    for row in sorted(rows, key=lambda row: row.slice_index):
        for structure in structures:
            writer.writerow(_csv_line(row, structure))
    write_bytes(path, stream.getvalue().encode("utf-8"))
    return path


def _csv_line(row: SliceRow, structure: str) -> list[Any]:
    before, after = row.before.get(structure), row.after.get(structure)
    change, dice, area = row.change(structure), row.dice.get(structure), row.pixel_area

    def cell(value: float | None, times: float | None = 1.0, form: str = "g") -> str:
        if value is None or times is None or math.isnan(value):
            return ""
        return format(value * times, form)

    return [
        row.slice_index + 1,
        row.slice_name,
        structure,
        cell(before, 1, ".0f"),
        cell(after, 1, ".0f"),
        cell(before, area, ".6g"),
        cell(after, area, ".6g"),
        cell(change, 1, ".0f"),
        cell(change, area, ".6g"),
        cell(dice, 1, ".4f"),
        "; ".join(flag.text for flag in row.flags),
    ]
