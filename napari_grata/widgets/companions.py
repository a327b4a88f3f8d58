"""What stands beside the work: the model's card, keys and About, the tour of the first run."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_grata.widgets.fold import Fold
from napari_grata.widgets.help import About, KeySheet
from napari_grata.widgets.keys import KEYS
from napari_grata.widgets.model_card import show_card
from napari_grata.widgets.parts import button
from napari_grata.widgets.tour import Tour, TourStep, tour_wanted


class Companions(QObject):
    """Card window, help fold and tour.

    Parameters
    ----------
    dock : GrataDock
        Its sections are what the tour points at.
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self._sheet = KeySheet([(key.key, key.does) for key in KEYS])
        self.about = About()
        self.tour_button = button("Show the tour", "One minute through the dock, step by step.")
        self.tour_button.clicked.connect(self.start_tour)
        body = QWidget()
        layout = QVBoxLayout(body)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._sheet)
        layout.addWidget(self.about)
        line = QHBoxLayout()
        line.addWidget(self.tour_button)
        line.addStretch(1)
        layout.addLayout(line)
        self.fold = Fold("Keys and About", body, key="about")
        self.tour: Tour | None = None

    def set_theme(self, name: str) -> None:
        """Take the colours of a napari theme."""
        self._sheet.set_theme(name)
        if self.tour is not None:
            self.tour.set_theme(name)

    def show_card(self) -> None:
        """Show the card of the chosen model."""
        entry = self._dock.model.entry()
        if entry is not None:
            show_card(entry, self._dock, theme=self._dock.viewer.theme)

    def offer_tour(self) -> None:
        """Start the tour where the person has neither seen it nor turned it off."""
        if tour_wanted():
            self.start_tour()

    def start_tour(self) -> None:
        """Walk through the dock, one part after another."""
        dock = self._dock
        if self.tour is None:
            self.tour = Tour(
                [
                    TourStep(
                        "Welcome",
                        "A model that was trained at one centre can do worse on scans from "
                        "another. Here you see its masks before and after it has got used to "
                        "your scan. A sample will do for a start.",
                        dock.scan.sample_button,
                    ),
                    TourStep(
                        "1  Scan",
                        "Choose an open scan, which of its slices to use, and, where the "
                        "structure is small in the picture, a region.",
                        dock.scan,
                    ),
                    TourStep(
                        "2  Model",
                        "Choose a model that knows this kind of scan; its card tells what it "
                        "was trained on. Segment draws the mask before.",
                        dock.model,
                    ),
                    TourStep(
                        "3  Adapt",
                        "Adapt lets the model get used to the scan and draws the mask after. "
                        "Careful is a good start. The curves show whether its two signals "
                        "agree.",
                        dock.adapt.adapt_button,
                    ),
                    TourStep(
                        "Pause and Cancel",
                        "Both act at the next step. What is finished stays, and the mask before "
                        "is never changed.",
                        dock.progress,
                    ),
                    TourStep(
                        "4  Review",
                        "G switches between before and after, H shows the difference, N goes to "
                        "the next slice that needs a look. Then save the masks.",
                        dock.review.toggle_button,
                    ),
                ],
                dock,
                theme=dock.viewer.theme,
            )
        self.tour.start()
