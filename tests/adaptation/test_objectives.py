"""Each objective against a small computation by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from napari_grata.adaptation.augmentation import unview, view
from napari_grata.adaptation.normalisation import adaptable_copy
from napari_grata.adaptation.objectives import (
    Objectives,
    consistency_loss,
    entropy_loss,
    predict_views,
    probabilities,
)
from napari_grata.segmenters.card import VIEWS
from napari_grata.segmenters.resunet import HEADS, ResUNet


def logit(p: float) -> float:
    return math.log(p / (1 - p))


class Pixelwise(nn.Module):
    """A network that looks at one pixel at a time, so that losses can be written down."""

    heads = ("reconstruction", "super-resolution", "denoising", "rotation")

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, head: str) -> torch.Tensor:
        self.seen.append(x)
        if head == "rotation":
            return torch.arange(6.0).expand(x.shape[0], 6) * self.norm(x).mean()
        y = self.norm(x)
        return nn.functional.interpolate(y, scale_factor=2) if head == "super-resolution" else y


def objectives(network: nn.Module | None = None, blend: float = 0.0, **arguments) -> Objectives:
    network = adaptable_copy(network or Pixelwise(), blend)
    return Objectives(network, generator=torch.Generator().manual_seed(5), **arguments)


def test_published_entropy_is_one_sided() -> None:
    logits = torch.tensor([[[[logit(0.2), logit(0.5)]], [[logit(0.9), logit(0.6)]]]])
    expected = -sum(p * math.log(p + 1e-6) for p in (0.2, 0.5, 0.9, 0.6)) / 2
    assert entropy_loss(logits).item() == pytest.approx(expected, rel=1e-6)


def test_symmetric_entropy_is_that_of_a_coin() -> None:
    logits = torch.tensor([[[[logit(0.2)]], [[logit(0.9)]]]])
    expected = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.2, 0.9))
    assert entropy_loss(logits, symmetric=True).item() == pytest.approx(expected, rel=1e-6)
    assert entropy_loss(-logits, symmetric=True).item() == pytest.approx(expected, rel=1e-6)
    assert entropy_loss(-logits).item() != pytest.approx(expected, rel=1e-2)


def test_symmetric_entropy_turns_at_a_half_and_the_published_one_at_one_over_e() -> None:
    for symmetric, turn in ((True, 0.5), (False, 1 / math.e)):
        for p, sign in ((turn - 0.02, 1.0), (turn + 0.02, -1.0)):
            z = torch.tensor([[[[logit(p)]]]], requires_grad=True)
            (slope,) = torch.autograd.grad(entropy_loss(z, symmetric=symmetric), z)
            assert slope.sign().item() == sign


def test_symmetric_entropy_of_certain_pixels_is_finite() -> None:
    z = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    loss = entropy_loss(z, symmetric=True)
    assert loss.item() == 0.0
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_softmax_entropy_sums_over_classes_and_ignores_the_symmetric_option() -> None:
    p = torch.tensor([0.2, 0.5, 0.3])
    logits = p.log().view(1, 3, 1, 1)
    expected = -(p * (p + 1e-6).log()).sum().item()
    assert entropy_loss(logits, "softmax").item() == pytest.approx(expected, rel=1e-6)
    assert entropy_loss(logits, "softmax", True).item() == pytest.approx(expected, rel=1e-6)


def test_consistency_loss_is_the_cross_entropy_with_soft_targets() -> None:
    logits = torch.tensor([[[[logit(0.3)]], [[logit(0.8)]]]])
    target = torch.tensor([[[[0.1]], [[0.6]]]])
    pairs = ((0.3, 0.1), (0.8, 0.6))
    expected = -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in pairs) / 2
    assert consistency_loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_softmax_consistency_is_the_mean_over_pixels() -> None:
    p, t = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.1, 0.8])
    logits = p.log().view(1, 3, 1, 1).expand(2, 3, 4, 5)
    target = t.view(1, 3, 1, 1).expand(2, 3, 4, 5)
    loss = consistency_loss(logits, target, "softmax")
    assert loss.item() == pytest.approx(-(t * p.log()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_consistency_learns_through_the_strong_view_alone(activation: str) -> None:
    torch.manual_seed(0)
    strong = torch.rand(1, 3, 32, 32)
    task = objectives(
        ResUNet("compact", outputs=3), 1.0, strong_view=lambda x: strong, activation=activation
    )
    x = torch.rand(1, 3, 32, 32)
    theta = [p for p in task.network.parameters() if p.requires_grad]
    grads = torch.autograd.grad(task.loss("consistency", x), theta)
    target = task.mean_of_views(x)[1]
    assert not target.requires_grad
    held = torch.autograd.grad(consistency_loss(task.network(strong), target, activation), theta)
    assert all(torch.equal(one, other) for one, other in zip(grads, held, strict=True))
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_a_network_that_ignores_flips_agrees_with_its_six_views() -> None:
    task = objectives(strong_view=lambda x: x)
    x = torch.rand(2, 1, 8, 6)
    p = torch.sigmoid(task.network(x)).detach()
    expected = -(p * p.log() + (1 - p) * (1 - p).log()).mean().item()
    assert task.loss("consistency", x).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_undone_exactly(name: str) -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    seen = view(x, name)
    assert torch.equal(unview(seen, name), x)
    assert (name == "identity") is (seen.shape == x.shape and torch.equal(seen, x))


def test_views_are_the_named_ones() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    expected = {
        "identity": [[1, 2], [3, 4]],
        "left-right": [[2, 1], [4, 3]],
        "up-down": [[3, 4], [1, 2]],
        "rotation-90": [[2, 4], [1, 3]],
        "rotation-180": [[4, 3], [2, 1]],
        "rotation-270": [[3, 1], [4, 2]],
    }
    assert {name: view(x, name).tolist() for name in VIEWS} == expected


@pytest.mark.parametrize("batch_views", [False, True])
@pytest.mark.parametrize("shape", [(2, 1, 6, 6), (1, 1, 4, 6)])
@pytest.mark.parametrize("views", [VIEWS, ("left-right", "identity"), ("identity",)])
def test_mean_over_views_is_mapped_back(batch_views: bool, shape, views) -> None:
    class Lopsided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(-1)

    x = torch.rand(shape)
    network = Lopsided()
    expected = torch.stack([unview(view(x, name).cumsum(-1), name) for name in views]).mean(0)
    logits, mean = predict_views(network, x, lambda z: z, views=views, batch_views=batch_views)
    torch.testing.assert_close(mean, expected)
    assert torch.equal(logits, x.cumsum(-1))


def test_views_that_are_none_are_refused() -> None:
    for views in ((), ("left-right",), ("identity", "diagonal")):
        with pytest.raises(ValueError, match="choose identity and any of left-right"):
            objectives(views=views)


def test_reconstruction_compares_with_the_image() -> None:
    task = objectives()
    x = torch.rand(2, 1, 4, 4)
    expected = ((torch.sigmoid(task.network(x)) - x) ** 2).mean().item()
    assert task.loss("reconstruction", x).item() == pytest.approx(expected, rel=1e-6)


def test_super_resolution_is_shown_the_image_at_half_its_size() -> None:
    task = objectives()
    x = torch.rand(1, 1, 64, 64)
    loss = task.loss("super-resolution", x)
    small = nn.functional.interpolate(x, size=(32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(task.network.seen[0], small)
    large = nn.functional.interpolate(task.network(small), scale_factor=2)
    assert loss.item() == pytest.approx(((large.sigmoid() - x) ** 2).mean().item(), rel=1e-6)


def test_super_resolution_takes_every_size_that_the_network_takes() -> None:
    task = objectives(ResUNet("compact", heads=HEADS), 1.0)
    assert torch.isfinite(task.loss("super-resolution", torch.rand(1, 3, 96, 32)))


def test_denoising_is_shown_noise_of_deviation_a_tenth_and_asked_for_the_image() -> None:
    task = objectives()
    x = torch.full((1, 1, 128, 128), 0.5)
    loss = task.loss("denoising", x)
    noise = task.network.seen[0] - x
    assert noise.std().item() == pytest.approx(0.1, rel=0.03)
    expected = ((task.network(x + noise).sigmoid() - x) ** 2).mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(12, 1, 6, 6), (12, 1, 4, 6)])
def test_rotation_asks_which_view_each_image_is(shape: tuple[int, ...]) -> None:
    task = objectives()
    x = torch.rand(shape)
    loss = task.loss("rotation", x)
    turns = torch.randint(6, (12,), generator=torch.Generator().manual_seed(5)).tolist()
    assert len(set(turns)) > 3
    expected, shown = 0.0, {tuple(image.shape) for image in task.network.seen}
    for batch in list(task.network.seen):
        rows = [
            i for i, turn in enumerate(turns) if view(x[i], VIEWS[turn]).shape == batch.shape[1:]
        ]
        torch.testing.assert_close(batch, torch.stack([view(x[i], VIEWS[turns[i]]) for i in rows]))
        logits = task.network.forward_head(batch, "rotation").detach()
        for row, i in enumerate(rows):
            expected -= logits[row].log_softmax(0)[turns[i]].item() / 12
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert len(shown) == (1 if shape[2] == shape[3] else 2)


def test_probabilities_follow_the_activation() -> None:
    z = torch.tensor([[[[1.0]], [[-2.0]]]])
    assert torch.equal(probabilities(z, "sigmoid"), z.sigmoid())
    assert torch.equal(probabilities(z, "softmax"), z.softmax(1))


def test_a_device_that_knows_no_autocast_serves() -> None:
    with pytest.raises(RuntimeError, match="autocast"):
        torch.autocast("meta", torch.bfloat16, enabled=False)
    evaluate = objectives(Pixelwise().to("meta"))
    images = torch.zeros(1, 1, 8, 8, device="meta")
    assert evaluate.logits(images).shape == images.shape
    assert evaluate.mean_of_views(images)[1].shape == images.shape
