"""What is chosen for a whole list: model, method, place; saved as soon as it is chosen."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from napari_grata.adaptation.settings import Settings, SettingsError
from napari_grata.scans.files import read_json, write_json

from .listfile import OPTIONS_FILE


class ListChoices:
    """The choices for one list, in a file of their own that names no patient.

    Attributes
    ----------
    notices : list of str
        What could not be read, a sentence each.
    save_problem : str or None
        Why the place in the list or the choices could not be saved last time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notices: list[str] = []
        self.save_problem: str | None = None
        self._mutex = threading.RLock()
        self._options = self._read_options()

    @property
    def writable(self) -> bool:
        """Whether this program may write to the list."""
        return True

    @property
    def model(self) -> str | None:
        """Name (or folder) of the model for this list."""
        return self._options.get("model")

    @model.setter
    def model(self, name: str | None) -> None:
        self.choose(model=name)

    @property
    def settings(self) -> Settings | None:
        """How the cases are adapted; None where nothing was chosen yet."""
        values = self._options.get("settings")
        return None if values is None else Settings.from_dict(values)

    @settings.setter
    def settings(self, settings: Settings | None) -> None:
        self.choose(settings=None if settings is None else settings.to_dict())

    @property
    def carry(self) -> bool:
        """Whether the adapted model lives on from case to case; else each begins anew."""
        return bool(self._options.get("carry", False))

    @carry.setter
    def carry(self, carry: bool) -> None:
        self.choose(carry=bool(carry))

    @property
    def position(self) -> str | None:
        """Key of the case in view."""
        return self._options.get("position")

    @position.setter
    def position(self, key: str | None) -> None:
        self.choose(position=key)

    def option(self, name: str, default: Any = None) -> Any:
        """Return another choice that was kept with `choose`, such as the list's filter."""
        value = self._options.get(name, default)
        return value if default is None or isinstance(value, type(default)) else default

    def choose(self, **options: Any) -> None:
        """Set some of model, settings (plain values), carry and position, and save them.

        A disk that does not take them is no reason to stop: see `save_problem`.
        """
        with self._mutex:
            if all(self._options.get(name) == value for name, value in options.items()):
                return
            self._options.update(options, when=_now())
            if not self.writable:
                return
            try:
                write_json(self.folder / OPTIONS_FILE, self._options)
                self.save_problem = None
            except OSError as error:
                self.save_problem = (
                    f"Your place in the list could not be saved ({error.strerror}). Decisions are "
                    "kept on their own and say so themselves if they cannot be."
                )

    def _read_options(self) -> dict[str, Any]:
        try:
            options = read_json(self.folder / OPTIONS_FILE)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            self.notices.append("The choices for this list cannot be read; choose them again.")
            return {}
        if options.get("settings") is not None:
            try:
                Settings.from_dict(options["settings"])
            except (SettingsError, TypeError, AttributeError):
                options["settings"] = None
                self.notices.append("This list's method is not known here; choose it again.")
        return options


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
