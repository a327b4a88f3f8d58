"""Where a case's run begins: a broken-off run, the case before, or the source model."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_grata.adaptation.run_store import (
    RunFolderError,
    RunStore,
    is_run_folder,
    read_info,
)
from napari_grata.adaptation.settings import Settings
from napari_grata.scans.files import OLD_SECONDS, clear_leftovers, read_json

from .cases import Case
from .casework import CaseWork
from .runs import is_finished, step_in_use

if TYPE_CHECKING:
    from napari_grata.adaptation.methods.base import Snapshot
    from napari_grata.adaptation.run import AdaptationRun
    from napari_grata.adaptation.run_store import RunInfo
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Segmenter

    from .caselist import CaseList

ORIGIN_FILE = "origin.json"
"""In a run folder: which case of the list it continued from. Only runs of this module have one."""


@dataclass(frozen=True)
class Start:
    """The adapted model that a case begins with, and whose it was."""

    snapshot: Snapshot
    case: str
    run: str
    step: int

    @property
    def origin(self) -> dict[str, Any]:
        """As written into ``origin.json``."""
        return {"case": self.case, "run": self.run, "step": self.step}


def previous_end(
    caselist: CaseList, case: Case, segmenter: Segmenter, settings: Settings
) -> Start | None:
    """Return the adapted model that the nearest case before this one ended with.

    Only where it is the same model with the same settings, and only one that learns along the
    stream; else None: the source model.
    """
    if not settings.learns or settings.mode != "continual":
        return None
    for earlier in reversed([other for other in caselist.cases if other.number < case.number]):
        folder = caselist.work(earlier).run_folder
        if folder is None:
            continue
        try:
            if not same_recipe(read_info(folder), segmenter, settings):
                continue
            step = step_in_use(folder)
            with contextlib.closing(RunStore(folder)) as store:
                return Start(store.state(step), earlier.key, folder.name, step)
        except (RunFolderError, OSError, ValueError, KeyError, TypeError):
            continue
    return None


def origin(before: Start | None) -> dict[str, Any]:
    return {"from": None if before is None else before.origin}


def resumed(
    work: CaseWork, segmenter: Segmenter, scan: Scan, settings: Settings, before: Start | None
) -> AdaptationRun | None:
    """Open the latest run again if it was broken off, or never summed up, and is the one wanted."""
    folders = work.run_folders()
    if not folders:
        return None
    from napari_grata.adaptation.reopening import reopen

    folder = folders[-1]
    summary = work.summary
    if is_finished(folder) and summary is not None and summary.run == folder.name:
        return None
    try:
        if read_json(folder / ORIGIN_FILE) != origin(before) or (
            before is not None and not before.case
        ):
            return None
        info = read_info(folder)
        if info["position"] != info["count"] or not same_recipe(info, segmenter, settings):
            return None
        clear_leftovers([folder], older_than=0)
        found = reopen(folder, scan)
        try:
            if found.slices != list(range(scan.n_slices)) or found.region is not None:
                return None
            return found.run(segmenter, scan)
        finally:
            found.close()
    except (RunFolderError, OSError, ValueError, KeyError, TypeError):
        return None


def same_recipe(info: RunInfo, segmenter: Segmenter, settings: Settings) -> bool:
    """Whether a run was made with this model and these settings."""
    weights = info["model"]["weights_sha256"]
    same = Settings.from_dict(info["settings"]) == settings
    return same and weights == segmenter.card.weights_sha256


def clear_unfinished(work: CaseWork) -> None:
    """Remove runs of this module that were broken off and could not go on: nobody saw them."""
    for folder in work.run_folders():
        if is_finished(folder):
            continue
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > OLD_SECONDS
            if (folder / ORIGIN_FILE).exists() or (old and not is_run_folder(folder)):
                shutil.rmtree(folder, ignore_errors=True)
