"""The run folder: what is in it, what survives a crash, what comes back."""

from __future__ import annotations

import csv
import json
from dataclasses import fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_grata.adaptation import (
    AdaptationRun,
    Record,
    RunFolderError,
    Settings,
    read_info,
    reopen,
)
from napari_grata.scans import Scan, open_scan, read_mask, scan_from_array
from napari_grata.segmenters import Segmenter, build_network, load_segmenter
from tools.generators.models import tiny_card, write_tiny

LEARN = Settings(learning_rate=0.02)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def segmenter(model: Path) -> Segmenter:
    return load_segmenter(model, device="cpu")


def done(
    segmenter: Segmenter, scan: Scan, folder: Path, **options: object
) -> tuple[AdaptationRun, list[Record]]:
    run = AdaptationRun(segmenter, scan, LEARN, folder=folder, **options)
    records = list(run.records())
    run.close()
    return run, records


@pytest.fixture
def file(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).integers(0, 255, (60, 70, 4), np.uint8)
    path = tmp_path / "Miller_Anna.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def test_a_folder_holds_settings_versions_steps_and_masks_on_the_scans_grid(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    scan = open_scan(file)
    run, records = done(segmenter, scan, tmp_path / "run", region=(5, 5, 60, 60))
    info = json.loads((run.folder / "run.json").read_text())
    assert info["state"] == "finished"
    assert Settings.from_dict(info["settings"]) == LEARN
    assert info["model"]["weights_sha256"] == segmenter.card.weights_sha256
    assert {"torch", "numpy", "python", "napari_grata"} <= set(info["versions"])
    assert (info["slices"], info["region"], info["seed"]) == ([0, 1, 2, 3], [5, 5, 60, 60], 0)
    assert read_info(run.folder)["settings"] == info["settings"]
    with (run.folder / "steps.csv").open(encoding="utf-8-sig", newline="") as file_:
        rows = list(csv.DictReader(file_))
    assert [float(row["cosine"]) for row in rows] == [record.cosine for record in records]
    assert [row["flags"] for row in rows] == ["; ".join(f.code for f in r.flags) for r in records]
    adapted = read_mask(run.folder / "adapted.nii.gz", scan)
    source = read_mask(run.folder / "source.nii.gz", scan)
    for record in records:
        assert np.array_equal(scan.get_mask(adapted, record.slice_index), record.adapted_mask)
        assert np.array_equal(scan.get_mask(source, record.slice_index), record.source_mask)


def test_only_one_file_knows_the_scans_name(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    run, _ = done(segmenter, open_scan(file), tmp_path / "run", slices=[1])
    knowing = [path.name for path in run.folder.rglob("*") if b"Miller" in path.read_bytes()]
    assert knowing == ["scan.json"]
    assert not [path for path in run.folder.rglob("*") if "Miller" in path.name]


def test_a_run_from_memory_that_is_kept_is_as_one_that_was_kept_all_along(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    runs = [
        AdaptationRun(segmenter, open_scan(file), LEARN, folder=folder)
        for folder in (tmp_path / "kept", None)
    ]
    for run in runs:
        list(run.records())
    runs[1].keep(tmp_path / "later")
    layers = [record.layer_cosines for record in runs[1].past.without_masks()]
    assert layers[-1]
    assert all(-1 <= value <= 1 for value in layers[-1].values())
    assert np.array_equal(runs[1].past.theta(2), runs[0].past.theta(2))
    for run in runs:
        run.close()
    first, second = (reopen(run.folder) for run in runs)
    assert second.state == "finished"
    assert not second.missing
    assert {**first.info, "started": "", "ended": ""} == {**second.info, "started": "", "ended": ""}
    for name in ("source_masks", "adapted_masks"):
        one, other = getattr(first, name), getattr(second, name)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[index], other[index]) for index in one)
    for one, other in zip(
        first.records.without_masks(), second.records.without_masks(), strict=True
    ):
        assert one.layer_cosines == other.layer_cosines
        assert one.cosine == other.cosine
    go_on = second.run(segmenter)
    go_on.rollback(2)
    assert [record.step for record in go_on.resume()] == [3, 4]
    go_on.close()
    first.close()


