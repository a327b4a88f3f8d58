"""One stream of a benchmark: a method over the cases of a centre, with a seed and an order.

It is the unit of work, for the method's state lives on from case to case. Whatever computes it
(this process, another one, a cluster) gives back the same plain values.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation import AdaptationRun
from napari_grata.adaptation.methods.register import METHODS
from napari_grata.adaptation.plan import make_plan
from napari_grata.adaptation.settings import Settings
from napari_grata.adaptation.shift import shifts, why_not
from napari_grata.evaluation.cohort import Case, Centre, CohortError
from napari_grata.evaluation.metrics import calibration_error, measure
from napari_grata.evaluation.report import CaseRow
from napari_grata.scans import Scan, open_scan, read_mask
from napari_grata.scans.files import read_json, safe_name
from napari_grata.segmenters import Segmenter, load_segmenter, structure_mask

if TYPE_CHECKING:
    from napari_grata.segmenters import Card

#: Model, centre, method, seed and order.
Key = tuple[str, str, str, int, int]
#: What a stream leaves: its rows and costs, as JSON holds them.
Part = dict[str, Any]
#: Label map and packed probabilities of the source model, by scan and slice.
SourceMasks = MutableMapping[int, Mapping[int, tuple[np.ndarray, "Packed"]]]
MB = 2**20


@dataclass(frozen=True)
class Packed:
    """Probabilities (S, H, W) of a slice in steps of 1/255, small enough to wait for the truth."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, probabilities: np.ndarray) -> Packed:
        """Pack probabilities."""
        levels = np.rint(255 * probabilities).astype(np.uint8)
        return cls(zlib.compress(levels.tobytes(), 1), levels.shape)

    def of_structure(self, card: Card, structure: str) -> np.ndarray:
        """Return the probability of a structure, contained ones included, shape (H, W)."""
        levels = np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)
        values = [one.value for one in card.structures]
        within = [values.index(value) for value in card.values_within(structure)]
        if card.activation != "softmax":
            return np.asarray(levels[within].max(0) / np.float32(255))
        found = levels[[one + 1 for one in within]].sum(0, dtype=np.float32) / 255
        return np.asarray(np.minimum(found, 1))


@dataclass(frozen=True)
class Task:
    """One stream to compute, and where its part is kept."""

    model: str
    centre: Centre
    method: str
    settings: Settings
    order: int
    table: Mapping[int, int]
    fingerprint: str
    events: int = 0

    @property
    def key(self) -> Key:
        """What tells it from the others of its benchmark."""
        return self.model, self.centre.name, self.method, self.settings.seed, self.order

    @property
    def file(self) -> str:
        """Name of its part file; two names that a file system would confuse stay apart."""
        model, centre, method, seed, order = self.key
        mark = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:6]
        name = f"{model[:30]}__{centre[:30]}__{method[:30]}__{seed}_{order}"
        return f"{safe_name(name)}-{mark}.json"

    def kept(self, folder: Path) -> Part | None:
        """Return what an earlier run left for exactly this task, or None."""
        try:
            found = read_json(folder / self.file)
            if found["fingerprint"] == self.fingerprint:
                rows_of(found)
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None


def rows_of(part: Part) -> list[CaseRow]:
    """Return the rows of a part."""
    return [CaseRow.from_dict(row) for row in part["rows"]]


def fingerprint(
    segmenter: Segmenter, centre: Centre, settings: Settings, table: Mapping[int, int]
) -> str:
    """Return a hash of all that decides a stream's numbers, our own software aside."""
    files = []
    for case in centre.cases:
        stats = [path.stat() for path in case.files]
        files.append((case.name, [(one.st_size, one.st_mtime_ns) for one in stats]))
    card, package = segmenter.card, METHODS[settings.method].package
    said = [card.name, card.weights_sha256, card.size, settings.to_dict(), package]
    return hashlib.sha256(json.dumps([*said, sorted(table.items()), files]).encode()).hexdigest()


def open_model(model: str | Path, device: str, size: tuple[int, int] | None) -> Segmenter:
    """Load a model; one of photographs reads them at another size, if one is given."""
    segmenter = load_segmenter(model, device=device)
    if size is not None and segmenter.card.size is not None:
        segmenter.card = replace(segmenter.card, size=size)
    return segmenter


def count_events(centre: Centre, settings: Settings, volumes: bool) -> int:
    """Return how many events one method's stream over a centre has."""
    return sum(
        len(make_plan(settings, range(scan.n_slices), scan.case_of, volumes=volumes))
        for scan, _ in _scans(centre)
    )


