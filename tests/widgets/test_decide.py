"""Deciding, correcting and undoing, as the user does it: keys, bar, brush, and what is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMenu, QTextBrowser

from napari_grata.widgets.keys import ACTIONS

Start = Callable[..., Any]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this program may grow."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def adapted(start: Start, volume: Path) -> Callable[..., Any]:
    """Return a function that opens the dock on an adapted volume."""

    def make() -> Any:
        user = start(volume)
        user.adapt()
        user.decisions_are_known()
        return user

    return make


def in_force(user: Any) -> dict[int | None, str]:
    place = user.dock.decide.decisions.place
    return {index: one.verdict for index, one in place.current().items()}


def test_a_decision_is_on_the_disk_before_it_shows_and_undo_takes_it_back(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    user.context.go_to(2)
    user.settle()
    user.press(user.dock.decide.buttons["accept"])
    assert in_force(user) == {2: "accept"}
    assert "3: accepted" in user.decision()
    assert not user.dock.decide.decisions.unsaved
    assert user.context.decision_marks == {2: "✓"}
    assert user.dock.decide.undo_button.toolTip().startswith("Take back: “accepted”")
    user.do("undo")
    assert in_force(user) == {}
    user.do("redo")
    assert in_force(user) == {2: "accept"}


def test_what_is_looked_at_is_what_is_accepted(adapted: Callable[..., Any]) -> None:
    user = adapted()
    user.context.go_to(1)
    user.context.show_mode("source")
    assert "you see the mask before" in user.decision()
    user.do("accept")
    assert in_force(user) == {1: "keep-source"}
    user.context.show_mode("adapted")
    user.context.go_to(3)
    assert "Accept takes the mask after" in user.decision()
    user.do("accept")
    assert in_force(user)[3] == "accept"


def test_at_an_earlier_step_accept_asks_to_use_that_state_first(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    right, reviewed = user.dock.correct.right, user.context.reviewed
    user.context.show_mode("adapted")
    user.paint(2, 5, 5, value=2)
    user.press(right)
    user.context.look_back(2)
    assert "after step 2" in user.decision()
    assert not user.dock.decide.buttons["accept"].isEnabled()
    user.do("accept")
    assert in_force(user) == {}
    assert not user.dock.decide.use_button.isHidden()
    user.press(user.dock.decide.use_button)
    user.finish()
    assert user.session.taken_step == 2
    assert "Accept takes the mask after" in user.decision()
    assert not reviewed.of(user.session), "it is another mask now"
    user.do("undo")
    user.finish()
    assert user.session.taken_step is None
    assert set(reviewed.of(user.session)) == {2}
    assert right.isChecked()


def test_a_decision_on_a_mask_that_changes_says_look_again(adapted: Callable[..., Any]) -> None:
    user = adapted()
    user.context.go_to(2)
    user.do("accept")
    user.paint(2, 5, 5, value=2)
    assert "look again" in user.decision()
    assert user.context.decision_marks[2] == "✓!"


def test_strokes_on_slices_out_of_view_and_their_undo_are_noticed(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    layer = user.session.adapted.layer
    user.context.go_to(3)
    user.do("accept")
    user.context.go_to(2)
    user.viewer.dims.order = (1, 0, 2)  # a plane through all slices is painted on
    layer.brush_size = 1
    layer.paint((3, 20, 20), 2)
    user.settle()
    assert user.session.drawn_slices == {3}
    assert user.context.decision_marks[3] == "✓!"
    user.viewer.dims.order = (0, 1, 2)
    user.context.go_to(5)
    user.settle()
    layer.undo()
    user.settle()
    assert user.session.drawn_slices == set()
    assert user.context.decision_marks[3] == "✓"


@pytest.mark.filterwarnings("ignore:Contours are not displayed")
def test_no_slice_is_decided_on_that_is_not_in_view(adapted: Callable[..., Any]) -> None:
    user = adapted()
    user.context.go_to(2)
    decide, dims = user.dock.decide, user.viewer.dims
    for turn in ({"order": (1, 0, 2)}, {"ndisplay": 3}):
        dims.update(turn)
        assert "not in view" in user.decision()
        user.do("accept")
        assert not decide.buttons["accept"].isEnabled()
        assert "axes are turned" in decide.buttons["accept"].toolTip()
        assert not user.dock.correct.right.isEnabled()
        dims.update({"order": (0, 1, 2), "ndisplay": 2})
    assert in_force(user) == {}
    dims.order = (0, 2, 1)  # a slice all the same, rows for columns
    assert "Accept takes the mask after" in user.decision()
    user.do("accept")
    dims.order = (1, 0, 2)
    decide.scope.setCurrentIndex(1)
    user.do("accept")
    assert in_force(user) == {2: "accept", None: "accept"}


def test_what_a_stroke_flags_is_counted_in_every_sentence(adapted: Callable[..., Any]) -> None:
    user = adapted()
    before = len(user.session.flagged())
    user.paint(2, 1, 1, value=2)  # a cup outside of any disc
    user.wait(lambda: len(user.session.flagged()) == before + 1, 20)
    user.settle()
    assert f"{before + 1} flagged" in user.dock.message.said()


def test_a_drawing_is_saved_by_itself_and_comes_back(
    adapted: Callable[..., Any], volume: Path
) -> None:
    user = adapted()
    user.paint(2, 5, 5, value=2)
    drawn = np.array(user.session.adapted.layer.data)
    assert user.session.drawn_slices == {2}
    assert user.context.save_drawings() == ""
    caselist, key = user.context.decision_list
    kept = caselist.work(key).edit(user.context.scan)
    np.testing.assert_array_equal(kept, drawn)
    user.viewer.layers.clear()
    user.open(volume)
    user.decisions_are_known()
    layer = user.viewer.layers["case_017 edited"]
    np.testing.assert_array_equal(layer.data, drawn)
    assert layer.visible
    user.adapt()
    assert not layer.visible, "it would be taken for one of the masks to decide on"


def test_painting_shows_the_mask_filled_and_the_brush_paints_what_was_chosen(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    user.do("paint")
    layer = user.session.adapted.layer
    assert layer.mode == "paint"
    assert layer.contour == 0
    assert layer.visible
    user.press(user.dock.legend.chips[2])
    assert layer.selected_label == 2
    user.do("paint")
    assert layer.mode == "pan_zoom"
    assert not user.context.painting


def test_corrections_teach_keep_what_was_drawn_and_one_undo_brings_all_back(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    session = user.session
    before, run = np.array(session.adapted.stack), session.run
    user.paint(2, 20, 24, value=2)
    drawn = np.array(session.adapted.layer.data[2])
    assert "corrected, on 1 slice" in user.dock.correct.count.said()
    user.press(user.dock.correct.teach_button)
    user.finish()
    assert not user.context.problem
    assert session.run is not run
    np.testing.assert_array_equal(session.adapted.stack[2] == 2, drawn == 2)
    user.wait(lambda: "Learned from" in user.dock.message.said(), 10)
    user.context.show_mode("difference")
    user.do("undo")
    assert session.run is run
    difference = user.viewer.layers["case_017 difference"]
    assert user.context.mode == "difference"
    assert difference.visible
    assert difference.data[2][drawn != before[2]].any(), "what was drawn is in it"
    np.testing.assert_array_equal(session.adapted.stack, before)
    np.testing.assert_array_equal(session.adapted.layer.data[2], drawn)
    assert session.drawn_slices == {2}


def test_a_place_that_cannot_be_written_keeps_decisions_until_retry(
    adapted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = adapted()
    # napari prints what it notifies of, and where pytest keeps that the disk is full as well.
    monkeypatch.setattr("napari_grata.widgets.decisions.notify", lambda *words: None)
    with full_disk():
        user.context.go_to(1)
        user.do("reject")
        assert user.dock.decide.decisions.unsaved == 1
        assert not user.dock.decide.retry_button.isHidden()
    assert in_force(user) == {1: "reject"}
    user.press(user.dock.decide.retry_button)
    assert user.dock.decide.decisions.unsaved == 0
    assert user.dock.decide.retry_button.isHidden()


def test_words_typed_for_one_slice_do_not_appear_beside_another(
    adapted: Callable[..., Any],
) -> None:
    user = adapted()
    notes = user.dock.decide.notes
    user.context.go_to(1)
    user.settle()
    notes.comment.setText("blurred")
    notes.comment.editingFinished.emit()
    user.context.go_to(2)
    user.settle()
    assert notes.comment.text() == ""
    user.context.go_to(1)
    user.settle()
    assert notes.comment.text() == "blurred"
    user.do("accept")
    place = user.dock.decide.decisions.place
    assert place.current()[1].comment == "blurred"


def test_no_key_of_ours_is_napari_s_in_a_layer_or_in_a_menu(start: Start) -> None:
    user = start()
    taken = {str(one) for bound in default_shortcuts.values() for one in bound}

    def walk(menu: QMenu) -> None:
        for action in menu.actions():
            taken.update(shortcut.toString() for shortcut in action.shortcuts())
            if action.menu() is not None:
                walk(action.menu())

    user.dock.window().show()
    for action in user.viewer.window._qt_window.menuBar().actions():
        walk(action.menu())
    assert "Ctrl+O" in taken
    ours = [action.key for action in ACTIONS if action.key]
    assert not set(ours) & taken
    assert len(set(ours)) == len(ours)


def test_every_key_does_what_the_table_says(start: Start, qtbot: Any) -> None:
    user = start()
    done: list[str] = []
    for action in ACTIONS:
        user.context.actions.provide(action.name, lambda name=action.name: done.append(name))
        user.context.actions._why_not.pop(action.name, None)
    user.dock.window().show()
    canvas = user.viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    with_keys = [action for action in ACTIONS if action.key]
    for action in with_keys:
        *modifiers, key = action.key.split("+")
        held = Qt.KeyboardModifier.NoModifier
        for name in modifiers:
            held |= {
                "Ctrl": Qt.KeyboardModifier.ControlModifier,
                "Shift": Qt.KeyboardModifier.ShiftModifier,
            }[name]
        qtbot.keyClick(canvas, getattr(Qt.Key, f"Key_{key}"), held)
    assert done == [action.name for action in with_keys]
    # All are on one page, which fits on a small screen.
    user.dock.help_button.click()
    (sheet,) = user.dock.findChildren(QTextBrowser, "")
    for action in with_keys:
        assert action.key in sheet.toPlainText()
        assert action.words in sheet.toPlainText()
    assert "not a medical device" in sheet.toPlainText()
    assert sheet.window().height() <= 700
    sheet.window().close()
