"""A run done again: the command line says what was done, and gives the same masks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_grata.adaptation import (
    AdaptationRun,
    Corrections,
    ReopenedRun,
    Settings,
    preset,
    reopen,
)
from napari_grata.cli import main
from napari_grata.review.reproduce import (
    Comparison,
    ReproduceError,
    adapt_command,
    again_command,
    run_again,
)
from napari_grata.scans import open_scan, scan_from_array
from napari_grata.segmenters import load_segmenter
from tools.generators.models import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).integers(0, 255, (60, 70, 5), np.uint8)
    path = tmp_path / "a scan.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def run_once(model: Path, file: Path, folder: Path | None, settings: Settings, **more):
    run = AdaptationRun(
        load_segmenter(model, device="cpu"), open_scan(file), settings, folder=folder, **more
    )
    for _ in run.records():
        pass
    return run


@pytest.mark.parametrize(
    "settings",
    [
        preset("careful").settings,
        Settings(learning_rate=0.03, blend=0.25, passes=2, perturbation=0.1, seed=7),
    ],
)
def test_the_command_line_gives_the_same_masks(
    model: Path, file: Path, tmp_path: Path, settings: Settings
) -> None:
    scan = open_scan(file)
    run = run_once(model, file, None, settings, slices=[3, 1, 2], region=(4, 6, 50, 60))
    line = adapt_command(
        scan,
        str(model),
        settings,
        slices=[3, 1, 2],
        region=(4, 6, 50, 60),
    )
    program, *words, _ = shlex.split(line)
    assert program == "napari-grata"
    assert main([*words, str(tmp_path / "again"), "--device", "cpu", "--quiet"]) == 0
    again = reopen(tmp_path / "again" / "run")
    assert again.settings == settings
    assert again.adapted_masks.keys() == run.adapted_masks.keys()
    for index, mask in run.adapted_masks.items():
        np.testing.assert_array_equal(again.adapted_masks[index], mask)
    again.close()
    run.close()


def test_a_scan_without_a_file_has_no_command_line(model: Path) -> None:
    scan = scan_from_array(np.eye(32, dtype=np.float32)[None], name="painted")
    with pytest.raises(ReproduceError, match="came from no file"):
        adapt_command(scan, str(model), Settings())


def test_images_that_were_read_together_are_all_in_the_command(file: Path, tmp_path: Path) -> None:
    second = tmp_path / "a second.nii.gz"
    second.write_bytes(file.read_bytes())
    scan = open_scan(file).together([open_scan(second)])
    words = shlex.split(adapt_command(scan, "model", Settings()))
    assert words[2] == str(file)
    assert words[words.index("--channel") + 1] == str(second)


def test_a_saved_run_is_done_again_from_the_command_line(
    model: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_once(model, file, tmp_path / "run", Settings(learning_rate=0.02)).close()
    words = shlex.split(again_command(tmp_path / "run"))[1:-1]
    words += [str(tmp_path / "again"), "--model", str(model), "--quiet", "--json"]
    for name in ("run", "run-2"):  # what lies there is never written over
        assert main(words) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["again"] == str(tmp_path / "again" / name)
        assert found["same"]
        assert found["slices"] == 5


def done_again(saved: ReopenedRun, model: Path, folder: Path) -> Comparison:
    *_, found = run_again(saved, load_segmenter(model, device="cpu"), folder)
    return found


def test_a_run_that_went_on_from_another_starts_from_the_same_state(
    model: Path, file: Path, tmp_path: Path
) -> None:
    settings = Settings(learning_rate=0.02)
    first = run_once(model, file, None, settings)
    run_once(model, file, tmp_path / "second", settings, start=first.state).close()
    first.close()
    second = reopen(tmp_path / "second")
    assert done_again(second, model, tmp_path / "again").same
    alone = run_once(model, file, None, settings)
    assert any((alone.adapted_masks[i] != m).any() for i, m in second.adapted_masks.items())
    alone.close()


def test_a_difference_is_counted_and_not_hidden(model: Path, file: Path, tmp_path: Path) -> None:
    run_once(model, file, tmp_path / "run", Settings(learning_rate=0.02)).close()
    saved = reopen(tmp_path / "run")
    changed = saved.adapted_masks[2].copy()
    changed[:2, :3] ^= 1
    saved.adapted_masks[2] = changed
    found = done_again(saved, model, tmp_path / "again")
    assert not found.same
    assert found.different_pixels == 6
    assert "6 pixels differ" in str(found)


def test_a_run_whose_scan_is_gone_says_so(model: Path, file: Path, tmp_path: Path) -> None:
    run_once(model, file, tmp_path / "run", Settings()).close()
    file.unlink()
    with pytest.raises(ReproduceError, match="not found"):
        done_again(reopen(tmp_path / "run"), model, tmp_path / "again")


def test_masks_that_were_chosen_are_neither_compared_nor_called_different(
    model: Path, file: Path, tmp_path: Path
) -> None:
    run = run_once(model, file, tmp_path / "run", Settings(learning_rate=0.02, predict="final"))
    # The others stay as their own steps made them, each with the θ of its turn.
    told = {"used_on": [3], "reviewed": [0, 1, 2], "words": "Recommended.", "record": {}}
    run.choose({3: np.full_like(run.adapted_masks[3], 1)}, [told])
    run.close()
    saved = reopen(tmp_path / "run")
    assert (saved.adapted_masks[3] == 1).all()
    found = done_again(saved, model, tmp_path / "again")
    assert (found.same, found.slices, found.chosen) == (True, len(saved.adapted_masks) - 1, 1)
    assert "run.json" in str(found)
    # Taken to a state of its own, it is compared again, everywhere.
    live = saved.run(load_segmenter(model, device="cpu"))
    live.take(1, {i: live.predict(i, 1).label_map for i in live.adapted_masks})
    live.close()
    saved = reopen(tmp_path / "run")
    found = done_again(saved, model, tmp_path / "again")
    saved.close()
    assert (found.same, found.slices, found.chosen) == (True, len(saved.adapted_masks), 0)


def test_a_run_that_learned_from_corrections_is_done_again_with_them(
    model: Path, file: Path, tmp_path: Path
) -> None:
    first = run_once(model, file, None, Settings(learning_rate=0.02))
    adapted = first.adapted_masks[1]
    shown = adapted.copy()
    shown[10:30, 10:30] = 2
    settings = Settings(learning_rate=0.02, scribble="auxiliary", predict="final")
    run_once(
        model,
        file,
        tmp_path / "taught",
        settings,
        start=first.state,
        corrections=Corrections.of_slice(1, shown, adapted),
    ).close()
    first.close()
    saved = reopen(tmp_path / "taught")
    assert done_again(saved, model, tmp_path / "again").same
    assert reopen(tmp_path / "again").info["continued"]
    assert saved.run(load_segmenter(model, device="cpu")).continued


def test_a_run_that_was_finished_early_and_taken_back_is_done_again_the_same_way(
    model: Path, file: Path, tmp_path: Path
) -> None:
    run = AdaptationRun(
        load_segmenter(model, device="cpu"),
        open_scan(file),
        Settings(learning_rate=0.05, predict="final"),
        folder=tmp_path / "run",
    )
    stream = run.records()
    for _ in range(3):
        next(stream)
    stream.close()
    for _ in run.finish():
        pass
    run.take(1, {i: run.predict(i, 1).label_map for i in run.adapted_masks})
    run.close()
    saved = reopen(tmp_path / "run")
    assert (saved.info["cut"], saved.taken) == (3, 1)
    assert done_again(saved, model, tmp_path / "again").same
    assert reopen(tmp_path / "again").taken == 1
