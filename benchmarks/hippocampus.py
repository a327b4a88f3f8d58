"""A source model of the hippocampus, and centres made of volumes that it has not seen.

All volumes come from one hospital, so other scanners are made up: seeded corruptions, of which
each volume gets its own draw. How strong they are was chosen by what the source model loses
(``losses``), before anything was adapted to them.

    python benchmarks/hippocampus.py train --data ../shared/data --out out/hippocampus
    python benchmarks/hippocampus.py losses --data ../shared/data --out out/hippocampus
    python benchmarks/hippocampus.py centres --data ../shared/data --out out/hippocampus

What is written to ``--out`` is measured with ``benchmarks/choosing.py``. Neither scans nor weights
ship.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from torch import Generator, Tensor

from napari_grata.adaptation.source_centre import calibrate
from napari_grata.scans import open_scan
from napari_grata.segmenters import load_card, load_segmenter, write_card
from napari_grata.segmenters.card import Card, Structure

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tools.train.appearance import blur, chain, channel_gain, gamma, maybe, noise
from tools.train.data import LabelledCase, find_cases, split_cases
from tools.train.evaluate import evaluate_model
from tools.train.loop import train
from tools.train.recipes import Recipe
from tools.train.views import GeometryRange

# About what nnU-Net does by default: the contrast moves a little, and never the light.
_USUAL = chain(
    [
        maybe(0.3, channel_gain(0.25, 0.0)),
        maybe(0.3, gamma(0.7, 1.5)),
        maybe(0.2, blur(0.3, 0.8)),
        maybe(0.2, noise(0.04)),
    ]
)


def _appearance(images: Tensor, targets: Tensor, generator: Generator) -> Tensor:
    return _USUAL(images, generator).clamp(0, 1)


RECIPE = Recipe(
    card=Card(
        name="hippocampus",
        title="Hippocampus T1: anterior and posterior",
        structures=(Structure("anterior", "#56B4E9", 1), Structure("posterior", "#E69F00", 2)),
        activation="softmax",
        arguments={"encoder": "compact"},
        channels=1,
        spacing=(1.0, 1.0),
        normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
        modality="T1",
        dimensions=3,
        views=("identity", "left-right"),
        source_centre="Medical Segmentation Decathlon, hippocampus (Vanderbilt)",
        training_data=({"name": "MSD Task04", "terms": "CC BY-SA 4.0"},),
    ),
    folder="open_hippocampus_MSD/Vanderbilt",
    labels={0: 0, 1: 1, 2: 2},
    frame=(64, 64),
    home_frame=(64, 64),
    views=GeometryRange(
        scale=(0.8, 1.25),
        stretch=0.1,
        rotation=15.0,
        tilt=10.0,
        shift=0.05,
        elastic=0.008,
        flip_columns=True,
    ),
    appearance=_appearance,
    hold_out=0.35,
    epochs=80,
)


# -- other scanners --------------------------------------------------------------------------


def _thick(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Voxels `strength` times as large, with noise in them, brought back to the grid."""
    factor = strength * rng.uniform(0.9, 1.1)
    small = ndimage.gaussian_filter(image, factor / 2.355)
    small = ndimage.zoom(small, 1 / factor, order=1)
    # The magnitude of a complex signal: where it is dark, noise makes it brighter.
    grain = rng.normal(0, 0.04, (2, *small.shape))
    small = np.hypot(small + grain[0], grain[1])
    return ndimage.zoom(small, np.divide(image.shape, small.shape), order=1)


def _uneven(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Darker in its middle tones, and lit from one side, as near a surface coil."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij"))
    towards = rng.normal(size=3)
    towards /= np.linalg.norm(towards)
    along = np.tensordot(towards, places, 1)
    light = np.exp(strength * (along + rng.uniform(0.3, 0.7) * along**2))
    return np.clip(image, 0, None) ** (1 + strength / 2) * light


def _contrast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Another weighting: tissues come nearer each other, and the brightest turn dark again."""
    bent = strength * rng.uniform(0.9, 1.1)
    return image - bent * np.clip(image, 0, None) ** 2


CENTRES: dict[str, tuple[Callable[[np.ndarray, float, np.random.Generator], np.ndarray], float]] = {
    "hippocampus-thick": (_thick, 2.2),
    "hippocampus-uneven": (_uneven, 0.24),
    "hippocampus-contrast": (_contrast, 0.46),
}
"""How a made-up centre shows a volume, and how strongly."""


def corrupt(case: LabelledCase, centre: str, strength: float, folder: Path) -> LabelledCase:
    """Write a volume as another centre would show it, and its mask as it is."""
    show, _ = CENTRES[centre]
    image, target = nibabel.load(case.image), folder / "images" / case.image.name
    mask = folder / "masks" / case.mask.name
    for path in (target, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(image.dataobj, np.float32)
    low, high = np.quantile(values, (0.01, 0.99))
    number = int(case.name.split("_")[-1])
    shown = show((values - low) / (high - low), strength, np.random.default_rng(number))
    nibabel.save(nibabel.Nifti1Image((1000 * shown).astype(np.float32), image.affine), target)
    shutil.copyfile(case.mask, mask)
    return LabelledCase(case.name, target, mask)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["train", "losses", "centres"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--factors", nargs="+", type=float, default=[0.5, 0.75, 0.9, 1, 1.1, 1.25])
    options = parser.parse_args()
    model = options.out / "model"
    _, held_out = split_cases(find_cases(options.data, RECIPE.folder), RECIPE.hold_out)
    if options.stage == "train":
        train(RECIPE, options.data, model, progress=lambda state: print(state.message, flush=True))
        scans = (open_scan(case.image) for case in held_out)
        command = "python benchmarks/hippocampus.py train"
        segmenter = load_segmenter(model, device="cpu")
        shift = calibrate(segmenter, scans, on="held-out volumes", command=command)
        write_card(model, replace(load_card(model), shift=shift))
        print(*load_card(model).results, sep="\n")
    for centre, (_, strength) in CENTRES.items():
        if options.stage == "centres":
            for case in held_out:
                corrupt(case, centre, strength, options.out / centre)
        elif options.stage == "losses":
            for factor in options.factors:
                folder = options.out / "tried"
                cases = [corrupt(case, centre, factor * strength, folder) for case in held_out]
                rows = evaluate_model(model, cases, RECIPE.labels)
                dice = ", ".join(f"{row['structure']} {row['dice_mean']}" for row in rows)
                print(f"{centre}, {factor * strength:g}: {dice}", flush=True)


if __name__ == "__main__":
    main()
