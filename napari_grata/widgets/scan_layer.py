"""Which layers of a viewer are scans, the scan of each, and where the viewer looks in it.

Places always go by way of the world's coordinates: the viewer's sliders count in steps of the
finest layer, not in slices of a scan.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_grata.scans import Scan, scan_from_array

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

KEY = "napari_grata"
Box = tuple[int, int, int, int]
_SMALLEST_BOX = 8
_OWN_UNITS: weakref.WeakKeyDictionary[Layer, Any] = weakref.WeakKeyDictionary()


def our_entry(layer: Layer) -> dict[str, Any]:
    """Return what we wrote to a layer's metadata: "scan", and "role" of what lies over one."""
    entry = layer.metadata.get(KEY)
    return entry if isinstance(entry, dict) else {}


def can_be_scan(layer: Layer) -> bool:
    """Return whether a layer is an image that may be worked on; nothing is read."""
    if not isinstance(layer, Image) or "role" in our_entry(layer):
        # What we drew over a scan ourselves, such as the model's uncertainty.
        return False
    if _own_scan(layer) is not None:
        return True
    # A second picture derived from a mask layer is no scan of ours, an image of any other kind is.
    return 2 <= layer.ndim <= 4 and np.dtype(layer.dtype).kind in "uif"


def scan_layers(viewer: Viewer) -> list[Image]:
    """Return the layers that can be a scan, the uppermost first, as in the layer list."""
    return [layer for layer in reversed(viewer.layers) if can_be_scan(layer)]


def of_other_scans(viewer: Viewer, mine: Sequence[Layer]) -> list[Layer]:
    """Return the scans, and what we drew over scans, that are not among these."""
    return [
        other
        for other in viewer.layers
        if (can_be_scan(other) or "role" in our_entry(other))
        and not any(other is one for one in mine)
    ]


def _named_scan(layer: Layer) -> Scan | None:
    scan = our_entry(layer).get("scan")
    return scan if isinstance(scan, Scan) else None


def _own_scan(layer: Layer) -> Scan | None:
    scan = _named_scan(layer)
    # The user may have given the layer other data since, or this is a filtered copy of it.
    return scan if scan is not None and scan.holds(data_of(layer)) else None


def data_of(layer: Layer) -> Any:
    """Return a layer's data; of a pyramid the finest."""
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
        data = data_of(layer)
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


def _in_view(viewer: Viewer, layer: Layer) -> np.ndarray:
    """Return the layer's own coordinates of the point at which the viewer's sliders stand."""
    point = np.zeros(layer.ndim)
    there = np.asarray(viewer.dims.point, dtype=float)[-layer.ndim :]
    point[-len(there) :] = there
    return np.asarray(layer.world_to_data(point), dtype=float)


def current_slice(viewer: Viewer, scan: Scan, layer: Layer) -> int:
    """Return the flat number of the slice that is in view.

    Parameters
    ----------
    layer : Layer
        One that lies on the scan's grid: the scan itself or a mask.
    """
    leading = scan.leading_shape
    place = np.rint(_in_view(viewer, layer)[: len(leading)]).astype(int)
    inside = (int(min(max(p, 0), n - 1)) for p, n in zip(place, leading, strict=True))
    return scan.slice_index(tuple(inside))


def show_slice(viewer: Viewer, scan: Scan, layer: Layer, index: int) -> None:
    """Bring a slice into view; ``layer`` is as in `current_slice`."""
    position = scan.slice_position(index)
    if not position:
        return
    coordinates = _in_view(viewer, layer)
    coordinates[: len(position)] = position
    world = layer.data_to_world(coordinates)
    first = viewer.dims.ndim - layer.ndim
    axes = [first + axis for axis in range(len(position))]
    viewer.dims.set_point(axes, [float(world[axis]) for axis in range(len(position))])


def lend_units(viewer: Viewer, layer: Layer, others: Iterable[Layer]) -> None:
    """Give layers that make way for a scan the kind of units that it has.

    napari counts all layers in one kind of unit, hidden ones too, and complains in a box where the
    pixels of a photograph meet the millimetres of a volume. What is in view has its own units.
    """
    shapes = [one for one in viewer.layers if isinstance(one, Shapes)]
    kind = layer.units[-1].dimensionality
    for other in (*others, *shapes):  # a rectangle may be the region in any scan
        if other.units[-1].dimensionality != kind:
            own = _OWN_UNITS.setdefault(other, other.units)
            same = own[-1].dimensionality == kind
            other.units = own if same else (layer.units[-1],) * other.ndim


def take_own_units(layer: Layer, masks: Iterable[Layer]) -> None:
    """Give a scan that comes into view its own units again, and its masks the same."""
    units = _OWN_UNITS.pop(layer, layer.units)
    for one in (layer, *masks):
        if one.ndim == layer.ndim and one.units != units:
            one.units = units


def rectangles(viewer: Viewer, scan: Scan, scan_layer: Any) -> list[tuple[str, Box]]:
    """Return the rectangles that Shapes layers lay over the scan, with names for the user.

    Returns
    -------
    list of (str, (row0, col0, row1, col1))
        In the scan's own pixels, half-open, cut to the picture; very small ones are left out.
    """
    found = []
    sides = np.array(scan.mask_shape[-2:])
    for layer in viewer.layers:
        if not isinstance(layer, Shapes):
            continue
        for number, (corners, kind) in enumerate(zip(layer.data, layer.shape_type, strict=True), 1):
            if kind != "rectangle" or KEY in layer.metadata:
                continue  # or a frame that was found, and not drawn
            pixels = np.array([_pixel(layer.data_to_world(c)[-2:], scan_layer) for c in corners])
            # A pixel reaches half a step to either side of its centre.
            low = np.clip(np.floor(pixels.min(axis=0) + 0.5), 0, sides).astype(int)
            high = np.clip(np.floor(pixels.max(axis=0) + 0.5), 0, sides).astype(int)
            if (high - low >= _SMALLEST_BOX).all():
                box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
                found.append((f"{layer.name}, rectangle {number}", box))
    return found


