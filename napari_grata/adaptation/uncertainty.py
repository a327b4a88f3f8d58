"""Where a model is unsure: how far views of a slice disagree, how near to 0.5 it decides.

Neither is a probability of error: a model can be sure and wrong. Both point to where a look is
worth most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_grata.segmenters.card import VIEWS
from napari_grata.segmenters.preprocessing import PredictionError, restore

from .augmentation import unview, view
from .methods.base import method_for
from .normalisation import is_blank
from .settings import Settings

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .plan import Region
    from .run import AdaptationRun

KINDS = ("disagreement", "margin")
HIGHEST = {"disagreement": 0.5, "margin": 1.0}
"""The largest value of each kind; the smallest is 0."""


@torch.no_grad()
def disagreement(
    predict: Callable[[Tensor], Tensor], images: Tensor, views: Sequence[str] = VIEWS
) -> Tensor:
    """Spread of the probabilities over flips and rotations, mapped back onto the image.

    Parameters
    ----------
    predict : callable
        Images (B, C, H, W) to probabilities (B, S, H, W); also for W × H, as turned views are.
    images : Tensor, shape (B, C, H, W)
    views : sequence of str

    Returns
    -------
    Tensor, shape (B, H, W)
        Standard deviation over the views (of these, not an estimate for more), of the channel
        in which it is largest: 0 where all agree, 0.5 where half say 0 and half say 1.
    """
    # Kept side by side: sums of squares would need float64, which not every device knows.
    found = [unview(predict(view(images, name)), name) for name in views]
    return torch.stack(found).std(dim=0, correction=0).amax(dim=1).to(images.dtype)


def margin(probabilities: Tensor, activation: str = "sigmoid") -> Tensor:
    """How near a model is to deciding otherwise.

    Parameters
    ----------
    probabilities : Tensor, shape (B, S, H, W)
    activation : {"sigmoid", "softmax"}

    Returns
    -------
    Tensor, shape (B, H, W)
        Sigmoid: 1 − 2·\\|p − 0.5\\| of the structure in which it is largest. Softmax: 1 minus the
        difference of the two highest probabilities. 0: sure; 1: could as well be otherwise.
    """
    if activation == "softmax":
        first, second = probabilities.topk(2, dim=1).values.unbind(1)
        return 1 - (first - second)
    return 1 - (2 * (probabilities - 0.5).abs()).amin(dim=1)


class Uncertainty:
    """Measures uncertainty slice by slice, with the model as adapted or the source model.

    It has a network of its own for normalisation and θ, so that a run may go on undisturbed.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    run : AdaptationRun, optional
        Take θ that this run would predict the slice with now; by default the source model.
    region : (row0, column0, row1, column1), optional
        Outside it nothing was looked at: 0.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        scan: Scan,
        *,
        run: AdaptationRun | None = None,
        region: tuple[int, int, int, int] | None = None,
    ) -> None:
        self._segmenter = segmenter if run is None else run.segmenter
        self._scan = scan
        self._run = run
        self._region = region
        settings = Settings(method="source") if run is None else run.settings
        self._activation = self._segmenter.card.activation
        self._views = self._segmenter.card.views
        self._method = method_for(settings.but(six_views=False), self._segmenter)

    def measure(self, slice_index: int, kind: str = "disagreement") -> np.ndarray:
        """Measure one slice.

        Parameters
        ----------
        slice_index : int
        kind : {"disagreement", "margin"}

        Returns
        -------
        ndarray of float32, shape (H, W)
            On the slice's own grid; see `disagreement` and `margin`.

        Raises
        ------
        ValueError
            If the kind is another one, or what the model gives are no numbers.
        """
        if kind not in KINDS:
            raise ValueError(f"Uncertainty is one of {', '.join(KINDS)}, not {kind!r}.")
        region = self._region if self._run is None else self._run.frame_of(slice_index)
        if self._segmenter.card.patch is not None:
            return self._of_volume(slice_index, kind, region)
        prepared = self._segmenter.prepare(self._scan, slice_index, region)
        if is_blank(prepared.image):
            return np.zeros(self._scan.slice_shape(slice_index), np.float32)
        if self._run is not None and self._run.settings.learns:
            self._method.load_theta(torch.from_numpy(self._run.theta_of(slice_index)))
        if kind == "disagreement":
            found = disagreement(self._probabilities, prepared.image, self._views)
            return np.asarray(restore(found, prepared)[0]).clip(0, HIGHEST[kind])
        # On the slice's own grid, where the mask is decided too: 1 lies on its border.
        fine = self._segmenter.restore(self._probabilities(prepared.image)[0], prepared)
        found = margin(torch.from_numpy(fine)[None], self._activation)
        return np.asarray(found[0]).clip(0, HIGHEST[kind])

    def _of_volume(self, slice_index: int, kind: str, region: Region | None) -> np.ndarray:
        if kind == "disagreement":
            raise PredictionError(
                "How far views disagree is measured slice by slice, and this model reads whole "
                "volumes. Show where it could as well have decided otherwise instead."
            )
        if self._run is not None:
            found = self._run.predict(slice_index)
        else:
            (found,) = self._segmenter.predict(self._scan, [slice_index], region)
        maps = torch.from_numpy(found.probabilities)[None]
        return np.asarray(margin(maps, self._activation)[0]).clip(0, HIGHEST[kind])

    @torch.no_grad()
    def _probabilities(self, images: Tensor) -> Tensor:
        output = self._method.predict(images)
        if not output.is_finite:
            raise PredictionError(
                "The model gives values that are no numbers here, so there is nothing to say of "
                "how sure it is. Go back to an earlier step, or to the source model."
            )
        return output.probabilities
