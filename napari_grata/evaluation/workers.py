"""Streams of a benchmark in other processes: of this machine, or of a cluster under Dask."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path

from napari_grata.evaluation.cohort import CohortError
from napari_grata.evaluation.streams import Part, Task, open_model, run_stream
from napari_grata.segmenters import Segmenter

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
