"""*Segment this layer* and *Adapt this layer*: napari commands that work without the dock.

`segment_this_layer` and `adapt_this_layer` make the forms that napari shows, by magicgui;
`segment_layer` and `adapt_layer` are for scripts: they do the same, wait, and return the layers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import napari
from magicgui import magicgui
from magicgui.widgets import FunctionGui
from napari.layers import Image, Labels
from napari.utils import progress
from qtpy.QtCore import QObject

from napari_grata.adaptation.plan import parse_slices
from napari_grata.adaptation.records import Record
from napari_grata.adaptation.settings import PRESETS, preset
from napari_grata.scans import ScanError
from napari_grata.scans.scan import counted
from napari_grata.segmenters.card import ModelError
from napari_grata.segmenters.extent import implausible
from napari_grata.segmenters.registry import ModelEntry, find_model, list_models
from napari_grata.widgets import tasks
from napari_grata.widgets.background import Job, Outcome
from napari_grata.widgets.connections import ClosingWatch, EventConnections
from napari_grata.widgets.mask_layer import labels_over
from napari_grata.widgets.qt_parts import notify
from napari_grata.widgets.scan_layer import ScanOfLayer, can_be_scan
from napari_grata.widgets.store import SettingsStore

_SLICES = "all, or numbers as the slider shows them, the first slice 1: 10-20, 25"


def segment_layer(
    layer: Image, model: str = "", *, slices: str = "all", device: str = "auto"
) -> list[Labels]:
    """Segment an image layer with a source model, and wait for it.

    Parameters
    ----------
    layer : Image
        A scan that this plugin, napari or another plugin opened.
    model : str
        Name of a model; "" for the first that reads such a scan.
    slices : str
        ``"all"``, or numbers as in the dock: ``"10-20, 25"``.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.

    Returns
    -------
    list of Labels
        The source mask, in no viewer yet.

    Raises
    ------
    ScanError, ModelError, SlicesError
        If the layer is no scan, the model is not there or does not read it, or the slices are not
        the scan's.
    """
    return _now(_Order(layer, model, None, slices, device))


def adapt_layer(
    layer: Image,
    model: str = "",
    *,
    method: str = "careful",
    slices: str = "all",
    device: str = "auto",
) -> list[Labels]:
    """Adapt a model to an image layer, and wait for it.

    Parameters
    ----------
    layer, model, slices, device
        As for `segment_layer`.
    method : str
        Name of a preset, such as ``"careful"`` or ``"as-published"``.

    Returns
    -------
    list of Labels
        The source mask and the adapted mask, in no viewer yet.

    Raises
    ------
    ScanError, ModelError, SlicesError, SettingsError
    """
    return _now(_Order(layer, model, method, slices, device))


def segment_this_layer() -> FunctionGui[Any, None]:
    """Return the form of *Segment this layer*."""
    return _form("Segment", adapts=False)


def adapt_this_layer() -> FunctionGui[Any, None]:
    """Return the form of *Adapt this layer*."""
    return _form("Adapt", adapts=True)


def _form(button: str, *, adapts: bool) -> FunctionGui[Any, None]:
    @magicgui(
        call_button=button,
        layer={"label": "Scan", "tooltip": "The image to work on."},
        model={"choices": _models, "tooltip": "The source model; it stays as it is."},
        method={"choices": _methods, "tooltip": "How the model adapts.", "visible": adapts},
        slices={"tooltip": _SLICES},
    )
    def form(
        viewer: napari.viewer.Viewer,
        layer: napari.layers.Image,
        model: str = "",
        method: str = "careful",
        slices: str = "all",
    ) -> None:
        command.press(viewer, partial(_Order, layer, model, method if adapts else None, slices))

    command = _Command(form)
    return form


def _models(_widget: Any = None) -> list[tuple[str, str]]:
    usable = [(entry.title, entry.name) for entry in list_models() if entry.card is not None]
    return [("the first that reads the scan", ""), *usable]


def _methods(_widget: Any = None) -> list[tuple[str, str]]:
    return [(one.title, one.name) for one in PRESETS.values()]


class _Order:
    """What a command works on, and the masks that come of it.

    Attributes
    ----------
    words : str
        What came of it, in a sentence.
    """

    def __init__(
        self, layer: Image, model: str, method: str | None, slices: str, device: str = "auto"
    ) -> None:
        if not can_be_scan(layer):
            raise ScanError("this layer is no scan", layer.name, "Choose an image of a scan.")
        self.layer, self.scan = layer, ScanOfLayer()(layer)
        self.entry = self._entry(model)
        self.slices = parse_slices(slices, self.scan)
        self.settings = None if method is None else preset(method).settings
        self.device = device
        self._stacks = {"source": self.scan.empty_mask(), "adapted": self.scan.empty_mask()}
        self._there: dict[str, set[int]] = {"source": set(), "adapted": set()}
        self._flagged: set[int] = set()

    def _entry(self, model: str) -> ModelEntry:
        entries = [find_model(model)] if model else list_models()
        usable = [(entry, entry.card.fits(self.scan)) for entry in entries if entry.card]
        if not usable:
            raise ModelError("There is no model here. Add one in the dock, step Model.")
        fitting = next((entry for entry, misfit in usable if misfit is None), None)
        if fitting is None:
            raise ModelError(usable[0][1] or "")
        return fitting

    def work(self, engine: tasks.Engine) -> Iterator[Any]:
        """Do it; the generator runs in a job's thread, or in the script's own."""
        what = (engine, self.entry.folder, self.device, self.scan)
        if self.settings is None:
            yield from tasks.segment(*what, self.slices, None)
        else:
            # Nobody asks for the run's past: it is closed at the end.
            forgotten = threading.Event()
            forgotten.set()
            yield from tasks.adapt(*what, self.settings, self.slices, None, {}, None, forgotten)
        assert self.entry.card is not None
        stack = self._stacks["source"]
        masks = {index: self.scan.get_mask(stack, index) for index in self._there["source"]}
        for _, sentence in implausible(self.entry.card, masks, self.scan, slices=masks)[:2]:
            yield tasks.Notice(sentence)

    def take(self, item: Any) -> tuple[int, int] | None:
        """Keep what the work yields; returns how much is done, of how much, where it says so."""
        if isinstance(item, tasks.Mask):
            self._put(item.which, item.slice_index, item.label_map)
        elif isinstance(item, Record):
            self._put("source", item.slice_index, item.source_mask)
            self._put("adapted", item.slice_index, item.adapted_mask)
            (self._flagged.add if item.flags else self._flagged.discard)(item.slice_index)
        else:
            return None
        return item.done, item.total

    def _put(self, role: str, index: int, label_map: Any) -> None:
        self.scan.put_mask(self._stacks[role], index, label_map)
        self._there[role].add(index)

    @property
    def words(self) -> str:
        done = self._there["source" if self.settings is None else "adapted"]
        verb = "segmented" if self.settings is None else "adapted"
        flagged = f", {len(self._flagged)} flagged: have a look" if self._flagged else ""
        return f"{counted(len(done), self.scan.noun)} {verb}{flagged}."

    def layers(self) -> list[Labels]:
        """Return a new layer for each kind of mask that there is."""
        assert self.entry.card is not None
        colours = {one.value: one.colour for one in self.entry.card.structures}
        return [
            labels_over(
                self.scan,
                self.layer,
                self._stacks[role],
                name=f"{self.layer.name} {role}",
                colours=colours,
                role=role,
                opacity=0.45,
                visible=role == "adapted" or not self._there["adapted"],
            )
            for role, there in self._there.items()
            if there
        ]


def _now(order: _Order) -> list[Labels]:
    for item in order.work(tasks.Engine()):
        order.take(item)
    return order.layers()


class _Command(QObject):
    """Runs the order of a form off the main thread; its button cancels while something runs.

    Not by napari's own workers, for the reasons in `background`.
    """

    def __init__(self, form: FunctionGui[Any, None]) -> None:
        super().__init__(form.native)
        assert form.call_button is not None
        self._button = form.call_button
        self._text = self._button.text
        self._engine = tasks.Engine()
        self._viewer: Any = None
        self._order: _Order | None = None
        self._progress: progress | None = None
        self._connections = EventConnections(form.native)
        self._job = Job(self, self._connections)
        self._job.batch.connect(self._on_batch)
        self._job.ended.connect(self._on_ended)
        self._closing = ClosingWatch(form.native)

    def press(self, viewer: Any, make: partial[_Order]) -> None:
        """Begin, or cancel what runs; what is wrong is said and nothing begins."""
        if self._job.running:
            self._job.cancel()
            self._button.text = "Cancelling …"
            return
        try:
            order = make(device=SettingsStore().get("device", "auto"))
        except ValueError as error:  # all errors of ours that say what to do
            notify(str(error))
            return
        # A proxy's layers are proxies too, and not identical to those in events.
        self._viewer, self._order = getattr(viewer, "__wrapped__", viewer), order
        self._closing.find_window()
        self._button.text = "Cancel"
        # No names: where there is no window, napari writes this to the terminal.
        self._progress = progress(total=0, desc=f"GraTa: {self._text}")
        self._job.start(partial(order.work, self._engine))

    def _on_batch(self, items: list[Any]) -> None:
        order, bar = self._order, self._progress
        assert order is not None
        assert bar is not None
        for item in items:
            done = order.take(item)
            if isinstance(item, tasks.Notice):
                notify(item.text, "warning")
            elif done is not None:
                bar.total = done[1]
                bar.update(done[0] - bar.n)

    def _on_ended(self, outcome: Outcome) -> None:
        order, self._order = self._order, None
        bar, self._progress = self._progress, None
        assert order is not None
        assert bar is not None
        bar.close()
        self._button.text = self._text
        if self._closing.closing:
            return
        made = order.layers()
        for layer in made:
            self._viewer.add_layer(layer)
        if outcome.kind == "failed":
            notify(f"{outcome.message}{' What was finished is kept.' if made else ''}")
        else:
            notify(order.words, "info")
