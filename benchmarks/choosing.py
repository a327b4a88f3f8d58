"""What a few reviewed slices are worth: simulated reviews on labelled centres.

Two stages, so that rules can be compared in seconds. ``cache`` makes the source masks and those
of the presets named, for each stack (a list of photographs, or one volume), with probabilities,
at about 256 × 256 pixels. ``simulate`` then draws reviews from them: k slices, chosen at random or
as `propose` asks, drawn by a perfect or a sloppy reviewer (boundaries off by about two pixels);
the rule of `napari_grata.review.choosing` decides, and the gain is measured on all *other* slices.

    python benchmarks/choosing.py cache --data ../shared/data --presets careful batch-norm
    python benchmarks/choosing.py simulate

``teach`` lets copies of the model learn from each draw's slices as well, which no cache can hold:
some minutes a draw, so that fewer are made, and each is kept in a table and not made again.

    python benchmarks/choosing.py teach --draws 8 --counts 3

A preset may be changed on the way: ``careful+learning_rate=0.003+passes=2``. Whatever lies in the
cache joins the candidates, so that a new preset is one more ``cache``; another model's folder than
the centres' own is given with ``--model``.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_grata.review.candidates import SOURCE, Candidate
from napari_grata.review.choosing import (
    SHIFTS,
    Choice,
    Estimate,
    Measured,
    Pick,
    Rule,
    chosen_masks,
    conclude,
    measure,
    recommend,
)
from napari_grata.review.proposing import spread_out
from napari_grata.segmenters import structure_mask

CACHE = Path("/tmp/choosing")
SIDE = 256
"""Photographs are brought to this before anything else."""
UNSHIFTED = SHIFTS.index(0)
PART = 0.8
"""Of a stack is open to one draw's proposals."""
FUNDUS_LABELS = {255: 0, 128: 1, 0: 2}
CENTRES = {
    "RIM-ONE_r3": ("fundus-disc-cup", "local_disc_cup"),
    "Drishti-GS_tight": ("fundus-disc-cup", "local_disc_cup"),
    "Drishti-GS": ("fundus-disc-cup", "local_disc_cup"),
    "B_1.0mm": ("brain-tissue-t1", "local_brain_T1_IBSR18"),
    "C_0.8371mm": ("brain-tissue-t1", "local_brain_T1_IBSR18"),
}
VESSELS = {
    "STARE": ("lwnet-wnet-drive", "local_fundus_vessels"),
    "CHASE_DB1": ("lwnet-wnet-drive", "open_fundus_vessels"),
    "HRF": ("lwnet-wnet-drive", "open_fundus_vessels"),
}
"""Of a foreign model, which is installed first: see ``docs/bring-your-own-model.md``."""
VESSELS_SIDE = 512
HIPPOCAMPI = {f"hippocampus-{how}": ("hippocampus", ".") for how in ("thick", "uneven", "contrast")}
"""Made, as their model is, by ``benchmarks/hippocampus.py``: its ``--out`` is ``--data`` here."""
EVERY = CENTRES | VESSELS | HIPPOCAMPI
PRESETS = (
    "source+six_views=true",
    "careful",
    "batch-norm",
    "as-published",
    "careful+learning_rate=0.003+passes=3",
    "consistency+learning_rate=0.003+blend=0.1+six_views=true+predict=average",
)


# -- the cache -------------------------------------------------------------------------------


@dataclass
class Stack:
    """One scan of a centre, the slices looked at, and their truth."""

    name: str
    scan: Any
    slices: list[int]
    truth: dict[int, np.ndarray]


