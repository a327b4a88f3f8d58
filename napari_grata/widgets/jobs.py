"""What the worker does: generators that load, segment, adapt and save, without touching Qt.

torch is imported here only inside the functions, which run in the worker's thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
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
class Segmented:
    """The mask before of one slice, shape (H, W); ``done`` of ``total`` slices are finished."""

    slice_index: int
    label_map: np.ndarray
    done: int
    total: int
    seconds: float


class Predicted(Segmented):
    """The mask after of one slice, from an earlier state of the model."""


@dataclass(frozen=True)
class Started:
    """The adaptation's run object, for going back to its steps later."""

    run: Any


class Engine:
    """Keeps the segmenter that was loaded last, so that Adapt need not load it again.

    One thread at a time loads; another that asks meanwhile waits and gets the same one.
    """

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._key: tuple[str, str] | None = None
        self._segmenter: Segmenter | None = None

    def holds(self, model: str | Path, device: str) -> bool:
        """Return whether this model is in memory for this device."""
        return self._key == (str(model), device)

    def get(self, model: str | Path, device: str) -> Segmenter:
        """Return the segmenter, loading it where needed."""
        with self._loading:
            if not self.holds(model, device) or self._segmenter is None:
                from napari_grata.segmenters import load_segmenter

                self._key = self._segmenter = None
                self._segmenter = load_segmenter(model, device=device)
                self._key = (str(model), device)
            return self._segmenter

    def forget(self) -> None:
        """Let go of the segmenter, such as after a model folder has changed."""
        self._key = self._segmenter = None


@contextmanager
def leave_room_for_the_interface() -> Iterator[None]:
    """Let torch use all processors but one while the viewer must answer to a person."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 2) - 1)))
    try:
        with short_turns():
            yield
    finally:
        torch.set_num_threads(before)


class _Turns:
    """How long a thread may keep the interpreter while another one waits for it."""

    SHORT = 0.001  # s; a redraw gives the interpreter away at each call to the graphics driver

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0.005

    def shorten(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, self.SHORT))
            self._users += 1

    def restore(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                sys.setswitchinterval(self._before)


_TURNS = _Turns()


@contextmanager
def short_turns() -> Iterator[None]:
    """Let the interface have the interpreter back within a millisecond of asking for it."""
    _TURNS.shorten()
    try:
        yield
    finally:
        _TURNS.restore()


_NOBODY_WAITS = threading.Event()
_NOBODY_WAITS.set()


@contextmanager
def going_first() -> Iterator[None]:
    """Do something that a person waits for: long jobs that `give_way` let it pass."""
    _NOBODY_WAITS.clear()
    try:
        yield
    finally:
        _NOBODY_WAITS.set()


def give_way(seconds: float = 1.0) -> None:
    """Between two pieces of a long job: let pass what a person waits for, up to some seconds."""
    _NOBODY_WAITS.wait(seconds)


def segment(
    engine: Engine,
    model: str | Path,
    device: str,
    scan: Scan,
    slices: Sequence[int],
    region: Region | None,
) -> Iterator[Stage | Notice | Segmented]:
    """Segment slices with the source model, one item a slice."""
    if not engine.holds(model, device):
        yield Stage("Loading the model …")
    with leave_room_for_the_interface():
        segmenter = engine.get(model, device)
        yield Stage("Segmenting …")
        seen = len(segmenter.notices)
        last = time.perf_counter()
        for done, found in enumerate(segmenter.predict(scan, slices=slices, region=region), 1):
            now = time.perf_counter()
            yield Segmented(found.slice_index, found.label_map, done, len(slices), now - last)
            last = now
            for text in segmenter.notices[seen:]:
                yield Notice(text)
            seen = len(segmenter.notices)
            give_way()


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
    if not engine.holds(model, device):
        yield Stage("Loading the model …")
    with leave_room_for_the_interface():
        segmenter = engine.get(model, device)
        yield Stage("Adapting: the model gets used to this scan …")
        seen = len(segmenter.notices)
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
        yield Started(run)
        records: Any = run.records()
        try:
            for record in records:
                yield record
                for text in segmenter.notices[seen:]:
                    yield Notice(text)
                seen = len(segmenter.notices)
                give_way()
        finally:
            records.close()
            if abandoned.is_set():
                run.close()


def go_on(run: Any, finish: bool, abandoned: threading.Event) -> Iterator[Any]:
    """Go on with a run that was cancelled, or ``finish`` it with what was learnt so far."""
    with leave_room_for_the_interface():
        yield Stage("Finishing with what was learned …" if finish else "Going on …")
        records: Any = run.finish() if finish else run.resume()
        try:
            for record in records:
                yield record
                give_way()
        finally:
            records.close()
            if abandoned.is_set():
                run.close()


def save_masks(
    stacks: Mapping[str, np.ndarray],
    scan: Scan,
    folder: Path,
    colours: dict[int, str],
    overwrite: bool,
) -> Iterator[Path]:
    """Write each stack as ``<its name>.nii.gz`` or ``.png``, on the scan's own grid."""
    from napari_grata.scans import write_mask

    for name, stack in stacks.items():
        yield from write_mask(
            stack, scan, mask_path(scan, folder, name), colours=colours, overwrite=overwrite
        )


def mask_path(scan: Scan, folder: Path, name: str) -> Path:
    """Return where a mask of a scan goes: a file, or a folder for a list of photographs."""
    if scan.kind == "photographs":
        return folder / safe_name(name)
    return folder / f"{safe_name(name)}{'.png' if scan.kind == 'photograph' else '.nii.gz'}"


def safe_name(name: str) -> str:
    """Return a name that every file system takes."""
    allowed = "".join("_" if c in '<>:"/\\|?*' or ord(c) < 32 else c for c in name)
    return allowed.strip(" .") or "mask"


def run_folder(parent: str, scan: Scan) -> Path | None:
    """Return where a run is saved, None where it is not."""
    if not parent:
        return None
    stamp = datetime.now().strftime("%Y-%m-%d %H.%M.%S")
    return Path(parent) / safe_name(f"{scan.name} {stamp}")
