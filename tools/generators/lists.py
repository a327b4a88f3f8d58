"""Lists of cases, damaged and hostile, opened again. Oracle: the list as it was before that."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import (
    Case,
    CaseSummary,
    CountedFlag,
    DecidedMask,
    Decision,
    ListError,
)
from napari_grata.review.list_file import DECISIONS_FILE, STORE_FILE, TABLES, _seal
from napari_grata.scans import Scan, open_scan

from . import damaged, expect

CASES = 4
ODD = (
    *(None, -1, 0.5, 2**62, "", "x", "case-0001", "case-0099", "case-0001\n", "case-000１"),
    *("../../../escaped", "/escaped", "case-0001/../../../escaped", "[]", "{}", "null", "[" * 5000),
    *('["../escaped"]', '["\\u0000"]', '["case-0001", 3]', "9" * 5000, "accept", "edit", "undo"),
    *(
        '{"flags": 3}',
        '{"change": "x"}',
        '{"files": [[1, 2, 3]]}',
        "NaN",
        "\ud800".encode("utf-8", "replace"),
    ),
)


@dataclass(frozen=True)
class Whole:
    """A list's files, and what is read from them where nothing is damaged."""

    files: dict[str, bytes]
    cases: tuple[Case, ...]
    history: tuple[Decision, ...]
    in_force: dict[str, dict[int | None, Decision]]
    summaries: dict[str, CaseSummary | None]
    drawings: dict[str, dict[int, np.ndarray]]
    choices: dict[str, Any]
    scans: dict[str, Scan]


