"""What is drawn over a scan to compare its two masks: contours, curtain, side by side, planes.

Each way is a few layers of napari's own, made when it begins and taken away when it ends. They
carry a role, so that nothing takes them for scans or masks; nobody can draw on them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Labels

from napari_grata.widgets.lines import DARK, Line, LineLayer, outlines
from napari_grata.widgets.mask_layer import SliceLayer, add_quietly, colormap, placement
from napari_grata.widgets.scan_layer import (
    KEY,
    camera_of,
    data_of,
    fit_view,
    free_name,
    grid_of,
    remove_layers,
)

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session

# Pixels of the screen: source thin and dashed, adapted thick, so that no colour is needed to tell.
_THIN, _THICK, _RIM = 1.6, 3.0, 1.6
_GRIP = 8  # how far from the curtain's line the mouse takes hold of it
_GAP = 0.06  # between planes, as a share of the slice's width
_WHITE, _YELLOW = "#FFFFFF", "#F0E442"
_LOOKS = ("contrast_limits", "gamma", "colormap", "interpolation2d")
_NAMES = {
    frozenset({"superior", "inferior"}): "axial",
    frozenset({"anterior", "posterior"}): "coronal",
    frozenset({"left", "right"}): "sagittal",
}


class Way:
    """One way of comparing."""

    words = ""

    def __init__(self, context: Context, session: Session) -> None:
        self.context, self.session = context, session
        self.viewer, self.scan = context.viewer, session.scan
        self.scan_layer: Any = session.scan_layer()
        self.hidden = set(session.hidden)
        self.colours = session.shown_colours
        self.layers: list[Layer] = []
        self.lines: list[LineLayer] = []
        self._linked: list[Layer] = []
        self._mouse: Callable[[Any, Any], Iterator[None]] | None = None

    @staticmethod
    def why_not(session: Session) -> str:
        """Return why a scan cannot be seen in this way, "" if it can."""
        return ""

    def show(self) -> None:
        """Bring the slice in view up to date."""
        raise NotImplementedError

    def moved(self) -> None:
        """The camera looks elsewhere."""

    def zoomed(self) -> None:
        """The zoom is another one: keep lines as wide on the screen as they were."""
        for lines in self.lines:
            lines.zoomed()

    def end(self) -> None:
        """Take everything away."""
        if self._mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._mouse)
        if self._linked:
            unlink_layers(self._linked)
        layers, self.layers = self.layers, []
        remove_layers(self.viewer, layers)

    # --- for those that follow -----------------------------------------------------------------

    @property
    def index(self) -> int:
        """The slice in view."""
        return self.context.in_view()

    def name(self, what: str) -> str:
        """Return the name of a layer of ours."""
        return free_name(self.viewer, f"{self.scan.name} {what}")

    def placement(self) -> dict[str, Any]:
        """Return layer arguments that put something over the scan."""
        arguments = placement(self.scan, self.scan_layer)
        arguments.pop("metadata", None)
        return arguments

    def slice_mask(self, what: str, label_map: np.ndarray) -> SliceLayer:
        """Show a mask (H, W) on the slice in view, in the way of the masks themselves."""
        made = SliceLayer(
            self.viewer,
            self.scan,
            f"{self.scan.name} {what}",
            self.colours,
            self.scan_layer,
            contour=0 if self.session.filled else 1,
            opacity=self.session.opacity,
            role="view",
        )
        made.show(self.index, label_map)
        assert made.layer is not None
        self.layers.append(made.layer)
        return made

    def keep(self, layer: Layer) -> None:
        """Put a layer in, above all others, and take it away at the end."""
        layer.editable = False
        add_quietly(self.viewer, layer)
        self.layers.append(layer)

    def look_alike(self, copies: list[Image]) -> None:
        """Have pictures follow the contrast and colours that the user gives the scan."""
        looks = _LOOKS[3:] if self.scan_layer.rgb else _LOOKS
        for copy in copies:
            for look in looks:
                setattr(copy, look, getattr(self.scan_layer, look))
        self._linked = [self.scan_layer, *copies]
        link_layers(self._linked, looks)

    def follow_mouse(self) -> None:
        """Have `mouse` called for presses on the canvas; the viewer holds this way weakly."""
        weak = weakref.ref(self)

        def pressed(_viewer: Any, event: Any) -> Iterator[None]:
            way = weak()
            if way is not None and event.button == 1 and not way.context.painting:
                yield from way.mouse(event)

        self._mouse = pressed
        self.viewer.mouse_drag_callbacks.append(pressed)

    def mouse(self, event: Any) -> Iterator[None]:
        """What a press of the mouse does, as napari's drag callbacks."""
        yield

    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return source and adapted mask of the slice in view, each of shape (H, W)."""
        session, index = self.session, self.index
        source, adapted = (
            self.scan.get_mask(mask.in_use(), index) for mask in (session.source, session.adapted)
        )
        return source, adapted

    def column(self, world: Any) -> float:
        """Return the scan's column at a point of the world."""
        return float(self.scan_layer.world_to_data(world)[len(self.scan.mask_shape) - 1])

    @property
    def world_pixel(self) -> float:
        """Length of a pixel of the screen, in the world."""
        return 1.0 / max(float(camera_of(self.viewer).zoom), 1e-6)

    @property
    def pixel(self) -> float:
        """Length of a pixel of the screen, in pixels of the scan."""
        return self.world_pixel / float(self.scan_layer.scale[-1])


