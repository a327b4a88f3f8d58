"""Deciding: which mask a decision would accept, five buttons with keys, notes, and the way back."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QRegularExpression, QSignalBlocker, Qt
from qtpy.QtGui import QRegularExpressionValidator
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_grata.review.cases import STATE_OF_VERDICT
from napari_grata.widgets import keys
from napari_grata.widgets.cases_model import STATE_SIGNS, when
from napari_grata.widgets.context import Context
from napari_grata.widgets.decisions import Decisions, Drawings
from napari_grata.widgets.qt_parts import (
    LineList,
    Sentence,
    button,
    choice,
    column_in,
    later,
    line_in,
    notify,
    offer,
    row,
)
from napari_grata.widgets.theme import ThemeColours, mark, tip
from napari_grata.widgets.undo import Undoable

if TYPE_CHECKING:
    from napari_grata.review.cases import DecidedMask, Decision

SLICE, CASE = "slice", "case"
Place = tuple[str, "int | None"]
# Verdict, text on the button, action, what it does.
BUTTONS = (
    ("accept", "Accept", "accept", "The mask that you look at may be used."),
    ("keep-source", "Keep before", "keep_source", "The mask before is the better one: use that."),
    ("edit", "Edit", "edit", "Draw on the mask after; what you draw is saved by itself."),
    ("reject", "Reject", "reject", "Neither mask may be used."),
    ("second-reader", "2nd reader", "second_reader", "Somebody else should look at it, too."),
)
# As the case list calls, and marks, a case that was decided on in this way.
VERDICT_WORDS = {verdict: state.value for verdict, state in STATE_OF_VERDICT.items()}
MARKS = {verdict: STATE_SIGNS[state][0] for verdict, state in STATE_OF_VERDICT.items()}
DIFFICULTIES = (("–", ""), ("easy", "easy"), ("moderate", "moderate"), ("hard", "hard"))
STALE = "The mask has changed since: look again."
NO_MASK = "There is no mask to decide on yet."


def decided(decision: Decision) -> str:
    """Return a decision in words: "accepted by AB, 14:02"."""
    by = f" by {decision.reviewer}" if decision.reviewer else ""
    time = when(decision.time)
    return f"{VERDICT_WORDS[decision.verdict]}{by}" + (f", {time}" if time else "")


def _note_of(decision: Decision | None) -> tuple[str, str]:
    """Return comment and difficulty that were put down with a decision."""
    return ("", "") if decision is None else (decision.comment, decision.difficulty)


class NotesPanel(QWidget):
    """What goes with a decision, and the decisions so far; part of *Correct and choose*."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        store = context.store
        self.comment = QLineEdit()
        self.comment.setPlaceholderText("goes with the decision")
        self.comment.setAccessibleName("Comment")
        self.comment.setMaxLength(500)
        self.comment.setToolTip("Goes with the decision. Never a patient's name.")
        self.difficulty = choice("How hard it was to decide.", "Difficulty", DIFFICULTIES)
        self.difficulty.setMinimumContentsLength(5)
        self.reviewer = QLineEdit()
        self.reviewer.setAccessibleName("Your initials")
        self.reviewer.setPlaceholderText("initials")
        self.reviewer.setMaxLength(5)
        self.reviewer.setFixedWidth(62)
        self.reviewer.setToolTip(
            tip("Your initials, up to five letters; remembered. Never a patient's name.")
        )
        letters = QRegularExpression("[^\\W\\d_]{0,5}")
        self.reviewer.setValidator(QRegularExpressionValidator(letters, self.reviewer))
        initials = str(store.get("reviewer", ""))
        self.reviewer.setText(initials[:5] if initials.isalpha() else "")
        self.reviewer.textEdited.connect(lambda text: store.set("reviewer", text.strip()))
        self.next_slice = self._check(context, "next slice", "step_on")
        self.next_slice.setToolTip("After a decision on a slice go to the next one without any.")
        self.next_case = self._check(context, "next case", "go_on")
        self.next_case.setToolTip("After a decision on a case of a list go to the next one.")
        ways = QWidget()
        beside = QHBoxLayout(ways)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.addWidget(self.next_slice)
        beside.addWidget(self.next_case)
        words = "Decisions on this case, the latest first"
        self.list = LineList(words, "The decisions in force. A click goes to the slice.")
        self.list.setMaximumHeight(78)
        column_in(
            self,
            row("Comment", self.comment),
            row("Difficulty", self.difficulty, self.reviewer),
            row("Then go to", ways),
            self.list,
        )

    @staticmethod
    def _check(context: Context, text: str, name: str) -> QCheckBox:
        made = QCheckBox(text)
        made.setChecked(bool(context.store.get(name, False)))
        made.toggled.connect(lambda on: context.store.set(name, on))
        return made

    def note(self) -> tuple[str, str]:
        """Return comment and difficulty as they stand."""
        return self.comment.text().strip(), str(self.difficulty.currentData())

    def set_note(self, comment: str, difficulty: str) -> None:
        """Show comment and difficulty, without a signal."""
        with QSignalBlocker(self.comment), QSignalBlocker(self.difficulty):
            if self.comment.text().strip() != comment:
                self.comment.setText(comment)
            self.difficulty.setCurrentIndex(max(0, self.difficulty.findData(difficulty)))


