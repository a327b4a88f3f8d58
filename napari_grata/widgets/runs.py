"""What the user runs on the scan in view: begin, segment, adapt, go on; what follows from the end.

The work itself is in `napari_grata.widgets.tasks`, how it is carried out in `Runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer

from napari_grata.adaptation.plan import SlicesError, make_plan
from napari_grata.scans.files import safe_name
from napari_grata.scans.scan import counted
from napari_grata.segmenters.extent import anchor, implausible
from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Found, Outcome
from napari_grata.widgets.qt_parts import notify
from napari_grata.widgets.runner import about
from napari_grata.widgets.scan_layer import alive
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_grata.widgets.context import Context


class Runs(QObject):
    """Starts what the user asks for, and says and shows what came of it.

    Parameters
    ----------
    context : Context
        Whose scan, model, settings, slices and region are taken.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self._runner = context.runner
        self._layer: Layer | None = None
        self._adapt_then = False
        self._runner.ended.connect(self._on_ended)
        context.connections.listen(context.viewer.layers.events.removed, self._layer_removed)

    @property
    def busy(self) -> bool:
        """Whether something runs, or is about to: between segmenting and adapting."""
        return self.kind is not None

    @property
    def kind(self) -> str | None:
        """What runs, as `Runner.kind`; "segment" also while its masks are looked at."""
        return "segment" if self._runner.kind is None and self._adapt_then else self._runner.kind

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
            self._runner.engine,
            entry.folder,
            context.device,
            session.scan,
            list(slices),
            context.region,
        )
        self._runner.start("segment", session, make, f"Segmenting {session.scan.name}")
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
            self._adapt_then = True
            self._segment(session, entry, slices)
            return
        context.undo.forget([session])
        session.settings = context.settings
        volumes = entry.card is not None and entry.card.patch is not None
        plan = make_plan(context.settings, slices, session.scan.case_of, volumes=volumes)
        session.expected_steps = max((event.step for event in plan), default=0)
        session.begin_adapting(context.region)
        make = partial(
            tasks.adapt,
            self._runner.engine,
            entry.folder,
            context.device,
            session.scan,
            context.settings,
            slices,
            context.region,
            session.source_masks(slices, context.region),
            self.folder_of(session),
            self._runner.job.abandoned,
        )
        self._runner.start("adapt", session, make, f"Adapting to {session.scan.name}")
        context.looked = False
        self._take_results("adapted")

    def go_on(self, *, finish: bool) -> None:
        """Go on with a run that was cancelled, or finish it with what was learned."""
        session = self._context.session
        if session is not None and self.unfinished:
            make = partial(tasks.go_on, session.run, finish, self._runner.job.abandoned)
            verb = "Finishing" if finish else "Adapting to"
            self.start("adapt", session, make, f"{verb} {session.scan.name}")

    def start(
        self,
        kind: str,
        session: Session | None,
        make: Callable[[], Iterator[Any]],
        title: str,
    ) -> None:
        """Run another job, as `Runner.start`; says why where one is going on."""
        context = self._context
        if self._runner.kind is not None:
            context.say("A run is going on; wait for its end, or cancel it.")
            return
        context.clear_problem()
        context.closing.find_window()
        self._layer = context.layer if session is not None else None
        self._runner.start(kind, session, make, title)

    def begin(self) -> tuple[Session, ModelEntry, list[int]] | None:
        """Capture what a run works on, or say why it cannot begin."""
        context = self._context
        context.clear_problem()
        context.look_back(None)
        self._adapt_then = False
        layer, scan, entry = context.layer, context.scan, context.entry
        if self._runner.kind or context.misfit() or layer is None or scan is None or entry is None:
            context.touch()
            return None
        try:
            slices = context.slices()
        except SlicesError as error:
            context.fail(str(error))
            return None
        context.closing.find_window()
        session = context.sessions.get(layer, scan, entry, filled=context.store.get("filled"))
        session.note = session.note_tone = ""
        self._layer = layer
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

    def _layer_removed(self, event: Any) -> None:
        """A scan that a run is working on comes back: its masks would have no place."""
        if self._layer is not None and event.value is self._layer and self._runner.kind is not None:
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
        if context.scan is None or context.entry is None:
            return ""
        pace = context.store.pace(self._pace_key("adapt"))
        try:
            count = len(context.slices())
        except SlicesError:
            return ""
        if pace is None:
            return ""
        return f"{about(pace * count)} for {counted(count, context.scan.noun)}"

    def _pace_key(self, kind: str) -> str:
        context = self._context
        size = "x".join(str(n) for n in context.scan.mask_shape[-2:]) if context.scan else ""
        model = context.entry.name if context.entry is not None else ""
        return "/".join((kind, model, context.device, size))

    # --- after its end ---------------------------------------------------------------------

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        context, session = self._context, self._runner.session
        self._layer = None
        if outcome.kind == "failed":
            kept = ""
            if session is not None and session.has_masks:
                kept = " What was finished is kept."
            context.fail(f"{outcome.message}{kept}", outcome.details)
        if session is None or context.closing.closing:
            return
        finished = outcome.kind == "done"
        done = session.adapted_slices if kind == "adapt" else session.segmented_slices
        if outcome.kind == "cancelled":
            session.note_tone = ""
            session.note = f"Cancelled; {counted(len(done), session.scan.noun)} finished and kept."
        elif finished and kind == "adapt":
            self.tell_result(session)
        if finished and self._runner.seconds_a_slice is not None:
            context.store.set_pace(self._pace_key(kind), self._runner.seconds_a_slice)
        if kind == "segment":
            if finished:
                self._look_at_extent(session)
            else:
                self._adapt_then = False
        if kind == "adapt" and session is context.session and session.can_compare:
            index = session.most_changed() if finished else context.in_view()
            # Beside a mask of the whole picture, one within a frame differs nearly everywhere.
            compares = finished and session.frame_of(index) is None
            context.mode = "difference" if compares else "adapted"
            context.apply_plain_mode(session)
            context.mode_changed.emit(context.mode)
            if finished:
                context.go_to(index)

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
        context.touch()

    def tell_result(self, session: Session) -> None:
        """Say of a session what came of its adaptation."""
        if session.adapted_slices:
            session.note, session.note_tone = self._result_words(session)
            session.result_note = session.note

    def note(self, session: Session | None) -> str:
        """Return what is said of a session's last result."""
        if session is None:
            return ""
        if session.note and session.note == session.result_note and session.can_compare:
            self.tell_result(session)  # a correction may have changed what is flagged
        return session.note

    def _result_words(self, session: Session) -> tuple[str, str]:
        adapted = counted(len(session.adapted_slices), session.scan.noun)
        framed = sum(session.frame_of(index) is not None for index in session.adapted_slices)
        if framed:
            adapted += f" (of {framed} the part round the structures, as found)"
        flagged = len(session.flagged())
        if flagged and session.scan.n_slices == 1:
            # No table and no way to the next one: what was seen is said here.
            return f"Adapted. Look closely: {session.flags[0][0].text}", "warning"
        if flagged:
            return f"{adapted} adapted, {flagged} flagged: have a look (key N).", "warning"
        tone = "" if self._context.implausible and not framed else "good"
        return f"{adapted} adapted, none flagged.", tone
