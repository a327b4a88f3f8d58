"""A few reviewed slices decide which of several masks, if any, replaces the source mask.

No signal without labels is known to tell a candidate that helps on a new centre from one that
harms; a reviewer's masks of a few slices do. `weigh` measures every candidate on them, paired with
the source mask and cross-fitted wherever something was fitted on them, and `recommend` names a
candidate for a structure only where its gain is consistent.

The rule
--------
How far a candidate's mask lies from the source mask is known on *every* slice without a label:
D = 1 − Dice(candidate, source), and a gain g in Dice can hardly be larger. So the gain on slices
that nobody looked at is a share of D there, the share β being learned on the reviewed ones
(a ratio estimator, as in survey sampling; it also undoes that slices were asked for because
candidates differ most on them)::

    g_i = β·D_i + ε_i,  ε_i ~ N(0, σ²·D_i),  β ~ N(0, σ²/(κ·D̄)),  σ² ~ Inv-χ²(ν, a²·D̄)

The prior is that of κ more slices on which nothing was gained (of some candidates: on which they
gained, see `Rule`), and of shares that scatter by ``a`` among slices, which weighs as much as ν of
them: with three slices their own scatter is hardly known. All is conjugate, so the gain on the
remaining slices has a Student-t distribution with ν + k degrees of freedom. A candidate is
recommended for a structure if the lower end of its interval is above 0, and on the reviewed slices
it differs as much as on three others; of several, the one with the largest expected gain. The
numbers of `Rule` were chosen with ``benchmarks/choosing.py``; see ``docs/results-details.md``.

Structures of which one lies inside the other are outlined together: where one of the two is taken
from a candidate and nothing is recommended for the other, that comes from the same candidate, if
its own gain is expected to be above 0 there and the lower ends of both add up to more than 0.

In a stack the slices are parts of one case, whose Dice counts: there g and D are weighted by how
much of the structure a slice shows, rightly or not, so that their mean is about that of the whole.

No Qt, no torch, and no label goes anywhere else: candidates are finished before they are weighed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.scans.scan import times
from napari_grata.segmenters.card import structure_mask

from .candidates import SOURCE, TAUGHT, Candidate, Masks, shifted_labels, shifted_mask
from .compare import MOST_SHOWN, Overlaps

if TYPE_CHECKING:
    from napari_grata.segmenters import Card, Segmenter

SHIFTS = tuple(step / 2 for step in range(-2, 3))
"""Shifts of a structure's logit that are tried. Larger ones, fitted on three slices, now and then
cost a structure 17 points on the others."""
_UNSHIFTED = SHIFTS.index(0)


class ChoosingError(ValueError):
    """Slices or candidates that cannot be weighed; the message says why and what to do."""


@dataclass(frozen=True)
class Rule:
    """When a candidate's gain counts as consistent.

    Attributes
    ----------
    level : float
        Probability with which the gain has to be above 0, one-sided.
    idle_slices, scatter, weight : float
        κ, a and ν of the prior.
    penalty : float
        What a logit shift of 1 has to gain, as a share of Dice.
    fewest : int
        Fewer slices than these decide nothing: one cannot agree with another.
    telling : float
        On the reviewed slices together a candidate has to differ from the source mask at least so
        many times as much as on one of the others; else its gain there says little.
    priors : dict of str to (float, float)
        Of candidates that are expected to gain, or to lose: the share β₀ of where they differ, as
        if so many slices had shown it. *Careful* gained on nearly all development centres; a copy
        that learned from the reviewed slices is weighed after learning from fewer: nothing of
        these has to be telling. The statistics of one image lost on nearly all.
    """

    level: float = 0.85
    idle_slices: float = 1.0
    scatter: float = 0.3
    weight: float = 4.0
    penalty: float = 0.03
    fewest: int = 2
    telling: float = 3.0
    priors: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "careful": (0.2, 4.0),
            TAUGHT: (0.25, 3.0),
            "batch-norm": (-0.2, 2.0),
            "as-published": (-0.2, 2.0),
        }
    )


@dataclass(frozen=True)
class Estimate:
    """The gain expected on the slices that were not reviewed, as a share of Dice.

    It lies above ``low`` with the probability `Rule.level`, and below ``high`` with the same.
    """

    mean: float
    low: float
    high: float


def estimate(
    gains: np.ndarray,
    apart: np.ndarray,
    rest: float,
    count: int,
    rule: Rule,
    prior: tuple[float, float] | None = None,
) -> Estimate:
    """Return what gains on a few slices say about the others.

    Parameters
    ----------
    gains : ndarray of float, shape (k,)
        Dice of the candidate less that of the source mask on the reviewed slices.
    apart : ndarray of float, shape (k,)
        1 − Dice between candidate and source mask there.
    rest : float
        The mean of the same on the ``count`` slices that were not reviewed.
    prior : (float, float), optional
        Of the candidate, as in `Rule.priors`.
    """
    expected, idle = prior or (0.0, rule.idle_slices)
    apart = np.maximum(apart, np.abs(gains))
    told = apart > 0
    gains, apart = gains[told], apart[told]
    if not len(gains) or rest <= 0:
        return Estimate(0.0, 0.0, 0.0)
    typical = float(apart.sum() + rest * count) / (len(apart) + count)
    known = idle * typical
    precision = known + float(apart.sum())
    share = (known * expected + float(gains.sum())) / precision
    freedom = rule.weight + len(gains)
    left = float((gains**2 / apart).sum()) + known * expected**2 - share**2 * precision
    variance = (rule.weight * rule.scatter**2 * typical + max(left, 0.0)) / freedom
    spread = math.sqrt(variance * (rest**2 / precision + rest / max(count, 1)))
    # Only here, for its import takes long.
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, rule.level)) * spread
    return Estimate(share * rest, share * rest - reach, share * rest + reach)


# -- weighing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One candidate and one structure on the reviewed slices.

    Attributes
    ----------
    shift : float
        Of the structure's logit, as fitted on all reviewed slices; 0: the mask as it is.
    dice : dict of int to float
        With the reviewed mask, 0 … 1, by slice; with a shift that was fitted without this slice.
        Slices on which neither shows the structure are not counted.
    gains : dict of int to float
        Dice less that of the source mask; what the other structures gain or lose where this one
        alone is taken over is added.
    consistent : bool
        Whether the lower end of the interval is above 0, on enough slices.
    telling : bool
        Whether it differs enough on the reviewed slices; see `Rule`.
    """

    candidate: str
    title: str
    structure: str
    shift: float
    dice: dict[int, float]
    gains: dict[int, float]
    estimate: Estimate
    consistent: bool
    telling: bool


