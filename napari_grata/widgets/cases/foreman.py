"""The button "Adapt all": gives the worker ahead its orders and shows what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_grata.adaptation.settings import SettingsError
from napari_grata.widgets.cases.ahead import Ahead, Order
from napari_grata.widgets.cases.loading import LoadedCase

if TYPE_CHECKING:
    from napari_grata.widgets.cases.feature import Cases


class Foreman(QObject):
    """Starts and pauses the worker ahead, and brings its results into the list and into view.

    Parameters
    ----------
    cases : Cases
    dock : GrataDock
    ahead : Ahead
    """

    def __init__(self, cases: Cases, dock: Any, ahead: Ahead) -> None:
        super().__init__(cases)
        self._cases, self._dock, self._ahead = cases, dock, ahead
        self._start: Any = None
        self._again: frozenset[str] = frozenset()
        self._start_soon = False
        panel, runner = cases.panel, dock.desk.runner
        wires: Any = (
            (panel.ahead_wanted, self.toggle),
            (panel.carry_changed, self._carry_changed),
            (ahead.changed, self.say),
            (ahead.changed, self._go_ahead),
            (ahead.progressed, cases.lines.set_work),
            (ahead.done, self._on_done),
            (runner.changed, self._runner_changed),
        )
        for signal, slot in wires:
            signal.connect(slot)

    def toggle(self) -> None:
        """Adapt to all cases that are new, or pause that."""
        cases, dock, ahead = self._cases, self._dock, self._ahead
        if ahead.running:
            ahead.pause()
            return
        if cases.list is None or ahead.stopping:
            return
        entry = dock.model.entry()
        if entry is None or entry.card is None:
            cases.panel.say("Choose a model first.")
            return
        try:
            settings = dock.adapt.settings()
        except SettingsError as error:
            cases.panel.say(str(error))
            return
        # Kept with the list, so that it goes on in the same way when it is opened again.
        choose = partial(cases.list.choose, model=entry.name, settings=settings.to_dict())
        cases.errands.ask("choices", choose)
        dock.watch.find_window()
        begin = (self._start, self._again)
        order = Order(cases.list, entry.folder, dock.model.device_key(), settings, *begin)
        ahead.start(order, cases.shelf.key)

    def begin_with(self, start: Any, again: Sequence[str]) -> None:
        """Adapt these cases from an adapted model on, until said otherwise; None: as ever.

        Those of them that are adapted but not decided are done anew.
        """
        self._start, self._again = start, frozenset(again)
        self._start_soon = start is not None
        if self._ahead.running:
            self._ahead.pause()
        self._go_ahead()

    def forget(self) -> None:
        """Another list, or none: cases begin with the model as it is again."""
        self._start, self._again, self._start_soon = None, frozenset(), False

    def _go_ahead(self) -> None:
        """Start as soon as the worker has ended with its present step."""
        if self._start_soon and not (self._ahead.running or self._ahead.stopping):
            self._start_soon = False
            self.toggle()

    def say(self) -> None:
        """Say what the worker ahead does."""
        ahead, panel = self._ahead, self._cases.panel
        if ahead.stopping:
            panel.say_ahead("off", "Pausing after the step in progress …")
        elif ahead.waiting:
            panel.say_ahead("waiting", "Adapting ahead waits for your own run.")
        elif ahead.running:
            panel.say_ahead("running", "Adapting the cases ahead. You can review meanwhile.")
        else:
            words = ahead.problem or ("All cases that could be are adapted." * ahead.finished)
            panel.say_ahead("off" if self._cases.list is None else "idle", words)

    def _carry_changed(self, on: bool) -> None:
        cases = self._cases
        if cases.list is not None:
            cases.errands.ask("carry", partial(cases.list.choose, carry=on))

    def _runner_changed(self) -> None:
        self._ahead.step_aside(self._dock.desk.runner.kind is not None)

    def _on_done(self, key: str) -> None:
        cases = self._cases
        if cases.list is None or key not in {case.key for case in cases.list.cases}:
            return
        cases.pictures.renew(key)
        cases.prefetch.drop(key)
        cases.refresh_case(key)
        if key == cases.shelf.key:
            summary = cases.list.summary(key)
            if summary is not None and summary.adapted and cases.shelf.untouched():
                cases.prefetch.want(cases.list, [key])
        else:
            cases.look_ahead()

    def show_result(self, loaded: LoadedCase) -> None:
        """Show what came of the case in view, if the person has nothing of their own there."""
        cases = self._cases
        busy = self._dock.desk.runner.kind is not None
        if loaded.run is None or busy or not cases.shelf.untouched():
            return
        if cases.shelf.put_run(loaded.run) is not None:
            cases.runs.revive_soon()
        cases.look_ahead()
