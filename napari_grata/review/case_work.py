"""One case of a list: its runs, what the user drew on it, the masks called right, its picture."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.adaptation.run_files import fingerprint
from napari_grata.adaptation.run_store import RunFolderError, read_info
from napari_grata.scans.files import (
    FileError,
    clear_leftovers,
    identifier,
    inside,
    make_folder,
    sync_folder,
    write_bytes,
)
from napari_grata.scans.sqlite_file import packed, unpacked

from .cases import CaseSummary, EditVersion, ListError
from .compare import change_and_picture
from .final_masks import CaseMasks, as_labels, mask_digest

if TYPE_CHECKING:
    from napari_grata.scans import Scan

    from .case_list import CaseList

THUMBNAIL_FILE = "thumbnail.png"


class CaseWork:
    """What one does on a case of a list.

    Attributes
    ----------
    key : str
        The case's code.
    folder : Path
        Made when something is first written to it.
    notices : list of str
        What could not be read back, a sentence each.
    """

    def __init__(self, caselist: CaseList, key: str) -> None:
        try:
            self.folder = inside(caselist.folder, "cases", identifier(key, "case"))
        except FileError as error:
            raise ListError(str(error)) from error
        self.key = key
        self.notices: list[str] = []
        self._list = caselist
        self._mutex = threading.RLock()
        if caselist.writable:
            clear_leftovers([self.folder])

    # -- runs ------------------------------------------------------------------------------

    def run_folders(self) -> list[Path]:
        """All run folders, oldest first, finished or not."""
        found = []
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                # A link that leads elsewhere is no run of this case.
                with contextlib.suppress(ValueError, FileError):
                    found.append(inside(self.folder, identifier(path.name, "run")))
        return sorted(found, key=lambda path: [int(part) for part in path.name.split("-")[1:]])

    @property
    def run_folder(self) -> Path | None:
        """The latest run folder whose run came to its end; None without one."""
        return next((path for path in reversed(self.run_folders()) if is_finished(path)), None)

    def new_run_folder(self) -> Path:
        """Make an empty folder for a new run; a ListError where it cannot be made."""
        with self._mutex:
            number = max((int(path.name.split("-")[1]) for path in self.run_folders()), default=0)
            while True:
                number += 1
                path = self.folder / f"run-{number:04d}"
                with contextlib.suppress(FileExistsError), self._writing():
                    path.mkdir()
                    sync_folder(self.folder)
                    return path

    # -- summary and picture -------------------------------------------------------------------

    @property
    def summary(self) -> CaseSummary | None:
        """What is known of the case."""
        return self._list.summary(self.key)

    def write_summary(self, summary: CaseSummary) -> None:
        """Keep what is known of the case; a ListError where it cannot be written."""
        self._list.add_summary(self.key, summary)
        self._list.look_at(self._list.case(self.key))

    @property
    def thumbnail(self) -> Path | None:
        """The small picture, None without one."""
        path = self.folder / THUMBNAIL_FILE
        return path if path.is_file() else None

    def write_thumbnail(self, array: np.ndarray) -> None:
        """Keep a small picture, shape (H, W, 3) or (H, W), uint8; may raise ListError."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)).save(buffer, format="PNG")
        with self._mutex, self._writing():
            write_bytes(self.folder / THUMBNAIL_FILE, buffer.getvalue())

    # -- drawings ------------------------------------------------------------------------------

    @property
    def edits(self) -> tuple[EditVersion, ...]:
        """All versions of what the user drew, in order."""
        return tuple(one for _, one in sorted(self._list.edits.get(self.key, {}).items()))

    @property
    def edit_version(self) -> int:
        """Number of the latest version; 0 without one."""
        return max(self._list.edits.get(self.key, ()), default=0)

    def save_edit(self, stack: np.ndarray, scan: Scan, base: str = "") -> int:
        """Keep a mask that the user has drawn, as a new version; return its number.

        The case's change and its small picture are those of the drawing from then on, if it was
        made over the masks that the case has now.

        Parameters
        ----------
        stack : ndarray of int, shape ``scan.mask_shape``
            Label values, 0 … 65535.
        scan : Scan
            What it was drawn on.
        base : str
            `mask_digest` of the mask that it was drawn over.

        Raises
        ------
        ListError
            If it is no mask of this scan, or cannot be written; nothing on the disk changed.
        """
        stack = np.asarray(stack)
        if tuple(stack.shape) != tuple(scan.mask_shape) or stack.dtype.kind not in "bui":
            raise ListError(
                f"This mask ({stack.dtype}, {stack.shape}) is not one of the scan "
                f"({tuple(scan.mask_shape)}). Draw on a mask of this case."
            )
        if stack.size and not 0 <= int(stack.min()) <= int(stack.max()) <= 65535:
            raise ListError("The mask's values do not lie between 0 and 65535.")
        labels = as_labels(stack)
        with self._mutex:
            summary, picture = self._with_drawing(labels, scan, base)
            version = self._list.add_edit(self.key, labels, base, fingerprint(scan), summary)
            if picture is not None:
                with contextlib.suppress(ListError):
                    self.write_thumbnail(picture)
            return version

    def _with_drawing(
        self, labels: np.ndarray, scan: Scan, base: str
    ) -> tuple[CaseSummary, np.ndarray | None]:
        """Return what is known of the case with a drawing, and its picture then."""
        from napari_grata.adaptation import reopen

        known, folder = self.summary or CaseSummary(), self.run_folder
        if folder is None or not known.adapted:
            return known.but(edited=True), None
        try:
            info = read_info(folder)
            which = (folder, info["position"], info["taken"], info.get("chosen"))
            if self._list.drawn_over is None or self._list.drawn_over[0] != which:
                with contextlib.closing(reopen(folder, scan)) as run:
                    masks = CaseMasks(run.scan or scan, run.source_masks, run.adapted_masks)
                    self._list.drawn_over = which, masks, run.card
        except (RunFolderError, ValueError):
            # What was drawn is kept, even if the run that it was drawn on cannot be read.
            return known.but(edited=True), None
        _, masks, card = self._list.drawn_over
        if base not in ("", mask_digest(masks.mask("edit", None))):
            return known, None
        masks = masks.with_drawing(labels)
        change, picture = change_and_picture(masks, card)
        return known.but(change=change, edited=True, slices=len(masks.slices)), picture

    def masks(
        self, scan: Scan, source: Mapping[int, np.ndarray], adapted: Mapping[int, np.ndarray]
    ) -> CaseMasks:
        """Return masks of a run on this case with what the user drew on them, if anything.

        A drawing counts only over the masks that it was drawn on.
        """
        masks, edits = CaseMasks(scan, source, adapted), self.edits
        if not edits or edits[-1].base not in ("", mask_digest(masks.mask("edit", None))):
            return masks
        drawn = self.edit(scan)
        return masks if drawn is None else masks.with_drawing(drawn)

    def edit(self, scan: Scan, version: int | None = None) -> np.ndarray | None:
        """Return what the user drew last, shape ``scan.mask_shape``; None without it.

        A version that is damaged, or was drawn on another scan, is passed over in favour of the
        one before, with a sentence in `notices`.
        """
        wanted = [entry for entry in self.edits if version in (None, entry.number)]
        identity = fingerprint(scan) if wanted else ""
        for entry in reversed(wanted):
            labels = self._list.drawing(entry)
            if labels is None:
                self._note(f"Version {entry.number} of the drawing on {self.key} is damaged.")
            elif entry.scan_sha256 != identity or labels.shape != tuple(scan.mask_shape):
                self._note(
                    f"The drawing on {self.key} (version {entry.number}) was made on another "
                    "version of the scan's file and is not shown. It is kept."
                )
            else:
                return labels
        return None

    # -- masks called right --------------------------------------------------------------------

    def keep_reviewed(self, model: str, masks: Mapping[int, np.ndarray]) -> None:
        """Keep which masks (H, W) the user calls right, in place of those kept before.

        Each model's are kept by themselves. A ListError says that they cannot be written.
        """
        told = {str(i): b64encode(packed(mask)).decode() for i, mask in sorted(masks.items())}
        value = {"scan_sha256": self._scan_sha256, "masks": told}
        self._list.keep(f"reviewed {self.key} {model}", value)

    def reviewed(self, model: str, scan: Scan) -> dict[int, np.ndarray]:
        """Return the masks that were called right; none of another version of the scan's file."""
        kept = self._list.option(f"reviewed {self.key} {model}", {"scan_sha256": "", "masks": {}})
        stale = self.summary is not None and bool(self.summary.stale)
        stale |= kept["scan_sha256"] not in ("", self._scan_sha256)
        if kept["masks"] and stale:
            self._note(
                f"What was called right on {self.key} was so of another version of the scan's "
                "file and is not shown."
            )
            return {}
        masks = {int(index): unpacked(b64decode(text)) for index, text in kept["masks"].items()}
        return {
            index: mask
            for index, mask in masks.items()
            if index < scan.n_slices and mask.shape == tuple(scan.slice_shape(index))
        }

    @property
    def touched(self) -> bool:
        """Whether the user has drawn on the case, or calls masks of it right."""
        model = self.summary.model if self.summary is not None else ""
        called = self._list.option(f"reviewed {self.key} {model}", {})
        return bool(self.edits or called.get("masks"))

    @property
    def _scan_sha256(self) -> str:
        return self.summary.scan_sha256 if self.summary is not None else ""

    # -- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Make the folder, and say in words why something cannot be written to it."""
        try:
            # Where the list's own folder has gone, so has the share it lay on: not made anew.
            if not os.path.isdir(self._list.folder):
                hint = "Bring it back: is the drive or share connected?"
                raise FileError("the list's folder is not there any more", self.folder, hint)
            make_folder(self.folder)
            yield
        except FileExistsError:
            raise
        except FileError as error:
            raise ListError(str(error)) from error
        except OSError as error:
            why = error.strerror or type(error).__name__
            where = f"{self._list.folder.name}/cases/{self.key}"
            raise ListError(f"{where} cannot be written ({why}). Check the drive.") from error

    def _note(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)


def is_finished(folder: Path) -> bool:
    """Whether a run folder's run came to its end, even if it was rolled back since."""
    try:
        info = read_info(folder)
    except RunFolderError:
        return False
    return info["state"] == "finished" or info["count"] >= info["total"]