@dataclass(frozen=True)
class Weighing:
    """All candidates on the reviewed slices.

    Attributes
    ----------
    slices : tuple of int
        Those reviewed.
    remaining : int
        How many were not.
    rows : tuple of Row
        By structure; of each the source mask first.
    inside : dict of str to str
        For structures that lie in another one: which.
    """

    slices: tuple[int, ...]
    remaining: int
    structures: tuple[str, ...]
    rows: tuple[Row, ...]
    rule: Rule
    inside: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Dice tables of some candidates, the source first, from which every decision follows.

    Attributes
    ----------
    dice : ndarray, shape (candidates, slices, structures, shifts)
        With the reviewed masks; NaN where neither mask shows the structure, or no shift was tried.
    gains : ndarray, same shape
        Over the source mask, of all structures together, where this one alone is taken over.
    apart : ndarray, same shape
        1 − Dice with the source mask.
    rest : ndarray, shape (candidates, structures)
        Mean of the same on the slices that were not reviewed.
    remaining, inside
        As in `Weighing`.
    """

    names: tuple[str, ...]
    titles: tuple[str, ...]
    structures: tuple[str, ...]
    dice: np.ndarray
    gains: np.ndarray
    apart: np.ndarray
    rest: np.ndarray
    remaining: int
    inside: dict[str, str] = field(default_factory=dict)


def weigh(
    segmenter: Segmenter, candidates: Sequence[Candidate], reviewed: Masks, *, stack: bool = False
) -> Iterator[tuple[int, int] | Weighing]:
    """Measure candidates on reviewed slices.

    Parameters
    ----------
    segmenter : Segmenter
        The source model.
    candidates : sequence of Candidate
        With the source model's, called ``source``.
    reviewed : mapping of int to ndarray of uint8, shape (H, W)
        The reviewer's label maps by slice.
    stack : bool
        Whether slices are parts of one case (`Scan.is_stack`), and not cases of their own.

    Yields
    ------
    (int, int), and last Weighing
        How many of how many parts are done, and what it came to.

    Raises
    ------
    ChoosingError
        If there is nothing to weigh or to weigh with.
    """
    for step in measure(segmenter, candidates, reviewed, stack=stack):
        if isinstance(step, Measured):
            yield conclude(step, sorted(reviewed), Rule())
        else:
            yield step


def measure(
    segmenter: Segmenter, candidates: Sequence[Candidate], reviewed: Masks, *, stack: bool = False
) -> Iterator[tuple[int, int] | Measured]:
    """Compare candidates with the reviewed masks at every shift; as `weigh`, last `Measured`."""
    structures = segmenter.card.structures
    ordered = source_first(candidates)
    source, slices = ordered[0], sorted(reviewed)
    _check(ordered, reviewed)
    overlaps = Overlaps(segmenter.card, [one.masks for one in ordered], stack=stack)
    found = np.full((3, len(ordered), len(slices), len(structures), len(SHIFTS)), np.nan)
    others = sorted(source.masks.keys() - reviewed.keys())
    rest = np.zeros((len(ordered), len(structures)))
    known = [overlaps.of(source.masks[i], reviewed[i]) for i in slices]
    shared = np.sum([np.nan_to_num(dice) * weights for dice, weights in known], axis=0)
    level = shared / np.sum([weights for _, weights in known], axis=0).clip(1e-9)
    done, total = 0, len(ordered) * (len(slices) + 1)
    for row, candidate in enumerate(ordered):
        for column, index in enumerate(slices):
            masks = source.masks[index], reviewed[index]
            found[:, row, column] = _on_slice(segmenter, candidate, *masks, index, overlaps, level)
            done += 1
            yield done, total
        if others:
            away = [overlaps.apart(source.masks[i], candidate.masks[i]) for i in others]
            rest[row] = np.mean(away, axis=0)
        done += 1
        yield done, total
    dice, gains, apart = found
    yield Measured(
        tuple(one.name for one in ordered),
        tuple(one.title for one in ordered),
        tuple(one.name for one in structures),
        dice,
        gains,
        apart,
        rest,
        len(others),
        {one.name: one.inside for one in structures if one.inside},
    )


def source_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with the source model's first; a ChoosingError without it."""
    found = sorted(candidates, key=lambda one: one.name != SOURCE)
    if not found or found[0].name != SOURCE:
        raise ChoosingError("The source model's masks are missing; every gain is one over them.")
    if len({one.name for one in found}) < len(found):
        raise ChoosingError("Two candidates have the same name; give each one of its own.")
    return found


