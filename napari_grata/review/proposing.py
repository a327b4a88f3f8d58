"""Which slices to ask a reviewer for, so that a few of them tell candidates apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.segmenters.card import structure_mask

from .candidates import Candidate
from .choosing import source_first
from .compare import Overlaps

if TYPE_CHECKING:
    from napari_grata.segmenters import Card

FEWEST, MOST = 3, 8


def propose(
    card: Card,
    candidates: Sequence[Candidate],
    count: int = FEWEST,
    *,
    stack: bool = False,
    leave_out: Collection[int] = (),
) -> list[int]:
    """Return slices on which candidates differ most, spread over the stack or list.

    The slices that show anything are cut into as many parts of neighbours as are asked for; of
    each part the slice is taken on which candidates lie farthest from the source mask, every
    candidate and structure counting alike. A structure that none of them shows then replaces the
    slice that is missed least. No chance is in it.

    Parameters
    ----------
    candidates : sequence of Candidate
        With the source model's, called ``source``.
    count : int
        How many; fewer if there are not so many.
    stack : bool
        Whether slices are parts of one case (`Scan.is_stack`).
    leave_out : collection of int
        Slices not to ask for, such as those decided already.

    Returns
    -------
    list of int
        In order.
    """
    source, *rest = source_first(candidates)
    slices = np.array(sorted(source.masks), dtype=int)
    shown = np.array(
        [[structure_mask(card, source.masks[i], s).any() for s in card.structures] for i in slices]
    )
    open_ = ~np.isin(slices, list(leave_out))
    if not open_.any():
        return []
    overlaps = Overlaps(card, [source.masks, *(one.masks for one in rest)], stack=stack)
    apart = np.array(
        [[overlaps.apart(source.masks[i], one.masks[i]) for i in slices] for one in rest]
    ).reshape(len(rest), *shown.shape)
    return [int(i) for i in slices[open_][spread_out(apart[:, open_], shown[open_], count)]]


def spread_out(apart: np.ndarray, shown: np.ndarray, count: int) -> np.ndarray:
    """Return the places of slices on which candidates differ most, in order; see `propose`.

    Parameters
    ----------
    apart : ndarray, shape (candidates, slices, structures)
        How far each lies from the source mask, as `Overlaps.apart` has it.
    shown : ndarray of bool, shape (slices, structures)
        Whether the source mask shows them.
    """
    mean = apart.mean(1, keepdims=True)
    score = (apart / np.where(mean > 0, mean, 1)).sum((0, 2))
    told = np.flatnonzero(shown.any(1) | (score > 0))
    if not len(told):
        return told
    parts = np.array_split(told, min(count, len(told)))
    picks = [int(part[score[part].argmax()]) for part in parts]
    for structure in range(shown.shape[1]):
        able = np.flatnonzero(shown[:, structure])
        if len(able) and not shown[picks, structure].any():
            picks[_least_missed(picks, shown, score)] = int(able[score[able].argmax()])
    return np.sort(picks)


def _least_missed(picks: Sequence[int], shown: np.ndarray, score: np.ndarray) -> int:
    """Return the place of the pick without which fewest structures, and least, is lost."""

    def lost(place: int) -> tuple[int, float]:
        others = [pick for at, pick in enumerate(picks) if at != place]
        return int((shown[picks[place]] & ~shown[others].any(0)).sum()), score[picks[place]]

    return min(range(len(picks)), key=lost)
