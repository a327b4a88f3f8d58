"""The commands of the menu *Layers > Segment*, and the functions for scripts behind them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager

from napari_grata.scans import open_scan
from napari_grata.segmenters import registry
from napari_grata.segmenters.card import ModelError
from napari_grata.widgets.layer_commands import adapt_layer, segment_layer

PLUGIN = "napari-grata"


@pytest.fixture(autouse=True)
def _small_models(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "bundled_models_dir", lambda: model_folder)


@pytest.fixture
def said() -> Any:
    """What napari's notifications say."""
    words: list[str] = []

    def hear(notification: Any) -> None:
        words.append(notification.message)

    notification_manager.notification_ready.connect(hear)
    yield words
    notification_manager.notification_ready.disconnect(hear)


@pytest.fixture
def open_form(
    make_napari_viewer: Callable[..., Any],
) -> Callable[[str, Path], tuple[Any, Any]]:
    """Return a function that opens a scan and, by its name in the manifest, a command's form."""

    def make(name: str, path: Path) -> tuple[Any, Any]:
        viewer = make_napari_viewer()
        scan = open_scan(path)
        viewer.add_image(scan.data, **scan.layer_kwargs())
        _, form = viewer.window.add_plugin_dock_widget(PLUGIN, name)
        return viewer, form

    return make


def layer_of(path: Path) -> Image:
    scan = open_scan(path)
    return Image(scan.data, **scan.layer_kwargs())


def test_a_script_gets_the_masks_that_the_dock_makes(volume: Path) -> None:
    from napari_grata.adaptation import adapt
    from napari_grata.segmenters import load_segmenter

    layer = layer_of(volume)
    source, adapted = adapt_layer(layer, slices="2-3", device="cpu")
    assert [source.name, adapted.name] == ["case_017 source", "case_017 adapted"]
    entry = registry.find_model("tiny-brain")
    scan = open_scan(volume)
    segmenter = load_segmenter(entry.folder, device="cpu")
    for record in adapt(segmenter, scan, "careful", slices=[1, 2]):
        np.testing.assert_array_equal(source.data[record.slice_index], record.source_mask)
        np.testing.assert_array_equal(adapted.data[record.slice_index], record.adapted_mask)
    assert adapted.data[1:3].any()
    assert not adapted.data[3:].any()
    (alone,) = segment_layer(layer, slices="2-3", device="cpu")
    np.testing.assert_array_equal(alone.data, source.data)


def test_a_script_is_told_what_is_wrong(volume: Path, photograph: Path) -> None:
    with pytest.raises(ModelError, match="tiny-eye"):
        segment_layer(layer_of(volume), "tiny-ear")
    with pytest.raises(ModelError, match="reads"):
        segment_layer(layer_of(photograph), "tiny-brain")
    with pytest.raises(ValueError, match="90"):
        segment_layer(layer_of(volume), slices="90")


def test_the_form_segments_without_the_dock(
    open_form: Callable[[str, Path], tuple[Any, Any]], photograph: Path, qtbot: Any, said: list[str]
) -> None:
    viewer, form = open_form("Segment this layer", photograph)
    form.call_button.native.click()
    assert form.call_button.text == "Cancel"
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    mask = viewer.layers[1]
    assert isinstance(mask, Labels)
    assert mask.data.any()
    assert mask.metadata["napari_grata"]["role"] == "source"
    assert form.call_button.text == "Segment"
    assert said[-1] == "1 photograph segmented."


def test_a_run_that_is_cancelled_keeps_what_is_finished_and_nothing_is_overwritten(
    open_form: Callable[[str, Path], tuple[Any, Any]], volume: Path, qtbot: Any
) -> None:
    viewer, form = open_form("Adapt this layer", volume)
    drawn = viewer.add_labels(np.ones((6, 48, 40), np.uint8), name="case_017 adapted")
    form.model.value = "tiny-brain"
    form.method.value = "as-published"
    form.call_button.native.click()
    form.call_button.native.click()
    assert form.call_button.text == "Cancelling …"
    qtbot.waitUntil(lambda: form.call_button.text == "Adapt", timeout=60_000)
    assert (drawn.data == 1).all()
    before = len(viewer.layers)
    form.slices.value = "1-2"
    form.call_button.native.click()
    qtbot.waitUntil(lambda: form.call_button.text == "Adapt", timeout=60_000)
    assert len(viewer.layers) == before + 2
    assert (drawn.data == 1).all()
    assert drawn.name == "case_017 adapted"


def test_what_the_form_cannot_do_is_a_sentence(
    open_form: Callable[[str, Path], tuple[Any, Any]], volume: Path, said: list[str]
) -> None:
    viewer, form = open_form("Adapt this layer", volume)
    form.model.value = "tiny-eye"
    form.call_button.native.click()
    assert "This model reads" in said[-1]
    assert form.call_button.text == "Adapt"
    assert len(viewer.layers) == 1


def test_both_commands_stand_in_the_menu_and_in_the_palette(
    make_napari_viewer: Callable[..., Any],
) -> None:
    from napari._app_model import get_app_model

    make_napari_viewer()
    app = get_app_model()
    there = {item.command.title for item in app.menus.get_menu("napari/layers/segment")}
    palette = {
        item.command.title: item.command
        for item in app.menus.get_menu(app.menus.COMMAND_PALETTE_ID)
    }
    for words in ("Adapt to a new centre", "Segment this layer", "Adapt this layer"):
        assert f"{words} (GraTa)" in there
        assert palette[f"{words} (GraTa)"].enablement is None
    for words in ("Open scans", "Save a mask on its scan's own grid"):  # no palette has a path
        assert not palette[f"{words} (GraTa)"].enablement.eval({})


def test_what_is_said_in_the_window_has_no_names_in_the_terminal(
    capsys: pytest.CaptureFixture[str], said: list[str]
) -> None:
    from napari.utils.notifications import show_console_notification

    from napari_grata.widgets.qt_parts import notify

    notification_manager.notification_ready.connect(show_console_notification)
    try:
        notify("eyes/miller.png: it cannot be read.")
    finally:
        notification_manager.notification_ready.disconnect(show_console_notification)
    assert said[-1] == "eyes/miller.png: it cannot be read."
    out = capsys.readouterr().out
    assert out.startswith("ERROR")
    assert "miller" not in out
