"""Hundreds of made-up files of each kind: right by somebody else's library, or refused."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections import Counter
from math import inf
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.generators import attempt

EXAMPLES = {
    "nifti": 250,
    "photographs": 250,
    "masks": 100,
    "cards": 100,
    "weights": 150,
    "dicom": 150,
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_made_up_inputs_are_read_rightly_or_refused_with_a_sentence(kind):
    if kind == "dicom":
        pytest.importorskip("pydicom", reason="needs the extra dicom")
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES[kind],
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(random=st.randoms(use_true_random=False))
    def try_one(random: Random) -> None:
        folder = Path(tempfile.mkdtemp())
        try:
            with warnings.catch_warnings():
                # Of the libraries, about damaged files; none of them ends in a wrong picture.
                warnings.simplefilter("ignore")
                outcome = attempt(kind, random, folder, slow_seconds=inf)
        finally:
            shutil.rmtree(folder)
        outcomes[outcome.result] += 1
        assert outcome.result in ("right", "refused"), outcome.detail

    try_one()
    assert min(outcomes["right"], outcomes["refused"]) > EXAMPLES[kind] / 10, outcomes
