"""The case in view: put into the viewer, taken out, and nothing that was drawn is lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.widgets.case_loading import KEPT, LoadedCase, LoadedRun, fill_session
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import made_here
from napari_grata.widgets.scan_layer import alive, camera_of, our_entry, remove_layers
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari.layers import Image, Layer

    from napari_grata.scans import Scan


class CurrentCase:
    """The case in view: puts it into the viewer, takes it out, and loses nothing that was drawn.

    Attributes
    ----------
    key : str or None
        Code of the case whose layers are in the viewer.
    scan : Scan or None
    run_folder : Path or None
        The run that is shown.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        # How the user looks at cases goes over from one to the next: the mode, and where shape and
        # spacing are the same, centre and zoom.
        self._mode = "adapted"
        self._grid: tuple[Any, Any] | None = None
        self._camera: tuple[tuple[float, ...], float] = (), 1.0
        self._places: dict[str, int] = {}
        self._segmented: dict[str, LoadedRun] = {}
        self._layer: Image | None = None
        self.key: str | None = None
        self.scan: Scan | None = None
        self.run_folder: Path | None = None

    @property
    def layer(self) -> Image | None:
        """The scan's layer, if it is still in the viewer."""
        return self._layer if alive(self._context.viewer, self._layer) else None

    def session(self) -> Session | None:
        """Return what the chosen model made of the case in view, if it is the one in view."""
        here = self.scan is not None and self._context.scan is self.scan
        return self._context.session if here else None

    def untouched(self) -> bool:
        """Whether there is nothing of the user's own on the case in view."""
        return not any(
            one.busy or one.segmented_slices or one.adapted_slices or one.adapted.edited()
            for one in self._context.sessions.of(self._layer)
        )

    def forget(self) -> None:
        """Forget how cases were looked at: the list closes."""
        self._mode, self._grid = "adapted", None
        self._places.clear()
        self._segmented.clear()

    def put(self, loaded: LoadedCase) -> None:
        """Show a case: its scan and, where there is a run, source and adapted masks."""
        context, scan = self._context, loaded.scan
        assert scan is not None
        contrast = {} if loaded.contrast is None else {"contrast_limits": loaded.contrast}
        same = self._grid == (scan.mask_shape, scan.geometry.spacing)
        self.key, self.scan, self.run_folder = loaded.key, scan, None
        self._layer = context.add_scan(scan, fit=not same, **contrast)
        run = loaded.run or self._segmented.get(loaded.key)
        if run is not None:
            self.put_run(run)
        if scan.n_slices > 1:
            place = self._places.get(loaded.key, scan.n_slices // 2)
            context.go_to(min(place, scan.n_slices - 1))
        if same:
            camera = camera_of(context.viewer)
            camera.center, camera.zoom = self._camera

    def put_run(self, run: LoadedRun) -> None:
        """Show a run on the case in view."""
        context, layer, scan = self._context, self.layer, self.scan
        if layer is None or scan is None:
            return
        session = fill_session(context, layer, scan, run)
        context.runner.tell_result(session)
        session.note = f"{session.note} {' '.join(run.missing)}".strip()
        self.run_folder = run.folder
        context.take_results()
        if run.adapted:
            context.show_mode(self._mode)

    def take_out(self) -> list[str]:
        """Remove the layers of the case in view; returns sentences about what was kept.

        Layers that the user added stay, and so does a mask that was drawn on and is not safe on
        the disk.
        """
        context, viewer, scan = self._context, self._context.viewer, self.scan
        if self.key is None or scan is None:
            return []
        context.look_back(None)
        context.set_painting(False)
        self._keep_sight()
        self._keep_segmented()
        context.leaving.emit()
        safe = not context.save_drawings()
        sessions = context.sessions.of(self._layer)
        kept: list[Layer] = []
        gone: list[Layer] = []
        for layer in reversed(viewer.layers):  # masks before the scan that they lie over
            if layer is self._layer:
                gone.append(layer)
            elif made_here(layer) and our_entry(layer).get("scan") is scan:
                (gone if _may_go(layer, sessions, safe) else kept).append(layer)
        context.undo.forget(sessions)
        for session in sessions:
            session.close_run()
        remove_layers(viewer, gone)
        self.key = self.scan = self.run_folder = self._layer = None
        return [
            f"“{layer.name}” was drawn on and is not saved with the case; it stays in the viewer."
            for layer in kept
        ]

    def _keep_segmented(self) -> None:
        """Keep source masks that no run holds for coming back; those of the last few cases."""
        session, key = self.session(), self.key
        if session is None or key is None:
            return
        self._segmented.pop(key, None)
        if session.segmented_slices and not session.adapted_slices:
            stack, scan = session.source.stack, session.scan
            masks = {i: scan.get_mask(stack, i).copy() for i in session.segmented_slices}
            self._segmented[key] = LoadedRun(
                scan, None, session.card, None, None, session.region, masks, {}, [], {}
            )
        for oldest in list(self._segmented)[:-KEPT]:
            del self._segmented[oldest]

    def _keep_sight(self) -> None:
        context = self._context
        if self.key is None or self.scan is None or self.layer is None:
            return
        if context.scan is self.scan:
            self._places[self.key] = context.in_view()
            self._mode = context.mode
        camera = camera_of(context.viewer)
        self._grid = self.scan.mask_shape, self.scan.geometry.spacing
        self._camera = tuple(camera.center), float(camera.zoom)


def _may_go(layer: Layer, sessions: list[Session], safe: bool) -> bool:
    for session in sessions:
        if layer is session.source.layer:
            return not session.source.edited()
        if layer is session.adapted.layer:
            return safe or not session.adapted.edited()
    role = our_entry(layer).get("role")
    if role in ("source", "adapted"):
        # The result was put beside it, since the user had drawn on it.
        return not np.any(layer.data)
    return safe or role != "edited"
