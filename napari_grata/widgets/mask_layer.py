"""Mask layers that follow a stream and never write over what the user has drawn."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine

from napari_grata.widgets.scan_layer import KEY, alive, current_slice, free_name

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


class MaskLayer:
    """One mask of a scan: the result in memory, and a layer that shows it.

    The result (``stack``) is the program's; the layer is the user's. Where the user has drawn
    on a slice, that slice of the layer is left alone and the result stays in memory; `settle`
    then shows it in a layer of its own.

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
    drawn : callable, optional
        A bound method, told the slice in view whenever the user has painted there.
    role : str
        ``"source"``, ``"adapted"`` or ``"difference"``, written to the layer's metadata.
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
        role: str = "source",
        drawn: Callable[[int], None] | None = None,
    ) -> None:
        self._viewer = viewer
        self._scan = scan
        self._name = name
        self._colours = dict(colours)
        self._role = role
        self._scan_layer = weakref.ref(scan_layer) if scan_layer is not None else lambda: None
        self._contour, self._opacity = contour, opacity
        self._visible = True
        self._dirty: set[int] = set()
        self._kept_back = False
        self._drawn = None if drawn is None else weakref.WeakMethod(drawn)
        self._writing = self._painted = False
        self.stack = scan.empty_mask()
        self.layer: Labels | None = None

    @property
    def shown(self) -> bool:
        """Whether there is a layer in the viewer now."""
        return alive(self._viewer, self.layer)

    @property
    def name(self) -> str:
        """Name of the layer, as the user has it now, or as it will be."""
        return self.layer.name if self.layer is not None and self.shown else self._name

    @property
    def visible(self) -> bool:
        """Whether the layer is, or will be, switched on."""
        return bool(self.layer.visible) if self.layer is not None and self.shown else self._visible

    @visible.setter
    def visible(self, on: bool) -> None:
        self._visible = on
        # napari puts the brush down whenever it is told, changed or not.
        if self.layer is not None and self.shown and self.layer.visible != on:
            self.layer.visible = on

    def set_contour(self, width: int) -> None:
        """Show contours of this width in pixels, or filled areas (0)."""
        self._contour = width
        # Not the same again: each time napari draws the layer anew, which could be a stroke undone.
        if self.layer is not None and self.shown and self.layer.contour != width:
            with self.writing():
                self.layer.contour = width

    def set_opacity(self, opacity: float) -> None:
        """Set how much of the scan shines through."""
        self._opacity = opacity
        if self.layer is not None and self.shown:
            self.layer.opacity = opacity

    def set_colours(self, colours: Mapping[int, str]) -> None:
        """Colour the label values anew; ``"transparent"`` hides one."""
        self._colours = dict(colours)
        if self.layer is not None and self.shown:
            with self.writing():
                self.layer.colormap = colormap(self._colours)

    def in_use(self) -> np.ndarray:
        """Return the label stack as the user has it, what was drawn included; not to be written."""
        if self.layer is not None and self.shown and self.layer.data.shape == self.stack.shape:
            return np.asarray(self.layer.data)
        return self.stack

    def as_shown(self) -> np.ndarray:
        """Return a copy of `in_use`."""
        return np.array(self.in_use(), dtype=np.uint8)

    def edited(self) -> bool:
        """Return whether the layer differs from the result: the user has drawn on it."""
        if self.layer is None or not self.shown:
            return False
        data = self.layer.data
        return data.shape != self.stack.shape or not np.array_equal(data, self.stack)

    def drawn_on(self, index: int) -> bool:
        """Return whether the user has drawn on one slice."""
        if self.layer is None or not self.shown or self.layer.data.shape != self.stack.shape:
            return False
        now, result = (self._scan.get_mask(s, index) for s in (self.layer.data, self.stack))
        return not np.array_equal(now, result)

    def restart(self) -> None:
        """Begin a new result: an untouched layer is emptied and used again, a drawn one kept."""
        if self.edited():
            self.layer = None
        self.stack = self._scan.empty_mask()
        self._dirty.clear()
        self._kept_back = self._painted = False
        if self.layer is not None and self.shown:
            with self.writing():
                self.layer.data = self.stack.copy()
        else:
            self.layer = None

    def put(self, index: int, label_map: np.ndarray) -> None:
        """Store one slice of the result, shape (H, W), and show it where nobody has drawn."""
        before = self._scan.get_mask(self.stack, index)
        self._scan.put_mask(self.stack, index, label_map)
        if self.layer is None or not self.shown or self.layer.data.shape != self.stack.shape:
            self._kept_back = True
            return
        if np.array_equal(self._scan.get_mask(self.layer.data, index), before):
            self._scan.put_mask(self.layer.data, index, label_map)
            self._dirty.add(index)
        else:
            self._kept_back = True

    def flush(self) -> None:
        """Redraw once, if a slice that is in view has changed."""
        dirty, self._dirty = self._dirty, set()
        if self.layer is None or not dirty or not self.shown or not self.layer.visible:
            return
        in_view = current_slice(self._viewer, self._scan, self.layer)
        if self._viewer.dims.ndisplay == 3 or in_view in dirty:
            with self.writing():
                self.layer.refresh(extent=False, highlight=False, thumbnail=False)

    def ensure(self) -> Labels:
        """Return the layer, making it where there is none."""
        if self.layer is None or not self.shown:
            self.layer = self._make()
        return self.layer

    def settle(self) -> bool:
        """Show the whole result after a stream; returns whether a new layer had to be made.

        A deleted layer comes back; one that the user has drawn on stays as it is, and the result
        gets a layer of its own.
        """
        new = False
        if self._kept_back and (not self.shown or self.edited()):
            self.layer = None
            new = True
        self._kept_back = False
        self.ensure()
        assert self.layer is not None
        with self.writing():
            self.layer.refresh(extent=False)
        return new

    def put_drawing(self, stack: np.ndarray) -> None:
        """Bring back what the user had drawn, shape ``scan.mask_shape``; the result stays."""
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
        if self._painted:
            self._on_paint()

    def _on_paint(self, event: Any = None) -> None:
        tell = self._drawn() if self._drawn is not None else None
        if tell is not None and not self._writing and self.layer is not None and self.shown:
            self._painted = True
            tell(current_slice(self._viewer, self._scan, self.layer))

    def _make(self) -> Labels:
        layer = labels_over(
            self._scan,
            self._scan_layer(),
            self.stack.copy(),
            name=free_name(self._viewer, self._name),
            colours=self._colours,
            role=self._role,
            opacity=self._opacity,
            visible=self._visible,
        )
        layer.contour = self._contour
        _MADE.add(layer)
        if self._drawn is not None:
            for emitter in (layer.events.paint, layer.events.labels_update, layer.events.data):
                emitter.connect(self._on_paint)
            layer.events.set_data.connect(self._on_refreshed)
        add_quietly(self._viewer, layer)
        return layer


