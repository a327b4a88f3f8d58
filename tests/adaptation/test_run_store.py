"""The store of a run: what was told is there, and damage is told and never taken for the truth."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_grata.adaptation import (
    AdaptationRun,
    Flag,
    Record,
    RunError,
    RunFolderError,
    adapt,
    read_info,
    reopen,
    run_store,
)
from napari_grata.adaptation.methods.base import Snapshot
from napari_grata.adaptation.run_store import STORE_FILE, RunStore
from napari_grata.scans import Scan
from napari_grata.segmenters import Segmenter
from tools.generators import attempt, runs

ROOT = Path(__file__).parents[2]
LEARN = runs.LEARN
NO_MASK = np.zeros((4, 5), np.uint8)


@pytest.fixture
def segmenter() -> Segmenter:
    return runs.segmenter()


@pytest.fixture
def scan() -> Scan:
    return runs.scan()


def state(step: int, size: int = 50) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    theta, first, second = (torch.rand(size, generator=generator) for _ in range(3))
    return Snapshot(theta, first, second, step, generator.get_state())


def same(first: Snapshot, second: Snapshot) -> bool:
    pairs = [(getattr(first, one.name), getattr(second, one.name)) for one in fields(first)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def record(step: int, **changes) -> Record:
    values = {"done": step, "total": 99, "slice_index": 0, "case": 0, "pass_index": 0}
    return Record("adapt", step, source_mask=NO_MASK, adapted_mask=NO_MASK, **values | changes)


def a_store(steps: int, folder: Path | None = None) -> RunStore:
    store = RunStore(folder, state(0))
    store.keep_source(0, NO_MASK)
    for step in range(1, steps + 1):
        store.append(record(step), state(step))
    return store


def assert_equal(first: Record, second: Record) -> None:
    for entry in fields(Record):
        a, b = getattr(first, entry.name), getattr(second, entry.name)
        if isinstance(a, np.ndarray):
            assert np.array_equal(a, b), entry.name
        else:
            assert repr(a) == repr(b), entry.name


# --- states -----------------------------------------------------------------------------------


def test_every_state_comes_back_as_it_was() -> None:
    store = a_store(7)
    assert store.steps == list(range(8))
    assert all(same(store.state(step), state(step)) for step in (5, 0, 7, 3))
    assert np.array_equal(store.theta(4), state(4).theta.numpy())
    with pytest.raises(RunFolderError, match="steps 0 to 7"):
        store.state(8)
    store.close()


def test_steps_can_be_forgotten_and_taken_again() -> None:
    store = a_store(5)
    store.truncate(2)
    assert (store.last_step, len(store)) == (2, 2)
    store.append(record(3), state(9))
    assert same(store.state(3), state(9))
    assert same(store.state(2), state(2))
    store.append(record(2), state(8))
    assert (store.last_step, len(store)) == (2, 2)
    store.close()


def test_the_mean_is_the_same_bit_for_bit_whatever_was_forgotten_in_between() -> None:
    store = a_store(5)
    straight = store.mean_theta([2, 3, 4, 5])
    expected = np.mean([state(step).theta.numpy().astype(float) for step in range(2, 6)], axis=0)
    np.testing.assert_allclose(straight, expected, rtol=1e-6)
    store.truncate(3)
    store.append(record(4), state(4))
    store.append(record(5), state(5))
    assert np.array_equal(store.mean_theta([2, 3, 4, 5]), straight)
    store.close()


def test_states_beyond_the_budget_go_but_for_the_first_ones_and_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "STATE_BYTES", 50_000)
    store = a_store(20, tmp_path)
    assert store.steps[0] == 0
    assert 3 < len(store.steps) < 8
    assert store.steps[-1] == 20
    assert same(store.state(20), state(20))
    with pytest.raises(RunFolderError, match="not kept"):
        store.state(19)
    assert len(store) == 20
    store.close()


def test_a_run_says_which_step_it_cannot_go_back_to(
    segmenter: Segmenter, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "STATE_BYTES", 24_000)
    run = AdaptationRun(segmenter, scan, LEARN.but(passes=3, predict="average"))
    records = list(run.records())
    assert len(records) == 16
    assert 2 < len(run.past.steps) < 6
    assert run.last_step == 12
    with pytest.raises(RunError, match="of which it keeps"):
        run.rollback(10)
    run.rollback(1)
    again = list(run.resume())
    assert [one.cosine for one in again] == [one.cosine for one in records[1:]]
    assert np.array_equal(again[-1].adapted_mask, records[-1].adapted_mask)


def test_a_run_without_a_folder_leaves_no_file(
    segmenter: Segmenter, scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    store = RunStore(None, state(0, 100_000))
    store.keep_source(0, NO_MASK)
    for step in range(1, 40):
        store.append(record(step, pass_index=step), state(step, 100_000))
    assert same(store.state(2), state(2, 100_000))
    assert same(store.state(39), state(39, 100_000))
    store.close()
    assert list(tmp_path.iterdir()) == []


# --- records ----------------------------------------------------------------------------------


def finished(run: AdaptationRun) -> list[Record]:
    records = list(run.records())
    run.close()
    return records


def test_figures_that_are_no_numbers_come_back_too(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run", slices=[0])
    (first,) = run.records()
    strange = replace(
        first,
        done=2,
        cosine=float("nan"),
        auxiliary_loss=float("-inf"),
        gradient_norms=(float("nan"), None),
        flags=(Flag("a", 'One; "two" | three'), Flag("ö", "x")),
        source_area={"disc": 3},
        undone=True,
    )
    run.past.append(strange)
    run.close()
    store = RunStore(tmp_path / "run")
    assert store.damage == []
    assert_equal(store[0], first)
    assert_equal(store[1], strange)
    assert [one.done for one in store] == [1, 2]
    assert store[-1].undone
    store.close()


def test_nothing_in_the_store_names_the_scan(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    scan = replace(scan, name="Miller_Anna") if hasattr(scan, "__dataclass_fields__") else scan
    finished(AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run"))
    assert b"Miller" not in (tmp_path / "run" / STORE_FILE).read_bytes()


# --- damage -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that was rolled back, taken, and given corrections: something in every table."""
    path = tmp_path / "run"
    path.mkdir()
    for name, data in runs.whole().files.items():
        (path / name).write_bytes(data)
    return path


