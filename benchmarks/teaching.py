"""What the whole-stack teacher gains and loses, and which part of it earns what.

A brake that only makes steps smaller has earned nothing, so that each braked run stands beside an
unbraked one whose rate brings the weights as far, |Δθ|/|θ|: the rate is found by repeated runs.

    python benchmarks/teaching.py --data ../shared/data --models models --out out/teaching
    python benchmarks/teaching.py ... --model fundus-disc-cup-plain --seeds 5 --ablate

Labels are read by the measuring alone. Every run is a line of ``teaching.csv`` in ``--out``, one a
centre, variant and seed, and is not done again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_grata.adaptation import Settings, make_method, preset
from napari_grata.adaptation.gradients import aligned_rate, alignment
from napari_grata.adaptation.methods import register
from napari_grata.adaptation.methods.mean_teacher import MeanTeacher
from napari_grata.adaptation.objectives import consistency_loss
from napari_grata.adaptation.plan import make_plan
from napari_grata.evaluation import open_cohort, worst_tenth
from napari_grata.evaluation.metrics import dice
from napari_grata.scans import open_scan, read_mask
from napari_grata.segmenters import load_segmenter, structure_mask

FUNDUS = ("local_disc_cup", {255: 0, 128: 1, 0: 2})
CENTRES: dict[str, tuple[str, dict[int, int] | None]] = {
    "Drishti-GS_tight": FUNDUS,
    "RIM-ONE_r3": FUNDUS,
    "B_1.0mm": ("local_brain_T1_IBSR18", None),
    "C_0.8371mm": ("local_brain_T1_IBSR18", None),
}
COLUMNS = ("model", "centre", "variant", "seed", "structure", "dice", "worst_tenth", "n")
COLUMNS += ("moved", "rate", "cosine", "seconds")
MATCHES = 3
"""Runs that look for the rate of the same |Δθ|."""


@register(
    name="teacher-by-structure",
    title="Mean teacher by structure",
    summary="As the mean teacher, but where two structures ask for opposite changes of the "
    "weights, each gives up its part against the other.",
    learns="weights",
    settings_used=("learning_rate", "learning_rate_rule", "blend", "decay", "certain"),
)
class ByStructure(MeanTeacher):
    """The teacher with gradients of each structure, projected as by Yu et al. (2020; PCGrad).

    The cosine similarity is that of the first two structures, in place of two halves of a batch.
    """

    def _learn(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        theta, targets = self._flat.values, self._targets(images)
        teacher, strong = theta.clone(), self.objectives.strong(images)
        try:
            theta.copy_(self._student)
            found = []
            for place in range(targets.shape[1]):
                logits = self.objectives.logits(strong)[:, place]
                loss = consistency_loss(logits, targets[:, place])
                found.append((loss.detach(), self._flat.gradient(loss)[0]))
            losses, gradients = zip(*found, strict=True)
            cosine, first_norm, second_norm = alignment(*gradients[:2], None)
            rate = aligned_rate(cosine, self.learning_rate, self.learning_rate_rule)
            self._adam.step(self._student, sum(_without_conflict(gradients)) / len(found), rate)
        finally:
            theta.copy_(teacher)
        self._follow()
        return {
            "cosine": cosine,
            "learning_rate": rate,
            "auxiliary_loss": losses[0],
            "pseudo_loss": losses[1],
            "auxiliary_norm": first_norm,
            "pseudo_norm": second_norm,
        }


def _without_conflict(gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Take from each gradient what points against one of the others."""
    found = []
    for place, own in enumerate(gradients):
        left = own.clone()
        for other in (*gradients[:place], *gradients[place + 1 :]):
            along = torch.dot(left, other)
            if along < 0:
                left -= along / torch.dot(other, other).clamp_min(1e-12) * other
        found.append(left)
    return found


