"""Decisions: in force at once, on the disk at once, and never lost."""

from __future__ import annotations

import contextlib
import csv
import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_grata.review import locks
from napari_grata.review.case_list import CaseList, case_of_scan
from napari_grata.review.cases import VERDICTS, DecidedMask, DecisionError, ListError
from napari_grata.scans import scan_from_array


@pytest.fixture
def cases(make_list) -> Iterator[CaseList]:
    found = make_list(4)
    yield found
    found.close()


def opened_again(cases: CaseList) -> CaseList:
    cases.close()
    return CaseList.load(cases.folder)


def table(cases: CaseList) -> list[dict[str, str]]:
    with (cases.folder / "decisions.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    """No file of this program may become longer than ``room`` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_decision_is_on_the_disk_when_decide_returns(cases: CaseList) -> None:
    made = cases.decide(
        "case-0002",
        "accept",
        slice_index=4,
        comment="Größe µ, “fine”\nsecond line",
        difficulty="hard",
        reviewer="AB",
        mask=DecidedMask("edited", run="run-0001", step=12, edit=3, digest="ab12", model="eye"),
    )
    with contextlib.closing(sqlite3.connect(cases.folder / "list.sqlite")) as file:
        assert file.execute("SELECT verdict, step FROM decisions").fetchall() == [("accept", 12)]
    again = opened_again(cases)
    assert again.history == (made,)
    assert again.decisions("case-0002") == {4: made}
    assert again.decisions("case-0001") == {}
    assert made.mask.words == "mask after step 12 with drawing 3"


def test_all_decisions_lie_beside_it_as_a_table_that_computes_nothing(cases: CaseList) -> None:
    cases.decide("case-0001", "reject", comment='=HYPERLINK("http://x","y")')
    cases.decide("case-0001", "accept", mask=DecidedMask("source"))
    cases.decide("case-0002", "edit")
    cases.undo()
    rows = table(cases)
    assert [(row["case"], row["verdict"], row["in force"]) for row in rows] == [
        ("case-0001", "reject", "replaced"),
        ("case-0001", "accept", "yes"),
        ("case-0002", "edit", "taken back"),
    ]
    assert rows[0]["comment"].startswith("'=")
    assert rows[1]["mask"] == "mask before"


def test_a_table_that_is_missing_or_old_is_written_when_the_list_is_opened(cases: CaseList) -> None:
    cases.decide("case-0001", "reject")
    (cases.folder / "decisions.csv").unlink()
    again = opened_again(cases)
    assert len(table(again)) == 1


def test_a_table_that_cannot_be_written_holds_up_no_decision(cases: CaseList) -> None:
    (cases.folder / "decisions.csv").mkdir()
    made = cases.decide("case-0001", "accept")
    assert "not as a table" in (cases.save_problem or "")
    (cases.folder / "decisions.csv").rmdir()
    cases.decide("case-0002", "accept")
    assert cases.save_problem is None
    assert opened_again(cases).history[0] == made


def test_the_latest_decision_on_a_case_is_in_force_and_undo_brings_back_the_one_before(
    cases: CaseList,
) -> None:
    first = cases.decide("case-0001", "reject")
    second = cases.decide("case-0001", "accept")
    of_slice = cases.decide("case-0001", "keep-source", slice_index=0)
    assert cases.decisions("case-0001") == {None: second, 0: of_slice}
    assert cases.undo() == cases.history[2]
    assert cases.decisions("case-0001") == {None: second}
    cases.undo()
    assert cases.decisions("case-0001") == {None: first}
    again = opened_again(cases)
    assert [entry.undone for entry in again.history] == [False, True, True]
    assert again.redo() == second
    assert again.decisions("case-0001") == {None: second}


def test_a_new_decision_ends_what_can_be_redone(cases: CaseList) -> None:
    cases.decide("case-0001", "accept")
    cases.undo()
    cases.decide("case-0002", "reject")
    assert cases.redo() is None
    assert cases.undo() is not None
    assert cases.undo() is None
    again = opened_again(cases)
    assert again.undo() is None
    assert again.redo() is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "maybe"},
        {"difficulty": "so-so"},
        {"reviewer": "Miller"},
        {"reviewer": "A B"},
        {"slice_index": -1},
        {"case": "case-0099"},
        {"case": "../../escaped"},
    ],
)
def test_words_that_are_not_allowed_change_nothing(cases: CaseList, wrong: dict) -> None:
    with pytest.raises(DecisionError) as caught:
        cases.decide(**{"case": "case-0001", "verdict": VERDICTS[0], **wrong})
    assert not caught.value.kept
    assert cases.history == ()
    assert cases.unsaved == ()


