"""Open a run folder again: look at it, roll it back, go on with it."""

from __future__ import annotations

import contextlib
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_grata.scans.files import sha256_of
from napari_grata.segmenters.card import CARD_FILE, CardError, load_card

from .methods.register import METHODS
from .records import ModelInfo, RunInfo
from .result import RunResult
from .run_files import fingerprint, read_whereabouts
from .run_store import RunFolderError, RunStore
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card, Segmenter

    from .run import AdaptationRun


class ReopenedRun(RunResult):
    """A run as its folder tells it.

    Where an earlier state was taken as the result, `past` holds all records, else those up to where
    the run stood.

    Parameters
    ----------
    store : RunStore
        Of the folder.
    scan : Scan or None
        As `reopen` was given it.

    Attributes
    ----------
    past, settings, source_masks, adapted_masks, taken, chosen
        See `RunResult`.
    folder : Path
    info : RunInfo
        What the run is and how it stands.
    card : Card
        The model's card, as it was.
    slices : list of int
        Flat numbers, in the order of the run.
    region : tuple or None
    cut, continued
        As of `AdaptationRun`.
    state : str
        ``finished``, ``cancelled``, ``failed``, or ``interrupted`` where the program ended in
        mid-run.
    scan : Scan or None
        The scan itself, where it was found and is the same.
    model_folder : Path or None
        Where the model lay.
    corrections : Corrections or None
        What a reviewer had drawn, empty if nothing; None where it cannot be read.
    missing : tuple of str
        What was not found or is damaged, one sentence each; what is left is there all the same.
    """

    def __init__(self, store: RunStore, scan: Scan | None) -> None:
        assert store.folder is not None
        self.folder, self.info, missing = store.folder, store.info, list(store.damage)
        info = self.info
        settings, self.card = _settings_and_card(self.folder, info)
        self.slices, self.region = info["slices"], info["region"]
        self.cut, self.continued = info["cut"], info["continued"]
        self.state = info["state"] if info["state"] != "running" else "interrupted"
        where = read_whereabouts(self.folder)
        self.scan = _the_scan(scan, where, info, self.card, missing)
        model_folder = where.get("model_folder")
        self.model_folder = Path(model_folder) if isinstance(model_folder, str) else None
        _check_model(info["model"], self.model_folder, missing)
        self.corrections = store.corrections()
        if self.corrections is None:
            missing.append(
                "The corrections that this run was made with cannot be read. The masks of the run "
                "are there all the same."
            )
        super().__init__(store, settings, info["count"])
        self.missing = (*missing, *self.lost)

    @property
    def records(self) -> RunStore:
        """A sequence of `Record`, masks read when asked for: `past`."""
        return self.past

    def close(self) -> None:
        """Close the folder's file."""
        self.past.close()

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
            If the model or the scan is missing or is another one, or the run is damaged; the
            message says which.
        """
        from napari_grata.segmenters import load_segmenter

        from .run import AdaptationRun

        scan = scan if scan is not None else self.scan
        if scan is None:
            raise RunFolderError(
                "This run cannot go on without its scan. Open the scan first, then reopen the run."
            )
        if other := _another(scan, self.info, self.card):
            raise RunFolderError(
                f"{other} is not the one that the run was made on. Open the right one."
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
        self.past.close()
        store = RunStore(self.folder, writable=True)
        try:
            return AdaptationRun(
                segmenter,
                scan,
                self.settings,
                slices=self.slices,
                region=self.region,
                corrections=self.corrections,
                cut=self.cut,
                store=store,
            )
        except BaseException:
            store.close()
            raise


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
    store = RunStore(Path(folder).expanduser(), to_position=True)
    try:
        return ReopenedRun(store, scan)
    except BaseException:
        store.close()
        raise


def _settings_and_card(folder: Path, info: RunInfo) -> tuple[Settings, Card]:
    method, package = info["settings"].get("method"), info["versions"].get("method")
    if package and method not in METHODS:
        raise RunFolderError(
            f"The run in {folder} was made with the method {method!r} of the package {package}, "
            "which is not here. Install it, then open the run again."
        )
    try:
        settings = Settings.from_dict(info["settings"])
        card = load_card(folder)
        if sha256_of(folder / CARD_FILE) != info["card_sha256"]:
            raise CardError(f"{CARD_FILE} is not as the run wrote it.")
    except (OSError, CardError, SettingsError) as error:
        raise RunFolderError(f"The run in {folder} cannot be read: {error}") from error
    return settings, card


def _the_scan(
    given: Scan | None, where: dict[str, Any], info: RunInfo, card: Card, missing: list[str]
) -> Scan | None:
    """Return the run's scan with all that is read together with it, or say what is missing."""
    found = given if given is not None else _find_scan(where, missing)
    if found is not None and not found.channels:
        found = _with_channels(found, where, info, card, missing)
    if found is not None and (other := _another(found, info, card)):
        missing.append(f"{other} is not the one that the run was made on; its masks may not fit.")
        return None
    return found


