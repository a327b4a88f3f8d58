"""Where decisions on the scan in view go, and the drawings on their way to the disk.

A decision is on the disk before it shows; one that cannot be written is kept in memory until
*Retry* writes it. Drawings are saved by themselves, each version beside the earlier ones.
"""

from __future__ import annotations

import itertools
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.review.case_list import CaseList, CaseWork, case_of_scan
from napari_grata.review.cases import DecidedMask, Decision, DecisionError, ListError, digest
from napari_grata.review.final_masks import ABOUT, mask_digest
from napari_grata.widgets.background import Found, Queue
from napari_grata.widgets.context import Context
from napari_grata.widgets.mask_layer import MaskLayer
from napari_grata.widgets.qt_parts import later, notify
from napari_grata.widgets.theme import STRUCTURE_COLOURS

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.widgets.session import Session

_SAVE_MS = 2000
_turns = itertools.count(1)


@dataclass
class DecisionPlace:
    """What there is to decide on, and where it goes.

    Attributes
    ----------
    scan : Scan
    key : str
        Code of the case.
    caselist : CaseList
    alone : bool
        Whether the scan was opened by itself, not from a list.
    problem : str
        Why nothing can be written, "" if it can.
    edit : ndarray or None
        What the user drew last, shape ``scan.mask_shape``, when the place was found.
    edit_base : str
        Fingerprint of the mask that it was drawn over.
    notices : list of str
    """

    scan: Scan
    key: str
    caselist: CaseList
    alone: bool
    problem: str = ""
    edit: np.ndarray | None = None
    edit_base: str = ""
    notices: list[str] = field(default_factory=list)

    @property
    def work(self) -> CaseWork:
        """The case's folder."""
        return self.caselist.work(self.key)

    def current(self) -> dict[int | None, Decision]:
        """Return the decisions in force, by slice; None is the whole case."""
        return self.caselist.decisions(self.key)

    def close(self) -> None:
        """Let another program write, if the scan was opened by itself."""
        if self.alone:
            self.caselist.close()


def find_place(scan: Scan, caselist: CaseList | None, key: str | None) -> DecisionPlace:
    """Find the list of a scan and what was drawn on it; reads files, so for the background.

    Parameters
    ----------
    caselist, key : CaseList, str or None
        Where the scan is a case of an open list.
    """
    alone = caselist is None or key is None
    if caselist is None or key is None:
        # Where there is no place for it, decisions wait in memory, and it says so.
        caselist = case_of_scan(scan)
        key = caselist.cases[0].key
    place = DecisionPlace(scan, key, caselist, alone)
    place.problem = caselist.read_only or caselist.save_problem or ""
    work = place.work
    told = len(work.notices)
    place.edit = work.edit(scan)
    if place.edit is not None:
        place.edit_base = work.edits[-1].base
    place.notices = [*(caselist.notices if alone else ()), *work.notices[told:]]
    return place


