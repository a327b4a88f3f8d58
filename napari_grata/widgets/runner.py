"""Runs one job at a time on a scan and feeds its session what comes: segment, adapt, go back.

What jobs do is in `napari_grata.widgets.tasks`, how they are carried out in
`napari_grata.widgets.background`.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.adaptation.plan import SlicesError, make_plan
from napari_grata.adaptation.records import Record
from napari_grata.scans.files import safe_name
from napari_grata.scans.scan import counted
from napari_grata.segmenters.extent import anchor, implausible
from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Found, Job, Outcome, Queue
from napari_grata.widgets.qt_parts import notify
from napari_grata.widgets.scan_layer import alive, fit_view
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_grata.widgets.context import Context


BUSY = "A run is going on; wait for its end, or cancel it."


class Runner(QObject):
    """One job at a time: starts what the user asks for, and shows and says what comes of it.

    Parameters
    ----------
    context : Context
        Whose scan, model, settings, slices and region are taken.

    Attributes
    ----------
    session : Session or None
        What the job works on; captured at the start.
    phase : {"", "pausing", "paused", "cancelling"}
        Of the job.
    results : list
        What the job yielded beside what is known here.

    Signals
    -------
    changed()
        Something began, paused, ended.
    progressed(int done, int total, str text)
        ``total`` 0: it takes time, how long is not known.
    records(list of Record)
        New events of an adaptation, in order.
    ended(str kind, Outcome)
        `session` and `results` are still those of the job.
    """

    changed = Signal()
    progressed = Signal(int, int, str)
    records = Signal(list)
    ended = Signal(str, object)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self.engine = tasks.Engine()
        self.job = Job(self, context.connections)
        self.session: Session | None = None
        self.phase = ""
        self.results: list[Any] = []
        self._kind: str | None = None
        self._layer: Layer | None = None
        self._adapt_then = False
        self._then: Callable[[Outcome], None] | None = None
        self._clock = _Clock()
        self.saved_runs = Queue("runs", self, context.connections)
        self.saved_runs.found.connect(self._on_revived)
        self.job.batch.connect(self._on_batch)
        self.job.paused.connect(self._on_paused)
        self.job.resumed.connect(self._on_resumed)
        self.job.ended.connect(self._on_ended)
        context.connections.listen(context.viewer.layers.events.removed, self._layer_removed)

    @property
    def kind(self) -> str | None:
        """What runs now; None: nothing.

        "segment" also while its masks are looked at, before adapting; "adapt"; "masks": adapted
        masks of an earlier state, or as chosen; "weigh": candidates for them are made or weighed;
        "compare": methods are run side by side; "task": anything else.
        """
        return "segment" if self._kind is None and self._adapt_then else self._kind

    @property
    def busy(self) -> bool:
        """Whether something runs, or is about to: between segmenting and adapting."""
        return self.kind is not None

    def why_busy(self) -> str:
        """Return why nothing can be started now, "" if it can."""
        return BUSY if self.busy else ""

    @property
    def finds_frame(self) -> bool:
        """Whether Adapt looks for the frame of a photograph: its source mask may be wrong then."""
        context = self._context
        card = None if context.entry is None else context.entry.card
        if card is None or context.scan is None or context.region is not None:
            return False
        photographic = context.scan.is_photographic
        return context.settings.reframe and photographic and anchor(card) is not None

    @property
    def unfinished(self) -> bool:
        """Whether the run in view was cancelled and can go on."""
        session = self._context.session
        if session is None or session.busy or session.run is None:
            return False
        # A state that was taken rolled the run back on purpose.
        return session.taken_step is None and session.run.position < session.run.total

    # --- what the user starts --------------------------------------------------------------

    def segment(self, *, in_view: bool = False) -> None:
        """Make the source masks; ``in_view``: of the slice in view alone."""
        begun = self.begin()
        if begun is not None:
            session, entry, slices = begun
            self._segment(session, entry, [self._context.in_view()] if in_view else slices)

    def _segment(self, session: Session, entry: ModelEntry, slices: Sequence[int]) -> None:
        context = self._context
        session.begin_segmenting(context.region)
        make = partial(
            tasks.segment,
            self.engine,
            entry.folder,
            context.device,
            session.scan,
            list(slices),
            context.region,
        )
        self.start("segment", session, make, f"Segmenting {session.scan.name}")
        self._take_results("source")

    def adapt(self) -> None:
        """Segment, where that is not done, and adapt if the source masks can be right.

        Where they cannot, it is said and nothing is adapted; asked for once more, it is done.
        """
        begun = self.begin()
        if begun is None:
            return
        context = self._context
        session, entry, slices = begun
        if len(session.source_masks(slices, context.region)) < len(slices):
            self._segment(session, entry, slices)
            self._adapt_then = True
            return
        context.undo.forget([session])
        session.settings = context.settings
        volumes = entry.card is not None and entry.card.patch is not None
        plan = make_plan(context.settings, slices, session.scan.case_of, volumes=volumes)
        session.expected_steps = max((event.step for event in plan), default=0)
        session.begin_adapting(context.region)
        make = partial(
            tasks.adapt,
            self.engine,
            entry.folder,
            context.device,
            session.scan,
            context.settings,
            slices,
            context.region,
            session.source_masks(slices, context.region),
            self.folder_of(session),
            self.job.abandoned,
        )
        self.start("adapt", session, make, f"Adapting to {session.scan.name}")
        context.looked = False
        self._take_results("adapted")

    def go_on(self, *, finish: bool) -> None:
        """Go on with a run that was cancelled, or finish it with what was learned."""
        session = self._context.session
        if session is not None and self.unfinished:
            make = partial(tasks.go_on, session.run, finish, self.job.abandoned)
            verb = "Finishing" if finish else "Adapting to"
            self.start("adapt", session, make, f"{verb} {session.scan.name}")

    def revive(self, session: Session, folder: Path) -> None:
        """Make the saved run of a session live in the background; the latest wish alone counts."""
        self.saved_runs.keep_only(())
        make = partial(
            tasks.revive,
            self.engine,
            session.card.name,
            self._context.device,
            session.scan,
            folder,
        )
        self.saved_runs.ask(weakref.ref(session), make)

    def _on_revived(self, found: Found) -> None:
        if found.error is not None:
            return  # the session has said what is missing; it can be looked at all the same
        session = self._context.session
        if session is None or found.key != weakref.ref(session) or session.run is not None:
            found.result.close()
            return
        session.run = found.result
        self._context.take_results()

    def start(
        self,
        kind: str,
        session: Session | None,
        make: Callable[[], Iterator[Any]],
        title: str,
        then: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Run any generator of `tasks`' items, of this `kind`; says why where a job is going on.

        Parameters
        ----------
        then : callable, optional
            Told how the job ended before anybody else is; `session` and `results` are its own.
        """
        context = self._context
        if self.busy:
            context.say(BUSY)
            return
        context.clear_problem()
        context.closing.find_window()
        self._layer = context.layer if session is not None else None
        self._kind, self.session, self._then = kind, session, then
        if session is not None:
            session.busy = True
        self.phase = ""
        self.results = []
        self._clock = _Clock()
        self.job.start(make)
        self.progressed.emit(0, 0, title + " …")
        self.changed.emit()

    def begin(self) -> tuple[Session, ModelEntry, list[int]] | None:
        """Capture what a run works on, or say why it cannot begin."""
        context = self._context
        context.clear_problem()
        context.said.emit("")  # such as that one has to adapt first
        context.look_back(None)
        self._adapt_then = False
        layer, scan, entry = context.layer, context.scan, context.entry
        if self.busy or context.misfit() or layer is None or scan is None or entry is None:
            context.touch()
            return None
        try:
            slices = context.slices()
        except SlicesError as error:
            context.fail(str(error))
            return None
        session = context.sessions.get(layer, scan, entry, filled=context.store.get("filled"))
        session.note = session.note_tone = ""
        return session, entry, slices

    def folder_of(self, session: Session) -> Path | None:
        """Return where a new run is kept: with its case, or where the user wants it."""
        context = self._context
        of_case = context.flow.run_folder(session) if context.flow is not None else None
        if of_case is not None or not context.run_parent:
            return of_case
        stamp = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
        return Path(context.run_parent) / f"{safe_name(session.scan.name)} {stamp}"

    def _take_results(self, mode: str) -> None:
        self._context.mode = mode
        self._context.take_results()
        self._context.mode_changed.emit(mode)

    # --- while it runs ---------------------------------------------------------------------

    def pause(self) -> None:
        """Pause before the next step."""
        if self.job.running and not self.phase:
            self.phase = "pausing"
            self.job.pause()
            self.changed.emit()

    def resume(self) -> None:
        """Go on after a pause."""
        if self.phase in ("pausing", "paused"):
            self.phase = ""
            self.job.resume()
            self.changed.emit()

    def cancel(self) -> None:
        """End at the next step; what is finished stays."""
        if self.job.running and self.phase != "cancelling":
            self.phase = "cancelling"
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
                notify(item.text, "info")
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

    def _on_paused(self) -> None:
        if self.phase == "cancelling":
            return
        self.phase = "paused"
        self._clock.stop()
        self.changed.emit()

    def _on_resumed(self) -> None:
        if self.phase == "paused":
            self.phase = ""
        self._clock.go_on()
        self.changed.emit()

    def _layer_removed(self, event: Any) -> None:
        """A scan that a run is working on comes back: its masks would have no place."""
        if event.value is self._layer:
            QTimer.singleShot(0, self._put_back)

    def _put_back(self) -> None:
        context, layer = self._context, self._layer
        if layer is None or alive(context.viewer, layer) or context.closing.closing:
            return
        context.viewer.layers.insert(0, layer)
        notify("The scan stays until the run on it has ended; cancel the run to remove it.", "info")

    def expected_time(self) -> str:
        """Return how long segmenting should take here, as measured the last time; "" unknown."""
        context = self._context
        pace = context.store.pace(self._pace_key("adapt"))
        if context.scan is None or context.entry is None or pace is None:
            return ""
        try:
            count = len(context.slices())
        except SlicesError:
            return ""
        return f"{about(pace * count)} for {counted(count, context.scan.noun)}"

    def _pace_key(self, kind: str) -> str:
        context = self._context
        size = "x".join(str(n) for n in context.scan.mask_shape[-2:]) if context.scan else ""
        model = context.entry.name if context.entry is not None else ""
        return "/".join((kind, model, context.device, size))

    # --- after its end ---------------------------------------------------------------------

    def _on_ended(self, outcome: Outcome) -> None:
        kind, session = self._kind or "task", self.session
        self._kind = self._layer = None
        self.phase = ""
        if session is not None:
            session.busy = False
            if not self._context.closing.closing:
                for sentence in session.settle():
                    notify(sentence, "info")
                session.masks_changed.emit(None)
        self._show_end(kind, outcome)
        then, self._then = self._then, None
        if then is not None:
            then(outcome)
        self.ended.emit(kind, outcome)
        self.session = None
        self.changed.emit()

    def _show_end(self, kind: str, outcome: Outcome) -> None:
        context, session = self._context, self.session
        if outcome.kind == "failed":
            there = session is not None and session.has_masks
            kept = " What was finished is kept." if there else ""
            context.fail(f"{outcome.message}{kept}", outcome.details)
        if session is None or context.closing.closing:
            return
        finished = outcome.kind == "done"
        done = session.adapted_slices if kind == "adapt" else session.segmented_slices
        if outcome.kind == "cancelled" and kind in ("segment", "adapt"):
            session.note_tone = ""
            session.note = f"Cancelled; {counted(len(done), session.scan.noun)} finished and kept."
        elif finished and kind == "adapt":
            self.tell_result(session)
        pace = self._clock.mean()
        if finished and pace is not None:
            context.store.set_pace(self._pace_key(kind), pace)
        if kind == "segment":
            if finished:
                self._look_at_extent(session)
            else:
                self._adapt_then = False
        if kind == "adapt" and session is context.session and session.can_compare:
            index = session.most_changed() if finished else context.in_view()
            # Beside a mask of the whole picture, one within a frame differs nearly everywhere.
            frame = session.frame_of(index)
            context.show_mode("difference" if finished and frame is None else "adapted")
            if finished:
                context.go_to(index)
            if finished and frame is not None and session.scan.n_slices == 1:
                # On a whole photograph a disc is as large as a thumbnail.
                part = np.reshape(frame, (2, 2)) / session.scan.slice_shape(index)
                fit_view(context.viewer, [session.scan_layer()], moved=False, part=part)

    def _look_at_extent(self, session: Session) -> None:
        """Look in the background whether the source masks can be right, then go on."""
        masks = session.source_masks(sorted(session.segmented_slices), session.region)
        look = partial(
            implausible,
            session.card,
            masks,
            session.scan,
            region=session.region,
            slices=sorted(masks),
        )
        self._context.queue.ask(("extent", id(session)), look, self._on_extent)

    def _on_extent(self, found: Found) -> None:
        then, self._adapt_then = self._adapt_then, False
        context = self._context
        session = context.session
        if session is not None and found.key == ("extent", id(session)):
            context.implausible = " ".join(sentence for _, sentence in (found.result or ())[:2])
            if then and not (context.implausible and not self.finds_frame):
                self.adapt()
        self.changed.emit()

    def tell_result(self, session: Session) -> None:
        """Say of a session what came of its adaptation."""
        if session.adapted_slices:
            session.note, session.note_tone = self._result_words(session)
            session.result_note = session.note

    def note(self, session: Session) -> str:
        """Return what is said of a session's last result."""
        if session.note and session.note == session.result_note and session.can_compare:
            self.tell_result(session)  # a correction may have changed what is flagged
        return session.note

    def _result_words(self, session: Session) -> tuple[str, str]:
        adapted = counted(len(session.adapted_slices), session.scan.noun)
        framed = sum(session.frame_of(index) is not None for index in session.adapted_slices)
        if framed:
            adapted += f" (of {framed} the part round the structures, as found)"
        if session.chosen:
            adapted += f", masks {session.chosen}"
        flagged = len(session.flagged())
        if flagged and session.scan.n_slices == 1:
            # No table and no way to the next one: what was seen is said here.
            return f"Adapted. Look closely: {session.flags[0][0].text}", "warning"
        if flagged:
            return f"{adapted} adapted, {flagged} flagged: have a look (key N).", "warning"
        tone = "" if self._context.implausible and not framed else "good"
        return f"{adapted} adapted, none flagged.", tone


class _Clock:
    """Time of a run without its pauses, and how long the rest will take."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._stopped: float | None = None
        self._done = 0
        self._pace: float | None = None

    def stop(self) -> None:
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
        # The first event carries what is done once: memory, caches, the first source mask.
        if self._done and self._pace is None:
            self._pace = pace
        elif self._pace is not None:
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
