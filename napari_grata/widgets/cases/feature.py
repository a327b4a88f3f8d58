"""The list of cases: open it, go through it, have it adapted ahead, and come back to it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.settings import PRESETS
from napari_grata.widgets import keys
from napari_grata.widgets.cases.ahead import Ahead
from napari_grata.widgets.cases.batch import OldObjects, as_one_change
from napari_grata.widgets.cases.errands import Errands, Found
from napari_grata.widgets.cases.foreman import Foreman
from napari_grata.widgets.cases.lines import Lines
from napari_grata.widgets.cases.loading import LoadedCase, SharedEngine
from napari_grata.widgets.cases.menus import ListMenus
from napari_grata.widgets.cases.panel import CasePanel
from napari_grata.widgets.cases.pictures import Pictures
from napari_grata.widgets.cases.prefetch import Prefetch
from napari_grata.widgets.cases.runs import CaseRuns
from napari_grata.widgets.cases.shelf import Shelf
from napari_grata.widgets.cases.window import CaseWindow, ClosingNotice

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList, CaseWork
    from napari_grata.review.cases import Case
    from napari_grata.widgets.session import Session

_LAST = "This is the last of the cases listed."
_FIRST = "This is the first of the cases listed."
_RUNNING = "A run is going on for the case in view: wait for its end, or cancel it."
_NO_LIST = "Open a list of cases first: Open, in section 1."


class Cases(QObject):
    """The list that is open, the case in view, and the way from one to the next.

    Parameters
    ----------
    dock : GrataDock

    Attributes
    ----------
    list : CaseList or None
    panel : CasePanel
    window : CaseWindow
    shelf : Shelf
    ahead : Ahead

    Signals
    -------
    case_changed()
        Another case is in view, or none.
    list_changed()
        Another list is open, or none.
    """

    case_changed = Signal()
    list_changed = Signal()

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.list: CaseList | None = None
        self._wanted: str | None = None
        self._old = OldObjects()
        self.notice = ClosingNotice(self)
        self._open: Any = []  # shared with what closes the list at the end
        engine = SharedEngine()
        self.pictures = Pictures(self)
        self.panel = CasePanel(self.pictures)
        self.window = CaseWindow(dock.viewer, self.panel)
        self.shelf = Shelf(dock)
        self.lines = Lines(self.panel, self)
        self.prefetch = Prefetch(self)
        self.errands = Errands("cases", self)
        self.runs = CaseRuns(self, dock, engine)
        self.live = self.runs.errands
        self.ahead = Ahead(engine, self)
        self.foreman = Foreman(self, dock, self.ahead)
        self.menus = ListMenus(self, dock)
        self._wire()
        self._tie()

    def _wire(self) -> None:
        dock, panel = self._dock, self.panel
        wires: Any = (
            (dock.scan.open_list_folder, dock.opening.ask_list_folder),
            (dock.scan.open_list_files, dock.opening.ask_list_files),
            (dock.opening.list_wanted, self.open_list),
            (panel.case_wanted, self.open_case),
            (panel.next_wanted, self.next),
            (panel.previous_wanted, self.previous),
            (panel.choice_changed, self._choice_changed),
            (panel.dropped, dock.opening.drop),
            (self.prefetch.ready, self._on_ready),
            (self.errands.found, self._on_found),
            (self.notice.closing, self._old.take_back),
            (self.notice.closing, self.ahead.pause),
        )
        for signal, slot in wires:
            signal.connect(slot)
        dock.verbs["next_case"] = partial(_go, weakref.ref(self), 1)
        dock.verbs["previous_case"] = partial(_go, weakref.ref(self), -1)
        perform = partial(_perform, weakref.ref(dock))
        keys.add_shortcuts(panel, [key.key for key in keys.KEYS], perform)

    def _tie(self) -> None:
        ties = self._dock.ties
        ties.listen(self._dock.viewer.events.theme, self._theme_changed)
        for end in (
            self.ahead.end,
            self.pictures.end,
            self.prefetch.end,
            # What waits to be written is still written.
            self.errands.end(finish=True),
            self.window.end,
            self._old.take_back,
            partial(_close_lists, self._open),
        ):
            ties.at_end(end)
        self._theme_changed()

    # --- what others may ask -------------------------------------------------------------------

    @property
    def case(self) -> Case | None:
        """The case in view."""
        key = self.shelf.key
        return None if self.list is None or key is None else self.list.case(key)

    @property
    def busy(self) -> bool:
        """Whether anything is still being read or written, the work ahead aside."""
        return self._wanted is not None or any(
            part.busy for part in (self.errands, self.live, self.prefetch)
        )

    def current_work(self) -> CaseWork | None:
        """Return the folder of the case in view."""
        case = self.case
        return None if self.list is None or case is None else self.list.work(case)

    def refresh_case(self, key: str) -> None:
        """Take note that a case's state or summary may be another one; its line follows soon."""
        self.lines.refresh(key)

    def keep_again(self, session: Session) -> None:
        """Keep a session's run as it is now with the case in view, if it is that case's."""
        self.runs.keep(session)

    def begin_with(self, start: Any, again: Sequence[str]) -> None:
        """Adapt these cases from an adapted model on, until said otherwise; None: as ever."""
        self.foreman.begin_with(start, again)

    # --- lists ---------------------------------------------------------------------------------

    def open_list(self, sources: str | Path | Sequence[str | Path]) -> None:
        """Make a list of a folder or of files, or go on with the one made of them before."""
        given = [sources] if isinstance(sources, (str, Path)) else list(sources)
        self._say("Opening the list …")
        self.errands.ask("open", partial(_make, given, None))

    def resume_list(self, folder: Path) -> None:
        """Go on with a list where it was left."""
        self._say("Opening the list …")
        self.errands.ask("open", partial(_make, (), folder))

    def close_list(self) -> None:
        """Put the list away; all of it is on the disk."""
        if self.list is None or not self._may_leave():
            return
        cases, self.list = self.list, None
        with as_one_change(self._dock.viewer):
            self._leave_case()
        self.ahead.pause()
        self.foreman.forget()
        self._wanted = None
        self._old.take_back()
        self.prefetch.forget()
        self.shelf.forget()
        self.pictures.set_cases(None)
        self.panel.set_current(None)
        self.lines.set_cases(None)
        self.foreman.say()
        self._open.clear()
        # After what still waits to be written to it.
        self.errands.ask(("close", id(cases)), cases.close)
        self.list_changed.emit()
        self.case_changed.emit()

    def _take_list(self, cases: CaseList) -> None:
        if cases is self.list:
            self.lines.set_cases(cases)
            self.window.show()
            self._say(" ".join(cases.notices[-2:]))
            return
        self.close_list()
        if self.list is not None:
            return  # a run is going on there
        self.list = cases
        self._open[:] = [cases]
        self._dock.watch.find_window()
        self.pictures.set_cases(cases)
        self.panel.set_choices(
            cases.option("filter", "all"), cases.option("text", ""), cases.option("order", "list")
        )
        self.panel.carry.blockSignals(True)
        self.panel.carry.setChecked(cases.carry)
        self.panel.carry.blockSignals(False)
        self._take_choices(cases)
        self.lines.set_cases(cases)
        self.window.show()
        self.notice.watch(self.window.main)
        self.foreman.say()
        self._say(" ".join([*cases.notices, cases.read_only or ""]).strip())
        self.list_changed.emit()
        key = cases.position or (cases.cases[0].key if cases.cases else None)
        if key is not None:
            self.open_case(key)

    def _take_choices(self, cases: CaseList) -> None:
        """Choose model and method as they were for this list."""
        dock = self._dock
        if cases.model is not None and any(e.name == cases.model for e in dock.model.entries()):
            dock.model.choose(cases.model)
        settings = cases.settings
        if settings is not None:
            name = next((p.name for p in PRESETS.values() if p.settings == settings), None)
            dock.adapt.set_method(name or settings.method, settings)

    # --- going through -------------------------------------------------------------------------

    def next(self) -> None:
        """Open the next case of those listed, in the order shown."""
        self._step(1)

    def previous(self) -> None:
        """Open the case before."""
        self._step(-1)

    def _step(self, by: int) -> None:
        if self.list is None:
            self._dock.review.shown.say(_NO_LIST)
            return
        key = self.panel.model.step(self._wanted or self.shelf.key, by)
        if key is None:
            self._say(_LAST if by > 0 else _FIRST)
        else:
            self.open_case(key)

    def open_case(self, key: str) -> None:
        """Show a case: at once if it was read ahead, else as soon as it is."""
        if self.list is None or not self._may_leave():
            return
        if key == self.shelf.key and self.shelf.layer is not None:
            self._wanted = None
            self.panel.set_current(key)
            self.shelf.choose_again()
            return
        self._wanted = key
        self.panel.set_current(key)
        loaded = self.prefetch.take(key)
        if loaded is not None:
            self._show(loaded)
        else:
            self._say(f"Opening {self.list.case(key).title} …")
            self.prefetch.want(self.list, [key])

    def look_ahead(self) -> None:
        """Have the neighbours of the case in view read, the next one first."""
        if self.list is None or self._wanted is not None:
            return
        model, key = self.panel.model, self.shelf.key
        near = [other for other in (model.step(key, 1), model.step(key, -1)) if other != key]
        # What has just been made of the case in view may still be on its way.
        self.prefetch.want(self.list, [key, *near] if self.prefetch.reads(key) else near)

    def _may_leave(self) -> bool:
        runner = self._dock.desk.runner
        sessions = self._dock.desk.sessions.of(self.shelf.layer)
        if runner.kind is not None and any(runner.session is one for one in sessions):
            self._say(_RUNNING)
            return False
        return True

    def _leave_case(self) -> None:
        for sentence in self.shelf.take_out():
            show_warning(sentence)

    def _on_ready(self, loaded: LoadedCase) -> None:
        if loaded.picture is not None:
            self.pictures.put(loaded.key, loaded.picture)
        if loaded.key == self._wanted:
            if self._may_leave():
                self._show(self.prefetch.take(loaded.key) or loaded)
            else:
                self._wanted = None
                self.panel.set_current(self.shelf.key)
        elif loaded.key == self.shelf.key:
            self.foreman.show_result(self.prefetch.take(loaded.key) or loaded)
        self.refresh_case(loaded.key)

    def _show(self, loaded: LoadedCase) -> None:
        """Show a case in place of the one in view."""
        assert self.list is not None
        self._wanted = None
        key = loaded.key
        self._old.set_aside()
        with as_one_change(self._dock.viewer):
            self._leave_case()
            if loaded.scan is None:
                self.shelf.key = key
            else:
                self.shelf.put(loaded)
        if loaded.scan is None:
            show_error(loaded.problem)
        else:
            self.runs.revive_soon()
        self._say(" ".join([loaded.problem, *loaded.notices]).strip())
        self.panel.set_current(key)
        self.ahead.set_here(key)
        self.errands.ask("position", partial(self.list.choose, position=key))
        self.case_changed.emit()
        self.look_ahead()

    # --- what comes back -----------------------------------------------------------------------

    def _on_found(self, found: Found) -> None:
        if found.key == "open":
            if found.error is not None:
                self._dock.desk.fail(str(found.error))
                self._say(str(found.error))
            else:
                self._take_list(found.result)
            self.menus.refresh()
        if found.error is not None:
            show_error(str(found.error))
        if isinstance(found.key, tuple) and found.key[0] == "keep":
            self.pictures.renew(found.key[1])
            self.refresh_case(found.key[1])
        if self.list is not None and self.list.save_problem:
            self._say(self.list.save_problem)

    def _choice_changed(self) -> None:
        if self.list is not None:
            filtered, text, order = self.panel.choices()
            choose = partial(self.list.choose, filter=filtered, text=text, order=order)
            self.errands.ask("filter", choose)
            self.look_ahead()

    def _theme_changed(self, event: Any = None) -> None:
        self.panel.set_theme(self._dock.viewer.theme)

    def _say(self, words: str) -> None:
        self.panel.say(words)


def _make(sources: Sequence[str | Path], folder: Path | None) -> CaseList:
    from napari_grata.review.case_list import CaseList

    return CaseList.make(sources) if folder is None else CaseList.load(folder)


def _close_lists(lists: Any) -> None:
    """Let another program write to the list, once the dock is gone."""
    while lists:
        lists.pop().close()


def _go(cases: weakref.ref[Cases], by: int) -> None:
    found = cases()
    if found is not None:
        found.next() if by > 0 else found.previous()


def _perform(dock: weakref.ref[Any], action: str) -> None:
    from napari_grata.widgets.dock import _act

    _act(dock, action)
