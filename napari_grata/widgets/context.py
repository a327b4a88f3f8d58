"""The context of the interface: chosen scan and model, session, runner, undo, and what is shown.

Every section gets the one `Context` of its viewer and knows nothing else: it reads what it needs
here, listens to the signals, and asks for what it wants done.
"""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QWidget

from napari_grata.adaptation.plan import SlicesError, parse_slices
from napari_grata.adaptation.settings import PRESETS, Settings
from napari_grata.segmenters.registry import ModelEntry, list_models
from napari_grata.widgets.background import Queue
from napari_grata.widgets.connections import ClosingWatch, EventConnections
from napari_grata.widgets.keys import Actions
from napari_grata.widgets.qt_parts import later, notify
from napari_grata.widgets.reviewed import ReviewedMasks
from napari_grata.widgets.runner import Runner
from napari_grata.widgets.scan_layer import (
    alive,
    current_slice,
    fit_view,
    hold_canvas,
    is_turned,
    lend_units,
    of_other_scans,
    scan_layers,
    show_slice,
    take_own_units,
)
from napari_grata.widgets.session import Session, Sessions
from napari_grata.widgets.slice_figures import SliceFigures
from napari_grata.widgets.state import Displayed
from napari_grata.widgets.store import SettingsStore
from napari_grata.widgets.tasks import Region
from napari_grata.widgets.theme import ThemeColours, theme_colours
from napari_grata.widgets.undo import UndoStack

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.scans import Scan
    from napari_grata.segmenters import DeviceChoice
    from napari_grata.widgets.cases import Cases
_TURNED = (
    "No slice of the scan is in view, for the axes are turned or shown in 3-D. Turn them back, or "
    "decide on the whole case."
)


