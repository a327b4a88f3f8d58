"""Windows over images of any size: where they lie, how they are joined, mirrored and averaged."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from napari_grata.segmenters.sliding_window import SlidingWindow, window_weights


class Twice(nn.Module):
    """Answers each pixel by itself, so that windows cannot change the answer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image and its negative."""
        return torch.cat([2 * x, -x], 1)


class Place(nn.Module):
    """Answers with the place in the window, the size of which it asks for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the column of each pixel."""
        assert x.shape[2:] == (16, 16)
        return torch.arange(16.0).expand(len(x), 1, 16, 16)


@pytest.mark.parametrize(
    ("size", "window", "starts"),
    [
        (110, 64, [0, 23, 46]),
        (64, 64, [0]),
        (10, 64, [0]),
        (65, 64, [0, 1]),
        (128, 64, [0, 32, 64]),
    ],
)
def test_windows_are_even_and_at_most_half_a_window_apart(size, window, starts):
    network = SlidingWindow([nn.Identity()], (window,), [(0.0, 1.0)])
    assert network.starts(size, window) == starts


def test_weights_fall_from_the_centre_and_are_nowhere_nothing():
    weights = window_weights((32, 200))
    assert weights.max() == weights[16, 100] == 1
    assert (weights > 0).all()
    assert weights[16, 125] == pytest.approx(torch.exp(torch.tensor(-0.5)).item(), rel=1e-3)


@pytest.mark.parametrize("sides", [(16, 16), (7, 16), (40, 21), (5, 3)])
@pytest.mark.parametrize("mirror", [(), (1,), (0, 1)])
def test_what_needs_no_neighbours_comes_out_the_same_in_any_window(sides, mirror):
    images = torch.rand(2, 1, *sides)
    network = SlidingWindow([Twice()], (16, 16), [(-1.0, 3.0)])
    seen = 4 * images - 1
    assert torch.allclose(network(images, mirror), torch.cat([2 * seen, -seen], 1), atol=1e-5)


def test_a_volume_goes_through_windows_of_three_sides():
    images = torch.rand(1, 1, 9, 20, 11)
    found = SlidingWindow([Twice()], (8, 8, 8), [(0.0, 1.0)])(images, (0, 1, 2))
    assert torch.allclose(found[:, :1], 2 * images, atol=1e-5)


def test_a_smaller_image_lies_in_the_middle_of_its_window_on_zeros_as_the_network_sees_them():
    network = SlidingWindow([Place()], (16, 16), [(5.0, 6.0)])
    assert network(torch.zeros(1, 1, 4, 6))[0, 0, 0].tolist() == [5, 6, 7, 8, 9, 10]
    seen = []
    network.folds[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.zeros(1, 1, 4, 6))
    assert seen[0][0, 0, 5].tolist() == [0] * 16
    assert seen[0][0, 0, 6].tolist() == [0] * 5 + [5] * 6 + [0] * 5


def test_mirroring_averages_over_all_ways_to_mirror():
    network = SlidingWindow([Place()], (16, 16), [(0.0, 1.0)])
    found = network(torch.zeros(1, 1, 16, 16), (1,))
    assert torch.allclose(found, torch.tensor(7.5))


@pytest.mark.parametrize("sides", [(21, 9, 8), (8, 30, 5), (6, 8, 8)])
def test_slabs_are_the_whole_piece_by_piece(sides):
    torch.manual_seed(0)
    network = SlidingWindow([nn.Conv3d(1, 3, 3, padding=1)], (8, 8, 8), [(0.0, 1.0)])
    images = torch.rand(1, 1, *sides)
    with torch.inference_mode():
        whole = network(images, (1,))
        slabs = list(network.slabs(images, (1,)))
    ends = [0, *(part.stop for part, _ in slabs)]
    assert [part.start for part, _ in slabs] == ends[:-1]
    assert ends[-1] == sides[0]
    assert all(torch.equal(whole[:, :, part], found) for part, found in slabs)
    # Each window by hand, as it is written down.
    total, weight = torch.zeros(1, 3, *(max(8, n) for n in sides)), 0.0
    padded = nn.functional.pad(
        images, [n for s in reversed(sides) for n in (max(0, 8 - s) // 2, -(min(0, s - 8) // 2))]
    )
    weight = torch.zeros(total.shape[2:])
    for starts in itertools.product(*(network.starts(n, 8) for n in padded.shape[2:])):
        inside = tuple(slice(n, n + 8) for n in starts)
        x = padded[(..., *inside)]
        answer = (network.folds[0](x) + network.folds[0](x.flip(3)).flip(3)) / 2
        total[(..., *inside)] += answer.detach() * network.weights
        weight[inside] += network.weights
    begin = [max(0, 8 - n) // 2 for n in sides]
    inner = tuple(slice(b, b + n) for b, n in zip(begin, sides, strict=True))
    assert torch.allclose(whole, (total / weight)[(..., *inner)], atol=1e-6)


def test_folds_are_averaged_and_gradients_reach_all_of_them():
    folds = [nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)]
    network = SlidingWindow(folds, (8, 8), [(0.0, 1.0)])
    images = torch.rand(1, 1, 20, 9)
    wanted = (folds[0](images) + folds[1](images)) / 2
    found = network(images)
    assert torch.allclose(found, wanted, atol=1e-5)
    grads = torch.autograd.grad(found.sum(), [fold.bias for fold in folds])
    assert all(torch.allclose(grad, torch.full((2,), 90.0), rtol=1e-4) for grad in grads)
