"""VPTTA and DyNA against the same arithmetic written anew, in NumPy and by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import VPTTA, DyNA, Settings, preset
from napari_grata.adaptation.methods import vptta
from napari_grata.adaptation.plan import cut_short, make_plan

RATE = 0.05


def toy(dimensions: int = 2, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
    network = nn.Sequential(conv(2, 4, 1), norm(4), nn.ReLU(), conv(4, outputs, 1), norm(outputs))
    for layer in (network[1], network[4]):
        layer.running_mean.normal_(std=0.3)
        layer.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(layer.weight, 1.0, 0.2)
    return network.double().eval()


class Reference:
    """What the step computes, written down anew: one image, sides of 200 and of 100 pixels."""

    def __init__(self, network: nn.Sequential) -> None:
        def numbers(*of: torch.Tensor) -> list[np.ndarray]:
            return [one.detach().numpy().copy() for one in of]

        self.convs = [numbers(network[i].weight[:, :, 0, 0], network[i].bias) for i in (0, 3)]
        self.norms = [
            numbers(one.running_mean, one.running_var, one.weight, one.bias)
            for one in (network[1], network[4])
        ]
        self.prompt = np.ones((2, 2))  # channel, vertical frequency −1 or 0
        self.first, self.second, self.images = np.zeros((2, 2)), np.zeros((2, 2)), 0
        self.memory: list[tuple[np.ndarray, np.ndarray]] = []

    def shown(self, x: np.ndarray, prompt: np.ndarray) -> np.ndarray:
        spectrum = np.fft.fft2(x)
        spectrum[0, :, [-1, 0], 0] *= prompt.T
        return np.fft.ifft2(spectrum).real

    def passed(self, x: np.ndarray, goals: list[Any] | None, mix: float) -> tuple[Any, list, float]:
        """Logits, statistics that layers worked with, and the distance to them."""
        used, distance, y = [], 0.0, x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = np.tensordot(conv[0], y[0], 1)[None] + conv[1][:, None, None]
            now = y.mean((0, 2, 3)), y.var((0, 2, 3))
            goal = [mix * n + (1 - mix) * s for n, s in zip(now, norm[:2], strict=True)]
            goal = goal if goals is None else goals[i]
            used.append(goal)
            spread = np.sqrt(goal[1] + 1e-5) - np.sqrt(now[1] + 1e-5)
            distance += (np.abs(goal[0] - now[0]).mean() + np.abs(spread).mean()) / 2
            y = (y - goal[0][:, None, None]) / np.sqrt(goal[1] + 1e-5)[:, None, None]
            y = y * norm[2][:, None, None] + norm[3][:, None, None]
            y = np.maximum(y, 0) if i == 0 else y
        return y, used, distance

    def step(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        self.images += 1
        key = np.abs(np.fft.fft2(x))[0, :, [-1, 0], 0].T.ravel()
        self.prompt = np.ones((2, 2))
        if len(self.memory) >= 16:
            likeness = [
                key @ one / np.linalg.norm(key) / np.linalg.norm(one) for one, _ in self.memory
            ]
            nearest = np.argsort(likeness)[::-1][:16]
            weights = np.exp([likeness[i] / 0.2 for i in nearest])
            weights /= weights.sum()
            self.prompt = sum(w * self.memory[i][1] for w, i in zip(weights, nearest, strict=True))
        mix = 1 / (np.sqrt(self.images) / 5 + 1)
        _, goals, before = self.passed(self.shown(x, self.prompt), None, mix)
        gradient = np.empty((2, 2))
        for place in np.ndindex(2, 2):
            move = np.zeros((2, 2))
            move[place] = 1e-6
            up, down = (
                self.passed(self.shown(x, self.prompt + sign * move), goals, mix)[2]
                for sign in (1, -1)
            )
            gradient[place] = (up - down) / 2e-6
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.99 * self.second + 0.01 * gradient**2
        mean, square = self.first / (1 - 0.9**self.images), self.second / (1 - 0.99**self.images)
        self.prompt = self.prompt - RATE * mean / (np.sqrt(square) + 1e-8)
        self.memory = [*self.memory, (key, self.prompt)][-18:]
        return self.passed(self.shown(x, self.prompt), None, mix)[0], before


def slices(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        0.2 + (0.3 + 0.01 * i) * torch.rand(1, 2, 200, 100, generator=generator).double()
        for i in range(count)
    ]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_prompts_follow_the_statistics_and_are_remembered(
    activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vptta, "KEPT", 18)
    network = toy()
    method, reference = VPTTA(network, RATE, activation=activation), Reference(network)
    for number, x in enumerate(slices(21), 1):
        logits, distance = reference.step(x.numpy())
        record = method.step(x)
        assert record.pseudo_loss == pytest.approx(distance, rel=1e-6), number
        np.testing.assert_allclose(record.logits, logits, atol=1e-6)
        prompt = method.snapshot().theta[:-1].reshape(2, 8, 8).numpy()
        np.testing.assert_allclose(prompt[:, 3:5, 4], reference.prompt, atol=1e-6)
    assert np.abs(reference.prompt - 1).max() > 0.02
    p = 1 / (1 + np.exp(-logits))
    if activation == "softmax":
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(record.probabilities, p, atol=1e-6)


def test_what_is_remembered_is_part_of_the_state_and_theta_shows_the_same_again() -> None:
    method, viewer = VPTTA(toy(), RATE), VPTTA(toy(), RATE)
    stream = slices(20)
    for x in stream[:17]:
        record = method.step(x)
    viewer.load_theta(method.snapshot().theta)
    assert torch.equal(viewer.predict(stream[16]).logits, record.logits)
    kept = method.snapshot()
    expected = [method.step(x).logits for x in stream[17:]]
    other = VPTTA(toy(), RATE)
    other.restore(kept)
    assert all(
        torch.equal(other.step(x).logits, y) for x, y in zip(stream[17:], expected, strict=True)
    )
    forgetful = VPTTA(toy(), RATE)
    forgetful.restore(replace(kept, student=torch.zeros(0)))
    assert not torch.equal(forgetful.step(stream[17]).logits, expected[0])


def test_volumes_are_prompted_along_three_axes_and_other_norms_are_refused() -> None:
    network = toy(3)
    network[1].running_mean.fill_(5.0)
    volume = torch.rand(1, 2, 8, 16, 12, generator=torch.Generator().manual_seed(0)).double()
    method = VPTTA(network, RATE)
    before = method._learn(volume)["pseudo_loss"]
    assert method.theta_shapes[0] == (2, 8, 8, 8)
    assert method._distance(method._shown(volume)) < before
    plain = nn.Sequential(nn.Conv2d(2, 3, 1), nn.InstanceNorm2d(3, affine=True))
    with pytest.raises(ValueError, match="vptta needs the statistics of batch normalisation"):
        VPTTA(plain)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_night_moves_three_models_and_the_next_day_has_the_teachers(activation: str) -> None:
    network, stream = toy(), slices(4)

    def same(x: torch.Tensor) -> torch.Tensor:
        return x

    method = DyNA(network, RATE, activation=activation, strong_view=same, views=("identity",))
    day = VPTTA(network, RATE, activation=activation)
    for x in stream[:2]:
        assert torch.equal(method.step(x).logits, day.step(x).logits)
    # By hand: the slope of the loss, Adam's first step (the rate, whatever the slope), two means.
    logits = network(stream[2])
    if activation == "softmax":
        target = torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1).double()
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
    else:
        loss = (torch.nn.functional.softplus(logits) - logits * (logits >= 0)).mean()
    slopes = torch.autograd.grad(loss, list(network.parameters()))
    taught = copy.deepcopy(network)
    for one, slope in zip(taught.parameters(), slopes, strict=True):
        student = one - 1e-4 * slope / (slope.abs() + 1e-8)
        shared = 0.9 * one + 0.1 * student
        one.data = 0.98 * one.data + 0.02 * shared.data
    record = method.step_on_batch(stream[2])
    assert record.pseudo_loss == pytest.approx(loss.item(), rel=1e-9)
    assert method.steps == 3
    weights = torch.cat([one.detach().flatten() for one in taught.parameters()])
    np.testing.assert_allclose(method.snapshot().theta[129:], weights, atol=1e-11)
    morning = VPTTA(taught, RATE, activation=activation)
    morning.restore(day.snapshot())
    np.testing.assert_allclose(method.step(stream[3]).logits, morning.step(stream[3]).logits)


def test_days_and_nights_are_part_of_the_state() -> None:
    stream = slices(4)
    method, other = DyNA(toy(), RATE, seed=3), DyNA(toy(), RATE)
    for step in (method.step, method.step_on_batch):
        step(stream[0])
    kept = method.snapshot()

    def on(one: DyNA) -> list[torch.Tensor]:
        steps = (one.step_on_batch, one.step, one.step_on_batch, one.step)
        return [step(x).logits for step, x in zip(steps, stream, strict=True)]

    expected = on(method)
    other.restore(kept)
    assert all(torch.equal(*both) for both in zip(on(other), expected, strict=True))
    broken = stream[0].clone()
    broken[0, 0, 5, 5] = torch.nan
    before = method.snapshot()
    assert method.step_on_batch(broken).undone
    after = method.snapshot()
    assert all(torch.equal(getattr(before, n), getattr(after, n)) for n in ("theta", "student"))


def test_the_last_day_makes_the_masks() -> None:
    settings = preset("dyna").settings.but(batch=2, pass_slices=4)
    plan = make_plan(settings, range(5), lambda index: index)
    assert [event.slice_index for event in plan if event.final] == [0, 1, 2, 3, 4]
    assert [bool(event.batch) for event in plan] == [False] * 5 + [True] * 20 + [False] * 5
    assert all(event.phase == "adapt" for event in plan)
    assert cut_short(plan, 12, settings) == plan


def test_its_preset_has_the_published_rate_and_masks_as_the_slices_go_by() -> None:
    settings = preset("vptta").settings
    assert settings.learning_rate == 0.05
    afterwards = Settings(method="vptta", predict="final")
    assert not afterwards.predicts_afterwards
    assert not afterwards.uses("predict")
    # A second step on a slice would begin with a prompt of its own again.
    twice = Settings(method="vptta", steps_per_slice=2)
    assert len(make_plan(twice, range(3), lambda index: index)) == 3
