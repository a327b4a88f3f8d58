"""A source segmenter: card and network together, from a scan's slices to label maps."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from . import preprocessing
from .card import CARD_FILE, Card, ModelError
from .devices import free_bytes, is_out_of_memory, lay_out, resolve_device, size_words
from .loaders import loader_for, model_path
from .preprocessing import Frame, PredictionError, Prepared, Region, frame_for
from .registry import find_model

if TYPE_CHECKING:
    from napari_grata.scans import Scan


#: Pixels of the network's input that are predicted at once, over all slices of a batch.
BATCH_PIXELS = 2048 * 2048
_TO_SEGMENT = "for a single slice"


class OutOfMemoryError(PredictionError, MemoryError):
    """Not even a single slice fits into memory."""


@contextmanager
def memory_in_words(
    work: str, way: str = "Close other programs, or draw a region over the part that matters."
) -> Iterator[None]:
    """Say in words that memory ran out, wherever it did: an `OutOfMemoryError`.

    Parameters
    ----------
    work : str
        What there is not enough for: "to load this model".
    way : str
        What can be done about it.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"There is not enough memory {work}. {way}") from error


@dataclass(frozen=True)
class Prediction:
    """What a model says about one slice.

    Attributes
    ----------
    slice_index : int
    label_map : ndarray of uint8, shape (H, W)
        Structure values of the card, 0 for background.
    probabilities : ndarray of float32, shape (S, H, W)
        On the slice's own grid. Sigmoid: one map per structure; softmax: background first.
    """

    slice_index: int
    label_map: np.ndarray
    probabilities: np.ndarray


