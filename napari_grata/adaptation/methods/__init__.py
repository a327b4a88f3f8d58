"""The adaptation methods: one step on one batch, all behind the same interface."""

from __future__ import annotations

from typing import Any

from torch import nn

from napari_grata.adaptation.settings import Settings

from .base import Method, Output, Snapshot, StepRecord
from .consistency import Consistency
from .fixed import BatchNorm, Source
from .grata import GraTa

__all__ = [
    "BatchNorm",
    "Consistency",
    "GraTa",
    "Method",
    "Output",
    "Snapshot",
    "Source",
    "StepRecord",
    "make_method",
]


def make_method(settings: Settings, network: nn.Module, activation: str = "sigmoid") -> Method:
    """Build the method that ``settings`` describe, on ``network`` and its device.

    Raises
    ------
    ValueError
        If the network cannot serve the settings (a head or every normalisation layer missing).
    """
    common: dict[str, Any] = {
        "seed": settings.seed,
        "activation": activation,
        "six_views": settings.six_views,
        "precision": settings.precision,
    }
    if settings.method == "source":
        return Source(network, **common)
    if settings.method == "batch-norm":
        return BatchNorm(network, blend=settings.blend, **common)
    if settings.method == "consistency":
        return Consistency(
            network,
            learning_rate=settings.learning_rate,
            blend=settings.blend,
            scribble=settings.scribble,
            **common,
        )
    return GraTa(
        network,
        learning_rate=settings.learning_rate,
        auxiliary=settings.auxiliary,
        pseudo=settings.pseudo,
        learning_rate_rule=settings.learning_rate_rule,
        blend=settings.blend,
        symmetric_entropy=settings.symmetric_entropy,
        perturbation=settings.perturbation,
        scribble=settings.scribble,
        **common,
    )
