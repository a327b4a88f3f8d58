"""Step *Adapt*: the method and its settings, where runs are kept, and what starts a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible

from napari_grata.adaptation.settings import PRESETS, Settings
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import (
    Sentence,
    ask_folder,
    button,
    choice,
    column_in,
    line_in,
    offer,
    row,
)
from napari_grata.widgets.settings_form import SettingsForm
from napari_grata.widgets.state import ADAPT_WORDS, facts_of

_SEGMENT_WORDS = "Outline the structures with the model as it was trained, and no more."


class AdaptSection(QWidget):
    """Method, all its settings, Segment and Adapt; after a cancel *Go on* and *Finish*."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.method = choice(name="Method")
        self.method.setMinimumContentsLength(5)  # a button stands beside it
        for preset in PRESETS.values():
            self.method.addItem(preset.title, preset.name)
            index = self.method.count() - 1
            self.method.setItemData(index, preset.summary, Qt.ItemDataRole.ToolTipRole)
        self.summary = Sentence(3, "grata_small")
        self.form = SettingsForm(context.settings)
        self.advanced = QCollapsible("All settings")
        self.advanced.addWidget(self.form)
        self.advanced.setToolTip("Every setting of the method, for those who know it.")
        self.keep = choice(name="Keep run")
        self.time = Sentence(1, "grata_small")
        self.segment_button = button("Segment only", _SEGMENT_WORDS, clicked=context.runner.segment)
        self.adapt_button = button("Adapt", ADAPT_WORDS, clicked=context.runner.adapt)
        self.compare_button = button(
            "Compare …",
            "Run several methods on this scan and see them side by side.",
            small=True,
            clicked=context.methods_requested.emit,
        )
        self.unfinished_words = Sentence(1, "grata_small")
        self.go_on_button = button(
            "Go on",
            "Go on adapting from where the run stands.",
            clicked=partial(context.runner.go_on, finish=False),
        )
        self.finish_button = button(
            "Finish with what was learned",
            "Learn no more, and give every slice that has no adapted mask, or only a passing one, "
            "its mask from what the model has learned so far.",
            clicked=partial(context.runner.go_on, finish=True),
        )
        self.unfinished = QWidget()
        below = column_in(self.unfinished, self.unfinished_words, spacing=2)
        line_in(below, (self.finish_button, 2), (self.go_on_button, 1))
        layout = column_in(
            self,
            row(
                "Method",
                self.method,
                self.compare_button,
                tip="How the model gets used to the new scan.",
            ),
            self.summary,
            self.advanced,
            row(
                "Keep run",
                self.keep,
                tip="Where to keep each run as it goes: settings, curves, masks and every step, to "
                "be opened again later. It names the scan, so choose a place that may.",
            ),
            self.time,
        )
        line_in(layout, (self.segment_button, 1), (self.adapt_button, 2))
        layout.addWidget(self.unfinished)
        self.method.activated.connect(self._on_method)
        self.form.changed.connect(self._on_form)
        self.form.failed.connect(context.fail)
        self.keep.activated.connect(self._on_keep)
        context.settings_changed.connect(self._show_settings)
        context.changed.connect(self.refresh)
        self._show_settings()
        self._show_folder()
        self.refresh()

    # --- what the user does ----------------------------------------------------------------

    def _on_method(self, _index: int) -> None:
        name = str(self.method.currentData())
        self._context.choose_settings(name, PRESETS[name].settings)

    def _on_form(self, settings: Settings) -> None:
        self._context.choose_settings(str(self.method.currentData()), settings)

    def _on_keep(self, index: int) -> None:
        folder = self.keep.itemData(index)
        if folder is None:
            folder = ask_folder(self, self._context.run_parent, "Keep runs in this folder")
            folder = folder or self._context.run_parent
        self._context.run_parent = folder
        self._context.store.set("run_parent", folder)
        self._show_folder()

    # --- what is shown ---------------------------------------------------------------------

    def _show_settings(self) -> None:
        context = self._context
        self.method.setCurrentIndex(max(0, self.method.findData(context.preset)))
        self.form.set_settings(context.settings)
        chosen = PRESETS[str(self.method.currentData())]
        changed = context.settings != chosen.settings
        self.summary.say(f"{chosen.title}, with other settings." if changed else chosen.summary)

    def _show_folder(self) -> None:
        folder = self._context.run_parent
        self.keep.clear()
        in_list = self._context.caselist is not None
        self.keep.addItem("In the list" if in_list else "Until napari closes", "")
        if folder:
            self.keep.addItem(f"In {Path(folder).name or folder}", folder)
            self.keep.setItemData(1, folder, Qt.ItemDataRole.ToolTipRole)
        self.keep.addItem("Choose a folder …", None)
        self.keep.setCurrentIndex(1 if folder else 0)

    def refresh(self) -> None:
        """Bring the controls in line with the situation."""
        context = self._context
        facts = facts_of(context)
        idle = facts.running is None
        why_not = "Wait until the work in progress has ended, or cancel it." if not idle else ""
        why_not = why_not or facts.misfit or ("" if facts.model else "Choose a model first.")
        for made, words in (
            (self.segment_button, _SEGMENT_WORDS),
            (self.adapt_button, ADAPT_WORDS),
        ):
            offer(made, why_not, words)
        for widget in (self.method, self.keep, self.form):
            widget.setEnabled(idle)
        expected = context.runner.expected_time()
        self.time.setVisible(bool(expected))
        self.time.say(f"Takes {expected}, as measured the last time." if expected else "")
        self._show_unfinished()

    def _show_unfinished(self) -> None:
        context = self._context
        session = context.session
        offered = session is not None and context.runner.kind is None and context.runner.unfinished
        self.unfinished.setVisible(offered)
        if session is None or not offered:
            return
        run = session.run
        learned = {e.slice_index for e in run.plan[: run.position] if e.phase == "adapt"}
        self.unfinished_words.say(
            f"Ended after {len(learned)} of {session.scan.counts(len(run.slices))}."
        )
        self.finish_button.setVisible(run.settings.learns and run.step > 0)
