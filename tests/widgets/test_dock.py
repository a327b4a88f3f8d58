"""The main way through the dock: open, adapt, look, and what the viewer and the user do to it."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from PIL import Image
from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit, QScrollArea

from napari_grata.adaptation.shift import measure_case
from napari_grata.demo import view_run
from napari_grata.segmenters import load_card, load_segmenter, registry
from napari_grata.widgets import bar, model_section
from napari_grata.widgets.dock import WIDTH, GrataDock
from napari_grata.widgets.scan_layer import camera_of
from napari_grata.widgets.state import Step

Start = Callable[..., Any]


def controls(dock: Any) -> list[Any]:
    """Return what the user can see and touch."""
    kinds = (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox)
    return [w for kind in kinds for w in dock.findChildren(kind) if w.isVisible()]


def test_with_nothing_open_there_are_at_most_six_controls(start: Start) -> None:
    user = start()
    user.dock.window().show()
    user.settle()
    assert 2 <= len(controls(user.dock)) <= 6
    assert user.dock.first_words.text() == "Open a scan, or try a sample, to begin."


def test_what_is_loaded_is_set_aside_for_as_long_as_there_is_a_dock(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("freeze", "unfreeze"):
        monkeypatch.setattr(model_section, name, getattr(gc, name))
    before = gc.get_freeze_count()
    user = start()
    assert gc.get_freeze_count() > before
    user.viewer.window.remove_dock_widget(user.dock)
    user.dock.deleteLater()
    user.wait(lambda: gc.get_freeze_count() == 0)


def test_two_clicks_lead_from_the_start_to_an_adapted_sample(start: Start) -> None:
    user = start()
    user.dock.context.open_requested.emit("sample:brain-other-scanner")
    user.settle()
    user.context.slices_text = "26"
    user.press(user.dock.next.button)
    user.finish()
    assert user.session.adapted_slices == {25}
    assert user.dock.steps[Step.CORRECT].is_open


def test_adapt_segments_first_and_both_masks_are_there(start: Start, volume: Path) -> None:
    user = start(volume)
    assert user.dock.next.button.text() == "Adapt"
    areas = user.dock.findChildren(QScrollArea)
    (inner,) = (a.widget() for a in areas if a.widget().isAncestorOf(user.dock.adapt))
    assert inner.minimumSizeHint().width() <= WIDTH, "what is wider would be cut off"
    user.do("difference")
    assert user.dock.hint.said().startswith("Adapt first")
    user.adapt()
    assert not user.dock.hint.said(), "it is done"
    assert inner.minimumSizeHint().width() <= WIDTH
    session = user.session
    assert session.segmented_slices == session.adapted_slices == set(range(6))
    names = [layer.name for layer in user.viewer.layers]
    assert names[:3] == ["case_017", "case_017 source", "case_017 adapted"]
    assert user.context.mode == "difference"
    shapes = {layer.data.shape for layer in user.viewer.layers}
    assert shapes == {user.context.scan.mask_shape}


def test_after_a_run_the_view_lands_where_most_has_changed(start: Start, volume: Path) -> None:
    user = start(volume)
    user.adapt()
    change = {r.slice_index: -sum(r.agreement.values()) for r in user.session.records}
    flagged = [index for index in change if user.session.flags[index]]
    worst = max(change[index] for index in flagged or change)
    assert change[user.context.in_view()] == worst


def test_segment_only_makes_no_adapted_mask(start: Start, volume: Path) -> None:
    user = start(volume)
    user.press(user.dock.adapt.segment_button)
    user.finish()
    assert len(user.session.segmented_slices) == 6
    assert not user.session.adapted_slices
    assert user.session.source.visible
    user.adapt()
    assert len(user.session.adapted_slices) == 6


def test_a_photograph_has_no_choice_of_slices(start: Start, photograph: Path) -> None:
    user = start(photograph)
    user.context.choose_model("tiny-eye")
    user.settle()
    assert user.dock.scan.slices_row.isHidden()
    user.adapt()
    words = [user.dock.message.said(), *(s.summary.said() for s in user.dock.steps.values())]
    assert not any("slice" in text for text in words), words


def test_cancel_keeps_what_is_finished_and_the_run_can_go_on_or_finish(
    start: Start, volume: Path
) -> None:
    user = start(volume, passes=40)
    with user.qtbot.waitSignal(user.context.runner.records, timeout=60_000):
        user.dock.adapt.adapt_button.click()
    user.press(user.dock.progress.cancel_button)
    user.finish()
    assert user.session.adapted_slices
    assert "Cancelled" in user.dock.message.said()
    step = user.session.run.step
    assert not user.dock.adapt.unfinished.isHidden()
    user.press(user.dock.adapt.finish_button)
    user.finish()
    assert user.session.run.step == step
    assert user.session.adapted_slices == set(range(6))
    assert user.dock.adapt.unfinished.isHidden()


def test_a_cancelled_run_that_is_shown_again_is_live_and_can_go_on(
    start: Start, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = start(volume, passes=40)
    user.context.run_parent = str(tmp_path / "runs")
    with user.qtbot.waitSignal(user.context.runner.records, timeout=60_000):
        user.dock.adapt.adapt_button.click()
    user.press(user.dock.progress.cancel_button)
    user.finish()
    step = user.session.run.step
    user.session.close_run()
    (folder,) = (tmp_path / "runs").iterdir()
    again = start()
    with monkeypatch.context() as patch:
        patch.setattr("napari.Viewer", lambda **_: again.viewer)
        window = type(again.viewer.window)
        patch.setattr(window, "add_plugin_dock_widget", lambda *_: (None, again.dock))
        patch.setattr("napari.run", lambda: None)
        view_run(folder, None)  # as *Open saved run* does it
    again.wait(lambda: again.session is not None and again.session.run is not None)
    again.settle()
    assert again.dock.message.said().startswith("Saved run of")
    assert not again.dock.adapt.unfinished.isHidden()
    again.press(again.dock.adapt.finish_button)
    again.finish()
    assert again.session.run.step == step
    assert again.session.adapted_slices == set(range(6))


def test_pause_holds_a_run_between_two_steps(start: Start, volume: Path) -> None:
    user = start(volume, passes=40)
    with user.qtbot.waitSignal(user.context.runner.records, timeout=60_000):
        user.dock.adapt.adapt_button.click()
    user.press(user.dock.progress.pause_button)
    user.wait(lambda: user.context.runner.phase == "paused")
    user.settle()
    there = len(user.session.records)
    user.qtbot.wait(200)
    assert len(user.session.records) == there
    user.press(user.dock.next.button)  # Resume
    user.wait(lambda: len(user.session.records) > there)
    user.context.runner.cancel()
    user.finish()


def test_the_dock_follows_the_scan_that_is_seen(
    start: Start, volume: Path, photograph: Path
) -> None:
    user = start(volume)
    user.adapt()
    brain = user.context.layer
    user.viewer.open(str(photograph))
    user.settle()
    assert user.context.scan.noun == "photograph"
    assert not brain.visible
    assert not any(layer.visible for layer in user.viewer.layers if "case_017" in layer.name)
    user.dock.scan.combo.setCurrentIndex(1)
    user.dock.scan.combo.activated.emit(1)
    user.settle()
    assert user.context.layer is brain
    assert brain.visible
    assert user.session.adapted_slices


def test_a_photograph_beside_a_volume_is_no_reason_to_complain(
    start: Start, volume: Path, photograph: Path
) -> None:
    def comparable() -> bool:
        extent = user.viewer.layers.extent  # napari complains of these units, since 0.7
        return getattr(extent, "units", ()) is not None

    already = len(notification_manager.records)
    user = start(volume)
    user.dock.window().resize(800, 600)
    user.dock.window().show()
    user.adapt()
    brain = user.context.layer
    user.viewer.add_shapes(name="Region", units=("mm", "mm"))
    user.open(photograph)
    user.adapt()
    eye = user.context.layer
    assert [str(unit) for unit in eye.units] == ["pixel", "pixel"]
    assert comparable()
    user.context.choose_layer(brain)
    user.settle()
    assert [str(unit) for unit in brain.units] == ["millimeter"] * 3
    assert [str(unit) for unit in user.session.adapted.layer.units] == ["millimeter"] * 3
    assert comparable()
    said = [one.message for one in notification_manager.records[already:]]
    assert not [text for text in said if "Inconsistent units" in text]


def test_a_scan_that_is_shown_by_its_eye_is_the_one_that_is_worked_on(
    start: Start, volume: Path, photograph: Path
) -> None:
    user = start(volume)
    user.open(photograph)
    eye = user.context.layer
    brain = next(layer for layer in user.viewer.layers if layer.name == "case_017")
    eye.visible = False
    brain.visible = True
    user.settle()
    assert user.context.layer is brain


def test_a_dock_that_is_opened_later_follows_what_was_there_before(
    start: Start, volume: Path, photograph: Path
) -> None:
    user = start(volume)
    brain = user.context.layer
    user.open(photograph)
    eye, viewer = user.context.layer, user.viewer
    viewer.window.remove_dock_widget(user.dock)
    user.dock.deleteLater()
    dock = GrataDock(viewer)
    viewer.window.add_dock_widget(dock, name="again")
    assert dock.context.layer is eye
    eye.visible, brain.visible = False, True
    user.wait(lambda: dock.context.layer is brain, 10)


def test_of_a_shorter_stack_a_slice_is_in_view_at_once(
    start: Start, volume: Path, photograph: Path
) -> None:
    user = start(volume)
    user.context.go_to(5)  # 20 mm
    shutil.copy(photograph, photograph.with_name("eye_005.png"))
    user.open(photograph.parent)
    assert user.context.scan.n_slices == 2
    assert user.viewer.dims.point[0] <= 1, "the canvas would be black"
    user.context.choose_layer(user.viewer.layers["case_017"])
    assert user.context.in_view() == 0


def test_what_comes_of_a_case_does_not_come_over_another_scan(
    start: Start, photograph: Path, tmp_path: Path
) -> None:
    (tmp_path / "list").mkdir()
    shutil.copy(photograph, tmp_path / "list" / "case.png")
    user = start()
    user.context.choose_model("tiny-eye")
    user.dock.cases.open_list([str(tmp_path / "list")])
    user.wait(lambda: user.context.case is not None)
    user.open(photograph)
    user.dock.cases.toggle_batch()
    cases = user.dock.cases
    user.wait(lambda: cases.batch.finished and cases.current.run_folder is not None)
    user.settle()
    assert [layer.name for layer in user.viewer.layers if layer.visible] == ["eye_004"]
    cases.open_case("case-0001")
    user.settle()
    assert user.session.adapted_slices == {0}
    seen = [layer.name for layer in user.viewer.layers if layer.visible]
    assert seen == ["case", "case adapted"]


def test_another_scan_brings_along_a_model_that_reads_it(
    start: Start, volume: Path, photograph: Path
) -> None:
    user = start(volume)
    assert user.context.entry.name == "tiny-brain"
    user.open(photograph)
    assert user.context.entry.name == "tiny-eye"
    user.context.choose_model("tiny-brain")
    user.settle()
    assert user.dock.message.said().endswith("“Tiny eye” would fit.")
    assert not user.dock.adapt.adapt_button.isEnabled()


def test_masks_of_another_model_go_out_of_view_and_come_back_with_it(
    start: Start,
    volume: Path,
    photograph: Path,
    tmp_path: Path,
    model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = shutil.copytree(model_folder, tmp_path / "models")
    card = shutil.copytree(models / "tiny-brain", models / "z-brain") / "card.yaml"
    card.write_text(card.read_text().replace("name: tiny-brain", "name: z-brain"))
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: models)

    def seen() -> list[str]:
        return [layer.name for layer in user.viewer.layers if layer.visible]

    user = start(volume)
    user.context.choose_model("tiny-brain")
    user.press(user.dock.adapt.segment_button)
    user.finish()
    assert seen() == ["case_017", "case_017 source"]
    user.context.choose_model("z-brain")
    user.settle()
    assert seen() == ["case_017"], "there is no mask of this model yet"
    user.press(user.dock.adapt.segment_button)
    user.finish()
    assert seen() == ["case_017", "case_017 source 2"]
    brain = user.context.layer
    user.open(photograph)
    assert seen() == ["eye_004"]
    user.context.choose_layer(brain)
    user.settle()
    assert user.context.entry.name == "z-brain", "its masks are the latest of this scan"
    assert seen() == ["case_017", "case_017 source 2"]
    user.context.choose_model("tiny-brain")
    user.settle()
    assert seen() == ["case_017", "case_017 source"]


def test_deleting_the_scan_in_mid_run_does_not_waste_the_run(start: Start, volume: Path) -> None:
    user = start(volume, passes=10)
    with user.qtbot.waitSignal(user.context.runner.records, timeout=60_000):
        user.dock.adapt.adapt_button.click()
    layer = user.context.layer
    user.viewer.layers.remove(layer)
    user.finish()
    assert any(other is layer for other in user.viewer.layers)
    assert user.context.layer is layer
    assert user.session.adapted_slices == set(range(6))


def test_a_drawn_mask_is_never_overwritten_by_a_new_run(start: Start, volume: Path) -> None:
    user = start(volume)
    user.adapt()
    user.paint(2, 5, 5, value=2)
    drawn_on = user.session.adapted.layer
    drawing = np.array(drawn_on.data)
    user.do("paint")
    user.adapt()
    # With the brush still on it, more would be drawn there, and decided on is the other one.
    assert not user.context.painting
    assert drawn_on.mode == "pan_zoom"
    assert not drawn_on.visible
    assert any(layer is drawn_on for layer in user.viewer.layers)
    np.testing.assert_array_equal(drawn_on.data, drawing)
    assert user.session.adapted.layer is not drawn_on
    assert user.session.adapted.layer.name == "case_017 adapted 2"
    assert "hidden, in “case_017 adapted”" in notification_manager.records[-1].message


def test_a_mask_that_is_deleted_comes_back_with_what_was_drawn_unless_its_scan_goes_too(
    start: Start, volume: Path
) -> None:
    user = start(volume)
    user.adapt()
    user.paint(2, 5, 5, value=2)
    for name in ("source", "adapted"):
        layer = user.viewer.layers[f"case_017 {name}"]
        kept = np.array(layer.data)
        user.viewer.layers.remove(layer)
        user.settle()
        assert "stays" in user.dock.hint.said()
        np.testing.assert_array_equal(user.viewer.layers[f"case_017 {name}"].data, kept)
    assert user.session.drawn_slices == {2}
    assert "with what you drew" in user.dock.decide.sentence.said()
    user.do("contours")
    user.viewer.layers.select_all()
    user.viewer.layers.remove_selected()
    user.settle()
    assert not user.viewer.layers


def test_what_fails_is_a_sentence_and_what_was_finished_stays(
    start: Start, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_grata.adaptation.run import AdaptationRun

    user = start(volume)
    whole = AdaptationRun.records

    def broken(self: Any) -> Any:
        for number, record in enumerate(whole(self)):
            if number == 3:
                raise ValueError("The scan cannot be read any more.")
            yield record

    monkeypatch.setattr(AdaptationRun, "records", broken)
    user.press(user.dock.adapt.adapt_button)
    user.finish()
    said = user.dock.message.said()
    assert said == "The scan cannot be read any more. What was finished is kept."
    assert len(user.session.adapted_slices) == 3
    assert not user.dock.details_button.isHidden()


def test_a_broken_file_is_a_sentence_and_leaves_nothing_half_open(
    start: Start, tmp_path: Path
) -> None:
    user = start()
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan at all")
    user.open(bad)
    assert len(user.viewer.layers) == 0
    assert "bad.nii.gz" in user.dock.first_words.text()


def test_only_the_slices_that_were_typed_are_worked_on(start: Start, volume: Path) -> None:
    user = start(volume)
    section = user.dock.scan
    section.slices.setCurrentIndex(2)
    section.range.setText("2-3")
    section.range.editingFinished.emit()
    user.adapt()
    assert user.session.adapted_slices == {1, 2}
    section.range.setText("90")
    section.range.editingFinished.emit()
    user.press(user.dock.adapt.adapt_button)
    user.finish()
    assert "90" in user.dock.message.said()


def test_inside_a_region_only_that_part_is_changed(start: Start, volume: Path) -> None:
    user = start(volume)
    layer = user.context.layer
    scale = np.asarray(layer.scale[-2:])
    corners = np.array([[4, 6], [4, 38], [36, 38], [36, 6]]) * scale
    user.viewer.add_shapes([corners], shape_type="rectangle", name="Part")
    user.settle()
    section = user.dock.scan
    section.region.setCurrentIndex(1)
    section.region.activated.emit(1)
    user.adapt()
    row0, col0, row1, col1 = user.session.region
    outside = np.ones(user.context.scan.mask_shape[-2:], bool)
    outside[row0:row1, col0:col1] = False
    assert user.session.adapted.stack.any()
    assert not user.session.adapted.stack[:, outside].any()


def test_the_legend_hides_a_structure_and_chooses_the_brush(start: Start, volume: Path) -> None:
    user = start(volume)
    user.adapt()
    chips = user.dock.legend.chips
    assert [chips[v].text() for v in (1, 2)] == ["disc", "cup"]
    user.press(chips[2])
    assert user.session.hidden == {2}
    user.press(chips[2])
    assert user.session.hidden == set()
    user.do("paint")
    user.press(chips[2])
    assert user.session.adapted.layer.selected_label == 2
    assert not user.session.hidden
    # All names can be read, whatever the width of the dock.
    user.dock.window().show()
    user.dock.window().resize(1000, 740)
    for width in (340, 130):
        user.dock.legend.setFixedWidth(width)
        user.settle()
        assert all(chip.width() >= chip.sizeHint().width() for chip in chips.values())
    assert len({chip.y() for chip in chips.values()}) > 1
    user.do("paint")
    assert not user.context.painting


def test_many_structures_are_searched_by_name_in_a_list_that_scrolls(
    start: Start, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = start(volume)
    user.press(user.dock.adapt.segment_button)
    user.finish()
    legend = user.dock.legend
    assert legend.search.isHidden(), "two structures need no search"
    monkeypatch.setattr(bar, "MANY", 2)
    user.context.model_changed.emit()
    assert not legend.search.isHidden()
    legend.search.setText(" CU")
    assert legend.chips[1].isHidden()
    assert not legend.chips[2].isHidden()
    user.press(legend.chips[2])
    assert user.session.hidden == {2}


def test_the_frame_that_was_found_is_shown_and_dragging_it_makes_it_a_region(
    start: Start, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = shutil.copytree(model_folder, tmp_path / "models")
    weights, own = load_card(models / "tiny-eye").weights_sha256, [0.1 * n for n in range(21)]
    with (models / "tiny-eye" / "card.yaml").open("a") as card:
        card.write(
            "extents:\n- {structure: disc, cases: 50, side: [0.4, 0.44, 0.48], "
            "row: [0.45, 0.5, 0.55], column: [0.45, 0.5, 0.55]}\n"
            f"shift: {{measured_on: its own, scans: 30, quantiles: {own}, weights: {weights}, "
            "command: none}\n"
        )
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: models)
    rng = np.random.default_rng(1)
    pixels = rng.normal(64, 12, (200, 220, 3))
    pixels[90:140, 60:110] += 115
    path = tmp_path / "wide_eye.png"
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    user = start(path, reframe=True)
    user.adapt()
    frame = user.session.frame_of(0)
    assert frame is not None
    assert user.context.mode == "adapted", "the difference to the whole picture shows nothing"
    assert "as found" in user.dock.message.said()
    (layer,) = (one for one in user.viewer.layers if one.name == "Frame found")
    assert layer.data[0].min(axis=0) == pytest.approx(np.array(frame[:2]) - 0.5)
    if hasattr(user.viewer, "canvas"):  # before napari 0.9 the view stays as it is
        camera, middle = camera_of(user.viewer), np.array(frame).reshape(2, 2).mean(axis=0) - 0.5
        assert camera.center[-2:] == pytest.approx(middle, abs=1), "the frame is not in the middle"
        share = camera.zoom * (frame[2] - frame[0]) / min(user.viewer.canvas.size)
        assert 0.5 < share < 0.7
    # How far the photograph lies from the source centre is said of what the model reads.
    found = measure_case(load_segmenter(models / "tiny-eye", "cpu"), user.context.scan, 0, frame)
    gauge = user.dock.model.shift.gauge
    user.wait(lambda: f"{found.distance:.3f}" in gauge.toolTip(), 20)
    assert user.dock.scan.region.count() == 1
    layer.data = [layer.data[0] + 4]
    user.wait(lambda: user.context.region is not None)
    assert user.context.region[0] == pytest.approx(frame[0] + 4, abs=1)
    assert "Frame found" not in [one.name for one in user.viewer.layers]
    user.adapt()
    assert user.session.region == user.context.region
    assert user.session.frame_of(0) is None
