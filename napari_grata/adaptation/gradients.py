"""θ as one flat vector: gradients, their alignment, learning-rate rules and Adam on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .settings import LEARNING_RATE_RULES

_TINY = 1e-12


class FlatParameters:
    """Parameters whose numbers lie one after the other in a single vector.

    Parameters
    ----------
    named : sequence of (name, parameter or buffer)
        Of one device and one floating-point type. Their storage moves into ``values``, so that
        whatever is written there is what the network computes with.

    Attributes
    ----------
    values : Tensor, shape (n,)
    names : tuple of str
    shapes : tuple of torch.Size
    layers : dict of str to int
        How many of the numbers belong to each layer, in order.

    Raises
    ------
    ValueError
        If devices or types differ.
    """

    def __init__(self, named: Sequence[tuple[str, Tensor]]) -> None:
        self.names = tuple(name for name, _ in named)
        self.parameters = [parameter for _, parameter in named]
        self.shapes = tuple(parameter.shape for parameter in self.parameters)
        if len({(p.dtype, p.device) for p in self.parameters}) > 1:
            raise ValueError(
                "The parameters lie on different devices or differ in type; move the "
                "whole network with network.to(device, dtype) first."
            )
        self.sizes = [shape.numel() for shape in self.shapes]
        self.layers: dict[str, int] = {}
        for name, size in zip(self.names, self.sizes, strict=True):
            # Of an update (`normalisation.LowRank`) the layer is that of the weight.
            layer = name.replace(".parametrizations.weight.0", "").rpartition(".")[0] or name
            self.layers[layer] = self.layers.get(layer, 0) + size
        flat = [p.detach().reshape(-1) for p in self.parameters]
        self.values = torch.cat(flat) if flat else torch.zeros(0)
        pieces = torch.split(self.values, self.sizes) if flat else ()
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.data = piece.view(parameter.shape)

    def gradient(self, loss: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of ``loss`` as a vector, and which of its numbers exist.

        Parameters that the loss does not reach (those of an unused head) have no gradient; their
        numbers are 0 and False in the mask. The mask is None where all have one.
        """
        grads = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        if all(grad is None for grad in grads):
            raise ValueError("The objective does not depend on anything that adapts.")
        pieces = [
            self.values.new_zeros(size) if grad is None else grad.reshape(-1)
            for grad, size in zip(grads, self.sizes, strict=True)
        ]
        mask = None
        if any(grad is None for grad in grads):
            reached = torch.tensor([grad is not None for grad in grads])
            mask = reached.repeat_interleave(torch.tensor(self.sizes)).to(self.values.device)
        return torch.cat(pieces), mask


def alignment(
    auxiliary: Tensor, pseudo: Tensor, has_pseudo: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosine similarity and both norms of two gradients, each of shape ().

    cos = ⟨g_a, g_p⟩ / (‖g_a‖‖g_p‖ + 1e-12). The pseudo norm runs over the numbers that have a
    pseudo gradient; the auxiliary norm and the product over those that have both.

    Parameters
    ----------
    auxiliary, pseudo : Tensor, shape (n,)
        Zero where there is no gradient.
    has_pseudo : Tensor of bool, shape (n,), or None
        Which numbers have a pseudo gradient; None where all have one.
    """
    both = auxiliary if has_pseudo is None else auxiliary * has_pseudo
    auxiliary_norm = torch.linalg.vector_norm(both)
    pseudo_norm = torch.linalg.vector_norm(pseudo)
    cosine = torch.dot(both, pseudo) / (auxiliary_norm * pseudo_norm + _TINY)
    # Rounding may carry parallel gradients past 1.
    return cosine.clamp(-1, 1), auxiliary_norm, pseudo_norm


def layer_cosines(auxiliary: Tensor, pseudo: Tensor, layers: Mapping[str, int]) -> Tensor:
    """Return the cosine similarity of two gradients in each layer, shape (L,).

    NaN where a layer has no gradient of one of them.

    Parameters
    ----------
    auxiliary, pseudo : Tensor, shape (n,)
    layers : mapping of str to int
        As of `FlatParameters`.
    """
    products = auxiliary * pseudo, auxiliary.square(), pseudo.square()
    dots, first, second = (
        torch.stack([piece.sum() for piece in one.split(list(layers.values()))]) for one in products
    )
    # 0 / 0 is the NaN of a layer without gradient.
    return (dots / (first.sqrt() * second.sqrt())).clamp(-1, 1)


def aligned_rate(cosine: Tensor, base: float, rule: str) -> Tensor:
    """Return the learning rate η that a cosine similarity allows.

    ``quadratic`` β·(cos + 1)²/4 (published), ``linear`` β·(cos + 1)/2, ``softplus``
    β·log(1 + eᶜᵒˢ), ``fixed`` β.
    """
    if rule == "quadratic":
        return base * (cosine + 1).square() / 4
    if rule == "linear":
        return base * (cosine + 1) / 2
    if rule == "softplus":
        return base * torch.log1p(torch.exp(cosine))
    if rule == "fixed":
        return torch.full_like(cosine, base)
    raise ValueError(f"No rule called {rule!r}; choose one of {', '.join(LEARNING_RATE_RULES)}.")


class FlatAdam:
    """Adam (Kingma and Ba, 2015) on one vector, with its state in two more.

    ``torch.optim.Adam`` gives the same numbers; here the state is two plain vectors and a count,
    so that it can be kept at every step, and the rate may be a tensor that never leaves the
    device.
    """

    betas = (0.9, 0.999)
    eps = 1e-8

    def __init__(self, values: Tensor) -> None:
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)
        self.count = 0
        self.since = 0  # the count at which the moments began anew

    def step(self, values: Tensor, gradient: Tensor, rate: Tensor) -> None:
        """Change ``values`` in place by one step along −``gradient``."""
        first_beta, second_beta = self.betas
        self.count += 1
        taken = self.count - self.since
        self.first.lerp_(gradient, 1 - first_beta)
        self.second.mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
        deviation = self.second.sqrt() / math.sqrt(1 - second_beta**taken) + self.eps
        values.sub_(rate / (1 - first_beta**taken) * self.first / deviation)
