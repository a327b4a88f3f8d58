"""Reads cases and saved runs from the disk, so that showing them takes no reading any more."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_grata.review.cases import ListError
from napari_grata.segmenters.registry import ModelEntry
from napari_grata.widgets.background import Found, Queue
from napari_grata.widgets.cases_panel import small_picture
from napari_grata.widgets.state import chosen_words

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_grata.adaptation.records import ChosenInfo, Flag, Record
    from napari_grata.adaptation.settings import Settings
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import Case
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card
    from napari_grata.widgets.context import Context
    from napari_grata.widgets.session import Session

KEPT = 2
"""Cases in memory beside the one in view."""


@dataclass
class LoadedRun:
    """Masks and records of a run, read back.

    Attributes
    ----------
    scan : Scan
    folder : Path or None
        None for masks that lie in no folder.
    card : Card
    model_folder : Path or None
    settings : Settings or None
    region : tuple or None
    source, adapted : dict of int to ndarray of uint8, shape (H, W)
    records : list of Record
        Without masks.
    flags : dict of int to tuple of Flag
    missing : tuple of str
        What was not found, a sentence each.
    step : int or None
        The step whose masks are in use, where the run was taken back to one.
    chosen : tuple of ChosenInfo
        How masks were chosen that the run did not make.
    started : str
        When, as the run's folder tells it.
    """

    scan: Scan
    folder: Path | None
    card: Card
    model_folder: Path | None
    settings: Settings | None
    region: Any
    source: dict[int, np.ndarray]
    adapted: dict[int, np.ndarray]
    records: list[Record]
    flags: dict[int, tuple[Flag, ...]]
    missing: tuple[str, ...] = ()
    step: int | None = None
    chosen: tuple[ChosenInfo, ...] = ()
    started: str = ""


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
    notices: tuple[str, ...] = ()


def load_case(cases: CaseList, case: Case) -> LoadedCase:
    """Read a case's scan and the latest finished run on it; never raises for a bad file."""
    from napari_grata.scans import ScanError, open_scan

    if not case.sources:
        return LoadedCase(case.key, problem="This scan came from no file and cannot be opened.")
    try:
        scan = open_scan(case.sources[0] if len(case.sources) == 1 else list(case.sources))
        middle = scan.read_slice(scan.n_slices // 2)
    except (ScanError, OSError) as error:
        _note_failure(cases, case, error)
        return LoadedCase(case.key, problem=str(error))
    except MemoryError:
        return LoadedCase(case.key, problem="There is not enough memory for this case.")
    loaded = LoadedCase(case.key, scan, picture=small_picture(middle))
    if not scan.rgb:
        low, high = scan.intensity_range(scan.case_of(scan.n_slices // 2), 0.001, 0.999)
        loaded.contrast = (min(low, 0.0), high) if np.isfinite([low, high]).all() else None
    cases.confirm(case.key, scan)
    folder = cases.work(case.key).run_folder
    if folder is not None:
        try:
            loaded.run = load_run(folder, scan)
        except (OSError, ValueError) as error:
            loaded.notices = (f"The masks of this case cannot be read: {error}",)
    return loaded


def _note_failure(cases: CaseList, case: Case, error: Exception) -> None:
    """Have the list say of a new case that it cannot be opened; adapting ahead tries it again."""
    from napari_grata.review.adapt_list import in_words, keep_failure

    if cases.writable and cases.summary(case.key) is None and not cases.missing(case):
        with suppress(ListError):
            keep_failure(cases, case, in_words(error, case))


def load_run(folder: Path, scan: Scan | None) -> LoadedRun:
    """Read a run folder's masks and records.

    Raises
    ------
    ValueError, OSError
        If it is no run folder, is damaged, or its scan cannot be found.
    """
    from napari_grata.adaptation.reopening import reopen
    from napari_grata.review.compare import flags_of_run

    run = reopen(folder, scan)
    try:
        if run.scan is None:
            raise ValueError(" ".join(run.missing))
        records = run.records.without_masks()
        return LoadedRun(
            scan=run.scan,
            folder=Path(folder),
            card=run.card,
            model_folder=run.model_folder,
            settings=run.settings,
            region=run.region,
            source={i: np.array(mask) for i, mask in run.source_masks.items()},
            adapted={i: np.array(mask) for i, mask in run.adapted_masks.items()},
            records=records,
            flags=flags_of_run(run),
            missing=tuple(run.missing),
            step=_step(run, records),
            chosen=tuple(run.chosen),
            started=str(run.info.get("started", "")),
        )
    finally:
        run.close()


def _step(run: Any, records: list[Record]) -> int | None:
    """Return the step that the run was taken back to; None where it stands at its end."""
    if run.taken is not None:
        return int(run.taken)
    position, total = run.info.get("position"), run.info.get("total")
    if position is None or position == total or not records:
        return None
    return int(records[-1].step)


def fill_session(context: Context, layer: Layer, scan: Scan, run: LoadedRun) -> Session:
    """Choose the model of a run and make the run the results on this scan."""
    where = run.model_folder or run.folder or Path()
    context.add_entry(ModelEntry(run.card.name, run.card.title, where, "user", run.card))
    context.choose_model(run.card.name)
    session = context.sessions.renew(layer, scan, run.card, context.store.get("filled"))
    session.region, session.settings = run.region, run.settings
    session.segmented_slices, session.adapted_slices = set(run.source), set(run.adapted)
    session.records, session.flags = list(run.records), dict(run.flags)
    session.taken_step = run.step
    session.chosen = chosen_words(run.chosen, scan.noun)
    session.saved = "kept" if run.folder is not None else ""
    for mask, found in ((session.source, run.source), (session.adapted, run.adapted)):
        for index, label_map in found.items():
            scan.put_mask(mask.stack, index, label_map)
    for mask, found in ((session.source, run.source), (session.adapted, run.adapted)):
        if found:
            mask.ensure()
    return session


def show_saved_run(context: Context, folder: Path, scan: Scan | None = None) -> Session:
    """Bring a saved run into the viewer: scan, masks, curves, table, settings.

    ``scan``: where it does not lie any more where the run found it.

    Raises
    ------
    ValueError, OSError
        If it cannot be read; the message says why.
    """
    run = load_run(folder, scan)
    session = fill_session(context, context.add_scan(run.scan), run.scan, run)
    session.reopened = run.started[:16].replace("T", " ") or "an earlier day"
    session.note = " ".join(run.missing)
    if run.settings is not None:
        context.choose_settings("", run.settings)
    context.take_results()
    context.show_mode("adapted")
    return session


class Prefetch(QObject):
    """Reads the neighbours of the case in view, and keeps no more than those.

    Signals
    -------
    ready(LoadedCase)
        A case that was wanted is in memory.
    """

    ready = Signal(object)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._cases: CaseList | None = None
        self._wanted: list[str] = []
        self._kept: dict[str, LoadedCase] = {}
        # By case, what its reading was asked for as: only the latest counts.
        self._reading: dict[str, tuple[str, int]] = {}
        self._turns = itertools.count()
        self.queue = Queue("prefetch", self, context.connections)
        self.queue.found.connect(self._take)

    def want(self, cases: CaseList, keys: Sequence[str | None]) -> None:
        """Have these cases read, the first one first; all others are let go of."""
        self._cases, self._wanted = cases, [key for key in keys if key is not None][:KEPT]
        self._kept = {key: kept for key, kept in self._kept.items() if key in self._wanted}
        self._reading = {key: turn for key, turn in self._reading.items() if key in self._wanted}
        for key in self._wanted:
            if key not in self._kept and key not in self._reading:
                self._reading[key] = turn = key, next(self._turns)
                self.queue.ask(turn, partial(load_case, cases, cases.case(key)))
        self.queue.keep_only(self._reading.values())

    def take(self, key: str) -> LoadedCase | None:
        """Hand a case over that was read; it is not kept here any longer."""
        loaded = self._kept.pop(key, None)
        if loaded is not None:
            self._wanted.remove(key)
        return loaded

    def reads(self, key: str | None) -> bool:
        """Whether a case is wanted and not in memory yet."""
        return key in self._reading

    def drop(self, key: str) -> None:
        """Forget a case whose files are others now; one that is being read is read anew."""
        self._kept.pop(key, None)
        if self._reading.pop(key, None) is not None and self._cases is not None:
            self.want(self._cases, self._wanted)

    def _take(self, found: Found) -> None:
        key, _ = found.key
        if self._reading.get(key) != found.key:
            return
        del self._reading[key]
        loaded = found.result
        if found.error is not None:
            loaded = LoadedCase(key, problem=f"This case cannot be shown: {found.error}")
        self._kept[key] = loaded
        self.ready.emit(loaded)
