"""Devices of a machine, and channels that lie together on a CPU unless PyTorch cannot stand it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_grata.segmenters.devices import (
    DeviceError,
    lay_out,
    list_devices,
    resolve_device,
)

CPU = torch.device("cpu")


def network(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 2, 1))


def test_convolutions_with_batch_normalisation_lie_with_channels_last() -> None:
    net = network(nn.BatchNorm2d(8))
    assert lay_out(net, CPU) is torch.channels_last
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_laying_out_twice_keeps_the_storage() -> None:
    net = network(nn.BatchNorm2d(8))
    lay_out(net, CPU)
    before = net[0].weight.data_ptr()
    lay_out(net, CPU)
    assert net[0].weight.data_ptr() == before


def test_group_normalisation_keeps_the_usual_layout_and_survives_a_backward_pass() -> None:
    net = network(nn.GroupNorm(2, 8))
    layout = lay_out(net, CPU)
    assert layout is torch.contiguous_format
    image = torch.rand(1, 3, 16, 16).contiguous(memory_format=layout)
    net(image).square().mean().backward()
    assert torch.isfinite(net[1].weight.grad).all()


def test_other_devices_keep_the_usual_layout() -> None:
    assert lay_out(network(nn.BatchNorm2d(8)), torch.device("meta")) is torch.contiguous_format


def test_weights_that_lie_otherwise_are_brought_back_to_the_usual_layout() -> None:
    # As those of a CPU that move to a graphics card, or a person's own network.
    for net, device in (
        (network(nn.BatchNorm2d(8)), torch.device("meta")),
        (network(nn.GroupNorm(2, 8)), CPU),
    ):
        net.to(memory_format=torch.channels_last)
        assert not net[0].weight.is_contiguous()
        assert lay_out(net, device) is torch.contiguous_format
        assert net[0].weight.is_contiguous()


def test_the_devices_of_this_machine_can_be_chosen_and_others_cannot() -> None:
    choices = list_devices()
    assert choices[0].key == "auto"
    assert choices[-1].key == "cpu"
    assert choices[0].title.startswith("Automatic")
    assert {resolve_device(choice.key).type for choice in choices} <= {"cuda", "mps", "cpu"}
    with pytest.raises(DeviceError, match="Choose one of: auto"):
        resolve_device("cuda:99")
