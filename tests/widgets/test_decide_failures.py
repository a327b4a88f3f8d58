"""A full disk, a folder that is gone: a clear word, nothing lost, and another try."""

from __future__ import annotations

import io
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QMessageBox


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


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Everything that napari's notifications say."""
    from napari.utils.notifications import notification_manager

    shown: list[str] = []

    def take(notification: Any) -> None:
        shown.append(notification.message)

    notification_manager.notification_ready.connect(take)
    yield shown
    notification_manager.notification_ready.disconnect(take)


def ready(dock: Any, qtbot: Any) -> None:
    decide = dock.decide
    qtbot.waitUntil(
        lambda: decide.docket is not None and decide.docket.scan is dock.desk.scan, timeout=20_000
    )
    decide.refresh()


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a few bytes, as on a full disk (the error's number differs)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        # What is printed may go to a file as well, and is not what is tested here.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def vanished(folder: Path) -> Iterator[None]:
    """Put a file where a folder was: not even root can write below it."""
    aside = folder.with_name(folder.name + "-aside")
    folder.rename(aside)
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def lines(dock: Any) -> list[dict[str, Any]]:
    text = dock.decide.docket.log.path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def draw(dock: Any, index: int = 2) -> np.ndarray:
    dock.desk.go_to(index)
    dock.decide.decide("edit")
    layer = dock.viewer.layers.selection.active
    layer.brush_size = 6
    layer.paint((index, 5, 5), layer.selected_label)
    drawn: np.ndarray = layer.data.copy()
    return drawn


def test_a_decision_that_no_disk_takes_is_in_force_and_can_be_tried_again(
    adapted: Any, told: list[str]
) -> None:
    dock = adapted()
    bar = dock.decide.bar
    assert bar.retry_button.isHidden()
    dock.desk.go_to(1)
    dock.decide.decide("accept")
    dock.desk.go_to(2)
    with full_disk():
        dock.decide.decide("reject")
        assert dock.decide.docket.current()[2].verdict == "reject"
        assert bar.buttons["reject"].property("inforce") == "true"
        assert "not on the disk yet" in bar.sentence.said()
        assert bar.sentence.property("tone") == "wrong"
        assert not bar.retry_button.isHidden()
        assert any("not on the disk yet" in text for text in told)
        bar.retry_button.click()
        assert not bar.retry_button.isHidden()
    assert [line["verdict"] for line in lines(dock)] == ["accept"]
    bar.retry_button.click()
    assert bar.retry_button.isHidden()
    assert [line["verdict"] for line in lines(dock)] == ["accept", "reject"]
    assert bar.sentence.said().startswith("Axial 3: rejected")


def test_a_folder_that_vanished_and_came_back_costs_nothing(adapted: Any, told: list[str]) -> None:
    dock = adapted()
    dock.decide.decide("accept")
    with vanished(dock.decide.docket.caselist.folder):
        for index in (1, 2, 3):
            dock.desk.go_to(index)
            dock.decide.decide("keep-source")
        dock.decide.undo()
        assert dock.decide.clerk.unsaved == 4
        assert 3 not in dock.decide.docket.current()
    dock.decide.retry()
    assert [line["action"] for line in lines(dock)] == ["decide"] * 4 + ["undo"]
    assert dock.decide.bar.retry_button.isHidden()
    assert any("share connected" in text for text in told)


def test_decisions_that_wait_outlive_the_case_in_view(
    adapted: Any, qtbot: Any, volume: Path, tmp_path: Path
) -> None:
    import nibabel as nib

    image: Any = nib.load(volume)
    other = tmp_path / "other.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), other)
    dock = adapted()
    scan = dock.desk.scan
    docket = dock.decide.docket
    with vanished(docket.caselist.folder):
        dock.decide.decide("reject")
        dock.opening.open(str(other))
        qtbot.waitUntil(lambda: dock.desk.scan is not scan, timeout=5000)
        ready(dock, qtbot)
        assert dock.decide.docket is not docket
        assert not dock.decide.bar.retry_button.isHidden()
    dock.decide.retry()
    assert docket.log.unsaved == ()
    assert "reject" in docket.log.path.read_text()


def test_a_drawing_that_no_disk_takes_stays_and_can_be_tried_again(
    adapted: Any, qtbot: Any, told: list[str]
) -> None:
    dock = adapted()
    dock.decide.edits._soon.setInterval(50)
    drawn = draw(dock)
    with full_disk():
        qtbot.waitUntil(lambda: bool(dock.decide.edits.problem), timeout=20_000)
        dock.decide.refresh()
        assert "What you drew is not on the disk yet" in dock.decide.bar.sentence.said()
        assert not dock.decide.bar.retry_button.isHidden()
        assert dock.decide.save_edits() is False
        assert dock.decide.docket.work.edits == ()
    assert any("What you drew is not on the disk yet" in text for text in told)
    dock.decide.bar.retry_button.click()
    assert dock.decide.bar.retry_button.isHidden()
    np.testing.assert_array_equal(dock.decide.docket.work.edit(dock.desk.scan), drawn)


def test_where_no_list_can_be_kept_decisions_wait_in_memory_for_a_place(
    make_dock: Any, finished: Any, qtbot: Any, monkeypatch: Any, tmp_path: Path, told: list[str]
) -> None:
    home = tmp_path / "home"
    home.write_text("a file where the user's data should be")
    dock = make_dock()
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    dock.decide.clerk.start_anew()
    dock.adapt.adapt_button.click()
    finished(dock)
    ready(dock, qtbot)
    assert dock.decide.docket.caselist is None
    dock.desk.go_to(2)
    dock.decide.decide("accept")
    assert dock.decide.docket.current()[2].verdict == "accept"
    assert not dock.decide.bar.retry_button.isHidden()
    dock.decide.retry()
    assert dock.decide.docket.caselist is None
    home.unlink()
    dock.decide.retry()
    assert dock.decide.docket.caselist is not None
    (line,) = lines(dock)
    assert (line["slice_index"], line["verdict"]) == (2, "accept")
    assert line["facts"]["decided"] <= line["time"]
    assert dock.decide.bar.retry_button.isHidden()


def test_the_window_asks_before_it_closes_over_what_is_not_saved(adapted: Any) -> None:
    dock = adapted()
    asked: list[str] = []

    def stay() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        asked.append(box.text())
        button = next(b for b in box.buttons() if b.text() == "Keep it open")
        button.click()

    folder = dock.decide.docket.caselist.folder
    window = dock.viewer.window._qt_window
    with vanished(folder):
        dock.decide.decide("accept")
        QTimer.singleShot(200, stay)
        assert not window.close()
    assert "not on the disk yet" in asked[0]
    dock.decide.retry()
    assert dock.decide.closing.write() == ""
