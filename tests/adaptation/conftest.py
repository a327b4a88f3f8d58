"""What the tests of runs share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest


@pytest.fixture
def damage() -> Callable[..., None]:
    """Return a function that changes one byte of what a run folder's store holds."""

    def change(folder: Path, table: str, column: str, where: str) -> None:
        with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
            (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
            changed = bytearray(value if isinstance(value, bytes) else value.encode())
            changed[len(changed) // 2] ^= 1
            new = bytes(changed) if isinstance(value, bytes) else changed.decode()
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (new,))
            connection.commit()

    return change
