"""The table of slices: what it shows, how it sorts, where a click goes, what it writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog

from napari_grata.adaptation.records import Flag
from napari_grata.widgets.slice_figures import AreaUnit, SliceRow, percent
from napari_grata.widgets.slice_table import COLUMNS, SliceTable
from napari_grata.widgets.state import facts_of
from napari_grata.widgets.theme import theme_colours

OUTSIDE = Flag("cup-outside-disc", "12 % of the cup lay outside the disc.")
LOST = Flag("cup-lost", "The cup shrank to 40 %.")


def areas(before: int, after: int, **changes: Any) -> dict[str, Any]:
    return {
        "source_area": {"disc": before, "cup": before // 2},
        "adapted_area": {"disc": after, "cup": after // 2},
        **changes,
    }


@pytest.fixture
def table(stage: Any, qtbot: Any) -> SliceTable:
    widget = SliceTable(stage.context)
    widget.resize(640, 240)
    qtbot.addWidget(widget)
    with qtbot.waitExposed(widget):
        widget.show()
    return widget


def fill(table: SliceTable, stage: Any, *records: Any) -> None:
    stage.take(*records)
    table.refresh()


def column(table: SliceTable, name: str) -> list[str]:
    model = table.table.frame_model
    number = [entry.name for entry in COLUMNS].index(name)
    return [model.text(row, number) for row in range(model.rowCount())]


def slices(table: SliceTable) -> list[Any]:
    model = table.table.frame_model
    return [model.key_at(row) for row in range(model.rowCount())]


def head(table: SliceTable, name: str) -> str:
    number = [entry.name for entry in COLUMNS].index(name)
    return str(table.table.frame_model.headerData(number, Qt.Orientation.Horizontal))


def click_head(table: SliceTable, qtbot: Any, name: str) -> None:
    header = table.table.horizontalHeader()
    number = [entry.name for entry in COLUMNS].index(name)
    at = header.rect().center()
    at.setX(header.sectionViewportPosition(number) + header.sectionSize(number) // 2)
    qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=at)


def click_row(
    table: SliceTable,
    qtbot: Any,
    row: int,
    held: Any = Qt.KeyboardModifier.NoModifier,
) -> None:
    view = table.table
    area = view.visualRect(view.frame_model.index(row, 2))
    qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, held, area.center())


def test_a_slice_is_shown_with_areas_change_agreement_and_flags(table: Any, stage: Any) -> None:
    fill(table, stage, stage.record(1, 33, flags=(OUTSIDE, LOST), **areas(1210, 1181)))
    shown = [column(table, name)[0] for name in ("slice", "before", "after", "change", "agree")]
    assert shown == [stage.context.scan.slice_name(33), "12.1", "11.8", "−0.3", "0.90"]
    assert column(table, "flags") == ["cup outside disc, cup lost"]
    assert head(table, "after") == "after mm²"
    model = table.table.frame_model
    tip = model.data(model.index(0, len(COLUMNS) - 1), Qt.ItemDataRole.ToolTipRole)
    assert OUTSIDE.text in tip
    assert LOST.text in tip


def test_the_structure_chooser_changes_the_figures_and_shows_the_colour(
    table: Any, stage: Any
) -> None:
    fill(table, stage, stage.record(1, 0))
    assert column(table, "after") == ["0.9"]
    table.structure.setCurrentIndex(1)
    assert column(table, "agree") == ["0.80"]
    middle = table.structure.itemIcon(1).pixmap(12, 12).toImage()
    assert middle.pixelColor(middle.width() // 2, middle.height() // 2).name() == "#e69f00"


@pytest.mark.parametrize(
    ("largest", "area", "unit", "text"),
    [
        (900, None, "px", "900"),
        (9999, None, "px", "9\u202f999"),
        (23_702, None, "10³ px", "23.7"),
        (1210, 0.01, "mm²", "12.1"),
        (1210, 0.5, "mm²", "605"),
        (6120, 1.0, "cm²", "61.2"),
    ],
)
def test_areas_carry_the_unit_and_digits_that_suit_their_size(
    largest: int, area: float | None, unit: str, text: str
) -> None:
    chosen = AreaUnit.of([SliceRow(0, {"disc": largest}, {"disc": largest})], "disc", area)
    assert chosen.name == unit
    assert chosen.write(largest) == text


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    unit = AreaUnit("mm²", 0.01, 1)
    assert [unit.write(n, signed=True) for n in (-3, -30, 30)] == ["0.0", "−0.3", "+0.3"]


def test_a_click_on_a_head_sorts_by_what_matters_there(table: Any, stage: Any, qtbot: Any) -> None:
    fill(
        table,
        stage,
        stage.record(1, 0, **areas(100, 101, agreement={"disc": 0.99})),
        stage.record(2, 1, **areas(100, 60, agreement={"disc": 0.70}, flags=(LOST,))),
        stage.record(3, 2, **areas(100, 130, agreement={"disc": 0.80})),
        stage.record(4, 3, **areas(100, 100, agreement={"disc": float("nan")})),
    )
    assert slices(table) == [0, 1, 2, 3]
    click_head(table, qtbot, "change")
    assert slices(table) == [1, 2, 0, 3], "the largest change first, whichever its sign"
    click_head(table, qtbot, "agree")
    assert slices(table) == [1, 2, 0, 3], "the least agreement first, unknown last"
    click_head(table, qtbot, "agree")
    assert slices(table) == [0, 2, 1, 3], "unknown last in the other order too"
    click_head(table, qtbot, "flags")
    assert slices(table)[0] == 1
    assert "▾" in head(table, "flags")
    click_head(table, qtbot, "slice")
    assert slices(table) == [0, 1, 2, 3]


def test_a_click_and_enter_go_to_the_slice_that_is_shown_there(
    table: Any, stage: Any, qtbot: Any
) -> None:
    changes = {5: 99, 9: 50, 7: 80}
    fill(table, stage, *(stage.record(n, n, **areas(100, a)) for n, a in changes.items()))
    click_head(table, qtbot, "change")
    click_row(table, qtbot, 1)
    assert stage.context.in_view() == 7
    qtbot.keyClick(table.table, Qt.Key.Key_Down)
    qtbot.keyClick(table.table, Qt.Key.Key_Return)
    assert stage.context.in_view() == 5


def test_what_comes_in_replaces_and_appends_and_keeps_the_selection(
    table: Any, stage: Any, qtbot: Any
) -> None:
    fill(table, stage, stage.record(1, 4), stage.record(2, 6))
    click_row(table, qtbot, 1)
    stage.take(stage.record(3, 5), stage.record(4, 4, **areas(100, 20)))
    qtbot.waitUntil(lambda: slices(table) == [4, 5, 6])
    assert column(table, "after") == ["0.2", "0.9", "0.9"]
    assert [table.table.frame_model.key_at(row) for row in table.table.selected_rows()] == [6]
    assert table.totals.said().startswith("3 slices")


def test_a_jump_marks_its_row_and_leaves_the_selection_and_what_is_copied(
    table: Any, stage: Any, qtbot: Any
) -> None:
    fill(table, stage, *(stage.record(n + 1, n) for n in range(20)))
    click_row(table, qtbot, 1)
    click_row(table, qtbot, 3, Qt.KeyboardModifier.ShiftModifier)
    stage.context.go_to(12)
    assert table.table.selected_rows() == [1, 2, 3]
    assert table.table.frame_model.marked == 12
    assert len(table.table.as_text().splitlines()) == 4


def test_decisions_stand_beside_the_slice_and_take_room_only_where_there_are_any(
    table: Any, stage: Any, qtbot: Any
) -> None:
    fill(table, stage, stage.record(1, 0), stage.record(2, 1))
    assert table.table.isColumnHidden(1)
    stage.context.decision_marks = {1: "✓!"}
    stage.context.decisions_changed.emit()
    qtbot.waitUntil(lambda: column(table, "mark") == ["", "✓!"])
    assert not table.table.isColumnHidden(1)


def test_volumes_are_added_up_in_millilitres(table: Any, stage: Any) -> None:
    stage.open((10, 12, 16), (1.5, 1.0, 1.0))
    fill(table, stage, *(stage.record(n + 1, n, **areas(4000, 3900)) for n in range(10)))
    assert table.totals.said() == "10 slices · none flagged · 60.0 → 58.5 mL (−2.5\u00a0%)"


def test_every_count_of_flags_is_that_of_the_session(table: Any, stage: Any) -> None:
    fill(table, stage, stage.record(1, 0, flags=(LOST,)), stage.record(2, 1))
    assert "1 flagged" in table.totals.said()
    assert facts_of(stage.context).flagged == 1
    fill(table, stage, stage.record(3, 0))
    assert "none flagged" in table.totals.said()
    assert facts_of(stage.context).flagged == 0


def test_nothing_before_has_no_percentage() -> None:
    assert percent(0, 5) == ""
    assert percent(200, 190) == "−5.0\u00a0%"


def test_copying_gives_numbers_that_a_spreadsheet_reads(table: Any, stage: Any, qtbot: Any) -> None:
    stage.open((4, 12, 16))
    fill(
        table,
        stage,
        stage.record(1, 0, **areas(5000, 4000)),
        stage.record(2, 1, **areas(5000, 5200, flags=(OUTSIDE,))),
    )
    qtbot.keyClick(table.table, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    lines = QGuiApplication.clipboard().text().splitlines()
    name = stage.context.scan.slice_name(0)
    assert lines[0].split("\t")[1] == "before px"
    assert lines[1].split("\t") == [name, "5000", "4000", "-1000", "0.90", ""]
    assert lines[2].split("\t")[3:] == ["+200", "0.90", "cup outside disc"]
    click_row(table, qtbot, 1)
    assert len(table.table.as_text().splitlines()) == 3, "one selected row still copies all"


def test_the_exported_file_has_every_slice_and_structure_with_units(
    table: Any, stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.open((53, 12, 16), (1.5, 0.5, 0.5))
    fill(
        table,
        stage,
        stage.record(1, 7, **areas(40, 36, flags=(OUTSIDE, LOST))),
        stage.record(2, 2, **areas(10, 12)),
    )
    path = tmp_path / "out.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    table.export_button.click()
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = list(csv.DictReader(stream))
    found = [(line["slice"], line["structure"]) for line in lines]
    assert found == [("3", "disc"), ("3", "cup"), ("8", "disc"), ("8", "cup")]
    line = lines[2]
    assert line["name"] == stage.context.scan.slice_name(7)
    assert (line["area_before_px"], line["area_after_mm2"]) == ("40", "9.0")
    assert (line["change_px"], line["change_mm2"]) == ("-4", "-1.0")
    assert line["dice_before_after"] == "0.9"
    assert line["flags"] == f"{OUTSIDE.text}; {LOST.text}"
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_hidden_column_stays_hidden_and_is_not_copied(table: Any, stage: Any, qtbot: Any) -> None:
    fill(table, stage, stage.record(1, 0))
    menu = table.columns_button.menu()
    menu.aboutToShow.emit()
    (action,) = (action for action in menu.actions() if action.text().startswith("change"))
    action.trigger()
    assert "change" not in table.table.as_text()
    again = SliceTable(stage.context)
    qtbot.addWidget(again)
    assert again.table.isColumnHidden(4)


def test_ten_thousand_slices_sort_and_are_found(table: Any, stage: Any) -> None:
    rng = np.random.default_rng(0)
    after = rng.integers(0, 2000, 10_000)
    stage.open((10_000, 2, 2))
    figures = stage.context.figures
    figures.rows = {
        i: SliceRow(i, {"disc": 1000}, {"disc": int(n)}, {"disc": 0.5}) for i, n in enumerate(after)
    }
    table.refresh()
    table.table.sortByColumn(4, Qt.SortOrder.DescendingOrder)
    change = np.abs(after[slices(table)] - 1000)
    assert (np.diff(change) <= 0).all()
    table.table.mark_row(4321)
    place = table.table.frame_model.place_of(4321)
    assert table.table.frame_model.key_at(place) == 4321


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_flags_are_coloured_by_the_theme(table: Any, stage: Any, theme: str) -> None:
    fill(table, stage, stage.record(1, 0, flags=(LOST,)))
    stage.viewer.theme = theme
    model = table.table.frame_model
    shown = model.data(model.index(0, len(COLUMNS) - 1), Qt.ItemDataRole.ForegroundRole)
    assert shown.name() == theme_colours(theme).attention.lower()


def test_no_number_is_clipped_and_all_columns_fit(table: Any, stage: Any) -> None:
    stage.open((40, 12, 16))
    fill(table, stage, *(stage.record(n + 1, n, **areas(9_990, 1)) for n in range(40)))
    view, metrics = table.table, table.table.fontMetrics()
    for number, entry in enumerate(COLUMNS[:-1]):
        texts = [head(table, entry.name), *column(table, entry.name)]
        room = view.columnWidth(number) - 8
        if not view.isColumnHidden(number):
            assert room >= max(metrics.horizontalAdvance(text) for text in texts), entry.name
    widths = [view.columnWidth(number) for number in range(len(COLUMNS))]
    assert sum(widths) <= view.viewport().width() + 1
    assert widths[-1] >= 100
