"""The run folders of a case: which one counts, and what a decision on it rests on."""

from __future__ import annotations

import re
from pathlib import Path

from napari_grata.adaptation.run_store import RunFolderError, read_info

from .decisions import Fact, digest

_RUN = re.compile(r"^run-(\d{4,})(-\d+)?$")


def is_run(path: Path) -> bool:
    """Whether a folder's name is that of a run of a case."""
    return _RUN.match(path.name) is not None


def is_finished(folder: Path) -> bool:
    """Whether a run folder's run came to its end, even if it was rolled back since."""
    try:
        info = read_info(folder)
    except RunFolderError:
        return False
    return info["state"] == "finished" or info["count"] >= info["total"]


def step_in_use(folder: Path) -> int:
    """Return after how many optimiser steps a run's masks in use were taken.

    Raises
    ------
    OSError, ValueError
        If the folder cannot be read.
    """
    return read_info(folder)["step"]


def run_order(path: Path) -> tuple[int, int]:
    """Return the number of a run folder, to sort by."""
    match = _RUN.match(path.name)
    assert match is not None
    return int(match[1]), int((match[2] or "-0")[1:])


def run_facts(folder: Path) -> dict[str, Fact]:
    """Return what a decision on a run's masks rests on.

    Raises
    ------
    OSError, ValueError, KeyError, TypeError
        If the folder cannot be read.
    """
    info = read_info(folder)
    return {
        "run": folder.name,
        "model": str(info["model"]["name"]),
        "weights_sha256": str(info["model"]["weights_sha256"]),
        "settings": digest(info["settings"]),
        "scan_sha256": str(info["scan"]["sha256"]),
        "step": step_in_use(folder),
    }
