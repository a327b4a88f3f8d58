"""Ways to compare show both masks, touch no data, and leave the viewer as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QImage, QMouseEvent, QWheelEvent
from qtpy.QtWidgets import QApplication

from napari_grata.widgets.viewer_parts import camera_of

WAYS = ("contours", "curtain", "side_by_side", "planes")


def fill(dock: Any) -> None:
    """Give the chosen scan masks before and after that lie side by side."""
    desk = dock.desk
    session = desk.sessions.get(desk.layer, desk.scan, desk.entry, filled=False)
    session.begin_segmenting(None)
    session.begin_adapting(None)
    for put, columns in ((session.put_before, slice(4, 20)), (session.put_after, slice(20, 36))):
        for index in range(desk.scan.n_slices):
            mask = np.zeros(desk.scan.slice_shape(index), np.uint8)
            mask[10:30, columns] = 1
            put(index, mask)
    session.settle()
    session.show_after(True)
    desk.session_changed.emit()
    desk.changed.emit()


@pytest.fixture
def reviewed(make_dock: Any) -> Any:
    """Return a function that makes a dock with masks before and after."""

    def make() -> Any:
        dock = make_dock()
        window = dock.viewer.window._qt_window
        window.resize(1500, 800)
        window.show()
        fill(dock)
        dock.desk.go_to(2)
        QApplication.processEvents()
        return dock

    return make


def grab(widget: Any) -> np.ndarray:
    """Return a widget as painted, shape (H, W, 4), alpha last."""
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGBA8888)
    bits = image.constBits()
    bits.setsize(image.sizeInBytes() if hasattr(image, "sizeInBytes") else image.byteCount())
    return np.frombuffer(bits, np.uint8).reshape(image.height(), -1, 4)[:, : image.width()].copy()


def coloured(picture: np.ndarray) -> np.ndarray:
    """Return where the disc's blue (#56B4E9) is, or a paler one."""
    r, g, b = (picture[..., channel].astype(int) for channel in range(3))
    return (b > r + 40) & (b > 120) & (g > r)


def visible(dock: Any) -> tuple[bool, bool]:
    session = dock.desk.session
    return session.before.visible, session.after.visible


def drag(widget: Any, begin: QPoint, end: QPoint) -> None:
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    for kind, place, buttons in (
        (QEvent.Type.MouseButtonPress, begin, left),
        (QEvent.Type.MouseMove, end, left),
        (QEvent.Type.MouseButtonRelease, end, Qt.MouseButton.NoButton),
    ):
        button = Qt.MouseButton.NoButton if kind == QEvent.Type.MouseMove else left
        where = QPointF(place), QPointF(widget.mapToGlobal(place))
        QApplication.sendEvent(widget, QMouseEvent(kind, *where, button, buttons, none))


def wheel(widget: Any, notches: int, modifier: Any = None) -> None:
    place = QPointF(widget.rect().center())
    QApplication.sendEvent(
        widget,
        QWheelEvent(
            place,
            QPointF(widget.mapToGlobal(place.toPoint())),
            QPoint(0, 0),
            QPoint(0, 120 * notches),
            Qt.MouseButton.NoButton,
            modifier or Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        ),
    )


def test_nothing_can_be_compared_before_there_are_two_masks(make_dock):
    dock = make_dock()
    for name in WAYS:
        assert not dock.compare.bar.buttons[name].isEnabled()
        assert "First" in dock.compare.bar.buttons[name].toolTip()
        dock.verbs[name]()
    assert dock.compare.way is None


def test_contours_show_both_masks_and_give_the_layers_back(reviewed):
    dock = reviewed()
    data = [mask.layer.data.copy() for mask in (dock.desk.session.before, dock.desk.session.after)]
    before = visible(dock)
    dock.compare.bar.buttons["contours"].click()
    assert visible(dock) == (False, False)
    assert dock.compare.bar.buttons["contours"].isChecked()
    assert coloured(grab(dock.compare._overlay)).sum() > 200
    dock.compare.bar.buttons["contours"].click()
    assert visible(dock) == before
    assert not dock.compare.bar.buttons["contours"].isChecked()
    assert not dock.compare._overlay.isVisible()
    for mask, old in zip((dock.desk.session.before, dock.desk.session.after), data, strict=True):
        np.testing.assert_array_equal(mask.layer.data, old)


