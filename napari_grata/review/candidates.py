"""Masks that may replace the source mask: those of finished runs, and their logits shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.adaptation.corrections import Corrections, CorrectionsError
from napari_grata.adaptation.settings import (
    PRESETS,
    Preset,
    Settings,
    preset,
    teaching_settings,
)

if TYPE_CHECKING:
    from torch import nn

    from napari_grata.adaptation import AdaptationRun, Record
    from napari_grata.adaptation.plan import Region
    from napari_grata.adaptation.stepper import Stepper
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Segmenter

Masks = Mapping[int, np.ndarray]
SOURCE = "source"
TAUGHT = "taught"
USUAL = tuple(
    name
    for name in ("careful", "learn-from-stack", "batch-norm", "as-published")
    if name in PRESETS
)
"""Presets that are weighed where nobody names others."""
LESSONS, FOLDS = 60, 4
"""About how many steps a copy takes on reviewed slices, and how many copies are weighed."""
STATES = 3
"""Of a model that learns from the whole stack so many states are weighed, over all its passes."""


@dataclass(frozen=True)
class Candidate:
    """One set of masks, finished before any of it is weighed.

    Attributes
    ----------
    name : str
        Of its own among the candidates; ``source`` is the source model's.
    title : str
        For people.
    masks : mapping of int to ndarray of uint8, shape (H, W)
        Label maps by slice, without any correction painted in.
    probabilities : callable, optional
        Gives those of a slice, shape (S, H, W); without it no threshold is fitted.
    region : (row0, col0, row1, col1), optional
        Outside it nothing was looked at.
    taught_by : frozenset of int
        Slices whose corrections taught it.
    held_out : mapping of int to ndarray, shape (H, W)
        For those slices: masks of a model that was taught by the others alone.
    """

    name: str
    title: str
    masks: Masks
    probabilities: Callable[[int], np.ndarray] | None = None
    region: Region | None = None
    taught_by: frozenset[int] = frozenset()
    held_out: Masks = field(default_factory=dict)

    def fair_mask(self, slice_index: int) -> np.ndarray | None:
        """Return the mask of a slice as made without having seen its correction, if there is."""
        masks = self.held_out if slice_index in self.taught_by else self.masks
        return masks.get(slice_index)

    def looked_at(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return the pixels of a slice that were looked at, as bool (H, W); None for all."""
        if self.region is None:
            return None
        row0, col0, row1, col1 = self.region
        inside = np.zeros(shape, dtype=bool)
        inside[row0:row1, col0:col1] = True
        return inside


def shifted_mask(
    segmenter: Segmenter, candidate: Candidate, slice_index: int, structure: str, shift: float
) -> np.ndarray:
    """Return a candidate's label map of a slice with one structure's logit moved by ``shift``.

    Above 0 the structure grows: with independent structures its threshold falls to
    1 / (1 + exp(shift)), with exclusive classes it wins more often.
    """
    own = candidate.masks[slice_index]
    if shift == 0:
        return own
    if candidate.probabilities is None:
        raise ValueError(f"The candidate {candidate.name} gives no probabilities.")
    moved = shifted_labels(segmenter, candidate.probabilities(slice_index), structure, shift)
    inside = candidate.looked_at(own.shape)
    return moved if inside is None else np.where(inside, moved, own)


def shifted_labels(
    segmenter: Segmenter, probabilities: np.ndarray, structure: str, shift: float
) -> np.ndarray:
    """Return the label map of probabilities (S, H, W) with one structure's logit moved."""
    return segmenter.label_map(_shifted(segmenter.card, probabilities, structure, shift))


def _shifted(card: Card, probabilities: np.ndarray, structure: str, shift: float) -> np.ndarray:
    softmax = card.activation == "softmax"
    channel = [s.name for s in card.structures].index(structure) + softmax
    moved = np.array(probabilities, dtype=np.float32)
    odds = moved[channel] * np.float32(np.exp(shift))
    # Of exclusive classes only the largest counts, so that they need not sum to 1.
    moved[channel] = odds if softmax else odds / (odds + 1 - moved[channel])
    return moved


def source_candidate(
    segmenter: Segmenter, scan: Scan, masks: Masks, region: Region | None = None
) -> Candidate:
    """Return the source model's masks, which are there already, as a candidate."""

    def probabilities(slice_index: int) -> np.ndarray:
        (found,) = segmenter.predict(scan, [slice_index], region)
        return found.probabilities

    return Candidate(SOURCE, preset(SOURCE).title, dict(masks), probabilities, region)


