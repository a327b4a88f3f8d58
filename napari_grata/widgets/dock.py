"""The dock: assembles the sections, shows the state, and binds the keys; the work is elsewhere."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import groupby
from typing import Any

import napari.viewer
from jinja2 import Environment, StrictUndefined
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QWidget,
)

from napari_grata import __version__
from napari_grata.widgets import keys
from napari_grata.widgets.adapt_section import AdaptSection
from napari_grata.widgets.bar import Legend, NextStepButton, ProgressLine
from napari_grata.widgets.cases import Cases
from napari_grata.widgets.compare import ViewControl
from napari_grata.widgets.context import Context
from napari_grata.widgets.correct_section import CorrectSection
from napari_grata.widgets.decide_section import DecideBar
from napari_grata.widgets.export_section import ExportSection
from napari_grata.widgets.measure_section import MeasureSection
from napari_grata.widgets.methods_page import MethodsPage
from napari_grata.widgets.model_section import ModelSection, models_among
from napari_grata.widgets.qt_parts import (
    DropTarget,
    Sentence,
    StepSection,
    button,
    column,
    column_in,
    copy_text,
    dialog,
    notify,
    page,
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
PAPER = (
    "Chen Z, Ye Y, Pan Y, Xia Y. Gradient Alignment Improves Test-Time Adaptation for Medical "
    "Image Segmentation. AAAI Conference on Artificial Intelligence, 2025. arXiv:2408.07343."
)
_SHEET = """
<table cellspacing="4" cellpadding="1">
{% for group, actions in groups %}<tr><td colspan="2"><b>{{ group }}</b></td></tr>
{% for action in actions %}<tr>
<td align="center" style="background-color: {{ colours.foreground }}; color: {{ colours.text }}">
&nbsp;<b>{{ action.key }}</b>&nbsp;</td><td>&nbsp;&nbsp;{{ action.words }}</td></tr>{% endfor %}
{% endfor %}</table>
<p><b>napari-grata {{ version }}</b></p>
<p>Research software, not a medical device. Masks are suggestions that a person has to check.</p>
<p>Everything is computed on this machine; nothing is sent anywhere.</p>
<p>The method: {{ paper }}</p>
"""


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
        column_in(self, self.pages)
        self.setMinimumWidth(WIDTH)
        # napari adds empty room below a dock in which nothing wants to grow taller.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def _empty_page(self) -> QWidget:
        page = QWidget()
        self.first_words = QLabel()
        self.first_words.setWordWrap(True)
        layout = column_in(page, self.first_words, self.first_buttons, spacing=8)
        layout.setContentsMargins(12, 12, 12, 12)
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
        steps = column_in(inner, *self.steps.values(), spacing=3)
        steps.setContentsMargins(8, 0, 8, 0)
        steps.addStretch(1)
        area = QScrollArea()
        area.setWidget(inner)
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        bar = QFrame()
        bar.setObjectName("grata_bar")
        bar.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        foot = column_in(bar, self.hint, self.progress, self.next, self.legend, self.decide)
        foot.setContentsMargins(8, 4, 8, 6)
        layout = column_in(page, top, area, bar, spacing=2)
        layout.setStretchFactor(area, 1)
        return page

    def _wire(self) -> None:
        context = self.context
        context.changed.connect(self.refresh)
        context.said.connect(self.hint.say)
        # A hint is about what is in view, a region to be drawn, or the brush.
        context.scan_changed.connect(self._forget_hint)
        context.region_changed.connect(self._forget_hint)
        context.painting_changed.connect(self._forget_hint)
        context.theme_changed.connect(self._show_theme)
        context.runner.ended.connect(self._on_ended)
        context.scan_changed.connect(self._forget_open_step)
        context.session_changed.connect(self._forget_open_step)
        context.session_changed.connect(self._open_timeline)
        self.dropped.connect(self._on_dropped)
        for laid_out_anew in (self.timeline.docked, context.scan_changed):
            laid_out_anew.connect(self._canvas_is_lower)
        self.weigh.weighed.connect(partial(self._show_page, "Weighing"))
        context.methods_requested.connect(partial(self._show_page, "Methods"))
        # There is room for one thing at a time.
        self.weigh.unfolded.connect(self.correct.teaching.setHidden)
        self.weigh.unfolded.connect(self.decide.notes.setHidden)
        self.first_buttons.open_requested.connect(context.open_requested)
        context.recent_lists_changed.connect(self.first_buttons.set_recent)
        for step, section in self.steps.items():
            section.open_requested.connect(partial(self._toggle_step, step))
        bound = keys.bind_keys(context.viewer, context.actions)
        for widget in (self, self.timeline):
            keys.add_shortcuts(widget, bound, context.actions)
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


def _unbind(viewer: weakref.ref[Any], bound: list[str]) -> None:
    found = viewer()
    if found is not None:
        keys.unbind_keys(found, bound)


def show_help(context: Context) -> QDialog:
    """Open keys and *About* in one window."""
    with_key = [action for action in keys.ACTIONS if action.key]
    groups = [(name, list(found)) for name, found in groupby(with_key, lambda a: a.group)]
    sheet = Environment(autoescape=True, undefined=StrictUndefined).from_string(_SHEET)
    html = sheet.render(groups=groups, colours=context.theme, version=__version__, paper=PAPER)
    title = "Keys and help"
    made, buttons = dialog(context.widget, title, page(title, html, context.theme))
    copy = buttons.addButton("Copy citation", QDialogButtonBox.ButtonRole.ActionRole)
    assert copy is not None
    copy.clicked.connect(lambda _checked=False: copy_text(PAPER))
    made.resize(560, 660)  # of a screen of 768 pixels
    made.show()
    return made
