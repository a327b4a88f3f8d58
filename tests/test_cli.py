"""The verbs of the command line, on the bundled models and samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_grata.cli import VERBS, main
from napari_grata.console import parse_region
from napari_grata.scans import open_scan, read_mask
from napari_grata.scans.samples import find_sample


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``adapt`` writes for one photograph and for a few slices of a volume."""
    out = tmp_path_factory.mktemp("adapted")
    fundus, brain = find_sample("fundus-disc").path, find_sample("brain-other-scanner").path
    common = ["--quiet", "--json", "--device", "cpu"]
    photograph = ["adapt", str(fundus), "--model", "fundus-disc-cup", "--out", str(out / "eye")]
    volume = ["adapt", str(brain), "--model", "brain-tissue-t1", "--out", str(out / "head")]
    assert main([*photograph, *common]) == 0
    assert main([*volume, "--slices", "24-26", "--method", "as-published", *common]) == 0
    return out


def test_adapt_writes_both_masks_the_run_and_the_plots(adapted: Path) -> None:
    for name in ("source.png", "adapted.png", "curves.png", "before_after.png", "run/steps.csv"):
        assert (adapted / "eye" / name).stat().st_size > 0, name
    scan = open_scan(find_sample("fundus-disc").path)
    mask = read_mask(adapted / "eye" / "source.png", scan)
    assert set(np.unique(mask)) == {0, 1, 2}


def test_a_volumes_masks_lie_on_its_grid_and_only_on_the_slices_asked_for(adapted: Path) -> None:
    import nibabel as nib

    path = find_sample("brain-other-scanner").path
    written = nib.load(adapted / "head" / "adapted.nii.gz")
    assert written.shape == nib.load(path).shape
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    mask = read_mask(adapted / "head" / "adapted.nii.gz", open_scan(path))
    assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [23, 24, 25]


def test_nothing_that_exists_is_overwritten(adapted: Path, capsys) -> None:
    before = (adapted / "eye" / "source.png").read_bytes()
    fundus = str(find_sample("fundus-disc").path)
    code = main(["segment", fundus, "--model", "fundus-disc-cup", "--out", str(adapted / "eye")])
    assert code == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (adapted / "eye" / "source.png").read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="files cannot be kept small there")
