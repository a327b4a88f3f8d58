"""Why a way to compare does not apply, as a sentence for its tooltip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from napari_grata.widgets.viewer_parts import grid_of

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.widgets.session import Session

NOT_YET = "First there must be a mask before and a mask after."
NOT_IN_3D = "Only for slices, not for the view in three dimensions."
NOT_IN_GRID = "Not in the grid of layers; switch the grid off first."
NO_VOLUME = "A photograph has one plane only; this is for volumes."


def why_not(
    viewer: Any, scan: Scan | None, session: Session | None, names: Iterable[str]
) -> dict[str, str]:
    """Return why ways do not apply now, by name; those that do are left out."""
    found: dict[str, str] = {}
    if viewer.dims.ndisplay != 2:
        found = dict.fromkeys(names, NOT_IN_3D)
    elif grid_of(viewer).enabled:
        found = dict.fromkeys(names, NOT_IN_GRID)
    elif session is None or not session.segmented or not session.adapted:
        found = dict.fromkeys(names, NOT_YET)
    if session is not None and session.segmented and found.get("planes") == NOT_YET:
        # One mask is enough for them.
        del found["planes"]
    if scan is not None and scan.kind not in ("volume", "series"):
        found["planes"] = NO_VOLUME
    return found