class SliceLayer:
    """A mask one slice thick, moved to the slice that it shows; nobody can draw on it.

    A stack of the whole scan would cost a copy of it for every slice shown, which for a list of
    photographs is more than the adaptation itself.

    Parameters
    ----------
    viewer, scan, name, colours, scan_layer, contour, opacity, role
        As for `MaskLayer`.
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
    ) -> None:
        self._viewer = viewer
        self._scan = scan
        self._name = name
        self._colours = dict(colours)
        self._contour, self._opacity, self._role = contour, opacity, role
        self._scan_layer = weakref.ref(scan_layer) if scan_layer is not None else lambda: None
        self._shown: tuple[int, np.ndarray] | None = None
        self.layer: Labels | None = None

    @property
    def shown(self) -> bool:
        """Whether the layer is in the viewer."""
        return alive(self._viewer, self.layer)

    def show(self, slice_index: int, label_map: np.ndarray) -> None:
        """Show a mask, shape (H, W), on a slice."""
        data, place = on_slice(self._scan, self._scan_layer(), slice_index, label_map)
        translate = place["translate"]
        if self.layer is None or not self.shown:
            self.layer = self._make(data, translate)
        else:
            before = self._shown
            if before is None or before[0] != slice_index:
                self.layer.translate = translate
            if self.layer.data.shape != data.shape:
                self.layer.data = data.copy()
            elif before is None or not np.array_equal(before[1], label_map):
                # In place: a new array would have extent and thumbnail worked out anew.
                self.layer.data[...] = data
                self.layer.refresh(extent=False, highlight=False, thumbnail=False)
        self._shown = slice_index, label_map

    def remove(self) -> None:
        """Take the layer away."""
        layer, self.layer, self._shown = self.layer, None, None
        if layer is not None and alive(self._viewer, layer):
            self._viewer.layers.remove(layer)

    def _make(self, data: np.ndarray, translate: np.ndarray) -> Labels:
        layer = labels_over(
            self._scan,
            self._scan_layer(),
            data.copy(),
            name=free_name(self._viewer, self._name),
            colours=self._colours,
            role=self._role,
            opacity=self._opacity,
            translate=translate,
        )
        layer.contour = self._contour
        # What would be drawn on it would be gone with the next step.
        layer.editable = False
        add_quietly(self._viewer, layer)
        return layer


def add_quietly(viewer: Viewer, layer: Layer) -> None:
    """Add a layer and leave the one that the user works on the active one."""
    active = viewer.layers.selection.active
    viewer.add_layer(layer)
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
