"""A run over a scan's slices: a stream of immutable records, with its history."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .corrections import Corrections
from .flags import flag_slice, mean_entropy
from .history import History
from .journal import Journal
from .plan import Event, Region, RunError, checked_region, checked_slices, cut_short, make_plan
from .records import Record, figures, measure
from .runfolder import THETA_FILE, RunFolder, fresh_folder
from .settings import Settings, preset
from .shift import FarSlices
from .slice_adapter import SliceAdapter
from .source_masks import SourceMasks
from .taken_masks import write_taken
from .theta_choice import ThetaChoice

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Prediction, Segmenter

    from .methods import Snapshot


class AdaptationRun:
    """One adaptation of one model to one scan, with its history.

    Parameters are those of `napari_grata.adaptation.adapt`, and ``start``: the `state` of an
    earlier run with the same model and settings, from which this one goes on in place of the
    source model (its step 0, which resets go back to), and ``corrections``: what a reviewer drew,
    which stays in the masks of this run, and teaches if ``settings.scribble`` says so. Nothing is
    computed before `records` is iterated.

    Attributes
    ----------
    settings : Settings
    plan : tuple of Event
        Everything that will happen, in order.
    position : int
        Events done, as rolled back to.
    history : History
        θ and optimiser state after each step.
    corrections : Corrections
        Of this scan; empty if there are none.
    past : Journal
        All records so far, masks on demand.
    source_masks, adapted_masks : dict of int to ndarray of uint8, shape (H, W)
        Label maps by slice: source, and as adapted so far.
    folder : Path or None
        The run folder.
    taken : int or None
        The step whose masks, of the whole stack, were made the result by `take`.
    cut : int or None
        After how many events the run was cut short by `finish`.
    active : bool
        Whether the stream is going on (or pausing between two records).
    notices : list of str
        What happened that the person should know, such as a move to the CPU.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        scan: Scan,
        settings: Settings | None = None,
        *,
        slices: Sequence[int] | str | None = None,
        region: Region | None = None,
        folder: str | Path | None = None,
        source_masks: Mapping[int, np.ndarray] | None = None,
        start: Snapshot | None = None,
        corrections: Corrections | None = None,
        _kept: tuple[Path, Journal, History, int | None] | None = None,
        _cut: int | None = None,
    ) -> None:
        self.settings = settings if settings is not None else preset("careful").settings
        problem = segmenter.fits(scan)
        if problem is not None:
            raise RunError(problem)
        self.scan = scan
        self.slices = checked_slices(slices, scan)
        self.region = checked_region(region, self.slices, scan)
        self.corrections = corrections if corrections is not None else Corrections.none()
        self.corrections.check(segmenter.card, scan)
        taught = self.corrections.slices if self.settings.scribble != "none" else ()
        self.plan: tuple[Event, ...] = make_plan(self.settings, self.slices, scan.case_of, taught)
        self.cut = _cut
        self.taken: int | None = None
        if _cut is not None:
            self.plan = cut_short(self.plan, _cut, self.settings)
        self.notices: list[str] = []
        self._lock = threading.RLock()
        self.active = False
        self._adapter = SliceAdapter(
            segmenter, scan, self.settings, self.region, self.notices, self.corrections
        )
        self.continued = start is not None
        if start is not None:
            self._adapter.restore(start)
        self.folder: Path | None = None
        if _kept is not None:
            self.folder, self.past, self.history, stood = _kept
            held = sum(event.step <= self.history.last_step for event in self.plan)
            self.position = min(len(self.past) if stood is None else stood, len(self.past), held)
        else:
            if folder is not None:
                self.folder = fresh_folder(folder)
            self.past = Journal([s.name for s in segmenter.card.structures], self.folder)
            self.history = History(
                self._adapter.snapshot(),
                self.folder and self.folder / THETA_FILE,
                parameters=self._adapter.parameters(),
            )
            self.position = 0
        self._adapter.start = self.history.theta(0)
        self._thetas = ThetaChoice(self.settings, self.history, self.past)
        self._keeper = None if self.folder is None else RunFolder(self.folder)
        self._far = FarSlices(scan, self.region)
        self._sources = SourceMasks(scan, self._adapter, self.past, source_masks)
        self.source_masks = self.past.source_masks
        self.adapted_masks = self.past.latest_masks(self.position)

    # -- the stream ------------------------------------------------------------------------

    @property
    def total(self) -> int:
        """Events in all."""
        return len(self.plan)

    @property
    def segmenter(self) -> Segmenter:
        """The source model; after out-of-memory the copy on the CPU."""
        return self._adapter.segmenter

    @property
    def step(self) -> int:
        """Optimiser steps taken, as rolled back to."""
        return self.plan[self.position - 1].step if self.position else 0

    @property
    def state(self) -> Snapshot:
        """θ, optimiser and generator as they are now: what the next scan's run can start from."""
        return self._adapter.snapshot()

    def records(self) -> Iterator[Record]:
        """Go on from where the run stands and yield a record an event.

        Closing the iterator cancels: the run folder then holds what was finished, and `resume`
        goes on from there. An error leaves the state of the last finished step.
        """
        if self.active:
            raise RunError("This run is going on already; cancel it before starting it again.")
        self.active = True
        self._forget_taken()
        state = "failed"
        try:
            with self._lock:
                self._adapter.restore(self.history[self.step])
            if self._keeper is not None:
                self._keeper.begin(self)
            while self.position < len(self.plan):
                with self._lock:
                    record = self._event(self.plan[self.position])
                yield record
            state = "finished"
        except (GeneratorExit, KeyboardInterrupt):
            state = "finished" if self.position == len(self.plan) else "cancelled"
            raise
        finally:
            self.active = False
            if self._keeper is not None:
                self._keeper.end(self, state)

    def resume(self) -> Iterator[Record]:
        """Go on after a cancel, an error or a rollback: the same as `records`."""
        return self.records()

    def finish(self) -> Iterator[Record]:
        """Learn no more, and predict the slices that lack a result with the θ reached.

        For a run that was cancelled, or rolled back: what lies ahead of where it stands is given
        up. The same as `records` where nothing was learnt yet, or the method learns nothing.
        """
        if self.active:
            raise RunError("This run is going on already; cancel it before finishing it.")
        with self._lock:
            plan = cut_short(self.plan, self.position, self.settings)
            if plan != self.plan:
                self.past.truncate(self.position)
                self.plan, self.cut = plan, self.position
        return self.records()

    def rollback(self, step: int) -> None:
        """Go back to the state after ``step`` optimiser steps; 0 is the source model.

        Later records stay until the run goes on from here, so that a rollback can itself be
        taken back with a rollback to a later step.

        Raises
        ------
        RunError
            If the run has not come to that step.
        """
        with self._lock:
            last = self.history.last_step
            if not 0 <= step <= last:
                raise RunError(f"Step {step} is not in this run's history; it holds 0 to {last}.")
            if step == 0:
                self.position = 0
            else:
                self.position = sum(
                    self.plan[number].step <= step for number in range(len(self.past))
                )
            self._adapter.restore(self.history[self.step])
            self._thetas.forget()
            self.taken = None
            self.adapted_masks = self.past.latest_masks(self.position)
            if self._keeper is not None:
                self._keeper.rolled_back(self)

    def take(self, step: int, masks: Mapping[int, np.ndarray]) -> None:
        """Make masks as they were after a step the result, in memory and in the run folder.

        A rollback alone leaves the masks of slices that had been reached by then; this keeps those
        of a whole stack, predicted from that state. The run goes on from where it stands, as ever,
        and forgets them then.
        """
        with self._lock:
            self.adapted_masks.update(masks)
            if self._keeper is not None and not self.active:
                write_taken(self._keeper.path, masks)
                self.taken = step
                self._keeper.rolled_back(self)
            self.taken = step

    def reset(self) -> None:
        """Go back to the source model, before the first event."""
        self.rollback(0)

    def predict(self, slice_index: int, step: int | None = None) -> Prediction:
        """Predict a slice's mask with the model as it was after some step.

        May be called from another thread while the run goes on; it disturbs nothing.

        Parameters
        ----------
        slice_index : int
            Any slice of the scan.
        step : int, optional
            Steps taken; 0 is the source model's θ (under the method's statistics). By default
            the state the run would predict this slice with now: that whose masks were made the
            result by `take`, else the latest or the averaged θ of the slice's episode.
        """
        theta = None
        if self.settings.learns:
            theta = self.history.theta(step) if step is not None else self.theta_of(slice_index)
        prediction = self._adapter.predict(slice_index, theta)
        if self.region is not None and slice_index in self.source_masks:
            prediction.label_map[...] = self._within_region(prediction.label_map, slice_index)
        if slice_index in self.corrections.labels:
            label_map = self.corrections.put_into(slice_index, prediction.label_map)
            prediction = replace(prediction, label_map=label_map)
        return prediction

    def theta_of(self, slice_index: int) -> np.ndarray:
        """Return the θ with which a slice is predicted now, shape (n,)."""
        if not self.settings.learns:
            return self.history.theta(0)
        taken = self.taken
        if taken is not None:
            return self.history.theta(taken)
        return self._thetas.of_slice(slice_index, self.plan[: self.position])

    def close(self) -> None:
        """Close the files; temporary ones are removed. The masks stay in memory."""
        with self._lock:
            self.past.close()
            self.history.close()

    # -- one event -------------------------------------------------------------------------

    def _forget_taken(self) -> None:
        """The run goes on: its own masks are the result again."""
        if self.taken is not None:
            self.taken = None
            self.adapted_masks = self.past.latest_masks(self.position)

    def _event(self, event: Event) -> Record:
        begin = time.perf_counter()
        self._forget_taken()
        self.past.truncate(self.position)
        self.history.truncate(self.plan[self.position - 1].step if self.position else 0)
        coming = (later.slice_index for later in self.plan[self.position :])
        source = self._sources.get(event.slice_index, coming)
        result = None
        if event.phase == "adapt":
            if event.resets:
                # What the run began with: the source model, or what it was to start from.
                self._adapter.restore(self.history[0])
            result, prediction = self._adapter.step(event.slice_index)
            if self.settings.learns:
                self.history.append(self._adapter.snapshot())
        else:
            prediction = self._adapter.predict(event.slice_index, self._thetas.of_event(event))
        undone = bool(result is not None and result.undone)
        if prediction is None:
            adapted, probabilities, entropy, source_entropy = source, None, None, None
        else:
            probabilities = prediction.probabilities
            adapted = self._within_region(prediction.label_map, event.slice_index)
            entropy = mean_entropy(probabilities, self.segmenter.card.activation)
            source_entropy = self._sources.entropy(event.slice_index, entropy)
        adapted = self.corrections.put_into(event.slice_index, adapted)
        card = self.segmenter.card
        flags = flag_slice(
            card,
            source,
            adapted,
            probabilities=probabilities,
            entropy=entropy,
            source_entropy=source_entropy,
            region=self.region,
            expected=self.scan.kind in ("photograph", "photographs"),
            undone=undone,
            far=self._far.words(self.segmenter, event.slice_index),
        )
        adapted = np.ascontiguousarray(adapted)
        adapted.flags.writeable = False
        record = Record(
            phase=event.phase,
            step=event.step,
            done=self.position + 1,
            total=len(self.plan),
            slice_index=event.slice_index,
            case=event.case,
            pass_index=event.pass_index,
            source_mask=source,
            adapted_mask=adapted,
            **figures(result),
            **measure(card, source, adapted),
            flags=flags,
            undone=undone,
            seconds=time.perf_counter() - begin,
            final=event.final,
        )
        self.past.append(record)
        self.adapted_masks[event.slice_index] = adapted
        self.position += 1
        return record

    def _within_region(self, label_map: np.ndarray, slice_index: int) -> np.ndarray:
        """Outside the region nothing was looked at: the source mask stays."""
        if self.region is None:
            return label_map
        row0, col0, row1, col1 = self.region
        merged = np.array(self.source_masks[slice_index])
        merged[row0:row1, col0:col1] = label_map[row0:row1, col0:col1]
        return merged


