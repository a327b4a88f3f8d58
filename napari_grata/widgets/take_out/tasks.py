"""What the worker writes, and what of the dock goes into a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.widgets import jobs

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.report import ReportCase, ReportDecision
    from napari_grata.scans import Scan


class Written:
    """What the worker hands back: a file, so that it is not taken for a saved mask."""

    def __init__(self, path: Path) -> None:
        self.path = path


def report_of_list(path: Path, caselist: CaseList, overwrite: bool) -> Iterator[Any]:
    from napari_grata.review.report import report_cases, write_report

    number = len(caselist)
    yield jobs.Stage(f"Writing the report of {number} case{'' if number == 1 else 's'} …")
    yield Written(write_report(path, report_cases(caselist), overwrite=overwrite))


def report_of_case(path: Path, case: Any, overwrite: bool) -> Iterator[Any]:
    from napari_grata.review.report import write_report

    yield jobs.Stage("Writing the report …")
    yield Written(write_report(path, [case], overwrite=overwrite))


def masks_of_list(folder: Path, caselist: CaseList, names: bool) -> Iterator[Any]:
    from napari_grata.review.export import export_masks

    for found in export_masks(caselist, folder, scan_names=names):
        yield jobs.Stage(f"Writing the decided masks: {found.key} …")
        yield found


def case_of_session(dock: Any) -> ReportCase:
    """Return what the dock shows now as a case of a report; copies what may still change."""
    from napari_grata.adaptation.run_files import versions
    from napari_grata.adaptation.run_store import RunFolderError, read_info
    from napari_grata.review.final_masks import CaseMasks
    from napari_grata.review.report import ReportCase
    from napari_grata.review.report.gather import decisions_of

    session = dock.desk.session
    scan = session.scan
    adapted = _masks_in(scan, session.after.stack, session.adapted)
    source = _masks_in(scan, session.before.stack, session.segmented)
    shown = session.after.as_shown()
    masks = CaseMasks(scan, source, adapted, edited=shown)
    key, state, shift = "case-0001", "", ""
    decisions: tuple[ReportDecision, ...] = ()
    docket = dock.decide.docket
    if docket is not None and docket.caselist is not None:
        key = docket.key
        state = docket.caselist.state(key).title
        decisions = decisions_of(docket.caselist, key, scan, masks)
        summary = docket.caselist.summary(key)
        shift = summary.shift_words if summary is not None else ""
    info: dict[str, Any] = {}
    folder = getattr(session.run, "folder", None)
    if folder is not None:
        with suppress(RunFolderError):
            info = dict(read_info(folder))
    if not info and session.settings is not None:
        card = session.card
        info = {
            "settings": session.settings.to_dict(),
            "versions": versions(),
            "model": {
                "name": card.name,
                "version": card.version,
                "weights_sha256": card.weights_sha256,
            },
        }
    return ReportCase(
        code=key,
        state=state,
        scan=scan,
        card=session.card,
        # Where Segment was asked for anew, the mask before of a slice may not be there yet.
        source_masks={i: mask for i, mask in source.items() if i in adapted},
        adapted_masks=adapted,
        edited_masks=masks.drawn(),
        records=list(session.stream),
        flags=dict(session.flags),
        decisions=decisions,
        info=info,
        shift=shift,
    )


def _masks_in(scan: Scan, stack: np.ndarray, slices: Iterable[int]) -> dict[int, np.ndarray]:
    """Return copies of some slices' label maps."""
    return {index: scan.get_mask(stack, index).copy() for index in sorted(slices)}
