"""Verbs of the command line about models, many scans, lists of cases, and this machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from napari_grata.adaptation.settings import PRESETS, preset
from napari_grata.console import (
    Console,
    Device,
    MaskFormat,
    Method,
    Model,
    Out,
    RegionText,
    ScanNames,
    Scans,
    Seed,
    UsageError,
    argument,
    flag,
    load_model,
    option,
    parse_region,
)
from napari_grata.scans.scan import counted

if TYPE_CHECKING:
    from napari_grata.evaluation.benchmark import Benchmark
    from napari_grata.review import CaseList

ListOrScans = Annotated[Path, argument("LIST", "folder of the list, or of its scans")]


def shift(
    console: Console,
    scan: Scans,
    *,
    model: Model,
    device: Device = "auto",
    region: RegionText = None,
    layers: Annotated[bool, flag("--layers", "print each layer's figures too")] = False,
) -> dict[str, Any]:
    """Tell how far scans are from the model's source centre.

    Each photograph and volume is measured by itself; one that fails does not stop the others.
    """
    from napari_grata.adaptation.shift import ShiftError, shifts, why_not
    from napari_grata.scans import ScanError, open_scan

    box = parse_region(region)
    segmenter = load_model(model, device)
    problem = why_not(segmenter.card)
    if problem is not None:
        raise ShiftError(problem)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for path in scan:
        try:
            opened = open_scan(path)
            console.warn(opened.notices)
            for case, found in shifts(segmenter, opened, region=box):
                name = opened.case_name(case)
                console.say(f"{name}: {found.score:.2f}  {found.words}")
                if layers:
                    console.say(f"  {found.more}")
                for layer in found.per_layer if layers else ():
                    typical = "" if layer.typical is None else f", typically {layer.typical:.3f}"
                    ratio = f"variance × {layer.variance_ratio:.2f}"
                    console.say(f"  {layer.name}: {layer.mean:.3f}{typical}; {ratio}")
                rows.append(
                    {
                        "scan": name,
                        "score": found.score,
                        "level": found.level,
                        "words": found.words,
                        "nearer_at_home": found.calibrated,
                        "distance": found.distance,
                        "layers": {one.pop("name"): one for one in map(asdict, found.per_layer)},
                    }
                )
        except (ScanError, ShiftError) as error:
            if len(scan) == 1:
                raise
            failed.append(str(error))
            console.warn([f"napari-grata: {error}"])
    if failed and not rows:
        raise ShiftError("None of the scans could be measured.")
    return {"model": segmenter.card.name, "scans": rows, "failed": failed}


def benchmark(
    console: Console,
    data: Annotated[list[Path], argument("DATA", "<centre>/images and /masks, or lists")],
    *,
    out: Out,
    model: Annotated[
        str | None, option("name, folder with card.yaml, or .pth file; several separated by commas")
    ] = None,
    methods: Annotated[
        str | None,
        option(f"separated by commas, of: {', '.join(PRESETS)} (default: the protocol's)"),
    ] = None,
    labels: Annotated[str | None, option("e.g. 255:0,128:1,0:2", metavar="FILE:LABEL,…")] = None,
    centres: Annotated[str | None, option("only these, in this order, separated by commas")] = None,
    limit: Annotated[int | None, option("only the first so many scans a centre")] = None,
    protocol: Annotated[
        str, option("own (each method's settings), grata or vptta (as those were measured)")
    ] = "own",
    device: Device = "auto",
    seed: Seed = 0,
    seeds: Annotated[int, option("how many seeds, from --seed on")] = 1,
    orders: Annotated[int, option("how many orders of the scans, the first as they are")] = 1,
    jobs: Annotated[int, option("processes side by side")] = 1,
    scheduler: Annotated[
        str | None, option("Dask: local, or the address of one that runs, tcp://…")
    ] = None,
    part: Annotated[int, option("of several machines that write to one folder: which this is")] = 1,
    of: Annotated[int, option("how many machines there are")] = 1,
    merge: Annotated[bool, flag("--merge", "DATA are folders of benchmarks: one table")] = False,
) -> dict[str, Any]:
    """Compare methods on labelled scans by centre."""
    from napari_grata.evaluation.benchmark import Progress, merge_benchmarks, run_benchmark

    def names(text: str | None) -> list[str] | None:
        return [name.strip() for name in text.split(",") if name.strip()] if text else None

    if merge:
        return _told(console, merge_benchmarks(data, out))
    models = names(model)
    if models is None or len(data) != 1:
        raise UsageError("Give one folder of labelled scans and --model, or --merge.")
    with console.bar("benchmark") as bar:

        def show(state: Progress) -> None:
            bar.total = state.total
            bar.set_postfix_str(f"{state.method}, {state.centre}", refresh=False)
            bar.update(state.done - bar.n)

        found = run_benchmark(
            data[0],
            models,
            names(methods),
            labels,
            out,
            centres=names(centres),
            limit=limit,
            seed=seed,
            seeds=seeds,
            orders=orders,
            protocol=protocol,
            jobs=jobs,
            share=(part, of),
            scheduler=scheduler,
            device=device,
            progress=show,
        )
    return _told(console, found)


def _told(console: Console, found: Benchmark) -> dict[str, Any]:
    """Print a benchmark's tables and notes; return them."""
    from napari_grata.evaluation.report import HARM, LEVEL

    console.say(found.text)
    console.say(
        "* the interval excludes 0; in the ranking, Wilcoxon's test after Holm's correction does "
        f"(p < {LEVEL}). Harm: {-100 * HARM:.1f} points or more lost. Means hide harm: look at the "
        "worst tenth."
    )
    console.warn(found.notes)
    console.say(f"Written to {found.out}: begin with index.html")
    return {
        "out": str(found.out),
        "page": str(found.out / "index.html"),
        "cases": str(found.out / "cases.csv"),
        "summary": found.tables.summary,
        "differences": found.tables.differences,
        "ranking": found.tables.ranking,
        "reused": found.reused,
        "notes": list(found.notes),
    }


