"""The gauge under the model: where a scan lies, measured by itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt

from napari_grata.widgets.gauge import Gauge, place_of


def make_volume(path: Path, seed: int, bright: float = 150.0, noise: float = 20.0) -> Path:
    rng = np.random.default_rng(seed)
    data = rng.normal(100, noise, (40, 48, 6)).astype(np.float32)
    data[12:28, 14:34] += bright
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1.5, 4.0, 1.0])), path)
    return path


@pytest.fixture
def calibrated(
    make_dock: Any, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Return make_dock, with models that know how their own centres' scans look."""
    from napari_grata.adaptation.calibrate_shift import calibrate, write_reference
    from napari_grata.scans import open_scan
    from napari_grata.segmenters import load_segmenter, registry

    models = tmp_path / "models"
    shutil.copytree(model_folder, models)
    home = [make_volume(tmp_path / f"home{i}.nii.gz", i) for i in range(3)]
    reference = calibrate(
        load_segmenter(models / "tiny-brain", device="cpu"),
        [open_scan(path) for path in home],
        on="three scans",
        command="a test",
    )
    write_reference(models / "tiny-brain", reference)
    eyes = [make_photograph(tmp_path / f"home{i}.png", i) for i in range(3)]
    reference = calibrate(
        load_segmenter(models / "tiny-eye", device="cpu"),
        [open_scan(path) for path in eyes],
        on="three photographs",
        command="a test",
    )
    write_reference(models / "tiny-eye", reference)
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: models)
    return make_dock


def wait_for_shift(dock: Any, qtbot: Any) -> Any:
    qtbot.waitUntil(lambda: dock.shift_gauge.shift is not None, timeout=30_000)
    return dock.shift_gauge.shift


def at_rest(dock: Any, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: dock.shift_gauge._running.task is None, timeout=30_000)