class Decisions(QObject):
    """Knows where decisions on the scan in view go, puts them in force, and takes them back.

    Signals
    -------
    arrived()
        Decisions go to another place now, or nowhere.
    changed()
        Other decisions are in force.
    leaving()
        The place is about to be left: what was typed for it must be kept now.
    """

    arrived = Signal()
    changed = Signal()
    leaving = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._context = context
        self.place: DecisionPlace | None = None
        self.problem = ""
        self._waiting: list[DecisionPlace] = []
        self._asked: tuple[Any, Any, str | None] = (None, None, None)
        self._digests: dict[tuple[int, str, int | None], str] = {}
        self._queue = Queue("decisions", self, context.connections)
        self._queue.found.connect(self._on_found)
        context.scan_changed.connect(self.look)
        context.list_changed.connect(self.look)
        context.case_changed.connect(self.look)
        context.masks_changed.connect(self._forget)
        context.session_changed.connect(self._forget)
        context.drawn.connect(self._forget)

    # --- finding the place -------------------------------------------------------------------

    def look(self) -> None:
        """Find where decisions on the scan in view go, if that is not known."""
        wanted = self._wanted()
        if all(a is b or a == b for a, b in zip(wanted, self._asked, strict=True)):
            return
        self._put_away()
        self._asked = wanted
        kept = next((known for known in self._waiting if known.scan is wanted[0]), None)
        if kept is not None:
            self._waiting.remove(kept)
            self._take(kept)
        elif wanted[0] is not None:
            self._queue.ask("find", partial(find_place, *wanted))

    def _wanted(self) -> tuple[Any, Any, str | None]:
        """Return scan, list and code of the case that are in view."""
        scan, caselist = self._context.scan, self._context.caselist
        if scan is None or caselist is None:
            return scan, None, None
        found = caselist.of_scan(scan)
        return (scan, None, None) if found is None else (scan, caselist, found.key)

    def _put_away(self) -> None:
        if self.place is not None:
            self.leaving.emit()
            self._context.undo.forget([self.place])
            if self.place.caselist.unsaved:
                self._waiting.append(self.place)
            else:
                self.place.close()
            self.place, self.problem = None, ""
            self.arrived.emit()

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            self.problem = str(found.error)
            notify(self.problem)
        elif found.result.scan is self._asked[0]:
            self._take(found.result)
        else:
            found.result.close()

    def _take(self, place: DecisionPlace) -> None:
        self.place, self.problem = place, place.problem
        for notice in (*place.notices, place.problem):
            if notice:
                notify(notice, "warning")
        self.arrived.emit()

    # --- deciding ----------------------------------------------------------------------------

    def decide(
        self,
        verdict: str,
        index: int | None,
        mask: DecidedMask | None = None,
        **words: str,
    ) -> bool:
        """Put a decision in force and on the disk; returns whether it is in force.

        Parameters
        ----------
        verdict : str
            One of `napari_grata.review.VERDICTS`.
        index : int or None
            The slice; None: the whole case.
        mask : DecidedMask, optional
            What it is about, where that is not what is shown now.
        **words
            Comment, difficulty and reviewer, as for `CaseList.decide`.
        """
        place = self.place
        assert place is not None
        in_force = True
        try:
            mask = self._mask(place, verdict, index) if mask is None else mask
            place.caselist.decide(place.key, verdict, slice_index=index, mask=mask, **words)
            self.problem = ""
        except DecisionError as error:
            in_force = error.kept
            self._complain(str(error))
        self.changed.emit()
        return in_force

    def undo_or_redo(self, which: str) -> Decision | None:
        """Take the latest decision back, or (``"redo"``) put it in force again."""
        place = self.place
        if place is None:
            return None
        changed: Decision | None = None
        waiting = len(place.caselist.unsaved)
        try:
            changed = getattr(place.caselist, which)()
            self.problem = ""
        except DecisionError as error:
            if len(place.caselist.unsaved) > waiting:
                changed = place.caselist.unsaved[-1]
            self._complain(str(error))
        self.changed.emit()
        return changed

    @property
    def unsaved(self) -> int:
        """How many decisions are not on the disk yet, those on scans left since included."""
        return sum(len(place.caselist.unsaved) for place in self._all())

    def retry(self) -> str:
        """Write what could not be written before; returns why it still cannot be, "" if all is."""
        try:
            for place in self._all():
                if place.caselist.unsaved:
                    place.caselist.retry()
            self._waiting = [place for place in self._waiting if place.caselist.unsaved]
            self.problem = ""
        except DecisionError as error:
            self._complain(str(error))
        self.changed.emit()
        return self.problem

    def _all(self) -> list[DecisionPlace]:
        return [*self._waiting, *([self.place] if self.place is not None else [])]

    def _complain(self, problem: str) -> None:
        self.problem = problem
        notify(problem)

    # --- what a decision rests on ------------------------------------------------------------

    def stale(self, decision: Decision) -> bool:
        """Whether the mask that was decided on is another one now."""
        then, session = decision.mask.digest, self._context.session
        if session is None or session.busy or not then:
            return False
        now = self._mask_digest(session, decision.verdict, decision.slice_index)
        return bool(now) and now != then

    def _mask(self, place: DecisionPlace, verdict: str, index: int | None) -> DecidedMask:
        """Return which mask a verdict is about: model, run, step, drawing; names no file."""
        session = self._context.session
        assert session is not None
        card = session.card
        about = DecidedMask() if place.alone else place.caselist.mask_now(place.key)
        about = about.but(
            kind="source" if verdict == "keep-source" else "adapted",
            edit=0,
            model=card.name,
            weights_sha256=card.weights_sha256 or "",
            digest=self._mask_digest(session, verdict, index),
        )
        if session.settings is not None and session.adapted_slices:
            about = about.but(settings=digest(session.settings.to_dict()))
        if session.taken_step is not None:
            about = about.but(step=session.taken_step)
        elif session.run is not None:
            about = about.but(step=int(session.run.past.last_step))
        if verdict not in ("edit", "keep-source") and session.adapted.edited():
            about = about.but(kind="edited", edit=place.work.edit_version)
        return about

    def _mask_digest(self, session: Session, verdict: str, index: int | None) -> str:
        """Return the fingerprint of the mask that a verdict is about, "" if there is none.

        Accepted is what is shown; kept is the source mask; an edit begins with the adapted mask.
        """
        which = ABOUT.get(verdict, "shown")
        there = session.segmented_slices if which == "source" else session.adapted_slices
        if which == "shown" and not (index in there if index is not None else there):
            which, there = "source", session.segmented_slices
        if not (index in there if index is not None else there):
            return ""
        key = (id(session), which, index)
        if key not in self._digests:
            held = session.source if which == "source" else session.adapted
            stack = held.in_use() if which == "shown" else held.stack
            mask = stack if index is None else session.scan.get_mask(stack, index)
            self._digests[key] = mask_digest(mask)
        return self._digests[key]

    def _forget(self, slices: Any = None) -> None:
        """Masks have changed: fingerprints of these slices, and of the case, count no more."""
        changed = {slices} if isinstance(slices, int) else slices
        if changed is None:
            self._digests.clear()
        else:
            gone = {*changed, None}
            self._digests = {k: v for k, v in self._digests.items() if k[2] not in gone}


