"""The layer that shows one slice's mask as it was after a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.transforms import Affine

from napari_grata.widgets.layers import KEY, alive, colormap, free_name, placement
from napari_grata.widgets.session import Session, contour_width


class StepLayer:
    """One slice thick, and moved to the slice that it shows; nobody can draw on it.

    A stack of the whole scan would cost a copy of it for every slice shown, which for a list of
    photographs is more than the adaptation itself.

    Parameters
    ----------
    session : Session
        Whose scan it lies over.
    """

    def __init__(self, session: Session) -> None:
        self._viewer = session.viewer
        self._scan = session.scan
        self._filled = session.filled
        self._colours = session.colours
        arguments = placement(session.scan, session.scan_layer())
        self._metadata = dict(arguments.pop("metadata", {}))
        self._arguments = arguments
        self._to_world = _linear(arguments, len(session.scan.mask_shape))
        self._shown: tuple[int, np.ndarray] | None = None
        self.layer: Labels | None = None

    @property
    def shown(self) -> bool:
        """Whether the layer is in the viewer."""
        return alive(self._viewer, self.layer)

    def show(self, slice_index: int, label_map: np.ndarray) -> None:
        """Show a mask, shape (H, W), on a slice."""
        position = self._scan.slice_position(slice_index)
        data = label_map.reshape(*(1 for _ in position), *label_map.shape)
        corner = np.array([*position, 0, 0], dtype=float)
        translate = np.asarray(self._to_world(corner), dtype=float)
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
        metadata = {**self._metadata}
        metadata[KEY] = {**metadata.get(KEY, {}), "scan": self._scan, "role": "step"}
        layer = Labels(
            data.copy(),
            name=free_name(self._viewer, f"{self._scan.name} step"),
            opacity=0.45 if self._filled else 0.9,
            colormap=colormap(self._colours),
            metadata=metadata,
            **{**self._arguments, "translate": translate},
        )
        layer.contour = 0 if self._filled else 2 * contour_width(self._scan)
        # What would be drawn on it would be gone with the next step.
        layer.editable = False
        # The person may be at work on another layer: it stays the active one.
        active = self._viewer.layers.selection.active
        self._viewer.add_layer(layer)
        if active is not None:
            self._viewer.layers.selection.active = active
        return layer


def _linear(arguments: dict[str, Any], ndim: int) -> Affine:
    """Return the map from pixels of the stack to where ``translate`` counts from."""
    parts = {name: arguments.get(name) for name in ("scale", "translate", "rotate", "shear")}
    return Affine(ndim=ndim, **{name: part for name, part in parts.items() if part is not None})