def candidate_of_run(
    run: AdaptationRun,
    name: str,
    title: str,
    *,
    step: int | None = None,
    masks: Masks | None = None,
) -> Candidate:
    """Return what a finished run says, or said after ``step`` steps, as a candidate.

    The run has to stay open for as long as the candidate is in use. ``masks`` are those of that
    step, where they are there already.

    Raises
    ------
    ValueError
        If the run holds corrections: they are painted into its masks, and would be weighed
        against themselves.
    """
    if run.corrections.slices:
        raise ValueError(
            "A run with corrections is weighed by masks from runs without each of them; make its "
            "candidate with taught_by and held_out."
        )

    def probabilities(slice_index: int) -> np.ndarray:
        return run.predict(slice_index, step).probabilities

    if masks is None and step is not None:
        masks = {index: run.predict(index, step).label_map for index in run.slices}
    elif masks is None:
        masks = run.adapted_masks
    return Candidate(name, title, dict(masks), probabilities, run.region)


class CandidateRuns:
    """The source model and some presets on one scan: what the candidates are made of.

    Parameters
    ----------
    segmenter, scan, slices, region, source_masks
        As for `AdaptationRun`.
    presets : sequence of str or Preset
        ``source`` is there in any case.
    folder : path, optional
        Where each run is kept, in a folder of its preset's name.
    go_on : bool
        Leave out a preset that cannot run on this model or scan and go on with the next, and
        weigh no earlier states: to compare methods.

    Attributes
    ----------
    candidates : list of Candidate
        Those that are finished, the source model's first.
    settings : dict of str to Settings
        With which a run from the source model makes each of them, by name.
    total : int
        Records in all.
    now : str
        Title of what is being made.
    runs : dict of str to AdaptationRun
        By preset, those that were begun.
    failed : dict of str to str
        Why presets were left out.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        scan: Scan,
        presets: Sequence[str | Preset] = USUAL,
        *,
        slices: Sequence[int] | str | None = None,
        region: Region | None = None,
        source_masks: Masks | None = None,
        seed: int = 0,
        folder: Path | None = None,
        go_on: bool = False,
    ) -> None:
        from napari_grata.adaptation.plan import checked_slices, make_plan

        self.candidates: list[Candidate] = []
        self.settings: dict[str, Settings] = {}
        self.now = ""
        self._presets = {one.name: one for one in map(_preset, (SOURCE, *presets))}
        self._segmenter, self._scan, self._seed = segmenter, scan, seed
        self._slices, self._region = checked_slices(slices, scan), region
        self._folder, self._source_masks = folder, dict(source_masks or {})
        self.runs: dict[str, AdaptationRun] = {}
        self.failed: dict[str, str] = {}
        self._go_on = go_on
        volumes = segmenter.card.patch is not None
        self.total = sum(
            len(make_plan(one.settings, self._slices, scan.case_of, volumes=volumes))
            + len(self._earlier_passes(one.settings)) * len(self._slices)
            for one in self._presets.values()
        )

    @property
    def notices(self) -> list[str]:
        """What happened that the user should know."""
        return list(dict.fromkeys(words for run in self.runs.values() for words in run.notices))

    def records(self) -> Iterator[Record]:
        """Run one preset after another; closing the iterator leaves the finished ones."""
        for one in self._presets.values():
            settings, self.now = one.settings.but(seed=self._seed), one.title
            try:
                run = self._begin(one.name, settings)
                yield from run.records()
            except ValueError as error:
                if not self._go_on or one.name == SOURCE:
                    raise
                self.failed[one.name] = str(error)
                continue
            self._source_masks.update(run.source_masks)
            if one.name == SOURCE:
                found = source_candidate(
                    self._segmenter, self._scan, run.source_masks, self._region
                )
            else:
                yield from self._earlier(run, one)
                found = candidate_of_run(run, one.name, one.title)
            self._take(found, settings)

    def teach(self, reviewed: Masks, settings: Settings | None = None) -> Iterator[tuple[int, int]]:
        """Have copies of the model learn from reviewed masks: a candidate more, the last one.

        Yields how much is done of how much.

        One copy learns from all of them and makes the masks. The mask that a reviewed slice is
        weighed by comes from a copy that was taught by the others alone.

        Parameters
        ----------
        reviewed : mapping of int to ndarray of uint8, shape (H, W)
            Two slices or more, each drawn wholly.
        settings : Settings, optional
            By default `copy_settings`.

        Raises
        ------
        CorrectionsError
            If a reviewed slice is none of those that the candidates have masks of.
        """
        from napari_grata.adaptation.stepper import Stepper

        for index in sorted(reviewed.keys() - set(self._slices)):
            raise CorrectionsError(
                f"Slice {index + 1} was not segmented, so that nothing can be learned from it. "
                "Segment it, or leave it out."
            )
        settings = settings or copy_settings(self._segmenter.network)
        settings = settings.but(seed=self._seed, correction_steps=max(8, LESSONS // len(reviewed)))
        groups = [sorted(reviewed)[n::FOLDS] for n in range(min(FOLDS, len(reviewed)))]
        if TAUGHT in self.runs:
            self.runs[TAUGHT].close()
        framed = (one for name, one in self.runs.items() if one.settings.reframe and name != TAUGHT)
        frames = next((one.past.without_masks() for one in framed), [])
        run = self._begin(TAUGHT, settings, Corrections(_drawn(reviewed)))
        run.adopt_frames(frames)
        shown = sum(len(reviewed) - len(group) for group in groups)
        done, total = 0, settings.correction_steps * shown + run.total
        held_out: dict[int, np.ndarray] = {}
        # One for all of them: what the model had said of the slices beside is worked out once.
        stepper = Stepper(
            self._segmenter, self._scan, settings, self._region, run.notices, run.corrections
        )
        stepper.adopt_frames(frames)
        for group in groups:
            for masks in self._without(group, reviewed, stepper, settings):
                if masks:
                    held_out |= masks
                else:
                    done += 1
                    yield done, total
        for record in run.records():
            yield done + record.done, total
        own, by = dict(run.adapted_masks), frozenset(reviewed)
        self.candidates = [one for one in self.candidates if one.name != TAUGHT]
        title = "Learned from your review"
        found = Candidate(TAUGHT, title, own, None, self._region, by, held_out)
        self._take(found, settings)

    def _without(
        self, group: Sequence[int], reviewed: Masks, stepper: Stepper, settings: Settings
    ) -> Iterator[Masks]:
        """Teach a copy by all reviewed slices but some; yields nothing a step, then their masks."""
        from napari_grata.adaptation.plan import make_plan

        drawn = Corrections(_drawn({i: m for i, m in reviewed.items() if i not in group}))
        others = [index for index in self._slices if index not in group]
        stepper.start_over(drawn)
        for event in make_plan(settings, others, self._scan.case_of, drawn.slices):
            if event.phase == "adapt":
                stepper.step(event.slice_index, event.batch)
                yield {}
        theta, found = stepper.snapshot().theta.numpy(), {}
        for index in group:
            source, prediction = self._source_masks[index], stepper.predict(index, theta)
            found[index] = source if prediction is None else prediction.label_map
            inside = self.candidates[0].looked_at(source.shape)
            if inside is not None:
                found[index] = np.where(inside, found[index], source)
        yield found

    def _take(self, candidate: Candidate, settings: Settings) -> None:
        self.candidates.append(candidate)
        self.settings[candidate.name] = settings

    def _earlier(self, run: AdaptationRun, one: Preset) -> Iterator[Record]:
        """Add what a stack-taught model said after fewer passes, as a run of so many says it."""
        last = {record.pass_index + 1: record for record in run.past.without_masks()}
        for passes in self._earlier_passes(run.settings):
            step, masks = last[passes].step, {}
            for index in run.slices:
                masks[index] = run.predict(index, step).label_map
                yield last[passes]
            title = f"{one.title}, {passes} of {run.settings.passes} passes"
            found = candidate_of_run(run, f"{one.name}-{passes}", title, step=step, masks=masks)
            self._take(found, run.settings.but(passes=passes))

    def _earlier_passes(self, settings: Settings) -> list[int]:
        """Return after how many passes a stack-taught model is weighed beside its end.

        Not of networks that read whole volumes: all of one would be predicted for each slice.
        """
        if self._go_on or not settings.learns_from_stack or self._segmenter.card.patch is not None:
            return []
        wanted = {round(settings.passes * number / STATES) for number in range(1, STATES)}
        return sorted(wanted - {0, settings.passes})

    def _begin(
        self, name: str, settings: Settings, corrections: Corrections | None = None
    ) -> AdaptationRun:
        from napari_grata.adaptation import AdaptationRun

        self.runs[name] = run = AdaptationRun(
            self._segmenter,
            self._scan,
            settings,
            slices=self._slices,
            region=self._region,
            folder=None if self._folder is None else self._folder / name,
            source_masks=self._source_masks,
            corrections=corrections,
        )
        return run

    def close(self) -> None:
        """Close the runs; their candidates keep their masks, and give no probabilities any more."""
        for run in self.runs.values():
            run.close()


def copy_settings(network: nn.Module) -> Settings:
    """Return the settings with which copies of a network learn from reviewed slices.

    Scale and shift of its normalisation layers gain what all weights gain, in less than half the
    time (``docs/results-details.md``); all weights of a network that has none.
    """
    from napari_grata.adaptation.normalisation import norm_parameters

    settings = teaching_settings(preset("learn-from-stack").settings)
    if not norm_parameters(network):
        return settings
    return settings.but(parameters="norms", learning_rate=3e-3)


def _drawn(masks: Masks) -> dict[int, np.ndarray]:
    return {index: np.asarray(mask, np.int16) for index, mask in masks.items()}


def _preset(one: str | Preset) -> Preset:
    return one if isinstance(one, Preset) else preset(one)
