"""How far the source centre's own scans lie from a model's statistics: the card's ``shift`` block.

Without it a distance is a bare number. With it the distance of a new scan can be put beside those
of scans that the model is at home with. `napari_grata.adaptation.calibrate_shift` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

STEPS = 21
"""Quantiles are kept at 0, 5, 10 … 100 %."""
EDGE = 0.95
"""The edge of the source centre: 19 of 20 of its own scans lie within …"""
FEW_SCANS = 20
"""… but of fewer scans than this all, since nineteen of twenty cannot be told from them."""


@dataclass(frozen=True)
class ShiftReference:
    """Distances of scans of the source centre, to compare others with.

    Parameters
    ----------
    measured_on : str
        Which scans were measured.
    scans : int
        How many.
    seen : int
        How many of them the model was trained on; such scans lie a little nearer than others.
    slices : int
        Slices a scan, evenly spaced: 1 for photographs.
    quantiles : tuple of 21 floats
        Distance within which 0, 5, 10 … 100 % of these scans lie.
    slice_quantiles : tuple of 21 floats
        The same for single slices; empty for photographs, where a slice is a scan.
    frame : (int, int) or None
        Size of the source centre's slices as the network reads them, where they lie on a black
        ground: other scans are measured with as much of it around them.
    layers : dict of str to float
        Median distance at each layer, in the network's order.
    near, far : float
        Up to ``near`` times the edge a scan is near, beyond ``far`` times
        the edge it is far.
    weights : str
        SHA-256 of the weights that were measured.
    command : str
        What measured it.
    """

    measured_on: str
    scans: int
    quantiles: tuple[float, ...]
    weights: str
    command: str
    seen: int = 0
    slices: int = 1
    slice_quantiles: tuple[float, ...] = ()
    frame: tuple[int, int] | None = None
    layers: dict[str, float] = field(default_factory=dict)
    near: float = 1.0
    far: float = 1.5

    @classmethod
    def from_mapping(cls, content: Any) -> ShiftReference:
        """Read a card's block.

        Raises
        ------
        ValueError
            One line per problem.
        """
        if not isinstance(content, Mapping):
            raise ValueError("shift should hold 'field: value' lines, or be left out.")
        known = {item.name for item in fields(cls)}
        needed = ("measured_on", "scans", "quantiles", "weights", "command")
        found = [f"shift: {key!r} is unknown." for key in content if key not in known]
        found += [f"shift: {key!r} is missing." for key in needed if key not in content]
        if found:
            raise ValueError("\n".join(found))
        values = dict(content)
        for key in ("quantiles", "slice_quantiles", "frame"):
            if isinstance(values.get(key), list):
                values[key] = tuple(values[key])
        return cls(**values)

    @property
    def edge(self) -> float:
        """Distance within which 19 of 20 of the source centre's own scans lie; of few, all."""
        if self.scans < FEW_SCANS:
            return self.farthest
        return float(np.interp(EDGE, _levels(), self.quantiles))

    @property
    def slice_edge(self) -> float:
        """The same for single slices; a photograph is a scan by itself."""
        if not self.slice_quantiles:
            return self.edge
        return float(np.interp(EDGE, _levels(), self.slice_quantiles))

    @property
    def farthest(self) -> float:
        """Largest distance of a scan of the source centre."""
        return float(self.quantiles[-1])

    def share_within(self, distance: float) -> float:
        """Return the share (0 … 1) of the source centre's scans that lie nearer than this."""
        levels, values = _levels(), np.asarray(self.quantiles)
        return float(np.interp(distance, values, levels, left=0.0, right=1.0))


def quantiles(distances: Iterable[float]) -> tuple[float, ...]:
    """Return distances as the card keeps them."""
    found = np.quantile(np.fromiter(distances, float), _levels())
    return tuple(float(f"{value:.4g}") for value in found)


def problems(reference: Any, weights: str | None) -> list[str]:
    """Return what is wrong with a card's block, one sentence each."""
    if reference is None:
        return []
    if not isinstance(reference, ShiftReference):
        return [f"shift is {type(reference).__name__}; it should hold 'field: value' lines."]
    found = [
        f"shift: {key} is {getattr(reference, key)!r}; it should be text."
        for key in ("measured_on", "command")
        if not isinstance(getattr(reference, key), str) or not getattr(reference, key).strip()
    ]
    for key, least in (("scans", 1), ("slices", 1), ("seen", 0)):
        value = getattr(reference, key)
        if type(value) is not int or value < least:
            found.append(
                f"shift: {key} is {value!r}; it should be a whole number, {least} or more."
            )
    found += _rising("quantiles", reference.quantiles)
    if reference.slice_quantiles:
        found += _rising("slice_quantiles", reference.slice_quantiles)
    if not (_is_positive(reference.near) and _is_positive(reference.far)) or (
        reference.near > reference.far
    ):
        found.append(
            f"shift: near is {reference.near!r}, far is {reference.far!r}; both are multiples of "
            "the edge, near the smaller one."
        )
    frame = reference.frame
    if frame is not None and not (
        isinstance(frame, tuple)
        and len(frame) == 2
        and all(type(side) is int and side > 0 and side % 32 == 0 for side in frame)
    ):
        found.append(f"shift: frame is {frame!r}; it should be [rows, columns], multiples of 32.")
    layers = reference.layers
    if not isinstance(layers, dict) or not all(_is_positive(v, 0) for v in layers.values()):
        found.append("shift: layers should be 'layer: distance' lines.")
    if not re.fullmatch(r"[0-9a-f]{64}", str(reference.weights)):
        found.append(f"shift: weights is {reference.weights!r}; it should be their SHA-256.")
    elif weights is not None and reference.weights != weights:
        found.append(
            "shift was measured with other weights than this model's; measure it again "
            "(python -m napari_grata.adaptation.calibrate_shift), or take the block out."
        )
    return found


def _levels() -> np.ndarray:
    return np.linspace(0, 1, STEPS)


def _rising(key: str, values: Any) -> Iterable[str]:
    right = isinstance(values, tuple) and len(values) == STEPS
    right = right and all(_is_positive(value, 0) for value in values)
    if not right or list(values) != sorted(values) or values[-1] <= 0:
        yield f"shift: {key} should be {STEPS} rising distances (0, 5, 10 … 100 % of the scans)."


def _is_positive(value: Any, least: float = 1e-9) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and least <= value < float("inf")
