"""Before adapting: how far is this scan from the source centre?

At each layer that kept statistics from training, the mean of what comes in now is compared with
the mean of what came in then, in standard deviations of then, averaged over the channels:

    d_l = mean_c |μ_now − μ_source| / sqrt(σ²_source + ε)

and a scan's distance is the mean of d_l over the layers. For a volume μ_now is taken over evenly
spaced slices together: single slices differ from one another far more than centres do, and as much
air is put around a head as the source centre's scans have. The card
says how large this distance is for scans of the source centre itself
(`napari_grata.segmenters.shift_reference`), which gives the number a meaning. No labels are
used, and the model is not changed. A scan that lies far is not wrong, and a near one is not
right: see docs/results-details.md for what the distance does and does not tell.

Batch normalisation keeps mean and variance of what came in while the model was trained, and one
pass of a slice through the unchanged source model shows what comes in now. This module loads torch
only when something is measured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from napari_grata.segmenters.shift_reference import FEW_SCANS

from .plan import Region

if TYPE_CHECKING:
    import torch
    from torch import nn

    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Segmenter
    from napari_grata.segmenters.shift_reference import ShiftReference

_log = logging.getLogger(__name__)
Level = Literal["near", "moderate", "far"]
SLICES = 12
"""Slices of a volume that are looked at; with 8 to 24 it differs by 8 % at most (IBSR A, B)."""
MANY_CASES = 40
"""Of longer lists of photographs so many, evenly spaced, stand for all."""


class ShiftError(ValueError):
    """The shift cannot be said, and why."""


@dataclass(frozen=True)
class LayerShift:
    """One layer of the network.

    Attributes
    ----------
    name : str
    mean : float
        Mean over channels of |μ_now − μ_source| / sqrt(σ²_source + ε).
    variance_ratio : float
        Geometric mean over channels of σ²_now / (σ²_source + ε).
    typical : float or None
        Median of ``mean`` over the source centre's own scans.
    """

    name: str
    mean: float
    variance_ratio: float
    typical: float | None = None


@dataclass(frozen=True)
class Shift:
    """How far a scan is from the source centre.

    Attributes
    ----------
    score : float
        Distance in units of the source centre's edge: within 1 lie 19 of 20 of its own scans
        (all of them, where fewer than 20 were measured).
    words : str
        One sentence for a clinician.
    level : {"near", "moderate", "far"}
    per_layer : tuple of LayerShift
        In the network's order.
    calibrated : float
        Share (0 … 1) of the source centre's own scans that lie nearer than this one.
    distance : float
        Mean of ``per_layer`` means: standard deviations of the training's activations.
    more : str
        For researchers: the layers that differ most, and what the reference is.
    cases : int
        Photographs or volumes measured; with several, the figures are those of the middle one.
    """

    score: float
    words: str
    level: Level
    per_layer: tuple[LayerShift, ...]
    calibrated: float
    distance: float = 0.0
    more: str = ""
    cases: int = 1


def why_not(card: Card | None) -> str | None:
    """Return None if a model can say how far a scan is from its centre, else why not."""
    if card is None:
        return "No model is chosen."
    if card.shift is None:
        return (
            "This model's card does not say how its own centre's scans look to it, so the "
            "distance of a scan cannot be judged."
        )
    return None


def distance(layers: Sequence[LayerShift]) -> float:
    """Return the mean of the layers' distances."""
    return float(np.mean([layer.mean for layer in layers]))


def judge(layers: Sequence[LayerShift], reference: ShiftReference) -> Shift:
    """Put a scan's distance beside those of the source centre's own scans."""
    found = distance(layers)
    score = found / reference.edge
    # The card's quantiles are rounded; the scan at the edge itself is still near.
    rounded = score - 1e-3
    level: Level = (
        "near" if rounded <= reference.near else "moderate" if rounded <= reference.far else "far"
    )
    per_layer = tuple(
        LayerShift(one.name, one.mean, one.variance_ratio, reference.layers.get(one.name))
        for one in layers
    )
    return Shift(
        score=score,
        words=_words(score, level, reference),
        level=level,
        per_layer=per_layer,
        calibrated=reference.share_within(found),
        distance=found,
        more=_more(per_layer, found, reference),
    )


