"""Section 7 of the dock: buttons for what leaves the program."""

from __future__ import annotations

from functools import partial
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QHBoxLayout, QWidget

from napari_grata.widgets.parts import Section, Sentence, button


class TakeOutSection(Section):
    """Buttons for what leaves the program.

    Signals
    -------
    report_wanted(), masks_wanted(), command_wanted(), show_wanted()
    """

    report_wanted = Signal()
    masks_wanted = Signal()
    command_wanted = Signal()
    show_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(7, "Take out", parent)
        self.report_button = button(
            "Report …",
            "One file with pictures before and after, curves, decisions, settings and versions. "
            "It opens in any browser, without a network, and prints well. Cases carry codes, no "
            "names.",
        )
        self.masks_button = button(
            "Decided masks …",
            "Of all cases of the list: the masks that were accepted, kept or drawn, each on its "
            "scan's own grid, and a table of all cases.",
        )
        self.command_button = button(
            "Copy command",
            "Copy the command line that makes the same masks again. It holds the scan's path.",
        )
        self.names = QCheckBox("Name masks after their scans")
        self.names.setToolTip(
            "Otherwise masks are named case-0001 …; a scan's own name may name a patient."
        )
        self.said = Sentence(2)
        self.said.setObjectName("grata_small")
        self.show_button = button("Show", "Open what was written.", small=True)
        self.show_button.setEnabled(False)
        first, last = QWidget(), QWidget()
        row = QHBoxLayout(first)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        for made in (self.report_button, self.masks_button, self.command_button):
            row.addWidget(made, 1)
        row = QHBoxLayout(last)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.said, 1)
        row.addWidget(self.show_button)
        self.body.addWidget(first)
        self.body.addWidget(self.names)
        self.body.addWidget(last)
        for made, signal in (
            (self.report_button, self.report_wanted),
            (self.masks_button, self.masks_wanted),
            (self.command_button, self.command_wanted),
            (self.show_button, self.show_wanted),
        ):
            made.clicked.connect(partial(_emit, signal))


def _emit(signal: Any, _checked: bool = False) -> None:
    signal.emit()
