"""How smoothly the interface runs while the model works: gaps between turns of Qt's event loop.

Opens napari with the dock on the brain sample and prints, for each phase, the median, 99th
percentile and longest gap between ticks of a 5 ms timer, as a Markdown table. The first import of
torch, segmenting, adapting with layers and curves in view, dragging the time slider, and reviewing
while the case list works ahead are measured beside a floor: the same adaptation in a bare thread of
the same program, with nothing drawn. Figures of a busy machine are noisy; the ratio to the floor is
less so. Masks that the slider asked for are timed from the move to the layer.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/event_loop_gaps.py
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TICK = 5  # ms
HEAD = "| phase | seconds | median ms | 99th percentile ms | worst ms |"


class Loop:
    """Qt's event loop, and how evenly it turns."""

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._ticks: list[float] = []
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(TICK)
        self._timer.timeout.connect(self._tick)
        self._timer.start()
        self.rows: list[tuple[str, float, np.ndarray]] = []

    def _tick(self) -> None:
        self._ticks.append(time.perf_counter())

    def turn(self, until: Callable[[], bool], seconds: float) -> bool:
        """Run the loop until something is the case; returns whether it came to be."""
        from qtpy.QtCore import QEventLoop, QTimer

        if until():
            return True
        loop, look, end = QEventLoop(), QTimer(), time.perf_counter() + seconds

        def check() -> None:
            if until() or time.perf_counter() > end:
                loop.quit()

        look.timeout.connect(check)
        look.start(20)
        loop.exec()
        look.stop()
        return until()

    def rest(self, seconds: float) -> None:
        """Run the loop for some time."""
        end = time.perf_counter() + seconds
        self.turn(lambda: time.perf_counter() > end, seconds + 1)

    def measure(
        self, phase: str, start: Callable[[], object], until: Callable[[], bool], limit: float = 170
    ) -> None:
        """Run a phase and note its gaps."""
        self._ticks.clear()
        began = time.perf_counter()
        start()
        self.turn(until, limit)
        gaps = 1000 * np.diff([began, *self._ticks])
        row = phase, time.perf_counter() - began, gaps
        self.rows.append(row)
        print(line(*row), flush=True)


def line(phase: str, seconds: float, gaps: np.ndarray) -> str:
    """Return a row of the table."""
    return (
        f"| {phase} | {seconds:.1f} | {np.median(gaps):.0f} | {np.percentile(gaps, 99):.0f} "
        f"| {gaps.max():.0f} |"
    )


def bare_thread(loop: Loop, model: Path, scan: Any, settings: Any, count: int) -> None:
    """Adapt in a plain thread that nobody listens to: the floor."""
    from napari_grata.widgets import tasks

    done = threading.Event()

    def work() -> None:
        engine, never = tasks.Engine(), threading.Event()
        stream = tasks.adapt(
            engine, model, "cpu", scan, settings, list(range(count)), None, {}, None, never
        )
        for _ in stream:
            pass
        done.set()

    thread = threading.Thread(target=work)
    name = f"floor: the same adaptation in a bare thread, {count} slices"
    loop.measure(name, thread.start, done.is_set)
    thread.join()


def drag(loop: Loop, dock: Any, moves: int) -> list[float]:
    """Look back at steps to and fro, a move every 60 ms, changing the slice now and then."""
    from qtpy.QtCore import QTimer

    context = dock.context
    last = context.session.run.past.last_step
    places = np.random.default_rng(0).integers(0, last, moves)
    state = {"move": 0}
    timer = QTimer()

    def move() -> None:
        number = state["move"]
        if number >= moves:
            timer.stop()
            return
        state["move"] += 1
        if number % 7 == 6:
            context.go_to(int(places[number]) % context.scan.n_slices)
        context.look_back(int(places[number]))

    def step_layer() -> Any:
        found = (x for x in context.viewer.layers if _role(x) == "step" and x.visible)
        return next(found, None)

    timer.timeout.connect(move)
    loop.measure(
        f"dragging the time slider, {moves} moves",
        lambda: timer.start(60),
        lambda: state["move"] >= moves,
    )
    loop.rest(1)
    waits = []
    for number in range(40):
        context.look_back(None)
        loop.turn(lambda: step_layer() is None, 5)
        began = time.perf_counter()
        context.look_back(int(places[number % moves] + number) % last)
        loop.turn(lambda: step_layer() is not None, 5)
        waits.append(1000 * (time.perf_counter() - began))
    context.look_back(None)
    return waits


