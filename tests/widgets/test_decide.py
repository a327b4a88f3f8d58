"""Deciding in a real dock: by button and key, on slices and cases, with undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget

from napari_grata.widgets.decide.bar import CASE, SLICE
from napari_grata.widgets.keys import KEYS, taken_keys
from napari_grata.widgets.slice_model import MARK


@pytest.fixture
def adapted(make_dock: Any, finished: Any, qtbot: Any) -> Any:
    """Return a function that makes a dock with an adapted scan, ready to be decided on."""

    def make(**options: Any) -> Any:
        dock = make_dock(**options)
        dock.adapt.adapt_button.click()
        finished(dock)
        ready(dock, qtbot)
        return dock

    return make


def ready(dock: Any, qtbot: Any) -> None:
    """Wait until the decisions so far have been read, and everything is shown."""
    decide = dock.decide
    qtbot.waitUntil(
        lambda: decide.docket is not None and decide.docket.scan is dock.desk.scan, timeout=20_000
    )
    decide.refresh()


def at(dock: Any, index: int) -> None:
    dock.desk.go_to(index)
    dock.decide.refresh()


def lines(dock: Any) -> list[dict[str, Any]]:
    text = dock.decide.docket.log.path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def said(dock: Any) -> str:
    return str(dock.decide.bar.sentence.said())


def test_a_decision_on_a_slice_is_on_the_disk_at_once(adapted: Any) -> None:
    dock = adapted()
    decide = dock.decide
    at(dock, 3)
    assert said(dock) == "Axial 4: not decided yet."
    decide.section.reviewer.setText("AB")
    decide.bar.buttons["accept"].click()
    (line,) = lines(dock)
    assert (line["verdict"], line["slice_index"], line["reviewer"]) == ("accept", 3, "AB")
    assert line["facts"]["model"] == "tiny-brain"
    assert line["facts"]["step"] == 6
    assert line["facts"]["settings"]
    assert "case_017" not in json.dumps(line)
    assert said(dock).startswith("Axial 4: accepted by AB, ")
    assert said(dock).endswith("Undo: Ctrl+0")
    assert decide.bar.buttons["accept"].property("inforce") == "true"
    assert decide.bar.buttons["reject"].property("inforce") == "false"
    at(dock, 2)
    assert said(dock) == "Axial 3: not decided yet."
    assert decide.bar.buttons["accept"].property("inforce") == "false"


def test_nothing_is_decided_by_itself_and_nothing_pushes_to_accept(adapted: Any) -> None:
    dock = adapted()
    assert dock.decide.docket.log.records == ()
    assert not any(
        button.property("highlighted") == "true" for button in dock.decide.bar.buttons.values()
    )


def test_the_keys_decide_and_take_back(adapted: Any, qtbot: Any) -> None:
    dock = adapted()
    at(dock, 1)
    canvas = dock.viewer.window._qt_viewer.canvas.native
    canvas.setFocus()
    for number, verdict in ((1, "accept"), (2, "keep-source"), (4, "reject"), (5, "second-reader")):
        key = getattr(Qt.Key, f"Key_{number}")
        qtbot.keyClick(canvas, key, Qt.KeyboardModifier.ControlModifier)
        assert dock.decide.docket.current()[1].verdict == verdict
    qtbot.keyClick(canvas, Qt.Key.Key_0, Qt.KeyboardModifier.ControlModifier)
    assert dock.decide.docket.current()[1].verdict == "reject"
    assert [line["action"] for line in lines(dock)] == ["decide"] * 4 + ["undo"]


def test_the_keys_are_free_in_napari() -> None:
    mine = {key.key for key in KEYS if "decide" in key.action or key.action == "undo_decision"}
    assert mine == {f"Ctrl+{n}" for n in (0, 1, 2, 3, 4, 5)}
    assert not mine & taken_keys()


def test_undo_and_redo_go_back_to_where_the_decision_was(adapted: Any) -> None:
    dock = adapted()
    at(dock, 1)
    dock.decide.decide("accept")
    at(dock, 4)
    dock.decide.undo()
    assert dock.desk.in_view() == 1
    assert said(dock) == "Axial 2: not decided yet."
    assert dock.decide.section.redo_button.isEnabled()
    dock.decide.section.redo_button.click()
    assert "accepted" in said(dock)


def test_a_decision_on_the_whole_case_stands_beside_those_on_slices(adapted: Any) -> None:
    dock = adapted()
    at(dock, 1)
    dock.decide.decide("reject")
    dock.decide.bar.choose_scope(CASE)
    dock.decide.decide("accept")
    assert said(dock).startswith("Whole case: accepted, ")
    dock.decide.bar.choose_scope(SLICE)
    assert said(dock).startswith("Axial 2: rejected, ")
    at(dock, 2)
    assert said(dock).startswith("Axial 3: not decided by itself. Whole case: accepted")
    texts = [dock.decide.section.list.item(i).text() for i in range(2)]
    assert texts[0].startswith("✓  Whole case: accepted")
    assert texts[1].startswith("✕  Axial 2: rejected")
    assert dock.decide.section.progress.text() == "1 of 6 slices decided"


def test_the_table_marks_slices_by_shape_and_words(adapted: Any) -> None:
    dock = adapted()
    table = dock.review.table
    assert table.view.isColumnHidden(MARK)
    at(dock, 1)
    dock.decide.decide("keep-source")
    at(dock, 2)
    dock.decide.decide("second-reader")
    signs = {row.slice_index: table.model.words(row, MARK) for row in table.model.rows}
    assert signs == {0: "", 1: "↩", 2: "2", 3: "", 4: "", 5: ""}
    assert not table.view.isColumnHidden(MARK)
    place = table.model.row_of(1)
    tip = table.model.data(table.model.index(place, MARK), Qt.ItemDataRole.ToolTipRole)
    assert "mask before kept" in tip
    table.model.sort(MARK, Qt.SortOrder.AscendingOrder)
    assert [row.slice_index for row in table.model.rows[-2:]] == [2, 1]


def test_comment_and_difficulty_go_with_the_decision(adapted: Any) -> None:
    dock = adapted()
    section = dock.decide.section
    at(dock, 1)
    section.comment.setText("vessel over the rim")
    section.difficulty.setCurrentIndex(section.difficulty.findData("hard"))
    dock.decide.decide("second-reader")
    decision = dock.decide.docket.current()[1]
    assert (decision.comment, decision.difficulty) == ("vessel over the rim", "hard")
    at(dock, 2)
    assert section.note() == ("", "")
    at(dock, 1)
    assert section.note() == ("vessel over the rim", "hard")
    dock.decide.decide("reject")
    assert dock.decide.docket.current()[1].comment == "vessel over the rim"


def test_words_written_before_a_decision_wait_for_it(adapted: Any) -> None:
    dock = adapted()
    section = dock.decide.section
    at(dock, 1)
    section.comment.setText("unsure")
    at(dock, 2)
    assert section.comment.text() == ""
    assert dock.decide.docket.log.records == ()
    at(dock, 1)
    assert section.comment.text() == "unsure"
    dock.decide.decide("reject")
    assert dock.decide.docket.current()[1].comment == "unsure"


def test_words_changed_after_a_decision_put_it_down_anew(adapted: Any) -> None:
    dock = adapted()
    at(dock, 1)
    dock.decide.decide("accept")
    dock.decide.section.comment.setText("looked twice")
    dock.decide.section.comment.editingFinished.emit()
    assert [line["comment"] for line in lines(dock)] == ["", "looked twice"]
    assert dock.decide.docket.current()[1].verdict == "accept"


def test_initials_are_letters_and_remembered(adapted: Any, qtbot: Any) -> None:
    dock = adapted()
    field = dock.decide.section.reviewer
    field.clear()
    qtbot.keyClicks(field, "A1B-Cxyzq")
    assert field.text() == "ABCxy"
    assert dock.desk.store.get("reviewer", "") == "ABCxy"


def test_stepping_on_goes_to_the_next_slice_without_a_decision(adapted: Any) -> None:
    dock = adapted()
    at(dock, 2)
    dock.decide.decide("accept")
    assert dock.desk.in_view() == 2
    dock.decide.section.step_on.setChecked(True)
    at(dock, 1)
    dock.decide.decide("accept")
    assert dock.desk.in_view() == 3
    assert dock.desk.store.get("step_on", False) is True
    for index in (3, 4, 5, 0):
        assert dock.desk.in_view() == index
        dock.decide.decide("accept")
    assert dock.decide.undecided() == []
    assert dock.desk.in_view() == 0


def test_a_lone_photograph_is_decided_as_a_case(
    make_dock: Any, finished: Any, qtbot: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(20, 90, (64, 64, 3)).astype(np.uint8)
    data[15:45, 15:45] += 110
    Image.fromarray(data).save(tmp_path / "eye.png")
    dock = make_dock(tmp_path / "eye.png")
    dock.model.choose("tiny-eye")
    dock.adapt.adapt_button.click()
    finished(dock)
    ready(dock, qtbot)
    assert not dock.decide.bar.scope.isEnabled()
    assert dock.decide.bar.chosen_scope() == CASE
    dock.decide.decide("accept")
    assert lines(dock)[0]["slice_index"] is None
    assert dock.decide.section.progress.text() == ""
    assert said(dock).startswith("Photograph: accepted, ")


def test_buttons_say_why_they_are_off(make_dock: Any, finished: Any, qtbot: Any) -> None:
    dock = make_dock()
    ready(dock, qtbot)
    buttons = dock.decide.bar.buttons
    assert not any(button.isEnabled() for button in buttons.values())
    assert "no mask" in buttons["accept"].toolTip()
    dock.model.segment_button.click()
    finished(dock)
    dock.decide.refresh()
    live = {name for name, button in buttons.items() if button.isEnabled()}
    assert live == {"keep-source", "reject", "second-reader"}
    assert "no mask after" in buttons["accept"].toolTip()
    dock.decide.decide("accept")
    assert dock.decide.docket.log.records == ()


def test_nothing_is_decided_while_a_run_goes_on(
    make_dock: Any, first_record: Any, finished: Any, qtbot: Any
) -> None:
    dock = make_dock()
    ready(dock, qtbot)
    first_record(dock)
    dock.decide.refresh()
    if dock.desk.runner.kind == "adapt":
        dock.verbs["decide_accept"]()
        assert dock.decide.docket.log.records == ()
    finished(dock)


def test_a_decision_is_stale_after_another_adaptation(adapted: Any, finished: Any) -> None:
    dock = adapted()
    at(dock, 2)
    dock.decide.decide("accept")
    dock.decide.bar.choose_scope(CASE)
    dock.decide.decide("keep-source")
    changed = dock.adapt.settings().but(learning_rate=5e-2)
    dock.adapt.advanced.set_settings(changed)
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.decide.bar.choose_scope(SLICE)
    at(dock, 2)
    before, after = dock.desk.session.before.stack, dock.desk.session.after.stack
    assert not np.array_equal(before, after)
    assert "changed since: look again" in said(dock)
    assert dock.decide.bar.sentence.property("tone") == "warning"
    row = dock.review.table.model.rows[dock.review.table.model.row_of(2)]
    assert dock.review.table.model.words(row, MARK) == "✓!"
    # The mask before is what it was, so the decision to keep it holds.
    dock.decide.bar.choose_scope(CASE)
    assert "changed since" not in said(dock)


def test_a_decision_is_stale_after_going_back_to_a_step_and_holds_again_at_the_end(
    adapted: Any, finished: Any
) -> None:
    dock = adapted(learning_rate=5e-2)
    at(dock, 5)
    dock.decide.decide("accept")
    dock.steps.use(1)
    finished(dock)
    at(dock, 5)
    assert "changed since" in said(dock)
    dock.steps.use(-1)
    finished(dock)
    at(dock, 5)
    assert "changed since" not in said(dock)


def test_decisions_come_back_with_the_scan(
    adapted: Any, make_dock: Any, qtbot: Any, volume: Path
) -> None:
    dock = adapted()
    at(dock, 3)
    dock.decide.section.reviewer.setText("AB")
    dock.decide.decide("reject")
    layer = dock.desk.layer
    dock.viewer.layers.clear()
    del layer
    qtbot.waitUntil(lambda: dock.desk.scan is None, timeout=5000)
    dock.decide.refresh()
    assert dock.decide.docket is None
    dock.opening.open(str(volume))
    ready(dock, qtbot)
    at(dock, 3)
    assert said(dock).startswith("Axial 4: rejected by AB")


def test_a_second_window_may_look_but_not_decide(adapted: Any, qtbot: Any) -> None:
    import subprocess
    import sys
    import textwrap

    dock = adapted()
    folder = dock.decide.docket.caselist.folder
    dock.decide.decide("accept")
    dock.decide.docket.caselist.close()
    code = f"""
        import sys
        from napari_grata.review.case_list import CaseList
        kept = CaseList.load({str(folder)!r})
        print("held", flush=True)
        sys.stdin.readline()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    with other:
        assert other.stdout.readline().strip() == "held"
        dock.decide.clerk.start_anew()
        ready(dock, qtbot)
        assert not dock.decide.bar.buttons["accept"].isEnabled()
        assert "another program" in dock.decide.bar.buttons["accept"].toolTip()
        at(dock, 5)
        assert "another program" in said(dock)
        other.stdin.write("\n")


