"""The one store of a run: an SQLite file with everything that happened, kept step by step.

``info`` holds what the run is and how it stands, as JSON; ``events`` a row an event, with its
figures as JSON, its mask, and θ and the optimiser's state after it; ``masks`` the source masks,
the corrections, the masks of an earlier state that was taken as the result, and those that were
chosen in place of the run's own. A step is in the file, forced to the disk, before anyone is told
of it; a crash at any moment leaves the steps before.

Everything in the file is sealed (see `sqlite_file`). What does not match its seal is told in words
and left out, the rest can be looked at, and nothing is ever written to a damaged file. No path and
no name of a scan is in it.

Loads torch only where a state is asked for as a `Snapshot`.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from pydantic import TypeAdapter

from napari_grata.scans.sqlite_file import (
    DamageError,
    cause,
    connect,
    opened,
    packed,
    seal,
    unpacked,
)

from .corrections import Corrections
from .records import Record, RunInfo

if TYPE_CHECKING:
    from .methods.base import Snapshot

STORE_FILE = "run.sqlite"
STATE_BYTES = 4 * 2**30
"""States beyond so many bytes in all are not kept, but for the latest, from which to go on."""
LARGE_STATE = 2**20
"""Of states of more bytes, those of all weights, the latest of each pass is kept."""
MEMORY_KIB = 16 * 2**10
"""A run without a folder moves to a temporary file beyond this size."""
_APPLICATION = 0x47524154  # "GRAT", in the file's header
_FORMAT = 1
_NO_MASK = np.zeros((0, 0), dtype=np.uint8)
_SCHEMA = """
CREATE TABLE info (number INTEGER PRIMARY KEY, info TEXT, seal BLOB);
CREATE TABLE events (number INTEGER PRIMARY KEY, step INTEGER, record TEXT, mask BLOB,
                     theta BLOB, optimiser BLOB, seal BLOB);