def test_a_scan_of_the_source_centre_is_shown_near_home_without_asking(
    calibrated: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = calibrated(scan=make_volume(tmp_path / "one.nii.gz", 0))
    found = wait_for_shift(dock, qtbot)
    assert found.level == "near"
    assert dock.shift_gauge.gauge.place <= place_of(1.01, 1, 1.5)
    assert dock.shift_gauge.sentence.said() == "Close to the source centre."
    assert dock.shift_gauge.gauge.accessibleDescription() == "Close to the source centre."
    assert dock.desk.session is None


def test_a_scan_that_looks_otherwise_is_shown_far_and_says_what_to_do(
    calibrated: Any, qtbot: Any, tmp_path: Path
) -> None:
    dock = calibrated(scan=make_volume(tmp_path / "other.nii.gz", 5, bright=-60, noise=60))
    found = wait_for_shift(dock, qtbot)
    assert found.level == "far"
    assert dock.shift_gauge.gauge.place > place_of(1.5, 1, 1.5)
    assert "check scan, model and region" in dock.shift_gauge.sentence.said()
    assert "Layers that differ most" in dock.shift_gauge.gauge.toolTip()


def test_a_model_without_a_reference_says_so_in_words(make_dock: Any) -> None:
    dock = make_dock()
    assert dock.shift_gauge.shift is None
    assert "card does not say" in dock.shift_gauge.sentence.said()
    assert dock.shift_gauge.gauge.place is None


def test_with_nothing_open_the_gauge_is_empty_and_keeps_its_place(make_dock: Any) -> None:
    dock = make_dock(scan=None)
    assert dock.shift_gauge.gauge.place is None
    assert not dock.slots.shift.isHidden()


def test_another_region_is_measured_for_itself_and_the_first_is_remembered(
    calibrated: Any, qtbot: Any, volume: Path
) -> None:
    dock = calibrated()
    whole = wait_for_shift(dock, qtbot)
    scan, layer = dock.desk.scan, dock.desk.layer
    dock.viewer.add_shapes(
        [np.array([[4, 4], [4, 20], [20, 20], [20, 4]])], scale=layer.scale[-2:], name="box"
    )
    qtbot.waitUntil(lambda: dock.scan.region.count() > 1)
    dock.scan.choose_last_box()
    assert dock.scan.box() is not None
    dock.shift_gauge.refresh()
    assert dock.shift_gauge.shift is None
    part = wait_for_shift(dock, qtbot)
    assert part.distance != whole.distance
    dock.scan.region.setCurrentIndex(0)
    assert dock.shift_gauge.shift is whole
    assert scan is dock.desk.scan


def make_photograph(path: Path, seed: int, dim: float = 1.0) -> Path:
    rng = np.random.default_rng(seed)
    data = rng.normal(90, 15, (64, 64, 3))
    data[16:46, 16:46] += 110
    data = 128 + (data - 128) * dim
    data[0, 0], data[-1, -1] = 0, 255
    Image.fromarray(np.clip(data, 0, 255).astype(np.uint8)).save(path)
    return path


def test_of_a_list_the_photograph_in_view_is_shown(
    calibrated: Any, qtbot: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "list"
    folder.mkdir()
    for number, dim in enumerate((1.0, 1.0, 0.1)):
        make_photograph(folder / f"{number}.png", number, dim)
    dock = calibrated(scan=folder)
    dock.model.choose("tiny-eye")
    dock.desk.go_to(0)
    dock.shift_gauge.refresh()
    first = wait_for_shift(dock, qtbot)
    assert first.level == "near"
    dock.desk.go_to(2)
    dock.shift_gauge.refresh()
    assert dock.shift_gauge.shift is None
    dim = wait_for_shift(dock, qtbot)
    assert dim.level != "near"
    assert dim.score > first.score
    dock.desk.go_to(0)
    dock.shift_gauge.refresh()
    assert dock.shift_gauge.shift is first


def test_segmenting_comes_first_and_the_gauge_follows(
    calibrated: Any, finished: Any, qtbot: Any
) -> None:
    dock = calibrated()
    dock.model.segment_button.click()
    assert dock.shift_gauge.shift is None
    finished(dock)
    assert dock.desk.session.segmented
    assert wait_for_shift(dock, qtbot).score > 0


def test_the_model_is_loaded_once_for_gauge_and_segmenting(
    calibrated: Any, finished: Any, qtbot: Any
) -> None:
    dock = calibrated()
    wait_for_shift(dock, qtbot)
    engine, entry = dock.desk.runner.engine, dock.desk.entry
    assert engine.holds(entry.folder, dock.model.device_key())
    loaded = engine._segmenter
    dock.model.segment_button.click()
    finished(dock)
    assert engine._segmenter is loaded


def test_closing_the_dock_stops_a_measurement(calibrated: Any, qtbot: Any) -> None:
    dock = calibrated()
    qtbot.waitUntil(
        lambda: dock.shift_gauge._running.task is not None or dock.shift_gauge.shift is not None,
        timeout=30_000,
    )
    task = dock.shift_gauge._running.task
    dock.ties.cut()
    if task is not None:
        assert task.stop.is_set()
        task.thread.join(20)
        assert not task.thread.is_alive()


def test_the_line_runs_from_home_to_far_away_without_end() -> None:
    places = [place_of(score, 1.0, 1.5) for score in (0, 0.5, 1, 1.2, 1.5, 2, 5, 100)]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] < 1


def test_the_gauge_can_be_reached_and_read_by_keyboard(qtbot: Any) -> None:
    gauge = Gauge("Distance")
    qtbot.addWidget(gauge)
    gauge.setToolTip("where it is")
    gauge.show_score(1.2, 1.0, 1.5, "moderate")
    gauge.show()
    assert gauge.focusPolicy() & Qt.FocusPolicy.TabFocus
    qtbot.keyClick(gauge, Qt.Key.Key_Space)
    for theme in ("dark", "light"):
        gauge.set_theme(theme)
        assert not gauge.grab().isNull()
