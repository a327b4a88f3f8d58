"""Corrections in the dock: painted with napari's brush, learnt from, undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt

from napari_grata.adaptation.settings import teaching_settings
from napari_grata.widgets.correct.feature import BUSY, NO_MASK, NOTHING
from napari_grata.widgets.correct.section import CASE, REST
from napari_grata.widgets.keys import KEYS, taken_keys


@pytest.fixture
def adapted(make_dock: Any, finished: Any) -> Any:
    """Return a function that makes a dock with masks before and after, and quick corrections."""

    def make(**changes: Any) -> Any:
        dock = make_dock(predict="average", blend=0.0, **changes)
        dock.adapt.adapt_button.click()
        finished(dock)
        assert dock.desk.session.adapted, dock.desk.problem
        dock.correct.section.steps.setValue(2)
        dock.correct.refresh()
        return dock

    return make


def stroke(dock: Any, index: int, value: int, rows: slice, columns: slice) -> None:
    """Paint as napari's brush does, on one slice."""
    layer = dock.desk.session.after.layer
    dock.desk.go_to(index)
    row, column = np.mgrid[rows, columns]
    place = (np.full(row.size, index), row.ravel(), column.ravel())
    layer.data_setitem(place, value)


def shown(dock: Any) -> np.ndarray:
    return dock.desk.session.after.as_shown()


def test_keys_are_free_in_napari() -> None:
    mine = {key.key for key in KEYS if "correct" in key.action}
    assert mine == {"Shift+E", "Shift+R"}
    assert not mine & taken_keys()


def test_there_is_nothing_to_correct_before_there_is_a_mask_after(make_dock: Any) -> None:
    dock = make_dock()
    section = dock.correct.section
    assert not section.paint_button.isEnabled()
    assert not section.adapt_button.isEnabled()
    assert section.adapt_button.toolTip() == NO_MASK
    dock.verbs["paint_corrections"]()
    dock.verbs["adapt_to_corrections"]()
    assert dock.desk.runner.kind is None


def test_the_key_takes_naparis_brush_to_the_mask_after_with_the_structure(
    adapted: Any, qtbot: Any
) -> None:
    dock = adapted()
    session = dock.desk.session
    session.show_after(False)
    dock.correct.section.structure.setCurrentText("Cup")
    canvas = dock.viewer.window._qt_window
    qtbot.keyClick(canvas, Qt.Key.Key_E, Qt.KeyboardModifier.ShiftModifier)
    if session.after.layer.mode != "paint":  # no window manager gave the canvas the keyboard
        dock.verbs["paint_corrections"]()
    layer = session.after.layer
    assert dock.viewer.layers.selection.active is layer
    assert (layer.mode, layer.selected_label, session.after.visible) == ("paint", 2, True)
    dock.correct.section.structure.setCurrentText("Background (erase)")
    assert layer.selected_label == 0


def test_what_is_painted_is_counted_and_undo_takes_it_off(adapted: Any, qtbot: Any) -> None:
    dock = adapted()
    section = dock.correct.section
    assert section.count.said() == "Nothing corrected yet."
    assert section.adapt_button.toolTip() == NOTHING
    dock.correct.paint()
    layer = dock.desk.session.after.layer
    before = shown(dock)[2].copy()
    wrong = np.argwhere(before[:4, :10] != 2)
    stroke(dock, 2, 2, slice(0, 4), slice(0, 10))
    words = f"{len(wrong)} pixels corrected, on 1 slice."
    qtbot.waitUntil(lambda: section.count.said() == words, timeout=5000)
    assert section.adapt_button.isEnabled()
    layer.undo()
    qtbot.waitUntil(lambda: section.count.said() == "Nothing corrected yet.", timeout=5000)
    assert not section.adapt_button.isEnabled()