CREATE TABLE masks (kind TEXT, slice INTEGER, mask BLOB, PRIMARY KEY (kind, slice)) WITHOUT ROWID;
"""
_NEW = f"PRAGMA application_id={_APPLICATION}; PRAGMA user_version={_FORMAT};"
_IN_MEMORY = f"PRAGMA journal_mode=MEMORY; PRAGMA cache_size=-{MEMORY_KIB};"
_MASKS = {"source_mask", "adapted_mask"}


class RunFolderError(ValueError):
    """A run that cannot be kept or read; the message says why and what to do."""


_INFO = TypeAdapter(RunInfo)
_RECORD = TypeAdapter(Record)
_seal = partial(seal, "run")
Over = Literal["taken", "chosen"]


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / STORE_FILE).is_file()


def _new(folder: Path | None) -> sqlite3.Connection:
    """Make a file; without a folder in memory, or a temporary one where it grows large."""
    if folder is None:
        return sqlite3.connect("", isolation_level=None, check_same_thread=False)
    return connect(folder / STORE_FILE, "rwc")


def read_info(folder: str | Path) -> RunInfo:
    """Read what the run in a folder is and how it stands; the steps are not looked at.

    Raises
    ------
    RunFolderError
        If the folder holds no run, or one that is damaged or of another format.
    """
    with _reading(Path(folder)), closing(_connect(Path(folder))) as connection:
        return _read_info(connection)


class RunStore(Sequence[Record]):
    """All events of a run with their masks and states, each to be had back at any time.

    A sequence of `Record`. May be used from any thread. Without a folder everything is kept in
    memory, and beyond `MEMORY_KIB` in a temporary file that goes when the store is closed.

    Parameters
    ----------
    folder : Path or None
        An empty one for a new store, else that of a run.
    first : Snapshot, optional
        The state before the first step, number 0: makes a new store.
    writable : bool
        Go on with it; otherwise nothing in the folder is touched.
    to_position : bool
        Leave out what comes after where the run stands, unless a state was taken as the result:
        then the run itself is shown to its end.

    Attributes
    ----------
    source_masks : dict of int to ndarray of uint8, shape (H, W)
        Source label map of each slice seen so far, read-only.
    damage : list of str
        What of the file could not be read, one sentence each.

    Raises
    ------
    RunFolderError
        If the store cannot be made; if there is none, or it is damaged beyond reading, or, to go
        on with it, at all.
    """

    def __init__(
        self,
        folder: Path | None,
        first: Snapshot | None = None,
        *,
        writable: bool = False,
        to_position: bool = False,
    ) -> None:
        self.folder = folder
        self.source_masks: dict[int, np.ndarray] = {}
        self.damage: list[str] = []
        self._lock = threading.RLock()
        self._info: dict[str, Any] = {}
        self._tried: dict[str, Any] = {}  # what the file says if a failed write did get there
        self._records: list[Record] = []  # without masks
        self._states: dict[int, int] = {}  # step -> number of the event that holds its state
        self._pending: dict[int, np.ndarray] = {}  # source masks to be kept with the next event
        with self._keeping() if first is not None else _reading(folder):
            if folder is None or first is not None:
                self._connection = _new(folder)
            else:
                self._connection = _connect(folder, writable=writable)
            weakref.finalize(self, self._connection.close)
            try:
                if first is not None:
                    self._create(first)
                else:
                    self._connection.execute("BEGIN")
                    self._load(to_position)
                    self._connection.execute("COMMIT")
                self._version = self._data_version()
                if writable and self.damage:
                    raise RunFolderError(
                        f"{' '.join(self.damage)} It can be looked at but not resumed."
                    )
            except BaseException:
                self.close()
                raise

    def _create(self, first: Snapshot) -> None:
        how = _IN_MEMORY if self.folder is None else _NEW
        self._connection.executescript(f"{how} BEGIN; {_SCHEMA}")
        self._insert(0, 0, b"", None, first)
        self._connection.execute("COMMIT")
        self._states[0] = 0

    def _load(self, to_position: bool) -> None:
        info = _read_info(self._connection)
        self._info = dict(info)
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        count = info["position" if to_position and info["taken"] is None else "count"]
        leading = info["scan"]["mask_shape"][:-2]
        if info["count"] > 99 * pages or math.prod(leading) != info["scan"]["n_slices"]:
            raise DamageError
        self.source_masks.update(self.masks("source"))
        lost = []
        for number in range(count + 1):
            try:
                self._read(number)
            except (DamageError, sqlite3.Error):
                lost.append(number)
        whole = False
        with suppress(sqlite3.DatabaseError):
            whole = self._connection.execute("PRAGMA integrity_check(1)").fetchone() == (b"ok",)
        if lost:
            named = ", ".join(map(str, lost[:5])) + (" …" if len(lost) > 5 else "")
            self.damage.append(
                f"The file of this run is damaged: {len(lost)} of its {count} events cannot be "
                f"read and are left out ({named})."
            )
        elif not whole:
            self.damage.append("The file of this run is damaged, though all events can be read.")

    # -- what the run is -------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether it is known what the run is: it was begun at least once."""
        return bool(self._info)

    @property
    def info(self) -> RunInfo:
        """What the run is and how it stands."""
        return _INFO.validate_python(self._info)

    def begin(self, corrections: Corrections, **info: Any) -> None:
        """Keep what the run is, before its first step: entries of `RunInfo`."""
        with self._transaction():
            self._info = {"corrections": corrections.info, "count": 0, "taken_slices": 0, **info}
            self._put_masks("correction", corrections.labels)
            self._put_info()

    def move(self, folder: Path | None) -> None:
        """Go on in another folder, an empty one, with all that is here; nothing is begun there.

        None: in memory, as a run without a folder.
        """
        with self._lock, self._keeping():
            target = _new(folder)
            try:
                self._connection.backup(target)
                target.executescript(_IN_MEMORY if folder is None else _NEW)
            except BaseException:
                target.close()
                raise
            weakref.finalize(self, target.close)
            self._connection.close()
            self._connection, self.folder, self._info = target, folder, {}
            self._version = self._data_version()

    def stand(
        self, over: Mapping[Over, Mapping[int, np.ndarray]] | None = None, **changes: Any
    ) -> None:
        """Keep how the run stands: entries of `RunInfo`; nothing before the run was begun.

        And masks of these kinds, in place of any that lay over the run's own.
        """
        if self.begun:
            with self._transaction():
                for kind, masks in (over or {}).items():
                    self._connection.execute("DELETE FROM masks WHERE kind = ?", (kind,))
                    self._put_masks(kind, masks)
                self._put_info(**changes)

    def masks(self, kind: Literal["source", "correction"] | Over) -> dict[int, np.ndarray]:
        """Return the masks of a kind that can be read, (H, W) label maps by slice."""
        found = {}
        height, width = self._info["scan"]["mask_shape"][-2:]
        with self._lock, suppress(sqlite3.Error):
            rows = self._connection.execute("SELECT slice, mask FROM masks WHERE kind = ?", (kind,))
            for index, blob in rows:
                with suppress(DamageError):
                    mask = _unpack_mask(f"{kind} {index}", blob)
                    fits = mask.shape[0] <= height and mask.shape[1] <= width
                    if fits and 0 <= index < self._info["scan"]["n_slices"]:
                        found[index] = mask
        return found

    def corrections(self) -> Corrections | None:
        """Return what a reviewer had drawn; None if it is damaged."""
        told = self._info["corrections"]
        if told is None:
            return Corrections.none()
        found = Corrections(self.masks("correction"))
        return found if found.sha256 == told["sha256"] else None

    # -- events ------------------------------------------------------------------------------

    def keep_source(self, slice_index: int, mask: np.ndarray) -> None:
        """Keep the source mask of a slice; it is written with the next event."""
        mask = np.array(mask, dtype=np.uint8)
        mask.flags.writeable = False
        with self._lock:
            self.source_masks[slice_index] = self._pending[slice_index] = mask

    def append(self, record: Record, state: Snapshot | None = None) -> None:
        """Keep event number ``record.done`` and, after a step, the state; later ones go."""
        number = record.done
        text = _RECORD.dump_json(record, exclude=_MASKS)
        mask = _pack(f"mask {number}", 1, mask=record.adapted_mask)
        with self._transaction():
            self._connection.execute("DELETE FROM events WHERE number >= ?", (number,))
            self._put_masks("source", self._pending)
            size = self._insert(number, record.step, text, mask, state)
            dropped = self._make_room(record, size)
            self._put_info(position=number, count=number, step=record.step)
        self._pending.clear()
        self._forget_after(number - 1)
        self._records.append(replace(record, source_mask=_NO_MASK, adapted_mask=_NO_MASK))
        if size:
            self._states[record.step] = number
        if dropped:
            del self._states[dropped]

    def truncate(self, length: int) -> None:
        """Forget every event after the first ``length``."""
        if length < len(self._records):
            with self._transaction():
                self._connection.execute("DELETE FROM events WHERE number > ?", (length,))
                self._put_info(position=length, count=length)
            self._forget_after(length)

    def without_masks(self) -> list[Record]:
        """All records with empty masks: what curves and tables need, at no cost."""
        return list(self._records)

    def latest_masks(self, length: int) -> dict[int, np.ndarray]:
        """Adapted mask of each slice as of the first ``length`` events."""
        with self._lock:
            latest = {one.slice_index: one for one in self._records if one.done <= length}
            return {index: self._mask(record) for index, record in latest.items()}

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        with self._lock:
            if isinstance(index, slice):
                return [self[place] for place in range(*index.indices(len(self)))]
            record = self._records[index]
            source = self.source_masks[record.slice_index]
            return replace(record, source_mask=source, adapted_mask=self._mask(record))

    # -- states ------------------------------------------------------------------------------

    @property
    def last_step(self) -> int:
        """The latest step whose state is kept."""
        return max(self._states, default=0)

    @property
    def steps(self) -> list[int]:
        """Steps whose state is kept, in order; 0 is the state that the run began with."""
        return sorted(self._states)

    def state(self, step: int) -> Snapshot:
        """Return the state after ``step`` steps."""
        import torch

        from .methods.base import Snapshot

        with _reading(self.folder):
            found = self._state(step, "theta") | self._state(step, "optimiser")
            for name, value in found.items():
                found[name] = torch.from_numpy(value) if value.ndim else value.item()
            return Snapshot(**found)

    def theta(self, step: int) -> np.ndarray:
        """Return θ after ``step`` steps: float32 (or the method's own type), shape (n,)."""
        with _reading(self.folder):
            return np.asarray(self._state(step, "theta")["theta"])

    def mean_theta(self, steps: Sequence[int]) -> np.ndarray:
        """Return the mean of θ after each of these steps.

        Summed in float64 and in order, so that the mean after a rollback is, bit for bit, the
        one that the run would have had.
        """
        total = sum(self.theta(step).astype(np.float64) for step in steps)
        return np.asarray(total / len(steps), self.theta(steps[0]).dtype)

    def _state(self, step: int, column: str) -> dict[str, Any]:
        if step not in self._states:
            raise RunFolderError(
                f"The state after step {step} is not kept; this run keeps {len(self._states)} "
                f"states, of steps 0 to {self.last_step}."
            )
        blob = self._column(column, self._states[step])
        return dict(unpacked(opened("run", f"{column} {step}", blob)))

    def _column(self, column: str, number: int) -> Any:
        """Read one entry of an event."""
        with self._lock:
            sql = f"SELECT {column} FROM events WHERE number = ?"
            return (self._connection.execute(sql, (number,)).fetchone() or (None,))[0]

    # -- the file ----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; a temporary one is removed."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Say in words why something cannot be kept."""
        try:
            yield
        except sqlite3.Error as error:
            where = "a temporary file" if self.folder is None else "its folder"
            advice = "Choose another place, or run without a folder."
            if self._records:
                advice = (
                    "Make room or bring the drive back, then go on; the "
                    f"{len(self._records)} events that are finished are kept."
                )
            raise RunFolderError(
                f"The run cannot be kept in {where}: {cause(error)}. {advice}"
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what is written inside is kept, or nothing."""
        with self._lock, self._keeping():
            before = self._info
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._make_sure()
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._tried, self._info = self._info, before
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _make_sure(self) -> None:
        """Make sure that no other program has written to the file."""
        version = self._data_version()
        if version == self._version:
            return
        # It changes as well where the disk failed, whether it had taken what was written or not.
        row = self._connection.execute("SELECT info FROM info").fetchone()
        found: Any = None
        with suppress(ValueError):
            found = {} if row is None else json.loads(row[0])
        if found not in (json.loads(json.dumps(one)) for one in (self._info, self._tried)):
            raise RunFolderError(
                "Another program has gone on with this run; reopen it to see how it stands. "
                "Nothing was written over."
            )
        self._version = version

    def _data_version(self) -> int:
        """Return a number that changes when another program writes to the file."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _insert(
        self, number: int, step: int, text: bytes, mask: bytes | None, state: Snapshot | None
    ) -> int:
        """Write an event, and return the bytes of its state."""
        theta = optimiser = b""
        if state is not None:
            arrays = {one.name: _array(getattr(state, one.name)) for one in fields(state)}
            theta = _pack(f"theta {step}", 0, theta=arrays.pop("theta"))
            optimiser = _pack(f"optimiser {step}", 0, **arrays)
        seal = _seal(f"event {number} {step}", text)
        self._connection.execute(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)",
            (number, step, text.decode(), mask, theta or None, optimiser or None, seal),
        )
        return len(theta) + len(optimiser)

    def _make_room(self, record: Record, size: int) -> int:
        """Let go of the state before this one where all are too many; return its step, or 0."""
        kept = [one for one in self._states if one < record.step]
        latest = max(kept, default=0)
        if not latest:
            return 0
        before = self._records[self._states[latest] - 1]
        same_pass = before.pass_index == record.pass_index
        if (len(kept) + 1) * size <= STATE_BYTES and not (same_pass and size > LARGE_STATE):
            return 0
        self._connection.execute(
            "UPDATE events SET theta = NULL, optimiser = NULL WHERE number = ?",
            (self._states[latest],),
        )
        return latest

    def _forget_after(self, length: int) -> None:
        if len(self._records) > length:
            self._records = [one for one in self._records if one.done <= length]
            self._states = {step: n for step, n in self._states.items() if n <= length}

    def _read(self, number: int) -> None:
        """Read an event without keeping its mask, and note its state."""
        row = self._connection.execute(
            "SELECT step, record, seal, mask, theta IS NOT NULL FROM events WHERE number = ?",
            (number,),
        ).fetchone()
        if row is None or row[2] != _seal(f"event {number} {row[0]}", row[1]):
            raise DamageError
        step, text, _, mask, has_state = row
        if number > 0:
            opened("run", f"mask {number}", mask)
            try:
                values = json.loads(text)
                record = _RECORD.validate_python({**values, **dict.fromkeys(_MASKS, _NO_MASK)})
            except (ValueError, TypeError, RecursionError) as error:
                raise DamageError from error
            if record.done != number or record.slice_index not in self.source_masks:
                raise DamageError
            self._records.append(record)
        if has_state:
            self._states[step] = number

    def _mask(self, record: Record) -> np.ndarray:
        with _reading(self.folder):
            number, source = record.done, self.source_masks[record.slice_index]
            mask = _unpack_mask(f"mask {number}", self._column("mask", number))
            if mask.shape != source.shape:
                raise DamageError
            return mask

    def _put_masks(self, kind: str, masks: Mapping[int, np.ndarray]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO masks VALUES (?, ?, ?)",
            [(kind, n, _pack(f"{kind} {n}", 1, mask=np.asarray(m))) for n, m in masks.items()],
        )

    def _put_info(self, **changes: Any) -> None:
        if self.begun:
            self._info = {**self._info, **changes}
            text = json.dumps(self._info, ensure_ascii=False).encode()
            self._connection.execute(
                "INSERT OR REPLACE INTO info VALUES (1, ?, ?)", (text.decode(), _seal("info", text))
            )


