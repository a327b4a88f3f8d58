"""Take the pictures of the pages from the running program.

    NAPARI_GRATA_DATA=… xvfb-run -a -s "-screen 0 1600x1000x24" python docs/pictures.py

The photographs of the list are of the Indian Diabetic Retinopathy Image Dataset (CC BY 4.0), cut
to the optic disc; without them the plugin's own samples stand in.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HOME = tempfile.mkdtemp()
for name in ("NAPARI_GRATA_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
    os.environ.setdefault(name, HOME)

import napari  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from qtpy.QtWidgets import QApplication  # noqa: E402

from napari_grata.scans import open_scan  # noqa: E402
from napari_grata.scans.samples import list_samples  # noqa: E402
from napari_grata.widgets.dock import GrataDock  # noqa: E402

IMAGES = Path(__file__).parent / "images"
SIZE, LARGE = (1366, 768), (1600, 1000)
CASES = 16


def turn(seconds: float, until: Callable[[], object] = lambda: False) -> None:
    """Let the program go on for some seconds, or until something is so."""
    end = time.monotonic() + seconds
    app = QApplication.instance()
    while time.monotonic() < end and not until():
        app.processEvents()
        time.sleep(0.01)


def photographs(folder: Path) -> Path:
    """Make a folder of photographs cut to the disc, 1.4 disc diameters wide."""
    root = Path(os.environ.get("NAPARI_GRATA_DATA", "")) / "open_fundus_disc"
    found = sorted(root.rglob("images/*.*")) if root.is_dir() else []
    for number, path in enumerate(found[:CASES], 1):
        mask_path = next(path.parent.parent.joinpath("masks").glob(f"{path.stem}*"))
        image, mask = Image.open(path).convert("RGB"), np.asarray(Image.open(mask_path))
        rows, columns = np.nonzero(mask if mask.ndim == 2 else mask[..., 0])
        middle = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
        half = 0.7 * max(np.ptp(rows), np.ptp(columns))
        box = tuple(round(m + s * half) for s in (-1, 1) for m in middle)
        image.crop(box).resize((512, 512)).save(folder / f"photograph_{number:02d}.png")
    if not found:
        for sample in list_samples():
            if "disc" in sample.key or "camera" in sample.key:
                (folder / sample.path.name).write_bytes(sample.path.read_bytes())
    return folder


class Program:
    """The running program."""

    def __init__(self) -> None:
        self.viewer = napari.Viewer()
        self.viewer.window.resize(*SIZE)
        self.dock = GrataDock(self.viewer)
        title = "Adapt to a new centre"
        self.viewer.window.add_dock_widget(self.dock, name=title, area="right")
        self.context = self.dock.context
        turn(60, lambda: self.context.devices is not None)

    def take(self, name: str) -> None:
        """Save a picture of the whole window."""
        turn(1.2)
        self.viewer.window.screenshot(str(IMAGES / name), canvas_only=False, flash=False)
        print(name)

    def do(self, action: str) -> None:
        """Do what a key does."""
        self.context.actions.perform(action)
        turn(0.8)

    def finish(self) -> None:
        """Wait until nothing runs."""
        turn(120, lambda: not self.context.runner.busy)
        turn(0.5)


def volume(program: Program) -> None:
    """The way of the clinician's tutorial, on the brain sample."""
    context = program.context
    program.take("start.png")
    context.open_requested.emit("sample:brain-other-scanner")
    turn(3)
    program.take("open.png")
    context.runner.adapt()
    turn(120, lambda: context.session and len(context.session.adapted_slices) > 30)
    program.take("during.png")
    program.finish()
    program.take("after.png")
    for action, name in (
        ("contours", "compare-contours.png"),
        ("curtain", "compare-curtain.png"),
        ("side_by_side", "compare-side.png"),
        ("planes", "compare-planes.png"),
    ):
        program.do(action)
        program.take(name)
        program.do(action)
    context.look_back(20)
    program.take("review-steps.png")
    context.look_back(None)
    program.do("uncertainty")
    turn(30, lambda: any("uncertainty" in layer.name for layer in program.viewer.layers))
    program.take("compare-uncertainty.png")
    program.do("uncertainty")
    program.do("uncertainty")
    program.do("paint")
    layer = context.session.adapted.layer
    context.go_to(25)
    for column in range(70, 90, 2):
        layer.paint((*context.scan.slice_position(25), 100, column), 1)
    program.take("review-correct.png")
    for _ in range(70, 90, 2):
        layer.undo()  # or the next picture of the same scan would bring it back
    program.do("paint")


