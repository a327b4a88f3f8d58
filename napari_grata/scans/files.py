"""The one place where this project touches a disk, a table or a name that somebody else wrote.

Every file of ours is written whole: aside, forced to the disk, renamed, and the folder forced to
the disk as well. All of it goes through `system`, so that a test can let any of these calls fail.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import numbers
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

PARTIAL = ".partial-"
"""What a file's name begins with while it is being written."""
OLD_SECONDS = 3600.0
"""A file that was being written so long ago was left behind by a crash."""
_MOST_JSON = 64 * 2**20
_BLOCK = 1 << 20
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_HINTS = {
    errno.ENOSPC: "Free some space, or choose a folder on another disk.",
    getattr(errno, "EDQUOT", errno.ENOSPC): "Free some space, or choose a folder on another disk.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.ENOENT: "Check that the folder and its disk are still there.",
}
IDENTIFIERS = {
    "case": re.compile(r"case-\d{4,6}", re.ASCII),
    "run": re.compile(r"run-\d{4,6}(-\d{1,6})?", re.ASCII),
    "edit": re.compile(r"edit-\d{4,6}", re.ASCII),
    "sha256": re.compile(r"[0-9a-f]{64}", re.ASCII),
}
"""What names that are read from files look like; they are matched whole."""


class FileError(OSError):
    """A file cannot be written, or a name leads out of its folder: what, where, what to do.

    Attributes
    ----------
    what : str
        What is wrong, a phrase without a full stop.
    where : str
        The last two parts of the path.
    hint : str
        What to do next, a whole sentence.
    """

    def __init__(self, what: str, where: str | os.PathLike[str], hint: str = "", code: int = 0):
        super().__init__(code, what)
        self.what, self.where, self.hint = what, short_path(where), hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.where, self.hint, self.errno)


class System:
    """The calls through which this project changes a disk."""

    def create(self, path: Path) -> int:
        """Make a file that is not there yet; return its handle."""
        # Not tempfile: its files can be read by their owner alone, unlike those of a shared folder.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, 0o666)

    def write(self, handle: int, data: bytes | memoryview) -> int:
        """Write some of the bytes; return how many."""
        return os.write(handle, data)

    def sync(self, handle: int) -> None:
        """Force what was written to the disk."""
        os.fsync(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Put one file in the place of another."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def make_folder(self, path: Path) -> None:
        """Make one folder."""
        os.mkdir(path)

    def sync_folder(self, path: Path) -> None:
        """Force a folder's list of names to the disk."""
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some network shares cannot; there is nothing better to be had from them.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(handle)


#: Not to be imported by its name: tests put another one here.
system = System()


class WholeFile(io.RawIOBase):
    """A file that is being written aside; see `whole_file`."""

    def __init__(self, path: Path):
        self._path = path
        self._aside = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
        with _told(path):
            self._handle = system.create(self._aside)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Write all of the bytes."""
        view = memoryview(data).cast("B")
        with _told(self._path):
            done = 0
            while done < len(view):
                done += system.write(self._handle, view[done : done + _BLOCK])
        return len(view)

    def close(self) -> None:
        if not self.closed:
            os.close(self._handle)
        super().close()

    def commit(self) -> None:
        """Force the bytes to the disk and put them in the place of the file."""
        with _told(self._path):
            system.sync(self._handle)
            self.close()
            system.rename(self._aside, self._path)
            system.sync_folder(self._path.parent)

    def discard(self) -> None:
        """Leave the file as it was."""
        self.close()
        with contextlib.suppress(OSError):
            system.remove(self._aside)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[WholeFile]:
    """Replace a file in one go: a reader, or a crash, sees the old bytes or the new.

    Yields
    ------
    WholeFile
        What is written to it takes the place of `path` at the end of the block, unless that
        ends with an exception.

    Raises
    ------
    FileError
        The old file is there as it was, and nothing is left beside it where that can be helped.
        Only where the folder itself could not be forced to the disk is it the new one.
    """
    file = WholeFile(Path(path))
    try:
        yield file
        file.commit()
    except BaseException:
        file.discard()
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Replace a file in one go; see `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a text file in one go: UTF-8, line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Replace a JSON file in one go.

    Raises
    ------
    FileError
    ValueError
        A value is NaN or infinite, which no JSON can hold.
    """
    write_bytes(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode("ascii"))


def read_json(path: str | os.PathLike[str], most: int = _MOST_JSON) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    OSError, ValueError
        ValueError also where the file holds something else than an object, is longer than `most`
        bytes, or nests too deep.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is longer than {most:,} bytes")
    try:
        values = json.loads(data)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    return values


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it, and force them to the disk; it may be there already."""
    path = Path(path)
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    with _told(path):
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                system.make_folder(folder)
            system.sync_folder(folder.parent)
    if not path.is_dir():
        raise FileError("there is a file of this name", path, "Choose another folder.")
    return path


def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Move a file or folder within its disk, and force the new name to the disk."""
    with _told(target):
        system.rename(Path(source), Path(target))
        system.sync_folder(Path(target).parent)


def remove(path: str | os.PathLike[str]) -> None:
    """Remove a file, which may be gone already, and force that to the disk."""
    with _told(path):
        with contextlib.suppress(FileNotFoundError):
            system.remove(Path(path))
        system.sync_folder(Path(path).parent)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Force a folder's list of names to the disk, after something in it was made or removed."""
    with _told(folder):
        system.sync_folder(Path(folder))


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
                        system.remove(path)
                        removed += 1
    return removed


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Fingerprint of a file's bytes, read block by block."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _told(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the system into a sentence."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or type(error).__name__).rstrip(".")
        hint = _HINTS.get(error.errno or 0, "Choose another folder.")
        raise FileError(f"it cannot be written ({why})", where, hint, error.errno or 0) from error


# -- tables --------------------------------------------------------------------------------


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV that no spreadsheet takes for a formula.

    Parameters
    ----------
    columns : sequence of str
    rows : iterable of sequences
        None is an empty cell.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in columns])
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells in a table of {len(columns)} columns")
        writer.writerow([safe_cell(value) for value in row])
    return text.getvalue()


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> Path:
    """Write `csv_text` in one go, with the mark by which spreadsheets know UTF-8."""
    write_bytes(path, csv_text(columns, rows).encode("utf-8-sig"))
    return Path(path)


