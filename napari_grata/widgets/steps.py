"""Back and forth through an adaptation: curves, time slider, and the mask as it was at a step."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import QComboBox, QMenu, QSlider, QVBoxLayout, QWidget

from napari_grata.widgets import keys, tasks
from napari_grata.widgets.background import Found, Outcome, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.curves import ABOUT, PAIRS, Curves
from napari_grata.widgets.mask_layer import SliceLayer
from napari_grata.widgets.qt_parts import (
    Sentence,
    button,
    choice,
    column_in,
    line_in,
    menu_entry,
)
from napari_grata.widgets.reviewed import Masks
from napari_grata.widgets.session import Session
from napari_grata.widgets.slice_figures import AreaUnit, pixel_area
from napari_grata.widgets.theme import tip
from napari_grata.widgets.undo import MaskSnapshot, Undoable

CACHE_BYTES = 48 * 2**20
RESULT = -1
_SIDE_WIDTH = 196
_Question = tuple[int, int]  # after which step, of which slice


class StepSlider(QSlider):
    """A slider over the steps 0 … n of a run, drawn on the axis of the curves above it.

    At its right end, one further, stands the result itself.

    Signals
    -------
    moved(int)
        The user wants to see the mask after this step; `RESULT`: the result.
    """

    moved = Signal(int)

    def __init__(self, context: Context) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._context = context
        self.axis = (0.0, 1.0, 0.0, 1.0)
        self.setAccessibleName("Step of the adaptation")
        self.setToolTip(
            tip(
                "The mask of the slice in view as the model was after each step; 0 is before any. "
                "At the right end the result itself is shown. Keys: ← → one step, Page up and "
                "down five, Home and End."
            )
        )
        self.setPageStep(5)
        self.setFixedHeight(18)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.valueChanged.connect(self._on_value)
        self.offer(0, None)

    def offer(self, last: int, step: int | None) -> None:
        """Offer the steps 0 … ``last`` and stand at one, None: at the result; emits nothing.

        Without steps the slider is switched off.
        """
        self.blockSignals(True)
        self.setRange(0, last + 1 if last else 0)
        self.setValue(self.maximum() if step is None else min(step, last))
        self.blockSignals(False)
        self.setEnabled(last > 0)
        self.update()

    def last(self) -> int:
        """Return the last step there is, 0 without any."""
        return max(0, self.maximum() - 1)

    def step(self) -> int:
        """Return the step that is shown, or `RESULT`."""
        return RESULT if self.value() == self.maximum() else self.value()

    def place(self, value: int) -> float:
        """Return the pixel of a step, or, one beyond the last, of the result."""
        left, right, low, high = self.axis
        if value > self.last():
            return right - 4
        return left + (value - low) / (high - low) * (right - left)

    def _on_value(self, _value: int) -> None:
        self.moved.emit(self.step())

    def _go(self, event: Any) -> None:
        """Go where the mouse is."""
        left, right, low, high = self.axis
        x = event.pos().x()
        beyond = x > (self.place(self.last()) + self.place(self.maximum())) / 2
        step = round(low + (x - left) / max(right - left, 1.0) * (high - low))
        self.setValue(self.maximum() if beyond else min(step, self.last()))

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go where the mouse is; the handle may be anywhere."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._go(event)

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Follow the mouse."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the groove, the result's end and the handle."""
        left, right, *_ = self.axis
        middle, colours, there = self.height() / 2, self._context.theme, self.isEnabled()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(QColor(colours.grid), 3 if there else 1))
        first = max(left, self.place(0)) if there else left
        end = min(right, self.place(self.last())) if there else right
        painter.drawLine(QPointF(first, middle), QPointF(end, middle))
        if there:
            result = self.place(self.maximum())
            painter.drawLine(QPointF(result, middle - 5), QPointF(result, middle + 5))
            where = min(max(self.place(self.value()), left), right)
            away = self.step() != RESULT
            painter.setPen(QColor(colours.text if self.hasFocus() else colours.background))
            painter.setBrush(QColor(colours.accent if away else colours.muted))
            painter.drawRoundedRect(QRectF(where - 4, middle - 7, 8, 14), 3, 3)
        painter.end()


