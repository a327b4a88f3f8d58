"""Measurements as rows for people, and as a file for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from napari_grata.review.measurements import (
    AREA,
    BETWEEN,
    DICE,
    HAUSDORFF,
    HAUSDORFF95,
    HORIZONTAL,
    LARGEST,
    SMALLEST,
    TRUTH,
    VERTICAL,
    VOLUME,
    Measurement,
)
from napari_grata.scans.files import write_bytes

_SHORT = {
    AREA: "area",
    VOLUME: "volume",
    LARGEST: "largest ⌀",
    SMALLEST: "smallest ⌀",
    VERTICAL: "vertical ⌀",
    HORIZONTAL: "horizontal ⌀",
    DICE: "Dice",
    HAUSDORFF: "Hausd.",
    HAUSDORFF95: "Hausd. 95",
}
_MEANS = {
    AREA: "Area of the structure in this slice, with whatever lies inside it.",
    VOLUME: "Volume over the slices.",
    LARGEST: "Largest distance between two points of the outline (Feret diameter).",
    SMALLEST: "Smallest distance between two parallel lines that hold the structure.",
    VERTICAL: "Extent from top to bottom.",
    HORIZONTAL: "Extent from left to right.",
    DICE: "Dice coefficient: 1 is the same, 0 has nothing in common.",
    HAUSDORFF: "Hausdorff distance: how far apart the outlines are where they differ most.",
    HAUSDORFF95: "The distance that 95 % of the outlines' points keep: a stray pixel counts less.",
}


@dataclass(frozen=True)
class Row:
    """One quantity of one structure.

    Attributes
    ----------
    structure, name, unit : str
    values : dict of str to float or None
        By "before", "after", "edited", "truth", "between".
    notes : tuple of str
    """

    structure: str
    name: str
    unit: str
    values: dict[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The quantity in few words, with its unit, for a narrow column."""
        plain = self.name.removesuffix(TRUTH)
        words = _SHORT.get(plain, plain.replace("-to-", "/").replace(" ratio", "").lower())
        words = f"{words} ↔ truth" if plain != self.name else words
        return f"{words}  {self.unit}" if self.unit else words

    @property
    def change(self) -> float | None:
        """After (as edited, where it is) minus before; what is between the two, where it is."""
        if BETWEEN in self.values:
            return self.values[BETWEEN]
        after = self.values.get("edited", self.values.get("after"))
        before = self.values.get("before")
        return None if after is None or before is None else after - before

    def cell(self, column: str) -> str:
        """Return the text of "before", "after", "edited", "truth" or "change"."""
        if column == "change":
            if BETWEEN in self.values:
                return write(self.change, self.unit) if self.change is not None else "–"
            largest = max((abs(v) for v in self.values.values() if v is not None), default=0.0)
            return write(self.change, self.unit, signed=True, like=largest)
        if column not in self.values:
            return ""
        value = self.values[column]
        return "–" if value is None else write(value, self.unit)

    def explanation(self) -> str:
        """Return what the quantity is, its relative change and what to know about it."""
        plain = self.name.removesuffix(TRUTH)
        parts = [f"{self.structure}: {self.name}" + (f", {self.unit}" if self.unit else "")]
        parts.append(_MEANS.get(plain, ""))
        before, change = self.values.get("before"), self.change
        if plain in (AREA, VOLUME) and before and change is not None:
            parts.append(f"Change: {100 * change / before:+.1f} %".replace("-", "−"))
        if self.values.get("truth") is not None:
            parts.append(f"The truth: {self.cell('truth')} {self.unit}".strip())
        if BETWEEN in self.values:
            parts.append(
                "Between the mask before and the mask after (as edited, where it is); not a "
                "measure of truth."
            )
        return "\n".join([part for part in (*parts, *self.notes) if part])


def rows(found: Iterable[Measurement]) -> list[Row]:
    """Gather measurements of one slice, or of one case, into rows: structure by structure."""
    gathered: dict[tuple[str, str], list[Measurement]] = {}
    for item in found:
        gathered.setdefault((item.structure, item.name), []).append(item)
    order = list(dict.fromkeys(structure for structure, _ in gathered))
    made = [
        Row(
            structure,
            name,
            items[0].unit,
            {item.which: item.value for item in items},
            tuple(dict.fromkeys(item.note for item in items if item.note)),
        )
        for (structure, name), items in gathered.items()
    ]
    return sorted(made, key=lambda row: order.index(row.structure))


def write(
    value: float | None, unit: str, *, signed: bool = False, like: float | None = None
) -> str:
    """Return a figure with as many digits as it can carry: ``"12.1"``, ``"+0.40"``, ``"0.943"``.

    ``like``: with the digits that this figure would have, such as for a change of it.
    """
    if value is None:
        return ""
    size = abs(value if like is None else like)
    if unit in ("px", "voxels"):
        digits = 0 if (value == round(value) and not like) or size >= 100 else 1
    elif unit:
        digits = 0 if size >= 1000 else 1 if size >= 10 else 2
    else:
        digits = 3
    # A change that rounds to nothing carries no sign.
    signed = signed and round(value, digits) != 0
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if not round(value, digits):
        text = text.lstrip("-")
    return text.replace(",", "\u202f").replace("-", "−")


COLUMNS = ("before", "after", "edited", "truth", "change")


def columns(made: Sequence[Row]) -> list[str]:
    """Return the columns that these rows fill, in order."""
    there = {which for row in made for which in row.values}
    pair = {"before", "after"} <= there or "edited" in there
    return [c for c in COLUMNS if c in there or (c == "change" and pair)]


def as_text(made: Sequence[Row]) -> str:
    """Return rows as tab-separated text with plain numbers, for a spreadsheet."""
    shown = columns(made)
    lines = ["\t".join(["structure", "quantity", "unit", *shown])]
    for row in made:
        cells = [_plain(row.change if c == "change" else row.values.get(c)) for c in shown]
        lines.append("\t".join([row.structure, row.name, row.unit, *cells]))
    return "\n".join(lines) + "\n"


CSV_COLUMNS = ("case", "slice", "structure", "quantity", "mask", "value", "unit", "note")


def as_csv(found: Iterable[Measurement]) -> str:
    """Return one line a figure; cases and slices count from 1, without names of files.

    ``slice`` is empty for a whole case; ``mask`` "between" is before against after.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for item in found:
        place = "" if item.slice_index is None else item.slice_index + 1
        writer.writerow(
            [
                item.case + 1,
                place,
                item.structure,
                item.name,
                item.which,
                _plain(item.value),
                item.unit,
                item.note,
            ]
        )
    return stream.getvalue()


def save_csv(found: Iterable[Measurement], path: str | Path) -> Path:
    """Write `as_csv` to a file, which appears complete or not at all.

    Raises
    ------
    OSError
        The folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    # With its mark spreadsheet programs read mm² as it is meant.
    write_bytes(path, as_csv(found).encode("utf-8-sig"))
    return path


def _plain(value: float | None) -> str:
    return "" if value is None else format(value, ".6g")
