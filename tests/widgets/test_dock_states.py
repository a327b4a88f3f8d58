"""Every state of the interface, without Qt."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QToolButton

from napari_grata.widgets.state import Facts, State, look

READY = Facts(has_scan=True, has_model=True)
SITUATIONS = {
    State.EMPTY: Facts(has_model=True),
    State.NO_MODEL: Facts(has_scan=True),
    State.NO_FIT: Facts(has_scan=True, has_model=True, misfit="It reads photographs."),
    State.READY: READY,
    State.SEGMENTED: Facts(has_scan=True, has_model=True, segmented=True),
    State.SEGMENTING: Facts(has_scan=True, has_model=True, running="segment"),
    State.ADAPTING: Facts(has_scan=True, has_model=True, segmented=True, running="adapt"),
    State.BUSY: Facts(has_scan=True, has_model=True, running="task"),
    State.PAUSING: Facts(has_scan=True, has_model=True, running="adapt", pausing=True),
    State.PAUSED: Facts(has_scan=True, has_model=True, running="adapt", paused=True),
    State.CANCELLING: Facts(has_scan=True, has_model=True, running="adapt", cancelling=True),
    State.FINISHED: Facts(has_scan=True, has_model=True, segmented=True, adapted=True),
    State.FAILED: Facts(has_scan=True, has_model=True, problem="The disk is full."),
    State.REOPENED: Facts(
        has_scan=True, has_model=True, segmented=True, adapted=True, reopened="2026-01-02"
    ),
}


def test_every_state_can_be_reached() -> None:
    assert {look(facts).state for facts in SITUATIONS.values()} == set(State)


@pytest.mark.parametrize("state", SITUATIONS, ids=lambda s: s.value)
def test_a_state_says_something_and_highlights_only_what_is_live(state: State) -> None:
    shown = look(SITUATIONS[state])
    assert shown.state is state
    assert shown.message.strip()
    live = {"segment": shown.segment, "adapt": shown.adapt, "save": shown.review, "open": True}
    assert shown.highlight is None or live[shown.highlight]


@pytest.mark.parametrize(
    "state",
    [State.SEGMENTING, State.ADAPTING, State.BUSY, State.PAUSING, State.PAUSED, State.CANCELLING],
    ids=lambda s: s.value,
)
def test_while_something_runs_only_pause_and_cancel_are_live(state: State) -> None:
    shown = look(SITUATIONS[state])
    assert [shown.choices, shown.segment, shown.adapt] == [False] * 3
    assert shown.cancel == (state is not State.CANCELLING)


def test_a_model_that_does_not_fit_says_why_and_which_one_would() -> None:
    facts = Facts(
        has_scan=True, has_model=True, misfit="It reads photographs.", better_model="Brain T1"
    )
    shown = look(facts)
    assert not shown.segment
    assert shown.segment_tip == "It reads photographs."
    assert "Brain T1" in shown.message


def test_the_next_step_is_highlighted_in_turn() -> None:
    assert look(Facts(has_model=True)).highlight == "open"
    assert look(READY).highlight == "segment"
    assert look(SITUATIONS[State.SEGMENTED]).highlight == "adapt"
    assert look(SITUATIONS[State.FINISHED]).highlight == "save"


def test_after_a_failure_the_same_step_can_be_tried_again() -> None:
    shown = look(SITUATIONS[State.FAILED])
    assert shown.message == "The disk is full."
    assert shown.tone == "wrong"
    assert shown.segment
    assert shown.highlight == "segment"


def test_sections_fold_from_the_keyboard_and_stay_folded(make_dock: Any, qtbot: Any) -> None:
    dock = make_dock()
    heading = dock.model.findChild(QToolButton, "grata_title")
    heading.setFocus()
    qtbot.keyClick(heading, Qt.Key.Key_Space)
    assert not dock.model.expanded
    assert not dock.model.segment_button.isVisible()
    assert not type(dock.model)().expanded
    dock.model.set_expanded(True)
    assert type(dock.model)().expanded
