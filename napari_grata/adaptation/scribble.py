"""The objective ``scribble``: corrected pixels as supervision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as fn

from .corrections import Corrections, lesson

if TYPE_CHECKING:
    from napari_grata.segmenters import Card, Prepared

SCRIBBLE = "scribble"


@dataclass(frozen=True)
class Supervision:
    """Corrected pixels of a batch, on the model's grid and device.

    Attributes
    ----------
    targets : Tensor, shape (B, S, h, w)
        Probabilities that the corrected pixels should have.
    weights : Tensor, shape (B, h, w)
        1 on corrected pixels, less around them with soft labels, 0 elsewhere.
    held : Tensor, shape (B, S, h, w), optional
        What the model said of these images before it was taught: the other pixels, which the
        reviewer saw and left alone, are held to it.
    hold : float
        Weight of such a pixel; that of a corrected one is 1.
    """

    targets: Tensor
    weights: Tensor
    held: Tensor | None = None
    hold: float = 0.0

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
        held = None if self.held is None else self.held.to(like)
        return Supervision(self.targets.to(like), self.weights.to(like), held, self.hold)

    def holding(self, held: Tensor, hold: float) -> Supervision:
        """Return the same with the other pixels held to ``held`` (B, S, h, w)."""
        return replace(self, held=held, hold=hold)


def scribble_loss(logits: Tensor, supervision: Supervision, activation: str = "sigmoid") -> Tensor:
    """Return the cross-entropy on the corrected pixels, with the others held to what was said.

    Σ_p [w_p·CE(z_p, t_p) + h·(1 − w_p)·CE(z_p, q_p)] / Σ_p [w_p + h·(1 − w_p)], with weights w,
    targets t, the model's earlier answer q and the weight h of a pixel that was left alone.
    Sigmoid: CE is the binary cross-entropy, the mean over structures. Every corrected pixel counts
    the same, whatever its class: with a whole slice corrected, the classes have the shares that
    they truly have, and more say for small ones made models draw too much of them (measured:
    three points of ventricles lost). What balances a few strokes of one class is h: without it
    they pull the whole slice along.

    Parameters
    ----------
    logits : Tensor, shape (B, S, h, w)
    """
    weights = supervision.weights
    loss = (weights * _cross_entropy(logits, supervision.targets, activation)).sum()
    total = weights.sum()
    if supervision.held is not None and supervision.hold > 0:
        alone = supervision.hold * (1 - weights)
        loss = loss + (alone * _cross_entropy(logits, supervision.held, activation)).sum()
        total = total + alone.sum()
    return loss / total


def _cross_entropy(logits: Tensor, targets: Tensor, activation: str) -> Tensor:
    """Per pixel, shape (B, h, w)."""
    if activation == "sigmoid":
        return fn.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    return -(targets * torch.log_softmax(logits, dim=1)).sum(1)
