"""What leaves the dock: a report of what is shown, and a command line that makes it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFileDialog


def test_nothing_can_be_taken_out_before_there_is_something(make_dock: Any) -> None:
    section = make_dock().take_out.section
    assert not section.report_button.isEnabled()
    assert not section.masks_button.isEnabled()
    assert not section.command_button.isEnabled()


def test_the_report_of_the_case_in_view_holds_what_the_person_drew(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    layer = dock.viewer.layers["case_017 grata"]
    layer.data[2, :9, :9] = 2 - (layer.data[2, :9, :9] == 2)
    path = tmp_path / "report.html"
    dock.take_out.write_report_to(path)
    finished(dock)
    text = path.read_text(encoding="utf-8")
    assert "A person drew on 1 slice." in text
    assert "case_017" not in text
    assert text.count("<img") == 2
    assert dock.take_out.section.said.said() == "Wrote report.html."
    assert dock.take_out.section.show_button.isEnabled()


def test_a_report_can_be_written_while_masks_before_are_missing(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.scan.slices.setCurrentIndex(dock.scan.slices.findData("range"))
    dock.scan.range.setText("2-3")
    dock.model.segment_button.click()
    finished(dock)
    session = dock.desk.session
    assert len(session.segmented) < len(session.adapted)
    dock.take_out.write_report_to(tmp_path / "report.html")
    finished(dock)
    assert "<h3>Before and after</h3>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_whose_ending_is_added_replaces_no_other_report(
    make_dock: Any, finished: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    (tmp_path / "report.html").write_text("of last year")
    for name, text in (("report", "of last year"), ("report.html", None)):
        answer = (str(tmp_path / name), "")
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, answer=answer: answer)
        dock.take_out.ask_report()
        finished(dock)
        if text is not None:
            assert (tmp_path / "report.html").read_text() == text
            assert "exists already" in dock.message.said()
    assert dock.take_out.section.said.said() == "Wrote report.html."


def test_a_report_does_not_count_as_saving_the_masks(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.take_out.write_report_to(tmp_path / "report.html")
    finished(dock)
    assert not dock.desk.session.saved
    dock.saving.save_to(tmp_path)
    finished(dock)
    assert dock.desk.session.saved


def test_a_report_that_cannot_be_written_is_a_sentence_and_the_masks_stay(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    masks = dock.viewer.layers["case_017 grata"].data.copy()
    (tmp_path / "file").write_text("x")
    dock.take_out.write_report_to(tmp_path / "file" / "report.html")
    finished(dock)
    assert "could not be written" in dock.message.said()
    np.testing.assert_array_equal(dock.viewer.layers["case_017 grata"].data, masks)


def test_the_copied_command_makes_the_same_masks(
    make_dock: Any, finished: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from napari_grata.cli import main
    from napari_grata.scans import read_mask

    dock = make_dock(passes=2, seed=5)
    dock.scan.slices.setCurrentIndex(dock.scan.slices.findData("range"))
    dock.scan.range.setText("2-5")
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.take_out.section.command_button.click()
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    program, *words = shlex.split(clipboard.text())
    assert program == "napari-grata"
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--quiet", "--device", "cpu"]) == 0
    again = read_mask(tmp_path / "out" / "again" / "adapted.nii.gz", dock.desk.scan)
    np.testing.assert_array_equal(again, dock.viewer.layers["case_017 grata"].data)
