"""Planes, pictures and outlines lie where napari itself draws the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtCore import QPointF, QRectF, QSize
from qtpy.QtGui import QColor, QImage, QPainter, QTransform

from napari_grata.adaptation.uncertainty import KINDS as MEASURED
from napari_grata.segmenters import Card, Structure
from napari_grata.widgets.compare import drawing
from napari_grata.widgets.compare.pane import plane_name
from napari_grata.widgets.compare.picture import fill_of, picture_of
from napari_grata.widgets.compare.planes import plane_in_view, world_to_screen
from napari_grata.widgets.compare.unsure import KINDS
from napari_grata.widgets.viewer_parts import camera_of

CARD = Card(
    name="two",
    title="Two",
    structures=(Structure("disc", "#56B4E9", 1), Structure("cup", "#E69F00", 2, "disc")),
    architecture="resunet",
    channels=1,
    weights_sha256="0" * 64,
)


def canvas(size: int = 60) -> QImage:
    image = QImage(size, size, QImage.Format.Format_ARGB32_Premultiplied)
    image.fill(QColor(0, 0, 0))
    return image


def colour(image: QImage, x: int, y: int) -> tuple[int, int, int]:
    found = image.pixelColor(x, y)
    return found.red(), found.green(), found.blue()


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_a_plane_holds_the_pixels_that_the_viewer_shows(qapp, order):
    data = np.random.default_rng(0).integers(1, 99, (5, 7, 9))
    viewer = ViewerModel()
    layer = viewer.add_labels(data, scale=(3.0, 1.0, 2.0), translate=(10, -4, 2))
    viewer.dims.order = order
    viewer.dims.set_current_step(order[0], 2)
    plane = plane_in_view(viewer, layer)
    shown = np.moveaxis(data, order, (0, 1, 2))[2]
    np.testing.assert_array_equal(plane.cut(data), shown)
    # The plane's matrix leads to the same place of the world as the layer itself.
    index = np.zeros(3)
    index[order[0]], index[order[1]], index[order[2]] = 2, 3, 1
    world = np.asarray(layer.data_to_world(index))[list(order[1:])]
    np.testing.assert_allclose((plane.matrix @ (3, 1, 1))[:2], world)


def test_a_plane_outside_the_layer_is_none(qapp):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((20, 8, 8)))
    layer = viewer.add_labels(np.ones((5, 8, 8), int))
    viewer.dims.set_current_step(0, 12)
    assert plane_in_view(viewer, layer) is None


def test_a_flat_layer_in_a_stack_of_photographs_is_shown_at_every_place(qapp):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((20, 8, 8)))
    layer = viewer.add_labels(np.ones((8, 8), int))
    viewer.dims.set_current_step(0, 12)
    assert plane_in_view(viewer, layer).cut(layer.data).shape == (8, 8)


def test_the_middle_of_the_canvas_is_the_cameras_centre(qapp):
    viewer = ViewerModel()
    viewer.add_image(np.zeros((50, 80)))
    camera = camera_of(viewer)
    camera.center, camera.zoom = (0, 30, 20), 4.0
    screen = world_to_screen(viewer, QSize(300, 200))
    middle = screen.map(QPointF(20, 30))
    assert (middle.x(), middle.y()) == (150, 100)
    right_below = screen.map(QPointF(21, 31))
    assert (right_below.x(), right_below.y()) == (154, 104)


def test_a_picture_has_the_layers_colours_and_whole_pixels(qapp):
    data = np.array([[0, 100], [200, 50]], np.float32)
    layer = Image(data, contrast_limits=(0, 200), colormap="gray")
    image = canvas()
    painter = QPainter(image)
    picture_of(layer, data).draw(painter, QTransform(20, 0, 0, 20, 10, 10))
    painter.end()
    # A pixel reaches half a step to either side of its centre at 10 and 30.
    assert colour(image, 2, 2) == (0, 0, 0)
    assert colour(image, 2, 38) == (255, 255, 255)
    assert abs(colour(image, 38, 2)[0] - 128) <= 1
    assert colour(image, 45, 45) == (0, 0, 0)


def test_a_large_picture_drawn_small_keeps_its_mean(qapp):
    data = np.zeros((400, 400), np.uint8)
    data[:, ::2] = 255
    layer = Image(data, contrast_limits=(0, 255))
    image = canvas()
    painter = QPainter(image)
    picture_of(layer, data).draw(painter, QTransform(0.1, 0, 0, 0.1, 5, 5))
    painter.end()
    assert abs(colour(image, 25, 25)[0] - 128) < 12


def test_areas_are_clear_where_there_is_no_structure(qapp):
    labels = np.array([[0, 1], [2, 0]])
    image = canvas()
    painter = QPainter(image)
    fill_of(labels, {1: "#FF0000", 2: "#00FF00"}, 0.5).draw(
        painter, QTransform(20, 0, 0, 20, 10, 10)
    )
    painter.end()
    assert colour(image, 10, 10) == (0, 0, 0)
    assert abs(colour(image, 30, 10)[0] - 128) <= 1
    assert abs(colour(image, 10, 30)[1] - 128) <= 1


def test_before_and_after_are_told_apart_where_they_coincide(qapp):
    labels = np.zeros((12, 12), np.uint8)
    labels[3:9, 3:9] = 1
    mask = drawing.trace(CARD, labels, ["disc", "cup"])
    assert list(mask) == ["disc"]
    colours = {"disc": "#56B4E9"}
    where = QTransform(10, 0, 0, 10, 0, 0)
    pictures = []
    for which in (("after",), ("before",), ("after", "before")):
        image = canvas(120)
        image.fill(QColor(128, 128, 128))
        painter = QPainter(image)
        for one in which:
            drawing.draw_mask(painter, mask, colours, where, one)
        painter.end()
        row = [colour(image, x, 60) for x in range(15, 36)]
        column = [colour(image, 25, y) for y in range(40, 80)]
        pictures.append((row, column))
    grey = (128, 128, 128)
    wide = [sum(pixel != grey for pixel in row) for row, _ in pictures]
    assert wide[0] >= 2 * wide[1], "after is the thick one"
    assert len(set(pictures[0][1])) == 1, "after is solid"
    assert len(set(pictures[1][1])) > 1, "before is dashed"
    # Both at once: as wide as after, with the dashes of before in it.
    assert wide[2] == wide[0]
    assert len(set(pictures[2][1])) > 1


def test_the_smaller_structure_gets_the_border_it_shares(qapp):
    stack = np.zeros((2, 10, 10), np.uint8)
    stack[:, 1:9, 1:9] = 1
    stack[:, 4:6, 4:6] = 2
    assert drawing.drawing_order(CARD, stack) == ["disc", "cup"]


def test_outlines_are_drawn_without_pyqtgraphs_arrays_too(qapp, monkeypatch):
    labels = np.zeros((12, 12), np.uint8)
    labels[3:9, 3:9] = 1
    images = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(drawing, "PrimitiveArray", None)
        image = canvas(120)
        painter = QPainter(image)
        mask = drawing.trace(CARD, labels, ["disc"])
        drawing.draw_mask(painter, mask, {"disc": "#56B4E9"}, QTransform(), "before")
        painter.end()
        images.append(image)
    assert images[0] == images[1]


def test_planes_are_called_what_radiologists_call_them():
    labels = ("superior", "posterior", "left")
    assert [plane_name(labels, axis) for axis in range(3)] == ["axial", "coronal", "sagittal"]
    assert "z" in plane_name(("z", "y", "x"), 0)


def test_captions_fit_into_narrow_boxes(qapp):
    image = canvas(40)
    painter = QPainter(image)
    drawing.draw_caption(painter, "mask before, and much more", QRectF(0, 0, 40, 40))
    painter.end()


def test_every_kind_of_uncertainty_that_is_offered_can_be_measured():
    assert tuple(KINDS) == MEASURED


def test_labels_of_another_plugin_are_cut_as_they_are(qapp):
    layer = Labels(np.arange(24).reshape(2, 3, 4))
    viewer = ViewerModel()
    viewer.add_layer(layer)
    viewer.dims.set_current_step(0, 1)
    np.testing.assert_array_equal(plane_in_view(viewer, layer).cut(layer.data), layer.data[1])