def far_words(reference: ShiftReference, found: float | None) -> str | None:
    """Return what to say of a slice that lies far from the source centre's; None if it does not."""
    if found is None or found <= reference.far * reference.slice_edge:
        return None
    what = "slices" if reference.slice_quantiles else "photographs"
    times = found / reference.slice_edge
    return (
        f"To the model this looks unlike the {what} of its own centre, {times:.1f} times as far "
        "away as the edge of those. Check scan, model and region, and look closely at the masks."
    )


def _words(score: float, level: str, reference: ShiftReference) -> str:
    if level == "near":
        return "Close to the source centre."
    if reference.scans >= FEW_SCANS:
        own = "19 of 20 of its own scans"
    else:
        own = f"all {reference.scans} of its own scans that were measured"
    if level == "moderate":
        return f"Farther from the source centre than {own}: look closely at the masks."
    return (
        f"Far from the source centre, {score:.1f} times as far as {own}: check scan, model and "
        "region first."
    )


def _more(layers: Sequence[LayerShift], found: float, reference: ShiftReference) -> str:
    known = [layer for layer in layers if layer.typical]
    known.sort(key=lambda one: -one.mean / (one.typical or 1.0))
    most = ", ".join(
        f"{one.name} ({one.mean:.2f}, typically {one.typical:.2f})" for one in known[:3]
    )
    seen = f", {reference.seen} of which trained it" if reference.seen else ""
    text = (
        f"Mean distance of the layers' means {found:.3f} standard deviations of training; "
        f"{100 * reference.share_within(found):.0f} % of {reference.scans} scans of the source "
        f"centre ({reference.measured_on}{seen}) lie nearer; its edge is at {reference.edge:.3f}."
    )
    return f"{text} Layers that differ most: {most}." if most else text


def _of_several(middle: Shift, found: Sequence[Shift], scan: Scan) -> Shift:
    """Return the middle one's figures with words about all of them."""
    noun = f"{scan.case_noun}s"
    far = sum(one.level == "far" for one in found)
    beyond = sum(one.level != "near" for one in found)
    if beyond == 0:
        words = f"All {len(found)} {noun} are close to the source centre."
    else:
        some = f"{far} of them far" if far else "none of them far"
        words = (
            f"{beyond} of {len(found)} {noun} lie beyond the source centre's edge, {some}: look "
            "closely at their masks."
        )
    return replace(middle, words=words, cases=len(found))


