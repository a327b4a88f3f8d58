"""A few reviewed slices decide: what is weighed, what is recommended, what stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from napari_grata.review import choosing
from napari_grata.review.candidates import Candidate, shifted_mask
from napari_grata.review.choice_record import excerpt
from napari_grata.review.choosing import (
    ChoosingError,
    Rule,
    Weighing,
    chosen_masks,
    estimate,
    recommend,
    taken_over,
)
from napari_grata.review.compare import MOST_SHOWN
from napari_grata.review.figures import gains
from napari_grata.review.proposing import propose
from napari_grata.segmenters import Card, Segmenter, Structure
from napari_grata.segmenters.card import structure_colours, structure_mask
from tools.generators.models import Small, small_card

SIDE = 64
TRUTH = {index: (20 + index % 3, 9 + index % 4) for index in range(12)}
"""Radii of disc and cup."""


def eye(disc: float, cup: float) -> np.ndarray:
    """A label map of two concentric circles."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    distance = np.hypot(rows, columns)
    return ((distance < disc).astype(np.uint8) + (distance < cup)).astype(np.uint8)


def made(name: str, change: Callable[[int, float, float], tuple[float, float]]) -> Candidate:
    """A candidate whose radii are the truth's, changed."""
    masks = {i: eye(*change(i, *radii)) for i, radii in TRUTH.items()}
    return Candidate(name, name.title(), masks)


def truth(*slices: int) -> dict[int, np.ndarray]:
    return {i: eye(*TRUTH[i]) for i in slices}


def weigh(*given: Any, **more: Any) -> Weighing:
    """What `choosing.weigh` comes to."""
    *_, weighing = choosing.weigh(*given, **more)
    return weighing


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(small_card(), Small(), "cpu")


SMALL_CUPS = made("source", lambda i, disc, cup: (disc, cup - 3))
BETTER = made("better", lambda i, disc, cup: (disc, cup - 1))
WORSE = made("worse", lambda i, disc, cup: (disc - 4, cup - 5))
BOTH_WAYS = made("both-ways", lambda i, disc, cup: (disc, cup - 3 + (2 if i % 2 else -2)))


def test_a_consistent_gain_is_recommended_for_the_structure_that_gains(segmenter) -> None:
    weighing = weigh(segmenter, [SMALL_CUPS, BETTER, WORSE], truth(1, 5, 9))
    choice = recommend(weighing)
    assert [(pick.structure, pick.candidate) for pick in choice.picks] == [
        ("disc", "source"),
        ("cup", "better"),
    ]
    assert choice.changes
    assert "Better" in choice.words
    # What is expected is what is found on the slices that nobody looked at.
    masks = dict(chosen_masks(segmenter, choice, [SMALL_CUPS, BETTER, WORSE]))
    for index, mask in masks.items():
        np.testing.assert_array_equal(mask, BETTER.masks[index])


def test_a_cup_goes_along_with_its_disc_unless_its_slices_speak_against_it(segmenter) -> None:
    source = made("source", lambda i, disc, cup: (disc - 6, cup - 2))
    for moves, taken in (((2, 2, -1), "framed"), ((-2, -2, 1), "source")):
        framed = made("framed", lambda i, disc, cup, m=moves: (disc, cup - 2 + m[i % 3]))
        weighing = weigh(segmenter, [source, framed], truth(1, 6, 8))
        cups = next(r for r in weighing.rows if (r.candidate, r.structure) == ("framed", "cup"))
        assert not cups.consistent
        choice = recommend(weighing)
        assert [pick.candidate for pick in choice.picks] == ["framed", taken]
        assert ("cup goes along" in choice.words) == (taken == "framed")


