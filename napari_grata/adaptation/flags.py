"""What the user should look at: plain rules that compare a slice's masks before and after.

Automatic detectors of harm published so far do not work well, so these point and never judge or
block. A rule is one entry of `RULES`: a code, words, and a test with its threshold under a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_grata.segmenters.card import structure_mask

from .records import Flag

if TYPE_CHECKING:
    from napari_grata.segmenters.card import Card

    from .plan import Region

LOST_RATIO = 0.5
"""A structure is *lost* below this share of its source area."""
DOUBLED_RATIO = 2.0
"""A structure has *doubled* above this multiple of its source area."""
COMPARABLE_PIXELS = 20
"""Areas are compared only where the larger mask has at least this many pixels."""
OUTSIDE_SHARE = 0.02
"""Containment is *broken* if more than this share of the inner structure lies outside."""
OUTSIDE_PIXELS = 10
"""… and it is at least this many pixels."""
FRAGMENTS_MORE = 5
"""Fragments are *many* if there are at least this many more than before …"""
FRAGMENTS_RATIO = 2.0
"""… and at least this many times as many."""
BORDER_PIXELS = 5
"""A mask is *cut off* if at least this many of its pixels lie on the image's outermost rows."""
COLLAPSE_RATIO = 0.1
"""Entropy has *collapsed* below this share of the source model's entropy on the slice."""
COLLAPSE_FLOOR = 1e-4
"""Source entropies below this (nats a pixel) are too small to compare with."""
SUSPICIOUS_ENTROPY = 0.01
"""Only below this (nats a pixel) is the source model asked again what its entropy was."""
ENTROPY_SAMPLES = 65_536
"""Entropy is averaged over about this many evenly spaced pixels."""

FAR_CODE = "far-from-source"
"""Code of the flag of a slice that lies far from the source centre's own."""
FRAME_CODE = "frame-unsure"
"""Code of the flag of a photograph in which no frame was found for sure."""


def mean_entropy(probabilities: np.ndarray, activation: str) -> float:
    """Mean entropy a pixel of a prediction, in nats.

    Parameters
    ----------
    probabilities : ndarray of float, shape (S, H, W)
    activation : {"sigmoid", "softmax"}
        Sigmoid channels count as independent yes/no answers and are averaged.
    """
    stride = max(1, int(np.sqrt(probabilities[0].size / ENTROPY_SAMPLES)))
    p = np.clip(probabilities[:, ::stride, ::stride].astype(np.float64), 1e-12, 1.0)
    if activation == "softmax":
        return float(-(p * np.log(p)).sum(axis=0).mean())
    q = np.clip(1 - p, 1e-12, 1.0)
    return float(-(p * np.log(p) + q * np.log(q)).mean())


class StructureMasks(NamedTuple):
    """One structure in what was worked on of a slice: bool, shape (h, w), before and after."""

    name: str
    before: np.ndarray
    after: np.ndarray
    area_before: int
    area_after: int
    framed: bool  # the mask before was made in another frame, which did not fit

    @property
    def comparable(self) -> bool:
        """Whether it is there, and large enough for its areas to be compared."""
        return self.area_after > 0 and max(self[3:5]) >= COMPARABLE_PIXELS and not self.framed


@dataclass(frozen=True)
class Slice:
    """All that a rule may look at.

    Attributes
    ----------
    card : Card
        Structures and their containment.
    source_mask, adapted_mask : ndarray of uint8, shape (H, W)
        Label maps.
    probabilities : ndarray of float, shape (S, H, W), optional
        What the adapted mask was made from; shows broken containment, which a label map hides.
    entropy, source_entropy : float, optional
        `mean_entropy` of the adapted and of the source model's prediction of this slice.
    region : (row0, col0, row1, col1), optional
        The rectangle that was worked on; its edges count as the image's.
    expected : bool
        Whether every structure should be there (photographs; a volume has slices without any).
    undone : bool
        Whether the step met a value that is not a number and was taken back.
    far : str, optional
        What to say where the slice lies far from the source centre's own
        (`napari_grata.adaptation.shift.FarSlices`).
    unusual : tuple of (structure, sentence)
        What is unlike the masks of the model's training (`napari_grata.segmenters.extent`).
    framed : bool
        Whether the region is a frame that was found: the mask before was made without it, so that
        the two are not compared.
    unsure : str
        What to say where no frame was found for sure (`napari_grata.segmenters.framing`).
    """

    card: Card
    source_mask: np.ndarray
    adapted_mask: np.ndarray
    probabilities: np.ndarray | None = None
    entropy: float | None = None
    source_entropy: float | None = None
    region: Region | None = None
    expected: bool = False
    undone: bool = False
    far: str | None = None
    unusual: tuple[tuple[str, str], ...] = ()
    framed: bool = False
    unsure: str = ""

    @cached_property
    def structures(self) -> list[StructureMasks]:
        """The card's structures, within the region."""
        r0, c0, r1, c1 = self.region or (0, 0, *self.source_mask.shape)
        found = []
        for structure in self.card.structures:
            before, after = (
                structure_mask(self.card, mask, structure)[r0:r1, c0:c1]
                for mask in (self.source_mask, self.adapted_mask)
            )
            areas = int(before.sum()), int(after.sum())
            found.append(StructureMasks(structure.name, before, after, *areas, self.framed))
        return found


