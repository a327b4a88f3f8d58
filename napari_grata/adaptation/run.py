"""A run over a scan's slices: a stream of immutable records, each kept before it is told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.segmenters.extent import implausible
from napari_grata.segmenters.preprocessing import PredictionError
from napari_grata.segmenters.segmenter import memory_in_words

from .corrections import Corrections
from .flags import Slice, flag_slice, mean_entropy
from .plan import Event, Region, RunError, checked_region, checked_slices, cut_short, make_plan
from .records import ChosenInfo, Record, figures, measure
from .result import OngoingResult
from .run_files import begin, fresh_folder, now, write_masks, write_tables
from .run_store import RunFolderError, RunStore
from .settings import Settings, preset
from .shift import FarSlices
from .stepper import TO_ADAPT, SourceMasks, Stepper
from .volume_stepper import VolumeStepper

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Prediction, Segmenter

    from .methods.base import Snapshot

_log = logging.getLogger(__name__)


def adapt(
    segmenter: Segmenter,
    scan: Scan,
    method: str = "careful",
    *,
    settings: Settings | None = None,
    seed: int | None = None,
    **options: Any,
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
    seed : int, optional
        In place of the settings' seed.
    **options
        ``slices``, ``region``, ``folder`` and others of `AdaptationRun`.

    Returns
    -------
    iterator of Record
        Closing it cancels the run; what was finished stays in the run folder.

    Raises
    ------
    RunError
        If the model cannot read the scan, or the slices or region are not the scan's.
    RunFolderError
        If the run cannot be kept, such as on a full disk; also in mid-run.
    """
    chosen = settings if settings is not None else preset(method).settings
    if seed is not None:
        chosen = chosen.but(seed=seed)
    run = AdaptationRun(segmenter, scan, chosen, **options)

    def stream() -> Iterator[Record]:
        try:
            yield from run.records()
        finally:
            run.close()

    return stream()


