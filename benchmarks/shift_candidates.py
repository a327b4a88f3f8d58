"""Which figure should say how far a scan is from the source centre? Tried on development centres.

Of each candidate: its median at a development centre in units of its own edge at home (19 of 20
held-out scans of the source centre lie within 1; brain: all four volumes), and the rank
correlation with the source model's Dice across the centre's cases. A figure that says where the
model is wrong would rank centres by their loss and have negative correlations within them.

    python benchmarks/shift_candidates.py --data ../shared/data
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from shift import BRAIN, FUNDUS, PLACES, Place, cases, mean_dice, measure

from napari_grata.adaptation.shift import slice_statistics, slices_to_look_at, source_statistics
from napari_grata.scans import open_scan
from napari_grata.segmenters import load_segmenter


class Measured:
    """One centre's cases: signed channel distances (n, channels), log variance ratios, Dice."""

    def __init__(self, segmenter: Any, place: Place, data: Path, dice: bool) -> None:
        source = source_statistics(segmenter.network)
        frame = segmenter.card.shift.frame
        means, ratios, single, self.dice = [], [], [], []
        for _, image, mask in cases(place, data):
            scan = open_scan(image)
            slices = slices_to_look_at(scan, 0)
            passes = (slice_statistics(segmenter, scan, i, frame=frame) for i in slices)
            found = [one for one in passes if one is not None]
            signed, logs, alone = [], [], []
            for name, layer in source.items():
                rows = np.stack([s[name].mean for s in found])
                deviation = np.sqrt(layer.variance)
                spread = np.stack([s[name].variance for s in found]).mean(0) + rows.var(0)
                signed.append((rows.mean(0) - layer.mean) / deviation)
                logs.append(np.log(np.maximum(spread, 1e-12) / layer.variance))
                alone.append((np.abs(rows - layer.mean) / deviation).mean())
            means.append(np.concatenate(signed))
            ratios.append(np.concatenate(logs))
            single.append(np.mean(alone))
            if dice:
                self.dice.append(mean_dice(measure(segmenter, place, image, mask)))
        self.means, self.ratios, self.single = map(np.array, (means, ratios, single))
        ends = np.cumsum([len(layer.mean) for layer in source.values()])
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))

    def layers(self, values: np.ndarray | None = None) -> np.ndarray:
        """Mean of absolute values over each layer's channels, shape (n, layers)."""
        values = np.abs(self.means if values is None else values)
        return np.stack([values[:, a:b].mean(1) for a, b in self.bounds], axis=1)


def candidates(home: Measured) -> dict[str, Callable[[Measured], np.ndarray]]:
    """Each gives a score a case; what they know of home comes from `home` alone."""
    layers = home.layers()
    middle, spread = layers.mean(0), layers.std(0) + 1e-9
    centre, width = home.means.mean(0), home.means.std(0) + 1e-3

    def mahalanobis(one: Measured) -> np.ndarray:
        squares = ((one.means - centre) / width) ** 2
        return np.mean([np.sqrt(squares[:, a:b].mean(1)) for a, b in one.bounds], axis=0)

    found = {
        "a: mean over layers (taken)": lambda one: one.layers().mean(1),
        "a, slices one by one": lambda one: one.single,
        "b: layers as z-scores, mean": lambda one: ((one.layers() - middle) / spread).mean(1),
        "c: first six layers": lambda one: one.layers()[:, :6].mean(1),
        "d: channels as z-scores (diagonal Mahalanobis)": mahalanobis,
        "variances: mean |log ratio|": lambda one: one.layers(one.ratios).mean(1),
    }
    if len(home.means) < 10:
        # Spreads over four volumes are noise.
        found = {name: score for name, score in found.items() if name[:2] not in ("b:", "d:")}
    return found


def report(model: str, data: Path, models: Path) -> None:
    """Print one line a candidate."""
    segmenter = load_segmenter(models / model, device="cpu")
    places = [p for p in PLACES if p.model == model and p.role in ("home", "development")]
    if model == BRAIN:
        places[0] = Place("IBSR A, all four", BRAIN, places[0].folder, places[0].centre, "all")
    found = [Measured(segmenter, place, data, model == FUNDUS) for place in places]
    home = found[0]
    for name, score in candidates(home).items():
        own = score(home)
        edge = np.quantile(own, 0.95) if len(own) >= 20 else own.max()
        cells = []
        for place, one in zip(places, found, strict=True):
            scores = score(one)
            text = f"{place.title} {np.median(scores) / edge:.2f}"
            if len(one.dice) >= 10:
                text += f" (rho {spearmanr(scores, one.dice)[0]:+.2f})"
            cells.append(text)
        print(f"{name}: {', '.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "models")
    options = parser.parse_args()
    for model in (FUNDUS, BRAIN):
        report(model, options.data, options.models.resolve())


if __name__ == "__main__":
    main()