class StepsSection(QWidget):
    """Curves with the time slider under them; shows the mask after a step, and takes it."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._queue = Queue("steps", self, context.connections)
        self._cache: dict[_Question, np.ndarray] = {}
        self._preview: SliceLayer | None = None
        self._looking_back = False
        self._seen = False, False  # source and adapted mask, before a step took their place
        self._of: Session | None = None
        self._build()
        self._wire()

    def _build(self) -> None:
        context = self._context
        self.curves = Curves(context)
        self.slider = StepSlider(context)
        self.pair = choice(tip(ABOUT), "Which curves are shown")
        self.pair.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.pair.addItems(list(PAIRS))
        self.words = Sentence(3, "grata_small")
        self.use_button = button(
            "Use this state",
            "Take the masks after, on all slices, from the model as it was after this step. What "
            "you drew is kept in a layer of its own. Undo takes it back.",
            clicked=self.use,
        )
        self.go_button = button("Go to", "Go to what is worth a look.", small=True)
        menu = QMenu(self.go_button)
        for name in ("largest_change", "lowest_similarity", "first_flag"):
            text = f"{name.replace('_', ' ').capitalize()}\t{keys.BY_NAME[name].key}"
            menu_entry(menu, text, partial(context.actions.perform, name))
        self.go_button.setMenu(menu)
        side = QWidget()
        side.setFixedWidth(_SIDE_WIDTH)
        line = line_in(column_in(self), spacing=6)
        left = QVBoxLayout()
        line.addLayout(left, 1)
        left.setSpacing(0)
        left.addWidget(self.curves, 1)
        left.addWidget(self.slider)
        line.addWidget(side)
        right = column_in(side, self.pair, self.words, spacing=3)
        right.addStretch(1)
        line_in(right, (self.use_button, 1), self.go_button)

    def _wire(self) -> None:
        context = self._context
        self.slider.moved.connect(self._on_moved)
        self.pair.currentTextChanged.connect(self.curves.show_pair)
        self.curves.step_chosen.connect(self._on_chosen)
        self.curves.axis_changed.connect(self._on_axis)
        self.curves.hovered.connect(self._say)
        self._queue.found.connect(self._on_found)
        context.changed.connect(self.refresh)
        context.session_changed.connect(self._on_session)
        context.step_changed.connect(self._on_step)
        context.slice_changed.connect(self._look)
        context.runner.changed.connect(self.refresh)
        provide = context.actions.provide
        provide("use_state", self.use, self._why_no_use)
        provide("largest_change", self.largest_change, self._why_no_jump)
        provide("lowest_similarity", self.lowest_similarity, self._why_no_jump)
        provide("first_flag", self.first_flag, self._why_no_jump)
        self.refresh()

    # --- what is shown -----------------------------------------------------------------------

    def session(self) -> Session | None:
        """Return the session in view if its run is at rest and has steps to go through."""
        session = self._context.session
        at_rest = session is not None and session.run is not None and not session.busy
        return session if session is not None and at_rest and _last_step(session) else None

    def refresh(self) -> None:
        """Offer the steps of the run in view, if it is at rest and has any."""
        session, step = self.session(), self._context.step
        last = _last_step(session) if session is not None else 0
        if last != self.slider.last():
            self._cache.clear()
            self.slider.offer(last, step)
        back = step is None and session is not None and not _is_own(session)
        self.use_button.setText("Use the result" if back else "Use this state")
        self.use_button.setEnabled(not self._why_no_use())
        self.go_button.setEnabled(not self._why_no_jump())
        self._say()

    def _say(self) -> None:
        """Say what lies under the cursor, else where the slider stands."""
        curves, step, session = self.curves, self._context.step, self.session()
        last = self.slider.last()
        if curves.hovered_row is not None:
            words = curves.describe(curves.hovered_row)
        elif session is None:
            words = "Steps can be gone through after a run." if curves.data.rows else ""
        elif step is None:
            taken = session.taken_step
            words = "Result of the run" if taken is None else f"In use: {_words(taken)} of {last}"
            words = f"In use: {session.chosen}" if session.chosen else words
            words = " · ".join(part for part in (words, curves.marks()) if part)
        else:
            words, row = f"After step {step} of {last}", curves.data.at(step)
            if row is not None and curves.data.steps[row] == step:
                words += " · " + curves.describe(row).split(" · ", 1)[1]
        self.words.say(words)

    def _on_axis(self) -> None:
        left, right, low, high = self.curves.axis()
        offset = self.curves.x() - self.slider.x()
        self.slider.axis = (left + offset, right + offset, low, high)
        self.slider.update()

    # --- looking back ------------------------------------------------------------------------

    def _on_moved(self, step: int) -> None:
        session = self.session()
        if session is None or step == RESULT:
            self._context.look_back(None)
            return
        # Of a long run not every state is kept: the next one that is, the way the user goes.
        kept, now = session.run.past.steps, self._context.step
        back = now is None or step < now
        step = kept[max(bisect_right(kept, step) - 1, 0) if back else bisect_left(kept, step)]
        self._context.look_back(step)
        self.slider.offer(self.slider.last(), step)

    def _on_chosen(self, slice_index: int, step: int) -> None:
        self._context.go_to(slice_index)
        if self.session() is not None and 0 <= step <= self.slider.last():
            self._on_moved(step)

    def _on_session(self) -> None:
        if self._context.session is not self._of or self.session() is None:
            self._hide()
            if self._preview is not None:
                self._preview.remove()
                self._preview = None
            self._context.look_back(None)
        self._cache.clear()
        self._of = self._context.session
        self.slider.offer(self.slider.last(), self._context.step)
        self.refresh()

    def _on_step(self, step: int | None) -> None:
        self.slider.offer(self.slider.last(), step)
        if step is None:
            self._queue.keep_only(())
            self._hide()
        self._look()
        self.refresh()

    def _look(self, _index: int = 0) -> None:
        """Show the step on the slice in view: kept, or as soon as it is predicted."""
        session, step = self.session(), self._context.step
        if session is None or step is None:
            return
        question = step, self._context.in_view()
        kept = self._cache.pop(question, None)
        if kept is None:
            self._queue.ask("preview", partial(_predict, session.run, question))
        else:
            self._queue.keep_only(())
            self._show(session, question, kept)

    def _on_found(self, found: Found) -> None:
        context, session = self._context, self.session()
        if found.error is not None:
            if context.step is not None:
                context.fail(describe(found.error), found.details)
            return
        run, question, label_map = found.result
        if session is not None and session.run is run:
            if question == (context.step, context.in_view()):
                self._show(session, question, label_map)
            else:
                self._keep(question, label_map)

    def _keep(self, question: _Question, label_map: np.ndarray) -> None:
        """Keep a mask; those that were not wanted for longest go."""
        self._cache[question] = label_map
        while sum(mask.nbytes for mask in self._cache.values()) > CACHE_BYTES:
            del self._cache[next(iter(self._cache))]

    def _show(self, session: Session, question: _Question, label_map: np.ndarray) -> None:
        self._keep(question, label_map)
        if self._preview is None:
            self._preview = SliceLayer(
                session.viewer,
                session.scan,
                f"{session.scan.name} step",
                session.colours,
                session.scan_layer(),
            )
        self._preview.set_looks(
            session.shown_colours,
            session.opacity,
            session.adapted.layer.contour if session.adapted.layer is not None else 0,
        )
        self._preview.show(question[1], label_map)
        self._looking_back = True
        seen = session.source.visible, session.adapted.visible
        if any(seen):
            self._seen = seen
            session.show_masks(source=False, adapted=False)
        session.show_difference_layer(False)

    def _hide(self) -> None:
        """Put the preview away and show the result again."""
        if self._preview is not None and self._looking_back:
            self._looking_back = False
            self._preview.hide()
            seen, self._seen = self._seen, (False, False)
            if self._of is not None and self._of is self._context.session:
                self._of.show_masks(source=seen[0], adapted=seen[1])
                self._context.apply_plain_mode(self._of)

    # --- taking a state ----------------------------------------------------------------------

    def _why_no_use(self) -> str:
        session, busy = self.session(), self._context.runner.why_busy()
        if session is None:
            return busy or "There are no steps to go back to."
        if self._context.step is None and _is_own(session):
            return "The result of the run is in use; move the slider to a step first."
        return busy

    def use(self) -> None:
        """Take the masks after from the model as it was after the step in view."""
        session, step = self.session(), self._context.step
        if session is not None and not self._why_no_use():
            kept: list[MaskSnapshot] = []
            make = partial(_take, session, step, kept)
            right = self._context.reviewed.of(session)
            self._start(session, make, step, partial(self._used, session, step, kept, right))

    def _start(
        self, session: Session, make: Any, step: int | None, ended: Callable[[bool], None]
    ) -> None:
        self._context.look_back(None)
        session.hide_difference()
        session.saved = ""
        then = partial(self._on_done, session, ended)
        self._context.runner.start("masks", session, make, f"Going to {_words(step)}", then)

    def _used(
        self,
        session: Session,
        step: int | None,
        kept: list[MaskSnapshot],
        right: Masks,
        done: bool,
    ) -> None:
        """The masks of another state are there, or (not ``done``) the job ended before."""
        if not done:
            for before in kept:
                before.put_back(session)
            return
        session.taken_step, session.chosen = step, ""
        # What was drawn is in a layer of its own now, unless its slice has no adapted mask.
        session.drawn_slices = {i for i in kept[0].drawn if session.adapted.drawn_on(i)}
        states: list[MaskSnapshot | None] = [kept[0], None]
        self._context.undo.push(
            Undoable(
                f"using {_words(step)}",
                partial(self._go_to_state, session, states, 0, right),
                partial(self._go_to_state, session, states, 1),
                owner=session,
                why_not=self._context.runner.why_busy,
            )
        )

    def _go_to_state(
        self,
        session: Session,
        states: list[MaskSnapshot | None],
        to: int,
        right: Masks | None = None,
    ) -> None:
        """Undo (``to`` 0) the taking of a state, or do it again (1); ``right``: called so then."""
        wanted, kept = states[to], list[MaskSnapshot]()
        if wanted is not None:
            make = partial(_give_back, session, wanted, kept)
            ended = partial(self._went, session, states, to, kept, right)
            self._start(session, make, wanted.step, ended)

    def _went(
        self,
        session: Session,
        states: list[MaskSnapshot | None],
        to: int,
        kept: list[MaskSnapshot],
        right: Masks | None,
        done: bool,
    ) -> None:
        wanted = states[to]
        if kept and (done or states[1 - to] is None):
            states[1 - to] = kept[0]
        if done and wanted is not None:
            wanted.put_back(session)
            if right is not None:
                self._context.reviewed.replace(session, right)

    def _on_done(self, session: Session, ended: Callable[[bool], None], outcome: Outcome) -> None:
        ended(outcome.kind == "done")
        if outcome.kind == "done":
            session.note, session.note_tone = f"In use: {_words(session.taken_step)}.", ""
        elif outcome.kind == "cancelled":
            session.note, session.note_tone = "Cancelled: the masks are as they were.", ""
        if session is self._context.session:
            self._context.apply_plain_mode(session)
            self._context.take_results()

    # --- jumps -------------------------------------------------------------------------------

    def _why_no_jump(self) -> str:
        session = self._context.session
        if session is None or not session.adapted_slices:
            return "Adapt first."
        return "Wait until the run has ended." if session.busy else ""

    def largest_change(self) -> None:
        """Go to where the adapted mask differs most from the source mask, in area."""
        session, figures = self._context.session, self._context.figures
        row = figures.most_changed()
        if session is None or row is None:
            self._arrive("Nothing was changed: the masks are the same everywhere.")
            return
        parts = row.differing()
        name = max(parts, key=lambda part: parts[part])
        unit = AreaUnit.of(figures.rows.values(), name, pixel_area(session.scan))
        self._arrive(
            f"Largest change: {session.scan.slice_name(row.index)}. {unit.write(parts[name])} "
            f"{unit.name} of {name} differ from the mask before.",
            row.index,
        )

    def lowest_similarity(self) -> None:
        """Go to the step at which the two signals agreed least, on its slice."""
        session = self._context.session
        known = [
            record
            for record in (session.records if session is not None else ())
            if record.cosine is not None and math.isfinite(record.cosine) and not record.undone
        ]
        if session is None or not known:
            self._arrive("This run has no similarity: its method aligns nothing.")
            return
        lowest = min(known, key=lambda record: record.cosine or 0.0)
        cosine = f"{lowest.cosine:.2f}".replace("-", "−")
        self._arrive(
            f"Lowest similarity: {cosine} at step {lowest.step}, "
            f"{session.scan.slice_name(lowest.slice_index)}. The two signals agreed least there.",
            lowest.slice_index,
            lowest.step,
        )

    def first_flag(self) -> None:
        """Go to the first slice, in the order of the run, that needs a look."""
        session = self._context.session
        flagged = session.flagged() if session is not None else []
        if session is None or not flagged:
            self._arrive("Nothing is flagged.")
            return
        order = list(dict.fromkeys(record.slice_index for record in session.records))
        place = {index: number for number, index in enumerate(order)}
        index = min(flagged, key=lambda one: (place.get(one, len(place)), one))
        text = session.flags[index][0].text.rstrip(".")
        self._context.looked = True
        name = session.scan.slice_name(index)
        self._arrive(f"First flag: {name}. {text[:1].upper()}{text[1:]}.", index)

    def _arrive(self, sentence: str, index: int | None = None, step: int | None = None) -> None:
        """Go to a slice and a step (None: the result), and say why."""
        if index is not None:
            self._context.go_to(index)
            there = step is not None and step <= self.slider.last()
            self._on_moved(RESULT if step is None or not there else step)
        self._context.say(sentence)


def _words(step: int | None) -> str:
    return "the result of the run" if step is None else f"the state after step {step}"


def _is_own(session: Session) -> bool:
    """Return whether the masks in use are the run's result."""
    return session.taken_step is None and not session.chosen


