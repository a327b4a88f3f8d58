"""What each verb of the command line does: a call of the same functions that the dock uses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from napari_grata.adaptation.settings import Settings, SettingsError, preset
from napari_grata.cli import UsageError, parse_region, say
from napari_grata.list_verbs import LIST_VERBS
from napari_grata.scans.files import make_folder
from napari_grata.shift_verb import shift

Item = TypeVar("Item")


def _progress(items: Iterable[Item], total: int, what: str, quiet: bool) -> Iterator[Item]:
    """Pass items on while a bar with the time left goes to standard error."""
    from tqdm import tqdm

    # A log file gets a line every few seconds, not a redraw every tenth.
    interval = 0.1 if sys.stderr.isatty() else 5.0
    yield from tqdm(items, total=total, desc=what, disable=quiet, mininterval=interval)


def _slices(count: int, kind: str = "volume") -> str:
    """Say how many slices of a volume, or how many photographs."""
    noun = "photograph" if kind in ("photograph", "photographs") else "slice"
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _open(paths: list[Path]):
    from napari_grata.scans import open_scan

    return open_scan(paths[0] if len(paths) == 1 else paths)


def _prepare(options: argparse.Namespace):
    """Open scan and model, and refuse what does not fit before anything heavy starts."""
    from napari_grata.adaptation import parse_slices
    from napari_grata.segmenters import load_segmenter

    scan = _open(options.scan)
    segmenter = load_segmenter(options.model, device=options.device)
    reason = segmenter.fits(scan)
    if reason:
        raise UsageError(reason)
    make_folder(options.out)
    return scan, segmenter, parse_slices(options.slices, scan), parse_region(options.region)


def _mask_path(folder: Path, name: str, scan) -> Path:
    """Return where a mask goes: the scan's own format, a folder for a list of photographs."""
    if scan.kind == "photographs":
        return folder / name
    return folder / f"{name}{'.png' if scan.kind == 'photograph' else '.nii.gz'}"


def _refuse_to_overwrite(*paths: Path) -> None:
    for path in paths:
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise FileExistsError(
                f"{path} exists already; nothing is overwritten. Name another folder with --out."
            )


def write_stack(masks: dict[int, Any], scan, card, path: Path) -> list[Path]:
    """Write label maps by slice as one mask on the scan's own grid."""
    from napari_grata.scans import write_mask

    stack = scan.empty_mask()
    for index, label_map in masks.items():
        scan.put_mask(stack, index, label_map)
    colours = {structure.value: structure.colour for structure in card.structures}
    return write_mask(stack, scan, path, colours=colours)


