"""The bundled models' recipes: which data, which views, how long, and what the card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Generator, Tensor

from napari_grata.segmenters.card import Card, Structure

from .appearance import brain_appearance, fundus_appearance, plain_appearance
from .data import TrainingError, find_cases, split_cases
from .views import GeometryRange

Appearance = Callable[[Tensor, Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training, the data and the seed aside.

    Parameters
    ----------
    card : Card
        As it will be written, results and hash aside.
    folder : str
        The source centre below the data folder.
    labels : dict of int to int
        Value in the mask files to structure value.
    frame : (int, int)
        Size of the training views, multiples of 32.
    home_frame : (int, int)
        Size at which the source statistics are taken: that of a prepared scan.
    views : GeometryRange
        Random geometry.
    appearance : callable
        Random intensities: (images, targets, generator) to images.
    hold_out, block : float, int
        Part of the cases that is held out, in runs of so many neighbours.
    epochs, batch_size : int
    learning_rate, weight_decay : float
        AdamW; the rate rises over the first epoch and falls along a cosine to 1 %.
    calm, calm_cycles : float, int
        Last part of the epochs, with calmer views: half of the images keep the intensities they
        have, and the geometry goes half as far. The rate falls from half its height again, once
        in every cycle.
    home_share : float
        Part of the images that come in changed appearance when the source statistics are taken;
        the others come as prepared.
    averaging : float
        Decay of the exponential average of the weights, which is what is kept.
    hint : str
        What a user is to do where a structure is unlike those of the training.
    """

    card: Card
    folder: str
    labels: dict[int, int]
    frame: tuple[int, int]
    home_frame: tuple[int, int]
    views: GeometryRange
    appearance: Appearance
    hold_out: float = 0.2
    block: int = 1
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    calm: float = 0.0
    calm_cycles: int = 1
    home_share: float = 0.0
    averaging: float = 0.995
    hint: str = ""

    @property
    def volumes(self) -> bool:
        """Whether the source is volumes rather than photographs."""
        return self.card.dimensions == 3

    @property
    def values(self) -> list[tuple[int, ...]]:
        """For every output channel, the structure values that count as it."""
        values = [self.card.values_within(s) for s in self.card.structures]
        return [(0,), *values] if self.card.activation == "softmax" else values


FUNDUS = Recipe(
    card=Card(
        name="fundus-disc-cup",
        title="Fundus: optic disc and cup",
        version="1",
        task="Outline the optic disc and the optic cup in colour fundus photographs.",
        structures=(
            Structure("disc", "#56B4E9", 1),
            Structure("cup", "#E69F00", 2, inside="disc"),
        ),
        activation="sigmoid",
        architecture="resunet",
        arguments={"encoder": "compact"},
        channels=3,
        size=(256, 256),
        normalisation={"kind": "min-max"},
        modality="fundus",
        dimensions=2,
        source_centre="RIM-ONE r2 (Hospital Universitario de Canarias, Spain)",
        training_data=(
            {
                "name": "RIM-ONE r2, reference outlines of RIM-ONE DL",
                "terms": "research and education only; no redistribution of the images",
            },
        ),
        intended_use=(
            "Research and education: a source model for test-time adaptation. Give it a crop "
            "around the optic nerve head whose side is about 1.4 times the disc's diameter, or "
            "draw a region of that size on a wider photograph."
        ),
        limits=(
            "Not a medical device and not for diagnosis. Trained on tight crops from one "
            "hospital in Spain only; on whole fundus photographs it finds nothing useful without "
            "a region around the disc. Small and shallow cups are uncertain, as they are between "
            "experts; the cup-to-disc ratio inherits that. The length of the training and the "
            "images behind the source statistics were chosen with the held-out photographs in "
            "view, so their figures are slightly optimistic."
        ),
        licence="research and education only",
    ),
    folder="local_disc_cup/RIM-ONE_r2",
    labels={255: 0, 128: 1, 0: 2},
    frame=(256, 256),
    home_frame=(256, 256),
    views=GeometryRange(
        scale=(0.6, 1.3),
        stretch=0.15,
        rotation=45.0,
        shift=0.12,
        elastic=0.012,
        flip_rows=True,
        flip_columns=True,
    ),
    appearance=fundus_appearance,
    hold_out=0.2,
    block=5,
    epochs=220,
    calm=4 / 11,
    calm_cycles=2,
    # As in the calm epochs; better at home and under simulated shifts than the images alone.
    home_share=0.5,
    batch_size=4,
    hint="Draw a region around the disc, about 1.4 times as wide as it.",
)

