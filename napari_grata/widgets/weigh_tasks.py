"""What the jobs of a weighing do: make candidates, propose slices, weigh, take the choice over.

Without Qt; see `napari_grata.widgets.tasks`. What the user calls right comes to `weigh_slices`
alone, when all candidates are finished.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.run_files import now
from napari_grata.adaptation.settings import preset
from napari_grata.review.candidates import SOURCE, TAUGHT, USUAL, Candidate, CandidateRuns
from napari_grata.review.carried import CarriedChoice, as_planned
from napari_grata.review.choice_record import (
    RECORD_FILE,
    ChoiceRecord,
    record_choice,
    use_choice,
)
from napari_grata.review.choosing import Choice, Weighing, chosen_masks, recommend, weigh
from napari_grata.review.proposing import propose
from napari_grata.scans.files import FileError, write_json
from napari_grata.widgets import tasks

if TYPE_CHECKING:
    from napari_grata.adaptation.records import ChosenInfo, Flag, Record
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.widgets.session import Session

AT_HAND = "at-hand"
_TAUGHT = "The run at hand learned from your corrections, so it is not weighed against them."
Masks = Mapping[int, np.ndarray]
Over = tuple[Masks, "tuple[ChosenInfo, ...]"]


@dataclass
class Pool:
    """All candidates of a session, finished; their runs stay open for their probabilities.

    Attributes
    ----------
    slices : tuple of int
    region : (row0, col0, row1, col1) or None
    segmenter : Segmenter
    runs : CandidateRuns
    at_hand : (AdaptationRun, int or None) or None
        The run, and the step that it was taken to, whose masks are among the candidates or were
        left out.
    candidates : list of Candidate
    left_out : str
        Why the run at hand is not among them, if that has to be said.
    taught_by : mapping of int to ndarray
        The reviewed masks that a candidate has learned from.
    """

    slices: tuple[int, ...]
    region: tasks.Region | None
    segmenter: Any
    runs: CandidateRuns
    at_hand: tuple[AdaptationRun, int | None] | None
    candidates: list[Candidate]
    left_out: str = ""
    taught_by: Masks = field(default_factory=dict)

    def taught(self, reviewed: Masks) -> Generator[Any, None, Pool]:
        """Return the same with a candidate that has learned from these masks, if not there."""
        if same_masks(self.taught_by, reviewed):
            return self
        for done, total in self.runs.teach(reviewed):
            yield tasks.Progress("Learning from your review", done, total)
        candidates = [*self.untaught().candidates, self.runs.candidates[-1]]
        return replace(self, candidates=candidates, taught_by=reviewed)

    def untaught(self) -> Pool:
        """Return the same without it."""
        others = [one for one in self.candidates if one.name != TAUGHT]
        return replace(self, candidates=others, taught_by={})


@dataclass
class Found:
    """What is known of a session so far.

    Attributes
    ----------
    proposed : list of int
        Slices to look at.
    pool : Pool or None
    weighing : Weighing or None
    choice : Choice or None
    reviewed : dict of int to ndarray
        The masks that were weighed with.
    told : ChosenInfo or None
        What the run was told of the choice when it was used.
    """

    proposed: list[int] = field(default_factory=list)
    pool: Pool | None = None
    weighing: Weighing | None = None
    choice: Choice | None = None
    reviewed: dict[int, np.ndarray] = field(default_factory=dict)
    told: ChosenInfo | None = None


@dataclass(frozen=True)
class Work:
    """What a job works on, captured when it begins."""

    engine: tasks.Engine
    model: Path
    device: str
    session: Session
    slices: tuple[int, ...]
    abandoned: threading.Event
    pool: Pool | None

    def pooled(self) -> Generator[Any, None, Pool]:
        """Return the candidates; those that are there from before are not made again."""
        session, pool = self.session, self.pool
        if pool is None or (pool.slices, pool.region) != (self.slices, session.region):
            pool = yield from self._made()
        if pool.at_hand != (session.run, session.run.taken):
            pool = self._with_run_at_hand(pool)
        return pool

    def _made(self) -> Generator[Any, None, Pool]:
        segmenter = yield from self.engine.load(self.model, self.device)
        yield tasks.Stage("Trying what could be better …")
        session = self.session
        # From the source model each time, and without any correction: what the user says is right
        # must not have taught what is weighed against it.
        runs = CandidateRuns(
            segmenter,
            session.scan,
            USUAL,
            slices=list(self.slices),
            region=session.region,
            source_masks=session.source_masks(self.slices, session.region),
            seed=session.run.settings.seed,
        )
        records: Any = runs.records()
        finished = False
        try:
            for done, _ in enumerate(records, 1):
                yield tasks.Progress(f"Trying {runs.now}", done, runs.total)
            finished = not self.abandoned.is_set()
        finally:
            records.close()
            if not finished:
                runs.close()
        for text in runs.notices:
            yield tasks.Notice(text)
        found = [
            replace(one, title="Mask before") if one.name == SOURCE else one
            for one in runs.candidates
        ]
        return Pool(self.slices, session.region, segmenter, runs, None, found)

    def _with_run_at_hand(self, pool: Pool) -> Pool:
        """Add the masks of the run at hand, unless a candidate is the same or it was taught."""
        run, scan, stack = self.session.run, self.session.scan, self.session.adapted.stack
        found = [one for one in pool.candidates if one.name != AT_HAND]
        taught = bool(run.corrections.slices)
        if not taught and not _usual(run):
            # Without probabilities: those of a run that stands elsewhere fit other masks.
            masks = {i: np.array(scan.get_mask(stack, i), dtype=np.uint8) for i in self.slices}
            masks.update(run.beneath)  # its own, not what was chosen in their place
            title = "Run at hand" + ("" if run.taken is None else f", after step {run.taken}")
            found.append(Candidate(AT_HAND, title, masks, region=pool.region))
        return replace(
            pool,
            at_hand=(run, run.taken),
            candidates=found,
            left_out=_TAUGHT if taught else "",
        )


def _usual(run: AdaptationRun) -> bool:
    """Return whether a run is one of those that are made in any case."""
    return as_planned(run) and any(
        run.settings == preset(name).settings.but(seed=run.settings.seed) for name in USUAL
    )


def same_masks(these: Masks, those: Masks) -> bool:
    """Return whether they are the very same masks of the same slices."""
    return these.keys() == those.keys() and all(these[index] is those[index] for index in these)


def propose_slices(work: Work, count: int, leave_out: set[int]) -> Iterator[Any]:
    """Make the candidates and yield them with the slices to look at."""
    with tasks.leave_room_for_the_interface():
        pool = yield from work.pooled()
        yield pool
        yield tasks.Stage("Looking where they differ …")
        scan = work.session.scan
        yield propose(
            work.session.card, pool.candidates, count, stack=scan.is_stack, leave_out=leave_out
        )


def weigh_slices(work: Work, reviewed: Masks, proposed: list[int], *, teach: bool) -> Iterator[Any]:
    """Weigh the candidates on reviewed masks; yields them, the weighing and what it comes to."""
    with tasks.leave_room_for_the_interface():
        pool = yield from work.pooled()
        pool = (yield from pool.taught(reviewed)) if teach else pool.untaught()
        yield pool
        session = work.session
        for step in weigh(pool.segmenter, pool.candidates, reviewed, stack=session.scan.is_stack):
            if isinstance(step, Weighing):
                weighing = step
            else:
                yield tasks.Progress("Weighing", *step)
        choice = recommend(weighing)
        yield from _write(session.run, Found(proposed, pool, weighing, choice))
        yield weighing
        yield choice


@dataclass(frozen=True)
class Changed:
    """Masks after that take the place of others, with their flags, and how they were chosen."""

    masks: Masks
    flags: Mapping[int, tuple[Flag, ...]]
    told: ChosenInfo | None = None


def choose_masks(work: Work, found: Found, slices: list[int]) -> Iterator[Any]:
    """Make the masks as chosen, keep them with the run, and yield them."""
    session, pool = work.session, work.pool
    assert pool is not None
    assert found.choice is not None
    masks: dict[int, np.ndarray] = {}
    flags: dict[int, tuple[Flag, ...]] = {}
    with tasks.leave_room_for_the_interface():
        stream = chosen_masks(pool.segmenter, found.choice, pool.candidates, slices)
        for done, (index, mask) in enumerate(stream, 1):
            masks[index] = mask
            flags[index] = session.flag(index, pool.candidates[0].masks[index], mask)
            yield tasks.Progress("Taking over", done, len(slices))
    record = record_of(session.run, found)
    yield Changed(masks, flags, use_choice(session.run, record.told, masks))


def change_back(run: AdaptationRun, changed: Changed, over: Over) -> Iterator[Any]:
    """Take a choice back, or use it again: what lay, or is to lie, over the run's own masks."""
    yield tasks.Stage("Changing the masks …")
    run.choose(*over)
    yield changed


