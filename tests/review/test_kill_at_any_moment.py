"""Killed at any moment: what was acknowledged is there, and no file is half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_grata.adaptation import reopen
from napari_grata.review.case_list import CaseList, is_finished
from napari_grata.scans import open_scan, read_mask

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
ROUNDS = 40
CASES = 4

# A worker is forked for each round, so that torch is loaded once. What it has been told is done
# it writes down with one write call to a file of its own.
PROGRAM = """
    import os, sys
    from pathlib import Path
    import numpy as np
    import torch
    torch.set_num_threads(1)
    from napari_grata.adaptation import AdaptationRun, Settings
    from napari_grata.review.adapt_list import work_on_case
    from napari_grata.review.case_list import CaseList
    from napari_grata.review.cases import CaseSummary
    from napari_grata.scans import open_scan
    from napari_grata.segmenters import (
        Card, Structure, build_network, load_segmenter, register_network, write_model
    )
    folder, model, acks = (Path(argument) for argument in sys.argv[1:4])

    def tiny(outputs, channels):
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(), torch.nn.Conv2d(4, outputs, 1),
        )

    register_network("test-kill", tiny)
    card = Card(
        name="tiny", title="Tiny", structures=(Structure("spot", "#56B4E9", 1),),
        architecture="test-kill", channels=1, dimensions=3, modality="T1", size=(32, 32),
        weights_sha256="0" * 64,
    )
    write_model(model, card, build_network(card))
    segmenter = load_segmenter(model, device="cpu")

    def work(number):
        cases = CaseList.load(folder)
        assert cases.writable, cases.read_only
        report = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        def done(*words):
            os.write(report, (" ".join(map(str, words)) + chr(10)).encode())
        settings = Settings(learning_rate=1e-3, predict="average")
        scans = [open_scan(case.sources[0]) for case in cases.cases]
        turn = 0
        while True:
            turn += 1
            case = cases.cases[turn % len(cases)]
            scan = scans[turn % len(cases)]
            verdict = ("accept", "reject", "edit")[turn % 3]
            made = cases.decide(case.key, verdict, mask=cases.mask_now(case))
            done("decision", made.number, case.key, verdict)
            if (number + turn) % 3 == 0:
                undone = cases.undo()
                done("undo", undone.number)
            cases.position = case.key
            value = 1 + (number * 31 + turn) % 250
            version = cases.work(case).save_edit(np.full(scan.mask_shape, value, np.uint8), scan)
            done("edit", case.key, version, value)
            items = work_on_case(cases, case, segmenter, settings)
            if turn % 4 == 3:
                next(items), next(items), next(items)
                items.close()
                continue
            summary = None
            for summary in items:
                pass
            assert summary.error is None, summary.error
            done("run", case.key, summary.run, summary.seconds)

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                work(int(line))
            except BaseException as error:
                import traceback
                traceback.print_exc()
            finally:
                os._exit(1)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "centre"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(CASES):
        data = rng.normal(100, 20, (24, 28, 3)).astype(np.float32)
        data[8:16, 8:20] += 100
        nib.save(
            nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])),
            folder / f"scan {number + 1}.nii.gz",
        )
    return folder


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_every_file_is_whole(
    tmp_path: Path, scans: Path, quick_disk: Path
) -> None:
    # What was written is there after a kill on any disk, forced to it or not.
    cases = CaseList.make(scans, quick_disk / "list")
    cases.carry = True
    cases.close()
    acks = tmp_path / "acks"
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(PROGRAM),
            str(cases.folder),
            str(tmp_path / "model"),
            str(acks),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    rng = random.Random(4)
    told: list[list[str]] = []
    try:
        assert program.stdout.readline().strip() == "ready"
        for number in range(ROUNDS):
            before = len(acks.read_bytes().splitlines()) if acks.exists() else 0
            program.stdin.write(f"{number}\n")
            program.stdin.flush()
            worker = int(program.stdout.readline())
            # Somewhere among its first dozen acknowledged works, whatever the machine's speed.
            wait_for_works(acks, before + rng.randint(1, 12))
            time.sleep(rng.uniform(0, 0.06))
            os.kill(worker, signal.SIGKILL)
            status = int(program.stdout.readline())
            assert os.WIFSIGNALED(status), "the worker failed before it was killed"
            told = [line.split() for line in acks.read_text().splitlines()]
            check(cases.folder, told, number)
    finally:
        program.kill()
        errors = program.communicate()[1]
        if errors:
            print(errors)
    kinds = {words[0] for words in told}
    assert kinds == {"decision", "undo", "edit", "run"}
    leftovers_go_in_time(cases.folder)


def wait_for_works(acks: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while not acks.exists() or len(acks.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline, "the worker does not go on"
        time.sleep(0.002)


def check(folder: Path, told: list[list[str]], turn: int) -> None:
    cases = CaseList.load(folder)
    try:
        assert cases.read_only is None
        assert len(cases) == CASES
        assert cases.position is not None
        assert cases.carry
        made = {decision.number: decision for decision in cases.history}
        drawn: dict[str, list[tuple[int, int]]] = {}
        for kind, *words in told:
            if kind == "decision":
                number, key, verdict = words
                assert (made[int(number)].case, made[int(number)].verdict) == (key, verdict)
            elif kind == "undo":
                assert made[int(words[0])].undone
            elif kind == "edit":
                drawn.setdefault(words[0], []).append((int(words[1]), int(words[2])))
            elif kind == "run":
                key, run, _seconds = words
                assert is_finished(cases.work(key).folder / run)
                summary = cases.summary(key)
                assert summary is not None
                assert summary.adapted
                assert summary.run >= run
        for key, versions in drawn.items():
            work = cases.work(key)
            scan = open_scan(cases.case(key).sources[0])
            last, last_value = versions[-1]
            labels = work.edit(scan, last)
            assert labels is not None
            assert (labels == last_value).all()
            assert {number for number, _ in versions} <= {entry.number for entry in work.edits}
            assert work.notices == []
        assert cases.notices == [], turn
        if turn % 5 == 4:
            read_everything(cases)
    finally:
        cases.close()


def read_everything(cases: CaseList) -> None:
    for path in cases.folder.rglob("*"):
        if path.name.startswith(".partial-") or not path.is_file():
            continue
        if path.suffix == ".json":
            assert isinstance(json.loads(path.read_bytes()), dict), path
        elif path.suffix == ".png":
            Image.open(path).verify()
    for case in cases.cases:
        scan = open_scan(case.sources[0])
        work = cases.work(case)
        for entry in work.edits:
            assert work.edit(scan, entry.number) is not None
        for run in work.run_folders():
            if (run / "run.json").exists():
                found = reopen(run, scan)
                found.close()
                for name in ("source", "adapted"):
                    mask = run / f"{name}.nii.gz"
                    if is_finished(run) or mask.exists():
                        read_mask(mask, scan)
            if is_finished(run):
                assert set(found.adapted_masks) == set(range(scan.n_slices))


def leftovers_go_in_time(folder: Path) -> None:
    """What the killed workers left half-written is cleared away once it is old."""
    for path in folder.rglob(".partial-*"):
        os.utime(path, (1, 1))
    cases = CaseList.load(folder)
    # A run that was broken off is cleared when its case is gone on with.
    left = [path for path in folder.rglob(".partial-*") if not path.parent.name.startswith("run-")]
    assert left == []
    cases.close()
