"""Take the decided masks out of a list: each on its scan's own grid, and a table of all cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.scans.files import (
    FileError,
    make_folder,
    name_of_case,
    nameless,
    stem,
    write_csv,
)
from napari_grata.scans.masks import mask_target
from napari_grata.scans.readers import is_scan_file
from napari_grata.scans.scan import Label

from .final_masks import Standing

if TYPE_CHECKING:
    from napari_grata.segmenters import Card

    from .case_list import CaseList
    from .cases import Case

TABLE_FILE = "cases.csv"
COLUMNS = (
    "case",
    "state",
    "mask",
    "why there is none",
    "slices with a mask",
    "verdicts (slices)",
    "reviewer",
    "difficulty",
    "decided (UTC)",
    "comment",
    "change",
    "flagged slices",
    "shift",
    "model",
    "weights_sha256",
)


@dataclass(frozen=True)
class Exported:
    """What became of one case.

    Attributes
    ----------
    key : str
    path : Path or None
        The mask that was written; a folder of masks for a list of photographs.
    reason : str
        Why none was, as a sentence.
    """

    key: str
    path: Path | None
    reason: str = ""


def export_masks(
    cases: CaseList,
    folder: Path,
    *,
    scan_names: bool = False,
    overwrite: bool = False,
    mask_format: str = "",
) -> Iterator[Exported]:
    """Write the final mask of every case that has one, and ``cases.csv`` at the end.

    Parameters
    ----------
    cases : CaseList
    folder : Path
        Made where it is not there.
    scan_names : bool
        Name masks after their scans (which may name patients) instead of by the cases' codes.
    overwrite : bool
        Whether older masks may be replaced.
    mask_format : str
        One of `napari_grata.scans.masks.FORMATS`; "" for each scan's usual one.

    Yields
    ------
    Exported
        One a case, in the list's order.

    Raises
    ------
    FileError
        Before anything is written, if a mask is there already and `overwrite` is False; or where
        a file cannot be written.
    ScanError
        If a mask cannot be written; masks that were written before stay.
    """
    folder = make_folder(folder)
    there = [p for p in folder.iterdir() if p.name == TABLE_FILE or is_scan_file(p)]
    if there and not overwrite:
        hint = "Choose an empty folder: nothing is overwritten."
        raise FileError("it holds masks already", folder, hint)
    rows = []
    taken: set[str] = set()
    for case in cases.cases:
        name = name_of_case(case.number, stem(case.sources[0]), scan_names=scan_names)
        if name.lower() in taken:
            # Two scans of one name in different folders, or on a disk that ignores case.
            name = f"{name}-{case.key}"
        taken.add(name.lower())
        found, path = _export(cases, case, folder, name, scan_names, overwrite, mask_format)
        rows.append(_row(cases, case, found, path))
        yield Exported(case.key, path, found.reason)
    write_csv(folder / TABLE_FILE, COLUMNS, ([row[name] for name in COLUMNS] for row in rows))


def legend_of(card: Card) -> dict[int, Label]:
    """Names, colours and parts of a card's structures, by their label values."""
    return {
        one.value: Label(
            one.name, one.colour, tuple(v for v in card.values_within(one) if v != one.value)
        )
        for one in card.structures
    }


def _export(
    cases: CaseList,
    case: Case,
    folder: Path,
    name: str,
    scan_names: bool,
    overwrite: bool,
    mask_format: str,
) -> tuple[Standing, Path | None]:
    from napari_grata.adaptation import RunFolderError
    from napari_grata.scans import ScanError, open_scan, write_mask
    from napari_grata.segmenters import load_card

    try:
        scan = open_scan(case.sources)
        found = cases.standing(case.key, scan)
    except (ScanError, RunFolderError, OSError, IndexError):
        return Standing(None, cases.problem(case) or "Its scan or its run cannot be read."), None
    if found.stack is None:
        return found, None
    run = cases.work(case).run_folder
    target = mask_target(scan, folder, name, mask_format)
    write_mask(
        found.stack,
        scan,
        target,
        legend={} if run is None else legend_of(load_card(run)),
        overwrite=overwrite,
        scan_names=scan_names,
    )
    return found, target


def _row(cases: CaseList, case: Case, found: Standing, path: Path | None) -> dict[str, Any]:
    summary, decision = cases.summary(case.key), cases.decisions(case.key).get(None)
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "case": case.key,
        "state": cases.state(case.key).title,
        "why there is none": nameless(found.reason, case.sources, case.key),
        "verdicts (slices)": ", ".join(f"{k} {n}" for k, n in (found.verdicts or {}).items()),
    }
    if path is not None:
        row |= {"mask": path.name, "slices with a mask": "{} of {}".format(*found.slices)}
    if decision is not None:
        row |= {
            "reviewer": decision.reviewer,
            "difficulty": decision.difficulty,
            "decided (UTC)": decision.time,
            "comment": decision.comment,
        }
    if summary is not None:
        row |= {
            "change": f"{summary.change:.4f}" if summary.adapted else "",
            "flagged slices": summary.flagged_slices,
            "shift": "" if summary.shift is None else f"{summary.shift:.3f}",
            "model": summary.model,
            "weights_sha256": summary.weights_sha256,
        }
    return row