class Contours(Way):
    """Outlines of both masks of the slice in view, as wide on the screen at any zoom."""

    words = "thin, dashed: before · thick: after"

    def show(self) -> None:
        """Draw the outlines of the slice in view."""
        if not self.lines:
            self.session.show_masks(source=False, adapted=False)
            self.lines = [
                LineLayer(self, "contours after, rim", _THICK + _RIM),
                LineLayer(self, "contours after", _THICK),
                LineLayer(self, "contours before", _THIN, dashes=True),
            ]
        before, after = (outlines(self.session.card, mask, self.hidden) for mask in self.masks())
        rim = [(points, DARK) for points, _ in after]
        for layer, lines in zip(self.lines, (rim, after, before), strict=True):
            layer.draw(lines)


class Curtain(Way):
    """Left of a line the source mask, right of it the adapted mask; the line can be dragged.

    The line keeps its place on the screen while the picture is moved or zoomed.
    """

    words = "left of the line: before · right of it: after"

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, session)
        self._offset = 0.0  # of the line from the middle of the canvas, in pixels of the screen
        self._masks = self.masks()
        self._mask: SliceLayer | None = None
        self.follow_mouse()

    def show(self) -> None:
        """Draw both halves of the slice in view, and the line."""
        self._masks = self.masks()
        self.moved()

    @property
    def place(self) -> int:
        """The column of the scan at which the line stands."""
        wide = self.scan.mask_shape[-1]
        return round(min(max(self._middle() + self._offset * self.pixel, 0), wide))

    def move(self, by: float) -> None:
        """Move the line by pixels of the screen."""
        self._go_to(self.place + by * self.pixel)

    def _go_to(self, column: float) -> None:
        self._offset = (column - self._middle()) / self.pixel
        self.moved()

    def _middle(self) -> float:
        point = np.array(self.viewer.dims.point, dtype=float)
        point[-2:] = camera_of(self.viewer).center[-2:]
        return self.column(point)

    def moved(self) -> None:
        """Cut the masks where the line is now."""
        source, adapted = self._masks
        place, tall = self.place, source.shape[0]
        both = np.array(adapted)
        both[:, :place] = source[:, :place]
        if self._mask is None:
            self.session.show_masks(source=False, adapted=False)
            self._mask = self.slice_mask("curtain", both)
            self.lines = [LineLayer(self, "curtain line", 2.0, dashes=True)]
        else:
            self._mask.show(self.index, both)
        ends = np.array([[-0.5, place - 0.5], [tall - 0.5, place - 0.5]])
        self.lines[0].draw([(ends, _WHITE)])

    def zoomed(self) -> None:
        """Keep the line where it is on the screen."""
        self.moved()

    def mouse(self, event: Any) -> Iterator[None]:
        """Follow the mouse where it took hold of the line; everything else is napari's."""
        if abs(self.column(event.position) - self.place) > _GRIP * self.pixel:
            return
        event.handled = True
        yield
        while event.type == "mouse_move":
            event.handled = True
            self._go_to(self.column(event.position))
            yield