def _check(candidates: Sequence[Candidate], reviewed: Masks) -> None:
    """Refuse slices that say nothing, and candidates that have seen their own answer."""
    if not reviewed:
        raise ChoosingError("No slice was reviewed; review some, three at best, and weigh then.")
    every = candidates[0].masks.keys()
    for one in candidates:
        if one.masks.keys() != every:
            raise ChoosingError(
                f"{one.title} has masks of other slices than the source model; run it on the same."
            )
        for index, mask in reviewed.items():
            fair = one.fair_mask(index)
            if fair is None:
                where = "was not segmented" if index not in every else f"taught {one.title}"
                raise ChoosingError(
                    f"Slice {index + 1} {where}, so that it cannot be weighed there. Segment it, "
                    "or leave it out."
                )
            if fair.shape != np.shape(mask):
                raise ChoosingError(
                    f"The reviewed mask of slice {index + 1} is {times(np.shape(mask))}, the slice "
                    f"{times(fair.shape)}. Choose the masks of this scan."
                )


def _on_slice(
    segmenter: Segmenter,
    candidate: Candidate,
    source: np.ndarray,
    truth: np.ndarray,
    index: int,
    overlaps: Overlaps,
    level: np.ndarray,
) -> np.ndarray:
    """Return Dice, gain and distance from the source mask, shape (3, structures, shifts).

    In a stack with Dice D = ``level`` the gain is 2·ΔI − D·ΔT, of overlap I and both areas T.
    """
    card = segmenter.card
    found = np.full((3, len(card.structures), len(SHIFTS)), np.nan)
    own = candidate.fair_mask(index)
    assert own is not None
    box, moved = _where_it_matters(segmenter, candidate, index, (own, source, truth))
    own, source, truth = own[box], source[box], truth[box]
    before, weights = overlaps.of(source, truth)
    known = weights * (np.nan_to_num(before, nan=1.0) - level)
    plain = overlaps.of(own, truth)[0], overlaps.apart(source, own)
    for column, shift in enumerate(SHIFTS):
        if shift and moved is None:
            continue
        for place, structure in enumerate(card.structures):
            mask, (dice, apart) = own, plain
            if shift and moved is not None:
                mask = moved(structure.name, shift)
                dice, apart = overlaps.of(mask, truth)[0], overlaps.apart(source, mask)
            gain = math.nan
            if not (np.isnan(dice[place]) and np.isnan(before[place])):
                after, wider = overlaps.of(taken_over(card, source, mask, structure.name), truth)
                gain = (wider * (np.nan_to_num(after, nan=1.0) - level) - known).sum()
            found[:, place, column] = dice[place], gain, apart[place]
    return found