def adapt(
    segmenter: Segmenter,
    scan: Scan,
    method: str = "careful",
    *,
    settings: Settings | None = None,
    slices: Sequence[int] | str | None = None,
    region: Region | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    source_masks: Mapping[int, np.ndarray] | None = None,
) -> Iterator[Record]:
    """Adapt a segmenter to a scan and hand out a record for each step.

    Parameters
    ----------
    segmenter : Segmenter
        The source model; neither it nor its file is changed.
    scan : Scan
    method : str
        Name of a preset: ``careful``, ``as-published`` (``grata``), ``consistency``,
        ``batch-norm``, ``source``.
    settings : Settings, optional
        In place of a preset.
    slices : sequence of int or str, optional
        Flat slice numbers from 0, or text as `parse_slices` reads it; all by default. Worked on
        in this order.
    region : (row0, col0, row1, col1), optional
        Rectangle in displayed pixels, half-open: only this part is seen and changed.
    seed : int, optional
        In place of the settings' seed.
    folder : path, optional
        Where to leave a run folder; a new name is found if it is not empty.
    source_masks : mapping of int to ndarray, optional
        Source label maps that are there already, by slice.

    Returns
    -------
    iterator of Record
        Closing it cancels the run; what was finished stays in the run folder.

    Raises
    ------
    RunError
        If the model cannot read the scan, or the slices or region are not the scan's.
    """
    chosen = settings if settings is not None else preset(method).settings
    if seed is not None:
        chosen = chosen.but(seed=seed)
    run = AdaptationRun(
        segmenter,
        scan,
        chosen,
        slices=slices,
        region=region,
        folder=folder,
        source_masks=source_masks,
    )

    def stream() -> Iterator[Record]:
        try:
            yield from run.records()
        finally:
            run.close()

    return stream()