def test_contours_follow_what_is_drawn_on_a_mask(reviewed):
    dock = reviewed()
    dock.verbs["contours"]()
    old = coloured(grab(dock.compare._overlay))
    after = dock.desk.session.after.layer
    after.data[2] = 0
    after.refresh()
    after.events.labels_update(data=after.data[2], offset=(0, 0))
    new = coloured(grab(dock.compare._overlay))
    assert new.sum() < 0.7 * old.sum()


def test_the_key_for_before_and_after_ends_contours_with_one_mask_in_view(reviewed):
    dock = reviewed()
    dock.verbs["contours"]()
    dock.desk.toggle_masks()
    assert dock.compare.way is None
    assert visible(dock) == (False, True)
    dock.desk.toggle_masks()
    assert visible(dock) == (True, False)


def test_the_curtain_shows_before_on_its_left_and_after_on_its_right(reviewed, qtbot):
    dock = reviewed()
    dock.desk.toggle_fill()
    dock.compare.toggle("curtain")
    handle = dock.compare._modes["curtain"].handle
    session = dock.desk.session
    pictures = {}
    for place in (0.0, 0.5, 1.0):
        handle.move_to(place)
        pictures[place] = coloured(dock.viewer.screenshot(canvas_only=True, flash=False))
    # All of one mask or all of the other; halfway the left half of one, the right of the other.
    assert pictures[0.0].sum() > 100
    assert pictures[1.0].sum() > 100
    middle = pictures[0.5].shape[1] // 2
    half = pictures[0.5]
    np.testing.assert_array_equal(half[:, : middle - 2], pictures[1.0][:, : middle - 2])
    np.testing.assert_array_equal(half[:, middle + 2 :], pictures[0.0][:, middle + 2 :])
    dock.compare.toggle("curtain")
    session.show_after(True)
    whole = coloured(dock.viewer.screenshot(canvas_only=True, flash=False))
    np.testing.assert_array_equal(whole, pictures[0.0])


