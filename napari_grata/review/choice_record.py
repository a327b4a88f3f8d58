"""What was weighed and chosen, kept: as JSON for programs, as CSV and an excerpt for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.scans.files import write_csv, write_json

from .choosing import Choice, Estimate, Row, Weighing, recommend
from .compare import MOST_SHOWN

if TYPE_CHECKING:
    from napari_grata.adaptation import AdaptationRun
    from napari_grata.adaptation.records import ChosenInfo
    from napari_grata.adaptation.settings import Settings
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

RECORD_FILE = "choice.json"
"""Of a run's folder: what was weighed last. What is in use the run's store tells."""
COLUMNS = (
    "structure",
    "candidate",
    "threshold shift",
    "slice",
    "dice",
    "gain",
    "expected gain",
    "expected gain, low",
    "expected gain, high",
    "consistent",
    "differs enough",
    "chosen",
)


@dataclass(frozen=True)
class ChoiceRecord:
    """Which slices, which candidates, figures, rule and choice.

    Attributes
    ----------
    model, weights_sha256 : str
        The source model's name and digest.
    places : dict of int to str
        Names of the reviewed slices that name nobody.
    settings : dict of str to dict
        Settings of each candidate that came from a preset.
    recommended : Choice
        What the rule says.
    chosen : Choice
        What was applied: the same, unless the user chose otherwise.
    """

    model: str
    weights_sha256: str
    places: dict[int, str]
    settings: dict[str, dict[str, Any]]
    weighing: Weighing
    recommended: Choice
    chosen: Choice

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @property
    def told(self) -> ChosenInfo:
        """What a run is told of it."""
        return {
            "used_on": [],
            "reviewed": list(self.weighing.slices),
            "words": self.chosen.words,
            "record": self.to_dict(),
        }

    def write(self, path: str | Path) -> Path:
        """Write it as JSON, whole."""
        write_json(path, self.to_dict())
        return Path(path)

    def write_csv(self, path: str | Path) -> Path:
        """Write a line for each candidate, structure and slice, in shares of Dice."""
        chosen = {(p.structure, p.candidate, p.shift) for p in self.chosen.picks}
        rows: list[Sequence[Any]] = []
        for row in self.weighing.rows:
            told = row.estimate
            taken = (row.structure, row.candidate, row.shift) in chosen
            rows += [
                (
                    row.structure,
                    row.candidate,
                    row.shift,
                    self.places[index],
                    *(round(v, 6) for v in (dice, row.gains[index])),
                    *(round(v, 6) for v in (told.mean, told.low, told.high)),
                    *("yes" if true else "no" for true in (row.consistent, row.telling, taken)),
                )
                for index, dice in row.dice.items()
            ]
        return write_csv(path, COLUMNS, rows)


def record_choice(
    card: Card,
    scan: Scan,
    weighing: Weighing,
    settings: Mapping[str, Settings],
    chosen: Choice | None = None,
) -> ChoiceRecord:
    """Return the record of a weighing; what the rule recommends is chosen unless told otherwise."""
    recommended = recommend(weighing)
    return ChoiceRecord(
        model=card.name,
        weights_sha256=card.weights_sha256 or "",
        places={index: scan.place_name(index) for index in weighing.slices},
        settings={name: one.to_dict() for name, one in settings.items()},
        weighing=weighing,
        recommended=recommended,
        chosen=chosen or recommended,
    )


def excerpt(weighing: Weighing) -> Weighing:
    """Return what a picture has room for: of many structures those that candidates change most.

    These first, and last the mean over all of them, without an interval: what is expected of each
    is no sample of one whole.
    """
    most = dict.fromkeys(weighing.structures, 0.0)
    for row in weighing.rows:
        most[row.structure] = max([most[row.structure], *map(abs, row.gains.values())])
    if len(most) <= MOST_SHOWN:
        return weighing
    shown = sorted(most, key=lambda name: -most[name])[:MOST_SHOWN]
    mean = f"mean of {len(most)}"
    rows = [row for row in weighing.rows if row.structure in shown]
    plain = [row for row in weighing.rows if not row.shift]
    for first in (row for row in plain if row.structure == weighing.structures[0]):
        own = [row for row in plain if row.candidate == first.candidate]
        told = {i: [row.gains[i] for row in own if i in row.gains] for i in weighing.slices}
        gains = {i: float(np.mean(some)) for i, some in told.items() if some}
        found = Estimate(float(np.mean([row.estimate.mean for row in own])), math.nan, math.nan)
        rows.append(Row(first.candidate, first.title, mean, 0.0, {}, gains, found, False, False))
    return replace(weighing, structures=(*shown, mean), rows=tuple(rows))


def use_choice(run: AdaptationRun, told: ChosenInfo, masks: Mapping[int, np.ndarray]) -> ChosenInfo:
    """Put masks that were chosen in the place of a run's own; return what the run tells of them.

    ``told`` is what is told of the choice, whichever slices it was used on.

    Masks and what they are go to the run's store together; a RunFolderError says that nothing has
    changed. Earlier choices stay in use where this one has no mask.
    """
    told = {**told, "used_on": sorted(masks)}
    earlier: list[ChosenInfo] = [
        {**one, "used_on": left}
        for one in run.chosen
        if (left := [index for index in one["used_on"] if index not in masks])
    ]
    before = {i: run.adapted_masks[i] for one in earlier for i in one["used_on"]}
    run.choose({**before, **masks}, [*earlier, told])
    return told