class SideBySide(Way):
    """The slice twice, in two cells of napari's grid that move together."""

    words = "left: before · right: after"

    def show(self) -> None:
        """Show the slice in view in both cells."""
        grid, after = grid_of(self.viewer), self.masks()[1]
        if self.layers:
            self._mask.show(self.index, after)
        else:
            self._begin(after)
        # All layers below the copy are in the left cell, the copy and its mask in the right one.
        stride = min(self.viewer.layers.index(self.layers[0]), 50)  # the most napari allows
        if grid.stride != stride:
            grid.stride = stride
        if not grid.enabled:
            self._split(grid)
        self.zoomed()

    def _begin(self, after: np.ndarray) -> None:
        """Put in the second picture and its mask."""
        grid = grid_of(self.viewer)
        self._before = grid.shape, grid.stride
        self.session.show_masks(source=True, adapted=False)
        copy = Image(
            self.scan_layer.data,
            rgb=self.scan_layer.rgb,
            name=self.name("beside"),
            metadata={KEY: {"role": "view"}},
            **self.placement(),
        )
        self.keep(copy)
        self.look_alike([copy])
        self._mask = self.slice_mask("after, beside", after)

    def _split(self, grid: Any) -> None:
        """Switch the grid on, and zoom out by as much as a whole picture has less room then."""
        camera = camera_of(self.viewer)
        centre, zoom = camera.center, camera.zoom
        fit_view(self.viewer, [self.scan_layer])
        whole = camera.zoom
        grid.shape, grid.enabled = (1, 2), True
        fit_view(self.viewer, [self.scan_layer], columns=2)
        self._factor = float(camera.zoom / whole)
        camera.center, camera.zoom = centre, zoom * self._factor

    def zoomed(self) -> None:
        """Draw the contour as wide as that of the mask itself."""
        layer, like = self._mask.layer, self.session.source.layer
        if layer is not None and like is not None and layer.contour != like.contour:
            layer.contour = like.contour

    def end(self) -> None:
        """Take everything away, and let the one picture have all the room."""
        grid, camera = grid_of(self.viewer), camera_of(self.viewer)
        super().end()
        if grid.enabled:
            grid.enabled = False
            camera.zoom /= self._factor
        grid.shape, grid.stride = self._before


