"""Labelled scans of the source centre, and training images made of them.

Which cases train and which are held out; views of photographs and planes through volumes, both
with their targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as fn

from napari_grata.scans import Scan, open_scan, read_mask
from napari_grata.scans.files import stem
from napari_grata.scans.readers import is_scan_file
from napari_grata.segmenters.card import Card
from napari_grata.segmenters.preprocessing import prepare

from .views import GeometryRange, draw_views, frame_points, identity_views


class TrainingError(ValueError):
    """Training cannot start or go on; the message says why, where, and what to do."""


@dataclass(frozen=True)
class LabelledCase:
    """One scan and its reference mask.

    Parameters
    ----------
    name : str
        File stem, the same for both.
    image, mask : Path
        The two files.
    """

    name: str
    image: Path
    mask: Path


def find_cases(root: Path, folder: str) -> list[LabelledCase]:
    """The labelled cases of one centre, in file-name order.

    Parameters
    ----------
    root : Path
        The folder that holds ``folder``, or one further down on the way to it.
    folder : str
        Where the centre lies, such as ``"local_disc_cup/RIM-ONE_r2"``. ``root`` may be the data
        set or the centre itself, as long as its name says so: another centre's folder is not
        taken for this one.

    Raises
    ------
    TrainingError
        No such folder, no images in it, or an image without a mask.
    """
    root = Path(root)
    parts = Path(folder).parts
    own = root.resolve().parts
    candidates = [
        root.joinpath(*parts[k:]) for k in range(len(parts) + 1) if k == 0 or own[-k:] == parts[:k]
    ]
    centre = next((c for c in candidates if (c / "images").is_dir()), None)
    if centre is None:
        raise TrainingError(
            f"No training data: {root} holds no {folder}/images. "
            "Name the folder that holds the data sets, or the centre itself, with --data."
        )
    if not (centre / "masks").is_dir():
        raise TrainingError(f"No masks beside the images of {centre}: expected {centre / 'masks'}.")
    images, masks = (
        {stem(path): path for path in sorted((centre / folder).iterdir()) if is_scan_file(path)}
        for folder in ("images", "masks")
    )
    if not images:
        raise TrainingError(f"No images in {centre / 'images'}.")
    lonely = [name for name in images if name not in masks]
    if lonely:
        raise TrainingError(
            f"{len(lonely)} of {len(images)} images in {centre} have no mask of the same name, "
            f"the first is {lonely[0]}. Add the masks or take the images away."
        )
    return [LabelledCase(name, images[name], masks[name]) for name in sorted(images)]


def split_cases(
    cases: Sequence[LabelledCase], fraction: float, *, block: int = 1, seed: int = 0
) -> tuple[list[LabelledCase], list[LabelledCase]]:
    """Seeded hold-out by runs of neighbours.

    Neighbours in file-name order are held out together: where the two eyes of one person follow
    each other, fewer pairs end up on both sides of the split than with single draws.

    Parameters
    ----------
    cases : sequence of LabelledCase
        In file-name order.
    fraction : float
        Part to hold out, at least one block.
    block : int
        Length of a run.
    seed : int
        The same seed gives the same split.

    Returns
    -------
    training, held_out : list of LabelledCase
        Both in file-name order, both not empty.
    """
    blocks = [list(range(k, min(k + block, len(cases)))) for k in range(0, len(cases), block)]
    if len(blocks) < 2:
        raise TrainingError(
            f"{len(cases)} labelled cases are too few: training and held-out cases are both "
            f"needed, in runs of {block}. Add more cases."
        )
    order = np.random.default_rng(seed).permutation(len(blocks))
    count = min(max(1, round(fraction * len(blocks))), len(blocks) - 1)
    out = sorted(i for b in order[:count] for i in blocks[b])
    chosen = set(out)
    return [c for i, c in enumerate(cases) if i not in chosen], [cases[i] for i in out]


def labelled_scans(
    cases: Sequence[LabelledCase], labels: dict[int, int]
) -> Iterator[tuple[Scan, np.ndarray]]:
    """Each scan with its reference label stack; `labels` maps stored to structure values."""
    for case in cases:
        scan = open_scan(case.image)
        yield scan, read_mask(case.mask, scan, labels=labels)


@dataclass(frozen=True)
class Batch:
    """Images (B, C, H, W) in [0, 1] and targets (B, K, H, W), soft at the borders."""

    images: Tensor
    targets: Tensor


def sum_of(label_map: Tensor, values: Sequence[int]) -> Tensor:
    """Where a label map holds any of some values, as 0 and 1."""
    return torch.isin(label_map, torch.tensor(list(values), dtype=label_map.dtype)).float()


def _free_border(maps: Tensor, most: int) -> int:
    """Width of the border (pixels, at most `most`) that shows no structure."""
    shown = maps[0].amax(0) > 0
    if not shown.any():
        return min(most, min(shown.shape) // 4)
    ends = []
    for axis in (0, 1):
        places = shown.any(1 - axis).nonzero()
        ends += [int(places.min()), shown.shape[axis] - 1 - int(places.max())]
    return max(0, min(most, *(end - 2 for end in ends)))


def _box(inside: Tensor) -> tuple[slice, ...]:
    """The smallest box that holds all that is inside, and two voxels more."""
    places = inside.nonzero()
    return tuple(
        slice(max(int(a) - 2, 0), int(b) + 3)
        for a, b in zip(places.amin(0), places.amax(0), strict=True)
    )


class PhotographSource:
    """Photographs of one centre, held as the segmenter prepares them.

    Around each photograph lies a margin for views that are smaller, turned or shifted: a mirror
    image as far as it shows no structure, then the border's colours, smeared.

    Parameters
    ----------
    cases : sequence of LabelledCase
    card : Card
        Says how a photograph is prepared.
    size : (int, int)
        Frame (H, W) of the views.
    values : sequence of sequence of int
        For every output channel, the structure values that belong to it.
    labels : dict of int to int
        Stored mask value to structure value.
    device : torch.device
        Where the views are made.
    """

    margin = 0.4

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        card: Card,
        size: tuple[int, int],
        values: Sequence[Sequence[int]],
        labels: dict[int, int],
        device: torch.device,
    ) -> None:
        self.size = size
        loaded = [self._load(case, card, values, labels) for case in cases]
        self.pictures = torch.stack([picture for picture, _ in loaded]).to(device)
        self.maps = torch.stack([maps for _, maps in loaded]).to(device)

    def __len__(self) -> int:
        return len(self.pictures)

    def _load(
        self,
        case: LabelledCase,
        card: Card,
        values: Sequence[Sequence[int]],
        labels: dict[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Picture (C, h, w) and target maps (K, h, w) with their margin, as bytes."""
        scan = open_scan(case.image)
        prepared = prepare(card, scan, 0)
        label_map = torch.from_numpy(read_mask(case.mask, scan, labels=labels))
        maps = torch.stack([sum_of(label_map, v) for v in values])[None]
        frame = prepared.frame
        maps = fn.interpolate(maps, size=frame.inner, mode="bilinear", antialias=True)
        (top, left), (h, w) = frame.padding, frame.inner
        maps = fn.pad(maps, (left, frame.outer[1] - w - left, top, frame.outer[0] - h - top))
        picture, maps = (torch.round(x * 255).byte() for x in (prepared.image, maps.clamp(0, 1)))
        pad = round(self.margin * max(frame.outer))
        picture = fn.pad(picture, (_free_border(maps, pad),) * 4, mode="reflect")
        rest = pad - (picture.shape[2] - frame.outer[0]) // 2
        picture = fn.pad(picture, (rest,) * 4, mode="replicate")
        return picture[0], fn.pad(maps, (pad,) * 4)[0]

    def batch(
        self,
        indices: Sequence[int],
        limits: GeometryRange | None,
        generator: Generator,
        *,
        size: tuple[int, int] | None = None,
    ) -> Batch:
        """Views of some photographs; without limits, the photographs as they are."""
        pick = torch.as_tensor(list(indices), device=self.pictures.device)
        count = len(pick)
        views = draw_views(count, limits, generator) if limits else identity_views(count)
        points = frame_points(views, size or self.size)[..., 1:].to(self.pictures.device)
        half = torch.tensor(self.pictures.shape[2:], device=points.device) / 2
        grid = (points / half).flip(-1)
        images = self.pictures[pick].float() / 255
        targets = self.maps[pick].float() / 255
        images = fn.grid_sample(images, grid, padding_mode="border", align_corners=False)
        targets = fn.grid_sample(targets, grid, align_corners=False)
        return Batch(images, targets)


