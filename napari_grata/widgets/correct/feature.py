"""Corrections that teach: paint, adapt to what was painted, and the way back."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

from qtpy.QtCore import QObject, QTimer

from napari_grata.adaptation.corrections import CorrectionsError
from napari_grata.adaptation.settings import Settings, SettingsError, preset, teaching_settings
from napari_grata.widgets.correct.drawn import Drawn
from napari_grata.widgets.correct.job import correct
from napari_grata.widgets.correct.rest import Rest
from napari_grata.widgets.correct.section import REST, CorrectSection, Live
from napari_grata.widgets.correct.states import Before
from napari_grata.widgets.jobs import run_folder
from napari_grata.widgets.session import Session

_SOON_MS = 120
LEVELS = 5
NO_MASK = "Adapt first: corrections are painted on the mask after."
NO_RUN = "The steps of the model are not there any more: adapt again, then correct that mask."
BUSY = "A run is going on; wait for its end, or cancel it."
NOTHING = "Nothing is corrected yet: paint on the mask after, or say that a slice is right."


class Correct(QObject):
    """Counts what is painted, has the model learn from it, and undoes that.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.section = CorrectSection()
        dock.slots.correct.add(self.section)
        self.drawn = Drawn()
        self.rest = Rest(dock, self)
        self._states: weakref.WeakKeyDictionary[Session, list[Before]] = weakref.WeakKeyDictionary()
        self._kept: list[Any] = []  # runs of states, shared with what closes them at the end
        self._learning: tuple[Session, int, int, bool] | None = None
        self._watched: weakref.WeakSet[Any] = weakref.WeakSet()
        self._touched: set[int] = set()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SOON_MS)
        self._soon.timeout.connect(self.refresh)
        self.section.set_settings(teaching_settings(preset("careful").settings))
        section, desk = self.section, dock.desk
        for signal, slot in (
            (section.paint_wanted, self.paint),
            (section.adapt_wanted, self.adapt),
            (section.undo_wanted, self.undo),
            (section.right_changed, self._right_changed),
            (section.value_changed, self._value_changed),
            (desk.changed, self._look_soon),
            (desk.session_changed, self._look_soon),
            (desk.runner.ended, self._run_ended),
        ):
            signal.connect(slot)
        dock.ties.listen(dock.viewer.dims.events.current_step, self._look_soon)
        dock.ties.at_end(partial(_close_all, self._kept))
        dock.verbs["paint_corrections"] = partial(_perform, weakref.ref(self), "paint")
        dock.verbs["adapt_to_corrections"] = partial(_perform, weakref.ref(self), "adapt")
        self.refresh()

    # --- what the person does ------------------------------------------------------------------

    def paint(self) -> None:
        """Take napari's brush to the mask after."""
        session = self._dock.desk.session
        why = self._live(session).paint
        if why or session is None:
            self._say(why)
            return
        layer = session.after.ensure()
        session.show_after(True)
        self._watch(session)
        self._dock.viewer.layers.selection.active = layer
        layer.selected_label = self.section.value()
        layer.mode = "paint"
        self._say("Paint over what is wrong; napari's undo takes a stroke back.")

    def adapt(self) -> None:
        """Have the model learn from the corrections."""
        desk = self._dock.desk
        session = desk.session
        if session is not None:
            self._count(session)
        why = self._live(session).adapt
        if why or session is None:
            self._say(why)
            return
        try:
            settings = self.section.settings(teaching_settings(session.run.settings))
        except SettingsError as error:
            desk.fail(str(error))
            return
        corrections = self.drawn.corrections(session)
        try:
            corrections.check(session.card, session.scan)
        except CorrectionsError as error:
            desk.fail(str(error))
            return
        self._start(session, corrections, settings)

    def _start(self, session: Session, corrections: Any, settings: Settings) -> None:
        dock, desk = self._dock, self._dock.desk
        dock.watch.find_window()
        desk.problem, desk.details, desk.notice = None, "", ""
        # Drawings are on the disk before anything is made of them.
        if hasattr(dock, "decide") and not dock.decide.save_edits():
            desk.fail(dock.decide.edits.problem)
            return
        folder = desk.place(session) if desk.place is not None else None
        if folder is None:
            folder = run_folder(dock.adapt.run_parent(), session.scan)
        before = Before.of(session, self.drawn.right(session), corrections.slices)
        states = self._states.setdefault(session, [])
        states.append(before)
        self._kept.append(before.run)
        before.begin(session)
        session.settings = settings
        session.expected_steps = settings.correction_steps * len(corrections.slices)
        wanted = self.section.chosen_where() == REST
        self._learning = session, corrections.pixels, len(corrections.slices), wanted
        token = desk.runner.job.token
        keep = partial(before.fill, session)
        make = partial(correct, keep, before.run, corrections, settings, folder, token.abandoned)
        desk.runner.learn(session, make, f"Learning from corrections of {session.scan.name}")
        desk.session_changed.emit()

    def undo(self) -> None:
        """Go back to the masks before the model learnt, what was painted included."""
        desk = self._dock.desk
        session = desk.session
        if session is None or self._live(session).undo:
            return
        before = self._states[session].pop()
        later = before.later
        self._kept[:] = [run for run in self._kept if run is not before.run]
        before.put_back(session)
        for index in before.right:
            self.drawn.set_right(session, index, True)
        self.rest.take_back(session, later, before.run)
        desk.session_changed.emit()
        desk.changed.emit()
        self._dock.review.table.set_rows(session.measure().rows)
        self._say("The masks are as they were before the model learned from your corrections.")
        self.refresh()

    def _right_changed(self, on: bool) -> None:
        session = self._dock.desk.session
        if session is not None:
            self.drawn.set_right(session, self._dock.desk.in_view(), on)
            self.refresh()

    def _value_changed(self, value: int) -> None:
        """The brush that is at work paints the structure chosen."""
        session = self._dock.desk.session
        layer = session.after.layer if session is not None else None
        if layer is not None and layer.mode == "paint":
            layer.selected_label = value

    # --- what goes on --------------------------------------------------------------------------

    def _run_ended(self, kind: str, outcome: Any) -> None:
        learning, self._learning = self._learning, None
        session = self._dock.desk.runner.session
        if learning is None or session is not learning[0]:
            if kind == "adapt" and session is not None:
                self._forget_states(session)
            self._look_soon()
            return
        before = self._states[session][-1]
        if session.run is before.run:
            # It failed before it began: nothing has been learnt.
            self._states[session].pop()
            before.put_back(session)
            self._kept[:] = [run for run in self._kept if run is not before.run]
            self._dock.desk.session_changed.emit()
        else:
            before.later = session.run
            self.drawn.forget(session)
            self._trim(self._states[session])
            if outcome.kind == "done":
                _, pixels, slices, wanted = learning
                anew = session.count(len(session.adapted))
                session.note = (
                    f"Learned from {_pixels(pixels)} on {session.count(slices)}; {anew} drawn anew."
                )
                session.note_tone = "good"
                if wanted:
                    session.note += f" {self.rest.go(session)}"
            self._dock.desk.changed.emit()
        self._look_soon()

    def _trim(self, states: list[Before]) -> None:
        while len(states) > LEVELS:
            old = states.pop(0)
            old.run.close()
            self._kept[:] = [run for run in self._kept if run is not old.run]

    def _forget_states(self, session: Session) -> None:
        """There is a new run: what was corrected before it is history."""
        self.drawn.forget(session)
        for before in self._states.pop(session, []):
            if before.run is not session.run:
                before.run.close()
            self._kept[:] = [run for run in self._kept if run is not before.run]

    def _count(self, session: Session) -> None:
        self.drawn.look(session, {*self._touched, self._dock.desk.in_view()})
        self._touched.clear()

    def _watch(self, session: Session) -> None:
        layer = session.after.layer
        if layer is not None and layer not in self._watched:
            self._watched.add(layer)
            events = layer.events
            for emitter in (events.paint, events.labels_update, events.data, events.set_data):
                self._dock.ties.listen(emitter, self._touch)

    def _touch(self, _event: Any = None) -> None:
        """Something was painted in the slice in view, which may be another one in a moment."""
        self._touched.add(self._dock.desk.in_view())
        self._look_soon()

    # --- what is shown -------------------------------------------------------------------------

    def _look_soon(self, *_: Any) -> None:
        """What can be done is shown at once; what is counted, once after all events of a moment."""
        self.section.set_live(self._live(self._dock.desk.session))
        if not self._soon.isActive():
            self._soon.start()

    def refresh(self) -> None:
        """Bring the section in line."""
        desk = self._dock.desk
        session = desk.session
        section = self.section
        section.set_card(session.card if session is not None else None)
        section.offer_rest(self.rest.there())
        index = desk.in_view()
        noun = "slice"
        if session is not None:
            if session.scan.kind in ("photograph", "photographs"):
                noun = "photograph"
            if not session.busy:
                self._watch(session)
                self._count(session)
            section.set_right(index in self.drawn.right(session), noun)
        section.set_live(self._live(session))
        section.count.say(self._words(session))

    def _words(self, session: Session | None) -> str:
        if session is None or not session.adapted:
            return NO_MASK
        pixels, slices = self.drawn.count(session)
        taught = getattr(session.run, "corrections", None)
        earlier = f" Learned from so far: {_pixels(taught.pixels)}." if taught else ""
        if not slices:
            return f"Nothing corrected yet.{earlier}"
        return f"{_pixels(pixels)} corrected, on {session.count(slices)}.{earlier}"

    def _live(self, session: Session | None) -> Live:
        runner = self._dock.desk.runner
        undo = "" if session is not None and self._states.get(session) else "Nothing to undo."
        if session is None or not session.adapted:
            return Live(NO_MASK, NO_MASK, undo, NO_MASK)
        if runner.kind is not None or session.busy:
            return Live(BUSY, BUSY, BUSY, BUSY)
        right = "" if self._dock.desk.in_view() in session.adapted else NO_MASK
        adapt = ""
        if session.run is None:
            adapt = NO_RUN
        elif not self.drawn.count(session)[1]:
            adapt = NOTHING
        return Live("", adapt, undo, right)

    def _say(self, text: str) -> None:
        if text:
            self._dock.desk.shown.emit(text)


def _pixels(number: int) -> str:
    return "1 pixel" if number == 1 else f"{number:,} pixels".replace(",", "\u202f")


def _perform(correct: weakref.ref[Correct], action: str) -> None:
    found = correct()
    if found is not None:
        getattr(found, action)()


def _close_all(runs: list[Any]) -> None:
    for run in runs:
        run.close()