def _last_step(session: Session) -> int:
    """Return the last step that a session's run can be taken to, 0 where it learns nothing."""
    run = session.run
    return int(run.past.last_step) if run.settings.learns else 0


def _predict(run: Any, question: _Question) -> tuple[Any, _Question, np.ndarray]:
    """Return the mask of a slice as the model was after a step; runs in the background."""
    step, index = question
    with tasks.leave_room_for_the_interface():
        found = run.predict(index, step)
    return run, question, np.array(found.label_map, dtype=np.uint8)


def _take(session: Session, step: int | None, kept: list[MaskSnapshot]) -> Iterator[Any]:
    """Keep the session, take its run to a step, and predict every slice as the model was then."""
    before = MaskSnapshot(session)
    kept.append(before)
    done = False
    try:
        slices = sorted(session.adapted_slices)
        yield from tasks.masks_at(session.run, RESULT if step is None else step, slices)
        done = True
    finally:
        if not done:  # cancelled, or it failed
            _put_run(before)


def _give_back(session: Session, wanted: MaskSnapshot, kept: list[MaskSnapshot]) -> Iterator[Any]:
    """Keep the session, and take its run to a state that was kept: nothing is predicted."""
    kept.append(MaskSnapshot(session))
    yield tasks.Stage(f"Going to {_words(wanted.step)} …")
    _put_run(wanted)


def _put_run(state: MaskSnapshot) -> None:
    run, step, masks = state.run, state.step, dict(state.masks())
    run.rollback(run.past.last_step if step is None else step)
    if step is not None:
        run.take(step, {**masks, **state.beneath})
    if state.chosen:
        run.choose({i: mask for i, mask in masks.items() if i in state.beneath}, state.chosen)
