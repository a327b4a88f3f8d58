"""The list of cases: open it, go through it, have it adapted ahead, and come back to it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QSignalBlocker

from napari_grata.review.adapt_list import keep_run, needs_work
from napari_grata.review.carried import OPTION, CarriedChoice, carried_by, may_be_changed
from napari_grata.review.case_list import CaseList
from napari_grata.review.cases import ListError
from napari_grata.widgets import keys
from napari_grata.widgets.background import Found, Outcome, Queue
from napari_grata.widgets.batch_worker import BatchWorker, Order, Work
from napari_grata.widgets.cases_model import progress_words, recent_lists, row_of
from napari_grata.widgets.cases_panel import CasePanel, Pictures, dock_of, remove_panel
from napari_grata.widgets.context import Context
from napari_grata.widgets.current_case import CurrentCase, LoadedCase, Prefetch
from napari_grata.widgets.qt_parts import ask_folder, later, menu_entry, notify
from napari_grata.widgets.scan_layer import as_one_change
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari_grata.review.case_work import CaseWork
    from napari_grata.review.cases import Case

_SOON_MS = 60
_REVIVE_MS = 500
_LAST = "This is the last of the cases listed."
_NO_LIST = "Open a list of cases first: Open, in step Scan."
_FIRST = "This is the first of the cases listed."
_RUNNING = "A run is going on for the case in view: wait for its end, or cancel it."


class Cases(QObject):
    """The list that is open, the case in view, and the way from one to the next.

    Attributes
    ----------
    panel : CasePanel
        In a dock of its own, left, once a list is open.
    current : CurrentCase
    batch : BatchWorker
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self._wanted: str | None = None
        self._work: Work = {}
        self._dirty: set[str] = set()
        self._begin: tuple[Any, frozenset[str]] = (None, frozenset())
        self._start_soon = False
        self._open: list[CaseList] = []  # shared with what closes the list at the end
        self.batch = BatchWorker(context)
        self.pictures = Pictures(context)
        self.panel = CasePanel(self.pictures)
        self.current = CurrentCase(context)
        self.prefetch = Prefetch(context)
        self.queue = Queue("cases", self, context.connections, finish=True)
        self._lines_soon = later(self, _SOON_MS, self._update_lines)
        self._revive_soon = later(self, _REVIVE_MS, self._revive)
        context.flow = self
        self._menu()
        self._wire()
        self.queue.ask("recent", recent_lists)

    def _menu(self) -> None:
        menu, context = self.panel.menu, self._context
        for key, words in (("list-folder", "Open a folder …"), ("list-files", "Open some files …")):
            menu_entry(menu, words, partial(context.open_requested.emit, key))
        menu.addSeparator()
        menu.addAction(self.panel.carry)
        together = partial(context.open_requested.emit, "together")
        self._together = menu_entry(menu, "Open the photographs as one stack", together)
        self._of_a_list = (
            menu_entry(menu, "The scans have moved …", self._ask_where),
            menu_entry(menu, "Close the list", self.close_list),
        )
        menu.aboutToShow.connect(self._allow)

    def _allow(self) -> None:
        for action in self._of_a_list:
            action.setEnabled(self.caselist is not None)
        live = self._context.runner.kind is None
        photographs = self.caselist is not None and self.caselist.photographs()
        self._together.setEnabled(live and bool(photographs))

    def _wire(self) -> None:
        context, panel = self._context, self.panel
        for signal, slot in (
            (context.open_requested, self._on_open),
            (context.list_requested, self.open_list),
            (context.scan_changed, self._follow),
            (context.runner.ended, self._on_run_ended),
            (context.runner.changed, self._step_aside),
            (context.decisions_changed, self._on_decision),
            (context.theme_changed, panel.set_colours),
            (panel.case_requested, self.open_case),
            (panel.next_requested, self.next),
            (panel.previous_requested, self.previous),
            (panel.batch_requested, self.toggle_batch),
            (panel.carry_changed, self._carry_changed),
            (panel.choice_changed, self._choice_changed),
            (panel.dropped, self.open_list),
            (self.prefetch.ready, self._on_ready),
            (self.queue.found, self._on_found),
            (self.batch.changed, self._say_batch),
            (self.batch.changed, self._go_ahead),
            (self.batch.progressed, self._set_work),
            (self.batch.done, self._on_done),
        ):
            signal.connect(slot)
        context.actions.provide("next_case", self.next, self._why_no_list)
        context.actions.provide("previous_case", self.previous, self._why_no_list)
        keys.add_shortcuts(panel, [action.key for action in keys.ACTIONS], context.actions)
        context.closing.guards.append(self._closing)
        context.connections.at_end(partial(remove_panel, weakref.ref(context.viewer), panel))
        context.connections.at_end(partial(_close_lists, self._open))
        panel.set_colours(context.theme)

    # --- what other sections ask ---------------------------------------------------------------

    @property
    def caselist(self) -> CaseList | None:
        """The list that is open."""
        return self._context.caselist

    def run_folder(self, session: Session) -> Path | None:
        """Return the folder for a run on the case in view; None if it is no case of the list."""
        work = self._work_of(session)
        if work is None:
            return None
        self.batch.course.leave = work.key
        try:
            return work.new_run_folder()
        except ListError as error:
            notify(f"This run is not kept with its case. {error}")
            return None

    def _work_of(self, session: Session) -> CaseWork | None:
        """Return what is kept of the case in view, if the session is on it."""
        cases, here = self.caselist, self.current
        if cases is None or here.key is None or session.scan is not here.scan:
            return None
        return cases.work(here.key)

    def cases_after(self) -> list[str]:
        """Return the keys of the undecided cases after the one in view."""
        case, cases = self._context.case, self.caselist
        if case is None or cases is None:
            return []
        after = (other for other in cases.cases if other.number > case.number)
        return [other.key for other in after if not cases.state(other).decided]

    def has_others(self, session: Session) -> bool:
        """Whether the session is on a case of a list with others that are not decided."""
        cases, work = self.caselist, self._work_of(session)
        if cases is None or work is None:
            return False
        others = (other for other in cases.cases if other.key != work.key)
        return any(not cases.state(other).decided for other in others)

    def begin_with(self, start: Any, again: Sequence[str]) -> None:
        """Adapt these cases from an adapted model on; None: from the source model again.

        Those of them that are adapted but not decided are done anew.
        """
        self._begin = start, frozenset(again)
        self._start_soon = start is not None
        self.batch.pause()
        self._go_ahead()

    def carry_choice(self, carried: CarriedChoice | None) -> None:
        """Use a choice on all cases that nobody has touched; None: use none any longer."""
        if self.caselist is not None:
            kept = partial(self.caselist.choose, **{OPTION: {}})
            kept = kept if carried is None else partial(carried.keep, self.caselist)
            self.queue.ask("carried", kept)
            self.batch.pause()

    def choice_not_here(self, session: Session) -> CarriedChoice | None:
        """Return the list's choice if it waits for the user, who looks at a case without it."""
        cases, work = self.caselist, self._work_of(session)
        run = session.run
        if cases is None or work is None or run is None or not may_be_changed(run, run.segmenter):
            return None
        return carried_by(cases) if needs_work(cases, cases.case(work.key)) else None

    def take_back(self, session: Session, folder: Path | None) -> None:
        """A run of the case in view was undone: its folder counts no more among the case's."""
        work = self._work_of(session)
        if folder is None or work is None or folder.parent != work.folder:
            return
        try:
            folder.rename(folder.with_name(f"undone-{folder.name}"))
        except OSError as error:
            notify(
                f"The undone run is still in the case's folder ({error.strerror}); the case "
                "will open with it.",
                "warning",
            )
        else:
            self._keep(session)

    # --- lists ---------------------------------------------------------------------------------

    def _on_open(self, what: str) -> None:
        kind, _, folder = what.partition(":")
        if kind == "list":
            self.panel.say("Opening the list …")
            self.queue.ask("open", partial(CaseList.load, Path(folder)))

    def open_list(self, sources: Sequence[str]) -> None:
        """Make a list of a folder or of files, or go on with the one made of them before."""
        self.panel.say("Opening the list …")
        self._context.clear_problem()
        self.queue.ask("open", partial(CaseList.make, list(sources)))

    def close_list(self) -> None:
        """Put the list away; all of it is on the disk."""
        context, cases = self._context, self.caselist
        if cases is None or not self._may_leave():
            return
        self._leave_case()
        self.batch.pause()
        self._begin, self._start_soon, self._wanted = (None, frozenset()), False, None
        self.prefetch.want(cases, ())
        context.undo.forget([cases])
        self.current.forget()
        self.pictures.set_cases(None)
        context.caselist = context.case = None
        self._show_all()
        self.panel.set_current(None)
        self._say_batch()
        self._open.clear()
        # After what still waits to be written to it.
        self.queue.ask(("close", id(cases)), cases.close)
        context.list_changed.emit()
        context.case_changed.emit()
        context.touch()

    def _ask_where(self) -> None:
        """Ask which folder holds the scans now; decisions and masks stay as they are."""
        cases = self.caselist
        folder = ask_folder(self.panel, "", "Choose the folder that holds the scans now")
        if cases is not None and folder:
            self.panel.say("Looking for the scans …")
            self.queue.ask("move", partial(cases.relocate, folder))

    def _take_list(self, cases: CaseList) -> None:
        context, panel = self._context, self.panel
        if cases is self.caselist:
            self._show_all()
            self.show_panel()
            panel.say(" ".join(cases.notices[-2:]))
            if self.current.key is not None:
                self.open_case(self.current.key)
            return
        self.close_list()
        if self.caselist is not None:
            return  # a run is going on there
        context.caselist = cases
        self._open[:] = [cases]
        self.pictures.set_cases(cases)
        panel.set_choices(
            cases.option("filter", "all"), cases.option("text", ""), cases.option("order", "list")
        )
        with QSignalBlocker(panel.carry):
            panel.carry.setChecked(cases.carry)
        if cases.model is not None:
            context.choose_model(cases.model)
        if cases.settings is not None:
            context.choose_settings("", cases.settings)
        self._show_all()
        self.show_panel()
        self._say_batch()
        panel.say(" ".join([*cases.notices, cases.read_only or ""]).strip())
        context.list_changed.emit()
        context.touch()
        key = cases.position or (cases.cases[0].key if cases.cases else None)
        if key is not None:
            self.open_case(key)

    def show_panel(self) -> None:
        """Show the list in a dock of its own, left, as a tab beside the layer list."""
        dock = dock_of(self.panel)
        if dock is None:
            dock = self._context.viewer.window.add_dock_widget(
                self.panel, name="Cases", area="left", tabify=True, add_vertical_stretch=False
            )
        self.panel.show()
        dock.show()
        dock.raise_()

    # --- going through -------------------------------------------------------------------------

    def next(self) -> None:
        """Open the next case of those listed, in the order shown."""
        self._step(1)

    def previous(self) -> None:
        """Open the case before."""
        self._step(-1)

    def _step(self, by: int) -> None:
        key = self.panel.model.step(self._wanted or self.current.key, by)
        if key is None:
            self.panel.say(_LAST if by > 0 else _FIRST)
        else:
            self.open_case(key)

    def _why_no_list(self) -> str:
        return _NO_LIST if self.caselist is None else ""

    def open_case(self, key: str) -> None:
        """Show a case: at once if it was read ahead, else as soon as it is."""
        if self.caselist is None or not self._may_leave():
            return
        here = self.current
        if key == here.key and here.layer is not None:
            self._wanted = None
            self.panel.set_current(key)
            self._revive_soon.start()  # its masks may have come while it was out of view
            self._context.choose_layer(here.layer)
            return
        self._wanted = key
        self.panel.set_current(key)
        loaded = self.prefetch.take(key)
        if loaded is not None:
            self._show(loaded)
        else:
            self.panel.say(f"Opening {self.caselist.case(key).title} …")
            self.prefetch.want(self.caselist, [key])

    def _look_ahead(self) -> None:
        """Have the neighbours of the case in view read, the next one first."""
        if self.caselist is None or self._wanted is not None:
            return
        model, key = self.panel.model, self.current.key
        near = [other for other in (model.step(key, 1), model.step(key, -1)) if other != key]
        # What has just been made of the case in view may still be on its way.
        self.prefetch.want(self.caselist, [key, *near] if self.prefetch.reads(key) else near)

    def _may_leave(self) -> bool:
        runner = self._context.runner
        sessions = self._context.sessions.of(self.current.layer)
        if runner.busy and any(runner.session is one for one in sessions):
            self.panel.say(_RUNNING)
            return False
        return True

    def _leave_case(self) -> None:
        with as_one_change(self._context.viewer):
            for sentence in self.current.take_out():
                notify(sentence, "warning")

    def _on_ready(self, loaded: LoadedCase) -> None:
        if loaded.picture is not None:
            self.pictures.put(loaded.key, loaded.picture)
        if loaded.key == self._wanted:
            if self._may_leave():
                self._show(self.prefetch.take(loaded.key) or loaded)
            else:
                self._wanted = None
                self.panel.set_current(self.current.key)
        elif loaded.key == self.current.key:
            self._show_result(self.prefetch.take(loaded.key) or loaded)
        self._refresh_line(loaded.key)

    def _show(self, loaded: LoadedCase) -> None:
        """Show a case in place of the one in view."""
        context, cases = self._context, self.caselist
        assert cases is not None
        self._wanted, key, left = None, loaded.key, self.current.key
        with as_one_change(context.viewer):
            self._leave_case()
            if loaded.scan is None:
                self.current.key = key
            else:
                self.current.put(loaded)
        if loaded.scan is None:
            notify(loaded.problem)
            context.follow()  # now: later it would take what is wrong off the screen again
            context.fail(loaded.problem)
        else:
            self._revive_soon.start()
        self.panel.say(" ".join([loaded.problem, *loaded.notices]).strip())
        self.panel.set_current(key)
        self.batch.course.here = key
        if left is not None and self.batch.finished and needs_work(cases, cases.case(left)):
            self._start_soon = True  # it was not changed while it was looked at
            self._go_ahead()
        self._keep_choices(position=key)
        context.case = cases.case(key)
        context.case_changed.emit()
        context.touch()
        self._look_ahead()

    def _follow(self) -> None:
        """While another scan is in view, none of the cases is."""
        context, cases, here = self._context, self.caselist, self.current
        own = cases is not None and here.key is not None and context.scan is here.scan
        case = cases.case(here.key) if cases is not None and own and here.key else None
        if case is not context.case and self._wanted is None:
            context.case = case
            self.panel.set_current(None if case is None else case.key)
            context.case_changed.emit()

    def _show_result(self, loaded: LoadedCase) -> None:
        """Show what came of the case in view, if the user has nothing of their own there."""
        if loaded.run is None or self._context.runner.busy:
            return
        if self.current.untouched(loaded.choice):
            self.current.put_run(loaded.run, loaded.flags)
            self.current.choice = loaded.choice
            self._revive_soon.start()
            self._look_ahead()

    # --- runs on the case in view --------------------------------------------------------------

    def _revive(self) -> None:
        """Make the run in view live, once the user stays with its case."""
        session, folder = self.current.session(), self.current.run_folder
        if session is None or folder is None or session.run is not None:
            return
        if session.busy or self._context.runner.busy:
            self._revive_soon.start()
            return
        self._context.runner.revive(session, folder)

    def _on_run_ended(self, kind: str, outcome: Outcome) -> None:
        session = self._context.runner.session
        if kind in ("adapt", "masks") and outcome.kind == "done" and session is not None:
            self._keep(session)

    def _keep(self, session: Session) -> None:
        """Keep a session's run as it is now with the case in view, if it is that case's."""
        cases, run, work = self.caselist, session.run, self._work_of(session)
        if cases is None or run is None or run.folder is None or work is None:
            return
        if run.folder.parent == work.folder:
            self.current.run_folder, session.saved = run.folder, session.saved or "kept"
            self.queue.ask(("keep", work.key), partial(keep_run, cases, cases.case(work.key), run))

    # --- adapting ahead ------------------------------------------------------------------------

    def toggle_batch(self) -> None:
        """Adapt to all cases that are new, or pause that."""
        context, cases, entry = self._context, self.caselist, self._context.entry
        if self.batch.running:
            self.batch.pause()
            return
        if cases is None or self.batch.stopping:
            return
        if entry is None or entry.card is None:
            self.panel.say("Choose a model first.")
            return
        self._keep_choices(model=entry.name, settings=context.settings.to_dict())
        order = Order(cases, entry.folder, context.device, context.settings, *self._begin)
        self.batch.start(order, self.current.key)

    def _go_ahead(self) -> None:
        """Start as soon as the worker has ended with its present step."""
        if self._start_soon and not (self.batch.running or self.batch.stopping):
            self._start_soon = False
            self.toggle_batch()

    def _say_batch(self) -> None:
        batch, panel = self.batch, self.panel
        if batch.stopping:
            panel.say_batch("off", "Pausing after the step in progress …")
        elif batch.waiting:
            panel.say_batch("waiting", "Adapting ahead waits for your own run.")
        elif batch.running:
            panel.say_batch("running", "Adapting the cases ahead. You can review meanwhile.")
        else:
            words = batch.problem or ("All cases that could be are adapted." * batch.finished)
            panel.say_batch("off" if self.caselist is None else "idle", words)

    def _step_aside(self) -> None:
        self.batch.step_aside(self._context.runner.busy)

    def _on_done(self, key: str) -> None:
        cases = self.caselist
        if cases is None or key not in {case.key for case in cases.cases}:
            return
        self.pictures.renew(key)
        self.prefetch.drop(key)
        self._refresh_line(key)
        if key == self.current.key:
            summary = cases.summary(key)
            if summary and summary.adapted and self.current.untouched(summary.choice):
                self.prefetch.want(cases, [key])
        else:
            self._look_ahead()

    # --- lines of the panel --------------------------------------------------------------------

    def _row(self, case: Case) -> Any:
        assert self.caselist is not None
        return row_of(self.caselist, case, *self._work.get(case.key, ("", 0.0)))

    def _show_all(self) -> None:
        self._dirty.clear()
        cases = self.caselist
        self.panel.model.set_rows([self._row(case) for case in cases.cases] if cases else [])
        self._show_progress()

    def _refresh_line(self, key: str) -> None:
        self._dirty.add(key)
        if not self._lines_soon.isActive():
            self._lines_soon.start()

    def _set_work(self, work: Work) -> None:
        changed = set(self._work) | set(work)
        self._work = dict(work)
        for key in changed:
            self._refresh_line(key)

    def _update_lines(self) -> None:
        cases = self.caselist
        dirty, self._dirty = self._dirty, set()
        if cases is not None:
            self.panel.model.update_rows(self._row(c) for c in cases.cases if c.key in dirty)
            self._show_progress()

    def _show_progress(self) -> None:
        panel, cases = self.panel, self.caselist
        if cases is None:
            panel.progress.say("")
            panel.bar.setValue(0)
            return
        progress = cases.progress()
        panel.progress.say(progress_words(progress))
        panel.bar.setMaximum(max(1, progress.total))
        panel.bar.setValue(progress.decided)
        panel.menu_button.setToolTip(f"{cases.title}. Open another list, or close it.")

    # --- what comes back -----------------------------------------------------------------------

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            notify(str(found.error))
            self.panel.say(str(found.error))
            if found.key == "open":
                self._context.fail(str(found.error))
        elif found.key == "open":
            self._take_list(found.result)
            self.queue.ask("recent", recent_lists)
        elif found.key == "move":
            if self.caselist is not None:
                self.prefetch.want(self.caselist, ())
            self._show_all()
            self.panel.say("The scans were found at their new place.")
        elif found.key == "carried":
            self._start_soon = True
            self._go_ahead()
        elif found.key == "recent":
            self._context.recent_lists_changed.emit(found.result)
        elif isinstance(found.key, tuple) and found.key[0] == "keep":
            self.pictures.renew(found.key[1])
            self._refresh_line(found.key[1])
        if self.caselist is not None and self.caselist.save_problem:
            self.panel.say(self.caselist.save_problem)

    def _on_decision(self) -> None:
        if self.current.key is not None:
            self._refresh_line(self.current.key)

    def _choice_changed(self) -> None:
        filtered, text, order = self.panel.choices()
        self._keep_choices(filter=filtered, text=text, order=order)
        self._look_ahead()

    def _carry_changed(self, on: bool) -> None:
        self._keep_choices(carry=on)

    def _keep_choices(self, **choices: Any) -> None:
        """Keep choices with the list: it goes on in the same way when it is opened again."""
        if self.caselist is not None:
            self.queue.ask(tuple(choices), partial(self.caselist.choose, **choices))

    def _closing(self) -> bool:
        """The window closes: the work ahead ends with its step, or the program would wait."""
        self.batch.pause()
        return True


def _close_lists(lists: list[CaseList]) -> None:
    """Let another program write to the list, once the dock is gone."""
    while lists:
        lists.pop().close()
