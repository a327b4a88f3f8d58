"""The Advanced fold: every option of `Settings`, by the method's own terms."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QLocale, Signal
from qtpy.QtGui import QDoubleValidator
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_grata.adaptation.settings import LEARNING_RATE_RULES, OBJECTIVES, Settings
from napari_grata.widgets.parts import choice, row

METHOD_TITLES = {
    "grata": "GraTa: gradient alignment",
    "consistency": "Consistency only",
    "batch-norm": "Statistics only",
    "source": "No adaptation",
}
MODE_TITLES = {
    "continual": "Goes on over all cases",
    "episodic": "Starts anew at each case",
    "every-n": "Starts anew every … slices",
}
PREDICT_TITLES = {
    "stream": "As the slices go by",
    "final": "Afterwards, last state",
    "average": "Afterwards, mean state",
}
TIPS = {
    "method": "What the model does with the new scan.",
    "auxiliary": "The first signal: it moves the model a little before the second one is "
    "measured. (Auxiliary objective.)",
    "pseudo": "The second signal: the model learns from this one. (Pseudo objective.)",
    "rule": "How the agreement of the two signals sets the size of a step. "
    "(Learning rate from the cosine similarity.)",
    "rate": "How fast the model may change. (β, the learning rate before the rule.)",
    "blend": "How much the new scan's own intensity statistics count: 0 only the model's, "
    "1 only the scan's. (α of the normalisation layers.)",
    "symmetric": "Uncertain pixels are pulled to neither side. "
    "(Bernoulli entropy instead of the published one-sided form.)",
    "perturbation": "Length of the first signal's move; off is as published. "
    "(ρ in θ' = θ − ρ·g/‖g‖.)",
    "steps": "How many steps the model takes on one slice before the next.",
    "passes": "How often the model goes over all slices.",
    "mode": "Whether what was learned stays from case to case.",
    "every": "After how many slices the model starts anew.",
    "predict": "Whether masks are made as the slices go by, or for all slices once the model "
    "has seen them.",
    "views": "Average over six flips and rotations: slower, usually smoother masks.",
    "precision": "Computes in bfloat16, on devices that have it: about half the time with large "
    "models, less with small ones. Masks differ a little (mean Dice by at most 0.02 points on "
    "the development centres, single masks by up to 0.2).",
    "seed": "Runs with the same number give the same masks (on the processor).",
}


class AdvancedForm(QWidget):
    """Shows settings and lets a person change each of them.

    Signals
    -------
    changed(Settings)
        A person changed something; not sent by `set_settings`.
    """

    changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._quiet = False
        self.method = self._choices(METHOD_TITLES)
        self.auxiliary = self._choices({name: name for name in OBJECTIVES})
        self.pseudo = self._choices({name: name for name in OBJECTIVES})
        self.rule = self._choices({name: name for name in LEARNING_RATE_RULES})
        self.rate = QLineEdit()
        validator = QDoubleValidator(1e-9, 9.999, 12, self.rate)
        validator.setLocale(QLocale.c())
        self.rate.setValidator(validator)
        self.rate.editingFinished.connect(self._edited)
        self.blend = self._number(0, 1, 0.05, 2)
        self.perturbation = self._number(0, 10, 0.05, 3)
        self.perturbation.setSpecialValueText("off (as published)")
        self.steps = self._count(1, 100)
        self.passes = self._count(1, 100)
        self.mode = self._choices(MODE_TITLES)
        self.every = self._count(1, 10_000)
        self.predict = self._choices(PREDICT_TITLES)
        self.symmetric = self._check("Symmetric entropy")
        self.views = self._check("Mean of six views")
        self.low = self._check("Faster, coarser numbers (bfloat16)")
        self._low_offered = False
        self.seed = self._count(0, 2_147_483_647)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        for label, name, widget in (
            ("Does", "method", self.method),
            ("Signal 1", "auxiliary", self.auxiliary),
            ("Signal 2", "pseudo", self.pseudo),
            ("Rule", "rule", self.rule),
            ("Rate", "rate", self.rate),
            ("Blend", "blend", self.blend),
            ("Move", "perturbation", self.perturbation),
            ("Steps", "steps", self.steps),
            ("Passes", "passes", self.passes),
            ("Memory", "mode", self.mode),
            ("Every", "every", self.every),
            ("Masks", "predict", self.predict),
            ("Seed", "seed", self.seed),
        ):
            widget.setAccessibleName(name)
            layout.addWidget(row(label, widget, tip=TIPS[name]))
        for name, check in (
            ("symmetric", self.symmetric),
            ("views", self.views),
            ("precision", self.low),
        ):
            check.setToolTip(TIPS[name])
            layout.addWidget(check)
        self.set_settings(Settings())

    def settings(self) -> Settings:
        """Return the settings as they stand.

        Raises
        ------
        SettingsError
            If a number is outside its range.
        """
        length = self.perturbation.value()
        try:
            rate = float(self.rate.text())
        except ValueError:
            rate = -1.0
        return Settings(
            method=self.method.currentData(),
            auxiliary=self.auxiliary.currentData(),
            pseudo=self.pseudo.currentData(),
            learning_rate=rate,
            learning_rate_rule=self.rule.currentData(),
            blend=round(self.blend.value(), 4),
            symmetric_entropy=self.symmetric.isChecked(),
            perturbation=round(length, 6) if length > 0 else None,
            steps_per_slice=self.steps.value(),
            passes=self.passes.value(),
            mode=self.mode.currentData(),
            reset_every=self.every.value(),
            predict=self.predict.currentData(),
            six_views=self.views.isChecked(),
            seed=self.seed.value(),
            precision="bfloat16" if self.low.isChecked() else "float32",
        )

    def set_settings(self, settings: Settings) -> None:
        """Show settings."""
        self._quiet = True
        try:
            for box, value in (
                (self.method, settings.method),
                (self.auxiliary, settings.auxiliary),
                (self.pseudo, settings.pseudo),
                (self.rule, settings.learning_rate_rule),
                (self.mode, settings.mode),
                (self.predict, settings.predict),
            ):
                box.setCurrentIndex(box.findData(value))
            self.rate.setText(f"{settings.learning_rate:g}")
            self.blend.setValue(settings.blend)
            self.perturbation.setValue(settings.perturbation or 0)
            self.steps.setValue(settings.steps_per_slice)
            self.passes.setValue(settings.passes)
            self.every.setValue(settings.reset_every)
            self.symmetric.setChecked(settings.symmetric_entropy)
            self.views.setChecked(settings.six_views)
            self.seed.setValue(settings.seed)
            self.low.setChecked(settings.precision == "bfloat16")
        finally:
            self._quiet = False
        self._grey_out()

    def offer_objectives(self, heads: tuple[str, ...]) -> None:
        """Grey out the objectives that need a head which the model does not have."""
        for box in (self.auxiliary, self.pseudo):
            model: Any = box.model()
            for index in range(box.count()):
                name = box.itemData(index)
                model.item(index).setEnabled(name in ("entropy", "consistency") or name in heads)

    def offer_bfloat16(self, offered: bool) -> None:
        """Offer bfloat16 or not: where no device has it, it can only be taken back."""
        self._low_offered = offered
        self._grey_out()

    def _grey_out(self) -> None:
        self.low.setEnabled(self._low_offered or self.low.isChecked())
        grata = self.method.currentData() == "grata"
        learns = grata or self.method.currentData() == "consistency"
        for widget in (self.auxiliary, self.pseudo, self.rule, self.perturbation):
            widget.setEnabled(grata)
        for widget in (self.rate, self.steps, self.passes, self.predict):
            widget.setEnabled(learns)
        self.mode.setEnabled(learns)
        self.blend.setEnabled(self.method.currentData() != "source")
        entropy = "entropy" in (self.auxiliary.currentData(), self.pseudo.currentData())
        self.symmetric.setEnabled(grata and entropy)
        self.every.setEnabled(learns and self.mode.currentData() == "every-n")

    def _edited(self, *_: Any) -> None:
        if self._quiet:
            return
        self._grey_out()
        try:
            settings = self.settings()
        except ValueError:
            return  # said when the run is started; half-typed numbers are no mistake yet
        self.changed.emit(settings)

    def _choices(self, titles: dict[str, str]) -> QComboBox:
        box = choice()
        for key, title in titles.items():
            box.addItem(title, key)
        box.currentIndexChanged.connect(self._edited)
        return box

    def _number(self, low: float, high: float, step: float, decimals: int) -> QDoubleSpinBox:
        box = QDoubleSpinBox()
        box.setLocale(QLocale.c())
        box.setRange(low, high)
        box.setSingleStep(step)
        box.setDecimals(decimals)
        box.setKeyboardTracking(False)
        box.valueChanged.connect(self._edited)
        return box

    def _count(self, low: int, high: int) -> QSpinBox:
        box = QSpinBox()
        box.setRange(low, high)
        box.setKeyboardTracking(False)
        box.valueChanged.connect(self._edited)
        return box

    def _check(self, text: str) -> QCheckBox:
        box = QCheckBox(text)
        box.toggled.connect(self._edited)
        return box