class Segmenter:
    """A source model, ready to predict. Its weights are never changed.

    Parameters
    ----------
    card : Card
    network : nn.Module
        Kept in evaluation mode without gradients; adaptation works on its own copy.
    device : str or torch.device

    Attributes
    ----------
    notices : list of str
        What a person should know, such as a change of device; never emptied by us.
    folder : Path or None
        Where it was loaded from.
    """

    folder: Path | None = None
    standing: tuple[str, ...] = ()
    """Notices of the model itself, told with the first slice."""

    def __init__(self, card: Card, network: nn.Module, device: str | torch.device = "auto"):
        self.card = card
        self.device = resolve_device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        lay_out(self.network, self.device)
        self.notices: list[str] = []

    def __repr__(self) -> str:
        return f"Segmenter({self.card.name!r}, device={str(self.device)!r})"

    def fits(self, scan: Scan) -> str | None:
        """Return None if the model can read `scan`, else one sentence that says why not."""
        return self.card.fits(scan)

    def to(self, device: str | torch.device) -> Segmenter:
        """Return this segmenter on another device; this one stays where it is."""
        target = resolve_device(device)
        if target == self.device:
            return self
        other = type(self)(self.card, _copy_on(self.network, target), target)
        other.notices, other.folder, other.standing = self.notices, self.folder, self.standing
        return other

    def prepare(self, scan: Scan, i: int, region: Region | None = None) -> Prepared:
        """Bring slice `i` to the form that the network reads, on its device.

        See `napari_grata.segmenters.preprocessing.prepare`.
        """
        self._notice(*self.standing)
        return self._prepare(scan, i, region).to(self.device)

    def _prepare(self, scan: Scan, i: int, region: Region | None) -> Prepared:
        shape, spacing = scan.slice_shape(i), scan.slice_spacing
        self._check_room(frame_for(self.card, shape, spacing=spacing, region=region), spacing)
        if self.card.spacing is not None and scan.slice_spacing is None:
            row, column = self.card.spacing
            self._notice(
                f"This scan states no pixel size; it is read as {row:g} × {column:g} mm, which "
                "the model expects. If that is wrong, so is the result."
            )
        prepared = preprocessing.prepare(self.card, scan, i, region)
        if prepared.invalid is not None:
            self._notice(
                "Some pixels of this scan hold no number (NaN or infinite); nothing is found there."
            )
        return prepared

    def _check_room(self, frame: Frame, spacing: tuple[float, float] | None) -> None:
        """Refuse a slice that does not fit into memory, before memory is taken for it."""
        pixels = frame.outer[0] * frame.outer[1]
        if pixels <= BATCH_PIXELS:
            return
        restored = 4 * self.card.outputs * frame.shape[0] * frame.shape[1]
        needed, free = pixels * self._pixel_bytes + restored, free_bytes(self.device)
        if free is not None and needed > free:
            at = "" if spacing is None else f" (pixels of {spacing[0]:g} × {spacing[1]:g} mm)"
            raise PredictionError(
                f"A slice would become {frame.outer[0]} × {frame.outer[1]} pixels for this model "
                f"and need about {size_words(needed)}, but {size_words(free)} are free. Check the "
                f"pixel size of the scan{at}, draw a region, or close other programs."
            )

    @cached_property
    def _pixel_bytes(self) -> float:
        """Memory of a prediction for each pixel of the network's input.

        Four times the largest map of the network: measured with 1024² and 2048² pixels, ours
        took 2.7 to 3.8 times it.
        """
        largest = 0

        def note(module: nn.Module, given: object, output: object) -> None:
            nonlocal largest
            if isinstance(output, torch.Tensor):
                largest = max(largest, output.numel() * output.element_size())

        hooks = [module.register_forward_hook(note) for module in self.network.modules()]
        try:
            with torch.inference_mode():
                self.network(torch.zeros(1, self.card.channels, 64, 64, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return 4 * largest / 64**2

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits (B, S, h, w) into probabilities of the same shape."""
        return logits.softmax(1) if self.card.activation == "softmax" else logits.sigmoid()

    def restore(self, probabilities: torch.Tensor | np.ndarray, prepared: Prepared) -> np.ndarray:
        """Bring probabilities (S, h, w) back to the slice's grid, linearly.

        Returns
        -------
        ndarray of float32, shape (S, H, W)
            Outside the region 0, and 1 for softmax's background.
        """
        return preprocessing.restore(probabilities, prepared, outside=self.outside)

    @property
    def outside(self) -> np.ndarray:
        """Probabilities where nothing was looked for, float32, shape (S,)."""
        found: np.ndarray = np.zeros(self.card.outputs, np.float32)
        found[0] = self.card.activation == "softmax"
        return found

    def label_map(self, probabilities: np.ndarray | torch.Tensor) -> np.ndarray:
        """Turn probabilities (S, H, W) into a label map.

        Sigmoid: a structure is where its probability is at least 0.5; contained structures are
        painted over those that contain them. Softmax: the most probable class.

        Returns
        -------
        ndarray of uint8, shape (H, W)
        """
        if isinstance(probabilities, torch.Tensor):
            probabilities = probabilities.detach().cpu().numpy()
        values = np.array([structure.value for structure in self.card.structures], np.uint8)
        if self.card.activation == "softmax":
            found: np.ndarray = np.concatenate([np.zeros(1, np.uint8), values])
            return np.asarray(found[probabilities.argmax(0)])
        labels: np.ndarray = np.zeros(probabilities.shape[1:], np.uint8)
        for index in self.card.painting_order():
            labels[probabilities[index] >= 0.5] = values[index]
        return labels

    def predict(
        self,
        scan: Scan,
        slices: Iterable[int] | None = None,
        region: Region | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Prediction]:
        """Predict slices of a scan, in the order given.

        Parameters
        ----------
        scan : Scan
        slices : iterable of int, optional
            Flat slice indices; all by default.
        region : (row0, column0, row1, column1), optional
            Predict this rectangle alone; outside it is background.
        batch_size : int, optional
            Slices at once; by default 4 on the CPU and 16 elsewhere. The result does not depend
            on it. When memory runs out, it is halved, and in the end the CPU takes over, with a
            notice in `notices`.

        Yields
        ------
        Prediction

        Raises
        ------
        PredictionError
            The model does not fit the scan, a slice is too large, memory runs out
            (`OutOfMemoryError`), or what came out of the network are no numbers.
        """
        misfit = self.fits(scan)
        if misfit is not None:
            raise PredictionError(misfit)
        self._notice(*self.standing)
        every = range(scan.n_slices) if slices is None else slices
        yield from self._predicted(scan, every, region, batch_size)

    def _predicted(
        self, scan: Scan, slices: Iterable[int], region: Region | None, batch_size: int | None
    ) -> Iterator[Prediction]:
        size = batch_size or (4 if self.device.type == "cpu" else 16)
        remaining = iter(slices)
        while batch := list(islice(remaining, size)):
            # They wait on the CPU: a device that fails must not take them along.
            with memory_in_words(_TO_SEGMENT):
                prepared = [self._prepare(scan, i, region) for i in batch]
            for _, alike in groupby(prepared, key=lambda item: item.image.shape):
                group, start = list(alike), 0
                while start < len(group):
                    fits = BATCH_PIXELS // math.prod(group[0].image.shape[2:])
                    part = group[start : start + max(1, min(size, fits))]
                    try:
                        outputs = self._forward(part)
                    except (RuntimeError, MemoryError) as error:
                        size = self._after_failure(error, len(part))
                        continue
                    start += len(part)
                    for item, output in zip(part, outputs, strict=True):
                        with memory_in_words(_TO_SEGMENT):
                            restored = self.restore(output, item)
                            labels = self.label_map(restored)
                        yield Prediction(item.slice_index, labels, restored)

    def _forward(self, items: list[Prepared]) -> list[torch.Tensor]:
        with torch.inference_mode():
            images = torch.cat([item.image for item in items]).to(self.device)
            logits = self._network_logits(images)
            probabilities = self.probabilities(logits).float().cpu()
            each = list(probabilities)
        self._check_finite(logits)
        return each

    def _network_logits(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return logits

    def _check_finite(self, logits: torch.Tensor) -> None:
        if not bool(torch.isfinite(logits).all()):
            raise PredictionError(
                f"The model {self.card.name!r} gives values that are no numbers on this scan. Its "
                "weights are damaged, or the scan is far from anything it was made for: try it on "
                "another scan, and fetch the model again if it fails there too."
            )

    def _after_failure(self, error: BaseException, tried: int) -> int:
        """Make room after memory ran out: return the next batch size, or raise `error`."""
        if not is_out_of_memory(error):
            raise error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried > 1:
            return tried // 2
        if self.device.type == "cpu":
            with memory_in_words(_TO_SEGMENT):
                raise error
        self._notice(
            f"The graphics card ({self.device}) ran out of memory; the CPU goes on from here, "
            "more slowly."
        )
        moved = self.to("cpu")
        self.network, self.device = moved.network, moved.device
        return 1

    def _notice(self, *texts: str) -> None:
        self.notices += [text for text in texts if text not in self.notices]


def _copy_on(network: nn.Module, device: torch.device) -> nn.Module:
    """Copy a network straight to a device: where it is there may be no room for two."""
    moved: dict[int, object] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        there = tensor.detach().to(device, copy=True)
        if isinstance(tensor, nn.Parameter):
            there = nn.Parameter(there, requires_grad=tensor.requires_grad)
        moved[id(tensor)] = there
    return copy.deepcopy(network, moved)


def load_segmenter(model: str | Path, device: str | torch.device = "auto") -> Segmenter:
    """Load a source segmenter.

    Parameters
    ----------
    model : str or path
        Name of a model (see `list_models`), a model folder, or a published ``.pth`` checkpoint.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda:0"``, ``"mps"``.

    Raises
    ------
    ModelError, DeviceError
        Both are ValueErrors whose message says what to do.
    OutOfMemoryError
        The model does not fit into memory.
    """
    target = resolve_device(device)
    path = _place(model)
    with memory_in_words("to load this model", "Close other programs, or choose a smaller one."):
        loaded = loader_for(path).load(path)
        segmenter = _kind_of(loaded.card)(loaded.card, loaded.network, target)
    segmenter.folder, segmenter.standing = path, loaded.notices
    return segmenter


def _kind_of(card: Card) -> type[Segmenter]:
    if card.architecture == "nnunet":
        from .nnunet_segmenter import NNUNetSegmenter

        return NNUNetSegmenter
    if "plan" in card.arguments:
        from .planned import PlannedSegmenter

        return PlannedSegmenter
    return Segmenter


def _place(model: str | Path) -> Path:
    """Where a model lies. A bare name means a listed model, even beside a folder of that name."""
    path = Path(os.path.expanduser(model))
    if os.path.isfile(path):
        return model_path(path)
    if isinstance(model, Path) or len(path.parts) > 1:
        if not os.path.exists(path):
            raise ModelError(f"There is no model at {path}.")
        return path
    try:
        return find_model(str(model)).folder
    except ModelError:
        if os.path.isfile(path / CARD_FILE):
            return path
        raise