def test_where_errors_go_both_ways_the_source_stays_and_says_so(segmenter) -> None:
    for reviewed in ((0, 1, 2), (3, 6, 8), (1, 4, 7)):
        choice = recommend(weigh(segmenter, [SMALL_CUPS, BOTH_WAYS, WORSE], truth(*reviewed)))
        assert not choice.changes
        assert "do not show that anything is better" in choice.words
        masks = dict(chosen_masks(segmenter, choice, [SMALL_CUPS, BOTH_WAYS, WORSE], [0, 5]))
        assert list(masks) == [0, 5]
        np.testing.assert_array_equal(masks[5], SMALL_CUPS.masks[5])


def test_one_slice_never_decides(segmenter) -> None:
    assert not recommend(weigh(segmenter, [SMALL_CUPS, BETTER], truth(4))).changes


def test_masks_that_do_not_differ_say_nothing(segmenter) -> None:
    same = made("same", lambda i, disc, cup: (disc, cup - 3))
    weighing = weigh(segmenter, [SMALL_CUPS, same], truth(1, 5, 9))
    assert not recommend(weighing).changes
    assert all(row.estimate.mean == 0 for row in weighing.rows)


def test_figures_are_dice_and_gains_by_structure_and_slice(segmenter) -> None:
    weighing = weigh(segmenter, [SMALL_CUPS, BETTER], truth(1, 5))
    row = next(r for r in weighing.rows if (r.candidate, r.structure) == ("better", "cup"))
    for index in (1, 5):
        true, found, before = (m[index] == 2 for m in (truth(1, 5), BETTER.masks, SMALL_CUPS.masks))
        dice = 2 * (true & found).sum() / (true.sum() + found.sum())
        old = 2 * (true & before).sum() / (true.sum() + before.sum())
        assert row.dice[index] == pytest.approx(dice)
        assert row.gains[index] == pytest.approx(dice - old)
    assert weighing.slices == (1, 5)
    assert weighing.remaining == 10


def test_a_structure_that_is_nowhere_is_not_counted(segmenter) -> None:
    bare = {i: np.minimum(mask, 1) for i, mask in SMALL_CUPS.masks.items()}
    source, other = Candidate("source", "Source", bare), Candidate("other", "Other", bare)
    reviewed = {i: np.minimum(mask, 1) for i, mask in truth(1, 5, 9).items()}
    weighing = weigh(segmenter, [source, other], reviewed)
    assert all(not row.dice for row in weighing.rows if row.structure == "cup")
    assert not recommend(weighing).changes


# -- thresholds ------------------------------------------------------------------------------


def soft(offset: Callable[[int], float]) -> Candidate:
    """A source model whose cups are sure of their middle, and too small by so many pixels."""
    probabilities = {}
    for index, (disc, cup) in TRUTH.items():
        maps = []
        for radius in (disc, cup + offset(index)):
            rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
            maps.append(1 / (1 + np.exp((np.hypot(rows, columns) - radius) / 2)))
        probabilities[index] = np.array(maps, np.float32)
    label = Segmenter(small_card(), Small(), "cpu").label_map
    masks = {index: label(found) for index, found in probabilities.items()}
    return Candidate("source", "Source", masks, probabilities.__getitem__)


def test_a_threshold_is_fitted_where_all_slices_ask_for_the_same(segmenter) -> None:
    source = soft(lambda index: -2.0)  # in logits, 1 too low
    weighing = weigh(segmenter, [source], truth(1, 5, 9))
    (pick,) = [pick for pick in recommend(weighing).picks if pick.structure == "cup"]
    assert (pick.candidate, pick.shift) == ("source", 1.0)
    masks = dict(chosen_masks(segmenter, recommend(weighing), [source]))
    for index in TRUTH:
        np.testing.assert_array_equal(masks[index] == 2, eye(*TRUTH[index]) == 2)


