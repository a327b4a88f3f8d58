"""Blended statistics, and the copy of a network that is safe to adapt."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_grata.adaptation.methods import make_method
from napari_grata.adaptation.normalisation import (
    RANK,
    BlendedNorm,
    adaptable_copy,
    batch_statistics,
    grouped,
    norm_parameters,
)
from napari_grata.adaptation.settings import Settings
from napari_grata.segmenters.devices import lay_out
from napari_grata.segmenters.resunet import ResUNet

LAYERS = {
    nn.BatchNorm1d: (4, 5, 7),
    nn.BatchNorm2d: (4, 5, 6, 7),
    nn.BatchNorm3d: (4, 5, 3, 6, 7),
}


def source_layer(kind: type = nn.BatchNorm2d, n: int = 5, **arguments) -> nn.Module:
    torch.manual_seed(2)
    layer = kind(n, **arguments).double().eval()
    if layer.running_mean is not None:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    if layer.weight is not None:
        nn.init.uniform_(layer.weight, 0.5, 2.0)
        nn.init.normal_(layer.bias)
    return layer


def tensor(shape: tuple[int, ...], requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 1
    return x.requires_grad_(requires_grad)


def by_hand(layer: nn.Module, x: torch.Tensor, blend: float) -> torch.Tensor:
    dims = [0, *range(2, x.ndim)]
    wide = (1, -1) + (1,) * (x.ndim - 2)
    mean = blend * x.mean(dims) + (1 - blend) * layer.running_mean
    var = blend * x.var(dims, correction=0) + (1 - blend) * layer.running_var
    y = (x - mean.view(wide)) / (var.view(wide) + layer.eps).sqrt()
    return y if layer.weight is None else y * layer.weight.view(wide) + layer.bias.view(wide)


@pytest.mark.parametrize("kind", LAYERS)
def test_blend_zero_is_the_source_layer(kind) -> None:
    layer, x = source_layer(kind), tensor(LAYERS[kind])
    assert torch.equal(BlendedNorm(layer, 0.0)(x), layer(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_blend_one_is_the_layer_in_training(kind) -> None:
    layer, x = source_layer(kind), tensor(LAYERS[kind])
    torch.testing.assert_close(BlendedNorm(layer, 1.0)(x), layer.train()(x))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("blend", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_values_and_gradients_are_those_of_the_formula(kind, blend: float, affine: bool) -> None:
    layer = source_layer(kind, affine=affine)
    ours = BlendedNorm(layer, blend)
    weights = tensor(LAYERS[kind]).cos()
    results = []
    for function, module in ((ours, ours), (lambda x: by_hand(layer, x, blend), layer)):
        x = tensor(LAYERS[kind], requires_grad=True)
        y = function(x)
        wanted = [x, module.weight, module.bias] if affine else [x]
        results.append([y, *torch.autograd.grad((y.tanh() * weights).sum(), wanted)])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("blend", [0.3, 1.0])
def test_gradients_hold_in_either_memory_layout(blend: float) -> None:
    layer = source_layer()
    ours = BlendedNorm(layer, blend)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = tensor((2, 5, 6, 7)).contiguous(memory_format=layout).requires_grad_()
        y = ours(x)
        grads = torch.autograd.grad((y.tanh() * tensor((2, 5, 6, 7)).cos()).sum(), [x, ours.weight])
        results.append([y, *grads])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected)


def test_statistics_of_a_tensor_far_from_zero_are_exact() -> None:
    x = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) + 1000
    mean, var = batch_statistics(x)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float())
    torch.testing.assert_close(
        var, x.double().var((0, 2, 3), correction=0).float(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("blend", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_groups_are_normalised_by_themselves(blend: float, batch: int) -> None:
    ours = BlendedNorm(source_layer(), blend)
    x = tensor((batch * 4, 5, 6, 6))
    network = nn.Sequential(ours)
    with grouped(network, 4):
        together = network(x)
    alone = torch.empty_like(x)
    for group in range(4):
        alone[group::4] = network(x[group::4])
    torch.testing.assert_close(together, alone)
    assert ours.groups == 1


def test_groups_end_with_the_block_even_after_an_error() -> None:
    network = nn.Sequential(BlendedNorm(source_layer()))
    with pytest.raises(RuntimeError), grouped(network, 3):
        raise RuntimeError
    assert network[0].groups == 1


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("blend", [0.1, 1.0])
def test_a_single_value_per_channel_takes_the_source_statistics(blend: float, groups: int) -> None:
    layer, x = source_layer(), tensor((groups, 5, 1, 1), requires_grad=True)
    network = nn.Sequential(BlendedNorm(layer, blend))
    with grouped(network, groups):
        y = network(x)
    assert torch.equal(y, layer(x))
    assert torch.isfinite(torch.autograd.grad(y.sum(), x)[0]).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_layers_without_source_statistics_always_take_the_current_ones(groups: int) -> None:
    layer = source_layer(track_running_stats=False)
    network = nn.Sequential(BlendedNorm(layer, 0.0))
    x = tensor((2, 5, 4, 4))
    torch.testing.assert_close(network(x), layer(x))
    with grouped(network, groups):
        assert torch.isfinite(network(tensor((groups, 5, 1, 1)))).all()


@pytest.mark.parametrize("blend", [0.0, 0.1, 1.0])
def test_constant_images_give_finite_values_and_gradients(blend: float) -> None:
    network = adaptable_copy(ResUNet("compact"), blend)
    for value in (0.0, 0.37, 1.0):
        loss = network(torch.full((1, 3, 32, 32), value)).sigmoid().mean()
        grads = torch.autograd.grad(loss, [p for _, p in norm_parameters(network)])
        assert torch.isfinite(loss)
        assert all(torch.isfinite(grad).all() for grad in grads)


def test_source_statistics_stay_as_they_are() -> None:
    layer = source_layer()
    ours = BlendedNorm(layer, 0.5)
    ours.train()(tensor((2, 5, 4, 4)))
    assert torch.equal(ours.running_mean, layer.running_mean)
    assert torch.equal(ours.running_var, layer.running_var)


def test_a_layer_used_twice_stays_one_layer() -> None:
    norm = nn.BatchNorm2d(4)
    network = nn.Sequential(norm, nn.Conv2d(4, 4, 1), nn.Sequential(norm))
    twin = adaptable_copy(network)
    assert twin[0] is twin[2][0]
    assert [name for name, _ in norm_parameters(twin)] == ["0.weight", "0.bias"]


def test_dropout_is_off_in_the_copy() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).train()
    twin = adaptable_copy(network, 0.0)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(twin(x), x, rtol=1e-4, atol=1e-4)
    assert network.training


def test_every_scale_and_shift_of_a_resunet_is_adapted_heads_included() -> None:
    network = ResUNet("resnet18", heads=("reconstruction",))
    twin = adaptable_copy(network)
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    names = [name for name, _ in norm_parameters(twin)]
    assert names == [f"{layer}.{which}" for layer in layers for which in ("weight", "bias")]
    assert "recon3.bn.bias" in names


def test_low_rank_updates_start_at_the_source_and_alone_move() -> None:
    torch.manual_seed(0)
    source = ResUNet("compact").double().eval()
    lay_out(source, torch.device("cpu"))
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    kept = {name: one.clone() for name, one in source.state_dict().items()}
    settings = Settings(blend=0.0, parameters="low-rank", learning_rate=1e-2)
    method = make_method(settings, source)
    start = method.snapshot()
    with torch.no_grad():
        assert torch.equal(method.predict(x).logits, source(x))
    figures = [method.step(x) for _ in range(3)][-1]
    assert "res.conv1" in figures.layer_cosines
    assert not torch.equal(method.predict(x).logits, source(x))
    ranks = []
    for name, module in source.named_modules():
        if isinstance(module, nn.Conv2d):
            change = method.network.get_submodule(name).weight - module.weight
            ranks.append(int(torch.linalg.matrix_rank(change.flatten(1), rtol=1e-9)))
    assert max(ranks) == RANK
    own = dict(method.network.named_parameters())
    moved = {name for name, one in own.items() if one.requires_grad}
    assert moved == {name for name in own if name.endswith((".0.a", ".0.b"))}
    found = source.state_dict()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert all(torch.equal(own[n], one) for n, one in source.named_parameters() if n in own)
    method.restore(start)
    with torch.no_grad():
        assert torch.equal(method.predict(x).logits, source(x))
    with pytest.raises(ValueError, match="this network shows none"):
        adaptable_copy(nn.Sequential(nn.BatchNorm2d(3)), parameters="low-rank")
