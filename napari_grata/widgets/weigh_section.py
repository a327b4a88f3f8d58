"""*A few reviewed slices decide*: propose slices, weigh candidates on them, use what is better."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QCheckBox, QScrollArea, QSpinBox, QWidget
from superqt import QCollapsible

from napari_grata.review.carried import as_planned, carried_by, carried_choice
from napari_grata.review.choosing import Rule
from napari_grata.review.proposing import FEWEST, MOST
from napari_grata.scans.scan import counted
from napari_grata.widgets.background import Outcome
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import (
    LineList,
    Sentence,
    button,
    column,
    column_in,
    later,
    offer,
    row,
)
from napari_grata.widgets.session import Session
from napari_grata.widgets.state import chosen_words
from napari_grata.widgets.theme import tip
from napari_grata.widgets.undo import Undoable
from napari_grata.widgets.weigh_picture import WeighPicture
from napari_grata.widgets.weigh_tasks import (
    AT_HAND,
    Changed,
    Found,
    Over,
    Pool,
    Work,
    carry_masks,
    change_back,
    choose_masks,
    lies_over,
    propose_slices,
    record_of,
    same_masks,
    weigh_slices,
)

TITLE = "A few reviewed slices decide"
_NO_MASK = "Adapt first: then there is something to weigh."
_ABOUT = (
    "The program proposes slices; you say what is right there; then it shows which mask, if any, "
    "is better than the mask before."
)
_TOGETHER = (
    "Each photograph is a case by itself in this list. Opened as one stack, a few that you review "
    "decide for all of them; what you say there is kept with the stack."
)
_CHANGED = "Your reviewed slices are others than those weighed: weigh again."


class WeighSection(QWidget):
    """Propose slices, list them, weigh, and use what is recommended for the other slices.

    Attributes
    ----------
    page : QScrollArea
        With the `picture`; placed by the dock.
    picture : WeighPicture

    Signals
    -------
    weighed()
        There is a new picture to look at.
    unfolded(bool)
        The user opened the section, or folded it.
    """

    weighed = Signal()
    unfolded = Signal(bool)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._found: weakref.WeakKeyDictionary[Session, Found] = weakref.WeakKeyDictionary()
        self._offered: weakref.WeakSet[Session] = weakref.WeakSet()
        self._build()
        self._soon = later(self, 100, self.refresh)
        self._wire()
        self.refresh()

    def _build(self) -> None:
        self.words = Sentence(7, "grata_small")
        self.propose_button = button("Propose slices", clicked=self.propose)
        self.count = QSpinBox()
        self.count.setRange(FEWEST, MOST)
        self.count.setAccessibleName("How many slices to review")
        self.count.setToolTip("How many slices to look at in all. More decide more surely.")
        words = "Slices proposed (○) and called right (✓). A click goes there."
        self.list = LineList("Slices to review", words)
        self.list.setFixedHeight(62)
        self.teach = QCheckBox("A copy learns from them, too")
        self.teach.setChecked(True)
        self.weigh_button = button("Weigh", clicked=self.weigh)
        self.use_button = button("Use for the other slices", clicked=self.use)
        self.carry_button = button("Use for the other cases", clicked=self.carry)
        self.here_button = button("", clicked=self.use_here)
        self.together_button = button("Open as one stack", clicked=self._open_together)
        self._ways = column(
            row("", self.propose_button, self.count),
            self.list,
            self.teach,
            # One below the other: with “photographs” for “slices” both are too wide for a line.
            self.weigh_button,
            self.use_button,
            self.carry_button,
            self.here_button,
        )
        self.fold = QCollapsible(TITLE)
        self.fold.addWidget(column(self.words, self.together_button, self._ways))
        self.picture = WeighPicture(self._context)
        self.page = QScrollArea()
        self.page.setWidget(self.picture)
        self.page.setWidgetResizable(True)
        self.page.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        column_in(self, self.fold)

    def _wire(self) -> None:
        context = self._context
        self.list.chosen.connect(context.go_to)
        self.fold.toggled.connect(self.unfolded)
        self.picture.slice_requested.connect(context.go_to)
        self.count.valueChanged.connect(self._look_soon)
        for signal in (
            context.reviewed.changed,
            context.changed,
            context.session_changed,
            context.decisions_changed,
            context.masks_changed,
            context.drawn,
            context.undo.changed,
        ):
            signal.connect(self._look_soon)
        context.runner.ended.connect(self._on_ended)

    # --- what there is ---------------------------------------------------------------------------

    def found(self, session: Session) -> Found:
        """Return what is known of a session so far."""
        return self._found.setdefault(session, Found())

    def _decided(self) -> set[int | None] | None:
        """Return the slices that are decided on (None among them: all); None if not known yet."""
        if self._context.decision_list is None:
            return None
        caselist, key = self._context.decision_list
        return set(caselist.decisions(key))

    def _targets(self, session: Session, slices: Iterable[int]) -> list[int]:
        """Return the slices whose masks may be changed: nobody has said or drawn anything there."""
        kept: set[int | None] = {*self._context.reviewed.of(session), *session.drawn_slices}
        # Those decided on too, and those that were drawn on and learned from since.
        kept.update(self._decided() or (), session.run.corrections.slices)
        return [index for index in slices if index not in kept]

    def _in_use(self, session: Session) -> bool:
        """Whether masks are in use as they were chosen."""
        told = self.found(session).told
        return session.run is not None and any(one is told for one in session.run.chosen)

    def _stale(self, session: Session) -> bool:
        """Whether the reviewed masks are others than those that were weighed with."""
        return not same_masks(self.found(session).reviewed, self._context.reviewed.of(session))

    # --- why not ---------------------------------------------------------------------------------

    def _why_not(self, more: Callable[[Session], str]) -> str:
        """Return why one of the three cannot be done now: what holds for all, then ``more``."""
        context, session = self._context, self._context.session
        if session is None or not session.adapted_slices:
            return _NO_MASK
        if context.runner.busy:
            return context.runner.why_busy()
        if session.run is None:
            return "The run's model is still being read, or is gone: wait a moment, or adapt again."
        if context.runner.unfinished:
            return "The run was cancelled: go on with it, or finish it, first."
        return more(session)

    def _why_no_propose(self, session: Session) -> str:
        done = len(self._context.reviewed.of(session))
        if done >= self.count.value():
            reviewed = counted(done, session.scan.noun)
            return f"{reviewed} reviewed already: weigh, or choose a higher number."
        decided = self._decided() or set()
        if None in decided:
            return "This case is decided on; take the decision back first."
        if session.adapted_slices <= {*decided, *self._context.reviewed.of(session)}:
            return f"Every {session.scan.noun} is reviewed or decided: there are no others."
        return ""

    def _why_no_weigh(self, session: Session) -> str:
        noun, done = session.scan.noun, len(self._context.reviewed.of(session))
        if done < Rule().fewest:
            return (
                f"Say of at least {Rule().fewest} {noun}s, better three, that they are right: tick "
                f"“This {noun} is right now”."
            )
        return ""

    def _why_no_choice(self, session: Session) -> str:
        found = self.found(session)
        if found.choice is None:
            return "Weigh first."
        if self._stale(session):
            return _CHANGED
        if not found.choice.changes:
            return "Nothing is recommended: the mask before stays (Keep before)."
        return ""

    def _why_no_use(self, session: Session) -> str:
        pool = self.found(session).pool
        if why := self._why_no_choice(session):
            return why
        if self._in_use(session):
            return "In use already; Undo takes it back."
        return self._why_not_on(session, pool.slices if pool is not None else ())

    def _why_not_on(self, session: Session, slices: Iterable[int]) -> str:
        decided = self._decided()
        if decided is None:
            return "The decisions so far are being read."
        if None in decided:
            return "This case is decided on; take the decision back first."
        if not self._targets(session, slices):
            return "Every slice is reviewed, drawn on or decided: there are no others."
        return ""

    def _why_no_here(self, session: Session) -> str:
        return self._why_not_on(session, session.adapted_slices)

    def _why_no_carry(self, session: Session) -> str:
        found = self.found(session)
        if why := self._why_no_choice(session):
            return why
        if session.region is not None:
            return "It was chosen within the region drawn here; other cases have none."
        at_hand = found.choice is not None and AT_HAND in {p.candidate for p in found.choice.picks}
        if at_hand and not as_planned(session.run):
            return "What is recommended is a state of this run, which no other case has."
        return ""

    def _able_to_teach(self, session: Session | None) -> bool:
        """Whether copies of the model may learn: of one that reads volumes that takes hours."""
        return session is not None and session.card.patch is None

    # --- what the user does ----------------------------------------------------------------------

    def _work(self, why_not: Callable[[Session], str]) -> Work | None:
        """Return what a job works on, unless there is a reason not to begin."""
        context, session = self._context, self._context.session
        if session is None or context.entry is None or self._why_not(why_not):
            return None
        return Work(
            context.runner.engine,
            context.entry.folder,
            context.device,
            session,
            tuple(sorted(session.segmented_slices & session.adapted_slices)),
            context.runner.job.abandoned,
            self.found(session).pool,
        )

    def _start(
        self, session: Session, make: Any, title: str, ended: Any, *, kind: str = "weigh"
    ) -> None:
        self._context.look_back(None)
        then = partial(self._on_done, session, ended)
        self._context.runner.start(kind, session, make, title, then)

    def _open_together(self) -> None:
        self._context.open_requested.emit("together")

    def propose(self) -> None:
        """Make the candidates and propose slices on which they differ."""
        work = self._work(self._why_no_propose)
        if work is not None:
            reviewed = self._context.reviewed.of(work.session)
            left_out = {i for i in (self._decided() or ()) if i is not None} | reviewed.keys()
            make = partial(propose_slices, work, self.count.value() - len(reviewed), left_out)
            self._start(work.session, make, "Looking for slices to review", self._proposed)

    def _proposed(self, session: Session, results: list[Any]) -> None:
        proposed = self.found(session).proposed = results[1]
        if proposed and session is self._context.session:
            self._context.show_mode("adapted")
            self._context.go_to(proposed[0])

    def weigh(self) -> None:
        """Measure all candidates on the slices that are called right."""
        work = self._work(self._why_no_weigh)
        if work is not None:
            session, reviewed = work.session, self._context.reviewed.of(work.session)
            make = partial(
                weigh_slices,
                work,
                reviewed,
                self.found(session).proposed,
                teach=self._able_to_teach(session) and self.teach.isChecked(),
            )
            ended = partial(self._weighed, reviewed=reviewed)
            self._start(session, make, "Weighing", ended)

    def _weighed(
        self, session: Session, results: list[Any], reviewed: dict[int, np.ndarray]
    ) -> None:
        found = self.found(session)
        _, found.weighing, found.choice = results
        found.reviewed, found.told = reviewed, None
        if session is self._context.session:
            self._show_picture(session)
            self.weighed.emit()

    def use(self) -> None:
        """Have the choice take the place of the masks after, where nobody has said anything."""
        work = self._work(self._why_no_use)
        if work is not None and self._context.drawings_are_safe():
            session = work.session
            found, before = replace(self.found(session)), lies_over(session.run)
            assert found.pool is not None
            make = partial(choose_masks, work, found, self._targets(session, found.pool.slices))
            words = f"using the choice of {counted(len(found.reviewed), session.scan.noun)}"
            ended = partial(self._used, words=words, before=before)
            self._start(session, make, "Using what your slices say", ended, kind="masks")

    def carry(self) -> None:
        """Have the other cases of the list use the choice, as they are adapted."""
        work, flow = self._work(self._why_no_carry), self._context.flow
        case, caselist = self._context.case, self._context.caselist
        if work is None or flow is None or case is None or caselist is None:
            return
        session, found = work.session, self.found(work.session)
        assert found.pool is not None
        record, before = record_of(session.run, found), carried_by(caselist)
        carried = carried_choice(record, found.pool.runs, f"case {case.number}")
        flow.carry_choice(carried)
        self._context.undo.push(
            Undoable(
                "using the choice for the other cases",
                partial(flow.carry_choice, before),
                partial(flow.carry_choice, carried),
                owner=caselist,
            )
        )
        session.note = "The other cases of the list use it as they are adapted, one after another."
        session.note_tone = "good"
        self._context.touch()

    def use_here(self) -> None:
        """Use what was chosen on another case of the list on the one in view."""
        work, flow = self._work(self._why_no_here), self._context.flow
        carried = flow.choice_not_here(work.session) if work is not None and flow else None
        if work is not None and carried is not None and self._context.drawings_are_safe():
            session = work.session
            targets = self._targets(session, sorted(session.adapted_slices))
            words = f"using the choice made on {carried.told['case']}"
            ended = partial(self._used, words=words, before=lies_over(session.run))
            make = partial(carry_masks, work, carried, targets)
            self._start(session, make, "Using the list's choice", ended, kind="masks")

    def _used(self, session: Session, results: list[Any], words: str, before: Over) -> None:
        after: Changed = results[0]
        self.found(session).told = after.told
        there = self._put(session, after)
        self._context.undo.push(
            Undoable(
                words,
                partial(self._change, session, there, before, "The masks after are as they were."),
                partial(self._change, session, after, lies_over(session.run), ""),
                owner=session,
                why_not=self._context.runner.why_busy,
            )
        )
        session.note = f"Chosen masks are in use on {session.scan.counts(len(after.masks))}."
        session.note_tone = "good"

    def _change(self, session: Session, changed: Changed, over: Over, note: str) -> None:
        """Take the choice back, or use it again."""
        make = partial(change_back, session.run, changed, over)
        ended = partial(self._changed, note=note)
        self._start(session, make, "Changing the masks", ended, kind="masks")

    def _changed(self, session: Session, results: list[Any], note: str) -> None:
        self._put(session, results[0])
        session.note = note

    def _put(self, session: Session, changed: Changed) -> Changed:
        """Put masks in place where nobody has drawn; returns those that were there."""
        scan, adapted = session.scan, session.adapted
        stack = adapted.stack
        before = Changed(
            {i: np.array(scan.get_mask(stack, i)) for i in changed.masks},
            {i: session.flags.get(i, ()) for i in changed.masks},
        )
        session.hide_difference()
        for index, mask in changed.masks.items():
            if adapted.drawn_on(index):  # since: the drawing stays, over the other mask
                scan.put_mask(stack, index, mask)
            else:
                session.put_adapted(index, mask)
            session.flags[index] = changed.flags[index]
        session.saved, session.chosen = "", chosen_words(session.run.chosen, scan.noun)
        session.settle()
        session.redraw()
        session.masks_changed.emit(set(changed.masks))
        for index in sorted(session.drawn_slices)[:1]:
            # A drawing is kept with what it was drawn over, and that is another mask now.
            session.drawn.emit(index)
        return before

    def _on_done(self, session: Session, ended: Any, outcome: Outcome) -> None:
        """A job has ended; ``ended`` takes its results."""
        context, found = self._context, self.found(session)
        results = list(context.runner.results)
        if results and isinstance(results[0], Pool) and results[0] is not found.pool:
            found.pool = results[0]  # not to be made again
            found.weighing = found.choice = None  # they were of other candidates
        # Masks that are kept with the run are there, even if Cancel was pressed just then.
        if outcome.kind == "done" or (results and isinstance(results[0], Changed)):
            ended(session, results)
        elif outcome.kind == "cancelled":
            context.say("Cancelled: nothing is changed.")
        if session is context.session:
            context.apply_plain_mode(session)
            context.take_results()

    def _on_ended(self, kind: str, _outcome: Outcome) -> None:
        if kind == "adapt" and self._context.runner.session is not None:
            found = self.found(self._context.runner.session)
            found.weighing = found.choice = None
        self._look_soon()

    def _look_soon(self, *_: object) -> None:
        if not self._soon.isActive():
            self._soon.start()

    def refresh(self) -> None:
        """Bring the section in line."""
        context, session = self._context, self._context.session
        alone = session is not None and session.scan.n_slices < FEWEST
        listed = context.caselist if alone and context.case is not None else None
        together = listed is not None and bool(listed.photographs())
        self.setVisible(bool(session and session.adapted_slices) and (not alone or together))
        self._ways.setVisible(not together)
        self.together_button.setVisible(together)
        words = "Open all photographs of this list as slices of one scan."
        offer(self.together_button, context.runner.why_busy(), words)
        noun = session.scan.noun if session is not None else "slice"
        self.propose_button.setText(f"Propose {noun}s")
        done = len(self._context.reviewed.of(session)) if session is not None else 0
        self.weigh_button.setText(f"Weigh {counted(done, noun)}" if done else "Weigh")
        self.use_button.setText(f"Use for the other {noun}s")
        for made, why_not, words in (
            (
                self.propose_button,
                self._why_no_propose,
                "Run other methods on the scan, from the model as it was trained, and find where "
                "they differ most. The first time takes as long as these runs; nothing of yours "
                "is changed.",
            ),
            (
                self.weigh_button,
                self._why_no_weigh,
                f"Compare all methods with your masks on the {noun}s that you call right.",
            ),
            (
                self.carry_button,
                self._why_no_carry,
                "The other cases of the list get what is recommended here, made on each of them, "
                "as they are adapted: those that you have neither drawn on nor decided. Nobody has "
                "reviewed them, and where it was measured a part of the gain alone came with it: "
                "look at some. Undo takes it back.",
            ),
            (
                self.here_button,
                self._why_no_here,
                f"Put the masks chosen there on the {noun}s that you have neither drawn on nor "
                "decided. Undo takes it back.",
            ),
            (
                self.use_button,
                self._why_no_use,
                f"Put the recommended masks on the {noun}s that you have neither reviewed, drawn "
                "on nor decided. Undo takes it back.",
            ),
        ):
            offer(made, tip(self._why_not(why_not)), tip(words))
        self._show_list_buttons(session)
        self.teach.setVisible(self._able_to_teach(session))
        self.teach.setToolTip(
            tip(
                f"Copies of the model learn from the {noun}s that you call right, and have to win "
                f"like every other method: on each of these {noun}s a copy is weighed that has not "
                "seen it. All weights learn, so that it takes a while; your model stays as it is."
            )
        )
        if session is not None:
            self._show_list(session)
            self.words.say(*((_TOGETHER, "") if together else self._sentence(session)))
            if self.found(session).weighing is not self.picture.weighing:
                self._show_picture(session)
        elif self.picture.weighing is not None:
            self.picture.show_weighing()

    def _show_list_buttons(self, session: Session | None) -> None:
        """Offer what goes beyond the case in view, or comes from another one."""
        flow = self._context.flow
        carried = flow.choice_not_here(session) if flow is not None and session else None
        others = flow is not None and session is not None and flow.has_others(session)
        self.carry_button.setVisible(others)
        self.here_button.setVisible(carried is not None)
        if carried is not None and session is not None:
            case = carried.told["case"]
            self.here_button.setText(f"Use the choice of {case}")
            if session not in self._offered:
                self._offered.add(session)
                self.fold.expand(animate=False)
                self._context.say(
                    f"What was chosen on {case} is not used here yet, for nothing changes while "
                    f"you look. Use it under “{TITLE}”."
                )

    def _sentence(self, session: Session) -> tuple[str, str]:
        found, noun = self.found(session), session.scan.noun
        reviewed = self._context.reviewed.of(session)
        if found.choice is not None:
            if self._stale(session):
                return _CHANGED, "warning"
            words = f"{'In use. ' if self._in_use(session) else ''}{found.choice.words}"
            left_out = found.pool.left_out if found.pool is not None else ""
            return f"{words} {left_out}", "good" if found.choice.changes else ""
        if not found.proposed and not reviewed:
            used = f"The masks after were {session.chosen}. " if session.chosen else ""
            return f"{used}{_ABOUT}", ""
        left = [i for i in found.proposed if i not in reviewed]
        if not left:
            return f"{counted(len(reviewed), noun)} reviewed: weigh, or review more.", ""
        return (
            f"Go to each {noun}, correct what is wrong, and tick “This {noun} is right now”: "
            f"{len(left)} to go.",
            "",
        )

    def _show_list(self, session: Session) -> None:
        reviewed, found = self._context.reviewed.of(session), self.found(session)
        lines = []
        for index in sorted({*reviewed, *found.proposed}):
            sign = "✓" if index in reviewed else "○"
            lines.append((index, f"{sign}  {session.scan.slice_name(index)}"))
        self.list.show_lines(lines)

    def _show_picture(self, session: Session) -> None:
        found = self.found(session)
        self.picture.show_weighing(found.weighing, found.choice, session.card, session.scan)
