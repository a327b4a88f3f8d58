"""Back and forth through an adaptation: curves, time slider, and the mask as it was at a step."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QMenu,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_grata.widgets import keys, tasks
from napari_grata.widgets.background import Found, Outcome, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.curves import ABOUT, PAIRS, Curves
from napari_grata.widgets.mask_layer import SliceLayer
from napari_grata.widgets.qt_parts import Sentence, button, choice
from napari_grata.widgets.session import MaskSnapshot, Session, Undoable
from napari_grata.widgets.slice_figures import AreaUnit, pixel_area
from napari_grata.widgets.theme import ThemeColours, blend, tip

CACHE_BYTES = 48 * 2**20
_PREVIEW = "preview"
_JUMPS = ("largest_change", "lowest_similarity", "first_flag")
_RESULT = -1
_SIDE_WIDTH = 196


class StepSlider(QSlider):
    """A slider over the steps 0 … n of a run, drawn on the axis of the curves above it.

    At its right end, one further, stands the result itself.

    Signals
    -------
    moved(int)
        The user wants to see the mask after this step; −1: the result.
    """

    moved = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._axis = (0.0, 1.0, 0.0, 1.0)
        self._colours: ThemeColours | None = None
        self.setAccessibleName("Step of the adaptation")
        self.setToolTip(
            tip(
                "The mask of the slice in view as the model was after each step; 0 is before any. "
                "At the right end the result itself is shown. Keys: ← → one step, Page up and "
                "down five, Home and End."
            )
        )
        self.setPageStep(5)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.valueChanged.connect(self._on_value)
        self.set_last(0)

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a line's height."""
        return QSize(200, 18)

    def set_last(self, last: int) -> None:
        """Offer the steps 0 … ``last`` and the result; 0 switches the slider off."""
        self.blockSignals(True)
        at_result = self.step() == _RESULT
        self.setRange(0, last + 1 if last else 0)
        if at_result:
            self.setValue(self.maximum())
        self.blockSignals(False)
        self.setEnabled(last > 0)
        self.update()

    def last(self) -> int:
        """Return the last step there is, 0 without any."""
        return max(0, self.maximum() - 1)

    def step(self) -> int:
        """Return the step that is shown, −1 for the result itself."""
        return _RESULT if self.value() == self.maximum() else self.value()

    def show_step(self, step: int | None) -> None:
        """Stand at a step, or (None) at the result; emits nothing."""
        self.blockSignals(True)
        self.setValue(self.maximum() if step is None else min(step, self.last()))
        self.blockSignals(False)
        self.update()

    def set_axis(self, axis: tuple[float, float, float, float]) -> None:
        """Lie on an axis: its left and right pixel, and the steps there."""
        self._axis = axis
        self.update()

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self._colours = colours
        self.update()

    def place(self, value: int) -> float:
        """Return the pixel of a step; of the value beyond the last: that of the result."""
        left, right, low, high = self._axis
        if value > self.last():
            return right - 4
        return left + (value - low) / (high - low) * (right - left) if high > low else left

    def _on_value(self, _value: int) -> None:
        self.update()
        self.moved.emit(self.step())

    def _go(self, x: float) -> None:
        left, right, low, high = self._axis
        value = round(low + (x - left) / max(right - left, 1.0) * (high - low))
        if x > (self.place(self.last()) + self.place(self.maximum())) / 2:
            value = self.maximum()
        self.setValue(value)

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Go where the mouse is."""
        if event.button() == Qt.MouseButton.LeftButton:
            self._go(QPointF(event.pos()).x())

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Follow the mouse."""
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._go(QPointF(event.pos()).x())

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Nothing more: the handle is where it was let go."""

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the groove, the result's end and the handle."""
        colours = self._colours
        if colours is None:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        left, right, *_ = self._axis
        middle = self.height() / 2
        first, end = max(left, self.place(0)), min(right, self.place(self.last()))
        painter.setPen(QPen(QColor(colours.grid), 3, cap=Qt.PenCapStyle.RoundCap))
        if self.isEnabled() and end > first:
            painter.drawLine(QPointF(first, middle), QPointF(end, middle))
            result = self.place(self.maximum())
            painter.drawLine(QPointF(result, middle - 5), QPointF(result, middle + 5))
            where = min(max(self.place(self.value()), left), right)
            away = self.step() != _RESULT
            painter.setPen(QPen(QColor(colours.text if self.hasFocus() else colours.background), 1))
            painter.setBrush(QColor(colours.accent if away else colours.muted))
            painter.drawRoundedRect(QRectF(where - 4, middle - 7, 8, 14), 3, 3)
        else:
            painter.setPen(QPen(QColor(blend(colours.background, colours.grid, 0.5)), 3))
            painter.drawLine(QPointF(left, middle), QPointF(right, middle))
        painter.end()


