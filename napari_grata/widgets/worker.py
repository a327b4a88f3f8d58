"""One worker over one generator: pause, resume and cancel, and redraws at a person's pace."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

# Each batch costs a redraw of the whole window, next to a viewer that draws with OpenGL.
# So the first few come quickly, since many jobs are short, and the others at a steady pace.
FIRST_MS, LATER_MS, FEW = 66, 300, 6


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes
    ----------
    kind : {"done", "cancelled", "failed", "quit"}
        ``quit``: napari told the worker to go, because its window is closing.
    message : str
        Of a failure: what happened, in a sentence.
    details : str
        Of a failure: the trace, for copying into a report.
    """

    kind: str
    message: str = ""
    details: str = ""


class _ClosingWorker(GeneratorWorker):
    """Closes its generator in its own thread, also where napari asks it to quit.

    Otherwise the generator would be closed by the garbage collector, at any time, in any thread.
    """

    def work(self) -> Any:
        try:
            return super().work()
        finally:
            self._gen.close()


def _stream(make: Callable[[], Iterator[Any]], stop: threading.Event) -> Iterator[Any]:
    """Run a job to its end, to a cancel or to an error, and say which it was."""
    items: Iterator[Any] | None = None
    try:
        items = make()
        for item in items:
            yield item
            if stop.is_set():
                yield Outcome("cancelled")
                return
        yield Outcome("done")
    except Exception as error:
        yield Outcome("failed", describe(error), traceback.format_exc())
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def describe(error: Exception) -> str:
    """Return an error as a sentence for a person."""
    if isinstance(error, MemoryError):
        return "The computer ran out of memory. Choose fewer slices or a smaller region."
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, (ValueError, OSError, LookupError))
    return text if known else f"{text} ({type(error).__name__})"


class Token:
    """Ends the present job from outside, also when its `Job` is gone already."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.abandoned = threading.Event()
        self.worker: GeneratorWorker | None = None

    def end(self) -> None:
        """Ask the worker to quit at its next step; it is not waited for."""
        self.abandoned.set()
        self.stop.set()
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.quit()


class Job(QObject):
    """Runs one generator at a time in a napari worker and hands its items over in batches.

    Parameters
    ----------
    parent : QObject, optional

    Signals
    -------
    batch(list)
        Items that came since the last batch, in order; the first few in quick succession, then
        about 3 a second.
    paused(), resumed()
        The worker really has paused, or goes on.
    ended(Outcome)
        After the last batch.
    """

    batch = Signal(list)
    paused = Signal()
    resumed = Signal()
    ended = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._worker: GeneratorWorker | None = None
        self.token = Token()
        self._pending: list[Any] = []
        self._outcome: Outcome | None = None
        self._last = 0.0
        self._batches = 0
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._flush)

    @property
    def running(self) -> bool:
        """Whether a job is under way, paused ones included."""
        return self._worker is not None

    def start(self, make: Callable[[], Iterator[Any]]) -> None:
        """Start a job; ``make`` and the iterator it returns run in the worker's thread.

        Raises
        ------
        RuntimeError
            If a job is still running.
        """
        if self._worker is not None:
            raise RuntimeError("A job is still running; cancel it or wait for its end.")
        stop = self.token.stop = threading.Event()
        self._pending, self._outcome, self._batches = [], None, 0
        worker = create_worker(
            _stream, make, stop, _start_thread=False, _worker_class=_ClosingWorker
        )
        worker.yielded.connect(self._on_item)
        worker.paused.connect(self._on_paused)
        worker.resumed.connect(self.resumed)
        worker.finished.connect(self._on_finished)
        self._worker = self.token.worker = worker
        worker.start()

    def pause(self) -> None:
        """Ask the worker to pause before its next step."""
        if self._worker is not None and not self.token.stop.is_set():
            self._worker.pause()

    def resume(self) -> None:
        """Let a paused worker go on."""
        if self._worker is not None:
            self._worker.resume()

    def cancel(self) -> None:
        """End the job at its next step; what is finished stays."""
        self.token.stop.set()
        if self._worker is not None:
            self._worker.resume()

    def _on_item(self, item: Any) -> None:
        if isinstance(item, Outcome):
            self._outcome = item
            return
        self._pending.append(item)
        if not self._timer.isActive():
            since = (time.monotonic() - self._last) * 1000
            wait = FIRST_MS if self._batches < FEW else LATER_MS
            self._timer.start(max(0, int(wait - since)))

    def _flush(self) -> None:
        items, self._pending = self._pending, []
        if items:
            self._batches += 1
            self.batch.emit(items)
            # After the redraw, so that slow redraws leave the event loop room as well.
            self._last = time.monotonic()

    def _on_paused(self) -> None:
        if self.token.stop.is_set() and self._worker is not None:
            # Cancel came between the wish to pause and the pause.
            self._worker.resume()
            return
        self._flush()
        self.paused.emit()

    def _on_finished(self) -> None:
        self._timer.stop()
        self._flush()
        self._worker = self.token.worker = None
        # Without an outcome the worker was told to quit from outside: napari is closing.
        self.ended.emit(self._outcome or Outcome("quit"))
