"""The source model, as it was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Method
from .register import register

if TYPE_CHECKING:
    from torch import nn


@register(
    name="source",
    title="No adaptation",
    summary="The model as it was trained.",
    learns="nothing",
)
class Source(Method):
    """The model with the statistics of its source centre; parameters as of `Method`, no blend."""

    def __init__(self, network: nn.Module, **common: Any) -> None:
        super().__init__(network, blend=0.0, **common)
