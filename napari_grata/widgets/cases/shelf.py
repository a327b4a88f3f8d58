"""Puts a case into the viewer and takes it out again, and loses nothing that was drawn."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets import candidates, showing, words
from napari_grata.widgets.cases.loading import LoadedCase, LoadedRun, SetAside
from napari_grata.widgets.layers import KEY, alive, made_here
from napari_grata.widgets.viewer_parts import camera_of

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_grata.scans import Scan
    from napari_grata.widgets.session import Session


@dataclass
class _Sight:
    """How the person looks at cases: what goes over from one to the next."""

    shape: tuple[int, ...] = ()
    spacing: Any = None
    centre: tuple[float, ...] = ()
    zoom: float = 1.0
    scan_visible: bool = True
    masks_visible: tuple[bool, bool] | None = None
    difference: str | None = None
    way: str | None = None


class Shelf:
    """The case in view: its layers, and how they are looked at.

    Parameters
    ----------
    dock : GrataDock

    Attributes
    ----------
    key : str or None
        Code of the case whose layers are in the viewer.
    scan : Scan or None
    run_folder : Path or None
        The run that is shown.
    """

    def __init__(self, dock: Any) -> None:
        self._dock = dock
        self._sight = _Sight()
        self._places: dict[str, int] = {}
        self._aside: dict[str, SetAside] = {}
        self._layer: Image | None = None
        self._read: Path | None = None  # the run that was the latest when the case was read
        self.key: str | None = None
        self.scan: Scan | None = None
        self.run_folder: Path | None = None

    @property
    def layer(self) -> Image | None:
        """The scan's layer, if it is still in the viewer."""
        return self._layer if alive(self._dock.viewer, self._layer) else None

    def session(self) -> Session | None:
        """Return what the chosen model made of the case in view, if it is the one in view."""
        desk = self._dock.desk
        return desk.session if self.scan is not None and desk.scan is self.scan else None

    def untouched(self) -> bool:
        """Whether there is nothing of the person's own on the case in view."""
        sessions = self._dock.desk.sessions.of(self._layer)
        return not any(
            session.busy
            or session.segmented
            or session.adapted
            or session.before.edited()
            or session.after.edited()
            for session in sessions
        )

    def choose_again(self) -> None:
        """Bring the case in view back to the dock where another scan was chosen meanwhile."""
        layer = self.layer
        if layer is not None and self._dock.desk.layer is not layer:
            self._dock.scan.choose(layer)

    def forget(self) -> None:
        """Forget how cases were looked at, and what was set aside of them: the list closes."""
        self._sight = _Sight()
        self._places.clear()
        self._aside.clear()

    # --- putting in ----------------------------------------------------------------------------

    def put(self, loaded: LoadedCase) -> Session | None:
        """Show a case: its scan and, where there is a run, the masks before and after."""
        dock, viewer, scan = self._dock, self._dock.viewer, loaded.scan
        assert scan is not None
        sight = self._sight
        arguments = scan.layer_kwargs()
        if loaded.contrast is not None:
            arguments["contrast_limits"] = loaded.contrast
        layer = viewer.add_image(scan.data, visible=sight.scan_visible, **arguments)
        self._layer, self.key, self.scan = layer, loaded.key, scan
        self.run_folder = None
        dock.desk.problem = None
        self._choose(layer)
        run = loaded.run
        aside = self._aside.pop(loaded.key, None)
        self._read = None if run is None else run.folder
        if aside is not None and aside.older_run == self._read:
            # Otherwise the case has been adapted since.
            run = aside.run(scan)
        session = self._fill(layer, run) if run is not None else None
        self._go_back(loaded.key, scan)
        self._take_up(session, sight)
        if sight.shape == scan.mask_shape and sight.spacing == scan.geometry.spacing:
            camera_of(viewer).center, camera_of(viewer).zoom = sight.centre, sight.zoom
        else:
            viewer.reset_view()
        return session

    def put_run(self, run: LoadedRun) -> Session | None:
        """Show a run that has come to its end on the case in view."""
        if self._layer is None or self.layer is None:
            return None
        self._read = run.folder
        session = self._fill(self._layer, run)
        self._take_up(session, self._sight)
        return session

    def _choose(self, layer: Image) -> None:
        """Choose a layer in the dock, as one change."""
        dock = self._dock
        dock.scan.combo.blockSignals(True)
        dock.scan.set_layers(candidates.scan_layers(dock.viewer))
        dock.scan.choose(layer)
        dock.scan.combo.blockSignals(False)
        dock.choosing.choose()

    def _fill(self, layer: Image, run: LoadedRun) -> Session:
        dock, desk = self._dock, self._dock.desk
        entries = dock.model.entries()
        if not any(entry.name == run.card.name and entry.card for entry in entries):
            where = run.model_folder or run.folder or Path()
            entries.append(ModelEntry(run.card.name, run.card.title, where, "user", run.card))
            dock.model.set_entries(entries, run.card.name)
        elif dock.model.entry() is None or dock.model.entry().name != run.card.name:
            dock.model.blockSignals(True)
            dock.model.choose(run.card.name)
            dock.model.blockSignals(False)
        session: Session = desk.sessions.renew(layer, desk.scan, run.card, filled=desk.filled)
        session.region, session.settings = run.region, run.settings
        session.segmented, session.adapted = set(run.segmented), set(run.adapted)
        session.before.stack, session.after.stack = run.before, run.after
        session.stream, session.flags = run.records, dict(run.flags)
        session.taken_step = run.step
        # The masks are in the case's folder already.
        session.saved = run.folder is not None
        if run.adapted:
            session.note, session.note_tone = words.summary(session)
        if run.missing:
            session.note = f"{session.note} {' '.join(run.missing)}"
        for mask, there in ((session.before, run.segmented), (session.after, run.adapted)):
            if there:
                mask.ensure()
        if run.adapted:
            session.show_after(True)
        self.run_folder = run.folder
        dock.choosing.choose()
        showing.show_session(dock)
        desk.session_changed.emit()
        desk.changed.emit()
        return session

    def _go_back(self, key: str, scan: Scan) -> None:
        """Bring into view the slice that was, or the middle one."""
        desk = self._dock.desk
        if scan.n_slices > 1 and desk.scan is scan:
            desk.go_to(min(self._places.get(key, scan.n_slices // 2), scan.n_slices - 1))

    def _take_up(self, session: Session | None, sight: _Sight) -> None:
        """Look at this case as at the one before."""
        if session is None or not session.adapted:
            return
        if sight.masks_visible is not None:
            session.before.visible, session.after.visible = sight.masks_visible
        if sight.difference is not None and sight.difference in (
            "",
            *(structure.name for structure in session.card.structures),
        ):
            session.show_difference(sight.difference)
        compare = getattr(self._dock, "compare", None)
        if sight.way is not None and compare is not None and compare.way is None:
            compare.toggle(sight.way)

    # --- taking out ----------------------------------------------------------------------------

    def keep_sight(self) -> None:
        """Remember how the case in view is looked at."""
        dock, viewer, sight = self._dock, self._dock.viewer, self._sight
        session, layer = self.session(), self.layer
        if self.key is None or self.scan is None or layer is None:
            return
        if dock.desk.scan is self.scan:
            self._places[self.key] = dock.desk.in_view()
        sight.shape, sight.spacing = self.scan.mask_shape, self.scan.geometry.spacing
        sight.centre, sight.zoom = tuple(camera_of(viewer).center), float(camera_of(viewer).zoom)
        sight.scan_visible = bool(layer.visible)
        compare = getattr(dock, "compare", None)
        sight.way = compare.way if compare is not None else None
        if compare is not None and sight.way is not None:
            compare.toggle(sight.way)
        if session is not None and session.adapted:
            sight.masks_visible = session.before.visible, session.after.visible
            sight.difference = session.difference_of

    def take_out(self) -> list[str]:
        """Remove the layers of the case in view; returns sentences about what was kept.

        Layers that the person added stay, and so does a mask that was drawn on and is not safe
        on the disk.
        """
        if self.key is None or self.scan is None:
            return []
        dock, viewer, scan = self._dock, self._dock.viewer, self.scan
        dock.steps.leave()
        self.keep_sight()
        safe = self._save_drawings()
        sessions = dock.desk.sessions.of(self._layer)
        kept: list[Any] = []
        gone: list[Any] = []
        for layer in viewer.layers:
            if layer is self._layer:
                gone.append(layer)
            elif made_here(layer) and layer.metadata.get(KEY, {}).get("scan") is scan:
                (gone if self._may_go(layer, sessions, safe) else kept).append(layer)
        chosen = self.session()
        if chosen is not None and (self.run_folder is None or not chosen.saved):
            self._set_aside(chosen)
        for session in sessions:
            session.close_run()
        for layer in gone:
            with suppress(ValueError):
                viewer.layers.remove(layer)
        self.key = self.scan = self.run_folder = None
        self._layer = None
        return [
            f"“{layer.name}” was drawn on and is not saved with the case; it stays in the viewer."
            for layer in kept
        ]

    def _save_drawings(self) -> bool:
        decide = getattr(self._dock, "decide", None)
        save = getattr(decide, "save_edits", None)
        if save is None:
            return False
        return save() is not False

    def _set_aside(self, session: Session) -> None:
        """Keep masks that lie in no run folder until the person comes back to them."""
        if self.key is not None and (session.segmented or session.adapted):
            self._aside[self.key] = SetAside.of(session, self.run_folder or self._read)

    @staticmethod
    def _may_go(layer: Any, sessions: list[Session], safe: bool) -> bool:
        role = layer.metadata.get(KEY, {}).get("role")
        for session in sessions:
            if layer is session.before.layer:
                return not session.before.edited()
            if layer is session.after.layer:
                return safe or not session.after.edited()
        if role in ("source", "grata"):
            # The result was put beside it, since the person had drawn on it.
            return not np.any(layer.data)
        return safe or role != "edited"
