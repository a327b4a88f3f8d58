"""Section 1: which scan, which of its slices, which part of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QMenu, QWidget

from napari_grata.widgets.parts import Section, button, choice, row

if TYPE_CHECKING:
    from napari.layers import Layer

Box = tuple[int, int, int, int]


class ScanSection(Section):
    """Scan, slices and region.

    Signals
    -------
    scan_changed()
        Another scan was chosen.
    selection_changed()
        Other slices or another region.
    open_file(), open_folder(), open_sample(str)
        The person wants to open something; the sample by its key.
    open_list_folder(), open_list_files()
        The person wants to open a list of cases: a folder, or some files.
    draw_region()
        The person wants to draw a rectangle.
    """

    scan_changed = Signal()
    selection_changed = Signal()
    open_file = Signal()
    open_folder = Signal()
    open_sample = Signal(str)
    open_list_folder = Signal()
    open_list_files = Signal()
    draw_region = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(1, "Scan", parent)
        self._layers: list[Layer] = []
        self._boxes: list[tuple[str, Box]] = []
        self.combo = choice(
            "The scan to work on: any image that is open in the viewer.", "Scan to work on"
        )
        self.open_button = button("Open", "Open a scan: NIfTI or photographs.", small=True)
        self.open_menu = self._open_menu()
        self.open_button.setMenu(self.open_menu)
        self.sample_button = button(
            "Sample", "Open one of the scans that come with the plugin.", small=True
        )
        self._samples = QMenu(self.sample_button)
        self.sample_button.setMenu(self._samples)
        self.add_to_heading(self.open_button, self.sample_button)
        self.body.addWidget(self.combo)

        self.slices = choice(name="Slices")
        for text, key in (("All", "all"), ("Slice in view", "current"), ("Some …", "range")):
            self.slices.addItem(text, key)
        self.range = QLineEdit()
        self.range.setPlaceholderText("10-20, 25")
        self.range.setAccessibleName("Slice numbers")
        self.range.setToolTip(
            "Slice numbers as the slider shows them, first slice 1: 10-20, 25.\n"
            "In a time series 3:10-20 means time point 3."
        )
        self.range.setEnabled(False)
        self.range.setMaximumWidth(130)
        self.body.addWidget(
            row(
                "Slices",
                self.slices,
                self.range,
                tip="Which slices or photographs to segment and to adapt to, in this order.",
            )
        )
        self.region = choice(name="Region")
        self.draw_button = button(
            "Draw", "Draw a rectangle on the scan to work inside it only.", small=True
        )
        self.body.addWidget(
            row(
                "Region",
                self.region,
                self.draw_button,
                tip="The part of the picture to work on: a rectangle of a Shapes layer. Useful "
                "where the structure fills only a small part of a photograph.",
            )
        )
        self.set_boxes([])
        self.combo.currentIndexChanged.connect(self._on_scan)
        self.slices.currentIndexChanged.connect(self._on_slices)
        self.range.editingFinished.connect(self.selection_changed)
        self.region.currentIndexChanged.connect(self._on_region)
        self.draw_button.clicked.connect(self._draw)

    def _open_menu(self) -> QMenu:
        menu = QMenu(self.open_button)
        menu.setToolTipsVisible(True)
        for text, slot, words in (
            ("Scan or photograph …", self._file, "One scan, by itself."),
            (
                "List of cases: a folder …",
                self._list_folder,
                "Each scan or photograph in the folder becomes a case, one after another.",
            ),
            (
                "List of cases: some files …",
                self._list_files,
                "Each of the files becomes a case, one after another.",
            ),
            (
                "Folder of photographs as one stack …",
                self._folder,
                "All photographs of the folder at once, as slices of one scan.",
            ),
        ):
            action: Any = menu.addAction(text)
            action.setToolTip(words)
            action.triggered.connect(slot)
        return menu

    def set_samples(self, samples: list[tuple[str, str]]) -> None:
        """Fill the menu of samples with (key, title)."""
        self._samples.clear()
        for key, title in samples:
            action: Any = self._samples.addAction(title)
            action.setData(key)
            action.triggered.connect(self._sample)
        self.sample_button.setEnabled(bool(samples))

    def set_layers(self, layers: list[Layer]) -> bool:
        """Offer these layers; keeps the choice where it can. Returns whether it changed."""
        before = self.layer()
        self.combo.blockSignals(True)
        self.combo.clear()
        self._layers = list(layers)
        for layer in layers:
            self.combo.addItem(layer.name)
        kept = next((n for n, layer in enumerate(layers) if layer is before), None)
        self.combo.setCurrentIndex(kept if kept is not None else 0 if layers else -1)
        if not layers:
            self.combo.setPlaceholderText("nothing open")
        self.combo.blockSignals(False)
        return self.layer() is not before

    def layer(self) -> Layer | None:
        """Return the chosen layer."""
        index = self.combo.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Layer) -> None:
        """Choose a layer that is on offer."""
        for index, other in enumerate(self._layers):
            if other is layer:
                self.combo.setCurrentIndex(index)

    def slices_text(self) -> str:
        """Return the choice of slices as `parse_slices` reads it."""
        key = self.slices.currentData()
        return self.range.text() if key == "range" else str(key)

    def set_boxes(self, boxes: list[tuple[str, Box]]) -> None:
        """Offer these rectangles beside the whole picture; keeps the choice by its name."""
        kept = self.region.currentText()
        changed = boxes != self._boxes
        self._boxes = list(boxes)
        self.region.blockSignals(True)
        self.region.clear()
        self.region.addItem("Whole picture")
        for name, (row0, col0, row1, col1) in boxes:
            self.region.addItem(name)
            self.region.setItemData(
                self.region.count() - 1, f"{row1 - row0} × {col1 - col0} pixels"
            )
        self.region.setCurrentIndex(max(0, self.region.findText(kept)))
        self.region.blockSignals(False)
        if changed:
            self.selection_changed.emit()

    def box(self) -> Box | None:
        """Return the chosen rectangle, None for the whole picture."""
        index = self.region.currentIndex()
        return self._boxes[index - 1][1] if index >= 1 else None

    def choose_last_box(self) -> None:
        """Choose the rectangle that was drawn last."""
        self.region.setCurrentIndex(self.region.count() - 1)

    def set_live(self, live: bool) -> None:
        """Let the person choose, or not while a job runs."""
        for widget in (self.combo, self.slices, self.region, self.draw_button):
            widget.setEnabled(live)
        self.range.setEnabled(live and self.slices.currentData() == "range")

    def _on_scan(self, _index: int) -> None:
        self.scan_changed.emit()

    def _on_slices(self, _index: int) -> None:
        some = self.slices.currentData() == "range"
        self.range.setEnabled(some)
        if some:
            self.range.setFocus()
        self.selection_changed.emit()

    def _on_region(self, _index: int) -> None:
        self.selection_changed.emit()

    def _file(self) -> None:
        self.open_file.emit()

    def _folder(self) -> None:
        self.open_folder.emit()

    def _list_folder(self) -> None:
        self.open_list_folder.emit()

    def _list_files(self) -> None:
        self.open_list_files.emit()

    def _draw(self) -> None:
        self.draw_region.emit()

    def _sample(self) -> None:
        action: Any = self.sender()
        if action is not None:
            self.open_sample.emit(str(action.data()))
