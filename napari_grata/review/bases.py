"""Which mask a drawing was made over, kept beside the drawings of a case."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from napari_grata.scans.files import write_json

BASES_FILE = "edit-bases.json"


def mask_digest(mask: np.ndarray) -> str:
    """Return a fingerprint of a label map or stack: 16 hexadecimal digits."""
    plain = np.ascontiguousarray(mask, dtype=np.uint8)
    found = hashlib.sha256(repr(plain.shape).encode())
    found.update(plain.data)
    return found.hexdigest()[:16]


def read_bases(folder: Path) -> dict[int, str]:
    """Return the fingerprint of the mask under each version of a drawing, as far as known."""
    try:
        values = json.loads((Path(folder) / BASES_FILE).read_text(encoding="utf-8"))
        return {int(version): str(digest) for version, digest in values.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def write_base(folder: Path, version: int, digest: str) -> None:
    """Note the mask under a version, before that version itself is written.

    Raises
    ------
    OSError
    """
    known = {**read_bases(folder), version: digest}
    write_json(Path(folder) / BASES_FILE, {str(v): d for v, d in sorted(known.items())})
