"""What the tests of the review room share: the cards of two models."""

from __future__ import annotations

import pytest

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
