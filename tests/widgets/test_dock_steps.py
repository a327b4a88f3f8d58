"""Going back and forth through the steps of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def test_the_slider_offers_the_steps_once_a_run_is_over(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    assert not dock.adapt.steps.isEnabled()
    dock.adapt.adapt_button.click()
    finished(dock)
    assert dock.adapt.steps.isEnabled()
    assert dock.adapt.steps.slider.maximum() == 7
    assert dock.adapt.steps.step() == -1


def test_a_step_shows_the_mask_as_the_model_was_then(
    make_dock: Any, finished: Any, qtbot: Any
) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    names = [layer.name for layer in dock.viewer.layers]
    dock.viewer.dims.set_current_step(0, 3)
    dock.adapt.steps.choose(2)
    qtbot.waitUntil(lambda: "case_017 step" in dock.viewer.layers, timeout=20_000)
    shown = dock.viewer.layers["case_017 step"]
    expected = dock.desk.session.run.predict(3, 2).label_map
    np.testing.assert_array_equal(shown.data[0], expected)
    # One slice thick, and where that slice lies.
    row, column = np.argwhere(expected)[0]
    where = dock.viewer.layers["case_017 source"].data_to_world((3, row, column))
    assert shown.get_value(where, world=True) == expected[row, column]
    assert not shown.editable
    assert not dock.viewer.layers["case_017 grata"].visible
    dock.desk.toggle_masks()
    assert [layer.name for layer in dock.viewer.layers] == names
    assert dock.adapt.steps.step() == -1


def test_another_slice_shows_the_same_step(make_dock: Any, finished: Any, qtbot: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.adapt.steps.choose(2)
    run = dock.desk.session.run
    for index in (1, 4, 2):
        dock.viewer.dims.set_current_step(0, index)
        expected = run.predict(index, 2).label_map
        point = dock.viewer.dims.point

        def follows(expected: Any = expected, point: Any = point) -> bool:
            if "case_017 step" not in dock.viewer.layers:
                return False
            layer = dock.viewer.layers["case_017 step"]
            here = np.rint(layer.world_to_data(point))[0] == 0
            return bool(here) and np.array_equal(layer.data[0], expected)

        qtbot.waitUntil(follows, timeout=20_000)


def test_the_mark_in_the_curves_moves_at_once_with_the_slider(
    make_dock: Any, finished: Any
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    drawn = dock.adapt.plot.redraws
    dock.adapt.steps.choose(4)
    assert dock.adapt.plot.marked_step() == 4
    assert dock.adapt.plot.redraws == drawn
    dock.adapt.steps.choose(-1)
    assert dock.adapt.plot.marked_step() is None


def test_a_step_chosen_in_the_curves_moves_slice_and_slider(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.adapt.plot.step_clicked.emit(3, 4)
    assert dock.desk.in_view() == 3
    assert dock.adapt.steps.step() == 4


def test_taken_states_are_undone_and_done_again_one_by_one(make_dock: Any, finished: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    bar, session = dock.adapt.steps, dock.desk.session
    assert not bar.undo_button.isEnabled()
    seen = [session.after.stack.copy()]
    for step in (1, 3):
        bar.choose(step)
        bar.use_button.click()
        finished(dock)
        seen.append(dock.viewer.layers["case_017 grata"].data.copy())
    assert not bar.redo_button.isEnabled()
    for expected, step in ((seen[1], 1), (seen[0], None)):
        bar.undo_button.click()
        finished(dock)
        np.testing.assert_array_equal(dock.viewer.layers["case_017 grata"].data, expected)
        assert session.taken_step == step
    assert session.run.step == session.run.last_step
    assert not bar.undo_button.isEnabled()
    for expected, step in ((seen[1], 1), (seen[2], 3)):
        bar.redo_button.click()
        finished(dock)
        np.testing.assert_array_equal(dock.viewer.layers["case_017 grata"].data, expected)
        assert session.run.step == step
    assert not bar.redo_button.isEnabled()


def test_what_was_drawn_survives_a_taken_state_and_its_undo(make_dock: Any, finished: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    drawn_on = dock.viewer.layers["case_017 grata"]
    result = drawn_on.data.copy()
    drawn_on.data[2, 5:9, 5:9] = 2
    drawn_on.refresh()
    dock.adapt.steps.choose(1)
    dock.adapt.steps.use_button.click()
    finished(dock)
    assert (drawn_on.data[2, 5:9, 5:9] == 2).all()
    dock.adapt.steps.undo_button.click()
    finished(dock)
    assert (drawn_on.data[2, 5:9, 5:9] == 2).all()
    assert drawn_on in dock.viewer.layers
    np.testing.assert_array_equal(dock.desk.session.after.stack, result)


def test_a_state_can_be_taken_and_given_back(make_dock: Any, finished: Any) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    session = dock.desk.session
    result = session.after.stack.copy()
    dock.adapt.steps.choose(1)
    dock.adapt.steps.use_button.click()
    finished(dock)
    early = dock.viewer.layers["case_017 grata"].data.copy()
    for index in range(6):
        np.testing.assert_array_equal(early[index], session.run.predict(index, 1).label_map)
    assert "step 1" in dock.message.said()
    dock.adapt.steps.choose(7)
    dock.adapt.steps.use_button.click()
    finished(dock)
    assert not np.array_equal(early, result)
    back = dock.viewer.layers["case_017 grata"].data
    for index in range(6):
        np.testing.assert_array_equal(back[index], session.run.predict(index).label_map)


def test_a_reopened_run_can_be_gone_through_as_well(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.set_run_parent(str(tmp_path / "runs"))
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.desk.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    again = make_dock(scan=None)
    again.saving.reopen_from(folder)
    finished(again)
    assert again.adapt.steps.isEnabled()
    assert again.adapt.steps.slider.maximum() == 7


def test_a_state_in_use_is_there_again_when_the_run_is_reopened(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock(learning_rate=0.05)
    dock.adapt.set_run_parent(str(tmp_path / "runs"))
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.adapt.steps.choose(1)
    dock.adapt.steps.use_button.click()
    finished(dock)
    masks = dock.desk.session.after.stack.copy()
    dock.desk.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    again = make_dock(scan=None)
    again.saving.reopen_from(folder)
    finished(again)
    np.testing.assert_array_equal(again.desk.session.after.stack, masks)
    assert "after step 1" in again.adapt.steps.label.said()
    assert len(again.adapt.plot.data) == 6
    assert again.adapt.steps.use_button.text() == "Use the result"
