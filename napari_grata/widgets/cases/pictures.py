"""Small pictures of cases, read in a thread when a row is first drawn, and kept."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QObject, Signal
from qtpy.QtGui import QImage, QPixmap

from napari_grata.scans.photographs import is_photograph
from napari_grata.widgets.cases.errands import Errands, Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_grata.review.case_list import CaseList

SIDE = 38
_RATIO = 2  # device pixels per pixel of the interface: crisp on high-DPI screens
_KEPT = 600  # pictures of 80 × 80 pixels: 15 MB
_ASKED = 40  # rows scrolled past long ago need no picture
_TOO_LARGE = 60_000_000


class Pictures(QObject):
    """Pixmaps by case, made of a case's thumbnail, or of its photograph until there is one.

    Signals
    -------
    came(str key)
        The picture of a case is there, or is another one.
    """

    came = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cases: CaseList | None = None
        self._kept: OrderedDict[str, QPixmap | None] = OrderedDict()
        self._asked: list[str] = []
        self._errands = Errands("pictures", self)
        self._errands.found.connect(self._take)

    def set_cases(self, cases: CaseList | None) -> None:
        """Show another list's cases."""
        self._cases = cases
        self._kept.clear()
        self._asked.clear()
        self._errands.keep_only(())

    def get(self, key: str) -> QPixmap | None:
        """Return a case's picture; None while it is being read, and where there is none."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self._ask(key)
        return None

    def renew(self, key: str) -> None:
        """Read a picture again; the old one is shown until then."""
        if key in self._kept:
            self._ask(key, again=True)

    def put(self, key: str, picture: np.ndarray) -> None:
        """Take a picture that was made elsewhere, where there is none yet."""
        if self._kept.get(key) is None:
            self._keep(key, picture)

    @property
    def end(self) -> Callable[[], None]:
        """What ends the reading when the widget goes."""
        return self._errands.end()

    def _ask(self, key: str, again: bool = False) -> None:
        if self._cases is None or (self._errands.wanted(key) and not again):
            return
        case = self._cases.case(key)
        work = self._cases.work(key)
        photograph = case.sources[0] if len(case.sources) == 1 else None
        self._asked = [*[other for other in self._asked if other != key], key][-_ASKED:]
        self._errands.keep_only(self._asked)
        do = partial(_read, work.folder / "thumbnail.png", photograph)
        self._errands.ask(key, do, first=True)

    def _take(self, found: Found) -> None:
        if self._cases is None or found.error is not None:
            return
        self._keep(str(found.key), found.result)

    def _keep(self, key: str, picture: np.ndarray | None) -> None:
        if picture is None and self._kept.get(key) is not None:
            return
        self._kept[key] = None if picture is None else _pixmap(picture)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        if picture is not None:
            self.came.emit(key)


def _read(thumbnail: Path, photograph: Path | None) -> np.ndarray | None:
    """Return a picture, shape (H, W, 3) uint8, of at most ``SIDE`` pixels a side; else None."""
    from PIL import Image, ImageOps

    for path in (thumbnail, photograph):
        if path is None or not is_photograph(path) or not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                if image.width * image.height > _TOO_LARGE or image.mode.startswith(("I", "F")):
                    continue
                # JPEG decodes an eighth of the size in an eighth of the time.
                image.draft("RGB", (SIDE * _RATIO, SIDE * _RATIO))
                small = ImageOps.exif_transpose(image).convert("RGB")
                small.thumbnail((SIDE * _RATIO, SIDE * _RATIO))
                return np.asarray(small)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return None


def small_picture(image: np.ndarray) -> np.ndarray:
    """Return a slice, shape (H, W) or (H, W, 3), as a small picture, uint8 (h, w, 3)."""
    step = max(1, -(-max(image.shape[:2]) // (SIDE * _RATIO)))
    small = np.asarray(image[::step, ::step], dtype=np.float32)
    finite = small[np.isfinite(small)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    grey = np.nan_to_num((small - low) * (255 / (high - low if high > low else 1.0)))
    grey = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey[..., :3]


def _pixmap(picture: np.ndarray) -> QPixmap:
    picture = np.ascontiguousarray(picture)
    height, width = picture.shape[:2]
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    made = QPixmap.fromImage(image)
    # Some thumbnails are smaller than the place they have.
    made.setDevicePixelRatio(max(1.0, max(width, height) / SIDE))
    return made
