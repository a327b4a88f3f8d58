"""The six label-free objectives, each usable as auxiliary and as pseudo objective of GraTa.

The functions are the bare formulas; `Objectives` feeds them with a network's predictions.
Notation: z logits, p probabilities, S structures (or classes), B images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from .augmentation import strong_view as draw_and_apply
from .scribble import SCRIBBLE, Supervision, scribble_loss
from .settings import OBJECTIVES
from .views import VIEWS, predict_views, view

ACTIVATIONS = ("sigmoid", "softmax")
NOISE_DEVIATION = 0.1
_STRIDE = 32  # what a halved image is padded to, so that networks of stride 32 take it


class _WithHeads(Protocol):
    heads: Sequence[str]

    def forward_head(self, x: Tensor, head: str) -> Tensor: ...


def probabilities(logits: Tensor, activation: str) -> Tensor:
    """Return sigmoid(z) for independent structures, softmax(z) for exclusive classes."""
    return torch.sigmoid(logits) if activation == "sigmoid" else torch.softmax(logits, dim=1)


def entropy_loss(logits: Tensor, activation: str = "sigmoid", symmetric: bool = False) -> Tensor:
    """Return the mean over images and pixels of Σ_c H_c.

    The published form is H_c = −p_c·log(p_c + 1e-6). With sigmoid outputs it is one-sided: its
    gradient turns at p = 1/e instead of 1/2. ``symmetric`` takes the Bernoulli entropy
    −p·log p − (1 − p)·log(1 − p) instead; softmax outputs have no such trouble and ignore it.

    Parameters
    ----------
    logits : Tensor, shape (B, S, H, W)
    """
    if symmetric and activation == "sigmoid":
        # −p·log p − (1 − p)·log(1 − p) = softplus(z) − z·p, without a logarithm of zero.
        return (fn.softplus(logits) - logits * torch.sigmoid(logits)).sum(1).mean()
    p = probabilities(logits, activation)
    return -(p * torch.log(p + 1e-6)).sum(1).mean()


def consistency_loss(logits: Tensor, target: Tensor, activation: str = "sigmoid") -> Tensor:
    """Return the cross-entropy between a prediction and soft targets, the mean over all.

    Sigmoid: binary cross-entropy, mean over images, structures and pixels. Softmax: −Σ_c t_c·log
    p_c, mean over images and pixels.

    Parameters
    ----------
    logits, target : Tensor, shape (B, S, H, W)
        Targets are probabilities and carry no gradient.
    """
    if activation == "sigmoid":
        return fn.binary_cross_entropy_with_logits(logits, target)
    return -(target * torch.log_softmax(logits, dim=1)).sum(1).mean()


class Objectives:
    """Evaluate any of the six objectives on one network.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it; reconstruction, super-resolution, denoising and rotation
        need ``heads`` and ``forward_head(x, head)`` as `ResUNet` has them.
    generator : torch.Generator
        On the CPU; every random number comes from it.
    strong_view : callable, optional
        Images to images, in place of the seeded augmentation.
    autocast : bool
        Whether the network runs in bfloat16 where PyTorch thinks it safe. Logits are float32
        again; auxiliary heads always are.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        generator: torch.Generator,
        activation: str = "sigmoid",
        symmetric_entropy: bool = False,
        strong_view: Callable[[Tensor], Tensor] | None = None,
        batch_views: bool = False,
        autocast: bool = False,
    ) -> None:
        self.network = network
        self.autocast = autocast
        self.generator = generator
        self.activation = activation
        self.symmetric_entropy = symmetric_entropy
        self.strong_view = strong_view
        self.batch_views = batch_views
        self.supervision: Supervision | None = None

    def check(self, name: str) -> None:
        """Raise ValueError if there is no such objective, or the network lacks its head."""
        if name not in OBJECTIVES:
            raise ValueError(
                f"No objective called {name!r}; choose one of {', '.join(OBJECTIVES)}."
            )
        heads = tuple(getattr(self.network, "heads", ()))
        if name not in ("entropy", "consistency") and name not in heads:
            raise ValueError(
                f"The objective {name!r} needs a model with a {name} head; this one has "
                f"{', '.join(heads) or 'none'}. Choose entropy or consistency instead."
            )

    def loss(self, name: str, images: Tensor) -> Tensor:
        """Return the loss of objective ``name`` on ``images``, shape (B, C, H, W) in [0, 1].

        ``scribble`` needs `supervision`; ``a+b`` is the sum of two losses.
        """
        first, plus, rest = name.partition("+")
        loss = getattr(self, "_" + first.replace("-", "_"))(images)
        return loss + self.loss(rest, images) if plus else loss

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits, in the type of the images."""
        with self._casting(images):
            logits = self.network(images)
        return logits.to(images.dtype)

    def six_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image's own logits and the mean probability over the six views."""
        with self._casting(images):
            logits, mean = predict_views(
                self.network,
                images,
                lambda logits: probabilities(logits.to(images.dtype), self.activation),
                batch_views=self.batch_views,
            )
        return logits.to(images.dtype), mean

    def _casting(self, images: Tensor) -> AbstractContextManager[Any]:
        # Some devices (Apple's, before PyTorch 2.5) refuse autocast even where it is off.
        if not self.autocast:
            return nullcontext()
        return torch.autocast(images.device.type, torch.bfloat16)

    def _entropy(self, images: Tensor) -> Tensor:
        return entropy_loss(self.logits(images), self.activation, self.symmetric_entropy)

    def _consistency(self, images: Tensor) -> Tensor:
        target = self.six_views(images)[1]
        return consistency_loss(self.logits(self._strong(images)), target, self.activation)

    def _scribble(self, images: Tensor) -> Tensor:
        if self.supervision is None:
            raise ValueError(f"The objective {SCRIBBLE!r} needs corrected pixels of these images.")
        return scribble_loss(self.logits(images), self.supervision, self.activation)

    def _reconstruction(self, images: Tensor) -> Tensor:
        return fn.mse_loss(torch.sigmoid(self._head(images, "reconstruction")), images)

    def _super_resolution(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        small = fn.interpolate(
            images, size=(height // 2, width // 2), mode="bilinear", align_corners=True
        )
        # Half of a multiple of 32 need not be one; the edge is repeated and cut off again.
        below, right = -small.shape[-2] % _STRIDE, -small.shape[-1] % _STRIDE
        if below or right:
            small = fn.pad(small, (0, right, 0, below), mode="replicate")
        large = self._head(small, "super-resolution")[..., :height, :width]
        return fn.mse_loss(torch.sigmoid(large), images)

    def _denoising(self, images: Tensor) -> Tensor:
        noise = torch.randn(tuple(images.shape), generator=self.generator).to(images)
        noisy = images + NOISE_DEVIATION * noise
        return fn.mse_loss(torch.sigmoid(self._head(noisy, "denoising")), images)

    def _rotation(self, images: Tensor) -> Tensor:
        turns = torch.randint(len(VIEWS), (images.shape[0],), generator=self.generator).tolist()
        turned = [view(image, turn) for image, turn in zip(images, turns, strict=True)]
        # Images that are not square change their shape when turned by 90°: one batch per shape.
        by_shape: dict[torch.Size, list[int]] = {}
        for row, image in enumerate(turned):
            by_shape.setdefault(image.shape, []).append(row)
        losses = []
        for rows in by_shape.values():
            logits = self._head(torch.stack([turned[row] for row in rows]), "rotation")
            label = torch.tensor([turns[row] for row in rows], device=images.device)
            losses.append(fn.cross_entropy(logits, label, reduction="sum"))
        return torch.stack(losses).sum() / images.shape[0]

    def _head(self, x: Tensor, head: str) -> Tensor:
        return cast(_WithHeads, self.network).forward_head(x, head)

    def _strong(self, images: Tensor) -> Tensor:
        if self.strong_view is None:
            return draw_and_apply(images, self.generator)
        # A clone: whatever a foreign augmentation does in place, the image stays as it is.
        strong = self.strong_view(images.detach().clone())
        if strong.shape != images.shape:
            raise ValueError(
                f"strong_view turned images of shape {tuple(images.shape)} into "
                f"{tuple(strong.shape)}; it must keep the shape."
            )
        return strong.detach().to(images)
