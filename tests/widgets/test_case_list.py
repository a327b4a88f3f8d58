"""The list of cases in a real viewer: opening, going through, adapting ahead, coming back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from napari.layers import Labels

from napari_grata.review.cases import CaseState


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's data folder of its own."""
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


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
def open_list(make_dock: Any, scans: Path, qtbot: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the list in a fresh viewer and waits for its first case."""
    docks = []

    def start(**changes: Any) -> Any:
        dock = make_dock(scan=None)
        dock.model.choose("tiny-brain")
        from napari_grata.adaptation.settings import Settings

        dock.adapt.advanced.set_settings(
            Settings(method="grata", learning_rate=1e-3).but(**changes)
        )
        dock.cases.open_list(str(scans))
        in_view(dock, qtbot)
        docks.append(dock)
        return dock

    yield start
    while docks:
        rest(docks.pop(), qtbot)


def in_view(dock: Any, qtbot: Any, key: str | None = None) -> None:
    """Wait until a case is in view and nothing is being read."""
    cases = dock.cases

    def there() -> bool:
        return cases.case is not None and cases._wanted is None and key in (None, cases.case.key)

    qtbot.waitUntil(there, timeout=20_000)


def rest(dock: Any, qtbot: Any) -> None:
    """Wait until nothing runs in the background any more."""
    if dock.ties._ends == []:
        return  # closed
    cases = dock.cases
    cases.ahead.pause()
    qtbot.waitUntil(
        lambda: not (cases.ahead.running or cases.ahead.stopping or cases.busy), timeout=30_000
    )


def adapt_all(dock: Any, qtbot: Any) -> None:
    """Adapt all cases ahead and wait for the end."""
    dock.cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: not dock.cases.ahead.running, timeout=60_000)
    rest(dock, qtbot)
    qtbot.wait(150)


def keys_shown(dock: Any) -> list[str]:
    return [row.key[-1] for row in dock.cases.panel.model.rows]


def test_a_folder_becomes_a_list_with_its_first_case_in_view(open_list: Any) -> None:
    dock = open_list()
    assert keys_shown(dock) == ["1", "2", "3", "4"]
    assert dock.cases.case.title == "p1"
    assert dock.desk.scan.name == "p1"
    assert dock.cases.window.shown
    assert dock.cases.panel.progress.said().startswith("0 of 4 decided")


def test_adapting_ahead_passes_over_a_broken_case_and_says_why(open_list: Any, qtbot: Any) -> None:
    dock = open_list()
    adapt_all(dock, qtbot)
    cases = dock.cases
    states = [cases.list.state(case) for case in cases.list.cases]
    assert states[2] is CaseState.FAILED
    assert all(state in (CaseState.ADAPTED, CaseState.FLAGGED) for state in states[:2] + states[3:])
    row = cases.panel.model.row("case-0003")
    assert row.problem
    assert "p3" not in row.problem
    # The result of the case in view has appeared by itself.
    session = dock.desk.session
    assert session is not None
    assert len(session.adapted) == 3
    assert {"p1", "p1 source", "p1 grata"} == {layer.name for layer in dock.viewer.layers}


def test_the_next_case_brings_its_masks_and_leaves_what_the_person_added(
    open_list: Any, qtbot: Any
) -> None:
    dock = open_list()
    adapt_all(dock, qtbot)
    mine = dock.viewer.add_points(np.zeros((1, 3)), name="mine")
    copy = Labels(dock.desk.session.after.layer.data.copy(), name="my copy")
    copy.metadata.update(dock.desk.session.after.layer.metadata)
    dock.viewer.add_layer(copy)
    dock.desk.session.show_after(False)
    dock.verbs["next_case"]()
    in_view(dock, qtbot, "case-0002")
    names = {layer.name for layer in dock.viewer.layers}
    assert names == {"p2", "p2 source", "p2 grata", "mine", "my copy"}
    assert mine in dock.viewer.layers
    session = dock.desk.session
    assert session.scan.name == "p2"
    assert len(session.adapted) == 3
    # It is looked at as the one before was.
    assert session.before.visible
    assert not session.after.visible


def test_next_follows_filter_and_order(open_list: Any, qtbot: Any) -> None:
    dock = open_list()
    adapt_all(dock, qtbot)
    panel = dock.cases.panel
    changes = {row.key: row.change for row in panel.model.rows if row.change is not None}
    panel.order.setCurrentIndex(panel.order.findData("change"))
    wanted = sorted(changes, key=lambda key: -changes[key])
    # The broken case has no change and comes last.
    assert [row.key for row in panel.model.rows] == [*wanted, "case-0003"]
    panel.filter.setCurrentIndex(panel.filter.findData("failed"))
    # The case in view stays listed.
    assert {row.key for row in panel.model.rows} == {"case-0001", "case-0003"}
    dock.cases.open_case(wanted[0])
    in_view(dock, qtbot, wanted[0])
    panel.filter.setCurrentIndex(panel.filter.findData("all"))
    dock.cases.next()
    in_view(dock, qtbot, wanted[1])


def test_a_list_comes_back_exactly_where_it_was(open_list: Any, qtbot: Any) -> None:
    dock = open_list()
    adapt_all(dock, qtbot)
    cases = dock.cases
    cases.next()
    in_view(dock, qtbot, "case-0002")
    cases.list.decide("case-0001", "accept", reviewer="AB")
    cases.panel.order.setCurrentIndex(cases.panel.order.findData("state"))
    rest(dock, qtbot)
    folder = cases.list.folder
    cases.close_list()
    rest(dock, qtbot)
    assert not dock.viewer.layers
    cases.resume_list(folder)
    in_view(dock, qtbot, "case-0002")
    assert cases.panel.choices() == ("all", "", "state")
    assert cases.list.state("case-0001") is CaseState.ACCEPTED
    assert len(dock.desk.session.adapted) == 3
    qtbot.waitUntil(lambda: dock.desk.session.run is not None, timeout=20_000)


def test_a_run_of_the_person_is_kept_with_the_case(
    open_list: Any, qtbot: Any, finished: Any
) -> None:
    dock = open_list()
    dock.adapt.adapt_button.click()
    finished(dock)
    rest(dock, qtbot)
    work = dock.cases.current_work()
    assert work.run_folder is not None
    assert work.summary.adapted
    assert work.thumbnail is not None
    qtbot.waitUntil(
        lambda: dock.cases.panel.model.row("case-0001").change is not None, timeout=5_000
    )


def test_what_was_drawn_survives_going_to_the_next_case(open_list: Any, qtbot: Any) -> None:
    dock = open_list()
    adapt_all(dock, qtbot)
    work = dock.cases.current_work()
    layer, scan = dock.desk.session.after.layer, dock.desk.scan
    layer.data[1, 2:6, 2:6] = 1
    layer.events.labels_update(data=layer.data, offset=(0, 0, 0))
    drawn = np.array(layer.data)
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")
    saved = work.edit(scan)
    still = [each for each in dock.viewer.layers if each is layer]
    assert (saved is not None and np.array_equal(saved, drawn)) or still


def test_a_run_that_goes_on_keeps_its_case_in_view(
    open_list: Any, qtbot: Any, first_record: Any, finished: Any
) -> None:
    dock = open_list(passes=20)
    first_record(dock)
    dock.cases.next()
    assert dock.cases.case.key == "case-0001"
    assert "going on" in dock.cases.panel.said.said()
    dock.desk.runner.cancel()
    finished(dock)
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")


def test_pausing_ahead_and_going_on_loses_no_step(open_list: Any, qtbot: Any) -> None:
    dock = open_list(passes=30)
    cases = dock.cases
    cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: "adapting" in cases.panel.model.row("case-0001").work, timeout=30_000)
    cases.panel.ahead_button.click()
    rest(dock, qtbot)
    work = cases.list.work("case-0001")
    folders = work.run_folders()
    assert len(folders) == 1
    assert work.run_folder is None
    assert cases.list.state("case-0001") is CaseState.NEW
    cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: work.run_folder is not None, timeout=60_000)
    assert work.run_folder == folders[0]


def test_the_panel_can_be_closed_and_opened_again(open_list: Any) -> None:
    dock = open_list()
    window = dock.cases.window
    window.dock.destroyOnClose()
    assert not window.shown
    window.show()
    assert window.shown
    assert len(dock.cases.panel.model.rows) == 4


def test_closing_the_viewer_ends_the_work_ahead(open_list: Any, qtbot: Any) -> None:
    dock = open_list(passes=200)
    cases = dock.cases
    cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: "adapting" in cases.panel.model.row("case-0001").work, timeout=30_000)
    thread = cases.ahead._worker.thread
    window, folder = dock.viewer.window, cases.list.folder
    window.remove_dock_widget(dock)
    dock.deleteLater()
    qtbot.waitUntil(lambda: not thread.is_alive(), timeout=20_000)
    qtbot.wait(50)
    assert "Cases" not in window.dock_widgets
    # Another program may go on with the list at once.
    from napari_grata.review.case_list import CaseList

    again = CaseList.load(folder)
    assert again.writable
    assert len(again.work("case-0001").run_folders()) == 1
    again.close()


def test_dropping_a_folder_makes_a_list_and_one_file_opens_it(
    make_dock: Any, scans: Path, volume: Path, qtbot: Any
) -> None:
    from qtpy.QtCore import QMimeData, QUrl

    dock = make_dock(scan=None)
    one = QMimeData()
    one.setUrls([QUrl.fromLocalFile(str(volume))])
    dock.opening.drop(one)
    assert dock.cases.list is None
    assert len(dock.viewer.layers) == 1
    several = QMimeData()
    several.setUrls([QUrl.fromLocalFile(str(scans / f"p{n}.nii.gz")) for n in (1, 2)])
    dock.opening.drop(several)
    in_view(dock, qtbot)
    assert len(dock.cases.list) == 2
    rest(dock, qtbot)


def test_masks_of_segment_alone_are_there_again_when_the_person_comes_back(
    open_list: Any, qtbot: Any, finished: Any
) -> None:
    dock = open_list()
    dock.model.segment_button.click()
    finished(dock)
    before = dock.desk.session.before.stack.copy()
    assert before.any()
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")
    dock.cases.previous()
    in_view(dock, qtbot, "case-0001")
    session = dock.desk.session
    assert np.array_equal(session.before.stack, before)
    assert session.segmented == {0, 1, 2}
    assert {layer.name for layer in dock.viewer.layers} == {"p1", "p1 source"}


def test_masks_of_segment_alone_make_way_for_those_of_a_run_that_came_later(
    open_list: Any, qtbot: Any, finished: Any
) -> None:
    dock = open_list()
    cases = dock.cases
    dock.model.segment_button.click()
    finished(dock)
    cases.next()
    in_view(dock, qtbot, "case-0002")
    cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: cases.ahead.finished, timeout=60_000)
    rest(dock, qtbot)
    assert cases.list.state("case-0001") in (CaseState.ADAPTED, CaseState.FLAGGED)
    cases.previous()
    in_view(dock, qtbot, "case-0001")
    assert dock.desk.session.adapted == {0, 1, 2}
    assert cases.shelf.run_folder is not None


def test_no_more_than_two_cases_are_kept_beside_the_one_in_view(open_list: Any, qtbot: Any) -> None:
    dock = open_list()
    for key in ("case-0002", "case-0003", "case-0004"):
        dock.cases.next()
        in_view(dock, qtbot, key)
        rest(dock, qtbot)
        assert len(dock.cases.prefetch.held) <= 2
        # A damaged case is said to be so, and the way goes on.
        if key == "case-0003":
            assert not dock.viewer.layers
            assert dock.cases.panel.said.said()


def test_a_decision_does_not_move_the_case_in_view_from_its_place(
    open_list: Any, qtbot: Any
) -> None:
    dock = open_list()
    panel = dock.cases.panel
    panel.filter.setCurrentIndex(panel.filter.findData("open"))
    panel.order.setCurrentIndex(panel.order.findData("state"))
    shown = keys_shown(dock)
    dock.cases.list.decide("case-0001", "reject")
    dock.cases.refresh_case("case-0001")
    qtbot.waitUntil(lambda: panel.model.row("case-0001").state is CaseState.REJECTED, timeout=5_000)
    assert keys_shown(dock) == shown
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")
    # Once it is left, the filter holds for it as for all others.
    assert keys_shown(dock) == ["2", "3", "4"]


def test_closing_the_window_tells_the_worker_ahead_at_once(open_list: Any, qtbot: Any) -> None:
    dock = open_list(passes=200)
    cases = dock.cases
    cases.panel.ahead_button.click()
    qtbot.waitUntil(lambda: "adapting" in cases.panel.model.row("case-0001").work, timeout=30_000)
    worker = cases.ahead._worker
    # Nothing of Qt is processed between the wish to close and the end of the program.
    dock.viewer.close()
    assert worker.stop.is_set()
    worker.thread.join(20)
    assert not worker.thread.is_alive()
