"""Loads torch while the person is still looking around, and finds out where it can run."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_grata.widgets import jobs

_START_MS = 300
_POLL_MS = 100
# dask: lazy scans; pandas: napari's first Labels layer; scipy: flags and measures.
_FIRST = ("dask.array", "pandas", "scipy.ndimage", "scipy.spatial")
_LAZY = getattr(os, "RTLD_LAZY", 1)
_GLOBAL = _LAZY | getattr(os, "RTLD_GLOBAL", 256)
_LIBRARIES = (("libtorch_global_deps.*", _GLOBAL), ("libtorch_cpu.*", _LAZY))


class WarmUp(QObject):
    """Imports torch in a thread once the dock stands, then lists the devices.

    A plain thread and a timer that looks for its result: nothing of Qt is touched off the main
    thread, and a dock that is closed meanwhile is not called back. It is no napari worker because
    those change the warning filters of the whole program while they run; two at once would leave
    them changed.

    Signals
    -------
    devices(list of DeviceChoice)
    failed(str)
        torch cannot be loaded, and why.
    """

    devices = Signal(list)
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._result: list[Any] = []
        self._thread: threading.Thread | None = None
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._look)
        self._timer.start(_START_MS)

    def refresh(self) -> None:
        """Look again at how much memory is free where."""
        if self._thread is None and not self._timer.isActive():
            self._timer.start(0)

    def _look(self) -> None:
        if self._thread is None:
            self._result = []
            # Not a daemon: torch must not be cut off in the middle of its import at exit.
            self._thread = threading.Thread(
                target=_list_devices, args=(self._result,), name="napari-grata-torch"
            )
            self._thread.start()
            self._timer.start(_POLL_MS)
            return
        if not self._result:
            return
        self._timer.stop()
        self._thread = None
        result = self._result[0]
        if isinstance(result, Exception):
            self.failed.emit(f"torch cannot be loaded, so no model can run: {result}")
        else:
            self.devices.emit(result)


def _list_devices(result: list[Any]) -> None:
    try:
        with jobs.short_turns():
            preload_torch()
            # What opening a scan and its first mask want, before what takes longest.
            for name in _FIRST:
                with suppress(ImportError):
                    importlib.import_module(name)
            import torch  # noqa: F401 - the point of this thread

            import napari_grata.segmenters.segmenter  # noqa: F401
            from napari_grata.segmenters import list_devices

            result.append(list_devices())
    except Exception as error:
        result.append(error)


def preload_torch() -> None:
    """Load torch's largest libraries without holding the interpreter.

    An import holds it from beginning to end of each library, and the interface stands still
    meanwhile; a call of ``dlopen`` by way of ctypes does not. The import then finds the libraries
    in place. Where this does not work nothing is lost: the import loads them.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations or "torch" in sys.modules:
        return
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    try:
        dlopen = ctypes.CDLL(None).dlopen
    except (TypeError, OSError, AttributeError):
        return  # Windows has no such call
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    for name, mode in _LIBRARIES:
        for path in folder.glob(name):
            dlopen(str(path).encode(), mode)
