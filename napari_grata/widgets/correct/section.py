"""Section 5 of the dock: paint, say what is right, let the model learn from it."""

from __future__ import annotations

from dataclasses import dataclass

from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_grata.adaptation.settings import Settings
from napari_grata.segmenters.card import Card
from napari_grata.widgets.fold import Fold
from napari_grata.widgets.keys import key_of
from napari_grata.widgets.parts import Section, Sentence, button, choice, row

CASE, REST = "case", "rest"
ROLES = (
    ("pseudo", "As far as views agree"),
    ("fine-tuning", "Corrections alone"),
    ("both", "Together with the views"),
    ("auxiliary", "Only steer the views"),
)
ROLE_TIP = (
    "How corrections teach. Views: the model's agreement with itself on turned copies of a slice. "
    "(Plain fine-tuning of θ on the corrected pixels; or GraTa with them as pseudo objective, as "
    "both objectives together with consistency, or as auxiliary objective.)"
)


@dataclass(frozen=True)
class Live:
    """Why something cannot be done now; "" where it can."""

    paint: str = ""
    adapt: str = ""
    undo: str = ""
    right: str = ""


class CorrectSection(QWidget):
    """The controls; what they do is the feature's.

    Signals
    -------
    paint_wanted(), adapt_wanted(), undo_wanted(), right_changed(bool)
    value_changed(int)
        The brush should paint another structure.
    """

    paint_wanted = Signal()
    adapt_wanted = Signal()
    undo_wanted = Signal()
    right_changed = Signal(bool)
    value_changed = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        section = Section(5, "Correct")
        self.undo_button = button(
            "Undo",
            "Go back to the masks before the model learned from your corrections; what you "
            "painted is there again.",
            small=True,
        )
        section.add_to_heading(self.undo_button)
        paint, adapt = key_of("paint_corrections"), key_of("adapt_to_corrections")
        self._paint_tip = f"Paint on the mask after with napari's brush. Key: {paint}"
        self._adapt_tip = (
            "The model learns from what you corrected and draws all slices anew; what you "
            f"painted stays as you painted it. Key: {adapt}"
        )
        self.structure = choice("What the brush paints.", "What the brush paints")
        self.paint_button = button("Paint", self._paint_tip)
        section.body.addWidget(row("Paint", self.structure, self.paint_button))
        self.right = QCheckBox("This slice is right now")
        self._right_tip = (
            "All of this slice, as it is shown, may teach: also what you left alone. Tick it "
            "only when nothing is wrong any more."
        )
        section.body.addWidget(self.right)
        self.count = Sentence(2)
        self.count.setObjectName("grata_small")
        section.body.addWidget(self.count)
        self.where = choice("Where what is learned is used.", "Where what is learned is used")
        self.where.addItem("This case", CASE)
        self.where_row = row("Use it on", self.where)
        section.body.addWidget(self.where_row)
        self.adapt_button = button("Adapt to my corrections", self._adapt_tip)
        section.body.addWidget(self.adapt_button)
        section.body.addWidget(self._advanced())
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(section)
        self.paint_button.clicked.connect(self._on_paint)
        self.adapt_button.clicked.connect(self._on_adapt)
        self.undo_button.clicked.connect(self._on_undo)
        self.right.toggled.connect(self.right_changed)
        self.structure.currentIndexChanged.connect(self._on_structure)

    def _advanced(self) -> Fold:
        self.role = choice(ROLE_TIP, "How corrections teach")
        for name, title in ROLES:
            self.role.addItem(title, name)
        self.steps = QSpinBox()
        self.steps.setRange(1, 200)
        self.soft = QDoubleSpinBox()
        self.soft.setRange(0, 100)
        self.soft.setDecimals(1)
        self.soft.setSuffix(" px")
        self.soft.setSpecialValueText("off")
        self.hold = QDoubleSpinBox()
        self.hold.setRange(0, 10)
        self.hold.setSingleStep(0.05)
        body = QWidget()
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        steps = "Steps on each corrected slice: more learn more, and forget more."
        soft = (
            "Also the surroundings of a stroke count, the less the farther away. "
            "(Soft labels, exp(−distance/τ).)"
        )
        hold = (
            "How much a pixel that you left alone keeps the mask as it is, compared with one "
            "that you painted; 0 lets strokes pull the whole slice along."
        )
        for label, widget, tip in (
            ("Teach", self.role, ROLE_TIP),
            ("Steps", self.steps, steps),
            ("Soft", self.soft, soft),
            ("Hold", self.hold, hold),
        ):
            column.addWidget(row(label, widget, tip=tip))
            widget.setAccessibleName(f"{label}: corrections")
        return Fold("Advanced", body, key="correct_advanced")

    # --- settings ------------------------------------------------------------------------------

    def set_settings(self, settings: Settings) -> None:
        """Show how corrections teach."""
        fine = settings.method == "consistency"
        self.role.setCurrentIndex(self.role.findData("fine-tuning" if fine else settings.scribble))
        self.steps.setValue(settings.correction_steps)
        self.soft.setValue(settings.soft_labels)
        self.hold.setValue(settings.hold)

    def settings(self, usual: Settings) -> Settings:
        """Return `usual` with what the person chose."""
        role = self.role.currentData()
        chosen = usual
        if role != ("fine-tuning" if usual.method == "consistency" else usual.scribble):
            fine = role == "fine-tuning"
            chosen = usual.but(
                method="consistency" if fine else "grata", scribble="pseudo" if fine else role
            )
        return chosen.but(
            correction_steps=self.steps.value(),
            soft_labels=self.soft.value(),
            hold=self.hold.value(),
        )

    # --- what is shown ---------------------------------------------------------------------

    def set_card(self, card: Card | None) -> None:
        """Offer a model's structures, and background."""
        items = [("Background (erase)", 0)]
        if card is not None:
            items = [(s.name.capitalize(), s.value) for s in card.structures] + items
        if items == [(self.structure.itemText(i), self.structure.itemData(i))
                     for i in range(self.structure.count())]:  # fmt: skip
            return
        with QSignalBlocker(self.structure):
            self.structure.clear()
            for title, value in items:
                self.structure.addItem(title, value)

    def value(self) -> int:
        """Return the label that is to be painted."""
        return int(self.structure.currentData() or 0)

    def set_live(self, live: Live) -> None:
        """Switch controls on, or off with the reason in their tooltips."""
        for widget, why, tip in (
            (self.paint_button, live.paint, self._paint_tip),
            (self.adapt_button, live.adapt, self._adapt_tip),
            (self.right, live.right, self._right_tip),
        ):
            widget.setEnabled(not why)
            widget.setToolTip(why or tip)
        self.structure.setEnabled(not live.paint)
        self.undo_button.setEnabled(not live.undo)

    def set_right(self, on: bool, noun: str) -> None:
        """Show whether what is in view was called right."""
        with QSignalBlocker(self.right):
            self.right.setText(f"This {noun} is right now")
            self.right.setChecked(on)

    def offer_rest(self, there: bool) -> None:
        """Offer the rest of a list, where there is one."""
        if there == (self.where.count() > 1):
            return
        if there:
            self.where.addItem("This case, and those after it", REST)
        else:
            self.where.removeItem(1)

    def chosen_where(self) -> str:
        """Return `CASE` or `REST`."""
        return str(self.where.currentData())

    def _on_structure(self, _index: int) -> None:
        self.value_changed.emit(self.value())

    def _on_paint(self) -> None:
        self.paint_wanted.emit()

    def _on_adapt(self) -> None:
        self.adapt_wanted.emit()

    def _on_undo(self) -> None:
        self.undo_wanted.emit()
