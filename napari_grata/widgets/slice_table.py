"""The table of slices: areas before and after, agreement, what to look at; a click goes there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QMenu,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_grata.adaptation.records import Flag
from napari_grata.widgets.context import Context
from napari_grata.widgets.frame_table import Column, FrameTable, frame_of
from napari_grata.widgets.qt_parts import Sentence, button, choice
from napari_grata.widgets.session import Session
from napari_grata.widgets.slice_figures import AreaUnit, SliceRow, percent, pixel_area
from napari_grata.widgets.state import counted
from napari_grata.widgets.theme import ThemeColours, swatch

_REFRESH_MS = 400  # order, unit and totals follow live updates a few times a second


@dataclass(frozen=True)
class SliceItem:
    """What the table says of one slice, for one structure.

    Attributes
    ----------
    row : SliceRow
    structure : str
    name : str
        As the scan calls the slice.
    flags : tuple of Flag
    mark : str
        What was decided, a sign; "" for nothing.
    """

    row: SliceRow
    structure: str
    name: str
    flags: tuple[Flag, ...] = ()
    mark: str = ""


def _dice(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _flag_names(flags: Sequence[Flag]) -> str:
    """Return flags in a few words, for a narrow column."""
    return ", ".join(flag.code.replace("-", " ") if flag.code else flag.text for flag in flags)


def _flag_tip(cells: dict[str, Any]) -> str:
    return "\n".join([cells["name"][1], *(flag.text for flag in cells["flags"])])


def _change_tip(cells: dict[str, Any]) -> str:
    before, after = cells["before"], cells["after"]
    return percent(before, after) if before == before and after == after else ""


COLUMNS: tuple[Column, ...] = (
    Column(
        "name",
        "slice",
        "The slice, as the scan counts it. Click a row, or press Enter on it, to go there.",
        value=lambda item: (item.row.index, item.name),
        form=lambda value: str(value[1]),
        key=lambda value: value[0],
        numeric=False,
        cell_tip=_flag_tip,
    ),
    Column(
        "mark",
        "decided",
        "What was decided: ✓ accepted, ↩ mask before kept, ✎ being edited, ✕ rejected, 2 for a "
        "second reader; ! the mask has changed since.",
        value=lambda item: item.mark,
        numeric=False,
    ),
    Column(
        "before",
        "before",
        "Area in the mask before: the source model's.",
        value=lambda item: item.row.before.get(item.structure),
        descending=True,
    ),
    Column(
        "after",
        "after",
        "Area in the mask after adaptation, with what you drew on it.",
        value=lambda item: item.row.after.get(item.structure),
        descending=True,
    ),
    Column(
        "change",
        "change",
        "After minus before. Sorts by size, whichever the sign.",
        value=lambda item: item.row.change(item.structure),
        key=abs,
        descending=True,
        cell_tip=_change_tip,
    ),
    Column(
        "dice",
        "agree",
        "How well the two masks agree on this slice: 1 is the same, 0 has nothing in common.\n"
        "Dice coefficient between the mask before and the mask after; not a measure of truth.",
        value=lambda item: item.row.agreement.get(item.structure),
        form=_dice,
    ),
    Column(
        "flags",
        "look at",
        "What you should look at. It points, it does not judge.",
        value=lambda item: item.flags,
        form=_flag_names,
        key=len,
        numeric=False,
        descending=True,
        colour=lambda flags, colours: colours.attention if flags else None,
        cell_tip=_flag_tip,
    ),
)
"""What the table shows; a further column is one entry more."""

EXPORTED = (
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


def columns_for(unit: AreaUnit) -> list[Column]:
    """Return the columns with the areas written in a unit."""
    area = {
        name: partial(unit.write, signed=name == "change") for name in ("before", "after", "change")
    }
    return [
        replace(column, title=f"{column.title} {unit.name}", form=area[column.name])
        if column.name in area
        else column
        for column in COLUMNS
    ]


class SliceTable(QWidget):
    """What adaptation changed, slice by slice.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._stale = True
        self.structure = choice(
            "The structure whose areas and agreement are listed.", "Structure of the table"
        )
        self.structure.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.structure.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.totals = Sentence(1)
        self.totals.setObjectName("grata_small")
        self.table = FrameTable(COLUMNS, "slices", context.store)
        self.table.setAccessibleName("Slices before and after adaptation")
        self.columns_button = QToolButton()
        self.columns_button.setText("Columns")
        self.columns_button.setToolTip("Which columns are shown.")
        self.columns_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.columns_button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        menu = QMenu(self.columns_button)
        menu.aboutToShow.connect(self._fill_menu)
        self.columns_button.setMenu(menu)
        self.copy_button = button(
            "Copy",
            "Copy the selected rows, or all, for a spreadsheet (Ctrl+C).",
            small=True,
            clicked=self._copy,
        )
        self.export_button = button(
            "Export …",
            "Write all slices and structures to a CSV file.",
            small=True,
            clicked=self._export,
        )
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 0, 0)
        head.setSpacing(6)
        head.addWidget(self.structure)
        head.addWidget(self.totals, 1)
        for widget in (self.columns_button, self.copy_button, self.export_button):
            head.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(head)
        layout.addWidget(self.table, 1)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._look)
        self.structure.currentIndexChanged.connect(self.refresh)
        self.table.row_chosen.connect(context.go_to)
        context.session_changed.connect(self._on_session)
        context.figures.changed.connect(self._on_figures)
        context.decisions_changed.connect(self._on_figures)
        context.slice_changed.connect(self.table.mark_row)
        context.theme_changed.connect(self._show_theme)
        self._show_theme(context.theme)
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
        self.structure.setEnabled(len(structures) > 1)
        self._stale = True
        self._soon.start(0)

    def _on_figures(self, _slices: object = None) -> None:
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
        structure = self.structure.currentText()
        rows = [context.figures.rows[index] for index in sorted(context.figures.rows)]
        if session is None:
            rows = []
        area = pixel_area(session.scan) if session is not None else None
        unit = AreaUnit.of(rows, structure, area)
        items = [self._item(session, row, structure) for row in rows if session is not None]
        columns = columns_for(unit)
        frame = frame_of(items, columns, (row.index for row in rows))
        self.table.set_used("mark", any(item.mark for item in items))
        self.table.set_frame(frame, columns)
        self.table.mark_row(context.in_view())
        self.totals.say(self._totals(session, rows, structure))
        for widget in (self.copy_button, self.export_button):
            widget.setEnabled(bool(rows))

    def _item(self, session: Session, row: SliceRow, structure: str) -> SliceItem:
        return SliceItem(
            row,
            structure,
            session.scan.slice_name(row.index),
            session.flags.get(row.index, ()),
            self._context.decision_marks.get(row.index, ""),
        )

    @staticmethod
    def _totals(session: Session | None, rows: Sequence[SliceRow], structure: str) -> str:
        """Return one line over all rows: how many, how many flagged, the volume in mL."""
        if session is None or not rows:
            return "Slices are listed here once the model has adapted."
        scan, flagged = session.scan, len(session.flagged())
        parts = [counted(len(rows), scan.noun), f"{flagged} flagged" if flagged else "none flagged"]
        area, thickness = pixel_area(scan), scan.slice_thickness
        measured = [row for row in rows if row.change(structure) is not None]
        if scan.kind == "volume" and thickness and area and measured:
            low, high = (
                sum(found[structure] for found in areas) * area * thickness / 1000
                for areas in ([row.before for row in measured], [row.after for row in measured])
            )
            digits = 0 if max(low, high) >= 100 else 1 if max(low, high) >= 10 else 2
            relative = percent(low, high)
            parts.append(
                f"{low:.{digits}f} → {high:.{digits}f} mL" + (f" ({relative})" if relative else "")
            )
        return " · ".join(parts)

    def _show_theme(self, colours: ThemeColours) -> None:
        self.table.set_theme(colours)

    # --- copy and export ---------------------------------------------------------------------

    def _fill_menu(self) -> None:
        menu = self.columns_button.menu()
        assert menu is not None
        self.table.column_menu(menu)

    def _copy(self) -> None:
        if self._stale:
            self.refresh()
        self.table.copy()

    def _export(self) -> None:
        self.table.ask_export(lambda: (EXPORTED, self.exported()))

    def exported(self) -> Iterable[list[Any]]:
        """Yield a line for each slice and structure; slices count from 1, as displayed."""
        session, rows = self._context.session, self._context.figures.rows
        if session is None:
            return
        area = pixel_area(session.scan)
        for index in sorted(rows):
            row = rows[index]
            flags = "; ".join(flag.text for flag in session.flags.get(index, ()))
            for structure in session.card.structures:
                pixels = [
                    row.before.get(structure.name),
                    row.after.get(structure.name),
                    row.change(structure.name),
                ]
                mm2 = [
                    "" if p is None or area is None else float(f"{p * area:.6g}") for p in pixels
                ]
                yield [
                    index + 1,
                    session.scan.slice_name(index),
                    structure.name,
                    *pixels[:2],
                    *mm2[:2],
                    pixels[2],
                    mm2[2],
                    _exact(row.agreement.get(structure.name)),
                    flags,
                ]


def _exact(dice: float | None) -> str:
    return "" if dice is None or math.isnan(dice) else f"{dice:.4f}"
