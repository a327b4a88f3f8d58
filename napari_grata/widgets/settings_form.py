"""The form of all settings of a method, made by magicgui from the typed settings."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from magicgui.widgets import Container, create_widget
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

from napari_grata.adaptation.methods.register import METHODS
from napari_grata.adaptation.settings import Settings, SettingsError
from napari_grata.widgets.qt_parts import column_in, keep_narrow

# How corrections teach is chosen in the step that corrects.
METHOD = tuple(f.name for f in fields(Settings) if f.metadata["used"] != "teaching")
TEACHING = ("correction_steps", "soft_labels", "hold")
_ABOUT = {field.name: field.metadata for field in fields(Settings)}
_SMALL = 1e-3


def _widget(name: str, about: Any, value: Any) -> Any:
    """Return the widget of one setting, by what its metadata says."""
    options: dict[str, Any] = {"tooltip": about["description"]}
    kind = about["kind"]
    if name == "method":
        options["choices"] = [(info.title, key) for key, info in METHODS.items()]
    elif "enum" in about:
        options["choices"] = [(about["words"].get(key, key), key) for key in about["enum"]]
    elif kind is float and not about["nullable"] and 0 < about["minimum"] < _SMALL:
        options["widget_type"] = "LineEdit"  # a spin box would show 1e-4 as 0.0
        value = f"{value:g}"
    elif kind in (int, float):
        options.update(min=min(0, about["minimum"]), max=min(about["maximum"], 2**31 - 1))
        options["step"] = 1 if kind is int else 0.05
    annotation = kind if options.get("widget_type") is None else str
    return create_widget(
        value=_shown(value), annotation=annotation, name=name, label=about["title"], options=options
    )


class SettingsForm(QWidget):
    """Shows settings and lets the user change each of those named.

    Signals
    -------
    changed(Settings)
        The user changed something; not sent by `set_settings`.
    failed(str)
        What the user typed is no setting, and why; "" once it is one again.
    """

    changed = Signal(object)
    failed = Signal(str)

    def __init__(self, settings: Settings, names: tuple[str, ...] = METHOD) -> None:
        super().__init__()
        self._settings, self._names = settings, names
        usual = Settings()
        self.fields: Container[Any] = Container(
            widgets=[_widget(name, _ABOUT[name], getattr(usual, name)) for name in names],
            labels=True,
        )
        self.fields.margins = (0, 0, 0, 0)
        self.fields.changed.connect(self._edited)
        for box in self.fields.native.findChildren(QComboBox):
            keep_narrow(box)
        column_in(self, self.fields.native)
        self.set_settings(settings)

    def set_settings(self, settings: Settings) -> None:
        """Show settings."""
        self._settings = settings
        with self.fields.changed.blocked():
            for name in self._names:
                value = getattr(settings, name)
                text = isinstance(self.fields[name].value, str) and isinstance(value, float)
                self.fields[name].value = f"{value:g}" if text else _shown(value)
        self._grey_out()

    def settings(self) -> Settings:
        """Return the settings as they stand.

        Raises
        ------
        SettingsError
            If a value is outside its range.
        """
        return self._settings.but(**self.values())

    def values(self) -> dict[str, Any]:
        """Return what is chosen, by the name of the setting."""
        return {name: self._value(name) for name in self._names}

    def _value(self, name: str) -> Any:
        value, about = self.fields[name].value, _ABOUT[name]
        if about["nullable"] and not value:
            return None  # such as the published raw gradient, which is no length at all
        if about["kind"] is float and isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                raise SettingsError(f"{about['title']}: {value!r} is no number.") from None
        return value

    def _edited(self, *_: Any) -> None:
        try:
            self._settings = self.settings()
        except SettingsError as error:
            self.failed.emit(str(error))
            return
        self.failed.emit("")
        self._grey_out()
        self.changed.emit(self._settings)

    def _grey_out(self) -> None:
        """What changes nothing as the others are cannot be set."""
        for name in self._names:
            self.fields[name].enabled = self._settings.uses(name)


def _shown(value: Any) -> Any:
    return 0.0 if value is None else value
