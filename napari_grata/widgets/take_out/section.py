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
        self.names = QCheckBox("Name after scans")
        self.names.setToolTip(
            "Name the decided masks after their scans, which may name patients; otherwise they are "
            "named case-0001 …"
        )
        self.said = Sentence(2)
        self.said.setObjectName("grata_small")
        self.show_button = button("Show", "Open what was written.", small=True)
        self.show_button.setEnabled(False)
        for widgets in (
            (self.report_button, self.masks_button),
            (self.names, self.command_button),
            (self.said, self.show_button),
        ):
            line = QWidget()
            row = QHBoxLayout(line)
            row.setContentsMargins(0, 0, 0, 0)
            row.setSpacing(4)
            row.addWidget(widgets[0], 1)
            row.addWidget(widgets[1], 0 if widgets[1] is self.show_button else 1)
            self.body.addWidget(line)
        for made, signal in (
            (self.report_button, self.report_wanted),
            (self.masks_button, self.masks_wanted),
            (self.command_button, self.command_wanted),
            (self.show_button, self.show_wanted),
        ):
            made.clicked.connect(partial(_emit, signal))


def _emit(signal: Any, _checked: bool = False) -> None:
    signal.emit()
