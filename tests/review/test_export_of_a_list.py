"""What leaves a list: only masks that a person decided for, and a report without names."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_grata.adaptation import AdaptationRun, Settings
from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import CaseSummary
from napari_grata.review.final_masks import export_masks, mask_digest
from napari_grata.review.report import report_cases, write_report
from napari_grata.scans import FileError, open_scan
from napari_grata.segmenters import Segmenter, load_segmenter
from tools.generators.models import write_tiny

AFFINE = np.array([[-1.0, 0, 0, 30], [0, 1.0, 0, -20], [0, 0, 2.5, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = write_tiny(tmp_path_factory.mktemp("models") / "tiny")
    return load_segmenter(folder, device="cpu")


@pytest.fixture
def cases(segmenter: Segmenter, tmp_path: Path) -> CaseList:
    """Three adapted volumes whose files name patients."""
    scans = tmp_path / "scans"
    scans.mkdir()
    rng = np.random.default_rng(0)
    for name in ("Miller_Anna", "Ottokar_B", "Zoepritz_C"):
        data = rng.integers(0, 255, (60, 70, 3), np.uint8)
        nib.save(nib.Nifti1Image(data, AFFINE), scans / f"{name}.nii.gz")
    made = CaseList.make(scans, tmp_path / "list")
    for case in made.cases:
        adapt(made, case.key, segmenter)
    return made


def adapt(
    cases: CaseList,
    key: str,
    segmenter: Segmenter,
    rate: float = 0.02,
    slices: list[int] | None = None,
) -> None:
    work = cases.work(key)
    run = AdaptationRun(
        segmenter,
        open_scan(cases.case(key).sources[0]),
        Settings(learning_rate=rate),
        slices=slices,
        folder=work.new_run_folder(),
    )
    for _ in run.records():
        pass
    run.close()
    work.write_summary(CaseSummary(segmented=True, adapted=True, run=run.folder.name, slices=3))


def decide(cases: CaseList, key: str, verdict: str, slice_index: int | None = None) -> None:
    cases.decide(key, verdict, slice_index=slice_index, mask=cases.mask_now(key))


def scan_of(cases: CaseList, key: str):
    return open_scan(cases.case(key).sources[0])


def stack_of(cases: CaseList, key: str, which: str) -> np.ndarray:
    from napari_grata.adaptation import reopen

    run = reopen(cases.work(key).run_folder)
    masks = {"source": run.source_masks, "adapted": run.adapted_masks}[which]
    run.close()
    return scan_of(cases, key).mask_stack(masks.items())


def test_only_decided_masks_leave_the_list_on_the_scans_own_grid(
    cases: CaseList, tmp_path: Path
) -> None:
    first, second, _ = (case.key for case in cases.cases)
    decide(cases, first, "accept")
    decide(cases, second, "keep-source")
    found = list(export_masks(cases, tmp_path / "out"))
    assert [one.path.name if one.path else None for one in found] == [
        "case-0001.nii.gz",
        "case-0002.nii.gz",
        None,
    ]
    assert found[2].reason == "Nothing has been decided yet."
    image = nib.load(tmp_path / "out" / "case-0001.nii.gz")
    source = nib.load(cases.case(first).sources[0])
    np.testing.assert_array_equal(image.affine, source.affine)
    assert image.shape == source.shape
    from napari_grata.scans import read_mask

    for key, name, which in (
        (first, "case-0001", "adapted"),
        (second, "case-0002", "source"),
    ):
        got = read_mask(tmp_path / "out" / f"{name}.nii.gz", scan_of(cases, key))
        np.testing.assert_array_equal(got, stack_of(cases, key, which))
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["accepted", "mask before kept", "ready to review"]
    assert "Miller" not in (tmp_path / "out" / "cases.csv").read_text()


def test_what_was_drawn_where_the_model_was_not_asked_is_taken_out_too(
    cases: CaseList, segmenter: Segmenter, tmp_path: Path
) -> None:
    key = "case-0001"
    adapt(cases, key, segmenter, slices=[0, 1])
    scan, work = scan_of(cases, key), cases.work(key)
    drawn = stack_of(cases, key, "adapted")
    base = mask_digest(drawn)
    scan.put_mask(drawn, 2, np.ones_like(scan.get_mask(drawn, 2)))
    work.save_edit(drawn, scan, base)
    decide(cases, key, "accept")
    np.testing.assert_array_equal(cases.standing(key, scan).stack, drawn)
    told = next(one for one in report_cases(cases) if one.code == key)
    assert list(told.masks.drawn()) == [2]
    told.close()
    # Slice by slice, the one that was only drawn on has to be decided on as well.
    cases.undo()
    for index in (0, 1):
        decide(cases, key, "accept", index)
    assert cases.standing(key, scan).reason == "1 of 3 slices has not been decided on."


def test_a_scan_from_the_source_centre_itself_has_a_distance_in_the_table(
    cases: CaseList, tmp_path: Path
) -> None:
    work = cases.work("case-0001")
    work.write_summary(work.summary.but(shift=0.0))
    list(export_masks(cases, tmp_path / "out"))
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [row["shift"] for row in csv.DictReader(file)] == ["0.000", "", ""]


def test_a_report_does_not_name_a_scan_that_cannot_be_read(cases: CaseList, tmp_path: Path) -> None:
    cases.case("case-0001").sources[0].write_bytes(b"no scan any more")
    path = write_report(tmp_path / "report.html", islice(report_cases(cases), 1))
    text = path.read_text(encoding="utf-8")
    assert "could not be opened" in text
    assert "Miller" not in text


def test_masks_are_named_after_their_scans_only_where_a_person_asks_for_it(
    cases: CaseList, tmp_path: Path
) -> None:
    decide(cases, "case-0001", "accept")
    list(export_masks(cases, tmp_path / "out", scan_names=True))
    assert (tmp_path / "out" / "Miller_Anna.nii.gz").is_file()


def test_a_decision_on_a_slice_comes_before_one_on_the_case(cases: CaseList) -> None:
    key = "case-0001"
    decide(cases, key, "accept")
    decide(cases, key, "keep-source", slice_index=1)
    found = cases.standing(key, scan_of(cases, key))
    assert found.stack is not None
    assert found.verdicts == {"accept": 2, "keep-source": 1}
    np.testing.assert_array_equal(found.stack[1], stack_of(cases, key, "source")[1])
    np.testing.assert_array_equal(found.stack[0], stack_of(cases, key, "adapted")[0])


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ({0: "accept"}, "2 of 3 slices have not been decided on."),
        ({None: "reject"}, "It was rejected."),
        ({None: "accept", 2: "reject"}, "1 of 3 slices was rejected."),
        ({None: "edit"}, "It was left in editing: accept the drawing when it is done."),
        ({None: "second-reader"}, "It was left to a second reader."),
    ],
)
def test_a_case_that_is_not_through_gives_no_mask_and_says_why(
    cases: CaseList, verdicts: dict[int | None, str], reason: str
) -> None:
    for index, verdict in verdicts.items():
        decide(cases, "case-0002", verdict, index)
    found = cases.standing("case-0002", scan_of(cases, "case-0002"))
    assert (found.stack, found.reason) == (None, reason)


def test_what_was_drawn_is_the_final_mask_and_drawing_on_asks_for_a_new_decision(
    cases: CaseList,
) -> None:
    key = "case-0001"
    scan = scan_of(cases, key)
    drawn = stack_of(cases, key, "adapted")
    drawn[2, 10:30, 10:30] = 2
    cases.work(key).save_edit(drawn, scan)
    decide(cases, key, "accept")
    found = cases.standing(key, scan)
    assert found.stack is not None
    np.testing.assert_array_equal(found.stack, drawn)
    drawn[0, :5] = 1
    cases.work(key).save_edit(drawn, scan)
    found = cases.standing(key, scan)
    assert found.stack is None
    assert "changed after the decision" in found.reason


def test_a_drawing_over_an_earlier_mask_is_not_passed_off_as_one_over_this_mask(
    cases: CaseList,
) -> None:
    key = "case-0001"
    scan = scan_of(cases, key)
    drawn = stack_of(cases, key, "adapted")
    drawn[2, 10:30, 10:30] = 2
    work = cases.work(key)
    work.save_edit(drawn, scan, mask_digest(np.zeros_like(drawn)))
    now = stack_of(cases, key, "adapted")
    rests_on = cases.mask_now(key).but(digest=mask_digest(now))
    cases.decide(key, "accept", mask=rests_on)
    found = cases.standing(key, scan)
    assert found.stack is not None
    np.testing.assert_array_equal(found.stack, now)
    cases.decide(key, "accept", mask=rests_on.but(digest=mask_digest(drawn)))
    assert cases.standing(key, scan).stack is None


def test_adapting_again_asks_for_a_new_decision_but_the_mask_before_stands(
    cases: CaseList, segmenter: Segmenter
) -> None:
    decide(cases, "case-0001", "accept")
    decide(cases, "case-0002", "keep-source")
    for key in ("case-0001", "case-0002"):
        adapt(cases, key, segmenter, rate=0.05)
    assert cases.standing("case-0001", scan_of(cases, "case-0001")).stack is None
    assert cases.standing("case-0002", scan_of(cases, "case-0002")).stack is not None


def test_masks_of_an_earlier_export_are_not_overwritten(cases: CaseList, tmp_path: Path) -> None:
    decide(cases, "case-0001", "accept")
    list(export_masks(cases, tmp_path / "out"))
    before = (tmp_path / "out" / "case-0001.nii.gz").read_bytes()
    decide(cases, "case-0001", "keep-source")
    with pytest.raises(FileError, match="nothing is overwritten"):
        list(export_masks(cases, tmp_path / "out"))
    assert (tmp_path / "out" / "case-0001.nii.gz").read_bytes() == before


def test_a_scan_that_is_gone_does_not_stop_the_others(cases: CaseList, tmp_path: Path) -> None:
    for case in cases.cases:
        decide(cases, case.key, "accept")
    cases.case("case-0002").sources[0].unlink()
    cases.refresh()
    found = {one.key: one for one in export_masks(cases, tmp_path / "out")}
    assert found["case-0001"].path is not None
    assert found["case-0003"].path is not None
    assert "not where it was" in found["case-0002"].reason


def test_the_report_of_a_list_tells_every_case_and_names_nobody(
    cases: CaseList, tmp_path: Path
) -> None:
    cases.decide(
        "case-0001",
        "accept",
        comment="rim is thin",
        difficulty="hard",
        reviewer="AB",
        mask=cases.mask_now("case-0001"),
    )
    cases.case("case-0003").sources[0].unlink()
    cases.refresh()
    text = write_report(tmp_path / "r.html", report_cases(cases)).read_text(encoding="utf-8")
    for expected in ("case-0001", "case-0002", "case-0003", "rim is thin", "hard", "AB"):
        assert expected in text
    assert "not where it was" in text
    for name in ("Miller_Anna", "Ottokar", "Zoepritz", str(tmp_path)):
        assert name not in text


def test_the_table_says_where_a_mask_covers_some_slices_only(
    cases: CaseList, segmenter: Segmenter, tmp_path: Path
) -> None:
    adapt(cases, "case-0001", segmenter, slices=[0, 2])
    decide(cases, "case-0001", "accept")
    decide(cases, "case-0002", "accept")
    list(export_masks(cases, tmp_path / "out"))
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["slices with a mask"] for row in rows] == ["2 of 3", "3 of 3", ""]


def test_a_damaged_run_of_one_case_leaves_the_others_as_they_are(
    cases: CaseList, tmp_path: Path
) -> None:
    bad, good, other = (case.key for case in cases.cases)
    for key in (bad, good):
        decide(cases, key, "accept")
    store = cases.work(bad).run_folder / "run.sqlite"
    content = bytearray(store.read_bytes())
    content[100:2000] = bytes(1900)
    store.write_bytes(content)
    cases.close()
    again = CaseList.load(tmp_path / "list")
    assert [again.state(key).value for key in (good, other)]
    found = {one.key: one for one in export_masks(again, tmp_path / "masks")}
    assert found[good].path is not None
    assert found[bad].path is None
    assert found[bad].reason
    page = write_report(tmp_path / "report.html", report_cases(again))
    assert good in page.read_text(encoding="utf-8")
    again.close()


def test_no_comment_is_a_formula_in_the_table(cases: CaseList, tmp_path: Path) -> None:
    link = '=HYPERLINK("http://example.org", "look")'
    cases.decide("case-0001", "accept", comment=link, mask=None)
    cases.decide("case-0002", "reject", comment="- thin rim", mask=None)
    list(export_masks(cases, tmp_path / "out"))
    with (tmp_path / "out" / "cases.csv").open(newline="", encoding="utf-8-sig") as file:
        first, second, _ = csv.DictReader(file)
    assert first["comment"] == f"'{link}"
    assert second["comment"] == "'- thin rim"


def test_why_a_case_failed_is_told_without_its_files_name(cases: CaseList, tmp_path: Path) -> None:
    case = cases.case("case-0001")
    names = (str(case.sources[0]), "scans/Miller_Anna.nii.gz", "Miller_Anna")
    for number, where in enumerate(names):
        said = f"{where}: it is damaged. Export it again."
        work = cases.work(case)
        work.write_summary(work.summary.but(error=said))
        page = write_report(tmp_path / "r.html", report_cases(cases), overwrite=True)
        case.sources[0].write_bytes(b"no scan")
        list(export_masks(cases, tmp_path / f"out-{number}"))
        table = (tmp_path / f"out-{number}" / "cases.csv").read_text(encoding="utf-8-sig")
        for text in (page.read_text(encoding="utf-8"), table):
            assert "case-0001: it is damaged. Export it again." in text
            assert "Miller" not in text
