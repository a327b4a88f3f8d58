"""Menus to open lists: in the panel, and in the dock's Open menu, with the recent ones."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QMenu

from napari_grata.widgets.cases.errands import Errands, Found

if TYPE_CHECKING:
    from napari_grata.review.cases import RecentList
    from napari_grata.widgets.cases.feature import Cases

_MOST = 12


class ListMenus(QObject):
    """Fills the menus; the recent lists are looked up in a thread.

    Parameters
    ----------
    cases : Cases
    dock : GrataDock
    """

    def __init__(self, cases: Cases, dock: Any) -> None:
        super().__init__(cases)
        self._cases = cases
        opening = dock.opening
        panel = cases.panel.menu
        for words, act in (
            ("Open a folder …", opening.ask_list_folder),
            ("Open some files …", opening.ask_list_files),
        ):
            action: Any = panel.addAction(words)
            action.triggered.connect(act)
        self._panel_recent = QMenu("Recent lists", panel)
        panel.addMenu(self._panel_recent)
        panel.addSeparator()
        panel.addAction(cases.panel.carry)
        close: Any = panel.addAction("Close the list")
        close.triggered.connect(cases.close_list)
        self._close = close
        panel.aboutToShow.connect(self._about_to_show)
        scan = dock.scan.open_menu
        scan.addSeparator()
        self._scan_recent = QMenu("Recent lists", scan)
        scan.addMenu(self._scan_recent)
        self._show_panel: Any = scan.addAction("Show the list of cases")
        self._show_panel.triggered.connect(self._show)
        scan.aboutToShow.connect(self._about_to_show)
        self._errands = Errands("lists", self)
        self._errands.found.connect(self._on_found)
        dock.ties.at_end(self._errands.end())
        self._fill([])
        self.refresh()

    def refresh(self) -> None:
        """Look up the recent lists."""
        self._errands.ask("recent", _recent)

    def _show(self) -> None:
        self._cases.window.show()

    def _about_to_show(self) -> None:
        there = self._cases.list is not None
        self._close.setEnabled(there)
        self._show_panel.setEnabled(there)
        self.refresh()

    def _on_found(self, found: Found) -> None:
        if found.error is None:
            self._fill(found.result)

    def _fill(self, lists: list[RecentList]) -> None:
        for menu in (self._panel_recent, self._scan_recent):
            menu.clear()
            menu.setEnabled(bool(lists))
            for entry in lists:
                when = _when(entry.when)
                words = f"{entry.title}: {entry.decided} of {entry.cases} decided, {when}"
                action: Any = menu.addAction(words.replace("&", "&&"))
                action.triggered.connect(partial(self._resume, entry.folder))

    def _resume(self, folder: Path, _checked: bool = False) -> None:
        self._cases.resume_list(folder)


def _recent() -> list[RecentList]:
    from napari_grata.review.case_list import CaseList

    # A scan that was opened by itself is a list of one, which nobody has made.
    return [entry for entry in CaseList.recent() if entry.cases > 1][:_MOST]


def _when(text: str) -> str:
    try:
        then = datetime.fromisoformat(text).astimezone()
    except ValueError:
        return ""
    today = datetime.now().astimezone().date()
    return f"{then:%H:%M}" if then.date() == today else f"{then:%Y-%m-%d}"