def stacks(data: Path, centre: str, folder: str, cache: Path) -> Iterator[Stack]:
    """Open a centre: its photographs as one list, or each of its volumes."""
    from napari_grata.evaluation import open_cohort
    from napari_grata.scans import open_scan, read_mask

    found = open_cohort(data / folder, [centre]).centres[0]
    if found.kind == "photographs":
        cases = found.cases[:: 2 if len(found.cases) > 48 else 1]
        scan = open_scan([_small(case.image, cache / "scans" / centre) for case in cases])
        truth = {}
        for index, case in enumerate(cases):
            if centre in VESSELS:
                mask = _white(case.mask)
            else:
                one = open_scan(case.image)
                mask = one.get_mask(read_mask(case.mask, one, labels=FUNDUS_LABELS), 0)
            truth[index] = _resized(mask, scan.slice_shape(index))
        yield Stack(centre, scan, list(truth), truth)
        return
    for case in found.cases:
        scan = open_scan(case.image)
        stack = read_mask(case.mask, scan)
        slices = [i for i in range(scan.n_slices) if scan.read_slice(i).any()]
        step = 8 if len(slices) > 100 else 1
        slices = slices[step // 2 :: step]
        truth = {i: scan.get_mask(stack, i) for i in slices}
        yield Stack(f"{centre}-{case.name}", scan, slices, truth)


def _white(path: Path) -> np.ndarray:
    """Read what is white in a picture, which may be a JPEG, as structure 1."""
    from PIL import Image

    with Image.open(path) as picture:
        return (np.asarray(picture.convert("L")) > 127).astype(np.uint8)


def _small(path: Path, folder: Path) -> Path:
    from PIL import Image

    target = folder / f"{path.stem}.png"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
            side = VESSELS_SIDE if folder.name in VESSELS else SIDE
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            picture.save(target)
    return target


def _resized(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a label map to another size by its middle pixels."""
    rows, columns = (
        ((np.arange(n) + 0.5) * old / n).astype(int)
        for n, old in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def settings_of(spec: str) -> Any:
    """Read ``preset+name=value+…``."""
    import yaml

    from napari_grata.adaptation.settings import Settings, preset

    name, *changes = spec.split("+")
    values = preset(name).settings.to_dict()
    for change in changes:
        key, _, value = change.partition("=")
        values[key] = yaml.safe_load(value)
    return Settings.from_dict(values)


def fill_cache(options: argparse.Namespace) -> None:
    """Run every preset on every stack that the cache does not hold yet."""
    from napari_grata.adaptation import AdaptationRun
    from napari_grata.segmenters import load_segmenter

    for centre in options.centres:
        model, folder = EVERY[centre]
        model = options.model or model
        segmenter = load_segmenter(model, device="cpu")
        for stack in stacks(options.data, centre, folder, options.cache):
            place = options.cache / segmenter.card.name / stack.name
            place.mkdir(parents=True, exist_ok=True)
            (place.parent / "model.txt").write_text(str(segmenter.folder), encoding="utf-8")
            keep(place / "truth.npz", stack.truth)
            for spec in (SOURCE, *options.presets):
                target = place / f"{spec}.npz"
                if target.exists():
                    continue
                began = time.perf_counter()
                run = AdaptationRun(segmenter, stack.scan, settings_of(spec), slices=stack.slices)
                for _ in run.records():
                    pass
                found = {i: run.predict(i).probabilities for i in stack.slices}
                run.close()
                keep(target, found)
                print(f"{target}: {time.perf_counter() - began:.0f} s", flush=True)


def keep(path: Path, arrays: Mapping[int, np.ndarray]) -> None:
    """Write slices' arrays into one file, probabilities as float16."""
    if path.exists():
        return
    small = {
        str(i): array.astype(np.float16) if array.dtype.kind == "f" else array
        for i, array in arrays.items()
    }
    unfinished = path.with_name(f"{path.stem}.part.npz")
    np.savez_compressed(unfinished, **small)
    unfinished.replace(path)


# -- tables ----------------------------------------------------------------------------------


def arrays_of(path: Path) -> dict[int, np.ndarray]:
    """Read what `keep` wrote."""
    with np.load(path) as held:
        return {int(name): held[name] for name in held}


def sloppy(truth: np.ndarray, seed: int, pixels: float = 2.0) -> np.ndarray:
    """Return a mask whose boundaries are off by some pixels, as smoothly as a hand is."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    away = [ndimage.gaussian_filter(rng.normal(size=truth.shape), 8) for _ in range(2)]
    places = np.indices(truth.shape) + np.array([pixels * part / part.std() for part in away])
    return np.asarray(ndimage.map_coordinates(truth, places, order=0, mode="nearest"))


def specs_in(place: Path) -> list[Path]:
    """Return the cached candidates of a stack, the source model first."""
    found = [path for path in place.glob("*.npz") if path.stem != "truth"]
    found = [path for path in found if not path.name.endswith(".part.npz")]
    return sorted(found, key=lambda path: (path.stem != SOURCE, path.stem))


def table_of(path: Path) -> Path:
    """Where the tables of a cached candidate are kept."""
    return path.parent / "tables" / path.name


@cache
def opened(model: str) -> Any:
    """Open a model's folder, once."""
    from napari_grata.segmenters import load_segmenter

    return load_segmenter(Path(model), device="cpu")


def candidate_of(segmenter: Any, path: Path) -> Candidate:
    """Read a cached candidate."""
    found = {i: array.astype(np.float32) for i, array in arrays_of(path).items()}
    masks = {i: segmenter.label_map(array) for i, array in found.items()}
    return Candidate(path.stem, path.stem, masks, found.__getitem__)


def fill_tables(place: Path) -> None:
    """Measure what is cached of a stack, for two reviewers, where that was not done yet."""
    wanted = [path for path in specs_in(place) if not table_of(path).exists()]
    if not wanted:
        return
    segmenter = opened((place.parent / "model.txt").read_text(encoding="utf-8"))
    card, truth = segmenter.card, arrays_of(place / "truth.npz")
    reviewers = {"perfect": truth, "sloppy": {i: sloppy(mask, i) for i, mask in truth.items()}}

    source = candidate_of(segmenter, place / "source.npz")
    for path in wanted:
        pair = [source] if path.stem == SOURCE else [source, candidate_of(segmenter, path)]
        table: dict[str, np.ndarray] = {}
        for reviewer, masks in reviewers.items():
            *_, found = measure(segmenter, pair, masks, stack=card.dimensions == 3)
            for part in ("dice", "gains", "apart"):
                table[f"{reviewer} {part}"] = getattr(found, part)[-1]
        table["structures"] = np.array(found.structures)
        table["shown"] = np.array(
            [
                [structure_mask(card, source.masks[i], name).any() for name in found.structures]
                for i in sorted(truth)
            ]
        )
        table_of(path).parent.mkdir(exist_ok=True)
        np.savez_compressed(table_of(path), **table)


class Tables:
    """All candidates of a stack on all of its slices, for two reviewers."""

    def __init__(self, place: Path, only: Collection[str] = ()) -> None:
        paths = [p for p in specs_in(place) if not only or p.stem in {SOURCE, *only}]
        held = [np.load(table_of(path)) for path in paths]
        self.name = place.name
        self.centre = max((c for c in EVERY if place.name.startswith(c)), key=len)
        if place.parent.name not in {model for model, _ in EVERY.values()}:
            self.name += f", {place.parent.name}"
        self.names = tuple(path.stem for path in paths)
        self.structures = tuple(str(name) for name in held[0]["structures"])
        self.shown = held[0]["shown"]
        self.parts = {
            (reviewer, part): np.stack([one[f"{reviewer} {part}"] for one in held])
            for reviewer in ("perfect", "sloppy")
            for part in ("dice", "gains", "apart")
        }
        self.masks: list[Candidate] = []
        if place.name != self.centre:  # one case in slices
            self.segmenter = opened((place.parent / "model.txt").read_text(encoding="utf-8"))
            self.truth = arrays_of(place / "truth.npz")
            self.masks = [candidate_of(self.segmenter, path) for path in paths]
        self.overlaps: dict[tuple[Any, ...], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def count(self) -> int:
        """How many slices there are."""
        return len(self.shown)

    def reviewed(self, picks: np.ndarray, reviewer: str) -> Measured:
        """Return what `measure` says where these slices were reviewed."""
        dice, gains, apart = (self.parts[reviewer, part] for part in ("dice", "gains", "apart"))
        others = np.setdiff1d(np.arange(self.count), picks)
        return Measured(
            self.names,
            self.names,
            self.structures,
            dice[:, picks],
            gains[:, picks],
            apart[:, picks],
            apart[:, others][..., UNSHIFTED].mean(1),
            len(others),
            {"cup": "disc"} if "cup" in self.structures else {},
        )

    def gain(self, candidate: str, place: int, shift: float, others: np.ndarray) -> float:
        """Return what one structure gains from a candidate on slices, in points of Dice."""
        gains = self.parts["perfect", "gains"]
        which, column = self.names.index(candidate), SHIFTS.index(shift)
        return 100 * float(np.nanmean(gains[which, others, place, column]))

    def always(self, candidate: str) -> list[float]:
        """Return what each structure gains from a candidate on all slices."""
        return self.outcome(taking(candidate, self.structures), np.arange(self.count))

    def outcome(self, choice: Choice, others: np.ndarray) -> list[float]:
        """Return the gains of a choice on slices, by structure: of a stack in its own Dice."""
        if self.masks:
            after, before = (
                self.stack_dice(one, others) for one in (choice, taking(SOURCE, self.structures))
            )
            return (100 * (after - before)).tolist()
        return [
            self.gain(pick.candidate, place, pick.shift, others)
            for place, pick in enumerate(choice.picks)
        ]

    def stack_dice(self, choice: Choice, slices: np.ndarray) -> np.ndarray:
        """Return the Dice of each structure over some slices together, as chosen."""
        picks = tuple((pick.candidate, pick.estimate.mean) for pick in choice.picks)
        # In which order they are taken over counts, the expected gains themselves do not.
        key = tuple(name for name, _ in picks), tuple(np.argsort([mean for _, mean in picks]))
        if key not in self.overlaps:
            found = dict(chosen_masks(self.segmenter, choice, self.masks))
            self.overlaps[key] = overlaps_of(self.segmenter.card, found, self.truth, found)
        both, total = (part[slices].sum(0) for part in self.overlaps[key])
        return np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)


def taking(candidate: str, structures: Sequence[str]) -> Choice:
    """Return the choice of one candidate for everything."""
    nothing = Estimate(0.0, 0.0, 0.0)
    return Choice(tuple(Pick(one, candidate, candidate, 0.0, nothing) for one in structures), "")


# -- simulated reviews -----------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What simulated reviews of one stack came to, in points of Dice on the other slices."""

    mean: float
    low: float
    """The 5 % quantile over draws."""
    structures: list[float]
    nothing: float
    """How often nothing was recommended."""

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f}); {signed(self.structures)}; {self.nothing:.0%}"


