"""The table of actions: what each is called, its key, and its words; nothing else binds keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut, QWidget


@dataclass(frozen=True)
class Action:
    """Something that the user can do from anywhere.

    Attributes
    ----------
    name : str
    key : str
        As napari and Qt both write it; "" without one.
    words : str
        What it does, for tooltips and the list of keys.
    group : str
        Heading in the list of keys.
    """

    name: str
    key: str
    words: str
    group: str


# No key here is bound by napari in a viewer, in a layer or in a menu (a test holds this against the
# live menus): Ctrl+0 is "Fit to view", plain letters are mostly the layers'.
ACTIONS = (
    Action("toggle_masks", "G", "switch between source mask and adapted mask", "Look"),
    Action("difference", "H", "show the difference: all, each structure, none", "Look"),
    Action("fill", "U", "show masks as contours or as filled areas", "Look"),
    Action("contours", "Q", "draw the contours of both masks at once", "Look"),
    Action("curtain", "W", "curtain: left the source mask, right the adapted mask", "Look"),
    Action("curtain_left", "Shift+Left", "move the curtain to the left", "Look"),
    Action("curtain_right", "Shift+Right", "move the curtain to the right", "Look"),
    Action("side_by_side", "Shift+Q", "both masks side by side", "Look"),
    Action("planes", "Shift+W", "three planes of a volume through one place", "Look"),
    Action("uncertainty", "Shift+U", "where the model is unsure: each kind, then none", "Look"),
    Action("next_flagged", "N", "go to the next slice that needs a look", "Go"),
    Action("largest_change", "Shift+N", "go to the largest change", "Go"),
    Action("lowest_similarity", "Shift+J", "go to the step of lowest similarity", "Go"),
    Action("first_flag", "Shift+K", "go to the first flag", "Go"),
    Action("next_case", "J", "go to the next case of the list", "Go"),
    Action("previous_case", "K", "go to the case before", "Go"),
    Action("paint", "Shift+E", "paint corrections on the adapted mask", "Correct"),
    Action("teach", "Shift+R", "adapt to the corrections", "Correct"),
    Action("accept", "Ctrl+1", "accept the mask that is looked at", "Decide"),
    Action("keep_source", "Ctrl+2", "keep the source mask", "Decide"),
    Action("edit", "Ctrl+3", "edit the adapted mask", "Decide"),
    Action("reject", "Ctrl+4", "reject both masks", "Decide"),
    Action("use_state", "", "take all masks from the step that is looked at", "Decide"),
    Action("second_reader", "Ctrl+5", "leave it to a second reader", "Decide"),
    Action("undo", "Ctrl+6", "take back what was done last", "Decide"),
    Action("redo", "Ctrl+7", "do again what was taken back", "Decide"),
)
BY_NAME = {action.name: action for action in ACTIONS}


class Actions:
    """Who carries out which action; sections provide them, keys and buttons perform them.

    Parameters
    ----------
    complain : callable
        Told, as a sentence, why an action cannot be done now.
    """

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._do: dict[str, Callable[[], object]] = {}
        self._why_not: dict[str, Callable[[], str]] = {}

    def provide(
        self, name: str, do: Callable[[], object], why_not: Callable[[], str] | None = None
    ) -> None:
        """Say how an action is carried out.

        Parameters
        ----------
        name : str
            One of `ACTIONS`.
        do : callable
        why_not : callable, optional
            Returns why it cannot be done now, "" if it can.
        """
        if name not in BY_NAME:
            raise KeyError(f"There is no action {name!r}; add it to ACTIONS first.")
        self._do[name] = do
        if why_not is not None:
            self._why_not[name] = why_not

    def why_not(self, name: str) -> str:
        """Return why an action cannot be done now, "" if it can."""
        if name not in self._do:
            return "This cannot be done here."
        ask = self._why_not.get(name)
        return "" if ask is None else ask()

    def perform(self, name: str) -> None:
        """Carry an action out, or say why it cannot be done."""
        reason = self.why_not(name)
        if reason:
            self._complain(reason)
        else:
            self._do[name]()


def tip(name: str, words: str = "") -> str:
    """Return a tooltip: what the action does, and its key."""
    action = BY_NAME[name]
    text = words or f"{action.words[:1].upper()}{action.words[1:]}."
    return f"{text}  ({action.key})" if action.key else text


def bind_keys(viewer: Any, actions: Actions) -> list[str]:
    """Bind the keys to a viewer, which may outlive the actions; returns those bound.

    A key to which the user, or another plugin, has given another meaning keeps it.
    """
    bound, perform = [], partial(_perform, weakref.ref(actions))
    for action in ACTIONS:
        if not action.key or any(str(other) == action.key for other in viewer.keymap):
            continue

        def press(_viewer: Any, name: str = action.name) -> None:
            perform(name)

        viewer.bind_key(action.key, press)
        bound.append(action.key)
    return bound


def unbind_keys(viewer: Any, bound: list[str]) -> None:
    """Take back what `bind_keys` bound."""
    for key in bound:
        viewer.bind_key(key, None, overwrite=True)


def add_shortcuts(widget: QWidget, bound: list[str], actions: Actions) -> None:
    """Let the same keys work in a widget, where lists and tables would take letters to search."""
    for action in ACTIONS:
        if action.key in bound:
            shortcut = QShortcut(QKeySequence(action.key), widget)
            shortcut.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            shortcut.activated.connect(partial(_perform, weakref.ref(actions), action.name))


def _perform(actions: weakref.ref[Actions], name: str) -> None:
    found = actions()
    if found is not None:
        found.perform(name)
