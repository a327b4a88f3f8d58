"""Files that are whole at every moment: written aside, forced to the disk, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"
"""What a file's name begins with while it is being written."""
OLD_SECONDS = 3600.0
"""A file that was being written so long ago was left behind by a crash."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one go: a reader, or a crash, sees the old bytes or the new.

    Raises
    ------
    OSError
        Nothing has changed then, and nothing is left beside the file where that can be helped.
    """
    # Not tempfile: its files can be read by their owner alone, which a shared folder is not for.
    aside = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(aside, flags, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Replace a JSON file in one go."""
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode("ascii"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    OSError, ValueError
        ValueError also where the file holds something else than an object.
    """
    values = json.loads(path.read_bytes())
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    return values


def sync_folder(folder: Path) -> None:
    """Force a folder's list of names to the disk, where the system can."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folders: Iterable[Path], older_than: float = OLD_SECONDS) -> int:
    """Remove what writers that were killed left half-written; return how many files.

    Young ones stay: another program may be writing them just now.
    """
    removed = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{PARTIAL}*"):
                with contextlib.suppress(OSError):
                    if path.is_file() and time.time() - path.stat().st_mtime > older_than:
                        path.unlink()
                        removed += 1
    return removed
