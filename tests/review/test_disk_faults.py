"""A disk that fails at any call, as SQLite sees it: what was acknowledged is there afterwards."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.endure import Faults, compiled, kill


@pytest.fixture
def faults(quick_disk: Path) -> Iterator[Faults]:
    library = compiled("disk_faults", quick_disk)
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    made = Faults(quick_disk / "faults", library)
    yield made
    made.close()


def test_after_any_call_that_fails_all_that_was_acknowledged_is_there_and_it_goes_on(
    faults: Faults,
) -> None:
    for what, places in (("review", 10), ("run", 20)):
        calls = faults.calls[what]
        assert calls > 100
        acknowledged = []
        for place in range(places):
            # 1 to the last; each error once and for good in turns.
            at = 1 + place * (calls - 1) // (places - 1)
            code = (errno.ENOSPC, errno.EIO)[place % 2]
            acknowledged.append(faults.fail(what, at, code, for_good=place % 4 < 2))
        assert acknowledged[0] < max(acknowledged)


def test_after_the_power_went_what_was_acknowledged_is_there(quick_disk: Path) -> None:
    library = compiled("disk_power", quick_disk)
    if library is None:
        pytest.skip("needs Linux and a C compiler")
    found = kill(quick_disk / "power", 10, power=library)
    assert found["killed"] == 10
    assert found["decision"] > 10