def _role(layer: Any) -> Any:
    return layer.metadata.get("napari_grata", {}).get("role")


def photographs(folder: Path, sample: Path, count: int) -> list[Path]:
    """Copy one photograph a few times, as a list of cases."""
    paths = []
    for number in range(count):
        paths.append(folder / f"photo_{number:02d}{sample.suffix}")
        shutil.copy(sample, paths[-1])
    return paths


def ahead(loop: Loop, dock: Any, folder: Path) -> None:
    """Let the case list work ahead."""
    from napari_grata.scans import samples

    found = [path for path in Path(samples.__file__).parents[2].glob("sample_data/*.jpg")]
    paths = photographs(folder, found[0], 6)
    end = time.perf_counter() + 30
    cases, context = dock.cases, dock.context

    def in_view() -> bool:
        # The dock then has a model that reads photographs; the one for brains would refuse all.
        scan = context.scan
        return scan is not None and scan.name.startswith("photo_") and not context.misfit()

    def begin() -> None:
        cases.open_list([str(path) for path in paths])
        loop.turn(lambda: cases.caselist is not None and in_view(), 20)
        cases.toggle_batch()

    loop.measure(
        "case list opens and works ahead, 6 photographs, 30 s",
        begin,
        lambda: time.perf_counter() > end,
    )
    print(f"\n({cases.caselist.progress().prepared} of {len(paths)} cases adapted)")


def main(argv: Sequence[str] | None = None) -> None:
    """Drive the dock through all phases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=53, help="so many slices are worked on")
    parser.add_argument("--moves", type=int, default=120, help="moves of the time slider")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as home:
        for name in ("NAPARI_GRATA_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            os.environ.setdefault(name, home)
        run(options.slices, options.moves, Path(home))


def run(slices: int, moves: int, folder: Path) -> None:
    """Open the program and go through the phases."""
    import napari

    from napari_grata.adaptation.settings import preset
    from napari_grata.widgets.dock import GrataDock

    viewer = napari.Viewer()
    viewer.window.resize(1366, 768)
    loop = Loop()
    print(HEAD)
    print("| --- | --- | --- | --- | --- |")
    dock = GrataDock(viewer)
    viewer.window.add_dock_widget(dock, name="Adapt to a new centre", area="right")
    context = dock.context
    loop.measure("first import of torch", lambda: None, lambda: context.devices is not None)
    viewer.open_sample("napari-grata", "brain-other-scanner")
    loop.turn(lambda: context.scan is not None, 20)
    loop.rest(1)
    idle = time.perf_counter() + 3
    loop.measure("idle", lambda: None, lambda: time.perf_counter() > idle)
    scan, entry = context.scan, context.entry
    count = min(slices, scan.n_slices)
    bare_thread(loop, entry.folder, scan, preset("careful").settings, count)
    context.slices_text = "all" if count == scan.n_slices else f"1-{count}"

    def at_rest() -> bool:
        return not context.runner.busy

    viewer.dims.set_current_step(0, count // 2)
    loop.measure(f"segment, {count} slices", context.runner.segment, at_rest)
    loop.measure(f"adapt with Careful, {count} slices", context.runner.adapt, at_rest)
    waits = drag(loop, dock, moves)
    ahead(loop, dock, folder)
    print(
        f"\nSlider move to mask on screen: median {np.median(waits):.0f} ms, 95th percentile "
        f"{np.percentile(waits, 95):.0f} ms, worst {max(waits):.0f} ms ({len(waits)} moves, "
        "Careful, none of them kept from before)."
    )
    viewer.close()


if __name__ == "__main__":
    main()
