"""Work off the main thread: `Job` runs one generator, `Queue` small functions, latest wish wins.

Both are plain threads that a timer on the main thread looks after. Nothing of Qt is touched off
the main thread, and what the threads share holds no Qt object, so that a window may close at any
time. napari's own workers are not used: they change the warning filters of the whole program
while they run, and two at once leave them changed.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

if TYPE_CHECKING:
    from napari_grata.widgets.connections import EventConnections

_POLL_MS = 15
# Each batch costs a redraw of the whole window, next to a viewer that draws with OpenGL.
# So the first few come quickly, since many jobs are short, and the others at a steady pace.
_FIRST_S, _LATER_S, _FEW = 0.066, 0.3, 6


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    kind : {"done", "cancelled", "failed"}
    message : str
        Of a failure: what happened, in a sentence.
    details : str
        Of a failure: the trace, for copying into a report.
    """

    kind: str
    message: str = ""
    details: str = ""


def describe(error: Exception) -> str:
    """Return an error as a sentence for the user."""
    if isinstance(error, MemoryError):
        return "The computer ran out of memory. Choose fewer slices or a smaller region."
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, (ValueError, OSError, LookupError))
    return text if known else f"{text} ({type(error).__name__})"


class _Work:
    """One run of a generator in its thread, as seen from both sides."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._items: list[Any] = []
        self.stop = threading.Event()
        self.proceed = threading.Event()
        self.proceed.set()
        self.paused = False
        self.outcome: Outcome | None = None
        # Not a daemon: what is being written must not be cut off at exit.
        self._thread = threading.Thread(target=self._run, name="napari-grata-job")
        self._thread.start()

    def take(self) -> list[Any]:
        with self._lock:
            items, self._items = self._items, []
            return items

    def end(self) -> None:
        self.stop.set()
        self.proceed.set()

    def _run(self) -> None:
        outcome = Outcome("done")
        items: Any = None
        try:
            items = self._make()
            for item in items:
                with self._lock:
                    self._items.append(item)
                if not self.proceed.is_set():
                    self.paused = True
                    self.proceed.wait()
                    self.paused = False
                if self.stop.is_set():
                    outcome = Outcome("cancelled")
                    break
            # In this thread, not by the garbage collector at any time in any other.
            close = getattr(items, "close", None)
            if close is not None:
                close()
        except Exception as error:
            outcome = Outcome("failed", describe(error), traceback.format_exc())
        self.outcome = outcome


class Job(QObject):
    """Runs one generator at a time in a thread and hands its items over in batches.

    Parameters
    ----------
    parent : QObject
    connections : EventConnections
        With whose end the job ends.

    Attributes
    ----------
    abandoned : threading.Event
        Set when the window has gone: nobody will ask for the job's results any more.

    Signals
    -------
    batch(list)
        Items that came since the last batch, in order; the first few in quick succession, then
        about 3 a second.
    paused(), resumed()
        The job really has paused, or goes on.
    ended(Outcome)
        After the last batch.
    """

    batch = Signal(list)
    paused = Signal()
    resumed = Signal()
    ended = Signal(object)

    def __init__(self, parent: QObject, connections: EventConnections) -> None:
        super().__init__(parent)
        self.abandoned = threading.Event()
        self._works: list[_Work] = []  # at most one
        connections.at_end(partial(_end, self._works, self.abandoned))
        self._told_paused = False
        self._pending: list[Any] = []
        self._batches, self._last = 0, 0.0
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._look)

    @property
    def running(self) -> bool:
        """Whether a job is under way, paused ones included."""
        return bool(self._works)

    def start(self, make: Callable[[], Iterator[Any]]) -> None:
        """Start a job; ``make`` and the iterator it returns run in the job's thread.

        Raises
        ------
        RuntimeError
            If a job is still running.
        """
        if self._works:
            raise RuntimeError("A job is still running; cancel it or wait for its end.")
        self._batches, self._told_paused = 0, False
        self._works.append(_Work(make))
        self._timer.start()

    def pause(self) -> None:
        """Ask the job to pause before its next step."""
        for work in self._works:
            if not work.stop.is_set():
                work.proceed.clear()

    def resume(self) -> None:
        """Let a paused job go on."""
        for work in self._works:
            work.proceed.set()

    def cancel(self) -> None:
        """End the job at its next step; what is finished stays."""
        for work in self._works:
            work.end()

    def _look(self) -> None:
        if not self._works:
            self._timer.stop()
            return
        work = self._works[0]
        outcome, paused = work.outcome, work.paused  # before the items: none may be missed
        self._pending += work.take()
        wait = _FIRST_S if self._batches < _FEW else _LATER_S
        due = time.monotonic() - self._last >= wait
        if self._pending and (due or paused or outcome is not None):
            items, self._pending = self._pending, []
            self._batches += 1
            self.batch.emit(items)
            # After the redraw, so that slow redraws leave the event loop room as well.
            self._last = time.monotonic()
        if paused != self._told_paused:
            self._told_paused = paused
            (self.paused if paused else self.resumed).emit()
        if outcome is not None:
            self._timer.stop()
            self._works.clear()
            self.ended.emit(outcome)


def _end(works: list[_Work], abandoned: threading.Event) -> None:
    abandoned.set()
    for work in works:
        work.end()


@dataclass(frozen=True)
class Found:
    """What came of a function that a `Queue` ran.

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

    key: Any
    result: Any = None
    error: Exception | None = None
    details: str = ""


