"""The files of a run folder beside its store: for people and other programs.

===================  =============================================================================
``run.sqlite``       the store: everything that happened (`run_store`)
``card.yaml``        the model's card as it was
``scan.json``        where the scan and the model lie, and the slices' names: may identify a
                     patient, so delete it before sharing the folder; nothing else needs it
``run.json``         what the run is and how it stands, as in the store
``steps.csv``        a row an event
``source.*``         the masks in the scan's own format and grid
``adapted.*``
===================  =============================================================================

What follows ``scan.json`` is written anew each time the run comes to rest, and is never read.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.scans.files import (
    make_folder,
    read_json,
    sha256_of,
    sync_folder,
    write_csv,
    write_json,
)
from napari_grata.segmenters.card import CARD_FILE, write_card

from .methods.register import METHODS
from .records import Record, RunInfo, ScanInfo
from .run_store import RunFolderError

if TYPE_CHECKING:
    from napari_grata.scans import Scan
    from napari_grata.segmenters import Card

    from .run import AdaptationRun

SCAN_FILE = "scan.json"
RUN_FILE = "run.json"
STEPS_FILE = "steps.csv"
FINGERPRINT_SLICES = 8
"""The scan's fingerprint is taken from this many evenly spaced slices: a long list of photographs
is not decoded twice."""
_PLAIN = (
    *("phase", "step", "done", "total", "slice_index", "case", "pass_index", "cosine"),
    *("learning_rate", "auxiliary_loss", "pseudo_loss", "undone", "final", "seconds"),
)


def fresh_folder(folder: str | Path) -> Path:
    """Make a folder for a new run and return it; never one that holds anything already.

    If `folder` exists and is not empty, ``folder-2``, ``folder-3`` … is made instead.

    Raises
    ------
    RunFolderError
        If it cannot be made.
    """
    wanted = Path(folder)
    number = 1
    while True:
        candidate = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            make_folder(candidate.parent)
            try:
                candidate.mkdir()
                sync_folder(candidate.parent)
                return candidate
            except FileExistsError:
                if candidate.is_dir() and not any(candidate.iterdir()):
                    return candidate
        except OSError as error:
            raise RunFolderError(
                f"The run folder {candidate} cannot be made ({error.strerror}). Choose another "
                "place, or run without a folder."
            ) from error
        number += 1


def now() -> str:
    """Return the time in UTC, as a run keeps it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def begin(run: AdaptationRun, **standing: Any) -> None:
    """Begin a run's folder: its card, ``scan.json``, and in its store what it is and how it stands.

    A RunFolderError says that it cannot be kept there.
    """
    folder, card, settings = run.past.folder, run.segmenter.card, run.settings
    assert folder is not None
    try:
        write_card(folder, card)
        write_json(folder / SCAN_FILE, _whereabouts(run))
    except OSError as error:
        raise RunFolderError(
            f"The run cannot be kept in its folder ({error.strerror}). Choose another place, or "
            "run without a folder."
        ) from error
    run.past.begin(
        run.corrections,
        count=len(run.past),
        settings=settings.to_dict(),
        seed=settings.seed,
        slices=run.slices,
        region=run.region,
        continued=run.continued,
        started=now(),
        versions=versions(settings.method),
        model={name: getattr(card, name) for name in ("name", "version", "weights_sha256")},
        scan=_describe(run.scan),
        card_sha256=sha256_of(folder / CARD_FILE),
        **standing,
    )


def versions(method: str) -> dict[str, str]:
    """Versions of what decides the numbers, with the package that brings the method."""
    import torch

    from napari_grata import __version__

    return {
        "napari_grata": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **({"method": METHODS[method].package} if METHODS[method].package else {}),
    }


