"""SQLite files that hold what may not be lost: opened, packed, sealed and complained about alike.

The journal is a plain one that is forced to the disk at every commit, never a write-ahead log,
which network shares do not bear. SQLite notices damage to its own structure alone, so what is kept
is sealed besides: a checksum that goes with the name under which it is kept.
"""

from __future__ import annotations

import io
import os
import sqlite3
import urllib.parse
import zlib
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

DURABLE = ("journal_mode=DELETE", "synchronous=EXTRA", "secure_delete=ON")
"""For a connection that writes: forced to the disk, and nothing that was removed stays behind."""
_SEAL = 16  # bytes
_MOST_BYTES = 2**31  # of what is unpacked at once
_CAUSES = {
    "full": "the disk is full",
    "locked": "another program is using it just now",
    "busy": "another program is using it just now",
    "readonly": "it may not be written to",
    "unable to open": "its folder cannot be reached or written to",
    "disk i/o": "the disk does not answer",
    "closed": "it was closed",
    "locking protocol": "its disk or share takes no locks",
}


class DamageError(Exception):
    """Something in a file is not what was written."""


def connect(
    path: Path, mode: Literal["ro", "rw", "rwc"], *, timeout: float = 10.0
) -> sqlite3.Connection:
    """Open a file: to read it, to write to it, or to make it where it is not there.

    Texts come back as bytes, as they lie in the file; transactions are begun by hand; any thread
    may use it, one at a time.

    Raises
    ------
    sqlite3.Error
    """
    plain = os.fsencode(path.absolute()).replace(os.sep.encode(), b"/")
    place = urllib.parse.quote(plain if plain.startswith(b"/") else b"/" + plain)
    connection = sqlite3.connect(
        f"file://{place}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=timeout,
    )
    connection.text_factory = bytes
    try:
        for pragma in DURABLE if mode != "ro" else ():
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except UnicodeDecodeError as error:
        # Of SQLite's own complaint, which holds some of the damaged bytes.
        connection.close()
        raise sqlite3.DatabaseError("the database schema is malformed") from error
    except BaseException:
        connection.close()
        raise
    return connection


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is not as it was written, rather than out of reach."""
    said = str(error).lower()
    known = isinstance(error, sqlite3.OperationalError)
    return not known or "no such" in said or "unsupported" in said


def cause(error: sqlite3.Error) -> str:
    """Return what is the matter in words, without a full stop."""
    said = str(error).lower()
    otherwise = "it is damaged" if is_damage(error) else str(error)
    return next((words for sign, words in _CAUSES.items() if sign in said), otherwise)


def seal(kind: str, name: str, data: Any) -> bytes:
    """Return the checksum of what is kept under a name in a kind of file; it has to be bytes."""
    if not isinstance(data, bytes):
        raise DamageError
    return blake2b(data, digest_size=_SEAL, person=kind.encode(), key=name.encode()).digest()


def opened(kind: str, name: str, blob: Any) -> bytes:
    """Return the bytes that follow on their seal; a `DamageError` where it is not theirs."""
    if not isinstance(blob, bytes) or blob[:_SEAL] != seal(kind, name, blob[_SEAL:]):
        raise DamageError
    return blob[_SEAL:]


def packed(given: np.ndarray | Mapping[str, np.ndarray], level: int = 1) -> bytes:
    """Return an array, or several by name, as bytes, compressed with zlib's ``level``."""
    buffer = io.BytesIO()
    if isinstance(given, np.ndarray):
        np.save(buffer, given, allow_pickle=False)
    else:
        np.savez(buffer, **given)  # type: ignore[arg-type]
    return zlib.compress(buffer.getbuffer(), level)


def unpacked(data: bytes) -> Any:
    """Return what `packed` was given; a `DamageError` where that cannot be."""
    try:
        whole = zlib.decompressobj().decompress(data, _MOST_BYTES)
        found = np.load(io.BytesIO(whole), allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zlib.error, BadZipFile) as error:
        raise DamageError from error
