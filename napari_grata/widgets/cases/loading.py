"""Reads a case from the disk, scan and masks, so that showing it takes no reading any more."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.widgets.cases.pictures import small_picture

if TYPE_CHECKING:
    from napari_grata.adaptation.records import Flag, Record
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card
    from napari_grata.widgets.session import Session


@dataclass
class LoadedRun:
    """The latest finished run on a case, read back.

    Attributes
    ----------
    folder : Path or None
        None for masks that lie in no folder.
    card : Card
    model_folder : Path or None
    settings : Settings or None
    region : tuple or None
    before, after : ndarray of uint8, shape ``scan.mask_shape``
    segmented, adapted : set of int
        Slices that have a mask.
    records : list of Record
        Without masks.
    flags : dict of int to tuple of Flag
    missing : tuple of str
        What was not found, a sentence each.
    step : int or None
        The step whose masks are in use, where the run was taken back to one.
    """

    folder: Path | None
    card: Card
    model_folder: Path | None
    settings: Settings | None
    region: Any
    before: np.ndarray
    after: np.ndarray
    segmented: set[int]
    adapted: set[int]
    records: list[Record]
    flags: dict[int, tuple[Flag, ...]]
    missing: tuple[str, ...] = ()
    step: int | None = None


@dataclass(frozen=True)
class SetAside:
    """Masks of a case that lie in no run folder, packed, until the person comes back to it.

    Such as those of Segment alone, or of an adaptation that was cancelled.

    Attributes
    ----------
    packed : (bytes, bytes)
        Masks before and after.
    rest : dict
        Other fields of `LoadedRun`.
    older_run : Path or None
        The finished run of the case that there was already.
    """

    packed: tuple[bytes, bytes]
    rest: dict[str, Any]
    older_run: Path | None = None

    @classmethod
    def of(cls, session: Session, older_run: Path | None) -> SetAside:
        """Pack what a session holds; masks shrink to a hundredth."""
        stacks = (session.before.stack, session.after.stack)
        before, after = (zlib.compress(stack.tobytes(), 1) for stack in stacks)
        rest = {
            "card": session.card,
            "settings": session.settings,
            "region": session.region,
            "segmented": set(session.segmented),
            "adapted": set(session.adapted),
            "records": list(session.stream),
            "flags": dict(session.flags),
            "step": session.taken_step,
        }
        return cls((before, after), rest, older_run)

    def run(self, scan: Scan) -> LoadedRun:
        """Return them as if they had been read."""
        before, after = (
            np.frombuffer(zlib.decompress(packed), np.uint8).reshape(scan.mask_shape).copy()
            for packed in self.packed
        )
        return LoadedRun(folder=None, model_folder=None, before=before, after=after, **self.rest)


@dataclass
class LoadedCase:
    """A case in memory: its scan, the latest run on it, or why either cannot be had.

    Attributes
    ----------
    key : str
    scan : Scan or None
    run : LoadedRun or None
    contrast : (float, float) or None
        Grey values between which the scan is shown.
    picture : ndarray or None
        Small, shape (h, w, 3) uint8.
    problem : str
        Why there is no scan.
    notices : tuple of str
    """

    key: str
    scan: Scan | None = None
    run: LoadedRun | None = None
    contrast: tuple[float, float] | None = None
    picture: np.ndarray | None = None
    problem: str = ""
    notices: tuple[str, ...] = field(default=())


def load_case(cases: CaseList, case: Case, wanted: Callable[[], bool] | None = None) -> LoadedCase:
    """Read a case's scan and the latest finished run on it; never raises for a bad file.

    Parameters
    ----------
    wanted : callable, optional
        Asked between the parts of the work: if it says no, the rest is left.
    """
    from napari_grata.scans import ScanError, open_scan

    if not case.sources:
        return LoadedCase(case.key, problem="This scan came from no file and cannot be opened.")
    try:
        scan = open_scan(case.sources[0] if len(case.sources) == 1 else list(case.sources))
    except (ScanError, OSError) as error:
        return LoadedCase(case.key, problem=str(error))
    except MemoryError:
        return LoadedCase(case.key, problem="There is not enough memory for this case.")
    loaded = LoadedCase(case.key, scan)
    if wanted is not None and not wanted():
        return loaded
    middle = scan.read_slice(scan.n_slices // 2)
    loaded.picture = small_picture(middle)
    if not scan.rgb:
        loaded.contrast = scan.intensity_range(scan.case_of(scan.n_slices // 2), 0.001, 0.999)
        low, high = loaded.contrast
        loaded.contrast = (min(low, 0.0), high) if np.isfinite([low, high]).all() else None
    cases.confirm(case.key, scan)
    folder = cases.work(case.key).run_folder
    if folder is not None:
        loaded.run, loaded.notices = _load_run(folder, scan)
    return loaded


def _load_run(folder: Path, scan: Scan) -> tuple[LoadedRun | None, tuple[str, ...]]:
    from napari_grata.adaptation.reopening import reopen
    from napari_grata.adaptation.run_store import RunFolderError
    from napari_grata.review.compare import latest_flags

    try:
        run = reopen(folder, scan)
    except (RunFolderError, OSError) as error:
        return None, (f"The masks of this case cannot be read: {error}",)
    try:
        if run.scan is None:
            return None, tuple(run.missing)
        records = run.records.without_masks()
        before, after = scan.empty_mask(), scan.empty_mask()
        for stack, masks in ((before, run.source_masks), (after, run.adapted_masks)):
            for index, mask in masks.items():
                scan.put_mask(stack, index, mask)
        return (
            LoadedRun(
                folder=folder,
                card=run.card,
                model_folder=run.model_folder,
                settings=run.settings,
                region=run.region,
                before=before,
                after=after,
                segmented=set(run.source_masks),
                adapted=set(run.adapted_masks),
                records=records,
                flags=dict(latest_flags(records)),
                missing=tuple(run.missing),
                step=_step(run),
            ),
            (),
        )
    except (OSError, ValueError) as error:
        return None, (f"The masks of this case cannot be read: {error}",)
    finally:
        run.close()


def _step(run: Any) -> int | None:
    """Return the step that the run was taken back to; None where it stands at its end."""
    if run.taken is not None:
        return int(run.taken)
    if run.info["position"] in (run.info["count"], run.info["total"]) or not len(run.records):
        return None
    return int(run.records.without_masks()[-1].step)


class SharedEngine:
    """Keeps the model that was loaded last, for several threads.

    The segmenter itself is never changed, so that one thread may adapt from it while another goes
    through an earlier run.
    """

    def __init__(self) -> None:
        from napari_grata.widgets import jobs

        self._lock = threading.Lock()
        self._engine = jobs.Engine()

    def get(self, model: str | Path, device: str) -> Any:
        """Return the segmenter, loading it where needed."""
        with self._lock:
            return self._engine.get(model, device)


def revive(folder: Path, model: str, scan: Scan, engine: SharedEngine, device: str) -> Any:
    """Return the live run of a run folder, for going through its steps.

    Parameters
    ----------
    folder : Path
    model : str
        Its name, where the folder of the model is not known.
    scan : Scan
    engine : SharedEngine
    device : str

    Raises
    ------
    ValueError, OSError
        If its model is not there any more, or its files cannot be read.
    """
    from napari_grata.adaptation.reopening import reopen

    found = reopen(folder, scan)
    try:
        return found.run(engine.get(found.model_folder or model, device), scan)
    finally:
        found.close()
