"""The whole-stack teacher: its step against a derivation by hand, and its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import AdaptationRun, MeanTeacher, Settings, reopen
from napari_grata.adaptation.corrections import Corrections
from napari_grata.adaptation.objectives import Supervision
from napari_grata.adaptation.plan import make_plan
from napari_grata.adaptation.run_store import LARGE_STATE
from napari_grata.adaptation.settings import preset
from napari_grata.adaptation.teaching import correct_run
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter
from tools.generators.models import Small, small_card

TEACH = preset("learn-from-stack").settings.but(
    learning_rate=0.01, decay=0.5, passes=2, batch=2, six_views=False
)


def toy() -> nn.Sequential:
    """One structure is scale·(w·x) + shift with w of two channels and no spatial extent."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.BatchNorm2d(1)).double().eval()
    network[1].running_mean.fill_(0.1)
    network[1].running_var.fill_(0.7)
    return network


@pytest.mark.parametrize("certain", [False, True])
def test_a_step_is_that_of_adam_on_the_student_and_a_running_mean_for_the_teacher(
    certain: bool,
) -> None:
    """Views and the strong view change nothing here, so that the target is the teacher's answer."""
    x = torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    method = MeanTeacher(
        toy(),
        0.05,
        decay=0.6,
        certain=certain,
        blend=0.0,
        views=["identity"],
        strong_view=lambda x: 1 - x,
    )
    theta = method.snapshot().theta.numpy()  # two weights, scale, shift
    teacher, student = theta.copy(), theta.copy()
    first, second = np.zeros(4), np.zeros(4)
    data = x.numpy()

    def answer(values: np.ndarray, images: np.ndarray) -> np.ndarray:
        y = np.einsum("c,bchw->bhw", values[:2], images)
        z = values[2] * (y - 0.1) / np.sqrt(0.7 + 1e-5) + values[3]
        return 1 / (1 + np.exp(-z))

    def loss(values: np.ndarray, half: slice, target: np.ndarray) -> float:
        p = answer(values, 1 - data[half])
        return float(-(target[half] * np.log(p) + (1 - target[half]) * np.log(1 - p)).mean())

    for step in (1, 2, 3):
        target = answer(teacher, data)
        if certain:
            target = (target >= 0.5).astype(float)
        gradients = []
        for half in (slice(0, 2), slice(2, 4)):
            moves = np.eye(4) * 1e-6
            gradients.append(
                np.array(
                    [
                        (loss(student + m, half, target) - loss(student - m, half, target)) / 2e-6
                        for m in moves
                    ]
                )
            )
        one, other = gradients
        cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
        gradient = (one + other) / 2
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moments = first / (1 - 0.9**step), second / (1 - 0.999**step)
        losses = [loss(student, half, target) for half in (slice(0, 2), slice(2, 4))]
        student = student - 0.05 * moments[0] / (np.sqrt(moments[1]) + 1e-8)
        teacher = 0.6 * teacher + 0.4 * student

        record = method.step(x)
        assert record.cosine == pytest.approx(cosine, abs=1e-6)
        assert record.learning_rate == pytest.approx(0.05)
        assert [record.auxiliary_loss, record.pseudo_loss] == pytest.approx(losses, rel=1e-6)
        norms = [np.linalg.norm(one), np.linalg.norm(other)]
        assert [record.auxiliary_norm, record.pseudo_norm] == pytest.approx(norms, rel=1e-4)
        np.testing.assert_allclose(method.snapshot().theta.numpy(), teacher, atol=1e-5)
        np.testing.assert_allclose(method.snapshot().student.numpy(), student, atol=1e-5)
        np.testing.assert_allclose(record.probabilities[:, 0].numpy(), answer(teacher, data), 1e-4)


def test_a_corrected_slice_teaches_beside_one_that_is_held_to_what_was_said() -> None:
    x = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    wanted = (torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(4)) > 0.5).double()
    drawn = torch.zeros(1, 5, 5, dtype=torch.float64)
    drawn[:, 1:3] = 1
    said = torch.full((1, 1, 5, 5), 0.3, dtype=torch.float64)
    network = toy()
    taught = Supervision(wanted, drawn).beside(said)
    views = ["identity", "left-right", "rotation-90"]
    method = MeanTeacher(
        network, 0.05, decay=0.0, scribble="both", blend=0.0, views=views, strong_view=lambda x: x
    )
    before = method.theta().double().requires_grad_()

    def answer(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        y = (values[:2, None, None] * image).sum(0)
        z = values[2] * (y - 0.1) / (0.7 + 1e-5) ** 0.5 + values[3]
        return torch.sigmoid(z)

    # No pixel of this network sees another one: a view changes nothing, whichever is drawn.
    p, q = answer(before, x[0]), answer(before, x[1])
    entropy = torch.nn.functional.binary_cross_entropy
    losses = [
        entropy(p[1:3], wanted[0, 0, 1:3]),
        entropy(q, said[0, 0]),
    ]
    one, other = (torch.autograd.grad(loss, before)[0] for loss in losses)
    record = method.step_on_batch(x, taught)
    assert [record.auxiliary_loss, record.pseudo_loss] == pytest.approx(
        [loss.item() for loss in losses], rel=1e-6
    )
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0)
    assert record.cosine == pytest.approx(cosine.item(), abs=1e-6)
    # The first step of Adam goes its whole rate along the sign of the mean gradient.
    step = before.detach() - 0.05 * torch.sign(one + other)
    np.testing.assert_allclose(method.theta().numpy(), step.numpy(), atol=1e-5)