def _connect(folder: Path, *, writable: bool = False) -> sqlite3.Connection:
    if not is_run_folder(folder):
        raise RunFolderError(
            f"{folder} is no run folder: it has no {STORE_FILE}. Choose the folder that an "
            "adaptation wrote."
        )
    # Only who may write to the file can finish with what a crash left half-written.
    unfinished = (folder / f"{STORE_FILE}-journal").exists()
    connection = connect(folder / STORE_FILE, "rw" if writable or unfinished else "ro")
    if not writable:
        connection.execute("PRAGMA query_only=ON")
    return connection


def _read_info(connection: sqlite3.Connection) -> RunInfo:
    for name, right in (("application_id", _APPLICATION), ("user_version", _FORMAT)):
        if connection.execute(f"PRAGMA {name}").fetchone()[0] != right:
            raise RunFolderError(
                f"{STORE_FILE} is damaged, or of another format than this version of napari-grata "
                f"reads ({_FORMAT})."
            )
    row = connection.execute("SELECT info, seal FROM info").fetchone()
    if row is None:
        raise RunFolderError("This run never began; there is nothing to look at.")
    if row[1] != _seal("info", row[0]):
        raise DamageError
    return _INFO.validate_json(row[0])


@contextmanager
def _reading(folder: Path | None) -> Iterator[None]:
    """Say in words why something cannot be read."""
    where = "This run" if folder is None else f"The run in {folder}"
    try:
        yield
    except RunFolderError:
        raise
    except (DamageError, sqlite3.Error, ValueError, TypeError, KeyError) as error:
        why = cause(error) if isinstance(error, sqlite3.Error) else "it is damaged"
        raise RunFolderError(
            f"{where} cannot be read: {why}. The masks beside {STORE_FILE} are there all the same."
        ) from error


def _pack(name: str, level: int, **arrays: np.ndarray) -> bytes:
    """Return arrays as sealed bytes, compressed with zlib's ``level``."""
    data = packed(arrays, level)
    return _seal(name, data) + data


def _unpack_mask(name: str, blob: Any) -> np.ndarray:
    """Return an (H, W) label map, or what was drawn on one."""
    mask: np.ndarray | None = unpacked(opened("run", name, blob)).get("mask")
    if mask is None or mask.ndim != 2 or mask.dtype not in (np.uint8, np.int16):
        raise DamageError
    mask.flags.writeable = False
    return mask


def _array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
