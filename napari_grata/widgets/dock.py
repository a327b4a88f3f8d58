"""The dock: sections, desk and runner, wired together; the work is done elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import napari.viewer
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_grata.adaptation.settings import SettingsError
from napari_grata.widgets import candidates, keys, showing
from napari_grata.widgets.adapt_section import AdaptSection, ProgressBar
from napari_grata.widgets.choosing import Choosing
from napari_grata.widgets.companions import Companions
from napari_grata.widgets.desk import Desk
from napari_grata.widgets.features import Slots, add_features
from napari_grata.widgets.jumps import Jumps
from napari_grata.widgets.model_section import ModelSection
from napari_grata.widgets.opening import Opening
from napari_grata.widgets.parts import Sentence, Still, button, scrolling
from napari_grata.widgets.places import rectangles
from napari_grata.widgets.regions import Regions
from napari_grata.widgets.review_section import ReviewSection
from napari_grata.widgets.saving import Saving
from napari_grata.widgets.scan_section import ScanSection
from napari_grata.widgets.settings_store import SettingsStore
from napari_grata.widgets.sheet import sheet
from napari_grata.widgets.state import Look, look
from napari_grata.widgets.steps import Steps
from napari_grata.widgets.theme import theme_colours
from napari_grata.widgets.ties import ClosingWatch, Ties
from napari_grata.widgets.warm_up import WarmUp

WIDTH = 360
_LATE_MS = 100


class GrataDock(QWidget):
    """Segment a scan, adapt the model to it, compare.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Given by napari.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy; layers that come out of it are proxies too, and no longer
        # identical to those in events.
        self.viewer: Any = getattr(viewer, "__wrapped__", viewer)
        self.store = SettingsStore()
        self.desk = Desk(self.viewer, self.store, self)
        self.look: Look | None = None
        self.verbs: dict[str, Callable[[], None]] = {}
        self._shown = False
        self._build()
        self._lay_out()
        self.choosing.restore()
        self._wire()
        self._tie()
        self.jumps = Jumps(self)
        add_features(self)
        self._layers_changed()
        self._theme_changed()

    def _build(self) -> None:
        self.message = Sentence(3)
        self.message.setObjectName("grata_message")
        self.details_button = button(
            "Copy details", "Copy what happened, for a report of the problem.", small=True
        )
        self.scan = ScanSection()
        self.model = ModelSection()
        self.adapt = AdaptSection()
        self.slots = Slots()
        self.review = ReviewSection(self.slots)
        self.progress = ProgressBar()
        self.companions = Companions(self)
        self.opening = Opening(self.viewer, self.store, self)
        self.saving = Saving(self.desk, self)
        self.regions = Regions(self.viewer, self)
        self.warm_up = WarmUp(self)
        self.watch = ClosingWatch(self)
        self.choosing = Choosing(self)
        self.steps = Steps(self, self.adapt.steps)
        self._named: weakref.WeakSet[Any] = weakref.WeakSet()
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._late = QTimer(self)
        self._late.setSingleShot(True)
        self._progress: tuple[int, int, str] | None = None

    def _lay_out(self) -> None:
        slots = self.slots
        self.area = scrolling(
            self.scan,
            self.model,
            slots.shift,
            self.adapt,
            self.review,
            slots.correct,
            slots.decide,
            slots.take_out,
            self.companions.fold,
        )
        head = QHBoxLayout()
        head.setContentsMargins(8, 4, 8, 0)
        head.addWidget(self.message, 1)
        head.addWidget(self.details_button, 0, Qt.AlignmentFlag.AlignTop)
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(self.area, 1)
        layout.addWidget(slots.bar)
        layout.addWidget(self.progress)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(Still(inner))
        self.setMinimumWidth(WIDTH)
        self.setAcceptDrops(True)

    def _wire(self) -> None:
        desk, runner = self.desk, self.desk.runner
        runner.watch = self.watch
        wires: Any = (
            (self.scan.selection_changed, self._refresh),
            (self.scan.open_file, self.opening.ask_file),
            (self.scan.open_folder, self.opening.ask_folder),
            (self.scan.open_sample, self.opening.open_sample),
            (self.scan.draw_region, self._draw_region),
            (self.opening.opened, self._opened),
            (self.opening.failed, desk.fail),
            (self.regions.changed, self._regions_changed),
            (self.model.card_wanted, self.companions.show_card),
            (self.model.add_wanted, self.opening.add_model),
            (self.model.segment_wanted, self._segment),
            (self.adapt.adapt_wanted, self._adapt),
            (self.adapt.plot.step_clicked, desk.go_to),
            (self.review.toggle_wanted, desk.toggle_masks),
            (self.review.difference_wanted, desk.cycle_difference),
            (self.review.fill_wanted, desk.toggle_fill),
            (self.review.save_wanted, self.saving.save),
            (self.review.reopen_wanted, self.saving.reopen),
            (self.review.table.slice_clicked, desk.go_to),
            (self.saving.said, self.review.shown.say),
            (self.saving.reopened, self._show_saved_run),
            (self.progress.pause_wanted, self._pause_or_resume),
            (self.progress.cancel_wanted, runner.cancel),
            (self.details_button.clicked, self._copy_details),
            (desk.changed, self._refresh),
            (desk.session_changed, self._show_session),
            (desk.shown, self.review.shown.say),
            (desk.shown, self.steps.leave),
            (self.adapt.steps.moved, self._mark_step),
            (runner.progressed, self._follow),
            (self.adapt.plot.drawn, self._say_progress),
            (self._late.timeout, self._say_progress),
            (runner.records, self._take_records),
            (runner.noticed, show_info),
            (runner.ended, self._ended),
            (self.warm_up.failed, desk.fail),
            (self._soon.timeout, self._layers_changed),
        )
        for signal, slot in wires:
            signal.connect(slot)

    def _tie(self) -> None:
        ties = self.ties = Ties(self)
        layers = self.viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.reordered):
            ties.listen(emitter, self._layers_will_change)
        ties.listen(self.viewer.events.theme, self._theme_changed)
        ties.listen(self.viewer.dims.events.current_step, self._slice_changed)
        perform = partial(_act, weakref.ref(self))
        bound = keys.bind_keys(self.viewer, perform)
        keys.add_shortcuts(self, bound, perform)
        ties.at_end(partial(_unbind, weakref.ref(self.viewer), bound))
        ties.at_end(partial(_close_runs, weakref.ref(self.desk.sessions)))
        ties.at_end(self.desk.runner.job.token.end)
        ties.at_end(self.steps.previews.end())
        ties.at_end(self.desk.runner.activity.close)

    # --- what the viewer says ----------------------------------------------------------------

    def _layers_will_change(self, event: Any = None) -> None:
        """Look at the layers once, after all changes of this moment."""
        for layer in self.viewer.layers:
            if layer not in self._named:
                self._named.add(layer)
                self.ties.listen(layer.events.name, self._layers_will_change)
        self._soon.start(0)

    def _layers_changed(self) -> None:
        self.scan.set_layers(candidates.scan_layers(self.viewer))
        self.choosing.choose()
        self._regions_changed()

    def _theme_changed(self, event: Any = None) -> None:
        name = self.viewer.theme
        self.setStyleSheet(sheet(theme_colours(name)))
        for part in (self.adapt.plot, self.review.table, self.companions):
            part.set_theme(name)

    def _regions_changed(self) -> None:
        scan, layer = self.desk.scan, self.desk.layer
        boxes = rectangles(self.viewer, scan, layer) if scan is not None else []
        self.scan.set_boxes(boxes)
        if self.regions.take_fresh(len(boxes)):
            self.scan.choose_last_box()

    def _slice_changed(self, event: Any = None) -> None:
        if self.desk.scan is not None:
            if self.desk.runner.kind is None:
                self.review.table.select_slice(self.desk.in_view())
            self.steps.look_again()

    # --- what the person does ----------------------------------------------------------------

    def _opened(self, layer: Any) -> None:
        self.desk.problem = None
        self._layers_changed()
        self.scan.choose(layer)
        self._refresh()

    def _draw_region(self) -> None:
        if self.desk.scan is not None and self.desk.layer is not None:
            self.regions.draw(self.desk.layer)

    def _segment(self) -> None:
        self.watch.find_window()
        self.desk.segment(self.model.device_key(), self.scan.slices_text(), self.scan.box())

    def _adapt(self) -> None:
        self.watch.find_window()
        try:
            settings = self.adapt.settings()
        except SettingsError as error:
            self.desk.fail(str(error))
            return
        where = self.adapt.run_parent()
        self.desk.adapt(
            self.model.device_key(), settings, self.scan.slices_text(), self.scan.box(), where
        )
        if self.desk.runner.kind == "adapt" and self.adapt.curves.expanded:
            self.area.ensureWidgetVisible(self.adapt.curves, 0, 0)

    def _pause_or_resume(self) -> None:
        runner = self.desk.runner
        runner.resume() if runner.paused else runner.pause()

    def _copy_details(self) -> None:
        clipboard = QGuiApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.desk.details)

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Offer the tour at the very first time."""
        super().showEvent(event)
        if not self._shown:
            self._shown = True
            QTimer.singleShot(400, self.companions.offer_tour)

    def dragEnterEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Take files and folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Add models, or open scans."""
        event.acceptProposedAction()
        self.opening.drop(event.mimeData())

    # --- what is shown -------------------------------------------------------------------------

    def _take_records(self, records: list[Any]) -> None:
        session = self.desk.session
        if session is not None and self.desk.runner.session is session:
            self.adapt.plot.set_resets(session.resets)
            self.adapt.plot.add_records(records)
            for record in records:
                self.review.table.add_record(record)

    def _follow(self, done: int, total: int, text: str) -> None:
        """Say how far the run is, in the same redraw of the window as its curves."""
        self._progress = done, total, text
        if done and self.adapt.plot.isVisible() and self.desk.runner.kind == "adapt":
            self._late.start(_LATE_MS)
        else:
            self._say_progress()

    def _say_progress(self) -> None:
        said, self._progress = self._progress, None
        if said is not None:
            self.progress.follow(*said)

    def _mark_step(self, step: int) -> None:
        self.adapt.plot.set_marker(step if step >= 0 else None)

    def _show_session(self) -> None:
        showing.show_session(self)

    def _show_saved_run(self, run: Any, records: list[Any]) -> None:
        showing.show_saved_run(self, run, records)

    def _ended(self, kind: str, outcome: Any) -> None:
        self._progress = None
        self.progress.rest()
        self.review.table.refresh()
        if outcome.kind == "failed":
            show_error(outcome.message)
        elif kind == "adapt" and outcome.kind == "done":
            self.area.ensureWidgetVisible(self.review, 0, 0)

    def _refresh(self) -> None:
        facts = self.desk.facts()
        self.look = look(facts)
        showing.dress(self, self.look, facts)


def _act(dock: weakref.ref[GrataDock], action: str) -> None:
    """Do what a key stands for: a feature's verb, or the desk's."""
    found = dock()
    if found is not None:
        act = found.verbs.get(action, getattr(found.desk, action, None))
        if act is not None:
            act()


def _unbind(viewer: weakref.ref[Any], bound: list[str]) -> None:
    found = viewer()
    if found is not None:
        keys.unbind_keys(found, bound)


def _close_runs(sessions: weakref.ref[Any]) -> None:
    found = sessions()
    if found is not None:
        found.close_runs()
