"""Methods of the field against derivations of their own, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import OSUDA, SAR, BatchNorm, CoTTA, GraTa, InTEnt, Tent
from napari_grata.adaptation.methods import sar
from napari_grata.adaptation.methods.base import make_method
from napari_grata.adaptation.objectives import gradient_disagreement
from napari_grata.adaptation.settings import Settings

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


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_cotta_learns_the_teachers_answer_and_returns_some_weights_to_the_source(
    activation: str,
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 40, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(40))
    network = network.append(nn.Conv2d(40, 3, 1)).double().eval()
    x = pictures()
    # The target, of another making: every view turned there and back by NumPy.
    turns = [(k, flip) for k, flip in ((0, 0), (1, 0), (2, 0), (3, 0), (0, 2), (0, 3))]

    def answer(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return chances(network(torch.from_numpy(image.copy())).numpy(), activation)

    views = []
    for k, flip in turns:
        turned = np.flip(x.numpy(), flip) if flip else np.rot90(x.numpy(), k, (2, 3))
        back = answer(turned)
        views.append(np.flip(back, flip) if flip else np.rot90(back, -k, (2, 3)))
    target = torch.from_numpy(np.mean(views, 0))
    logits = network(x)
    log_p = logits.log_softmax(1) if activation == "softmax" else torch.nn.LogSigmoid()(logits)
    loss = -(target * log_p).sum(1).mean()
    if activation == "sigmoid":
        other = -((1 - target) * torch.nn.LogSigmoid()(-logits)).sum(1).mean()
        loss = (loss + other) / 3
    loss.backward()
    slope = torch.cat([one.grad.flatten() for one in network.parameters()]).numpy()
    network.zero_grad(set_to_none=True)
    method = CoTTA(network, RATE, decay=0.9, blend=0.0, activation=activation)
    source = method.snapshot().theta.numpy()
    record = method.step(x)
    first = method.snapshot()
    assert record.pseudo_loss == pytest.approx(loss.item(), rel=1e-9)
    assert record.pseudo_norm == pytest.approx(np.linalg.norm(slope), rel=1e-6)
    # Adam's first step is the rate, whatever the slope.
    moved = source - RATE * slope / (np.abs(slope) + 1e-8)
    clear = np.abs(slope) > 1e-6
    assert clear.sum() > 100
    np.testing.assert_allclose(first.theta[clear], (0.9 * source + 0.1 * moved)[clear], atol=1e-8)
    student = first.student.numpy()
    back = (student == source) & clear
    assert 0 < back.sum() < 0.05 * clear.sum()
    np.testing.assert_allclose(student[clear & ~back], moved[clear & ~back], atol=1e-8)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("blend", [1.0, 0.02])
def test_osuda_mixes_statistics_slowly_and_holds_what_transfers(
    activation: str, blend: float
) -> None:
    network, x = toy(3, sure=2.0), pictures().numpy()
    norm = network[1]
    norm.running_mean.copy_(torch.tensor([0.1, -0.4, 0.3]))
    norm.running_var.copy_(torch.tensor([0.02, 0.3, 1.0]))
    weight, bias = (one.detach().numpy() for one in (network[0].weight, network[0].bias))
    y = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]
    now = y.mean((0, 2, 3)), y.var((0, 2, 3))
    source = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    apart = np.abs(now[0] / np.sqrt(now[1] + 1e-5) - source[0] / np.sqrt(source[1] + 1e-5))
    weights = 1 + (1 / (1 + apart)) / np.mean(1 / (1 + apart))
    start = np.concatenate([np.full(3, 2.0), np.zeros(3)])

    def logits(at: np.ndarray, part: float) -> np.ndarray:
        mean, var = (
            (part * n + (1 - part) * s)[:, None, None] for n, s in zip(now, source, strict=True)
        )
        scale, shift = at.reshape(2, 3, 1, 1)
        return np.asarray(scale * (y - mean) / np.sqrt(var + 1e-5) + shift)

    def loss(at: np.ndarray, part: float) -> float:
        p = chances(logits(at, part), activation)
        largest = np.log(3) if activation == "softmax" else 3 * np.log(2)
        held = np.abs(at - start).reshape(2, 3).sum(0)
        return float(largest * share(p, activation).mean() + (weights * held).mean())

    theta, first, second = start, np.zeros(6), np.zeros(6)
    method = OSUDA(network, RATE, blend=blend, activation=activation)
    for step in (1, 2, 3):
        part = min(blend, 1 - np.exp(-step / 32))
        moves = np.eye(6) * 1e-6
        slope = np.array([(loss(theta + m, part) - loss(theta - m, part)) / 2e-6 for m in moves])
        before = loss(theta, part)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        theta = theta - RATE * mean / (np.sqrt(square) + 1e-8)
        record = method.step(torch.from_numpy(x))
        assert record.pseudo_loss == pytest.approx(before, rel=1e-4)  # log(p + 1e-6)
        found = method.snapshot().theta.numpy()
        np.testing.assert_allclose(found, [*theta, part], atol=1e-5)
        np.testing.assert_allclose(record.logits, logits(theta, part), atol=1e-4)
    viewer = OSUDA(network, RATE, activation=activation)
    viewer.load_theta(method.snapshot().theta)
    assert torch.equal(viewer.predict(torch.from_numpy(x)).logits, record.logits)


@pytest.mark.parametrize("name", ["osuda", "mgg"])
def test_what_is_named_adapts_and_nothing_else(name: str) -> None:
    settings = Settings(method=name, parameters="named", names="0.*", learning_rate=RATE)
    method = make_method(settings, toy(3, sure=2.0))
    before = {key: one.clone() for key, one in method.network.state_dict().items()}
    method.step(pictures())
    after = method.network.state_dict()
    moved = [key for key, one in after.items() if not torch.equal(one, before[key])]
    assert "0.weight" in moved
    assert {key.partition(".")[0] for key in moved} == {"0"}


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_stag_aligns_the_gradient_of_the_entropy_at_the_feature(activation: str) -> None:
    torch.manual_seed(4)
    head = nn.Conv2d(5, 3, 1).double()
    weight, bias = (one.detach() for one in (head.weight.flatten(1), head.bias))

    def slope(features: torch.Tensor) -> torch.Tensor:
        """Gradient of each row's entropy with respect to the row, by autograd."""
        features = features.detach().requires_grad_()
        z = features @ weight.T + bias
        if activation == "softmax":
            entropy = -(z.softmax(1) * z.log_softmax(1)).sum()
        else:
            p = z.sigmoid()
            entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum()
        return torch.autograd.grad(entropy, features)[0]

    features = torch.randn(40, 5, dtype=torch.float64)
    z = features @ weight.T + bias
    if activation == "softmax":
        typical = weight[z.argmax(1)]
    else:
        typical = torch.where(z >= 0, 1.0, -1.0).double() @ weight
    expected = 1 - torch.cosine_similarity(slope(features), slope(typical))
    image = z.T.reshape(1, 3, 8, 5)
    found = gradient_disagreement(image, weight, bias, activation)
    np.testing.assert_allclose(found.flatten(), expected, atol=1e-10)
    assert expected.std() > 0.1


@pytest.mark.parametrize("kind", [Tent, SAR, OSUDA, GraTa])
def test_the_switch_adds_it_to_every_entropy_and_says_where_it_cannot(kind: type) -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 3, 1))
    network, x = network.double().eval(), pictures()
    with torch.no_grad():
        network[3].weight.mul_(6)  # sure enough for SAR
    records = [kind(network, RATE, activation="softmax", stag=stag).step(x) for stag in (0, 0.5)]
    losses = [one.auxiliary_loss or one.pseudo_loss for one in records]
    with pytest.raises(ValueError, match="does not end in a 1 × 1 convolution"):
        kind(toy(3), RATE, stag=0.1)
    if kind in (Tent, GraTa):  # the others over some pixels, or under other statistics
        z = BatchNorm(network, activation="softmax").predict(x).logits
        last = network[3].weight.detach().flatten(1), network[3].bias.detach()
        extra = 0.5 * gradient_disagreement(z, *last, "softmax").mean().item()
        assert losses[1] - losses[0] == pytest.approx(extra, rel=1e-9)
    assert abs(losses[1] - losses[0]) > 1e-3


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
