"""The form of all settings of a method, made by magicgui from the typed settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_grata.adaptation.settings import (
    LEARNING_RATE_RULES,
    OBJECTIVES,
    PRECISIONS,
    Settings,
    SettingsError,
)


@dataclass(frozen=True)
class Field:
    """How one setting is shown.

    Attributes
    ----------
    name, label, words : str
        Of the setting, on the form, and what it does.
    options : dict
        For `magicgui.widgets.create_widget`: range, step, choices.
    used_by : tuple of str
        Methods that the setting changes anything for; () for all.
    """

    name: str
    label: str
    words: str
    options: dict[str, Any] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()


_LEARN = ("grata", "consistency")
FIELDS = (
    Field(
        "method",
        "Does",
        "What the model does with the new scan.",
        {
            "choices": [
                ("GraTa: gradient alignment", "grata"),
                ("Consistency only", "consistency"),
                ("Statistics only", "batch-norm"),
                ("No adaptation", "source"),
            ]
        },
    ),
    Field(
        "auxiliary",
        "Signal 1",
        "The first signal: it moves the model a little before the second one is measured. "
        "(Auxiliary objective.)",
        {"choices": OBJECTIVES},
        ("grata",),
    ),
    Field(
        "pseudo",
        "Signal 2",
        "The second signal: the model learns from this one. (Pseudo objective.)",
        {"choices": OBJECTIVES},
        ("grata",),
    ),
    Field(
        "learning_rate_rule",
        "Rule",
        "How the agreement of the two signals sets the size of a step. "
        "(Learning rate from the cosine similarity.)",
        {"choices": LEARNING_RATE_RULES},
        ("grata",),
    ),
    Field(
        "learning_rate",
        "Rate",
        "How fast the model may change. (β, the learning rate before the rule.)",
        {"widget_type": "LiteralEvalLineEdit"},
        _LEARN,
    ),
    Field(
        "blend",
        "Blend",
        "How much the new scan's own intensity statistics count: 0 only the model's, 1 only the "
        "scan's. (α of the normalisation layers.)",
        {"min": 0.0, "max": 1.0, "step": 0.05},
        ("grata", "consistency", "batch-norm"),
    ),
    Field(
        "perturbation",
        "Move",
        "Length of the first signal's move; 0 is the raw gradient, as published. "
        "(ρ in θ' = θ − ρ·g/‖g‖.)",
        {"min": 0.0, "max": 10.0, "step": 0.05},
        ("grata",),
    ),
    Field(
        "steps_per_slice",
        "Steps",
        "How many steps the model takes on one slice before the next.",
        {"min": 1, "max": 100},
        _LEARN,
    ),
    Field(
        "passes",
        "Passes",
        "How often the model goes over all slices.",
        {"min": 1, "max": 100},
        _LEARN,
    ),
    Field(
        "mode",
        "Memory",
        "Whether what was learned stays from case to case.",
        {
            "choices": [
                ("Goes on over all cases", "continual"),
                ("Starts anew at each case", "episodic"),
                ("Starts anew every … slices", "every-n"),
            ]
        },
        _LEARN,
    ),
    Field(
        "reset_every",
        "Every",
        "After how many slices the model starts anew.",
        {"min": 1, "max": 10_000},
        _LEARN,
    ),
    Field(
        "predict",
        "Masks",
        "Whether masks are made as the slices go by, or for all slices once the model has seen "
        "them.",
        {
            "choices": [
                ("As the slices go by", "stream"),
                ("Afterwards, last state", "final"),
                ("Afterwards, mean state", "average"),
            ]
        },
        _LEARN,
    ),
    Field(
        "symmetric_entropy",
        "Symmetric entropy",
        "Uncertain pixels are pulled to neither side. "
        "(Bernoulli entropy instead of the published one-sided form.)",
        {},
        ("grata",),
    ),
    Field(
        "six_views",
        "Mean of six views",
        "Average over six flips and rotations: slower, usually smoother masks.",
    ),
    Field(
        "precision",
        "Numbers",
        "bfloat16, on devices that have it: about half the time with large models, less with small "
        "ones. Masks differ a little (mean Dice by at most 0.02 points on the development "
        "centres, single masks by up to 0.2).",
        {"choices": PRECISIONS},
    ),
    Field(
        "seed",
        "Seed",
        "Runs with the same number give the same masks (on the processor).",
        {"min": 0, "max": 2_147_483_647},
    ),
)


class SettingsForm(QWidget):
    """Shows settings and lets the user change each of them.

    Signals
    -------
    changed(Settings)
        The user changed something; not sent by `set_settings`.
    failed(str)
        What the user typed is no setting, and why; "" once it is one again.
    """

    changed = Signal(object)
    failed = Signal(str)

    def __init__(self, settings: Settings, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings = settings
        self._quiet = False
        self.fields: Container[Any] = Container(
            widgets=[
                create_widget(
                    value=_shown(getattr(settings, entry.name)),
                    name=entry.name,
                    label=entry.label,
                    options={"tooltip": entry.words, **entry.options},
                )
                for entry in FIELDS
            ],
            labels=True,
        )
        self.fields.margins = (0, 0, 0, 0)
        self.fields.changed.connect(self._edited)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.fields.native)
        self._grey_out()

    def set_settings(self, settings: Settings) -> None:
        """Show settings."""
        self._settings, self._quiet = settings, True
        try:
            for entry in FIELDS:
                self.fields[entry.name].value = _shown(getattr(settings, entry.name))
        finally:
            self._quiet = False
        self._grey_out()

    def settings(self) -> Settings:
        """Return the settings as they stand.

        Raises
        ------
        SettingsError
            If a value is outside its range.
        """
        values = {entry.name: self.fields[entry.name].value for entry in FIELDS}
        # 0 stands for the published raw gradient, which is no length at all.
        values["perturbation"] = values["perturbation"] or None
        if not isinstance(values["learning_rate"], (int, float)):
            raise SettingsError("The rate is no number; type one such as 1e-4.")
        return self._settings.but(**values)

    def _edited(self, *_: Any) -> None:
        if self._quiet:
            return
        try:
            self._settings = self.settings()
        except (SettingsError, ValueError, SyntaxError) as error:
            self.failed.emit(str(error))
            return
        self.failed.emit("")
        self._grey_out()
        self.changed.emit(self._settings)

    def _grey_out(self) -> None:
        """What the method does not use cannot be set."""
        settings = self._settings
        for entry in FIELDS:
            used = not entry.used_by or settings.method in entry.used_by
            if entry.name == "reset_every":
                used = used and settings.mode == "every-n"
            if entry.name == "symmetric_entropy":
                used = used and "entropy" in (settings.auxiliary, settings.pseudo)
            self.fields[entry.name].enabled = used


def _shown(value: Any) -> Any:
    return 0.0 if value is None else value