def measured_structures(card: Card, table: Mapping[int, int]) -> list[str]:
    """Return the structures that the masks speak about.

    A structure whose value no mask value stands for was not drawn by the reader, so nothing can
    be said about it; the masks of a data set of discs alone measure the disc alone.
    """
    return [s.name for s in card.structures if s.value in set(table.values())]


def run_stream(
    segmenter: Segmenter,
    task: Task,
    source_masks: SourceMasks | None = None,
    on_event: Callable[[int], None] | None = None,
) -> Part:
    """Run one method over one centre and measure each case once its masks are final.

    Photographs of a centre form one list, adapted as one stream. Volumes follow one another, and
    the method's state (θ, optimiser, generator) lives on from one to the next. The truth is read
    after a scan's masks are there, and handed to no method.

    Parameters
    ----------
    source_masks : mutable mapping, optional
        Filled with what the source model says, and read where it has it.
    on_event : callable, optional
        Called with the number of events done since the last call.

    Returns
    -------
    dict
        ``rows``; ``seconds``, without reading the truth and measuring, and of a method without the
        source model's own prediction, which all start from; ``peak_mb`` with ``memory``, what it
        is the peak of; whether the method ``draws`` random numbers, and may depend on the order
        (``ordered``); ``shift``, of the source method: each case's distance from its model's
        centre.
    """
    settings, card = task.settings, segmenter.card
    foreign = bool(METHODS[settings.method].package)
    is_source = settings.method == "source" and not (settings.six_views or settings.reframe)
    kept: SourceMasks = {} if source_masks is None else source_masks
    tell = on_event or (lambda events: None)
    rows: list[CaseRow] = []
    far: dict[str, float] = {}
    state: Any = None
    # What another package's method draws, and from what, is not known.
    draws, seconds = foreign, 0.0
    memory = _start_memory(segmenter)
    for number, (scan, cases) in enumerate(_scans(task.centre)):
        begin = time.perf_counter()
        if is_source or number not in kept:
            source: dict[int, tuple[np.ndarray, Packed]] = {}
            for found in segmenter.predict(scan):
                source[found.slice_index] = found.label_map, Packed.of(found.probabilities)
                if is_source:
                    tell(1)
            kept[number] = source
        if not is_source:
            begin = time.perf_counter()
        masks = {index: mask for index, (mask, _) in kept[number].items()}
        said = {index: packed for index, (_, packed) in kept[number].items()}
        if not is_source:
            run = AdaptationRun(segmenter, scan, settings, source_masks=masks, start=state)
            masks = {}
            first = run.state.generator

            def keep(index: int, probabilities: np.ndarray, into: Any = said) -> None:
                into[index] = Packed.of(probabilities)

            run.watch = keep
            try:
                for record in run.records():
                    if record.final:
                        masks[record.slice_index] = record.adapted_mask
                    tell(1)
                last = run.state
                other = make_plan(
                    settings.but(seed=settings.seed ^ 1),
                    range(scan.n_slices),
                    scan.case_of,
                    volumes=card.patch is not None,
                )
                draws |= bool((last.generator != first).any()) or other != run.plan
                state = last if settings.mode == "continual" else None
            finally:
                run.close()
        seconds += time.perf_counter() - begin
        tells = is_source and why_not(card) is None
        away = dict(shifts(segmenter, scan)) if tells else {}
        for place, (name, spacing, slices, truth) in enumerate(_cases(scan, cases, task.table)):
            if place in away:
                far[name] = away[place].score
            predicted = np.stack([masks[i] for i in slices]).reshape(truth.shape)
            for structure in measured_structures(card, task.table):
                drawn = structure_mask(card, truth, structure)
                figures = measure(structure_mask(card, predicted, structure), drawn, spacing)
                likely = np.stack([said[i].of_structure(card, structure) for i in slices])
                rows.append(
                    CaseRow(
                        centre=task.centre.name,
                        case=name,
                        structure=structure,
                        method=task.method,
                        **asdict(figures),
                        unit="px" if spacing is None else "mm",
                        ece=calibration_error(likely.reshape(truth.shape), drawn),
                        seed=settings.seed,
                        order=task.order,
                        model=task.model,
                    )
                )
    return {
        "fingerprint": task.fingerprint,
        "stream": list(task.key),
        "rows": [row.to_dict() for row in rows],
        "seconds": round(seconds, 3),
        "peak_mb": _peak_memory(segmenter),
        "memory": memory,
        "draws": draws,
        "ordered": foreign or METHODS[settings.method].learns != "nothing",
        "shift": far,
    }


def _start_memory(segmenter: Segmenter) -> str:
    """Set the mark of the most memory back where that can be; return what it is the mark of."""
    if segmenter.device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(segmenter.device)
        return "tensors on the graphics card"
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return "process since its start"
    return "process in this stream"


