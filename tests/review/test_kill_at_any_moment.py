"""Killed at any moment: what was acknowledged is there, and no file is half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from napari_grata.review.case_list import CaseList
from tools.endure import kill

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_every_file_is_whole(
    quick_disk: Path,
) -> None:
    # What was written is there after a kill on any disk, forced to it or not.
    found = kill(quick_disk / "killed", 20)
    assert found.keys() == {"killed", "decision", "undo", "edit", "run"}
    leftovers_go_in_time(quick_disk / "killed" / "list")


def leftovers_go_in_time(folder: Path) -> None:
    """What the killed workers left half-written is cleared away once it is old."""
    for path in folder.rglob(".partial-*"):
        os.utime(path, (1, 1))
    cases = CaseList.load(folder)
    # A run that was broken off is cleared when its case is gone on with.
    left = [path for path in folder.rglob(".partial-*") if not path.parent.name.startswith("run-")]
    assert left == []
    cases.close()
