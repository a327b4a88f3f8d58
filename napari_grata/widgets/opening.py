"""Opening scans, samples and models from the dock, with every failure as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_grata.scans import ScanError, open_scan
from napari_grata.widgets.add_model import AddModelDialog, dropped_models

if TYPE_CHECKING:
    from napari_grata.widgets.settings_store import SettingsStore

PLUGIN = "napari-grata"
_FILTER = (
    "Scans and photographs (*.nii *.nii.gz *.png *.jpg *.jpeg *.tif *.tiff *.bmp);;All files (*)"
)


def ask_folder(parent: QWidget, folder: str, title: str) -> str:
    """Ask for a folder; "" if the person thinks better of it."""
    return str(QFileDialog.getExistingDirectory(parent, title, folder))


def samples() -> list[tuple[str, str]]:
    """Return key and title of the samples that the plugin's manifest offers."""
    from npe2 import PluginManager

    found = []
    for plugin, offered in PluginManager.instance().iter_sample_data():
        if plugin == PLUGIN:
            found += [(sample.key, sample.display_name) for sample in offered]
    return found


class Opening(QObject):
    """Brings scans into the viewer and models into the list.

    Parameters
    ----------
    viewer : Viewer
    store : SettingsStore
        Remembers the folder that was last used.
    widget : QWidget
        Over which dialogs appear.

    Signals
    -------
    opened(layer)
        A scan is in the viewer.
    failed(str)
        Nothing was opened, and why.
    model_added(ModelEntry)
    list_wanted(list of str)
        A folder, or several files, that make a list of cases.
    """

    opened = Signal(object)
    failed = Signal(str)
    model_added = Signal(object)
    list_wanted = Signal(list)

    def __init__(self, viewer: Any, store: SettingsStore, widget: QWidget) -> None:
        super().__init__(widget)
        self._viewer = viewer
        self._store = store
        self._widget = widget

    def ask_file(self) -> None:
        """Ask for one scan, or several photographs that make one list, and open it."""
        names, _ = QFileDialog.getOpenFileNames(
            self._widget, "Open a scan or photographs", self._store.get("folder", ""), _FILTER
        )
        if names:
            self._store.set("folder", str(Path(names[0]).parent))
            self.open(names[0] if len(names) == 1 else list(names))

    def ask_folder(self) -> None:
        """Ask for a folder of photographs and open it."""
        folder = self._store.get("folder", "")
        name = ask_folder(self._widget, folder, "Folder of photographs, as one stack")
        if name:
            self._store.set("folder", name)
            self.open(name)

    def ask_list_folder(self) -> None:
        """Ask for a folder whose scans make a list of cases."""
        folder = self._store.get("folder", "")
        name = ask_folder(self._widget, folder, "List of cases: the folder of the scans")
        if name:
            self._store.set("folder", name)
            self.list_wanted.emit([name])

    def ask_list_files(self) -> None:
        """Ask for files that make a list of cases."""
        names, _ = QFileDialog.getOpenFileNames(
            self._widget, "List of cases: the scans", self._store.get("folder", ""), _FILTER
        )
        if names:
            self._store.set("folder", str(Path(names[0]).parent))
            self.list_wanted.emit(list(names))

    def open(self, source: str | Path | Sequence[str]) -> None:
        """Open a scan; a broken one is a sentence, and nothing half-open stays."""
        try:
            scan = open_scan(source)
            layer = self._viewer.add_image(scan.data, **scan.layer_kwargs())
        except (ScanError, OSError) as error:
            show_error(str(error))
            self.failed.emit(str(error))
        else:
            self.opened.emit(layer)

    def open_sample(self, key: str) -> None:
        """Open one of the plugin's samples."""
        try:
            layers = self._viewer.open_sample(PLUGIN, key)
        except (KeyError, OSError, ValueError) as error:
            show_error(str(error))
            self.failed.emit(f"The sample cannot be opened: {error}")
        else:
            if layers:
                self.opened.emit(layers[0])

    def add_model(self) -> AddModelDialog:
        """Open the window in which a model is added."""
        dialog = AddModelDialog(self._widget, theme=self._viewer.theme)
        dialog.model_added.connect(self.model_added)
        dialog.show()
        return dialog

    def drop(self, mime: Any) -> None:
        """Take what was dropped on the dock: models into the list, scans into the viewer."""
        models = dropped_models(mime)
        if models:
            dialog = self.add_model()
            for path in models:
                dialog.field.add(path)
            return
        paths = [url.toLocalFile() for url in mime.urls() if url.isLocalFile()]
        if len(paths) > 1 or (paths and Path(paths[0]).is_dir()):
            self.list_wanted.emit(paths)
        elif paths:
            self.open(paths[0])