def test_the_row_fits_the_narrow_dock(adapted: Any) -> None:
    dock = adapted()
    for frame in dock.viewer.window._qt_window.findChildren(QDockWidget):
        if frame.isAncestorOf(dock):
            dock.viewer.window._qt_window.resizeDocks([frame], [360], Qt.Orientation.Horizontal)
    bar = dock.decide.bar
    assert bar.minimumSizeHint().width() <= 360
    assert dock.decide.section.minimumSizeHint().width() <= 344


@pytest.mark.parametrize("left_the_field", [True, False])
def test_words_for_one_scan_never_appear_beside_another(
    adapted: Any, volume: Path, finished: Any, qtbot: Any, left_the_field: bool
) -> None:
    dock = adapted()
    decide = dock.decide
    decide.bar.choose_scope(CASE)
    decide.refresh()
    decide.section.comment.setText("cup hard to see")
    if left_the_field:
        decide.section.comment.editingFinished.emit()
    other = volume.with_name("case_018.nii.gz")
    image = nib.load(volume)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), other)
    first = dock.desk.layer
    dock.opening.open(str(other))
    qtbot.waitUntil(lambda: dock.desk.layer is not first, timeout=20_000)
    dock.adapt.adapt_button.click()
    finished(dock)
    ready(dock, qtbot)
    decide.bar.choose_scope(CASE)
    decide.refresh()
    assert decide.section.note() == ("", "")
    decide.decide("accept")
    assert lines(dock)[-1]["comment"] == ""
    dock.scan.choose(first)
    ready(dock, qtbot)
    assert decide.section.note() == ("cup hard to see", "")


def test_words_typed_beside_a_decision_are_written_when_its_slice_goes_out_of_view(
    adapted: Any,
) -> None:
    dock = adapted()
    at(dock, 1)
    dock.decide.decide("accept")
    dock.decide.section.comment.setText("rim is thin")
    at(dock, 2)
    assert dock.decide.docket.current()[1].comment == "rim is thin"
    assert dock.decide.section.comment.text() == ""
    assert 2 not in dock.decide.docket.current()


def test_a_comment_on_a_decision_does_not_accept_a_mask_that_has_changed_since(
    adapted: Any,
) -> None:
    dock = adapted()
    at(dock, 1)
    dock.decide.decide("accept")
    rested_on = dock.decide.docket.current()[1].facts["mask"]
    layer = dock.desk.session.after.layer
    layer.data[1, :4, :4] = 3 - layer.data[1, :4, :4]
    dock.decide.section.comment.setText("changed it")
    dock.decide.section.comment.editingFinished.emit()
    now = dock.decide.docket.current()[1]
    assert (now.comment, now.facts["mask"]) == ("changed it", rested_on)
