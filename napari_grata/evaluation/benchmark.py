"""Compare methods on labelled scans of several centres; each centre is one stream.

What it leaves in its folder: ``cases.csv``, ``summary.json``, ``differences.json`` and ``.csv``,
``details.json``, ``benchmark.json`` (what was run), ``table.txt`` and ``.md``, ``dice.png``, and
``parts/``, one file a method and centre, from which an interrupted benchmark goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation import AdaptationRun
from napari_grata.adaptation.plan import make_plan
from napari_grata.adaptation.settings import Settings, preset
from napari_grata.evaluation.cohort import Case, Centre, CohortError, open_cohort, parse_labels
from napari_grata.evaluation.metrics import measure
from napari_grata.evaluation.report import (
    BASELINE,
    CaseRow,
    Tables,
    as_markdown,
    as_text,
    plot_benchmark,
    write_tables,
)
from napari_grata.scans import Scan, open_scan, read_mask
from napari_grata.scans.files import make_folder, read_json, safe_name, write_json, write_text
from napari_grata.segmenters import Segmenter, load_segmenter, structure_mask

if TYPE_CHECKING:
    from napari_grata.segmenters import Card

FEW = 10
"""Below so many cases a bootstrap interval is too narrow to be taken at its word."""

#: Source label maps by scan and slice, so that each method of a centre need not predict them again.
SourceMasks = MutableMapping[int, Mapping[int, np.ndarray]]


@dataclass(frozen=True)
class Progress:
    """How far a benchmark is: events (slices predicted or steps taken) done and in all."""

    done: int
    total: int
    method: str
    centre: str


@dataclass(frozen=True)
class Benchmark:
    """A finished benchmark.

    Attributes
    ----------
    tables : Tables
        Rows, summary, details and differences.
    out : Path
    notes : tuple of str
        What a reader of the table should know, such as masks left aside.
    reused : int
        Method and centre pairs taken from an earlier, interrupted run of the same benchmark.
    """

    tables: Tables
    out: Path
    notes: tuple[str, ...] = ()
    reused: int = 0

    @property
    def text(self) -> str:
        """The tables for a terminal."""
        ranking = self.tables.ranking_lines()
        return as_text(self.tables.lines()) + (f"\n\n{as_text(ranking)}" if ranking else "")


@dataclass(frozen=True)
class Task:
    """One method over one centre: what a worker needs, and where the rows are kept."""

    centre: Centre
    method: str
    settings: Settings
    table: Mapping[int, int]
    part: Path
    fingerprint: str
    events: int = 0

    def rows(self) -> list[CaseRow] | None:
        """Return the rows an earlier run left for exactly this task, or None."""
        try:
            found = read_json(self.part)
            if found["fingerprint"] != self.fingerprint:
                return None
            return [CaseRow.from_dict(row) for row in found["rows"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def run_benchmark(
    data: str | Path,
    model: str | Path | Segmenter,
    methods: Sequence[str] | Mapping[str, Settings],
    labels: Mapping[int, int] | str | None,
    out: str | Path,
    *,
    centres: Iterable[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    share: tuple[int, int] = (1, 1),
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Benchmark:
    """Run methods over the centres of a labelled cohort and write tables and a plot.

    Each centre is one stream in file-name order that starts from the source model. A benchmark
    that was interrupted goes on where it stopped when it is started again with the same
    arguments; anything changed (data, weights, settings, seed) is computed again.

    Parameters
    ----------
    data : path
        ``<centre>/images`` and ``<centre>/masks``, same file stem in both.
    model : str, path or Segmenter
    methods : names of presets, or mapping of own names to settings
        ``source`` is added if it is missing: all differences are taken to it.
    labels : mapping or text, optional
        Label value of each mask value, such as ``"255:0,128:1,0:2"``. A structure whose value is
        never named is not measured.
    out : path
        Folder for what is written.
    centres : names, optional
    limit : int, optional
        Only the first so many cases of each centre.
    seed : int
        Of the methods and of the bootstrap.
    jobs : int
        Worker processes; the streams of different centres and methods are independent. Needs
        ``model`` as a name or path.
    share : (int, int)
        ``(i, n)``: only every n-th stream from the i-th on, for n machines that write to one
        folder. Whoever comes last, or the same call without it, has all of them in its tables.
    progress : callable, optional
        Called in this process with a `Progress`.

    Raises
    ------
    CohortError, ScanError, SettingsError, ModelError, FileError
        Before anything runs where that can be known; messages say what to do.
    """
    if jobs < 1 or (limit is not None and limit < 1):
        raise CohortError(f"jobs ({jobs}) and limit ({limit}) are at least 1")
    if jobs > 1 and isinstance(model, Segmenter):
        raise CohortError("several jobs each load the model", hint="Give its name or folder.")
    part, of = share
    if not 1 <= part <= of:
        raise CohortError(f"part {part} of {of} is none", hint="Parts go from 1 to their number.")
    cohort = open_cohort(data, centres)
    chosen = _settings(methods, seed)
    table = parse_labels(labels) if isinstance(labels, str) else labels
    segmenter = model if isinstance(model, Segmenter) else load_segmenter(model, device=device)
    card = segmenter.card
    if table is None:
        # Without labels a mask holds the card's own values.
        table = {0: 0, **{structure.value: structure.value for structure in card.structures}}
    if not measured_structures(card, table):
        values = ", ".join(f"{s.value} {s.name}" for s in card.structures)
        raise CohortError(f"the labels name no structure of the model ({values})")
    folder = make_folder(out)
    parts = make_folder(folder / "parts")
    tasks = [
        Task(
            centre,
            method,
            settings,
            table,
            parts / f"{safe_name(f'{centre.name}__{method}')}.json",
            _fingerprint(segmenter, centre, settings, table),
        )
        for centre in (found.first(limit) for found in cohort.centres)
        for method, settings in chosen.items()
    ]
    write_json(folder / "benchmark.json", _description(segmenter, tasks, table, seed, limit))
    volumes = segmenter.card.patch is not None
    pending = [
        replace(task, events=count_events(task.centre, task.settings, volumes))
        for task in tasks[part - 1 :: of]
        if task.rows() is None
    ]
    done, total = 0, sum(task.events for task in pending)

    def add(task: Task, events: int) -> None:
        nonlocal done
        done += events
        if progress is not None:
            progress(Progress(done, total, task.method, task.centre.name))

    def written() -> Tables | None:
        # A look at a long benchmark needs no waiting.
        rows = [row for task in tasks for row in task.rows() or []]
        if not rows:
            return None
        tables = Tables(rows, seed=seed)
        write_tables(tables, folder)
        return tables

    if jobs == 1 or len(pending) < 2:
        cache: SourceMasks = {}
        cached = ""
        for task in pending:
            if task.centre.name != cached:
                cache, cached = {}, task.centre.name
            _work(segmenter, task, cache, partial(add, task))
            written()
    else:
        assert not isinstance(model, Segmenter)
        for task in _spread(pending, jobs, model, device):
            add(task, task.events)
            written()
    tables = written()
    if tables is None:
        raise CohortError(
            f"part {part} of {of} holds no stream of {len(tasks)}", hint="Take fewer parts."
        )
    plot_benchmark(tables, folder / "dice.png")
    notes = [*cohort.notes, *segmenter.notices]
    few = dict.fromkeys(task.centre.name for task in tasks if len(task.centre.cases) < FEW)
    if few:
        notes.append(
            f"Fewer than {FEW} cases in {', '.join(few)}: their intervals are narrower than what "
            "is not known."
        )
    missing = sum(task.rows() is None for task in tasks)
    if missing:
        notes.append(f"{missing} of {len(tasks)} streams are other parts' and not there yet.")
    result = Benchmark(tables, folder, tuple(notes), reused=len(tasks) - len(pending))
    write_text(folder / "table.txt", result.text + "\n")
    pages = [tables.lines(full=True), *filter(None, [tables.ranking_lines()])]
    write_text(folder / "table.md", "\n\n".join(map(as_markdown, pages)) + "\n")
    return result


def _settings(methods: Sequence[str] | Mapping[str, Settings], seed: int) -> dict[str, Settings]:
    given = methods if isinstance(methods, Mapping) else {m: preset(m).settings for m in methods}
    # The source first, so that its masks are there for the others.
    baseline = given.get(BASELINE, preset(BASELINE).settings)
    return {
        name: settings.but(seed=seed) for name, settings in {BASELINE: baseline, **given}.items()
    }


def _fingerprint(
    segmenter: Segmenter, centre: Centre, settings: Settings, table: Mapping[int, int]
) -> str:
    """Return a hash of everything that decides a part's numbers, the software aside."""
    files = []
    for case in centre.cases:
        stats = [path.stat() for path in (case.image, case.mask)]
        files.append((case.name, [(one.st_size, one.st_mtime_ns) for one in stats]))
    card = segmenter.card
    said = [card.name, card.weights_sha256, settings.to_dict(), sorted(table.items()), files]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _description(
    segmenter: Segmenter,
    tasks: Sequence[Task],
    table: Mapping[int, int],
    seed: int,
    limit: int | None,
) -> dict[str, Any]:
    import torch

    from napari_grata import __version__

    return {
        "napari_grata": __version__,
        "torch": torch.__version__,
        "device": str(segmenter.device),
        "model": segmenter.card.name,
        "weights_sha256": segmenter.card.weights_sha256,
        "labels": {str(value): label for value, label in table.items()},
        "structures": measured_structures(segmenter.card, table),
        "seed": seed,
        "limit": limit,
        "methods": {task.method: task.settings.to_dict() for task in tasks},
        "centres": {task.centre.name: [c.name for c in task.centre.cases] for task in tasks},
        "worst_tenth": "mean of the lowest tenth of the cases, rounded, at least one",
        "hd95": "larger of the two directed 95th percentiles of the surface distances",
        "area": "pixels or voxels of the prediction",
    }


