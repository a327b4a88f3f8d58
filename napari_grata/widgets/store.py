"""What the dock remembers between sessions: choices, never anything about a scan or a patient."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from qtpy.QtCore import QSettings

from napari_grata.adaptation.settings import PRESETS, Settings, SettingsError
from napari_grata.widgets.qt_parts import interface_settings


class SettingsStore:
    """Choices by name, kept as JSON text in the interface's settings file.

    Parameters
    ----------
    settings : QSettings, optional
        `interface_settings` by default.

    Notes
    -----
    A value that cannot be read (edited by hand, written by a later version) counts as absent: a
    broken settings file must never keep the dock from opening.
    """

    def __init__(self, settings: QSettings | None = None) -> None:
        self._settings = settings if settings is not None else interface_settings()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a remembered value, or ``default``."""
        text = self._settings.value(f"dock/{name}", None)
        if not isinstance(text, str):
            return default
        try:
            value = json.loads(text)
        except ValueError:
            return default
        if default is not None and not isinstance(value, type(default)):
            return default
        return value

    def set(self, name: str, value: Any) -> None:
        """Remember a value made of JSON types."""
        self._settings.setValue(f"dock/{name}", json.dumps(value))

    def method(self) -> tuple[str, Settings]:
        """Return the remembered preset's name and the settings under Advanced.

        A preset that was changed by hand comes back as it was left; one that no longer exists
        gives *Careful*.
        """
        name = self.get("preset", "careful")
        if name not in PRESETS:
            name = "careful"
        chosen = PRESETS[name].settings
        changes = self.get("changes", {})
        with suppress(SettingsError, TypeError):
            chosen = Settings.from_dict({**chosen.to_dict(), **changes})
        return name, chosen

    def set_method(self, name: str, settings: Settings) -> None:
        """Remember a preset and what was changed in it."""
        usual = PRESETS[name].settings.to_dict()
        changes = {k: v for k, v in settings.to_dict().items() if v != usual[k]}
        self.set("preset", name)
        self.set("changes", changes)

    def pace(self, key: str) -> float | None:
        """Return measured seconds a slice for a model, device and method, or None."""
        value = self.get("pace", {}).get(key)
        return float(value) if isinstance(value, (int, float)) and value > 0 else None

    def set_pace(self, key: str, seconds: float) -> None:
        """Remember measured seconds a slice; the latest forty pairs are kept."""
        paces = self.get("pace", {})
        paces.pop(key, None)
        paces[key] = round(seconds, 4)
        self.set("pace", dict(list(paces.items())[-40:]))
