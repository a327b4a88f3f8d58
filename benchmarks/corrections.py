"""What corrections of a few cases or slices are worth on the *other* ones, and how they best teach.

A simulated reviewer (`reviewer.py`) paints a few strokes into the largest
errors of k cases (photographs) or slices (volumes), or corrects them wholly. Methods learn from
the painted pixels alone; Dice is measured on cases and slices that are corrected at no k. The
truth reaches learning only as painted pixels.

    python benchmarks/corrections.py --data ../shared/data --out out/corrections --choose
    python benchmarks/corrections.py --data ../shared/data --out out/corrections

The first command chooses each method's learning rate on a part of Drishti-GS and one volume of
IBSR B; the second reports on everything else, with the picture. Every run is
kept in ``--out`` and not done again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corrections_report import draw, print_table
from reviewer import paint_strokes

from napari_grata.adaptation import Corrections, Settings, make_method
from napari_grata.adaptation.objectives import Supervision, scribble_loss
from napari_grata.evaluation import open_cohort
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.files import write_text
from napari_grata.segmenters import load_segmenter, structure_mask

LABELS = {255: 0, 128: 1, 0: 2}
FUNDUS, BRAIN = "fundus-disc-cup", "brain-tissue-t1"
FOLDERS = {FUNDUS: "local_disc_cup", BRAIN: "local_brain_T1_IBSR18"}
STROKES = 4
COUNTS = (1, 2, 4, 8)
HOLD = 0.2


@dataclass(frozen=True)
class Part:
    """Some cases of a centre, or one volume."""

    name: str
    model: str
    centre: str
    cases: slice
    counts: tuple[int, ...] = COUNTS
    every: int = 1


CHOOSING = (
    Part("Drishti-GS_tight, first 12", FUNDUS, "Drishti-GS_tight", slice(0, 12), (4,)),
    Part("IBSR 07 (B)", BRAIN, "B_1.0mm", slice(0, 1), (4,), 6),
)
REPORTED = (
    Part("RIM-ONE_r3", FUNDUS, "RIM-ONE_r3", slice(0, None, 4)),
    Part("Drishti-GS_tight, last 12", FUNDUS, "Drishti-GS_tight", slice(12, 24), (1, 2, 4)),
    Part("IBSR 08 (B)", BRAIN, "B_1.0mm", slice(1, 2), (1, 4, 8), 6),
    Part("IBSR 16 (C)", BRAIN, "C_0.8371mm", slice(0, 1), (1, 4, 8), 6),
    Part("IBSR 09 (B)", BRAIN, "B_1.0mm", slice(2, 3), (4,), 6),
    Part("IBSR 17 (C)", BRAIN, "C_0.8371mm", slice(1, 2), (4,), 6),
)

ALIGNED: dict[str, Any] = {"method": "grata", "perturbation": 0.05, "symmetric_entropy": True}
METHODS: dict[str, dict[str, Any] | None] = {
    "aligned auxiliary": {**ALIGNED, "scribble": "auxiliary", "hold": HOLD},
    "aligned pseudo": {**ALIGNED, "scribble": "pseudo", "hold": HOLD},
    "aligned both": {**ALIGNED, "scribble": "both", "hold": HOLD},
    "fine-tuning, held": {"method": "consistency", "scribble": "pseudo", "hold": HOLD},
    "plain fine-tuning": {"method": "consistency", "scribble": "pseudo"},
    "all weights": None,
    "all weights, held": None,
}
"""Settings of each; None: all weights of the network, not θ alone, with Adam on the same loss."""
ORDER = (
    "fine-tuning, held",
    "plain fine-tuning",
    "all weights",
    "all weights, held",
    "aligned pseudo",
    "aligned auxiliary",
    "aligned both",
)
RATES = {"aligned": (1e-3, 3e-3), "fine": (3e-4, 1e-3, 3e-3), "all": (3e-5, 1e-4, 3e-4)}
ROUNDS = 10
"""Steps on each corrected case or slice, the same for every method."""
NONE = "no correction"


class Data:
    """A part as the network reads it, with its truth and what the model drew."""

    def __init__(self, part: Part, data: Path, models: Path, seed: int, pick: str) -> None:
        self.part = part
        self.segmenter = load_segmenter(models / part.model, device="cpu")
        found = open_cohort(data / FOLDERS[part.model], [part.centre]).centres[0]
        self.volume = found.kind == "volumes"
        self.prepared: list[Any] = []
        self.truth: list[np.ndarray] = []
        for case in found.cases[part.cases]:
            scan = open_scan(case.image)
            mask = read_mask(case.mask, scan, labels=LABELS if part.model == FUNDUS else None)
            truth = [scan.get_mask(mask, i) for i in range(scan.n_slices)]
            for index in [i for i, one in enumerate(truth) if one.any()][:: part.every]:
                prepared = self.segmenter.prepare(scan, index)
                self.prepared.append(replace(prepared, slice_index=len(self.truth)))
                self.truth.append(truth[index])
        start = self.method(Settings(method="batch-norm", blend=0.0, six_views=True))
        self.said = [start.predict(one.image).probabilities for one in self.prepared]
        self.shown = [self.masks(p, one) for p, one in zip(self.said, self.prepared, strict=True)]
        rng = np.random.default_rng(seed)
        candidates = [int(i) for i in rng.permutation(len(self.truth))]
        if pick == "worst":
            candidates.sort(key=lambda i: float((self.shown[i] == self.truth[i]).mean()))
        most = max(part.counts)
        self.candidates, self.others = candidates[:most], sorted(candidates[most:])

    def method(self, settings: Settings) -> Any:
        return make_method(settings, self.segmenter.network, self.segmenter.card.activation)

    def masks(self, probabilities: torch.Tensor, prepared: Any) -> np.ndarray:
        return self.segmenter.label_map(self.segmenter.restore(probabilities[0], prepared))

    def lessons(
        self, count: int, kind: str, hold: float, seed: int
    ) -> list[tuple[torch.Tensor, Supervision]]:
        """Return images and supervision of the corrected ones."""
        found = []
        for index in self.candidates[:count]:
            shown, truth = self.shown[index], self.truth[index].astype(np.uint8)
            whole = kind == "whole"
            drawn = truth if whole else paint_strokes(shown, truth, STROKES, seed=seed + index)
            corrections = Corrections.of_slice(index, drawn, shown, whole=whole)
            prepared = self.prepared[index]
            taught = Supervision.of(corrections, prepared, self.segmenter.card)
            if taught is not None:
                held = taught.holding(self.said[index], hold) if hold else taught
                found.append((prepared.image, held))
        return found

    def dice(self, method: Any | None) -> dict[str, list[float]]:
        """Dice by structure: one a photograph, or one over all slices of a volume."""
        card = self.segmenter.card
        sums = np.zeros((len(self.others), len(card.structures), 2))
        for row, index in enumerate(self.others):
            mine = self.shown[index]
            if method is not None:
                prepared = self.prepared[index]
                mine = self.masks(method.predict(prepared.image).probabilities, prepared)
            for column, structure in enumerate(card.structures):
                a = structure_mask(card, mine, structure)
                b = structure_mask(card, self.truth[index], structure)
                sums[row, column] = 2 * int((a & b).sum()), int(a.sum()) + int(b.sum())
        if self.volume:
            sums = sums.sum(0, keepdims=True)
        dice = np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1].clip(1), 1.0)
        return {s.name: dice[:, i].tolist() for i, s in enumerate(card.structures)}


def teach(
    data: Data, name: str, rate: float, count: int, kind: str, seed: int
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Yield (final or average θ, Dice on the others) of one method.

    As in a run: the corrected ones take turns, one step each a round.
    """
    chosen = METHODS[name]
    hold = HOLD if name.endswith("held") or (chosen or {}).get("hold") else 0.0
    lessons = data.lessons(count, kind, hold, seed)
    network, activation = data.segmenter.network, data.segmenter.card.activation
    still = Settings(method="batch-norm", blend=0.0, six_views=True)
    if chosen is None:
        network = copy.deepcopy(network).requires_grad_(True)
        adam = torch.optim.Adam(network.parameters(), lr=rate)
        for image, supervision in lessons * ROUNDS:
            adam.zero_grad()
            scribble_loss(network(image), supervision, activation).backward()
            adam.step()
        yield "final", data.dice(make_method(still, network, activation))
        return
    settings = Settings(**chosen, blend=0.0, learning_rate=rate, predict="final")
    method, viewer = data.method(settings), data.method(still)
    total = torch.zeros_like(method.theta(), dtype=torch.float64)
    for image, supervision in lessons * ROUNDS:
        method.step(image, supervision)
        total += method.theta()
    steps = len(lessons) * ROUNDS
    for predict, theta in (("final", method.theta()), ("average", total / max(1, steps))):
        viewer.load_theta(theta.float() if steps else method.theta())
        yield predict, data.dice(viewer)