def test_of_damaged_and_hostile_run_folders_none_is_taken_for_the_truth(tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    for number in range(300):
        place = tmp_path / str(number)
        place.mkdir()
        outcome = attempt("runs", random.Random(f"runs 0 {number}"), place, slow_seconds=60)
        assert outcome.result in ("refused", "right"), (number, outcome)
        found[outcome.result] += 1
    assert min(found["refused"], found["right"]) > 20


def test_damage_to_the_header_and_all_over_the_file_is_refused_or_told(folder: Path) -> None:
    content = (folder / STORE_FILE).read_bytes()
    found: Counter[str] = Counter()
    for place in [*range(100), *range(101, len(content), 397)]:
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        (folder / STORE_FILE).write_bytes(damaged)
        try:
            found[runs.check(folder)] += 1
        except RunFolderError:
            found["refused"] += 1
    assert min(found["refused"], found["told"]) > 20


def test_what_can_be_read_of_a_damaged_run_is_shown_and_it_is_not_written_to(
    folder: Path, damage: Callable[..., None]
) -> None:
    damage(folder, "events", "mask", "number = 3")
    before = (folder / STORE_FILE).read_bytes()
    found = reopen(folder, runs.scan())
    assert [one.done for one in found.records] == [1, 2, 4]
    assert any("1 of its 4 events" in sentence for sentence in found.missing)
    with pytest.raises(RunFolderError, match="looked at but not resumed"):
        found.run(runs.segmenter())
    assert (folder / STORE_FILE).read_bytes() == before


def test_damage_to_what_the_run_is_is_refused(folder: Path, damage: Callable[..., None]) -> None:
    damage(folder, "info", "info", "number = 1")
    for read in (reopen, read_info):
        with pytest.raises(RunFolderError, match="damaged"):
            read(folder)


def test_a_store_of_another_format_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / STORE_FILE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RunFolderError, match="another format"):
        reopen(folder)


# --- disks and programs -----------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_told_in_words(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="Choose another place"):
        adapt(segmenter, scan, settings=LEARN, folder=tmp_path / "file" / "run")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits on the size of files")
def test_a_full_disk_ends_the_run_in_words_and_room_lets_it_go_on(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    import resource

    straight = list(AdaptationRun(segmenter, scan, LEARN.but(passes=20)).records())
    run = AdaptationRun(segmenter, scan, LEARN.but(passes=20), folder=tmp_path / "run")
    stream, told = run.records(), []
    told.append(next(stream))
    size = (tmp_path / "run" / STORE_FILE).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 60_000, limits[1]))
    try:
        with pytest.raises(RunFolderError, match="Make room"):
            told += stream
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 1 < len(told) < 80
    assert run.position == len(run.past) == len(told)
    kept = reopen(tmp_path / "run", scan)
    assert len(kept.records) == len(told)
    kept.close()
    rest = list(run.resume())
    assert [one.cosine for one in [*told, *rest]] == [one.cosine for one in straight]
    run.close()