# -- one method over one centre ------------------------------------------------------------


def measured_structures(card: Card, table: Mapping[int, int]) -> list[str]:
    """Return the structures that the masks speak about.

    A structure whose value no mask value stands for was not drawn by the reader, so nothing can
    be said about it; the masks of a data set of discs alone measure the disc alone.
    """
    return [s.name for s in card.structures if s.value in set(table.values())]


def evaluate_centre(
    segmenter: Segmenter,
    centre: Centre,
    method: str,
    settings: Settings,
    *,
    table: Mapping[int, int],
    source_masks: SourceMasks | None = None,
    on_event: Callable[[int], None] | None = None,
) -> Iterator[CaseRow]:
    """Run one method over one centre and measure each case as its masks are final.

    Photographs of a centre form one list, adapted as one stream. Volumes follow one another, and
    the method's state (θ, optimiser, generator) lives on from one to the next. The truth is read
    after a scan's masks are there, and handed to no method.

    Parameters
    ----------
    table : mapping of mask values to label values
    source_masks : mutable mapping, optional
        Filled with the source model's label maps, and read where it has them.
    on_event : callable, optional
        Called with the number of events done since the last call.
    """
    kept: SourceMasks = {} if source_masks is None else source_masks
    state: Any = None
    for number, (scan, cases) in enumerate(_scans(centre)):
        run = AdaptationRun(segmenter, scan, settings, source_masks=kept.get(number), start=state)
        try:
            masks: dict[int, np.ndarray] = {}
            for record in run.records():
                if record.final:
                    masks[record.slice_index] = record.adapted_mask
                if on_event is not None:
                    on_event(1)
            kept[number] = dict(run.source_masks)
            state = run.state if settings.mode == "continual" else None
        finally:
            run.close()
        for name, spacing, predicted, truth in _pairs(scan, cases, masks, table):
            for structure in measured_structures(segmenter.card, table):
                found = measure(
                    structure_mask(segmenter.card, predicted, structure),
                    structure_mask(segmenter.card, truth, structure),
                    spacing,
                )
                yield CaseRow(
                    centre=centre.name,
                    case=name,
                    structure=structure,
                    method=method,
                    dice=found.dice,
                    hd95=found.hd95,
                    assd=found.assd,
                    area=found.area,
                    true_area=found.true_area,
                    unit="px" if spacing is None else "mm",
                )


