"""A run that was cancelled: go on with it, or finish it with what was learnt so far."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_grata.widgets.parts import Sentence, button
from napari_grata.widgets.session import Session


class Unfinished(QObject):
    """Offers both above the progress bar, as long as the chosen run is unfinished and at rest.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.line = QWidget()
        self.words = Sentence(1)
        self.words.setObjectName("grata_small")
        self.go_on_button = button("Go on", "Go on adapting from where the run stands.", small=True)
        self.finish_button = button(
            "Finish with what was learned",
            "Learn no more, and give every slice that has no mask after, or only a passing one, "
            "its mask from what the model has learned so far.",
            small=True,
        )
        buttons = QHBoxLayout()
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setSpacing(4)
        buttons.addWidget(self.finish_button, 2)
        buttons.addWidget(self.go_on_button, 1)
        column = QVBoxLayout(self.line)
        column.setContentsMargins(8, 0, 8, 0)
        column.setSpacing(2)
        column.addWidget(self.words)
        column.addLayout(buttons)
        self.line.setVisible(False)
        dock.slots.bar.add(self.line)
        self.go_on_button.clicked.connect(self.go_on)
        self.finish_button.clicked.connect(self.finish)
        dock.desk.changed.connect(self.offer)
        dock.desk.session_changed.connect(self.offer)

    def session(self) -> Session | None:
        """Return the chosen session if its run can go on."""
        desk = self._dock.desk
        session: Session | None = desk.session
        if desk.runner.kind is not None or session is None or session.busy:
            return None
        run = session.run
        # A state that was taken rolled the run back on purpose.
        if run is None or session.taken_step is not None or run.position >= run.total:
            return None
        return session

    def offer(self) -> None:
        """Show the line where it is of use."""
        session = self.session()
        self.line.setVisible(session is not None)
        if session is None:
            return
        run = session.run
        learnt = {e.slice_index for e in run.plan[: run.position] if e.phase == "adapt"}
        self.words.say(f"Ended after {len(learnt)} of {session.count(len(run.slices))}.")
        self.finish_button.setVisible(run.settings.learns and run.step > 0)

    def go_on(self) -> None:
        """Adapt to the slices that are left."""
        self._start(finish=False)

    def finish(self) -> None:
        """Predict the slices that are left with the θ reached."""
        self._start(finish=True)

    def _start(self, *, finish: bool) -> None:
        session = self.session()
        if session is not None:
            self._dock.desk.problem = None
            self._dock.desk.runner.go_on(session, finish)
