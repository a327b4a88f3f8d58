"""The six flips and rotations of an image, their exact inverses, and predictions over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .normalisation import grouped

VIEWS = (
    "identity",
    "horizontal flip",
    "vertical flip",
    "rotation 90",
    "rotation 180",
    "rotation 270",
)
_TURNS = {3: 1, 4: 2, 5: 3}
_ROW_COLUMN = (-2, -1)


def view(x: Tensor, index: int) -> Tensor:
    """Return view ``index`` (see ``VIEWS``) of ``x``, shape (…, H, W); rotations are anticlockwise.

    Views 3 and 5 (rotations by 90° and 270°) swap height and width.
    """
    if index == 0:
        return x
    if index in (1, 2):
        return torch.flip(x, (-1 if index == 1 else -2,))
    return torch.rot90(x, _TURNS[index], _ROW_COLUMN)


def unview(x: Tensor, index: int) -> Tensor:
    """Map a prediction on view ``index`` back onto the image; the exact inverse of `view`."""
    if index < 3:
        return view(x, index)
    return torch.rot90(x, -_TURNS[index], _ROW_COLUMN)


@torch.no_grad()
def predict_views(
    network: nn.Module,
    images: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    *,
    batch_views: bool = False,
) -> tuple[Tensor, Tensor]:
    """Predict all six views without gradient; each is normalised with its own statistics.

    Parameters
    ----------
    network : nn.Module
        As `adaptable_copy` makes it.
    images : Tensor, shape (B, C, H, W)
    probabilities : callable
        Logits to probabilities, element by element of the image plane.
    batch_views : bool
        Views of equal shape run as one batch: all six where H = W, else four and two. Equal to
        the view-by-view path within rounding; faster on a GPU.

    Returns
    -------
    logits : Tensor, shape (B, S, H, W)
        Of the identity view.
    mean : Tensor, shape (B, S, H, W)
        Mean of the probabilities over the six views, mapped back onto the image.
    """
    if not batch_views:
        together: list[tuple[int, ...]] = [(index,) for index in range(len(VIEWS))]
    elif images.shape[-2] == images.shape[-1]:
        together = [tuple(range(len(VIEWS)))]
    else:
        together = [(0, 1, 2, 4), (3, 5)]
    logits = total = None
    for indices in together:
        for index, one in zip(indices, _forward(network, images, indices), strict=True):
            if index == 0:
                logits = one
            back = unview(probabilities(one), index)
            total = back if total is None else total + back
    assert logits is not None
    assert total is not None
    return logits, total / len(VIEWS)


def _forward(network: nn.Module, images: Tensor, indices: tuple[int, ...]) -> list[Tensor]:
    if len(indices) == 1:
        return [network(view(images, indices[0]))]
    # Rows b·G + g, as `grouped` wants them.
    rows = torch.stack([view(images, index) for index in indices], dim=1).flatten(0, 1)
    with grouped(network, len(indices)):
        out = network(rows)
    return list(out.unflatten(0, (images.shape[0], len(indices))).unbind(1))