def models(
    console: Console,
    name: Annotated[str | None, argument("NAME", "show this model's card")] = None,
    *,
    add: Annotated[
        Path | None, option("a model's folder, also of nnU-Net, or .pth", metavar="PATH")
    ] = None,
) -> dict[str, Any]:
    """List the source segmenters, show one, or add one."""
    from napari_grata.segmenters import add_model, card_to_yaml, find_model, list_models
    from napari_grata.segmenters.card import CARD_FILE, lacking
    from napari_grata.segmenters.card_fields import HINTS

    if add is not None:
        entry = add_model(add)
        console.say(f"Added {entry.name}: {entry.folder}")
        missing = lacking(entry.card) if entry.card is not None else ()
        if missing:
            console.say(f"Its card does not say all. Fill in, in {entry.folder / CARD_FILE}:")
        for field in missing:
            console.say(f"  {field}: {HINTS[field]}")
        return {"name": entry.name, "folder": str(entry.folder), "missing": list(missing)}
    if name is not None:
        import yaml

        found = find_model(name)
        if found.card is None:
            raise UsageError(f"The model {name!r} cannot be used: {found.error}")
        text = card_to_yaml(found.card)
        console.say(text)
        return dict(yaml.safe_load(text))
    entries = list_models()
    for entry in entries:
        about = entry.card.title if entry.card else f"cannot be used: {entry.error}"
        console.say(f"{entry.name:<24} {entry.origin:<12} {about}")
    return {
        "models": [
            {
                "name": entry.name,
                "origin": entry.origin,
                "folder": str(entry.folder),
                "usable": entry.card is not None,
                "error": entry.error,
            }
            for entry in entries
        ]
    }


