"""Small work in a thread of its own, the latest wish first; results come on the main thread.

A plain thread that ends when there is nothing more to do, and a timer that fetches what it found:
napari's workers change the warning filters of the whole program while they run, which several at
once would leave changed.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

_POLL_MS = 15


@dataclass(frozen=True)
class Found:
    """What came of an errand.

    Attributes
    ----------
    key : hashable
        As it was asked for.
    result : object
        What the function returned; None after an error.
    error : Exception or None
    details : str
        The trace of an error.
    """

    key: Hashable
    result: Any = None
    error: Exception | None = None
    details: str = ""


class _Counter:
    """Where errands are left for the thread and results for the main thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._wishes: dict[Hashable, Callable[[], Any]] = {}
        self._found: list[Found] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self.doing: Hashable = None

    def ask(self, key: Hashable, do: Callable[[], Any], first: bool) -> None:
        with self._lock:
            if self._closed:
                return
            self._wishes.pop(key, None)
            self._wishes = {key: do, **self._wishes} if first else {**self._wishes, key: do}
            if self._thread is None:
                # Not a daemon: what is being written must not be cut off at exit.
                self._thread = threading.Thread(target=self._work, name=self._name)
                self._thread.start()

    def keep_only(self, keys: Collection[Hashable]) -> None:
        with self._lock:
            self._wishes = {key: do for key, do in self._wishes.items() if key in keys}

    def wanted(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._wishes or (self.doing == key and self._thread is not None)

    @property
    def busy(self) -> bool:
        with self._lock:
            return bool(self._wishes or self._found) or self._thread is not None

    def fetch(self) -> list[Found]:
        with self._lock:
            found, self._found = self._found, []
            return found

    def close(self, finish: bool = False) -> None:
        """Take no more errands; ``finish``: those that wait are still done."""
        with self._lock:
            self._closed = True
            if not finish:
                self._wishes.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wishes:
                    self._thread = None
                    self.doing = None
                    return
                key = next(iter(self._wishes))
                do = self._wishes.pop(key)
                self.doing = key
            try:
                found = Found(key, do())
            except Exception as error:
                found = Found(key, None, error, traceback.format_exc())
            del do
            with self._lock:
                if not self._closed:
                    self._found.append(found)
            del found


class Errands(QObject):
    """Runs small functions one after another in a thread.

    Signals
    -------
    found(Found)
        On the main thread, in the order in which they were done.
    """

    found = Signal(object)

    def __init__(self, name: str, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._counter = _Counter(f"napari-grata-{name}")
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._fetch)

    def ask(self, key: Hashable, do: Callable[[], Any], *, first: bool = False) -> None:
        """Have something done; a wish of the same key that waits is replaced.

        Parameters
        ----------
        first : bool
            Before all that wait.
        """
        self._counter.ask(key, do, first)
        if not self._timer.isActive():
            self._timer.start()

    def wanted(self, key: Hashable) -> bool:
        """Whether an errand waits or is being done."""
        return self._counter.wanted(key)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Take back the wishes that wait, but for these."""
        self._counter.keep_only(keys)

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return self._counter.busy

    def end(self, *, finish: bool = False) -> Callable[[], None]:
        """Return what stops the errands when the widget goes; it holds no widget."""
        counter = self._counter
        return lambda: counter.close(finish)

    def _fetch(self) -> None:
        busy = self._counter.busy
        for found in self._counter.fetch():
            self.found.emit(found)
        if not busy and not self._counter.busy:
            self._timer.stop()
