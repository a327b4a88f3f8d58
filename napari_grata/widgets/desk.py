"""What the dock's controls do: choose, segment, adapt, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_grata.adaptation.plan import SlicesError, parse_slices
from napari_grata.adaptation.settings import Settings
from napari_grata.widgets import words
from napari_grata.widgets.jobs import run_folder
from napari_grata.widgets.places import current_slice, show_slice
from napari_grata.widgets.runner import Runner
from napari_grata.widgets.sessions import Sessions
from napari_grata.widgets.settings_store import SettingsStore
from napari_grata.widgets.state import Facts
from napari_grata.widgets.worker import Outcome

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.scans import Scan
    from napari_grata.segmenters import ModelEntry
    from napari_grata.widgets.jobs import Region
    from napari_grata.widgets.session import Session


class Desk(QObject):
    """The situation and what can be done in it.

    Parameters
    ----------
    viewer : Viewer
    store : SettingsStore
    parent : QObject, optional

    Signals
    -------
    changed()
        The situation may be another one.
    session_changed()
        Another scan or model, or new results from elsewhere: draw curves and table anew.
    shown(str)
        What the person sees in the viewer now, such as "mask before".
    """

    changed = Signal()
    session_changed = Signal()
    shown = Signal(str)

    def __init__(self, viewer: Viewer, store: SettingsStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.store = store
        self.sessions = Sessions(viewer)
        self.runner = Runner(self)
        self.filled: bool | None = store.get("filled")
        self.layer: Layer | None = None
        self.scan: Scan | None = None
        self.entry: ModelEntry | None = None
        self.entries: list[ModelEntry] = []
        self.problem: str | None = None
        self.notice = ""
        self.details = ""
        # Where the run of a session is kept, if its scan is a case of a list.
        self.place: Callable[[Session], Path | None] | None = None
        self._unreadable: str | None = None
        self._job: tuple[str, str] = ("", "")
        self.runner.ended.connect(self._on_ended)
        self.runner.noticed.connect(self.notify)
        self.runner.changed.connect(self.changed)

    # --- choosing --------------------------------------------------------------------------

    def choose(
        self, layer: Layer | None, entry: ModelEntry | None, entries: list[ModelEntry]
    ) -> None:
        """Take another scan or model; what ran goes on with what it began with."""
        before = self.session
        if layer is not self.layer or entry is not self.entry:
            self.problem, self.details, self.notice = None, "", ""
        self.layer, self.entry, self.entries = layer, entry, entries
        self.scan, self._unreadable = self.sessions.scan(layer)
        if self.session is not before:
            self.session_changed.emit()
        self.changed.emit()

    @property
    def session(self) -> Session | None:
        """What the chosen model made of the chosen scan so far."""
        return self.sessions.find(self.layer, self.scan, self.entry)

    def facts(self) -> Facts:
        """Return the situation."""
        session = self.session
        misfit = better = None
        if self._unreadable is not None:
            misfit = self._unreadable
        elif self.scan is not None and self.entry is not None and self.entry.card is not None:
            misfit = self.entry.card.fits(self.scan)
            if misfit is not None:
                better = next(
                    (e.title for e in self.entries if e.card and e.card.fits(self.scan) is None),
                    None,
                )
        return Facts(
            has_scan=self.layer is not None,
            has_model=self.entry is not None and self.entry.card is not None,
            misfit=misfit,
            better_model=better,
            segmented=session is not None and bool(session.segmented),
            adapted=session is not None and bool(session.adapted),
            running=self.runner.kind,
            pausing=self.runner.pausing,
            paused=self.runner.paused,
            cancelling=self.runner.cancelling,
            problem=self.problem,
            note=session.note if session is not None else None,
            note_tone=session.note_tone if session is not None else "good",
            saved=session is not None and session.saved,
            reopened=session.reopened if session is not None else None,
        )

    def slices(self, text: str) -> list[int]:
        """Return the slices that a text names.

        Raises
        ------
        SlicesError
        """
        if self.scan is None:
            raise SlicesError("Open a scan first.")
        return parse_slices(text, self.scan, current=self.in_view())

    def fail(self, problem: str, details: str = "") -> None:
        """Show a problem until the next action."""
        self.problem, self.details = problem, details
        self.changed.emit()

    # --- the two verbs ---------------------------------------------------------------------

    def segment(self, device: str, slices_text: str, region: Region | None) -> None:
        """Make the masks before."""
        begun = self._begin(device, slices_text)
        if begun is not None:
            session, entry, slices = begun
            self.runner.segment(session, entry, device, slices, region)
            self.session_changed.emit()

    def adapt(
        self,
        device: str,
        settings: Settings,
        slices_text: str,
        region: Region | None,
        run_parent: str = "",
    ) -> None:
        """Adapt and make the masks after; with ``run_parent`` the run is saved in there."""
        begun = self._begin(device, slices_text)
        if begun is not None:
            session, entry, slices = begun
            session.settings = settings
            session.expected_steps = words.expected_steps(settings, slices, session.scan.case_of)
            folder = self.place(session) if self.place is not None else None
            if folder is None:
                folder = run_folder(run_parent, session.scan)
            self.runner.adapt(session, entry, device, settings, slices, region, folder)
            self.session_changed.emit()

    def _begin(self, device: str, slices_text: str) -> tuple[Session, ModelEntry, list[int]] | None:
        """Capture what a run works on, or say why it cannot begin."""
        self.problem, self.details, self.notice = None, "", ""
        facts = self.facts()
        layer, scan, entry = self.layer, self.scan, self.entry
        if facts.running or facts.misfit or layer is None or scan is None or entry is None:
            self.changed.emit()
            return None
        try:
            slices = self.slices(slices_text)
        except SlicesError as error:
            self.fail(str(error))
            return None
        session = self.sessions.get(layer, scan, entry, filled=self.filled)
        session.note = ""
        self._job = (entry.name, device)
        return session, entry, slices

    def notify(self, text: str) -> None:
        """Keep a notice in sight until the next run."""
        self.notice = text
        self.changed.emit()

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        session = self.runner.session
        if outcome.kind == "failed":
            kept = ""
            if session is not None and (session.adapted or session.segmented):
                kept = " What was finished is kept."
            self.problem, self.details = f"{outcome.message}{kept}", outcome.details
        if session is None:
            return
        done = session.adapted if kind == "adapt" else session.segmented
        session.note, session.note_tone = "", "good"
        if kind == "again":
            session.note, session.note_tone = words.about_step(session, outcome)
        elif outcome.kind == "cancelled":
            session.note_tone = "plain"
            session.note = f"Cancelled; {session.count(len(done))} finished and kept."
        elif outcome.kind == "done":
            if kind == "adapt":
                session.note, session.note_tone = words.summary(session)
            pace = self.runner.seconds_a_slice
            if pace is not None:
                self.store.set_pace("/".join((kind, *self._job, self._weight(session))), pace)
        if kind == "adapt" and session.adapted and session.segmented:
            session.show_after(True)
            self.shown.emit("Showing the mask after.")

    @staticmethod
    def _weight(session: Session) -> str:
        """Return what decides how long a slice takes, beside model and device."""
        return "x".join(str(n) for n in session.scan.mask_shape[-2:])

    def expectation(self, device: str, device_title: str, slices_text: str) -> str:
        """Return how long segmenting should take here, as measured the last time."""
        if self.scan is None or self.entry is None:
            return ""
        size = "x".join(str(n) for n in self.scan.mask_shape[-2:])
        pace = self.store.pace("/".join(("segment", self.entry.name, device, size)))
        processor = "cpu" in device_title.lower() or device == "cpu"
        where = "On the processor" if processor else "Segmenting takes"
        if pace is None:
            return f"{where}; the time is measured as it runs." if processor else ""
        try:
            count = len(self.slices(slices_text))
        except SlicesError:
            return ""
        return f"{where}: {words.about(pace * count)} for {count} of {self.scan.n_slices}."

    # --- looking ---------------------------------------------------------------------------

    def toggle_masks(self) -> None:
        """Switch between the mask before and the mask after."""
        which = self.session.toggle() if self.session is not None else None
        if which is not None:
            self.shown.emit(f"Showing the mask {which}.")

    def cycle_difference(self) -> None:
        """Show the next difference."""
        if self.session is None or not self.session.adapted:
            return
        which = self.session.cycle_difference()
        if which is None:
            self.shown.emit("Difference off.")
        else:
            self.shown.emit(f"Difference, {which or 'all'}: blue added, red removed.")

    def toggle_fill(self) -> None:
        """Switch between contours and filled areas, for all masks."""
        shown = self.session.filled if self.session is not None else bool(self.filled)
        self.filled = not shown
        self.store.set("filled", self.filled)
        for session in self.sessions.all():
            session.set_filled(self.filled)

    def next_flagged(self) -> None:
        """Go to the next slice that needs a look."""
        if self.session is None or self.scan is None:
            return
        flagged = self.session.flagged()
        if not flagged:
            self.shown.emit("No slice is flagged.")
            return
        here = self.in_view()
        self.go_to(next((index for index in flagged if index > here), flagged[0]))

    def go_to(self, index: int, _step: int = 0) -> None:
        """Bring a slice of the chosen scan into view."""
        scan, layer = self.scan, self.layer
        if scan is not None and layer is not None and 0 <= index < scan.n_slices:
            show_slice(self.viewer, scan, layer, index)

    def in_view(self) -> int:
        """Return the slice of the chosen scan that is in view."""
        if self.scan is None or self.layer is None:
            return 0
        return current_slice(self.viewer, self.scan, self.layer)