def _peak_memory(segmenter: Segmenter) -> float:
    """Return the most memory held since `_start_memory`, in MB; all of a process's, of a CPU."""
    if segmenter.device.type == "cuda":
        import torch

        return round(torch.cuda.max_memory_allocated(segmenter.device) / MB, 1)
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / MB, 1)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(int(next(line for line in lines if "VmHWM" in line).split()[1]) / 1024, 1)
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return round(most / (MB if sys.platform == "darwin" else 1024), 1)


def _scans(centre: Centre) -> Iterator[tuple[Scan, Sequence[Case]]]:
    if centre.kind == "photographs":
        yield open_scan([case.image for case in centre.cases]), centre.cases
    else:
        for case in centre.cases:
            yield open_scan(case.image), (case,)


def _cases(
    scan: Scan, cases: Sequence[Case], table: Mapping[int, int]
) -> Iterator[tuple[str, tuple[float, ...] | None, Sequence[int], np.ndarray]]:
    """Yield name, spacing, slices and truth, on the displayed grid, of each case of a scan."""
    if scan.is_list:
        for index, case in enumerate(cases):
            own = open_scan(case.image)
            yield case.name, own.slice_spacing, [index], read_mask(case.mask, own, labels=table)
        return
    spacing: tuple[float, ...] | None = scan.slice_spacing
    if scan.is_stack and spacing is not None:
        thickness = scan.slice_thickness
        spacing = None if thickness is None else (thickness, *spacing)
    truth = read_mask(cases[0].mask, scan, labels=table)
    for number in range(scan.n_cases):
        name = f"{cases[0].name} t{number + 1}" if scan.n_cases > 1 else cases[0].name
        slices = scan.case_slices(number)
        true = np.stack([scan.get_mask(truth, i) for i in slices])
        yield name, spacing, slices, true if scan.is_stack else true[0]


# -- in other processes --------------------------------------------------------------------

#: What a process needs to open the model: name or path, device, size of photographs.
Model = tuple[str | Path, str, tuple[int, int] | None]

_models: dict[Model, Segmenter] = {}
# A worker of several threads does one stream at a time: they would share one model and one device.
_busy = threading.Lock()


def spread(
    tasks: Sequence[Task], models: Mapping[str, Model], jobs: int, scheduler: str | None = None
) -> Iterator[tuple[Task, Part]]:
    """Do tasks in other processes; yield each with its part as it is finished.

    A worker keeps nothing but the model, and writes nothing: one that is lost loses the stream it
    was at, and Dask gives that to another.

    Parameters
    ----------
    models : mapping of str to Model
        By the name that tasks give.
    jobs : int
        Processes, where this machine starts them.
    scheduler : str, optional
        ``"local"`` for Dask's workers on this machine, or the address of a scheduler that runs;
        None for a plain pool of processes.

    Raises
    ------
    CohortError
        If Dask distributed is not installed, its scheduler does not answer, or a stream ends
        its worker again and again.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs) if scheduler in (None, "local") else None
    with _executor(min(jobs, len(tasks)), scheduler) as pool:
        # Long streams first, so that no worker is left with one at the end.
        order = sorted(tasks, key=lambda task: -task.events)
        running = {pool.submit(_work, task, models[task.model], threads): task for task in order}
        try:
            for finished in as_completed(running):
                yield running[finished], finished.result()
        except BaseException as error:
            for one in running:
                one.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            if type(error).__name__ in ("KilledWorker", "BrokenProcessPool"):
                raise CohortError(
                    "a stream ended the process that worked on it",
                    hint="Mostly memory is short: use fewer processes side by side.",
                ) from error
            raise


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    if scheduler is None:
        # Spawn: torch's thread pools do not survive a fork.
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            yield pool
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise CohortError(
            "Dask distributed is not installed",
            hint='Install it with: pip install "napari-grata[cluster]".',
        ) from None
    with ExitStack() as stack:
        address = scheduler
        if scheduler == "local":
            cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(cluster).scheduler_address
        try:
            client = stack.enter_context(Client(address, timeout=20))
        except (OSError, ValueError) as error:
            raise CohortError(
                f"the scheduler {address} does not answer ({type(error).__name__})",
                hint="Start it, and give its address as it says it, such as tcp://host:8786.",
            ) from error
        yield client.get_executor(pure=False)


def _work(task: Task, model: Model, threads: int | None) -> Part:
    import torch

    with _busy:
        if threads is None:
            from distributed import get_worker

            threads = get_worker().state.nthreads
        torch.set_num_threads(threads)
        if model not in _models:
            _models.clear()
            _models[model] = open_model(*model)
        return run_stream(_models[model], task)
