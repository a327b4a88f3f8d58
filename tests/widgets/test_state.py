"""The states of the dock, each by itself: what is said, which step is open, what comes next."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_grata.scans import scan_from_array
from napari_grata.segmenters import Card, Structure
from napari_grata.widgets.session import Session
from napari_grata.widgets.state import Facts, Step, dock_state
from napari_grata.widgets.undo import MaskSnapshot, Undoable, UndoStack

BRAIN = Facts(scan="case_017", model="Brain T1", method="Careful", total=53)
ADAPTED = Facts(
    scan="case_017",
    model="Brain T1",
    method="Careful",
    total=53,
    segmented=53,
    adapted=53,
    note="53 slices adapted, none flagged.",
    note_tone="good",
)


def but(facts: Facts, **changes: object) -> Facts:
    return Facts(**{**facts.__dict__, **changes})


def test_with_nothing_open_there_is_one_sentence_and_no_step() -> None:
    state = dock_state(Facts(model="Brain T1"))
    assert state.message == "Open a scan, or try a sample, to begin."
    assert not state.steps
    assert state.next is None


def test_a_scan_and_a_model_that_fits_need_one_click_to_adapt() -> None:
    state = dock_state(BRAIN)
    assert state.open_step is Step.ADAPT
    assert state.next is not None
    assert state.next.name == "adapt"
    assert state.may_run
    assert state.steps[Step.CORRECT].waiting
    assert state.steps[Step.TAKE_OUT].waiting


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "There is no model yet"),
        ({"misfit": "The model reads photographs.", "better_model": "Brain T1"}, "“Brain T1”"),
    ],
)
def test_what_keeps_a_run_from_beginning_is_said_and_its_step_is_open(
    changes: dict[str, str], words: str
) -> None:
    state = dock_state(but(BRAIN, **changes))
    assert words in state.message
    assert state.tone == "warning"
    assert state.open_step is Step.MODEL
    assert state.next is None
    assert not state.may_run


def test_nothing_is_green_that_is_not_plausible() -> None:
    words = "The optic disc fills 93 % of the picture."
    state = dock_state(but(BRAIN, segmented=1, implausible=words, total=1, noun="photograph"))
    assert state.message == words
    assert state.tone == "warning"
    assert state.next is not None
    assert state.next.name == "region"
    assert state.open_step is Step.SCAN
    assert dock_state(but(ADAPTED, implausible=words)).tone == "warning"
    volume = dock_state(but(BRAIN, segmented=53, implausible="No csf was found."))
    assert volume.next is not None
    assert volume.next.text == "Adapt all the same"


def test_where_no_frame_was_found_a_region_comes_next_and_then_another_run() -> None:
    words = "No part of the picture was found that shows the disc."
    unframed = but(ADAPTED, total=1, flagged=1, unframed=words, noun="photograph", note="far")
    assert dock_state(unframed).next.name == "region"
    assert dock_state(unframed).message == words
    drawn = dock_state(but(unframed, other_region=True))
    assert (drawn.next.name, drawn.tone) == ("adapt", "warning")
    assert "not of this region yet" in drawn.message
    kept = but(unframed, decided="mask before kept", done=True, saved="taken out")
    assert dock_state(kept).next is None


def test_after_a_run_the_next_step_is_to_look_then_to_decide_then_to_save() -> None:
    flagged = but(ADAPTED, flagged=2, note="2 flagged", note_tone="warning")
    first = dock_state(flagged)
    assert first.next is not None
    assert first.next.text == "Look at 2 flagged slices"
    assert first.open_step is Step.CORRECT
    looked = dock_state(but(flagged, looked=True))
    assert looked.next is not None
    assert looked.next.name == "decide"
    decided = dock_state(but(flagged, decided="accepted", done=True))
    assert decided.next is not None
    assert decided.next.name == "save"
    assert decided.open_step is Step.TAKE_OUT
    assert dock_state(but(flagged, decided="accepted", done=True, saved="taken out")).next is None


def test_one_decided_slice_is_not_the_end_of_a_volume() -> None:
    state = dock_state(but(ADAPTED, decided="1 of 53 decided"))
    assert state.open_step is Step.CORRECT


def test_the_count_of_flags_is_one_and_the_same_everywhere() -> None:
    state = dock_state(but(ADAPTED, flagged=1, note="53 slices adapted, 1 flagged"))
    assert "1 flagged" in state.steps[Step.ADAPT].summary
    assert state.next is not None
    assert "1 flagged slice" in state.next.text
    assert "none flagged" in dock_state(ADAPTED).steps[Step.ADAPT].summary


def test_a_photograph_is_not_called_a_slice() -> None:
    one = but(ADAPTED, total=1, segmented=1, adapted=1, noun="photograph")
    state = dock_state(one)
    words = [state.message, *(s.summary + s.waiting for s in state.steps.values())]
    assert "1 photograph" in state.steps[Step.ADAPT].summary
    assert not any("slice" in text for text in words[1:])


@pytest.mark.parametrize(
    ("changes", "words", "pause", "cancel"),
    [
        ({"running": "segment"}, "Segmenting", True, True),
        ({"running": "adapt"}, "Adapting", True, True),
        ({"running": "adapt", "phase": "pausing"}, "Pausing after", False, True),
        ({"running": "adapt", "phase": "paused"}, "Paused.", True, True),
        ({"running": "adapt", "phase": "cancelling"}, "Cancelling", False, False),
        ({"running": "task"}, "Working", False, True),
    ],
)
def test_while_something_runs_nothing_else_can_be_chosen(
    changes: dict[str, object], words: str, pause: bool, cancel: bool
) -> None:
    state = dock_state(but(BRAIN, **changes))
    assert state.message.startswith(words)
    assert not state.may_choose
    assert not state.may_run
    assert (state.may_pause, state.may_cancel) == (pause, cancel)


def test_a_problem_comes_before_everything_else_that_could_be_said() -> None:
    state = dock_state(but(ADAPTED, problem="The disk is full."))
    assert (state.message, state.tone) == ("The disk is full.", "wrong")


def test_undo_forgets_the_oldest_once_masks_take_too_much_memory(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (3, 64, 64)).astype(np.uint8)
    card = Card(
        name="any",
        title="Any",
        structures=(Structure("disc", "#56B4E9", 1),),
        channels=1,
        dimensions=3,
        modality="T1",
        size=(64, 64),
        weights_sha256="0" * 64,
        architecture="any",
    )
    scan = scan_from_array(noise.astype(float), name="noise")
    session = Session(ViewerModel(), scan, None, card, filled=True)
    for index, mask in enumerate(noise):
        session.put_adapted(index, mask)
    undo, dropped = UndoStack(), list[int]()

    def push(number: int) -> None:
        snapshot = MaskSnapshot(session)
        drop = partial(dropped.append, number)
        undo.push(Undoable(str(number), partial(snapshot.put_back, session), drop=drop))

    before = MaskSnapshot.bytes_held()
    push(0)
    one = MaskSnapshot.bytes_held() - before
    assert one > 0
    monkeypatch.setattr(UndoStack, "BYTES", before + 3 * one)
    for number in range(1, 5):
        push(number)
    assert dropped == [0, 1]
    assert MaskSnapshot.bytes_held() == before + 3 * one
    monkeypatch.setattr(UndoStack, "BYTES", 0)
    push(5)
    assert undo.undo_words == "5"  # the latest can be taken back, however large
    assert dropped == [0, 1, 2, 3, 4]