def test_a_threshold_is_weighed_on_slices_that_did_not_fit_it(segmenter) -> None:
    # Each slice asks for another threshold: fitted on all, gains would look real on each.
    source = soft(lambda index: {1: -4.0, 5: 4.0}.get(index, 0.0))
    weighing = weigh(segmenter, [source], truth(1, 5, 9))
    moved = [row for row in weighing.rows if row.shift and row.structure == "cup"]
    assert all(min(row.gains.values()) < 0 for row in moved)
    assert not recommend(weighing).changes


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_shift_grows_or_shrinks_one_structure(activation: str) -> None:
    card = small_card() if activation == "sigmoid" else _exclusive()
    segmenter = Segmenter(card, Small(outputs=card.outputs), "cpu")
    rng = np.random.default_rng(0)
    maps = np.exp(ndimage.gaussian_filter(rng.normal(size=(card.outputs, 40, 40)), (0, 3, 3)) * 9)
    maps = maps / maps.sum(0) if activation == "softmax" else maps / (1 + maps)
    maps = maps.astype(np.float32)
    own = segmenter.label_map(maps)
    one = Candidate("source", "Source", {0: own}, lambda index: maps)
    name = card.structures[0].name
    sizes = [
        np.isin(shifted_mask(segmenter, one, 0, name, shift), card.values_within(name)).sum()
        for shift in (-2, -0.5, 0, 0.5, 2)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] < sizes[-1]
    np.testing.assert_array_equal(shifted_mask(segmenter, one, 0, name, 0), own)


def test_exclusive_classes_get_no_threshold() -> None:
    card = _exclusive()
    segmenter = Segmenter(card, Small(outputs=3), "cpu")
    rng = np.random.default_rng(0)
    maps = rng.dirichlet((1, 1, 1), (40, 40)).transpose(2, 0, 1).astype(np.float32)
    one = Candidate(
        "source", "Source", dict.fromkeys(range(6), segmenter.label_map(maps)), lambda index: maps
    )
    more = segmenter.label_map(maps * np.array([1, 3, 1], np.float32)[:, None, None])
    weighing = weigh(segmenter, [one], dict.fromkeys(range(3), more))
    assert all(row.shift == 0 for row in weighing.rows)


def test_outside_the_region_a_shift_changes_nothing(segmenter) -> None:
    maps = np.full((2, 40, 40), 0.4, np.float32)
    own = np.ones((40, 40), np.uint8)
    one = Candidate("source", "S", {0: own}, lambda index: maps, region=(10, 10, 20, 20))
    moved = shifted_mask(segmenter, one, 0, "cup", 1.0)
    assert (moved[10:20, 10:20] == 2).all()
    assert (moved != own).sum() == 100


def test_a_large_picture_is_measured_where_something_is_and_nowhere_else(segmenter) -> None:
    small = soft(lambda index: -3.0)

    def padded(array: np.ndarray) -> np.ndarray:
        sides = [(0, 0)] * (array.ndim - 2) + [(30, 50), (70, 10)]
        return np.pad(array, sides)

    assert small.probabilities is not None
    large = Candidate(
        "source",
        "Source",
        {i: padded(mask) for i, mask in small.masks.items()},
        lambda index: padded(small.probabilities(index)),
    )
    reviewed = {i: padded(mask) for i, mask in truth(1, 5, 9).items()}
    assert weigh(segmenter, [large], reviewed) == weigh(segmenter, [small], truth(1, 5, 9))


# -- structures together ---------------------------------------------------------------------


def _exclusive() -> Card:
    from napari_grata.segmenters import Structure

    return small_card(
        structures=(Structure("grey", "#56B4E9", 1), Structure("white", "#E69F00", 2)),
        activation="softmax",
    )


def test_one_structure_is_taken_over_and_the_rest_stays() -> None:
    card = _exclusive()
    mask = np.array([[0, 0, 1, 1, 2, 2]], np.uint8)
    other = np.array([[2, 1, 2, 0, 1, 2]], np.uint8)
    # Grey as in the other, and what it left or took is as the other says; white elsewhere stays.
    np.testing.assert_array_equal(taken_over(card, mask, other, "grey"), [[0, 1, 2, 0, 1, 2]])
    np.testing.assert_array_equal(taken_over(card, mask, other, "white"), [[2, 0, 2, 1, 1, 2]])


