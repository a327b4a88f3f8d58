"""What leaves the dock: masks, a report, the decided masks of a list, and a command line."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog, QMessageBox

Start = Callable[..., Any]


def test_nothing_can_be_taken_out_before_there_is_something(start: Start, volume: Path) -> None:
    user = start(volume)
    export = user.dock.export
    for button in (export.save_button, export.report_button, export.command_button):
        assert not button.isEnabled()
    assert export.masks_button.isHidden()


def test_masks_are_on_the_scan_s_grid_and_replace_nothing_unasked(
    start: Start, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_grata.scans import read_mask

    user = start(volume)
    user.adapt()
    user.paint(2, 5, 5, value=2)
    export, out = user.dock.export, tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(out))
    user.press(export.save_button)
    user.finish()
    assert not user.context.problem
    files = {path.name: path for path in out.glob("*.nii.gz")}
    assert set(files) == {"case-0001 source.nii.gz", "case-0001 adapted.nii.gz"}
    saved, scan = nib.load(files["case-0001 adapted.nii.gz"]), nib.load(volume)
    assert saved.shape == scan.shape
    np.testing.assert_allclose(saved.affine, scan.affine)
    back = read_mask(files["case-0001 adapted.nii.gz"], user.context.scan)
    np.testing.assert_array_equal(back, user.session.adapted.layer.data)
    # Slices that come into view are no strokes; one that is taken back is.
    for index in (3, 2, 4, 2):
        user.context.go_to(index)
        user.settle()
        assert user.session.saved == "taken out"
    user.session.adapted.layer.undo()
    assert user.session.saved == ""
    # What is there stays unless the user says so.
    for answer, replaced in (("No", False), ("Yes", True)):
        files["case-0001 adapted.nii.gz"].write_bytes(b"mine")
        said = getattr(QMessageBox.StandardButton, answer)
        monkeypatch.setattr(QMessageBox, "question", lambda *_, said=said: said)
        user.press(export.save_button)
        user.finish()
        assert (files["case-0001 adapted.nii.gz"].read_bytes() != b"mine") is replaced
    export.names.setChecked(True)
    user.press(export.save_button)
    user.finish()
    assert (out / "case_017 adapted.nii.gz").exists()


def test_the_report_holds_what_was_drawn_and_no_name(
    start: Start, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = start(volume)
    user.adapt()
    user.decisions_are_known()
    user.paint(2, 5, 5, value=2)
    report = tmp_path / "report.html"
    report.write_text("of last year")
    for name, kept in (("report", True), ("report.html", False)):
        answer = (str(tmp_path / name), "")
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, answer=answer: answer)
        user.press(user.dock.export.report_button)
        user.finish()
        assert (report.read_text(encoding="utf-8") == "of last year") is kept
        # An ending that was added by us was not asked about.
        assert ("Nothing is overwritten" in user.dock.message.said()) is kept
    text = report.read_text(encoding="utf-8")
    assert "A person drew on 1 slice" in text or "drew on 1 slice" in text
    assert "case_017" not in text
    assert "<img" in text
    assert user.dock.export.said.said() == "Wrote report.html."
    assert not user.session.saved


def test_a_report_that_cannot_be_written_is_a_sentence_and_the_masks_stay(
    start: Start, volume: Path, tmp_path: Path
) -> None:
    user = start(volume)
    user.adapt()
    user.decisions_are_known()
    masks = user.session.adapted.stack.copy()
    (tmp_path / "file").write_text("x")
    user.dock.export.write_report_to(tmp_path / "file" / "report.html")
    user.finish()
    assert "there is a file of this name" in user.dock.message.said()
    np.testing.assert_array_equal(user.session.adapted.stack, masks)


def test_the_copied_command_makes_the_same_masks(
    start: Start, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_grata.cli import main
    from napari_grata.scans import read_mask

    user = start(volume, passes=2, seed=5)
    user.dock.scan.slices.setCurrentIndex(2)
    user.dock.scan.range.setText("2-5")
    user.dock.scan.range.editingFinished.emit()
    user.adapt()
    user.press(user.dock.export.command_button)
    program, *words = shlex.split(QGuiApplication.clipboard().text())
    assert program == "napari-grata"
    assert "tiny-brain" in words
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--quiet", "--device", "cpu"]) == 0
    again = read_mask(tmp_path / "out" / "again" / "adapted.nii.gz", user.context.scan)
    np.testing.assert_array_equal(again, user.session.adapted.layer.data)


def test_the_decided_masks_of_a_list_come_with_a_table_of_all_cases(
    start: Start, tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("anna.nii.gz", "bert.nii.gz"):
        (scans / name).write_bytes(volume.read_bytes())
    user = start()
    cases, export = user.dock.cases, user.dock.export
    cases.open_list([str(scans)])
    user.wait(lambda: cases.current.key == "case-0001", 20)
    user.decisions_are_known()
    user.adapt()
    decide = user.dock.decide
    decide.scope.setCurrentIndex(1)
    decide.scope.activated.emit(1)
    user.wait(lambda: decide.buttons["accept"].isEnabled(), 10)
    user.press(decide.buttons["accept"])
    out = tmp_path / "decided"
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(out))
    assert not export.masks_button.isHidden()
    user.press(export.masks_button)
    user.finish()
    assert [path.name for path in out.glob("*.nii.gz")] == ["case-0001.nii.gz"]
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert "anna" not in (out / "cases.csv").read_text(encoding="utf-8")
    assert export.said.said().startswith("Wrote 1 of 2 masks, and cases.csv. Not case-0002:")
    # A folder that holds masks is left as it is.
    user.press(export.masks_button)
    user.finish()
    assert "nothing is overwritten" in user.dock.message.said()
    cases.close_list()
    user.wait(lambda: not cases.queue.busy, 20)
