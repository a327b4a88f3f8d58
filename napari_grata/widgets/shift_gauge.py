"""Under the model: how far the chosen scan is from the source centre, measured by itself."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_grata.adaptation.shift import why_not
from napari_grata.widgets.gauge import Gauge
from napari_grata.widgets.jobs import Engine, give_way
from napari_grata.widgets.parts import Sentence, row
from napari_grata.widgets.theme import tip

if TYPE_CHECKING:
    from pathlib import Path

    from napari_grata.adaptation.shift import Shift
    from napari_grata.scans import Scan

_SETTLE_MS = 250
_POLL_MS = 40
_ABOUT = (
    "How much this scan looks, to the model, like scans of the centre that it was trained at. "
    "Left of the first mark: like those. Right of the second: far from them. It says nothing "
    "about whether the masks are right: look at them in any case."
)
_MEASURING = "Looking how far this scan is from the source centre …"
_LATER = "How far this scan is from the source centre is measured after the work in progress."
_IDLE = "Shown here once a scan and a model are chosen."


@dataclass(frozen=True)
class _Wish:
    """What is to be measured: model, device, case and region of one scan."""

    model: str
    weights: str
    device: str
    case: int
    region: tuple[int, int, int, int] | None


class _Task:
    """One measurement in a thread of its own, which touches nothing of Qt.

    No napari worker: those change the warning filters of the whole program while they run, and a
    run may start at any moment.
    """

    def __init__(self, engine: Engine, folder: Path, scan: Scan, wish: _Wish) -> None:
        self.wish = wish
        self.scan = weakref.ref(scan)
        self.stop = threading.Event()
        self.result: Shift | Exception | None = None
        self.thread = threading.Thread(
            target=self._work, args=(engine, folder, scan), name="napari-grata-shift"
        )

    def _work(self, engine: Engine, folder: Path, scan: Scan) -> None:
        from napari_grata.adaptation.shift import ShiftError, measure_case

        try:
            segmenter = engine.get(folder, self.wish.device)
            found = measure_case(
                segmenter, scan, self.wish.case, self.wish.region, between=self._between
            )
            self.result = found or ShiftError("This part of the scan shows nothing to measure.")
        except _Stopped:
            pass
        except Exception as error:
            self.result = error

    def _between(self) -> None:
        if self.stop.is_set():
            raise _Stopped
        give_way()


class _Stopped(Exception):  # noqa: N818 - no error
    """The measurement is not wanted any more."""


class ShiftGauge(QObject):
    """Measures the photograph or volume in view whenever nothing else runs, and remembers it.

    Parameters
    ----------
    dock : GrataDock

    Attributes
    ----------
    gauge : Gauge
    sentence : Sentence
    shift : Shift or None
        What is shown now.
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self._known: weakref.WeakKeyDictionary[Scan, dict[_Wish, Any]] = weakref.WeakKeyDictionary()
        self._running = _Running()
        self._torch_is_there = False
        self.shift: Shift | None = None
        self._build()
        self._soon, self._poll = QTimer(self), QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SETTLE_MS)
        self._poll.setInterval(_POLL_MS)
        desk = dock.desk
        wires: Any = (
            (self._soon.timeout, self._measure),
            (self._poll.timeout, self._look),
            (dock.warm_up.devices, self._warm),
            (desk.changed, self.refresh),
            (dock.scan.selection_changed, self.refresh),
        )
        for signal, slot in wires:
            signal.connect(slot)
        dock.ties.listen(dock.viewer.dims.events.current_step, self.refresh)
        dock.ties.listen(dock.viewer.events.theme, self._theme_changed)
        dock.ties.at_end(partial(_Running.end, self._running))
        self._theme_changed()
        self.refresh()

    def _build(self) -> None:
        self.gauge = Gauge("Distance from the source centre")
        self.sentence = Sentence(2)
        self.sentence.setObjectName("grata_small")
        panel = QWidget()
        layout = QVBoxLayout(panel)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(1)
        layout.addWidget(row("Shift", self.gauge, tip=tip(_ABOUT)))
        layout.addWidget(self.sentence)
        self._dock.slots.shift.add(panel)

    # --- what is wanted ----------------------------------------------------------------------

    def refresh(self, *_: Any) -> None:
        """Show what is known; what is not is measured once things have settled."""
        wish, words = self._wish()
        scan = self._dock.desk.scan
        task = self._running.task
        wanted = task is not None and task.wish == wish and task.scan() is scan
        if task is not None and (self._dock.desk.runner.kind is not None or not wanted):
            task.stop.set()
        if wish is None or scan is None:
            self._show(None, words)
            return
        known = self._known.get(scan, {}).get(wish)
        if known is not None:
            self._show_found(known)
            return
        self._show(None, _LATER if self._dock.desk.runner.kind is not None else _MEASURING)
        if not wanted:
            self._soon.start()

    def _wish(self) -> tuple[_Wish | None, str]:
        """Return what should be measured now, or why nothing can be."""
        dock, desk = self._dock, self._dock.desk
        scan, entry = desk.scan, desk.entry
        if scan is None or entry is None or entry.card is None:
            return None, _IDLE
        if entry.card.fits(scan) is not None:
            return None, "This model does not read this scan."
        problem = why_not(entry.card)
        if problem is not None:
            return None, problem
        case = scan.case_of(desk.in_view())
        weights = str(entry.card.weights_sha256)
        device = dock.model.device_key()
        return _Wish(str(entry.folder), weights, device, case, dock.scan.box()), ""

    # --- measuring -----------------------------------------------------------------------------

    def _warm(self, _devices: Any) -> None:
        self._torch_is_there = True
        self.refresh()

    def _measure(self) -> None:
        """Start to measure, unless something that matters more is going on."""
        wish, _ = self._wish()
        desk = self._dock.desk
        if wish is None or desk.scan is None or not self._torch_is_there:
            return
        if desk.runner.kind is not None or wish in self._known.get(desk.scan, {}):
            return  # the runner's end asks again
        if self._running.task is not None:
            self._soon.start()
            return
        task = _Task(desk.runner.engine, desk.entry.folder, desk.scan, wish)
        self._running.task = task
        task.thread.start()
        self._poll.start()

    def _look(self) -> None:
        """Take the result once the thread is through."""
        task = self._running.task
        if task is None or task.thread.is_alive():
            return
        self._poll.stop()
        self._running.task = None
        scan = task.scan()
        if scan is not None and task.result is not None:
            self._known.setdefault(scan, {})[task.wish] = task.result
        self.refresh()

    # --- showing -------------------------------------------------------------------------------

    def _show_found(self, found: Shift | Exception) -> None:
        if isinstance(found, Exception):
            from napari_grata.widgets.worker import describe

            self._show(None, describe(found))
        else:
            self._show(found, found.words)

    def _show(self, shift: Shift | None, words: str) -> None:
        if shift is self.shift and words == self.sentence.said():
            return
        self.shift = shift
        entry = self._dock.desk.entry
        reference = entry.card.shift if entry is not None and entry.card is not None else None
        if shift is None or reference is None:
            self.gauge.clear()
        else:
            self.gauge.show_score(shift.score, reference.near, reference.far, shift.level)
        self.sentence.say(words)
        self.gauge.setAccessibleDescription(words)
        lines = [words if shift is not None else "", _ABOUT, shift.more if shift else ""]
        self.gauge.setToolTip(tip("\n".join(line for line in lines if line)))

    def _theme_changed(self, event: Any = None) -> None:
        self.gauge.set_theme(self._dock.viewer.theme)


class _Running:
    """The measurement under way, which can be stopped when the dock is gone already."""

    def __init__(self) -> None:
        self.task: _Task | None = None

    def end(self) -> None:
        """Ask it to stop at the next slice; it is not waited for."""
        if self.task is not None:
            self.task.stop.set()
