"""DICOM folders in the dock: series are looked for in the background, and one is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QInputDialog

pytest.importorskip("pydicom")

from tools.generators.dicom import classic


def voxels(slices: int) -> np.ndarray:
    return np.random.default_rng(slices).integers(0, 1000, (slices, 24, 20), dtype=np.uint16)


def test_the_only_series_of_a_folder_opens(start: Any, tmp_path: Path) -> None:
    user = start()
    classic(voxels(5), tmp_path / "study", description="Head")
    user.dock.scan.open_series(str(tmp_path / "study"))
    user.wait(lambda: user.context.scan is not None)
    assert user.context.scan.n_slices == 5
    assert "study" not in user.context.layer.name
    assert user.context.problem == ""


def test_of_several_series_the_user_takes_one(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = start()
    classic(voxels(5), tmp_path / "study" / "a", series=3, description="Head")
    classic(voxels(7), tmp_path / "study" / "b", series=4, description="Neck")
    asked: list[list[str]] = []

    def choose(parent: Any, title: str, label: str, items: list[str], *rest: Any) -> Any:
        asked.append(items)
        return items[1], True

    monkeypatch.setattr(QInputDialog, "getItem", choose)
    user.dock.scan.open_series(str(tmp_path / "study"))
    user.wait(lambda: user.context.scan is not None)
    assert user.context.scan.n_slices == 7
    (words,) = asked
    assert ["Head" in words[0], "Neck" in words[1], "7 images" in words[1]] == [True] * 3


def test_a_folder_without_series_is_answered_in_words(start: Any, tmp_path: Path) -> None:
    user = start()
    (tmp_path / "note.txt").write_text("nothing")
    user.dock.scan.open_series(str(tmp_path))
    user.wait(lambda: user.context.problem)
    assert "no DICOM series" in user.context.problem
    assert user.context.scan is None