class Kept:
    """Runs that are done, one file each."""

    def __init__(self, out: Path, options: argparse.Namespace) -> None:
        self.folder = out / "parts"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = options
        self._data: Data | None = None

    def data(self, part: Part) -> Data:
        if self._data is None or self._data.part != part:
            o = self.options
            self._data = Data(part, o.data, o.models, o.seed, o.pick)
        return self._data

    def get(
        self, part: Part, name: str, rate: float, count: int, kind: str
    ) -> dict[str, dict[str, list[float]]]:
        """Return Dice by structure with the final and the averaged θ, done now or before."""
        o = self.options
        said = [str(part), name, METHODS.get(name), rate, ROUNDS, count, kind, HOLD]
        told = json.dumps([*said, STROKES, o.seed, o.pick], default=str)
        file = self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.json"
        if file.exists():
            return json.loads(file.read_text(encoding="utf-8"))["results"]
        begin = time.perf_counter()
        data = self.data(part)
        if name == NONE:
            results = {"": data.dice(None)}
        else:
            results = dict(teach(data, name, rate, count, kind, o.seed))
        seconds = time.perf_counter() - begin
        print(f"{part.name}, {name}, {rate:g}, k = {count}, {kind}: {seconds:.0f} s", flush=True)
        write_text(file, json.dumps({"told": told, "results": results}))
        return results


