"""The row that is always in view: five decisions, what they are about, the one in force."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import Sentence, button, choice
from napari_grata.widgets.sheet import mark
from napari_grata.widgets.theme import ThemeColours

SLICE, CASE = "slice", "case"
BUTTONS = (
    ("accept", "Accept", "decide_accept", "The mask after, as it is shown, may be used."),
    ("keep-source", "Keep before", "decide_keep", "The mask before is the better one: use that."),
    ("edit", "Edit", "decide_edit", "Draw on the mask after; what you draw is saved by itself."),
    ("reject", "Reject", "decide_reject", "Neither mask may be used."),
    ("second-reader", "2nd reader", "decide_second", "Somebody else should look at it, too."),
)


class DecideBar(QWidget):
    """Five buttons, the scope, the sentence, and Retry where something could not be written.

    Signals
    -------
    wanted(str)
        One of the verdicts of `napari_grata.review.decisions`.
    scope_changed(), retry_wanted()
    """

    wanted = Signal(str)
    scope_changed = Signal()
    retry_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("grata_decide")
        self.buttons: dict[str, QPushButton] = {}
        self._tips: dict[str, str] = {}
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(3)
        for verdict, title, action, words in BUTTONS:
            self._tips[verdict] = f"{words} Key: {key_of(action)}"
            made = self.buttons[verdict] = button(title, self._tips[verdict])
            made.setSizePolicy(QSizePolicy.Policy.Minimum, QSizePolicy.Policy.Fixed)
            made.setMinimumWidth(0)
            made.clicked.connect(partial(self.wanted.emit, verdict))
            row.addWidget(made, max(4, len(title)))
        self.scope = choice("What a decision is about.", "What a decision is about")
        self.scope.addItem("Slice", SLICE)
        self.scope.addItem("Whole case", CASE)
        self.scope.setMinimumContentsLength(7)
        self.scope.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        self.scope.currentIndexChanged.connect(self._on_scope)
        self.sentence = Sentence(2)
        self.sentence.setObjectName("grata_small")
        self.retry_button = button("Retry", "Try to write again what could not be.", small=True)
        self.retry_button.setVisible(False)
        self.retry_button.clicked.connect(self._on_retry)
        below = QHBoxLayout()
        below.setContentsMargins(0, 0, 0, 0)
        below.setSpacing(5)
        below.addWidget(self.scope)
        below.addWidget(self.sentence, 1)
        below.addWidget(self.retry_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 2, 8, 0)
        layout.setSpacing(2)
        layout.addLayout(row)
        layout.addLayout(below)

    def chosen_scope(self) -> str:
        """Return "slice" or "case"."""
        return str(self.scope.currentData())

    def set_scopes(self, several: bool, noun: str) -> None:
        """Offer single slices only where a case has several; a lone picture is its case."""
        with QSignalBlocker(self.scope):
            self.scope.setItemText(0, noun.capitalize())
            self.scope.setItemText(1, "Whole case" if noun == "slice" else "All of them")
            if several != self.scope.isEnabled():
                self.scope.setEnabled(several)
                self.scope.setCurrentIndex(0 if several else 1)
        self.scope.setVisible(several)

    def choose_scope(self, scope: str) -> None:
        """Choose "slice" or "case"."""
        self.scope.setCurrentIndex(0 if scope == SLICE else 1)

    def set_live(self, reasons: dict[str, str]) -> None:
        """Switch buttons on, but those for which there is a reason against it."""
        for verdict, made in self.buttons.items():
            reason = reasons.get(verdict, "")
            made.setEnabled(not reason)
            made.setToolTip(reason or self._tips[verdict])

    def show_decision(self, verdict: str | None, sentence: str, tone: str) -> None:
        """Mark the decision in force and say it; tone "plain", "warning" or "wrong"."""
        for name, made in self.buttons.items():
            mark(made, "inforce", "true" if name == verdict else "false")
        self.sentence.say(sentence)
        mark(self.sentence, "tone", tone)

    def offer_retry(self, wanted: bool) -> None:
        """Show the button to write again, or not."""
        self.retry_button.setVisible(wanted)

    def set_colours(self, colours: ThemeColours) -> None:
        """Take the colours of a theme."""
        self.setStyleSheet(
            "QWidget#grata_decide QPushButton {padding: 3px 3px; border: 1px solid transparent;}"
            'QWidget#grata_decide QPushButton[inforce="true"] {'
            f"border: 1px solid {colours.text}; font-weight: bold; text-decoration: underline;}}"
            f"QWidget#grata_decide QPushButton:focus {{border: 1px solid {colours.accent};}}"
            f'QLabel#grata_small[tone="warning"] {{color: {colours.attention};}}'
            f'QLabel#grata_small[tone="wrong"] {{color: {colours.wrong};}}'
        )

    def _on_scope(self, _index: int) -> None:
        self.scope_changed.emit()

    def _on_retry(self) -> None:
        self.retry_wanted.emit()
