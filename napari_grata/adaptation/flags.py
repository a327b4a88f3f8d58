"""What a person should look at: plain rules that compare a slice's masks before and after.

Automatic detectors of harm published so far do not work well, so these point and never judge or
block. Every threshold stands here under a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_grata.segmenters.card import structure_mask

from .records import Flag

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


def flag_slice(
    card: Any,
    source_mask: np.ndarray,
    adapted_mask: np.ndarray,
    *,
    probabilities: np.ndarray | None = None,
    entropy: float | None = None,
    source_entropy: float | None = None,
    region: tuple[int, int, int, int] | None = None,
    expected: bool = False,
    undone: bool = False,
    far: str | None = None,
) -> tuple[Flag, ...]:
    """Look over one slice and return what a person should look at.

    Parameters
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
    """
    flags: list[Flag] = []
    if undone:
        flags.append(
            Flag(
                "non-finite",
                "This step produced values that are not numbers; it was undone and the model is "
                "as it was before.",
            )
        )
    if far is not None:
        flags.append(Flag(FAR_CODE, far))
    window = np.s_[:, :] if region is None else np.s_[region[0] : region[2], region[1] : region[3]]
    for structure in card.structures:
        before = structure_mask(card, source_mask, structure.name)[window]
        after = structure_mask(card, adapted_mask, structure.name)[window]
        flags += _compare(structure.name, before, after, expected, region is not None)
    if probabilities is not None:
        flags += _containment(card, probabilities)
    if (
        entropy is not None
        and source_entropy is not None
        and source_entropy > COLLAPSE_FLOOR
        and entropy < COLLAPSE_RATIO * source_entropy
    ):
        flags.append(
            Flag(
                "entropy-collapse",
                "The adapted model is suspiciously sure of every pixel; it may have collapsed. "
                "Compare with the source mask.",
            )
        )
    return tuple(flags)


def _slug(name: str) -> str:
    return "-".join(name.lower().split())


def _compare(
    name: str, before: np.ndarray, after: np.ndarray, expected: bool, region: bool
) -> Iterator[Flag]:
    area_before, area_after = int(before.sum()), int(after.sum())
    if area_after == 0:
        if area_before >= COMPARABLE_PIXELS:
            yield Flag(
                f"{_slug(name)}-empty", f"No {name} is left after adaptation; before, there was."
            )
        elif expected:
            yield Flag(f"{_slug(name)}-empty", f"No {name} was found, before or after.")
        return
    if max(area_before, area_after) >= COMPARABLE_PIXELS:
        if area_after < LOST_RATIO * area_before:
            share = round(100 * area_after / area_before)
            yield Flag(
                f"{_slug(name)}-lost",
                f"The {name} shrank to {share} % of its area before adaptation.",
            )
        elif area_after > DOUBLED_RATIO * area_before:
            text = (
                f"The {name} grew to {area_after / area_before:.1f} times its area before "
                "adaptation."
                if area_before
                else f"A {name} appeared where there was none before adaptation."
            )
            yield Flag(f"{_slug(name)}-doubled", text)
    # Only here, for its import takes long and the dock opens before anything is flagged.
    from scipy import ndimage

    pieces_before = int(ndimage.label(before)[1])
    pieces_after = int(ndimage.label(after)[1])
    if (
        pieces_before
        and pieces_after >= pieces_before + FRAGMENTS_MORE
        and pieces_after >= FRAGMENTS_RATIO * pieces_before
    ):
        yield Flag(
            f"{_slug(name)}-fragments",
            f"The {name} fell into {pieces_after} pieces (before: {pieces_before}).",
        )
    edge = np.ones(after.shape, dtype=bool)
    edge[1:-1, 1:-1] = False
    if int((after & edge).sum()) >= BORDER_PIXELS:
        where = "rectangle" if region else "image"
        yield Flag(
            f"{_slug(name)}-at-border",
            f"The {name} touches the edge of the {where} and may be cut off.",
        )


def _containment(card: Any, probabilities: np.ndarray) -> Iterator[Flag]:
    if card.activation != "sigmoid":
        return
    channel = {structure.name: number for number, structure in enumerate(card.structures)}
    for structure in card.structures:
        if structure.inside is None or structure.inside not in channel:
            continue
        inner = probabilities[channel[structure.name]] >= 0.5
        outside = int((inner & (probabilities[channel[structure.inside]] < 0.5)).sum())
        if outside >= OUTSIDE_PIXELS and outside > OUTSIDE_SHARE * int(inner.sum()):
            share = round(100 * outside / int(inner.sum()))
            yield Flag(
                f"{_slug(structure.name)}-outside-{_slug(structure.inside)}",
                f"{share} % of the {structure.name} lay outside the {structure.inside} before "
                "this was put right.",
            )
