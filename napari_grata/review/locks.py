"""One program at a time writes into a list: a lock that a crash does not leave behind."""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import uuid
import weakref
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import psutil

from napari_grata.scans.sqlite_file import cause, connect, is_damage

_HOLDER = ("token", "pid", "started", "boot", "machine", "host")
_TABLE = f"CREATE TABLE IF NOT EXISTS holder (number INTEGER PRIMARY KEY, {', '.join(_HOLDER)})"
_SAME_SECONDS = 5.0
"""Two times at which a process began are the same one: systems tell them not more exactly."""
_tokens: set[str] = set()
"""Of the locks that this process holds."""
Holder = dict[str, object]


class LockedError(Exception):
    """The lock cannot be had; the message says why, and what to do."""


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
        if self._connection is None:
            with ExitStack() as undo:
                try:
                    connection = undo.enter_context(closing(connect(self.path, "rwc", timeout=0.1)))
                    self._token = self._take(connection)
                except sqlite3.Error as error:
                    raise self._not_taken(error) from error
                undo.pop_all()
            self._connection = connection
            _tokens.add(self._token)
            weakref.finalize(self, _let_go, connection, self._token)

    def _take(self, connection: sqlite3.Connection) -> str:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_TABLE)
        holder = _read(connection)
        if holder and not _is_gone(holder):
            raise LockedError(self._held_by(holder))
        token, pid = secrets.token_hex(16), os.getpid()
        mine = (token, pid, _started(pid), _boot(), _machine(), socket.gethostname())
        connection.execute("INSERT OR REPLACE INTO holder VALUES (1, ?, ?, ?, ?, ?, ?)", mine)
        connection.execute("PRAGMA busy_timeout = 2000").fetchall()
        connection.execute("COMMIT")
        # The transaction that stays open. Who came in between has written its own row.
        connection.execute("BEGIN IMMEDIATE")
        holder = _read(connection)
        if holder.get("token") != token:
            raise LockedError(self._held_by(holder))
        return token

    def check(self) -> None:
        """Make sure that the lock is held still, as its file says, or take it again.

        Raises
        ------
        LockedError
            Another program has it, or its file cannot be read.
        """
        holder: Holder = {}
        try:
            with closing(connect(self.path, "ro")) as connection:
                holder = _read(connection)
        except sqlite3.Error as error:
            if self.path.exists() or not self.path.parent.is_dir():
                raise self._not_taken(error) from error
        if holder.get("token") != self._token:
            self.release()
            self.acquire()

    def release(self) -> None:
        """Give the lock back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            _let_go(connection, self._token)

    def _not_taken(self, error: sqlite3.Error) -> LockedError:
        if "locked" in str(error):
            holder: Holder = {}
            with suppress(sqlite3.Error), closing(connect(self.path, "ro")) as connection:
                holder = _read(connection)
            return LockedError(self._held_by(holder))
        todo = "Mend that, or keep the list in another folder."
        if is_damage(error):
            todo = "Delete that file: there is nothing else in it."
        where = f"{self.path.parent.name}/{self.path.name}"
        return LockedError(
            f"This list can be read but not written: its lock {where} cannot be taken "
            f"({cause(error)}). {todo}"
        )

    def _held_by(self, holder: Holder) -> str:
        where, todo = "on this computer", "Close the list there, or go on reading here."
        if holder and holder["boot"] != _boot() and holder["machine"] != _machine():
            where = f"on the computer {holder['host']}"
            todo = (
                "Close it there. If that program is not running any more, delete "
                f"{self.path.name} in the list's folder."
            )
        number = f" (process {holder['pid']})" if holder else ""
        return f"This list is open in another program {where}{number}. {todo}"


def _let_go(connection: sqlite3.Connection, token: str) -> None:
    with suppress(sqlite3.Error):
        if token in _tokens:
            _tokens.discard(token)
            connection.execute("DELETE FROM holder WHERE token = ?", (token,))
            connection.execute("COMMIT")
    connection.close()


def _read(connection: sqlite3.Connection) -> Holder:
    """Return what is said of the holder; empty where there is none."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'holder'").fetchone():
        return {}
    row = connection.execute(f"SELECT {', '.join(_HOLDER)} FROM holder").fetchone() or ()
    values = (v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in row)
    return dict(zip(_HOLDER, values, strict=False))


def _is_gone(holder: Holder) -> bool:
    """Whether the holder is gone for certain, the transaction being free."""
    if holder.get("boot") != _boot():
        # This computer was started anew, or it is another one.
        return holder.get("machine") == _machine()
    pid, then = holder.get("pid"), holder.get("started")
    now = _started(pid) if isinstance(pid, int) else None
    if now is None or not isinstance(then, float) or abs(now - then) > _SAME_SECONDS:
        return True
    return pid == os.getpid() and holder.get("token") not in _tokens


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
    with suppress(OSError):
        if found := Path("/etc/machine-id").read_text().strip():
            return found
    return f"{uuid.getnode():012x}"
