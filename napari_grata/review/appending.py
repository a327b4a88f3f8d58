"""Append JSON lines so that a crash, a full disk or a vanished share costs none of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_grata.scans.files import sync_folder, write_bytes

_mutex = threading.RLock()
"""One thread of this program at a time appends, whichever log it is."""


class DecisionError(ValueError):
    """A decision that is not allowed, or could not be written.

    Attributes
    ----------
    kept : bool
        Whether the decision is in force in memory, waiting to be written.
    """

    def __init__(self, message: str, *, kept: bool = False) -> None:
        super().__init__(message)
        self.kept = kept


class VanishedError(OSError):
    """The file, or the folder that it lies in, is not there any more."""


@dataclass(frozen=True)
class Found:
    """What `read` found: lines, where they end, and sentences for the person."""

    lines: tuple[dict[str, Any], ...]
    end: int
    notices: tuple[str, ...]


def read(path: Path, start: int = 0, *, repair: bool = False) -> Found:
    """Read the lines of a file from byte `start` on.

    Parameters
    ----------
    repair : bool
        A last line without its end is completed where all of it is there, and else moved into
        ``<name>.torn-….txt`` beside the file. Without this it is only left out.

    Returns
    -------
    Found
    """
    notices: list[str] = []
    with _mutex:
        try:
            data = _tail(path, start)
        except FileNotFoundError:
            return Found((), start, ())
        except OSError as error:
            why = error.strerror or "unknown"
            return Found((), start, (f"The decisions in {path.name} cannot be read ({why}).",))
        whole, _, rest = data.rpartition(b"\n")
        whole = whole + b"\n" if data.rfind(b"\n") >= 0 else b""
        end = start + len(whole)
        if rest:
            line = _parse(rest)
            if line is not None and repair:
                # All of it is there but the line's end.
                with contextlib.suppress(OSError):
                    _write_at(path, end, rest + b"\n")
                    whole, end = whole + rest + b"\n", end + len(rest) + 1
            elif repair:
                notices.append(_set_aside(path, end, rest))
    lines = []
    for number, text in enumerate(whole.splitlines(), start=1):
        line = _parse(text)
        if line is not None:
            lines.append(line)
        elif text.strip():
            notices.append(
                f"Line {number} of {path.name} is damaged and is left out; it stays in the file."
            )
    return Found(tuple(lines), end, tuple(notices))


def append(
    path: Path,
    known: Sequence[dict[str, Any]],
    lines: Sequence[dict[str, Any]],
    end: int,
) -> int:
    """Append lines and force them to the disk; all of them or none.

    Parameters
    ----------
    known : sequence of dict
        The lines that should be in the file: it is made anew from them where it was deleted.
    end : int
        The byte at which they end. What lies beyond is a line that was not finished.

    Returns
    -------
    int
        The byte at which the file ends now.

    Raises
    ------
    OSError
    """
    data = b"".join(encode(line) for line in lines)
    with _mutex:
        if not path.parent.is_dir():
            # Not made anew: where a share has gone, its mount point is an empty local folder.
            raise VanishedError(errno.ENOENT, "its folder is not there any more", str(path.parent))
        if not path.exists():
            return write_all(path, [*known, *lines])
        size = path.stat().st_size
        if size < end:
            raise VanishedError(
                errno.EIO, "the file has been cut short by another program", str(path)
            )
        if size > end:
            tail = _tail(path, end)
            if b"\n" in tail and not data.startswith(tail):
                raise VanishedError(
                    errno.EIO, "the file holds decisions that this window has not read", str(path)
                )
        return _write_at(path, end, data)


def write_all(path: Path, lines: Sequence[dict[str, Any]]) -> int:
    """Write a whole file of lines in one go; return its length."""
    data = b"".join(encode(line) for line in lines)
    write_bytes(path, data)
    return len(data)


def encode(line: dict[str, Any]) -> bytes:
    """Return a line as it stands in the file."""
    return (json.dumps(line) + "\n").encode("ascii")


def not_written(path: Path, error: OSError, waiting: int) -> DecisionError:
    """Say in a sentence or two what went wrong, where, and what to do."""
    where = f"{path.parent.name}/{path.name}"
    kept = "Your decision is" if waiting == 1 else f"Your {waiting} decisions are"
    if isinstance(error, VanishedError):
        why = f"{where}: {error.strerror}"
        todo = "Bring the folder back (is the drive or share connected?) and try again"
    elif error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        why, todo = f"the disk is full ({where})", "Make room and try again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = f"the folder may not be written to ({where})"
        todo = "Allow writing there, or save a copy elsewhere, and try again"
    else:
        why = f"{error.strerror or type(error).__name__} ({where})"
        todo = "Check the drive and try again"
    return DecisionError(
        f"{kept} not on the disk yet: {why}. Nothing is lost while this window is open. {todo}.",
        kept=True,
    )


def _tail(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def _parse(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _write_at(path: Path, end: int, data: bytes) -> int:
    """Write bytes at a place, the last of the file; put it back as it was if that fails."""
    with path.open("r+b", buffering=0) as file:
        file.truncate(end)
        file.seek(end)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
    return end + len(data)


def _set_aside(path: Path, end: int, rest: bytes) -> str:
    # Named by what it holds: a crash in the middle of this, and it is done once all the same.
    name = f"{path.stem}.torn-{hashlib.sha256(rest).hexdigest()[:8]}.txt"
    try:
        write_bytes(path.with_name(name), rest)
        _write_at(path, end, b"")
    except OSError:
        return f"The last line of {path.name} breaks off and is left out; it stays in the file."
    sync_folder(path.parent)
    return (
        f"The last line of {path.name} broke off when the program ended; what there is of it was "
        f"moved to {name}. All decisions before it are there."
    )
