"""The dock: assembles the sections, shows the state, and binds the keys; the work is elsewhere."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any

import napari.viewer
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_grata.widgets import keys
from napari_grata.widgets.adapt_section import AdaptSection
from napari_grata.widgets.bar import Legend, NextStepButton, ProgressLine
from napari_grata.widgets.cases import Cases
from napari_grata.widgets.compare import ViewControl
from napari_grata.widgets.context import Context
from napari_grata.widgets.correct_section import CorrectSection
from napari_grata.widgets.decide_section import DecideBar
from napari_grata.widgets.export_section import ExportSection
from napari_grata.widgets.help import show_help
from napari_grata.widgets.measure_section import MeasureSection
from napari_grata.widgets.methods_page import MethodsPage
from napari_grata.widgets.model_section import ModelSection, models_among
from napari_grata.widgets.qt_parts import (
    DropTarget,
    Sentence,
    StepSection,
    button,
    column,
    copy_text,
    notify,
)
from napari_grata.widgets.scan_layer import fit_view
from napari_grata.widgets.scan_section import OpenButtons, ScanSection
from napari_grata.widgets.slice_table import SliceTable
from napari_grata.widgets.state import DockState, Step, dock_state, facts_of
from napari_grata.widgets.steps import StepsSection
from napari_grata.widgets.theme import ThemeColours, sheet
from napari_grata.widgets.timeline import Timeline
from napari_grata.widgets.weigh_section import WeighSection

WIDTH = 340


class GrataDock(DropTarget):
    """Segment a scan, adapt the model to it, compare, correct and decide.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        Given by napari.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        # napari hands plugins a proxy; layers that come out of it are proxies too, and no longer
        # identical to those in events.
        viewer = getattr(viewer, "__wrapped__", viewer)
        self.context = Context(viewer, self)
        self._opened_by_user: Step | None = None
        self._timeline_offered = False
        self._state: DockState | None = None
        self._build()
        self._lay_out()
        self._wire()
        self._show_theme(self.context.theme)
        self.context.follow()
        self.refresh()

    # --- building ----------------------------------------------------------------------------

    def _build(self) -> None:
        context = self.context
        self.message = Sentence(3)
        self.details_button = button(
            "Copy details",
            "Copy what happened, for a report of the problem.",
            small=True,
            clicked=self._copy_details,
        )
        self.hint = Sentence(1, "grata_small")
        self.scan = ScanSection(context)
        self.model = ModelSection(context)
        self.adapt = AdaptSection(context)
        self.decide = DecideBar(context)
        self.correct = CorrectSection(context)
        self.weigh = WeighSection(context)
        self.export = ExportSection(context)
        self.measures = MeasureSection(context)
        # Before the list of cases, which keeps what this has made the result.
        self.methods = MethodsPage(context, self.measures)
        self.cases = Cases(context)
        self.view_control = ViewControl(context)
        self.timeline = Timeline(context)
        self.timeline.add_to_header(self.view_control)
        self.timeline.add_tab("Curves", StepsSection(context))
        self.timeline.add_tab("Slices", SliceTable(context), only_stacks=True)
        self.timeline.add_tab("Measures", self.measures)
        self.timeline.add_tab("Methods", self.methods)
        self.timeline.add_tab("Weighing", self.weigh.page, only_stacks=True)
        self.help_button = button("?", "Keys and help", small=True, clicked=self._show_help)
        self.first_buttons = OpenButtons()
        self.progress = ProgressLine(context)
        self.legend = Legend(context)
        self.next = NextStepButton(context)
        bodies = {
            Step.SCAN: self.scan,
            Step.MODEL: self.model,
            Step.ADAPT: self.adapt,
            Step.CORRECT: column(self.correct, self.weigh, self.decide.notes, spacing=6),
            Step.TAKE_OUT: self.export,
        }
        self.steps = {step: StepSection(step.value, body) for step, body in bodies.items()}

    def _lay_out(self) -> None:
        self.pages = QStackedWidget()
        self.pages.addWidget(self._empty_page())
        self.pages.addWidget(self._full_page())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.pages)
        self.setMinimumWidth(WIDTH)
        # napari adds empty room below a dock in which nothing wants to grow taller.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def _empty_page(self) -> QWidget:
        page = QWidget()
        self.first_words = QLabel()
        self.first_words.setWordWrap(True)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(12, 12, 12, 12)
        layout.setSpacing(8)
        layout.addWidget(self.first_words)
        layout.addWidget(self.first_buttons)
        layout.addStretch(1)
        return page

    def _full_page(self) -> QWidget:
        page = QWidget()
        top = QWidget()
        head = QHBoxLayout(top)
        head.setContentsMargins(8, 4, 8, 0)
        head.addWidget(self.message, 1)
        head.addWidget(self.details_button, 0, Qt.AlignmentFlag.AlignTop)
        head.addWidget(self.help_button, 0, Qt.AlignmentFlag.AlignTop)
        inner = QWidget()
        steps = QVBoxLayout(inner)
        steps.setContentsMargins(8, 0, 8, 0)
        steps.setSpacing(3)
        for step in self.steps.values():
            steps.addWidget(step)
        steps.addStretch(1)
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        bar = QFrame()
        bar.setObjectName("grata_bar")
        bar.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        foot = QVBoxLayout(bar)
        foot.setContentsMargins(8, 4, 8, 6)
        foot.setSpacing(4)
        for widget in self._bar_widgets():
            foot.addWidget(widget)
        layout = QVBoxLayout(page)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(top)
        layout.addWidget(area, 1)
        layout.addWidget(bar)
        return page

    def _bar_widgets(self) -> list[QWidget]:
        return [self.hint, self.progress, self.next, self.legend, self.decide]

    def _wire(self) -> None:
        context = self.context
        context.changed.connect(self.refresh)
        context.said.connect(self.hint.say)
        # A hint is about what is in view, or about the brush.
        context.scan_changed.connect(self._forget_hint)
        context.painting_changed.connect(self._forget_hint)
        context.theme_changed.connect(self._show_theme)
        context.runner.ended.connect(self._on_ended)
        context.scan_changed.connect(self._forget_open_step)
        context.session_changed.connect(self._forget_open_step)
        context.session_changed.connect(self._open_timeline)
        self.dropped.connect(self._on_dropped)
        self.timeline.docked.connect(self._canvas_is_lower)
        self.weigh.weighed.connect(partial(self._show_page, "Weighing"))
        context.methods_requested.connect(partial(self._show_page, "Methods"))
        # There is room for one thing at a time.
        self.weigh.unfolded.connect(self.correct.teaching.setHidden)
        self.weigh.unfolded.connect(self.decide.notes.setHidden)
        self.first_buttons.open_requested.connect(context.open_requested)
        context.recent_lists_changed.connect(self.first_buttons.set_recent)
        for step, section in self.steps.items():
            section.open_requested.connect(partial(self._toggle_step, step))
        perform = partial(_perform, weakref.ref(self))
        bound = keys.bind_keys(context.viewer, perform)
        for widget in (self, self.timeline):
            keys.add_shortcuts(widget, bound, perform)
        context.connections.at_end(partial(_unbind, weakref.ref(context.viewer), bound))

    # --- what the user does --------------------------------------------------------------------

    def _toggle_step(self, step: Step) -> None:
        """Open a step, or fold it back to the one whose turn it is."""
        self._opened_by_user = None if self._opened_by_user is step else step
        self.refresh()

    def _forget_open_step(self) -> None:
        self._opened_by_user = None
        self.context.touch()

    def _forget_hint(self, *_: object) -> None:
        self.hint.say("")

    def _copy_details(self) -> None:
        copy_text(self.context.details)

    def _show_help(self) -> None:
        show_help(self.context)

    def _on_dropped(self, paths: list[str]) -> None:
        """Add models, make a list of cases, or open a scan."""
        models = models_among(paths)
        if models:
            self.model.add(models)
        else:
            self.scan.drop(paths)

    # --- what is shown -------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring the dock in line with the situation."""
        facts = facts_of(self.context)
        state = self._state = dock_state(facts)
        self.pages.setCurrentIndex(1 if state.steps else 0)
        self.first_words.setText(state.message)
        self.message.say(state.message, state.tone)
        self.details_button.setVisible(bool(self.context.details) and state.tone == "wrong")
        shown = self._opened_by_user
        if shown is None or (state.steps and state.steps[shown].waiting):
            shown = state.open_step
        for step, section in self.steps.items():
            there = state.steps.get(step)
            if there is not None:
                section.show_state(
                    is_open=step is shown, summary=there.summary, waiting=there.waiting
                )
        self.progress.show_state(state)
        self.next.show_next(state.next)

    def _show_theme(self, colours: ThemeColours) -> None:
        for widget in (self, self.timeline):
            widget.setStyleSheet(sheet(colours))

    def _on_ended(self, kind: str, outcome: Any) -> None:
        if outcome.kind == "failed":
            notify(outcome.message)
        self._forget_open_step()

    def _open_timeline(self) -> None:
        """Where there is something to compare, the timeline opens; once closed it stays so."""
        session = self.context.session
        if session is not None and session.can_compare and not self._timeline_offered:
            self._timeline_offered = True
            self.timeline.open_below()

    def _show_page(self, name: str) -> None:
        self.timeline.open_below()
        self.timeline.show_tab(name)

    def _canvas_is_lower(self) -> None:
        """Once the windows have their sizes, all of the scan should be in view again."""
        QTimer.singleShot(300, self._fit_view)

    def _fit_view(self) -> None:
        fit_view(self.context.viewer, [self.context.layer], moved=False)


def _perform(dock: weakref.ref[GrataDock], action: str) -> None:
    """Do what a key stands for."""
    found = dock()
    if found is not None:
        found.context.actions.perform(action)


def _unbind(viewer: weakref.ref[Any], bound: list[str]) -> None:
    found = viewer()
    if found is not None:
        keys.unbind_keys(found, bound)
