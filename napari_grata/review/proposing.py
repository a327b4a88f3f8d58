"""Which slices to ask a reviewer for, so that a few of them tell candidates apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.segmenters.card import structure_mask

from .candidates import SOURCE, Candidate
from .choosing import distances

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
    card : Card
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
    source = next(one for one in candidates if one.name == SOURCE)
    slices = sorted(source.masks)
    apart = distances(card, candidates, stack=stack)
    mean = apart.mean(1, keepdims=True)
    scores = (apart / np.where(mean > 0, mean, 1)).sum((0, 2))
    shown = {
        index: {s.name for s in card.structures if structure_mask(card, mask, s).any()}
        for index, mask in source.masks.items()
    }
    score = {
        index: float(found)
        for index, found in zip(slices, scores, strict=True)
        if index not in leave_out and (shown[index] or found > 0)
    }
    if not score:
        return []
    parts = [part.tolist() for part in np.array_split(list(score), min(count, len(score)))]
    picks = [max(part, key=lambda index: score[index]) for part in parts]
    for structure in card.structures:
        if any(structure.name in shown[index] for index in picks):
            continue
        able = [index for index in score if structure.name in shown[index]]
        if able:
            new = max(able, key=lambda index: score[index])
            picks[_least_missed(picks, shown, score)] = new
    return sorted(picks)


def _least_missed(picks: Sequence[int], shown: dict[int, set[str]], score: dict[int, float]) -> int:
    """Return the place of the pick without which fewest structures, and least, is lost."""

    def lost(place: int) -> tuple[int, float]:
        others = set().union(*(shown[i] for at, i in enumerate(picks) if at != place))
        return len(shown[picks[place]] - others), score[picks[place]]

    return min(range(len(picks)), key=lost)
