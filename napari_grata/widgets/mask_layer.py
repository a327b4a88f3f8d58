"""Mask layers that follow a stream and never write over what the user has drawn."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine

from napari_grata.widgets.scan_layer import KEY, alive, current_slice, free_name, is_turned

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.scans import Scan

# napari draws contours anew at each redraw, and the time grows with their width.
MOST_CONTOUR = 4
# Layers that this plugin made; copies that the user made of them are not among them.
_MADE: weakref.WeakSet[Any] = weakref.WeakSet()


def colormap(colours: Mapping[int, str]) -> DirectLabelColormap:
    """Return napari's colours for label values; every other value is grey, 0 is clear."""
    known: dict[int | None, str] = {None: "#808080", 0: "transparent"}
    known.update((int(value), colour) for value, colour in colours.items())
    return DirectLabelColormap(color_dict=known)


def made_here(layer: Layer) -> bool:
    """Return whether a mask layer was made by this plugin, not by the user."""
    return layer in _MADE


def placement(scan: Scan, scan_layer: Layer | None) -> dict[str, Any]:
    """Return layer arguments that put a mask exactly over its scan.

    What the viewer adds to a scan of another plugin (translation, rotation, shear, affine) is
    copied from its layer as it is now.
    """
    arguments = dict(scan.mask_layer_kwargs())
    if scan_layer is not None and scan_layer.ndim == len(scan.mask_shape):
        for name in ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels"):
            arguments[name] = getattr(scan_layer, name)
    return arguments


def labels_over(
    scan: Scan,
    scan_layer: Layer | None,
    data: np.ndarray,
    *,
    name: str,
    colours: Mapping[int, str],
    role: str,
    **arguments: Any,
) -> Labels:
    """Return a labels layer over a scan that knows whose mask it is; ``arguments`` are napari's.

    Parameters
    ----------
    scan : Scan
        Its metadata name it, so that the layer can be saved onto its grid.
    scan_layer : Layer or None
        As for `placement`.
    """
    given = placement(scan, scan_layer)
    metadata = dict(given.pop("metadata", {}))
    metadata[KEY] = {**metadata.get(KEY, {}), "scan": scan, "role": role}
    given |= {"metadata": metadata, "colormap": colormap(colours), **arguments}
    return Labels(data, name=name, **given)


def contour_width(scan: Scan, zoom: float, wanted: float) -> int:
    """Return how many pixels of the scan a contour is wide, as near as it can be to what is wanted.

    Parameters
    ----------
    zoom : float
        Of the camera: pixels of the screen a unit of the world.
    wanted : float
        Width in pixels of the screen.
    """
    spacing = scan.geometry.spacing
    pixel = float(spacing[-1]) if spacing else 1.0
    return int(min(max(round(wanted / max(zoom * pixel, 1e-6)), 1), MOST_CONTOUR))


class _Over:
    """A labels layer over a scan, made when there is something to show.

    Parameters
    ----------
    viewer : Viewer
    scan : Scan
    name : str
        Of the layer, before a number is added where the name is taken.
    colours : mapping of int to str
        Label value → ``"#RRGGBB"``.
    scan_layer : Layer
        Over which the mask lies; held weakly.
    contour : int
        Width of the contour in pixels, 0 for filled areas.
    opacity : float
    role : str
        Such as ``"source"``, ``"adapted"`` or ``"difference"``; written to the layer's metadata.
    drawn : callable, optional
        A bound method, told the slice in view whenever the user has painted there.
    """

    def __init__(
        self,
        viewer: Viewer,
        scan: Scan,
        name: str,
        colours: Mapping[int, str],
        scan_layer: Layer | None,
        *,
        contour: int = 0,
        opacity: float = 0.7,
        role: str = "step",
        drawn: Callable[[int], None] | None = None,
    ) -> None:
        self._viewer = viewer
        self._scan = scan
        self._name = name
        self._colours = dict(colours)
        self._contour, self._opacity, self._role = contour, opacity, role
        self._scan_layer = weakref.ref(scan_layer) if scan_layer is not None else lambda: None
        self._drawn = None if drawn is None else weakref.WeakMethod(drawn)
        self._layer: Labels | None = None

    @property
    def layer(self) -> Labels | None:
        """The layer, as long as it is in the viewer."""
        return self._layer if alive(self._viewer, self._layer) else None

    @property
    def shown(self) -> bool:
        """Whether there is a layer in the viewer now."""
        return self.layer is not None

    def _make(self, data: np.ndarray, **arguments: Any) -> Labels:
        """Make the layer, in no viewer yet; ``arguments`` are napari's."""
        made = self._layer = labels_over(
            self._scan,
            self._scan_layer(),
            data.copy(),
            name=free_name(self._viewer, self._name),
            colours=self._colours,
            role=self._role,
            opacity=self._opacity,
            **arguments,
        )
        made.contour = self._contour
        return made


