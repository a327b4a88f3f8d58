"""A run in which memory runs out at some call of PyTorch. Oracle: the run where it never does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from napari_grata.adaptation import AdaptationRun, Record, Settings, reopen
from napari_grata.scans import Scan, scan_from_array
from napari_grata.segmenters import Segmenter
from napari_grata.segmenters.segmenter import OutOfMemoryError

from . import expect
from .models import Small, small_card

LEARN = Settings(learning_rate=1e-3, six_views=False, predict="average")
ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: MemoryError("out of memory"),
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    # As PyTorch says it of the computer's own memory.
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
)


class RunsOut(TorchDispatchMode):
    """Raises at the n-th operation of PyTorch, those of the backward pass counted.

    Parameters
    ----------
    at : int
        From 1; never with 0.
    error : callable
        Makes the exception.
    for_good : bool
        Whether all later operations fail, too.

    Attributes
    ----------
    calls : int
        How many there were.
    """

    def __init__(
        self,
        at: int,
        error: Callable[..., BaseException] = torch.OutOfMemoryError,
        *,
        for_good: bool = False,
    ) -> None:
        super().__init__()
        self.at, self.calls, self.error, self.for_good = at, 0, error, for_good

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls == self.at or (self.for_good and 0 < self.at < self.calls):
            raise self.error()
        return func(*args, **(kwargs or {}))


@cache
def segmenter() -> Segmenter:
    return Segmenter(small_card(), Small(width=4), "cpu")


@cache
def scan() -> Scan:
    data = np.random.default_rng(0).random((3, 40, 36)).astype(np.float32)
    data[:, 10:25, 8:28] += 1
    return scan_from_array(data, name="volume")


@cache
def calm(folder: Path | None) -> tuple[int, dict[int, np.ndarray]]:
    """Return the calls of the run where memory is never short, and its masks."""
    with RunsOut(0) as count:
        run = AdaptationRun(segmenter(), scan(), LEARN, folder=folder)
        list(run.records())
    return count.calls, run.adapted_masks


def weights() -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in segmenter().network.state_dict().values()]


def same(found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> bool:
    """Whether masks are the same but for a pixel that may tip over by rounding."""
    return found.keys() == wanted.keys() and all(
        np.count_nonzero(found[index] != wanted[index]) < 0.01 * wanted[index].size
        for index in wanted
    )


def trial(random: Random, folder: Path) -> None:
    """Let memory run out once or for good; what was told of must be kept, and all can go on."""
    before = weights()
    calls, wanted = calm(None)
    told: list[Record] = []
    run = None
    for_good = random.random() < 0.5
    try:
        with RunsOut(random.randint(1, calls), random.choice(ERRORS), for_good=for_good):
            run = AdaptationRun(segmenter(), scan(), LEARN, folder=folder / "run")
            told += run.records()
        expect(same(run.adapted_masks, wanted), "other masks than with enough memory")
    except OutOfMemoryError as error:
        expect(str(error).endswith("."), "no sentence")
        raise
    finally:
        expect(weights() == before, "the source model was changed")
        if told:
            kept = reopen(folder / "run", scan())
            expect(len(kept.records) == len(told), "other steps are kept than were told of")
            for one, other in zip(told, kept.records, strict=True):
                expect(np.array_equal(one.adapted_mask, other.adapted_mask), "another mask is kept")
            kept.close()
        if run is not None:
            list(run.resume())
            expect(same(run.adapted_masks, wanted), "other masks after going on")
            run.close()