def test_what_a_structure_takes_from_its_neighbour_counts_against_it() -> None:
    card = _exclusive()
    segmenter = Segmenter(card, Small(outputs=3), "cpu")
    right = np.zeros((40, 40), np.uint8)
    right[:, :20], right[:, 20:] = 1, 2
    narrow, wide = right.copy(), right.copy()
    narrow[:, 18:20] = 2
    wide[:, 20:22] = 1
    source = Candidate("source", "S", dict.fromkeys(range(6), narrow))
    other = Candidate("other", "O", dict.fromkeys(range(6), wide))
    weighing = weigh(segmenter, [source, other], dict.fromkeys(range(3), right))
    assert not recommend(weighing).changes
    weighing = weigh(segmenter, [source, other], dict.fromkeys(range(3), wide))
    assert recommend(weighing).changes


def test_in_a_stack_a_large_slice_outweighs_a_few_pixels(segmenter) -> None:
    source = {i: eye(20, 12) for i in range(9)} | {9: eye(2, 0), 10: eye(2, 0), 11: eye(2, 0)}
    # Worse on the large slices; on the small ones, wrong before and right after.
    other = {i: eye(17, 12) for i in range(9)} | {i: eye(0, 0) for i in (9, 10, 11)}
    candidates = [Candidate("source", "S", source), Candidate("other", "O", other)]
    reviewed = {1: eye(20, 12), 9: eye(0, 0), 10: eye(0, 0)}
    assert not recommend(weigh(segmenter, candidates, reviewed, stack=True)).changes
    row = weigh(segmenter, candidates, reviewed, stack=True).rows[1]
    assert row.gains[9] == pytest.approx(0, abs=0.01)
    assert row.gains[1] < -0.1


def test_in_a_stack_what_is_shown_where_nothing_is_counts_against_it(segmenter) -> None:
    card = segmenter.card
    right = {i: eye(*TRUTH[i]) if i < 6 else eye(0, 0) for i in TRUTH}
    source = {i: eye(TRUTH[i][0] - 2, TRUTH[i][1]) if i < 6 else eye(0, 0) for i in TRUTH}
    # Better where the structure is, and a patch on every slice where it is not.
    other = {i: eye(TRUTH[i][0], TRUTH[i][1]) if i < 6 else eye(14, 0) for i in TRUTH}
    candidates = [Candidate("source", "S", source), Candidate("other", "O", other)]
    row = weigh(segmenter, candidates, right, stack=True).rows[1]
    assert (row.structure, row.candidate) == ("disc", "other")
    assert not row.consistent
    # What is found slice by slice comes to what the whole gains.
    both, total = np.zeros((2, 2))
    for place, masks in enumerate((source, other)):
        for i, mask in masks.items():
            pair = [structure_mask(card, one, "disc") for one in (mask, right[i])]
            both[place] += (pair[0] & pair[1]).sum()
            total[place] += pair[0].sum() + pair[1].sum()
    before, after = 2 * both / total
    assert after < before
    assert np.mean(list(row.gains.values())) == pytest.approx(after - before, abs=0.1)


# -- what has seen its own answer ------------------------------------------------------------


def test_a_taught_candidate_is_weighed_by_masks_that_have_not_seen_the_slice(segmenter) -> None:
    cheat = Candidate("taught", "Taught", truth(*TRUTH), taught_by=frozenset({1, 5, 9}))
    with pytest.raises(ChoosingError, match="taught"):
        weigh(segmenter, [SMALL_CUPS, cheat], truth(1, 5, 9))
    honest = Candidate(
        "taught",
        "Taught",
        truth(*TRUTH),
        taught_by=frozenset({1, 5, 9}),
        held_out={i: BOTH_WAYS.masks[i] for i in (1, 5, 9)},
    )
    weighing = weigh(segmenter, [SMALL_CUPS, honest], truth(1, 5, 9))
    against = weigh(segmenter, [SMALL_CUPS, BOTH_WAYS], truth(1, 5, 9))
    assert [r.gains for r in weighing.rows] == [r.gains for r in against.rows]


