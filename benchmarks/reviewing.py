"""How long a reviewer waits: for the next case, and between the masks before and after.

Makes two lists out of the samples, eight photographs and four volumes, each a little different from
the next, adapts them, opens them in napari and goes through them as a reader would, a case every
few seconds. Prints a Markdown table of wall-clock times until the canvas has been drawn: from the
key to the other mask, from the key to the next case with both masks (read ahead, as it is when a
person has looked at a case for some seconds), and a decision.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/reviewing.py
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

LOOK = 3.0  # seconds that a reader looks at a case


def make_scans(folder: Path, photographs: int, volumes: int) -> tuple[Path, Path]:
    """Write samples of slightly different brightness as cases of two lists."""
    from napari_grata.scans.samples import find_sample

    eyes, brains = folder / "eyes", folder / "brains"
    eyes.mkdir(parents=True)
    brains.mkdir()
    picture = np.asarray(Image.open(find_sample("fundus-disc").path).convert("RGB"), float)
    for number in range(photographs):
        shade = np.clip(picture * (1 - 0.03 * number), 0, 255).astype(np.uint8)
        Image.fromarray(shade).save(eyes / f"eye_{number:02d}.png")
    volume: Any = nib.load(find_sample("brain-other-scanner").path)
    values = np.asarray(volume.dataobj)
    for number in range(volumes):
        shade = (values * (1 - 0.03 * number)).astype(values.dtype)
        nib.save(nib.Nifti1Image(shade, volume.affine), brains / f"brain_{number:02d}.nii.gz")
    return eyes, brains


def adapt_all(scans: Path, place: Path, model: str, method: str) -> None:
    """Adapt the cases of a list, as the dock does ahead of the reader."""
    from napari_grata.adaptation.settings import preset
    from napari_grata.review.adapt_list import work_on_list
    from napari_grata.review.case_list import CaseList
    from napari_grata.segmenters import load_segmenter

    cases = CaseList.make(scans, place)
    cases.choose(model=model, settings=preset(method).settings.to_dict())
    for _ in work_on_list(cases, load_segmenter(model, device="cpu")):
        pass
    cases.close()


class Watch:
    """Times from an act until the canvas has been drawn with what was asked for."""

    def __init__(self, viewer: Any) -> None:
        self._canvas = viewer.window._qt_viewer.canvas._scene_canvas
        self._drawn = 0.0
        self._canvas.events.draw.connect(self._on_draw)

    def _on_draw(self, _event: Any) -> None:
        self._drawn = time.perf_counter()

    def rest(self, seconds: float) -> None:
        """Run Qt's loop for some time."""
        from qtpy.QtCore import QEventLoop, QTimer

        loop = QEventLoop()
        QTimer.singleShot(int(1000 * seconds), loop.quit)
        loop.exec()

    def time(self, act: Callable[[], object], done: Callable[[], bool]) -> float:
        """Return the milliseconds from an act to the first picture after it was done."""
        from qtpy.QtCore import QEventLoop, QTimer

        began, self._drawn = time.perf_counter(), 0.0
        loop, look = QEventLoop(), QTimer()
        ready = [0.0]

        def check() -> None:
            if not ready[0] and done():
                ready[0] = time.perf_counter()
                self._canvas.update()
            late = time.perf_counter() - began > 30
            if (ready[0] and self._drawn >= ready[0]) or late:
                loop.quit()

        look.timeout.connect(check)
        look.start(1)
        act()
        loop.exec()
        look.stop()
        return 1000 * (self._drawn - began)


def review(watch: Watch, dock: Any, place: Path, what: str) -> None:
    """Go through a list and print what was measured."""
    dock.cases.resume_list(place)
    while dock.cases.list is None or dock.cases.case is None:
        watch.rest(0.1)
    watch.rest(LOOK)
    steps, toggles, decisions = [], [], []

    def both_there(key: str) -> bool:
        session = dock.desk.session
        there = dock.cases.case is not None and dock.cases.case.key != key
        return bool(there and session is not None and session.adapted and session.after.shown)

    for _ in range(len(dock.cases.list) - 1):
        for _ in range(4):
            after = dock.desk.session.after
            seen = after.visible
            toggles.append(
                watch.time(dock.desk.toggle_masks, lambda a=after, s=seen: a.visible != s)
            )
            watch.rest(0.2)
        began = time.perf_counter()
        dock.decide.decide("accept")
        decisions.append(1000 * (time.perf_counter() - began))
        watch.rest(LOOK)
        key = dock.cases.case.key
        steps.append(watch.time(dock.cases.next, lambda k=key: both_there(k)))
        watch.rest(LOOK)
    for name, found in (("before ↔ after", toggles), ("next case", steps), ("decide", decisions)):
        print(
            f"| {name}, {what} | {len(found)} | {np.median(found):.0f} "
            f"| {np.percentile(found, 95):.0f} | {max(found):.0f} |",
            flush=True,
        )
    dock.cases.close_list()
    watch.rest(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=8)
    parser.add_argument("--volumes", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        os.environ.update(NAPARI_GRATA_HOME=str(home / "grata"), XDG_DATA_HOME=str(home / "data"))
        eyes, brains = make_scans(home, options.photographs, options.volumes)
        adapt_all(eyes, home / "list-eyes", "fundus-disc-cup", "careful")
        # The quickest method with a mask after: what is timed is the way to the screen.
        adapt_all(brains, home / "list-brains", "brain-tissue-t1", "batch-norm")
        import napari

        from napari_grata.widgets.tour import set_tour_wanted

        set_tour_wanted(False)
        viewer = napari.Viewer()
        viewer.window._qt_window.setGeometry(0, 0, 1366, 768)
        _, dock = viewer.window.add_plugin_dock_widget("napari-grata")
        watch = Watch(viewer)
        watch.rest(3)
        print("| from the key to the picture | n | median ms | 95th percentile ms | worst ms |")
        print("|---|---|---|---|---|")
        review(watch, dock, home / "list-eyes", "photographs")
        review(watch, dock, home / "list-brains", "volumes")
        viewer.close()


if __name__ == "__main__":
    main()
