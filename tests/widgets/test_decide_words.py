"""What is said about decisions, and where drawings come from: without a viewer."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np

from napari_grata.review.cases import VERDICTS, Decision
from napari_grata.review.final_masks import mask_digest
from napari_grata.widgets.decide.bar import BUTTONS
from napari_grata.widgets.decide.words import (
    MARKS,
    VERDICT_WORDS,
    line,
    place,
    progress,
    sentence,
    when,
)

NOW = datetime(2026, 11, 21, 15, 0, tzinfo=timezone.utc)


def decision(verdict: str = "accept", index: int | None = 3, **more: str) -> Decision:
    time = datetime.now(timezone.utc).isoformat()
    return Decision(1, time, "case-0001", index, verdict, **more)  # type: ignore[arg-type]


def test_every_verdict_has_a_button_words_and_a_mark_of_its_own() -> None:
    assert [verdict for verdict, *_ in BUTTONS] == list(VERDICTS)
    assert set(VERDICT_WORDS) == set(VERDICTS) == set(MARKS)
    assert len(set(MARKS.values())) == len(VERDICTS)


def test_a_time_is_said_as_it_is_on_the_clock_of_the_wall() -> None:
    local = NOW.astimezone()
    assert when(NOW.isoformat(), NOW) == f"{local:%H:%M}"
    earlier = NOW - timedelta(days=3)
    assert when(earlier.isoformat(), NOW) == f"{earlier.astimezone().day} Nov {local:%H:%M}"
    assert when("2024-02-03T12:00:00+00:00", NOW) == "2024-02-03"
    assert when("2026-11-21T15:00:00Z", NOW) == f"{local:%H:%M}"
    assert when("yesterday", NOW) == ""


def test_the_sentence_says_what_is_in_force_and_how_to_take_it_back() -> None:
    own = decision(reviewer="AB")
    found = sentence("Axial 34", own, None, stale=False, undo_key="Ctrl+0")
    assert found == f"Axial 34: accepted by AB, {when(own.time)}. Undo: Ctrl+0"
    found = sentence("Axial 34", own, None, stale=True, undo_key="Ctrl+0")
    assert found.endswith("The mask has changed since: look again.")
    found = sentence("Axial 34", None, None, stale=False, undo_key="Ctrl+0")
    assert found == "Axial 34: not decided yet."


def test_a_line_holds_what_goes_with_the_decision() -> None:
    found = line(
        decision("second-reader", comment="odd rim", difficulty="hard"), "Axial 4", stale=True
    )
    assert found.startswith("Axial 4: for a second reader, ")
    assert found.endswith(" · hard · “odd rim” · mask changed since")


def test_places_and_counts_are_named_as_people_do() -> None:
    assert place(3, "axial 4") == "Axial 4"
    assert place(None, "") == "Whole case"
    assert place(None, "", "photograph") == "Photograph"
    assert place(None, "", "photographs") == "All photographs"
    current = {3: decision(), None: decision(index=None)}
    assert progress(current, 98, "slice") == "1 of 98 slices decided"


def test_a_fingerprint_tells_masks_apart_by_value_and_shape() -> None:
    mask = np.zeros((4, 6), dtype=np.uint8)
    assert mask_digest(mask) == mask_digest(mask.astype(np.int64))
    assert mask_digest(mask) != mask_digest(mask.reshape(6, 4))
    other = mask.copy()
    other[1, 2] = 1
    assert mask_digest(mask) != mask_digest(other)
