"""Adapts the cases ahead while the user reviews, and steps aside whenever the user works."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.adaptation.records import Record
from napari_grata.review.cases import CaseSummary
from napari_grata.widgets.background import describe

if TYPE_CHECKING:
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.widgets.tasks import Engine

Work = dict[str, tuple[str, float]]
_POLL_MS = 60
_LOOK_S = 0.1
_NICE = 10


@dataclass(frozen=True)
class Order:
    """What is to be done ahead.

    Attributes
    ----------
    cases : CaseList
    model : Path or str
    device : str
    settings : Settings
    start : Snapshot or None
        Adapted model that each case of ``again`` begins with, such as one that corrections taught.
    again : frozenset of str
        Cases that are done anew although they are adapted, unless they are decided.
    """

    cases: CaseList
    model: Path | str
    device: str
    settings: Settings
    start: Any = None
    again: frozenset[str] = frozenset()


class _Thread:
    """The thread's side: no Qt, so that it may outlive the window by one step."""

    def __init__(self, order: Order, engine: Engine, here: str | None) -> None:
        self.order = order
        self.stop = threading.Event()
        self.free = threading.Event()  # set: the user runs nothing
        self.free.set()
        self.here = here
        self.leave: str | None = None
        self.problem: str | None = None
        self._engine = engine
        self._lock = threading.Lock()
        self._working: Work = {}
        self._done: list[str] = []
        self.thread = threading.Thread(target=self._run, name="napari-grata-batch")

    def fetch(self) -> tuple[Work, list[str]]:
        """Return what goes on now by case, and the cases done since the last time."""
        with self._lock:
            done, self._done = self._done, []
            return dict(self._working), done

    def _run(self) -> None:
        try:
            _step_back()
            segmenter = self._engine.get(self.order.model, self.order.device)
            tried: set[str] = set()
            while not self.stop.is_set():
                case = self._pick(tried, segmenter)
                if case is None:
                    return
                tried.add(case.key)
                self._work(case, segmenter)
        except Exception as error:
            self.problem = describe(error)
        finally:
            with self._lock:
                self._working = {}

    def _pick(self, tried: set[str], segmenter: Any) -> Case | None:
        """Return the first case that needs work, from the one in view on and round.

        Where the model is carried over, the order of the list decides.
        """
        from napari_grata.review.adapt_list import needs_work

        order = self.order
        cases = list(order.cases.cases)
        if not order.cases.carry:
            place = next((n for n, case in enumerate(cases) if case.key == self.here), 0)
            cases = cases[place:] + cases[:place]
        for case in cases:
            again = case.key in order.again and not order.cases.state(case).decided
            if case.key not in tried and (again or needs_work(order.cases, case, segmenter)):
                return case
        return None

    def _work(self, case: Case, segmenter: Any) -> None:
        from napari_grata.review.adapt_list import work_on_case

        order, again = self.order, case.key in self.order.again
        begin = order.start if again else None
        items: Any = work_on_case(
            order.cases, case, segmenter, order.settings, start=begin, again=again
        )
        try:
            self._say(case.key, "opening …", 0.0)
            for item in items:
                if isinstance(item, Record):
                    share = item.done / max(1, item.total)
                    self._say(case.key, f"adapting, {item.done} of {item.total}", share)
                elif isinstance(item, CaseSummary):
                    with self._lock:
                        self._done.append(case.key)
                while not self.free.wait(_LOOK_S) and not self.stop.is_set():
                    pass
                if self.stop.is_set() or self.leave == case.key:
                    return
        finally:
            items.close()
            with self._lock:
                self._working.pop(case.key, None)
                if case.key not in self._done:
                    self._done.append(case.key)

    def _say(self, key: str, words: str, share: float) -> None:
        with self._lock:
            self._working = {key: (words, share)}


def _step_back() -> None:
    """Let this thread compute on one processor and come after all others.

    torch counts its processors for each thread, but new threads begin with the number that was
    set last, by whichever: another thread sets that back.
    """
    import torch

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    back = threading.Thread(target=torch.set_num_threads, args=(usual,))
    back.start()
    back.join()
    # On Linux this is of the one thread, on macOS of the whole program, where it is left.
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class BatchWorker(QObject):
    """Starts and pauses the work ahead, and tells how far it is.

    Attributes
    ----------
    problem : str or None
        Why it ended before all was done.
    finished : bool
        All that could be done is.

    Signals
    -------
    changed()
        It began, waits for the user, goes on, or ended.
    progressed(dict)
        Code of the case that is worked on → (words, share); at most some times a second.
    done(str)
        A case has another summary now: done, failed, or left.
    """

    changed = Signal()
    progressed = Signal(dict)
    done = Signal(str)

    def __init__(self, engine: Engine, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._engine = engine
        self._threads: list[_Thread] = []  # at most one; shared with `ender`
        self._busy = False
        self._shown: Work = {}
        self.problem: str | None = None
        self.finished = False
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._look)

    @property
    def running(self) -> bool:
        """Whether it is at work, waiting for the user included."""
        return any(not thread.stop.is_set() for thread in self._threads)

    @property
    def stopping(self) -> bool:
        """Whether it ends with the step in progress."""
        return any(thread.stop.is_set() for thread in self._threads)

    @property
    def waiting(self) -> bool:
        """Whether it lets the user's own run go first."""
        return self.running and self._busy

    def start(self, order: Order, here: str | None) -> None:
        """Begin with the case in view, or go on where it was paused."""
        if self._threads:
            return
        self.problem, self.finished = None, False
        thread = _Thread(order, self._engine, here)
        self._threads.append(thread)
        if self._busy:
            thread.free.clear()
        thread.thread.start()
        self._timer.start()
        self.changed.emit()

    def pause(self) -> None:
        """End with the step in progress; the next start goes on from there."""
        for thread in self._threads:
            thread.stop.set()
            self.changed.emit()

    def step_aside(self, busy: bool) -> None:
        """Wait while the user's own run goes on."""
        if busy == self._busy:
            return
        self._busy = busy
        for thread in self._threads:
            thread.free.clear() if busy else thread.free.set()
            self.changed.emit()

    def follow(self, key: str | None) -> None:
        """The user is at another case: the next one is chosen from here on."""
        for thread in self._threads:
            thread.here = key

    def leave(self, key: str | None) -> None:
        """Do not go on with a case: the user adapts it."""
        for thread in self._threads:
            thread.leave = key

    def ender(self) -> Callable[[], None]:
        """Return what ends it when the window goes; it holds no Qt object."""
        return partial(_stop_all, self._threads)

    def _look(self) -> None:
        if not self._threads:
            self._timer.stop()
            return
        thread = self._threads[0]
        alive = thread.thread.is_alive()
        working, done = thread.fetch()
        if working != self._shown:
            self._shown = working
            self.progressed.emit(working)
        for key in done:
            self.done.emit(key)
        if not alive:
            self._timer.stop()
            self._threads.clear()
            self.problem = thread.problem
            self.finished = thread.problem is None and not thread.stop.is_set()
            self.changed.emit()


def _stop_all(threads: list[_Thread]) -> None:
    for thread in threads:
        thread.stop.set()
        thread.free.set()
