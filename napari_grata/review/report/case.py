"""What a report tells of one case; nothing in it names a patient or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from napari_grata.adaptation import Flag, Record
    from napari_grata.review.case_list import CaseWork
    from napari_grata.review.final_masks import CaseMasks
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card


@dataclass(frozen=True)
class ReportDecision:
    """One decision of a person, in words.

    Attributes
    ----------
    where : str
        "whole case", or which slice.
    verdict : str
        Such as "mask after accepted".
    time, reviewer, difficulty, comment : str
        As they were written down; empty where they were not.
    stale : bool
        The mask was changed after the decision.
    """

    where: str
    verdict: str
    time: str = ""
    reviewer: str = ""
    difficulty: str = ""
    comment: str = ""
    stale: bool = False


@dataclass(frozen=True)
class ReportCase:
    """One case of a report.

    Attributes
    ----------
    code : str
        Such as ``case-0007``: never a file's name, which may name a patient.
    state : str
        In words, such as "accepted".
    scan : Scan or None
        For pictures and units; None where it was not found.
    card : Card or None
        Of the model.
    source_masks, adapted_masks : mapping of int to ndarray of uint8, shape (H, W)
        Label maps by slice; where a person has drawn, ``edited_masks`` stand beside them.
    edited_masks : mapping of int to ndarray of uint8, shape (H, W)
    masks : CaseMasks or None
        All of them together, to tell whether a decision still holds.
    records : iterable of Record
        Of the run, for its curves.
    flags : mapping of int to tuple of Flag
    decisions : tuple of ReportDecision
    info : mapping
        The run's ``run.json``: settings, versions, device, weights.
    shift : str
        How far the scan is from the source centre, in words.
    problem : str
        What went wrong with this case.
    close : callable
        Lets go of the case's files.
    """

    code: str
    state: str = ""
    scan: Scan | None = None
    card: Card | None = None
    source_masks: Mapping[int, np.ndarray] = field(default_factory=dict)
    adapted_masks: Mapping[int, np.ndarray] = field(default_factory=dict)
    edited_masks: Mapping[int, np.ndarray] = field(default_factory=dict)
    masks: CaseMasks | None = None
    records: Iterable[Record] = ()
    flags: Mapping[int, tuple[Flag, ...]] = field(default_factory=dict)
    decisions: tuple[ReportDecision, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    shift: str = ""
    problem: str = ""
    close: Callable[[], None] = lambda: None

    def but(self, **changes: Any) -> ReportCase:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def final_masks(self) -> dict[int, np.ndarray]:
        """Label maps as they are now: as adapted, and as drawn where a person has drawn."""
        return {**self.adapted_masks, **self.edited_masks}


def case_of_run(
    folder: Path,
    code: str,
    *,
    scan: Scan | None = None,
    work: CaseWork | None = None,
    **more: Any,
) -> ReportCase:
    """Return a run folder as a case of a report.

    Parameters
    ----------
    folder : Path
        The run folder.
    code : str
    scan : Scan, optional
        Where it is open already.
    work : CaseWork, optional
        The case's folder, for what a person drew.
    **more
        Other fields of `ReportCase`.

    Raises
    ------
    RunFolderError
        If the folder cannot be read.
    """
    from napari_grata.adaptation import reopen
    from napari_grata.review.compare import latest_flags
    from napari_grata.review.final_masks import CaseMasks

    run = reopen(folder, scan)
    drawn: dict[int, np.ndarray] = {}
    masks = None
    if run.scan is not None:
        masks = (
            CaseMasks(run.scan, run.source_masks, run.adapted_masks)
            if work is None
            else work.masks(run.scan, run.source_masks, run.adapted_masks)
        )
        drawn = masks.drawn()
    return ReportCase(
        code=code,
        scan=run.scan,
        card=run.card,
        source_masks=run.source_masks,
        adapted_masks=run.adapted_masks,
        edited_masks=drawn,
        masks=masks,
        records=run.records,
        flags=latest_flags(run.records),
        info=run.info,
        problem=" ".join(run.missing),
        close=run.close,
        **more,
    )
