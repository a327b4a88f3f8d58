"""A plane of an image layer as a picture that Qt draws at any zoom, in the layer's own colours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtGui import QImage, QPainter, QTransform

_SHADES = 256


class Picture:
    """Pixels with smaller copies of themselves, so that drawing takes as long as the screen needs.

    Parameters
    ----------
    image : QImage
    """

    def __init__(self, image: QImage) -> None:
        self._levels = [image]
        self.nbytes = image.bytesPerLine() * image.height()

    def draw(self, painter: QPainter, where: QTransform) -> None:
        """Draw with pixels where they lie; ``where`` leads from (column, row) to the screen."""
        scale = math.sqrt(abs(where.determinant()))
        if scale <= 0:
            return
        level = max(0, min(6, math.floor(-math.log2(scale))))
        image = self._level(level)
        first = self._levels[0]
        painter.save()
        painter.setTransform(where, True)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform, scale < 1)
        # A pixel reaches half a step to either side of its centre.
        painter.translate(QPointF(-0.5, -0.5))
        painter.scale(first.width() / image.width(), first.height() / image.height())
        painter.drawImage(QPointF(0, 0), image)
        painter.restore()

    def _level(self, level: int) -> QImage:
        while len(self._levels) <= level:
            last = self._levels[-1]
            half = QSize(max(1, last.width() // 2), max(1, last.height() // 2))
            smooth = Qt.TransformationMode.SmoothTransformation
            self._levels.append(last.scaled(half, Qt.AspectRatioMode.IgnoreAspectRatio, smooth))
        return self._levels[level]


def picture_of(layer: Any, pixels: np.ndarray) -> Picture:
    """Return a plane of an image layer, with the layer's contrast, gamma and colours.

    Parameters
    ----------
    layer : Image
    pixels : ndarray, shape (H, W) or (H, W, 3 or 4)
    """
    low, high = (float(limit) for limit in layer.contrast_limits)
    span = high - low or 1.0
    if layer.rgb:
        colours = pixels[..., :3]
        if colours.dtype != np.uint8:
            top = 255.0 if np.issubdtype(colours.dtype, np.floating) else 255.0 / span
            shift = 0.0 if np.issubdtype(colours.dtype, np.floating) else low
            colours = np.clip((colours.astype(np.float32) - shift) * top, 0, 255).astype(np.uint8)
        return Picture(_own(colours, QImage.Format.Format_RGB888))
    shades = (pixels.astype(np.float32) - low) * ((_SHADES - 1) / span)
    shades = np.clip(np.nan_to_num(shades), 0, _SHADES - 1).astype(np.uint8)
    ramp = np.linspace(0, 1, _SHADES) ** float(layer.gamma)
    table = np.round(np.asarray(layer.colormap.map(ramp)) * 255).astype(np.uint8)
    return Picture(_own(table[shades][..., :3], QImage.Format.Format_RGB888))


def fill_of(label_map: np.ndarray, colours: dict[int, str], opacity: float) -> Picture:
    """Return a label map (H, W) as coloured areas; value 0 is clear."""
    table = np.zeros((256, 4), np.float32)
    for value, colour in colours.items():
        parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        # Red, green and blue are multiplied with the opacity beforehand.
        table[value] = (*(part * opacity for part in parts), 255 * opacity)
    pixels = np.round(table).astype(np.uint8)[np.asarray(label_map, dtype=np.uint8)]
    return Picture(_own(pixels, QImage.Format.Format_RGBA8888_Premultiplied))


def _own(pixels: np.ndarray, kind: QImage.Format) -> QImage:
    """Return an image with memory of its own."""
    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    return QImage(pixels.tobytes(), width, height, pixels.strides[0], kind).copy()