def test_masks_of_photographs_are_numbered_not_named(tmp_path: Path, segmenter: Segmenter) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for name, size in (("Anna", (80, 70)), ("Berta", (64, 90))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    described = tiny_card(channels=3, dimensions=2, modality="fundus", weights_sha256="0" * 64)
    scan = open_scan(folder)
    eyes = Segmenter(described, build_network(described), "cpu")
    run, records = done(eyes, scan, tmp_path / "run")
    names = {path.name for path in (run.folder / "adapted").iterdir()}
    assert names == {"case-0001.png", "case-0002.png"}
    with Image.open(run.folder / "adapted" / "case-0002.png") as image:
        assert np.array_equal(np.array(image), records[1].adapted_mask)
    found = reopen(run.folder)
    assert found.scan is not None
    assert [found.scan.slice_name(i) for i in range(2)] == ["Anna", "Berta"]
    assert np.array_equal(found.adapted_masks[1], records[1].adapted_mask)
    found.close()


def test_a_run_never_writes_into_a_folder_that_holds_something(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    scan = open_scan(file)
    folders = []
    for _ in range(3):
        run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run", slices=[0])
        list(run.records())
        run.close()
        folders.append(run.folder.name)
    assert folders == ["run", "run-2", "run-3"]
    (tmp_path / "file").write_text("mine")
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "file", slices=[0])
    assert run.folder.name == "file-2"
    run.close()
    with pytest.raises(RunFolderError, match="Choose another place"):
        AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "file" / "run")


def assert_equal(first: Record, second: Record) -> None:
    for entry in fields(Record):
        a, b = getattr(first, entry.name), getattr(second, entry.name)
        if isinstance(a, np.ndarray):
            assert np.array_equal(a, b), entry.name
        elif entry.name == "seconds":
            assert a == pytest.approx(b, abs=1e-3)
        else:
            assert repr(a) == repr(b), entry.name


def test_records_come_back_as_they_were(segmenter: Segmenter, file: Path, tmp_path: Path) -> None:
    settings = LEARN.but(predict="average", passes=2)
    run = AdaptationRun(segmenter, open_scan(file), settings, folder=tmp_path / "run")
    records = list(run.records())
    run.close()
    found = reopen(run.folder)
    assert (found.settings, found.state, found.slices) == (settings, "finished", [0, 1, 2, 3])
    assert found.card == segmenter.card
    for record, again in zip(records, found.records, strict=True):
        assert_equal(record, again)
    assert all(np.array_equal(found.adapted_masks[i], run.adapted_masks[i]) for i in range(4))
    found.close()


