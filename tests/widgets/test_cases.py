"""The list of cases in a real viewer: opening, going through, adapting ahead, coming back."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication, QFileDialog

from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import CaseState
from napari_grata.widgets.cases_panel import dock_of
from napari_grata.widgets.current_case import Prefetch
from napari_grata.widgets.scan_layer import camera_of
from napari_grata.widgets.state import Step

DONE = (CaseState.ADAPTED, CaseState.FLAGGED)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of four small volumes, of which the third is damaged."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 5):
        data = rng.normal(100, 20, (40, 48, 3)).astype(np.float32)
        data[12 : 26 + number, 14:34] += 150
        nib.save(nib.Nifti1Image(data, np.diag([1.0, 1, 3, 1])), folder / f"p{number}.nii.gz")
    (folder / "p3.nii.gz").write_bytes(b"no scan")
    return folder


@pytest.fixture
def listed(start: Callable[..., Any], scans: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the folder as a list and waits for its first case."""
    users = []

    def make(**changes: Any) -> Any:
        user = start(**changes)
        users.append(user)
        user.dock.cases.open_list([str(scans)])
        in_view(user, "case-0001")
        return user

    yield make
    while users:
        rest(users.pop())


def in_view(user: Any, key: str) -> None:
    """Wait until a case is the one in view and what was decided on it is known."""
    cases = user.dock.cases
    user.wait(lambda: cases.current.key == key and cases._wanted is None, 20)
    if cases.current.scan is not None:
        user.wait(lambda: user.dock.decide.decisions.place is not None, 20)
        user.wait(lambda: user.dock.decide.decisions.place.key == key, 20)
    user.settle()


def rest(user: Any) -> None:
    """Wait until nothing runs in the background any more."""
    cases = user.dock.cases
    cases.batch.pause()
    user.wait(lambda: not (cases.batch.running or cases.batch.stopping), 30)
    for queue in (cases.queue, user.context.runner.saved_runs, cases.prefetch.queue):
        user.wait(lambda queue=queue: not queue.busy, 30)
    user.settle()


def adapt_all(user: Any) -> None:
    """Adapt all cases ahead, and wait until all lines say so."""
    cases = user.dock.cases
    user.press(cases.panel.batch_button)
    user.wait(lambda: not cases.batch.running, 60)
    rest(user)
    user.wait(lambda: not (cases._dirty or cases._work), 10)


def shown(user: Any) -> list[str]:
    """Return the last digits of the cases listed, in the order shown."""
    return [row.key[-1] for row in user.dock.cases.panel.model.rows]


def choose(user: Any, box: str, key: str) -> None:
    """Choose a filter or an order."""
    combo = getattr(user.dock.cases.panel, box)
    combo.setCurrentIndex(combo.findData(key))
    user.settle()


def row(user: Any, key: str) -> Any:
    return user.dock.cases.panel.model.row(key)


def decide_on_case(user: Any, action: str) -> None:
    """Decide on the whole case in view."""
    scope = user.dock.decide.scope
    scope.setCurrentIndex(1)
    scope.activated.emit(1)
    user.settle()
    user.do(action)


def names(user: Any) -> set[str]:
    return {layer.name for layer in user.viewer.layers}


def test_a_folder_becomes_a_list_that_is_gone_through_with_keys(listed: Any) -> None:
    user = listed()
    panel = user.dock.cases.panel
    assert shown(user) == ["1", "2", "3", "4"]
    assert user.context.scan.name == "p1"
    assert user.context.entry.name == "tiny-brain"
    assert panel.progress.said() == "0 of 4 decided, 0 adapted"
    user.do("previous_case")
    assert panel.said.said() == "This is the first of the cases listed."
    user.do("next_case")
    in_view(user, "case-0002")
    assert names(user) == {"p2"}
    user.do("previous_case")
    in_view(user, "case-0001")
    assert names(user) == {"p1"}