Values = dict[str, Any]
"""What fills a rule's code and words; names of structures are written small in the code."""


class Rule(NamedTuple):
    """One thing to look for: yields values for each place where it is found."""

    code: str
    words: str
    test: Callable[[Slice], Iterator[Values]]


RULES: list[Rule] = []


def rule(code: str, words: str) -> Callable[[Callable[[Slice], Iterator[Values]]], Any]:
    """Enter a test among the `RULES`; flags come in their order."""

    def enter(test: Callable[[Slice], Iterator[Values]]) -> Any:
        RULES.append(Rule(code, words, test))
        return test

    return enter


@rule(
    "non-finite",
    "This step produced values that are not numbers; it was undone and the model is as it was "
    "before.",
)
def _undone(seen: Slice) -> Iterator[Values]:
    if seen.undone:
        yield {}


@rule(FAR_CODE, "{words}")
def _far(seen: Slice) -> Iterator[Values]:
    if seen.far is not None:
        yield {"words": seen.far}


@rule(FRAME_CODE, "{words}")
def _unsure(seen: Slice) -> Iterator[Values]:
    if seen.unsure:
        yield {"words": seen.unsure}


@rule("{name}-unusual", "{words}")
def _unusual(seen: Slice) -> Iterator[Values]:
    for name, words in seen.unusual:
        yield {"name": name, "words": words}


@rule("{name}-empty", "No {name} is left after adaptation; before, there was.")
def _gone(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        if not one.area_after and one.area_before >= COMPARABLE_PIXELS:
            yield {"name": one.name}


@rule("{name}-empty", "No {name} was found, before or after.")
def _never_there(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        if seen.expected and not one.area_after and one.area_before < COMPARABLE_PIXELS:
            yield {"name": one.name}


@rule("{name}-lost", "The {name} shrank to {share} % of its area before adaptation.")
def _lost(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        if one.comparable and one.area_after < LOST_RATIO * one.area_before:
            yield {"name": one.name, "share": round(100 * one.area_after / one.area_before)}


@rule("{name}-doubled", "The {name} grew to {times:.1f} times its area before adaptation.")
def _doubled(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        if one.comparable and one.area_after > DOUBLED_RATIO * one.area_before > 0:
            yield {"name": one.name, "times": one.area_after / one.area_before}


@rule("{name}-doubled", "A {name} appeared where there was none before adaptation.")
def _appeared(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        if one.comparable and not one.area_before:
            yield {"name": one.name}


@rule("{name}-fragments", "The {name} fell into {after} pieces (before: {before}).")
def _fragments(seen: Slice) -> Iterator[Values]:
    # Only here, for its import takes long and the dock opens before anything is flagged.
    from scipy import ndimage

    for one in seen.structures:
        before, after = (int(ndimage.label(mask)[1]) for mask in (one.before, one.after))
        more = after >= before + FRAGMENTS_MORE and after >= FRAGMENTS_RATIO * before
        if before and more and not seen.framed:
            yield {"name": one.name, "before": before, "after": after}


@rule("{name}-at-border", "The {name} touches the edge of the {where} and may be cut off.")
def _at_border(seen: Slice) -> Iterator[Values]:
    for one in seen.structures:
        edge = np.ones(one.after.shape, dtype=bool)
        edge[1:-1, 1:-1] = False
        if int((one.after & edge).sum()) >= BORDER_PIXELS:
            yield {"name": one.name, "where": "rectangle" if seen.region else "image"}


@rule(
    "{name}-outside-{outer}",
    "{share} % of the {name} lay outside the {outer} before this was put right.",
)
def _outside(seen: Slice) -> Iterator[Values]:
    # The probabilities show it; a label map cannot.
    if seen.probabilities is None or seen.card.activation != "sigmoid":
        return
    shown = {
        s.name: p >= 0.5 for s, p in zip(seen.card.structures, seen.probabilities, strict=True)
    }
    for structure in seen.card.structures:
        inner, outer = shown[structure.name], shown.get(structure.inside or "")
        outside = 0 if outer is None else int((inner & ~outer).sum())
        if outside >= OUTSIDE_PIXELS and outside > OUTSIDE_SHARE * int(inner.sum()):
            share = round(100 * outside / int(inner.sum()))
            yield {"name": structure.name, "outer": structure.inside, "share": share}


@rule(
    "entropy-collapse",
    "The adapted model is suspiciously sure of every pixel; it may have collapsed. Compare with "
    "the source mask.",
)
def _collapsed(seen: Slice) -> Iterator[Values]:
    if seen.entropy is None or seen.source_entropy is None:
        return
    if seen.source_entropy > COLLAPSE_FLOOR and seen.entropy < COLLAPSE_RATIO * seen.source_entropy:
        yield {}


def flag_slice(seen: Slice) -> tuple[Flag, ...]:
    """Look over one slice and return what the user should look at."""
    return tuple(
        Flag(code.format(**_small(values)), words.format(**values))
        for code, words, test in RULES
        for values in test(seen)
    )


def _small(values: Values) -> Values:
    """Write names as in a code: ``grey matter`` as ``grey-matter``."""
    return {key: "-".join(str(value).lower().split()) for key, value in values.items()}
