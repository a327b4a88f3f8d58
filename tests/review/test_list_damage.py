"""Damage and malice in a list's file: told in words, never written over, kept inside its folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from math import inf
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_grata.cli import main
from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import (
    DIFFICULTIES,
    VERDICTS,
    CaseState,
    CaseSummary,
    DecidedMask,
    DecisionError,
    ListError,
)
from napari_grata.review.list_file import STORE_FILE, TABLES, BeyondReadingError, _seal
from napari_grata.scans import open_scan
from tools.generators import attempt

BOUNDED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def cases(make_list) -> Iterator[CaseList]:
    found = make_list(3)
    yield found
    found.close()


def change(cases: CaseList, table: str, column: str, number: int) -> bytes:
    """Change one digit of an entry of a closed list, on the disk; return the file as it was."""
    path = cases.folder / STORE_FILE
    with contextlib.closing(sqlite3.connect(path)) as file:
        sql = f"SELECT CAST({column} AS BLOB) FROM {table} WHERE number = ?"
        (data,) = file.execute(sql, (number,)).fetchone()
    whole = path.read_bytes()
    assert whole.count(data) == 1
    damaged = whole.replace(data, data[:-1] + bytes([data[-1] ^ 1]))
    path.write_bytes(damaged)
    return damaged


def opened_again(cases: CaseList) -> CaseList:
    cases.close()
    return CaseList.load(cases.folder)


def ten_decisions(cases: CaseList) -> None:
    for number in range(1, 11):
        cases.decide(f"case-{number % 3 + 1:04d}", VERDICTS[number % 4], comment=f"n° {number:02d}")
    cases.close()


def test_one_damaged_digit_costs_one_decision_and_is_told(cases: CaseList) -> None:
    ten_decisions(cases)
    table = (cases.folder / "decisions.csv").read_bytes()
    damaged = change(cases, "decisions", "comment", 3)
    again = CaseList.load(cases.folder)
    assert [one.number for one in again.history] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    (told,) = again.notices
    assert "1 of 10 entries on decisions" in told
    assert "number 3 (on case-0001, it seems)" in told
    # What was read is never written over: file and table lie beside it as they were.
    (aside,) = cases.folder.glob("list.damaged-*.sqlite")
    assert aside.name in told
    assert aside.read_bytes() == damaged
    (beside,) = cases.folder.glob("decisions.damaged-*.csv")
    assert beside.read_bytes() == table
    assert "lost to damage" in (cases.folder / "decisions.csv").read_text(encoding="utf-8-sig")
    assert again.undo().number == 10
    assert again.decide("case-0001", "accept").number == 12
    again.close()
    later = CaseList.load(cases.folder)
    assert later.history == again.history
    assert len(later.notices) == 1
    assert "lost to damage earlier" in later.notices[0]
    later.close()


def test_damage_is_told_on_the_command_line_too(
    cases: CaseList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ten_decisions(cases)
    change(cases, "decisions", "comment", 3)
    assert main(["masks", str(cases.folder), "--out", str(tmp_path / "out")]) == 0
    assert "1 of 10 entries on decisions" in capsys.readouterr().err


def test_every_kind_of_entry_is_told_and_the_rest_is_there(cases: CaseList) -> None:
    scan = open_scan(cases.cases[0].sources[0])
    for case in cases.cases:
        cases.work(case).write_summary(CaseSummary(segmented=True, adapted=True, change=0.25))
        cases.work(case).save_edit(np.ones(scan.mask_shape, np.uint8), scan)
    cases.decide("case-0003", "accept")
    cases.choose(position="case-0002")
    cases.close()
    with contextlib.closing(sqlite3.connect(cases.folder / STORE_FILE)) as file, file:
        for table in TABLES:
            for verb in ("update", "delete"):
                file.execute(f"DROP TRIGGER no_{verb}_of_{table}")
        file.execute("UPDATE cases SET title = 'Other' WHERE number = 2")
        file.execute("UPDATE runs SET summary = replace(summary, '0.25', '0.75') WHERE number = 1")
        file.execute("DELETE FROM edits WHERE number = 3")
        file.execute("UPDATE choices SET value = '\"case-0001\"' WHERE name = 'position'")
    again = CaseList.load(cases.folder)
    told, grown = again.notices
    assert "1 new scan" in grown
    for words in ("which scan a case is", "what runs came to", "drawings", "choices"):
        assert words in told
    # The scan of the lost case comes anew, under a number that was never used.
    assert [case.key for case in again.cases] == ["case-0001", "case-0003", "case-0005"]
    assert again.state("case-0003") is CaseState.ACCEPTED
    assert again.summary("case-0003").change == 0.25
    assert [again.work(key).edit_version for key in ("case-0001", "case-0003")] == [1, 0]
    assert again.position is None
    again.close()


@pytest.mark.parametrize("damage", ["emptied", "no database", "cut short", "header"])
def test_a_file_of_which_nothing_can_be_read_is_left_alone_until_the_list_is_made_anew(
    cases: CaseList, damage: str
) -> None:
    cases.decide("case-0001", "accept", comment="read me in the table")
    sources = cases.roots
    cases.close()
    path = cases.folder / STORE_FILE
    data = path.read_bytes()
    damaged = {
        "emptied": b"",
        "no database": b"[]" * 1000,
        "cut short": data[:50],
        "header": b"\0" * 100 + data[100:],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(BeyondReadingError, match=r"damaged.*decisions\.csv"):
        CaseList.load(cases.folder)
    assert path.read_bytes() == damaged
    (bad,) = CaseList.recent()
    assert "damaged" in bad.problem
    again = CaseList.make(sources)
    assert "begins anew" in again.notices[0]
    assert len(again) == 3
    (aside,) = cases.folder.glob("list.damaged-*.sqlite")
    assert aside.read_bytes() == damaged
    (beside,) = cases.folder.glob("decisions.damaged-*.csv")
    assert "read me in the table" in beside.read_text(encoding="utf-8-sig")
    again.close()


def test_a_file_that_says_itself_that_it_may_not_be_written_to_is_mended(cases: CaseList) -> None:
    cases.decide("case-0001", "accept")
    cases.close()
    path = cases.folder / STORE_FILE
    data = path.read_bytes()
    path.write_bytes(data[:18] + b"\x7f" + data[19:])
    again = CaseList.load(cases.folder)
    assert "Everything in it can be read" in again.notices[0]
    again.decide("case-0002", "reject")
    assert opened_again(again).history == again.history


def test_a_page_in_the_middle_costs_what_was_on_it(cases: CaseList) -> None:
    for number in range(150):
        cases.decide("case-0001", "accept", slice_index=number, comment="x" * 100)
    cases.close()
    path = cases.folder / STORE_FILE
    data = path.read_bytes()
    start = data.index(b"x" * 100) // 4096 * 4096
    path.write_bytes(data[:start] + bytes(4096) + data[start + 4096 :])
    again = CaseList.load(cases.folder)
    assert 100 < len(again.history) < 150
    assert f"{150 - len(again.history)} of 150 entries on decisions" in again.notices[0]
    assert [one for one in cases.history if one in again.history] == list(again.history)
    again.close()


def test_a_bad_list_leaves_the_others_as_they_are(cases: CaseList, make_list) -> None:
    other = make_list(2)
    other.decide("case-0001", "accept")
    other.close()
    cases.close()
    with contextlib.closing(sqlite3.connect(cases.folder / STORE_FILE)) as file, file:
        file.execute("DROP TABLE decisions")
    (cases.folder.parent / "a folder of something else").mkdir()
    entries = {entry.folder: entry for entry in CaseList.recent()}
    assert len(entries) == 2
    assert (entries[other.folder].cases, entries[other.folder].decided) == (2, 1)
    assert entries[other.folder].problem == ""


def test_a_list_of_a_later_version_is_not_touched(cases: CaseList) -> None:
    cases.close()
    path = cases.folder / STORE_FILE
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(ListError, match="later version"):
        CaseList.load(cases.folder)
    assert path.read_bytes() == before


def test_a_reader_tells_damage_and_mends_nothing(cases: CaseList) -> None:
    ten_decisions(cases)
    damaged = change(cases, "decisions", "comment", 3)
    shutil.copytree(cases.folder, cases.folder.with_name("copy"))
    holder = CaseList.load(cases.folder.with_name("copy"))
    (holder.folder / STORE_FILE).write_bytes(damaged)
    code = f"""