def test_a_list_that_is_open_shows_its_case_again_when_it_is_opened(
    listed: Any, scans: Path, photograph: Path
) -> None:
    user = listed()
    user.open(photograph)
    assert user.context.case is None
    user.dock.cases.open_list([str(scans)])
    user.wait(lambda: user.context.case is not None and user.context.case.key == "case-0001", 20)
    assert user.context.scan is user.dock.cases.current.scan


def test_without_a_list_the_keys_say_what_to_do(start: Callable[..., Any]) -> None:
    user = start()
    assert user.context.actions.why_not("next_case").startswith("Open a list of cases first")


def test_adapting_ahead_passes_over_a_broken_file_and_says_why(listed: Any) -> None:
    user = listed()
    adapt_all(user)
    cases = user.dock.cases
    states = [row(user, f"case-000{n}").state for n in (1, 2, 3, 4)]
    assert states[2] is CaseState.FAILED
    assert all(state in DONE for state in (*states[:2], states[3]))
    assert row(user, "case-0003").problem
    assert row(user, "case-0002").change is not None
    assert cases.panel.progress.said() == "0 of 4 decided, 3 adapted, 1 failed"
    # What came of the case in view has appeared by itself.
    user.wait(lambda: user.session is not None and len(user.session.adapted_slices) == 3, 10)
    assert names(user) == {"p1", "p1 source", "p1 adapted"}
    # The broken one can be gone to, and left again.
    cases.open_case("case-0003")
    in_view(user, "case-0003")
    assert not user.viewer.layers
    assert user.context.problem
    user.do("next_case")
    in_view(user, "case-0004")
    assert names(user) == {"p4", "p4 source", "p4 adapted"}
    assert not user.context.problem


def test_a_file_that_cannot_be_opened_is_no_new_case_and_is_tried_again(
    listed: Any, scans: Path
) -> None:
    user = listed()
    user.do("next_case")  # reads the one after it ahead
    in_view(user, "case-0002")
    user.wait(lambda: row(user, "case-0003").state is CaseState.FAILED, 10)
    assert "p3" not in row(user, "case-0003").problem
    assert user.dock.cases.panel.progress.said() == "0 of 4 decided, 0 adapted, 1 failed"
    (scans / "p3.nii.gz").write_bytes((scans / "p4.nii.gz").read_bytes())
    adapt_all(user)
    assert row(user, "case-0003").state in DONE


def test_the_next_case_is_looked_at_as_the_last_and_the_user_s_layers_stay(listed: Any) -> None:
    user = listed()
    adapt_all(user)
    mine = user.viewer.add_points(np.zeros((1, 3)), name="mine")
    user.context.choose_layer(user.dock.cases.current.layer)
    user.wait(lambda: user.session is not None and user.session.adapted_slices, 10)
    user.context.show_mode("source")
    user.settle()
    camera = camera_of(user.viewer)
    camera.zoom, camera.center = 7.5, (0.0, 11.0, 13.0)
    user.context.go_to(2)
    user.do("next_case")
    in_view(user, "case-0002")
    assert names(user) == {"p2", "p2 source", "p2 adapted", "mine"}
    assert any(layer is mine for layer in user.viewer.layers)
    assert user.context.mode == "source"
    assert camera_of(user.viewer).zoom == pytest.approx(7.5)
    assert tuple(camera_of(user.viewer).center)[1:] == pytest.approx((11.0, 13.0))
    user.do("previous_case")
    in_view(user, "case-0001")
    assert user.context.in_view() == 2  # each case where it was left


def test_the_window_stays_on_a_small_screen_when_the_timeline_opens(listed: Any) -> None:
    user = listed()
    window = user.dock.window()
    window.resize(1366, 740)
    window.show()
    user.settle()
    assert window.height() == 740
    user.adapt()
    user.settle()
    assert user.dock.timeline.isVisible()
    assert window.height() == 740