def fingerprint(scan: Scan) -> str:
    """Tell a scan from others without naming it: SHA-256 of evenly spaced slices' values."""
    count = min(scan.n_slices, FINGERPRINT_SLICES)
    chosen = np.unique(np.linspace(0, scan.n_slices - 1, count).round().astype(int))
    digest = hashlib.sha256()
    for index in chosen:
        values = scan.read_slice(int(index))
        digest.update(repr((int(index), values.shape, values.dtype.str)).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _describe(scan: Scan) -> ScanInfo:
    """Return a scan's fingerprint and grid, and the fingerprints of what is read with it."""
    info: ScanInfo = {
        "kind": scan.kind,
        "shape": [int(size) for size in scan.data.shape],
        "dtype": str(scan.data.dtype),
        "sha256": fingerprint(scan),
        "mask_shape": [int(size) for size in scan.mask_shape],
        "n_slices": int(scan.n_slices),
        "slice_spacing": scan.slice_spacing and [float(size) for size in scan.slice_spacing],
        "slice_thickness": scan.slice_thickness and float(scan.slice_thickness),
    }
    if scan.channels:
        info["channels"] = [fingerprint(other) for other in scan.channels]
    return info


def _whereabouts(run: AdaptationRun) -> dict[str, Any]:
    """Return what ``scan.json`` holds: paths and names, which may identify a patient."""
    scan = run.scan
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    return {
        "note": "This file may identify a patient. Delete it before you share the folder.",
        "path": _absolute(scan.path),
        "paths": [_absolute(path) for path in paths] if scan.is_list else None,
        "channels": [_beside(scan.path, other.path) for other in scan.channels],
        "model_folder": _absolute(getattr(run.segmenter, "folder", None)),
        "slice_names": {str(index): scan.slice_name(index) for index in run.slices},
    }


def read_whereabouts(folder: Path) -> dict[str, Any]:
    """Read ``scan.json``; empty where it was deleted or is damaged."""
    try:
        return read_json(folder / SCAN_FILE)
    except (OSError, ValueError):
        return {}


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _beside(first: Path | None, other: Path | None) -> str | None:
    """Path of an image from the folder of the first: they are found if they move together."""
    if first is None or other is None:
        return _absolute(other)
    try:
        return os.path.relpath(other, first.parent)
    except ValueError:  # on another drive of Windows
        return _absolute(other)


def write_tables(folder: Path, info: RunInfo, records: Iterable[Record]) -> None:
    """Write ``run.json`` and ``steps.csv``.

    Raises
    ------
    FileError
    """
    write_json(folder / RUN_FILE, info)
    rows = [_row(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(folder / STEPS_FILE, columns, [[row.get(name) for name in columns] for row in rows])


def _row(record: Record) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in _PLAIN}
    row["auxiliary_norm"], row["pseudo_norm"] = record.gradient_norms
    for table in ("source_area", "adapted_area", "agreement", "layer_cosines"):
        row |= {f"{table}:{name}": value for name, value in getattr(record, table).items()}
    row["frame"] = None if record.frame is None else ",".join(map(str, record.frame))
    row["flags"] = "; ".join(flag.code for flag in record.flags)
    row["flag_texts"] = " | ".join(flag.text for flag in record.flags)
    return row


def write_masks(
    folder: Path, masks: Mapping[str, Mapping[int, np.ndarray]], scan: Scan, card: Card
) -> list[str]:
    """Write masks, by name and slice, in the scan's own format; say what could not be written.

    They are ``name.nii.gz``, ``name.png`` or ``name/`` …; photographs of a list are numbered as
    displayed, for their own names may name patients. What was written for slices that have no
    mask any more, after a rollback, goes.
    """
    said = []
    for name, some in masks.items():
        try:
            _write_some(scan.mask_path(folder, name), some, scan, card)
        except (OSError, ValueError) as error:
            # Not the whole message: it may hold a path, and that may name a patient.
            why = getattr(error, "strerror", None) or getattr(error, "what", None)
            said.append(
                f"The {name} masks could not be written{f' ({why})' if why else ''}. They are "
                "kept in the run folder all the same; reopen it to have them back."
            )
    return said


def _write_some(path: Path, masks: Mapping[int, np.ndarray], scan: Scan, card: Card) -> None:
    from napari_grata.scans import write_mask

    kept: Sequence[Path] = []
    if masks:
        kept = write_mask(
            scan.mask_stack(masks.items()), scan, path, colours=card.colours, overwrite=True
        )
    if scan.is_list:
        kept = [kept[index] for index in masks]
    for old in path.glob("*.png") if scan.is_list else [path]:
        if old not in kept:
            old.unlink(missing_ok=True)