def count_events(centre: Centre, settings: Settings, volumes: bool) -> int:
    """Return how many events one method's stream over a centre has."""
    return sum(
        len(make_plan(settings, range(scan.n_slices), scan.case_of, volumes=volumes))
        for scan, _ in _scans(centre)
    )


def _scans(centre: Centre) -> Iterator[tuple[Scan, Sequence[Case]]]:
    if centre.kind == "photographs":
        yield open_scan([case.image for case in centre.cases]), centre.cases
    else:
        for case in centre.cases:
            yield open_scan(case.image), (case,)


def _pairs(
    scan: Scan, cases: Sequence[Case], masks: Mapping[int, np.ndarray], table: Mapping[int, int]
) -> Iterator[tuple[str, tuple[float, ...] | None, np.ndarray, np.ndarray]]:
    """Yield (case name, spacing, predicted, truth) for each case, all on the displayed grid."""
    if scan.is_list:
        for index, case in enumerate(cases):
            one = open_scan(case.image)
            yield (
                case.name,
                one.slice_spacing,
                masks[index],
                read_mask(case.mask, one, labels=table),
            )
        return
    truth = read_mask(cases[0].mask, scan, labels=table)
    spacing: tuple[float, ...] | None = scan.slice_spacing
    if scan.is_stack and spacing is not None:
        thickness = scan.slice_thickness
        spacing = None if thickness is None else (thickness, *spacing)
    for number in range(scan.n_cases):
        name = f"{cases[0].name} t{number + 1}" if scan.n_cases > 1 else cases[0].name
        slices = scan.case_slices(number)
        predicted = np.stack([masks[i] for i in slices])
        true = np.stack([scan.get_mask(truth, i) for i in slices])
        yield (
            (name, spacing, predicted, true)
            if scan.is_stack
            else (
                name,
                spacing,
                predicted[0],
                true[0],
            )
        )