PLAIN = replace(
    FUNDUS,
    card=replace(
        FUNDUS.card,
        name="fundus-disc-cup-plain",
        title="Fundus: optic disc and cup, trained plainly",
        size=(160, 160),
        limits=(
            "Not a medical device and not for diagnosis. Trained as segmenters commonly are, with "
            "mirror images and little else, so that it shows what adaptation does for such a "
            "model; for use, fundus-disc-cup generalises better."
        ),
    ),
    frame=(160, 160),
    home_frame=(160, 160),
    views=GeometryRange(
        scale=(0.9, 1.1), rotation=15.0, flip_rows=True, flip_columns=True, share=0.2
    ),
    appearance=plain_appearance,
    epochs=40,
    calm=0.0,
    calm_cycles=1,
    home_share=0.0,
)
"""The same network trained as the source models of the published figures are."""

BRAIN = Recipe(
    card=Card(
        name="brain-tissue-t1",
        title="Brain T1: fluid, grey and white matter",
        version="2",
        task="Label ventricular fluid, grey and white matter on axial slices of T1 brain MRI.",
        structures=(
            Structure("csf", "#56B4E9", 1),
            Structure("grey matter", "#E69F00", 2),
            Structure("white matter", "#009E73", 3),
        ),
        activation="softmax",
        architecture="resunet",
        arguments={"encoder": "compact"},
        channels=1,
        spacing=(1.0, 1.0),
        normalisation={"kind": "quantile", "low": 0.01, "high": 0.99},
        modality="T1",
        dimensions=3,
        views=("identity", "left-right"),
        source_centre="IBSR 18, group A (0.9375 × 1.5 × 0.9375 mm; Massachusetts General Hospital)",
        training_data=(
            {
                "name": (
                    "IBSR V2.0, volumes of group A. The MR brain data sets and their manual "
                    "segmentations were provided by the Center for Morphometric Analysis at "
                    "Massachusetts General Hospital, http://www.cma.mgh.harvard.edu/ibsr/"
                ),
                "terms": "research and education only; no redistribution of the images",
            },
        ),
        intended_use=(
            "Research and education: a source model for test-time adaptation. Give it a "
            "skull-stripped T1 volume of an adult brain."
        ),
        limits=(
            "Not a medical device. Trained on three volumes of one hospital and on contrasts "
            "made from them. The skull must be removed first. As in its training labels, csf "
            "means the ventricles; fluid in the sulci counts as grey matter or background. "
            "Lesions, children's brains and other contrasts than T1 are unknown to it."
        ),
        licence="research and education only",
    ),
    folder="local_brain_T1_IBSR18/A_0.9375mm",
    labels={0: 0, 1: 1, 2: 2, 3: 3},
    frame=(192, 192),
    home_frame=(192, 256),
    views=GeometryRange(
        scale=(0.85, 1.15),
        stretch=0.1,
        # Upright, as scans are: a network that has to know every direction knows each less well.
        rotation=20.0,
        tilt=12.0,
        shift=0.06,
        elastic=0.008,
        flip_columns=True,
    ),
    appearance=brain_appearance,
    hold_out=0.25,
    epochs=80,
    hint="Check that the skull is removed, and that the voxel size is right.",
)

RECIPES = {recipe.card.name: recipe for recipe in (FUNDUS, PLAIN, BRAIN)}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; TrainingError names those that there are."""
    try:
        return RECIPES[name]
    except KeyError:
        raise TrainingError(
            f"There is no recipe called {name!r}; there are {', '.join(RECIPES)}."
        ) from None


def home_scans(name: str, data: Path, least: int) -> tuple[list[Path], int, str]:
    """Return the scans of a bundled model's own centre: paths, how many it has seen, and words.

    The held-out ones of its recipe; all of them where those are fewer than ``least``.
    """
    recipe = find_recipe(name)
    cases = find_cases(data, recipe.folder)
    trained, held_out = split_cases(cases, recipe.hold_out, block=recipe.block)
    centre = Path(recipe.folder).name
    if len(held_out) >= least:
        return [case.image for case in held_out], 0, f"{centre}, held out"
    words = f"{centre}, {len(held_out)} held out and {len(trained)} of the training"
    return [case.image for case in cases], len(trained), words
