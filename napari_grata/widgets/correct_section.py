"""Step *Correct*: paint on the adapted mask, say what is right, let the model learn from it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QWidget
from superqt import QCollapsible

from napari_grata.adaptation.corrections import Corrections, CorrectionsError
from napari_grata.adaptation.settings import (
    Settings,
    SettingsError,
    preset,
    teaching_settings,
)
from napari_grata.scans.scan import counted
from napari_grata.widgets import keys, tasks
from napari_grata.widgets.background import Outcome
from napari_grata.widgets.context import Context
from napari_grata.widgets.qt_parts import (
    Sentence,
    button,
    choice,
    column,
    column_in,
    later,
    offer,
    row,
)
from napari_grata.widgets.reviewed import Masks
from napari_grata.widgets.runner import BUSY
from napari_grata.widgets.session import Session
from napari_grata.widgets.settings_form import TEACHING, SettingsForm
from napari_grata.widgets.undo import MaskSnapshot, Undoable, close_unless_used

CASE, REST = "case", "rest"
ROLES = (
    ("As far as views agree", "pseudo"),
    ("Corrections alone", "fine-tuning"),
    ("Together with the views", "both"),
    ("Only steer the views", "auxiliary"),
)
ROLE_WORDS = (
    "How corrections teach. Views: the model's agreement with itself on turned copies of a slice. "
    "(Plain fine-tuning of θ on the corrected pixels; or GraTa with them as pseudo objective, as "
    "both objectives together with consistency, or as auxiliary objective.)"
)
NO_MASK = "Adapt first: corrections are painted on the mask after."


def teach(
    snapshot: Callable[[], object],
    run: Any,
    corrections: Corrections,
    settings: Settings,
    folder: Path | None,
    abandoned: threading.Event,
) -> Iterator[Any]:
    """Learn from corrections and draw all masks anew: the records of the new run.

    ``snapshot`` is called first: it keeps the masks as they are.
    """
    yield tasks.Stage("Learning from your corrections …")
    snapshot()
    with tasks.leave_room_for_the_interface():
        from napari_grata.adaptation.teaching import correct_run

        taught = correct_run(run, corrections, settings, folder)
        yield from tasks.records_of(taught, taught.records(), abandoned)


class CorrectSection(QWidget):
    """Paint, *This slice is right now*, and *Adapt to my corrections*.

    Attributes
    ----------
    teaching : QWidget
        All that is about corrections as teachers.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._counts: weakref.WeakKeyDictionary[Session, dict[int, int]] = (
            weakref.WeakKeyDictionary()
        )
        self._teaching: tuple[Session, list[MaskSnapshot], Corrections, Masks] | None = None
        self._build()
        self._soon = later(self, 100, self.refresh)
        self._wire()
        self.refresh()

    def _build(self) -> None:
        perform = self._context.actions.perform
        self.paint_button = button("Paint", clicked=partial(perform, "paint"))
        self.right = QCheckBox()
        self.count = Sentence(2, "grata_small")
        words = "Where what is learned is used"
        places = (("This case", CASE), ("This case, and those after it", REST))
        self.where = choice(f"{words}.", words, places)
        self.where_row = row("Use it on", self.where)
        self.teach_button = button("Adapt to my corrections", clicked=partial(perform, "teach"))
        layout = column_in(self, row("", self.right, self.paint_button))
        self.teaching = column(self.count, self.where_row, self.teach_button, self._advanced())
        layout.addWidget(self.teaching)

    def _advanced(self) -> QCollapsible:
        self.role = choice(ROLE_WORDS, "How corrections teach", ROLES)
        usual = teaching_settings(preset("careful").settings)
        self.role.setCurrentIndex(max(0, self.role.findData(usual.scribble)))
        self.form = SettingsForm(usual, TEACHING)
        advanced = QCollapsible("How corrections teach")
        advanced.addWidget(column(row("Teach", self.role, tip=ROLE_WORDS), self.form, spacing=3))
        return advanced

    def _wire(self) -> None:
        context = self._context
        context.actions.provide("paint", self.paint, self._why_no_paint)
        context.actions.provide("teach", self.teach, self._why_not_teach)
        context.paint_requested.connect(self.paint)
        self.right.clicked.connect(self._on_right)
        for signal in (
            context.changed,
            context.session_changed,
            context.slice_changed,
            context.masks_changed,
            context.drawn,
            context.painting_changed,
            context.reviewed.changed,
        ):
            signal.connect(self._look_soon)
        context.runner.ended.connect(self._on_ended)
        context.connections.listen(
            context.viewer.layers.selection.events.active, self._look_for_brush
        )

    # --- painting ----------------------------------------------------------------------------

    def paint(self) -> None:
        """Take napari's brush to the adapted mask, or put it down."""
        context, session = self._context, self._context.session
        if session is None:
            return
        if context.painting:
            layer = session.adapted.layer
            if layer is not None:
                layer.mode = "pan_zoom"
            context.set_painting(False)
            return
        context.look_back(None)
        if context.mode == "source":
            context.show_mode("adapted")
        layer = session.adapted.ensure()
        layer.visible = True
        context.viewer.layers.selection.active = layer
        context.connections.listen(layer.events.mode, self._look_for_brush)
        values = [s.value for s in session.card.structures]
        if context.brush not in (0, *values):
            context.brush = values[0]
        layer.selected_label = context.brush
        layer.mode = "paint"
        context.set_painting(True)
        context.say("Paint over what is wrong; choose what below. Ctrl+Z takes a stroke back.")

    def _look_for_brush(self, event: Any = None) -> None:
        """The user may put the brush down by napari's own means."""
        session, active = self._context.session, self._context.viewer.layers.selection.active
        layer = session.adapted.layer if session is not None else None
        drawing = layer is not None and active is layer and str(layer.mode) != "pan_zoom"
        if self._context.painting and not drawing:
            self._context.set_painting(False)

    def _why_no_paint(self) -> str:
        session = self._context.session
        if session is None or not session.adapted_slices:
            return NO_MASK
        return BUSY if session.busy else ""

    # --- counting ----------------------------------------------------------------------------

    def _on_right(self, on: bool) -> None:
        context = self._context
        if context.session is not None:
            context.reviewed.call_right(context.session, context.in_view(), on)
            self.refresh()

    def _why_not_right(self) -> str:
        session, context = self._context.session, self._context
        if session is None or context.in_view() not in session.adapted_slices:
            return NO_MASK
        if session.busy:
            return BUSY
        if turned := context.why_no_slice():
            return turned
        # What is called right is the mask after, so that is what has to be in view.
        return "" if context.displayed().which == "adapted" else "Look at the mask after first (G)."

    def _count(self, session: Session) -> tuple[int, int]:
        """Return corrected pixels, and slices with any or called right."""
        counts = self._counts.setdefault(session, {})
        here = self._context.in_view()
        for index in {*session.drawn_slices, *counts}:
            if not session.adapted.shown or index not in session.drawn_slices:
                counts.pop(index, None)
            elif index == here or index not in counts:
                mine, model = session.adapted.versions(index)
                counts[index] = int(np.count_nonzero(mine != model))
        return sum(counts.values()), len({*counts, *self._context.reviewed.of(session)})

    def _corrections(self, session: Session) -> Corrections:
        """Return all corrections of the masks as they are shown now."""
        found = Corrections.none()
        right = self._context.reviewed.of(session)
        for index in sorted(session.adapted_slices):
            mine, model = session.adapted.versions(index)
            whole = index in right
            if whole or not np.array_equal(mine, model):
                found = found.with_(Corrections.of_slice(index, mine, model, whole=whole))
        return found

    # --- teaching ----------------------------------------------------------------------------

    def settings(self, usual: Settings) -> Settings:
        """Return ``usual`` with what the user chose."""
        role = str(self.role.currentData())
        if usual.learns_from_stack:
            pass  # all weights go on learning, in the one way that there is for them
        elif role == "fine-tuning":
            usual = usual.but(method="consistency", scribble="pseudo")
        elif role != usual.scribble or usual.method == "consistency":
            usual = usual.but(method="grata", scribble=role)
        return usual.but(**self.form.values())

    def _why_not_teach(self) -> str:
        session = self._context.session
        if session is None or not session.adapted_slices:
            return NO_MASK
        if session.busy or self._context.runner.busy:
            return BUSY
        if session.run is None:
            return "The run's model is still being read, or is gone: wait a moment, or adapt again."
        if not session.drawn_slices and not self._context.reviewed.of(session):
            noun = session.scan.noun
            return f"Nothing is corrected yet: paint on the mask after, or say the {noun} is right."
        return ""

    def teach(self) -> None:
        """Have the model learn from the corrections, and draw all masks anew."""
        context, session = self._context, self._context.session
        if session is None or session.run is None:
            return
        try:
            settings = self.settings(teaching_settings(session.run.settings))
            corrections = self._corrections(session)
            corrections.check(session.card, session.scan)
        except (SettingsError, CorrectionsError) as error:
            context.fail(str(error))
            return
        context.look_back(None)
        if not context.drawings_are_safe():
            return
        snapshots: list[MaskSnapshot] = []
        self._teaching = session, snapshots, corrections, context.reviewed.of(session)
        make = partial(
            teach,
            partial(self._keep, session, snapshots, corrections),
            session.run,
            corrections,
            settings,
            context.runner.folder_of(session),
            context.runner.job.abandoned,
        )
        session.expected_steps = settings.correction_steps * len(corrections.slices)
        session.settings = settings
        context.set_painting(False)
        context.runner.start(
            "adapt", session, make, f"Learning from corrections of {session.scan.name}"
        )
        context.take_results()

    @staticmethod
    def _keep(session: Session, snapshots: list[MaskSnapshot], corrections: Corrections) -> None:
        """Keep the session as it is; what was painted becomes part of the mask."""
        snapshots.append(MaskSnapshot(session))
        shown = session.adapted.as_shown()
        for index in corrections.slices:
            session.scan.put_mask(session.adapted.stack, index, session.scan.get_mask(shown, index))
        session.records.clear()
        session.drawn_slices.clear()
        session.taken_step, session.chosen, session.reopened = None, "", None

    def _on_ended(self, kind: str, outcome: Outcome) -> None:
        teaching, self._teaching = self._teaching, None
        context = self._context
        if teaching is None or context.runner.session is not teaching[0]:
            if kind == "adapt" and context.runner.session is not None:
                self._counts.pop(context.runner.session, None)
                context.reviewed.put_back(context.runner.session)
            self._look_soon()
            return
        session, snapshots, corrections, right = teaching
        if not snapshots or session.run is snapshots[0].run:
            # It failed before it began: nothing has been learned.
            if snapshots:
                snapshots[0].put_back(session)
            context.take_results()
            return
        snapshot = snapshots[0]
        self._forget(session)
        context.undo.push(
            Undoable(
                "learning from your corrections",
                partial(self._undo, session, snapshot, right),
                owner=session,
                drop=partial(close_unless_used, snapshot.run, weakref.ref(session)),
            )
        )
        if outcome.kind == "done":
            noun = session.scan.noun
            session.note = (
                f"Learned from {_pixels(corrections.pixels)} on "
                f"{counted(len(corrections.slices), noun)}; "
                f"{counted(len(session.adapted_slices), noun)} drawn anew. {self._rest(session)}"
            ).strip()
            session.note_tone = "good"
        context.touch()

    def _rest(self, session: Session) -> str:
        """Let the cases after this one begin with what was learned; returns what to say."""
        flow = self._context.flow
        if flow is None or self.where.currentData() != REST or self.where_row.isHidden():
            return ""
        from napari_grata.adaptation.teaching import taught_state

        wanted = flow.cases_after()
        if not wanted:
            return "All cases after it are decided; they stay as they are."
        flow.begin_with(taught_state(session.run), wanted)
        return f"{counted(len(wanted), 'case')} after it will begin with what was learned."

    def _undo(self, session: Session, snapshot: MaskSnapshot, right: Masks) -> None:
        """Go back to the masks before the model learned, what was painted included."""
        later = session.run
        snapshot.put_back(session)
        self._context.reviewed.replace(session, right)
        if later is not None and later is not snapshot.run:
            later.close()
            if self._context.flow is not None:
                self._context.flow.begin_with(None, [])
                self._context.flow.take_back(session, later.folder)
        self._context.take_results()
        self._context.say("The masks are as they were before the model learned from them.")

    def _forget(self, session: Session) -> None:
        self._counts.pop(session, None)
        self._context.reviewed.replace(session, {})

    # --- what is shown -----------------------------------------------------------------------

    def _look_soon(self, *_: object) -> None:
        if not self._soon.isActive():
            self._soon.start()

    def refresh(self) -> None:
        """Bring the section in line."""
        context, session = self._context, self._context.session
        self.paint_button.setText("Stop painting" if context.painting else "Paint")
        words = "Paint on the mask after with napari's brush."
        offer(self.paint_button, self._why_no_paint(), keys.tip("paint", words))
        words = (
            "The model learns from what you corrected and draws all slices anew; what you painted "
            "stays as you painted it."
        )
        offer(self.teach_button, self._why_not_teach(), keys.tip("teach", words))
        after = context.flow.cases_after() if context.flow is not None else []
        self.where_row.setVisible(bool(after))
        here = context.in_view()
        with QSignalBlocker(self.right):
            noun = session.scan.noun if session is not None else "slice"
            self.right.setText(f"This {noun} is right now")
            self.right.setChecked(session is not None and here in context.reviewed.of(session))
        words = (
            "All of this slice, as it is shown, may teach, and weighs other masks: also what you "
            "left alone. Tick it only when nothing is wrong any more."
        )
        offer(self.right, self._why_not_right(), words)
        self.count.say(self._words(session))

    def _words(self, session: Session | None) -> str:
        if session is None or not session.adapted_slices or session.busy:
            return NO_MASK if session is None or not session.busy else ""
        pixels, slices = self._count(session)
        taught = session.run.corrections if session.run is not None else None
        earlier = f" Learned from so far: {_pixels(taught.pixels)}." if taught else ""
        if not slices:
            return f"Nothing corrected yet.{earlier}"
        return f"{_pixels(pixels)} corrected, on {counted(slices, session.scan.noun)}.{earlier}"


def _pixels(number: int) -> str:
    return "1 pixel" if number == 1 else f"{number:,} pixels".replace(",", "\u202f")
