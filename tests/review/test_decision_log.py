"""Decisions: in force at once, on the disk at once, and never lost."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from napari_grata.review import appending
from napari_grata.review.decisions import VERDICTS, DecisionError, DecisionLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "list"
    folder.mkdir()
    return folder / "decisions.jsonl"


@pytest.fixture
def log(path: Path):
    log = DecisionLog(path)
    yield log
    log.close()


def opened_again(log: DecisionLog) -> DecisionLog:
    log.close()
    return DecisionLog(log.path)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on the disk takes ``after`` bytes of a line, then it is full."""
    real = os.fsync

    def fsync(handle: int) -> None:
        size = os.fstat(handle).st_size
        if os.path.isfile(f"/proc/self/fd/{handle}"):
            os.ftruncate(handle, max(0, size - after))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(appending.os, "fsync", fsync)
    assert real is not fsync


def test_a_decision_is_on_the_disk_when_decide_returns(log: DecisionLog) -> None:
    made = log.decide(
        "case-0002",
        "accept",
        slice_index=4,
        comment="Größe µ, “fine”\nsecond line",
        difficulty="hard",
        reviewer="AB",
        facts={"run": "run-0001", "step": 12, "change": 0.25},
    )
    assert len(log.path.read_bytes().splitlines()) == 1
    again = opened_again(log)
    assert again.records == (made,)
    assert again.current("case-0002") == {4: made}
    assert again.current("case-0001") == {}
    again.close()


def test_the_latest_decision_on_a_case_is_in_force_and_undo_brings_back_the_one_before(
    log: DecisionLog,
) -> None:
    first = log.decide("case-0001", "reject")
    second = log.decide("case-0001", "accept")
    of_slice = log.decide("case-0001", "keep-source", slice_index=0)
    assert log.current("case-0001") == {None: second, 0: of_slice}
    assert log.undo() == log.records[2]
    assert log.current("case-0001") == {None: second}
    log.undo()
    assert log.current("case-0001") == {None: first}
    again = opened_again(log)
    assert [entry.undone for entry in again.records] == [False, True, True]
    assert again.redo() == second
    assert again.current("case-0001") == {None: second}
    again.close()


def test_a_new_decision_ends_what_can_be_redone(log: DecisionLog) -> None:
    log.decide("case-0001", "accept")
    log.undo()
    log.decide("case-0002", "reject")
    assert log.redo() is None
    assert log.undo() is not None
    assert log.undo() is None
    again = opened_again(log)
    assert (again.can_undo, again.can_redo) == (False, True)
    again.close()


@pytest.mark.parametrize(
    "wrong",
    [{"verdict": "maybe"}, {"difficulty": "so-so"}, {"reviewer": "Miller"}, {"reviewer": "A B"}],
)
def test_words_that_are_not_allowed_change_nothing(log: DecisionLog, wrong: dict) -> None:
    with pytest.raises(DecisionError) as caught:
        log.decide("case-0001", **{"verdict": VERDICTS[0], **wrong})
    assert not caught.value.kept
    assert log.records == ()
    assert not log.path.exists()


@pytest.mark.parametrize("kept_bytes", range(1, 120, 17))
def test_a_line_cut_short_is_set_aside_and_reported(path: Path, kept_bytes: int) -> None:
    log = DecisionLog(path)
    first = log.decide("case-0001", "accept")
    length = path.stat().st_size
    log.decide("case-0002", "reject")
    log.close()
    data = path.read_bytes()
    path.write_bytes(data[: length + kept_bytes])
    again = DecisionLog(path)
    assert again.records == (first,)
    assert len(again.notices) == 1
    (aside,) = path.parent.glob("*.torn-*.txt")
    assert aside.name in again.notices[0]
    assert aside.read_bytes() == data[length : length + kept_bytes]
    second = again.decide("case-0002", "edit")
    third = opened_again(again)
    assert third.records == (first, second)
    assert third.notices == []
    third.close()


def test_a_line_that_only_lacks_its_end_counts(path: Path) -> None:
    log = DecisionLog(path)
    made = [log.decide("case-0001", "accept"), log.decide("case-0002", "reject")]
    log.close()
    path.write_bytes(path.read_bytes()[:-1])
    again = DecisionLog(path)
    made.append(again.decide("case-0003", "accept"))
    again = opened_again(again)
    assert again.records == tuple(made)
    again.close()


