"""The one stream's records, which each step hands to every consumer, and what a run is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import NonNegativeInt
from typing_extensions import NotRequired, TypedDict

from napari_grata.segmenters.card import structure_mask

if TYPE_CHECKING:
    from napari_grata.segmenters.card import Card

    from .methods.base import StepRecord


@dataclass(frozen=True)
class Flag:
    """Something that a person should look at; it points, it does not judge.

    Attributes
    ----------
    code : str
        Short stable name, such as ``"cup-outside-disc"`` or ``"non-finite"``.
    text : str
        What was seen, in a clinician's words.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Record:
    """One immutable event of an adaptation.

    Attributes
    ----------
    phase : {"adapt", "predict"}
        ``adapt``: the method worked on this slice (and predicted it as the stream went by).
        ``predict``: the slice's final mask, after the stream, with the final or averaged θ.
    step : int
        Optimiser steps taken so far, this one included (0 for methods that do not learn).
    done, total : int
        Events so far and events expected in all: the progress bar.
    slice_index : int
        Which slice of the scan, as in ``Scan.read_slice``.
    case : int
        Which case of the scan (`Scan.case_of`).
    pass_index : int
        Which pass over the slices, from 0.
    cosine, learning_rate, auxiliary_loss, pseudo_loss : float or None
        Figures of the step; None where the method has none, NaN where it was undone.
    gradient_norms : tuple of float or None
        Euclidean norms of the auxiliary and the pseudo gradient.
    layer_cosines : dict of str to float
        ``cosine`` within each adapted layer, in order; empty where the method has none.
    source_mask, adapted_mask : ndarray of uint8, shape (H, W)
        Label maps on the slice's own grid: the card's structure values, 0 for background.
    source_area, adapted_area : dict of str to int
        Pixels per structure (a structure that contains others counts theirs too).
    agreement : dict of str to float
        Dice between source and adapted mask per structure, 0 … 1; 1 where both are empty.
    flags : tuple of Flag
    undone : bool
        The step met a non-finite loss, gradient or output, and θ was put back.
    seconds : float
        Time this event took.
    final : bool
        Whether this mask is the slice's result (else a later event replaces it).
    frame : (row0, column0, row1, column1) or None
        The part of the slice that the adapted model read, where one was found
        (`napari_grata.segmenters.framing`); outside it the adapted mask is background.
    """

    # How the store of a run writes it as JSON.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "arbitrary_types_allowed": True,
        "ser_json_inf_nan": "constants",
    }

    phase: Literal["adapt", "predict"]
    step: int
    done: int
    total: int
    slice_index: int
    case: int
    pass_index: int
    source_mask: np.ndarray
    adapted_mask: np.ndarray
    cosine: float | None = None
    learning_rate: float | None = None
    auxiliary_loss: float | None = None
    pseudo_loss: float | None = None
    gradient_norms: tuple[float | None, float | None] = (None, None)
    layer_cosines: dict[str, float] = field(default_factory=dict)
    source_area: dict[str, int] = field(default_factory=dict)
    adapted_area: dict[str, int] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()
    undone: bool = False
    seconds: float = 0.0
    final: bool = True
    frame: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class StructureChange:
    """One structure before and after, on a slice or on several together.

    Attributes
    ----------
    name : str
    source_pixels, adapted_pixels, shared_pixels : int
        Of the mask before, of the mask after, and of both.
    """

    name: str
    source_pixels: int
    adapted_pixels: int
    shared_pixels: int

    @classmethod
    def of(cls, card: Card, source: np.ndarray, adapted: np.ndarray) -> list[StructureChange]:
        """Compare label maps; a structure that contains others counts theirs too."""
        found = []
        for structure in card.structures:
            before = structure_mask(card, source, structure)
            after = structure_mask(card, adapted, structure)
            counts = (int(one.sum()) for one in (before, after, before & after))
            found.append(cls(structure.name, *counts))
        return found

    def __add__(self, other: StructureChange) -> StructureChange:
        return StructureChange(
            self.name,
            self.source_pixels + other.source_pixels,
            self.adapted_pixels + other.adapted_pixels,
            self.shared_pixels + other.shared_pixels,
        )

    @property
    def agreement(self) -> float:
        """Dice coefficient between before and after, 0 … 1; 1 where both are empty."""
        both = self.source_pixels + self.adapted_pixels
        return 2 * self.shared_pixels / both if both else 1.0

    @property
    def change(self) -> float | None:
        """Relative change of area or volume, 0.1 for a tenth more; None from nothing."""
        return self.adapted_pixels / self.source_pixels - 1 if self.source_pixels else None


