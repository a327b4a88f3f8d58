"""Where decisions on the scan in view are kept: the list it belongs to, its case, its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.review.bases import read_bases
from napari_grata.review.casefinding import ListError
from napari_grata.review.caselist import CaseList, case_of_scan
from napari_grata.review.decisions import Decision, DecisionError, DecisionLog
from napari_grata.review.listfile import DECISIONS_FILE, lists_dir

if TYPE_CHECKING:
    from napari_grata.review.casework import CaseWork
    from napari_grata.scans import Scan


@dataclass
class Docket:
    """What there is to decide on, and where it goes.

    Attributes
    ----------
    scan : Scan
    key : str
        Code of the case.
    log : DecisionLog
    caselist : CaseList or None
        None where the list's folder could not be made: decisions stay in memory then.
    alone : bool
        Whether the scan was opened by itself, not from a list.
    problem : str
        Why nothing can be written, "" if it can.
    edit : ndarray or None
        What the reviewer drew last, shape ``scan.mask_shape``, when the docket was made.
    edit_version : int
    edit_base : str
        Fingerprint of the mask that it was drawn over.
    notices : list of str
    """

    scan: Scan
    key: str
    log: DecisionLog
    caselist: CaseList | None
    alone: bool
    problem: str = ""
    edit: np.ndarray | None = None
    edit_version: int = 0
    edit_base: str = ""
    notices: list[str] = field(default_factory=list)

    @property
    def work(self) -> CaseWork | None:
        """The case's folder."""
        return None if self.caselist is None else self.caselist.work(self.key)

    def current(self) -> dict[int | None, Decision]:
        """Return the decisions in force, by slice; None is the whole case."""
        return self.log.current(self.key)

    def close(self) -> None:
        """Let another program write, if the scan was opened by itself."""
        if self.alone:
            if self.caselist is not None:
                self.caselist.close()
            else:
                self.log.close()


def find(scan: Scan, caselist: CaseList | None, key: str | None) -> Iterator[Docket]:
    """Find the list of a scan and what was drawn on it; reads files, so for the worker.

    Parameters
    ----------
    caselist, key : CaseList, str or None
        Where the scan is a case of an open list.
    """
    alone = caselist is None or key is None
    if alone:
        try:
            caselist = case_of_scan(scan)
            key = caselist.cases[0].key
        except (ListError, OSError) as error:
            # A log without a folder keeps decisions in memory, and says so at each of them.
            log = DecisionLog(lists_dir() / "without-a-place" / DECISIONS_FILE)
            yield Docket(scan, "case-0001", log, None, True, str(error))
            return
    assert caselist is not None
    assert key is not None
    docket = Docket(scan, key, caselist.decisions, caselist, alone)
    docket.problem = caselist.decisions.read_only or ""
    work = caselist.work(key)
    told = len(work.notices)
    docket.edit = work.edit(scan)
    if docket.edit is not None:
        docket.edit_version = work.edit_version
        docket.edit_base = read_bases(work.folder).get(docket.edit_version, "")
    docket.notices = [*(caselist.decisions.notices if alone else ()), *work.notices[told:]]
    yield docket


def find_again(docket: Docket) -> Iterator[Docket]:
    """Try to find a place for decisions that had none, and write those that waited."""
    for found in find(docket.scan, None, None):
        if found.caselist is not None:
            for waiting in docket.log.current(docket.key).values():
                _repeat(found, waiting)
        yield found


def _repeat(found: Docket, waiting: Decision) -> None:
    facts: dict[str, Any] = {**waiting.facts, "decided": waiting.time}
    try:
        found.log.decide(
            found.key,
            waiting.verdict,
            slice_index=waiting.slice_index,
            comment=waiting.comment,
            difficulty=waiting.difficulty,
            reviewer=waiting.reviewer,
            facts=facts,
        )
    except DecisionError as error:
        found.problem = str(error)
