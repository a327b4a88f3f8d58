"""Before the window closes: write what waits, and ask where that cannot be done."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QMainWindow, QMessageBox

from napari_grata.review.cases import DecisionError
from napari_grata.widgets.decide.clerk import Clerk
from napari_grata.widgets.decide.edits import Edits


class ClosingGuard(QObject):
    """Watches the window around the dock.

    Parameters
    ----------
    dock : GrataDock
    edits : Edits
    clerk : Clerk
    """

    def __init__(self, dock: Any, edits: Edits, clerk: Clerk) -> None:
        super().__init__(dock)
        self._dock = dock
        self._edits, self._clerk = edits, clerk
        self._window: QMainWindow | None = None

    def watch_window(self) -> None:
        """Watch the window, once the dock has found its place in one."""
        parent = self._dock.parentWidget()
        while parent is not None and not isinstance(parent, QMainWindow):
            parent = parent.parentWidget()
        if parent is not None and parent is not self._window:
            self._window = parent
            parent.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Write what waits before the window closes; where that fails, ask."""
        if event.type() == QEvent.Type.Close:
            problem = self.write()
            if problem and not self.ask(problem):
                event.ignore()
                return True
        return bool(super().eventFilter(watched, event))

    def write(self) -> str:
        """Write what waits; returns what would be lost, "" if nothing."""
        problems = [] if self._edits.save() else [self._edits.problem]
        try:
            self._clerk.retry()
        except DecisionError as error:
            problems.append(str(error))
        return " ".join(problems)

    def ask(self, problem: str) -> bool:
        """Ask whether to close although something would be lost."""
        box = QMessageBox(self._window)
        box.setIcon(QMessageBox.Icon.Warning)
        box.setWindowTitle("Not everything is saved")
        box.setText(problem)
        box.setInformativeText("It would be lost with this window.")
        close = box.addButton("Close all the same", QMessageBox.ButtonRole.DestructiveRole)
        stay = box.addButton("Keep it open", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stay)
        box.exec()
        return bool(box.clickedButton() is close)
