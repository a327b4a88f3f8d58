"""Models of disc and cup for tests: one that learns in milliseconds, and the smallest real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_grata.segmenters import Card, Structure, build_network, write_model

DISC_AND_CUP = (
    Structure("disc", "#56B4E9", 1),
    Structure("cup", "#E69F00", 2, inside="disc"),
)


class Small(nn.Module):
    """A network that learns in milliseconds."""

    def __init__(self, outputs: int = 2, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of the size of the images."""
        logits: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return logits


def small_card(**changes: Any) -> Card:
    """Return the card of a `Small` network that reads slices as they are."""
    values = {
        "name": "small",
        "title": "Small",
        "structures": DISC_AND_CUP,
        "channels": 1,
        "dimensions": 3,
        "modality": "T1",
        "normalisation": {"kind": "unit"},
        "weights_sha256": "0" * 64,
    }
    return Card(**{**values, **changes})


def tiny_card(**changes: Any) -> Card:
    """Return the card of the smallest network that cards know."""
    values = {
        "name": "tiny",
        "title": "Tiny",
        "arguments": {"encoder": "compact"},
        "size": (64, 64),
        "normalisation": {"kind": "min-max"},
        "weights_sha256": None,
    }
    return small_card(**{**values, **changes})


def write_tiny(folder: Path, **changes: Any) -> Path:
    """Write a model folder with `tiny_card` and fresh weights, always the same; return it."""
    torch.manual_seed(0)
    card = tiny_card(**changes)
    write_model(folder, card, build_network(card))
    return folder
