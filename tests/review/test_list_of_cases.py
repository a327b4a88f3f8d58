"""A list of cases: found, kept, found again; what it knows without opening a file."""

from __future__ import annotations

import builtins
import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_grata.adaptation.settings import preset
from napari_grata.review.case_list import CaseList, case_of_scan
from napari_grata.review.cases import CaseState, CaseSummary, CountedFlag, ListError
from napari_grata.scans import open_scan, scan_from_array


def photograph(path: Path, value: int = 90, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def volume(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), np.uint8)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.fixture
def centre(tmp_path: Path) -> Path:
    folder = tmp_path / "centre"
    for number in (10, 2, 1):
        photograph(folder / f"Miller_{number}.png", number)
    return folder


def names(cases: CaseList) -> list[str]:
    return [case.title for case in cases.cases]


def damage(folder: Path, table: str, column: str, number: int) -> None:
    """Change one byte of an entry, on the disk."""
    with contextlib.closing(sqlite3.connect(folder / "list.sqlite")) as file:
        sql = f"SELECT CAST({column} AS BLOB) FROM {table} WHERE number = ?"
        (data,) = file.execute(sql, (number,)).fetchone()
    path = folder / "list.sqlite"
    whole = path.read_bytes()
    assert whole.count(data) == 1
    path.write_bytes(whole.replace(data, data[:-1] + bytes([data[-1] ^ 1])))


def reopened(cases: CaseList) -> CaseList:
    cases.close()
    return CaseList.load(cases.folder)


# -- finding ----------------------------------------------------------------------------------


def test_files_come_in_natural_order_with_codes(centre: Path) -> None:
    cases = CaseList.make(centre)
    assert names(cases) == ["Miller_1", "Miller_2", "Miller_10"]
    assert [case.key for case in cases.cases] == ["case-0001", "case-0002", "case-0003"]
    assert cases.cases[2].sources == (centre / "Miller_10.png",)
    assert cases.title == "centre"


def test_masks_hidden_files_and_results_of_ours_are_no_cases(tmp_path: Path) -> None:
    root = tmp_path / "study"
    wanted = [volume(root / "A" / "images" / "one.nii.gz"), volume(root / "B" / "two.nii")]
    for place in ("A/masks", "B/labels", "B/ground truth", "B/1st_manual", "B/.cache"):
        volume(root / place / "one.nii.gz")
    photograph(root / "A" / "thumbnail.png")  # loose, beside images and masks
    volume(root / "B" / "two_seg.nii.gz")
    volume(root / "B" / "._two.nii.gz")
    (root / "B" / "run").mkdir()
    (root / "B" / "run" / "run.sqlite").write_bytes(b"")
    volume(root / "B" / "run" / "adapted.nii.gz")
    photograph(root / "B" / "before_after.png")
    volume(root / "B" / "adapted.nii.gz")
    found = CaseList.make(root)
    assert [case.sources[0] for case in found.cases] == wanted


def test_a_mask_folder_that_was_chosen_itself_is_taken(tmp_path: Path) -> None:
    photograph(tmp_path / "masks" / "one.png")
    assert len(CaseList.make(tmp_path / "masks")) == 1


def test_files_of_the_same_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for centre in ("A", "B"):
        photograph(tmp_path / "study" / centre / "images" / "001.png")
    assert names(CaseList.make(tmp_path / "study")) == ["A/images/001", "B/images/001"]


def test_several_files_keep_their_order_and_are_the_same_list_in_any_order(centre: Path) -> None:
    files = [centre / "Miller_10.png", centre / "Miller_1.png"]
    cases = CaseList.make(files)
    assert names(cases) == ["Miller_10", "Miller_1"]
    cases.close()
    assert CaseList.make(files[::-1]).folder == cases.folder


@pytest.mark.parametrize("what", ["empty", "missing", "masks only", "no scan"])
def test_what_makes_no_list_is_said_in_a_sentence(tmp_path: Path, what: str) -> None:
    source = tmp_path / what
    if what != "missing":
        source.mkdir()
    if what == "masks only":
        photograph(source / "masks" / "one.png")
    if what == "no scan":
        source = source / "notes.txt"
        source.write_text("x")
    with pytest.raises(ListError, match=r"\.$"):
        CaseList.make(source)
    assert CaseList.recent() == []


# -- going on ---------------------------------------------------------------------------------


