"""Many layers come and go as one change: napari then tidies up once, and quickly."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def as_one_change(viewer: Any) -> Iterator[None]:
    """Have the canvas follow layers that are added and removed once, at the end.

    After each layer that is removed, napari looks through all objects of the program for what it
    may still hold on the graphics card, half a second here.
    """
    events = viewer.layers.events
    begin, end = getattr(events, "begin_batch", None), getattr(events, "end_batch", None)
    if begin is None or end is None:  # in earlier versions of napari
        yield
        return
    begin()
    try:
        yield
    finally:
        end()


class OldObjects:
    """Keeps Python from looking for garbage among what was there before a case was opened.

    torch, napari and their like are half a million objects that stay until the end. Looking
    through all of them at each case takes longer than showing it. What belongs to cases comes
    later and is looked through as usual; once the list or the window is closed, everything is.
    """

    def __init__(self) -> None:
        self._set_aside = False

    def set_aside(self) -> None:
        """Leave out all objects that there are now."""
        if not self._set_aside:
            self._set_aside = True
            gc.freeze()

    def take_back(self) -> None:
        """Look through all objects again."""
        if self._set_aside:
            self._set_aside = False
            gc.unfreeze()
