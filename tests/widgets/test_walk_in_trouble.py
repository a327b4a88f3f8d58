"""What goes wrong around a reader: nothing made is lost, and it is said in words."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_grata.adaptation.settings import Settings
from napari_grata.review.cases import CaseState
from napari_grata.widgets.cases.errands import Errands

WAYS = ("contours", "curtain", "side_by_side", "planes", "uncertainty")


def put_scan(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(100, 20, (40, 48, 3)).astype(np.float32)
    data[12 : 26 + seed, 14:34] += 150
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1, 3, 1])), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(1, 4):
        put_scan(folder / f"p{number}.nii.gz", number)
    return folder


@pytest.fixture
def open_list(make_dock: Any, scans: Path, qtbot: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens the list in a fresh viewer and waits for its first case."""
    docks = []

    def start(**changes: Any) -> Any:
        dock = make_dock(scan=None)
        dock.model.choose("tiny-brain")
        quick = Settings(method="grata", learning_rate=1e-3).but(**changes)
        dock.adapt.advanced.set_settings(quick)
        dock.cases.open_list(str(scans))
        in_view(dock, qtbot)
        docks.append(dock)
        return dock

    yield start
    while docks:
        rest(docks.pop(), qtbot)


@pytest.fixture
def adapted(open_list: Any, qtbot: Any) -> Callable[..., Any]:
    """Return a function that opens the list and adapts all of it."""

    def start(**changes: Any) -> Any:
        dock = open_list(**changes)
        dock.cases.panel.ahead_button.click()
        qtbot.waitUntil(lambda: not dock.cases.ahead.running, timeout=60_000)
        qtbot.waitUntil(
            lambda: dock.desk.session is not None and bool(dock.desk.session.adapted),
            timeout=20_000,
        )
        rest(dock, qtbot)
        return dock

    return start


def in_view(dock: Any, qtbot: Any, key: str | None = None) -> None:
    """Wait until a case is in view, and its decisions with it."""
    cases, decide = dock.cases, dock.decide
    qtbot.waitUntil(
        lambda: cases.case is not None and cases._wanted is None and key in (None, cases.case.key),
        timeout=20_000,
    )
    qtbot.waitUntil(
        lambda: (
            dock.desk.scan is None
            or (decide.docket is not None and decide.docket.scan is dock.desk.scan)
        ),
        timeout=20_000,
    )
    decide.refresh()


def rest(dock: Any, qtbot: Any) -> None:
    """Wait until nothing runs in the background any more."""
    if dock.ties._ends == []:
        return  # closed
    cases = dock.cases
    cases.ahead.pause()
    qtbot.waitUntil(
        lambda: (
            not cases.ahead.running
            and not cases.ahead.stopping
            and not any(errands.busy for errands in cases.findChildren(Errands))
            and not dock.compare.unsure.job.running
            and dock.desk.runner.kind is None
        ),
        timeout=30_000,
    )


def begin(dock: Any, way: str, qtbot: Any) -> None:
    if way != "uncertainty" or dock.compare.unsure.kind is None:
        dock.verbs[way]()
    if way == "uncertainty" and dock.desk.session.adapted:
        qtbot.waitUntil(lambda: dock.compare.unsure.layer is not None, timeout=20_000)
    qtbot.wait(50)


@pytest.mark.parametrize("way", WAYS)
def test_the_window_closes_in_the_middle_of_comparing(adapted: Any, qtbot: Any, way: str) -> None:
    dock = adapted()
    window = dock.viewer.window._qt_window
    window.resize(1366, 768)
    window.show()
    begin(dock, way, qtbot)
    dock.viewer.close()
    qtbot.wait(50)


@pytest.mark.parametrize("way", WAYS)
def test_layers_deleted_by_hand_leave_the_rest_usable(adapted: Any, qtbot: Any, way: str) -> None:
    dock = adapted()
    desk = dock.desk
    desk.cycle_difference()
    for which in ("after", "before", "scan"):
        begin(dock, way, qtbot)
        layer = dock.cases.shelf.layer if which == "scan" else getattr(desk.session, which).layer
        dock.viewer.layers.remove(layer)
        qtbot.wait(30)
        for verb in ("toggle_masks", "cycle_difference", "toggle_fill", "next_flagged"):
            dock.verbs.get(verb, getattr(desk, verb, None))()
        qtbot.wait(30)
    dock.decide.decide("reject")
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")
    assert dock.desk.session is not None
    assert dock.desk.session.adapted
    dock.cases.previous()
    in_view(dock, qtbot, "case-0001")
    assert dock.desk.session.adapted
    assert len(dock.viewer.layers) >= 3


def test_the_window_closes_while_runs_go_on(open_list: Any, qtbot: Any) -> None:
    dock = open_list(passes=20)
    dock.viewer.window._qt_window.show()
    dock.cases.panel.ahead_button.click()
    qtbot.wait(300)
    dock.adapt.adapt_button.click()
    qtbot.wait(300)
    dock.viewer.close()
    qtbot.wait(300)


