"""What is drawn over a scan to compare its two masks: contours, curtain, side by side, planes.

Each way is a few layers of napari's own, one slice thick, made when it begins and taken away when
it ends. They carry a role, so that nothing takes them for scans or masks; nobody can draw on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from skimage.measure import approximate_polygon, find_contours

from napari_grata.segmenters.card import structure_mask
from napari_grata.widgets.mask_layer import SliceLayer, add_quietly, placement, to_world_map
from napari_grata.widgets.scan_layer import (
    KEY,
    alive,
    as_one_change,
    camera_of,
    fit_view,
    free_name,
)

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session

_THIN, _THICK = 1.2, 2.4  # pixels of the screen
_GAP = 0.04  # of the picture's width, between two pictures side by side
_LINE = "#FFFFFF"


def remove_layers(viewer: Any, layers: Sequence[Layer | None]) -> None:
    """Take layers out in the order that is safe: what lies above before what lies below.

    napari with OpenGL in software can die where the lowest image is removed while labels lie over
    it; taken out from the top, in one change of the canvas, that cannot happen.
    """
    with as_one_change(viewer):
        for layer in reversed(list(viewer.layers)):
            if any(layer is one for one in layers):
                viewer.layers.remove(layer)


class Way:
    """One way of comparing.

    Parameters
    ----------
    context : Context
    session : Session
    """

    def __init__(self, context: Context, session: Session) -> None:
        self.context, self.session = context, session
        self.viewer, self.scan = context.viewer, session.scan
        self.layers: list[Layer] = []
        self._mouse: Callable[[Any, Any], Iterator[None]] | None = None

    @staticmethod
    def why_not(session: Session) -> str:
        """Return why a scan cannot be seen in this way, "" if it can."""
        return ""

    def show(self) -> None:
        """Bring the slice in view up to date."""
        raise NotImplementedError

    def zoomed(self) -> None:
        """The zoom is another one."""

    def end(self) -> None:
        """Take everything away."""
        remove_layers(self.viewer, self.layers)
        self.layers = []

    def mouse(self, event: Any) -> Iterator[None]:
        """What a press of the mouse on the canvas does, as napari's drag callbacks."""
        yield

    def follow_mouse(self) -> None:
        """Have `mouse` called; the viewer holds this way weakly."""
        weak = weakref.ref(self)

        def pressed(_viewer: Any, event: Any) -> Iterator[None]:
            way = weak()
            if way is not None:
                yield from way.mouse(event)

        self._mouse = pressed
        self.viewer.mouse_drag_callbacks.append(pressed)

    def let_mouse_go(self) -> None:
        """Have `mouse` called no more."""
        if self._mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._mouse)

    def masks(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return source and adapted mask of a slice as the user has them, shape (H, W)."""
        session = self.session
        layer = session.adapted.layer
        shown = session.adapted.stack
        if layer is not None and layer.data.shape == shown.shape:
            shown = layer.data
        return (
            self.scan.get_mask(session.source.stack, index),
            np.asarray(self.scan.get_mask(shown, index)),
        )

    def points(self, points: np.ndarray, index: int) -> np.ndarray:
        """Return points of a slice, shape (N, 2), as points of the scan."""
        position = np.asarray(self.scan.slice_position(index), dtype=float)
        return np.hstack([np.tile(position, (len(points), 1)), points])

    def kept(self, layer: Layer) -> Layer:
        """Put a layer in, above all others, and take it away at the end."""
        add_quietly(self.viewer, layer)
        self.layers.append(layer)
        return layer

    def shapes(self, name: str, last: int = 0) -> Shapes:
        """Return an empty layer for lines on the scan's own grid, or on its last axes alone.

        On the same grid: the viewer's sliders count in the steps of the finest layer.
        """
        arguments = placement(self.scan, self.session.scan_layer())
        arguments.pop("metadata", None)
        if last:
            kept = ("scale", "translate", "units", "axis_labels")
            arguments = {name: arguments[name][-last:] for name in kept if name in arguments}
        layer = Shapes(
            ndim=last or len(self.scan.mask_shape),
            name=free_name(self.viewer, f"{self.scan.name} {name}"),
            metadata={KEY: {"role": "view"}},
            **arguments,
        )
        layer.editable = False
        return layer

    @property
    def pixel(self) -> float:
        """Length of a pixel of the screen, in pixels of the scan."""
        zoom = max(float(camera_of(self.viewer).zoom), 1e-6)
        layer: Any = self.session.scan_layer()
        return 1.0 / (zoom * (float(layer.scale[-1]) if layer is not None else 1.0))


class Contours(Way):
    """Outlines of both masks of the slice in view: source thin, adapted thick, on any zoom."""

    def show(self) -> None:
        """Draw the outlines of the slice in view."""
        self.session.show_masks(source=False, adapted=False)
        index = self.context.in_view()
        if not self.layers:
            for name in ("contours source", "contours adapted"):
                self.kept(self.shapes(name))
        for layer, mask, width in zip(self.layers, self.masks(index), (_THIN, _THICK), strict=True):
            lines, colours = self._outlines(mask, index)
            layer.data = []
            if lines:
                layer.add(
                    lines,
                    shape_type="path",
                    edge_color=colours,
                    face_color="transparent",
                    edge_width=width * self.pixel,
                )

    def _outlines(self, mask: np.ndarray, index: int) -> tuple[list[np.ndarray], list[str]]:
        lines, colours = [], []
        for structure in self.session.card.structures:
            if structure.value in self.session.hidden:
                continue
            inside = np.pad(structure_mask(self.session.card, mask, structure), 1)
            for contour in find_contours(inside.astype(np.uint8), 0.5):
                short = approximate_polygon(contour - 1, tolerance=0.4)
                if len(short) > 2:
                    lines.append(self.points(short, index))
                    colours.append(structure.colour)
        return lines, colours

    def zoomed(self) -> None:
        """Keep the lines as wide on the screen as they were."""
        for layer, width in zip(self.layers, (_THIN, _THICK), strict=False):
            shapes: Any = layer
            if shapes.data:
                shapes.edge_width = [width * self.pixel] * len(shapes.data)


class Curtain(Way):
    """Left of a line the source mask, right of it the adapted mask; the line can be dragged."""

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, session)
        self.place = 0.5
        self._mask = SliceLayer(
            self.viewer,
            self.scan,
            f"{self.scan.name} curtain",
            session.colours,
            session.scan_layer(),
            opacity=0.5,
            role="view",
        )
        self._line: Shapes | None = None
        self.follow_mouse()

    def show(self) -> None:
        """Draw both halves of the slice in view, and the line."""
        self.session.show_masks(source=False, adapted=False)
        index = self.context.in_view()
        source, adapted = self.masks(index)
        column = round(self.place * source.shape[1])
        both = np.array(adapted)
        both[:, :column] = source[:, :column]
        for value in self.session.hidden:
            both[both == value] = 0
        self._mask.show(index, both)
        if self._line is None or not alive(self.viewer, self._line):
            self._line = self.shapes("curtain line")
            self.kept(self._line)
        ends = np.array([[-0.5, column - 0.5], [source.shape[0] - 0.5, column - 0.5]])
        self._line.data = []
        self._line.add(
            [self.points(ends, index)],
            shape_type="line",
            edge_color=_LINE,
            edge_width=1.5 * self.pixel,
        )

    def zoomed(self) -> None:
        """Keep the line as wide on the screen as it was."""
        if self._line is not None and self._line.data:
            self._line.edge_width = [1.5 * self.pixel] * len(self._line.data)

    def move(self, by: float) -> None:
        """Move the line, as a share of the picture's width."""
        self.place = min(max(self.place + by, 0.0), 1.0)
        self.show()

    def end(self) -> None:
        """Take everything away."""
        self.let_mouse_go()
        remove_layers(self.viewer, [*self.layers, self._mask.layer])
        self.layers = []

    def mouse(self, event: Any) -> Iterator[None]:
        """Follow the mouse where it took hold of the line; everything else is napari's."""
        width = self.scan.mask_shape[-1]
        if abs(self._column(event) - self.place * width) > 8 * self.pixel:
            return
        event.handled = True
        yield
        while event.type == "mouse_move":
            self.place = min(max(self._column(event) / width, 0.0), 1.0)
            self.show()
            yield

    def _column(self, event: Any) -> float:
        layer: Any = self.session.scan_layer()
        if layer is None:
            return 0.0
        place = layer.world_to_data(event.position)
        return float(np.asarray(place)[len(self.scan.mask_shape) - 1])


class SideBySide(Way):
    """The slice twice: with the source mask at its place, with the adapted mask to the right."""

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, session)
        self._beside = round(self.scan.mask_shape[-1] * (1 + _GAP))
        self._mask = SliceLayer(
            self.viewer,
            self.scan,
            f"{self.scan.name} adapted, beside",
            session.colours,
            session.scan_layer(),
            contour=0 if session.filled else 2,
            opacity=0.45 if session.filled else 0.9,
            role="view",
            offset=(0.0, float(self._beside)),
        )

    def show(self) -> None:
        """Draw the second picture of the slice in view."""
        first = not self.layers
        if first:
            self._copy_scan()
        self.session.show_masks(source=True, adapted=False)
        index = self.context.in_view()
        _, adapted = self.masks(index)
        shown = np.array(adapted)
        for value in self.session.hidden:
            shown[shown == value] = 0
        self._mask.show(index, shown)
        if first:
            fit_view(self.viewer, [self.session.scan_layer(), *self.layers])

    def _copy_scan(self) -> None:
        layer: Any = self.session.scan_layer()
        if layer is None:
            return
        arguments = placement(self.scan, layer)
        arguments.pop("metadata", None)
        corner = np.zeros(len(self.scan.mask_shape))
        corner[-1] = self._beside
        arguments["translate"] = to_world_map(arguments, len(corner))(corner)
        copy = Image(
            layer.data,
            name=free_name(self.viewer, f"{self.scan.name}, beside"),
            rgb=layer.rgb,
            colormap=None if layer.rgb else layer.colormap,
            contrast_limits=layer.contrast_limits,
            metadata={KEY: {"role": "view"}},
            **arguments,
        )
        self.kept(copy)

    def end(self) -> None:
        """Take everything away, and look at the one picture again."""
        remove_layers(self.viewer, [*self.layers, self._mask.layer])
        self.layers = []
        fit_view(self.viewer, [self.session.scan_layer()])