class MaskCache:
    """Masks that were asked for lately, by step and slice, up to so many bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def get(self, question: tuple[int, int]) -> np.ndarray | None:
        """Return a mask that is there, and remember that it was wanted."""
        found = self._kept.get(question)
        if found is not None:
            self._kept.move_to_end(question)
        return found

    def put(self, question: tuple[int, int], label_map: np.ndarray) -> None:
        """Keep a mask; those that were not wanted for longest go."""
        old = self._kept.pop(question, None)
        self.nbytes += label_map.nbytes - (0 if old is None else old.nbytes)
        self._kept[question] = label_map
        while self.nbytes > self._limit and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self.nbytes -= gone.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0


@dataclass
class _Change:
    """Another state of a run is taken as the result, or given back.

    Attributes
    ----------
    session : Session
    step : int or None
        The step that is taken; None: the run's result.
    kept : list of MaskSnapshot
        The session as it was before, once the job has packed it.
    wanted : MaskSnapshot or None
        What is put back; None: masks are predicted anew.
    taken : _Taken or None
        Of an Undo: where to keep the state that is left, for Redo.
    """

    session: Session
    step: int | None
    kept: list[MaskSnapshot] = field(default_factory=list)
    wanted: MaskSnapshot | None = None
    taken: _Taken | None = None


@dataclass
class _Taken:
    """The two states between which Undo and Redo go."""

    before: MaskSnapshot
    after: MaskSnapshot | None = None


def _words(step: int | None) -> str:
    return "the result of the run" if step is None else f"the state after step {step}"


def _take(change: _Change) -> Iterator[Any]:
    """Keep the session, take its run to a step, and predict every slice as the model was then."""
    before = MaskSnapshot(change.session)
    change.kept.append(before)
    step = _RESULT if change.step is None else change.step
    done = False
    try:
        yield from tasks.masks_at(change.session.run, step, sorted(change.session.adapted_slices))
        done = True
    finally:
        if not done:  # cancelled, or it failed
            _put_run(before)


def _give_back(change: _Change) -> Iterator[Any]:
    """Keep the session, and take its run to a state that was kept."""
    assert change.wanted is not None
    change.kept.append(MaskSnapshot(change.session))
    yield tasks.Stage(f"Going to {_words(change.wanted.step)} …")
    _put_run(change.wanted)


def _put_run(state: MaskSnapshot) -> None:
    run, step = state.run, state.step
    run.rollback(run.history.last_step if step is None else step)
    if step is not None:
        run.take(step, dict(state.masks()))


class StepsSection(QWidget):
    """Curves with the time slider under them; shows the mask after a step, and takes it.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._queue = Queue("steps", self)
        self._cache = MaskCache()
        self._preview: SliceLayer | None = None
        self._of: Session | None = None
        self._change: _Change | None = None
        self._build()
        self._wire()
        self._show_theme(context.theme)
        self.refresh()

    def _build(self) -> None:
        context = self._context
        self.curves = Curves(context)
        self.slider = StepSlider()
        self.pair = choice(tip(ABOUT), "Which curves are shown")
        self.pair.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.pair.addItems([title for title, *_ in PAIRS])
        self.words = Sentence(3)
        self.words.setObjectName("grata_small")
        self.use_button = button(
            "Use this state",
            "Take the masks after, on all slices, from the model as it was after this step. What "
            "you drew is kept in a layer of its own. Undo takes it back.",
            clicked=self.use,
        )
        self.go_button = QToolButton()
        self.go_button.setText("Go to")
        self.go_button.setToolTip("Go to what is worth a look.")
        self.go_button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.go_button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.go_button.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Preferred)
        menu = QMenu(self.go_button)
        self.jumps = {}
        for name in _JUMPS:
            action = keys.BY_NAME[name]
            text = name.replace("_", " ").capitalize()
            entry = menu.addAction(f"{text}\t{action.key}")
            entry.triggered.connect(partial(context.actions.perform, name))
            self.jumps[name] = entry
        self.go_button.setMenu(menu)
        left = QVBoxLayout()
        left.setSpacing(0)
        left.addWidget(self.curves, 1)
        left.addWidget(self.slider)
        buttons = QHBoxLayout()
        buttons.setSpacing(4)
        buttons.addWidget(self.use_button, 1)
        buttons.addWidget(self.go_button)
        side = QWidget()
        side.setFixedWidth(_SIDE_WIDTH)
        right = QVBoxLayout(side)
        right.setContentsMargins(0, 0, 0, 0)
        right.setSpacing(3)
        right.addWidget(self.pair)
        right.addWidget(self.words)
        right.addStretch(1)
        right.addLayout(buttons)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(left, 1)
        layout.addWidget(side)

    def _wire(self) -> None:
        context = self._context
        self.slider.moved.connect(self._on_moved)
        self.pair.currentIndexChanged.connect(self.curves.show_pair)
        self.curves.step_chosen.connect(self._on_chosen)
        self.curves.axis_changed.connect(self._on_axis)
        self.curves.hovered.connect(self._say)
        self._queue.found.connect(self._on_found)
        context.connections.at_end(self._queue.ender())
        context.changed.connect(self.refresh)
        context.session_changed.connect(self._on_session)
        context.step_changed.connect(self._on_step)
        context.slice_changed.connect(self._look)
        context.theme_changed.connect(self._show_theme)
        context.runner.changed.connect(self.refresh)
        context.runner.ended.connect(self._on_ended)
        provide = context.actions.provide
        provide("use_state", self.use, self._why_no_use)
        provide("largest_change", self.largest_change, self._why_no_jump)
        provide("lowest_similarity", self.lowest_similarity, self._why_no_jump)
        provide("first_flag", self.first_flag, self._why_no_jump)

    # --- what is shown -----------------------------------------------------------------------

    def session(self) -> Session | None:
        """Return the session in view if its run is at rest and can be gone through."""
        session = self._context.session
        if session is None or session.run is None or session.busy:
            return None
        return session if session.run.settings.learns else None

    def refresh(self) -> None:
        """Offer the steps of the run in view, if it is at rest and has any."""
        session = self.session()
        last = session.run.history.last_step if session is not None else 0
        if last != self.slider.last():
            self._cache.clear()
            self.slider.set_last(last)
        back = self._context.step is None and session is not None and session.taken_step is not None
        self.use_button.setText("Use the result" if back else "Use this state")
        why_not = self._why_no_use()
        self.use_button.setEnabled(not why_not)
        self.go_button.setEnabled(not self._why_no_jump())
        self._say()

    def _say(self) -> None:
        """Say what lies under the cursor, else where the slider stands."""
        curves, step, session = self.curves, self._context.step, self.session()
        row = curves.hovered_row
        if row is None and step:
            row = curves.data.row_of_step(step)
        if curves.hovered_row is not None and row is not None:
            self.words.say(curves.describe(row))
            return
        last = self.slider.last()
        if session is None or last < 1:
            words = "Steps can be gone through after a run." if curves.data.steps else ""
        elif step is None:
            words = "Result of the run"
            if session.taken_step is not None:
                words = f"In use: the state after step {session.taken_step} of {last}"
            words = " · ".join(part for part in (words, curves.marks()) if part)
        elif row is None or curves.data.steps[row] != step:
            words = f"After step {step} of {last}"
        else:
            described = curves.describe(row).split(" · ", 1)[1]
            words = f"After step {step} of {last} · {described}"
        self.words.say(words)

    def _on_axis(self) -> None:
        left, right, low, high = self.curves.axis()
        offset = self.curves.x() - self.slider.x()
        self.slider.set_axis((left + offset, right + offset, low, high))

    def _show_theme(self, colours: ThemeColours) -> None:
        self.slider.set_colours(colours)

    # --- looking back ------------------------------------------------------------------------

    def _on_moved(self, step: int) -> None:
        self._context.look_back(None if step == _RESULT else step)

    def _on_chosen(self, slice_index: int, step: int) -> None:
        self._context.go_to(slice_index)
        if self.session() is not None and 0 <= step <= self.slider.last():
            self._context.look_back(step)

    def _on_session(self) -> None:
        if self._context.session is not self._of or self.session() is None:
            self._hide()
            self._context.look_back(None)
        self._cache.clear()
        self._of = self._context.session
        self.slider.show_step(self._context.step)
        self.refresh()

    def _on_step(self, step: int | None) -> None:
        self.slider.show_step(step)
        if step is None:
            self._queue.keep_only(())
            self._hide()
        else:
            self._look()
        self._say()

    def _look(self, _index: int = 0) -> None:
        """Show the step on the slice in view: kept, or as soon as it is predicted."""
        session, step = self.session(), self._context.step
        if session is None or step is None:
            return
        question = (step, self._context.in_view())
        kept = self._cache.get(question)
        if kept is None:
            self._queue.ask(_PREVIEW, partial(_predict, session.run, question))
        else:
            self._queue.keep_only(())
            self._show(session, question[1], kept)

    def _on_found(self, found: Found) -> None:
        session, step = self.session(), self._context.step
        if found.error is not None:
            if step is not None:
                self._context.fail(describe(found.error), found.details)
            return
        run, question, label_map = found.result
        if session is None or session.run is not run:
            return
        self._cache.put(question, label_map)
        if question == (step, self._context.in_view()):
            self._show(session, question[1], label_map)

    def _show(self, session: Session, index: int, label_map: np.ndarray) -> None:
        if self._preview is None:
            colours = {
                value: "transparent" if value in session.hidden else colour
                for value, colour in session.colours.items()
            }
            self._preview = SliceLayer(
                session.viewer,
                session.scan,
                f"{session.scan.name} step",
                colours,
                session.scan_layer(),
                contour=0 if session.filled else 2,
                opacity=0.45 if session.filled else 0.9,
            )
        self._preview.show(index, label_map)
        if session.source.visible or session.adapted.visible:
            session.show_masks(source=False, adapted=False)
        session.show_difference_layer(False)

    def _hide(self) -> None:
        """Take the preview away and show the result again."""
        preview, self._preview = self._preview, None
        if preview is None:
            return
        preview.remove()
        if self._of is not None and self._of is self._context.session:
            self._context.apply_plain_mode(self._of)
            self._of.show_difference_layer(True)

    # --- taking a state ----------------------------------------------------------------------

    def _why_no_use(self) -> str:
        if self._context.runner.kind is not None:
            return "A run is going on; wait for its end, or cancel it."
        session = self.session()
        if session is None:
            return "There are no steps to go back to."
        if self._context.step is None and session.taken_step is None:
            return "The result of the run is in use; move the slider to a step first."
        return ""

    def use(self) -> None:
        """Take the masks after from the model as it was after the step in view."""
        session, step = self.session(), self._context.step
        if session is not None and not self._why_no_use():
            words = "Going back to the result" if step is None else f"Going to step {step}"
            change = _Change(session, step)
            self._start(change, partial(_take, change), words)

    def _go_back(self, session: Session, taken: _Taken, *, redo: bool) -> None:
        """Undo taking a state, or do it again."""
        wanted = taken.after if redo else taken.before
        if wanted is not None:
            change = _Change(session, wanted.step, wanted=wanted, taken=None if redo else taken)
            self._start(change, partial(_give_back, change), f"Going to {_words(wanted.step)}")

    def _start(self, change: _Change, make: Any, words: str) -> None:
        self._context.look_back(None)
        change.session.hide_difference()
        self._change = change
        self._context.start("masks", change.session, make, words)

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        context, change = self._context, self._change
        self._change = None
        if change is None or kind != "masks" or context.runner.session is not change.session:
            return
        session = change.session
        if change.taken is not None and change.kept:
            change.taken.after = change.kept[0]
        if outcome.kind == "done":
            self._settle(change)
        elif change.kept:
            change.kept[0].put_back(session)
            if outcome.kind == "cancelled":
                session.note = "Cancelled: the masks are as they were."
        if session is context.session:
            context.apply_plain_mode(session)
            context.take_results()

    def _settle(self, change: _Change) -> None:
        """The masks of another state are there: the session says so, and Undo can go back."""
        session, before = change.session, change.kept[0]
        if change.wanted is not None:
            change.wanted.put_back(session)
        else:
            session.taken_step = change.step
            # What was drawn is in a layer of its own now, unless its slice has no adapted mask.
            session.drawn_slices = {i for i in before.drawn if session.adapted.drawn_on(i)}
            taken = _Taken(before)
            self._context.undo.push(
                Undoable(
                    f"using {_words(change.step)}",
                    partial(self._go_back, session, taken, redo=False),
                    partial(self._go_back, session, taken, redo=True),
                    owner=session,
                    why_not=self._why_busy,
                )
            )
        session.saved = False
        session.note, session.note_tone = f"In use: {_words(session.taken_step)}.", ""

    def _why_busy(self) -> str:
        busy = self._context.runner.kind is not None
        return "A run is going on; wait for its end, or cancel it." if busy else ""

    # --- jumps -------------------------------------------------------------------------------

    def _why_no_jump(self) -> str:
        session = self._context.session
        if session is None or not session.adapted_slices:
            return "Adapt first."
        return "Wait until the run has ended." if session.busy else ""

    def largest_change(self) -> None:
        """Go to where the adapted mask differs most from the source mask, in area."""
        session, row = self._context.session, self._context.figures.most_changed()
        if session is None:
            return
        if row is None:
            self._arrive(None, None, "Nothing was changed: the masks are the same everywhere.")
            return
        parts = row.differing()
        name = max(parts, key=lambda part: parts[part])
        unit = AreaUnit.of(self._context.figures.rows.values(), name, pixel_area(session.scan))
        amount = f"{unit.write(parts[name])} {unit.name}"
        self._arrive(
            row.index,
            None,
            f"Largest change: {session.scan.slice_name(row.index)}. {amount} of {name} differ "
            "from the mask before.",
        )

    def lowest_similarity(self) -> None:
        """Go to the step at which the two signals agreed least, on its slice."""
        session = self._context.session
        known = [
            record
            for record in (session.records if session is not None else ())
            if record.phase == "adapt"
            and not record.undone
            and record.cosine is not None
            and math.isfinite(record.cosine)
        ]
        if session is None or not known:
            self._arrive(None, None, "This run has no similarity: its method aligns nothing.")
            return
        lowest = min(known, key=lambda record: record.cosine or 0.0)
        cosine = f"{lowest.cosine:.2f}".replace("-", "−")
        self._arrive(
            lowest.slice_index,
            lowest.step,
            f"Lowest similarity: {cosine} at step {lowest.step}, "
            f"{session.scan.slice_name(lowest.slice_index)}. The two signals agreed least there.",
        )

    def first_flag(self) -> None:
        """Go to the first slice, in the order of the run, that needs a look."""
        session = self._context.session
        flagged = session.flagged() if session is not None else []
        if session is None or not flagged:
            noun = session.scan.noun if session is not None else "slice"
            self._arrive(None, None, f"No {noun} is flagged.")
            return
        order: dict[int, int] = {}
        for record in session.records:
            order.setdefault(record.slice_index, len(order))
        index = min(flagged, key=lambda one: (order.get(one, len(order)), one))
        text = session.flags[index][0].text.rstrip(".")
        self._context.looked = True
        self._arrive(
            index,
            None,
            f"First flag: {session.scan.slice_name(index)}. {text[:1].upper()}{text[1:]}.",
        )

    def _arrive(self, index: int | None, step: int | None, sentence: str) -> None:
        """Go to a slice and a step (None: the result), and say why."""
        context = self._context
        if index is not None:
            context.go_to(index)
            there = self.session() is not None and step is not None and step <= self.slider.last()
            context.look_back(step if there else None)
        context.say(sentence)


def _predict(run: Any, question: tuple[int, int]) -> tuple[Any, tuple[int, int], np.ndarray]:
    """Return the mask of a slice as the model was after a step; runs in the background."""
    step, index = question
    with tasks.leave_room_for_the_interface():
        found = run.predict(index, step)
    return run, question, np.array(found.label_map, dtype=np.uint8)
