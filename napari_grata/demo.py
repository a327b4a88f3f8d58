"""The sample scans in a napari window, or measured where there is no screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.scans.samples import Sample

# Headless, one sample a model, each a scan as another scanner would have made it.
HEADLESS_SAMPLES = ("brain-other-scanner", "fundus-other-camera")


def has_screen() -> bool:
    """Whether a window can be opened here."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def fresh(folder: Path) -> Path:
    """Return the folder, or ``folder-2``, ``-3`` …: an earlier demo is not overwritten."""
    candidate, number = folder, 1
    while candidate.exists() and any(candidate.iterdir()):
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def in_napari(sample: Sample) -> dict[str, Any]:
    """Open one sample in a napari window with the dock beside it; return when it is closed."""
    import napari

    viewer = napari.Viewer(title="napari-grata")
    viewer.open_sample("napari-grata", sample.key)
    viewer.window.add_plugin_dock_widget("napari-grata", "Adapt to a new centre")
    napari.run()
    return {"opened": sample.key}


def view_run(run: Path, scan: Scan | None) -> dict[str, Any]:
    """Open a saved run in a napari window: its scan, masks and curves."""
    import napari

    from napari_grata.widgets.current_case import show_saved_run

    viewer = napari.Viewer(title="napari-grata")
    _, dock = viewer.window.add_plugin_dock_widget("napari-grata", "Adapt to a new centre")
    show_saved_run(dock.context, run, scan)
    napari.run()
    return {"opened": str(run)}


def against_reference(sample: Sample, before: Path, after: Path) -> dict[str, tuple[float, float]]:
    """Return Dice of the masks before and after, per structure, over the whole scan.

    Nothing where a sample has no reference.
    """
    from napari_grata.evaluation.metrics import dice
    from napari_grata.scans import open_scan, read_mask
    from napari_grata.segmenters import find_model, structure_mask

    card = find_model(sample.model).card
    if sample.reference is None or card is None:
        return {}
    scan = open_scan(sample.path)
    truth, *masks = (read_mask(path, scan) for path in (sample.reference, before, after))
    found = {}
    for structure in card.structures:
        wanted = structure_mask(card, truth, structure)
        first, second = (dice(structure_mask(card, mask, structure), wanted) for mask in masks)
        found[structure.name] = (first, second)
    return found