def weighing(program: Program) -> None:
    """Three slices of the brain sample, reviewed as its reference has them, decide."""
    context, weigh = program.context, program.dock.weigh
    sample = next(one for one in list_samples() if one.key == "brain-other-scanner")
    program.viewer.layers.clear()
    turn(1)
    context.open_requested.emit(f"sample:{sample.key}")
    turn(3)
    context.slices_text = "22-40"
    context.runner.adapt()
    program.finish()
    weigh.fold.expand(animate=False)
    weigh.propose()
    turn(900, lambda: not context.runner.busy)
    reference = open_scan(sample.reference)
    for index in weigh.found(context.session).proposed:
        context.go_to(index)
        layer = context.session.adapted.layer
        data = np.array(layer.data)
        context.scan.put_mask(data, index, reference.read_slice(index).astype(np.uint8))
        layer.data = data
        turn(0.5)
        program.dock.correct.right.click()
        turn(0.5)
    weigh.weigh()
    turn(300, lambda: not context.runner.busy)
    program.take("weigh.png")
    weigh.fold.collapse(animate=False)


def methods(program: Program) -> None:
    """Four methods side by side on the brain sample, with its reference as the truth."""
    context, page = program.context, program.dock.methods
    sample = next(one for one in list_samples() if one.key == "brain-other-scanner")
    program.viewer.layers.clear()
    program.viewer.window.resize(*LARGE)
    turn(1)
    context.open_requested.emit(f"sample:{sample.key}")
    turn(3)
    context.slices_text = "22-40"
    program.dock.adapt.compare_button.click()
    context.store.set("timeline_height", 300)
    program.dock.timeline.open_below()
    page.run()
    turn(900, lambda: not context.runner.busy)
    program.dock.measures.take(sample.reference)
    turn(30, lambda: page.table.with_results()[0].result.dice)
    program.take("methods.png")
    program.viewer.window.resize(*SIZE)


def whole(program: Program) -> None:
    """The part of a whole photograph that the model should read is found."""
    program.viewer.layers.clear()
    turn(1)
    program.context.open_requested.emit("sample:fundus-whole")
    turn(2)
    program.context.runner.adapt()
    program.finish()
    program.dock.timeline.show_tab("Curves")
    turn(9)  # the shift is measured of the frame
    program.take("region.png")


def cases(program: Program) -> None:
    """A list of cases: adapted ahead, decided, measured."""
    context, dock = program.context, program.dock
    program.viewer.layers.clear()
    program.viewer.window.resize(*LARGE)
    dock.timeline.show_tab("Curves")
    turn(1)
    with tempfile.TemporaryDirectory() as folder:
        context.list_requested.emit([str(photographs(Path(folder)))])
        turn(30, lambda: context.case is not None and context.scan is not None)
        turn(1)
        dock.cases.toggle_batch()
        model = dock.cases.panel.model
        turn(120, lambda: sum(row.change is not None for row in model.rows) > 2)
        program.take("review-list.png")
        turn(120, lambda: dock.cases.batch.finished)
        for action in ("accept", "reject", "keep_source", "second_reader", "accept"):
            program.do(action)
            program.do("next_case")
            turn(2)
        program.do("previous_case")
        turn(2)
        program.take("review-decide.png")
        dock.timeline.show_tab("Measures")
        turn(2)
        program.take("review-measure.png")
        dock.cases.close_list()
        turn(1)


def main() -> None:
    """Take all pictures."""
    program = Program()
    volume(program)
    methods(program)
    weighing(program)  # after them, for what is called right comes back
    whole(program)
    cases(program)
    program.viewer.close()


if __name__ == "__main__":
    main()
