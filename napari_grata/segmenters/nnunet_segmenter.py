"""The network of an nnU-Net card, and how it reads a scan and its answer is brought back.

As nnU-Net does it: crop to what is not 0, normalise, resample to the plan's grid with splines, and
resample the logits back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .nnunet import NETWORKS, Plan
from .sliding_window import Z_SCORES, SlidingWindow
from .volumes import Case, Place, VolumeSegmenter, sampled

if TYPE_CHECKING:
    from napari_grata.scans import Scan

#: Where one axis is this many times as thick as another, it is resampled by itself.
ANISOTROPY = 3.0
_TINY = 1e-8


@dataclass(frozen=True)
class NNUNetCase(Case):
    """What has to be known of a volume: beside the box of what is not 0 …

    Attributes
    ----------
    inside : ndarray of bool or None
        Voxels that are not 0, holes filled; None where no channel asks for it.
    mean, deviation : ndarray, shape (C,)
        Of the intensities that count.
    low, high : ndarray, shape (C,)
        Range of the box's intensities.
    """

    inside: np.ndarray | None
    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray


class NNUNetSegmenter(VolumeSegmenter):
    """A model that nnU-Net trained, ready to predict; see `Segmenter`."""

    plan_class = Plan

    def _look(self, scan: Scan, number: int) -> NNUNetCase:
        from scipy.ndimage import binary_fill_holes, find_objects

        volume = np.stack([self._plane(scan, i) for i in scan.case_slices(number)], axis=1)
        nonzero: np.ndarray = binary_fill_holes((volume != 0).any(axis=0))
        box = next(iter(find_objects(nonzero.astype(np.uint8))), (slice(None),) * 3)
        box = tuple(slice(*cut.indices(n)[:2]) for cut, n in zip(box, nonzero.shape, strict=True))
        figures = []
        for channel, masked in zip(volume[(slice(None), *box)], self.plan.masked, strict=True):
            counted = channel[nonzero[box]] if masked and nonzero.any() else channel
            figures.append((counted.mean(), counted.std(), channel.min(), channel.max()))
        return NNUNetCase(
            box,
            nonzero if any(self.plan.masked) else None,
            *(np.array(one, np.float32) for one in zip(*figures, strict=True)),
        )

    def _new_shape(self, scan: Scan, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            max(1, round(have / want * size))
            for size, have, want in zip(shape, *self._grids(scan), strict=True)
        )

    def _normalised(
        self, case: NNUNetCase, values: np.ndarray, inside: np.ndarray | None
    ) -> np.ndarray:
        """Bring intensities (C, …) of the box to those that the network was trained on."""
        out = values.copy()
        for n, (scheme, channel) in enumerate(zip(self.plan.schemes, out, strict=True)):
            found = self.plan.intensities[n]
            if scheme == "ZScoreNormalization":
                scaled = (channel - case.mean[n]) / max(case.deviation[n], _TINY)
                if self.plan.masked[n] and inside is not None:
                    scaled = np.where(inside, scaled, channel)
                channel[...] = scaled
            elif scheme == "CTNormalization" and found is not None:
                np.clip(channel, found["low"], found["high"], out=channel)
                channel -= np.float32(found["mean"])
                channel /= np.float32(max(found["std"], _TINY))
            elif scheme == "RescaleTo01Normalization":
                channel -= case.low[n]
                channel /= max(case.high[n] - case.low[n], _TINY)
            elif scheme == "RGBTo01Normalization":
                channel /= 255
        return out

    def _limits(self, case: NNUNetCase) -> np.ndarray:
        """Normalised intensities of the whole box, (C, 2): resampling goes no further."""
        ends = np.stack([case.low, case.high], axis=1)
        found = self._normalised(case, ends, np.ones((2,), bool))
        if case.inside is not None and not case.inside[case.box].all():
            # Outside the mask is 0, as it is.
            found = np.stack([np.minimum(found[:, 0], 0), np.maximum(found[:, 1], 0)], axis=1)
        return found

    def _read(
        self, scan: Scan, case: NNUNetCase, where: Place, values: np.ndarray, shape: Sequence[int]
    ) -> np.ndarray:
        from scipy.ndimage import map_coordinates
        from skimage.transform import resize

        inside = None if case.inside is None else self._turned(scan, case.inside[where][None])[0]
        values, limits = self._normalised(case, values, inside), self._limits(case)
        if tuple(values.shape[1:]) == tuple(shape):
            return values
        apart = _separate_axis(*self._grids(scan), self.plan.separate)
        out = np.empty((len(values), *shape), np.float32)
        spline = {"order": self.plan.data_order, "mode": "edge", "anti_aliasing": False}
        for n, channel in enumerate(values.astype(np.float64)):
            if apart is None:
                found = resize(channel, shape, clip=False, **spline)
                out[n] = np.clip(found, limits[n, 0], limits[n, 1])
                continue
            planes = np.moveaxis(channel, apart, 0)
            inner = [size for axis, size in enumerate(shape) if axis != apart]
            planes = np.stack([resize(plane, inner, **spline) for plane in planes])
            if len(planes) != shape[apart]:
                places = (np.arange(shape[apart]) + 0.5) * len(planes) / shape[apart] - 0.5
                grid = np.meshgrid(places, *map(np.arange, inner), indexing="ij")
                planes = map_coordinates(planes, grid, order=self.plan.data_order_z, mode="nearest")
            out[n] = np.moveaxis(planes, 0, apart)
        return out

    def _ways(
        self, scan: Scan, i: int, sides: Sequence[int], grid: Sequence[int]
    ) -> list[torch.Tensor]:
        current, target = self._grids(scan)
        apart = None if self._by_slices(scan) else _separate_axis(target, current, None)
        each = enumerate(zip(sides, grid, strict=True))
        return [_places(side, length, axis == apart) for axis, (side, length) in each]

    def _back(
        self, maps: torch.Tensor, ways: Sequence[torch.Tensor], *, logits: bool = False
    ) -> torch.Tensor:
        if not logits:
            if all(len(way) == side for way, side in zip(ways, maps.shape[1:], strict=True)):
                return maps
            maps = self.as_logits(maps)
        for axis, way in enumerate(ways, start=1):
            maps = sampled(maps, axis, way)
        return self._activated(maps)


def _separate_axis(
    current: Sequence[float], target: Sequence[float], forced: bool | None
) -> int | None:
    """Return the axis to be resampled by itself, None where there is none or more than one."""
    if forced is False:
        return None
    for spacing in (current, target):
        if forced or max(spacing) / min(spacing) > ANISOTROPY:
            thick = [axis for axis, size in enumerate(spacing) if size == max(spacing)]
            return thick[0] if len(thick) == 1 else None
    return None


def _places(size: int, length: int, nearest: bool) -> torch.Tensor:
    """Return where on `length` pixels each of `size` lies that cover the same."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (length / size) - 0.5
    return (places + 0.5).floor() if nearest else places


