"""Adapts the cases ahead while the user reviews, and steps aside whenever the user works."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.records import Record
from napari_grata.widgets.background import Job, Outcome

if TYPE_CHECKING:
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.segmenters import Segmenter
    from napari_grata.widgets.context import Context
    from napari_grata.widgets.tasks import Engine

Work = dict[str, tuple[str, float]]
Step = tuple[str, str, float]
"""Code of a case, what is done with it ("" once nothing is), and how much of that, 0 … 1."""
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


@dataclass
class Course:
    """What the user may change while the work goes on; read by the job's thread.

    Attributes
    ----------
    here : str or None
        The case in view: the next one is chosen from there on.
    leave : str or None
        A case that is not gone on with: the user adapts it.
    """

    here: str | None = None
    leave: str | None = None


def work_ahead(order: Order, engine: Engine, course: Course) -> Iterator[Step]:
    """Adapt to each case that needs it; yields how far each is, and at its end no words."""
    _step_back()
    segmenter = engine.get(order.model, order.device)
    tried: set[str] = set()
    while (case := _pick(order, course, tried, segmenter)) is not None:
        tried.add(case.key)
        yield from _work_on(order, case, segmenter, course)
        yield case.key, "", 1.0


def _pick(order: Order, course: Course, tried: set[str], segmenter: Segmenter) -> Case | None:
    """Return the first case that needs work, from the one in view on and round.

    Where the model is carried over, the order of the list decides.
    """
    from napari_grata.review.adapt_list import needs_work

    cases = list(order.cases.cases)
    if not order.cases.carry:
        place = next((n for n, case in enumerate(cases) if case.key == course.here), 0)
        cases = cases[place:] + cases[:place]
    for case in cases:
        again = case.key in order.again and not order.cases.state(case).decided
        wanted = needs_work(order.cases, case, segmenter) and not _is_looked_at(order, case, course)
        if case.key not in tried and (again or wanted):
            return case
    return None


def _is_looked_at(order: Order, case: Case, course: Course) -> bool:
    """Whether the user has a result of this case in view, which is not changed under their eyes."""
    summary = order.cases.summary(case)
    there = summary is not None and summary.segmented and not summary.stale
    return there and course.here == case.key


def _work_on(order: Order, case: Case, segmenter: Segmenter, course: Course) -> Iterator[Step]:
    from napari_grata.review.adapt_list import work_on_case

    again = case.key in order.again
    start = order.start if again else None
    items: Any = work_on_case(
        order.cases, case, segmenter, order.settings, start=start, again=again
    )
    with contextlib.closing(items):
        yield case.key, "opening …", 0.0
        for item in items:
            if isinstance(item, Record):
                share = item.done / max(1, item.total)
                yield case.key, f"adapting, {item.done} of {item.total}", share
            if course.leave == case.key or (not again and _is_looked_at(order, case, course)):
                return


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
    course : Course
    stopping : bool
        Whether it ends with the step in progress.
    problem : str
        Why it ended before all was done, "" if it did not.
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

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._engine = context.runner.engine
        self._job = Job(self, context.connections)
        self._job.batch.connect(self._on_batch)
        self._job.ended.connect(self._on_ended)
        self.course = Course()
        self._busy = False
        self._at = ""
        self.stopping = False
        self.problem = ""
        self.finished = False

    @property
    def running(self) -> bool:
        """Whether it is at work, waiting for the user included."""
        return self._job.running and not self.stopping

    @property
    def waiting(self) -> bool:
        """Whether it lets the user's own run go first."""
        return self.running and self._busy

    def start(self, order: Order, here: str | None) -> None:
        """Begin with the case in view, or go on where it was paused."""
        if self._job.running:
            return
        self.problem, self.finished, self.course = "", False, Course(here)
        self._job.start(partial(work_ahead, order, self._engine, self.course))
        if self._busy:
            self._job.pause()
        self.changed.emit()

    def pause(self) -> None:
        """End with the step in progress; the next start goes on from there."""
        if self.running:
            self.stopping = True
            self._job.cancel()
            self.changed.emit()

    def step_aside(self, busy: bool) -> None:
        """Wait while the user's own run goes on."""
        if busy != self._busy:
            self._busy = busy
            (self._job.pause if busy else self._job.resume)()
            if self._job.running:
                self.changed.emit()

    def _on_batch(self, steps: list[Step]) -> None:
        for key, words, _ in steps:
            self._at = key if words else ""
            if not words:
                self.done.emit(key)
        key, words, share = steps[-1]
        self.progressed.emit({key: (words, share)} if words else {})

    def _on_ended(self, outcome: Outcome) -> None:
        self.progressed.emit({})
        at, self._at = self._at, ""
        if at:
            self.done.emit(at)
        self.problem = outcome.message
        self.finished = outcome.kind == "done"
        self.stopping = False
        self.changed.emit()