def drawn(tables: Tables, count: int, how: str, rng: np.random.Generator) -> np.ndarray:
    """Draw slices to review: at random, or proposed for a random part of the stack."""
    if how == "random":
        return np.sort(rng.choice(tables.count, count, replace=False))
    # A proposal knows no chance; of a part of the stack each draw gets another one.
    part = np.sort(rng.choice(tables.count, max(count, round(PART * tables.count)), replace=False))
    apart = tables.parts["perfect", "apart"][1:, part][..., UNSHIFTED]
    return part[spread_out(apart, tables.shown[part], count)]


def simulate(
    tables: Tables, rule: Rule, count: int, how: str, reviewer: str, draws: int
) -> Outcome:
    """Review, decide, and measure on all the other slices; many times."""
    rng = np.random.default_rng(0)
    gains, nothing = [], 0
    for _ in range(draws):
        picks = drawn(tables, count, how, rng)
        choice = recommend(conclude(tables.reviewed(picks, reviewer), picks.tolist(), rule))
        nothing += not choice.changes
        gains.append(tables.outcome(choice, np.setdiff1d(np.arange(tables.count), picks)))
    means = np.mean(gains, axis=1)
    return Outcome(
        float(means.mean()),
        float(np.quantile(means, 0.05)),
        np.mean(gains, axis=0).tolist(),
        nothing / draws,
    )


