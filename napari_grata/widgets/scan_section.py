"""Step *Scan*: open something, choose which scan, which of its slices, which part of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QFileDialog,
    QInputDialog,
    QLineEdit,
    QMenu,
    QWidget,
)

from napari_grata.scans import ScanError, open_scan
from napari_grata.scans.readers import READERS, find_series
from napari_grata.scans.samples import find_sample, list_samples
from napari_grata.widgets.background import Found, Queue, describe
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import add_quietly
from napari_grata.widgets.qt_parts import (
    ask_folder,
    button,
    choice,
    column_in,
    later,
    line_in,
    menu_entry,
    notify,
    row,
)
from napari_grata.widgets.scan_layer import (
    KEY,
    Box,
    alive,
    free_name,
    rectangles,
    remove_layers,
    scan_layers,
)

if TYPE_CHECKING:
    from napari.layers import Layer

_ENDINGS = " ".join(f"*{suffix}" for reader in READERS for suffix in reader.SUFFIXES)
_FILTER = f"Scans and photographs ({_ENDINGS});;All files (*)"
_OPEN = (
    ("file", "Scan or photograph …", "One scan, by itself."),
    (
        "series",
        "DICOM series: a folder …",
        "As the scanner sent it; of several series you choose one.",
    ),
    (
        "list-folder",
        "List of cases: a folder …",
        "Each scan or photograph in the folder becomes a case, one after another.",
    ),
    (
        "list-files",
        "List of cases: some files …",
        "Each of the files becomes a case, one after another.",
    ),
    (
        "folder",
        "Folder of photographs as one stack …",
        "All photographs of the folder at once, as slices of one scan.",
    ),
    ("run", "Saved run …", "An adaptation that was saved, with its masks, curves and steps."),
)

_FOLDERS = {
    "folder": "Folder of photographs, as one stack",
    "list-folder": "List of cases: the folder of the scans",
    "series": "DICOM series: the folder",
}


class OpenButtons(QWidget):
    """*Open* and *Sample*, each with its menu.

    Signals
    -------
    open_requested(str)
        One of the keys of the menu, or ``"sample:KEY"``.
    """

    open_requested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.open_button = button("Open", "Open a scan: NIfTI or photographs.")
        self.open_menu = QMenu(self.open_button)
        self.open_menu.setToolTipsVisible(True)
        self.open_button.setMenu(self.open_menu)
        for key, text, words in _OPEN:
            self._add(self.open_menu, key, text, words)
        self._recent = self.open_menu.addMenu("Recent lists")
        self.set_recent([])
        self.sample_button = button("Sample", "Open one of the scans that come with the plugin.")
        self.sample_menu = QMenu(self.sample_button)
        self.sample_button.setMenu(self.sample_menu)
        for sample in list_samples():
            self._add(self.sample_menu, f"sample:{sample.key}", sample.title)
        self.sample_button.setEnabled(not self.sample_menu.isEmpty())
        line_in(column_in(self), (self.open_button, 1), (self.sample_button, 1))

    def set_recent(self, lists: list[tuple[str, str]]) -> None:
        """Offer lists of cases that were open of late, as (folder, title)."""
        assert self._recent is not None
        self._recent.clear()
        for folder, title in lists:
            self._add(self._recent, f"list:{folder}", title)
        self._recent.setEnabled(bool(lists))

    def _add(self, menu: QMenu, key: str, text: str, words: str = "") -> None:
        menu_entry(menu, text, partial(self.open_requested.emit, key), words)


class ScanSection(QWidget):
    """Scan, slices and region.

    Attributes
    ----------
    buttons : OpenButtons
        Those of the step; the page of an empty dock has its own.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._layers: list[Layer] = []
        self._boxes: list[tuple[str, Box]] = []
        self.combo = choice(
            "The scan to work on: any image that is open in the viewer.", "Scan to work on"
        )
        self.buttons = OpenButtons()
        entries = (("All", "all"), ("Slice in view", "current"), ("Some …", "range"))
        self.slices = choice(name="Slices", entries=entries)
        self.range = QLineEdit()
        self.range.setPlaceholderText("10-20, 25")
        self.range.setAccessibleName("Slice numbers")
        self.range.setToolTip(
            "Slice numbers as the slider shows them, first slice 1: 10-20, 25.\n"
            "In a time series 3:10-20 means time point 3."
        )
        self.range.setVisible(False)
        self.range.setMaximumWidth(130)
        self.slices_row = row(
            "Slices",
            self.slices,
            self.range,
            tip="Which slices or photographs to segment and to adapt to, in this order.",
        )
        self.region = choice(name="Region")
        self.draw_button = button(
            "Draw", "Draw a rectangle on the scan to work inside it only.", small=True
        )
        region_row = row(
            "Region",
            self.region,
            self.draw_button,
            tip="The part of the picture to work on: a rectangle of a Shapes layer. Useful "
            "where the structure fills only a small part of a photograph.",
        )
        column_in(self, self.combo, self.slices_row, region_row, self.buttons)
        self._queue = Queue("series", self, context.connections)
        self._rectangle = _RegionLayer(context, self)
        self._frame = _FrameLayer(context, self)
        self._wire()
        self._layers_changed()

    def _wire(self) -> None:
        context = self._context
        self._queue.found.connect(self._on_found)
        self.combo.activated.connect(self._on_combo)
        self.slices.activated.connect(self._on_slices)
        self.range.editingFinished.connect(self._on_slices)
        self.region.activated.connect(self._on_region)
        self.draw_button.clicked.connect(self._rectangle.draw)
        self.buttons.open_requested.connect(context.open_requested)
        context.open_requested.connect(self.open)
        context.recent_lists_changed.connect(self.buttons.set_recent)
        context.region_requested.connect(self._rectangle.draw)
        context.changed.connect(self._layers_changed)
        context.scan_changed.connect(self._on_scan_changed)
        context.region_changed.connect(self._show_region)
        context.slice_changed.connect(self._frame.show)
        context.session_changed.connect(self._frame.show)
        context.changed.connect(self._frame.show)
        self._frame.changed.connect(self._choose_last_box)
        self._rectangle.changed.connect(self._boxes_changed)
        self._rectangle.finished.connect(self._choose_last_box)

    # --- opening ---------------------------------------------------------------------------

    def open(self, what: str) -> None:
        """Ask for something and open it; ``what`` is a key of the menu, or ``"sample:KEY"``."""
        kind, _, key = what.partition(":")
        if kind == "sample":
            self._open_sample(key)
        elif kind == "together":
            if self._context.caselist is not None:
                self._read(self._context.caselist.photographs(), "Reading the photographs …")
        elif kind in ("file", "list-files"):
            title = "Open a scan or photographs" if kind == "file" else "List of cases: the scans"
            folder = self._context.store.get("folder", "")
            names, _ = QFileDialog.getOpenFileNames(self, title, folder, _FILTER)
            if names:
                self._context.store.set("folder", str(Path(names[0]).parent))
                if kind == "list-files":
                    self._context.list_requested.emit(list(names))
                else:
                    self.open_scan(names[0] if len(names) == 1 else list(names))
        elif kind in _FOLDERS:
            name = ask_folder(self, self._context.store.get("folder", ""), _FOLDERS[kind])
            if name:
                self._context.store.set("folder", name)
                if kind == "list-folder":
                    self._context.list_requested.emit([name])
                elif kind == "series":
                    self.open_series(name)
                else:
                    self.open_scan(name)

    def drop(self, paths: list[str]) -> None:
        """Open what was dropped: a folder or several files are a list of cases."""
        if len(paths) > 1 or (paths and Path(paths[0]).is_dir()):
            self._context.list_requested.emit(paths)
        elif paths:
            self.open_scan(paths[0])

    def open_scan(self, source: str | list[str]) -> None:
        """Open a scan; a broken one is a sentence, and nothing half-open stays."""
        self._context.clear_problem()
        try:
            self._context.add_scan(open_scan(source))
        except (ScanError, OSError) as error:
            self._fail(str(error))

    def open_series(self, folder: str) -> None:
        """Look for DICOM series in a folder, in the background: there may be thousands of files."""
        self._context.clear_problem()
        self._context.say("Looking for DICOM series …")
        self._queue.ask("look", partial(find_series, Path(folder)))

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            self._fail(describe(found.error))
        elif found.key == "read":
            self._context.add_scan(found.result)
        elif not found.result:
            self._fail("There is no DICOM series in this folder. Choose another one.")
        else:
            path = self._choose_series({f"{s.number}: {s.words}": s.path for s in found.result})
            if path is not None:
                self._read(path, "Reading the series …")

    def _read(self, source: Path | list[Path], words: str) -> None:
        """Open in the background what takes long: there may be thousands of files."""
        self._context.clear_problem()
        self._context.say(words)
        self._queue.ask("read", partial(open_scan, source))

    def _choose_series(self, series: dict[str, Path]) -> Path | None:
        """Return the series that the user takes; None where it is none of them."""
        words = list(series)
        if len(words) == 1:
            return series[words[0]]
        taken, fine = QInputDialog.getItem(self, "DICOM", "Series", words, 0, False)
        return series[taken] if fine else None

    def _fail(self, words: str) -> None:
        notify(words)
        self._context.fail(words)

    def _open_sample(self, key: str) -> None:
        self._context.clear_problem()
        try:
            sample = find_sample(key)
            self._context.add_scan(open_scan(sample.path), name=sample.title)
        except (KeyError, OSError, ValueError) as error:
            notify(str(error))
            self._context.fail(f"The sample cannot be opened: {error}")

    # --- choosing --------------------------------------------------------------------------

    def _on_combo(self, index: int) -> None:
        if 0 <= index < len(self._layers):
            self._context.choose_layer(self._layers[index])

    def _on_slices(self, *_: Any) -> None:
        key = str(self.slices.currentData())
        self.range.setVisible(key == "range")
        if key == "range" and not self.range.text():
            self.range.setFocus()
        self._context.slices_text = self.range.text() if key == "range" else key
        self._context.touch()

    def _on_region(self, index: int) -> None:
        self._context.choose_region(self._boxes[index - 1][1] if index >= 1 else None)

    def _choose_last_box(self) -> None:
        self._boxes_changed()
        if self._boxes:
            self.region.setCurrentIndex(len(self._boxes))
            self._context.choose_region(self._boxes[-1][1])

    # --- showing ---------------------------------------------------------------------------

    def _layers_changed(self) -> None:
        layers: list[Layer] = list(scan_layers(self._context.viewer))
        self.combo.clear()
        self._layers = layers
        self.combo.addItems([layer.name for layer in layers])
        chosen = self._context.layer
        here = next((n for n, layer in enumerate(layers) if layer is chosen), -1)
        self.combo.setCurrentIndex(here)
        if not layers:
            self.combo.setPlaceholderText("nothing open")
        live = self._context.runner.kind is None
        for widget in (self.combo, self.slices_row, self.region, self.draw_button, self.buttons):
            widget.setEnabled(live)
        self._boxes_changed()

    def _on_scan_changed(self) -> None:
        scan = self._context.scan
        self.slices.setCurrentIndex(0)
        self.range.clear()
        self.range.setVisible(False)
        self.slices_row.setVisible(scan is not None and scan.n_slices > 1)
        if scan is not None:
            self.slices.setItemText(1, f"{scan.noun.capitalize()} in view")
        self._boxes_changed()

    def _boxes_changed(self) -> None:
        context = self._context
        boxes = rectangles(context.viewer, context.scan, context.layer) if context.scan else []
        if boxes == self._boxes and self.region.count():
            return
        kept = self.region.currentText()
        self._boxes = boxes
        self.region.clear()
        self.region.addItem("Whole picture")
        for name, (row0, col0, row1, col1) in boxes:
            self.region.addItem(name)
            size = f"{row1 - row0} × {col1 - col0} pixels"
            self.region.setItemData(self.region.count() - 1, size, Qt.ItemDataRole.ToolTipRole)
        index = max(0, self.region.findText(kept))
        self.region.setCurrentIndex(index)
        context.choose_region(boxes[index - 1][1] if index else None)

    def _show_region(self) -> None:
        boxes = [box for _, box in self._boxes]
        region = self._context.region
        if self.region.count() == 0:
            self.region.addItem("Whole picture")
        self.region.setCurrentIndex(boxes.index(region) + 1 if region in boxes else 0)