class _Wishes:
    """Where wishes are left for the thread and results for the main thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._wishes: dict[Hashable, Callable[[], Any]] = {}
        self._found: list[Found] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._doing: Hashable = None

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
            return key in self._wishes or (self._thread is not None and self._doing == key)

    @property
    def busy(self) -> bool:
        with self._lock:
            return bool(self._wishes or self._found) or self._thread is not None

    def fetch(self) -> list[Found]:
        with self._lock:
            found, self._found = self._found, []
            return found

    def close(self, finish: bool) -> None:
        with self._lock:
            self._closed = True
            if not finish:
                self._wishes.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._wishes:
                    self._thread = None
                    self._doing = None
                    return
                key = next(iter(self._wishes))
                do = self._wishes.pop(key)
                self._doing = key
            try:
                found = Found(key, do())
            except Exception as error:
                found = Found(key, None, error, traceback.format_exc())
            del do
            with self._lock:
                if not self._closed:
                    self._found.append(found)
            del found


class Queue(QObject):
    """Runs small functions one after another in a thread; of wishes with one key the latest wins.

    Parameters
    ----------
    name : str
        Of its thread.
    parent : QObject
    connections : EventConnections
        With whose end the queue ends.
    finish : bool
        What waits then is still done, such as writing to the disk.

    Signals
    -------
    found(Found)
        On the main thread, in the order in which they were done.
    """

    found = Signal(object)

    def __init__(
        self, name: str, parent: QObject, connections: EventConnections, *, finish: bool = False
    ) -> None:
        super().__init__(parent)
        self._wishes = _Wishes(f"napari-grata-{name}")
        connections.at_end(partial(self._wishes.close, finish))
        self._then: dict[Hashable, Callable[[Found], None]] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._fetch)

    def ask(
        self,
        key: Hashable,
        do: Callable[[], Any],
        then: Callable[[Found], None] | None = None,
        *,
        first: bool = False,
    ) -> None:
        """Have something done; a wish of the same key that waits is replaced.

        Parameters
        ----------
        then : callable, optional
            Told what came of it, in place of those who listen to `found`.
        first : bool
            Before all that wait.
        """
        if then is not None:
            self._then[key] = then
        self._wishes.ask(key, do, first)
        if not self._timer.isActive():
            self._timer.start()

    def wanted(self, key: Hashable) -> bool:
        """Whether a wish waits or is being done."""
        return self._wishes.wanted(key)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Take back the wishes that wait, but for these."""
        self._wishes.keep_only(keys)

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return self._wishes.busy

    def _fetch(self) -> None:
        busy = self._wishes.busy
        for found in self._wishes.fetch():
            self._then.get(found.key, self.found.emit)(found)
        if not busy and not self._wishes.busy:
            self._timer.stop()
            self._then.clear()