def test_next_follows_filter_order_and_search(listed: Any) -> None:
    user = listed()
    adapt_all(user)
    panel = user.dock.cases.panel
    changes = {one.key: one.change for one in panel.model.rows if one.change is not None}
    choose(user, "order", "change")
    wanted = sorted(changes, key=lambda key: -changes[key])
    # The broken case has no figure and comes last.
    assert shown(user) == [*(key[-1] for key in wanted), "3"]
    choose(user, "filter", "failed")
    # The case in view stays listed.
    assert set(shown(user)) == {"1", "3"}
    choose(user, "filter", "all")
    user.dock.cases.open_case(wanted[0])
    in_view(user, wanted[0])
    user.do("next_case")
    in_view(user, wanted[1])
    choose(user, "order", "list")
    panel.search.setText("P4")
    user.settle()
    assert set(shown(user)) == {"4", wanted[1][-1]}


def test_decisions_show_in_the_list_and_editing_is_no_decision(listed: Any) -> None:
    user = listed()
    adapt_all(user)
    panel = user.dock.cases.panel
    user.wait(lambda: user.session is not None and user.session.adapted_slices, 10)
    decide_on_case(user, "edit")
    user.wait(lambda: row(user, "case-0001").state is CaseState.EDITED, 10)
    assert panel.progress.said().startswith("0 of 4 decided")
    user.context.set_painting(False)
    decide_on_case(user, "accept")
    user.wait(lambda: row(user, "case-0001").state is CaseState.ACCEPTED, 10)
    assert panel.progress.said().startswith("1 of 4 decided")
    assert user.dock.cases.current.key == "case-0001"
    user.do("undo")
    user.wait(lambda: row(user, "case-0001").state is CaseState.EDITED, 10)
    # Where that is wanted, a decision leads on to the next case.
    user.dock.decide.notes.next_case.setChecked(True)
    choose(user, "filter", "open")
    decide_on_case(user, "reject")
    in_view(user, "case-0002")
    assert row(user, "case-0001").state is CaseState.REJECTED
    assert shown(user) == ["2", "3", "4"]


def test_a_list_comes_back_exactly_where_it_was(
    listed: Any, start: Callable[..., Any], scans: Path
) -> None:
    user = listed()
    adapt_all(user)
    user.do("next_case")
    in_view(user, "case-0002")
    user.paint(1, 5, 5, value=2)
    drawn = np.array(user.session.adapted.layer.data)
    user.context.set_painting(False)
    user.do("next_case")
    in_view(user, "case-0003")
    user.do("next_case")
    in_view(user, "case-0004")
    decide_on_case(user, "accept")
    choose(user, "order", "state")
    user.dock.cases.open_case("case-0002")
    in_view(user, "case-0002")
    rest(user)
    user.dock.cases.close_list()
    rest(user)
    assert not user.viewer.layers
    assert shown(user) == []
    assert user.context.caselist is None
    again = start()
    again.dock.cases.open_list([str(scans)])
    in_view(again, "case-0002")
    assert again.dock.cases.panel.choices() == ("all", "", "state")
    assert row(again, "case-0004").state is CaseState.ACCEPTED
    assert again.session.adapted_slices == {0, 1, 2}
    again.wait(lambda: again.session.drawn_slices == {1}, 10)
    np.testing.assert_array_equal(again.session.adapted.layer.data, drawn)
    # And it is live: its steps can be gone through, once the user stays.
    again.wait(lambda: again.session.run is not None, 20)
    rest(again)


def test_closing_the_list_leaves_the_user_s_layers_alone(listed: Any) -> None:
    user = listed()
    user.adapt()
    user.viewer.add_points(np.zeros((1, 3)), name="mine")
    user.settle()
    user.dock.cases.close_list()
    rest(user)
    assert names(user) == {"mine"}
    assert user.context.case is None


def test_a_run_of_the_user_is_kept_with_its_case_and_holds_it_in_view(listed: Any) -> None:
    user = listed(passes=30)
    with user.qtbot.waitSignal(user.context.runner.records, timeout=60_000):
        user.dock.adapt.adapt_button.click()
    user.do("next_case")
    assert user.dock.cases.current.key == "case-0001"
    assert "going on" in user.dock.cases.panel.said.said()
    user.finish()
    user.wait(lambda: row(user, "case-0001").change is not None, 10)
    assert row(user, "case-0001").state in DONE
    work = user.context.caselist.work("case-0001")
    assert work.run_folder == user.session.run.folder
    said = user.dock.steps[Step.TAKE_OUT].summary.said()
    assert said == "kept, no files saved yet"
    user.do("next_case")
    in_view(user, "case-0002")


