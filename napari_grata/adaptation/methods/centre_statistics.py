"""Statistics of the whole centre, shrunk towards those of the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from napari_grata.adaptation.normalisation import batch_statistics
from napari_grata.adaptation.settings import checked

from .base import Method, StepRecord
from .register import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from napari_grata.adaptation.objectives import Supervision


@register(
    name="centre-statistics",
    title="Statistics of the stack",
    summary="Takes intensity statistics from all slices together, the more the more there are; "
    "learns nothing else.",
    learns="statistics",
    settings_used=("reserve",),
)
class CentreStatistics(Method):
    """Batch normalisation with statistics of all images seen so far, beside the source's.

    After N images the statistics are α·centre + (1 − α)·source with α = N/(N + τ): with few
    images, or one, the source's prevail (Schneider et al., NeurIPS 2020, with the images of a
    stack in place of a batch). A layer's mean and mean square are taken over the images, as they
    come to it through layers that normalise with the statistics reached so far. Masks are
    predicted once all images were seen.

    Parameters
    ----------
    network : nn.Module
        The source model; never changed.
    reserve : float
        τ, in images.
    **common
        See `Method`; no blend.
    """

    def __init__(self, network: nn.Module, *, reserve: float = 32.0, **common: Any) -> None:
        super().__init__(network, **{**common, "blend": 0.0})
        self.reserve = float(checked("reserve", reserve))
        self._layers = self._norms()
        halves = [torch.zeros_like(one) for one in self._flat.values.split(self._flat.sizes)]
        for one in halves[::2]:
            one.fill_(1)
        self._is_mean = torch.cat(halves).bool()

    def step(self, images: Tensor, supervision: Supervision | None = None) -> StepRecord:
        images = self._images(images)
        before = self._state(self.device)
        try:
            for image in images.split(1):
                self._see(image)
            output = self.predict(images)
        except BaseException:
            self.restore(before)
            raise
        if output.is_finite and bool(self._flat.values.isfinite().all()):
            return StepRecord(*output)
        self.restore(before)
        return StepRecord(*self.predict(images), undone=True)

    @torch.no_grad()
    def _see(self, image: Tensor) -> None:
        """Count one image in."""
        found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def see(layer: nn.Module, x: Tensor) -> None:
            found[layer] = batch_statistics(x)

        self._watched(self._layers, image, see)
        # In the order of θ, mean and variance by layer. Adam has nothing to do here: its vectors
        # hold the running means of x and of x².
        statistics = [found[layer] for layer in self._layers]
        means = torch.cat([mean for mean, _ in statistics for _ in range(2)]).to(self.dtype)
        own = torch.cat([one for both in statistics for one in both]).to(self.dtype)
        state = self._adam
        state.count += 1
        state.first.lerp_(means, 1 / state.count)
        state.second.lerp_(own + means.square(), 1 / state.count)
        variances = (state.second - state.first.square()).clamp_min(0)
        centre = torch.where(self._is_mean, state.first, variances)
        weight = state.count / (state.count + self.reserve)
        self._flat.values.copy_(torch.lerp(self._source, centre, weight))