class AdaptationRun(OngoingResult):
    """One adaptation of one model to one scan, with its past.

    Nothing is computed before `records` is iterated.

    Parameters
    ----------
    segmenter, scan, settings
        As for `adapt`.
    slices : sequence of int or str, optional
        Flat slice numbers from 0, or text as `parse_slices` reads it; all by default. Worked on
        in this order.
    region : (row0, col0, row1, col1), optional
        Rectangle in displayed pixels, half-open: only this part is seen and changed.
    folder : path, optional
        Where to leave a run folder; a new name is found if it is not empty.
    source_masks : mapping of int to ndarray, optional
        Source label maps that are there already, by slice.
    start : Snapshot, optional
        The `state` of an earlier run with the same model and settings, from which this one goes
        on in place of the source model (its step 0, which resets go back to).
    corrections : Corrections, optional
        What a reviewer drew, which stays in the masks of this run, and teaches if
        ``settings.scribble`` says so.
    cut : int, optional
        Finish after so many events, as `finish` does.
    store : RunStore, optional
        Of a run that goes on; in place of ``folder`` and ``start``.

    Attributes
    ----------
    past, settings, plan, position, source_masks, adapted_masks, taken, chosen, beneath
        See `OngoingResult`.
    corrections : Corrections
        Of this scan; empty if there are none.
    folder : Path or None
        The run folder.
    cut : int or None
        After how many events the run was cut short by `finish`.
    active : bool
        Whether the stream is going on (or pausing between two records).
    notices : list of str
        What happened that the user should know, such as a move to the CPU.

    Raises
    ------
    RunError, CorrectionsError
        If the model cannot read the scan, or slices, region or corrections are not the scan's.
    RunFolderError
        If the run cannot be kept.
    """

    watch: Callable[[int, np.ndarray], None] | None = None
    """Called with slice and probabilities (S, H, W) of each final mask, before its record."""

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
        cut: int | None = None,
        store: RunStore | None = None,
    ) -> None:
        settings = settings if settings is not None else preset("careful").settings
        problem = segmenter.fits(scan)
        if problem is not None:
            raise RunError(problem)
        self.scan = scan
        self.slices = checked_slices(slices, scan)
        self.region = checked_region(region, self.slices, scan)
        self.corrections = corrections if corrections is not None else Corrections.none()
        self.corrections.check(segmenter.card, scan)
        taught = self.corrections.slices if settings.scribble != "none" else ()
        volumes = segmenter.card.patch is not None
        if volumes and settings.prompts:
            raise RunError(
                f"The method {settings.method} learns a prompt for each slice, and this model "
                "reads whole volumes. Choose another method, or a model that reads slices."
            )
        plan = make_plan(settings, self.slices, scan.case_of, taught, volumes=volumes)
        self.cut = cut
        if cut is not None:
            plan = cut_short(plan, cut, settings)
        self.notices: list[str] = []
        self.active = False
        self.continued = start is not None
        self._lock = threading.RLock()
        with memory_in_words(TO_ADAPT):
            kind = VolumeStepper if volumes else Stepper
            given = scan, settings, self.region, self.notices, self.corrections
            try:
                self._adapter: Stepper = kind(segmenter, *given)
            except ValueError as error:
                if type(error) is ValueError:  # a network that cannot serve the settings
                    raise RunError(str(error)) from error
                raise
            if start is not None:
                self._adapter.restore(start)
            first = self._adapter.snapshot() if store is None else None
        if store is None:
            self.folder = None if folder is None else fresh_folder(folder)
            with memory_in_words(TO_ADAPT):
                store = RunStore(self.folder, first)
        else:
            self.folder = store.folder
            planned = [event.slice_index for event in plan[: len(store)]]
            if planned != [record.slice_index for record in store.without_masks()]:
                raise RunFolderError(
                    "The steps of this run are not those that its settings ask for; it was made "
                    "by another version. It can be looked at but not resumed."
                )
            self.continued = store.info["continued"]
        super().__init__(store, settings, plan, volumes or settings.predicts_afterwards)
        self._adapter.start = store.theta(0)
        self.adopt_frames(store.without_masks())
        self._far = FarSlices(scan)
        self._sources = SourceMasks(self._adapter, store, scan, source_masks or {})

    # -- the stream ------------------------------------------------------------------------

    @property
    def segmenter(self) -> Segmenter:
        """The source model; after out-of-memory the copy on the CPU."""
        return self._adapter.segmenter

    @property
    def card(self) -> Card:
        """The model's card."""
        return self._adapter.segmenter.card

    @property
    def adapted(self) -> tuple[int, int]:
        """How many parameters of the model adapt, and how many it has."""
        return self._adapter.adapted

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
            with self._lock, memory_in_words(TO_ADAPT):
                self._adapter.restore(self.past.state(self.step))
                self._begin()
            while self.position < len(self.plan):
                with self._lock, memory_in_words(TO_ADAPT):
                    record = self._event(self.plan[self.position])
                yield record
            state = "finished"
            if self.segmenter.card.dimensions == 3:
                masks = self.adapted_masks
                for _, words in implausible(self.segmenter.card, masks, self.scan, slices=masks):
                    self._notice(words)
        except (GeneratorExit, KeyboardInterrupt):
            state = "finished" if self.position == len(self.plan) else "cancelled"
            raise
        finally:
            self.active = False
            self._adapter.rest()
            self._rest(state)

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
            If the run has not come to that step, or its state is not kept.
        RunFolderError
            If it cannot be kept where the run stands; then it stands where it stood.
        """
        with self._lock:
            if step not in self.past.steps:
                kept = f"it holds 0 to {self.past.last_step}"
                if 0 <= step < self.past.last_step:
                    kept += f", of which it keeps {len(self.past.steps)}"
                raise RunError(f"Step {step} is not in this run's history; {kept}.")
            past = self.past.without_masks()
            position = sum(record.step <= step for record in past) if step else 0
            reached = self.plan[position - 1].step if position else 0
            state = self.past.state(reached)
            if not self.active:
                self.past.stand(position=position, step=reached, taken=None, chosen=[])
            with memory_in_words(TO_ADAPT):
                self._adapter.restore(state)
            self._stand_at(position)
            if not self.active:
                self._rest()

    def take(self, step: int, masks: Mapping[int, np.ndarray]) -> None:
        """Make masks as they were after a step the result, in memory and in the run folder.

        A rollback alone leaves the masks of slices that had been reached by then; this keeps those
        of a whole stack, predicted from that state. The run goes on from where it stands, as ever,
        and forgets them then.

        Raises
        ------
        RunFolderError
            If they cannot be kept; then nothing has changed.
        """
        with self._lock:
            if not self.active:
                told = {"taken": step, "taken_slices": len(masks), "chosen": []}
                self.past.stand({"taken": masks}, **told)
            self.taken = step
            self._lay_over({}, ())
            self.adapted_masks.update(masks)
            if not self.active:
                self._rest()

    def choose(self, masks: Mapping[int, np.ndarray], chosen: Sequence[ChosenInfo]) -> None:
        """Lay masks that others made over the run's own, in memory and in the run folder.

        In place of all that lay there before, so that without any the run's own are the result
        again. What takes the run to another state, or lets it go on, takes them away.

        Parameters
        ----------
        masks : mapping of int to ndarray of uint8, shape (H, W)
        chosen : sequence of ChosenInfo
            How they were chosen; together they name the slices of ``masks``.

        Raises
        ------
        RunError
            If the run is going on.
        RunFolderError
            If they cannot be kept; then nothing has changed.
        """
        if self.active:
            raise RunError("This run is going on; wait for its end before masks are chosen.")
        with self._lock:
            self.past.stand({"chosen": masks}, chosen=list(chosen))
            self._lay_over(masks, chosen)
            self._rest()

    def keep(self, folder: str | Path | None) -> None:
        """Keep in a folder from here on what lived in memory, or elsewhere, as other runs are.

        None: in memory; the folder stays as it is.

        Raises
        ------
        RunError
            If the run is going on.
        RunFolderError
            If it cannot be kept there.
        """
        if self.active:
            raise RunError("This run is going on; wait for its end before it is kept.")
        with self._lock:
            self.past.move(None if folder is None else fresh_folder(folder))
            self.folder = self.past.folder
            self._begin()
            self._rest()

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
            theta = self.past.theta(step) if step is not None else self.theta_of(slice_index)
        with memory_in_words(TO_ADAPT):
            prediction = self._adapter.predict(slice_index, theta)
        if prediction is None:
            raise PredictionError(
                "With this state the model gives values that are no numbers, so there is no mask. "
                "Go back to an earlier step."
            )
        label_map = prediction.label_map
        if slice_index in self.source_masks:
            label_map = self._within_region(label_map, slice_index)
        return replace(prediction, label_map=self.corrections.put_into(slice_index, label_map))

    def frame_of(self, slice_index: int) -> Region | None:
        """Return the part of a slice that the adapted model reads; None: all of it.

        What the user drew; else, if the settings say so, what is found when the first slice of a
        case is asked for, and stays from then on.
        """
        return self._adapter.frame_of(slice_index)

    def adopt_frames(self, records: Iterable[Record]) -> None:
        """Take the frames of cases from records: they are not looked for again."""
        self._adapter.adopt_frames(records)

    def close(self) -> None:
        """Close the file; a temporary one is removed. The masks stay in memory."""
        with self._lock:
            self.past.close()

    # -- what is kept ------------------------------------------------------------------------

    def _standing(self, state: str) -> dict[str, Any]:
        return {
            "state": state,
            "position": self.position,
            "step": self.step,
            "total": self.total,
            "cut": self.cut,
            "taken": self.taken,
            "chosen": list(self.chosen),
            "ended": None if state == "running" else now(),
            "device": str(self.segmenter.device),
            "notices": list(self.notices),
        }

    def _begin(self) -> None:
        """Keep what is known before the first step, or that the run goes on."""
        if self.past.begun or self.folder is None:
            self.past.stand(**self._standing("running"))
        else:
            begin(self, **self._standing("running"))

    def _rest(self, state: str | None = None) -> None:
        """The run comes to rest: write the files for others, and keep how it stands.

        Nothing of it may hide how the run ended: the events are kept already.
        """
        if self.folder is None or not self.past.begun:
            return
        if state is None:
            state = "finished" if self.position == self.total else "cancelled"
        masks = {"source": self.source_masks, "adapted": self.adapted_masks}
        for words in write_masks(self.folder, masks, self.scan, self.segmenter.card):
            self._notice(words)
        try:
            self.past.stand(**self._standing(state))
            write_tables(self.folder, self.past.info, self.past.without_masks()[: self.position])
        except (OSError, RunFolderError) as error:
            why = getattr(error, "strerror", None) or error
            self._notice(f"How the run ended could not be written ({why}). Its steps are kept.")

    def _notice(self, text: str) -> None:
        if text not in self.notices:
            self.notices.append(text)
            _log.warning("%s", text)

    # -- one event -------------------------------------------------------------------------

    def _forget_taken(self) -> None:
        """The run goes on: the masks of its own steps are the result again."""
        if self.taken is not None or self.chosen:
            self._stand_at(self.position)

    def _event(self, event: Event) -> Record:
        begin = time.perf_counter()
        self._forget_taken()
        coming = (later.slice_index for later in self.plan[self.position :])
        source = self._sources.of(event.slice_index, coming)
        framing = self._adapter.framing_of(event.slice_index)
        frame = framing.region
        found = None if frame == self.region else frame
        result = state = None
        if event.phase == "adapt":
            if event.resets:
                # What the run began with: the source model, or what it was to start from.
                self._adapter.restore(self.past.state(0))
            result, prediction = self._adapter.step(event.slice_index, event.batch)
            undone = bool(result is not None and result.undone)
            if self.settings.learns:
                state = self._adapter.snapshot()
        else:
            prediction = self._adapter.predict(event.slice_index, self._theta_at(event))
            undone = prediction is None
        if prediction is None:
            adapted, probabilities, entropy, source_entropy = source, None, None, None
        else:
            probabilities = prediction.probabilities
            adapted = self._within_region(prediction.label_map, event.slice_index)
            row0, col0, row1, col1 = found or (0, 0, *adapted.shape)
            part = probabilities[:, row0:row1, col0:col1]
            entropy = mean_entropy(part, self.segmenter.card.activation)
            source_entropy = self._sources.entropy(event.slice_index, entropy)
            if self.watch is not None and event.final:
                self.watch(event.slice_index, probabilities)
        adapted = self.corrections.put_into(event.slice_index, adapted)
        card = self.segmenter.card
        unusual: tuple[tuple[str, str], ...] = ()
        if card.dimensions == 2:  # a slice of a volume alone tells nothing
            seen = {event.slice_index: adapted}
            unusual = implausible(card, seen, self.scan, case=event.case, region=frame, slices=seen)
        flags = flag_slice(
            Slice(
                card,
                source,
                adapted,
                probabilities=probabilities,
                entropy=entropy,
                source_entropy=source_entropy,
                region=frame,
                expected=self.scan.is_photographic,
                undone=undone,
                far=self._far.words(self.segmenter, event.slice_index, frame),
                unusual=unusual,
                framed=found is not None,
                unsure="" if framing.settled else framing.words,
            )
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
            frame=found,
        )
        self.past.append(record, state)
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
