"""Starts jobs and feeds their results into the session that was captured at the start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.records import Record
from napari_grata.widgets import jobs
from napari_grata.widgets.activity import Activity
from napari_grata.widgets.words import about, reset_steps
from napari_grata.widgets.worker import Job, Outcome

if TYPE_CHECKING:
    from napari_grata.adaptation.settings import Settings
    from napari_grata.segmenters import ModelEntry
    from napari_grata.widgets.session import Session
    from napari_grata.widgets.ties import ClosingWatch


class Runner(QObject):
    """One run at a time over one session.

    Signals
    -------
    changed()
        Something began, paused, ended …: the state of the dock may be another one.
    progressed(int done, int total, str text)
        ``total`` 0: it takes time, how long is not known.
    records(list of Record)
        New events of an adaptation, in order.
    noticed(str)
        A sentence that should stay in sight.
    ended(str kind, Outcome)
        ``kind`` is "segment", "adapt", "again" or "task".
    """

    changed = Signal()
    progressed = Signal(int, int, str)
    records = Signal(list)
    noticed = Signal(str)
    ended = Signal(str, object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.engine = jobs.Engine()
        self.job = Job(self)
        self.kind: str | None = None
        self.session: Session | None = None
        self.pausing = self.paused = self.cancelling = False
        self.results: list[Any] = []
        self.watch: ClosingWatch | None = None
        self.seconds_a_slice: float | None = None
        self.activity = Activity(self.cancel)
        self._clock = _Clock()
        self.job.batch.connect(self._on_batch)
        self.job.paused.connect(self._on_paused)
        self.job.resumed.connect(self._on_resumed)
        self.job.ended.connect(self._on_ended)

    # --- what a person starts --------------------------------------------------------------

    def segment(
        self,
        session: Session,
        entry: ModelEntry,
        device: str,
        slices: Sequence[int],
        region: jobs.Region | None,
    ) -> None:
        """Make the masks before of these slices."""
        session.begin_segmenting(region)
        make = partial(
            jobs.segment, self.engine, entry.folder, device, session.scan, list(slices), region
        )
        self._start("segment", session, make, f"Segmenting {session.scan.name}", len(slices))

    def adapt(
        self,
        session: Session,
        entry: ModelEntry,
        device: str,
        settings: Settings,
        slices: Sequence[int],
        region: jobs.Region | None,
        folder: Path | None,
    ) -> None:
        """Adapt and make the masks after of these slices."""
        session.begin_adapting(region)
        make = partial(
            jobs.adapt,
            self.engine,
            entry.folder,
            device,
            session.scan,
            settings,
            list(slices),
            region,
            session.source_masks(slices, region),
            folder,
            self.job.token.abandoned,
        )
        self._start("adapt", session, make, f"Adapting to {session.scan.name}", 0)

    def go_on(self, session: Session, finish: bool) -> None:
        """Go on with the session's run after a cancel, or finish it with what was learnt."""
        session.taken.clear()
        make = partial(jobs.go_on, session.run, finish, self.job.token.abandoned)
        verb = "Finishing" if finish else "Adapting to"
        self._start("adapt", session, make, f"{verb} {session.scan.name}", 0)

    def learn(self, session: Session, make: Any, title: str) -> None:
        """Adapt by another generator, such as to corrections: a run and its records."""
        self._start("adapt", session, make, title, 0)

    def again(self, session: Session, make: Any, title: str) -> None:
        """Make the masks after anew from an earlier state of the run."""
        self._start("again", session, make, title, 0)

    def task(self, make: Any, title: str) -> None:
        """Run any other generator, such as saving; its items are in `results` at the end."""
        self._start("task", None, make, title, 0)

    def pause(self) -> None:
        """Pause before the next step."""
        if self.kind and not self.cancelling and not self.paused:
            self.pausing = True
            self.job.pause()
            self.changed.emit()

    def resume(self) -> None:
        """Go on after a pause."""
        if self.paused:
            self.job.resume()

    def cancel(self) -> None:
        """End at the next step; what is finished stays."""
        if self.kind and not self.cancelling:
            self.cancelling, self.pausing, self.paused = True, False, False
            self.job.cancel()
            self.changed.emit()

    # --- what the worker says --------------------------------------------------------------

    def _start(self, kind: str, session: Session | None, make: Any, title: str, total: int) -> None:
        self.kind, self.session = kind, session
        if session is not None:
            session.busy = True
        self.pausing = self.paused = self.cancelling = False
        self.results = []
        self.seconds_a_slice = None
        self._clock = _Clock()
        self.activity.open(title)
        self.job.start(make)
        self.progressed.emit(0, 0, title + " …")
        self.changed.emit()

    def _on_batch(self, items: list[Any]) -> None:
        fresh: list[Record] = []
        done = total = 0
        words = ""
        for item in items:
            if isinstance(item, jobs.Stage):
                self.progressed.emit(0, 0, item.text)
                self._clock.restart()
            elif isinstance(item, jobs.Notice):
                self.noticed.emit(item.text)
            elif isinstance(item, jobs.Started) and self.session is not None:
                self.session.run = item.run
                self.session.resets = reset_steps(item.run.plan)
            elif isinstance(item, jobs.Segmented) and self.session is not None:
                after = isinstance(item, jobs.Predicted)
                put = self.session.put_after if after else self.session.put_before
                put(item.slice_index, item.label_map)
                done, total = item.done, item.total
                words = self.session.scan.slice_name(item.slice_index)
            elif isinstance(item, Record) and self.session is not None:
                self.session.put_record(item)
                fresh.append(item)
                done, total = item.done, item.total
                words = self.session.scan.slice_name(item.slice_index)
            else:
                self.results.append(item)
        if self.session is not None:
            self.session.redraw()
        if fresh:
            self.records.emit(fresh)
        if total:
            self._clock.tick(done)
            left = self._clock.left(total)
            tail = f", {about(left)} left" if left is not None and done < total else ""
            self.progressed.emit(done, total, f"{words}: {done} of {total}{tail}")
            self.seconds_a_slice = self._clock.mean()
            self.activity.show(done, total)

    def _on_paused(self) -> None:
        self.pausing, self.paused = False, True
        self._clock.stop()
        self.changed.emit()

    def _on_resumed(self) -> None:
        self.paused = False
        self._clock.go_on()
        self.changed.emit()

    def _on_ended(self, outcome: Outcome) -> None:
        kind, session = self.kind or "task", self.session
        self.activity.close()
        self.kind = None
        self.pausing = self.paused = self.cancelling = False
        if session is not None:
            session.busy = False
        closing = outcome.kind == "quit" or (self.watch is not None and self.watch.closing)
        if session is not None and not closing:
            for sentence in session.settle():
                self.noticed.emit(sentence)
        self.ended.emit(kind, outcome)
        self.session = None
        self.changed.emit()


class _Clock:
    """Time of a run without its pauses, and how long the rest will take."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
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
            # The first event carries what is done once: memory, caches, the first mask before.
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
