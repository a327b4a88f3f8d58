"""What a step learns from: six label-free objectives, and the reviewer's corrections.

The functions are the bare formulas; `Objectives` feeds them with a network's predictions.
Notation: z logits, p probabilities, S structures (or classes), B images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from napari_grata.segmenters.card import THROUGH, VIEWS

from .augmentation import strong_view as draw_and_apply
from .augmentation import unview, view
from .corrections import Corrections, lesson
from .normalisation import grouped
from .settings import OBJECTIVES

if TYPE_CHECKING:
    from napari_grata.segmenters import Card, Prepared

ACTIVATIONS = ("sigmoid", "softmax")
SCRIBBLE = "scribble"
NOISE_DEVIATION = 0.1
_STRIDE = 32  # what a halved image is padded to, so that networks of stride 32 take it


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


def pixel_entropy(p: Tensor, activation: str = "sigmoid") -> Tensor:
    """Return the Shannon entropy of each pixel as a share of the largest there can be.

    Parameters
    ----------
    p : Tensor, shape (B, S, H, W)
        Probabilities: exclusive classes sum to 1 over S, structures are independent.

    Returns
    -------
    Tensor, shape (B, H, W)
        0 … 1.
    """
    largest = math.log(p.shape[1]) if activation == "softmax" else p.shape[1] * math.log(2)
    found = -torch.xlogy(p, p.clamp_min(1e-12)).sum(1)
    if activation == "sigmoid":
        found = found - torch.xlogy(1 - p, (1 - p).clamp_min(1e-12)).sum(1)
    return found / largest


def entropy_slope(logits: Tensor, activation: str = "sigmoid") -> Tensor:
    """Return ∂H/∂z of each pixel's entropy H, in the shape of the logits (B, S, …).

    −p_k·(log p_k + H) of exclusive classes, −z·p·(1 − p) of an independent structure.
    """
    p = probabilities(logits, activation)
    if activation == "sigmoid":
        return -logits * p * (1 - p)
    log_p = torch.log_softmax(logits, 1)
    return -p * (log_p - (p * log_p).sum(1, keepdim=True))


def gradient_disagreement(
    logits: Tensor, weight: Tensor, bias: Tensor, activation: str = "sigmoid"
) -> Tensor:
    """Return 1 − cos(g, a) of each pixel, (B, …): how far its entropy's gradient is from typical.

    g = Σ_k ∂H/∂z_k·w_k is the gradient of the pixel's entropy with respect to its feature, in
    closed form, for the last layer is linear, z = W·f + b; a is the same expression at the feature
    w_ŷ of the class ŷ that the pixel is called (stAG, arXiv 2402.09004). Only the products
    ⟨w_j, w_k⟩ are needed, no feature. For independent structures, of which the paper does not
    speak, the feature is Σ_k ±w_k with the signs of the pixel's mask; a single structure has one
    direction only, and nothing changes.

    Parameters
    ----------
    logits : Tensor, shape (B, S, …)
    weight, bias : Tensor, shape (S, C), (S,)
        Of the last layer.
    """
    gram = weight @ weight.T

    def times_gram(x: Tensor) -> Tensor:
        return torch.einsum("st,bt...->bs...", gram, x)

    def length(x: Tensor) -> Tensor:
        return (x * times_gram(x)).sum(1).clamp_min(1e-30).sqrt()

    slope = entropy_slope(logits, activation)
    if activation == "softmax":
        typical = entropy_slope(gram + bias, activation)[logits.argmax(1)].movedim(-1, 1)
    else:
        signs = torch.where(logits >= 0, 1.0, -1.0).to(logits)
        of_mask = times_gram(signs) + bias.reshape(-1, *[1] * (logits.ndim - 2))
        typical = entropy_slope(of_mask, activation)
    product = (slope * times_gram(typical)).sum(1)
    return 1 - product / (length(slope) * length(typical))


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
        targets, weights = (torch.from_numpy(one)[None].to(prepared.image) for one in taught)
        return cls(targets, weights)

    def to(self, like: Tensor) -> Supervision:
        """Return the same on the device and in the type of ``like``."""
        held = None if self.held is None else self.held.to(like)
        return Supervision(self.targets.to(like), self.weights.to(like), held, self.hold)

    def holding(self, held: Tensor, hold: float) -> Supervision:
        """Return the same with the other pixels held to ``held`` (B, S, h, w)."""
        return replace(self, held=held, hold=hold)

    def beside(self, said: Tensor) -> Supervision:
        """Return the same with that of other images behind it, which are to stay as they were said.

        Parameters
        ----------
        said : Tensor, shape (B, S, h, w)
            The probabilities; each of their pixels weighs as much as a corrected one.
        """
        said = said.to(self.targets)
        held = None if self.held is None else torch.cat([self.held, said])
        weights = torch.cat([self.weights, torch.ones_like(said[:, 0])])
        return Supervision(torch.cat([self.targets, said]), weights, held, self.hold)

    def seen(self, part: slice, name: str) -> Supervision:
        """Return that of some of the images, as they look in a view (see `augmentation.view`)."""
        held = None if self.held is None else view(self.held[part], name)
        targets, weights = view(self.targets[part], name), view(self.weights[part], name)
        return Supervision(targets, weights, held, self.hold)


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


@torch.no_grad()
def predict_views(
    network: nn.Module,
    images: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    views: Sequence[str] = VIEWS,
    batch_views: bool = False,
) -> tuple[Tensor, Tensor]:
    """Predict all views without gradient; each is normalised with its own statistics.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it.
    images : Tensor, shape (B, C, H, W)
    probabilities : callable
        Logits to probabilities, element by element of the image plane.
    views : sequence of str
        The identity is among them.
    batch_views : bool
        Views of equal shape run as one batch. Equal to the view-by-view path within rounding;
        faster on a GPU.

    Returns
    -------
    logits : Tensor, shape (B, S, H, W)
        Of the identity view.
    mean : Tensor, shape (B, S, H, W)
        Mean of the probabilities over the views, mapped back onto the image.
    """
    together: list[list[str]] = [[name] for name in views]
    if batch_views:
        by_shape: dict[torch.Size, list[str]] = {}
        for name in views:
            by_shape.setdefault(view(images, name).shape, []).append(name)
        together = list(by_shape.values())
    logits = total = None
    for names in together:
        for name, one in zip(names, _forward(network, images, names), strict=True):
            if name == "identity":
                logits = one
            back = unview(probabilities(one), name)
            total = back if total is None else total + back
    assert logits is not None
    assert total is not None
    return logits, total / len(views)


def _forward(network: nn.Module, images: Tensor, views: Sequence[str]) -> list[Tensor]:
    if len(views) == 1:
        return [network(view(images, views[0]))]
    # Rows b·G + g, as `grouped` wants them.
    rows = torch.stack([view(images, name) for name in views], dim=1).flatten(0, 1)
    with grouped(network, len(views)):
        out = network(rows)
    return list(out.unflatten(0, (images.shape[0], len(views))).unbind(1))


class Objectives:
    """Evaluate any of the objectives on one network.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it; reconstruction, super-resolution, denoising and rotation
        need ``heads`` and ``forward_head(x, head)`` as `ResUNet` has them.
    generator : torch.Generator
        On the CPU; every random number comes from it.
    strong_view : callable, optional
        Images to images, in place of the seeded augmentation.
    views : sequence of str
        What consistency and the mean over views take; the identity is among them.
    stag : float
        Weight λ of `gradient_disagreement` beside an entropy; 0: none.
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
        views: Sequence[str] = VIEWS,
        batch_views: bool = False,
        stag: float = 0.0,
        autocast: bool = False,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}."
            )
        if "identity" not in views or not set(views) <= {*VIEWS, *THROUGH}:
            raise ValueError(
                f"views are {', '.join(views) or 'none'}; choose identity and any of "
                f"{', '.join(VIEWS[1:])}."
            )
        self.views = tuple(views)
        self.network = network
        self.autocast = autocast
        self.generator = generator
        self.activation = activation
        self.symmetric_entropy = symmetric_entropy
        self.strong_view = strong_view
        self.batch_views = batch_views
        self.supervision: Supervision | None = None
        self.stag = stag
        self._last = _last_layer(network) if stag else None

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
        loss: Tensor = getattr(self, "_" + first.replace("-", "_"))(images)
        return loss + self.loss(rest, images) if plus else loss

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits, in the type of the images."""
        with self._casting(images):
            logits: Tensor = self.network(images)
        return logits.to(images.dtype)

    def mean_of_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image's own logits and the mean probability over the views."""
        with self._casting(images):
            logits, mean = predict_views(
                self.network,
                images,
                lambda logits: self.probabilities(logits.to(images.dtype)),
                views=self.views,
                batch_views=self.batch_views,
            )
        return logits.to(images.dtype), mean

    def add_views(self, images: Tensor, names: Sequence[str], total: Tensor) -> bool:
        """Add the probabilities of some views of a volume, slab by slab; False: no numbers.

        Parameters
        ----------
        images : Tensor, shape (1, C, a, b, c)
            For a `SlidingWindow`.
        total : Tensor, shape (S, a, b, c)
            On any device and of any precision; what is found is added.
        """
        sides, finite = total.shape[1], True
        network: Any = self.network
        with self._casting(images):
            for name in names:
                for planes, logits in network.slabs(view(images, name)):
                    found = self.probabilities(logits.to(images.dtype))
                    finite = finite and bool((logits.isfinite() & found.isfinite()).all())
                    if name in THROUGH:
                        planes = slice(sides - planes.stop, sides - planes.start)
                    total[:, planes] += unview(found, name)[0].to(total.device)
        return finite

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what the network's activation makes of logits."""
        return probabilities(logits, self.activation)

    def _casting(self, images: Tensor) -> AbstractContextManager[Any]:
        # Some devices (Apple's, before PyTorch 2.5) refuse autocast even where it is off.
        if not self.autocast:
            return nullcontext()
        return torch.autocast(images.device.type, torch.bfloat16)

    def disagreement(self, logits: Tensor) -> Tensor:
        """Return λ·(1 − cos) of each pixel (`gradient_disagreement`); one zero where λ is 0."""
        if self._last is None:
            return logits.new_zeros(())
        weight, bias = (one.to(logits) for one in self._last)
        return self.stag * gradient_disagreement(logits, weight, bias, self.activation)

    def _entropy(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        entropy = entropy_loss(logits, self.activation, self.symmetric_entropy)
        return entropy + self.disagreement(logits).mean()

    def _consistency(self, images: Tensor) -> Tensor:
        target = self.mean_of_views(images)[1]
        return consistency_loss(self.logits(self.strong(images)), target, self.activation)

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
        turned = [view(image, VIEWS[turn]) for image, turn in zip(images, turns, strict=True)]
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
        network: Any = self.network
        logits: Tensor = network.forward_head(x, head)
        return logits

    def strong(self, images: Tensor) -> Tensor:
        """Return a strong view of images (B, C, H, W), which are not written to."""
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


def _last_layer(network: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight (S, C) and bias (S,) of the 1 × 1 convolution that gives the logits."""
    # ResUNet's auxiliary heads come after it; other networks make their last layer last.
    layers = [layer for name, layer in network.named_modules() if "parametrizations" not in name]
    head: Any = getattr(network, "seg_head", None) or layers[-1]
    if not isinstance(head, (nn.Conv2d, nn.Conv3d)) or head.weight[0, 0].numel() > 1:
        raise ValueError(
            "stag reads the last layer of the network, and this one does not end in a 1 × 1 "
            "convolution. Set stag to 0, or choose another model."
        )
    weight = head.weight.detach().flatten(1)
    return weight, weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()
