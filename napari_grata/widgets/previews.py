"""Masks of single slices on demand: the latest question is answered, answers are kept for a while.

No napari worker, since those change the warning filters of the whole program while they run: a
plain thread that ends when there is nothing more to do, and a timer on the main thread that fetches
what it found. Nothing of Qt is touched off the main thread.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Qt, QTimer, Signal

from napari_grata.widgets import jobs
from napari_grata.widgets.worker import describe

CACHE_BYTES = 48 * 2**20
_POLL_MS = 6


@dataclass(frozen=True)
class Question:
    """Which mask is wanted: of this slice, as the model was after this step of this run."""

    run: Any
    step: int
    slice_index: int


@dataclass(frozen=True)
class Answer:
    """A mask, shape (H, W), or why there is none (``error``: the exception)."""

    question: Question
    label_map: np.ndarray | None = None
    error: Exception | None = None
    details: str = ""


class Cache:
    """Masks that were asked for lately, up to so many bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[Question, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that the masks take."""
        return self._bytes

    def get(self, question: Question) -> np.ndarray | None:
        """Return a mask that is there, and remember that it was wanted."""
        found = self._kept.get(question)
        if found is not None:
            self._kept.move_to_end(question)
        return found

    def put(self, question: Question, label_map: np.ndarray) -> None:
        """Keep a mask; those that were not wanted for longest go."""
        old = self._kept.pop(question, None)
        self._bytes += label_map.nbytes - (0 if old is None else old.nbytes)
        self._kept[question] = label_map
        while self._bytes > self._limit and len(self._kept) > 1:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


class Counter:
    """The counter at which questions are left for the thread, and answers for the main thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._question: Question | None = None
        self._answers: list[Answer] = []
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come or to be fetched."""
        with self._lock:
            return bool(self._answers) or self._question is not None or self._thread is not None

    def ask(self, question: Question) -> None:
        """Leave a question in place of the last one, if nobody has taken that up yet."""
        with self._lock:
            self._question = question
            if self._thread is None:
                # Not a daemon: torch must not be cut off in the middle of its work at exit.
                self._thread = threading.Thread(target=self._work, name="napari-grata-previews")
                self._thread.start()

    def drop(self) -> None:
        """Take the last question back."""
        with self._lock:
            self._question = None
            self._answers.clear()

    def fetch(self) -> list[Answer]:
        """Return what was found since the last time."""
        with self._lock:
            answers, self._answers = self._answers, []
            return answers

    def _work(self) -> None:
        with jobs.going_first():
            while True:
                with self._lock:
                    question, self._question = self._question, None
                    if question is None:
                        self._thread = None
                        return
                answer = _answer(question)
                with self._lock:
                    self._answers.append(answer)


def _answer(question: Question) -> Answer:
    try:
        with jobs.leave_room_for_the_interface():
            found = question.run.predict(question.slice_index, question.step)
        return Answer(question, np.array(found.label_map, dtype=np.uint8))
    except Exception as error:
        return Answer(question, None, error, traceback.format_exc())


class Previews(QObject):
    """Answers which mask a slice had after a step, in a thread, the latest question first.

    Signals
    -------
    arrived(Question, ndarray)
        A mask, shape (H, W). Of a question that was asked in the meantime none may come.
    failed(str message, str details)
    """

    arrived = Signal(object, object)
    failed = Signal(str, str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.cache = Cache()
        self._counter = Counter()
        self._last: Question | None = None
        self._timer = QTimer(self)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._fetch)

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._timer.isActive()

    def ask(self, run: Any, step: int, slice_index: int) -> None:
        """Ask for a mask; it may be there at once."""
        question = Question(run, step, slice_index)
        kept = self.cache.get(question)
        if kept is not None:
            self._last = None
            self._counter.drop()
            self.arrived.emit(question, kept)
            return
        if question == self._last and self.waiting:
            return
        self._last = question
        self._counter.ask(question)
        if not self._timer.isActive():
            self._timer.start()

    def stop(self) -> None:
        """Take back what was asked."""
        self._last = None
        self._counter.drop()
        self._timer.stop()

    def clear(self) -> None:
        """Take back what was asked, and forget all masks: the steps may be others from here."""
        self.stop()
        self.cache.clear()

    def end(self) -> Any:
        """Return what takes back the last question when the widget goes; it holds no widget."""
        return self._counter.drop

    def _fetch(self) -> None:
        answers = self._counter.fetch()
        if not answers and not self._counter.busy:
            self._timer.stop()
        for answer in answers:
            if answer.label_map is not None:
                self.cache.put(answer.question, answer.label_map)
        if not answers:
            return
        # Of several only the latest is of use: the others were overtaken.
        latest = answers[-1]
        if latest.question == self._last:
            self._last = None
        if latest.label_map is not None:
            self.arrived.emit(latest.question, latest.label_map)
        elif latest.error is not None:
            self.failed.emit(describe(latest.error), latest.details)
