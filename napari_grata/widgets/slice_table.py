"""The table of slices: areas before and after, agreement, what to look at; a click goes there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qtpy.QtWidgets import QComboBox, QMenu, QWidget

from napari_grata.adaptation.records import Flag
from napari_grata.scans.scan import counted
from napari_grata.widgets.context import Context
from napari_grata.widgets.frame_table import Column, FrameTable, frame_of
from napari_grata.widgets.qt_parts import Sentence, button, choice, column_in, later, line_in
from napari_grata.widgets.session import Session
from napari_grata.widgets.slice_figures import AreaUnit, SliceRow, percent, pixel_area
from napari_grata.widgets.theme import swatch

_AREAS = ("before", "after", "change")
_REFRESH_MS = 400  # order, unit and totals follow live updates a few times a second


@dataclass(frozen=True)
class SliceItem:
    """What the table says of one slice, for one structure.

    Attributes
    ----------
    name : str
        As the scan calls the slice.
    mark : str
        What was decided, a sign; "" for nothing.
    """

    row: SliceRow
    structure: str
    name: str
    flags: tuple[Flag, ...]
    mark: str


def _dice(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _flag_names(flags: Sequence[Flag]) -> str:
    """Return flags in a few words, for a narrow column."""
    return ", ".join(flag.code.replace("-", " ") if flag.code else flag.text for flag in flags)


def _flag_tip(cells: dict[str, Any]) -> str:
    return "\n".join([cells["slice"][1], *(flag.text for flag in cells["flags"])])


COLUMNS: tuple[Column, ...] = (
    Column(
        "slice",
        "slice",
        "The slice, as the scan counts it. Click a row, or press Enter on it, to go there.",
        lambda item: (item.row.index, item.name),
        lambda value: str(value[1]),
        key=lambda value: value[0],
        numeric=False,
        cell_tip=_flag_tip,
    ),
    Column(
        "mark",
        "decided",
        "What was decided: ✓ accepted, ↩ mask before kept, ✎ being edited, ✕ rejected, 2 for a "
        "second reader; ! the mask has changed since.",
        lambda item: item.mark,
        numeric=False,
    ),
    Column(
        "before",
        "before",
        "Area in the mask before: the source model's.",
        lambda item: item.row.before.get(item.structure),
        descending=True,
    ),
    Column(
        "after",
        "after",
        "Area in the mask after adaptation, with what you drew on it.",
        lambda item: item.row.after.get(item.structure),
        descending=True,
    ),
    Column(
        "change",
        "change",
        "After minus before. Sorts by size, whichever the sign.",
        lambda item: item.row.change(item.structure),
        key=abs,
        descending=True,
        cell_tip=lambda cells: percent(cells["before"], cells["after"]),
    ),
    Column(
        "agree",
        "agree",
        "How well the two masks agree on this slice: 1 is the same, 0 has nothing in common.\n"
        "Dice coefficient between the mask before and the mask after; not a measure of truth.",
        lambda item: item.row.agreement.get(item.structure),
        _dice,
    ),
    Column(
        "flags",
        "look at",
        "What you should look at. It points, it does not judge.",
        lambda item: item.flags,
        _flag_names,
        key=len,
        numeric=False,
        descending=True,
        colour=lambda flags, colours: colours.attention if flags else None,
        cell_tip=_flag_tip,
    ),
)
"""What the table shows; a further column is one entry more."""

EXPORTED = [
    "slice",
    "name",
    "structure",
    "area_before_px",
    "area_after_px",
    "change_px",
    "area_before_mm2",
    "area_after_mm2",
    "change_mm2",
    "dice_before_after",
    "flags",
]


def columns_in(unit: AreaUnit) -> list[Column]:
    """Return the columns with areas written in a unit."""
    forms = {name: partial(unit.write, signed=name == "change") for name in _AREAS}
    return [
        replace(column, title=f"{column.title} {unit.name}", form=forms[column.name])
        if column.name in forms
        else column
        for column in COLUMNS
    ]


class SliceTable(QWidget):
    """What adaptation changed, slice by slice."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._stale = True
        words = "The structure whose areas and agreement are listed."
        self.structure = choice(words, "Structure of the table", small=True)
        self.structure.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.totals = Sentence(1, "grata_small")
        self.table = FrameTable(COLUMNS, "slices", context)
        self.table.setAccessibleName("Slices before and after adaptation")
        self.columns_button = button("Columns", "Which columns are shown.", small=True)
        self._menu = QMenu(self.columns_button)
        self._menu.aboutToShow.connect(self._fill_menu)
        self.columns_button.setMenu(self._menu)
        words = "Copy the selected rows, or all, for a spreadsheet (Ctrl+C)."
        self.copy_button = button("Copy", words, small=True, clicked=self._copy)
        words = "Write all slices and structures to a CSV file."
        self.export_button = button("Export …", words, small=True, clicked=self._export)
        layout = column_in(self, spacing=3)
        buttons = self.columns_button, self.copy_button, self.export_button
        line_in(layout, self.structure, (self.totals, 1), *buttons, spacing=6)
        layout.addWidget(self.table, 1)
        self._soon = later(self, _REFRESH_MS, self._look)
        self.structure.currentIndexChanged.connect(self.refresh)
        self.table.row_chosen.connect(context.go_to)
        context.session_changed.connect(self._on_session)
        context.figures.changed.connect(self._refresh_soon)
        context.decisions_changed.connect(self._refresh_soon)
        context.slice_changed.connect(self.table.mark_row)
        self._on_session()

    # --- what is shown -----------------------------------------------------------------------

    def _on_session(self) -> None:
        """Offer the structures of the session in view."""
        session, kept = self._context.session, self.structure.currentText()
        structures = session.card.structures if session is not None else ()
        self.structure.blockSignals(True)
        self.structure.clear()
        for structure in structures:
            self.structure.addItem(swatch(structure.colour), structure.name)
        if structures:
            self.structure.setCurrentIndex(max(0, self.structure.findText(kept)))
        self.structure.blockSignals(False)
        self.structure.setVisible(len(structures) > 1)
        self._stale = True
        self._soon.start(0)

    def _refresh_soon(self, _slices: object = None) -> None:
        self._stale = True
        if not self._soon.isActive():
            # Order and totals cost a little per row; ten thousand rows need them less often.
            self._soon.start(_REFRESH_MS + len(self._context.figures.rows) // 25)

    def _look(self) -> None:
        if self._stale and self.isVisible():
            self.refresh()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Bring what nobody saw up to date."""
        super().showEvent(event)
        self._look()

    def refresh(self) -> None:
        """Show the figures as they are now."""
        self._soon.stop()
        self._stale = False
        context, session = self._context, self._context.session
        structure, figures = self.structure.currentText(), context.figures.rows
        rows = [figures[index] for index in sorted(figures)] if session is not None else []
        items = [self._item(session, row, structure) for row in rows if session is not None]
        area = pixel_area(session.scan) if session is not None else None
        columns = columns_in(AreaUnit.of(rows, structure, area))
        self.table.set_used("mark", any(item.mark for item in items))
        self.table.set_frame(frame_of(items, columns, (row.index for row in rows)), columns)
        self.table.mark_row(context.in_view())
        self.totals.say(self._totals(session, rows, structure))
        self.copy_button.setEnabled(bool(rows))
        self.export_button.setEnabled(bool(rows))

    def _item(self, session: Session, row: SliceRow, structure: str) -> SliceItem:
        flags = session.flags.get(row.index, ())
        mark = self._context.decision_marks.get(row.index, "")
        return SliceItem(row, structure, session.scan.slice_name(row.index), flags, mark)

    @staticmethod
    def _totals(session: Session | None, rows: Sequence[SliceRow], structure: str) -> str:
        """Return one line over all rows: how many, how many flagged, the volume in mL."""
        if session is None or not rows:
            return "Slices are listed here once the model has adapted."
        scan, flagged = session.scan, len(session.flagged())
        parts = [counted(len(rows), scan.noun), f"{flagged} flagged" if flagged else "none flagged"]
        area, thickness = pixel_area(scan), scan.slice_thickness
        measured = [row for row in rows if row.change(structure) is not None]
        if scan.is_stack and scan.n_cases == 1 and thickness and area and measured:
            voxel = area * thickness / 1000
            low = voxel * sum(row.before[structure] for row in measured)
            high = voxel * sum(row.after[structure] for row in measured)
            digits = 0 if max(low, high) >= 100 else 1 if max(low, high) >= 10 else 2
            relative = f" ({percent(low, high)})" if low else ""
            parts.append(f"{low:.{digits}f} → {high:.{digits}f} mL{relative}")
        return " · ".join(parts)

    # --- copy and export ---------------------------------------------------------------------

    def _fill_menu(self) -> None:
        self.table.fill_menu(self._menu)

    def _copy(self) -> None:
        self.refresh()
        self.table.copy()

    def _export(self) -> None:
        self.table.export(EXPORTED, self.exported())

    def exported(self) -> Iterator[list[Any]]:
        """Yield a line for each slice and structure; slices count from 1, as displayed."""
        session, rows = self._context.session, self._context.figures.rows
        if session is None:
            return
        scan, area = session.scan, pixel_area(session.scan)
        for index in sorted(rows):
            row = rows[index]
            flags = "; ".join(flag.text for flag in session.flags.get(index, ()))
            for name in (structure.name for structure in session.card.structures):
                pixels = row.before.get(name), row.after.get(name), row.change(name)
                mm2 = [
                    None if n is None or area is None else float(f"{n * area:.6g}") for n in pixels
                ]
                dice = row.agreement.get(name, math.nan)
                exact = None if math.isnan(dice) else round(dice, 4)
                yield [index + 1, scan.slice_name(index), name, *pixels, *mm2, exact, flags]
