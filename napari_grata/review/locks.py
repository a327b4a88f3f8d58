"""One program at a time writes into a list: a lock that a crash does not leave behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_held: dict[str, tuple[int, int]] = {}  # lock file -> (file descriptor, how many users here)
_mutex = threading.RLock()
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class LockedError(RuntimeError):
    """Another program holds the lock; the message says which, where and what to do."""


class WriterLock:
    """A lock file with the number of the program and the name of the computer that hold it.

    The system's own file lock decides, so the lock of a program that was killed is free at once.
    Where the file system knows no locks, what stands in the file decides: a program that does not
    run any more on this computer holds nothing. Within one program the lock can be taken several
    times.

    Parameters
    ----------
    path : Path
        The lock file; stays, empty, when the lock is given back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key = os.path.realpath(path)
        self._mine = False

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._mine

    def acquire(self, *, take_over: bool = False) -> None:
        """Take the lock.

        Parameters
        ----------
        take_over : bool
            Even where another *computer* seems to hold it; never from a live program on this one.

        Raises
        ------
        LockedError
            If another program holds it.
        OSError
            If the lock file cannot be written.
        """
        with _mutex:
            if self._mine:
                return
            if self._key in _held:
                handle, users = _held[self._key]
                _held[self._key] = handle, users + 1
                self._mine = True
                return
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                locked = _system_lock(handle)
                owner = _owner(handle)
                if locked is False or not _may_take(owner, locked is True, take_over):
                    raise LockedError(_who(owner, self.path))
                _write(handle, {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()})
            except BaseException:
                os.close(handle)
                raise
            _held[self._key] = handle, 1
            self._mine = True

    def release(self) -> None:
        """Give the lock back; the last user in this program empties the file."""
        with _mutex:
            if not self._mine:
                return
            self._mine = False
            handle, users = _held.pop(self._key)
            if users > 1:
                _held[self._key] = handle, users - 1
                return
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):
                os.close(handle)


def _system_lock(handle: int) -> bool | None:
    """Ask the system for the lock: True, False where another has it, None where it knows none."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(handle, 1 << 20, os.SEEK_SET)
            locking: Any = msvcrt
            locking.locking(handle, locking.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _UNSUPPORTED else False
    return True


def _may_take(owner: dict[str, Any], locked: bool, take_over: bool) -> bool:
    """Whether what stands in the lock file leaves it free."""
    if not owner or take_over:
        return True
    if owner.get("host") == socket.gethostname():
        # The system's lock is ours, or the program that wrote this is gone.
        return locked or owner.get("pid") == os.getpid() or not _runs(owner.get("pid"))
    # The system's locks may not reach another computer.
    return False


def _runs(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    if os.name == "nt":  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _owner(handle: int) -> dict[str, Any]:
    try:
        os.lseek(handle, 0, os.SEEK_SET)
        values = json.loads(os.read(handle, 4096) or b"{}")
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(handle: int, values: dict[str, Any]) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(values).encode("ascii"))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _who(owner: dict[str, Any], path: Path) -> str:
    here = owner.get("host") in (None, socket.gethostname())
    where = "on this computer" if here else f"on the computer {owner['host']}"
    number = f" (process {owner['pid']})" if owner.get("pid") else ""
    what = (
        "Close the list there, or go on reading here."
        if here
        else f"Close it there. If that program is not running any more, delete {path.name} in the "
        "list's folder."
    )
    return f"This list is open in another program {where}{number}. {what}"