def _find_scan(where: dict[str, Any], missing: list[str]) -> Scan | None:
    from napari_grata.scans.dicom_series import is_choice

    path, paths = where.get("path"), where.get("paths")
    source: Any = None
    if isinstance(path, str) and (Path(path).exists() or is_choice(Path(path))):
        source = path
    elif isinstance(paths, list) and all(isinstance(p, str) and Path(p).is_file() for p in paths):
        source = paths
    if not source:
        missing.append(
            "The scan was not found where it lay; open it and reopen the run to go on with it."
        )
        return None
    return _opened(source, "The scan of this run", missing)


def _with_channels(
    first: Scan, where: dict[str, Any], info: RunInfo, card: Card, missing: list[str]
) -> Scan | None:
    """Return a scan with the images that the run read together with it, or say which is missing."""
    from napari_grata.scans import ScanError
    from napari_grata.scans.dicom_series import is_choice

    homes = [Path(path).parent for path in (first.path, where.get("path")) if path]
    count = len(info["scan"].get("channels", ()))
    paths = (where.get("channels") or []) + [None] * count
    others = []
    for number, path in enumerate(paths[:count], 1):
        called = _called(number, card)
        places = [home / path for home in homes] if isinstance(path, str) else []
        source = next((one for one in places if one.exists() or is_choice(one)), None)
        if source is None:
            missing.append(f"{called} was not found where it lay; put it back and reopen the run.")
            return None
        other = _opened(source, called, missing)
        if other is None:
            return None
        others.append(other)
    try:
        return first.together(others) if others else first
    except ScanError as error:
        missing.append(f"The images of this run do not fit together any more: {error.what}.")
        return None


def _opened(source: Any, called: str, missing: list[str]) -> Scan | None:
    from napari_grata.scans import ScanError, open_scan

    try:
        return open_scan(source)
    except ScanError as error:
        # Without the file's name: this goes into reports, and names of files may name patients.
        what = f"{error.what}. {error.hint}".strip()
        missing.append(f"{called} could not be opened: {what}")
    except OSError as error:
        why = error.strerror or type(error).__name__
        missing.append(f"{called} could not be opened ({why}).")
    return None


def _called(number: int, card: Card) -> str:
    """What an image of those that were read together is called, counted from 0."""
    name = f" ({card.inputs[number]})" if number < len(card.inputs) else ""
    return f"Image {number + 1}{name} of this run"


def _another(scan: Scan, info: RunInfo, card: Card) -> str:
    """Name the image that is not the one of the run; "" where all are."""
    wanted = info["scan"].get("channels", [])
    if fingerprint(scan) != info["scan"]["sha256"]:
        return _called(0, card) if wanted else "The scan"
    found = [fingerprint(other) for other in scan.channels]
    pairs = enumerate(zip_longest(found, wanted), 1)
    return next((_called(n, card) for n, (one, other) in pairs if one != other), "")


def _check_model(wanted: ModelInfo, model_folder: Path | None, missing: list[str]) -> None:
    """Say so if the model of the run is not there any more; needs no torch."""
    from napari_grata.segmenters.registry import list_models

    cards = [entry.card for entry in list_models() if entry.card is not None]
    if model_folder is not None:
        if model_folder.exists() and not (model_folder / CARD_FILE).exists():
            # Another program's, such as nnU-Net's: only reading its weights would tell.
            return
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