class _RectangleLayer(QObject):
    """A Shapes layer with a rectangle over the scan; `settled` comes once the mouse lets go.

    Signals
    -------
    changed()
        The user has drawn or moved the region.
    """

    changed = Signal()

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self._layer: Any = None
        self._settle = later(self, 200, self._look)

    def put(self, name: str, corners: list[np.ndarray], **arguments: Any) -> None:
        """Put the layer over the scan in view; ``corners`` (4, 2) in its pixels, for each."""
        context = self._context
        scan, scan_layer = context.scan, context.layer
        assert scan is not None
        assert scan_layer is not None
        places = ("scale", "translate", "units", "axis_labels")
        self._layer = Shapes(
            corners or None,
            ndim=2,
            shape_type="rectangle",
            name=free_name(context.viewer, name),
            edge_color="#F0E442",
            face_color="transparent",
            # As wide as two pixels of the screen, about, when the whole picture is in view.
            edge_width=max(1, round(max(scan.mask_shape[-2:]) / 300)),
            **{place: getattr(scan_layer, place)[-2:] for place in places},
            **arguments,
        )
        add_quietly(context.viewer, self._layer)
        context.connections.listen(self._layer.events.data, self._edited)

    def _edited(self, event: Any = None) -> None:
        self._settle.start()

    def _look(self) -> None:
        if QGuiApplication.mouseButtons() != Qt.MouseButton.NoButton:
            self._settle.start()  # still being drawn
        else:
            self.settled()

    def settled(self) -> None:
        """The layer is another one, and no button of the mouse is held."""
        raise NotImplementedError