def test_a_slice_can_be_called_right_without_a_stroke(adapted: Any) -> None:
    dock = adapted()
    dock.desk.go_to(3)
    dock.correct.refresh()
    dock.correct.section.right.click()
    assert dock.correct.section.count.said() == "0 pixels corrected, on 1 slice."
    corrections = dock.correct.drawn.corrections(dock.desk.session)
    assert corrections.slices == (3,)
    assert corrections.pixels == shown(dock)[3].size
    dock.desk.go_to(1)
    dock.correct.refresh()
    assert not dock.correct.section.right.isChecked()


def test_the_model_learns_and_what_was_painted_stays(adapted: Any, finished: Any) -> None:
    dock = adapted()
    session = dock.desk.session
    first = session.run
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    stroke(dock, 4, 0, slice(10, 20), slice(10, 20))
    dock.verbs["adapt_to_corrections"]()
    assert dock.desk.runner.kind == "adapt"
    assert not dock.correct.section.paint_button.isEnabled()
    assert dock.correct.section.paint_button.toolTip() == BUSY
    finished(dock)
    assert dock.desk.problem is None
    assert session.run is not first
    assert session.run.corrections.slices == (1, 4)
    assert (shown(dock)[1][:6, :12] == 2).all()
    assert (shown(dock)[4][10:20, 10:20] == 0).all()
    assert len(dock.viewer.layers) == 3
    assert not session.after.edited()
    assert "Learned from" in session.note
    assert session.run.last_step == 2 * 2
    assert session.run.settings.scribble == teaching_settings(first.settings).scribble
    for index, mask in session.run.adapted_masks.items():
        assert (session.scan.get_mask(shown(dock), index) == mask).all()


def test_undo_brings_masks_strokes_ticks_and_run_back(adapted: Any, finished: Any) -> None:
    dock = adapted()
    session = dock.desk.session
    first, stream, note = session.run, list(session.stream), session.note
    adapted_stack = session.after.stack.copy()
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    dock.desk.go_to(2)
    dock.correct.refresh()
    dock.correct.section.right.click()
    painted = shown(dock)
    dock.correct.section.set_settings(
        teaching_settings(first.settings).but(correction_steps=5, learning_rate=0.05)
    )
    dock.correct.adapt()
    finished(dock)
    assert dock.correct.section.undo_button.isEnabled()
    dock.correct.section.undo_button.click()
    assert session.run is first
    assert np.array_equal(shown(dock), painted)
    assert np.array_equal(session.after.stack, adapted_stack)
    assert session.stream == stream
    assert session.note == note
    assert dock.correct.drawn.right(session) == {2}
    assert session.run.predict(0).label_map.shape == session.scan.slice_shape(0)
    assert not dock.correct.section.undo_button.isEnabled()


def test_a_second_round_goes_on_from_the_first_and_both_can_be_undone(
    adapted: Any, finished: Any
) -> None:
    dock = adapted()
    session = dock.desk.session
    first = session.run
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    dock.correct.adapt()
    finished(dock)
    second = session.run
    stroke(dock, 3, 1, slice(0, 6), slice(0, 12))
    dock.correct.adapt()
    finished(dock)
    assert session.run.corrections.slices == (1, 3)
    assert np.array_equal(session.run.past.theta(0), second.theta_of(1))
    dock.correct.undo()
    assert session.run is second
    dock.correct.undo()
    assert session.run is first


def test_a_new_adaptation_makes_corrections_history(adapted: Any, finished: Any) -> None:
    dock = adapted()
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    dock.correct.adapt()
    finished(dock)
    dock.adapt.adapt_button.click()
    finished(dock)
    assert not dock.desk.session.run.corrections
    assert not dock.correct.section.undo_button.isEnabled()


def test_a_label_that_the_model_does_not_know_is_named_and_nothing_starts(adapted: Any) -> None:
    dock = adapted()
    stroke(dock, 1, 7, slice(0, 6), slice(0, 12))
    run = dock.desk.session.run
    dock.correct.adapt()
    assert dock.desk.runner.kind is None
    assert "label 7" in dock.desk.problem
    assert dock.desk.session.run is run
    assert (shown(dock)[1][:6, :12] == 7).all()


