"""SQLite files that hold what may not be lost: opened, sealed and complained about in one way.

The journal is a plain one that is forced to the disk at every commit, never a write-ahead log,
which network shares do not bear. SQLite notices damage to its own structure alone, so what is kept
is sealed besides: a checksum that goes with the name under which it is kept.
"""

from __future__ import annotations

import os
import sqlite3
import urllib.parse
from hashlib import blake2b
from pathlib import Path
from typing import Literal

DURABLE = ("journal_mode=DELETE", "synchronous=EXTRA", "secure_delete=ON")
"""For a connection that writes: forced to the disk, and nothing that was removed stays behind."""
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


def seal(kind: str, name: str, data: bytes) -> bytes:
    """Return the checksum, 16 bytes, of what is kept under a name in a kind of file."""
    return blake2b(data, digest_size=16, person=kind.encode(), key=name.encode()).digest()