from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import DecisionError
cases = CaseList.load({str(holder.folder)!r})
assert cases.read_only
print(len(cases.history), *cases.notices, flush=True)
input()
try:
    cases.decide("case-0001", "accept")
except DecisionError as error:
    print(error)
"""
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    assert program.stdout.readline().startswith("9 The file of this list is damaged.")
    assert (holder.folder / STORE_FILE).read_bytes() == damaged
    # Nor later: who had the list may have mended it, and gone on.
    holder.close()
    assert "open it again" in program.communicate("\n")[0]
    assert (holder.folder / STORE_FILE).read_bytes() == damaged


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
def test_where_there_is_no_room_to_mend_a_list_it_is_only_read(cases: CaseList) -> None:
    import resource

    ten_decisions(cases)
    damaged = change(cases, "decisions", "comment", 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        again = CaseList.load(cases.folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(again.history) == 9
    assert "not mended" in (again.read_only or "")
    assert (cases.folder / STORE_FILE).read_bytes() == damaged
    # Once there is room, it is mended before anything is written.
    again.decide("case-0001", "accept")
    (aside,) = cases.folder.glob("list.damaged-*.sqlite")
    assert aside.read_bytes() == damaged
    assert opened_again(again).history == again.history


def test_damage_that_comes_while_a_list_is_open_is_mended_from_memory(cases: CaseList) -> None:
    scan = open_scan(cases.cases[0].sources[0])
    cases.work("case-0001").save_edit(np.full(scan.mask_shape, 3, np.uint8), scan)
    cases.decide("case-0001", "accept")
    damaged = change(cases, "decisions", "time", 1)
    cases.decide("case-0002", "reject")
    (aside,) = cases.folder.glob("list.damaged-*.sqlite")
    assert aside.read_bytes() == damaged
    cases.close()
    again = CaseList.load(cases.folder)
    assert again.history == cases.history
    assert again.work("case-0001").edit(scan).max() == 3
    assert again.notices == []
    again.close()


# -- malice ----------------------------------------------------------------------------------------


def put(cases: CaseList, table: str, **changes: object) -> None:
    """Put other values into the last row of a closed list, with a checksum that is right."""
    cases.close()
    with contextlib.closing(sqlite3.connect(cases.folder / STORE_FILE)) as file, file:
        for verb in ("update", "delete"):
            file.execute(f"DROP TRIGGER no_{verb}_of_{table}")
        names = ", ".join(f'"{name}"' for name in TABLES[table])
        sql = f"SELECT number, {names} FROM {table} ORDER BY number DESC LIMIT 1"
        number, *values = file.execute(sql).fetchone()
        row = {**dict(zip(TABLES[table], values, strict=True)), **changes}
        row["seal"] = _seal(table, number, tuple(row.values()))
        marks = ", ".join(f'"{name}" = ?' for name in row)
        file.execute(f"UPDATE {table} SET {marks} WHERE number = {number}", tuple(row.values()))


@pytest.mark.parametrize(
    "key", ["../../../escaped", "/tmp/escaped", "case-0001/../../..", "case-0003\n", "case-３", ""]
)
@pytest.mark.parametrize("table", ["cases", "runs", "decisions", "edits"])
def test_what_is_no_code_of_a_case_is_left_out_and_nothing_is_written_outside(
    cases: CaseList, table: str, key: str
) -> None:
    scan = open_scan(cases.cases[0].sources[0])
    cases.work("case-0001").write_summary(CaseSummary())
    cases.work("case-0001").save_edit(np.ones(scan.mask_shape, np.uint8), scan)
    cases.decide("case-0001", "accept")
    put(cases, table, **{"key" if table == "cases" else "case": key})
    outside = set(cases.folder.parents[2].rglob("*"))
    again = CaseList.load(cases.folder)
    assert "left out" in again.notices[0]
    for case in again.cases:
        assert case.key.startswith("case-000")
        again.work(case).save_edit(np.ones(scan.mask_shape, np.uint8), scan)
        again.work(case).new_run_folder()
    again.close()
    now = set(cases.folder.parents[2].rglob("*"))
    assert all(cases.folder in path.parents for path in now - outside)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_links_that_lead_out_of_a_list_are_not_followed(cases: CaseList, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    work = cases.work("case-0001")
    work.new_run_folder()
    (work.folder / "run-0002").symlink_to(elsewhere, target_is_directory=True)
    assert [path.name for path in work.run_folders()] == ["run-0001"]
    (cases.folder / "cases" / "case-0002").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ListError, match="leads out"):
        cases.work("case-0002")
    cases.close()
    shutil.move(cases.folder / STORE_FILE, elsewhere / STORE_FILE)
    (cases.folder / STORE_FILE).symlink_to(elsewhere / STORE_FILE)
    with pytest.raises(ListError, match="leads out"):
        CaseList.load(cases.folder)
    assert [path.name for path in elsewhere.iterdir()] == [STORE_FILE]


def test_made_up_lists_are_right_or_told_or_refused(quick_disk: Path) -> None:
    outcomes: Counter[str] = Counter()

    @settings(BOUNDED, max_examples=150)
    @given(random=st.randoms(use_true_random=False))
    def try_one(random: Random) -> None:
        with tempfile.TemporaryDirectory(dir=quick_disk) as folder:
            outcome = attempt("lists", random, Path(folder), slow_seconds=inf)
        outcomes[outcome.result] += 1
        assert outcome.result in ("right", "refused"), outcome.detail

    try_one()
    assert outcomes["right"] > 50
    assert outcomes["refused"] > 5


# -- whatever is done to it ------------------------------------------------------------------------

DOINGS = st.lists(
    st.one_of(
        st.tuples(
            st.just("decide"),
            st.integers(1, 3),
            st.sampled_from(VERDICTS),
            st.one_of(st.none(), st.integers(0, 2)),
            st.text(max_size=20),
            st.sampled_from(DIFFICULTIES),
        ),
        st.tuples(st.sampled_from(["undo", "redo", "reopen", "vanish", "return"])),
        st.tuples(st.just("draw"), st.integers(1, 3), st.integers(0, 300)),
        st.tuples(st.just("choose"), st.sampled_from(["position", "filter"]), st.text(max_size=9)),
    ),
    max_size=15,
)


class Model:
    """What a list should hold, in plain lists."""

    def __init__(self) -> None:
        self.made: list[list] = []
        self.done: list[int] = []
        self.taken_back: list[int] = []
        self.drawn: dict[int, list[int]] = {1: [], 2: [], 3: []}
        self.choices: dict[str, str] = {}

    def in_force(self, number: int) -> dict[int | None, tuple]:
        found: dict[int | None, tuple] = {}
        for place in sorted(self.done):
            key, verdict, index, comment, difficulty = self.made[place]
            if key == number:
                found[index] = (verdict, comment, difficulty)
        return found


def test_a_list_holds_what_was_done_whatever_comes_between(make_list, quick_disk: Path) -> None:
    @settings(BOUNDED, max_examples=60)
    @given(doings=DOINGS)
    def try_one(doings: list[tuple]) -> None:
        cases = make_list(3, quick_disk / "list")
        away = cases.folder.with_name("away")
        model = Model()
        for what, *how in [*doings, ("return",), ("reopen",)]:
            cases = do(cases, away, model, what, how)
            check(cases, model)
        cases.close()
        shutil.rmtree(cases.folder)

    try_one()


def do(cases: CaseList, away: Path, model: Model, what: str, how: list) -> CaseList:
    if what == "decide":
        number, verdict, index, comment, difficulty = how
        place = len(model.made)
        with contextlib.suppress(DecisionError):
            cases.decide(
                f"case-{number:04d}",
                verdict,
                slice_index=index,
                comment=comment,
                difficulty=difficulty,
                mask=DecidedMask("adapted", step=place),
            )
        model.made.append([number, verdict, index, comment, difficulty])
        model.done.append(place)
        model.taken_back.clear()
    elif what in ("undo", "redo"):
        source, target = model.done, model.taken_back
        if what == "redo":
            source, target = target, source
        with contextlib.suppress(DecisionError):
            assert (getattr(cases, what)() is None) == (not source)
        if source:
            target.append(source.pop())
    elif what == "draw":
        number, value = how
        scan = open_scan(cases.case(f"case-{number:04d}").sources[0])
        try:
            stack = np.full(scan.mask_shape, value)
            cases.work(f"case-{number:04d}").save_edit(stack, scan)
        except ListError:
            assert away.exists()
        else:
            model.drawn[number].append(value)
    elif what == "choose" and not away.exists():
        cases.choose(**{how[0]: how[1]})
        model.choices[how[0]] = how[1]
    elif what == "vanish" and not away.exists():
        cases.folder.rename(away)
    elif what == "return" and away.exists():
        away.rename(cases.folder)
        cases.retry()
    elif what == "reopen" and not away.exists():
        cases.close()
        return CaseList.load(cases.folder)
    return cases


def check(cases: CaseList, model: Model) -> None:
    assert len(cases.history) == len(model.made)
    for number in (1, 2, 3):
        found = cases.decisions(f"case-{number:04d}")
        told = {i: (one.verdict, one.comment, one.difficulty) for i, one in found.items()}
        assert told == model.in_force(number)
        assert cases.work(f"case-{number:04d}").edit_version == len(model.drawn[number])
    for name, value in model.choices.items():
        assert cases.option(name) == value
    assert [text for text in cases.notices if "damaged" in text] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs small disks of its own")
def test_on_a_disk_that_fills_up_at_any_moment_what_was_acknowledged_is_there(
    tmp_path: Path, make_list
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk of its own can be had here")
    try:
        for size in range(60, 150, 6):
            resize(disk, size)
            try:
                cases = make_list(2, disk / "list")
            except ListError:
                pass  # no room even to begin
            else:
                review(cases, disk)
            resize(disk, 4000)
            shutil.rmtree(disk / "list", ignore_errors=True)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)


def review(cases: CaseList, disk: Path) -> None:
    """Work until the disk is full; make room; everything that was told to be kept is there."""
    scan = open_scan(cases.cases[0].sources[0])
    noise = np.random.default_rng(0).integers(0, 255, scan.mask_shape, np.uint8)
    drawn = 0
    with contextlib.suppress(ListError):
        for number in range(400):
            cases.decide("case-0001", "accept", slice_index=number, comment="a word " * 20)
            if number % 3 == 0:
                cases.work("case-0001").save_edit(noise + np.uint8(number % 7), scan)
                drawn += 1
            if number % 4 == 0:
                cases.undo()
    shown = cases.history
    resize(disk, 4000)
    cases.retry()
    cases.close()
    again = CaseList.load(cases.folder)
    assert again.history == shown
    assert again.work("case-0001").edit_version == drawn
    assert again.work("case-0001").edit(scan) is not None or not drawn
    assert again.notices == []
    again.close()
