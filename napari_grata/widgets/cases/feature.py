"""The list of cases: open it, go through it, have it adapted ahead, and come back to it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.adaptation.settings import PRESETS, SettingsError
from napari_grata.review.casefinding import ListError
from napari_grata.widgets import keys
from napari_grata.widgets.cases.ahead import Ahead, Order
from napari_grata.widgets.cases.batch import OldObjects
from napari_grata.widgets.cases.errands import Errands, Found
from napari_grata.widgets.cases.loading import LoadedCase, SharedEngine, revive
from napari_grata.widgets.cases.menus import ListMenus
from napari_grata.widgets.cases.panel import CasePanel
from napari_grata.widgets.cases.pictures import Pictures
from napari_grata.widgets.cases.prefetch import Prefetch
from napari_grata.widgets.cases.rows import progress_words, row_of
from napari_grata.widgets.cases.shelf import Shelf
from napari_grata.widgets.cases.window import CaseWindow

if TYPE_CHECKING:
    from napari_grata.review.caselist import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.review.casework import CaseWork
    from napari_grata.widgets.session import Session
    from napari_grata.widgets.worker import Outcome

_ROWS_MS = 60
_REVIVE_MS = 500
_LAST = "This is the last of the cases listed."
_FIRST = "This is the first of the cases listed."
_RUNNING = "A run is going on for the case in view: wait for its end, or cancel it."


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
    ahead : Ahead

    Signals
    -------
    case_changed()
        Another case is in view, or none.
    list_changed()
        Another list is open.
    """

    case_changed = Signal()
    list_changed = Signal()

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock: Any = dock
        self.list: CaseList | None = None
        self._wanted: str | None = None
        self._work: dict[str, tuple[str, float]] = {}
        self._dirty: set[str] = set()
        self._start: Any = None
        self._again: frozenset[str] = frozenset()
        self._start_soon = False
        self._old = OldObjects(self)
        self._open: Any = []  # shared with what closes the list at the end
        self.engine = SharedEngine()
        self.pictures = Pictures(self)
        self.panel = CasePanel(self.pictures)
        self.window = CaseWindow(dock.viewer, self.panel)
        self.shelf = Shelf(dock)
        self.prefetch = Prefetch(self)
        self.errands = Errands("cases", self)
        self.live = Errands("runs", self)
        self.ahead = Ahead(self.engine, self)
        self.menus = ListMenus(self)
        self._rows_soon, self._revive_soon = QTimer(self), QTimer(self)
        for timer, ms, act in (
            (self._rows_soon, _ROWS_MS, self._update_rows),
            (self._revive_soon, _REVIVE_MS, self._revive),
        ):
            timer.setSingleShot(True)
            timer.setInterval(ms)
            timer.timeout.connect(act)
        self._wire()
        self._tie()

    def _wire(self) -> None:
        dock, panel = self._dock, self.panel
        desk = dock.desk
        wires: Any = (
            (dock.scan.open_list_folder, dock.opening.ask_list_folder),
            (dock.scan.open_list_files, dock.opening.ask_list_files),
            (dock.opening.list_wanted, self.open_list),
            (panel.case_wanted, self.open_case),
            (panel.next_wanted, self.next),
            (panel.previous_wanted, self.previous),
            (panel.ahead_wanted, self.toggle_ahead),
            (panel.carry_changed, self._carry_changed),
            (panel.choice_changed, self._choice_changed),
            (panel.dropped, dock.opening.drop),
            (self.prefetch.ready, self._on_ready),
            (self.errands.found, self._on_found),
            (self.live.found, self._on_live),
            (self.ahead.changed, self._say_ahead),
            (self.ahead.changed, self._go_ahead),
            (self.ahead.progressed, self._on_progress),
            (self.ahead.done, self._on_done),
            (desk.runner.changed, self._runner_changed),
            (desk.runner.ended, self._run_ended),
        )
        for signal, slot in wires:
            signal.connect(slot)
        desk.place = partial(_place, weakref.ref(self))
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
            # What is being written is still written.
            self.errands.end(finish=True),
            self.live.end(),
            self.window.end,
            gc.unfreeze,
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

    def current_work(self) -> CaseWork | None:
        """Return the folder of the case in view."""
        case = self.case
        return None if self.list is None or case is None else self.list.work(case)

    def refresh_case(self, key: str) -> None:
        """Take note that a case's state or summary may be another one; its line follows soon."""
        self._dirty.add(key)
        if not self._rows_soon.isActive():
            self._rows_soon.start()

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
        self._leave_case()
        self._put_away()
        self.list_changed.emit()

    def _put_away(self) -> None:
        cases, self.list = self.list, None
        self.ahead.pause()
        self._start, self._again, self._start_soon = None, frozenset(), False
        self._wanted = None
        self._work, self._dirty = {}, set()
        self._old.take_back()
        self.prefetch.forget()
        self.pictures.set_cases(None)
        self.panel.set_current(None)
        self.panel.model.set_rows(())
        if cases is not None:
            # Written to by errands that still wait.
            self.errands.ask(("close", id(cases)), cases.close)

    def _take_list(self, cases: CaseList) -> None:
        if cases is self.list:
            self.window.show()
            self._update_all()
            self._say(" ".join(cases.notices[-2:]))
            return
        if self.list is not None:
            if not self._may_leave():
                return
            self._leave_case()
            self._put_away()
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
        self._update_all()
        self.window.show()
        self._say_ahead()
        self._say(" ".join([*cases.notices, cases.decisions.read_only or ""]).strip())
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
            self._dock.review.shown.say("Open a list of cases first: Open, in section 1.")
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
            self._choose_again()
            return
        self._wanted = key
        self.panel.set_current(key)
        loaded = self.prefetch.take(key)
        if loaded is not None:
            self._show(loaded)
        else:
            case = self.list.case(key)
            self._say(f"Opening {case.title} …")
            self.prefetch.want(self.list, [key])

    def _may_leave(self) -> bool:
        runner = self._dock.desk.runner
        if runner.kind is not None and runner.session is not None:
            sessions = self._dock.desk.sessions.of(self.shelf.layer)
            if any(runner.session is session for session in sessions):
                self._say(_RUNNING)
                return False
        return True

    def _choose_again(self) -> None:
        """Bring the case in view back to the dock where another scan was chosen meanwhile."""
        layer = self.shelf.layer
        if layer is not None and self._dock.desk.layer is not layer:
            self._dock.scan.choose(layer)

    def _leave_case(self) -> None:
        for sentence in self.shelf.take_out():
            show_warning(sentence)

    def _on_ready(self, loaded: LoadedCase) -> None:
        if loaded.picture is not None:
            self.pictures.put(loaded.key, loaded.picture)
        if loaded.key == self._wanted:
            if self._may_leave():
                taken = self.prefetch.take(loaded.key)
                self._show(taken if taken is not None else loaded)
        elif loaded.key == self.shelf.key:
            taken = self.prefetch.take(loaded.key)
            self._show_result(taken if taken is not None else loaded)
        self.refresh_case(loaded.key)

    def _show(self, loaded: LoadedCase) -> None:
        """Show a case in place of the one in view."""
        assert self.list is not None
        self._wanted = None
        key = loaded.key
        self._old.set_aside(self.window.main)
        self._leave_case()
        if loaded.scan is None:
            self._say(loaded.problem)
            self.panel.set_current(self.shelf.key)
            self.shelf.key = key
            self.panel.set_current(key)
            show_error(loaded.problem)
        else:
            self.shelf.put(loaded)
            self._say(" ".join(loaded.notices))
            self._revive_soon.start()
        self.panel.set_current(key)
        self.ahead.set_here(key)
        self.errands.ask("position", partial(self.list.choose, position=key))
        self.case_changed.emit()
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Have the neighbours of the case in view read, the next one first."""
        if self.list is None or self._wanted is not None:
            return
        model, key = self.panel.model, self.shelf.key
        near = [model.step(key, 1), model.step(key, -1)]
        self.prefetch.want(self.list, [other for other in near if other not in (None, key)])

    # --- runs ----------------------------------------------------------------------------------

    def _revive(self) -> None:
        """Make the run in view live again, for going through its steps."""
        session, folder = self.shelf.session(), self.shelf.run_folder
        scan = self.shelf.scan
        if session is None or folder is None or scan is None or session.run is not None:
            return
        if session.busy or self._dock.desk.runner.kind is not None:
            self._revive_soon.start()
            return
        device = self._dock.model.device_key()
        self.live.keep_only(())
        do = partial(revive, folder, session.card.name, scan, self.engine, device)
        self.live.ask((self.shelf.key, folder), do)

    def _on_live(self, found: Found) -> None:
        session = self.shelf.session()
        here = (self.shelf.key, self.shelf.run_folder)
        if found.error is not None:
            return  # `missing` of the run has said why; it can be looked at all the same
        if session is None or found.key != here or session.run is not None or session.busy:
            found.result.close()
            return
        session.run = found.result
        self._dock.steps.offer()
        self._dock.desk.changed.emit()

    def place_of_run(self, session: Session) -> Path | None:
        """Return the folder for a run on the case in view; None if it is no case of the list."""
        if self.list is None or self.shelf.key is None or session.scan is not self.shelf.scan:
            return None
        self.ahead.leave(self.shelf.key)
        try:
            return self.list.work(self.shelf.key).new_run_folder()
        except ListError as error:
            show_error(f"This run is not kept with its case. {error}")
            return None

    def _runner_changed(self) -> None:
        self.ahead.step_aside(self._dock.desk.runner.kind is not None)

    def _run_ended(self, kind: str, outcome: Outcome) -> None:
        """Keep what came of a run on the case in view."""
        session = self._dock.desk.runner.session
        if kind in ("adapt", "again") and outcome.kind == "done" and session is not None:
            self.keep_again(session)

    def keep_again(self, session: Session) -> None:
        """Keep a session's run as it is now with the case in view, if it is that case's."""
        if self.list is None or session.run is None:
            return
        key, run = self.shelf.key, session.run
        if key is None or session.scan is not self.shelf.scan or run.folder is None:
            return
        if Path(run.folder).parent != self.list.work(key).folder:
            return
        self.shelf.run_folder = Path(run.folder)
        self.errands.ask(("keep", key), partial(_keep, self.list, self.list.case(key), run))

    # --- ahead ---------------------------------------------------------------------------------

    def toggle_ahead(self) -> None:
        """Adapt to all cases that are new, or pause that."""
        if self.ahead.running:
            self.ahead.pause()
            return
        dock = self._dock
        entry = dock.model.entry()
        if self.list is None or self.ahead.stopping:
            return
        if entry is None or entry.card is None:
            self._say("Choose a model first.")
            return
        try:
            settings = dock.adapt.settings()
        except SettingsError as error:
            self._say(str(error))
            return
        choose = partial(self.list.choose, model=entry.name, settings=settings.to_dict())
        self.errands.ask("choices", choose)
        self._dock.watch.find_window()
        device, begin = dock.model.device_key(), (self._start, self._again)
        self.ahead.start(Order(self.list, entry.folder, device, settings, *begin), self.shelf.key)

    def begin_with(self, start: Any, again: Sequence[str]) -> None:
        """Adapt these cases from an adapted model on, until said otherwise; None: as ever.

        Those of them that are adapted but not decided are done anew.
        """
        self._start, self._again = start, frozenset(again)
        self._start_soon = start is not None
        if self.ahead.running:
            self.ahead.pause()
        self._go_ahead()

    def _go_ahead(self) -> None:
        """Start ahead as soon as it has ended with its present step."""
        if self._start_soon and not (self.ahead.running or self.ahead.stopping):
            self._start_soon = False
            self.toggle_ahead()

    def _carry_changed(self, on: bool) -> None:
        if self.list is not None:
            self.list.choose(carry=on)

    def _on_progress(self, work: dict[str, tuple[str, float]]) -> None:
        changed = set(self._work) | set(work)
        self._work = dict(work)
        for key in changed:
            self.refresh_case(key)

    def _on_done(self, key: str) -> None:
        if self.list is None or key not in {case.key for case in self.list.cases}:
            return
        self.pictures.renew(key)
        self.prefetch.drop(key)
        self.refresh_case(key)
        if key == self.shelf.key:
            summary = self.list.summary(key)
            if summary is not None and summary.adapted and self.shelf.untouched():
                self.prefetch.want(self.list, [key])
        else:
            self._look_ahead()

    def _show_result(self, loaded: LoadedCase) -> None:
        """Show what came of the case in view, if the person has nothing of their own there."""
        busy = self._dock.desk.runner.kind is not None
        if loaded.run is None or busy or not self.shelf.untouched():
            return
        if self.shelf.put_run(loaded.run) is not None:
            self._revive_soon.start()
        self._look_ahead()

    def _say_ahead(self) -> None:
        ahead = self.ahead
        if ahead.stopping:
            self.panel.say_ahead("off", "Pausing after the step in progress …")
        elif ahead.waiting:
            self.panel.say_ahead("waiting", "Adapting ahead waits for your own run.")
        elif ahead.running:
            self.panel.say_ahead("running", "Adapting the cases ahead. You can review meanwhile.")
        else:
            words = ahead.problem or ("All cases that could be are adapted." * ahead.finished)
            self.panel.say_ahead("off" if self.list is None else "idle", words)

    # --- what is shown -------------------------------------------------------------------------

    def _on_found(self, found: Found) -> None:
        if found.key == "open":
            if found.error is not None:
                self._dock.desk.fail(str(found.error))
                show_error(str(found.error))
                self._say(str(found.error))
            else:
                self._take_list(found.result)
            self.menus.refresh()
        elif found.error is not None:
            show_error(str(found.error))
        if isinstance(found.key, tuple) and found.key[0] == "keep":
            self.pictures.renew(found.key[1])
            self.refresh_case(found.key[1])
        if self.list is not None and self.list.save_problem:
            self._say(self.list.save_problem)

    def _update_all(self) -> None:
        assert self.list is not None
        self.panel.model.set_rows(row_of(self.list, case) for case in self.list.cases)
        self._show_progress()

    def _update_rows(self) -> None:
        if self.list is None:
            return
        dirty, self._dirty = self._dirty, set()
        known = {case.key: case for case in self.list.cases}
        self.panel.model.update_rows(
            row_of(self.list, known[key], *self._work.get(key, ("", 0.0)))
            for key in dirty
            if key in known
        )
        self._show_progress()

    def _show_progress(self) -> None:
        assert self.list is not None
        progress = self.list.progress()
        self.panel.progress.say(progress_words(progress))
        self.panel.menu_button.setToolTip(f"{self.list.title}. Open another list, or close it.")
        self.panel.bar.setMaximum(max(1, progress.total))
        self.panel.bar.setValue(progress.decided)

    def _choice_changed(self) -> None:
        if self.list is not None:
            filtered, text, order = self.panel.choices()
            choose = partial(self.list.choose, filter=filtered, text=text, order=order)
            self.errands.ask("filter", choose)
            self._look_ahead()

    def _theme_changed(self, event: Any = None) -> None:
        self.panel.set_theme(self._dock.viewer.theme)

    def _say(self, words: str) -> None:
        self.panel.say(words)


def _make(sources: Sequence[str | Path], folder: Path | None) -> CaseList:
    from napari_grata.review.caselist import CaseList

    return CaseList.make(sources) if folder is None else CaseList.load(folder)


def _keep(cases: CaseList, case: Case, run: Any) -> None:
    from napari_grata.review.keeping import keep_run

    keep_run(cases, case, run)


def _close_lists(lists: Any) -> None:
    """Let another program write to the list, once the dock is gone."""
    while lists:
        lists.pop().close()


def _place(cases: weakref.ref[Cases], session: Session) -> Path | None:
    found = cases()
    return None if found is None else found.place_of_run(session)


def _go(cases: weakref.ref[Cases], by: int) -> None:
    found = cases()
    if found is not None:
        found.next() if by > 0 else found.previous()


def _perform(dock: weakref.ref[Any], action: str) -> None:
    from napari_grata.widgets.dock import _act

    _act(dock, action)