def _where_it_matters(
    segmenter: Segmenter, candidate: Candidate, index: int, masks: Sequence[np.ndarray]
) -> tuple[tuple[slice, slice], Callable[[str, float], np.ndarray] | None]:
    """Return the frame in which any mask shows anything, and what makes shifted ones in it.

    Of a whole photograph that is a small part, and there are dozens of masks to compare.
    """
    shown = np.any([mask != 0 for mask in masks], axis=0)
    probabilities = None
    # A taught model's thresholds would need its probabilities without each slice. Of exclusive
    # classes one gains what the next one loses: on five brains thresholds earned nothing (three
    # slices), and followed a reviewer's errors.
    able = index not in candidate.taught_by and segmenter.card.activation == "sigmoid"
    if candidate.probabilities is not None and able:
        probabilities = candidate.probabilities(index)
    if probabilities is not None:
        for structure in segmenter.card.structures:
            shown |= shifted_labels(segmenter, probabilities, structure.name, SHIFTS[-1]) != 0
    rows, columns = (np.flatnonzero(shown.any(axis)) for axis in (1, 0))
    ends = [(int(at[0]), int(at[-1]) + 1) if len(at) else (0, 1) for at in (rows, columns)]
    box = slice(*ends[0]), slice(*ends[1])
    if probabilities is None:
        return box, None
    inside, own = candidate.looked_at(shown.shape), masks[0][box]
    part = probabilities[:, box[0], box[1]]

    def moved(structure: str, shift: float) -> np.ndarray:
        found = shifted_labels(segmenter, part, structure, shift)
        return found if inside is None else np.where(inside[box], found, own)

    return box, moved


def taken_over(card: Card, mask: np.ndarray, other: np.ndarray, structure: str) -> np.ndarray:
    """Return a label map with one structure as in another one, and all else as it was.

    Where only one of the two shows the structure, the other map's label stands; so what the
    structure gives up or takes goes to what that map says lies there.
    """
    differs = structure_mask(card, mask, structure) != structure_mask(card, other, structure)
    return np.where(differs, other, mask)


def conclude(measured: Measured, slices: Sequence[int], rule: Rule) -> Weighing:
    """Find each candidate's gain, with thresholds fitted without the slice they are weighed on."""
    rows = tuple(
        row
        for place in range(len(measured.structures))
        for which in range(len(measured.names))
        for row in _rows(measured, which, place, slices, rule)
    )
    structures, inside = measured.structures, measured.inside
    return Weighing(tuple(slices), measured.remaining, structures, rows, rule, inside)


def _rows(
    measured: Measured, which: int, place: int, slices: Sequence[int], rule: Rule
) -> Iterator[Row]:
    """Yield the row of a candidate as it is, and with a fitted threshold if there is one."""
    dice, gains, apart = (
        table[which, :, place] for table in (measured.dice, measured.gains, measured.apart)
    )
    every = np.arange(len(slices))
    plain = np.full(len(slices), _UNSHIFTED)
    ways = [(_UNSHIFTED, plain, float(measured.rest[which, place]))]
    last = _fitted(gains, rule)
    if len(slices) > 1 and last != _UNSHIFTED:
        columns = np.array([_fitted(gains[every != i], rule) for i in every])
        # How far it lies from the source mask elsewhere is not known before it is applied.
        ways.append((last, columns, float(apart[:, last].mean())))
    for column, columns, rest in ways:
        # A fitted threshold makes another mask of it, of which nothing is expected.
        prior = rule.priors.get(measured.names[which]) if column == _UNSHIFTED else None
        gained = gains[every, columns]
        counted = np.isfinite(gained)
        away = apart[every, columns][counted]
        found = estimate(gained[counted], away, rest, measured.remaining, rule, prior)
        yield Row(
            candidate=measured.names[which],
            title=measured.titles[which],
            structure=measured.structures[place],
            shift=SHIFTS[column],
            dice=_by_slice(slices, dice[every, columns]),
            gains=_by_slice(slices, gained),
            estimate=found,
            consistent=bool(found.low > 0 and counted.sum() >= rule.fewest),
            telling=(prior is not None and prior[0] > 0)
            or bool(len(away) and away.sum() >= rule.telling * rest),
        )


