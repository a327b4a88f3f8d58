"""What the tests of the review room share: the cards of two models."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_grata.review.case_list import CaseList
from napari_grata.segmenters import Card, Structure


@pytest.fixture
def eye() -> Card:
    return Card(
        name="eye",
        title="Eye",
        structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
        channels=3,
    )


@pytest.fixture
def brain() -> Card:
    return Card(
        name="brain",
        title="Brain",
        structures=(Structure("grey", "#56B4E9", 1), Structure("white", "#E69F00", 2)),
        activation="softmax",
        channels=1,
        dimensions=3,
    )


@pytest.fixture
def make_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CaseList]]:
    """Makes a list of so many small photographs, by default among the user's own data."""
    monkeypatch.setenv("NAPARI_GRATA_HOME", str(tmp_path / "home"))
    made: list[weakref.ref[CaseList]] = []

    def make(count: int, folder: Path | None = None) -> CaseList:
        centre = tmp_path / f"centre {len(made)}"
        centre.mkdir()
        for number in range(1, count + 1):
            pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(centre / f"Miller {number}.png")
        found = CaseList.make(centre, folder)
        made.append(weakref.ref(found))
        return found

    yield make
    for known in made:
        if (cases := known()) is not None:
            cases.close()
