"""The rest of a list: cases ahead begin with what corrections taught on this one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject

from napari_grata.widgets.session import Session


class Rest(QObject):
    """Hands the taught model to the worker ahead, where a list is open.

    Parameters
    ----------
    dock : GrataDock
    parent : QObject
    """

    def __init__(self, dock: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._dock: Any = dock
        self._waiting = False

    @property
    def _cases(self) -> Any:
        cases = getattr(self._dock, "cases", None)
        return cases if cases is not None and cases.list is not None else None

    def there(self) -> bool:
        """Whether there are cases after the one in view."""
        cases = self._cases
        if cases is None or cases.case is None:
            return False
        return any(case.number > cases.case.number for case in cases.list.cases)

    def go(self, session: Session) -> str:
        """Let the cases after this one be adapted from its state; returns what to say."""
        cases = self._cases
        if cases is None or cases.case is None or session.run is None:
            return ""
        from napari_grata.adaptation.teaching import taught_state

        here = cases.case.number
        later = [case for case in cases.list.cases if case.number > here]
        wanted = [case.key for case in later if not cases.list.state(case).decided]
        if not wanted:
            return "All cases after it are decided; they stay as they are."
        cases.begin_with(taught_state(session.run), wanted)
        count = "1 case after it is" if len(wanted) == 1 else f"{len(wanted)} cases after it are"
        return f"{count} adapted with what was learned."

    def take_back(self, session: Session, later: Any, run: Any) -> None:
        """The run that learnt is undone: its folder no longer counts among the case's runs."""
        cases = self._cases
        folder = None if later is None else later.folder
        if folder is None or cases is None or cases.case is None:
            return
        cases.begin_with(None, ())
        folder = Path(folder)
        if folder.parent != Path(cases.current_work().folder):
            return
        try:
            folder.rename(folder.with_name(f"undone-{folder.name}"))
        except OSError as error:
            show_warning(
                f"The undone run is still in the case's folder ({error.strerror}); the case will "
                "open with it."
            )
            return
        with contextlib.suppress(AttributeError):
            cases.keep_again(session)