def safe_cell(value: Any) -> Any:
    """Return a cell's value; text that a spreadsheet would compute gets an apostrophe in front."""
    if value is None or isinstance(value, numbers.Number):
        return value
    text = str(value)
    if text.lstrip(" \u00a0").startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


# -- names and paths -----------------------------------------------------------------------


def inside(folder: str | os.PathLike[str], *parts: str | os.PathLike[str]) -> Path:
    """Return the path of something in a folder, and refuse what leads out of it.

    Symbolic links are followed before it is looked where the path ends.

    Raises
    ------
    FileError
    """
    try:
        root = Path(folder).resolve()
        found = root.joinpath(*parts).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise FileError("a path in it cannot be followed", folder, "It is left alone.") from error
    if found == root or not found.is_relative_to(root):
        raise FileError("a path in it leads out of the folder", folder, "It is left alone.")
    return found


def identifier(value: object, kind: str) -> str:
    """Return a name read from a file if it is, as a whole, one of its kind (see `IDENTIFIERS`).

    Raises
    ------
    ValueError
    """
    if isinstance(value, str) and IDENTIFIERS[kind].fullmatch(value):
        return value
    raise ValueError(f"{_clipped(value)} is not the name of a {kind}")


def _clipped(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:37]}…"


def name_of_case(number: int, own: str = "", *, scan_names: bool = False) -> str:
    """Return what a case is called in files, reports and tables: by default not by its scan.

    Parameters
    ----------
    number : int
        Place of the case in its list, from 1.
    own : str
        The scan's own name, which may name a patient.
    scan_names : bool
        Whether the user asked for the scan's own name.
    """
    return safe_name(own) if scan_names and own else f"case-{number:04d}"


def nameless(text: str, sources: Iterable[str | os.PathLike[str]], code: str) -> str:
    """Return a sentence about a case with the case's code in place of its files' names.

    Parameters
    ----------
    text : str
        Where our own errors name a place, it stands in front, before a colon.
    sources : iterable of path
        The case's files.
    code : str
        As from `name_of_case`.
    """
    for source in sorted((os.fspath(one) for one in sources), key=len, reverse=True):
        for name in (source, short_path(source), os.path.basename(source), stem(source)):
            # A file called 1.png names nobody, and every sentence with a 1 in it would suffer.
            if len(name) > 3 or not name.isdecimal():
                text = text.replace(name, code)
        if text.startswith(f"{stem(source)}: "):
            text = code + text[len(stem(source)) :]
    return text


def safe_name(name: str) -> str:
    """Return a name that every file system takes, without any folder."""
    allowed = "".join("_" if c in '<>:"/\\|?*' or ord(c) < 32 else c for c in name)
    allowed = allowed.strip(" .")[:120]
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", allowed, re.IGNORECASE)
    return f"_{allowed}" if reserved or allowed.startswith(PARTIAL) else allowed or "unnamed"


def stem(path: str | os.PathLike[str]) -> str:
    """File name without its ending, ``.nii.gz`` taken as one."""
    name = os.path.basename(os.fspath(path))
    return os.path.splitext(name[:-3] if name.lower().endswith(".nii.gz") else name)[0]


def short_path(path: str | os.PathLike[str]) -> str:
    """Return the last two parts of a path (``folder/file``), enough to find it again."""
    parts = os.fspath(path).replace("\\", "/").rstrip("/").split("/")
    return "/".join(parts[-2:])


def templates(package: str) -> jinja2.Environment:
    """Return the templates of the HTML pages in a package of ours; they escape every value."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("napari_grata", package),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