def shift(
    segmenter: Segmenter,
    scan: Scan,
    region: Region | None = None,
) -> Shift:
    """Measure how far a scan is from the source centre: one forward pass a slice, no labels.

    Parameters
    ----------
    segmenter : Segmenter
        Its card has a ``shift`` block.
    scan : Scan
    region : (row0, col0, row1, col1), optional
        What the model is shown of each slice.

    Returns
    -------
    Shift
        With several photographs or volumes: of the middle one by distance.

    Raises
    ------
    ShiftError
        The model has no reference or does not read the scan, or the scan shows nothing.
    """
    cases = _evenly(scan.n_cases, MANY_CASES)
    found = sorted(
        (one for _, one in shifts(segmenter, scan, cases, region)), key=lambda one: one.distance
    )
    if not found:
        raise ShiftError("The scan shows one single value throughout; there is nothing to measure.")
    middle = found[(len(found) - 1) // 2]
    return middle if len(found) == 1 else _of_several(middle, found, scan)


def shifts(
    segmenter: Segmenter,
    scan: Scan,
    cases: Iterable[int] | None = None,
    region: Region | None = None,
) -> Iterator[tuple[int, Shift]]:
    """Measure each photograph or volume by itself, as `shift`; blank ones are passed over."""
    card = segmenter.card
    problem = why_not(card) or card.fits(scan)
    if problem is not None:
        raise ShiftError(problem)
    for case in range(scan.n_cases) if cases is None else cases:
        found = measure_case(segmenter, scan, case, region)
        if found is not None:
            yield case, found


def measure_case(
    segmenter: Segmenter,
    scan: Scan,
    case: int,
    region: Region | None = None,
    *,
    between: Callable[[], None] | None = None,
) -> Shift | None:
    """Measure one photograph or volume, as `shift` and `layers_of`; None if it shows nothing."""
    reference = segmenter.card.shift
    if reference is None:
        raise ShiftError(why_not(segmenter.card))
    slices = slices_to_look_at(scan, case, reference.slices)
    layers = layers_of(segmenter, scan, slices, region, frame=reference.frame, between=between)
    return judge(layers, reference) if layers else None


def layers_of(
    segmenter: Segmenter,
    scan: Scan,
    slices: Iterable[int],
    region: Region | None = None,
    *,
    frame: tuple[int, int] | None = None,
    between: Callable[[], None] | None = None,
) -> tuple[LayerShift, ...]:
    """Return each layer's distance over some slices together; empty if they show nothing.

    Parameters
    ----------
    frame : (int, int), optional
        As the card's reference says.
    between : callable, optional
        Called before each slice; what it raises ends the measurement.
    """
    found = []
    for index in slices:
        if between is not None:
            between()
        stats = slice_statistics(segmenter, scan, index, region, frame)
        if stats is not None:
            found.append(stats)
    return _layers(segmenter, found) if found else ()


def slices_to_look_at(scan: Scan, case: int, count: int = SLICES) -> list[int]:
    """Return evenly spaced slices of a case that show something, away from both ends."""
    slices = [i for i in range(scan.n_slices) if scan.case_of(i) == case]
    if len(slices) > 1:
        slices = [i for i in slices if np.ptp(scan.read_slice(i)) > 0]
    return [slices[i] for i in _evenly(len(slices), count)]


def _layers(
    segmenter: Segmenter, found: Sequence[Mapping[str, LayerStatistics]]
) -> tuple[LayerShift, ...]:
    """Statistics of slices together, beside the source's."""
    layers = []
    for name, source in source_statistics(segmenter.network).items():
        passes = [stats[name] for stats in found if name in stats]
        if not passes:
            continue
        means = np.stack([one.mean for one in passes])
        mean = means.mean(axis=0)
        # Variance within the slices and between them.
        variance = np.stack([one.variance for one in passes]).mean(axis=0) + means.var(axis=0)
        ratio = np.log(np.maximum(variance, 1e-12) / source.variance).mean()
        layers.append(
            LayerShift(
                name,
                float((np.abs(mean - source.mean) / np.sqrt(source.variance)).mean()),
                float(np.exp(ratio)),
            )
        )
    if not layers:
        raise ShiftError(
            "This network keeps no statistics of its training (no batch normalisation), so there "
            "is nothing to compare a scan with."
        )
    if not all(np.isfinite(layer.mean) for layer in layers):
        raise ShiftError("The model answers this scan with values that are not numbers.")
    return tuple(layers)


def _evenly(total: int, count: int) -> list[int]:
    """Return `count` of `total` places, evenly spaced, half a step away from both ends."""
    if total <= count:
        return list(range(total))
    return [int((k + 0.5) * total / count) for k in range(count)]


class FarSlices:
    """Says of a slice whether the source model finds it far from its own centre.

    Single slices are compared with single slices of the source centre, since those at the ends
    of any volume lie farther than those in its middle. Costs one forward pass a slice, and
    nothing with models whose card has no ``shift`` block.

    Parameters
    ----------
    scan : Scan
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._words: dict[int, str | None] = {}
        self._broken = False

    def words(
        self, segmenter: Segmenter, slice_index: int, region: Region | None = None
    ) -> str | None:
        """Return what to say of a slice, None where it is not far or cannot be measured.

        The ``region`` is what the model reads of it.
        """
        reference = segmenter.card.shift
        if reference is None or self._broken:
            return None
        if slice_index not in self._words:
            try:
                layers = layers_of(
                    segmenter, self._scan, [slice_index], region, frame=reference.frame
                )
            except (ShiftError, RuntimeError, MemoryError) as error:
                # A hint must not end a run; what really is wrong will show in the run itself.
                _log.warning("The shift of slices cannot be measured: %s", error)
                self._broken = True
                return None
            found = distance(layers) if layers else None
            self._words[slice_index] = far_words(reference, found)
        return self._words[slice_index]


# -- what a scan looks like from inside the model ------------------------------------------


class LayerStatistics(NamedTuple):
    """Mean and variance per channel in front of one layer, ndarray of float64, shape (C,).

    Source: as trained, with ε in the variance. Now: over one slice's pixels.
    """

    mean: np.ndarray
    variance: np.ndarray


def source_statistics(network: nn.Module) -> dict[str, LayerStatistics]:
    """Return the statistics that a network's layers kept from training, by layer name, in order.

    Layers that kept none are left out; the variance has the layer's ε added.
    """
    return {
        name: LayerStatistics(
            _numbers(module.running_mean), _numbers(module.running_var) + module.eps
        )
        for name, module in _normalising(network).items()
    }


def slice_statistics(
    segmenter: Segmenter,
    scan: Scan,
    index: int,
    region: Region | None = None,
    frame: tuple[int, int] | None = None,
) -> dict[str, LayerStatistics] | None:
    """Pass a slice through the source model and return what stood in front of each layer.

    One forward pass without gradients; the model is not changed, and its hooks hear the calling
    thread only.

    Parameters
    ----------
    segmenter : Segmenter
    scan : Scan
    index : int
        Flat slice index.
    region : (row0, col0, row1, col1), optional
    frame : (int, int), optional
        Put the slice on a black ground into a frame of this size, see `framed`; not with a region.

    Returns
    -------
    dict of str to LayerStatistics, or None
        By layer name; None for a slice of one single value. A map of a single pixel has no
        spread; its layer is left out.
    """
    from .normalisation import is_blank

    image = segmenter.prepare(scan, index, region).image
    if is_blank(image):
        return None
    return _pass(segmenter, image if frame is None or region is not None else framed(image, frame))


def framed(image: torch.Tensor, frame: tuple[int, int]) -> torch.Tensor:
    """Give an image on a black ground as much of it as the source centre's have.

    How much air there is around a head decides the mean of every layer, and is no property of
    scanner or patient. An image whose border is not mostly black is returned as it is.

    Parameters
    ----------
    image : Tensor, shape (1, C, h, w)
    frame : (int, int)
        Rows and columns, multiples of 32; larger where what is shown needs more.
    """
    shown = image[0].amax(0) > 0
    border = [edge.float() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1])]
    if sum(edge.sum() for edge in border) > 0.5 * sum(map(len, border)):
        return image
    rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
    if not len(rows):
        return image
    part = image[..., rows[0, 0] : rows[-1, 0] + 1, columns[0, 0] : columns[-1, 0] + 1]
    height, width = part.shape[2:]
    out = image.new_zeros(
        *image.shape[:2],
        *(max(f, -(-n // 32) * 32) for f, n in zip(frame, (height, width), strict=True)),
    )
    top, left = (out.shape[2] - height) // 2, (out.shape[3] - width) // 2
    out[..., top : top + height, left : left + width] = part
    return out


def _pass(segmenter: Segmenter, image: torch.Tensor) -> dict[str, LayerStatistics]:
    import torch

    from napari_grata.segmenters.devices import is_out_of_memory

    try:
        with torch.inference_mode(), _listening(segmenter.network) as heard:
            segmenter.network(image)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or segmenter.device.type == "cpu":
            raise
        # Rare and short: the segmenter itself stays on its device for the work that follows.
        return _pass(segmenter.to("cpu"), image.cpu())
    found = {}
    for name, passes in heard.items():
        means = np.mean([_numbers(mean) for mean, _ in passes], axis=0)
        variances = np.mean([_numbers(var) for _, var in passes], axis=0)
        found[name] = LayerStatistics(means, variances)
    return found


def _numbers(values: torch.Tensor) -> np.ndarray:
    """Return numbers as float64, which Apple's graphics processors do not know."""
    return values.detach().float().cpu().numpy().astype(np.float64)


@contextmanager
def _listening(network: nn.Module) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Within, note mean and variance of what goes into each layer with source statistics."""
    from .normalisation import batch_statistics

    heard: dict[str, list[tuple[Any, Any]]] = {}
    here = threading.get_ident()

    def hear(name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        # Another thread may be predicting with the same network.
        if threading.get_ident() == here and x.numel() > x.shape[1]:
            heard.setdefault(name, []).append(batch_statistics(x))

    hooks = [
        module.register_forward_pre_hook(partial(hear, name))
        for name, module in _normalising(network).items()
    ]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _normalising(network: nn.Module) -> dict[str, Any]:
    """Return the layers that kept statistics from training, by name."""
    from torch.nn.modules.batchnorm import _BatchNorm

    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