def _by_slice(slices: Sequence[int], values: np.ndarray) -> dict[int, float]:
    pairs = zip(slices, values.tolist(), strict=True)
    return {index: value for index, value in pairs if not math.isnan(value)}


def _fitted(gains: np.ndarray, rule: Rule) -> int:
    """Return the column of the shift that gains most on some slices, small shifts preferred."""
    known = np.isfinite(gains)
    mean = np.where(known, gains, 0).sum(0) / known.sum(0).clip(1)
    score = np.where(known.any(0), mean - rule.penalty * np.abs(SHIFTS), -np.inf)
    best = int(score.argmax())
    return best if score[best] > score[_UNSHIFTED] else _UNSHIFTED


# -- the choice ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pick:
    """What becomes of one structure: the source mask's, or a candidate's with some shift."""

    structure: str
    candidate: str
    title: str
    shift: float
    estimate: Estimate


@dataclass(frozen=True)
class Choice:
    """What is recommended, structure by structure, and in words."""

    picks: tuple[Pick, ...]
    words: str

    @property
    def changes(self) -> bool:
        """Whether anything is to replace the source mask."""
        return any(_changes(pick) for pick in self.picks)


def recommend(weighing: Weighing) -> Choice:
    """Name a candidate for each structure whose gain is consistent; else the source mask stays."""
    rows = {(row.structure, row.candidate, row.shift): row for row in weighing.rows}
    best = {structure: rows[structure, SOURCE, 0.0] for structure in weighing.structures}
    for row in weighing.rows:
        own = best[row.structure]
        if row.consistent and row.telling and row.estimate.mean > own.estimate.mean:
            best[row.structure] = row
    told = {structure: row for structure, row in best.items() if _changes(row)}
    for pair in weighing.inside.items():
        for structure, other in (pair, pair[::-1]):
            found = rows.get((structure, best[other].candidate, 0.0))
            if structure not in told and found is not None and _goes_along(found, best[other]):
                best[structure] = found
    words = "Your slices do not show that anything is better than the mask before; it stays."
    if not told and any(row.consistent for row in weighing.rows):
        words += " What gains on them hardly differs there: review some of the proposed slices."
    if told:
        gaining = sorted(told.values(), key=lambda row: -row.estimate.mean)[:MOST_SHOWN]
        changed = [_told(row) for row in told.values() if row in gaining]
        if len(told) > len(gaining):
            changed.append(f"{len(told) - len(gaining)} more structures gain less")
        along = [row for row in best.values() if _changes(row) and row.structure not in told]
        changed += [f"{row.structure} goes along with it" for row in along]
        words = "Recommended. " + "; ".join(changed) + "."
        kept = [structure for structure, row in best.items() if not _changes(row)]
        if kept:
            many = len(kept) > MOST_SHOWN
            words += f" As before: {f'{len(kept)} others' if many else ', '.join(kept)}."
    picks = (
        Pick(structure, row.candidate, row.title, row.shift, row.estimate)
        for structure, row in best.items()
    )
    return Choice(tuple(picks), words)


def _changes(row: Row | Pick) -> bool:
    return row.candidate != SOURCE or bool(row.shift)


def _goes_along(row: Row, other: Row) -> bool:
    """Whether a structure may come from where the one round it, or in it, is taken from."""
    lows = row.estimate.low + other.estimate.low
    return row.candidate != SOURCE and row.telling and row.estimate.mean > 0 and lows > 0


def _told(row: Row) -> str:
    found, moved = row.estimate, f", threshold moved by {row.shift:+g}" if row.shift else ""
    return (
        f"{row.structure}: {row.title}{moved}, {100 * found.mean:+.1f} points of Dice expected on "
        f"the other slices ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    )


def chosen_masks(
    segmenter: Segmenter,
    choice: Choice,
    candidates: Sequence[Candidate],
    slices: Iterable[int] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield slices' label maps as chosen; those of reviewed slices are the caller's to keep.

    Starting from the source mask, each structure is taken over from its candidate, that with the
    largest gain last.
    """
    known = {one.name: one for one in candidates}
    source = known[SOURCE]
    picks = [pick for pick in choice.picks if _changes(pick)]
    picks.sort(key=lambda pick: pick.estimate.mean)
    for index in sorted(source.masks) if slices is None else slices:
        mask = np.array(source.masks[index])
        for pick in picks:
            candidate = known[pick.candidate]
            other = shifted_mask(segmenter, candidate, index, pick.structure, pick.shift)
            mask = taken_over(segmenter.card, mask, other, pick.structure)
        yield index, mask
