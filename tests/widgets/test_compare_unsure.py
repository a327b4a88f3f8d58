"""The uncertainty layer holds what was measured, for the slice in view, and goes when told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_grata.widgets.candidates import scan_layers


@pytest.fixture
def adapted(make_dock: Any, finished: Any) -> Any:
    """Return a function that makes a dock with an adapted model."""

    def make() -> Any:
        dock = make_dock()
        dock.adapt.adapt_button.click()
        finished(dock)
        dock.desk.go_to(2)
        return dock

    return make


def rested(qtbot: Any, dock: Any) -> Any:
    qtbot.waitUntil(lambda: not dock.compare.unsure.job.running, timeout=60_000)
    return dock.compare.unsure.layer


def test_the_slice_in_view_is_measured_and_then_the_next_one(adapted, qtbot):
    dock = adapted()
    layers = list(dock.viewer.layers)
    dock.compare.bar._actions["disagreement"].trigger()
    layer = rested(qtbot, dock)
    assert layer.data[2].any()
    assert not layer.data[[0, 1, 3, 4, 5]].any()
    assert 0 <= layer.data.min() <= layer.data.max() <= 0.5
    assert dock.compare.bar.unsure_button.isChecked()
    assert "six views" in dock.review.shown.said()
    dock.desk.go_to(3)
    rested(qtbot, dock)
    assert layer.data[3].any()
    dock.verbs["uncertainty"]()
    other = rested(qtbot, dock)
    assert dock.compare.unsure.kind == "margin"
    assert other.data[3].max() > 0.5
    dock.verbs["uncertainty"]()
    assert dock.compare.unsure.kind is None
    assert list(dock.viewer.layers) == layers
    assert not dock.compare.bar.unsure_button.isChecked()


def test_the_layer_is_no_scan_and_lies_below_the_masks(adapted, qtbot):
    dock = adapted()
    dock.compare.unsure.choose("margin")
    layer = rested(qtbot, dock)
    assert scan_layers(dock.viewer) == [dock.desk.layer]
    index = dock.viewer.layers.index
    assert index(dock.desk.layer) < index(layer) < index(dock.desk.session.before.layer)
    np.testing.assert_allclose(layer.scale, dock.desk.layer.scale)


def test_all_slices_are_measured_on_request(adapted, qtbot):
    dock = adapted()
    dock.compare.bar.all_action.trigger()
    layer = rested(qtbot, dock)
    assert all(layer.data[index].any() for index in range(6))


def test_without_a_run_it_is_the_model_before_that_is_measured(make_dock, finished, qtbot):
    dock = make_dock()
    dock.compare.unsure.choose("margin")
    assert dock.compare.unsure.kind is None
    assert "mask" in dock.review.shown.said()
    dock.model.segment_button.click()
    finished(dock)
    dock.compare.unsure.choose("margin")
    layer = rested(qtbot, dock)
    assert layer.data.any()
    assert "model before" in dock.review.shown.said()
    source = layer.data.copy()
    dock.adapt.adapt_button.click()
    finished(dock)
    layer = rested(qtbot, dock)
    assert "model as adapted" in dock.review.shown.said()
    here = dock.desk.in_view()
    assert abs(layer.data[here] - source[here]).max() > 1e-4


def test_deleting_the_layer_switches_it_off(adapted, qtbot):
    dock = adapted()
    dock.compare.unsure.choose("disagreement")
    layer = rested(qtbot, dock)
    dock.viewer.layers.remove(layer)
    assert dock.compare.unsure.kind is None
    dock.compare.unsure.choose("disagreement")
    dock.viewer.layers.clear()
    rested(qtbot, dock)
    assert dock.compare.unsure.layer is None


def test_closing_the_dock_takes_the_layer_along(adapted, qtbot):
    dock = adapted()
    viewer = dock.viewer
    dock.compare.unsure.choose("disagreement")
    rested(qtbot, dock)
    names = [layer.name for layer in viewer.layers]
    assert any("uncertainty" in name for name in names)
    viewer.window.remove_dock_widget("all")
    dock.ties.cut()
    assert not any("uncertainty" in layer.name for layer in viewer.layers)
