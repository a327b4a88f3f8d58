"""The methods that learn nothing: the source model, and statistics taken from the scan."""

from __future__ import annotations

from torch import nn

from .base import Method


class Source(Method):
    """The model as it was trained, with the statistics of its source centre.

    Parameters
    ----------
    network : nn.Module
        Never changed.
    activation : {"sigmoid", "softmax"}
    six_views : bool
        Predict the mean probability over six flips and rotations.
    """

    name = "source"

    def __init__(
        self,
        network: nn.Module,
        seed: int = 0,
        activation: str = "sigmoid",
        six_views: bool = False,
        batch_views: bool | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(
            network,
            seed=seed,
            activation=activation,
            blend=0.0,
            six_views=six_views,
            batch_views=batch_views,
            precision=precision,
        )


class BatchNorm(Method):
    """Blended statistics α·current + (1 − α)·source in every batch normalisation; no learning.

    Parameters are those of `Source`, and ``blend``: α in [0, 1].
    """

    name = "batch-norm"

    def __init__(
        self,
        network: nn.Module,
        seed: int = 0,
        activation: str = "sigmoid",
        blend: float = 1.0,
        six_views: bool = False,
        batch_views: bool | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(
            network,
            seed=seed,
            activation=activation,
            blend=blend,
            six_views=six_views,
            batch_views=batch_views,
            precision=precision,
        )
