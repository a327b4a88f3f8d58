"""The choices that are remembered: model, device, method, where runs are saved."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QObject

from napari_grata.adaptation.settings import SettingsError
from napari_grata.segmenters.registry import list_models
from napari_grata.widgets import opening


class Choosing(QObject):
    """Keeps the sections, the store and the desk in step.

    Parameters
    ----------
    dock : GrataDock
    """

    def __init__(self, dock: Any) -> None:
        super().__init__(dock)
        self._dock = dock
        self._device = dock.store.get("device", "auto")
        self._devices: list[Any] = []
        for signal, slot in (
            (dock.scan.scan_changed, self.choose),
            (dock.model.model_changed, self.choose),
            (dock.model.device_changed, self._device_changed),
            (dock.opening.model_added, self._model_added),
            (dock.warm_up.devices, self._devices_known),
            (dock.adapt.method_changed, self._method_changed),
            (dock.adapt.run_parent_changed, self._run_parent_changed),
            (dock.adapt.run_parent_wanted, self._ask_run_parent),
        ):
            signal.connect(slot)

    def restore(self) -> None:
        """Bring back what was chosen the last time."""
        dock, store = self._dock, self._dock.store
        dock.scan.set_samples(opening.samples())
        dock.model.set_entries(list_models(), store.get("model", "") or None)
        dock.adapt.set_method(*store.method())
        dock.adapt.set_run_parent(store.get("run_parent", ""))

    def choose(self) -> None:
        """Take the scan and the model that are chosen now."""
        dock = self._dock
        layer = dock.scan.layer()
        another = layer is not None and layer is not dock.desk.layer
        self._take(layer)
        # Another scan brings along a model that reads it; a model that the person then chooses
        # stays chosen, and the dock says why where it does not fit.
        if another and dock.desk.facts().misfit and (name := self._fitting()) is not None:
            dock.model.blockSignals(True)
            dock.model.choose(name)
            dock.model.blockSignals(False)
            self._take(layer)
        # What is peculiar about the scan, whichever way it came in: a layer of another plugin
        # may show sagittal slices, or mirrored ones.
        if another and dock.desk.scan is not None and dock.desk.scan.notices:
            dock.desk.notify(" ".join(dock.desk.scan.notices))

    def _take(self, layer: Any) -> None:
        dock = self._dock
        entry = dock.model.entry()
        if entry is not None and entry.card is not None:
            dock.store.set("model", entry.name)
            dock.adapt.advanced.offer_objectives(tuple(entry.card.arguments.get("heads", ())))
        dock.desk.choose(layer, entry, dock.model.entries())

    def _fitting(self) -> str | None:
        """Name of the first model that reads the scan."""
        scan = self._dock.desk.scan
        if scan is None:
            return None
        entries = self._dock.model.entries()
        return next((e.name for e in entries if e.card and e.card.fits(scan) is None), None)

    def _model_added(self, entry: Any) -> None:
        self._dock.model.set_entries(list_models(), entry.name)
        self.choose()

    def _device_changed(self) -> None:
        self._device = self._dock.model.device_key()
        self._dock.store.set("device", self._device)
        self._offer_bfloat16()
        self._dock.desk.changed.emit()

    def _offer_bfloat16(self) -> None:
        device = next((one for one in self._devices if one.key == self._device), None)
        self._dock.adapt.advanced.offer_bfloat16(device is not None and device.bfloat16)

    def _devices_known(self, devices: list[Any]) -> None:
        self._devices = devices
        self._dock.model.set_devices(devices)
        self._dock.model.choose_device(self._device)
        self._offer_bfloat16()
        self._dock.desk.changed.emit()

    def _method_changed(self) -> None:
        adapt = self._dock.adapt
        try:
            self._dock.store.set_method(adapt.preset(), adapt.settings())
        except SettingsError:
            return  # said when Adapt is pressed
        self._dock.desk.changed.emit()

    def _run_parent_changed(self) -> None:
        self._dock.store.set("run_parent", self._dock.adapt.run_parent())

    def _ask_run_parent(self) -> None:
        adapt = self._dock.adapt
        name = opening.ask_folder(self._dock, adapt.run_parent(), "Save runs in this folder")
        if name:
            adapt.set_run_parent(name)
            self._run_parent_changed()
