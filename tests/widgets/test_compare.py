"""How masks are shown: each way on the slice in view, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels, Vectors
from qtpy.QtCore import QEvent
from qtpy.QtGui import QOpenGLContext
from qtpy.QtWidgets import QApplication
from vispy.gloo.glir import GlirParser

from napari_grata.adaptation.uncertainty import KINDS as MEASURED
from napari_grata.segmenters import Card, Structure
from napari_grata.widgets.lines import dashed, outlines
from napari_grata.widgets.overlays import WAYS
from napari_grata.widgets.scan_layer import (
    as_one_change,
    camera_of,
    canvases,
    grid_of,
    remove_layers,
)
from napari_grata.widgets.uncertainty import KINDS

Start = Callable[..., Any]
Reader = Callable[..., Any]


def fill(user: Any) -> None:
    """Give the scan in view masks before (columns 4 … 19) and after (20 … 35)."""
    context = user.context
    session = context.sessions.get(context.layer, context.scan, context.entry, filled=None)
    session.begin_segmenting(None)
    session.begin_adapting(None)
    for put, columns in ((session.put_source, slice(4, 20)), (session.put_adapted, slice(20, 36))):
        for index in range(context.scan.n_slices):
            mask = np.zeros(context.scan.slice_shape(index), np.uint8)
            mask[10:30, columns] = 1
            put(index, mask)
    session.settle()
    context.take_results()
    context.show_mode("adapted")
    user.settle()


@pytest.fixture
def reader(start: Start, volume: Path) -> Reader:
    """Return a function that opens the dock on a scan with masks before and after."""

    def make(scan: Any = volume) -> Any:
        user = start(scan)
        fill(user)
        user.context.go_to(2)
        user.settle()
        return user

    return make


@pytest.fixture
def adapted(start: Start, volume: Path) -> Reader:
    """Return a function that opens the dock on an adapted volume."""

    def make() -> Any:
        user = start(volume)
        user.adapt()
        user.context.go_to(2)
        return user

    return make


def roles(user: Any) -> list[str]:
    """Return the roles of what lies over the scan for a comparison."""
    found = [layer.metadata.get("napari_grata", {}).get("role") for layer in user.viewer.layers]
    return [role for role in found if role in ("view", "uncertainty")]


def lines(user: Any) -> dict[str, Vectors]:
    """Return the layers of lines, by the end of their names."""
    found = [layer for layer in user.viewer.layers if isinstance(layer, Vectors)]
    return {layer.name.removeprefix(user.context.scan.name).strip(): layer for layer in found}


def named(user: Any, end: str) -> Any:
    return next(layer for layer in user.viewer.layers if layer.name.endswith(end))


def visible(user: Any) -> tuple[bool, bool]:
    return user.session.source.visible, user.session.adapted.visible


def caption(user: Any) -> str:
    """Return the words in the corner of the canvas."""
    canvas = getattr(user.viewer, "canvas", None)
    text = user.viewer.text_overlay if canvas is None else canvas.overlays.text
    return str(text.text) if text.visible else ""


def ours(viewer: Any) -> list[Any]:
    """Return what of ours listens to the mouse on the canvas."""
    return [f for f in viewer.mouse_drag_callbacks if f.__module__.startswith("napari_grata")]


def drag(user: Any, begin: tuple[float, ...], end: tuple[float, ...] | None = None) -> bool:
    """Press the mouse at a point of the world, move it, let go; returns if somebody took it."""
    taken = False
    for callback in ours(user.viewer):
        event = SimpleNamespace(type="mouse_press", position=begin, button=1, handled=False)
        steps: Iterator[None] = callback(user.viewer, event)
        next(steps, None)
        if end is not None:
            event.type, event.position = "mouse_move", end
            next(steps, None)
        event.type = "mouse_release"
        next(steps, None)
        taken = taken or event.handled
    user.settle()
    return taken


def point(user: Any, row: float, column: float) -> tuple[float, ...]:
    """Return the place in the world of a pixel of the slice in view."""
    index = user.context.in_view()
    return tuple(user.context.layer.data_to_world((index, row, column)))


def test_nothing_can_be_compared_before_there_are_two_masks(start: Start, volume: Path) -> None:
    user = start(volume)
    control = user.dock.view_control
    assert control.isHidden()
    for name in (*WAYS, "difference", "toggle_masks"):
        user.do(name)
        assert "Adapt first" in user.dock.hint.said()
    assert user.context.mode == "adapted"
    user.context.runner.segment()
    user.finish()
    assert not control.isHidden()
    assert control.modes.buttons["source"].isEnabled()
    for name in (*WAYS, "difference", "adapted"):
        assert not control.modes.buttons[name].isEnabled()
        assert "Adapt first" in control.modes.buttons[name].toolTip()
    assert not roles(user)


def test_before_after_and_difference_by_key(reader: Reader) -> None:
    user = reader()
    session = user.session
    user.do("toggle_masks")
    assert visible(user) == (True, False)
    user.do("toggle_masks")
    assert visible(user) == (False, True)
    seen = []
    for _ in range(4):
        user.do("difference")
        seen.append(session.difference_of)
        assert ("blue added" in caption(user)) == (session.difference_of is not None)
    assert seen == ["", "disc", "cup", None]
    assert user.context.mode == "adapted"
    user.press(user.dock.view_control.modes.buttons["difference"])
    user.press(user.dock.view_control.modes.buttons["difference"])
    assert session.difference_of == "disc"


def test_after_a_run_the_difference_lies_over_dimmed_contours(adapted: Reader) -> None:
    user = adapted()
    assert user.context.mode == "difference"
    layer = user.session.adapted.layer
    dimmed = layer.opacity
    camera_of(user.viewer).zoom *= 3
    user.qtbot.wait(200)
    assert layer.opacity == dimmed
    user.do("toggle_masks")
    user.do("toggle_masks")
    assert layer.visible
    assert layer.opacity > 1.5 * dimmed
    user.context.look_back(2)
    user.settle()
    user.do("difference")
    assert user.context.step is None, "it is of the result, and would lie over an earlier step"
    assert named(user, "difference").visible
    user.viewer.dims.order = (0, 2, 1)
    user.context.show_mode("contours")  # not so turned: the mask after stands in for them
    user.settle()
    user.context.look_back(2)
    user.wait(lambda: visible(user) == (False, False))
    user.context.look_back(None)
    user.settle()
    assert visible(user) == (False, True)


def test_every_way_shows_the_slice_in_view_and_leaves_nothing_behind(reader: Reader) -> None:
    user = reader()
    camera, grid = camera_of(user.viewer), grid_of(user.viewer)
    layers = [layer.name for layer in user.viewer.layers]
    data = [mask.layer.data.copy() for mask in (user.session.source, user.session.adapted)]
    view = tuple(camera.center), camera.zoom
    for name in WAYS:
        user.do(name)
        assert user.context.mode == name
        assert roles(user), name
        assert caption(user)
        assert user.dock.view_control.modes.buttons[name].property("chosen") == "true"
        user.context.go_to(4)
        user.settle()
        assert user.context.in_view() == 4
        assert user.context.layer is user.session.scan_layer()
        user.do(name)
        assert user.context.mode == "adapted"
        assert not roles(user)
        assert not caption(user)
        assert visible(user) == (False, True)
        assert [layer.name for layer in user.viewer.layers] == layers
        assert not grid.enabled
        assert (tuple(camera.center), camera.zoom) == (view[0], pytest.approx(view[1]))
    assert not ours(user.viewer)
    for mask, old in zip((user.session.source, user.session.adapted), data, strict=True):
        np.testing.assert_array_equal(mask.layer.data, old)


def test_contours_follow_masks_legend_and_zoom(reader: Reader) -> None:
    user = reader()
    user.do("contours")
    assert visible(user) == (False, False)
    thick, thin = lines(user)["contours after"], lines(user)["contours before"]
    for layer, columns in ((thin, (3.5, 19.5)), (thick, (19.5, 35.5))):
        assert (layer.data[:, 0, -1].min(), layer.data[:, 0, -1].max()) == columns
        assert (layer.data[:, 0, 0] == 2).all()
    assert thick.edge_width > thin.edge_width
    assert len(np.unique(thin.edge_color, axis=0)) == 2, "before is dashed"
    # As wide on the screen at any zoom.
    wide = thick.edge_width
    camera_of(user.viewer).zoom *= 4
    user.wait(lambda: abs(thick.edge_width - wide / 4) < 1e-3 * wide, 5)
    user.paint(2, 20, 38)
    assert thick.data[:, 0, -1].max() > 37
    user.context.go_to(3)
    user.settle()
    assert (thick.data[:, 0, 0] == 3).all()
    assert thick.data[:, 0, -1].max() == 35.5
    user.press(user.dock.legend.chips[1])
    assert not len(lines(user)["contours after"].data), "what the legend hides is not outlined"


def test_left_of_the_curtain_is_the_source_right_of_it_the_adapted_mask(reader: Reader) -> None:
    user = reader()
    drawn = user.session.adapted.layer.data.copy()
    user.do("curtain_left")
    assert user.dock.hint.said() == "Draw the curtain first (W)."
    user.do("curtain")
    curtain = named(user, "curtain")
    source = user.session.source.stack[2]

    def line() -> int:
        return round(float(lines(user)["curtain line"].data[0, 0, -1]) + 0.5)

    def is_cut() -> bool:
        shown = curtain.data[0]
        left = np.array_equal(shown[:, : line()], source[:, : line()])
        return left and np.array_equal(shown[:, line() :], drawn[2][:, line() :])

    middle = line()
    assert is_cut()
    user.do("curtain_left")
    assert line() < middle
    assert is_cut()
    user.do("curtain_right")
    assert line() == middle
    assert not drag(user, point(user, 20, 2), point(user, 20, 9)), "elsewhere the mouse is napari's"
    assert drag(user, point(user, 20, middle), point(user, 20, 12))
    assert line() == 12
    assert is_cut()
    # It stays where it is on the screen while the picture moves below it.
    camera = camera_of(user.viewer)
    camera.center = (*camera.center[:-1], camera.center[-1] + 6)
    user.settle()
    assert line() > 12
    assert is_cut()
    assert user.context.in_view() == 2
    np.testing.assert_array_equal(user.session.adapted.layer.data, drawn)


def test_side_by_side_are_two_cells_that_move_together(reader: Reader) -> None:
    user = reader()
    viewer, grid = user.viewer, grid_of(user.viewer)
    user.do("side_by_side")

    def cell(layer: Any) -> tuple[int, int]:
        index = viewer.layers.index(layer)
        try:
            return tuple(grid.position(index, viewer.layers))
        except TypeError:  # before napari 0.9
            return tuple(grid.position(index, len(viewer.layers)))

    beside = [layer for layer in viewer.layers if "beside" in layer.name]
    picture = next(layer for layer in beside if isinstance(layer, Image))
    mask = next(layer for layer in beside if isinstance(layer, Labels))
    assert {cell(user.context.layer), cell(user.session.source.layer)} == {(0, 0)}
    assert {cell(picture), cell(mask)} == {(0, 1)}
    assert user.session.source.visible
    np.testing.assert_array_equal(mask.data[0], user.session.adapted.stack[2])
    user.context.layer.contrast_limits = (20, 90)
    assert tuple(picture.contrast_limits) == (20, 90)
    # Whoever switches the grid off by napari's own button has one picture again.
    grid.enabled = False
    user.settle()
    assert user.context.mode == "adapted"
    assert not roles(user)
    grid.enabled = True
    user.do("contours")
    assert "switch the grid off" in user.dock.hint.said()
    assert not roles(user)


def test_three_planes_stand_upright_and_a_click_goes_there(reader: Reader) -> None:
    user = reader()
    data = user.context.layer.data
    user.do("planes")
    coronal, sagittal = named(user, "coronal"), named(user, "sagittal")
    # Superior is up.
    np.testing.assert_array_equal(coronal.data, data[::-1, data.shape[1] // 2])
    np.testing.assert_array_equal(sagittal.data, data[::-1, :, data.shape[2] // 2])
    assert tuple(sagittal.scale) == (4.0, 1.5), "voxels in their true proportions"
    assert coronal.extent.world[1][-1] < sagittal.extent.world[0][-1], "beside one another"
    drag(user, point(user, 7, 9))
    np.testing.assert_array_equal(coronal.data, data[::-1, 7])
    np.testing.assert_array_equal(sagittal.data, data[::-1, :, 9])
    # A click near the top of a plane goes to a higher slice.
    top = (0.0, *(float(x) for x in coronal.data_to_world((0, 30))))
    drag(user, top)
    assert user.context.in_view() == 5
    np.testing.assert_array_equal(sagittal.data, data[::-1, :, 30])
    drag(user, point(user, 20, 20), point(user, 25, 25))
    np.testing.assert_array_equal(sagittal.data, data[::-1, :, 30], "a drag moves the picture")


def test_a_photograph_has_no_planes(reader: Reader, photograph: Path) -> None:
    user = reader(photograph)
    button = user.dock.view_control.modes.buttons["planes"]
    assert not button.isEnabled()
    assert "Only a volume has three planes." in button.toolTip()
    user.do("planes")
    assert user.context.mode == "adapted"
    for name in ("contours", "curtain", "side_by_side"):
        user.do(name)
        assert roles(user)


def test_a_way_makes_room_for_what_it_cannot_show(reader: Reader) -> None:
    user = reader()
    user.do("fill")  # napari itself warns of contours in three dimensions
    buttons = user.dock.view_control.modes.buttons
    user.do("contours")
    user.viewer.dims.ndisplay = 3
    user.settle()
    assert not roles(user)
    assert all("three dimensions" in buttons[name].toolTip() for name in WAYS)
    assert visible(user) == (False, True)
    user.viewer.dims.ndisplay = 2
    user.settle()
    assert roles(user)
    for name in ("contours", "side_by_side"):
        user.context.show_mode(name)
        user.settle()
        user.viewer.layers.remove(user.viewer.layers[-1])
        user.settle()
        assert user.context.mode == "adapted", "deleting what is drawn ends it"
        assert not roles(user)
    user.do("curtain")
    camera_of(user.viewer).zoom *= 2  # the curtain follows in a moment, when it is gone
    camera_of(user.viewer).center = (0, 9, 9)
    user.viewer.layers.clear()
    user.qtbot.wait(200)
    assert not len(user.viewer.layers)


def test_a_way_goes_along_to_the_next_scan(reader: Reader, volume: Path, tmp_path: Path) -> None:
    user = reader()
    first = user.context.layer
    user.do("contours")
    other = tmp_path / "case_018.nii.gz"
    other.write_bytes(volume.read_bytes())
    user.open(other)
    assert user.context.layer is not first
    assert not roles(user)
    fill(user)
    assert visible(user) == (False, True)
    user.do("contours")
    assert list(lines(user))[-1] == "contours before"
    user.context.choose_layer(first)
    user.settle()
    assert all(name.startswith("contours") for name in lines(user))
    assert visible(user) == (False, False)


def test_a_way_is_not_drawn_for_a_scan_that_has_just_come(reader: Reader, photograph: Path) -> None:
    user = reader()
    brain = user.context.layer
    user.open(photograph)
    fill(user)
    user.do("contours")
    user.context.choose_layer(brain)  # a slice that the photograph has not
    user.dock.view_control._zoomed()  # its timer may be up before the way ends
    user.settle()
    assert not [name for name in lines(user) if "eye" in name]


def test_while_painting_the_mask_is_in_view_and_filled(reader: Reader) -> None:
    user = reader()
    layer = user.session.adapted.layer
    for name in ("contours", "difference"):
        user.do(name)
        user.do("paint")
        assert not roles(user)
        assert visible(user) == (False, True)
        assert layer.contour == 0
        assert not any(x.visible for x in user.viewer.layers if x.name.endswith("difference"))
        user.paint(2, 20, 38)
        user.do("paint")
        assert user.context.mode == name
    assert layer.contour > 0
    difference = named(user, "difference")
    assert difference.visible
    assert difference.data[2, 20, 38], "what was painted is in the difference"
    user.do("contours")
    assert lines(user)["contours after"].data[:, 0, -1].max() > 37
    user.do("difference")
    user.do("paint")
    user.do("difference")  # of the next structure
    assert (user.context.painting, user.context.mode) == (True, "difference")
    assert not named(user, "difference").visible, "it would cover what is painted"
    user.do("paint")
    assert named(user, "difference").visible


def test_what_was_drawn_earlier_and_comes_back_is_in_the_difference(reader: Reader) -> None:
    user = reader()
    user.do("difference")
    adapted, difference = user.session.adapted, named(user, "difference")
    drawing = adapted.as_shown()
    drawing[2, 20, 38] = 1
    for stack in (drawing, adapted.stack):
        adapted.put_drawing(stack)
        user.session.look_for_drawings()
        assert bool(difference.data[2, 20, 38]) == bool(stack[2, 20, 38])


def test_a_large_picture_is_filled_and_its_outlines_are_as_wide_on_the_screen(
    start: Start,
) -> None:
    user = start()
    pixels = np.random.default_rng(0).integers(0, 255, (1600, 1700, 3)).astype(np.uint8)
    layer = user.viewer.add_image(pixels, rgb=True, name="large")
    user.wait(lambda: user.context.layer is layer)
    user.context.store.set("filled", False)
    fill(user)
    assert user.session.filled
    assert user.session.adapted.layer.contour == 0
    user.do("fill")
    assert "always filled" in user.dock.hint.said()
    assert user.session.adapted.layer.contour == 0
    user.do("contours")
    zoom = camera_of(user.viewer).zoom
    assert lines(user)["contours after"].edge_width * zoom == pytest.approx(3.0)


def test_fill_is_for_every_way_and_the_user_s_words_on_the_canvas_stay(reader: Reader) -> None:
    user = reader()
    canvas = getattr(user.viewer, "canvas", None)
    text = user.viewer.text_overlay if canvas is None else canvas.overlays.text
    text.text, text.visible = "mine", True
    user.do("curtain")
    assert caption(user) == "mine"
    assert named(user, "curtain").contour > 0
    user.press(user.dock.view_control.switches.buttons["fill"])
    assert named(user, "curtain").contour == 0
    user.do("curtain")
    assert user.session.adapted.layer.contour == 0
    user.do("fill")
    assert user.session.adapted.layer.contour >= user.session.source.layer.contour > 0
    assert caption(user) == "mine"


def test_closing_the_dock_takes_everything_along(reader: Reader) -> None:
    user = reader()
    viewer = user.viewer
    user.do("uncertainty")
    user.wait(lambda: "uncertainty" in roles(user))
    user.do("side_by_side")
    viewer.window.remove_dock_widget("all")
    user.dock.deleteLater()
    del user.dock
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    assert not roles(user)
    assert not caption(user)
    assert not grid_of(viewer).enabled
    assert not ours(viewer)
    viewer.dims.set_current_step(0, 1)


# --- uncertainty -------------------------------------------------------------------------------


def test_every_kind_of_uncertainty_that_is_offered_can_be_measured() -> None:
    assert tuple(KINDS) == MEASURED


def test_where_the_model_is_unsure_is_measured_for_the_slice_in_view(adapted: Reader) -> None:
    user = adapted()
    names = [layer.name for layer in user.viewer.layers]
    user.do("uncertainty")
    user.wait(lambda: roles(user) == ["uncertainty"])
    layer = named(user, "uncertainty")
    assert "the views disagree" in caption(user)
    assert "model as adapted" in caption(user)
    assert 0 < float(np.max(layer.data)) <= 0.5
    index = user.viewer.layers.index
    assert index(user.context.layer) < index(layer) < index(user.session.source.layer)
    assert user.context.layer is user.session.scan_layer()
    before = np.array(layer.data)
    user.context.go_to(3)
    user.wait(lambda: layer.visible and not np.array_equal(before, layer.data))
    assert layer.extent.world[0][0] == point(user, 0, 0)[0], "it lies on its slice"
    user.do("uncertainty")
    user.wait(lambda: "close the decision" in caption(user))
    assert float(np.max(named(user, "uncertainty").data)) > 0.5
    user.do("uncertainty")
    assert not roles(user)
    assert [layer.name for layer in user.viewer.layers] == names
    user.do("uncertainty")
    user.wait(lambda: roles(user) == ["uncertainty"])
    user.viewer.layers.remove(named(user, "uncertainty"))
    user.settle()
    assert user.dock.view_control.uncertainty.kind is None, "deleting it switches it off"


def test_without_a_run_it_is_the_source_model_that_is_measured(start: Start, volume: Path) -> None:
    user = start(volume)
    user.do("uncertainty")
    assert user.dock.hint.said() == "First there must be a mask."
    user.context.runner.segment()
    user.finish()
    user.do("uncertainty")
    user.wait(lambda: "model before" in caption(user))
    user.adapt()
    user.wait(lambda: "model as adapted" in caption(user))


# --- what is drawn -------------------------------------------------------------------------------

CARD = Card(
    name="two",
    title="Two",
    structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
    architecture="resunet",
    channels=1,
    weights_sha256="0" * 64,
)


def test_outlines_run_between_pixels_and_the_smaller_structure_gets_a_shared_border() -> None:
    mask = np.zeros((12, 14), np.uint8)
    mask[2:9, 3:11] = 1
    mask[2:5, 4:7] = 2
    found = outlines(CARD, mask, set())
    assert [colour for _, colour in found] == ["#56B4E9", "#E69F00"]
    disc, cup = (points for points, _ in found)
    assert (disc.min(axis=0) == (1.5, 2.5)).all()
    assert (disc.max(axis=0) == (8.5, 10.5)).all(), "the cup is inside the disc"
    assert (cup.max(axis=0) == (4.5, 6.5)).all()
    assert len(outlines(CARD, mask, {1})) == 1
    assert not outlines(CARD, np.zeros_like(mask), set())


def test_dashes_are_as_long_as_they_are_told_to_be() -> None:
    cut, gaps = dashed(np.array([[0.0, 0.0], [0.0, 10.0]]), 2.5)
    np.testing.assert_allclose(cut[:, 1], [0, 2.5, 5, 7.5, 10])
    assert gaps.tolist() == [False, True, False, True]


# --- taking layers out ---------------------------------------------------------------------------


def test_layers_are_taken_out_where_they_were_drawn_and_from_the_top(
    reader: Reader, qtbot: Any
) -> None:
    """Deleted in another context of OpenGL, a layer ends napari at the second redraw after it."""
    user = reader()
    viewer, window = user.viewer, user.dock.window()
    window.show()
    canvas = canvases(window)[0]
    user.wait(canvas.isValid)
    user.settle()
    gone: list[str] = []
    current: list[bool] = []

    def on_removed(event: Any) -> None:
        gone.append(event.value.name)
        context = QOpenGLContext.currentContext()
        current.append(context is not None and context == canvas.context())

    viewer.layers.events.removed.connect(on_removed)
    user.do("contours")
    user.do("contours")
    assert len(gone) == 3
    names = [layer.name for layer in viewer.layers]
    remove_layers(viewer, list(viewer.layers))
    assert gone[3:] == names[::-1]
    assert not len(viewer.layers)
    assert all(current)
    viewer.add_image(np.zeros((40, 40)))
    for theme in ("light", "dark", "light"):  # redraws
        viewer.theme = theme
        qtbot.wait(50)


def test_all_that_the_canvas_is_told_is_told_in_its_own_context(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of a batch napari deletes what it finds unused, whether a layer went or not."""
    user = reader()
    user.dock.window().show()
    canvas = canvases(user.dock.window())[0]
    user.wait(canvas.isValid)
    told: list[bool] = []
    parse = GlirParser.parse

    def watched(parser: Any, commands: Any) -> None:
        told.append(QOpenGLContext.currentContext() == canvas.context())
        parse(parser, commands)

    monkeypatch.setattr(GlirParser, "parse", watched)
    for _ in range(2):
        grid_of(user.viewer).enabled = not grid_of(user.viewer).enabled
        user.settle()
    canvas.doneCurrent()
    begun = len(told)
    with as_one_change(user.viewer):
        pass
    assert len(told) > begun
    assert all(told)
