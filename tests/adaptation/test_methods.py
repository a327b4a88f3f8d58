"""What a method may change, and how it goes back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from napari_grata.adaptation import (
    METHODS,
    BatchNorm,
    Consistency,
    CoTTA,
    GraTa,
    MeanTeacher,
    Source,
    make_method,
)
from napari_grata.adaptation.methods.base import Learner
from napari_grata.adaptation.settings import OBJECTIVES, PRESETS, Settings
from napari_grata.segmenters.resunet import HEADS, ResUNet

FIGURES = ("cosine", "learning_rate", "auxiliary_loss", "pseudo_loss", "pseudo_norm")


class Tiny(nn.Module):
    """A small network with two normalisation layers, quick enough to be stepped many times."""

    def __init__(self, outputs: int = 2, channels: int = 3, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = norm(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = norm(8)
        self.last = nn.Conv2d(8, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        return self.last(torch.relu(self.norm2(self.second(y))))


def tiny(outputs: int = 2, **arguments) -> Tiny:
    torch.manual_seed(3)
    network = Tiny(outputs, **arguments)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def images(batch: int = 1, height: int = 24, width: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator)


def figures(record) -> list[float]:
    return [getattr(record, name) for name in FIGURES if getattr(record, name) is not None]


ALL = [info.load() for info in METHODS.values()]
LEARNERS = [kind for kind in ALL if issubclass(kind, Learner)]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("training", [False, True])
def test_source_network_is_left_bit_for_bit(kind, training: bool) -> None:
    network = tiny().train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in network.parameters()]
    method = kind(network)
    for seed in range(3):
        method.step(images(seed=seed))
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [(p.requires_grad, p.grad) for p in network.parameters()] == flags
    assert network.training is training
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_only_normalisation_is_copied_and_the_rest_is_shared() -> None:
    # As `Segmenter` lays it out; weights that lie otherwise are rearranged, and so copied.
    network = tiny().to(memory_format=torch.channels_last)
    method = GraTa(network)
    twin = dict(method.network.named_parameters())
    for name, parameter in network.named_parameters():
        shared = twin[name].data_ptr() == parameter.data_ptr()
        assert shared is not name.startswith("norm"), name
        assert twin[name].requires_grad is name.startswith("norm"), name
    assert method.theta_names == ("norm.weight", "norm.bias", "norm2.weight", "norm2.bias")
    assert method.theta_shapes == ((8,),) * 4
    assert method.theta().shape == (32,)


@pytest.mark.parametrize("kind", ALL)
def test_images_are_never_written_to(kind) -> None:
    def in_place(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(0.5)

    batch = images(2)
    before = batch.clone()
    arguments = {"strong_view": in_place} if kind in (GraTa, Consistency, MeanTeacher) else {}
    kind(tiny(), **arguments).step(batch)
    kind(tiny()).step(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("kind", LEARNERS)
def test_one_seed_gives_the_same_numbers_and_another_does_not(kind) -> None:
    def run(seed: int) -> list[list[float]]:
        method = kind(tiny(), seed=seed, learning_rate=1e-2)
        return [figures(method.step(images(seed=step))) for step in range(3)]

    assert run(4) == run(4)
    assert (run(4) != run(5)) is (kind in (GraTa, Consistency, MeanTeacher, CoTTA)), (
        "the others draw nothing"
    )


@pytest.mark.parametrize("kind", LEARNERS)
def test_reset_starts_over_and_restore_goes_on_with_the_same_numbers(kind) -> None:
    method = kind(tiny(), learning_rate=1e-2)
    source = method.theta()
    first = [figures(method.step(images(seed=step))) for step in range(2)]
    middle = method.snapshot()
    last = [figures(method.step(images(seed=step))) for step in range(2, 5)]
    end = method.theta()
    assert method.steps == 5

    method.restore(middle)
    assert method.steps == 2
    assert [figures(method.step(images(seed=step))) for step in range(2, 5)] == last
    assert torch.equal(method.theta(), end)

    method.reset()
    assert method.steps == 0
    assert torch.equal(method.theta(), source)
    assert [figures(method.step(images(seed=step))) for step in range(2)] == first


def test_a_snapshot_is_not_changed_by_later_steps() -> None:
    method = GraTa(tiny(), learning_rate=1e-2)
    snapshot = method.snapshot()
    theta, moment = snapshot.theta.clone(), snapshot.first_moment.clone()
    method.step(images())
    assert not torch.equal(method.snapshot().theta, theta)
    assert torch.equal(snapshot.theta, theta)
    assert torch.equal(snapshot.first_moment, moment)


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_nan_in_the_image_undoes_the_step(kind) -> None:
    method = kind(tiny(), learning_rate=1e-2)
    method.step(images())
    before = method.snapshot()
    broken = images(seed=1)
    broken[0, 0, 3, 3] = math.nan
    record = method.step(broken)
    assert record.undone
    assert all(math.isnan(value) for value in figures(record))
    after = method.snapshot()
    assert torch.equal(after.theta, before.theta)
    assert torch.equal(after.first_moment, before.first_moment)
    assert torch.equal(after.second_moment, before.second_moment)
    assert torch.equal(after.generator, before.generator)
    assert after.steps == before.steps
    good = method.step(images(seed=2))
    assert not good.undone
    assert torch.isfinite(good.logits).all()


def test_a_step_into_overflow_is_undone_and_predicted_with_the_old_parameters() -> None:
    method = GraTa(tiny(), learning_rate_rule="softplus")
    method.learning_rate = 1e38
    expected = method.predict(images()).logits
    record = method.step(images())
    assert record.undone
    assert torch.equal(record.logits, expected)


def test_a_step_that_fails_halfway_leaves_no_trace() -> None:
    calls = []

    def failing(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        raise MemoryError

    method = GraTa(tiny(), strong_view=failing)
    before = method.theta()
    with pytest.raises(MemoryError):
        method.step(images())
    assert calls == [1]
    assert torch.equal(method.theta(), before)


def test_averaged_theta_can_be_loaded_and_a_wrong_one_is_refused() -> None:
    method = GraTa(tiny(), learning_rate=1e-2)
    thetas = [method.theta()]
    for step in range(3):
        method.step(images(seed=step))
        thetas.append(method.theta())
    mean = torch.stack(thetas).mean(0)
    method.load_theta(mean.numpy())
    assert torch.equal(method.theta(), mean)
    assert torch.equal(method.network.norm.weight.detach(), mean[:8])
    with pytest.raises(ValueError, match="32 numbers, but 31"):
        method.load_theta(np.zeros(31))


def test_predicting_changes_nothing_and_agrees_with_the_record() -> None:
    method = GraTa(tiny(), learning_rate=1e-2, six_views=True)
    record = method.step(images())
    before = method.snapshot()
    output = method.predict(images())
    assert torch.equal(output.logits, record.logits)
    assert torch.equal(output.probabilities, record.probabilities)
    assert torch.equal(method.snapshot().theta, before.theta)
    assert torch.equal(method.snapshot().generator, before.generator)
    assert not output.logits.requires_grad


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_probabilities_are_those_of_the_activation(activation: str) -> None:
    record = GraTa(tiny(4), activation=activation).step(images(2, 16, 24))
    assert record.probabilities.shape == record.logits.shape == (2, 4, 16, 24)
    if activation == "softmax":
        torch.testing.assert_close(record.probabilities, record.logits.softmax(1))
        torch.testing.assert_close(record.probabilities.sum(1), torch.ones(2, 16, 24))
    else:
        torch.testing.assert_close(record.probabilities, record.logits.sigmoid())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shape", [(32, 32), (32, 64)])
@pytest.mark.parametrize("blend", [0.0, 0.1, 1.0])
def test_views_as_one_batch_equal_the_view_by_view_path(batch: int, shape, blend: float) -> None:
    torch.manual_seed(0)
    network = ResUNet("compact").double()
    x = images(batch, *shape).double()
    records = [
        GraTa(network, blend=blend, six_views=True, batch_views=together).step(x)
        for together in (False, True)
    ]
    torch.testing.assert_close(records[0].logits, records[1].logits, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(records[0].probabilities, records[1].probabilities)
    assert figures(records[0]) == pytest.approx(figures(records[1]), rel=1e-6)


def test_view_by_view_and_batched_draw_the_same_random_numbers() -> None:
    methods = [GraTa(tiny().double(), batch_views=together) for together in (False, True)]
    losses = [[m.step(images().double()).pseudo_loss for _ in range(3)] for m in methods]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("auxiliary", OBJECTIVES)
@pytest.mark.parametrize("pseudo", OBJECTIVES)
def test_every_objective_serves_as_auxiliary_and_as_pseudo(auxiliary: str, pseudo: str) -> None:
    torch.manual_seed(1)
    network = ResUNet("compact", heads=HEADS)
    method = GraTa(network, learning_rate=1e-2, auxiliary=auxiliary, pseudo=pseudo)
    before = method.theta()
    for size in ((64, 64), (32, 96)):
        record = method.step(images(2, *size))
        assert not record.undone
        assert -1 <= record.cosine <= 1
        assert record.learning_rate == pytest.approx(1e-2 * (record.cosine + 1) ** 2 / 4, rel=1e-4)
        assert record.auxiliary_norm > 0
        assert record.pseudo_norm > 0
    assert not torch.equal(method.theta(), before)


def test_parameters_without_pseudo_gradient_stay_and_count_in_no_norm() -> None:
    torch.manual_seed(1)
    network = ResUNet("compact", heads=("reconstruction",))
    method = GraTa(network, learning_rate=1e-2, auxiliary="reconstruction")
    head = torch.cat(
        [
            torch.full((math.prod(shape),), name.startswith("recon"), dtype=torch.bool)
            for name, shape in zip(method.theta_names, method.theta_shapes, strict=True)
        ]
    )
    before = method.theta()
    gradient, _ = method._flat.gradient(method.objectives.loss("reconstruction", images(1, 32, 32)))
    record = method.step(images(1, 32, 32))
    moved = method.theta() != before
    assert moved[~head].any()
    assert not moved[head].any()
    assert gradient[head].norm() > 0
    assert record.auxiliary_norm == pytest.approx(gradient[~head].norm().item(), rel=1e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm])
def test_networks_without_batch_normalisation_adapt_scale_and_shift(norm) -> None:
    make = {
        nn.InstanceNorm2d: lambda n: nn.InstanceNorm2d(n, affine=True),
        nn.GroupNorm: lambda n: nn.GroupNorm(2, n),
        nn.LayerNorm: lambda n: nn.LayerNorm([n, 24, 24]),
    }[norm]
    network = tiny(norm=make)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    records = [
        GraTa(network, learning_rate=1e-2, blend=blend, batch_views=together).step(images())
        for blend in (0.0, 1.0)
        for together in (False, True)
    ]
    assert not any(record.undone for record in records)
    # No source statistics, so nothing to blend.
    assert records[0].pseudo_loss == records[2].pseudo_loss
    assert records[0].pseudo_loss == pytest.approx(records[1].pseudo_loss, rel=1e-5)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_network_with_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="this network has none"):
        GraTa(nn.Conv2d(3, 2, 1))
    assert Source(nn.Conv2d(3, 2, 1)).step(images()).logits.shape == (1, 2, 24, 24)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"auxiliary": "jigsaw"}, "No objective called 'jigsaw'"),
        ({"pseudo": "rotation"}, "needs a model with a rotation head"),
        ({"learning_rate_rule": "cubic"}, "cubic"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"blend": 1.5}, "blend"),
        ({"perturbation": -1.0}, "perturbation"),
        ({"activation": "tanh"}, "activation"),
    ],
)
def test_wrong_settings_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GraTa(tiny(), **arguments)


@pytest.mark.parametrize("bad", [torch.zeros(3, 24, 24), torch.zeros(1, 3, 24, 24).byte(), None])
def test_wrong_images_are_named(bad) -> None:
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        GraTa(tiny()).step(bad)


def test_a_strong_view_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="keep the shape"):
        Consistency(tiny(), strong_view=lambda x: x[..., ::2]).step(images())


@pytest.mark.parametrize("method", METHODS)
def test_settings_build_the_method_they_name(method: str) -> None:
    settings = Settings(method=method, learning_rate=3e-3, blend=0.25, seed=9, six_views=True)
    built = make_method(settings, tiny(), "softmax")
    assert built.name == method
    assert built.learns is settings.learns
    assert built.blend == (0.25 if "blend" in METHODS[method].settings_used else 0.0)
    assert (built.seed, built.activation, built.six_views) == (9, "softmax", True)
    if isinstance(built, Learner):
        assert built.learning_rate == 3e-3


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_every_preset_takes_a_step(name: str, activation: str) -> None:
    record = make_method(PRESETS[name].settings, tiny(4), activation).step(images(1, 16, 24))
    assert not record.undone
    assert torch.isfinite(record.probabilities).all()


def test_methods_that_do_not_learn_have_no_figures() -> None:
    for kind in (Source, BatchNorm):
        method = kind(tiny())
        before = method.theta()
        record = method.step(images())
        assert figures(record) == []
        assert not record.undone
        assert torch.equal(method.theta(), before)
        method.restore(method.snapshot())
        method.reset()


def test_source_is_the_network_as_trained() -> None:
    network = tiny().eval()
    with torch.no_grad():
        # Within rounding: the memory layout may differ.
        torch.testing.assert_close(Source(network).step(images()).logits, network(images()))


def test_batch_norm_takes_the_statistics_of_the_batch() -> None:
    network = tiny().eval()
    with torch.no_grad():
        source = network(images())
        current = network.train()(images())
    torch.testing.assert_close(BatchNorm(network).step(images()).logits, current)
    assert not torch.allclose(source, current)