def test_a_reopened_run_goes_on_with_the_same_numbers(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    scan = open_scan(file)
    settings = LEARN.but(predict="average")
    straight = list(AdaptationRun(segmenter, scan, settings).records())
    run = AdaptationRun(segmenter, scan, settings, folder=tmp_path / "run")
    stream = run.records()
    for _ in range(3):
        next(stream)
    stream.close()
    run.rollback(2)
    run.close()
    found = reopen(run.folder)
    assert found.state == "cancelled"
    assert len(found.records) == 2
    assert set(found.adapted_masks) == {0, 1}
    live = found.run(segmenter)
    assert live.step == 2
    live.rollback(3)
    live.rollback(1)
    for record, expected in zip(live.resume(), straight[1:], strict=True):
        assert (record.cosine, record.step) == (expected.cosine, expected.step)
        assert np.array_equal(record.adapted_mask, expected.adapted_mask)
    live.close()
    again = reopen(run.folder)
    assert (again.state, len(again.records)) == ("finished", 8)
    again.close()


def test_without_scan_or_model_masks_and_curves_are_there_all_the_same(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    run, records = done(segmenter, open_scan(file), tmp_path / "run")
    (run.folder / "scan.json").unlink()
    found = reopen(run.folder)
    assert found.scan is None
    assert any("scan was not found" in sentence for sentence in found.missing)
    assert any("model tiny" in sentence for sentence in found.missing)
    assert np.array_equal(found.adapted_masks[2], records[2].adapted_mask)
    assert [record.cosine for record in found.records] == [record.cosine for record in records]
    with pytest.raises(RunFolderError, match="without its scan"):
        found.run(segmenter)
    with pytest.raises(RunFolderError, match="without its model tiny"):
        found.run(scan=open_scan(file))
    live = found.run(segmenter, open_scan(file))
    assert live.step == 4
    live.close()


def test_another_scan_or_other_weights_are_refused(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    run, _ = done(segmenter, open_scan(file), tmp_path / "run", slices=[0])
    other = scan_from_array(
        np.random.default_rng(9).random((4, 70, 60)), name="other", spacing=(2.0, 1.0, 1.0)
    )
    found = reopen(run.folder, other)
    assert found.scan is None
    assert any("not the one" in sentence for sentence in found.missing)
    with pytest.raises(RunFolderError, match="not the one"):
        found.run(segmenter, other)
    changed = Segmenter(replace(segmenter.card, weights_sha256="1" * 64), segmenter.network, "cpu")
    with pytest.raises(RunFolderError, match="weights"):
        found.run(changed, open_scan(file))
    found.close()


def test_a_listed_model_is_found_by_its_name(
    model: Path, segmenter: Segmenter, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_GRATA_MODELS", str(model.parent))
    run = AdaptationRun(segmenter, open_scan(file), LEARN, folder=tmp_path / "run", slices=[0, 1])
    next(run.records())
    run.close()
    found = reopen(run.folder)
    assert found.missing == ()
    live = found.run()
    assert [record.slice_index for record in live.resume()] == [1]
    live.close()


@pytest.mark.parametrize("content", [None, b"", b"{", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_run_folder_is_said_to_be_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "run.sqlite").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"run\.sqlite"):
        reopen(tmp_path)
    with pytest.raises(RunFolderError, match=r"run\.sqlite"):
        read_info(tmp_path)


def test_a_folder_whose_run_never_began_says_so(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    AdaptationRun(segmenter, open_scan(file), LEARN, folder=tmp_path / "run").close()
    with pytest.raises(RunFolderError, match="never began"):
        reopen(tmp_path / "run")


def test_an_error_in_mid_run_is_recorded_and_the_run_can_go_on(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    scan = open_scan(file)
    given = {2: np.zeros((1, 1), np.uint8)}
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run", source_masks=given)
    with pytest.raises(ValueError, match="Segment the scan again"):
        list(run.records())
    run.close()
    found = reopen(run.folder)
    assert (found.state, len(found.records)) == ("failed", 2)
    live = found.run(segmenter, scan)
    assert [record.step for record in live.resume()] == [3, 4]
    live.close()


def test_a_scan_opened_by_others_leaves_no_path_but_masks(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    scan: Scan = scan_from_array(
        np.random.default_rng(0).random((3, 64, 64)), name="array", spacing=(1.0, 1.0, 1.0)
    )
    run, _ = done(segmenter, scan, tmp_path / "run", slices="1-2")
    assert (run.folder / "adapted.nii.gz").is_file()
    assert run.notices == []
    found = reopen(run.folder, scan)
    assert found.scan is scan
    found.close()


def test_the_masks_on_disk_follow_a_rollback(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    scan = open_scan(file)
    run = AdaptationRun(segmenter, scan, LEARN, folder=tmp_path / "run")
    records = list(run.records())
    assert run.folder is not None
    run.rollback(2)
    stack = read_mask(run.folder / "adapted.nii.gz", scan)
    assert np.array_equal(scan.get_mask(stack, 1), records[1].adapted_mask)
    assert not scan.get_mask(stack, 3).any()
    run.rollback(0)
    assert not (run.folder / "adapted.nii.gz").exists()
    run.rollback(4)
    stack = read_mask(run.folder / "adapted.nii.gz", scan)
    assert np.array_equal(scan.get_mask(stack, 3), records[3].adapted_mask)
    run.close()
    found = reopen(run.folder)
    assert found.state == "finished"
    found.close()


def test_pictures_that_came_from_no_file_leave_masks_too(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    data = np.random.default_rng(0).integers(0, 255, (2, 64, 70, 3), np.uint8)
    scan = scan_from_array(data, name="layer", rgb=True)
    described = tiny_card(channels=3, dimensions=2, modality="fundus", weights_sha256="0" * 64)
    eyes = Segmenter(described, build_network(described), "cpu")
    run, records = done(eyes, scan, tmp_path / "run")
    assert run.notices == []
    with Image.open(tmp_path / "run" / "adapted" / "case-0001.png") as image:
        assert np.array_equal(np.array(image), records[0].adapted_mask)


def test_masks_that_cannot_be_written_do_not_end_a_run(
    segmenter: Segmenter, file: Path, tmp_path: Path
) -> None:
    run = AdaptationRun(segmenter, open_scan(file), LEARN, folder=tmp_path / "run", slices=[0])
    (tmp_path / "run" / "adapted.nii.gz").mkdir()
    (record,) = run.records()
    run.close()
    assert any("could not be written" in notice for notice in run.notices)
    assert not any("Miller" in notice or str(tmp_path) in notice for notice in run.notices)
    found = reopen(tmp_path / "run")
    assert found.state == "finished"
    assert found.info["notices"] == run.notices
    assert np.array_equal(found.adapted_masks[0], record.adapted_mask)
    found.close()


def test_a_run_of_a_model_that_is_on_no_list_finds_its_model_again(
    segmenter: Segmenter, model: Path, file: Path, tmp_path: Path
) -> None:
    done(segmenter, open_scan(file), tmp_path / "run", slices=[0])
    saved = reopen(tmp_path / "run")
    assert saved.model_folder == model.absolute()
    assert saved.missing == ()
    saved.run().close()
