"""Lists from the command line: adapt all, go on, report, decided masks."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_grata.adaptation import reopen
from napari_grata.cli import main
from napari_grata.review.case_list import CaseList
from napari_grata.segmenters import build_network, write_model
from tools.generators.models import DISC_AND_CUP, tiny_card, write_tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny", structures=DISC_AND_CUP[:1])


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        data = rng.integers(0, 255, (40, 48, 2), np.uint8)
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"{name}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> Any:
    assert main([str(word) for word in words] + ["--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder_is_adapted_reported_and_its_decided_masks_taken_out(
    model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, "cases", scans, "--model", model, "--list", tmp_path / "list")
    assert (found["cases"], found["adapted"], len(found["failed"])) == (3, 2, 1)
    caselist = CaseList.load(tmp_path / "list")
    done = next(case.key for case in caselist.cases if case.title.startswith("one"))
    caselist.decide(done, "accept", mask=caselist.mask_now(done))
    caselist.close()

    report = run(capsys, "report", tmp_path / "list", "--out", tmp_path / "r.html")
    assert report["cases"] == 3
    assert done in (tmp_path / "r.html").read_text(encoding="utf-8")

    masks = run(capsys, "masks", tmp_path / "list", "--out", tmp_path / "masks")
    assert set(masks["masks"]) == {done}
    assert (tmp_path / "masks" / f"{done}.nii.gz").is_file()
    assert len(masks["without"]) == 2


def test_what_is_done_is_not_done_again(
    model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "cases", scans, "--model", model, "--list", tmp_path / "list")
    first = sorted((tmp_path / "list").rglob("run-*"))
    run(capsys, "cases", scans, "--model", model, "--list", tmp_path / "list")
    assert sorted((tmp_path / "list").rglob("run-*")) == first


def test_a_list_in_the_users_data_is_found_by_its_scans(
    model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "cases", scans, "--model", model)
    assert run(capsys, "report", scans, "--out", tmp_path / "r.html")["cases"] == 3


def test_a_folder_that_no_list_was_made_of_is_a_sentence(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(scans), "--out", str(tmp_path / "r.html")]) == 2
    assert "Make one with napari-grata cases" in capsys.readouterr().err


def test_what_a_few_slices_of_one_scan_decide_is_used_on_the_others_of_its_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    card = tiny_card(structures=DISC_AND_CUP[:1])
    network = build_network(card)
    with torch.no_grad():
        network.seg_head.bias -= network.eval()(torch.rand(1, 1, 64, 64)).mean()
    model = tmp_path / "tiny"
    write_model(model, card, network)
    folder, rng = tmp_path / "scans", np.random.default_rng(0)
    folder.mkdir()
    for name in ("one", "two"):
        data = rng.integers(0, 255, (40, 48, 6), np.uint8)
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"{name}.nii.gz")
    kept = tmp_path / "list"
    run(capsys, "cases", folder, "--model", model, "--list", kept)
    common = ("choose", folder / "one.nii.gz", "--model", model, "--presets", "batch-norm")
    common = (*common, "--no-teach")
    run(capsys, *common, "--out", tmp_path / "ask")
    wrong = [*map(str, common), "--out", str(tmp_path / "x"), "--list", str(kept)]
    assert main(wrong) == 2  # nothing is reviewed
    assert "--list goes with --reviewed" in capsys.readouterr().err
    better = tmp_path / "ask" / "runs" / "batch-norm" / "adapted.nii.gz"
    reviewed = ("--reviewed", better, "--reviewed-slices", "1,2,4,6")
    holds = "import sys; from napari_grata.review import CaseList; c = CaseList.load(sys.argv[1])"
    words = [sys.executable, "-c", f"{holds}; print(flush=True); input()", str(kept)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as dock:
        assert dock.stdout is not None
        dock.stdout.readline()
        assert main([*wrong, *map(str, reviewed)]) == 2  # else nothing is kept, and nobody told
        assert "open" in capsys.readouterr().err
        dock.communicate("\n")
    told = run(capsys, *common, "--out", tmp_path / "out", *reviewed, "--list", kept)
    assert told["changes"], told["words"]
    run(capsys, "cases", folder, "--model", model, "--list", kept)
    caselist = CaseList.load(kept)
    second = next(case for case in caselist.cases if case.title.startswith("two"))
    with closing(reopen(caselist.work(second).run_folder)) as found:
        (one,) = found.chosen
    assert (one["case"], one["reviewed"]) == ("case 1", [0, 1, 3, 5])
    caselist.close()
