"""Faults below the file layer: the n-th call fails, or the power goes and takes what was loose.

For tests: put one of these in the place of `napari_grata.scans.files.system`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from napari_grata.scans.files import System


class FaultySystem(System):
    """The system, which fails at one of its calls.

    Parameters
    ----------
    fail_at : int, optional
        Number of the call that fails, from 1; none by default.
    code : int
        The error, such as `errno.ENOSPC`.
    for_good : bool
        Whether all calls after it fail, too, except for removing.

    Attributes
    ----------
    calls : list of str
        What was called, in order.
    """

    def __init__(
        self, fail_at: int | None = None, code: int = errno.ENOSPC, *, for_good: bool = False
    ) -> None:
        self.calls: list[str] = []
        self._fail_at, self._code, self._for_good = fail_at, code, for_good

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if self._fail_at is None:
            return
        later = self._for_good and len(self.calls) > self._fail_at and name != "remove"
        if len(self.calls) == self._fail_at or later:
            raise OSError(self._code, os.strerror(self._code))

    def create(self, path: Path) -> int:
        self._note("create")
        return super().create(path)

    def write(self, handle: int, data: bytes | memoryview) -> int:
        self._note("write")
        return super().write(handle, data)

    def sync(self, handle: int) -> None:
        self._note("sync")
        super().sync(handle)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._note("remove")
        super().remove(path)

    def make_folder(self, path: Path) -> None:
        self._note("make_folder")
        super().make_folder(path)

    def sync_folder(self, path: Path) -> None:
        self._note("sync_folder")
        super().sync_folder(path)


class FailingPower(FaultySystem):
    """The system of a machine whose power may go: keeps in mind what the disk has not got yet.

    `cut` leaves the files as the worst disk would: what was written and not forced is gone, and a
    new name is forgotten unless its folder was forced.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._paths: dict[int, Path] = {}
        self._loose: set[Path] = set()  # files whose bytes are not on the disk
        self._names: list[tuple[Path, bytes | None]] = []  # names that are not, and what was there

    def create(self, path: Path) -> int:
        handle = super().create(path)
        self._paths[handle] = path
        self._loose.add(path)
        self._names.append((path, None))
        return handle

    def sync(self, handle: int) -> None:
        super().sync(handle)
        self._loose.discard(self._paths[handle])

    def rename(self, source: Path, target: Path) -> None:
        before = target.read_bytes() if target.exists() else None
        super().rename(source, target)
        self._names.append((target, before))
        if source in self._loose:
            self._loose.remove(source)
            self._loose.add(target)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self._names = [(name, before) for name, before in self._names if name.parent != path]

    def cut(self) -> None:
        """Let the power go."""
        for path in self._loose:
            if path.exists():
                path.write_bytes(b"")
        for path, before in reversed(self._names):
            if before is not None:
                path.write_bytes(before)
            else:
                path.unlink(missing_ok=True)
