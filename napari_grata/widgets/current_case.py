"""The case in view and those beside it: read from the disk, put into the viewer, taken out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.review.adapt_list import in_words, keep_failure
from napari_grata.review.cases import ListError
from napari_grata.review.compare import flags_of_run
from napari_grata.scans import ScanError, open_scan
from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets.background import Found, Queue
from napari_grata.widgets.cases_panel import small_picture
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import made_here
from napari_grata.widgets.scan_layer import alive, camera_of, our_entry, remove_layers
from napari_grata.widgets.session import Session
from napari_grata.widgets.tasks import Region

if TYPE_CHECKING:
    from napari.layers import Image, Layer

    from napari_grata.adaptation import Flag, ReopenedRun
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

KEPT = 2
"""Cases in memory beside the one in view."""

# --- saved runs ----------------------------------------------------------------------------------


def load_run(folder: Path, scan: Scan | None) -> ReopenedRun:
    """Read a run folder; its file is closed, its masks and records are there all the same.

    Raises
    ------
    ValueError, OSError
        If it is no run folder, is damaged, or its scan cannot be found.
    """
    from napari_grata.adaptation import reopen

    with closing(reopen(folder, scan)) as run:
        if run.scan is None:
            raise ValueError(" ".join(run.missing))
    return run


def _show_run(
    context: Context,
    layer: Layer,
    scan: Scan,
    run: ReopenedRun,
    flags: dict[int, tuple[Flag, ...]],
) -> Session:
    """Choose the model of a saved run and make the run the results on this scan."""
    card, where = run.card, run.model_folder or run.folder
    context.add_entry(ModelEntry(card.name, card.title, where, "user", card))
    session = _new_session(context, layer, scan, card)
    if context.scan is not scan:
        session.show_masks(source=False, adapted=False)
    session.put_result(run, flags)
    return session


def _new_session(context: Context, layer: Layer, scan: Scan, card: Card) -> Session:
    if context.scan is scan:  # else it waits until the user comes back to it
        context.choose_model(card.name)
    return context.sessions.renew(layer, scan, card, context.store.get("filled"))


def show_saved_run(context: Context, folder: Path, scan: Scan | None = None) -> None:
    """Bring a saved run into the viewer: scan, masks, curves, table, settings; its steps follow.

    ``scan``: where it does not lie any more where the run found it.

    Raises
    ------
    ValueError, OSError
        If it cannot be read; the message says why.
    """
    run = load_run(folder, scan)
    assert run.scan is not None
    layer = context.add_scan(run.scan)
    session = _show_run(context, layer, run.scan, run, flags_of_run(run))
    session.reopened = run.info["started"][:16].replace("T", " ")
    session.note = " ".join(run.missing)
    context.choose_settings("", run.settings)
    context.take_results()
    context.show_mode("adapted")
    context.runner.revive(session, folder)


# --- reading cases -------------------------------------------------------------------------------


@dataclass
class LoadedCase:
    """A case in memory: its scan, the latest run on it, or why either cannot be had.

    Attributes
    ----------
    key : str
    scan : Scan or None
    run : ReopenedRun or None
    flags : dict of int to tuple of Flag
        Of its masks.
    contrast : (float, float) or None
        Grey values between which the scan is shown.
    picture : ndarray or None
        Small, shape (h, w, 3) uint8.
    problem : str
        Why there is no scan.
    notices : tuple of str
    choice : str
        As of `CaseSummary`.
    """

    key: str
    scan: Scan | None = None
    run: ReopenedRun | None = None
    flags: dict[int, tuple[Flag, ...]] = field(default_factory=dict)
    contrast: tuple[float, float] | None = None
    picture: np.ndarray | None = None
    problem: str = ""
    notices: tuple[str, ...] = ()
    choice: str = ""


def load_case(cases: CaseList, case: Case) -> LoadedCase:
    """Read a case's scan and the latest finished run on it; never raises for a bad file."""
    if not case.sources:
        return LoadedCase(case.key, problem="This scan came from no file and cannot be opened.")
    try:
        scan = open_scan(case.sources[0] if len(case.sources) == 1 else list(case.sources))
        middle = scan.read_slice(scan.n_slices // 2)
    except (ScanError, OSError) as error:
        _note_failure(cases, case, error)
        return LoadedCase(case.key, problem=str(error))
    except MemoryError:
        return LoadedCase(case.key, problem="There is not enough memory for this case.")
    loaded = LoadedCase(case.key, scan, picture=small_picture(middle))
    if not scan.rgb:
        low, high = scan.intensity_range(scan.case_of(scan.n_slices // 2), 0.001, 0.999)
        loaded.contrast = (min(low, 0.0), high) if np.isfinite([low, high]).all() else None
    cases.confirm(case.key, scan)
    summary = cases.summary(case.key)
    loaded.choice = summary.choice if summary is not None else ""
    folder = cases.work(case.key).run_folder
    if folder is not None:
        try:
            run = load_run(folder, scan)
            loaded.run, loaded.flags = run, flags_of_run(run)
        except (OSError, ValueError) as error:
            loaded.notices = (f"The masks of this case cannot be read: {error}",)
    return loaded


def _note_failure(cases: CaseList, case: Case, error: Exception) -> None:
    """Have the list say of a new case that it cannot be opened; adapting ahead tries it again."""
    if cases.writable and cases.summary(case.key) is None and not cases.missing(case):
        with suppress(ListError):
            keep_failure(cases, case, in_words(error, case))


class Prefetch(QObject):
    """Reads the neighbours of the case in view, and keeps no more than those.

    Signals
    -------
    ready(LoadedCase)
        A case that was wanted is in memory.
    """

    ready = Signal(object)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._cases: CaseList | None = None
        self._wanted: list[str] = []
        self._kept: dict[str, LoadedCase] = {}
        # By case, what its reading was asked for as: only the latest counts.
        self._reading: dict[str, tuple[str, int]] = {}
        self._turns = itertools.count()
        self.queue = Queue("prefetch", self, context.connections)
        self.queue.found.connect(self._take)

    def want(self, cases: CaseList, keys: Sequence[str | None]) -> None:
        """Have these cases read, the first one first; all others are let go of."""
        self._cases, self._wanted = cases, [key for key in keys if key is not None][:KEPT]
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._wanted}
        self._reading = {key: turn for key, turn in self._reading.items() if key in self._wanted}
        for key in self._wanted:
            if key not in self._kept and key not in self._reading:
                self._reading[key] = turn = key, next(self._turns)
                self.queue.ask(turn, partial(load_case, cases, cases.case(key)))
        self.queue.keep_only(self._reading.values())

    def take(self, key: str) -> LoadedCase | None:
        """Hand a case over that was read; it is not kept here any longer."""
        loaded = self._kept.pop(key, None)
        if loaded is not None:
            self._wanted.remove(key)
        return loaded

    def reads(self, key: str | None) -> bool:
        """Whether a case is wanted and not in memory yet."""
        return key in self._reading

    def drop(self, key: str) -> None:
        """Forget a case whose files are others now; one that is being read is read anew."""
        self._kept.pop(key, None)
        if self._reading.pop(key, None) is not None and self._cases is not None:
            self.want(self._cases, self._wanted)

    def _take(self, found: Found) -> None:
        key, _ = found.key
        if self._reading.get(key) != found.key:
            return
        del self._reading[key]
        loaded = found.result
        if found.error is not None:
            loaded = LoadedCase(key, problem=f"This case cannot be shown: {found.error}")
        self._kept[key] = loaded
        self.ready.emit(loaded)


# --- the case in view ----------------------------------------------------------------------------


class CurrentCase:
    """The case in view: puts it into the viewer, takes it out, and loses nothing that was drawn.

    Attributes
    ----------
    key : str or None
        Code of the case whose layers are in the viewer.
    scan : Scan or None
    run_folder : Path or None
        The run that is shown.
    choice : str
        As of `CaseSummary`, when it was read.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        # How the user looks at cases goes over from one to the next: the mode, and where shape and
        # spacing are the same, centre and zoom.
        self._mode = "adapted"
        self._grid: tuple[Any, Any] | None = None
        self._camera: tuple[tuple[float, ...], float] = (), 1.0
        self._places: dict[str, int] = {}
        self._segmented: dict[str, tuple[Card, Region | None, dict[int, np.ndarray]]] = {}
        self._layer: Image | None = None
        self.key: str | None = None
        self.scan: Scan | None = None
        self.run_folder: Path | None = None
        self.choice = ""

    @property
    def layer(self) -> Image | None:
        """The scan's layer, if it is still in the viewer."""
        return self._layer if alive(self._context.viewer, self._layer) else None

    def session(self) -> Session | None:
        """Return what the chosen model made of the case in view, if it is the one in view."""
        here = self.scan is not None and self._context.scan is self.scan
        return self._context.session if here else None

    def untouched(self, choice: str) -> bool:
        """Whether there is nothing of the user's own on the case in view.

        Nor a result, unless that was read before this ``choice`` was seen to.
        """
        older = self.run_folder is not None and choice != self.choice
        return not any(
            one.busy
            or one.adapted.edited()
            or one.drawn_slices
            or (not older and (one.segmented_slices or one.adapted_slices))
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
        self.choice = loaded.choice
        self._layer = context.add_scan(scan, fit=not same, **contrast)
        if loaded.run is not None:
            self.put_run(loaded.run, loaded.flags)
        if loaded.key in self._segmented:
            card, region, masks = self._segmented[loaded.key]
            session = self.session() if loaded.run is not None else None
            if session is None:
                session = _new_session(context, self._layer, scan, card)
                session.region = region
            if (session.card.name, session.region) == (card.name, region):
                for index in masks.keys() - session.segmented_slices:
                    session.put_source(index, masks[index])
                session.settle()
                context.take_results()
        if scan.n_slices > 1:
            place = self._places.get(loaded.key, scan.n_slices // 2)
            context.go_to(min(place, scan.n_slices - 1))
        if same:
            camera = camera_of(context.viewer)
            camera.center, camera.zoom = self._camera

    def put_run(self, run: ReopenedRun, flags: dict[int, tuple[Flag, ...]]) -> None:
        """Show a saved run on the case in view."""
        context, layer, scan = self._context, self.layer, self.scan
        if layer is None or scan is None:
            return
        session = _show_run(context, layer, scan, run, flags)
        context.runner.tell_result(session)
        session.note = f"{session.note} {' '.join(run.missing)}".strip()
        self.run_folder = run.folder
        if context.scan is not scan:
            return
        context.take_results()
        if run.adapted_masks:
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
        alone = session.segmented_slices - session.adapted_slices
        if alone:
            stack, scan = session.source.stack, session.scan
            masks = {i: scan.get_mask(stack, i).copy() for i in alone}
            self._segmented[key] = session.card, session.region, masks
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