def calibrate(
    console: Console,
    scans: Annotated[Path, argument("FOLDER", "of scans of the model's own centre")],
    *,
    model: Model,
    on: Annotated[str, option("which scans these are, for the card")] = "",
    seen: Annotated[int, option("how many of them trained the model")] = 0,
    dry_run: Annotated[bool, flag("--dry-run", "print it, change no card")] = False,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Measure scans of the source centre, without labels, and write how they look into the card."""
    from napari_grata.adaptation.source_centre import calibrate as measured
    from napari_grata.scans import open_scan
    from napari_grata.scans.readers import scans_in
    from napari_grata.segmenters import write_card
    from napari_grata.segmenters.shift_reference import FEW_SCANS

    if not scans.is_dir():
        raise UsageError(f"{scans} is not a folder of scans.")
    segmenter = load_model(model, device)
    card, folder = segmenter.card, segmenter.folder
    if folder is None or not folder.is_dir():
        raise UsageError(f"{model} has no folder with a card; add it with napari-grata models.")
    found = measured(
        segmenter,
        map(open_scan, scans_in(scans)),
        on=on or scans.name,
        command=f"napari-grata calibrate FOLDER --model {card.name}",
        seen=seen,
        progress=lambda text: console.warn([text]),
    )
    if not dry_run:
        write_card(folder, replace(card, shift=found))
    console.say(
        f"{found.scans} scans ({found.measured_on}): edge {found.edge:.3f}, farthest "
        f"{found.farthest:.3f}" + ("" if dry_run else f"; written to {folder}")
    )
    if found.scans < FEW_SCANS:
        console.warn(
            ["These are few scans: 'farther than 19 of 20' cannot be told, and words say how many."]
        )
    return {"model": card.name, "scans": found.scans, "edge": found.edge}


def train_optimiser(
    console: Console,
    scan: Scans,
    *,
    model: Model,
    out: Annotated[
        Path | None, option("the file; by default the user's own, which mgg takes from then on")
    ] = None,
    episodes: Annotated[int, option("streams of eight scans to learn from")] = 60,
    seed: Seed = 0,
    device: Device = "auto",
) -> dict[str, Any]:
    """Train the optimiser of the method mgg on scans of the source centre; no labels."""
    from safetensors.torch import save

    from napari_grata.adaptation.methods.mgg import FILE
    from napari_grata.adaptation.source_centre import images_of, train_optimiser
    from napari_grata.scans import open_scan
    from napari_grata.scans.files import make_folder, write_bytes
    from napari_grata.segmenters.registry import user_models_dir

    target = out if out is not None else user_models_dir().parent / FILE
    if episodes < 1 or target.exists():
        wrong = f"{target} exists already" if target.exists() else "--episodes is less than 1"
        raise UsageError(f"{wrong}; nothing is overwritten. Move it, or name another with --out.")
    segmenter = load_model(model, device)
    images = images_of(segmenter, open_scan(scan))
    stream = train_optimiser(segmenter, images, episodes=episodes, seed=seed)
    found = list(console.progress(stream, episodes, "train"))
    about = {"model": segmenter.card.name, "scans": str(len(images)), "episodes": str(episodes)}
    make_folder(target.parent)
    write_bytes(target, save(found[-1][0].state_dict(), about))
    gains = [gain for _, gain in found]
    tenth = max(1, episodes // 10)
    first, last = (sum(some) / tenth for some in (gains[:tenth], gains[-tenth:]))
    console.say(f"Gain of a step {first:.3f} at first, {last:.3f} at last: {target}")
    return {"file": str(target), "gain_first": first, "gain_last": last, **about}


def cases(
    console: Console,
    scans: Annotated[
        list[Path],
        argument("SCANS", "a folder, or files"),
    ],
    *,
    model: Model,
    method: Method = "careful",
    folder: Annotated[
        Path | None, flag("--list", "where the list is kept (the user's own data)")
    ] = None,
    carry: Annotated[bool, flag("--carry", "the adapted model lives on from case to case")] = False,
    anew: Annotated[bool, flag("--again", "also do what is done already")] = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> dict[str, Any]:
    """Segment and adapt every case of a folder, as a list."""
    from napari_grata.review import CaseList, CaseSummary, work_on_list

    settings = preset(method).settings.but(seed=seed)
    caselist = CaseList.make(scans, folder)
    segmenter = load_model(model, device)
    caselist.choose(model=model, settings=settings.to_dict(), carry=carry)
    failed = []
    with console.bar("cases", len(caselist)) as bar:
        for case, item in work_on_list(caselist, segmenter, again=anew):
            bar.set_postfix_str(case.key, refresh=False)
            if isinstance(item, CaseSummary):
                bar.update(case.number - bar.n)
                if item.error:
                    failed.append({"case": case.key, "error": item.error})
        bar.update(len(caselist) - bar.n)
    progress = caselist.progress()
    console.say(str(caselist.folder))
    console.say(
        f"{counted(progress.total, 'case')}: {progress.prepared} adapted, {progress.flagged} to "
        f"look at closely, {progress.decided} decided on, {progress.failed} could not be done"
    )
    for entry in failed:
        console.say(f"  {entry['case']}: {entry['error']}")
    console.warn([*segmenter.notices, *caselist.notices])
    found = {
        "list": str(caselist.folder),
        "cases": progress.total,
        "adapted": progress.prepared,
        "flagged": progress.flagged,
        "decided": progress.decided,
        "failed": failed,
    }
    caselist.close()
    return found


def open_list(console: Console, path: Path) -> CaseList:
    """Open a list by its own folder, or by the scans that it was made of."""
    from napari_grata.review.case_list import CaseList, list_folder
    from napari_grata.review.list_file import STORE_FILE

    for folder in (path, list_folder([path])):
        if (folder / STORE_FILE).is_file():
            caselist = CaseList.load(folder)
            console.warn(caselist.notices)
            return caselist
    raise UsageError(
        f"{path} is neither the folder of a list nor a folder of scans that a list was made of. "
        "Make one with napari-grata cases, or in the dock."
    )


def report(
    console: Console,
    source: ListOrScans,
    *,
    out: Annotated[Path, option("the HTML file")],
) -> dict[str, Any]:
    """Write one HTML file about a list of cases, or about a single run."""
    from napari_grata.adaptation.run_store import is_run_folder
    from napari_grata.review.report import case_of_run, report_cases, write_report

    if is_run_folder(source):
        path, count = write_report(out, [case_of_run(source, "case-0001")]), 1
    else:
        caselist = open_list(console, source)
        path, count = write_report(out, report_cases(caselist)), len(caselist)
        caselist.close()
    console.say(f"{counted(count, 'case')}: {path}")
    return {"report": str(path), "cases": count}


def masks(
    console: Console,
    source: ListOrScans,
    *,
    out: Annotated[Path, option("an empty folder")],
    scan_names: ScanNames = False,
    mask_format: MaskFormat = "",
) -> dict[str, Any]:
    """Write the decided masks of a list, and a table of all cases."""
    from napari_grata.review.final_masks import export_masks

    caselist = open_list(console, source)
    found = list(export_masks(caselist, out, scan_names=scan_names, mask_format=mask_format))
    caselist.close()
    written = [one for one in found if one.path is not None]
    console.say(f"{len(written)} of {len(found)} masks written to {out}")
    for one in found:
        if one.path is None:
            console.say(f"  {one.key}: {one.reason}")
    return {
        "folder": str(out),
        "masks": {one.key: str(one.path) for one in written},
        "without": {one.key: one.reason for one in found if one.path is None},
    }


def doctor(
    console: Console,
    *,
    no_speed: Annotated[bool, flag("--no-speed", "skip the five-second speed test")] = False,
) -> dict[str, Any]:
    """Tell what runs here, how fast, and what stands in the way."""
    from napari_grata.doctor import PROBLEM, examine

    signs = {"good": "ok", "note": "--", "problem": "!!"}
    found, heading = [], ""
    for finding in examine(speed=not no_speed):
        found.append(finding)
        if console.quiet and finding.level != PROBLEM:
            continue
        if finding.about != heading:
            heading = finding.about
            console.say(f"\n{heading}")
        console.say(f"  {signs[finding.level]}  {finding.text}")
        if finding.advice:
            console.say(f"      → {finding.advice}")
    problems = sum(finding.level == PROBLEM for finding in found)
    if not console.quiet:
        console.say(f"\n{f'Problems: {problems}.' if problems else 'Nothing stands in the way.'}")
    return {
        "findings": [asdict(finding) for finding in found],
        "problems": problems,
        "exit_code": 1 if problems else 0,
    }
