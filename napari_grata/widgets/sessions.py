"""Which scan and model are chosen now, and what is known about the two together."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from napari_grata.scans import Scan, ScanError
from napari_grata.widgets.candidates import ScanOfLayer
from napari_grata.widgets.session import Session

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

    from napari_grata.segmenters import Card, ModelEntry


class Sessions:
    """Keeps one session for each scan and model, as long as the scan's layer lives."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._scan_of = ScanOfLayer()
        self._sessions: weakref.WeakKeyDictionary[Layer, dict[tuple[int, str], Session]] = (
            weakref.WeakKeyDictionary()
        )

    def scan(self, layer: Layer | None) -> tuple[Scan | None, str | None]:
        """Return the scan of a layer, or the reason why it is none."""
        if layer is None:
            return None, None
        try:
            return self._scan_of(layer), None
        except ScanError as error:
            return None, str(error)

    def find(
        self, layer: Layer | None, scan: Scan | None, entry: ModelEntry | None
    ) -> Session | None:
        """Return what this model made of this scan so far."""
        if layer is None or scan is None or entry is None:
            return None
        session = self._sessions.get(layer, {}).get((id(scan), entry.name))
        return session if session is not None and session.scan is scan else None

    def get(self, layer: Layer, scan: Scan, entry: ModelEntry, *, filled: bool | None) -> Session:
        """Return the session of this model and scan, a new one where there is none."""
        session = self.find(layer, scan, entry)
        if session is None:
            assert entry.card is not None
            session = Session(self._viewer, scan, layer, entry.card, filled=filled)
            self._sessions.setdefault(layer, {})[(id(scan), entry.name)] = session
        return session

    def renew(self, layer: Layer, scan: Scan, card: Card, filled: bool | None) -> Session:
        """Return a fresh session in place of the one of this model and scan, if there is one."""
        session = Session(self._viewer, scan, layer, card, filled=filled)
        sessions = self._sessions.setdefault(layer, {})
        old = sessions.pop((id(scan), card.name), None)
        if old is not None:
            old.close_run()
        sessions[id(scan), card.name] = session
        return session

    def of(self, layer: Layer | None) -> list[Session]:
        """Return what all models made of a scan so far."""
        return [] if layer is None else list(self._sessions.get(layer, {}).values())

    def close_runs(self) -> None:
        """Close the files of all runs but one that is going on, which closes its own."""
        for session in self.all():
            if not session.busy:
                session.close_run()

    def all(self) -> list[Session]:
        """Return every session of layers that still live."""
        return [s for sessions in self._sessions.values() for s in sessions.values()]
