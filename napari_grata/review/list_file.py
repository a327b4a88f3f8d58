"""The one file of a list of cases, ``list.sqlite``: what is written to it is there for good.

It has a table each for the list itself (where its scans lie), its cases, what runs came to,
decisions and drawings. Rows are only ever added, triggers see to that: to take a decision back is
a row too. Choices alone, such as the place in the list, replace one another. A row is forced to
the disk before anyone is told of it, and carries a seal, a checksum over its number and all of its
values: one damaged digit is told in words, what can be read is kept, and the damaged file is set
aside as a copy before anything is written.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from napari_grata.scans.files import (
    PARTIAL,
    FileError,
    identifier,
    inside,
    make_folder,
    sha256_of,
    system,
    whole_file,
)
from napari_grata.scans.sqlite_file import DamageError, cause, connect, is_damage, seal

from .cases import ListError
from .locks import LockedError, WriterLock

STORE_FILE = "list.sqlite"
DECISIONS_FILE = "decisions.csv"
TABLES = {
    "lists": ("identity", "roots", "note"),
    "cases": ("key", "sources", "title"),
    "runs": ("case", "time", "summary"),
    "decisions": (
        *("id", "action", "of", "time", "case", "slice_index", "verdict", "comment", "difficulty"),
        *("reviewer", "kind", "run", "step", "edit", "digest", "model", "weights_sha256"),
        *("settings", "scan_sha256"),
    ),
    "edits": ("case", "number_of_case", "time", "base", "scan_sha256", "sha256"),
}
"""The columns of each table, beside number and seal; drawings have their bytes besides."""
_WORDS = {
    "lists": ("entries on where the scans lie", "Scans that were moved may have to be found anew."),
    "cases": ("entries on which scan a case is", "Their scans come anew at the end of the list."),
    "runs": ("entries on what runs came to", "A case may look as if it had not been adapted."),
    "decisions": (
        "entries on decisions",
        "On the same case an earlier decision may be in force instead: look again at what was "
        "decided until then.",
    ),
    "edits": ("drawings", "An earlier drawing may be shown in their place."),
}
_APPLICATION = 0x4752434C  # "GRCL", in the file's header
_FORMAT = 1
_SMALLEST_ROW = 24  # bytes
Values = tuple[Any, ...]
Row = tuple[str, Values]


class BeyondReadingError(ListError):
    """Nothing in a list's file can be read."""


