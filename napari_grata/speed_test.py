"""A few seconds of adaptation on a made-up picture: how long will a scan take here?"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from napari_grata.segmenters import Segmenter
    from napari_grata.segmenters.card import Card

VOLUME_SLICES = 160
_SIDE = 192  # of a slice whose model asks for no size


@dataclass(frozen=True)
class Speed:
    """What one slice costs with the careful preset.

    Attributes
    ----------
    model, device : str
    precision : {"float32", "bfloat16"}
    size : (height, width)
        Of the slice as the network reads it.
    source : float
        Seconds to segment a slice with the source model.
    slice : float
        Seconds to segment it, to take a step on it and to predict it in the end.
    """

    model: str
    device: str
    precision: str
    size: tuple[int, int]
    source: float
    slice: float

    @property
    def volume(self) -> float:
        """Seconds for a volume of ``VOLUME_SLICES`` such slices."""
        return VOLUME_SLICES * self.slice


def measure(model: str, device: str, seconds: float) -> Iterator[Speed]:
    """Time a listed model on a device, in every precision that the device has.

    Parameters
    ----------
    model : str
        Name of a listed model.
    device : str
        Key as `list_devices` gives it.
    seconds : float
        Time to spend, roughly; at least one round is timed.
    """
    from napari_grata.segmenters import load_segmenter
    from napari_grata.segmenters.devices import has_bfloat16

    segmenter = load_segmenter(model, device=device)
    precisions = ["float32", *(["bfloat16"] if has_bfloat16(segmenter.device) else [])]
    for precision in precisions:
        yield _measure(segmenter, model, device, precision, seconds / len(precisions))


def slice_size(card: Card) -> tuple[int, int]:
    """Return (height, width) of a slice as the network reads it; 192 where it reads any."""
    height, width = card.size or (_SIDE, _SIDE)
    return height + -height % 32, width + -width % 32


def memory_of_a_step(network: nn.Module, card: Card) -> int:
    """Return about how many bytes a step on one slice takes, the weights aside.

    Nothing is computed: shapes alone go through a copy of the network. What a normalisation reads
    and what comes out of it is kept for the gradient.
    """
    import torch
    from torch import nn

    shadow = copy.deepcopy(network).to("meta")
    total = 0

    def count(_module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        nonlocal total
        total += given[0].nbytes + result.nbytes

    for module in shadow.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.empty(1, card.channels, *slice_size(card), device="meta"))
    return total


def _measure(
    segmenter: Segmenter, model: str, device: str, precision: str, seconds: float
) -> Speed:
    import torch

    from napari_grata.adaptation.methods import make_method
    from napari_grata.adaptation.settings import PRESETS

    card = segmenter.card
    height, width = slice_size(card)
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, card.channels, height, width, generator=generator)
    picture = picture.to(segmenter.device)
    settings = PRESETS["careful"].settings.but(precision=precision)
    method = make_method(settings, segmenter.network, card.activation)

    def source() -> None:
        with torch.inference_mode():
            segmenter.probabilities(segmenter.network(picture)).sum().item()

    def adapt() -> None:
        method.step(picture)
        method.predict(picture).probabilities.sum().item()

    end = time.perf_counter() + seconds
    for work in (source, adapt):
        work()  # the first time is slower: kernels are chosen, memory is fetched
    only, both = _seconds(source), _seconds(adapt)
    while time.perf_counter() + only + both < end:
        only, both = min(only, _seconds(source)), min(both, _seconds(adapt))
    return Speed(model, device, precision, (height, width), only, only + both)


def _seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
