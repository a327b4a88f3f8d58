"""Keys of the dock: free in napari's viewer and in every kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut, QWidget


@dataclass(frozen=True)
class Key:
    """One key, what it does and the name of the dock's method that does it."""

    key: str
    does: str
    action: str


KEYS = (
    Key("G", "switch between the mask before and the mask after", "toggle_masks"),
    Key("H", "go through the differences: all, each structure, none", "cycle_difference"),
    Key("N", "go to the next slice that needs a look", "next_flagged"),
    Key("U", "show masks as contours or as filled areas", "toggle_fill"),
    Key("Shift+N", "go to the largest change", "jump_to_largest_change"),
    Key("Shift+J", "go to the step of lowest similarity", "jump_to_lowest_similarity"),
    Key("Shift+K", "go to the first flag", "jump_to_first_flag"),
    Key("J", "go to the next case of the list", "next_case"),
    Key("K", "go to the case before", "previous_case"),
    Key("Q", "draw the contours of both masks at once", "contours"),
    Key("W", "curtain: left the mask before, right the mask after", "curtain"),
    Key("Shift+Q", "side by side: left the mask before, right the mask after", "side_by_side"),
    Key("Shift+W", "three planes of a volume through one place", "planes"),
    Key("Shift+U", "show where the model is unsure: each kind, then none", "uncertainty"),
    Key("Shift+Left", "move the curtain to the left", "curtain_left"),
    Key("Shift+Right", "move the curtain to the right", "curtain_right"),
    Key("Shift+E", "paint corrections on the mask after", "paint_corrections"),
    Key("Shift+R", "adapt to the corrections", "adapt_to_corrections"),
    Key("Ctrl+1", "accept the mask after", "decide_accept"),
    Key("Ctrl+2", "keep the mask before", "decide_keep"),
    Key("Ctrl+3", "edit the mask after", "decide_edit"),
    Key("Ctrl+4", "reject both masks", "decide_reject"),
    Key("Ctrl+5", "leave it to a second reader", "decide_second"),
    Key("Ctrl+0", "take the latest decision back", "undo_decision"),
)


def key_of(action: str) -> str:
    """Return the key of an action, for tooltips."""
    return next(key.key for key in KEYS if key.action == action)


def taken_keys() -> set[str]:
    """Return every key that napari binds by default, in the viewer or in any kind of layer."""
    from napari.utils.shortcuts import default_shortcuts

    return {str(binding) for bindings in default_shortcuts.values() for binding in bindings}


def bind_keys(viewer: Any, perform: Callable[[str], None]) -> list[str]:
    """Bind the keys to a viewer; returns those bound.

    A key that the person, or another plugin, has given another meaning keeps it.
    """
    bound = []
    for key in KEYS:
        if any(str(other) == key.key for other in viewer.keymap):
            continue

        def press(_viewer: Any, action: str = key.action) -> None:
            perform(action)

        viewer.bind_key(key.key, press)
        bound.append(key.key)
    return bound


def add_shortcuts(widget: QWidget, bound: list[str], perform: Callable[[str], None]) -> None:
    """Let the same keys work in the dock, where lists and tables would take letters to search."""
    for key in KEYS:
        if key.key in bound:
            shortcut = QShortcut(QKeySequence(key.key), widget)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(partial(perform, key.action))


def unbind_keys(viewer: Any, bound: list[str]) -> None:
    """Take back what `bind_keys` bound."""
    for key in bound:
        viewer.bind_key(key, None, overwrite=True)
