"""One program at a time writes into a list: a lock that a crash does not leave behind."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import uuid
import weakref
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path

import psutil

from napari_grata.scans.sqlite_file import cause, connect, is_damage

_HOLDER = ("token", "pid", "started", "boot", "machine", "host", "since")
_tokens: set[str] = set()
"""Of the locks that this process holds."""
_SAME_SECONDS = 5.0
"""Two times at which a process began are the same one: systems tell them not more exactly."""


class LockedError(Exception):
    """The lock cannot be had; the message says why, and what to do.

    Attributes
    ----------
    by_other : bool
        Whether another program holds it, rather than the disk not taking it.
    """

    def __init__(self, message: str, *, by_other: bool) -> None:
        super().__init__(message)
        self.by_other = by_other


class WriterLock:
    """A lock held by an open transaction on a small SQLite file, and a row that says by whom.

    The system frees the transaction of a program that ends, however it ends. Where that frees it
    although the holder may be alive, as on a share that two computers see, the row decides: its
    holder is gone for certain if it ran on this computer, whatever that is called now, and runs no
    more, or if this computer was started anew since. Otherwise the lock is refused.

    Parameters
    ----------
    path : Path
        The lock file; it stays when the lock is given back, and may be deleted by hand then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._token = ""

    @property
    def held(self) -> bool:
        """Whether it was taken and not given back."""
        return self._connection is not None

    def acquire(self) -> None:
        """Take the lock, if it is not held already.

        Raises
        ------
        LockedError
        """
        if self._connection is not None:
            return
        try:
            connection = connect(self.path, "rwc", timeout=0.1)
        except sqlite3.Error as error:
            raise self._not_taken(error) from error
        try:
            self._take(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._not_taken(error) from error
            raise
        self._connection = connection
        weakref.finalize(self, _let_go, connection, self._token)

    def _take(self, connection: sqlite3.Connection) -> None:
        columns = ", ".join(_HOLDER)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS holder (number INTEGER PRIMARY KEY, {columns})"
        )
        owner = _read(connection)
        if owner and not _is_gone(owner):
            raise LockedError(self._who(owner), by_other=True)
        token = secrets.token_hex(16)
        pid = os.getpid()
        mine = (token, pid, _started(pid), _boot(), _machine(), socket.gethostname(), _now())
        connection.execute("INSERT OR REPLACE INTO holder VALUES (1, ?, ?, ?, ?, ?, ?, ?)", mine)
        connection.execute("PRAGMA busy_timeout = 2000").fetchall()
        connection.execute("COMMIT")
        # The transaction that stays open. Who came in between has written its own row.
        connection.execute("BEGIN IMMEDIATE")
        owner = _read(connection)
        if owner.get("token") != token:
            raise LockedError(self._who(owner), by_other=True)
        self._token = token
        _tokens.add(token)

    def check(self) -> None:
        """Make sure that the lock is held still, as its file says.

        Raises
        ------
        LockedError
            Another program has it, or its file cannot be read; it is not held any more then.
        """
        try:
            with closing(connect(self.path, "ro")) as connection:
                owner = _read(connection)
        except sqlite3.Error as error:
            if self.path.exists() or not self.path.parent.is_dir():
                raise self._not_taken(error) from error
            owner = {}  # somebody has deleted it
        if owner.get("token") != self._token or not self._token:
            self.release()
            self.acquire()

    def release(self) -> None:
        """Give the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _let_go(connection, self._token)
            self._token = ""

    def _not_taken(self, error: sqlite3.Error) -> LockedError:
        if "locked" in str(error).lower() or "busy" in str(error).lower():
            owner: dict[str, object] = {}
            with suppress(sqlite3.Error), closing(connect(self.path, "ro")) as connection:
                owner = _read(connection)
            return LockedError(self._who(owner), by_other=True)
        where = f"{self.path.parent.name}/{self.path.name}"
        todo = "Mend that, or keep the list in another folder."
        if is_damage(error):
            todo = "Delete that file: there is nothing else in it."
        return LockedError(
            f"This list can be read but not written: its lock {where} cannot be taken "
            f"({cause(error)}). {todo}",
            by_other=False,
        )

    def _who(self, owner: dict[str, object]) -> str:
        elsewhere = bool(owner) and not _is_here(owner)
        where = f"on the computer {owner.get('host')}" if elsewhere else "on this computer"
        number = f" (process {owner['pid']})" if owner else ""
        what = "Close the list there, or go on reading here."
        if elsewhere:
            what = (
                "Close it there. If that program is not running any more, delete "
                f"{self.path.name} in the list's folder."
            )
        return f"This list is open in another program {where}{number}. {what}"


def _let_go(connection: sqlite3.Connection, token: str) -> None:
    if token in _tokens:
        _tokens.discard(token)
        with suppress(sqlite3.Error):
            connection.execute("DELETE FROM holder WHERE token = ?", (token,))
            connection.execute("COMMIT")
    with suppress(sqlite3.Error):
        connection.close()


def _read(connection: sqlite3.Connection) -> dict[str, object]:
    """Return what is said of the holder; empty where there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'holder'").fetchone():
        return {}
    row = connection.execute(f"SELECT {', '.join(_HOLDER)} FROM holder").fetchone() or ()
    values = (v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in row)
    return dict(zip(_HOLDER, values, strict=False))


def _is_here(owner: dict[str, object]) -> bool:
    return owner.get("boot") == _boot() or owner.get("machine") == _machine()


def _is_gone(owner: dict[str, object]) -> bool:
    """Whether the holder is gone for certain, the transaction being free."""
    if owner.get("boot") != _boot():
        # This computer was started anew, or it is another one.
        return owner.get("machine") == _machine()
    pid, then = owner.get("pid"), owner.get("started")
    if not isinstance(pid, int) or not isinstance(then, float):
        return True
    started = _started(pid)
    if started is None or abs(started - then) > _SAME_SECONDS:
        return True
    return pid == os.getpid() and owner.get("token") not in _tokens


def _started(pid: int) -> float | None:
    """When a process began, in seconds; None where none of this number runs."""
    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, OverflowError, ValueError):
        return None


def _boot() -> str:
    """What tells one start of this computer from the others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _machine() -> str:
    """What tells this computer from others, whatever its name."""
    try:
        return Path("/etc/machine-id").read_text().strip() or f"{uuid.getnode():012x}"
    except OSError:
        return f"{uuid.getnode():012x}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
