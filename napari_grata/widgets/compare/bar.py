"""The row of buttons for the ways to compare."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtGui import QAction, QActionGroup
from qtpy.QtWidgets import QGridLayout, QMenu, QPushButton, QWidget

from napari_grata.widgets.compare.unsure import KINDS
from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import button
from napari_grata.widgets.theme import tip

WAYS = (
    (
        "contours",
        "Contours",
        "Draw the outlines of both masks at once: before thin and dashed, after thick.",
    ),
    (
        "curtain",
        "Curtain",
        "Left of a line in the picture the mask before, right of it the mask after. Drag the "
        "line, or move it with Shift+← and Shift+→.",
    ),
    (
        "side_by_side",
        "Side by side",
        "Two pictures that move together: left the mask before, right the mask after.",
    ),
    (
        "planes",
        "Three planes",
        "Axial, coronal and sagittal through one place; a click in any of them goes there.",
    ),
)


class CompareBar(QWidget):
    """One button for each way to compare; pressed while it is on.

    Signals
    -------
    wanted(str)
        The person pressed the button of this way.
    unsure_wanted(str)
        Show this kind of uncertainty, ``""`` for none.
    all_wanted()
        Measure the uncertainty of all slices.
    """

    wanted = Signal(str)
    unsure_wanted = Signal(str)
    all_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.buttons: dict[str, QPushButton] = {}
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for number, (name, text, _) in enumerate(WAYS):
            made = self.buttons[name] = button(text)
            made.setCheckable(True)
            made.clicked.connect(self._on_clicked)
            # Three in the first row, two in the second.
            first = number < 3
            place = (0, 2 * number, 1, 2) if first else (1, 3 * (number - 3), 1, 3)
            layout.addWidget(made, *place)
        self.unsure_button = button("Uncertainty")
        self.unsure_button.setCheckable(True)
        self.menu = QMenu(self.unsure_button)
        self.menu.setToolTipsVisible(True)
        group = QActionGroup(self.menu)
        self._actions: dict[str, QAction] = {}
        for kind, (title, words, _) in {"": ("Off", "", ""), **KINDS}.items():
            action = self._actions[kind] = QAction(title, self.menu)
            action.setCheckable(True)
            action.setToolTip(words)
            action.setData(kind)
            group.addAction(action)
            self.menu.addAction(action)
        self.menu.addSeparator()
        self.all_action = QAction("Measure all slices", self.menu)
        self.all_action.setToolTip("By itself only the slice in view is measured.")
        self.menu.addAction(self.all_action)
        group.triggered.connect(self._on_kind)
        self.all_action.triggered.connect(self._on_all)
        self.unsure_button.setMenu(self.menu)
        layout.addWidget(self.unsure_button, 1, 3, 1, 3)
        self.set_reasons({})
        self.set_unsure(None, "")

    def set_unsure(self, kind: str | None, reason: str) -> None:
        """Show which kind of uncertainty is on, or why there is none."""
        self._actions[kind or ""].setChecked(True)
        self.unsure_button.setChecked(kind is not None)
        self.unsure_button.setEnabled(kind is not None or not reason)
        words = (
            "Show where the model is unsure, as a layer over the scan: where six views of the "
            "slice disagree, or where the decision is close."
        )
        lines = f"{reason}\n{words}" if reason else words
        self.unsure_button.setToolTip(tip(f"{lines} Key: {key_of('uncertainty')}"))

    def set_reasons(self, reasons: dict[str, str]) -> None:
        """Switch off the ways that do not apply, each with the reason in its tooltip."""
        for name, _, words in WAYS:
            reason = reasons.get(name, "")
            self.buttons[name].setEnabled(not reason)
            lines = f"{reason}\n{words}" if reason else words
            self.buttons[name].setToolTip(tip(f"{lines} Key: {key_of(name)}"))

    def set_pressed(self, names: set[str]) -> None:
        """Show which ways are on."""
        for name, widget in self.buttons.items():
            widget.setChecked(name in names)

    def _on_clicked(self) -> None:
        for name, widget in self.buttons.items():
            if widget is self.sender():
                self.wanted.emit(name)

    def _on_kind(self, action: QAction) -> None:
        self.unsure_wanted.emit(action.data())

    def _on_all(self) -> None:
        self.all_wanted.emit()
