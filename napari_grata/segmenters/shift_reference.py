"""How far the source centre's own scans lie from a model's statistics: the card's ``shift`` block.

Without it a distance is a bare number. With it the distance of a new scan can be put beside those
of scans that the model is at home with. ``napari-grata calibrate`` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from .card_fields import Count, Digest, NotNegative, Positive, Words, card_part

STEPS = 21
"""Quantiles are kept at 0, 5, 10 … 100 %, that is at …"""
LEVELS = np.linspace(0, 1, STEPS)
"""… these shares of the scans."""
EDGE = 0.95
"""The edge of the source centre: 19 of 20 of its own scans lie within …"""
FEW_SCANS = 20
"""… but of fewer scans than this all, since nineteen of twenty cannot be told from them."""


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    if values and (len(values) != STEPS or list(values) != sorted(values) or values[-1] <= 0):
        raise ValueError(f"shift needs {STEPS} rising distances (0, 5, 10 … 100 % of the scans).")
    return values


Quantiles = Annotated[tuple[NotNegative, ...], AfterValidator(_rising)]
Side = Annotated[Count, Field(gt=0, multiple_of=32)]
Several = Annotated[Count, Field(ge=1)]


@card_part(at="shift")
class ShiftReference:
    """Distances of scans of the source centre, to compare others with.

    Parameters
    ----------
    measured_on : str
        Which scans were measured.
    scans : int
        How many.
    quantiles : tuple of 21 floats
        Distance within which 0, 5, 10 … 100 % of these scans lie.
    weights : str
        SHA-256 of the weights that were measured.
    command : str
        What measured it.
    seen : int
        How many of the scans the model was trained on; such scans lie a little nearer than others.
    slices : int
        Slices a scan, evenly spaced: 1 for photographs.
    slice_quantiles : tuple of 21 floats
        The same for single slices; empty for photographs, where a slice is a scan.
    frame : (int, int) or None
        Size of the source centre's slices as the network reads them, where they lie on a black
        ground: other scans are measured with as much of it around them.
    layers : dict of str to float
        Median distance at each layer, in the network's order.
    near, far : float
        Up to ``near`` times the edge a scan is near, beyond ``far`` times the edge it is far.
    """

    measured_on: Words
    scans: Several
    quantiles: Annotated[Quantiles, Field(min_length=STEPS)]
    weights: Digest
    command: Words
    seen: Count = 0
    slices: Several = 1
    slice_quantiles: Quantiles = ()
    frame: tuple[Side, Side] | None = None
    layers: dict[str, NotNegative] = Field(default_factory=dict)
    near: Positive = 1.0
    far: Positive = 1.5

    @field_validator("far")
    @classmethod
    def _beyond_near(cls, far: float, info: ValidationInfo) -> float:
        if far < info.data.get("near", 0):
            raise ValueError("shift: near and far are multiples of the edge, near the smaller one.")
        return far

    @property
    def edge(self) -> float:
        """Distance within which 19 of 20 of the source centre's own scans lie; of few, all."""
        if self.scans < FEW_SCANS:
            return self.farthest
        return float(np.interp(EDGE, LEVELS, self.quantiles))

    @property
    def slice_edge(self) -> float:
        """The same for single slices; a photograph is a scan by itself."""
        if not self.slice_quantiles:
            return self.edge
        return float(np.interp(EDGE, LEVELS, self.slice_quantiles))

    @property
    def farthest(self) -> float:
        """Largest distance of a scan of the source centre."""
        return float(self.quantiles[-1])

    def share_within(self, distance: float) -> float:
        """Return the share (0 … 1) of the source centre's scans that lie nearer than this."""
        return float(np.interp(distance, self.quantiles, LEVELS, left=0.0, right=1.0))


def quantiles(distances: Iterable[float]) -> tuple[float, ...]:
    """Return distances as the card keeps them."""
    found = np.quantile(np.fromiter(distances, float), LEVELS)
    return tuple(float(f"{value:.4g}") for value in found)
