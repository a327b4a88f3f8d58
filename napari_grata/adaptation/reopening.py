"""Open a run folder again: look at it, roll it back, go on with it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.segmenters.card import CARD_FILE, CardError, load_card

from .corrections import Corrections, CorrectionsError
from .journal import STEPS_FILE, Journal
from .runfolder import (
    CORRECTIONS_FILE,
    RUN_FILE,
    SCAN_FILE,
    THETA_FILE,
    RunFolderError,
    fingerprint,
    read_info,
)
from .settings import Settings, SettingsError
from .taken_masks import read_taken

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Segmenter

    from .run import AdaptationRun


@dataclass(frozen=True)
class ReopenedRun:
    """A run as its folder tells it.

    Attributes
    ----------
    folder : Path
    settings : Settings
    records : Journal
        A sequence of `Record`, masks read when asked for; those up to where the run stood.
    source_masks, adapted_masks : dict of int to ndarray of uint8, shape (H, W)
        Label maps by slice.
    card : Card
        The model's card, as it was.
    slices : list of int
        Flat numbers, in the order of the run.
    region : tuple or None
    state : str
        ``finished``, ``cancelled``, ``failed``, or ``interrupted`` where the program ended in
        mid-run.
    info : dict
        All of ``run.json``.
    scan : Scan or None
        The scan itself, where it was found and is the same.
    taken : int or None
        The step of an earlier state whose masks a person took as the result; then all records are
        there, and the adapted masks are those.
    missing : tuple of str
        What was not found, one sentence each; masks and curves are there all the same.
    corrections : Corrections or None
        What a reviewer had drawn, empty if nothing; None where it cannot be read.
    """

    folder: Path
    settings: Settings
    records: Journal
    source_masks: dict[int, np.ndarray]
    adapted_masks: dict[int, np.ndarray]
    card: Card
    slices: list[int]
    region: tuple[int, int, int, int] | None
    state: str
    info: dict[str, Any]
    scan: Scan | None
    missing: tuple[str, ...]
    model_folder: Path | None
    corrections: Corrections | None = field(default_factory=Corrections.none)
    taken: int | None = None

    def close(self) -> None:
        """Close the folder's files."""
        self.records.close()

    def stack(self, which: str = "adapted") -> np.ndarray:
        """All masks as one uint8 stack as displayed, also without the scan.

        Parameters
        ----------
        which : {"source", "adapted"}
        """
        masks = self.source_masks if which == "source" else self.adapted_masks
        shape = tuple(self.info["scan"]["mask_shape"])
        stack = np.zeros(shape, dtype=np.uint8)
        for index, mask in masks.items():
            # Photographs smaller than the list's largest lie in the corner, as in `put_mask`.
            rows, columns = mask.shape
            stack.reshape(-1, *shape[-2:])[index, :rows, :columns] = mask
        return stack

    def run(self, segmenter: Segmenter | None = None, scan: Scan | None = None) -> AdaptationRun:
        """Make the run live again: it can be rolled back, resumed and asked for any step.

        From then on ask the run; this object's records are closed.

        Parameters
        ----------
        segmenter : Segmenter, optional
            The model of the run; by default it is loaded by its name.
        scan : Scan, optional
            The scan of the run, if it was not found.

        Raises
        ------
        RunFolderError
            If the model or the scan is missing or is another one; the message says which.
        """
        from napari_grata.segmenters import load_segmenter

        from .history import History, HistoryError
        from .methods import Snapshot
        from .run import AdaptationRun

        scan = scan if scan is not None else self.scan
        if scan is None:
            raise RunFolderError(
                "This run cannot go on without its scan. Open the scan first, then reopen the run."
            )
        if fingerprint(scan)["sha256"] != self.info["scan"]["sha256"]:
            raise RunFolderError(
                "This scan is not the one that the run was made on. Open the right one."
            )
        model = self.info["model"]
        if segmenter is None:
            try:
                segmenter = load_segmenter(self.model_folder or model["name"])
            except ValueError as error:
                raise RunFolderError(
                    f"This run cannot go on without its model {model['name']}: {error}"
                ) from error
        if segmenter.card.weights_sha256 != model["weights_sha256"]:
            raise RunFolderError(
                f"The weights of the model {segmenter.card.name} are not those that the run was "
                "made with; it can be looked at but not resumed."
            )
        if self.corrections is None:
            raise RunFolderError(
                f"The corrections that this run was made with cannot be read from {self.folder}; "
                "it can be looked at but not resumed."
            )
        self.records.close()
        try:
            journal = Journal.open(self.folder)
            history = History.open(self.folder / THETA_FILE, Snapshot)
        except (OSError, HistoryError, ValueError) as error:
            raise RunFolderError(f"The run in {self.folder} cannot go on: {error}") from error
        run = AdaptationRun(
            segmenter,
            scan,
            self.settings,
            slices=self.slices,
            region=self.region,
            corrections=self.corrections,
            _kept=(self.folder, journal, history, self.info["position"]),
            _cut=self.info.get("cut"),
        )
        run.continued = bool(self.info.get("continued"))
        if self.taken is not None:
            run.taken = self.taken
            run.adapted_masks.update(self.adapted_masks)
        return run


