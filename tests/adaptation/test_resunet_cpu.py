"""The arrangement by hand gives what the network as written gives, forward and backward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from napari_grata.adaptation import GraTa
from napari_grata.adaptation.normalisation import adaptable_copy, norm_parameters
from napari_grata.adaptation.resunet_cpu import use_cpu_pass
from napari_grata.segmenters.resunet import ResUNet

BLENDS = [1.0, 0.0, 0.3]


def network(encoder: str = "compact", heads: tuple[str, ...] = (), outputs: int = 2) -> ResUNet:
    torch.manual_seed(4)
    net = ResUNet(encoder, outputs=outputs, heads=heads).eval().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return net


def images(batch: int = 1, height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


def pair(net: ResUNet, blend: float) -> tuple[nn.Module, nn.Module]:
    """The network as written, and the same run arranged by hand."""
    written, by_hand = adaptable_copy(net, blend), adaptable_copy(net, blend)
    assert use_cpu_pass(by_hand) is not None
    return written, by_hand


def gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    logits = net(x)
    parameters = [parameter for _, parameter in norm_parameters(net)]
    found = torch.autograd.grad(logits.square().mean(), parameters, allow_unused=True)
    return logits.detach(), list(found)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("encoder", ["compact", "resnet18", "resnet50"])
def test_logits_and_every_gradient_are_those_of_the_network_as_written(
    encoder: str, blend: float
) -> None:
    written, by_hand = pair(network(encoder), blend)
    expected, expected_gradients = gradients(written, images(2))
    logits, found = gradients(by_hand, images(2))
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("blend", BLENDS)
def test_maps_of_one_pixel_take_the_source_statistics(blend: float) -> None:
    written, by_hand = pair(network(), blend)
    x = images(1, 32, 32)
    expected, expected_gradients = gradients(written, x)
    logits, found = gradients(by_hand, x)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(found, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("blend", BLENDS)
def test_prediction_without_gradient_is_the_same(blend: float) -> None:
    _, by_hand = pair(network(outputs=4), blend)
    with torch.no_grad():
        quiet = by_hand(images())
    torch.testing.assert_close(quiet, by_hand(images()).detach(), rtol=1e-10, atol=1e-12)


def test_images_and_weights_are_never_written_to() -> None:
    _, by_hand = pair(network(), 1.0)
    x = images().contiguous(memory_format=torch.channels_last)
    before, state = x.clone(), copy.deepcopy(by_hand.state_dict())
    gradients(by_hand, x)
    with torch.no_grad():
        by_hand(x)
    assert torch.equal(x, before)
    assert all(torch.equal(state[key], value) for key, value in by_hand.state_dict().items())


def test_parameters_of_unused_heads_have_no_gradient() -> None:
    _, by_hand = pair(network(heads=("reconstruction",)), 1.0)
    _, found = gradients(by_hand, images())
    for (name, _), gradient in zip(norm_parameters(by_hand), found, strict=True):
        assert (gradient is None) == name.startswith("recon"), name


def test_a_gradient_for_the_images_goes_through_the_network_as_written() -> None:
    written, by_hand = pair(network(), 1.0)
    expected, found = images().requires_grad_(), images().requires_grad_()
    written(expected).square().mean().backward()
    by_hand(found).square().mean().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_taking_a_gradient_twice_is_an_error_that_says_so() -> None:
    _, by_hand = pair(network(), 1.0)
    loss = by_hand(images()).square().mean()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        loss.backward()


def test_a_copy_of_the_network_computes_with_its_own_parameters() -> None:
    _, by_hand = pair(network(), 0.0)
    twin = copy.deepcopy(by_hand)
    with torch.no_grad():
        before = by_hand(images())
        twin.bnout.weight.mul_(2.0)
        assert torch.equal(by_hand(images()), before)
        assert not torch.equal(twin(images()), before)


def test_other_networks_and_normalisations_run_as_they_are() -> None:
    assert use_cpu_pass(nn.Sequential(nn.Conv2d(3, 2, 1))) is None
    assert use_cpu_pass(network()) is None  # no layer of ours in it: nothing to adapt


@pytest.mark.parametrize("batch_views", [False, True])
def test_whole_steps_are_those_of_the_network_as_written(batch_views: bool) -> None:
    net = network()
    ours = GraTa(net, learning_rate=1e-2, seed=5, batch_views=batch_views)
    plain = GraTa(net, learning_rate=1e-2, seed=5, batch_views=batch_views)
    assert plain.network.runner is not None
    plain.network.runner = None
    for step in range(3):
        one, other = ours.step(images()), plain.step(images())
        assert one.cosine == pytest.approx(other.cosine, rel=1e-7), step
        assert one.pseudo_loss == pytest.approx(other.pseudo_loss, rel=1e-9)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.theta(), plain.theta(), rtol=1e-6, atol=1e-7)


def test_the_backward_pass_keeps_less_than_the_network_as_written() -> None:
    written, by_hand = pair(network().float(), 1.0)  # type: ignore[arg-type]
    kept: set[int] = set()
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in kept:
            kept.add(tensor.untyped_storage().data_ptr())
            total += tensor.untyped_storage().nbytes()
        return tensor

    x = images().float()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        written(x)
    tape: list = []
    with torch.no_grad():
        by_hand.runner.forward(x, tape)
    storages: dict[int, int] = {}

    def walk(item: object) -> None:
        if isinstance(item, Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, (tuple, list)):
            for one in item:
                walk(one)

    walk(tape)
    assert sum(storages.values()) < 0.75 * total