def test_the_curtain_is_dragged_and_moved_with_keys(reviewed, qtbot):
    dock = reviewed()
    dock.compare.toggle("curtain")
    handle = dock.compare._modes["curtain"].handle
    width = handle.parentWidget().width()
    drag(handle, handle.rect().center(), handle.rect().center() + QPoint(width // 4, 0))
    assert handle.place == pytest.approx(0.75, abs=0.02)
    place = handle.place
    qtbot.keyClick(handle, Qt.Key.Key_Left)
    assert handle.place < place
    place = handle.place
    dock.verbs["curtain_right"]()
    assert handle.place > place
    handle.move_to(7)
    assert handle.place == 1.0
    assert dock.viewer.dims.current_step[0] == 2, "slices stay where they are"


def test_side_by_side_moves_both_pictures_and_gives_the_room_back(reviewed, qtbot):
    dock = reviewed()
    canvas = dock.compare._make_modes() and dock.compare._overlay.parentWidget()
    wide, shown = canvas.width(), visible(dock)
    camera = camera_of(dock.viewer)
    dock.compare.toggle("side_by_side")
    qtbot.waitUntil(lambda: canvas.width() < 0.6 * wide)
    twin = dock.compare._modes["side_by_side"].twin
    assert abs(twin.width() - canvas.width()) < 0.1 * wide
    before = coloured(grab(twin))
    assert before.sum() > 100
    assert coloured(grab(dock.compare._overlay)).sum() > 100
    zoom = camera.zoom
    wheel(twin, 2)
    assert camera.zoom > zoom
    centre = camera.center
    drag(twin, QPoint(60, 100), QPoint(100, 130))
    assert camera.center[-1] == pytest.approx(centre[-1] - 40 / camera.zoom)
    assert camera.center[-2] == pytest.approx(centre[-2] - 30 / camera.zoom)
    wheel(twin, 1, Qt.KeyboardModifier.ControlModifier)
    assert dock.desk.in_view() == 3
    dock.compare.toggle("side_by_side")
    qtbot.waitUntil(lambda: canvas.width() == wide)
    assert visible(dock) == shown


def test_three_planes_go_where_the_person_clicks(reviewed, qtbot):
    dock = reviewed()
    dock.compare.toggle("planes")
    crossing = dock.compare._modes["planes"]
    shown = [pane for pane in crossing.panes if not pane.isHidden()]
    assert [pane.across for pane in shown] == [1, 2], "the canvas shows the axial one"
    qtbot.waitUntil(lambda: shown[0].width() > 100)
    pane = shown[0]
    height, wide = pane.height(), pane.width()
    middle = QPoint(wide // 2, height // 2)
    drag(pane, middle, middle)
    dims = dock.viewer.dims
    low, high = np.asarray(dock.desk.session.before.layer.extent.world)
    # Within a voxel of the middle of the volume, on the axes of this plane.
    for axis, step in ((0, 4.0), (2, 1.5)):
        assert abs(dims.point[axis] - (low[axis] + high[axis]) / 2) <= step
    here = dims.current_step[1]
    wheel(pane, 1)
    assert dims.current_step[1] == here + 1
    # Superior is up: a click near the top goes to a higher slice.
    drag(pane, QPoint(wide // 2, height // 2 - 3), QPoint(wide // 2, height // 2 - 3))
    # Voxels of 4 × 1.5 mm are drawn in their true proportions.
    screen = pane.screen()
    assert abs(screen.m11()) == pytest.approx(abs(screen.m22()))
    assert screen.m22() < 0
    dims.order = (1, 0, 2)
    shown = [pane.across for pane in crossing.panes if not pane.isHidden()]
    assert shown == [0, 2]
    for pane in crossing.panes:
        grab(pane)
    dock.compare.toggle("planes")
    assert crossing.column is None
    assert crossing._on_press not in dock.viewer.mouse_drag_callbacks


def test_every_way_ends_cleanly_when_what_it_shows_goes_away(reviewed):
    dock = reviewed()
    # napari itself warns of contours in three dimensions.
    dock.desk.toggle_fill()
    viewer, session = dock.viewer, dock.desk.session
    shown = visible(dock)
    for way in WAYS:
        button = dock.compare.bar.buttons[way]
        dock.verbs[way]()
        assert button.isChecked()
        viewer.dims.ndisplay = 3
        assert not button.isChecked()
        assert "three dimensions" in button.toolTip()
        viewer.dims.ndisplay = 2
        assert visible(dock) == shown
        dock.verbs[way]()
        assert button.isChecked()
        viewer.layers.remove(session.before.layer)
        assert not button.isChecked()
        dock.verbs[way]()
        assert session.before.shown, "a deleted mask comes back where it is asked for"
        dock.verbs[way]()
        session.show_after(True)
    dock.verbs["planes"]()
    dock.verbs["contours"]()
    viewer.theme = "light"
    assert coloured(grab(dock.compare._overlay)).any()
    viewer.layers.clear()
    QApplication.processEvents()
    assert dock.compare.way is None
    assert not dock.compare.bar.buttons["planes"].isChecked()


@pytest.mark.parametrize("ways", [("curtain",), ("side_by_side",), ("contours", "planes")])
def test_closing_the_dock_takes_everything_along(reviewed, ways):
    dock = reviewed()
    viewer, shown = dock.viewer, visible(dock)
    session = dock.desk.session
    for way in ways:
        dock.verbs[way]()
    canvas = dock.compare._overlay.parentWidget()
    viewer.window.remove_dock_widget("all")
    dock.deleteLater()
    del dock
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()
    assert (session.before.visible, session.after.visible) == shown
    viewer.dims.set_current_step(0, 1)
    names = {child.objectName() for child in canvas.children()}
    assert not names & {"grata_overlay", "grata_curtain"}


def test_a_way_follows_to_another_scan_that_has_masks_and_ends_at_one_that_has_none(
    reviewed, volume: Path, tmp_path: Path, qtbot
):
    dock = reviewed()
    first = dock.desk.layer
    shown = visible(dock)
    session = dock.desk.session
    dock.verbs["contours"]()
    other = tmp_path / "case_018.nii.gz"
    other.write_bytes(volume.read_bytes())
    dock.opening.open(str(other))
    qtbot.waitUntil(lambda: dock.desk.layer is not first)
    assert dock.compare.way is None
    assert (session.before.visible, session.after.visible) == shown
    fill(dock)
    dock.verbs["contours"]()
    dock.scan.choose(first)
    dock.choosing.choose()
    assert dock.desk.session is session
    assert dock.compare.way == "contours"
    assert dock.compare._session is session


def test_photographs_have_no_planes(make_dock, qtbot):
    dock = make_dock(scan=None)
    picture = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    layer = dock.viewer.add_image(picture, rgb=True)
    qtbot.waitUntil(lambda: dock.desk.layer is layer)
    assert "photograph" in dock.compare.bar.buttons["planes"].toolTip()
    dock.verbs["planes"]()
    assert not dock.compare.bar.buttons["planes"].isChecked()
