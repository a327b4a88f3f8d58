"""A choice that a few reviewed slices of one case made, in use on the other cases of its list.

What is carried is no mask but the way to it: the candidates that were picked are made on each case
by itself, from the source model; a copy that learned from the reviewed slices predicts with what it
learned there. Nobody reviewed a slice of those cases, so that no figure says what is gained there:
see ``docs/results.md`` for what it was where labels could tell.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.plan import RunError
from napari_grata.adaptation.records import ChosenInfo, Record
from napari_grata.adaptation.settings import Preset, Settings
from napari_grata.scans.sqlite_file import packed, unpacked

from .candidates import SOURCE, TAUGHT, Candidate, CandidateRuns
from .cases import digest
from .choice_record import ChoiceRecord, use_choice
from .choosing import Choice, Estimate, Pick, chosen_masks

if TYPE_CHECKING:
    from napari_grata.adaptation.reopening import ReopenedRun
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .case_list import CaseList

OPTION = "carried"
"""Of a list: under this name it keeps the choice that is carried over, {} where none is."""


@dataclass(frozen=True)
class CarriedChoice:
    """What was chosen, and what is needed to make it again.

    Attributes
    ----------
    told : ChosenInfo
        Of the run that it was made on, with ``case``: where the slices were reviewed.
    theta : ndarray, shape (n,), or None
        Of the copy that learned from them, if it is picked.
    """

    told: ChosenInfo
    theta: np.ndarray | None = None

    @property
    def mark(self) -> str:
        """A short fingerprint: the same choice has the same."""
        return digest(self.told["record"])

    @property
    def choice(self) -> Choice:
        """The picks, structure by structure."""
        chosen = self.told["record"]["chosen"]
        picks = (Pick(**{**p, "estimate": Estimate(**p["estimate"])}) for p in chosen["picks"])
        return Choice(tuple(picks), chosen["words"])

    def presets(self) -> list[Preset]:
        """Return how each candidate that is picked is made from the source model."""
        settings = self.told["record"]["settings"]
        titles = {pick.candidate: pick.title for pick in self.choice.picks}
        titles.pop(SOURCE, None)
        return [
            Preset(name, title, "", Settings.from_dict(settings[name]))
            for name, title in titles.items()
        ]

    def keep(self, caselist: CaseList) -> None:
        """Have a list carry this choice over, also when it is opened again."""
        theta = "" if self.theta is None else b64encode(packed(self.theta)).decode()
        caselist.choose(
            **{OPTION: {"mark": self.mark, "told": {**self.told, "used_on": []}, "theta": theta}}
        )

    def lay_over(
        self, run: AdaptationRun | ReopenedRun, segmenter: Segmenter, scan: Scan
    ) -> Generator[Record, None, dict[int, np.ndarray]]:
        """Make the candidates on another scan; returns its masks as chosen, by slice.

        Parameters
        ----------
        run : AdaptationRun or ReopenedRun
            Finished, on that scan. It is not changed.

        Raises
        ------
        RunError
            If a candidate cannot be made on this scan.
        """
        presets = {one.name: one for one in self.presets()}
        taught, own = presets.pop(TAUGHT, None), None
        shifted = {pick.candidate for pick in self.choice.picks if pick.shift}
        for name, one in presets.items():
            if one.settings == run.settings and name not in shifted and as_planned(run):
                # It is there already.
                own = Candidate(name, one.title, {**run.adapted_masks, **run.beneath})
        if own is not None:
            del presets[own.name]
        runs = CandidateRuns(
            segmenter,
            scan,
            list(presets.values()),
            slices=run.slices,
            source_masks=run.source_masks,
            seed=run.settings.seed,
            go_on=True,
        )
        try:
            yield from runs.records()
            for why in runs.failed.values():
                raise RunError(f"What was chosen cannot be used on this case: {why}")
            candidates = [*runs.candidates, *([own] if own is not None else [])]
            if taught is not None:
                candidates.append(self._taught(taught, run, segmenter, scan))
            return dict(chosen_masks(segmenter, self.choice, candidates))
        finally:
            runs.close()

    def _taught(
        self, one: Preset, run: AdaptationRun | ReopenedRun, segmenter: Segmenter, scan: Scan
    ) -> Candidate:
        """Return what the copy that learned from the reviewed slices says of another scan."""
        from napari_grata.adaptation.stepper import Stepper

        stepper, masks = Stepper(segmenter, scan, one.settings, None, []), {}
        if run.settings.reframe:
            stepper.adopt_frames(run.past.without_masks())
        for index, source in run.source_masks.items():
            found = stepper.predict(index, self.theta)
            masks[index] = source if found is None else found.label_map
        return Candidate(TAUGHT, one.title, masks)


def carried_choice(record: ChoiceRecord, runs: CandidateRuns, case: str) -> CarriedChoice:
    """Return a choice with what carries it over.

    Parameters
    ----------
    runs : CandidateRuns
        Of the scan that it was made on, still open.
    case : str
        What that is called, such as "case 2".
    """
    taught = None
    if any(pick.candidate == TAUGHT for pick in record.chosen.picks):
        taught = runs.runs[TAUGHT].theta_of(runs.runs[TAUGHT].slices[-1])
    return CarriedChoice({**record.told, "case": case}, taught)


def carried_by(caselist: CaseList) -> CarriedChoice | None:
    """Return the choice that a list carries over to its cases, if there is one."""
    kept: dict[str, Any] = caselist.option(OPTION, {})
    if not kept:
        return None
    theta = unpacked(b64decode(kept["theta"])) if kept["theta"] else None
    return CarriedChoice(kept["told"], theta)


def mark_of(caselist: CaseList) -> str:
    """Return the fingerprint of the choice that a list carries over; "" without one."""
    return str(caselist.option(OPTION, {}).get("mark", ""))


def as_planned(run: AdaptationRun | ReopenedRun) -> bool:
    """Whether a run went from the source model to its end, and nobody taught or changed it."""
    return not (_changed_by_hand(run) or run.continued)


def may_be_changed(run: AdaptationRun | ReopenedRun, segmenter: Segmenter) -> bool:
    """Whether a choice may lie over a run: one of this model, of which nobody made anything."""
    own = _changed_by_hand(run) or run.region or any("case" not in one for one in run.chosen)
    return not own and run.card.weights_sha256 == segmenter.card.weights_sha256


def _changed_by_hand(run: AdaptationRun | ReopenedRun) -> bool:
    corrected = run.corrections is None or bool(run.corrections.slices)
    return corrected or run.taken is not None or run.cut is not None


def put_over(run: AdaptationRun, carried: CarriedChoice | None, masks: dict[int, Any]) -> None:
    """Lay masks as chosen over a run's own; without a choice take those away that lie there.

    A RunFolderError says that nothing has changed.
    """
    if carried is not None:
        use_choice(run, carried.told, masks)
    elif run.chosen:
        run.choose({}, [])
