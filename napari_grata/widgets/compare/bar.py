"""The row of buttons for the ways to compare."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

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
    """

    wanted = Signal(str)

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
            layout.addWidget(made, number // 3, number % 3)
        self.set_reasons({})

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
