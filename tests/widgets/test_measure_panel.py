"""The fold "Measurements" in a real dock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtGui import QGuiApplication

from napari_grata.review.measurement_table import AREA, DICE, TRUTH, VOLUME, Row
from napari_grata.widgets.fold import dock_settings


@pytest.fixture
def measured(make_dock: Any, finished: Any, qtbot: Any) -> Any:
    """Return a function that adapts to the small volume, opens the fold and waits for figures."""

    def make() -> Any:
        dock_settings().setValue("folds/measurements", True)
        dock = make_dock()
        dock.adapt.adapt_button.click()
        finished(dock)
        settled(dock, qtbot)
        return dock

    return make


def settled(dock: Any, qtbot: Any) -> None:
    """Wait until what is asked for is measured."""
    measure = dock.measure
    measure.refresh()
    qtbot.waitUntil(lambda: not measure._soon.isActive() and not measure.job.running, timeout=20000)


def row(dock: Any, structure: str, name: str) -> Row:
    (found,) = [r for r in dock.measure.panel.rows if (r.structure, r.name) == (structure, name)]
    return found


def texts(dock: Any) -> list[list[str]]:
    table = dock.measure.panel.table
    return [
        [table.item(r, c).text() if table.item(r, c) else "" for c in range(table.columnCount())]
        for r in range(table.rowCount())
    ]


def test_the_slice_in_view_is_measured_in_millimetres(measured: Any, qtbot: Any) -> None:
    dock = measured()
    dock.desk.go_to(3)
    settled(dock, qtbot)
    scan, session = dock.desk.scan, dock.desk.session
    pixels = int((scan.get_mask(session.after.stack, 3) > 0).sum())
    assert pixels
    area = row(dock, "disc", AREA)
    assert area.unit == "mm²"
    assert area.values["after"] == pytest.approx(pixels * 1.5)
    assert [r[0] for r in texts(dock)[:2]] == ["disc", "area  mm²"]
    assert scan.slice_name(3) in dock.measure.panel.note.said()
    dock.desk.go_to(4)
    settled(dock, qtbot)
    assert scan.slice_name(4) in dock.measure.panel.note.said()


def test_the_whole_case_is_measured_in_millilitres(measured: Any, qtbot: Any) -> None:
    dock = measured()
    dock.measure.panel.scope.setCurrentIndex(1)
    settled(dock, qtbot)
    pixels = int((dock.desk.session.before.stack > 0).sum())
    volume = row(dock, "disc", VOLUME)
    assert volume.unit == "mL"
    assert volume.values["before"] == pytest.approx(pixels * 1.5 * 4 / 1000)


def test_what_is_drawn_gets_a_column_of_its_own(measured: Any, qtbot: Any) -> None:
    dock = measured()
    layer = dock.desk.session.after.layer
    index = dock.desk.in_view()
    layer.selected_label, layer.brush_size = 1, 5
    layer.paint((index, 2, 2), 1)
    qtbot.waitUntil(
        lambda: any("edited" in r.values for r in dock.measure.panel.rows), timeout=20_000
    )
    area = row(dock, "disc", AREA)
    assert area.values["edited"] > area.values["after"]
    assert area.change == area.values["edited"] - area.values["before"]


def test_a_truth_layer_is_compared_with_and_nothing_else(measured: Any, qtbot: Any) -> None:
    dock = measured()
    session = dock.desk.session
    truth = dock.viewer.add_labels(session.after.stack.copy(), name="drawn by AB")
    settled(dock, qtbot)
    dock.measure.panel.menu.aboutToShow.emit()
    actions = dock.measure.panel.menu.actions()
    assert [a.text() for a in actions] == ["Layer “drawn by AB”", "A file …"]
    actions[0].trigger()
    settled(dock, qtbot)
    assert row(dock, "disc", DICE + TRUTH).values["after"] == 1.0
    assert row(dock, "disc", DICE + TRUTH).values["before"] < 1.0
    shown = next(r for r in texts(dock) if r[0] == "Dice ↔ truth")
    assert shown[2] == "1.000"
    assert all(shown[column] for column in (1, 2, 4))
    assert session.run is None or not hasattr(session.run, "truth")
    dock.measure.panel.menu.aboutToShow.emit()
    dock.measure.panel.menu.actions()[-1].trigger()
    settled(dock, qtbot)
    assert not any(r.name.endswith(TRUTH) for r in dock.measure.panel.rows)
    assert truth in dock.viewer.layers


def test_a_truth_file_on_another_grid_is_a_sentence(
    measured: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = measured()
    good, bad = tmp_path / "good.nii.gz", tmp_path / "bad.nii.gz"
    affine = np.diag([-1.0, 1.5, 4.0, 1.0])
    data = np.zeros((40, 48, 6), dtype=np.uint8)
    data[12:28, 14:34] = 1
    nib.save(nib.Nifti1Image(data, affine), good)
    nib.save(nib.Nifti1Image(data[:20], affine), bad)
    shown: list[str] = []
    from napari.utils.notifications import notification_manager

    notification_manager.notification_ready.connect(lambda n: shown.append(n.message))
    dock.measure.take_file(bad)
    qtbot.waitUntil(lambda: not dock.measure.file_job.running, timeout=20_000)
    assert any("another grid" in text for text in shown)
    dock.measure.take_file(good)
    qtbot.waitUntil(lambda: not dock.measure.file_job.running, timeout=20_000)
    settled(dock, qtbot)
    assert "after" in row(dock, "disc", DICE + TRUTH).values
    # The truth shows no cup, so nothing is said about the cup against it.
    assert not any(r.name.endswith(TRUTH) for r in dock.measure.panel.rows if r.structure == "cup")
    assert "no cup" in dock.measure.panel.note.said()


def test_the_table_is_copied_with_tabs_and_saved_whole(
    measured: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = measured()
    dock.measure.panel.copy_button.click()
    copied = QGuiApplication.clipboard().text().splitlines()
    assert copied[0].split("\t") == ["structure", "quantity", "unit", "before", "after", "change"]
    assert len(copied) == 1 + len(dock.measure.panel.rows)
    dock.measure.save(tmp_path / "m.csv")
    qtbot.waitUntil(lambda: not dock.measure.file_job.running, timeout=20_000)
    lines = (tmp_path / "m.csv").read_text(encoding="utf-8-sig").splitlines()
    assert {line.split(",")[1] for line in lines[1:]} == {"1", "2", "3", "4", "5", "6", ""}
    assert dock.measure.panel.save_button.isEnabled()


def test_a_csv_that_cannot_be_written_is_a_sentence(
    measured: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = measured()
    (tmp_path / "file").write_text("x")
    shown: list[str] = []
    from napari.utils.notifications import notification_manager

    notification_manager.notification_ready.connect(lambda n: shown.append(n.message))
    dock.measure.save(tmp_path / "file" / "m.csv")
    qtbot.waitUntil(lambda: not dock.measure.file_job.running, timeout=20_000)
    assert shown
    assert dock.measure.panel.save_button.text() == "Save CSV …"


def test_without_masks_the_fold_says_what_to_do(make_dock: Any, qtbot: Any) -> None:
    dock_settings().setValue("folds/measurements", True)
    dock = make_dock()
    settled(dock, qtbot)
    assert "segment the scan first" in dock.measure.panel.note.said()
    assert not dock.measure.panel.copy_button.isEnabled()


def test_a_closed_fold_measures_nothing(make_dock: Any, finished: Any, qtbot: Any) -> None:
    dock_settings().setValue("folds/measurements", False)
    dock = make_dock()
    dock.model.segment_button.click()
    finished(dock)
    settled(dock, qtbot)
    assert dock.measure.panel.rows == []
    dock.measure.fold.set_expanded(True)
    settled(dock, qtbot)
    assert {r.structure for r in dock.measure.panel.rows} == {"disc", "cup"}
    assert "after" not in row(dock, "disc", AREA).values


def test_the_panel_fits_the_narrow_dock(measured: Any) -> None:
    dock = measured()
    assert dock.measure.fold.minimumSizeHint().width() <= 330


def test_a_case_is_not_measured_again_for_every_slice_but_after_a_stroke_and_its_undo(
    measured: Any, qtbot: Any
) -> None:
    dock = measured()
    dock.measure.panel.scope.setCurrentIndex(1)
    settled(dock, qtbot)
    found = dock.measure._found
    assert found
    for index in (1, 4, 2):
        dock.desk.go_to(index)
        settled(dock, qtbot)
    assert dock.measure._found is found
    layer = dock.desk.session.after.layer
    layer.selected_label, layer.brush_size = 1, 5
    layer.paint((2, 2, 2), 1)
    settled(dock, qtbot)
    assert "edited" in row(dock, "disc", VOLUME).values
    layer.undo()
    settled(dock, qtbot)
    assert "edited" not in row(dock, "disc", VOLUME).values


def test_with_a_drawing_and_a_truth_there_is_still_room_for_names(
    measured: Any, qtbot: Any
) -> None:
    dock = measured()
    session = dock.desk.session
    truth = dock.viewer.add_labels(session.after.stack.copy(), name="drawn by AB")
    layer = session.after.layer
    layer.selected_label, layer.brush_size = 1, 5
    layer.paint((dock.desk.in_view(), 2, 2), 1)
    dock.measure.take_layer(truth)
    settled(dock, qtbot)
    table = dock.measure.panel.table
    heads = [table.horizontalHeaderItem(c).text() for c in range(table.columnCount())]
    assert heads == ["", "before", "after", "edited", "change"]
    assert "The truth:" in table.item(1, 0).toolTip()