def test_nothing_can_be_changed_or_removed_in_the_file(cases: CaseList) -> None:
    cases.decide("case-0001", "accept")
    with contextlib.closing(sqlite3.connect(cases.folder / "list.sqlite")) as file:
        for sql in ("UPDATE decisions SET verdict = 'reject'", "DELETE FROM decisions"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                file.execute(sql)


# -- a disk that does not take it ----------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize("room", [0, 100, 8000])
def test_a_full_disk_keeps_decisions_in_memory_and_retry_writes_them_in_order(
    cases: CaseList, room: int
) -> None:
    first = cases.decide("case-0001", "accept")
    with full_disk(room):
        for verdict in ("reject", "edit"):
            with pytest.raises(DecisionError, match="not on the disk") as caught:
                cases.decide("case-0002", verdict)
            assert caught.value.kept
        with pytest.raises(DecisionError, match="not on the disk"):
            cases.undo()
        assert [entry.verdict for entry in cases.unsaved] == ["reject", "edit", "edit"]
        assert cases.decisions("case-0002")[None].verdict == "reject"
        with pytest.raises(DecisionError, match="Your 3 decisions"):
            cases.retry()
    assert cases.retry() == 3
    assert cases.unsaved == ()
    again = opened_again(cases)
    assert again.history == cases.history
    assert again.history[0] == first
    assert [entry.undone for entry in again.history] == [False, False, True]
    assert again.notices == []


def decide_often(cases: CaseList) -> None:
    for _ in range(50):
        cases.decide("case-0002", "reject", comment="long " * 100)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a small disk of its own")
def test_a_disk_that_is_really_full_is_named_and_nothing_is_lost(tmp_path: Path, make_list) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=160k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("no disk of its own can be had here")
    try:
        cases = make_list(2, disk / "list")
        cases.decide("case-0001", "accept")
        filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, b"0" * 1024)
        os.close(filler)
        with pytest.raises(DecisionError, match="the disk is full") as caught:
            decide_often(cases)
        assert caught.value.kept
        kept = cases.history
        scan = scan_from_array(np.eye(400), name="large")
        with pytest.raises(ListError):
            cases.work("case-0001").save_edit(
                np.random.default_rng(0).integers(0, 255, scan.mask_shape, np.uint8), scan
            )
        assert cases.work("case-0001").edits == ()
        (disk / "filler").unlink()
        assert cases.retry() == 1
        again = opened_again(cases)
        assert again.history == kept
        again.close()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_vanished_folder_is_named_and_everything_comes_back_with_it(
    cases: CaseList, tmp_path: Path
) -> None:
    cases.decide("case-0001", "accept")
    away = tmp_path / "away"
    cases.folder.rename(away)
    with pytest.raises(DecisionError, match="share connected") as caught:
        cases.decide("case-0002", "reject")
    assert caught.value.kept
    # The mount point of a share that is gone: not written to.
    assert not cases.folder.exists()
    away.rename(cases.folder)
    cases.decide("case-0003", "edit")
    again = opened_again(cases)
    assert [entry.case for entry in again.history] == ["case-0001", "case-0002", "case-0003"]


