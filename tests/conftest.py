"""What every test may ask for."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_USERS = itertools.count()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real labelled scans; skips where it is not on this machine."""
    named = os.environ.get("NAPARI_GRATA_DATA")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for candidate in ([Path(named)] if named else []) + [beside]:
        if candidate.is_dir():
            return candidate
    pytest.skip(
        f"real scans are not on this machine: neither NAPARI_GRATA_DATA nor {beside} is a folder"
    )


@pytest.fixture(autouse=True)
def _own_user_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    """Keep tests away from the person's own models and settings."""
    # By a counter: mktemp looks through thousands of folders for the next number.
    home = tmp_path_factory.getbasetemp() / f"user-{next(_USERS)}"
    home.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(home / "grata"))


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is such a thing: for tests that write thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)