def signed(gains: Iterable[float]) -> str:
    """Write the gains of the structures beside each other."""
    return " / ".join(f"{gain:+.1f}" for gain in gains)


def all_tables(cache: Path, presets: Collection[str]) -> list[Tables]:
    """Return the tables of all stacks that a cache holds, filling in what is missing."""
    places = [path.parent for path in sorted(cache.glob("*/*/source.npz"))]
    for place in places:
        fill_tables(place)
    return [Tables(place, presets or ()) for place in places]


def report(options: argparse.Namespace) -> None:
    """Print what each candidate gains always, and what reviews gain, as Markdown tables."""
    every = all_tables(options.cache, options.presets)
    print("Always the same candidate: mean gain; by structure.\n")
    print("| stack | candidate | gain |\n| --- | --- | --- |")
    for tables in every:
        for name in tables.names[1:]:
            gains = tables.always(name)
            print(f"| {tables.name} | {name} | {np.mean(gains):+.2f}; {signed(gains)} |")
    print("\nReviewed: mean gain on the other slices (5 % quantile of the draws); by structure;")
    print("how often nothing was recommended.\n")
    head = "| stack | reviewer | slices | " + " | ".join(f"k = {k}" for k in options.counts)
    print(f"{head} |\n| --- | --- | --- |{' --- |' * len(options.counts)}")
    ways = itertools.product(("perfect", "sloppy"), ("random", "proposed"))
    for tables, (reviewer, how) in itertools.product(every, list(ways)):
        cells = [
            str(simulate(tables, Rule(), count, how, reviewer, options.draws))
            for count in options.counts
        ]
        print(f"| {tables.name} | {reviewer} | {how} | {' | '.join(cells)} |", flush=True)
    if options.rules:
        leave_one_out(every, options.draws // 3)


# -- copies that learn -----------------------------------------------------------------------


WAYS = ("decided", "untaught", "taught", "careful")
"""What is decided with the copy that learned and without it, and always it or *Careful*."""


def teach(options: argparse.Namespace) -> None:
    """Let copies learn from the slices of each draw, decide, and print what that gains."""
    import pandas as pd

    from napari_grata.segmenters import load_segmenter

    table = options.cache / "taught.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    for centre in options.centres:
        model, folder = EVERY[centre]
        segmenter = load_segmenter(options.model or model, device="cpu")
        for stack in stacks(options.data, centre, folder, options.cache):
            for draw in _lessons(segmenter, stack, options, table):
                pd.DataFrame([draw]).to_csv(table, mode="a", header=not table.exists(), index=False)
    found = pd.read_csv(table)
    keys = ["model", "stack", "asked", "reviewer", "count"]
    gains = found.groupby(keys)[list(WAYS)]
    summary = gains.mean().join(gains.min().add_suffix(", worst draw")).round(2)
    print(summary.join(found.groupby(keys).size().rename("draws")).reset_index().to_string())


def _lessons(
    segmenter: Any, stack: Stack, options: argparse.Namespace, table: Path
) -> Iterator[dict[str, Any]]:
    """Yield the draws of a stack that the table does not hold yet."""
    import pandas as pd

    from napari_grata.review.candidates import USUAL, CandidateRuns
    from napari_grata.review.choosing import weigh
    from napari_grata.review.proposing import propose

    card, is_stack = segmenter.card, stack.scan.is_stack
    held = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["model", "stack"])
    held = held[(held["model"] == card.name) & (held["stack"] == stack.name)]
    ways = ["asked", "reviewer", "count", "draw"]
    done = set() if held.empty else set(held[ways].itertuples(index=False, name=None))
    runs: CandidateRuns | None = None
    for how, reviewer, count, draw in itertools.product(
        options.asked, options.reviewers, options.counts, range(options.draws)
    ):
        if (how, reviewer, count, draw) in done:
            continue
        if runs is None:
            runs = CandidateRuns(segmenter, stack.scan, USUAL, slices=stack.slices)
            for _ in runs.records():
                pass
        rng = np.random.default_rng(draw)
        if how == "random":
            asked = sorted(map(int, rng.choice(stack.slices, count, replace=False)))
        else:
            away = rng.choice(stack.slices, round((1 - PART) * len(stack.slices)), replace=False)
            asked = propose(
                card, runs.candidates[: len(USUAL) + 1], count, stack=is_stack, leave_out=set(away)
            )
        shown = {
            i: sloppy(stack.truth[i], i) if reviewer == "sloppy" else stack.truth[i] for i in asked
        }
        for _ in runs.teach(shown):
            pass
        others = [i for i in stack.slices if i not in shown]
        masks = {one.name: one.masks for one in runs.candidates}
        for name, tried in (("untaught", runs.candidates[:-1]), ("decided", runs.candidates)):
            *_, weighing = weigh(segmenter, tried, shown, stack=is_stack)
            choice = recommend(weighing)
            masks[name] = dict(chosen_masks(segmenter, choice, tried, others))
        dice = {name: _dice(card, found, stack.truth, others) for name, found in masks.items()}
        gains = {name: 100 * (one - dice[SOURCE]) for name, one in dice.items()}
        row = {"model": card.name, "stack": stack.name, "asked": how}
        row |= {"reviewer": reviewer, "count": count}
        row |= {"draw": draw, "picks": " ".join(pick.candidate for pick in choice.picks)}
        for name in WAYS:
            row |= {name: gains[name].mean(), f"{name}, by structure": signed(gains[name])}
        print(row, flush=True)
        yield row
    if runs is not None:
        runs.close()


