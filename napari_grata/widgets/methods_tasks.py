"""What the jobs of a comparison do: run methods, read saved runs, measure against a truth.

Without Qt; see `napari_grata.widgets.tasks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.settings import PRESETS
from napari_grata.review.candidates import CandidateRuns
from napari_grata.review.compare import MethodResult, dice_to, latest_flags, share_changed
from napari_grata.widgets import tasks

if TYPE_CHECKING:
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.review.compare import Truth
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card


def run_methods(
    engine: tasks.Engine, model: Path, device: str, card: Card, names: Sequence[str], **how: Any
) -> Iterator[Any]:
    """Run presets one after another, and yield a `MethodResult` for each that is finished."""
    if not engine.holds(model, device):
        yield tasks.Stage("Loading the model …")
    with tasks.leave_room_for_the_interface():
        runs = CandidateRuns(engine.get(model, device), presets=names, go_on=True, **how)
        scan: Scan = how["scan"]
        records: Any = runs.records()
        told = 0
        try:
            for done, _ in enumerate(records, 1):
                yield from _finished(runs, scan, card, told)
                told = len(runs.candidates)
                yield tasks.Progress(runs.now, done, runs.total)
            yield from _finished(runs, scan, card, told)
        finally:
            records.close()
        for name, why in runs.failed.items():
            yield tasks.Notice(f"{PRESETS[name].title} is left out. {why}")


def _finished(runs: CandidateRuns, scan: Scan, card: Card, told: int) -> Iterator[MethodResult]:
    for one in runs.candidates[told:]:
        run = runs.runs[one.name]
        records = run.past.without_masks()
        changed = share_changed(scan, card, run.source_masks, one.masks)
        flags = latest_flags(records)
        yield MethodResult(one.name, one.title, one.masks, records, flags, changed, run)


def saved_result(folder: Path, scan: Scan, card: Card) -> MethodResult:
    """Read a saved run, to be laid beside the others."""
    from napari_grata.widgets.case_loading import load_run

    run = load_run(folder, scan)
    if run.card.colours.keys() != card.colours.keys():
        raise ValueError("That run is of a model with other structures; choose one of this model.")
    method = "" if run.settings is None else f"{run.settings.method}, "
    changed = share_changed(scan, card, run.source, run.adapted)
    title = f"Saved: {method}{folder.name}"
    return MethodResult(f"saved {folder}", title, run.adapted, run.records, run.flags, changed)


def keep_result(run: AdaptationRun, folder: Path | None) -> Iterator[Any]:
    """Keep a run that becomes the result, where runs are kept."""
    yield tasks.Stage("Taking the masks over …")
    if folder is not None:
        run.keep(folder)
    yield True


def dice_of_all(truth: Truth, card: Card, masks: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return Dice to a truth by method and structure."""
    return {name: dice_to(truth, card, of_method) for name, of_method in masks.items()}
