"""Parts of the dock that stand on their own: each finds its place, listens, and does its work.

A feature is a QObject made with the dock as its parent. It puts its widgets into one of the dock's
`Slots`, listens to the dock's desk and runner, names what its keys do in ``dock.verbs``, and leaves
the dock itself as it is.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QVBoxLayout, QWidget


class Slot(QWidget):
    """A place in the dock; empty it takes no room."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(6)
        self.setVisible(False)

    def add(self, widget: QWidget) -> None:
        """Put a widget below those that are there."""
        self._column.addWidget(widget)
        self.setVisible(True)


class Slots:
    """The places for features, named after what they hold, in the order of the work.

    Attributes
    ----------
    shift : Slot
        Under the model: how far the scan is from the source centre.
    compare, measure : Slot
        In the review section: under its first row of buttons, and under the table of slices.
    correct, decide, take_out : Slot
        Sections of their own below the review section.
    bar : Slot
        Always in view, above the progress bar.
    """

    def __init__(self) -> None:
        self.shift, self.compare, self.measure = Slot(), Slot(), Slot()
        self.correct, self.decide, self.take_out = Slot(), Slot(), Slot()
        self.bar = Slot()


def add_features(dock: Any) -> None:
    """Make all features of a dock that is otherwise complete."""
    # Imported here: features know the dock's parts, and one of these imports this module.
    from napari_grata.widgets.cases.feature import Cases
    from napari_grata.widgets.compare.feature import Compare
    from napari_grata.widgets.correct.feature import Correct
    from napari_grata.widgets.decide.feature import Decide
    from napari_grata.widgets.measure import Measure
    from napari_grata.widgets.shift_gauge import ShiftGauge
    from napari_grata.widgets.take_out.feature import TakeOut
    from napari_grata.widgets.unfinished import Unfinished

    dock.shift_gauge = ShiftGauge(dock)
    dock.cases = Cases(dock)
    dock.compare = Compare(dock)
    dock.measure = Measure(dock)
    dock.take_out = TakeOut(dock)
    dock.unfinished = Unfinished(dock)
    dock.decide = Decide(dock)
    dock.correct = Correct(dock)
