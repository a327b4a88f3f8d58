"""Masks of single slices on demand."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_grata.widgets import jobs
from napari_grata.widgets.previews import Cache, Previews, Question
from napari_grata.widgets.taken import TakenStates


@dataclass
class _Found:
    label_map: np.ndarray


class _SlowRun:
    """Answers like a run, each time only when it is let."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.may_go_on = threading.Event()

    def predict(self, slice_index: int, step: int) -> _Found:
        self.asked.append((step, slice_index))
        assert self.may_go_on.wait(20)
        if step == 13:
            raise ValueError("There is no such step.")
        return _Found(np.full((4, 5), step, dtype=np.uint8))


def test_of_many_questions_the_first_and_the_latest_are_answered(qtbot: Any) -> None:
    run, previews = _SlowRun(), Previews()
    came: list[tuple[int, int]] = []
    previews.arrived.connect(lambda question, mask: came.append((question.step, int(mask[0, 0]))))
    previews.ask(run, 1, 0)
    qtbot.waitUntil(lambda: len(run.asked) == 1)
    for step in range(2, 9):
        previews.ask(run, step, 0)
    run.may_go_on.set()
    qtbot.waitUntil(lambda: (8, 8) in came)
    qtbot.waitUntil(lambda: not previews.waiting)
    assert run.asked == [(1, 0), (8, 0)]


def test_a_mask_that_was_shown_lately_is_there_at_once(qtbot: Any) -> None:
    run, previews = _SlowRun(), Previews()
    run.may_go_on.set()
    with qtbot.waitSignal(previews.arrived):
        previews.ask(run, 3, 1)
    came: list[int] = []
    previews.arrived.connect(lambda question, mask: came.append(question.step))
    previews.ask(run, 3, 1)
    assert came == [3]
    assert run.asked == [(3, 1)]
    previews.clear()
    assert len(previews.cache) == 0
    qtbot.waitUntil(lambda: not previews.waiting)


def test_a_failure_is_said_in_words(qtbot: Any) -> None:
    run, previews = _SlowRun(), Previews()
    run.may_go_on.set()
    with qtbot.waitSignal(previews.failed) as blocker:
        previews.ask(run, 13, 0)
    assert blocker.args[0] == "There is no such step."
    qtbot.waitUntil(lambda: not previews.waiting)


def test_long_jobs_let_pass_what_a_person_waits_for(qtbot: Any) -> None:
    run, previews = _SlowRun(), Previews()
    previews.ask(run, 1, 0)
    qtbot.waitUntil(lambda: len(run.asked) == 1)
    passed = threading.Event()

    def long_job() -> None:
        jobs.give_way(20)
        passed.set()

    thread = threading.Thread(target=long_job)
    thread.start()
    assert not passed.wait(0.05)
    run.may_go_on.set()
    assert passed.wait(20)
    thread.join()
    qtbot.waitUntil(lambda: not previews.waiting)


def test_the_cache_keeps_what_was_wanted_last_within_its_bounds() -> None:
    cache, mask = Cache(limit=1000), np.zeros((10, 30), dtype=np.uint8)
    questions = [Question("run", step, 0) for step in range(6)]
    for question in questions[:3]:
        cache.put(question, mask)
    assert cache.get(questions[0]) is not None
    cache.put(questions[3], mask)
    assert cache.get(questions[1]) is None
    assert cache.get(questions[0]) is not None
    assert cache.nbytes <= 1000
    cache.put(questions[0], mask)
    assert cache.nbytes == len(cache) * mask.nbytes


def test_states_come_back_as_they_were_left() -> None:
    class Stacks:
        def get_mask(self, stack: np.ndarray, index: int) -> np.ndarray:
            return stack[index]

    rng = np.random.default_rng(0)
    stacks = [rng.integers(0, 3, (4, 9, 7)).astype(np.uint8) for _ in range(3)]
    states = TakenStates()
    states.leave(None).fill(Stacks(), stacks[0], range(4))
    states.leave(5).fill(Stacks(), stacks[1], range(4))
    wanted, left = states.undo(9)
    left.fill(Stacks(), stacks[2], range(4))
    assert wanted.step == 5
    for index, mask in wanted.masks():
        np.testing.assert_array_equal(mask, stacks[1][index])
    wanted, left = states.redo(5)
    assert wanted.step == 9
    np.testing.assert_array_equal(dict(wanted.masks())[3], stacks[2][3])
    states.leave(9)
    assert states.after is None
