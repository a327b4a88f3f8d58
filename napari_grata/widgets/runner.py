"""Runs one job at a time over a session and feeds it what comes: segment, adapt, go back, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.records import Record
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Job, Outcome

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session


class Runner(QObject):
    """One foreground job at a time.

    Attributes
    ----------
    kind : {"segment", "adapt", "masks", "weigh", "compare", "task"} or None
        What runs now. ``masks``: adapted masks of an earlier state, or as chosen; ``weigh``:
        candidates for them are made or weighed; ``compare``: methods are run side by
        side; ``task``: anything else.
    session : Session or None
        What it works on; captured at the start.
    pausing, paused, cancelling : bool
    results : list
        What the job yielded beside what is known here.
    closing : callable
        Whether the window is being closed: no layers are made then.

    Signals
    -------
    changed()
        Something began, paused, ended.
    progressed(int done, int total, str text)
        ``total`` 0: it takes time, how long is not known.
    records(list of Record)
        New events of an adaptation, in order.
    noticed(str)
        A sentence that should stay in sight.
    ended(str kind, Outcome)
        `session` and `results` are still those of the job.
    """

    changed = Signal()
    progressed = Signal(int, int, str)
    records = Signal(list)
    noticed = Signal(str)
    ended = Signal(str, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.engine = tasks.Engine()
        self.job = Job(self)
        self.kind: str | None = None
        self.session: Session | None = None
        self.pausing = self.paused = self.cancelling = False
        self.results: list[Any] = []
        self.closing: Callable[[], bool] = lambda: False
        self.seconds_a_slice: float | None = None
        self._clock = _Clock()
        self.job.batch.connect(self._on_batch)
        self.job.paused.connect(self._on_paused)
        self.job.resumed.connect(self._on_resumed)
        self.job.ended.connect(self._on_ended)

    def start(
        self,
        kind: str,
        session: Session | None,
        make: Callable[[], Iterator[Any]],
        title: str,
    ) -> None:
        """Run any generator of `tasks`' items; ``kind`` as the attribute."""
        self.kind, self.session = kind, session
        if session is not None:
            session.busy = True
        self.pausing = self.paused = self.cancelling = False
        self.results = []
        self.seconds_a_slice = None
        self._clock = _Clock()
        self.job.start(make)
        self.progressed.emit(0, 0, title + " …")
        self.changed.emit()

    def pause(self) -> None:
        """Pause before the next step."""
        if self.kind and not self.cancelling and not self.paused:
            self.pausing = True
            self.job.pause()
            self.changed.emit()

    def resume(self) -> None:
        """Go on after a pause."""
        if self.paused or self.pausing:
            self.pausing = False
            self.job.resume()
            self.changed.emit()

    def cancel(self) -> None:
        """End at the next step; what is finished stays."""
        if self.kind and not self.cancelling:
            self.cancelling, self.pausing, self.paused = True, False, False
            self.job.cancel()
            self.changed.emit()

    # --- what the job says -----------------------------------------------------------------

    def _on_batch(self, items: list[Any]) -> None:
        fresh: list[Record] = []
        changed: set[int] = set()
        done = total = 0
        words = count = ""
        session = self.session
        for item in items:
            if isinstance(item, tasks.Stage):
                self.progressed.emit(0, 0, item.text)
                self._clock = _Clock()
            elif isinstance(item, tasks.Notice):
                self.noticed.emit(item.text)
            elif isinstance(item, tasks.Progress):
                done, total, words, count = item.done, item.total, item.text, ""
            elif session is None:
                self.results.append(item)
            elif isinstance(item, tasks.Started):
                session.run = item.run
            elif isinstance(item, tasks.Mask):
                put = session.put_source if item.which == "source" else session.put_adapted
                put(item.slice_index, item.label_map)
                changed.add(item.slice_index)
                done, total = item.done, item.total
                words = session.scan.slice_name(item.slice_index)
            elif isinstance(item, Record):
                session.put_record(item)
                fresh.append(item)
                changed.add(item.slice_index)
                done, total = item.done, item.total
                words, count = session.scan.slice_name(item.slice_index), "final mask"
                if item.phase == "adapt":
                    # Events are more than slices where each is predicted once more at the end.
                    steps = session.expected_steps
                    count = f"step {item.step} of {steps}" if item.step and steps else ""
            else:
                self.results.append(item)
        if session is not None and changed:
            session.redraw()
            session.masks_changed.emit(changed)
        if fresh:
            self.records.emit(fresh)
        if total:
            self._clock.tick(done)
            left = self._clock.left(total)
            tail = f", {about(left)} left" if left is not None and done < total else ""
            self.progressed.emit(done, total, f"{words}: {count or f'{done} of {total}'}{tail}")
            self.seconds_a_slice = self._clock.mean()

    def _on_paused(self) -> None:
        if self.cancelling:
            return
        self.pausing, self.paused = False, True
        self._clock.stop()
        self.changed.emit()

    def _on_resumed(self) -> None:
        self.paused = False
        self._clock.go_on()
        self.changed.emit()

    def _on_ended(self, outcome: Outcome) -> None:
        kind, session = self.kind or "task", self.session
        self.kind = None
        self.pausing = self.paused = self.cancelling = False
        if session is not None:
            session.busy = False
            if not self.closing():
                for sentence in session.settle():
                    self.noticed.emit(sentence)
                session.masks_changed.emit(None)
        self.ended.emit(kind, outcome)
        self.session = None
        self.changed.emit()


class _Clock:
    """Time of a run without its pauses, and how long the rest will take."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._stopped: float | None = None
        self._done = 0
        self._pace: float | None = None

    def stop(self) -> None:
        if self._stopped is None:
            self._stopped = time.monotonic()

    def go_on(self) -> None:
        if self._stopped is not None:
            pause = time.monotonic() - self._stopped
            self._begin += pause
            self._last += pause
            self._stopped = None

    def tick(self, done: int) -> None:
        """Take note that so many events are over."""
        now = time.monotonic()
        fresh = done - self._done
        if fresh <= 0:
            return
        pace = (now - self._last) / fresh
        if self._done == 0:
            # The first event carries what is done once: memory, caches, the first source mask.
            self._pace = None
        elif self._pace is None:
            self._pace = pace
        else:
            weight = 0.85**fresh
            self._pace = weight * self._pace + (1 - weight) * pace
        self._done, self._last = done, now

    def mean(self) -> float | None:
        """Return the seconds an event took, over the whole run."""
        return (self._last - self._begin) / self._done if self._done else None

    def left(self, total: int) -> float | None:
        """Return the seconds left, once there is something to go by."""
        if self._pace is None or self._last - self._begin < 1.0:
            return None
        return self._pace * (total - self._done)


def duration(seconds: float) -> str:
    """Return a time as people say it: ``"8 s"``, ``"1:05 min"``, ``"2 h 10 min"``."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def about(seconds: float) -> str:
    """Return an expected time, rounded as far as it can be trusted."""
    if seconds < 10:
        return "a few seconds"
    step = 5 if seconds < 60 else 30 if seconds < 600 else 60
    return f"about {duration(round(seconds / step) * step)}"