class DecideBar(QWidget):
    """Which mask is looked at, five decisions, the one in force, and one Undo.

    Attributes
    ----------
    notes : NotesPanel
        Comment, difficulty, initials and the list; placed by the dock.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.decisions = Decisions(context)
        self.drawings = Drawings(context, self.decisions)
        self.notes = NotesPanel(context)
        self._place: Place | None = None
        self._notes: dict[tuple[Path, Place], tuple[str, str]] = {}
        self._build()
        self._soon = later(self, 0, self.refresh)
        self._wire()
        self._show_theme(context.theme)
        self.refresh()

    def _build(self) -> None:
        self.sentence = Sentence(2, "grata_small")
        self.buttons: dict[str, QPushButton] = {}
        layout = column_in(self, spacing=3)
        below = line_in(layout)
        line = line_in(layout, spacing=3)
        for verdict, title, action, _ in BUTTONS:
            made = self.buttons[verdict] = button(
                title, clicked=partial(self._context.actions.perform, action)
            )
            made.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
            made.setMinimumWidth(0)
            line.addWidget(made, max(4, len(title)))
        words = "What a decision is about"
        entries = (("Slice", SLICE), ("Whole case", CASE))
        self.scope = choice(f"{words}.", words, entries, small=True)
        self.scope.setMinimumContentsLength(7)
        self.undo_button, self.redo_button = QToolButton(), QToolButton()
        for made, action in ((self.undo_button, "undo"), (self.redo_button, "redo")):
            made.setText(action.capitalize())
            made.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            made.clicked.connect(partial(self._context.actions.perform, action))
        self.retry_button = button(
            "Retry", "Try to write again what could not be.", small=True, clicked=self.retry
        )
        self.use_button = button(
            "Use this state",
            "Take all masks from the step that you look at; then you can accept them.",
            small=True,
            clicked=partial(self._context.actions.perform, "use_state"),
        )
        below.addWidget(self.scope)
        below.addWidget(self.sentence, 1)
        for widget in (self.use_button, self.retry_button, self.undo_button, self.redo_button):
            below.addWidget(widget, 0, Qt.AlignmentFlag.AlignTop)

    def _wire(self) -> None:
        context = self._context
        for verdict, _, action, _ in BUTTONS:
            context.actions.provide(
                action, partial(self.decide, verdict), partial(self.why_not, verdict)
            )
        self.scope.activated.connect(self.refresh)
        self.notes.comment.editingFinished.connect(self._on_noted)
        self.notes.difficulty.activated.connect(self._on_noted)
        self.notes.list.chosen.connect(context.go_to)
        self.decisions.arrived.connect(self._on_arrived)
        self.decisions.leaving.connect(self._leave)
        self.decisions.changed.connect(self._tell)
        self.drawings.saved.connect(self.look_again)
        for signal in (
            context.changed,
            context.session_changed,
            context.masks_changed,
            context.slice_changed,
            context.step_changed,
            context.mode_changed,
            context.drawn,
            context.undo.changed,
        ):
            signal.connect(self.look_again)
        context.theme_changed.connect(self._show_theme)
        context.closing.guards.append(self._may_close)
        context.save_drawings = self.drawings.save

    # --- the place -----------------------------------------------------------------------------

    def place(self) -> Place | None:
        """Return code of the case and slice (None: the whole case) that a decision is about."""
        scan, found = self._context.scan, self.decisions.place
        if found is None or scan is None or found.scan is not scan:
            return None
        single = self.scope.currentData() == SLICE and scan.n_slices > 1
        return found.key, self._context.in_view() if single else None

    def _where(self, index: int | None) -> str:
        """Return what a decision is about: a slice's name, or what the whole scan is called."""
        scan = self._context.scan
        if scan is None:
            return ""
        if index is not None:
            name = scan.slice_name(index)
            return name[:1].upper() + name[1:]
        if scan.is_list:
            return "All photographs"
        return "Whole case" if scan.is_stack else scan.case_noun.capitalize()

    def why_not(self, verdict: str) -> str:
        """Return why a verdict cannot be given now, "" if it can."""
        context, session, place = self._context, self._context.session, self.place()
        if session is None or not session.has_masks:
            return NO_MASK
        if session.busy:
            return "Wait until the run has ended."
        if place is None or self.decisions.place is None:
            return "The decisions so far are being read."
        if self.decisions.place.caselist.read_only:
            return str(self.decisions.place.caselist.read_only)
        index = place[1]
        if index is not None and (turned := context.why_no_slice()):
            return turned
        adapted = index in session.adapted_slices if index is not None else session.adapted_slices
        source = (
            index in session.segmented_slices if index is not None else session.segmented_slices
        )
        if verdict == "accept" and context.displayed().which == "step":
            return "An earlier step is shown: use this state first, or go back to the result."
        if verdict == "edit" and not adapted:
            return "There is no mask after here yet."
        if verdict == "keep-source" and not source:
            return "There is no mask before here."
        if not adapted and not source:
            return "There is no mask here yet."
        return ""

    # --- what the user does --------------------------------------------------------------------

    def decide(self, verdict: str) -> None:
        """Put a decision on the place in view in force and on the disk."""
        place = self.place()
        if place is None or self.why_not(verdict):
            self._context.say(self.why_not(verdict))
            return
        if verdict == "accept" and self._context.displayed().which == "source":
            verdict = "keep-source"  # what is looked at is what is accepted
        note = self.notes.note() if place == self._place else self._note_for(place)
        if verdict == "edit":
            self._context.paint_requested.emit()
        else:
            self.drawings.save()  # a decision on a drawing names its version, so it has to have one
        if not self._put(verdict, place, note):
            return
        self._context.undo.push(
            Undoable(
                f"“{VERDICT_WORDS[verdict]}”, {self._where(place[1]).lower()}",
                partial(self._undo_or_redo, "undo"),
                partial(self._undo_or_redo, "redo"),
                owner=self.decisions.place,
            )
        )
        self._go_on(verdict, place[1])

    def _put(
        self, verdict: str, place: Place, note: tuple[str, str], mask: DecidedMask | None = None
    ) -> bool:
        words = dict(zip(("comment", "difficulty"), note, strict=True))
        words["reviewer"] = self.notes.reviewer.text().strip()
        in_force = self.decisions.decide(verdict, place[1], mask, **words)
        if in_force:
            self._drop_note(place)
        self.refresh()
        return in_force

    def _go_on(self, verdict: str, index: int | None) -> None:
        """Go on, if the user wants that; to begin an edit is no end of a slice."""
        if verdict == "edit":
            return
        if index is not None and self.notes.next_slice.isChecked():
            left = self._undecided()
            if left:
                self._context.go_to(next((i for i in left if i > index), left[0]))
        if index is None and self._in_list() and self.notes.next_case.isChecked():
            self._context.actions.perform("next_case")

    def _undecided(self) -> list[int]:
        session, found = self._context.session, self.decisions.place
        if session is None or found is None:
            return []
        there = session.adapted_slices or session.segmented_slices
        return sorted(there - {index for index in found.current() if index is not None})

    def _in_list(self) -> bool:
        found = self.decisions.place
        return found is not None and not found.alone

    def _undo_or_redo(self, which: str) -> None:
        found = self.decisions.place
        changed = self.decisions.undo_or_redo(which)
        if changed is None or found is None:
            self._context.say(f"There is nothing to {which}.")
            return
        self._drop_note((changed.case, changed.slice_index))
        self._place = None
        name = changed.case
        if changed.case == found.key:
            name = self._where(changed.slice_index)
            self.scope.setCurrentIndex(1 if changed.slice_index is None else 0)
            if changed.slice_index is not None:
                self._context.go_to(changed.slice_index)
        back = "taken back" if which == "undo" else "in force again"
        notify(f"{name}: “{VERDICT_WORDS[changed.verdict]}” is {back}.", "info")
        self.refresh()

    def retry(self) -> None:
        """Write again what could not be written."""
        self.decisions.retry()
        if self.drawings.problem:
            self.drawings.save()
        self.refresh()

    # --- notes ---------------------------------------------------------------------------------

    def _on_noted(self, *_: object) -> None:
        """Comment or difficulty changed."""
        place = self.place()
        if place is not None:
            self._save_note(place)

    def _save_note(self, place: Place) -> None:
        """Keep what was typed for a place until it is decided on.

        Where it is, the decision is put down anew with these words; it rests on what it rested on.
        """
        found, note = self.decisions.place, self.notes.note()
        if found is None or place[0] != found.key:
            return
        own = found.current().get(place[1])
        if note == _note_of(own):
            self._drop_note(place)
            return
        self._notes[found.caselist.folder, place] = note  # other lists have a case-0001, too
        if own is not None:
            self._put(own.verdict, place, note, own.mask)

    def _note_for(self, place: Place | None) -> tuple[str, str]:
        """Return what was typed for a place, else what was put down with its decision."""
        found = self.decisions.place
        if found is None or place is None:
            return "", ""
        typed = self._notes.get((found.caselist.folder, place))
        return _note_of(found.current().get(place[1])) if typed is None else typed

    def _drop_note(self, place: Place) -> None:
        if self.decisions.place is not None:
            self._notes.pop((self.decisions.place.caselist.folder, place), None)

    def _leave(self) -> None:
        """Keep the words of a place that goes out of view, those typed a moment ago included."""
        if self._place is not None:
            self._save_note(self._place)

    # --- what is shown -------------------------------------------------------------------------

    def look_again(self, *_: object) -> None:
        """Bring everything in line, once after all changes of this moment."""
        self._soon.start()

    def _on_arrived(self) -> None:
        self._place = None
        self._tell()

    def _tell(self) -> None:
        """Others show decisions, too: the strip, the tables, the list of cases."""
        context, found = self._context, self.decisions.place
        current = found.current() if found is not None else {}
        context.decision_list = None
        if found is not None:
            context.decision_list = found.caselist, found.key
        context.decision_marks = self._marks()
        of_case = current.get(None)
        context.decided = decided(of_case) if of_case is not None else ""
        # An edit is in work, not decided.
        slices = sum(i is not None and one.verdict != "edit" for i, one in current.items())
        total = context.scan.n_slices if context.scan is not None else 1
        context.done = (of_case is not None and of_case.verdict != "edit") or slices == total
        if not context.decided and slices:
            context.decided = f"{slices} of {total} decided"
        context.decisions_changed.emit()
        context.touch()

    def _marks(self) -> dict[int, str]:
        """Return the sign of each decided slice, with a mark where its mask has changed since."""
        found = self.decisions.place
        return {
            index: MARKS[one.verdict] + ("!" if self.decisions.stale(one) else "")
            for index, one in (found.current() if found is not None else {}).items()
            if index is not None
        }

    def refresh(self, *_: object) -> None:
        """Bring bar, notes and list in line."""
        if self._marks() != self._context.decision_marks:
            self._tell()
        context, scan, session = self._context, self._context.scan, self._context.session
        several = scan is not None and scan.n_slices > 1
        if several != self.scope.isEnabled():
            self.scope.setEnabled(several)
            self.scope.setCurrentIndex(0 if several else 1)
        self.scope.setVisible(several)
        if scan is not None:
            self.scope.setItemText(0, scan.noun.capitalize())
        place = self.place()
        if place != self._place:
            before, self._place = self._place, place
            if before is not None:
                self._save_note(before)
            self.notes.set_note(*self._note_for(place))
        self._show_buttons()
        self._show_sentence(place)
        self._show_list()
        waits = bool(self.drawings.problem) or self.decisions.unsaved > 0
        self.retry_button.setVisible(waits)
        undo, redo = context.undo.undo_words, context.undo.redo_words
        self.undo_button.setVisible(bool(undo))
        self.undo_button.setToolTip(keys.tip("undo", f"Take back: {undo}."))
        self.redo_button.setVisible(bool(redo))
        self.redo_button.setToolTip(keys.tip("redo", f"Do again: {redo}."))
        self.notes.next_slice.setEnabled(several)
        self.notes.next_case.setEnabled(self._in_list())
        there = session is not None and session.has_masks
        self.setVisible(there or waits)

    def _show_buttons(self) -> None:
        displayed = self._context.displayed()
        self.use_button.setVisible(displayed.which == "step")
        words = {
            "source": "Accept the mask before, which you look at.",
            "adapted": "Accept the mask after"
            + (", with what you drew on it." if displayed.edited else "."),
        }
        for verdict, _, action, usual in BUTTONS:
            text = words.get(displayed.which, usual) if verdict == "accept" else usual
            offer(self.buttons[verdict], self.why_not(verdict), keys.tip(action, text))

    def _show_sentence(self, place: Place | None) -> None:
        found = self.decisions.place
        verdict: str | None = None
        text, tone = self.decisions.problem, "wrong"
        if place is not None and found is not None:
            current = found.current()
            own, of_case = current.get(place[1]), current.get(None)
            where = self._where(place[1])
            stale = own is not None and self.decisions.stale(own)
            tone = "warning" if stale else ""
            if own is not None:
                verdict = own.verdict
                text = f"{where}: {decided(own)}. {STALE if stale else ''}"
            elif found.caselist.read_only:
                text, tone = str(found.caselist.read_only), "warning"
            else:
                text = f"{where}: {self._in_view_words()}."
                if of_case is not None and place[1] is not None:
                    text += f" {self._where(None)}: {decided(of_case)}."
        if self.drawings.problem or self.decisions.unsaved:
            text, tone = self.drawings.problem or self.decisions.problem or text, "wrong"
        for name, made in self.buttons.items():
            mark(made, "inforce", "true" if name == verdict else "false")
        self.sentence.say(text, tone)

    def _in_view_words(self) -> str:
        """Return which mask is in view, and so which one Accept would take."""
        displayed = self._context.displayed()
        session, place = self._context.session, self.place()
        if session is not None and session.busy:
            return "the masks are still in the making"
        if place is not None and place[1] is not None and self._context.why_no_slice():
            return "not in view, for the axes are turned"
        if displayed.which == "step":
            return f"this is after step {displayed.step}"
        edited = ", with what you drew" if displayed.edited else ""
        return {
            "source": "you see the mask before",
            "adapted": f"Accept takes the mask after{edited}",
        }.get(displayed.which, "no mask yet")

    def _show_list(self) -> None:
        found, scan = self.decisions.place, self._context.scan
        lines: list[tuple[int | None, str]] = []
        if found is not None and scan is not None:
            for one in sorted(found.current().values(), key=lambda entry: -entry.number):
                index = one.slice_index
                if index is not None and index >= scan.n_slices:
                    continue
                parts = [f"{MARKS[one.verdict]}  {self._where(index)}: {decided(one)}"]
                parts += [part for part in (one.difficulty,) if part]
                parts += [f"“{one.comment}”"] if one.comment else []
                parts += ["mask changed since"] if self.decisions.stale(one) else []
                lines.append((index, " · ".join(parts)))
        self.notes.list.show_lines(lines)

    def _show_theme(self, colours: ThemeColours) -> None:
        self.setStyleSheet(
            "QPushButton {padding: 3px 3px; border: 1px solid transparent;}"
            f'QPushButton[inforce="true"] {{border: 1px solid {colours.text}; '
            "font-weight: bold; text-decoration: underline;}"
        )

    # --- closing -------------------------------------------------------------------------------

    def _may_close(self) -> bool:
        """Write what waits before the window closes; where that fails, ask."""
        self._leave()
        problems = [self.drawings.save(), self.decisions.retry() if self.decisions.unsaved else ""]
        problem = " ".join(filter(None, problems))
        if not problem:
            return True
        box = QMessageBox(self)
        box.setIcon(QMessageBox.Icon.Warning)
        box.setWindowTitle("Not everything is saved")
        box.setText(problem)
        box.setInformativeText("It would be lost with this window.")
        close = box.addButton("Close all the same", QMessageBox.ButtonRole.DestructiveRole)
        stay = box.addButton("Keep it open", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stay)
        box.exec()
        return bool(box.clickedButton() is close)
