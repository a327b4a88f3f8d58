"""Keeps the lines of the list up to date, many changes at once and without reading a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer

from napari_grata.widgets.cases.panel import CasePanel
from napari_grata.widgets.cases.rows import progress_words, row_of

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList

_SOON_MS = 60

Work = dict[str, tuple[str, float]]


class Lines(QObject):
    """Brings what is known of cases into the panel, some times a second at most.

    Parameters
    ----------
    panel : CasePanel
    parent : QObject
    """

    def __init__(self, panel: CasePanel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._panel = panel
        self._cases: CaseList | None = None
        self._work: Work = {}
        self._dirty: set[str] = set()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SOON_MS)
        self._soon.timeout.connect(self._update)

    def set_cases(self, cases: CaseList | None) -> None:
        """Show the cases of a list, or none."""
        self._cases = cases
        self._dirty = set()
        found = [] if cases is None else cases.cases
        self._panel.model.set_rows(
            row_of(cases, case, *self._work.get(case.key, ("", 0.0)))
            for case in found
            if cases is not None
        )
        self._show_progress()

    def refresh(self, key: str) -> None:
        """Take note that a line may be another one."""
        self._dirty.add(key)
        if not self._soon.isActive():
            self._soon.start()

    def set_work(self, work: Work) -> None:
        """Take what the worker ahead does: case → (words, share)."""
        changed = set(self._work) | set(work)
        self._work = dict(work)
        for key in changed:
            self.refresh(key)

    def _update(self) -> None:
        cases = self._cases
        if cases is None:
            return
        dirty, self._dirty = self._dirty, set()
        self._panel.model.update_rows(
            row_of(cases, case, *self._work.get(case.key, ("", 0.0)))
            for case in cases.cases
            if case.key in dirty
        )
        self._show_progress()

    def _show_progress(self) -> None:
        panel, cases = self._panel, self._cases
        if cases is None:
            panel.progress.say("")
            panel.bar.setValue(0)
            return
        progress = cases.progress()
        panel.progress.say(progress_words(progress))
        panel.bar.setMaximum(max(1, progress.total))
        panel.bar.setValue(progress.decided)
        panel.menu_button.setToolTip(f"{cases.title}. Open another list, or close it.")
