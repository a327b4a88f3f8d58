"""Compare methods on labelled scans of several centres; each centre is one stream a model.

What it leaves in its folder: ``index.html`` (all of it, for people), ``cases.csv``,
``streams.csv``, ``summary.json``, ``differences.json`` and ``.csv``, ``ranking.json``,
``details.json``, ``benchmark.json`` (what was run), ``table.txt`` and ``.md``, ``dice.png``, and
``parts/``, one file a stream, from which an interrupted benchmark goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from napari_grata import __version__
from napari_grata.adaptation.methods.register import METHODS
from napari_grata.adaptation.settings import Settings, preset
from napari_grata.evaluation.cohort import Cohort, CohortError, open_cohort, parse_labels
from napari_grata.evaluation.page import plot_benchmark, write_page
from napari_grata.evaluation.report import (
    BASELINE,
    COSTS,
    CaseRow,
    Tables,
    as_markdown,
    as_text,
    write_cases,
    write_tables,
)
from napari_grata.evaluation.streams import (
    Key,
    Model,
    Part,
    SourceMasks,
    Task,
    count_events,
    fingerprint,
    measured_structures,
    open_model,
    rows_of,
    run_stream,
    spread,
)
from napari_grata.scans import open_scan
from napari_grata.scans.files import csv_text, make_folder, read_json, write_json, write_text
from napari_grata.segmenters import Segmenter

#: What ``benchmark.json`` tells by name, and what one of it is called.
_TOLD = {
    "methods": "method",
    "centres": "centre",
    "models": "model",
    "labels": "labels of the centre",
}
FEW = 10
"""Below so many cases a bootstrap interval is too narrow to be taken at its word."""


@dataclass(frozen=True)
class Protocol:
    """How the methods of a benchmark are run.

    Attributes
    ----------
    methods : tuple of str
        Those compared where none are named.
    changes : mapping
        Settings that are the same for all.
    joined : bool
        Whether the centres follow one another as one stream.
    size : (int, int) or None
        At which models of photographs read them.
    """

    methods: tuple[str, ...] = ("source", "batch-norm", "consistency", "grata", "careful")
    changes: Mapping[str, Any] = field(default_factory=dict)
    joined: bool = False
    size: tuple[int, int] | None = None


_ONLINE = Protocol(
    ("source", "batch-norm", "tent", "cotta", "sar", "vptta", "consistency", "grata"),
    {
        **{"mode": "continual", "passes": 1, "steps_per_slice": 1, "batch": 1},
        **{"predict": "stream", "six_views": False, "reframe": False},
    },
    size=(512, 512),
)
PROTOCOLS = {"own": Protocol(), "grata": _ONLINE, "vptta": replace(_ONLINE, joined=True)}
"""``own``: each method as its preset has it. ``grata`` and ``vptta``: as those two were measured,
one photograph at a time, seen once, at 512²; from the source model at each centre, or on from
centre to centre."""


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
    notes : tuple of str
        What a reader of the table should know, such as masks left aside.
    reused : int
        Streams that an earlier run of the same benchmark had finished.
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


def run_benchmark(
    data: str | Path,
    model: str | Path | Segmenter | Sequence[str | Path | Segmenter],
    methods: Sequence[str] | Mapping[str, Settings] | None,
    labels: Mapping[int, int] | str | None,
    out: str | Path,
    *,
    centres: Iterable[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    seeds: int = 1,
    orders: int = 1,
    protocol: str = "own",
    jobs: int = 1,
    share: tuple[int, int] = (1, 1),
    scheduler: str | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
) -> Benchmark:
    """Run methods over the centres of a labelled cohort and write tables and a page.

    Each centre is one stream, with each model, that starts from the source model. A benchmark that
    was interrupted goes on where it stopped when it is started again with the same arguments;
    anything changed (data, weights, settings, the package of a method) is computed again.

    Parameters
    ----------
    data : path
        As `napari_grata.evaluation.open_cohort` reads it.
    model : str, path or Segmenter, or several
        Several see the same centres, with the same labels; those of other data or labels are
        benchmarks of their own, for `merge_benchmarks`.
    methods : names of presets, or mapping of own names to settings
        ``source`` is added if it is missing: all differences are taken to it. None: those of the
        protocol.
    labels : mapping or text, optional
        Label value of each mask value, such as ``"255:0,128:1,0:2"``. A structure whose value is
        never named is not measured.
    out : path
        Folder for what is written.
    limit : int, optional
        Only the first so many cases of each centre.
    seed : int
        The first seed of the methods, and that of the bootstrap.
    seeds, orders : int
        How many seeds, and orders of the cases; the first order is the cohort's own. What cannot
        depend on them is computed once.
    protocol : str
        One of `PROTOCOLS`.
    jobs : int
        Worker processes; streams are independent. Needs ``model`` as a name or path.
    share : (int, int)
        ``(i, n)``: only every n-th stream from the i-th on, for n machines that write to one
        folder. Whoever comes last, or the same call without it, has all of them in its tables.
    scheduler : str, optional
        ``"local"``, or the address of a Dask scheduler, whose workers find data and model under
        the same paths; see `napari_grata.evaluation.streams.spread`.
    progress : callable, optional
        Called in this process with a `Progress`.

    Raises
    ------
    CohortError, ScanError, SettingsError, ModelError, FileError
        Before anything runs where that can be known; messages say what to do.
    """
    import torch

    if min(jobs, seeds, orders) < 1 or (limit is not None and limit < 1):
        raise CohortError(
            f"jobs ({jobs}), seeds ({seeds}), orders ({orders}) and limit ({limit}) are at least 1"
        )
    given = [model] if isinstance(model, (str, Path, Segmenter)) else list(model)
    away = jobs > 1 or scheduler is not None
    if away and any(isinstance(one, Segmenter) for one in given):
        raise CohortError("several jobs each load the model", hint="Give its name or folder.")
    part, of = share
    if not 1 <= part <= of:
        raise CohortError(f"part {part} of {of} is none", hint="Parts go from 1 to their number.")
    if protocol not in PROTOCOLS:
        raise CohortError(f"there is no protocol {protocol!r}", hint=f"{', '.join(PROTOCOLS)}.")
    rules = PROTOCOLS[protocol]
    if scheduler is not None:
        # Workers may stand in another folder.
        data = Path(data).absolute()
        given = [
            Path(one).absolute() if not isinstance(one, Segmenter) and Path(one).exists() else one
            for one in given
        ]
    cohort = open_cohort(data, centres)
    limited = (replace(centre, cases=centre.cases[:limit]) for centre in cohort.centres)
    cohort = replace(cohort, centres=tuple(limited))
    if rules.joined:
        cohort = cohort.joined()
    chosen = _settings(rules.methods if methods is None else methods, rules.changes)
    named = parse_labels(labels) if isinstance(labels, str) else labels
    segmenters: dict[str, Segmenter] = {}
    tables: dict[str, Mapping[int, int]] = {}
    places: dict[str, Model] = {}
    for one in given:
        segmenter = one if isinstance(one, Segmenter) else open_model(one, device, rules.size)
        name = segmenter.card.name
        if name in segmenters:
            raise CohortError(f"two models are called {name}", hint="Rename one in its card.")
        segmenters[name], tables[name] = segmenter, _labels_for(segmenter, named, cohort)
        if not isinstance(one, Segmenter):
            places[name] = (one, device, rules.size)
    if not segmenters:
        raise CohortError("there is no model", hint="Name at least one.")
    folder = make_folder(out)
    kept = make_folder(folder / "parts")
    tasks = [
        Task(name, centre, method, own, order, table, fingerprint(segmenter, centre, own, table))
        for name, segmenter in segmenters.items()
        for table in [tables[name]]
        for original in cohort.centres
        for order in range(orders)
        for centre in [original.in_order(order)]
        for number in range(seeds)
        for method, settings in chosen.items()
        for own in [settings.but(seed=seed + number)]
    ]
    description = {
        "napari_grata": __version__,
        "torch": torch.__version__,
        "device": str(segmenter.device),
        "models": {
            name: {
                "weights_sha256": one.card.weights_sha256,
                "size": one.card.size,
                "structures": measured_structures(one.card, tables[name]),
            }
            for name, one in segmenters.items()
        },
        "seed": seed,
        "seeds": seeds,
        "orders": orders,
        "protocol": protocol,
        "limit": limit,
        "methods": {name: one.but(seed=seed).to_dict() for name, one in chosen.items()},
        "packages": {name: METHODS[one.method].package for name, one in chosen.items()},
        "centres": {centre.name: [c.name for c in centre.cases] for centre in cohort.centres},
        "labels": {
            centre.name: None if named is None else {str(v): label for v, label in named.items()}
            for centre in cohort.centres
        },
        "fingerprints": [task.fingerprint for task in tasks],
        "worst_tenth": "mean of the lowest tenth of the cases, rounded, at least one",
        "hd95": "larger of the two directed 95th percentiles of the surface distances",
        "ece": "of the structure's probability over all elements of a case, 15 bins",
        "area": "pixels or voxels of the prediction",
    }
    write_json(folder / "benchmark.json", description)
    done_before = {task.key: found for task in tasks if (found := task.kept(kept)) is not None}
    streams = _Streams([task.key for task in tasks], done_before, seed)

    def left(some: Iterable[Task]) -> list[Task]:
        return [task for task in some if streams.part(task.key) is None]

    pending = [
        replace(task, events=count_events(task.centre, task.settings, volumes))
        for task in left(tasks[part - 1 :: of])
        for volumes in [segmenters[task.model].card.patch is not None]
    ]
    reused = len(tasks) - len(left(tasks))
    done, total = 0, sum(task.events for task in pending)

    def add(task: Task, events: int) -> None:
        nonlocal done
        done += events
        if progress is not None:
            model = f"{task.model}: " if len(segmenters) > 1 else ""
            progress(Progress(done, total, task.method, model + task.centre.name))

    def here(some: Sequence[Task]) -> Iterator[tuple[Task, Part]]:
        cache: SourceMasks = {}
        cached: tuple[str, str, int] | None = None
        for task in some:
            if (task.model, task.centre.name, task.order) != cached:
                cache, cached = {}, (task.model, task.centre.name, task.order)
            yield task, run_stream(segmenters[task.model], task, cache, partial(add, task))

    def elsewhere(some: Sequence[Task]) -> Iterator[tuple[Task, Part]]:
        for task, found in spread(some, places, jobs, scheduler):
            add(task, task.events)
            yield task, found

    notes = [*cohort.notes, *(one for found in segmenters.values() for one in found.notices)]
    if rules.size is not None:
        notes += [
            f"The protocol {protocol} is one of photographs at {rules.size[0]}²; {name} reads "
            "slices by their spacing."
            for name, one in segmenters.items()
            if one.card.size != rules.size
        ]
    took, rested = 0.0, time.monotonic()
    # First what may stand for others: the first seed and order, then the first seed.
    for wave in range(3):
        now = [t for t in pending if (2 if t.settings.seed != seed else t.order > 0) == wave]
        some = left(now)
        for task in (task for task in now if task not in some):
            add(task, task.events)
        if not some:
            continue
        for task, found in (elsewhere if away else here)(some):
            write_json(kept / task.file, found)
            streams.parts[task.key] = found
            # A look at a long benchmark needs no waiting, and should not hold it up.
            write_cases(streams.rows(), folder)
            if time.monotonic() - rested > 20 * took:
                begin = time.monotonic()
                write_tables(streams.tables(), folder)
                took, rested = time.monotonic() - begin, time.monotonic()
    if not streams.parts:
        raise CohortError(
            f"part {part} of {of} holds no stream of {len(tasks)}", hint="Take fewer parts."
        )
    return streams.finish(folder, description, notes, reused)


def merge_benchmarks(folders: Sequence[str | Path], out: str | Path) -> Benchmark:
    """Put benchmarks together that ran in several folders; data and models are not needed.

    They are parts of one, or of other models and centres, with labels of their own.

    Raises
    ------
    CohortError
        If a folder holds no benchmark, or methods, models or centres of one name are not the same.
    """
    found: list[tuple[Path, dict[str, Any]]] = []
    for one in map(Path, folders):
        try:
            said = read_json(one / "benchmark.json")
            for what in (*_TOLD, "seeds", "orders"):
                said[what]
        except (OSError, ValueError, KeyError) as error:
            raise CohortError("there is no benchmark in this folder", one) from error
        found.append((one, said))
    if not found:
        raise CohortError("there is nothing to merge", hint="Name the folders of benchmarks.")
    first = found[0][1]
    whole = {**first, **{what: {} for what in _TOLD}, "fingerprints": []}
    parts: dict[Key, Part] = {}
    notes: list[str] = []
    keys: dict[Key, None] = {}
    for one, said in found:
        for what in ("seed", "protocol", "limit"):
            if said[what] != first[what]:
                raise CohortError(
                    f"{what} is not the same as in {Path(found[0][0]).name}",
                    one,
                    "Only what was measured alike can stand in one table.",
                )
        for what in ("napari_grata", "torch", "device"):
            if said[what] != first[what]:
                notes.append(f"{what} was not the same everywhere: {first[what]} and {said[what]}.")
        for what, singular in _TOLD.items():
            for name, value in said[what].items():
                if whole[what].setdefault(name, value) != value:
                    raise CohortError(
                        f"the {singular} {name} is not the same in all folders",
                        one,
                        "Merge what was run with the same settings, weights, cases and labels.",
                    )
        keys |= {
            (model, centre, method, said["seed"] + number, order): None
            for model in said["models"]
            for centre in said["centres"]
            for order in range(said["orders"])
            for number in range(said["seeds"])
            for method in said["methods"]
        }
        for path in sorted((one / "parts").glob("*.json")):
            part = read_json(path)
            if part["fingerprint"] not in said["fingerprints"]:
                continue  # left by a run with other arguments
            model, centre, method, seed, order = part["stream"]
            known = parts.setdefault((model, centre, method, seed, order), part)
            if known["rows"] != part["rows"]:
                notes.append(f"{method} on {centre} differs between folders; the first one counts.")
        whole["fingerprints"] += said["fingerprints"]
    folder = make_folder(out)
    write_json(folder / "benchmark.json", whole)
    if not parts:
        raise CohortError("the folders hold no finished stream", folders[0])
    streams = _Streams([*keys], parts, first["seed"])
    return streams.finish(folder, whole, list(dict.fromkeys(notes)), len(parts))


@dataclass(frozen=True)
class _Streams:
    """The streams of a benchmark, and what is there of them."""

    keys: Sequence[Key]
    parts: dict[Key, Part]
    seed: int

    def part(self, key: Key) -> Part | None:
        """Return the part of a stream, or that of another which is bound to be the same.

        A stream that drew no random number is the same for every seed, and a method that learns
        nothing in every order: those of the first seed and of the first order stand for others.
        """
        model, centre, method, own, order = key
        for other in dict.fromkeys([(own, order), (self.seed, order), (own, 0), (self.seed, 0)]):
            part = self.parts.get((model, centre, method, *other))
            if part is None or (other[0] != own and part["draws"]):
                continue
            if other[1] == order or not part["ordered"]:
                return part
        return None

    def there(self) -> list[tuple[Key, Part]]:
        found = ((key, self.part(key)) for key in self.keys)
        return [(key, part) for key, part in found if part is not None]

    def rows(self) -> list[CaseRow]:
        return [
            replace(row, seed=key[-2], order=key[-1])
            for key, part in self.there()
            for row in rows_of(part)
        ]

    def tables(self) -> Tables:
        costs: dict[str, dict[str, float]] = {}
        shifts: dict[tuple[str, str, str], float] = {}
        for method in dict.fromkeys(key[2] for key in self.parts):
            own = [part for key, part in self.parts.items() if key[2] == method]
            cases = sum(len({row["case"] for row in part["rows"]}) for part in own)
            seconds = sum(part["seconds"] for part in own) / max(1, cases)
            costs[method] = dict(zip(COSTS, (seconds, max(p["peak_mb"] for p in own)), strict=True))
        for key, part in self.parts.items():
            shifts |= {(*key[:2], case): score for case, score in part["shift"].items()}
        return Tables(self.rows(), seed=self.seed, costs=costs, shifts=shifts)

    def costs(self) -> str:
        """Return the costs of each stream as CSV, and which one stands for it."""
        table = []
        for key, part in self.there():
            *_, own, order = part["stream"]
            same = "" if (own, order) == key[-2:] else f"seed {own}, order {order}"
            table.append([*key, part["seconds"], part["peak_mb"], part["memory"], same])
        columns = ("model", "centre", "method", "seed", "order", *COSTS, "memory", "computed_as")
        return csv_text(columns, table)

    def finish(
        self, folder: Path, description: Mapping[str, Any], notes: list[str], reused: int
    ) -> Benchmark:
        """Write all that is told of the streams that are there."""
        tables = self.tables()
        few = [name for name, cases in description["centres"].items() if len(cases) < FEW]
        if few:
            notes.append(
                f"Fewer than {FEW} cases in {', '.join(few)}: their intervals are narrower than "
                "what is not known."
            )
        missing = len(self.keys) - len(self.there())
        if missing:
            notes.append(
                f"{missing} of {len(self.keys)} streams are other parts' and not there yet."
            )
        result = Benchmark(tables, folder, tuple(notes), reused)
        write_tables(tables, folder)
        write_text(folder / "streams.csv", self.costs())
        write_text(folder / "table.txt", result.text + "\n")
        pages = [*filter(None, [tables.ranking_lines()]), tables.lines(full=True)]
        write_text(folder / "table.md", "\n\n".join(map(as_markdown, pages)) + "\n")
        plot_benchmark(tables, folder / "dice.png")
        write_page(tables, description, notes, folder / "index.html")
        return result


def _settings(
    methods: Sequence[str] | Mapping[str, Settings], changes: Mapping[str, Any]
) -> dict[str, Settings]:
    given = methods if isinstance(methods, Mapping) else {m: preset(m).settings for m in methods}
    # The source first, so that its masks are there for the others.
    baseline = given.get(BASELINE, preset(BASELINE).settings)
    return {
        name: settings.but(**changes) for name, settings in {BASELINE: baseline, **given}.items()
    }


def _labels_for(
    segmenter: Segmenter, named: Mapping[int, int] | None, cohort: Cohort
) -> Mapping[int, int]:
    """Return the label value of each mask value for a model that can read the cohort."""
    card = segmenter.card
    for centre in cohort.centres:
        why = segmenter.fits(open_scan(centre.cases[0].image))
        if why is not None:
            raise CohortError(f"{card.name} cannot read this centre", centre.name, why)
    # Without labels a mask holds the card's own values.
    table = {0: 0, **{s.value: s.value for s in card.structures}} if named is None else named
    if not measured_structures(card, table):
        values = ", ".join(f"{s.value} {s.name}" for s in card.structures)
        raise CohortError(f"the labels name no structure of the model ({values})")
    return table
