"""Where decisions on the scan in view are kept: the list it belongs to, its case, its folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from napari_grata.review.case_list import CaseList, case_of_scan
from napari_grata.review.cases import Decision

if TYPE_CHECKING:
    from napari_grata.review.case_list import CaseWork
    from napari_grata.scans import Scan


@dataclass
class Docket:
    """What there is to decide on, and where it goes.

    Attributes
    ----------
    scan : Scan
    key : str
        Code of the case.
    caselist : CaseList
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
    caselist: CaseList
    alone: bool
    problem: str = ""
    edit: np.ndarray | None = None
    edit_version: int = 0
    edit_base: str = ""
    notices: list[str] = field(default_factory=list)

    @property
    def log(self) -> CaseList:
        """Where decisions go."""
        return self.caselist

    @property
    def work(self) -> CaseWork:
        """The case's folder."""
        return self.caselist.work(self.key)

    def current(self) -> dict[int | None, Decision]:
        """Return the decisions in force, by slice; None is the whole case."""
        return self.caselist.decisions(self.key)

    def close(self) -> None:
        """Let another program write, if the scan was opened by itself."""
        if self.alone:
            self.caselist.close()


def find(scan: Scan, caselist: CaseList | None, key: str | None) -> Iterator[Docket]:
    """Find the list of a scan and what was drawn on it; reads files, so for the worker.

    Parameters
    ----------
    caselist, key : CaseList, str or None
        Where the scan is a case of an open list.
    """
    alone = caselist is None or key is None
    if alone:
        caselist = case_of_scan(scan)
        key = caselist.cases[0].key
    assert caselist is not None
    assert key is not None
    docket = Docket(scan, key, caselist, alone)
    docket.problem = caselist.read_only or caselist.save_problem or ""
    work = caselist.work(key)
    told = len(work.notices)
    docket.edit = work.edit(scan)
    if docket.edit is not None:
        docket.edit_version = work.edit_version
        docket.edit_base = work.edit_base
    docket.notices = [*(caselist.notices if alone else ()), *work.notices[told:]]
    yield docket