def test_a_place_that_comes_back_held_by_another_program_is_waited_for(
    cases: CaseList, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    cases.decide("case-0001", "accept")
    cases.folder.rename(away)
    with pytest.raises(DecisionError):
        cases.decide("case-0002", "reject")
    # As if from another computer, whose locks do not reach this one.
    shutil.copytree(away, cases.folder, ignore=shutil.ignore_patterns("list.lock"))
    program = other_program(cases.folder, "case-0002")
    try:
        with pytest.raises(DecisionError, match="another program") as caught:
            cases.retry()
        assert caught.value.kept
        assert len(cases.unsaved) == 1
        assert cases.decisions("case-0002")[None].verdict == "reject"
    finally:
        end(program)
    assert cases.retry() == 1
    assert "look at it again" in cases.notices[-1]
    again = opened_again(cases)
    assert [entry.verdict for entry in again.history] == ["accept", "accept", "reject"]
    assert again.decisions("case-0002")[None].verdict == "reject"


def test_a_deleted_file_is_written_anew_from_memory(cases: CaseList) -> None:
    cases.decide("case-0001", "accept")
    cases.choose(position="case-0002")
    (cases.folder / "list.sqlite").unlink()
    cases.decide("case-0003", "reject")
    again = opened_again(cases)
    assert again.history == cases.history
    assert len(again.history) == 2
    assert again.position == "case-0002"
    assert len(again) == 4


def test_an_older_file_put_in_its_place_is_set_aside_and_nothing_is_lost(cases: CaseList) -> None:
    cases.decide("case-0001", "accept")
    old = (cases.folder / "list.sqlite").read_bytes()
    cases.decide("case-0002", "reject")
    (cases.folder / "list.sqlite").write_bytes(old)
    cases.decide("case-0003", "edit")
    (aside,) = cases.folder.glob("list.damaged-*.sqlite")
    assert aside.read_bytes() == old
    assert aside.name in cases.notices[-1]
    assert len(opened_again(cases).history) == 3


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of folders")
def test_a_lock_that_cannot_be_taken_is_a_refusal_until_it_can(make_list) -> None:
    # Not below pytest's folder: another user, which root becomes here, may not enter that.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "list"
        make_list(2, folder).close()
        (folder / "list.lock").unlink()
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            cases = CaseList.load(folder)
            assert "list.lock" in (cases.read_only or "")
            with pytest.raises(DecisionError, match="lock") as caught:
                cases.decide("case-0001", "accept")
            assert not caught.value.kept
            assert cases.history == ()
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        cases.decide("case-0001", "accept")
        assert cases.read_only is None
        cases.close()


def test_a_scan_whose_place_cannot_be_made_is_decided_on_in_memory_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "lists").write_text("a file where the folder should be")
    scan = scan_from_array(np.arange(96.0).reshape(8, 12), name="layer")
    cases = case_of_scan(scan)
    assert cases.save_problem
    with pytest.raises(DecisionError) as caught:
        cases.decide("case-0001", "accept")
    assert caught.value.kept
    (tmp_path / "home" / "lists").unlink()
    assert cases.retry() == 1
    assert cases.save_problem is None
    assert opened_again(cases).decisions("case-0001")[None].verdict == "accept"


def test_what_lay_at_a_place_that_was_out_of_reach_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    scan = scan_from_array(np.arange(96.0).reshape(8, 12), name="layer")
    first = case_of_scan(scan)
    first.decide("case-0001", "reject")
    first.close()
    lists = tmp_path / "home" / "lists"
    lists.rename(tmp_path / "away")
    lists.write_text("")
    cases = case_of_scan(scan)
    with pytest.raises(DecisionError):
        cases.decide("case-0001", "accept")
    lists.unlink()
    (tmp_path / "away").rename(lists)
    assert cases.retry() == 1
    again = opened_again(cases)
    assert [entry.verdict for entry in again.history] == ["reject", "accept"]


# -- one program at a time -----------------------------------------------------------------------


def ready(code: str) -> subprocess.Popen:
    """Start a program, and wait until it says that it is ready."""
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline().strip() == "ready"
    return program


def other_program(folder: Path, key: str = "case-0003", *, close: bool = False) -> subprocess.Popen:
    return ready(f"""
        import sys
        from napari_grata.review.case_list import CaseList
        cases = CaseList.load({str(folder)!r})
        cases.decide({key!r}, "accept")
        print("ready", flush=True)
        sys.stdin.readline()
        if {close}:
            cases.close()
        print("closed", flush=True)
        sys.stdin.readline()
    """)


def end(program: subprocess.Popen) -> None:
    program.kill()
    program.communicate()


def holder(cases: CaseList, **changes: object) -> None:
    """Change what stands in the lock file of a list that nobody has open."""
    with contextlib.closing(sqlite3.connect(cases.folder / "list.lock")) as file, file:
        for name, value in changes.items():
            file.execute(f"UPDATE holder SET {name} = ?", (value,))


def test_a_second_program_may_read_but_not_decide_until_the_first_closes(cases: CaseList) -> None:
    cases.close()
    program = other_program(cases.folder, close=True)
    try:
        second = CaseList.load(cases.folder)
        assert str(program.pid) in (second.read_only or "")
        assert [entry.case for entry in second.history] == ["case-0003"]
        with pytest.raises(DecisionError, match="another program") as caught:
            second.decide("case-0001", "accept")
        assert not caught.value.kept
        assert second.unsaved == ()
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("\n")
        program.stdin.flush()
        program.stdout.readline()
        assert second.decide("case-0001", "reject").number == 2
        assert second.read_only is None
        second.close()
    finally:
        end(program)


