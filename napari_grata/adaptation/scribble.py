"""The objective ``scribble``: corrected pixels as supervision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as fn

from .corrections import Corrections, lesson

if TYPE_CHECKING:
    from napari_grata.segmenters import Card, Prepared

SCRIBBLE = "scribble"
BALANCE = 0.5
"""A class counts with its pixels to this power: 1 leaves the classes as they are painted, 0 gives
each the same say. Strokes of very different size should neither drown each other, nor should
three pixels weigh as much as three thousand."""


@dataclass(frozen=True)
class Supervision:
    """Corrected pixels of a batch, on the model's grid and device.

    Attributes
    ----------
    targets : Tensor, shape (B, S, h, w)
        Probabilities that the corrected pixels should have.
    weights : Tensor, shape (B, h, w)
        1 on corrected pixels, less around them with soft labels, 0 elsewhere.
    """

    targets: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls,
        corrections: Corrections,
        prepared: Prepared,
        card: Card,
        soft_labels: float = 0.0,
    ) -> Supervision | None:
        """Return what the corrections of a prepared slice teach; None if nothing.

        Parameters are those of `napari_grata.adaptation.corrections.lesson`.
        """
        labels = corrections.labels.get(prepared.slice_index)
        if labels is None:
            return None
        taught = lesson(labels, card, prepared.frame, soft_labels)
        if taught is None:
            return None
        return cls(
            torch.from_numpy(taught.targets)[None].to(prepared.image),
            torch.from_numpy(taught.weights)[None].to(prepared.image),
        )

    def to(self, like: Tensor) -> Supervision:
        """Return the same on the device and in the type of ``like``."""
        return Supervision(self.targets.to(like), self.weights.to(like))


def scribble_loss(logits: Tensor, supervision: Supervision, activation: str = "sigmoid") -> Tensor:
    """Return the cross-entropy on the corrected pixels, classes balanced by `BALANCE`.

    Sigmoid: binary cross-entropy per structure, pixels inside and outside balanced, the mean over
    structures. Softmax: cross-entropy, classes balanced. With n_k the weight of class k's pixels
    and l_k their mean loss: Σ_k n_k^γ·l_k / Σ_k n_k^γ.

    Parameters
    ----------
    logits : Tensor, shape (B, S, h, w)
    """
    targets, weights = supervision.targets, supervision.weights[:, None]
    if activation == "sigmoid":
        losses = fn.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return torch.stack(
            [
                _balanced(losses[:, s], torch.stack([1 - targets[:, s], targets[:, s]], 1), weights)
                for s in range(logits.shape[1])
            ]
        ).mean()
    losses = -(targets * torch.log_softmax(logits, dim=1)).sum(1)
    return _balanced(losses, targets, weights)


def _balanced(losses: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Balance losses (B, h, w) over classes (B, K, h, w) with pixel weights (B, 1, h, w)."""
    shares = classes * weights
    sizes = shares.sum((0, 2, 3))
    means = (shares * losses[:, None]).sum((0, 2, 3)) / sizes.clamp_min(1e-12)
    say = torch.where(sizes > 0, sizes.clamp_min(1e-12) ** BALANCE, torch.zeros_like(sizes))
    return (say * means).sum() / say.sum().clamp_min(1e-12)
