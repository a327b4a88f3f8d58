"""The one undo of the plugin, and a session as it was, to go back to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.scans.sqlite_file import packed, unpacked

if TYPE_CHECKING:
    from napari_grata.adaptation.records import ChosenInfo
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.widgets.session import Session

_KEPT = (
    *("run", "settings", "records", "flags", "taken_step", "chosen"),
    *("note", "note_tone", "reopened"),
)


class MaskSnapshot:
    """A session as it was, its masks packed, so that what came after can be undone.

    Taken before an earlier state is used, and before corrections teach; may be made in a job's
    thread, since nobody draws while one runs. `UndoStack` bounds what all of them hold.

    Attributes
    ----------
    step : int or None
        After which step of ``run`` the masks were; None: its result.
    run : AdaptationRun or None
    chosen, beneath : tuple of ChosenInfo, dict of int to ndarray
        Of the run: how masks were chosen that lie over its own, and its own there.
    drawn : frozenset of int
        Slices on which the user had drawn.
    """

    _living: ClassVar[weakref.WeakSet[MaskSnapshot]] = weakref.WeakSet()

    def __init__(self, session: Session) -> None:
        self.step = session.taken_step
        self.run = run = session.run
        self.chosen: tuple[ChosenInfo, ...] = () if run is None else run.chosen
        self.beneath: dict[int, np.ndarray] = {} if run is None else run.beneath
        self.drawn = frozenset(session.drawn_slices)
        self._values = {name: getattr(session, name) for name in _KEPT}
        self._values["records"] = list(session.records)
        self._values["flags"] = dict(session.flags)
        scan, stack, shown = session.scan, session.adapted.stack, session.adapted.as_shown()
        self._masks = {i: packed(scan.get_mask(stack, i)) for i in session.adapted_slices}
        self._drawings = {i: packed(scan.get_mask(shown, i)) for i in self.drawn}
        self._bytes = sum(len(d) for m in (self._masks, self._drawings) for d in m.values())
        self._living.add(self)

    @classmethod
    def bytes_held(cls) -> int:
        """Return how much memory all snapshots take that anything can still go back to."""
        return sum(one._bytes for one in tuple(cls._living))

    def masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield slice and label map as the model made it, shape (H, W)."""
        for index, data in self._masks.items():
            yield index, unpacked(data)

    def put_back(self, session: Session) -> None:
        """Make the session what it was, drawings included."""
        for name, value in self._values.items():
            setattr(session, name, value)
        scan, adapted = session.scan, session.adapted
        layer = adapted.ensure()
        fits = layer.data.shape == adapted.stack.shape
        session.adapted_slices = set(self._masks)
        with adapted.writing():
            for index, label_map in self.masks():
                scan.put_mask(adapted.stack, index, label_map)
                if fits:
                    drawn = self._drawings.get(index)
                    shown = label_map if drawn is None else unpacked(drawn)
                    scan.put_mask(layer.data, index, shown)
            layer.refresh(extent=False)
        session.drawn_slices = set(self.drawn)
        session.draw_difference_anew()
        session.masks_changed.emit(None)


def close_unless_used(run: AdaptationRun | None, session: weakref.ref[Session]) -> None:
    """Close a run that nothing goes back to any more, unless it is in use again."""
    found = session()
    if run is not None and (found is None or found.run is not run):
        run.close()


@dataclass(frozen=True, eq=False)
class Undoable:
    """Something that was done and can be taken back.

    Attributes
    ----------
    words : str
        What Undo takes back, as "accepting slice 26".
    undo : callable
    redo : callable or None
        None where it cannot be done again.
    owner : object
        With whose end it is forgotten (`UndoStack.forget`), such as a session.
    drop : callable or None
        Called when it is forgotten, such as to close the files of a run.
    why_not : callable or None
        Returns why it can be neither undone nor done again now, "" if it can.
    """

    words: str
    undo: Callable[[], object]
    redo: Callable[[], object] | None = None
    owner: object = None
    drop: Callable[[], object] | None = None
    why_not: Callable[[], str] | None = None


class UndoStack(QObject):
    """The one undo of the plugin: decisions, states that were taken, corrections that taught.

    Strokes of the brush are napari's own and have its Ctrl+Z. Where the masks to go back to take
    more than ``BYTES`` of memory, what was done longest ago is forgotten; the latest never is.

    Signals
    -------
    changed()
    """

    changed = Signal()
    BYTES = 512 * 2**20

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._done: list[Undoable] = []
        self._undone: list[Undoable] = []

    @property
    def undo_words(self) -> str:
        """What Undo takes back; "" if there is nothing."""
        return self._done[-1].words if self._done else ""

    @property
    def redo_words(self) -> str:
        """What Redo does again; "" if there is nothing."""
        return self._undone[-1].words if self._undone else ""

    def why_not(self, *, redo: bool = False) -> str:
        """Return why nothing can be taken back (or done again) now, "" if something can."""
        entries = self._undone if redo else self._done
        if not entries:
            return f"There is nothing to {'do again' if redo else 'undo'}."
        ask = entries[-1].why_not
        return "" if ask is None else ask()

    def push(self, entry: Undoable) -> None:
        """Take note of something that was just done."""
        self._let_go(self._undone)
        self._done.append(entry)
        while len(self._done) > 1 and MaskSnapshot.bytes_held() > self.BYTES:
            self._let_go(self._done[:1])
        self.changed.emit()

    def undo(self) -> None:
        """Take back what was done last."""
        if self._done:
            entry = self._done.pop()
            if entry.redo is not None:
                self._undone.append(entry)
            entry.undo()
            self.changed.emit()

    def redo(self) -> None:
        """Do again what was taken back last."""
        if self._undone:
            entry = self._undone.pop()
            assert entry.redo is not None
            self._done.append(entry)
            entry.redo()
            self.changed.emit()

    def forget(self, owners: Iterable[object]) -> None:
        """Forget what belongs to these: a new run has begun, or a list was closed."""
        gone = {id(owner) for owner in owners}
        self._let_go([e for e in (*self._done, *self._undone) if id(e.owner) in gone])
        self.changed.emit()

    def _let_go(self, entries: Iterable[Undoable]) -> None:
        for entry in tuple(entries):
            (self._done if entry in self._done else self._undone).remove(entry)
            if entry.drop is not None:
                entry.drop()