def _dice(card: Any, masks: Any, truth: Any, slices: Sequence[int]) -> np.ndarray:
    """Return the Dice of each structure: the mean of cases, of a stack that of all its slices."""
    both, total = overlaps_of(card, masks, truth, slices)
    if card.dimensions == 3:
        return np.asarray(2 * both.sum(0) / total.sum(0))
    dice = np.where(total > 0, 2 * both / np.maximum(total, 1), np.nan)
    return np.asarray(np.nanmean(dice, axis=0))


def overlaps_of(
    card: Any, masks: Any, truth: Any, slices: Iterable[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what masks share with the truth and what both hold, shape (slices, structures)."""
    found = []
    for i in slices:
        pairs = [
            [structure_mask(card, one[i], structure.name) for one in (masks, truth)]
            for structure in card.structures
        ]
        found.append([((a & b).sum(), a.sum() + b.sum()) for a, b in pairs])
    both, total = np.moveaxis(np.array(found, dtype=float), -1, 0)
    return both, total


def leave_one_out(every: Sequence[Tables], draws: int) -> None:
    """Choose the rule on all centres but one, and report it on that one; three slices."""
    grid = itertools.product((0.7, 0.8, 0.85, 0.9), (0.3, 0.5), (0.01, 0.03), (0.0, 3.0))
    rules = [Rule(level=a, scatter=b, penalty=c, telling=d) for a, b, c, d in grid]
    ways = ("random", "proposed")
    found = {
        (tables.name, rule, how): simulate(tables, rule, 3, how, "perfect", draws)
        for tables, rule, how in itertools.product(every, rules, ways)
    }
    centres = {tables.name: tables.centre for tables in every}
    print("\nThe rule chosen without a centre, on that centre: three slices.\n")
    print("| stack | level, scatter, penalty, telling | random | proposed |")
    print("| --- | --- | --- | --- |")
    for tables in every:
        others = [name for name, centre in centres.items() if centre != centres[tables.name]]
        best = max(
            rules,
            key=lambda rule: _worth([found[name, rule, how] for name in others for how in ways]),
        )
        numbers = f"{best.level}, {best.scatter}, {best.penalty}, {best.telling}"
        cells = " | ".join(str(found[tables.name, best, how]) for how in ways)
        print(f"| {tables.name} | {numbers} | {cells} |", flush=True)


def _worth(outcomes: Sequence[Outcome]) -> float:
    """Mean gain; a loss beyond 0.3 points in the worst twentieth counts in full."""
    return float(np.mean([one.mean + min(0.0, one.low + 0.3) for one in outcomes]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["cache", "simulate", "teach"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="outside the repository")
    parser.add_argument("--model", help="in place of the centre's own, such as a plain one")
    parser.add_argument("--centres", nargs="+", default=list(CENTRES), choices=list(EVERY))
    parser.add_argument("--presets", nargs="+", help="cache: to run; simulate: to weigh (all)")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 3, 5, 8])
    parser.add_argument("--asked", nargs="+", default=["proposed"], help="or random; of teach")
    parser.add_argument("--reviewers", nargs="+", default=["perfect"], help="or sloppy; of teach")
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--rules", action="store_true", help="also choose the rule, left-out")
    options = parser.parse_args(arguments)
    if options.stage == "cache":
        options.presets = options.presets or PRESETS
        fill_cache(options)
    elif options.stage == "teach":
        teach(options)
    else:
        report(options)


if __name__ == "__main__":
    main()