@pytest.mark.parametrize("room", [None, 40_000])
def test_a_place_that_cannot_be_written_to_is_told_in_a_sentence(
    tmp_path: Path, room: int | None
) -> None:
    (tmp_path / "file").write_text("mine")
    scan, out = find_sample("fundus-disc").path, tmp_path / ("file" if room is None else "new")
    limit = "" if room is None else f"r.setrlimit(r.RLIMIT_FSIZE, ({room}, {room}));"
    code = (
        f"import sys, resource as r; {limit} from napari_grata.cli import main; "
        f"sys.exit(main(['adapt', {str(scan)!r}, '--model', 'fundus-disc-cup', '--device', 'cpu', "
        f"'--quiet', '--out', {str(out / 'place')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr
    assert "Choose another" in done.stderr


def test_reopen_tells_and_draws_a_saved_run_again(adapted: Path, tmp_path: Path, capsys) -> None:
    run = str(adapted / "head" / "run")
    assert main(["reopen", run, "--out", str(tmp_path / "again"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "finished"
    assert told["slices"] == 3
    assert told["settings"]["blend"] == 1.0
    first, again = adapted / "head" / "adapted.nii.gz", tmp_path / "again" / "adapted.nii.gz"
    scan = open_scan(find_sample("brain-other-scanner").path)
    np.testing.assert_array_equal(read_mask(first, scan), read_mask(again, scan))


def test_models_lists_shows_and_refuses(capsys) -> None:
    assert main(["models", "--json"]) == 0
    names = [model["name"] for model in json.loads(capsys.readouterr().out)["models"]]
    assert names == ["brain-tissue-t1", "fundus-disc-cup"]
    assert main(["models", "fundus-disc-cup", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["activation"] == "sigmoid"
    assert main(["models", "no-such-model"]) == 2
    assert "no-such-model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-scan.nii.gz", "--model", "brain-tissue-t1"], "no such file"),
        (["{fundus}", "--model", "brain-tissue-t1"], "colour photograph"),
        (["{fundus}", "--model", "fundus-disc-cup", "--set", "blend=7"], "between 0"),
        (["{fundus}", "--model", "fundus-disc-cup", "--set", "bland=0.1"], "bland"),
        (["{fundus}", "--model", "fundus-disc-cup", "--region", "9,9,1,1"], "TOP < BOTTOM"),
        (["{fundus}", "--model", "fundus-disc-cup", "--method", "magic"], "careful"),
        (["{fundus}", "--model", "fundus-disc-cup", "--slices", "7"], "7"),
    ],
)
def test_wrong_input_is_told_in_words(
    arguments: list[str], words: str, tmp_path: Path, capsys
) -> None:
    fundus = str(find_sample("fundus-disc").path)
    filled = [argument.format(fundus=fundus) for argument in arguments]
    assert main(["adapt", *filled, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


def test_a_setting_is_read_as_a_person_writes_it(tmp_path: Path, capsys) -> None:
    fundus = str(find_sample("fundus-disc").path)
    changes = ["--set", "learning-rate=1e-3", "--set", "perturbation=none", "--set", "passes=2"]
    changes += ["--set", "six_views=false", "--set", "reserve=8"]
    arguments = ["adapt", fundus, "--model", "fundus-disc-cup", "--out", str(tmp_path / "out")]
    assert main([*arguments, *changes, "--json", "--quiet"]) == 0
    told = capsys.readouterr()
    assert "With grata these change nothing: reserve." in told.err
    settings = json.loads(told.out)["settings"]
    assert settings["learning_rate"] == 1e-3
    assert settings["perturbation"] is None
    assert settings["passes"] == 2
    assert settings["six_views"] is False


def test_a_region_is_four_numbers() -> None:
    assert parse_region("10,20,300,400") == (10, 20, 300, 400)
    assert parse_region(None) is None


def test_the_headless_demo_compares_with_the_reference(tmp_path: Path, capsys) -> None:
    arguments = ["demo", "--headless", "--sample", "brain-other-scanner", "--method", "batch-norm"]
    assert main([*arguments, "--out", str(tmp_path), "--json", "--quiet"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["samples"]
    assert set(result["dice"]) == {"csf", "grey matter", "white matter"}
    assert min(result["dice"]["grey matter"]) > 0.7
    assert (tmp_path / "brain-other-scanner" / "before_after.png").is_file()


def test_a_second_demo_goes_beside_the_first(tmp_path: Path) -> None:
    from napari_grata.demo import fresh

    first = tmp_path / "demo"
    assert fresh(first) == first
    (first / "something").mkdir(parents=True)
    assert fresh(first) == tmp_path / "demo-2"


def test_every_verb_has_help(capsys) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for verb in VERBS:
        assert f"  {verb} " in told
        assert main([verb, "--help"]) == 0
        assert f"napari-grata {verb}" in capsys.readouterr().out


def test_the_module_is_the_same_command() -> None:
    command = [sys.executable, "-m", "napari_grata", "--version"]
    assert "napari-grata 0" in subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "arguments", [["no-such-verb"], ["adapt"], ["segment", "x", "--model", "y", "--colour", "red"]]
)
def test_a_mistyped_command_is_told_without_a_traceback(arguments: list[str], capsys) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "Error" in told.err
    assert "Traceback" not in told.err


def test_what_is_peculiar_about_a_scan_is_printed(tmp_path: Path, capsys) -> None:
    import nibabel as nib

    from napari_grata.scans import open_scan

    sample = nib.load(find_sample("brain").path)
    image = nib.Nifti1Image(np.asarray(sample.dataobj), None)
    image.header["qform_code"], image.header["sform_code"] = 0, 0
    nib.save(image, tmp_path / "scan.nii.gz")
    notices = open_scan(tmp_path / "scan.nii.gz").notices
    assert any("how the patient lies" in notice for notice in notices)
    arguments = ["segment", str(tmp_path / "scan.nii.gz"), "--model", "brain-tissue-t1"]
    arguments += ["--slices", "20", "--device", "cpu", "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*arguments, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["slices"] == 1
    for notice in notices:
        assert notice in told.err


def test_a_whole_photograph_under_a_model_of_disc_regions_is_doubted(
    tmp_path: Path, capsys
) -> None:
    for sample, doubted in (("fundus-whole", True), ("fundus-disc", False)):
        arguments = ["segment", str(find_sample(sample).path), "--model", "fundus-disc-cup"]
        out = ["--out", str(tmp_path / sample), "--device", "cpu", "--quiet"]
        assert main([*arguments, *out]) == 0
        assert ("disc" in capsys.readouterr().err) is doubted


def test_masks_of_a_list_are_named_by_number_unless_asked_otherwise(tmp_path: Path, capsys) -> None:
    from PIL import Image

    picture = Image.open(find_sample("fundus-disc").path)
    (tmp_path / "eyes").mkdir()
    for name in ("Doe_John", "Roe_Jane"):
        picture.save(tmp_path / "eyes" / f"{name}.png")
    arguments = ["segment", str(tmp_path / "eyes"), "--model", "fundus-disc-cup", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "a"), "--device", "cpu"]) == 0
    assert "Doe" not in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "a" / "source").iterdir())
    assert names == ["case-0001.png", "case-0002.png"]
    named = ["--out", str(tmp_path / "b"), "--device", "cpu", "--scan-names"]
    assert main([*arguments, *named]) == 0
    names = sorted(path.name for path in (tmp_path / "b" / "source").iterdir())
    assert names == ["Doe_John.png", "Roe_Jane.png"]


def test_a_failure_that_nobody_foresaw_is_a_line_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from napari_grata import segmenters

    def broken() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(segmenters, "list_models", broken)
    assert main(["models"]) == 1
    assert (
        capsys.readouterr().err == "napari-grata: RuntimeError: two lines (--debug shows where)\n"
    )
    assert main(["models", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_finished(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from napari_grata import segmenters

    def stopped() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(segmenters, "list_models", stopped)
    assert main(["models"]) == 130
    assert "What was finished is kept." in capsys.readouterr().err


def test_a_few_reviewed_slices_are_asked_for_and_decide(tmp_path: Path, capsys) -> None:
    sample = find_sample("brain-other-scanner")
    common = ["choose", str(sample.path), "--model", sample.model, "--presets", "batch-norm"]
    common += ["--slices", "24-27", "--quiet", "--json", "--device", "cpu", "--no-teach"]
    assert main([*common, "--out", str(tmp_path / "ask")]) == 0
    asked = json.loads(capsys.readouterr().out)["proposed"]
    assert len(asked) == 3
    assert set(asked) <= {24, 25, 26, 27}
    out = tmp_path / "out"
    review = ["--reviewed", str(sample.reference)]
    assert main([*common, "--out", str(out), *review]) == 2
    assert "Which slices" in capsys.readouterr().err
    assert main([*common, "--out", str(out), *review, "--reviewed-slices", "30"]) == 2
    assert "not among --slices: 30" in capsys.readouterr().err
    named = ",".join(map(str, asked))
    assert main([*common, "--out", str(out), *review, "--reviewed-slices", named]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["reviewed"] == sorted(asked)
    assert not told["changes"]
    assert "do not show that anything is better" in told["words"]
    for name in ("choice.json", "choice.csv", "choice.png", "source.nii.gz"):
        assert (out / name).stat().st_size > 0, name
    scan = open_scan(sample.path)
    source, chosen, truth = (
        read_mask(path, scan)
        for path in (out / "source.nii.gz", out / "chosen.nii.gz", sample.reference)
    )
    for index in range(23, 27):
        # What a person made stays; the rest is the source model's.
        wanted = truth if index + 1 in asked else source
        np.testing.assert_array_equal(chosen[index], wanted[index])