def measure(card: Card, source: np.ndarray, adapted: np.ndarray) -> dict[str, Any]:
    """Return ``source_area``, ``adapted_area`` and ``agreement`` of a `Record`.

    Parameters
    ----------
    source, adapted : ndarray of uint8, shape (H, W)
        Label maps.
    """
    found = StructureChange.of(card, source, adapted)
    return {
        "source_area": {one.name: one.source_pixels for one in found},
        "adapted_area": {one.name: one.adapted_pixels for one in found},
        "agreement": {one.name: one.agreement for one in found},
    }


def figures(result: StepRecord | None) -> dict[str, Any]:
    """Return the figures of a method's step by the names that a `Record` has for them."""
    if result is None:
        return {}
    return {
        "cosine": result.cosine,
        "learning_rate": result.learning_rate,
        "auxiliary_loss": result.auxiliary_loss,
        "pseudo_loss": result.pseudo_loss,
        "gradient_norms": (result.auxiliary_norm, result.pseudo_norm),
        "layer_cosines": result.layer_cosines,
    }


# -- what a run is -------------------------------------------------------------------------


class ModelInfo(TypedDict):
    """Which model a run was made with."""

    name: str
    version: str
    weights_sha256: str | None


class ScanInfo(TypedDict):
    """A scan's fingerprint and grid: nothing that names it."""

    kind: str
    shape: list[int]
    dtype: str
    sha256: str
    mask_shape: list[NonNegativeInt]
    n_slices: int
    slice_spacing: list[float] | None
    slice_thickness: float | None
    channels: NotRequired[list[str]]


class CorrectionsInfo(TypedDict):
    """What a reviewer had drawn."""

    slices: list[int]
    pixels: int
    sha256: str


class ChosenInfo(TypedDict):
    """Which slices' masks are in use that the run did not make, and how they were chosen.

    ``reviewed`` are the slices that decided, ``words`` what was recommended, ``record`` all of it;
    ``case`` names the case that they are slices of, where that is another one of a list.
    """

    used_on: list[int]
    reviewed: list[int]
    words: str
    record: dict[str, Any]
    case: NotRequired[str]


class RunInfo(TypedDict):
    """What a run is, and how it stands.

    ``state`` is ``running``, ``finished``, ``cancelled`` or ``failed``; ``position`` the events
    done, as rolled back to, ``step`` the optimiser steps of those, ``count`` the events kept;
    ``cut`` after how many events the run was cut short; ``taken`` the step whose masks were taken
    as the result, ``taken_slices`` of how many slices; ``chosen`` whose masks lie over those of the
    run, an entry a choice, no slice in two. Times are in UTC.
    """

    settings: dict[str, Any]
    seed: int
    slices: list[int]
    region: tuple[int, int, int, int] | None
    continued: bool
    corrections: CorrectionsInfo | None
    started: str
    versions: dict[str, str]
    model: ModelInfo
    scan: ScanInfo
    card_sha256: str
    state: Literal["running", "finished", "cancelled", "failed"]
    position: int
    step: int
    count: int
    total: int
    cut: int | None
    taken: int | None
    taken_slices: int
    chosen: NotRequired[list[ChosenInfo]]
    ended: str | None
    device: str
    notices: list[str]
