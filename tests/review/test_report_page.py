"""The report: one file, nothing from outside, no names, every decision in it."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_grata.adaptation import AdaptationRun, Settings
from napari_grata.review.case_list import case_of_scan
from napari_grata.review.cases import Decision
from napari_grata.review.report import ReportCase, case_of_run, write_report
from napari_grata.scans import FileError, open_scan
from napari_grata.segmenters import load_segmenter
from tools.generators.models import write_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over a scan whose file names a patient."""
    home = tmp_path_factory.mktemp("report")
    write_tiny(home / "tiny", title="Tiny <model>")
    data = np.random.default_rng(0).integers(0, 255, (60, 70, 4), np.uint8)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), home / "Miller_Anna.nii.gz")
    run = AdaptationRun(
        load_segmenter(home / "tiny", device="cpu"),
        open_scan(home / "Miller_Anna.nii.gz"),
        Settings(learning_rate=0.02),
        folder=home / "run",
    )
    for _ in run.records():
        pass
    run.close()
    return home


class Reader(HTMLParser):
    """Collects tags, what they load, and whether all were closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(path: Path) -> tuple[str, Reader]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_a_report_is_one_file_that_loads_nothing_from_outside(folder: Path, tmp_path: Path) -> None:
    case = replace(case_of_run(folder / "run", "case-0001"), state="accepted")
    path = write_report(tmp_path / "report", [case])
    assert path.name == "report.html"
    text, reader = read(path)
    assert all(load.startswith(("data:image/png", "#")) for load in reader.loads)
    assert reader.tags.count("img") == 2
    assert "script" not in reader.tags
    assert not re.search(r"url\(|@import|http", text)
    assert "not a medical device" in text


def test_no_patient_is_named_in_a_report(folder: Path, tmp_path: Path) -> None:
    case = case_of_run(folder / "run", "case-0001")
    text = write_report(tmp_path / "r.html", [case]).read_text(encoding="utf-8")
    assert "Miller" not in text
    assert "Anna" not in text
    assert str(folder) not in text


def test_decisions_comments_flags_and_settings_are_in_it_and_cannot_break_it(
    folder: Path, tmp_path: Path
) -> None:
    decisions = (
        (
            "whole case",
            Decision(1, "2026-11-21T10:00:00+00:00", "case-0007", None, "accept"),
            False,
        ),
        ("axial 2", Decision(2, "", "case-0007", 1, "reject", "<b>rim</b> & vessel", "hard"), True),
    )
    case = case_of_run(folder / "run", "case-0007")
    case = replace(case, state="rejected", decisions=decisions)
    text, _ = read(write_report(tmp_path / "r.html", [case]))
    assert "&lt;b&gt;rim&lt;/b&gt; &amp; vessel" in text
    assert "the mask was changed afterwards" in text
    assert "Tiny &lt;model&gt;" in text
    assert "learning rate 0.02" in text
    assert case.info["model"]["weights_sha256"] in text
    for flags in case.flags.values():
        for flag in flags:
            assert flag.text.split(",")[0][:20] in text


def test_what_a_person_drew_counts_in_the_table(folder: Path, tmp_path: Path) -> None:
    plain = case_of_run(folder / "run", "case-0001")
    assert plain.masks is not None
    scan = plain.masks.scan
    stack = scan.mask_stack(plain.masks.adapted.items())
    drawn = stack.copy()
    drawn[1, 5:45, 5:45] = 1
    work = case_of_scan(scan).work("case-0001")
    work.save_edit(drawn, scan)
    case = case_of_run(folder / "run", "case-0001", work=work)
    assert set(case.masks.drawn()) == {1}
    text, _ = read(write_report(tmp_path / "r.html", [case]))
    assert "A person drew on 1 slice." in text
    other, _ = read(write_report(tmp_path / "plain.html", [plain]))
    assert _row(text, "disc") != _row(other, "disc")


def _row(text: str, structure: str) -> str:
    found = re.search(rf"<tr><td>{structure}</td>.*?</tr>", text)
    assert found is not None
    return found.group()


def test_cases_are_taken_one_by_one_and_let_go(folder: Path, tmp_path: Path) -> None:
    alive: list[str] = []
    most = 0

    def cases():
        nonlocal most
        for number in range(4):
            code = f"case-{number:04d}"
            alive.append(code)
            most = max(most, len(alive))
            yield ReportCase(code, "new", close=lambda code=code: alive.remove(code))

    text, _ = read(write_report(tmp_path / "r.html", cases()))
    assert (most, alive) == (1, [])
    assert text.count("<article") == 4
    assert "4 cases: 4 new" in text


def test_a_report_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", [])
    first = path.read_bytes()
    with pytest.raises(FileError, match="Nothing is overwritten"):
        write_report(path, [ReportCase("case-0001")])
    assert path.read_bytes() == first
    write_report(path, [ReportCase("case-0001")], overwrite=True)
    assert path.read_bytes() != first


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="Choose another folder"):
        write_report(tmp_path / "file" / "r.html", [])


def test_an_old_report_stays_when_a_case_fails(tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", [ReportCase("case-0001")])
    first = path.read_bytes()

    def broken():
        yield ReportCase("case-0001")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_report(path, broken(), overwrite=True)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
