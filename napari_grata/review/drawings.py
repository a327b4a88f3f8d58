"""What a reviewer drew, packed for the disk with its checksum and what it was drawn on."""

from __future__ import annotations

import hashlib
import io
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_grata.adaptation.run_files import fingerprint

from .casefinding import ListError

if TYPE_CHECKING:
    from napari_grata.scans import Scan


def pack(stack: np.ndarray, scan: Scan) -> bytes:
    """Return a label stack, shape ``scan.mask_shape``, as the bytes of an ``.npz`` file.

    Raises
    ------
    ListError
        If it is no mask of this scan.
    """
    stack = np.asarray(stack)
    if tuple(stack.shape) != tuple(scan.mask_shape) or stack.dtype.kind not in "bui":
        raise ListError(
            f"This mask ({stack.dtype}, {stack.shape}) is not one of the scan "
            f"({tuple(scan.mask_shape)}). Draw on a mask of this case."
        )
    if stack.size and not 0 <= int(stack.min()) <= int(stack.max()) <= 65535:
        raise ListError("The mask's values do not lie between 0 and 65535.")
    small = not stack.size or int(stack.max()) <= 255
    labels = np.ascontiguousarray(stack, dtype=np.uint8 if small else np.uint16)
    about = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "sha256": hashlib.sha256(labels.tobytes()).hexdigest(),
        "scan_sha256": fingerprint(scan),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, labels=labels, about=np.array(json.dumps(about)))
    return buffer.getvalue()


def unpack(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what `pack` made: the labels, and what is said about them.

    Raises
    ------
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile
        If the file is damaged.
    """
    # Through memory: NumPy leaves the file of a damaged archive open.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        labels = file["labels"]
        about = json.loads(str(file["about"]))
    if hashlib.sha256(labels.tobytes()).hexdigest() != about["sha256"]:
        raise ValueError("the numbers are not those that were saved")
    return labels, about
