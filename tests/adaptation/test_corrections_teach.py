"""Corrections that teach: the objective, the plan, and the run that goes on from another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from napari_grata.adaptation import (
    AdaptationRun,
    Corrections,
    CorrectionsError,
    Settings,
    SettingsError,
    correct_run,
    reopen,
    taught_state,
    teaching_settings,
)
from napari_grata.adaptation.methods import GraTa, make_method
from napari_grata.adaptation.objectives import Supervision, scribble_loss
from napari_grata.adaptation.plan import make_plan
from napari_grata.adaptation.settings import PRESETS
from napari_grata.scans import Scan, open_scan, scan_from_array
from napari_grata.segmenters import Segmenter, load_segmenter
from tools.generators.models import Small, small_card, write_tiny

BASE = Settings(learning_rate=1e-3, predict="average", blend=0.0)
TEACH = teaching_settings(BASE).but(correction_steps=3, six_views=False)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(small_card(), Small(), "cpu")


def volume(slices: int = 5) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:72, :66]
    blob = [np.exp(-((rows - 36) ** 2 + (columns - 30 - n) ** 2) / 150) for n in range(slices)]
    return (0.5 * np.stack(blob) + 0.3 * rng.random((slices, 72, 66))).astype(np.float32)


@pytest.fixture
def scan() -> Scan:
    return scan_from_array(volume(), name="volume", spacing=(2.0, 1.0, 1.0))


def finished(run: AdaptationRun) -> AdaptationRun:
    for _ in run.records():
        pass
    return run


def strokes(*slices: int, value: int = 1) -> Corrections:
    labels = np.full((72, 66), -1)
    labels[20:30, 10:50] = value
    return Corrections({index: labels for index in slices})


def probability(run: AdaptationRun, index: int, channel: int = 0) -> float:
    return float(run.predict(index).probabilities[channel, 20:30, 10:50].mean())


# --- the objective -------------------------------------------------------------------------------


def supervision(activation: str) -> tuple[torch.Tensor, Supervision]:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.nn.functional.one_hot(torch.randint(0, 3, (1, 4, 5)), 3).permute(0, 3, 1, 2)
    weights = torch.zeros(1, 4, 5, dtype=torch.float64)
    weights[0, 1, 1:4] = 1
    return logits, Supervision(targets.double(), weights)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_pixels_that_nobody_corrected_have_no_gradient(activation):
    logits, taught = supervision(activation)
    scribble_loss(logits, taught, activation).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(1)[0] > 0
    assert touched[1, 1:4].all()
    assert touched.sum() == 3


def test_the_loss_is_the_mean_cross_entropy_of_the_corrected_pixels():
    logits, taught = supervision("softmax")
    picked = logits[0, :, 1, 1:4].T
    classes = taught.targets[0, :, 1, 1:4].T.argmax(1)
    expected = torch.nn.functional.cross_entropy(picked, classes)
    assert torch.allclose(scribble_loss(logits, taught, "softmax"), expected)


def test_what_was_left_alone_is_held_to_what_was_said_with_its_share_of_the_weight():
    logits, taught = supervision("sigmoid")
    said = torch.sigmoid(logits.detach() + 0.7)
    loss = scribble_loss(logits, taught.holding(said, 0.25), "sigmoid")
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    corrected = bce(logits, taught.targets, reduction="none").mean(1)
    alone = bce(logits, said, reduction="none").mean(1)
    w = taught.weights
    expected = (w * corrected + 0.25 * (1 - w) * alone).sum() / (3 + 0.25 * 17)
    assert torch.allclose(loss, expected)
    assert torch.allclose(
        scribble_loss(logits, taught.holding(said, 0.0), "sigmoid"),
        scribble_loss(logits, taught, "sigmoid"),
    )


@pytest.mark.parametrize("role", ["auxiliary", "pseudo", "both"])
def test_each_role_of_the_corrections_steps_differently_and_none_without_them(role):
    images = torch.rand(1, 1, 64, 64)
    target = torch.ones(1, 2, 64, 64)
    weights = torch.zeros(1, 64, 64)
    weights[:, 10:20] = 1
    taught = Supervision(target, weights)
    network = Small().eval()

    def theta(scribble: str, given: Supervision | None) -> torch.Tensor:
        method = GraTa(network, seed=1, perturbation=0.05, scribble=scribble)
        method.step(images, given)
        assert method.objectives.supervision is None
        return method.theta()

    plain = theta("none", None)
    assert torch.equal(theta(role, None), plain)
    assert torch.equal(theta("none", taught), plain)
    assert not torch.equal(theta(role, taught), plain)


def test_plain_fine_tuning_lowers_the_loss_on_the_corrected_pixels():
    images, network = torch.rand(1, 1, 64, 64), Small().eval()
    weights = torch.zeros(1, 64, 64)
    weights[:, 10:20] = 1
    taught = Supervision(torch.ones(1, 2, 64, 64), weights)
    settings = Settings(
        method="consistency", scribble="pseudo", predict="final", learning_rate=0.01
    )
    method = make_method(settings, network)
    losses = [method.step(images, taught).pseudo_loss for _ in range(8)]
    assert losses[-1] < losses[0]


# --- settings and plan ---------------------------------------------------------------------------


def test_after_any_method_corrections_can_teach() -> None:
    for one in PRESETS.values():
        taught = teaching_settings(one.settings)
        assert taught.scribble != "none", one.name
        assert taught.learns_from_stack is one.settings.learns_from_stack


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scribble": "teacher", "predict": "final"}, "scribble"),
        ({"scribble": "pseudo"}, "predict"),
        ({"scribble": "pseudo", "predict": "final", "method": "batch-norm"}, "learns nothing"),
        ({"scribble": "auxiliary", "predict": "final", "method": "consistency"}, "grata"),
        ({"correction_steps": 0}, "correction_steps"),
        ({"soft_labels": -1.0}, "soft_labels"),
        ({"hold": -0.1}, "hold"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(changes, words):
    with pytest.raises(SettingsError, match=words):
        Settings(**changes)


def test_settings_of_earlier_versions_can_be_read():
    old = Settings().to_dict()
    for name in ("scribble", "correction_steps", "uncorrected_learn", "soft_labels", "hold"):
        del old[name]
    assert Settings.from_dict(old) == Settings()


@pytest.mark.parametrize("method", ["source", "batch-norm", "consistency", "grata"])
def test_corrections_can_teach_after_every_method(method):
    base = Settings(method=method, blend=0.3)
    taught = teaching_settings(base)
    assert taught.learns
    assert taught.scribble != "none"
    # The source model has its own statistics, whatever the blend says.
    assert taught.blend == (0.0 if method == "source" else 0.3)


def test_corrected_slices_take_turns_and_all_slices_are_predicted_corrected_ones_first():
    plan = make_plan(TEACH, [0, 1, 2, 3], lambda index: 0, (1, 3))
    steps = [(e.slice_index, e.step) for e in plan if e.phase == "adapt"]
    assert steps == [(1, 1), (3, 2), (1, 3), (3, 4), (1, 5), (3, 6)]
    assert [e.slice_index for e in plan if e.phase == "predict"] == [1, 3, 0, 2]
    assert [e.final for e in plan] == [e.phase == "predict" for e in plan]


def test_other_slices_learn_in_between_where_that_is_wanted():
    plan = make_plan(TEACH.but(uncorrected_learn=True), list(range(7)), lambda index: 0, (2,))
    visits = [e.slice_index for e in plan if e.phase == "adapt"]
    assert visits.count(2) == 3
    assert sorted(set(visits)) == list(range(7))
    assert visits == [2, 0, 1, 2, 3, 4, 2, 5, 6]


def test_without_corrections_the_plan_is_that_of_the_base_settings():
    wanted = make_plan(TEACH.but(scribble="none"), [0, 1], lambda index: 0)
    assert make_plan(TEACH, [0, 1], lambda index: 0, ()) == wanted


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_on_corrections_starts_where_the_old_one_stood_and_leaves_it_alone(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    before = {index: mask.copy() for index, mask in old.adapted_masks.items()}
    steps = old.last_step
    new = finished(correct_run(old, strokes(1), TEACH))
    assert np.array_equal(new.past.theta(0), old.theta_of(1))
    assert old.last_step == steps
    for index, mask in before.items():
        assert np.array_equal(old.adapted_masks[index], mask)
    old.close(), new.close()


def test_the_model_learns_what_was_painted_and_other_slices_follow(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    teach = TEACH.but(correction_steps=40, learning_rate=0.02)
    for value, rises in ((1, True), (0, False)):
        new = finished(correct_run(old, strokes(1, value=value), teach))
        for index in (1, 3):
            change = probability(new, index) - probability(old, index)
            assert change > 0.02 if rises else change < -0.02
        new.close()
    old.close()


def test_painted_pixels_stay_as_they_were_painted_in_every_mask(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    drawn = strokes(1, 4, value=2)
    new = correct_run(old, drawn, TEACH)
    for record in new.records():
        if record.slice_index in (1, 4):
            assert (record.adapted_mask[20:30, 10:50] == 2).all()
    assert (new.predict(4).label_map[20:30, 10:50] == 2).all()
    assert (new.predict(4, step=0).label_map[20:30, 10:50] == 2).all()
    new.rollback(2)
    assert all((new.adapted_masks[i][20:30, 10:50] == 2).all() for i in new.adapted_masks)
    old.close(), new.close()


def test_a_second_round_keeps_the_corrections_of_the_first(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    first = finished(correct_run(old, strokes(1), TEACH))
    labels = np.full((72, 66), -1)
    labels[25:40, 10:20] = 0
    second = finished(correct_run(first, Corrections({1: labels}), TEACH))
    mask = second.adapted_masks[1]
    assert (mask[25:40, 10:20] == 0).all()
    assert (mask[20:25, 10:50] == 1).all()
    assert second.corrections.slices == (1,)


def test_what_is_drawn_outside_the_region_teaches_nothing(segmenter, scan):
    region = (40, 0, 72, 66)
    outside = finished(AdaptationRun(segmenter, scan, TEACH, region=region, corrections=strokes(1)))
    assert np.array_equal(outside.past.theta(3), outside.past.theta(0))
    assert all(record.learning_rate is None for record in outside.past)
    # It stays as it was drawn all the same.
    assert (outside.adapted_masks[1][20:30, 10:50] == 1).all()
    half = finished(
        AdaptationRun(segmenter, scan, TEACH, region=(25, 0, 72, 66), corrections=strokes(1))
    )
    assert not np.array_equal(half.past.theta(3), half.past.theta(0))


@pytest.mark.parametrize("name", ["centre-statistics", "vptta"])
def test_after_statistics_or_a_prompt_corrections_teach_the_source_model(segmenter, scan, name):
    base = finished(AdaptationRun(segmenter, scan, Settings(method=name)))
    taught = correct_run(base, strokes(1))
    source = make_method(Settings(method="source"), segmenter.network).theta()
    np.testing.assert_array_equal(taught.past.theta(0), source)
    assert taught.settings.blend == 0.0


def test_after_a_method_that_notes_more_scales_and_shifts_go_on(segmenter, scan):
    base = finished(AdaptationRun(segmenter, scan, Settings(method="osuda", learning_rate=1e-2)))
    taught = correct_run(base, strokes(1))
    np.testing.assert_array_equal(taught.past.theta(0), base.theta_of(1)[:-1])


def test_low_rank_updates_are_taught_on(segmenter, scan):
    settings = Settings(method="consistency", parameters="low-rank", learning_rate=1e-2)
    base = finished(AdaptationRun(segmenter, scan, settings))
    taught = correct_run(base, strokes(1))
    assert taught.settings.parameters == "low-rank"
    np.testing.assert_array_equal(taught.past.theta(0), base.theta_of(1))


def test_without_a_corrected_slice_nothing_is_started(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE, slices=[0, 1]))
    for corrections in (Corrections.none(), strokes(4)):
        with pytest.raises(CorrectionsError, match="Nothing was corrected"):
            correct_run(old, corrections, TEACH)
    with pytest.raises(CorrectionsError, match="has 5 slices"):
        AdaptationRun(segmenter, scan, TEACH, corrections=strokes(9))


def test_the_same_corrections_give_the_same_numbers_whatever_was_rolled_back(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    teach = TEACH.but(hold=0.3, soft_labels=2.0)
    first = finished(correct_run(old, strokes(0, 2), teach))
    again = correct_run(old, strokes(0, 2), teach)
    stream = again.records()
    for _ in range(4):
        next(stream)
    stream.close()
    again.rollback(2)
    finished(again)
    assert np.array_equal(first.past.theta(6), again.past.theta(6))
    for index, mask in first.adapted_masks.items():
        assert np.array_equal(mask, again.adapted_masks[index])


def test_a_case_can_begin_with_what_another_was_taught(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, BASE))
    new = finished(correct_run(old, strokes(1), TEACH))
    state = taught_state(new)
    assert state.steps == 0
    assert not state.first_moment.any()
    assert not state.second_moment.any()
    other = AdaptationRun(segmenter, scan, BASE, start=state)
    assert np.array_equal(other.past.theta(0), new.theta_of(0))


def test_corrections_teach_a_run_that_learned_nothing_itself(segmenter, scan):
    old = finished(AdaptationRun(segmenter, scan, Settings(method="source")))
    new = finished(correct_run(old, strokes(1), None))
    assert new.settings.blend == 0.0
    assert new.last_step == new.settings.correction_steps
    assert not np.array_equal(new.past.theta(0), new.theta_of(1))


# --- the run folder ------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    return write_tiny(tmp_path / "tiny", normalisation={"kind": "unit"})


def test_a_reopened_run_on_corrections_goes_on_with_the_same_numbers(model, tmp_path, damage):
    import nibabel as nib

    data = np.moveaxis(volume(3), 0, -1)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "scan.nii.gz")
    segmenter, scan = load_segmenter(model, "cpu"), open_scan(tmp_path / "scan.nii.gz")
    shape = scan.slice_shape(1)
    labels = np.full(shape, -1)
    labels[20:30, 20:30] = 1
    old = finished(AdaptationRun(segmenter, scan, BASE, folder=tmp_path / "old"))
    whole = finished(correct_run(old, Corrections({1: labels}), TEACH, tmp_path / "whole"))

    broken = correct_run(old, Corrections({1: labels}), TEACH, tmp_path / "broken")
    stream = broken.records()
    next(stream), next(stream)
    stream.close()
    broken.close()

    told = json.loads((tmp_path / "broken" / "run.json").read_text())
    assert told["corrections"] == {
        "slices": [1],
        "pixels": 100,
        "sha256": Corrections({1: labels}).sha256,
    }
    found = reopen(tmp_path / "broken")
    assert found.corrections == Corrections({1: labels})
    again = finished(found.run(segmenter))
    assert np.array_equal(again.past.theta(3), whole.past.theta(3))
    for index, mask in whole.adapted_masks.items():
        assert np.array_equal(again.adapted_masks[index], mask)
    again.close()

    once_more = finished(correct_run(reopen(tmp_path / "whole"), Corrections({0: labels}), TEACH))
    assert once_more.corrections.slices == (0, 1)
    damage(tmp_path / "broken", "masks", "mask", "kind = 'correction'")
    damaged = reopen(tmp_path / "broken")
    assert damaged.corrections is None
    assert any("corrections" in word for word in damaged.missing)
    assert (damaged.adapted_masks[1][20:30, 20:30] == 1).all()
    with pytest.raises(ValueError, match="cannot be read"):
        damaged.run(segmenter)