def reopen(folder: str | Path, scan: Scan | None = None) -> ReopenedRun:
    """Read a run folder back.

    Parameters
    ----------
    folder : path
        As written by a run: finished, cancelled or cut short by a crash.
    scan : Scan, optional
        The scan, where it lies elsewhere now or ``scan.json`` was deleted.

    Returns
    -------
    ReopenedRun
        Its `run` gives an `AdaptationRun` that goes on.

    Raises
    ------
    RunFolderError
        If the folder is no run folder or is damaged beyond reading.
    """
    folder = Path(folder).expanduser()
    info = read_info(folder)
    try:
        settings = Settings.from_dict(info["settings"])
        card = load_card(folder / CARD_FILE)
        position = info["position"]
        taken = info.get("taken")
        # Where a state was taken, the run itself is shown to its end.
        length = position if taken is None else None
        journal = Journal.open(folder, writable=False, length=length)
    except CardError as error:
        raise RunFolderError(f"The card in this run folder cannot be read: {error}") from error
    except (KeyError, TypeError, SettingsError) as error:
        raise RunFolderError(f"{folder / RUN_FILE} is damaged: {error}") from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder / STEPS_FILE} cannot be read: {error}") from error
    where = _whereabouts(folder)
    missing: list[str] = []
    found = scan if scan is not None else _find_scan(where, info, missing)
    if found is not None and fingerprint(found)["sha256"] != info["scan"]["sha256"]:
        missing.append("The scan is not the one that the run was made on; its masks may not fit.")
        found = None
    model_folder = where.get("model_folder")
    _check_model(info, model_folder, missing)
    corrections = _read_corrections(folder, info, missing)
    adapted = journal.latest_masks(len(journal))
    if taken is not None:
        try:
            adapted.update(read_taken(folder))
        except (OSError, ValueError):
            taken = None
            missing.append(
                "The masks of the earlier state that was in use cannot be read; those of the run "
                "are shown."
            )
    state = info["state"] if info["state"] != "running" else "interrupted"
    return ReopenedRun(
        folder=folder,
        settings=settings,
        records=journal,
        source_masks=dict(journal.source_masks),
        adapted_masks=adapted,
        card=card,
        slices=[int(index) for index in info["slices"]],
        region=tuple(info["region"]) if info["region"] else None,
        state=state,
        info=info,
        scan=found,
        missing=tuple(missing),
        model_folder=Path(model_folder) if model_folder else None,
        corrections=corrections,
        taken=taken,
    )


def _read_corrections(folder: Path, info: dict[str, Any], missing: list[str]) -> Corrections | None:
    """Return what a reviewer had drawn; runs of earlier versions know of none."""
    told = info.get("corrections")
    if not told:
        return Corrections.none()
    try:
        found = Corrections.load(folder / CORRECTIONS_FILE)
    except CorrectionsError as error:
        missing.append(str(error))
        return None
    if found.sha256 != told["sha256"]:
        missing.append(
            "The corrections in the run folder are not those that the run was made with."
        )
        return None
    return found


def _whereabouts(folder: Path) -> dict[str, Any]:
    try:
        where = json.loads((folder / SCAN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return where if isinstance(where, dict) else {}


def _find_scan(where: dict[str, Any], info: dict[str, Any], missing: list[str]) -> Scan | None:
    from napari_grata.scans import ScanError, open_scan

    path, paths = where.get("path"), where.get("paths")
    source: Any = None
    if path and Path(path).exists():
        source = path
    elif paths and all(path and Path(path).is_file() for path in paths):
        source = paths
    if source is None:
        missing.append(
            "The scan was not found where it lay; open it and reopen the run to go on with it."
        )
        return None
    try:
        return open_scan(source)
    except ScanError as error:
        # Without the file's name: this goes into reports, and names of files may name patients.
        what = f"{error.what}. {error.hint}".strip()
        missing.append(f"The scan of this run could not be opened: {what}")
        return None
    except OSError as error:
        why = error.strerror or type(error).__name__
        missing.append(f"The scan of this run could not be opened ({why}).")
        return None


def _check_model(info: dict[str, Any], model_folder: str | None, missing: list[str]) -> None:
    """Say so if the model of the run is not there any more; needs no torch."""
    from napari_grata.segmenters.registry import list_models

    wanted = info["model"]
    cards = [entry.card for entry in list_models() if entry.card is not None]
    if model_folder:
        with contextlib.suppress(CardError):
            cards.append(load_card(model_folder))
    named = [card for card in cards if card.name == wanted["name"]]
    if not named:
        missing.append(
            f"The model {wanted['name']} is not among the models here; add it to go on with "
            "this run."
        )
    elif all(card.weights_sha256 != wanted["weights_sha256"] for card in named):
        missing.append(
            f"The model {wanted['name']} here has other weights than the run was made with."
        )