def test_what_cannot_be_weighed_is_told(segmenter) -> None:
    with pytest.raises(ChoosingError, match="No slice was reviewed"):
        weigh(segmenter, [SMALL_CUPS, BETTER], {})
    with pytest.raises(ChoosingError, match="source model's masks are missing"):
        weigh(segmenter, [BETTER], truth(1))
    with pytest.raises(ChoosingError, match="Slice 41 was not segmented"):
        weigh(segmenter, [SMALL_CUPS, BETTER], {40: eye(20, 9)})
    with pytest.raises(ChoosingError, match="9 × 9"):
        weigh(segmenter, [SMALL_CUPS, BETTER], {1: np.zeros((9, 9), np.uint8)})


# -- the estimate ----------------------------------------------------------------------------


def test_the_estimate_is_a_share_of_how_far_the_masks_lie_apart() -> None:
    apart = np.array([0.1, 0.2, 0.1])
    wide = estimate(0.5 * apart, apart, 0.1, 100, Rule())
    narrow = estimate(0.5 * apart, apart, 0.01, 100, Rule())
    assert 0 < wide.mean < 0.05  # shrunk
    assert narrow.mean < wide.mean / 5
    turned = estimate(-0.5 * apart, apart, 0.1, 100, Rule())
    assert turned.mean == pytest.approx(-wide.mean)
    assert turned.high == pytest.approx(-wide.low)


def test_more_slices_that_agree_make_the_interval_narrow() -> None:
    spans = []
    for count in (1, 3, 10, 100):
        found = estimate(np.full(count, 0.03), np.full(count, 0.1), 0.1, 1000, Rule())
        spans.append(found.high - found.low)
    assert spans == sorted(spans, reverse=True)
    assert found.mean == pytest.approx(0.03, rel=0.05)


def test_the_interval_holds_what_it_promises_under_its_own_prior() -> None:
    rng = np.random.default_rng(0)
    rule = Rule(level=0.9, idle_slices=1.0, scatter=0.4, weight=6)
    below = 0
    for _ in range(4000):
        apart = rng.gamma(4, 0.02, 53)
        typical = apart.mean()
        variance = rule.scatter**2 * typical * rule.weight / rng.chisquare(rule.weight)
        share = rng.normal(0, np.sqrt(variance / (rule.idle_slices * typical)))
        gains = share * apart + rng.normal(0, np.sqrt(variance * apart))
        # Where a gain is larger than it could be, the estimate mends its distance: leave it.
        apart = np.maximum(apart, np.abs(gains))
        found = estimate(gains[:3], apart[:3], float(apart[3:].mean()), 50, rule)
        below += gains[3:].mean() < found.low
    assert 0.05 < below / 4000 < 0.15


# -- proposals -------------------------------------------------------------------------------


def test_proposals_are_where_candidates_differ_spread_over_the_list() -> None:
    card = small_card()
    masks = {i: eye(20, 9) for i in range(12)}
    other = {i: eye(20, 9 + (4 if i in (2, 3, 6, 11) else 1)) for i in range(12)}
    other[3] = eye(20, 15)
    candidates = [Candidate("source", "S", masks), Candidate("other", "O", other)]
    assert propose(card, candidates) == [3, 6, 11]
    assert propose(card, candidates) == propose(card, candidates[::-1])
    assert propose(card, candidates, leave_out=[3, 11]) == [2, 6, 8]
    assert len(propose(card, candidates, 8)) == 8
    assert propose(card, candidates, 40) == list(range(12))
    assert propose(card, candidates, leave_out=range(12)) == []