def segment(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata segment``."""
    scan, segmenter, slices, region = _prepare(options)
    target = _mask_path(options.out, "source", scan)
    _refuse_to_overwrite(target)
    predictions = segmenter.predict(scan, slices, region)
    masks = {
        item.slice_index: item.label_map
        for item in _progress(predictions, len(slices), "segment", options.quiet)
    }
    write_stack(masks, scan, segmenter.card, target)
    for notice in segmenter.notices:
        print(notice, file=sys.stderr)
    say(options, f"{_slices(len(masks), scan.kind)} segmented with {segmenter.card.name}: {target}")
    return {"model": segmenter.card.name, "slices": len(masks), "mask": str(target)}


def _changed(settings: Settings, changes: list[str], seed: int) -> Settings:
    """Apply ``NAME=VALUE`` changes, read as YAML values (so ``none``/``null``, numbers, words)."""
    import yaml

    values: dict[str, Any] = {**settings.to_dict(), "seed": seed}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change}: write NAME=VALUE, e.g. --set blend=0.2.")
        value = yaml.safe_load(text)
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


def adapt(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata adapt``."""
    from napari_grata.adaptation import AdaptationRun
    from napari_grata.review import figures

    settings = _changed(preset(options.method).settings, options.changes, options.seed)
    if getattr(options, "precision", None) is not None:
        settings = settings.but(precision=options.precision)
    scan, segmenter, slices, region = _prepare(options)
    card = segmenter.card
    before = _mask_path(options.out, "source", scan)
    after = _mask_path(options.out, "adapted", scan)
    _refuse_to_overwrite(before, after)
    run = AdaptationRun(
        segmenter, scan, settings, slices=slices, region=region, folder=options.out / "run"
    )
    for _ in _progress(run.records(), run.total, "adapt", options.quiet):
        pass
    records = run.past
    write_stack(run.source_masks, scan, card, before)
    write_stack(run.adapted_masks, scan, card, after)
    figures.curves(records, options.out / "curves.png")
    figures.before_after(scan, records, card, options.out / "before_after.png")
    for notice in [*segmenter.notices, *run.notices]:
        print(notice, file=sys.stderr)
    final = [record for record in records if record.final]
    flagged = sorted({record.slice_index for record in final if record.flags})
    agreement = {
        structure.name: sum(record.agreement[structure.name] for record in final) / len(final)
        for structure in card.structures
    }
    say(options, f"{_slices(len(final), scan.kind)} adapted with {options.method}: {options.out}")
    for name, dice in agreement.items():
        say(options, f"  {name}: mean Dice between before and after {100 * dice:.1f} %")
    say(options, f"  {_slices(len(flagged), scan.kind)} to look at (flags are hints, not verdicts)")
    return {
        "model": card.name,
        "settings": settings.to_dict(),
        "slices": len(final),
        "steps": records[-1].step if records else 0,
        "flagged": [scan.slice_name(index) for index in flagged],
        "agreement": agreement,
        "before": str(before),
        "after": str(after),
        "run": str(options.out / "run"),
    }


def models(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata models``."""
    import yaml

    from napari_grata.segmenters import add_model, find_model, list_models
    from napari_grata.segmenters.card import card_to_yaml

    if options.add:
        entry = add_model(options.add)
        say(options, f"Added {entry.name}: {entry.folder}")
        return {"name": entry.name, "folder": str(entry.folder)}
    entries = list_models()
    if options.name:
        found = find_model(options.name)
        if found.card is None:
            raise UsageError(f"The model {options.name!r} cannot be used: {found.error}")
        text = card_to_yaml(found.card)
        say(options, text)
        return yaml.safe_load(text)
    for entry in entries:
        about = entry.card.title if entry.card else f"cannot be used: {entry.error}"
        say(options, f"{entry.name:<24} {entry.origin:<12} {about}")
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


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata benchmark``."""
    from tqdm import tqdm

    from napari_grata.evaluation.benchmark import Progress, run_benchmark

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    interval = 0.1 if sys.stderr.isatty() else 5.0
    with tqdm(desc="benchmark", disable=options.quiet, mininterval=interval) as bar:

        def show(state: Progress) -> None:
            bar.total = state.total
            bar.set_postfix_str(f"{state.method}, {state.centre}", refresh=False)
            bar.update(state.done - bar.n)

        found = run_benchmark(
            options.data,
            options.model,
            names(options.methods),
            options.labels,
            options.out,
            centres=names(options.centres) if options.centres else None,
            limit=options.limit,
            seed=options.seed,
            jobs=options.jobs,
            device=options.device,
            progress=show,
        )
    say(options, found.text)
    say(options, "* the interval excludes 0. Means hide harm: look at the worst tenth.")
    for note in found.notes:
        print(note, file=sys.stderr)
    say(options, f"Written to {found.out}")
    return {
        "out": str(found.out),
        "cases": str(found.out / "cases.csv"),
        "summary": found.tables.summary,
        "differences": found.tables.differences,
        "reused": found.reused,
        "notes": list(found.notes),
    }


def reopen(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata reopen``."""
    from napari_grata.adaptation import reopen as reopen_run
    from napari_grata.review import figures
    from napari_grata.scans import open_scan

    if options.view:
        from napari_grata.demo import view_run

        return view_run(options.run, options.scan)
    scan = open_scan(options.scan) if options.scan else None
    run = reopen_run(options.run, scan=scan)
    steps = sum(1 for record in run.records if record.phase == "adapt" and record.step)
    say(options, f"{run.info['model']['name']}, {run.settings.method}, {run.info['started']}")
    count = _slices(len(run.adapted_masks), run.info["scan"]["kind"])
    say(options, f"{run.state}: {count}, {steps} step{'' if steps == 1 else 's'}")
    for sentence in run.missing:
        print(sentence, file=sys.stderr)
    written = []
    if options.out:
        make_folder(options.out)
        targets = [options.out / "curves.png"]
        if run.scan is not None:
            before = _mask_path(options.out, "source", run.scan)
            after = _mask_path(options.out, "adapted", run.scan)
            targets += [options.out / "before_after.png", before, after]
        _refuse_to_overwrite(*targets)
        figures.curves(run.records, targets[0])
        if run.scan is not None:
            figures.before_after(run.scan, run.records, run.card, targets[1])
            write_stack(run.source_masks, run.scan, run.card, before)
            write_stack(run.adapted_masks, run.scan, run.card, after)
        written = [str(path) for path in targets]
        say(options, f"Written to {options.out}")
    return {
        "run": str(options.run),
        "state": run.state,
        "model": run.info["model"]["name"],
        "settings": run.settings.to_dict(),
        "slices": len(run.adapted_masks),
        "steps": steps,
        "missing": list(run.missing),
        "written": written,
    }


def again(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata again``."""
    from napari_grata.adaptation import reopen as reopen_run
    from napari_grata.review.reproduce import Again
    from napari_grata.scans import open_scan
    from napari_grata.segmenters import load_segmenter

    scan = open_scan(options.scan) if options.scan else None
    saved = reopen_run(options.run, scan=scan)
    model = options.model or saved.model_folder or saved.info["model"]["name"]
    segmenter = load_segmenter(model, device=options.device or saved.info["device"])
    again = Again(saved, segmenter, options.out / "run")
    for _ in _progress(again.records(), len(saved.records), "again", options.quiet):
        pass
    found = again.compare()
    again.run.close()
    saved.close()
    say(options, str(found))
    return {
        "run": str(options.run),
        "again": str(again.run.folder),
        "same": found.same,
        "slices": found.slices,
        "different_pixels": found.different_pixels,
        "only_one": found.only_one,
    }


def doctor(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata doctor``."""
    from napari_grata import doctor as examination

    return examination.doctor(options)


def demo(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata demo``."""
    from napari_grata import demo as demonstration

    return demonstration.demo(options)


VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "demo": demo,
    "doctor": doctor,
    "models": models,
    "segment": segment,
    "adapt": adapt,
    "benchmark": benchmark,
    "reopen": reopen,
    "shift": shift,
    "again": again,
    **LIST_VERBS,
}
