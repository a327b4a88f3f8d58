"""The command line: ``napari-grata demo | models | segment | adapt | …``, without a screen.

A verb is a function that takes a `Console` and calls what the dock calls. Exit codes: 0 done; 1
something failed on the way; 2 the arguments or the input are wrong (the message says what, where
and what to do); 130 stopped with Ctrl+C, what was finished is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_grata import __version__, cli_lists
from napari_grata.adaptation.methods.register import METHODS
from napari_grata.adaptation.plan import Region
from napari_grata.adaptation.settings import PRESETS, Settings, SettingsError, preset
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
    Verb,
    add_verb,
    argument,
    flag,
    load_model,
    option,
    parse_region,
)
from napari_grata.scans.files import make_folder
from napari_grata.scans.scan import counted

if TYPE_CHECKING:
    import numpy as np

    from napari_grata.adaptation import Record
    from napari_grata.scans import Scan
    from napari_grata.scans.samples import Sample
    from napari_grata.segmenters import Card, Segmenter

Slices = Annotated[str, option('which slices, e.g. "all" or "10-20,25"')]
Run = Annotated[Path, argument("RUN", "the run folder")]
Channel = Annotated[
    list[Path] | None,
    option("a further image that the model reads together with the scan, once for each"),
]
MovedScan = Annotated[Path | None, option("the scan, if it has moved", "--scan")]


def _opened(scan: Path | list[Path], channel: Sequence[Path] | None) -> Scan:
    from napari_grata.scans import open_scan

    opened = open_scan(scan)
    return opened.together(map(open_scan, channel)) if channel else opened


def _moved(scan: Path | None, channel: Sequence[Path] | None) -> Scan | None:
    """Open the images of a saved run where they lie now."""
    if scan is None and channel:
        raise UsageError("--channel names a further image: name the first one with --scan.")
    return None if scan is None else _opened(scan, channel)


def _prepare(
    console: Console,
    scan: list[Path],
    model: str,
    out: Path,
    device: str,
    slices: str,
    region: str | None,
    channel: Sequence[Path] | None = None,
) -> tuple[Scan, Segmenter, list[int], Region | None]:
    """Open scan and model, and refuse what does not fit before anything heavy starts."""
    from napari_grata.adaptation import parse_slices

    opened = _opened(scan, channel)
    segmenter = load_model(model, device)
    console.warn([*opened.notices, *segmenter.notices])
    reason = segmenter.fits(opened)
    if reason:
        raise UsageError(reason)
    make_folder(out)
    return opened, segmenter, parse_slices(slices, opened), parse_region(region)


def _refuse_to_overwrite(*paths: Path) -> None:
    for path in paths:
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise UsageError(
                f"{path} exists already; nothing is overwritten. Name another folder with --out."
            )


def _write_masks(
    stacks: Mapping[Path, Mapping[int, np.ndarray]], scan: Scan, card: Card, scan_names: bool
) -> None:
    """Write label maps by slice, each set of them as one mask on the scan's own grid."""
    from napari_grata.review.final_masks import legend_of
    from napari_grata.scans import write_mask

    for path, by_slice in stacks.items():
        stack = scan.mask_stack(by_slice.items())
        write_mask(stack, scan, path, legend=legend_of(card), scan_names=scan_names)


def _doubt(
    console: Console,
    card: Card,
    source: Mapping[int, np.ndarray],
    scan: Scan,
    region: Region | None,
) -> None:
    """Say where the source masks cannot be right; what was asked for is done all the same."""
    from napari_grata.segmenters.extent import implausible

    found = implausible(card, source, scan, region=region, slices=source)
    console.warn(sentence for _, sentence in found)


def demo(
    console: Console,
    *,
    headless: Annotated[bool, flag("--headless", "no window even where one could open")] = False,
    sample: Annotated[
        str | None, option("key of one sample (headless: default is a set of them)")
    ] = None,
    method: Method = "careful",
    out: Out = Path("out/demo"),
) -> dict[str, Any]:
    """Open the plugin on a sample scan, or do its work headless."""
    from napari_grata import demo as demonstration
    from napari_grata.scans.samples import find_sample

    keys = demonstration.HEADLESS_SAMPLES if sample is None else (sample,)
    samples = [find_sample(key) for key in keys]
    if demonstration.has_screen() and not headless:
        return demonstration.in_napari(samples[0])
    folder = demonstration.fresh(out)
    return {"samples": [_headless(console, one, folder / one.key, method) for one in samples]}


