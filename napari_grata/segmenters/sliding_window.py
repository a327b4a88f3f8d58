"""Networks of a fixed window on images of any size: windows, their weights, mirroring, folds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

#: Windows follow one another by half their size.
STEP = 0.5
#: Planes of a volume that are handed on at a time.
PLANES = 8
#: z-scores that become 0 and 1; a network with instance normalisation does not care which.
Z_SCORES = (-3.0, 5.0)
#: Standard deviation of a window's weights, as a part of its size.
DEVIATION = 1 / 8


def window_weights(window: Sequence[int]) -> Tensor:
    """Return the weights of a window's voxels, a Gaussian about its centre, nowhere 0."""
    weights = np.zeros(tuple(window))
    weights[tuple(side // 2 for side in window)] = 1
    deviations = [side * DEVIATION for side in window]
    weights = gaussian_filter(weights, deviations, mode="constant", cval=0)
    weights /= weights.max()
    weights[weights == 0] = weights[weights > 0].min()
    return torch.from_numpy(weights.astype(np.float32))


class SlidingWindow(nn.Module):
    """Networks of one window as one network for images of any size.

    Parameters
    ----------
    folds : sequence of nn.Module
        Their logits are averaged.
    window : sequence of int
        Two sides or three; a smaller image is padded with 0 as the networks see it.
    ranges : sequence of (float, float)
        One a channel: which intensities of the networks are 0 and 1 here (they see ``image · scale
        + offset``), so that images can be handed about in [0, 1] and views of them made there.
    """

    weights: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        folds: Sequence[nn.Module],
        window: Sequence[int],
        ranges: Sequence[tuple[float, float]],
    ) -> None:
        super().__init__()
        self.folds = nn.ModuleList(folds)
        self.window = tuple(window)
        wide = (-1,) + (1,) * len(self.window)
        spans = [high - low for low, high in ranges]
        for name, values in (("scale", spans), ("offset", [low for low, _ in ranges])):
            tensor = torch.tensor(values, dtype=torch.float32).view(wide)
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("weights", window_weights(self.window), persistent=False)

    def forward(self, images: Tensor, mirror: Sequence[int] = ()) -> Tensor:
        """Return logits (B, S, …) of images (B, C, …).

        Parameters
        ----------
        images : Tensor
        mirror : sequence of int
            Spatial axes over which predictions are mirrored, all ways, and averaged.
        """
        found = [slab for _, slab in self._slabs(images, mirror)]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def slabs(self, images: Tensor, mirror: Sequence[int] = ()) -> Iterator[tuple[slice, Tensor]]:
        """Yield the logits in slabs along the first side, as soon as no window adds to them.

        Of many structures on a volume, all of it at once is gigabytes.

        Yields
        ------
        (slice, Tensor)
            Which planes these are, at most `PLANES`, and their logits (B, S, planes, …).
        """
        for first, slab in self._slabs(images, mirror):
            for piece in slab.split(PLANES, dim=2):
                yield slice(first, first + piece.shape[2]), piece
                first += piece.shape[2]

    def _slabs(self, images: Tensor, mirror: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        x = images * self.scale + self.offset
        sides = x.shape[2:]
        spare = [max(0, want - have) for want, have in zip(self.window, sides, strict=True)]
        if any(spare):
            ends = [(n // 2, n - n // 2) for n in reversed(spare)]
            x = functional.pad(x, tuple(itertools.chain.from_iterable(ends)))
        starts = [
            self.starts(have, want) for have, want in zip(x.shape[2:], self.window, strict=True)
        ]
        inner = [slice(n // 2, n // 2 + side) for n, side in zip(spare, sides, strict=True)]
        if all(len(one) == 1 for one in starts):
            stitched = iter([(0, self._mirrored(x, mirror))])
        else:
            stitched = self._stitched(x, starts, mirror)
        for first, found in stitched:
            yield first, found[(slice(None), slice(None), *inner)]

    def starts(self, size: int, window: int) -> list[int]:
        """Return where the windows of one axis start: evenly spaced, at most half of one apart."""
        furthest = max(0, size - window)
        steps = math.ceil(furthest / (window * STEP))
        return [round(furthest * n / steps) for n in range(steps + 1)] if steps else [0]

    def _stitched(
        self, x: Tensor, starts: Sequence[Sequence[int]], mirror: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        depth, weights = self.window[0], self.weights.to(x.dtype)
        total, weight = x.new_zeros(0), x.new_zeros(depth, *x.shape[3:])
        for first, following in itertools.pairwise([*starts[0], x.shape[2]]):
            for place in itertools.product(*starts[1:]):
                inside: Any = tuple(
                    slice(start, start + side)
                    for start, side in zip(place, self.window[1:], strict=True)
                )
                here = x[:, :, first : first + depth][(..., *inside)]
                part = self._mirrored(here, mirror)
                if not total.numel():
                    total = part.new_zeros(*part.shape[:3], *x.shape[3:])
                total[(..., *inside)] += part * weights
                weight[(..., *inside)] += weights
            done = following - first
            yield first, total[:, :, :done] / weight[:done]
            # What the next windows add to moves to the front. Not in place: gradients need it.
            weight = torch.cat([weight[done:], torch.zeros_like(weight[:done])])
            total[:, :, : depth - done] = total[:, :, done:].clone()
            total[:, :, depth - done :] = 0

    def _mirrored(self, x: Tensor, mirror: Sequence[int]) -> Tensor:
        axes = [axis + 2 for axis in mirror]
        found = self._averaged(x)
        for count in range(1, len(axes) + 1):
            for some in itertools.combinations(axes, count):
                found = found + self._averaged(x.flip(some)).flip(some)
        return found / 2 ** len(axes) if axes else found

    def _averaged(self, x: Tensor) -> Tensor:
        found: Tensor = self.folds[0](x)
        for fold in list(self.folds)[1:]:
            found = found + fold(x)
        return found / len(self.folds) if len(self.folds) > 1 else found

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return each tensor once: a decoder holds its encoder too, a container its layers."""
        found = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        once = {prefix + name for name, _ in self.named_parameters()}
        once |= {prefix + name for name, _ in self.named_buffers()}
        for name in [name for name in found if name not in once]:
            del found[name]
        return found
