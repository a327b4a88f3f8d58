"""Statistics taken from the scan, and no learning."""

from __future__ import annotations

from .base import Method
from .register import register


@register(
    name="batch-norm",
    title="Statistics only",
    summary="Takes intensity statistics from the new scan; learns nothing.",
    learns="nothing",
    settings_used=("blend",),
)
class BatchNorm(Method):
    """Statistics α·current + (1 − α)·source in every batch normalisation; as of `Method`."""