def test_proposals_show_every_structure_and_no_empty_slice() -> None:
    card = small_card()
    masks = {i: eye(20 if i > 3 else 0, 9 if i == 8 else 0) for i in range(12)}
    other = {i: eye(18 if i > 3 else 0, 9 if i == 8 else 0) for i in range(12)}
    found = propose(
        card, [Candidate("source", "S", masks), Candidate("other", "O", other)], stack=True
    )
    assert 8 in found
    assert len(found) == 3
    assert min(found) > 3
    empty = Candidate("source", "S", {i: eye(0, 0) for i in range(4)})
    assert propose(card, [empty]) == []


def test_what_is_expected_to_gain_needs_less_and_harm_overrules_it() -> None:
    gains, apart = np.array([0.01, 0.02, 0.0]), np.full(3, 0.1)
    priors = Rule().priors
    plain = estimate(gains, apart, 0.1, 20, Rule())
    assert plain.low < 0 < plain.mean
    for name in ("careful", "taught"):
        assert estimate(gains, apart, 0.1, 20, Rule(), priors[name]).low > 0
        assert estimate(-4 * gains, apart, 0.1, 20, Rule(), priors[name]).low < 0
    share, slices = priors["taught"]
    known = estimate(gains, apart, 0.1, 20, Rule(), priors["taught"])
    # As if so many slices more had gained that share: all differ by 0.1 here.
    assert known.mean == pytest.approx((slices * share * 0.1 + gains.sum()) / (slices + 3))
    # What lost nearly everywhere has to gain more, and to differ where it is weighed.
    gains = np.array([0.04, 0.05, 0.03])
    assert estimate(gains, apart, 0.1, 20, Rule()).low > 0
    for name in ("batch-norm", "as-published"):
        assert estimate(gains, apart, 0.1, 20, Rule(), priors[name]).low < 0
        assert estimate(2 * gains, apart, 0.1, 20, Rule(), priors[name]).low > 0


def test_of_many_structures_pictures_and_words_name_those_that_change_most(tmp_path) -> None:
    count = 20
    colours = enumerate(structure_colours(count), 1)
    card = Card(
        name="many",
        title="Many",
        structures=tuple(Structure(f"part {n}", colour, n) for n, colour in colours),
        activation="softmax",
        channels=1,
        modality="T1",
        dimensions=3,
    )
    # A strip each; the source misses n of 40 columns of part n, and of part 20 all but a pixel.
    truth: np.ndarray = np.repeat(np.arange(1, count + 1, dtype=np.uint8), 2)[:, None]
    truth = np.tile(truth, (1, 40))
    source = truth.copy()
    for part in range(1, count + 1):
        source[truth == part] = np.where(np.arange(80) % 40 < 40 - part, part, 0)
    source[truth == count] = 0
    source[-1, 0] = count
    made = [Candidate("source", "Before", dict.fromkeys(range(8), source))]
    made.append(Candidate("better", "Better", dict.fromkeys(range(8), truth)))
    weighing = weigh(
        Segmenter(card, Small(), "cpu"), made, {i: truth for i in (1, 3, 6)}, stack=True
    )
    assert all(row.estimate.mean <= 1 for row in weighing.rows)
    drawn = excerpt(weighing)
    most = [f"part {n}" for n in range(count, count - MOST_SHOWN, -1)]
    assert drawn.structures == (*most, "mean of 20")
    mean = next(
        row for row in drawn.rows if (row.candidate, row.structure) == ("better", "mean of 20")
    )
    each = [row.gains[3] for row in weighing.rows if row.candidate == "better"]
    assert mean.gains[3] == pytest.approx(np.mean(each))
    assert excerpt(drawn) is not drawn
    choice = recommend(weighing)
    taken = sum(pick.candidate == "better" for pick in choice.picks)
    assert choice.words.count("Better") == MOST_SHOWN
    assert f"{taken - MOST_SHOWN} more structures gain less" in choice.words
    assert gains(weighing, choice, tmp_path / "gains.png").stat().st_size > 10_000