def test_a_method_of_several_is_taken_for_a_case_and_is_its_run_when_it_comes_back(
    listed: Any,
) -> None:
    user = listed()
    user.adapt()
    own, work = user.session.run, user.context.caselist.work("case-0001")
    page = user.dock.methods
    for name, item in page.table.items.items():
        state = Qt.CheckState.Checked if name == "tent" else Qt.CheckState.Unchecked
        item.setCheckState(0, state)
    user.press(page.run_button)
    user.finish()
    rest(user)
    assert work.run_folder == own.folder

    def used() -> Any:
        user.finish()
        rest(user)
        assert not user.context.problem, user.context.problem
        run = user.session.run
        assert run.settings.method == "tent"
        assert work.run_folder == run.folder
        return run

    page.table.clearSelection()
    page.table.rows["tent"].item.setSelected(True)
    user.press(page.use_button)
    first = used().folder
    user.context.undo.undo()
    rest(user)
    assert user.session.run is own
    assert work.run_folder == own.folder
    assert not first.exists()
    user.context.undo.redo()
    used()
    masks = user.session.adapted.as_shown()
    user.do("next_case")
    in_view(user, "case-0002")
    assert not page.table.results()
    user.do("previous_case")
    in_view(user, "case-0001")
    assert user.session.settings.method == "tent"
    assert np.array_equal(user.session.adapted.as_shown(), masks)


def test_pausing_ahead_and_going_on_loses_no_step(listed: Any) -> None:
    user = listed(passes=60)
    panel = user.dock.cases.panel
    user.press(panel.batch_button)
    user.wait(lambda: "adapting" in row(user, "case-0001").work, 30)
    assert panel.batch_button.text() == "Pause"
    user.press(panel.batch_button)
    rest(user)
    work = user.context.caselist.work("case-0001")
    folders = work.run_folders()
    assert len(folders) == 1
    assert work.run_folder is None
    assert row(user, "case-0001").state is CaseState.NEW
    assert panel.batch_button.text() == "Adapt all"
    user.press(panel.batch_button)
    user.wait(lambda: work.run_folder is not None, 60)
    assert work.run_folder == folders[0]


def test_source_masks_alone_are_there_again_on_coming_back(listed: Any) -> None:
    user = listed()
    user.press(user.dock.adapt.segment_button)
    user.finish()
    made = np.array(user.session.source.stack)
    assert made.any()
    user.do("next_case")
    in_view(user, "case-0002")
    assert user.session is None
    user.do("previous_case")
    in_view(user, "case-0001")
    assert user.session.segmented_slices == {0, 1, 2}
    np.testing.assert_array_equal(user.session.source.layer.data, made)
    assert names(user) == {"p1", "p1 source"}
    # So are those of slices that were not adapted with the others.
    user.context.slices_text = "2"
    user.adapt()
    rest(user)
    user.do("next_case")
    in_view(user, "case-0002")
    user.do("previous_case")
    in_view(user, "case-0001")
    assert user.session.adapted_slices == {1}
    assert user.session.segmented_slices == {0, 1, 2}
    np.testing.assert_array_equal(user.session.source.layer.data, made)


def test_scans_that_have_moved_are_found_where_the_user_says(
    listed: Any, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = listed()
    cases = user.dock.cases
    moved = scans.rename(tmp_path / "another disk")
    here = user.context.caselist
    here.refresh()
    assert "The scans have moved" in here.missing("case-0004")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(moved))
    (action,) = (one for one in cases.panel.menu.actions() if "moved" in one.text())
    action.trigger()
    user.wait(lambda: "new place" in cases.panel.said.said(), 20)
    assert here.missing("case-0004") is None
    cases.open_case("case-0004")
    in_view(user, "case-0004")
    assert names(user) == {"p4"}


