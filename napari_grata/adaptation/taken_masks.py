"""The masks of an earlier state that a person took as the result of a run, in its folder."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from napari_grata.scans.files import write_bytes

TAKEN_FILE = "taken_masks.npz"


def write_taken(folder: Path, masks: Mapping[int, np.ndarray]) -> None:
    """Replace the masks that are kept, (H, W) label maps by slice; the file appears whole.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    arrays = {f"slice_{index}": np.asarray(mask) for index, mask in masks.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(folder / TAKEN_FILE, buffer.getvalue())


def read_taken(folder: Path) -> dict[int, np.ndarray]:
    """Read what `write_taken` wrote.

    Raises
    ------
    OSError, ValueError
        If there is no such file, or it is damaged.
    """
    try:
        # Opened here, since numpy leaves the file open where it is no archive.
        with (folder / TAKEN_FILE).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            found = {int(name.removeprefix("slice_")): kept[name] for name in kept.files}
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise ValueError(f"{TAKEN_FILE} is damaged: {error}") from error
    for mask in found.values():
        mask.flags.writeable = False
    return found