@cache
def scans() -> Path:
    """A folder of small photographs, for as long as this program runs."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-lists-"))
    for number in range(1, CASES + 1):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 14, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"scan {number}.png")
    return folder


def make(folder: Path) -> CaseList:
    """A list with something in every table."""
    cases = CaseList.make(scans(), folder)
    flag = CountedFlag("cup-empty", "No cup is left.", 3)
    for number, key in enumerate(("case-0001", "case-0002", "case-0003"), start=1):
        summary = CaseSummary(segmented=True, adapted=True, flags=(flag,), change=number / 10)
        cases.work(key).write_summary(summary)
        scan = open_scan(cases.case(key).sources[0])
        for value in range(1, number + 1):
            cases.work(key).save_edit(np.full(scan.mask_shape, value, np.uint8), scan, "ab" * 8)
    mask = DecidedMask("adapted", run="run-0001", step=7, digest="0123456789abcdef")
    for number, verdict in enumerate(("accept", "reject", "edit", "keep-source") * 3):
        key = f"case-{number % CASES + 1:04d}"
        cases.decide(key, verdict, comment=f"comment {number}", reviewer="AB", mask=mask)
    cases.decide("case-0002", "accept", slice_index=0)
    cases.undo()
    cases.undo()
    cases.redo()
    cases.choose(model="fundus", carry=True, position="case-0003", filter="flagged")
    return cases


def _drawings(cases: CaseList, known: dict[str, Scan]) -> dict[str, dict[int, np.ndarray]]:
    found: dict[str, dict[int, np.ndarray]] = {}
    for case in cases.cases:
        if case.key in known:
            work = cases.work(case)
            pairs = ((edit.number, work.edit(known[case.key], edit.number)) for edit in work.edits)
            found[case.key] = {number: mask for number, mask in pairs if mask is not None}
    return found


@cache
def whole() -> Whole:
    """The list that is damaged in many ways."""
    with tempfile.TemporaryDirectory() as place:
        cases = make(Path(place) / "list")
        known = {case.key: open_scan(case.sources[0]) for case in cases.cases}
        found = Whole(
            {},
            cases.cases,
            cases.history,
            {case.key: cases.decisions(case) for case in cases.cases},
            {case.key: cases.summary(case) for case in cases.cases},
            _drawings(cases, known),
            {name: cases.option(name) for name in ("model", "carry", "position", "filter")},
            known,
        )
        cases.close()
        for path in cases.folder.iterdir():
            if path.is_file():
                found.files[path.name] = path.read_bytes()
    return found


def trial(random: Random, folder: Path) -> None:
    """Damage one of the files, or change what is in the store and seal it anew; open it."""
    place = folder / "home" / "lists" / "list"
    place.mkdir(parents=True)
    for name, data in whole().files.items():
        (place / name).write_bytes(data)
    if random.random() < 0.35:
        lie(random, place)
        check(place, hostile=True)
        return
    name = random.choice((STORE_FILE, STORE_FILE, STORE_FILE, STORE_FILE, "list.lock"))
    if random.random() < 0.1:
        name = random.choice((f"{STORE_FILE}-journal", DECISIONS_FILE))
        (place / name).write_bytes(random.choice(list(whole().files.values())))
    data = (place / name).read_bytes()
    if name == STORE_FILE and random.random() < 0.3:
        pages = [data[start : start + 4096] for start in range(0, len(data), 4096)]
        pages[random.randrange(len(pages))] = random.choice([*pages, bytes(4096)])
        (place / name).write_bytes(b"".join(pages))
    elif random.random() < 0.05:
        (place / name).write_bytes(b"")
    else:
        (place / name).write_bytes(damaged(random, data))
    check(place)


def lie(random: Random, place: Path) -> None:
    """Put something odd into a row, with a checksum that is right, or change the tables."""
    with closing(sqlite3.connect(place / STORE_FILE, isolation_level=None)) as connection:
        table = random.choice(list(TABLES))
        for change in ("update", "delete"):
            connection.execute(f"DROP TRIGGER no_{change}_of_{table}")
        columns = TABLES[table]
        names = ", ".join(f'"{name}"' for name in columns)
        rows = connection.execute(f"SELECT number, {names} FROM {table}").fetchall()
        number, *values = random.choice(rows)
        for _ in range(random.choice((1, 1, 2))):
            values[random.randrange(len(values))] = random.choice(ODD)
        if random.random() < 0.2:
            number = random.choice((0, -1, number + 1, 2**60, len(rows) + 1, len(rows) + 2))
        with suppress(TypeError):
            row = (number, *values, _seal(table, number, tuple(values)))
            more = ", drawing" if table == "edits" else ""
            marks = ", ".join("?" * len(row)) + (", x'00'" if more else "")
            sql = f"INSERT OR REPLACE INTO {table} (number, {names}, seal{more}) VALUES ({marks})"
            connection.execute(sql, row)
        if random.random() < 0.1:
            other = random.choice((*TABLES, "choices"))
            connection.execute(
                random.choice((f"DROP TABLE {other}", f"ALTER TABLE {other} RENAME TO others"))
            )


def check(place: Path, *, hostile: bool = False) -> str:
    """Open a list that may be damaged: what is shown is as it was, and the rest is told.

    Returns
    -------
    str
        "told" or "right"; what is refused raises `ListError`.
    """
    before = (place / STORE_FILE).read_bytes()
    outside = sorted(path for path in place.parents[1].rglob("*") if place not in path.parents)
    with _home(place):
        try:
            cases = CaseList.load(place)
        except ListError:
            expect((place / STORE_FILE).read_bytes() == before, "a damaged file was written to")
            expect(len(CaseList.recent()) == 1, "a damaged list is not among the recent ones")
            cases = CaseList.make(scans(), place)
            expect(len(cases) == CASES and cases.notices, "a list that begins anew says nothing")
            _kept_aside(place, before)
            cases.close()
            raise
        try:
            told = bool(cases.notices or cases.read_only)
            _use(cases, told=told, hostile=hostile)
            if (place / STORE_FILE).read_bytes()[:100] != before[:100] and any(
                "damaged" in text for text in cases.notices
            ):
                _kept_aside(place, before)
        finally:
            cases.close()
        now = sorted(path for path in place.parents[1].rglob("*") if place not in path.parents)
        expect(now == outside, "something was written outside the list's folder")
    return "told" if told else "right"


@contextmanager
def _home(place: Path) -> Iterator[None]:
    before = os.environ.get("NAPARI_GRATA_HOME")
    os.environ["NAPARI_GRATA_HOME"] = str(place.parents[1])
    try:
        yield
    finally:
        if before is None:
            del os.environ["NAPARI_GRATA_HOME"]
        else:
            os.environ["NAPARI_GRATA_HOME"] = before


def _kept_aside(place: Path, before: bytes) -> None:
    copies = [path.read_bytes() for path in place.glob("list.damaged-*.sqlite")]
    expect(before in copies, "a damaged file was written over and not set aside")


def _use(cases: CaseList, *, told: bool, hostile: bool) -> None:
    right = whole()
    if not hostile:
        for case in right.cases:
            known = dict(zip([one.key for one in cases.cases], cases.cases, strict=True))
            expect(told or known.get(case.key) == case, f"{case.key} is another one")
            expect(known.get(case.key, case) == case, f"{case.key} is another one, though told")
        _same_decisions(cases, told=told)
        for key, summary in right.summaries.items():
            if key in {case.key for case in cases.cases}:
                expect(told or cases.summary(key) == summary, "a summary is another one")
        for name, value in right.choices.items():
            expect(told or cases.option(name) == value, "a choice is another one")
        for key, masks in _drawings(cases, right.scans).items():
            for number, mask in masks.items():
                expect(np.array_equal(mask, right.drawings[key][number]), "a drawing is another")
            lost = masks.keys() != right.drawings[key].keys()
            expect(told or cases.work(key).notices or not lost, "a drawing is lost untold")
    cases.progress(), cases.title, cases.unsaved, cases.settings, cases.position, cases.model
    for case in cases.cases:
        with suppress(ListError):
            cases.work(case).run_folders()
            cases.state(case), cases.problem(case), cases.mask_now(case)
            if case.key in right.scans:
                scan = right.scans[case.key]
                cases.work(case).edit(scan)
                cases.work(case).save_edit(np.ones(scan.mask_shape, np.uint8), scan)
    expect(CaseList.recent(), "the list is not among the recent ones")
    if cases.writable and cases.cases:
        cases.undo()
        made = cases.decide(cases.cases[0].key, "reject", comment="after the damage")
        shown = [one.comment for one in cases.history]
        cases.close()
        again = CaseList.load(cases.folder)
        expect([one.comment for one in again.history] == shown, "what was written is not there")
        expect(made in again.history, "a decision after the damage is not there")
        again.close()


def _same_decisions(cases: CaseList, *, told: bool) -> None:
    right = {one.number: one for one in whole().history}
    for one in cases.history:
        there = right.get(one.number)
        expect(there is not None, "there is a decision that nobody made")
        same = there == one
        # That it was taken back may be among what is lost.
        expect(same or (told and _but_undone(there, one)), f"decision {one.number} is another one")
    expect(told or len(cases.history) == len(right), "decisions are lost and it is not told")
    if not told:
        for key, current in whole().in_force.items():
            expect(cases.decisions(key) == current, f"other decisions are in force on {key}")


def _but_undone(first: Decision | None, second: Decision) -> bool:
    return (
        first is not None
        and repr(first).partition("undone")[0] == repr(second).partition("undone")[0]
    )