def lies_over(run: AdaptationRun) -> Over:
    """Return the masks that lie over a run's own, and what is told of them."""
    return {index: run.adapted_masks[index] for index in run.beneath}, run.chosen


def carry_masks(work: Work, carried: CarriedChoice, slices: list[int]) -> Iterator[Any]:
    """Make the masks as was chosen on another case, keep them with the run, and yield them."""
    session = work.session
    segmenter = yield from work.engine.load(work.model, work.device)
    yield tasks.Stage(f"Using the choice made on {carried.told['case']} …")
    with tasks.leave_room_for_the_interface():
        found = yield from _as_progress(carried.lay_over(session.run, segmenter, session.scan))
    masks = {index: found[index] for index in slices}
    source = session.source_masks(slices, session.region)
    flags = {index: session.flag(index, source[index], mask) for index, mask in masks.items()}
    yield Changed(masks, flags, use_choice(session.run, carried.told, masks))


def _as_progress(records: Generator[Record, None, Masks]) -> Generator[Any, None, Masks]:
    """Yield how far records are; returns what they return."""
    while True:
        try:
            record = next(records)
        except StopIteration as end:
            masks: Masks = end.value
            return masks
        yield tasks.Progress("Trying what was chosen", record.done, record.total)


def record_of(run: AdaptationRun, found: Found) -> ChoiceRecord:
    """Return what was weighed on a run's scan and chosen there."""
    assert found.weighing is not None
    assert found.pool is not None
    names = {row.candidate for row in found.weighing.rows}
    settings = {**found.pool.runs.settings, AT_HAND: run.settings}
    return record_choice(
        run.segmenter.card,
        run.scan,
        found.weighing,
        {name: one for name, one in settings.items() if name in names},
        found.choice,
    )


def _write(run: AdaptationRun, found: Found) -> Iterator[tasks.Notice]:
    """Keep a weighing in the run's folder, if it has one.

    What fails is said, no more: what is in use is kept by the run itself.
    """
    if run.folder is None:
        return
    more = {"time": now(), "proposed": found.proposed}
    try:
        write_json(run.folder / RECORD_FILE, {**record_of(run, found).to_dict(), **more})
    except (FileError, ValueError) as error:
        why = getattr(error, "what", None) or error
        yield tasks.Notice(f"The weighing could not be kept with the run: {why}.")