class ListFile:
    """All rows of a list, in memory and in its file.

    Parameters
    ----------
    folder : Path
        The list's; beside the file lies its lock: one program at a time writes.
    take : callable
        Told of each row that is known to be in the file: table, number, values by column. A
        ValueError says that the row makes no sense, which counts as damage.

    Attributes
    ----------
    rows : dict of str to dict of int to tuple
        Values by table and number; all None where they were lost to damage.
    notices : list of str
        What was peculiar about the file, a sentence each, for the user to read.
    read_only : str or None
        A sentence that says why this program may not write.
    placed : bool
        Whether the file was ever seen; else it is made, or found, when something is written.
    writer : RLock
        Held while something is written.
    """

    def __init__(self, folder: Path, take: Callable[[str, int, dict[str, Any]], None]) -> None:
        self.folder = folder
        self.path = folder / STORE_FILE
        self.rows: dict[str, dict[int, Values]] = {table: {} for table in TABLES}
        self.choices: dict[str, Any] = {}
        self.notices: list[str] = []
        self.read_only: str | None = None
        self.placed = False
        self.writer = threading.RLock()
        self._take = take
        self._damage = ""  # what is damaged in the file, until it is mended
        self._lock = WriterLock(folder / "list.lock")

    def open(self, *, lock: bool = True) -> None:
        """Read the file, and take the lock if it is wanted and can be had.

        Raises
        ------
        ListError
            If the folder holds no list, or one of which nothing can be read.
        """
        if not os.path.exists(self.path):
            raise ListError(f"{self.folder.name} is no list of cases: it has no {STORE_FILE}.")
        try:
            for path in (self.path, self._lock.path, self.folder / "cases"):
                inside(self.folder, path)
        except FileError as error:
            raise ListError(str(error)) from error
        with self.writer:
            if lock:
                self.acquire()
            try:
                self._load()
            except BaseException:
                self._lock.release()
                raise

    def acquire(self) -> bool:
        """Take the lock, and mend what is damaged; `read_only` says why that cannot be done."""
        held = self._lock.held
        try:
            self._lock.acquire()
            if self._damage and not held:
                # Who had the lock may have mended it, and gone on.
                self._lock.release()
                raise LockedError("This list was damaged. Close it here, and open it again.")
            if self._damage:
                self._repair(self._damage)
            self.read_only = None
        except LockedError as error:
            self.read_only = str(error)
        except (OSError, sqlite3.Error) as error:
            self.read_only = f"This list can be read but not mended. {self._unwritten(error)}"
        return self.read_only is None

    def close(self) -> None:
        """Let another program write."""
        with self.writer:
            self._lock.release()

    def begin_anew(self) -> None:
        """Set a file aside of which nothing can be read, so that another takes its place."""
        with self.writer:
            if not self.acquire():
                raise ListError(str(self.read_only))
            try:
                aside = self._set_aside()
                system.remove(self.path)
            except OSError as error:
                raise self._unwritten(error) from error
            self.notices.append(
                f"Nothing in the file of this list could be read. It is {aside} now, its table of "
                "decisions is beside it, and the list begins anew."
            )

    def look(self) -> None:
        """Read what another program has written since; may raise ListError."""
        if self.placed:
            try:
                with self.writer, closing(connect(self.path, "ro")) as connection:
                    connection.execute("BEGIN")
                    self._catch_up(connection)
            except (sqlite3.Error, DamageError) as error:
                raise self._unreadable(error) from error

    def last(self, table: str) -> int:
        """Return the number of a table's last row; 0 without one."""
        return max(self.rows[table], default=0)

    def drawing(self, number: int) -> bytes | None:
        """Return the bytes of a drawing as they lie in the file; may raise sqlite3.Error."""
        with closing(connect(self.path, "ro")) as connection:
            sql = "SELECT drawing FROM edits WHERE number = ?"
            found = (connection.execute(sql, (number,)).fetchone() or (None,))[0]
            return found if isinstance(found, bytes) else None

    def write(
        self,
        rows: Sequence[Row] = (),
        *,
        drawing: bytes | None = None,
        choices: Mapping[str, Any] | None = None,
    ) -> None:
        """Add rows, and keep choices: all of it or nothing (ListError), on the disk then."""
        with self.writer:
            try:
                self._place()
                try:
                    added = self._written(rows, drawing, choices or {})
                except (sqlite3.Error, DamageError) as error:
                    if isinstance(error, sqlite3.Error) and not is_damage(error):
                        raise
                    self._repair("It was damaged, or replaced by another program.")
                    added = self._written(rows, drawing, choices or {})
            except LockedError as error:
                raise ListError(str(error)) from error
            except (OSError, sqlite3.Error, DamageError) as error:
                raise self._unwritten(error) from error
            self.choices.update(choices or {})
            for row in added:
                self.took(*row)

    def took(self, table: str, number: int, values: Values) -> None:
        """Let a row take effect; a ValueError where it makes no sense changes nothing."""
        self.rows[table][number] = values
        if values[0] is not None:
            try:
                self._take(table, number, dict(zip(TABLES[table], values, strict=True)))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                del self.rows[table][number]
                raise ValueError(f"row {number} of {table}") from error

    # -- writing -----------------------------------------------------------------------------

    def _place(self) -> None:
        """Make sure of folder, lock and file, and make the file where it is not there."""
        if self.placed and not os.path.isdir(self.folder):
            # Not made anew: where a share has gone, its mount point is an empty local folder.
            hint = "Bring it back: is the drive or share connected?"
            raise FileError("the list's folder is not there any more", self.path, hint)
        make_folder(self.folder)
        if self._lock.held:
            self._lock.check()
        else:
            self._lock.acquire()
        if not os.path.exists(self.path):
            self._build()
        elif not self.placed:
            # A place that was out of reach until now: what lies there comes first.
            self._load()
        self.placed = True

    def _written(
        self, rows: Sequence[Row], drawing: bytes | None, choices: Mapping[str, Any]
    ) -> list[tuple[str, int, Values]]:
        """Write, once the file is known to be what this program has read; return what was added."""
        # Where this fails the connection is closed, and that takes all of it back.
        with closing(connect(self.path, "rw")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            # The disk may have taken something and failed to say so.
            known = self._catch_up(connection)
            added: list[tuple[str, int, Values]] = []
            for table, values in rows:
                if (table, values) not in known:
                    number = self.last(table) + sum(one == table for one, _, _ in added) + 1
                    _insert(connection, table, number, values, drawing)
                    added.append((table, number, values))
            for name, value in choices.items():
                _put_choice(connection, name, value)
            connection.execute("COMMIT")
        return added

    def _catch_up(self, connection: sqlite3.Connection) -> list[Row]:
        """Read rows that are new in the file, if it is the one that was read before."""
        fresh = []
        for table in TABLES:
            last = self.last(table)
            found = _Found(connection, table, after=max(0, last - 1))
            if (
                found.lost
                or found.strange
                or (last and found.good.pop(last, None) != self.rows[table][last])
            ):
                raise DamageError
            fresh += [(table, number, values) for number, values in found.good.items()]
        for row in fresh:
            try:
                self.took(*row)
            except ValueError as error:
                raise DamageError from error
        return [(table, values) for table, _, values in fresh]

    def _build(self) -> None:
        """Write the whole file from memory, aside and then in its place.

        Drawings, which are not in memory, are taken from the file that is there.
        """
        aside = self.path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with closing(connect(aside, "rwc")) as new:
                new.execute(f"PRAGMA application_id={_APPLICATION}")
                new.execute(f"PRAGMA user_version={_FORMAT}")
                new.execute("BEGIN IMMEDIATE")
                for sql in _SCHEMA:
                    new.execute(sql)
                for table, rows in self.rows.items():
                    for number, values in sorted(rows.items()):
                        drawing = None
                        with suppress(sqlite3.Error):
                            drawing = self.drawing(number) if table == "edits" else None
                        _insert(new, table, number, values, drawing)
                for name, value in self.choices.items():
                    _put_choice(new, name, value)
                new.execute("COMMIT")
            system.rename(aside, self.path)
            system.sync_folder(self.folder)
        except BaseException:
            for left in (aside, aside.with_name(f"{aside.name}-journal")):
                with suppress(OSError):
                    system.remove(left)
            raise

    # -- reading, and damage -------------------------------------------------------------------

    def _load(self) -> None:
        """Read the whole file; what is damaged is told, set aside and left out."""
        try:
            with closing(connect(self.path, "rw" if self._lock.held else "ro")) as connection:
                connection.execute("BEGIN")
                said = self._read(connection)
                connection.execute("ROLLBACK")
                if self._lock.held and not said and not _takes_rows(connection, self.path):
                    said = "Everything in it can be read all the same."
        except (sqlite3.Error, DamageError) as error:
            raise self._unreadable(error) from error
        self.placed = True
        self._damage = said
        if said and self._lock.held:
            self.acquire()
        if self._damage:
            self.notices.append(f"The file of this list is damaged. {said}")
        copies = sorted(self.folder.glob("list.damaged-*.sqlite"))
        gone = sum(values[0] is None for rows in self.rows.values() for values in rows.values())
        if gone and copies and not said:
            self.notices.append(
                f"{gone} {'entry' if gone == 1 else 'entries'} of this list were lost to damage "
                f"earlier. The damaged file is {copies[-1].name}, its table of decisions beside it."
            )

    def _read(self, connection: sqlite3.Connection) -> str:
        """Read all rows; return in sentences what is damaged."""
        marks = tuple(
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if marks[0] == _APPLICATION and _FORMAT < marks[1] < 1000:
            raise ListError(
                f"{self.folder.name}/{STORE_FILE} is of a later version of this program."
            )
        whole = marks == (_APPLICATION, _FORMAT) and _is_whole(connection)
        said = []
        self.rows = {table: {} for table in TABLES}
        for table in TABLES:
            found = _Found(connection, table)
            for number, values in found.good.items():
                try:
                    self.took(table, number, values)
                except ValueError:
                    found.lost[number] = ""
            if found.strange:
                said.append(f"Some {_WORDS[table][0]} make no sense and are left out.")
            if found.lost:
                said.append(_told(table, found))
                nothing = (None,) * len(TABLES[table])
                self.rows[table].update(dict.fromkeys(found.lost, nothing))
        if not any(
            v[0] is not None for table in ("lists", "cases") for v in self.rows[table].values()
        ):
            raise DamageError
        try:
            for name, value, sealed in connection.execute("SELECT name, value, seal FROM choices"):
                if sealed != seal("list", f"choice {name.decode()}", value):
                    raise DamageError
                self.choices[name.decode()] = json.loads(value)
        except (sqlite3.Error, DamageError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            said.append("The choices for this list cannot be read; choose them again.")
        if not whole and not said:
            said.append("Everything in it can be read all the same.")
        return " ".join(said)

    def _repair(self, said: str) -> None:
        """Set the damaged file aside, as a copy, and write what could be read in its place."""
        aside = self._set_aside()
        self._build()
        self._damage = ""
        self.notices.append(
            f"The file of this list is damaged. {said} What could be read is kept; the file as it "
            f"was is {aside}, its table of decisions beside it."
        )

    def _set_aside(self) -> str:
        """Copy file and table of decisions to names of their own; return the first one's."""
        mark = sha256_of(self.path)[:8]
        for path, name in (
            (self.path, f"list.damaged-{mark}.sqlite"),
            (self.folder / DECISIONS_FILE, f"decisions.damaged-{mark}.csv"),
        ):
            target = self.folder / name
            if path.exists() and not target.exists():
                with path.open("rb") as file, whole_file(target) as copy:
                    shutil.copyfileobj(file, copy, 2**20)
        return f"list.damaged-{mark}.sqlite"

    # -- words ---------------------------------------------------------------------------------

    def _unreadable(self, error: Exception) -> ListError:
        where = f"{self.folder.name}/{STORE_FILE}"
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            return ListError(f"{where} cannot be read: {cause(error)}.")
        return BeyondReadingError(
            f"{where} is damaged and cannot be read. It is left as it is; the decisions are in "
            f"{DECISIONS_FILE} beside it, as far as there are any."
        )

    def _unwritten(self, error: Exception) -> ListError:
        if isinstance(error, FileError):
            return ListError(str(error))
        why = cause(error) if isinstance(error, sqlite3.Error) else "it is damaged"
        if isinstance(error, OSError):
            why = error.strerror or type(error).__name__
        todo = {
            "the disk is full": "Make room.",
            "it may not be written to": "Allow writing there, or choose another place.",
        }.get(why, "Check the drive: is it, or the share, connected?")
        return ListError(f"{self.folder.name}/{STORE_FILE} cannot be written: {why}. {todo}")


def read_identity(folder: Path) -> str | None:
    """Return what a folder's list was made of, as its fingerprint; None where that is lost."""
    with suppress(sqlite3.Error), closing(connect(folder / STORE_FILE, "ro")) as connection:
        sql = "SELECT identity FROM lists ORDER BY number DESC LIMIT 1"
        found = (connection.execute(sql).fetchone() or (None,))[0]
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else None
    return None


class _Found:
    """The rows of a table as they are in a file.

    Attributes
    ----------
    good : dict of int to tuple
        Values by number, in order.
    lost : dict of int to str
        Numbers of those that cannot be read, with the case that they seem to be about or "".
    strange : bool
        There are rows of numbers that cannot be.
    """

    def __init__(self, connection: sqlite3.Connection, table: str, after: int = 0) -> None:
        names = ", ".join(f'"{name}"' for name in TABLES[table])
        self._sql = f"SELECT number, seal, {names} FROM {table} WHERE number"
        self._connection = connection
        # A number that is damaged may be a very large one.
        most = self._number("PRAGMA page_count") * self._number("PRAGMA page_size") // _SMALLEST_ROW
        last = self._number("SELECT seq FROM sqlite_sequence WHERE name = ?", table)
        rows: list[Any] = []
        if not self._fetch(rows, "> ? ORDER BY number", after):
            last = max(last, self._number(f"SELECT max(number) FROM {table}"))
            for number in range(after + 1, last + 1 if last <= most else 0):
                self._fetch(rows, "= ?", number)
        self.good: dict[int, Values] = {}
        seems: dict[int, str] = {}
        for number, sealed, *raw in rows:
            with suppress(ValueError):
                values = tuple(v.decode("utf-8") if isinstance(v, bytes) else v for v in raw)
                if sealed == _seal(table, number, values) and number <= most:
                    self.good[number] = values
                elif "case" in TABLES[table]:
                    case = values[TABLES[table].index("case")]
                    seems[number] = identifier(case, "case")
        last = max(last if last <= most else 0, *self.good, 0)
        missing = sorted(set(range(after + 1, last + 1)) - self.good.keys())
        self.lost = {number: seems.get(number, "") for number in missing}
        self.strange = any(number > last for number, *_ in rows)

    def _fetch(self, rows: list[Any], where: str, number: int) -> bool:
        try:
            for row in self._connection.execute(f"{self._sql} {where}", (number,)):
                rows.append(row)
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            return False
        return True

    def _number(self, sql: str, *values: str) -> int:
        try:
            found = (self._connection.execute(sql, values).fetchone() or (0,))[0]
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            return 0
        return found if isinstance(found, int) else 0


def _told(table: str, found: _Found) -> str:
    """Say which rows of a table are lost, and what that means."""
    count, total = len(found.lost), len(found.lost) + len(found.good)
    what, then = _WORDS[table]
    cases = sorted(filter(None, found.lost.values()))
    which = ", ".join(str(number) for number in [*found.lost][:5]) + (" …" if count > 5 else "")
    about = f" (on {', '.join(dict.fromkeys(cases))}, it seems)" if cases else ""
    return (
        f"{count} of {total} {what} cannot be read and {'is' if count == 1 else 'are'} left out: "
        f"number {which}{about}. {then}"
    )


def _schema() -> tuple[str, ...]:
    made = []
    for table, names in TABLES.items():
        columns = ["number INTEGER PRIMARY KEY AUTOINCREMENT", *(f'"{name}"' for name in names)]
        columns += ["seal", "drawing"] if table == "edits" else ["seal"]
        made.append(f"CREATE TABLE {table} ({', '.join(columns)})")
        for change in ("UPDATE", "DELETE"):
            made.append(
                f"CREATE TRIGGER no_{change.lower()}_of_{table} BEFORE {change} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'rows are only ever added'); END"
            )
    return (*made, "CREATE TABLE choices (name TEXT PRIMARY KEY, value, seal) WITHOUT ROWID")


_SCHEMA = _schema()


def _is_whole(connection: sqlite3.Connection) -> bool:
    """Whether SQLite finds the file in order; drawings, which are large, are left aside."""
    try:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        if not {*_SCHEMA} <= {sql.decode("utf-8", "replace") for (sql,) in found}:
            return False
        return all(
            connection.execute(f"PRAGMA integrity_check({table})").fetchone() == (b"ok",)
            for table in (*TABLES, "choices")
            if table != "edits"
        )
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return False


def _takes_rows(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a file that may be written to by its permissions may be by what it says itself."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE probe (number)")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return "readonly" not in str(error) or not os.access(path, os.W_OK)
    return True


def _insert(
    connection: sqlite3.Connection, table: str, number: int, values: Values, drawing: bytes | None
) -> None:
    row = (number, *values, _seal(table, number, values), *([drawing] * (table == "edits")))
    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _seal(table: str, number: int, values: Values) -> bytes:
    return seal("list", f"{table} {number}", json.dumps(values).encode("ascii"))


def _put_choice(connection: sqlite3.Connection, name: str, value: Any) -> None:
    text = json.dumps(value)
    sealed = seal("list", f"choice {name}", text.encode("ascii"))
    connection.execute("INSERT OR REPLACE INTO choices VALUES (?, ?, ?)", (name, text, sealed))