class Planes(Way):
    """The two other planes through one place of a volume, beside the slice; a click moves it."""

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, session)
        rows, columns = self.scan.mask_shape[-2:]
        self.place = [rows // 2, columns // 2]
        self.follow_mouse()

    @staticmethod
    def why_not(session: Session) -> str:
        """Only volumes have other planes."""
        return "" if session.scan.is_stack else "Only a volume has three planes."

    def show(self) -> None:
        """Draw both other planes, and the lines that say where they lie."""
        first = not self.layers
        remove_layers(self.viewer, self.layers)
        self.layers = []
        self.session.show_masks(source=False, adapted=True)
        layer: Any = self.session.scan_layer()
        if layer is None:
            return
        rows, columns = self.scan.mask_shape[-2:]
        scale = np.asarray(layer.scale[-3:], dtype=float)
        origin = np.asarray(layer.translate[-3:], dtype=float)
        gap = _GAP * columns * scale[2]
        time = self.scan.slice_position(self.context.in_view())[:-1]
        image = layer.data[time] if time else layer.data
        masks = self.session.adapted.as_shown()
        masks = masks[time] if time else masks
        row, column = self.place
        right = origin[2] + columns * scale[2] + gap
        below = origin[1] + rows * scale[1] + gap
        # Sagittal to the right (rows down, slices across), coronal below (slices down).
        for name, plane, size, corner in (
            ("sagittal", lambda v: np.asarray(v[:, :, column]).T, (1, 0), (origin[1], right)),
            ("coronal", lambda v: np.asarray(v[:, row, :]), (0, 2), (below, origin[2])),
        ):
            spacing = scale[list(size)]
            self._plane(name, plane(image), plane(masks), spacing, corner, layer)
        at = self.scan.slice_position(self.context.in_view())[-1]
        # In pixels of the slice: to the right and below, slices are as far apart as they are thick.
        beside, under = at * scale[0] / scale[2], at * scale[0] / scale[1]
        margin = _GAP * columns
        lower, further = rows + margin * scale[2] / scale[1], columns + margin
        ends = (
            ((row, 0), (row, columns)),
            ((0, column), (rows, column)),
            ((0, further + beside), (rows, further + beside)),
            ((lower + under, 0), (lower + under, columns)),
        )
        lines = self.shapes("planes", last=2)
        lines.add(
            [np.array(end, dtype=float) for end in ends],
            shape_type="line",
            edge_color=_LINE,
            edge_width=self.pixel,
        )
        lines.opacity = 0.6
        self.kept(lines)
        if first:
            fit_view(self.viewer, [layer, *self.layers])

    def _plane(
        self,
        name: str,
        image: np.ndarray,
        mask: np.ndarray,
        scale: np.ndarray,
        corner: tuple[float, float],
        like: Any,
    ) -> None:
        from napari.layers import Labels

        from napari_grata.widgets.mask_layer import colormap

        shared = {
            "scale": scale,
            "translate": corner,
            "units": like.units[-2:],
            "metadata": {KEY: {"role": "view"}},
        }
        self.kept(
            Image(
                image,
                name=free_name(self.viewer, f"{self.scan.name} {name}"),
                colormap=like.colormap,
                contrast_limits=like.contrast_limits,
                **shared,
            )
        )
        labels = Labels(
            np.ascontiguousarray(mask),
            name=free_name(self.viewer, f"{self.scan.name} {name} mask"),
            colormap=colormap(self.session.colours),
            opacity=0.45 if self.session.filled else 0.9,
            **shared,
        )
        labels.contour = 0 if self.session.filled else 1
        labels.editable = False
        self.kept(labels)

    def end(self) -> None:
        """Take everything away, and look at the one slice again."""
        self.let_mouse_go()
        super().end()
        fit_view(self.viewer, [self.session.scan_layer()])

    def mouse(self, event: Any) -> Iterator[None]:
        """A click without a drag, on the slice, moves the place."""
        layer: Any = self.session.scan_layer()
        yield
        if event.type != "mouse_release" or layer is None or self.context.painting:
            return
        row, column = np.rint(np.asarray(layer.world_to_data(event.position))[-2:]).astype(int)
        if 0 <= row < self.scan.mask_shape[-2] and 0 <= column < self.scan.mask_shape[-1]:
            self.place = [int(row), int(column)]
            self.show()


WAYS: dict[str, type[Way]] = {
    "contours": Contours,
    "curtain": Curtain,
    "side_by_side": SideBySide,
    "planes": Planes,
}
