"""The slider over the steps of a run, and what can be done with a step."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QSlider, QVBoxLayout, QWidget

from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import Sentence, button


class StepBar(QWidget):
    """A slider over the steps of a run.

    Signals
    -------
    moved(int)
        The person wants to see the mask after this step; −1: the result as it is.
    used(int)
        The person wants to keep the state after this step.
    undo_wanted(), redo_wanted()
        The state that was in use before, or the one that was undone.
    """

    moved = Signal(int)
    used = Signal(int)
    undo_wanted = Signal()
    redo_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.taken: int | None = None
        self._able = False
        tip = (
            "The mask of the slice in view as the model was after each step; 0 is before any. "
            "At the right end the result itself is shown. Keys: ← → one step, Page up and down "
            "five, Home and End."
        )
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setToolTip(tip)
        self.slider.setAccessibleName("Step of the adaptation")
        self.slider.setPageStep(5)
        self.slider.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.label = Sentence(2)
        self.label.setObjectName("grata_small")
        self.use_button = button(
            "Use this state",
            "Take the masks after, on all slices, from the model as it was after this step. What "
            "you drew is kept in a layer of its own. Undo takes it back.",
            small=True,
        )
        self.undo_button = button("Undo", small=True)
        self.redo_button = button("Redo", small=True)
        self.slider.valueChanged.connect(self._on_moved)
        self.use_button.clicked.connect(self._on_used)
        self.undo_button.clicked.connect(self._on_undo)
        self.redo_button.clicked.connect(self._on_redo)
        line = QHBoxLayout()
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        line.addWidget(self.use_button, 2)
        line.addWidget(self.undo_button, 1)
        line.addWidget(self.redo_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.slider)
        layout.addWidget(self.label)
        layout.addLayout(line)
        self.set_way_back(None, None)
        self.set_steps(0)

    def set_steps(self, last: int) -> None:
        """Offer the steps 0 … ``last`` and the result itself; 0 switches the bar off."""
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, last + 1 if last else 0)
            self.slider.setValue(self.slider.maximum())
        self.setEnabled(last > 0)
        self.refresh()

    def set_taken(self, step: int | None, able: bool) -> None:
        """Say which state is in use (None: the result), and whether another may be taken now."""
        self.taken, self._able = step, able
        self.refresh()

    def set_way_back(self, undo: str | None, redo: str | None) -> None:
        """Offer Undo and Redo, in words what each goes to; None where there is nothing."""
        for widget, words, verb in (
            (self.undo_button, undo, "Go back to"),
            (self.redo_button, redo, "Go on again to"),
        ):
            widget.setEnabled(words is not None)
            widget.setToolTip(
                f"{verb} {words}." if words else "No other state of this run was in use."
            )

    def last(self) -> int:
        """Return the last step there is, 0 without any."""
        return max(0, self.slider.maximum() - 1)

    def step(self) -> int:
        """Return the chosen step, −1 for the result itself."""
        value = self.slider.value()
        return -1 if value == self.slider.maximum() else value

    def choose(self, step: int) -> None:
        """Move to a step; −1: to the result itself."""
        self.slider.setValue(self.slider.maximum() if step < 0 else step)

    def say(self, words: str) -> None:
        """Say something more about where the slider stands, until it moves."""
        self.label.say(words)

    def refresh(self) -> None:
        """Bring words and button in line with the slider."""
        last, step = self.last(), self.step()
        if last < 1:
            words = "Steps can be gone through after a run."
        elif step < 0:
            words = "Result of the run"
            if self.taken is not None:
                words = f"In use: the state after step {self.taken} of {last}"
        else:
            words = f"After step {step} of {last}"
        self.label.say(words)
        back = step < 0 and self.taken is not None
        self.use_button.setText("Use the result" if back else "Use this state")
        self.use_button.setEnabled(self.isEnabled() and self._able and (step >= 0 or back))

    def _on_moved(self, _value: int) -> None:
        self.refresh()
        self.moved.emit(self.step())

    def _on_used(self) -> None:
        self.used.emit(self.step())

    def _on_undo(self) -> None:
        self.undo_wanted.emit()

    def _on_redo(self) -> None:
        self.redo_wanted.emit()


class JumpBar(QWidget):
    """Goes to what is worth a look.

    Signals
    -------
    wanted(str)
        ``"largest_change"``, ``"lowest_similarity"`` or ``"first_flag"``.
    """

    wanted = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        self.buttons = {}
        for name, text, tip in (
            (
                "largest_change",
                "Largest change",
                "Go to where the adapted mask differs most from the mask before.",
            ),
            (
                "lowest_similarity",
                "Lowest similarity",
                "Go to the step at which the two signals agreed least, on its slice.\n"
                "The lowest cosine of auxiliary and pseudo gradient.",
            ),
            ("first_flag", "First flag", "Go to the first slice that needs a look."),
        ):
            made = button(text, f"{tip} Key: {key_of(f'jump_to_{name}')}", small=True)
            self.buttons[name] = made
            layout.addWidget(made, 1)
        self.buttons["largest_change"].clicked.connect(self._on_change)
        self.buttons["lowest_similarity"].clicked.connect(self._on_similarity)
        self.buttons["first_flag"].clicked.connect(self._on_flag)

    def _on_change(self) -> None:
        self.wanted.emit("largest_change")

    def _on_similarity(self) -> None:
        self.wanted.emit("lowest_similarity")

    def _on_flag(self) -> None:
        self.wanted.emit("first_flag")
