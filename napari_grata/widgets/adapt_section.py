"""Section 3: how to adapt, the curves of it, and the bar that follows a run."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from napari_grata.adaptation.settings import PRESETS, Settings
from napari_grata.widgets.advanced import AdvancedForm
from napari_grata.widgets.fold import Fold
from napari_grata.widgets.parts import Section, Sentence, button, choice, row
from napari_grata.widgets.plots import CurvesPlot
from napari_grata.widgets.step_bar import JumpBar, StepBar


class AdaptSection(Section):
    """Method, Advanced, Adapt and the live curves.

    Signals
    -------
    method_changed()
        Another preset, or a change under Advanced.
    adapt_wanted()
    run_parent_changed(), run_parent_wanted()
        Where runs are saved was chosen, or is to be asked for.
    """

    method_changed = Signal()
    adapt_wanted = Signal()
    run_parent_changed = Signal()
    run_parent_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(3, "Adapt", parent)
        self.method = choice(name="Method")
        for preset in PRESETS.values():
            self.method.addItem(preset.title, preset.name)
            index = self.method.count() - 1
            self.method.setItemData(index, preset.summary, Qt.ItemDataRole.ToolTipRole)
        self.body.addWidget(
            row("Method", self.method, tip="How the model gets used to the new scan.")
        )
        self.summary = Sentence(3)
        self.summary.setObjectName("grata_small")
        self.body.addWidget(self.summary)
        self.advanced = AdvancedForm()
        self.fold = Fold(
            "Advanced",
            self.advanced,
            key="advanced",
            tooltip="Every option of the method, for those who know it.",
        )
        self.body.addWidget(self.fold)
        self.keep = choice(name="Save run")
        self.keep.addItem("Not saved", "")
        self.keep.addItem("Choose a folder …", None)
        self.body.addWidget(
            row(
                "Save run",
                self.keep,
                tip="Where to save each run as it goes: settings, curves, masks and every step, to "
                "be opened again later. It names the scan, so choose a place that may.",
            )
        )
        self._kept = 0
        self.adapt_button = button("Adapt")
        self.body.addWidget(self.adapt_button)
        self.plot = CurvesPlot()
        self.steps = StepBar()
        self.jumps = JumpBar()
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.plot)
        column.addWidget(self.steps)
        column.addWidget(self.jumps)
        self.curves = Fold("Curves", body, key="curves", expanded=True)
        self.body.addWidget(self.curves)
        self.method.currentIndexChanged.connect(self._on_method)
        self.keep.activated.connect(self._on_keep)
        self.advanced.changed.connect(self._on_advanced)
        self.adapt_button.clicked.connect(self._on_adapt)
        self._describe()

    def preset(self) -> str:
        """Return the name of the chosen preset."""
        return str(self.method.currentData())

    def settings(self) -> Settings:
        """Return the settings to run with.

        Raises
        ------
        SettingsError
            If a number under Advanced is outside its range.
        """
        return self.advanced.settings()

    def set_method(self, name: str, settings: Settings) -> None:
        """Show a preset, with what was changed in it."""
        self.method.blockSignals(True)
        self.method.setCurrentIndex(max(0, self.method.findData(name)))
        self.method.blockSignals(False)
        self.advanced.set_settings(settings)
        self._describe()

    def run_parent(self) -> str:
        """Return the folder in which runs are saved, "" if they are not."""
        return str(self.keep.currentData() or "")

    def set_run_parent(self, folder: str) -> None:
        """Save runs in a folder, or ("") not at all."""
        if folder and self.keep.findData(folder) < 0:
            self.keep.insertItem(1, f"In {Path(folder).name or folder}", folder)
            self.keep.setItemData(1, folder, Qt.ItemDataRole.ToolTipRole)
        self._kept = max(0, self.keep.findData(folder))
        self.keep.setCurrentIndex(self._kept)

    def set_live(self, live: bool) -> None:
        """Let the person choose, or not while a job runs."""
        self.method.setEnabled(live)
        self.keep.setEnabled(live)
        self.advanced.setEnabled(live)

    def _on_keep(self, index: int) -> None:
        if self.keep.itemData(index) is not None:
            self._kept = index
            self.run_parent_changed.emit()
            return
        self.keep.setCurrentIndex(self._kept)
        self.run_parent_wanted.emit()

    def _on_method(self, _index: int) -> None:
        self.advanced.set_settings(PRESETS[self.preset()].settings)
        self._describe()
        self.method_changed.emit()

    def _on_advanced(self, _settings: Settings) -> None:
        self._describe()
        self.method_changed.emit()

    def _on_adapt(self) -> None:
        self.adapt_wanted.emit()

    def _describe(self) -> None:
        preset = PRESETS[self.preset()]
        try:
            changed = self.advanced.settings() != preset.settings
        except ValueError:
            changed = True
        words = f"{preset.title}, changed under Advanced." if changed else preset.summary
        self.summary.say(words)


class ProgressBar(QWidget):
    """How far a run is, how long it still takes, Pause and Cancel; always in sight.

    Signals
    -------
    pause_wanted(), cancel_wanted()
    """

    pause_wanted = Signal()
    cancel_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        self.text = Sentence(1)
        self.text.setObjectName("grata_muted")
        self.pause_button = button(
            "Pause", "Stop after the step in progress; Resume goes on from there."
        )
        self.cancel_button = button(
            "Cancel", "End after the step in progress and keep what is finished."
        )
        self.pause_button.clicked.connect(self._on_pause)
        self.cancel_button.clicked.connect(self._on_cancel)
        buttons = QHBoxLayout()
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setSpacing(4)
        buttons.addWidget(self.bar, 1)
        buttons.addWidget(self.pause_button)
        buttons.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 2, 8, 6)
        layout.setSpacing(2)
        layout.addWidget(self.text)
        layout.addLayout(buttons)
        self.rest()

    def follow(self, done: int, total: int, text: str) -> None:
        """Show how far a run is; a total of 0 means that nobody knows."""
        if total:
            self.show_progress(done, total, text)
        else:
            self.show_waiting(text)

    def show_progress(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` events are over."""
        self._set(done, total)
        self.text.say(text)

    def show_waiting(self, text: str) -> None:
        """Show that something takes time, how long is not known."""
        # No bar that runs to and fro: each of its frames is a redraw of the whole window.
        self._set(0, 1)
        self.text.say(text)

    def rest(self, text: str = " ") -> None:
        """Show that nothing runs."""
        self._set(0, 1)
        self.text.say(text)

    def _set(self, done: int, total: int) -> None:
        # Qt's bar paints itself at once, and the whole window with it; this way it waits for the
        # redraw that its text brings anyway.
        self.bar.setUpdatesEnabled(False)
        if self.bar.maximum() != total:
            self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.bar.setUpdatesEnabled(True)

    def _on_pause(self) -> None:
        self.pause_wanted.emit()

    def _on_cancel(self) -> None:
        self.cancel_wanted.emit()