def test_all_weights_learn_and_the_source_keeps_its_own() -> None:
    network = toy()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    method = MeanTeacher(network, 0.05, decay=0.0, blend=0.0)
    method.step(torch.rand(3, 2, 8, 8, dtype=torch.float64))
    assert method.theta_names == ("0.weight", "1.weight", "1.bias")
    assert not torch.equal(method.network[0].weight, network[0].weight)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_gradients_that_disagree_slow_a_step_down_where_the_rule_says_so() -> None:
    x = torch.rand(2, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    record = MeanTeacher(toy(), 0.05, "quadratic", blend=0.0).step(x)
    assert record.learning_rate == pytest.approx(0.05 * (record.cosine + 1) ** 2 / 4)


def test_every_pass_deals_all_slices_or_as_many_as_it_takes_into_batches() -> None:
    settings = TEACH.but(passes=3, batch=4)
    plan = make_plan(settings, range(10), lambda _: 0)
    passes = [[e for e in plan if e.phase == "adapt" and e.pass_index == n] for n in range(3)]
    for events in passes:
        assert sorted(index for event in events for index in event.batch) == list(range(10))
        assert sorted(len(event.batch) for event in events) == [3, 3, 4]
        assert all(event.slice_index == event.batch[0] and not event.final for event in events)
    assert [event.batch for event in passes[0]] != [event.batch for event in passes[1]]
    predicted = [event.slice_index for event in plan if event.phase == "predict"]
    assert predicted == list(range(10))
    assert plan == make_plan(settings, range(10), lambda _: 0)
    few = make_plan(settings.but(pass_slices=5), range(10), lambda _: 0)
    assert sum(len(event.batch) for event in few) == 15


@pytest.fixture
def scan() -> Scan:
    rows, columns = np.mgrid[:64, :64]
    rng = np.random.default_rng(0)
    blob = np.exp(-((rows - 32) ** 2 + (columns - 30) ** 2) / 100)
    stack = np.stack([0.5 * blob + 0.3 * rng.random((64, 64)) for _ in range(5)])
    stack[3] = 0  # nothing on it
    return scan_from_array(stack.astype(np.float32), name="volume", spacing=(2.0, 1.0, 1.0))


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(small_card(), Small(), "cpu")


def test_a_run_teaches_first_and_predicts_every_slice_afterwards(
    segmenter: Segmenter, scan: Scan, tmp_path: Path
) -> None:
    whole = AdaptationRun(segmenter, scan, TEACH, folder=tmp_path / "whole")
    records = list(whole.records())
    taught = [record for record in records if record.phase == "adapt"]
    assert [record.step for record in taught] == list(range(1, 7))
    assert all(record.cosine is None or -1 <= record.cosine <= 1 for record in taught)
    assert sum(record.cosine is not None for record in taught) >= 4, "a blank batch has none"
    assert [record.slice_index for record in records if record.final] == list(range(5))
    assert not np.array_equal(whole.past.theta(6), whole.past.theta(0))

    # Cancelled in the middle and resumed from the folder, it comes to the same.
    half = AdaptationRun(segmenter, scan, TEACH, folder=tmp_path / "half")
    stream = half.records()
    for _ in range(4):
        next(stream)
    stream.close()
    half.close()
    resumed = reopen(tmp_path / "half", scan).run(segmenter)
    list(resumed.resume())
    np.testing.assert_allclose(resumed.past.theta(6), whole.past.theta(6), atol=1e-5)
    assert all(
        np.array_equal(resumed.adapted_masks[index], mask)
        for index, mask in whole.adapted_masks.items()
    )


def test_large_states_are_kept_for_the_end_of_each_pass_and_the_latest(
    segmenter: Segmenter, scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LARGE_STATE < 4 * 4 * 1_300_000, "the compact network with its student and moments"
    monkeypatch.setattr("napari_grata.adaptation.run_store.LARGE_STATE", 0)
    run = AdaptationRun(segmenter, scan, TEACH)
    stream = run.records()
    for _ in range(5):
        next(stream)
    stream.close()
    assert run.past.steps == [0, 3, 5]
    list(run.resume())
    assert run.past.steps == [0, 3, 6]
    run.rollback(3)
    list(run.resume())
    assert run.past.steps == [0, 3, 6]


def test_corrections_teach_all_weights_after_a_stack_was_learnt(
    segmenter: Segmenter, scan: Scan
) -> None:
    run = AdaptationRun(segmenter, scan, TEACH)
    list(run.records())
    drawn = np.full((64, 64), -1, np.int16)
    drawn[10:30, 10:30] = 1
    corrections = Corrections({1: drawn})
    taught = correct_run(run, corrections)
    assert taught.settings.method == "mean-teacher"
    before = run.predict(1).probabilities[..., 10:30, 10:30].mean((1, 2))
    records = list(taught.records())
    assert {r.slice_index for r in records if r.phase == "adapt"} == {1}
    after = taught.predict(1).probabilities[..., 10:30, 10:30].mean((1, 2))
    assert not np.allclose(before, after)
    assert np.array_equal(taught.past.theta(0), run.past.theta(run.last_step))


def test_settings_say_what_a_whole_stack_uses() -> None:
    for name in ("batch", "pass_slices", "decay", "passes"):
        assert TEACH.uses(name), name
        assert Settings(method="grata").uses(name) is (name == "passes")
    assert not TEACH.uses("steps_per_slice")
    assert not TEACH.uses("predict")
