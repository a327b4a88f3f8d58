"""Adapts the cases ahead while the person reviews, and steps aside whenever the person works."""

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
from napari_grata.widgets import jobs
from napari_grata.widgets.worker import describe

if TYPE_CHECKING:
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.widgets.cases.loading import SharedEngine

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
        Adapted model that each case begins with, such as one that corrections taught.
    again : frozenset of str
        Cases that are done anew although they are adapted, unless they are decided.
    """

    cases: CaseList
    model: Path | str
    device: str
    settings: Settings
    start: Any = None
    again: frozenset[str] = frozenset()


class _Worker:
    """The thread's side: no Qt, so that it may outlive the dock by one step."""

    def __init__(self, order: Order, engine: SharedEngine, here: str | None) -> None:
        self.order = order
        self.stop = threading.Event()
        self.road = threading.Event()  # set: nobody is at work in the dock
        self.road.set()
        self.here = here
        self.leave: str | None = None
        self._engine = engine
        self._lock = threading.Lock()
        self._working: dict[str, tuple[str, float]] = {}
        self._done: list[str] = []
        self._problem: str | None = None
        self.thread = threading.Thread(target=self._run, name="napari-grata-ahead")

    def fetch(self) -> tuple[dict[str, tuple[str, float]], list[str]]:
        """Return what goes on now by case, and the cases done since the last time."""
        with self._lock:
            done, self._done = self._done, []
            return dict(self._working), done

    @property
    def problem(self) -> str | None:
        """Why it ended before all was done."""
        return self._problem

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
            self._problem = describe(error)
        finally:
            with self._lock:
                self._working = {}

    def _pick(self, tried: set[str], segmenter: Any) -> Case | None:
        """Return the first case that needs work, from the one in view on and round.

        Where the model is carried over, the order of the list decides.
        """
        from napari_grata.review.adapt_list import needs_work

        cases = list(self.order.cases.cases)
        if not self.order.cases.carry:
            place = next((n for n, case in enumerate(cases) if case.key == self.here), 0)
            cases = cases[place:] + cases[:place]
        for case in cases:
            if case.key in tried:
                continue
            if needs_work(self.order.cases, case, segmenter) or self._again(case):
                return case
        return None

    def _again(self, case: Case) -> bool:
        order = self.order
        return case.key in order.again and not order.cases.state(case).decided

    def _work(self, case: Case, segmenter: Any) -> None:
        from napari_grata.review.adapt_list import work_on_case

        order = self.order
        begin = order.start if case.key in order.again else None
        again = case.key in order.again
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
                self._let_pass()
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

    def _let_pass(self) -> None:
        jobs.give_way()
        while not self.road.wait(_LOOK_S) and not self.stop.is_set():
            pass


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
    if hasattr(os, "setpriority"):
        # On Linux this is of the one thread, on macOS of the whole program, where it is left.
        with contextlib.suppress(OSError, AttributeError):
            if os.uname().sysname == "Linux":
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class Ahead(QObject):
    """Starts and pauses the worker ahead, and tells how far it is.

    Parameters
    ----------
    engine : SharedEngine
    parent : QObject

    Signals
    -------
    changed()
        It began, waits for the person, goes on, or ended.
    progressed(dict)
        Code of the case that is worked on → (words, share); at most some times a second.
    done(str key)
        A case has another summary now: done, failed, or left.
    """

    changed = Signal()
    progressed = Signal(dict)
    done = Signal(str)

    def __init__(self, engine: SharedEngine, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._engine = engine
        self._worker: _Worker | None = None
        self._current: list[_Worker] = []  # shared with `end`, which outlives this object
        self._busy = False
        self._shown: dict[str, tuple[str, float]] = {}
        self.problem: str | None = None
        self.finished = False
        self._timer = QTimer(self)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._fetch)

    @property
    def running(self) -> bool:
        """Whether the worker is at it, waiting for the person included."""
        return self._worker is not None and not self._worker.stop.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it ends with the step in progress."""
        return self._worker is not None and self._worker.stop.is_set()

    @property
    def waiting(self) -> bool:
        """Whether it lets the person's own run go first."""
        return self.running and self._busy

    def start(self, order: Order, here: str | None) -> None:
        """Begin with the case in view, or go on where it was paused."""
        if self._worker is not None:
            return
        self.problem, self.finished = None, False
        worker = self._worker = _Worker(order, self._engine, here)
        self._current[:] = [worker]
        if self._busy:
            worker.road.clear()
        worker.thread.start()
        self._timer.start()
        self.changed.emit()

    def pause(self) -> None:
        """End with the step in progress; the next start goes on from there."""
        if self._worker is not None:
            self._worker.stop.set()
            self.changed.emit()

    def step_aside(self, busy: bool) -> None:
        """Wait while the person's own run goes on."""
        if busy == self._busy:
            return
        self._busy = busy
        if self._worker is not None:
            self._worker.road.clear() if busy else self._worker.road.set()
            self.changed.emit()

    def set_here(self, key: str | None) -> None:
        """Follow the person: the next case is chosen from here on."""
        if self._worker is not None:
            self._worker.here = key

    def leave(self, key: str | None) -> None:
        """Do not go on with a case: the person adapts it."""
        if self._worker is not None:
            self._worker.leave = key

    @property
    def end(self) -> Callable[[], None]:
        """What ends the worker when the dock goes; it holds no widget."""
        return partial(_stop_all, self._current)

    def _fetch(self) -> None:
        worker = self._worker
        if worker is None:
            self._timer.stop()
            return
        alive = worker.thread.is_alive()
        working, done = worker.fetch()
        if working != self._shown:
            self._shown = working
            self.progressed.emit(working)
        for key in done:
            self.done.emit(key)
        if not alive:
            self._timer.stop()
            self._worker = None
            self.problem = worker.problem
            self.finished = worker.problem is None and not worker.stop.is_set()
            self.changed.emit()


def _stop_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.stop.set()
