"""SAR, CoTTA and InTEnt against derivations of their own, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import SAR, BatchNorm, CoTTA, InTEnt
from napari_grata.adaptation.methods import sar

RATE = 1e-2


def toy(outputs: int, *, sure: float = 1.0) -> nn.Sequential:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, outputs, 1), nn.BatchNorm2d(outputs)).double().eval()
    with torch.no_grad():
        network[1].weight.fill_(sure)
    return network


def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 2, 9, 7, generator=generator, dtype=torch.float64)


def chances(z: np.ndarray, activation: str) -> np.ndarray:
    if activation == "softmax":
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return 1 / (1 + np.exp(-z))


def share(p: np.ndarray, activation: str) -> np.ndarray:
    """Entropy of each pixel, 1 being the largest there can be."""
    if activation == "softmax":
        return -(p * np.log(p)).sum(1) / np.log(p.shape[1])
    both = p * np.log(p) + (1 - p) * np.log(1 - p)
    return -both.sum(1) / (p.shape[1] * np.log(2))


def output(network: nn.Sequential, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Logits with θ = (scale, shift) and the statistics of the batch."""
    weight, bias = (one.detach().numpy() for one in (network[0].weight, network[0].bias))
    y = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    mean, var = y.mean((0, 2, 3), keepdims=True), y.var((0, 2, 3), keepdims=True)
    scale, shift = theta.reshape(2, 1, -1, 1, 1)
    return np.asarray(scale * (y - mean) / np.sqrt(var + network[1].eps) + shift)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_sar_steps_from_a_place_uphill_over_reliable_pixels(activation: str) -> None:
    network, x = toy(3, sure=3.0), pictures()
    theta = np.concatenate([np.full(3, 3.0), np.zeros(3)])

    def loss(at: np.ndarray, among: np.ndarray) -> float:
        return float(
            share(chances(output(network, x.numpy(), at), activation), activation)[among].mean()
        )

    def reliable(at: np.ndarray) -> np.ndarray:
        return share(chances(output(network, x.numpy(), at), activation), activation) < 0.4

    def slope(at: np.ndarray, among: np.ndarray) -> np.ndarray:
        moves = np.eye(6) * 1e-5
        return np.array([(loss(at + m, among) - loss(at - m, among)) / 2e-5 for m in moves])

    here = reliable(theta)
    assert 0.1 < here.mean() < 0.9
    first = slope(theta, here)
    uphill = theta + 0.05 * first / np.linalg.norm(first)
    gradient = slope(uphill, here & reliable(uphill))
    method = SAR(network, RATE, activation=activation)
    record = method.step(x)
    assert record.pseudo_loss == pytest.approx(loss(theta, here), rel=1e-5)
    assert record.pseudo_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
    # Adam's first step is the rate, whatever the slope.
    expected = theta - RATE * gradient / (np.abs(gradient) + 1e-8)
    np.testing.assert_allclose(method.snapshot().theta.numpy(), expected, atol=1e-5)


def test_sar_starts_over_once_it_grew_too_sure_and_stays_where_nothing_is_reliable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = pictures()
    method = SAR(toy(3, sure=3.0), 0.1)
    source = method.theta()
    for _ in range(3):
        method.step(x)
    assert not torch.equal(method.theta(), source)
    kept = method.snapshot()
    monkeypatch.setattr(sar, "COLLAPSE", 10.0)
    method.step(x)
    assert torch.equal(method.theta(), source)
    monkeypatch.undo()
    method.restore(kept)
    method.step(x)
    assert not torch.equal(method.theta(), source)
    # After starting over, and after a step that was not taken, Adam begins anew.
    monkeypatch.setattr(sar, "COLLAPSE", 10.0)
    method.step(x)
    monkeypatch.undo()
    fresh = SAR(toy(3, sure=3.0), 0.1)
    for one in (method, fresh):
        one.step(x)
    np.testing.assert_allclose(method.theta(), fresh.theta(), atol=1e-6)
    assert method.steps == 6
    monkeypatch.setattr(sar, "RELIABLE", 0.0)
    late = SAR(toy(3, sure=3.0), 0.1)
    assert late.step(x).pseudo_norm == 0
    monkeypatch.undo()
    late.restore(late.snapshot())
    late.step(x)
    np.testing.assert_allclose(late.theta(), fresh.theta(), atol=1e-6)
    unsure = SAR(toy(3, sure=0.1), 0.1)
    source = unsure.theta()
    assert unsure.step(x).pseudo_norm == 0
    assert torch.equal(unsure.theta(), source)


def test_cotta_learns_the_teachers_answer_and_returns_some_weights_to_the_source() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 60, 3, padding=1), nn.BatchNorm2d(60), nn.Conv2d(60, 3, 1)
    ).double()
    x = pictures()
    method = CoTTA(network.eval(), RATE, decay=0.9, blend=0.0, activation="softmax")
    source = method.snapshot().theta
    method.step(x)
    first = method.snapshot()
    # At first teacher and student are one: the slope is that of the views, and not nothing.
    moved = source - RATE * torch.sign(first.first_moment)
    expected = torch.lerp(source, moved, 0.1)
    clear = first.first_moment.abs() > 1e-6
    np.testing.assert_allclose(first.theta[clear], expected[clear], atol=1e-5)
    assert clear.sum() > 100
    back = (first.student == source) & clear
    assert 0 < back.sum() < 0.05 * clear.sum()
    np.testing.assert_allclose(first.student[clear & ~back], moved[clear & ~back], atol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_intent_weighs_six_mixtures_by_how_sure_they_are(activation: str) -> None:
    network, x = toy(3 if activation == "softmax" else 1, sure=2.0), pictures()
    network[1].momentum = 1.0
    network.train()(0.7 * x[:1] + 0.2)  # statistics of another centre
    network.eval()
    total, weights = 0.0, 0.0
    for blend in np.linspace(0, 1, 6):
        p = BatchNorm(network, blend=float(blend), activation=activation).predict(x)
        p = p.probabilities.numpy()
        what = p.argmax(1) > 0 if activation == "softmax" else (p >= 0.5).any(1)
        entropy = share(p, activation)
        for image in range(2):
            assert 0 < what[image].sum() < what[image].size
        balanced = np.array(
            [(entropy[i][what[i]].mean() + entropy[i][~what[i]].mean()) / 2 for i in range(2)]
        )
        weight = np.exp(-balanced)[:, None, None, None]
        total, weights = total + weight * p, weights + weight
    method = InTEnt(network, activation=activation)
    found = method.step(x)
    np.testing.assert_allclose(found.probabilities, total / weights, atol=1e-9)
    again = method.objectives.probabilities(found.logits)
    np.testing.assert_allclose(again, found.probabilities, atol=1e-6)
    assert torch.equal(method.step(x).probabilities, found.probabilities)


def test_intent_says_that_it_needs_batch_normalisation() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.InstanceNorm2d(3, affine=True))
    with pytest.raises(ValueError, match="batch normalisation layers"):
        InTEnt(network)
