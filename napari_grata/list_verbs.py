"""Verbs of the command line about lists of cases: adapt them all, report, take the masks out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.settings import preset
from napari_grata.cli import UsageError, say

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList


def cases(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata cases``: segment and adapt every case of a folder, each by itself."""
    from tqdm import tqdm

    from napari_grata.review.adapt_list import work_on_list
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import CaseSummary
    from napari_grata.segmenters import load_segmenter

    settings = preset(options.method).settings.but(seed=options.seed)
    caselist = CaseList.make(options.scans, options.list)
    segmenter = load_segmenter(options.model, device=options.device)
    caselist.choose(model=options.model, settings=settings.to_dict(), carry=options.carry)
    failed = []
    with tqdm(total=len(caselist), desc="cases", unit="case", disable=options.quiet) as bar:
        for case, item in work_on_list(caselist, segmenter, again=options.again):
            bar.set_postfix_str(case.key, refresh=False)
            if isinstance(item, CaseSummary):
                bar.update(case.number - bar.n)
                if item.error:
                    failed.append({"case": case.key, "error": item.error})
        bar.update(len(caselist) - bar.n)
    progress = caselist.progress()
    say(options, f"{caselist.folder}")
    say(
        options,
        f"{progress.total} case{'' if progress.total == 1 else 's'}: "
        f"{progress.prepared} adapted, {progress.flagged} to look at closely, "
        f"{progress.decided} decided on, {progress.failed} could not be done",
    )
    for entry in failed:
        say(options, f"  {entry['case']}: {entry['error']}")
    for notice in caselist.notices:
        print(notice, file=sys.stderr)
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


def _open(path: Path) -> CaseList:
    """Open a list by its own folder, or by the scans that it was made of."""
    from napari_grata.review.case_list import CaseList, list_folder
    from napari_grata.review.list_file import STORE_FILE

    for folder in (path, list_folder([path])):
        if (folder / STORE_FILE).is_file():
            caselist = CaseList.load(folder)
            for notice in caselist.notices:
                print(notice, file=sys.stderr)
            return caselist
    raise UsageError(
        f"{path} is neither the folder of a list nor a folder of scans that a list was made of. "
        "Make one with napari-grata cases, or in the dock."
    )


def report(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata report``: one HTML file about a list, or about a single run."""
    from napari_grata.adaptation.run_store import is_run_folder
    from napari_grata.review.report import case_of_run, report_cases, write_report

    if is_run_folder(options.list):
        path = write_report(options.out, [case_of_run(options.list, "case-0001")])
        count = 1
    else:
        caselist = _open(options.list)
        path, count = write_report(options.out, report_cases(caselist)), len(caselist)
        caselist.close()
    say(options, f"{count} case{'' if count == 1 else 's'}: {path}")
    return {"report": str(path), "cases": count}


def masks(options: argparse.Namespace) -> dict[str, Any]:
    """``napari-grata masks``: the decided masks of a list, on their scans' own grids."""
    from napari_grata.review.export import export_masks

    caselist = _open(options.list)
    found = list(export_masks(caselist, options.out, scan_names=options.scan_names))
    caselist.close()
    written = [one for one in found if one.path is not None]
    say(options, f"{len(written)} of {len(found)} masks written to {options.out}")
    for one in found:
        if one.path is None:
            say(options, f"  {one.key}: {one.reason}")
    return {
        "folder": str(options.out),
        "masks": {one.key: str(one.path) for one in written},
        "without": {one.key: one.reason for one in found if one.path is None},
    }


LIST_VERBS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "cases": cases,
    "report": report,
    "masks": masks,
}


def add_parsers(verbs: Any, common: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add these verbs to the command line's parser."""
    made = verbs.add_parser("cases", help="segment and adapt every case of a folder, as a list")
    made.add_argument("scans", nargs="+", type=Path, metavar="SCANS", help="folder, or files")
    made.add_argument("--model", required=True, help="name, or folder with card.yaml")
    made.add_argument("--method", default="careful", help="preset (careful)")
    made.add_argument("--list", type=Path, help="where the list is kept (the user's own data)")
    made.add_argument(
        "--carry", action="store_true", help="the adapted model lives on from case to case"
    )
    made.add_argument("--again", action="store_true", help="also do what is done already")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--device", default="auto")
    common(made)

    made = verbs.add_parser("report", help="one HTML file about a list of cases, or a run")
    made.add_argument("list", type=Path, metavar="LIST", help="folder of the list, scans or run")
    made.add_argument("--out", required=True, type=Path, help="the HTML file")
    common(made)

    made = verbs.add_parser("masks", help="the decided masks of a list, and a table of all cases")
    made.add_argument("list", type=Path, metavar="LIST", help="folder of the list or of its scans")
    made.add_argument("--out", required=True, type=Path, help="an empty folder")
    made.add_argument(
        "--scan-names", action="store_true", help="name masks after scans (may name patients)"
    )
    common(made)
