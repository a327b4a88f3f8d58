"""Alignment of gradients, learning-rate rules, and Adam on one vector."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from napari_grata.adaptation import GraTa
from napari_grata.adaptation.gradients import (
    FlatAdam,
    FlatParameters,
    aligned_rate,
    alignment,
    layer_cosines,
)
from napari_grata.segmenters.resunet import ResUNet


@pytest.mark.parametrize(
    ("rule", "cosine", "factor"),
    [
        ("quadratic", 0.5, 0.5625),
        ("quadratic", -1.0, 0.0),
        ("linear", 0.5, 0.75),
        ("linear", -1.0, 0.0),
        ("softplus", 0.5, math.log(1 + math.exp(0.5))),
        ("softplus", -1.0, math.log(1 + math.exp(-1))),
        ("fixed", 0.5, 1.0),
        ("fixed", -1.0, 1.0),
    ],
)
def test_learning_rate_rules(rule: str, cosine: float, factor: float) -> None:
    rate = aligned_rate(torch.tensor(cosine, dtype=torch.float64), 2e-3, rule)
    assert rate.item() == pytest.approx(2e-3 * factor, abs=1e-15)


@pytest.mark.parametrize("rule", ["quadratic", "linear", "softplus", "fixed"])
def test_the_rule_of_the_method_is_the_one_it_steps_with(rule: str) -> None:
    torch.manual_seed(0)
    method = GraTa(ResUNet("compact"), learning_rate=1e-2, learning_rate_rule=rule)
    before = method.theta()
    record = method.step(torch.rand(1, 3, 32, 32))
    expected = aligned_rate(torch.tensor(record.cosine), 1e-2, rule).item()
    assert record.learning_rate == pytest.approx(expected, rel=1e-5)
    # Adam's first step moves every number by the rate, whatever the gradient's size.
    moved = (method.theta() - before).abs().max().item()
    assert moved == pytest.approx(record.learning_rate, rel=1e-2)


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ValueError, match="cubic"):
        aligned_rate(torch.tensor(0.0), 1e-3, "cubic")


def test_cosine_is_signed_and_within_bounds() -> None:
    g = torch.randn(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert alignment(g, 3 * g, None)[0].item() == pytest.approx(1)
    assert alignment(g, -g, None)[0].item() == pytest.approx(-1)
    assert alignment(g, torch.zeros_like(g), None)[0].item() == 0
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    cosine, first, second = alignment(a, b, None)
    assert cosine.item() == pytest.approx(math.sqrt(0.5))
    assert (first.item(), second.item()) == (3.0, pytest.approx(math.sqrt(2)))


def test_the_cosine_of_each_layer_is_that_of_its_own_numbers() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(4))
    flat = FlatParameters(list(network.named_parameters()))
    assert flat.layers == {"0": 6, "1": 8}
    a, b = torch.randn(2, 14, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    b[6:] = 0
    first, second = layer_cosines(a, b, flat.layers).tolist()
    assert first == pytest.approx(torch.cosine_similarity(a[:6], b[:6], dim=0).item())
    assert math.isnan(second)


def test_auxiliary_norm_runs_over_numbers_that_have_both_gradients() -> None:
    auxiliary = torch.tensor([3.0, 4.0, 0.0])
    pseudo = torch.tensor([2.0, 0.0, 5.0])
    has_pseudo = torch.tensor([True, False, True])
    cosine, auxiliary_norm, pseudo_norm = alignment(auxiliary, pseudo, has_pseudo)
    assert auxiliary_norm.item() == 3.0
    assert pseudo_norm.item() == pytest.approx(math.sqrt(29))
    assert cosine.item() == pytest.approx(6 / (3 * math.sqrt(29)))


def test_adam_gives_the_numbers_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, generator=generator, dtype=torch.float64)
    theirs = nn.Parameter(values.clone())
    torch_adam = torch.optim.Adam([theirs], betas=(0.9, 0.999))
    ours = FlatAdam(values)
    for step in range(5):
        gradient = torch.randn(40, generator=generator, dtype=torch.float64)
        rate = 1e-2 / (step + 1)
        torch_adam.param_groups[0]["lr"] = rate
        theirs.grad = gradient
        torch_adam.step()
        ours.step(values, gradient, torch.tensor(rate, dtype=torch.float64))
        torch.testing.assert_close(values, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_one_vector_holds_the_parameters_and_their_gradient() -> None:
    layers = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(3)])
    flat = FlatParameters(list(layers.named_parameters()))
    flat.values.copy_(torch.arange(10.0))
    assert layers[1].weight.tolist() == [4.0, 5.0, 6.0]
    loss = (layers[0].weight * 2).sum() + (layers[1].bias * torch.tensor([1.0, 2.0, 3.0])).sum()
    gradient, mask = flat.gradient(loss)
    assert gradient.tolist() == [2, 2, 0, 0, 0, 0, 0, 1, 2, 3]
    assert mask is not None
    assert mask.tolist() == [True] * 2 + [False] * 5 + [True] * 3


def test_parameters_of_two_types_are_refused() -> None:
    layers = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(3).double()])
    with pytest.raises(ValueError, match="differ in type"):
        FlatParameters(list(layers.named_parameters()))


def test_a_perturbation_has_the_length_it_was_given() -> None:
    torch.manual_seed(0)
    network = ResUNet("compact")
    x = torch.rand(1, 3, 32, 32)
    lengths = []
    for perturbation in (0.05, None):
        seen = []
        method = GraTa(network, perturbation=perturbation, strong_view=lambda x: x)
        source = method.theta()
        loss = method.objectives.loss

        def spy(name, images, loss=loss, seen=seen, method=method):
            seen.append(method.theta())
            return loss(name, images)

        method.objectives.loss = spy
        record = method.step(x)
        assert torch.equal(seen[0], source)
        lengths.append((seen[1] - source).norm().item())
    assert lengths[0] == pytest.approx(0.05, rel=1e-3)
    assert lengths[1] == pytest.approx(record.auxiliary_norm, rel=1e-3)
