"""Jobs and queues: order, pause, cancel, failure, latest wish wins, and the end of a window."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from qtpy.QtWidgets import QWidget

from napari_grata.widgets.background import Job, Outcome, Queue
from napari_grata.widgets.connections import EventConnections


class Window(QWidget):
    """A widget with whose end jobs and queues end."""

    def __init__(self) -> None:
        super().__init__()
        self.connections = EventConnections(self)

    def job(self) -> Job:
        return Job(self, self.connections)

    def queue(self, *, finish: bool = False) -> Queue:
        return Queue("test", self, self.connections, finish=finish)


@pytest.fixture
def window(qtbot: Any) -> Window:
    made = Window()
    qtbot.addWidget(made)
    return made


class Listener:
    """Takes what a job says."""

    def __init__(self, job: Job) -> None:
        self.items: list[Any] = []
        self.outcomes: list[Outcome] = []
        job.batch.connect(self.items.extend)
        job.ended.connect(self.outcomes.append)


def test_a_job_hands_over_every_item_in_order_and_then_ends(qtbot: Any, window: Window) -> None:
    job = window.job()
    heard = Listener(job)
    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.start(lambda: iter(range(2000)))
    assert heard.items == list(range(2000))
    assert [outcome.kind for outcome in heard.outcomes] == ["done"]
    assert not job.running


def test_a_job_that_fails_hands_over_what_it_had_and_says_why(qtbot: Any, window: Window) -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ValueError("The scan is damaged.")

    job = window.job()
    heard = Listener(job)
    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.start(work)
    assert heard.items == [1]
    assert heard.outcomes[0].kind == "failed"
    assert heard.outcomes[0].message == "The scan is damaged."
    assert "Traceback" in heard.outcomes[0].details


@pytest.mark.parametrize("paused", [False, True])
def test_cancel_ends_a_job_at_its_next_step_in_its_own_thread(
    qtbot: Any, window: Window, paused: bool
) -> None:
    closed: list[str] = []
    step = threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                step.wait(10)
                yield 1
        finally:
            closed.append(threading.current_thread().name)

    job = window.job()
    heard = Listener(job)
    job.start(work)
    if paused:
        job.pause()
        with qtbot.waitSignal(job.paused, timeout=10_000):
            step.set()
    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.cancel()
        step.set()
    assert heard.outcomes[0].kind == "cancelled"
    assert closed == ["napari-grata-job"]


def test_a_paused_job_takes_no_step_until_it_is_resumed(qtbot: Any, window: Window) -> None:
    job = window.job()
    heard = Listener(job)
    steps: list[int] = []
    paused = threading.Event()

    def work() -> Iterator[int]:
        for number in range(4):
            steps.append(number)
            paused.wait(10)
            yield number

    job.start(work)
    job.pause()
    with qtbot.waitSignal(job.paused, timeout=10_000):
        paused.set()
    qtbot.wait(100)
    assert heard.items == [0]
    assert steps == [0]
    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.resume()
    assert heard.items == [0, 1, 2, 3]


def test_a_second_job_is_refused_while_one_runs(qtbot: Any, window: Window) -> None:
    job = window.job()
    gate = threading.Event()

    def work() -> Iterator[int]:
        gate.wait(10)
        yield 1

    with qtbot.waitSignal(job.ended, timeout=10_000):
        job.start(work)
        with pytest.raises(RuntimeError, match="still running"):
            job.start(work)
        gate.set()


def test_a_window_that_goes_ends_its_job_and_is_not_called_back(qtbot: Any, window: Window) -> None:
    job = window.job()
    heard = Listener(job)
    thread: list[threading.Thread] = []
    begun = threading.Event()

    def work() -> Iterator[int]:
        thread.append(threading.current_thread())
        while True:
            begun.set()
            yield 1

    job.start(work)
    assert begun.wait(10)
    window.connections.cut()
    thread[0].join(10)
    assert not thread[0].is_alive()
    assert job.abandoned.is_set()
    assert heard.outcomes == [] or heard.outcomes[0].kind == "cancelled"


def test_of_wishes_with_one_key_the_latest_wins(qtbot: Any, window: Window) -> None:
    queue = window.queue()
    gate = threading.Event()
    done: list[Any] = []
    queue.found.connect(lambda found: done.append((found.key, found.result)))
    busy = threading.Event()
    queue.ask("gate", lambda: busy.set() or gate.wait(10))
    assert busy.wait(10)
    for number in range(5):
        queue.ask("picture", lambda number=number: number)
    queue.ask("first", lambda: "first", first=True)
    gate.set()
    qtbot.waitUntil(lambda: not queue.busy and len(done) == 3, timeout=10_000)
    assert done == [("gate", True), ("first", "first"), ("picture", 4)]


def test_an_error_in_a_queue_is_handed_over_and_the_next_wish_is_done(
    qtbot: Any, window: Window
) -> None:
    queue = window.queue()
    found: list[Any] = []
    queue.found.connect(found.append)
    queue.ask("bad", lambda: 1 / 0)
    queue.ask("good", lambda: "fine")
    qtbot.waitUntil(lambda: len(found) == 2, timeout=10_000)
    assert isinstance(found[0].error, ZeroDivisionError)
    assert found[1].result == "fine"


def test_who_asks_is_told_and_nobody_else(qtbot: Any, window: Window) -> None:
    queue = window.queue()
    told: list[Any] = []
    heard: list[Any] = []
    queue.found.connect(heard.append)
    for number in (1, 2):
        queue.ask("mine", lambda number=number: number, told.append)
        queue.ask("anybody's", lambda: "heard")
        while queue.wanted("mine") or queue.wanted("anybody's"):
            time.sleep(0.001)  # both answers wait, and none may be lost, when they are fetched
    qtbot.waitUntil(lambda: not queue.busy and len(told) == len(heard) == 2, timeout=10_000)
    assert [found.result for found in told] == [1, 2]


def test_a_queue_that_ends_still_does_what_must_be_written(window: Window) -> None:
    queue = window.queue(finish=True)
    gate, written = threading.Event(), threading.Event()
    queue.ask("gate", lambda: gate.wait(10))
    queue.ask("write", written.set)
    window.connections.cut()
    queue.ask("late", lambda: None)
    assert not queue.wanted("late")
    gate.set()
    assert written.wait(10)
