"""Run folders, damaged and hostile, opened again. Oracle: the run as it was before the damage."""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from napari_grata.adaptation import (
    AdaptationRun,
    Corrections,
    CorrectionsError,
    Record,
    ReopenedRun,
    RunError,
    RunFolderError,
    Settings,
    reopen,
)
from napari_grata.adaptation.methods import Snapshot
from napari_grata.adaptation.run_store import STORE_FILE, _pack, _seal
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter

from . import damaged, expect
from .models import DISC_AND_CUP, Small, small_card

LEARN = Settings(learning_rate=0.02, six_views=False)
ODD = (None, True, -1, 10**9, 10**4000, 0.5, "", "x", [], [[]], {}, float("nan"), [0, 10**8])


@cache
def segmenter() -> Segmenter:
    """A model of one structure."""
    return Segmenter(small_card(structures=DISC_AND_CUP[:1]), Small(outputs=1, width=4), "cpu")


@cache
def scan() -> Scan:
    """A volume of four slices."""
    data = np.random.default_rng(0).random((4, 32, 36)).astype(np.float32)
    return scan_from_array(data, name="volume", spacing=(2.0, 1.0, 1.0))


def make(folder: Path) -> None:
    """A run with corrections that was rolled back and taken: something in every table."""
    labels = np.full((32, 36), -1)
    labels[3:9, 4:12] = 1
    drawn = Corrections({1: labels})
    run = AdaptationRun(segmenter(), scan(), LEARN, folder=folder, corrections=drawn)
    list(run.records())
    run.rollback(2)
    run.take(2, {i: run.predict(i, 2).label_map for i in range(4)})
    run.close()


@dataclass(frozen=True)
class Whole:
    """A run folder's files, and what is read from them where nothing is damaged."""

    files: dict[str, bytes]
    found: ReopenedRun
    records: list[Record]
    states: list[Snapshot]


