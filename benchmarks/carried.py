"""Does what a few reviewed slices of one volume decide gain on the other volumes of its centre?

    python benchmarks/choosing.py cache --centres B_1.0mm C_0.8371mm …
    python benchmarks/carried.py

Reviews are simulated as in ``choosing.py``, on each volume in turn, or spread over three. What is
decided is then applied to every volume of the centre that nobody has looked at, whole.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from choosing import CACHE, Tables, all_tables, drawn, signed

from napari_grata.review.choosing import Choice, Measured, Rule, conclude, recommend

LOSS = -0.3
"""Points of Dice from which on a volume counts as having lost."""


@dataclass(frozen=True)
class Review:
    """One simulated review: what it chose, and gains by structure, in points of Dice."""

    choice: Choice
    same: list[float]
    """On the other slices of the (first) volume that was reviewed."""
    others: dict[str, list[float]]
    """On the volumes that nobody looked at, by name."""


def pooled(found: Sequence[Measured]) -> Measured:
    """Return what was measured on slices of several volumes as if they were one's."""
    parts = {
        part: np.concatenate([getattr(one, part) for one in found], axis=1)
        for part in ("dice", "gains", "apart")
    }
    rest = np.mean([one.rest for one in found], axis=0)
    return replace(found[0], **parts, rest=rest, remaining=sum(one.remaining for one in found))


def reviews(
    centre: Sequence[Tables], count: int, volumes: int, how: str, reviewer: str, draws: int
) -> Iterator[Review]:
    """Review slices, spread over some volumes of a centre, so often with each as the first."""
    rng = np.random.default_rng(0)
    for _, first in itertools.product(range(draws), range(len(centre))):
        more = rng.choice(np.delete(np.arange(len(centre)), first), volumes - 1, replace=False)
        seen = [centre[which] for which in (first, *more)]
        sizes = [len(part) for part in np.array_split(np.arange(count), volumes)]
        picks = [drawn(one, size, how, rng) for one, size in zip(seen, sizes, strict=True)]
        found = pooled([one.reviewed(p, reviewer) for one, p in zip(seen, picks, strict=True)])
        choice = recommend(conclude(found, range(count), Rule()))
        rest = np.setdiff1d(np.arange(seen[0].count), picks[0])
        others = {
            one.name: one.outcome(choice, np.arange(one.count)) for one in centre if one not in seen
        }
        yield Review(choice, seen[0].outcome(choice, rest), others)


def summary(found: Sequence[Review]) -> str:
    """Write what reviews of one kind came to, as cells of a table."""
    same = np.mean([one.same for one in found], axis=1)
    each = defaultdict(list)
    for one in found:
        for name, gains in one.others.items():
            each[name].append(np.mean(gains))
    others = np.array([np.mean(list(one.others.values())) for one in found])
    every = np.concatenate(list(each.values()))
    structures = np.mean([np.mean(list(one.others.values()), axis=0) for one in found], axis=0)
    nothing = np.mean([not one.choice.changes for one in found])
    return (
        f"{same.mean():+.2f} ({np.quantile(same, 0.05):+.2f}) | "
        f"{others.mean():+.2f} ({np.quantile(others, 0.05):+.2f}); {signed(structures)} | "
        f"{min(map(np.mean, each.values())):+.2f} | {(every <= LOSS).mean():.0%} | {nothing:.0%}"
    )


def report(centres: dict[str, list[Tables]], options: argparse.Namespace) -> None:
    """Print all tables."""
    print("Always the same candidate: mean gain; by structure.\n")
    print("| centre | candidate | gain | worst volume | volumes that lose |")
    print("| --- | --- | --- | --- | --- |")
    for centre, every in centres.items():
        for name in every[0].names[1:]:
            gains = np.array([one.always(name) for one in every])
            means = gains.mean(1)
            cells = f"{means.mean():+.2f}; {signed(gains.mean(0))} | {means.min():+.2f}"
            print(f"| {centre} | {name} | {cells} | {(means <= LOSS).mean():.0%} |")
    print("\nReviewed: mean gain (5 % quantile of the draws); by structure.\n")
    print("| centre | reviewer | slices | k | of volumes | other slices of the same | ", end="")
    print("other volumes | worst volume | volumes that lose | nothing recommended |")
    print(f"|{' --- |' * 10}")
    ways = itertools.product(("perfect", "sloppy"), options.asked, options.counts, (1, 3))
    for (centre, every), (reviewer, how, k, volumes) in itertools.product(
        centres.items(), list(ways)
    ):
        if volumes <= k and volumes < len(every):
            found = list(reviews(every, k, volumes, how, reviewer, options.draws))
            row = f"| {centre} | {reviewer} | {how} | {k} | {volumes} | {summary(found)} |"
            print(row, flush=True)
    print("\nWhat three proposed slices of one volume chose, perfect reviewer.\n")
    print("| centre | structure | candidate | chosen | same volume | other volumes | worst |")
    print(f"|{' --- |' * 7}")
    for centre, every in centres.items():
        found = list(reviews(every, 3, 1, "proposed", "perfect", options.draws))
        for place, structure in enumerate(every[0].structures):
            for name in every[0].names[1:]:
                some = [one for one in found if one.choice.picks[place].candidate == name]
                if not some:
                    continue
                same = np.mean([one.same[place] for one in some])
                each = np.array([[g[place] for g in one.others.values()] for one in some])
                cells = f"{same:+.2f} | {each.mean():+.2f} | {each.min():+.2f}"
                share = len(some) / len(found)
                print(f"| {centre} | {structure} | {name} | {share:.0%} | {cells} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, default=CACHE, help="of choosing.py")
    parser.add_argument("--presets", nargs="+", help="to weigh (all)")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 3, 5, 8])
    parser.add_argument("--asked", nargs="+", default=["proposed"], help="or random")
    parser.add_argument("--draws", type=int, default=50, help="with each volume as the first")
    options = parser.parse_args()
    centres: dict[str, list[Tables]] = defaultdict(list)
    for one in all_tables(options.cache, options.presets):
        if one.masks:
            centres[one.centre].append(one)
    report(centres, options)


if __name__ == "__main__":
    main()
