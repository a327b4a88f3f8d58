"""Section 4: compare the masks before and after, keep them, come back to them."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_grata.widgets.features import Slots
from napari_grata.widgets.fold import Fold
from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import Section, Sentence, button
from napari_grata.widgets.slice_table import SliceTable


class ReviewSection(Section):
    """Before and after, difference, the table of slices, saving and reopening.

    Signals
    -------
    toggle_wanted(), difference_wanted(), fill_wanted(), save_wanted(), reopen_wanted()
    """

    toggle_wanted = Signal()
    difference_wanted = Signal()
    fill_wanted = Signal()
    save_wanted = Signal()
    reopen_wanted = Signal()

    def __init__(self, slots: Slots, parent: QWidget | None = None) -> None:
        super().__init__(4, "Review", parent)
        self.toggle_button = button(
            "Before ↔ after",
            f"Switch between the mask before and the mask after. Key: {key_of('toggle_masks')}",
        )
        self.difference_button = button(
            "Difference",
            "Show what was added (blue) and removed (red): of everything, then of each "
            f"structure, then nothing. Key: {key_of('cycle_difference')}",
        )
        self.fill_button = button(
            "Fill",
            "Show the masks as filled areas or as contours: before thin, after thick. "
            f"Key: {key_of('toggle_fill')}",
        )
        line = QWidget()
        layout = QHBoxLayout(line)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.toggle_button, 3)
        layout.addWidget(self.difference_button, 2)
        layout.addWidget(self.fill_button, 1)
        self.body.addWidget(line)
        self.body.addWidget(slots.compare)
        self.shown = Sentence(2)
        self.shown.setObjectName("grata_small")
        self.body.addWidget(self.shown)
        self.table = SliceTable()
        self.fold = Fold("Slices", self.table, key="table", expanded=True)
        self.body.addWidget(self.fold)
        self.body.addWidget(slots.measure)
        self.save_button = button(
            "Save masks …",
            "Write the masks before and after in the scan's own format, on its own grid, with "
            "whatever you have drawn on them.",
        )
        self.reopen_button = button(
            "Open saved run …", "Bring back a run that was saved: layers, curves and table."
        )
        line = QWidget()
        layout = QHBoxLayout(line)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.save_button, 1)
        layout.addWidget(self.reopen_button, 1)
        self.body.addWidget(line)
        self.toggle_button.clicked.connect(self._on_toggle)
        self.difference_button.clicked.connect(self._on_difference)
        self.fill_button.clicked.connect(self._on_fill)
        self.save_button.clicked.connect(self._on_save)
        self.reopen_button.clicked.connect(self._on_reopen)

    def set_live(self, *, compare: bool, save: bool, reopen: bool) -> None:
        """Let the person compare, save and reopen, or not."""
        self.toggle_button.setEnabled(compare)
        self.difference_button.setEnabled(compare)
        self.save_button.setEnabled(save)
        self.reopen_button.setEnabled(reopen)

    def _on_toggle(self) -> None:
        self.toggle_wanted.emit()

    def _on_difference(self) -> None:
        self.difference_wanted.emit()

    def _on_fill(self) -> None:
        self.fill_wanted.emit()

    def _on_save(self) -> None:
        self.save_wanted.emit()

    def _on_reopen(self) -> None:
        self.reopen_wanted.emit()