def _headless(console: Console, sample: Sample, out: Path, method: str) -> dict[str, Any]:
    """Segment and adapt one sample; write masks, run folder, plots and picture; compare."""
    from napari_grata.demo import against_reference

    console.say(f"{sample.title}\n  {sample.note}")
    result = adapt(console, [sample.path], model=sample.model, out=out, method=method)
    result["sample"] = sample.key
    found = against_reference(sample, Path(result["before"]), Path(result["after"]))
    if found:
        result["dice"] = found
        console.say("  Dice against the reference labels, before → after:")
    for name, (before, after) in found.items():
        verdict = "better" if after > before else "worse" if after < before else "the same"
        console.say(f"    {name}: {100 * before:.1f} → {100 * after:.1f} % ({verdict})")
    return result


def segment(
    console: Console,
    scan: Scans,
    *,
    model: Model,
    out: Out,
    device: Device = "auto",
    slices: Slices = "all",
    region: RegionText = None,
    channel: Channel = None,
    scan_names: ScanNames = False,
    mask_format: MaskFormat = "",
) -> dict[str, Any]:
    """Write the masks of the source model, on the scan's own grid."""
    from napari_grata.scans.masks import mask_target

    opened, segmenter, chosen, box = _prepare(
        console, scan, model, out, device, slices, region, channel
    )
    target = mask_target(opened, out, "source", mask_format)
    _refuse_to_overwrite(target)
    found = segmenter.predict(opened, chosen, box)
    masks = {
        item.slice_index: item.label_map for item in console.progress(found, len(chosen), "segment")
    }
    _write_masks({target: masks}, opened, segmenter.card, scan_names)
    _doubt(console, segmenter.card, masks, opened, box)
    name = segmenter.card.name
    console.say(f"{opened.counts(len(masks))} segmented with {name}: {target}")
    return {"model": name, "slices": len(masks), "mask": str(target)}


