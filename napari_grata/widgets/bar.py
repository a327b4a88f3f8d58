"""The bar at the foot of the dock: progress, the one next step, and the legend of structures."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QLineEdit,
    QProgressBar,
    QScrollArea,
    QToolButton,
    QWidget,
)

from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import Sentence, button, column_in, line_in
from napari_grata.widgets.state import DockState, NextStep
from napari_grata.widgets.theme import mark, swatch

#: From so many structures on they are searched for, in a list that scrolls.
MANY = 9
_LIST_HEIGHT = 76


class ProgressLine(QWidget):
    """How far a run is, how long it still takes, Pause and Cancel."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.text = Sentence(1, "grata_muted")
        self.pause_button = button(
            "Pause",
            "Stop after the step in progress; Resume goes on from there.",
            clicked=self._pause_or_resume,
        )
        self.cancel_button = button(
            "Cancel",
            "End after the step in progress and keep what is finished.",
            clicked=context.runner.cancel,
        )
        layout = column_in(self, self.text, spacing=2)
        line_in(layout, (self.bar, 1), self.pause_button, self.cancel_button)
        context.runner.progressed.connect(self.follow)

    def follow(self, done: int, total: int, text: str) -> None:
        """Show how far a run is; a total of 0 means that nobody knows."""
        # No bar that runs to and fro: each of its frames is a redraw of the whole window. And
        # Qt's bar paints itself at once; this way it waits for the redraw that its text brings.
        self.bar.setUpdatesEnabled(False)
        self.bar.setRange(0, total or 1)
        self.bar.setValue(done if total else 0)
        self.bar.setUpdatesEnabled(True)
        self.text.say(text)

    def show_state(self, state: DockState) -> None:
        """Show which buttons are live, and the line only while something runs."""
        running = self._context.runner.kind is not None
        if not running:
            self.follow(0, 0, "")
        self.setVisible(running)
        self.pause_button.setEnabled(state.may_pause)
        self.pause_button.setText(state.pause_text)
        self.cancel_button.setEnabled(state.may_cancel)
        self.cancel_button.setText(state.cancel_text)

    def _pause_or_resume(self) -> None:
        runner = self._context.runner
        runner.resume() if runner.phase == "paused" else runner.pause()


class Legend(QWidget):
    """The structures with their colours: a click hides or shows one, or chooses the brush.

    While the user paints, a click chooses what the brush paints; *Background* erases. Many
    structures scroll, below a line to search them by name.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.search = QLineEdit()
        self.search.setPlaceholderText("find a structure")
        self.search.setAccessibleName("Find a structure")
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._show)
        self._names = QWidget()
        self._lines = column_in(self._names)
        self._lines.setAlignment(Qt.AlignmentFlag.AlignTop)
        self._area = QScrollArea()
        self._area.setWidget(self._names)
        self._area.setWidgetResizable(True)
        self._area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        column_in(self, self.search, self._area)
        self._arranged: list[list[QToolButton]] = []
        self.chips: dict[int, QToolButton] = {}
        context.session_changed.connect(self._fill)
        context.model_changed.connect(self._fill)
        context.painting_changed.connect(self._show)
        context.changed.connect(self._show)
        self._fill()

    def _fill(self) -> None:
        for chip in self.chips.values():
            chip.hide()  # at once; what is deleted later would stand beside the new ones till then
            chip.deleteLater()
        self.chips, self._arranged = {}, []
        entry = self._context.entry
        card = entry.card if entry is not None else None
        structures = [(s.value, s.name, s.colour) for s in card.structures] if card else []
        for value, name, colour in [*structures, (0, "Background", "")]:
            chip = QToolButton(self._names)
            chip.setText(name)
            chip.setIconSize(QSize(12, 12))
            if colour:
                chip.setIcon(swatch(colour))
                chip.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            chip.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            chip.clicked.connect(partial(self._clicked, value))
            self.chips[value] = chip
        self._many = len(structures) >= MANY
        self.search.setVisible(self._many)
        # A few lie on lines that are as high as they need; rounding must not bring a scroll bar.
        shown = Qt.ScrollBarPolicy.ScrollBarAsNeeded
        hidden = Qt.ScrollBarPolicy.ScrollBarAlwaysOff
        self._area.setVerticalScrollBarPolicy(shown if self._many else hidden)
        self.search.clear()
        self._show()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take as many lines as the names need: a name that is cut short names nothing."""
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Put the chips that are in use on as few lines as hold them."""
        lines: list[list[QToolButton]] = [[]]
        bar = self._area.verticalScrollBar() if self._many else None
        whole = room = self.width() - (bar.sizeHint().width() if bar is not None else 0)
        for chip in self.chips.values():
            if chip.isHidden():
                continue
            wide = chip.sizeHint().width() + self._lines.spacing()
            if lines[-1] and wide > room + self._lines.spacing():
                lines.append([])
                room = whole
            lines[-1].append(chip)
            room -= wide
        if lines == self._arranged:
            return
        self._arranged = lines
        for number, chips in enumerate(lines):
            if number == self._lines.count():
                line_in(self._lines, spacing=self._lines.spacing()).addStretch(1)
            found: Any = self._lines.itemAt(number)  # lines stay, empty they take no room
            for place, chip in enumerate(chips):
                found.insertWidget(place, chip)
        high = self._lines.sizeHint().height()
        self._area.setFixedHeight(_LIST_HEIGHT if self._many else high)

    def _clicked(self, value: int, _checked: bool = False) -> None:
        context = self._context
        session = context.session
        if context.painting:
            context.choose_brush(value)
        elif session is not None and value:
            session.set_hidden(session.hidden ^ {value})
            context.touch()
        self._show()

    def _show(self, *_: Any) -> None:
        context = self._context
        session = context.session
        hidden = session.hidden if session is not None else set()
        self.setVisible(session is not None)
        wanted = self.search.text().strip().casefold()
        for value, chip in self.chips.items():
            name = chip.text()
            found = wanted in name.casefold()
            if context.painting:
                words = f"Paint {name}." if value else "Erase."
                chip.setEnabled(True)
            else:
                words = f"Show {name}." if value in hidden else f"Hide {name}."
            chip.setToolTip(words)
            chip.setVisible(context.painting if not value else found)
            font = chip.font()
            font.setStrikeOut(value in hidden)
            chip.setFont(font)
            mark(chip, "chosen", "true" if context.painting and value == context.brush else "false")
        self._arrange()


class NextStepButton(QWidget):
    """The one highlighted button of the dock: what to do next."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._next: NextStep | None = None
        self.button = button("", clicked=self._go)
        mark(self.button, "highlighted", "true")
        column_in(self, self.button)

    def show_next(self, step: NextStep | None) -> None:
        """Offer a step; None: nothing, without a gap. Deciding has buttons of its own."""
        self._next = step
        shown = step is not None and step.name != "decide"
        self.setVisible(shown)
        if step is not None:
            self.button.setText(step.text)
            self.button.setToolTip(step.words)

    def _go(self) -> None:
        context = self._context
        if self._next is not None:
            {
                "adapt": context.runner.adapt,
                "resume": context.runner.resume,
                "region": context.region_requested.emit,
                "look": context.next_flagged,
                "save": context.save_requested.emit,
            }[self._next.name]()
