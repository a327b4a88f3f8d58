"""Reads the neighbours of the case in view, and keeps no more than those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_grata.widgets.cases.errands import Errands, Found
from napari_grata.widgets.cases.loading import LoadedCase, load_case

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList

KEPT = 2
"""Cases in memory beside the one in view."""


class Prefetch(QObject):
    """Cases that were read ahead, by code.

    Signals
    -------
    ready(LoadedCase)
        A case that was wanted is in memory.
    """

    ready = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._wanted: list[str] = []
        self._kept: dict[str, LoadedCase] = {}
        self._stale: set[str] = set()
        self._errands = Errands("prefetch", self)
        self._errands.found.connect(self._take)

    @property
    def held(self) -> tuple[str, ...]:
        """Codes of the cases in memory."""
        return tuple(self._kept)

    @property
    def busy(self) -> bool:
        """Whether a case is still being read."""
        return self._errands.busy

    @property
    def end(self) -> Callable[[], None]:
        """What ends the reading when the widget goes."""
        return self._errands.end()

    def want(self, cases: CaseList, keys: Sequence[str | None]) -> None:
        """Have these cases read, the first one first; all others are let go of."""
        self._wanted = [key for key in keys if key is not None][:KEPT]
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._wanted}
        self._errands.keep_only(self._wanted)
        for key in self._wanted:
            if key not in self._kept and (key in self._stale or not self._errands.wanted(key)):
                self._stale.discard(key)
                self._errands.ask(key, partial(load_case, cases, cases.case(key)))

    def take(self, key: str) -> LoadedCase | None:
        """Hand a case over that was read; it is not kept here any longer."""
        loaded = self._kept.pop(key, None)
        if loaded is not None:
            self._wanted.remove(key)
        return loaded

    def reads(self, key: str | None) -> bool:
        """Whether a case is wanted and not in memory yet."""
        return key in self._wanted and key not in self._kept

    def drop(self, key: str) -> None:
        """Forget a case whose files are others now."""
        self._kept.pop(key, None)
        if self._errands.wanted(key):
            self._stale.add(key)

    def forget(self) -> None:
        """Forget all cases, and read no more."""
        self._wanted = []
        self._kept.clear()
        self._stale.clear()
        self._errands.keep_only(())

    def _take(self, found: Found) -> None:
        key = str(found.key)
        if key not in self._wanted:
            return
        if key in self._stale and self._errands.wanted(key):
            return  # what was read is out of date; it is being read again
        loaded = found.result
        if found.error is not None:
            loaded = LoadedCase(key, problem=f"This case cannot be shown: {found.error}")
        self._kept[key] = loaded
        self.ready.emit(loaded)
