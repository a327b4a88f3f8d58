"""Tent against a derivation of its own: differences of a loss written in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import Tent

RATE = 1e-2


def toy(outputs: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, outputs, 1), nn.BatchNorm2d(outputs)).double().eval()


def entropy(network: nn.Sequential, x: np.ndarray, theta: np.ndarray, activation: str) -> float:
    """Mean entropy with θ = (scale, shift) and the statistics of the batch."""
    weight, bias = (one.detach().numpy() for one in (network[0].weight, network[0].bias))
    y = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    mean, var = y.mean((0, 2, 3), keepdims=True), y.var((0, 2, 3), keepdims=True)
    scale, shift = theta.reshape(2, 1, -1, 1, 1)
    z = scale * (y - mean) / np.sqrt(var + network[1].eps) + shift
    if activation == "softmax":
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        return float(-(p * np.log(p)).sum(1).mean())
    p = 1 / (1 + np.exp(-z))
    return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(1).mean())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_steps_follow_the_entropy_down_as_adam_does(activation: str) -> None:
    network = toy(3)
    x = torch.rand(2, 2, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    method = Tent(network, RATE, activation=activation)
    theta = np.concatenate([np.ones(3), np.zeros(3)])
    first, second = np.zeros(6), np.zeros(6)
    for step in (1, 2, 3):
        before = entropy(network, x.numpy(), theta, activation)
        gradient = np.empty(6)
        for i in range(6):
            move = np.eye(6)[i] * 1e-5
            up, down = (entropy(network, x.numpy(), theta + s * move, activation) for s in (1, -1))
            gradient[i] = (up - down) / 2e-5
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        moments = first / (1 - 0.9**step), second / (1 - 0.999**step)
        theta = theta - RATE * moments[0] / (np.sqrt(moments[1]) + 1e-8)
        record = method.step(x)
        assert record.pseudo_loss == pytest.approx(before, rel=1e-5)
        assert record.pseudo_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        assert record.cosine is None
        assert record.learning_rate == RATE
        np.testing.assert_allclose(method.snapshot().theta.numpy(), theta, atol=1e-5)
    assert entropy(network, x.numpy(), theta, activation) < before
