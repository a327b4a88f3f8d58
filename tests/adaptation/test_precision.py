"""bfloat16 is an option: faster where the device has it, close to float32, never a default."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_grata.adaptation import METHODS, GraTa, Source, make_method
from napari_grata.adaptation.settings import PRESETS, Settings, SettingsError
from napari_grata.segmenters import load_segmenter
from napari_grata.segmenters.devices import has_bfloat16, processor_units

needs_bfloat16 = pytest.mark.skipif(
    not has_bfloat16("cpu"), reason="this processor has no unit for bfloat16"
)


@pytest.fixture(scope="module")
def shipped():
    return load_segmenter("fundus-disc-cup", device="cpu").network


def image(size: int = 128) -> torch.Tensor:
    """A bright disc with a brighter cup on a darker ground."""
    axis = torch.linspace(-1, 1, size)
    distance = (axis[:, None].square() + axis[None, :].square()).sqrt()
    plane = 0.3 + 0.4 * (distance < 0.6) + 0.2 * (distance < 0.3)
    return plane.expand(1, 3, size, size).contiguous()


class Plain(nn.Module):
    """Not a ResUNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def test_float32_is_the_default_everywhere() -> None:
    assert Settings().precision == "float32"
    assert all(preset.settings.precision == "float32" for preset in PRESETS.values())
    assert GraTa(Plain()).precision == "float32"


def test_another_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match="float32, bfloat16"):
        Settings(precision="float8")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32, bfloat16"):
        GraTa(Plain(), precision="float8")


def test_a_device_that_lacks_it_is_told_apart() -> None:
    assert not has_bfloat16("meta")
    assert has_bfloat16("cpu") is any(processor_units().values())


@needs_bfloat16
@pytest.mark.parametrize("method", [one for one in METHODS if METHODS[one].learns != "weights"])
@pytest.mark.parametrize("name", ["careful", "as-published"])
def test_predictions_are_close_to_those_in_float32(shipped, method: str, name: str) -> None:
    settings = PRESETS[name].settings.but(method=method)
    records = []
    for precision in ("float32", "bfloat16"):
        one = make_method(settings.but(precision=precision), shipped)
        assert one.precision == precision
        record = one.step(image())
        assert not record.undone
        assert record.logits.dtype == record.probabilities.dtype == torch.float32
        assert one.theta().dtype == torch.float32
        records.append(record)
    first, second = records
    assert not torch.equal(first.probabilities, second.probabilities)
    difference = (first.probabilities - second.probabilities).abs()
    assert difference.mean() < 0.01
    masks = [record.probabilities >= 0.5 for record in records]
    overlap = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum()).clamp_min(1)
    assert masks[0].any()
    assert overlap > 0.98


@needs_bfloat16
@pytest.mark.parametrize("blend", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch_views", [False, True])
def test_other_networks_take_it_too(blend: float, batch_views: bool) -> None:
    torch.manual_seed(0)
    network = Plain().eval()
    records = [
        GraTa(network, blend=blend, precision=precision, batch_views=batch_views).step(image(32))
        for precision in ("float32", "bfloat16")
    ]
    assert not records[1].undone
    assert records[1].logits.dtype == torch.float32
    torch.testing.assert_close(records[0].logits, records[1].logits, rtol=0.05, atol=0.05)
    assert not torch.equal(records[0].logits, records[1].logits)


@needs_bfloat16
def test_the_same_seed_gives_the_same_numbers_again(shipped) -> None:
    runs = []
    for _ in range(2):
        method = GraTa(shipped, precision="bfloat16", seed=3)
        runs.append([method.step(image(64)).pseudo_loss for _ in range(2)] + [method.theta()])
    assert runs[0][:2] == runs[1][:2]
    assert torch.equal(runs[0][2], runs[1][2])


@needs_bfloat16
def test_the_source_weights_stay_float32(shipped) -> None:
    Source(shipped, precision="bfloat16").step(image(64))
    assert {parameter.dtype for parameter in shipped.parameters()} == {torch.float32}


@needs_bfloat16
@pytest.mark.parametrize("name", ["careful", "as-published"])
def test_what_is_no_number_is_noticed_and_the_step_undone(shipped, name: str) -> None:
    method = make_method(PRESETS[name].settings.but(precision="bfloat16"), shipped)
    before = method.theta()
    broken = image(64)
    broken[0, 0, 5, 5] = torch.nan
    assert method.step(broken).undone
    assert torch.equal(method.theta(), before)
    assert not method.step(image(64)).undone
