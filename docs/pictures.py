"""Take the pictures of the README, the tutorial and docs/review.md from the running program.

The photographs are those of IDRiD (CC BY 4.0), cut to the optic disc by benchmarks/crop_discs.py:

    python benchmarks/crop_discs.py DATA/open_fundus_disc --out out/discs
    xvfb-run -a -s "-screen 0 1366x768x24" python docs/pictures.py out/discs/IDRiD/images
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HOME = tempfile.TemporaryDirectory()
for name in ("NAPARI_GRATA_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
    os.environ[name] = HOME.name

import napari  # noqa: E402 - it looks for its folders as it is imported
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_grata.widgets.tour import set_tour_wanted  # noqa: E402

IMAGES = Path(__file__).parent / "images"


def rest(seconds: float) -> None:
    """Let the program go on for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("This takes too long.")
        rest(0.02)


def take(viewer: Any, dock: Any, name: str, *widgets: Any) -> None:
    """Save the window as it is, the last of the widgets in view, then the first."""
    rest(0.6)
    for widget in reversed(widgets):
        dock.area.ensureWidgetVisible(widget, 0, 0)
    rest(0.6)
    picture = Image.fromarray(viewer.window.screenshot(canvas_only=False, flash=False)[..., :3])
    picture.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(
        IMAGES / f"{name}.png", optimize=True
    )


def stroke(dock: Any) -> None:
    """Paint along the upper right of the disc's edge."""
    layer = dock.desk.session.after.layer
    rows, columns = np.nonzero(np.asarray(layer.data).reshape(layer.data.shape[-2:]))
    centre, radius = np.array([rows.mean(), columns.mean()]), np.sqrt(rows.size / np.pi)
    layer.brush_size = 44
    for angle in np.linspace(0.3, 1.3, 60):
        way = np.array([-np.sin(angle), np.cos(angle)])
        layer.paint(tuple(centre + (radius + 4) * way), 1)


def other(cases: Any, key: str) -> bool:
    """Whether another case is in view."""
    return bool(cases.case.key != key)


def one_scan(viewer: Any, dock: Any) -> None:
    """Take the brain sample from opening to the masks before and after."""
    runner = dock.desk.runner
    dock.opening.open_sample("brain-other-scanner")
    rest(6)  # the shift is measured in the background
    take(viewer, dock, "open", dock.scan)
    dock.model.segment_button.click()
    wait(lambda: runner.kind is None)
    dock.adapt.adapt_button.click()
    wait(lambda: dock.desk.session.stream and dock.desk.session.stream[-1].done > 18)
    take(viewer, dock, "during", dock.adapt.curves)
    wait(lambda: runner.kind is None)
    take(viewer, dock, "after", dock.review)
    viewer.layers.clear()
    rest(1)


def main(folder: Path) -> None:
    set_tour_wanted(False)
    viewer = napari.Viewer(show=False)
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    _, dock = viewer.window.add_plugin_dock_widget("napari-grata")
    cases, decide = dock.cases, dock.decide
    wait(lambda: dock.model.device.count() > 1)
    one_scan(viewer, dock)
    dock.opening.open(str(folder))
    dock.adapt.adapt_button.click()
    wait(lambda: dock.adapt.steps.isEnabled() and dock.desk.runner.kind is None)
    dock.desk.go_to(3)
    dock.adapt.steps.choose(5)
    take(viewer, dock, "review-steps", dock.adapt.plot, dock.adapt.steps)
    viewer.layers.clear()
    cases.open_list(folder)
    wait(lambda: cases.case is not None)
    cases.panel.ahead_button.click()
    wait(lambda: cases.list.progress().prepared >= 4)
    wait(lambda: dock.desk.session is not None and dock.desk.session.adapted)
    take(viewer, dock, "review-list", dock.model)
    wait(lambda: not cases.ahead.running)
    cases.next()
    wait(lambda: cases.case.number == 2 and dock.adapt.steps.isEnabled())
    dock.correct.paint()
    stroke(dock)
    take(viewer, dock, "review-correct", dock.correct.section)
    viewer.layers.selection.active.undo()
    viewer.layers.selection.active.mode = "pan_zoom"
    decide.section.reviewer.setText("AB")
    for verdict in ("keep-source", "accept", "second-reader", "accept"):
        wait(lambda: decide.place() is not None and decide.docket.scan is dock.desk.scan)
        decide.decide(verdict)
        key = cases.case.key
        cases.next()
        wait(partial(other, cases, key))
    wait(lambda: decide.docket is not None and decide.docket.scan is dock.desk.scan)
    decide.section.comment.setText("vessel over the rim")
    decide.decide("reject")
    take(viewer, dock, "review-decide", decide.section)
    dock.measure.fold.set_expanded(True)
    wait(lambda: dock.measure.panel.rows)
    take(viewer, dock, "review-measure", dock.measure.fold)
    wait(lambda: not cases.busy)
    viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    HOME.cleanup()
