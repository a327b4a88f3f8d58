"""What jobs do: generators that load, segment, adapt, predict and save, without touching Qt.

torch is imported inside the functions alone, which run in a job's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.adaptation.settings import Settings
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Stage:
    """A sentence about what takes time now, such as loading the model."""

    text: str


@dataclass(frozen=True)
class Notice:
    """Something that stays to be read, such as falling back to the processor."""

    text: str


@dataclass(frozen=True)
class Mask:
    """A mask of one slice, shape (H, W); ``done`` of ``total`` slices are finished.

    Attributes
    ----------
    which : {"source", "adapted"}
    """

    which: str
    slice_index: int
    label_map: np.ndarray
    done: int
    total: int


@dataclass(frozen=True)
class Progress:
    """How far something is that changes no mask, in parts of what ``text`` says."""

    text: str
    done: int
    total: int


@dataclass(frozen=True)
class Started:
    """The adaptation's run, for going back to its steps later."""

    run: AdaptationRun


class Engine:
    """Keeps the segmenter that was loaded last, so that Adapt need not load it again.

    One thread at a time loads; another that asks meanwhile waits and gets the same one. The
    segmenter itself is never changed, so that several threads may work from it.
    """

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._key: tuple[str, str] | None = None
        self._segmenter: Segmenter | None = None

    def _holds(self, model: str | Path, device: str) -> bool:
        return self._key == (str(model), device)

    def get(self, model: str | Path, device: str) -> Segmenter:
        """Return the segmenter, loading it where needed."""
        with self._loading:
            if not self._holds(model, device) or self._segmenter is None:
                from napari_grata.segmenters import load_segmenter

                self._key = self._segmenter = None
                self._segmenter = load_segmenter(model, device=device)
                self._key = (str(model), device)
            return self._segmenter

    def load(self, model: str | Path, device: str) -> Generator[Any, None, Segmenter]:
        """Return the segmenter, for ``yield from``: where it takes time, that is told."""
        if not self._holds(model, device):
            yield Stage("Loading the model …")
        return self.get(model, device)

    def forget(self) -> None:
        """Let go of the segmenter, such as after a model folder has changed."""
        self._key = self._segmenter = None


@contextmanager
def leave_room_for_the_interface() -> Iterator[None]:
    """Let torch use all processors but one while the viewer must answer to the user."""
    import torch

    from napari_grata.segmenters.devices import spare_a_core

    before = spare_a_core()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def segment(
    engine: Engine,
    model: str | Path,
    device: str,
    scan: Scan,
    slices: Sequence[int],
    region: Region | None,
) -> Iterator[Stage | Notice | Mask]:
    """Segment slices with the source model, one `Mask` a slice."""
    with leave_room_for_the_interface():
        segmenter = yield from engine.load(model, device)
        yield Stage("Segmenting …")
        found = enumerate(segmenter.predict(scan, slices=slices, region=region), 1)
        total = len(slices)
        masks = (Mask("source", p.slice_index, p.label_map, done, total) for done, p in found)
        yield from _with_notices(masks, segmenter.notices)


def adapt(
    engine: Engine,
    model: str | Path,
    device: str,
    scan: Scan,
    settings: Settings,
    slices: Sequence[int],
    region: Region | None,
    source_masks: Mapping[int, np.ndarray],
    folder: Path | None,
    abandoned: threading.Event,
) -> Iterator[Any]:
    """Adapt to slices: the stream's records as they come, after what was needed to start.

    Where ``abandoned`` is set nobody will ask for the run's history any more: it is closed.
    """
    with leave_room_for_the_interface():
        segmenter = yield from engine.load(model, device)
        yield Stage("Adapting: the model gets used to this scan …")
        from napari_grata.adaptation.run import AdaptationRun

        run = AdaptationRun(
            segmenter,
            scan,
            settings,
            slices=list(slices),
            region=region,
            folder=folder,
            source_masks=dict(source_masks) or None,
        )
        yield from records_of(run, run.records(), abandoned)


def go_on(run: AdaptationRun, finish: bool, abandoned: threading.Event) -> Iterator[Any]:
    """Go on with a run that was cancelled, or ``finish`` it with what was learned so far."""
    with leave_room_for_the_interface():
        yield Stage("Finishing with what was learned …" if finish else "Going on …")
        yield from records_of(run, run.finish() if finish else run.resume(), abandoned)


def records_of(
    run: AdaptationRun,
    records: Any,
    abandoned: threading.Event,
) -> Iterator[Any]:
    """Yield a run, then its records with what it has to say between; closes the stream."""
    try:
        yield Started(run)
        yield from _with_notices(records, run.segmenter.notices, run.notices)
    finally:
        records.close()
        if abandoned.is_set():
            run.close()


def _with_notices(items: Iterable[Any], *said: list[str]) -> Iterator[Any]:
    """Yield items, and after each what its making has added to what is said."""
    told = {text for notices in said for text in notices}
    for item in items:
        yield item
        for text in (text for notices in said for text in notices if text not in told):
            yield Notice(text)
        told.update(text for notices in said for text in notices)


def revive(
    engine: Engine, model: str | Path, device: str, scan: Scan, folder: Path
) -> AdaptationRun:
    """Return the live run of a run folder, for going through its steps.

    ``model`` is its name, for where the run does not know its folder.

    Raises
    ------
    ValueError, OSError
        If its model is not there any more, or its files cannot be read.
    """
    from napari_grata.adaptation.reopening import reopen

    found = reopen(folder, scan)
    try:
        return found.run(engine.get(found.model_folder or model, device))
    finally:
        found.close()


def masks_at(run: AdaptationRun, step: int, slices: Sequence[int]) -> Iterator[Mask]:
    """Take a run to a step (−1: its end), and predict every slice as the model was then."""
    with leave_room_for_the_interface():
        run.rollback(run.past.last_step if step < 0 else step)
        masks = {}
        for done, index in enumerate(slices, 1):
            found = run.predict(index, None if step < 0 else step)
            masks[index] = found.label_map
            yield Mask("adapted", index, found.label_map, done, len(slices))
    if step >= 0:
        run.take(step, masks)