def test_another_theme_in_the_middle_of_a_run(open_list: Any, qtbot: Any, finished: Any) -> None:
    dock = open_list(passes=4)
    dock.cases.panel.ahead_button.click()
    dock.adapt.adapt_button.click()
    qtbot.wait(200)
    dock.viewer.theme = "light"
    qtbot.wait(200)
    dock.viewer.theme = "dark"
    finished(dock)
    assert dock.desk.problem is None
    assert len(dock.desk.session.adapted) == 3


def test_the_folder_of_the_list_vanishes(adapted: Any, qtbot: Any, monkeypatch: Any) -> None:
    dock = adapted()
    folder = dock.cases.list.folder
    away = folder.with_name("away")
    folder.rename(away)
    dock.decide.bar.choose_scope("case")
    dock.decide.section.comment.setText("while away")
    dock.decide.decide("accept")
    said = dock.decide.bar.sentence.said()
    assert dock.decide.bar.retry_button.isVisibleTo(dock), said
    layer = dock.desk.session.after.layer
    layer.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    drawn = np.array(layer.data)
    qtbot.wait(500)
    dock.cases.next()
    in_view(dock, qtbot)
    assert "Errno" not in dock.decide.edits.problem
    dock.cases.previous()
    in_view(dock, qtbot)
    if folder.exists():
        shutil.rmtree(folder)
    away.rename(folder)
    dock.decide.bar.retry_button.click()
    rest(dock, qtbot)
    assert dock.cases.list.state("case-0001") is not CaseState.NEW
    assert dock.decide.docket.log.current("case-0001")[None].comment == "while away"
    assert any(np.array_equal(each.data, drawn) for each in dock.viewer.layers)


def test_the_scans_vanish(adapted: Any, scans: Path, qtbot: Any) -> None:
    dock = adapted()
    scans.rename(scans.with_name("away"))
    dock.cases.next()
    in_view(dock, qtbot)
    dock.cases.next()
    in_view(dock, qtbot)
    scans.with_name("away").rename(scans)
    dock.cases.open_case("case-0003")
    in_view(dock, qtbot, "case-0003")
    qtbot.wait(100)
    dock.cases.previous()
    in_view(dock, qtbot, "case-0002")
    dock.cases.open_case("case-0003")
    in_view(dock, qtbot, "case-0003")
    assert dock.desk.session is not None
    assert dock.desk.session.adapted


def test_a_scan_becomes_another_one(adapted: Any, scans: Path, qtbot: Any) -> None:
    dock = adapted()
    put_scan(scans / "p2.nii.gz", 9)
    put_scan(scans / "p3.nii.gz", 8)
    dock.cases.open_case("case-0003")
    in_view(dock, qtbot, "case-0003")
    session = dock.desk.session
    # Masks of another scan are not laid over this one.
    assert session is None or not session.adapted
    assert "not the one that the run was made on" in dock.cases.panel.said.said()
    dock.cases.previous()
    in_view(dock, qtbot, "case-0002")
    assert dock.desk.session is None or not dock.desk.session.adapted


def test_two_viewers_of_one_program_know_each_others_decisions(
    adapted: Any, open_list: Any, qtbot: Any
) -> None:
    dock = adapted()
    dock.decide.bar.choose_scope("case")
    dock.decide.decide("accept")
    other = open_list()
    other.decide.bar.choose_scope("case")
    other.decide.decide("reject")
    dock.cases.next()
    in_view(dock, qtbot, "case-0002")
    dock.decide.decide("keep-source")
    rest(other, qtbot)
    records = dock.cases.list.history
    assert [(one.number, one.case, one.verdict) for one in records] == [
        (1, "case-0001", "accept"),
        (2, "case-0001", "reject"),
        (3, "case-0002", "keep-source"),
    ]


def test_a_second_program_may_look_but_not_write(adapted: Any, open_list: Any, qtbot: Any) -> None:
    dock = adapted()
    dock.decide.bar.choose_scope("case")
    dock.decide.decide("accept")
    folder = dock.cases.list.folder
    rest(dock, qtbot)
    dock.cases.close_list()
    rest(dock, qtbot)
    code = f"""if True:
        import sys
        from napari_grata.review.case_list import CaseList
        kept = CaseList.load({str(folder)!r})
        print("held", flush=True)
        sys.stdin.readline()
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline().strip() == "held"
        dock.cases.resume_list(folder)
        in_view(dock, qtbot, "case-0001")
        dock.decide.bar.choose_scope("case")
        assert dock.desk.session.adapted
        assert "accepted" in dock.decide.bar.sentence.said()
        assert not dock.decide.bar.buttons["reject"].isEnabled()
        assert "another program" in dock.decide.bar.buttons["reject"].toolTip()
        dock.cases.next()
        in_view(dock, qtbot, "case-0002")
        assert dock.desk.session.adapted
        other.stdin.write("\n")
    assert [one.verdict for one in dock.cases.list.history] == ["accept"]
