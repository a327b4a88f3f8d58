"""Choosing, looking, remembering, saving: everything beside a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_grata.widgets import keys
from napari_grata.widgets.state import State


def press(viewer: Any, key: str) -> None:
    """Do what pressing a key over the canvas does."""
    from app_model.types import KeyBinding

    wanted = KeyBinding.from_str(key)
    next(action for binding, action in viewer.keymap.items() if binding == wanted)(viewer)


def test_the_keys_are_free_in_the_viewer_and_in_every_layer() -> None:
    assert not {key.key for key in keys.KEYS} & keys.taken_keys()


def test_a_key_that_the_person_has_bound_stays_theirs(make_napari_viewer: Any) -> None:
    viewer = make_napari_viewer()
    pressed = []
    viewer.bind_key("G", pressed.append)
    bound = keys.bind_keys(viewer, lambda action: None)
    assert "G" not in bound
    assert "H" in bound
    keys.unbind_keys(viewer, bound)
    assert [str(key) for key in viewer.keymap] == ["G"]


def test_nothing_open_offers_to_open(make_dock: Any) -> None:
    dock = make_dock(scan=None)
    assert dock.look.state is State.EMPTY
    assert dock.scan.open_button.property("highlighted") == "true"
    assert not dock.model.segment_button.isEnabled()


def test_one_key_switches_between_before_and_after(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    before, after = (dock.viewer.layers[f"case_017 {n}"] for n in ("source", "grata"))
    assert (before.visible, after.visible) == (False, True)
    press(dock.viewer, "G")
    assert (before.visible, after.visible) == (True, False)
    press(dock.viewer, "G")
    assert (before.visible, after.visible) == (False, True)


def test_one_key_goes_through_the_differences(make_dock: Any, finished: Any) -> None:
    from napari_grata.review.compare import difference_map

    dock = make_dock(learning_rate=0.05)
    dock.adapt.adapt_button.click()
    finished(dock)
    session = dock.desk.session
    shown = []
    for _ in range(4):
        press(dock.viewer, "H")
        shown.append(session.difference_of)
        layer = dock.viewer.layers["case_017 difference"]
        assert layer.visible == (session.difference_of is not None)
        if session.difference_of is not None:
            expected = difference_map(
                session.before.stack,
                session.after.stack,
                session.card,
                session.difference_of or None,
            )
            np.testing.assert_array_equal(layer.data, expected)
    assert shown == ["", "disc", "cup", None]


def test_a_long_sentence_is_shortened_and_whole_in_its_tooltip(make_dock: Any) -> None:
    dock = make_dock()
    long = " ".join(["a very long problem"] * 40)
    dock.message.resize(300, dock.message.height())
    dock.desk.fail(long)
    assert dock.message.said() == long
    assert dock.message.toolTip() == long
    assert dock.message.text().endswith("…")
    width = dock.area.widget().minimumSizeHint().width()
    dock.review.shown.say(long)
    assert dock.area.widget().minimumSizeHint().width() == width


def test_large_pictures_are_filled_since_their_contours_take_seconds(make_dock: Any) -> None:
    from napari_grata.scans import scan_from_array
    from napari_grata.widgets.session import Session

    dock = make_dock()
    small = dock.desk.scan
    data = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
    large = scan_from_array(data, name="large", rgb=True)
    card = dock.model.entry().card
    assert not Session(dock.viewer, small, None, card, filled=None).filled
    assert Session(dock.viewer, large, None, card, filled=None).filled
    assert not Session(dock.viewer, large, None, card, filled=False).filled


def test_fill_and_contour_can_be_switched(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    dock.model.segment_button.click()
    finished(dock)
    layer = dock.viewer.layers["case_017 source"]
    contour = layer.contour
    press(dock.viewer, "U")
    assert layer.contour == 0
    press(dock.viewer, "U")
    assert layer.contour == contour > 0


def test_structures_have_the_colours_of_the_card(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    dock.model.segment_button.click()
    finished(dock)
    colours = dock.viewer.layers["case_017 source"].colormap.color_dict
    np.testing.assert_allclose(colours[1][:3], [0x56 / 255, 0xB4 / 255, 0xE9 / 255], atol=1e-3)
    assert colours[0][3] == 0


def test_a_click_on_a_step_or_a_row_goes_to_its_slice(make_dock: Any, finished: Any) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.adapt.plot.step_clicked.emit(4, 5)
    assert dock.viewer.dims.current_step[0] == 4
    dock.review.table.slice_clicked.emit(1)
    assert dock.viewer.dims.current_step[0] == 1


def test_slices_are_found_by_place_where_another_layer_is_finer(
    make_dock: Any, finished: Any
) -> None:
    dock = make_dock()
    dock.viewer.add_image(np.random.default_rng(0).random((60, 20, 20)), scale=(0.5, 1, 1))
    dock._layers_changed()
    dock.scan.choose(dock.viewer.layers["case_017"])
    dock.desk.go_to(3)
    assert dock.viewer.dims.point[0] == pytest.approx(3 * dock.viewer.layers["case_017"].scale[0])
    assert dock.desk.in_view() == 3
    dock.scan.slices.setCurrentIndex(dock.scan.slices.findData("current"))
    dock.model.segment_button.click()
    finished(dock)
    assert dock.desk.session.segmented == {3}


def test_a_model_that_does_not_fit_switches_segment_off_and_says_why(make_dock: Any) -> None:
    dock = make_dock()
    dock.model.choose("tiny-eye")
    assert dock.look.state is State.NO_FIT
    assert not dock.model.segment_button.isEnabled()
    reason = dock.model.entry().card.fits(dock.desk.scan)
    assert dock.model.segment_button.toolTip() == reason
    assert "Tiny brain" in dock.message.said()


def test_a_broken_file_is_a_notification_and_leaves_no_layer(
    make_dock: Any, tmp_path: Path
) -> None:
    from napari.utils.notifications import notification_manager

    dock = make_dock(scan=None)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no scan at all")
    notification_manager.records.clear()
    dock.opening.open(str(broken))
    assert len(dock.viewer.layers) == 0
    assert dock.look.state is State.FAILED
    assert "broken.nii.gz" in dock.message.said()
    assert "broken.nii.gz" in notification_manager.records[-1].message


def test_layers_of_other_plugins_can_be_scans(make_dock: Any, finished: Any) -> None:
    dock = make_dock(scan=None)
    rng = np.random.default_rng(0)
    data = rng.normal(100, 10, (4, 40, 40)).astype(np.float32)
    data[:, 10:30, 10:30] += 120
    layer = dock.viewer.add_image(data, name="foreign", scale=(3, 1, 1), translate=(0, 7, 5))
    dock._layers_changed()
    assert dock.scan.layer() is layer
    dock.model.choose("tiny-brain")
    dock.model.segment_button.click()
    finished(dock)
    mask = dock.viewer.layers["foreign source"]
    np.testing.assert_allclose(mask.scale, layer.scale)
    np.testing.assert_allclose(mask.translate, layer.translate)


def test_labels_and_shapes_are_no_scans(make_dock: Any) -> None:
    dock = make_dock(scan=None)
    dock.viewer.add_labels(np.ones((5, 5), int))
    dock.viewer.add_shapes()
    dock._layers_changed()
    assert dock.scan.layer() is None


def test_choices_are_remembered(make_dock: Any) -> None:
    dock = make_dock()
    dock.model.choose("tiny-eye")
    dock.adapt.method.setCurrentIndex(dock.adapt.method.findData("as-published"))
    dock.adapt.advanced.passes.setValue(3)
    dock.adapt.set_run_parent("/tmp/runs")
    dock.adapt.run_parent_changed.emit()
    dock.desk.toggle_fill()
    dock.model.device.setCurrentIndex(dock.model.device.findData("cpu"))
    again = make_dock(scan=None)
    assert again.model.entry().name == "tiny-eye"
    assert again.adapt.preset() == "as-published"
    assert again.adapt.settings().passes == 3
    assert again.adapt.run_parent() == "/tmp/runs"
    assert again.desk.filled
    assert again.model.device_key() == "cpu"


def test_settings_that_cannot_be_read_count_as_absent(make_dock: Any) -> None:
    from napari_grata.widgets.settings_store import SettingsStore

    store = SettingsStore()
    store.set("preset", "no such preset")
    store.set("changes", {"passes": "many", "colour": "red"})
    store.set("pace", ["nonsense"])
    dock = make_dock(scan=None)
    assert dock.adapt.preset() == "careful"


def test_every_option_of_settings_can_be_set_under_advanced(make_dock: Any) -> None:
    from dataclasses import fields

    from napari_grata.adaptation.settings import Settings

    dock = make_dock(scan=None)
    other = Settings(
        method="consistency",
        auxiliary="consistency",
        pseudo="entropy",
        learning_rate=3e-3,
        learning_rate_rule="linear",
        blend=0.25,
        symmetric_entropy=True,
        perturbation=0.05,
        steps_per_slice=2,
        passes=4,
        mode="every-n",
        reset_every=7,
        predict="final",
        six_views=True,
        seed=12,
        precision="bfloat16",
    )
    default = Settings()
    # These belong to a reviewer's corrections, and are chosen there.
    elsewhere = {"scribble", "correction_steps", "uncorrected_learn", "soft_labels", "hold"}
    names = {f.name for f in fields(Settings)} - elsewhere
    assert all(getattr(other, name) != getattr(default, name) for name in names)
    dock.adapt.advanced.set_settings(other)
    assert dock.adapt.settings() == other


@pytest.mark.parametrize("typed", ["", "0", "abc", "-1"])
def test_a_learning_rate_that_is_none_is_a_sentence(make_dock: Any, typed: str) -> None:
    dock = make_dock()
    dock.adapt.advanced.rate.setText(typed)
    dock.adapt.adapt_button.click()
    assert dock.desk.runner.kind is None
    assert "learning_rate" in dock.message.said()


def test_saved_masks_lie_on_the_grid_of_the_file(
    make_dock: Any, finished: Any, volume: Path, tmp_path: Path
) -> None:
    dock = make_dock()
    dock.adapt.adapt_button.click()
    finished(dock)
    dock.viewer.layers["case_017 grata"].data[0, :4, :4] = 2
    folder = tmp_path / "out"
    folder.mkdir()
    dock.saving.save_to(folder)
    finished(dock)
    assert sorted(p.name for p in folder.iterdir()) == [
        "case_017 grata.nii.gz",
        "case_017 source.nii.gz",
    ]
    scan, mask = nib.load(volume), nib.load(folder / "case_017 grata.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    drawn = np.asarray(mask.dataobj)
    assert (drawn == dock.viewer.layers["case_017 grata"].data.max()).sum() >= 16
    assert "Saved" in dock.review.shown.said()


def test_a_saved_run_comes_back_with_masks_curves_and_table(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock(passes=2)
    dock.adapt.set_run_parent(str(tmp_path / "runs"))
    dock.adapt.adapt_button.click()
    finished(dock)
    stack = dock.desk.session.after.stack.copy()
    (folder,) = (tmp_path / "runs").iterdir()
    again = make_dock(scan=None)
    again.saving.reopen_from(folder)
    finished(again)
    assert again.look.state is State.REOPENED
    np.testing.assert_array_equal(again.viewer.layers["case_017 grata"].data, stack)
    assert len(again.adapt.plot.data) == 12
    assert again.adapt.settings().passes == 2


def test_a_folder_that_is_no_run_is_a_sentence(
    make_dock: Any, finished: Any, tmp_path: Path
) -> None:
    dock = make_dock(scan=None)
    dock.saving.reopen_from(tmp_path)
    finished(dock)
    assert dock.look.state is State.FAILED
    assert "no run folder" in dock.message.said()


def test_importing_the_dock_does_not_load_torch() -> None:
    import subprocess
    import sys

    code = "import sys, napari_grata.widgets.dock; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_both_themes_reach_every_part(make_dock: Any) -> None:
    dock = make_dock()
    sheets = []
    for theme in ("light", "dark"):
        dock.viewer.theme = theme
        sheets.append(dock.styleSheet())
    assert sheets[0] != sheets[1]


def test_the_dock_fits_a_small_screen_without_cutting_off(make_dock: Any) -> None:
    dock = make_dock()
    dock.adapt.fold.set_expanded(True)
    inner = dock.area.widget()
    assert inner.minimumSizeHint().width() <= 360
    assert dock.minimumSizeHint().height() <= 500