def test_a_cancelled_lesson_keeps_the_strokes_and_can_be_undone(
    adapted: Any, finished: Any, qtbot: Any
) -> None:
    dock = adapted()
    session = dock.desk.session
    first = session.run
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    painted = shown(dock)
    dock.correct.section.steps.setValue(200)
    with qtbot.waitSignal(dock.desk.runner.records, timeout=60_000):
        dock.correct.adapt()
    dock.desk.runner.cancel()
    finished(dock)
    assert (shown(dock)[1][:6, :12] == 2).all()
    dock.correct.undo()
    assert session.run is first
    assert np.array_equal(shown(dock), painted)


def test_advanced_choices_reach_the_run(adapted: Any, finished: Any) -> None:
    dock = adapted()
    section = dock.correct.section
    section.role.setCurrentIndex(section.role.findData("both"))
    section.steps.setValue(3)
    section.soft.setValue(2.5)
    section.hold.setValue(0.4)
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    dock.correct.adapt()
    finished(dock)
    settings = dock.desk.session.run.settings
    assert (settings.method, settings.scribble) == ("grata", "both")
    assert (settings.correction_steps, settings.soft_labels, settings.hold) == (3, 2.5, 0.4)
    section.role.setCurrentIndex(section.role.findData("fine-tuning"))
    wanted = section.settings(teaching_settings(settings))
    assert (wanted.method, wanted.scribble) == ("consistency", "pseudo")


def test_the_section_fits_the_dock_and_can_be_reached_by_tab(adapted: Any) -> None:
    dock = adapted()
    dock.resize(360, 700)
    section = dock.correct.section
    assert section.minimumSizeHint().width() <= 344
    for widget in (section.paint_button, section.right, section.adapt_button, section.structure):
        assert widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        assert widget.toolTip()
    assert section.mapTo(dock, QPoint(0, 0)).x() >= 0


# --- lists ---------------------------------------------------------------------------------------


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    folder = tmp_path / "cases"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(3):
        data = rng.normal(100, 20, (40, 48, 3)).astype(np.float32)
        data[10 + number : 28, 14:34] += 150
        nib.save(nib.Nifti1Image(data, np.diag([-1, 1, 4, 1.0])), folder / f"scan_{number}.nii.gz")
    return folder


def test_cases_after_this_one_begin_with_what_was_learnt(
    make_dock: Any, volumes: Path, finished: Any, qtbot: Any
) -> None:
    dock = make_dock(scan=None)
    dock.cases.open_list(volumes)
    qtbot.waitUntil(lambda: dock.cases.case is not None, timeout=30_000)
    dock.model.choose("tiny-brain")
    settings = teaching_settings(dock.adapt.settings()).but(scribble="none", predict="average")
    dock.adapt.advanced.set_settings(settings.but(six_views=False))
    dock.adapt.adapt_button.click()
    finished(dock)
    stroke(dock, 1, 2, slice(0, 6), slice(0, 12))
    dock.correct.refresh()
    section = dock.correct.section
    assert [section.where.itemData(i) for i in range(section.where.count())] == [CASE, REST]
    section.where.setCurrentIndex(1)
    section.steps.setValue(3)
    dock.correct.adapt()
    finished(dock)
    taught = dock.desk.session.run
    assert "2 cases after it" in dock.desk.session.note
    cases = dock.cases.list
    later = [case for case in cases.cases if case.number > 1]
    qtbot.waitUntil(lambda: all(cases.work(c).run_folder for c in later), timeout=60_000)
    from napari_grata.adaptation.run_store import RunStore

    for case in later:
        folder = cases.work(case).run_folder
        store = RunStore(folder)
        assert np.array_equal(store.theta(0), taught.theta_of(0))
        store.close()
    qtbot.waitUntil(lambda: not dock.cases.ahead.running, timeout=30_000)
    folder = taught.folder
    told = json.loads((folder / "run.json").read_text())
    assert told["corrections"]["slices"] == [1]
    dock.correct.undo()
    assert not folder.exists()
    assert folder.with_name(f"undone-{folder.name}").is_dir()
    assert cases.work(cases.cases[0]).run_folder == dock.desk.session.run.folder
