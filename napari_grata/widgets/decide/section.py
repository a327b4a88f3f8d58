"""Section 6: what goes with a decision, and the decisions so far."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QRegularExpression, QSignalBlocker, Qt, Signal
from qtpy.QtGui import QRegularExpressionValidator
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QWidget,
)

from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import Section, button, choice
from napari_grata.widgets.theme import tip

DIFFICULTIES = (("–", ""), ("easy", "easy"), ("moderate", "moderate"), ("hard", "hard"))
_SHOWN = 4


class DecideSection(Section):
    """Comment, difficulty, initials, the list of decisions, undo and redo.

    Signals
    -------
    noted()
        Comment or difficulty have been changed by the person.
    reviewer_changed(str)
    step_on_changed(bool), go_on_changed(bool)
    undo_wanted(), redo_wanted()
    place_wanted(int)
        The person chose a decision on this slice in the list.
    """

    noted = Signal()
    reviewer_changed = Signal(str)
    step_on_changed = Signal(bool)
    go_on_changed = Signal(bool)
    undo_wanted = Signal()
    redo_wanted = Signal()
    place_wanted = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(6, "Decide", parent)
        self._lines: list[tuple[int | None, str]] = []
        self.progress = QLabel()
        self.progress.setObjectName("grata_small")
        self.add_to_heading(self.progress)
        self.comment = QLineEdit()
        self.comment.setPlaceholderText("goes with the decision")
        self.comment.setAccessibleName("Comment")
        self.comment.setMaxLength(500)
        self.comment.setToolTip("Goes with the decision. Never a patient's name.")
        self.difficulty = choice("How hard it was to decide.", "Difficulty")
        self.difficulty.setMinimumContentsLength(5)
        for title, value in DIFFICULTIES:
            self.difficulty.addItem(title, value)
        self.reviewer = QLineEdit()
        self.reviewer.setAccessibleName("Your initials")
        self.reviewer.setPlaceholderText("AB")
        self.reviewer.setMaxLength(5)
        self.reviewer.setFixedWidth(58)
        self.reviewer.setToolTip(
            tip("Your initials, up to five letters; remembered. Never a patient's name.")
        )
        letters = QRegularExpression("[^\\W\\d_]{0,5}")
        self.reviewer.setValidator(QRegularExpressionValidator(letters, self.reviewer))
        initials = QLabel("Initials")
        initials.setBuddy(self.reviewer)
        self.step_on = QCheckBox("slice")
        self.step_on.setAccessibleName("Go on to the next slice after a decision")
        self.step_on.setToolTip("After a decision on a slice go to the next one without any.")
        self.go_on = QCheckBox("case")
        self.go_on.setAccessibleName("Go on to the next case after a decision")
        self.go_on.setToolTip("After a decision on a case of a list go to the next one.")
        self.list = QListWidget()
        self.list.setAccessibleName("Decisions on this case, the latest first")
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setToolTip("The decisions in force. A click goes to the slice.")
        self.undo_button = button(
            "Undo", f"Take the latest decision back. Key: {key_of('undo_decision')}"
        )
        self.redo_button = button("Redo", "Put in force again what was undone last.")
        ways = QWidget()
        beside = QHBoxLayout(ways)
        beside.setContentsMargins(0, 0, 0, 0)
        beside.setSpacing(8)
        beside.addWidget(QLabel("Then go on to the next"))
        beside.addWidget(self.step_on)
        beside.addWidget(self.go_on)
        beside.addStretch(1)
        below = QWidget()
        line = QHBoxLayout(below)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.undo_button, 1)
        line.addWidget(self.redo_button, 1)
        comment = QLabel("Comment")
        comment.setBuddy(self.comment)
        self.body.addWidget(_beside(comment, self.comment))
        difficulty = QLabel("Difficulty")
        difficulty.setBuddy(self.difficulty)
        self.body.addWidget(_beside(difficulty, self.difficulty, initials, self.reviewer))
        self.body.addWidget(ways)
        self.body.addWidget(self.list)
        self.body.addWidget(below)
        self.comment.editingFinished.connect(self._on_noted)
        self.difficulty.activated.connect(self._on_noted)
        self.reviewer.textEdited.connect(self._on_reviewer)
        self.step_on.toggled.connect(self.step_on_changed)
        self.go_on.toggled.connect(self.go_on_changed)
        self.undo_button.clicked.connect(self._on_undo)
        self.redo_button.clicked.connect(self._on_redo)
        self.list.itemActivated.connect(self._on_item)
        self.list.itemClicked.connect(self._on_item)
        self.show_decisions([])

    def note(self) -> tuple[str, str]:
        """Return comment and difficulty as they stand."""
        return self.comment.text().strip(), str(self.difficulty.currentData())

    def set_note(self, comment: str, difficulty: str) -> None:
        """Show comment and difficulty, without a signal."""
        with QSignalBlocker(self.comment), QSignalBlocker(self.difficulty):
            if self.comment.text().strip() != comment:
                self.comment.setText(comment)
            at = self.difficulty.findData(difficulty)
            self.difficulty.setCurrentIndex(max(0, at))

    def initials(self) -> str:
        """Return the reviewer's initials."""
        return self.reviewer.text().strip()

    def restore(self, initials: str, step_on: bool, go_on: bool) -> None:
        """Take what was remembered, without signals."""
        with (
            QSignalBlocker(self.reviewer),
            QSignalBlocker(self.step_on),
            QSignalBlocker(self.go_on),
        ):
            self.reviewer.setText(initials[:5] if initials.isalpha() else "")
            self.step_on.setChecked(step_on)
            self.go_on.setChecked(go_on)

    def show_decisions(self, lines: Sequence[tuple[int | None, str]]) -> None:
        """Show decisions, each with the slice that it is about, the latest first."""
        if list(lines) != self._lines:
            self._lines = list(lines)
            self.list.clear()
            for index, text in lines:
                item = QListWidgetItem(text)
                item.setData(Qt.ItemDataRole.UserRole, index)
                item.setToolTip(tip(text))
                self.list.addItem(item)
        height = self.list.fontMetrics().height() + 5
        self.list.setFixedHeight(_SHOWN * height + 6)

    def _on_noted(self, *_: object) -> None:
        self.noted.emit()

    def _on_reviewer(self, text: str) -> None:
        self.reviewer_changed.emit(text.strip())

    def _on_undo(self) -> None:
        self.undo_wanted.emit()

    def _on_redo(self) -> None:
        self.redo_wanted.emit()

    def _on_item(self, item: QListWidgetItem) -> None:
        index = item.data(Qt.ItemDataRole.UserRole)
        if index is not None:
            self.place_wanted.emit(int(index))


def _beside(name: QLabel, *widgets: QWidget) -> QWidget:
    """Return a line of the section; its names are longer than those of the rest of the dock."""
    line = QWidget()
    layout = QHBoxLayout(line)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(6)
    name.setMinimumWidth(name.fontMetrics().horizontalAdvance("Difficulty") + 12)
    layout.addWidget(name)
    for index, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if index == 0 else 0)
    return line