class _RegionLayer(_RectangleLayer):
    """The layer on which the user draws a rectangle.

    Signals
    -------
    finished()
        The rectangle that was asked for is drawn.
    """

    finished = Signal()
    _count = 0
    _asked = False

    def draw(self) -> None:
        """Let the user draw a rectangle over the scan."""
        context = self._context
        if context.scan is None or context.layer is None or context.runner.kind is not None:
            return
        if not alive(context.viewer, self._layer):
            self.put("Region", [])
            self._count = 0
        self._asked = True
        context.viewer.layers.selection.active = self._layer
        self._layer.mode = "add_rectangle"
        context.say("Drag a rectangle: the model then works inside it.")

    def settled(self) -> None:
        """Tell whether a rectangle has come, or one was changed."""
        count = len(self._layer.data) if self._layer is not None else 0
        grown, self._count = count > self._count, count
        if self._asked and grown:
            self._asked = False
            self._layer.mode = "select"
            self.finished.emit()
        else:
            self.changed.emit()


class _FrameLayer(_RectangleLayer):
    """The frame in which the slice in view was adapted; once dragged, a rectangle like others."""

    _shown: Any = None

    def show(self, *_: Any) -> None:
        """Show the frame of the slice in view; nothing where the whole picture was read."""
        context = self._context
        session = context.session
        frame = None if session is None or session.busy else session.frame_of(context.in_view())
        there = alive(context.viewer, self._layer)
        if context.region is not None:
            frame = None
        if (frame, session) == self._shown and there == (frame is not None):
            return
        self._shown = frame, session
        if there:
            remove_layers(context.viewer, [self._layer])
        self._layer = None
        if frame is None or context.layer is None:
            return
        row0, column0, row1, column1 = (side - 0.5 for side in frame)
        corners = [(row0, column0), (row0, column1), (row1, column1), (row1, column0)]
        self.put("Frame found", [np.array(corners)], metadata={KEY: {"role": "frame"}})
        self._layer.mode = "select"

    def settled(self) -> None:
        """The user has moved it: from now on it is a rectangle that was drawn."""
        layer, self._layer, self._shown = self._layer, None, None
        if alive(self._context.viewer, layer):
            layer.metadata.pop(KEY, None)
            layer.name = free_name(self._context.viewer, "Region")
            self.changed.emit()