def test_a_damaged_line_in_the_middle_costs_only_itself_and_stays_in_the_file(path: Path) -> None:
    log = DecisionLog(path)
    for number in range(3):
        log.decide(f"case-{number + 1:04d}", "accept")
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x00" * 20 + b"\n"
    path.write_bytes(b"".join(lines))
    again = DecisionLog(path)
    assert [entry.case for entry in again.records] == ["case-0001", "case-0003"]
    assert len(again.notices) == 1
    again.decide("case-0004", "reject")
    again.close()
    assert path.read_bytes().startswith(b"".join(lines))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to cut a write short")
@pytest.mark.parametrize("cut", [0, 1, 60])
def test_a_full_disk_keeps_decisions_in_memory_and_retry_writes_them_in_order(
    log: DecisionLog, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    first = log.decide("case-0001", "accept")
    with monkeypatch.context() as patch:
        fill_the_disk(patch, cut)
        for verdict in ("reject", "edit"):
            with pytest.raises(DecisionError, match="disk is full") as caught:
                log.decide("case-0002", verdict)
            assert caught.value.kept
        with pytest.raises(DecisionError, match="full"):
            log.undo()
        assert [entry.verdict for entry in log.unsaved] == ["reject", "edit", "edit"]
        assert log.current("case-0002")[None].verdict == "reject"
        with pytest.raises(DecisionError):
            log.retry()
    assert log.retry() == 3
    assert log.unsaved == ()
    again = opened_again(log)
    assert again.records == log.records
    assert again.records[0] == first
    assert [entry.undone for entry in again.records] == [False, False, True]
    assert again.notices == []
    again.close()


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_write_that_really_stops_half_way_leaves_no_half_line(
    log: DecisionLog, room: int
) -> None:
    import resource

    log.decide("case-0001", "accept")
    size = log.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, before[1]))
    try:
        with pytest.raises(DecisionError, match="not on the disk") as caught:
            log.decide("case-0002", "reject")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.kept
    assert log.path.stat().st_size == size
    assert log.retry() == 1
    again = opened_again(log)
    assert [entry.verdict for entry in again.records] == ["accept", "reject"]
    assert again.notices == []
    again.close()


def test_a_vanished_folder_is_named_and_everything_comes_back_with_it(
    log: DecisionLog, tmp_path: Path
) -> None:
    log.decide("case-0001", "accept")
    away = tmp_path / "away"
    log.path.parent.rename(away)
    with pytest.raises(DecisionError, match="share connected") as caught:
        log.decide("case-0002", "reject")
    assert caught.value.kept
    # The mount point of a share that is gone: not written to.
    assert not log.path.parent.exists()
    copy = tmp_path / "copy.jsonl"
    log.save_copy(copy)
    away.rename(log.path.parent)
    log.decide("case-0003", "edit")
    again = opened_again(log)
    assert [entry.case for entry in again.records] == ["case-0001", "case-0002", "case-0003"]
    again.close()
    saved = DecisionLog(copy)
    assert [entry.case for entry in saved.records] == ["case-0001", "case-0002"]
    saved.close()


def test_a_deleted_file_is_written_anew_from_memory(log: DecisionLog) -> None:
    log.decide("case-0001", "accept")
    log.decide("case-0002", "accept")
    log.path.unlink()
    log.decide("case-0003", "reject")
    again = opened_again(log)
    assert again.records == log.records
    assert len(again.records) == 3
    again.close()


@pytest.mark.skipif(os.name == "nt", reason="needs permissions of folders")
def test_a_read_only_folder_is_named_and_the_decision_kept() -> None:
    # Not below pytest's folder: another user, which root becomes here, may not enter that.
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "list" / "decisions.jsonl"
        path.parent.mkdir()
        Path(name).chmod(0o755)
        path.parent.chmod(0o555)
        root = os.geteuid() == 0
        try:
            if root:
                os.seteuid(65534)
            log = DecisionLog(path)
            with pytest.raises(DecisionError, match="may not be written") as caught:
                log.decide("case-0001", "accept")
            assert caught.value.kept
        finally:
            if root:
                os.seteuid(0)
            path.parent.chmod(0o755)
        assert log.retry() == 1
        log.close()


