"""Drawings on their way to the disk; without Qt, so that they outlive the dock."""

from __future__ import annotations

import itertools
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_grata.review.cases import ListError
from napari_grata.review.final_masks import mask_digest
from napari_grata.widgets.decide.docket import Docket

_turns = itertools.count(1)
_writing = threading.Lock()
"""One thread writes drawings at a time: a version and the note of its base belong together."""


@dataclass
class Drawing:
    """A layer that somebody has drawn on, and where that goes.

    Attributes
    ----------
    layer : Labels
    docket : Docket
    under : ndarray or str
        The mask that it was drawn over, or the mask's fingerprint.
    """

    layer: Any
    docket: Docket
    under: Any

    def base(self) -> str:
        """Return the fingerprint of the mask under the drawing."""
        return self.under if isinstance(self.under, str) else mask_digest(self.under)


@dataclass(frozen=True)
class Copy:
    """A drawing as it was at a moment.

    Attributes
    ----------
    drawing : Drawing
    stack : ndarray of int, shape ``scan.mask_shape``
    digest : str
        Its fingerprint.
    turn : int
        A later copy has a higher one.
    """

    drawing: Drawing
    stack: np.ndarray
    digest: str
    turn: int


class Drawings:
    """Drawings that may not be on the disk yet."""

    def __init__(self) -> None:
        self._written: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.waiting: list[Drawing] = []
        self.saved: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()

    def add(self, drawing: Drawing) -> None:
        """Remember a drawing until it is saved."""
        if not any(known.layer is drawing.layer for known in self.waiting):
            self.waiting.append(drawing)

    def knows(self, layer: Any) -> bool:
        """Return whether somebody has drawn on a layer."""
        return layer in self.saved or any(drawing.layer is layer for drawing in self.waiting)

    def fresh(self) -> list[Copy]:
        """Return copies of the drawings that differ from what was saved."""
        found = []
        for drawing in list(self.waiting):
            data = drawing.layer.data
            if tuple(data.shape) == tuple(drawing.docket.scan.mask_shape):
                digest = mask_digest(data)
                if digest != self.saved.get(drawing.layer, drawing.base()):
                    found.append(Copy(drawing, np.array(data), digest, next(_turns)))
                    continue
            self.waiting.remove(drawing)
        return found

    def keep(self, copy: Copy) -> None:
        """Write a copy, from any thread, unless a later one is on the disk already.

        Raises
        ------
        ListError, OSError
        """
        layer = copy.drawing.layer
        with _writing:
            if copy.turn > self._written.get(layer, 0):
                write(copy.drawing.docket, copy.stack, copy.drawing.base())
                self._written[layer] = copy.turn

    def settle(self, copy: Copy) -> None:
        """Take note, on the main thread, that a copy is on the disk."""
        drawing = copy.drawing
        if copy.turn < self._written.get(drawing.layer, 0):
            return
        self.saved[drawing.layer] = copy.digest
        if mask_digest(drawing.layer.data) == copy.digest and drawing in self.waiting:
            self.waiting.remove(drawing)

    def write(self) -> None:
        """Write everything that waits, here and now.

        Raises
        ------
        ListError, OSError
        """
        for copy in self.fresh():
            self.keep(copy)
            self.settle(copy)

    def write_or_leave(self) -> None:
        """Write what waits when nobody is there any more to be told of a failure."""
        with suppress(ListError, OSError):
            self.write()


def write(docket: Docket, stack: np.ndarray, base: str) -> int:
    """Keep a drawing as a new version; returns its number.

    Raises
    ------
    ListError, OSError
        If it cannot be written; nothing on the disk has changed.
    """
    return docket.work.save_edit(stack, docket.scan, base)