@dataclass(frozen=True)
class _Copy:
    """A drawing as it was at a moment; a later one has a higher turn."""

    place: DecisionPlace
    layer: Any
    stack: np.ndarray
    digest: str
    base: str
    turn: int


class Drawings(QObject):
    """Saves what the user draws some time after the last stroke, and brings the latest back.

    Signals
    -------
    saved()
        What was drawn is on the disk.
    """

    saved = Signal()

    def __init__(self, context: Context, decisions: Decisions) -> None:
        super().__init__(context)
        self._context, self._decisions = context, decisions
        self.problem = ""
        self._pending: dict[int, tuple[Any, DecisionPlace, Any]] = {}
        self._known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._written: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._brought: weakref.WeakSet[Session] = weakref.WeakSet()
        self._beside_of: DecisionPlace | None = None
        self._beside: MaskLayer | None = None
        self._queue = Queue("drawings", self, context.connections, finish=True)
        self._queue.found.connect(self._on_found)
        self._soon = later(self, _SAVE_MS, self._save_in_background)
        context.drawn.connect(self._on_drawn)
        context.connections.at_end(partial(_write_or_leave, self._pending, self._known))
        context.runner.ended.connect(self._on_run_ended)
        context.session_changed.connect(self.bring_back)
        decisions.arrived.connect(self.bring_back)
        decisions.leaving.connect(self._on_leaving)

    def _on_drawn(self, _index: int = -1) -> None:
        session, place = self._context.session, self._decisions.place
        if session is None or session.busy or place is None or session.scan is not place.scan:
            return
        layer = session.adapted.layer
        if layer is not None:
            self._pending[id(layer)] = (layer, place, session.adapted.stack)
            self._soon.start()

    def _on_beside(self, _index: int) -> None:
        if self._beside is not None and self._beside.layer is not None and self._beside_of:
            layer, place = self._beside.layer, self._beside_of
            self._pending[id(layer)] = (layer, place, place.edit_base)
            self._soon.start()

    # --- saving ------------------------------------------------------------------------------

    def _on_leaving(self) -> None:
        self.save()

    def save(self) -> str:
        """Write what was drawn and called right, at once; returns why it cannot be, "" if it is."""
        self._soon.stop()
        try:
            for copy in _fresh(self._pending, self._known):
                self._keep(copy)
                self._settle(copy)
            self._context.reviewed.keep()
        except (ListError, OSError) as error:
            self._fail(str(error))
            return self.problem
        self.problem = ""
        self.saved.emit()
        return ""

    def _save_in_background(self) -> None:
        for copy in _fresh(self._pending, self._known):
            self._queue.ask(id(copy.layer), partial(self._keep, copy))

    def _keep(self, copy: _Copy) -> _Copy:
        if copy.turn > self._written.get(copy.layer, 0):
            copy.place.work.save_edit(copy.stack, copy.place.scan, copy.base)
            self._written[copy.layer] = copy.turn
        return copy

    def _settle(self, copy: _Copy) -> None:
        self._known[copy.layer] = copy.digest
        if mask_digest(copy.layer.data) == copy.digest:
            self._pending.pop(id(copy.layer), None)

    def _on_found(self, found: Found) -> None:
        if found.error is not None:
            self._fail(str(found.error))
        else:
            self._settle(found.result)
            self.problem = ""
            self.saved.emit()

    def _fail(self, why: str) -> None:
        self.problem = f"What you drew is not on the disk yet: {why}"
        notify(self.problem)
        self._context.touch()

    def _on_run_ended(self, kind: str, _outcome: object) -> None:
        session = self._context.runner.session
        if session is None:
            return
        layer = session.adapted.layer
        if layer is not None and not session.adapted.edited():
            self._known.pop(layer, None)
        beside, of = self._beside, self._beside_of
        if beside is not None and of is not None and of.scan is session.scan:
            beside.visible = False  # or it would be taken for one of the masks to decide on
        if kind == "adapt":
            # An earlier drawing was made over another mask; it does not belong onto this one.
            self._brought.add(session)

    # --- bringing back -----------------------------------------------------------------------

    def bring_back(self) -> None:
        """Show what was drawn, and what was called right."""
        self._bring_drawing()
        self._context.reviewed.bring_back()

    def _bring_drawing(self) -> None:
        """Show the latest drawing of the scan in view, once, over the mask it was drawn on."""
        context, place = self._context, self._decisions.place
        session = context.session
        if place is None or place.edit is None or place.scan is not context.scan:
            return
        if session is not None and session.adapted_slices:
            if session.busy or session in self._brought:
                return
            self._brought.add(session)
            if mask_digest(session.adapted.stack) == place.edit_base:
                if not session.adapted.edited():
                    self._known[session.adapted.ensure()] = mask_digest(place.edit)
                    session.adapted.put_drawing(place.edit)
                    session.look_for_drawings()
                return
        elif not place.alone:
            return
        if self._beside_of is not place:
            self._show_beside(place, session)
            notify(
                "What you drew earlier was drawn over another mask; it is in a layer of its own.",
                "warning",
            )

    def _show_beside(self, place: DecisionPlace, session: Session | None) -> None:
        entry = self._context.entry
        card = session.card if session is not None else entry.card if entry is not None else None
        colours = (
            {s.value: s.colour for s in card.structures}
            if card is not None
            else dict(enumerate(STRUCTURE_COLOURS, start=1))
        )
        self._beside_of = place
        self._beside = MaskLayer(
            self._context.viewer,
            place.scan,
            f"{place.scan.name} edited",
            colours,
            self._context.layer,
            contour=2,
            role="edited",
            drawn=self._on_beside,
        )
        assert place.edit is not None
        self._beside.stack[...] = place.edit
        self._known[self._beside.ensure()] = mask_digest(place.edit)


def _fresh(pending: dict[int, tuple[Any, DecisionPlace, Any]], known: Any) -> list[_Copy]:
    """Return copies of the drawings that differ from what was saved; forget the others."""
    found = []
    for key, (layer, place, under) in list(pending.items()):
        base = under if isinstance(under, str) else mask_digest(under)
        if tuple(layer.data.shape) == tuple(place.scan.mask_shape):
            now = mask_digest(layer.data)
            if now != known.get(layer, base):
                stack = np.array(layer.data)
                found.append(_Copy(place, layer, stack, now, base, next(_turns)))
                continue
        del pending[key]
    return found


def _write_or_leave(pending: dict[int, tuple[Any, DecisionPlace, Any]], known: Any) -> None:
    """Write what waits when nobody is there any more to be told of a failure."""
    for copy in _fresh(pending, known):
        with suppress(ListError, OSError):
            copy.place.work.save_edit(copy.stack, copy.place.scan, copy.base)