class Context(QObject):
    """What all sections share.

    Parameters
    ----------
    viewer : Viewer
    widget : QWidget
        The dock: over it dialogs appear, with its end everything ends.

    Attributes
    ----------
    store : SettingsStore
    sessions : Sessions
    runner : Runner
        What is run on the scan in view.
    queue : Queue
        For small work in the background; keys are tuples that begin with the section's name.
    undo : UndoStack
    actions : Actions
    layer : Layer or None
    scan : Scan or None
    entries : list of ModelEntry
    entry : ModelEntry or None
        The chosen model.
    device : str
    devices : list of DeviceChoice or None
        Where models can run; None until torch is loaded.
    settings : Settings
    preset : str
    slices_text : str
        Which slices to work on, as the user typed it.
    region : Region or None
    run_parent : str
        Folder in which runs are kept; "" where they are not.
    mode : str
        How masks are shown: "source", "adapted", "difference", "contours", "curtain",
        "side_by_side" or "planes".
    step : int or None
        The step of the run that is looked back at; None: the result.
    caselist : CaseList or None
    case : Case or None
        The case in view, where the scan belongs to an open list.
    decision_list : (CaseList, str) or None
        The list in which decisions on the scan in view are kept, and its key there; a scan that
        was opened by itself has a list of its own.
    flow : Cases or None
        The list of cases, for what other sections ask of it.
    save_drawings : callable
        Writes what was drawn, at once; returns why that failed, "" if it did not.
    decided : str
        What is decided on the scan in view, in words.
    done : bool
        Whether it is decided on as a whole.
    implausible, shift : str
        What is known of the scan, in words.
    problem, details : str
        What went wrong last, until the next action; its trace.
    theme : ThemeColours
    painting : bool
        Whether the user has the brush on the adapted mask: it is shown filled then.
    brush : int
        Label value that the brush paints; 0 erases.
    decision_marks : dict of int to str
        Verdict by slice, for marks in tables and strips.
    figures : SliceFigures
        What the masks of each slice measure, before and after.
    reviewed : ReviewedMasks
        Which masks the user calls right.

    Signals
    -------
    changed()
        Controls may be live or dead now: read `facts`. Comes once after all changes of a moment.
    scan_changed(), model_changed(), settings_changed(), region_changed()
        Another one is chosen.
    session_changed()
        Another session is in view, or this one holds wholly new results: draw all anew.
    masks_changed(object)
        Masks or flags of the session in view are others: a set of slices, or None for all.
    drawn(int)
        The user painted on the adapted mask of this slice.
    slice_changed(int)
        Another slice of the scan is in view.
    step_changed(object)
        Another step is looked back at (int), or the result again (None).
    mode_changed(str)
        Masks are to be shown another way.
    leaving()
        The scan in view is about to be taken out: what is drawn over it must go first.
    case_changed(), list_changed(), decisions_changed()
    theme_changed(ThemeColours)
    painting_changed(bool)
        The user takes the brush to the adapted mask, or puts it down.
    said(str)
        A hint for a moment, such as which mask is shown.
    open_requested(str), region_requested(), save_requested()
        Asks the section in charge: open "file", "folder", "list-folder", "list-files", "run",
        "sample:KEY", "list:FOLDER"; draw a region; save masks.
    recent_lists_changed(list of (str, str))
        Folder and words of the lists of cases that were open of late.
    paint_requested()
        Asks the section in charge to take the brush to the adapted mask.
    list_requested(list of str)
        These scans, or this folder, shall become a list of cases.
    """

    changed = Signal()
    scan_changed = Signal()
    model_changed = Signal()
    settings_changed = Signal()
    region_changed = Signal()
    session_changed = Signal()
    masks_changed = Signal(object)
    drawn = Signal(int)
    slice_changed = Signal(int)
    step_changed = Signal(object)
    mode_changed = Signal(str)
    leaving = Signal()
    case_changed = Signal()
    list_changed = Signal()
    decisions_changed = Signal()
    theme_changed = Signal(object)
    painting_changed = Signal(bool)
    said = Signal(str)
    open_requested = Signal(str)
    recent_lists_changed = Signal(list)
    paint_requested = Signal()
    list_requested = Signal(list)
    region_requested = Signal()
    save_requested = Signal()
    methods_requested = Signal()

    def __init__(self, viewer: Viewer, widget: QWidget) -> None:
        super().__init__(widget)
        self.viewer = viewer
        self.widget = widget
        self.connections = EventConnections(widget)
        self.closing = ClosingWatch(widget)
        self.store = SettingsStore()
        self.sessions = Sessions(viewer)
        self.runner = Runner(self)
        self.queue = Queue("context", self, self.connections, finish=True)
        self.undo = UndoStack(self)
        self.actions = Actions(self.say)
        self.theme: ThemeColours = theme_colours(viewer.theme)
        self.layer: Layer | None = None
        self.scan: Scan | None = None
        self.entries: list[ModelEntry] = list_models()
        self.entry = self._remembered_model()
        self.device: str = self.store.get("device", "auto")
        self.devices: list[DeviceChoice] | None = None
        self.preset, self.settings = self.store.method()
        self.slices_text = "all"
        self.region: Region | None = None
        self.run_parent: str = self.store.get("run_parent", "")
        self.mode = "adapted"
        self.step: int | None = None
        self.caselist: CaseList | None = None
        self.case: Case | None = None
        self.decided, self.done = "", False
        self.implausible = self.shift = ""
        self.problem = self.details = ""
        self.painting = False
        self.brush = 1
        self.decision_marks: dict[int, str] = {}
        self.decision_list: tuple[CaseList, str] | None = None
        self.flow: Cases | None = None
        # Writes what was drawn, at once; returns why that failed. Set by the decisions.
        self.save_drawings: Callable[[], str] = lambda: ""
        self.figures = SliceFigures(self)
        self.reviewed = ReviewedMasks(self)
        self.looked = False
        self._unreadable = ""
        self._session: Session | None = None
        self._watched: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._soon = later(self, 0, self.changed.emit)
        self._follow_soon = later(self, 0, self.follow)
        self._slice = 0
        self._wire()

    def _wire(self) -> None:
        layers = self.viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.reordered):
            self.connections.listen(emitter, self._layers_changed)
        # Not "end_batch", of which the canvas always hears first. No batches before napari 0.7.
        for name in ("removing", "begin_batch"):
            if hasattr(layers, name):
                self.connections.listen(getattr(layers, name), self._layer_goes)
        self.connections.listen(self.viewer.events.theme, self._on_theme)
        events = self.viewer.dims.events
        self.connections.listen(events.current_step, self._on_dims)
        for emitter in (events.order, events.ndisplay):
            self.connections.listen(emitter, self.touch)
        self.runner.changed.connect(self.touch)
        self.undo.changed.connect(self.touch)
        self.masks_changed.connect(self.touch)
        self.drawn.connect(self.touch)
        self.actions.provide("undo", self.undo.undo, self.undo.why_not)
        self.actions.provide("redo", self.undo.redo, partial(self.undo.why_not, redo=True))
        self.actions.provide("next_flagged", self.next_flagged, self._why_no_masks)
        self.connections.at_end(self.sessions.close_runs)

    # --- saying things ---------------------------------------------------------------------

    def touch(self, *_: Any) -> None:
        """Have `changed` emitted once, after all changes of this moment."""
        self._soon.start()

    def say(self, text: str) -> None:
        """Say something for a moment."""
        if text:
            self.said.emit(text)

    def fail(self, problem: str, details: str = "") -> None:
        """Show a problem until the next action."""
        self.problem, self.details = problem, details
        self.touch()

    def drawings_are_safe(self) -> bool:
        """Write what was drawn before anything is made of it; says why where that fails."""
        problem = self.save_drawings()
        if problem:
            self.fail(problem)
        return not problem

    def clear_problem(self) -> None:
        """The user has acted: what went wrong before is history."""
        self.problem = self.details = ""

    # --- choosing --------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """What the chosen model made of the chosen scan so far."""
        return self.sessions.find(self.layer, self.scan, self.entry)

    def choose_layer(self, layer: Layer | None, *, fit: bool = True) -> None:
        """Take another scan: its layers are shown, those of other scans hidden.

        Parameters
        ----------
        fit : bool
            Fit the view to the scan.
        """
        if layer is self.layer and layer is not None:
            scan, self._unreadable = self.sessions.scan(layer)
            if scan is self.scan:
                return
        self.clear_problem()
        self.layer = layer
        self.scan, self._unreadable = self.sessions.scan(layer)
        self.region, self.slices_text, self.step = None, "all", None
        self.implausible = self.shift = ""
        if layer is not None:
            better = self.fitting_model() if self.misfit() else None
            if better is not None:
                self.entry = better
            self._show_only(layer)
            if better is not None:
                self.model_changed.emit()
            self.go_to(self.in_view())  # the sliders may stand beyond its last slice
            if fit:
                fit_view(self.viewer, [layer])
        if self.scan is not None and self.scan.notices:
            notify(" ".join(self.scan.notices), "info")
        self.scan_changed.emit()
        self._take_session()
        self.slice_changed.emit(self.in_view())
        self.touch()

    def add_scan(self, scan: Scan, *, fit: bool = True, **arguments: Any) -> Image:
        """Put a scan into the viewer and choose it; ``arguments`` are napari's, of its layer."""
        layer = Image(scan.data, **{**scan.layer_kwargs(), **arguments})
        lend_units(self.viewer, layer, of_other_scans(self.viewer, [layer]))
        self.viewer.add_layer(layer)
        self.choose_layer(layer, fit=fit)
        return layer

    def choose_model(self, name: str) -> None:
        """Take another model, by its name."""
        found = next((entry for entry in self.entries if entry.name == name), None)
        if found is None or found is self.entry:
            return
        self.clear_problem()
        self.entry = found
        if found.card is not None:
            self.store.set("model", found.name)
        self.implausible = self.shift = ""
        if self.layer is not None:
            self._show_only(self.layer)
        self.model_changed.emit()
        self._take_session()
        self.touch()

    def reload_models(self, name: str) -> None:
        """Look again which models there are, such as after one was added, and choose one."""
        self.entries = list_models()
        self.runner.engine.forget()
        self.entry = None
        self.choose_model(name)
        self.model_changed.emit()
        self.touch()

    def add_entry(self, entry: ModelEntry) -> None:
        """Offer a model that lies elsewhere, such as that of a saved run."""
        if all(other.name != entry.name or other.card is None for other in self.entries):
            self.entries = [*self.entries, entry]

    def choose_settings(self, name: str, settings: Settings) -> None:
        """Take the settings of a preset, or changed ones; ``""``: of whichever they are."""
        same = (one.name for one in PRESETS.values() if one.settings == settings)
        self.preset, self.settings = name or next(same, self.preset), settings
        self.store.set_method(self.preset, settings)
        self.settings_changed.emit()
        self.touch()

    def choose_device(self, device: str) -> None:
        """Take another device for the next run."""
        self.device = device
        self.store.set("device", device)
        self.touch()

    def choose_region(self, region: Region | None) -> None:
        """Work inside a rectangle (row0, col0, row1, col1) only; None: everywhere."""
        if region != self.region:
            self.region = region
            self.implausible = ""
            self.region_changed.emit()
            self.touch()

    def slices(self) -> list[int]:
        """Return the slices to work on.

        Raises
        ------
        SlicesError
            If what the user typed names none.
        """
        if self.scan is None:
            raise SlicesError("Open a scan first.")
        return parse_slices(self.slices_text, self.scan, current=self.in_view())

    def _remembered_model(self) -> ModelEntry | None:
        usable = [entry for entry in self.entries if entry.card is not None]
        name = self.store.get("model", "")
        return next((e for e in usable if e.name == name), usable[0] if usable else None)

    def misfit(self) -> str:
        """Return why the chosen model cannot segment the chosen scan; "" where it can."""
        if self._unreadable:
            return self._unreadable
        if self.scan is None or self.entry is None or self.entry.card is None:
            return ""
        return self.entry.card.fits(self.scan) or ""

    def fitting_model(self) -> ModelEntry | None:
        """Return a model that reads the chosen scan, rather the last that made masks of it."""
        scan = self.scan
        if scan is None:
            return None
        used = [one.card.name for one in self.sessions.of(self.layer) if one.has_masks]
        turn = {name: number for number, name in enumerate(used, 1)}
        fitting = (e for e in self.entries if e.card and e.card.fits(scan) is None)
        return max(fitting, key=lambda entry: turn.get(entry.name, 0), default=None)

    def _take_session(self) -> None:
        """Listen to the session in view, and tell that it may be another one."""
        before, self._session = self._session, self.session
        if before is not None and before is not self._session:
            before.masks_changed.disconnect(self.masks_changed)
            before.drawn.disconnect(self.drawn)
        if self._session is not None and before is not self._session:
            self._session.masks_changed.connect(self.masks_changed)
            self._session.drawn.connect(self.drawn)
        self.session_changed.emit()

    def take_results(self) -> None:
        """The session in view was filled from elsewhere, such as a saved run."""
        self.look_back(None)
        self._take_session()
        self.touch()

    # --- following the viewer --------------------------------------------------------------

    def _layers_changed(self, event: Any = None) -> None:
        self._follow_soon.start()

    def follow(self) -> None:
        """Choose the uppermost scan in view: what the user sees is what is worked on."""
        for layer in self.viewer.layers:
            if layer not in self._watched:
                self._watched.add(layer)
                self.connections.listen(layer.events.visible, self._layers_changed)
                self.connections.listen(layer.events.name, self._layers_changed)
        scans = scan_layers(self.viewer)
        seen = [layer for layer in scans if layer.visible]
        if seen and self.layer is not seen[0]:
            self.choose_layer(seen[0])
        elif self.layer is not None and not alive(self.viewer, self.layer):
            self.choose_layer(scans[0] if scans else None)
        elif self.layer is not None:
            self.choose_layer(self.layer, fit=False)  # its data may be others now
        self.touch()

    def _show_only(self, layer: Layer) -> None:
        """Show a scan and the chosen model's masks; hide other scans, and other masks."""
        session = self.session
        mine = [] if session is None else session.layers()
        # Before anything is shown or hidden, for each of that is drawn at once.
        take_own_units(layer, mine)
        theirs = of_other_scans(self.viewer, [layer, *mine])
        lend_units(self.viewer, layer, theirs)
        layer.visible = True
        for other in theirs:
            other.visible = False
        if session is not None:
            self.apply_plain_mode(session)

    def _layer_goes(self, event: Any = None) -> None:
        hold_canvas(self.closing.find_window())

    def _on_theme(self, event: Any = None) -> None:
        self.theme = theme_colours(self.viewer.theme)
        self.theme_changed.emit(self.theme)

    # --- slices ----------------------------------------------------------------------------

    def in_view(self) -> int:
        """Return the slice of the chosen scan that is in view."""
        if self.scan is None or not alive(self.viewer, self.layer):
            return 0
        assert self.layer is not None
        return current_slice(self.viewer, self.scan, self.layer)

    def why_no_slice(self) -> str:
        """Return why nothing can be said of a single slice now, "" if one is in view."""
        single = self.scan is None or self.scan.n_slices == 1
        return "" if single or not is_turned(self.viewer) else _TURNED

    def go_to(self, index: int) -> None:
        """Bring a slice of the chosen scan into view."""
        scan, layer = self.scan, self.layer
        if scan is not None and layer is not None and 0 <= index < scan.n_slices:
            show_slice(self.viewer, scan, layer, index)

    def next_flagged(self) -> None:
        """Go to the next slice that needs a look."""
        session = self.session
        flagged = session.flagged() if session is not None else []
        self.looked = True
        if not flagged:
            noun = self.scan.noun if self.scan is not None else "slice"
            self.say(f"No {noun} is flagged.")
        else:
            here = self.in_view()
            self.go_to(next((index for index in flagged if index > here), flagged[0]))
        self.touch()

    def _on_dims(self, event: Any = None) -> None:
        here = self.in_view()
        if here != self._slice:
            self._slice = here
            self.slice_changed.emit(here)

    # --- looking ---------------------------------------------------------------------------

    def show_mode(self, mode: str) -> None:
        """Show the masks in another `mode`; looks at the result again."""
        self.look_back(None)
        session = self.session
        if session is None or (not session.can_compare and mode not in ("source", "adapted")):
            self.say("Adapt first: then there are two masks to compare.")
            return
        self.mode = mode
        self.apply_plain_mode(session)
        self.mode_changed.emit(mode)
        self.touch()

    def apply_plain_mode(self, session: Session) -> None:
        """Switch layers on and off for the present mode; what is drawn over them is compare's."""
        if not session.adapted_slices or self.mode == "source":
            session.show_masks(source=True, adapted=False)
        elif self.mode in ("adapted", "difference", "planes"):
            session.show_masks(source=False, adapted=True)
        if self.mode == "difference" and session.can_compare:
            if session.difference_of is None:
                session.show_difference()
            session.show_difference_layer(not self.painting)
        else:
            session.hide_difference()

    def look_back(self, step: int | None) -> None:
        """Look at the masks as they were after a step; None: at the result again."""
        if step != self.step:
            self.step = step
            self.step_changed.emit(step)
            self.touch()

    def displayed(self) -> Displayed:
        """Return which mask the user looks at."""
        session = self.session
        if session is None or not session.has_masks:
            return Displayed("none")
        if self.step is not None:
            return Displayed("step", step=self.step)
        if not session.adapted_slices or self.mode == "source":
            return Displayed("source")
        return Displayed("adapted", edited=bool(session.drawn_slices))

    def set_painting(self, on: bool) -> None:
        """Take the brush to the adapted mask, or put it down."""
        if on != self.painting:
            self.painting = on
            self.painting_changed.emit(on)
            self.touch()

    def choose_brush(self, value: int) -> None:
        """Have the brush paint this structure; 0 erases."""
        self.brush = value
        session = self.session
        layer = session.adapted.layer if session is not None else None
        if layer is not None and self.painting:
            layer.selected_label = value
        self.touch()

    def _why_no_masks(self) -> str:
        session = self.session
        return "" if session is not None and session.adapted_slices else "Adapt first."
