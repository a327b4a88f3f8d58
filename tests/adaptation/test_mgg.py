"""MGG against the same arithmetic in NumPy; its training; the file it is kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import MGG
from napari_grata.adaptation.methods.mgg import FILE, GradientMemory, optimiser_file
from napari_grata.adaptation.source_centre import train_optimiser
from napari_grata.cli import main
from napari_grata.segmenters import Segmenter
from tools.generators.models import Small, small_card, write_tiny

RATE = 1e-2


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def drawn(seed: int) -> GradientMemory:
    torch.manual_seed(seed)
    found = GradientMemory().double()
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=0.5)
    return found


class Reference:
    """θ and memory step by step; the memory's slope and the loss's by differences."""

    def __init__(self, network: nn.Sequential, optimiser: GradientMemory, softmax: bool) -> None:
        self.phi = {name: one.detach().numpy() for name, one in optimiser.named_parameters()}
        self.memory, self.network, self.softmax = self.phi["start"].copy(), network, softmax
        self.theta = np.concatenate([np.full(3, 2.0), np.zeros(3)])
        self.first, self.second, self.count = np.zeros(6), np.zeros(6), 0

    def entropy(self, x: np.ndarray, theta: np.ndarray) -> float:
        weight, bias = (one.detach().numpy() for one in self.network[0].parameters())
        y = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
        y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
        scale, shift = theta.reshape(2, 3, 1, 1)
        z = scale * y + shift
        if self.softmax:
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            return float(-(p * np.log(p + 1e-6)).sum(1).mean())
        p = 1 / (1 + np.exp(-z))
        return float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(1).mean())

    def step(self, x: np.ndarray) -> None:
        gradient = slope_of(lambda theta: self.entropy(x, theta), self.theta)
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        size = np.sqrt(self.second / (1 - 0.999**self.count)) + 1e-8
        mean = self.first / (1 - 0.9**self.count) / size
        phi = self.phi
        known = np.tanh(
            np.stack([gradient / size, mean], 1) @ phi["read.weight"].T + phi["read.bias"]
        )
        keys, values, queries = (known @ phi[f"{n}.weight"].T for n in ("key", "value", "query"))

        def missed(memory: np.ndarray) -> float:
            return float(0.5 * ((keys @ memory.reshape(8, 8).T - values) ** 2).sum(1).mean())

        slope = slope_of(missed, self.memory.ravel()).reshape(8, 8)
        self.memory = self.memory - phi["rate"] * slope
        found = known + queries @ self.memory.T
        written = (found @ phi["write.weight"].T + phi["write.bias"])[:, 0]
        self.theta = self.theta - RATE * np.tanh(mean + written)


def slope_of(function, at: np.ndarray) -> np.ndarray:
    moves = np.eye(len(at)) * 1e-5
    return np.array([(function(at + m) - function(at - m)) / 2e-5 for m in moves])


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_steps_are_those_of_the_memory_and_the_state_holds_its_weights(activation: str) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    nn.init.constant_(network[1].weight, 2.0)
    generator = torch.Generator().manual_seed(2)
    stream = torch.rand(4, 2, 2, 9, 7, generator=generator, dtype=torch.float64)
    method = MGG(network, RATE, activation=activation, symmetric_entropy=True)
    method.optimiser = drawn(7)
    method.reset()
    reference = Reference(network, method.optimiser, activation == "softmax")
    for x in stream[:3]:
        reference.step(x.numpy())
        method.step(x)
        np.testing.assert_allclose(method.snapshot().theta, reference.theta, atol=1e-5)
    # Whoever goes on from the state has the weights that it began with, not those of the file.
    other = MGG(network, RATE, activation=activation, symmetric_entropy=True)
    other.restore(method.snapshot())
    assert torch.equal(other.step(stream[3]).logits, method.step(stream[3]).logits)


def test_training_finds_steps_that_gain_and_leaves_the_model_alone() -> None:
    network = Small()
    segmenter = Segmenter(small_card(), network, "cpu")
    before = [one.clone() for one in network.parameters()]
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, 64, 64, generator=generator) for _ in range(4)]
    found = list(train_optimiser(segmenter, images, episodes=20))
    gains = [gain for _, gain in found]
    assert np.mean(gains[-5:]) > np.mean(gains[:5]) + 0.02
    assert all(torch.equal(*both) for both in zip(before, network.parameters(), strict=True))
    again = [gain for _, gain in train_optimiser(segmenter, images, episodes=3)]
    assert again == gains[:3]


def test_the_command_writes_the_users_own_optimiser_and_a_broken_one_is_named(
    tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    model = write_tiny(tmp_path / "model", dimensions=2, channels=3, modality="fundus")
    (tmp_path / "scans").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{number}.png")
    options = ["--model", str(model), "--device", "cpu", "--episodes", "1", "--quiet"]
    command = ["train-optimiser", str(tmp_path / "scans"), *options]
    assert optimiser_file() != own_home / FILE
    assert main(command) == 0
    assert optimiser_file() == own_home / FILE
    assert main(command) == 2
    assert "exists already; nothing is overwritten" in capsys.readouterr().err
    optimiser_file().write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"holds no optimiser .*train-optimiser"):
        MGG(Small())
