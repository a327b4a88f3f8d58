"""A reader walks through the whole program: two centres, the shipped model, clicks and keys."""

from __future__ import annotations

import csv
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from qtpy.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QMouseEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox

from napari_grata.review.cases import CaseState
from napari_grata.scans.samples import find_sample
from napari_grata.widgets.cases.errands import Errands
from napari_grata.widgets.compare.pane import Pane

CENTRES = ("Drishti-GS_tight", "RIM-ONE_r3")
EACH = 5
NAMES = ("MUELLER", "Mueller", "Anna", "_1954_")
CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
NO_KEY = Qt.KeyboardModifier.NoModifier


class Reader:
    """A person before the screen: clicks, presses keys, drags, waits and looks."""

    def __init__(self, viewer: Any, dock: Any, qtbot: Any) -> None:
        self.viewer, self.dock, self.qtbot = viewer, dock, qtbot

    @property
    def canvas(self) -> Any:
        return self.viewer.window._qt_viewer.canvas.native

    @property
    def session(self) -> Any:
        return self.dock.desk.session

    @property
    def case(self) -> str:
        return str(self.dock.cases.case.key)

    def click(self, button: Any) -> None:
        assert button.isEnabled(), (button.text(), button.toolTip())
        self.dock.area.ensureWidgetVisible(button)
        QApplication.processEvents()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def press(self, key: str, modifier: Any = NO_KEY) -> None:
        self.canvas.setFocus()
        self.qtbot.keyClick(self.canvas, getattr(Qt.Key, f"Key_{key}"), modifier)

    def wait(self, condition: Callable[[], bool], seconds: int = 20) -> None:
        self.qtbot.waitUntil(condition, timeout=1000 * seconds)

    def wait_for_run(self) -> None:
        self.wait(lambda: self.dock.desk.runner.kind is None, 60)
        assert self.dock.desk.problem is None, self.dock.desk.problem

    def in_view(self, key: str | None = None) -> None:
        """Wait until a case is in view, and its decisions with it."""
        cases, decide = self.dock.cases, self.dock.decide
        self.wait(
            lambda: (
                cases.case is not None and cases._wanted is None and key in (None, cases.case.key)
            )
        )
        self.wait(lambda: decide.docket is not None and decide.docket.scan is self.dock.desk.scan)
        decide.refresh()

    def drag(self, widget: Any, *places: QPoint) -> None:
        """Press the left button at the first place, draw through the others, let go."""
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        path = [(QEvent.Type.MouseButtonPress, places[0], left, left)]
        path += [(QEvent.Type.MouseMove, place, none, left) for place in places[1:]]
        path += [(QEvent.Type.MouseButtonRelease, places[-1], left, none)]
        for kind, place, button, buttons in path:
            where = QPointF(place), QPointF(widget.mapToGlobal(place))
            QApplication.sendEvent(widget, QMouseEvent(kind, *where, button, buttons, NO_KEY))
            QApplication.processEvents()

    def drop(self, folder: Path) -> None:
        """Drop a folder on the dock."""
        mime = QMimeData()
        mime.setUrls([QUrl.fromLocalFile(str(folder))])
        how = Qt.DropAction.CopyAction, mime, Qt.MouseButton.LeftButton, NO_KEY
        QApplication.sendEvent(self.dock, QDragEnterEvent(QPoint(20, 20), *how))
        QApplication.sendEvent(self.dock, QDropEvent(QPointF(20, 20), *how))

    def layers(self) -> set[str]:
        """Return what is in the layer list, without the name of the scan."""
        name = self.dock.desk.scan.name
        return {layer.name.removeprefix(name).strip() for layer in self.viewer.layers}

    def shown(self) -> tuple[bool, bool]:
        return self.session.before.visible, self.session.after.visible

    def decided(self) -> str:
        self.dock.decide.refresh()
        return str(self.dock.decide.bar.sentence.said())

    def rest(self) -> None:
        """Wait until nothing goes on in the background any more."""
        cases = self.dock.cases
        self.wait(
            lambda: (
                not cases.ahead.running
                and not cases.ahead.stopping
                and not any(errands.busy for errands in cases.findChildren(Errands))
                and not self.dock.measure.job.running
                and not self.dock.decide.edits.job.running
            ),
            30,
        )


