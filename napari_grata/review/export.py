"""Take the decided masks out of a list: each on its scan's own grid, and a table of all cases."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_grata.review.final_masks import Standing
from napari_grata.scans.files import stem

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList

TABLE_FILE = "cases.csv"


@dataclass(frozen=True)
class Exported:
    """What became of one case.

    Attributes
    ----------
    key : str
    path : Path or None
        The mask that was written.
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
    keys: Iterable[str] | None = None,
    scan_names: bool = False,
    overwrite: bool = False,
) -> Iterator[Exported]:
    """Write the final mask of every case that has one, and ``cases.csv`` at the end.

    Parameters
    ----------
    cases : CaseList
    folder : Path
        Made where it is not there.
    keys : iterable of str, optional
        Only these cases.
    scan_names : bool
        Name masks after their scans (which may name patients) instead of by the cases' codes.
    overwrite : bool
        Whether older masks may be replaced.

    Yields
    ------
    Exported
        One a case, in the list's order.

    Raises
    ------
    FileExistsError
        Before anything is written, if a file is there already and `overwrite` is False.
    ScanError, OSError
        If a mask cannot be written; masks that were written before stay.
    """
    wanted = None if keys is None else set(keys)
    chosen = [case for case in cases.cases if wanted is None or case.key in wanted]
    folder = Path(folder)
    there = [folder / TABLE_FILE, *(folder.glob("*.nii.gz")), *(folder.glob("*.png"))]
    if not overwrite and any(path.exists() for path in there):
        raise FileExistsError(
            f"{folder} holds masks already; nothing is overwritten. Choose an empty folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    taken: set[str] = set()
    for case in chosen:
        name = case.key
        if scan_names and case.sources:
            name = _free(stem(case.sources[0]), taken, case.key)
        found, path = _export(cases, case.key, folder, name, overwrite)
        rows.append(_row(cases, case.key, found, path))
        yield Exported(case.key, path, found.reason)
    _write_table(folder / TABLE_FILE, rows)


def _export(
    cases: CaseList, key: str, folder: Path, name: str, overwrite: bool
) -> tuple[Standing, Path | None]:
    from napari_grata.adaptation import RunFolderError
    from napari_grata.scans import ScanError, open_scan, write_mask

    sources = cases.case(key).sources
    try:
        scan = open_scan(sources[0] if len(sources) == 1 else list(sources))
        found = cases.standing(key, scan)
    except (ScanError, RunFolderError, OSError, IndexError):
        return Standing(None, cases.problem(key) or "Its scan or its run cannot be read."), None
    if found.stack is None:
        return found, None
    folder_name = cases.work(key).run_folder
    colours = {}
    if folder_name is not None:
        from napari_grata.segmenters import load_card

        colours = load_card(folder_name).colours
    ending = ".png" if scan.kind == "photograph" else ".nii.gz"
    target = folder / (name if scan.kind == "photographs" else f"{name}{ending}")
    written = write_mask(found.stack, scan, target, colours=colours, overwrite=overwrite)
    return found, written[0] if scan.kind != "photographs" else target


def _free(name: str, taken: set[str], key: str) -> str:
    """Return a name that no other case has, on any file system."""
    if name.lower() in taken:
        name = f"{name}-{key}"
    taken.add(name.lower())
    return name


_COLUMNS = (
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


def _row(cases: CaseList, key: str, found: Standing, path: Path | None) -> dict[str, object]:
    summary = cases.summary(key)
    decision = cases.decisions(key).get(None)
    verdicts = found.verdicts or {}
    return {
        "case": key,
        "state": cases.state(key).title,
        "mask": path.name if path is not None else "",
        "why there is none": found.reason,
        "slices with a mask": "{} of {}".format(*found.slices) if path is not None else "",
        "verdicts (slices)": ", ".join(f"{name} {count}" for name, count in verdicts.items()),
        "reviewer": decision.reviewer if decision else "",
        "difficulty": decision.difficulty if decision else "",
        "decided (UTC)": decision.time if decision else "",
        "comment": decision.comment if decision else "",
        "change": f"{summary.change:.4f}" if summary is not None and summary.adapted else "",
        "flagged slices": summary.flagged_slices if summary is not None else "",
        "shift": "" if summary is None or summary.shift is None else f"{summary.shift:.3f}",
        "model": summary.model if summary is not None else "",
        "weights_sha256": summary.weights_sha256 if summary is not None else "",
    }


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    from napari_grata.scans.files import write_bytes

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8"))