class Planes(Way):
    """The two other planes through one place of a volume, beside the slice; a click goes there."""

    def __init__(self, context: Context, session: Session) -> None:
        super().__init__(context, session)
        self._axes = self.scan.geometry.axis_labels[-3:]
        # As people know it: superior (or anterior) is up.
        self._turned = self._axes[0] in ("superior", "anterior")
        camera = camera_of(self.viewer)
        self._view = camera.center, camera.zoom
        rows, columns = self.scan.mask_shape[-2:]
        self._place = [rows // 2, columns // 2]
        names = [
            next((name for pair, name in _NAMES.items() if axis in pair), f"across “{axis}”")
            for axis in self._axes
        ]
        self.words = f"{' · '.join(names)}: click in one to go there"
        self._cells: list[tuple[Image, Labels]] = []
        self.follow_mouse()

    @staticmethod
    def why_not(session: Session) -> str:
        """Only volumes have other planes."""
        return "" if session.scan.is_stack else "Only a volume has three planes."

    def show(self) -> None:
        """Draw both other planes, and the lines that say where they lie."""
        planes = self._planes()
        if not self._cells:
            self.session.show_masks(source=False, adapted=True)
            for axis, (picture, mask) in zip((1, 2), planes, strict=True):
                self._cells.append(self._cell(axis, picture, mask))
            self.look_alike([picture for picture, _ in self._cells])
            self.lines = [LineLayer(self, "planes", 1.0, flat=True)]
            self.lines[0].layer.opacity = 0.75
            fit_view(self.viewer, [self.scan_layer, *(cell[0] for cell in self._cells)])
        for cell, plane in zip(self._cells, planes, strict=True):
            for layer, now in zip(cell, plane, strict=True):
                if not np.array_equal(layer.data, now):
                    layer.data = now
        self._draw_cross()
        self.zoomed()

    def _planes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return picture and mask of both planes, as they are seen."""
        time = self.scan.slice_position(self.index)[:-1]
        row, column = self._place
        stacks = data_of(self.scan_layer), self.session.adapted.in_use()
        found = []
        for where in ((slice(None), row), (slice(None), slice(None), column)):
            cut = [np.asarray(stack[time][where]) for stack in stacks]
            picture, mask = (plane[::-1] if self._turned else plane for plane in cut)
            found.append((picture, np.ascontiguousarray(mask)))
        return found

    def _cell(self, axis: int, picture: np.ndarray, mask: np.ndarray) -> tuple[Image, Labels]:
        """Put a plane in beside what is there, at half its height."""
        _, across, _ = self._box(axis)
        shared = {
            "scale": across,
            "translate": self._box(axis)[0],
            "units": self.scan_layer.units[-2:],
            "metadata": {KEY: {"role": "view"}},
        }
        name = self.words.split(":")[0].split(" · ")[axis]
        image = Image(picture, name=self.name(name), **shared)
        labels = Labels(
            mask,
            name=self.name(f"{name} mask"),
            colormap=colormap(self.colours),
            opacity=self.session.opacity,
            **shared,
        )
        labels.contour = 0 if self.session.filled else 1
        self.keep(image)
        self.keep(labels)
        return image, labels

    def _box(self, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return first pixel's place, spacing and size of a cell, each (y, x) in the world."""
        scale = np.asarray(self.scan_layer.scale[-3:], dtype=float)
        origin = np.asarray(self.scan_layer.translate[-3:], dtype=float)
        count = np.array(self.scan.mask_shape[-3:])
        size = count * scale
        other = 3 - axis  # the axis that runs across in the cell
        gap = _GAP * size[2]
        x = origin[2] + size[2] + gap + (size[2] + gap if axis == 2 else 0)
        y = origin[1] + (size[1] - size[0]) / 2
        return np.array([y, x]), scale[[0, other]], count[[0, other]]

    def _draw_cross(self) -> None:
        """Draw in each plane where the others cut it."""
        position = self.scan.slice_position(self.index)
        at = np.array([position[-1], *self._place])
        depth = self.scan.mask_shape[-3]
        scale = np.asarray(self.scan_layer.scale[-2:], dtype=float)
        origin = np.asarray(self.scan_layer.translate[-2:], dtype=float)
        boxes = [(origin, scale, np.array(self.scan.mask_shape[-2:]), at[1:])]
        for axis in (1, 2):
            down = depth - 1 - at[0] if self._turned else at[0]
            boxes.append((*self._box(axis), np.array([down, at[3 - axis]])))
        lines: list[Line] = []
        for first, step, count, place in boxes:
            low, high, here = first, first + step * (count - 1), first + step * place
            lines += [
                (np.array([[here[0], low[1]], [here[0], high[1]]]), _YELLOW),
                (np.array([[low[0], here[1]], [high[0], here[1]]]), _YELLOW),
            ]
        self.lines[0].draw(lines)

    def end(self) -> None:
        """Take everything away, and look at the one slice again."""
        super().end()
        camera = camera_of(self.viewer)
        camera.center, camera.zoom = self._view

    def mouse(self, event: Any) -> Iterator[None]:
        """A click without a drag, in any of the planes, goes there."""
        yield
        if event.type != "mouse_release":
            return
        world = np.asarray(event.position, dtype=float)
        inside = np.asarray(self.scan_layer.world_to_data(world))[-2:]
        self._go(1, 2, inside, np.array(self.scan.mask_shape[-2:]))
        for axis in (1, 2):
            first, step, count = self._box(axis)
            self._go(0, 3 - axis, (world[-2:] - first) / step, count)

    def _go(self, down: int, across: int, point: np.ndarray, count: np.ndarray) -> None:
        """Go to a point of a plane, if it lies within."""
        place = np.rint(point).astype(int)
        if (place < 0).any() or (place >= count).any():
            return
        if down == 0:
            depth = int(count[0])
            index = depth - 1 - int(place[0]) if self._turned else int(place[0])
            time = self.scan.slice_position(self.index)[:-1]
            self.context.go_to(self.scan.slice_index((*time, index)))
        else:
            self._place[0] = int(place[0])
        self._place[across - 1] = int(place[1])
        self.show()


WAYS: dict[str, type[Way]] = {
    "contours": Contours,
    "curtain": Curtain,
    "side_by_side": SideBySide,
    "planes": Planes,
}


class Caption:
    """Words in the corner of the canvas; what the user has napari show there stays.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._mine = ""

    @property
    def _text(self) -> Any:
        canvas = getattr(self._viewer, "canvas", None)  # since napari 0.9
        return self._viewer.text_overlay if canvas is None else canvas.overlays.text

    def say(self, words: str) -> None:
        """Show these words, "" for none."""
        text = self._text
        if words == self._mine or (text.visible and text.text != self._mine):
            return
        self._mine = words
        text.position = "bottom_left"
        text.text, text.visible = words, bool(words)