class MaskLayer(_Over):
    """One mask of a scan: the result in memory, and a layer that shows it.

    The result (``stack``) is the program's; the layer is the user's. Where the user has drawn
    on a slice, that slice of the layer is left alone and the result stays in memory; `settle`
    then shows it in a layer of its own.
    """

    _visible = True
    _kept_back = _writing = _painted = False
    _dirty: frozenset[int] = frozenset()
    _fresh: frozenset[int] = frozenset()  # told of strokes there since they came into view

    @cached_property
    def _told(self) -> dict[int, int]:
        """A checksum of each slice as it was when strokes there were last told."""
        return {}

    @cached_property
    def stack(self) -> np.ndarray:
        """The result, a label stack of shape ``scan.mask_shape``."""
        return self._scan.empty_mask()

    @property
    def _on_grid(self) -> Labels | None:
        """The layer, unless the user has given it other data, that do not fit the scan.

        Also one that was deleted: what was drawn there counts, and it comes back.
        """
        layer = self._layer
        return layer if layer is not None and layer.data.shape == self.stack.shape else None

    @property
    def name(self) -> str:
        """Name of the layer, as the user has it now, or as it will be."""
        layer = self.layer
        return self._name if layer is None else layer.name

    @property
    def visible(self) -> bool:
        """Whether the layer is, or will be, switched on."""
        layer = self.layer
        return self._visible if layer is None else bool(layer.visible)

    @visible.setter
    def visible(self, on: bool) -> None:
        self._visible = on
        layer = self.layer
        # napari puts the brush down whenever it is told, changed or not.
        if layer is not None and layer.visible != on:
            layer.visible = on

    def set_contour(self, width: int) -> None:
        """Show contours of this width in pixels, or filled areas (0)."""
        self._contour, layer = width, self.layer
        # Not the same again: each time napari draws the layer anew, which could be a stroke undone.
        if layer is not None and layer.contour != width:
            with self.writing():
                layer.contour = width

    def set_opacity(self, opacity: float) -> None:
        """Set how much of the scan shines through."""
        self._opacity, layer = opacity, self.layer
        if layer is not None:
            layer.opacity = opacity

    def set_colours(self, colours: Mapping[int, str]) -> None:
        """Colour the label values anew; ``"transparent"`` hides one."""
        self._colours, layer = dict(colours), self.layer
        if layer is not None:
            with self.writing():
                layer.colormap = colormap(self._colours)

    def in_use(self) -> np.ndarray:
        """Return the label stack as the user has it, what was drawn included; not to be written."""
        layer = self._on_grid
        return self.stack if layer is None else np.asarray(layer.data)

    def as_shown(self) -> np.ndarray:
        """Return a copy of `in_use`."""
        return np.array(self.in_use(), dtype=np.uint8)

    def edited(self) -> bool:
        """Return whether the layer differs from the result: the user has drawn on it."""
        layer = self._layer
        return layer is not None and not np.array_equal(layer.data, self.stack)

    def versions(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a slice as the user has it, and as the model drew it, each of shape (H, W)."""
        get = self._scan.get_mask
        return get(self.in_use(), index), get(self.stack, index)

    def drawn_on(self, index: int) -> bool:
        """Return whether the user has drawn on one slice."""
        return not np.array_equal(*self.versions(index))

    @property
    def paints_across(self) -> bool:
        """Whether a stroke may lie on other slices than the one in view."""
        layer = self.layer
        return layer is not None and (is_turned(self._viewer) or layer.n_edit_dimensions > 2)

    def tell_later(self, slices: Iterable[int]) -> None:
        """Have it noticed when strokes on these slices are undone, whichever is in view then."""
        self._told.update((index, self._checksum(index)) for index in slices)

    def restart(self) -> str:
        """Begin a new result: an untouched layer is emptied and used again, a drawn one kept.

        Returns the name of the layer that was drawn on, "" without one.
        """
        kept = self._set_aside() if self.edited() or not self.shown else ""
        self.stack = self._scan.empty_mask()
        self._dirty = self._fresh = frozenset()
        self._told = {}
        self._kept_back = self._painted = False
        layer = self.layer
        if layer is not None:
            with self.writing():
                layer.data = self.stack.copy()
        return kept

    def _set_aside(self) -> str:
        """Leave a drawn layer to the user, out of view and without the brush; return its name.

        What comes takes its place: a brush still in hand would paint where nothing is saved from.
        """
        layer, self._layer = self.layer, None
        if layer is None:
            return ""
        layer.mode = "pan_zoom"
        layer.visible = False
        return str(layer.name)

    def put(self, index: int, label_map: np.ndarray) -> None:
        """Store one slice of the result, shape (H, W), and show it where nobody has drawn."""
        layer, before = self._on_grid, self._scan.get_mask(self.stack, index)
        untouched = layer is not None and np.array_equal(
            self._scan.get_mask(layer.data, index), before
        )
        self._scan.put_mask(self.stack, index, label_map)
        self._told.pop(index, None)
        if layer is not None and untouched:
            self._scan.put_mask(layer.data, index, label_map)
            self._dirty |= {index}
        else:
            self._kept_back = True

    def flush(self) -> None:
        """Redraw once, if a slice that is in view has changed."""
        dirty, self._dirty, layer = self._dirty, frozenset(), self.layer
        if layer is None or not dirty or not layer.visible:
            return
        in_view = current_slice(self._viewer, self._scan, layer)
        if self._viewer.dims.ndisplay == 3 or in_view in dirty:
            with self.writing():
                layer.refresh(extent=False, highlight=False, thumbnail=False)

    def ensure(self) -> Labels:
        """Return the layer, making it where there is none; a deleted one comes back as it was."""
        layer, scan_layer = self.layer, self._scan_layer()
        if layer is None and self._layer is not None:
            layer, layers = self._layer, self._viewer.layers
            below = layers.index(scan_layer) if alive(self._viewer, scan_layer) else -1
            add_quietly(self._viewer, layer, below + 1)
            self.set_colours(self._colours)
        elif layer is None:
            layer = self._make(self.stack, visible=self._visible)
            _MADE.add(layer)
            if self._drawn is not None:
                for emitter in (layer.events.paint, layer.events.labels_update, layer.events.data):
                    emitter.connect(self._on_paint)
                layer.events.set_data.connect(self._on_refreshed)
            add_quietly(self._viewer, layer)
        return layer

    def settle(self) -> bool:
        """Show the whole result after a stream; returns whether a new layer had to be made.

        A deleted layer comes back; one that the user has drawn on stays as it is, and the result
        gets a layer of its own.
        """
        new = self._kept_back and (not self.shown or self.edited())
        if new:
            self._set_aside()
        self._kept_back = False
        with self.writing():
            self.ensure().refresh(extent=False)
        return new

    def put_drawing(self, stack: np.ndarray) -> None:
        """Bring back what the user had drawn, shape ``scan.mask_shape``; the result stays."""
        self._told.clear()
        with self.writing():
            self.ensure().data = np.array(stack, dtype=np.uint8)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While the program itself writes, nothing counts as drawn."""
        before, self._writing = self._writing, True
        try:
            yield
        finally:
            self._writing = before

    def _on_refreshed(self, event: Any = None) -> None:
        """Undo and redo of strokes say no more than that; so does every slice that is shown."""
        layer = self._on_grid
        if not self._painted or self._writing or layer is None:
            return
        index = current_slice(self._viewer, self._scan, layer)
        self.tell_later(self._fresh - {index})
        self._fresh &= {index}
        tell = self._drawn() if self._drawn is not None else None
        for other, before in list(self._told.items()):
            if tell is not None and other != index and before != self._checksum(other):
                self.tell_later({other})
                tell(other)
        known = self._told.get(index)
        changed = self.drawn_on(index) if known is None else known != self._checksum(index)
        if index in self._fresh or changed:
            self._on_paint()

    def _checksum(self, index: int) -> int:
        return crc32(self.versions(index)[0].tobytes())

    def _on_paint(self, event: Any = None) -> None:
        tell, layer = self._drawn() if self._drawn is not None else None, self.layer
        if tell is not None and not self._writing and layer is not None:
            index = current_slice(self._viewer, self._scan, layer)
            self._painted = True
            self._fresh |= {index}
            tell(index)


class SliceLayer(_Over):
    """A mask one slice thick, moved to the slice that it shows; nobody can draw on it.

    A stack of the whole scan would cost a copy of it for every slice shown, which for a list of
    photographs is more than the adaptation itself.
    """

    _last: tuple[int, np.ndarray] | None = None

    def show(self, slice_index: int, label_map: np.ndarray) -> None:
        """Show a mask, shape (H, W), on a slice."""
        data, place = on_slice(self._scan, self._scan_layer(), slice_index, label_map)
        layer, before = self.layer, self._last
        self._last = slice_index, label_map
        if layer is not None and not layer.visible:
            layer.visible = True
        if layer is None:
            layer = self._make(data, translate=place["translate"])
            # What would be drawn on it would be gone with the next step.
            layer.editable = False
            add_quietly(self._viewer, layer)
            return
        if before is None or before[0] != slice_index:
            layer.translate = place["translate"]
        if layer.data.shape != data.shape:
            layer.data = data.copy()
        elif before is None or not np.array_equal(before[1], label_map):
            # In place: a new array would have extent and thumbnail worked out anew.
            layer.data[...] = data
            layer.refresh(extent=False, highlight=False, thumbnail=False)

    def set_looks(self, colours: Mapping[int, str], opacity: float, contour: int) -> None:
        """Show it in these colours, so opaque, and filled (0) or as contours of this width."""
        if (colours, opacity, contour) == (self._colours, self._opacity, self._contour):
            return
        self._colours, self._opacity, self._contour = dict(colours), opacity, contour
        layer = self.layer
        if layer is not None:
            layer.colormap = colormap(self._colours)
            layer.opacity, layer.contour = opacity, contour

    def hide(self) -> None:
        """Switch the layer off: that takes a tenth of making it anew."""
        if self.layer is not None:
            self.layer.visible = False

    def remove(self) -> None:
        """Take the layer away."""
        layer, self._layer, self._last = self.layer, None, None
        if layer is not None:
            self._viewer.layers.remove(layer)


def add_quietly(viewer: Viewer, layer: Layer, place: int | None = None) -> None:
    """Add a layer, above all others or in a place, and leave the one worked on the active one."""
    active = viewer.layers.selection.active
    viewer.add_layer(layer) if place is None else viewer.layers.insert(place, layer)
    if active is not None:
        viewer.layers.selection.active = active


def on_slice(
    scan: Scan, scan_layer: Layer | None, index: int, values: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return what lies on a slice, shape (H, W), as one slice thick, and where: as `placement`."""
    arguments = placement(scan, scan_layer)
    position = scan.slice_position(index)
    parts = {name: arguments.get(name) for name in ("scale", "translate", "rotate", "shear")}
    given = {name: part for name, part in parts.items() if part is not None}
    to_world = Affine(ndim=len(position) + 2, **given)
    arguments["translate"] = np.asarray(to_world(np.array([*position, 0.0, 0.0])))
    return values.reshape(*(1 for _ in position), *values.shape), arguments
