"""What lies in one case's folder: runs, summary, thumbnail, and what the reviewer drew."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from napari_grata.adaptation.run_files import fingerprint
from napari_grata.scans.files import read_json, sync_folder, write_bytes, write_json

from .casefinding import ListError
from .cases import CaseSummary
from .decisions import Fact
from .drawings import pack, unpack
from .runs import is_finished, is_run, run_facts, run_order

if TYPE_CHECKING:
    from napari_grata.scans import Scan

SUMMARY_FILE = "summary.json"
THUMBNAIL_FILE = "thumbnail.png"
_EDIT = re.compile(r"^edit-(\d{4,})\.npz$")


@dataclass(frozen=True)
class EditVersion:
    """One version of what the reviewer drew."""

    number: int
    path: Path


class CaseWork:
    """The folder of one case of a list, ``cases/case-0001``.

    Every file in it appears whole or not at all. Nothing is kept in memory but the summary.

    Parameters
    ----------
    folder : Path
        Made when something is first written.
    changed : callable, optional
        Told the new summary whenever one is written.

    Attributes
    ----------
    notices : list of str
        What could not be read back, a sentence each.
    """

    def __init__(
        self, folder: Path, changed: Callable[[CaseSummary | None], None] | None = None
    ) -> None:
        self.folder = Path(folder)
        self.notices: list[str] = []
        self._changed = changed
        self._mutex = threading.RLock()

    @property
    def key(self) -> str:
        """The case's code."""
        return self.folder.name

    # -- runs ------------------------------------------------------------------------------

    def run_folders(self) -> list[Path]:
        """All run folders, oldest first, finished or not."""
        try:
            found = [path for path in self.folder.iterdir() if is_run(path)]
        except OSError:
            return []
        return sorted(found, key=run_order)

    @property
    def run_folder(self) -> Path | None:
        """The latest run folder whose run came to its end; None without one."""
        for folder in reversed(self.run_folders()):
            if is_finished(folder):
                return folder
        return None

    def new_run_folder(self) -> Path:
        """Make an empty folder for a new run and return it.

        Raises
        ------
        ListError
            If it cannot be made.
        """
        with self._mutex:
            runs = self.run_folders()
            number = 1 + max((run_order(path)[0] for path in runs), default=0)
            while True:
                path = self.folder / f"run-{number:04d}"
                try:
                    self._make()
                    path.mkdir()
                except FileExistsError:
                    number += 1
                    continue
                except OSError as error:
                    raise cannot_write(path, error) from error
                sync_folder(self.folder)
                return path

    def facts(self) -> dict[str, Fact]:
        """Return what a decision on this case rests on."""
        facts: dict[str, Fact] = {}
        folder = self.run_folder
        if folder is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                facts = run_facts(folder)
        if self.edit_version:
            facts["edit_version"] = self.edit_version
        return facts

    # -- summary ---------------------------------------------------------------------------

    @property
    def summary(self) -> CaseSummary | None:
        """Read the summary from the disk; None where there is none that can be read."""
        path = self.folder / SUMMARY_FILE
        edited = bool(self.edit_version)
        try:
            return CaseSummary.from_dict(read_json(path)).but(edited=edited)
        except FileNotFoundError:
            return CaseSummary(edited=True) if edited else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._note(f"The summary of {self.key} cannot be read; the case counts as new.")
            return None

    @property
    def error(self) -> str | None:
        """Why the case could not be done, None if it could or was not tried."""
        summary = self.summary
        return None if summary is None else summary.error

    def write_summary(self, summary: CaseSummary) -> None:
        """Keep the summary.

        Raises
        ------
        ListError
            If it cannot be written.
        """
        summary = summary.but(stale="")
        self._write(self.folder / SUMMARY_FILE, lambda path: write_json(path, summary.to_dict()))
        if self._changed is not None:
            self._changed(summary)

    # -- what the reviewer drew ------------------------------------------------------------

    @property
    def edits(self) -> tuple[EditVersion, ...]:
        """All versions of the reviewer's mask, oldest first."""
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            return ()
        found = [(int(match[1]), match[0]) for match in map(_EDIT.match, names) if match]
        return tuple(EditVersion(number, self.folder / name) for number, name in sorted(found))

    @property
    def edit_version(self) -> int:
        """Number of the latest version; 0 without one."""
        return self.edits[-1].number if self.edits else 0

    def save_edit(self, stack: np.ndarray, scan: Scan) -> Path:
        """Keep a mask that the reviewer has drawn, as a new version; older ones stay.

        Parameters
        ----------
        stack : ndarray of int, shape ``scan.mask_shape``
            Label values, 0 … 65535.
        scan : Scan
            What it was drawn on.

        Raises
        ------
        ListError
            If it is no mask of this scan, or cannot be written; nothing on the disk changed.
        """
        data = pack(stack, scan)
        with self._mutex:
            path = self.folder / f"edit-{self.edit_version + 1:04d}.npz"
            self._write(path, lambda path: write_bytes(path, data))
        if self._changed is not None:
            self._changed(self.summary)
        return path

    def edit(self, scan: Scan, version: int | None = None) -> np.ndarray | None:
        """Return what the reviewer drew last, shape ``scan.mask_shape``; None without it.

        A version that is damaged, or was drawn on another scan, is passed over in favour of the
        one before, with a sentence in `notices`.
        """
        found = [entry for entry in self.edits if version in (None, entry.number)]
        if not found:
            return None
        identity = fingerprint(scan)
        for entry in reversed(found):
            try:
                labels, about = unpack(entry.path)
            except (OSError, ValueError, KeyError, EOFError, BadZipFile, TypeError):
                self._note(f"Version {entry.number} of the drawing on {self.key} is damaged.")
                continue
            if about["scan_sha256"] != identity or labels.shape != tuple(scan.mask_shape):
                self._note(
                    f"The drawing on {self.key} (version {entry.number}) was made on another "
                    "version of the scan's file and is not shown. It is kept."
                )
                continue
            return labels
        return None

    # -- thumbnail -------------------------------------------------------------------------

    @property
    def thumbnail(self) -> Path | None:
        """The small picture, None without one."""
        path = self.folder / THUMBNAIL_FILE
        return path if path.is_file() else None

    def write_thumbnail(self, array: np.ndarray) -> Path:
        """Keep a small picture, shape (H, W, 3) or (H, W), uint8.

        Raises
        ------
        ListError
            If it cannot be written.
        """
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).save(buffer, format="PNG")
        path = self.folder / THUMBNAIL_FILE
        self._write(path, lambda path: write_bytes(path, buffer.getvalue()))
        return path

    # -- inside ----------------------------------------------------------------------------

    def _make(self) -> None:
        # Not with parents: where the list's own folder has gone, so has the share it lay on.
        if not self.folder.is_dir():
            if not self.folder.parent.is_dir() and self.folder.parent.parent.is_dir():
                self.folder.parent.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            sync_folder(self.folder.parent)

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        with self._mutex:
            try:
                self._make()
                write(path)
            except OSError as error:
                raise cannot_write(path, error) from error

    def _note(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def cannot_write(path: Path, error: OSError) -> ListError:
    """Return what to say where a file of a list cannot be written, and what to do."""
    where = f"{path.parent.name}/{path.name}"
    todo = {
        errno.ENOSPC: "The disk is full: make room and try again.",
        errno.EACCES: "The folder may not be written to: allow it, or choose another place.",
        errno.EROFS: "The drive is read-only: choose another place.",
        errno.ENOENT: "The list's folder is not there: is the drive or share connected?",
    }.get(error.errno or 0, "Check the drive and try again.")
    why = error.strerror or type(error).__name__
    return ListError(f"{where} could not be written ({why}). {todo}")
