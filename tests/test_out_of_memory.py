"""Memory that runs out at any call of PyTorch: a sentence, and nothing that was told of is lost."""

from __future__ import annotations

from collections import Counter
from math import inf
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from napari_grata.cli import main
from napari_grata.scans import scan_from_array
from napari_grata.segmenters import load_segmenter
from napari_grata.segmenters.segmenter import OutOfMemoryError
from tools.generators import attempt
from tools.generators.memory import ERRORS, RunsOut
from tools.generators.models import write_tiny


def test_a_run_that_memory_runs_out_in_keeps_its_steps_and_can_go_on(quick_disk: Path) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(25):
        outcome = attempt("memory", Random(number), quick_disk / str(number), slow_seconds=inf)
        assert outcome.result in ("right", "refused"), (number, outcome.detail)
        outcomes[outcome.result] += 1
    assert outcomes["refused"] > 15


def test_loading_and_segmenting_in_python_say_in_a_sentence_that_memory_ran_out(
    tmp_path: Path,
) -> None:
    model = write_tiny(tmp_path / "model")
    pixels = np.random.default_rng(0).random((2, 32, 32))
    scan = scan_from_array(pixels, name="volume", affine=np.eye(4))

    def work() -> None:
        list(load_segmenter(model, "cpu").predict(scan))

    with RunsOut(0) as count:
        work()
    for at in range(1, count.calls + 1, 17):
        said = pytest.raises(OutOfMemoryError, match="not enough memory")
        with said, RunsOut(at, ERRORS[at % 3], for_good=True):
            work()


def test_the_command_line_says_in_a_sentence_that_memory_ran_out_wherever_it_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny(tmp_path / "model", dimensions=2, channels=3, modality="fundus")
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")

    def run(verb: str, out: str) -> int:
        scan = str(tmp_path / "scan.png")
        arguments = [verb, scan, "--model", str(model), "--out", str(tmp_path / out)]
        return main([*arguments, "--device", "cpu", "--quiet"])

    for verb in ("segment", "adapt"):
        with RunsOut(0) as count:
            assert run(verb, f"{verb} calm") == 0
        capsys.readouterr()
        for part in range(1, 6):
            at = part * count.calls // 6
            with RunsOut(at, ERRORS[part % 3], for_good=True):
                assert run(verb, f"{verb} {part}") == 1, at
            (told,) = capsys.readouterr().err.splitlines()
            assert told.startswith("napari-grata: There is not enough memory"), (at, told)
            assert told.endswith(".")