@cache
def whole() -> Whole:
    """The run that is damaged in many ways."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        make(folder)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        found = reopen(folder, scan())
        records, states = list(found.records), [found.past.state(step) for step in range(5)]
        found.close()
    return Whole(files, found, records, states)


def trial(random: Random, folder: Path) -> None:
    """Damage one of the files, or change what the store says and seal it anew; reopen it."""
    run = folder / "run"
    run.mkdir()
    for name, data in whole().files.items():
        (run / name).write_bytes(data)
    if random.random() < 0.3:
        _lie(random, run)
        check(run, hostile=True)
        return
    name = random.choice((STORE_FILE, STORE_FILE, STORE_FILE, "card.yaml", "scan.json"))
    if random.random() < 0.1:
        name = f"{STORE_FILE}-journal"
        (run / name).write_bytes(random.choice(list(whole().files.values())))
    data = (run / name).read_bytes()
    if name == STORE_FILE and random.random() < 0.2:
        pages = [data[place : place + 4096] for place in range(0, len(data), 4096)]
        pages[random.randrange(len(pages))] = random.choice([*pages, bytes(4096)])
        (run / name).write_bytes(b"".join(pages))
    else:
        (run / name).write_bytes(damaged(random, data))
    check(run)


def _lie(random: Random, run: Path) -> None:
    """Change an entry, a row or an array, with a checksum that is right."""
    with closing(sqlite3.connect(run / STORE_FILE, isolation_level=None)) as connection:
        how = random.choice(("info", "record", "mask", "row", "table"))
        if how == "info":
            (text,) = connection.execute("SELECT info FROM info").fetchone()
            text = _odd(random, text)
            connection.execute("UPDATE info SET info = ?, seal = ?", (text, _seal("info", text)))
        elif how == "record":
            (text,) = connection.execute("SELECT record FROM events WHERE number = 2").fetchone()
            text = _odd(random, text)
            change = "UPDATE events SET record = ?, seal = ? WHERE number = 2"
            connection.execute(change, (text, _seal("event 2 2", text)))
        elif how == "mask":
            array = random.choice(
                [np.zeros((2, 3)), np.zeros(0, np.uint8), np.array("x"), np.full((99, 99), 7, "u1")]
            )
            name = random.choice(("mask", "thing"))
            kind = random.choice(("source", "taken", "correction", "mask", "theta", "optimiser"))
            if kind in ("mask", "theta", "optimiser"):
                change, key = f"UPDATE events SET {kind} = ? WHERE number = 2", f"{kind} 2"
            else:
                change, key = f"UPDATE masks SET mask = ? WHERE kind = '{kind}'", f"{kind} 1"
            connection.execute(change, (_pack(key, 1, **{name: array}),))
        elif how == "row":
            table = random.choice(("info", "events", "masks"))
            column = random.choice(
                [one[1] for one in connection.execute(f"PRAGMA table_info({table})")]
            )
            value = random.choice((None, -1, 10**18, 0.5, "text", b"bytes"))
            try:
                connection.execute(f"UPDATE OR REPLACE {table} SET {column} = ?", (value,))
            except sqlite3.Error:
                connection.execute(f"DELETE FROM {table}")
        else:
            table = random.choice(("info", "events", "masks"))
            connection.execute(
                random.choice((f"DROP TABLE {table}", f"ALTER TABLE {table} RENAME TO others"))
            )


def _odd(random: Random, text: str) -> bytes:
    """Put something odd in the place of an entry, or take it away."""
    values = json.loads(text)
    place: Any = values
    while True:
        key = (
            random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
        )
        if not isinstance(place[key], dict | list) or not place[key] or random.random() < 0.5:
            break
        place = place[key]
    if isinstance(place, dict) and random.random() < 0.3:
        del place[key]
    else:
        place[key] = random.choice(ODD)
    sys.set_int_max_str_digits(5000)
    return json.dumps(values).encode()


def check(folder: Path, *, hostile: bool = False) -> str:
    """Reopen a run that may be damaged: what is shown is as it was, and the rest is told.

    Returns
    -------
    str
        "told" or "right"; what is refused raises `RunFolderError`.
    """
    right = whole()
    store = folder / STORE_FILE
    before = store.read_bytes()
    found = reopen(folder, scan())
    try:
        told = len(found.missing) > len(right.found.missing)
        records, states = list(found.records), []
        for step in range(5):
            with suppress(RunFolderError):
                states.append((step, found.past.state(step)))
        if not hostile:
            _compare(found, records, told)
            expect(all(_same(one, right.states[n]) for n, one in states), "a state is another one")
        try:
            live = found.run(segmenter(), scan())
        except (RunFolderError, RunError, CorrectionsError):
            pass
        else:
            live.close()
            expect(not found.records.damage, "a damaged run goes on")
            expect(hostile or live.step == 2, "a run goes on from elsewhere")
    finally:
        found.close()
        if found.records.damage:
            expect(store.read_bytes() == before, "a damaged file was written to")
    return "told" if told else "right"


def _compare(found: ReopenedRun, records: list[Record], told: bool) -> None:
    truth, known = whole().found, whole().records
    for one in records:
        expect(_same(one, known[one.done - 1]), f"event {one.done} is another one")
    expect(told or len(records) == len(known), "events are missing and it is not told")
    for which in ("source_masks", "adapted_masks"):
        masks, right = getattr(found, which), getattr(truth, which)
        expect(told or masks.keys() == right.keys(), f"{which} are missing and it is not told")
        for index, mask in masks.items():
            allowed = [right[index]]
            if told:
                allowed += [one.adapted_mask for one in known if one.slice_index == index]
            expect(any(np.array_equal(mask, one) for one in allowed), f"{which} are others")
    for name in ("settings", "card", "slices", "region", "state", "info"):
        expect(getattr(found, name) == getattr(truth, name), f"{name} is another one")
    expect(told or found.taken == truth.taken, "the state in use is another one")
    expect(found.corrections in (None, truth.corrections), "corrections are others")
    expect(told or found.corrections is not None, "corrections are missing and it is not told")


def _same(first: Any, second: Any) -> bool:
    """Whether two records or two states are the same in all they hold."""
    pairs = [(getattr(first, one.name), getattr(second, one.name)) for one in fields(first)]
    return all(
        np.array_equal(a, b) if hasattr(a, "shape") else repr(a) == repr(b) for a, b in pairs
    )