def adapt(
    console: Console,
    scan: Scans,
    *,
    model: Model,
    out: Out,
    method: Method = "careful",
    changes: Annotated[
        list[str] | None,
        option(
            "change one setting of the method, e.g. --set blend=0.2 --set passes=2",
            "--set",
            metavar="NAME=VALUE",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        option("float32 or, faster where the device has it (see: doctor), bfloat16"),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    slices: Slices = "all",
    region: RegionText = None,
    channel: Channel = None,
    scan_names: ScanNames = False,
    mask_format: MaskFormat = "",
) -> dict[str, Any]:
    """Adapt a model to a scan: masks before and after, run folder, plots."""
    from napari_grata.adaptation import AdaptationRun
    from napari_grata.review import flagged_slices, latest_flags
    from napari_grata.scans.masks import mask_target

    settings = _changed(preset(method).settings, changes or (), seed)
    if precision is not None:
        settings = settings.but(precision=precision)
    names = (change.partition("=")[0].replace("-", "_") for change in changes or ())
    idle = [name for name in names if not settings.uses(name)]
    if idle:
        console.warn([f"With {settings.method} these change nothing: {', '.join(idle)}."])
    opened, segmenter, chosen, box = _prepare(
        console, scan, model, out, device, slices, region, channel
    )
    card = segmenter.card
    before, after = (mask_target(opened, out, name, mask_format) for name in ("source", "adapted"))
    _refuse_to_overwrite(before, after)
    run = AdaptationRun(segmenter, opened, settings, slices=chosen, region=box, folder=out / "run")
    for _ in console.progress(run.records(), run.total, "adapt"):
        pass
    records = run.past
    masks = {before: run.source_masks, after: run.adapted_masks}
    _write_masks(masks, opened, card, scan_names)
    _draw(out, records, opened, run.source_masks, run.adapted_masks, card)
    frames = {index: run.frame_of(index) for index in run.source_masks}
    whole = {i: mask for i, mask in run.source_masks.items() if frames[i] == box}
    _doubt(console, card, whole, opened, box)
    undone = sum(record.undone for record in run.past.without_masks())
    if undone:
        console.warn(
            [
                f"{undone} of {run.total} events gave values that are no numbers, and their steps "
                f"were undone. They come from the {METHODS[settings.method].described}."
            ]
        )
    final = [record for record in records if record.final]
    flagged = flagged_slices(latest_flags(records))
    agreement = {
        structure.name: sum(record.agreement[structure.name] for record in final) / len(final)
        for structure in card.structures
    }
    console.say(f"{opened.counts(len(final))} adapted with {method}: {out}")
    if run.adapted[0]:
        console.say("  {:,} of {:,} parameters adapted".format(*run.adapted))
    for name, dice in agreement.items():
        console.say(f"  {name}: mean Dice between before and after {100 * dice:.1f} %")
    if len(whole) < len(frames):
        number = opened.counts(len(frames) - len(whole))
        console.say(f"  {number} read in part, as found (column frame of run/steps.csv)")
    console.say(f"  {opened.counts(len(flagged))} to look at (flags are hints, not verdicts)")
    steps = records[-1].step if records else 0
    run.close()
    return {
        "model": card.name,
        "settings": settings.to_dict(),
        "slices": len(final),
        "steps": steps,
        "parameters": run.adapted[0],
        "flagged": [opened.place_name(index) for index in flagged],
        "frames": {opened.place_name(i): frames[i] for i in frames if frames[i] != box},
        "agreement": agreement,
        "before": str(before),
        "after": str(after),
        "run": str(out / "run"),
    }


def _changed(settings: Settings, changes: Sequence[str], seed: int) -> Settings:
    """Apply ``NAME=VALUE`` changes, read as YAML values (so ``none``/``null``, numbers, words)."""
    import yaml

    values: dict[str, Any] = {**settings.to_dict(), "seed": seed}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change}: write NAME=VALUE, e.g. --set blend=0.2.")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise UsageError(f"--set {change}: the value cannot be read.") from None
        if isinstance(value, str):
            # YAML 1.1 reads 1e-3 as a word; a person means the number.
            try:
                value = float(value)
            except ValueError:
                value = None if value.lower() == "none" else value
        values[name.replace("-", "_")] = value
    try:
        return Settings.from_dict(values)
    except TypeError as error:
        raise SettingsError(f"A value given with --set is of the wrong kind: {error}.") from None


def _draw(
    out: Path,
    records: Iterable[Record],
    scan: Scan | None,
    source: Mapping[int, np.ndarray],
    adapted: Mapping[int, np.ndarray],
    card: Card,
) -> list[Path]:
    """Draw what there is to draw of a run."""
    from napari_grata.review import before_after, curves

    drawn = [curves(records, out / "curves.png")]
    if scan is not None:
        drawn.append(before_after(scan, (source, adapted), card, out / "before_after.png"))
    return drawn


def choose(
    console: Console,
    scan: Scans,
    *,
    model: Model,
    out: Out,
    reviewed: Annotated[
        Path | None,
        option("masks of a few slices, right now: a file, or a folder for photographs"),
    ] = None,
    reviewed_slices: Annotated[
        str | None,
        option("which slices of them were reviewed, e.g. 10,25,40 (photographs: all with a mask)"),
    ] = None,
    propose: Annotated[int, option("without masks: how many slices to ask for, 3 to 8")] = 3,
    presets: Annotated[str, option("what is tried beside the source model, with commas")] = "",
    teach: Annotated[bool, option("copies of the model learn from the reviewed slices")] = True,
    carry_to: Annotated[
        Path | None, flag("--list", "a list whose other cases use what is chosen, by `cases`")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    slices: Slices = "all",
    region: RegionText = None,
    channel: Channel = None,
    scan_names: ScanNames = False,
) -> dict[str, Any]:
    """Let a few reviewed slices decide which mask is used, if any; first ask for some."""
    from napari_grata.adaptation import parse_slices
    from napari_grata.review.candidates import USUAL, CandidateRuns
    from napari_grata.review.carried import carried_choice
    from napari_grata.review.choice_record import record_choice
    from napari_grata.review.choosing import Weighing, chosen_masks, weigh
    from napari_grata.review.compare import reviewed_masks
    from napari_grata.review.figures import gains
    from napari_grata.review.proposing import FEWEST, MOST
    from napari_grata.review.proposing import propose as proposed

    names = [name.strip() for name in presets.split(",") if name.strip()] or list(USUAL)
    tried = [preset(name).name for name in ("source", *names)]
    if not FEWEST <= propose <= MOST:
        raise UsageError(f"--propose is {propose}; {FEWEST} to {MOST} slices can be asked for.")
    opened, segmenter, chosen, box = _prepare(
        console, scan, model, out, device, slices, region, channel
    )
    card = segmenter.card
    before, after = (opened.mask_path(out, name) for name in ("source", "chosen"))
    _refuse_to_overwrite(before, after, out / "choice.json")
    if carry_to is not None and (box is not None or reviewed is None):
        raise UsageError("--list goes with --reviewed, and without --region.")
    caselist = None if carry_to is None else cli_lists.open_list(console, carry_to)
    if caselist is not None and not caselist.writable:
        raise UsageError(str(caselist.read_only))
    truth: dict[int, np.ndarray] = {}
    if reviewed is not None:
        places = None if reviewed_slices is None else parse_slices(reviewed_slices, opened)
        truth, notes = reviewed_masks(reviewed, opened, card, places)
        console.warn(notes)
        outside = [str(index + 1) for index in sorted(truth.keys() - set(chosen))]
        if outside:
            raise UsageError(
                f"Reviewed, but not among --slices: {', '.join(outside)}. Segment them too, or "
                "name the others with --reviewed-slices."
            )
    runs = CandidateRuns(
        segmenter, opened, names, slices=chosen, region=box, seed=seed, folder=out / "runs"
    )
    for _ in console.progress(runs.records(), runs.total, "adapt"):
        pass
    source = runs.candidates[0].masks
    result: dict[str, Any] = {"model": card.name, "presets": tried, "before": str(before)}
    if reviewed is None:
        asked = proposed(card, runs.candidates, propose, stack=opened.is_stack)
        runs.close()
        _write_masks({before: source}, opened, card, scan_names)
        told = ", ".join(str(index + 1) for index in asked)
        console.say(f"Correct these {opened.noun}s in a copy of {before}: {told}")
        console.say("Then give it with --reviewed, and another --out.")
        return result | {"proposed": [index + 1 for index in asked]}
    if teach and card.patch is not None:
        console.warn(["This model reads whole volumes: no copy learns from the reviewed slices."])
    elif teach and len(truth) > 1:
        lessons = runs.teach(truth)
        _, total = next(lessons)
        for _ in console.progress(lessons, total - 1, "learn"):
            pass
    steps = weigh(segmenter, runs.candidates, truth, stack=opened.is_stack)
    parts = len(runs.candidates) * (len(truth) + 1) + 1
    *_, weighing = console.progress(steps, parts, "weigh")
    assert isinstance(weighing, Weighing)
    record = record_choice(card, opened, weighing, runs.settings)
    found = dict(chosen_masks(segmenter, record.chosen, runs.candidates))
    if caselist is not None and record.chosen.changes:
        case = caselist.of_scan(opened)
        called = "another scan" if case is None else f"case {case.number}"
        carried_choice(record, runs, called).keep(caselist)
        console.say(f"The cases of {carry_to} use it from the next “napari-grata cases” on.")
    if caselist is not None:
        caselist.close()
    runs.close()
    # What a person made stays as it is.
    _write_masks({before: source, after: found | truth}, opened, card, scan_names)
    record.write(out / "choice.json")
    record.write_csv(out / "choice.csv")
    gains(record.weighing, record.chosen, out / "choice.png")
    console.say(record.chosen.words)
    console.say(f"{opened.counts(len(found))}: {after}")
    return result | {
        "after": str(after),
        "changes": record.chosen.changes,
        "words": record.chosen.words,
        "reviewed": [index + 1 for index in record.weighing.slices],
        "picks": [asdict(pick) for pick in record.chosen.picks],
        "record": str(out / "choice.json"),
    }


def reopen(
    console: Console,
    run: Run,
    *,
    scan: MovedScan = None,
    channel: Channel = None,
    out: Annotated[Path | None, option("write masks, plots and picture here")] = None,
    view: Annotated[bool, flag("--view", "open it in napari")] = False,
    scan_names: ScanNames = False,
    mask_format: MaskFormat = "",
) -> dict[str, Any]:
    """Show a saved run again: masks, plots, summary."""
    from napari_grata.adaptation import reopen as reopen_run
    from napari_grata.scans.masks import mask_target

    if view:
        from napari_grata.demo import view_run

        return view_run(run, _moved(scan, channel))
    saved = reopen_run(run, scan=_moved(scan, channel))
    steps = sum(1 for record in saved.records if record.phase == "adapt" and record.step)
    name = saved.info["model"]["name"]
    console.say(f"{name}, {saved.settings.method}, {saved.info['started']}")
    count = counted(len(saved.adapted_masks), "photograph" if saved.photographic else "slice")
    console.say(f"{saved.state}: {count}, {counted(steps, 'step')}")
    console.warn(saved.missing)
    written: list[Path] = []
    if out is not None:
        masks: dict[Path, Mapping[int, np.ndarray]] = {}
        if saved.scan is not None:
            shown = {"source": saved.source_masks, "adapted": saved.adapted_masks}
            for role, stack in shown.items():
                masks[mask_target(saved.scan, out, role, mask_format)] = stack
        _refuse_to_overwrite(out / "curves.png", out / "before_after.png", *masks)
        make_folder(out)
        both = saved.source_masks, saved.adapted_masks
        written = [*_draw(out, saved.records, saved.scan, *both, saved.card), *masks]
        if saved.scan is not None:
            _write_masks(masks, saved.scan, saved.card, scan_names)
        console.say(f"Written to {out}")
    found = {
        "run": str(run),
        "state": saved.state,
        "model": name,
        "settings": saved.settings.to_dict(),
        "slices": len(saved.adapted_masks),
        "steps": steps,
        "missing": list(saved.missing),
        "written": [str(path) for path in written],
    }
    saved.close()
    return found


def again(
    console: Console,
    run: Run,
    *,
    out: Annotated[Path, option("folder for the new run")],
    scan: MovedScan = None,
    channel: Channel = None,
    model: Annotated[str | None, option("the model, if it has moved")] = None,
    device: Annotated[str | None, option("other than the one of the first time")] = None,
) -> dict[str, Any]:
    """Do a saved run again and compare the masks."""
    from napari_grata.adaptation import reopen as reopen_run
    from napari_grata.review.reproduce import Comparison, run_again

    saved = reopen_run(run, scan=_moved(scan, channel))
    where = model or saved.model_folder or saved.info["model"]["name"]
    segmenter = load_model(where, device or saved.info["device"])
    steps = run_again(saved, segmenter, out / "run")
    *_, found = console.progress(steps, len(saved.records) + 1, "again")
    assert isinstance(found, Comparison)
    saved.close()
    console.say(str(found))
    figures = asdict(found)
    return {"run": str(run), "again": str(figures.pop("folder")), "same": found.same, **figures}


VERBS: dict[str, Verb] = {
    "demo": demo,
    "models": cli_lists.models,
    "segment": segment,
    "adapt": adapt,
    "choose": choose,
    "reopen": reopen,
    "again": again,
    "shift": cli_lists.shift,
    "cases": cli_lists.cases,
    "report": cli_lists.report,
    "masks": cli_lists.masks,
    "benchmark": cli_lists.benchmark,
    "calibrate": cli_lists.calibrate,
    "train-optimiser": cli_lists.train_optimiser,
    "doctor": cli_lists.doctor,
}
_METHODS = "Methods:\n\n" + "\n\n".join(f"{p.name}: {p.summary}" for p in PRESETS.values())
app = typer.Typer(
    name="napari-grata",
    help="Adapt a segmentation model to scans from a new centre. "
    "Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _name, _function in VERBS.items():
    add_verb(app, _name, _function, _METHODS if _name == "adapt" else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    try:
        app(None if arguments is None else list(arguments), prog_name="napari-grata")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"napari-grata {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="tell the version", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    pass
