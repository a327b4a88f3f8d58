"""What a distance from the source centre means: beside that centre's own scans, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_grata.segmenters.shift_reference import FEW_SCANS

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card
    from napari_grata.segmenters.shift_reference import ShiftReference

Level = Literal["near", "moderate", "far"]


class ShiftError(ValueError):
    """The shift cannot be said, and why."""


@dataclass(frozen=True)
class LayerShift:
    """One layer of the network.

    Attributes
    ----------
    name : str
    mean : float
        Mean over channels of |μ_now − μ_source| / sqrt(σ²_source + ε).
    variance_ratio : float
        Geometric mean over channels of σ²_now / (σ²_source + ε).
    typical : float or None
        Median of ``mean`` over the source centre's own scans.
    """

    name: str
    mean: float
    variance_ratio: float
    typical: float | None = None


@dataclass(frozen=True)
class Shift:
    """How far a scan is from the source centre.

    Attributes
    ----------
    score : float
        Distance in units of the source centre's edge: within 1 lie 19 of 20 of its own scans
        (all of them, where fewer than 20 were measured).
    words : str
        One sentence for a clinician.
    level : {"near", "moderate", "far"}
    per_layer : tuple of LayerShift
        In the network's order.
    calibrated : float
        Share (0 … 1) of the source centre's own scans that lie nearer than this one.
    distance : float
        Mean of ``per_layer`` means: standard deviations of the training's activations.
    more : str
        For researchers: the layers that differ most, and what the reference is.
    cases : int
        Photographs or volumes measured; with several, the figures are those of the middle one.
    """

    score: float
    words: str
    level: Level
    per_layer: tuple[LayerShift, ...]
    calibrated: float
    distance: float = 0.0
    more: str = ""
    cases: int = 1


def why_not(card: Card | None) -> str | None:
    """Return None if a model can say how far a scan is from its centre, else why not."""
    if card is None:
        return "No model is chosen."
    if card.shift is None:
        return (
            "This model's card does not say how its own centre's scans look to it, so the "
            "distance of a scan cannot be judged."
        )
    return None


def distance(layers: Sequence[LayerShift]) -> float:
    """Return the mean of the layers' distances."""
    return float(np.mean([layer.mean for layer in layers]))


def judge(layers: Sequence[LayerShift], reference: ShiftReference) -> Shift:
    """Put a scan's distance beside those of the source centre's own scans."""
    found = distance(layers)
    score = found / reference.edge
    # The card's quantiles are rounded; the scan at the edge itself is still near.
    rounded = score - 1e-3
    level: Level = (
        "near" if rounded <= reference.near else "moderate" if rounded <= reference.far else "far"
    )
    per_layer = tuple(
        LayerShift(one.name, one.mean, one.variance_ratio, reference.layers.get(one.name))
        for one in layers
    )
    return Shift(
        score=score,
        words=_words(score, level, reference),
        level=level,
        per_layer=per_layer,
        calibrated=reference.share_within(found),
        distance=found,
        more=_more(per_layer, found, reference),
    )


def far_words(reference: ShiftReference, found: float | None) -> str | None:
    """Return what to say of a slice that lies far from the source centre's; None if it does not."""
    if found is None or found <= reference.far * reference.slice_edge:
        return None
    what = "slices" if reference.slice_quantiles else "photographs"
    times = found / reference.slice_edge
    return (
        f"To the model this looks unlike the {what} of its own centre, {times:.1f} times as far "
        "away as the edge of those. Check scan, model and region, and look closely at the masks."
    )


def _words(score: float, level: str, reference: ShiftReference) -> str:
    if level == "near":
        return "Close to the source centre."
    if reference.scans >= FEW_SCANS:
        own = "19 of 20 of its own scans"
    else:
        own = f"all {reference.scans} of its own scans that were measured"
    if level == "moderate":
        return f"Farther from the source centre than {own}: look closely at the masks."
    return (
        f"Far from the source centre, {score:.1f} times as far as {own}: check scan, model and "
        "region first."
    )


def _more(layers: Sequence[LayerShift], found: float, reference: ShiftReference) -> str:
    known = [layer for layer in layers if layer.typical]
    known.sort(key=lambda one: -one.mean / (one.typical or 1.0))
    most = ", ".join(
        f"{one.name} ({one.mean:.2f}, typically {one.typical:.2f})" for one in known[:3]
    )
    seen = f", {reference.seen} of which trained it" if reference.seen else ""
    text = (
        f"Mean distance of the layers' means {found:.3f} standard deviations of training; "
        f"{100 * reference.share_within(found):.0f} % of {reference.scans} scans of the source "
        f"centre ({reference.measured_on}{seen}) lie nearer; its edge is at {reference.edge:.3f}."
    )
    return f"{text} Layers that differ most: {most}." if most else text


def of_several(middle: Shift, found: Sequence[Shift], scan: Scan) -> Shift:
    noun = "volumes" if scan.kind == "series" else "photographs"
    far = sum(one.level == "far" for one in found)
    beyond = sum(one.level != "near" for one in found)
    if beyond == 0:
        words = f"All {len(found)} {noun} are close to the source centre."
    else:
        some = f"{far} of them far" if far else "none of them far"
        words = (
            f"{beyond} of {len(found)} {noun} lie beyond the source centre's edge, {some}: look "
            "closely at their masks."
        )
    values: dict[str, Any] = {**vars(middle), "words": words, "cases": len(found)}
    return Shift(**values)