def test_a_folder_that_vanishes_ends_the_run_in_words(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    stream = run.records()
    first = next(stream)
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunFolderError, match="cannot be kept"):
        next(stream)
    assert np.array_equal(run.adapted_masks[0], first.adapted_mask)
    assert any("could not be written" in notice for notice in run.notices)
    assert not any(str(tmp_path) in notice for notice in run.notices)
    run.close()


def test_two_programs_cannot_go_on_with_one_run(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    stream = run.records()
    next(stream), next(stream)
    stream.close()
    other = reopen(tmp_path / "run", scan).run(runs.segmenter())
    later = other.resume()
    next(later)
    with pytest.raises(RunFolderError, match="Another program"):
        next(run.resume())
    next(later)
    later.close()
    other.close()
    run.close()
    kept = reopen(tmp_path / "run", scan)
    assert [one.step for one in kept.records] == [1, 2, 3, 4]
    kept.close()


def test_a_rollback_that_cannot_be_kept_does_not_take_place(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    list(run.records())
    masks = dict(run.adapted_masks)
    other = reopen(tmp_path / "run", scan).run(runs.segmenter())
    other.rollback(3)
    other.close()
    with pytest.raises(RunFolderError, match="Another program"):
        run.rollback(1)
    with pytest.raises(RunFolderError, match="Another program"):
        run.take(1, {0: np.zeros((32, 36), np.uint8)})
    assert (run.step, run.taken) == (4, None)
    assert all(np.array_equal(run.adapted_masks[i], mask) for i, mask in masks.items())
    run.close()


# A worker is forked for each round, so that torch is loaded once. What it was told is kept it
# writes down with one write call to a file of its own.
PROGRAM = """
    import hashlib, os, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[1])
    from tools.generators import runs
    from napari_grata.adaptation import AdaptationRun, reopen
    folder, acks = Path(sys.argv[2]), sys.argv[3]

    def work():
        report = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        segmenter, scan = runs.segmenter(), runs.scan()
        if (folder / "run.sqlite").exists():
            run = reopen(folder, scan).run(segmenter)
            if run.position % 5 == 4:
                os.write(report, f"trying {run.step - 2}\\n".encode())
                run.rollback(run.step - 2)
                os.write(report, f"back {run.step}\\n".encode())
        else:
            run = AdaptationRun(segmenter, scan, runs.LEARN.but(passes=2500), folder=folder)
        for record in run.resume():
            sha = hashlib.sha256(record.adapted_mask.tobytes()).hexdigest()
            os.write(report, f"step {record.step} {record.pseudo_loss!r} {sha}\\n".encode())

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(1)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_after_a_kill_at_any_moment_all_that_was_told_is_there(tmp_path: Path) -> None:
    import hashlib

    folder, acks = tmp_path / "run", tmp_path / "acks"
    rng = random.Random(0)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), ROOT, folder, acks],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        done = 0
        known: dict[int, tuple[str, str]] = {}
        for number in range(20):
            program.stdin.write(f"{number}\n")
            program.stdin.flush()
            child = int(program.stdout.readline())
            limit = time.monotonic() + 20
            while time.monotonic() < limit and len(told(acks)) <= done:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.06))
            os.kill(child, signal.SIGKILL)
            assert int(program.stdout.readline()) == signal.SIGKILL
            events = told(acks)[done:]
            assert events
            done += len(events)
            for event in events:
                if event[0] == "back":
                    known = {step: one for step, one in known.items() if step <= int(event[1])}
                elif event[0] == "step":
                    known[int(event[1])] = (event[2], event[3])
            kept = reopen(folder, runs.scan())
            assert kept.records.damage == []
            found = {}
            for one in kept.records:
                sha = hashlib.sha256(one.adapted_mask.tobytes()).hexdigest()
                found[one.step] = (repr(one.pseudo_loss), sha)
                kept.past.state(one.step)
            least = int(events[-1][1]) if events[-1][0] == "trying" else len(known)
            assert least <= len(found) <= len(known) + 1
            assert list(found) == list(range(1, len(found) + 1))
            assert all(known.get(step, one) == one for step, one in found.items())
            known = found
            kept.close()


def told(acks: Path) -> list[list[str]]:
    return [line.split() for line in acks.read_text().splitlines()] if acks.exists() else []
