"""A section that opens and closes, and remembers which it was."""

from __future__ import annotations

import os
from pathlib import Path

from qtpy.QtCore import QSettings, Qt, Signal
from qtpy.QtWidgets import QFrame, QSizePolicy, QToolButton, QVBoxLayout, QWidget


def dock_settings() -> QSettings:
    """Return the store of what the interface remembers between sessions.

    It is ``$NAPARI_GRATA_HOME/interface.ini`` where that variable is set, else the user's usual
    place for settings.
    """
    home = os.environ.get("NAPARI_GRATA_HOME")
    if home:
        return QSettings(str(Path(home) / "interface.ini"), QSettings.Format.IniFormat)
    return QSettings(
        QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-grata", "interface"
    )


class Fold(QWidget):
    """A titled section of the dock that opens with a click, Enter or Space.

    Parameters
    ----------
    title : str
        What stands beside the arrow; an ampersand marks the mnemonic key.
    content : QWidget, optional
        The body; `set_content` gives it later.
    key : str, optional
        Name under which the state is remembered; without one it is not.
    expanded : bool
        State at the first use.
    settings : QSettings, optional
        Where to remember it; `dock_settings` by default.
    tooltip : str, optional
    parent : QWidget, optional

    Signals
    -------
    toggled(bool)
        The section was opened (True) or closed.
    """

    toggled = Signal(bool)

    def __init__(
        self,
        title: str,
        content: QWidget | None = None,
        *,
        key: str | None = None,
        expanded: bool = False,
        settings: QSettings | None = None,
        tooltip: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._key = f"folds/{key}" if key else None
        self._settings = settings if settings is not None else dock_settings()
        self._content: QWidget | None = None
        if self._key:
            expanded = self._settings.value(self._key, expanded, type=bool)

        self._button = QToolButton()
        self._button.setObjectName("grata_fold_title")
        self._button.setText(title)
        self._button.setToolTip(tooltip)
        self._button.setCheckable(True)
        self._button.setChecked(expanded)
        self._button.setAutoRaise(True)
        self._button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        # napari's style sheet draws a checked tool button as pressed; a fold is a heading.
        self._button.setStyleSheet(
            "QToolButton#grata_fold_title {border: none; background: transparent;"
            " padding: 3px 2px; text-align: left; font-weight: bold;}"
            "QToolButton#grata_fold_title:focus {text-decoration: underline;}"
        )
        self._button.toggled.connect(self._on_toggled)

        self._body = QFrame()
        self._body.setFrameShape(QFrame.Shape.NoFrame)
        self._body_layout = QVBoxLayout(self._body)
        self._body_layout.setContentsMargins(4, 0, 0, 4)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self._button)
        layout.addWidget(self._body)
        # Not Maximum: wrapped texts need more height than Qt guesses before it knows the width.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        if content is not None:
            self.set_content(content)
        self._show(expanded)

    @property
    def expanded(self) -> bool:
        """Whether the body is shown."""
        return self._button.isChecked()

    def set_expanded(self, expanded: bool) -> None:
        """Open or close the section, as a click would."""
        self._button.setChecked(expanded)

    def title(self) -> str:
        """Return the words beside the arrow."""
        return self._button.text()

    def set_title(self, title: str) -> None:
        """Change the words beside the arrow."""
        self._button.setText(title)

    def content(self) -> QWidget | None:
        """Return the body, or None before there is one."""
        return self._content

    def set_content(self, content: QWidget) -> None:
        """Set or replace the body; a body that was there before is deleted."""
        if self._content is not None:
            self._body_layout.removeWidget(self._content)
            self._content.deleteLater()
        self._content = content
        self._body_layout.addWidget(content)

    def _on_toggled(self, expanded: bool) -> None:
        self._show(expanded)
        if self._key:
            self._settings.setValue(self._key, expanded)
        self.toggled.emit(expanded)

    def _show(self, expanded: bool) -> None:
        self._button.setArrowType(Qt.ArrowType.DownArrow if expanded else Qt.ArrowType.RightArrow)
        self._body.setVisible(expanded)