def test_a_second_program_sees_on_refresh_what_the_first_decides(cases: CaseList) -> None:
    program = ready(f"""
        import sys
        from napari_grata.review.case_list import CaseList
        cases = CaseList.load({str(cases.folder)!r})
        assert cases.read_only
        print("ready", flush=True)
        sys.stdin.readline()
        cases.refresh()
        print(cases.state("case-0002").value, flush=True)
    """)
    try:
        cases.decide("case-0002", "reject")
        assert program.communicate("\n")[0].strip() == "rejected"
    finally:
        end(program)


def test_the_lock_of_a_program_that_was_killed_is_taken_over(cases: CaseList) -> None:
    cases.close()
    end(other_program(cases.folder))
    again = CaseList.load(cases.folder)
    assert again.read_only is None
    again.decide("case-0001", "accept")
    again.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "renamed-since"},
        {"boot": "before the computer was started anew"},
        {"boot": "before it was started anew", "host": "renamed-since", "pid": 1},
        {"started": 1.0},
    ],
    ids=["renamed", "rebooted", "both", "another process of this number"],
)
def test_after_a_crash_the_list_opens_for_writing_once_the_holder_is_surely_gone(
    cases: CaseList, changes: dict
) -> None:
    cases.close()
    program = other_program(cases.folder)
    end(program)
    holder(cases, **changes)
    again = CaseList.load(cases.folder)
    assert again.read_only is None
    again.close()


def test_where_locks_do_not_reach_the_row_keeps_a_living_holder(cases: CaseList) -> None:
    cases.close()
    program = other_program(cases.folder)
    try:
        # A copy has no lock of the system on it, only what stands in it.
        copy = cases.folder.with_name("copy")
        shutil.copytree(cases.folder, copy)
        second = CaseList.load(copy)
        assert str(program.pid) in (second.read_only or "")
        second.close()
    finally:
        end(program)


def test_the_lock_of_another_computer_is_kept_until_its_file_is_deleted(cases: CaseList) -> None:
    cases.close()
    end(other_program(cases.folder))
    holder(cases, boot="another", machine="another", host="reading-room-7", pid=1)
    again = CaseList.load(cases.folder)
    assert "reading-room-7" in (again.read_only or "")
    assert "list.lock" in (again.read_only or "")
    (cases.folder / "list.lock").unlink()
    again.decide("case-0001", "accept")
    assert again.read_only is None
    again.close()


def test_a_lock_file_that_is_damaged_refuses_and_says_what_to_do(cases: CaseList) -> None:
    cases.close()
    (cases.folder / "list.lock").write_bytes(b"no lock" * 100)
    again = CaseList.load(cases.folder)
    assert "Delete that file" in (again.read_only or "")
    (cases.folder / "list.lock").unlink()
    again.decide("case-0001", "accept")
    again.close()


def test_a_list_that_nobody_holds_any_more_gives_its_lock_back(make_list) -> None:
    cases = make_list(3)
    folder = cases.folder
    cases.decide("case-0001", "accept")
    del cases
    gc.collect()
    end(other_program(folder))


def test_a_lock_is_held_once_in_this_program_too(tmp_path: Path) -> None:
    first, second = (locks.WriterLock(tmp_path / "list.lock") for _ in range(2))
    first.acquire()
    with pytest.raises(locks.LockedError, match=str(os.getpid())):
        second.acquire()
    first.release()
    second.acquire()
    second.check()
    second.release()


def test_threads_may_decide_at_the_same_time(cases: CaseList) -> None:
    def work(name: str) -> None:
        for index in range(10):
            cases.decide(name, "accept", slice_index=index)

    threads = [threading.Thread(target=work, args=(f"case-{n:04d}",)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = opened_again(cases)
    assert [entry.number for entry in again.history] == list(range(1, 41))
    assert all(len(again.decisions(f"case-{n:04d}")) == 10 for n in range(1, 5))


def test_a_folder_copied_elsewhere_is_a_list_of_its_own(cases: CaseList, tmp_path: Path) -> None:
    cases.decide("case-0001", "accept")
    cases.close()
    shutil.copytree(cases.folder, tmp_path / "copy")
    copy = CaseList.load(tmp_path / "copy")
    assert copy.undo() is not None
    copy.close()
    assert CaseList.load(cases.folder).decisions("case-0001")
