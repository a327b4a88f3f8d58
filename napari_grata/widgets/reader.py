"""What napari calls to read scans and samples and to save masks: thin functions, without Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.scans import Scan, ScanError, open_scan, write_mask
from napari_grata.scans.samples import find_sample

LayerData = tuple[Any, dict[str, Any], str]
_SUFFIXES = (".nii", ".nii.gz", ".dcm")


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return the function that reads `path`, or None where it is none of ours; names alone count.

    Photographs and folders are the dock's to open: napari has readers of its own for them, and
    would ask the user at each which to take.
    """
    paths = [path] if isinstance(path, str) else list(path)
    ours = bool(paths) and all(p.lower().endswith(_SUFFIXES) for p in paths)
    return read if ours else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Read a scan into one image layer that knows its scan.

    Raises
    ------
    ScanError
        napari shows its text as a notification; no layer is made.
    """
    return [layer_data(open_scan(path))]


def layer_data(scan: Scan) -> LayerData:
    """Return a scan as napari's (data, keyword arguments, layer type)."""
    return scan.data, scan.layer_kwargs(), "image"


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save a labels layer onto the grid of its scan.

    Parameters
    ----------
    path : str
        ``.nii.gz``, ``.nii``, ``.png`` or ``.tif``, as the scan allows; for a list of photographs
        a folder is made of the name without its ending.
    data : array
        The layer's labels.
    attributes : dict
        The layer's attributes; ``metadata["napari_grata"]["scan"]`` is its scan.

    Raises
    ------
    ScanError
        The layer belongs to no scan, or does not fit its scan's grid.
    """
    entry = attributes.get("metadata", {}).get("napari_grata")
    scan = entry.get("scan") if isinstance(entry, dict) else None
    if not isinstance(scan, Scan):
        raise ScanError(
            "this layer does not know the scan it was drawn on",
            attributes.get("name", "labels"),
            "Save it with napari's own writer, or segment the scan with this plugin first.",
        )
    target = Path(path)
    if scan.is_list:
        target = target.with_suffix("")
    written = write_mask(
        np.asarray(data),
        scan,
        target,
        colours=_colours(attributes),
        # For a single file, the dialog has asked whether an existing one may be replaced.
        overwrite=not scan.is_list,
    )
    return [str(p) for p in written]


def _colours(attributes: dict[str, Any]) -> dict[int, str]:
    """Colours of the label values, where the layer's colormap names them."""
    found = {}
    table = getattr(attributes.get("colormap"), "color_dict", None) or {}
    for value, colour in table.items():
        if value and 0 < value < 256:
            red, green, blue = (round(255 * float(c)) for c in np.asarray(colour)[:3])
            found[int(value)] = f"#{red:02X}{green:02X}{blue:02X}"
    return found


def open_sample(key: str) -> list[LayerData]:
    """Return the sample of this key as layer data, named after its title."""
    sample = find_sample(key)
    data, arguments, kind = layer_data(open_scan(sample.path))
    return [(data, {**arguments, "name": sample.title}, kind)]


brain = partial(open_sample, "brain")
brain_other_scanner = partial(open_sample, "brain-other-scanner")
fundus_disc = partial(open_sample, "fundus-disc")
fundus_other_camera = partial(open_sample, "fundus-other-camera")
fundus_whole = partial(open_sample, "fundus-whole")