def test_a_file_that_cannot_be_read_is_never_written_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(path)
    log.decide("case-0001", "accept")
    log.close()
    before = path.read_bytes()

    def broken(where: Path, start: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(appending, "_tail", broken)
        blind = DecisionLog(path)
        assert blind.notices
        with pytest.raises(DecisionError):
            blind.decide("case-0002", "reject")
    with pytest.raises(DecisionError):
        blind.retry()
    assert path.read_bytes() == before
    blind.close()


def other_program(path: Path, *, hold: bool) -> subprocess.Popen:
    code = f"""
        import os, sys
        from pathlib import Path
        from napari_grata.review.decisions import DecisionLog
        log = DecisionLog(Path({str(path)!r}))
        log.decide("case-0009", "accept")
        print("ready", flush=True)
        sys.stdin.readline()
        if {not hold}:
            log.close()
        print("closed", flush=True)
        sys.stdin.readline()
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline().strip() == "ready"
    return program


def end(program: subprocess.Popen) -> None:
    program.kill()
    program.communicate()


def test_a_second_program_may_read_but_not_decide_until_the_first_closes(path: Path) -> None:
    program = other_program(path, hold=False)
    try:
        log = DecisionLog(path)
        assert str(program.pid) in (log.read_only or "")
        assert [entry.case for entry in log.records] == ["case-0009"]
        with pytest.raises(DecisionError, match="another program") as caught:
            log.decide("case-0001", "accept")
        assert not caught.value.kept
        assert log.unsaved == ()
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("\n")
        program.stdin.flush()
        program.stdout.readline()
        assert log.decide("case-0001", "reject").number == 2
        assert log.read_only is None
        log.close()
    finally:
        end(program)


def test_the_lock_of_a_program_that_was_killed_is_taken_over(path: Path) -> None:
    program = other_program(path, hold=True)
    end(program)
    assert json.loads(path.with_suffix(".lock").read_text())["pid"] == program.pid
    log = DecisionLog(path)
    assert log.read_only is None
    log.decide("case-0001", "accept")
    assert json.loads(path.with_suffix(".lock").read_text())["pid"] == os.getpid()
    log.close()


def test_a_log_that_nobody_holds_any_more_gives_its_lock_back(path: Path) -> None:
    log = DecisionLog(path)
    log.decide("case-0001", "accept")
    del log
    gc.collect()
    assert path.with_suffix(".lock").read_text() == ""
    program = other_program(path, hold=False)
    end(program)


def test_where_the_system_knows_no_locks_a_dead_programs_lock_is_taken_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_grata.review import locks

    monkeypatch.setattr(locks, "_system_lock", lambda handle: None)
    program = other_program(path, hold=True)
    assert DecisionLog(path).read_only is not None
    end(program)
    log = DecisionLog(path)
    assert log.read_only is None
    log.close()


def test_the_lock_of_another_computer_is_only_taken_over_when_asked_for(path: Path) -> None:
    lock = path.with_suffix(".lock")
    lock.write_text(json.dumps({"pid": 1, "host": "reading-room-7"}))
    log = DecisionLog(path)
    assert "reading-room-7" in (log.read_only or "")
    assert "decisions.lock" in (log.read_only or "")
    bold = DecisionLog(path, take_over=True)
    assert bold.read_only is None
    bold.close()


def test_two_windows_of_one_program_see_each_others_decisions(log: DecisionLog) -> None:
    other = DecisionLog(log.path)
    log.decide("case-0001", "accept")
    second = other.decide("case-0001", "reject")
    assert second.number == 2
    third = log.decide("case-0002", "accept")
    assert third.number == 3
    assert log.current("case-0001") == {None: second}
    other.close()
    log.decide("case-0003", "accept")
    again = opened_again(log)
    assert [entry.number for entry in again.records] == [1, 2, 3, 4]
    again.close()


def test_threads_may_decide_at_the_same_time(log: DecisionLog) -> None:
    def work(name: str) -> None:
        for index in range(25):
            log.decide(name, "accept", slice_index=index)

    threads = [threading.Thread(target=work, args=(f"case-{n:04d}",)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = opened_again(log)
    assert [entry.number for entry in again.records] == list(range(1, 101))
    assert all(len(again.current(f"case-{n:04d}")) == 25 for n in range(1, 5))
    again.close()


def test_a_folder_copied_elsewhere_is_a_log_of_its_own(log: DecisionLog, tmp_path: Path) -> None:
    log.decide("case-0001", "accept")
    shutil.copytree(log.path.parent, tmp_path / "copy")
    (tmp_path / "copy" / "decisions.lock").write_text("")
    copy = DecisionLog(tmp_path / "copy" / "decisions.jsonl")
    assert copy.undo() is not None
    assert log.current("case-0001")
    copy.close()
