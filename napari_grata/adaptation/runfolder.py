"""The run folder: everything that a run leaves behind, written as it goes.

===================  =============================================================================
``run.json``         settings, versions, device, model and weight hash, the scan's fingerprint,
                     slices, region, times, state; replaced as a whole (written aside, renamed)
``card.yaml``        the model's card
``scan.json``        where the scan and the model lie, and the slices' names: may identify a
                     patient, so delete it before sharing the folder; nothing else needs it
``corrections.npz``  what a reviewer drew, where the run was given corrections
``steps.csv``        a row a step, appended
``theta.bin/.json``  θ and optimiser state after each step, appended, and what lies where
``*_masks.bin``      packed label maps, appended: what a crash leaves of the masks
``taken_masks.npz``  masks of an earlier state that a person took as the result, if so
``source.*``         the masks in the scan's own format and grid, at the end of the run
``adapted.*``
===================  =============================================================================
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.scans.files import write_bytes

if TYPE_CHECKING:
    from .run import AdaptationRun

_log = logging.getLogger(__name__)
RUN_FILE = "run.json"
SCAN_FILE = "scan.json"
THETA_FILE = "theta.bin"
CORRECTIONS_FILE = "corrections.npz"
FORMAT = 1
FINGERPRINT_SLICES = 8
"""The scan's fingerprint is taken from this many evenly spaced slices: a long list of photographs
is not decoded twice."""


class RunFolderError(ValueError):
    """A run folder that cannot be made or read; the message says which, why and what to do."""


def now() -> str:
    """Return the time in UTC, as written into run.json."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


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
            candidate.parent.mkdir(parents=True, exist_ok=True)
            try:
                candidate.mkdir()
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


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one go: a reader, or a crash, sees the old text or the new."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace a JSON file in one go."""
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def read_info(folder: Path) -> dict[str, Any]:
    """Read ``run.json``.

    Raises
    ------
    RunFolderError
        If the folder is no run folder, or one of a later format.
    """
    path = Path(folder) / RUN_FILE
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder} is no run folder: it has no {RUN_FILE}. Choose the folder that an "
            "adaptation wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise RunFolderError(
            f"{path} is of another format than this version of napari-grata reads ({FORMAT})."
        )
    return info


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    import torch

    from napari_grata import __version__

    return {
        "napari_grata": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def fingerprint(scan: Any) -> dict[str, Any]:
    """Tell a scan from others without naming it.

    Returns
    -------
    dict
        ``kind``, ``shape``, ``dtype`` and ``sha256`` of evenly spaced slices' values.
    """
    count = min(scan.n_slices, FINGERPRINT_SLICES)
    chosen = np.unique(np.linspace(0, scan.n_slices - 1, count).round().astype(int))
    digest = hashlib.sha256()
    for index in chosen:
        values = scan.read_slice(int(index))
        digest.update(repr((int(index), values.shape, values.dtype.str)).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return {
        "kind": scan.kind,
        "shape": [int(size) for size in scan.data.shape],
        "dtype": str(scan.data.dtype),
        "sha256": digest.hexdigest(),
    }


def write_masks(
    folder: Path, name: str, masks: Mapping[int, np.ndarray], scan: Any, card: Any
) -> None:
    """Write masks in the scan's own format: ``name.nii.gz``, ``name.png`` or ``name/0001.png`` ….

    Photographs of a list are numbered as displayed, for their own names may name patients. What
    was written for slices that have no mask any more, after a rollback, goes.
    """
    from napari_grata.scans import open_scan, write_mask

    colours = card.colours
    if scan.kind == "photographs":
        target = folder / name
        target.mkdir(exist_ok=True)
        pictures = {index: target / f"{index + 1:04d}.png" for index in masks}
        for old in set(target.glob("*.png")) - set(pictures.values()):
            old.unlink()
        for index, picture in pictures.items():
            path = scan.slice_path(index)
            if path is not None and path.is_file():
                write_mask(masks[index], open_scan(path), picture, colours=colours, overwrite=True)
            else:
                _write_plain(masks[index], picture, colours)
        return
    path = folder / f"{name}{'.png' if scan.kind == 'photograph' else '.nii.gz'}"
    if not masks:
        path.unlink(missing_ok=True)
        return
    stack = scan.empty_mask()
    for index, mask in masks.items():
        scan.put_mask(stack, index, mask)
    write_mask(stack, scan, path, colours=colours, overwrite=True)


def _write_plain(mask: np.ndarray, path: Path, colours: Mapping[int, str]) -> None:
    """Write the mask of a picture that came from no file: a palette PNG as displayed."""
    from PIL import Image

    palette = np.zeros((256, 3), dtype=np.uint8)
    for value, colour in colours.items():
        palette[value] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    image = Image.fromarray(np.ascontiguousarray(mask)).convert("P")
    image.putpalette(palette.ravel().tolist())
    image.save(path)


def describe_scan(scan: Any) -> dict[str, Any]:
    """What the run folder keeps of a scan: its fingerprint and grid, nothing that names it."""
    return {
        **fingerprint(scan),
        "mask_shape": [int(size) for size in scan.mask_shape],
        "n_slices": int(scan.n_slices),
        "slice_spacing": scan.slice_spacing and [float(size) for size in scan.slice_spacing],
        "slice_thickness": scan.slice_thickness and float(scan.slice_thickness),
    }


def locate(scan: Any, slices: list[int], model_folder: Path | None) -> dict[str, Any]:
    """What ``scan.json`` holds: paths and names, which may identify a patient."""
    paths = [scan.slice_path(index) for index in range(scan.n_slices)]
    many = scan.kind == "photographs"
    return {
        "note": "This file may identify a patient. Delete it before you share the folder.",
        "path": _absolute(scan.path),
        "paths": [_absolute(path) for path in paths] if many else None,
        "model_folder": _absolute(model_folder),
        "slice_names": {str(index): scan.slice_name(index) for index in slices},
    }


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


class RunFolder:
    """Keeps ``run.json`` and the final masks of one run up to date.

    Steps, θ and packed masks are written by `Journal` and `History`, as they come.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, run: AdaptationRun) -> None:
        """Write what is known before the first step, or that the run goes on."""
        if (self.path / RUN_FILE).exists():
            self.update(run, state="running", ended=None)
            return
        from napari_grata.segmenters.card import CARD_FILE, card_to_yaml

        card = run.segmenter.card
        write_whole(self.path / CARD_FILE, card_to_yaml(card))
        folder = getattr(run.segmenter, "folder", None)
        write_json(self.path / SCAN_FILE, locate(run.scan, run.slices, folder))
        drawn = run.corrections
        if drawn:
            drawn.save(self.path / CORRECTIONS_FILE)
        info = {
            "format": FORMAT,
            "state": "running",
            "settings": run.settings.to_dict(),
            "seed": run.settings.seed,
            "slices": run.slices,
            "region": run.region,
            "continued": run.continued,
            "corrections": {
                "slices": list(drawn.slices),
                "pixels": drawn.pixels,
                "sha256": drawn.sha256,
            }
            if drawn
            else None,
            "total": run.total,
            "position": None,
            "cut": run.cut,
            "taken": None,
            "started": now(),
            "ended": None,
            "device": str(run.segmenter.device),
            "versions": versions(),
            "model": {
                "name": card.name,
                "version": card.version,
                "weights_sha256": card.weights_sha256,
            },
            "scan": describe_scan(run.scan),
            "notices": [],
        }
        write_json(self.path / RUN_FILE, info)

    def end(self, run: AdaptationRun, state: str) -> None:
        """Write the masks in the scan's own format, and how the run ended."""
        for name, masks in (("source", run.source_masks), ("adapted", run.adapted_masks)):
            try:
                write_masks(self.path, name, masks, run.scan, run.segmenter.card)
            except (OSError, ValueError) as error:
                # The packed masks are there; a failure here must not hide how the run ended.
                # Not the whole message: it may hold a path, and that may name a patient.
                why = getattr(error, "strerror", None) or getattr(error, "what", None)
                run.notices.append(
                    f"The {name} masks could not be written{f' ({why})' if why else ''}. They are "
                    "kept in the run folder all the same; reopen it to have them back."
                )
                _log.warning("The %s masks could not be written.", name)
        self.update(run, state=state, ended=now())

    def rolled_back(self, run: AdaptationRun) -> None:
        """Write where the run stands now, unless it is going on and will say so itself."""
        if (self.path / RUN_FILE).exists() and not run.active:
            self.end(run, "finished" if run.position == run.total else "cancelled")

    def update(self, run: AdaptationRun, **changes: Any) -> None:
        """Bring ``run.json`` up to date."""
        if not (self.path / RUN_FILE).exists():
            return
        info = read_info(self.path)
        position = None if run.position == len(run.past) else run.position
        info.update(changes, position=position, cut=run.cut, taken=run.taken, total=run.total)
        info["notices"] = list(run.notices)
        info["device"] = str(run.segmenter.device)
        write_json(self.path / RUN_FILE, info)