@pytest.fixture
def scans(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Photographs of two centres under names such as patients have: real ones, else samples."""
    folder = tmp_path / "scans"
    try:
        root: Path | None = request.getfixturevalue("data_root")
    except pytest.skip.Exception:
        root = None
    for letter, centre in zip("AB", CENTRES, strict=True):
        (folder / letter).mkdir(parents=True)
        found = sorted((root / "local_disc_cup" / centre / "images").glob("*.png")) if root else []
        for number, path in enumerate(found[:EACH]):
            shutil.copy(path, folder / letter / f"MUELLER_Anna_1954_{letter}{number}.png")
        if not found:
            _put_samples(folder / letter, letter)
    return folder


def _put_samples(folder: Path, letter: str) -> None:
    """The sample of a centre as it is, and the other way round."""
    key = {"A": "fundus-disc", "B": "fundus-other-camera"}[letter]
    with Image.open(find_sample(key).path) as picture:
        picture.save(folder / f"MUELLER_Anna_1954_{letter}0.png")
        ImageOps.mirror(picture).save(folder / f"MUELLER_Anna_1954_{letter}1.png")


@pytest.fixture
def sit_down(make_napari_viewer: Any, qtbot: Any) -> Callable[[], Reader]:
    """Return a function that starts the program as a person would."""
    from napari_grata.widgets.tour import set_tour_wanted

    def start() -> Reader:
        set_tour_wanted(False)
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1366, 768)
        _, dock = viewer.window.add_plugin_dock_widget("napari-grata")
        reader = Reader(viewer, dock, qtbot)
        reader.wait(lambda: dock.model.device.count() > 1, 60)
        return reader

    return start


def test_a_reader_walks_through_two_centres(
    sit_down: Any,
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "napari_grata")
    reader = sit_down()
    opens_the_list(reader, scans)
    reviews_while_the_next_are_adapted(reader)
    compares_in_every_way(reader)
    slides_in_time(reader)
    corrects_and_teaches(reader)
    decides(reader)
    goes_to_and_fro(reader)
    measures(reader, tmp_path, monkeypatch)
    takes_out(reader, tmp_path, monkeypatch)
    left = leaves(reader)
    reader = sit_down()
    comes_back(reader, left)
    nothing_names_a_patient(tmp_path, caplog)


def opens_the_list(reader: Reader, scans: Path) -> None:
    dock = reader.dock
    reader.drop(scans)
    reader.in_view()
    count = len(list(scans.rglob("*.png")))
    assert [row.number for row in dock.cases.panel.model.rows] == list(range(1, count + 1))
    assert dock.cases.panel.progress.said() == f"0 of {count} decided, 0 adapted"
    assert reader.case == "case-0001"
    assert dock.model.entry().name == "fundus-disc-cup"
    assert reader.layers() == {""}
    assert not dock.compare.bar.buttons["curtain"].isEnabled()
    assert "no mask" in reader.decided()


def reviews_while_the_next_are_adapted(reader: Reader) -> None:
    dock, cases = reader.dock, reader.dock.cases
    reader.click(cases.panel.ahead_button)
    assert cases.panel.ahead_button.text() == "Pause"
    reader.wait(lambda: cases.list.summary("case-0001") is not None, 60)
    # What was made ahead of the case in view comes into view by itself.
    reader.wait(lambda: reader.session is not None and bool(reader.session.adapted))
    assert reader.layers() == {"", "source", "grata"}
    assert reader.shown() == (False, True)
    reader.press("J")
    reader.in_view("case-0002")
    reader.press("K")
    reader.in_view("case-0001")
    reader.wait(lambda: not cases.ahead.running, 100)
    reader.rest()
    total = len(cases.list)
    assert cases.list.progress().prepared == total
    reader.wait(lambda: cases.panel.progress.said() == f"0 of {total} decided, {total} adapted")
    assert cases.panel.said.said() == "All cases that could be are adapted."
    states = {row.state for row in cases.panel.model.rows}
    assert states <= {CaseState.ADAPTED, CaseState.FLAGGED}
    assert all(row.shift_words for row in cases.panel.model.rows)
    # Nothing is ever accepted by itself.
    assert dock.decide.docket.log.records == ()


def compares_in_every_way(reader: Reader) -> None:
    dock, bar = reader.dock, reader.dock.compare.bar
    reader.press("G")
    assert reader.shown() == (True, False)
    assert dock.review.shown.said() == "Showing the mask before."
    reader.press("G")
    assert reader.shown() == (False, True)
    reader.press("H")
    assert dock.review.shown.said().startswith("Difference, all")
    assert "difference" in reader.layers()
    for _ in reader.session.card.structures:
        reader.press("H")
    reader.press("H")
    assert dock.review.shown.said() == "Difference off."
    for key, modifier, way in (
        ("Q", NO_KEY, "contours"),
        ("W", NO_KEY, "curtain"),
        ("Q", SHIFT, "side_by_side"),
    ):
        reader.press(key, modifier)
        assert dock.compare.way == way
        assert bar.buttons[way].isChecked()
        if way == "curtain":
            handle = dock.compare._mode.handle
            middle = handle.rect().center()
            reader.drag(handle, middle, middle + QPoint(100, 0))
            assert handle.place > 0.5
        reader.press(key, modifier)
        assert dock.compare.way is None
        assert reader.shown() == (False, True)
    assert not bar.buttons["planes"].isEnabled()
    reader.press("U", SHIFT)
    unsure = dock.compare.unsure
    reader.wait(lambda: unsure.layer is not None and unsure.layer.visible)
    assert dock.review.shown.said()
    while unsure.kind is not None:
        reader.press("U", SHIFT)
    reader.wait(lambda: unsure.layer is None or not unsure.layer.visible)
    reader.wait(lambda: not unsure.job.running)


def slides_in_time(reader: Reader) -> None:
    dock, bar = reader.dock, reader.dock.adapt.steps
    reader.wait(bar.isEnabled)
    last = bar.last()
    assert last >= 1
    result = reader.session.after.as_shown().copy()
    reader.dock.area.ensureWidgetVisible(bar)
    bar.slider.setFocus()
    reader.qtbot.keyClick(bar.slider, Qt.Key.Key_Home)
    assert bar.label.said() == f"After step 0 of {last}"
    reader.wait(lambda: "step" in reader.layers())
    step = next(layer for layer in reader.viewer.layers if layer.name.endswith(" step"))
    before = reader.session.scan.get_mask(reader.session.before.stack, 0)
    # Before any step only what is normalised differs from the model as it was trained.
    assert np.mean(np.squeeze(np.asarray(step.data)) == before) > 0.9
    reader.click(bar.use_button)
    reader.wait_for_run()
    assert bar.label.said() == f"In use: the state after step 0 of {last}"
    assert "step" not in reader.layers()
    reader.click(bar.undo_button)
    reader.wait_for_run()
    assert bar.label.said() == "Result of the run"
    np.testing.assert_array_equal(reader.session.after.as_shown(), result)
    assert dock.desk.problem is None


def corrects_and_teaches(reader: Reader) -> None:
    from napari_grata.widgets.compare.planes import world_to_screen

    dock, section = reader.dock, reader.dock.correct.section
    session = reader.session
    adapted = session.after.as_shown().copy()
    reader.press("E", SHIFT)
    layer = session.after.layer
    assert reader.viewer.layers.selection.active is layer
    assert layer.mode == "paint"
    # A stroke of the first structure across a corner where there is none.
    value = section.value()
    screen = world_to_screen(reader.viewer, reader.canvas.size())
    height, width = session.scan.mask_shape[-2:]
    scale = np.asarray(layer.scale)[-2:]
    path = [
        screen.map(QPointF(x * scale[1], 0.1 * height * scale[0])).toPoint()
        for x in np.linspace(0.1 * width, 0.4 * width, 6)
    ]
    reader.drag(reader.canvas, *path)
    painted = session.after.as_shown() != adapted
    assert painted.sum() > 20
    assert (session.after.as_shown()[painted] == value).all()
    words = f"{painted.sum()} pixels corrected, on 1 photograph."
    reader.wait(lambda: section.count.said().replace("\u202f", "") == words)
    strokes = session.after.as_shown().copy()
    # What was drawn saves itself.
    work = dock.cases.current_work()
    reader.wait(lambda: work.edit_version > 0)
    reader.press("R", SHIFT)
    assert dock.desk.runner.kind == "adapt"
    reader.wait_for_run()
    taught = session.after.as_shown().copy()
    assert (taught[painted] == value).all()
    assert "Learned from" in session.note
    assert (taught != strokes).any()
    reader.click(section.undo_button)
    np.testing.assert_array_equal(session.after.as_shown(), strokes)
    layer.undo()
    np.testing.assert_array_equal(session.after.as_shown(), adapted)
    # Nobody paints while a run goes on: the brush has to be taken again.
    reader.press("E", SHIFT)
    reader.drag(reader.canvas, *path)
    np.testing.assert_array_equal(session.after.as_shown(), strokes)
    layer.mode = "pan_zoom"


def decides(reader: Reader) -> None:
    dock, section = reader.dock, reader.dock.decide.section
    reader.qtbot.keyClicks(section.reviewer, "AB")
    reader.qtbot.keyClicks(section.comment, "rim is faint")
    reader.press("1", CTRL)
    assert "accepted by AB, " in reader.decided()
    decision = dock.decide.docket.current()[None]
    assert (decision.verdict, decision.comment) == ("accept", "rim is faint")
    assert decision.mask.edit >= 1
    reader.press("0", CTRL)
    assert "not decided yet" in reader.decided()
    reader.click(section.redo_button)
    assert "accepted by AB, " in reader.decided()
    section.go_on.setChecked(True)
    for key, number in (("2", 3), ("4", 4)):
        reader.press("J") if number == 3 else None
        reader.in_view(f"case-{number - 1:04d}")
        reader.press(key, CTRL)
        reader.in_view(f"case-{number:04d}")
    section.go_on.setChecked(False)
    reader.press("5", CTRL)
    states = [dock.cases.list.state(f"case-{number:04d}") for number in (1, 2, 3, 4)]
    assert states[0] in (CaseState.ACCEPTED, CaseState.EDITED)
    assert states[1:] == [CaseState.KEPT_SOURCE, CaseState.REJECTED, CaseState.SECOND_READER]
    total = len(dock.cases.list)
    reader.wait(lambda: dock.cases.panel.progress.said().startswith(f"4 of {total} decided"))


def goes_to_and_fro(reader: Reader) -> None:
    panel = reader.dock.cases.panel
    panel.filter.setCurrentIndex(panel.filter.findData("rejected"))
    assert [row.key for row in panel.model.rows] == ["case-0003", "case-0004"]
    reader.press("K")
    reader.in_view("case-0003")
    assert [row.key for row in panel.model.rows] == ["case-0003"]
    panel.filter.setCurrentIndex(panel.filter.findData("all"))
    panel.order.setCurrentIndex(panel.order.findData("change"))
    changes = [row.change for row in panel.model.rows]
    assert changes == sorted(changes, reverse=True)
    reader.click(panel.next_button) if panel.model.rows[-1].key != "case-0003" else None
    panel.order.setCurrentIndex(panel.order.findData("list"))
    reader.in_view()
    reader.dock.cases.open_case("case-0001")
    reader.in_view("case-0001")


def measures(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = reader.dock.measure
    measure.fold.set_expanded(True)
    reader.wait(lambda: bool(measure.panel.rows))
    assert {row.structure for row in measure.panel.rows} >= {"disc", "cup"}
    path = tmp_path / "measurements.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    reader.click(measure.panel.save_button)
    reader.wait(path.is_file)
    reader.wait_for_run()
    lines = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    assert len(lines) > 5
    measure.fold.set_expanded(False)


def takes_out(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = reader.dock.take_out.section
    path, masks = tmp_path / "report.html", tmp_path / "masks"
    masks.mkdir()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))

    def choose() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        whole = next(b for b in box.buttons() if "list" in b.text())
        reader.qtbot.mouseClick(whole, Qt.MouseButton.LeftButton)

    QTimer.singleShot(300, choose)
    reader.click(section.report_button)
    reader.wait_for_run()
    assert section.said.said() == "Wrote report.html."
    text = path.read_text(encoding="utf-8")
    assert all(case.key in text for case in reader.dock.cases.list.cases)
    assert "rim is faint" in text
    monkeypatch.setattr(
        "napari_grata.widgets.take_out.feature.opening.ask_folder", lambda *a: str(masks)
    )
    reader.click(section.masks_button)
    reader.wait_for_run()
    total = len(reader.dock.cases.list)
    assert section.said.said().startswith(f"Wrote 2 of {total} masks, and cases.csv.")
    written = sorted(file.name for file in masks.iterdir())
    assert written == ["case-0001.png", "case-0002.png", "cases.csv"]
    reader.click(section.command_button)
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text().startswith("napari-grata ")


def leaves(reader: Reader) -> dict[str, Any]:
    cases = reader.dock.cases
    left = {
        "folder": cases.list.folder,
        "case": reader.case,
        "states": [cases.list.state(case) for case in cases.list.cases],
        "masks": reader.session.after.as_shown().copy(),
        "sentence": reader.decided(),
    }
    reader.rest()
    reader.viewer.close()
    return left


def comes_back(reader: Reader, left: dict[str, Any]) -> None:
    cases = reader.dock.cases
    reader.wait(lambda: cases.menus._scan_recent.isEnabled())
    (action,) = cases.menus._scan_recent.actions()
    assert "4 of" in action.text()
    action.trigger()
    reader.in_view(left["case"])
    assert cases.list.folder == left["folder"]
    assert [cases.list.state(case) for case in cases.list.cases] == left["states"]
    reader.wait(lambda: reader.session is not None and bool(reader.session.adapted))
    reader.dock.decide.refresh()
    np.testing.assert_array_equal(reader.session.after.as_shown(), left["masks"])
    assert reader.decided() == left["sentence"]
    assert reader.dock.decide.section.initials() == "AB"
    reader.wait(reader.dock.adapt.steps.isEnabled)
    reader.rest()


def nothing_names_a_patient(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names stand in the scans' own names and in the files that say where the scans are."""
    home = Path(os.environ["NAPARI_GRATA_HOME"])
    made = [path for path in (*home.rglob("*"), *tmp_path.rglob("*")) if path.is_file()]
    made = [path for path in made if tmp_path / "scans" not in path.parents]
    assert len(made) > 20
    assert not [path for path in made if any(name in path.name for name in NAMES)]
    naming = {path.name for path in made if any(n.encode() in path.read_bytes() for n in NAMES)}
    assert naming <= {"list.sqlite", "cases.json", "scan.json"}, naming
    assert not any(name in caplog.text for name in NAMES)


def test_a_volume_is_looked_at_in_three_planes(sit_down: Any) -> None:
    reader = sit_down()
    dock = reader.dock
    dock.opening.open_sample("brain-other-scanner")
    reader.wait(lambda: dock.desk.scan is not None)
    dock.scan.slices.setCurrentIndex(dock.scan.slices.findData("range"))
    dock.scan.range.setText("26-28")
    reader.click(dock.adapt.adapt_button)
    reader.wait_for_run()
    assert reader.session.adapted == {25, 26, 27}
    dock.desk.go_to(26)
    reader.press("W", SHIFT)
    assert dock.compare.bar.buttons["planes"].isChecked()
    panes = reader.viewer.window._qt_window.findChildren(Pane)
    reader.wait(lambda: any(pane.isVisible() for pane in panes))
    coronal = next(pane for pane in panes if pane.isVisible())
    before = tuple(reader.viewer.dims.current_step)
    reader.drag(coronal, coronal.rect().center() + QPoint(25, 10))
    assert tuple(reader.viewer.dims.current_step) != before
    reader.press("W", SHIFT)
    assert not dock.compare.bar.buttons["planes"].isChecked()
    assert reader.shown() == (False, True)
