"""Connections to napari's events that one way of comparing makes, and undoes when it ends."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_grata.widgets.session import Session

# Whatever says that a layer's pixels, or the plane that is cut from them, are other ones.
DATA_EVENTS = ("data", "set_data", "paint", "labels_update")
LOOK_EVENTS = (
    "colormap",
    "contrast_limits",
    "gamma",
    "opacity",
    "scale",
    "translate",
    "rotate",
    "shear",
    "affine",
)


def follow(
    links: Links, session: Session, changed: Callable[..., None], looks: Callable[..., None]
) -> None:
    """Hear of changes to a session's masks, and of another look of its scan."""
    for mask in (session.before, session.after):
        if mask.layer is not None:
            links.listen_to(mask.layer, (*DATA_EVENTS, *LOOK_EVENTS), changed)
    scan = session.scan_layer()
    if scan is not None:
        links.listen_to(scan, LOOK_EVENTS, looks)


class Links:
    """Bound methods connected to emitters, until `cut`; both are held weakly."""

    def __init__(self) -> None:
        self._links: list[tuple[weakref.ref[Any], weakref.WeakMethod[Any]]] = []

    def listen(self, emitter: Any, method: Callable[..., Any]) -> None:
        """Connect a bound method."""
        emitter.connect(method)
        self._links.append((weakref.ref(emitter), weakref.WeakMethod(method)))

    def listen_to(self, layer: Any, names: tuple[str, ...], method: Callable[..., Any]) -> None:
        """Connect a bound method to those of a layer's events that this kind of layer has."""
        for name in names:
            emitter = getattr(layer.events, name, None)
            if emitter is not None:
                self.listen(emitter, method)

    def cut(self) -> None:
        """Undo all connections."""
        links, self._links = self._links, []
        for emitter_ref, method_ref in links:
            emitter, method = emitter_ref(), method_ref()
            if emitter is not None and method is not None:
                emitter.disconnect(method)
