"""Back and forth through an adaptation: the mask in view as the model was after any step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from qtpy.QtCore import QObject

from napari_grata.widgets import jobs
from napari_grata.widgets.previews import Previews, Question
from napari_grata.widgets.session import Session
from napari_grata.widgets.step_bar import StepBar
from napari_grata.widgets.step_layer import StepLayer
from napari_grata.widgets.taken import Taken
from napari_grata.widgets.worker import Outcome

_SHOWING = "Showing the mask as it was after step"


class Steps(QObject):
    """Shows the mask after a step, takes a run back to it, and undoes that.

    Parameters
    ----------
    dock : GrataDock
    bar : StepBar
    """

    def __init__(self, dock: Any, bar: StepBar) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self._bar = bar
        self.previews = Previews(self)
        self._preview: StepLayer | None = None
        self._of: Session | None = None
        bar.moved.connect(self._on_moved)
        bar.used.connect(self.use)
        bar.undo_wanted.connect(self.undo)
        bar.redo_wanted.connect(self.redo)
        self.previews.arrived.connect(self._on_arrived)
        self.previews.failed.connect(dock.desk.fail)
        dock.adapt.plot.step_clicked.connect(self._on_plot_step)
        dock.desk.runner.ended.connect(self._on_run_ended)
        dock.desk.runner.changed.connect(self.offer)
        dock.desk.session_changed.connect(self.offer)

    def session(self) -> Session | None:
        """Return the chosen session if its run is at rest and can be gone through."""
        session: Session | None = self._dock.desk.session
        if session is None or session.run is None or session.busy:
            return None
        return session

    def offer(self) -> None:
        """Offer the steps of the chosen run, if it is at rest and has any."""
        chosen: Session | None = self._dock.desk.session
        session = self.session()
        last = 0
        if session is not None and session.run.settings.learns:
            last = session.run.last_step
        if chosen is not self._of or session is None:
            self._hide()
            self.previews.clear()
        idle = session is not None and self._dock.desk.runner.kind is None
        if last != self._bar.last() or chosen is not self._of:
            self._bar.set_steps(last)
        self._of = chosen
        states = session.taken if idle and session is not None else None
        self._bar.set_way_back(
            None if states is None else _words(states.before),
            None if states is None else _words(states.after),
        )
        self._bar.set_taken(None if session is None else session.taken_step, idle)

    # --- taking a state --------------------------------------------------------------------

    def use(self, step: int) -> None:
        """Take the masks after from the model as it was after a step, −1: as at the end."""
        session = self._ready()
        if session is not None:
            left = session.taken.leave(session.taken_step)
            make = partial(_predict_all, session, step, left)
            words = "Going back to the result" if step < 0 else f"Going to step {step}"
            self._change(session, None if step < 0 else step, make, words)

    def undo(self) -> None:
        """Go back to the masks that were in use before."""
        session = self._ready()
        if session is not None and session.taken.before is not None:
            wanted, left = session.taken.undo(session.taken_step)
            make = partial(_put_back, session, wanted, left)
            self._change(session, wanted.step, make, f"Going back to {_words(wanted)}")

    def redo(self) -> None:
        """Go on to the masks that were in use before the last Undo."""
        session = self._ready()
        if session is not None and session.taken.after is not None:
            wanted, left = session.taken.redo(session.taken_step)
            make = partial(_put_back, session, wanted, left)
            self._change(session, wanted.step, make, f"Going on to {_words(wanted)}")

    def _ready(self) -> Session | None:
        return self.session() if self._dock.desk.runner.kind is None else None

    def _change(self, session: Session, step: int | None, make: Any, words: str) -> None:
        self.previews.stop()
        self._hide()
        session.hide_difference()
        session.taken_step = step
        self._dock.desk.runner.again(session, make, words)

    # --- looking ---------------------------------------------------------------------------

    def leave(self, _text: str = "") -> None:
        """Show the masks before and after again."""
        if self._preview is not None or self.previews.waiting:
            self._bar.choose(-1)

    def look_again(self) -> None:
        """Show the step for the slice that has come into view."""
        if self._bar.step() >= 0:
            self._on_moved(self._bar.step())

    def show_step(self, step: int) -> None:
        """Move the slider to a step, where there is one; the slice in view is shown after it."""
        if step == self._bar.step():
            self.look_again()
        else:
            self._bar.choose(min(step, self._bar.last()))

    def _on_moved(self, step: int) -> None:
        session = self.session()
        shown = self._dock.review.shown
        if step < 0 or session is None:
            self.previews.stop()
            self._hide()
            if shown.said().startswith(_SHOWING):
                shown.say("Showing the mask after.")
        else:
            shown.say(f"{_SHOWING} {step}.")
            self.previews.ask(session.run, step, self._dock.desk.in_view())

    def _on_plot_step(self, _slice_index: int, step: int) -> None:
        if self.session() is not None and 0 <= step <= self._bar.last():
            self.show_step(step)

    def _on_arrived(self, question: Question, label_map: Any) -> None:
        session = self.session()
        if session is None or session is not self._of or session.run is not question.run:
            return
        if self._bar.step() < 0 or question.slice_index != self._dock.desk.in_view():
            return
        if self._preview is None:
            self._preview = StepLayer(session)
        self._preview.show(question.slice_index, label_map)
        if session.before.visible or session.after.visible:
            session.before.visible = session.after.visible = False

    def _hide(self) -> None:
        """Take the preview away and show the result again."""
        preview, self._preview = self._preview, None
        if preview is None:
            return
        preview.remove()
        if self._of is not None and self._of.adapted:
            self._of.show_after(True)

    def _on_run_ended(self, kind: str, outcome: Outcome) -> None:
        session = self._dock.desk.runner.session
        if kind == "again" and session is not None:
            self._dock.review.table.set_rows(session.measure().rows)


def _words(state: Taken | None) -> str | None:
    if state is None:
        return None
    return "the result of the run" if state.step is None else f"the state after step {state.step}"


def _predict_all(session: Session, step: int, left: Taken) -> Iterator[Any]:
    """Take the run to a step, and predict every slice as the model was then."""
    run, slices = session.run, sorted(session.adapted)
    left.fill(session.scan, session.after.stack, slices)
    with jobs.leave_room_for_the_interface():
        _roll(run, step)
        masks = {}
        for done, index in enumerate(slices, 1):
            found = run.predict(index, None if step < 0 else step)
            masks[index] = found.label_map
            yield jobs.Predicted(index, found.label_map, done, len(slices), 0.0)
    if step >= 0:
        run.take(step, masks)


def _put_back(session: Session, wanted: Taken, left: Taken) -> Iterator[Any]:
    """Take the run and the masks to a state that was kept; nothing has to be predicted."""
    left.fill(session.scan, session.after.stack, sorted(session.adapted))
    with jobs.leave_room_for_the_interface():
        _roll(session.run, -1 if wanted.step is None else wanted.step)
    for done, (index, label_map) in enumerate(wanted.masks(), 1):
        yield jobs.Predicted(index, label_map, done, len(wanted), 0.0)
    if wanted.step is not None:
        session.run.take(wanted.step, dict(wanted.masks()))


def _roll(run: Any, step: int) -> None:
    run.rollback(run.last_step if step < 0 else step)
