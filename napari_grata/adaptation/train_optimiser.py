"""Train the optimiser of `MGG` on scans of the source centre; no labels.

An episode is a short stream of scans, each disturbed so that it looks like another centre's. At
every step the optimiser moves θ, and what counts is the consistency of the views on the *next*
scan: −⟨∇L(θ), Σu⟩ to first order, with all directions u of the episode, for the derivative of the
gradients themselves is left out (as Andrychowicz et al., 2016, do).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from .methods.base import method_for
from .methods.mgg import MGG, GradientMemory
from .normalisation import is_blank
from .settings import preset

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

LENGTH = 8
RATE = 3e-3
SCANS = 64


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