def _work(
    segmenter: Segmenter,
    task: Task,
    cache: SourceMasks,
    on_event: Callable[[int], None] | None = None,
) -> None:
    """Do one task and leave its rows in its part file."""
    begin = time.perf_counter()
    rows = evaluate_centre(
        segmenter,
        task.centre,
        task.method,
        task.settings,
        table=task.table,
        source_masks=cache,
        on_event=on_event,
    )
    part = {
        "fingerprint": task.fingerprint,
        "rows": [row.to_dict() for row in rows],
        "seconds": round(time.perf_counter() - begin, 2),
    }
    write_json(task.part, part)


# -- in worker processes -------------------------------------------------------------------

_worker: dict[str, Segmenter] = {}


def _start_worker(model: str | Path, device: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _worker["segmenter"] = load_segmenter(model, device=device)


def _work_in_worker(task: Task) -> None:
    _work(_worker["segmenter"], task, {})


def _spread(tasks: Sequence[Task], jobs: int, model: str | Path, device: str) -> Iterator[Task]:
    """Do tasks in worker processes; yield each as it is finished."""
    with ProcessPoolExecutor(
        min(jobs, len(tasks)),
        # Spawn: torch's thread pools do not survive a fork.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(model, device, max(1, (os.cpu_count() or 1) // jobs)),
    ) as pool:
        # Long streams first, so that no worker is left with one at the end.
        order = sorted(tasks, key=lambda task: -task.events)
        running = {pool.submit(_work_in_worker, task): task for task in order}
        try:
            for finished in as_completed(running):
                finished.result()
                yield running[finished]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
