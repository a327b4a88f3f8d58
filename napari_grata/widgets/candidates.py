"""Which layers of a viewer can be a scan, and the scan of each."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_grata.scans import Scan, scan_from_array

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

KEY = "napari_grata"


def can_be_scan(layer: Layer) -> bool:
    """Return whether a layer is an image that may be worked on; nothing is read."""
    entry = layer.metadata.get(KEY)
    if not isinstance(layer, Image) or (isinstance(entry, dict) and "role" in entry):
        # What we drew over a scan ourselves, such as the model's uncertainty.
        return False
    if _own_scan(layer) is not None:
        return True
    # A second picture derived from a mask layer is no scan of ours, an image of any other kind is.
    return 2 <= layer.ndim <= 4 and np.dtype(layer.dtype).kind in "uif"


def scan_layers(viewer: Viewer) -> list[Image]:
    """Return the layers that can be a scan, the uppermost first, as in the layer list."""
    return [layer for layer in reversed(viewer.layers) if can_be_scan(layer)]


def _named_scan(layer: Layer) -> Scan | None:
    entry = layer.metadata.get(KEY)
    scan = entry.get("scan") if isinstance(entry, dict) else None
    return scan if isinstance(scan, Scan) else None


def _own_scan(layer: Layer) -> Scan | None:
    scan = _named_scan(layer)
    # The person may have given the layer other data since, or this is a filtered copy of it.
    return scan if scan is not None and scan.holds(_array(layer)) else None


def _array(layer: Layer) -> Any:
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


class ScanOfLayer:
    """Finds the scan of a layer and keeps it as long as the layer shows the same data."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Layer, tuple[Any, Scan]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(self, layer: Image) -> Scan:
        """Return the scan of a layer.

        Raises
        ------
        ScanError
            If the layer's data cannot be a scan: constant, all NaN, too many axes.
        """
        own = _own_scan(layer)
        if own is not None:
            return own
        data = _array(layer)
        known = self._known.get(layer)
        if known is not None and known[0] is data:
            return known[1]
        scan = _foreign_scan(layer, data)
        self._known[layer] = (data, scan)
        return scan


def _foreign_scan(layer: Image, data: Any) -> Scan:
    """Make a scan of a layer that napari or another plugin opened."""
    units = tuple(str(unit) for unit in layer.units)
    measured = any(unit not in ("pixel", "") for unit in units)
    scaled = not np.allclose(layer.scale, 1)
    source = getattr(layer.source, "path", None)
    labels = tuple(str(label) for label in layer.axis_labels)
    named = not all(label.lstrip("-").isdigit() for label in labels)
    return scan_from_array(
        data,
        name=layer.name,
        rgb=bool(layer.rgb),
        spacing=tuple(float(s) for s in layer.scale) if measured or scaled else None,
        units=tuple("mm" if u == "millimeter" else u for u in units) if measured else None,
        axis_labels=labels if named else None,
        # The metadata's affine counts in the axes of the file, which need not be the layer's.
        like=_named_scan(layer),
        metadata={k: v for k, v in layer.metadata.items() if k != KEY},
        path=Path(source) if source else None,
    )