def family(name: str, settings: dict[str, Any] | None) -> str:
    """Which learning rates a method is tried with."""
    return "all" if settings is None else "aligned" if name.startswith("aligned") else "fine"


def gain(found: dict[str, list[float]], base: dict[str, list[float]]) -> list[float]:
    """Points of Dice gained, a structure each."""
    return [100 * float(np.mean(found[s]) - np.mean(base[s])) for s in base]


def choose(kept: Kept, out: Path) -> None:
    """Find each method's rate, and last or averaged θ: best mean gain over both parts, strokes."""
    table: dict[str, dict[str, list[float]]] = {}
    for part in CHOOSING:
        base = kept.get(part, NONE, 0, 0, "")[""]
        for name, settings in METHODS.items():
            for rate in RATES[family(name, settings)]:
                results = kept.get(part, name, rate, part.counts[0], "strokes")
                for how, dice in results.items():
                    table.setdefault(f"{name}|{rate:g}|{how}", {})[part.name] = gain(dice, base)
    chosen: dict[str, Any] = {}
    print("| method | mean | " + " | ".join(next(iter(table.values()))) + " |")
    print("|---" * (2 + len(next(iter(table.values())))) + "|")
    for name in METHODS:
        rows = {key: cells for key, cells in table.items() if key.startswith(f"{name}|")}
        mean = {key: np.mean([np.mean(c) for c in cells.values()]) for key, cells in rows.items()}
        for key in sorted(rows, key=lambda key: -mean[key]):
            cells = " | ".join(" ".join(f"{g:+.1f}" for g in c) for c in rows[key].values())
            print(f"| {key.replace('|', ', ')} | {mean[key]:+.2f} | {cells} |")
        best = max(rows, key=lambda key: mean[key]).split("|")
        chosen[name] = {"rate": float(best[1]), "predict": best[2]}
    (out / "chosen.json").write_text(json.dumps(chosen, indent=1), encoding="utf-8")


def counts_of(part: Part, name: str, kind: str) -> tuple[int, ...]:
    """Which numbers of corrected ones a method is measured with: less where that is enough."""
    if kind == "whole":
        left_out = name in ("aligned auxiliary", "aligned both")
        return (4,) if len(part.counts) > 1 and not left_out else ()
    if name in ("aligned auxiliary", "aligned both") and not part.name.startswith("RIM"):
        return (4,)
    return part.counts


def report(kept: Kept, out: Path, picture: Path | None) -> None:
    """Print the tables and draw the curves."""
    chosen = json.loads((out / "chosen.json").read_text(encoding="utf-8"))
    curves: dict[str, dict[str, dict[str, dict[int, list[float]]]]] = {}
    for kind, parts in (("strokes", REPORTED), ("whole", REPORTED)):
        rows = []
        for part in parts:
            base = kept.get(part, NONE, 0, 0, "")[""]
            for name in ORDER:
                said = chosen[name]
                for count in counts_of(part, name, kind):
                    dice = kept.get(part, name, said["rate"], count, kind)[said["predict"]]
                    rows.append((part, name, count, dice, base))
                    if kind == "strokes":
                        by_name = curves.setdefault(part.name, {}).setdefault(name, {})
                        for structure, values in dice.items():
                            by_name.setdefault(structure, {0: base[structure]})[count] = values
        for count in sorted({row[2] for row in rows}):
            print(f"\n{kind}, {count} corrected: Dice % (worst tenth); points gained\n")
            print_table(rows, count, ORDER)
    if picture is not None:
        parts = [part.name for part in REPORTED if len(part.counts) > 1]
        draw(curves, parts, ORDER, picture)


def main() -> None:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=here / "models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--choose", action="store_true", help="choose rates first")
    parser.add_argument("--pick", choices=("random", "worst"), default="random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="where the curves are drawn, as PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(options.out, options)
    if options.choose:
        choose(kept, options.out)
    else:
        report(kept, options.out, options.picture or options.out / "corrections.png")


if __name__ == "__main__":
    main()