def test_the_list_that_was_closed_with_its_cross_comes_back_where_it_was(
    listed: Any, scans: Path
) -> None:
    user = listed()
    user.do("next_case")
    in_view(user, "case-0002")
    panel = user.dock.cases.panel
    dock = dock_of(panel)
    assert dock is not None
    dock.destroyOnClose()  # what napari's cross does
    user.settle()
    assert dock_of(panel) is None
    assert user.context.case.key == "case-0002"
    user.dock.cases.open_list([str(scans)])
    user.wait(lambda: dock_of(panel) is not None, 20)
    rest(user)
    assert shown(user) == ["1", "2", "3", "4"]
    assert user.dock.cases.current.key == "case-0002"
    user.do("previous_case")
    in_view(user, "case-0001")


def test_closing_the_window_ends_the_work_ahead_and_frees_the_list(
    start: Callable[..., Any], scans: Path
) -> None:
    user = start(passes=400)
    user.dock.cases.open_list([str(scans)])
    in_view(user, "case-0001")
    folder = user.context.caselist.folder
    user.press(user.dock.cases.panel.batch_button)
    user.wait(lambda: "adapting" in row(user, "case-0001").work, 30)
    user.viewer.close()

    def busy() -> set[str]:
        return {t.name for t in threading.enumerate() if t.name.startswith("napari-grata")}

    user.wait(lambda: not busy(), 60)
    again = CaseList.load(folder)
    try:
        assert again.writable
        assert again.state("case-0001") is CaseState.NEW  # cut off: it goes on from there
        assert len(again.work("case-0001").run_folders()) == 1
    finally:
        again.close()


def test_a_folder_or_files_that_are_dropped_become_a_list(
    start: Callable[..., Any], scans: Path
) -> None:
    user = start()
    for paths, count in (([scans], 4), ([scans / "p1.nii.gz", scans / "p2.nii.gz"], 2)):
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        how = (Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton)
        none = Qt.KeyboardModifier.NoModifier
        QApplication.sendEvent(user.dock, QDragEnterEvent(QPoint(5, 5), *how, none))
        QApplication.sendEvent(user.dock, QDropEvent(QPointF(5, 5), *how, none))
        user.wait(lambda count=count: len(shown(user)) == count, 20)
        in_view(user, "case-0001")
        assert names(user) == {"p1"}
    rest(user)


def test_no_more_than_two_cases_are_in_memory_beside_the_one_in_view(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        data = rng.normal(100, 20, (40, 48, 2)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"p{number}.nii.gz")
    user = start()
    user.dock.cases.open_list([str(folder)])
    in_view(user, "case-0001")
    seen: weakref.WeakSet[Any] = weakref.WeakSet()
    for number in range(2, 7):
        seen.add(user.context.scan)
        user.do("next_case")
        in_view(user, f"case-000{number}")
        user.wait(lambda: not user.dock.cases.prefetch.queue.busy, 20)
        gc.collect()
        assert len(user.dock.cases.prefetch._kept) <= 2
        # The one before is kept, read anew; those before it are let go of.
        assert len(seen) <= 1
    rest(user)


def test_a_case_is_not_taken_for_that_of_the_list_that_was_open_before(
    stage: Any, tmp_path: Path, qtbot: Any
) -> None:
    lists = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        data = np.random.default_rng(0).normal(100, 20, (40, 48, 2)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / name / "p1.nii.gz")
        lists.append(CaseList.make([str(tmp_path / name)]))
    prefetch = Prefetch(stage.context)
    read: list[Any] = []
    prefetch.ready.connect(read.append)
    prefetch.want(lists[0], ["case-0001"])
    prefetch.want(lists[0], ())  # closed while the case is being read
    prefetch.want(lists[1], ["case-0001"])
    qtbot.waitUntil(lambda: not prefetch.queue.busy, timeout=20_000)
    assert [loaded.scan.path.parent.name for loaded in read] == ["second"]
    for caselist in lists:
        caselist.close()
