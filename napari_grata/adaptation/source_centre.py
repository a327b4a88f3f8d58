"""What a model learns to know of its own centre, from scans without labels; its weights stay.

`calibrate` measures how far such scans lie from the model's statistics. Best are scans that the
model was *not* trained on, forty or more: with fewer, "farther than 19 of 20" cannot be told.

`train_optimiser` trains the optimiser of `MGG`. An episode is a short stream of scans, each
disturbed so that it looks like another centre's. At every step the optimiser moves θ, and what
counts is the consistency of the views on the *next* scan: −⟨∇L(θ), Σu⟩ to first order, with all
directions u of the episode, for the derivative of the gradients themselves is left out (as
Andrychowicz et al., 2016, do).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_grata.segmenters.shift_reference import ShiftReference, quantiles

from .methods.base import method_for
from .methods.mgg import MGG, GradientMemory
from .normalisation import is_blank
from .settings import preset
from .shift import SLICES, ShiftError, distance, layers_of, slices_to_look_at

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

SLICES_OF_A_VOLUME = 40
"""Single slices a volume that the slices' own quantiles are taken from."""
LENGTH = 8
"""Scans of an episode."""
RATE = 3e-3
"""Learning rate of the optimiser's own training."""
SCANS = 64
"""Slices of a scan that an optimiser learns from."""


def calibrate(
    segmenter: Segmenter,
    scans: Iterable[Scan],
    *,
    on: str,
    command: str,
    seen: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ShiftReference:
    """Measure scans of the source centre.

    Parameters
    ----------
    segmenter : Segmenter
    scans : iterable of Scan
        Each photograph or volume of them counts as one. No labels are needed.
    on, command, seen : str, str, int
        What the card says about them; see `ShiftReference`.
    progress : callable, optional
        Called with a sentence after each scan.

    Returns
    -------
    ShiftReference

    Raises
    ------
    ShiftError
        There are no scans, or the model does not read one.
    """
    if segmenter.card.weights_sha256 is None:
        raise ShiftError("This model's card names no weights; write its folder first.")
    rows: list[dict[str, float]] = []
    single: list[float] = []
    frame: tuple[int, int] | None = None
    for scan in scans:
        problem = segmenter.fits(scan)
        if problem is not None:
            raise ShiftError(problem)
        for case in range(scan.n_cases):
            if segmenter.card.dimensions == 3 and frame is None:
                middle = slices_to_look_at(scan, case, 1)
                if middle:
                    height, width = segmenter.prepare(scan, middle[0]).image.shape[2:]
                    frame = height, width
            layers = layers_of(segmenter, scan, slices_to_look_at(scan, case), frame=frame)
            if not layers:
                continue
            rows.append({layer.name: layer.mean for layer in layers})
            if segmenter.card.dimensions == 3:
                for index in slices_to_look_at(scan, case, SLICES_OF_A_VOLUME):
                    alone = layers_of(segmenter, scan, [index], frame=frame)
                    single += [distance(alone)] if alone else []
            if progress is not None:
                progress(f"{len(rows)}: {distance(layers):.3f}")
    if not rows:
        raise ShiftError("There is no scan to measure.")
    medians = {
        name: float(f"{np.median([row[name] for row in rows]):.4g}")
        for name in rows[0]
        if all(name in row for row in rows)
    }
    return ShiftReference(
        measured_on=on,
        scans=len(rows),
        seen=seen,
        slices=SLICES if segmenter.card.dimensions == 3 else 1,
        quantiles=quantiles(float(np.mean(list(row.values()))) for row in rows),
        slice_quantiles=quantiles(single) if single else (),
        frame=frame,
        layers=medians,
        weights=segmenter.card.weights_sha256,
        command=command,
    )


def images_of(segmenter: Segmenter, scan: Scan) -> list[torch.Tensor]:
    """Return slices of a scan as the network reads them, evenly spaced, those that show something.

    Raises
    ------
    ValueError
        If the model does not read the scan, or there are fewer than two.
    """
    problem = segmenter.fits(scan)
    step = max(1, scan.n_slices // SCANS)
    found = []
    for index in range(0, scan.n_slices, step) if problem is None else ():
        image = segmenter.prepare(scan, index).image
        if not is_blank(image):
            found.append(image)
    if len(found) < 2:
        raise ValueError(problem or "An optimiser learns from two scans or slices at least.")
    return found


def train_optimiser(
    segmenter: Segmenter, images: Sequence[torch.Tensor], *, episodes: int, seed: int = 0
) -> Iterator[tuple[GradientMemory, float]]:
    """Train, and yield after each episode the optimiser and the mean gain of its steps.

    Parameters
    ----------
    segmenter : Segmenter
        The source model, which stays as it is.
    images : sequence of Tensor, shape (1, C, H, W)
    episodes : int
    seed : int
        One seed gives the same weights on the CPU.

    Yields
    ------
    (GradientMemory, float)
        The gain is the fall of the next scan's loss to first order, over ‖∇L‖·√n: −1 … 1.
    """
    method = method_for(preset("mgg").settings.but(seed=seed), segmenter)
    assert isinstance(method, MGG)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method.optimiser = optimiser = GradientMemory().to(method.device, method.dtype)
    adam = torch.optim.Adam(optimiser.parameters(), RATE)
    draws = torch.Generator().manual_seed(seed)
    for episode in range(episodes):
        method.reset()
        method.generator.manual_seed(seed + episode)
        order = torch.randperm(len(images), generator=draws).tolist()[: LENGTH + 1]
        stream = [method.objectives.strong(images[index].to(method.device)) for index in order]
        memory, total = optimiser.start, torch.zeros_like(method._flat.values)
        gains: list[torch.Tensor] = []
        for image, following in itertools.pairwise(stream):
            gradient, _ = method._flat.gradient(method.objectives.loss(method.pseudo, image))
            direction, memory = optimiser(method.history(gradient), memory)
            total = total + direction
            method._flat.values.sub_(method.learning_rate * direction.detach())
            after, _ = method._flat.gradient(method.objectives.loss("consistency", following))
            longest = torch.linalg.vector_norm(after) * len(after) ** 0.5 * (len(gains) + 1)
            gains.append(torch.dot(after, total) / (longest + 1e-12))
        gain = torch.stack(gains).mean()
        adam.zero_grad()
        (-gain).backward()
        adam.step()
        yield optimiser, float(gain.detach())