class VolumeSource:
    """Axial planes through volumes, tilted and shifted at random.

    Parameters
    ----------
    cases : sequence of LabelledCase
    card : Card
        Says the pixel spacing and the quantiles of each volume that become 0 and 1.
    size : (int, int)
        Frame (H, W) of the planes.
    values : sequence of sequence of int
        For every output channel, background first, the structure values that belong to it.
    labels : dict of int to int
        Stored mask value to structure value.
    device : torch.device
        Where the planes are sampled.
    """

    def __init__(
        self,
        cases: Sequence[LabelledCase],
        card: Card,
        size: tuple[int, int],
        values: Sequence[Sequence[int]],
        labels: dict[int, int],
        device: torch.device,
    ) -> None:
        self.size = size
        if card.spacing is None or card.normalisation["kind"] != "quantile":
            raise TrainingError(
                f"The card of {card.name} needs a spacing and quantile normalisation."
            )
        self.spacing = torch.tensor([min(card.spacing), *card.spacing])
        self.volumes: list[Tensor] = []
        self.zooms: list[Tensor] = []
        for case in cases:
            scan = open_scan(case.image)
            if scan.kind != "volume" or scan.slice_spacing is None or scan.slice_thickness is None:
                raise TrainingError(f"{case.image} is not a volume with voxel sizes in mm.")
            label_map = torch.from_numpy(read_mask(case.mask, scan, labels=labels))
            low, high = scan.intensity_range(
                0, card.normalisation["low"], card.normalisation["high"]
            )
            image = torch.from_numpy(np.array(scan.data, np.float32))
            image = ((image - low) / (high - low)).clamp_(0, 1)
            box = _box(image > 0)
            stack = [image, *(sum_of(label_map, v) for v in values)]
            self.volumes.append(torch.stack([x[box] for x in stack]).to(device))
            self.zooms.append(torch.tensor([scan.slice_thickness, *scan.slice_spacing]))
        # One pass sees every second plane of every volume.
        self.planes = [(v, z) for v, x in enumerate(self.volumes) for z in range(0, x.shape[1], 2)]

    def __len__(self) -> int:
        return len(self.planes)

    def batch(
        self,
        indices: Sequence[int],
        limits: GeometryRange | None,
        generator: Generator,
        *,
        size: tuple[int, int] | None = None,
    ) -> Batch:
        """Planes by index; without limits, the axial planes as they are.

        Returned targets include the background, so they sum to one over the channels.
        """
        count = len(indices)
        views = draw_views(count, limits, generator) if limits else identity_views(count)
        points = frame_points(views, size or self.size)
        lift = torch.rand(count, generator=generator) * 2 - 1 if limits else torch.zeros(count)
        images, targets = [], []
        for k, index in enumerate(indices):
            v, z = self.planes[index]
            volume, zooms = self.volumes[v], self.zooms[v]
            shape = torch.tensor(volume.shape[1:]).float()
            voxels = points[k] * self.spacing / zooms + (shape - 1) / 2
            voxels[..., 0] += z + lift[k] - (shape[0] - 1) / 2
            grid = ((2 * voxels + 1) / shape - 1).flip(-1).to(volume.device)
            grid = grid[None, None]
            # Beyond the volume its border is repeated, as round a slice that is prepared.
            image = fn.grid_sample(
                volume[None, :1], grid, padding_mode="border", align_corners=False
            )
            images.append(image[0, :, 0])
            tissue = fn.grid_sample(volume[None, 2:], grid, align_corners=False)[0, :, 0]
            tissue = tissue.clamp(0, 1)
            background = (1 - tissue.sum(0, keepdim=True)).clamp(0, 1)
            targets.append(torch.cat([background, tissue]))
        return Batch(torch.stack(images), torch.stack(targets))