# -- the network ----------------------------------------------------------------------------


def build(
    *,
    plan: Mapping[str, Any],
    network: Mapping[str, Any],
    folds: Sequence[str],
    outputs: int,
    channels: int,
) -> nn.Module:
    """Build the network of a card's arguments.

    Raises
    ------
    ImportError
        The package with the networks is not installed; the message says how.
    """
    kept = Plan.from_arguments(plan)
    ranges = [_intensity_range(kept, n) for n in range(len(kept.schemes))]
    return SlidingWindow([_unet(network, outputs, channels) for _ in folds], kept.patch, ranges)


def _intensity_range(plan: Plan, channel: int) -> tuple[float, float]:
    """Return which normalised intensities of a channel become 0 and 1.

    They are the same for every scan, so that the network can take them back. Intensities beyond
    them are kept, not clipped.
    """
    scheme, found = plan.schemes[channel], plan.intensities[channel]
    if scheme == "CTNormalization" and found is not None:
        deviation = max(found["std"], _TINY)
        low, high = ((found[end] - found["mean"]) / deviation for end in ("low", "high"))
    elif scheme == "ZScoreNormalization":
        low, high = Z_SCORES
    elif scheme == "NoNormalization" and found is not None:
        low, high = found["low"], found["high"]
    else:
        low, high = 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def _unet(network: Mapping[str, Any], outputs: int, channels: int) -> nn.Module:
    try:
        from dynamic_network_architectures.architectures import unet
    except ImportError as error:
        raise ImportError(
            "networks of nnU-Net need the package dynamic-network-architectures: "
            "pip install 'napari-grata[nnunet]', then try again."
        ) from error
    arguments = dict(network)
    name = arguments.pop("class")
    if name not in NETWORKS or not hasattr(unet, name):
        raise ValueError(f"the network {name!r} is not among {', '.join(NETWORKS)}")
    for key in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        if arguments.get(key) is not None:
            arguments[key] = _layer(arguments[key])
    arguments["deep_supervision"] = False
    made: nn.Module = getattr(unet, name)(input_channels=channels, num_classes=outputs, **arguments)
    return made


def _layer(name: str) -> type[nn.Module]:
    """Return one of PyTorch's layers by name, and nothing else that could be called."""
    found = getattr(nn, str(name), None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"{name!r} is no layer of torch.nn")
    return found