def _pixel(world: Any, scan_layer: Any) -> np.ndarray:
    """Return the pixel of the scan at a point of the plane, given as (y, x) of the world."""
    point = np.zeros(scan_layer.ndim)
    point[-2:] = world
    return np.asarray(scan_layer.world_to_data(point))[-2:]


def alive(viewer: Viewer, layer: Layer | None) -> bool:
    """Return whether a layer is still in the viewer (by identity: layers may be renamed)."""
    return layer is not None and any(layer is other for other in viewer.layers)


def free_name(viewer: Viewer, name: str) -> str:
    """Return ``name``, or ``name 2``, ``name 3`` … where it is taken."""
    taken = {layer.name for layer in viewer.layers}
    if name not in taken:
        return name
    return next(f"{name} {n}" for n in range(2, 10_000) if f"{name} {n}" not in taken)


def camera_of(viewer: Any) -> Any:
    """Return the camera, wherever the version of napari keeps it (0.9 moved it)."""
    return getattr(viewer, "scene", viewer).camera


def grid_of(viewer: Any) -> Any:
    """Return the grid of layers, wherever the version of napari keeps it."""
    return getattr(viewer, "canvas", viewer).grid


def is_turned(viewer: Any) -> bool:
    """Whether the canvas shows another plane than a scan's slices, or all of them in 3-D."""
    dims = viewer.dims
    return bool(dims.ndisplay > 2 or min(dims.order[-2:]) < dims.ndim - 2)


def fit_view(
    viewer: Any,
    layers: Sequence[Layer | None],
    *,
    columns: int = 1,
    moved: bool = True,
    part: np.ndarray | None = None,
) -> None:
    """Fit the view to these layers, whatever larger ones are hidden beside them.

    Parameters
    ----------
    columns : int
        Of the grid, each of which shows them.
    moved : bool
        Whether also a view that is not centred on them: one that the user chose.
    part : ndarray, shape (2, 2), optional
        First and last row and column of what is shown in the middle of it, as shares of all.

    Notes
    -----
    napari's own way takes no layers before 0.9, and there none with fewer axes than the others.
    """
    there = [layer for layer in layers if layer is not None and alive(viewer, layer)]
    canvas = getattr(getattr(viewer, "canvas", None), "size", None)
    if canvas is None or not there or viewer.dims.ndisplay == 3:
        if moved:
            viewer.reset_view()
        return
    extents = np.array([layer.extent.world[:, -2:] for layer in there])
    low, high = extents[:, 0].min(axis=0), extents[:, 1].max(axis=0)
    camera = camera_of(viewer)
    away = np.abs(np.asarray(camera.center[-2:]) - (low + high) / 2)
    if not moved and bool(np.any(away > 0.01 * (high - low))):
        return
    if part is not None:
        low, high = low + part * (high - low)
    camera.center = (*camera.center[:-2], *(float(x) for x in (low + high) / 2))
    room = np.asarray(canvas, dtype=float)[-2:] / (1, columns)
    share = 0.95 if part is None else 0.6
    camera.zoom = share * float(np.min(room / np.maximum(high - low, 1e-6)))


# Viewers whose changes are gathered now; within one, another adds nothing.
_GATHERING: set[int] = set()


@contextmanager
def as_one_change(viewer: Any) -> Iterator[None]:
    """Have the canvas follow layers that are added and removed once, at the end.

    After each layer that is removed, napari looks through all objects of the program for what it
    may still hold on the graphics card, half a second here.
    """
    events = viewer.layers.events
    begin, end = getattr(events, "begin_batch", None), getattr(events, "end_batch", None)
    if begin is None or end is None or id(viewer) in _GATHERING:  # None before napari 0.7
        yield
        return
    _GATHERING.add(id(viewer))
    begin()
    try:
        yield
    finally:
        _GATHERING.discard(id(viewer))
        begin()  # for `hold_canvas`, should anything have been redrawn in between
        end()


def remove_layers(viewer: Any, layers: Iterable[Layer | None]) -> None:
    """Take layers out, what lies above before what lies below, as one change of the canvas.

    So no redraw in between finds masks over a scan that is gone, and napari tidies up once. What
    made napari die in ``glDrawArrays`` is another matter: see `hold_canvas`.
    """
    gone = [layer for layer in reversed(viewer.layers) if any(layer is one for one in layers)]
    if not gone:
        return
    with as_one_change(viewer):
        for layer in gone:
            # Taking out one may have taken others along.
            if alive(viewer, layer):
                viewer.layers.remove(layer)


def canvases(window: QMainWindow | None) -> list[Any]:
    """Return what a window draws layers on: Qt's own widgets for OpenGL."""
    centre = window.centralWidget() if window is not None else None
    found = centre.findChildren(QWidget) if centre is not None else []
    return [widget for widget in found if hasattr(widget, "makeCurrent")]


def hold_canvas(window: QMainWindow | None) -> None:
    """Make OpenGL speak to the canvas, before a layer is taken out, whoever takes it out.

    Once a layer is gone, and at the end of a batch, napari (0.6.6 to 0.9) deletes the buffers and
    programs that nothing uses any more, and fills others, in whatever context of OpenGL is current:
    outside a redraw that is the window's own. Mesa then ends the program in ``glDrawArrays`` at the
    second redraw after it, for any layer but the uppermost. With the canvas's context current they
    are deleted where they were made.
    """
    for canvas in canvases(window):
        canvas.makeCurrent()
