"""Deciding: five keys, at once on the disk; and what the reviewer draws, saved by itself."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.review.cases import DecidedMask, Decision, DecisionError
from napari_grata.widgets.decide import presenting, words
from napari_grata.widgets.decide.bar import CASE, SLICE, DecideBar
from napari_grata.widgets.decide.clerk import Clerk
from napari_grata.widgets.decide.closing import ClosingGuard
from napari_grata.widgets.decide.docket import Docket
from napari_grata.widgets.decide.edits import Edits
from napari_grata.widgets.decide.section import DecideSection
from napari_grata.widgets.decide.standing import Standing, mask_of
from napari_grata.widgets.theme import theme_colours

VERBS = {
    "decide_accept": "accept",
    "decide_keep": "keep-source",
    "decide_edit": "edit",
    "decide_reject": "reject",
    "decide_second": "second-reader",
}


_BETWEEN_STROKES_MS = 300


class Decide(QObject):
    """The bar, the section, and the log behind them.

    Parameters
    ----------
    dock : GrataDock

    Signals
    -------
    decided(str)
        A decision is in force: on a "slice" or on a "case".
    changed()
        Decisions may be other ones: decided, undone, another case.
    """

    decided = Signal(str)
    changed = Signal()

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self.bar, self.section = DecideBar(), DecideSection()
        dock.slots.bar.add(self.bar)
        dock.slots.decide.add(self.section)
        self.edits = Edits(dock)
        self.clerk = Clerk(dock, self._before_leaving)
        self._standing = Standing()
        self._problem = ""
        self._notes: dict[tuple[Path, presenting.Place], tuple[str, str]] = {}
        self._place: presenting.Place | None = None
        self.closing = ClosingGuard(dock, self.edits, self.clerk)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self.refresh)
        store = dock.desk.store
        self.section.restore(
            store.get("reviewer", ""), store.get("step_on", False), store.get("go_on", False)
        )
        self._wire()
        for action, verdict in VERBS.items():
            dock.verbs[action] = partial(_perform, weakref.ref(self), verdict)
        dock.verbs["undo_decision"] = partial(_perform, weakref.ref(self), "undo")
        self._theme_changed()
        self.refresh()

    def _wire(self) -> None:
        dock, desk, bar, section = self._dock, self._dock.desk, self.bar, self.section
        wires: Any = (
            (bar.wanted, self.decide),
            (bar.scope_changed, self.refresh),
            (bar.retry_wanted, self.retry),
            (section.noted, self._noted),
            (section.reviewer_changed, partial(desk.store.set, "reviewer")),
            (section.step_on_changed, partial(desk.store.set, "step_on")),
            (section.go_on_changed, partial(desk.store.set, "go_on")),
            (section.undo_wanted, self.undo),
            (section.redo_wanted, self.redo),
            (section.place_wanted, desk.go_to),
            (self.clerk.arrived, self._docket_changed),
            (self.edits.drawn, self._drawn),
            (self.edits.saved, self.look_again),
            (self.edits.failed, self._edit_failed),
            (desk.changed, self.look_again),
            (desk.session_changed, self._masks_changed),
            (desk.runner.ended, self._masks_changed),
        )
        cases = getattr(dock, "cases", None)
        if cases is not None:
            wires += ((cases.case_changed, self.look_again), (cases.list_changed, self.look_again))
        for signal, slot in wires:
            signal.connect(slot)
        dock.ties.listen(dock.viewer.dims.events.current_step, self.look_again)
        dock.ties.listen(dock.viewer.events.theme, self._theme_changed)

    # --- what others may ask -------------------------------------------------------------------

    @property
    def docket(self) -> Docket | None:
        """Where decisions on the scan in view are kept; None until that is known."""
        return self.clerk.docket

    def save_edits(self) -> bool:
        """Write what was drawn, at once; returns whether all of it is safe on the disk."""
        return self.edits.save()

    def place(self) -> presenting.Place | None:
        """Return code of the case and slice (None: the whole case) that a decision is about."""
        scan, docket = self._dock.desk.scan, self.docket
        if docket is None or docket.scan is not scan:
            return None
        single = self.bar.chosen_scope() == SLICE and scan.n_slices > 1
        return docket.key, self._dock.desk.in_view() if single else None

    def undecided(self) -> list[int]:
        """Return the slices with masks and without a decision, in order."""
        session, docket = self._dock.desk.session, self.docket
        if session is None or docket is None:
            return []
        there = session.adapted or session.segmented
        return sorted(there - {index for index in docket.current() if index is not None})

    # --- what the person does ------------------------------------------------------------------

    def decide(self, verdict: str) -> None:
        """Put a decision on the place in view in force and on the disk."""
        place, session = self.place(), self._dock.desk.session
        reason = presenting.reasons(session, place, self.docket).get(verdict)
        if place is None or reason is not None:
            self._dock.desk.shown.emit(reason or presenting.NO_MASK)
            return
        note = self.section.note() if place == self._place else self._note_for(place)
        if verdict == "edit":
            self._begin_edit()
        else:
            # A decision on a drawing names its version, so it has to have one.
            self.edits.save()
        if self._put(verdict, place, *note):
            self._go_on(verdict, place[1])

    def _put(
        self,
        verdict: str,
        place: presenting.Place,
        comment: str = "",
        difficulty: str = "",
        facts: DecidedMask | None = None,
    ) -> bool:
        """Put a decision in force; returns whether it is, on the disk or in memory.

        ``facts``: what it rests on, where that is not what is shown now.
        """
        docket = self.docket
        assert docket is not None
        in_force = True
        try:
            docket.log.decide(
                place[0],
                verdict,
                slice_index=place[1],
                comment=comment,
                difficulty=difficulty,
                reviewer=self.section.initials(),
                mask=self._facts(docket, verdict, place[1]) if facts is None else facts,
            )
            self._problem = ""
        except DecisionError as error:
            in_force = error.kept
            self._complain(str(error))
        if in_force:
            self._drop_note(place)
        self._tell_cases(place[0])
        self.refresh()
        return in_force

    def _facts(self, docket: Docket, verdict: str, index: int | None) -> DecidedMask:
        """Return what a decision rests on: model, run, step, the mask itself."""
        session = self._dock.desk.session
        known = DecidedMask() if docket.alone else docket.caselist.mask_now(docket.key)
        digest = self._standing.mask(session, verdict, index)
        facts = mask_of(session, known).but(kind="adapted", digest=digest)
        if verdict == "keep-source":
            return facts.but(kind="source")
        if verdict != "edit" and session.after.edited():
            return facts.but(kind="edited", edit=docket.work.edit_version)
        return facts

    def _go_on(self, verdict: str, index: int | None) -> None:
        """Go on, if the person wants that; to begin an edit is no end of a slice."""
        self.decided.emit(CASE if index is None else SLICE)
        if verdict == "edit":
            return
        if index is not None and self.section.step_on.isChecked():
            left = self.undecided()
            if left:
                self._dock.desk.go_to(next((i for i in left if i > index), left[0]))
        cases = self.clerk.cases()
        if index is None and cases is not None and self.section.go_on.isChecked():
            cases.next()

    def _begin_edit(self) -> None:
        session, table = self._dock.desk.session, self._dock.review.table
        names = {s.name: s.value for s in session.card.structures}
        value = names.get(table.model.structure, session.card.structures[0].value)
        if self.edits.begin(session, value):
            self._dock.desk.shown.emit("Draw on the mask after; it is saved by itself.")

    def undo(self) -> None:
        """Take the latest decision back."""
        self._undo_or_redo("undo")

    def redo(self) -> None:
        """Put in force again what was undone last."""
        self._undo_or_redo("redo")

    def _undo_or_redo(self, which: str) -> None:
        docket = self.docket
        if docket is None:
            return
        changed: Decision | None = None
        waiting = len(docket.log.unsaved)
        try:
            changed = getattr(docket.log, which)()
            self._problem = ""
        except DecisionError as error:
            if len(docket.log.unsaved) > waiting:
                changed = docket.log.unsaved[-1]
            self._complain(str(error))
        if changed is None:
            self._dock.desk.shown.emit(f"There is nothing to {which}.")
        else:
            self._tell_cases(changed.case)
            self._show_changed(changed, which, docket)
        self.refresh()

    def _show_changed(self, changed: Decision, which: str, docket: Docket) -> None:
        """Say which decision was taken back, and go to its slice."""
        self._drop_note((changed.case, changed.slice_index))
        self._place = None
        scan, index = docket.scan, changed.slice_index
        back = "taken back" if which == "undo" else "in force again"
        name = changed.case if index is None else f"{changed.case}, slice {index + 1}"
        if changed.case == docket.key:
            name = words.place(index, "" if index is None else scan.slice_name(index), scan.kind)
            self.bar.choose_scope(CASE if index is None else SLICE)
            if index is not None:
                self._dock.desk.go_to(index)
        show_info(f"{name}: “{words.VERDICT_WORDS[changed.verdict]}” is {back}.")

    def retry(self) -> None:
        """Write again what could not be written."""
        try:
            self.clerk.retry()
            self._problem = ""
        except DecisionError as error:
            self._complain(str(error))
        if self.edits.problem:
            self.edits.save()
        if self.docket is not None:
            self._tell_cases(self.docket.key)
        self.refresh()

    def _noted(self) -> None:
        """Comment or difficulty changed: a decision in force is put down anew with them."""
        place = self.place()
        if place is not None:
            self._keep_note(place)
            self._write_note(place)

    def _write_note(self, place: presenting.Place) -> None:
        """Put the words down with the decision in force, which rests on what it rested on."""
        docket = self.docket
        own = None if docket is None or place[0] != docket.key else docket.current().get(place[1])
        note = self.section.note()
        if own is not None and note != (own.comment, own.difficulty):
            self._put(own.verdict, place, *note, facts=own.mask)

    def _keep_note(self, place: presenting.Place) -> None:
        """Keep words that are not part of a decision yet."""
        docket, note = self.docket, self.section.note()
        if docket is None:
            return
        own = docket.current().get(place[1])
        known = (own.comment, own.difficulty) if own is not None else ("", "")
        if note != known:
            # Other lists have a case-0001, too.
            self._notes[docket.log.folder, place] = note
        else:
            self._drop_note(place)

    def _leave(self, place: presenting.Place | None) -> None:
        """Keep the words of a place that goes out of view, those typed a moment ago included."""
        if place is not None:
            self._write_note(place)
            self._keep_note(place)

    def _note_for(
        self, place: presenting.Place, otherwise: tuple[str, str] = ("", "")
    ) -> tuple[str, str]:
        """Return the words that were kept for a place."""
        docket = self.docket
        return (
            otherwise if docket is None else self._notes.get((docket.log.folder, place), otherwise)
        )

    def _drop_note(self, place: presenting.Place) -> None:
        if self.docket is not None:
            self._notes.pop((self.docket.log.folder, place), None)

    def _before_leaving(self) -> None:
        """Keep what was typed and drawn while it is still known where it belongs."""
        self._leave(self._place)
        self.edits.save()

    # --- what is shown -------------------------------------------------------------------------

    def look_again(self, *_: Any) -> None:
        """Bring bar, section and table in line, once after all changes of this moment."""
        self._soon.start(0)

    def refresh(self) -> None:
        """Bring bar, section and table in line."""
        self.closing.watch_window()
        self.clerk.look()
        session, scan, docket = self._dock.desk.session, self._dock.desk.scan, self.docket
        self.edits.watch(session)
        said = self.edits.bring_back(session)
        if said is not None:
            self._standing.forget()
            if said:
                show_warning(said)
        self.bar.set_scopes(scan is not None and scan.n_slices > 1, presenting.noun_of(scan))
        place = self.place()
        self.bar.set_live(presenting.reasons(session, place, docket))
        if place != self._place:
            left, self._place = self._place, place
            self._leave(left)
            own = docket.current().get(place[1]) if docket is not None and place else None
            note = (own.comment, own.difficulty) if own is not None else ("", "")
            self.section.set_note(*(self._note_for(place, note) if place else note))
        waits = bool(self.edits.problem) or self.clerk.unsaved > 0
        verdict, sentence, tone = None, self.clerk.problem, "wrong"
        if place is not None and docket is not None and scan is not None:
            verdict, sentence, tone = presenting.sentence(
                place, docket, scan, session, self._standing
            )
        if waits:
            sentence, tone = self.edits.problem or self._problem or sentence, "wrong"
        self.bar.show_decision(verdict, sentence, tone)
        self.bar.offer_retry(waits)
        shown = presenting.account(docket, scan, session, self._standing)
        self.section.show_decisions(shown.lines)
        self.section.progress.setText(shown.progress)
        self.section.step_on.setEnabled(scan is not None and scan.n_slices > 1)
        self.section.go_on.setEnabled(self.clerk.cases() is not None)
        self.section.undo_button.setEnabled(docket is not None and docket.log.can_undo)
        self.section.redo_button.setEnabled(docket is not None and docket.log.can_redo)
        self._dock.review.table.set_marks(shown.marks)
        self.changed.emit()

    def _docket_changed(self) -> None:
        self.edits.docket = self.docket
        self._problem, self._place = "", None
        self._masks_changed()

    def _masks_changed(self, *_: Any) -> None:
        self._standing.forget()
        self.look_again()

    def _drawn(self, everywhere: bool) -> None:
        """Between strokes there is time to look whether a decision still holds."""
        self._standing.forget(None if everywhere else self._dock.desk.in_view())
        self._soon.start(_BETWEEN_STROKES_MS)

    def _edit_failed(self, problem: str) -> None:
        show_error(problem)
        self.look_again()

    def _complain(self, problem: str) -> None:
        if self.docket is not None and self.docket.caselist is None:
            problem = (
                f"Your decisions wait in memory, and are lost with this window. "
                f"{self.docket.problem}"
            )
        self._problem = problem
        show_error(problem)

    def _theme_changed(self, event: Any = None) -> None:
        self.bar.set_colours(theme_colours(self._dock.viewer.theme))

    def _tell_cases(self, key: str) -> None:
        cases = self.clerk.cases()
        if cases is not None:
            cases.refresh_case(key)


def _perform(feature: weakref.ref[Decide], verb: str) -> None:
    found = feature()
    if found is not None:
        found.undo() if verb == "undo" else found.decide(verb)