def test_the_same_folder_goes_on_exactly_where_it_was(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.choose(model="fundus-disc-cup", carry=True, position="case-0002")
    cases.choose(settings=preset("as-published").settings.to_dict())
    cases.decide("case-0001", "accept")
    cases.work("case-0002").write_summary(CaseSummary(segmented=True, adapted=True, change=0.25))
    cases.close()
    again = CaseList.make(str(centre))
    assert again is not cases
    assert (again.model, again.carry, again.position) == ("fundus-disc-cup", True, "case-0002")
    assert again.settings == preset("as-published").settings
    assert [again.state(case) for case in again.cases] == [
        CaseState.ACCEPTED,
        CaseState.ADAPTED,
        CaseState.NEW,
    ]
    summary = again.summary("case-0002")
    assert summary is not None
    assert summary.change == 0.25
    assert again.notices == []


def test_while_open_a_list_is_one_object_in_this_program(centre: Path) -> None:
    cases = CaseList.make(centre)
    assert CaseList.load(cases.folder) is cases
    assert CaseList.make(centre) is cases


def test_new_files_come_at_the_end_and_old_codes_stay(centre: Path) -> None:
    cases = CaseList.make(centre)
    before = cases.cases
    photograph(centre / "Aaron.png", 7)
    photograph(centre / "Miller_3.png", 8)
    again = reopened(cases)
    assert again.cases[:3] == before
    assert [case.title for case in again.cases[3:]] == ["Aaron", "Miller_3"]
    assert [case.key for case in again.cases[3:]] == ["case-0004", "case-0005"]
    assert again.notices == ["2 new scans were added at the end of the list."]
    assert reopened(again).notices == []


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_folder_reached_by_another_name_is_the_same_list(centre: Path, tmp_path: Path) -> None:
    cases = CaseList.make(centre)
    cases.close()
    (tmp_path / "link").symlink_to(centre, target_is_directory=True)
    again = CaseList.make(tmp_path / "link")
    assert again.folder == cases.folder
    assert again.cases == cases.cases


def test_a_list_whose_scans_are_all_out_of_reach_can_still_be_looked_at(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.decide("case-0002", "accept")
    cases.close()
    centre.rename(centre.with_name("away"))
    again = CaseList.make(centre)
    assert again.state("case-0002") is CaseState.ACCEPTED
    assert again.state("case-0001") is CaseState.FAILED
    assert len(again.notices) == 1


def test_names_with_raised_digits_are_sorted_too(tmp_path: Path) -> None:
    for name in ("10 cm²", "9 cm²", "²", "x٣"):
        photograph(tmp_path / "odd" / f"{name}.png")
    assert names(CaseList.make(tmp_path / "odd"))[:2] == ["9 cm²", "10 cm²"]


def test_a_file_that_vanished_costs_its_case_alone_and_comes_back(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.decide("case-0001", "reject")
    away = [centre / name for name in ("Miller_1.png", "Miller_2.png")]
    for path in away:
        path.rename(path.with_suffix(".away"))
    again = reopened(cases)
    assert again.state("case-0001") is CaseState.REJECTED
    assert again.state("case-0002") is CaseState.FAILED
    assert "not where it was" in (again.problem("case-0002") or "")
    assert again.state("case-0003") is CaseState.NEW
    assert again.problem("case-0003") is None
    for path in away:
        path.with_suffix(".away").rename(path)
    again.refresh()
    assert again.state("case-0002") is CaseState.NEW


def test_a_changed_file_makes_its_summary_stale_and_a_touched_one_is_cleared(
    centre: Path,
) -> None:
    cases = CaseList.make(centre)
    case = cases.cases[0]
    scan = open_scan(case.sources[0])
    from napari_grata.adaptation.run_files import fingerprint

    made = CaseSummary(
        segmented=True,
        adapted=True,
        files=case.marks,
        scan_sha256=fingerprint(scan),
    )
    cases.work(case).write_summary(made)
    assert cases.summary(case) == made
    os.utime(case.sources[0], (1, 1))
    again = reopened(cases)
    touched = again.summary(case)
    assert touched is not None
    assert "has changed" in touched.stale
    assert again.confirm(case, open_scan(case.sources[0]))
    assert again.summary(case).stale == ""
    again = reopened(again)
    assert again.summary(case).stale == ""
    photograph(case.sources[0], 77)
    assert not again.confirm(case, open_scan(case.sources[0]))
    assert "has changed" in again.summary(case).stale


def test_only_the_lists_own_file_names_a_patient(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.choose(position="case-0002")
    cases.decide("case-0001", "accept", comment="blurred")
    scan = open_scan(cases.cases[0].sources[0])
    cases.work("case-0001").save_edit(np.ones(scan.mask_shape, np.uint8), scan)
    cases.work("case-0001").write_summary(CaseSummary(segmented=True))
    files = [path for path in cases.folder.rglob("*") if path.is_file()]
    knowing = [path.name for path in files if b"Miller" in path.read_bytes()]
    assert knowing == ["list.sqlite"]
    assert b"may identify patients" in (cases.folder / "list.sqlite").read_bytes()
    assert not [path for path in cases.folder.rglob("*") if "Miller" in str(path)]


def test_recent_lists_say_how_far_they_are(centre: Path, tmp_path: Path) -> None:
    other = CaseList.make(photograph(tmp_path / "alone.png"))
    other.close()
    for path in (other.folder / "list.sqlite", other.folder):
        os.utime(path, (1, 1))
    cases = CaseList.make(centre)
    cases.decide("case-0001", "accept")
    cases.decide("case-0001", "reject")
    cases.decide("case-0002", "accept", slice_index=0)
    cases.decide("case-0003", "accept")
    cases.undo()
    found = CaseList.recent()
    assert [(entry.title, entry.cases, entry.decided) for entry in found] == [
        ("centre", 3, 1),
        ("alone", 1, 0),
    ]
    assert found[0].folder == cases.folder


def test_a_folder_that_holds_another_list_is_refused(centre: Path, tmp_path: Path) -> None:
    CaseList.make(centre, tmp_path / "place")
    with pytest.raises(ListError, match="other scans"):
        CaseList.make(photograph(tmp_path / "alone.png"), tmp_path / "place")


# -- states -----------------------------------------------------------------------------------


def test_states_follow_what_the_model_did_until_a_person_decides(centre: Path) -> None:
    cases = CaseList.make(centre)
    work = cases.work("case-0001")
    flag = CountedFlag("cup-empty", "No cup is left.", 3)
    states = []
    for summary in (
        CaseSummary(segmented=True),
        CaseSummary(segmented=True, adapted=True),
        CaseSummary(segmented=True, adapted=True, flags=(flag,), flagged_slices=3),
        CaseSummary(error="It breaks off."),
    ):
        work.write_summary(summary)
        states.append(cases.state("case-0001"))
        assert work.summary == summary
    assert states == [
        CaseState.SEGMENTED,
        CaseState.ADAPTED,
        CaseState.FLAGGED,
        CaseState.FAILED,
    ]
    assert cases.problem("case-0001") == "It breaks off."
    for verdict, state in (
        ("accept", CaseState.ACCEPTED),
        ("keep-source", CaseState.KEPT_SOURCE),
        ("reject", CaseState.REJECTED),
        ("second-reader", CaseState.SECOND_READER),
    ):
        cases.decide("case-0001", verdict)
        assert cases.state("case-0001") is state
        assert state.decided
    progress = cases.progress()
    assert (progress.total, progress.decided) == (3, 1)


def test_a_case_that_is_being_edited_is_not_decided(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.decide("case-0001", "accept")
    cases.decide("case-0002", "edit")
    assert cases.state("case-0002") is CaseState.EDITED
    assert not CaseState.EDITED.decided
    assert cases.progress().decided == 1
    assert CaseList.recent()[0].decided == 1


def test_decisions_on_every_slice_are_one_on_the_case(centre: Path) -> None:
    cases = CaseList.make(centre)
    summary = CaseSummary(segmented=True, adapted=True, slices=2)
    cases.work("case-0001").write_summary(summary)
    cases.decide("case-0001", "accept", slice_index=0)
    assert cases.state("case-0001") is CaseState.ADAPTED
    cases.decide("case-0001", "keep-source", slice_index=1)
    assert cases.state("case-0001") is CaseState.ACCEPTED
    # One on a slice comes before one on the whole case, which takes out no mask then.
    cases.decide("case-0001", "reject", slice_index=1)
    cases.decide("case-0001", "accept")
    assert cases.state("case-0001") is CaseState.REJECTED


def test_five_hundred_cases_are_counted_without_opening_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    photograph(folder / "1.png")
    for number in range(2, 501):
        shutil.copy(folder / "1.png", folder / f"{number}.png")
    cases = CaseList.make(folder)
    for case in cases.cases[::2]:
        cases.work(case).write_summary(CaseSummary(segmented=True, adapted=True))
    again = reopened(cases)
    assert [case.title for case in again.cases] == [str(number) for number in range(1, 501)]

    def refused(*arguments, **named):
        raise AssertionError(f"opens {arguments[0]}")

    monkeypatch.setattr(builtins, "open", refused)
    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(os, "scandir", refused)
    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(Path, "stat", refused)
    progress = again.progress()
    assert (progress.total, progress.prepared) == (500, 250)
    assert again.summary("case-0002") is None
    monkeypatch.undo()


# -- a case's folder --------------------------------------------------------------------------


def test_an_edit_comes_back_and_older_versions_stay(centre: Path) -> None:
    cases = CaseList.make(centre)
    case = cases.cases[0]
    scan, work = open_scan(case.sources[0]), cases.work(case)
    assert work.edit(scan) is None
    stacks = [np.full(scan.mask_shape, value, np.int64) for value in (3, 200, 1000)]
    for stack in stacks:
        work.save_edit(stack, scan)
    assert cases.summary(case).edited
    assert (cases.mask_now(case).kind, cases.mask_now(case).edit) == ("edited", 3)
    again = reopened(cases)
    work = again.work(case)
    assert np.array_equal(work.edit(scan), stacks[-1])
    assert [int(work.edit(scan, entry.number).max()) for entry in work.edits] == [3, 200, 1000]
    assert again.summary(case).edited


def test_a_damaged_edit_gives_way_to_the_one_before_and_says_so(centre: Path) -> None:
    cases = CaseList.make(centre)
    scan, work = open_scan(cases.cases[0].sources[0]), cases.work("case-0001")
    for value in (1, 2):
        work.save_edit(np.full(scan.mask_shape, value, np.uint8), scan)
    damage(cases.folder, "edits", "drawing", 2)
    assert work.edit(scan).max() == 1
    assert "damaged" in work.notices[0]
    work.save_edit(np.full(scan.mask_shape, 5, np.uint8), scan)
    assert [entry.number for entry in work.edits] == [1, 2, 3]


def test_a_drawing_on_another_scan_is_kept_but_not_shown(centre: Path) -> None:
    cases = CaseList.make(centre)
    work = cases.work("case-0001")
    first, second = (open_scan(case.sources[0]) for case in cases.cases[:2])
    work.save_edit(np.ones(first.mask_shape, np.uint8), first)
    assert work.edit(second) is None
    assert "another" in work.notices[0]
    assert work.edit(first) is not None


def test_what_is_no_mask_of_the_scan_is_not_saved(centre: Path) -> None:
    cases = CaseList.make(centre)
    scan, work = open_scan(cases.cases[0].sources[0]), cases.work("case-0001")
    for wrong in (
        np.ones((3, 3), np.uint8),
        np.ones(scan.mask_shape, np.float32),
        np.full(scan.mask_shape, -1, np.int16),
    ):
        with pytest.raises(ListError):
            work.save_edit(wrong, scan)
    assert work.edits == ()


def test_old_leftovers_of_a_crash_go_and_young_ones_stay(centre: Path) -> None:
    cases = CaseList.make(centre)
    cases.work("case-0001").write_thumbnail(np.zeros((4, 4), np.uint8))
    for folder in (cases.folder, cases.work("case-0001").folder):
        (folder / ".partial-1-old").write_text("half")
        os.utime(folder / ".partial-1-old", (1, 1))
        (folder / ".partial-2-young").write_text("half")
    again = reopened(cases)
    again.work("case-0001")
    left = {path.name for path in again.folder.rglob(".partial-*")}
    assert left == {".partial-2-young"}


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of folders")
def test_a_read_only_place_is_said_and_reading_goes_on(centre: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        home = Path(name) / "list"
        source = photograph(Path(name) / "centre" / "one.png")
        cases = CaseList.make(source.parent, home)
        cases.work("case-0001").write_summary(CaseSummary(segmented=True, adapted=True))
        cases.work("case-0001").write_thumbnail(np.zeros((4, 4), np.uint8))
        cases.close()
        (home / "list.lock").chmod(0o444)
        folders = [home, home / "cases", home / "cases" / "case-0001"]
        for folder in folders:
            folder.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            again = CaseList.load(home)
            assert again.state("case-0001") is CaseState.ADAPTED
            with pytest.raises(ListError, match="cannot be taken"):
                again.work("case-0001").write_summary(CaseSummary())
            with pytest.raises(ListError, match="cannot be written"):
                again.work("case-0001").new_run_folder()
            again.choose(position="case-0001")
            assert again.position == "case-0001"
        finally:
            if root:
                os.seteuid(0)
            for folder in folders:
                folder.chmod(0o755)
        again.close()


def test_a_vanished_share_is_not_made_anew_as_a_local_folder(centre: Path, tmp_path: Path) -> None:
    cases = CaseList.make(centre, tmp_path / "share" / "list")
    (tmp_path / "share").rename(tmp_path / "gone")
    with pytest.raises(ListError, match="share connected"):
        cases.work("case-0001").write_summary(CaseSummary())
    with pytest.raises(ListError):
        cases.work("case-0001").new_run_folder()
    assert not (tmp_path / "share").exists()


def test_scans_that_moved_as_a_whole_are_found_again(centre: Path, tmp_path: Path) -> None:
    cases = CaseList.make(centre)
    cases.decide("case-0002", "accept")
    there = tmp_path / "another disk" / "centre"
    shutil.copytree(centre, there)
    (there / "Miller_2.png").rename(there / "Mueller_2.png")
    before = cases.cases
    with pytest.raises(ListError, match="1 of 3 scans"):
        cases.relocate(there)
    assert cases.cases == before
    (there / "Mueller_2.png").rename(there / "Miller_2.png")
    shutil.rmtree(centre)
    cases.refresh()
    assert cases.missing("case-0001")
    cases.relocate(there)
    assert cases.missing("case-0001") is None
    again = reopened(cases)
    assert [case.sources[0].parent for case in again.cases] == [there] * 3
    assert again.state("case-0002") is CaseState.ACCEPTED
    assert CaseList.make(there) is again
    assert len(again) == 3
    # Where other scans lie at the old place now, they are another list.
    photograph(centre / "Other.png")
    assert CaseList.make(centre).folder != again.folder


# -- a scan by itself -------------------------------------------------------------------------


def test_a_scan_by_itself_is_a_list_of_one_known_by_what_it_shows(tmp_path: Path) -> None:
    path = volume(tmp_path / "Miller.nii.gz", seed=3)
    cases = case_of_scan(open_scan(path))
    assert [case.sources for case in cases.cases] == [(path,)]
    cases.decide("case-0001", "accept")
    cases.close()
    moved = tmp_path / "elsewhere" / "renamed.nii.gz"
    moved.parent.mkdir()
    path.rename(moved)
    again = case_of_scan(open_scan(moved))
    assert again.folder == cases.folder
    assert again.cases[0].sources == (moved,)
    assert again.state("case-0001") is CaseState.ACCEPTED
    assert again.cases[0].title == "renamed"
    other = case_of_scan(open_scan(volume(tmp_path / "other.nii.gz", seed=4)))
    assert other.folder != cases.folder


def test_a_scan_from_no_file_has_a_list_too() -> None:
    scan = scan_from_array(np.arange(96.0).reshape(8, 12), name="layer")
    cases = case_of_scan(scan)
    cases.work("case-0001").save_edit(np.ones(scan.mask_shape, np.uint8), scan)
    assert cases.problem("case-0001") is None
    assert reopened(cases).work("case-0001").edit(scan) is not None


def test_photographs_opened_together_are_one_case(centre: Path) -> None:
    cases = case_of_scan(open_scan(centre))
    assert len(cases) == 1
    assert len(cases.cases[0].sources) == 3
    assert cases.state("case-0001") is CaseState.NEW


def test_photographs_of_single_cases_go_together_and_are_then_none_of_the_cases(
    centre: Path, tmp_path: Path
) -> None:
    cases = CaseList.make(centre)
    paths = cases.photographs()
    assert [path.stem for path in paths] == ["Miller_1", "Miller_2", "Miller_10"]
    assert cases.of_scan(open_scan(paths[1])) is cases.case("case-0002")
    assert cases.of_scan(open_scan(paths)) is None
    together = case_of_scan(open_scan(paths))
    assert together.of_scan(open_scan(paths)) is together.cases[0]
    assert together.of_scan(open_scan(paths[0])) is None
    others = CaseList.make([volume(tmp_path / name) for name in ("a.nii", "b.nii")])
    assert others.photographs() == []
    for one in (cases, together, others):
        one.close()