@dataclass
class Centre:
    """Prepared slices of one centre with their truth."""

    segmenter: Any
    prepared: list[Any]
    truth: list[np.ndarray]
    case: list[int]

    @classmethod
    def load(cls, model: Path, data: Path, centre: str, every: int, brain_every: int) -> Centre:
        """Read every so many photographs, or slices of each volume."""
        folder, labels = CENTRES[centre]
        one = cls(load_segmenter(model, device="cpu"), [], [], [])
        found = open_cohort(data / folder, [centre]).centres[0]
        photographs = found.kind == "photographs"
        for number, case in enumerate(found.cases[:: every if photographs else 1]):
            scan = open_scan(case.image)
            mask = read_mask(case.mask, scan, labels=labels)
            shown = [i for i in range(scan.n_slices) if scan.read_slice(i).any()]
            for index in shown if photographs else shown[brain_every // 2 :: brain_every]:
                one.prepared.append(one.segmenter.prepare(scan, index))
                one.truth.append(scan.get_mask(mask, index))
                one.case.append(number)
        return one

    def measure(self, probabilities: Sequence[torch.Tensor]) -> dict[str, list[float]]:
        """Return Dice in percent by structure, one a case."""
        card, found = self.segmenter.card, {}
        labels = [
            self.segmenter.label_map(self.segmenter.restore(one[0], prepared))
            for one, prepared in zip(probabilities, self.prepared, strict=True)
        ]
        for structure in card.structures:
            by_case: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
            for case, mine, true in zip(self.case, labels, self.truth, strict=True):
                pair = (
                    structure_mask(card, mine, structure),
                    structure_mask(card, true, structure),
                )
                by_case.setdefault(case, []).append(pair)
            found[structure.name] = [
                100
                * dice(
                    *(
                        np.concatenate([one.ravel() for one in side])[None]
                        for side in zip(*pairs, strict=True)
                    )
                )
                for pairs in by_case.values()
            ]
        return found


def run(centre: Centre, settings: Settings, lessons: Sequence[str] = ()) -> dict[str, Any]:
    """Teach over the centre and predict all of it; what a run through the store comes to.

    ``lessons`` are the views that make the targets, where they are not those of the card.
    """
    segmenter = centre.segmenter
    card = segmenter.card
    make = lambda *how: make_method(how[0], segmenter.network, card.activation, *how[1:])  # noqa: E731
    begin = time.perf_counter()
    method, cosines = make(settings.but(six_views=False), lessons or card.views), []
    source = method.theta()
    if settings.learns:
        for event in make_plan(settings, range(len(centre.prepared)), lambda index: index):
            if event.phase == "adapt":
                images = torch.cat([centre.prepared[index].image for index in event.batch])
                cosines.append(method.step_on_batch(images).cosine)
    theta = method.theta()
    if settings.method == "teacher-by-structure":
        settings = settings.but(method="mean-teacher")
    method = make(settings, card.views)
    method.load_theta(theta)
    found = centre.measure([method.predict(one.image).probabilities for one in centre.prepared])
    return {
        "dice": found,
        "moved": float((theta - source).norm() / source.norm()),
        "cosine": float(np.mean(cosines)) if cosines else float("nan"),
        "seconds": time.perf_counter() - begin,
    }


LESSONS = {"teacher, own answer as target": ("identity",)}
"""Views that make the targets, where they are not those of the card, by variant."""


def variants(rules: Sequence[str], ablate: bool = False) -> dict[str, Settings]:
    """Return what is compared, by name; ``ablate``: also the teacher without each of its parts."""
    stack = preset("learn-from-stack").settings
    still = Settings(method="source")
    found = {"source": still, "views": still.but(six_views=True), "teacher": stack}
    if ablate:
        found |= {
            **dict.fromkeys(LESSONS, stack),
            "teacher, probabilities as targets": stack.but(certain=False),
            "teacher, no running mean": stack.but(decay=0.0),
            "teacher, scale and shift alone": stack.but(parameters="norms", learning_rate=1e-3),
            "teacher, five times the rate": stack.but(learning_rate=5e-4),
            "teacher, structures without conflict": stack.but(method="teacher-by-structure"),
        }
    return found | {f"teacher, {rule}": stack.but(learning_rate_rule=rule) for rule in rules}


def main() -> None:
    """Run what is lacking and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--model", default="fundus-disc-cup")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--centres", nargs="+", default=["Drishti-GS_tight", "RIM-ONE_r3"])
    parser.add_argument("--rules", nargs="*", default=["quadratic"])
    parser.add_argument("--ablate", action="store_true", help="also without each part")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, default=2, help="every so many photographs")
    parser.add_argument("--brain-every", type=int, default=8)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = options.out / "teaching.csv"
    rows = list(csv.DictReader(table.open())) if table.exists() else []

    def done(name: str, variant: str, seed: int) -> list[dict[str, str]]:
        key = (options.model, name, variant, str(seed))
        return [r for r in rows if (r["model"], r["centre"], r["variant"], r["seed"]) == key]

    def keep(name: str, variant: str, settings: Settings, result: dict[str, Any]) -> None:
        for structure, values in result["dice"].items():
            about = (options.model, name, variant, settings.seed, structure)
            figures = (np.mean(values), worst_tenth(values), len(values), result["moved"])
            more = (settings.learning_rate, result["cosine"], result["seconds"])
            row = dict(zip(COLUMNS, map(str, (*about, *figures, *more)), strict=True))
            rows.append(row)
            print("  ".join(row.values()), flush=True)
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    for name in options.centres:
        centre = None
        for seed in range(options.seeds):
            for variant, chosen in variants(options.rules, options.ablate).items():
                if not chosen.learns and seed:
                    continue
                settings = chosen.but(seed=seed)
                if centre is None:
                    model = options.models / options.model
                    centre = Centre.load(
                        model, options.data, name, options.every, options.brain_every
                    )
                if not done(name, variant, seed):
                    result = run(centre, settings, LESSONS.get(variant, ()))
                    keep(name, variant, settings, result)
                if settings.learning_rate_rule == "fixed" or not settings.learns:
                    continue
                matched = f"teacher as far as {variant.split(', ')[1]}"
                if done(name, matched, seed):
                    continue
                goal = float(done(name, variant, seed)[0]["moved"])
                plain = settings.but(learning_rate_rule="fixed")
                for _ in range(MATCHES):
                    result = run(centre, plain)
                    if abs(result["moved"] / goal - 1) < 0.05:
                        break
                    rate = plain.learning_rate * goal / result["moved"]
                    plain = plain.but(learning_rate=rate)
                keep(name, matched, plain, result)


if __name__ == "__main__":
    main()
